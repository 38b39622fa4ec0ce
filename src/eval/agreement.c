/* SPDX-License-Identifier: Apache-2.0 */
/* agreement.c - two lists of scores compared; see agreement.h. */
#include "eval/agreement.h"

#include <math.h>
#include <stdlib.h>

struct entry {
    float score;
    uint32_t index;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return x->index < y->index ? -1 : 1;
}

static void sort(const float *score, uint32_t n, struct entry *out) {
    for (uint32_t j = 0; j < n; j++) {
        out[j] = (struct entry){ score[j], j };
    }
    qsort(out, n, sizeof *out, compare_entries);
}

ft_status ft_best_first(const float *score, uint32_t n, uint32_t *out, struct ft_error *error) {
    struct entry *sorted = ft_alloc(n, sizeof *sorted);
    if (!sorted) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory to sort %u scores", n);
    }
    sort(score, n, sorted);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = sorted[i].index;
    }
    ft_free(sorted);
    return FT_OK;
}

/* r = sum (x - mx)(y - my) / sqrt(sum (x - mx)^2 sum (y - my)^2) */
double ft_correlation(const double *x, const double *y, uint32_t n) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (uint32_t j = 0; j < n; j++) {
        mx += x[j];
        my += y[j];
    }
    mx /= n;
    my /= n;
    for (uint32_t j = 0; j < n; j++) {
        double dx = x[j] - mx, dy = y[j] - my;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    /* two roots: the product of two small variances may be 0 where neither of them is */
    return xx > 0 && yy > 0 ? FT_MAX(-1.0, FT_MIN(1.0, xy / (sqrt(xx) * sqrt(yy)))) : (double)NAN;
}

/* Ranks from 1; equal scores share the mean of the places they take. */
static void rank(const struct entry *sorted, uint32_t n, double *out) {
    for (uint32_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && sorted[end].score == sorted[i].score) {
            end++;
        }
        for (uint32_t k = i; k < end; k++) {
            out[sorted[k].index] = (i + 1.0 + end) / 2;
        }
    }
}

static double overlap(const struct entry *a, const struct entry *b, uint32_t c, bool *mark) {
    uint32_t n_both = 0;
    for (uint32_t i = 0; i < c; i++) {
        mark[a[i].index] = true;
    }
    for (uint32_t i = 0; i < c; i++) {
        n_both += mark[b[i].index];
    }
    for (uint32_t i = 0; i < c; i++) {
        mark[a[i].index] = false;
    }
    return (double)n_both / c;
}

struct work {
    struct entry *a, *b;
    double *x, *y;
    bool *mark;
};

static void compare(const struct work *w, const float *a, const float *b, uint32_t n,
                    struct ft_agreement *out) {
    uint32_t n_log = 0;
    for (uint32_t j = 0; j < n; j++) {
        w->x[j] = (double)a[j];
        w->y[j] = (double)b[j];
    }
    double r = ft_correlation(w->x, w->y, n);
    out->r2 = r * r;
    for (uint32_t j = 0; j < n; j++) {
        if (a[j] > 0 && b[j] > 0) {
            w->x[n_log] = log((double)a[j]);
            w->y[n_log++] = log((double)b[j]);
        }
    }
    r = n_log > 0 ? ft_correlation(w->x, w->y, n_log) : (double)NAN;
    out->r2_log = r * r;
    sort(a, n, w->a);
    sort(b, n, w->b);
    rank(w->a, n, w->x);
    rank(w->b, n, w->y);
    out->spearman = ft_correlation(w->x, w->y, n);
}

ft_status ft_agreement_of(const float *a, const float *b, uint32_t n,
                          const struct ft_budgets *budgets, struct ft_agreement *out,
                          struct ft_error *error) {
    struct work w = { .a = ft_alloc(n, sizeof *w.a),
                      .b = ft_alloc(n, sizeof *w.b),
                      .x = ft_alloc(n, sizeof *w.x),
                      .y = ft_alloc(n, sizeof *w.y),
                      .mark = ft_alloc(n, sizeof *w.mark) };
    ft_status status = FT_OK;
    if (w.a && w.b && w.x && w.y && w.mark) {
        compare(&w, a, b, n, out);
        for (uint32_t i = 0; i < budgets->n; i++) {
            out->overlap[i] = overlap(w.a, w.b, budgets->value[i], w.mark);
        }
    } else {
        status = ft_fail(error, FT_NOMEM, 0, "not enough memory to compare %u scores", n);
    }
    ft_free(w.a);
    ft_free(w.b);
    ft_free(w.x);
    ft_free(w.y);
    ft_free(w.mark);
    return status;
}
