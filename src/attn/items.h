/* SPDX-License-Identifier: Apache-2.0 */
/* items.h - how attn/ cuts a job into items and a thread's scratch into arrays; private to this
 * folder. */
#ifndef FT_ATTN_ITEMS_H
#define FT_ATTN_ITEMS_H

#include <string.h>

#include "attn/attn.h"

enum { FT_GATHER_ROW = 256 }; /* listed rows copied together at a time; a multiple of FT_TILE_ROW */

/* One thread's scratch.  Sized by ft_attn_scratch_bytes(); every array starts on a 64-byte
 * boundary. */
struct ft_attn_scratch {
    void *work;          /* ft_kern_work_bytes() */
    float *q, *acc;      /* [FT_TILE_QUERY][d] */
    float *max, *sum;    /* [FT_TILE_QUERY] */
    float *lse, *weight; /* [FT_TILE_QUERY] */
    uint32_t *vis;       /* [FT_TILE_QUERY] */
    char *k, *v;         /* [FT_GATHER_ROW][d] encoded */
};

/* ft_scratch_cut - lay the arrays over memory (NULL: only measure).  ->  bytes used */
size_t ft_scratch_cut(struct ft_attn_scratch *s, void *memory, uint32_t d);

/* ft_query_block - tokens per item: a power of two that divides 64, so that no item crosses a row
 * block of 64. */
uint32_t ft_query_block(uint32_t group);

/* One item's queries: tokens [first, first + n) of the job, for KV head h. */
struct ft_attn_item {
    uint32_t h, first, n;
};
struct ft_attn_item ft_attn_item_at(const struct ft_attn_job *job, uint32_t item);

/* ft_queries_gather - the group's query rows of n tokens, [n][group][d], one after the other. */
static inline void ft_queries_gather(const float *q, uint32_t n_head, uint32_t group, uint32_t d,
                                     uint32_t n, float *out) {
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out + (size_t)i * group * d, q + (size_t)i * n_head * d,
               (size_t)group * d * sizeof *out);
    }
}

/* ft_attend_begin - an item's query rows gathered ([token][group][d]) with an empty state, to
 * attend to the rows of its KV head from `start` on.  How many rows, n, and vis are for the caller
 * to set. */
struct ft_attend ft_attend_begin(const struct ft_attn_job *job, const struct ft_attn_item *it,
                                 uint32_t start, const struct ft_attn_scratch *s);

/* ft_attend_end - the state that `a` leads to, divided by its sums, to the item's part of out. */
void ft_attend_end(const struct ft_attn_job *job, const struct ft_attn_item *it,
                   const struct ft_attend *a);

/* n rows of `stride` bytes, copied together. */
static inline void ft_rows_gather(const void *from, size_t stride, const uint32_t *row, uint32_t n,
                                  char *to) {
    for (uint32_t j = 0; j < n; j++) {
        memcpy(to + j * stride, (const char *)from + row[j] * stride, stride);
    }
}

#endif
