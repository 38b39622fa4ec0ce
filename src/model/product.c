/* SPDX-License-Identifier: Apache-2.0 */
/* product.c - products of weights and activations on our own kernels, as ggml custom ops.
 *
 * A product is two nodes: one packs the activations of all tokens (threads share the tokens), one
 * multiplies them with blocks of weight rows (threads take blocks from a counter).  Weights are read
 * from the mapped file, a block at a time; nothing of them is kept.  What no way of kern/matmul.h
 * takes is left to ggml.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "ggml.h"

#include "kern/matmul.h"
#include "model/load.h"
#include "model/product.h"

enum {
    ALIGN = 64,
    PACK_TOKENS = 16,    /* tokens of one item of packing */
    NODE_PER_LAYER = 14, /* seven matrices, each with a pack of its own where ways alternate */
    NODE_BASE = 4,
    PROMPT = 512, /* tokens that stand for a prompt when a way is asked for */
};

struct node { /* must outlive its graph */
    struct ft_products *owner;
    const struct ft_matmul *way;
    const struct ggml_tensor *w; /* NULL: packing */
    atomic_uint next;
};

struct ft_products {
    struct ft_products_params params;
    uint8_t *scratch; /* [n_thread][scratch_bytes] */
    size_t scratch_bytes, scratch_total;
    struct node *node; /* [n_node] */
    uint32_t n_node, n_used;
    /* what was packed last */
    struct ggml_tensor *x, *packed;
    const struct ft_matmul *way;
};

static bool has_decode(const struct ggml_tensor *w) {
    return ggml_get_type_traits(w->type)->to_float != NULL;
}

static const struct ft_matmul *way_of(const struct ggml_tensor *w, uint32_t m) {
    return ft_matmul_way((uint32_t)w->type, (uint32_t)w->ne[0], m, has_decode(w));
}

bool ft_product_takes(const struct ggml_tensor *w) {
    return way_of(w, PROMPT) != NULL;
}

static bool is_mapped(const ft_model *m, const struct ggml_tensor *w) {
    for (uint32_t i = 0; i < m->n_shard; i++) {
        if (w->buffer == m->shard[i].buffer) {
            return true;
        }
    }
    return false;
}

/* ---- what the model's matrices go through ---- */

enum { MATRIX_PER_LAYER = 7 };

/* Matrix i of a model; the last one is the output. */
static const struct ggml_tensor *matrix(const ft_model *model, uint32_t i) {
    if (i == MATRIX_PER_LAYER * model->hp.n_layer) {
        return model->output;
    }
    const struct ft_layer *w = &model->layer[i / MATRIX_PER_LAYER];
    const struct ggml_tensor *all[MATRIX_PER_LAYER] = { w->wq,   w->wk, w->wv,  w->wo,
                                                        w->gate, w->up, w->down };
    return all[i % MATRIX_PER_LAYER];
}

static const char *way_name(const ft_model *model, const struct ggml_tensor *w, uint32_t m) {
    const struct ft_matmul *way = is_mapped(model, w) ? way_of(w, m) : NULL;
    return way ? way->name : "ggml";
}

/* Append text if there is room; a list that is cut ends in the middle of a word otherwise. */
static void append(char *out, size_t cap, const char *separator, const char *text) {
    size_t used = strlen(out);
    if (used + strlen(separator) + strlen(text) < cap) {
        snprintf(out + used, cap - used, "%s%s", separator, text);
    }
}

void ft_model_ways(const ft_model *model, uint32_t m, char *out, size_t cap) {
    static const char *const name[] = { "int8", "int16", "bf16", "rows", "ggml" };
    uint32_t n = MATRIX_PER_LAYER * model->hp.n_layer + 1;
    out[0] = '\0';
    for (size_t v = 0; v < FT_COUNT(name); v++) {
        bool seen[GGML_TYPE_COUNT] = { false }, is_first = true;
        for (uint32_t i = 0; i < n; i++) {
            const struct ggml_tensor *w = matrix(model, i);
            if (seen[w->type] || strcmp(way_name(model, w, m), name[v]) != 0) {
                continue;
            }
            seen[w->type] = true;
            if (is_first) {
                append(out, cap, out[0] ? "," : "", name[v]);
            }
            append(out, cap, is_first ? ":" : "+", ggml_type_name(w->type));
            is_first = false;
        }
    }
}

/* ---- opening ---- */

static size_t scratch_need(const struct ggml_tensor *w) {
    size_t most = 0;
    for (uint32_t m = 1; m <= PROMPT; m += PROMPT - 1) {
        const struct ft_matmul *way = way_of(w, m);
        most = FT_MAX(most, way ? way->scratch_bytes((uint32_t)w->ne[0]) : 0);
    }
    return most;
}

static size_t scratch_most(const ft_model *model) {
    size_t most = 0;
    for (uint32_t i = 0; i <= MATRIX_PER_LAYER * model->hp.n_layer; i++) {
        most = FT_MAX(most, scratch_need(matrix(model, i)));
    }
    return most;
}

ft_status ft_products_new(const struct ft_products_params *params, struct ft_products **out,
                          struct ft_error *err) {
    struct ft_products *p = ft_alloc(1, sizeof *p);
    if (!p) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for products");
    }
    p->params = *params;
    p->n_node = NODE_BASE + NODE_PER_LAYER * params->model->hp.n_layer;
    p->node = ft_alloc(p->n_node, sizeof *p->node);
    p->scratch_bytes = (scratch_most(params->model) + ALIGN - 1) / ALIGN * ALIGN;
    p->scratch_total = FT_MAX(p->scratch_bytes * params->n_thread, (size_t)ALIGN);
    p->scratch = ft_pages_map(p->scratch_total);
    if (!p->node || !p->scratch) {
        size_t need = p->scratch_total;
        ft_products_free(p);
        return ft_fail_memory(err, need, "weight blocks of %u threads", params->n_thread);
    }
    *out = p;
    return FT_OK;
}

void ft_products_free(struct ft_products *p) {
    if (!p) {
        return;
    }
    ft_pages_unmap(p->scratch, p->scratch_total);
    ft_free(p->node);
    ft_free(p);
}

void ft_products_begin(struct ft_products *p) {
    if (p) {
        p->n_used = 0;
        p->x = p->packed = NULL;
        p->way = NULL;
    }
}

/* ---- running ---- */

static uint32_t take(struct node *node, uint32_t n) {
    const struct ft_products_params *params = &node->owner->params;
    if (params->is_cancelled && params->is_cancelled(params->user)) {
        return n;
    }
    return atomic_fetch_add_explicit(&node->next, 1, memory_order_relaxed);
}

/* ggml aligns tensors to 32 bytes; packs have room for more. */
static void *aligned(const struct ggml_tensor *packed) {
    uintptr_t at = (uintptr_t)packed->data;
    return (uint8_t *)packed->data + ((ALIGN - at % ALIGN) % ALIGN);
}

static void run_pack(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)ith;
    (void)nth;
    struct node *node = data;
    const struct ggml_tensor *x = dst->src[0];
    uint32_t k = (uint32_t)x->ne[0], m = (uint32_t)ggml_nrows(x);
    uint32_t n_item = (m + PACK_TOKENS - 1) / PACK_TOKENS, item;
    while ((item = take(node, n_item)) < n_item) {
        uint32_t first = item * PACK_TOKENS;
        node->way->pack(x->data, k, m, k, first, FT_MIN(m - first, (uint32_t)PACK_TOKENS),
                        aligned(dst));
    }
}

/* A few tokens: rows stream from memory and are fetched ahead, so a thread takes long stretches of
 * them, four in all.  A prompt: single items. */
static uint32_t lot_items(uint32_t m, uint32_t n_item, uint32_t nth) {
    return m <= FT_MATMUL_FEW ? FT_MAX(n_item / (4 * nth), (uint32_t)1) : 1;
}

static void run_multiply(struct ggml_tensor *dst, int ith, int nth, void *data) {
    struct node *node = data;
    const struct ft_products *owner = node->owner;
    const struct ggml_tensor *w = node->w;
    uint32_t n = (uint32_t)w->ne[1], m = (uint32_t)ggml_nrows(dst), step = node->way->item_col;
    uint32_t n_item = (n + step - 1) / step, n_lot, lot = lot_items(m, n_item, (uint32_t)nth), at;
    struct ft_matmul_item it = { .type = (uint32_t)w->type,
                                 .w_stride = w->nb[1],
                                 .m = m,
                                 .k = (uint32_t)w->ne[0],
                                 .packed = aligned(dst->src[0]),
                                 .y_stride = n,
                                 .scratch = owner->scratch + owner->scratch_bytes * (size_t)ith,
                                 .decode = ggml_get_type_traits(w->type)->to_float };
    n_lot = (n_item + lot - 1) / lot;
    while ((at = take(node, n_lot)) < n_lot) {
        for (uint32_t i = at * lot; i < FT_MIN((at + 1) * lot, n_item); i++) {
            uint64_t next = (uint64_t)(i + (lot > 1 ? 1 : (uint32_t)nth)) * step; /* mostly so */
            uint32_t first = i * step;
            it.w = (const uint8_t *)w->data + first * w->nb[1];
            it.next = next < n ? (const uint8_t *)w->data + next * w->nb[1] : NULL;
            it.n_col = FT_MIN(n - first, step);
            it.y = (float *)dst->data + first;
            node->way->multiply(&it);
        }
    }
}

/* ---- building ---- */

static struct node *new_node(struct ft_products *p, const struct ft_matmul *way,
                             const struct ggml_tensor *w) {
    ft_assert(p->n_used < p->n_node);
    struct node *node = &p->node[p->n_used++];
    node->owner = p;
    node->way = way;
    node->w = w;
    atomic_store_explicit(&node->next, 0, memory_order_relaxed);
    return node;
}

static struct ggml_tensor *packed_of(struct ft_products *p, struct ggml_context *ctx,
                                     const struct ft_matmul *way, struct ggml_tensor *x) {
    if (p->x != x || p->way != way) {
        size_t bytes = way->packed_bytes((uint32_t)ggml_nrows(x), (uint32_t)x->ne[0]) + ALIGN;
        struct ggml_tensor *args[1] = { x };
        p->packed = ggml_custom_4d(ctx, GGML_TYPE_I8, (int64_t)bytes, 1, 1, 1, args, 1, run_pack,
                                   GGML_N_TASKS_MAX, new_node(p, way, NULL));
        p->x = x;
        p->way = way;
    }
    return p->packed;
}

struct ggml_tensor *ft_product(struct ft_products *p, struct ggml_context *ctx,
                               struct ggml_tensor *w, struct ggml_tensor *x) {
    uint32_t m = (uint32_t)ggml_nrows(x);
    const struct ft_matmul *way = p && is_mapped(p->params.model, w) ? way_of(w, m) : NULL;
    if (!way || !ggml_is_contiguous(x)) {
        return ggml_mul_mat(ctx, w, x);
    }
    struct ggml_tensor *args[1] = { packed_of(p, ctx, way, x) };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[1], m, 1, 1, args, 1, run_multiply,
                          GGML_N_TASKS_MAX, new_node(p, way, w));
}
