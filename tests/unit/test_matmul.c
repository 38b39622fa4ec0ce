/* SPDX-License-Identifier: Apache-2.0 */
/* test_matmul.c - the prompt-sized ways of matmul.h against a product in doubles of the weights as
 * ggml decodes them, and the promises about bits. */
#if defined(__x86_64__)
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "kern/kern.h"
#include "kern/matmul.h"

/* A type: half lists the bytes of a block that hold f16 scales (-1: none), quants those of the
 * numbers themselves; with these zero a block decodes to minus its offset. */
static const struct type {
    uint32_t type, block, bytes;
    int half[2];
    uint32_t quants[2]; /* [from, to) */
    bool has_offset;
} types[] = {
    { FT_W_Q4_0, 32, 18, { 0, -1 }, { 2, 18 }, false },
    { FT_W_Q4_1, 32, 20, { 0, 2 }, { 4, 20 }, true },
    { FT_W_Q5_0, 32, 22, { 0, -1 }, { 2, 22 }, false },
    { FT_W_Q5_1, 32, 24, { 0, 2 }, { 4, 24 }, true },
    { FT_W_Q8_0, 32, 34, { 0, -1 }, { 2, 34 }, false },
    { FT_W_Q2_K, 256, 84, { 80, 82 }, { 16, 80 }, true },
    { FT_W_Q3_K, 256, 110, { 108, -1 }, { 0, 96 }, false },
    { FT_W_Q4_K, 256, 144, { 0, 2 }, { 16, 144 }, true },
    { FT_W_Q5_K, 256, 176, { 0, 2 }, { 16, 176 }, true },
    { FT_W_Q6_K, 256, 210, { 208, -1 }, { 0, 192 }, false },
    { FT_W_F32, 1, 4, { -1, -1 }, { 0, 0 }, false },
    { FT_W_F16, 1, 2, { -1, -1 }, { 0, 0 }, false },
    { FT_W_BF16, 1, 2, { -1, -1 }, { 0, 0 }, false },
    { GGML_TYPE_IQ4_NL, 32, 18, { 0, -1 }, { 0, 0 }, false }, /* stands for types of others */
};

/* largest integer of an activation, activations that share a scale */
struct grain {
    uint32_t most, group;
};

static struct grain grain_of(const struct ft_matmul *way) {
    bool is_k = way == &ft_matmul_int8_k || way == &ft_matmul_int8_k_avx2;
    return way == &ft_matmul_int16_avx2 ? (struct grain){ 4095, 128 }
                                        : (struct grain){ 127, is_k ? 256 : 32 };
}

enum input { RANDOM, LARGE, OUTLIER, ZERO_BLOCKS, MIDPOINTS, BYTES, N_INPUT };

struct job {
    const struct ft_matmul *way;
    const struct type *type;
    enum input input;
    uint32_t m, n, k;
    uint8_t *w;     /* [n][k], ends with the last row */
    float *x, *y;   /* [m][k], [m][n] */
    float *decoded; /* [n][k] */
    float *offset;  /* [n][k] of each number's block */
};

static void *must(size_t n) {
    void *p = malloc(n);
    assert_non_null(p);
    return p;
}

static void *aligned(size_t n) {
    void *p = aligned_alloc(64, (n + 63) & ~(size_t)63);
    assert_non_null(p);
    return p;
}

static double uniform(uint64_t seed, uint32_t what, uint64_t i) {
    return ft_rng_uniform(seed, what, 0, i) * 2 - 1;
}

static void decode(uint32_t type, const void *row, float *out, int64_t k) {
    if (type == FT_W_F32) {
        memcpy(out, row, (size_t)k * sizeof *out);
        return;
    }
    ggml_get_type_traits((enum ggml_type)type)->to_float(row, out, k);
}

static void decode_iq4(const void *row, float *out, int64_t k) {
    decode(GGML_TYPE_IQ4_NL, row, out, k);
}

/* Every bit pattern of the numbers and of the integer scales may occur; f16 scales are tame. */
static void random_blocks(const struct type *t, uint8_t *w, size_t n_block, uint64_t seed) {
    for (size_t i = 0; i < n_block * t->bytes; i++) {
        w[i] = (uint8_t)(ft_rng_uniform(seed, 1, 0, i) * 256);
    }
    for (size_t b = 0; b < n_block; b++) {
        for (int h = 0; h < 2 && t->half[h] >= 0; h++) {
            ggml_fp16_t f = ggml_fp32_to_fp16((float)uniform(seed, 2 + (uint32_t)h, b) * 0.01f);
            memcpy(w + b * t->bytes + t->half[h], &f, sizeof f);
        }
    }
}

static void random_floats(const struct type *t, uint8_t *w, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        /* a third just above the middle of two bf16 numbers: the largest rounding error */
        float f = i % 3 == 0 ? 1 + 0x1p-8f + 0x1p-10f : (float)uniform(seed, 1, i);
        f = i % 1021 == 7 ? 500 : f;
        ggml_fp16_t h = ggml_fp32_to_fp16(f);
        ggml_bf16_t b = ggml_fp32_to_bf16(f);
        const void *from = t->type == FT_W_F32   ? (const void *)&f
                           : t->type == FT_W_F16 ? (const void *)&h
                                                 : (const void *)&b;
        memcpy(w + i * t->bytes, from, t->bytes);
    }
}

static void decode_offsets(struct job *j, size_t row_bytes) {
    uint8_t *bare = must(row_bytes * j->n);
    memcpy(bare, j->w, row_bytes * j->n);
    for (size_t b = 0; b < row_bytes * j->n / j->type->bytes; b++) {
        memset(bare + b * j->type->bytes + j->type->quants[0], 0,
               j->type->quants[1] - j->type->quants[0]);
    }
    for (uint32_t c = 0; c < j->n; c++) {
        decode(j->type->type, bare + c * row_bytes, j->offset + (size_t)c * j->k, j->k);
    }
    free(bare);
}

static float input_at(enum input input, uint64_t seed, uint32_t i, uint32_t t) {
    float x = (float)uniform(seed, 9 + i, t);
    switch (input) {
    case LARGE:
        return x * 1e15f;
    case OUTLIER:
        return t == 37 ? 1000 : x;
    case ZERO_BLOCKS:
        return t / 32 % 2 == 0 ? 0 : x * 1e-30f;
    case MIDPOINTS:
        return (x < 0 ? -1.0f : 1.0f) * (1 + 0x1p-8f - 0x1p-20f);
    case BYTES: /* nothing is rounded: every block's scale is 1, bf16 holds these */
        return t % 32 == 5 ? 127 : rintf(x * 127);
    default:
        return x;
    }
}

static struct job job_open(const struct ft_matmul *way, const struct type *t, uint32_t m,
                           uint32_t n, uint32_t k, enum input input) {
    struct job j = { .way = way, .type = t, .input = input, .m = m, .n = n, .k = k };
    size_t row = (size_t)k / t->block * t->bytes;
    uint64_t seed = t->type * 1000 + m + n + k;
    j.w = must(row * n);
    j.x = must((size_t)m * k * sizeof(float));
    j.y = must((size_t)m * n * sizeof(float));
    j.decoded = must((size_t)n * k * sizeof(float));
    j.offset = must((size_t)n * k * sizeof(float));
    memset(j.offset, 0, (size_t)n * k * sizeof(float));
    if (t->block == 1) {
        random_floats(t, j.w, (size_t)n * k, seed);
    } else {
        random_blocks(t, j.w, row * n / t->bytes, seed);
    }
    if (t->has_offset || way == &ft_matmul_int8_avx2 || way == &ft_matmul_int8_k_avx2) {
        decode_offsets(&j, row);
    }
    for (uint32_t c = 0; c < n; c++) {
        decode(t->type, j.w + c * row, j.decoded + (size_t)c * k, k);
    }
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t a = 0; a < k; a++) {
            j.x[(size_t)i * k + a] = input_at(input, seed, i, a);
        }
    }
    return j;
}

static void job_close(struct job *j) {
    free(j->w);
    free(j->x);
    free(j->y);
    free(j->decoded);
    free(j->offset);
}

/* y of the rows [from, to) of w, tokens packed `step` at a time. */
static void product(const struct job *j, uint32_t from, uint32_t to, uint32_t step, float *y,
                    size_t y_stride) {
    size_t row = (size_t)j->k / j->type->block * j->type->bytes;
    void *packed = aligned(j->way->packed_bytes(j->m, j->k));
    void *scratch = aligned(j->way->scratch_bytes(j->k));
    memset(scratch, 0xff, j->way->scratch_bytes(j->k));
    memset(packed, 0xff, j->way->packed_bytes(j->m, j->k));
    for (uint32_t i = 0; i < j->m; i += step) {
        j->way->pack(j->x, j->k, j->m, j->k, i, FT_MIN(step, j->m - i), packed);
    }
    for (uint32_t c = from; c < to; c += j->way->item_col) {
        struct ft_matmul_item it = {
            .type = j->type->type,
            .w = j->w + c * row,
            .w_stride = row,
            .m = j->m,
            .n_col = FT_MIN(j->way->item_col, to - c),
            .k = j->k,
            .packed = packed,
            .y = y + (c - from),
            .y_stride = y_stride,
            .scratch = scratch,
            .decode = j->type->type == GGML_TYPE_IQ4_NL ? decode_iq4 : NULL,
        };
        j->way->multiply(&it);
    }
    free(packed);
    free(scratch);
}

static double largest(const float *x, uint32_t n) {
    double max = 0;
    for (uint32_t i = 0; i < n; i++) {
        max = fmax(max, fabs((double)x[i]));
    }
    return max;
}

/* Half a step of the words of a group. */
static double half_step(const float *x, uint32_t n) {
    double square = 0;
    for (uint32_t t = 0; t < n; t++) {
        square += (double)x[t] * (double)x[t];
    }
    return fmax(largest(x, n) / 32767, sqrt(square) / 46330) / 2;
}

/* matmul.h, int16 in 512 bits, Exact */
static double bound_words(const float *x, const float *w, uint32_t k) {
    double rounded = 0, size = 0;
    for (uint32_t b = 0; b < k; b += 128) {
        uint32_t n = FT_MIN(k - b, 128u);
        double hx = half_step(x + b, n), hw = half_step(w + b, n);
        for (uint32_t t = b; t < b + n; t++) {
            double ax = fabs((double)x[t]), aw = fabs((double)w[t]);
            rounded += hx * aw + hw * ax + hx * hw;
            size += (ax + hx) * (aw + hw);
        }
    }
    return rounded * (1 + 0x1p-14) + ((double)k / 128 + 12) * 0x1p-24 * size;
}

/* What rounding changes in one of a group's activations: half a step at most, and where 32 share it,
 * its rounding to f16. */
static double largest_change(const float *x, uint32_t n, struct grain g) {
    double max = largest(x, n);
    return max / (2 * g.most) + (g.group == 32 ? max * 0x1p-11 : 0);
}

/* f32 rounding of the sums, whatever was rounded before. */
static double bound_sums(const struct job *j, const float *x, const float *w, const float *o) {
    double size = 0;
    for (uint32_t t = 0; t < j->k; t++) {
        size += fabs((double)x[t]) * (fabs((double)w[t]) + 2 * fabs((double)o[t]));
    }
    return (3.0 * j->k / 32 + 16) * 0x1p-24 * size;
}

/* matmul.h, int8, int16 and bf16, Exact */
static double bound(const struct job *j, const float *x, const float *w, const float *o) {
    double rounded = 0, size = 0, k = j->k;
    if (j->way == &ft_matmul_bf16) {
        for (uint32_t t = 0; t < j->k; t++) {
            rounded += fabs((double)x[t] * (double)w[t]);
            size += (fabs((double)x[t]) + fabs((double)w[t]) + 1) * 0x1p-126;
        }
        return 0x1p-8 * rounded + k * 0x1p-24 * (1 + 0x1p-8) * rounded + size;
    }
    if (j->way == &ft_matmul_int16) {
        return bound_words(x, w, j->k);
    }
    struct grain g = grain_of(j->way);
    for (uint32_t b = 0; b < j->k; b += g.group) {
        uint32_t end = FT_MIN(b + g.group, j->k);
        double half = largest_change(x + b, end - b, g);
        for (uint32_t t = b; t < end; t++) {
            rounded += half * (1 + 0x1p-14) * fabs((double)w[t]);
            size += (fabs((double)x[t]) + half) * (fabs((double)w[t]) + 2 * fabs((double)o[t]));
        }
    }
    if (j->input == BYTES && g.most == 127) {
        rounded = 0;
    }
    return rounded + (3 * k / 32 + 8) * 0x1p-24 * size + k * 0x1p-119;
}

/* y is the product of x and w within bound_of(j, row of x, of w, of offsets). */
static void assert_near(const struct job *j, double (*bound_of)(const struct job *, const float *,
                                                                const float *, const float *)) {
    for (uint32_t i = 0; i < j->m; i++) {
        for (uint32_t c = 0; c < j->n; c++) {
            const float *x = j->x + (size_t)i * j->k, *w = j->decoded + (size_t)c * j->k;
            double exact = 0;
            for (uint32_t t = 0; t < j->k; t++) {
                exact += (double)x[t] * (double)w[t];
            }
            double error = fabs((double)j->y[(size_t)i * j->n + c] - exact),
                   most = bound_of(j, x, w, j->offset + (size_t)c * j->k);
            if (!(error <= most)) {
                fail_msg("%s type %u m %u n %u k %u: y[%u][%u] %g is %g off, bound %g",
                         j->way->name, (unsigned)j->type->type, (unsigned)j->m, (unsigned)j->n,
                         (unsigned)j->k, (unsigned)i, (unsigned)c, exact, error, most);
            }
        }
    }
}

static void check(struct job *j) {
    memset(j->y, 0xff, (size_t)j->m * j->n * sizeof(float)); /* NaN: written, not added to */
    product(j, 0, j->n, j->m, j->y, j->n);
    assert_near(j, bound);
}

/* Ways that this machine can run and that take the type; the list of all types and ways. */
static bool each(size_t *at, const struct ft_matmul **way, const struct type **type) {
    struct ft_cpu cpu = ft_cpu_features();
    const struct ft_matmul *ways[] = {
        cpu.has_vnni ? &ft_matmul_int8 : NULL,      cpu.has_vnni ? &ft_matmul_int8_k : NULL,
        cpu.has_vnni ? &ft_matmul_int16 : NULL,     cpu.has_bf16 ? &ft_matmul_bf16 : NULL,
        cpu.has_avx2 ? &ft_matmul_int8_avx2 : NULL, cpu.has_avx2 ? &ft_matmul_int8_k_avx2 : NULL,
        cpu.has_avx2 ? &ft_matmul_int16_avx2 : NULL
    };
    for (; *at < FT_COUNT(ways) * FT_COUNT(types); ++*at) {
        *way = ways[*at % FT_COUNT(ways)];
        *type = &types[*at / FT_COUNT(ways)];
        bool others = (*type)->type == GGML_TYPE_IQ4_NL;
        if (*way && (*way)->takes((*type)->type, FT_MAX((*type)->block, 32u), others)) {
            ++*at;
            return true;
        }
    }
    return false;
}

/* ---- tests ---- */

static void test_shapes(void **state) {
    static const uint32_t m[] = { 1, 2, 3, 4, 5, 6, 7, 12, 17 }, n[] = { 1, 31, 32, 33, 64, 70 };
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        uint32_t step = FT_MAX(type->block, 32u);
        for (size_t a = 0; a < FT_COUNT(m); a++) {
            for (size_t b = 0; b < FT_COUNT(n); b++) {
                struct job j =
                    job_open(way, type, m[a], n[b], step * (1 + (uint32_t)(a + b) % 4), RANDOM);
                check(&j);
                job_close(&j);
            }
        }
    }
}

/* Past every stretch that is unpacked at a time, with a rest. */
static void test_long_rows(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        struct job j = job_open(way, type, 7, 5, 8192 + FT_MAX(type->block, 32u), RANDOM);
        check(&j);
        job_close(&j);
    }
}

static void test_extremes(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        for (int input = RANDOM; input < N_INPUT; input++) {
            struct job j = job_open(way, type, 8, 33, 512, (enum input)input);
            check(&j);
            job_close(&j);
        }
    }
}

/* The largest sums of words: all weights of a column alike, and all activations of a token. */
static void test_largest_words(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        if (type->type != FT_W_F16) {
            continue;
        }
        struct job j = job_open(way, type, 8, 33, 544, RANDOM);
        for (uint32_t i = 0; i < j.n * j.k; i++) {
            ggml_fp16_t f =
                ggml_fp32_to_fp16(ldexpf(i / j.k % 2 == 0 ? 1 : -1, (int)(i / j.k % 24) - 12));
            memcpy(j.w + (size_t)i * 2, &f, sizeof f);
        }
        decode(type->type, j.w, j.decoded, (int64_t)j.n * j.k);
        for (uint32_t i = 0; i < j.m * j.k; i++) {
            j.x[i] = (i / j.k % 2 == 0 ? 1.0f : -1.0f) * (float)(3 + i / j.k);
        }
        check(&j);
        job_close(&j);
    }
}

/* The largest sums there are: every weight -32 times a scale of -128, every activation the largest. */
static void test_largest_sums(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        if (type->type != FT_W_Q6_K) {
            continue;
        }
        struct job j = job_open(way, type, 5, 17, 512, RANDOM);
        for (size_t b = 0; b < (size_t)j.n * j.k / type->block; b++) {
            ggml_fp16_t one = ggml_fp32_to_fp16(1);
            memset(j.w + b * type->bytes, 0, type->bytes);
            memset(j.w + b * type->bytes + 192, 0x80, 16);
            memcpy(j.w + b * type->bytes + 208, &one, sizeof one);
        }
        decode(type->type, j.w, j.decoded, (int64_t)j.n * j.k);
        for (uint32_t i = 0; i < j.m * j.k; i++) {
            j.x[i] = i / j.k % 2 == 0 ? 1 : -1;
        }
        assert_true(j.decoded[0] == 4096);
        check(&j);
        job_close(&j);
    }
}

/* Rows of one number each give the activations back as they were rounded. */
static void activations_of(const struct ft_matmul *way) {
    uint8_t row[32][34] = { { 0 } };
    struct job j = { .way = way, .m = 100, .n = 32, .k = 32, .w = row[0] };
    float x[100 * 32], y[100 * 32];
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        j.type = types[i].type == FT_W_Q8_0 ? &types[i] : j.type;
    }
    for (uint32_t t = 0; t < 32; t++) {
        ggml_fp16_t one = ggml_fp32_to_fp16(1);
        memcpy(row[t], &one, sizeof one);
        row[t][2 + t] = 1;
    }
    for (uint32_t i = 0; i < FT_COUNT(x); i++) {
        x[i] = (float)uniform(5, 0, i);
    }
    j.x = x;
    product(&j, 0, j.n, j.m, y, j.n);
    for (uint32_t i = 0; i < FT_COUNT(x); i++) {
        double most = largest_change(x + i / 32 * 32, 32, grain_of(way));
        assert_true(fabs((double)y[i] - (double)x[i]) <= most * (1 + 0x1p-14) + 0x1p-24);
    }
}

static void test_activations(void **state) {
    (void)state;
    if (!ft_cpu_features().has_avx2) {
        print_message("SKIP activations: this machine has no AVX2\n");
        skip();
    }
    activations_of(&ft_matmul_int16_avx2);
    if (ft_cpu_features().has_vnni) {
        activations_of(&ft_matmul_int8);
    }
}

/* k activations as ggml's own product with this type rounds them. */
static void round_as_ggml(uint32_t type, const float *x, uint32_t k, float *to) {
    const struct ggml_type_traits_cpu *cpu = ggml_get_type_traits_cpu((enum ggml_type)type);
    enum ggml_type as = cpu->vec_dot_type;
    uint32_t group = (uint32_t)ggml_blck_size(as);
    size_t bytes = ggml_type_size(as), at = as == GGML_TYPE_Q8_0 ? 2 : 4; /* of the signed bytes */
    uint8_t *packed = must(ggml_row_size(as, k));
    assert_true(as == GGML_TYPE_Q8_0 || as == GGML_TYPE_Q8_1 || as == GGML_TYPE_Q8_K);
    ggml_get_type_traits_cpu(as)->from_float(x, packed, k);
    for (uint32_t t = 0; t < k; t++) {
        const uint8_t *block = packed + t / group * bytes;
        ggml_fp16_t half;
        float step;
        memcpy(&half, block, sizeof half);
        memcpy(&step, block, sizeof step);
        to[t] = (as == GGML_TYPE_Q8_K ? step : ggml_fp16_to_fp32(half)) *
                (float)(int8_t)block[at + t % group];
    }
    free(packed);
}

/* Whichever of the byte ways takes a type, prompts and few tokens: what it multiplies is what ggml
 * multiplies. */
static void test_rounds_as_ggml(void **state) {
    struct ft_cpu cpu = ft_cpu_features();
    const struct ft_matmul *const ways[] = { cpu.has_vnni ? &ft_matmul_int8 : NULL,
                                             cpu.has_vnni ? &ft_matmul_int8_k : NULL,
                                             cpu.has_vnni ? &ft_matmul_rows : NULL,
                                             cpu.has_avx2 ? &ft_matmul_int8_avx2 : NULL,
                                             cpu.has_avx2 ? &ft_matmul_int8_k_avx2 : NULL };
    (void)state;
    ggml_cpu_init();
    for (size_t i = 0; i < FT_COUNT(ways) * FT_COUNT(types); i++) {
        const struct ft_matmul *way = ways[i / FT_COUNT(types)];
        const struct type *type = &types[i % FT_COUNT(types)];
        if (!way || type->block == 1 || !way->takes(type->type, 1024, false)) {
            continue;
        }
        struct job j = job_open(way, type, 7, 9, 1024, RANDOM);
        product(&j, 0, j.n, j.m, j.y, j.n);
        for (uint32_t t = 0; t < j.m; t++) {
            round_as_ggml(type->type, j.x + (size_t)t * j.k, j.k, j.x + (size_t)t * j.k);
        }
        assert_near(&j, bound_sums);
        job_close(&j);
    }
}

/* All weights zero, all activations zero, tiny and huge activations: finite, zeros exact. */
static void test_zeros(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        struct job j = job_open(way, type, 3, 4, 256, RANDOM);
        memset(j.x, 0, j.k * sizeof *j.x);
        for (uint32_t t = 0; t < j.k; t++) {
            j.x[j.k + t] = 1e-40f;
            j.x[2 * j.k + t] = 1e34f;
        }
        product(&j, 0, j.n, j.m, j.y, j.n);
        for (uint32_t c = 0; c < j.n; c++) {
            assert_true(j.y[c] == 0.0f);
            assert_true(fabsf(j.y[j.n + c]) < 1e-34f);
            assert_true(isfinite(j.y[2 * j.n + c]));
        }
        memset(j.w, 0, (size_t)j.n * j.k / type->block * type->bytes);
        product(&j, 0, j.n, j.m, j.y, j.n);
        for (uint32_t i = 0; i < j.n * j.m; i++) {
            assert_true(j.y[i] == 0.0f);
        }
        job_close(&j);
    }
}

static void test_not_a_number(void **state) {
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        for (size_t b = 0; b < FT_COUNT(bad); b++) {
            struct job j = job_open(way, type, 8, 3, 256, RANDOM);
            float *clean = must((size_t)j.m * j.n * sizeof *clean);
            product(&j, 0, j.n, j.m, clean, j.n);
            j.x[2 * j.k + 77] = bad[b];
            product(&j, 0, j.n, j.m, j.y, j.n);
            for (uint32_t i = 0; i < j.m * j.n; i++) {
                if (i / j.n == 2) {
                    assert_true(fabsf(j.y[i]) == INFINITY || isnan(j.y[i]) != 0);
                } else {
                    assert_memory_equal(&j.y[i], &clean[i], sizeof *clean);
                }
            }
            free(clean);
            job_close(&j);
        }
    }
}

static void test_not_a_weight(void **state) {
    static const uint16_t bad[2][3] = { { 0x7e00, 0x7c00, 0xfc00 }, { 0x7fc0, 0x7f80, 0xff80 } };
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        for (size_t b = 0; type->bytes == 2 && b < FT_COUNT(bad[0]); b++) {
            struct job j = job_open(way, type, 8, 35, 256, RANDOM);
            float *clean = must((size_t)j.m * j.n * sizeof *clean);
            product(&j, 0, j.n, j.m, clean, j.n);
            memcpy(j.w + (2 * j.k + 77) * 2, &bad[type->type == FT_W_BF16][b], 2);
            product(&j, 0, j.n, j.m, j.y, j.n);
            for (uint32_t i = 0; i < j.m * j.n; i++) {
                if (i % j.n == 2) {
                    assert_true(fabsf(j.y[i]) == INFINITY || isnan(j.y[i]) != 0);
                } else {
                    assert_memory_equal(&j.y[i], &clean[i], sizeof *clean);
                }
            }
            free(clean);
            job_close(&j);
        }
    }
}

/* One token and one column at a time, tokens packed in any pieces: the bits of the whole. */
static void test_same_bits(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        struct job j = job_open(way, type, 11, 70, 2304, RANDOM);
        product(&j, 0, j.n, j.m, j.y, j.n);
        float *other = must((size_t)j.m * j.n * sizeof *other);
        for (uint32_t step = 1; step < 8; step += 3) {
            product(&j, 0, j.n, step, other, j.n);
            assert_memory_equal(j.y, other, (size_t)j.m * j.n * sizeof *other);
        }
        for (uint32_t i = 0; i < j.m; i += 3) {
            struct job one = j;
            one.m = 1;
            one.x = j.x + (size_t)i * j.k;
            product(&one, 0, j.n, 1, other, j.n);
            assert_memory_equal(j.y + (size_t)i * j.n, other, j.n * sizeof *other);
        }
        for (uint32_t c = 0; c < j.n; c += 9) {
            product(&j, c, c + 1, j.m, other, 1);
            for (uint32_t i = 0; i < j.m; i++) {
                assert_memory_equal(j.y + (size_t)i * j.n + c, other + i, sizeof *other);
            }
        }
        free(other);
        job_close(&j);
    }
}

/* A product writes its own columns and nothing else, and strides are honoured. */
static void test_writes_its_columns(void **state) {
    const struct ft_matmul *way;
    const struct type *type;
    (void)state;
    for (size_t at = 0; each(&at, &way, &type);) {
        struct job j = job_open(way, type, 7, 13, 256, RANDOM);
        enum { STRIDE = 40, AT = 5 };
        float y[7 * STRIDE];
        memset(y, 0x55, sizeof y);
        product(&j, 0, j.n, j.m, j.y, j.n);
        product(&j, 0, j.n, j.m, y + AT, STRIDE);
        for (uint32_t i = 0; i < j.m; i++) {
            for (uint32_t c = 0; c < STRIDE; c++) {
                uint32_t untouched = 0x55555555;
                const void *want = c >= AT && c < AT + j.n ? (const void *)&j.y[i * j.n + c - AT]
                                                           : (const void *)&untouched;
                assert_memory_equal(&y[i * STRIDE + c], want, sizeof(float));
            }
        }
        job_close(&j);
    }
}

static void test_takes(void **state) {
    (void)state;
    assert_false(ft_matmul_int8_k.takes(FT_W_Q4_K, 128, true));
    assert_true(ft_matmul_int8_k.takes(FT_W_Q4_K, 256, false));
    assert_false(ft_matmul_int8_k.takes(FT_W_Q8_0, 256, false));
    assert_false(ft_matmul_int8.takes(FT_W_Q4_K, 256, false));
    assert_false(ft_matmul_int8.takes(FT_W_Q8_0, 48, true));
    assert_false(ft_matmul_int8.takes(FT_W_Q8_0, 0, true));
    assert_false(ft_matmul_int8.takes(FT_W_F16, 256, true));
    assert_false(ft_matmul_int8.takes(GGML_TYPE_IQ4_NL, 256, true));
    assert_true(ft_matmul_int8_avx2.takes(FT_W_Q4_0, 32, true));
    assert_false(ft_matmul_int8_avx2.takes(FT_W_Q5_K, 256, true));
    assert_false(ft_matmul_int8_k_avx2.takes(FT_W_Q5_K, 128, true));
    assert_true(ft_matmul_int8_k_avx2.takes(FT_W_Q5_K, 256, true));
    assert_false(ft_matmul_int8_avx2.takes(FT_W_Q8_0, 256, true));
    assert_true(ft_matmul_int16_avx2.takes(FT_W_Q8_0, 96, true));
    assert_true(ft_matmul_int16_avx2.takes(FT_W_Q6_K, 256, true));
    assert_false(ft_matmul_int16_avx2.takes(FT_W_Q4_0, 256, true));
    assert_false(ft_matmul_int16_avx2.takes(FT_W_Q2_K, 256, true));
    assert_true(ft_matmul_int16.takes(FT_W_F16, 32, false));
    assert_false(ft_matmul_int16.takes(FT_W_F16, 33, false));
    assert_false(ft_matmul_int16.takes(GGML_TYPE_IQ4_NL, 256, false));
    assert_true(ft_matmul_int16.takes(GGML_TYPE_IQ4_NL, 256, true));
    assert_true(ft_matmul_bf16.takes(FT_W_BF16, 32, false));
    assert_false(ft_matmul_bf16.takes(FT_W_BF16, 33, false));
    assert_false(ft_matmul_bf16.takes(FT_W_F16, 32, true));
}

/* Finer than bf16 wherever weights are: only those stored as bf16 are multiplied so. */
static void test_bf16_meets_bf16_alone(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        for (uint32_t m = 1; m <= 512; m++) {
            const struct ft_matmul *way = ft_matmul_way(types[i].type, 512, m, true);
            assert_true(way != &ft_matmul_bf16 || types[i].type == FT_W_BF16);
            bool is_words = strcmp(ft_kern()->name, "avx512vnni") == 0;
            if (types[i].type == FT_W_F16 ? is_words || strcmp(ft_kern()->name, "avx512bf16") == 0
                                          : types[i].type == FT_W_BF16 && is_words) {
                assert_ptr_equal(way, m > FT_MATMUL_FEW ? &ft_matmul_int16 : &ft_matmul_rows);
            }
        }
    }
}

/* Types that are decoded row by row: for many tokens, and where ggml does no better. */
static void test_decoded(void **state) {
    (void)state;
    if (strcmp(ft_kern()->name, "avx512bf16") == 0) {
        assert_ptr_equal(ft_matmul_way(GGML_TYPE_IQ4_NL, 512, 512, true), &ft_matmul_int16);
    }
    assert_null(ft_matmul_way(GGML_TYPE_IQ4_NL, 512, 9, true));
    assert_null(ft_matmul_way(GGML_TYPE_IQ4_NL, 512, 512, false));
    static const enum ggml_type left[] = { GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S,
                                           GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S,  GGML_TYPE_IQ1_S,
                                           GGML_TYPE_IQ1_M,   GGML_TYPE_IQ4_XS };
    for (size_t i = 0; i < FT_COUNT(left); i++) {
        assert_null(ft_matmul_way(left[i], 512, 512, true));
    }
}

/* What is chosen takes what it was asked for, and the reference table has no ways. */
static void test_way(void **state) {
    bool none = strcmp(ft_kern()->name, "ref") == 0;
    (void)state;
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        for (uint32_t m = 1; m < 600; m += 7) {
            const struct ft_matmul *way = ft_matmul_way(types[i].type, 512, m, true);
            assert_true(way == NULL || way->takes(types[i].type, 512, true));
            assert_true(way == NULL || !none);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rounds_as_ggml),
        cmocka_unit_test(test_largest_sums),
        cmocka_unit_test(test_largest_words),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_not_a_weight),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_writes_its_columns),
        cmocka_unit_test(test_takes),
        cmocka_unit_test(test_way),
        cmocka_unit_test(test_bf16_meets_bf16_alone),
        cmocka_unit_test(test_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    return 77; /* no ways on this kind of machine */
}

#endif
