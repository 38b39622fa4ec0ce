/* SPDX-License-Identifier: Apache-2.0 */
/* ggufout.c - writes GGUF version 3: keys as they come, tensors converted by ggml, optionally in
 * several files.
 *
 * A writer of our own, so that tests of the reader do not rest on the code that the reader guards
 * against.
 */
#include <errno.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tiny.h"

enum {
    ALIGN = 32,
    NAME_CAP = 64,
    STRING = 8,
    ARRAY = 9,
    U16 = 2,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    BOOL = 7
};

struct buffer {
    uint8_t *data;
    size_t n, cap;
};

struct tensor {
    char name[NAME_CAP];
    uint32_t n_dim, type;
    uint64_t ne[2];
    struct buffer bytes;
};

struct ft_gguf_out {
    struct buffer keys;
    uint64_t n_key;
    struct tensor *tensor;
    uint32_t n_tensor;
    struct ft_error err; /* the first failure */
};

/* ---- bytes ---- */

static bool put(struct ft_gguf_out *out, struct buffer *b, const void *data, size_t n) {
    if (b->n + n > b->cap) {
        size_t cap = FT_MAX(2 * b->cap, b->n + n);
        uint8_t *grown = ft_grow(b->data, cap, 1);
        if (grown == NULL) {
            ft_fail(&out->err, FT_NOMEM, 0, "no memory for %zu bytes", cap);
            return false;
        }
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
    return true;
}

static void put_number(struct ft_gguf_out *out, struct buffer *b, uint64_t value, size_t n_byte) {
    uint8_t bytes[8];
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    put(out, b, bytes, n_byte);
}

static void put_string(struct ft_gguf_out *out, struct buffer *b, const char *text) {
    put_number(out, b, strlen(text), 8);
    put(out, b, text, strlen(text));
}

static void put_key(struct ft_gguf_out *out, const char *key, uint32_t type) {
    put_string(out, &out->keys, key);
    put_number(out, &out->keys, type, 4);
    out->n_key++;
}

/* ---- keys ---- */

struct ft_gguf_out *ft_gguf_out_new(void) {
    return ft_alloc(1, sizeof(struct ft_gguf_out));
}

void ft_gguf_out_free(struct ft_gguf_out *out) {
    if (out == NULL) {
        return;
    }
    for (uint32_t i = 0; i < out->n_tensor; i++) {
        ft_free(out->tensor[i].bytes.data);
    }
    ft_free(out->tensor);
    ft_free(out->keys.data);
    ft_free(out);
}

void ft_gguf_out_string(struct ft_gguf_out *out, const char *key, const char *value) {
    put_key(out, key, STRING);
    put_string(out, &out->keys, value);
}

void ft_gguf_out_u32(struct ft_gguf_out *out, const char *key, uint32_t value) {
    put_key(out, key, U32);
    put_number(out, &out->keys, value, 4);
}

void ft_gguf_out_f32(struct ft_gguf_out *out, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put_key(out, key, F32);
    put_number(out, &out->keys, bits, 4);
}

void ft_gguf_out_bool(struct ft_gguf_out *out, const char *key, bool value) {
    put_key(out, key, BOOL);
    put_number(out, &out->keys, value, 1);
}

static void put_array(struct ft_gguf_out *out, const char *key, uint32_t item, uint32_t n) {
    put_key(out, key, ARRAY);
    put_number(out, &out->keys, item, 4);
    put_number(out, &out->keys, n, 8);
}

void ft_gguf_out_strings(struct ft_gguf_out *out, const char *key, const char *const *value,
                         uint32_t n) {
    put_array(out, key, STRING, n);
    for (uint32_t i = 0; i < n; i++) {
        put_string(out, &out->keys, value[i]);
    }
}

void ft_gguf_out_i32s(struct ft_gguf_out *out, const char *key, const int32_t *value, uint32_t n) {
    put_array(out, key, I32, n);
    for (uint32_t i = 0; i < n; i++) {
        put_number(out, &out->keys, (uint32_t)value[i], 4);
    }
}

/* ---- tensors ---- */

static enum ggml_type type_named(const char *name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char *known = ggml_type_name((enum ggml_type)type);
        size_t i = 0;
        for (; known != NULL && known[i] != '\0' && name[i] != '\0'; i++) {
            if ((known[i] | 0x20) != (name[i] | 0x20) && known[i] != name[i]) {
                break;
            }
        }
        if (known != NULL && known[i] == '\0' && name[i] == '\0' && i > 0) {
            return (enum ggml_type)type;
        }
    }
    return GGML_TYPE_COUNT;
}

/* Why no numbers can be written in this type, or NULL.  ggml would end the program. */
static const char *type_refused(enum ggml_type type) {
    if (type == GGML_TYPE_COUNT) {
        return "an unknown type";
    }
    bool is_plain = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    bool is_inner = type == GGML_TYPE_Q8_1 || type == GGML_TYPE_Q8_K; /* of ggml's own products */
    if (is_inner || (!is_plain && !ggml_is_quantized(type))) {
        return "no type of weights";
    }
    return ggml_quantize_requires_imatrix(type) ? "a type that needs an importance matrix" : NULL;
}

/* Rows must be whole blocks: else 8 bits in blocks of 32, else half floats. */
static enum ggml_type type_fitting(enum ggml_type type, uint32_t ne0) {
    if (ne0 % ggml_blck_size(type) == 0) {
        return type;
    }
    return ne0 % 32 == 0 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

void ft_gguf_out_tensor(struct ft_gguf_out *out, const char *name, const char *type_name,
                        uint32_t ne0, uint32_t ne1, const float *data) {
    enum ggml_type type = type_named(type_name);
    const char *why = type_refused(type);
    if (why != NULL) {
        ft_fail(&out->err, FT_ARG, 0, "tensor %s: %s is %s", name, type_name, why);
        return;
    }
    struct tensor *grown = ft_grow(out->tensor, out->n_tensor + 1, sizeof(*grown));
    if (grown == NULL) {
        ft_fail(&out->err, FT_NOMEM, 0, "tensor %s: no memory", name);
        return;
    }
    out->tensor = grown;
    struct tensor *t = &out->tensor[out->n_tensor++];
    int64_t n_row = ne1 == 0 ? 1 : ne1;
    type = type_fitting(type, ne0);
    *t = (struct tensor){ .n_dim = ne1 == 0 ? 1 : 2, .type = (uint32_t)type, .ne = { ne0, ne1 } };
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->bytes.n = t->bytes.cap = ggml_row_size(type, ne0) * (size_t)n_row;
    t->bytes.data = ft_alloc(t->bytes.n, 1);
    if (t->bytes.data == NULL) {
        t->bytes.n = 0;
        ft_fail(&out->err, FT_NOMEM, 0, "no memory for tensor %s", name);
        return;
    }
    if (type == GGML_TYPE_F32) {
        memcpy(t->bytes.data, data, t->bytes.n);
    } else {
        ggml_quantize_chunk(type, data, t->bytes.data, 0, n_row, ne0, NULL);
    }
}

/* ---- files ---- */

static void put_padding(struct ft_gguf_out *out, struct buffer *b, size_t from) {
    static const uint8_t zeros[ALIGN];
    put(out, b, zeros, (ALIGN - (b->n - from) % ALIGN) % ALIGN);
}

static void put_split_keys(struct ft_gguf_out *out, struct buffer *b, uint32_t no, uint32_t n) {
    put_string(out, b, "split.no");
    put_number(out, b, U16, 4);
    put_number(out, b, no, 2);
    put_string(out, b, "split.count");
    put_number(out, b, U16, 4);
    put_number(out, b, n, 2);
    put_string(out, b, "split.tensors.count");
    put_number(out, b, I32, 4);
    put_number(out, b, out->n_tensor, 4);
}

/* The header of one file: keys (all in the first file), then tensors [first, end). */
static void put_header(struct ft_gguf_out *out, struct buffer *b, uint32_t no, uint32_t n_split,
                       uint32_t first, uint32_t end) {
    uint64_t n_key = (no == 0 ? out->n_key : 0) + (n_split > 1 ? 3 : 0);
    put(out, b, "GGUF", 4);
    put_number(out, b, 3, 4);
    put_number(out, b, end - first, 8);
    put_number(out, b, n_key, 8);
    if (no == 0) {
        put(out, b, out->keys.data, out->keys.n);
    }
    if (n_split > 1) {
        put_split_keys(out, b, no, n_split);
    }
    uint64_t offset = 0;
    for (uint32_t i = first; i < end; i++) {
        const struct tensor *t = &out->tensor[i];
        put_string(out, b, t->name);
        put_number(out, b, t->n_dim, 4);
        for (uint32_t d = 0; d < t->n_dim; d++) {
            put_number(out, b, t->ne[d], 8);
        }
        put_number(out, b, t->type, 4);
        put_number(out, b, offset, 8);
        offset += (t->bytes.n + ALIGN - 1) / ALIGN * ALIGN;
    }
    put_padding(out, b, 0);
}

static ft_status save_file(struct ft_gguf_out *out, const char *path, const struct buffer *header,
                           uint32_t first, uint32_t end, struct ft_error *err) {
    static const uint8_t zeros[ALIGN];
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        return ft_fail(err, FT_IO, 0, "%s: cannot be written: %s", path, strerror(errno));
    }
    bool is_whole = fwrite(header->data, 1, header->n, file) == header->n;
    for (uint32_t i = first; i < end && is_whole; i++) {
        const struct buffer *b = &out->tensor[i].bytes;
        size_t padding = (ALIGN - b->n % ALIGN) % ALIGN;
        is_whole =
            fwrite(b->data, 1, b->n, file) == b->n && fwrite(zeros, 1, padding, file) == padding;
    }
    is_whole = fclose(file) == 0 && is_whole;
    return is_whole ? FT_OK
                    : ft_fail(err, FT_IO, 0, "%s: cannot be written: %s", path, strerror(errno));
}

void ft_tiny_split_path(const char *path, uint32_t no, uint32_t n, char *out, size_t cap) {
    size_t length = strlen(path);
    if (length > 5 && strcmp(path + length - 5, ".gguf") == 0) {
        length -= 5;
    }
    snprintf(out, cap, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (int)length, path, no + 1, n);
}

ft_status ft_gguf_out_save(struct ft_gguf_out *out, const char *path, uint32_t n_split,
                           struct ft_error *err) {
    ft_status status = out->err.code;
    n_split = FT_MAX(n_split, 1u);
    for (uint32_t no = 0; no < n_split && status == FT_OK; no++) {
        uint32_t first = (uint32_t)((uint64_t)out->n_tensor * no / n_split);
        uint32_t end = (uint32_t)((uint64_t)out->n_tensor * (no + 1) / n_split);
        struct buffer header = { .data = NULL };
        char name[4096];
        snprintf(name, sizeof(name), "%s", path);
        if (n_split > 1) {
            ft_tiny_split_path(path, no, n_split, name, sizeof(name));
        }
        put_header(out, &header, no, n_split, first, end);
        status = out->err.code;
        if (status == FT_OK) {
            status = save_file(out, name, &header, first, end, err);
        }
        ft_free(header.data);
    }
    if (status != FT_OK && out->err.code != FT_OK && err != NULL) {
        *err = out->err;
    }
    return status;
}
