/* SPDX-License-Identifier: Apache-2.0 */
/* plot.c - measurements as SVG: log2 of tokens, rows or bytes across, what was measured upwards;
 * and scores over two lists of numbers as a heat map.
 *
 * Colours are middle tones that read on white and on black; text and grid take theirs from a style
 * sheet that follows the reader's scheme.  The background stays transparent.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "eval/eval.h"

enum {
    WIDTH = 760,
    LEFT = 64,
    RIGHT = 20,
    TOP = 52,
    PANEL = 260, /* height of the field of one panel */
    GAP = 64,    /* between two fields: axis numbers, and the title of the next */
    SERIES_CAP = 64,
    LEGEND = 20, /* height of a line */
    LABELS = 10, /* of octaves, at most about so many */
};

static const char *const colour[] = { "#2f7fd6", "#e0702f", "#2f9e62", "#a45bd0",
                                      "#c9434f", "#8a8f2a", "#2a9aa8", "#b0709a",
                                      "#7a6a55", "#5b6ee0", "#d09a1f", "#6f8f8f",
                                      "#e0559a", "#58b04a", "#9a4a2f", "#7f8fb8" };

/* Kinds of lines; the colours come again with others. */
static const char *const dash[] = {
    "none",        "6 4",  "2 3", "9 3 2 3",  "14 3 2 3", "1 5",
    "9 3 2 3 2 3", "16 5", "4 2", "12 2 4 2", "1 2",      "20 4 2 4"
};

struct scale {
    double x_low, x_high, y_high, y_step;
    double zero;              /* where x = 0 stands, in octaves */
    uint32_t x_first, x_last; /* octaves with a line */
    bool is_bytes;
};

struct series {
    const char *name[SERIES_CAP];
    uint32_t hue[SERIES_CAP], line[SERIES_CAP]; /* of colour and dash, without end */
    uint32_t n, n_hue, n_line;                  /* n_line: at least 1 */
    bool is_full;                               /* there are more than have room */
};

/* ---- text ---- */

static void put_label(struct ft_save *save, double x, double y, const char *kind,
                      const char *text) {
    ft_save_print(save, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", kind, x, y);
    ft_save_text(save, text, strlen(text));
    ft_save_print(save, "</text>\n");
}

/* 4096 -> "4K" */
static void tokens_text(uint64_t n, char out[24]) {
    if (n >= 1024 && n % 1024 == 0) {
        snprintf(out, 24, "%" PRIu64 "K", n / 1024);
    } else {
        snprintf(out, 24, "%" PRIu64, n);
    }
}

/* 2^16 -> "64K", or "64 KiB" */
static void octave_text(uint32_t octave, bool is_bytes, char out[24]) {
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    if (is_bytes) {
        snprintf(out, 24, "%u %s", 1u << octave % 10, unit[octave / 10]);
    } else {
        tokens_text(UINT64_C(1) << octave, out);
    }
}

/* ---- scales ---- */

static double octave(const struct scale *scale, uint64_t x) {
    return x == 0 ? scale->zero : log2((double)x);
}

/* A step of 1, 2 or 5 times a power of ten that gives four to nine lines. */
static double step_of(double high) {
    double step = pow(10, floor(log10(high / 4)));
    return high / step >= 20 ? 5 * step : high / step >= 8 ? 2 * step : step;
}

static struct scale scale_x(const struct ft_plot *plot) {
    uint64_t low = UINT64_MAX, high = 0;
    bool has_zero = false;
    for (uint32_t p = 0; p < plot->n_panel; p++) {
        for (uint32_t i = 0; i < plot->panel[p].n_point; i++) {
            uint64_t x = plot->panel[p].point[i].x;
            has_zero = has_zero || x == 0;
            low = x > 0 ? FT_MIN(low, x) : low;
            high = FT_MAX(high, x);
        }
    }
    high = FT_MAX(high, (uint64_t)1);
    struct scale scale = { .x_first = (uint32_t)floor(log2((double)FT_MIN(low, high))),
                           .x_last = (uint32_t)ceil(log2((double)high)),
                           .is_bytes = plot->is_bytes };
    scale.zero = scale.x_first - 1.0;
    scale.x_low = has_zero ? scale.zero : scale.x_first;
    scale.x_high = FT_MAX((double)scale.x_last, scale.x_low + 1);
    return scale;
}

static void scale_y(struct scale *scale, const struct ft_plot_panel *panel) {
    double high = 0;
    for (uint32_t i = 0; i < panel->n_point; i++) {
        high = FT_MAX(high, panel->point[i].y.high);
    }
    high = high > 0 && isfinite(high) ? high : 1;
    scale->y_step = step_of(high);
    scale->y_high = ceil(high / scale->y_step) * scale->y_step;
}

static double place_x(const struct scale *scale, uint64_t x) {
    double share = (octave(scale, x) - scale->x_low) / (scale->x_high - scale->x_low);
    return LEFT + share * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct scale *scale, double y, double top) {
    double share = isfinite(y) ? y / scale->y_high : 0;
    return top + PANEL * (1 - FT_MIN(FT_MAX(share, 0.0), 1.0));
}

/* ---- drawing ---- */

/* "snapkv q4" is "snapkv" by another line: characters of the name that the colour stands for. */
static size_t hue_length(const char *name, const char *line) {
    size_t n = strlen(name), n_line = line ? strlen(line) : 0;
    bool has_line = line && n > n_line + 1 && name[n - n_line - 1] == ' ' &&
                    strcmp(name + n - n_line, line) == 0;
    return has_line ? n - n_line - 1 : n;
}

/* The number of a text among those met so far. */
static uint32_t line_number(const char *met[SERIES_CAP], uint32_t *n, const char *line) {
    uint32_t i = 0;
    while (i < *n && strcmp(met[i], line) != 0) {
        i++;
    }
    if (i == *n) {
        met[(*n)++] = line;
    }
    return i;
}

static void add_series(struct series *series, const struct ft_plot_point *point,
                       size_t n_hue[SERIES_CAP], uint32_t line) {
    uint32_t at = series->n++, s = 0;
    n_hue[at] = hue_length(point->series, point->line);
    series->name[at] = point->series;
    series->line[at] = line;
    while (s < at &&
           (n_hue[s] != n_hue[at] || strncmp(series->name[s], series->name[at], n_hue[at]) != 0)) {
        s++;
    }
    series->hue[at] = s < at ? series->hue[s] : series->n_hue++;
}

static void collect(const struct ft_plot *plot, struct series *series) {
    const char *met[SERIES_CAP];
    size_t n_hue[SERIES_CAP];
    uint32_t n_met = 0;
    for (uint32_t p = 0; p < plot->n_panel; p++) {
        for (uint32_t i = 0; i < plot->panel[p].n_point; i++) {
            const struct ft_plot_point *point = &plot->panel[p].point[i];
            uint32_t s = 0;
            while (s < series->n && strcmp(series->name[s], point->series) != 0) {
                s++;
            }
            if (s == series->n && s < SERIES_CAP) {
                add_series(series, point, n_hue,
                           point->line ? line_number(met, &n_met, point->line) : 0);
            } else if (s == series->n) {
                series->is_full = true;
            }
        }
    }
    series->n_line = FT_MAX(n_met, 1u);
}

static void put_grid(struct ft_save *save, const struct scale *scale, double top) {
    char text[24];
    for (uint32_t i = 0; i * scale->y_step <= scale->y_high * 1.0001; i++) {
        double y = place_y(scale, i * scale->y_step, top);
        ft_save_print(save, "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n",
                      LEFT, y, WIDTH - RIGHT, y);
        snprintf(text, sizeof text, "%g", i * scale->y_step);
        put_label(save, LEFT - 8, y + 4, "end", text);
    }
    if (scale->x_low < scale->x_first) {
        put_label(save, LEFT, top + PANEL + 18, "mid", "0");
    }
    uint32_t every = 1 + (scale->x_last - scale->x_first) / LABELS;
    for (uint32_t o = scale->x_first; o <= scale->x_last && o < 64; o++) {
        double x = place_x(scale, UINT64_C(1) << o);
        ft_save_print(save,
                      "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x,
                      top, x, top + PANEL);
        octave_text(o, scale->is_bytes, text);
        if ((o - scale->x_first) % every == 0) {
            put_label(save, x, top + PANEL + 18, "mid", text);
        }
    }
}

static const char *ink_of(const struct series *series, uint32_t s) {
    return colour[series->hue[s] % FT_COUNT(colour)];
}

static const char *dash_of(const struct series *series, uint32_t s) {
    uint32_t again = series->hue[s] / (uint32_t)FT_COUNT(colour);
    return dash[(series->line[s] + again * series->n_line) % FT_COUNT(dash)];
}

/* A line through the medians, and at each a bar from the lowest to the highest value. */
static void put_series(struct ft_save *save, const struct scale *scale,
                       const struct ft_plot_panel *panel, const struct series *series, uint32_t s,
                       double top) {
    const char *name = series->name[s], *ink = ink_of(series, s);
    char text[24];
    ft_save_print(save,
                  "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" "
                  "stroke-dasharray=\"%s\" points=\"",
                  ink, dash_of(series, s));
    for (uint32_t i = 0; i < panel->n_point; i++) {
        const struct ft_plot_point *point = &panel->point[i];
        if (strcmp(point->series, name) == 0) {
            ft_save_print(save, "%.1f,%.1f ", place_x(scale, point->x),
                          place_y(scale, point->y.median, top));
        }
    }
    ft_save_print(save, "\"/>\n");
    for (uint32_t i = 0; i < panel->n_point; i++) {
        const struct ft_plot_point *point = &panel->point[i];
        if (strcmp(point->series, name) != 0) {
            continue;
        }
        double x = place_x(scale, point->x), y = place_y(scale, point->y.median, top);
        ft_save_print(save,
                      "<line stroke=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
                      "<circle fill=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>",
                      ink, x, place_y(scale, point->y.low, top), x,
                      place_y(scale, point->y.high, top), ink, x, y);
        ft_save_text(save, name, strlen(name));
        snprintf(text, sizeof text, "%" PRIu64, point->x);
        ft_save_print(save, ", %s: %.2f %s</title></circle>\n",
                      scale->is_bytes ? ft_size_text(point->x, text) : text,
                      isfinite(point->y.median) ? point->y.median : 0.0, panel->unit);
    }
}

static void put_legend(struct ft_save *save, const struct series *series, double top) {
    for (uint32_t s = 0; s < series->n; s++) {
        double y = top + s * LEGEND;
        ft_save_print(save,
                      "<line stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\" x1=\"%d\" "
                      "y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n",
                      ink_of(series, s), dash_of(series, s), LEFT, y - 4, LEFT + 40, y - 4);
        put_label(save, LEFT + 48, y, "name", series->name[s]);
    }
    if (series->is_full) {
        put_label(save, LEFT + 48, top + series->n * LEGEND, "name",
                  "more are there than are drawn");
    }
}

static const char style[] =
    "<style>text{font:13px sans-serif;fill:#24292f}.head{font-size:15px;font-weight:bold}"
    ".end{text-anchor:end}.mid{text-anchor:middle}.note{font-size:11px}"
    ".grid{stroke:#8c959f;stroke-opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>\n";

void ft_plot_put(const struct ft_plot *plot, struct ft_save *save) {
    struct series series = { .n = 0 };
    collect(plot, &series);
    struct scale scale = scale_x(plot);
    double bottom = TOP + plot->n_panel * (PANEL + GAP) - GAP + 44;
    double height = bottom + (series.n + series.is_full) * LEGEND + 24;
    ft_save_print(save,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" "
                  "height=\"%.0f\">\n%s",
                  WIDTH, height, WIDTH, height, style);
    put_label(save, LEFT, 18, "head", plot->title);
    for (uint32_t p = 0; p < plot->n_panel; p++) {
        double top = TOP + p * (PANEL + GAP);
        scale_y(&scale, &plot->panel[p]);
        put_label(save, LEFT, top - 10, "name", plot->panel[p].title);
        put_grid(save, &scale, top);
        for (uint32_t s = 0; s < series.n; s++) {
            put_series(save, &scale, &plot->panel[p], &series, s, top);
        }
    }
    put_label(save, WIDTH - RIGHT, bottom - 6, "end", plot->x_title);
    put_legend(save, &series, bottom + 12);
    put_label(save, LEFT, height - 8, "note", plot->note);
    ft_save_print(save, "</svg>\n");
}

/* ---- dots ---- */

struct decades { /* of an axis: powers of ten that hold every value */
    int first, last;
};

static bool has_place(const double at[2]) {
    return at[0] > 0 && at[1] > 0 && isfinite(at[0]) && isfinite(at[1]);
}

static struct decades decades_of(const struct ft_plot_dots *dots, int axis) {
    double low = INFINITY, high = -INFINITY;
    for (uint32_t i = 0; i < dots->n; i++) {
        if (has_place(dots->at[i])) {
            low = FT_MIN(low, dots->at[i][axis]);
            high = FT_MAX(high, dots->at[i][axis]);
        }
    }
    if (low > high) {
        return (struct decades){ -1, 0 };
    }
    struct decades d = { (int)floor(log10(low)), (int)ceil(log10(high)) };
    d.last = FT_MAX(d.last, d.first + 1);
    return d;
}

static double share_of(const struct decades *d, double log_value) {
    return (log_value - d->first) / (d->last - d->first);
}

enum { DOTS = 420 }; /* a square field */

static double dot_x(const struct decades *d, double log_value) {
    return LEFT + DOTS * share_of(d, log_value);
}

static double dot_y(const struct decades *d, double log_value) {
    return TOP + DOTS * (1 - share_of(d, log_value));
}

static void put_decades(struct ft_save *save, const struct decades *x, const struct decades *y) {
    char text[24];
    for (int e = x->first; e <= x->last; e++) {
        ft_save_print(save, "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n",
                      dot_x(x, e), TOP, dot_x(x, e), TOP + DOTS);
        snprintf(text, sizeof text, "1e%d", e);
        put_label(save, dot_x(x, e), TOP + DOTS + 18, "mid", text);
    }
    for (int e = y->first; e <= y->last; e++) {
        ft_save_print(save, "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n",
                      LEFT, dot_y(y, e), LEFT + DOTS, dot_y(y, e));
        snprintf(text, sizeof text, "1e%d", e);
        put_label(save, LEFT - 8, dot_y(y, e) + 4, "end", text);
    }
}

void ft_plot_dots_put(const struct ft_plot_dots *dots, struct ft_save *save) {
    const int height = TOP + DOTS + 72;
    struct decades x = decades_of(dots, 0), y = decades_of(dots, 1);
    ft_save_print(save,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
                  "height=\"%d\">\n%s",
                  WIDTH, height, WIDTH, height, style);
    put_label(save, LEFT, 18, "head", dots->title);
    put_label(save, LEFT, TOP - 10, "name", dots->y_title);
    put_decades(save, &x, &y);
    for (uint32_t i = 0; i < dots->n; i++) {
        if (has_place(dots->at[i])) {
            ft_save_print(save,
                          "<circle fill=\"%s\" fill-opacity=\".55\" cx=\"%.1f\" cy=\"%.1f\" "
                          "r=\"2.5\"/>\n",
                          colour[0], dot_x(&x, log10(dots->at[i][0])),
                          dot_y(&y, log10(dots->at[i][1])));
        }
    }
    put_label(save, LEFT + DOTS, TOP + DOTS + 38, "end", dots->x_title);
    put_label(save, LEFT, height - 8, "note", dots->note);
    ft_save_print(save, "</svg>\n");
}

ft_status ft_plot_save(const struct ft_plot *plot, const char *path, struct ft_error *error) {
    struct ft_save *save = NULL;
    FT_TRY(ft_save_open(path, &save, error));
    ft_plot_put(plot, save);
    return ft_save_done(save, true, error);
}

/* ---- heat maps ---- */

enum { CELL_WIDTH = 84, CELL_HEIGHT = 26, GRID_LEFT = 76, GRID_TOP = 78 };

/* One hue, lighter for less; the number says it to whoever sees no colours. */
static void put_square(struct ft_save *save, const struct ft_heat_map *grid, uint32_t i,
                       uint32_t j) {
    const struct ft_spread *s = &grid->cell[(size_t)j * grid->n_x + i];
    double x = GRID_LEFT + i * CELL_WIDTH, y = GRID_TOP + j * CELL_HEIGHT;
    char text[24];
    if (!isfinite(s->median)) {
        ft_save_print(save,
                      "<rect class=\"grid\" fill=\"none\" x=\"%.0f\" y=\"%.0f\" width=\"%d\" "
                      "height=\"%d\"/>\n",
                      x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2);
        return;
    }
    ft_save_print(save,
                  "<rect fill=\"%s\" fill-opacity=\"%.3f\" x=\"%.0f\" y=\"%.0f\" width=\"%d\" "
                  "height=\"%d\"><title>%" PRIu32 " %%, %" PRIu32
                  " tokens: %.1f [%.1f, %.1f]</title></rect>\n",
                  colour[0], 0.05 + 0.70 * FT_MIN(FT_MAX(s->median, 0.0), 100.0) / 100, x, y,
                  CELL_WIDTH - 2, CELL_HEIGHT - 2, grid->y[j], grid->x[i], s->median, s->low,
                  s->high);
    snprintf(text, sizeof text, "%.0f", s->median);
    put_label(save, x + CELL_WIDTH / 2 - 1, y + CELL_HEIGHT / 2 + 4, "mid", text);
}

void ft_heat_map_put(const struct ft_heat_map *grid, struct ft_save *save) {
    double width = FT_MAX(GRID_LEFT + (double)grid->n_x * CELL_WIDTH + RIGHT, (double)WIDTH);
    double height = GRID_TOP + (double)grid->n_y * CELL_HEIGHT + 32;
    char text[24];
    ft_save_print(save,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
                  "width=\"%.0f\" height=\"%.0f\">\n%s",
                  width, height, width, height, style);
    put_label(save, 8, 18, "head", grid->title);
    put_label(save, GRID_LEFT, 42, "name", grid->x_title);
    put_label(save, 8, GRID_TOP - 12, "name", grid->y_title);
    for (uint32_t i = 0; i < grid->n_x; i++) {
        tokens_text(grid->x[i], text);
        put_label(save, GRID_LEFT + (i + 0.5) * CELL_WIDTH, GRID_TOP - 12, "mid", text);
    }
    for (uint32_t j = 0; j < grid->n_y; j++) {
        snprintf(text, sizeof text, "%" PRIu32 " %%", grid->y[j]);
        put_label(save, GRID_LEFT - 10, GRID_TOP + j * CELL_HEIGHT + CELL_HEIGHT / 2 + 4, "end",
                  text);
        for (uint32_t i = 0; i < grid->n_x; i++) {
            put_square(save, grid, i, j);
        }
    }
    put_label(save, 8, height - 10, "note", grid->note);
    ft_save_print(save, "</svg>\n");
}
