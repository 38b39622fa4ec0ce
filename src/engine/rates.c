/* SPDX-License-Identifier: Apache-2.0 */
/* rates.c - what a model costs on this machine, from a few passes of a few layers.
 *
 *   glance       16 tokens in one layer
 *   token, pass  up to FT_CHUNK tokens in one layer: with the glance, a slope and a constant
 *   pairs        64 queries over few, many and more rows: slopes, so that what surrounds attention
 *                in the graph drops out
 *   step, row    one token in up to four layers, over one row and over many
 *
 * Every figure is the best of the runs that its part of the budget allows, and of at least one: a
 * busy machine or a first touch of mapped weights can only make a run longer.  Hidden states are
 * random and the same in every run.  The rows are random too: zero pages would be read from a
 * cache.
 */
#include <math.h>

#include "base/rng.h"
#include "engine/engine.h"

enum {
    GLANCE_TOKEN = 16,
    QUERY = 64, /* of an attention probe */
    ROW_MAX = 8192,
    STEP_LAYER = 4,
    RUN_MAX = 12,
    UNHURRIED_US = 500000, /* a budget that allows to repeat what was disturbed */
};

struct ft_meter {
    struct ft_lane lane;
    struct ft_kv *kv; /* one layer */
    uint32_t n_row;   /* rows filled */
    float *hidden;    /* [FT_CHUNK][n_embd] */
    float *out;       /* [FT_CHUNK][n_embd] or [n_vocab], whichever is larger */
    ft_pos *pos;      /* [ROW_MAX] */
    int64_t spent_us;
    uint32_t n_run_least; /* of every probe, whatever they take */
    double glance_us;     /* of GLANCE_TOKEN tokens in one layer */
};

/* ---- construction ---- */

static ft_status meter_init(struct ft_meter *m, const struct ft_lane_params *params,
                            struct ft_error *err) {
    FT_TRY(ft_lane_open(&m->lane, params, err));
    const struct ft_hparams *hp = m->lane.hp;
    struct ft_kv_shape shape = *ft_kv_shape_of(m->lane.kv);
    shape.n_layer = 1;
    FT_TRY(ft_kv_new(&shape, &m->lane.rows, &m->kv, err));
    FT_TRY(ft_kv_reserve(m->kv, 0, ROW_MAX, err));
    size_t n = (size_t)FT_CHUNK * hp->n_embd;
    m->hidden = ft_alloc(n, sizeof *m->hidden);
    m->out = ft_alloc(FT_MAX(n, (size_t)hp->n_vocab), sizeof *m->out);
    m->pos = ft_alloc(ROW_MAX, sizeof *m->pos);
    if (!m->hidden || !m->out || !m->pos) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to measure %u tokens x %u", FT_CHUNK,
                       hp->n_embd);
    }
    for (size_t i = 0; i < n; i++) {
        m->hidden[i] = (float)(2 * ft_rng_uniform(1, 0, 0, i) - 1);
    }
    for (uint32_t t = 0; t < ROW_MAX; t++) {
        m->pos[t] = (ft_pos)t;
    }
    return FT_OK;
}

ft_status ft_meter_new(const struct ft_lane_params *params, struct ft_meter **out,
                       struct ft_error *err) {
    struct ft_meter *m = ft_alloc(1, sizeof *m);
    if (!m) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to measure a model");
    }
    int64_t start = ft_time_us();
    ft_status status = meter_init(m, params, err);
    if (status != FT_OK) {
        ft_meter_free(m);
        return status;
    }
    m->spent_us = ft_time_us() - start;
    *out = m;
    return FT_OK;
}

void ft_meter_free(struct ft_meter *m) {
    if (!m) {
        return;
    }
    ft_kv_free(m->kv);
    ft_lane_close(&m->lane);
    ft_free(m->hidden);
    ft_free(m->out);
    ft_free(m->pos);
    ft_free(m);
}

/* At least n rows of numbers. */
static ft_status fill_rows(struct ft_meter *m, uint32_t n, struct ft_error *err) {
    const struct ft_hparams *hp = m->lane.hp;
    if (n <= m->n_row) {
        return FT_OK;
    }
    FT_TRY(ft_kv_extend(m->kv, 0, m->pos + m->n_row, n - m->n_row, err));
    size_t last = (size_t)FT_CHUNK * hp->n_embd - hp->head_dim;
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        for (uint32_t j = m->n_row; j < n; j++) {
            const float *k = m->hidden + ((size_t)j * 61 + h) % last;
            ft_kv_write(m->kv, 0, h, j, k, k);
        }
    }
    m->n_row = n;
    return FT_OK;
}

/* ---- probes ---- */

/* The best of several runs; the next one starts only where it is expected to fit in slice_us. */
static ft_status best(struct ft_meter *m, struct ft_probe probe, double slice_us, double *us,
                      struct ft_error *err) {
    int64_t start = ft_time_us();
    FT_TRY(fill_rows(m, probe.n_row, err));
    probe.kv = m->kv;
    probe.hidden = m->hidden;
    probe.out = m->out;
    probe.pos = m->pos;
    *us = INFINITY;
    for (uint32_t i = 0; i < RUN_MAX; i++) {
        int64_t one;
        FT_TRY(ft_lane_probe(&m->lane, &probe, &one, err));
        *us = FT_MIN(*us, (double)one);
        if (i + 1 >= m->n_run_least && (double)(ft_time_us() - start) + *us > slice_us) {
            break;
        }
    }
    m->spent_us += ft_time_us() - start;
    return FT_OK;
}

static struct ft_probe layers(uint32_t n_layer, uint32_t n_token, uint32_t n_row) {
    return (struct ft_probe){
        .kind = FT_PROBE_LAYERS, .layer_end = n_layer, .n_token = n_token, .n_row = n_row
    };
}

static struct ft_probe attention(const struct ft_meter *m, uint32_t n_row) {
    uint32_t n_layer = m->lane.hp->n_layer;
    return (struct ft_probe){ .kind = FT_PROBE_ATTENTION,
                              .layer_first = n_layer - 1,
                              .layer_end = n_layer,
                              .n_token = QUERY,
                              .n_row = n_row };
}

/* ---- the shape of a layer ---- */

static void set_shape(const struct ft_hparams *hp, struct ft_rates *r) {
    double embd = hp->n_embd, q = embd * hp->n_head * hp->head_dim;
    double kv = embd * hp->n_head_kv * hp->head_dim, ffn = 3 * embd * hp->n_ff;
    double all = 2 * q + 2 * kv + ffn;
    r->n_layer = hp->n_layer;
    r->n_weight = all * hp->n_layer;
    r->share_q = r->share_o = q / all;
    r->share_k = r->share_v = kv / all;
    r->share_f = ffn / all;
}

/* Multiplications of a pair over those of a token in one layer. */
static double pair_ratio(const struct ft_hparams *hp, const struct ft_rates *r) {
    return 2.0 * hp->n_head * hp->head_dim * hp->n_layer / r->n_weight;
}

ft_status ft_meter_glance(struct ft_meter *m, struct ft_rates *out, struct ft_error *err) {
    struct ft_rates r = { 0 };
    set_shape(m->lane.hp, &r);
    /* twice: the first run meets pages that nobody has touched */
    FT_TRY(best(m, layers(1, GLANCE_TOKEN, GLANCE_TOKEN), 0, &m->glance_us, err));
    double second;
    FT_TRY(best(m, layers(1, GLANCE_TOKEN, GLANCE_TOKEN), 0, &second, err));
    m->glance_us = FT_MIN(m->glance_us, second);
    r.token_us = m->glance_us / GLANCE_TOKEN;
    r.pair_us[0] = r.pair_us[1] = r.token_us * pair_ratio(m->lane.hp, &r);
    r.measure_us = m->spent_us;
    *out = r;
    return FT_OK;
}

/* ---- all of it ---- */

static ft_status measure_tokens(struct ft_meter *m, double slice_us, struct ft_rates *r,
                                struct ft_error *err) {
    uint32_t n = FT_CHUNK;
    double large, small;
    while (n > 2 * GLANCE_TOKEN && 2 * m->glance_us * n / GLANCE_TOKEN > slice_us) {
        n /= 2;
    }
    FT_TRY(best(m, layers(1, n, n), slice_us * 0.8, &large, err));
    FT_TRY(best(m, layers(1, GLANCE_TOKEN, GLANCE_TOKEN), slice_us * 0.2, &small, err));
    small = FT_MIN(small, m->glance_us);
    double slope = (large - small) / (n - GLANCE_TOKEN);
    /* few tokens may be slow ones: then a token costs what it costs in a chunk, and no less */
    slope = FT_MAX(slope, 0.5 * large / n);
    r->token_us = slope;
    r->pass_us = FT_MAX(large - n * slope, 0.0);
    /* the attention of these tokens to each other is in it; pairs are counted apart */
    double inside = ft_cost_pairs(n, 0, 0) / n * r->pair_us[0];
    r->token_us = FT_MAX(r->token_us - inside, 0.1 * r->token_us);
    return FT_OK;
}

static double slope_of(double few, double many, uint32_t n_few, uint32_t n_many, double floor_us) {
    double slope = (many - few) / ((double)QUERY * (n_many - n_few));
    return FT_MAX(slope, floor_us);
}

static ft_status measure_pairs(struct ft_meter *m, uint32_t n_row, double slice_us,
                               struct ft_rates *r, struct ft_error *err) {
    double few, many, more, least = 0.02 * r->pair_us[0]; /* noise may not make it free */
    uint32_t n_many = FT_MIN(n_row / 2, 1024u), n_more = n_row;
    FT_TRY(best(m, attention(m, QUERY), slice_us * 0.2, &few, err));
    FT_TRY(best(m, attention(m, n_many), slice_us * 0.3, &many, err));
    r->pair_us[0] = r->pair_us[1] = slope_of(few, many, QUERY, n_many, least);
    r->pair_row[0] = r->pair_row[1] = (QUERY + n_many) / 2.0;
    while (n_more > 2 * n_many && 2 * (few + r->pair_us[0] * QUERY * n_more) > slice_us * 0.5) {
        n_more /= 2;
    }
    if (n_more < 2 * n_many) {
        return FT_OK;
    }
    FT_TRY(best(m, attention(m, n_more), slice_us * 0.5, &more, err));
    r->pair_us[1] = slope_of(many, more, n_many, n_more, least);
    r->pair_row[1] = (n_many + n_more) / 2.0;
    double ratio = r->pair_us[1] / r->pair_us[0];
    if (ratio < 0.6 || ratio > 2) { /* rows do not differ that much: a disturbed run */
        r->pair_us[0] = r->pair_us[1] = slope_of(few, more, QUERY, n_more, least);
    }
    return FT_OK;
}

static ft_status measure_steps(struct ft_meter *m, double slice_us, struct ft_rates *r,
                               struct ft_error *err) {
    const struct ft_hparams *hp = m->lane.hp;
    uint32_t n_layer = FT_MIN(hp->n_layer, (uint32_t)STEP_LAYER);
    while (n_layer > 1 && n_layer * m->glance_us > slice_us) { /* a step takes less than that */
        n_layer /= 2;
    }
    double one, many;
    FT_TRY(best(m, layers(n_layer, 1, 1), slice_us / 2, &one, err));
    FT_TRY(best(m, layers(n_layer, 1, m->n_row), slice_us / 2, &many, err));
    r->step_us = one / n_layer;
    r->row_us = m->n_row > 1 ? FT_MAX(many - one, 0.0) / n_layer / (m->n_row - 1) : 0;
    double head = (double)hp->n_embd * hp->n_vocab;
    r->head_us = r->step_us * head / (r->n_weight / hp->n_layer);
    return FT_OK;
}

ft_status ft_meter_measure(struct ft_meter *m, uint32_t n_row, int64_t budget_us,
                           struct ft_rates *out, struct ft_error *err) {
    struct ft_rates r = *out;
    double left = FT_MAX((double)(budget_us - m->spent_us), 0.0);
    m->n_run_least = budget_us >= UNHURRIED_US ? 3 : 1;
    n_row = FT_MAX(FT_MIN(n_row, (uint32_t)ROW_MAX), 4u * QUERY);
    FT_TRY(measure_pairs(m, n_row, left * 0.35, &r, err));
    FT_TRY(measure_tokens(m, left * 0.45, &r, err));
    FT_TRY(measure_steps(m, left * 0.2, &r, err));
    r.measure_us = m->spent_us;
    *out = r;
    return FT_OK;
}

/* ---- for those who have no session ---- */

static ft_status measure(ft_session *s, const struct ft_session_params *params, uint32_t n_row,
                         int64_t budget_us, struct ft_rates *out, struct ft_error *err) {
    FT_TRY(ft_session_policy(s, params, err));
    struct ft_lane_params lane = {
        .model = s->target,
        .n_layer = s->lane.hp->n_layer,
        .n_thread = s->params.n_thread,
        .format = s->format,
        .is_exact = s->params.is_exact,
        .rope_scale = s->params.rope_scale,
        .is_cancelled = &s->is_cancelled,
        .phase = FT_PHASE_PREFILL,
    };
    struct ft_meter *meter = NULL;
    struct ft_rates rates;
    FT_TRY(ft_meter_new(&lane, &meter, err));
    ft_status status = ft_meter_glance(meter, &rates, err);
    if (status == FT_OK) {
        status = ft_meter_measure(meter, n_row, budget_us, &rates, err);
    }
    ft_meter_free(meter);
    FT_TRY(status);
    *out = rates;
    return FT_OK;
}

ft_status ft_rates_measure(const ft_model *model, const struct ft_session_params *params,
                           uint32_t n_row, int64_t budget_us, struct ft_rates *out,
                           struct ft_error *err) {
    ft_session *s = ft_alloc(1, sizeof *s); /* never opened: parameters only */
    if (!s) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to measure a model");
    }
    struct ft_session_params alone = *params;
    alone.prompt = alone.kv = NULL;
    alone.self_layers = 0;
    alone.n_ctx = 0;
    alone.is_auto = false;
    s->target = model;
    ft_status status = measure(s, &alone, n_row, budget_us, out, err);
    ft_session_policy_done(s);
    ft_free(s);
    return status;
}
