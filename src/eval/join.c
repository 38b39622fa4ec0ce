/* SPDX-License-Identifier: Apache-2.0 */
/* join.c - one record of many: the parts that shards wrote, in the order of an undivided run.
 *
 * That order is by cell, sample and method, each as the runs tell them ("cells" and "methods" of
 * "run"); what no run tells of stands behind, as it comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/results.h"

enum { NAME_BYTES = 1024 };

struct joining {
    json_t *files;           /* [n_file] of lists of lines */
    json_t *runs;            /* list of what is told of runs, each once */
    json_t *cells, *methods; /* name -> its place */
    json_t *rows;            /* sample -> row */
    struct joined_row {
        json_int_t cell, index, method;
        const json_t *line;
    } * row; /* [n_row] */
    size_t n_row;
};

static json_int_t place_of(json_t *places, const char *name) {
    const json_t *found = json_object_get(places, name);
    json_int_t place = (json_int_t)json_object_size(places);
    if (found) {
        return json_integer_value(found);
    }
    json_object_set_new(places, name, json_integer(place));
    return place;
}

static const char *cell_name(const json_t *line, char out[NAME_BYTES]) {
    const char *task = json_string_value(json_object_get(line, "task"));
    snprintf(out, NAME_BYTES, "%" JSON_INTEGER_FORMAT " %s",
             json_integer_value(json_object_get(line, "ctx")), task ? task : "");
    return out;
}

/* ---- runs ---- */

static void take_run(struct joining *j, const json_t *run) {
    json_t *own = json_copy((json_t *)(uintptr_t)run), *cell, *value;
    char name[NAME_BYTES];
    const char *key;
    size_t i;
    json_object_del(own, "shard"); /* the whole is no part */
    json_array_foreach(json_object_get(own, "cells"), i, cell) {
        place_of(j->cells, cell_name(cell, name));
    }
    json_object_foreach(json_object_get(own, "methods"), key, value) {
        place_of(j->methods, key);
    }
    json_array_foreach(j->runs, i, value) {
        if (json_equal(value, own)) {
            json_decref(own);
            return;
        }
    }
    json_array_append_new(j->runs, own);
}

static ft_status take_file(struct joining *j, const char *path, struct ft_error *error) {
    json_t *lines = json_array(), *line;
    size_t i;
    ft_status status = lines && json_array_append(j->files, lines) == 0
                           ? ft_results_lines(path, lines, error)
                           : ft_fail(error, FT_NOMEM, 0, "not enough memory for the records");
    json_decref(lines);
    FT_TRY(status);
    const json_t *manifest = json_object_get(json_array_get(lines, 0), "manifest"),
                 *first =
                     json_object_get(json_array_get(json_array_get(j->files, 0), 0), "manifest");
    FT_TRY(ft_record_same(path, first, manifest, error));
    if (json_object_get(manifest, "run")) {
        take_run(j, json_object_get(manifest, "run"));
    }
    json_array_foreach(lines, i, line) {
        if (i > 0 && ft_record_is_run(line)) {
            take_run(j, json_object_get(line, "run"));
        }
    }
    return FT_OK;
}

/* ---- rows ---- */

static bool is_same_row(const json_t *a, const json_t *b) {
    json_t *x = json_copy((json_t *)(uintptr_t)a), *y = json_copy((json_t *)(uintptr_t)b);
    json_object_del(x, "times");
    json_object_del(y, "times");
    bool is_same = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return is_same;
}

static ft_status take_row(struct joining *j, const char *path, size_t number, const json_t *line,
                          struct ft_error *error) {
    char cell[NAME_BYTES], sample[2 * NAME_BYTES];
    const char *method = json_string_value(json_object_get(line, "method"));
    const json_t *index = json_object_get(line, "index");
    if (!json_is_string(json_object_get(line, "task")) || !method || !json_is_integer(index) ||
        !json_is_integer(json_object_get(line, "ctx"))) {
        return ft_fail(error, FT_FORMAT, number,
                       "%.160s:%zu: no sample: expected task, method, ctx and index", path, number);
    }
    cell_name(line, cell);
    snprintf(sample, sizeof sample, "%s %" JSON_INTEGER_FORMAT " %s", cell,
             json_integer_value(index), method);
    const json_t *found = json_object_get(j->rows, sample);
    if (found) {
        return is_same_row(found, line)
                   ? FT_OK
                   : ft_fail(error, FT_MISMATCH, number,
                             "%.100s:%zu: this sample has another result in a record before it: "
                             "%.100s",
                             path, number, sample);
    }
    if (json_object_set(j->rows, sample, (json_t *)(uintptr_t)line) != 0) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the rows of %.160s", path);
    }
    j->row[j->n_row++] = (struct joined_row){ .cell = place_of(j->cells, cell),
                                              .index = json_integer_value(index),
                                              .method = place_of(j->methods, method),
                                              .line = line };
    return FT_OK;
}

static int compare_rows(const void *a, const void *b) {
    const struct joined_row *x = a, *y = b;
    const json_int_t left[] = { x->cell, x->index, x->method },
                     right[] = { y->cell, y->index, y->method };
    for (size_t i = 0; i < FT_COUNT(left); i++) {
        if (left[i] != right[i]) {
            return left[i] < right[i] ? -1 : 1;
        }
    }
    return 0;
}

static ft_status take_rows(struct joining *j, const char *const *path, struct ft_error *error) {
    size_t f, l, n = 1;
    json_t *lines, *line;
    json_array_foreach(j->files, f, lines) {
        n += json_array_size(lines);
    }
    j->row = ft_alloc(n, sizeof *j->row);
    if (!j->row) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for %zu rows", n);
    }
    json_array_foreach(j->files, f, lines) {
        json_array_foreach(lines, l, line) {
            if (l > 0 && !ft_record_is_run(line)) {
                FT_TRY(take_row(j, path[f], l + 1, line, error));
            }
        }
    }
    qsort(j->row, j->n_row, sizeof *j->row, compare_rows);
    return FT_OK;
}

/* A cell with a method: as many samples as the run that asked for most of them. */
static void expect(json_t *samples, const json_t *cell, const char *method) {
    char name[NAME_BYTES], pair[2 * NAME_BYTES];
    snprintf(pair, sizeof pair, "%s %s", cell_name(cell, name), method);
    json_int_t n = json_integer_value(json_object_get(cell, "samples"));
    json_int_t most = json_integer_value(json_object_get(samples, pair));
    json_object_set_new(samples, pair, json_integer(FT_MAX(n, most)));
}

/* Samples of all cells with all methods of each run. */
static uint64_t count_expected(const struct joining *j) {
    json_t *samples = json_object(), *run, *cell, *value;
    const char *key;
    size_t r, c;
    json_int_t sum = 0;
    json_array_foreach(j->runs, r, run) {
        json_array_foreach(json_object_get(run, "cells"), c, cell) {
            const char *own = json_string_value(json_object_get(cell, "method"));
            if (own) {
                expect(samples, cell, own);
                continue;
            }
            json_object_foreach(json_object_get(run, "methods"), key, value) {
                expect(samples, cell, key);
            }
        }
    }
    json_object_foreach(samples, key, value) {
        sum += json_integer_value(value);
    }
    json_decref(samples);
    return (uint64_t)sum;
}

/* ---- the whole ---- */

static void put_line(struct ft_save *save, const json_t *value, bool *is_whole) {
    size_t n = 0;
    char *line = ft_record_line(value, &n);
    *is_whole = *is_whole && line;
    ft_save_write(save, line ? line : "", n);
    ft_free(line);
}

static ft_status write_all(const struct joining *j, const char *out, struct ft_error *error) {
    struct ft_save *save = NULL;
    bool is_whole = true;
    const json_t *first = json_array_get(json_array_get(j->files, 0), 0);
    FT_TRY(ft_save_open(out, &save, error));
    json_t *line = json_deep_copy(first);
    json_t *manifest = json_object_get(line, "manifest");
    if (json_object_get(manifest, "run")) {
        json_object_set(manifest, "run", json_array_get(j->runs, 0));
    }
    put_line(save, line, &is_whole);
    json_decref(line);
    for (size_t i = json_object_get(manifest, "run") ? 1 : 0; i < json_array_size(j->runs); i++) {
        json_t *told = json_object();
        json_object_set(told, "run", json_array_get(j->runs, i));
        put_line(save, told, &is_whole);
        json_decref(told);
    }
    for (size_t i = 0; i < j->n_row; i++) {
        put_line(save, j->row[i].line, &is_whole);
    }
    if (!is_whole) {
        ft_save_done(save, false, NULL);
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the lines of %.160s", out);
    }
    return ft_save_done(save, true, error);
}

ft_status ft_record_join(const char *out, const char *const *path, uint32_t n,
                         struct ft_joined *joined, struct ft_error *error) {
    struct joining j = { .files = json_array(),
                         .runs = json_array(),
                         .cells = json_object(),
                         .methods = json_object(),
                         .rows = json_object() };
    ft_status status = access(out, F_OK) == 0
                           ? ft_fail(error, FT_IO, 0, "%.160s is there already; move it away", out)
                           : FT_OK;
    for (uint32_t i = 0; i < n && status == FT_OK; i++) {
        status = take_file(&j, path[i], error);
    }
    if (status == FT_OK) {
        status = take_rows(&j, path, error);
    }
    if (status == FT_OK) {
        status = write_all(&j, out, error);
    }
    if (status == FT_OK) {
        *joined = (struct ft_joined){ j.n_row, count_expected(&j) };
    }
    ft_free(j.row);
    json_decref(j.files);
    json_decref(j.runs);
    json_decref(j.cells);
    json_decref(j.methods);
    json_decref(j.rows);
    return status;
}
