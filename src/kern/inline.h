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

#endif
