/* SPDX-License-Identifier: Apache-2.0 */
/* vslash.c - causal attention over a band of recent rows plus chosen older rows: the sparse
 * prefill of SpecKV.
 *
 *   query at row i sees row j  <=>  j <= i and
 *                                   (j >= 64*floor(i/64) - window  or  j is in its KV head's list)
 *
 * All queries of one row block of 64 share the band's start, and so the listed rows below it:
 * these are copied together, encoded as they are, and attended to by the whole group of query
 * heads; then comes the band.
 */
#include "attn/items.h"

/* How many of the ascending rows are below limit. */
static uint32_t count_below(const uint32_t *row, uint32_t n, uint32_t limit) {
    uint32_t low = 0;
    while (low < n) {
        uint32_t mid = low + (n - low) / 2;
        if (row[mid] < limit) {
            low = mid + 1;
        } else {
            n = mid;
        }
    }
    return low;
}

/* Columns in lots of FT_GATHER_ROW: whole tiles, so that the lots fold to the same bits as one
 * span. */
static void attend_columns(const struct ft_kern *kern, const struct ft_attend *band,
                           const struct ft_span *head, const uint32_t *column, uint32_t n_column,
                           struct ft_attn_scratch *s) {
    struct ft_attend a = *band;
    a.k = s->k;
    a.v = s->v;
    a.vis = NULL;
    for (uint32_t first = 0; first < n_column; first += FT_GATHER_ROW) {
        a.n = FT_MIN(n_column - first, (uint32_t)FT_GATHER_ROW);
        ft_rows_gather(head->k, a.k_stride, column + first, a.n, s->k);
        ft_rows_gather(head->v, a.v_stride, column + first, a.n, s->v);
        kern->attend(&a);
    }
}

void ft_attn_vslash(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                    void *scratch) {
    struct ft_attn_item it = ft_attn_item_at(job, item);
    uint32_t group = job->n_head / job->n_head_kv;
    uint32_t row = job->first_row + it.first, block = row / FT_TILE_ROW * FT_TILE_ROW;
    uint32_t start = block > job->window ? block - job->window : 0;
    const struct ft_span *head = &job->head[it.h];
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, job->d);
    ft_assert(head->n_row >= row + it.n);
    struct ft_attend a = ft_attend_begin(job, &it, start, &s);
    for (uint32_t i = 0; i < a.m; i++) {
        s.vis[i] = row - start + i / group + 1;
    }
    a.vis = s.vis;
    a.n = s.vis[a.m - 1];
    uint32_t n_column = count_below(job->vertical[it.h], job->n_vertical[it.h], start);
    attend_columns(kern, &a, head, job->vertical[it.h], n_column, &s);
    kern->attend(&a);
    ft_attend_end(job, &it, &a);
}
