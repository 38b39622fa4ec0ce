/* SPDX-License-Identifier: Apache-2.0 */
/* agreement.h - how far two lists of scores say the same: squared correlation, rank correlation,
 * and how much their best entries have in common.
 *
 * Pure: numbers in, numbers out.  Sums are double, in index order.
 */
#ifndef FT_EVAL_AGREEMENT_H
#define FT_EVAL_AGREEMENT_H

#include "base/base.h"

enum { FT_BUDGETS_CAP = 16 };

struct ft_budgets {                    /* sizes of the sets of best tokens that are compared */
    uint32_t value[FT_BUDGETS_CAP], n; /* [n] ascending */
    uint32_t stated; /* index of the one that stands for all: the score of a row */
};

struct ft_agreement {
    /* Pearson's correlation squared: of the scores as they are, and of the logarithms of those
     * pairs that are both above 0.  NAN where one side is constant */
    double r2, r2_log;
    double
        spearman; /* Pearson's correlation of ranks, equal scores sharing their mean rank; or NAN */
    double overlap[FT_BUDGETS_CAP]; /* [budgets.n] |best C of a and of b| / C */
};

/* ft_agreement_of - a[n] against b[n], n >= 1, all finite.
 *
 *   budgets  each 1..n; of equal scores the lower index is better
 * Errors     FT_NOMEM */
ft_status ft_agreement_of(const float *a, const float *b, uint32_t n,
                          const struct ft_budgets *budgets, struct ft_agreement *out,
                          struct ft_error *error);

/* ft_best_first - indices of score[n], the best first; of equal ones the lower index.  out [n]
 * Errors     FT_NOMEM */
ft_status ft_best_first(const float *score, uint32_t n, uint32_t *out, struct ft_error *error);

/* ft_correlation - Pearson's r of x[n] and y[n]; NAN where one of them is constant. */
double ft_correlation(const double *x, const double *y, uint32_t n);

#endif
