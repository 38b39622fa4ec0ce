/* SPDX-License-Identifier: Apache-2.0 */
/* words.h - attention over whole tiles of 64 rows in products of 16-bit words: vpmaddwd does the
 * work of two f32 multiply-adds, vpdpwssd in 512 bits that of vdpbf16ps, some twenty times finer.
 *
 *   q   13 bits and a sign, a scale per query
 *   K   12 bits, a scale per row and 64 numbers
 *   p   13 bits of exp(logit - the tile's largest)
 *   V   12 bits, a scale per channel and tile
 *
 * so that 64 products stay within 31 bits: sums are exact, in any order.  A tile counts only for
 * queries that see all of its 64 rows, as scales must not depend on rows that a query does not see.
 */
#ifndef FT_KERN_WORDS_H
#define FT_KERN_WORDS_H

#include "kern/span.h"

enum {
    FT_WORDS_CHUNK = 64, /* numbers of a key that share a scale */
    FT_WORDS_GROUP = 16, /* queries that go through a tile together: their logits stay near */
    FT_WORDS_CHUNKS = FT_HEAD_MAX / FT_WORDS_CHUNK,
};

/* The largest integers. */
#define FT_WORDS_Q 8191.0f
#define FT_WORDS_K 4095.0f
#define FT_WORDS_P 8191.0f
#define FT_WORDS_V 4095.0f
#define FT_WORDS_LIMIT 0x1p40f    /* largest |q| and |k|: no logit overflows */
#define FT_WORDS_V_LIMIT 0x1p100f /* largest |v|: nor do 64 * FT_WORDS_P of it */

/* Scratch of one call; a word of 32 bits is a pair of numbers, in the order of the variant. */
struct ft_words {
    int32_t q[FT_TILE_QUERY * FT_HEAD_MAX / 2];   /* [m][width] */
    int32_t k[FT_TILE_ROW * FT_HEAD_MAX / 2];     /* [64/strip][width][strip] */
    int32_t v[FT_TILE_ROW / 2 * FT_HEAD_MAX];     /* pairs of rows, [d/strip][32][strip] */
    float q_scale[FT_TILE_QUERY];                 /* [m], the logits' scale included */
    float k_scale[FT_WORDS_CHUNKS * FT_TILE_ROW]; /* [d/64][64] */
    float v_scale[FT_HEAD_MAX];                   /* [d] */
    float s[FT_WORDS_GROUP * FT_TILE_ROW];        /* logits, to be multiplied by q_scale */
    int32_t p[FT_WORDS_GROUP * FT_TILE_ROW / 2];  /* weights */
    float shrink[FT_WORDS_GROUP],
        share[FT_WORDS_GROUP]; /* of older sums; of this tile's integers */
    bool fits[FT_TILE_QUERY];  /* is the query finite, and far from f32's limits? */
};

struct ft_words_way {
    /* all queries of a call */
    void (*queries)(const struct ft_attend *a, struct ft_words *w);
    /* 64 rows of K and V.  -> false: not finite, or too near to f32's limits */
    bool (*tile)(const struct rows *k, const struct rows *v, uint32_t d, struct ft_words *w);
    /* fold the tile into the state of queries [first, first + m), at most FT_WORDS_GROUP; all fit */
    void (*group)(const struct ft_attend *a, uint32_t first, uint32_t m, struct ft_words *w);
};

#if defined(__x86_64__)
extern const struct ft_words_way ft_words_256, ft_words_512;
#endif

#endif
