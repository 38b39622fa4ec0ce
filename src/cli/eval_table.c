/* SPDX-License-Identifier: Apache-2.0 */
/* eval_table.c - what `foretoken eval` prints: a row for each cell, as a table or as JSON. */
#include "cli/suites.h"

struct row {
    struct ft_interval score;
    double n_prompt, n_kept, n_kv_kept, kv_bytes, ttft_ms; /* medians */
    uint32_t n_fallback;                                   /* samples that did not run as asked */
    const char *fallback;                                  /* why the first of them did not */
};

/* value [n_sample] is room to work in. */
static struct row row_of(const struct ft_outcome *outcome, uint32_t n, double *value) {
    struct row row = { .n_fallback = 0 };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = outcome[i].score;
        row.n_fallback += outcome[i].fallback != NULL;
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
    json_object_set_new(value, "fallback_samples", json_integer(row->n_fallback));
    json_object_set_new(value, "fallback",
                        row->fallback ? ft_json_text(row->fallback) : json_null());
    return value;
}

/* The mean over the tasks of a length, as RULER averages; first: its first cell.
 *   ->       tasks */
static uint32_t mean_of(const struct ft_eval *eval, const struct row *row, uint32_t first,
                        double *mean) {
    uint32_t n = 0;
    *mean = 0;
    while (first + n < eval->n_cell && eval->cell[first + n].ctx == eval->cell[first].ctx) {
        *mean += row[first + n].score.mean;
        n++;
    }
    *mean /= n;
    return n;
}

static void print_json(const struct ft_eval *eval, const struct row *row) {
    json_t *root = json_object(), *rows = json_array(), *means = json_array();
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        json_array_append_new(rows, row_value(eval, &eval->cell[i], &row[i]));
    }
    for (uint32_t i = 0, n = 0; i < eval->n_cell; i += n) {
        json_t *value = json_object();
        double mean;
        n = mean_of(eval, row, i, &mean);
        json_object_set_new(value, "ctx", json_integer(eval->cell[i].ctx));
        json_object_set_new(value, "method", ft_json_text(eval->method));
        json_object_set_new(value, "score", json_real(mean));
        json_object_set_new(value, "tasks", json_integer(n));
        json_array_append_new(means, value);
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "means", means);
    json_object_set(root, "manifest", eval->manifest);
    ft_json_print(root);
}

static void print_text(const struct ft_eval *eval, const struct row *row) {
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
    for (uint32_t i = 0, n = 0; i < eval->n_cell; i += n) {
        double mean;
        n = mean_of(eval, row, i, &mean);
        if (n > 1) {
            ft_out("%-15s  %7u  %6.2f\n", "mean", eval->cell[i].ctx, mean);
        }
    }
    ft_out("%u samples each, seed %llu; read, rows, KV and first token are medians\n",
           eval->setup.conf->n_sample, (unsigned long long)eval->seed);
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
    int code = FT_EXIT_OK;
    if (!row || !value) {
        code = ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows", eval->n_cell);
    }
    const struct ft_outcome *outcome = eval->outcome;
    for (uint32_t i = 0; i < eval->n_cell && code == FT_EXIT_OK; i++) {
        row[i] = row_of(outcome, eval->cell[i].n_sample, value);
        outcome += eval->cell[i].n_sample;
    }
    if (code == FT_EXIT_OK) {
        (eval->setup.conf->is_json ? print_json : print_text)(eval, row);
    }
    ft_free(row);
    ft_free(value);
    return code;
}
