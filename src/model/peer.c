/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - libllama's own engine on the same file, for side-by-side measurement and nothing else.
 *
 * Its settings are the ones a user of llama.cpp gets: flash attention where it chooses so, repacked
 * weights, batches of 2048 computed 512 at a time, a thread pool attached as llama-bench does.  No
 * layer leaves the CPU.  Logits are asked for where they are needed: at the last prompt token and
 * at each token after it.
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
    size_t cell_bytes; /* K and V of one position in all layers */
};

static bool parse_type(const char *text, enum ggml_type *out, size_t *n_byte) {
    static const struct {
        const char *name;
        enum ggml_type type;
        size_t n_byte;
    } known[] = {
        { "f16", GGML_TYPE_F16, 2 },
        { "f32", GGML_TYPE_F32, 4 },
        { "bf16", GGML_TYPE_BF16, 2 },
    };
    for (size_t i = 0; i < FT_COUNT(known); i++) {
        if (text == NULL || strcmp(text, known[i].name) == 0) {
            *out = known[i].type;
            *n_byte = known[i].n_byte;
            return true;
        }
    }
    return false;
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
    size_t n_byte;
    if (!parse_type(kv_type, &type, &n_byte)) {
        return ft_fail(err, FT_ARG, 0, "KV type is '%s', expected f32, f16 or bf16", kv_type);
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
    peer->cell_bytes = (size_t)2 * n_byte * hp->n_layer * hp->n_head_kv * hp->head_dim;
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

static ft_status check_prompt(const struct ft_peer *peer, const ft_token *id, uint32_t n,
                              uint32_t n_predict, struct ft_error *err) {
    if (n == 0 || n > peer->n_ctx || n_predict > peer->n_ctx - n) {
        return ft_fail(err, FT_LIMIT, 0,
                       "libllama: %" PRIu32 " tokens and %" PRIu32 " more, room for %" PRIu32, n,
                       n_predict, peer->n_ctx);
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

ft_status ft_peer_run(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                      ft_token *out, struct ft_peer_report *report, struct ft_error *err) {
    FT_TRY(check_prompt(peer, id, n, n_predict, err));
    llama_memory_clear(llama_get_memory(peer->ctx), false);
    int64_t start = ft_time_us();
    for (uint32_t t = 0; t < n;) {
        uint32_t n_now = FT_MIN(n - t, peer->n_batch);
        FT_TRY(decode(peer, id + t, n_now, t, t + n_now == n, err));
        t += n_now;
    }
    int64_t middle = ft_time_us();
    for (uint32_t i = 0; i < n_predict; i++) {
        if (i > 0) {
            FT_TRY(decode(peer, &out[i - 1], 1, n + i - 1, true, err));
        }
        FT_TRY(best(peer, &out[i], err));
    }
    *report = (struct ft_peer_report){
        .prefill_us = middle - start,
        .decode_us = ft_time_us() - middle,
        .kv_bytes = (uint64_t)peer->cell_bytes * ((uint64_t)n + n_predict),
    };
    return FT_OK;
}
