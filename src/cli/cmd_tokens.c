/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_tokens.c - the token ids of a text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* piece_of - bytes of a token; out [cap], longer ones are cut. */
static size_t piece_of(const ft_model *model, ft_token id, char *out, size_t cap) {
    size_t n = ft_token_piece(model, id, true, out, cap);
    return n <= cap ? n : 0;
}

/* print_piece - a piece as a quoted text: what is not printable ASCII or whole UTF-8 is escaped. */
static void print_piece(const char *piece, size_t n) {
    bool is_text = ft_utf8_check(piece, n) == n;
    ft_out("\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)piece[i];
        if (byte == '\n') {
            ft_out("\\n");
        } else if (byte == '"' || byte == '\\') {
            ft_out("\\%c", byte);
        } else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !is_text)) {
            ft_out("\\x%02x", byte);
        } else {
            ft_out_bytes(piece + i, 1);
        }
    }
    ft_out("\"");
}

static void print_text(const ft_model *model, const struct ft_tokens *tokens, bool is_pieces) {
    char piece[4096];
    for (uint32_t t = 0; t < tokens->n; t++) {
        if (is_pieces) {
            ft_out("%d\t", tokens->id[t]);
            print_piece(piece, piece_of(model, tokens->id[t], piece, sizeof piece));
            ft_out("\n");
        } else {
            ft_out(t + 1 < tokens->n ? "%d " : "%d\n", tokens->id[t]);
        }
    }
}

static void print_json(const ft_model *model, const struct ft_tokens *tokens) {
    json_t *root = json_object(), *ids = json_array(), *pieces = json_array();
    char piece[4096];
    for (uint32_t t = 0; t < tokens->n; t++) {
        size_t n = piece_of(model, tokens->id[t], piece, sizeof piece);
        json_array_append_new(ids, json_integer(tokens->id[t]));
        json_t *text = json_stringn(piece, n);
        if (!text) { /* a part of a character: its bytes, as llama.cpp's server does */
            text = json_array();
            for (size_t i = 0; i < n; i++) {
                json_array_append_new(text, json_integer((unsigned char)piece[i]));
            }
        }
        json_array_append_new(pieces, text);
    }
    json_object_set_new(root, "n", json_integer(tokens->n));
    json_object_set_new(root, "ids", ids);
    json_object_set_new(root, "pieces", pieces);
    ft_json_print(root);
}

int ft_cmd_tokens(const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    struct ft_tokens tokens = { 0 };
    ft_model *model = NULL;
    char *text = NULL;
    size_t n = 0;
    if (!conf->model) {
        return ft_complain(FT_EXIT_USAGE, "which model? -m FILE is needed");
    }
    int code = ft_read_text(conf, &text, &n);
    if (code == FT_EXIT_OK && ft_model_open(conf->model, FT_LOAD_VOCAB, &model, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK) {
        unsigned flags = (conf->is_bare ? 0u : FT_TOKENIZE_BOS) |
                         (conf->is_plain_text ? 0u : FT_TOKENIZE_SPECIAL);
        if (ft_tokenize(model, text, n, flags, &tokens, &error) != FT_OK) {
            code = ft_complain_error(NULL, &error);
        } else if (conf->is_json) {
            print_json(model, &tokens);
        } else {
            print_text(model, &tokens, conf->is_pieces);
        }
    }
    ft_tokens_free(&tokens);
    ft_model_close(model);
    free(text);
    return code;
}
