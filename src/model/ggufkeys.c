/* SPDX-License-Identifier: Apache-2.0 */
/* ggufkeys.c - looks up the keys of a GGUF file that ggufwalk.c has found sound.
 *
 * libllama insists on the exact type of a number (u32 is not i32), and so do we.
 */
#include "model/ggufwalk.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t n_byte; /* 0: varies */
} types[FT_GGUF_TYPE_COUNT] = {
    [FT_GGUF_U8] = { "u8", 1 },         [FT_GGUF_I8] = { "i8", 1 },
    [FT_GGUF_U16] = { "u16", 2 },       [FT_GGUF_I16] = { "i16", 2 },
    [FT_GGUF_U32] = { "u32", 4 },       [FT_GGUF_I32] = { "i32", 4 },
    [FT_GGUF_F32] = { "f32", 4 },       [FT_GGUF_BOOL] = { "bool", 1 },
    [FT_GGUF_STRING] = { "string", 0 }, [FT_GGUF_ARRAY] = { "array", 0 },
    [FT_GGUF_U64] = { "u64", 8 },       [FT_GGUF_I64] = { "i64", 8 },
    [FT_GGUF_F64] = { "f64", 8 },
};

/* ---- messages ---- */

void ft_gguf__label(char label[104], const char *path) {
    size_t n = strlen(path), cap = 100;
    snprintf(label, 104, "%s%s", n > cap ? "..." : "", n > cap ? path + n - cap : path);
}

ft_status ft_gguf__fail(const struct ft_gguf_walk *walk, ft_status code, uint64_t where,
                        const char *format, ...) {
    char text[240];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return ft_fail(walk->err, code, where, "%s: %s", walk->label, text);
}

/* ---- numbers ---- */

uint32_t ft_gguf__load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t ft_gguf__load_u64(const uint8_t *p) {
    return ft_gguf__load_u32(p) | (uint64_t)ft_gguf__load_u32(p + 4) << 32;
}

float ft_gguf__load_f32(const uint8_t *p) {
    uint32_t bits = ft_gguf__load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

double ft_gguf__number(const struct ft_gguf_walk *walk, const struct ft_gguf_key *key, uint64_t i) {
    enum ft_gguf_type type = key->type == FT_GGUF_ARRAY ? key->item : key->type;
    const uint8_t *p = walk->data + key->at + (size_t)i * types[type].n_byte;
    double real;
    uint64_t bits;
    switch (type) {
    case FT_GGUF_U8:
    case FT_GGUF_BOOL:
        return p[0];
    case FT_GGUF_I8:
        return (int8_t)p[0];
    case FT_GGUF_U16:
        return (uint16_t)(p[0] | p[1] << 8);
    case FT_GGUF_I16:
        return (int16_t)(uint16_t)(p[0] | p[1] << 8);
    case FT_GGUF_U32:
        return ft_gguf__load_u32(p);
    case FT_GGUF_I32:
        return (int32_t)ft_gguf__load_u32(p);
    case FT_GGUF_F32:
        return (double)ft_gguf__load_f32(p);
    case FT_GGUF_U64:
        return (double)ft_gguf__load_u64(p);
    case FT_GGUF_I64:
        return (double)(int64_t)ft_gguf__load_u64(p);
    case FT_GGUF_F64:
        bits = ft_gguf__load_u64(p);
        memcpy(&real, &bits, sizeof(real));
        return real;
    default:
        return 0; /* callers ask for numbers only */
    }
}

size_t ft_gguf__type_bytes(enum ft_gguf_type type) {
    return types[type].n_byte;
}

/* ---- hashing of names ---- */

uint32_t ft_gguf__hash(struct ft_gguf_span span) {
    /* begins where the program was loaded: names that collide cannot be made beforehand */
    uint32_t hash = 2166136261u ^ (uint32_t)((uintptr_t)types >> 8);
    for (size_t i = 0; i < span.n; i++) {
        hash = (hash ^ (unsigned char)span.text[i]) * 16777619u;
    }
    return hash ^ hash >> 15;
}

static bool same(struct ft_gguf_span a, struct ft_gguf_span b) {
    return a.n == b.n && memcmp(a.text, b.text, a.n) == 0;
}

bool ft_gguf__is(struct ft_gguf_span span, const char *text) {
    return same(span, (struct ft_gguf_span){ .text = text, .n = strlen(text) });
}

const struct ft_gguf_key *ft_gguf__find_span(const struct ft_gguf_walk *w, struct ft_gguf_span name,
                                             uint32_t *at) {
    for (*at = ft_gguf__hash(name) & (w->n_slot - 1); w->slot[*at] != 0;
         *at = (*at + 1) & (w->n_slot - 1)) {
        const struct ft_gguf_key *key = &w->key[w->slot[*at] - 1];
        if (same(key->name, name)) {
            return key;
        }
    }
    return NULL;
}

/* ---- lookups ---- */

/* The name with the architecture in place of a leading star. */
static const char *full_name(const struct ft_gguf_walk *w, const char *name, char buf[96]) {
    if (name[0] != '*') {
        return name;
    }
    snprintf(buf, 96, "%s%s", w->arch, name + 1);
    return buf;
}

const struct ft_gguf_key *ft_gguf__find(const struct ft_gguf_walk *w, const char *name) {
    char buf[96];
    uint32_t at;
    name = full_name(w, name, buf);
    return ft_gguf__find_span(w, (struct ft_gguf_span){ .text = name, .n = strlen(name) }, &at);
}

ft_status ft_gguf__need(const struct ft_gguf_walk *w, const char *name) {
    char buf[96];
    if (ft_gguf__find(w, name) != NULL) {
        return FT_OK;
    }
    return ft_gguf__fail(w, FT_FORMAT, 0, "key %s is missing", full_name(w, name, buf));
}

ft_status ft_gguf__type(const struct ft_gguf_walk *w, const char *name, enum ft_gguf_type type) {
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key == NULL || key->type == type) {
        return FT_OK;
    }
    return ft_gguf__fail(w, FT_FORMAT, key->where, "%.*s has type %s, expected %s",
                         FT_GGUF_SHOW(key->name), types[key->type].name, types[type].name);
}

static ft_status in_range(const struct ft_gguf_walk *w, const struct ft_gguf_key *key, uint32_t lo,
                          uint32_t hi, uint32_t value) {
    if (value >= lo && value <= hi) {
        return FT_OK;
    }
    return ft_gguf__fail(w, FT_FORMAT, key->at,
                         "%.*s is %" PRIu32 ", expected %" PRIu32 "..%" PRIu32,
                         FT_GGUF_SHOW(key->name), value, lo, hi);
}

ft_status ft_gguf__u32(const struct ft_gguf_walk *w, const char *name, uint32_t lo, uint32_t hi,
                       uint32_t *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_U32));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        uint32_t value = ft_gguf__load_u32(w->data + key->at);
        FT_TRY(in_range(w, key, lo, hi, value));
        *out = value;
    }
    return FT_OK;
}

ft_status ft_gguf__u16(const struct ft_gguf_walk *w, const char *name, uint32_t lo, uint32_t hi,
                       uint32_t *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_U16));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        uint32_t value = w->data[key->at] | (uint32_t)w->data[key->at + 1] << 8;
        FT_TRY(in_range(w, key, lo, hi, value));
        *out = value;
    }
    return FT_OK;
}

ft_status ft_gguf__i32(const struct ft_gguf_walk *w, const char *name, uint32_t hi, uint32_t *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_I32));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) { /* a negative number is above every hi once it is unsigned */
        uint32_t value = ft_gguf__load_u32(w->data + key->at);
        FT_TRY(in_range(w, key, 0, hi, value));
        *out = value;
    }
    return FT_OK;
}

ft_status ft_gguf__f32(const struct ft_gguf_walk *w, const char *name, float *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_F32));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        *out = ft_gguf__load_f32(w->data + key->at);
    }
    return FT_OK;
}

ft_status ft_gguf__bool(const struct ft_gguf_walk *w, const char *name, bool *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_BOOL));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        uint8_t value = w->data[key->at];
        if (value > 1) {
            return ft_gguf__fail(w, FT_FORMAT, key->at, "%.*s is %u, expected 0 or 1",
                                 FT_GGUF_SHOW(key->name), value);
        }
        *out = value != 0;
    }
    return FT_OK;
}

struct ft_gguf_span ft_gguf__next(const struct ft_gguf_walk *w, size_t *at) {
    struct ft_gguf_span span = { .text = (const char *)w->data + *at + 8,
                                 .n = (size_t)ft_gguf__load_u64(w->data + *at) };
    *at += 8 + span.n;
    return span;
}

ft_status ft_gguf__string(const struct ft_gguf_walk *w, const char *name,
                          struct ft_gguf_span *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_STRING));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        size_t at = key->at;
        struct ft_gguf_span span = ft_gguf__next(w, &at);
        size_t bad = ft_utf8_check(span.text, span.n);
        const char *nul = memchr(span.text, 0, span.n);
        if (bad != span.n || nul != NULL) {
            return ft_gguf__fail(w, FT_FORMAT,
                                 key->at + 8 + (nul != NULL ? (size_t)(nul - span.text) : bad),
                                 "%.*s is not UTF-8 without NUL", FT_GGUF_SHOW(key->name));
        }
        *out = span;
    }
    return FT_OK;
}

ft_status ft_gguf__array(const struct ft_gguf_walk *w, const char *name, enum ft_gguf_type item,
                         const struct ft_gguf_key **out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_ARRAY));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL && key->item != item) {
        return ft_gguf__fail(w, FT_FORMAT, key->where, "%.*s is an array of %s, expected %s",
                             FT_GGUF_SHOW(key->name), types[key->item].name, types[item].name);
    }
    *out = key;
    return FT_OK;
}
