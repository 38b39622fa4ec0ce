/* SPDX-License-Identifier: Apache-2.0 */
/* test_store.c - the KV store: errors leave it alone, freed rows read as zero, bytes count. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kv/store.h"

static const struct ft_kv_shape small = {
    .n_layer = 2,
    .n_head_kv = 2,
    .d = 16,
    .k_fmt = FT_F32,
    .v_fmt = FT_F16,
};

static struct ft_kv *store_new(const struct ft_kv_shape *shape, struct ft_gauge *gauge) {
    struct ft_kv *kv = NULL;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_kv_new(shape, gauge, &kv, &err), FT_OK);
    return kv;
}

/* n rows at the given first position; every number of row j of head h is 1 + 100 h + position. */
static void append(struct ft_kv *kv, uint32_t layer, ft_pos first, uint32_t n) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(kv);
    struct ft_error err = { .code = FT_OK };
    for (uint32_t j = 0; j < n; j++) {
        ft_pos pos = first + (ft_pos)j;
        assert_int_equal(ft_kv_extend(kv, layer, &pos, 1, &err), FT_OK);
        for (uint32_t h = 0; h < shape->n_head_kv; h++) {
            float k[FT_HEAD_MAX], v[FT_HEAD_MAX];
            for (uint32_t c = 0; c < shape->d; c++) {
                k[c] = (float)(1 + 100 * (int)h + pos);
                v[c] = -k[c];
            }
            ft_kv_write(kv, layer, h, ft_kv_rows(kv, layer, h) - 1, k, v);
        }
    }
}

static void row_of(enum ft_fmt fmt, const void *rows, size_t j, uint32_t d, float *out) {
    ft_kern()->decode(fmt, (const char *)rows + j * ft_fmt_row_bytes(fmt, d), out, d);
}

/* Head h holds exactly these positions with the numbers of append, and zeros up to its room. */
static void expect_rows(const struct ft_kv *kv, uint32_t layer, uint32_t h, const ft_pos *pos,
                        uint32_t n) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(kv);
    assert_int_equal(ft_kv_rows(kv, layer, h), n);
    for (uint32_t j = 0; j < ft_kv_cap(kv, layer); j++) {
        float want = j < n ? (float)(1 + 100 * (int)h + pos[j]) : 0.0F;
        float k[FT_HEAD_MAX], v[FT_HEAD_MAX];
        row_of(shape->k_fmt, ft_kv_k(kv, layer, h), j, shape->d, k);
        row_of(shape->v_fmt, ft_kv_v(kv, layer, h), j, shape->d, v);
        for (uint32_t c = 0; c < shape->d; c++) {
            if (k[c] != want || v[c] != -want) {
                fail_msg("head %u row %u channel %u: got %g %g want %g %g", h, j, c, (double)k[c],
                         (double)v[c], (double)want, -(double)want);
            }
        }
        if (j < n) {
            assert_int_equal(ft_kv_pos(kv, layer, h)[j], pos[j]);
        }
    }
}

static void test_shape(void **state) {
    (void)state;
    struct ft_kv *kv = NULL;
    struct ft_error err;
    struct ft_kv_shape bad = small;
    bad.d = 0;
    assert_int_equal(ft_kv_new(&bad, NULL, &kv, &err), FT_ARG);
    bad = small;
    bad.v_fmt = FT_FMT_COUNT;
    assert_int_equal(ft_kv_new(&bad, NULL, &kv, &err), FT_ARG);
    bad.v_fmt = FT_Q8_0; /* 16 is not whole blocks */
    assert_int_equal(ft_kv_new(&bad, NULL, &kv, &err), FT_ARG);
    assert_non_null(strstr(err.text, "q8_0 rows of 16"));
    assert_null(kv);
    /* 2 layers x 2 heads x 16 channels x (4 + 2) bytes */
    assert_int_equal(ft_kv_token_bytes(&small), 384);
    ft_kv_free(NULL);
}

static void test_reserve(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *kv = store_new(&small, &gauge);
    assert_null(ft_kv_k(kv, 0, 0));
    assert_int_equal(ft_kv_cap(kv, 0), 0);
    assert_int_equal(ft_kv_reserve(kv, 0, 17, &err), FT_OK);
    assert_int_equal(ft_kv_cap(kv, 0), 32);
    assert_int_equal(ft_kv_head_k_bytes(kv, 0), 32 * 16 * 4);
    assert_int_equal(ft_kv_head_v_bytes(kv, 0), 32 * 16 * 2);
    assert_ptr_equal((const char *)ft_kv_k(kv, 0, 1) - ft_kv_head_k_bytes(kv, 0),
                     ft_kv_k(kv, 0, 0));
    append(kv, 0, 0, 3);
    assert_int_equal(ft_kv_bytes(kv), 3 * 2 * 16 * 6);
    assert_int_equal(gauge.now, ft_kv_bytes(kv));
    /* reserving again forgets */
    assert_int_equal(ft_kv_reserve(kv, 0, 5, &err), FT_OK);
    assert_int_equal(ft_kv_cap(kv, 0), 16);
    expect_rows(kv, 0, 1, NULL, 0);
    assert_int_equal(gauge.now, 0);
    assert_int_equal(gauge.peak, 3 * 2 * 16 * 6);
    assert_int_equal(ft_kv_reserve(kv, 0, UINT32_MAX, &err), FT_LIMIT);
    assert_int_equal(ft_kv_reserve(kv, 0, 0, &err), FT_OK);
    assert_int_equal(ft_kv_cap(kv, 0), 0);
    ft_kv_free(kv);
}

static void test_out_of_memory(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_gauge gauge = { 0 };
    uint32_t n_failed = 0;
    for (uint64_t n = 1; n < 20; n++) {
        struct ft_kv *kv = NULL;
        ft_alloc_fail_after(n, false);
        ft_status status = ft_kv_new(&small, &gauge, &kv, &err);
        if (status == FT_OK) {
            status = ft_kv_reserve(kv, 1, 100, &err);
        }
        ft_alloc_fail_after(0, false);
        if (status == FT_OK) {
            ft_kv_free(kv);
            break;
        }
        assert_int_equal(status, FT_NOMEM);
        n_failed++;
        if (kv != NULL) {
            assert_non_null(strstr(err.text, "layer 1"));
            /* 112 rows x 2 heads x 16 x 6 bytes */
            assert_non_null(strstr(err.text, "21.0 KiB needed, "));
            assert_non_null(strstr(err.text, " available"));
            assert_int_equal(ft_kv_cap(kv, 1), 0);
            assert_int_equal(ft_kv_reserve(kv, 1, 100, &err), FT_OK); /* still usable */
            append(kv, 1, 0, 2);
        }
        ft_kv_free(kv);
        assert_int_equal(gauge.now, 0);
    }
    assert_int_equal(n_failed, 6); /* three tables, K, V, positions */
}

static void test_extend_errors(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_kv *kv = store_new(&small, NULL);
    static const ft_pos falling[] = { 7, 7 }, again[] = { 5 }, below[] = { -1 },
                        many[17] = { 10, 11, 12, 13, 14, 15, 16, 17, 18,
                                     19, 20, 21, 22, 23, 24, 25, 26 },
                        held[] = { 3, 4, 5 };
    assert_int_equal(ft_kv_extend(kv, 0, again, 1, &err), FT_LIMIT); /* nothing reserved */
    assert_int_equal(ft_kv_reserve(kv, 0, 16, &err), FT_OK);
    assert_int_equal(ft_kv_extend(kv, 0, below, 1, &err), FT_ARG);
    append(kv, 0, 3, 3);
    assert_int_equal(ft_kv_extend(kv, 0, falling, 2, &err), FT_ARG);
    assert_int_equal(ft_kv_extend(kv, 0, again, 1, &err), FT_ARG);
    assert_int_equal(ft_kv_extend(kv, 0, many, 14, &err), FT_LIMIT);
    assert_int_equal(ft_kv_extend(kv, 0, many, 0, &err), FT_OK);
    expect_rows(kv, 0, 0, held, 3);
    expect_rows(kv, 0, 1, held, 3);
    assert_int_equal(ft_kv_extend(kv, 0, many, 13, &err), FT_OK); /* exactly full */
    assert_int_equal(ft_kv_extend(kv, 0, many + 13, 1, &err), FT_LIMIT);
    ft_kv_free(kv);
}

static void test_keep(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *kv = store_new(&small, &gauge);
    assert_int_equal(ft_kv_reserve(kv, 1, 20, &err), FT_OK);
    append(kv, 1, 10, 8);
    static const ft_row first[] = { 0, 3, 4, 7 }, none[] = { 0 }, beyond[] = { 1, 8 },
                        twice[] = { 2, 2 };
    static const ft_pos all[] = { 10, 11, 12, 13, 14, 15, 16, 17 }, left[] = { 10, 13, 14, 17 };
    struct ft_rows bad[2] = { { first, 4 }, { beyond, 2 } };
    assert_int_equal(ft_kv_keep(kv, 1, bad, &err), FT_ARG);
    bad[1] = (struct ft_rows){ twice, 2 };
    assert_int_equal(ft_kv_keep(kv, 1, bad, &err), FT_ARG);
    expect_rows(kv, 1, 0, all, 8); /* nothing has changed */
    expect_rows(kv, 1, 1, all, 8);
    struct ft_rows keep[2] = { { first, 4 }, { none, 0 } };
    assert_int_equal(ft_kv_keep(kv, 1, keep, &err), FT_OK);
    expect_rows(kv, 1, 0, left, 4);
    expect_rows(kv, 1, 1, NULL, 0);
    assert_int_equal(gauge.now, 4 * 16 * 6);
    assert_int_equal(ft_kv_bytes(kv), 4 * 16 * 6);
    assert_int_equal(gauge.peak, 8 * 2 * 16 * 6);
    assert_int_equal(ft_kv_rewind(kv, 1, 1, &err), FT_ARG); /* head 1 has none */
    expect_rows(kv, 1, 0, left, 4);
    append(kv, 1, 18, 1);
    static const ft_pos more[] = { 10, 13, 14, 17, 18 };
    expect_rows(kv, 1, 0, more, 5);
    expect_rows(kv, 1, 1, more + 4, 1);
    assert_int_equal(ft_kv_rewind(kv, 1, 1, &err), FT_OK);
    expect_rows(kv, 1, 0, left, 4);
    ft_kv_free(kv);
    assert_int_equal(gauge.now, 0);
}

/* Large enough that whole pages are given back; rows beyond the last read as zero everywhere. */
static void test_keep_pages(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_kv_shape shape = {
        .n_layer = 1, .n_head_kv = 3, .d = 64, .k_fmt = FT_F16, .v_fmt = FT_F32
    };
    enum { N = 3000, KEPT = 37 };
    struct ft_kv *kv = store_new(&shape, NULL);
    assert_int_equal(ft_kv_reserve(kv, 0, N, &err), FT_OK);
    append(kv, 0, 0, N);
    ft_row row[KEPT];
    ft_pos pos[KEPT];
    for (uint32_t j = 0; j < KEPT; j++) {
        row[j] = j * j;
        pos[j] = (ft_pos)(j * j);
    }
    struct ft_rows keep[3] = { { row, KEPT }, { row, KEPT - 1 }, { row, 1 } };
    assert_int_equal(ft_kv_keep(kv, 0, keep, &err), FT_OK);
    for (uint32_t h = 0; h < 3; h++) {
        expect_rows(kv, 0, h, pos, keep[h].n); /* reads every row: pages come back as zeros */
    }
    append(kv, 0, 5000, 100);
    assert_int_equal(ft_kv_rewind(kv, 0, 100, &err), FT_OK);
    for (uint32_t h = 0; h < 3; h++) {
        expect_rows(kv, 0, h, pos, keep[h].n);
    }
    ft_kv_free(kv);
}

/* keep gives memory back to the system: the process shrinks by most of what was dropped. */
static void test_keep_resident(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_kv_shape shape = {
        .n_layer = 1, .n_head_kv = 2, .d = 128, .k_fmt = FT_F32, .v_fmt = FT_F32
    };
    enum { N = 16384 };
    struct ft_kv *kv = store_new(&shape, NULL);
    assert_int_equal(ft_kv_reserve(kv, 0, N, &err), FT_OK);
    append(kv, 0, 0, N);
    uint64_t full = ft_memory_resident();
    static const ft_row row[] = { 5, 77 };
    struct ft_rows keep[2] = { { row, 2 }, { row, 1 } };
    assert_int_equal(ft_kv_keep(kv, 0, keep, &err), FT_OK);
    uint64_t kept = ft_memory_resident();
    assert_true(full >= kept + (uint64_t)N * 2 * 128 * 8 * 9 / 10); /* 32 MiB held before */
    ft_kv_free(kv);
}

static void test_gather(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *from = store_new(&small, &gauge), *to = store_new(&small, &gauge);
    assert_int_equal(ft_kv_reserve(from, 0, 16, &err), FT_OK);
    assert_int_equal(ft_kv_reserve(to, 1, 16, &err), FT_OK);
    append(from, 0, 0, 10);
    static const ft_row a[] = { 2, 3, 9 }, b[] = { 0 }, wrong[] = { 10 };
    static const ft_pos a_pos[] = { 2, 3, 9 }, b_pos[] = { 0 };
    struct ft_rows rows[2] = { { a, 3 }, { b, 1 } }, bad[2] = { { a, 3 }, { wrong, 1 } };
    assert_int_equal(ft_kv_gather(to, 1, from, 0, bad, &err), FT_ARG);
    assert_int_equal(ft_kv_gather(to, 0, from, 0, rows, &err), FT_LIMIT); /* no room */
    expect_rows(to, 1, 0, NULL, 0);
    assert_int_equal(ft_kv_gather(to, 1, from, 0, rows, &err), FT_OK);
    expect_rows(to, 1, 0, a_pos, 3);
    expect_rows(to, 1, 1, b_pos, 1);
    assert_int_equal(gauge.now, (20 + 4) * 16 * 6);
    assert_int_equal(ft_kv_gather(to, 1, from, 0, rows, &err), FT_ARG); /* positions must go on */
    expect_rows(to, 1, 0, a_pos, 3);
    struct ft_kv_shape other = small;
    other.k_fmt = FT_F16;
    struct ft_kv *third = store_new(&other, NULL);
    assert_int_equal(ft_kv_gather(third, 1, from, 0, rows, &err), FT_ARG);
    ft_kv_free(third);
    ft_kv_free(from);
    ft_kv_free(to);
    assert_int_equal(gauge.now, 0);
}

/* A NaN left behind would poison a padded attention sum. */
static void test_nan_is_cleared(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_kv *kv = store_new(&small, NULL);
    assert_int_equal(ft_kv_reserve(kv, 0, 16, &err), FT_OK);
    append(kv, 0, 0, 1);
    float bad[16];
    for (int c = 0; c < 16; c++) {
        bad[c] = NAN;
    }
    static const ft_pos pos[] = { 0, 1 };
    assert_int_equal(ft_kv_extend(kv, 0, pos + 1, 1, &err), FT_OK);
    ft_kv_write(kv, 0, 0, 1, bad, bad);
    ft_kv_write(kv, 0, 1, 1, bad, bad);
    assert_int_equal(ft_kv_rewind(kv, 0, 1, &err), FT_OK);
    expect_rows(kv, 0, 0, pos, 1);
    expect_rows(kv, 0, 1, pos, 1);
    ft_kv_free(kv);
}

/* q8_0 rows: bytes of whole blocks, rows that come back as they were stored, moved and cleared.
 * The numbers of append are equal in a block, so a row is one f16 scale and bytes of +-127: scales
 * that are multiples of 1/127 round, so what comes back is compared to what the kernels encode. */
static void test_blocks(void **state) {
    (void)state;
    static const struct ft_kv_shape shape = {
        .n_layer = 2, .n_head_kv = 2, .d = 96, .k_fmt = FT_Q8_0, .v_fmt = FT_Q8_0
    };
    struct ft_error err;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *kv = store_new(&shape, &gauge);
    assert_int_equal(ft_kv_token_bytes(&shape), 2 * 2 * 2 * 102);
    assert_int_equal(ft_kv_reserve(kv, 1, 16, &err), FT_OK);
    append(kv, 1, 0, 10);
    assert_int_equal(ft_kv_head_k_bytes(kv, 1), 16 * 102);
    assert_int_equal(gauge.now, 10 * 2 * 2 * 102);
    static const ft_row row[] = { 1, 4, 9 };
    struct ft_rows keep[2] = { { row, 3 }, { row, 1 } };
    assert_int_equal(ft_kv_keep(kv, 1, keep, &err), FT_OK);
    assert_int_equal(ft_kv_bytes(kv), 4 * 2 * 102);
    for (uint32_t h = 0; h < 2; h++) {
        for (uint32_t j = 0; j < 16; j++) {
            float want[96];
            char k[102] = { 0 }, v[102] = { 0 };
            for (int sign = 1; sign >= -1 && j < keep[h].n; sign -= 2) {
                for (uint32_t c = 0; c < 96; c++) {
                    want[c] = (float)sign * (float)(1 + 100 * h + row[j]);
                }
                ft_kern()->encode(FT_Q8_0, want, sign > 0 ? k : v, 96);
            }
            assert_memory_equal((const char *)ft_kv_k(kv, 1, h) + (size_t)j * 102, k, 102);
            assert_memory_equal((const char *)ft_kv_v(kv, 1, h) + (size_t)j * 102, v, 102);
        }
    }
    ft_kv_free(kv);
    assert_int_equal(gauge.now, 0);
}

static void test_append_allocates_nothing(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_kv *kv = store_new(&small, NULL);
    assert_int_equal(ft_kv_reserve(kv, 0, 64, &err), FT_OK);
    uint64_t before = ft_alloc_count();
    append(kv, 0, 0, 64);
    assert_int_equal(ft_kv_rewind(kv, 0, 3, &err), FT_OK);
    assert_int_equal(ft_alloc_count(), before);
    ft_kv_free(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_extend_errors),
        cmocka_unit_test(test_keep),
        cmocka_unit_test(test_keep_pages),
        cmocka_unit_test(test_keep_resident),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_nan_is_cleared),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_append_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
