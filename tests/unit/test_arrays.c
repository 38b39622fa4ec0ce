/* SPDX-License-Identifier: Apache-2.0 */
/* test_arrays.c - scoring on the caller's arrays against a naive twin in double, and every refusal.
 *
 * The twin (score_oracle.h) holds whole attention rows.  The chain is checked link by link, so that
 * near ties cannot hide an error: mass within the contract of the kernels, pooled from it, ranking
 * and selection exactly from that pooled; and the twin's own selection end to end where no near tie
 * stands at a decision.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/base.h"
#include "score_oracle.h"

enum { CASES = 200, N_MAX = 200, ROW_MAX = 220, LAYER_MAX = 3 };

struct problem {
    struct ft_score_input in;
    struct ft_score_layer layer[LAYER_MAX];
    struct oracle_layer oracle[LAYER_MAX];
    float *data;
    uint64_t rng;
};

static void problem_new(struct problem *p, uint64_t seed) {
    static const uint32_t d_of[] = { 1, 2, 5, 8, 16, 20, 64, 80 };
    memset(p, 0, sizeof(*p));
    p->rng = seed;
    uint32_t group = 1 + oracle_below(&p->rng, 4), n_head_kv = 1 + oracle_below(&p->rng, 3);
    p->in = (struct ft_score_input){
        .n_prompt = 20 + oracle_below(&p->rng, N_MAX - 20 + 1),
        .n_more = oracle_below(&p->rng, 6),
        .n_layer = 1 + oracle_below(&p->rng, LAYER_MAX),
        .n_head = group * n_head_kv,
        .n_head_kv = n_head_kv,
        .d = d_of[oracle_below(&p->rng, FT_COUNT(d_of))],
        .layer = p->layer,
    };
    size_t row = (size_t)(p->in.n_prompt + p->in.n_more) * p->in.d;
    size_t per_layer = row * (p->in.n_head + n_head_kv);
    p->data = malloc(per_layer * p->in.n_layer * sizeof(float));
    float spread = 1 + (float)oracle_below(&p->rng, 4); /* flat to peaked attention */
    for (size_t i = 0; i < per_layer * p->in.n_layer; i++) {
        p->data[i] = spread * oracle_real(&p->rng);
    }
    for (uint32_t l = 0; l < p->in.n_layer; l++) {
        p->layer[l].q = p->data + per_layer * l;
        p->layer[l].k = p->layer[l].q + row * p->in.n_head;
        p->oracle[l] = (struct oracle_layer){ .q = p->layer[l].q,
                                              .k = p->layer[l].k,
                                              .n_head = p->in.n_head,
                                              .n_head_kv = n_head_kv,
                                              .n_q = p->in.n_prompt + p->in.n_more,
                                              .d = p->in.d };
    }
}

/* The kernels' contract: relative 2e-5 of each mass; beside it what fp32 cannot hold. */
static bool is_near(double got, double want) {
    return fabs(got - want) <= 2e-5 * want + 1e-30;
}

/* Is the order of the first `deep` ranked scores beyond doubt?  Plateaus of max-pooling are. */
static bool is_clear(const double *s, const uint32_t *ranked, uint32_t deep, uint32_t n) {
    for (uint32_t i = 0; i < deep && i + 1 < n; i++) {
        double a = s[ranked[i]], b = s[ranked[i + 1]];
        if (a != b && a - b <= 8e-5 * a) {
            return false;
        }
    }
    return true;
}

static void widen(const float *in, uint32_t n, double *out) {
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (double)in[i];
    }
}

static void expect_pooled(const struct ft_score_head *head, uint32_t k, bool is_max, uint32_t at) {
    double mass[N_MAX], want[N_MAX];
    widen(head->mass, head->n_mass, mass);
    oracle_pool(mass, head->n_mass, k, is_max, want);
    for (uint32_t j = 0; j < head->n_mass; j++) {
        if (head->pooled[j] != (float)want[j]) {
            fail_msg("case %u pooled[%u]: got %.9g want %.9g", at, j, (double)head->pooled[j],
                     want[j]);
        }
    }
}

static void expect_same(const uint32_t *got, uint32_t n_got, const uint32_t *want, uint32_t n_want,
                        const char *what, uint32_t at) {
    if (n_got != n_want) {
        fail_msg("case %u %s: got %u want %u entries", at, what, n_got, n_want);
    }
    for (uint32_t i = 0; i < n_got; i++) {
        if (got[i] != want[i]) {
            fail_msg("case %u %s[%u]: got %u want %u", at, what, i, got[i], want[i]);
        }
    }
}

/* ---- SpecKV ---- */

struct kv_params {
    uint32_t keep, window, kernel;
    bool pool_max, reduce_max;
};

/* ranked and kept of one head from pooled scores in double. */
static void kv_select(const double *pooled, uint32_t n, const struct kv_params *p, uint32_t *ranked,
                      uint32_t *kept) {
    uint32_t n_col = n - p->window - 1, chosen = p->keep - p->window;
    oracle_rank(pooled, n_col, ranked);
    memcpy(kept, ranked, chosen * sizeof(*kept));
    for (uint32_t i = 0; i < p->window; i++) {
        kept[chosen + i] = n_col + i;
    }
    qsort(kept, p->keep, sizeof(*kept), oracle_ascending);
}

static uint32_t kv_head_check(const struct problem *x, const struct kv_params *p,
                              const struct ft_score_head *head, uint32_t index, uint32_t at) {
    uint32_t n = x->in.n_prompt, n_col = n - p->window - 1, chosen = p->keep - p->window;
    uint32_t ranked[N_MAX], kept[N_MAX];
    double mass[N_MAX], pooled[N_MAX];
    oracle_speckv(&x->oracle[index / x->in.n_head_kv], index % x->in.n_head_kv, n, p->window,
                  p->reduce_max, mass);
    assert_int_equal(head->n_mass, n_col);
    for (uint32_t j = 0; j < n_col; j++) {
        if (!is_near((double)head->mass[j], mass[j])) {
            fail_msg("case %u head %u mass[%u]: got %.9g want %.9g", at, index, j,
                     (double)head->mass[j], mass[j]);
        }
    }
    expect_pooled(head, p->kernel, p->pool_max, at);
    widen(head->pooled, n_col, pooled);
    kv_select(pooled, n, p, ranked, kept);
    expect_same(head->ranked, head->n_ranked, ranked, chosen, "ranked", at);
    expect_same(head->kept, head->n_kept, kept, p->keep, "kept", at);
    oracle_pool(mass, n_col, p->kernel, p->pool_max, pooled);
    kv_select(pooled, n, p, ranked, kept);
    if (!is_clear(pooled, ranked, chosen, n_col)) {
        return 0;
    }
    expect_same(head->ranked, head->n_ranked, ranked, chosen, "ranked end to end", at);
    expect_same(head->kept, head->n_kept, kept, p->keep, "kept end to end", at);
    return 1;
}

static void test_speckv_random(void **state) {
    (void)state;
    uint32_t clear = 0, total = 0;
    for (uint32_t at = 0; at < CASES; at++) {
        struct problem x;
        struct ft_score_output out;
        struct ft_error err;
        problem_new(&x, at + 1);
        struct kv_params p = { .window = 1 + oracle_below(&x.rng, 8),
                               .kernel = 1 + 2 * oracle_below(&x.rng, 8),
                               .pool_max = oracle_below(&x.rng, 2) == 0,
                               .reduce_max = oracle_below(&x.rng, 2) == 0 };
        p.keep = p.window + 1 + oracle_below(&x.rng, x.in.n_prompt - p.window - 1);
        char spec[160];
        (void)snprintf(spec, sizeof(spec),
                       "speckv:keep=%u,window=%u,kernel=%u,pool=%s,reduce=%s,prefill_vertical=%u",
                       p.keep, p.window, p.kernel, p.pool_max ? "max" : "mean",
                       p.reduce_max ? "max" : "mean", oracle_below(&x.rng, 300));
        if (ft_score_arrays(FT_STAGE_KV, spec, &x.in, &out, &err) != FT_OK) {
            fail_msg("case %u: %s: %s", at, spec, err.text);
        }
        assert_int_equal(out.n_head, x.in.n_layer * x.in.n_head_kv);
        for (uint32_t i = 0; i < out.n_head; i++, total++) {
            clear += kv_head_check(&x, &p, &out.head[i], i, at);
        }
        ft_score_free(&out);
        free(x.data);
    }
    print_message("speckv: %u heads, %u compared end to end\n", total, clear);
    assert_true(clear * 2 > total);
}

/* ---- SpecPC ---- */

struct pc_params {
    uint32_t keep, window, kernel, nb, first;
    int ramp; /* 0 code, 1 paper, 2 off */
    int pool; /* 0 max, 1 mean, 2 none */
    bool reduce_max;
};

static void pc_score(const struct problem *x, const struct pc_params *p, double *score) {
    double u[N_MAX];
    for (uint32_t i = 0; i < p->window; i++) {
        double w = p->window;
        u[i] = p->ramp == 0 ? (p->window > 1 ? i / (w - 1) : 1) : p->ramp == 1 ? (i + 1) / w : 1;
    }
    memset(score, 0, x->in.n_prompt * sizeof(*score));
    for (uint32_t l = p->first; l < x->in.n_layer; l++) {
        oracle_specpc(&x->oracle[l], x->in.n_prompt, p->window, u, p->reduce_max, score);
    }
}

static uint32_t pc_check(const struct problem *x, const struct pc_params *p,
                         const struct ft_score_head *head, uint32_t at) {
    uint32_t n = x->in.n_prompt, kept[N_MAX], ranked[N_MAX];
    double score[N_MAX], pooled[N_MAX];
    pc_score(x, p, score);
    assert_int_equal(head->n_mass, n);
    assert_int_equal(head->n_ranked, 0);
    for (uint32_t j = 0; j < n; j++) {
        if (!is_near((double)head->mass[j], score[j])) {
            fail_msg("case %u score[%u]: got %.9g want %.9g", at, j, (double)head->mass[j],
                     score[j]);
        }
    }
    expect_pooled(head, p->pool == 2 ? 1 : p->kernel, p->pool != 1, at);
    widen(head->pooled, n, pooled);
    uint32_t n_kept = oracle_select(pooled, n, p->keep, p->window, p->nb, NULL, 0, kept);
    expect_same(head->kept, head->n_kept, kept, n_kept, "kept", at);
    oracle_pool(score, n, p->pool == 2 ? 1 : p->kernel, p->pool != 1, pooled);
    oracle_rank(pooled, n, ranked);
    if (!is_clear(pooled, ranked, p->keep, n)) {
        return 0;
    }
    n_kept = oracle_select(pooled, n, p->keep, p->window, p->nb, NULL, 0, kept);
    expect_same(head->kept, head->n_kept, kept, n_kept, "kept end to end", at);
    return 1;
}

static void test_specpc_random(void **state) {
    (void)state;
    static const char *const ramps[] = { "code", "paper", "off" };
    static const char *const pools[] = { "max", "mean", "none" };
    uint32_t clear = 0;
    for (uint32_t at = 0; at < CASES; at++) {
        struct problem x;
        struct ft_score_output out;
        struct ft_error err;
        problem_new(&x, 1000 + at);
        struct pc_params p = { .window = 1 + oracle_below(&x.rng, 12),
                               .kernel = 1 + oracle_below(&x.rng, 12),
                               .nb = oracle_below(&x.rng, 10),
                               .first = oracle_below(&x.rng, x.in.n_layer),
                               .ramp = (int)oracle_below(&x.rng, 3),
                               .pool = (int)oracle_below(&x.rng, 3),
                               .reduce_max = oracle_below(&x.rng, 2) == 0 };
        p.keep = p.window + 1 + oracle_below(&x.rng, x.in.n_prompt - p.window - 1);
        char spec[160];
        (void)snprintf(spec, sizeof(spec),
                       "specpc:keep=%u,window=%u,kernel=%u,neighbors=%u,start_layer=%u,"
                       "weighted=%s,pool=%s,reduce=%s",
                       p.keep, p.window, p.kernel, p.nb, p.first, ramps[p.ramp], pools[p.pool],
                       p.reduce_max ? "max" : "mean");
        if (ft_score_arrays(FT_STAGE_PROMPT, spec, &x.in, &out, &err) != FT_OK) {
            fail_msg("case %u: %s: %s", at, spec, err.text);
        }
        assert_int_equal(out.n_head, 1);
        clear += pc_check(&x, &p, out.head, at);
        ft_score_free(&out);
        free(x.data);
    }
    print_message("specpc: %d cases, %u compared end to end\n", CASES, clear);
    assert_true(clear * 3 > CASES);
}

/* The default start_layer is half of a shallow draft: layers below it do not vote. */
static void test_start_layer(void **state) {
    (void)state;
    struct problem x;
    struct ft_score_output open, given, all;
    problem_new(&x, 77);
    while (x.in.n_layer != 3) {
        free(x.data);
        problem_new(&x, x.rng);
    }
    const char *const spec = "specpc:keep=10,window=4";
    const char *const spec_1 = "specpc:keep=10,window=4,start_layer=1";
    const char *const spec_0 = "specpc:keep=10,window=4,start_layer=0";
    size_t bytes = x.in.n_prompt * sizeof(float);
    assert_int_equal(ft_score_arrays(FT_STAGE_PROMPT, spec, &x.in, &open, NULL), FT_OK);
    assert_int_equal(ft_score_arrays(FT_STAGE_PROMPT, spec_1, &x.in, &given, NULL), FT_OK);
    assert_int_equal(ft_score_arrays(FT_STAGE_PROMPT, spec_0, &x.in, &all, NULL), FT_OK);
    assert_memory_equal(open.head->mass, given.head->mass, bytes);
    assert_memory_not_equal(open.head->mass, all.head->mass, bytes);
    ft_score_free(&open);
    ft_score_free(&given);
    ft_score_free(&all);
    free(x.data);
}

/* ---- symmetries ---- */

/* Swap two heads of an array [n_head][n][d] in place. */
static void swap_heads(float *x, size_t head_floats, uint32_t a, uint32_t b) {
    for (size_t i = 0; i < head_floats; i++) {
        float t = x[a * head_floats + i];
        x[a * head_floats + i] = x[b * head_floats + i];
        x[b * head_floats + i] = t;
    }
}

static void test_permuted_heads(void **state) {
    (void)state;
    enum { N = 60, MORE = 3, H = 6, G = 2, WIDTH = 8, Q = N + MORE };
    static float q[H * Q * WIDTH], k[G * Q * WIDTH];
    uint64_t rng = 5;
    for (size_t i = 0; i < FT_COUNT(q); i++) {
        q[i] = 2 * oracle_real(&rng);
    }
    for (size_t i = 0; i < FT_COUNT(k); i++) {
        k[i] = 2 * oracle_real(&rng);
    }
    struct ft_score_layer layer = { .q = q, .k = k };
    struct ft_score_input in = { .n_prompt = N,
                                 .n_more = MORE,
                                 .n_layer = 1,
                                 .n_head = H,
                                 .n_head_kv = G,
                                 .d = WIDTH,
                                 .layer = &layer };
    struct ft_score_output before, inside, across;
    const char *const spec = "speckv:keep=20,window=4";
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, spec, &in, &before, NULL), FT_OK);
    swap_heads(q, Q * WIDTH, 0, 2); /* inside group 0: nothing changes, not a bit */
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, spec, &in, &inside, NULL), FT_OK);
    for (uint32_t h = 0; h < G; h++) {
        assert_memory_equal(before.head[h].mass, inside.head[h].mass,
                            before.head[h].n_mass * sizeof(float));
    }
    swap_heads(k, Q * WIDTH, 0, 1); /* whole groups: the answers change places */
    for (uint32_t g = 0; g < H / G; g++) {
        swap_heads(q, Q * WIDTH, g, g + H / G);
    }
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, spec, &in, &across, NULL), FT_OK);
    for (uint32_t h = 0; h < G; h++) {
        assert_memory_equal(before.head[h].mass, across.head[1 - h].mass,
                            before.head[h].n_mass * sizeof(float));
        assert_memory_equal(before.head[h].kept, across.head[1 - h].kept,
                            before.head[h].n_kept * sizeof(uint32_t));
    }
    ft_score_free(&before);
    ft_score_free(&inside);
    ft_score_free(&across);
}

/* One-hot keys: the answer's query finds the needle row, whatever the last prompt rows look at. */
static void test_needle(void **state) {
    (void)state;
    enum { N = 50, NEEDLE = 17, WIDTH = 16, Q = N + 1 };
    static float q[Q * WIDTH], k[Q * WIDTH];
    memset(q, 0, sizeof(q));
    memset(k, 0, sizeof(k));
    k[NEEDLE * WIDTH] = 1;
    q[N * WIDTH] = 100; /* only the lookahead row asks for it */
    struct ft_score_layer layer = { .q = q, .k = k };
    struct ft_score_input in = { .n_prompt = N,
                                 .n_more = 1,
                                 .n_layer = 1,
                                 .n_head = 1,
                                 .n_head_kv = 1,
                                 .d = WIDTH,
                                 .layer = &layer };
    struct ft_score_output out;
    const char *const spec = "speckv:keep=3,window=2,kernel=1";
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, spec, &in, &out, NULL), FT_OK);
    assert_int_equal(out.head->kept[0], NEEDLE);
    ft_score_free(&out);
    in.n_more = 0; /* without it the first of all equal rows stays */
    static float q_0[N * WIDTH], k_0[N * WIDTH];
    memcpy(k_0, k, sizeof(k_0));
    layer = (struct ft_score_layer){ .q = q_0, .k = k_0 };
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, spec, &in, &out, NULL), FT_OK);
    assert_int_equal(out.head->kept[0], 0);
    ft_score_free(&out);
}

/* ---- refusals ---- */

static void expect_refusal(enum ft_stage stage, const char *spec, const struct ft_score_input *in,
                           const char *part) {
    struct ft_score_output out = { .n_head = 7 };
    struct ft_error err = { .code = FT_OK };
    if (ft_score_arrays(stage, spec, in, &out, &err) != FT_ARG) {
        fail_msg("%s: accepted, want \"%s\"", spec, part);
    }
    if (strstr(err.text, part) == NULL || strchr(err.text, '\n') != NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", spec, err.text, part);
    }
    assert_int_equal(out.n_head, 7);
}

/* A lookahead that was given says how many rows stand behind the prompt; one left out does not. */
static void test_lookahead(void **state) {
    (void)state;
    static float zero[40 * 16 * 2];
    struct ft_score_layer layer = { .q = zero, .k = zero };
    const struct ft_score_input in = { .n_prompt = 20,
                                       .n_more = 2,
                                       .n_layer = 1,
                                       .n_head = 2,
                                       .n_head_kv = 1,
                                       .d = 4,
                                       .layer = &layer };
    static const struct {
        enum ft_stage stage;
        const char *spec, *says;
    } cases[] = {
        { FT_STAGE_KV, "speckv:keep=9", NULL },
        { FT_STAGE_KV, "speckv:keep=9,lookahead=2", NULL },
        { FT_STAGE_KV, "speckv:keep=9,lookahead=64",
          "lookahead=64 means 64 rows beyond n_prompt, the arrays have 2" },
        { FT_STAGE_KV, "speckv:lookahead=1,keep=9", "lookahead=1 means 1 rows" },
        { FT_STAGE_PROMPT, "specpc:keep=9,window=2", NULL },
        { FT_STAGE_PROMPT, "specpc:keep=9,window=2,lookahead=3", NULL },
        { FT_STAGE_PROMPT, "specpc:keep=9,window=2,lookahead=1",
          "lookahead=1 means 0 rows beyond n_prompt, the arrays have 2" },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_score_output out = { .n_head = 0 };
        struct ft_error err = { .text = "" };
        ft_status status = ft_score_arrays(cases[i].stage, cases[i].spec, &in, &out, &err);
        assert_int_equal(status, cases[i].says ? FT_FORMAT : FT_OK);
        if (cases[i].says && strstr(err.text, cases[i].says) == NULL) {
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].spec, err.text, cases[i].says);
        }
        ft_score_free(&out);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static float zero[40 * 16 * 2], score[40];
    struct ft_score_layer layer = { .q = zero, .k = zero };
    const struct ft_score_input good = {
        .n_prompt = 20, .n_layer = 1, .n_head = 2, .n_head_kv = 1, .d = 4, .layer = &layer
    };
    const char *const kv = "speckv:keep=9", *const pc = "specpc:keep=9,window=2";
    struct ft_score_input in = good;
    expect_refusal(FT_STAGE_KV, "speckv:keep=9,keep=9", &in, "given twice");
    expect_refusal(FT_STAGE_KV, "dense", &in, "dense scores nothing");
    expect_refusal(FT_STAGE_KV, "speckv:keep=1KiB", &in, "keep in bytes needs a model");
    expect_refusal(FT_STAGE_KV, "speckv:keep=40%", &in, "window is 8, expected less than keep");
    expect_refusal(FT_STAGE_PROMPT, "specpc:keep=9,window=2,start_layer=1", &in,
                   "start_layer is 1, but the layers are 0..0");
    in.n_prompt = 0;
    expect_refusal(FT_STAGE_KV, kv, &in, "n_prompt is 0");
    in.n_prompt = 1;
    in.n_more = INT32_MAX;
    expect_refusal(FT_STAGE_KV, kv, &in, "expected 1 to 2147483647");
    in = good;
    in.n_layer = 0;
    expect_refusal(FT_STAGE_KV, kv, &in, "layers: there are none");
    in = good;
    in.n_head = 3;
    in.n_head_kv = 2;
    expect_refusal(FT_STAGE_KV, kv, &in, "q has 3 heads and k has 2");
    in.n_head_kv = 0;
    expect_refusal(FT_STAGE_KV, kv, &in, "q has 3 heads and k has 0");
    in = good;
    in.d = 0;
    expect_refusal(FT_STAGE_KV, kv, &in, "rows have 0 numbers");
    in.d = 257;
    expect_refusal(FT_STAGE_KV, kv, &in, "rows have 257 numbers, expected 1 to 256");
    in = good;
    layer.k = NULL;
    expect_refusal(FT_STAGE_KV, kv, &in, "layer 0: q or k is missing");
    layer.k = zero;
    in.score = score;
    expect_refusal(FT_STAGE_PROMPT, pc, &in, "both score and layers");
    in.layer = NULL;
    expect_refusal(FT_STAGE_KV, kv, &in, "only a prompt method selects from ready scores");
    score[3] = -0.5F;
    expect_refusal(FT_STAGE_PROMPT, pc, &in, "score[3] is -0.5, expected a number >= 0");
    score[3] = NAN;
    expect_refusal(FT_STAGE_PROMPT, pc, &in, "score[3] is");
    score[3] = INFINITY;
    expect_refusal(FT_STAGE_PROMPT, pc, &in, "score[3] is inf");
}

/* Every allocation may fail: an answer, no leak (the sanitizer looks), nothing half made. */
static void test_nomem(void **state) {
    (void)state;
    static float zero[40 * 16 * 2];
    struct ft_score_layer layers[2] = { { .q = zero, .k = zero }, { .q = zero, .k = zero } };
    const struct ft_score_input in = { .n_prompt = 20,
                                       .n_more = 1,
                                       .n_layer = 2,
                                       .n_head = 2,
                                       .n_head_kv = 1,
                                       .d = 4,
                                       .layer = layers };
    for (int stage = FT_STAGE_PROMPT; stage <= FT_STAGE_KV; stage++) {
        const char *spec = stage == FT_STAGE_KV ? "speckv:keep=9" : "specpc:keep=9,window=2";
        ft_status status = FT_NOMEM;
        uint32_t n = 0;
        while (status == FT_NOMEM) {
            struct ft_score_output out = { .n_head = 7 };
            ft_alloc_fail_after(++n, true);
            status = ft_score_arrays((enum ft_stage)stage, spec, &in, &out, NULL);
            ft_alloc_fail_after(0, false);
            if (status == FT_OK) {
                ft_score_free(&out);
            } else {
                assert_int_equal(out.n_head, 7);
            }
        }
        assert_int_equal(status, FT_OK);
        assert_true(n > 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_speckv_random), cmocka_unit_test(test_specpc_random),
        cmocka_unit_test(test_start_layer),   cmocka_unit_test(test_permuted_heads),
        cmocka_unit_test(test_needle),        cmocka_unit_test(test_lookahead),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
