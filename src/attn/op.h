/* SPDX-License-Identifier: Apache-2.0 */
/* op.h - attention and evidence as nodes of a ggml graph, on the rows of a KV store.
 *
 * The engine hands the projections of one layer (struct ft_attn_in) and a store; these functions
 * add nodes and return the tensor that the next one depends on.  ggml's threads run the nodes;
 * items are taken from a shared counter, and every item writes its own output, so the bits do not
 * depend on the thread count.
 *
 * ft_op_attend is the fast path (our kernels); ft_op_stock is its slow twin: the same attention
 * from ggml's own operations on F32 rows, in libllama's order.
 */
#ifndef FT_ATTN_OP_H
#define FT_ATTN_OP_H

#include "attn/attn.h"
#include "kv/store.h"

struct ggml_context;
struct ggml_cgraph;
struct ggml_tensor;

struct ft_ops; /* the nodes' parameters and scratch of one model reader */

struct ft_ops_shape {
    uint32_t n_layer, n_head, n_head_kv, d, n_thread;
    const atomic_bool *is_cancelled; /* polled by every item; may be NULL; borrowed until free */
};
ft_status ft_ops_new(const struct ft_ops_shape *shape, struct ft_ops **out, struct ft_error *err);
void ft_ops_free(struct ft_ops *ops);

struct ft_attn_in { /* one layer of a pass */
    struct ggml_context *ctx;
    struct ggml_cgraph *graph;
    /* {d, n_head, n_query}, {d, n_head_kv, n_token} x 2, f32, contiguous; q may be of the last tokens
     * only */
    struct ggml_tensor *q, *k, *v;
    uint32_t n_token;
    uint32_t slot; /* model layer: which parameters of `ops` to use */
    struct ft_kv *kv;
    uint32_t kv_layer;
};

/* ft_op_rotate - heads of x, f32 and contiguous, turned by ft_rotate.  ->  of x's shape */
struct ggml_tensor *ft_op_rotate(struct ft_ops *ops, const struct ft_attn_in *in,
                                 struct ggml_tensor *x);

/* ft_op_append - write k and v into the last n_token rows of every head, which the caller has made
 * with ft_kv_extend.
 *   n_row      [n_head_kv] rows of each head, the new ones included (ragged heads differ); copied
 *   ->         a tensor to depend on; it is also expanded into the graph, so that later nodes run
 *              after it */
struct ggml_tensor *ft_op_append(struct ft_ops *ops, const struct ft_attn_in *in,
                                 const uint32_t *n_row);

/* Vertical-slash pattern of a layer; NULL means dense causal. */
struct ft_slash {
    uint32_t window;
    /* [n_head_kv] ascending rows, borrowed until the graph has run */
    const uint32_t *const *vertical;
    const uint32_t *n_vertical;
};
/* ft_op_attend - causal attention of the pass's tokens over rows of the store.
 *   n_row      rows that the last token sees in each head [n_head_kv]; query i sees n_row - n_query
 *              + 1 + i of them; copied
 *   dep        what must have run before, or NULL
 *   ->         {n_head*d, n_query} f32 */
struct ggml_tensor *ft_op_attend(struct ft_ops *ops, const struct ft_attn_in *in,
                                 const uint32_t *n_row, const struct ft_slash *slash,
                                 struct ggml_tensor *dep);

/* ft_op_stock - the same by ggml's own operations.  The store must hold F32 rows and equally long
 * heads. */
struct ggml_tensor *ft_op_stock(struct ft_ops *ops, const struct ft_attn_in *in, uint32_t n_row,
                                struct ggml_tensor *dep);

/* ft_op_save - copy the pass's queries [skip, n_token) to out [n_token - skip][n_head][d]; expanded
 * into the graph.  out is borrowed until the graph has run.  q must be of all tokens. */
void ft_op_save(struct ft_ops *ops, const struct ft_attn_in *in, uint32_t skip, float *out);

/* A voter's weights for the rows of a KV head, told one voter after the other.
 *   weight   [group][n_col], of which the rows that the voter sees are written; the callee's to write on
 * Thread     heads at the same time, by any threads */
typedef void (*ft_observe_fn)(void *user, uint32_t h, uint32_t voter, float *weight);

/* ft_op_evidence - what columns [0, n_col) receive from the pass's queries; expanded into the
 * graph.
 *   vis        [n_token] rows that each voter sees, or NULL: what attention lets it see, heads may
 *              be ragged; weight [n_token] or NULL; both borrowed until the graph has run
 *   mass       [n_head_kv][n_col] written when the graph has run; [n_head][n_col] where heads of a
 *              group are told apart
 *   is_more    the voters follow others: folded into what mass holds, not written over it
 *   observe    NULL, or told of each voter alone instead of any fold; mass is scratch then,
 *              [n_head][FT_LIST_VOTER][n_col] */
struct ft_watch {
    const uint32_t *vis;
    const float *weight;
    float *mass;
    float *lse; /* [n_head][n_token] scratch */
    uint32_t n_col;
    enum ft_reduce red;
    bool is_per_head, is_more;
    ft_observe_fn observe;
    void *user; /* of observe */
};
void ft_op_evidence(struct ft_ops *ops, const struct ft_attn_in *in, const struct ft_watch *watch,
                    struct ggml_tensor *dep);

#endif
