/* SPDX-License-Identifier: Apache-2.0 */
/* cut.c - where long text may be cut so that libllama can tokenise it piece by piece.
 *
 * Why cut (measured with libllama v0.5.0):
 *
 *   BPE on std::regex     recursion for each character of a match: 8 MiB of stack end after 26,000
 *                         letters, after 14,000 digits with one of the expressions
 *   SentencePiece         the output is copied for each character without a token: 256 KiB of them
 *                         take 26 s, twice as many four times that
 *   any                   each special token found walks a list of all before it: 1 MiB of them
 *                         takes 15 s, again quadratic
 *
 * Where, so that the ids are those of one call:
 *
 *   BPE                   between a word and the space in front of the next one, between a Chinese
 *                         or Japanese letter and a full-width comma or stop: expressions end there
 *   SentencePiece         between characters that follow each other in no token
 *   any                   behind a special token
 *
 * Only a run that offers none of these is cut anyway, after CUT_PATIENCE times the usual length (at
 * once on std::regex).
 */
#include "model/cut.h"

#include <llama.h>
#include <stdio.h>
#include <string.h>

#include "model/load.h"

enum {
    CUT_SHORT = 4096,      /* characters in one call, where that is dangerous or quadratic */
    CUT_LONG = 65536,      /* characters in one call otherwise */
    CUT_PATIENCE = 16,     /* the length may grow this many times to find a seam */
    SPECIAL_MAX = 1 << 16, /* special tokens that are looked at as seams */
    PAIR_TRIES = 16,       /* pairs of characters that are looked for in the whole vocabulary */
};

static const struct llama_vocab *vocab_of(const ft_model *model) {
    return llama_model_get_vocab(ft_model_vocab_llama(model));
}

/* ---- the vocabulary ---- */

/* Names whose expressions libllama v0.5.0 matches by hand-written code only (unicode.cpp), or by
 * std::regex on single characters. */
/* clang-format off */
static const char *const hand_written[] = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "dbrx", "smaug-bpe", "glm4", "chatglm-bpe", "qwen2", "deepseek-r1-qwen", "kormo",
    "f2llmv2", "stablelm2", "megrez", "hunyuan", "solar-open", "qwen35", "gpt-2", "phi-2",
    "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "mellum", "smollm",
    "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
    "grok-2",
};
/* clang-format on */

static enum ft_cut_kind kind_of(const ft_model *model) {
    if (llama_vocab_type(vocab_of(model)) != LLAMA_VOCAB_TYPE_BPE) {
        return FT_CUT_SPM;
    }
    char pre[64] = "";
    llama_model_meta_val_str(ft_model_vocab_llama(model), "tokenizer.ggml.pre", pre, sizeof(pre));
    for (size_t i = 0; i < FT_COUNT(hand_written); i++) {
        if (strcmp(pre, hand_written[i]) == 0) {
            return FT_CUT_HAND;
        }
    }
    return FT_CUT_REGEX;
}

static bool has_inner_space(const char *text) {
    for (size_t i = 1; text[0] != '\0' && text[i] != '\0'; i++) {
        if (text[i] == ' ' && text[i - 1] != ' ') {
            return true;
        }
    }
    return false;
}

/* Whether libllama looks for this token's text before anything else, and whether it eats spaces. */
static bool is_special(const struct llama_vocab *vocab, ft_token id, bool parse, bool *is_seam) {
    unsigned attr = (unsigned)llama_vocab_get_attr(vocab, id);
    unsigned always = LLAMA_TOKEN_ATTR_USER_DEFINED;
    unsigned asked = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
    *is_seam = (attr & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) == 0;
    return (attr & (parse ? always | asked : always)) != 0;
}

ft_status ft_model__cut_init(struct ft_cut *cut, const ft_model *model, bool parse,
                             struct ft_error *err) {
    const struct llama_vocab *vocab = vocab_of(model);
    ft_token n_vocab = llama_vocab_n_tokens(vocab);
    uint32_t n = 0;
    bool is_seam;
    *cut = (struct ft_cut){ .model = model, .kind = kind_of(model) };
    for (ft_token id = 0; id < n_vocab; id++) {
        n += is_special(vocab, id, parse, &is_seam);
    }
    n = FT_MIN(n, (uint32_t)SPECIAL_MAX);
    cut->special = ft_alloc((size_t)n + 1, sizeof(*cut->special));
    if (cut->special == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "tokenizer: no memory for %u special tokens", n);
    }
    for (ft_token id = 0; id < n_vocab; id++) {
        const char *text = llama_vocab_get_text(vocab, id);
        if (text[0] == '\0' || !is_special(vocab, id, parse, &is_seam)) {
            continue;
        }
        cut->has_space = cut->has_space || has_inner_space(text);
        if (is_seam && cut->n_special < n) {
            cut->is_last[(unsigned char)text[strlen(text) - 1]] = true;
            cut->special[cut->n_special++] = text;
        }
    }
    return FT_OK;
}

void ft_model__cut_done(struct ft_cut *cut) {
    ft_free(cut->special);
    cut->special = NULL;
}

/* ---- characters ---- */

static bool is_char_start(char c) {
    return ((unsigned char)c & 0xc0) != 0x80;
}

/* The character that begins at p; text is UTF-8. */
static uint32_t char_at(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        return u[0];
    }
    if (u[0] < 0xe0) {
        return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
    }
    uint32_t two = (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3fu);
    return u[0] < 0xf0 ? (u[0] & 0x0fu) << 12 | two
                       : (u[0] & 0x07u) << 18 | two << 6 | (u[3] & 0x3fu);
}

static size_t char_bytes(const char *p) {
    unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* Where the character before byte `at` begins. */
static size_t char_before(const char *text, size_t at) {
    do {
        at--;
    } while (!is_char_start(text[at]));
    return at;
}

static bool is_blank(uint32_t c) {
    return c <= 0x20 || c == 0x7f || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200f) || (c >= 0x2028 && c <= 0x202f) || c == 0x205f ||
           c == 0x3000 || c == 0xfeff;
}

static bool is_cjk_letter(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fa5) || (c >= 0x3041 && c <= 0x3096) ||
           (c >= 0x30a1 && c <= 0x30fa);
}

static bool is_cjk_stop(uint32_t c) {
    return c == 0x3001 || c == 0x3002 || c == 0xff0c; /* ideographic comma, full stop, wide comma */
}

/* The byte behind n_char characters from `from`, or n. */
static size_t skip_chars(const char *text, size_t from, size_t n, size_t n_char) {
    size_t at = from;
    while (at < n && n_char > 0) {
        at++;
        while (at < n && !is_char_start(text[at])) {
            at++;
        }
        n_char--;
    }
    return at;
}

/* ---- seams ---- */

static bool is_special_end(const struct ft_cut *cut, const char *text, size_t from, size_t at) {
    if (at == from || !cut->is_last[(unsigned char)text[at - 1]]) {
        return false;
    }
    for (uint32_t i = 0; i < cut->n_special; i++) {
        size_t n = strlen(cut->special[i]);
        if (n <= at - from && memcmp(text + at - n, cut->special[i], n) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether every expression ends a word at byte `at` and goes on as if text began there. */
static bool is_word_end(const struct ft_cut *cut, const char *text, size_t from, size_t at,
                        size_t n) {
    if (cut->has_space || at == from || at + 1 >= n || !is_char_start(text[at])) {
        return false;
    }
    uint32_t before = char_at(text + char_before(text, at));
    if (text[at] == ' ') {
        return !is_blank(before) && !is_blank(char_at(text + at + 1));
    }
    return (unsigned char)text[at] >= 0xe3 && is_cjk_stop(char_at(text + at)) &&
           is_cjk_letter(before);
}

static bool is_seam(const struct ft_cut *cut, const char *text, size_t from, size_t at, size_t n) {
    return is_special_end(cut, text, from, at) ||
           (cut->kind != FT_CUT_SPM && is_word_end(cut, text, from, at, n));
}

/* ---- SentencePiece ---- */

/* A character as tokens spell it: a space is U+2581. */
static size_t spell(const char *p, char *out) {
    if (*p == ' ') {
        memcpy(out, "\xE2\x96\x81", 3);
        return 3;
    }
    size_t n = char_bytes(p);
    memcpy(out, p, n);
    return n;
}

/* Whether some token has b behind a, in its spelling or as it stands (special tokens). */
static bool is_pair_in_vocab(const struct ft_cut *cut, const char *a, const char *b) {
    char spelt[9], plain[9];
    size_t n = spell(a, spelt);
    spelt[n + spell(b, spelt + n)] = '\0';
    n = char_bytes(a);
    memcpy(plain, a, n);
    memcpy(plain + n, b, char_bytes(b));
    plain[n + char_bytes(b)] = '\0';
    const struct llama_vocab *vocab = vocab_of(cut->model);
    ft_token n_vocab = llama_vocab_n_tokens(vocab);
    for (ft_token id = 0; id < n_vocab; id++) {
        const char *text = llama_vocab_get_text(vocab, id);
        if (strstr(text, spelt) != NULL || strstr(text, plain) != NULL) {
            return true;
        }
    }
    return false;
}

/* Before a space if there is one, else at one of the last characters; `from` when neither will do.
 * The next piece is given a line feed in front (vocab.c), so that must not join either. */
static size_t spm_seam(const struct ft_cut *cut, const char *text, size_t from, size_t limit) {
    for (int want_space = 1; want_space >= 0; want_space--) {
        unsigned n_try = 0;
        for (size_t at = limit; at > from + (limit - from) / 2 && n_try < PAIR_TRIES; at--) {
            bool is_wanted =
                want_space ? text[at] == ' ' && text[at - 1] != ' ' : is_char_start(text[at]);
            if (!is_wanted || text[at] == '\0' || text[char_before(text, at)] == '\0') {
                continue;
            }
            n_try++;
            if (!is_pair_in_vocab(cut, text + char_before(text, at), text + at) &&
                !is_pair_in_vocab(cut, "\n", text + at)) {
                return at;
            }
        }
    }
    return from;
}

static size_t spm_next(const struct ft_cut *cut, const char *text, size_t from, size_t n,
                       bool *is_fresh) {
    size_t limit = from;
    for (unsigned i = 0; i < CUT_PATIENCE; i++) {
        limit = skip_chars(text, limit, n, CUT_SHORT);
        if (limit == n) {
            return n;
        }
        for (size_t at = limit; at > from + (limit - from) / 2; at--) {
            if (is_special_end(cut, text, from, at)) {
                *is_fresh = true;
                return at;
            }
        }
        size_t at = spm_seam(cut, text, from, limit);
        if (at > from) {
            return at;
        }
    }
    return limit;
}

/* ---- pieces ---- */

size_t ft_model__cut_next(const struct ft_cut *cut, const char *text, size_t from, size_t n,
                          bool *is_fresh) {
    *is_fresh = false;
    if (cut->kind == FT_CUT_SPM) {
        return spm_next(cut, text, from, n, is_fresh);
    }
    *is_fresh = true; /* BPE adds nothing in front of a text */
    size_t limit = skip_chars(text, from, n, cut->kind == FT_CUT_REGEX ? CUT_SHORT : CUT_LONG);
    if (limit == n) {
        return n;
    }
    for (size_t at = limit; at > from + (limit - from) / 2; at--) {
        if (is_seam(cut, text, from, at, n)) {
            return at;
        }
    }
    if (cut->kind == FT_CUT_REGEX) {
        return limit;
    }
    size_t last = skip_chars(text, from, n, (size_t)CUT_LONG * CUT_PATIENCE);
    for (size_t at = limit + 1; at < last; at++) {
        if (is_seam(cut, text, from, at, n)) {
            return at;
        }
    }
    return last;
}
