/* SPDX-License-Identifier: Apache-2.0 */
/* gemm_avx2.c - quantised weights times prompts in 256-bit registers: two ways, both with exact
 * integer sums per block.
 *
 *   int8   weights of up to 5 bits as unsigned bytes, activations as signed bytes: vpmaddubsw,
 *          whose 16-bit sums have room for 8 products of 4 bits (8 * 2 * 15 * 127), or 4 of 5 bits
 *   int16  weights that need more (q8_0; q6_K and q3_K times their integer scales) as 16-bit words,
 *          activations as words of 12 and a sign: vpmaddwd.  Bytes would gain nothing: with both sides
 *          signed, every vpmaddubsw needs a vpsignb before it and a vpmaddwd behind it
 *
 * Lab book.  `gemmbench 512 2048 2048`, unpacking included, one thread of a 2-core Zen 3 whose
 * clock wandered between 2 and 3.3 GHz; f32 multiply-adds make 92 to 99 GFLOP/s on it, of 2 x 8 a cycle;
 * bytes could make 3 times that, words 2 times (two multiplications a cycle, additions are free).
 *                                                                       q4_K    q8_0    q6_K
 *   1  4 x 16 tiles, panels of half the first-level cache, sums in
 *      any order: gcc keeps 64 products in memory to add them in a tree  127      89      75
 *   2  sums in order                                                     193     118     126
 * ggml's mul_mat as stored, the same shape: q4_K 36, q8_0 48, q6_K 31 to 42; f16 64.
 */
#include <string.h>

#include "kern/next.h"
#include "kern/step.h"
#include "kern/unpack256.h"
#include "kern/ymm.h"

enum {
    COL = FT_STRIP_COL,
    STRIPS = 2,          /* strips of columns of one item */
    BYTE_STRETCH = 1024, /* numbers of k that have a panel at a time: 16 KiB, */
    WORD_STRETCH = 512,  /* half of the first-level cache */
    MR = 4,      /* 4 tokens x 16 columns: 8 sums, 2 of w, 1 of x, 1 product of 16 registers */
    GROUP = 128, /* activations that share a scale, int16; the last group may be shorter */
    BYTE_MAX = 127,
    WORD_MAX = 4095, /* 128 numbers of at most 4096 times this stay within 31 bits */
};

/* ---- activations ---- */

/* A tile of MR tokens, one array behind the other.  Words of 32 bits:
 *
 *   int8    q [k/4][MR]    four signed bytes
 *           scale [k/32][MR], sum [k/32][MR]   f32; scale times the sum of the block's bytes
 *   int16   q [k/2][MR]    two signed words
 *           scale [k/GROUP, rounded up][MR]    f32
 */
struct tile {
    const int32_t *q;
    const float *scale, *sum;
};

INLINE size_t group_count(uint32_t k) {
    return (k + GROUP - 1) / GROUP;
}

INLINE size_t byte_tile_words(uint32_t k) {
    return (size_t)k / 32 * (8 + 1 + 1) * MR;
}

INLINE size_t word_tile_words(uint32_t k) {
    return ((size_t)k / 2 + group_count(k)) * MR;
}

static struct tile byte_tile(const void *packed, uint32_t k, uint32_t index, uint32_t t) {
    const int32_t *q = (const int32_t *)packed + byte_tile_words(k) * index;
    const float *scale = (const float *)packed + byte_tile_words(k) * index + (size_t)k / 4 * MR;
    size_t block = (size_t)t / 32 * MR;
    return (struct tile){
        .q = q + (size_t)t / 4 * MR,
        .scale = scale + block,
        .sum = scale + (size_t)k / 32 * MR + block,
    };
}

static struct tile word_tile(const void *packed, uint32_t k, uint32_t index, uint32_t t) {
    const int32_t *q = (const int32_t *)packed + word_tile_words(k) * index;
    const float *scale = (const float *)packed + word_tile_words(k) * index + (size_t)k / 2 * MR;
    return (struct tile){ .q = q + (size_t)t / 2 * MR, .scale = scale + t / GROUP * MR };
}

static size_t byte_packed_bytes(uint32_t m, uint32_t k) {
    return (size_t)((m + MR - 1) / MR) * byte_tile_words(k) * 4;
}

static size_t word_packed_bytes(uint32_t m, uint32_t k) {
    return (size_t)((m + MR - 1) / MR) * word_tile_words(k) * 4;
}

INLINE int32_t reduce_max(__m256i x) {
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

INLINE int32_t reduce_add(__m256i x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

/* The largest |x| of n numbers, a multiple of 32.  As integers, a NaN is above all numbers: it and
 * an infinity make the scale one, whatever the integers are. */
INLINE float largest(const float *x, uint32_t n) {
    __m256i most[4], abs = _mm256_set1_epi32(0x7fffffff);
    UNROLL for (int j = 0; j < 4; j++) {
        most[j] = _mm256_setzero_si256();
    }
    for (uint32_t i = 0; i < n; i += 32) {
        UNROLL for (int j = 0; j < 4; j++) {
            __m256i v = _mm256_castps_si256(_mm256_loadu_ps(x + i + 8 * j));
            most[j] = _mm256_max_epi32(most[j], _mm256_and_si256(v, abs));
        }
    }
    int32_t top = reduce_max(
        _mm256_max_epi32(_mm256_max_epi32(most[0], most[1]), _mm256_max_epi32(most[2], most[3])));
    float max;
    memcpy(&max, &top, sizeof max);
    return max;
}

INLINE __m256i scaled(const float *x, float inverse) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse)));
}

/* One block of 32 of a group's numbers, none above max, as bytes. */
INLINE void pack_bytes(const float *x, float max, uint32_t group, int32_t *q, float *scale,
                       float *sum) {
    float inverse = inverse_of(max, BYTE_MAX);
    __m256i a = scaled(x, inverse), b = scaled(x + 8, inverse), c = scaled(x + 16, inverse),
            d = scaled(x + 24, inverse);
    __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    __m256i all = _mm256_madd_epi16(_mm256_add_epi16(ab, cd), _mm256_set1_epi16(1));
    /* within lanes: 0-3 8-11 16-19 24-27 and 4-7 12-15 20-23 28-31 */
    __m256i bytes = _mm256_packs_epi16(ab, cd);
    int32_t word[8];
    _mm256_storeu_si256((__m256i *)(void *)word, bytes);
    for (uint32_t i = 0; i < 8; i++) {
        q[(size_t)i * MR] = word[i / 2 + i % 2 * 4];
    }
    *scale = scale_of(max, BYTE_MAX);
    *scale = group == 32 ? f16_step(*scale) : *scale;
    *sum = *scale * (float)reduce_add(all);
}

/* One group of n numbers, a multiple of 32, as words. */
INLINE void pack_words(const float *x, uint32_t n, int32_t *q, float *scale) {
    float max = largest(x, n), inverse = inverse_of(max, WORD_MAX);
    for (uint32_t t = 0; t < n; t += 16) {
        __m256i w = _mm256_packs_epi32(scaled(x + t, inverse), scaled(x + t + 8, inverse));
        int32_t word[8]; /* within lanes: 0-3 8-11 and 4-7 12-15 */
        _mm256_storeu_si256((__m256i *)(void *)word, w);
        for (uint32_t i = 0; i < 8; i++) {
            q[((size_t)t / 2 + i) * MR] = word[i % 4 / 2 * 4 + i / 4 * 2 + i % 2];
        }
    }
    *scale = scale_of(max, WORD_MAX);
}

/* group: activations whose largest makes the scale, a divisor of k. */
INLINE void pack_byte_groups(const float *x, size_t x_stride, uint32_t k, uint32_t group,
                             uint32_t first, uint32_t n, void *packed) {
    for (uint32_t i = first; i < first + n; i++) {
        size_t at = byte_tile_words(k) * (i / MR) + i % MR;
        int32_t *q = (int32_t *)packed + at;
        float *scale = (float *)packed + at + (size_t)k / 4 * MR,
              *sum = scale + (size_t)k / 32 * MR, max = 0;
        for (uint32_t b = 0; b < k / 32; b++) {
            const float *from = x + i * x_stride + b * 32;
            if (b * 32 % group == 0) {
                max = largest(from, group);
            }
            pack_bytes(from, max, group, q + (size_t)b * 8 * MR, scale + (size_t)b * MR,
                       sum + (size_t)b * MR);
        }
    }
}

static void byte_pack_32(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                         uint32_t n, void *packed) {
    ft_assert(k % 32 == 0 && first <= m && n <= m - first);
    pack_byte_groups(x, x_stride, k, 32, first, n, packed);
}

static void byte_pack_256(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                          uint32_t n, void *packed) {
    ft_assert(k % 256 == 0 && first <= m && n <= m - first);
    pack_byte_groups(x, x_stride, k, 256, first, n, packed);
}

static void word_pack(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                      uint32_t n, void *packed) {
    ft_assert(k % 32 == 0 && first <= m && n <= m - first);
    for (uint32_t i = first; i < first + n; i++) {
        size_t at = word_tile_words(k) * (i / MR) + i % MR;
        int32_t *q = (int32_t *)packed + at;
        float *scale = (float *)packed + at + (size_t)k / 2 * MR;
        for (uint32_t t = 0; t < k; t += GROUP) {
            pack_words(x + i * x_stride + t, FT_MIN(k - t, (uint32_t)GROUP), q + (size_t)t / 2 * MR,
                       scale + t / GROUP * MR);
        }
    }
}

/* ---- products ---- */

/* y [n][COL] of n tokens and a panel of k numbers; add: to what is there */
struct job {
    struct tile x;
    struct ft_strip w;
    uint32_t k, n;
    float *y;
    size_t y_stride;
    bool add;
};

INLINE void sums_begin(const struct job *j, uint32_t n, __m256 acc[MR][2]) {
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            acc[i][v] =
                j->add ? _mm256_loadu_ps(j->y + i * j->y_stride + 8 * v) : _mm256_setzero_ps();
        }
    }
}

INLINE void sums_end(const struct job *j, uint32_t n, __m256 acc[MR][2]) {
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            _mm256_storeu_ps(j->y + i * j->y_stride + 8 * v, acc[i][v]);
        }
    }
}

/* sum += four numbers of every token and column from step t on, `step` steps */
INLINE void add_bytes(const int32_t *q, const __m256i *w, uint32_t step, uint32_t n,
                      __m256i sum[MR][2]) {
    UNROLL for (uint32_t t = 0; t < step; t++) {
        __m256i w0 = _mm256_load_si256(w + 2 * t), w1 = _mm256_load_si256(w + 2 * t + 1);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m256i x = _mm256_set1_epi32(q[t * MR + i]);
            __m256i a = _mm256_maddubs_epi16(w0, x), b = _mm256_maddubs_epi16(w1, x);
            sum[i][0] = in_place(t == 0 ? a : _mm256_add_epi16(sum[i][0], a));
            sum[i][1] = in_place(t == 0 ? b : _mm256_add_epi16(sum[i][1], b));
        }
    }
}

/* most: the largest byte of the panel, 15 or 31 */
INLINE void multiply_bytes(const struct job *j, uint32_t n, uint32_t most) {
    const __m256i one = _mm256_set1_epi16(1), *w = j->w.q;
    __m256 acc[MR][2];
    sums_begin(j, n, acc);
    for (uint32_t b = 0; b < j->k / 32; b++) {
        const int32_t *q = j->x.q + (size_t)b * 8 * MR;
        __m256i sum[MR][2], dot[MR][2];
        if (most == 15) {
            add_bytes(q, w + b * 16, 8, n, sum);
        } else {
            add_bytes(q, w + b * 16, 4, n, sum);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                dot[i][0] = _mm256_madd_epi16(sum[i][0], one);
                dot[i][1] = _mm256_madd_epi16(sum[i][1], one);
            }
            add_bytes(q + 4 * MR, w + b * 16 + 8, 4, n, sum);
        }
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            __m256 s = _mm256_load_ps(j->w.scale + b * COL + 8 * v),
                   o = _mm256_load_ps(j->w.offset + b * COL + 8 * v);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m256i d = _mm256_madd_epi16(sum[i][v], one);
                d = most == 15 ? d : _mm256_add_epi32(dot[i][v], d);
                __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(d), s);
                f = _mm256_fmadd_ps(f, _mm256_set1_ps(j->x.scale[b * MR + i]), acc[i][v]);
                acc[i][v] = _mm256_fnmadd_ps(o, _mm256_set1_ps(j->x.sum[b * MR + i]), f);
            }
        }
    }
    sums_end(j, n, acc);
}

/* share: numbers of the panel that share a scale, 32 or 128 */
INLINE void multiply_words(const struct job *j, uint32_t n, uint32_t share) {
    const __m256i *w = j->w.q;
    __m256 acc[MR][2];
    sums_begin(j, n, acc);
    for (uint32_t b = 0; b < j->k / share; b++) {
        const int32_t *q = j->x.q + (size_t)b * share / 2 * MR;
        const float *scale = j->x.scale + b * share / GROUP * MR;
        __m256i dot[MR][2];
        UNROLL for (uint32_t i = 0; i < n; i++) {
            dot[i][0] = dot[i][1] = _mm256_setzero_si256();
        }
        for (uint32_t u = 0; u < share / 2; u += 4) {
            UNROLL for (uint32_t t = u; t < u + 4; t++) {
                __m256i w0 = _mm256_load_si256(w + 2 * t), w1 = _mm256_load_si256(w + 2 * t + 1);
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    __m256i x = _mm256_set1_epi32(q[t * MR + i]);
                    dot[i][0] = in_place(_mm256_add_epi32(dot[i][0], _mm256_madd_epi16(w0, x)));
                    dot[i][1] = in_place(_mm256_add_epi32(dot[i][1], _mm256_madd_epi16(w1, x)));
                }
            }
        }
        w += share;
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            __m256 s = _mm256_load_ps(j->w.scale + b * COL + 8 * v);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[i][v]), s);
                acc[i][v] = _mm256_fmadd_ps(f, _mm256_set1_ps(scale[i]), acc[i][v]);
            }
        }
    }
    sums_end(j, n, acc);
}

#define KERNEL(name, multiply, how)                                                                \
    static __attribute__((noinline)) void name(const struct job *j) {                              \
        switch (j->n) {                                                                            \
        case 1:                                                                                    \
            multiply(j, 1, how);                                                                   \
            break;                                                                                 \
        case 2:                                                                                    \
            multiply(j, 2, how);                                                                   \
            break;                                                                                 \
        case 3:                                                                                    \
            multiply(j, 3, how);                                                                   \
            break;                                                                                 \
        default:                                                                                   \
            multiply(j, MR, how);                                                                  \
        }                                                                                          \
    }

KERNEL(multiply_4_bits, multiply_bytes, 15)
KERNEL(multiply_5_bits, multiply_bytes, 31)
KERNEL(multiply_words_32, multiply_words, 32)
KERNEL(multiply_words_128, multiply_words, 128)

/* ---- one item ---- */

static uint32_t stretch_of(bool is_byte) {
    return is_byte ? BYTE_STRETCH : WORD_STRETCH;
}

static size_t panel_bytes(bool is_byte) {
    return (size_t)stretch_of(is_byte) * COL * (is_byte ? 1 : 2);
}

static size_t scale_count(bool is_byte) {
    return (size_t)stretch_of(is_byte) / 32 * COL;
}

static size_t byte_scratch_bytes(uint32_t k) {
    (void)k;
    return panel_bytes(true) + 2 * scale_count(true) * sizeof(float);
}

static size_t word_scratch_bytes(uint32_t k) {
    (void)k;
    return panel_bytes(false) + scale_count(false) * sizeof(float);
}

static void run(const struct job *j, struct ft_strip_kind kind) {
    if (kind.most == 15) {
        multiply_4_bits(j);
    } else if (kind.most > 0) {
        multiply_5_bits(j);
    } else if (kind.scaled == 32) {
        multiply_words_32(j);
    } else {
        multiply_words_128(j);
    }
}

/* The job with fewer columns than a panel has: by way of a copy, so nothing else is touched. */
static void run_narrow(const struct job *j, struct ft_strip_kind kind, uint32_t n_col) {
    float y[MR * COL] = { 0 };
    struct job narrow = *j;
    narrow.y = y;
    narrow.y_stride = COL;
    for (uint32_t i = 0; i < j->n && j->add; i++) {
        memcpy(y + (size_t)i * COL, j->y + i * j->y_stride, n_col * sizeof *y);
    }
    run(&narrow, kind);
    for (uint32_t i = 0; i < j->n; i++) {
        memcpy(j->y + i * j->y_stride, y + (size_t)i * COL, n_col * sizeof *y);
    }
}

/* Columns [first, first + n_col) of the item, at most a strip of them. */
static void multiply_strip(const struct ft_matmul_item *it, uint32_t first, uint32_t n_col,
                           bool is_last) {
    struct ft_strip_kind kind = ft_strip_kind(it->type);
    bool is_byte = kind.most > 0;
    uint32_t stretch = stretch_of(is_byte);
    float *scale = (float *)(void *)((uint8_t *)it->scratch + panel_bytes(is_byte));
    struct ft_strip p = { .q = it->scratch,
                          .scale = scale,
                          .offset = is_byte ? scale + scale_count(true) : NULL };
    for (uint32_t t = 0; t < it->k; t += stretch) {
        uint32_t k = FT_MIN(it->k - t, stretch);
        ft_strip_unpack(it->type, (const uint8_t *)it->w + first * it->w_stride, it->w_stride,
                        n_col, t, k, &p);
        for (uint32_t i = 0; i < it->m; i += MR) {
            uint32_t tile = i / MR;
            struct job j = { .x = is_byte ? byte_tile(it->packed, it->k, tile, t)
                                          : word_tile(it->packed, it->k, tile, t),
                             .w = p,
                             .k = k,
                             .n = FT_MIN(it->m - i, (uint32_t)MR),
                             .y = it->y + i * it->y_stride + first,
                             .y_stride = it->y_stride,
                             .add = t > 0 };
            if (is_last && t + k == it->k) {
                fetch_next(it, i, j.n);
            }
            if (n_col == COL) {
                run(&j, kind);
            } else {
                run_narrow(&j, kind, n_col);
            }
        }
    }
}

static void multiply(const struct ft_matmul_item *it) {
    ft_assert(it->n_col >= 1 && it->n_col <= STRIPS * COL);
    for (uint32_t first = 0; first < it->n_col; first += COL) {
        uint32_t n_col = FT_MIN(it->n_col - first, (uint32_t)COL);
        multiply_strip(it, first, n_col, first + n_col == it->n_col);
    }
}

static bool takes(uint32_t type, uint32_t k) {
    struct ft_strip_kind kind = ft_strip_kind(type);
    return kind.block != 0 && k > 0 && k % kind.block == 0;
}

static bool byte_takes_32(uint32_t type, uint32_t k, bool has_decode) {
    struct ft_strip_kind kind = ft_strip_kind(type);
    (void)has_decode;
    return takes(type, k) && kind.most > 0 && kind.block == 32;
}

static bool byte_takes_256(uint32_t type, uint32_t k, bool has_decode) {
    struct ft_strip_kind kind = ft_strip_kind(type);
    (void)has_decode;
    return takes(type, k) && kind.most > 0 && kind.block == 256;
}

static bool word_takes(uint32_t type, uint32_t k, bool has_decode) {
    (void)has_decode;
    return takes(type, k) && ft_strip_kind(type).most == 0;
}

const struct ft_matmul ft_matmul_int8_avx2 = {
    .name = "int8",
    .item_col = STRIPS * COL,
    .takes = byte_takes_32,
    .packed_bytes = byte_packed_bytes,
    .pack = byte_pack_32,
    .scratch_bytes = byte_scratch_bytes,
    .multiply = multiply,
};

const struct ft_matmul ft_matmul_int8_k_avx2 = {
    .name = "int8",
    .item_col = STRIPS * COL,
    .takes = byte_takes_256,
    .packed_bytes = byte_packed_bytes,
    .pack = byte_pack_256,
    .scratch_bytes = byte_scratch_bytes,
    .multiply = multiply,
};

const struct ft_matmul ft_matmul_int16_avx2 = {
    .name = "int16",
    .item_col = STRIPS * COL,
    .takes = word_takes,
    .packed_bytes = word_packed_bytes,
    .pack = word_pack,
    .scratch_bytes = word_scratch_bytes,
    .multiply = multiply,
};
