/* SPDX-License-Identifier: Apache-2.0 */
/* test_speckv.c - SpecKV: its vector through the public interface, and what it asks to watch. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "score/score.h"
#include "score_oracle.h"

/* The vectors' formulas: two query heads on one KV head, rows of two numbers. */
enum { N_HEAD = 2, D = 2, N_ROW_MAX = 12 };

static void formula(float *q, float *k, uint32_t n_row) {
    for (uint32_t t = 0; t < n_row; t++) {
        k[t * D] = (float)((3 * t) % 7) - 3;
        k[t * D + 1] = (float)((5 * t) % 4) - 1;
        for (uint32_t g = 0; g < N_HEAD; g++) {
            q[(g * n_row + t) * D] = (float)((t + g) % 3) - 1;
            q[(g * n_row + t) * D + 1] = (float)((2 * t + g) % 5) - 2;
        }
    }
}

static void expect_near(const float *got, const double *want, uint32_t n, double tolerance) {
    for (uint32_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= tolerance)) {
            fail_msg("element %u: got %.7f want %.7f", i, (double)got[i], want[i]);
        }
    }
}

static struct ft_score_output run(const char *spec, uint32_t n_prompt, uint32_t n_more) {
    static float q[N_HEAD * N_ROW_MAX * D], k[N_ROW_MAX * D];
    struct ft_score_layer layer = { .q = q, .k = k };
    struct ft_score_input in = { .n_prompt = n_prompt,
                                 .n_more = n_more,
                                 .n_layer = 1,
                                 .n_head = N_HEAD,
                                 .n_head_kv = 1,
                                 .d = D,
                                 .layer = &layer };
    struct ft_score_output out;
    struct ft_error err;
    formula(q, k, n_prompt + n_more);
    if (ft_score_arrays(FT_STAGE_KV, spec, &in, &out, &err) != FT_OK) {
        fail_msg("%s: %s", spec, err.text);
    }
    return out;
}

static void test_vector(void **state) {
    (void)state;
    /* printed with six decimals: half a unit of the last, and a little for fp32 */
    const double tolerance = 6e-7;
    static const double mass[7] = { .324828, .061777, .274341, .379768, .797590, .160163, .092328 };
    static const double pooled[7] = {
        .324828, .324828, .379768, .797590, .797590, .797590, .160163
    };
    static const uint32_t ranked[3] = { 3, 4, 5 }, kept[5] = { 3, 4, 5, 7, 8 };
    struct ft_score_output out = run("speckv:keep=5,window=2,kernel=3", 10, 2);
    assert_int_equal(out.n_head, 1);
    assert_int_equal(out.head->n_mass, 7);
    assert_int_equal(out.head->n_ranked, 3);
    assert_int_equal(out.head->n_kept, 5);
    expect_near(out.head->mass, mass, 7, tolerance);
    expect_near(out.head->pooled, pooled, 7, tolerance);
    assert_memory_equal(out.head->ranked, ranked, sizeof(ranked));
    assert_memory_equal(out.head->kept, kept, sizeof(kept));
    ft_score_free(&out);
    assert_null(out.head);
}

/* Without lookahead rows the same prompt ranks otherwise: they do vote. */
static void test_lookahead_votes(void **state) {
    (void)state;
    struct ft_score_output with = run("speckv:keep=5,window=2,kernel=1", 10, 2);
    struct ft_score_output without = run("speckv:keep=5,window=2,kernel=1", 10, 0);
    assert_memory_not_equal(with.head->mass, without.head->mass, 7 * sizeof(float));
    for (uint32_t j = 0; j < 7; j++) { /* max over more voters */
        assert_true(with.head->mass[j] >= without.head->mass[j] - 1e-6F);
    }
    ft_score_free(&with);
    ft_score_free(&without);
}

static void test_mean(void **state) {
    (void)state;
    float q[N_HEAD * 12 * D], k[12 * D];
    double mass[7], pooled[7];
    formula(q, k, 12);
    struct oracle_layer layer = { .q = q, .k = k, .n_head = 2, .n_head_kv = 1, .n_q = 12, .d = D };
    oracle_speckv(&layer, 0, 10, 2, false, mass);
    oracle_pool(mass, 7, 5, false, pooled);
    const char *spec = "speckv:keep=5,window=2,kernel=5,pool=mean,reduce=mean";
    struct ft_score_output out = run(spec, 10, 2);
    expect_near(out.head->mass, mass, 7, 1e-6);
    expect_near(out.head->pooled, pooled, 7, 1e-6);
    ft_score_free(&out);
}

/* n = C + 1: every candidate and the window stay; only the row that is fed again is missing. */
static void test_one_above(void **state) {
    (void)state;
    static const uint32_t kept[9] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    struct ft_score_output out = run("speckv:keep=9,window=2,kernel=3", 10, 2);
    assert_int_equal(out.head->n_ranked, 7);
    assert_int_equal(out.head->n_kept, 9);
    assert_memory_equal(out.head->kept, kept, sizeof(kept));
    ft_score_free(&out);
}

/* n <= C: dense, whatever the scores say. */
static void test_within_keep(void **state) {
    (void)state;
    struct ft_score_output out = run("speckv:keep=10,window=2,kernel=3", 10, 2);
    assert_int_equal(out.head->n_ranked, 0);
    assert_int_equal(out.head->n_kept, 10);
    for (uint32_t j = 0; j < 10; j++) {
        assert_int_equal(out.head->kept[j], j);
    }
    ft_score_free(&out);
    out = run("speckv", 1, 2); /* shorter than the window: nothing to score */
    assert_int_equal(out.head->n_mass, 0);
    assert_int_equal(out.head->n_kept, 1);
    ft_score_free(&out);
}

static struct ft_look look_of(const char *spec, const struct ft_facts *facts) {
    struct ft_choice choice;
    struct ft_look look;
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, spec, &choice, NULL), FT_OK);
    choice.method->look(choice.params, facts, &look);
    ft_choice_done(&choice);
    return look;
}

static void test_look(void **state) {
    (void)state;
    struct ft_facts facts = { .n_prompt = 9000, .n_layer = 4, .n_predict = 99, .token_bytes = 64 };
    struct ft_look look = look_of("speckv", &facts);
    assert_int_equal(look.source, FT_SOURCE_TARGET);
    assert_int_equal(look.window, 32);
    assert_int_equal(look.refeed, 1);
    assert_int_equal(look.lookahead, 99); /* the token limit */
    assert_int_equal(look.layer_first, 0);
    assert_int_equal(look.fold, FT_FOLD_MAX);
    assert_int_equal(look.ramp, FT_RAMP_OFF);
    assert_int_equal(look.prefill_window, 2048);
    assert_int_equal(look.prefill_vertical, 2048);
    look = look_of("speckv:lookahead=20,reduce=mean,prefill_window=128,prefill_vertical=64,"
                   "keep=192",
                   &facts);
    assert_int_equal(look.lookahead, 20);
    assert_int_equal(look.fold, FT_FOLD_MEAN);
    assert_int_equal(look.prefill_window, 128);
    assert_int_equal(look.prefill_vertical, 64); /* keep = W + V fits */
    facts.n_predict = 0;
    assert_int_equal(look_of("speckv", &facts).lookahead, 1);
}

/* keep above W + V raises V to keep - W, whatever unit keep was given in. */
static void test_vertical_raised(void **state) {
    (void)state;
    struct ft_facts facts = { .n_prompt = 9000, .n_layer = 4, .n_predict = 99, .token_bytes = 64 };
    assert_int_equal(look_of("speckv:keep=4096", &facts).prefill_vertical, 2048);
    assert_int_equal(look_of("speckv:keep=4097", &facts).prefill_vertical, 2049);
    assert_int_equal(look_of("speckv:keep=50%", &facts).prefill_vertical, 4500 - 2048);
    assert_int_equal(look_of("speckv:keep=320000B", &facts).prefill_vertical, 5000 - 2048);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_lookahead_votes),
        cmocka_unit_test(test_mean),
        cmocka_unit_test(test_one_above),
        cmocka_unit_test(test_within_keep),
        cmocka_unit_test(test_look),
        cmocka_unit_test(test_vertical_raised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
