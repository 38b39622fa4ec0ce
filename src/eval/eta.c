/* SPDX-License-Identifier: Apache-2.0 */
/* eta.c - how long what is left of a sweep will take, from what it has taken so far. */
#include "eval/run.h"

ft_status ft_eta_init(struct ft_eta *eta, const struct ft_cell *cell, uint32_t n_cell,
                      uint32_t n_method, struct ft_error *error) {
    *eta = (struct ft_eta){ .cell = cell, .n_cell = n_cell, .n_method = n_method };
    eta->pair = ft_alloc((size_t)n_cell * n_method, sizeof *eta->pair);
    return eta->pair
               ? FT_OK
               : ft_fail(error, FT_NOMEM, 0, "not enough memory for the times of %u cells", n_cell);
}

void ft_eta_done(struct ft_eta *eta) {
    ft_free(eta->pair);
    *eta = (struct ft_eta){ .pair = NULL };
}

static struct ft_eta_pair *pair_of(const struct ft_eta *eta, uint32_t cell, uint32_t method) {
    uint32_t first = 0;
    while (eta->cell[first].ctx != eta->cell[cell].ctx) {
        first++;
    }
    return &eta->pair[(size_t)first * eta->n_method + method];
}

void ft_eta_plan(struct ft_eta *eta, uint32_t cell, uint32_t method) {
    pair_of(eta, cell, method)->n_left++;
}

void ft_eta_took(struct ft_eta *eta, uint32_t cell, uint32_t method, double seconds) {
    struct ft_eta_pair *pair = pair_of(eta, cell, method);
    pair->sum_s += seconds;
    pair->n_took++;
    pair->n_left -= pair->n_left > 0;
}

/* Mean seconds of one method (UINT32_MAX: of all together) at the measured length nearest to ctx,
 * in proportion to the tokens; < 0: none was measured. */
static double mean_near(const struct ft_eta *eta, uint32_t ctx, uint32_t method) {
    double best = -1, mean = -1;
    for (uint32_t c = 0; c < eta->n_cell; c++) {
        double sum = 0, n = 0, own = eta->cell[c].ctx;
        for (uint32_t m = 0; m < eta->n_method; m++) {
            const struct ft_eta_pair *pair = &eta->pair[(size_t)c * eta->n_method + m];
            bool is_counted = method == UINT32_MAX || m == method;
            sum += is_counted ? pair->sum_s : 0;
            n += is_counted ? pair->n_took : 0;
        }
        double ratio = FT_MAX(own, (double)ctx) / FT_MIN(own, (double)ctx);
        if (n > 0 && (best < 0 || ratio < best)) {
            best = ratio;
            mean = sum / n * ctx / own;
        }
    }
    return mean;
}

double ft_eta_left(const struct ft_eta *eta) {
    double sum = 0;
    for (uint32_t c = 0; c < eta->n_cell; c++) {
        for (uint32_t m = 0; m < eta->n_method; m++) {
            const struct ft_eta_pair *pair = &eta->pair[(size_t)c * eta->n_method + m];
            if (pair->n_left == 0) {
                continue;
            }
            double mean = mean_near(eta, eta->cell[c].ctx, m);
            mean = mean < 0 ? mean_near(eta, eta->cell[c].ctx, UINT32_MAX) : mean;
            if (mean < 0) {
                return -1;
            }
            sum += mean * pair->n_left;
        }
    }
    return sum;
}
