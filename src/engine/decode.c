/* SPDX-License-Identifier: Apache-2.0 */
/* decode.c - rows that leave while an answer grows, and keys that are rotated to where they count as
 * standing.
 *
 *   before a step   methods that ask nobody make room for the row that the step will add; the first
 *                   rows are rotated to stand in front of the others (positions=compact)
 *   step            ft_lane_feed, with a watch on every layer where attention decides
 *   behind it       methods that watch bring their state up to date and name the rows that leave
 *
 * A head then holds what it may at most; only while a watched step is computed the row of its own
 * token comes on top.  Tokens that are fed go the same way one by one.  Buffers are made behind the
 * prompt; a step allocates nothing.
 */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

/* ---- plans ---- */

bool ft_decoding_is_watching(const struct ft_plan *plan) {
    return plan->kv_look.is_evicting && plan->kv_look.column == FT_COLUMN_MASS;
}

uint32_t ft_decoding_room(const struct ft_plan *plan) {
    if (!plan->is_kv_on || !plan->kv_look.is_evicting) {
        return plan->n_answer;
    }
    bool is_growing = plan->is_kv_whole || plan->is_kv_capped;
    uint32_t room = is_growing ? plan->kv_limit - plan->kv_keep : 0;
    return FT_MIN(plan->n_answer, room + (ft_decoding_is_watching(plan) ? 1 : 0));
}

uint64_t ft_decoding_sink_bytes(const struct ft_plan *plan, const struct ft_hparams *hp) {
    if (!plan->is_kv_on || !plan->kv_look.is_compact) {
        return 0;
    }
    return (uint64_t)plan->kv_look.sinks * hp->n_layer * hp->n_head_kv * hp->head_dim *
           sizeof(float);
}

/* ---- the state of a prompt's rows ---- */

void ft_decoding_begin(const ft_session *s, uint32_t layer, const float *column, uint32_t n_col,
                       uint32_t n_voter) {
    const struct ft_method *method = s->kv.method;
    bool is_staged = s->lane.stage != NULL;
    const struct ft_kv *kv = is_staged ? s->lane.stage : s->lane.kv;
    for (uint32_t h = 0; method->begin && s->plan.kv_aux > 0 && h < s->lane.hp->n_head_kv; h++) {
        struct ft_evidence evidence = {
            .n_row = n_col, .layer = layer, .head = h, .mass = column + (size_t)h * n_col
        };
        method->begin(&evidence, s->kv.params, n_voter, ft_kv_aux(kv, is_staged ? 0 : layer, h));
    }
}

/* What head h of a layer sees of a vote of the prompt. */
static struct ft_step vote_of(const ft_session *s, uint32_t layer, uint32_t h, uint32_t n_row,
                              float *weight, size_t stride) {
    bool is_staged = s->lane.stage != NULL;
    const struct ft_kv *kv = is_staged ? s->lane.stage : s->lane.kv;
    uint32_t at = is_staged ? 0 : layer;
    const ft_pos *pos = ft_kv_pos(kv, at, h);
    return (struct ft_step){ .layer = layer,
                             .head = h,
                             .n_row = n_row,
                             .keep = s->plan.kv_limit,
                             .window = s->plan.kv_look.window,
                             .n_answer = s->plan.n_answer,
                             .pos_now = pos[n_row - 1],
                             .pos = pos,
                             .mass = weight,
                             .n_mass = s->lane.hp->n_head / s->lane.hp->n_head_kv,
                             .mass_stride = stride,
                             .aux = ft_kv_aux(kv, at, h) };
}

void ft_decoding_observe(const ft_session *s, uint32_t layer, uint32_t h, uint32_t n_row,
                         float *weight, size_t stride) {
    struct ft_step step = vote_of(s, layer, h, n_row, weight, stride);
    s->kv.method->observe(&step, s->kv.params);
}

uint32_t ft_decoding_leave(const ft_session *s, uint32_t layer, uint32_t h, uint32_t n_row,
                           float *weight, size_t stride, uint32_t *drop) {
    struct ft_step step = vote_of(s, layer, h, n_row, weight, stride);
    return s->kv.method->evict(&step, s->kv.params, drop);
}

void ft_decoding_column(const ft_session *s, uint32_t layer, float *column, uint32_t n_col) {
    bool is_staged = s->lane.stage != NULL;
    for (uint32_t h = 0; h < s->lane.hp->n_head_kv; h++) {
        const float *aux =
            ft_kv_aux(is_staged ? s->lane.stage : s->lane.kv, is_staged ? 0 : layer, h);
        for (uint32_t j = 0; j < n_col; j++) {
            column[(size_t)h * n_col + j] = aux[(size_t)j * s->plan.kv_aux];
        }
    }
}

/* ---- buffers ---- */

void ft_decoding_done(ft_session *s) {
    struct ft_decoding *d = &s->decoding;
    ft_gauge_add(&s->lane.rows, -(int64_t)d->sink_bytes);
    ft_gauge_add(&s->lane.activation, -(int64_t)d->scratch_bytes);
    ft_free(d->limit);
    ft_free(d->drop);
    ft_free(d->watch);
    ft_free(d->mass);
    ft_free(d->lse);
    ft_free(d->joined);
    ft_free(d->sink);
    ft_free(d->turn);
    ft_free(d->wheel);
    *d = (struct ft_decoding){ .is_evicting = false };
}

/* Every head may hold what it kept of the prompt; the budget where the prompt is within it, or where
 * it caps what votes leave.
 * ->  the largest limit, 0 without memory */
static uint32_t limits_init(ft_session *s) {
    struct ft_decoding *d = &s->decoding;
    uint32_t n_head = s->lane.hp->n_head_kv, most = 0;
    d->limit = ft_alloc((size_t)s->lane.n_layer * n_head, sizeof *d->limit);
    for (uint32_t at = 0; d->limit && at < s->lane.n_layer * n_head; at++) {
        bool is_budget = s->plan.is_kv_whole || s->plan.is_kv_capped;
        d->limit[at] =
            is_budget ? s->plan.kv_limit : ft_kv_rows(s->lane.kv, at / n_head, at % n_head);
        most = FT_MAX(most, d->limit[at]);
    }
    return most;
}

static ft_status watch_init(ft_session *s, uint32_t most, struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    const struct ft_look *look = &s->plan.kv_look;
    const struct ft_hparams *hp = s->lane.hp;
    size_t n_layer = s->lane.n_layer, n_list = look->is_group_max ? hp->n_head : hp->n_head_kv;
    d->stride = most + 1;
    size_t n_mass = n_layer * n_list * d->stride, n_lse = n_layer * hp->n_head;
    d->watch = ft_alloc(n_layer, sizeof *d->watch);
    d->mass = ft_alloc(n_mass, sizeof *d->mass);
    d->lse = ft_alloc(n_lse, sizeof *d->lse);
    d->joined = ft_alloc(d->stride, sizeof *d->joined);
    if (!d->watch || !d->mass || !d->lse || !d->joined) {
        return ft_fail_memory(err, (n_mass + n_lse) * sizeof(float),
                              "the evidence of a step (%zu layers x %zu rows)", n_layer, d->stride);
    }
    for (size_t l = 0; l < n_layer; l++) {
        d->watch[l] = (struct ft_watch){ .mass = d->mass + l * n_list * d->stride,
                                         .lse = d->lse + l * hp->n_head,
                                         .n_col = (uint32_t)d->stride,
                                         .red = ft_reduce_of(look->fold),
                                         .is_per_head = look->is_group_max };
    }
    d->scratch_bytes = (n_mass + n_lse + d->stride) * sizeof(float);
    ft_gauge_add(&s->lane.activation, (int64_t)d->scratch_bytes);
    return FT_OK;
}

static ft_status sinks_init(ft_session *s, struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    const struct ft_hparams *hp = s->lane.hp;
    uint64_t bytes = ft_decoding_sink_bytes(&s->plan, hp);
    d->n_sink = s->plan.kv_look.sinks;
    d->sink = ft_alloc((size_t)(bytes / sizeof(float)), sizeof *d->sink);
    d->turn = ft_alloc(hp->head_dim / 2, sizeof *d->turn);
    d->wheel = ft_alloc(hp->head_dim, sizeof *d->wheel);
    if (!d->sink || !d->turn || !d->wheel) {
        return ft_fail_memory(err, (size_t)bytes, "copies of the keys of %u sinks", d->n_sink);
    }
    ft_model_turns(s->target, s->params.rope_scale, d->turn);
    d->sink_bytes = bytes;
    ft_gauge_add(&s->lane.rows, (int64_t)bytes);
    s->report.kv_bytes += bytes;
    return FT_OK;
}

ft_status ft_decoding_init(ft_session *s, struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    const struct ft_plan *plan = &s->plan;
    if (!plan->is_kv_on) {
        return FT_OK;
    }
    if (plan->kv_look.is_compact) {
        FT_TRY(sinks_init(s, err));
        d->is_compact = true;
    }
    if (plan->kv_look.is_evicting) {
        uint32_t most = limits_init(s);
        d->drop = ft_alloc((size_t)most + 1, sizeof *d->drop);
        if (!d->limit || !d->drop) {
            return ft_fail(err, FT_NOMEM, 0, "no memory for the limits of %u layers",
                           s->lane.n_layer);
        }
        if (ft_decoding_is_watching(plan)) {
            FT_TRY(watch_init(s, most, err));
        }
        d->is_evicting = true;
    }
    s->report.kv_state_bytes = (uint64_t)plan->kv_aux * sizeof(float) *
                                   (ft_kv_bytes(s->lane.kv) / ft_kv_row_bytes(s->lane.kv)) +
                               d->sink_bytes;
    return FT_OK;
}

/* ---- rows that leave ---- */

/* What head h of a layer sees of the step. */
static void step_of(ft_session *s, uint32_t layer, uint32_t h, uint32_t n_coming,
                    struct ft_step *out) {
    const struct ft_decoding *d = &s->decoding;
    const struct ft_look *look = &s->plan.kv_look;
    const struct ft_hparams *hp = s->lane.hp;
    uint32_t limit = d->limit[(size_t)layer * hp->n_head_kv + h];
    *out = (struct ft_step){ .layer = layer,
                             .head = h,
                             .n_row = ft_kv_rows(s->lane.kv, layer, h),
                             .keep = limit - FT_MIN(n_coming, limit),
                             .window = look->window,
                             .n_step = (uint32_t)(s->pos_next - s->plan.pos_first) + 1,
                             .n_answer = s->plan.n_answer,
                             .pos_now = s->pos_next,
                             .pos = ft_kv_pos(s->lane.kv, layer, h),
                             .n_mass = look->is_group_max ? hp->n_head / hp->n_head_kv : 1,
                             .mass_stride = d->stride,
                             .aux = ft_kv_aux(s->lane.kv, layer, h) };
    if (d->mass && look->is_layer_wide) {
        out->mass = d->joined;
    } else if (d->mass) {
        out->mass = d->watch[layer].mass + (size_t)h * out->n_mass * d->stride;
    }
}

static ft_status evict(ft_session *s, uint32_t layer, uint32_t h, uint32_t n_coming,
                       struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    struct ft_step step;
    step_of(s, layer, h, n_coming, &step);
    if (s->kv.method->observe) {
        s->kv.method->observe(&step, s->kv.params);
    }
    uint32_t n = s->kv.method->evict(&step, s->kv.params, d->drop);
    if (n > step.n_row || step.n_row - n > step.keep) {
        return ft_fail(err, FT_INTERNAL, 0, "%s: %u of %u rows leave layer %u head %u, %u may stay",
                       s->kv.method->name, n, step.n_row, layer, h, step.keep);
    }
    d->n_evicted += n;
    struct ft_rows drop = { .row = d->drop, .n = n };
    return n > 0 ? ft_kv_drop(s->lane.kv, layer, h, &drop, err) : FT_OK;
}

static ft_status evict_all(ft_session *s, uint32_t n_coming, struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    uint32_t n_head = s->lane.hp->n_head_kv;
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        if (d->mass && s->plan.kv_look.is_layer_wide) { /* heads of one length */
            ft_mean_heads(d->watch[l].mass, n_head, d->stride, ft_kv_rows(s->lane.kv, l, 0),
                          d->joined);
        }
        for (uint32_t h = 0; h < n_head; h++) {
            FT_TRY(evict(s, l, h, n_coming, err));
        }
    }
    return FT_OK;
}

/* ---- keys that are rotated anew ---- */

/* RoPE composes: a key rotated for position p and then by `shift` positions is the key of p + shift.
 * wheel: cos and sin of each pair. */
static void rotate_key(const struct ft_hparams *hp, const float *wheel, const float *key,
                       float *out) {
    uint32_t half = hp->head_dim / 2;
    bool is_neox = hp->trait & FT_ROPE_NEOX;
    for (uint32_t i = 0; i < half; i++) {
        uint32_t a = is_neox ? i : 2 * i, b = is_neox ? i + half : 2 * i + 1;
        float c = wheel[2 * i], sine = wheel[2 * i + 1], x = key[a], y = key[b];
        out[a] = x * c - y * sine;
        out[b] = x * sine + y * c;
    }
}

/* A key into the store's basis and back: positions are rotations of its own. */
static void turn(const ft_session *s, float *key) {
    if (s->lane.format.is_k_rotated) {
        ft_rotate(key, key, 1, s->lane.hp->head_dim);
    }
}

/* The first rows' keys as the prompt rotated them: before they are first rotated anew. */
static void copy_sinks(ft_session *s) {
    struct ft_decoding *d = &s->decoding;
    const struct ft_kv_shape *shape = ft_kv_shape_of(s->lane.kv);
    size_t row_bytes = ft_fmt_row_bytes(shape->k_fmt, shape->d), at = 0;
    for (uint32_t list = 0; list < shape->n_layer * shape->n_head_kv; list++) {
        const char *k = ft_kv_k(s->lane.kv, list / shape->n_head_kv, list % shape->n_head_kv);
        for (uint32_t j = 0; j < d->n_sink; j++, at += shape->d) {
            ft_kern()->decode(shape->k_fmt, k + j * row_bytes, d->sink + at, shape->d);
            turn(s, d->sink + at);
        }
    }
}

/* As many positions are missing between the first rows and the recent ones as the text has in front
 * of the next token beyond the rows that are held. */
static void rotate_sinks(ft_session *s) {
    struct ft_decoding *d = &s->decoding;
    const struct ft_hparams *hp = s->lane.hp;
    ft_pos shift = s->pos_next - (ft_pos)ft_kv_rows(s->lane.kv, 0, 0);
    float key[FT_HEAD_MAX];
    if (shift == d->shift) {
        return;
    }
    if (d->shift == 0) {
        copy_sinks(s);
    }
    d->shift = shift;
    for (uint32_t i = 0; i < hp->head_dim / 2; i++) {
        d->wheel[2 * i] = (float)cos(shift * d->turn[i]);
        d->wheel[2 * i + 1] = (float)sin(shift * d->turn[i]);
    }
    const float *from = d->sink;
    for (uint32_t list = 0; list < s->lane.n_layer * hp->n_head_kv; list++) {
        for (uint32_t j = 0; j < d->n_sink; j++, from += hp->head_dim) {
            rotate_key(hp, d->wheel, from, key);
            turn(s, key);
            ft_kv_write(s->lane.kv, list / hp->n_head_kv, list % hp->n_head_kv, j, key, NULL);
        }
    }
}

/* ---- a step ---- */

ft_status ft_decoding_before(ft_session *s, struct ft_error *err) {
    struct ft_decoding *d = &s->decoding;
    if (d->is_evicting && !d->mass) {
        FT_TRY(evict_all(s, 1, err));
    }
    if (d->is_compact) {
        rotate_sinks(s);
    }
    return FT_OK;
}

ft_status ft_decoding_behind(ft_session *s, struct ft_error *err) {
    return s->decoding.is_evicting && s->decoding.mass ? evict_all(s, 0, err) : FT_OK;
}
