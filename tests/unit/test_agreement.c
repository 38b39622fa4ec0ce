/* SPDX-License-Identifier: Apache-2.0 */
/* test_agreement.c - two lists of scores compared: cases worked out by hand, slow twins on random
 * lists with many ties, and rows of a record joined into a cell. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/importance.h"
#include "score_oracle.h"

static struct ft_agreement agreement(const float *a, const float *b, uint32_t n,
                                     const struct ft_budgets *budgets) {
    static const struct ft_budgets none = { .n = 0 };
    struct ft_agreement out;
    struct ft_error error = { .code = FT_OK };
    if (ft_agreement_of(a, b, n, budgets ? budgets : &none, &out, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return out;
}

static void assert_near(double got, double want) { /* sums of up to some hundred doubles */
    if (!(fabs(got - want) <= 1e-12)) {
        fail_msg("got %.17g, want %.17g", got, want);
    }
}

/* ---- by hand ---- */

/* dx = -1 0 1, dy = -7/3 -1/3 8/3: sums 5, 2 and 38/3, so r^2 = 25 / (76/3) */
static void test_pearson(void **state) {
    const float a[] = { 1, 2, 3 }, b[] = { 2, 4, 7 }, down[] = { 3, 2, 1 }, flat[] = { 5, 5, 5 };
    const double x[] = { 1, 2, 3 }, y[] = { 30, 20, 10 };
    (void)state;
    assert_near(agreement(a, b, 3, NULL).r2, 75.0 / 76);
    assert_near(agreement(a, down, 3, NULL).r2, 1);
    assert_near(agreement(a, down, 3, NULL).spearman, -1);
    assert_near(ft_correlation(x, y, 3), -1);
    assert_true(isnan(agreement(a, flat, 3, NULL).r2));
    assert_true(isnan(agreement(flat, a, 3, NULL).spearman));
    assert_true(isnan(agreement(a, b, 1, NULL).r2));
}

/* Ranks 4 2.5 2.5 1 against 4 3 2 1: sums 4.5, 4.5 and 5. */
static void test_ties(void **state) {
    const float a[] = { 10, 20, 20, 30 }, b[] = { 1, 2, 3, 4 };
    const float x[] = { 5, 5, 5, 1 }, y[] = { 1, 5, 5, 5 };
    const struct ft_budgets budgets = { .value = { 1, 2, 3, 4 }, .n = 4 };
    (void)state;
    assert_near(agreement(a, b, 4, NULL).spearman, 4.5 / sqrt(4.5 * 5));
    struct ft_agreement both = agreement(x, y, 4, &budgets);
    assert_near(both.overlap[0], 0);       /* {0} {1} */
    assert_near(both.overlap[1], 0.5);     /* {0 1} {1 2} */
    assert_near(both.overlap[2], 2.0 / 3); /* {0 1 2} {1 2 3} */
    assert_near(both.overlap[3], 1);
}

/* b = 3 a^2 is a line of slope 2 in logarithms; a pair with a 0 has no place on it. */
static void test_logarithms(void **state) {
    const float a[] = { 1, 2, 4, 8, 0, 7 }, b[] = { 3, 12, 48, 192, 50, 0 };
    (void)state;
    struct ft_agreement got = agreement(a, b, 6, NULL);
    assert_near(got.r2_log, 1);
    assert_true(got.r2 < 0.9);
    assert_true(isnan(agreement(a + 4, b + 4, 2, NULL).r2_log));
}

/* ---- slow twins ---- */

enum { N = 257 };

/* Computational formula in long double, so that it shares no step with the two-pass sum. */
static double slow_r(const double *x, const double *y, uint32_t n) {
    long double sx = 0, sy = 0, xx = 0, yy = 0, xy = 0;
    for (uint32_t j = 0; j < n; j++) {
        sx += x[j];
        sy += y[j];
        xx += (long double)x[j] * x[j];
        yy += (long double)y[j] * y[j];
        xy += (long double)x[j] * y[j];
    }
    return (double)((n * xy - sx * sy) / sqrtl((n * xx - sx * sx) * (n * yy - sy * sy)));
}

static void slow_ranks(const float *s, uint32_t n, double *out) {
    for (uint32_t j = 0; j < n; j++) {
        uint32_t n_above = 0, n_same = 0;
        for (uint32_t k = 0; k < n; k++) {
            n_above += s[k] > s[j];
            n_same += s[k] == s[j];
        }
        out[j] = 1 + n_above + (n_same - 1) / 2.0;
    }
}

/* j is among the c best: fewer than c are above it or as high and in front of it. */
static bool is_best(const float *s, uint32_t n, uint32_t c, uint32_t j) {
    uint32_t n_better = 0;
    for (uint32_t k = 0; k < n; k++) {
        n_better += s[k] > s[j] || (s[k] == s[j] && k < j);
    }
    return n_better < c;
}

static void compare_slow(const float *a, const float *b, uint32_t n) {
    const struct ft_budgets budgets = { .value = { 1, 7, n / 2, n - 1, n }, .n = 5 };
    double x[N], y[N];
    struct ft_agreement got = agreement(a, b, n, &budgets);
    uint32_t n_log = 0;
    for (uint32_t j = 0; j < n; j++) {
        x[j] = (double)a[j];
        y[j] = (double)b[j];
    }
    assert_near(got.r2, pow(slow_r(x, y, n), 2));
    slow_ranks(a, n, x);
    slow_ranks(b, n, y);
    assert_near(got.spearman, slow_r(x, y, n));
    for (uint32_t j = 0; j < n; j++) {
        if (a[j] > 0 && b[j] > 0) {
            x[n_log] = log((double)a[j]);
            y[n_log++] = log((double)b[j]);
        }
    }
    assert_near(got.r2_log, pow(slow_r(x, y, n_log), 2));
    for (uint32_t i = 0; i < budgets.n; i++) {
        uint32_t n_both = 0;
        for (uint32_t j = 0; j < n; j++) {
            n_both += is_best(a, n, budgets.value[i], j) && is_best(b, n, budgets.value[i], j);
        }
        assert_near(got.overlap[i], (double)n_both / budgets.value[i]);
    }
}

static void test_random(void **state) {
    float a[N], b[N];
    uint64_t seed = 5;
    (void)state;
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t n = 8 + oracle_below(&seed, N - 8), n_level = 2 + oracle_below(&seed, 60);
        for (uint32_t j = 0; j < n; j++) { /* few levels: many ties; some zeros */
            a[j] = (float)oracle_below(&seed, n_level) / 7;
            b[j] = a[j] / 2 + (float)oracle_below(&seed, n_level) / 5;
        }
        compare_slow(a, b, n);
    }
}

static void test_order(void **state) {
    const float s[] = { 1, 3, -0.0f, 3, 0, 2 };
    const uint32_t want[] = { 1, 3, 5, 0, 2, 4 };
    uint32_t got[6];
    (void)state;
    assert_int_equal(ft_best_first(s, 6, got, NULL), FT_OK);
    assert_memory_equal(got, want, sizeof want);
}

static void test_no_memory(void **state) {
    const float a[] = { 1, 2, 3 };
    const struct ft_budgets budgets = { .value = { 2 }, .n = 1 };
    struct ft_agreement out;
    struct ft_error error;
    uint32_t order[3];
    (void)state;
    for (uint64_t n = 1; n <= 5; n++) {
        ft_alloc_fail_after(n, false);
        assert_int_equal(ft_agreement_of(a, a, 3, &budgets, &out, &error), FT_NOMEM);
    }
    ft_alloc_fail_after(1, false);
    assert_int_equal(ft_best_first(a, 3, order, &error), FT_NOMEM);
    ft_alloc_fail_after(0, false);
}

/* ---- lists of a prompt ---- */

/* Two layers of two heads.  Layer 0: the same, and turned round; layer 1: the same, constant. */
static void test_means(void **state) {
    float a[] = { 1, 2, 4, 8, 1, 2, 3, 4, 5, 6, 7, 9, 2, 2, 2, 2 };
    float b[] = { 1, 2, 4, 8, 4, 3, 2, 1, 5, 6, 7, 9, 1, 2, 3, 4 };
    const struct ft_scores x = { .score = a, .n_layer = 2, .n_head = 2, .n = 4 },
                           y = { .score = b, .n_layer = 2, .n_head = 2, .n = 4 },
                           other = { .score = b, .n_layer = 1, .n_head = 2, .n = 4 };
    struct ft_budgets budgets = { .value = { 1, 2 }, .n = 2, .stated = 1 };
    struct ft_importance got;
    struct ft_error error;
    (void)state;
    assert_int_equal(ft_importance_of(&x, &y, &budgets, &got, &error), FT_OK);
    assert_int_equal(got.n, 4);
    assert_near(got.mean.r2, 1); /* of the three that have one */
    assert_near(got.mean.spearman, (1 - 1 + 1) / 3.0);
    assert_near(got.mean.overlap[0], (1 + 0 + 1 + 0) / 4.0);
    assert_near(got.mean.overlap[1], (1 + 0 + 1 + 0) / 4.0); /* {0 1} of equal ones, {3 2} */
    assert_near(got.overlap_layer[0], 0.5);
    assert_near(got.overlap_layer[1], 0.5);
    assert_near(got.r2_layer[1], 1);
    ft_importance_done(&got);
    assert_int_equal(ft_importance_of(&x, &other, &budgets, &got, &error), FT_MISMATCH);
    ft_importance_done(&got);
    budgets.value[1] = 4;
    assert_int_equal(ft_importance_of(&x, &y, &budgets, &got, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "a budget of 4 where 4 tokens have a score"));
    ft_importance_done(&got);
}

/* Lists of two lengths are compared on the tokens that both have. */
static void test_lengths(void **state) {
    float a[] = { 1, 2, 4, 0, 3, 5, 4, 9 }, b[] = { 1, 2, 4, 3, 5, 4 };
    const struct ft_scores x = { .score = a, .n_layer = 1, .n_head = 2, .n = 4 },
                           y = { .score = b, .n_layer = 1, .n_head = 2, .n = 3 };
    const struct ft_budgets budgets = { .value = { 1, 2 }, .n = 2 };
    struct ft_importance got;
    struct ft_error error;
    (void)state;
    assert_int_equal(ft_importance_of(&x, &y, &budgets, &got, &error), FT_OK);
    assert_int_equal(got.n, 3);
    assert_near(got.mean.r2, 1);
    assert_near(got.mean.overlap[1], 1);
    ft_importance_done(&got);
}

static void test_points(void **state) {
    enum { MANY = 3 * FT_POINTS_CAP - 7 };
    float *a = calloc(MANY, sizeof *a), *b = calloc(MANY, sizeof *b);
    const struct ft_scores x = { .score = a, .n_layer = 1, .n_head = 1, .n = MANY },
                           y = { .score = b, .n_layer = 1, .n_head = 1, .n = MANY };
    json_t *points = NULL;
    (void)state;
    for (uint32_t j = 0; j < MANY; j++) {
        a[j] = (float)j;
        b[j] = (float)(j * 7919 % MANY); /* a permutation */
    }
    assert_int_equal(ft_importance_points(&x, &y, &points, NULL), FT_OK);
    assert_int_equal(json_array_size(points), (MANY + 2) / 3);
    assert_true(json_array_size(points) <= FT_POINTS_CAP);
    for (uint32_t i = 0; i < json_array_size(points); i++) {
        const json_t *point = json_array_get(points, i);
        double truth = json_number_value(json_array_get(point, 1));
        assert_true(truth == MANY - 1 - 3 * i);
        uint32_t j = (uint32_t)json_number_value(json_array_get(point, 0));
        assert_true(b[j] == (float)truth);
    }
    json_decref(points);
    free(a);
    free(b);
}

/* ---- rows ---- */

static ft_status join(const char *text, struct ft_overlap *out, struct ft_error *error) {
    json_t *list = json_loads(text, 0, NULL);
    const json_t *row[4];
    uint32_t n = (uint32_t)json_array_size(list);
    assert_true(n >= 1 && n <= 4);
    for (uint32_t i = 0; i < n; i++) {
        row[i] = json_array_get(list, i);
    }
    ft_status status = ft_overlap_of(row, n, out, error);
    out->point = NULL;
    json_decref(list);
    return status;
}

static void test_rows(void **state) {
    struct ft_overlap got;
    struct ft_error error;
    (void)state;
    assert_int_equal(
        join("[{\"r2\":0.5,\"r2_log\":null,\"spearman\":1,\"overlap\":{\"64\":50,\"8\":100},"
             "\"random\":{\"64\":20,\"8\":2}},"
             "{\"r2\":1,\"r2_log\":null,\"spearman\":null,\"overlap\":{\"8\":0},"
             "\"random\":{\"8\":4}}]",
             &got, &error),
        FT_OK);
    assert_int_equal(got.n, 2);
    assert_near(got.r2, 0.75);
    assert_near(got.spearman, 1);
    assert_true(isnan(got.r2_log));
    assert_int_equal(got.n_budget, 2);
    assert_int_equal(got.budget[0], 8);
    assert_int_equal(got.n_sample[0], 2);
    assert_int_equal(got.n_sample[1], 1); /* the second prompt had no room for it */
    assert_near(got.overlap[0].mean, 50);
    assert_near(got.random[0], 3);
    assert_near(got.overlap[1].mean, 50);
    json_t *value = json_object();
    ft_overlap_set(value, &got);
    assert_true(json_is_null(json_object_get(value, "r2_log")));
    assert_int_equal(json_array_size(json_object_get(value, "budgets")), 2);
    json_decref(value);
}

static void test_bad_rows(void **state) {
    static const struct {
        const char *rows, *words;
    } bad[] = {
        { "[{\"task\":\"vt\",\"index\":3}]", "sample 3 of vt: no row of eval importance" },
        { "[{\"overlap\":7}]", "sample 0 of ?: no row" },
        { "[{\"overlap\":{\"many\":1},\"random\":{}}]", "a key that is no budget" },
        { "[{\"overlap\":{\"0\":1},\"random\":{\"0\":1}}]", "a key that is no budget" },
        { "[{\"overlap\":{\"8\":101},\"random\":{\"8\":1}}]", "no shares from 0 to 100" },
        { "[{\"overlap\":{\"8\":\"x\"},\"random\":{\"8\":1}}]", "no shares from 0 to 100" },
        { "[{\"overlap\":{\"8\":1}}]", "no shares from 0 to 100" },
        { "[{\"overlap\":{\"1\":1,\"2\":1,\"3\":1,\"4\":1,\"5\":1,\"6\":1,\"7\":1,\"8\":1,\"9\":1,"
          "\"10\":1,\"11\":1,\"12\":1,\"13\":1,\"14\":1,\"15\":1,\"16\":1,\"17\":1}}]",
          "more budgets than" },
    };
    struct ft_overlap got;
    struct ft_error error;
    (void)state;
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        assert_int_equal(join(bad[i].rows, &got, &error), FT_FORMAT);
        if (!strstr(error.text, bad[i].words)) {
            fail_msg("\"%s\" does not say \"%s\"", error.text, bad[i].words);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pearson),    cmocka_unit_test(test_ties),
        cmocka_unit_test(test_logarithms), cmocka_unit_test(test_random),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_means),      cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_points),     cmocka_unit_test(test_rows),
        cmocka_unit_test(test_bad_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
