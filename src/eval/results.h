/* SPDX-License-Identifier: Apache-2.0 */
/* results.h - records of `foretoken eval` read back: samples, cells (a task at a length with a
 * method), reports of them, and the difference between two methods on the same samples.
 */
#ifndef FT_EVAL_RESULTS_H
#define FT_EVAL_RESULTS_H

#include <jansson.h>

#include "eval/eval.h"
#include "eval/run.h"

struct ft_result {              /* one sample */
    uint32_t task, ctx, method; /* indices into the lists of the results */
    uint32_t index;
    double score;              /* 0..100 */
    double kept;               /* rows of a KV head after the prompt was read */
    double kv_bytes, kv_share; /* held then, and as a share of what dense holds */
    double ttft_ms;
};
struct ft_group { /* the samples of a cell */
    uint32_t task, ctx, method;
    uint32_t n;
    struct ft_interval score;
    double kept, kv_bytes, kv_share, ttft_ms; /* medians */
};
struct ft_results {
    json_t *file;                /* [n_file] of lists of lines, owned; texts below are theirs */
    struct ft_result *row;       /* [n_row] by task, length, method and index; owned */
    const char **task, **method; /* [n_task], [n_method] in order of appearance; owned lists */
    const char **kv_type;        /* [n_method] how its rows are stored; owned list */
    json_t *name;                /* texts that are in no file; owned */
    int32_t *depth;         /* [n_task] where the answer stands, percent; -1: not told; owned */
    uint32_t *grid;         /* [n_grid] tasks with a depth, ascending by it; owned */
    uint32_t *ctx;          /* [n_ctx] ascending, owned */
    struct ft_group *group; /* [n_group] in the order of row; owned */
    uint32_t n_row, n_task, n_method, n_ctx, n_group, n_grid;
};

/* ft_results_lines - the lines of a record, appended to a list; what a killed run left behind the
 * last newline is none.
 * Errors     FT_IO; FT_FORMAT (no record, a damaged line) */
ft_status ft_results_lines(const char *path, json_t *lines, struct ft_error *error);

/* ft_results_load - all samples of some records of one suite, target and seed.
 *   out      ended with ft_results_done, also after a failure
 * Errors     FT_IO, FT_NOMEM; FT_FORMAT (no record, a damaged line, a sample that is there twice,
 *            none at all); FT_MISMATCH naming the setting that differs */
ft_status ft_results_load(const char *const *path, uint32_t n, struct ft_results *out,
                          struct ft_error *error);
void ft_results_done(struct ft_results *results);

/* ft_results_has_formats - are rows stored in more than one way? */
bool ft_results_has_formats(const struct ft_results *results);

/* ft_results_rows - the samples of a cell, by index; *n of them.
 *   ->       NULL: none */
const struct ft_result *ft_results_rows(const struct ft_results *results, uint32_t task,
                                        uint32_t ctx, uint32_t method, uint32_t *n);
/* ft_results_group - NULL: no sample of this cell. */
const struct ft_group *ft_results_group(const struct ft_results *results, uint32_t task,
                                        uint32_t ctx, uint32_t method);
/* ft_results_mean - of a method at a length over tasks, each counting alike, as RULER averages; the
 * interval is that of independent means, half widths added in squares.  Medians are means of the
 * tasks' medians.
 *   ->       tasks that have samples; 0: *out says nothing */
uint32_t ft_results_mean(const struct ft_results *results, uint32_t ctx, uint32_t method,
                         struct ft_group *out);
const json_t *ft_results_manifest(const struct ft_results *results, uint32_t file);
/* ft_results_same - FT_MISMATCH naming the first setting that makes other samples. */
ft_status ft_results_same(const struct ft_results *a, const struct ft_results *b,
                          struct ft_error *error);

/* ---- reports (report.c) ---- */

void ft_report_markdown(const struct ft_results *results, struct ft_save *save);
void ft_report_csv(const struct ft_results *results, struct ft_save *save);
/* ft_report_html - one page without scripts: tables, plots of accuracy over rows kept, over the bytes
 * they take and over length, memory and time to the first token beside them. */
ft_status ft_report_html(const struct ft_results *results, const char *title, struct ft_save *save,
                         struct ft_error *error);
/* ft_report_json - {"rows":[...],"means":[...],"manifests":[...]}; the caller's. */
json_t *ft_report_json(const struct ft_results *results);

/* ---- scores over depth and length (report_needle.c); nothing where no task has a depth ---- */

void ft_report_grid_markdown(const struct ft_results *results, struct ft_save *save);
ft_status ft_report_grid_html(const struct ft_results *results, struct ft_save *save,
                              struct ft_error *error);
/* ---- reports of eval importance (report_importance.c) ---- */

bool ft_results_is_importance(const struct ft_results *results);
/* Each fails with FT_NOMEM, or FT_FORMAT naming a row that is none of this suite. */
ft_status ft_importance_markdown(const struct ft_results *results, struct ft_save *save,
                                 struct ft_error *error);
ft_status ft_importance_csv(const struct ft_results *results, struct ft_save *save,
                            struct ft_error *error);
/* ft_importance_json - a list of cells, each with its budgets; the caller's. */
ft_status ft_importance_json(const struct ft_results *results, json_t **out,
                             struct ft_error *error);
/* ft_importance_html - the tables and plots of a page, for ft_report_html. */
ft_status ft_importance_html(const struct ft_results *results, struct ft_save *save,
                             struct ft_error *error);

/* ---- the same samples with two methods (compare.c) ---- */

struct ft_difference {  /* b - a */
    uint32_t task, ctx; /* of a */
    uint32_t n;
    double a, b;              /* mean scores of the samples that both have */
    struct ft_interval score; /* paired: of the differences, cut to -100..100 */
};
/* ft_results_compare - method_b of b against method_a of a, a row for each cell that both have.
 *   out      [a's n_task * n_ctx] at least; *n rows
 *   all      the mean of the rows, each counting alike
 * Errors     FT_MISMATCH where samples are not the same: other suite, target, seed or text */
ft_status ft_results_compare(const struct ft_results *a, uint32_t method_a,
                             const struct ft_results *b, uint32_t method_b,
                             struct ft_difference *out, uint32_t *n, struct ft_difference *all,
                             struct ft_error *error);

#endif
