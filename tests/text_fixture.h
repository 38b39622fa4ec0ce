/* SPDX-License-Identifier: Apache-2.0 */
/* text_fixture.h - models for the tests of text and sampler: a shipped one, and changed copies. */
#ifndef FT_TESTS_TEXT_FIXTURE_H
#define FT_TESTS_TEXT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gguf_edit.h"
#include "model/load.h"

static inline ft_model *text_model_at(const char *path) {
    struct ft_error err = { .code = FT_OK };
    ft_model *model = NULL;
    if (ft_model_open(path, FT_LOAD_VOCAB, &model, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

static inline void text_path(char out[512]) {
    snprintf(out, 512, "%s/models/foretoken-draft-f16.gguf", FT_TEST_SOURCE_DIR);
}

static inline ft_model *text_model(void) {
    char path[512];
    text_path(path);
    return text_model_at(path);
}

/* The shipped draft with its header changed as gguf_edit.h says. */
static inline ft_model *text_model_edited(const char *name, const char *commands) {
    char path[512];
    text_path(path);
    struct ge g = ge_load(path);
    size_t n = 0;
    ge_edit(&g, commands);
    uint8_t *bytes = ge_build(&g, &n);
    snprintf(path, sizeof(path), "%s/%s.gguf", FT_TEST_SCRATCH_DIR, name);
    ge_write(path, bytes, n);
    free(bytes);
    ge_free(&g);
    return text_model_at(path);
}

/* A SentencePiece vocabulary of the same tokens: ids 512..767 become <0x00>..<0xFF>; behind them
 * come a blank, two blanks, a blank before each small letter, and one behind each of a..m. */
static inline ft_model *text_model_spm(void) {
    char path[512], command[64];
    text_path(path);
    struct ge g = ge_load(path);
    size_t n = 0;
    ge_edit(&g, "str tokenizer.ggml.model llama");
    for (unsigned i = 0; i < 256; i++) {
        snprintf(command, sizeof(command), "token %u <0x%02X>; toktype %u 6", 512 + i, i, 512 + i);
        ge_edit(&g, command);
    }
    ge_edit(&g, "token 768 \xE2\x96\x81; token 769 \xE2\x96\x81\xE2\x96\x81");
    for (unsigned i = 0; i < 26; i++) {
        snprintf(command, sizeof(command), "token %u \xE2\x96\x81%c", 770 + i, (char)('a' + i));
        ge_edit(&g, command);
    }
    for (unsigned i = 0; i < 13; i++) {
        snprintf(command, sizeof(command), "token %u %c\xE2\x96\x81", 796 + i, (char)('a' + i));
        ge_edit(&g, command);
    }
    uint8_t *bytes = ge_build(&g, &n);
    snprintf(path, sizeof(path), "%s/spm.gguf", FT_TEST_SCRATCH_DIR);
    ge_write(path, bytes, n);
    free(bytes);
    ge_free(&g);
    return text_model_at(path);
}

static inline struct ft_tokens text_tokens(const ft_model *model, const char *text, size_t n,
                                           unsigned flags) {
    struct ft_error err = { .code = FT_OK };
    struct ft_tokens tokens = { .n = 0 };
    if (ft_tokenize(model, text, n, flags, &tokens, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return tokens;
}

/* The bytes of some tokens; the caller frees. */
static inline char *text_pieces(const ft_model *model, const ft_token *id, uint32_t n, bool special,
                                size_t *n_byte) {
    size_t cap = 64;
    char *out = malloc(cap);
    *n_byte = 0;
    for (uint32_t t = 0; t < n; t++) {
        size_t need = ft_token_piece(model, id[t], special, NULL, 0);
        while (*n_byte + need + 1 > cap) {
            cap *= 2;
            out = realloc(out, cap);
        }
        assert_non_null(out);
        *n_byte += ft_token_piece(model, id[t], special, out + *n_byte, cap - *n_byte);
    }
    out[*n_byte] = '\0';
    return out;
}

#endif
