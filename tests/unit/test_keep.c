/* SPDX-License-Identifier: Apache-2.0 */
/* test_keep.c - pooling, ranking and retention against naive twins and the vectors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "score/score.h"
#include "score_oracle.h"

static void expect_floats(const float *got, const float *want, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (got[i] != want[i]) {
            fail_msg("element %u: got %g want %g", i, (double)got[i], (double)want[i]);
        }
    }
}

static void expect_indices(const uint32_t *got, const uint32_t *want, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (got[i] != want[i]) {
            fail_msg("element %u: got %u want %u", i, got[i], want[i]);
        }
    }
}

/* ---- pooling ---- */

static void test_pool_vectors(void **state) {
    (void)state;
    static const float s[10] = { 0, 0, 0, 5, 0, 0, 0, 0, 3, 0 };
    static const struct {
        uint32_t k;
        bool is_max;
        float want[10];
    } cases[] = {
        { 4, true, { 0, 5, 5, 5, 5, 0, 3, 3, 3, 3 } },
        { 4, false, { 0, 1.25F, 1.25F, 1.25F, 1.25F, 0, .75F, .75F, .75F, .75F } },
        { 3, true, { 0, 0, 5, 5, 5, 0, 0, 3, 3, 3 } },
        { 7, true, { 5, 5, 5, 5, 5, 5, 5, 3, 3, 3 } },
        { 1, true, { 0, 0, 0, 5, 0, 0, 0, 0, 3, 0 } },
        { 1, false, { 0, 0, 0, 5, 0, 0, 0, 0, 3, 0 } },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        float out[10];
        ft_pool(s, 10, cases[i].k, cases[i].is_max, out);
        expect_floats(out, cases[i].want, 10);
    }
}

/* Every length up to 40 with every width up to 45: wider than the array, even and odd. */
static void test_pool_naive(void **state) {
    (void)state;
    uint64_t rng = 1;
    for (uint32_t n = 1; n <= 40; n++) {
        for (uint32_t k = 1; k <= 45; k++) {
            float s[40], out[40];
            double wide[40], want[40];
            for (uint32_t i = 0; i < n; i++) {
                s[i] = fabsf(oracle_real(&rng));
                wide[i] = (double)s[i];
            }
            for (int is_max = 0; is_max <= 1; is_max++) {
                ft_pool(s, n, k, is_max, out);
                oracle_pool(wide, n, k, is_max, want);
                for (uint32_t i = 0; i < n; i++) {
                    if (out[i] != (float)want[i]) {
                        fail_msg("n %u k %u max %d element %u: got %.9g want %.9g", n, k, is_max, i,
                                 (double)out[i], want[i]);
                    }
                }
            }
        }
    }
}

static void test_pool_nan(void **state) {
    (void)state;
    const float s[5] = { NAN, 1, NAN, 2, NAN };
    static const float want[5] = { 1, 1, 2, 2, 2 };
    float out[5];
    ft_pool(s, 5, 3, true, out);
    expect_floats(out, want, 5);
    ft_pool(s, 5, 1, true, out); /* alone, it stays behind every number */
    uint32_t work[5], ranked[5];
    static const uint32_t order[5] = { 3, 1, 0, 2, 4 };
    ft_keep_rank(out, 5, 5, work, ranked);
    expect_indices(ranked, order, 5);
}

/* Sums leave no residue: behind a peak, zeros pool to exact zeros. */
static void test_pool_residue(void **state) {
    (void)state;
    float s[64] = { 0 }, out[64];
    s[3] = 0.1F;
    s[4] = 0.7F;
    s[5] = 1e-9F;
    ft_pool(s, 64, 7, false, out);
    for (uint32_t i = 9; i < 64; i++) {
        assert_true(out[i] == 0);
    }
}

static void test_ramp(void **state) {
    (void)state;
    assert_true(ft_ramp_weight(FT_RAMP_CODE, 0, 64) == 0);
    assert_true(fabs((double)ft_ramp_weight(FT_RAMP_CODE, 1, 64) - .015873) < 5e-7);
    assert_true(fabs((double)ft_ramp_weight(FT_RAMP_CODE, 62, 64) - .984127) < 5e-7);
    assert_true(ft_ramp_weight(FT_RAMP_CODE, 63, 64) == 1);
    assert_true(ft_ramp_weight(FT_RAMP_CODE, 0, 1) == 1);
    assert_true(ft_ramp_weight(FT_RAMP_PAPER, 0, 64) == .015625F);
    assert_true(ft_ramp_weight(FT_RAMP_PAPER, 1, 64) == .03125F);
    assert_true(ft_ramp_weight(FT_RAMP_PAPER, 62, 64) == .984375F);
    assert_true(ft_ramp_weight(FT_RAMP_PAPER, 63, 64) == 1);
    assert_true(ft_ramp_weight(FT_RAMP_OFF, 0, 64) == 1);
}

static void test_fold_heads(void **state) {
    (void)state;
    static const float mass[2][3] = { { 1, 4, 0 }, { 2, 2, .5F } };
    float score[3] = { 0, 5, 0 };
    static const float max[3] = { 2, 5, .5F }, sum[3] = { 3, 6, .5F }, mean[3] = { 3, 6, .5F };
    ft_fold_heads(FT_FOLD_MAX, mass[0], 2, 3, score);
    expect_floats(score, max, 3);
    ft_fold_heads(FT_FOLD_SUM, mass[0], 2, 3, score);
    expect_floats(score, sum, 3);
    ft_fold_heads(FT_FOLD_MEAN, mass[0], 2, 3, score); /* 1.5, 3, .25: nothing grows */
    expect_floats(score, mean, 3);
}

/* ---- ranking ---- */

static void test_rank_order(void **state) {
    (void)state;
    const float s[8] = { 1, NAN, 3, -0.0F, 0, 3, -2, INFINITY };
    static const uint32_t want[8] = { 7, 2, 5, 0, 3, 4, 6, 1 };
    uint32_t work[8], out[8];
    for (uint32_t k = 0; k <= 9; k++) {
        memset(out, 0xFF, sizeof(out));
        assert_int_equal(ft_keep_rank(s, 8, k, work, out), FT_MIN(k, 8));
        expect_indices(out, want, FT_MIN(k, 8));
        for (uint32_t i = k; i < 8; i++) {
            assert_int_equal(out[i], UINT32_MAX); /* nothing is written beyond k */
        }
    }
    assert_int_equal(ft_keep_rank(s, 0, 4, work, out), 0);
}

static void test_rank_naive(void **state) {
    (void)state;
    uint64_t rng = 2;
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t n = 1 + oracle_below(&rng, 300), levels = 1 + oracle_below(&rng, 40);
        float s[300];
        double wide[300];
        uint32_t want[300], work[300], out[300];
        for (uint32_t i = 0; i < n; i++) {
            s[i] = round % 2 == 0 ? oracle_real(&rng) : (float)oracle_below(&rng, levels) / 8;
            wide[i] = (double)s[i];
        }
        uint32_t k = 1 + oracle_below(&rng, n);
        oracle_rank(wide, n, want);
        assert_int_equal(ft_keep_rank(s, n, k, work, out), k);
        expect_indices(out, want, k);
    }
}

/* Selection, not sorting: 128K scores, the 2048 best, and every one tied. */
static void test_rank_large(void **state) {
    (void)state;
    enum { N = 131072, K = 2048 };
    float *s = malloc(N * sizeof(*s));
    uint32_t *work = malloc(N * sizeof(*work)), *out = malloc(K * sizeof(*out));
    uint64_t rng = 3;
    for (uint32_t i = 0; i < N; i++) {
        s[i] = fabsf(oracle_real(&rng));
    }
    int64_t start = ft_time_us();
    assert_int_equal(ft_keep_rank(s, N, K, work, out), K);
    print_message("rank: %d of %d in %lld us\n", K, N, (long long)(ft_time_us() - start));
    uint32_t above = 0;
    for (uint32_t i = 0; i < N; i++) {
        above += s[i] > s[out[K - 1]] || (s[i] == s[out[K - 1]] && i < out[K - 1]);
    }
    assert_int_equal(above, K - 1);
    for (uint32_t i = 1; i < K; i++) {
        assert_true(s[out[i - 1]] > s[out[i]] ||
                    (s[out[i - 1]] == s[out[i]] && out[i - 1] < out[i]));
    }
    memset(s, 0, N * sizeof(*s));
    ft_keep_rank(s, N, K, work, out);
    for (uint32_t i = 0; i < K; i++) {
        assert_int_equal(out[i], i);
    }
    free(s);
    free(work);
    free(out);
}

/* ---- retention ---- */

static void test_retain(void **state) {
    (void)state;
    struct ft_look look = { .window = 2, .refeed = 1, .prefill_vertical = 4 };
    struct ft_budget budget = { .keep = 5, .n_prompt = 10, .n_rank = 4 };
    static const uint32_t ranked[4] = { 4, 0, 3, 6 }, want[5] = { 0, 3, 4, 7, 8 };
    uint32_t out[5];
    assert_int_equal(ft_keep_retain(ranked, &look, &budget, out), 5);
    expect_indices(out, want, 5);
    look.refeed = 0; /* a method that feeds nothing twice keeps the last row */
    static const uint32_t want_last[5] = { 0, 3, 4, 8, 9 };
    assert_int_equal(ft_keep_retain(ranked, &look, &budget, out), 5);
    expect_indices(out, want_last, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_vectors), cmocka_unit_test(test_pool_naive),
        cmocka_unit_test(test_pool_nan),     cmocka_unit_test(test_pool_residue),
        cmocka_unit_test(test_ramp),         cmocka_unit_test(test_fold_heads),
        cmocka_unit_test(test_rank_order),   cmocka_unit_test(test_rank_naive),
        cmocka_unit_test(test_rank_large),   cmocka_unit_test(test_retain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
