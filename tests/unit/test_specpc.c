/* SPDX-License-Identifier: Apache-2.0 */
/* test_specpc.c - SpecPC: the vectors of scoring and selection, protection, and what it watches. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "score/score.h"
#include "score_oracle.h"

enum { N_HEAD = 2, D = 2, N = 10 };

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

static struct ft_score_output run(const char *spec, const struct ft_score_input *in) {
    struct ft_score_output out;
    struct ft_error err;
    if (ft_score_arrays(FT_STAGE_PROMPT, spec, in, &out, &err) != FT_OK) {
        fail_msg("%s: %s", spec, err.text);
    }
    return out;
}

static struct ft_score_output run_formula(const char *spec, uint32_t n_more) {
    float q[N_HEAD * (N + 1) * D], k[(N + 1) * D];
    struct ft_score_layer layer = { .q = q, .k = k };
    struct ft_score_input in = { .n_prompt = N,
                                 .n_more = n_more,
                                 .n_layer = 1,
                                 .n_head = N_HEAD,
                                 .n_head_kv = 1,
                                 .d = D,
                                 .layer = &layer };
    formula(q, k, N + n_more);
    return run(spec, &in);
}

static void expect_kept(const struct ft_score_output *out, const uint32_t *want, uint32_t n) {
    assert_int_equal(out->n_head, 1);
    assert_int_equal(out->head->n_kept, n);
    for (uint32_t i = 0; i < n; i++) {
        if (out->head->kept[i] != want[i]) {
            fail_msg("kept[%u]: got %u want %u", i, out->head->kept[i], want[i]);
        }
    }
}

static void expect_near(const float *got, const double *want, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        /* printed with six decimals: half a unit of the last, and a little for fp32 */
        if (!(fabs((double)got[i] - want[i]) <= 6e-7)) {
            fail_msg("element %u: got %.7f want %.7f", i, (double)got[i], want[i]);
        }
    }
}

/* ---- scores ---- */

static const double code[N] = { .216552, .038944, .160185, .369459, .324873,
                                .106775, .089822, .637108, .078982, .021837 };
static const double code_decode[N] = { .254103, .061777, .160185, .369459, .324873,
                                       .106775, .089822, .637108, .254103, .324546 };
static const double paper[N] = { .243621, .043812, .180208, .369459, .398795,
                                 .120122, .089822, .637108, .088855, .021837 };

static void test_score_vectors(void **state) {
    (void)state;
    struct ft_score_output out = run_formula("specpc:keep=6,window=4", 0);
    assert_int_equal(out.head->n_mass, N);
    expect_near(out.head->mass, code, N);
    ft_score_free(&out);
    out = run_formula("specpc:keep=6,window=4", 1);
    expect_near(out.head->mass, code_decode, N);
    ft_score_free(&out);
    out = run_formula("specpc:keep=6,window=4,weighted=paper", 0);
    expect_near(out.head->mass, paper, N);
    ft_score_free(&out);
}

static void test_score_selection(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        uint32_t n, want[7];
    } cases[] = {
        { "specpc:keep=6,window=4,kernel=2,neighbors=2", 6, { 2, 3, 6, 7, 8, 9 } },
        { "specpc:keep=6,window=4,kernel=2,neighbors=2,weighted=paper", 6, { 3, 4, 6, 7, 8, 9 } },
        { "specpc:keep=7,window=4,kernel=3,neighbors=3", 7, { 1, 2, 5, 6, 7, 8, 9 } },
        { "specpc:keep=7,window=4,kernel=3,weighted=paper", 7, { 2, 3, 5, 6, 7, 8, 9 } },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_score_output out = run_formula(cases[i].spec, 1);
        expect_kept(&out, cases[i].want, cases[i].n);
        ft_score_free(&out);
    }
}

/* reduce=mean is a sum over heads and weighted rows. */
static void test_score_sum(void **state) {
    (void)state;
    float q[N_HEAD * N * D], k[N * D];
    static const double u[4] = { 0, 1.0 / 3, 2.0 / 3, 1 };
    double want[N] = { 0 };
    formula(q, k, N);
    struct oracle_layer layer = { .q = q, .k = k, .n_head = 2, .n_head_kv = 1, .n_q = N, .d = D };
    oracle_specpc(&layer, N, 4, u, false, want);
    struct ft_score_output out = run_formula("specpc:keep=6,window=4,reduce=mean", 0);
    expect_near(out.head->mass, want, N);
    ft_score_free(&out);
}

/* ---- selection ---- */

enum { N_SELECT = 20, W_SELECT = 4 };
static const float select_score[N_SELECT] = { 1, 0, 2, 0, 0, 9, 0, 0, 0, 0,
                                              0, 7, 0, 0, 3, 0, 0, 0, 0, 0 };

static void test_select_vectors(void **state) {
    (void)state;
    static const float pooled[N_SELECT] = { 2, 2, 2, 9, 9, 9, 9, 0, 0, 7,
                                            7, 7, 7, 3, 3, 3, 0, 0, 0, 0 };
    static const struct {
        const char *spec;
        uint32_t n, want[12];
    } cases[] = {
        { "specpc:window=4,kernel=4,keep=8", 8, { 2, 3, 4, 5, 16, 17, 18, 19 } },
        { "specpc:window=4,kernel=4,keep=10", 10, { 2, 3, 4, 5, 6, 7, 16, 17, 18, 19 } },
        { "specpc:window=4,kernel=4,keep=12", 12, { 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19 } },
        { "specpc:window=4,kernel=4,keep=10,neighbors=0",
          10,
          { 3, 4, 5, 6, 9, 10, 16, 17, 18, 19 } },
        { "specpc:window=4,kernel=4,keep=50%,neighbors=4,pool=none",
          10,
          { 4, 5, 6, 7, 10, 11, 16, 17, 18, 19 } },
    };
    struct ft_score_input in = { .n_prompt = N_SELECT, .score = select_score };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_score_output out = run(cases[i].spec, &in);
        expect_kept(&out, cases[i].want, cases[i].n);
        if (strstr(cases[i].spec, "none") == NULL) {
            assert_memory_equal(out.head->pooled, pooled, sizeof(pooled));
        } else {
            assert_memory_equal(out.head->pooled, select_score, sizeof(select_score));
        }
        ft_score_free(&out);
    }
}

static void test_select_all(void **state) {
    (void)state;
    struct ft_score_input in = { .n_prompt = N_SELECT, .score = select_score };
    for (uint32_t keep = N_SELECT; keep < N_SELECT + 3; keep++) {
        char spec[64];
        uint32_t all[N_SELECT];
        (void)snprintf(spec, sizeof(spec), "specpc:window=4,kernel=4,keep=%u", keep);
        struct ft_score_output out = run(spec, &in);
        for (uint32_t j = 0; j < N_SELECT; j++) {
            all[j] = j;
        }
        expect_kept(&out, all, N_SELECT);
        ft_score_free(&out);
    }
}

static void test_pool_vectors(void **state) {
    (void)state;
    static const float s[10] = { 0, 0, 0, 5, 0, 0, 0, 0, 3, 0 };
    static const float max[10] = { 0, 5, 5, 5, 5, 0, 3, 3, 3, 3 };
    static const float mean[10] = { 0, 1.25F, 1.25F, 1.25F, 1.25F, 0, .75F, .75F, .75F, .75F };
    struct ft_score_input in = { .n_prompt = 10, .score = s };
    struct ft_score_output out = run("specpc:kernel=4,keep=5,window=1", &in);
    assert_memory_equal(out.head->pooled, max, sizeof(max));
    ft_score_free(&out);
    out = run("specpc:kernel=4,keep=5,window=1,pool=mean", &in);
    assert_memory_equal(out.head->pooled, mean, sizeof(mean));
    ft_score_free(&out);
}

/* Neighbours at both ends are clamped: the edge itself is what they stand for. */
static void test_clamped(void **state) {
    (void)state;
    static const float s[8] = { 9, 0, 0, 0, 0, 0, 0, 0 };
    static const uint32_t want[4] = { 0, 1, 2, 7 };
    struct ft_score_input in = { .n_prompt = 8, .score = s };
    struct ft_score_output out = run("specpc:pool=none,neighbors=5,keep=4,window=1", &in);
    expect_kept(&out, want, 4);
    ft_score_free(&out);
}

/* An isolated peak costs kernel + neighbors - 1 tokens before the next one is reached. */
static void test_peak_cost(void **state) {
    (void)state;
    float s[300] = { 0 };
    s[100] = 2;
    s[200] = 1;
    struct ft_score_input in = { .n_prompt = 300, .score = s };
    struct ft_score_output out = run("specpc:window=1,kernel=32,keep=64", &in);
    for (uint32_t i = 0; i < 63; i++) {
        assert_in_range(out.head->kept[i], 60, 140);
    }
    ft_score_free(&out);
    out = run("specpc:window=1,kernel=32,keep=65", &in);
    assert_in_range(out.head->kept[63], 180, 220);
    ft_score_free(&out);
}

static void test_protected(void **state) {
    (void)state;
    static const uint32_t must[3] = { 0, 1, 12 };
    static const uint32_t want[8] = { 0, 1, 5, 12, 16, 17, 18, 19 };
    struct ft_choice choice;
    const char *spec = "specpc:window=4,keep=8,neighbors=0,pool=none";
    uint32_t work[2 * N_SELECT], out[8];
    assert_int_equal(ft_keep_work(N_SELECT), FT_COUNT(work));
    assert_int_equal(ft_choice_parse(FT_STAGE_PROMPT, spec, &choice, NULL), FT_OK);
    struct ft_budget budget = { .keep = 8, .n_prompt = N_SELECT, .must = must, .n_must = 3 };
    uint32_t n = choice.method->keep(select_score, choice.params, &budget, work, out);
    assert_int_equal(n, 8);
    assert_memory_equal(out, want, sizeof(want));
    ft_choice_done(&choice);
}

/* ---- look ---- */

static struct ft_look look_of(const char *spec, uint32_t n_layer) {
    struct ft_facts facts = { .n_prompt = 9000, .n_layer = n_layer, .n_predict = 99 };
    struct ft_choice choice;
    struct ft_look look;
    assert_int_equal(ft_choice_parse(FT_STAGE_PROMPT, spec, &choice, NULL), FT_OK);
    choice.method->look(choice.params, &facts, &look);
    ft_choice_done(&choice);
    return look;
}

static void test_look(void **state) {
    (void)state;
    struct ft_look look = look_of("specpc", 24);
    assert_int_equal(look.source, FT_SOURCE_DRAFT);
    assert_int_equal(look.window, 64);
    assert_int_equal(look.refeed, 0);
    assert_int_equal(look.lookahead, 1);
    assert_int_equal(look.layer_first, 8);
    assert_int_equal(look.fold, FT_FOLD_MAX);
    assert_int_equal(look.ramp, FT_RAMP_CODE);
    assert_true(look.is_compact && look.is_protecting);
    assert_int_equal(look.prefill_window, 0);
    assert_int_equal(look_of("specpc", 16).layer_first, 8);
    assert_int_equal(look_of("specpc", 15).layer_first, 7);
    assert_int_equal(look_of("specpc", 1).layer_first, 0);
    look = look_of("specpc:reduce=mean,weighted=paper,positions=original,protect=off,"
                   "start_layer=3,lookahead=4,window=7",
                   24);
    assert_int_equal(look.fold, FT_FOLD_SUM);
    assert_int_equal(look.ramp, FT_RAMP_PAPER);
    assert_false(look.is_compact || look.is_protecting);
    assert_int_equal(look.layer_first, 3);
    assert_int_equal(look.lookahead, 4);
    assert_int_equal(look.window, 7);
    assert_int_equal(look_of("specpc:weighted=off", 4).ramp, FT_RAMP_OFF);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score_vectors), cmocka_unit_test(test_score_selection),
        cmocka_unit_test(test_score_sum),     cmocka_unit_test(test_select_vectors),
        cmocka_unit_test(test_select_all),    cmocka_unit_test(test_pool_vectors),
        cmocka_unit_test(test_clamped),       cmocka_unit_test(test_peak_cost),
        cmocka_unit_test(test_protected),     cmocka_unit_test(test_look),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
