/* SPDX-License-Identifier: Apache-2.0 */
/* planted.c - a target and two drafts with weights set by hand: only drafts find the needle.
 *
 * Every byte is one token.  Its embedding has a constant 1 and a flag for its class:
 *
 *     filler   everything else
 *     X        decoy: what the queries of filler, decoys, needle, '?' and ':' look for
 *     0..9     needle: carries the digit in ten more channels; what the query of '=' looks for
 *     ?  :  =  the question and the two tokens that the model writes before its answer
 *
 * Layer 1, query head 0 of KV head 0 does all of it; the other heads have zero queries (they
 * attend evenly) and zero values, and the feed-forward networks are zero.  With h = embedding /
 * rms, a key is +K in the decoy channel or in the needle channel, and a query is +Q in one of
 * them, so the logit of a match is LOGIT and of anything else 0.  The value of a needle is its
 * digit; the output projection writes it to channels that only the output matrix reads:
 *
 *     ? -> ':'     : -> '='     = -> the digit found, else '-'     digit or '-' -> <|eos|>
 *
 * The channels used lie in RoPE pairs that turn by less than 1e-8 per position, so the needle may
 * stand anywhere.  The draft is the same without the value of the needle: it writes ":=-".  The
 * blind draft writes ':' after ':' for ever, so none of its tokens asks for the needle.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tiny.h"

enum {
    EMBD = 64,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = 32,
    FF = 64,
    VOCAB = 272,
    CTX = 8192,
    EOS = VOCAB - 3,
    Q_ROWS = HEADS * HEAD_DIM,
    KV_ROWS = KV_HEADS * HEAD_DIM,
    LAYER = 1,
    /* channels of the residual stream */
    ONE = 0,
    FILLER,
    DECOY,
    NEEDLE,
    QUESTION,
    COLON,
    EQUAL,
    DASH,
    DIGIT,
    FOUND = DIGIT + 10,
    /* channels of the head: even members of the two slowest RoPE pairs; values have no rotation */
    SEEK_DECOY = 28,
    SEEK_NEEDLE = 30,
    N_FILL = 384,
    NEEDLE_AT = 330,
    DECOY_EVERY = 12,
    DECOY_END = 260,
};

static const float ROPE_BASE = 1e12f;
static const float LOGIT =
    20; /* exp(-20) * 8192 rows < 2e-5: one match outweighs everything else */

static const char *const arch = "llama";

struct model {
    struct ft_gguf_out *out;
    float *data; /* [largest matrix] */
    bool has_value, is_blind;
};

static unsigned class_of(unsigned byte) {
    switch (byte) {
    case 'X':
        return DECOY;
    case '?':
        return QUESTION;
    case ':':
        return COLON;
    case '=':
        return EQUAL;
    case '-':
        return DASH;
    default:
        return byte >= '0' && byte <= '9' ? NEEDLE : FILLER;
    }
}

/* What a flag of 1 becomes behind RMS norm: 1 / sqrt((number of ones) / EMBD). */
static float normed(unsigned n_one) {
    return sqrtf((float)EMBD / (float)n_one);
}

static void zero(struct model *m) {
    memset(m->data, 0, sizeof(float) * EMBD * FT_MAX(VOCAB, Q_ROWS));
}

static void add(struct model *m, const char *part, uint32_t layer, uint32_t ne0, uint32_t ne1) {
    char name[64];
    snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s.weight", layer, part);
    ft_gguf_out_tensor(m->out, name, "f32", ne0, ne1, m->data);
}

static void add_ones(struct model *m, const char *name) {
    for (int i = 0; i < EMBD; i++) {
        m->data[i] = 1;
    }
    ft_gguf_out_tensor(m->out, name, "f32", EMBD, 0, m->data);
}

static void add_embeddings(struct model *m) {
    zero(m);
    for (unsigned id = 0; id < VOCAB; id++) {
        float *row = m->data + id * EMBD;
        row[ONE] = 1;
        row[id < 256 ? class_of(id) : FILLER] = 1;
        if (id < 256 && class_of(id) == NEEDLE) {
            row[DIGIT + (id - '0')] = 1;
        }
    }
    ft_gguf_out_tensor(m->out, "token_embd.weight", "f32", EMBD, VOCAB, m->data);
}

/* The product of a matching query and key, scaled by 1/sqrt(HEAD_DIM), is LOGIT. */
static float share(void) {
    return sqrtf(LOGIT * sqrtf((float)HEAD_DIM));
}

static void add_attention(struct model *m, uint32_t l) {
    float a = share() / normed(2), b = share() / normed(3);
    zero(m);
    if (l == LAYER) { /* head 0: '=' seeks the needle, the constant minus '=' seeks decoys */
        m->data[SEEK_NEEDLE * EMBD + EQUAL] = a;
        m->data[SEEK_DECOY * EMBD + ONE] = a;
        m->data[SEEK_DECOY * EMBD + EQUAL] = -a;
    }
    add(m, "attn_q", l, EMBD, Q_ROWS);
    zero(m);
    if (l == LAYER) {
        m->data[SEEK_NEEDLE * EMBD + NEEDLE] = b;
        m->data[SEEK_DECOY * EMBD + DECOY] = a;
    }
    add(m, "attn_k", l, EMBD, KV_ROWS);
    zero(m);
    for (int i = 0; l == LAYER && m->has_value && i < 10; i++) {
        m->data[i * EMBD + DIGIT + i] = 1 / normed(3);
    }
    add(m, "attn_v", l, EMBD, KV_ROWS);
    zero(m);
    for (int i = 0; l == LAYER && i < 10; i++) { /* head 0 only: columns 0..9 of {Q_ROWS, EMBD} */
        m->data[(FOUND + i) * Q_ROWS + i] = 4;
    }
    add(m, "attn_output", l, Q_ROWS, EMBD);
}

static void add_layer(struct model *m, uint32_t l) {
    char name[64];
    snprintf(name, sizeof(name), "blk.%" PRIu32 ".attn_norm.weight", l);
    add_ones(m, name);
    add_attention(m, l);
    snprintf(name, sizeof(name), "blk.%" PRIu32 ".ffn_norm.weight", l);
    add_ones(m, name);
    zero(m);
    add(m, "ffn_gate", l, EMBD, FF);
    add(m, "ffn_up", l, EMBD, FF);
    add(m, "ffn_down", l, FF, EMBD);
}

/* After norm a flag is at least normed(18) = 1.9: winners lead by 6 or more. */
static void add_output(struct model *m) {
    zero(m);
    m->data[':' * EMBD + QUESTION] = 10;
    m->data[(m->is_blind ? ':' : '=') * EMBD + COLON] = 10;
    m->data['-' * EMBD + EQUAL] = 4; /* FOUND is 4 times as large as the flag and wins */
    for (int i = 0; i < 10; i++) {
        m->data[('0' + i) * EMBD + FOUND + i] = 10;
    }
    m->data[EOS * EMBD + NEEDLE] = 10;
    m->data[EOS * EMBD + DASH] = 10;
    m->data['a' * EMBD + FILLER] = 5; /* what follows filler does not matter, but has a winner */
    m->data['a' * EMBD + DECOY] = 5;
    ft_gguf_out_tensor(m->out, "output.weight", "f32", EMBD, VOCAB, m->data);
}

static void add_keys(struct model *m, const char *name, uint32_t n_layer) {
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {
        { "llama.context_length", CTX },
        { "llama.embedding_length", EMBD },
        { "llama.feed_forward_length", FF },
        { "llama.attention.head_count", HEADS },
        { "llama.attention.head_count_kv", KV_HEADS },
        { "llama.attention.key_length", HEAD_DIM },
        { "llama.attention.value_length", HEAD_DIM },
        { "llama.rope.dimension_count", HEAD_DIM },
        { "llama.vocab_size", VOCAB },
    };
    ft_gguf_out_string(m->out, "general.architecture", arch);
    ft_gguf_out_string(m->out, "general.name", name);
    ft_gguf_out_u32(m->out, "general.file_type", 0);
    ft_gguf_out_u32(m->out, "llama.block_count", n_layer);
    for (size_t i = 0; i < FT_COUNT(sizes); i++) {
        ft_gguf_out_u32(m->out, sizes[i].key, sizes[i].value);
    }
    ft_gguf_out_f32(m->out, "llama.rope.freq_base", ROPE_BASE);
    ft_gguf_out_f32(m->out, "llama.attention.layer_norm_rms_epsilon", 1e-6f);
    ft_tiny_tokenizer(m->out, VOCAB, 0, "smollm", false, true, false);
}

static ft_status write_model(const char *dir, const char *file, uint32_t n_layer, bool has_value,
                             bool is_blind, struct ft_error *err) {
    char path[1024];
    struct model m = { .out = ft_gguf_out_new(), .has_value = has_value, .is_blind = is_blind };
    m.data = ft_alloc((size_t)EMBD * FT_MAX(VOCAB, Q_ROWS), sizeof(float));
    ft_status status = FT_NOMEM;
    if (m.out != NULL && m.data != NULL) {
        snprintf(path, sizeof(path), "%s/%s", dir, file);
        add_keys(&m, file, n_layer);
        add_embeddings(&m);
        for (uint32_t l = 0; l < n_layer; l++) {
            add_layer(&m, l);
        }
        add_ones(&m, "output_norm.weight");
        add_output(&m);
        status = ft_gguf_out_save(m.out, path, 1, err);
    } else {
        ft_fail(err, FT_NOMEM, 0, "no memory for a planted model");
    }
    ft_gguf_out_free(m.out);
    ft_free(m.data);
    return status;
}

/* ---- the prompt that shows it ---- */

static void prompt_fill(char prompt[N_FILL + 2]) {
    static const char words[] =
        "the sea was calm and the crew slept below while the wind turned to the south ";
    for (int i = 0; i < N_FILL; i++) {
        prompt[i] = words[(size_t)i % (sizeof(words) - 1)];
        if (i % DECOY_EVERY == 6 && i < DECOY_END) {
            prompt[i] = 'X';
        }
    }
    prompt[NEEDLE_AT] = '7';
    prompt[N_FILL] = '?';
    prompt[N_FILL + 1] = '\0';
}

ft_status ft_tiny_planted(const char *dir, struct ft_error *err) {
    FT_TRY(write_model(dir, "target.gguf", 3, true, false, err));
    FT_TRY(write_model(dir, "draft.gguf", 2, false, false, err));
    FT_TRY(write_model(dir, "blind.gguf", 2, false, true, err));
    char path[1024], prompt[N_FILL + 2];
    snprintf(path, sizeof(path), "%s/planted.json", dir);
    prompt_fill(prompt);
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return ft_fail(err, FT_IO, 0, "%s: cannot be written", path);
    }
    fprintf(
        file,
        "{\n  \"target\": \"target.gguf\", \"draft\": \"draft.gguf\", \"blind\": \"blind.gguf\",\n"
        "  \"prompt\": \"%s\",\n  \"n_prompt\": %d, \"needle\": %d, \"layer\": %d, \"kv_head\": 0, "
        "\"n_decoy\": %d,\n"
        "  \"answer\": \":=7\", \"answer_without_needle\": \":=-\", \"draft_writes\": \":=-\",\n"
        "  \"speckv\": \"speckv:keep=64,window=8,kernel=7\", \"speckv_lookahead\": 2,\n"
        "  \"specpc\": \"specpc:keep=128,window=16\", \"specpc_lookahead\": 3\n}\n",
        prompt, N_FILL + 1, NEEDLE_AT, LAYER, (DECOY_END - 6 + DECOY_EVERY - 1) / DECOY_EVERY);
    bool is_whole = fclose(file) == 0;
    return is_whole ? FT_OK : ft_fail(err, FT_IO, 0, "%s: cannot be written", path);
}
