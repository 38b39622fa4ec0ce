/* SPDX-License-Identifier: Apache-2.0 */
/* inline.h - what register-level kernels ask of the compiler. */
#ifndef FT_KERN_INLINE_H
#define FT_KERN_INLINE_H

#include "base/base.h"

/* Array subscripts in registers need loops that are gone before registers are assigned. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* call(m) with m a constant, of 1 to 4, or to 6: rows whose sums are in registers. */
#define BY_ROWS_4(m, call)                                                                         \
    switch (m) {                                                                                   \
    case 1:                                                                                        \
        call(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        call(4);                                                                                   \
        break;                                                                                     \
    }
#define BY_ROWS_6(m, call)                                                                         \
    switch (m) {                                                                                   \
    case 1:                                                                                        \
        call(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3);                                                                                   \
        break;                                                                                     \
    case 4:                                                                                        \
        call(4);                                                                                   \
        break;                                                                                     \
    case 5:                                                                                        \
        call(5);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        call(6);                                                                                   \
        break;                                                                                     \
    }

#endif
