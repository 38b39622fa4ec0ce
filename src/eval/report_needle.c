/* SPDX-License-Identifier: Apache-2.0 */
/* report_needle.c - results of `foretoken eval needle` as grids: depths down, lengths across, one
 * for each method. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "eval/results.h"

enum { TITLE_CAP = 320 };

static bool has_method(const struct ft_results *r, uint32_t method) {
    for (uint32_t i = 0; i < r->n_grid; i++) {
        for (uint32_t c = 0; c < r->n_ctx; c++) {
            if (ft_results_group(r, r->grid[i], c, method)) {
                return true;
            }
        }
    }
    return false;
}

/* ---- Markdown ---- */

static void markdown_grid(const struct ft_results *r, uint32_t method, struct ft_save *save) {
    ft_save_print(save, "\nScores over depth and length, `%s`\n\n| depth |", r->method[method]);
    for (uint32_t c = 0; c < r->n_ctx; c++) {
        ft_save_print(save, " %" PRIu32 " |", r->ctx[c]);
    }
    ft_save_print(save, "\n| ---: |");
    for (uint32_t c = 0; c < r->n_ctx; c++) {
        ft_save_print(save, " ---: |");
    }
    for (uint32_t i = 0; i < r->n_grid; i++) {
        ft_save_print(save, "\n| %" PRId32 " %% |", r->depth[r->grid[i]]);
        for (uint32_t c = 0; c < r->n_ctx; c++) {
            const struct ft_group *g = ft_results_group(r, r->grid[i], c, method);
            ft_save_print(save, g ? " %.1f |" : "  |", g ? g->score.mean : 0.0);
        }
    }
    ft_save_print(save, "\n");
}

void ft_report_grid_markdown(const struct ft_results *results, struct ft_save *save) {
    for (uint32_t m = 0; m < results->n_method; m++) {
        if (has_method(results, m)) {
            markdown_grid(results, m, save);
        }
    }
}

/* ---- HTML ---- */

/* cell [n_grid][n_ctx], depth [n_grid]: room to work in. */
static void html_grid(const struct ft_results *r, uint32_t method, struct ft_spread *cell,
                      uint32_t *depth, struct ft_save *save) {
    char title[TITLE_CAP];
    for (uint32_t i = 0; i < r->n_grid; i++) {
        depth[i] = (uint32_t)r->depth[r->grid[i]];
        for (uint32_t c = 0; c < r->n_ctx; c++) {
            const struct ft_group *g = ft_results_group(r, r->grid[i], c, method);
            cell[(size_t)i * r->n_ctx + c] =
                g ? (struct ft_spread){ g->score.mean, g->score.low, g->score.high }
                  : (struct ft_spread){ NAN, NAN, NAN };
        }
    }
    snprintf(title, sizeof title, "%.300s", r->method[method]);
    const struct ft_heat_map grid = { .title = title,
                                      .note = "share of needles found, percent",
                                      .x_title = "tokens of a prompt with room for its answer",
                                      .y_title = "depth",
                                      .x = r->ctx,
                                      .y = depth,
                                      .cell = cell,
                                      .n_x = r->n_ctx,
                                      .n_y = r->n_grid };
    ft_heat_map_put(&grid, save);
}

ft_status ft_report_grid_html(const struct ft_results *results, struct ft_save *save,
                              struct ft_error *error) {
    if (results->n_grid == 0) {
        return FT_OK;
    }
    struct ft_spread *cell = ft_alloc((size_t)results->n_grid * results->n_ctx, sizeof *cell);
    uint32_t *depth = ft_alloc(results->n_grid, sizeof *depth);
    ft_status status = FT_OK;
    if (cell && depth) {
        ft_save_print(save, "<h2>Depth and length</h2>\n");
        for (uint32_t m = 0; m < results->n_method; m++) {
            if (has_method(results, m)) {
                html_grid(results, m, cell, depth, save);
            }
        }
    } else {
        status =
            ft_fail(error, FT_NOMEM, 0, "not enough memory to plot %u depths", results->n_grid);
    }
    ft_free(cell);
    ft_free(depth);
    return status;
}
