/* SPDX-License-Identifier: Apache-2.0 */
/* generate.c - the smallest program on libforetoken: read a text, print what the model writes next.
 *
 *     generate MODEL.gguf TEXT
 */
#include <foretoken.h>

#include <stdio.h>
#include <string.h>

static ft_status print_answer(const ft_model *model, ft_session *session, struct ft_error *err) {
    ft_token id;
    ft_status status;
    while ((status = ft_session_next(session, &id, err)) == FT_OK && !ft_token_is_end(model, id)) {
        char piece[256];
        size_t n = ft_token_piece(model, id, false, piece, sizeof piece);
        if (n <= sizeof piece) {
            fwrite(piece, 1, n, stdout);
        }
    }
    printf("\n");
    return status == FT_LIMIT ? FT_OK : status; /* all tokens that were asked for */
}

static ft_status run(const char *path, const char *text, struct ft_error *err) {
    struct ft_session_params params = ft_session_defaults();
    params.n_predict = 16;

    ft_model *model = NULL;
    ft_session *session = NULL;
    struct ft_tokens tokens = { NULL, 0 };
    ft_status status = ft_model_open(path, FT_LOAD_FULL, &model, err);
    if (status == FT_OK) {
        status = ft_tokenize(model, text, strlen(text), FT_TOKENIZE_BOS, &tokens, err);
    }
    if (status == FT_OK) {
        status = ft_session_new(model, NULL, &params, &session, err);
    }
    if (status == FT_OK) {
        status = ft_session_prompt(session, tokens.id, tokens.n, 0, err);
    }
    if (status == FT_OK) {
        status = print_answer(model, session, err);
    }
    ft_session_free(session);
    ft_tokens_free(&tokens);
    ft_model_close(model);
    return status;
}

int main(int argc, char **argv) {
    struct ft_error err = { 0 };
    if (argc != 3) {
        fprintf(stderr, "foretoken %s\nusage: generate MODEL.gguf TEXT\n", ft_version());
        return 2;
    }
    if (run(argv[1], argv[2], &err) != FT_OK) {
        fprintf(stderr, "generate: %s\n", err.text);
        return 1;
    }
    return 0;
}
