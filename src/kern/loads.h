/* SPDX-License-Identifier: Apache-2.0 */
/* loads.h - pieces of stored weight blocks, which are aligned to nothing. */
#ifndef FT_KERN_LOADS_H
#define FT_KERN_LOADS_H

#include <immintrin.h>
#include <string.h>

#include "kern/inline.h"

INLINE __m128i load128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE uint32_t load32(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE uint16_t load_u16(const void *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

#endif
