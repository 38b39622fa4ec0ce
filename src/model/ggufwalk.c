/* SPDX-License-Identifier: Apache-2.0 */
/* ggufwalk.c - the container of a GGUF file: counts, keys, tensor table, every length against the bytes left.
 *
 *   "GGUF" | version u32 | n_tensor u64 | n_key u64
 *   key:     name string | type u32 | value;           string: length u64 | bytes
 *   array:   item type u32 | n u64 | n values
 *   tensor:  name string | n_dim u32 | n_dim x u64 | type u32 | offset u64 from data_offset
 *   zeros up to a multiple of general.alignment = data_offset, then the tensors, each padded likewise
 *
 * Numbers are little-endian.  No byte is read before it is known to be there, and no sum or product of
 * numbers from the file is formed unchecked.
 */
#include "model/ggufwalk.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY_MAX = 65536, TENSOR_MAX = 65536,
    KEY_BYTES_MIN = 8 + 1 + 4 + 1,            /* name of one byte, type, value of one byte */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* one dimension */
    ALIGN_MAX = 65536, ALIGN_DEFAULT = 32,
};

static const struct {
    const char *name;
    size_t n_byte; /* 0: varies */
} types[FT_GGUF_TYPE_COUNT] = {
    [FT_GGUF_U8] = { "u8", 1 },   [FT_GGUF_I8] = { "i8", 1 },     [FT_GGUF_U16] = { "u16", 2 },
    [FT_GGUF_I16] = { "i16", 2 }, [FT_GGUF_U32] = { "u32", 4 },   [FT_GGUF_I32] = { "i32", 4 },
    [FT_GGUF_F32] = { "f32", 4 }, [FT_GGUF_BOOL] = { "bool", 1 }, [FT_GGUF_STRING] = { "string", 0 },
    [FT_GGUF_ARRAY] = { "array", 0 }, [FT_GGUF_U64] = { "u64", 8 }, [FT_GGUF_I64] = { "i64", 8 },
    [FT_GGUF_F64] = { "f64", 8 },
};

/* ---- messages ---- */

void ft_gguf__label(char label[104], const char *path) {
    size_t n = strlen(path), cap = 100;
    snprintf(label, 104, "%s%s", n > cap ? "..." : "", n > cap ? path + n - cap : path);
}

ft_status ft_gguf__fail(const struct ft_gguf_walk *walk, ft_status code, uint64_t where, const char *format, ...) {
    char text[240];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return ft_fail(walk->err, code, where, "%s: %s", walk->label, text);
}

#define NAME(span) (int)FT_MIN((span).n, (size_t)64), (span).text /* for "%.*s" */

/* ---- numbers ---- */

uint32_t ft_gguf__load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load_u64(const uint8_t *p) {
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
        return (double)load_u64(p);
    case FT_GGUF_I64:
        return (double)(int64_t)load_u64(p);
    case FT_GGUF_F64:
        bits = load_u64(p);
        memcpy(&real, &bits, sizeof(real));
        return real;
    default:
        return 0; /* callers ask for numbers only */
    }
}

/* ---- reading with the bytes left in view ---- */

static ft_status take(struct ft_gguf_walk *w, uint64_t n, const char *what, const uint8_t **out) {
    size_t left = w->size - w->at;
    if (n > left) {
        return ft_gguf__fail(w, FT_FORMAT, w->at, "%s at byte %zu needs %" PRIu64 " bytes, but only %zu are left",
                             what, w->at, n, left);
    }
    *out = w->data + w->at;
    w->at += (size_t)n;
    return FT_OK;
}

static ft_status take_u32(struct ft_gguf_walk *w, const char *what, uint32_t *out) {
    const uint8_t *p = NULL;
    FT_TRY(take(w, 4, what, &p));
    *out = ft_gguf__load_u32(p);
    return FT_OK;
}

static ft_status take_u64(struct ft_gguf_walk *w, const char *what, uint64_t *out) {
    const uint8_t *p = NULL;
    FT_TRY(take(w, 8, what, &p));
    *out = load_u64(p);
    return FT_OK;
}

static ft_status take_string(struct ft_gguf_walk *w, const char *what, struct ft_gguf_span *out) {
    uint64_t n;
    const uint8_t *p = NULL;
    FT_TRY(take_u64(w, what, &n));
    FT_TRY(take(w, n, what, &p));
    *out = (struct ft_gguf_span){ .text = (const char *)p, .n = (size_t)n };
    return FT_OK;
}

/* Names are printed and compared as C strings by the libraries: no control characters, NUL above all. */
static ft_status take_name(struct ft_gguf_walk *w, const char *what, size_t cap, struct ft_gguf_span *out) {
    size_t where = w->at;
    FT_TRY(take_string(w, what, out));
    if (out->n == 0 || out->n >= cap) {
        return ft_gguf__fail(w, FT_FORMAT, where, "%s at byte %zu has %zu bytes, expected 1..%zu", what, where, out->n,
                             cap - 1);
    }
    size_t bad = ft_utf8_check(out->text, out->n);
    for (size_t i = 0; i < out->n && bad == out->n; i++) {
        bad = (unsigned char)out->text[i] < 0x20 ? i : bad;
    }
    if (bad != out->n) {
        return ft_gguf__fail(w, FT_FORMAT, where + 8 + bad, "%s at byte %zu holds byte 0x%02x, expected printable UTF-8",
                             what, where, (unsigned)(unsigned char)out->text[bad]);
    }
    return FT_OK;
}

/* ---- hashing of names ---- */

uint32_t ft_gguf__hash(struct ft_gguf_span span) {
    uint32_t hash = 2166136261u;
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

/* Slots for n names, a power of two at least twice as many; NULL: no memory. */
static uint32_t *slots_new(uint32_t n, uint32_t *n_slot) {
    *n_slot = 4;
    while (*n_slot < 2 * n) { /* n <= 65536 */
        *n_slot *= 2;
    }
    return ft_alloc(*n_slot, sizeof(uint32_t));
}

/* ---- keys ---- */

static const struct ft_gguf_key *key_find(const struct ft_gguf_walk *w, struct ft_gguf_span name, uint32_t *at) {
    for (*at = ft_gguf__hash(name) & (w->n_slot - 1); w->slot[*at] != 0; *at = (*at + 1) & (w->n_slot - 1)) {
        const struct ft_gguf_key *key = &w->key[w->slot[*at] - 1];
        if (same(key->name, name)) {
            return key;
        }
    }
    return NULL;
}

static ft_status skip_strings(struct ft_gguf_walk *w, const struct ft_gguf_key *key) {
    struct ft_gguf_span text;
    for (uint64_t i = 0; i < key->n; i++) {
        FT_TRY(take_string(w, "a string", &text));
    }
    return FT_OK;
}

static ft_status walk_value(struct ft_gguf_walk *w, struct ft_gguf_key *key, uint32_t type) {
    if (type >= FT_GGUF_TYPE_COUNT) {
        return ft_gguf__fail(w, FT_FORMAT, w->at - 4, "%.*s has type %" PRIu32 ", expected 0..%d", NAME(key->name), type,
                             FT_GGUF_TYPE_COUNT - 1);
    }
    key->type = key->item = (enum ft_gguf_type)type;
    key->n = 1;
    if (key->type == FT_GGUF_ARRAY) {
        uint32_t item;
        FT_TRY(take_u32(w, "an array", &item));
        if (item >= FT_GGUF_TYPE_COUNT || item == FT_GGUF_ARRAY) {
            return ft_gguf__fail(w, FT_FORMAT, w->at - 4, "%.*s is an array of type %" PRIu32 "%s", NAME(key->name), item,
                                 item == FT_GGUF_ARRAY ? ": arrays of arrays are not supported" : ", expected 0..12");
        }
        FT_TRY(take_u64(w, "an array", &key->n));
        key->item = (enum ft_gguf_type)item;
    }
    key->at = w->at;
    size_t each = types[key->item].n_byte;
    uint64_t least = each != 0 ? each : 8; /* a string is at least its length */
    if (key->n > (w->size - w->at) / least) {
        return ft_gguf__fail(w, FT_FORMAT, w->at, "%.*s has %" PRIu64 " elements of at least %" PRIu64
                             " bytes, but only %zu bytes are left", NAME(key->name), key->n, least, w->size - w->at);
    }
    const uint8_t *p = NULL;
    return each != 0 ? take(w, key->n * each, "a value", &p) : skip_strings(w, key);
}

static ft_status walk_keys(struct ft_gguf_walk *w, uint32_t n_key) {
    w->key = ft_alloc(n_key, sizeof(*w->key));
    w->slot = slots_new(n_key, &w->n_slot);
    if (w->key == NULL || w->slot == NULL) {
        return ft_gguf__fail(w, FT_NOMEM, 0, "no memory for %" PRIu32 " keys", n_key);
    }
    for (uint32_t i = 0; i < n_key; i++) {
        struct ft_gguf_key *key = &w->key[i];
        uint32_t type, at;
        key->where = w->at;
        FT_TRY(take_name(w, "a key", 65536, &key->name));
        if (key_find(w, key->name, &at) != NULL) {
            return ft_gguf__fail(w, FT_FORMAT, key->where, "key %.*s occurs twice", NAME(key->name));
        }
        FT_TRY(take_u32(w, "a key", &type));
        FT_TRY(walk_value(w, key, type));
        w->slot[at] = i + 1;
        w->n_key = i + 1;
    }
    return FT_OK;
}

/* ---- tensors ---- */

static ft_status tensor_type(struct ft_gguf_walk *w, struct ft_gguf_tensor *t, size_t where) {
    enum ggml_type type = (enum ggml_type)t->type;
    if (t->type >= GGML_TYPE_COUNT || ggml_blck_size(type) <= 0 || ggml_type_size(type) == 0) {
        return ft_gguf__fail(w, FT_FORMAT, where, "tensor %s has type %" PRIu32 ", which ggml does not know", t->name,
                             t->type);
    }
    if (ggml_get_type_traits_cpu(type)->vec_dot == NULL) {
        return ft_gguf__fail(w, FT_UNSUP, where, "tensor %s has type %s, with which ggml cannot multiply", t->name,
                             ggml_type_name(type));
    }
    uint64_t block = (uint64_t)ggml_blck_size(type), size = ggml_type_size(type);
    if (t->ne[0] % block != 0) {
        return ft_gguf__fail(w, FT_FORMAT, where, "tensor %s has rows of %" PRIu64 ", expected a multiple of %" PRIu64
                             " for type %s", t->name, t->ne[0], block, ggml_type_name(type));
    }
    /* at most 2^63 blocks of less than 2^16 bytes would still overflow: bounded by the file instead */
    size_t n_byte = (size_t)(t->ne[0] / block);
    bool fits = ft_size_mul(n_byte, size, &n_byte);
    for (int d = 1; d < 4; d++) {
        fits = fits && ft_size_mul(n_byte, (size_t)t->ne[d], &n_byte);
    }
    if (!fits || n_byte > w->size) {
        return ft_gguf__fail(w, FT_FORMAT, where, "tensor %s of %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                             " is larger than the file of %zu bytes", t->name, t->ne[0], t->ne[1], t->ne[2], t->ne[3],
                             w->size);
    }
    t->n_byte = n_byte;
    return FT_OK;
}

static ft_status walk_tensor(struct ft_gguf_walk *w, struct ft_gguf_tensor *t) {
    struct ft_gguf_span name;
    uint32_t n_dim;
    t->where = w->at;
    FT_TRY(take_name(w, "a tensor name", FT_GGUF_NAME_CAP, &name));
    memcpy(t->name, name.text, name.n);
    FT_TRY(take_u32(w, "a tensor", &n_dim));
    if (n_dim < 1 || n_dim > 4) {
        return ft_gguf__fail(w, FT_FORMAT, w->at - 4, "tensor %s has %" PRIu32 " dimensions, expected 1..4", t->name,
                             n_dim);
    }
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < n_dim) {
            FT_TRY(take_u64(w, "a tensor", &t->ne[d]));
        }
        if (t->ne[d] == 0 || t->ne[d] > INT64_MAX) {
            return ft_gguf__fail(w, FT_FORMAT, w->at - 8, "tensor %s has dimension %" PRIu32 " of size %" PRIu64
                                 ", expected 1..2^63-1", t->name, d, t->ne[d]);
        }
    }
    FT_TRY(take_u32(w, "a tensor", &t->type));
    FT_TRY(tensor_type(w, t, w->at - 4));
    return take_u64(w, "a tensor", &t->offset); /* relative, until walk_offsets */
}

static ft_status walk_tensors(struct ft_gguf_walk *w, struct ft_gguf_facts *facts, uint32_t n_tensor) {
    uint32_t n_slot;
    uint32_t *slot = slots_new(n_tensor, &n_slot);
    facts->tensor = ft_alloc(n_tensor, sizeof(*facts->tensor));
    ft_status status = FT_OK;
    if (slot == NULL || facts->tensor == NULL) {
        status = ft_gguf__fail(w, FT_NOMEM, 0, "no memory for %" PRIu32 " tensors", n_tensor);
    }
    for (uint32_t i = 0; i < n_tensor && status == FT_OK; i++) {
        struct ft_gguf_tensor *t = &facts->tensor[i];
        status = walk_tensor(w, t);
        uint32_t at = ft_gguf__hash((struct ft_gguf_span){ t->name, strlen(t->name) }) & (n_slot - 1);
        for (; slot[at] != 0 && status == FT_OK; at = (at + 1) & (n_slot - 1)) {
            if (strcmp(facts->tensor[slot[at] - 1].name, t->name) == 0) {
                status = ft_gguf__fail(w, FT_FORMAT, t->where, "tensor %s occurs twice", t->name);
            }
        }
        slot[at] = i + 1;
        facts->n_tensor = i + 1;
    }
    ft_free(slot);
    return status;
}

/* Tensors follow each other, each padded to the alignment; the last one need not be. */
static ft_status walk_offsets(struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    size_t align = facts->alignment, base = w->at, next = 0;
    if (facts->n_tensor > 0 && (!ft_size_add(base, align - 1, &base) || (base = base / align * align) > w->size)) {
        return ft_gguf__fail(w, FT_FORMAT, w->at, "the header ends at byte %zu and the file at %zu, in front of the tensors",
                             w->at, w->size);
    }
    facts->data_offset = base;
    for (uint32_t i = 0; i < facts->n_tensor; i++) {
        struct ft_gguf_tensor *t = &facts->tensor[i];
        if (t->offset != next) {
            return ft_gguf__fail(w, FT_FORMAT, t->where, "tensor %s has offset %" PRIu64 ", expected %zu", t->name,
                                 t->offset, next);
        }
        if (next > w->size - base || t->n_byte > w->size - base - next) {
            return ft_gguf__fail(w, FT_FORMAT, t->where, "tensor %s of %" PRIu64 " bytes at byte %zu ends behind the file "
                                 "of %zu bytes: it is truncated", t->name, t->n_byte, base + next, w->size);
        }
        t->offset += base;
        facts->tensor_bytes += t->n_byte;
        facts->n_param += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; /* < 2^3 times the bytes of the file */
        next += (size_t)t->n_byte;
        if (!ft_size_add(next, align - 1, &next)) {
            return ft_gguf__fail(w, FT_FORMAT, t->where, "tensor %s: sizes overflow", t->name);
        }
        next = next / align * align;
    }
    return FT_OK;
}

/* ---- the file ---- */

static ft_status walk_start(struct ft_gguf_walk *w, struct ft_gguf_facts *facts, uint64_t *n_tensor, uint64_t *n_key) {
    const uint8_t *magic = NULL;
    FT_TRY(take(w, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0) {
        return ft_gguf__fail(w, FT_FORMAT, 0, "starts with bytes %02x %02x %02x %02x, expected \"GGUF\": not a GGUF file",
                             magic[0], magic[1], magic[2], magic[3]);
    }
    FT_TRY(take_u32(w, "the version", &facts->version));
    if ((facts->version & 0xffff) == 0) {
        return ft_gguf__fail(w, FT_UNSUP, 4, "GGUF version is 0x%08" PRIx32 ", expected 2 or 3: a big-endian file?",
                             facts->version);
    }
    if (facts->version != 2 && facts->version != 3) {
        return ft_gguf__fail(w, FT_UNSUP, 4, "GGUF version is %" PRIu32 ", expected 2 or 3", facts->version);
    }
    FT_TRY(take_u64(w, "the tensor count", n_tensor));
    FT_TRY(take_u64(w, "the key count", n_key));
    uint64_t left = w->size - w->at;
    if (*n_tensor > TENSOR_MAX || *n_tensor > left / TENSOR_BYTES_MIN) {
        return ft_gguf__fail(w, FT_FORMAT, 8, "tensor count is %" PRIu64 ", expected at most %" PRIu64, *n_tensor,
                             FT_MIN((uint64_t)TENSOR_MAX, left / TENSOR_BYTES_MIN));
    }
    if (*n_key > KEY_MAX || *n_key > left / KEY_BYTES_MIN) {
        return ft_gguf__fail(w, FT_FORMAT, 16, "key count is %" PRIu64 ", expected at most %" PRIu64, *n_key,
                             FT_MIN((uint64_t)KEY_MAX, left / KEY_BYTES_MIN));
    }
    return FT_OK;
}

static ft_status walk_alignment(const struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    uint32_t align = ALIGN_DEFAULT;
    FT_TRY(ft_gguf__u32(w, "general.alignment", 0, UINT32_MAX, &align));
    if (align < 8 || align > ALIGN_MAX || (align & (align - 1)) != 0) {
        return ft_gguf__fail(w, FT_FORMAT, ft_gguf__find(w, "general.alignment")->at,
                             "general.alignment is %" PRIu32 ", expected a power of two from 8 to %d", align, ALIGN_MAX);
    }
    facts->alignment = align;
    return FT_OK;
}

ft_status ft_gguf__walk(struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    uint64_t n_tensor, n_key;
    FT_TRY(walk_start(w, facts, &n_tensor, &n_key));
    FT_TRY(walk_keys(w, (uint32_t)n_key));
    FT_TRY(walk_alignment(w, facts));
    FT_TRY(walk_tensors(w, facts, (uint32_t)n_tensor));
    FT_TRY(walk_offsets(w, facts));
    struct ft_sha256 sha;
    ft_sha256_init(&sha);
    ft_sha256_add(&sha, w->data, (size_t)facts->data_offset);
    ft_sha256_done(&sha, facts->fingerprint);
    facts->file_bytes = w->size;
    return FT_OK;
}

void ft_gguf__walk_done(struct ft_gguf_walk *w) {
    ft_free(w->key);
    ft_free(w->slot);
    w->key = NULL;
    w->slot = NULL;
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
    return key_find(w, (struct ft_gguf_span){ .text = name, .n = strlen(name) }, &at);
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
    return ft_gguf__fail(w, FT_FORMAT, key->where, "%.*s has type %s, expected %s", NAME(key->name), types[key->type].name,
                         types[type].name);
}

static ft_status in_range(const struct ft_gguf_walk *w, const struct ft_gguf_key *key, uint32_t lo, uint32_t hi,
                          uint32_t value) {
    if (value >= lo && value <= hi) {
        return FT_OK;
    }
    return ft_gguf__fail(w, FT_FORMAT, key->at, "%.*s is %" PRIu32 ", expected %" PRIu32 "..%" PRIu32, NAME(key->name),
                         value, lo, hi);
}

ft_status ft_gguf__u32(const struct ft_gguf_walk *w, const char *name, uint32_t lo, uint32_t hi, uint32_t *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_U32));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        uint32_t value = ft_gguf__load_u32(w->data + key->at);
        FT_TRY(in_range(w, key, lo, hi, value));
        *out = value;
    }
    return FT_OK;
}

ft_status ft_gguf__u16(const struct ft_gguf_walk *w, const char *name, uint32_t lo, uint32_t hi, uint32_t *out) {
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
            return ft_gguf__fail(w, FT_FORMAT, key->at, "%.*s is %u, expected 0 or 1", NAME(key->name), value);
        }
        *out = value != 0;
    }
    return FT_OK;
}

struct ft_gguf_span ft_gguf__next(const struct ft_gguf_walk *w, size_t *at) {
    struct ft_gguf_span span = { .text = (const char *)w->data + *at + 8, .n = (size_t)load_u64(w->data + *at) };
    *at += 8 + span.n;
    return span;
}

ft_status ft_gguf__string(const struct ft_gguf_walk *w, const char *name, struct ft_gguf_span *out) {
    FT_TRY(ft_gguf__type(w, name, FT_GGUF_STRING));
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key != NULL) {
        size_t at = key->at;
        struct ft_gguf_span span = ft_gguf__next(w, &at);
        size_t bad = ft_utf8_check(span.text, span.n);
        const char *nul = memchr(span.text, 0, span.n);
        if (bad != span.n || nul != NULL) {
            return ft_gguf__fail(w, FT_FORMAT, key->at + 8 + (nul != NULL ? (size_t)(nul - span.text) : bad),
                                 "%.*s is not UTF-8 without NUL", NAME(key->name));
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
        return ft_gguf__fail(w, FT_FORMAT, key->where, "%.*s is an array of %s, expected %s", NAME(key->name),
                             types[key->item].name, types[item].name);
    }
    *out = key;
    return FT_OK;
}
