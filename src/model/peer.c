/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - libllama's own engine on the same file, for side-by-side measurement and nothing else.
 *
 * Its settings are the ones a user of llama.cpp gets: flash attention where it chooses so, repacked
 * weights, batches of 2048 computed 512 at a time, a thread pool attached as llama-bench does.  No
 * layer leaves the CPU.  Logits are asked for where they are needed: at the last prompt token and
 * at each token after it.
 *
 * To measure at a depth nobody has to read that many tokens: rows are copied.  libllama copies them
 * through the state of a sequence, into sequence 1, whose cells then join sequence 0.  Copies keep
 * the positions of their originals, all below those of the tokens that follow, so that attention
 * sees every cell of them (moving them would take a rotation that libllama lacks for bf16 rows).
 */
#include <ggml-cpu.h>
#include <inttypes.h>
#include <llama.h>
#include <math.h>
#include <string.h>

#include "model/load.h"

struct ft_peer {
    ft_model *header; /* checks the file and knows its sizes */
    struct llama_model *model;
    struct llama_context *ctx;
    struct ggml_threadpool *pool;
    struct llama_batch batch; /* room for one batch; token NULL when there is none */
    uint32_t n_batch, n_ctx;
    uint32_t n_row, pos; /* cells that sequence 0 holds; the position of its next token */
    size_t cell_bytes;   /* K and V of one position in all layers */
};

static bool parse_type(const char *text, enum ggml_type *out) {
    static const struct {
        const char *name;
        enum ggml_type type;
    } known[] = {
        { "f16", GGML_TYPE_F16 },
        { "f32", GGML_TYPE_F32 },
        { "bf16", GGML_TYPE_BF16 },
        { "q8_0", GGML_TYPE_Q8_0 },
    };
    for (size_t i = 0; i < FT_COUNT(known); i++) {
        if (text == NULL || strcmp(text, known[i].name) == 0) {
            *out = known[i].type;
            return true;
        }
    }
    return false;
}

static ft_status check_head(const struct ft_peer *peer, enum ggml_type type,
                            struct ft_error *err) {
    uint32_t d = ft_model_hparams(peer->header)->head_dim;
    int64_t block = ggml_blck_size(type);
    if ((int64_t)d % block != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "KV type %s: head size %" PRIu32 " is not a multiple of %" PRId64,
                       ggml_type_name(type), d, block);
    }
    return FT_OK;
}

static ft_status open_model(struct ft_peer *peer, const char *path, struct ft_error *err) {
    ggml_backend_dev_t none[1] = { NULL };
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.devices = none;
    peer->model = llama_model_load_from_file(path, params);
    return peer->model != NULL ? FT_OK
                               : ft_fail(err, FT_FORMAT, 0, "%s: libllama cannot load it", path);
}

static ft_status open_context(struct ft_peer *peer, uint32_t n_thread, enum ggml_type type,
                              struct ft_error *err) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = peer->n_ctx;
    params.n_threads = (int32_t)n_thread;
    params.n_threads_batch = (int32_t)n_thread;
    params.type_k = type;
    params.type_v = type;
    params.no_perf = true;
    /* sequence 1 exists for a moment only; in one buffer with 0 it costs nothing afterwards */
    params.n_seq_max = 2;
    params.kv_unified = true;
    peer->n_batch = params.n_batch;
    peer->ctx = llama_init_from_model(peer->model, params);
    if (peer->ctx == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "libllama makes no context of %" PRIu32 " tokens",
                       peer->n_ctx);
    }
    struct ggml_threadpool_params pool = ggml_threadpool_params_default((int)n_thread);
    peer->pool = ggml_threadpool_new(&pool);
    if (peer->pool == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "libllama makes no pool of %" PRIu32 " threads", n_thread);
    }
    llama_attach_threadpool(peer->ctx, peer->pool, NULL);
    peer->batch = llama_batch_init((int32_t)peer->n_batch, 0, 1);
    return peer->batch.token != NULL ? FT_OK : ft_fail(err, FT_NOMEM, 0, "libllama makes no batch");
}

ft_status ft_peer_open(const char *path, uint32_t n_ctx, uint32_t n_thread, const char *kv_type,
                       ft_peer **out, struct ft_error *err) {
    enum ggml_type type;
    if (!parse_type(kv_type, &type)) {
        return ft_fail(err, FT_ARG, 0,
                       "libllama stores no KV rows as '%s', expected f32, f16, bf16 or q8_0",
                       kv_type);
    }
    if (n_ctx == 0 || n_ctx > INT32_MAX || n_thread > GGML_MAX_N_THREADS) {
        return ft_fail(err, FT_ARG, 0,
                       "libllama: context of %" PRIu32 " tokens on %" PRIu32
                       " threads, expected 1 or more tokens and at most %d threads",
                       n_ctx, n_thread, GGML_MAX_N_THREADS);
    }
    struct ft_peer *peer = ft_alloc(1, sizeof(*peer));
    if (peer == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "libllama: no memory");
    }
    peer->n_ctx = n_ctx;
    n_thread = n_thread == 0 ? ft_cpu_count() : n_thread;
    ft_status status = ft_model_open(path, FT_LOAD_VOCAB, &peer->header, err);
    if (status == FT_OK) {
        status = check_head(peer, type, err);
    }
    if (status == FT_OK) {
        status = open_model(peer, path, err);
    }
    if (status == FT_OK) {
        status = open_context(peer, n_thread, type, err);
    }
    if (status != FT_OK) {
        ft_peer_close(peer);
        return status;
    }
    const struct ft_hparams *hp = ft_model_hparams(peer->header);
    peer->cell_bytes =
        (size_t)2 * hp->n_layer * hp->n_head_kv * ggml_row_size(type, (int64_t)hp->head_dim);
    *out = peer;
    return FT_OK;
}

void ft_peer_close(ft_peer *peer) {
    if (peer == NULL) {
        return;
    }
    if (peer->batch.token != NULL) {
        llama_batch_free(peer->batch);
    }
    if (peer->ctx != NULL) {
        llama_detach_threadpool(peer->ctx);
        llama_free(peer->ctx);
    }
    if (peer->pool != NULL) {
        ggml_threadpool_free(peer->pool);
    }
    if (peer->model != NULL) {
        llama_model_free(peer->model);
    }
    ft_model_close(peer->header);
    ft_free(peer);
}

/* Evaluate id[n] at positions pos..; has_logits: those of the last one. */
static ft_status decode(struct ft_peer *peer, const ft_token *id, uint32_t n, uint32_t pos,
                        bool has_logits, struct ft_error *err) {
    struct llama_batch *b = &peer->batch;
    for (uint32_t t = 0; t < n; t++) {
        b->token[t] = id[t];
        b->pos[t] = (llama_pos)(pos + t);
        b->n_seq_id[t] = 1;
        b->seq_id[t][0] = 0;
        b->logits[t] = has_logits && t + 1 == n;
    }
    b->n_tokens = (int32_t)n;
    int32_t status = llama_decode(peer->ctx, *b);
    if (status != 0) {
        return ft_fail(err, FT_INTERNAL, pos,
                       "libllama: decode of %" PRIu32 " tokens at %" PRIu32 " gives %" PRId32, n,
                       pos, status);
    }
    llama_synchronize(peer->ctx);
    return FT_OK;
}

static ft_status best(struct ft_peer *peer, ft_token *out, struct ft_error *err) {
    const float *logits = llama_get_logits_ith(peer->ctx, -1);
    uint32_t n = ft_model_hparams(peer->header)->n_vocab_real;
    if (logits == NULL || isnan(logits[0])) {
        return ft_fail(err, FT_INTERNAL, 0, "libllama: no logits");
    }
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    *out = (ft_token)top;
    return FT_OK;
}

static ft_status check_room(const struct ft_peer *peer, const ft_token *id, uint32_t n,
                            uint32_t n_predict, struct ft_error *err) {
    uint32_t room = peer->n_ctx - peer->n_row;
    if (n == 0 || n > room || n_predict > room - n) {
        return ft_fail(err, FT_LIMIT, 0,
                       "libllama: %" PRIu32 " tokens and %" PRIu32 " more, room for %" PRIu32, n,
                       n_predict, room);
    }
    uint32_t n_vocab = ft_model_hparams(peer->header)->n_vocab;
    for (uint32_t t = 0; t < n; t++) {
        if (id[t] < 0 || (uint32_t)id[t] >= n_vocab) {
            return ft_fail(err, FT_ARG, t, "token %" PRIu32 " is %" PRId32 ", expected 0..%" PRIu32,
                           t, id[t], n_vocab - 1);
        }
    }
    return FT_OK;
}

static void forget(struct ft_peer *peer) {
    llama_memory_clear(llama_get_memory(peer->ctx), false);
    peer->n_row = peer->pos = 0;
}

/* Evaluate id[n] behind what the cache holds; logits of the last one. */
static ft_status append(struct ft_peer *peer, const ft_token *id, uint32_t n,
                        struct ft_error *err) {
    for (uint32_t t = 0; t < n;) {
        uint32_t n_now = FT_MIN(n - t, peer->n_batch);
        FT_TRY(decode(peer, id + t, n_now, peer->pos, t + n_now == n, err));
        peer->pos += n_now;
        peer->n_row += n_now;
        t += n_now;
    }
    return FT_OK;
}

static ft_status run(struct ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                     ft_token *out, struct ft_peer_report *report, struct ft_error *err) {
    int64_t start = ft_time_us();
    FT_TRY(append(peer, id, n, err));
    int64_t middle = ft_time_us();
    for (uint32_t i = 0; i < n_predict; i++) {
        if (i > 0) {
            FT_TRY(append(peer, &out[i - 1], 1, err));
        }
        FT_TRY(best(peer, &out[i], err));
    }
    report->prefill_us = middle - start;
    report->decode_us = ft_time_us() - middle;
    return FT_OK;
}

ft_status ft_peer_continue(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                           ft_token *out, struct ft_peer_report *report, struct ft_error *err) {
    struct ft_peer_report found = { .n_row = peer->n_row };
    FT_TRY(check_room(peer, id, n, n_predict, err));
    found.kv_bytes = (uint64_t)peer->cell_bytes * ((uint64_t)peer->n_row + n + n_predict);
    ft_status status = run(peer, id, n, n_predict, out, &found, err);
    if (status != FT_OK) {
        forget(peer);
        return status;
    }
    *report = found;
    return FT_OK;
}

ft_status ft_peer_run(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                      ft_token *out, struct ft_peer_report *report, struct ft_error *err) {
    forget(peer);
    return ft_peer_continue(peer, id, n, n_predict, out, report, err);
}

/* ---- copied rows ---- */

struct block { /* the state of some cells */
    uint8_t *data;
    size_t n_byte;
    uint32_t n_row;
};

/* The state of the cells at positions [0, n_row), of which there is one each. */
static ft_status block_read(struct ft_peer *peer, uint32_t n_row, struct block *out,
                            struct ft_error *err) {
    llama_memory_t memory = llama_get_memory(peer->ctx);
    llama_memory_seq_cp(memory, 0, 1, 0, (llama_pos)n_row);
    size_t n_byte = llama_state_seq_get_size(peer->ctx, 1);
    out->data = ft_alloc(n_byte, 1);
    if (out->data != NULL) {
        out->n_byte = llama_state_seq_get_data(peer->ctx, out->data, n_byte, 1);
        out->n_row = n_row;
    }
    llama_memory_seq_rm(memory, 1, -1, -1);
    if (out->data == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "libllama: no memory to copy %" PRIu32 " rows", n_row);
    }
    return out->n_byte > 0 ? FT_OK
                           : ft_fail(err, FT_INTERNAL, 0, "libllama: rows cannot be copied");
}

/* The same cells once more, at the end. */
static ft_status block_write(struct ft_peer *peer, const struct block *block,
                             struct ft_error *err) {
    llama_memory_t memory = llama_get_memory(peer->ctx);
    if (llama_state_seq_set_data(peer->ctx, block->data, block->n_byte, 1) == 0) {
        return ft_fail(err, FT_INTERNAL, 0, "libllama: %" PRIu32 " copied rows find no room",
                       block->n_row);
    }
    llama_memory_seq_cp(memory, 1, 0, -1, -1);
    llama_memory_seq_rm(memory, 1, -1, -1);
    peer->n_row += block->n_row;
    return FT_OK;
}

static ft_status copy_rows(struct ft_peer *peer, uint32_t n_row, struct ft_error *err) {
    struct block whole = { .data = NULL }, rest = { .data = NULL };
    uint32_t n = peer->n_row, n_rest = (n_row - n) % n;
    ft_status status = FT_OK;
    if (n_row - n >= n) {
        status = block_read(peer, n, &whole, err);
    }
    if (status == FT_OK && n_rest > 0) {
        status = block_read(peer, n_rest, &rest, err);
    }
    while (status == FT_OK && n_row - peer->n_row >= n) {
        status = block_write(peer, &whole, err);
    }
    if (status == FT_OK && n_rest > 0) {
        status = block_write(peer, &rest, err);
    }
    ft_free(whole.data);
    ft_free(rest.data);
    return status;
}

ft_status ft_peer_fill(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_row,
                       struct ft_error *err) {
    forget(peer);
    if (n_row == 0) {
        return FT_OK;
    }
    FT_TRY(check_room(peer, id, n, n_row < n ? 0 : n_row - n, err));
    ft_status status = append(peer, id, FT_MIN(n, n_row), err);
    if (status == FT_OK) {
        status = copy_rows(peer, n_row, err);
    }
    if (status != FT_OK) {
        forget(peer);
    }
    return status;
}
