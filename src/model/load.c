/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - a GGUF file (or a split set) as tensors, each in the best buffer type.
 *
 * Files are mapped and checked by ggufcheck.c before anyone else reads them; tensors point into the
 * map.  Weights that our own kernels do not multiply, and for which ggml offers a repacked layout on
 * this CPU, are copied into it once, and their mapped pages are released; the embedding table stays mapped, as looking up rows of a
 * repacked tensor gives garbage.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include "model/ggufcheck.h"
#include "model/load.h"
#include "model/product.h"

enum { PROBE_TOKENS = 512, SPLIT_MAX = 1024, PATH_CAP = 4096 };

/* ---- log lines of the libraries ---- */

static void library_log(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    int n = (int)strcspn(text, "\n");
    if (n > 0) {
        enum ft_log_level to = level == GGML_LOG_LEVEL_ERROR  ? FT_LOG_ERROR
                               : level == GGML_LOG_LEVEL_WARN ? FT_LOG_WARN
                                                              : FT_LOG_DEBUG;
        ft_log(to, "%.*s", n, text);
    }
}

static void log_init(void) {
    llama_log_set(library_log, NULL);
}

void ft_model_log_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, log_init);
}

/* ---- files ---- */

static ft_status split_path(const char *first, uint32_t no, uint32_t count, char *out,
                            struct ft_error *err) {
    char suffix[32];
    int n = snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", 1u, count);
    size_t len = strlen(first);
    if (len < (size_t)n || strcmp(first + len - (size_t)n, suffix) != 0) {
        return ft_fail(err, FT_FORMAT, 0,
                       "%s: first of %u split files, expected a name ending in %s", first, count,
                       suffix);
    }
    int written = snprintf(out, PATH_CAP, "%.*s-%05u-of-%05u.gguf", (int)(len - (size_t)n), first,
                           no + 1, count);
    return written < PATH_CAP ? FT_OK
                              : ft_fail(err, FT_ARG, 0, "%.60s...: the path is too long", first);
}

static ft_status open_shards(ft_model *m, struct ft_gguf_facts *facts, struct ft_error *err) {
    char path[PATH_CAP];
    for (uint32_t i = 0; i < m->n_shard; i++) {
        if (i > 0) {
            FT_TRY(split_path(m->path, i, m->n_shard, path, err));
            FT_TRY(ft_file_map_open(path, &m->shard[i].map, err));
            FT_TRY(ft_gguf_check(&m->shard[i].map, path, &facts[i], err));
            if (facts[i].split_no != i || facts[i].split_count != m->n_shard) {
                return ft_fail(err, FT_FORMAT, 0, "%s: says it is part %u of %u, expected %u of %u",
                               path, facts[i].split_no + 1, facts[i].split_count, i + 1,
                               m->n_shard);
            }
        }
        m->file_bytes += facts[i].file_bytes;
        m->tensor_bytes += facts[i].tensor_bytes;
        m->resident_bytes += facts[i].tensor_bytes;
        m->n_param += facts[i].n_param;
    }
    return m->n_shard > 1 ? ft_gguf_check_set(facts, m->n_shard, m->path, err) : FT_OK;
}

static void fingerprint(ft_model *m, const struct ft_gguf_facts *facts) {
    if (m->n_shard == 1) {
        memcpy(m->fingerprint, facts[0].fingerprint, sizeof m->fingerprint);
        return;
    }
    struct ft_sha256 sha;
    ft_sha256_init(&sha);
    for (uint32_t i = 0; i < m->n_shard; i++) {
        ft_sha256_add(&sha, facts[i].fingerprint, sizeof facts[i].fingerprint - 1);
    }
    ft_sha256_done(&sha, m->fingerprint);
}

/* ---- tensors ---- */

static ft_status map_tensors(struct ft_shard *shard, const struct ft_gguf_facts *facts,
                             const char *path, struct ft_error *err) {
    struct ggml_init_params params = { .mem_size = ggml_tensor_overhead() * (facts->n_tensor + 1),
                                       .no_alloc = true };
    shard->meta = ggml_init(params);
    void *base;
    memcpy(&base, &shard->map.data,
           sizeof base); /* ggml has no const buffers; nothing writes to this one */
    shard->buffer = ggml_backend_cpu_buffer_from_ptr(base, shard->map.size);
    if (!shard->meta || !shard->buffer) {
        return ft_fail(err, FT_NOMEM, 0, "%s: no memory for %u tensors", path, facts->n_tensor);
    }
    ggml_backend_buffer_set_usage(shard->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (uint32_t i = 0; i < facts->n_tensor; i++) {
        const struct ft_gguf_tensor *info = &facts->tensor[i];
        int64_t ne[4];
        int n_dim = 1;
        for (int k = 0; k < 4; k++) {
            ne[k] = (int64_t)info->ne[k];
            n_dim = ne[k] > 1 ? k + 1 : n_dim;
        }
        struct ggml_tensor *t = ggml_new_tensor(shard->meta, (enum ggml_type)info->type, n_dim, ne);
        ggml_set_name(t, info->name);
        ggml_backend_tensor_alloc(shard->buffer, t, (uint8_t *)base + info->offset);
    }
    return FT_OK;
}

static struct ggml_tensor *find(const ft_model *m, const char *name) {
    for (uint32_t i = 0; i < m->n_shard; i++) {
        struct ggml_tensor *t = ggml_get_tensor(m->shard[i].meta, name);
        if (t) {
            return t;
        }
    }
    return NULL;
}

struct slot_name { /* where a layer's tensor goes, and what the file calls it */
    const char *name;
    size_t offset;
};
#define SLOT(field, text)                                                                          \
    { text, offsetof(struct ft_layer, field) }
static const struct slot_name layer_slot[] = {
    SLOT(attn_norm, "attn_norm.weight"),
    SLOT(wq, "attn_q.weight"),
    SLOT(wk, "attn_k.weight"),
    SLOT(wv, "attn_v.weight"),
    SLOT(wo, "attn_output.weight"),
    SLOT(bq, "attn_q.bias"),
    SLOT(bk, "attn_k.bias"),
    SLOT(bv, "attn_v.bias"),
    SLOT(bo, "attn_output.bias"),
    SLOT(q_norm, "attn_q_norm.weight"),
    SLOT(k_norm, "attn_k_norm.weight"),
    SLOT(ffn_norm, "ffn_norm.weight"),
    SLOT(gate, "ffn_gate.weight"),
    SLOT(up, "ffn_up.weight"),
    SLOT(down, "ffn_down.weight"),
    SLOT(gate_b, "ffn_gate.bias"),
    SLOT(up_b, "ffn_up.bias"),
    SLOT(down_b, "ffn_down.bias"),
};

static struct ggml_tensor **slot_at(struct ft_layer *layer, size_t offset) {
    return (struct ggml_tensor **)(void *)((char *)layer + offset);
}

static void bind_tensors(ft_model *m) {
    char name[FT_GGUF_NAME_CAP];
    for (uint32_t l = 0; l < m->hp.n_layer; l++) {
        for (size_t i = 0; i < FT_COUNT(layer_slot); i++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, layer_slot[i].name);
            *slot_at(&m->layer[l], layer_slot[i].offset) = find(m, name);
        }
    }
    m->tok_embd = find(m, "token_embd.weight");
    m->output_norm = find(m, "output_norm.weight");
    m->output = find(m, "output.weight");
    m->output_b = find(m, "output.bias");
    m->rope_freqs = find(m, "rope_freqs.weight");
    if (!m->output) {
        m->output = m->tok_embd;
    }
}

const struct ggml_tensor *ft_model_mapped(const ft_model *m, const struct ggml_tensor *w) {
    return find(m, w->name);
}

void ft_model_release(const ft_model *m, const struct ggml_tensor *w) {
    for (uint32_t i = 0; i < m->n_shard; i++) {
        const struct ft_file_map *map = &m->shard[i].map;
        if (w->buffer == m->shard[i].buffer) {
            ft_file_map_release(map, (size_t)((uint8_t *)w->data - map->data), ggml_nbytes(w));
        }
    }
}

/* ---- repacking ---- */

/* Does this buffer type have a faster layout for products with w?  Asked as libllama's loader

 * asks. */
static bool accepts(ggml_backend_dev_t device, ggml_backend_buffer_type_t buft,
                    const struct ggml_tensor *w) {
    struct ggml_init_params params = { .mem_size = 8 * ggml_tensor_overhead(), .no_alloc = true };
    struct ggml_context *ctx = ggml_init(params);
    ggml_backend_buffer_t empty = ggml_backend_buft_alloc_buffer(buft, 0);
    bool ok = false;
    if (ctx && empty) {
        struct ggml_tensor *copy = ggml_new_tensor_2d(ctx, w->type, w->ne[0], w->ne[1]);
        struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, w->ne[0], PROBE_TOKENS);
        struct ggml_tensor *op = ggml_mul_mat(ctx, copy, x);
        copy->buffer = empty;
        ok = ggml_backend_dev_supports_op(device, op);
        copy->buffer = NULL;
    }
    if (empty) {
        ggml_backend_buffer_free(empty);
    }
    if (ctx) {
        ggml_free(ctx);
    }
    return ok;
}

/* Every weight that is only ever multiplied: call fn on its place. */
static void each_matrix(ft_model *m, void (*fn)(void *user, struct ggml_tensor **place),
                        void *user) {
    static const size_t at[] = { offsetof(struct ft_layer, wq),   offsetof(struct ft_layer, wk),
                                 offsetof(struct ft_layer, wv),   offsetof(struct ft_layer, wo),
                                 offsetof(struct ft_layer, gate), offsetof(struct ft_layer, up),
                                 offsetof(struct ft_layer, down) };
    for (uint32_t l = 0; l < m->hp.n_layer; l++) {
        for (size_t i = 0; i < FT_COUNT(at); i++) {
            fn(user, slot_at(&m->layer[l], at[i]));
        }
    }
    fn(user, &m->output);
}

struct repacking {
    ft_model *m;
    ggml_backend_dev_t device;
    ggml_backend_buffer_type_t buft;
    struct ggml_context *ctx; /* copies made so far; NULL while counting */
    uint32_t n;
    size_t bytes, kept; /* of all copies; of originals that stay in use */
    ft_status status;
};

static bool is_mapped(const ft_model *m, const struct ggml_tensor *t) {
    for (uint32_t i = 0; i < m->n_shard; i++) {
        if (t->buffer == m->shard[i].buffer) {
            return true;
        }
    }
    return false;
}

/* A matrix that our own kernels multiply as it lies in the file needs no other layout. */
static bool wants_copy(const struct repacking *r, const struct ggml_tensor *t) {
    return is_mapped(r->m, t) && !ft_product_takes(t) && accepts(r->device, r->buft, t);
}

static void count_matrix(void *user, struct ggml_tensor **place) {
    struct repacking *r = user;
    if (wants_copy(r, *place)) {
        r->n++;
        r->bytes += ggml_nbytes(*place);
        r->kept += *place == r->m->tok_embd ? ggml_nbytes(*place) : 0;
    }
}

static void add_matrix(void *user, struct ggml_tensor **place) {
    struct repacking *r = user;
    if (wants_copy(r, *place)) {
        struct ggml_tensor *copy = ggml_dup_tensor(r->ctx, *place);
        ggml_set_name(copy, (*place)->name);
    }
}

static void copy_matrix(void *user, struct ggml_tensor **place) {
    struct repacking *r = user;
    struct ggml_tensor *copy =
        is_mapped(r->m, *place) ? ggml_get_tensor(r->ctx, (*place)->name) : NULL;
    if (!copy) {
        return;
    }
    size_t n = ggml_nbytes(*place);
    ggml_backend_tensor_set(copy, (*place)->data, 0, n);
    if (*place != r->m->tok_embd) {
        ft_model_release(r->m, *place);
    }
    *place = copy;
}

static ft_status repack_into(struct repacking *r, struct ft_error *err) {
    ft_model *m = r->m;
    r->n = 0;
    r->bytes = r->kept = 0;
    each_matrix(m, count_matrix, r);
    m->repacked_bytes += r->bytes;
    m->resident_bytes += r->kept;
    if (!r->n || m->load != FT_LOAD_FULL || m->n_repack == FT_COUNT(m->repack)) {
        return FT_OK;
    }
    struct ft_repack *repack = &m->repack[m->n_repack++];
    struct ggml_init_params params = { .mem_size = ggml_tensor_overhead() * (r->n + 1),
                                       .no_alloc = true };
    r->ctx = repack->ctx = ggml_init(params);
    if (r->ctx) {
        each_matrix(m, add_matrix, r);
        repack->buffer = ggml_backend_alloc_ctx_tensors_from_buft(r->ctx, r->buft);
    }
    if (!repack->buffer) {
        return ft_fail_memory(err, r->bytes, "repacked weights of %.100s", m->path);
    }
    ggml_backend_buffer_set_usage(repack->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    each_matrix(m, copy_matrix, r);
    return FT_OK;
}

/* For FT_LOAD_VOCAB this only counts: estimates want to know. */
static ft_status repack(ft_model *m, struct ft_error *err) {
    struct repacking r = { .m = m,
                           .device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) };
    ggml_backend_dev_get_extra_bufts_t get_extra = NULL;
    if (r.device) {
        void *found = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(r.device),
                                                        "ggml_backend_dev_get_extra_bufts");
        memcpy(&get_extra, &found, sizeof get_extra);
    }
    ggml_backend_buffer_type_t *extra = get_extra ? get_extra(r.device) : NULL;
    for (; extra && *extra; extra++) {
        r.buft = *extra;
        FT_TRY(repack_into(&r, err));
    }
    return FT_OK;
}

/* ---- opening ---- */

static ft_status load_vocab(ft_model *m, struct ft_error *err) {
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    errno = 0;
    m->vocab = llama_model_load_from_file(m->path, params);
    if (!m->vocab && errno == ENOMEM) { /* libllama itself does not tell */
        return ft_fail(err, FT_NOMEM, 0,
                       "%s: libllama has no memory to read the vocabulary: %" PRIu64
                       " MiB available",
                       m->path, ft_memory_available() >> 20);
    }
    if (!m->vocab) {
        return ft_fail(err, FT_FORMAT, 0, "%s: libllama cannot read the vocabulary", m->path);
    }
    m->has_bos = ft_model_bos(m) >= 0;
    return FT_OK;
}

static ft_status build(ft_model *m, const struct ft_gguf_facts *facts, struct ft_error *err) {
    m->hp = facts[0].hparams;
    m->name = ft_strdup(facts[0].name);
    m->file_type = facts[0].file_type;
    m->has_chat_template = facts[0].has_chat_template;
    m->layer = ft_alloc(m->hp.n_layer, sizeof *m->layer);
    if (!m->name || !m->layer) {
        return ft_fail(err, FT_NOMEM, 0, "%s: no memory for %u layers", m->path, m->hp.n_layer);
    }
    fingerprint(m, facts);
    for (uint32_t i = 0; i < m->n_shard; i++) {
        FT_TRY(map_tensors(&m->shard[i], &facts[i], m->path, err));
    }
    bind_tensors(m);
    FT_TRY(load_vocab(m, err));
    return m->load == FT_LOAD_PLAIN ? FT_OK : repack(m, err);
}

static ft_status open_model(ft_model *m, struct ft_error *err) {
    struct ft_file_map map;
    struct ft_gguf_facts first = { 0 };
    FT_TRY(ft_file_map_open(m->path, &map, err));
    ft_status status = ft_gguf_check(&map, m->path, &first, err);
    uint32_t n = status == FT_OK ? FT_MAX(first.split_count, 1) : 1;
    if (status == FT_OK && (first.split_no != 0 || n > SPLIT_MAX)) {
        status =
            ft_fail(err, FT_FORMAT, 0, "%s: part %u of %u, expected the first of at most %d parts",
                    m->path, first.split_no + 1, n, SPLIT_MAX);
    }
    struct ft_gguf_facts *facts = ft_alloc(n, sizeof *facts);
    m->shard = ft_alloc(n, sizeof *m->shard);
    if (!facts || !m->shard) {
        ft_file_map_close(&map);
        ft_gguf_facts_done(&first);
        ft_free(facts);
        return ft_fail(err, FT_NOMEM, 0, "%s: no memory for %u files", m->path, n);
    }
    m->n_shard = n;
    m->shard[0].map = map;
    facts[0] = first;
    if (status == FT_OK) {
        status = open_shards(m, facts, err);
    }
    if (status == FT_OK) {
        status = build(m, facts, err);
    }
    for (uint32_t i = 0; i < n; i++) {
        ft_gguf_facts_done(&facts[i]);
    }
    ft_free(facts);
    return status;
}

ft_status ft_model_open(const char *path, enum ft_load load, ft_model **out, struct ft_error *err) {
    ft_model_log_init();
    ft_model *m = ft_alloc(1, sizeof *m);
    if (!m || !(m->path = ft_strdup(path))) {
        ft_free(m);
        return ft_fail(err, FT_NOMEM, 0, "no memory to open %s", path);
    }
    m->load = load;
    ft_status status = open_model(m, err);
    if (status != FT_OK) {
        ft_model_close(m);
        return status;
    }
    *out = m;
    return FT_OK;
}

void ft_model_close(ft_model *m) {
    if (!m) {
        return;
    }
    if (m->vocab) {
        llama_model_free(m->vocab);
    }
    for (uint32_t i = 0; i < m->n_repack; i++) {
        ggml_backend_buffer_free(m->repack[i].buffer);
        ggml_free(m->repack[i].ctx);
    }
    for (uint32_t i = 0; i < m->n_shard; i++) {
        ggml_backend_buffer_free(m->shard[i].buffer);
        ggml_free(m->shard[i].meta);
        ft_file_map_close(&m->shard[i].map);
    }
    ft_free(m->shard);
    ft_free(m->layer);
    ft_free(m->name);
    ft_free(m->path);
    ft_free(m);
}

/* ---- what there is ---- */

const struct ft_hparams *ft_model_hparams(const ft_model *m) {
    return &m->hp;
}

const struct llama_model *ft_model_vocab_llama(const ft_model *m) {
    return m->vocab;
}

ft_token ft_model_bos(const ft_model *m) {
    const struct llama_vocab *vocab = llama_model_get_vocab(m->vocab);
    return llama_vocab_get_add_bos(vocab) ? llama_vocab_bos(vocab) : -1;
}

void ft_model_info(const ft_model *m, struct ft_model_info *out) {
    const struct ft_hparams *hp = &m->hp;
    *out = (struct ft_model_info){
        .path = m->path,
        .name = m->name,
        .arch = hp->arch,
        .file_type = m->file_type,
        .file_bytes = m->file_bytes,
        .tensor_bytes = m->tensor_bytes,
        .repacked_bytes = m->repacked_bytes,
        .resident_bytes = m->resident_bytes,
        .n_param = m->n_param,
        .n_layer = hp->n_layer,
        .n_embd = hp->n_embd,
        .n_head = hp->n_head,
        .n_head_kv = hp->n_head_kv,
        .head_dim = hp->head_dim,
        .n_ff = hp->n_ff,
        .n_vocab = hp->n_vocab,
        .n_vocab_real = hp->n_vocab_real,
        .n_ctx_train = hp->n_ctx_train,
        .has_chat_template = m->has_chat_template,
        .has_bos = m->has_bos,
    };
    memcpy(out->fingerprint, m->fingerprint, sizeof out->fingerprint);
}
