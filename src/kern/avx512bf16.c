/* SPDX-License-Identifier: Apache-2.0 */
/* avx512bf16.c - attention of a block of queries over rows that are bf16 or q8_0, in products of bf16
 * pairs (and of bytes, for q8_0 keys), sums in f32; everything else, f16 rows too, is that of
 * avx512vnni.
 *
 * K of a tile is a panel [d/2][64] of pairs of numbers, V one of [32][d] pairs of rows, so both
 * products are the same loop: 4 loads, 6 broadcasts of a pair, 24 vdpbf16ps into 24 sums.
 *
 * Lab book, from when f16 rows went this way.  GFLOP/s of attend, d 64 / d 128, for the last 64
 * tokens of 8192 rows, 4 query heads per KV head (`kernbench 32768 5` gives the same within 2 %);
 * one thread of a 2-core Zen 4 at 3.65 GHz with a ceiling of 234 GFLOP/s; gcc 12; processor time,
 * as the machine was busy.
 *                                                                       f16 rows     q8_0 rows
 *   0  f32 products (avx512.c)                                          97 / 102
 *   1  pairs; 48 queries at a time: logits, weights, values            164 / 179
 *   2  16 queries at a time: 16 rows' maxima at once, and blocks
 *      of 6 + 5 + 5 are no slower than 6 + 6 + ...                     172 / 187
 *   3  each group of queries prefetches its share of the next tile     171 / 189    169 / 187
 *   4  q8_0 keys as bytes, 6 x 32 vpdpbusd, one scale per block                     195 / 219
 *
 * Step 3 took half of the conversion's time (9 to 5 %) where rows come from the third-level cache.
 * A cycle's budget at d 64, step 3: 42 % values (92 % of it products), 39 % logits, 10 % weights,
 * 5 % conversion.  Groups of 32, 96 and 192 queries: equal, slower, equal.  scalef takes 2 cycles,
 * so the weights' exponent is added as a whole number; a polynomial of degree 3 is 25 times finer
 * than the rounding of a weight.  Sums of weights are two more vdpbf16ps with ones.
 */
#include <math.h>
#include <string.h>

#include "kern/packwords.h"
#include "kern/variants.h"
#include "kern/zmm.h"

enum {
    MR = 6, /* 6 queries x 64 keys or numbers: 24 sums, 4 operands, a broadcast */
    PAIR_ROW = FT_TILE_ROW / 2,
    GROUP_ROW = 16,  /* queries that go through a tile together: their logits stay near */
    BLOCK = 32,      /* numbers of a q8_0 block */
    BLOCK_BYTE = 34, /* f16 scale, 32 signed bytes */
};

/* ---- scratch ---- */

/* Cut from ft_kern_work_bytes(); one 32-bit word is a pair of bf16 or four bytes. */
struct work {
    uint32_t *q;     /* [m][d/2] pairs; q8_0 keys: [m][d/4] bytes + 128 */
    uint32_t *k;     /* [d/2][64] pairs; q8_0: [d/4][64] signed bytes */
    uint32_t *v;     /* [32][d] pairs of rows 2j, 2j + 1 */
    float *q_scale;  /* q8_0: [m][d/32] */
    float *k_scale;  /* q8_0: [d/32][64] */
    int32_t *k_sum;  /* q8_0: [d/32][64] -128 * sum of a block's bytes */
    float *s;        /* [GROUP_ROW][64] logits */
    uint32_t *p;     /* [GROUP_ROW][32] pairs of weights */
    float *shrink;   /* [GROUP_ROW] factor for older sums */
    uint32_t *count; /* [m] rows of this tile that a query sees */
};

static struct work work_cut(const struct ft_attend *a) {
    struct work w;
    ft_assert(a->m <= FT_TILE_QUERY && a->d >= 16 && a->d <= FT_HEAD_MAX && a->d % 8 == 0);
    w.q = a->work;
    w.k = w.q + (size_t)FT_TILE_QUERY * FT_HEAD_MAX / 2;
    w.v = w.k + (size_t)FT_TILE_ROW * FT_HEAD_MAX / 2;
    w.q_scale = (float *)(void *)(w.v + (size_t)PAIR_ROW * FT_HEAD_MAX);
    w.k_scale = w.q_scale + (size_t)FT_TILE_QUERY * FT_HEAD_MAX / BLOCK;
    w.k_sum = (int32_t *)(void *)(w.k_scale + (size_t)FT_TILE_ROW * FT_HEAD_MAX / BLOCK);
    w.s = (float *)(void *)(w.k_sum + (size_t)FT_TILE_ROW * FT_HEAD_MAX / BLOCK);
    w.p = (uint32_t *)(void *)(w.s + (size_t)GROUP_ROW * FT_TILE_ROW);
    w.shrink = (float *)(void *)(w.p + (size_t)GROUP_ROW * PAIR_ROW);
    w.count = (uint32_t *)(void *)(w.shrink + GROUP_ROW);
    return w;
}

/* ---- numbers to pairs ---- */

/* Rounds to nearest even; numbers below 2^-126 become zero; NaN stays NaN. */
INLINE __m512i pack_bf16(__m512 low, __m512 high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

INLINE __m512 dot_bf16(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* 32 numbers of a row from t on as 16 pairs. */
INLINE __m512i row_pairs(const char *row, uint32_t t, uint32_t d, enum ft_fmt fmt) {
    if (fmt == FT_BF16) {
        return _mm512_maskz_loadu_epi32(low_lanes((d - t) / 2), row + 2 * (size_t)t);
    }
    __m512 low = row16(row, t, low_lanes(d - t), fmt);
    __m512 high = d - t > 16 ? row16(row, t + 16, low_lanes(d - t - 16), fmt) : _mm512_setzero_ps();
    return pack_bf16(low, high);
}

static void queries_pairs(const struct ft_attend *a, uint32_t *to) {
    for (uint32_t i = 0; i < a->m; i++) {
        const char *row = (const char *)(a->q + i * a->q_stride);
        for (uint32_t t = 0; t < a->d; t += 32) {
            _mm512_mask_storeu_epi32(to + (size_t)i * (a->d / 2) + t / 2, low_lanes((a->d - t) / 2),
                                     row_pairs(row, t, a->d, FT_F32));
        }
    }
}

/* K of one tile: word [t/2][j] is numbers t, t + 1 of row j; rows behind the last read as zero. */
static void keys_pairs(const struct rows *k, uint32_t d, uint32_t *to) {
    for (uint32_t first = 0; first < FT_TILE_ROW; first += 16) {
        for (uint32_t t = 0; t < d; t += 32) {
            __m512i x[16];
            UNROLL for (uint32_t r = 0; r < 16; r++) {
                x[r] = first + r < k->n
                           ? row_pairs(k->data + (first + r) * k->stride, t, d, FT_BF16)
                           : _mm512_setzero_si512();
            }
            transpose16(x);
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                if (t + 2 * c < d) {
                    _mm512_storeu_si512(to + (t / 2 + c) * FT_TILE_ROW + first, x[c]);
                }
            }
        }
    }
}

/* V of one tile: word [j][t] is number t of rows 2j, 2j + 1. */
INLINE void values_fmt(const struct rows *v, enum ft_fmt fmt, uint32_t d, uint32_t *to) {
    __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                     23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (uint32_t j = 0; j < v->n; j += 2) {
        const char *row = v->data + j * v->stride;
        for (uint32_t t = 0; t < d; t += 16) {
            __mmask16 mask = low_lanes(d - t);
            __m512 even = row16(row, t, mask, fmt);
            __m512 odd = j + 1 < v->n ? row16(row + v->stride, t, mask, fmt) : _mm512_setzero_ps();
            _mm512_mask_storeu_epi32(to + (size_t)j / 2 * d + t, mask,
                                     _mm512_permutexvar_epi16(order, pack_bf16(even, odd)));
        }
    }
}

static void values_pairs(const struct rows *v, uint32_t d, uint32_t *to) {
    if (v->fmt == FT_BF16) {
        values_fmt(v, FT_BF16, d, to);
    } else {
        values_fmt(v, FT_Q8_0, d, to);
    }
}

/* ---- q . k ---- */

/* s[i][j] = q_i . k_j over the whole tile, one chain in the order of the pairs. */
INLINE void logits_n(const uint32_t *k, const uint32_t *q, uint32_t n_pair, int m, float *s) {
    __m512 sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int v = 0; v < 4; v++) {
            sum[i][v] = _mm512_setzero_ps();
        }
    }
    for (uint32_t t = 0; t < n_pair; t++) {
        __m512i x[4];
        UNROLL for (int v = 0; v < 4; v++) {
            x[v] = _mm512_loadu_si512(k + t * FT_TILE_ROW + 16 * v);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m512i y = _mm512_set1_epi32((int)q[(size_t)i * n_pair + t]);
            UNROLL for (int v = 0; v < 4; v++) {
                sum[i][v] = dot_bf16(sum[i][v], y, x[v]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int v = 0; v < 4; v++) {
            _mm512_storeu_ps(s + i * FT_TILE_ROW + 16 * v, sum[i][v]);
        }
    }
}

static void logits_bf16(const struct work *w, uint32_t first, uint32_t m, uint32_t d, float *s) {
    const uint32_t *q = w->q + (size_t)first * (d / 2);
#define CALL(n) logits_n(w->k, q, d / 2, n, s)
    BY_ROWS_6(m, CALL)
#undef CALL
}

/* ---- q . k with q8_0 keys ---- */

/* Queries as bytes: blocks of 32 numbers with the scale max|q| / 127, and 128 added, as one side of
 * the product of bytes has no sign.  A NaN or an infinity makes its block's scale NaN. */
static void queries_bytes(const struct ft_attend *a, const struct work *w) {
    uint32_t n_block = a->d / BLOCK;
    for (uint32_t at = 0; at < a->m * n_block; at++) {
        const float *x = a->q + at / n_block * a->q_stride + (size_t)(at % n_block) * BLOCK;
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        __m512 no = _mm512_mul_ps(_mm512_add_ps(low, high), _mm512_setzero_ps());
        bool finite = _mm512_cmp_ps_mask(no, no, _CMP_UNORD_Q) == 0;
        float inverse = top >= 0x1p-118f ? 127.0f / top : 0.0f;
        __m512i a_ = _mm512_cvtps_epi32(_mm512_mul_ps(low, _mm512_set1_ps(inverse)));
        __m512i b_ = _mm512_cvtps_epi32(_mm512_mul_ps(high, _mm512_set1_ps(inverse)));
        __m128i *to = (__m128i *)(void *)(w->q + (size_t)at * (BLOCK / 4));
        _mm_storeu_si128(to, _mm_xor_si128(_mm512_cvtepi32_epi8(a_), _mm_set1_epi8(-128)));
        _mm_storeu_si128(to + 1, _mm_xor_si128(_mm512_cvtepi32_epi8(b_), _mm_set1_epi8(-128)));
        w->q_scale[at] = finite ? top / 127.0f : NAN;
    }
}

/* Bytes of 16 keys, one block of each: 8 words of 4 bytes, transposed, with scales and sums. */
INLINE void key_blocks(const struct rows *k, uint32_t first, uint32_t b, const struct work *w) {
    __m512i x[16], sum = _mm512_setzero_si512();
    float scale[16];
    UNROLL for (uint32_t r = 0; r < 16; r++) {
        uint16_t half = 0;
        x[r] = _mm512_setzero_si512();
        if (first + r < k->n) {
            const char *block = k->data + (first + r) * k->stride + (size_t)b * BLOCK_BYTE;
            memcpy(&half, block, sizeof half);
            x[r] = _mm512_castsi256_si512(
                _mm256_loadu_si256((const __m256i *)(const void *)(block + 2)));
        }
        scale[r] = _cvtsh_ss(half);
    }
    transpose16(x);
    UNROLL for (uint32_t c = 0; c < BLOCK / 4; c++) {
        _mm512_storeu_si512(w->k + (b * (BLOCK / 4) + c) * FT_TILE_ROW + first, x[c]);
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128), x[c]);
    }
    _mm512_storeu_ps(w->k_scale + b * FT_TILE_ROW + first, _mm512_loadu_ps(scale));
    _mm512_storeu_si512(w->k_sum + b * FT_TILE_ROW + first,
                        _mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

static void keys_bytes(const struct rows *k, uint32_t d, const struct work *w) {
    for (uint32_t first = 0; first < FT_TILE_ROW; first += 16) {
        for (uint32_t b = 0; b < d / BLOCK; b++) {
            key_blocks(k, first, b, w);
        }
    }
}

/* 6 queries x 32 keys: sums of a block are exact and start at what the added 128 is too much;
 * blocks are added up in f32 in their order. */
INLINE void logits_q8_n(const struct work *w, uint32_t first, uint32_t j, int m, uint32_t d,
                        float *s) {
    const uint32_t *q = w->q + (size_t)first * (d / 4);
    const float *q_scale = w->q_scale + (size_t)first * (d / BLOCK);
    __m512 all[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        all[i][0] = all[i][1] = _mm512_setzero_ps();
    }
    for (uint32_t b = 0; b < d / BLOCK; b++) {
        __m512i sum[MR][2];
        UNROLL for (int i = 0; i < m; i++) {
            UNROLL for (int v = 0; v < 2; v++) {
                sum[i][v] = _mm512_loadu_si512(w->k_sum + b * FT_TILE_ROW + j + 16 * v);
            }
        }
        UNROLL for (uint32_t c = b * (BLOCK / 4); c < (b + 1) * (BLOCK / 4); c++) {
            __m512i x0 = _mm512_loadu_si512(w->k + c * FT_TILE_ROW + j);
            __m512i x1 = _mm512_loadu_si512(w->k + c * FT_TILE_ROW + j + 16);
            UNROLL for (int i = 0; i < m; i++) {
                __m512i y = _mm512_set1_epi32((int)q[(size_t)i * (d / 4) + c]);
                sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], y, x0);
                sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], y, x1);
            }
        }
        UNROLL for (int v = 0; v < 2; v++) {
            __m512 by = _mm512_loadu_ps(w->k_scale + b * FT_TILE_ROW + j + 16 * v);
            UNROLL for (int i = 0; i < m; i++) {
                __m512 y = _mm512_set1_ps(q_scale[(size_t)i * (d / BLOCK) + b]);
                all[i][v] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][v]), _mm512_mul_ps(by, y), all[i][v]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int v = 0; v < 2; v++) {
            _mm512_storeu_ps(s + i * FT_TILE_ROW + j + 16 * (uint32_t)v, all[i][v]);
        }
    }
}

static void logits_q8(const struct work *w, uint32_t first, uint32_t m, uint32_t d, float *s) {
    for (uint32_t j = 0; j < FT_TILE_ROW; j += 32) {
#define CALL(n) logits_q8_n(w, first, j, n, d, s)
        BY_ROWS_6(m, CALL)
#undef CALL
    }
}

/* ---- softmax ---- */

/* 2^x, relative error 7.5e-5; below 2^-125 it stays there, and above 2: of huge logits the largest,
 * rounded, may be less than the logit that is not.  Adding 1.5 * 2^23 leaves the nearest whole number
 * in the low bits, which the exponent of the polynomial takes up.  A NaN comes out as one: those of
 * bf16 products have 16 clear low bits. */
INLINE __m512 exp2_rough(__m512 x) {
    __m512 magic = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_min_ps(_mm512_set1_ps(1.0f), _mm512_max_ps(_mm512_set1_ps(-125.0f), x));
    __m512 n = _mm512_add_ps(x, magic);
    __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(n, magic));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.c3f76p-5f), f, _mm512_set1_ps(0x1.f0de1ap-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62f31ap-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.fff692p-1f));
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

INLINE __m512 row_max(const float *s, uint32_t count, bool full) {
    __m512 low = _mm512_set1_ps(-INFINITY), x[4];
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        x[v] = full ? _mm512_loadu_ps(s + 16 * v)
                    : _mm512_mask_loadu_ps(low, lanes(count, v), s + 16 * v);
    }
    return _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
}

/* Weights of one row as pairs; -> their sums in 16 lanes, of the rounded weights. */
INLINE __m512 row_weights(const float *s, uint32_t count, bool full, float by, float top,
                          uint32_t *to) {
    __m512 sum = _mm512_setzero_ps(), p[4];
    __m512i one = _mm512_set1_epi32(0x3f803f80);
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        p[v] = exp2_rough(
            _mm512_fmsub_ps(_mm512_loadu_ps(s + 16 * v), _mm512_set1_ps(by), _mm512_set1_ps(top)));
        if (!full) {
            p[v] = _mm512_maskz_mov_ps(lanes(count, v), p[v]);
        }
    }
    UNROLL for (uint32_t v = 0; v < 4; v += 2) {
        __m512i pair = pack_bf16(p[v], p[v + 1]);
        _mm512_storeu_si512(to + 8 * v, pair);
        sum = dot_bf16(sum, pair, one);
    }
    return sum;
}

/* Fold the first count[i] logits of at most 16 rows into (max, sum) and leave their weights. */
INLINE void softmax_n(const struct work *w, uint32_t first, uint32_t m, const uint32_t *count,
                      bool full, float scale, float *max, float *sum) {
    const float log2e = 0x1.715476p+0f, *s = w->s + first * FT_TILE_ROW;
    uint32_t *p = w->p + first * PAIR_ROW;
    __mmask16 rows = lanes(m, 0),
              some = _mm512_mask_cmpgt_epu32_mask(rows, _mm512_maskz_loadu_epi32(rows, count),
                                                  _mm512_setzero_si512());
    float top[16];
    __m512 x[16];
    for (uint32_t i = 0; i < 16; i++) {
        x[i] = i < m ? row_max(s + i * FT_TILE_ROW, count[i], full) : _mm512_setzero_ps();
    }
    REDUCE16(x, MAX);
    __m512 old = _mm512_maskz_loadu_ps(rows, max);
    __m512 high = _mm512_max_ps(old, _mm512_mul_ps(x[0], _mm512_set1_ps(scale)));
    __m512 factor = exp16(_mm512_sub_ps(old, high));
    _mm512_mask_storeu_ps(max, some, high);
    _mm512_mask_storeu_ps(w->shrink + first, some, factor);
    _mm512_storeu_ps(top, _mm512_mul_ps(high, _mm512_set1_ps(log2e)));
    for (uint32_t i = 0; i < 16; i++) {
        x[i] = i < m && count[i] > 0 ? row_weights(s + i * FT_TILE_ROW, count[i], full,
                                                   scale * log2e, top[i], p + i * PAIR_ROW)
                                     : _mm512_setzero_ps();
    }
    REDUCE16(x, ADD);
    _mm512_mask_storeu_ps(sum, some,
                          _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rows, sum), factor, x[0]));
}

static void softmax(const struct work *w, uint32_t first, uint32_t m, const uint32_t *count,
                    float scale, float *max, float *sum) {
    struct extent e = count_extent(count, m);
    if (e.most > 0 && e.least == FT_TILE_ROW) {
        softmax_n(w, first, m, count, true, scale, max, sum);
    } else if (e.most > 0) {
        softmax_n(w, first, m, count, false, scale, max, sum);
    }
}

/* ---- p v ---- */

/* Where the products of a block of queries go, and which pairs of rows they take. */
struct span {
    uint32_t from, to;   /* pairs of rows */
    bool half;           /* and then row 2 * to alone */
    const float *shrink; /* NULL: 1 */
};

INLINE void values_n(const uint32_t *v, const uint32_t *p, const struct span *at, int m, int n_vec,
                     __mmask16 last, float *acc, uint32_t d) {
    __m512 sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = _mm512_maskz_loadu_ps(last, acc + (size_t)i * d + 16 * (size_t)c);
            if (at->shrink != NULL) {
                sum[i][c] = _mm512_mul_ps(sum[i][c], _mm512_set1_ps(at->shrink[i]));
            }
        }
    }
    for (uint32_t j = at->from; j < at->to; j++) {
        __m512i x[4];
        UNROLL for (int c = 0; c < n_vec; c++) {
            x[c] = _mm512_maskz_loadu_epi32(last, v + (size_t)j * d + 16 * (size_t)c);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m512i y = _mm512_set1_epi32((int)p[i * PAIR_ROW + (int)j]);
            UNROLL for (int c = 0; c < n_vec; c++) {
                sum[i][c] = dot_bf16(sum[i][c], y, x[c]);
            }
        }
    }
    if (m == 1 && at->half) { /* the other row of the pair is not seen: zero stands for it */
        __m512i y = _mm512_set1_epi32((int)p[at->to] & 0xffff);
        UNROLL for (int c = 0; c < n_vec; c++) {
            __m512i x = _mm512_maskz_loadu_epi32(last, v + (size_t)at->to * d + 16 * (size_t)c);
            sum[0][c] = dot_bf16(sum[0][c], y, _mm512_and_si512(x, _mm512_set1_epi32(0xffff)));
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            _mm512_mask_storeu_ps(acc + (size_t)i * d + 16 * (size_t)c, last, sum[i][c]);
        }
    }
}

static void values_add(const uint32_t *v, const uint32_t *p, const struct span *at, uint32_t m,
                       float *acc, uint32_t d) {
    uint32_t t = 0;
#define CALL_4(n) values_n(v + t, p, at, n, 4, 0xffff, acc + t, d)
#define CALL_1(n) values_n(v + t, p, at, n, 1, last, acc + t, d)
    for (; d - t >= 64; t += 64) {
        BY_ROWS_6(m, CALL_4)
    }
    for (; t < d; t += 16) {
        __mmask16 last = low_lanes(d - t);
        BY_ROWS_6(m, CALL_1)
    }
#undef CALL_4
#undef CALL_1
}

/* Pairs of rows that all queries of a block see go through it together; the ragged rest one query
 * at a time, so that no query ever multiplies a row that it does not see, not even by zero. */
static void values_block(const struct work *w, uint32_t first, uint32_t m, const uint32_t *count,
                         float *acc, uint32_t d) {
    const uint32_t *p = w->p + first * PAIR_ROW;
    const float *shrink = w->shrink + first;
    struct span common = { 0, count_extent(count, m).least / 2, false, shrink };
    if (common.to > 0) {
        values_add(w->v, p, &common, m, acc, d);
    }
    for (uint32_t i = 0; i < m; i++) {
        if (count[i] > 2 * common.to) {
            struct span rest = { common.to, count[i] / 2, count[i] % 2 != 0,
                                 common.to == 0 ? shrink + i : NULL };
            values_add(w->v, p + i * PAIR_ROW, &rest, 1, acc + (size_t)i * d, d);
        }
    }
}

/* ---- the loop over tiles ---- */

static void group_tile(const struct ft_attend *a, const struct work *w, uint32_t from, uint32_t m) {
    const uint32_t *count = w->count + from;
    for (uint32_t i = 0, n; i < m; i += n) {
        n = block_rows(m, i, MR);
        if (count_extent(count + i, n).most > 0 && a->k_fmt == FT_Q8_0) {
            logits_q8(w, from + i, n, a->d, w->s + i * FT_TILE_ROW);
        } else if (count_extent(count + i, n).most > 0) {
            logits_bf16(w, from + i, n, a->d, w->s + i * FT_TILE_ROW);
        }
    }
    for (uint32_t i = 0; i < m; i += 16) {
        softmax(w, i, FT_MIN(m - i, 16U), count + i, a->scale, a->max + from + i,
                a->sum + from + i);
    }
    for (uint32_t i = 0, n; i < m; i += n) {
        n = block_rows(m, i, MR);
        values_block(w, i, n, count + i, a->acc + (size_t)(from + i) * a->d, a->d);
    }
}

/* The next tile is on its way while this one is multiplied: each group of queries asks for a few of
 * its rows. */
static void fetch_rows(const struct rows *r, uint32_t d, uint32_t from, uint32_t to) {
    size_t row = ft_fmt_row_bytes(r->fmt, d);
    for (uint32_t j = from; j < to && r->ahead > 0; j++) {
        for (size_t at = 0; at < row; at += 64) {
            fetch(r->data + j * r->stride + at, r->ahead);
        }
    }
}

/* Does this file multiply such rows? */
static bool is_ours(enum ft_fmt fmt) {
    return fmt == FT_BF16 || fmt == FT_Q8_0;
}

static void attend(const struct ft_attend *a) {
    if (!is_ours(a->k_fmt) || !is_ours(a->v_fmt)) {
        ft_kern_avx512vnni.attend(a);
        return;
    }
    struct work w = work_cut(a);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    if (a->k_fmt == FT_Q8_0) {
        queries_bytes(a, &w);
    } else {
        queries_pairs(a, w.q);
    }
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        if (a->k_fmt == FT_Q8_0) {
            keys_bytes(&k, a->d, &w);
        } else {
            keys_pairs(&k, a->d, w.k);
        }
        values_pairs(&v, a->d, w.v);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        for (uint32_t i = 0, n; i < a->m; i += n) {
            n = FT_MIN(a->m - i, (uint32_t)GROUP_ROW);
            uint32_t from = FT_TILE_ROW * i / a->m, to = FT_TILE_ROW * (i + n) / a->m;
            fetch_rows(&k, a->d, from, to);
            fetch_rows(&v, a->d, from, to);
            group_tile(a, &w, i, n);
        }
    }
}

/* ---- the rest: evidence and formats are not rounded further ---- */

static void encode(enum ft_fmt fmt, const float *src, void *dst, size_t n) {
    ft_kern_avx512.encode(fmt, src, dst, n);
}

static void decode(enum ft_fmt fmt, const void *src, float *dst, size_t n) {
    ft_kern_avx512.decode(fmt, src, dst, n);
}

static void lse(const struct ft_vote *v) {
    ft_kern_avx512.lse(v);
}

static void mass(const struct ft_vote *v) {
    ft_kern_avx512.mass(v);
}

static void attend_unpacked(const struct ft_attend_blocks *a) {
    ft_kern_avx512vnni.attend_unpacked(a);
}

const struct ft_kern ft_kern_avx512bf16 = {
    .name = "avx512bf16",
    .encode = encode,
    .decode = decode,
    .attend = attend,
    .attend_few = ft_kern__few_avx512vnni,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack_fast,
    .unpack = ft_kern__unpack_fast,
    .attend_blocks = ft_kern__blocks_avx2,
    .attend_unpacked = attend_unpacked,
};
