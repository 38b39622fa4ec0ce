/* SPDX-License-Identifier: Apache-2.0 */
/* critical.c - CriticalKV: rows that the score alone does not settle are ranked by what their values
 * would add to the output, too.
 *
 * Paper    arXiv:2502.03805
 * Rank     of the B rows that a head keeps beside the window, floor(rho B) are the best by the
 *          method's score s; the others are the best of the rest by (s[j] + 1e-4) a[j], where
 *          a[j] = mean over a KV head's query heads g of |W_o[:, g] v_j|_1: all that row j could
 *          change in the residual stream.  With budget=ada the head's B is settled before
 * Departs  the window rows stay beside both stages (the authors' code counts them in B);
 *          v_j is the value as stored, rounded; a bias of W_o, which all rows share, is left out;
 *          ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_critical.c
 */
#include <math.h>

#include "score/score.h"

/* Keeps a row that no query looks at apart from its neighbours, as in the authors' code. */
static const float epsilon = 1e-4f;

uint32_t ft_critical_rank(const struct ft_critical *c, uint32_t k, uint32_t *out) {
    k = FT_MIN(k, c->n);
    uint32_t n_sure = (uint32_t)((uint64_t)k * c->rho / 100);
    n_sure = ft_keep_rank(c->score, c->n, n_sure, c->work, out);
    for (uint32_t j = 0; j < c->n; j++) {
        float second = (c->score[j] + epsilon) * c->norm[j];
        c->second[j] = isnan(second) ? -INFINITY : second;
    }
    for (uint32_t i = 0; i < n_sure; i++) { /* NaN is behind every number: nobody stays twice */
        c->second[out[i]] = NAN;
    }
    return n_sure + ft_keep_rank(c->second, c->n, k - n_sure, c->work, out + n_sure);
}
