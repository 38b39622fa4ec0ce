/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.c - text to token ids and back, chat templates, and whether two vocabularies are the same.
 *
 * The work is libllama's; what it would answer with an abort, an exception or a stack overflow is
 * checked here first.  Long text goes to it in pieces (cut.c).  BOS is added here and not by
 * libllama, which would add it in front of a BOS that is already there, and EOS behind.
 */
#include "model/vocab.h"

#include <inttypes.h>
#include <llama.h>
#include <stdio.h>
#include <string.h>

#include "model/cut.h"
#include "model/load.h"

static const struct llama_vocab *vocab_of(const ft_model *model) {
    return llama_model_get_vocab(ft_model_vocab_llama(model));
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

/* libllama ends the program when its tokenizer gets no memory: ask for as much first.  It splits a
 * text into code points with classes, words and symbols, fewer than TEXT_FACTOR bytes for each. */
static ft_status check_room(size_t n, struct ft_error *err) {
    enum { TEXT_FACTOR = 256, TEXT_LEAST = 1 << 20 };
    size_t need = n * TEXT_FACTOR + TEXT_LEAST;
    void *probe = ft_pages_map(need);
    if (probe == NULL) {
        return ft_fail_memory(err, need, "a text of %zu bytes to be split into tokens", n);
    }
    ft_pages_unmap(probe, need);
    return FT_OK;
}

static ft_status add_piece(struct id_list *list, const struct llama_vocab *vocab, const char *text,
                           size_t n, bool parse, struct ft_error *err) {
    size_t room = n + 8; /* byte-level tokens have a byte each; more is asked for below */
    FT_TRY(check_room(n, err));
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

/* A later piece of SentencePiece text: libllama puts a space in front of each text, so the piece
 * gets a line feed in front, and what both of them become is dropped again. */
static ft_status add_joined(struct id_list *list, const struct llama_vocab *vocab, const char *text,
                            size_t n, bool parse, struct ft_error *err) {
    struct id_list front = { .n = 0 };
    size_t start = list->n;
    char *joined = ft_alloc(n + 1, 1);
    if (joined == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "text: no memory for a piece of %zu bytes", n);
    }
    joined[0] = '\n';
    memcpy(joined + 1, text, n);
    ft_status status = add_piece(&front, vocab, "\n", 1, parse, err);
    if (status == FT_OK) {
        status = add_piece(list, vocab, joined, n + 1, parse, err);
    }
    if (status == FT_OK && list->n - start >= front.n) {
        list->n -= front.n;
        memmove(list->id + start, list->id + start + front.n,
                (list->n - start) * sizeof(*list->id));
    }
    ft_free(front.id);
    ft_free(joined);
    return status;
}

static ft_status add_text(struct id_list *list, const ft_model *model, const char *text, size_t n,
                          bool parse, struct ft_error *err) {
    const struct llama_vocab *vocab = vocab_of(model);
    if (n <= FT_CUT_NONE) {
        return n == 0 ? FT_OK : add_piece(list, vocab, text, n, parse, err);
    }
    struct ft_cut cut;
    bool is_fresh = true;
    ft_status status = ft_model__cut_init(&cut, model, parse, err);
    for (size_t from = 0; from < n && status == FT_OK;) {
        bool is_next_fresh;
        size_t end = ft_model__cut_next(&cut, text, from, n, &is_next_fresh);
        status = is_fresh ? add_piece(list, vocab, text + from, end - from, parse, err)
                          : add_joined(list, vocab, text + from, end - from, parse, err);
        is_fresh = is_next_fresh;
        from = end;
    }
    ft_model__cut_done(&cut);
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
