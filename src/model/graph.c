/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - decoder layers as ggml graphs; attention is a callback.
 *
 * One graph is one pass: layers [first, end) over n_token tokens.  A pass may stop early (keys and
 * values only, queries only), which is what layer-major prefill and evidence collection are made
 * of.  The order of operations is libllama's, so that with stock attention and plain weights the
 * logits are libllama's, bit for bit:
 *
 *     norm -> q, k, v (+ bias) -> [norm of q and k heads] -> rope | attention | -> output
 *     projection -> + residual -> norm -> swiglu(gate, up) -> down -> + residual
 *
 * The three families differ by a row of traits (ft_hparams.trait), not by code.
 */
#include <math.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include "model/load.h"
#include "model/product.h"

enum {
    /* a dense layer is about 30 nodes, and 5 packs; stock attention and evidence add fewer than 20 */
    NODE_PER_LAYER = 64,
    NODE_BASE = 64,
};

struct ft_eval {
    const ft_model *model;
    ggml_backend_t backend;
    struct ggml_threadpool *pool;
    ggml_gallocr_t galloc;
    struct ft_products *products; /* NULL: ggml's own, for exact runs */
    void *meta; /* memory of the graph's tensors and nodes, reused by every pass */
    size_t meta_bytes;
    size_t compute_bytes;
    float rope_scale;
    bool (*is_cancelled)(void *user);
    void *user;
    void (*pool_free)(struct ggml_threadpool *pool);
};

/* ---- backend set-up: through the registry, so that a ggml with loadable CPU modules works too
 * ---- */

static bool abort_requested(void *data) {
    const struct ft_eval *eval = data;
    return eval->is_cancelled && eval->is_cancelled(eval->user);
}

static void *cpu_proc(ggml_backend_t backend, const char *name) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    return ggml_backend_reg_get_proc_address(reg, name);
}

/* Object and function pointers differ in ISO C; POSIX makes them the same size. */
#define CPU_PROC(target, backend, name)                                                            \
    do {                                                                                           \
        void *found_ = cpu_proc(backend, name);                                                    \
        memcpy(&(target), &found_, sizeof(target));                                                \
    } while (0)

static void configure_threads(struct ft_eval *eval, uint32_t n_thread) {
    ggml_backend_set_n_threads_t set_threads = NULL;
    ggml_backend_set_abort_callback_t set_abort = NULL;
    struct ggml_threadpool *(*pool_new)(struct ggml_threadpool_params * params) = NULL;
    void (*set_pool)(ggml_backend_t backend, struct ggml_threadpool * pool) = NULL;
    CPU_PROC(set_threads, eval->backend, "ggml_backend_set_n_threads");
    CPU_PROC(set_abort, eval->backend, "ggml_backend_set_abort_callback");
    CPU_PROC(pool_new, eval->backend, "ggml_threadpool_new");
    CPU_PROC(set_pool, eval->backend, "ggml_backend_cpu_set_threadpool");
    CPU_PROC(eval->pool_free, eval->backend, "ggml_threadpool_free");
    if (set_threads) {
        set_threads(eval->backend, (int)n_thread);
    }
    if (set_abort) {
        set_abort(eval->backend, abort_requested, eval);
    }
    if (pool_new && set_pool && eval->pool_free) {
        struct ggml_threadpool_params params = ggml_threadpool_params_default((int)n_thread);
        eval->pool = pool_new(&params);
        if (eval->pool) {
            set_pool(eval->backend, eval->pool);
        }
    }
}

ft_status ft_eval_new(const struct ft_eval_params *params, struct ft_eval **out,
                      struct ft_error *err) {
    const ft_model *model = params->model;
    if (model->load == FT_LOAD_VOCAB) {
        return ft_fail(err, FT_ARG, 0, "%s: opened without weights, expected a full load",
                       model->path);
    }
    struct ft_eval *eval = ft_alloc(1, sizeof *eval);
    if (!eval) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for an evaluation context");
    }
    eval->model = model;
    eval->rope_scale = params->rope_scale;
    eval->is_cancelled = params->is_cancelled;
    eval->user = params->user;
    size_t n_node = NODE_BASE + (size_t)NODE_PER_LAYER * model->hp.n_layer;
    eval->meta_bytes =
        ggml_tensor_overhead() * n_node + ggml_graph_overhead_custom(n_node, false) + 4096;
    eval->meta = ft_pages_map(eval->meta_bytes);
    eval->backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    if (eval->backend) {
        configure_threads(eval, params->n_thread);
        eval->galloc = ggml_gallocr_new(ggml_backend_get_default_buffer_type(eval->backend));
    }
    if (!eval->meta || !eval->backend || !eval->galloc) {
        size_t need = eval->meta_bytes;
        ft_eval_free(eval);
        return ft_fail_memory(err, need, "graphs and CPU backend of %.100s", model->path);
    }
    struct ft_products_params products = { .model = model,
                                           .n_thread = params->n_thread,
                                           .is_cancelled = params->is_cancelled,
                                           .user = params->user };
    ft_status status = params->is_exact ? FT_OK : ft_products_new(&products, &eval->products, err);
    if (status != FT_OK) {
        ft_eval_free(eval);
        return status;
    }
    *out = eval;
    return FT_OK;
}

void ft_eval_free(struct ft_eval *eval) {
    if (!eval) {
        return;
    }
    ft_products_free(eval->products);
    ggml_gallocr_free(eval->galloc);
    if (eval->backend) {
        ggml_backend_free(eval->backend);
    }
    if (eval->pool) {
        eval->pool_free(eval->pool);
    }
    ft_pages_unmap(eval->meta, eval->meta_bytes);
    ft_free(eval);
}

uint64_t ft_eval_compute_bytes(const struct ft_eval *eval) {
    return eval->compute_bytes;
}

/* ---- building ---- */

struct build { /* one pass under construction */
    struct ggml_context *ctx;
    struct ggml_cgraph *graph;
    const struct ft_pass *pass;
    const ft_model *model;
    struct ft_products *products;
    float rope_scale;
    struct ggml_tensor *x;    /* {n_embd, n_token} residual stream */
    struct ggml_tensor *pos;  /* {n_token} i32 */
    struct ggml_tensor *rows; /* {n_logit} i32, rows wanted */
    struct ggml_tensor *in;   /* ids, hidden states or queries */
    struct ggml_tensor *out;  /* hidden states or logits; NULL when the pass stops early */
};

static struct ggml_tensor *project(const struct build *b, struct ggml_tensor *w,
                                   struct ggml_tensor *bias, struct ggml_tensor *x) {
    struct ggml_tensor *y = ft_product(b->products, b->ctx, w, x);
    return bias ? ggml_add(b->ctx, y, bias) : y;
}

static struct ggml_tensor *norm(const struct build *b, struct ggml_tensor *x,
                                struct ggml_tensor *w) {
    return ggml_mul(b->ctx, ggml_rms_norm(b->ctx, x, b->model->hp.rms_eps), w);
}

/* The last n tokens of x. */
static struct ggml_tensor *tail(const struct build *b, struct ggml_tensor *x, int64_t n) {
    return ggml_view_2d(b->ctx, x, x->ne[0], n, x->nb[1], (size_t)(x->ne[1] - n) * x->nb[1]);
}

/* {head_dim, n_head, n} with RoPE; y is of the last n tokens; weight is the per-head norm of qwen3
 * or NULL */
static struct ggml_tensor *rotate(const struct build *b, struct ggml_tensor *y, uint32_t n_head,
                                  struct ggml_tensor *weight) {
    const struct ft_hparams *hp = &b->model->hp;
    int64_t n = y->ne[1];
    struct ggml_tensor *pos = b->pos;
    if (n < pos->ne[0]) {
        pos = ggml_view_1d(b->ctx, pos, n, (size_t)(pos->ne[0] - n) * pos->nb[0]);
    }
    y = ggml_reshape_3d(b->ctx, y, hp->head_dim, n_head, n);
    if (weight) {
        y = norm(b, y, weight);
    }
    int mode = hp->trait & FT_ROPE_NEOX ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
    float freq_scale = hp->rope_freq_scale / (b->rope_scale > 1.0f ? b->rope_scale : 1.0f);
    return ggml_rope_ext(b->ctx, y, pos, b->model->rope_freqs, (int)hp->head_dim, mode,
                         (int)hp->rope_n_ctx_orig, hp->rope_base, freq_scale, hp->rope_ext_factor,
                         hp->rope_attn_factor, 32.0f, 1.0f);
}

/* Does this layer compute only the tokens whose logits are wanted? */
static bool trims(const struct build *b, uint32_t l) {
    const struct ft_pass *pass = b->pass;
    return pass->is_trimmed && pass->n_logit > 0 && pass->n_logit < pass->n_token &&
           l + 1 == b->model->hp.n_layer;
}

static struct ft_qkv make_qkv(const struct build *b, uint32_t l, struct ggml_tensor *x) {
    const struct ft_hparams *hp = &b->model->hp;
    const struct ft_layer *w = &b->model->layer[l];
    struct ft_qkv qkv = {
        .ctx = b->ctx, .graph = b->graph, .layer = l, .n_token = b->pass->n_token
    };
    if (b->pass->has_q) {
        struct ggml_tensor *from = trims(b, l) ? tail(b, x, b->pass->n_logit) : x;
        qkv.q = rotate(b, project(b, w->wq, w->bq, from), hp->n_head, w->q_norm);
    }
    if (b->pass->has_kv) {
        qkv.k = rotate(b, project(b, w->wk, w->bk, x), hp->n_head_kv, w->k_norm);
    }
    if (b->pass->has_kv && !b->pass->is_k_only) {
        struct ggml_tensor *v = project(b, w->wv, w->bv, x);
        qkv.v = ggml_reshape_3d(b->ctx, v, hp->head_dim, hp->n_head_kv, b->pass->n_token);
    }
    return qkv;
}

static struct ggml_tensor *feed_forward(const struct build *b, const struct ft_layer *w,
                                        struct ggml_tensor *x) {
    struct ggml_tensor *y = norm(b, x, w->ffn_norm);
    struct ggml_tensor *up = project(b, w->up, w->up_b, y);
    struct ggml_tensor *gate = project(b, w->gate, w->gate_b, y);
    y = project(b, w->down, w->down_b, ggml_swiglu_split(b->ctx, gate, up));
    return ggml_add(b->ctx, y, x);
}

static void add_layer(struct build *b, uint32_t l) {
    const struct ft_layer *w = &b->model->layer[l];
    struct ft_qkv qkv = {
        .ctx = b->ctx, .graph = b->graph, .layer = l, .n_token = b->pass->n_token, .q = b->in
    };
    if (!b->pass->q_in) {
        qkv = make_qkv(b, l, norm(b, b->x, w->attn_norm));
    }
    struct ggml_tensor *y = b->pass->attend(b->pass->user, &qkv);
    if (!y || !b->pass->has_rest) {
        b->x = NULL;
        return;
    }
    y = project(b, w->wo, w->bo, y);
    if (trims(b, l)) {
        b->x = tail(b, b->x, b->pass->n_logit);
    } else if (b->rows && l + 1 == b->model->hp.n_layer) { /* where libllama selects them too */
        y = ggml_get_rows(b->ctx, y, b->rows);
        b->x = ggml_get_rows(b->ctx, b->x, b->rows);
    }
    b->x = feed_forward(b, w, ggml_add(b->ctx, y, b->x));
}

static struct ggml_tensor *input_i32(struct ggml_context *ctx, uint32_t n) {
    struct ggml_tensor *t = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_set_input(t);
    return t;
}

static void add_inputs(struct build *b) {
    const struct ft_pass *pass = b->pass;
    b->pos = input_i32(b->ctx, pass->n_token);
    if (pass->n_logit) {
        b->rows = input_i32(b->ctx, pass->n_logit);
    }
    if (pass->q_in) {
        b->in = ggml_new_tensor_3d(b->ctx, GGML_TYPE_F32, b->model->hp.head_dim,
                                   b->model->hp.n_head, pass->n_token);
        ggml_set_input(b->in);
        b->x = b->in;
    } else if (pass->hidden_in) {
        b->in = ggml_new_tensor_2d(b->ctx, GGML_TYPE_F32, b->model->hp.n_embd, pass->n_token);
        ggml_set_input(b->in);
        b->x = b->in;
    } else {
        b->in = input_i32(b->ctx, pass->n_token);
        b->x = ggml_get_rows(b->ctx, b->model->tok_embd, b->in);
    }
}

static void add_output(struct build *b) {
    if (!b->x) {
        return;
    }
    b->out = b->x;
    if (b->pass->n_logit) {
        b->out =
            project(b, b->model->output, b->model->output_b, norm(b, b->x, b->model->output_norm));
    }
    ggml_set_output(b->out);
    ggml_build_forward_expand(b->graph, b->out);
}

/* ---- running ---- */

/* An input that no node reads (rows of a pass that stops early) gets no memory and needs none. */
static void set_input(struct ggml_tensor *t, const void *data) {
    if (t && t->buffer) {
        ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
    }
}

/* What a graph is about, for errors: tokens in layers [first, end). */
struct about {
    uint32_t n_token, layer_first, layer_end;
};

/* more: bytes that this graph uses beside its buffer. */
static ft_status reserve(struct ft_eval *eval, struct ggml_cgraph *graph, size_t more,
                         struct about about, struct ft_error *err) {
    if (!ggml_gallocr_alloc_graph(eval->galloc, graph)) {
        size_t need = 0; /* the same plan again, which takes no further memory */
        ggml_gallocr_reserve_n_size(eval->galloc, graph, NULL, NULL, &need);
        /* ggml remembers the plan of a buffer that it did not get, and would use it for the next
         * graph of that shape */
        ggml_gallocr_free(eval->galloc);
        eval->galloc = ggml_gallocr_new(ggml_backend_get_default_buffer_type(eval->backend));
        return ft_fail_memory(err, need, "the compute buffer of %u tokens in layers %u..%u",
                              about.n_token, about.layer_first, about.layer_end);
    }
    size_t bytes = ggml_gallocr_get_buffer_size(eval->galloc, 0) + more;
    eval->compute_bytes = FT_MAX(bytes, eval->compute_bytes);
    return FT_OK;
}

static ft_status run(struct ft_eval *eval, struct ggml_cgraph *graph, struct about about,
                     struct ft_error *err) {
    enum ggml_status status = ggml_backend_graph_compute(eval->backend, graph);
    if (status == GGML_STATUS_ABORTED) {
        return ft_fail(err, FT_CANCELLED, 0, "cancelled");
    }
    if (status != GGML_STATUS_SUCCESS) {
        return ft_fail(err, status == GGML_STATUS_ALLOC_FAILED ? FT_NOMEM : FT_INTERNAL, 0,
                       "graph of layers %u..%u: %s", about.layer_first, about.layer_end,
                       ggml_status_to_string(status));
    }
    return FT_OK;
}

static ft_status compute(struct ft_eval *eval, const struct build *b, struct ft_error *err) {
    const struct ft_pass *pass = b->pass;
    struct about about = { pass->n_token, pass->layer_first, pass->layer_end };
    FT_TRY(reserve(eval, b->graph, 0, about, err));
    set_input(b->pos, pass->pos);
    set_input(b->rows, pass->logit_row);
    set_input(b->in, pass->q_in        ? (const void *)pass->q_in
                     : pass->hidden_in ? (const void *)pass->hidden_in
                                       : (const void *)pass->id);
    FT_TRY(run(eval, b->graph, about, err));
    float *target = pass->n_logit ? pass->logits : pass->hidden_out;
    if (b->out && target) {
        ggml_backend_tensor_get(b->out, target, 0, ggml_nbytes(b->out));
    }
    return FT_OK;
}

static ft_status open_context(struct ft_eval *eval, struct ggml_context **out,
                              struct ft_error *err) {
    struct ggml_init_params params = { .mem_size = eval->meta_bytes,
                                       .mem_buffer = eval->meta,
                                       .no_alloc = true };
    *out = ggml_init(params);
    return *out ? FT_OK : ft_fail(err, FT_NOMEM, 0, "no memory for a graph context");
}

ft_status ft_eval_run(struct ft_eval *eval, const struct ft_pass *pass, struct ft_error *err) {
    if (abort_requested(eval)) {
        return ft_fail(err, FT_CANCELLED, 0, "cancelled");
    }
    size_t n_node = NODE_BASE + (size_t)NODE_PER_LAYER * (pass->layer_end - pass->layer_first);
    struct ggml_context *ctx = NULL;
    FT_TRY(open_context(eval, &ctx, err));
    struct build b = { .ctx = ctx,
                       .graph = ggml_new_graph_custom(ctx, n_node, false),
                       .pass = pass,
                       .model = eval->model,
                       .products = eval->products,
                       .rope_scale = eval->rope_scale };
    ft_products_begin(eval->products);
    add_inputs(&b);
    for (uint32_t l = pass->layer_first; l < pass->layer_end && b.x; l++) {
        add_layer(&b, l);
    }
    add_output(&b);
    ft_status status = compute(eval, &b, err);
    ggml_free(ctx);
    return status;
}

/* ---- the size of what values would add ---- */

enum {
    NORM_ROWS = 1024, /* rows of one graph: their products with W_o are all in memory */
    NORM_LANES = 16,  /* sums of one row, so that they need not wait for each other */
};

struct projecting { /* the values of one layer on their way through W_o */
    struct ft_eval *eval;
    const struct ft_output_norms *job;
    float *weight; /* [n_embd][n_head*head_dim] */
    size_t weight_bytes;
    struct ggml_backend_buffer *buffer; /* of weight */
};

/* W_o decoded, from the file: the copy that products use may lie in another order. */
static ft_status decode_output(struct projecting *p, struct ft_error *err) {
    const ft_model *model = p->eval->model;
    const struct ggml_tensor *used = model->layer[p->job->layer].wo,
                             *w = ft_model_mapped(model, used);
    ggml_to_float_t decode = ggml_get_type_traits(w->type)->to_float;
    if (!decode && w->type != GGML_TYPE_F32) {
        return ft_fail(err, FT_UNSUP, 0, "%s: weights of type %s cannot be decoded", w->name,
                       ggml_type_name(w->type));
    }
    p->weight_bytes = (size_t)ggml_nelements(w) * sizeof *p->weight;
    p->weight = ft_pages_map(p->weight_bytes);
    p->buffer = p->weight ? ggml_backend_cpu_buffer_from_ptr(p->weight, p->weight_bytes) : NULL;
    if (!p->buffer) {
        return ft_fail_memory(err, p->weight_bytes, "the decoded weights of %s", w->name);
    }
    for (int64_t e = 0; e < w->ne[1]; e++) {
        const void *row = (const uint8_t *)w->data + (size_t)e * w->nb[1];
        float *out = p->weight + e * w->ne[0];
        if (decode) {
            decode(row, out, w->ne[0]);
        } else {
            memcpy(out, row, (size_t)w->ne[0] * sizeof *out);
        }
    }
    if (w != used) {
        ft_model_release(model, w);
    }
    return FT_OK;
}

/* dst {n}: the sums of |x| over the columns of {n_embd, n}; threads share the columns. */
static void run_norms(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)data;
    const struct ggml_tensor *x = dst->src[0];
    size_t n_embd = (size_t)x->ne[0], n = (size_t)x->ne[1];
    size_t first = n * (size_t)ith / (size_t)nth, end = n * ((size_t)ith + 1) / (size_t)nth;
    for (size_t j = first; j < end; j++) {
        const float *column = (const float *)x->data + j * n_embd;
        float lane[NORM_LANES] = { 0 };
        double sum = 0;
        size_t e = 0;
        for (; e + NORM_LANES <= n_embd; e += NORM_LANES) {
            for (size_t i = 0; i < NORM_LANES; i++) {
                lane[i] += fabsf(column[e + i]);
            }
        }
        for (size_t i = 0; i < NORM_LANES; i++) {
            sum += (double)lane[i];
        }
        for (; e < n_embd; e++) {
            sum += (double)fabsf(column[e]);
        }
        ((float *)dst->data)[j] = (float)sum;
    }
}

/* Rows [first, first + n) of a KV head through query head g: their norms are added to the sum. */
static ft_status norm_rows(const struct projecting *p, uint32_t g, uint32_t first, uint32_t n,
                           struct ft_error *err) {
    struct ft_eval *eval = p->eval;
    const struct ft_output_norms *job = p->job;
    const struct ft_hparams *hp = &eval->model->hp;
    uint32_t h = g / (hp->n_head / hp->n_head_kv);
    struct about about = { n, job->layer, job->layer + 1 };
    struct ggml_context *ctx = NULL;
    float part[NORM_ROWS];
    FT_TRY(open_context(eval, &ctx, err));
    struct ggml_cgraph *graph = ggml_new_graph_custom(ctx, NODE_BASE, false);
    struct ggml_tensor *v = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, hp->head_dim, n);
    struct ggml_tensor *w =
        ggml_new_tensor_2d(ctx, GGML_TYPE_F32, (int64_t)hp->n_head * hp->head_dim, hp->n_embd);
    ggml_backend_tensor_alloc(p->buffer, w, p->weight);
    ggml_set_input(v);
    struct ggml_tensor *slice = ggml_view_2d(ctx, w, hp->head_dim, hp->n_embd, w->nb[1],
                                             (size_t)g * hp->head_dim * w->nb[0]);
    struct ggml_tensor *product = ggml_mul_mat(ctx, slice, v);
    struct ggml_tensor *norm = ggml_custom_4d(ctx, GGML_TYPE_F32, n, 1, 1, 1, &product, 1,
                                              run_norms, GGML_N_TASKS_MAX, NULL);
    ggml_set_output(norm);
    ggml_build_forward_expand(graph, norm);
    ft_status status = reserve(eval, graph, p->weight_bytes, about, err);
    if (status == FT_OK) {
        job->values(job->user, h, first, n, v->data);
        status = run(eval, graph, about, err);
    }
    if (status == FT_OK) {
        ggml_backend_tensor_get(norm, part, 0, ggml_nbytes(norm));
        for (uint32_t j = 0; j < n; j++) {
            job->out[(size_t)h * job->n + first + j] += part[j];
        }
    }
    ggml_free(ctx);
    return status;
}

static ft_status norm_heads(const struct projecting *p, struct ft_error *err) {
    const struct ft_hparams *hp = &p->eval->model->hp;
    uint32_t n = p->job->n, group = hp->n_head / hp->n_head_kv;
    memset(p->job->out, 0, (size_t)hp->n_head_kv * n * sizeof *p->job->out);
    for (uint32_t g = 0; g < hp->n_head; g++) {
        for (uint32_t first = 0; first < n; first += NORM_ROWS) {
            if (abort_requested(p->eval)) {
                return ft_fail(err, FT_CANCELLED, 0, "cancelled");
            }
            FT_TRY(norm_rows(p, g, first, FT_MIN((uint32_t)NORM_ROWS, n - first), err));
        }
    }
    for (size_t at = 0; at < (size_t)hp->n_head_kv * n; at++) {
        p->job->out[at] /= (float)group;
    }
    return FT_OK;
}

ft_status ft_eval_output_norms(struct ft_eval *eval, const struct ft_output_norms *job,
                               struct ft_error *err) {
    struct projecting p = { .eval = eval, .job = job };
    ft_status status = decode_output(&p, err);
    if (status == FT_OK) {
        status = norm_heads(&p, err);
    }
    ggml_backend_buffer_free(p.buffer);
    ft_pages_unmap(p.weight, p.weight_bytes);
    return status;
}
