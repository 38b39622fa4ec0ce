/* SPDX-License-Identifier: Apache-2.0 */
/* words256.c - attention over whole tiles in products of 16-bit words, in 256-bit registers.
 *
 * Lab book.  `kernbench 4096 5`, GFLOP/s of attend, group of 4, one thread of a 2-core Zen 3 with a
 * clock of 2 to 3.3 GHz (f32 multiply-adds make 92 to 99 on it), three runs each in turn beside
 * other programs.                       d 64, f16    d 128, f16    d 64, q8_0
 *   0  f32 (tile.h)                     53 to 67      58 to 72      53 to 63
 *   1  words; 16 queries at a time      94 to 102     79 to 103     89 to 98
 */
#include <math.h>
#include <string.h>

#include "kern/words.h"
#include "kern/ymm.h"

enum {
    MR = 4,     /* 4 queries x 16 keys or channels: 8 sums, 2 operands, a broadcast, a product */
    STRIP = 16, /* keys or channels side by side */
    CHUNK = FT_WORDS_CHUNK,
    PAIR_ROW = FT_TILE_ROW / 2,
    BLOCK = 32,      /* numbers of a q8_0 block */
    BLOCK_BYTE = 34, /* f16 scale, 32 signed bytes */
};

/* ---- numbers to words ---- */

/* Pairs of numbers in a head, padded to whole registers. */
static uint32_t width_of(uint32_t d) {
    return (d + 15) / 16 * 8;
}

/* 8 numbers of a row from t on; zeros behind the last */
INLINE __m256 numbers8(const char *row, uint32_t t, uint32_t d, enum ft_fmt fmt) {
    if (t >= d) {
        return _mm256_setzero_ps();
    }
    if (fmt != FT_Q8_0) {
        return load8(row, t, fmt);
    }
    const char *block = row + t / BLOCK * BLOCK_BYTE;
    uint16_t half;
    memcpy(&half, block, sizeof half);
    __m128i byte = _mm_loadl_epi64((const __m128i *)(const void *)(block + 2 + t % BLOCK));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(byte)),
                         _mm256_set1_ps(_cvtsh_ss(half)));
}

/* 16 numbers times `by` as words, in the order of vpackssdw: 0-3 8-11 4-7 12-15 */
INLINE __m256i words16(const char *row, uint32_t t, uint32_t d, enum ft_fmt fmt,
                       const __m256 by[2]) {
    return _mm256_packs_epi32(
        _mm256_cvtps_epi32(_mm256_mul_ps(numbers8(row, t, d, fmt), by[0])),
        _mm256_cvtps_epi32(_mm256_mul_ps(numbers8(row, t + 8, d, fmt), by[1])));
}

/* The largest |x| of numbers [t, end) of a row; as integers, so that a NaN is above everything. */
INLINE float row_most(const char *row, uint32_t t, uint32_t end, uint32_t d, enum ft_fmt fmt) {
    __m256i most = _mm256_setzero_si256();
    for (uint32_t e = t; e < end; e += 8) {
        most = _mm256_max_epi32(most, _mm256_castps_si256(magnitude(numbers8(row, e, d, fmt))));
    }
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(x));
}

/* ---- q ---- */

static void queries(const struct ft_attend *a, struct ft_words *w) {
    uint32_t d = a->d, width = width_of(d);
    for (uint32_t i = 0; i < a->m; i++) {
        const char *row = (const char *)(a->q + i * a->q_stride);
        float most = row_most(row, 0, d, d, FT_F32);
        __m256 by = _mm256_set1_ps(inverse_of(most, FT_WORDS_Q)), both[2] = { by, by };
        w->fits[i] = most <= FT_WORDS_LIMIT;
        w->q_scale[i] = scale_of(most, FT_WORDS_Q) * a->scale;
        for (uint32_t t = 0; t < d; t += 16) {
            _mm256_storeu_si256((__m256i *)(void *)(w->q + (size_t)i * width + t / 2),
                                words16(row, t, d, FT_F32, both));
        }
    }
}

/* ---- K and V of a tile ---- */

/* Eight rows from `first` on: numbers of one chunk. -> false: too large, or not finite */
INLINE bool keys_chunk(const struct rows *k, enum ft_fmt fmt, uint32_t first, uint32_t c,
                       uint32_t d, struct ft_words *w) {
    uint32_t end = FT_MIN((c + 1) * CHUNK, d);
    float by[8], *scale = w->k_scale + (size_t)c * FT_TILE_ROW + first;
    int32_t *to = w->k + (size_t)first / STRIP * STRIP * width_of(d) + first % STRIP;
    bool fits = true;
    for (uint32_t r = 0; r < 8; r++) {
        float most = row_most(k->data + (first + r) * k->stride, c * CHUNK, end, d, fmt);
        fits = fits && most <= FT_WORDS_LIMIT;
        by[r] = inverse_of(most, FT_WORDS_K);
        scale[r] = scale_of(most, FT_WORDS_K);
    }
    for (uint32_t t = c * CHUNK; t < end; t += 16) {
        __m256i x[8];
        UNROLL for (uint32_t r = 0; r < 8; r++) {
            __m256 one = _mm256_set1_ps(by[r]), both[2] = { one, one };
            x[r] = words16(k->data + (first + r) * k->stride, t, d, fmt, both);
        }
        transpose8_words(x);
        UNROLL for (uint32_t e = 0; e < 8; e++) {
            _mm256_storeu_si256((__m256i *)(void *)(to + (size_t)(t / 2 + e) * STRIP), x[e]);
        }
    }
    return fits;
}

INLINE bool keys(const struct rows *k, enum ft_fmt fmt, uint32_t d, struct ft_words *w) {
    for (uint32_t first = 0; first < FT_TILE_ROW; first += 8) {
        for (uint32_t c = 0; c < (d + CHUNK - 1) / CHUNK; c++) {
            if (!keys_chunk(k, fmt, first, c, d, w)) {
                return false;
            }
        }
    }
    return true;
}

/* 8 channels: what takes the largest of the tile to the largest integer, and their scales.
 * -> false: too large, or not finite */
INLINE bool channels8(const struct rows *v, enum ft_fmt fmt, uint32_t t, uint32_t d, __m256 *by,
                      float *scale) {
    __m256i top = _mm256_setzero_si256();
    for (uint32_t j = 0; j < FT_TILE_ROW; j++) {
        __m256 x = magnitude(numbers8(v->data + j * v->stride, t, d, fmt));
        top = _mm256_max_epi32(top, _mm256_castps_si256(x));
    }
    __m256 most = _mm256_castsi256_ps(top);
    __m256 large = _mm256_cmp_ps(most, _mm256_set1_ps(FT_WORDS_V * 0x1p-126f), _CMP_GE_OQ);
    *by = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(FT_WORDS_V), most), large);
    _mm256_storeu_ps(scale, _mm256_and_ps(_mm256_div_ps(most, _mm256_set1_ps(FT_WORDS_V)), large));
    return _mm256_movemask_ps(_mm256_cmp_ps(most, _mm256_set1_ps(FT_WORDS_V_LIMIT), _CMP_NLE_UQ)) ==
           0;
}

/* Word [j][t] of a strip of 16 channels holds rows 2j and 2j + 1; pairs of rows in the order in
 * which vpackssdw leaves the weights. */
INLINE bool values(const struct rows *v, enum ft_fmt fmt, uint32_t d, struct ft_words *w) {
    static const uint8_t pair[8] = { 0, 1, 4, 5, 2, 3, 6, 7 };
    for (uint32_t t = 0; t < d; t += STRIP) {
        __m256 by[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };
        __m256i *to = (__m256i *)(void *)(w->v + (size_t)t * PAIR_ROW);
        for (uint32_t e = 0; e < FT_MIN(d - t, (uint32_t)STRIP); e += 8) {
            if (!channels8(v, fmt, t + e, d, &by[e / 8], w->v_scale + t + e)) {
                return false;
            }
        }
        for (uint32_t j = 0; j < PAIR_ROW; j++, to += 2) {
            const char *row = v->data + (size_t)2 * (j / 8 * 8 + pair[j % 8]) * v->stride;
            __m256i even = words16(row, t, d, fmt, by),
                    odd = words16(row + v->stride, t, d, fmt, by);
            _mm256_storeu_si256(to, _mm256_unpacklo_epi16(even, odd));
            _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi16(even, odd));
        }
    }
    return true;
}

#define BY_FORMAT(call, rows)                                                                      \
    ((rows)->fmt == FT_F32    ? call(rows, FT_F32, d, w)                                           \
     : (rows)->fmt == FT_F16  ? call(rows, FT_F16, d, w)                                           \
     : (rows)->fmt == FT_BF16 ? call(rows, FT_BF16, d, w)                                          \
                              : call(rows, FT_Q8_0, d, w))

static bool tile(const struct rows *k, const struct rows *v, uint32_t d, struct ft_words *w) {
    ft_assert(k->n == FT_TILE_ROW && v->n == FT_TILE_ROW);
    return BY_FORMAT(keys, k) && BY_FORMAT(values, v);
}

/* ---- products ---- */

/* dot[i] of n rows of pairs with 16 columns of a panel; steps is a multiple of 4. */
INLINE void dots(const int32_t *panel, const int32_t *x, size_t x_stride, uint32_t steps,
                 uint32_t n, __m256i dot[MR][2]) {
    const __m256i *p = (const __m256i *)(const void *)panel;
    UNROLL for (uint32_t i = 0; i < n; i++) {
        dot[i][0] = dot[i][1] = _mm256_setzero_si256();
    }
    for (uint32_t first = 0; first < steps; first += 4) {
        UNROLL for (uint32_t e = 0; e < 4; e++) {
            uint32_t t = first + e;
            __m256i a = _mm256_loadu_si256(p + 2 * t), b = _mm256_loadu_si256(p + 2 * t + 1);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m256i y = _mm256_set1_epi32(x[i * x_stride + t]);
                dot[i][0] = in_place(_mm256_add_epi32(dot[i][0], _mm256_madd_epi16(a, y)));
                dot[i][1] = in_place(_mm256_add_epi32(dot[i][1], _mm256_madd_epi16(b, y)));
            }
        }
    }
}

/* Logits of n queries from query `at` on, with all rows, but for q_scale; chunks in order. */
INLINE void logits_n(const struct ft_words *w, uint32_t at, uint32_t n, uint32_t d, float *s) {
    uint32_t width = width_of(d), n_chunk = (d + CHUNK - 1) / CHUNK;
    for (uint32_t b = 0; b < FT_TILE_ROW; b += STRIP) {
        for (uint32_t c = 0; c < n_chunk; c++) {
            uint32_t first = c * CHUNK / 2;
            __m256i dot[MR][2];
            dots(w->k + (size_t)b * width + (size_t)first * STRIP,
                 w->q + (size_t)at * width + first, width, FT_MIN(width - first, CHUNK / 2u), n,
                 dot);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                UNROLL for (uint32_t e = 0; e < 2; e++) {
                    float *to = s + (size_t)i * FT_TILE_ROW + b + 8 * e;
                    __m256 k = _mm256_loadu_ps(w->k_scale + c * FT_TILE_ROW + b + 8 * e);
                    __m256 x = _mm256_cvtepi32_ps(dot[i][e]);
                    /* fused or not is said here, so that every n gives the same bits */
                    _mm256_storeu_ps(to, c == 0 ? _mm256_mul_ps(x, k)
                                                : _mm256_fmadd_ps(x, k, _mm256_loadu_ps(to)));
                }
            }
        }
    }
}

/* acc of n queries, those of the group from `at` on: times shrink, plus the tile's. */
INLINE void values_n(const struct ft_words *w, uint32_t at, uint32_t n, uint32_t d, float *acc) {
    for (uint32_t t = 0; t < d; t += STRIP) {
        __m256i dot[MR][2];
        dots(w->v + (size_t)t * PAIR_ROW, w->p + (size_t)at * PAIR_ROW, PAIR_ROW, PAIR_ROW, n, dot);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m256 shrink = _mm256_set1_ps(w->shrink[at + i]),
                   share = _mm256_set1_ps(w->share[at + i]);
            UNROLL for (uint32_t e = 0; e < 2; e++) {
                if (t + 8 * e < d) {
                    float *to = acc + (size_t)i * d + t + 8 * (size_t)e;
                    __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[i][e]),
                                             _mm256_loadu_ps(w->v_scale + t + 8 * e));
                    __m256 old = _mm256_mul_ps(_mm256_loadu_ps(to), shrink);
                    _mm256_storeu_ps(to, _mm256_fmadd_ps(x, share, old));
                }
            }
        }
    }
}

/* ---- weights ---- */

/* FT_WORDS_P 2^x for x <= 0, before it is rounded.  2^f = 1 + f (C1 + ..), interpolated at Chebyshev
 * nodes, relative error 7e-6; what is below 2^-30 is taken as that, it rounds to zero. */
INLINE __m256 weight8(__m256 x) {
    x = _mm256_max_ps(x, _mm256_set1_ps(-30.0f));
    __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_sub_ps(x, n), p = _mm256_set1_ps(FT_WORDS_P * 0x1.3c6e5cp-7f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FT_WORDS_P * 0x1.c96d5ep-5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FT_WORDS_P * 0x1.ebfb3ep-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FT_WORDS_P * 0x1.62e2d2p-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FT_WORDS_P));
    __m256i bits =
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    return _mm256_castsi256_ps(bits);
}

INLINE __m256 tile_most(const float *s) {
    __m256 top = _mm256_loadu_ps(s);
    UNROLL for (int v = 1; v < 8; v++) {
        top = _mm256_max_ps(top, _mm256_loadu_ps(s + 8 * v));
    }
    return top;
}

/* 64 numbers, at most `most`, times `by` are logits to base 2 and become weights, in pairs.  The
 * largest is taken off first: a product that is rounded, and taken off another that is not, could
 * leave more than zero.  -> the weights' sum, in eight parts */
INLINE __m256 tile_weights(const float *s, float by, float most, int32_t *to) {
    __m256i sum = _mm256_setzero_si256();
    __m256 times = _mm256_set1_ps(by), top = _mm256_set1_ps(most);
    UNROLL for (int v = 0; v < 8; v += 2) {
        __m256i a = _mm256_cvtps_epi32(
                    weight8(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(s + 8 * v), top), times))),
                b = _mm256_cvtps_epi32(weight8(
                    _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(s + 8 * v + 8), top), times)));
        __m256i p = _mm256_packs_epi32(a, b);
        _mm256_storeu_si256((__m256i *)(void *)(to + 4 * v), p);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
    }
    return _mm256_cvtepi32_ps(sum);
}

/* Up to 8 queries, those of the group from `at` on; their scales are in q_scale, their state is in
 * max and sum. */
static void weights(struct ft_words *w, uint32_t at, uint32_t n, const float *q_scale, float *max,
                    float *sum) {
    __m256i here = lanes(n, 0);
    float by[8], most[8];
    __m256 x[8];
    for (uint32_t i = 0; i < 8; i++) {
        x[i] = i < n ? tile_most(w->s + (size_t)(at + i) * FT_TILE_ROW) : _mm256_setzero_ps();
    }
    REDUCE8(x, MAX);
    __m256 scale = _mm256_maskload_ps(q_scale, here), top = _mm256_mul_ps(x[0], scale);
    __m256 old = _mm256_maskload_ps(max, here), high = _mm256_max_ps(old, top);
    __m256 shrink = exp8(_mm256_sub_ps(old, high)), own = exp8(_mm256_sub_ps(top, high));
    own = _mm256_mul_ps(own, _mm256_set1_ps(1 / FT_WORDS_P));
    _mm256_storeu_ps(by, _mm256_mul_ps(scale, _mm256_set1_ps(0x1.715476p+0f)));
    _mm256_storeu_ps(most, x[0]);
    for (uint32_t i = 0; i < 8; i++) {
        x[i] = i < n ? tile_weights(w->s + (size_t)(at + i) * FT_TILE_ROW, by[i], most[i],
                                    w->p + (size_t)(at + i) * PAIR_ROW)
                     : _mm256_setzero_ps();
    }
    REDUCE8(x, ADD);
    __m256 total = _mm256_mul_ps(_mm256_maskload_ps(sum, here), shrink);
    _mm256_maskstore_ps(sum, here, _mm256_fmadd_ps(x[0], own, total));
    _mm256_maskstore_ps(max, here, high);
    _mm256_storeu_ps(w->shrink + at, shrink);
    _mm256_storeu_ps(w->share + at, own);
}

/* ---- a tile ---- */

static void group_attend(const struct ft_attend *a, uint32_t first, uint32_t m,
                         struct ft_words *w) {
    uint32_t d = a->d, n;
    float *acc = a->acc + (size_t)first * d;
    for (uint32_t i = 0; i < m; i += n) {
        n = block_rows(m, i, MR);
#define LOGITS(n_row) logits_n(w, first + i, n_row, d, w->s + (size_t)i * FT_TILE_ROW)
        BY_ROWS_4(n, LOGITS)
    }
    for (uint32_t i = 0; i < m; i += 8) {
        weights(w, i, FT_MIN(m - i, 8u), w->q_scale + first + i, a->max + first + i,
                a->sum + first + i);
    }
    for (uint32_t i = 0; i < m; i += n) {
        n = block_rows(m, i, MR);
#define VALUES(n_row) values_n(w, i, n_row, d, acc + (size_t)i * d)
        BY_ROWS_4(n, VALUES)
    }
}

const struct ft_words_way ft_words_256 = {
    .queries = queries,
    .tile = tile,
    .group = group_attend,
};
