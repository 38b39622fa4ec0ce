/* SPDX-License-Identifier: Apache-2.0 */
/* test_results.c - records read back: cells, means, intervals, differences worked out by hand, what is
 * refused, and the reports made of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/results.h"

#define FILE_A FT_TEST_SCRATCH_DIR "/results_a.jsonl"
#define FILE_B FT_TEST_SCRATCH_DIR "/results_b.jsonl"
#define FILE_OUT FT_TEST_SCRATCH_DIR "/results.out"
#define MANIFEST "{\"manifest\":{\"suite\":\"ruler\",\"target\":\"t\",\"seed\":%d}}\n"

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    fclose(file);
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 18);
    assert_non_null(file);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 18) - 1, file) > 0);
    fclose(file);
    return text;
}

static void add_row(char *text, const char *task, uint32_t ctx, uint32_t index, const char *method,
                    double score, double kept) {
    sprintf(
        text + strlen(text),
        "{\"task\":\"%s\",\"ctx\":%u,\"index\":%u,\"method\":\"%s\",\"score\":%g,\"kept_rows\":%g,"
        "\"kv_bytes\":%g,\"kv_bytes_full\":4096,\"times\":{\"ttft_ms\":%g}}\n",
        task, ctx, index, method, score, kept, kept * 8, kept + 1);
}

static struct ft_results load(const char *path) {
    struct ft_results results;
    struct ft_error error = { .code = FT_OK };
    if (ft_results_load(&path, 1, &results, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return results;
}

static void refuse(const char *text, ft_status code, const char *words) {
    struct ft_results results;
    struct ft_error error = { .code = FT_OK };
    const char *path = FILE_A;
    write_file(FILE_A, text);
    assert_int_equal(ft_results_load(&path, 1, &results, &error), code);
    if (!strstr(error.text, words)) {
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
    }
    ft_results_done(&results);
}

/* Two tasks at two lengths, the longer one first; rows out of order, a torn last line. */
static void test_cells(void **state) {
    char text[8192];
    (void)state;
    sprintf(text, MANIFEST, 7);
    add_row(text, "vt", 2048, 1, "dense", 100, 2000);
    add_row(text, "vt", 2048, 0, "dense", 0, 1000);
    add_row(text, "cwe", 2048, 0, "dense", 30, 512);
    add_row(text, "cwe", 2048, 1, "dense", 50, 512);
    add_row(text, "cwe", 1024, 0, "speckv:keep=64", 10, 64);
    strcat(text, "{\"task\":\"vt\",\"ctx\":20");
    write_file(FILE_A, text);
    struct ft_results r = load(FILE_A);
    assert_int_equal(r.n_row, 5);
    assert_int_equal(r.n_task, 2);
    assert_int_equal(r.n_method, 2);
    assert_int_equal(r.n_ctx, 2);
    assert_int_equal(r.ctx[0], 1024);
    assert_string_equal(r.task[0], "vt");
    const struct ft_group *vt = ft_results_group(&r, 0, 1, 0);
    assert_non_null(vt);
    assert_int_equal(vt->n, 2);
    assert_true(vt->score.mean == 50 && vt->kept == 1500 && vt->ttft_ms == 1501);
    /* Wilson, 1 of 2: (p + z^2/4 -+ z sqrt(p(1-p)/2 + z^2/16)) / (1 + z^2/2) = .0945, .9055 */
    assert_true(fabs(vt->score.low - 9.45) < 0.01 && fabs(vt->score.high - 90.55) < 0.01);
    assert_null(ft_results_group(&r, 0, 0, 0));
    struct ft_group mean;
    assert_int_equal(ft_results_mean(&r, 1, 0, &mean), 2);
    assert_true(mean.score.mean == 45 && mean.n == 4);
    const struct ft_group *cwe = ft_results_group(&r, 1, 1, 0);
    double below = hypot(50 - vt->score.low, 40 - cwe->score.low) / 2;
    assert_true(fabs(45 - mean.score.low - below) < 1e-9);
    assert_true(fabs(mean.kept - (1500 + 512) / 2.0) < 1e-9);
    assert_true(fabs(mean.kv_share - (1500 * 8 / 4096.0 + 1) / 2) < 1e-9);
    assert_int_equal(ft_results_mean(&r, 1, 1, &mean), 0);
    ft_results_done(&r);
}

/* Every cell found by walking along, whether it is there or not. */
static void test_search(void **state) {
    static const char *const task[] = { "a", "b", "c" }, *const method[] = { "x", "y" };
    char text[8192];
    (void)state;
    sprintf(text, MANIFEST, 7);
    for (uint32_t i = 0; i < 40; i++) { /* squares: 8 of 18 cells, of different sizes */
        uint32_t cell = i * i % 18;
        add_row(text, task[cell % 3], 100 * (1 + cell / 6), i, method[cell / 3 % 2], i, 1);
    }
    write_file(FILE_A, text);
    struct ft_results r = load(FILE_A);
    uint32_t n_cell = 0, n_all = 0;
    for (uint32_t cell = 0; cell <= r.n_task * r.n_ctx * r.n_method; cell++) {
        uint32_t t = cell % r.n_task, c = cell / r.n_task % r.n_ctx;
        uint32_t m = cell / r.n_task / r.n_ctx, n = 0, n_found; /* the last one is no method */
        const struct ft_result *first = NULL;
        const struct ft_group *group = NULL;
        for (uint32_t i = 0; i < r.n_row; i++) {
            if (r.row[i].task == t && r.row[i].ctx == c && r.row[i].method == m) {
                first = first ? first : &r.row[i];
                n++;
            }
        }
        for (uint32_t i = 0; i < r.n_group; i++) {
            if (r.group[i].task == t && r.group[i].ctx == c && r.group[i].method == m) {
                group = &r.group[i];
            }
        }
        assert_ptr_equal(ft_results_rows(&r, t, c, m, &n_found), first);
        assert_int_equal(n_found, n);
        assert_ptr_equal(ft_results_group(&r, t, c, m), group);
        n_cell += n > 0;
        n_all += n;
    }
    assert_int_equal(n_all, 40);
    assert_int_equal(n_cell, r.n_group);
    assert_true(n_cell < r.n_task * r.n_ctx * r.n_method);
    ft_results_done(&r);
}

static void test_refusals(void **state) {
    char text[4096], other[256];
    (void)state;
    refuse("", FT_FORMAT, "is empty");
    refuse("{\"task\":\"vt\"}\n", FT_FORMAT, "its first line is no manifest");
    refuse("not json\n", FT_FORMAT, "is no record");
    sprintf(text, MANIFEST, 7);
    refuse(text, FT_FORMAT, "has no sample");
    strcat(text, "[1]\n");
    refuse(text, FT_FORMAT, ":2: not a JSON object");
    sprintf(text, MANIFEST "{\"task\":\"vt\",\"ctx\":0,\"index\":0,\"method\":\"m\",\"score\":1}\n",
            7);
    refuse(text, FT_FORMAT, ":2: no sample");
    sprintf(text, MANIFEST, 7);
    add_row(text, "vt", 64, 3, "dense", 1, 1);
    add_row(text, "vt", 64, 3, "dense", 2, 1);
    refuse(text, FT_FORMAT, "sample 3 of vt at 64 tokens with dense is there twice");
    sprintf(text, MANIFEST, 7);
    add_row(text, "vt", 64, 3, "dense", 1, 1);
    write_file(FILE_A, text);
    sprintf(other, MANIFEST, 8);
    write_file(FILE_B, other);
    const char *path[] = { FILE_A, FILE_B };
    struct ft_results results;
    struct ft_error error;
    assert_int_equal(ft_results_load(path, 2, &results, &error), FT_MISMATCH);
    assert_non_null(strstr(error.text, "another seed"));
    ft_results_done(&results);
}

/* a: 100 0 100 50; b: 0 0 100, the fourth is missing and a fifth is b's alone: differences -100 0 0.
 * With +100 and -100 added: mean -100/5 = -20, squares 30000, variance (30000 - 5 * 400) / 4 = 7000,
 * half width 1.96 sqrt(7000 / 5) = 73.3. */
static void test_differences(void **state) {
    char a[4096], b[4096];
    (void)state;
    sprintf(a, MANIFEST, 7);
    sprintf(b, MANIFEST, 7);
    const double score[] = { 100, 0, 100, 50 };
    for (uint32_t i = 0; i < 4; i++) {
        add_row(a, "vt", 64, i, "dense", score[i], 60);
    }
    add_row(a, "cwe", 64, 0, "dense", 10, 60);
    add_row(b, "cwe", 64, 0, "snapkv", 40, 6);
    add_row(b, "vt", 64, 0, "snapkv", 0, 6);
    add_row(b, "vt", 64, 1, "snapkv", 0, 6);
    add_row(b, "vt", 64, 2, "snapkv", 100, 6);
    add_row(b, "vt", 64, 4, "snapkv", 100, 6);
    write_file(FILE_A, a);
    write_file(FILE_B, b);
    struct ft_results ra = load(FILE_A), rb = load(FILE_B);
    struct ft_difference d[2], all;
    struct ft_error error;
    uint32_t n = 0;
    assert_int_equal(ft_results_compare(&ra, 0, &rb, 0, d, &n, &all, &error), FT_OK);
    assert_int_equal(n, 2);
    assert_string_equal(ra.task[d[0].task], "vt");
    assert_int_equal(d[0].n, 3);
    assert_true(fabs(d[0].a - 200 / 3.0) < 1e-9 && fabs(d[0].b - 100 / 3.0) < 1e-9);
    assert_true(fabs(d[0].score.mean + 100 / 3.0) < 1e-9);
    assert_true(fabs(d[0].score.low - (-20 - 73.336)) < 0.01);
    assert_true(fabs(d[0].score.high - (-20 + 73.336)) < 0.01);
    assert_true(d[1].n == 1 && d[1].score.mean == 30);
    /* one pair says next to nothing: 10 -+ 115, cut to what a difference can be */
    assert_true(d[1].score.low == -100 && d[1].score.high == 100);
    assert_true(fabs(all.score.mean - (30 - 100 / 3.0) / 2) < 1e-9 && all.n == 4);
    ft_results_done(&rb);
    sprintf(b, MANIFEST, 7);
    add_row(b, "vt", 65, 0, "snapkv", 0, 6);
    write_file(FILE_B, b);
    rb = load(FILE_B);
    assert_int_equal(ft_results_compare(&ra, 0, &rb, 0, d, &n, &all, &error), FT_MISMATCH);
    ft_results_done(&ra);
    ft_results_done(&rb);
}

static char *report(const struct ft_results *r, int form) {
    struct ft_save *save = NULL;
    struct ft_error error;
    assert_int_equal(ft_save_open(FILE_OUT, &save, &error), FT_OK);
    if (form == 0) {
        ft_report_markdown(r, save);
    } else if (form == 1) {
        ft_report_csv(r, save);
    } else {
        assert_int_equal(ft_report_html(r, "a <title>", save, &error), FT_OK);
    }
    assert_int_equal(ft_save_done(save, true, &error), FT_OK);
    return read_file(FILE_OUT);
}

static void test_reports(void **state) {
    char text[8192];
    (void)state;
    sprintf(text, MANIFEST, 7);
    for (uint32_t ctx = 1024; ctx <= 2048; ctx += 1024) {
        add_row(text, "vt", ctx, 0, "dense", 100, ctx);
        add_row(text, "vt", ctx, 0, "snapkv:keep=64,window=8", 50, 64);
        add_row(text, "vt", ctx, 0, "snapkv:keep=128,window=8", 75, 128);
    }
    write_file(FILE_A, text);
    struct ft_results r = load(FILE_A);
    char *markdown = report(&r, 0);
    assert_non_null(strstr(markdown, "2048 tokens"));
    assert_non_null(strstr(markdown, "| method | mean, 95 % interval | vt | rows kept | KV |"));
    assert_non_null(strstr(markdown, "| snapkv:keep=64,window=8 | 50.0 ["));
    char *csv = report(&r, 1);
    assert_non_null(strstr(csv, "\n1024,\"vt\",\"snapkv:keep=128,window=8\",\"f16\",1,75.0000,"));
    assert_non_null(strstr(csv, "\n2048,\"mean\",\"dense\",\"f16\",1,100.0000,"));
    char *html = report(&r, 2);
    assert_non_null(strstr(html, "<h1>a &lt;title&gt;</h1>"));
    assert_null(strstr(html, "<script"));
    assert_non_null(strstr(html, "snapkv:window=8, 64: 50.00 points")); /* one line over budgets */
    assert_non_null(strstr(html, "Accuracy over length"));
    json_t *json = ft_report_json(&r);
    assert_int_equal(json_array_size(json_object_get(json, "rows")), 6);
    assert_int_equal(json_array_size(json_object_get(json, "means")), 6);
    assert_int_equal(json_array_size(json_object_get(json, "manifests")), 1);
    json_decref(json);
    free(markdown);
    free(csv);
    free(html);
    ft_results_done(&r);
}

static void add_stored(char *text, const char *method, const char *kv_type, double score,
                       double kv_bytes) {
    sprintf(text + strlen(text),
            "{\"task\":\"vt\",\"ctx\":1024,\"index\":0,\"method\":\"%s\",\"kv_type\":\"%s\","
            "\"score\":%g,\"kept_rows\":64,\"kv_bytes\":%g,\"kv_bytes_full\":4194304}\n",
            method, kv_type, score, kv_bytes);
}

static void assert_method(const struct ft_results *r, uint32_t m, const char *name,
                          const char *kv_type) {
    assert_true(m < r->n_method);
    assert_string_equal(r->method[m], name);
    assert_string_equal(r->kv_type[m], kv_type);
}

#define OF_FORMAT(settings)                                                                        \
    "{\"manifest\":{\"suite\":\"ruler\",\"target\":\"t\",\"seed\":7,\"kv_type\":" settings "}}\n"
static const char *const manifest_of[] = { OF_FORMAT("\"f16\""), OF_FORMAT("\"q8_0\""),
                                           OF_FORMAT("\"f32\",\"exact\":true") };

/* Rows tell their format; those of older records have that of their manifest, and f16 where it says
 * nothing.  A format of its own is part of a method's name. */
static void test_formats(void **state) {
    const char *path[] = { FILE_A, FILE_B };
    struct ft_error error = { .code = FT_OK };
    struct ft_results r;
    char a[4096], b[4096];
    (void)state;
    strcpy(a, manifest_of[0]);
    add_row(a, "vt", 512, 0, "dense", 100, 60); /* as it was before formats were told */
    add_stored(a, "dense", "f16", 100, 4194304);
    add_stored(a, "snapkv:keep=64 k=q4,v=q2", "k=q4,v=q2", 50, 65536);
    add_stored(a, "snapkv:keep=128 k=q4,v=q2", "k=q4,v=q2", 75, 131072);
    add_stored(a, "snapkv:keep=64", "f16", 25, 262144);
    strcpy(b, manifest_of[1]);
    add_row(b, "vt", 512, 0, "dense", 90, 60);
    write_file(FILE_A, a);
    write_file(FILE_B, b);
    if (ft_results_load(path, 2, &r, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(r.n_method, 5);
    assert_method(&r, 0, "dense", "f16");
    assert_method(&r, 1, "snapkv:keep=64 k=q4,v=q2", "k=q4,v=q2");
    assert_method(&r, 3, "snapkv:keep=64", "f16");
    assert_method(&r, 4, "dense q8_0", "q8_0");
    assert_true(ft_results_has_formats(&r));
    char *markdown = report(&r, 0);
    assert_non_null(strstr(markdown, "| method | format | mean, 95 % interval | vt |"));
    assert_non_null(strstr(markdown, "\n| snapkv:keep=64 | k=q4,v=q2 | 50.0 ["));
    assert_non_null(strstr(markdown, "\n| snapkv:keep=64 | f16 | 25.0 ["));
    assert_non_null(strstr(markdown, "\n| dense | q8_0 | 90.0 ["));
    assert_non_null(strstr(markdown, "| 64.0 KiB (1.6 %) |"));
    char *csv = report(&r, 1);
    assert_non_null(strstr(csv, "ctx,task,method,kv_type,samples,"));
    assert_non_null(
        strstr(csv, "\n1024,\"vt\",\"snapkv:keep=64 k=q4,v=q2\",\"k=q4,v=q2\",1,50.0000,"));
    char *html = report(&r, 2);
    assert_non_null(strstr(html, "<th>format</th>"));
    assert_non_null(strstr(html, "<td>snapkv:keep=64</td><td>k=q4,v=q2</td>"));
    /* one line a method and format over its budgets, across by bytes */
    assert_non_null(strstr(html, "bytes of KV after the prompt"));
    assert_non_null(strstr(html, "<title>snapkv k=q4,v=q2, 64.0 KiB: 50.00 points</title>"));
    assert_non_null(strstr(html, "<title>snapkv k=q4,v=q2, 128.0 KiB: 75.00 points</title>"));
    assert_non_null(strstr(html, "<title>snapkv, 256.0 KiB: 25.00 points</title>"));
    assert_non_null(strstr(html, "<title>dense, 4.0 MiB: 100.00 points</title>"));
    json_t *json = ft_report_json(&r);
    const json_t *row = json_array_get(json_object_get(json, "rows"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "kv_type")), "f16");
    json_decref(json);
    free(markdown);
    free(csv);
    free(html);
    ft_results_done(&r);
}

/* The same sample, once as an older record has it: known to be the same method.  Exact runs store f32
 * as others do f16. */
static void test_older(void **state) {
    const char *path[] = { FILE_A, FILE_B };
    struct ft_error error = { .code = FT_OK };
    struct ft_results r;
    char a[4096], b[4096];
    (void)state;
    strcpy(a, manifest_of[0]);
    add_stored(a, "dense", "f16", 100, 4194304);
    write_file(FILE_A, a);
    strcpy(b, manifest_of[0]);
    add_row(b, "vt", 1024, 0, "dense", 90, 60);
    write_file(FILE_B, b);
    assert_int_equal(ft_results_load(path, 2, &r, &error), FT_FORMAT);
    assert_non_null(strstr(error.text, "with dense is there twice"));
    ft_results_done(&r);
    strcpy(a, manifest_of[2]);
    add_row(a, "vt", 512, 0, "dense", 90, 60);
    write_file(FILE_A, a);
    r = load(FILE_A);
    assert_method(&r, 0, "dense", "f32");
    assert_false(ft_results_has_formats(&r));
    ft_results_done(&r);
}

static void add_needle(char *text, uint32_t depth, uint32_t ctx, const char *method, double score) {
    sprintf(text + strlen(text),
            "{\"task\":\"needle@%u\",\"depth\":%u,\"ctx\":%u,\"index\":0,\"method\":\"%s\","
            "\"score\":%g,\"kept_rows\":9,\"kv_bytes\":72,\"kv_bytes_full\":72}\n",
            depth, depth, ctx, method, score);
}

/* Depths out of order, a cell missing, a method that has none of them. */
static void test_grid(void **state) {
    char text[8192];
    (void)state;
    sprintf(text, MANIFEST, 7);
    add_needle(text, 100, 1024, "dense", 100);
    add_needle(text, 5, 1024, "dense", 0);
    add_needle(text, 5, 2048, "dense", 50);
    add_needle(text, 20, 2048, "dense", 75);
    add_row(text, "vt", 1024, 0, "other", 30, 1);
    write_file(FILE_A, text);
    struct ft_results r = load(FILE_A);
    assert_int_equal(r.n_grid, 3);
    assert_int_equal(r.depth[r.grid[0]], 5);
    assert_int_equal(r.depth[r.grid[1]], 20);
    assert_int_equal(r.depth[r.grid[2]], 100);
    char *markdown = report(&r, 0);
    assert_non_null(strstr(markdown, "Scores over depth and length, `dense`\n\n"
                                     "| depth | 1024 | 2048 |\n"
                                     "| ---: | ---: | ---: |\n"
                                     "| 5 % | 0.0 | 50.0 |\n"
                                     "| 20 % |  | 75.0 |\n"
                                     "| 100 % | 100.0 |  |\n"));
    assert_null(strstr(markdown, "length, `other`"));
    char *csv = report(&r, 1);
    assert_non_null(strstr(csv, ",ttft_ms,depth\n"));
    assert_non_null(strstr(csv, "2048,\"needle@20\",\"dense\",\"f16\",1,75.0000,"));
    assert_non_null(strstr(csv, ",0.000,20\n"));
    assert_non_null(strstr(csv, ",2.000,\n")); /* of vt, which has none */
    char *html = report(&r, 2);
    assert_non_null(strstr(html, "<title>5 %, 2048 tokens: 50.0 ["));
    assert_non_null(strstr(html, "<title>100 %, 1024 tokens: 100.0 ["));
    assert_null(strstr(html, "<title>100 %, 2048 tokens"));
    assert_null(strstr(html, "nan"));
    json_t *json = ft_report_json(&r), *row;
    size_t i, n_depth = 0;
    json_array_foreach(json_object_get(json, "rows"), i, row) {
        n_depth += json_object_get(row, "depth") != NULL;
    }
    assert_int_equal(n_depth, 4);
    json_array_foreach(json_object_get(json, "means"), i, row) {
        assert_null(json_object_get(row, "depth"));
    }
    json_decref(json);
    free(markdown);
    free(csv);
    free(html);
    ft_results_done(&r);
    sprintf(text, MANIFEST, 7);
    add_needle(text, 101, 1024, "dense", 100);
    refuse(text, FT_FORMAT, ":2: depth is no whole number from 0 to 100");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells),    cmocka_unit_test(test_search),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_differences),
        cmocka_unit_test(test_reports),  cmocka_unit_test(test_formats),
        cmocka_unit_test(test_older),    cmocka_unit_test(test_grid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
