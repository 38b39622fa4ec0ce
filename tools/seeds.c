/* SPDX-License-Identifier: Apache-2.0 */
/* seeds.c - the corpus of the GGUF fuzzer: models of a few kilobytes, good ones and the classic
 * attacks.
 *
 * Each attack is one number of a good file, overwritten behind a text that occurs in front of it;
 * they are those by which readers of this format fell (counts, lengths, dimensions and offsets
 * that wrap).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tiny.h"

enum { WIDTH = 16, VOCAB = 8, SPM_VOCAB = 259 };

/* ---- good models ---- */

static void add_tensor(struct ft_gguf_out *out, const char *name, const char *type, uint32_t ne0,
                       uint32_t ne1) {
    float data[WIDTH * SPM_VOCAB];
    for (size_t i = 0; i < FT_COUNT(data); i++) {
        data[i] = (float)((int)(i * 7 % 13) - 6) / 8;
    }
    ft_gguf_out_tensor(out, name, type, ne0, ne1, data);
}

static void add_sizes(struct ft_gguf_out *out, const char *arch) {
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {
        { "context_length", 64 },
        { "embedding_length", WIDTH },
        { "block_count", 1 },
        { "feed_forward_length", WIDTH },
        { "attention.head_count", 1 },
        { "attention.head_count_kv", 1 },
        { "rope.dimension_count", WIDTH },
    };
    char key[96];
    ft_gguf_out_string(out, "general.architecture", arch);
    for (size_t i = 0; i < FT_COUNT(sizes); i++) {
        snprintf(key, sizeof(key), "%s.%s", arch, sizes[i].key);
        ft_gguf_out_u32(out, key, sizes[i].value);
    }
    snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", arch);
    ft_gguf_out_f32(out, key, 1e-5f);
    ft_gguf_out_u32(out, "general.alignment", 32);
}

static void add_tensors(struct ft_gguf_out *out, const char *arch, const char *type,
                        uint32_t n_vocab) {
    static const char *const square[] = { "attn_q",   "attn_k", "attn_v",  "attn_output",
                                          "ffn_gate", "ffn_up", "ffn_down" };
    static const char *const flat[] = { "attn_norm.weight", "ffn_norm.weight", "attn_q.bias" };
    char name[64];
    add_tensor(out, "token_embd.weight", type, WIDTH, n_vocab);
    add_tensor(out, "output_norm.weight", "f32", WIDTH, 0);
    for (size_t i = 0; i < FT_COUNT(square); i++) {
        snprintf(name, sizeof(name), "blk.0.%s.weight", square[i]);
        add_tensor(out, name, type, WIDTH, WIDTH);
    }
    for (size_t i = 0; i < FT_COUNT(flat); i++) {
        snprintf(name, sizeof(name), "blk.0.%s", flat[i]);
        add_tensor(out, name, "f32", WIDTH, 0);
    }
    if (strcmp(arch, "qwen3") == 0) {
        add_tensor(out, "blk.0.attn_q_norm.weight", "f32", WIDTH, 0);
        add_tensor(out, "blk.0.attn_k_norm.weight", "f32", WIDTH, 0);
    }
    if (strcmp(arch, "llama") == 0) {
        add_tensor(out, "rope_freqs.weight", "f32", WIDTH / 2, 0);
    }
}

static void add_bpe(struct ft_gguf_out *out) {
    static const char *const tokens[VOCAB] = { "a",       "b",          "ab",     "\304\240",
                                               "<|bos|>", "<|im_end|>", "[PAD6]", "" };
    static const char *const merges[] = { "a b" };
    static const int32_t types[VOCAB] = { 1, 1, 1, 1, 3, 3, 5, 5 };
    ft_gguf_out_string(out, "tokenizer.ggml.model", "gpt2");
    ft_gguf_out_string(out, "tokenizer.ggml.pre", "smollm");
    ft_gguf_out_strings(out, "tokenizer.ggml.tokens", tokens, VOCAB);
    ft_gguf_out_i32s(out, "tokenizer.ggml.token_type", types, VOCAB);
    ft_gguf_out_strings(out, "tokenizer.ggml.merges", merges, 1);
    ft_gguf_out_u32(out, "tokenizer.ggml.bos_token_id", 4);
    ft_gguf_out_u32(out, "tokenizer.ggml.eos_token_id", 5);
    ft_gguf_out_bool(out, "tokenizer.ggml.add_bos_token", true);
    ft_gguf_out_string(out, "tokenizer.chat_template", "<|im_start|>");
}

static void add_spm(struct ft_gguf_out *out) {
    char text[SPM_VOCAB][8];
    const char *tokens[SPM_VOCAB];
    int32_t types[SPM_VOCAB];
    for (int i = 0; i < SPM_VOCAB; i++) {
        static const char *const first[] = { "<unk>", "<s>", "</s>" };
        if (i < 3) {
            snprintf(text[i], sizeof(text[i]), "%s", first[i]);
        } else {
            snprintf(text[i], sizeof(text[i]), "<0x%02X>", (unsigned)(i - 3) & 255);
        }
        tokens[i] = text[i];
        types[i] = i == 0 ? 2 : i < 3 ? 3 : 6;
    }
    ft_gguf_out_string(out, "tokenizer.ggml.model", "llama");
    ft_gguf_out_strings(out, "tokenizer.ggml.tokens", tokens, SPM_VOCAB);
    ft_gguf_out_i32s(out, "tokenizer.ggml.token_type", types, SPM_VOCAB);
}

static ft_status write_good(const char *path, const char *arch, const char *type, bool is_spm,
                            uint32_t n_split, struct ft_error *err) {
    struct ft_gguf_out *out = ft_gguf_out_new();
    if (out == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for a model");
    }
    add_sizes(out, arch);
    is_spm ? add_spm(out) : add_bpe(out);
    add_tensors(out, arch, type, is_spm ? SPM_VOCAB : VOCAB);
    ft_status status = ft_gguf_out_save(out, path, n_split, err);
    ft_gguf_out_free(out);
    return status;
}

/* ---- attacks ---- */

static const struct attack {
    const char *name, *behind; /* the last text in front of the number; "" the start of the file */
    int skip;                  /* bytes between them */
    int n_byte;                /* of the number; 0: cut the file here */
    uint64_t value;
} attacks[] = {
    { "version-1", "", 4, 4, 1 },
    { "tensors-2p63", "", 8, 8, UINT64_C(1) << 63 },
    { "tensors-2p64", "", 8, 8, UINT64_MAX },
    { "tensors-65537", "", 8, 8, 65537 },
    { "keys-2p32", "", 16, 8, UINT64_C(1) << 32 },
    { "keys-wrap", "", 16, 8, UINT64_MAX / 64 + 1 },
    { "name-2p64", "", 24, 8, UINT64_MAX },
    { "text-2p63", "general.architecture", 4, 8, UINT64_C(1) << 63 },
    { "type-13", "general.architecture", 0, 4, 13 },
    { "align-2p31", "general.alignment", 4, 4, 0x80000000 },
    { "align-0", "general.alignment", 4, 4, 0 },
    { "tokens-2p62", "tokenizer.ggml.tokens", 8, 8, UINT64_C(1) << 62 },
    { "tokens-nested", "tokenizer.ggml.tokens", 4, 4, 9 },
    { "tokens-none", "tokenizer.ggml.tokens", 8, 8, 0 },
    { "types-short", "tokenizer.ggml.token_type", 8, 8, 7 },
    { "bos-behind", "tokenizer.ggml.bos_token_id", 4, 4, VOCAB },
    { "layers-0", "llama.block_count", 4, 4, 0 },
    { "layers-2p32", "llama.block_count", 4, 4, UINT32_MAX },
    { "heads-0", "llama.attention.head_count", 4, 4, 0 },
    { "dims-5", "token_embd.weight", 0, 4, 5 },
    { "dim-2p42plus1", "token_embd.weight", 4, 8, (UINT64_C(1) << 42) + 1 },
    { "dim-2p63", "token_embd.weight", 12, 8, UINT64_C(1) << 63 },
    { "dim-wrap", "token_embd.weight", 12, 8, UINT64_C(1) << 60 },
    { "dim-0", "token_embd.weight", 12, 8, 0 },
    { "kind-4", "token_embd.weight", 20, 4, 4 },
    { "kind-2p31", "token_embd.weight", 20, 4, 0x80000000 },
    { "offset-2p63", "output_norm.weight", 16, 8, (UINT64_C(1) << 63) - 32 },
    { "offset-overlap", "output_norm.weight", 16, 8, 0 },
    { "cut-key", "general.alignment", 2, 0, 0 },
    { "cut-tensor", "blk.0.attn_k.weight", 9, 0, 0 },
};

static size_t find_behind(const uint8_t *data, size_t n, const char *text) {
    size_t length = strlen(text);
    for (size_t at = 0; at + length <= n; at++) {
        if (memcmp(data + at, text, length) == 0) {
            return at + length;
        }
    }
    return n;
}

static ft_status write_attack(const char *dir, const struct attack *a, const uint8_t *good,
                              size_t n, struct ft_error *err) {
    uint8_t data[16384];
    char path[1024];
    size_t at = find_behind(good, n, a->behind) + (size_t)a->skip;
    ft_assert(n <= sizeof(data) && at + (size_t)a->n_byte <= n);
    memcpy(data, good, n);
    for (int i = 0; i < a->n_byte; i++) {
        data[at + (size_t)i] = (uint8_t)(a->value >> (8 * i));
    }
    snprintf(path, sizeof(path), "%s/%s", dir, a->name);
    FILE *file = fopen(path, "wb");
    size_t length = a->n_byte == 0 ? at : n;
    bool is_whole = file != NULL && fwrite(data, 1, length, file) == length;
    is_whole = file != NULL && fclose(file) == 0 && is_whole;
    return is_whole ? FT_OK : ft_fail(err, FT_IO, 0, "%s: cannot be written", path);
}

ft_status ft_tiny_seeds(const char *dir, struct ft_error *err) {
    static const struct {
        const char *name, *arch, *type;
        bool is_spm;
        uint32_t n_split;
    } good[] = {
        { "llama", "llama", "f16", false, 1 }, { "qwen2", "qwen2", "bf16", false, 1 },
        { "qwen3", "qwen3", "f32", false, 1 }, { "spm", "llama", "f16", true, 1 },
        { "split", "qwen2", "f16", false, 2 },
    };
    char path[1024];
    for (size_t i = 0; i < FT_COUNT(good); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, good[i].name);
        FT_TRY(write_good(path, good[i].arch, good[i].type, good[i].is_spm, good[i].n_split, err));
    }
    uint8_t data[16384];
    snprintf(path, sizeof(path), "%s/%s", dir, good[0].name);
    FILE *file = fopen(path, "rb");
    size_t n = file == NULL ? 0 : fread(data, 1, sizeof(data), file);
    if (file != NULL) {
        fclose(file);
    }
    for (size_t i = 0; i < FT_COUNT(attacks) && n > 0; i++) {
        FT_TRY(write_attack(dir, &attacks[i], data, n, err));
    }
    return n > 0 ? FT_OK : ft_fail(err, FT_IO, 0, "%s: cannot be read", path);
}
