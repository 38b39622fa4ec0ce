/* SPDX-License-Identifier: Apache-2.0 */
/* unpack256.h - GGUF weight blocks as panels for the 256-bit ways.
 *
 * A panel holds FT_STRIP_COL weight rows ("columns", as they become columns of y) of one stretch of
 * k, those numbers of a column together that one instruction multiplies and adds.
 *
 *   bytes   q u8 [k/4][FT_STRIP_COL][4]   scale, offset [k/32][FT_STRIP_COL]
 *           w = scale q - offset, q <= 15                           q4_0 q4_1 q4_K
 *                                 q <= 31                           q5_0 q5_1 q5_K
 *   words   q i16 [k/2][FT_STRIP_COL][2]  scale [k/n][FT_STRIP_COL]
 *           w = scale q, |q| <= 128,  n = 32                        q8_0
 *                        |q| <= 4096, n = 128                       q3_K q6_K, times their scales
 */
#ifndef FT_KERN_UNPACK256_H
#define FT_KERN_UNPACK256_H

#include "kern/matmul.h"

enum { FT_STRIP_COL = 16 };

struct ft_strip {
    void *q;
    float *scale, *offset; /* offset: bytes only */
};

/* What a type becomes: numbers of a file's block and their bytes, numbers that share a panel's
 * scale, the largest byte (0: words).  block 0: unknown to the panels. */
struct ft_strip_kind {
    uint32_t block, bytes, scaled, most;
};
struct ft_strip_kind ft_strip_kind(uint32_t type);

/* ft_strip_unpack - numbers [first, first + k) of n_col rows, 1 to FT_STRIP_COL, w_stride bytes
 * apart; first and k are multiples of the type's block.  Columns from n_col on repeat the last row. */
void ft_strip_unpack(uint32_t type, const void *w, size_t w_stride, uint32_t n_col, uint32_t first,
                     uint32_t k, const struct ft_strip *strip);

#endif
