/* SPDX-License-Identifier: Apache-2.0 */
/* ggufvocab.c - the vocabulary of a GGUF file: every key that libllama will read for it.
 *
 * Each rule stands for something that makes libllama abort, throw or lose text: two tokens with
 * one text (an assert), a byte token that is not <0xNN> (a wild index), a byte without token (an
 * exception in the middle of tokenising), a BOS that is asked for and not there (an assert).
 */
#include "model/ggufwalk.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    VOCAB_MAX = 1 << 24,
    TOKEN_BYTES_MAX = 4096,
    PIECE_BYTES_MAX =
        64 << 20, /* what libllama may build out of tokens that are not in the byte alphabet */
    SPM_BOS = 1,
    SPM_EOS = 2,
    BPE_BOS = 11,
    BPE_EOS = 11, /* libllama's defaults */
};

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNUSED = 5, TOKEN_BYTE = 6, TOKEN_TYPE_END = 7 };

#define TOKENS "tokenizer.ggml.tokens"
#define QUOTE(span) (int)FT_MIN((span).n, (size_t)40), (span).text

struct vocab {
    const struct ft_gguf_walk *walk;
    const struct ft_gguf_key *tokens,
        *type; /* type: NULL when absent, then all tokens are normal */
    uint32_t n;
    bool is_spm;
    bool has_byte[256]; /* SPM: a token stands for this byte */
    uint64_t piece_bytes;
    uint32_t n_slot;
    struct slot {    /* texts seen so far */
        uint64_t at; /* byte of the token, 0: empty */
        uint32_t id;
    } * slot;
};

static uint32_t token_type(const struct vocab *v, uint32_t id) {
    return v->type == NULL ? TOKEN_NORMAL
                           : ft_gguf__load_u32(v->walk->data + v->type->at + 4 * (size_t)id);
}

/* ---- one token ---- */

static int hex_digit(char c) {
    const char *digits = "0123456789ABCDEF", *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

/* The byte that "<0xNN>" stands for, or -1. */
static int byte_form(struct ft_gguf_span text) {
    if (text.n != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>') {
        return -1;
    }
    int high = hex_digit(text.text[3]), low = hex_digit(text.text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* libllama turns a character outside GPT-2's byte alphabet into about the text of the whole token
 * again. */
static uint64_t piece_bytes(struct ft_gguf_span text) {
    uint64_t foreign = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.text[i];
        /* the alphabet is U+0021..U+0143 with gaps: lead bytes up to 0xc5 */
        foreign += c > 0xc5 || c <= 0x20;
    }
    return text.n + foreign * (text.n + 24);
}

static ft_status token_check(struct vocab *v, uint32_t id, struct ft_gguf_span text, size_t where) {
    const struct ft_gguf_walk *w = v->walk;
    uint32_t type = token_type(v, id);
    if (text.n > TOKEN_BYTES_MAX) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             TOKENS "[%" PRIu32 "] has %zu bytes, expected at most %d", id, text.n,
                             TOKEN_BYTES_MAX);
    }
    if (ft_utf8_check(text.text, text.n) != text.n || memchr(text.text, 0, text.n) != NULL) {
        return ft_gguf__fail(w, FT_FORMAT, where, TOKENS "[%" PRIu32 "] is not UTF-8 without NUL",
                             id);
    }
    if (type >= TOKEN_TYPE_END) {
        return ft_gguf__fail(w, FT_FORMAT, v->type->at + 4 * (size_t)id,
                             "tokenizer.ggml.token_type[%" PRIu32 "] is %" PRId32 ", expected 0..6",
                             id, (int32_t)type);
    }
    int byte = byte_form(text);
    if (type == TOKEN_BYTE && byte < 0) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             TOKENS "[%" PRIu32
                                    "] is a byte token with text '%.*s', expected <0xNN>",
                             id, QUOTE(text));
    }
    if (byte >= 0) {
        v->has_byte[byte] = true;
    } else if (text.n == 1) {
        v->has_byte[(unsigned char)text.text[0]] = true;
    }
    if (!v->is_spm && type == TOKEN_NORMAL) {
        v->piece_bytes += piece_bytes(text);
    }
    return FT_OK;
}

/* ---- all tokens ---- */

/* libllama replaces an empty text by a name of its own, which then must not occur either. */
static struct ft_gguf_span seen_as(struct ft_gguf_span text, uint32_t id, char buf[32]) {
    if (text.n == 0) {
        text.n = (size_t)snprintf(buf, 32, "[EMPTY_%" PRIu32 "]", id);
        text.text = buf;
    }
    return text;
}

static ft_status token_unique(struct vocab *v, uint32_t id, struct ft_gguf_span text,
                              size_t where) {
    char mine[32], theirs[32];
    struct ft_gguf_span name = seen_as(text, id, mine);
    uint32_t at = ft_gguf__hash(name) & (v->n_slot - 1);
    for (; v->slot[at].at != 0; at = (at + 1) & (v->n_slot - 1)) {
        size_t other_at = (size_t)v->slot[at].at;
        struct ft_gguf_span other =
            seen_as(ft_gguf__next(v->walk, &other_at), v->slot[at].id, theirs);
        if (other.n == name.n && memcmp(other.text, name.text, name.n) == 0) {
            return ft_gguf__fail(v->walk, FT_FORMAT, where,
                                 TOKENS "[%" PRIu32 "] and [%" PRIu32 "] are both '%.*s'",
                                 v->slot[at].id, id, QUOTE(name));
        }
    }
    v->slot[at] = (struct slot){ .at = where, .id = id };
    return FT_OK;
}

/* Converters fill a table up to a round number with unused tokens or texts [PAD123]. */
static bool is_padding(const struct vocab *v, uint32_t id, struct ft_gguf_span text) {
    if (token_type(v, id) == TOKEN_UNUSED) {
        return true;
    }
    if (text.n < 6 || memcmp(text.text, "[PAD", 4) != 0 || text.text[text.n - 1] != ']') {
        return false;
    }
    for (size_t i = 4; i + 1 < text.n; i++) {
        if (text.text[i] < '0' || text.text[i] > '9') {
            return false;
        }
    }
    return true;
}

static ft_status tokens_check(struct vocab *v, struct ft_gguf_facts *facts) {
    size_t at = v->tokens->at;
    uint32_t n_real = 0;
    for (uint32_t id = 0; id < v->n; id++) {
        size_t where = at;
        struct ft_gguf_span text = ft_gguf__next(v->walk, &at);
        FT_TRY(token_check(v, id, text, where));
        FT_TRY(token_unique(v, id, text, where));
        n_real = is_padding(v, id, text) ? n_real : id + 1;
    }
    if (n_real == 0) {
        return ft_gguf__fail(v->walk, FT_FORMAT, v->tokens->at, TOKENS " holds padding only");
    }
    if (v->piece_bytes > PIECE_BYTES_MAX) {
        return ft_gguf__fail(v->walk, FT_FORMAT, v->tokens->at,
                             TOKENS " would decode to %" PRIu64 " bytes, expected at most %d",
                             v->piece_bytes, PIECE_BYTES_MAX);
    }
    /* what UTF-8 text can hold; without a token libllama throws while it tokenises */
    for (unsigned byte = 0; v->is_spm && byte < 0xf5; byte++) {
        if (!v->has_byte[byte] && byte != 0xc0 && byte != 0xc1) {
            return ft_gguf__fail(v->walk, FT_FORMAT, v->tokens->at,
                                 TOKENS " has no byte token <0x%02X>", byte);
        }
    }
    facts->hparams.n_vocab = v->n;
    facts->hparams.n_vocab_real = n_real;
    return FT_OK;
}

static ft_status tokens_walk(struct vocab *v, struct ft_gguf_facts *facts) {
    for (v->n_slot = 4; v->n_slot < 2 * v->n; v->n_slot *= 2) {
    }
    v->slot = ft_alloc(v->n_slot, sizeof(*v->slot));
    if (v->slot == NULL) {
        return ft_gguf__fail(v->walk, FT_NOMEM, 0, "no memory to check %" PRIu32 " tokens", v->n);
    }
    ft_status status = tokens_check(v, facts);
    ft_free(v->slot);
    return status;
}

/* ---- the arrays beside the tokens ---- */

static ft_status same_length(const struct vocab *v, const struct ft_gguf_key *key,
                             const char *name) {
    if (key == NULL || key->n == v->n) {
        return FT_OK;
    }
    return ft_gguf__fail(v->walk, FT_FORMAT, key->where,
                         "%s has %" PRIu64 " elements, expected %" PRIu32 " as in " TOKENS, name,
                         key->n, v->n);
}

static ft_status scores_check(const struct vocab *v) {
    const char *name = "tokenizer.ggml.scores";
    const struct ft_gguf_key *key = ft_gguf__find(v->walk, name);
    if (key != NULL &&
        !(key->type == FT_GGUF_ARRAY && key->item == FT_GGUF_I32)) { /* libllama takes both */
        FT_TRY(ft_gguf__array(v->walk, name, FT_GGUF_F32, &key));
    }
    FT_TRY(same_length(v, key, name));
    for (uint32_t i = 0; key != NULL && i < v->n; i++) {
        if (isnan(ft_gguf__number(v->walk, key, i))) {
            return ft_gguf__fail(v->walk, FT_FORMAT, key->at + 4 * (size_t)i,
                                 "%s[%" PRIu32 "] is NaN", name, i);
        }
    }
    return FT_OK;
}

static ft_status merges_check(const struct vocab *v) {
    const char *name = "tokenizer.ggml.merges";
    const struct ft_gguf_key *key;
    FT_TRY(ft_gguf__need(v->walk, name));
    FT_TRY(ft_gguf__array(v->walk, name, FT_GGUF_STRING, &key));
    if (key->n > VOCAB_MAX) {
        return ft_gguf__fail(v->walk, FT_FORMAT, key->where,
                             "%s has %" PRIu64 " elements, expected at most %d", name, key->n,
                             VOCAB_MAX);
    }
    size_t at = key->at;
    for (uint64_t i = 0; i < key->n; i++) {
        size_t where = at;
        struct ft_gguf_span text = ft_gguf__next(v->walk, &at);
        const char *space = text.n < 3 ? NULL : memchr(text.text + 1, ' ', text.n - 2);
        if (space == NULL || ft_utf8_check(text.text, text.n) != text.n ||
            memchr(text.text, 0, text.n) != NULL) {
            return ft_gguf__fail(v->walk, FT_FORMAT, where,
                                 "%s[%" PRIu64 "] is '%.*s', expected two texts and a space "
                                 "between them",
                                 name, i, QUOTE(text));
        }
    }
    return FT_OK;
}

/* ---- special tokens ---- */

static ft_status special_check(const struct vocab *v) {
    static const char *const ids[] = {
        "bos",     "eos",     "eot",     "eom",     "unknown", "seperator",
        "padding", "cls",     "mask",    "fim_pre", "fim_suf", "fim_mid",
        "fim_pad", "fim_rep", "fim_sep", "prefix",  "suffix",  "middle",
    };
    for (size_t i = 0; i < FT_COUNT(ids); i++) {
        char name[64];
        uint32_t id = 0;
        snprintf(name, sizeof(name), "tokenizer.ggml.%s_token_id", ids[i]);
        FT_TRY(ft_gguf__u32(v->walk, name, 0, UINT32_MAX, &id));
        /* some converters write -1 for "there is none" */
        if (id >= v->n && (id != UINT32_MAX || i < 2)) {
            return ft_gguf__fail(v->walk, FT_FORMAT, ft_gguf__find(v->walk, name)->at,
                                 "%s is %" PRIu32 ", expected 0..%" PRIu32, name, id, v->n - 1);
        }
    }
    return FT_OK;
}

/* A token that will be added must exist: libllama's own default counts while the table reaches
 * it. */
static ft_status added_check(const struct vocab *v, const char *what, uint32_t initial,
                             bool is_added) {
    char id_name[64], add_name[64];
    snprintf(id_name, sizeof(id_name), "tokenizer.ggml.%s_token_id", what);
    snprintf(add_name, sizeof(add_name), "tokenizer.ggml.add_%s_token", what);
    bool is_asked = ft_gguf__find(v->walk, add_name) != NULL;
    FT_TRY(ft_gguf__bool(v->walk, add_name, &is_added));
    bool has_default = initial < v->n && (v->is_spm || !is_asked);
    if (is_added && !has_default && ft_gguf__find(v->walk, id_name) == NULL) {
        return ft_gguf__fail(v->walk, FT_FORMAT, 0,
                             "a %s token is to be added, but key %s is missing", what, id_name);
    }
    return FT_OK;
}

static ft_status suppress_check(const struct vocab *v) {
    const struct ft_gguf_key *key;
    return ft_gguf__array(v->walk, "tokenizer.ggml.suppress_tokens", FT_GGUF_I32, &key);
}

/* ---- which tokenizer ---- */

static ft_status model_check(struct vocab *v) {
    struct ft_gguf_span model, pre = { .text = "", .n = 0 };
    FT_TRY(ft_gguf__need(v->walk, "tokenizer.ggml.model"));
    FT_TRY(ft_gguf__string(v->walk, "tokenizer.ggml.model", &model));
    FT_TRY(ft_gguf__string(v->walk, "tokenizer.ggml.pre", &pre));
    v->is_spm = ft_gguf__is(model, "llama");
    if (!v->is_spm && !ft_gguf__is(model, "gpt2")) {
        return ft_gguf__fail(v->walk, FT_UNSUP, ft_gguf__find(v->walk, "tokenizer.ggml.model")->at,
                             "tokenizer.ggml.model is '%.*s', expected llama or gpt2",
                             QUOTE(model));
    }
    return FT_OK;
}

static ft_status other_types(const struct vocab *v) {
    static const char *const bools[] = {
        "tokenizer.ggml.add_sep_token",
        "tokenizer.ggml.add_space_prefix",
        "tokenizer.ggml.remove_extra_whitespaces",
        "tokenizer.ggml.normalizer.lowercase",
        "tokenizer.ggml.normalizer.strip_accents",
    };
    bool ignored;
    for (size_t i = 0; i < FT_COUNT(bools); i++) {
        FT_TRY(ft_gguf__bool(v->walk, bools[i], &ignored));
    }
    return ft_gguf__type(v->walk, "tokenizer.ggml.token_type_count", FT_GGUF_U32);
}

ft_status ft_gguf__vocab(const struct ft_gguf_walk *walk, struct ft_gguf_facts *facts) {
    struct vocab v = { .walk = walk };
    struct ft_gguf_span chat = { .text = NULL };
    FT_TRY(model_check(&v));
    FT_TRY(ft_gguf__need(walk, TOKENS));
    FT_TRY(ft_gguf__array(walk, TOKENS, FT_GGUF_STRING, &v.tokens));
    if (v.tokens->n == 0 || v.tokens->n > VOCAB_MAX) {
        return ft_gguf__fail(walk, FT_FORMAT, v.tokens->where,
                             TOKENS " has %" PRIu64 " elements, expected 1..%d", v.tokens->n,
                             VOCAB_MAX);
    }
    v.n = (uint32_t)v.tokens->n;
    FT_TRY(ft_gguf__array(walk, "tokenizer.ggml.token_type", FT_GGUF_I32, &v.type));
    FT_TRY(same_length(&v, v.type, "tokenizer.ggml.token_type"));
    FT_TRY(scores_check(&v));
    FT_TRY(tokens_walk(&v, facts));
    if (!v.is_spm) {
        FT_TRY(merges_check(&v));
    }
    FT_TRY(special_check(&v));
    /* which BPE families add BOS by themselves is libllama's knowledge: assume that they do */
    FT_TRY(added_check(&v, "bos", v.is_spm ? SPM_BOS : BPE_BOS, true));
    FT_TRY(added_check(&v, "eos", v.is_spm ? SPM_EOS : BPE_EOS, false));
    FT_TRY(suppress_check(&v));
    FT_TRY(other_types(&v));
    FT_TRY(ft_gguf__string(walk, "tokenizer.chat_template", &chat));
    facts->has_chat_template = chat.n > 0;
    return FT_OK;
}
