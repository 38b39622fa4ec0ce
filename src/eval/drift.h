/* SPDX-License-Identifier: Apache-2.0 */
/* drift.h - what a method does to the next-token distribution on a given text: the same chunk with
 * the method and dense, token by token.  Dense means every row, stored as where nobody asks for a
 * format, so that what a format loses is seen too.
 *
 * A chunk is cut as `foretoken perplexity` and llama.cpp cut it: the first half is the prompt,
 * which the method meets, the second half is fed, and its tokens but the first are scored.  So the
 * nll of a dense run is that of perplexity.
 */
#ifndef FT_EVAL_DRIFT_H
#define FT_EVAL_DRIFT_H

#include "eval/eval.h"

struct ft_drift_at {       /* one position */
    double nll, nll_dense; /* -log p(next token), natural logarithm */
    double kl;             /* KL(dense || method) in nats, >= 0 */
    bool is_agreeing;      /* the likeliest token is the same; of equal ones the lower id */
};
/* ft_drift_position - from raw logits [n_vocab] each, in double.  The same bits give kl 0.
 *   next     the token that follows in the text */
struct ft_drift_at ft_drift_position(const float *dense, const float *method, uint32_t n_vocab,
                                     ft_token next);
/* ft_drift_rank - the smallest of value[n] that at least a share (0, 1] of them does not exceed;
 * sorts.  n >= 1 */
double ft_drift_rank(double *value, uint32_t n, double share);

struct ft_drift_params {
    const ft_model *target, *draft;
    const struct ft_session_params *session; /* with the method; n_predict and n_ctx are set here */
    const ft_token *id;                      /* [n_ctx] the chunk */
    uint32_t n_ctx;                          /* >= 4 */
    ft_guard_fn guard;
};
struct ft_drift {
    double nll, nll_dense; /* means */
    double kl, kl_p99;     /* mean, and the 99th percentile over positions */
    double agreement;      /* share of positions, 0..1 */
    uint32_t n_scored;
    struct ft_report report; /* of the run with the method */
};
/* ft_drift_run - both runs of a chunk, side by side.
 *
 * Memory     two sessions, and of logits at most FT_LOGIT_BYTES each (a row where one is larger):
 *            both are fed the same block, which is scored and overwritten by the next
 * Errors     those of the session; FT_ARG (n_ctx); FT_INTERNAL where logits are no numbers */
ft_status ft_drift_run(const struct ft_drift_params *params, struct ft_drift *out,
                       struct ft_error *error);

#endif
