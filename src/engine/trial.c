/* SPDX-License-Identifier: Apache-2.0 */
/* trial.c - the prefill of a method that tries a choice of rows before it makes its own.
 *
 *   read      the whole prompt, layer by layer; all rows stay.  Of each layer SnapKV's choice is
 *             copied to the trial's store, and the queries of the last `window` tokens are kept
 *   try       behind the rows of the trial the target writes greedy text at its true positions; the
 *             queries of what it writes are kept too
 *   choose    layer by layer: all these queries vote about all rows; those that stay take the place of
 *             the trial's rows, and the layer's full rows are given back
 *
 * Rows held at the end of the text are the most there are: all of the prompt's, the trial's, and the
 * text's.  The trial's store becomes the lane's.
 */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

struct trial {
    ft_session *s;
    struct ft_choice choice;       /* SnapKV: what the trial keeps */
    struct ft_chooser first, last; /* the trial's, the method's own */
    struct ft_rows *rows;          /* [n_head_kv] into a chooser's lists */
    struct ft_kv *full, *kept;     /* all rows; the trial's, then those that stay */
    float *query;                  /* [n_layer][window + n_trial][n_head][d] */
    size_t query_stride, query_bytes;
    float *logits; /* [n_vocab] of the text */
    float *column; /* [n_head_kv][n_col] evidence of one layer */
    float *lse;    /* [n_head][n_vote] */
    uint32_t *vis; /* [n_vote] */
    uint32_t n_written;
};

static void trial_done(struct trial *t) {
    if (t->full) { /* the lane keeps its own store, whatever happened */
        t->s->lane.kv = t->full;
    }
    ft_kv_free(t->kept);
    ft_chooser_done(&t->first);
    ft_chooser_done(&t->last);
    ft_choice_done(&t->choice);
    ft_pages_unmap(t->query, t->query_bytes);
    ft_gauge_add(&t->s->lane.activation, -(int64_t)t->query_bytes);
    ft_free(t->rows);
    ft_free(t->logits);
    ft_free(t->column);
    ft_free(t->lse);
    ft_free(t->vis);
}

static ft_status choosers_init(struct trial *t, struct ft_error *err) {
    const ft_session *s = t->s;
    const struct ft_plan *plan = &s->plan;
    char spec[64];
    struct ft_facts facts = { .n_prompt = plan->n_input, .n_layer = s->lane.n_layer };
    struct ft_chooser_params params = { .choice = &t->choice,
                                        .n_layer = s->lane.n_layer,
                                        .n_head = s->lane.hp->n_head_kv,
                                        .n_prompt = plan->n_input,
                                        .keep = plan->kv_keep };
    snprintf(spec, sizeof spec, "snapkv:keep=%u,window=%u", plan->kv_keep,
             plan->kv_look.trial_window);
    FT_TRY(ft_choice_parse(FT_STAGE_KV, spec, &t->choice, err));
    t->choice.method->look(t->choice.params, &facts, &params.look);
    FT_TRY(ft_chooser_init(&t->first, &params, err));
    params.choice = &s->kv;
    params.look = plan->kv_look;
    return ft_chooser_init(&t->last, &params, err);
}

static ft_status queries_init(struct trial *t, struct ft_error *err) {
    struct ft_lane *lane = &t->s->lane;
    size_t n_vote = (size_t)t->s->plan.kv_look.window + t->s->plan.n_trial, bytes = 0;
    size_t token = (size_t)lane->hp->n_head * lane->hp->head_dim;
    if (!ft_size_mul(n_vote * lane->n_layer, token * sizeof *t->query, &bytes) ||
        !(t->query = ft_pages_map(bytes))) {
        return ft_fail_memory(err, bytes, "the queries of %zu tokens in %u layers", n_vote,
                              lane->n_layer);
    }
    t->query_stride = n_vote * token;
    t->query_bytes = bytes;
    ft_gauge_add(&lane->activation, (int64_t)bytes);
    return FT_OK;
}

static ft_status trial_init(struct trial *t, struct ft_error *err) {
    ft_session *s = t->s;
    const struct ft_hparams *hp = s->lane.hp;
    size_t n_vote = (size_t)s->plan.kv_look.window + s->plan.n_trial;
    FT_TRY(choosers_init(t, err));
    FT_TRY(queries_init(t, err));
    FT_TRY(ft_kv_new(ft_kv_shape_of(s->lane.kv), &s->lane.rows, &t->kept, err));
    t->rows = ft_alloc(hp->n_head_kv, sizeof *t->rows);
    t->logits = ft_alloc(hp->n_vocab, sizeof *t->logits);
    t->column = ft_alloc((size_t)hp->n_head_kv * t->last.n_col, sizeof *t->column);
    t->lse = ft_alloc(hp->n_head * n_vote, sizeof *t->lse);
    t->vis = ft_alloc(n_vote, sizeof *t->vis);
    if (!t->rows || !t->logits || !t->column || !t->lse || !t->vis) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for a trial of %zu voters", n_vote);
    }
    t->full = s->lane.kv; /* exact, as the trial's rows are */
    return FT_OK;
}

/* A layer of the kept store becomes a chooser's rows of the full one, with room for n_more. */
static ft_status take_rows(struct trial *t, const struct ft_chooser *c, uint32_t layer,
                           uint32_t n_more, struct ft_error *err) {
    uint32_t most = 0;
    for (uint32_t h = 0; h < c->p.n_head; h++) {
        t->rows[h] =
            (struct ft_rows){ .row = c->kept + (size_t)h * c->kept_cap, .n = c->n_kept[h] };
        most = FT_MAX(most, c->n_kept[h]);
    }
    FT_TRY(ft_kv_reserve(t->kept, layer, most + n_more, err));
    return ft_kv_gather(t->kept, layer, t->full, layer, t->rows, err);
}

/* ---- read ---- */

static ft_status decide_trial(void *user, uint32_t layer, float *column, struct ft_decision *out,
                              struct ft_error *err) {
    struct trial *t = user;
    (void)out; /* the lane keeps all rows */
    ft_chooser_score(&t->first, layer, column);
    ft_chooser_keep(&t->first, layer);
    return take_rows(t, &t->first, layer, t->s->plan.n_trial, err);
}

static ft_status read_prompt(struct trial *t, const ft_token *id, const ft_pos *pos,
                             struct ft_error *err) {
    ft_session *s = t->s;
    struct ft_prefill prefill = {
        .id = id,
        .pos = pos,
        .n = s->plan.n_input,
        .logits = s->logits,
        .decide = decide_trial,
        .user = t,
        .column = FT_COLUMN_MASS,
        .n_voter = s->plan.kv_look.trial_window,
        .n_col = t->first.n_col,
        .red = FT_REDUCE_MEAN,
        .query = t->query,
        .query_stride = t->query_stride,
        .n_query = s->plan.kv_look.window,
    };
    ft_status status = ft_lane_prefill(&s->lane, &prefill, err);
    s->report.score_us += prefill.score_us;
    s->report.prefill_us -= prefill.score_us;
    return status;
}

/* ---- try ---- */

/* One token behind the trial's rows; its query is voter `window + n_written`. */
static ft_status write_token(struct trial *t, ft_token id, bool wants_logits,
                             struct ft_error *err) {
    struct ft_lane *lane = &t->s->lane;
    size_t at = (size_t)t->s->plan.kv_look.window + t->n_written;
    ft_pos pos = t->s->plan.pos_first + (ft_pos)t->n_written;
    struct ft_feed feed = {
        .id = &id,
        .pos = &pos,
        .n = 1,
        .n_logit = wants_logits,
        .logits = wants_logits ? t->logits : NULL,
        .query = t->query + at * lane->hp->n_head * lane->hp->head_dim,
        .query_stride = t->query_stride,
    };
    FT_TRY(ft_lane_feed(lane, &feed, err));
    t->n_written++;
    return FT_OK;
}

/* Greedy text; an end token stops it and votes too. */
static ft_status write_text(struct trial *t, struct ft_error *err) {
    ft_session *s = t->s;
    uint32_t n_vocab = s->lane.hp->n_vocab_real, n = s->plan.n_trial;
    const float *logits = s->logits;
    ft_status status = FT_OK;
    int64_t start = ft_time_us();
    bool is_end = false;
    s->lane.kv = t->kept;
    while (status == FT_OK && !is_end && t->n_written < n) {
        ft_token id = ft_compress_greedy(logits, n_vocab);
        is_end = ft_token_is_end(s->target, id);
        status = write_token(t, id, !is_end && t->n_written + 1 < n, err);
        logits = t->logits;
    }
    s->lane.kv = t->full;
    s->report.n_draft_text += t->n_written;
    s->report.draft_us += ft_time_us() - start;
    s->report.prefill_us -= ft_time_us() - start;
    return status;
}

/* ---- choose ---- */

static ft_status choose_layer(struct trial *t, uint32_t layer, struct ft_error *err) {
    ft_session *s = t->s;
    struct ft_watch watch = { .vis = t->vis,
                              .mass = t->column,
                              .lse = t->lse,
                              .n_col = t->last.n_col,
                              .red = FT_REDUCE_MEAN };
    FT_TRY(ft_lane_vote(&s->lane, layer, t->query + layer * t->query_stride,
                        s->plan.kv_look.window + t->n_written, &watch, err));
    ft_chooser_score(&t->last, layer, t->column);
    ft_compress_note(s, &t->last, layer);
    FT_TRY(ft_compress_norms(&s->lane, &t->last, layer, t->full, layer, err));
    ft_chooser_keep(&t->last, layer);
    FT_TRY(take_rows(t, &t->last, layer, s->plan.n_answer, err));
    ft_kv_release(t->full, layer);
    return FT_OK;
}

static ft_status choose_rows(struct trial *t, struct ft_error *err) {
    ft_session *s = t->s;
    uint32_t window = s->plan.kv_look.window;
    int64_t start = ft_time_us();
    ft_status status = FT_OK;
    for (uint32_t i = 0; i < window + t->n_written; i++) {
        t->vis[i] = i < window ? s->plan.n_input - window + i + 1 : s->plan.n_input;
    }
    ft_formats_set(s, t->kept, true);
    for (uint32_t l = 0; status == FT_OK && l < s->lane.n_layer; l++) {
        status = choose_layer(t, l, err);
    }
    s->report.score_us += ft_time_us() - start;
    s->report.prefill_us -= ft_time_us() - start;
    if (status == FT_OK) {
        s->lane.kv = t->kept;
        t->kept = t->full; /* empty by now */
        t->full = NULL;
    }
    return status;
}

ft_status ft_trial_prefill(ft_session *s, const ft_token *id, const ft_pos *pos,
                           struct ft_error *err) {
    struct trial t = { .s = s };
    ft_status status = trial_init(&t, err);
    if (status == FT_OK) {
        status = read_prompt(&t, id, pos, err);
    }
    if (status == FT_OK) {
        status = write_text(&t, err);
    }
    if (status == FT_OK) {
        status = choose_rows(&t, err);
    }
    trial_done(&t);
    return status;
}
