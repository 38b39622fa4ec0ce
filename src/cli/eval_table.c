/* SPDX-License-Identifier: Apache-2.0 */
/* eval_table.c - what `foretoken eval` prints: a row for each cell, as a table or as JSON. */
#include <string.h>

#include "cli/suites.h"

struct row {
    struct ft_interval score;
    double n_prompt, n_kept, n_kv_kept, kv_bytes, ttft_ms; /* medians */
    uint32_t n_fallback;                                   /* samples that did not run as asked */
    const char *fallback;                                  /* why the first of them did not */
    uint32_t n_cut;                                        /* samples whose prompt was cut to fit */
};

/* value [n_sample] is room to work in. */
static struct row row_of(const struct ft_outcome *outcome, uint32_t n, double *value) {
    struct row row = { .n_fallback = 0 };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = outcome[i].score;
        row.n_fallback += outcome[i].fallback != NULL;
        row.n_cut += outcome[i].n_cut > 0;
        row.fallback = row.fallback ? row.fallback : outcome[i].fallback;
    }
    row.score = ft_interval_of(value, n);
    double *const out[] = { &row.n_prompt, &row.n_kept, &row.n_kv_kept, &row.kv_bytes,
                            &row.ttft_ms };
    for (size_t k = 0; k < FT_COUNT(out); k++) {
        for (uint32_t i = 0; i < n; i++) {
            const struct ft_outcome *o = &outcome[i];
            const double all[] = { o->n_prompt, o->n_kept, o->n_kv_kept, (double)o->kv_bytes,
                                   o->ttft_ms };
            value[i] = all[k];
        }
        *out[k] = ft_spread_of(value, n).median;
    }
    return row;
}

static json_t *row_value(const struct ft_eval *eval, const struct ft_cell *cell,
                         const struct row *row) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    if (cell->has_depth) {
        json_object_set_new(value, "depth", json_integer(cell->depth));
    }
    json_object_set_new(value, "method", ft_json_text(eval->method));
    json_object_set_new(value, "score", json_real(row->score.mean));
    json_object_set_new(value, "low", json_real(row->score.low));
    json_object_set_new(value, "high", json_real(row->score.high));
    json_object_set_new(value, "samples", json_integer(cell->n_sample));
    json_object_set_new(value, "data", json_string(cell->data));
    json_object_set_new(value, "prompt_tokens", json_real(row->n_prompt));
    json_object_set_new(value, "kept_tokens", json_real(row->n_kept));
    json_object_set_new(value, "kept_rows", json_real(row->n_kv_kept));
    json_object_set_new(value, "kv_bytes", json_integer((json_int_t)row->kv_bytes));
    json_object_set_new(value, "ttft_ms", json_real(row->ttft_ms));
    json_object_set_new(value, "cut_samples", json_integer(row->n_cut));
    json_object_set_new(value, "fallback_samples", json_integer(row->n_fallback));
    json_object_set_new(value, "fallback",
                        row->fallback ? ft_json_text(row->fallback) : json_null());
    return value;
}

struct mean {
    const char *group; /* NULL: of all tasks */
    uint32_t ctx, n;   /* n: tasks, each counting alike, as RULER and LongBench average */
    double score;
};

/* Cells of the same length as the first one; they stand together. */
static uint32_t length_of(const struct ft_eval *eval, uint32_t first) {
    uint32_t n = 0;
    while (first + n < eval->n_cell && eval->cell[first + n].ctx == eval->cell[first].ctx) {
        n++;
    }
    return n;
}

/* Of n cells from the first one, those of a group; NULL: all. */
static struct mean mean_of(const struct ft_eval *eval, const struct row *row, uint32_t first,
                           uint32_t n, const char *group) {
    struct mean mean = { .group = group, .ctx = eval->cell[first].ctx };
    double sum = 0;
    for (uint32_t i = first; i < first + n; i++) {
        const char *own = eval->cell[i].group;
        if (!group || (own && strcmp(own, group) == 0)) {
            sum += row[i].score.mean;
            mean.n++;
        }
    }
    mean.score = sum / mean.n;
    return mean;
}

/* Whether no cell from the first one on, up to this one, has its group. */
static bool is_new_group(const struct ft_eval *eval, uint32_t first, uint32_t at) {
    for (uint32_t i = first; i < at; i++) {
        if (eval->cell[i].group && strcmp(eval->cell[i].group, eval->cell[at].group) == 0) {
            return false;
        }
    }
    return true;
}

/* Every length: the mean of all its tasks, then those of its groups.
 *   ->       [*n] the caller frees with ft_free; NULL: no memory */
static struct mean *means_of(const struct ft_eval *eval, const struct row *row, uint32_t *n) {
    struct mean *mean = ft_alloc(2 * (size_t)eval->n_cell, sizeof *mean);
    *n = 0;
    for (uint32_t i = 0, n_task = 0; mean && i < eval->n_cell; i += n_task) {
        n_task = length_of(eval, i);
        mean[(*n)++] = mean_of(eval, row, i, n_task, NULL);
        for (uint32_t k = i; k < i + n_task; k++) {
            if (eval->cell[k].group && is_new_group(eval, i, k)) {
                mean[(*n)++] = mean_of(eval, row, i, n_task, eval->cell[k].group);
            }
        }
    }
    return mean;
}

static void print_json(const struct ft_eval *eval, const struct row *row, const struct mean *mean,
                       uint32_t n_mean) {
    json_t *root = json_object(), *rows = json_array(), *means = json_array();
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        json_array_append_new(rows, row_value(eval, &eval->cell[i], &row[i]));
    }
    for (uint32_t i = 0; i < n_mean; i++) {
        json_t *value = json_object();
        json_object_set_new(value, "ctx", json_integer(mean[i].ctx));
        json_object_set_new(value, "method", ft_json_text(eval->method));
        json_object_set_new(value, "score", json_real(mean[i].score));
        json_object_set_new(value, "tasks", json_integer(mean[i].n));
        if (eval->cell[0].group) {
            json_object_set_new(value, "group", json_string(mean[i].group ? mean[i].group : "all"));
        }
        json_array_append_new(means, value);
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "means", means);
    json_object_set(root, "manifest", eval->manifest);
    if (eval->kind->remark) {
        eval->kind->remark(eval, root);
    }
    ft_json_print(root);
}

/* "20 samples each", or how many the shortest and the longest task have. */
static void print_samples(const struct ft_eval *eval) {
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        low = FT_MIN(low, eval->cell[i].n_sample);
        high = FT_MAX(high, eval->cell[i].n_sample);
    }
    if (low < high) {
        ft_out("%u to ", low);
    }
    ft_out("%u samples each", high);
    if (!eval->kind->is_fixed) {
        ft_out(", seed %llu", (unsigned long long)eval->seed);
    }
    ft_out("; read, rows, KV and first token are medians\n");
}

static void print_text(const struct ft_eval *eval, const struct row *row, const struct mean *mean,
                       uint32_t n_mean) {
    char kv[24];
    ft_out("method  ");
    ft_out_safe(eval->method);
    ft_out("\n%-15s  %7s  %6s  %-15s  %8s  %8s  %-10s  %12s  %s\n", "task", "ctx", "score",
           "95 % interval", "read", "rows", "KV", "first token", "made of");
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        const struct row *r = &row[i];
        ft_out("%-15s  %7u  %6.2f  [%6.2f, %6.2f]  %8.0f  %8.0f  %-10s  %9.0f ms  %s\n", cell->name,
               cell->ctx, r->score.mean, r->score.low, r->score.high, r->n_kept, r->n_kv_kept,
               ft_size_text((uint64_t)r->kv_bytes, kv), r->ttft_ms, cell->data);
    }
    for (uint32_t i = 0; i < n_mean; i++) {
        if (mean[i].group || mean[i].n > 1) {
            ft_out("%-15s  %7u  %6.2f", mean[i].group ? mean[i].group : "mean", mean[i].ctx,
                   mean[i].score);
            if (eval->cell[0].group) {
                ft_out("  of %u dataset%s", mean[i].n, mean[i].n > 1 ? "s" : "");
            }
            ft_out("\n");
        }
    }
    print_samples(eval);
    if (eval->kind->remark) {
        eval->kind->remark(eval, NULL);
    }
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n_cut > 0) {
            ft_out("%s at %u: %u of %u prompts were cut in the middle to fit\n", eval->cell[i].name,
                   eval->cell[i].ctx, row[i].n_cut, eval->cell[i].n_sample);
        }
    }
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n_fallback > 0) {
            ft_out("%s at %u, %u of the samples: ", eval->cell[i].name, eval->cell[i].ctx,
                   row[i].n_fallback);
            ft_out_safe(row[i].fallback);
            ft_out("\n");
        }
    }
}

int ft_eval_print(const struct ft_eval *eval) {
    struct row *row = ft_alloc(eval->n_cell, sizeof *row);
    double *value = ft_alloc(ft_cells_sum(eval->cell, eval->n_cell), sizeof *value);
    struct mean *mean = NULL;
    uint32_t n_mean = 0;
    int code = FT_EXIT_OK;
    if (!row || !value) {
        code = ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows", eval->n_cell);
    }
    const struct ft_outcome *outcome = eval->outcome;
    for (uint32_t i = 0; i < eval->n_cell && code == FT_EXIT_OK; i++) {
        row[i] = row_of(outcome, eval->cell[i].n_sample, value);
        outcome += eval->cell[i].n_sample;
    }
    if (code == FT_EXIT_OK && !(mean = means_of(eval, row, &n_mean))) {
        code = ft_complain(FT_EXIT_FAILED, "not enough memory for the means");
    }
    if (code == FT_EXIT_OK) {
        (eval->setup.conf->is_json ? print_json : print_text)(eval, row, mean, n_mean);
    }
    ft_free(mean);
    ft_free(row);
    ft_free(value);
    return code;
}
