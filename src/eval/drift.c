/* SPDX-License-Identifier: Apache-2.0 */
/* drift.c - a chunk read twice, dense and with a method, and the two distributions of each next
 * token compared.
 *
 *   KL(p || q) = sum_v p(v) (log p(v) - log q(v)),   log p(v) = logit(v) - log sum_u exp logit(u)
 */
#include "eval/drift.h"

#include <math.h>
#include <stdlib.h>

/* ---- one position ---- */

static double log_sum_exp(const float *logit, uint32_t n, uint32_t *best) {
    double sum = 0;
    *best = 0;
    for (uint32_t v = 1; v < n; v++) {
        *best = logit[v] > logit[*best] ? v : *best;
    }
    double top = (double)logit[*best];
    for (uint32_t v = 0; v < n; v++) {
        sum += exp((double)logit[v] - top);
    }
    return top + log(sum);
}

struct ft_drift_at ft_drift_position(const float *dense, const float *method, uint32_t n_vocab,
                                     ft_token next) {
    uint32_t best[2];
    double lse = log_sum_exp(dense, n_vocab, &best[0]),
           lse_method = log_sum_exp(method, n_vocab, &best[1]), kl = 0;
    for (uint32_t v = 0; v < n_vocab; v++) {
        double logp = (double)dense[v] - lse, p = exp(logp);
        if (p > 0) { /* 0 log 0 is 0 */
            kl += p * (logp - ((double)method[v] - lse_method));
        }
    }
    return (struct ft_drift_at){ .nll = lse_method - (double)method[next],
                                 .nll_dense = lse - (double)dense[next],
                                 .kl = kl < 0 ? 0 : kl, /* rounding */
                                 .is_agreeing = best[0] == best[1] };
}

static int compare_numbers(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double ft_drift_rank(double *value, uint32_t n, double share) {
    qsort(value, n, sizeof *value, compare_numbers);
    double at = ceil(share * n) - 1;
    return value[(uint32_t)FT_MIN(FT_MAX(at, 0.0), n - 1.0)];
}

/* ---- a chunk ---- */

enum { DENSE, METHOD, SIDES };

struct work {
    const struct ft_drift_params *params;
    ft_session *session[SIDES];
    float *logits[SIDES]; /* [n_block][n_vocab] */
    double *kl;           /* [n_scored] */
    uint32_t n_block, n_vocab;
    struct ft_drift sum;
};

static ft_status work_init(struct work *w, struct ft_error *error) {
    const struct ft_drift_params *params = w->params;
    struct ft_model_info info;
    ft_model_info(params->target, &info);
    w->n_vocab = info.n_vocab;
    w->n_block = ft_logit_rows(info.n_vocab, params->n_ctx);
    w->kl = ft_alloc(params->n_ctx, sizeof *w->kl);
    for (int side = 0; side < SIDES; side++) {
        struct ft_session_params session = *params->session;
        session.n_predict = params->n_ctx - params->n_ctx / 2;
        session.n_ctx = params->n_ctx;
        if (side == DENSE) {
            session.prompt = session.kv = session.kv_type = NULL;
            session.self_layers = 0;
            session.is_auto = false;
        }
        w->logits[side] = ft_alloc((size_t)w->n_block * w->n_vocab, sizeof *w->logits[side]);
        if (!w->logits[side] || !w->kl) {
            return ft_fail(error, FT_NOMEM, 0, "no memory for %u rows of %u logits", w->n_block,
                           w->n_vocab);
        }
        FT_TRY(ft_session_new(params->target, side == DENSE ? NULL : params->draft, &session,
                              &w->session[side], error));
    }
    return FT_OK;
}

static void work_done(struct work *w) {
    w->params->guard(NULL);
    for (int side = 0; side < SIDES; side++) {
        ft_session_free(w->session[side]);
        ft_free(w->logits[side]);
    }
    ft_free(w->kl);
}

static ft_status score_block(struct work *w, uint32_t at, uint32_t n, struct ft_error *error) {
    for (uint32_t i = 0; i < n; i++) {
        size_t row = (size_t)i * w->n_vocab;
        struct ft_drift_at one = ft_drift_position(w->logits[DENSE] + row, w->logits[METHOD] + row,
                                                   w->n_vocab, w->params->id[at + i + 1]);
        if (!isfinite(one.nll) || !isfinite(one.nll_dense) || !isfinite(one.kl)) {
            return ft_fail(error, FT_INTERNAL, at + i,
                           "logits behind token %u of a chunk are no distribution", at + i);
        }
        w->sum.nll += one.nll;
        w->sum.nll_dense += one.nll_dense;
        w->sum.kl += one.kl;
        w->sum.agreement += one.is_agreeing;
        w->kl[w->sum.n_scored++] = one.kl;
    }
    return FT_OK;
}

static ft_status run(struct work *w, struct ft_error *error) {
    const struct ft_drift_params *params = w->params;
    uint32_t first = params->n_ctx / 2, last = params->n_ctx - 1;
    for (int side = 0; side < SIDES; side++) {
        params->guard(w->session[side]);
        FT_TRY(ft_session_prompt(w->session[side], params->id, first, 0, error));
    }
    for (uint32_t at = first; at < last; at += w->n_block) {
        uint32_t n = FT_MIN(w->n_block, last - at);
        for (int side = 0; side < SIDES; side++) {
            params->guard(w->session[side]);
            FT_TRY(ft_session_feed(w->session[side], params->id + at, n, w->logits[side], error));
        }
        FT_TRY(score_block(w, at, n, error));
    }
    return FT_OK;
}

ft_status ft_drift_run(const struct ft_drift_params *params, struct ft_drift *out,
                       struct ft_error *error) {
    struct work w = { .params = params };
    if (params->n_ctx < 4) {
        return ft_fail(error, FT_ARG, 0, "a chunk of %u tokens has no halves, expected at least 4",
                       params->n_ctx);
    }
    ft_status status = work_init(&w, error);
    if (status == FT_OK) {
        status = run(&w, error);
    }
    if (status == FT_OK) {
        double n = w.sum.n_scored;
        *out = (struct ft_drift){ .nll = w.sum.nll / n,
                                  .nll_dense = w.sum.nll_dense / n,
                                  .kl = w.sum.kl / n,
                                  .kl_p99 = ft_drift_rank(w.kl, w.sum.n_scored, 0.99),
                                  .agreement = w.sum.agreement / n,
                                  .n_scored = w.sum.n_scored };
        ft_session_report(w.session[METHOD], &out->report);
    }
    work_done(&w);
    return status;
}
