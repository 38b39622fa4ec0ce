/* SPDX-License-Identifier: Apache-2.0 */
/* avx512.c - the kernels in 512-bit registers: f32 arithmetic, rows converted in registers.
 *
 * Lab book.  `kernbench 4096 7` (d 64 / d 128, 4 query heads per KV head, f16 rows), one thread of
 * a 2-core Zen 4 at 3.65 GHz with a ceiling of 117 GFLOP/s of f32 multiply-adds; gcc 12; processor
 * time, as the machine was busy.
 *                                                           prefill GFLOP/s     decode GB/s
 *   1  16 x 16 transposes, f32 copies of K and V tiles,
 *      6 x 64 products, 16 rows' maxima and sums at once          89 / 95         15.3 / 16.0
 *   2  next tile prefetched by the loops that multiply            90 / 96         16.8 / 17.5
 *   3  no f32 copies: K stays 16-bit in its panel                 94 / 99         16.9 / 17.8
 *
 * Out of memory that streamed 16 to 18 GB/s (`kernbench 131072`), step 2 raised decode from
 * 10.9 / 7.4 to 14.8 / 14.8 GB/s.  Tried without gain: transposing the next tile between parts of
 * this one's V (a third slower, the sums go through memory), transposing it before V (equal),
 * running row pointers (2 % slower).
 */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/packwords.h"
#include "kern/variants.h"
#include "kern/zmm.h"

enum {
    MR = 6, /* 6 queries x 64 keys: 24 sums, 4 operands and a broadcast of the 32 registers */
    SOFTMAX_ROW = 16, /* row maxima and sums are reduced 16 rows at a time, one lane each */
};

struct tile_work;
struct rows;
struct panel {
    const void *data; /* [d][64] keys of dimension t, in fmt */
    enum ft_fmt fmt;
    const char *next; /* encoded rows of the next tile to prefetch, if 16-bit and contiguous */
};
static struct panel panel_make(const struct rows *k, uint32_t d, float *to);
static void logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m, uint32_t d,
                   float *s);
static void softmax_rows(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                         float *max, float *sum, float *shrink, bool weights);
static void values_add(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                       const float *shrink, float *acc, uint32_t d);
static void mass_fold(const struct tile_work *w, const struct ft_vote *v, float *out,
                      uint32_t rows);

#include "kern/tile.h"
#include "kern/tile_words.h"

/* ---- row formats ---- */

/* Nearest even; a NaN keeps its sign and upper payload and is made quiet, as vcvtps2ph does for
 * f16. */
INLINE __m256i narrow_bf16(__m512 x) {
    __m512i u = _mm512_castps_si512(x),
            odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}

/* As in ref.c, and to its bits. */
INLINE void q8_encode(const float *x, char *block) {
    __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    __m512 top = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
    __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(low), _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
    finite = _mm512_mask_cmp_ps_mask(finite, _mm512_abs_ps(high), _mm512_set1_ps(INFINITY),
                                     _CMP_LT_OQ);
    float scale = _mm512_reduce_max_ps(top) / 127.0f;
    uint16_t half = _cvtss_sh(scale, NEAREST);
    bool is_nan = finite != 0xffff || half == 0x7c00;
    __m512 inverse = _mm512_set1_ps(is_nan || half == 0 ? 0.0f : 1.0f / scale);
    half = is_nan ? 0x7e00 : half;
    memcpy(block, &half, sizeof half);
    __m128i a = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
    __m128i b = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
    if (is_nan) {
        a = b = _mm_setzero_si128();
    }
    _mm_storeu_si128((__m128i *)(void *)(block + 2), a);
    _mm_storeu_si128((__m128i *)(void *)(block + 18), b);
}

static void encode(enum ft_fmt fmt, const float *src, void *dst, size_t n) {
    if (fmt == FT_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    if (fmt == FT_Q8_0) {
        ft_assert(n % 32 == 0);
        for (size_t i = 0; i < n; i += 32) {
            q8_encode(src + i, (char *)dst + i / 32 * 34);
        }
        return;
    }
    size_t i = 0;
    for (; n - i >= 16; i += 16) {
        __m512 x = _mm512_loadu_ps(src + i);
        __m256i h = fmt == FT_F16 ? _mm512_cvtps_ph(x, NEAREST) : narrow_bf16(x);
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)dst + i), h);
    }
    if (i < n) {
        __mmask16 mask = low_lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(mask, src + i);
        __m256i h = fmt == FT_F16 ? _mm512_cvtps_ph(x, NEAREST) : narrow_bf16(x);
        _mm256_mask_storeu_epi16((uint16_t *)dst + i, mask, h);
    }
}

static void decode(enum ft_fmt fmt, const void *src, float *dst, size_t n) {
    if (fmt == FT_F32) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    if (fmt == FT_Q8_0) {
        q8_widen(src, dst, n);
        return;
    }
    size_t i = 0;
    for (; n - i >= 16; i += 16) {
        _mm512_storeu_ps(dst + i, load16(src, i, fmt == FT_F16 ? FT_F16 : FT_BF16));
    }
    if (i < n) {
        __mmask16 mask = low_lanes(n - i);
        _mm512_mask_storeu_ps(dst + i, mask, load16_mask(mask, src, i, fmt));
    }
}

/* ---- K panels ---- */

/* 32 keys x 32 dimensions of 16-bit numbers; keys from `rows` on and dimensions from nd on read as
 * zero. */
INLINE void pack_block16(const char *k, size_t stride, uint32_t rows, uint32_t nd, uint16_t *out,
                         bool full) {
    __mmask32 mask = full || nd >= 32 ? 0xffffffff : (1u << nd) - 1;
    UNROLL for (int half = 0; half < 2; half++) {
        __m512i x[16];
        UNROLL for (uint32_t r = 0; r < 16; r++) {
            const char *p = k + 2 * r * stride;
            __m512i a =
                full || 2 * r < rows ? _mm512_maskz_loadu_epi16(mask, p) : _mm512_setzero_si512();
            __m512i b = full || 2 * r + 1 < rows ? _mm512_maskz_loadu_epi16(mask, p + stride)
                                                 : _mm512_setzero_si512();
            x[r] = half == 0 ? _mm512_unpacklo_epi16(a, b) : _mm512_unpackhi_epi16(a, b);
        }
        transpose16(x);
        UNROLL for (uint32_t c = 0; c < 16; c++) {
            uint32_t t = 8 * (c / 4) + c % 4 + 4 * (uint32_t)half;
            if (full || t < nd) {
                _mm512_storeu_si512(out + t * FT_TILE_ROW, x[c]);
            }
        }
    }
}

INLINE void pack16(const char *k, size_t stride, uint32_t rows, uint32_t d, uint16_t *out) {
    for (uint32_t r = 0; r < FT_TILE_ROW; r += 32) {
        uint32_t n = rows > r ? rows - r : 0;
        for (uint32_t t = 0; t < d; t += 32) {
            const char *from = k + r * stride + t * 2;
            if (n >= 32 && d - t >= 32) {
                pack_block16(from, stride, 32, 32, out + t * FT_TILE_ROW + r, true);
            } else {
                pack_block16(from, stride, n, d - t, out + t * FT_TILE_ROW + r, false);
            }
        }
    }
}

static void pack32(const char *k, size_t stride, uint32_t rows, uint32_t d, float *out) {
    for (uint32_t first = 0; first < FT_TILE_ROW; first += 16) {
        for (uint32_t t = 0; t < d; t += 16) {
            __mmask16 mask = low_lanes(d - t);
            __m512i x[16];
            UNROLL for (uint32_t r = 0; r < 16; r++) {
                x[r] = first + r < rows
                           ? _mm512_maskz_loadu_epi32(mask, k + (first + r) * stride + t * 4)
                           : _mm512_setzero_si512();
            }
            transpose16(x);
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                if (t + c < d) {
                    _mm512_storeu_si512(out + (t + c) * FT_TILE_ROW + first, x[c]);
                }
            }
        }
    }
}

static struct panel panel_make(const struct rows *k, uint32_t d, float *to) {
    if (k->fmt == FT_F32) {
        pack32(k->data, k->stride, k->n, d, to);
        return (struct panel){ to, FT_F32, NULL };
    }
    pack16(k->data, k->stride, k->n, d, (uint16_t *)(void *)to);
    return (struct panel){ to, k->fmt, k->data + (k->stride == d * 2 ? k->ahead : 0) };
}

/* ---- q . k ---- */

INLINE void logits_n(const struct panel *panel, enum ft_fmt fmt, const float *q, size_t q_stride,
                     int m, uint32_t d, float *s) {
    __m512 sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int v = 0; v < 4; v++) {
            sum[i][v] = _mm512_setzero_ps();
        }
    }
    for (uint32_t t = 0; t < d; t++) {
        __m512 k[4];
        UNROLL for (int v = 0; v < 4; v++) {
            k[v] = load16(panel->data, t * FT_TILE_ROW + 16 * (uint32_t)v, fmt);
        }
        if (fmt != FT_F32) {
            fetch(panel->next, t * 128); /* 64 rows of d numbers: two lines for every t */
            fetch(panel->next, t * 128 + 64);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(q[(size_t)i * q_stride + t]);
            UNROLL for (int v = 0; v < 4; v++) {
                sum[i][v] = _mm512_fmadd_ps(x, k[v], sum[i][v]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int v = 0; v < 4; v++) {
            _mm512_storeu_ps(s + i * FT_TILE_ROW + 16 * v, sum[i][v]);
        }
    }
}

static void logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m, uint32_t d,
                   float *s) {
#define CALL_F32(n) logits_n(k, FT_F32, q, q_stride, n, d, s)
#define CALL_F16(n) logits_n(k, FT_F16, q, q_stride, n, d, s)
#define CALL_BF16(n) logits_n(k, FT_BF16, q, q_stride, n, d, s)
    if (k->fmt == FT_F32) {
        BY_ROWS_6(m, CALL_F32)
    } else if (k->fmt == FT_F16) {
        BY_ROWS_6(m, CALL_F16)
    } else {
        BY_ROWS_6(m, CALL_BF16)
    }
}

/* ---- softmax ---- */

INLINE __m512 row_max(const float *s, uint32_t count, bool full) {
    __m512 low = _mm512_set1_ps(-INFINITY), x[4];
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        x[v] = full ? _mm512_loadu_ps(s + 16 * v)
                    : _mm512_mask_loadu_ps(low, lanes(count, v), s + 16 * v);
    }
    return _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
}

INLINE __m512 row_exp(float *s, uint32_t count, bool full, float scale, float max, bool weights) {
    __m512 by = _mm512_set1_ps(scale), top = _mm512_set1_ps(max), p[4];
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        p[v] = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + 16 * v), by, top));
        if (!full) {
            p[v] = _mm512_maskz_mov_ps(lanes(count, v), p[v]);
        }
        if (weights) {
            _mm512_storeu_ps(s + 16 * v, p[v]);
        }
    }
    return _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
}

INLINE void softmax_n(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                      float *max, float *sum, float *shrink, bool weights) {
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
    _mm512_mask_storeu_ps(shrink, some, factor);
    _mm512_storeu_ps(top, high);
    for (uint32_t i = 0; i < 16; i++) {
        x[i] = i < m && count[i] > 0
                   ? row_exp(s + i * FT_TILE_ROW, count[i], full, scale, top[i], weights)
                   : _mm512_setzero_ps();
    }
    REDUCE16(x, ADD);
    _mm512_mask_storeu_ps(sum, some,
                          _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rows, sum), factor, x[0]));
}

static void softmax_rows(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                         float *max, float *sum, float *shrink, bool weights) {
    if (full && weights) {
        softmax_n(s, m, count, true, scale, max, sum, shrink, true);
    } else if (weights) {
        softmax_n(s, m, count, false, scale, max, sum, shrink, true);
    } else {
        softmax_n(s, m, count, full, scale, max, sum, shrink, false);
    }
}

/* ---- p v ---- */

INLINE void values_n(const struct rows *v, enum ft_fmt fmt, const float *p, int m, int n_vec,
                     __mmask16 last, uint32_t from, uint32_t to, const float *shrink, float *acc,
                     uint32_t d, uint32_t t) {
    __m512 sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = _mm512_maskz_loadu_ps(last, acc + (size_t)i * d + t + 16 * (size_t)c);
            if (shrink != NULL) {
                sum[i][c] = _mm512_mul_ps(sum[i][c], _mm512_set1_ps(shrink[i]));
            }
        }
    }
    const char *row = v->data + from * v->stride;
    for (uint32_t j = from; j < to; j++, row += v->stride) {
        __m512 x[4];
        if (fmt != FT_F32 && n_vec == 4) { /* two lines of 32 numbers */
            fetch(row + t * 2, v->ahead);
            fetch(row + t * 2 + 64, v->ahead);
        }
        UNROLL for (int c = 0; c < n_vec; c++) {
            x[c] = load16_mask(last, row, t + 16 * (uint32_t)c, fmt);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m512 w = _mm512_set1_ps(p[i * FT_TILE_ROW + (int)j]);
            UNROLL for (int c = 0; c < n_vec; c++) {
                sum[i][c] = _mm512_fmadd_ps(w, x[c], sum[i][c]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            _mm512_mask_storeu_ps(acc + (size_t)i * d + t + 16 * (size_t)c, last, sum[i][c]);
        }
    }
}

INLINE void values_fmt(const struct rows *v, enum ft_fmt fmt, const float *p, uint32_t m,
                       uint32_t from, uint32_t to, const float *shrink, float *acc, uint32_t d) {
    uint32_t t = 0;
#define CALL_4(n) values_n(v, fmt, p, n, 4, 0xffff, from, to, shrink, acc, d, t)
#define CALL_1(n) values_n(v, fmt, p, n, 1, last, from, to, shrink, acc, d, t)
    for (; d - t >= 64; t += 64) {
        BY_ROWS_6(m, CALL_4)
    }
    for (; t < d; t += 16) {
        __mmask16 last = low_lanes(d - t);
        BY_ROWS_6(m, CALL_1)
    }
}

static void values_add(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                       const float *shrink, float *acc, uint32_t d) {
    if (v->fmt == FT_F32) {
        values_fmt(v, FT_F32, p, m, from, to, shrink, acc, d);
    } else if (v->fmt == FT_F16) {
        values_fmt(v, FT_F16, p, m, from, to, shrink, acc, d);
    } else {
        values_fmt(v, FT_BF16, p, m, from, to, shrink, acc, d);
    }
}

/* ---- mass ---- */

static void mass_fold(const struct tile_work *w, const struct ft_vote *v, float *out,
                      uint32_t rows) {
    __m512 by = _mm512_set1_ps(v->scale), o[4];
    UNROLL for (uint32_t c = 0; c < 4; c++) {
        o[c] = _mm512_maskz_loadu_ps(lanes(rows, c), out + 16 * c);
    }
    for (uint32_t i = 0; i < v->m; i++) {
        if (w->count[i] == 0) {
            continue;
        }
        const float *s = w->s + (size_t)i * FT_TILE_ROW;
        __m512 minus = _mm512_set1_ps(v->lse[i]);
        __m512 times = _mm512_set1_ps(v->weight != NULL ? v->weight[i] : 1.0f);
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            __m512 p = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + 16 * c), by, minus));
            p = _mm512_maskz_mul_ps(lanes(w->count[i], c), p, times);
            o[c] = v->red == FT_REDUCE_MAX ? _mm512_max_ps(o[c], p) : _mm512_add_ps(o[c], p);
        }
    }
    UNROLL for (uint32_t c = 0; c < 4; c++) {
        _mm512_mask_storeu_ps(out + 16 * c, lanes(rows, c), o[c]);
    }
}

static void attend_words(const struct ft_attend *a) {
    tile_attend_words(a, &ft_words_512);
}

static void unpacked_f32(const struct ft_attend_blocks *a) {
    ft_kern__attend_unpacked(&ft_kern_avx512, a);
}

static void unpacked_words(const struct ft_attend_blocks *a) {
    tile_unpacked_words(&ft_kern_avx512vnni, a, &ft_words_512);
}

const struct ft_kern ft_kern_avx512 = {
    .name = "avx512",
    .encode = encode,
    .decode = decode,
    .attend = attend,
    .attend_few = ft_kern__few_avx512,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack_fast,
    .unpack = ft_kern__unpack_fast,
    .attend_blocks = ft_kern__blocks_avx2,
    .attend_unpacked = unpacked_f32,
};

/* For machines with AVX512_VNNI: small integers where they are exact enough. */
const struct ft_kern ft_kern_avx512vnni = {
    .name = "avx512vnni",
    .encode = encode,
    .decode = decode,
    .attend = attend_words,
    .attend_few = ft_kern__few_avx512vnni,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack_fast,
    .unpack = ft_kern__unpack_fast,
    .attend_blocks = ft_kern__blocks_avx2,
    .attend_unpacked = unpacked_words,
};
