/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_edit.h - takes a good GGUF file apart, changes it as a line of text says, and puts it
 * together again.
 *
 *     struct ge g = ge_load(path);
 *     ge_edit(&g, "u32 llama.block_count 0; del general.name; tensor token_embd.weight ne0 63");
 *     size_t n; uint8_t *bytes = ge_build(&g, &n);
 *
 * Commands, separated by ';':
 *     u8|u16|u32|i32|u64|f32|bool|str KEY VALUE     set or add a key
 *     u32s|i32s|f32s KEY A,B,...                    an array       strs KEY A,B,...   of texts
 *     del KEY          type KEY N                   remove; change the type number only
 *     token ID TEXT    toktype ID N                 one element of the vocabulary
 *     tensor NAME ne0|ne1|dims|type|offset N        change the entry only
 *     tensor NAME as TYPE BYTES                     change type and data size
 *     tensor NAME drop|dup      rename OLD NEW
 * For tests: the file it reads is trusted.
 */
#ifndef FT_TESTS_GGUF_EDIT_H
#define FT_TESTS_GGUF_EDIT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ge_bytes {
    uint8_t *data;
    size_t n;
};

struct ge_entry { /* a key with its raw value, or a tensor with its data */
    char name[128];
    uint32_t type, n_dim;
    uint64_t ne[4];
    int64_t offset; /* of a tensor: -1 what it should be */
    struct ge_bytes value;
};

struct ge {
    struct ge_entry *key, *tensor;
    size_t n_key, n_tensor;
};

#define GE_CHECK(cond) ((cond) ? (void)0 : ge_die(#cond, __LINE__))
static inline void ge_die(const char *what, int line) {
    fprintf(stderr, "gguf_edit.h:%d: %s\n", line, what);
    abort();
}

static inline uint64_t ge_get(const uint8_t *p, size_t n) {
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) {
        value |= (uint64_t)p[i] << (8 * i);
    }
    return value;
}

static inline void ge_put(struct ge_bytes *b, const void *data, size_t n) {
    uint8_t *grown = realloc(b->data, b->n + n + 1);
    GE_CHECK(grown != NULL);
    if (n > 0) {
        memcpy(grown + b->n, data, n);
    }
    b->data = grown;
    b->n += n;
}

static inline void ge_put_number(struct ge_bytes *b, uint64_t value, size_t n) {
    uint8_t bytes[8];
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    ge_put(b, bytes, n);
}

static inline void ge_put_text(struct ge_bytes *b, const char *text) {
    ge_put_number(b, strlen(text), 8);
    ge_put(b, text, strlen(text));
}

static inline struct ge_bytes ge_read(const char *path) {
    struct ge_bytes b = { NULL, 0 };
    FILE *file = fopen(path, "rb");
    GE_CHECK(file != NULL);
    uint8_t block[65536];
    for (size_t n; (n = fread(block, 1, sizeof(block), file)) > 0;) {
        ge_put(&b, block, n);
    }
    fclose(file);
    return b;
}

static inline void ge_write(const char *path, const uint8_t *data, size_t n) {
    FILE *file = fopen(path, "wb");
    GE_CHECK(file != NULL);
    GE_CHECK(fwrite(data, 1, n, file) == n);
    GE_CHECK(fclose(file) == 0);
}

static inline size_t ge_type_bytes(uint64_t type) {
    static const uint8_t bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return type < sizeof(bytes) ? bytes[type] : 0;
}

/* Bytes of a value of this type at p. */
static inline size_t ge_value_bytes(const uint8_t *p, uint64_t type) {
    if (type == 8) {
        return 8 + (size_t)ge_get(p, 8);
    }
    if (type != 9) {
        return ge_type_bytes(type);
    }
    uint64_t item = ge_get(p, 4), n = ge_get(p + 4, 8);
    size_t at = 12;
    for (uint64_t i = 0; i < n; i++) {
        at += ge_value_bytes(p + at, item);
    }
    return at;
}

static inline void ge_name(struct ge_entry *e, const uint8_t *p, size_t *at) {
    size_t n = (size_t)ge_get(p + *at, 8);
    GE_CHECK(n < sizeof(e->name));
    memcpy(e->name, p + *at + 8, n);
    *at += 8 + n;
}

static inline struct ge ge_load(const char *path) {
    struct ge_bytes b = ge_read(path);
    struct ge g = { .n_tensor = (size_t)ge_get(b.data + 8, 8),
                    .n_key = (size_t)ge_get(b.data + 16, 8) };
    g.key = calloc(g.n_key + 64, sizeof(*g.key)); /* room for what edits add */
    g.tensor = calloc(g.n_tensor + 16, sizeof(*g.tensor));
    GE_CHECK(g.key != NULL && g.tensor != NULL);
    size_t at = 24;
    for (size_t i = 0; i < g.n_key; i++) {
        ge_name(&g.key[i], b.data, &at);
        g.key[i].type = (uint32_t)ge_get(b.data + at, 4);
        at += 4;
        size_t n = ge_value_bytes(b.data + at, g.key[i].type);
        ge_put(&g.key[i].value, b.data + at, n);
        at += n;
    }
    for (size_t i = 0; i < g.n_tensor; i++) {
        struct ge_entry *t = &g.tensor[i];
        ge_name(t, b.data, &at);
        t->n_dim = (uint32_t)ge_get(b.data + at, 4);
        at += 4;
        for (uint32_t d = 0; d < t->n_dim; d++, at += 8) {
            t->ne[d] = ge_get(b.data + at, 8);
        }
        t->type = (uint32_t)ge_get(b.data + at, 4);
        t->offset = (int64_t)ge_get(b.data + at + 4, 8);
        at += 12;
    }
    at = (at + 31) / 32 * 32;
    for (size_t i = 0; i < g.n_tensor; i++) {
        struct ge_entry *t = &g.tensor[i];
        size_t first = at + (size_t)t->offset,
               end = i + 1 < g.n_tensor ? at + (size_t)t[1].offset : b.n;
        ge_put(&t->value, b.data + first, end - first);
        t->offset = -1;
    }
    free(b.data);
    return g;
}

static inline void ge_free(struct ge *g) {
    for (size_t i = 0; i < g->n_key; i++) {
        free(g->key[i].value.data);
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        free(g->tensor[i].value.data);
    }
    free(g->key);
    free(g->tensor);
    memset(g, 0, sizeof(*g));
}

static inline uint8_t *ge_build(const struct ge *g, size_t *n) {
    static const uint8_t zeros[32];
    struct ge_bytes b = { NULL, 0 };
    uint64_t offset = 0;
    ge_put(&b, "GGUF", 4);
    ge_put_number(&b, 3, 4);
    ge_put_number(&b, g->n_tensor, 8);
    ge_put_number(&b, g->n_key, 8);
    for (size_t i = 0; i < g->n_key; i++) {
        ge_put_text(&b, g->key[i].name);
        ge_put_number(&b, g->key[i].type, 4);
        ge_put(&b, g->key[i].value.data, g->key[i].value.n);
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        const struct ge_entry *t = &g->tensor[i];
        ge_put_text(&b, t->name);
        ge_put_number(&b, t->n_dim, 4);
        for (uint32_t d = 0; d < t->n_dim && d < 4; d++) {
            ge_put_number(&b, t->ne[d], 8);
        }
        ge_put_number(&b, t->type, 4);
        ge_put_number(&b, t->offset >= 0 ? (uint64_t)t->offset : offset, 8);
        offset += (t->value.n + 31) / 32 * 32;
    }
    ge_put(&b, zeros, (32 - b.n % 32) % 32);
    for (size_t i = 0; i < g->n_tensor; i++) {
        ge_put(&b, g->tensor[i].value.data, g->tensor[i].value.n);
        ge_put(&b, zeros, (32 - b.n % 32) % 32);
    }
    *n = b.n;
    return b.data;
}

/* ---- edits ---- */

static inline struct ge_entry *ge_find(struct ge_entry *list, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].name, name) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

static inline struct ge_entry *ge_key(struct ge *g, const char *name, uint32_t type) {
    struct ge_entry *key = ge_find(g->key, g->n_key, name);
    if (key == NULL) {
        key = &g->key[g->n_key++];
        snprintf(key->name, sizeof(key->name), "%s", name);
    }
    key->type = type;
    key->value.n = 0;
    return key;
}

static inline void ge_remove(struct ge_entry *list, size_t *n, struct ge_entry *e) {
    GE_CHECK(e != NULL);
    free(e->value.data);
    memmove(e, e + 1, (size_t)(list + *n - e - 1) * sizeof(*e));
    memset(&list[--*n], 0, sizeof(*e));
}

static inline void ge_put_typed(struct ge_bytes *b, uint32_t type, const char *text) {
    float real = strtof(text, NULL);
    uint32_t bits;
    memcpy(&bits, &real, sizeof(bits));
    if (type == 8) {
        ge_put_text(b, text);
    } else {
        ge_put_number(b,
                      type == 6        ? bits
                      : text[0] == '-' ? (uint64_t)strtoll(text, NULL, 0)
                                       : strtoull(text, NULL, 0),
                      ge_type_bytes(type));
    }
}

static inline void ge_put_list(struct ge_bytes *b, uint32_t item, char *text) {
    struct ge_bytes items = { NULL, 0 };
    uint64_t n = 0;
    for (char *next; text != NULL && *text != '\0'; text = next, n++) {
        next = strchr(text, ',');
        if (next != NULL) {
            *next++ = '\0';
        }
        ge_put_typed(&items, item, text);
    }
    ge_put_number(b, item, 4);
    ge_put_number(b, n, 8);
    ge_put(b, items.data, items.n);
    free(items.data);
}

/* Puts another text in place of element id of the token list. */
static inline void ge_token(struct ge *g, uint64_t id, const char *text) {
    struct ge_entry *key = ge_find(g->key, g->n_key, "tokenizer.ggml.tokens");
    size_t at = 12;
    for (uint64_t i = 0; i < id; i++) {
        at += ge_value_bytes(key->value.data + at, 8);
    }
    size_t end = at + ge_value_bytes(key->value.data + at, 8);
    struct ge_bytes b = { NULL, 0 };
    ge_put(&b, key->value.data, at);
    ge_put_text(&b, text);
    ge_put(&b, key->value.data + end, key->value.n - end);
    free(key->value.data);
    key->value = b;
}

static inline void ge_edit_tensor(struct ge *g, struct ge_entry *t, const char *what,
                                  const char *value, const char *more) {
    GE_CHECK(t != NULL);
    uint64_t number = strtoull(value, NULL, 0);
    if (strncmp(what, "ne", 2) == 0) {
        t->ne[what[2] - '0'] = number;
    } else if (strcmp(what, "dims") == 0) {
        t->n_dim = (uint32_t)number;
    } else if (strcmp(what, "type") == 0) {
        t->type = (uint32_t)number;
    } else if (strcmp(what, "offset") == 0) {
        t->offset = (int64_t)number;
    } else if (strcmp(what, "as") == 0) {
        size_t n = strtoull(more, NULL, 0);
        t->type = (uint32_t)number;
        t->value.data = realloc(t->value.data, n + 1);
        memset(t->value.data + (n < t->value.n ? n : t->value.n), 0,
               n > t->value.n ? n - t->value.n : 0);
        t->value.n = n;
    } else if (strcmp(what, "drop") == 0) {
        ge_remove(g->tensor, &g->n_tensor, t);
    } else {
        GE_CHECK(strcmp(what, "dup") == 0);
        struct ge_entry *copy = &g->tensor[g->n_tensor++];
        *copy = *t;
        copy->value = (struct ge_bytes){ NULL, 0 };
        ge_put(&copy->value, t->value.data, t->value.n);
    }
}

static inline void ge_edit_one(struct ge *g, char *command) {
    static const char *const types[] = { "u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                         "bool", "str", "",    "u64", "i64", "f64" };
    char verb[16] = "", name[128] = "", value[8192] = "";
    GE_CHECK(sscanf(command, " %15s %127s", verb, name) == 2);
    char *rest = strstr(command, name) + strlen(name);
    rest += *rest == ' ';
    snprintf(value, sizeof(value), "%s", rest);
    struct ge_entry *key = ge_find(g->key, g->n_key, name);
    if (strcmp(verb, "del") == 0) {
        ge_remove(g->key, &g->n_key, key);
    } else if (strcmp(verb, "type") == 0) {
        key->type = (uint32_t)strtoul(value, NULL, 0);
    } else if (strcmp(verb, "token") == 0) {
        ge_token(g, strtoull(name, NULL, 0), value);
    } else if (strcmp(verb, "toktype") == 0) {
        key = ge_find(g->key, g->n_key, "tokenizer.ggml.token_type");
        memset(key->value.data + 12 + 4 * strtoull(name, NULL, 0), 0, 4);
        key->value.data[12 + 4 * strtoull(name, NULL, 0)] = (uint8_t)strtoul(value, NULL, 0);
    } else if (strcmp(verb, "rename") == 0) {
        struct ge_entry *t = ge_find(g->tensor, g->n_tensor, name);
        snprintf(t->name, sizeof(t->name), "%s", value);
    } else if (strcmp(verb, "tensor") == 0) {
        char what[64] = "", x[64] = "", y[64] = "";
        sscanf(value, "%63s %63s %63s", what, x, y);
        ge_edit_tensor(g, ge_find(g->tensor, g->n_tensor, name), what, x, y);
    } else {
        size_t n = strlen(verb), is_list = verb[n - 1] == 's';
        verb[n - is_list] = '\0';
        uint32_t type = 0;
        while (type < 13 && strcmp(types[type], verb) != 0) {
            type++;
        }
        GE_CHECK(type < 13);
        key = ge_key(g, name, is_list ? 9 : type);
        is_list ? ge_put_list(&key->value, type, value) : ge_put_typed(&key->value, type, value);
    }
}

static inline void ge_edit(struct ge *g, const char *commands) {
    char text[16384];
    GE_CHECK(strlen(commands) < sizeof(text));
    snprintf(text, sizeof(text), "%s", commands);
    for (char *at = text, *next; at != NULL && *at != '\0'; at = next) {
        next = strchr(at, ';');
        if (next != NULL) {
            *next++ = '\0';
        }
        ge_edit_one(g, at);
    }
}

#endif
