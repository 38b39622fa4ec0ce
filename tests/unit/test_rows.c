/* SPDX-License-Identifier: Apache-2.0 */
/* test_rows.c - products of stored weights with a few tokens, against sums in double of the weights
 * that ggml decodes, and the promises about bits. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>

#include "base/rng.h"
#include "kern/matmul.h"

#if defined(__x86_64__)

enum { K_MAX = 2048, GUARD = 3 };

static const uint32_t types[] = {
    FT_W_F32,  FT_W_F16,  FT_W_BF16, FT_W_Q8_0, FT_W_Q4_0, FT_W_Q4_1,
    FT_W_Q5_0, FT_W_Q5_1, FT_W_Q4_K, FT_W_Q5_K, FT_W_Q6_K,
};
static const uint32_t widths[] = { 32, 64, 96, 256, 512, 736, K_MAX };

static bool is_float(uint32_t type) {
    return type == FT_W_F32 || type == FT_W_F16 || type == FT_W_BF16;
}

static bool is_super(uint32_t type) {
    return type == FT_W_Q4_K || type == FT_W_Q5_K || type == FT_W_Q6_K;
}

/* ---- data ---- */

enum input { INPUT_RANDOM, INPUT_OUTLIER, INPUT_UNEVEN, INPUT_ZERO, INPUT_TINY, INPUT_COUNT };

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

static void *aligned(size_t n_byte) {
    return must(aligned_alloc(64, (n_byte + 63) & ~(size_t)63));
}

static float uniform(uint64_t seed, uint32_t what, uint64_t i) {
    return (float)(ft_rng_uniform(seed, what, 0, i) * 2 - 1);
}

static float input_size(enum input input, uint64_t seed, uint64_t i) {
    switch (input) {
    case INPUT_RANDOM:
        return 1;
    case INPUT_OUTLIER: /* one in 200 */
        return ft_rng_value(seed, 9, 0, i) % 200 == 0 ? 100 : 1;
    case INPUT_UNEVEN: /* blocks of 32 between 1/1024 and 1 */
        return ldexpf(1, -(int)(ft_rng_value(seed, 8, 0, i / 32) % 11));
    case INPUT_TINY: /* some blocks count as zero */
        return i / 32 % 2 == 0 ? 0x1p-80f : 0x1p-110f;
    default:
        return 0;
    }
}

struct data {
    uint32_t type, m, n, k;
    enum input input;
    uint64_t seed;
    size_t row_bytes;
    float *x;       /* [m][k] */
    float *decoded; /* [n][k] */
    uint8_t *w;     /* [n] rows; the allocation ends with the last row */
    float *y;       /* [m][n] */
};

static void weights_make(struct data *data, float size) {
    enum ggml_type type = (enum ggml_type)data->type;
    size_t count = (size_t)data->n * data->k;
    float *wish = must(malloc(count * sizeof *wish));
    for (size_t i = 0; i < count; i++) {
        /* rows differ in size, and no block is centred on zero */
        wish[i] = (uniform(data->seed, 2, i) + 0.2f * uniform(data->seed, 3, i / 32)) * size *
                  (float)(1 + i / data->k % 3);
    }
    data->row_bytes = ggml_row_size(type, data->k);
    data->w = must(malloc(data->n * data->row_bytes));
    data->decoded = must(malloc(count * sizeof *data->decoded));
    if (type == GGML_TYPE_F32) {
        memcpy(data->w, wish, count * sizeof *wish);
        memcpy(data->decoded, wish, count * sizeof *wish);
    } else {
        ggml_quantize_chunk(type, wish, data->w, 0, data->n, data->k, NULL);
        ggml_get_type_traits(type)->to_float(data->w, data->decoded, (int64_t)count);
    }
    free(wish);
}

static struct data data_make(uint32_t type, uint32_t m, uint32_t n, uint32_t k, enum input input) {
    struct data data = { .type = type, .m = m, .n = n, .k = k, .input = input };
    data.seed = ft_rng_mix((uint64_t)type << 40 ^ (uint64_t)k << 16 ^ (uint64_t)input << 8 ^ m);
    data.x = must(malloc((size_t)m * k * sizeof *data.x));
    data.y = must(malloc((size_t)m * n * sizeof *data.y));
    for (size_t i = 0; i < (size_t)m * k; i++) {
        data.x[i] = uniform(data.seed, 1, i) * input_size(input, data.seed, i);
    }
    weights_make(&data, 0.05f);
    return data;
}

static void data_free(struct data *data) {
    free(data->x);
    free(data->y);
    free(data->w);
    free(data->decoded);
}

/* Tokens [first, first + m) with columns [col, col + n), y [m][n]; packed as one in an allocation
 * of just the size, NaN where nothing may be written. */
static void multiply(const struct data *data, uint32_t first, uint32_t m, uint32_t col, uint32_t n,
                     float *y) {
    const struct ft_matmul *rows = &ft_matmul_rows;
    void *packed = aligned(rows->packed_bytes(m, data->k));
    memset(packed, 0xff, rows->packed_bytes(m, data->k));
    rows->pack(data->x + (size_t)first * data->k, data->k, m, data->k, 0, m, packed);
    size_t stride = n + GUARD;
    float *guarded = must(malloc(m * stride * sizeof *guarded));
    memset(guarded, 0xff, m * stride * sizeof *guarded);
    void *scratch = aligned(rows->scratch_bytes(data->k) + 1);
    for (uint32_t c = 0; c < n; c += rows->item_col) {
        struct ft_matmul_item item = {
            .type = data->type,
            .w = data->w + (col + c) * data->row_bytes,
            .w_stride = data->row_bytes,
            .m = m,
            .n_col = FT_MIN(n - c, rows->item_col),
            .k = data->k,
            .packed = packed,
            .y = guarded + c,
            .y_stride = stride,
            .scratch = scratch,
        };
        rows->multiply(&item);
    }
    for (uint32_t i = 0; i < m; i++) {
        memcpy(y + (size_t)i * n, guarded + i * stride, n * sizeof *y);
        for (uint32_t c = n; c < stride; c++) {
            uint32_t bits;
            memcpy(&bits, guarded + i * stride + c, sizeof bits);
            assert_int_equal(bits, 0xffffffffu);
        }
    }
    free(packed);
    free(guarded);
    free(scratch);
}

/* ---- the bound ---- */

static double largest(const float *x, uint32_t n) {
    double max = 0;
    for (uint32_t i = 0; i < n; i++) {
        max = fmax(max, fabs((double)x[i]));
    }
    return max;
}

/* What rounding the activations around number t may change in one of them: half a step, and where 32
 * share it, its rounding to f16.  A block below 2^-100 counts as zero. */
static double half_step(const struct data *data, const float *x, uint32_t t) {
    uint32_t block = is_super(data->type) ? 256 : 32;
    double max = largest(x + t / block * block, block);
    if (is_float(data->type)) {
        return 0;
    }
    if (max < 0x1p-100) {
        return max;
    }
    return (max / 254 + (block == 32 ? max * 0x1p-11 : 0)) *
           (1 + 0x1p-20); /* 1 / step is rounded */
}

/* Also f32 rounding: of the sums, a chain of at most k/16 + 16 operations, and of the decoded
 * weights, which cancel scale * q against an offset of at most twice the block's largest weight. */
static double bound(const struct data *data, const float *x, const float *w) {
    double sum = 0;
    for (uint32_t b = 0; b < data->k / 32; b++) {
        double abs_w = 0, abs_xw = 0, abs_x = 0;
        for (uint32_t t = 32 * b; t < 32 * b + 32; t++) {
            abs_w += fabs((double)w[t]);
            abs_x += fabs((double)x[t]);
            abs_xw += fabs((double)x[t] * (double)w[t]);
        }
        sum += half_step(data, x, 32 * b) * abs_w;
        sum += (data->k / 16.0 + 16) * 0x1p-24 * abs_xw;
        sum += is_float(data->type) ? 0 : 8 * 0x1p-24 * abs_x * largest(w + 32 * b, 32);
    }
    return sum + 1e-38;
}

/* Largest error in units of the bound. */
static double compare(const struct data *data) {
    double worst = 0;
    for (uint32_t i = 0; i < data->m; i++) {
        for (uint32_t c = 0; c < data->n; c++) {
            const float *x = data->x + (size_t)i * data->k,
                        *w = data->decoded + (size_t)c * data->k;
            double want = 0, got = data->y[(size_t)i * data->n + c];
            for (uint32_t t = 0; t < data->k; t++) {
                want += (double)x[t] * (double)w[t];
            }
            double share = fabs(got - want) / bound(data, x, w);
            if (!(share <= 1)) {
                print_error("type %u m %u n %u k %u input %d: token %u column %u: got %g want %g, "
                            "%g of the bound\n",
                            data->type, data->m, data->n, data->k, data->input, i, c, got, want,
                            share);
                fail();
            }
            worst = fmax(worst, share);
        }
    }
    return worst;
}

/* ---- tests ---- */

static bool can_run(void) {
    struct ft_cpu cpu = ft_cpu_features();
    return cpu.has_avx512 && cpu.has_vnni;
}

#define NEEDS_CPU()                                                                                \
    do {                                                                                           \
        if (!can_run()) {                                                                          \
            print_message("SKIP rows: this machine has no AVX-512 with VNNI\n");                   \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static void products_are_within_the_bound(void **state) {
    (void)state;
    NEEDS_CPU();
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        double worst = 0;
        for (size_t j = 0; j < FT_COUNT(widths); j++) {
            for (int input = 0; input < INPUT_COUNT; input++) {
                if (!ft_matmul_rows.takes(types[i], widths[j], false)) {
                    continue;
                }
                uint32_t m = 1 + (uint32_t)(j + (size_t)input) % FT_MATMUL_FEW;
                struct data data = data_make(types[i], m, 9, widths[j], (enum input)input);
                multiply(&data, 0, m, 0, data.n, data.y);
                worst = fmax(worst, compare(&data));
                data_free(&data);
            }
        }
        print_message("%s: at most %.2f of the bound\n", ggml_type_name((enum ggml_type)types[i]),
                      worst);
        assert_true(worst > 0);
    }
}

static void every_count_of_rows_and_tokens(void **state) {
    (void)state;
    NEEDS_CPU();
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        struct data data =
            data_make(types[i], FT_MATMUL_FEW, ft_matmul_rows.item_col + 5, 256, INPUT_RANDOM);
        multiply(&data, 0, data.m, 0, data.n, data.y);
        compare(&data);
        float *part = must(malloc((size_t)data.m * data.n * sizeof *part));
        for (uint32_t n = 1; n <= ft_matmul_rows.item_col; n++) {
            /* the last rows of the allocation, so that a read behind them is seen */
            uint32_t m = 1 + n % FT_MATMUL_FEW, first = (data.m - m) / 2, col = data.n - n;
            multiply(&data, first, m, col, n, part);
            for (uint32_t t = 0; t < m; t++) {
                assert_memory_equal(part + t * n, data.y + (first + t) * data.n + col,
                                    n * sizeof *part);
            }
        }
        free(part);
        data_free(&data);
    }
}

/* Bits depend on the token and the row alone. */
static void bits_do_not_depend_on_the_company(void **state) {
    (void)state;
    NEEDS_CPU();
    static const uint32_t ks[] = { 96, 512 };
    for (size_t i = 0; i < FT_COUNT(types) * FT_COUNT(ks); i++) {
        uint32_t type = types[i / FT_COUNT(ks)], k = ks[i % FT_COUNT(ks)];
        if (!ft_matmul_rows.takes(type, k, false)) {
            continue;
        }
        struct data data = data_make(type, FT_MATMUL_FEW, 11, k, INPUT_OUTLIER);
        multiply(&data, 0, data.m, 0, data.n, data.y);
        float *part = must(malloc((size_t)data.m * data.n * sizeof *part));
        for (uint32_t m = 1; m <= data.m; m++) {
            for (uint32_t first = 0; first + m <= data.m; first++) {
                multiply(&data, first, m, 0, data.n, part);
                assert_memory_equal(part, data.y + (size_t)first * data.n,
                                    (size_t)m * data.n * sizeof *part);
            }
        }
        for (uint32_t c = 0; c < data.n; c++) {
            multiply(&data, 3, 1, c, 1, part);
            assert_memory_equal(part, data.y + 3 * data.n + c, sizeof *part);
        }
        free(part);
        data_free(&data);
    }
}

static void tokens_packed_apart_are_the_same(void **state) {
    (void)state;
    NEEDS_CPU();
    static const uint32_t ks[] = { 32, 96, 512 };
    for (size_t i = 0; i < FT_COUNT(ks); i++) {
        uint32_t k = ks[i], m = FT_MATMUL_FEW;
        struct data data = data_make(FT_W_F32, m, 1, k, INPUT_RANDOM);
        size_t n_byte = ft_matmul_rows.packed_bytes(m, k);
        char *whole = aligned(n_byte), *parts = aligned(n_byte);
        memset(whole, 0x55, n_byte);
        memset(parts, 0xaa, n_byte);
        ft_matmul_rows.pack(data.x, k, m, k, 0, m, whole);
        ft_matmul_rows.pack(data.x, k, m, k, 3, m - 3, parts);
        ft_matmul_rows.pack(data.x, k, m, k, 0, 1, parts);
        ft_matmul_rows.pack(data.x, k, m, k, 1, 2, parts);
        assert_memory_equal(whole, parts, n_byte);
        free(whole);
        free(parts);
        data_free(&data);
    }
}

static void zeros_give_zeros(void **state) {
    (void)state;
    NEEDS_CPU();
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        struct data data = data_make(types[i], 2, 5, 512, INPUT_ZERO);
        multiply(&data, 0, data.m, 0, data.n, data.y);
        for (size_t j = 0; j < (size_t)data.m * data.n; j++) {
            assert_true(data.y[j] == 0);
        }
        data_free(&data);
        data = data_make(types[i], 2, 5, 512, INPUT_RANDOM);
        free(data.w);
        free(data.decoded);
        weights_make(&data, 0);
        multiply(&data, 0, data.m, 0, data.n, data.y);
        for (size_t j = 0; j < (size_t)data.m * data.n; j++) {
            assert_true(data.y[j] == 0);
        }
        data_free(&data);
    }
}

/* A NaN or an infinity is seen in its token and in no other. */
static void what_is_not_finite_stays_in_its_token(void **state) {
    (void)state;
    NEEDS_CPU();
    static const float odd[] = { NAN, INFINITY, -INFINITY };
    for (size_t i = 0; i < FT_COUNT(types) * FT_COUNT(odd); i++) {
        uint32_t type = types[i / FT_COUNT(odd)], bad = (uint32_t)(i * 5 % FT_MATMUL_FEW);
        struct data data = data_make(type, FT_MATMUL_FEW, 6, 512, INPUT_RANDOM);
        multiply(&data, 0, data.m, 0, data.n, data.y);
        float *y = must(malloc((size_t)data.m * data.n * sizeof *y));
        data.x[(size_t)bad * data.k + i * 37 % data.k] = odd[i % FT_COUNT(odd)];
        multiply(&data, 0, data.m, 0, data.n, y);
        for (uint32_t t = 0; t < data.m; t++) {
            if (t != bad) {
                assert_memory_equal(y + t * data.n, data.y + t * data.n, data.n * sizeof *y);
                continue;
            }
            for (uint32_t c = 0; c < data.n; c++) {
                assert_false(fabs((double)y[t * data.n + c]) <= FLT_MAX);
            }
        }
        free(y);
        data_free(&data);
    }
}

/* The largest integers that a super-block can sum up: nothing overflows or saturates. */
static void extreme_weights_do_not_overflow(void **state) {
    (void)state;
    NEEDS_CPU();
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        if (is_float(types[i])) {
            continue;
        }
        for (uint32_t byte = 0; byte < 256; byte += byte == 0 || byte == 0x7f ? 0x7f : 1) {
            struct data data = data_make(types[i], 2, 4, 512, INPUT_RANDOM);
            size_t block_bytes =
                ggml_row_size((enum ggml_type)types[i], is_super(types[i]) ? 256 : 32);
            memset(data.w, (int)byte, data.n * data.row_bytes);
            for (uint8_t *b = data.w; b < data.w + data.n * data.row_bytes; b += block_bytes) {
                uint16_t one[2] = { 0x3c00, 0x3800 }; /* f16 scales, and offsets where there are */
                size_t at = types[i] == FT_W_Q6_K ? block_bytes - 2 : 0;
                bool has_min = types[i] != FT_W_Q6_K && types[i] != FT_W_Q8_0 &&
                               types[i] != FT_W_Q4_0 && types[i] != FT_W_Q5_0;
                memcpy(b + at, one, has_min ? 4 : 2);
                if (types[i] == FT_W_Q6_K && byte == 0) { /* weights of -32, scales of -128 */
                    memset(b + 192, 0x80, 16);
                }
            }
            ggml_get_type_traits((enum ggml_type)types[i])
                ->to_float(data.w, data.decoded, (int64_t)data.n * data.k);
            for (uint32_t t = 0; t < data.k; t++) {
                data.x[t] = 1;
                data.x[data.k + t] = -1;
            }
            multiply(&data, 0, data.m, 0, data.n, data.y);
            compare(&data);
            data_free(&data);
            if (byte == 0xff) {
                break;
            }
        }
    }
}

static void what_it_takes(void **state) {
    (void)state;
    for (uint32_t type = 0; type < 64; type++) {
        bool known = false;
        for (size_t i = 0; i < FT_COUNT(types); i++) {
            known = known || types[i] == type;
        }
        assert_int_equal(ft_matmul_rows.takes(type, 512, false), known);
        assert_int_equal(ft_matmul_rows.takes(type, 512, true), known);
        assert_int_equal(ft_matmul_rows.takes(type, 96, false), known && !is_super(type));
        assert_false(ft_matmul_rows.takes(type, 0, false));
        assert_false(ft_matmul_rows.takes(type, 33, true));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_within_the_bound),
        cmocka_unit_test(every_count_of_rows_and_tokens),
        cmocka_unit_test(bits_do_not_depend_on_the_company),
        cmocka_unit_test(tokens_packed_apart_are_the_same),
        cmocka_unit_test(zeros_give_zeros),
        cmocka_unit_test(what_is_not_finite_stays_in_its_token),
        cmocka_unit_test(extreme_weights_do_not_overflow),
        cmocka_unit_test(what_it_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void) {
    return 77;
}
#endif
