/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - a prompt as ids: plain, or through the model's chat template. */
#include <string.h>

#include "eval/run.h"

/* is_bos_there - whether a rendered chat begins with the token the tokenizer would add. */
static bool is_bos_there(const ft_model *model, const char *text, size_t n) {
    struct ft_tokens bos = { 0 }, own = { 0 };
    size_t head = FT_MIN(n, (size_t)64);
    head -= ft_utf8_tail(text, head);
    bool is_there = ft_tokenize(model, "", 0, FT_TOKENIZE_BOS, &bos, NULL) == FT_OK &&
                    ft_tokenize(model, text, head, FT_TOKENIZE_SPECIAL, &own, NULL) == FT_OK &&
                    bos.n > 0 && own.n > 0 && bos.id[0] == own.id[0];
    ft_tokens_free(&bos);
    ft_tokens_free(&own);
    return is_there;
}

/* count_head - tokens of a text that hold its head: the common beginning of both tokenizations, and
 * one more where a token crosses the border. */
static uint32_t count_head(const struct ft_tokens *head, const struct ft_tokens *tokens) {
    uint32_t n = 0;
    while (n < head->n && n < tokens->n && head->id[n] == tokens->id[n]) {
        n++;
    }
    return n < head->n ? FT_MIN(n + 1, tokens->n) : n;
}

/* join - a and b in one piece of memory, or NULL. */
static char *join(const char *a, const char *b) {
    size_t n_a = strlen(a), n_b = b ? strlen(b) : 0;
    char *both = ft_alloc(n_a + n_b + 1, 1);
    if (both) {
        memcpy(both, a, n_a);
        if (b) {
            memcpy(both + n_a, b, n_b);
        }
    }
    return both;
}

static ft_status tokenize_chat(const ft_model *model, const char *text, size_t n_head_byte,
                               struct ft_tokens *out, uint32_t *n_head, struct ft_error *error) {
    size_t n = strlen(text);
    unsigned flags =
        FT_TOKENIZE_SPECIAL | (is_bos_there(model, text, n) ? 0u : (unsigned)FT_TOKENIZE_BOS);
    struct ft_tokens head = { 0 };
    FT_TRY(ft_tokenize(model, text, n_head_byte, flags, &head, error));
    ft_status status = ft_tokenize(model, text, n, flags, out, error);
    if (status == FT_OK) {
        *n_head = count_head(&head, out);
    }
    ft_tokens_free(&head);
    return status;
}

ft_status ft_chat_tokens(const ft_model *model, const struct ft_chat *chat, struct ft_tokens *out,
                         uint32_t *n_head, struct ft_error *error) {
    char *rendered = NULL;
    size_t n_head_byte = 0;
    ft_status status = FT_OK;
    if (!chat->is_plain) {
        FT_TRY(ft_chat_render(model, chat->system, chat->user, &rendered, &n_head_byte, error));
    }
    char *text = join(chat->is_plain ? chat->user : rendered, chat->begun);
    ft_text_free(rendered);
    if (!text) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a prompt");
    }
    if (chat->is_plain) {
        unsigned flags = FT_TOKENIZE_BOS | (chat->has_special ? (unsigned)FT_TOKENIZE_SPECIAL : 0u);
        status = ft_tokenize(model, text, strlen(text), flags, out, error);
        *n_head = status == FT_OK ? 0 : *n_head;
    } else {
        status = tokenize_chat(model, text, n_head_byte, out, n_head, error);
    }
    ft_free(text);
    return status;
}
