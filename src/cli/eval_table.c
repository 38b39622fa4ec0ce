/* SPDX-License-Identifier: Apache-2.0 */
/* eval_table.c - what `foretoken eval` prints: for each method a row for each cell, as a table or
 * as JSON. */
#include <stdio.h>
#include <string.h>

#include "cli/suites.h"

struct row {
    uint32_t n; /* samples; 0: the rest says nothing */
    struct ft_interval score;
    double n_prompt, n_kept, n_kv_kept, kv_bytes, ttft_ms; /* medians */
    uint32_t n_fallback;                                   /* samples that did not run as asked */
    const char *fallback;                                  /* why the first of them did not */
    uint32_t n_cut;                                        /* samples whose prompt was cut to fit */
};

/* value [n] is room to work in. */
static struct row row_of(const struct ft_outcome *outcome, uint32_t n, double *value) {
    struct row row = { .n = n };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = outcome[i].score;
        row.n_fallback += outcome[i].fallback != NULL;
        row.fallback = row.fallback ? row.fallback : outcome[i].fallback;
        row.n_cut += outcome[i].n_cut > 0;
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

struct mean {
    const char *group; /* NULL: of all tasks */
    uint32_t ctx, n;   /* n: tasks, each counting alike, as RULER and LongBench average */
    double score;
};

struct table {
    struct row *row;   /* [grid.n][n_cell] from the record */
    struct mean *mean; /* [2 * n_cell] room for those of one method */
};

static void table_done(struct table *table) {
    ft_free(table->row);
    ft_free(table->mean);
}

/* table_done in any case. */
static int table_init(const struct ft_eval *eval, struct table *table) {
    uint64_t most = FT_MAX(ft_cells_sum(eval->cell, eval->n_cell), (uint64_t)1);
    struct row *row = ft_alloc((size_t)eval->grid.n * eval->n_cell, sizeof *row);
    struct mean *mean = ft_alloc(2 * (size_t)eval->n_cell, sizeof *mean);
    *table = (struct table){ .row = row, .mean = mean };
    struct ft_outcome *outcome = ft_alloc(most, sizeof *outcome);
    double *value = ft_alloc(most, sizeof *value);
    bool is_room = row && mean && outcome && value;
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
    return is_room ? FT_EXIT_OK
                   : ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows",
                                 eval->grid.n * eval->n_cell);
}

static json_t *row_value(const struct ft_eval *eval, uint32_t m, const struct ft_cell *cell,
                         const struct row *row) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    if (cell->has_depth) {
        json_object_set_new(value, "depth", json_integer(cell->depth));
    }
    json_object_set_new(value, "method", ft_json_text(eval->grid.all[m].label));
    json_object_set_new(value, "kv_type", ft_json_text(ft_grid_kv_type(&eval->grid, m)));
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
    json_object_set_new(value, "cut_samples", json_integer(row->n_cut));
    json_object_set_new(value, "fallback_samples", json_integer(row->n_fallback));
    json_object_set_new(value, "fallback",
                        row->fallback ? ft_json_text(row->fallback) : json_null());
    return value;
}

/* Cells of the same length as the first one; they stand together. */
static uint32_t length_of(const struct ft_eval *eval, uint32_t first) {
    uint32_t n = 0;
    while (first + n < eval->n_cell && eval->cell[first + n].ctx == eval->cell[first].ctx) {
        n++;
    }
    return n;
}

/* Of n cells from the first one, those of a group that have samples; NULL: all. */
static struct mean mean_of(const struct ft_eval *eval, const struct row *row, uint32_t first,
                           uint32_t n, const char *group) {
    struct mean mean = { .group = group, .ctx = eval->cell[first].ctx };
    double sum = 0;
    for (uint32_t i = first; i < first + n; i++) {
        const char *own = eval->cell[i].group;
        if (row[i].n > 0 && (!group || (own && strcmp(own, group) == 0))) {
            sum += row[i].score.mean;
            mean.n++;
        }
    }
    mean.score = sum / FT_MAX(mean.n, 1u);
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
 *   mean     [2 * n_cell];  ->  how many */
static uint32_t means_of(const struct ft_eval *eval, const struct row *row, struct mean *mean) {
    uint32_t n = 0;
    for (uint32_t i = 0, n_task = 0; i < eval->n_cell; i += n_task) {
        n_task = length_of(eval, i);
        mean[n++] = mean_of(eval, row, i, n_task, NULL);
        for (uint32_t k = i; k < i + n_task; k++) {
            if (eval->cell[k].group && is_new_group(eval, i, k)) {
                mean[n++] = mean_of(eval, row, i, n_task, eval->cell[k].group);
            }
        }
    }
    return n;
}

static void add_values(const struct ft_eval *eval, uint32_t m, const struct row *row,
                       struct mean *mean, json_t *rows, json_t *means) {
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n > 0) {
            json_array_append_new(rows, row_value(eval, m, &eval->cell[i], &row[i]));
        }
    }
    uint32_t n_mean = means_of(eval, row, mean);
    for (uint32_t i = 0; i < n_mean; i++) {
        if (mean[i].n > 0) {
            json_t *value = json_object();
            json_object_set_new(value, "ctx", json_integer(mean[i].ctx));
            json_object_set_new(value, "method", ft_json_text(eval->grid.all[m].label));
            json_object_set_new(value, "kv_type", ft_json_text(ft_grid_kv_type(&eval->grid, m)));
            json_object_set_new(value, "score", json_real(mean[i].score));
            json_object_set_new(value, "tasks", json_integer(mean[i].n));
            if (eval->cell[0].group) {
                json_object_set_new(value, "group",
                                    json_string(mean[i].group ? mean[i].group : "all"));
            }
            json_array_append_new(means, value);
        }
    }
}

int ft_eval_value(const struct ft_eval *eval, json_t **out) {
    struct table table;
    int code = table_init(eval, &table);
    if (code == FT_EXIT_OK) {
        json_t *root = json_object(), *rows = json_array(), *means = json_array();
        for (uint32_t m = 0; m < eval->grid.n; m++) {
            add_values(eval, m, &table.row[(size_t)m * eval->n_cell], table.mean, rows, means);
        }
        json_object_set_new(root, "rows", rows);
        json_object_set_new(root, "means", means);
        json_object_set(root, "manifest", eval->manifest);
        if (eval->kind->remark) {
            eval->kind->remark(eval, root);
        }
        *out = root;
    }
    table_done(&table);
    return code;
}

static void print_method(const struct ft_eval *eval, const char *method, const struct row *row,
                         struct mean *mean) {
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
    uint32_t n_mean = means_of(eval, row, mean);
    for (uint32_t i = 0; i < n_mean; i++) {
        if (mean[i].group ? mean[i].n > 0 : mean[i].n > 1) {
            ft_out("%-15s  %7u  %6.2f", mean[i].group ? mean[i].group : "mean", mean[i].ctx,
                   mean[i].score);
            if (eval->cell[0].group) {
                ft_out("  of %u dataset%s", mean[i].n, mean[i].n > 1 ? "s" : "");
            }
            ft_out("\n");
        }
    }
}

/* Prompts are the same for all methods. */
static void print_cuts(const struct ft_eval *eval, const struct row *row) {
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n_cut > 0) {
            ft_out("%s at %u: %u of %u prompts were cut in the middle to fit\n", eval->cell[i].name,
                   eval->cell[i].ctx, row[i].n_cut, row[i].n);
        }
    }
}

/* "20 samples each", or how many the shortest and the longest task have. */
static void print_samples(const struct ft_eval *eval) {
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        low = FT_MIN(low, eval->cell[i].n_sample);
        high = FT_MAX(high, eval->cell[i].n_sample);
    }
    if (eval->shard.n > 0) {
        ft_out("part %u/%u of ", eval->shard.i, eval->shard.n);
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
    struct table table;
    int code = table_init(eval, &table);
    for (uint32_t m = 0; m < eval->grid.n && code == FT_EXIT_OK; m++) {
        print_method(eval, eval->grid.all[m].label, &table.row[(size_t)m * eval->n_cell],
                     table.mean);
        if (m + 1 < eval->grid.n) {
            ft_out("\n");
        }
    }
    if (code == FT_EXIT_OK) {
        print_samples(eval);
        if (eval->kind->remark) {
            eval->kind->remark(eval, NULL);
        }
        print_cuts(eval, table.row);
    }
    for (uint32_t m = 0; m < eval->grid.n && code == FT_EXIT_OK; m++) {
        print_fallbacks(eval, eval->grid.all[m].label, &table.row[(size_t)m * eval->n_cell]);
    }
    table_done(&table);
    return code;
}
