/* SPDX-License-Identifier: Apache-2.0 */
/* attn.h - which (query, row) pairs attend, and what each row receives; on plain arrays, one
 * thread's share at a time.
 *
 * A job is cut into items at boundaries that depend on sizes only.  Threads take items; every item
 * writes its own output, so the bits do not depend on the thread count.  Nothing here allocates:
 * scratch is handed in per thread.
 */
#ifndef FT_ATTN_ATTN_H
#define FT_ATTN_ATTN_H

#include "base/base.h"
#include "kern/kern.h"

/* One KV head's rows, as attention sees them. */
struct ft_span {
    const void *k, *v; /* [n_row - 64 n_block][d] encoded: the rows behind the blocks */
    uint32_t n_row;
    const void *k_block, *v_block; /* [n_block] packed rows in front of them; NULL: none */
    uint32_t n_block;
    /* f16 [64 n_block][d] that the blocks' numbers are taken from; NULL: they are the rows */
    const void *k_mean, *v_mean;
};

/* dense causal attention of a block of new queries over each head's rows.
 *
 *   q        [n_query][n_head][d]   f32, rotated: query i, head g at q + (i*n_head + g)*d
 *   out      [n_query][n_head*d]    f32
 *   head     [n_head_kv]            rows of each KV head, the new tokens' own rows last: query i
 *            (0-based) sees the first n_row - n_query + i + 1 rows of its head (ragged heads
 *            allowed)
 *   query head g reads KV head g / (n_head / n_head_kv)
 */
struct ft_attn_job {
    const float *q;
    float *out;
    const struct ft_span *head;
    uint32_t n_query, n_head, n_head_kv, d;
    enum ft_fmt k_fmt, v_fmt;
    struct ft_pack k_pack, v_pack; /* of blocks, which ft_attn_dense and ft_attn_split take */
    float scale;
    /* Items are cut at multiples of a power of two of absolute rows, counted from first_row; dense
     * attention may
     * leave it 0, its bits do not depend on it.
     * vertical-slash (ft_attn_vslash only): query at row i sees row j <= i iff j >= 64*floor(i/64)
     * - window or j is listed. Rows are absolute: query 0 of this job stands at row `first_row`;
     * each head has n_row >= first_row + n_query. */
    uint32_t first_row, window;
    const uint32_t *const *vertical; /* [n_head_kv] ascending lists */
    const uint32_t *n_vertical;      /* [n_head_kv] */
    /* tree (ft_attn_tree only), n_query <= FT_TREE_QUERY: the last n_query rows of each head are
     * the queries' own.  Query i sees all rows in front of them, and of them those of query j where
     * bit j is set: itself and its ancestors. */
    const uint64_t *tree; /* [n_query] */
};
enum { FT_TREE_QUERY = 64 };

/* ft_attn_item_count - number of items of a job (any of dense, vslash, tree).  Item order: costly
 * first. */
uint32_t ft_attn_item_count(const struct ft_attn_job *job);

/* ft_attn_scratch_bytes - one thread's scratch for any job with this group size and d (64-byte
 * aligned). */
size_t ft_attn_scratch_bytes(uint32_t group, uint32_t d);

/* ft_attn_dense, ft_attn_vslash, ft_attn_tree - compute one item. */
void ft_attn_dense(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                   void *scratch);
void ft_attn_vslash(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                    void *scratch);
void ft_attn_tree(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                  void *scratch);

/* Decode (n_query == 1): rows are split at multiples of FT_SPLIT_ROW; partial states are reduced in
 * index order.
 *   state    [n_head_kv][n_split_max] x { max[group], sum[group], acc[group][d] } floats,
 *            ft_attn_split_floats() each */
enum { FT_SPLIT_ROW = 1024 };
/* items = n_head_kv * splits of the longest head */
uint32_t ft_attn_split_count(const struct ft_attn_job *job);
size_t ft_attn_split_floats(uint32_t group, uint32_t d);
void ft_attn_split(const struct ft_kern *kern, const struct ft_attn_job *job, uint32_t item,
                   float *state, void *scratch);
/* one KV head: writes out */
void ft_attn_join(const struct ft_attn_job *job, uint32_t h, const float *state);

/* ft_rotate - n rows of d numbers, a power of two, times the Hadamard matrix over sqrt(d); twice is
 * nothing.  from may be to. */
void ft_rotate(const float *from, float *to, size_t n, uint32_t d);

/* evidence - attention received, by column, of one KV head's rows from a set of voters.
 *
 *   q        [n_voter][n_head][d]   f32, rotated (the same layout as attention's q)
 *   vis      [n_voter] or NULL      rows voter i may see; NULL: the voters' own rows are the last of
 *            each head, voter i sees those of later voters no more (ragged heads allowed)
 *   weight   [n_voter] or NULL      multiplies every row of voter i
 *   n_col                           mass is wanted for rows [0, n_col); with vis NULL a shorter head's
 *            columns beyond its rows are left as they are
 *   lse      [n_head][n_voter]      written by pass 1, read by pass 2
 *   mass     [n_head_kv][n_col]     zeroed by pass 2, then folded over the group's heads and all
 *            voters; FT_REDUCE_MEAN divides by group * n_voter
 *   is_more  these voters follow others: not zeroed; max and sum only
 * Pass 1 covers ALL rows a voter sees; nothing of size [voters][rows] ever exists.
 */
struct ft_evidence_job {
    const float *q;
    const uint32_t *vis;
    const float *weight;
    const struct ft_span *head; /* [n_head_kv], v unused, no blocks */
    float *lse, *mass;
    uint32_t n_voter, n_head, n_head_kv, d, n_col;
    enum ft_fmt k_fmt;
    enum ft_reduce red;
    bool is_more;
    float scale;
};
uint32_t ft_evidence_lse_items(const struct ft_evidence_job *job);
uint32_t ft_evidence_mass_items(const struct ft_evidence_job *job);
void ft_evidence_lse(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t item,
                     void *scratch);
void ft_evidence_mass(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t item,
                      void *scratch);

/* ft_evidence_lists - pass 2 of a few voters of KV head h, each query head's weights in a list of its
 * own instead of any fold: rows that a voter does not see get 0, or are left as they are.
 *   first, n  voters, at most FT_LIST_VOTER;  out [n][group][n_col] */
enum { FT_LIST_VOTER = 8 };
void ft_evidence_lists(const struct ft_kern *kern, const struct ft_evidence_job *job, uint32_t h,
                       uint32_t first, uint32_t n, float *out, void *scratch);

/* ft_evidence_norms - the L2 norm of the first n keys of a head, as they decode, summed in double.
 *   out      [n] */
void ft_evidence_norms(const struct ft_kern *kern, const struct ft_span *head, enum ft_fmt k_fmt,
                       uint32_t d, uint32_t n, float *out);

#endif
