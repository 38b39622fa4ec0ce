/* SPDX-License-Identifier: Apache-2.0 */
/* prefill.c - a lane: one model reading tokens, layer by layer over a whole prompt or token by
 * token.
 *
 * Layer-major prefill takes all tokens through layer l before layer l+1 starts.  It costs
 * [n][n_embd] hidden states and buys two things: only one layer's full rows ever exist when a
 * method drops rows, and the decision about a layer can be made from evidence on all its keys
 * before its own attention runs.
 *
 *   layer that does not vote     for each chunk: q, k, v -> append -> attend -> rest
 *                                where rows leave all the same: decision, copy the kept rows
 *   layer that votes             for each chunk: k, v -> append
 *                                queries of the last n_voter tokens -> evidence -> decision;
 *                                many of them in chunks, folded in order
 *                                for each chunk: q -> attend -> rest
 *                                copy the kept rows, forget the others
 *
 * The last layer stops after its keys and values where nothing reads more of it.
 * Chunks are cut at multiples of FT_CHUNK, so results do not depend on how a prompt was handed in.
 */
#include <string.h>

#include "engine/engine.h"

/* ---- opening and closing ---- */

static bool lane_cancelled(void *user) {
    const atomic_bool *flag = user;
    return atomic_load_explicit(flag, memory_order_relaxed);
}

ft_status ft_lane_open(struct ft_lane *lane, const struct ft_lane_params *params,
                       struct ft_error *err) {
    const struct ft_hparams *hp = ft_model_hparams(params->model);
    *lane = (struct ft_lane){ .model = params->model,
                              .hp = hp,
                              .n_layer = params->n_layer,
                              .is_exact = params->is_exact,
                              .format = params->format,
                              .progress = params->progress,
                              .progress_user = params->progress_user,
                              .phase = params->phase };
    struct ft_kv_shape shape = { .n_layer = params->n_layer,
                                 .n_head_kv = hp->n_head_kv,
                                 .d = hp->head_dim,
                                 .k_fmt = params->format.k_fmt,
                                 .v_fmt = params->format.v_fmt };
    struct ft_ops_shape ops = { .n_layer = params->n_layer,
                                .n_head = hp->n_head,
                                .n_head_kv = hp->n_head_kv,
                                .d = hp->head_dim,
                                .n_thread = params->n_thread,
                                .is_cancelled = params->is_cancelled };
    struct ft_eval_params eval = { .model = params->model,
                                   .n_thread = params->n_thread,
                                   .rope_scale = params->rope_scale,
                                   .is_exact = params->is_exact,
                                   .is_cancelled = lane_cancelled,
                                   .user = params->is_cancelled };
    ft_status status = ft_eval_new(&eval, &lane->eval, err);
    if (status == FT_OK) {
        status = ft_ops_new(&ops, &lane->ops, err);
    }
    if (status == FT_OK) {
        status = ft_kv_new(&shape, &lane->rows, &lane->kv, err);
    }
    if (status == FT_OK) {
        lane->row_count = ft_alloc(hp->n_head_kv, sizeof *lane->row_count);
        status = lane->row_count ? FT_OK : ft_fail(err, FT_NOMEM, 0, "no memory for row counts");
    }
    if (status != FT_OK) {
        ft_lane_close(lane);
    }
    return status;
}

void ft_lane_close(struct ft_lane *lane) {
    ft_kv_free(lane->stage);
    ft_kv_free(lane->kv);
    ft_ops_free(lane->ops);
    ft_eval_free(lane->eval);
    ft_free(lane->row_count);
    *lane = (struct ft_lane){ 0 };
}

/* ---- the attention callback ---- */

struct step { /* what the callback does in the pass under construction */
    struct ft_lane *lane;
    struct ft_kv *kv;
    bool is_single_layer; /* all passes of this step use kv layer `kv_layer`; else layer l uses l */
    uint32_t kv_layer;
    const struct ft_slash *slash;
    const struct ft_watch *watch; /* single layer: one entry; else [n_layer] */
    bool is_watch_only;           /* evidence, no attention */
    float *query; /* where queries from token query_skip on go, by model layer; NULL: nowhere */
    size_t query_stride;
    uint32_t query_skip;
    uint32_t n_row; /* prefill: rows the last token of the chunk sees; 0: all rows held */
};

static struct ft_attn_in attn_in(const struct step *step, const struct ft_qkv *qkv) {
    return (struct ft_attn_in){ .ctx = qkv->ctx,
                                .graph = qkv->graph,
                                .q = qkv->q,
                                .k = qkv->k,
                                .v = qkv->v,
                                .n_token = qkv->n_token,
                                .slot = qkv->layer,
                                .kv = step->kv,
                                .kv_layer = step->is_single_layer ? step->kv_layer : qkv->layer };
}

/* What is stored, and what meets it, by a Hadamard matrix where that was asked for. */
static void turn(const struct ft_lane *lane, struct ft_attn_in *in) {
    if (lane->format.is_k_rotated) {
        in->q = in->q ? ft_op_rotate(lane->ops, in, in->q) : NULL;
        in->k = in->k ? ft_op_rotate(lane->ops, in, in->k) : NULL;
    }
    if (lane->format.is_v_rotated) {
        in->v = in->v ? ft_op_rotate(lane->ops, in, in->v) : NULL;
    }
}

static struct ggml_tensor *attend(void *user, const struct ft_qkv *qkv) {
    struct step *step = user;
    struct ft_lane *lane = step->lane;
    struct ft_attn_in in = attn_in(step, qkv);
    uint32_t n_head_kv = lane->hp->n_head_kv;
    struct ggml_tensor *dep = NULL;
    for (uint32_t h = 0; h < n_head_kv; h++) {
        lane->row_count[h] = step->n_row ? step->n_row : ft_kv_rows(in.kv, in.kv_layer, h);
    }
    if (step->query && qkv->q) {
        ft_op_save(lane->ops, &in, step->query_skip, step->query + qkv->layer * step->query_stride);
    }
    turn(lane, &in);
    if (qkv->k) {
        dep = ft_op_append(lane->ops, &in, lane->row_count);
    }
    const struct ft_watch *watch =
        step->watch ? &step->watch[step->is_single_layer ? 0 : qkv->layer] : NULL;
    if (watch && watch->mass && qkv->q) {
        ft_op_evidence(lane->ops, &in, watch, dep);
    }
    if (!qkv->q || step->is_watch_only) {
        return NULL;
    }
    if (lane->is_exact && !step->slash) {
        return ft_op_stock(lane->ops, &in, lane->row_count[0], dep);
    }
    struct ggml_tensor *out = ft_op_attend(lane->ops, &in, lane->row_count, step->slash, dep);
    return lane->format.is_v_rotated ? ft_op_rotate(lane->ops, &in, out) : out;
}

/* What a pass over n tokens computes, for whoever asks whether it was needed. */
static void count_work(struct ft_lane *lane, const struct ft_pass *pass) {
    uint64_t n = (uint64_t)pass->n_token * (pass->layer_end - pass->layer_first);
    /* a trimmed last layer: queries, attention and the rest for the rows of logits alone */
    bool is_trimmed = pass->is_trimmed && pass->n_logit > 0;
    uint64_t n_out = n - (is_trimmed ? pass->n_token - pass->n_logit : 0);
    lane->work.q += pass->has_q ? n_out : 0;
    lane->work.k += pass->has_kv ? n : 0;
    lane->work.v += pass->has_kv && !pass->is_k_only ? n : 0;
    lane->work.rest += pass->has_rest ? n_out : 0;
    lane->work.logits += pass->n_logit;
}

/* ---- layer-major prefill ---- */

struct reading { /* one prefill in progress */
    struct ft_lane *lane;
    struct ft_prefill *prefill;
    float *hidden; /* [n][n_embd] */
    size_t hidden_bytes;
    float *column; /* [n_head_kv][n_col]; [n_head][n_col] where heads of a group are told apart */
    float *lse;    /* [n_head][n_voter, at most a chunk] */
    uint32_t *vis; /* [n_voter] */
    struct ft_rows *all;   /* [n_head_kv] */
    uint64_t done, total;  /* tokens x layers */
    size_t observed_bytes; /* of column, where voters are told one by one */
};

static void reading_done(struct reading *r) {
    ft_pages_unmap(r->hidden, r->hidden_bytes);
    ft_gauge_add(&r->lane->activation, -(int64_t)(r->hidden_bytes + r->observed_bytes));
    ft_free(r->column);
    ft_free(r->lse);
    ft_free(r->vis);
    ft_free(r->all);
}

static ft_status evidence_init(struct reading *r, struct ft_error *err) {
    const struct ft_hparams *hp = r->lane->hp;
    const struct ft_prefill *p = r->prefill;
    if (!p->decide || p->column == FT_COLUMN_NONE) {
        return FT_OK;
    }
    size_t n_list = p->is_per_head ? hp->n_head : hp->n_head_kv;
    size_t n_column = (p->observe ? hp->n_head * (size_t)FT_LIST_VOTER : n_list) * p->n_col;
    size_t n_lse = (size_t)hp->n_head * FT_MIN(p->n_voter, (uint32_t)FT_CHUNK);
    r->column = ft_alloc(n_column, sizeof *r->column);
    r->lse = ft_alloc(n_lse, sizeof *r->lse);
    r->vis = ft_alloc(p->n_voter, sizeof *r->vis);
    if (!r->column || !r->lse || !r->vis) {
        return ft_fail_memory(err, (n_column + n_lse) * sizeof(float),
                              "evidence (%u columns, %u voters)", p->n_col, p->n_voter);
    }
    for (uint32_t i = 0; i < p->n_voter; i++) {
        r->vis[i] = p->n - p->n_voter + i + 1;
    }
    r->observed_bytes = p->observe ? n_column * sizeof(float) : 0;
    ft_gauge_add(&r->lane->activation, (int64_t)r->observed_bytes);
    return FT_OK;
}

static ft_status reading_init(struct reading *r, struct ft_error *err) {
    const struct ft_hparams *hp = r->lane->hp;
    struct ft_prefill *p = r->prefill;
    if (!ft_size_mul(p->n, (size_t)hp->n_embd * sizeof(float), &r->hidden_bytes) ||
        !(r->hidden = ft_pages_map(r->hidden_bytes))) {
        size_t wanted = r->hidden_bytes;
        r->hidden_bytes = 0;
        return ft_fail_memory(err, wanted, "hidden states (%u tokens x %u)", p->n, hp->n_embd);
    }
    ft_gauge_add(&r->lane->activation, (int64_t)r->hidden_bytes);
    r->all = ft_alloc(hp->n_head_kv, sizeof *r->all);
    if (!r->all) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for lists of rows");
    }
    return evidence_init(r, err);
}

static void tell_progress(struct reading *r, uint32_t n_token) {
    r->done += n_token;
    if (r->lane->progress) {
        r->lane->progress(r->lane->phase, r->done, r->total, r->lane->progress_user);
    }
}

enum part { PART_EMBED, PART_KV, PART_REST, PART_ALL };

/* The pass over tokens [first, first + n) of one layer. */
static ft_status run_chunk(struct reading *r, struct step *step, uint32_t layer, enum part part,
                           uint32_t first, uint32_t n, struct ft_error *err) {
    struct ft_prefill *p = r->prefill;
    bool is_last = layer + 1 == r->lane->n_layer;
    bool wants_logits = is_last && part != PART_EMBED && p->logits && first + n == p->n;
    float *hidden = r->hidden + (size_t)first * r->lane->hp->n_embd;
    uint32_t last_row = n - 1;
    if (is_last && part == PART_ALL && !wants_logits) {
        part = PART_KV; /* nothing reads what this layer would compute from these tokens */
    }
    if (is_last && part == PART_REST && !wants_logits) {
        return FT_OK;
    }
    struct ft_pass pass = {
        .layer_first = part == PART_EMBED ? 0 : layer,
        .layer_end = part == PART_EMBED ? 0 : layer + 1,
        .n_token = n,
        .id = p->id + first,
        .pos = p->pos + first,
        .hidden_in = part == PART_EMBED ? NULL : hidden,
        .hidden_out = part == PART_KV || wants_logits ? NULL : hidden,
        .has_q = part == PART_REST || part == PART_ALL,
        .has_kv = part == PART_KV || part == PART_ALL,
        .has_rest = part == PART_REST || part == PART_ALL,
        .is_k_only = is_last && p->is_evidence_only,
        .logit_row = wants_logits ? &last_row : NULL,
        .n_logit = wants_logits ? 1 : 0,
        .is_trimmed = !r->lane->is_exact,
        .logits = p->logits,
        .attend = attend,
        .user = step,
    };
    if (pass.has_kv) {
        FT_TRY(ft_kv_extend(step->kv, step->kv_layer, pass.pos, n, err));
    }
    step->n_row = first + n;
    count_work(r->lane, &pass);
    return ft_eval_run(r->lane->eval, &pass, err);
}

static ft_status run_part(struct reading *r, struct step *step, uint32_t layer, enum part part,
                          struct ft_error *err) {
    for (uint32_t first = 0; first < r->prefill->n; first += FT_CHUNK) {
        uint32_t n = FT_MIN((uint32_t)FT_CHUNK, r->prefill->n - first);
        FT_TRY(run_chunk(r, step, layer, part, first, n, err));
        if (part == PART_ALL || part == PART_REST) {
            tell_progress(r, n);
        }
    }
    return FT_OK;
}

/* Of voters [at, at + n) those whose queries are kept for later. */
static void save_queries(const struct reading *r, struct step *step, uint32_t at, uint32_t n) {
    const struct ft_prefill *p = r->prefill;
    uint32_t first = p->n_voter - p->n_query, from = FT_MAX(at, first);
    step->query = NULL;
    if (p->query && from < at + n) {
        size_t token = (size_t)r->lane->hp->n_head * r->lane->hp->head_dim;
        step->query = p->query + (from - first) * token;
        step->query_stride = p->query_stride;
        step->query_skip = from - at;
    }
}

struct observing { /* voters of one graph */
    const struct ft_prefill *prefill;
    uint32_t layer, first;
};

static void tell_voter(void *user, uint32_t h, uint32_t voter, float *weight) {
    const struct observing *o = user;
    o->prefill->observe(o->prefill->user, o->layer, h, o->first + voter, weight);
}

/* Voters [at, at + n) of a layer: only their queries are projected, once more. */
static ft_status run_voters(struct reading *r, struct step *step, uint32_t layer, uint32_t at,
                            uint32_t n, struct ft_error *err) {
    struct ft_prefill *p = r->prefill;
    uint32_t first = p->n - p->n_voter + at;
    struct observing observing = { .prefill = p, .layer = layer, .first = at };
    struct ft_watch watch = { .vis = r->vis + at,
                              .weight = p->weight ? p->weight + at : NULL,
                              .mass = r->column,
                              .lse = r->lse,
                              .n_col = p->n_col,
                              .red = p->red == FT_REDUCE_MEAN ? FT_REDUCE_SUM : p->red,
                              .is_per_head = p->is_per_head && !p->observe,
                              .is_more = at > 0,
                              .observe = p->observe ? tell_voter : NULL,
                              .user = &observing };
    step->watch = &watch;
    step->is_watch_only = true;
    save_queries(r, step, at, n);
    struct ft_pass pass = { .layer_first = layer,
                            .layer_end = layer + 1,
                            .n_token = n,
                            .pos = p->pos + first,
                            .hidden_in = r->hidden + (size_t)first * r->lane->hp->n_embd,
                            .has_q = true,
                            .attend = attend,
                            .user = step };
    count_work(r->lane, &pass);
    r->lane->work.voter += n;
    ft_status status = ft_eval_run(r->lane->eval, &pass, err);
    step->watch = NULL;
    step->is_watch_only = false;
    step->query = NULL;
    return status;
}

/* Sums become means. */
static void finish_mass(const struct reading *r) {
    const struct ft_hparams *hp = r->lane->hp;
    const struct ft_prefill *p = r->prefill;
    uint32_t group = hp->n_head / hp->n_head_kv,
             n_row = p->is_per_head ? hp->n_head : hp->n_head_kv;
    size_t n = (size_t)n_row * p->n_col;
    float divisor = (float)((p->is_per_head ? 1 : group) * p->n_voter);
    for (size_t at = 0; p->red == FT_REDUCE_MEAN && at < n; at++) {
        r->column[at] /= divisor;
    }
}

static ft_status run_votes(struct reading *r, struct step *step, uint32_t layer,
                           struct ft_error *err) {
    uint32_t n_voter = r->prefill->n_voter;
    for (uint32_t at = 0; at < n_voter; at += FT_CHUNK) {
        FT_TRY(run_voters(r, step, layer, at, FT_MIN((uint32_t)FT_CHUNK, n_voter - at), err));
    }
    finish_mass(r);
    return FT_OK;
}

static void measure_keys(const struct reading *r, const struct step *step) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(step->kv);
    for (uint32_t h = 0; h < shape->n_head_kv; h++) {
        struct ft_span span = { .k = ft_kv_k(step->kv, step->kv_layer, h),
                                .n_row = ft_kv_rows(step->kv, step->kv_layer, h) };
        ft_evidence_norms(ft_kern(), &span, shape->k_fmt, shape->d, r->prefill->n_col,
                          r->column + (size_t)h * r->prefill->n_col);
    }
}

ft_status ft_lane_keep(struct ft_lane *lane, uint32_t layer, const struct ft_kv *stage,
                       const struct ft_rows *keep, uint32_t n_more, struct ft_error *err) {
    uint32_t most = 0;
    for (uint32_t h = 0; h < lane->hp->n_head_kv; h++) {
        most = FT_MAX(most, keep[h].n);
    }
    FT_TRY(ft_kv_reserve(lane->kv, layer, most + n_more, err));
    return ft_kv_gather(lane->kv, layer, stage, 0, keep, err);
}

/* Into a packed layer rows go when its own attention has run on exact ones. */
static ft_status keep_rows(struct reading *r, uint32_t layer, const struct ft_rows *keep,
                           struct ft_error *err) {
    return ft_lane_keep(r->lane, layer, r->lane->stage, keep, r->prefill->n_more, err);
}

static ft_status read_deciding_layer(struct reading *r, struct step *step, uint32_t layer,
                                     struct ft_error *err) {
    struct ft_prefill *p = r->prefill;
    struct ft_decision decision = { 0 };
    bool is_voting = p->column == FT_COLUMN_MASS;
    FT_TRY(run_part(r, step, layer, is_voting ? PART_KV : PART_ALL, err));
    int64_t start = ft_time_us();
    if (is_voting) {
        FT_TRY(run_votes(r, step, layer, err));
    } else if (p->column == FT_COLUMN_NORM) {
        measure_keys(r, step);
    }
    FT_TRY(p->decide(p->user, layer, r->column, &decision, err));
    p->score_us += ft_time_us() - start;
    if (is_voting) {
        step->slash = decision.slash;
        FT_TRY(run_part(r, step, layer, PART_REST, err));
        step->slash = NULL;
    }
    return p->is_staged && decision.keep ? keep_rows(r, layer, decision.keep, err) : FT_OK;
}

static ft_status keep_all(struct reading *r, uint32_t layer, struct ft_error *err) {
    for (uint32_t h = 0; h < r->lane->hp->n_head_kv; h++) {
        r->all[h] = (struct ft_rows){ .row = NULL, .n = r->prefill->n };
    }
    return keep_rows(r, layer, r->all, err);
}

static ft_status read_layer(struct reading *r, uint32_t layer, struct ft_error *err) {
    struct ft_prefill *p = r->prefill;
    struct ft_lane *lane = r->lane;
    struct step step = { .lane = lane,
                         .kv = p->is_staged ? lane->stage : lane->kv,
                         .is_single_layer = true,
                         .kv_layer = p->is_staged ? 0 : layer };
    if (p->is_staged && layer > 0) {
        FT_TRY(ft_kv_rewind(lane->stage, 0, p->n,
                            err)); /* the room is used again, its old pages are given back */
    } else {
        FT_TRY(ft_kv_reserve(step.kv, step.kv_layer, p->is_staged ? p->n : p->n + p->n_more, err));
    }
    if (p->decide && layer >= p->layer_first) {
        return read_deciding_layer(r, &step, layer, err);
    }
    FT_TRY(run_part(r, &step, layer, PART_ALL, err));
    return p->is_whole ? keep_all(r, layer, err) : FT_OK;
}

static ft_status read_all(struct reading *r, struct ft_error *err) {
    struct ft_prefill *p = r->prefill;
    struct ft_lane *lane = r->lane;
    FT_TRY(reading_init(r, err));
    if (p->is_staged) {
        struct ft_kv_shape shape = *ft_kv_shape_of(lane->kv);
        shape.n_layer = 1;
        FT_TRY(ft_kv_new(&shape, &lane->rows, &lane->stage, err));
    }
    struct step none = { .lane = lane };
    FT_TRY(run_part(r, &none, 0, PART_EMBED, err));
    r->total = (uint64_t)p->n * lane->n_layer;
    for (uint32_t l = 0; l < lane->n_layer; l++) {
        FT_TRY(read_layer(r, l, err));
    }
    return FT_OK;
}

ft_status ft_lane_prefill(struct ft_lane *lane, struct ft_prefill *prefill, struct ft_error *err) {
    struct reading r = { .lane = lane, .prefill = prefill };
    prefill->score_us = 0;
    ft_status status = read_all(&r, err);
    ft_kv_free(lane->stage);
    lane->stage = NULL;
    reading_done(&r);
    return status;
}

/* ---- token-major feeding ---- */

static ft_status feed_chunk(struct ft_lane *lane, const struct ft_feed *feed, uint32_t first,
                            uint32_t n, struct ft_error *err) {
    uint32_t row[FT_CHUNK];
    uint32_t skip = feed->n - feed->n_logit; /* tokens in front of the first wanted logits */
    uint32_t from = skip > first ? FT_MIN(skip - first, n) : 0;
    for (uint32_t i = from; i < n; i++) {
        row[i - from] = i;
    }
    for (uint32_t l = 0; l < lane->n_layer; l++) {
        FT_TRY(ft_kv_extend(lane->kv, l, feed->pos + first, n, err));
    }
    struct step step = { .lane = lane,
                         .kv = lane->kv,
                         .watch = feed->watch,
                         .query = feed->query,
                         .query_stride = feed->query_stride };
    struct ft_pass pass = {
        .layer_end = lane->n_layer,
        .n_token = n,
        .id = feed->id + first,
        .pos = feed->pos + first,
        .has_q = true,
        .has_kv = true,
        .has_rest = true,
        .attend = attend,
        .user = &step,
        .n_logit = n - from,
        .logit_row = row,
        .is_trimmed = !lane->is_exact && !feed->watch,
        .logits =
            feed->logits ? feed->logits + (size_t)(first + from - skip) * lane->hp->n_vocab : NULL,
    };
    count_work(lane, &pass);
    FT_TRY(ft_eval_run(lane->eval, &pass, err));
    for (uint32_t l = 0; l < lane->n_layer; l++) {
        ft_kv_settle(lane->kv, l);
    }
    return FT_OK;
}

ft_status ft_lane_feed(struct ft_lane *lane, const struct ft_feed *feed, struct ft_error *err) {
    for (uint32_t first = 0; first < feed->n; first += FT_CHUNK) {
        FT_TRY(feed_chunk(lane, feed, first, FT_MIN((uint32_t)FT_CHUNK, feed->n - first), err));
    }
    return FT_OK;
}

/* ---- votes and values behind the prefill ---- */

ft_status ft_lane_vote(struct ft_lane *lane, uint32_t layer, const float *query, uint32_t n,
                       const struct ft_watch *watch, struct ft_error *err) {
    struct step step = { .lane = lane,
                         .kv = lane->kv,
                         .is_single_layer = true,
                         .kv_layer = layer,
                         .watch = watch,
                         .is_watch_only = true };
    struct ft_pass pass = { .layer_first = layer,
                            .layer_end = layer + 1,
                            .n_token = n,
                            .q_in = query,
                            .attend = attend,
                            .user = &step };
    lane->work.voter += n;
    return ft_eval_run(lane->eval, &pass, err);
}

struct held { /* values of one layer */
    const struct ft_kv *kv;
    uint32_t layer;
    bool is_rotated;
};

static void decode_values(void *user, uint32_t h, uint32_t first, uint32_t n, float *out) {
    const struct held *held = user;
    const struct ft_kv_shape *shape = ft_kv_shape_of(held->kv);
    size_t stride = ft_fmt_row_bytes(shape->v_fmt, shape->d);
    const uint8_t *v = ft_kv_v(held->kv, held->layer, h);
    for (uint32_t j = 0; j < n; j++) {
        float *row = out + (size_t)j * shape->d;
        ft_kern()->decode(shape->v_fmt, v + (first + j) * stride, row, shape->d);
        if (held->is_rotated) {
            ft_rotate(row, row, 1, shape->d);
        }
    }
}

ft_status ft_lane_output_norms(struct ft_lane *lane, uint32_t layer, const struct ft_kv *kv,
                               uint32_t kv_layer, uint32_t n, float *out, struct ft_error *err) {
    struct held held = { kv, kv_layer, lane->format.is_v_rotated };
    struct ft_output_norms job = {
        .layer = layer, .n = n, .values = decode_values, .user = &held, .out = out
    };
    return ft_eval_output_norms(lane->eval, &job, err);
}

/* ---- measuring ---- */

ft_status ft_lane_probe(struct ft_lane *lane, const struct ft_probe *probe, int64_t *us,
                        struct ft_error *err) {
    bool is_attention = probe->kind == FT_PROBE_ATTENTION;
    uint32_t last_row = probe->n_token - 1;
    struct step step = {
        .lane = lane, .kv = probe->kv, .is_single_layer = true, .n_row = probe->n_row
    };
    struct ft_pass pass = {
        .layer_first = probe->layer_first,
        .layer_end = probe->layer_end,
        .n_token = probe->n_token,
        .pos = probe->pos,
        .hidden_in = probe->hidden,
        .hidden_out = is_attention ? NULL : probe->out,
        .has_q = true,
        .has_kv = !is_attention,
        .has_rest = true,
        .logit_row = is_attention ? &last_row : NULL,
        .n_logit = is_attention ? 1 : 0,
        .logits = is_attention ? probe->out : NULL,
        .attend = attend,
        .user = &step,
    };
    int64_t start = ft_time_us();
    FT_TRY(ft_eval_run(lane->eval, &pass, err));
    *us = ft_time_us() - start;
    return FT_OK;
}
