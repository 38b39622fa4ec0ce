/* SPDX-License-Identifier: Apache-2.0 */
/* evidence.c - how much attention each row receives from a set of voters, without ever holding a
 * row of attention.
 *
 * Pass 1: log-sum-exp of every (query head, voter) over all rows the voter sees; items are KV head
 * x voters.  Pass 2: exp(logit - lse) folded down the columns; items are KV head x columns, voters
 * in order, so that the bits of a column do not depend on how columns are cut.
 */
#include <math.h>

#include "attn/items.h"

enum {
    /* Query rows per item of pass 1: small enough that one KV head still feeds several threads. */
    LSE_QUERY = 64,
    /* Columns per item of pass 2. */
    MASS_COLUMN = 512,
};

static uint32_t group_of(const struct ft_evidence_job *job) {
    ft_assert(job->n_head_kv > 0 && job->n_head % job->n_head_kv == 0);
    uint32_t group = job->n_head / job->n_head_kv;
    ft_assert(group <= FT_TILE_QUERY);
    return group;
}

static uint32_t ceil_div(uint32_t a, uint32_t b) {
    return a / b + (a % b != 0);
}

static uint32_t lse_block(uint32_t group) {
    return group < LSE_QUERY ? LSE_QUERY / group : 1;
}

uint32_t ft_evidence_lse_items(const struct ft_evidence_job *job) {
    return job->n_head_kv * ceil_div(job->n_voter, lse_block(group_of(job)));
}

uint32_t ft_evidence_mass_items(const struct ft_evidence_job *job) {
    return job->n_head_kv * ceil_div(job->n_col, MASS_COLUMN);
}

/* Rows that voter i sees in head h. */
static uint32_t seen_by(const struct ft_evidence_job *job, uint32_t h, uint32_t i) {
    return job->vis != NULL ? job->vis[i] : job->head[h].n_row - (job->n_voter - 1 - i);
}

/* Voters [first, first + n) of KV head h for the kernels: row i*group + g is head g of voter i.
 * Rows below `from` are not shown; visibility is counted from there. */
static struct ft_vote vote_of(const struct ft_evidence_job *job, uint32_t h, uint32_t first,
                              uint32_t n, uint32_t from, struct ft_attn_scratch *s) {
    uint32_t group = group_of(job), m = n * group;
    ft_assert(job->head[h].n_block == 0);
    ft_queries_gather(job->q + ((size_t)first * job->n_head + h * group) * job->d, job->n_head,
                      group, job->d, n, s->q);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t vis = seen_by(job, h, first + i / group);
        s->vis[i] = vis > from ? vis - from : 0;
    }
    size_t k_stride = ft_fmt_row_bytes(job->k_fmt, job->d);
    return (struct ft_vote){
        .q = s->q,
        .k = (const char *)job->head[h].k + from * k_stride,
        .vis = s->vis,
        .work = s->work,
        .q_stride = job->d,
        .k_stride = k_stride,
        .m = m,
        .d = job->d,
        .k_fmt = job->k_fmt,
        .red = job->red == FT_REDUCE_MAX ? FT_REDUCE_MAX : FT_REDUCE_SUM,
        .scale = job->scale,
    };
}

void ft_evidence_lse(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t item,
                     void *scratch) {
    uint32_t group = group_of(job), block = lse_block(group);
    uint32_t h = item % job->n_head_kv, first = item / job->n_head_kv * block;
    ft_assert(first < job->n_voter);
    uint32_t n = FT_MIN(block, job->n_voter - first);
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, job->d);
    struct ft_vote v = vote_of(job, h, first, n, 0, &s);
    for (uint32_t i = 0; i < v.m; i++) {
        v.n = FT_MAX(v.n, s.vis[i]);
    }
    ft_assert(v.n <= job->head[h].n_row);
    v.out = s.lse;
    kern->lse(&v);
    for (uint32_t i = 0; i < v.m; i++) {
        job->lse[(size_t)(h * group + i % group) * job->n_voter + first + i / group] = s.lse[i];
    }
}

void ft_evidence_mass(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t item,
                      void *scratch) {
    uint32_t group = group_of(job), block = FT_TILE_QUERY / group;
    uint32_t h = item % job->n_head_kv, from = item / job->n_head_kv * MASS_COLUMN;
    uint32_t n_all = FT_MIN(job->n_col, job->head[h].n_row);
    ft_assert(from < job->n_col && (job->vis == NULL || n_all == job->n_col));
    if (from >= n_all) { /* a shorter head */
        return;
    }
    uint32_t n_col = FT_MIN(n_all - from, (uint32_t)MASS_COLUMN);
    float *out = job->mass + (size_t)h * job->n_col + from;
    ft_assert(!job->is_more || job->red != FT_REDUCE_MEAN);
    if (!job->is_more) {
        memset(out, 0, n_col * sizeof *out);
    }
    struct ft_attn_scratch s;
    ft_scratch_cut(&s, scratch, job->d);
    for (uint32_t first = 0; first < job->n_voter; first += block) {
        struct ft_vote v = vote_of(job, h, first, FT_MIN(block, job->n_voter - first), from, &s);
        v.n = n_col;
        v.out = out;
        v.lse = s.lse;
        v.weight = job->weight != NULL ? s.weight : NULL;
        for (uint32_t i = 0; i < v.m; i++) {
            uint32_t voter = first + i / group;
            s.lse[i] = job->lse[(size_t)(h * group + i % group) * job->n_voter + voter];
            s.weight[i] = job->weight != NULL ? job->weight[voter] : 1;
        }
        kern->mass(&v);
    }
    for (uint32_t j = 0; j < n_col && job->red == FT_REDUCE_MEAN; j++) {
        out[j] /= (float)(group * job->n_voter);
    }
}

void ft_evidence_lists(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t h,
                       uint32_t first, uint32_t n, float *out, void *scratch) {
    uint32_t group = group_of(job), block = FT_TILE_QUERY / group;
    uint32_t n_all = FT_MIN(job->n_col, job->head[h].n_row);
    struct ft_attn_scratch s;
    ft_assert(h < job->n_head_kv && first + n <= job->n_voter && n <= FT_LIST_VOTER);
    ft_scratch_cut(&s, scratch, job->d);
    for (uint32_t i = 0; i < n; i += block) {
        uint32_t m = FT_MIN(block, n - i);
        struct ft_vote v = vote_of(job, h, first + i, m, 0, &s);
        v.n = n_all;
        v.out = out + (size_t)i * group * job->n_col;
        v.out_stride = job->n_col;
        v.lse = s.lse;
        for (uint32_t g = 0; g < v.m; g++) {
            s.lse[g] =
                job->lse[(size_t)(h * group + g % group) * job->n_voter + first + i + g / group];
        }
        kern->mass(&v);
    }
}

void ft_evidence_norms(const struct ft_kern *kern, const struct ft_span *head, enum ft_fmt k_fmt,
                       uint32_t d, uint32_t n, float *out) {
    float row[FT_HEAD_MAX];
    size_t stride = ft_fmt_row_bytes(k_fmt, d);
    ft_assert(d <= FT_HEAD_MAX && n <= head->n_row);
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0;
        kern->decode(k_fmt, (const char *)head->k + j * stride, row, d);
        for (uint32_t c = 0; c < d; c++) {
            sum += (double)row[c] * (double)row[c];
        }
        out[j] = (float)sqrt(sum);
    }
}
