/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - one timeline: a prompt goes in whole, tokens come out one at a time.
 *
 * A token that was drawn is evaluated only when the next one is asked for, so the last one costs
 * nothing.  Between prompts everything that a prompt reserved is given back; the decode loop itself
 * allocates nothing.
 */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

enum { THREAD_MAX = 256 }; /* half of what a pool of ggml takes (GGML_MAX_N_THREADS) */

struct ft_session_params ft_session_defaults(void) {
    return (struct ft_session_params){
        .n_predict = 256,
        .sampling = { .top_p = 1.0f, .repeat_penalty = 1.0f, .repeat_last_n = 64 },
    };
}

/* ---- construction ---- */

static ft_status copy_text(const char **text, struct ft_error *err) {
    if (*text) {
        *text = ft_strdup(*text);
        return *text ? FT_OK : ft_fail(err, FT_NOMEM, 0, "no memory for session parameters");
    }
    return FT_OK;
}

static ft_status copy_params(ft_session *s, const struct ft_session_params *params,
                             struct ft_error *err) {
    s->params = *params;
    s->params.sampling.bias = NULL; /* the sampler has its own copy */
    s->params.sampling.grammar = NULL;
    s->params.prompt = s->params.kv = s->params.kv_type = NULL;
    if (!s->params.n_thread) {
        s->params.n_thread = FT_MIN(ft_cpu_count(), (uint32_t)THREAD_MAX);
    }
    const char *prompt = params->prompt, *kv = params->kv, *kv_type = params->kv_type;
    if (params->is_auto && !prompt && !kv && (s->draft || params->self_layers)) {
        prompt = "specpc"; /* what a draft is for when nothing was said */
    }
    FT_TRY(copy_text(&prompt, err));
    s->params.prompt = prompt;
    FT_TRY(copy_text(&kv, err));
    s->params.kv = kv;
    FT_TRY(copy_text(&kv_type, err));
    s->params.kv_type = kv_type;
    return FT_OK;
}

static ft_status check_numbers(const ft_session *s, struct ft_error *err) {
    const struct ft_session_params *p = &s->params;
    if (p->n_thread < 1 || p->n_thread > THREAD_MAX) {
        return ft_fail(err, FT_ARG, 0, "threads is %u, expected 1..%d", p->n_thread, THREAD_MAX);
    }
    if (p->rope_scale != 0.0f && !(p->rope_scale >= 1.0f && p->rope_scale <= 1024.0f)) {
        return ft_fail(err, FT_ARG, 0, "rope scale is %g, expected 1..1024", (double)p->rope_scale);
    }
    uint64_t trained = ft_pair_context(s->target, p->rope_scale);
    if (p->n_ctx > trained) {
        return ft_fail(
            err, FT_LIMIT, 0,
            "context of %u tokens is beyond the trained context of the target: %llu tokens "
            "(--rope-scale extends it)",
            p->n_ctx, (unsigned long long)trained);
    }
    if (p->self_layers && (s->draft || p->self_layers >= s->lane.hp->n_layer)) {
        return ft_fail(err, FT_ARG, 0, "self:layers is %u, expected 1..%u and no other draft",
                       p->self_layers, s->lane.hp->n_layer - 1);
    }
    return FT_OK;
}

/* A method that needs a draft, or a draft's text, must have it. */
static ft_status check_draft(const ft_session *s, const struct ft_choice *choice,
                             struct ft_error *err) {
    const struct ft_method *method = choice->method;
    bool has_draft = s->draft || s->params.self_layers;
    uint32_t lookahead = 0;
    if (method->needs_draft && !has_draft) {
        return ft_fail(err, FT_ARG, 0,
                       "%s needs a draft model, none was given (-d FILE or -d self:layers=K)",
                       method->name);
    }
    bool needs_text =
        method->needs_draft_text ||
        (method->act == FT_PROMPT && ft_choice_uint(choice, "lookahead", &lookahead) &&
         lookahead != FT_UNSET && lookahead > 1);
    if (needs_text && !s->draft && s->params.self_layers) {
        return ft_fail(
            err, FT_ARG, 0,
            "%s needs text written by a draft; self:layers=%u has no output layer of its own",
            method->name, s->params.self_layers);
    }
    return FT_OK;
}

ft_status ft_session_policy(ft_session *s, const struct ft_session_params *params,
                            struct ft_error *err) {
    s->lane.hp = ft_model_hparams(s->target);
    FT_TRY(copy_params(s, params, err));
    FT_TRY(ft_choice_parse(FT_STAGE_PROMPT, s->params.prompt, &s->prompt, err));
    FT_TRY(ft_choice_parse(FT_STAGE_KV, s->params.kv, &s->kv, err));
    FT_TRY(ft_formats_init(s, err));
    FT_TRY(check_numbers(s, err));
    if (s->kv.method->writes_itself && s->prompt.method->act == FT_PROMPT) {
        return ft_fail(err, FT_ARG, 0, "%s answers the whole prompt: it goes without --prompt %s",
                       s->kv.method->name, s->prompt.method->name);
    }
    if (s->params.is_exact && ft_choice_split(&s->kv)->budget == FT_BUDGET_ADA) {
        return ft_fail(err, FT_ARG, 0,
                       "%s: budget=ada with exact: stock attention needs heads of one length",
                       s->kv.method->name);
    }
    if (s->params.is_exact && s->kv.method->is_capped) {
        return ft_fail(err, FT_ARG, 0,
                       "%s with exact: heads keep as many rows as votes say, stock attention needs "
                       "heads of one length",
                       s->kv.method->name);
    }
    FT_TRY(check_draft(s, &s->prompt, err));
    FT_TRY(check_draft(s, &s->kv, err));
    FT_TRY(ft_report_kernels(s, err)); /* a strict run is refused before anything is loaded */
    return s->draft ? ft_pair_check(s->target, s->draft, err) : FT_OK;
}

void ft_session_policy_done(ft_session *s) {
    ft_choice_done(&s->prompt);
    ft_choice_done(&s->kv);
    ft_free(s->packing);
    ft_free((void *)(uintptr_t)s->params.prompt);
    ft_free((void *)(uintptr_t)s->params.kv);
    ft_free((void *)(uintptr_t)s->params.kv_type);
}

/* What only a session asks of a model: an estimate may be made of one that was opened for its
 * vocabulary. */
static ft_status check_weights(const ft_session *s, struct ft_error *err) {
    struct ft_model_info info;
    ft_model_info(s->target, &info);
    if (s->params.is_exact && info.repacked_bytes > 0) {
        return ft_fail(err, FT_ARG, 0,
                       "exact: %s has repacked weights, expected a model opened plain", info.path);
    }
    return FT_OK;
}

static ft_status open_parts(ft_session *s, const struct ft_session_params *params,
                            struct ft_error *err) {
    FT_TRY(ft_session_policy(s, params, err));
    FT_TRY(check_weights(s, err));
    FT_TRY(ft_sampler_new(s->target, &params->sampling, &s->sampler, err));
    struct ft_lane_params lane = {
        .model = s->target,
        .n_layer = s->lane.hp->n_layer,
        .n_thread = s->params.n_thread,
        .format = s->format,
        .is_exact = s->params.is_exact,
        .rope_scale = s->params.rope_scale,
        .is_cancelled = &s->is_cancelled,
        .progress = s->params.progress,
        .progress_user = s->params.progress_user,
        .phase = FT_PHASE_PREFILL,
    };
    FT_TRY(ft_lane_open(&s->lane, &lane, err));
    s->logits = ft_alloc(s->lane.hp->n_vocab, sizeof *s->logits);
    return s->logits ? FT_OK
                     : ft_fail(err, FT_NOMEM, 0, "no memory for %u logits", s->lane.hp->n_vocab);
}

ft_status ft_session_new(const ft_model *target, const ft_model *draft,
                         const struct ft_session_params *params, ft_session **out,
                         struct ft_error *err) {
    ft_session *s = ft_alloc(1, sizeof *s);
    if (!s) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for a session");
    }
    s->target = target;
    s->draft = draft;
    ft_status status = open_parts(s, params, err);
    if (status != FT_OK) {
        ft_session_free(s);
        return status;
    }
    *out = s;
    return FT_OK;
}

void ft_session_free(ft_session *s) {
    if (!s) {
        return;
    }
    ft_decoding_done(s);
    ft_lane_close(&s->lane);
    ft_sampler_free(s->sampler);
    ft_session_policy_done(s);
    ft_free(s->logits);
    ft_free(s->kept);
    ft_free(s->score);
    ft_free(s->kv_score);
    ft_free(s);
}

/* ---- prompt ---- */

static void forget(ft_session *s) {
    ft_decoding_done(s);
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        ft_kv_release(s->lane.kv, l);
    }
    s->has_logits = s->has_pending = false;
    s->n_kept = 0;
    s->n_left = 0;
    ft_free(s->kv_score);
    s->kv_score = NULL;
    s->lane.rows.peak = s->lane.rows.now;
    s->lane.activation.peak = s->lane.activation.now;
    ft_sampler_reset(s->sampler);
}

static ft_status check_ids(const ft_model *model, const char *who, const ft_token *id, uint32_t n,
                           struct ft_error *err) {
    uint32_t n_vocab = ft_model_hparams(model)->n_vocab;
    if (n == 0) {
        return ft_fail(err, FT_ARG, 0, "the prompt is empty, expected at least one token");
    }
    for (uint32_t t = 0; t < n; t++) {
        if (id[t] < 0 || (uint32_t)id[t] >= n_vocab) {
            return ft_fail(err, FT_ARG, t, "token %u is %d, expected 0..%u, the ids of the %s", t,
                           id[t], n_vocab - 1, who);
        }
    }
    return FT_OK;
}

static void begin(ft_session *s, uint32_t n) {
    atomic_store(&s->is_cancelled, false);
    forget(s);
    ft_report_begin(s, n);
}

/* All that is known before anything is computed. */
static ft_status plan_prompt(ft_session *s, const ft_token *id, uint32_t n, uint32_t n_head,
                             struct ft_error *err) {
    FT_TRY(s->params.is_auto ? ft_auto_plan(s, n, n_head, err) : ft_pair_plan(s, n, n_head, err));
    if (s->plan.n_step > 0 &&
        ft_pair_draft(s) != s->target) { /* its padded tail may be the shorter one */
        FT_TRY(check_ids(ft_pair_draft(s), "draft", id, n, err));
    }
    FT_TRY(ft_report_kernels(s, err));
    FT_TRY(ft_estimate_check(s, err));
    ft_report_settings(s);
    return FT_OK;
}

static ft_status run_prompt(ft_session *s, const ft_token *id, uint32_t n_head,
                            struct ft_error *err) {
    struct ft_draft_result draft = { 0 };
    ft_status status = s->plan.n_step > 0 ? ft_compress_draft(s, id, &draft, err) : FT_OK;
    if (status == FT_OK) {
        status = ft_compress_prompt(s, draft.score, n_head, err);
    }
    if (status == FT_OK) {
        status = ft_compress_prefill(s, id, &draft, err);
    }
    ft_draft_result_done(&draft);
    return status;
}

/* A failure leaves no prompt. */
static void end(ft_session *s, ft_status status, const ft_token *id, uint32_t n) {
    s->report.kv_bytes_peak = s->lane.rows.peak;
    s->report.activation_bytes_peak =
        FT_MAX(s->report.activation_bytes_peak, s->lane.activation.peak);
    s->report.compute_bytes_peak =
        FT_MAX(s->report.compute_bytes_peak, ft_eval_compute_bytes(s->lane.eval));
    if (status != FT_OK) {
        forget(s);
        return;
    }
    s->pos_next = s->plan.pos_first;
    s->pos_kept_end = s->plan.pos_first;
    if (s->plan.is_kv_on && s->plan.kv_look.refeed) { /* rows fed again are not kept ones */
        s->pos_kept_end = ft_kv_pos(s->lane.kv, 0, 0)[ft_kv_rows(s->lane.kv, 0, 0) - 1];
    }
    s->n_left = s->plan.n_answer;
    s->has_logits = true;
    ft_sampler_see(s->sampler, id, n);
}

static uint64_t bytes_needed(const ft_session *s) {
    struct ft_run_bytes need;
    ft_estimate_run(s, &s->plan, &need);
    return need.total;
}

/* Those of `other` that can take their rows out of the prefill that s has planned, as long as there
 * were memory for runs of their own at the same time. */
static uint32_t find_mates(const ft_session *s, ft_session *const *other, uint32_t n_other,
                           bool *is_shared, const ft_token *id, uint32_t n, uint32_t n_head,
                           ft_session **mate) {
    uint64_t taken = bytes_needed(s), available = ft_memory_available();
    uint32_t n_mate = 0;
    for (uint32_t i = 0; i < n_other; i++) {
        if (plan_prompt(other[i], id, n, n_head, NULL) == FT_OK && ft_share_may(s, other[i]) &&
            taken + bytes_needed(other[i]) <= available) {
            taken += bytes_needed(other[i]);
            is_shared[i] = true;
            mate[n_mate++] = other[i];
        }
    }
    return n_mate;
}

static ft_status run_shared(ft_session *s, const ft_token *id, uint32_t n, uint32_t n_head,
                            struct ft_error *err) {
    ft_status status = run_prompt(s, id, n_head, err);
    end(s, status, id, n);
    for (uint32_t i = 0; i < s->n_mate; i++) {
        if (status == FT_OK) {
            status = ft_compress_mate(s, s->mate[i], id, err);
        }
        end(s->mate[i], status, id, n);
    }
    for (uint32_t i = 0; i < s->n_mate && status != FT_OK; i++) {
        forget(s);
        forget(s->mate[i]);
    }
    return status;
}

/* The clock of several sessions at once says nothing: the parts do. */
static void tell_shared(struct ft_report *report, uint32_t n_shared) {
    report->n_shared = n_shared;
    report->ttft_us = report->draft_us + report->score_us + report->prefill_us;
}

ft_status ft_session_prompt_shared(ft_session *s, ft_session *const *other, uint32_t n_other,
                                   bool *is_shared, const ft_token *id, uint32_t n, uint32_t n_head,
                                   struct ft_error *err) {
    int64_t start = ft_time_us();
    begin(s, n);
    for (uint32_t i = 0; i < n_other; i++) {
        begin(other[i], n);
        is_shared[i] = false;
    }
    ft_session **mate = ft_alloc((size_t)n_other + 1, sizeof(ft_session *));
    ft_status status = mate ? check_ids(s->target, "target", id, n, err)
                            : ft_fail(err, FT_NOMEM, 0, "no memory for %u sessions", n_other);
    if (status == FT_OK) {
        n_head = FT_MIN(FT_MAX(n_head, (uint32_t)(id[0] == ft_model_bos(s->target))), n);
        status = plan_prompt(s, id, n, n_head, err);
    }
    if (status == FT_OK) {
        s->mate = mate;
        s->n_mate = find_mates(s, other, n_other, is_shared, id, n, n_head, mate);
        status = run_shared(s, id, n, n_head, err);
        s->report.ttft_us = status == FT_OK ? ft_time_us() - start : 0;
        for (uint32_t i = 0; i < s->n_mate; i++) {
            tell_shared(&s->report, s->n_mate + 1);
            tell_shared(&mate[i]->report, s->n_mate + 1);
        }
    } else {
        end(s, status, id, n);
    }
    s->mate = NULL;
    s->n_mate = 0;
    ft_free(mate);
    return status;
}

ft_status ft_session_prompt(ft_session *s, const ft_token *id, uint32_t n, uint32_t n_head,
                            struct ft_error *err) {
    return ft_session_prompt_shared(s, NULL, 0, NULL, id, n, n_head, err);
}

/* ---- going on ---- */

static ft_status evaluate_all(ft_session *s, const ft_token *id, uint32_t n, float *logits,
                              uint32_t n_logit, struct ft_error *err) {
    ft_pos pos[FT_CHUNK];
    /* what leaves behind one token depends on it: no two are evaluated together then */
    uint32_t n_most = s->decoding.is_evicting ? 1 : FT_CHUNK;
    for (uint32_t first = 0; first < n; first += n_most) {
        uint32_t n_now = FT_MIN(n_most, n - first);
        for (uint32_t t = 0; t < n_now; t++) {
            pos[t] = s->pos_next + (ft_pos)t;
        }
        bool is_last = first + n_now == n;
        struct ft_feed feed = {
            .id = id + first, .pos = pos, .n = n_now, .watch = s->decoding.watch
        };
        feed.n_logit = n_logit == n ? n_now : is_last ? 1 : 0;
        feed.logits = n_logit == n ? logits + (size_t)first * s->lane.hp->n_vocab : logits;
        FT_TRY(ft_decoding_before(s, err));
        FT_TRY(ft_lane_feed(&s->lane, &feed, err));
        FT_TRY(ft_decoding_behind(s, err));
        s->pos_next += (ft_pos)n_now;
        s->n_left -= n_now;
    }
    return FT_OK;
}

/* What a failure leaves behind (rows made but not written) is no timeline to go on with. */
static ft_status evaluate(ft_session *s, const ft_token *id, uint32_t n, float *logits,
                          uint32_t n_logit, struct ft_error *err) {
    ft_status status = evaluate_all(s, id, n, logits, n_logit, err);
    if (status != FT_OK) {
        forget(s);
    }
    return status;
}

/* May n tokens be evaluated, and n_drawn more be asked for? */
static ft_status check_room(ft_session *s, uint32_t n, uint32_t n_drawn, struct ft_error *err) {
    if (atomic_load(&s->is_cancelled)) {
        return ft_fail(err, FT_CANCELLED, 0, "cancelled");
    }
    if (!s->has_logits) {
        return ft_fail(err, FT_ARG, 0, "the session has no prompt to go on with");
    }
    /* the last token of a full context is drawn, as nothing has to be seen at its position */
    bool is_used_up = s->plan.n_answer == s->params.n_predict && n + n_drawn > s->n_left;
    if (n <= s->n_left && !is_used_up) {
        return FT_OK;
    }
    bool is_context = s->plan.n_answer < s->params.n_predict &&
                      s->report.n_generated + n_drawn <= s->params.n_predict;
    if (is_context) {
        FT_TRY(ft_report_fallback(
            s, err, "stopped: the context of the target is full at position %d", s->pos_next));
    }
    return ft_fail(err, FT_LIMIT, 0,
                   is_context ? "the context is full at position %d"
                              : "the token limit is used up at position %d",
                   s->pos_next);
}

ft_status ft_session_next(ft_session *s, ft_token *id, struct ft_error *err) {
    FT_TRY(check_room(s, s->has_pending, 1, err));
    if (s->has_pending) {
        int64_t start = ft_time_us();
        s->has_pending = false;
        FT_TRY(evaluate(s, &s->pending, 1, s->logits, 1, err));
        s->report.decode_us += ft_time_us() - start;
    }
    FT_TRY(ft_sampler_draw(s->sampler, s->logits, s->report.n_generated, &s->pending, err));
    ft_sampler_accept(s->sampler, s->pending);
    s->has_pending = true;
    s->report.n_generated++;
    *id = s->pending;
    return FT_OK;
}

ft_status ft_session_feed(ft_session *s, const ft_token *id, uint32_t n, float *logits,
                          struct ft_error *err) {
    FT_TRY(check_ids(s->target, "target", id, n, err));
    FT_TRY(check_room(s, n + s->has_pending, 0, err));
    if (s->has_pending) {
        s->has_pending = false;
        FT_TRY(evaluate(s, &s->pending, 1, s->logits, 1, err));
    }
    size_t n_vocab = s->lane.hp->n_vocab;
    FT_TRY(evaluate(s, id, n, logits ? logits : s->logits, logits ? n : 1, err));
    if (logits) {
        memcpy(s->logits, logits + (n - 1) * n_vocab, n_vocab * sizeof *logits);
    }
    ft_sampler_see(s->sampler, id, n);
    return FT_OK;
}

/* ---- repeated rows ---- */

/* -> rows of every head of every layer, or FT_ARG when they differ. */
static ft_status rows_held(const ft_session *s, uint32_t *n, struct ft_error *err) {
    const struct ft_kv *kv = s->lane.kv;
    *n = ft_kv_rows(kv, 0, 0);
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        for (uint32_t h = 0; h < s->lane.hp->n_head_kv; h++) {
            if (ft_kv_rows(kv, l, h) != *n) {
                return ft_fail(err, FT_ARG, 0,
                               "layer %u head %u holds %u rows, layer 0 head 0 %u: only equal "
                               "numbers can be repeated",
                               l, h, ft_kv_rows(kv, l, h), *n);
            }
        }
    }
    return FT_OK;
}

/* Rows [n, n_row) of a layer become copies of [0, n), as those decode: rows that are not packed
 * encode to themselves (in blocks of bytes: very nearly).
 *   from     [2][n_head_kv][n][d] scratch */
static ft_status repeat_layer(ft_session *s, uint32_t layer, uint32_t n, uint32_t n_row,
                              const ft_pos *pos, float *from, struct ft_error *err) {
    struct ft_kv *kv = s->lane.kv;
    uint32_t n_head = s->lane.hp->n_head_kv, d = s->lane.hp->head_dim;
    size_t one = (size_t)n * d, all = one * n_head;
    for (uint32_t h = 0; h < n_head; h++) {
        ft_kv_read(kv, layer, h, from + h * one, from + all + h * one);
    }
    for (uint32_t first = n, more; first < n_row; first += more) {
        more = FT_MIN(n_row - first, (uint32_t)FT_KV_ROOM);
        FT_TRY(ft_kv_extend(kv, layer, pos + (first - n), more, err));
        for (uint32_t row = first; row < first + more; row++) {
            for (uint32_t h = 0; h < n_head; h++) {
                const float *k = from + h * one + (size_t)(row % n) * d;
                ft_kv_write(kv, layer, h, row, k, k + all);
            }
        }
        ft_kv_settle(kv, layer);
    }
    return FT_OK;
}

static ft_status repeat_rows(ft_session *s, uint32_t n, uint32_t n_row, const ft_pos *pos,
                             struct ft_error *err) {
    struct ft_kv *kv = s->lane.kv;
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        if (ft_kv_cap(kv, l) < n_row) { /* nothing has changed yet */
            return ft_fail(err, FT_LIMIT, 0, "repeat: %u rows asked for, layer %u has room for %u",
                           n_row, l, ft_kv_cap(kv, l));
        }
    }
    size_t n_float = (size_t)2 * s->lane.hp->n_head_kv * n * s->lane.hp->head_dim;
    float *from = ft_alloc(n_float, sizeof *from);
    ft_status status = from ? FT_OK
                            : ft_fail_memory(err, n_float * sizeof *from, "copies of %u rows", n);
    for (uint32_t l = 0; status == FT_OK && l < s->lane.n_layer; l++) {
        status = repeat_layer(s, l, n, n_row, pos, from, err);
    }
    ft_free(from);
    return status;
}

/* Could the method's rows stay, if one asked for it? */
static bool has_decode(const struct ft_method *method) {
    const struct ft_param *param;
    for (uint32_t i = 0; (param = ft_method_param(method, i)) != NULL; i++) {
        if (!strcmp(param->name, "decode")) {
            return true;
        }
    }
    return false;
}

ft_status ft_session_repeat(ft_session *s, uint32_t n_row, struct ft_error *err) {
    uint32_t n = 0;
    if (!s->has_logits) {
        return ft_fail(err, FT_ARG, 0, "the session has no prompt whose rows could be repeated");
    }
    if (s->decoding.is_evicting) {
        return ft_fail(err, FT_ARG, 0, "repeat: %s drops rows at every step%s, no depth is reached",
                       s->kv.method->name, has_decode(s->kv.method) ? " (decode=on)" : "");
    }
    FT_TRY(rows_held(s, &n, err));
    if (n == 0 || n_row < n) {
        return ft_fail(err, FT_ARG, 0, "repeat: %u rows asked for, %u are held", n_row, n);
    }
    if ((uint64_t)n_row - n + s->has_pending > s->n_left) {
        return ft_fail(err, FT_LIMIT, 0,
                       "repeat: %u rows asked for and %u are held, room for %u more tokens "
                       "(what n_predict and the context leave)",
                       n_row, n, s->n_left - FT_MIN(s->n_left, (uint32_t)s->has_pending));
    }
    if (n_row == n) {
        return FT_OK;
    }
    ft_pos *pos = ft_alloc(n_row - n, sizeof *pos);
    if (!pos) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for the positions of %u rows", n_row - n);
    }
    for (uint32_t j = 0; j < n_row - n; j++) {
        pos[j] = s->pos_next + (ft_pos)j;
    }
    ft_status status = repeat_rows(s, n, n_row, pos, err);
    ft_free(pos);
    if (status == FT_OK) {
        s->pos_next += (ft_pos)(n_row - n);
        s->n_left -= n_row - n;
    }
    return status;
}

const float *ft_session_logits(const ft_session *s) {
    return s->has_logits ? s->logits : NULL;
}

void ft_session_cancel(ft_session *s) {
    atomic_store_explicit(&s->is_cancelled, true, memory_order_relaxed);
}

/* ---- looking back ---- */

void ft_session_report(const ft_session *s, struct ft_report *out) {
    *out = s->report;
    if (s->has_logits) { /* the answer's rows count too */
        out->kv_bytes_peak = s->lane.rows.peak;
        out->kv_bytes_now = s->lane.rows.now;
        out->n_evicted = s->decoding.n_evicted;
        out->compute_bytes_peak =
            FT_MAX(out->compute_bytes_peak, ft_eval_compute_bytes(s->lane.eval));
    }
}

uint32_t ft_session_scores(const ft_session *s, const float **score) {
    if (!s->has_logits || !s->score) {
        return 0;
    }
    *score = s->score;
    return s->plan.n_prompt;
}

uint32_t ft_session_kv_scores(const ft_session *s, uint32_t layer, uint32_t head,
                              const float **score) {
    uint32_t n_head = s->lane.hp->n_head_kv;
    if (!s->has_logits || !s->kv_score || layer >= s->lane.n_layer || head >= n_head) {
        return 0;
    }
    *score = s->kv_score + ((size_t)layer * n_head + head) * s->n_kv_score;
    return s->n_kv_score;
}

uint32_t ft_session_kept(const ft_session *s, enum ft_stage stage, uint32_t layer, uint32_t head,
                         const uint32_t **index) {
    if (!s->has_logits) {
        return 0;
    }
    if (stage == FT_STAGE_PROMPT) {
        *index = s->kept;
        return s->n_kept;
    }
    if (layer >= s->lane.n_layer || head >= s->lane.hp->n_head_kv) {
        return 0;
    }
    const ft_pos *pos = ft_kv_pos(s->lane.kv, layer, head);
    uint32_t n = 0;
    while (n < ft_kv_rows(s->lane.kv, layer, head) && pos[n] < s->pos_kept_end) {
        n++;
    }
    *index = (const uint32_t *)pos; /* positions are never negative */
    return n;
}
