/* SPDX-License-Identifier: Apache-2.0 */
/* kern_fixture.h - what the tests of the kernels share: the variants to compare, numbers, memory. */
#ifndef FT_TESTS_KERN_FIXTURE_H
#define FT_TESTS_KERN_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kern/kern.h"

static const struct ft_kern *variants[FT_KERN_MOST]; /* ref first; main() fills it */
static uint32_t n_variant;

static inline void *must(void *p) {
    assert_non_null(p);
    return p;
}

static inline void *aligned(size_t n_byte) {
    return must(aligned_alloc(64, (n_byte + 63) & ~(size_t)63));
}

/* in [-1, 1) */
static inline float uniform(uint64_t seed, uint32_t what, uint64_t i) {
    return (float)(ft_rng_uniform(seed, what, 0, i) * 2 - 1);
}

/* Scratch of a kernel, full of NaNs: what is read without having been written shows. */
static inline void *work_area(void) {
    static void *work;
    work = work != NULL ? work : aligned(ft_kern_work_bytes());
    return memset(work, 0xff, ft_kern_work_bytes());
}

#endif
