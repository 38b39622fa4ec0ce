/* SPDX-License-Identifier: Apache-2.0 */
/* tile_words.h - the loop over tiles that are multiplied in words where a query sees them whole, and
 * in f32 by tile.h's loops where not; a vector variant includes it after tile.h. */
#ifndef FT_KERN_TILE_WORDS_H
#define FT_KERN_TILE_WORDS_H

#include "kern/pack.h"
#include "kern/tile.h"
#include "kern/words.h"

/* The next tile is on its way while this one is multiplied: each group of queries asks for its share
 * of the rows. */
static void tile_fetch(const struct rows *r, uint32_t d, uint32_t from, uint32_t to) {
    size_t bytes = ft_fmt_row_bytes(r->fmt, d);
    for (uint32_t j = from; j < to && r->ahead > 0; j++) {
        for (size_t at = 0; at < bytes; at += 64) {
            __builtin_prefetch((const char *)((uintptr_t)r->data + j * r->stride + at + r->ahead),
                               0, 2);
        }
    }
}

/* One tile in f32, for queries [first, first + n). */
static void tile_attend_f32(const struct ft_attend *a, const struct panel *k, const struct rows *v,
                            uint32_t first, uint32_t n, struct tile_work w) {
    w.count += first;
    tile_logits(k, a->q + first * a->q_stride, a->q_stride, n, a->d, &w);
    tile_softmax(n, a->scale, a->max + first, a->sum + first, true, &w);
    tile_values(v, n, a->d, a->acc + (size_t)first * a->d, &w);
}

static void tile_attend_runs(const struct ft_attend *a, struct rows k, struct rows v,
                             const struct tile_work *w, const struct ft_words_way *way,
                             struct ft_words *words) {
    bool is_whole =
        count_extent(w->count, a->m).most == FT_TILE_ROW && way->tile(&k, &v, a->d, words);
    const struct rows next_k = k, next_v = v;
    struct panel panel = { 0 };
    for (uint32_t i = 0, n; i < a->m; i += n) {
        bool in_words = is_whole && w->count[i] == FT_TILE_ROW && words->fits[i];
        for (n = 1; i + n < a->m && n < FT_WORDS_GROUP; n++) {
            if (in_words != (is_whole && w->count[i + n] == FT_TILE_ROW && words->fits[i + n])) {
                break;
            }
        }
        uint32_t from = FT_TILE_ROW * i / a->m, to = FT_TILE_ROW * (i + n) / a->m;
        tile_fetch(&next_k, a->d, from, to);
        tile_fetch(&next_v, a->d, from, to);
        if (in_words) {
            way->group(a, i, n, words);
            continue;
        }
        if (panel.data == NULL) {
            k = rows_widened(k, a->d, w);
            panel = panel_make(&k, a->d, w->panel);
            v = rows_widened(v, a->d, w);
        }
        tile_attend_f32(a, &panel, &v, i, n, *w);
    }
}

static struct ft_words *words_at(const struct tile_work *w) {
    return (struct ft_words *)(void *)(w->wide + FT_TILE_ROW * FT_HEAD_MAX);
}

static void tile_attend_words(const struct ft_attend *a, const struct ft_words_way *way) {
    if (a->k_fmt == FT_F32 && a->v_fmt == FT_F32) { /* whoever stores 32 bits wants them used */
        attend(a);
        return;
    }
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    struct ft_words *words = words_at(&w);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    if (limit >= FT_TILE_ROW) { /* or no tile is whole */
        way->queries(a, words);
    }
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        tile_attend_runs(a, k, v, &w, way, words);
    }
}

/* Packed blocks by all queries; unpack is that of the table. */
static void tile_unpacked_words(const struct ft_kern *kern, const struct ft_attend_blocks *a,
                                const struct ft_words_way *way) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    struct ft_words *words = words_at(&w);
    tile_counts(NULL, a->m, 0, FT_BLOCK_ROW, w.count);
    for (uint32_t b = 0; b < a->n_block; b++) {
        struct ft_attend one = ft_kern__unpack_block(kern, a, b);
        struct rows k = tile_rows(one.k, one.k_stride, one.k_fmt, 0, FT_BLOCK_ROW);
        struct rows v = tile_rows(one.v, one.v_stride, one.v_fmt, 0, FT_BLOCK_ROW);
        if (b == 0) {
            way->queries(&one, words);
        }
        tile_attend_runs(&one, k, v, &w, way, words);
    }
}

#endif
