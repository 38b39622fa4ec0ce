/* SPDX-License-Identifier: Apache-2.0 */
/* avx2.c - the kernels in 256-bit registers (AVX2, FMA, F16C): f32 arithmetic, rows converted in
 * registers; attention over whole tiles is words256.c's.
 *
 * Lab book.  `kernbench 4096 7`, the machine and the conditions of avx512.c; d 64 / d 128:
 *                                                                  prefill GFLOP/s    decode GB/s
 *   1  8 x 8 transposes into f32 panels, f32 copies of V tiles,
 *      6 x 16 products                                                 87 / 91          14.0 / 12.5
 *   2  next tile prefetched by the loops that multiply                 87 / 92          13.5 / 14.3
 *   3  no f32 copies of V                                              88 / 95          14.0 / 14.6
 * Decode since, instructions per query and row of f16 (tests/perf/instructions.txt), d 64 / d 128:
 *   3  as prefill, K transposed                                             85 / 162
 *   4  8 rows at a time widened to a buffer, untransposed                   70 / 122
 *   5  2 rows x 4 queries in registers                                      59 / 103
 *   6  V two rows at a time                                                 55 / 94
 * and of q8_0, d 64:
 *   5  as f16 with a scale for every 8 numbers; V of a tile as f32 first    89
 *   6  K by blocks; the scale of V in the weights, bytes multiplied, and
 *      V asked for a tile ahead as K is; V two rows at a time               70
 * On a Zen 3 whose memory is read at 10 GB/s by one thread and 17 by two, step 5 decodes at 9 to 12
 * out of the cache, 5 to 7 out of memory and 8 to 10.5 on two threads (`kernbench 32768 3 2`).  All
 * of the next tile asked for at once is slower than a row at a time.  With step 6, same machine, other
 * programs beside it, alternating: q8_0 2.7 to 3.0 before, 3.4 to 4.1 after, where f16 has 4.5 to 6 in
 * rows twice as long.
 */
#include <math.h>
#include <string.h>

#include "kern/packwords.h"
#include "kern/variants.h"
#include "kern/ymm.h"

enum {
    MR = 6, /* 6 queries x 16 keys: 12 sums, 2 operands and a broadcast of the 16 registers */
    SOFTMAX_ROW = 8, /* row maxima and sums are reduced 8 rows at a time, one lane each */
    PANEL = 16,      /* keys side by side in a panel */
};

struct tile_work;
struct panel {
    const float *data; /* [64/PANEL][d][PANEL] */
    const char *next;  /* encoded rows of the next tile to prefetch, if 16-bit and contiguous */
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
INLINE __m128i narrow_bf16(__m256 x) {
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    up = _mm256_blendv_epi8(up, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    up = _mm256_srli_epi32(up, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(up), _mm256_extracti128_si256(up, 1));
}

static void encode(enum ft_fmt fmt, const float *src, void *dst, size_t n) {
    size_t i = 0;
    for (; (fmt == FT_F16 || fmt == FT_BF16) && i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(src + i);
        __m128i h = fmt == FT_F16
                        ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                        : narrow_bf16(x);
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)dst + i), h);
    }
    /* the rest of the 16-bit formats, all of the others: i is still 0 there */
    ft_kern_ref.encode(fmt, src + i, (char *)dst + i * sizeof(uint16_t), n - i);
}

static void decode(enum ft_fmt fmt, const void *src, float *dst, size_t n) {
    if (fmt == FT_Q8_0) {
        q8_widen(src, dst, n);
        return;
    }
    size_t i = 0;
    for (; fmt != FT_F32 && i + 8 <= n; i += 8) {
        _mm256_storeu_ps(dst + i, load8(src, i, fmt));
    }
    ft_kern_ref.decode(fmt, (const char *)src + i * sizeof(uint16_t), dst + i, n - i);
}

/* ---- K panels ---- */

/* The hardware's own prefetching stops at page ends and starts anew with every tile. */
INLINE void fetch(const char *p, size_t ahead) {
    _mm_prefetch((const char *)((uintptr_t)p + ahead), _MM_HINT_T1);
}

INLINE void pack(const struct rows *k, enum ft_fmt fmt, uint32_t d, float *out) {
    for (uint32_t r = 0; r < FT_TILE_ROW; r += 8) {
        float *to = out + (size_t)(r / PANEL) * d * PANEL + r % PANEL;
        for (uint32_t t = 0; t < d; t += 8) {
            __m256 x[8];
            UNROLL for (uint32_t i = 0; i < 8; i++) {
                x[i] = r + i < k->n ? load8(k->data + (r + i) * k->stride, t, fmt)
                                    : _mm256_setzero_ps();
            }
            transpose8(x);
            UNROLL for (uint32_t i = 0; i < 8; i++) {
                _mm256_storeu_ps(to + (size_t)(t + i) * PANEL, x[i]);
            }
        }
    }
}

static struct panel panel_make(const struct rows *k, uint32_t d, float *to) {
    bool next = k->fmt != FT_F32 && k->ahead != 0 && k->stride == d * 2;
    if (k->fmt == FT_F32) {
        pack(k, FT_F32, d, to);
    } else if (k->fmt == FT_F16) {
        pack(k, FT_F16, d, to);
    } else {
        pack(k, FT_BF16, d, to);
    }
    return (struct panel){ to, next ? k->data + k->ahead : NULL };
}

/* ---- q . k ---- */

INLINE void logits_n(const float *panel, const float *q, size_t q_stride, int m, uint32_t d,
                     float *s, const char *next) {
    __m256 sum[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    }
    for (uint32_t t = 0; t < d; t++) {
        if (next != NULL) { /* 16 keys of 16-bit numbers: 32 bytes for every t */
            fetch(next, t * 32);
        }
        __m256 k0 = _mm256_loadu_ps(panel + (size_t)t * PANEL),
               k1 = _mm256_loadu_ps(panel + (size_t)t * PANEL + 8);
        UNROLL for (int i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss(q + (size_t)i * q_stride + t);
            sum[i][0] = _mm256_fmadd_ps(x, k0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(x, k1, sum[i][1]);
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        _mm256_storeu_ps(s + i * FT_TILE_ROW, sum[i][0]);
        _mm256_storeu_ps(s + i * FT_TILE_ROW + 8, sum[i][1]);
    }
}

static void logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m, uint32_t d,
                   float *s) {
#define CALL_PLAIN(n)                                                                              \
    logits_n(k->data + (size_t)b * d * PANEL, q, q_stride, n, d, s + b * PANEL, NULL)
#define CALL_FETCH(n)                                                                              \
    logits_n(k->data + (size_t)b * d * PANEL, q, q_stride, n, d, s + b * PANEL,                    \
             k->next + (size_t)b * d * 32)
    for (uint32_t b = 0; b < FT_TILE_ROW / PANEL; b++) {
        if (k->next == NULL) {
            BY_ROWS_6(m, CALL_PLAIN)
        } else {
            BY_ROWS_6(m, CALL_FETCH)
        }
    }
}

/* ---- softmax ---- */

INLINE __m256 row_max(const float *s, uint32_t count, bool full) {
    __m256 top = _mm256_set1_ps(-INFINITY);
    UNROLL for (int v = 0; v < 8; v++) {
        __m256 x = _mm256_loadu_ps(s + 8 * v);
        x = full ? x
                 : _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x,
                                    _mm256_castsi256_ps(lanes(count, v)));
        top = _mm256_max_ps(top, x);
    }
    return top;
}

INLINE __m256 row_exp(float *s, uint32_t count, bool full, float scale, float max, bool weights) {
    __m256 by = _mm256_set1_ps(scale), top = _mm256_set1_ps(max), sum = _mm256_setzero_ps();
    UNROLL for (int v = 0; v < 8; v++) {
        __m256 p = exp8(_mm256_fmsub_ps(_mm256_loadu_ps(s + 8 * v), by, top));
        p = full ? p : _mm256_and_ps(p, _mm256_castsi256_ps(lanes(count, v)));
        if (weights) {
            _mm256_storeu_ps(s + 8 * v, p);
        }
        sum = _mm256_add_ps(sum, p);
    }
    return sum;
}

INLINE void softmax_n(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                      float *max, float *sum, float *shrink, bool weights) {
    __m256i rows = lanes(m, 0), n = _mm256_maskload_epi32((const int *)(const void *)count, rows);
    __m256i some = _mm256_cmpgt_epi32(n, _mm256_setzero_si256());
    float top[8];
    __m256 x[8];
    for (uint32_t i = 0; i < 8; i++) {
        x[i] = i < m ? row_max(s + i * FT_TILE_ROW, count[i], full) : _mm256_setzero_ps();
    }
    REDUCE8(x, MAX);
    __m256 old = _mm256_maskload_ps(max, rows);
    __m256 high = _mm256_max_ps(old, _mm256_mul_ps(x[0], _mm256_set1_ps(scale)));
    __m256 factor = exp8(_mm256_sub_ps(old, high));
    _mm256_maskstore_ps(max, some, high);
    _mm256_maskstore_ps(shrink, some, factor);
    _mm256_storeu_ps(top, high);
    for (uint32_t i = 0; i < 8; i++) {
        x[i] = i < m && count[i] > 0
                   ? row_exp(s + i * FT_TILE_ROW, count[i], full, scale, top[i], weights)
                   : _mm256_setzero_ps();
    }
    REDUCE8(x, ADD);
    _mm256_maskstore_ps(sum, some, _mm256_fmadd_ps(_mm256_maskload_ps(sum, rows), factor, x[0]));
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

/* where number t of a row lies; of q8_0, where its block does: a scale and then bytes */
INLINE size_t number_at(uint32_t t, enum ft_fmt fmt) {
    return fmt == FT_Q8_0 ? (size_t)(t / 32) * 34 : (size_t)t * 2;
}

INLINE __m256 load8_bytes(const char *p) {
    __m128i byte = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(byte));
}

/* One row's numbers times the weights of m queries, into their sums. */
INLINE void values_row(const char *row, enum ft_fmt fmt, const float *p, int m, int n_vec,
                       uint32_t t, __m256 sum[MR][2]) {
    __m256 x[2];
    UNROLL for (int c = 0; c < n_vec; c++) {
        x[c] = fmt == FT_Q8_0 ? load8_bytes(row + number_at(t, fmt) + 2 + t % 32 + 8 * (size_t)c)
                              : load8(row, t + 8 * (uint32_t)c, fmt);
    }
    UNROLL for (int i = 0; i < m; i++) {
        __m256 w = _mm256_broadcast_ss(p + i * FT_TILE_ROW);
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = _mm256_fmadd_ps(w, x[c], sum[i][c]);
        }
    }
}

INLINE void values_n(const struct rows *v, enum ft_fmt fmt, const float *p, int m, int n_vec,
                     uint32_t from, uint32_t to, const float *shrink, float *acc, uint32_t d,
                     uint32_t t, bool ask) {
    __m256 sum[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = _mm256_loadu_ps(acc + (size_t)i * d + t + 8 * (size_t)c);
            if (shrink != NULL) {
                sum[i][c] = _mm256_mul_ps(sum[i][c], _mm256_set1_ps(shrink[i]));
            }
        }
    }
    const size_t stride = v->stride;
    const char *row = v->data + from * stride;
    const float *weight = p + from, *end = p + to;
    for (; weight + 2 <= end; weight += 2, row += 2 * stride) {
        if (ask) {
            fetch(row + number_at(t, fmt), v->ahead);
            fetch(row + stride + number_at(t, fmt), v->ahead);
        }
        values_row(row, fmt, weight, m, n_vec, t, sum);
        values_row(row + stride, fmt, weight + 1, m, n_vec, t, sum);
    }
    if (weight < end) {
        values_row(row, fmt, weight, m, n_vec, t, sum);
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            _mm256_storeu_ps(acc + (size_t)i * d + t + 8 * (size_t)c, sum[i][c]);
        }
    }
}

INLINE void values_fmt(const struct rows *v, enum ft_fmt fmt, const float *p, uint32_t m,
                       uint32_t from, uint32_t to, const float *shrink, float *acc, uint32_t d) {
#define CALL_1(n) values_n(v, fmt, p, n, 1, from, to, shrink, acc, d, t, false)
#define CALL_2(n) values_n(v, fmt, p, n, 2, from, to, shrink, acc, d, t, false)
#define CALL_ASK(n) values_n(v, fmt, p, n, 2, from, to, shrink, acc, d, t, fmt != FT_F32)
    for (uint32_t t = 0; t < d; t += 16) {
        if (d - t < 16) {
            BY_ROWS_6(m, CALL_1)
        } else if (t % 32 == 0) { /* 64 bytes of 16-bit numbers */
            BY_ROWS_6(m, CALL_ASK)
        } else {
            BY_ROWS_6(m, CALL_2)
        }
    }
}

/* Scales of 8 rows from r on, of the block that number t is in; rows behind the last are the last. */
INLINE __m256 scales_q8(const struct rows *v, uint32_t r, uint32_t t) {
    short half[8];
    UNROLL for (uint32_t e = 0; e < 8; e++) {
        memcpy(half + e, v->data + FT_MIN(r + e, v->n - 1) * v->stride + number_at(t, FT_Q8_0),
               sizeof *half);
    }
    return _mm256_cvtph_ps(
        _mm_setr_epi16(half[0], half[1], half[2], half[3], half[4], half[5], half[6], half[7]));
}

/* The scale of a row's block goes into its weight, so that bytes are multiplied as they are. */
static void values_q8(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                      const float *shrink, float *acc, uint32_t d) {
    float scaled[MR * FT_TILE_ROW];
#define CALL_BYTES(n) values_n(v, FT_Q8_0, scaled, n, 2, from, to, shrink, acc, d, t, true)
#define CALL_MORE(n) values_n(v, FT_Q8_0, scaled, n, 2, from, to, shrink, acc, d, t + 16, false)
    for (uint32_t t = 0; t < d; t += 32) {
        for (uint32_t r = from / 8 * 8; r < to; r += 8) {
            __m256 scale = scales_q8(v, r, t);
            for (size_t i = r; i < (size_t)m * FT_TILE_ROW; i += FT_TILE_ROW) {
                _mm256_storeu_ps(scaled + i, _mm256_mul_ps(scale, _mm256_loadu_ps(p + i)));
            }
        }
        BY_ROWS_6(m, CALL_BYTES)
        BY_ROWS_6(m, CALL_MORE)
    }
}

static void values_add(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                       const float *shrink, float *acc, uint32_t d) {
    if (v->fmt == FT_Q8_0) {
        values_q8(v, p, m, from, to, shrink, acc, d);
    } else if (v->fmt == FT_F32) {
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
    __m256 by = _mm256_set1_ps(v->scale);
    for (int c = 0; 8 * c < (int)rows; c++) {
        __m256i here = lanes(rows, c);
        __m256 o = _mm256_maskload_ps(out + 8 * c, here);
        for (uint32_t i = 0; i < v->m; i++) {
            __m256 s = _mm256_loadu_ps(w->s + (size_t)i * FT_TILE_ROW + 8 * c);
            __m256 p = exp8(_mm256_fmsub_ps(s, by, _mm256_set1_ps(v->lse[i])));
            p = _mm256_mul_ps(p, _mm256_set1_ps(v->weight != NULL ? v->weight[i] : 1.0f));
            p = _mm256_and_ps(p, _mm256_castsi256_ps(lanes(w->count[i], c)));
            o = v->red == FT_REDUCE_MAX ? _mm256_max_ps(o, p) : _mm256_add_ps(o, p);
        }
        _mm256_maskstore_ps(out + 8 * c, here, o);
    }
}

/* ---- attention ---- */

static void attend_words(const struct ft_attend *a) {
    tile_attend_words(a, &ft_words_256);
}

/* ---- one token's queries ---- */

enum { FEW_QUERY = 4, FEW_SUM = 8 }; /* sums that are reduced to one register together */

/* 8 numbers of a row, the c-th of those from t on; scale: of their block, of q8_0 */
INLINE __m256 few_numbers(const char *row, uint32_t t, uint32_t c, enum ft_fmt fmt, __m256 scale) {
    return fmt == FT_Q8_0 ? _mm256_mul_ps(scale, load8_bytes(row + number_at(t, fmt) + 2 + 8 * c))
                          : load8(row, t + 8 * c, fmt);
}

INLINE __m256 few_scale(const char *row, uint32_t t, enum ft_fmt fmt) {
    if (fmt != FT_Q8_0) {
        return _mm256_setzero_ps();
    }
    uint16_t half;
    memcpy(&half, row + number_at(t, fmt), sizeof half);
    return _mm256_set1_ps(_cvtsh_ss(half));
}

/* Logits of n queries with n_row rows of a tile from r on, n * n_row <= FEW_SUM; rows behind the
 * last are the last. */
INLINE void few_block(const struct rows *k, enum ft_fmt fmt, const float *q, size_t q_stride,
                      uint32_t n, uint32_t n_row, uint32_t r, uint32_t d, bool is_first, float *s) {
    const char *row[FEW_SUM];
    __m256 sum[FEW_SUM], scale[FEW_SUM];
    float out[FEW_SUM];
    UNROLL for (uint32_t e = 0; e < n_row; e++) {
        row[e] = k->data + FT_MIN(r + e, k->n - 1) * k->stride;
        if (is_first && k->ahead > 0) { /* spread over the products, or these wait for memory */
            for (size_t at = 0; at < k->stride; at += 64) {
                fetch(row[e] + at, k->ahead);
            }
        }
    }
    UNROLL for (uint32_t e = 0; e < FEW_SUM; e++) {
        sum[e] = _mm256_setzero_ps();
    }
    const uint32_t n_vec =
        fmt == FT_Q8_0 ? 4 : 1; /* a block of q8_0 at once: its scales are read once */
    for (uint32_t t = 0; t < d; t += 8 * n_vec) {
        UNROLL for (uint32_t e = 0; e < n_row; e++) {
            scale[e] = few_scale(row[e], t, fmt);
        }
        UNROLL for (uint32_t c = 0; c < n_vec; c++) {
            __m256 x[FEW_SUM];
            UNROLL for (uint32_t e = 0; e < n_row; e++) {
                x[e] = few_numbers(row[e], t, c, fmt, scale[e]);
            }
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m256 y = _mm256_loadu_ps(q + i * q_stride + t + 8 * c);
                UNROLL for (uint32_t e = 0; e < n_row; e++) {
                    sum[i * n_row + e] = _mm256_fmadd_ps(x[e], y, sum[i * n_row + e]);
                }
            }
        }
    }
    REDUCE8(sum, ADD);
    _mm256_storeu_ps(out, sum[0]);
    UNROLL for (uint32_t i = 0; i < n; i++) {
        memcpy(s + (size_t)i * FT_TILE_ROW + r, out + (size_t)i * n_row, n_row * sizeof *out);
    }
}

/* Untransposed: for a few queries a panel is not worth making. */
INLINE void few_logits_fmt(const struct rows *k, enum ft_fmt fmt, const struct ft_attend *a,
                           float *s) {
    for (uint32_t i = 0; i < a->m; i += FEW_QUERY) {
        const float *q = a->q + i * a->q_stride;
        float *to = s + (size_t)i * FT_TILE_ROW;
#define FEW(n_query, n_row)                                                                        \
    for (uint32_t r = 0; r < k->n; r += n_row) {                                                   \
        few_block(k, fmt, q, a->q_stride, n_query, n_row, r, a->d, i == 0, to);                    \
    }
        switch (a->m - i) {
        case 1:
            FEW(1, 8)
            break;
        case 2:
            FEW(2, 4)
            break;
        case 3:
            FEW(3, 2)
            break;
        default:
            FEW(FEW_QUERY, 2)
        }
    }
}

static void few_logits(const struct rows *k, const struct ft_attend *a, float *s) {
    if (k->fmt == FT_F32) {
        few_logits_fmt(k, FT_F32, a, s);
    } else if (k->fmt == FT_F16) {
        few_logits_fmt(k, FT_F16, a, s);
    } else if (k->fmt == FT_BF16) {
        few_logits_fmt(k, FT_BF16, a, s);
    } else {
        few_logits_fmt(k, FT_Q8_0, a, s);
    }
}

static void attend_few(const struct ft_attend *a) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        few_logits(&k, a, w.s);
        tile_softmax(a->m, a->scale, a->max, a->sum, true, &w);
        tile_values(&v, a->m, a->d, a->acc, &w);
    }
}

/* ---- packed blocks ---- */

/* to += by * from; n is a multiple of 8 */
static void add_times(float *to, const float *from, float by, size_t n) {
    for (size_t e = 0; e < n; e += 8) {
        _mm256_storeu_ps(to + e, _mm256_fmadd_ps(_mm256_set1_ps(by), _mm256_loadu_ps(from + e),
                                                 _mm256_loadu_ps(to + e)));
    }
}

static void multiply(float *to, float by, size_t n) {
    for (size_t e = 0; e < n; e += 8) {
        _mm256_storeu_ps(to + e, _mm256_mul_ps(_mm256_loadu_ps(to + e), _mm256_set1_ps(by)));
    }
}

#include "kern/blocks.h"

void ft_kern__blocks_avx2(const struct ft_attend_blocks *a) {
    attend_blocks(a);
}

static void attend_unpacked(const struct ft_attend_blocks *a) {
    tile_unpacked_words(&ft_kern_avx2, a, &ft_words_256);
}

const struct ft_kern ft_kern_avx2 = {
    .name = "avx2",
    .encode = encode,
    .decode = decode,
    .attend = attend_words,
    .attend_few = attend_few,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack_fast,
    .unpack = ft_kern__unpack_fast,
    .attend_blocks = ft_kern__blocks_avx2,
    .attend_unpacked = attend_unpacked,
};
