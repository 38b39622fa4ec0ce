/* SPDX-License-Identifier: Apache-2.0 */
/* results.c - records of `foretoken eval` read back and sorted into cells. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/results.h"

enum { LINE_MAX_BYTES = 1 << 24 };

/* What must agree for samples to be the same questions. */
static const char *const same[] = { "suite",  "target",   "seed",  "answer_prefix",
                                    "chat",   "haystack", "words", "squad",
                                    "hotpot", "needle",   "text",  "budgets" };

/* ---- lines ---- */

struct place {
    const char *path;
    uint64_t line;
    const json_t *manifest; /* of the file; NULL while that is read */
};

static ft_status bad_line(const struct place *at, const char *what, struct ft_error *error) {
    return ft_fail(error, FT_FORMAT, at->line, "%.160s:%" PRIu64 ": %s", at->path, at->line, what);
}

ft_status ft_results_lines(const char *path, json_t *lines, struct ft_error *error) {
    struct ft_file_map map;
    struct place at = { .path = path };
    ft_status status = ft_file_map_open(path, &map, error);
    FT_TRY(status);
    const char *text = (const char *)map.data, *end = text + map.size;
    while (status == FT_OK && text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        if (!newline) {
            break;
        }
        at.line++;
        size_t n = (size_t)(newline - text);
        json_t *line =
            n <= LINE_MAX_BYTES ? json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
        if (!json_is_object(line) || json_array_append(lines, line) != 0) {
            status = bad_line(&at, "not a JSON object, as every line of a record is", error);
        }
        json_decref(line);
        text = newline + 1;
    }
    ft_file_map_close(&map);
    if ((status == FT_OK || at.line == 1) &&
        !json_is_object(json_object_get(json_array_get(lines, 0), "manifest"))) {
        status =
            ft_fail(error, FT_FORMAT, 0,
                    "%.160s is no record of foretoken eval: its first line is no manifest", path);
    }
    return status;
}

const json_t *ft_results_manifest(const struct ft_results *results, uint32_t file) {
    return json_object_get(json_array_get(json_array_get(results->file, file), 0), "manifest");
}

/* Data files that both records name hold the same; each may have some that the other has not. */
static ft_status check_data(const json_t *a, const json_t *b, const char *what,
                            struct ft_error *error) {
    const char *name;
    json_t *digest;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(a, "data"), name, digest) {
        const json_t *other = json_object_get(json_object_get(b, "data"), name);
        if (other && !json_equal(digest, (json_t *)(uintptr_t)other)) {
            return ft_fail(error, FT_MISMATCH, 0,
                           "%.160s has another file for %.32s than the first record: these are not "
                           "the same samples",
                           what, name);
        }
    }
    return FT_OK;
}

static ft_status check_same(const json_t *a, const json_t *b, const char *what,
                            struct ft_error *error) {
    for (size_t i = 0; i < FT_COUNT(same); i++) {
        const json_t *x = json_object_get(a, same[i]), *y = json_object_get(b, same[i]);
        if (x != y && !json_equal(x, y)) {
            return ft_fail(error, FT_MISMATCH, 0,
                           "%.160s has another %s than the first record: these are not the same "
                           "samples",
                           what, same[i]);
        }
    }
    return check_data(a, b, what, error);
}

ft_status ft_results_same(const struct ft_results *a, const struct ft_results *b,
                          struct ft_error *error) {
    return check_same(ft_results_manifest(a, 0), ft_results_manifest(b, 0), "the second record",
                      error);
}

/* ---- rows ---- */

static uint32_t place_of(const char ***list, uint32_t *n, const char *text) {
    for (uint32_t i = 0; i < *n; i++) {
        if (strcmp((*list)[i], text) == 0) {
            return i;
        }
    }
    const char **more = ft_grow(*list, *n + 1, sizeof *more);
    if (!more) {
        return UINT32_MAX;
    }
    *list = more;
    more[*n] = text;
    return (*n)++;
}

static uint32_t place_of_ctx(struct ft_results *r, uint32_t ctx) {
    uint32_t at = 0;
    while (at < r->n_ctx && r->ctx[at] != ctx) {
        at++;
    }
    if (at == r->n_ctx) {
        uint32_t *more = ft_grow(r->ctx, r->n_ctx + 1, sizeof *more);
        if (!more) {
            return UINT32_MAX;
        }
        r->ctx = more;
        more[r->n_ctx++] = ctx;
    }
    return at;
}

static double number(const json_t *line, const char *key) {
    return json_number_value(json_object_get(line, key));
}

/* Rows tell their format, and their method's name has it where it is not the usual one.  Those of
 * older records do neither: their manifest has the format of all of them.  (Estimators that eval
 * importance compares all have one format, and no name of it.)
 *   ->       the method as it is known here; NULL: no memory */
static const char *method_name(struct ft_results *r, const json_t *manifest, const json_t *line,
                               const char **kv_type) {
    const char *name = json_string_value(json_object_get(line, "method"));
    const char *own = json_string_value(json_object_get(line, "kv_type"));
    const char *all = json_string_value(json_object_get(manifest, "kv_type"));
    const char *usual = json_is_true(json_object_get(manifest, "exact")) ? "f32" : "f16";
    *kv_type = own ? own : all ? all : usual;
    if (own || strcmp(*kv_type, usual) == 0 || ft_results_is_importance(r)) {
        return name;
    }
    json_t *text = json_sprintf("%s %s", name, *kv_type);
    return text && json_array_append_new(r->name, text) == 0 ? json_string_value(text) : NULL;
}

/* -> UINT32_MAX: no memory */
static uint32_t place_of_method(struct ft_results *r, const json_t *manifest, const json_t *line) {
    const char *kv_type, *name = method_name(r, manifest, line, &kv_type);
    uint32_t n = r->n_method, at = name ? place_of(&r->method, &r->n_method, name) : UINT32_MAX;
    if (r->n_method > n) {
        const char **more = ft_grow(r->kv_type, r->n_method, sizeof *more);
        if (!more) {
            r->n_method = n;
            return UINT32_MAX;
        }
        r->kv_type = more;
        more[at] = kv_type;
    }
    return at;
}

bool ft_results_has_formats(const struct ft_results *results) {
    for (uint32_t m = 1; m < results->n_method; m++) {
        if (strcmp(results->kv_type[m], results->kv_type[0]) != 0) {
            return true;
        }
    }
    return false;
}

static ft_status take_row(struct ft_results *r, const struct place *at, const json_t *line,
                          struct ft_result *row, struct ft_error *error) {
    const char *task = json_string_value(json_object_get(line, "task")),
               *method = json_string_value(json_object_get(line, "method"));
    double ctx = number(line, "ctx"), index = number(line, "index");
    if (!task || !method || !json_is_number(json_object_get(line, "score")) || ctx < 1 ||
        ctx > UINT32_MAX || index < 0 || index > UINT32_MAX) {
        return bad_line(at, "no sample: expected task, method, ctx, index and score", error);
    }
    const json_t *depth = json_object_get(line, "depth");
    if (depth && (!json_is_integer(depth) || json_integer_value(depth) < 0 ||
                  json_integer_value(depth) > 100)) {
        return bad_line(at, "depth is no whole number from 0 to 100", error);
    }
    double full = number(line, "kv_bytes_full");
    *row = (struct ft_result){ .task = place_of(&r->task, &r->n_task, task),
                               .method = place_of_method(r, at->manifest, line),
                               .ctx = place_of_ctx(r, (uint32_t)ctx),
                               .index = (uint32_t)index,
                               .score = number(line, "score"),
                               .kept = number(line, "kept_rows"),
                               .kv_bytes = number(line, "kv_bytes"),
                               .kv_share = full > 0 ? number(line, "kv_bytes") / full : 1,
                               .ttft_ms = number(json_object_get(line, "times"), "ttft_ms") };
    return row->task == UINT32_MAX || row->method == UINT32_MAX || row->ctx == UINT32_MAX
               ? ft_fail(error, FT_NOMEM, 0, "not enough memory for the names of the results")
               : FT_OK;
}

static int compare_ctx(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Lengths get their final order before any row names one. */
static ft_status take_lengths(struct ft_results *r, struct ft_error *error) {
    size_t f, l;
    json_t *lines, *line;
    json_array_foreach(r->file, f, lines) {
        json_array_foreach(lines, l, line) {
            double ctx = number(line, "ctx");
            if (l > 0 && ctx >= 1 && ctx <= UINT32_MAX &&
                place_of_ctx(r, (uint32_t)ctx) == UINT32_MAX) {
                return ft_fail(error, FT_NOMEM, 0, "not enough memory for the results' lengths");
            }
        }
    }
    if (r->n_ctx > 0) {
        qsort(r->ctx, r->n_ctx, sizeof *r->ctx, compare_ctx);
    }
    return FT_OK;
}

/* The order of rows and groups. */
struct cell_key {
    uint32_t ctx, method, task;
};

static int compare_cells(const struct cell_key *a, const struct cell_key *b) {
    const uint32_t left[] = { a->ctx, a->method, a->task },
                   right[] = { b->ctx, b->method, b->task };
    for (size_t i = 0; i < FT_COUNT(left); i++) {
        if (left[i] != right[i]) {
            return left[i] < right[i] ? -1 : 1;
        }
    }
    return 0;
}

static struct cell_key key_of(const struct ft_result *row) {
    return (struct cell_key){ row->ctx, row->method, row->task };
}

static int compare_rows(const void *a, const void *b) {
    const struct ft_result *x = a, *y = b;
    struct cell_key left = key_of(x), right = key_of(y);
    int order = compare_cells(&left, &right);
    return order != 0 ? order : (x->index > y->index) - (x->index < y->index);
}

static ft_status take_rows(struct ft_results *r, const char *const *path, struct ft_error *error) {
    size_t f, l, n = 0;
    json_t *lines, *line;
    json_array_foreach(r->file, f, lines) {
        n += json_array_size(lines) - 1;
    }
    r->row = n <= UINT32_MAX ? ft_alloc(FT_MAX(n, (size_t)1), sizeof *r->row) : NULL;
    if (!r->row) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for %zu samples", n);
    }
    json_array_foreach(r->file, f, lines) {
        json_array_foreach(lines, l, line) {
            struct place at = { path[f], l + 1, ft_results_manifest(r, (uint32_t)f) };
            if (l > 0 && !ft_record_is_run(line)) {
                FT_TRY(take_row(r, &at, line, &r->row[r->n_row], error));
                r->n_row++;
            }
        }
    }
    if (r->n_row == 0) {
        return ft_fail(error, FT_FORMAT, 0, "%.160s has no sample yet", path[0]);
    }
    qsort(r->row, r->n_row, sizeof *r->row, compare_rows);
    for (uint32_t i = 1; i < r->n_row; i++) {
        const struct ft_result *row = &r->row[i];
        if (compare_rows(row - 1, row) == 0) {
            return ft_fail(error, FT_FORMAT, 0,
                           "sample %u of %.48s at %u tokens with %.80s is there twice", row->index,
                           r->task[row->task], r->ctx[row->ctx], r->method[row->method]);
        }
    }
    return FT_OK;
}

/* Tasks by depth; there are few, and each goes behind those that are less deep. */
static void take_grid(struct ft_results *r) {
    for (uint32_t t = 0; t < r->n_task; t++) {
        uint32_t at = r->n_grid;
        if (r->depth[t] < 0) {
            continue;
        }
        for (; at > 0 && r->depth[r->grid[at - 1]] > r->depth[t]; at--) {
            r->grid[at] = r->grid[at - 1];
        }
        r->grid[at] = t;
        r->n_grid++;
    }
}

/* The depth of a task is that of its first line. */
static ft_status take_depths(struct ft_results *r, struct ft_error *error) {
    size_t f, l;
    json_t *lines, *line;
    r->depth = ft_alloc(r->n_task, sizeof *r->depth);
    r->grid = ft_alloc(r->n_task, sizeof *r->grid);
    if (!r->depth || !r->grid) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the depths of %u tasks",
                       r->n_task);
    }
    for (uint32_t t = 0; t < r->n_task; t++) {
        r->depth[t] = -1;
    }
    json_array_foreach(r->file, f, lines) {
        json_array_foreach(lines, l, line) {
            const json_t *depth = json_object_get(line, "depth");
            if (l > 0 && depth && !ft_record_is_run(line)) {
                uint32_t t = place_of(&r->task, &r->n_task,
                                      json_string_value(json_object_get(line, "task")));
                r->depth[t] = r->depth[t] < 0 ? (int32_t)json_integer_value(depth) : r->depth[t];
            }
        }
    }
    take_grid(r);
    return FT_OK;
}

/* ---- cells ---- */

/* value [n] is room to work in. */
static struct ft_group group_of(const struct ft_result *row, uint32_t n, double *value) {
    struct ft_group group = { .task = row->task, .ctx = row->ctx, .method = row->method, .n = n };
    double *const out[] = { &group.kept, &group.kv_bytes, &group.kv_share, &group.ttft_ms };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = row[i].score;
    }
    group.score = ft_interval_of(value, n);
    for (size_t k = 0; k < FT_COUNT(out); k++) {
        for (uint32_t i = 0; i < n; i++) {
            const double all[] = { row[i].kept, row[i].kv_bytes, row[i].kv_share, row[i].ttft_ms };
            value[i] = all[k];
        }
        *out[k] = ft_spread_of(value, n).median;
    }
    return group;
}

static bool is_same_cell(const struct ft_result *a, const struct ft_result *b) {
    struct cell_key x = key_of(a), y = key_of(b);
    return compare_cells(&x, &y) == 0;
}

static ft_status take_groups(struct ft_results *r, struct ft_error *error) {
    double *value = ft_alloc(r->n_row, sizeof *value);
    r->group = ft_alloc(r->n_row, sizeof *r->group);
    if (!value || !r->group) {
        ft_free(value);
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the cells of %u samples",
                       r->n_row);
    }
    for (uint32_t i = 0, n; i < r->n_row; i += n) {
        n = 1;
        while (i + n < r->n_row && is_same_cell(&r->row[i], &r->row[i + n])) {
            n++;
        }
        r->group[r->n_group++] = group_of(&r->row[i], n, value);
    }
    ft_free(value);
    return FT_OK;
}

/* ---- all of it ---- */

static ft_status read_files(const char *const *path, uint32_t n, struct ft_results *out,
                            struct ft_error *error) {
    out->file = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_t *lines = json_array();
        ft_status status = lines && json_array_append(out->file, lines) == 0
                               ? ft_results_lines(path[i], lines, error)
                               : ft_fail(error, FT_NOMEM, 0, "not enough memory for the results");
        json_decref(lines);
        FT_TRY(status);
        FT_TRY(
            check_same(ft_results_manifest(out, 0), ft_results_manifest(out, i), path[i], error));
    }
    return FT_OK;
}

ft_status ft_results_load(const char *const *path, uint32_t n, struct ft_results *out,
                          struct ft_error *error) {
    *out = (struct ft_results){ .name = json_array() };
    FT_TRY(read_files(path, n, out, error));
    FT_TRY(take_lengths(out, error));
    FT_TRY(take_rows(out, path, error));
    FT_TRY(take_depths(out, error));
    return take_groups(out, error);
}

void ft_results_done(struct ft_results *results) {
    json_decref(results->file);
    json_decref(results->name);
    ft_free(results->row);
    ft_free((void *)results->task);
    ft_free((void *)results->method);
    ft_free((void *)results->kv_type);
    ft_free(results->depth);
    ft_free(results->grid);
    ft_free(results->ctx);
    ft_free(results->group);
    *results = (struct ft_results){ .n_row = 0 };
}

/* How many rows stand in front of the cell, or with is_behind in front of the next one. */
static uint32_t rows_before(const struct ft_results *results, const struct cell_key *key,
                            bool is_behind) {
    uint32_t low = 0, high = results->n_row;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct cell_key there = key_of(&results->row[middle]);
        if (compare_cells(&there, key) < (is_behind ? 1 : 0)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct ft_result *ft_results_rows(const struct ft_results *results, uint32_t task,
                                        uint32_t ctx, uint32_t method, uint32_t *n) {
    const struct cell_key key = { ctx, method, task };
    uint32_t first = rows_before(results, &key, false);
    *n = rows_before(results, &key, true) - first;
    return *n > 0 ? &results->row[first] : NULL;
}

static int find_cell(const void *key, const void *group) {
    const struct ft_group *g = group;
    const struct cell_key there = { g->ctx, g->method, g->task };
    return compare_cells(key, &there);
}

const struct ft_group *ft_results_group(const struct ft_results *results, uint32_t task,
                                        uint32_t ctx, uint32_t method) {
    const struct cell_key key = { ctx, method, task };
    return results->n_group > 0
               ? bsearch(&key, results->group, results->n_group, sizeof *results->group, find_cell)
               : NULL;
}

uint32_t ft_results_mean(const struct ft_results *results, uint32_t ctx, uint32_t method,
                         struct ft_group *out) {
    struct ft_group sum = { .ctx = ctx, .method = method };
    double low = 0, high = 0;
    uint32_t n = 0;
    for (uint32_t t = 0; t < results->n_task; t++) {
        const struct ft_group *g = ft_results_group(results, t, ctx, method);
        if (!g) {
            continue;
        }
        n++;
        sum.n += g->n;
        sum.score.mean += g->score.mean;
        low += (g->score.mean - g->score.low) * (g->score.mean - g->score.low);
        high += (g->score.high - g->score.mean) * (g->score.high - g->score.mean);
        sum.kept += g->kept;
        sum.kv_bytes += g->kv_bytes;
        sum.kv_share += g->kv_share;
        sum.ttft_ms += g->ttft_ms;
    }
    if (n > 0) {
        sum.score.mean /= n;
        sum.score.low = sum.score.mean - sqrt(low) / n;
        sum.score.high = sum.score.mean + sqrt(high) / n;
        sum.kept /= n;
        sum.kv_bytes /= n;
        sum.kv_share /= n;
        sum.ttft_ms /= n;
        *out = sum;
    }
    return n;
}
