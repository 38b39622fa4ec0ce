/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv_table.c - texts of methods without their keep, and the choice among measured ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "eval/kv_table.h"

static void test_spec(void **state) {
    (void)state;
    static const struct {
        const char *kv, *keep, *want;
    } cases[] = {
        { "snapkv", NULL, "snapkv" },
        { "snapkv", "64MiB", "snapkv:keep=64MiB" },
        { "snapkv:keep=128", NULL, "snapkv" },
        { "snapkv:keep=128,window=8", "25%", "snapkv:keep=25%,window=8" },
        { "snapkv:window=8,keep=128,budget=ada", NULL, "snapkv:window=8,budget=ada" },
        { "dense", NULL, "dense" },
    };
    char out[64];
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        assert_true(ft_kv_spec_keep(cases[i].kv, cases[i].keep, out, sizeof out));
        assert_string_equal(out, cases[i].want);
    }
    assert_true(ft_kv_spec_keep("snapkv:window=8", "1", out, 23)); /* "snapkv:keep=1,window=8" */
    assert_false(ft_kv_spec_keep("snapkv:window=8", "1", out, 22));
    assert_false(ft_kv_spec_keep("snapkv", "1", out, 1));
}

static void add(json_t *table, const char *kv, const char *kv_type, int ctx, double share,
                double score) {
    json_array_append_new(table,
                          json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:i}", "kv", kv, "kv_type",
                                    kv_type, "ctx", ctx, "share", share, "score", score, "low",
                                    score - 5, "high", score + 5, "samples", 40));
}

static void test_pick(void **state) {
    (void)state;
    json_t *table = json_array();
    struct ft_kv_pick pick;
    add(table, "dense", "f16", 2048, 1, 96);
    add(table, "dense", "q4", 2048, 0.3, 95);
    add(table, "snapkv", "f16", 2048, 0.25, 80);
    add(table, "snapkv", "q4", 2048, 0.25, 94);
    add(table, "snapkv", "q4", 2048, 0.0625, 85);
    add(table, "speckv", "q8", 2048, 0.0625, 92);
    add(table, "speckv", "q4", 2048, 0.06, 92);
    add(table, "h2o", "q4", 2048, 0.01, 99);     /* decode=on with packed rows does not run */
    add(table, "unknown", "q4", 2048, 0.01, 99); /* of another version */
    add(table, "snapkv", "q2", 16384, 0.01, 50); /* nearer to longer prompts */
    assert_true(ft_kv_table_pick(table, 3000, 2, true, &pick));
    assert_string_equal(pick.kv, "dense");
    assert_string_equal(pick.kv_type, "f16");
    assert_int_equal(pick.n_fit, 7);
    assert_true(ft_kv_table_pick(table, 3000, 0.5, true, &pick));
    assert_string_equal(pick.kv_type, "q4");
    assert_string_equal(pick.kv, "dense");
    assert_true(ft_kv_table_pick(table, 3000, 0.25, true, &pick));
    assert_string_equal(pick.kv, "snapkv");
    assert_true(pick.score == 94 && pick.low == 89 && pick.high == 99 && pick.samples == 40);
    assert_true(ft_kv_table_pick(table, 3000, 0.0624, true, &pick)); /* a sixteenth, nearly */
    assert_string_equal(pick.kv, "speckv");
    assert_string_equal(pick.kv_type, "q4"); /* as good with less */
    assert_true(ft_kv_table_pick(table, 3000, 0.0625, false, &pick));
    assert_string_equal(pick.kv, "snapkv"); /* there is no draft */
    assert_true(pick.n_fit == 1 && pick.ctx == 2048);
    assert_false(ft_kv_table_pick(table, 3000, 0.02, true, &pick));
    assert_true(ft_kv_table_pick(table, 9000, 0.02, true, &pick));
    assert_true(pick.ctx == 16384);
    json_array_clear(table);
    assert_false(ft_kv_table_pick(table, 3000, 1, true, &pick));
    json_decref(table);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_spec), cmocka_unit_test(test_pick) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
