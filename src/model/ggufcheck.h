/* SPDX-License-Identifier: Apache-2.0 */
/* ggufcheck.h - what a GGUF header says, once nothing in it can hurt anyone.
 *
 * libllama and gguf.h abort, throw or trust on some inputs, so every file passes here first:
 *
 *     ft_file_map_open(path, &map, err);
 *     ft_gguf_check(&map, path, &facts, err);          one file: container, keys, vocabulary
 *     ft_gguf_check_set(facts, n_file, path, err);     all files of a model: tensors
 *
 * A model in one file is complete after ft_gguf_check, which then calls ft_gguf_check_set itself.
 */
#ifndef FT_MODEL_GGUFCHECK_H
#define FT_MODEL_GGUFCHECK_H

#include "model/model.h"

enum { FT_GGUF_NAME_CAP = 64 }; /* GGML_MAX_NAME */

struct ft_gguf_tensor {
    char name[FT_GGUF_NAME_CAP];
    uint32_t type;   /* enum ggml_type, one that ggml can compute with */
    uint64_t ne[4];  /* {innermost, ...}, 1 where there is no dimension */
    uint64_t offset; /* from the start of the file */
    uint64_t n_byte; /* offset + n_byte <= file size */
    uint64_t where;  /* byte of its entry in the header */
};

struct ft_gguf_facts {
    struct ft_hparams hparams; /* defaults resolved; arch is static text; zeros if split_no > 0 */
    char *name;                /* general.name, "" when absent; owned */
    const char *file_type; /* "Q4_K_M"; static text */
    bool has_chat_template;
    bool is_tied;        /* no output.weight: the embedding table is the head; by _check_set */
    bool has_rope_freqs; /* likewise */
    uint32_t split_no, split_count, split_tensors; /* 0, 1, n_tensor for a model in one file */
    uint32_t version, alignment;
    uint64_t file_bytes, data_offset; /* tensors start at data_offset, a multiple of alignment */
    uint64_t n_param, tensor_bytes;   /* of this file */
    char fingerprint[65];             /* SHA-256 of [0, data_offset): keys and tensor table */
    struct ft_gguf_tensor *tensor;    /* [n_tensor] in file order; owned */
    uint32_t n_tensor;
};

/* ft_gguf_check - walk the header and apply every rule that one file can break.
 *
 *   path     for messages
 *   facts    filled on success; done with ft_gguf_facts_done
 * Errors     FT_FORMAT (damaged, lying), FT_UNSUP (architecture, key, tensor type), FT_NOMEM;
 *            err->where is the byte offset of the thing named */
ft_status ft_gguf_check(const struct ft_file_map *file, const char *path,
                        struct ft_gguf_facts *facts, struct ft_error *err);

/* ft_gguf_check_set - the rules that need all files: each tensor is known, has the shape that the
 * hyperparameters of facts[0] ask for, and occurs once; none is missing.
 *
 *   facts    [n_file] in the order of split_no
 * Errors     FT_FORMAT, FT_UNSUP, FT_NOMEM */
ft_status ft_gguf_check_set(struct ft_gguf_facts *facts, uint32_t n_file, const char *path,
                            struct ft_error *err);

void ft_gguf_facts_done(struct ft_gguf_facts *facts); /* NULL and zeroed facts are no-ops */

#endif
