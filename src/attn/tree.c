/* SPDX-License-Identifier: Apache-2.0 */
/* tree.c - attention of drafted tokens that form a tree: each sees the rows in front of the tree
 * and those of its ancestors.
 *
 * The rows in front go through the kernel once for the whole block of queries, as in a prompt.  A
 * path is short: its rows are copied together and attended to by one query's heads, so that no row
 * of another branch is ever multiplied, and nothing is masked.
 */
#include "attn/items.h"

/* Rows of the tree that a query sees, numbered from the head's row 0; -> how many */
static uint32_t path_rows(uint64_t sees, uint32_t n_query, uint32_t base,
                          uint32_t row[FT_TREE_QUERY]) {
    uint32_t n = 0;
    for (uint32_t j = 0; j < n_query; j++) {
        if (sees >> j & 1) {
            row[n++] = base + j;
        }
    }
    return n;
}

void ft_attn_tree(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                  void *scratch) {
    struct ft_attn_item it = ft_attn_item_at(job, item);
    uint32_t group = job->n_head / job->n_head_kv, d = job->d;
    const struct ft_span *head = &job->head[it.h];
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, d);
    ft_assert(job->n_query <= FT_TREE_QUERY && head->n_row >= job->n_query);
    uint32_t base = head->n_row - job->n_query, row[FT_TREE_QUERY];
    struct ft_attend front = ft_attend_begin(job, &it, 0, &s);
    front.n = base;
    if (base > 0) {
        kern->attend(&front);
    }
    struct ft_attend path = front;
    path.k = s.k;
    path.v = s.v;
    path.m = group;
    for (uint32_t i = 0; i < it.n; i++) {
        path.n = path_rows(job->tree[it.first + i], job->n_query, base, row);
        ft_rows_gather(head->k, path.k_stride, row, path.n, s.k);
        ft_rows_gather(head->v, path.v_stride, row, path.n, s.v);
        kern->attend(&path);
        path.q += (size_t)group * d;
        path.acc += (size_t)group * d;
        path.max += group;
        path.sum += group;
    }
    ft_attend_end(job, &it, &front);
}
