/* SPDX-License-Identifier: Apache-2.0 */
/* tiny.h - deterministic small GGUF models for tests: a writer of its own, a tokenizer, random
 * weights.
 *
 *     struct ft_tiny_params p = ft_tiny_defaults();
 *     p.arch = "qwen3";
 *     ft_tiny_write("/tmp/tiny.gguf", &p, &err);
 *
 * Nothing here reads a file or the network, and the same parameters give the same bytes everywhere.
 */
#ifndef FT_TOOLS_TINY_H
#define FT_TOOLS_TINY_H

#include "base/base.h"

/* ---- models with random weights ---- */

enum ft_tiny_rope { FT_TINY_PLAIN, FT_TINY_LINEAR, FT_TINY_YARN, FT_TINY_LLAMA3 };

struct ft_tiny_params {
    const char *arch; /* "llama", "qwen2", "qwen3" */
    const char *type; /* of matrices: "q4_k"; rows it does not divide become q8_0, else f16 */
    const char *name; /* general.name */
    const char *pre;  /* tokenizer.ggml.pre */
    uint32_t n_layer, n_embd, n_head, n_head_kv, n_ff, n_ctx;
    uint32_t head_dim; /* 0: n_embd / n_head */
    uint32_t n_vocab; /* real tokens: 256 bytes, merges, 4 specials; at least 272 */
    uint32_t n_pad;   /* unused tokens behind them */
    uint32_t n_split; /* > 1: that many files, named ...-00001-of-0000N.gguf */
    uint64_t seed;
    float rope_base;
    float sharpness; /* multiplies the query weights: 1 gives logits of deviation about 1 */
    enum ft_tiny_rope rope;
    bool is_tied, has_bias, has_chat, has_bos; /* has_bos: add_bos_token is true */
};

struct ft_tiny_params ft_tiny_defaults(void);

/* ft_tiny_write - one model.  With n_split > 1 a ".gguf" at the end of path makes room for the
 * numbers.
 * Errors     FT_ARG (sizes that do not fit each other), FT_IO, FT_NOMEM */
ft_status ft_tiny_write(const char *path, const struct ft_tiny_params *params,
                        struct ft_error *err);

/* ft_tiny_split_path - name of file no (0-based) of n. */
void ft_tiny_split_path(const char *path, uint32_t no, uint32_t n, char *out, size_t cap);

/* ---- the planted pair (planted.c) ---- */

/* ft_tiny_planted - target.gguf, draft.gguf, blind.gguf and planted.json in an existing folder. */
ft_status ft_tiny_planted(const char *dir, struct ft_error *err);

/* ft_tiny_seeds - the corpus of tests/fuzz/fuzz_gguf.c in an existing folder (seeds.c). */
ft_status ft_tiny_seeds(const char *dir, struct ft_error *err);

/* ---- the writer, for models built by hand ---- */

struct ft_gguf_out;
struct ft_gguf_out *ft_gguf_out_new(void);
void ft_gguf_out_free(struct ft_gguf_out *out);
void ft_gguf_out_string(struct ft_gguf_out *out, const char *key, const char *value);
void ft_gguf_out_u32(struct ft_gguf_out *out, const char *key, uint32_t value);
void ft_gguf_out_f32(struct ft_gguf_out *out, const char *key, float value);
void ft_gguf_out_bool(struct ft_gguf_out *out, const char *key, bool value);
void ft_gguf_out_strings(struct ft_gguf_out *out, const char *key, const char *const *value,
                         uint32_t n);
void ft_gguf_out_i32s(struct ft_gguf_out *out, const char *key, const int32_t *value, uint32_t n);
/* ft_gguf_out_tensor - {ne0, ne1}, ne1 0: one dimension; data [ne1][ne0] is converted and copied.
 * */
void ft_gguf_out_tensor(struct ft_gguf_out *out, const char *name, const char *type, uint32_t ne0,
                        uint32_t ne1, const float *data);
/* ft_gguf_out_save - write everything; also reports what went wrong in the calls before. */
ft_status ft_gguf_out_save(struct ft_gguf_out *out, const char *path, uint32_t n_split,
                           struct ft_error *err);

/* ft_tiny_tokenizer - the vocabulary of ft_tiny_write: byte-level BPE, ids 0..255 are the
 * bytes, the last four real ids are <|bos|> <|eos|> <|im_start|> <|im_end|>.  has_merges false:
 * every byte stays one token. */
void ft_tiny_tokenizer(struct ft_gguf_out *out, uint32_t n_vocab, uint32_t n_pad, const char *pre,
                       bool has_bos, bool has_chat, bool has_merges);

#endif
