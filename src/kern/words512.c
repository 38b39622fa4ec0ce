/* SPDX-License-Identifier: Apache-2.0 */
/* words512.c - attention over whole tiles in products of 16-bit words, in 512-bit registers: one
 * vpdpwssd multiplies and adds 32 pairs.
 *
 * Lab book.  `kernbench 4096 5`, GFLOP/s of attend, f16 rows, group of 4, one thread of a 2-core
 * Zen 4 with a ceiling of 234 GFLOP/s (of vpdpbf16ps; vpdpwssd has the same rate); gcc 12, processor
 * time, as the machine was busy.                                         d 64      d 128
 *   0  bf16 products (avx512bf16.c), twenty times coarser                 166        186
 *   1  words; gcc copies 24 sums at each step, half through memory        102        105
 *   2  sums in place                                                      160        173
 *
 * Step 2's cycles at d 64: four fifths products and their loads, the rest weights, scales and the
 * conversion of rows.  Tried without gain: products as functions of their own that leave sums in
 * memory (3 % slower), two steps unrolled (a fifth slower, gcc spills again), q's scale taken out of
 * the logits and log2 e out of the weights (equal here, 2 % faster in words256.c; kept).
 */
#include <math.h>
#include <string.h>

#include "kern/words.h"
#include "kern/zmm.h"

enum {
    MR = 6, /* 6 queries x 64 keys or channels: 24 sums, 4 operands, a broadcast */
    CHUNK = FT_WORDS_CHUNK,
    PAIR_ROW = FT_TILE_ROW / 2,
};

/* ---- numbers to words ---- */

/* Pairs of numbers in a head, padded to whole registers. */
static uint32_t width_of(uint32_t d) {
    return (d + 31) / 32 * 16;
}

/* 16 numbers of a row from t on; zeros behind the last */
INLINE __m512 numbers16(const char *row, uint32_t t, uint32_t d, enum ft_fmt fmt) {
    return t < d ? row16(row, t, low_lanes(d - t), fmt) : _mm512_setzero_ps();
}

/* 32 numbers times `by` as words: in each quarter four of the first 16, then four of the others */
INLINE __m512i words32(const char *row, uint32_t t, uint32_t d, enum ft_fmt fmt, __m512 by) {
    return _mm512_packs_epi32(
        _mm512_cvtps_epi32(_mm512_mul_ps(numbers16(row, t, d, fmt), by)),
        _mm512_cvtps_epi32(_mm512_mul_ps(numbers16(row, t + 16, d, fmt), by)));
}

/* The largest |x| of numbers [t, end) of a row, in 16 parts; as integers, so that a NaN is above
 * everything. */
INLINE __m512 row_most(const char *row, uint32_t t, uint32_t end, uint32_t d, enum ft_fmt fmt) {
    __m512 most = _mm512_setzero_ps();
    for (uint32_t e = t; e < end; e += 16) {
        most = larger(most, _mm512_abs_ps(numbers16(row, e, d, fmt)));
    }
    return most;
}

/* What takes the largest of some numbers to the largest integer, and what takes it back: both zero
 * where the latter would be below the normal numbers. */
struct grain {
    __m512 by, scale;
};

INLINE struct grain grain_of(__m512 most, float integer) {
    __m512 top = _mm512_set1_ps(integer);
    __mmask16 large = _mm512_cmp_ps_mask(most, _mm512_set1_ps(integer * 0x1p-126f), _CMP_NLT_UQ);
    return (struct grain){ _mm512_maskz_div_ps(large, top, most),
                           _mm512_maskz_div_ps(large, most, top) };
}

/* Are all numbers below the limit?  No for NaN. */
INLINE bool all_below(__m512 most, float limit) {
    return _mm512_cmp_ps_mask(most, _mm512_set1_ps(limit), _CMP_NLE_UQ) == 0;
}

/* ---- q ---- */

static void queries(const struct ft_attend *a, struct ft_words *w) {
    uint32_t d = a->d, width = width_of(d);
    for (uint32_t i = 0; i < a->m; i++) {
        const char *row = (const char *)(a->q + i * a->q_stride);
        __m512i part = _mm512_castps_si512(row_most(row, 0, d, d, FT_F32));
        __m512 most = _mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(part)));
        struct grain g = grain_of(most, FT_WORDS_Q);
        w->fits[i] = all_below(most, FT_WORDS_LIMIT);
        w->q_scale[i] = _mm512_cvtss_f32(g.scale) * a->scale;
        for (uint32_t t = 0; t < d; t += 32) {
            _mm512_storeu_si512(w->q + (size_t)i * width + t / 2, words32(row, t, d, FT_F32, g.by));
        }
    }
}

/* ---- K and V of a tile ---- */

/* Sixteen rows from `first` on: numbers of one chunk. -> false: too large, or not finite */
INLINE bool keys_chunk(const struct rows *k, enum ft_fmt fmt, uint32_t first, uint32_t c,
                       uint32_t d, struct ft_words *w) {
    uint32_t end = FT_MIN((c + 1) * CHUNK, d);
    float by[16];
    __m512 most[16];
    for (uint32_t r = 0; r < 16; r++) {
        most[r] = row_most(k->data + (first + r) * k->stride, c * CHUNK, end, d, fmt);
    }
    REDUCE16(most, larger);
    struct grain g = grain_of(most[0], FT_WORDS_K);
    _mm512_storeu_ps(by, g.by);
    _mm512_storeu_ps(w->k_scale + (size_t)c * FT_TILE_ROW + first, g.scale);
    for (uint32_t t = c * CHUNK; t < end; t += 32) {
        __m512i x[16];
        UNROLL for (uint32_t r = 0; r < 16; r++) {
            x[r] = words32(k->data + (first + r) * k->stride, t, d, fmt, _mm512_set1_ps(by[r]));
        }
        transpose16(x);
        UNROLL for (uint32_t e = 0; e < 16; e++) {
            _mm512_storeu_si512(w->k + (size_t)(t / 2 + e) * FT_TILE_ROW + first, x[e]);
        }
    }
    return all_below(most[0], FT_WORDS_LIMIT);
}

INLINE bool keys(const struct rows *k, enum ft_fmt fmt, uint32_t d, struct ft_words *w) {
    for (uint32_t first = 0; first < FT_TILE_ROW; first += 16) {
        for (uint32_t c = 0; c < (d + CHUNK - 1) / CHUNK; c++) {
            if (!keys_chunk(k, fmt, first, c, d, w)) {
                return false;
            }
        }
    }
    return true;
}

/* The largest |x| of 16 channels from t on. */
INLINE __m512 channels_most(const struct rows *v, enum ft_fmt fmt, uint32_t t, uint32_t d) {
    __m512 most[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() };
    for (uint32_t j = 0; j < FT_TILE_ROW; j += 2) {
        const char *row = v->data + j * v->stride;
        most[0] = larger(most[0], _mm512_abs_ps(numbers16(row, t, d, fmt)));
        most[1] = larger(most[1], _mm512_abs_ps(numbers16(row + v->stride, t, d, fmt)));
    }
    return larger(most[0], most[1]);
}

/* Word [j][t] holds channel t of two rows that follow each other: in the order in which vpackssdw
 * leaves the weights, in each quarter of 32 rows two pairs of the first 16, then two of the others.
 * Channels stand in panels of 64, or of what is left of them. */
INLINE bool values(const struct rows *v, enum ft_fmt fmt, uint32_t d, struct ft_words *w) {
    for (uint32_t t = 0; t < d; t += 16) {
        uint32_t panel = t / 64 * 64, wide = FT_MIN((d - panel + 15) / 16 * 16, 64u);
        int32_t *to = w->v + (size_t)panel * PAIR_ROW + t % 64;
        __m512 most = channels_most(v, fmt, t, d);
        struct grain g = grain_of(most, FT_WORDS_V);
        _mm512_storeu_ps(w->v_scale + t, g.scale);
        if (!all_below(most, FT_WORDS_V_LIMIT)) {
            return false;
        }
        for (uint32_t j = 0; j < PAIR_ROW; j++) {
            uint32_t first = j / 16 * 32 + j % 16 / 4 * 4 + j % 4 / 2 * 16 + j % 2 * 2;
            const char *row = v->data + (size_t)first * v->stride;
            __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(numbers16(row, t, d, fmt), g.by));
            __m512i odd =
                _mm512_cvtps_epi32(_mm512_mul_ps(numbers16(row + v->stride, t, d, fmt), g.by));
            _mm512_storeu_si512(
                to + (size_t)j * wide,
                _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16)));
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

/* dot[i] of n rows of pairs with 16 n_vec columns of a panel that is 16 n_vec wide. */
INLINE void dots(const int32_t *panel, const int32_t *x, size_t x_stride, uint32_t steps,
                 uint32_t n, uint32_t n_vec, __m512i dot[MR][4]) {
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < n_vec; v++) {
            dot[i][v] = _mm512_setzero_si512();
        }
    }
    for (uint32_t t = 0; t < steps; t++) {
        __m512i a[4];
        UNROLL for (uint32_t v = 0; v < n_vec; v++) {
            a[v] = _mm512_loadu_si512(panel + (size_t)(t * n_vec + v) * 16);
        }
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m512i y = _mm512_set1_epi32(x[i * x_stride + t]);
            UNROLL for (uint32_t v = 0; v < n_vec; v++) {
                dot[i][v] = in_place(_mm512_dpwssd_epi32(dot[i][v], a[v], y));
            }
        }
    }
}

/* Logits of n queries from query `at` on, with all rows, but for q_scale; chunks in order. */
INLINE void logits_n(const struct ft_words *w, uint32_t at, uint32_t n, uint32_t d, float *s) {
    uint32_t width = width_of(d), n_chunk = (d + CHUNK - 1) / CHUNK;
    for (uint32_t c = 0; c < n_chunk; c++) {
        uint32_t first = c * CHUNK / 2;
        __m512i dot[MR][4];
        dots(w->k + (size_t)first * FT_TILE_ROW, w->q + (size_t)at * width + first, width,
             FT_MIN(width - first, CHUNK / 2u), n, 4, dot);
        UNROLL for (uint32_t v = 0; v < 4; v++) {
            __m512 k = _mm512_loadu_ps(w->k_scale + c * FT_TILE_ROW + 16 * v);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                float *to = s + (size_t)i * FT_TILE_ROW + 16 * v;
                __m512 x = _mm512_cvtepi32_ps(dot[i][v]);
                /* fused or not is said here, so that every n gives the same bits */
                _mm512_storeu_ps(to, c == 0 ? _mm512_mul_ps(x, k)
                                            : _mm512_fmadd_ps(x, k, _mm512_loadu_ps(to)));
            }
        }
    }
}

/* Channels [t, t + 16 n_vec) of acc of n queries, those of the group from `at` on: times shrink,
 * plus the tile's. */
INLINE void values_n(const struct ft_words *w, uint32_t at, uint32_t n, uint32_t n_vec, uint32_t t,
                     uint32_t d, float *acc) {
    __m512i dot[MR][4];
    dots(w->v + (size_t)t * PAIR_ROW, w->p + (size_t)at * PAIR_ROW, PAIR_ROW, PAIR_ROW, n, n_vec,
         dot);
    UNROLL for (uint32_t v = 0; v < n_vec; v++) {
        __mmask16 here = low_lanes(d - t - 16 * v);
        __m512 scale = _mm512_loadu_ps(w->v_scale + t + 16 * v);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            float *to = acc + (size_t)i * d + t + 16 * v;
            __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][v]), scale);
            __m512 old =
                _mm512_mul_ps(_mm512_maskz_loadu_ps(here, to), _mm512_set1_ps(w->shrink[at + i]));
            _mm512_mask_storeu_ps(to, here,
                                  _mm512_fmadd_ps(x, _mm512_set1_ps(w->share[at + i]), old));
        }
    }
}

/* ---- weights ---- */

/* FT_WORDS_P 2^x for x <= 0, rounded.  2^f = 1 + f (C1 + ..), interpolated at Chebyshev nodes,
 * relative error 7e-6; what is below 2^-30 is taken as that, it rounds to zero.  Adding 1.5 * 2^23
 * leaves the nearest whole number in the low bits, which the exponent takes up. */
INLINE __m512i weight16(__m512 x) {
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_max_ps(x, _mm512_set1_ps(-30.0f));
    __m512 n = _mm512_add_ps(x, magic);
    __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(n, magic));
    __m512 p = _mm512_set1_ps(FT_WORDS_P * 0x1.3c6e5cp-7f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(FT_WORDS_P * 0x1.c96d5ep-5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(FT_WORDS_P * 0x1.ebfb3ep-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(FT_WORDS_P * 0x1.62e2d2p-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(FT_WORDS_P));
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_cvtps_epi32(
        _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent)));
}

INLINE __m512 most_of_64(const float *s) {
    return _mm512_max_ps(_mm512_max_ps(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16)),
                         _mm512_max_ps(_mm512_loadu_ps(s + 32), _mm512_loadu_ps(s + 48)));
}

/* 64 numbers, at most `most`, times `by` are logits to base 2 and become weights, in pairs.  The
 * largest is taken off first: a product that is rounded, and taken off another that is not, could
 * leave more than zero.  -> the weights' sum, in 16 parts */
INLINE __m512 row_weights(const float *s, float by, float most, int32_t *to) {
    __m512i sum = _mm512_setzero_si512();
    __m512 times = _mm512_set1_ps(by), top = _mm512_set1_ps(most);
    UNROLL for (int v = 0; v < 4; v += 2) {
        __m512i a = weight16(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(s + 16 * v), top), times)),
                b = weight16(
                    _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(s + 16 * v + 16), top), times));
        __m512i p = _mm512_packs_epi32(a, b);
        _mm512_storeu_si512(to + 8 * v, p);
        sum = _mm512_dpwssd_epi32(sum, p, _mm512_set1_epi16(1));
    }
    return _mm512_cvtepi32_ps(sum);
}

/* The group's m queries, from query `first` on; their state is in max and sum. */
static void weights(struct ft_words *w, uint32_t first, uint32_t m, float *max, float *sum) {
    const __m512 log2e = _mm512_set1_ps(0x1.715476p+0f);
    __mmask16 here = low_lanes(m);
    float by[16], most[16];
    __m512 x[16];
    for (uint32_t i = 0; i < 16; i++) {
        x[i] = i < m ? most_of_64(w->s + (size_t)i * FT_TILE_ROW) : _mm512_setzero_ps();
    }
    REDUCE16(x, MAX);
    __m512 scale = _mm512_maskz_loadu_ps(here, w->q_scale + first),
           top = _mm512_mul_ps(x[0], scale);
    __m512 old = _mm512_maskz_loadu_ps(here, max), high = _mm512_max_ps(old, top);
    __m512 shrink = exp16(_mm512_sub_ps(old, high)), own = exp16(_mm512_sub_ps(top, high));
    own = _mm512_mul_ps(own, _mm512_set1_ps(1 / FT_WORDS_P));
    _mm512_storeu_ps(by, _mm512_mul_ps(scale, log2e));
    _mm512_storeu_ps(most, x[0]);
    for (uint32_t i = 0; i < 16; i++) {
        x[i] = i < m ? row_weights(w->s + (size_t)i * FT_TILE_ROW, by[i], most[i],
                                   w->p + (size_t)i * PAIR_ROW)
                     : _mm512_setzero_ps();
    }
    REDUCE16(x, ADD);
    __m512 total = _mm512_mul_ps(_mm512_maskz_loadu_ps(here, sum), shrink);
    _mm512_mask_storeu_ps(sum, here, _mm512_fmadd_ps(x[0], own, total));
    _mm512_mask_storeu_ps(max, here, high);
    _mm512_storeu_ps(w->shrink, shrink);
    _mm512_storeu_ps(w->share, own);
}

/* ---- a tile ---- */

static void values_add(const struct ft_words *w, uint32_t at, uint32_t n, uint32_t d, float *acc) {
    uint32_t t = 0;
#define VALUES_4(n_row) values_n(w, at, n_row, 4, t, d, acc)
#define VALUES_3(n_row) values_n(w, at, n_row, 3, t, d, acc)
#define VALUES_2(n_row) values_n(w, at, n_row, 2, t, d, acc)
#define VALUES_1(n_row) values_n(w, at, n_row, 1, t, d, acc)
    for (; d - t > 48; t += FT_MIN(d - t, 64u)) {
        BY_ROWS_6(n, VALUES_4)
    }
    if (d - t > 32) {
        BY_ROWS_6(n, VALUES_3)
    } else if (d - t > 16) {
        BY_ROWS_6(n, VALUES_2)
    } else if (d - t > 0) {
        BY_ROWS_6(n, VALUES_1)
    }
}

static void group(const struct ft_attend *a, uint32_t first, uint32_t m, struct ft_words *w) {
    uint32_t d = a->d, n;
    for (uint32_t i = 0; i < m; i += n) {
        n = block_rows(m, i, MR);
#define LOGITS(n_row) logits_n(w, first + i, n_row, d, w->s + (size_t)i * FT_TILE_ROW)
        BY_ROWS_6(n, LOGITS)
    }
    weights(w, first, m, a->max + first, a->sum + first);
    for (uint32_t i = 0; i < m; i += n) {
        n = block_rows(m, i, MR);
        values_add(w, i, n, d, a->acc + (size_t)(first + i) * d);
    }
}

const struct ft_words_way ft_words_512 = {
    .queries = queries,
    .tile = tile,
    .group = group,
};
