/* SPDX-License-Identifier: Apache-2.0 */
/* importance.h - how well an estimator says what matters in a prompt: its scores against those of
 * the target itself, from the same formula.
 *
 *   prompt   a score per token: the draft's attention, against the same method with the target as
 *            its own draft
 *   kv       a score per row, KV head and layer: any KV method's, against `oracle`, which asks the
 *            queries of the target's own answer
 *
 * Lists are compared one by one (agreement.h); the figures of a prompt are means over its lists.
 */
#ifndef FT_EVAL_IMPORTANCE_H
#define FT_EVAL_IMPORTANCE_H

#include <jansson.h>

#include "eval/agreement.h"
#include "eval/run.h"

/* ---- scores of a prompt ---- */

struct ft_scores_params {
    const ft_model *target, *draft;
    const struct ft_session_params *session; /* prompt, kv and self_layers are set here */
    uint32_t self_layers;                    /* as in ft_session_params */
    enum ft_stage stage;
    const char *spec; /* the method; its budget must be below the prompt's length */
    const ft_token *id;
    uint32_t n, n_head; /* as for ft_session_prompt */
    ft_guard_fn guard;
};
struct ft_scores {
    float *score;             /* [n_layer][n_head][n] owned */
    uint32_t n_layer, n_head; /* prompt stage: 1 each */
    uint32_t n;               /* tokens that have a score, the first ones of the prompt */
    struct ft_report report;
};
/* ft_scores_read - read the prompt with a method and take what it ranked by.
 *   out      ended with ft_scores_done, also after a failure
 * Errors     those of the session; FT_LIMIT where nothing is dropped, and so nothing ranked;
 *            FT_INTERNAL where a score is no number */
ft_status ft_scores_read(const struct ft_scores_params *params, struct ft_scores *out,
                         struct ft_error *error);
void ft_scores_done(struct ft_scores *scores);

/* ---- two of them compared ---- */

struct ft_importance {
    struct ft_agreement mean; /* over lists; over those where it is defined, or NAN */
    double *r2_layer;         /* [n_layer] mean over heads, or NAN; owned */
    double *overlap_layer;    /* [n_layer] at the stated budget, likewise; owned */
    uint32_t n_layer;
    uint32_t n; /* tokens that both have a score for */
};
/* ft_importance_of - estimate against truth, on the tokens that both have a score for.
 *
 *   budgets  each below the number of those tokens
 *   out      ended with ft_importance_done, also after a failure
 * Errors     FT_MISMATCH (other layers or heads), FT_LIMIT (a budget), FT_NOMEM */
ft_status ft_importance_of(const struct ft_scores *estimate, const struct ft_scores *truth,
                           const struct ft_budgets *budgets, struct ft_importance *out,
                           struct ft_error *error);
void ft_importance_done(struct ft_importance *importance);

enum { FT_POINTS_CAP = 512 };
/* ft_importance_points - [[estimate, truth], ...] of the first list: at most FT_POINTS_CAP tokens,
 * at equal distances in the order of truth, the best one among them.
 * Errors     FT_NOMEM */
ft_status ft_importance_points(const struct ft_scores *estimate, const struct ft_scores *truth,
                               json_t **out, struct ft_error *error);

/* ---- rows of a record (importance_rows.c) ---- */

struct ft_overlap {              /* of a cell: an estimator on a task at a length */
    uint32_t n;                  /* samples */
    double r2, r2_log, spearman; /* means over the samples where it is defined, or NAN */
    /* [n_budget] ascending, and samples that have each: short prompts have no room for the
     * larger ones */
    uint32_t n_budget, budget[FT_BUDGETS_CAP], n_sample[FT_BUDGETS_CAP];
    struct ft_interval overlap[FT_BUDGETS_CAP]; /* percent */
    double random[FT_BUDGETS_CAP]; /* percent that a random choice has in expectation, C / n */
    const json_t *point; /* of the first sample that has some: [[estimate, truth], ...]; borrowed */
};
/* ft_overlap_of - the rows [n >= 1] of a cell.
 * Errors     FT_FORMAT naming the sample whose row is not one of this suite; FT_NOMEM */
ft_status ft_overlap_of(const json_t *const *row, uint32_t n, struct ft_overlap *out,
                        struct ft_error *error);
/* ft_overlap_set - adds "samples", "r2", ..., and "budgets", a list of {"budget":32,"overlap":...,
 * "low":...,"high":...,"random":...,"samples":20}. */
void ft_overlap_set(json_t *value, const struct ft_overlap *overlap);
/* ft_json_number - null where it is not finite. */
json_t *ft_json_number(double x);

#endif
