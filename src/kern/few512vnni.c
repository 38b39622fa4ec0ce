/* SPDX-License-Identifier: Apache-2.0 */
/* few512vnni.c - attention of the few queries of a decode step over q8_0 rows in products of small
 * integers, sums exact within a tile of 64 rows.
 *
 * K  q is rounded to signed bytes with one scale per 32 numbers, as the rows are; products of bytes
 *    are summed in 32 bits.  A 128-bit lane belongs to one block, so that scales are applied to
 *    four rows at once.
 * V  weights, times the scales of the rows, are rounded to 16 bits relative to the largest weight
 *    and the largest scale of the tile; two rows meet in a product of pairs.
 * What is not a whole tile, and other formats, go through few512.c: a query's path depends on how
 * many rows it sees and on nothing else.
 *
 * Lab book.  Millions of rows a second (K and V) on one thread of a 2-core Zen 4 at 3.65 GHz, 4
 * queries, in cache / out of memory in large pages.             d 64           d 128
 *   f16 rows, few512.c                                        75 / 69        44 / 38
 *   0  bytes converted to f32, few512.c                       59 / 57        32 / 32
 *   1  products of integers                                   88 / -         60 / -
 *   2  scales through integer registers                      107 / 71        67 / 46
 *   3  prefetched two tiles ahead                            107 / 78        67 / 49
 *   4  every line of V and none twice                        101 / 91        67 / 54
 * Half of the time is Q K, a third P V; out of memory, prefetching is bound by outstanding misses.
 */
#include <math.h>
#include <string.h>

#include "kern/few512.h"

enum {
    MR = 6, /* queries of one call of the products: 24 sums */
    BLOCK = 32,
    BLOCK_BYTE = 34,
    BLOCK_MAX = FT_HEAD_MAX / BLOCK,
    PAIR = FT_TILE_ROW / 2,
};

/* Scratch of one call, cut from ft_kern_work_bytes(). */
struct work {
    float *s;             /* [m][64] logits, then weights */
    int8_t *q;            /* [m][d] in the order of unit_keys() */
    int32_t *minus;       /* [m][unit][16] -128 times the sum of q, per lane of the products */
    float *q_scale;       /* [m][unit][16] scale of the block of each lane */
    uint16_t *v_scale;    /* [block][64] f16 */
    float *v_part;        /* [block][64] scales as shares of the largest */
    int16_t *pair;        /* [m][block][64] weights in pairs of rows */
    float *shrink, *peak; /* [m] factor for older sums; largest weight of the tile */
    float top[BLOCK_MAX]; /* largest scale of each block in this tile */
};

static struct work work_cut(const struct ft_attend *a) {
    struct work w;
    size_t m = FT_FEW_QUERY, unit = BLOCK_MAX / 2;
    w.s = a->work;
    w.q = (int8_t *)(w.s + m * FT_TILE_ROW);
    w.minus = (int32_t *)(void *)(w.q + m * FT_HEAD_MAX);
    w.q_scale = (float *)(void *)(w.minus + m * unit * 16);
    w.v_scale = (uint16_t *)(void *)(w.q_scale + m * unit * 16);
    w.v_part = (float *)(void *)(w.v_scale + (size_t)BLOCK_MAX * FT_TILE_ROW);
    w.pair = (int16_t *)(void *)(w.v_part + (size_t)BLOCK_MAX * FT_TILE_ROW);
    w.shrink = (float *)(void *)(w.pair + m * BLOCK_MAX * FT_TILE_ROW);
    w.peak = w.shrink + m;
    return w;
}

/* ---- units: 4 blocks, a lane each; 2 blocks, two lanes each; one block, two lanes ---- */

/* Blocks of the unit that begins at block b of n. */
INLINE uint32_t unit_blocks(uint32_t b, uint32_t n) {
    return n - b >= 4 ? 4 : n - b >= 2 ? 2 : 1;
}

INLINE uint32_t unit_count(uint32_t n_block) {
    return n_block / 4 + n_block % 4 / 2 + n_block % 2;
}

/* Which block of its unit a 128-bit lane of the products belongs to; lanes 2 and 3 of a single
 * block multiply zeros. */
INLINE uint32_t lane_block(uint32_t lane, uint32_t unit) {
    return unit == 4 ? lane : unit == 2 ? lane / 2 : 0;
}

/* 64 bytes of two blocks that lie one after the other. */
INLINE __m512i two_blocks(const char *block) {
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(block + 2));
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(block + BLOCK_BYTE + 2));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Bytes of a unit's keys plus 128, so that they are unsigned. */
INLINE void unit_keys(const char *block, uint32_t unit, __m512i out[2]) {
    const __m512i flip = _mm512_set1_epi8(-128);
    if (unit == 4) {
        __m512i a = two_blocks(block), b = two_blocks(block + 2 * BLOCK_BYTE);
        out[0] = _mm512_xor_si512(_mm512_shuffle_i32x4(a, b, 0x88), flip);
        out[1] = _mm512_xor_si512(_mm512_shuffle_i32x4(a, b, 0xdd), flip);
    } else if (unit == 2) {
        out[0] = _mm512_xor_si512(two_blocks(block), flip);
    } else {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(block + 2));
        out[0] = _mm512_xor_si512(_mm512_zextsi256_si512(x), flip);
    }
}

/* ---- q ---- */

/* One unit of one query: bytes in the order of unit_keys(), which of 64 bytes come first 16 of each
 * block, and what belongs to its lanes. */
static void unit_round(const float *x, uint32_t unit, int8_t *q, int32_t minus[16],
                       float scale[16]) {
    int8_t byte[4 * BLOCK];
    memset(q, 0, unit == 1 ? 64 : (size_t)unit * BLOCK);
    memset(minus, 0, 16 * sizeof *minus);
    for (uint32_t b = 0; b < unit; b++) {
        const float *y = x + (size_t)b * BLOCK;
        __m512 low = _mm512_loadu_ps(y), high = _mm512_loadu_ps(y + 16);
        /* as whole numbers, of which a NaN is the largest: its scale must not get lost */
        uint32_t bits = (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(
            _mm512_castps_si512(_mm512_abs_ps(low)), _mm512_castps_si512(_mm512_abs_ps(high))));
        float top;
        memcpy(&top, &bits, sizeof top);
        __m512 by = _mm512_set1_ps(top >= 0x1p-118f ? 127.0f / top : 0.0f);
        __m128i first = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, by)));
        __m128i second = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, by)));
        _mm_storeu_si128((__m128i *)(void *)(byte + (size_t)b * BLOCK), first);
        _mm_storeu_si128((__m128i *)(void *)(byte + (size_t)b * BLOCK + 16), second);
        for (uint32_t l = 0; l < 16; l++) {
            if (lane_block(l / 4, unit) == b) {
                scale[l] = top / 127.0f;
            }
        }
    }
    for (uint32_t h = 0; h < 2 * unit; h++) { /* halves of blocks */
        memcpy(q + (unit == 4 ? (h % 2 * 64 + h / 2 * 16) : h * 16), byte + (size_t)h * 16, 16);
    }
    for (uint32_t t = 0; t < 64 * (unit == 4 ? 2u : 1u); t++) {
        minus[t % 64 / 4] -= 128 * q[t];
    }
}

static void queries_round(const struct ft_attend *a, const struct work *w) {
    uint32_t n_block = a->d / BLOCK, n_unit = unit_count(n_block);
    for (uint32_t i = 0; i < a->m; i++) {
        int8_t *q = w->q + (size_t)i * FT_HEAD_MAX;
        for (uint32_t b = 0, u = 0; b < n_block; u++) {
            uint32_t unit = unit_blocks(b, n_block);
            unit_round(a->q + i * a->q_stride + (size_t)b * BLOCK, unit, q,
                       w->minus + ((size_t)i * n_unit + u) * 16,
                       w->q_scale + ((size_t)i * n_unit + u) * 16);
            q += unit == 4 ? 128 : 64;
            b += unit;
        }
    }
}

/* ---- scales of a tile ---- */

/* The f16 scales of four rows, through integer registers: in vectors they would take the shuffles
 * that sums need. */
INLINE uint64_t four_scales(const char *block, size_t stride) {
    uint16_t h[4];
    UNROLL for (size_t r = 0; r < 4; r++) {
        memcpy(&h[r], block + r * stride, sizeof h[r]);
    }
    return h[0] | (uint64_t)h[1] << 16 | (uint64_t)h[2] << 32 | (uint64_t)h[3] << 48;
}

/* Scales of four rows for a unit's products: rows in the elements of each 128-bit lane. */
INLINE __m512 unit_scales(const char *block, size_t stride, uint32_t unit) {
    uint64_t h[4];
    UNROLL for (uint32_t b = 0; b < 4; b++) {
        h[b] = b < unit ? four_scales(block + b * BLOCK_BYTE, stride) : 0;
    }
    if (unit == 4) {
        return wide_f16(
            _mm256_set_epi64x((long long)h[3], (long long)h[2], (long long)h[1], (long long)h[0]));
    }
    __m128i two = _mm_set_epi64x((long long)h[unit - 1], (long long)h[0]);
    __m512 x = _mm512_castps256_ps512(_mm256_cvtph_ps(two));
    return _mm512_shuffle_f32x4(x, x, 0x50); /* lanes 0 0 1 1 */
}

INLINE void scales_n(const struct rows *v, uint32_t n_block, uint16_t *to) {
    for (uint32_t b = 0; b < n_block; b++) {
        const char *block = v->data + (size_t)b * BLOCK_BYTE;
        for (uint32_t j = 0; j < FT_TILE_ROW; j += 4, block += 4 * v->stride) {
            uint64_t four = four_scales(block, v->stride);
            memcpy(to + (size_t)b * FT_TILE_ROW + j, &four, sizeof four);
        }
    }
}

/* Scales of V as shares of the largest, which as bits of absolute numbers is NaN if one is. */
static void shares_make(uint32_t n_block, struct work *w) {
    for (uint32_t b = 0; b < n_block; b++) {
        __m512 x[4];
        __m512i most = _mm512_setzero_si512();
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            const uint16_t *from = w->v_scale + (size_t)b * FT_TILE_ROW + 16 * c;
            x[c] = wide_f16(_mm256_loadu_si256((const __m256i *)(const void *)from));
            most = _mm512_max_epu32(most, _mm512_castps_si512(_mm512_abs_ps(x[c])));
        }
        uint32_t bits = _mm512_reduce_max_epu32(most);
        memcpy(&w->top[b], &bits, sizeof bits);
        __m512 by = _mm512_set1_ps(w->top[b] > 0 ? 1.0f / w->top[b] : 0.0f);
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            _mm512_storeu_ps(w->v_part + (size_t)b * FT_TILE_ROW + 16 * c, _mm512_mul_ps(x[c], by));
        }
    }
}

/* ---- q . k ---- */

/* One unit of 4 rows and m queries, added to part: rows in the elements of each 128-bit lane. */
INLINE void unit_dots(const char *const row[4], uint32_t unit, const int8_t *q,
                      const int32_t *minus, const float *q_scale, uint32_t n_unit, int m,
                      __m512 k_scale, bool is_first, __m512 *part) {
    __m512i k[4][2];
    UNROLL for (int r = 0; r < 4; r++) {
        unit_keys(row[r], unit, k[r]);
    }
    UNROLL for (int i = 0; i < m; i++) {
        const int8_t *x = q + (size_t)i * FT_HEAD_MAX;
        size_t lane = (size_t)i * n_unit * 16;
        __m512i start = _mm512_loadu_si512(minus + lane), sum[4];
        __m512i x0 = _mm512_loadu_si512(x), x1 = x0;
        if (unit == 4) {
            x1 = _mm512_loadu_si512(x + 64);
        }
        UNROLL for (int r = 0; r < 4; r++) {
            sum[r] = _mm512_dpbusd_epi32(start, k[r][0], x0);
            if (unit == 4) {
                sum[r] = _mm512_dpbusd_epi32(sum[r], k[r][1], x1);
            }
        }
        __m512i e = _mm512_add_epi32(_mm512_unpacklo_epi32(sum[0], sum[1]),
                                     _mm512_unpackhi_epi32(sum[0], sum[1]));
        __m512i f = _mm512_add_epi32(_mm512_unpacklo_epi32(sum[2], sum[3]),
                                     _mm512_unpackhi_epi32(sum[2], sum[3]));
        e = _mm512_add_epi32(_mm512_unpacklo_epi64(e, f), _mm512_unpackhi_epi64(e, f));
        __m512 scale = _mm512_mul_ps(k_scale, _mm512_loadu_ps(q_scale + lane));
        __m512 dot = _mm512_cvtepi32_ps(e);
        part[4 * i] =
            is_first ? _mm512_mul_ps(dot, scale) : _mm512_fmadd_ps(dot, scale, part[4 * i]);
    }
}

INLINE void logits_n(const struct rows *k, const struct work *w, uint32_t first, int m,
                     uint32_t n_block) {
    uint32_t n_unit = unit_count(n_block);
    size_t stride = k->stride, ahead = FEW_AHEAD * k->ahead;
    const char *base = k->data;
    const int8_t *q = w->q + (size_t)first * FT_HEAD_MAX;
    const int32_t *minus = w->minus + (size_t)first * n_unit * 16;
    const float *q_scale = w->q_scale + (size_t)first * n_unit * 16;
    float *s = w->s + (size_t)first * FT_TILE_ROW;
    for (uint32_t j = 0; j < FT_TILE_ROW; j += 16) {
        __m512 part[MR * 4];
        for (uint32_t c = 0; c < 4; c++, base += 4 * stride) {
            const char *row[4] = { base, base + stride, base + 2 * stride, base + 3 * stride };
            __asm__("" : "+r"(q), "+r"(minus), "+r"(q_scale)); /* as in few512.c */
            for (size_t p = 0; p < 4 * stride; p += 64) {
                fetch(base + p, ahead);
            }
            for (uint32_t b = 0, u = 0, at = 0; b < n_block; u++) {
                uint32_t unit = unit_blocks(b, n_block);
#define UNIT(n)                                                                                    \
    unit_dots(row, n, q + at, minus + (size_t)u * 16, q_scale + (size_t)u * 16, n_unit, m,         \
              unit_scales(row[0], stride, n), b == 0, part + c)
                if (unit == 4) {
                    UNIT(4);
                } else if (unit == 2) {
                    UNIT(2);
                } else {
                    UNIT(1);
                }
                UNROLL for (int r = 0; r < 4; r++) {
                    row[r] += unit * BLOCK_BYTE;
                }
                at += unit == 4 ? 128 : 64;
                b += unit;
            }
        }
        UNROLL for (int i = 0; i < m; i++) {
            _mm512_storeu_ps(s + i * FT_TILE_ROW + j, join_quads(part + 4 * i));
        }
    }
}

#define OUTLINE static __attribute__((noinline))
#define EACH_M(make) make(1) make(2) make(3) make(4) make(5) make(6)
#define TABLE(what)                                                                                \
    { what##_1, what##_2, what##_3, what##_4, what##_5, what##_6 }

#define LOGITS(m)                                                                                  \
    OUTLINE void logits_##m(const struct rows *k, const struct work *w, uint32_t first,            \
                            uint32_t n_block) {                                                    \
        if (n_block == 2) {                                                                        \
            logits_n(k, w, first, m, 2);                                                           \
        } else if (n_block == 4) {                                                                 \
            logits_n(k, w, first, m, 4);                                                           \
        } else {                                                                                   \
            logits_n(k, w, first, m, n_block);                                                     \
        }                                                                                          \
    }
EACH_M(LOGITS)

/* ---- softmax over whole tiles ---- */

static void softmax(const struct ft_attend *a, const struct work *w) {
    for (uint32_t i = 0; i < a->m; i += 4) {
        uint32_t n = FT_MIN(a->m - i, 4u);
        float *s = w->s + (size_t)i * FT_TILE_ROW, top[16];
        __mmask16 here = low_lanes(n);
        __m512 x[4], by = _mm512_set1_ps(a->scale);
        for (uint32_t g = 0; g < 4; g++) {
            x[g] = g < n ? few_row_max(s + g * FT_TILE_ROW, FT_TILE_ROW) : _mm512_setzero_ps();
        }
        REDUCE4(x, MAX);
        __m512 old = _mm512_maskz_loadu_ps(here, a->max + i), most = x[0];
        __m512 high = _mm512_max_ps(old, _mm512_mul_ps(most, by));
        __m512 factor = exp16(_mm512_sub_ps(old, high));
        _mm512_mask_storeu_ps(a->max + i, here, high);
        _mm512_mask_storeu_ps(w->shrink + i, here, factor);
        _mm512_mask_storeu_ps(w->peak + i, here, exp16(_mm512_fmsub_ps(most, by, high)));
        _mm512_storeu_ps(top, high);
        for (uint32_t g = 0; g < 4; g++) {
            x[g] = g < n ? few_row_exp(s + g * FT_TILE_ROW, FT_TILE_ROW, a->scale, top[g])
                         : _mm512_setzero_ps();
        }
        REDUCE4(x, ADD);
        __m512 sum = _mm512_maskz_loadu_ps(here, a->sum + i);
        _mm512_mask_storeu_ps(a->sum + i, here, _mm512_fmadd_ps(sum, factor, x[0]));
    }
}

/* ---- p v ---- */

/* Weights below this share of the running maximum's are as good as none. */
#define PEAK_LEAST 1e-30f

/* Pairs come out of the packing in the order 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15. */
INLINE uint32_t pair_row(uint32_t word) {
    uint32_t in = word % 16;
    return word / 16 * 32 + (in / 4 * 2 + in % 2) * 2 + in % 4 / 2 * 16;
}

/* 16-bit weights of all blocks: p / peak * share of the scale, of 32767. */
static void weights_round(const struct ft_attend *a, const struct work *w) {
    uint32_t n_block = a->d / BLOCK;
    for (uint32_t i = 0; i < a->m; i++) {
        __m512 by = _mm512_set1_ps(32767.0f / FT_MAX(w->peak[i], PEAK_LEAST)), p[4];
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            p[c] = _mm512_mul_ps(_mm512_loadu_ps(w->s + (size_t)i * FT_TILE_ROW + 16 * c), by);
        }
        for (uint32_t b = 0; b < n_block; b++) {
            const float *part = w->v_part + (size_t)b * FT_TILE_ROW;
            int16_t *to = w->pair + ((size_t)i * BLOCK_MAX + b) * FT_TILE_ROW;
            __m512i x[4];
            UNROLL for (uint32_t c = 0; c < 4; c++) {
                x[c] = _mm512_cvtps_epi32(_mm512_mul_ps(p[c], _mm512_loadu_ps(part + 16 * c)));
            }
            _mm512_storeu_si512(to, _mm512_packs_epi32(x[0], x[1]));
            _mm512_storeu_si512(to + 32, _mm512_packs_epi32(x[2], x[3]));
        }
    }
}

/* n_block blocks, 1 or 2, of m queries: 16-bit pairs of two rows times the bytes of both. */
INLINE void values_n(const struct rows *v, const struct ft_attend *a, const struct work *w,
                     uint32_t first, int m, int n_block, uint32_t block) {
    __m512i sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < 2 * n_block; c++) {
            sum[i][c] = _mm512_setzero_si512();
        }
    }
    size_t stride = v->stride, ahead = FEW_AHEAD * v->ahead;
    const char *data = v->data + (size_t)block * BLOCK_BYTE;
    const int16_t *pair = w->pair + ((size_t)first * BLOCK_MAX + block) * FT_TILE_ROW;
    for (uint32_t word = 0; word < PAIR; word++, pair += 2) {
        const char *row = data + pair_row(word) * stride;
        __m512i x[4];
        for (size_t at = 0; block == 0 && at < 2 * stride; at += 64) { /* every line, in order */
            fetch(v->data + 2 * word * stride + at, ahead);
        }
        UNROLL for (int b = 0; b < n_block; b++) {
            const char *at = row + b * BLOCK_BYTE + 2;
            __m256i even = _mm256_loadu_si256((const __m256i *)(const void *)at);
            __m256i odd = _mm256_loadu_si256((const __m256i *)(const void *)(at + stride));
            x[2 * b] = _mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(even, odd));
            x[2 * b + 1] = _mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(even, odd));
        }
        UNROLL for (int i = 0; i < m; i++) {
            UNROLL for (int b = 0; b < n_block; b++) {
                int32_t both;
                memcpy(&both, pair + (i * BLOCK_MAX + b) * FT_TILE_ROW, sizeof both);
                __m512i p = _mm512_set1_epi32(both);
                sum[i][2 * b] = _mm512_dpwssd_epi32(sum[i][2 * b], p, x[2 * b]);
                sum[i][2 * b + 1] = _mm512_dpwssd_epi32(sum[i][2 * b + 1], p, x[2 * b + 1]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        float peak = FT_MAX(w->peak[first + (uint32_t)i], PEAK_LEAST) / 32767.0f;
        __m512 shrink = _mm512_set1_ps(w->shrink[first + (uint32_t)i]);
        UNROLL for (int b = 0; b < n_block; b++) {
            float *acc = a->acc + (first + (size_t)i) * a->d + (block + (size_t)b) * BLOCK;
            __m512 scale = _mm512_set1_ps(peak * w->top[block + (uint32_t)b]);
            __m512 low = _mm512_cvtepi32_ps(sum[i][2 * b]);      /* 0 to 7, 16 to 23 */
            __m512 high = _mm512_cvtepi32_ps(sum[i][2 * b + 1]); /* 8 to 15, 24 to 31 */
            __m512 y[2] = { _mm512_shuffle_f32x4(low, high, 0x44),
                            _mm512_shuffle_f32x4(low, high, 0xee) };
            UNROLL for (int c = 0; c < 2; c++) {
                __m512 old = _mm512_mul_ps(_mm512_loadu_ps(acc + 16 * c), shrink);
                _mm512_storeu_ps(acc + 16 * c, _mm512_fmadd_ps(y[c], scale, old));
            }
        }
    }
}

#define VALUES(m)                                                                                  \
    OUTLINE void values_##m(const struct rows *v, const struct ft_attend *a, const struct work *w, \
                            uint32_t first) {                                                      \
        uint32_t b = 0, n_block = a->d / BLOCK;                                                    \
        for (; b + 2 <= n_block; b += 2) {                                                         \
            values_n(v, a, w, first, m, 2, b);                                                     \
        }                                                                                          \
        if (b < n_block) {                                                                         \
            values_n(v, a, w, first, m, 1, b);                                                     \
        }                                                                                          \
    }
EACH_M(VALUES)

/* All queries see rows [0, a->n), whole tiles. */
static void attend_tiles(const struct ft_attend *a) {
    static void (*const logits[MR])(const struct rows *, const struct work *, uint32_t, uint32_t) =
        TABLE(logits);
    static void (*const values[MR])(const struct rows *, const struct ft_attend *,
                                    const struct work *, uint32_t) = TABLE(values);
    struct work w = work_cut(a);
    uint32_t n_block = a->d / BLOCK;
    queries_round(a, &w);
    for (uint32_t at = 0; at < a->n; at += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, FT_Q8_0, at, a->n);
        struct rows v = tile_rows(a->v, a->v_stride, FT_Q8_0, at, a->n);
        scales_n(&v, n_block, w.v_scale);
        shares_make(n_block, &w);
        for (uint32_t i = 0, n; i < a->m; i += n) {
            n = block_rows(a->m, i, MR);
            logits[n - 1](&k, &w, i, n_block);
        }
        softmax(a, &w);
        weights_round(a, &w);
        for (uint32_t i = 0, n; i < a->m; i += n) {
            n = block_rows(a->m, i, MR);
            values[n - 1](&v, a, &w, i);
        }
    }
}

void ft_kern__few_avx512vnni(const struct ft_attend *a) {
    if (a->k_fmt != FT_Q8_0 || a->v_fmt != FT_Q8_0) {
        ft_kern__few_avx512(a);
        return;
    }
    ft_assert(a->m <= FT_FEW_QUERY && a->d % BLOCK == 0 && a->d <= FT_HEAD_MAX);
    for (uint32_t i = 0, n; i < a->m; i += n) {
        uint32_t seen = a->vis != NULL ? a->vis[i] : a->n, whole = seen / FT_TILE_ROW * FT_TILE_ROW;
        for (n = 1; i + n < a->m && (a->vis == NULL || a->vis[i + n] == seen); n++) {
        }
        struct ft_attend part = *a;
        part.q += i * a->q_stride;
        part.max += i;
        part.sum += i;
        part.acc += (size_t)i * a->d;
        part.vis = NULL;
        part.m = n;
        part.n = whole;
        attend_tiles(&part);
        part.k = (const char *)a->k + whole * a->k_stride;
        part.v = (const char *)a->v + whole * a->v_stride;
        part.n = seen - whole;
        ft_kern__few_avx512(&part);
    }
}
