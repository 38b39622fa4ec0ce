/* SPDX-License-Identifier: Apache-2.0 */
/* tiny.c - models with random weights and the tokenizer they share. */
#include "tiny.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

struct ft_tiny_params ft_tiny_defaults(void) {
    return (struct ft_tiny_params){
        .arch = "llama",
        .type = "f32",
        .name = "tiny",
        .pre = "smollm",
        .n_layer = 2,
        .n_embd = 64,
        .n_head = 4,
        .n_head_kv = 2,
        .n_ff = 128,
        .n_ctx = 2048,
        .n_vocab = 320,
        .n_split = 1,
        .seed = 1,
        .rope_base = 10000,
        .sharpness = 1,
    };
}

/* ---- tokenizer ---- */

/* GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up, in
 * order. */
static void byte_text(unsigned byte, char text[3]) {
    unsigned cp = byte, shift = 0;
    bool is_plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    for (unsigned b = 0; !is_plain && b < byte; b++) {
        shift += !((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad));
    }
    cp = is_plain ? byte : 0x100 + shift;
    text[0] = (char)(cp < 0x80 ? cp : (0xc0 | cp >> 6));
    text[1] = (char)(cp < 0x80 ? 0 : (0x80 | (cp & 0x3f)));
    text[2] = '\0';
}

/* Frequent pairs of English text, so that words become several tokens and not single letters. */
static const char *const pairs[] = {
    "\304\240 t",   "h e",         "\304\240 a", "i n",          "r e",         "o n",
    "\304\240t he", "e r",         "\304\240 s", "a t",          "\304\240 w",  "\304\240 o",
    "n d",          "i s",         "o u",        "e n",          "in g",        "\304\240 b",
    "\304\240 c",   "o r",         "e s",        "\304\240a nd", "i t",         "\304\240 h",
    "\304\240 m",   "\304\240 f",  "a n",        "e d",          "\304\240o f", "l e",
    "\304\240t o",  "a r",         "\304\240 p", "\304\240 d",   "\304\240 in", "a l",
    "a s",          "l l",         "v e",        "o m",          "i c",         "s t",
    "\304\240 n",   "\304\240 is", "o t",        "\304\240w h",  "l y",         "r o",
};

enum { SPECIALS = 4, BYTES = 256, TEXT_CAP = 24, VOCAB_CAP = 1 << 20 };
static const char *const specials[SPECIALS] = { "<|bos|>", "<|eos|>", "<|im_start|>",
                                                "<|im_end|>" };

/* Two or three letters that no pair above makes: merge i joins what is before the last letter
 * with it. */
static void filler_text(uint32_t i, char text[TEXT_CAP], char merge[TEXT_CAP]) {
    static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz";
    if (i < 26 * 26) { /* two capitals: never made by the pairs above */
        char a = (char)(letters[i / 26] - 32), b = (char)(letters[i % 26] - 32);
        snprintf(text, TEXT_CAP, "%c%c", a, b);
        snprintf(merge, TEXT_CAP, "%c %c", a, b);
    } else {
        snprintf(text, TEXT_CAP, "unreached%" PRIu32, i);
        merge[0] = '\0';
    }
}

struct texts {
    char (*token)[TEXT_CAP], (*merge)[TEXT_CAP];
    const char **token_at, **merge_at;
    int32_t *type;
    uint32_t n_merge;
};

static void texts_free(struct texts *t) {
    ft_free(t->token);
    ft_free(t->merge);
    ft_free((void *)t->token_at);
    ft_free((void *)t->merge_at);
    ft_free(t->type);
}

static bool texts_new(struct texts *t, uint32_t n) {
    t->token = ft_alloc(n, TEXT_CAP);
    t->merge = ft_alloc(n, TEXT_CAP);
    t->token_at = ft_alloc(n, sizeof(*t->token_at));
    t->merge_at = ft_alloc(n, sizeof(*t->merge_at));
    t->type = ft_alloc(n, sizeof(*t->type));
    return t->token != NULL && t->merge != NULL && t->token_at != NULL && t->merge_at != NULL &&
           t->type != NULL;
}

static void merge_add(struct texts *t, uint32_t id, const char *merge) {
    const char *space = strchr(merge, ' ');
    snprintf(t->token[id], TEXT_CAP, "%.*s%s", (int)(space - merge), merge, space + 1);
    snprintf(t->merge[t->n_merge], TEXT_CAP, "%s", merge);
    t->merge_at[t->n_merge] = t->merge[t->n_merge];
    t->n_merge++;
}

static void texts_fill(struct texts *t, uint32_t n_vocab, uint32_t n_pad, bool has_merges) {
    uint32_t n_plain = n_vocab - SPECIALS, filler = 0,
             n_pair = has_merges ? (uint32_t)FT_COUNT(pairs) : 0;
    for (uint32_t id = 0; id < n_vocab + n_pad; id++) {
        t->token_at[id] = t->token[id];
        t->type[id] = 1;
        if (id < BYTES) {
            byte_text(id, t->token[id]);
        } else if (id < n_plain && id - BYTES < n_pair) {
            merge_add(t, id, pairs[id - BYTES]);
        } else if (id < n_plain) {
            char merge[TEXT_CAP];
            filler_text(has_merges ? filler++ : 26 * 26 + filler++, t->token[id], merge);
            if (merge[0] != '\0') {
                merge_add(t, id, merge);
            }
        } else if (id < n_vocab) {
            snprintf(t->token[id], TEXT_CAP, "%s", specials[id - n_plain]);
            t->type[id] = 3; /* control */
        } else {
            snprintf(t->token[id], TEXT_CAP, "[PAD%" PRIu32 "]", id);
            t->type[id] = 5; /* unused */
        }
    }
}

static const char chat_template[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

void ft_tiny_tokenizer(struct ft_gguf_out *out, uint32_t n_vocab, uint32_t n_pad, const char *pre,
                       bool has_bos, bool has_chat, bool has_merges) {
    struct texts t = { .n_merge = 0 };
    if (n_vocab >= BYTES + SPECIALS && texts_new(&t, n_vocab + n_pad)) {
        texts_fill(&t, n_vocab, n_pad, has_merges);
        ft_gguf_out_string(out, "tokenizer.ggml.model", "gpt2");
        ft_gguf_out_string(out, "tokenizer.ggml.pre", pre);
        ft_gguf_out_strings(out, "tokenizer.ggml.tokens", t.token_at, n_vocab + n_pad);
        ft_gguf_out_i32s(out, "tokenizer.ggml.token_type", t.type, n_vocab + n_pad);
        ft_gguf_out_strings(out, "tokenizer.ggml.merges", t.merge_at, t.n_merge);
        ft_gguf_out_u32(out, "tokenizer.ggml.bos_token_id", n_vocab - 4);
        ft_gguf_out_u32(out, "tokenizer.ggml.eos_token_id", n_vocab - 3);
        ft_gguf_out_bool(out, "tokenizer.ggml.add_bos_token", has_bos);
        if (has_chat) {
            ft_gguf_out_string(out, "tokenizer.chat_template", chat_template);
        }
    }
    texts_free(&t);
}

/* ---- weights ---- */

/* Nearly normal, deviation 1, exact in every C library: the sum of four uniform numbers has
 * variance 1/3. */
static float noise(uint64_t seed, uint32_t stream, uint64_t i) {
    uint64_t bits = ft_rng_value(seed, stream, 0, i);
    int32_t sum = -2 * 65535;
    for (unsigned part = 0; part < 4; part++) {
        sum += (int32_t)(bits >> (16 * part) & 0xffff);
    }
    return (float)sum * (float)(1.7320508075688772 / 65536);
}

struct maker {
    const struct ft_tiny_params *p;
    struct ft_gguf_out *out;
    uint32_t stream; /* one per tensor */
    float *data;     /* [largest tensor] */
};

static void add_matrix(struct maker *m, const char *name, uint32_t ne0, uint32_t ne1,
                       float deviation) {
    uint32_t stream = m->stream++;
    for (uint64_t i = 0; i < (uint64_t)ne0 * ne1; i++) {
        m->data[i] = deviation * noise(m->p->seed, stream, i);
    }
    ft_gguf_out_tensor(m->out, name, m->p->type, ne0, ne1, m->data);
}

/* mean + 0.1 * noise: gains around 1, biases around 0 */
static void add_vector(struct maker *m, const char *name, uint32_t ne0, float mean) {
    uint32_t stream = m->stream++;
    for (uint32_t i = 0; i < ne0; i++) {
        m->data[i] = mean + 0.1f * noise(m->p->seed, stream, i);
    }
    ft_gguf_out_tensor(m->out, name, "f32", ne0, 0, m->data);
}

static void layer_matrix(struct maker *m, uint32_t l, const char *part, uint32_t ne0, uint32_t ne1,
                         float gain) {
    char name[64];
    snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s.weight", l, part);
    add_matrix(m, name, ne0, ne1, gain / sqrtf((float)ne0));
}

static void layer_vector(struct maker *m, uint32_t l, const char *part, uint32_t ne0, float mean) {
    char name[64];
    snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s", l, part);
    add_vector(m, name, ne0, mean);
}

static void add_layer(struct maker *m, uint32_t l) {
    const struct ft_tiny_params *p = m->p;
    uint32_t n_q = p->n_head * p->head_dim, n_kv = p->n_head_kv * p->head_dim;
    bool is_llama = strcmp(p->arch, "llama") == 0;
    layer_vector(m, l, "attn_norm.weight", p->n_embd, 1);
    layer_matrix(m, l, "attn_q", p->n_embd, n_q, p->sharpness);
    layer_matrix(m, l, "attn_k", p->n_embd, n_kv, 1);
    layer_matrix(m, l, "attn_v", p->n_embd, n_kv, 1);
    layer_matrix(m, l, "attn_output", n_q, p->n_embd, 1);
    if (p->has_bias) {
        layer_vector(m, l, "attn_q.bias", n_q, 0);
        layer_vector(m, l, "attn_k.bias", n_kv, 0);
        layer_vector(m, l, "attn_v.bias", n_kv, 0);
    }
    if (p->has_bias && is_llama) {
        layer_vector(m, l, "attn_output.bias", p->n_embd, 0);
    }
    if (strcmp(p->arch, "qwen3") == 0) {
        layer_vector(m, l, "attn_q_norm.weight", p->head_dim, p->sharpness);
        layer_vector(m, l, "attn_k_norm.weight", p->head_dim, 1);
    }
    layer_vector(m, l, "ffn_norm.weight", p->n_embd, 1);
    layer_matrix(m, l, "ffn_gate", p->n_embd, p->n_ff, 1);
    layer_matrix(m, l, "ffn_up", p->n_embd, p->n_ff, 1);
    layer_matrix(m, l, "ffn_down", p->n_ff, p->n_embd, 1);
    if (p->has_bias && is_llama) {
        layer_vector(m, l, "ffn_gate.bias", p->n_ff, 0);
        layer_vector(m, l, "ffn_up.bias", p->n_ff, 0);
        layer_vector(m, l, "ffn_down.bias", p->n_embd, 0);
    }
}

/* Llama 3.1's frequency divisors: long waves are slowed by 8, short ones kept, a ramp between
 * (low 1, high 4). */
static void add_rope_freqs(struct maker *m) {
    const struct ft_tiny_params *p = m->p;
    double trained = p->n_ctx / 8.0;
    for (uint32_t i = 0; i < p->head_dim / 2; i++) {
        double wave = 2 * 3.14159265358979323846 * pow((double)p->rope_base, 2.0 * i / p->head_dim);
        double smooth = (trained / wave - 1) / (4 - 1);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        m->data[i] = (float)(1 / ((1 - smooth) / 8 + smooth));
    }
    ft_gguf_out_tensor(m->out, "rope_freqs.weight", "f32", p->head_dim / 2, 0, m->data);
}

static void add_tensors(struct maker *m) {
    const struct ft_tiny_params *p = m->p;
    /* a tied table also makes the logits: their deviation is that of its rows */
    float deviation = p->is_tied ? 2 / sqrtf((float)p->n_embd) : 1;
    add_matrix(m, "token_embd.weight", p->n_embd, p->n_vocab + p->n_pad, deviation);
    if (p->rope == FT_TINY_LLAMA3) {
        add_rope_freqs(m);
    }
    for (uint32_t l = 0; l < p->n_layer; l++) {
        add_layer(m, l);
    }
    add_vector(m, "output_norm.weight", p->n_embd, 1);
    if (!p->is_tied) {
        add_matrix(m, "output.weight", p->n_embd, p->n_vocab + p->n_pad,
                   2 / sqrtf((float)p->n_embd));
    }
}

/* ---- keys ---- */

static void arch_u32(struct maker *m, const char *key, uint32_t value) {
    char name[96];
    snprintf(name, sizeof(name), "%s.%s", m->p->arch, key);
    ft_gguf_out_u32(m->out, name, value);
}

static void arch_f32(struct maker *m, const char *key, float value) {
    char name[96];
    snprintf(name, sizeof(name), "%s.%s", m->p->arch, key);
    ft_gguf_out_f32(m->out, name, value);
}

static void add_rope_keys(struct maker *m) {
    const struct ft_tiny_params *p = m->p;
    char name[96];
    arch_f32(m, "rope.freq_base", p->rope_base);
    arch_u32(m, "rope.dimension_count", p->head_dim);
    if (p->rope == FT_TINY_LINEAR || p->rope == FT_TINY_YARN) {
        snprintf(name, sizeof(name), "%s.rope.scaling.type", p->arch);
        ft_gguf_out_string(m->out, name, p->rope == FT_TINY_YARN ? "yarn" : "linear");
        arch_f32(m, "rope.scaling.factor", 4);
        arch_u32(m, "rope.scaling.original_context_length", FT_MAX(p->n_ctx / 4, 1u));
    }
}

/* general.file_type, as llama.cpp numbers it */
static uint32_t file_type(const char *type) {
    static const struct {
        const char *name;
        uint32_t number;
    } known[] = {
        { "f32", 0 },   { "f16", 1 },   { "q4_0", 2 },    { "q4_1", 3 },    { "q8_0", 7 },
        { "q5_0", 8 },  { "q5_1", 9 },  { "q2_k", 10 },   { "q3_k", 12 },   { "q4_k", 15 },
        { "q5_k", 17 }, { "q6_k", 18 }, { "iq4_nl", 25 }, { "iq4_xs", 30 }, { "bf16", 32 },
    };
    for (size_t i = 0; i < FT_COUNT(known); i++) {
        if (strcmp(known[i].name, type) == 0) {
            return known[i].number;
        }
    }
    return 0;
}

static void add_keys(struct maker *m) {
    const struct ft_tiny_params *p = m->p;
    ft_gguf_out_string(m->out, "general.architecture", p->arch);
    ft_gguf_out_string(m->out, "general.type", "model");
    ft_gguf_out_string(m->out, "general.name", p->name);
    ft_gguf_out_u32(m->out, "general.file_type", file_type(p->type));
    ft_gguf_out_u32(m->out, "general.quantization_version", 2);
    arch_u32(m, "vocab_size", p->n_vocab + p->n_pad);
    arch_u32(m, "context_length", p->n_ctx);
    arch_u32(m, "embedding_length", p->n_embd);
    arch_u32(m, "block_count", p->n_layer);
    arch_u32(m, "feed_forward_length", p->n_ff);
    arch_u32(m, "attention.head_count", p->n_head);
    arch_u32(m, "attention.head_count_kv", p->n_head_kv);
    arch_u32(m, "attention.key_length", p->head_dim);
    arch_u32(m, "attention.value_length", p->head_dim);
    arch_f32(m, "attention.layer_norm_rms_epsilon", 1e-5f);
    add_rope_keys(m);
    ft_tiny_tokenizer(m->out, p->n_vocab, p->n_pad, p->pre, p->has_bos, p->has_chat, true);
}

/* ---- one model ---- */

static ft_status params_check(const struct ft_tiny_params *p, struct ft_error *err) {
    bool is_llama = strcmp(p->arch, "llama") == 0, is_qwen2 = strcmp(p->arch, "qwen2") == 0;
    if (!is_llama && !is_qwen2 && strcmp(p->arch, "qwen3") != 0) {
        return ft_fail(err, FT_ARG, 0, "architecture is '%s', expected llama, qwen2 or qwen3",
                       p->arch);
    }
    if (p->n_layer == 0 || p->n_embd == 0 || p->n_ff == 0 || p->n_head_kv == 0 ||
        p->n_head % p->n_head_kv != 0 || p->head_dim % 8 != 0 || p->head_dim == 0) {
        return ft_fail(err, FT_ARG, 0,
                       "sizes do not fit: layers, embd, ff above 0, heads a multiple of kv-heads, "
                       "head-dim a multiple of 8");
    }
    if (is_qwen2 && p->n_head * p->head_dim != p->n_embd) {
        return ft_fail(err, FT_ARG, 0,
                       "qwen2 needs heads x head-dim = embd, got %" PRIu32 " x %" PRIu32
                       " and %" PRIu32,
                       p->n_head, p->head_dim, p->n_embd);
    }
    if (p->n_vocab < BYTES + SPECIALS + 12 || p->n_vocab > VOCAB_CAP || p->n_pad > VOCAB_CAP) {
        return ft_fail(err, FT_ARG, 0, "vocabulary is %" PRIu32 ", expected at least %d",
                       p->n_vocab, BYTES + SPECIALS + 12);
    }
    if (p->rope == FT_TINY_LLAMA3 && !is_llama) {
        return ft_fail(err, FT_ARG, 0, "llama3 frequencies exist in architecture llama only");
    }
    return FT_OK;
}

ft_status ft_tiny_write(const char *path, const struct ft_tiny_params *params,
                        struct ft_error *err) {
    struct ft_tiny_params p = *params;
    p.head_dim = p.head_dim != 0 ? p.head_dim : p.n_head == 0 ? 0 : p.n_embd / p.n_head;
    FT_TRY(params_check(&p, err));
    uint64_t widest = FT_MAX(FT_MAX(p.n_vocab + p.n_pad, p.n_ff), p.n_head * p.head_dim);
    struct maker m = { .p = &p,
                       .out = ft_gguf_out_new(),
                       .data = ft_alloc((size_t)widest * p.n_embd, sizeof(float)) };
    ft_status status = FT_NOMEM;
    if (m.out != NULL && m.data != NULL) {
        add_keys(&m);
        add_tensors(&m);
        status = ft_gguf_out_save(m.out, path, p.n_split, err);
    } else {
        ft_fail(err, FT_NOMEM, 0, "no memory for the largest tensor");
    }
    ft_gguf_out_free(m.out);
    ft_free(m.data);
    return status;
}
