/* SPDX-License-Identifier: Apache-2.0 */
/* test_sweep.c - the grid of methods, shards and the environment, TOML, and the time that is left. */
#define _DEFAULT_SOURCE /* setenv */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/suites.h"
#include "conf/toml.h"

/* ---- methods ---- */

static struct ft_grid_block block_of(const char *prompt, const char *kv, const char *kv2,
                                     const char *keep) {
    struct ft_grid_block block = { .keep = keep };
    if (prompt) {
        block.prompt.text[block.prompt.n++] = prompt;
    }
    if (kv) {
        block.kv.text[block.kv.n++] = kv;
    }
    if (kv2) {
        block.kv.text[block.kv.n++] = kv2;
    }
    return block;
}

/* The labels of a block behind each other are these. */
static void expect_labels(const struct ft_grid_block *block, const char *expected) {
    struct ft_grid grid = { .n = 0 };
    struct ft_error error = { 0 };
    char all[1024] = "";
    if (ft_grid_add(&grid, block, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    for (uint32_t i = 0; i < grid.n; i++) {
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i > 0 ? " | " : "", grid.all[i].label);
    }
    assert_string_equal(all, expected);
    ft_grid_done(&grid);
}

static void grid_labels(void **state) {
    (void)state;
    struct ft_grid_block block = block_of(NULL, NULL, NULL, NULL);
    expect_labels(&block, "dense");
    block = block_of(NULL, "speckv", "dense", "32,25%,64MiB");
    expect_labels(&block, "speckv:keep=32 | speckv:keep=25% | speckv:keep=64MiB | dense");
    block = block_of(NULL, "snapkv:budget=ada", "snapkv:keep=8,window=4", "64,96");
    expect_labels(&block, "snapkv:keep=64,budget=ada | snapkv:keep=96,budget=ada | "
                          "snapkv:keep=8,window=4");
    block = block_of("specpc", "speckv:keep=64", "dense", "128,256");
    expect_labels(&block, "specpc:keep=128+speckv:keep=64 | specpc:keep=128 | "
                          "specpc:keep=256+speckv:keep=64 | specpc:keep=256");
    block = block_of("random", "random", NULL, "64");
    expect_labels(&block, "random:keep=64+random:keep=64");
    block = block_of(NULL, "snapkv:keep=64", "snapkv", "64,64"); /* nothing is done twice */
    expect_labels(&block, "snapkv:keep=64");
    block = block_of(NULL, "snapkv:window=4,keep=8", "tova", "64"); /* set, though not first */
    expect_labels(&block, "snapkv:window=4,keep=8 | tova:keep=64");
}

static void grid_specs(void **state) {
    (void)state;
    struct ft_grid grid = { .n = 0 };
    struct ft_error error = { 0 };
    struct ft_grid_block block = block_of("specpc", "dense", NULL, "128");
    assert_int_equal(ft_grid_add(&grid, &block, &error), FT_OK);
    block = block_of(NULL, "dense", NULL, NULL);
    assert_int_equal(ft_grid_add(&grid, &block, &error), FT_OK);
    block = block_of("dense", NULL, NULL, NULL); /* the same label */
    assert_int_equal(ft_grid_add(&grid, &block, &error), FT_OK);
    assert_int_equal(grid.n, 2);
    assert_string_equal(grid.all[0].prompt, "specpc:keep=128");
    assert_string_equal(grid.all[0].kv, "dense");
    assert_null(grid.all[1].prompt);
    assert_int_equal(ft_grid_check(&grid), 0);
    ft_grid_done(&grid);
}

static void grid_refusals(void **state) {
    (void)state;
    static const struct {
        const char *kv, *keep, *expected;
    } cases[] = { { "snapkv", "", "--keep is \"\", expected amounts" },
                  { "snapkv", "64,", "--keep is \"64,\", expected amounts" },
                  { "snapkv", ",64", "expected amounts" },
                  { "snapkv", "1234567890123456789012345", "expected amounts" },
                  { "dense", "64", "no method given" },
                  { "snapkv:keep=8,window=4", "64", "no method given" } };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_grid grid = { .n = 0 };
        struct ft_error error = { 0 };
        struct ft_grid_block block = block_of(NULL, cases[i].kv, NULL, cases[i].keep);
        assert_int_equal(ft_grid_add(&grid, &block, &error), FT_ARG);
        assert_non_null(strstr(error.text, cases[i].expected));
        assert_int_equal(grid.n, 0);
        ft_grid_done(&grid);
    }
    struct ft_grid grid = { .n = 0 };
    struct ft_error error = { 0 };
    struct ft_grid_block block = block_of(NULL, "snapkv:window=8", NULL, "4,64");
    assert_int_equal(ft_grid_add(&grid, &block, &error), FT_OK);
    assert_int_equal(ft_grid_check(&grid), FT_EXIT_USAGE); /* window 8 in 4 rows */
    ft_grid_done(&grid);
}

/* ---- shards ---- */

static void shard_texts(void **state) {
    struct ft_shard shard;
    static const char *const bad[] = {
        "",    "1",    "/",     "1/",   "/2",   "0/2",     "3/2",
        "1/0", "-1/2", "1/2/3", "1 /2", "1/2 ", "1/10001", "00000000000000001/2"
    };
    (void)state;
    assert_true(ft_shard_text("2/8", &shard));
    assert_int_equal(shard.i, 2);
    assert_int_equal(shard.n, 8);
    assert_true(ft_shard_text("1/1", &shard));
    assert_true(ft_shard_text("10000/10000", &shard));
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        shard = (struct ft_shard){ 7, 9 };
        if (ft_shard_text(bad[i], &shard)) {
            fail_msg("\"%s\" is a shard", bad[i]);
        }
        assert_true(shard.i == 7 && shard.n == 9);
    }
}

static const char *const variables[] = { "SLURM_ARRAY_TASK_ID",  "SLURM_ARRAY_TASK_COUNT",
                                         "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP",
                                         "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE" };

static void shard_environment(void **state) {
    static const struct {
        const char *value[FT_COUNT(variables)];
        uint32_t i, n; /* n 0 and no words: nothing is said */
        const char *words;
    } cases[] = {
        { { NULL }, 0, 0, NULL },
        { { "0", "3", "0", NULL, NULL, NULL }, 1, 3, NULL },
        { { "12", "3", "10", NULL, NULL, NULL }, 3, 3, NULL },
        { { "14", "3", "10", "2", NULL, NULL }, 3, 3, NULL },
        { { "1", "2", NULL, NULL, NULL, NULL }, 2, 2, NULL },
        { { NULL, NULL, NULL, NULL, "0", "4" }, 1, 4, NULL },
        { { NULL, NULL, NULL, NULL, "3", "4" }, 4, 4, NULL },
        { { NULL, "3", "1", NULL, NULL, NULL }, 0, 0, NULL }, /* without an id: no array */
        { { "13", "3", "10", NULL, NULL, NULL }, 0, 0, "expected one of 3" },
        { { "9", "3", "10", NULL, NULL, NULL }, 0, 0, "expected one of 3" },
        { { "13", "3", "10", "2", NULL, NULL }, 0, 0, "in steps of 2" },
        { { "1", NULL, NULL, NULL, NULL, NULL }, 0, 0, "expected one of 0" },
        { { "x", "3", "1", NULL, NULL, NULL }, 0, 0, "SLURM_ARRAY_TASK_ID is \"x\"" },
        { { "1", "3", "-1", NULL, NULL, NULL }, 0, 0, "SLURM_ARRAY_TASK_MIN is \"-1\"" },
        { { NULL, NULL, NULL, NULL, "4", "4" }, 0, 0, "expected less than OMPI_COMM_WORLD_SIZE" },
        { { NULL, NULL, NULL, NULL, "4", NULL }, 0, 0, "which is 0" },
        { { "1", "2", "1", NULL, "0", "2" }, 0, 0, "both set" },
    };
    (void)state;
    for (size_t c = 0; c < FT_COUNT(cases); c++) {
        struct ft_shard shard = { 7, 9 };
        struct ft_error error = { 0 };
        char source[48] = "";
        for (size_t v = 0; v < FT_COUNT(variables); v++) {
            unsetenv(variables[v]);
            if (cases[c].value[v]) {
                setenv(variables[v], cases[c].value[v], 1);
            }
        }
        ft_status status = ft_shard_environment(&shard, source, sizeof source, &error);
        assert_int_equal(status, cases[c].words ? FT_ARG : FT_OK);
        assert_int_equal(shard.i, cases[c].i);
        assert_int_equal(shard.n, cases[c].n);
        assert_true(!cases[c].words || strstr(error.text, cases[c].words));
        assert_true(cases[c].n == 0 ||
                    strncmp(source, cases[c].value[0] ? "SLURM" : "OMPI", 4) == 0);
    }
    for (size_t v = 0; v < FT_COUNT(variables); v++) {
        unsetenv(variables[v]);
    }
}

/* Every sample is in one part, parts are of a size, and none moves when there are more. */
static void shard_split(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 5; n++) {
        uint32_t count[6] = { 0 };
        for (uint32_t cell = 0; cell < 10; cell++) {
            for (uint32_t index = 0; index < 3; index++) {
                uint32_t owners = 0;
                for (uint32_t i = 1; i <= n; i++) {
                    const struct ft_shard shard = { i, n };
                    bool has = ft_shard_has(&shard, cell, index);
                    owners += has;
                    count[i] += has;
                }
                assert_int_equal(owners, 1);
            }
        }
        for (uint32_t i = 1; i <= n; i++) {
            assert_in_range(count[i], 30 / n - 1, 30 / n + 1);
        }
    }
    const struct ft_shard all = { 0, 0 };
    assert_true(ft_shard_has(&all, 3, 5));
}

/* ---- TOML ---- */

static ft_status parse(const char *text, json_t **value, json_t **line, struct ft_error *error) {
    return ft_toml_parse("s.toml", text, strlen(text), value, line, error);
}

static void toml_values(void **state) {
    static const char text[] = "samples = 3 # of each\n"
                               "tolerance = 0.5\n"
                               "chat = true\n"
                               "tasks = [\"vt\",\n"
                               "    'cwe']\n"
                               "\n"
                               "[[methods]]\n"
                               "kv = \"dense\"\n"
                               "[[methods]]\n"
                               "keep = [32, 64]\n";
    json_t *value = NULL, *line = NULL;
    struct ft_error error = { 0 };
    (void)state;
    ft_status status = parse(text, &value, &line, &error);
    if (status == FT_UNSUP) {
        assert_non_null(strstr(error.text, "built without toml++"));
        print_message("skipped: %s\n", error.text);
        skip();
    }
    assert_int_equal(status, FT_OK);
    json_t *expected =
        json_pack("{s:i,s:f,s:b,s:[ss],s:[{s:s},{s:[ii]}]}", "samples", 3, "tolerance", 0.5, "chat",
                  1, "tasks", "vt", "cwe", "methods", "kv", "dense", "keep", 32, 64);
    assert_true(json_equal(value, expected));
    assert_int_equal(json_integer_value(json_object_get(line, "samples")), 1);
    assert_int_equal(json_integer_value(json_object_get(line, "tasks")), 4);
    assert_int_equal(json_integer_value(json_object_get(line, "tasks[1]")), 5);
    assert_int_equal(json_integer_value(json_object_get(line, "methods[0]")), 7);
    assert_int_equal(json_integer_value(json_object_get(line, "methods[1].keep")), 10);
    json_decref(expected);
    json_decref(value);
    json_decref(line);
}

static void toml_errors(void **state) {
    static const struct {
        const char *text, *words;
    } cases[] = { { "a = 1\nb = = 2\n", "s.toml:2: no TOML: " },
                  { "a = 1\na = 2\n", "s.toml:2: no TOML: " },
                  { "[x\n", "s.toml:1: no TOML: " },
                  { "\n\nwhen = 2026-01-01\n", "s.toml:3: when is a date" },
                  { "x = [1, nan]\n", "s.toml:1: x[1] is a date, a time or no finite number" },
                  { "x = \"\xff\"\n", "s.toml:1: no TOML: " } };
    (void)state;
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        json_t *value = NULL, *line = NULL;
        struct ft_error error = { 0 };
        ft_status status = parse(cases[i].text, &value, &line, &error);
        if (status == FT_UNSUP) {
            skip();
        }
        assert_int_equal(status, FT_FORMAT);
        if (!strstr(error.text, cases[i].words)) {
            fail_msg("\"%s\" does not say \"%s\"", error.text, cases[i].words);
        }
        assert_null(strchr(error.text, '\n'));
        assert_null(value);
        assert_null(line);
    }
}

/* ---- the time that is left ---- */

static void eta(void **state) {
    const struct ft_cell cell[] = { { .name = "a", .ctx = 1000, .n_sample = 2 },
                                    { .name = "b", .ctx = 1000, .n_sample = 2 },
                                    { .name = "a", .ctx = 4000, .n_sample = 2 } };
    struct ft_eta eta;
    struct ft_error error = { 0 };
    (void)state;
    assert_int_equal(ft_eta_init(&eta, cell, 3, 2, &error), FT_OK);
    assert_true(ft_eta_left(&eta) == 0); /* nothing is planned */
    for (uint32_t i = 0; i < 12; i++) {
        ft_eta_plan(&eta, i % 3, i / 6);
    }
    assert_true(ft_eta_left(&eta) < 0); /* nothing was measured */
    ft_eta_took(&eta, 0, 0, 1);
    /* method 0: 3 of a second at 1000, 2 of four at 4000; method 1 as method 0: 4 and 2 */
    assert_true(fabs(ft_eta_left(&eta) - (3 + 8 + 4 + 8)) < 1e-9);
    ft_eta_took(&eta, 1, 1, 3);
    /* method 1: 3 of three at 1000, 2 of twelve at 4000 */
    assert_true(fabs(ft_eta_left(&eta) - (3 + 8 + 9 + 24)) < 1e-9);
    ft_eta_took(&eta, 2, 0, 10); /* measured there, and longer than in proportion */
    assert_true(fabs(ft_eta_left(&eta) - (3 + 10 + 9 + 24)) < 1e-9);
    ft_eta_took(&eta, 1, 0, 2); /* the mean of a length counts, whatever the task */
    assert_true(fabs(ft_eta_left(&eta) - (2 * 1.5 + 10 + 9 + 24)) < 1e-9);
    ft_eta_done(&eta);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grid_labels),
        cmocka_unit_test(grid_specs),
        cmocka_unit_test(grid_refusals),
        cmocka_unit_test(shard_texts),
        cmocka_unit_test(shard_environment),
        cmocka_unit_test(shard_split),
        cmocka_unit_test(toml_values),
        cmocka_unit_test(toml_errors),
        cmocka_unit_test(eta),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
