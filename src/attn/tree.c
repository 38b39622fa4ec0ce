/* SPDX-License-Identifier: Apache-2.0 */
/* tree.c - attention of drafted tokens that form a tree: each sees the rows in front of the tree and
 * those of its ancestors.
 *
 * The rows in front go through the kernel once for the whole block of queries, as in a prompt.  A
 * path is short: its rows are copied together and attended to by one query's heads, so that no row
 * of another branch is ever multiplied, and nothing is masked.
 */
#include <math.h>

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
    uint32_t group = job->n_head / job->n_head_kv, d = job->d, m = it.n * group;
    const struct ft_span *head = &job->head[it.h];
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, d);
    ft_assert(job->n_query <= FT_TREE_QUERY && head->n_row >= job->n_query);
    uint32_t base = head->n_row - job->n_query, row[FT_TREE_QUERY];
    ft_queries_gather(job->q + ((size_t)it.first * job->n_head + it.h * group) * d, job->n_head,
                      group, d, it.n, s.q);
    for (uint32_t i = 0; i < m; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0;
    }
    memset(s.acc, 0, (size_t)m * d * sizeof *s.acc);
    struct ft_attend a = {
        .q = s.q,
        .k = head->k,
        .v = head->v,
        .max = s.max,
        .sum = s.sum,
        .acc = s.acc,
        .work = s.work,
        .q_stride = d,
        .k_stride = ft_fmt_row_bytes(job->k_fmt, d),
        .v_stride = ft_fmt_row_bytes(job->v_fmt, d),
        .m = m,
        .n = base,
        .d = d,
        .k_fmt = job->k_fmt,
        .v_fmt = job->v_fmt,
        .scale = job->scale,
    };
    if (base > 0) {
        kern->attend(&a);
    }
    a.k = s.k;
    a.v = s.v;
    a.m = group;
    for (uint32_t i = 0; i < it.n; i++) {
        a.n = path_rows(job->tree[it.first + i], job->n_query, base, row);
        ft_rows_gather(head->k, a.k_stride, row, a.n, s.k);
        ft_rows_gather(head->v, a.v_stride, row, a.n, s.v);
        kern->attend(&a);
        float *out = job->out + ((size_t)(it.first + i) * job->n_head + it.h * group) * d;
        ft_attend_done(group, d, a.acc, a.sum, out, d);
        a.q += (size_t)group * d;
        a.acc += (size_t)group * d;
        a.max += group;
        a.sum += group;
    }
}
