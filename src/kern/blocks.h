/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h - attention over packed blocks: what is packed is multiplied in words (packwords.h), rows of
 * f16 and queries that do not fit in f32; a vector variant includes it after tile.h, once.
 *
 * The including file defines, for its registers:
 *
 *   few_logits()   s[i][j] = q_i . k_j for the few queries of a token, of rows in any format
 *   add_times()    to += by * from
 *   multiply()     to *= by                                  both for a multiple of 8 numbers
 */
#ifndef FT_KERN_BLOCKS_H
#define FT_KERN_BLOCKS_H

#include "kern/packwords.h"
#include "kern/tile.h"

/* 64 rows of f16. */
static struct rows half_rows(const void *rows, size_t stride, uint32_t b, uint32_t n_block,
                             uint32_t d) {
    struct rows r = tile_rows(rows, d * sizeof(uint16_t), FT_F16, 0, FT_TILE_ROW);
    r.data += b * stride;
    r.ahead = b + 1 < n_block ? stride : 0;
    return r;
}

static struct rows mean_rows(const void *mean, const struct ft_attend_blocks *a, uint32_t b) {
    return half_rows(mean, ft_fmt_row_bytes(FT_F16, a->d) * FT_TILE_ROW, b, a->n_block, a->d);
}

/* s -= or += logits of the queries that are not finite, or too large, in f32. */
static void blocks_unfit(const struct ft_attend_blocks *a, uint32_t b, float sign,
                         struct pack_work *p, const struct tile_work *w) {
    struct rows k = { NULL, a->d * sizeof(float), 0, FT_TILE_ROW, FT_F32 };
    for (uint32_t i = 0; i < a->m; i++) {
        if (p->fits[i]) {
            continue;
        }
        if (k.data == NULL) {
            ft_kern__unpack_fast(&a->k_pack, (const char *)a->k + b * a->k_stride, NULL, a->d,
                                 w->wide);
            k.data = (const char *)w->wide;
        }
        struct ft_attend one = { .q = a->q + i * a->q_stride, .m = 1, .d = a->d };
        few_logits(&k, &one, p->logit);
        add_times(w->s + (size_t)i * FT_TILE_ROW, p->logit, sign, FT_TILE_ROW);
    }
}

static void blocks_logits(const struct ft_attend_blocks *a, uint32_t b, struct pack_work *p,
                          const struct tile_work *w) {
    struct ft_attend few = { .q = a->q, .q_stride = a->q_stride, .m = a->m, .d = a->d };
    size_t n = (size_t)a->m * FT_TILE_ROW;
    float sign = a->k_mean != NULL ? -1 : 1;
    if (a->k_mean != NULL) {
        struct rows mean = mean_rows(a->k_mean, a, b);
        few_logits(&mean, &few, w->s);
    } else {
        memset(w->s, 0, n * sizeof *w->s);
    }
    if (a->k_pack.bits < 16) {
        ft_kern__words_keys(a, b, w->s, p);
        blocks_unfit(a, b, sign, p, w);
        return;
    }
    struct rows k = half_rows(a->k, a->k_stride, b, a->n_block, a->d);
    few_logits(&k, &few, w->panel);
    add_times(w->s, w->panel, sign, n);
}

static void blocks_values(const struct ft_attend_blocks *a, uint32_t b, struct pack_work *p,
                          const struct tile_work *w) {
    if (a->v_mean != NULL) {
        struct rows mean = mean_rows(a->v_mean, a, b);
        tile_values(&mean, a->m, a->d, a->acc, w);
    }
    if (a->v_pack.bits == 16) {
        struct rows v = half_rows(a->v, a->v_stride, b, a->n_block, a->d);
        if (a->v_mean != NULL) { /* where older sums have shrunk */
            multiply(w->s, -1, (size_t)a->m * FT_TILE_ROW);
            for (uint32_t i = 0; i < a->m; i++) {
                w->shrink[i] = 1;
            }
        }
        tile_values(&v, a->m, a->d, a->acc, w);
        return;
    }
    for (uint32_t i = 0; i < a->m && a->v_mean == NULL; i++) {
        multiply(a->acc + (size_t)i * a->d, w->shrink[i], a->d);
    }
    ft_kern__words_values(a, b, w->s, p);
}

static void attend_blocks(const struct ft_attend_blocks *a) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    /* no panel is made of packed keys; a part of it holds logits of rows in f16 */
    struct pack_work *p = (struct pack_work *)(void *)(w.panel + FT_FEW_QUERY * FT_TILE_ROW);
    _Static_assert(sizeof *p <= (FT_HEAD_MAX - FT_FEW_QUERY) * FT_TILE_ROW * sizeof(float),
                   "it lies in the panel");
    ft_assert(a->m <= FT_FEW_QUERY);
    tile_counts(NULL, a->m, 0, FT_TILE_ROW, w.count);
    ft_kern__words_queries(a, p);
    for (uint32_t b = 0; b < a->n_block; b++) {
        blocks_logits(a, b, p, &w);
        tile_softmax(a->m, a->scale, a->max, a->sum, true, &w);
        blocks_values(a, b, p, &w);
    }
}

#endif
