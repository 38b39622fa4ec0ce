/* SPDX-License-Identifier: Apache-2.0 */
/* pack.h - where the numbers of a packed block lie, and the reference that packs them.
 *
 * Codes lie in 16-bit words, 16 / bits in each, the first in the lowest bits.  Sixteen words are two
 * numbers each of eight lanes: a lane is a row of K, whose channels are multiplied with a query's and
 * added, or a channel of V, whose rows are multiplied with weights and added.  So a register of 32
 * bytes, shifted and masked, is what a multiply-add of adjacent words takes (vpmaddwd), lanes stay
 * lanes, and nothing is shuffled or added across.  With along: channels for K, rows for V,
 *
 *   word    [lane/16][along/(2 n)][lane/8 % 2][lane % 8][along % 2]         n = 16 / bits
 *   in it   code  along/2 % n
 */
#ifndef FT_KERN_PACK_H
#define FT_KERN_PACK_H

#include "kern/kern.h"

/* pack.c: the reference, of every table that has nothing faster */
void ft_kern__pack(const struct ft_pack *pack, const float *rows, uint32_t d, void *block);
void ft_kern__unpack(const struct ft_pack *pack, const void *block, const void *mean, uint32_t d,
                     float *rows);
void ft_kern__attend_blocks(const struct ft_attend_blocks *a);

/* ft_kern__attend_unpacked - block after block as rows of f32, by attend and unpack of a table. */
void ft_kern__attend_unpacked(const struct ft_kern *kern, const struct ft_attend_blocks *a);
/* ft_kern__unpack_block - block b of K and of V as rows at the end of the work area.
 *   ->       the same queries over these rows */
struct ft_attend ft_kern__unpack_block(const struct ft_kern *kern, const struct ft_attend_blocks *a,
                                       uint32_t b);

/* A pack of 2, 4 or 8 bits, in numbers. */
struct pack_shape {
    uint32_t bits, top;        /* top: the largest code */
    uint32_t n_row, n_channel; /* of a group */
    uint32_t n_group;
    bool is_value;
};

static inline struct pack_shape pack_shape(const struct ft_pack *pack, uint32_t d) {
    bool by_token = pack->by == FT_BY_TOKEN;
    uint32_t group = pack->group != 0 ? pack->group : by_token ? d : (uint32_t)FT_BLOCK_ROW;
    ft_assert(pack->bits == 2 || pack->bits == 4 || pack->bits == 8);
    ft_assert(d >= 16 && d <= FT_HEAD_MAX && d % 16 == 0);
    ft_assert(group % 16 == 0 && (by_token ? d : (uint32_t)FT_BLOCK_ROW) % group == 0);
    return (struct pack_shape){
        .bits = pack->bits,
        .top = (1u << pack->bits) - 1,
        .n_row = by_token ? 1 : group,
        .n_channel = by_token ? group : 1,
        .n_group = FT_BLOCK_ROW * d / group,
        .is_value = pack->is_value,
    };
}

/* Group of the number in row j, channel c. */
static inline uint32_t pack_group(const struct pack_shape *s, uint32_t d, uint32_t j, uint32_t c) {
    return s->n_row == 1 ? c / s->n_channel * FT_BLOCK_ROW + j : j / s->n_row * d + c;
}

/* The parts of a block. */
static inline size_t pack_low_at(const struct pack_shape *s) {
    return s->n_group * sizeof(uint16_t);
}

static inline size_t pack_codes_at(const struct pack_shape *s) {
    return 2 * pack_low_at(s);
}

#endif
