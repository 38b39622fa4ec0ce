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

/* Of a job: where rows are packed, as many tokens as a kernel takes, since each item unpacks them
 * once; but items of vertical-slash stay within a row block. */
static uint32_t job_block(const struct ft_attn_job *job) {
    uint32_t group = job->n_head / job->n_head_kv, block = ft_query_block(group);
    while (job->k_pack.bits > 0 && job->vertical == NULL && 2 * block * group <= FT_TILE_QUERY) {
        block *= 2;
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
    return job->n_head_kv * block_count(job, job_block(job));
}

/* Later queries see more rows: they come first, so that no thread starts the largest item last. */
struct ft_attn_item ft_attn_item_at(const struct ft_attn_job *job, uint32_t item) {
    uint32_t block = job_block(job), n_block = block_count(job, block);
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

/* Blocks [from, to) of a head, which all queries of `a` see. */
static void fold_blocks(const struct ft_attn_job *job, const struct ft_span *head, uint32_t from,
                        uint32_t to, const struct ft_attend *a,
                        void (*fold)(const struct ft_attend_blocks *blocks)) {
    if (from >= to) {
        return;
    }
    size_t k_bytes = ft_pack_block_bytes(&job->k_pack, job->d);
    size_t v_bytes = ft_pack_block_bytes(&job->v_pack, job->d);
    struct ft_attend_blocks blocks = {
        .q = a->q,
        .k = (const char *)head->k_block + from * k_bytes,
        .v = (const char *)head->v_block + from * v_bytes,
        .k_mean = ft_pack_mean(head->k_mean, from, job->d),
        .v_mean = ft_pack_mean(head->v_mean, from, job->d),
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
    fold(&blocks);
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
    fold_blocks(job, head, 0, head->n_block, &a, kern->attend_unpacked);
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

/* Rows [first, first + FT_SPLIT_ROW) of a head: its blocks among them, then exact rows. */
static void fold_split(const struct ft_kern *kern, const struct ft_attn_job *job,
                       const struct ft_span *head, uint32_t first, struct ft_attend *a) {
    uint32_t end = FT_MIN(head->n_row, first + FT_SPLIT_ROW);
    uint32_t n_packed = head->n_block * FT_BLOCK_ROW, from = first / FT_BLOCK_ROW;
    uint32_t to = FT_MIN(end, n_packed) / FT_BLOCK_ROW, exact = FT_MAX(first, n_packed);
    bool is_few = a->m <= FT_FEW_QUERY;
    fold_blocks(job, head, from, to, a, is_few ? kern->attend_blocks : kern->attend_unpacked);
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
    fold_split(kern, job, head, first, &a);
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
