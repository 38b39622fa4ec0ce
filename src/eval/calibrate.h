/* SPDX-License-Identifier: Apache-2.0 */
/* calibrate.h - bits for each layer of one model, searched on a text (TaDA, arXiv:2506.04642).
 *
 * A choice gives every layer 2, 4 or 8 bits for its deviations, K and V alike; its score is the mean
 * KL divergence of the dense f16 run from a run with that kv type (drift.h).  Tried are: the same
 * bits everywhere as far as they go; random choices; and, from the best of these, exchanges of the
 * bits of two layers.  None is wider than the target on average.
 */
#ifndef FT_EVAL_CALIBRATE_H
#define FT_EVAL_CALIBRATE_H

#include "eval/drift.h"

enum { FT_CALIBRATE_LAYERS = 256, FT_KV_TYPE_CAP = 2 * FT_CALIBRATE_LAYERS + 64 };

/* ft_widths_draw - a random choice whose sum is at most `most`, and to which no layer can be raised
 * by one width within it.
 *   most     >= 2 n;  bits [n] */
void ft_widths_draw(uint64_t *seed, uint32_t n, uint32_t most, uint8_t *bits);

struct ft_calibrate_params {
    const ft_model *target;
    const struct ft_session_params *session; /* kv_type and methods are set here */
    const ft_token *id;                      /* [n_ctx] the chunk */
    uint32_t n_ctx, n_layer;                 /* n_layer <= FT_CALIBRATE_LAYERS */
    double average;                          /* bits, 2..8 */
    uint32_t n_random, n_exchange;           /* choices tried */
    uint64_t seed;
    ft_guard_fn guard;
    /* after every choice; may be NULL */
    void (*tried)(const char *kv_type, double kl, bool is_best, void *user);
    void *user;
};
struct ft_calibrate {
    char kv_type[FT_KV_TYPE_CAP]; /* the best: "tada,bits=4.8.2.4" */
    double kl, average;           /* of it */
    double kl_same;               /* of the same bits everywhere, as far as they go */
    uint32_t n_tried;
};
/* ft_calibrate_run - the search.
 * Errors     those of drift; FT_ARG (average, layers) */
ft_status ft_calibrate_run(const struct ft_calibrate_params *params, struct ft_calibrate *out,
                           struct ft_error *error);

#endif
