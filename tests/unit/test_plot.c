/* SPDX-License-Identifier: Apache-2.0 */
/* test_plot.c - plots are well-formed SVG whatever is measured; files appear whole or not at
 * all. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/eval.h"

#define FILE_PATH FT_TEST_SCRATCH_DIR "/out.svg"

static char *read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

/* Tags nest, attributes are quoted, '&' begins one of the entities we use. */
static void assert_well_formed(const char *text) {
    char open[16][24];
    int depth = 0, n_root = 0;
    for (const char *at = text; *at; at++) {
        if (*at == '&') {
            assert_true(strncmp(at, "&lt;", 4) == 0 || strncmp(at, "&gt;", 4) == 0 ||
                        strncmp(at, "&amp;", 5) == 0);
        }
        assert_true((unsigned char)*at >= 32 || *at == '\n');
        if (*at != '<') {
            continue;
        }
        const char *end = strchr(at, '>');
        assert_non_null(end);
        size_t n = strcspn(at + 1 + (at[1] == '/'), " />");
        assert_true(n > 0 && n < sizeof(open[0]));
        if (at[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_memory_equal(open[depth], at + 2, n);
        } else if (end[-1] != '/') {
            assert_true(depth < 16);
            n_root += depth == 0;
            memset(open[depth], 0, sizeof(open[0]));
            memcpy(open[depth++], at + 1, n);
        }
        unsigned n_quote = 0;
        for (const char *c = at; c < end; c++) {
            n_quote += *c == '"';
        }
        assert_int_equal(n_quote % 2, 0);
        at = end;
    }
    assert_int_equal(depth, 0);
    assert_int_equal(n_root, 1);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
}

static char *plotted(const struct ft_plot_point *a, uint32_t n_a, const struct ft_plot_point *b,
                     uint32_t n_b) {
    struct ft_plot_panel panel[] = { { "prefill", "tok/s", a, n_a },
                                     { "decode", "tok/s", b, n_b } };
    struct ft_plot plot = { "a <b> & \"c\"", "note\n\xff", "tokens", panel, 2, false };
    struct ft_error err = { .code = FT_OK };
    if (ft_plot_save(&plot, FILE_PATH, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    char *text = read_all(FILE_PATH);
    assert_well_formed(text);
    return text;
}

static struct ft_spread all(double value) {
    return (struct ft_spread){ value, value * 0.9, value * 1.1 };
}

/* y of the k-th point of the first series of a text */
static double height(const char *text, int k) {
    const char *at = strstr(text, "points=\"");
    assert_non_null(at);
    for (at += 8; k > 0; k--) {
        at = strchr(at, ' ') + 1;
    }
    return strtod(strchr(at, ',') + 1, NULL);
}

static double across(const char *text, int k) {
    const char *at = strstr(text, "points=\"") + 8;
    for (; k > 0; k--) {
        at = strchr(at, ' ') + 1;
    }
    return strtod(at, NULL);
}

static void test_plot(void **state) {
    (void)state;
    struct ft_plot_point point[] = {
        { "ours & <theirs>", 0, all(200), NULL },    { "libllama", 0, all(100), NULL },
        { "ours & <theirs>", 4096, all(100), NULL }, { "libllama", 4096, all(50), NULL },
        { "ours & <theirs>", 8192, all(50), NULL },  { "libllama", 8192, all(1), NULL },
        { "ours & <theirs>", 16384, all(25), NULL },
    };
    char *text = plotted(point, 7, point, 7);
    assert_non_null(strstr(text, "ours &amp; &lt;theirs&gt;"));
    assert_non_null(strstr(text, ">16K<"));
    /* higher is faster, in proportion from zero; octaves are equally far apart */
    double zero = height(text, 3) + (height(text, 2) - height(text, 1));
    assert_true(fabs(height(text, 1) - height(text, 0) - 2 * (height(text, 2) - height(text, 1))) <
                0.3);
    assert_true(zero > height(text, 3) && height(text, 3) > height(text, 2));
    assert_true(fabs(across(text, 3) - across(text, 2) - (across(text, 2) - across(text, 1))) <
                0.3);
    assert_true(across(text, 0) < across(text, 1));
    free(text);
}

/* Decades are equally far apart on both axes; what has no logarithm is left out. */
static void test_dots(void **state) {
    double at[][2] = { { 0.01, 1 }, { 0.1, 10 }, { 1, 100 }, { 0, 5 }, { -1, 5 }, { 5, INFINITY } };
    struct ft_plot_dots dots = {
        .title = "a <b>", .note = "", .x_title = "x", .y_title = "y", .at = at, .n = 6
    };
    double cx[3], cy[3];
    (void)state;
    for (uint32_t n = 6; n > 2; n -= 3) { /* all of them, then the first three */
        struct ft_save *save = NULL;
        dots.n = n;
        assert_int_equal(ft_save_open(FILE_PATH, &save, NULL), FT_OK);
        ft_plot_dots_put(&dots, save);
        assert_int_equal(ft_save_done(save, true, NULL), FT_OK);
        char *text = read_all(FILE_PATH), *circle = text;
        assert_well_formed(text);
        for (int i = 0; i < 3; i++) {
            circle = strstr(circle + 1, "<circle");
            assert_non_null(circle);
            cx[i] = strtod(strstr(circle, "cx=\"") + 4, NULL);
            cy[i] = strtod(strstr(circle, "cy=\"") + 4, NULL);
        }
        assert_null(strstr(circle + 1, "<circle"));
        assert_true(fabs(cx[2] - cx[1] - (cx[1] - cx[0])) < 0.3 && cx[1] > cx[0]);
        assert_true(fabs(cy[2] - cy[1] - (cy[1] - cy[0])) < 0.3 && cy[1] < cy[0]);
        assert_non_null(strstr(text, ">1e-2<"));
        free(text);
    }
}

/* Nothing to show, one value alone. */
static void test_odd_dots(void **state) {
    double at[][2] = { { 0, 1 }, { 3, 3 } };
    struct ft_plot_dots dots = {
        .title = "t", .note = "", .x_title = "x", .y_title = "y", .at = at
    };
    (void)state;
    for (dots.n = 0; dots.n <= 2; dots.n++) {
        struct ft_save *save = NULL;
        assert_int_equal(ft_save_open(FILE_PATH, &save, NULL), FT_OK);
        ft_plot_dots_put(&dots, save);
        assert_int_equal(ft_save_done(save, true, NULL), FT_OK);
        char *text = read_all(FILE_PATH);
        assert_well_formed(text);
        assert_true((strstr(text, "<circle") != NULL) == (dots.n == 2));
        free(text);
    }
}

static void test_odd_plots(void **state) {
    (void)state;
    struct ft_plot_point odd[] = { { "x", 0, { 0, 0, 0 }, NULL },
                                   { "y", 1, { NAN, -1, INFINITY }, NULL },
                                   { "", UINT32_MAX, { 1e9, 1e-9, 1e12 }, NULL } };
    for (uint32_t n = 0; n <= 3; n++) {
        free(plotted(odd, n, odd + 3 - n, n));
    }
    enum { DRAWN = 64, MANY = DRAWN + 8 };
    char name[MANY][8];
    struct ft_plot_point many[MANY];
    for (uint32_t i = 0; i < MANY; i++) { /* more series than colours, and than are drawn */
        snprintf(name[i], sizeof(name[i]), "s%u", i);
        many[i] = (struct ft_plot_point){ name[i], 100 + i, all(i + 1), NULL };
    }
    char *text = plotted(many, MANY, many, MANY);
    assert_non_null(strstr(text, "more are there than are drawn"));
    /* kinds of lines in sixteen colours: no two series look alike */
    assert_non_null(strstr(text, "#2f7fd6\" stroke-width=\"2\" stroke-dasharray=\"none\" points="));
    assert_non_null(strstr(text, "#2f7fd6\" stroke-width=\"2\" stroke-dasharray=\"6 4\" points="));
    assert_non_null(
        strstr(text, "#2f7fd6\" stroke-width=\"2\" stroke-dasharray=\"9 3 2 3\" points="));
    free(text);
    text = plotted(many, DRAWN, many, DRAWN);
    assert_null(strstr(text, "more are there"));
    free(text);
}

/* A method and the same in other formats have one colour, a format one kind of line. */
static void test_lines(void **state) {
    (void)state;
    const struct ft_plot_point point[] = { { "dense", 64, all(9), "f16" },
                                           { "dense q4", 32, all(8), "q4" },
                                           { "h2o q4", 16, all(7), "q4" },
                                           { "h2o", 32, all(6), "f16" },
                                           { "h2o q4 more", 32, all(6), "f16" } };
    char *text = plotted(point, 5, point, 5);
    static const char *const looks[] = {
        "#2f7fd6\" stroke-width=\"2\" stroke-dasharray=\"none\" x1",
        "#2f7fd6\" stroke-width=\"2\" stroke-dasharray=\"6 4\" x1",
        "#e0702f\" stroke-width=\"2\" stroke-dasharray=\"6 4\" x1",
        "#e0702f\" stroke-width=\"2\" stroke-dasharray=\"none\" x1",
        "#2f9e62\" stroke-width=\"2\" stroke-dasharray=\"none\" x1"
    };
    const char *at = text;
    for (size_t i = 0; i < FT_COUNT(looks); i++) { /* in the legend, in this order */
        at = strstr(at, looks[i]);
        assert_non_null(at);
    }
    free(text);
}

/* Bytes across, beyond 32 bits too: octaves with their unit, not too many of them. */
static void test_bytes(void **state) {
    (void)state;
    const struct ft_plot_point point[] = { { "dense", UINT64_C(1) << 33, all(100), NULL },
                                           { "snapkv", UINT64_C(1) << 16, all(50), NULL },
                                           { "snapkv", UINT64_C(3) << 19, all(75), NULL } };
    const struct ft_plot_panel panel = { "score", "points", point, 3 };
    const struct ft_plot plot = { .title = "t",
                                  .note = "n",
                                  .x_title = "bytes",
                                  .panel = &panel,
                                  .n_panel = 1,
                                  .is_bytes = true };
    assert_int_equal(ft_plot_save(&plot, FILE_PATH, NULL), FT_OK);
    char *text = read_all(FILE_PATH);
    assert_well_formed(text);
    assert_non_null(strstr(text, ">64 KiB<"));
    assert_non_null(strstr(text, ">1 GiB<"));
    assert_null(strstr(text, ">128 KiB<"));
    assert_non_null(strstr(text, "<title>snapkv, 1.5 MiB: 75.00 points</title>"));
    assert_non_null(strstr(text, "<title>dense, 8.00 GiB: 100.00 points</title>"));
    free(text);
}

/* ---- heat maps ---- */

/* "fill-opacity" of the square whose tooltip begins so. */
static double shade(const char *text, const char *tooltip) {
    const char *at = strstr(text, tooltip);
    assert_non_null(at);
    while (strncmp(at, "fill-opacity=\"", 14) != 0) {
        assert_true(at > text);
        at--;
    }
    return strtod(at + 14, NULL);
}

static void test_grids(void **state) {
    (void)state;
    const uint32_t x[] = { 1024, 1500, 131072 }, y[] = { 0, 100 };
    const struct ft_spread cell[] = { { 0, 0, 9 },  { 50, 40, 60 },    { 100, 90, 100 },
                                      { 25, 1, 7 }, { NAN, NAN, NAN }, { 1e9, -1, INFINITY } };
    struct ft_heat_map grid = { .title = "a <b> & c",
                                .note = "note",
                                .x_title = "tokens",
                                .y_title = "depth",
                                .x = x,
                                .y = y,
                                .cell = cell,
                                .n_x = 3,
                                .n_y = 2 };
    struct ft_error err = { .code = FT_OK };
    struct ft_save *save = NULL;
    assert_int_equal(ft_save_open(FILE_PATH, &save, &err), FT_OK);
    ft_heat_map_put(&grid, save);
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    char *text = read_all(FILE_PATH);
    /* five squares that were measured, in their places, darker for more */
    uint32_t n = 0;
    for (const char *at = strstr(text, "<title>"); at; at = strstr(at + 1, "<title>")) {
        n++;
    }
    assert_int_equal(n, 5);
    double low = shade(text, "0 %, 1024 tokens: 0.0 [0.0, 9.0]");
    double quarter = shade(text, "100 %, 1024 tokens: 25.0 [1.0, 7.0]");
    double middle = shade(text, "0 %, 1500 tokens: 50.0 [40.0, 60.0]");
    double high = shade(text, "0 %, 131072 tokens: 100.0 [90.0, 100.0]");
    assert_true(0 < low && low < quarter && quarter < middle && middle < high && high < 1);
    assert_true(fabs(high - middle - (middle - low)) < 0.002);
    assert_non_null(strstr(text, ">128K<"));
    assert_non_null(strstr(text, ">1500<"));
    assert_non_null(strstr(text, "a &lt;b&gt; &amp; c"));
    assert_null(strstr(text, "nan"));
    free(text);
    grid.n_x = grid.n_y = 1;
    assert_int_equal(ft_save_open(FILE_PATH, &save, &err), FT_OK);
    ft_heat_map_put(&grid, save);
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    text = read_all(FILE_PATH);
    assert_well_formed(text);
    free(text);
}

/* ---- files ---- */

static void assert_holds(const char *path, const char *want) {
    char *text = read_all(path);
    assert_string_equal(text, want);
    free(text);
}

static void test_save(void **state) {
    (void)state;
    const char *path = FT_TEST_SCRATCH_DIR "/file";
    struct ft_error err = { .code = FT_OK };
    struct ft_save *save = NULL, *second = NULL;
    assert_int_equal(ft_save_open(path, &save, &err), FT_OK);
    ft_save_print(save, "%d", 12);
    ft_save_write(save, "3", 1);
    assert_int_equal(ft_save_open(path, &second, &err), FT_IO); /* one writer at a time */
    assert_non_null(strstr(err.text, "another process"));
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    assert_holds(path, "123");
    assert_int_equal(ft_save_open(path, &save, &err), FT_OK);
    ft_save_print(save, "lost");
    assert_holds(path, "123"); /* what is being written does not show */
    assert_int_equal(ft_save_done(save, false, &err), FT_OK);
    assert_holds(path, "123");
    assert_int_equal(access(FT_TEST_SCRATCH_DIR "/file.foretoken-part", F_OK), -1);
    /* a part that an interrupted run left */
    FILE *file = fopen(FT_TEST_SCRATCH_DIR "/file.foretoken-part", "w");
    assert_non_null(file);
    fputs("something long that was never finished", file);
    fclose(file);
    assert_int_equal(ft_save_open(path, &save, &err), FT_OK);
    ft_save_print(save, "new");
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    assert_holds(path, "new");
    assert_int_equal(ft_save_open(FT_TEST_SCRATCH_DIR, &save, &err), FT_IO);
    assert_int_equal(ft_save_open("/nowhere/at/all", &save, &err), FT_IO);
    assert_int_equal(ft_save_open("/dev/null", &save, &err), FT_IO);
}

/* A link is followed, a replaced file keeps its mode, and nobody else's file is touched. */
static void test_save_in_place(void **state) {
    (void)state;
    const char *path = FT_TEST_SCRATCH_DIR "/real", *link = FT_TEST_SCRATCH_DIR "/link";
    const char *other = FT_TEST_SCRATCH_DIR "/real.part", *paths[] = { path, other };
    struct ft_error err = { .code = FT_OK };
    struct ft_save *save = NULL;
    struct stat found;
    for (size_t i = 0; i < FT_COUNT(paths); i++) {
        FILE *file = fopen(paths[i], "w");
        assert_non_null(file);
        fputs("old", file);
        fclose(file);
    }
    assert_int_equal(chmod(path, 0600), 0);
    unlink(link);
    if (symlink("real", link) != 0) {
        skip();
    }
    assert_int_equal(ft_save_open(link, &save, &err), FT_OK);
    ft_save_print(save, "new");
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    assert_holds(path, "new");
    assert_holds(other, "old");
    assert_int_equal(lstat(link, &found), 0);
    assert_true(S_ISLNK(found.st_mode));
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0600);
    unlink(path);
    assert_int_equal(ft_save_open(link, &save, &err), FT_IO); /* to nothing */
    unlink(link);
    unlink(other);
}

/* Byte by byte, as ft_save_text is described; the reference of what writes spans. */
static void add_escaped(char *out, const char *text, size_t n) {
    bool is_sound = ft_utf8_check(text, n) == n;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        char plain[2] = { (char)c, '\0' };
        bool is_bad = (c < 32 && c != '\n' && c != '\t') || c == 127 || (c > 127 && !is_sound);
        strcat(out, c == '<'    ? "&lt;"
                    : c == '>'  ? "&gt;"
                    : c == '&'  ? "&amp;"
                    : c == '\r' ? ""
                    : is_bad    ? "?"
                                : plain);
    }
}

static void test_text(void **state) {
    (void)state;
    static const char *const text[] = { "",
                                        "plain",
                                        "<",
                                        "a<b>&c",
                                        "&&",
                                        "<<end",
                                        "line\r\nline\r",
                                        "tab\there\x01\x7f!",
                                        "\xC3\xA4\xC3\xBC <\xF0\x9F\x98\x80>",
                                        "torn \xC3 & \xC3\xBC" };
    char want[512] = "";
    const char *path = FT_TEST_SCRATCH_DIR "/text";
    struct ft_error err = { .code = FT_OK };
    struct ft_save *save = NULL;
    assert_int_equal(ft_save_open(path, &save, &err), FT_OK);
    for (size_t i = 0; i < FT_COUNT(text); i++) {
        ft_save_text(save, text[i], strlen(text[i]));
        add_escaped(want, text[i], strlen(text[i]));
    }
    assert_int_equal(ft_save_done(save, true, &err), FT_OK);
    assert_holds(path, want);
    assert_non_null(strstr(want, "a&lt;b&gt;&amp;c"));
}

static void test_full_disk(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    struct ft_save *save = NULL;
    const char *path = FT_TEST_SCRATCH_DIR "/full";
    unlink(FT_TEST_SCRATCH_DIR "/full.foretoken-part");
    if (symlink("/dev/full", FT_TEST_SCRATCH_DIR "/full.foretoken-part") != 0) {
        skip();
    }
    if (ft_save_open(path, &save, &err) == FT_OK) { /* else the device cannot be opened so */
        for (int i = 0; i < 4096; i++) {
            ft_save_print(save, "%4096d", i);
        }
        assert_int_equal(ft_save_done(save, true, &err), FT_IO);
    }
    unlink(FT_TEST_SCRATCH_DIR "/full.foretoken-part");
    assert_int_equal(access(path, F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plot),          cmocka_unit_test(test_dots),
        cmocka_unit_test(test_odd_dots),      cmocka_unit_test(test_odd_plots),
        cmocka_unit_test(test_lines),         cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_grids),         cmocka_unit_test(test_save),
        cmocka_unit_test(test_text),          cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_save_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
