/* SPDX-License-Identifier: Apache-2.0 */
/* zmm.h - pieces in 512-bit registers that the AVX-512 variants share: loads of rows,
 * transposition, exp, sums and maxima of 16 rows at once. */
#ifndef FT_KERN_ZMM_H
#define FT_KERN_ZMM_H

#include <immintrin.h>
#include <string.h>

#include "kern/inline.h"
#include "kern/span.h"

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* The first n lanes, at most all. */
INLINE __mmask16 low_lanes(size_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1);
}

INLINE __m512 wide_f16(__m256i h) {
    return _mm512_cvtph_ps(h);
}

INLINE __m512 wide_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE __m512 load16(const void *p, size_t i, enum ft_fmt fmt) {
    if (fmt == FT_F32) {
        return _mm512_loadu_ps((const float *)p + i);
    }
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)p + i));
    return fmt == FT_F16 ? wide_f16(h) : wide_bf16(h);
}

INLINE __m512 load16_mask(__mmask16 mask, const void *p, size_t i, enum ft_fmt fmt) {
    if (fmt == FT_F32) {
        return _mm512_maskz_loadu_ps(mask, (const float *)p + i);
    }
    __m256i h = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)p + i);
    return fmt == FT_F16 ? wide_f16(h) : wide_bf16(h);
}

/* Numbers [t, t + 16) of a row; those that mask leaves out read as zero. */
INLINE __m512 row16(const char *row, uint32_t t, __mmask16 mask, enum ft_fmt fmt) {
    if (fmt != FT_Q8_0) {
        return mask == 0xffff ? load16(row, t, fmt) : load16_mask(mask, row, t, fmt);
    }
    const char *block = row + t / 32 * 34;
    uint16_t half;
    memcpy(&half, block, sizeof half);
    __m512 scale = _mm512_cvtph_ps(_mm256_set1_epi16((short)half));
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)(block + 2 + t % 32));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), scale);
}

/* Transpose 16 x 16 numbers of 32 bits: out[c] lane r = in[r] lane c. */
INLINE void transpose16(__m512i x[16]) {
    __m512i y[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
        x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
    }
}

/* The larger of two magnitudes; as integers, so that a NaN is above all numbers. */
INLINE __m512 larger(__m512 x, __m512 y) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(x), _mm512_castps_si512(y)));
}

/* Sums of integers stay where they are: left alone, gcc copies all sums of a tile at each step, and
 * half of them through memory. */
INLINE __m512i in_place(__m512i sum) {
    __asm__("" : "+v"(sum));
    return sum;
}

/* The hardware's own prefetching stops at page ends and starts anew with every tile. */
INLINE void fetch(const char *p, size_t ahead) {
    _mm_prefetch((const char *)((uintptr_t)p + ahead), _MM_HINT_T1);
}

/* exp for x <= 88; below -104 it is zero.  Cody-Waite reduction to |r| <= ln2/2; a NaN comes out
 * as NaN, since max takes its second operand when they do not compare. */
INLINE __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), NEAREST);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(EXP_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#define ADD(a, b) _mm512_add_ps(a, b)
#define MAX(a, b) _mm512_max_ps(a, b)
/* Reduce 16 vectors to one whose lane r belongs to x[r]; every row is paired up in the same way. */
#define REDUCE16(x, OP)                                                                            \
    do {                                                                                           \
        UNROLL for (int e = 0; e < 8; e++) {                                                       \
            x[e] = OP(_mm512_unpacklo_ps(x[2 * e], x[2 * e + 1]),                                  \
                      _mm512_unpackhi_ps(x[2 * e], x[2 * e + 1]));                                 \
        }                                                                                          \
        UNROLL for (int e = 0; e < 4; e++) {                                                       \
            __m512d a_ = _mm512_castps_pd(x[2 * e]), b_ = _mm512_castps_pd(x[2 * e + 1]);          \
            x[e] = OP(_mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)),                                \
                      _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)));                               \
        }                                                                                          \
        UNROLL for (int e = 0; e < 2; e++) {                                                       \
            x[e] = OP(_mm512_shuffle_f32x4(x[2 * e], x[2 * e + 1], 0x88),                          \
                      _mm512_shuffle_f32x4(x[2 * e], x[2 * e + 1], 0xdd));                         \
        }                                                                                          \
        x[0] = OP(_mm512_shuffle_f32x4(x[0], x[1], 0x88), _mm512_shuffle_f32x4(x[0], x[1], 0xdd)); \
    } while (0)

INLINE __mmask16 lanes(uint32_t count, uint32_t v) {
    return low_lanes(count > 16 * v ? count - 16 * v : 0);
}

#endif
