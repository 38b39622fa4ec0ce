/* SPDX-License-Identifier: Apache-2.0 */
/* ggufwalk.h - the container of a GGUF file as a checked index; shared by the files that apply
 * rules. */
#ifndef FT_MODEL_GGUFWALK_H
#define FT_MODEL_GGUFWALK_H

#include "model/ggufcheck.h"

/* types of values, as in the file format */
enum ft_gguf_type {
    FT_GGUF_U8,
    FT_GGUF_I8,
    FT_GGUF_U16,
    FT_GGUF_I16,
    FT_GGUF_U32,
    FT_GGUF_I32,
    FT_GGUF_F32,
    FT_GGUF_BOOL,
    FT_GGUF_STRING,
    FT_GGUF_ARRAY,
    FT_GGUF_U64,
    FT_GGUF_I64,
    FT_GGUF_F64,
    FT_GGUF_TYPE_COUNT,
};

struct ft_gguf_span { /* text inside the file: not NUL-terminated */
    const char *text;
    size_t n;
};

struct ft_gguf_key {
    struct ft_gguf_span name;
    enum ft_gguf_type type, item; /* item: type of the elements of an array */
    uint64_t n;                   /* elements of an array, else 1 */
    size_t where, at;             /* byte of the entry; of its value (of the first element) */
};

struct ft_gguf_walk {
    const uint8_t *data;
    size_t size, at;  /* everything in front of at has been checked */
    char label[104];  /* the path, or its end */
    const char *arch; /* static text; replaces the '*' in key names */
    struct ft_error *err;
    struct ft_gguf_key *key; /* [n_key] */
    uint32_t n_key, n_slot;
    uint32_t *slot; /* [n_slot] hash table: index + 1 of a key, 0 empty */
};

/* ft_gguf__walk - check the container and fill the index and the tensor table of facts. The
 * caller calls ft_gguf__walk_done, also after a failure. */
ft_status ft_gguf__walk(struct ft_gguf_walk *walk, struct ft_gguf_facts *facts);
void ft_gguf__walk_done(struct ft_gguf_walk *walk);

/* ft_gguf__label - what messages call a file: its path, or the end of a long one. */
void ft_gguf__label(char label[104], const char *path);

ft_status ft_gguf__fail(const struct ft_gguf_walk *walk, ft_status code, uint64_t where,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Lookups.  A name that starts with "*." has the architecture in place of the star.  An absent
 * key leaves *out as it was; a wrong type or a value out of range is an error that names the
 * key. */
const struct ft_gguf_key *ft_gguf__find(const struct ft_gguf_walk *walk, const char *name);
ft_status ft_gguf__u32(const struct ft_gguf_walk *walk, const char *name, uint32_t lo, uint32_t hi,
                       uint32_t *out);
ft_status ft_gguf__u16(const struct ft_gguf_walk *walk, const char *name, uint32_t lo, uint32_t hi,
                       uint32_t *out);
ft_status ft_gguf__i32(const struct ft_gguf_walk *walk, const char *name, uint32_t hi,
                       uint32_t *out);
ft_status ft_gguf__f32(const struct ft_gguf_walk *walk, const char *name, float *out);
ft_status ft_gguf__bool(const struct ft_gguf_walk *walk, const char *name, bool *out);
ft_status ft_gguf__string(const struct ft_gguf_walk *walk, const char *name,
                          struct ft_gguf_span *out);
/* ft_gguf__need - error when the key is absent. */
ft_status ft_gguf__need(const struct ft_gguf_walk *walk, const char *name);
/* ft_gguf__array - NULL in *out when absent; an error when it is no array of that type. */
ft_status ft_gguf__array(const struct ft_gguf_walk *walk, const char *name, enum ft_gguf_type item,
                         const struct ft_gguf_key **out);
/* ft_gguf__type - error unless an existing key has this type. */
ft_status ft_gguf__type(const struct ft_gguf_walk *walk, const char *name, enum ft_gguf_type type);

/* ft_gguf__find_span - the key of that full name, or NULL and in *at the slot where it would go. */
const struct ft_gguf_key *ft_gguf__find_span(const struct ft_gguf_walk *walk,
                                             struct ft_gguf_span name, uint32_t *at);

/* ft_gguf__type_bytes - bytes of a value; 0 for strings and arrays. */
size_t ft_gguf__type_bytes(enum ft_gguf_type type);

#define FT_GGUF_SHOW(span) (int)FT_MIN((span).n, (size_t)64), (span).text /* for "%.*s" */

/* Elements that the walk has checked. */
uint32_t ft_gguf__load_u32(const uint8_t *p);
uint64_t ft_gguf__load_u64(const uint8_t *p);
float ft_gguf__load_f32(const uint8_t *p);
double ft_gguf__number(const struct ft_gguf_walk *walk, const struct ft_gguf_key *key, uint64_t i);
/* ft_gguf__next - the string at *at; moves *at behind it. */
struct ft_gguf_span ft_gguf__next(const struct ft_gguf_walk *walk, size_t *at);

bool ft_gguf__is(struct ft_gguf_span span, const char *text);
/* ft_gguf__hash - FNV-1a from another start in every process. */
uint32_t ft_gguf__hash(struct ft_gguf_span span);

/* ft_gguf__vocab - every key of the vocabulary that libllama reads (ggufvocab.c). */
ft_status ft_gguf__vocab(const struct ft_gguf_walk *walk, struct ft_gguf_facts *facts);

#endif
