/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - results as tables (Markdown, CSV, JSON) and as one HTML page with plots. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/results.h"

enum { NAME_CAP = 512 };

static void put(struct ft_save *save, const char *text) {
    ft_save_write(save, text, strlen(text));
}

/* "snapkv:keep=64 q4" -> "snapkv:keep=64", for a table that has the format beside it.  out [cap] */
static void bare_method(const struct ft_results *r, uint32_t method, char *out, size_t cap) {
    const char *name = r->method[method], *kv_type = r->kv_type[method];
    size_t n = strlen(name), n_type = strlen(kv_type);
    bool has_type =
        n > n_type && name[n - n_type - 1] == ' ' && strcmp(name + n - n_type, kv_type) == 0;
    n -= has_type ? n_type + 1 : 0;
    snprintf(out, cap, "%.*s", (int)n, name);
}

/* ---- Markdown ---- */

static void put_cell(struct ft_save *save, const char *text) { /* a bar would end the cell */
    for (; *text; text++) {
        ft_save_print(save, *text == '|' ? "\\|" : "%c", *text);
    }
}

static void markdown_row(const struct ft_results *r, uint32_t ctx, uint32_t method,
                         struct ft_save *save) {
    struct ft_group mean;
    char name[NAME_CAP], kv[24];
    if (ft_results_mean(r, ctx, method, &mean) == 0) {
        return;
    }
    put(save, "| ");
    if (ft_results_has_formats(r)) {
        bare_method(r, method, name, sizeof name);
        put_cell(save, name);
        put(save, " | ");
        put_cell(save, r->kv_type[method]);
    } else {
        put_cell(save, r->method[method]);
    }
    ft_save_print(save, " | %.1f [%.1f, %.1f]", mean.score.mean, mean.score.low, mean.score.high);
    for (uint32_t t = 0; t < r->n_task; t++) {
        const struct ft_group *g = ft_results_group(r, t, ctx, method);
        ft_save_print(save, g ? " | %.1f" : " | ", g ? g->score.mean : 0.0);
    }
    ft_save_print(save, " | %.0f | %s (%.1f %%) | %.0f ms |\n", mean.kept,
                  ft_size_text((uint64_t)(mean.kv_bytes + 0.5), kv), 100 * mean.kv_share,
                  mean.ttft_ms);
}

void ft_report_markdown(const struct ft_results *results, struct ft_save *save) {
    bool has_formats = ft_results_has_formats(results);
    for (uint32_t c = 0; c < results->n_ctx; c++) {
        ft_save_print(save, "%s%" PRIu32 " tokens, %s\n\n| method |%s mean, 95 %% interval |",
                      c > 0 ? "\n" : "", results->ctx[c], "scores from 0 to 100",
                      has_formats ? " format |" : "");
        for (uint32_t t = 0; t < results->n_task; t++) {
            put(save, " ");
            put_cell(save, results->task[t]);
            put(save, " |");
        }
        put(save, " rows kept | KV | first token |\n| --- | --- |");
        put(save, has_formats ? " --- |" : "");
        for (uint32_t t = 0; t < results->n_task + 3; t++) {
            put(save, " ---: |");
        }
        put(save, "\n");
        for (uint32_t m = 0; m < results->n_method; m++) {
            markdown_row(results, c, m, save);
        }
    }
    ft_report_grid_markdown(results, save);
}

/* The depth of a cell's task; task is not one of the list's for a mean.  -1: none. */
static int32_t depth_of(const struct ft_results *r, const struct ft_group *g, const char *task) {
    return task == r->task[g->task] ? r->depth[g->task] : -1;
}

/* ---- CSV ---- */

static void put_quoted(struct ft_save *save, const char *text) {
    put(save, "\"");
    for (; *text; text++) {
        ft_save_print(save, *text == '"' ? "\"\"" : "%c", *text);
    }
    put(save, "\"");
}

static void csv_row(const struct ft_results *r, const struct ft_group *g, const char *task,
                    struct ft_save *save) {
    ft_save_print(save, "%" PRIu32 ",", r->ctx[g->ctx]);
    put_quoted(save, task);
    put(save, ",");
    put_quoted(save, r->method[g->method]);
    put(save, ",");
    put_quoted(save, r->kv_type[g->method]);
    ft_save_print(save, ",%" PRIu32 ",%.4f,%.4f,%.4f,%.0f,%.0f,%.6f,%.3f", g->n, g->score.mean,
                  g->score.low, g->score.high, g->kept, g->kv_bytes, g->kv_share, g->ttft_ms);
    if (depth_of(r, g, task) >= 0) {
        ft_save_print(save, ",%" PRId32, depth_of(r, g, task));
    } else if (r->n_grid > 0) {
        put(save, ",");
    }
    put(save, "\n");
}

void ft_report_csv(const struct ft_results *results, struct ft_save *save) {
    put(save, "ctx,task,method,kv_type,samples,score,low,high,kept_rows,kv_bytes,kv_share,ttft_ms");
    put(save, results->n_grid > 0 ? ",depth\n" : "\n");
    for (uint32_t i = 0; i < results->n_group; i++) {
        const struct ft_group *g = &results->group[i];
        csv_row(results, g, results->task[g->task], save);
    }
    for (uint32_t c = 0; c < results->n_ctx; c++) {
        for (uint32_t m = 0; m < results->n_method; m++) {
            struct ft_group mean;
            if (ft_results_mean(results, c, m, &mean) > 0) {
                csv_row(results, &mean, "mean", save);
            }
        }
    }
}

/* ---- JSON ---- */

static json_t *group_value(const struct ft_results *r, const struct ft_group *g, const char *task) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(task));
    json_object_set_new(value, "ctx", json_integer(r->ctx[g->ctx]));
    if (depth_of(r, g, task) >= 0) {
        json_object_set_new(value, "depth", json_integer(depth_of(r, g, task)));
    }
    json_object_set_new(value, "method", json_string(r->method[g->method]));
    json_object_set_new(value, "kv_type", json_string(r->kv_type[g->method]));
    json_object_set_new(value, "samples", json_integer(g->n));
    json_object_set_new(value, "score", json_real(g->score.mean));
    json_object_set_new(value, "low", json_real(g->score.low));
    json_object_set_new(value, "high", json_real(g->score.high));
    json_object_set_new(value, "kept_rows", json_real(g->kept));
    json_object_set_new(value, "kv_bytes", json_real(g->kv_bytes));
    json_object_set_new(value, "kv_share", json_real(g->kv_share));
    json_object_set_new(value, "ttft_ms", json_real(g->ttft_ms));
    return value;
}

json_t *ft_report_json(const struct ft_results *results) {
    json_t *root = json_object(), *rows = json_array(), *means = json_array(),
           *manifests = json_array();
    for (uint32_t i = 0; i < results->n_group; i++) {
        const struct ft_group *g = &results->group[i];
        json_array_append_new(rows, group_value(results, g, results->task[g->task]));
    }
    for (uint32_t c = 0; c < results->n_ctx; c++) {
        for (uint32_t m = 0; m < results->n_method; m++) {
            struct ft_group mean;
            if (ft_results_mean(results, c, m, &mean) > 0) {
                json_array_append_new(means, group_value(results, &mean, "mean"));
            }
        }
    }
    for (uint32_t i = 0; i < json_array_size(results->file); i++) {
        json_array_append(manifests, (json_t *)(uintptr_t)ft_results_manifest(results, i));
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "means", means);
    json_object_set_new(root, "manifests", manifests);
    return root;
}

/* ---- plots ---- */

/* "speckv:keep=64,window=8 q4" -> "speckv:window=8 q4": what a line over budgets is called. */
static void family_of(const char *method, char out[NAME_CAP]) {
    size_t n = 0;
    for (const char *at = method; *at && n + 1 < NAME_CAP;) {
        if ((*at == ':' || *at == ',') && strncmp(at + 1, "keep=", 5) == 0) {
            const char *end = at + 1 + strcspn(at + 1, ",+ ");
            if (*at == ':' && *end == ',') { /* more follows: the colon stays */
                out[n++] = ':';
                end++;
            }
            at = end;
        } else {
            out[n++] = *at++;
        }
    }
    out[n] = '\0';
}

struct points {
    struct ft_plot_point *accuracy, *memory, *first; /* [n] over rows kept */
    struct ft_plot_point *cost;                      /* [n] accuracy over bytes held */
    char (*name)[NAME_CAP];                          /* [n_method] */
    uint32_t n;
};

static void points_done(struct points *p) {
    ft_free(p->accuracy);
    ft_free(p->memory);
    ft_free(p->first);
    ft_free(p->cost);
    ft_free(p->name);
}

static int compare_points(const void *a, const void *b) {
    const struct ft_plot_point *x = a, *y = b;
    int order = strcmp(x->series, y->series);
    return order != 0 ? order : (x->x > y->x) - (x->x < y->x);
}

static ft_status points_init(struct points *p, const struct ft_results *r, struct ft_error *error) {
    p->accuracy = ft_alloc(r->n_method, sizeof *p->accuracy);
    p->memory = ft_alloc(r->n_method, sizeof *p->memory);
    p->first = ft_alloc(r->n_method, sizeof *p->first);
    p->cost = ft_alloc(r->n_method, sizeof *p->cost);
    p->name = ft_alloc(r->n_method, sizeof *p->name);
    if (!p->accuracy || !p->memory || !p->first || !p->cost || !p->name) {
        points_done(p);
        return ft_fail(error, FT_NOMEM, 0, "not enough memory to plot %u methods", r->n_method);
    }
    for (uint32_t m = 0; m < r->n_method; m++) {
        family_of(r->method[m], p->name[m]);
    }
    return FT_OK;
}

/* One length: means over tasks. */
static void points_fill(struct points *p, const struct ft_results *r, uint32_t ctx) {
    p->n = 0;
    for (uint32_t m = 0; m < r->n_method; m++) {
        struct ft_group g;
        if (ft_results_mean(r, ctx, m, &g) == 0) {
            continue;
        }
        double mib = g.kv_bytes / 1048576;
        const struct ft_plot_point point = {
            .series = p->name[m],
            .x = (uint64_t)(g.kept + 0.5),
            .y = { g.score.mean, g.score.low, g.score.high },
            .line = r->kv_type[m],
        };
        p->accuracy[p->n] = p->memory[p->n] = p->first[p->n] = p->cost[p->n] = point;
        p->memory[p->n].y = (struct ft_spread){ mib, mib, mib };
        p->first[p->n].y = (struct ft_spread){ g.ttft_ms, g.ttft_ms, g.ttft_ms };
        p->cost[p->n].x = (uint64_t)(g.kv_bytes + 0.5);
        p->n++;
    }
    qsort(p->accuracy, p->n, sizeof *p->accuracy, compare_points);
    qsort(p->memory, p->n, sizeof *p->memory, compare_points);
    qsort(p->first, p->n, sizeof *p->first, compare_points);
    qsort(p->cost, p->n, sizeof *p->cost, compare_points);
}

/* What accuracy costs in memory: rows of all methods and formats, by the bytes they take. */
static void plot_cost(const struct points *p, const char *title, struct ft_save *save) {
    const struct ft_plot_panel panel = { "mean score over KV bytes, 95 % intervals", "points",
                                         p->cost, p->n };
    const struct ft_plot plot = { .title = title,
                                  .note = "means over tasks; medians of bytes",
                                  .x_title = "bytes of KV after the prompt",
                                  .panel = &panel,
                                  .n_panel = 1,
                                  .is_bytes = true };
    ft_plot_put(&plot, save);
}

static ft_status plot_budgets(const struct ft_results *r, struct ft_save *save,
                              struct ft_error *error) {
    struct points p = { .n = 0 };
    FT_TRY(points_init(&p, r, error));
    for (uint32_t c = 0; c < r->n_ctx; c++) {
        char title[64];
        points_fill(&p, r, c);
        snprintf(title, sizeof title, "Prompts of %" PRIu32 " tokens", r->ctx[c]);
        const struct ft_plot_panel panel[] = {
            { "mean score, 95 % intervals", "points", p.accuracy, p.n },
            { "KV after the prompt, MiB", "MiB", p.memory, p.n },
            { "time to the first token, ms", "ms", p.first, p.n }
        };
        const struct ft_plot plot = { .title = title,
                                      .note = "means over tasks; medians of memory and time",
                                      .x_title = "rows of a KV head that stay",
                                      .panel = panel,
                                      .n_panel = FT_COUNT(panel) };
        ft_plot_put(&plot, save);
        plot_cost(&p, title, save);
    }
    points_done(&p);
    return FT_OK;
}

static ft_status plot_lengths(const struct ft_results *r, struct ft_save *save,
                              struct ft_error *error) {
    size_t cap = (size_t)r->n_method * r->n_ctx;
    struct ft_plot_point *point = ft_alloc(cap, sizeof *point);
    uint32_t n = 0;
    if (!point) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory to plot %u methods", r->n_method);
    }
    for (uint32_t m = 0; m < r->n_method; m++) {
        for (uint32_t c = 0; c < r->n_ctx; c++) {
            struct ft_group g;
            if (ft_results_mean(r, c, m, &g) > 0) {
                point[n++] = (struct ft_plot_point){
                    .series = r->method[m],
                    .x = r->ctx[c],
                    .y = { g.score.mean, g.score.low, g.score.high },
                    .line = r->kv_type[m],
                };
            }
        }
    }
    const struct ft_plot_panel panel = { "mean score, 95 % intervals", "points", point, n };
    const struct ft_plot plot = { .title = "Accuracy over length",
                                  .note = "means over tasks",
                                  .x_title = "tokens of a prompt with room for its answer",
                                  .panel = &panel,
                                  .n_panel = 1 };
    ft_plot_put(&plot, save);
    ft_free(point);
    return FT_OK;
}

/* ---- HTML ---- */

static const char style[] =
    "body{font-size:15px;max-width:76rem}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse}\n"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #8c959f55;text-align:right}\n"
    "td:first-child,th:first-child{text-align:left}\n"
    "small{opacity:.7}\n"
    "svg{max-width:100%;height:auto;display:block;margin:1.5rem 0}\n";

static void html_text(struct ft_save *save, const char *tag, const char *text) {
    ft_save_print(save, "<%s>", tag);
    ft_save_text(save, text, strlen(text));
    ft_save_print(save, "</%s>", tag);
}

static void html_score(struct ft_save *save, const struct ft_group *g) {
    if (g) {
        ft_save_print(save, "<td>%.1f<br><small>%.1f&ndash;%.1f</small></td>", g->score.mean,
                      g->score.low, g->score.high);
    } else {
        put(save, "<td></td>");
    }
}

static void html_method(const struct ft_results *r, uint32_t method, struct ft_save *save) {
    char name[NAME_CAP];
    if (ft_results_has_formats(r)) {
        bare_method(r, method, name, sizeof name);
        html_text(save, "td", name);
        html_text(save, "td", r->kv_type[method]);
    } else {
        html_text(save, "td", r->method[method]);
    }
}

static void html_table(const struct ft_results *r, uint32_t c, struct ft_save *save) {
    char kv[24];
    ft_save_print(save, "<h2>%" PRIu32 " tokens</h2>\n<div class=\"wide\"><table>\n<tr>",
                  r->ctx[c]);
    put(save, "<th>method</th>");
    put(save, ft_results_has_formats(r) ? "<th>format</th><th>mean</th>" : "<th>mean</th>");
    for (uint32_t t = 0; t < r->n_task; t++) {
        html_text(save, "th", r->task[t]);
    }
    put(save, "<th>samples</th><th>rows kept</th><th>KV</th><th>of dense</th>"
              "<th>first token, ms</th></tr>\n");
    for (uint32_t m = 0; m < r->n_method; m++) {
        struct ft_group mean;
        if (ft_results_mean(r, c, m, &mean) == 0) {
            continue;
        }
        put(save, "<tr>");
        html_method(r, m, save);
        html_score(save, &mean);
        for (uint32_t t = 0; t < r->n_task; t++) {
            html_score(save, ft_results_group(r, t, c, m));
        }
        ft_save_print(save,
                      "<td>%" PRIu32 "</td><td>%.0f</td><td>%s</td><td>%.1f %%</td>"
                      "<td>%.0f</td></tr>\n",
                      mean.n, mean.kept, ft_size_text((uint64_t)(mean.kv_bytes + 0.5), kv),
                      100 * mean.kv_share, mean.ttft_ms);
    }
    put(save, "</table></div>\n");
}

static void html_manifests(const struct ft_results *r, struct ft_save *save) {
    for (uint32_t i = 0; i < json_array_size(r->file); i++) {
        char *text = json_dumps(ft_results_manifest(r, i), JSON_INDENT(2) | JSON_SORT_KEYS);
        if (text) {
            html_text(save, "pre", text);
            put(save, "\n");
        }
        free(text);
    }
}

static ft_status html_scores(const struct ft_results *results, struct ft_save *save,
                             struct ft_error *error) {
    put(save, "<p>Scores from 0 to 100 with 95 % intervals. Rows, memory and time are medians; in "
              "the column of means everything is the mean over tasks.</p>\n");
    for (uint32_t c = 0; c < results->n_ctx; c++) {
        html_table(results, c, save);
    }
    FT_TRY(ft_report_grid_html(results, save, error));
    FT_TRY(plot_budgets(results, save, error));
    return results->n_ctx > 1 ? plot_lengths(results, save, error) : FT_OK;
}

ft_status ft_report_html(const struct ft_results *results, const char *title, struct ft_save *save,
                         struct ft_error *error) {
    ft_page_begin(save);
    put(save, style);
    ft_page_title(save, title);
    ft_status status = (ft_results_is_importance(results) ? ft_importance_html
                                                          : html_scores)(results, save, error);
    if (status == FT_OK) {
        put(save, "<h2>Where this comes from</h2>\n");
        html_manifests(results, save);
        ft_page_end(save);
    }
    return status;
}
