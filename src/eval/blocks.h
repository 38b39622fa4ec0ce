/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h - random weights drawn in the block formats of GGUF; for shape.c and its test. */
#ifndef FT_EVAL_BLOCKS_H
#define FT_EVAL_BLOCKS_H

#include "base/base.h"

enum ft_block {
    FT_BLOCK_F32,
    FT_BLOCK_F16,
    FT_BLOCK_Q4_0,
    FT_BLOCK_Q5_0,
    FT_BLOCK_Q8_0,
    FT_BLOCK_Q4_K,
    FT_BLOCK_Q6_K,
    FT_BLOCK_COUNT
};
struct ft_block_info {
    uint32_t id, n, n_byte; /* the number GGUF gives it; weights and bytes of a block */
};
extern const struct ft_block_info ft_blocks[FT_BLOCK_COUNT];

/* A stream of random words: f(seed, stream, index). */
struct ft_draw {
    uint64_t key, at;
};
struct ft_draw ft_draw_new(uint64_t seed, uint64_t stream);
uint64_t ft_draw_next(struct ft_draw *draw);

/* ft_half_of - nearest half float, |value| < 65504. */
uint16_t ft_half_of(float value);

/* ft_blocks_draw - n_block blocks of weights with mean 0 and this deviation; not FT_BLOCK_F32.
 *   out      [n_block][n_byte of the format] */
void ft_blocks_draw(struct ft_draw *draw, enum ft_block block, float deviation, uint8_t *out,
                    size_t n_block);

#endif
