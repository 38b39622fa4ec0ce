/* SPDX-License-Identifier: Apache-2.0 */
/* report_importance.c - reports of `foretoken eval importance`: overlap over the budget, how far
 * scores correlate, and one sample's scores as points. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "eval/importance.h"
#include "eval/results.h"

static void put(struct ft_save *save, const char *text) {
    ft_save_write(save, text, strlen(text));
}

bool ft_results_is_importance(const struct ft_results *results) {
    const char *suite =
        json_string_value(json_object_get(ft_results_manifest(results, 0), "suite"));
    return suite && strcmp(suite, "importance") == 0;
}

/* ---- cells ---- */

static bool is_of(const struct ft_results *r, const struct ft_group *g, const json_t *line) {
    const char *task = json_string_value(json_object_get(line, "task")),
               *method = json_string_value(json_object_get(line, "method"));
    return task && method && strcmp(task, r->task[g->task]) == 0 &&
           strcmp(method, r->method[g->method]) == 0 &&
           json_number_value(json_object_get(line, "ctx")) == r->ctx[g->ctx];
}

/* row [n_row] is room to work in. */
static ft_status overlap_of(const struct ft_results *r, const struct ft_group *g,
                            const json_t **row, struct ft_overlap *out, struct ft_error *error) {
    size_t f, l;
    json_t *lines, *line;
    uint32_t n = 0;
    json_array_foreach(r->file, f, lines) {
        json_array_foreach(lines, l, line) {
            if (l > 0 && is_of(r, g, line)) {
                row[n++] = line;
            }
        }
    }
    return ft_overlap_of(row, n, out, error);
}

/* [n_group] in the order of the results; the caller frees with ft_free. */
static ft_status overlaps_of(const struct ft_results *r, struct ft_overlap **out,
                             struct ft_error *error) {
    struct ft_overlap *overlap = ft_alloc(r->n_group, sizeof *overlap);
    const json_t **row = ft_alloc(r->n_row, sizeof *row);
    ft_status status =
        overlap && row ? FT_OK
                       : ft_fail(error, FT_NOMEM, 0, "not enough memory for %u samples", r->n_row);
    for (uint32_t i = 0; i < r->n_group && status == FT_OK; i++) {
        status = overlap_of(r, &r->group[i], row, &overlap[i], error);
    }
    ft_free((void *)row);
    if (status == FT_OK) {
        *out = overlap;
    } else {
        ft_free(overlap);
    }
    return status;
}

static const char *number(double x, char out[16]) {
    out[0] = '\0';
    if (isfinite(x)) {
        snprintf(out, 16, "%.3f", x);
    }
    return out;
}

/* ---- tables ---- */

static void markdown_row(const struct ft_results *r, const struct ft_group *g,
                         const struct ft_overlap *o, struct ft_save *save) {
    char text[3][16];
    put(save, "| ");
    for (const char *at = r->method[g->method]; *at; at++) {
        ft_save_print(save, *at == '|' ? "\\|" : "%c", *at);
    }
    ft_save_print(save, " | %s | %" PRIu32 " | %s | %s | %s |", r->task[g->task], o->n,
                  number(o->r2, text[0]), number(o->r2_log, text[1]), number(o->spearman, text[2]));
    for (uint32_t b = 0; b < o->n_budget; b++) {
        ft_save_print(save, "%s%" PRIu32 ": %.1f [%.1f, %.1f], %.1f", b > 0 ? "; " : " ",
                      o->budget[b], o->overlap[b].mean, o->overlap[b].low, o->overlap[b].high,
                      o->random[b]);
    }
    put(save, " |\n");
}

ft_status ft_importance_markdown(const struct ft_results *results, struct ft_save *save,
                                 struct ft_error *error) {
    struct ft_overlap *overlap;
    FT_TRY(overlaps_of(results, &overlap, error));
    for (uint32_t c = 0; c < results->n_ctx; c++) {
        ft_save_print(save,
                      "%s%" PRIu32 " tokens\n\n| method | task | samples | R^2 | R^2 of logarithms "
                      "| rank correlation | budget: %% of the best that are the same [95 %% "
                      "interval], by chance |\n| --- | --- | ---: | ---: | ---: | ---: | --- |\n",
                      c > 0 ? "\n" : "", results->ctx[c]);
        for (uint32_t i = 0; i < results->n_group; i++) {
            if (results->group[i].ctx == c) {
                markdown_row(results, &results->group[i], &overlap[i], save);
            }
        }
    }
    ft_free(overlap);
    return FT_OK;
}

static void put_quoted(struct ft_save *save, const char *text) {
    put(save, "\"");
    for (; *text; text++) {
        ft_save_print(save, *text == '"' ? "\"\"" : "%c", *text);
    }
    put(save, "\"");
}

ft_status ft_importance_csv(const struct ft_results *results, struct ft_save *save,
                            struct ft_error *error) {
    struct ft_overlap *overlap;
    char text[3][16];
    FT_TRY(overlaps_of(results, &overlap, error));
    put(save, "ctx,task,method,r2,r2_log,spearman,budget,samples,overlap,low,high,random\n");
    for (uint32_t i = 0; i < results->n_group; i++) {
        const struct ft_group *g = &results->group[i];
        const struct ft_overlap *o = &overlap[i];
        for (uint32_t b = 0; b < o->n_budget; b++) {
            ft_save_print(save, "%" PRIu32 ",", results->ctx[g->ctx]);
            put_quoted(save, results->task[g->task]);
            put(save, ",");
            put_quoted(save, results->method[g->method]);
            ft_save_print(save, ",%s,%s,%s,", number(o->r2, text[0]), number(o->r2_log, text[1]),
                          number(o->spearman, text[2]));
            ft_save_print(save, "%" PRIu32 ",%" PRIu32 ",%.4f,%.4f,%.4f,%.4f\n", o->budget[b],
                          o->n_sample[b], o->overlap[b].mean, o->overlap[b].low, o->overlap[b].high,
                          o->random[b]);
        }
    }
    ft_free(overlap);
    return FT_OK;
}

ft_status ft_importance_json(const struct ft_results *results, json_t **out,
                             struct ft_error *error) {
    struct ft_overlap *overlap;
    FT_TRY(overlaps_of(results, &overlap, error));
    json_t *list = json_array();
    for (uint32_t i = 0; i < results->n_group; i++) {
        const struct ft_group *g = &results->group[i];
        json_t *value = json_object();
        json_object_set_new(value, "task", json_string(results->task[g->task]));
        json_object_set_new(value, "ctx", json_integer(results->ctx[g->ctx]));
        json_object_set_new(value, "method", json_string(results->method[g->method]));
        ft_overlap_set(value, &overlap[i]);
        json_array_append_new(list, value);
    }
    ft_free(overlap);
    *out = list;
    return FT_OK;
}

/* ---- the page ---- */

static void html_text(struct ft_save *save, const char *tag, const char *text) {
    ft_save_print(save, "<%s>", tag);
    ft_save_text(save, text, strlen(text));
    ft_save_print(save, "</%s>", tag);
}

static void html_table(const struct ft_results *r, const struct ft_overlap *overlap, uint32_t c,
                       struct ft_save *save) {
    char text[3][16];
    ft_save_print(save, "<h2>%" PRIu32 " tokens</h2>\n<div class=\"wide\"><table>\n<tr>",
                  r->ctx[c]);
    put(save, "<th>method</th><th>task</th><th>samples</th><th>R&sup2;</th><th>R&sup2; of "
              "logarithms</th><th>rank correlation</th></tr>\n");
    for (uint32_t i = 0; i < r->n_group; i++) {
        const struct ft_group *g = &r->group[i];
        if (g->ctx != c) {
            continue;
        }
        put(save, "<tr>");
        html_text(save, "td", r->method[g->method]);
        html_text(save, "td", r->task[g->task]);
        ft_save_print(save, "<td>%" PRIu32 "</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
                      overlap[i].n, number(overlap[i].r2, text[0]),
                      number(overlap[i].r2_log, text[1]), number(overlap[i].spearman, text[2]));
    }
    put(save, "</table></div>\n");
}

/* A task at a length: a line for each estimator, and one for chance. */
static struct ft_plot_panel panel_of(const struct ft_results *r, const struct ft_overlap *overlap,
                                     uint32_t c, uint32_t task, struct ft_plot_point *point) {
    struct ft_plot_panel panel = { r->task[task], "% of the best", point, 0 };
    const struct ft_overlap *chance = NULL;
    for (uint32_t i = 0; i < r->n_group; i++) {
        const struct ft_group *g = &r->group[i];
        for (uint32_t b = 0; g->ctx == c && g->task == task && b < overlap[i].n_budget; b++) {
            const struct ft_interval *y = &overlap[i].overlap[b];
            chance = &overlap[i];
            point[panel.n_point++] = (struct ft_plot_point){ .series = r->method[g->method],
                                                             .x = overlap[i].budget[b],
                                                             .y = { y->mean, y->low, y->high } };
        }
    }
    for (uint32_t b = 0; chance && b < chance->n_budget; b++) {
        double y = chance->random[b];
        point[panel.n_point++] = (struct ft_plot_point){ .series = "by chance",
                                                         .x = chance->budget[b],
                                                         .y = { y, y, y } };
    }
    return panel;
}

static ft_status plot_overlap(const struct ft_results *r, const struct ft_overlap *overlap,
                              uint32_t c, struct ft_save *save, struct ft_error *error) {
    size_t cap = (size_t)(r->n_method + 1) * FT_BUDGETS_CAP;
    struct ft_plot_point *point = ft_alloc(r->n_task * cap, sizeof *point);
    struct ft_plot_panel *panel = ft_alloc(r->n_task, sizeof *panel);
    char title[64];
    snprintf(title, sizeof title, "Prompts of %" PRIu32 " tokens", r->ctx[c]);
    struct ft_plot plot = { .title = title,
                            .note = "share of the best tokens that are the same, with 95 % "
                                    "intervals; KV: means over layers and heads",
                            .x_title = "best tokens compared",
                            .panel = panel };
    ft_status status = FT_OK;
    if (point && panel) {
        for (uint32_t t = 0; t < r->n_task; t++) {
            panel[plot.n_panel] = panel_of(r, overlap, c, t, point + t * cap);
            plot.n_panel += panel[plot.n_panel].n_point > 0;
        }
        ft_plot_put(&plot, save);
    } else {
        status = ft_fail(error, FT_NOMEM, 0, "not enough memory to plot %u methods", r->n_method);
    }
    ft_free(point);
    ft_free(panel);
    return status;
}

/* The first sample of a length that has points. */
static void plot_points(const struct ft_results *r, const struct ft_overlap *overlap, uint32_t c,
                        struct ft_save *save) {
    double at[FT_POINTS_CAP][2];
    uint32_t i = 0;
    while (i < r->n_group && (r->group[i].ctx != c || !overlap[i].point)) {
        i++;
    }
    if (i == r->n_group) {
        return;
    }
    char title[160];
    const struct ft_group *g = &r->group[i];
    struct ft_plot_dots dots = { .title = title,
                                 .x_title = "score by the draft",
                                 .y_title = "score by the target",
                                 .note = "tokens of one prompt; those with a score of 0 are not "
                                         "shown",
                                 .at = at };
    snprintf(title, sizeof title, "%.60s on %.40s, %" PRIu32 " tokens", r->method[g->method],
             r->task[g->task], r->ctx[c]);
    size_t k;
    json_t *point;
    json_array_foreach(overlap[i].point, k, point) {
        if (dots.n < FT_POINTS_CAP) {
            at[dots.n][0] = json_number_value(json_array_get(point, 0));
            at[dots.n++][1] = json_number_value(json_array_get(point, 1));
        }
    }
    ft_plot_dots_put(&dots, save);
}

ft_status ft_importance_html(const struct ft_results *results, struct ft_save *save,
                             struct ft_error *error) {
    struct ft_overlap *overlap;
    FT_TRY(overlaps_of(results, &overlap, error));
    put(save,
        "\n<p>How far an estimator ranks a prompt's tokens as the target itself does. A prompt "
        "method's scores by the draft are compared with the same formula's by the target; "
        "scores of KV rows with those that the target's own answer gives.</p>\n");
    ft_status status = FT_OK;
    for (uint32_t c = 0; c < results->n_ctx && status == FT_OK; c++) {
        html_table(results, overlap, c, save);
        status = plot_overlap(results, overlap, c, save, error);
        plot_points(results, overlap, c, save);
    }
    ft_free(overlap);
    return status;
}
