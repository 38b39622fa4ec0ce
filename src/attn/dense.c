/* SPDX-License-Identifier: Apache-2.0 */
/* dense.c - causal attention over all rows of ragged heads, in blocks for a prompt and in row
 * splits for one token. */
#include <math.h>

#include "attn/items.h"

size_t ft_scratch_cut(struct ft_attn_scratch *s, void *memory, uint32_t d) {
    size_t rows = (size_t)FT_TILE_QUERY * d * sizeof(float), one = FT_TILE_QUERY * sizeof(float);
    size_t gather = (size_t)FT_GATHER_ROW * d * sizeof(float);
    size_t size[] = { (ft_kern_work_bytes() + 63) & ~(size_t)63,
                      rows,
                      rows,
                      one,
                      one,
                      one,
                      one,
                      one,
                      gather,
                      gather };
    char *at[FT_COUNT(size)];
    size_t used = 0;
    for (size_t i = 0; i < FT_COUNT(size); i++) {
        at[i] = memory != NULL ? (char *)memory + used : NULL;
        used += size[i];
    }
    *s = (struct ft_attn_scratch){
        .work = at[0],
        .q = (float *)(void *)at[1],
        .acc = (float *)(void *)at[2],
        .max = (float *)(void *)at[3],
        .sum = (float *)(void *)at[4],
        .lse = (float *)(void *)at[5],
        .weight = (float *)(void *)at[6],
        .vis = (uint32_t *)(void *)at[7],
        .k = at[8],
        .v = at[9],
    };
    return used;
}

size_t ft_attn_scratch_bytes(uint32_t group, uint32_t d) {
    struct ft_attn_scratch s;
    ft_assert(group >= 1 && group <= FT_TILE_QUERY);
    ft_assert(d >= 16 && d <= FT_HEAD_MAX && d % 8 == 0);
    return ft_scratch_cut(&s, NULL, d);
}

/* ---- blocks of queries ---- */

uint32_t ft_query_block(uint32_t group) {
    uint32_t block = FT_TILE_ROW;
    while (block > 1 && block * group > FT_TILE_QUERY) {
        block /= 2;
    }
    return block;
}

/* Number of blocks that tokens [first_row, first_row + n_query) touch when blocks are cut at
 * absolute rows. */
static uint32_t block_count(const struct ft_attn_job *job, uint32_t block) {
    return (job->first_row + job->n_query - 1) / block - job->first_row / block + 1;
}

uint32_t ft_attn_item_count(const struct ft_attn_job *job) {
    ft_assert(job->n_query > 0 && job->n_head_kv > 0 && job->n_head % job->n_head_kv == 0);
    return job->n_head_kv * block_count(job, ft_query_block(job->n_head / job->n_head_kv));
}

/* Later queries see more rows: they come first, so that no thread starts the largest item last. */
struct ft_attn_item ft_attn_item_at(const struct ft_attn_job *job, uint32_t item) {
    uint32_t block = ft_query_block(job->n_head / job->n_head_kv),
             n_block = block_count(job, block);
    ft_assert(item / job->n_head_kv < n_block);
    uint32_t b = job->first_row / block + n_block - 1 - item / job->n_head_kv;
    uint32_t from = FT_MAX(b * block, job->first_row);
    uint32_t to = FT_MIN((b + 1) * block, job->first_row + job->n_query);
    return (struct ft_attn_item){ item % job->n_head_kv, from - job->first_row, to - from };
}

struct ft_attend ft_attend_begin(const struct ft_attn_job *job, const struct ft_attn_item *it,
                                 uint32_t start, const struct ft_attn_scratch *s) {
    uint32_t group = job->n_head / job->n_head_kv, d = job->d, m = it->n * group;
    const struct ft_span *head = &job->head[it->h];
    size_t k_stride = ft_fmt_row_bytes(job->k_fmt, d), v_stride = ft_fmt_row_bytes(job->v_fmt, d);
    ft_queries_gather(job->q + ((size_t)it->first * job->n_head + it->h * group) * d, job->n_head,
                      group, d, it->n, s->q);
    for (uint32_t i = 0; i < m; i++) {
        s->max[i] = -INFINITY;
        s->sum[i] = 0;
    }
    memset(s->acc, 0, (size_t)m * d * sizeof *s->acc);
    return (struct ft_attend){
        .q = s->q,
        .k = (const char *)head->k + start * k_stride,
        .v = (const char *)head->v + start * v_stride,
        .max = s->max,
        .sum = s->sum,
        .acc = s->acc,
        .work = s->work,
        .q_stride = d,
        .k_stride = k_stride,
        .v_stride = v_stride,
        .m = m,
        .d = d,
        .k_fmt = job->k_fmt,
        .v_fmt = job->v_fmt,
        .scale = job->scale,
    };
}

void ft_attend_end(const struct ft_attn_job *job, const struct ft_attn_item *it,
                   const struct ft_attend *a) {
    uint32_t group = job->n_head / job->n_head_kv, d = job->d;
    for (uint32_t i = 0; i < it->n; i++) {
        float *out = job->out + ((size_t)(it->first + i) * job->n_head + it->h * group) * d;
        ft_attend_done(group, d, a->acc + (size_t)i * group * d, a->sum + i * group, out, d);
    }
}

/* A block's 64 rows, as f32: taken from their means where there are some. */
static void unpack_rows(const struct ft_kern *kern, const struct ft_pack *pack, const void *block,
                        const void *means, uint32_t d, float *out) {
    float mean[FT_HEAD_MAX];
    kern->unpack(pack, block, d, out);
    for (uint32_t j = 0; means != NULL && j < FT_BLOCK_ROW; j++, out += d) {
        kern->decode(FT_F16, (const uint16_t *)means + (size_t)j * d, mean, d);
        for (uint32_t t = 0; t < d; t++) {
            out[t] = mean[t] - out[t];
        }
    }
}

static const void *means_at(const void *means, uint32_t block, uint32_t d) {
    return means ? (const uint16_t *)means + (size_t)block * FT_BLOCK_ROW * d : NULL;
}

/* Blocks [from, to) of a head, which all queries of `a` see, one after the other as f32 rows. */
static void fold_blocks(const struct ft_kern *kern, const struct ft_attn_job *job,
                        const struct ft_span *head, uint32_t from, uint32_t to,
                        const struct ft_attend *a, const struct ft_attn_scratch *s) {
    size_t k_bytes = to > from ? ft_pack_block_bytes(&job->k_pack, job->d) : 0;
    size_t v_bytes = to > from ? ft_pack_block_bytes(&job->v_pack, job->d) : 0;
    struct ft_attend rows = *a;
    rows.k = s->k;
    rows.v = s->v;
    rows.k_fmt = rows.v_fmt = FT_F32;
    rows.k_stride = rows.v_stride = job->d * sizeof(float);
    rows.vis = NULL;
    rows.n = FT_BLOCK_ROW;
    for (uint32_t b = from; b < to; b++) {
        unpack_rows(kern, &job->k_pack, (const char *)head->k_block + b * k_bytes,
                    means_at(head->k_mean, b, job->d), job->d, (float *)(void *)s->k);
        unpack_rows(kern, &job->v_pack, (const char *)head->v_block + b * v_bytes,
                    means_at(head->v_mean, b, job->d), job->d, (float *)(void *)s->v);
        kern->attend(&rows);
    }
}

void ft_attn_dense(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                   void *scratch) {
    struct ft_attn_item it = ft_attn_item_at(job, item);
    const struct ft_span *head = &job->head[it.h];
    uint32_t group = job->n_head / job->n_head_kv;
    uint32_t n_row = head->n_row - head->n_block * FT_BLOCK_ROW; /* the queries' own among them */
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, job->d);
    ft_assert(n_row >= job->n_query && n_row <= head->n_row);
    struct ft_attend a = ft_attend_begin(job, &it, 0, &s);
    fold_blocks(kern, job, head, 0, head->n_block, &a, &s);
    for (uint32_t i = 0; i < a.m; i++) {
        s.vis[i] = n_row - job->n_query + it.first + i / group + 1;
    }
    a.vis = s.vis;
    a.n = s.vis[a.m - 1];
    kern->attend(&a);
    ft_attend_end(job, &it, &a);
}

/* ---- one query, rows split ---- */

static uint32_t split_count(uint32_t n_row) {
    return (n_row + FT_SPLIT_ROW - 1) / FT_SPLIT_ROW;
}

static uint32_t split_max(const struct ft_attn_job *job) {
    uint32_t n = 0;
    for (uint32_t h = 0; h < job->n_head_kv; h++) {
        n = FT_MAX(n, split_count(job->head[h].n_row));
    }
    return n;
}

uint32_t ft_attn_split_count(const struct ft_attn_job *job) {
    return job->n_head_kv * split_max(job);
}

size_t ft_attn_split_floats(uint32_t group, uint32_t d) {
    return (size_t)group * (2 + d);
}

/* Blocks [from, to) of a head for one token's queries. */
static void few_blocks(const struct ft_kern *kern, const struct ft_attn_job *job,
                       const struct ft_span *head, uint32_t from, uint32_t to,
                       const struct ft_attend *a) {
    size_t k_bytes = ft_pack_block_bytes(&job->k_pack, job->d);
    size_t v_bytes = ft_pack_block_bytes(&job->v_pack, job->d);
    struct ft_attend_blocks blocks = {
        .q = a->q,
        .k = (const char *)head->k_block + from * k_bytes,
        .v = (const char *)head->v_block + from * v_bytes,
        .k_mean = means_at(head->k_mean, from, job->d),
        .v_mean = means_at(head->v_mean, from, job->d),
        .max = a->max,
        .sum = a->sum,
        .acc = a->acc,
        .work = a->work,
        .q_stride = a->q_stride,
        .k_stride = k_bytes,
        .v_stride = v_bytes,
        .m = a->m,
        .n_block = to - from,
        .d = job->d,
        .k_pack = job->k_pack,
        .v_pack = job->v_pack,
        .scale = job->scale,
    };
    kern->attend_blocks(&blocks);
}

/* Rows [first, first + FT_SPLIT_ROW) of a head: its blocks among them, then exact rows. */
static void fold_split(const struct ft_kern *kern, const struct ft_attn_job *job,
                       const struct ft_span *head, uint32_t first, struct ft_attend *a,
                       const struct ft_attn_scratch *s) {
    uint32_t end = FT_MIN(head->n_row, first + FT_SPLIT_ROW);
    uint32_t n_packed = head->n_block * FT_BLOCK_ROW, from = first / FT_BLOCK_ROW;
    uint32_t to = FT_MIN(end, n_packed) / FT_BLOCK_ROW, exact = FT_MAX(first, n_packed);
    bool is_few = a->m <= FT_FEW_QUERY;
    if (from < to && is_few) {
        few_blocks(kern, job, head, from, to, a);
    } else if (from < to) {
        fold_blocks(kern, job, head, from, to, a, s);
    }
    if (exact >= end) {
        return;
    }
    a->k = (const char *)head->k + (exact - n_packed) * a->k_stride;
    a->v = (const char *)head->v + (exact - n_packed) * a->v_stride;
    a->n = end - exact;
    if (is_few) {
        kern->attend_few(a);
    } else {
        kern->attend(a);
    }
}

void ft_attn_split(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                   float *state, void *scratch) {
    uint32_t n_split = split_max(job), h = item / n_split, first = item % n_split * FT_SPLIT_ROW;
    uint32_t group = job->n_head / job->n_head_kv, d = job->d;
    const struct ft_span *head = &job->head[h];
    ft_assert(job->n_query == 1 && h < job->n_head_kv);
    if (first >= head->n_row) { /* a shorter head: join does not look at this state */
        return;
    }
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, d);
    float *mine = state + (size_t)item * ft_attn_split_floats(group, d);
    struct ft_attend a = {
        .q = job->q + (size_t)h * group * d,
        .max = mine,
        .sum = mine + group,
        .acc = mine + 2 * (size_t)group,
        .work = s.work,
        .q_stride = d,
        .k_stride = ft_fmt_row_bytes(job->k_fmt, d),
        .v_stride = ft_fmt_row_bytes(job->v_fmt, d),
        .m = group,
        .d = d,
        .k_fmt = job->k_fmt,
        .v_fmt = job->v_fmt,
        .scale = job->scale,
    };
    for (uint32_t i = 0; i < group; i++) {
        a.max[i] = -INFINITY;
        a.sum[i] = 0;
    }
    memset(a.acc, 0, (size_t)group * d * sizeof *a.acc);
    fold_split(kern, job, head, first, &a, &s);
}

void ft_attn_join(const struct ft_attn_job *job, uint32_t h, const float *state) {
    uint32_t group = job->n_head / job->n_head_kv, d = job->d;
    size_t n_float = ft_attn_split_floats(group, d);
    const float *first = state + (size_t)h * split_max(job) * n_float;
    for (uint32_t g = 0; g < group; g++) {
        float max = -INFINITY, sum = 0, acc[FT_HEAD_MAX] = { 0 };
        for (uint32_t i = 0; i < split_count(job->head[h].n_row); i++) {
            const float *part = first + i * n_float;
            ft_attend_merge(d, &max, &sum, acc, part[g], part[group + g],
                            part + 2 * (size_t)group + (size_t)g * d);
        }
        ft_attend_done(1, d, acc, &sum, job->out + ((size_t)h * group + g) * d, d);
    }
}
