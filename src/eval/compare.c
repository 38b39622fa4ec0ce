/* SPDX-License-Identifier: Apache-2.0 */
/* compare.c - two methods on the same samples: differences and how sure they are. */
#include <math.h>
#include <string.h>

#include "eval/results.h"

#define Z_95 1.959963984540054

/* Samples come in pairs, so what makes both hard is in neither difference.  The normal interval of
 * the mean difference, with one difference of +100 and one of -100 added: a few pairs that all agree
 * do not pass for certainty (Agresti and Min 2005 do so for shares). */
static struct ft_interval paired(double sum, double squares, uint32_t n) {
    double n_all = n + 2.0, mean = sum / n_all;
    double variance = (squares + 2e4 - n_all * mean * mean) / (n_all - 1);
    double spread = Z_95 * sqrt(FT_MAX(variance, 0.0) / n_all);
    return (struct ft_interval){ .mean = sum / n, .low = mean - spread, .high = mean + spread };
}

/* Rows are sorted by index: both lists are walked along together. */
static bool difference_of(const struct ft_result *a, uint32_t n_a, const struct ft_result *b,
                          uint32_t n_b, struct ft_difference *out) {
    double sum = 0, squares = 0;
    *out = (struct ft_difference){ .n = 0 };
    for (uint32_t i = 0, j = 0; i < n_a && j < n_b;) {
        if (a[i].index == b[j].index) {
            double d = b[j].score - a[i].score;
            out->a += a[i].score;
            out->b += b[j].score;
            sum += d;
            squares += d * d;
            out->n++;
        }
        bool is_a = a[i].index <= b[j].index, is_b = b[j].index <= a[i].index;
        i += is_a;
        j += is_b;
    }
    if (out->n == 0) {
        return false;
    }
    out->a /= out->n;
    out->b /= out->n;
    out->score = paired(sum, squares, out->n);
    out->score.low = FT_MAX(FT_MIN(out->score.low, out->score.mean), -100.0);
    out->score.high = FT_MIN(FT_MAX(out->score.high, out->score.mean), 100.0);
    return true;
}

static uint32_t task_of(const struct ft_results *r, const char *name) {
    uint32_t t = 0;
    while (t < r->n_task && strcmp(r->task[t], name) != 0) {
        t++;
    }
    return t;
}

static uint32_t ctx_of(const struct ft_results *r, uint32_t ctx) {
    uint32_t c = 0;
    while (c < r->n_ctx && r->ctx[c] != ctx) {
        c++;
    }
    return c;
}

static void add(struct ft_difference *all, const struct ft_difference *d) {
    all->n += d->n;
    all->a += d->a;
    all->b += d->b;
    all->score.mean += d->score.mean;
    all->score.low += pow(d->score.mean - d->score.low, 2);
    all->score.high += pow(d->score.high - d->score.mean, 2);
}

ft_status ft_results_compare(const struct ft_results *a, uint32_t method_a,
                             const struct ft_results *b, uint32_t method_b,
                             struct ft_difference *out, uint32_t *n, struct ft_difference *all,
                             struct ft_error *error) {
    *n = 0;
    *all = (struct ft_difference){ .n = 0 };
    FT_TRY(ft_results_same(a, b, error));
    for (uint32_t c = 0; c < a->n_ctx; c++) {
        for (uint32_t t = 0; t < a->n_task; t++) {
            uint32_t n_a, n_b;
            const struct ft_result *x = ft_results_rows(a, t, c, method_a, &n_a);
            const struct ft_result *y =
                ft_results_rows(b, task_of(b, a->task[t]), ctx_of(b, a->ctx[c]), method_b, &n_b);
            struct ft_difference d;
            if (x && y && difference_of(x, n_a, y, n_b, &d)) {
                d.task = t;
                d.ctx = c;
                add(all, &d);
                out[(*n)++] = d;
            }
        }
    }
    if (*n == 0) {
        return ft_fail(error, FT_MISMATCH, 0, "the records have no sample in common");
    }
    all->a /= *n;
    all->b /= *n;
    all->score.mean /= *n;
    all->score.low = all->score.mean - sqrt(all->score.low) / *n;
    all->score.high = all->score.mean + sqrt(all->score.high) / *n;
    return FT_OK;
}
