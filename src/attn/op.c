/* SPDX-License-Identifier: Apache-2.0 */
/* op.c - append, attention and evidence as ggml custom ops on the CPU.
 *
 * ggml calls a custom op on every thread of the graph, whatever n_tasks says, with a barrier
 * between nodes and none inside.  So phases are nodes (log-sum-exp, then mass; split, then join),
 * and a node's work is a list of items that threads take from an atomic counter.  A node's
 * parameters live in a slot per layer: they must outlive the graph.
 */
#include <math.h>
#include <string.h>

#include "ggml.h"

#include "attn/op.h"

struct append {
    struct ft_kv *kv;
    uint32_t kv_layer;
    ft_row *first; /* [n_head_kv] */
};

struct slot {
    struct ft_ops *ops;
    struct append append;
    struct ft_attn_job job;
    struct ft_span *span; /* [n_head_kv] of job */
    bool is_slash;
    struct ft_evidence_job evidence;
    ft_observe_fn observe; /* of evidence, NULL: it is folded */
    void *observer;
    struct ft_span *seen; /* [n_head] of evidence: one for each KV head, or for each query head */
    float *saved;         /* where queries from `skip` on are copied to */
    uint32_t skip;
    atomic_uint next[4]; /* item counters: attend or split, join, lse, mass */
};

struct ft_ops {
    struct ft_ops_shape shape;
    const struct ft_kern *kern;
    struct slot *slot;     /* [n_layer] */
    struct ft_span *spans; /* [n_layer][n_head_kv + n_head] */
    ft_row *firsts;        /* [n_layer][n_head_kv] */
    uint8_t *scratch;      /* [n_thread][scratch_bytes], 64-byte aligned */
    size_t scratch_bytes, scratch_total;
};

ft_status ft_ops_new(const struct ft_ops_shape *shape, struct ft_ops **out, struct ft_error *err) {
    struct ft_ops *ops = ft_alloc(1, sizeof *ops);
    if (!ops) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for attention parameters");
    }
    ops->shape = *shape;
    ops->kern = ft_kern();
    ops->slot = ft_alloc(shape->n_layer, sizeof *ops->slot);
    size_t n_span = (size_t)shape->n_head_kv + shape->n_head;
    ops->spans = ft_alloc(n_span * shape->n_layer, sizeof *ops->spans);
    ops->firsts = ft_alloc((size_t)shape->n_layer * shape->n_head_kv, sizeof *ops->firsts);
    size_t bytes = ft_attn_scratch_bytes(shape->n_head / shape->n_head_kv, shape->d);
    ops->scratch_bytes = (bytes + 63) / 64 * 64;
    ops->scratch_total = ops->scratch_bytes * shape->n_thread;
    ops->scratch = ft_pages_map(ops->scratch_total);
    if (!ops->slot || !ops->spans || !ops->firsts || !ops->scratch) {
        size_t need = ops->scratch_total;
        ft_ops_free(ops);
        return ft_fail_memory(err, need, "attention scratch of %u threads", shape->n_thread);
    }
    for (uint32_t l = 0; l < shape->n_layer; l++) {
        struct slot *slot = &ops->slot[l];
        slot->ops = ops;
        slot->span = ops->spans + n_span * l;
        slot->seen = slot->span + shape->n_head_kv;
        slot->append.first = ops->firsts + (size_t)l * shape->n_head_kv;
    }
    *out = ops;
    return FT_OK;
}

void ft_ops_free(struct ft_ops *ops) {
    if (!ops) {
        return;
    }
    ft_free(ops->slot);
    ft_free(ops->spans);
    ft_free(ops->firsts);
    ft_pages_unmap(ops->scratch, ops->scratch_total);
    ft_free(ops);
}

static void *scratch_of(const struct ft_ops *ops, int ith) {
    return ops->scratch + ops->scratch_bytes * (size_t)ith;
}

/* The next item of a counter, or n when there is none or the run was cancelled. */
static uint32_t take(const struct ft_ops *ops, atomic_uint *next, uint32_t n) {
    if (ops->shape.is_cancelled &&
        atomic_load_explicit(ops->shape.is_cancelled, memory_order_relaxed)) {
        return n;
    }
    return atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
}

static struct ggml_tensor *custom(const struct ft_attn_in *in, int64_t ne0, int64_t ne1,
                                  struct ggml_tensor *a, struct ggml_tensor *b,
                                  ggml_custom_op_t run, struct slot *slot) {
    struct ggml_tensor *args[2] = { a, b };
    return ggml_custom_4d(in->ctx, GGML_TYPE_F32, ne0, ne1, 1, 1, args, b ? 2 : 1, run,
                          GGML_N_TASKS_MAX, slot);
}

/* ---- rotation ---- */

static void run_rotate(struct ggml_tensor *dst, int ith, int nth, void *data) {
    const struct slot *slot = data;
    const struct ggml_tensor *src = dst->src[0];
    uint32_t d = slot->ops->shape.d;
    size_t n = (size_t)ggml_nelements(src) / d;
    size_t first = n * (size_t)ith / (size_t)nth, last = n * ((size_t)ith + 1) / (size_t)nth;
    ft_rotate((const float *)src->data + first * d, (float *)dst->data + first * d, last - first,
              d);
}

struct ggml_tensor *ft_op_rotate(struct ft_ops *ops, const struct ft_attn_in *in,
                                 struct ggml_tensor *x) {
    return ggml_custom_4d(in->ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2], 1, &x, 1, run_rotate,
                          GGML_N_TASKS_MAX, &ops->slot[in->slot]);
}

/* ---- append ---- */

static void run_append(struct ggml_tensor *dst, int ith, int nth, void *data) {
    const struct slot *slot = data;
    const struct append *a = &slot->append;
    const struct ggml_tensor *k = dst->src[0], *v = dst->src[1]; /* v NULL: keys only */
    uint32_t n = (uint32_t)k->ne[2], d = (uint32_t)k->ne[0], n_head_kv = (uint32_t)k->ne[1];
    uint32_t first = n * (uint32_t)ith / (uint32_t)nth,
             last = n * ((uint32_t)ith + 1) / (uint32_t)nth;
    for (uint32_t i = first; i < last; i++) {
        for (uint32_t h = 0; h < n_head_kv; h++) {
            size_t at = ((size_t)i * n_head_kv + h) * d;
            ft_kv_write(a->kv, a->kv_layer, h, a->first[h] + i, (const float *)k->data + at,
                        v ? (const float *)v->data + at : NULL);
        }
    }
}

struct ggml_tensor *ft_op_append(struct ft_ops *ops, const struct ft_attn_in *in,
                                 const uint32_t *n_row) {
    struct slot *slot = &ops->slot[in->slot];
    slot->append.kv = in->kv;
    slot->append.kv_layer = in->kv_layer;
    for (uint32_t h = 0; h < ops->shape.n_head_kv; h++) {
        slot->append.first[h] = n_row[h] - in->n_token;
    }
    struct ggml_tensor *done = custom(in, 1, 1, in->k, in->v, run_append, slot);
    ggml_build_forward_expand(in->graph, done);
    return done;
}

/* ---- attention ---- */

static void run_attend(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    struct slot *slot = data;
    struct ft_attn_job job = slot->job;
    job.q = dst->src[0]->data;
    job.out = dst->data;
    uint32_t n = ft_attn_item_count(&job), item;
    while ((item = take(slot->ops, &slot->next[0], n)) < n) {
        if (slot->is_slash) {
            ft_attn_vslash(slot->ops->kern, &job, item, scratch_of(slot->ops, ith));
        } else {
            ft_attn_dense(slot->ops->kern, &job, item, scratch_of(slot->ops, ith));
        }
    }
}

static void run_split(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    struct slot *slot = data;
    struct ft_attn_job job = slot->job;
    job.q = dst->src[0]->data;
    uint32_t n = ft_attn_split_count(&job), item;
    while ((item = take(slot->ops, &slot->next[0], n)) < n) {
        ft_attn_split(slot->ops->kern, &job, item, dst->data, scratch_of(slot->ops, ith));
    }
}

static void run_join(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)ith;
    (void)nth;
    struct slot *slot = data;
    struct ft_attn_job job = slot->job;
    job.out = dst->data;
    uint32_t n = job.n_head_kv, h;
    while ((h = take(slot->ops, &slot->next[1], n)) < n) {
        ft_attn_join(&job, h, dst->src[0]->data);
    }
}

static void fill_spans(const struct ft_attn_in *in, uint32_t n_head_kv, const uint32_t *n_row,
                       struct ft_span *span) {
    for (uint32_t h = 0; h < n_head_kv; h++) {
        span[h] =
            (struct ft_span){ .k = ft_kv_k(in->kv, in->kv_layer, h),
                              .v = ft_kv_v(in->kv, in->kv_layer, h),
                              .n_row = n_row ? n_row[h] : ft_kv_rows(in->kv, in->kv_layer, h),
                              .k_block = ft_kv_k_blocks(in->kv, in->kv_layer, h),
                              .v_block = ft_kv_v_blocks(in->kv, in->kv_layer, h),
                              .n_block = ft_kv_blocks(in->kv, in->kv_layer, h),
                              .k_mean = ft_kv_k_means(in->kv, in->kv_layer),
                              .v_mean = ft_kv_v_means(in->kv, in->kv_layer) };
    }
}

struct ggml_tensor *ft_op_attend(struct ft_ops *ops, const struct ft_attn_in *in,
                                 const uint32_t *n_row, const struct ft_slash *slash,
                                 struct ggml_tensor *dep) {
    const struct ft_ops_shape *shape = &ops->shape;
    const struct ft_kv_shape *rows = ft_kv_shape_of(in->kv);
    struct slot *slot = &ops->slot[in->slot];
    uint32_t n_query = (uint32_t)in->q->ne[2]; /* the last ones of the pass, all as a rule */
    fill_spans(in, shape->n_head_kv, n_row, slot->span);
    slot->job = (struct ft_attn_job){
        .head = slot->span,
        .n_query = n_query,
        .n_head = shape->n_head,
        .n_head_kv = shape->n_head_kv,
        .d = shape->d,
        .k_fmt = rows->k_fmt,
        .v_fmt = rows->v_fmt,
        .k_pack = ft_kv_packing(in->kv, in->kv_layer)->k,
        .v_pack = ft_kv_packing(in->kv, in->kv_layer)->v,
        .scale = 1.0f / sqrtf((float)shape->d),
    };
    slot->is_slash = slash != NULL;
    if (slash) {
        slot->job.first_row = slot->span[0].n_row - n_query;
        slot->job.window = slash->window;
        slot->job.vertical = slash->vertical;
        slot->job.n_vertical = slash->n_vertical;
    }
    atomic_store(&slot->next[0], 0);
    atomic_store(&slot->next[1], 0);
    int64_t width = (int64_t)shape->n_head * shape->d;
    if (n_query > 1 || slash) {
        return custom(in, width, n_query, in->q, dep, run_attend, slot);
    }
    int64_t item_floats = (int64_t)ft_attn_split_floats(shape->n_head / shape->n_head_kv, shape->d);
    struct ggml_tensor *state =
        custom(in, item_floats, ft_attn_split_count(&slot->job), in->q, dep, run_split, slot);
    return custom(in, width, 1, state, NULL, run_join, slot);
}

/* ---- evidence ---- */

static void run_lse(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    struct slot *slot = data;
    struct ft_evidence_job job = slot->evidence;
    job.q = dst->src[0]->data;
    uint32_t n = ft_evidence_lse_items(&job), item;
    while ((item = take(slot->ops, &slot->next[2], n)) < n) {
        ft_evidence_lse(slot->ops->kern, &job, item, scratch_of(slot->ops, ith));
    }
}

static void run_mass(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    struct slot *slot = data;
    struct ft_evidence_job job = slot->evidence;
    job.q = dst->src[0]->data;
    uint32_t n = ft_evidence_mass_items(&job), item;
    while ((item = take(slot->ops, &slot->next[3], n)) < n) {
        ft_evidence_mass(slot->ops->kern, &job, item, scratch_of(slot->ops, ith));
    }
}

/* Items are KV heads: what is told about a head depends on what was told before. */
static void run_observe(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    struct slot *slot = data;
    const struct ft_ops *ops = slot->ops;
    struct ft_evidence_job job = slot->evidence;
    job.q = dst->src[0]->data;
    uint32_t n = ops->shape.n_head_kv, group = ops->shape.n_head / n, h;
    size_t list = (size_t)group * job.n_col; /* of one voter */
    while ((h = take(ops, &slot->next[3], n)) < n) {
        float *own = job.mass + h * FT_LIST_VOTER * list;
        for (uint32_t i = 0; i < job.n_voter; i++) {
            uint32_t at = i % FT_LIST_VOTER;
            if (at == 0) {
                uint32_t n_now = FT_MIN(job.n_voter - i, (uint32_t)FT_LIST_VOTER);
                ft_evidence_lists(ops->kern, &job, h, i, n_now, own, scratch_of(ops, ith));
            }
            slot->observe(slot->observer, h, i, own + at * list);
        }
    }
}

void ft_op_evidence(struct ft_ops *ops, const struct ft_attn_in *in, const struct ft_watch *watch,
                    struct ggml_tensor *dep) {
    const struct ft_ops_shape *shape = &ops->shape;
    struct slot *slot = &ops->slot[in->slot];
    uint32_t group = shape->n_head / shape->n_head_kv;
    fill_spans(in, shape->n_head_kv, NULL, slot->seen);
    for (uint32_t g = shape->n_head; watch->is_per_head && g-- > 0;) { /* from behind: in place */
        slot->seen[g] = slot->seen[g / group];
    }
    slot->evidence = (struct ft_evidence_job){
        .vis = watch->vis,
        .weight = watch->weight,
        .head = slot->seen,
        .lse = watch->lse,
        .mass = watch->mass,
        .n_voter = in->n_token,
        .n_head = shape->n_head,
        .n_head_kv = watch->is_per_head ? shape->n_head : shape->n_head_kv,
        .d = shape->d,
        .n_col = watch->n_col,
        .k_fmt = ft_kv_shape_of(in->kv)->k_fmt,
        .red = watch->red,
        .is_more = watch->is_more,
        .scale = 1.0f / sqrtf((float)shape->d),
    };
    slot->observe = watch->observe;
    slot->observer = watch->user;
    ft_assert(!watch->observe || !watch->is_per_head);
    atomic_store(&slot->next[2], 0);
    atomic_store(&slot->next[3], 0);
    struct ggml_tensor *lse = custom(in, 1, 1, in->q, dep, run_lse, slot);
    ggml_custom_op_t second = watch->observe ? run_observe : run_mass;
    ggml_build_forward_expand(in->graph, custom(in, 1, 1, in->q, lse, second, slot));
}

/* ---- queries kept for later ---- */

static void run_save(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)nth;
    const struct slot *slot = data;
    const struct ggml_tensor *q = dst->src[0];
    size_t token = (size_t)(q->ne[0] * q->ne[1]);
    if (ith == 0) {
        memcpy(slot->saved, (const float *)q->data + slot->skip * token,
               ((size_t)q->ne[2] - slot->skip) * token * sizeof(float));
    }
}

void ft_op_save(struct ft_ops *ops, const struct ft_attn_in *in, uint32_t skip, float *out) {
    struct slot *slot = &ops->slot[in->slot];
    ft_assert((uint32_t)in->q->ne[2] == in->n_token && skip <= in->n_token);
    slot->saved = out;
    slot->skip = skip;
    ggml_build_forward_expand(in->graph, custom(in, 1, 1, in->q, NULL, run_save, slot));
}
