/* SPDX-License-Identifier: Apache-2.0 */
/* few512.h - what attention of a few queries in 512-bit registers shares whatever the rows' format:
 * how sums of 16 rows come together, and a softmax of four queries at a time. */
#ifndef FT_KERN_FEW512_H
#define FT_KERN_FEW512_H

#include <math.h>

#include "kern/variants.h"
#include "kern/zmm.h"

/* Rows are prefetched two tiles before they are used: a tile takes a microsecond or less, and out
 * of memory one tile ahead is 6 to 9 % slower. */
enum { FEW_AHEAD = 2 };

/* 16 rows from four quads: lane r of the result belongs to row r. */
INLINE __m512 join_quads(const __m512 *part) {
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(part[0], part[1], 0x88),
                             _mm512_shuffle_f32x4(part[0], part[1], 0xdd));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(part[2], part[3], 0x88),
                             _mm512_shuffle_f32x4(part[2], part[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Four vectors to one whose lanes 0 to 3 belong to x[0] to x[3]. */
#define REDUCE4(x, OP)                                                                             \
    do {                                                                                           \
        __m512 e_ = OP(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));            \
        __m512 f_ = OP(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));            \
        __m512d a_ = _mm512_castps_pd(e_), b_ = _mm512_castps_pd(f_);                              \
        e_ = OP(_mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)),                                      \
                _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)));                                     \
        e_ = OP(e_, _mm512_shuffle_f32x4(e_, e_, 0x4e));                                           \
        x[0] = OP(e_, _mm512_shuffle_f32x4(e_, e_, 0xb1));                                         \
    } while (0)

INLINE __m512 few_row_max(const float *s, uint32_t count) {
    __m512 low = _mm512_set1_ps(-INFINITY), x[4];
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        x[v] = _mm512_mask_loadu_ps(low, lanes(count, v), s + 16 * v);
    }
    return _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
}

/* Logits become weights. */
INLINE __m512 few_row_exp(float *s, uint32_t count, float scale, float max) {
    __m512 by = _mm512_set1_ps(scale), top = _mm512_set1_ps(max), p[4];
    UNROLL for (uint32_t v = 0; v < 4; v++) {
        p[v] = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + 16 * v), by, top));
        p[v] = _mm512_maskz_mov_ps(lanes(count, v), p[v]);
        _mm512_storeu_ps(s + 16 * v, p[v]);
    }
    return _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
}

#endif
