/* SPDX-License-Identifier: Apache-2.0 */
/* ggufwalk.c - the container of a GGUF file: counts, keys, tensor table, lengths, offsets.
 *
 *   "GGUF" | version u32 | n_tensor u64 | n_key u64
 *   key:     name string | type u32 | value;           string: length u64 | bytes
 *   array:   item type u32 | n u64 | n values
 *   tensor:  name string | n_dim u32 | n_dim x u64 | type u32 | offset u64 from data_offset
 *   zeros up to a multiple of general.alignment = data_offset, then the padded tensors
 *
 * Numbers are little-endian.  No byte is read before it is known to be there, and no sum or
 * product of numbers from the file is formed unchecked.
 */
#include "model/ggufwalk.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY_MAX = 65536,
    TENSOR_MAX = 65536,
    KEY_BYTES_MIN = 8 + 1 + 4 + 1,            /* name of one byte, type, value of one byte */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* one dimension */
    ALIGN_MAX = 65536,
    ALIGN_DEFAULT = 32,
};

/* ---- reading with the bytes left in view ---- */

static ft_status take(struct ft_gguf_walk *w, uint64_t n, const char *what, const uint8_t **out) {
    size_t left = w->size - w->at;
    if (n > left) {
        return ft_gguf__fail(w, FT_FORMAT, w->at,
                             "%s at byte %zu needs %" PRIu64 " bytes, but only %zu are left", what,
                             w->at, n, left);
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
    *out = ft_gguf__load_u64(p);
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

/* Names are printed and compared as C strings by the libraries: no control characters, no NUL. */
static ft_status take_name(struct ft_gguf_walk *w, const char *what, size_t cap,
                           struct ft_gguf_span *out) {
    size_t where = w->at;
    FT_TRY(take_string(w, what, out));
    if (out->n == 0 || out->n >= cap) {
        return ft_gguf__fail(w, FT_FORMAT, where, "%s at byte %zu has %zu bytes, expected 1..%zu",
                             what, where, out->n, cap - 1);
    }
    size_t bad = ft_utf8_check(out->text, out->n);
    for (size_t i = 0; i < out->n && bad == out->n; i++) {
        bad = (unsigned char)out->text[i] < 0x20 ? i : bad;
    }
    if (bad != out->n) {
        return ft_gguf__fail(w, FT_FORMAT, where + 8 + bad,
                             "%s at byte %zu holds byte 0x%02x, expected printable UTF-8", what,
                             where, (unsigned)(unsigned char)out->text[bad]);
    }
    return FT_OK;
}

/* ---- keys ---- */

/* Slots for n names, a power of two at least twice as many; NULL: no memory. */
static uint32_t *slots_new(uint32_t n, uint32_t *n_slot) {
    *n_slot = 4;
    while (*n_slot < 2 * n) { /* n <= 65536 */
        *n_slot *= 2;
    }
    return ft_alloc(*n_slot, sizeof(uint32_t));
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
        return ft_gguf__fail(w, FT_FORMAT, w->at - 4, "%.*s has type %" PRIu32 ", expected 0..%d",
                             FT_GGUF_SHOW(key->name), type, FT_GGUF_TYPE_COUNT - 1);
    }
    key->type = key->item = (enum ft_gguf_type)type;
    key->n = 1;
    if (key->type == FT_GGUF_ARRAY) {
        uint32_t item;
        FT_TRY(take_u32(w, "an array", &item));
        if (item >= FT_GGUF_TYPE_COUNT || item == FT_GGUF_ARRAY) {
            return ft_gguf__fail(w, FT_FORMAT, w->at - 4, "%.*s is an array of type %" PRIu32 "%s",
                                 FT_GGUF_SHOW(key->name), item,
                                 item == FT_GGUF_ARRAY ? ": arrays of arrays are not supported"
                                                       : ", expected 0..12");
        }
        FT_TRY(take_u64(w, "an array", &key->n));
        key->item = (enum ft_gguf_type)item;
    }
    key->at = w->at;
    size_t each = ft_gguf__type_bytes(key->item);
    uint64_t least = each != 0 ? each : 8; /* a string is at least its length */
    if (key->n > (w->size - w->at) / least) {
        return ft_gguf__fail(w, FT_FORMAT, w->at,
                             "%.*s has %" PRIu64 " elements of at least %" PRIu64
                             " bytes, but only %zu bytes are left",
                             FT_GGUF_SHOW(key->name), key->n, least, w->size - w->at);
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
        if (ft_gguf__find_span(w, key->name, &at) != NULL) {
            return ft_gguf__fail(w, FT_FORMAT, key->where, "key %.*s occurs twice",
                                 FT_GGUF_SHOW(key->name));
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
        return ft_gguf__fail(w, FT_FORMAT, where,
                             "tensor %s has type %" PRIu32 ", which ggml does not know", t->name,
                             t->type);
    }
    if (ggml_get_type_traits_cpu(type)->vec_dot == NULL) {
        return ft_gguf__fail(w, FT_UNSUP, where,
                             "tensor %s has type %s, with which ggml cannot multiply", t->name,
                             ggml_type_name(type));
    }
    uint64_t block = (uint64_t)ggml_blck_size(type), size = ggml_type_size(type);
    if (t->ne[0] % block != 0) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             "tensor %s has rows of %" PRIu64 ", expected a multiple of %" PRIu64
                             " for type %s",
                             t->name, t->ne[0], block, ggml_type_name(type));
    }
    /* at most 2^63 blocks of less than 2^16 bytes would still overflow: bounded by the file
     * instead */
    size_t n_byte = (size_t)(t->ne[0] / block);
    bool fits = ft_size_mul(n_byte, size, &n_byte);
    for (int d = 1; d < 4; d++) {
        fits = fits && ft_size_mul(n_byte, (size_t)t->ne[d], &n_byte);
    }
    if (!fits || n_byte > w->size) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             "tensor %s of %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                             " is larger than the file of %zu bytes",
                             t->name, t->ne[0], t->ne[1], t->ne[2], t->ne[3], w->size);
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
        return ft_gguf__fail(w, FT_FORMAT, w->at - 4,
                             "tensor %s has %" PRIu32 " dimensions, expected 1..4", t->name, n_dim);
    }
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < n_dim) {
            FT_TRY(take_u64(w, "a tensor", &t->ne[d]));
        }
        if (t->ne[d] == 0 || t->ne[d] > INT64_MAX) {
            return ft_gguf__fail(w, FT_FORMAT, w->at - 8,
                                 "tensor %s has dimension %" PRIu32 " of size %" PRIu64
                                 ", expected 1..2^63-1",
                                 t->name, d, t->ne[d]);
        }
    }
    FT_TRY(take_u32(w, "a tensor", &t->type));
    FT_TRY(tensor_type(w, t, w->at - 4));
    return take_u64(w, "a tensor", &t->offset); /* relative, until walk_offsets */
}

static ft_status walk_tensors(struct ft_gguf_walk *w, struct ft_gguf_facts *facts,
                              uint32_t n_tensor) {
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
        uint32_t at =
            ft_gguf__hash((struct ft_gguf_span){ t->name, strlen(t->name) }) & (n_slot - 1);
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
    if (facts->n_tensor > 0 &&
        (!ft_size_add(base, align - 1, &base) || (base = base / align * align) > w->size)) {
        return ft_gguf__fail(
            w, FT_FORMAT, w->at,
            "the header ends at byte %zu and the file at %zu, in front of the tensors", w->at,
            w->size);
    }
    facts->data_offset = base;
    for (uint32_t i = 0; i < facts->n_tensor; i++) {
        struct ft_gguf_tensor *t = &facts->tensor[i];
        if (t->offset != next) {
            return ft_gguf__fail(w, FT_FORMAT, t->where,
                                 "tensor %s has offset %" PRIu64 ", expected %zu", t->name,
                                 t->offset, next);
        }
        if (next > w->size - base || t->n_byte > w->size - base - next) {
            return ft_gguf__fail(w, FT_FORMAT, t->where,
                                 "tensor %s of %" PRIu64 " bytes at byte %zu ends behind the file "
                                 "of %zu bytes: it is truncated",
                                 t->name, t->n_byte, base + next, w->size);
        }
        t->offset += base;
        facts->tensor_bytes += t->n_byte;
        facts->n_param +=
            t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; /* < 2^3 times the bytes of the file */
        next += (size_t)t->n_byte;
        if (!ft_size_add(next, align - 1, &next)) {
            return ft_gguf__fail(w, FT_FORMAT, t->where, "tensor %s: sizes overflow", t->name);
        }
        next = next / align * align;
    }
    return FT_OK;
}

/* ---- the file ---- */

static ft_status check_count(const struct ft_gguf_walk *w, const char *what, uint64_t where,
                             uint64_t n, uint64_t most, uint64_t bytes_min) {
    if (n > most) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             "%s count is %" PRIu64 ", expected at most %" PRIu64, what, n, most);
    }
    if (n > (w->size - w->at) / bytes_min) {
        return ft_gguf__fail(w, FT_FORMAT, where,
                             "%s count is %" PRIu64 ", but only %zu bytes are left for them", what,
                             n, w->size - w->at);
    }
    return FT_OK;
}

static ft_status walk_start(struct ft_gguf_walk *w, struct ft_gguf_facts *facts, uint64_t *n_tensor,
                            uint64_t *n_key) {
    const uint8_t *magic = NULL;
    FT_TRY(take(w, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0) {
        return ft_gguf__fail(
            w, FT_FORMAT, 0,
            "starts with bytes %02x %02x %02x %02x, expected \"GGUF\": not a GGUF file", magic[0],
            magic[1], magic[2], magic[3]);
    }
    FT_TRY(take_u32(w, "the version", &facts->version));
    if ((facts->version & 0xffff) == 0) {
        return ft_gguf__fail(w, FT_UNSUP, 4,
                             "GGUF version is 0x%08" PRIx32 ", expected 2 or 3: a big-endian file?",
                             facts->version);
    }
    if (facts->version != 2 && facts->version != 3) {
        return ft_gguf__fail(w, FT_UNSUP, 4, "GGUF version is %" PRIu32 ", expected 2 or 3",
                             facts->version);
    }
    FT_TRY(take_u64(w, "the tensor count", n_tensor));
    FT_TRY(take_u64(w, "the key count", n_key));
    FT_TRY(check_count(w, "tensor", 8, *n_tensor, TENSOR_MAX, TENSOR_BYTES_MIN));
    return check_count(w, "key", 16, *n_key, KEY_MAX, KEY_BYTES_MIN);
}

static ft_status walk_alignment(const struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    uint32_t align = ALIGN_DEFAULT;
    FT_TRY(ft_gguf__u32(w, "general.alignment", 0, UINT32_MAX, &align));
    if (align < 8 || align > ALIGN_MAX || (align & (align - 1)) != 0) {
        return ft_gguf__fail(w, FT_FORMAT, ft_gguf__find(w, "general.alignment")->at,
                             "general.alignment is %" PRIu32
                             ", expected a power of two from 8 to %d",
                             align, ALIGN_MAX);
    }
    facts->alignment = align;
    return FT_OK;
}

ft_status ft_gguf__walk(struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    uint64_t n_tensor = 0, n_key = 0;
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
