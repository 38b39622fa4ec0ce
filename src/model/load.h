/* SPDX-License-Identifier: Apache-2.0 */
/* load.h - the inside of an opened model; for the files of this folder only. */
#ifndef FT_MODEL_LOAD_H
#define FT_MODEL_LOAD_H

#include "model/model.h"

struct llama_model;
struct ggml_backend_buffer;

struct ft_layer {
    struct ggml_tensor *attn_norm; /* {n_embd} */
    /* {n_embd, n_head*head_dim}, {n_embd, n_head_kv*head_dim} x 2, {n_head*head_dim, n_embd} */
    struct ggml_tensor *wq, *wk, *wv, *wo;
    struct ggml_tensor *bq, *bk, *bv, *bo; /* biases, NULL when absent */
    struct ggml_tensor *q_norm, *k_norm;   /* {head_dim}, qwen3 */
    struct ggml_tensor *ffn_norm;          /* {n_embd} */
    struct ggml_tensor *gate, *up, *down;  /* {n_embd, n_ff} x 2, {n_ff, n_embd} */
    struct ggml_tensor *gate_b, *up_b, *down_b;
};

struct ft_shard { /* one file of a (possibly split) model */
    struct ft_file_map map;
    struct ggml_context *meta;          /* its tensors, pointing into the map */
    struct ggml_backend_buffer *buffer; /* the map as a ggml buffer */
};

struct ft_model {
    struct ft_hparams hp;
    struct ft_layer *layer; /* [n_layer] */
    struct ggml_tensor *tok_embd, *output_norm, *output, *output_b, *rope_freqs;
    struct ft_shard *shard; /* [n_shard] */
    uint32_t n_shard;
    /* tensors copied once into a faster layout, per kind of buffer */
    struct ft_repack {
        struct ggml_context *ctx;
        struct ggml_backend_buffer *buffer;
    } repack[4];
    uint32_t n_repack;
    struct llama_model *vocab; /* vocabulary only */
    enum ft_load load;
    char *path, *name;
    const char *file_type; /* static text */
    char fingerprint[65];
    uint64_t file_bytes, tensor_bytes, repacked_bytes, resident_bytes, n_param;
    bool has_chat_template, has_bos;
};

/* ft_model_log_init - libllama's and ggml's log lines go to ft_log; idempotent. */
void ft_model_log_init(void);

/* ft_model_mapped - a matrix as the file has it: itself, or what its copy in a faster layout was made
 * of.  Valid as long as the model. */
const struct ggml_tensor *ft_model_mapped(const ft_model *model, const struct ggml_tensor *w);
/* ft_model_release - the mapped pages of a matrix need not stay resident any more. */
void ft_model_release(const ft_model *model, const struct ggml_tensor *w);

/* ft_model_vocab_llama - the vocabulary, for libllama calls. */
const struct llama_model *ft_model_vocab_llama(const ft_model *model);

#endif
