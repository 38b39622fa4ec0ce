/* SPDX-License-Identifier: Apache-2.0 */
/* test_budget.c - budgets over layers and heads: vectors, and what must hold for any scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "score/score.h"
#include "score_oracle.h"

enum { HEAD_MAX = 6, N_MAX = 120 };

/* ---- pyramid ---- */

static struct ft_layers pyramid(uint32_t keep, uint32_t window, uint32_t beta, uint32_t n_layer,
                                uint32_t n) {
    struct ft_split split = { .budget = FT_BUDGET_PYRAMID, .beta = beta };
    return ft_split_layers(&split, keep - window, n - window, n, n_layer);
}

static void test_pyramid(void **state) {
    (void)state;
    struct ft_layers l = pyramid(256, 32, 20, 32, 8192); /* 437, 424, ... 34 */
    assert_int_equal(l.most, 437);
    assert_int_equal(l.step, 13);
    assert_int_equal(l.most - 31 * l.step, 34);
    assert_int_equal(ft_layers_sum(&l, 32), 7536); /* uniform: 7168 */
    l = pyramid(256, 32, 20, 32, 447);             /* below 2 * 224 tokens: uniform */
    assert_int_equal(l.most, 224);
    assert_int_equal(l.step, 0);
    l = pyramid(256, 32, 20, 32, 448); /* most is 416 candidates, least 32, step 384 / 31 */
    assert_int_equal(l.most, 416);
    assert_int_equal(l.step, 12);
    l = pyramid(256, 32, 20, 32, 470); /* 437 of 438 candidates: what the formula asks for */
    assert_int_equal(l.most, 437);
    l = pyramid(10, 2, 20, 3, 100); /* B 8, min 0, most 16 */
    assert_int_equal(l.most, 16);
    assert_int_equal(l.step, 8);
    assert_int_equal(pyramid(256, 32, 20, 1, 8192).most, 224); /* one layer */
    assert_int_equal(pyramid(256, 32, 1, 32, 8192).step, 0);   /* beta 1 */
    assert_int_equal(pyramid(256, 32, 2, 32, 8192).most, 336);
    struct ft_split uniform = { .budget = FT_BUDGET_UNIFORM };
    l = ft_split_layers(&uniform, 224, 8160, 8192, 32);
    assert_int_equal(ft_layers_sum(&l, 32), 7168);
}

/* The formula where candidates are few, without the rule for short prompts: V-pyramid's second
 * line. 368, 359, ... 89. */
static void test_pyramid_clipped(void **state) {
    (void)state;
    struct ft_split split = { .budget = FT_BUDGET_PYRAMID, .beta = 20 };
    struct ft_layers l = ft_split_layers(&split, 224, 368, 448, 32);
    assert_int_equal(l.most, 368);
    assert_int_equal(l.step, 9);
    assert_int_equal(l.most - 31 * l.step, 89);
}

/* ---- ada ---- */

struct layer {
    float score[HEAD_MAX * N_MAX];
    uint32_t n_head, n, n_free;
};

static void split_layer(const struct layer *x, uint32_t alpha, uint32_t rule, uint32_t *out) {
    static float copy[HEAD_MAX * N_MAX];
    static uint32_t work[HEAD_MAX * N_MAX], ranked[HEAD_MAX * N_MAX];
    struct ft_split split = { .budget = FT_BUDGET_ADA, .alpha = alpha, .rule = rule };
    struct ft_heads heads = { .score = x->score,
                              .n_head = x->n_head,
                              .n = x->n,
                              .copy = copy,
                              .work = work,
                              .ranked = ranked };
    ft_split_heads(&split, &heads, x->n_free, out);
}

/* Three heads of five rows, B = 3.  All in order: .9 .8 .7 .6 .5 (h0), .45 .41 (h1), .4 (h2) ... */
static const struct layer example = {
    .score = { .9F, .8F, .7F, .6F, .5F,   /* */
               .45F, .41F, .1F, .1F, .1F, /* */
               .4F, .05F, .05F, .05F, .05F },
    .n_head = 3,
    .n = 5,
    .n_free = 3,
};

static void expect_heads(const struct layer *x, uint32_t alpha, uint32_t rule, uint32_t a,
                         uint32_t b, uint32_t c) {
    uint32_t got[HEAD_MAX];
    split_layer(x, alpha, rule, got);
    if (got[0] != a || got[1] != b || got[2] != c) {
        fail_msg("alpha %u, rule %u: %u %u %u, want %u %u %u", alpha, rule, got[0], got[1], got[2],
                 a, b, c);
    }
}

static void test_ada(void **state) {
    (void)state;
    /* 9 best of all: five of head 0, .45 .41 of head 1, .4 of head 2, and .1, the first of three */
    expect_heads(&example, 0, FT_RULE_EXACT, 5, 3, 1);
    expect_heads(&example, 33, FT_RULE_EXACT, 5, 3, 1);  /* floor(.99) = 0 for certain */
    expect_heads(&example, 34, FT_RULE_EXACT, 5, 3, 1);  /* 1 each: they were in already */
    expect_heads(&example, 67, FT_RULE_EXACT, 5, 2, 2);  /* 2 each, then .7 .6 .5 */
    expect_heads(&example, 100, FT_RULE_EXACT, 3, 3, 3); /* uniform */
    expect_heads(&example, 0, FT_RULE_ADAKV, 5, 3, 1);
    expect_heads(&example, 50, FT_RULE_ADAKV, 4, 2, 2); /* 3.5 2.5 1.5: halves to even */
    expect_heads(&example, 40, FT_RULE_ADAKV, 4, 3, 2); /* 4 2.8 1.6 */
    expect_heads(&example, 100, FT_RULE_ADAKV, 3, 3, 3);
}

/* Equal scores everywhere: the lower head first, then the lower row. */
static void test_ada_ties(void **state) {
    (void)state;
    struct layer x = example;
    for (uint32_t i = 0; i < 15; i++) {
        x.score[i] = 1;
    }
    expect_heads(&x, 0, FT_RULE_EXACT, 5, 4, 0);
    expect_heads(&x, 34, FT_RULE_EXACT, 5, 3, 1);
}

static void test_ada_random(void **state) {
    (void)state;
    uint64_t rng = 3;
    static struct layer x;
    for (uint32_t round = 0; round < 2000; round++) {
        uint32_t got[HEAD_MAX], total = 0, alpha = oracle_below(&rng, 101);
        x.n_head = 1 + oracle_below(&rng, HEAD_MAX);
        x.n = 1 + oracle_below(&rng, N_MAX);
        x.n_free = oracle_below(&rng, x.n + 1);
        uint32_t levels = 2 + oracle_below(&rng, 30), sure = x.n_free * alpha / 100;
        for (uint32_t i = 0; i < x.n_head * x.n; i++) {
            x.score[i] = (float)oracle_below(&rng, levels) - 3;
        }
        split_layer(&x, alpha, FT_RULE_EXACT, got);
        for (uint32_t h = 0; h < x.n_head; h++) {
            assert_in_range(got[h], sure, x.n);
            assert_true(alpha < 100 || got[h] == x.n_free);
            total += got[h];
        }
        assert_int_equal(total, x.n_head * x.n_free);
        /* what a head gets beyond its sure rows is no worse than what others had to leave */
        for (uint32_t a = 0; a < x.n_head; a++) {
            for (uint32_t b = 0; b < x.n_head; b++) {
                double in[N_MAX], out[N_MAX];
                uint32_t rank_a[N_MAX], rank_b[N_MAX];
                for (uint32_t j = 0; j < x.n; j++) {
                    in[j] = (double)x.score[a * x.n + j];
                    out[j] = (double)x.score[b * x.n + j];
                }
                oracle_rank(in, x.n, rank_a);
                oracle_rank(out, x.n, rank_b);
                if (got[a] > sure && got[b] < x.n) {
                    assert_true(in[rank_a[got[a] - 1]] >= out[rank_b[got[b]]]);
                }
            }
        }
        split_layer(&x, alpha, FT_RULE_ADAKV, got);
        total = 0;
        for (uint32_t h = 0; h < x.n_head; h++) {
            assert_in_range(got[h], sure, x.n);
            total += got[h];
        }
        double ideal = x.n_head * (x.n_free * (1 - alpha / 100.0) + sure);
        assert_true(x.n_free == x.n || fabs(total - ideal) <= x.n_head / 2.0 + 1e-9);
        assert_true(x.n_free < x.n || total == x.n_head * x.n);
    }
}

/* ---- settings ---- */

static void expect_refusal(enum ft_stage stage, const char *spec, const char *part) {
    struct ft_choice choice;
    struct ft_error err;
    assert_int_equal(ft_choice_parse(stage, spec, &choice, &err), FT_ARG);
    if (strstr(err.text, part) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", spec, err.text, part);
    }
}

static void expect_settings(const char *spec, const char *want) {
    struct ft_choice choice;
    struct ft_setting setting;
    char text[256] = "";
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, spec, &choice, NULL), FT_OK);
    for (uint32_t i = 0; ft_choice_setting(&choice, NULL, i, &setting); i++) {
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "%s%s=%s", i > 0 ? " " : "", setting.name,
                       setting.value);
    }
    assert_string_equal(text, want);
    ft_choice_done(&choice);
}

/* Settings of the budget that is chosen, and of no other. */
static void test_settings(void **state) {
    (void)state;
    expect_settings("tova", "keep=1024 decode=on budget=uniform rank=score");
    expect_settings("tova:budget=pyramid", "keep=1024 decode=on budget=pyramid beta=20 rank=score");
    expect_settings("knorm:beta=7,budget=pyramid",
                    "keep=1024 window=0 budget=pyramid beta=7 rank=score");
    expect_settings("knorm:budget=ada",
                    "keep=1024 window=0 budget=ada alpha=20 rule=exact rank=score");
    expect_settings("knorm:rule=adakv,budget=ada,alpha=0",
                    "keep=1024 window=0 budget=ada alpha=0 rule=adakv rank=score");
    expect_settings("tova:rho=9,rank=critical", "keep=1024 decode=on budget=uniform rank=critical rho=9");
    struct ft_choice choice;
    uint32_t value;
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, "speckv:budget=ada,alpha=55", &choice, NULL),
                     FT_OK);
    assert_int_equal(ft_choice_split(&choice)->budget, FT_BUDGET_ADA);
    assert_int_equal(ft_choice_split(&choice)->alpha, 55);
    assert_true(ft_choice_uint(&choice, "alpha", &value) && value == 55);
    ft_choice_done(&choice);
}

static void test_refusals(void **state) {
    (void)state;
    const enum ft_stage kv = FT_STAGE_KV;
    expect_refusal(kv, "tova:budget=ada", "tova: budget=ada makes no sense, all heads of a layer");
    expect_refusal(kv, "random:budget=ada", "random: budget=ada makes no sense");
    expect_refusal(kv, "streamingllm:budget=ada", "streamingllm: budget=ada makes no sense");
    expect_refusal(kv, "streamingllm:budget=pyramid",
                   "streamingllm: budget=pyramid makes no sense");
    expect_refusal(kv, "snapkv:alpha=30", "alpha belongs to budget=ada, the budget is uniform");
    expect_refusal(kv, "snapkv:budget=ada,beta=9",
                   "beta belongs to budget=pyramid, the budget is "
                   "ada");
    expect_refusal(kv, "snapkv:budget=pyramid,rule=exact", "rule belongs to budget=ada");
    expect_refusal(kv, "snapkv:budget=joint", "expected uniform|pyramid|ada");
    expect_refusal(kv, "snapkv:budget=ada,alpha=101", "expected 0..100");
    expect_refusal(kv, "snapkv:budget=pyramid,beta=0", "expected 1..1000");
    expect_refusal(kv, "snapkv:rho=30", "rho belongs to rank=critical, the rank is score");
    expect_refusal(kv, "snapkv:rank=critical,rho=101", "expected 0..100");
    expect_refusal(kv, "snapkv:rank=size", "expected score|critical");
    expect_refusal(kv, "random:rank=critical", "random: rank=critical makes no sense, chance");
    expect_refusal(kv, "knorm:rank=critical", "knorm: rank=critical makes no sense");
    expect_refusal(kv, "streamingllm:rank=critical", "streamingllm: rank=critical makes no sense");
    expect_refusal(kv, "laq:keep=50,trial_window=50",
                   "trial_window is 50, expected less than keep");
    expect_refusal(kv, "laq:keep=60,window=10,trial_window=9",
                   "window is 10, expected at most trial_window, 9");
    expect_refusal(kv, "dense:budget=ada", "dense takes no parameters");
    expect_refusal(FT_STAGE_PROMPT, "specpc:budget=ada", "specpc has no parameter \"budget\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pyramid),    cmocka_unit_test(test_pyramid_clipped),
        cmocka_unit_test(test_ada),        cmocka_unit_test(test_ada_ties),
        cmocka_unit_test(test_ada_random), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
