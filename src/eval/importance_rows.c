/* SPDX-License-Identifier: Apache-2.0 */
/* importance_rows.c - the rows of `foretoken eval importance` joined into cells. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "eval/importance.h"

json_t *ft_json_number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static ft_status bad_row(const json_t *row, const char *what, struct ft_error *error) {
    const char *task = json_string_value(json_object_get(row, "task"));
    return ft_fail(error, FT_FORMAT, 0, "sample %d of %.60s: %s",
                   (int)json_integer_value(json_object_get(row, "index")), task ? task : "?", what);
}

static int compare_budgets(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t place_of(const struct ft_overlap *out, uint32_t budget) {
    uint32_t b = 0;
    while (b < out->n_budget && out->budget[b] != budget) {
        b++;
    }
    return b;
}

/* The budgets of a row are keys of its "overlap". */
static ft_status take_budgets(const json_t *row, struct ft_overlap *out, struct ft_error *error) {
    json_t *overlap = json_object_get(row, "overlap"), *value;
    const char *key;
    if (json_object_size(overlap) == 0) {
        return bad_row(row, "no row of eval importance: \"overlap\" is missing", error);
    }
    json_object_foreach(overlap, key, value) {
        char *end;
        unsigned long budget = strtoul(key, &end, 10);
        if (*end != '\0' || budget < 1 || budget > UINT32_MAX) {
            return bad_row(row, "\"overlap\" has a key that is no budget", error);
        }
        uint32_t at = place_of(out, (uint32_t)budget);
        if (at == FT_BUDGETS_CAP) {
            return bad_row(row, "more budgets than eval importance takes", error);
        }
        out->budget[at] = (uint32_t)budget;
        out->n_budget = FT_MAX(out->n_budget, at + 1);
    }
    return FT_OK;
}

/* -> NULL: this sample has no such budget */
static const json_t *share_at(const json_t *row, const char *name, uint32_t budget) {
    char key[16];
    snprintf(key, sizeof key, "%u", budget);
    return json_object_get(json_object_get(row, name), key);
}

static bool is_share(const json_t *value) {
    return json_is_number(value) && json_number_value(value) >= 0 &&
           json_number_value(value) <= 100;
}

static double mean_of(const json_t *const *row, uint32_t n, const char *key) {
    double sum = 0;
    uint32_t n_there = 0;
    for (uint32_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(row[i], key);
        if (json_is_number(value)) {
            sum += json_number_value(value);
            n_there++;
        }
    }
    return n_there > 0 ? sum / n_there : (double)NAN;
}

/* value [n] is room to work in. */
static ft_status take_overlaps(const json_t *const *row, uint32_t n, double *value,
                               struct ft_overlap *out, struct ft_error *error) {
    for (uint32_t b = 0; b < out->n_budget; b++) {
        uint32_t n_there = 0;
        for (uint32_t i = 0; i < n; i++) {
            const json_t *overlap = share_at(row[i], "overlap", out->budget[b]);
            const json_t *random = share_at(row[i], "random", out->budget[b]);
            if (overlap && (!is_share(overlap) || !is_share(random))) {
                return bad_row(row[i], "\"overlap\" and \"random\" are no shares from 0 to 100",
                               error);
            }
            if (overlap) {
                value[n_there++] = json_number_value(overlap);
                out->random[b] += json_number_value(random);
            }
        }
        out->n_sample[b] = n_there;
        out->random[b] /= n_there;
        out->overlap[b] = ft_interval_of(value, n_there);
    }
    return FT_OK;
}

ft_status ft_overlap_of(const json_t *const *row, uint32_t n, struct ft_overlap *out,
                        struct ft_error *error) {
    *out = (struct ft_overlap){ .n = n,
                                .r2 = mean_of(row, n, "r2"),
                                .r2_log = mean_of(row, n, "r2_log"),
                                .spearman = mean_of(row, n, "spearman") };
    for (uint32_t i = 0; i < n; i++) {
        out->point = out->point ? out->point : json_object_get(row[i], "points");
    }
    for (uint32_t i = 0; i < n; i++) {
        FT_TRY(take_budgets(row[i], out, error));
    }
    qsort(out->budget, out->n_budget, sizeof *out->budget, compare_budgets);
    double *value = ft_alloc(n, sizeof *value);
    ft_status status = value ? take_overlaps(row, n, value, out, error)
                             : ft_fail(error, FT_NOMEM, 0, "not enough memory for %u samples", n);
    ft_free(value);
    return status;
}

void ft_overlap_set(json_t *value, const struct ft_overlap *overlap) {
    json_t *budgets = json_array();
    json_object_set_new(value, "samples", json_integer(overlap->n));
    json_object_set_new(value, "r2", ft_json_number(overlap->r2));
    json_object_set_new(value, "r2_log", ft_json_number(overlap->r2_log));
    json_object_set_new(value, "spearman", ft_json_number(overlap->spearman));
    for (uint32_t b = 0; b < overlap->n_budget; b++) {
        json_t *one = json_object();
        json_object_set_new(one, "budget", json_integer(overlap->budget[b]));
        json_object_set_new(one, "overlap", json_real(overlap->overlap[b].mean));
        json_object_set_new(one, "low", json_real(overlap->overlap[b].low));
        json_object_set_new(one, "high", json_real(overlap->overlap[b].high));
        json_object_set_new(one, "random", json_real(overlap->random[b]));
        json_object_set_new(one, "samples", json_integer(overlap->n_sample[b]));
        json_array_append_new(budgets, one);
    }
    json_object_set_new(value, "budgets", budgets);
}
