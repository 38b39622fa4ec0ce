/* SPDX-License-Identifier: Apache-2.0 */
/* compress.c - the stages of a prompt: the draft reads, scores become a choice, the target's
 * prefill applies it.
 *
 *   draft     evidence of the prompt stage (scores [n_prompt]) and text for the KV stage, in one
 *             run on the full prompt
 *   prompt    scores -> tokens that the target will read
 *   prefill   dense, or dropping rows: the target reads the prompt (++ text, where a method looks
 *             ahead) and every layer's evidence decides which of its rows stay.  With text the last
 *             prompt token is fed again, so that the first logits come from it.  A method that tries
 *             a choice first has a prefill of its own: trial.c
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* ---- the draft ---- */

void ft_draft_result_done(struct ft_draft_result *result) {
    ft_free(result->text);
    ft_free(result->score);
    *result = (struct ft_draft_result){ 0 };
}

struct drafting { /* one run of the draft */
    ft_session *s;
    struct ft_lane lane;
    const ft_token *id;
    ft_pos *pos;            /* [n_prompt + n_step] */
    float *weight;          /* [window] ramp of the voting rows */
    float *logits;          /* [n_vocab] */
    struct ft_watch *watch; /* [n_layer] evidence of one further step */
    float *mass, *lse;      /* [n_layer][n_head_kv, or n_head][n_prompt], [n_layer][n_head] */
    struct ft_folding folding;
    struct ft_draft_result *out;
    uint32_t n_id; /* ids below this may be drafted */
};

static ft_status decide_draft(void *user, uint32_t layer, float *column, struct ft_decision *out,
                              struct ft_error *err) {
    struct drafting *d = user;
    (void)layer;
    (void)out;
    (void)err;
    ft_folding_layer(&d->folding, column);
    return FT_OK;
}

ft_token ft_compress_greedy(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t t = 1; t < n; t++) {
        if (logits[t] > logits[best]) {
            best = t;
        }
    }
    return (ft_token)best;
}

/* Does the draft's attention choose the prompt's tokens? */
static bool is_voting(const struct ft_plan *plan) {
    return plan->is_prompt_on && plan->prompt_look.column == FT_COLUMN_MASS;
}

static ft_status drafting_init(struct drafting *d, struct ft_error *err) {
    const ft_session *s = d->s;
    const struct ft_plan *plan = &s->plan;
    const ft_model *model = ft_pair_draft(s);
    const struct ft_hparams *hp = ft_model_hparams(model);
    struct ft_lane_params params = {
        .model = model,
        .n_layer = ft_pair_draft_layers(s),
        .n_thread = s->params.n_thread,
        .format = { .k_fmt = s->format.k_fmt, .v_fmt = s->format.v_fmt },
        .is_exact = s->params.is_exact,
        .rope_scale = s->params.rope_scale,
        .is_cancelled = &d->s->is_cancelled,
        .progress = s->params.progress,
        .progress_user = s->params.progress_user,
        .phase = FT_PHASE_DRAFT,
    };
    FT_TRY(ft_lane_open(&d->lane, &params, err));
    uint32_t window = plan->prompt_look.window;
    d->n_id = FT_MIN(hp->n_vocab_real, ft_model_hparams(s->target)->n_vocab_real);
    d->pos = ft_alloc((size_t)plan->n_prompt + plan->n_step, sizeof *d->pos);
    d->weight = ft_alloc(window + 1, sizeof *d->weight);
    d->logits = ft_alloc(hp->n_vocab, sizeof *d->logits);
    d->out->text = ft_alloc(plan->n_text + 1, sizeof *d->out->text);
    if (!d->pos || !d->weight || !d->logits || !d->out->text) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for the draft's buffers of %u tokens",
                       plan->n_prompt);
    }
    for (uint32_t t = 0; t < plan->n_prompt + plan->n_step; t++) {
        d->pos[t] = (ft_pos)t;
    }
    for (uint32_t i = 0; i < window; i++) {
        d->weight[i] = ft_ramp_weight(plan->prompt_look.ramp, i, window);
    }
    return is_voting(plan) ? ft_folding_init(&d->folding, &plan->prompt_look, hp->n_head,
                                             hp->n_head_kv, plan->n_prompt, err)
                           : FT_OK;
}

static void drafting_done(struct drafting *d) {
    ft_lane_close(&d->lane);
    ft_free(d->pos);
    ft_free(d->weight);
    ft_free(d->logits);
    ft_free(d->watch);
    ft_free(d->mass);
    ft_free(d->lse);
    ft_folding_done(&d->folding);
}

/* Evidence of single steps: every layer's share is read when the whole graph has run. */
static ft_status watch_init(struct drafting *d, struct ft_error *err) {
    const struct ft_look *look = &d->s->plan.prompt_look;
    const struct ft_hparams *hp = d->lane.hp;
    bool is_per_head = look->head_pool > 0;
    size_t n = d->s->plan.n_prompt, n_layer = d->lane.n_layer,
           per_layer = n * (is_per_head ? hp->n_head : hp->n_head_kv);
    d->watch = ft_alloc(n_layer, sizeof *d->watch);
    d->mass = ft_alloc(n_layer * per_layer, sizeof *d->mass);
    d->lse = ft_alloc(n_layer * d->lane.hp->n_head, sizeof *d->lse);
    if (!d->watch || !d->mass || !d->lse) {
        return ft_fail_memory(err, n_layer * per_layer * sizeof *d->mass,
                              "the draft's evidence (%zu layers x %zu tokens)", n_layer, n);
    }
    for (size_t l = look->layer_first; l < n_layer; l++) {
        d->watch[l] = (struct ft_watch){ .mass = d->mass + l * per_layer,
                                         .lse = d->lse + l * d->lane.hp->n_head,
                                         .n_col = (uint32_t)n,
                                         .red = ft_reduce_of(look->fold),
                                         .is_per_head = is_per_head };
    }
    return FT_OK;
}

static ft_status step_draft(struct drafting *d, ft_token id, uint32_t t, bool is_voting,
                            struct ft_error *err) {
    const struct ft_look *look = &d->s->plan.prompt_look;
    uint32_t vis = d->s->plan.n_prompt + (look->is_prompt_only ? 0 : t + 1);
    for (uint32_t l = 0; is_voting && l < d->lane.n_layer; l++) {
        d->watch[l].vis = &vis;
    }
    struct ft_feed feed = { .id = &id,
                            .pos = &d->pos[d->s->plan.n_prompt + t],
                            .n = 1,
                            .n_logit = 1,
                            .logits = d->logits,
                            .watch = is_voting ? d->watch : NULL };
    FT_TRY(ft_lane_feed(&d->lane, &feed, err));
    for (uint32_t l = look->layer_first; is_voting && l < d->lane.n_layer; l++) {
        ft_folding_layer(&d->folding, d->watch[l].mass);
    }
    if (is_voting) {
        ft_folding_step(&d->folding);
    }
    return FT_OK;
}

/* Greedy text; an end token stops it and is kept, as its query is a voter too. */
static ft_status write_text(struct drafting *d, struct ft_error *err) {
    const struct ft_plan *plan = &d->s->plan;
    const ft_model *model = ft_pair_draft(d->s);
    uint32_t n_vote = is_voting(plan) ? plan->prompt_look.lookahead : 1;
    if (n_vote > 1) {
        FT_TRY(watch_init(d, err));
    }
    for (uint32_t t = 0; t < plan->n_step; t++) {
        ft_token id = ft_compress_greedy(d->logits, d->n_id);
        if (t < plan->n_text) {
            d->out->text[d->out->n_text++] = id;
        }
        if (ft_token_is_end(model, id) || t + 1 == plan->n_step) {
            break;
        }
        FT_TRY(step_draft(d, id, t, t + 1 < n_vote, err));
    }
    return FT_OK;
}

static ft_status run_draft(struct drafting *d, int64_t *score_us, struct ft_error *err) {
    const struct ft_plan *plan = &d->s->plan;
    FT_TRY(drafting_init(d, err));
    bool wants_steps = plan->n_text > 0 || plan->n_step > 1;
    struct ft_prefill prefill = {
        .id = d->id,
        .pos = d->pos,
        .n = plan->n_prompt,
        .n_more = plan->n_step,
        .logits = wants_steps ? d->logits : NULL,
        .is_staged = !wants_steps,
        .is_evidence_only = !wants_steps,
        .decide = is_voting(plan) ? decide_draft : NULL,
        .user = d,
        .column = plan->prompt_look.column,
        .layer_first = plan->prompt_look.layer_first,
        .n_voter = plan->prompt_look.window,
        .n_col = plan->n_prompt,
        .weight = d->weight,
        .red = ft_reduce_of(plan->prompt_look.fold),
        .is_per_head = plan->prompt_look.head_pool > 0,
    };
    FT_TRY(ft_lane_prefill(&d->lane, &prefill, err));
    *score_us = prefill.score_us;
    ft_folding_step(&d->folding);
    if (wants_steps) {
        FT_TRY(write_text(d, err));
    }
    d->out->score = ft_folding_end(&d->folding);
    return FT_OK;
}

ft_status ft_compress_draft(ft_session *s, const ft_token *id, struct ft_draft_result *out,
                            struct ft_error *err) {
    struct drafting d = { .s = s, .id = id, .out = out };
    int64_t start = ft_time_us(), score_us = 0;
    ft_status status = run_draft(&d, &score_us, err);
    s->report.draft_kv_bytes_peak = d.lane.rows.peak;
    s->draft_work = d.lane.work;
    s->report.activation_bytes_peak =
        FT_MAX(s->report.activation_bytes_peak, d.lane.activation.peak);
    if (d.lane.eval) {
        s->report.compute_bytes_peak =
            FT_MAX(s->report.compute_bytes_peak, ft_eval_compute_bytes(d.lane.eval));
    }
    drafting_done(&d);
    s->report.n_draft_text = out->n_text;
    s->report.score_us += score_us;
    s->report.draft_us = ft_time_us() - start - score_us;
    return status;
}

/* ---- the prompt stage ---- */

static ft_status choose_tokens(ft_session *s, const float *score, uint32_t n_head, uint32_t *work,
                               struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    const struct ft_method *method = s->prompt.method;
    struct ft_budget budget = { .keep = plan->prompt_keep, .n_prompt = plan->n_prompt };
    uint32_t *must = work + ft_keep_work(plan->n_prompt); /* the last part of the scratch */
    if (plan->prompt_look.is_protecting) {
        for (uint32_t t = 0; t < n_head; t++) {
            must[t] = t;
        }
        budget.must = must;
        budget.n_must = n_head;
    }
    struct ft_evidence evidence = { .n_row = plan->n_prompt, .mass = score };
    method->score(&evidence, s->prompt.params, s->score);
    s->n_kept = method->keep(s->score, s->prompt.params, &budget, work, s->kept);
    if (s->n_kept != plan->n_input) {
        return ft_fail(err, FT_INTERNAL, 0, "%s kept %u tokens, expected %u", method->name,
                       s->n_kept, plan->n_input);
    }
    return FT_OK;
}

ft_status ft_compress_prompt(ft_session *s, const float *score, uint32_t n_head,
                             struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    int64_t start = ft_time_us();
    ft_free(s->kept);
    ft_free(s->score);
    s->score = NULL;
    s->kept = ft_alloc(plan->n_input, sizeof *s->kept);
    if (!s->kept) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for the list of %u kept tokens", plan->n_input);
    }
    if (!plan->is_prompt_on) {
        for (uint32_t t = 0; t < plan->n_input; t++) {
            s->kept[t] = t;
        }
        s->n_kept = plan->n_input;
        return FT_OK;
    }
    s->score = ft_alloc(plan->n_prompt, sizeof *s->score);
    uint32_t *work = ft_alloc(ft_keep_work(plan->n_prompt) + n_head + 1, sizeof *work);
    ft_status status =
        s->score && work
            ? choose_tokens(s, score, n_head, work, err)
            : ft_fail(err, FT_NOMEM, 0, "no memory to choose among %u tokens", plan->n_prompt);
    ft_free(work);
    s->report.score_us += ft_time_us() - start;
    return status;
}

/* ---- the KV stage ---- */

struct deciding { /* one prefill's decisions; buffers are reused by every layer */
    ft_session *s;
    struct ft_chooser chooser;
    bool is_sparse;
    uint32_t n_vote_col, n_voter;   /* of the evidence: with state, of the window's rows too */
    struct ft_rows *rows;           /* [n_head_kv] into the chooser's lists */
    uint32_t *vertical;             /* [n_head_kv][n_vertical] ascending */
    const uint32_t **vertical_list; /* [n_head_kv] */
    uint32_t *vertical_count;       /* [n_head_kv] */
    struct ft_slash slash;
    uint32_t *leaving;   /* [n_head_kv][n_input] where evict says what leaves */
    int64_t us, keep_us; /* spent on decisions; on a mate's rows */
    struct deciding *mate; /* [s->n_mate] of those that take their rows out of the same prefill */
    float *column;         /* [n_column] a layer's evidence for one of them to write on, or NULL */
    size_t n_column;
};

static void deciding_done(struct deciding *d) {
    ft_chooser_done(&d->chooser);
    ft_free(d->rows);
    ft_free(d->vertical);
    ft_free(d->vertical_list);
    ft_free(d->vertical_count);
    ft_free(d->leaving);
    for (uint32_t i = 0; d->mate && i < d->s->n_mate; i++) {
        deciding_done(&d->mate[i]);
    }
    ft_free(d->mate);
    ft_free(d->column);
}

static ft_status deciding_init(struct deciding *d, ft_session *s, uint32_t n_read,
                               struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    const struct ft_look *look = &plan->kv_look;
    uint32_t n_head_kv = s->lane.hp->n_head_kv;
    const struct ft_votes votes = ft_votes_of(s, n_read);
    uint32_t n_col = plan->n_input - look->window - look->refeed;
    *d = (struct deciding){
        .s = s, .is_sparse = votes.is_sparse, .n_vote_col = votes.n_col, .n_voter = votes.n_voter
    };
    struct ft_chooser_params params = {
        .choice = &s->kv,
        .look = *look,
        .n_layer = s->lane.n_layer,
        .n_head = n_head_kv,
        .n_prompt = plan->n_input,
        .n_voter = d->n_voter,
        .keep = plan->kv_keep,
        .n_vertical = d->is_sparse ? FT_MIN(look->prefill_vertical, n_col) : 0,
    };
    FT_TRY(ft_chooser_init(&d->chooser, &params, err));
    d->rows = ft_alloc(n_head_kv, sizeof *d->rows);
    d->vertical = ft_alloc((size_t)n_head_kv * params.n_vertical + 1, sizeof *d->vertical);
    d->vertical_list = ft_alloc(n_head_kv, sizeof *d->vertical_list);
    d->vertical_count = ft_alloc(n_head_kv, sizeof *d->vertical_count);
    d->leaving =
        plan->is_kv_capped ? ft_alloc((size_t)n_head_kv * plan->n_input, sizeof *d->leaving) : NULL;
    if ((plan->is_kv_capped && !d->leaving) || !d->rows || !d->vertical || !d->vertical_list ||
        !d->vertical_count) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to choose among %u rows", n_col);
    }
    return FT_OK;
}

/* The same for those that take their rows out of this prefill. */
static ft_status mates_init(struct deciding *d, const struct ft_prefill *prefill,
                            struct ft_error *err) {
    const ft_session *s = d->s;
    const struct ft_hparams *hp = s->lane.hp;
    if (s->n_mate == 0) {
        return FT_OK;
    }
    bool has_evidence = prefill->column != FT_COLUMN_NONE;
    d->n_column = (size_t)(prefill->is_per_head ? hp->n_head : hp->n_head_kv) * prefill->n_col;
    d->mate = ft_alloc(s->n_mate, sizeof *d->mate);
    d->column = has_evidence ? ft_alloc(d->n_column, sizeof *d->column) : NULL;
    if (!d->mate || (has_evidence && !d->column)) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to choose for %u sessions", s->n_mate);
    }
    for (uint32_t i = 0; i < s->n_mate; i++) {
        FT_TRY(deciding_init(&d->mate[i], s->mate[i], prefill->n, err));
    }
    return FT_OK;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Evidence of [n_head][n_from] rows becomes that of the first n_to of each head, in place. */
static void pack(float *column, uint32_t n_head, uint32_t n_from, uint32_t n_to) {
    for (uint32_t h = 1; n_to < n_from && h < n_head; h++) {
        memmove(column + (size_t)h * n_to, column + (size_t)h * n_from, n_to * sizeof *column);
    }
}

void ft_compress_note(const ft_session *s, const struct ft_chooser *c, uint32_t layer) {
    if (s->kv_score) {
        size_t n = (size_t)c->p.n_head * c->n_col;
        memcpy(s->kv_score + layer * n, c->pooled, n * sizeof *s->kv_score);
    }
}

ft_status ft_compress_norms(struct ft_lane *lane, struct ft_chooser *c, uint32_t layer,
                            const struct ft_kv *kv, uint32_t kv_layer, struct ft_error *err) {
    return c->output_norm
               ? ft_lane_output_norms(lane, layer, kv, kv_layer, c->n_col, c->output_norm, err)
               : FT_OK;
}

/* The rows of head h that evict lets stay, in place of the chooser's.
 *   weight   of the last voter */
static void keep_capped(const struct deciding *d, uint32_t layer, uint32_t h, float *weight) {
    const struct ft_chooser *c = &d->chooser;
    uint32_t n = d->n_vote_col, *leaving = d->leaving + (size_t)h * n;
    uint32_t n_drop = ft_decoding_leave(d->s, layer, h, n, weight, n, leaving);
    uint32_t *kept = c->kept + (size_t)h * c->kept_cap, count = 0, at = 0;
    ft_assert(n_drop <= n && n - n_drop <= c->kept_cap);
    for (uint32_t j = 0; j < n; j++) {
        if (at < n_drop && leaving[at] == j) {
            at++;
        } else {
            kept[count++] = j;
        }
    }
    c->n_kept[h] = count;
}

/* A voter alone, which sees all rows up to its own; behind the last one a capped method decides. */
static void observe(void *user, uint32_t layer, uint32_t h, uint32_t voter, float *weight) {
    const struct deciding *d = user;
    uint32_t n_row = d->n_vote_col - d->n_voter + voter + 1;
    ft_decoding_observe(d->s, layer, h, n_row, weight, d->n_vote_col);
    if (d->leaving && voter + 1 == d->n_voter) {
        keep_capped(d, layer, h, weight);
    }
}

/* What a layer's voters gave becomes the state of its rows. */
static void begin_state(const struct deciding *d, uint32_t layer, float *column) {
    const struct ft_hparams *hp = d->s->lane.hp;
    if (d->s->kv.method->observe) {
        return; /* it has been told of each of them */
    }
    if (d->s->plan.kv_look.is_group_max) {
        ft_group_max(column, hp->n_head, hp->n_head_kv, d->n_vote_col);
    }
    ft_decoding_begin(d->s, layer, column, d->n_vote_col, d->n_voter);
}

static ft_status decide(struct deciding *d, uint32_t layer, float *column, struct ft_decision *out,
                        struct ft_error *err) {
    int64_t start = ft_time_us();
    struct ft_chooser *c = &d->chooser;
    uint32_t n_vertical = c->p.n_vertical;
    begin_state(d, layer, column);
    if (d->s->kv.method->observe) {
        ft_decoding_column(d->s, layer, column, c->n_col);
    } else if (c->p.look.column == FT_COLUMN_MASS) {
        pack(column, c->p.n_head, d->n_vote_col, c->n_col);
    }
    ft_chooser_score(c, layer, column);
    ft_compress_note(d->s, c, layer);
    FT_TRY(ft_compress_norms(&d->s->lane, c, layer, d->s->lane.stage, 0, err));
    if (!d->leaving) {
        ft_chooser_keep(c, layer);
    }
    for (uint32_t h = 0; h < c->p.n_head; h++) {
        d->rows[h] =
            (struct ft_rows){ .row = c->kept + (size_t)h * c->kept_cap, .n = c->n_kept[h] };
        uint32_t *vertical = d->vertical + (size_t)h * n_vertical;
        memcpy(vertical, c->ranked + (size_t)h * c->rank_cap, n_vertical * sizeof *vertical);
        qsort(vertical, n_vertical, sizeof *vertical, ascending);
        d->vertical_list[h] = vertical;
        d->vertical_count[h] = n_vertical;
    }
    d->slash = (struct ft_slash){ .window = c->p.look.prefill_window,
                                  .vertical = d->vertical_list,
                                  .n_vertical = d->vertical_count };
    out->keep = d->rows;
    out->slash = d->is_sparse ? &d->slash : NULL;
    d->us += ft_time_us() - start;
    return FT_OK;
}

/* Rows to reserve behind those that stay: what nobody uses costs nothing, and a capped head may come to
 * hold more than at first. */
static uint32_t room_behind(const struct ft_plan *plan) {
    return plan->kv_look.refeed + ft_decoding_room(plan) + (plan->is_kv_capped ? plan->kv_keep : 0);
}

/* A mate's rows, out of the layer that stands in `stage`. */
static ft_status decide_mate(struct deciding *d, uint32_t layer, float *column, struct ft_kv *stage,
                             struct ft_error *err) {
    struct ft_lane *lane = &d->s->lane;
    struct ft_decision decision;
    int64_t n_staged = (int64_t)ft_kv_bytes(stage);
    lane->stage = stage; /* as if it had read the layer */
    ft_gauge_add(&lane->rows, n_staged);
    ft_status status = decide(d, layer, column, &decision, err);
    int64_t start = ft_time_us();
    if (status == FT_OK) {
        status = ft_lane_keep(lane, layer, stage, decision.keep, room_behind(&d->s->plan), err);
    }
    ft_gauge_add(&lane->rows, -n_staged);
    lane->stage = NULL;
    d->keep_us += ft_time_us() - start;
    return status;
}

static ft_status decide_target(void *user, uint32_t layer, float *column, struct ft_decision *out,
                               struct ft_error *err) {
    struct deciding *d = user;
    for (uint32_t i = 0; i < d->s->n_mate; i++) {
        float *own = d->column;
        if (own) {
            memcpy(own, column, d->n_column * sizeof *own);
        }
        FT_TRY(decide_mate(&d->mate[i], layer, own, d->s->lane.stage, err));
    }
    return decide(d, layer, column, out, err);
}

/* Nothing leaves yet: only the rows' state begins. */
static ft_status decide_later(void *user, uint32_t layer, float *column, struct ft_decision *out,
                              struct ft_error *err) {
    (void)out;
    (void)err;
    begin_state(user, layer, column);
    return FT_OK;
}

struct input { /* what the target reads: kept tokens, then the draft's text */
    ft_token *id;
    ft_pos *pos;
    uint32_t n;
};

static ft_status input_init(struct input *in, const ft_session *s, const ft_token *id,
                            const struct ft_draft_result *draft, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    uint32_t n_text = plan->is_kv_on ? draft->n_text : 0;
    in->n = plan->n_input + n_text;
    in->id = ft_alloc(in->n, sizeof *in->id);
    in->pos = ft_alloc(in->n, sizeof *in->pos);
    if (!in->id || !in->pos) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for %u token ids", in->n);
    }
    bool is_compact = !plan->is_prompt_on || plan->prompt_look.is_compact;
    for (uint32_t t = 0; t < plan->n_input; t++) {
        in->id[t] = id[s->kept[t]];
        in->pos[t] = (ft_pos)(is_compact ? t : s->kept[t]);
    }
    for (uint32_t t = 0; t < n_text; t++) {
        in->id[plan->n_input + t] = draft->text[t];
        in->pos[plan->n_input + t] = plan->pos_first + (ft_pos)t;
    }
    return FT_OK;
}

/* The last prompt token once more, behind the rows that stay: its logits are the first. */
static ft_status feed_again(ft_session *s, ft_token id, ft_pos pos, struct ft_error *err) {
    struct ft_feed again = { .id = &id, .pos = &pos, .n = 1, .n_logit = 1, .logits = s->logits };
    return ft_lane_feed(&s->lane, &again, err);
}

static uint32_t largest_head(const struct ft_kv *kv) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(kv);
    uint32_t most = 0;
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) {
        most = FT_MAX(most, ft_kv_rows(kv, at / shape->n_head_kv, at % shape->n_head_kv));
    }
    return most;
}

static void note_rows(ft_session *s) {
    s->report.kv_bytes = ft_kv_bytes(s->lane.kv);
    s->report.n_kv_kept = largest_head(s->lane.kv);
}

/* Room for the scores of all layers, where they were asked for. */
static ft_status keep_scores(ft_session *s, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    if (!s->params.is_kv_scored) {
        return FT_OK;
    }
    s->n_kv_score = plan->n_input - plan->kv_look.window - plan->kv_look.refeed;
    size_t n = (size_t)s->lane.n_layer * s->lane.hp->n_head_kv * s->n_kv_score;
    s->kv_score = ft_alloc(n, sizeof *s->kv_score);
    return s->kv_score ? FT_OK
                       : ft_fail_memory(err, n * sizeof *s->kv_score, "the scores of %u rows",
                                        s->n_kv_score);
}

/* Evidence is everybody's, a decision one's own.
 *   us   on both */
static void share_times(struct deciding *d, int64_t us) {
    int64_t common = us - d->us;
    for (uint32_t i = 0; i < d->s->n_mate; i++) {
        common -= d->mate[i].us + d->mate[i].keep_us;
    }
    d->s->report.score_us += common + d->us;
    for (uint32_t i = 0; i < d->s->n_mate; i++) {
        d->mate[i].s->report.score_us = common + d->mate[i].us;
    }
}

static ft_status prefill_dropping(ft_session *s, const struct input *in, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    const struct ft_look *look = &plan->kv_look;
    const struct ft_votes votes = ft_votes_of(s, in->n);
    struct deciding deciding;
    struct ft_prefill prefill = {
        .id = in->id,
        .pos = in->pos,
        .n = in->n,
        .n_more = room_behind(plan),
        .logits = look->refeed > 0 ? NULL : s->logits,
        .is_staged = true,
        .decide = decide_target,
        .user = &deciding,
        .column = votes.column,
        .n_voter = votes.n_voter,
        .n_col = votes.n_col,
        .red = votes.red,
        .is_per_head = votes.is_per_head,
        .observe = s->kv.method->observe ? observe : NULL,
    };
    ft_status status = deciding_init(&deciding, s, in->n, err);
    if (status == FT_OK) {
        status = mates_init(&deciding, &prefill, err);
    }
    if (status == FT_OK && deciding.is_sparse && s->params.is_exact) {
        status = ft_report_fallback(
            s, err,
            "exact: the vertical-slash prefill runs on %s, stock attention has no such "
            "pattern",
            ft_kern()->name);
    }
    if (status == FT_OK) {
        status = ft_lane_prefill(&s->lane, &prefill, err);
    }
    if (status == FT_OK) {
        share_times(&deciding, prefill.score_us);
    }
    deciding_done(&deciding);
    s->report.prefill_us -= prefill.score_us;
    FT_TRY(status);
    note_rows(s);
    uint32_t last = plan->n_input - 1;
    return look->refeed > 0 ? feed_again(s, in->id[last], in->pos[last], err) : FT_OK;
}

/* All rows stay; state begins where the method that will drop rows later has some. */
static ft_status prefill_whole(ft_session *s, const struct input *in, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    struct deciding deciding = { .s = s, .n_vote_col = in->n, .n_voter = in->n };
    if (plan->kv_look.n_observed > 0) {
        deciding.n_voter = FT_MIN(plan->kv_look.n_observed, in->n);
    }
    struct ft_prefill prefill = { .id = in->id,
                                  .pos = in->pos,
                                  .n = in->n,
                                  .n_more = ft_decoding_room(plan),
                                  .logits = s->logits,
                                  .is_staged = ft_kv_format_is_packed(&s->format),
                                  .is_whole = ft_kv_format_is_packed(&s->format) };
    if (plan->kv_aux > 0) {
        prefill.decide = decide_later;
        prefill.user = &deciding;
        prefill.column = FT_COLUMN_MASS;
        prefill.n_voter = deciding.n_voter;
        prefill.n_col = in->n;
        prefill.observe = s->kv.method->observe ? observe : NULL;
        prefill.red = ft_reduce_of(plan->kv_look.fold);
        prefill.is_per_head = plan->kv_look.is_group_max;
    }
    ft_status status = ft_lane_prefill(&s->lane, &prefill, err);
    s->report.score_us += prefill.score_us;
    s->report.prefill_us -= prefill.score_us;
    s->report.kv_bytes = ft_kv_bytes(s->lane.kv);
    return status;
}

/* Before layers are read; nothing is held yet. */
static ft_status store_begin(ft_session *s, struct ft_error *err) {
    ft_kv_set_aux(s->lane.kv, s->plan.kv_aux);
    ft_formats_set(s, s->lane.kv, s->plan.n_trial == 0);
    bool is_dropping = s->plan.is_kv_on && !s->plan.is_kv_whole;
    return is_dropping ? keep_scores(s, err) : FT_OK;
}

static ft_status prefill(ft_session *s, const struct input *in, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    if (plan->n_trial > 0) {
        ft_status status = ft_trial_prefill(s, in->id, in->pos, err);
        note_rows(s);
        return status;
    }
    return plan->is_kv_on && !plan->is_kv_whole ? prefill_dropping(s, in, err)
                                                : prefill_whole(s, in, err);
}

ft_status ft_compress_prefill(ft_session *s, const ft_token *id,
                              const struct ft_draft_result *draft, struct ft_error *err) {
    const struct ft_plan *plan = &s->plan;
    int64_t start = ft_time_us();
    struct input in = { 0 };
    ft_status status = input_init(&in, s, id, draft, err);
    if (status == FT_OK) {
        status = store_begin(s, err);
    }
    for (uint32_t i = 0; i < s->n_mate && status == FT_OK; i++) {
        status = store_begin(s->mate[i], err);
    }
    if (status == FT_OK) {
        status = prefill(s, &in, err);
    }
    if (status == FT_OK) {
        status = ft_decoding_init(s, err);
    }
    ft_free(in.id);
    ft_free(in.pos);
    s->report.pack_us = ft_kv_pack_us(s->lane.kv);
    s->report.prefill_us += ft_time_us() - start;
    if (plan->is_prompt_on || plan->is_kv_on) {
        s->report.dense_most_us = ft_cost_dense_most(plan, in.n, s->report.prefill_us);
    }
    return status;
}

ft_status ft_compress_mate(const ft_session *s, ft_session *mate, const ft_token *id,
                           struct ft_error *err) {
    const struct ft_report *from = &s->report;
    struct ft_report *to = &mate->report;
    uint32_t last = mate->plan.n_input - 1; /* no token of the prompt is left out */
    FT_TRY(ft_compress_prompt(mate, NULL, 0, err));
    note_rows(mate);
    if (mate->plan.kv_look.refeed > 0) {
        FT_TRY(feed_again(mate, id[last], (ft_pos)last, err));
    } else {
        memcpy(mate->logits, s->logits, s->lane.hp->n_vocab * sizeof *s->logits);
    }
    FT_TRY(ft_decoding_init(mate, err));
    to->n_draft_text = from->n_draft_text;
    to->draft_kv_bytes_peak = from->draft_kv_bytes_peak;
    to->activation_bytes_peak = from->activation_bytes_peak;
    to->compute_bytes_peak = from->compute_bytes_peak;
    to->draft_us = from->draft_us;
    to->prefill_us = from->prefill_us;
    to->dense_most_us = from->dense_most_us;
    to->pack_us = ft_kv_pack_us(mate->lane.kv);
    return FT_OK;
}
