/* SPDX-License-Identifier: Apache-2.0 */
/* pair.c - may these models and this prompt go together, and what exactly will be run.
 *
 * Everything that can be refused is refused here, before any work: vocabularies that differ,
 * prompts beyond a trained context, budgets that cannot hold what must stay.  Everything that is
 * chosen is said aloud.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "model/vocab.h"

enum { MEAN_HEADS = 8 }; /* TaDA gains where a mean is shared by so many */

ft_status ft_pair_check(const ft_model *target, const ft_model *draft, struct ft_error *err) {
    return ft_vocab_compare(target, draft, err);
}

uint64_t ft_pair_context(const ft_model *model, float rope_scale) {
    double n = ft_model_hparams(model)->n_ctx_train;
    n = rope_scale > 1.0f ? floor(n * (double)rope_scale) : n;
    return n < INT32_MAX ? (uint64_t)n : INT32_MAX; /* more than an ft_pos counts */
}

const ft_model *ft_pair_draft(const ft_session *s) {
    return s->draft && !s->kv.method->writes_itself ? s->draft : s->target;
}

uint32_t ft_pair_draft_layers(const ft_session *s) {
    bool is_whole = s->draft || s->kv.method->writes_itself;
    return is_whole ? ft_model_hparams(ft_pair_draft(s))->n_layer : s->params.self_layers;
}

static uint64_t target_context(const ft_session *s) {
    uint64_t trained = ft_pair_context(s->target, s->params.rope_scale);
    return s->params.n_ctx ? FT_MIN((uint64_t)s->params.n_ctx, trained) : trained;
}

static uint64_t draft_context(const ft_session *s) {
    return ft_pair_context(ft_pair_draft(s), s->params.rope_scale);
}

static struct ft_facts facts_of(const ft_session *s, uint32_t n_input, uint32_t n_layer) {
    struct ft_kv_shape shape = { .n_layer = s->lane.hp->n_layer,
                                 .n_head_kv = s->lane.hp->n_head_kv,
                                 .d = s->lane.hp->head_dim,
                                 .k_fmt = s->format.k_fmt,
                                 .v_fmt = s->format.v_fmt };
    struct ft_facts facts = { .n_prompt = n_input,
                              .n_layer = n_layer,
                              .n_predict = s->params.n_predict,
                              .token_bytes = ft_kv_token_bytes(&shape) };
    if (ft_kv_format_is_packed(&s->format)) {
        facts.block_rows = FT_BLOCK_ROW;
        facts.block_bytes = ft_formats_block_bytes(s);
        facts.residual = s->format.residual;
    }
    return facts;
}

/* Nothing to drop: a fallback, unless dense is one of the answers that were asked for. */
static ft_status report_within(ft_session *s, const struct ft_choice *choice, uint32_t n,
                               uint32_t keep, struct ft_error *err) {
    const char *name = choice->method->name;
    if (choice->method->is_capped && !s->params.is_auto) {
        return ft_report_fallback(s, err, "%s: dense, none of the first %u rows leaves", name,
                                  keep);
    }
    bool is_prompt = choice->method->act == FT_PROMPT;
    if (s->params.is_auto) {
        char *text = s->report.automatic.text;
        snprintf(text, sizeof s->report.automatic.text,
                 "%s has nothing to drop, %u tokens are "
                 "within keep=%u: dense",
                 name, n, keep);
        return FT_OK;
    }
    return is_prompt
               ? ft_report_fallback(s, err, "%s: dense, the prompt of %u tokens is within keep=%u",
                                    name, n, keep)
               : ft_report_fallback(s, err, "%s: dense, %u tokens are within keep=%u", name, n,
                                    keep);
}

static ft_status plan_prompt(ft_session *s, uint32_t n_head, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    const struct ft_choice *choice = &s->prompt;
    plan->n_input = plan->n_prompt;
    if (choice->method->act != FT_PROMPT || s->is_dense_chosen) {
        return FT_OK;
    }
    struct ft_facts facts = facts_of(s, plan->n_prompt, ft_pair_draft_layers(s));
    plan->prompt_facts = facts;
    plan->prompt_keep = ft_choice_keep(choice, &facts);
    if (plan->n_prompt <= plan->prompt_keep && !s->is_shortcut_off) {
        return report_within(s, choice, plan->n_prompt, plan->prompt_keep, err);
    }
    FT_TRY(ft_choice_budget_check(choice, &facts, err));
    choice->method->look(choice->params, &facts, &plan->prompt_look);
    plan->prompt_keep = FT_MIN(plan->prompt_keep, plan->n_prompt);
    uint32_t n_must = plan->prompt_look.is_protecting ? n_head : 0;
    if ((uint64_t)n_must + plan->prompt_look.window > plan->prompt_keep) {
        return ft_fail(err, FT_LIMIT, 0,
                       "%s: %u protected tokens and a window of %u exceed keep=%u",
                       choice->method->name, n_must, plan->prompt_look.window, plan->prompt_keep);
    }
    plan->is_prompt_on = true;
    plan->n_input = plan->prompt_keep;
    plan->n_step = choice->method->needs_draft ? FT_MAX(plan->prompt_look.lookahead, 1) : 0;
    return FT_OK;
}

/* Where the first answer token stands, with n_input known. */
static uint32_t position_behind(const struct ft_plan *plan) {
    bool is_compact = !plan->is_prompt_on || plan->prompt_look.is_compact;
    return is_compact ? plan->n_input : plan->n_prompt;
}

static uint32_t answer_most(const ft_session *s, uint32_t n_pos) {
    uint64_t context = target_context(s), room = context > n_pos ? context - n_pos : 0;
    return (uint32_t)FT_MIN((uint64_t)s->params.n_predict, room);
}

/* So many rows are held before the first one may leave: as many as the budget says, or as votes spare
 * where that is less. */
static uint32_t rows_before(const ft_session *s, const struct ft_look *look) {
    uint32_t keep = s->plan.kv_keep;
    return s->kv.method->is_capped ? FT_MIN(keep, look->n_spared) : keep;
}

/* The prompt is within that, but prompt and answer are not, and rows leave at every step. */
static bool is_reached_later(const ft_session *s, const struct ft_look *look) {
    const struct ft_plan *plan = &s->plan;
    uint64_t n_row = (uint64_t)plan->n_input + answer_most(s, position_behind(plan));
    return look->is_evicting && n_row > rows_before(s, look);
}

/* Rows that leave at every step, and rows that count as standing elsewhere. */
static ft_status plan_steps(ft_session *s, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    struct ft_look *look = &plan->kv_look;
    plan->kv_aux = look->is_evicting ? s->kv.method->n_aux : 0;
    plan->kv_vote_cost = look->n_observed > 0 ? s->kv.method->observe_cost : 1;
    if (s->kv.method->is_capped) { /* no more rows than there will be tokens */
        uint64_t most = (uint64_t)plan->n_input + answer_most(s, position_behind(plan));
        plan->kv_limit = (uint32_t)FT_MIN((uint64_t)plan->kv_limit, most);
        plan->is_kv_capped = true;
    }
    if (look->is_compact && plan->is_prompt_on && !plan->prompt_look.is_compact) {
        look->is_compact = false;
        return ft_report_fallback(s, err,
                                  "%s: positions=original, the tokens that %s kept are not "
                                  "contiguous",
                                  s->kv.method->name, s->prompt.method->name);
    }
    return FT_OK;
}

static bool has_param(const struct ft_method *method, const char *name) {
    const struct ft_param *param;
    for (uint32_t i = 0; (param = ft_method_param(method, i)) != NULL; i++) {
        if (strcmp(param->name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* What changes rows while the answer grows needs them one by one. */
static ft_status check_packing(const struct ft_method *method, const struct ft_look *look,
                               const struct ft_kv_format *format, const char *kv_type,
                               struct ft_error *err) {
    bool is_packed = ft_kv_format_is_packed(format) || format->is_joint;
    if (!is_packed || (!look->is_evicting && !look->is_compact)) {
        return FT_OK;
    }
    const char *out = look->is_evicting && !has_param(method, "decode") ? ""
                      : look->is_evicting && look->is_compact ? "decode=off,positions=original, or "
                      : look->is_evicting                     ? "decode=off, or "
                                                              : "positions=original, or ";
    return ft_fail(err, FT_ARG, 0,
                   "%s with kv type '%s': %s, but rows are packed in blocks of %d that none "
                   "leaves; expected %sa kv type such as q8_0",
                   method->name, kv_type,
                   look->is_evicting ? "rows leave at every step (decode=on)"
                                     : "keys are rotated anew (positions=compact)",
                   FT_BLOCK_ROW, out);
}

/* Heads that share means keep the same rows. */
static ft_status check_means(const struct ft_choice *choice, const struct ft_look *look,
                             const struct ft_kv_format *format, const char *kv_type,
                             struct ft_error *err) {
    const struct ft_method *method = choice->method;
    bool is_alike = method->score == NULL;
    if (!is_alike && look->is_layer_wide) {
        const struct ft_split *split = ft_choice_split(choice);
        is_alike = split->budget != FT_BUDGET_ADA && split->rank != FT_RANK_CRITICAL;
    }
    return !format->is_mean || is_alike
               ? FT_OK
               : ft_fail(err, FT_ARG, 0,
                         "%s with kv type '%s': each head keeps rows of its own, but a mean over "
                         "the heads is kept while any of them needs it; expected a method that "
                         "treats heads alike (dense, tova without budget=ada and rank=critical)",
                         method->name, kv_type);
}

/* A mean takes as much as one head in f16: few heads do not pay for it. */
static ft_status report_means(ft_session *s, struct ft_error *err) {
    uint32_t n_head = s->lane.hp->n_head_kv;
    struct ft_kv_shape shape = { .n_layer = 1, .n_head_kv = n_head, .d = s->lane.hp->head_dim };
    double full = (double)FT_BLOCK_ROW * n_head * shape.d * 2 * sizeof(uint16_t) * s->lane.n_layer;
    double plain = 0, centred = 0;
    if (!s->format.is_mean || n_head >= MEAN_HEADS) {
        return FT_OK;
    }
    for (uint32_t l = 0; l < s->lane.n_layer; l++) { /* which may differ in bits */
        struct ft_packing packing = { .k = s->packing[l].k, .v = s->packing[l].v };
        plain += (double)ft_kv_packed_bytes(&shape, &packing, FT_BLOCK_ROW);
        packing.is_mean = true;
        centred += (double)ft_kv_packed_bytes(&shape, &packing, FT_BLOCK_ROW);
    }
    return ft_report_fallback(
        s, err,
        "means over %u KV heads take 1/%u of f16: packed rows are %.1f %% of f16, %.1f %% without "
        "means (they pay from %d heads on)",
        n_head, n_head, 100 * centred / full, 100 * plain / full, MEAN_HEADS);
}

/* keep, and what it is in packed rows where bits are chosen with it. */
static uint32_t plan_keep(ft_session *s, struct ft_facts *facts) {
    ft_formats_joint(s, 1);
    *facts = facts_of(s, s->plan.n_input, s->lane.hp->n_layer);
    uint32_t keep = ft_choice_keep(&s->kv, facts);
    if (!s->format.is_joint) {
        return keep;
    }
    ft_formats_joint(s, (double)keep / FT_MAX(s->plan.n_input, 1));
    struct ft_amount bytes = { FT_AMOUNT_BYTES, (double)keep * (double)facts->token_bytes };
    *facts = facts_of(s, s->plan.n_input, s->lane.hp->n_layer);
    facts->keep = FT_MAX(ft_amount_rows(&bytes, facts), 1);
    return facts->keep;
}

ft_status ft_kv_check(const char *kv, const char *kv_type, struct ft_error *err) {
    /* whether rows leave at every step, or are rotated anew, is said by the method's parameters;
     * numbers that depend on a run are of no interest here */
    const struct ft_facts facts = { .n_prompt = 1, .n_layer = 1, .n_predict = 1, .token_bytes = 1 };
    struct ft_kv_format format;
    struct ft_choice choice;
    struct ft_look look = { 0 };
    FT_TRY(ft_kv_format_parse(kv_type, &format, err));
    FT_TRY(ft_choice_parse(FT_STAGE_KV, kv, &choice, err));
    if (choice.method->look) {
        choice.method->look(choice.params, &facts, &look);
    }
    ft_status status = check_packing(choice.method, &look, &format, kv_type, err);
    if (status == FT_OK) {
        status = check_means(&choice, &look, &format, kv_type, err);
    }
    ft_choice_done(&choice);
    return status;
}

static ft_status plan_kv(ft_session *s, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    const struct ft_choice *choice = &s->kv;
    if (choice->method->act != FT_RETAIN || choice->method->score == NULL || s->is_dense_chosen) {
        ft_formats_joint(s, 1);
        return FT_OK;
    }
    struct ft_facts facts;
    plan->kv_keep = plan_keep(s, &facts);
    plan->kv_facts = facts;
    plan->kv_limit = plan->kv_keep;
    struct ft_look seen;
    choice->method->look(choice->params, &facts, &seen);
    FT_TRY(check_packing(choice->method, &seen, &s->format, s->params.kv_type, err));
    FT_TRY(check_means(choice, &seen, &s->format, s->params.kv_type, err));
    uint32_t n_before = rows_before(s, &seen);
    /* votes have nothing to say about a prompt that they spare, whether or not it was to be asked */
    bool is_within =
        plan->n_input <= n_before && (!s->is_shortcut_off || choice->method->is_capped);
    if (is_within && !s->is_shortcut_off && !is_reached_later(s, &seen)) {
        return report_within(s, choice, plan->n_input, n_before, err);
    }
    FT_TRY(ft_choice_budget_check(choice, &facts, err));
    plan->kv_look = seen;
    FT_TRY(plan_steps(s, err));
    if (is_within) {
        plan->kv_keep = FT_MIN(plan->n_input, plan->kv_limit);
        plan->is_kv_on = plan->is_kv_whole = true;
        return FT_OK;
    }
    plan->kv_keep = FT_MIN(plan->kv_keep, plan->n_input - plan->kv_look.refeed);
    const struct ft_look *look = &plan->kv_look;
    plan->kv_layers =
        ft_split_layers(ft_choice_split(choice), plan->kv_keep - look->window,
                        plan->n_input - look->window - look->refeed, plan->n_input, facts.n_layer);
    uint32_t asked = 0;
    if (ft_choice_uint(choice, "prefill_vertical", &asked) &&
        asked < plan->kv_look.prefill_vertical) {
        FT_TRY(ft_report_fallback(
            s, err, "%s: prefill_vertical raised from %u to %u, keep=%u does not fit the pattern",
            choice->method->name, asked, plan->kv_look.prefill_vertical, plan->kv_keep));
    }
    plan->is_kv_on = true;
    bool has_text = choice->method->needs_draft_text || choice->method->writes_itself;
    plan->n_text = has_text ? FT_MAX(plan->kv_look.lookahead, 1) : 0;
    plan->n_trial = choice->method->has_trial ? plan->kv_look.lookahead : 0;
    plan->is_critical = ft_choice_split(choice)->rank == FT_RANK_CRITICAL;
    return FT_OK;
}

/* A context that the prompt fills has no position for look-ahead text: the KV stage is dense then.
 * (With auto dense is one of the answers: it asks for that plan itself.) */
static ft_status check_text(ft_session *s, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    uint32_t n_ahead = FT_MAX(plan->n_text, plan->n_trial);
    if (n_ahead == 0 || (uint64_t)plan->pos_first < target_context(s)) {
        return FT_OK;
    }
    if (s->params.is_auto) {
        return ft_fail(err, FT_LIMIT, plan->n_prompt,
                       "%d tokens leave no position for look-ahead text", plan->pos_first);
    }
    FT_TRY(ft_report_fallback(s, err, "%s: dense, %d tokens leave no position for look-ahead text",
                              s->kv.method->name, plan->pos_first));
    plan->is_kv_on = plan->is_critical = false;
    plan->kv_look = (struct ft_look){ 0 };
    plan->n_text = plan->n_trial = 0;
    ft_formats_joint(s, 1);
    return FT_OK;
}

static ft_status report_reduced(ft_session *s, uint64_t asked, uint64_t room,
                                struct ft_error *err) {
    return ft_report_fallback(
        s, err, "lookahead reduced from %" PRIu64 " to %" PRIu64 ", the context ends there", asked,
        room);
}

/* A trial's text has positions of the target alone. */
static ft_status plan_trial(ft_session *s, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    uint64_t room = target_context(s) - (uint64_t)plan->pos_first;
    if (plan->n_trial <= room) {
        return FT_OK;
    }
    FT_TRY(report_reduced(s, plan->n_trial, room, err));
    plan->n_trial = (uint32_t)room;
    return FT_OK;
}

/* The draft's text stands behind the prompt in both models: its positions must be trained ones. */
static ft_status plan_text(ft_session *s, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    uint64_t room = UINT64_MAX, asked = FT_MAX(plan->n_text, plan->n_step);
    if (plan->n_text > 0) {
        room = target_context(s) - (uint64_t)plan->pos_first;
    }
    uint64_t draft_room =
        draft_context(s) - plan->n_prompt + 1; /* its last token is not evaluated */
    room = FT_MIN(room, draft_room);
    if (asked <= room) {
        plan->n_step = (uint32_t)asked;
        return FT_OK;
    }
    FT_TRY(report_reduced(s, asked, room, err));
    plan->n_text = (uint32_t)FT_MIN(plan->n_text, room);
    plan->prompt_look.lookahead = (uint32_t)FT_MIN(plan->prompt_look.lookahead, room);
    plan->n_step = (uint32_t)room;
    return FT_OK;
}

static ft_status check_positions(const ft_session *s, const char *who, const ft_model *model,
                                 uint64_t n, uint64_t limit, struct ft_error *err) {
    if (n <= limit) {
        return FT_OK;
    }
    struct ft_model_info info;
    ft_model_info(model, &info);
    bool is_asked = s->params.n_ctx && limit < ft_pair_context(model, s->params.rope_scale);
    return ft_fail(err, FT_LIMIT, limit,
                   "prompt of %" PRIu64 " tokens is beyond the %s of the %s: %" PRIu64 " tokens%s",
                   n, is_asked ? "requested context" : "trained context", who, limit,
                   is_asked ? "" : " (--rope-scale extends it)");
}

ft_status ft_pair_plan(ft_session *s, uint32_t n_prompt, uint32_t n_head, struct ft_error *err) {
    struct ft_plan *plan = &s->plan;
    *plan = (struct ft_plan){ .n_prompt = n_prompt };
    FT_TRY(report_means(s, err));
    FT_TRY(plan_prompt(s, n_head, err));
    FT_TRY(plan_kv(s, err));
    uint32_t n_pos = position_behind(plan);
    FT_TRY(check_positions(s, "target", s->target, n_pos, target_context(s), err));
    plan->pos_first = (ft_pos)n_pos;
    FT_TRY(check_text(s, err));
    FT_TRY(plan_trial(s, err));
    if (FT_MAX(plan->n_text, plan->n_step) > 0) { /* the draft runs */
        FT_TRY(check_positions(s, "draft", ft_pair_draft(s), n_prompt, draft_context(s), err));
        FT_TRY(plan_text(s, err));
    }
    uint64_t room = target_context(s) - (uint64_t)plan->pos_first;
    plan->n_answer = answer_most(s, n_pos);
    /* The last token is drawn and never read.  Others learn of a full context when they get there;
     * a strict run must not begin an answer that may have to be cut. */
    if (s->params.is_strict && s->params.n_predict > room + 1) {
        return ft_report_fallback(
            s, err, "the context leaves room for %" PRIu64 " of the %u tokens asked for", room + 1,
            s->params.n_predict);
    }
    return FT_OK;
}
