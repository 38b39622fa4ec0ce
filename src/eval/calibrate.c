/* SPDX-License-Identifier: Apache-2.0 */
/* calibrate.c - a search over bits of layers. */
#include "eval/calibrate.h"

#include <math.h>
#include <string.h>

static const uint8_t widths[] = { 2, 4, 8 };

/* ---- choices ---- */

/* SplitMix64. */
static uint32_t below(uint64_t *seed, uint32_t n) {
    uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((x ^ (x >> 31)) % n);
}

static uint32_t sum_of(const uint8_t *bits, uint32_t n) {
    uint32_t sum = 0;
    for (uint32_t l = 0; l < n; l++) {
        sum += bits[l];
    }
    return sum;
}

/* Raise what still fits, from layer `first` on and round. */
static void fill(uint8_t *bits, uint32_t n, uint32_t most, uint32_t first) {
    uint32_t sum = sum_of(bits, n);
    for (uint32_t i = 0; i < 2 * n; i++) { /* 2 to 4, then 4 to 8 */
        uint8_t *at = &bits[(first + i) % n];
        if (*at < 8 && sum + *at <= most) {
            sum += *at;
            *at = (uint8_t)(*at * 2);
        }
    }
}

void ft_widths_draw(uint64_t *seed, uint32_t n, uint32_t most, uint8_t *bits) {
    for (uint32_t l = 0; l < n; l++) {
        bits[l] = widths[below(seed, FT_COUNT(widths))];
    }
    uint32_t sum = sum_of(bits, n);
    while (sum > most) {
        uint8_t *at = &bits[below(seed, n)];
        if (*at > 2) {
            *at = (uint8_t)(*at / 2);
            sum -= *at;
        }
    }
    fill(bits, n, most, below(seed, n));
}

/* ---- the search ---- */

struct search {
    const struct ft_calibrate_params *params;
    struct ft_calibrate *out;
    uint8_t best[FT_CALIBRATE_LAYERS];
};

static void spell(const uint8_t *bits, uint32_t n, char *out) {
    static const char name[] = "tada,bits=";
    memcpy(out, name, sizeof name);
    char *at = out + sizeof name - 1;
    for (uint32_t l = 0; l < n; l++) { /* widths are digits */
        at[2 * l] = (char)('0' + bits[l]);
        at[2 * l + 1] = l + 1 < n ? '.' : '\0';
    }
}

static ft_status try_bits(struct search *s, const uint8_t *bits, double *kl,
                          struct ft_error *error) {
    const struct ft_calibrate_params *p = s->params;
    char kv_type[FT_KV_TYPE_CAP];
    spell(bits, p->n_layer, kv_type);
    struct ft_session_params session = *p->session;
    session.prompt = session.kv = NULL;
    session.kv_type = kv_type;
    struct ft_drift_params drift = {
        .target = p->target, .session = &session, .id = p->id, .n_ctx = p->n_ctx, .guard = p->guard
    };
    struct ft_drift got;
    FT_TRY(ft_drift_run(&drift, &got, error));
    *kl = got.kl;
    bool is_best = s->out->n_tried == 0 || got.kl < s->out->kl;
    if (is_best) {
        s->out->kl = got.kl;
        s->out->average = (double)sum_of(bits, p->n_layer) / p->n_layer;
        memcpy(s->out->kv_type, kv_type, sizeof kv_type);
        memcpy(s->best, bits, p->n_layer);
    }
    s->out->n_tried++;
    if (p->tried) {
        p->tried(kv_type, got.kl, is_best, p->user);
    }
    return FT_OK;
}

/* Two layers whose bits differ exchange them. */
static ft_status exchange(struct search *s, uint64_t *seed, struct ft_error *error) {
    uint32_t n = s->params->n_layer;
    uint8_t bits[FT_CALIBRATE_LAYERS];
    uint32_t a = below(seed, n), step = below(seed, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t b = (a + step + i) % n;
        if (s->best[a] != s->best[b]) {
            double kl;
            memcpy(bits, s->best, n);
            bits[a] = s->best[b];
            bits[b] = s->best[a];
            return try_bits(s, bits, &kl, error);
        }
    }
    return FT_OK; /* all alike */
}

ft_status ft_calibrate_run(const struct ft_calibrate_params *params, struct ft_calibrate *out,
                           struct ft_error *error) {
    struct search s = { .params = params, .out = out };
    uint8_t bits[FT_CALIBRATE_LAYERS];
    uint32_t n = params->n_layer;
    uint64_t seed = params->seed;
    double kl;
    *out = (struct ft_calibrate){ .n_tried = 0 };
    if (n == 0 || n > FT_CALIBRATE_LAYERS || !(params->average >= 2 && params->average <= 8)) {
        return ft_fail(error, FT_ARG, 0,
                       "%g bits on average of %u layers, expected 2..8 of at most %d",
                       params->average, n, FT_CALIBRATE_LAYERS);
    }
    uint32_t most = (uint32_t)floor(params->average * n);
    memset(bits, most >= 8 * n ? 8 : most >= 4 * n ? 4 : 2, n);
    fill(bits, n, most, 0);
    FT_TRY(try_bits(&s, bits, &out->kl_same, error));
    for (uint32_t i = 0; i < params->n_random; i++) {
        ft_widths_draw(&seed, n, most, bits);
        FT_TRY(try_bits(&s, bits, &kl, error));
    }
    for (uint32_t i = 0; i < params->n_exchange; i++) {
        FT_TRY(exchange(&s, &seed, error));
    }
    return FT_OK;
}
