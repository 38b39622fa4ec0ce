/* SPDX-License-Identifier: Apache-2.0 */
/* next.h - the prompt-sized ways bring the next item's rows into the cache while they multiply. */
#ifndef FT_KERN_NEXT_H
#define FT_KERN_NEXT_H

#include "kern/inline.h"
#include "kern/matmul.h"

/* While tokens [i, i + n) are multiplied, their share of the next item's rows comes into the
 * second-level cache. */
INLINE void fetch_next(const struct ft_matmul_item *it, uint32_t i, uint32_t n) {
    if (it->next == NULL) {
        return;
    }
    size_t line = (it->n_col * it->w_stride + 63) / 64, from = line * i / it->m,
           to = line * (i + n) / it->m;
    for (size_t l = from; l < to; l++) {
        __builtin_prefetch((const char *)((uintptr_t)it->next + 64 * l), 0, 2);
    }
}

#endif
