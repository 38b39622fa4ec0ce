/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.c - text to token ids and back, chat templates, and whether two vocabularies are the same.
 *
 * The work is libllama's; what it would answer with an abort, an exception or a stack overflow is
 * checked here first.  Three of its habits shape ft_tokenize:
 *
 *   - A pre-tokenizer without hand-written code runs on std::regex, which recurses once per
 *     character of a match: 8 MiB of stack end after 26,000 letters (14,000 digits with one of
 *     them).  Such text is cut every 4,096 characters.
 *   - Every special token found walks a list of all found before it: 20,000 of them take a second,
 *     200,000 two minutes.  Other text is cut about every 65,536 characters.
 *   - It adds EOS at the end where a model asks for that, and BOS in front of a BOS that is already
 *     there.  ft_tokenize adds BOS itself: never twice, and never anything at the end.
 *
 * A cut is made where no token can reach across: between a word and the space in front of the next
 * one, between a Chinese or Japanese letter and a full-width comma or full stop, behind a special
 * token.  So the ids are those of one call.  Only where there is no such place is a run cut anyway.
 */
#include "model/vocab.h"

#include <inttypes.h>
#include <llama.h>
#include <stdio.h>
#include <string.h>

#include "model/load.h"

enum {
    CUT_SHORT = 4096,      /* characters in one call on std::regex */
    CUT_LONG = 65536,      /* characters in one call otherwise */
    CUT_PATIENCE = 16,     /* CUT_LONG may grow this many times to find a seam */
    SPECIAL_MAX = 1 << 16, /* special tokens that are looked at as seams */
};

static const struct llama_vocab *vocab_of(const ft_model *model) {
    return llama_model_get_vocab(ft_model_vocab_llama(model));
}

/* ---- where text may be cut ---- */

enum cut_kind {
    CUT_REGEX, /* BPE on std::regex: must be short */
    CUT_HAND,  /* BPE on hand-written code */
    CUT_NEVER, /* SentencePiece: each call adds a space, so only special tokens are seams */
};

struct seams {
    enum cut_kind kind;
    bool has_space;       /* a special token holds a word, a space and more: spaces are no seams */
    bool is_last[256];    /* last bytes of special tokens */
    const char **special; /* [n_special] texts, borrowed from libllama */
    uint32_t n_special;
};

/* Names whose expressions libllama v0.5.0 matches by hand-written code only (unicode.cpp), or by
 * std::regex on single characters. */
/* clang-format off */
static const char *const hand_written[] = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "dbrx", "smaug-bpe", "glm4", "chatglm-bpe", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2",
    "stablelm2", "megrez", "hunyuan", "solar-open", "qwen35", "gpt-2", "phi-2", "mpt", "olmo",
    "jais", "trillion", "granite-docling", "gigachat", "mellum", "smollm", "starcoder", "refact",
    "command-r", "codeshell", "exaone", "minerva-7b", "mellum2", "grok-2",
};
/* clang-format on */

static enum cut_kind cut_kind_of(const ft_model *model) {
    const struct llama_model *llama = ft_model_vocab_llama(model);
    if (llama_vocab_type(vocab_of(model)) != LLAMA_VOCAB_TYPE_BPE) {
        return CUT_NEVER;
    }
    char pre[64] = "";
    llama_model_meta_val_str(llama, "tokenizer.ggml.pre", pre, sizeof(pre));
    for (size_t i = 0; i < FT_COUNT(hand_written); i++) {
        if (strcmp(pre, hand_written[i]) == 0) {
            return CUT_HAND;
        }
    }
    return CUT_REGEX;
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
    enum llama_token_attr attr = llama_vocab_get_attr(vocab, id);
    unsigned always = LLAMA_TOKEN_ATTR_USER_DEFINED;
    unsigned asked = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
    *is_seam = ((unsigned)attr & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) == 0;
    return ((unsigned)attr & (parse ? always | asked : always)) != 0;
}

static ft_status seams_init(struct seams *s, const ft_model *model, bool parse,
                            struct ft_error *err) {
    const struct llama_vocab *vocab = vocab_of(model);
    ft_token n_vocab = llama_vocab_n_tokens(vocab);
    uint32_t n = 0;
    bool is_seam;
    *s = (struct seams){ .kind = cut_kind_of(model) };
    for (ft_token id = 0; id < n_vocab; id++) {
        n += is_special(vocab, id, parse, &is_seam);
    }
    n = FT_MIN(n, (uint32_t)SPECIAL_MAX);
    s->special = ft_alloc((size_t)n + 1, sizeof(*s->special));
    if (s->special == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "tokenizer: no memory for %u special tokens", n);
    }
    for (ft_token id = 0; id < n_vocab; id++) {
        const char *text = llama_vocab_get_text(vocab, id);
        if (text[0] == '\0' || !is_special(vocab, id, parse, &is_seam)) {
            continue;
        }
        s->has_space = s->has_space || has_inner_space(text);
        if (is_seam && s->n_special < n) {
            s->is_last[(unsigned char)text[strlen(text) - 1]] = true;
            s->special[s->n_special++] = text;
        }
    }
    return FT_OK;
}

static bool is_special_end(const struct seams *s, const char *text, size_t from, size_t at) {
    if (at == from || !s->is_last[(unsigned char)text[at - 1]]) {
        return false;
    }
    for (uint32_t i = 0; i < s->n_special; i++) {
        size_t n = strlen(s->special[i]);
        if (n <= at - from && memcmp(text + at - n, s->special[i], n) == 0) {
            return true;
        }
    }
    return false;
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

static bool is_char_start(char c) {
    return ((unsigned char)c & 0xc0) != 0x80;
}

static uint32_t char_before(const char *text, size_t at) {
    do {
        at--;
    } while (!is_char_start(text[at]));
    return char_at(text + at);
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

/* Whether the words left and right of byte `at` are the same with and without a cut there. */
static bool is_seam_at(const struct seams *s, const char *text, size_t from, size_t at, size_t n) {
    if (is_special_end(s, text, from, at)) {
        return true;
    }
    if (s->kind == CUT_NEVER || s->has_space || at == from || at + 1 >= n ||
        !is_char_start(text[at])) {
        return false;
    }
    if (text[at] == ' ') {
        return !is_blank(char_before(text, at)) && !is_blank(char_at(text + at + 1));
    }
    return (unsigned char)text[at] >= 0xe3 && is_cjk_stop(char_at(text + at)) &&
           is_cjk_letter(char_before(text, at));
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

/* Where the piece that starts at `from` ends. */
static size_t piece_end(const struct seams *s, const char *text, size_t from, size_t n) {
    size_t limit = skip_chars(text, from, n, s->kind == CUT_REGEX ? CUT_SHORT : CUT_LONG);
    if (limit == n) {
        return n;
    }
    for (size_t at = limit; at > from + (limit - from) / 2; at--) {
        if (is_seam_at(s, text, from, at, n)) {
            return at;
        }
    }
    if (s->kind == CUT_REGEX) {
        return limit;
    }
    size_t last = s->kind == CUT_NEVER ? n : skip_chars(text, from, n, CUT_LONG * CUT_PATIENCE);
    for (size_t at = limit + 1; at < last; at++) {
        if (is_seam_at(s, text, from, at, n)) {
            return at;
        }
    }
    return last;
}

/* ---- tokens ---- */

struct id_list {
    ft_token *id; /* [cap] */
    size_t n, cap;
};

static ft_status list_reserve(struct id_list *list, size_t n_more, struct ft_error *err) {
    size_t need;
    if (!ft_size_add(list->n, n_more, &need) || need > INT32_MAX) {
        return ft_fail(err, FT_LIMIT, 0, "text has more than %d tokens", INT32_MAX);
    }
    if (need <= list->cap) {
        return FT_OK;
    }
    size_t cap = FT_MAX(need, list->cap + list->cap / 2);
    ft_token *id = ft_grow(list->id, cap, sizeof(*id));
    if (id == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "text: no memory for %zu tokens", cap);
    }
    list->id = id;
    list->cap = cap;
    return FT_OK;
}

static ft_status add_piece(struct id_list *list, const struct llama_vocab *vocab, const char *text,
                           size_t n, bool parse, struct ft_error *err) {
    size_t room = n + 8; /* byte-level tokens have a byte each; more is asked for below */
    for (;;) {
        FT_TRY(list_reserve(list, room, err));
        int32_t got = llama_tokenize(vocab, text, (int32_t)n, list->id + list->n,
                                     (int32_t)(list->cap - list->n), false, parse);
        if (got >= 0) {
            list->n += (size_t)got;
            return FT_OK;
        }
        if (got == INT32_MIN || room == (size_t) - (int64_t)got) {
            return ft_fail(err, FT_LIMIT, 0, "text of %zu bytes: libllama gives no tokens", n);
        }
        room = (size_t) - (int64_t)got;
    }
}

static ft_status add_text(struct id_list *list, const ft_model *model, const char *text, size_t n,
                          bool parse, struct ft_error *err) {
    const struct llama_vocab *vocab = vocab_of(model);
    if (n <= CUT_SHORT) { /* the common case needs no list of special tokens */
        return n == 0 ? FT_OK : add_piece(list, vocab, text, n, parse, err);
    }
    struct seams seams;
    FT_TRY(seams_init(&seams, model, parse, err));
    ft_status status = FT_OK;
    for (size_t from = 0; from < n && status == FT_OK;) {
        size_t end = piece_end(&seams, text, from, n);
        status = add_piece(list, vocab, text + from, end - from, parse, err);
        from = end;
    }
    ft_free(seams.special);
    return status;
}

ft_status ft_tokenize(const ft_model *model, const char *text, size_t n_byte, unsigned flags,
                      struct ft_tokens *out, struct ft_error *err) {
    if (n_byte > INT32_MAX - 8) {
        return ft_fail(err, FT_LIMIT, 0, "text has %zu bytes, expected at most %d", n_byte,
                       INT32_MAX - 8);
    }
    size_t bad = ft_utf8_check(text, n_byte);
    if (bad < n_byte) {
        return ft_fail(err, FT_FORMAT, bad, "text is not UTF-8 at byte %zu (0x%02x)", bad,
                       (unsigned)(unsigned char)text[bad]);
    }
    const struct llama_vocab *vocab = vocab_of(model);
    ft_token bos = llama_vocab_bos(vocab);
    bool has_bos = (flags & FT_TOKENIZE_BOS) != 0 && llama_vocab_get_add_bos(vocab) && bos >= 0;
    struct id_list list = { .n = 0 };
    ft_status status = list_reserve(&list, 1, err);
    if (status == FT_OK && has_bos) {
        list.id[list.n++] = bos;
    }
    if (status == FT_OK) {
        status = add_text(&list, model, text, n_byte, (flags & FT_TOKENIZE_SPECIAL) != 0, err);
    }
    if (status != FT_OK) {
        ft_free(list.id);
        return status;
    }
    if (has_bos && list.n >= 2 && list.id[1] == bos) { /* the text brought its own */
        list.n--;
        memmove(list.id, list.id + 1, list.n * sizeof(*list.id));
    }
    *out = (struct ft_tokens){ .id = list.id, .n = (uint32_t)list.n };
    return FT_OK;
}

void ft_tokens_free(struct ft_tokens *tokens) {
    if (tokens != NULL) {
        ft_free(tokens->id);
        *tokens = (struct ft_tokens){ .n = 0 };
    }
}

size_t ft_token_piece(const ft_model *model, ft_token id, bool special, char *buf, size_t cap) {
    const struct llama_vocab *vocab = vocab_of(model);
    if (id < 0 || id >= llama_vocab_n_tokens(vocab)) {
        return 0;
    }
    int32_t room = cap > INT32_MAX ? INT32_MAX : (int32_t)cap;
    char none[1];
    int32_t n = llama_token_to_piece(vocab, id, buf == NULL ? none : buf, buf == NULL ? 0 : room, 0,
                                     special);
    return (size_t)(n < 0 ? -(int64_t)n : n);
}

bool ft_token_is_end(const ft_model *model, ft_token id) {
    const struct llama_vocab *vocab = vocab_of(model);
    return id >= 0 && id < llama_vocab_n_tokens(vocab) && llama_vocab_is_eog(vocab, id);
}

/* ---- chat ---- */

struct chat {
    const ft_model *model;
    const char *template, *system;
    size_t n_in_max; /* bytes of all messages */
};

/* Render with the given user text.  *out is freed with ft_free. */
static ft_status render(const struct chat *chat, const char *user, char **out,
                        struct ft_error *err) {
    struct llama_chat_message message[2];
    size_t n_message = 0;
    if (chat->system != NULL && chat->system[0] != '\0') {
        message[n_message++] = (struct llama_chat_message){ "system", chat->system };
    }
    message[n_message++] = (struct llama_chat_message){ "user", user };
    int32_t n = llama_chat_apply_template(chat->template, message, n_message, true, NULL, 0);
    if (n < 0) {
        return ft_fail(err, FT_UNSUP, 0, "%s: tokenizer.chat_template is none that libllama knows",
                       chat->model->path);
    }
    /* libllama fills the buffer by strncpy: one byte more, so that a terminator always fits */
    char *text = ft_alloc((size_t)n + 2, 1);
    if (text == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "chat: no memory for %d bytes", n);
    }
    llama_chat_apply_template(chat->template, message, n_message, true, text, n + 1);
    *out = text;
    return FT_OK;
}

/* A word that does not occur in the system text. */
static void stranger(const char *system, char word[32]) {
    for (unsigned i = 0;; i++) {
        snprintf(word, 32, "x%08xQ", i);
        if (system == NULL || strstr(system, word) == NULL) {
            return;
        }
    }
}

/* Bytes in front of the user's text.  What a template puts there does not depend on that text, so
 * another text that cannot be confused with anything around it shows where it goes. */
static ft_status head_bytes(const struct chat *chat, const char *text, size_t *n_head,
                            struct ft_error *err) {
    char word[32];
    char *probe = NULL;
    stranger(chat->system, word);
    FT_TRY(render(chat, word, &probe, err));
    const char *at = strstr(probe, word);
    size_t n = at == NULL ? 0 : (size_t)(at - probe);
    bool is_same = at != NULL && strncmp(probe, text, n) == 0;
    ft_free(probe);
    if (!is_same) {
        return ft_fail(err, FT_UNSUP, 0,
                       "%s: tokenizer.chat_template does not show where the user's"
                       " text starts",
                       chat->model->path);
    }
    *n_head = n;
    return FT_OK;
}

static ft_status check_message(const char *what, const char *text, size_t *n,
                               struct ft_error *err) {
    *n = text == NULL ? 0 : strlen(text);
    size_t bad = *n == 0 ? 0 : ft_utf8_check(text, *n);
    if (bad < *n) {
        return ft_fail(err, FT_FORMAT, bad, "%s text is not UTF-8 at byte %zu", what, bad);
    }
    return FT_OK;
}

ft_status ft_chat_render(const ft_model *model, const char *system, const char *user, char **out,
                         size_t *n_head_byte, struct ft_error *err) {
    size_t n_system, n_user, n_head = 0;
    FT_TRY(check_message("system", system, &n_system, err));
    FT_TRY(check_message("user", user, &n_user, err));
    if (n_system > INT32_MAX / 4 || n_user > INT32_MAX / 4) {
        return ft_fail(err, FT_LIMIT, 0, "chat: %zu bytes of text, expected at most %d",
                       FT_MAX(n_system, n_user), INT32_MAX / 4);
    }
    struct chat chat = {
        .model = model,
        .template = llama_model_chat_template(ft_model_vocab_llama(model), NULL),
        .system = system,
    };
    if (chat.template == NULL || chat.template[0] == '\0') {
        return ft_fail(err, FT_UNSUP, 0, "%s: no tokenizer.chat_template in the file", model->path);
    }
    char *text = NULL;
    FT_TRY(render(&chat, user == NULL ? "" : user, &text, err));
    if (n_head_byte != NULL) {
        ft_status status = head_bytes(&chat, text, &n_head, err);
        if (status != FT_OK) {
            ft_free(text);
            return status;
        }
        *n_head_byte = n_head;
    }
    *out = text;
    return FT_OK;
}

void ft_text_free(char *text) {
    ft_free(text);
}

/* ---- pairs ---- */

/* A token's text for a message: one line, at most 40 bytes, whole characters. */
static const char *quote(const ft_model *model, uint32_t id, char buf[48]) {
    const struct llama_vocab *vocab = vocab_of(model);
    if (id >= (uint32_t)llama_vocab_n_tokens(vocab)) {
        return "(none)";
    }
    const char *text = llama_vocab_get_text(vocab, (ft_token)id);
    size_t n = FT_MIN(strlen(text), (size_t)40);
    n -= ft_utf8_tail(text, n);
    buf[0] = '\'';
    for (size_t i = 0; i < n; i++) {
        buf[i + 1] = (unsigned char)text[i] < 0x20 ? ' ' : text[i];
    }
    buf[n + 1] = '\'';
    buf[n + 2] = '\0';
    return buf;
}

static ft_status differ(const ft_model *target, const ft_model *draft, uint32_t id,
                        struct ft_error *err) {
    char a[48], b[48];
    return ft_fail(err, FT_MISMATCH, id,
                   "vocabularies differ at token %" PRIu32 ": target has %s, "
                   "draft has %s",
                   id, quote(target, id, a), quote(draft, id, b));
}

static ft_status compare_special(const char *name, ft_token target, ft_token draft,
                                 struct ft_error *err) {
    if (target >= 0 && draft >= 0 && target != draft) {
        return ft_fail(err, FT_MISMATCH, (uint64_t)target,
                       "vocabularies differ: target has token %d"
                       " as %s, draft has %d",
                       target, name, draft);
    }
    return FT_OK;
}

ft_status ft_vocab_compare(const ft_model *target, const ft_model *draft, struct ft_error *err) {
    const struct llama_vocab *a = vocab_of(target);
    const struct llama_vocab *b = vocab_of(draft);
    uint32_t n_a = ft_model_hparams(target)->n_vocab_real;
    uint32_t n_b = ft_model_hparams(draft)->n_vocab_real;
    uint32_t n_both = FT_MIN(FT_MIN(n_a, n_b),
                             (uint32_t)FT_MIN(llama_vocab_n_tokens(a), llama_vocab_n_tokens(b)));
    for (uint32_t id = 0; id < n_both; id++) {
        if (strcmp(llama_vocab_get_text(a, (ft_token)id), llama_vocab_get_text(b, (ft_token)id)) !=
            0) {
            return differ(target, draft, id, err);
        }
    }
    if (n_a != n_b) { /* one has a real token where the other has padding or nothing */
        return differ(target, draft, n_both, err);
    }
    FT_TRY(compare_special("BOS", llama_vocab_bos(a), llama_vocab_bos(b), err));
    return compare_special("EOS", llama_vocab_eos(a), llama_vocab_eos(b), err);
}
