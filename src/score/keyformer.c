/* SPDX-License-Identifier: Apache-2.0 */
/* keyformer.c - Keyformer: as H2O, with weights that chance perturbs and that flatten as the answer
 * grows.
 *
 * Paper    arXiv:2403.09054
 * Score    f[j] = mean over a KV head's query heads of sum over voters i of
 *          softmax((x + z) / tau)[j], x = q_i.k/sqrt d, z ~ Gumbel(0, 1) drawn for each (seed, layer,
 *          query head, i, j); voters: all prompt tokens, or the last `window`, then every further
 *          token.  tau is 1 in the prompt and 1 + t (end - 1) / T at token t of an answer of at most
 *          T.  Kept: the newest recent/100 keep rows, and of the others those with the largest f.
 *          One row leaves for each that comes; attention itself stays as it is
 *          With p the ordinary weights, exp((x + z) / tau) is (p / e)^(1/tau) times a number that all
 *          rows share, e = exp(-z) = -ln u, u uniform in (0, 1): nothing but p is asked for
 * Departs  keep is what it is for every method, the paper takes 60% of the prompt; a KV head keeps
 *          rows, not a query head: a group's weights count as their mean; sums stay fp32; a weight
 *          that is 0 in fp32 stays 0, whatever tau.  In the released code no row that the answer adds
 *          can become one of the best: a row that leaves the newest is a candidate here, as the paper
 *          says.  z is one of 2^23 values between -2.9 and 16.7
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_evict.c
 */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "score/score.h"

struct keyformer {
    struct ft_amount keep;
    uint32_t recent, window, noise, seed, tau;
};

enum { NOISE_GUMBEL, NOISE_NONE }; /* order of the choices below */

#define AT(field) offsetof(struct keyformer, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the newest included" },
    { .name = "recent", .type = FT_UINT, .offset = AT(recent), .initial = "30", .low = 1,
      .high = 99, .help = "percent of them that are the newest rows" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .low = 1, .high = 16777216,
      .unset = "all prompt rows", .help = "last prompt rows that vote; 32 are the cheap form" },
    { .name = "noise", .type = FT_CHOICE, .offset = AT(noise), .initial = "gumbel",
      .choices = "gumbel|none", .help = "what is added to the logits before they vote" },
    { .name = "seed", .type = FT_UINT, .offset = AT(seed), .initial = "0", .low = 0,
      .high = 2147483647, .help = "another seed, other noise" },
    { .name = "tau", .type = FT_UINT, .offset = AT(tau), .initial = "2", .low = 1,
      .high = 1000000, .help = "temperature of the votes at the answer's end; 1 behind the prompt" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct keyformer *p = params;
    p->window = FT_MIN(p->window, facts->n_prompt); /* an open default is the largest number */
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct keyformer p = *(const struct keyformer *)params;
    resolve(&p, facts);
    uint64_t recent = (uint64_t)ft_amount_rows(&p.keep, facts) * p.recent / 100;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = FT_MAX((uint32_t)recent, 1),
        .n_observed = p.window,
        .is_group_max = true,
        .is_evicting = true,
    };
}

/* A mean over voters ranks as their sum does, and is what rank=critical adds a constant to. */
static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = ev->mass[j] / (float)ev->n_voter;
    }
}

enum { BLOCK = 64 }; /* draws at a time: loops of a constant length become vector instructions */

/* -ln u, u = odd / 2^24.  With odd = 2^k (1 + r), 1 + r in [sqrt(1/2), sqrt(2)): (24 - k) ln 2 -
 * ln(1 + r), the latter r - r^2/2 + r^3 P(r) with P of degree 7 interpolated at Chebyshev nodes,
 * relative error 2e-8; near u = 1 as exact as elsewhere, as k is 24 there. */
static float minus_log(uint32_t odd) {
    float x = (float)(int32_t)odd, r, p = -0x1.43b246p-4F;
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    int32_t k = (int32_t)(bits - 0x3f3504f3) >> 23;
    bits -= (uint32_t)k << 23;
    memcpy(&r, &bits, sizeof(r));
    r -= 1;
    p = p * r + 0x1.02814ep-3F;
    p = p * r - 0x1.0a33eap-3F;
    p = p * r + 0x1.231ce6p-3F;
    p = p * r - 0x1.54d03ep-3F;
    p = p * r + 0x1.999f14p-3F;
    p = p * r - 0x1.0000cep-2F;
    p = p * r + 0x1.555554p-2F;
    return (float)(24 - k) * 0x1.62e43p-1F - (r - r * r * (0.5F - r * p));
}

/* Weights over exp(-z), a draw z for each key: odd multiples of 2^-24 are never 0 nor 1. */
static void divide_by_draws(uint64_t place, const ft_pos key[BLOCK], float weight[BLOCK]) {
    uint32_t odd[BLOCK];
    for (uint32_t j = 0; j < BLOCK; j++) {
        odd[j] = (uint32_t)(ft_rng_mix(place ^ (uint64_t)key[j]) >> 41 << 1 | 1);
    }
    for (uint32_t j = 0; j < BLOCK; j++) {
        weight[j] /= minus_log(odd[j]);
    }
}

/* A block of weights, perturbed and flattened; sums are added in eight parts. */
static void perturb_block(const struct keyformer *p, uint64_t place, float tau,
                          const ft_pos key[BLOCK], float weight[BLOCK], double sum[8]) {
    if (p->noise == NOISE_GUMBEL) {
        divide_by_draws(place, key, weight);
    }
    for (uint32_t j = 0; tau > 1 && j < BLOCK; j++) {
        weight[j] = powf(weight[j], 1 / tau);
    }
    for (uint32_t j = 0; j < BLOCK; j += 8) {
        for (uint32_t e = 0; e < 8; e++) {
            sum[e] += (double)weight[j + e];
        }
    }
}

/* One query head's weights, perturbed and flattened; ->  their sum */
static double perturb(const struct ft_step *step, const struct keyformer *p, float tau,
                      uint32_t g) {
    float *weight = step->mass + g * step->mass_stride;
    uint32_t head = step->head * step->n_mass + g, whole = step->n_row / BLOCK * BLOCK;
    uint64_t place = ft_rng_value(p->seed, step->layer, head, (uint64_t)step->pos_now);
    double sum[8] = { 0 };
    for (uint32_t first = 0; first < whole; first += BLOCK) {
        perturb_block(p, place, tau, step->pos + first, weight + first, sum);
    }
    ft_pos key[BLOCK] = { 0 };
    float rest[BLOCK] = { 0 }; /* zeros stay zeros */
    uint32_t n = step->n_row - whole;
    memcpy(key, step->pos + whole, n * sizeof(*key));
    memcpy(rest, weight + whole, n * sizeof(*rest));
    perturb_block(p, place, tau, key, rest, sum);
    memcpy(weight + whole, rest, n * sizeof(*rest));
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static void observe(const struct ft_step *step, const void *params) {
    const struct keyformer *p = params;
    float tau = 1;
    if (step->n_step > 0) {
        tau += (float)step->n_step * (float)(p->tau - 1) / (float)step->n_answer;
    }
    for (uint32_t g = 0; g < step->n_mass; g++) {
        const float *weight = step->mass + g * step->mass_stride;
        float share = (float)(1 / (perturb(step, p, tau, g) * step->n_mass));
        for (uint32_t j = 0; j < step->n_row; j++) {
            step->aux[j] += weight[j] * share;
        }
    }
}

static uint32_t evict(const struct ft_step *step, const void *params, uint32_t *drop) {
    (void)params;
    return ft_keep_evict(step->aux, step, drop);
}

const struct ft_method ft_method_keyformer = {
    .name = "keyformer",
    .title = "all tokens so far, perturbed by chance, choose the KV rows that stay",
    .paper = "arXiv:2403.09054",
    .file = "src/score/keyformer.c",
    .act = FT_RETAIN,
    .params = table,
    .params_size = sizeof(struct keyformer),
    .resolve = resolve,
    .look = look,
    .score = score,
    .n_aux = 1,
    .observe = observe,
    /* generate, 3721 tokens, 4 heads of a group, avx2: the processor's time more than dense, against
     * h2o's; 1.8 to 2.8 in five runs in turn */
    .observe_cost = 2.0,
    .evict = evict,
};
