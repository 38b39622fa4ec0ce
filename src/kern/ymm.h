/* SPDX-License-Identifier: Apache-2.0 */
/* ymm.h - pieces in 256-bit registers that the AVX2 files share: loads of rows, transposition, exp,
 * sums and maxima of 8 rows at once. */
#ifndef FT_KERN_YMM_H
#define FT_KERN_YMM_H

#include <immintrin.h>

#include "kern/inline.h"
#include "kern/scale.h"
#include "kern/span.h"

INLINE __m256 load8(const void *p, size_t i, enum ft_fmt fmt) {
    if (fmt == FT_F32) {
        return _mm256_loadu_ps((const float *)p + i);
    }
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i));
    return fmt == FT_F16 ? _mm256_cvtph_ps(h)
                         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* Transpose 8 x 8 numbers: x[c] lane r = x[r] lane c. */
INLINE void transpose8(__m256 x[8]) {
    __m256 y[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        __m256 low = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
        x[i] = low;
    }
}

INLINE void transpose8_words(__m256i x[8]) {
    __m256 y[8];
    UNROLL for (int i = 0; i < 8; i++) {
        y[i] = _mm256_castsi256_ps(x[i]);
    }
    transpose8(y);
    UNROLL for (int i = 0; i < 8; i++) {
        x[i] = _mm256_castps_si256(y[i]);
    }
}

/* Sums of integers stay where they are: left alone, gcc adds all products of a block in a tree, and
 * keeps them in memory until then. */
INLINE __m256i in_place(__m256i sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

INLINE __m256 magnitude(__m256 x) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

INLINE __m256 power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* exp for x <= 88; below -104 it is zero.  The same polynomial as in avx512.c; 2^n is applied in
 * two halves because n reaches -150, below the normal exponents. */
INLINE __m256 exp8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-104.0f),
                      x); /* the second operand, and so a NaN, wins when unordered */
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(EXP_C6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)),
                         power_of_two(_mm256_sub_epi32(whole, half)));
}

#define ADD(a, b) _mm256_add_ps(a, b)
#define MAX(a, b) _mm256_max_ps(a, b)
/* Reduce 8 vectors to one whose lane r belongs to x[r]; every row is paired up in the same way. */
#define REDUCE8(x, OP)                                                                             \
    do {                                                                                           \
        UNROLL for (int e = 0; e < 4; e++) {                                                       \
            x[e] = OP(_mm256_unpacklo_ps(x[2 * e], x[2 * e + 1]),                                  \
                      _mm256_unpackhi_ps(x[2 * e], x[2 * e + 1]));                                 \
        }                                                                                          \
        UNROLL for (int e = 0; e < 2; e++) {                                                       \
            x[e] = OP(_mm256_shuffle_ps(x[2 * e], x[2 * e + 1], 0x44),                             \
                      _mm256_shuffle_ps(x[2 * e], x[2 * e + 1], 0xee));                            \
        }                                                                                          \
        x[0] = OP(_mm256_permute2f128_ps(x[0], x[1], 0x20),                                        \
                  _mm256_permute2f128_ps(x[0], x[1], 0x31));                                       \
    } while (0)

/* All ones in lanes 8*v + l < count. */
INLINE __m256i lanes(uint32_t count, int v) {
    __m256i iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count - 8 * v), iota);
}

#endif
