/* SPDX-License-Identifier: Apache-2.0 */
/* packside.h - how packed blocks are multiplied with numbers in words, whatever the registers; a
 * vector variant includes it once.
 *
 * K is lanes of rows, along which channels lie, multiplied with q; V is lanes of channels, along which
 * rows lie, multiplied with weights: one product for both.  With x the numbers along a lane, of
 * which the group g of a lane has a step and a low,
 *
 *   sum of x (low + step u)  =  sum over groups of  step (sum of x u)  +  low (sum of x)
 *
 * where groups part the lanes' numbers (K by token, V by channel: steps differ by lane, x is made of
 * words once), and
 *
 *   sum of x (low + step u)  =  sum of (x step) u  +  sum of x low
 *
 * where groups part the lanes (K by channel, V by token: steps differ along, x step is made of words
 * for every part of the lanes).
 *
 * The including file defines, for its registers:
 *
 *   row_most()     the largest |number| of a row; a NaN is above everything
 *   words_plain()  rows of numbers as words, and the sums of their groups, times a sign
 *   words_times()  rows of numbers times steps as words, and the sums of numbers times lows, times a
 *                  sign
 *   lanes_along()  out[i][lane] += (row i of x) . (lane), steps being in x
 *   lanes_apart()  the same with a step and a low for every lane and group of numbers along it
 *
 * Sums of words are exact, and what is done in f32 is done for each row alone, in one order: bits do
 * not depend on the rows that are multiplied together.
 */
#ifndef FT_KERN_PACKSIDE_H
#define FT_KERN_PACKSIDE_H

#include "kern/inline.h"
#include "kern/packwords.h"
#include "kern/scale.h"
#include "kern/span.h"

#define WORD_MOST 32767.0f  /* times 255, times 256 numbers: within 31 bits */
#define QUERY_LIMIT 0x1p40f /* largest |q|: no logit overflows */

/* One block's K or V. */
struct side {
    const char *codes;
    const uint16_t *step, *low;
    uint32_t n_lane, n_along, group, bits;
    bool is_along; /* steps differ along the lanes, and by part of the lanes */
    float sign;    /* -1: what the block holds is subtracted from its mean rows */
    size_t ahead;  /* bytes to the next block, prefetched meanwhile; 0: this is the last */
};

static struct side side_of(const struct ft_pack *pack, const void *memory, uint32_t d) {
    struct pack_shape s = pack_shape(pack, d);
    const char *block = memory;
    return (struct side){
        .codes = block + pack_codes_at(&s),
        .step = (const uint16_t *)(const void *)block,
        .low = (const uint16_t *)(const void *)(block + pack_low_at(&s)),
        .n_lane = s.is_value ? d : (uint32_t)FT_BLOCK_ROW,
        .n_along = s.is_value ? (uint32_t)FT_BLOCK_ROW : d,
        .group = s.n_row * s.n_channel,
        .bits = s.bits,
        .is_along = (s.n_row == 1) == s.is_value,
        .sign = 1,
    };
}

static struct side side_at(const struct ft_pack *pack, const void *blocks, size_t stride,
                           const void *mean, uint32_t b, const struct ft_attend_blocks *a) {
    struct side s = side_of(pack, (const char *)blocks + b * stride, a->d);
    s.sign = mean != NULL ? -1 : 1;
    s.ahead = b + 1 < a->n_block ? stride : 0;
    return s;
}

static float row_most(const float *x, uint32_t n);
static void words_plain(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        uint32_t group, float sign, struct pack_words to);
INLINE void words_times(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        const uint16_t *step, const uint16_t *low, float sign, float *wide,
                        struct pack_words to);
INLINE void lanes_along(const struct side *s, uint32_t bits, uint32_t n, uint32_t from, uint32_t to,
                        struct pack_words x, float *out, size_t out_stride);
INLINE void lanes_apart(const struct side *s, uint32_t bits, uint32_t n, struct pack_words x,
                        float *out, size_t out_stride);

/* out += or -= numbers . block for n rows of numbers; x: their words, if the steps do not differ
 * along, or room for them. */
INLINE void product(const struct side *s, uint32_t bits, uint32_t n, const float *numbers,
                    size_t stride, struct pack_words x, float *out, size_t out_stride,
                    struct pack_work *w) {
    if (!s->is_along) {
        lanes_apart(s, bits, n, x, out, out_stride);
        return;
    }
    for (uint32_t from = 0; from < s->n_lane; from += s->group) {
        size_t at = (size_t)(from / s->group) * s->n_along;
        words_times(numbers, stride, n, s->n_along, s->step + at, s->low + at, s->sign, w->wide, x);
        lanes_along(s, bits, n, from, from + s->group, x, out, out_stride);
    }
}

#define PRODUCT(bits)                                                                              \
    static void product##bits(const struct side *s, uint32_t n, const float *numbers,              \
                              size_t stride, struct pack_words x, float *out, size_t out_stride,   \
                              struct pack_work *w) {                                               \
        BY_ROWS_4(n, PRODUCT_##bits)                                                               \
    }
#define PRODUCT_2(n) product(s, 2, n, numbers, stride, x, out, out_stride, w)
#define PRODUCT_4(n) product(s, 4, n, numbers, stride, x, out, out_stride, w)
#define PRODUCT_8(n) product(s, 8, n, numbers, stride, x, out, out_stride, w)
PRODUCT(2)
PRODUCT(4)
PRODUCT(8)

static void side_add(const struct side *s, uint32_t n, const float *numbers, size_t stride,
                     struct pack_words x, float *out, size_t out_stride, struct pack_work *w) {
    (s->bits == 2   ? product2
     : s->bits == 4 ? product4
                    : product8)(s, n, numbers, stride, x, out, out_stride, w);
}

/* ---- a block ---- */

static struct pack_words query_words(struct pack_work *w, uint32_t i) {
    return (struct pack_words){ w->q + (size_t)i * FT_HEAD_MAX, w->q_scale + i,
                                w->q_sum + i * PACK_SUM };
}

void ft_kern__words_queries(const struct ft_attend_blocks *a, struct pack_work *w) {
    for (uint32_t i = 0; i < a->m; i++) {
        w->fits[i] = row_most(a->q + i * a->q_stride, a->d) <= QUERY_LIMIT;
    }
    if (a->k_pack.bits < 16 && a->k_pack.by == FT_BY_TOKEN) {
        uint32_t group = a->k_pack.group != 0 ? a->k_pack.group : a->d;
        words_plain(a->q, a->q_stride, a->m, a->d, group, a->k_mean != NULL ? -1 : 1,
                    query_words(w, 0));
    }
}

void ft_kern__words_keys(const struct ft_attend_blocks *a, uint32_t b, float *s,
                         struct pack_work *w) {
    struct side side = side_at(&a->k_pack, a->k, a->k_stride, a->k_mean, b, a);
    struct pack_words own = { w->x, w->x_scale, w->x_sum };
    for (uint32_t i = 0, n; i < a->m; i += n) {
        uint32_t end = i;
        while (end < a->m && w->fits[end] == w->fits[i]) {
            end++;
        }
        n = block_rows(end, i, FT_PACK_QUERY);
        if (w->fits[i]) {
            side_add(&side, n, a->q + i * a->q_stride, a->q_stride,
                     side.is_along ? own : query_words(w, i), s + (size_t)i * FT_TILE_ROW,
                     FT_TILE_ROW, w);
            side.ahead = 0;
        }
    }
}

void ft_kern__words_values(const struct ft_attend_blocks *a, uint32_t b, const float *p,
                           struct pack_work *w) {
    struct side side = side_at(&a->v_pack, a->v, a->v_stride, a->v_mean, b, a);
    struct pack_words x = { w->x, w->x_scale, w->x_sum };
    for (uint32_t i = 0, n; i < a->m; i += n, p += (size_t)n * FT_TILE_ROW) {
        n = block_rows(a->m, i, FT_PACK_QUERY);
        if (!side.is_along) {
            words_plain(p, FT_TILE_ROW, n, FT_TILE_ROW, side.group, side.sign, x);
        }
        side_add(&side, n, p, FT_TILE_ROW, x, a->acc + (size_t)i * a->d, a->d, w);
        side.ahead = 0;
    }
}

#endif
