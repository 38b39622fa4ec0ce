/* SPDX-License-Identifier: Apache-2.0 */
/* packwords.h - products of packed blocks with numbers in 16-bit words: pack256.c has them for x86,
 * packneon.c for AArch64. */
#ifndef FT_KERN_PACKWORDS_H
#define FT_KERN_PACKWORDS_H

#include "kern/pack.h"

void ft_kern__pack_fast(const struct ft_pack *pack, const float *rows, uint32_t d, void *block);
void ft_kern__unpack_fast(const struct ft_pack *pack, const void *block, const void *mean,
                          uint32_t d, float *rows);

enum {
    FT_PACK_QUERY = 4, /* queries multiplied together: 8 sums in registers */
    PACK_SUM = 16,     /* most groups of a head */
};

/* Numbers to be multiplied with the codes of a block, as words: scale * word, the sign of the product
 * included. */
struct pack_words {
    int16_t *word; /* [n][FT_HEAD_MAX] */
    float *scale;  /* [n] */
    float *sum;    /* [n][PACK_SUM] of the numbers, by group */
};

/* Scratch of one call. */
struct pack_work {
    int16_t q[FT_FEW_QUERY * FT_HEAD_MAX]; /* where K's steps are by token */
    float q_scale[FT_FEW_QUERY], q_sum[FT_FEW_QUERY * PACK_SUM];
    int16_t x[FT_PACK_QUERY * FT_HEAD_MAX]; /* of one block */
    float x_scale[FT_PACK_QUERY], x_sum[FT_PACK_QUERY * PACK_SUM];
    float wide[FT_PACK_QUERY * FT_HEAD_MAX]; /* before they are words */
    float logit[FT_TILE_ROW];                /* of a query that does not fit */
    bool fits[FT_FEW_QUERY];                 /* is the query finite, and far from f32's limits? */
};

/* All queries of a call. */
void ft_kern__words_queries(const struct ft_attend_blocks *a, struct pack_work *w);
/* s [m][64] += q . block b of K for the queries that fit, -= where K has mean rows */
void ft_kern__words_keys(const struct ft_attend_blocks *a, uint32_t b, float *s,
                         struct pack_work *w);
/* acc += p block b of V, -= where V has mean rows; p [m][64] */
void ft_kern__words_values(const struct ft_attend_blocks *a, uint32_t b, const float *p,
                           struct pack_work *w);

#endif
