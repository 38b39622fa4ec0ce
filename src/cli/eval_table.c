/* SPDX-License-Identifier: Apache-2.0 */
/* eval_table.c - what `foretoken eval` prints: for each method a row for each cell, as a table or
 * as JSON. */
#include <stdio.h>

#include "cli/suites.h"

struct row {
    uint32_t n; /* samples; 0: the rest says nothing */
    struct ft_interval score;
    double n_prompt, n_kept, n_kv_kept, kv_bytes, ttft_ms; /* medians */
    uint32_t n_fallback;                                   /* samples that did not run as asked */
    const char *fallback;                                  /* why the first of them did not */
};

/* value [n] is room to work in. */
static struct row row_of(const struct ft_outcome *outcome, uint32_t n, double *value) {
    struct row row = { .n = n };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = outcome[i].score;
        row.n_fallback += outcome[i].fallback != NULL;
        row.fallback = row.fallback ? row.fallback : outcome[i].fallback;
    }
    if (n == 0) {
        return row;
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

/* Rows of all cells with all methods, from the record: row [grid.n][n_cell]. */
static int rows_of(const struct ft_eval *eval, struct row **out) {
    uint64_t most = FT_MAX(ft_cells_sum(eval->cell, eval->n_cell), (uint64_t)1);
    struct row *row = ft_alloc((size_t)eval->grid.n * eval->n_cell, sizeof *row);
    struct ft_outcome *outcome = ft_alloc(most, sizeof *outcome);
    double *value = ft_alloc(most, sizeof *value);
    bool is_room = row && outcome && value;
    for (uint32_t i = 0; is_room && i < eval->grid.n * eval->n_cell; i++) {
        uint32_t c = i % eval->n_cell, n = 0;
        const struct ft_cell *cell = &eval->cell[c];
        struct ft_record_key key = { .task = cell->name,
                                     .method = eval->grid.all[i / eval->n_cell].label,
                                     .ctx = cell->ctx };
        for (; key.index < cell->n_sample; key.index++) {
            n += ft_shard_has(&eval->shard, c, key.index) &&
                 ft_outcome_find(eval->record, &key, &outcome[n]);
        }
        row[i] = row_of(outcome, n, value);
    }
    ft_free(outcome);
    ft_free(value);
    if (!is_room) {
        ft_free(row);
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows",
                           eval->grid.n * eval->n_cell);
    }
    *out = row;
    return FT_EXIT_OK;
}

static json_t *row_value(const char *method, const struct ft_cell *cell, const struct row *row) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    json_object_set_new(value, "method", ft_json_text(method));
    json_object_set_new(value, "score", json_real(row->score.mean));
    json_object_set_new(value, "low", json_real(row->score.low));
    json_object_set_new(value, "high", json_real(row->score.high));
    json_object_set_new(value, "samples", json_integer(row->n));
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
 *   n_task   out: tasks that have samples; 0: *mean says nothing
 *   ->       cells of the length */
static uint32_t mean_of(const struct ft_eval *eval, const struct row *row, uint32_t first,
                        double *mean, uint32_t *n_task) {
    uint32_t n = 0;
    *mean = 0;
    *n_task = 0;
    while (first + n < eval->n_cell && eval->cell[first + n].ctx == eval->cell[first].ctx) {
        *mean += row[first + n].score.mean;
        *n_task += row[first + n].n > 0;
        n++;
    }
    *mean /= FT_MAX(*n_task, 1u);
    return n;
}

static void add_values(const struct ft_eval *eval, const char *method, const struct row *row,
                       json_t *rows, json_t *means) {
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n > 0) {
            json_array_append_new(rows, row_value(method, &eval->cell[i], &row[i]));
        }
    }
    for (uint32_t i = 0, n = 0; i < eval->n_cell; i += n) {
        double mean;
        uint32_t n_task;
        n = mean_of(eval, row, i, &mean, &n_task);
        if (n_task > 0) {
            json_t *value = json_object();
            json_object_set_new(value, "ctx", json_integer(eval->cell[i].ctx));
            json_object_set_new(value, "method", ft_json_text(method));
            json_object_set_new(value, "score", json_real(mean));
            json_object_set_new(value, "tasks", json_integer(n_task));
            json_array_append_new(means, value);
        }
    }
}

int ft_eval_value(const struct ft_eval *eval, json_t **out) {
    struct row *row = NULL;
    int code = rows_of(eval, &row);
    if (code != FT_EXIT_OK) {
        return code;
    }
    json_t *root = json_object(), *rows = json_array(), *means = json_array();
    for (uint32_t m = 0; m < eval->grid.n; m++) {
        add_values(eval, eval->grid.all[m].label, &row[(size_t)m * eval->n_cell], rows, means);
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "means", means);
    json_object_set(root, "manifest", eval->manifest);
    ft_free(row);
    *out = root;
    return FT_EXIT_OK;
}

static void print_method(const struct ft_eval *eval, const char *method, const struct row *row) {
    char kv[24];
    ft_out("method  ");
    ft_out_safe(method);
    ft_out("\n%-15s  %7s  %6s  %-15s  %8s  %8s  %-10s  %12s  %s\n", "task", "ctx", "score",
           "95 % interval", "read", "rows", "KV", "first token", "made of");
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        const struct row *r = &row[i];
        if (r->n > 0) {
            ft_out("%-15s  %7u  %6.2f  [%6.2f, %6.2f]  %8.0f  %8.0f  %-10s  %9.0f ms  %s\n",
                   cell->name, cell->ctx, r->score.mean, r->score.low, r->score.high, r->n_kept,
                   r->n_kv_kept, ft_size_text((uint64_t)r->kv_bytes, kv), r->ttft_ms, cell->data);
        }
    }
    for (uint32_t i = 0, n = 0; i < eval->n_cell; i += n) {
        double mean;
        uint32_t n_task;
        n = mean_of(eval, row, i, &mean, &n_task);
        if (n_task > 1) {
            ft_out("%-15s  %7u  %6.2f\n", "mean", eval->cell[i].ctx, mean);
        }
    }
}

static void print_fallbacks(const struct ft_eval *eval, const char *method, const struct row *row) {
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n_fallback > 0) {
            ft_out("%s at %u, %u of the samples: ", eval->cell[i].name, eval->cell[i].ctx,
                   row[i].n_fallback);
            if (eval->grid.n > 1) {
                ft_out_safe(method);
                ft_out(": ");
            }
            ft_out_safe(row[i].fallback);
            ft_out("\n");
        }
    }
}

int ft_eval_print(const struct ft_eval *eval) {
    struct row *row = NULL;
    char part[48] = "";
    int code = rows_of(eval, &row);
    for (uint32_t m = 0; m < eval->grid.n && code == FT_EXIT_OK; m++) {
        print_method(eval, eval->grid.all[m].label, &row[(size_t)m * eval->n_cell]);
        if (m + 1 < eval->grid.n) {
            ft_out("\n");
        }
    }
    if (eval->shard.n > 0) {
        snprintf(part, sizeof part, "part %u/%u of ", eval->shard.i, eval->shard.n);
    }
    if (code == FT_EXIT_OK) {
        ft_out("%s%u samples each, seed %llu; read, rows, KV and first token are medians\n", part,
               eval->setup.conf->n_sample, (unsigned long long)eval->seed);
    }
    for (uint32_t m = 0; m < eval->grid.n && code == FT_EXIT_OK; m++) {
        print_fallbacks(eval, eval->grid.all[m].label, &row[(size_t)m * eval->n_cell]);
    }
    ft_free(row);
    return code;
}
