/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - a GGUF model: what its header says, its tensors, its vocabulary, and the decoder graph
 * on them.
 *
 * The graph calls back for attention, so this folder knows neither caches nor methods.  ggml types
 * are opaque to includers; only model, attn and kv may look inside.
 */
#ifndef FT_MODEL_MODEL_H
#define FT_MODEL_MODEL_H

#include "base/base.h"

struct ggml_context;
struct ggml_cgraph;
struct ggml_tensor;

/* ---- header facts ---- */

enum ft_trait { FT_ROPE_NEOX = 1, FT_QK_NORM = 2 };

struct ft_hparams {
    const char *arch;
    unsigned trait;
    uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab, n_vocab_real, n_ctx_train;
    float rms_eps;
    float rope_base, rope_freq_scale, rope_attn_factor, rope_ext_factor;
    uint32_t rope_n_ctx_orig;
};
const struct ft_hparams *ft_model_hparams(const ft_model *model);
/* ft_model_ways - how matrices of each type are multiplied with m tokens, "int8:q4_K+q6_K,ggml:iq4_xs";
 * cut where cap ends. */
void ft_model_ways(const ft_model *model, uint32_t m, char *out, size_t cap);
/* ft_model_turns - by how many radians RoPE turns each pair of a head's channels per position.
 *   rope_scale   as of a session;  turn [head_dim / 2] in the order of pairs: (2i, 2i + 1), or
 *            (i, i + head_dim / 2) with FT_ROPE_NEOX */
void ft_model_turns(const ft_model *model, float rope_scale, double *turn);
ft_token ft_model_bos(const ft_model *model); /* what the tokenizer puts in front; -1: nothing */

/* ---- evaluation: one graph at a time on ggml's CPU backend ---- */

struct ft_eval;

struct ft_eval_params {
    const ft_model *model;
    uint32_t n_thread;
    float rope_scale; /* > 1: linear scaling on top of the model's own; else 0 */
    bool is_exact;    /* ggml's own products, in libllama's order */
    /* polled after every graph node by thread 0 and between work items; may be NULL */
    bool (*is_cancelled)(void *user);
    void *user;
};
/* ft_eval_new - backend, thread pool, products and graph allocator for one session.
 * Errors           FT_NOMEM */
ft_status ft_eval_new(const struct ft_eval_params *params, struct ft_eval **out,
                      struct ft_error *err);
void ft_eval_free(struct ft_eval *eval);
uint64_t ft_eval_compute_bytes(const struct ft_eval *eval); /* largest compute buffer so far */

struct ft_qkv {
    struct ggml_context *ctx;
    struct ggml_cgraph *graph;
    uint32_t layer, n_token;
    /* {head_dim, n_head, n_token}     f32, rotated; NULL when not asked for; of the last tokens
     * only where the pass is trimmed */
    struct ggml_tensor *q;
    struct ggml_tensor *k; /* {head_dim, n_head_kv, n_token}  f32, rotated; NULL likewise */
    struct ggml_tensor *v; /* {head_dim, n_head_kv, n_token}  f32 */
};
/* the attention callback: adds its nodes; returns {n_head*head_dim, n_token} f32, or NULL when the
 * pass stops there */
typedef struct ggml_tensor *(*ft_attend_fn)(void *user, const struct ft_qkv *in);

struct ft_pass {
    uint32_t layer_first, layer_end; /* layers [first, end) */
    uint32_t n_token;
    /* [n_token] used when hidden_in is NULL: looked up in the embedding table */
    const ft_token *id;
    const float *hidden_in; /* [n_token][n_embd] or NULL */
    float *hidden_out;      /* [n_token][n_embd] or NULL; may be the same memory as hidden_in */
    const ft_pos *pos;      /* [n_token] for RoPE */
    bool has_q, has_kv, has_rest; /* project Q; project K and V; run output projection and FFN */
    bool is_k_only;               /* of K and V only K: nobody will read V of these tokens */
    /* [n_logit] tokens whose logits are wanted (layer_end must be n_layer), ascending */
    const uint32_t *logit_row;
    /* rows are selected before the last layer's FFN, as libllama does */
    uint32_t n_logit;
    /* the rows are the pass's last ones, and nobody watches the other tokens' queries: the last layer
     * computes keys and values of all tokens, the rest for these rows alone */
    bool is_trimmed;
    float *logits; /* [n_logit][n_vocab] */
    ft_attend_fn attend;
    void *user;
    /* [n_token][n_head*head_dim] rotated queries of one layer that are there already: the callback
     * gets them, and nothing else is computed; NULL: none are */
    const float *q_in;
};
/* ft_eval_run - build and compute one graph.
 * Errors     FT_CANCELLED, FT_NOMEM, FT_INTERNAL */
ft_status ft_eval_run(struct ft_eval *eval, const struct ft_pass *pass, struct ft_error *err);

/* What the values of a layer would add to the residual stream, as far as it goes: of row j of KV
 * head h the mean over the group's query heads g of
 * |W_o[:, g] v_j|_1 = sum over e of |sum over c of W_o[e][g*head_dim + c] v_j[c]|, without a bias. */
struct ft_output_norms {
    uint32_t layer, n; /* rows of each KV head */
    /* values of rows [first, first + n) of KV head h -> out [n][head_dim] */
    void (*values)(void *user, uint32_t h, uint32_t first, uint32_t n, float *out);
    void *user;
    float *out; /* [n_head_kv][n] */
};
/* ft_eval_output_norms - fill out.  W_o of any type is decoded once, to F32.
 * Cost       n_head * n * head_dim * n_embd multiplications, as the output projection of n tokens
 * Errors     FT_CANCELLED, FT_NOMEM, FT_UNSUP (weights of a type that ggml cannot decode),
 *            FT_INTERNAL */
ft_status ft_eval_output_norms(struct ft_eval *eval, const struct ft_output_norms *job,
                               struct ft_error *err);

bool ft_model_has_weights(const ft_model *model); /* not so for FT_LOAD_VOCAB */
enum ft_norm { FT_NORM_FROBENIUS, FT_NORM_SPECTRAL };
/* ft_model_kv_norms - norms of W_K and W_V of a layer, decoded from the file.  Where keys are
 * normalised per head (qwen3) W_K says nothing: then of both the root mean square that a head's
 * keys, and a layer's values, have for inputs of mean square 1, times sqrt(n_head_kv head_dim);
 * `norm` is not asked.  Not for FT_LOAD_VOCAB.
 * Cost       one pass over both matrices; spectral: 20 power iterations
 * Errors     FT_NOMEM, FT_UNSUP (weights of a type that ggml cannot decode) */
ft_status ft_model_kv_norms(const ft_model *model, uint32_t layer, enum ft_norm norm, double *k,
                            double *v, struct ft_error *err);

/* ---- sampling: libllama's chain turns logits into probabilities; the draw is ours ---- */

struct ft_sampler;
/* ft_sampler_new - chain from parameters; ids >= n_vocab_real of the model are never drawn.
 *   n_id     size of the logits row
 * Errors     FT_ARG (range, unknown id in a bias), FT_FORMAT (grammar) */
ft_status ft_sampler_new(const ft_model *model, const struct ft_sampling *params,
                         struct ft_sampler **out, struct ft_error *err);
void ft_sampler_free(struct ft_sampler *sampler);
void ft_sampler_reset(struct ft_sampler *sampler);
/* ft_sampler_draw - next id from raw logits [n_vocab] (not modified).  step: counter of the draw
 * since the prompt.
 * Greedy (temperature 0) without grammar, bias or penalty is a plain argmax, lowest id first.  No
 * allocation. */
ft_status ft_sampler_draw(struct ft_sampler *sampler, const float *logits, uint32_t step,
                          ft_token *out, struct ft_error *err);
/* ft_sampler_see - tell the penalties, and not the grammar, of text that was not drawn: the prompt
 * counts, as in llama.cpp.
 *   id       [n] in order; ids that are never drawn are skipped */
void ft_sampler_see(struct ft_sampler *sampler, const ft_token *id, uint32_t n);
/* ft_sampler_accept - tell penalties and grammar which id was taken. */
void ft_sampler_accept(struct ft_sampler *sampler, ft_token id);

#endif
