/* SPDX-License-Identifier: Apache-2.0 */
/* test_packed.c - packed rows: in the store (each row once, in time, to the byte), in attention
 * against the same numbers as plain rows, and in sessions. */
#define _POSIX_C_SOURCE 200809L
#include "engine_fixture.h"

#include "attn/items.h"

enum { D = 32, N_HEAD = 2 };

static const struct ft_kv_shape shape = {
    .n_layer = 2, .n_head_kv = N_HEAD, .d = D, .k_fmt = FT_F32, .v_fmt = FT_F32
};
static const struct ft_packing four = {
    .k = { .bits = 4, .by = FT_BY_CHANNEL, .group = 64 },
    .v = { .bits = 4, .by = FT_BY_TOKEN, .group = 32, .is_value = true },
    .residual = 100,
};
/* 64 rows of 32 numbers: K 32 groups of 4 bytes and half a byte each, V 64 groups */
enum { K_BLOCK = 32 * 4 + 1024, V_BLOCK = 64 * 4 + 1024, ROW = 2 * D * 4 };

static struct ft_kv *store_new(struct ft_gauge *gauge, uint32_t cap) {
    struct ft_kv *kv = NULL;
    assert_int_equal(ft_kv_new(&shape, gauge, &kv, NULL), FT_OK);
    for (uint32_t l = 0; l < 2; l++) {
        ft_kv_set_packing(kv, l, &four);
        assert_int_equal(ft_kv_reserve(kv, l, cap, NULL), FT_OK);
    }
    return kv;
}

/* What is appended as row `pos` of head h. */
static void numbers_at(uint32_t h, ft_pos pos, float *k, float *v) {
    uint64_t seed = (uint64_t)pos * 2 + h + 1000;
    for (uint32_t c = 0; c < D; c++) {
        k[c] = oracle_real(&seed) + (c == 3 ? 40.0f : 0.0f);
        v[c] = oracle_real(&seed);
    }
}

static void append(struct ft_kv *kv, uint32_t layer, uint32_t n) {
    float k[D], v[D];
    for (uint32_t j = 0; j < n; j++) {
        ft_pos pos = (ft_pos)ft_kv_rows(kv, layer, 0);
        assert_int_equal(ft_kv_extend(kv, layer, &pos, 1, NULL), FT_OK);
        for (uint32_t h = 0; h < N_HEAD; h++) {
            numbers_at(h, pos, k, v);
            ft_kv_write(kv, layer, h, (ft_row)pos, k, v);
        }
    }
}

/* Rows of a head are those appended at these positions: exact ones as they are, packed ones as a
 * block of them comes back. */
static void assert_rows(const struct ft_kv *kv, uint32_t layer, uint32_t h, const ft_pos *pos) {
    uint32_t n = ft_kv_rows(kv, layer, h), n_block = ft_kv_blocks(kv, layer, h);
    const struct ft_packing *packing = ft_kv_packing(kv, layer);
    float *got = test_malloc((size_t)2 * n * D * sizeof *got);
    float *want = test_malloc((size_t)2 * n * D * sizeof *want);
    uint8_t block[K_BLOCK + V_BLOCK];
    ft_kv_read(kv, layer, h, got, got + (size_t)n * D);
    for (uint32_t j = 0; j < n; j++) {
        assert_int_equal(ft_kv_pos(kv, layer, h)[j], pos[j]);
        numbers_at(h, pos[j], want + (size_t)j * D, want + ((size_t)n + j) * D);
    }
    for (uint32_t b = 0; b < n_block; b++) {
        float *k = want + (size_t)b * 64 * D, *v = k + (size_t)n * D;
        ft_kern_ref.pack(&packing->k, k, D, block);
        assert_memory_equal(block, (const uint8_t *)ft_kv_k_blocks(kv, layer, h) + b * K_BLOCK,
                            K_BLOCK);
        ft_kern_ref.unpack(&packing->k, block, NULL, D, k);
        ft_kern_ref.pack(&packing->v, v, D, block);
        assert_memory_equal(block, (const uint8_t *)ft_kv_v_blocks(kv, layer, h) + b * V_BLOCK,
                            V_BLOCK);
        ft_kern_ref.unpack(&packing->v, block, NULL, D, v);
    }
    assert_same_bits("rows", got, want, (size_t)2 * n * D);
    test_free(got);
    test_free(want);
}

static uint64_t bytes_of(uint32_t n_row, uint32_t n_block) {
    return N_HEAD *
           ((uint64_t)n_block * (K_BLOCK + V_BLOCK) + (uint64_t)(n_row - 64 * n_block) * ROW);
}

/* ---- the store ---- */

/* Time passes where blocks are made, and only there. */
static void test_pack_us(void **state) {
    (void)state;
    struct ft_kv *kv = store_new(NULL, 600);
    append(kv, 1, 163);
    ft_kv_settle(kv, 1);
    assert_int_equal(ft_kv_pack_us(kv), 0);
    append(kv, 1, 400);
    ft_kv_settle(kv, 1);
    int64_t us = ft_kv_pack_us(kv);
    assert_true(us > 0);
    ft_kv_settle(kv, 1);
    assert_int_equal(ft_kv_pack_us(kv), us);
    append(kv, 0, 500);
    ft_kv_settle(kv, 0);
    assert_true(ft_kv_pack_us(kv) > us);
    ft_kv_set_packing(kv, 0, &four);
    assert_int_equal(ft_kv_pack_us(kv), 0);
    ft_kv_free(kv);
}

/* One row at a time: a block is packed when 164 rows are exact, and never changes. */
static void test_settle(void **state) {
    (void)state;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *kv = store_new(&gauge, 600);
    ft_pos pos[600];
    for (uint32_t j = 0; j < 600; j++) {
        pos[j] = (ft_pos)j;
    }
    for (uint32_t n = 1; n <= 600; n++) {
        append(kv, 1, 1);
        ft_kv_settle(kv, 1);
        uint32_t n_block = n < 164 ? 0 : (n - 100) / 64;
        assert_int_equal(ft_kv_blocks(kv, 1, 1), n_block);
        assert_int_equal(ft_kv_rows(kv, 1, 0), n);
        assert_int_equal(ft_kv_bytes(kv), bytes_of(n, n_block));
        assert_int_equal(gauge.now, ft_kv_bytes(kv));
        assert_int_equal(ft_kv_packed_bytes(&shape, &four, n), ft_kv_bytes(kv));
        if (n % 53 == 0 || n == 164 || n == 600) {
            assert_rows(kv, 1, 0, pos);
            assert_rows(kv, 1, 1, pos);
        }
    }
    assert_int_equal(ft_kv_rows(kv, 0, 0), 0);
    ft_pos more[9];
    for (uint32_t j = 0; j < 9; j++) {
        more[j] = (ft_pos)(600 + j);
    }
    assert_int_equal(ft_kv_extend(kv, 1, more, 9, NULL), FT_LIMIT); /* there is room for 608 */
    ft_kv_release(kv, 1);
    assert_int_equal(gauge.now, 0);
    ft_kv_free(kv);
}

/* As many rows as go in between two settlements, and one more; what was rewound is gone. */
static void test_room(void **state) {
    (void)state;
    struct ft_gauge gauge = { 0 };
    struct ft_kv *kv = store_new(&gauge, 5000);
    struct ft_error err;
    ft_pos pos[FT_KV_ROOM + 200];
    for (uint32_t j = 0; j < FT_COUNT(pos); j++) {
        pos[j] = (ft_pos)j;
    }
    append(kv, 0, 163);
    ft_kv_settle(kv, 0);
    append(kv, 0, FT_KV_ROOM);
    assert_int_equal(ft_kv_extend(kv, 0, pos + 163 + FT_KV_ROOM, 20, &err), FT_LIMIT);
    assert_int_equal(ft_kv_rows(kv, 0, 1), 163 + FT_KV_ROOM);
    ft_kv_settle(kv, 0);
    assert_int_equal(ft_kv_blocks(kv, 0, 0), (63 + FT_KV_ROOM) / 64);
    assert_rows(kv, 0, 0, pos);
    uint32_t n_exact = 163 + FT_KV_ROOM - 64 * ft_kv_blocks(kv, 0, 0);
    assert_int_equal(ft_kv_rewind(kv, 0, n_exact + 1, &err), FT_ARG);
    assert_int_equal(ft_kv_rewind(kv, 0, n_exact, &err), FT_OK);
    assert_rows(kv, 0, 1, pos);
    append(kv, 0, 3);
    assert_rows(kv, 0, 1, pos);
    /* no row leaves a block */
    ft_row row = 5;
    struct ft_rows one = { &row, 1 }, lists[N_HEAD] = { { &row, 1 }, { &row, 1 } };
    assert_int_equal(ft_kv_drop(kv, 0, 1, &one, &err), FT_UNSUP);
    assert_int_equal(ft_kv_keep(kv, 0, lists, &err), FT_UNSUP);
    assert_non_null(strstr(err.text, "no row leaves one"));
    ft_kv_free(kv);
}

/* Lists of ragged heads, longer than the room for exact rows, settle as they come. */
static void test_gather(void **state) {
    (void)state;
    enum { N = 3000 };
    struct ft_gauge gauge = { 0 };
    struct ft_kv *stage = NULL, *kv = store_new(&gauge, N);
    struct ft_kv_shape single = shape;
    single.n_layer = 1;
    assert_int_equal(ft_kv_new(&single, NULL, &stage, NULL), FT_OK);
    assert_int_equal(ft_kv_reserve(stage, 0, N, NULL), FT_OK);
    append(stage, 0, N);
    ft_row row[N];
    ft_pos pos[N];
    uint32_t n = 0;
    for (uint32_t j = 0; j < N; j++) {
        pos[j] = (ft_pos)j;
        if (j % 7 != 3 && j % 11 < 9) {
            row[n++] = j;
        }
    }
    struct ft_rows keep[N_HEAD] = { { NULL, N }, { row, n } };
    assert_int_equal(ft_kv_gather(kv, 1, stage, 0, keep, NULL), FT_OK);
    assert_int_equal(ft_kv_rows(kv, 1, 0), N);
    assert_int_equal(ft_kv_rows(kv, 1, 1), n);
    assert_int_equal(ft_kv_blocks(kv, 1, 1), (n - 100) / 64);
    assert_rows(kv, 1, 0, pos);
    assert_rows(kv, 1, 1, (const ft_pos *)row);
    assert_int_equal(ft_kv_bytes(kv),
                     (ft_kv_packed_bytes(&shape, &four, N) + ft_kv_packed_bytes(&shape, &four, n)) /
                         N_HEAD);
    keep[0] = (struct ft_rows){ NULL, N + 1 };
    struct ft_error err;
    assert_int_equal(ft_kv_gather(kv, 0, stage, 0, keep, &err), FT_ARG);
    ft_kv_free(stage);
    ft_kv_free(kv);
}

/* ---- means over heads ---- */

enum { MEAN_HEADS = 8, MEAN_D = 64, MEAN_ROWS = 64 };

/* Squared error of the packed keys of 8 heads that are `shared` times a common part, with an outlying
 * channel, and a part of their own. */
static double error_of_heads(float shared, bool is_mean, uint64_t *bytes) {
    struct ft_kv_shape heads = {
        .n_layer = 1, .n_head_kv = MEAN_HEADS, .d = MEAN_D, .k_fmt = FT_F32, .v_fmt = FT_F32
    };
    struct ft_pack whole = { .bits = 4, .by = FT_BY_TOKEN, .group = MEAN_D };
    struct ft_packing packing = { .k = whole, .v = whole, .is_mean = is_mean };
    packing.v.is_value = true;
    struct ft_kv *kv = NULL;
    assert_int_equal(ft_kv_new(&heads, NULL, &kv, NULL), FT_OK);
    ft_kv_set_packing(kv, 0, &packing);
    assert_int_equal(ft_kv_reserve(kv, 0, MEAN_ROWS, NULL), FT_OK);
    float x[MEAN_HEADS][MEAN_ROWS][MEAN_D];
    uint64_t seed = 8;
    for (uint32_t j = 0; j < MEAN_ROWS; j++) {
        ft_pos pos = (ft_pos)j;
        float common[MEAN_D];
        assert_int_equal(ft_kv_extend(kv, 0, &pos, 1, NULL), FT_OK);
        for (uint32_t t = 0; t < MEAN_D; t++) {
            common[t] = shared * oracle_real(&seed) * (t == 5 ? 50.0f : 1.0f);
        }
        for (uint32_t h = 0; h < MEAN_HEADS; h++) {
            for (uint32_t t = 0; t < MEAN_D; t++) {
                x[h][j][t] = common[t] + 0.3f * oracle_real(&seed);
            }
            ft_kv_write(kv, 0, h, j, x[h][j], x[h][j]);
        }
    }
    ft_kv_settle(kv, 0);
    assert_int_equal(ft_kv_blocks(kv, 0, MEAN_HEADS - 1), 1);
    float k[MEAN_ROWS * MEAN_D], v[MEAN_ROWS * MEAN_D];
    double sum = 0;
    for (uint32_t h = 0; h < MEAN_HEADS; h++) {
        ft_kv_read(kv, 0, h, k, v);
        for (uint32_t j = 0; j < MEAN_ROWS * MEAN_D; j++) {
            sum += pow((double)k[j] - (double)x[h][j / MEAN_D][j % MEAN_D], 2);
        }
        assert_same_bits("values as keys", v, k, MEAN_ROWS * MEAN_D);
    }
    *bytes = ft_kv_bytes(kv);
    ft_kv_free(kv);
    return sum;
}

/* TaDA: what heads have in common does not spoil their low-bit part, and costs 1/H of f16. */
static void test_means(void **state) {
    (void)state;
    uint64_t bytes = 0, plain_bytes = 0;
    double centred = error_of_heads(1, true, &bytes);
    double plain = error_of_heads(1, false, &plain_bytes);
    print_message("4 bits, common part: %.3g of the error without means\n", centred / plain);
    assert_true(centred < plain / 10);
    assert_true(error_of_heads(0, true, &bytes) < 1.2 * error_of_heads(0, false, &plain_bytes));
    /* of f16: 1/H + b/16 + 2/d */
    double f16 = 2.0 * MEAN_HEADS * MEAN_ROWS * MEAN_D * 2;
    assert_true(fabs((double)bytes / f16 - (1.0 / 8 + 4.0 / 16 + 2.0 / MEAN_D)) < 1e-12);
    assert_int_equal(plain_bytes + 2 * MEAN_ROWS * MEAN_D * 2, bytes);
}

/* Heads that would keep different rows are refused, and nothing has changed. */
static void test_means_alike(void **state) {
    (void)state;
    struct ft_packing packing = four;
    packing.is_mean = true;
    struct ft_kv *stage = NULL, *kv = store_new(NULL, 600);
    ft_kv_set_packing(kv, 0, &packing);
    assert_int_equal(ft_kv_reserve(kv, 0, 600, NULL), FT_OK);
    struct ft_kv_shape single = shape;
    single.n_layer = 1;
    assert_int_equal(ft_kv_new(&single, NULL, &stage, NULL), FT_OK);
    assert_int_equal(ft_kv_reserve(stage, 0, 600, NULL), FT_OK);
    append(stage, 0, 600);
    ft_row row[300], other[300];
    for (uint32_t j = 0; j < 300; j++) {
        row[j] = other[j] = 2 * j;
    }
    other[7]++;
    struct ft_rows keep[N_HEAD] = { { row, 300 }, { other, 300 } };
    struct ft_error err;
    assert_int_equal(ft_kv_gather(kv, 0, stage, 0, keep, &err), FT_UNSUP);
    assert_non_null(strstr(err.text, "share means"));
    assert_int_equal(ft_kv_rows(kv, 0, 0), 0);
    other[7]--;
    assert_int_equal(ft_kv_gather(kv, 0, stage, 0, keep, &err), FT_OK);
    assert_int_equal(ft_kv_blocks(kv, 0, 1), 3);
    assert_int_equal(ft_kv_bytes(kv), ft_kv_packed_bytes(&shape, &packing, 300));
    ft_kv_free(stage);
    ft_kv_free(kv);
}

static void test_no_memory(void **state) {
    (void)state;
    uint32_t n_failed = 0;
    for (uint64_t at = 1; at < 20; at++) {
        struct ft_gauge gauge = { 0 };
        struct ft_kv *kv = NULL;
        struct ft_error err;
        assert_int_equal(ft_kv_new(&shape, &gauge, &kv, NULL), FT_OK);
        ft_kv_set_packing(kv, 0, &four);
        ft_alloc_fail_after(at, false);
        ft_status status = ft_kv_reserve(kv, 0, 1000, &err);
        ft_alloc_fail_after(0, false);
        assert_true(status == FT_OK || status == FT_NOMEM);
        assert_int_equal(ft_kv_cap(kv, 0), status == FT_OK ? 1008 : 0);
        n_failed += status != FT_OK;
        ft_kv_free(kv);
    }
    assert_int_equal(n_failed, 6); /* k, v, positions, scratch, blocks of k and v */
}

/* ---- attention ---- */

/* Blocks and exact rows behind them give what plain rows with the numbers of the blocks give. */
static void check_attention(const struct ft_kern *kern, const struct ft_kv *kv, uint32_t n_query) {
    enum { GROUP = 3 };
    uint32_t n = ft_kv_rows(kv, 0, 0), n_all = N_HEAD * GROUP;
    size_t one = (size_t)n * D;
    float *rows = test_malloc(2 * N_HEAD * one * sizeof *rows);
    float *q = test_malloc((size_t)n_query * n_all * D * sizeof *q);
    float *out = test_calloc((size_t)2 * n_query * n_all * D, sizeof *out);
    uint64_t seed = 5;
    for (size_t i = 0; i < (size_t)n_query * n_all * D; i++) {
        q[i] = oracle_real(&seed);
    }
    struct ft_span packed[N_HEAD], plain[N_HEAD];
    for (uint32_t h = 0; h < N_HEAD; h++) {
        float *k = rows + 2 * h * one;
        ft_kv_read(kv, 0, h, k, k + one);
        plain[h] = (struct ft_span){ .k = k, .v = k + one, .n_row = n };
        packed[h] = (struct ft_span){ .k = ft_kv_k(kv, 0, h),
                                      .v = ft_kv_v(kv, 0, h),
                                      .n_row = n,
                                      .k_block = ft_kv_k_blocks(kv, 0, h),
                                      .v_block = ft_kv_v_blocks(kv, 0, h),
                                      .n_block = ft_kv_blocks(kv, 0, h),
                                      .k_mean = ft_kv_k_means(kv, 0),
                                      .v_mean = ft_kv_v_means(kv, 0) };
    }
    struct ft_attn_job job = { .q = q,
                               .n_query = n_query,
                               .n_head = n_all,
                               .n_head_kv = N_HEAD,
                               .d = D,
                               .k_fmt = FT_F32,
                               .v_fmt = FT_F32,
                               .k_pack = four.k,
                               .v_pack = four.v,
                               .scale = 1.0f / sqrtf((float)D) };
    void *scratch = NULL;
    assert_int_equal(posix_memalign(&scratch, 64, ft_attn_scratch_bytes(GROUP, D)), 0);
    for (int is_plain = 0; is_plain < 2; is_plain++) {
        job.head = is_plain ? plain : packed;
        job.out = out + (size_t)is_plain * n_query * n_all * D;
        const struct ft_kern *table = is_plain ? &ft_kern_ref : kern;
        if (n_query == 1) {
            float *part = test_calloc(ft_attn_split_count(&job),
                                      ft_attn_split_floats(GROUP, D) * sizeof *part);
            for (uint32_t i = 0; i < ft_attn_split_count(&job); i++) {
                ft_attn_split(table, &job, i, part, scratch);
            }
            for (uint32_t h = 0; h < N_HEAD; h++) {
                ft_attn_join(&job, h, part);
            }
            test_free(part);
        } else {
            for (uint32_t i = 0; i < ft_attn_item_count(&job); i++) {
                ft_attn_dense(table, &job, i, scratch);
            }
        }
    }
    size_t n_out = (size_t)n_query * n_all * D;
    for (size_t i = 0; i < n_out; i++) {
        double difference = fabs((double)out[i] - (double)out[n_out + i]);
        if (!(difference < 3e-3)) { /* values of size 1; words and bf16 round */
            fail_msg("%s, %u queries, [%zu]: %.7g, plain rows %.7g", kern->name, n_query, i,
                     (double)out[i], (double)out[n_out + i]);
        }
    }
    free(scratch);
    test_free(rows);
    test_free(q);
    test_free(out);
}

static void test_attention(void **state) {
    (void)state;
    const struct ft_kern *table[FT_KERN_MOST];
    uint32_t n_table = ft_kern_list(table);
    static const uint32_t lengths[] = { 120, 164, 1000, 1024 + 164, 2500 };
    for (size_t i = 0; i < 2 * FT_COUNT(lengths); i++) {
        struct ft_kv *kv = store_new(NULL, 2600);
        struct ft_packing packing = four;
        packing.is_mean = i % 2 == 1;
        ft_kv_set_packing(kv, 0, &packing);
        assert_int_equal(ft_kv_reserve(kv, 0, 2600, NULL), FT_OK);
        for (uint32_t n = 0; n < lengths[i / 2]; n++) {
            append(kv, 0, 1);
            ft_kv_settle(kv, 0);
        }
        append(kv, 0, 70); /* of a pass that has not settled */
        for (uint32_t t = 0; t < n_table; t++) {
            check_attention(table[t], kv, 1);
            check_attention(table[t], kv, 70);
        }
        ft_kv_free(kv);
    }
}

/* Against the matrix by its definition, H_ij = (-1)^popcount(i & j); twice is nothing. */
static void test_rotate(void **state) {
    (void)state;
    for (uint32_t d = 16; d <= FT_HEAD_MAX; d *= 2) {
        float x[2 * FT_HEAD_MAX], y[2 * FT_HEAD_MAX];
        uint64_t seed = d;
        for (uint32_t t = 0; t < 2 * d; t++) {
            x[t] = oracle_real(&seed);
        }
        ft_rotate(x, y, 2, d);
        for (uint32_t t = 0; t < 2 * d; t++) {
            double sum = 0;
            for (uint32_t j = 0; j < d; j++) {
                int sign = __builtin_popcount(t % d & j) % 2 ? -1 : 1;
                sum += sign * (double)x[t / d * d + j];
            }
            assert_true(fabs(sum / sqrt(d) - (double)y[t]) < 2e-5);
        }
        ft_rotate(y, y, 2, d);
        for (uint32_t t = 0; t < 2 * d; t++) {
            assert_true(fabs((double)x[t] - (double)y[t]) < 1e-5);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settle),    cmocka_unit_test(test_pack_us),
        cmocka_unit_test(test_room),      cmocka_unit_test(test_gather),
        cmocka_unit_test(test_means),     cmocka_unit_test(test_means_alike),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_rotate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
