/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - from a prompt's text to the ids that a session reads: the chat template, and how much of
 * it is the system's header.
 */
#include <string.h>

#include "cli/cli.h"

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

/* count_head - tokens that hold the first n_byte bytes of text: the common beginning of both
 * tokenizations, and one more where a token crosses the border. */
static ft_status count_head(const ft_model *model, const char *text, size_t n_byte, unsigned flags,
                            const struct ft_tokens *all, uint32_t *n_head, struct ft_error *error) {
    struct ft_tokens head = { 0 };
    uint32_t n = 0;
    FT_TRY(ft_tokenize(model, text, n_byte, flags, &head, error));
    while (n < head.n && n < all->n && head.id[n] == all->id[n]) {
        n++;
    }
    *n_head = n < head.n ? FT_MIN(n + 1, all->n) : n;
    ft_tokens_free(&head);
    return FT_OK;
}

static ft_status chat_tokens(const struct ft_setup *setup, const char *text, struct ft_tokens *out,
                             uint32_t *n_head, struct ft_error *error) {
    const struct ft_conf *conf = setup->conf;
    unsigned flags = FT_TOKENIZE_BOS | FT_TOKENIZE_SPECIAL;
    char *system = conf->system ? ft_strdup(conf->system) : NULL, *rendered = NULL;
    size_t n_head_byte = 0;
    if (conf->system && !system) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the system message");
    }
    if (system && conf->is_escape) {
        ft_text_escape(conf->system, system);
    }
    ft_status status = ft_chat_render(setup->target, system, text, &rendered, &n_head_byte, error);
    ft_free(system);
    if (status == FT_OK) {
        size_t n = strlen(rendered);
        if (is_bos_there(setup->target, rendered, n)) {
            flags = FT_TOKENIZE_SPECIAL;
        }
        status = ft_tokenize(setup->target, rendered, n, flags, out, error);
    }
    if (status == FT_OK) {
        status = count_head(setup->target, rendered, n_head_byte, flags, out, n_head, error);
    }
    ft_text_free(rendered);
    return status;
}

ft_status ft_prompt_tokens(const struct ft_setup *setup, const char *text, size_t n,
                           struct ft_tokens *out, uint32_t *n_head, struct ft_error *error) {
    *n_head = 0;
    return setup->conf->is_chat ? chat_tokens(setup, text, out, n_head, error)
                                : ft_tokenize(setup->target, text, n,
                                              FT_TOKENIZE_BOS | FT_TOKENIZE_SPECIAL, out, error);
}
