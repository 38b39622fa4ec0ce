/* SPDX-License-Identifier: Apache-2.0 */
/* mkmodel.c - makes small GGUF models for tests, from nothing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny.h"

static const char usage[] =
    "usage: mkmodel OUT.gguf [--arch llama|qwen2|qwen3] [--type "
    "f32|f16|bf16|q8_0|q4_0|...|q6_k|iq4_nl|iq4_xs]\n"
    "               [--layers N] [--embd N] [--heads N] [--kv-heads N] [--head-dim N] [--ff N] "
    "[--vocab N]\n"
    "               [--pad-vocab N] [--ctx N] [--seed N] [--tied] [--bias] [--bos] [--chat] "
    "[--name TEXT]\n"
    "               [--pre smollm|llama-bpe|qwen2] [--rope plain|linear|yarn|llama3] [--rope-base "
    "X]\n"
    "               [--sharpness X] [--split N]\n"
    "       mkmodel --planted FOLDER\n"
    "       mkmodel --seeds FOLDER      the corpus of the GGUF fuzzer\n"
    "\n"
    "The first form writes a model with random weights and a byte-level BPE tokenizer.  The second "
    "writes\n"
    "target.gguf, draft.gguf, blind.gguf and planted.json: models whose weights are set by hand, "
    "so that the\n"
    "answer depends on one row of the cache that only the queries of drafted tokens can find.\n"
    "\n"
    "A prompt for the planted pair is bytes: lower-case letters and blanks are filler, 'X' is a "
    "decoy that\n"
    "every prompt query votes for, ONE digit is the needle, and the last byte is '?'.  The target "
    "answers\n"
    "':=' and the digit; without the needle's row it answers ':=-'.  The draft writes ':=-', so "
    "its second\n"
    "token has the query that finds the needle; the blind draft writes '::::' and never asks.\n";

struct option {
    const char *name;
    enum { UINT, REAL, TEXT, FLAG, SEED, ROPE } kind;
    size_t at;
};

#define FIELD(name) offsetof(struct ft_tiny_params, name)
static const struct option options[] = {
    { "--arch", TEXT, FIELD(arch) },           { "--type", TEXT, FIELD(type) },
    { "--name", TEXT, FIELD(name) },           { "--pre", TEXT, FIELD(pre) },
    { "--layers", UINT, FIELD(n_layer) },      { "--embd", UINT, FIELD(n_embd) },
    { "--heads", UINT, FIELD(n_head) },        { "--kv-heads", UINT, FIELD(n_head_kv) },
    { "--head-dim", UINT, FIELD(head_dim) },   { "--ff", UINT, FIELD(n_ff) },
    { "--vocab", UINT, FIELD(n_vocab) },       { "--pad-vocab", UINT, FIELD(n_pad) },
    { "--ctx", UINT, FIELD(n_ctx) },           { "--split", UINT, FIELD(n_split) },
    { "--seed", SEED, FIELD(seed) },           { "--rope-base", REAL, FIELD(rope_base) },
    { "--sharpness", REAL, FIELD(sharpness) }, { "--rope", ROPE, FIELD(rope) },
    { "--tied", FLAG, FIELD(is_tied) },        { "--bias", FLAG, FIELD(has_bias) },
    { "--bos", FLAG, FIELD(has_bos) },         { "--chat", FLAG, FIELD(has_chat) },
};

static bool rope_read(const char *text, enum ft_tiny_rope *out) {
    static const char *const names[] = { "plain", "linear", "yarn", "llama3" };
    for (size_t i = 0; i < FT_COUNT(names); i++) {
        if (strcmp(names[i], text) == 0) {
            *out = (enum ft_tiny_rope)i;
            return true;
        }
    }
    return false;
}

static bool option_set(const struct option *o, const char *text, struct ft_tiny_params *p) {
    char *field = (char *)p + o->at, *end = NULL;
    errno = 0;
    if (o->kind == FLAG) {
        *(bool *)field = true;
        return true;
    }
    if (text == NULL || *text == '\0') {
        return false;
    }
    if (o->kind == TEXT) {
        *(const char **)field = text;
        return true;
    }
    if (o->kind == ROPE) {
        return rope_read(text, (enum ft_tiny_rope *)field);
    }
    if (o->kind == REAL) {
        *(float *)field = strtof(text, &end);
        return *end == '\0' && errno == 0;
    }
    unsigned long long value = strtoull(text, &end, 10);
    if (*end != '\0' || errno != 0 || text[0] == '-' || (o->kind == UINT && value > UINT32_MAX)) {
        return false;
    }
    if (o->kind == UINT) {
        *(uint32_t *)field = (uint32_t)value;
    } else {
        *(uint64_t *)field = value;
    }
    return true;
}

static const struct option *option_find(const char *name) {
    for (size_t i = 0; i < FT_COUNT(options); i++) {
        if (strcmp(options[i].name, name) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct ft_tiny_params p = ft_tiny_defaults();
    struct ft_error err = { .code = FT_OK };
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    ft_status status;
    if (strcmp(argv[1], "--planted") == 0 && argc == 3) {
        status = ft_tiny_planted(argv[2], &err);
    } else if (strcmp(argv[1], "--seeds") == 0 && argc == 3) {
        status = ft_tiny_seeds(argv[2], &err);
    } else {
        for (int i = 2; i < argc; i++) {
            const struct option *o = option_find(argv[i]);
            bool has_value = o != NULL && o->kind != FLAG;
            if (o == NULL || !option_set(o, has_value ? argv[i + 1] : NULL, &p)) {
                fprintf(stderr, "mkmodel: bad option or value: %s\n%s", argv[i], usage);
                return 2;
            }
            i += has_value;
        }
        if (strcmp(p.arch, "qwen2") == 0) {
            p.has_bias = true; /* the family has biases on q, k and v */
        }
        status = ft_tiny_write(argv[1], &p, &err);
    }
    if (status != FT_OK) {
        fprintf(stderr, "mkmodel: %s\n", err.text);
        return 1;
    }
    return 0;
}
