/* SPDX-License-Identifier: Apache-2.0 */
/* ppl.c - perplexity by llama.cpp's scheme, with a KV method between the halves of a chunk.
 *
 *   chunk     | first = n_ctx/2 tokens: the prompt | first .. n_ctx-2: fed, logits after each |
 *   scored                                           tokens first+1 .. n_ctx-1
 *
 * ppl = exp(mean nll); error = ppl * sqrt((mean nll^2 - (mean nll)^2) / (n - 1)).
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "eval/eval.h"

struct sums {
    double nll, nll2;
    uint64_t n;
};

uint32_t ft_logit_rows(uint32_t n_vocab, uint32_t n_most) {
    size_t n = FT_LOGIT_BYTES / (n_vocab * sizeof(float));
    return (uint32_t)FT_MAX(FT_MIN(n, (size_t)n_most), (size_t)1);
}

/* nll - minus log-softmax of one logit, in double. */
static double nll(const float *logit, uint32_t n_vocab, ft_token id) {
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        top = FT_MAX(top, (double)logit[i]);
    }
    for (uint32_t i = 0; i < n_vocab; i++) {
        sum += exp((double)logit[i] - top);
    }
    return top + log(sum) - (double)logit[id];
}

struct work {
    const struct ft_ppl_params *params;
    ft_session *session;
    ft_token *chunk; /* [n_ctx] */
    float *logits;   /* [n_block][n_vocab] */
    uint32_t n_block, n_vocab;
};

static ft_status run_chunk(struct work *work, const ft_token *id, struct sums *sums,
                           struct ft_error *error) {
    const struct ft_ppl_params *params = work->params;
    uint32_t first = params->n_ctx / 2, last = params->n_ctx - 1;
    memcpy(work->chunk, id, params->n_ctx * sizeof *id);
    if (params->has_bos) {
        work->chunk[0] = params->bos;
    }
    FT_TRY(ft_session_prompt(work->session, work->chunk, first, 0, error));
    for (uint32_t at = first; at < last; at += work->n_block) {
        uint32_t n = FT_MIN(work->n_block, last - at);
        FT_TRY(ft_session_feed(work->session, work->chunk + at, n, work->logits, error));
        for (uint32_t i = 0; i < n; i++) {
            double value = nll(work->logits + (size_t)i * work->n_vocab, work->n_vocab,
                               work->chunk[at + i + 1]);
            sums->nll += value;
            sums->nll2 += value * value;
            sums->n++;
        }
    }
    return FT_OK;
}

static void conclude(const struct sums *sums, struct ft_ppl *out) {
    double mean = sums->nll / (double)sums->n;
    double variance = sums->nll2 / (double)sums->n - mean * mean;
    out->nll = mean;
    out->ppl = exp(mean);
    out->error =
        sums->n > 1 && variance > 0 ? out->ppl * sqrt(variance / (double)(sums->n - 1)) : 0;
    out->n_scored = sums->n;
}

static ft_status run_chunks(struct work *work, struct ft_ppl *out, struct ft_error *error) {
    const struct ft_ppl_params *params = work->params;
    struct sums sums = { 0 };
    uint32_t n_chunk = params->n_id / params->n_ctx;
    if (params->n_chunk_max > 0) {
        n_chunk = FT_MIN(n_chunk, params->n_chunk_max);
    }
    for (uint32_t chunk = 0; chunk < n_chunk; chunk++) {
        FT_TRY(run_chunk(work, params->id + (size_t)chunk * params->n_ctx, &sums, error));
        conclude(&sums, out);
        if (params->running) {
            params->running(chunk + 1, n_chunk, out->ppl, params->user);
        }
    }
    out->n_chunk = n_chunk;
    ft_session_report(work->session, &out->report);
    return FT_OK;
}

ft_status ft_ppl_run(const struct ft_ppl_params *params, struct ft_ppl *out,
                     struct ft_error *error) {
    struct work work = { .params = params };
    struct ft_session_params session = *params->session;
    struct ft_model_info info;
    if (params->n_ctx < 4) {
        return ft_fail(error, FT_ARG, 0,
                       "a chunk of %" PRIu32 " tokens has no halves, expected at least 4",
                       params->n_ctx);
    }
    if (params->n_id / 2 < params->n_ctx) {
        return ft_fail(error, FT_LIMIT, 0,
                       "the text has %" PRIu32 " tokens, two chunks of %" PRIu32 " need %" PRIu64,
                       params->n_id, params->n_ctx, (uint64_t)params->n_ctx * 2);
    }
    ft_model_info(params->model, &info);
    work.n_vocab = info.n_vocab;
    work.n_block = ft_logit_rows(info.n_vocab, params->n_ctx);
    work.chunk = ft_alloc(params->n_ctx, sizeof *work.chunk);
    work.logits = ft_alloc((size_t)work.n_block * work.n_vocab, sizeof *work.logits);
    session.n_predict = params->n_ctx - params->n_ctx / 2;
    session.n_ctx = params->n_ctx;
    ft_status status = FT_OK;
    if (!work.chunk || !work.logits) {
        status = ft_fail(error, FT_NOMEM, 0, "no memory for %" PRIu32 " rows of %" PRIu32 " logits",
                         work.n_block, work.n_vocab);
    }
    if (status == FT_OK) {
        status = ft_session_new(params->model, params->draft, &session, &work.session, error);
    }
    if (status == FT_OK) {
        params->guard(work.session);
        status = run_chunks(&work, out, error);
        params->guard(NULL);
    }
    ft_session_free(work.session);
    ft_free(work.chunk);
    ft_free(work.logits);
    return status;
}
