/* SPDX-License-Identifier: Apache-2.0 */
/* test_score.c - the catalogue, "name:key=value,...", amounts, and the public text of it all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "score/score.h"

static void expect_error(enum ft_stage stage, const char *spec, uint64_t where, const char *part) {
    struct ft_choice choice = { .params = &choice };
    struct ft_error err = { .code = FT_OK };
    if (ft_choice_parse(stage, spec, &choice, &err) != FT_ARG || err.code != FT_ARG) {
        fail_msg("%s: accepted, or another code than FT_ARG", spec);
    }
    assert_ptr_equal(choice.params, &choice); /* untouched */
    if (strstr(err.text, part) == NULL || strchr(err.text, '\n') != NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", spec, err.text, part);
    }
    if (err.where != where) {
        fail_msg("%s: where is %llu, want %llu", spec, (unsigned long long)err.where,
                 (unsigned long long)where);
    }
}

static struct ft_choice parsed(enum ft_stage stage, const char *spec) {
    struct ft_choice choice;
    struct ft_error err = { .code = FT_OK };
    if (ft_choice_parse(stage, spec, &choice, &err) != FT_OK) {
        fail_msg("%s: %s", spec, err.text);
    }
    return choice;
}

/* "name=value ..." of all parameters. */
static void expect_settings(enum ft_stage stage, const char *spec, const struct ft_facts *facts,
                            const char *want) {
    struct ft_choice choice = parsed(stage, spec);
    struct ft_setting setting;
    char text[512] = "";
    for (uint32_t i = 0; ft_choice_setting(&choice, facts, i, &setting); i++) {
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "%s%s=%s%s", i > 0 ? " " : "",
                       setting.name, setting.value, setting.is_number ? "#" : "");
        assert_string_equal(setting.stage, stage == FT_STAGE_KV ? "kv" : "prompt");
    }
    assert_string_equal(text, want);
    ft_choice_done(&choice);
    assert_null(choice.params);
}

/* ---- catalogue ---- */

static void test_catalogue(void **state) {
    (void)state;
    static const char *const names[] = { "dense",  "specpc",       "specprefill", "random",
                                         "tail",   "speckv",       "oracle",      "laq",
                                         "snapkv", "h2o",          "keyformer",   "tova",
                                         "corm",   "streamingllm", "knorm",       "random" };
    assert_int_equal(ft_catalogue_count(), FT_COUNT(names));
    for (uint32_t i = 0; i < FT_COUNT(names); i++) {
        const struct ft_method *method = ft_catalogue(i);
        assert_string_equal(method->name, names[i]);
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/%s", FT_TEST_SOURCE_DIR, method->file);
        FILE *file = fopen(path, "r"); /* the descriptor names its own file */
        assert_non_null(file);
        fclose(file);
        assert_non_null(method->look);
    }
    assert_null(ft_catalogue(FT_COUNT(names)));
}

static void test_public(void **state) {
    (void)state;
    assert_int_equal(ft_method_count(), 16);
    assert_null(ft_method_info(16));
    const struct ft_method_info *kv = ft_method_info(5);
    assert_string_equal(kv->name, "speckv");
    assert_string_equal(kv->paper, "arXiv:2506.08373");
    assert_string_equal(kv->file, "src/score/speckv.c");
    assert_int_equal(kv->stage, FT_STAGE_KV);
    assert_true(kv->needs_draft && kv->needs_draft_text);
    assert_int_equal(kv->n_param, 14); /* four of budgets, two of ranking */
    assert_string_equal(kv->param[0].type, "amount");
    assert_string_equal(kv->param[0].initial, "1024");
    assert_string_equal(kv->param[1].initial, "32 (8 if keep < 64)");
    assert_string_equal(kv->param[1].range, "1..65536");
    assert_string_equal(kv->param[2].range, "1..4095 in steps of 2");
    assert_string_equal(kv->param[3].range, "max|mean");
    assert_string_equal(kv->param[5].initial, "the token limit");
    const struct ft_method_info *pc = ft_method_info(1);
    assert_int_equal(pc->stage, FT_STAGE_PROMPT);
    assert_true(pc->needs_draft && !pc->needs_draft_text);
    assert_int_equal(pc->n_param, 11);
    assert_ptr_equal(ft_method_info(1), pc); /* the same for ever */
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        for (uint32_t j = 0; j < ft_method_info(i)->n_param; j++) {
            const struct ft_param_info *param = &ft_method_info(i)->param[j];
            assert_true(param->help[0] != '\0' && param->initial[0] != '\0');
            assert_true(strlen(param->range) < 60);
        }
    }
    const struct ft_method_info *info = NULL;
    assert_int_equal(ft_method_check(FT_STAGE_KV, "speckv:keep=256", &info, NULL), FT_OK);
    assert_ptr_equal(info, kv);
    assert_int_equal(ft_method_check(FT_STAGE_PROMPT, NULL, &info, NULL), FT_OK);
    assert_string_equal(info->name, "dense");
    assert_int_equal(ft_method_check(FT_STAGE_KV, "nope", &info, NULL), FT_ARG);
    assert_int_equal(ft_method_check(FT_STAGE_KV, "dense", NULL, NULL), FT_OK);
}

/* ---- parsing ---- */

static void test_dense(void **state) {
    (void)state;
    static const char *const specs[] = { NULL, "", "dense" };
    struct ft_facts facts = { .n_prompt = 77 };
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        for (int stage = FT_STAGE_PROMPT; stage <= FT_STAGE_KV; stage++) {
            struct ft_choice choice = parsed((enum ft_stage)stage, specs[i]);
            struct ft_setting setting;
            uint32_t value;
            assert_ptr_equal(choice.method, ft_catalogue(0));
            assert_null(choice.method->score);
            assert_null(ft_choice_amount(&choice));
            assert_false(ft_choice_setting(&choice, NULL, 0, &setting));
            assert_false(ft_choice_uint(&choice, "keep", &value));
            assert_int_equal(ft_choice_keep(&choice, &facts), 77);
            assert_int_equal(ft_choice_budget_check(&choice, &facts, NULL), FT_OK);
            ft_choice_done(&choice);
        }
    }
    struct ft_choice none = { .method = NULL };
    ft_choice_done(&none);
}

static void test_defaults(void **state) {
    (void)state;
    expect_settings(FT_STAGE_KV, "speckv", NULL,
                    "keep=1024# window=32 (8 if keep < 64) kernel=7# pool=max reduce=max "
                    "lookahead=the token limit prefill_window=2048# prefill_vertical=2048# "
                    "budget=uniform rank=score");
    expect_settings(FT_STAGE_PROMPT, "specpc", NULL,
                    "keep=1024# window=64# kernel=32# neighbors=kernel pool=max reduce=max "
                    "start_layer=min(8, n_layer/2) weighted=code lookahead=1# positions=compact "
                    "protect=on");
    struct ft_facts facts = { .n_prompt = 1000, .n_layer = 6, .n_predict = 256 };
    expect_settings(FT_STAGE_KV, "speckv", &facts,
                    "keep=1024# window=32# kernel=7# pool=max reduce=max lookahead=256# "
                    "prefill_window=2048# prefill_vertical=2048# budget=uniform rank=score");
    expect_settings(FT_STAGE_PROMPT, "specpc:kernel=64", &facts,
                    "keep=1024# window=64# kernel=64# neighbors=64# pool=max reduce=max "
                    "start_layer=3# weighted=code lookahead=1# positions=compact protect=on");
}

static void test_given(void **state) {
    (void)state;
    expect_settings(FT_STAGE_KV,
                    "speckv:keep=25%,window=16,kernel=9,pool=mean,reduce=mean,lookahead=20,"
                    "prefill_window=128,prefill_vertical=64",
                    NULL,
                    "keep=25% window=16# kernel=9# pool=mean reduce=mean lookahead=20# "
                    "prefill_window=128# prefill_vertical=64# budget=uniform rank=score");
    expect_settings(FT_STAGE_KV, /* both ends of every range are inside */
                    "speckv:keep=65537,window=65536,kernel=4095,lookahead=65536,"
                    "prefill_window=1048576,prefill_vertical=1048576",
                    NULL,
                    "keep=65537# window=65536# kernel=4095# pool=max reduce=max "
                    "lookahead=65536# prefill_window=1048576# prefill_vertical=1048576# "
                    "budget=uniform rank=score");
    expect_settings(FT_STAGE_KV,
                    "speckv:keep=2,window=1,kernel=1,lookahead=1,prefill_window=64,"
                    "prefill_vertical=0",
                    NULL,
                    "keep=2# window=1# kernel=1# pool=max reduce=max lookahead=1# "
                    "prefill_window=64# prefill_vertical=0# budget=uniform rank=score");
    expect_settings(FT_STAGE_PROMPT,
                    "specpc:protect=off,positions=original,lookahead=3,weighted=off,start_layer=0,"
                    "reduce=mean,pool=none,neighbors=0,kernel=2,window=4,keep=64MiB",
                    NULL,
                    "keep=64MiB window=4# kernel=2# neighbors=0# pool=none reduce=mean "
                    "start_layer=0# weighted=off lookahead=3# positions=original protect=off");
}

static void test_errors(void **state) {
    (void)state;
    const enum ft_stage kv = FT_STAGE_KV, pc = FT_STAGE_PROMPT;
    expect_error(
        kv, "snapkw", 0,
        "unknown kv method \"snapkw\"; there are: dense, speckv, oracle, laq, snapkv, h2o, "
        "keyformer, tova, corm, streamingllm, knorm, random");
    expect_error(pc, "Specpc:keep=3", 0,
                 "unknown prompt method \"Specpc\"; there are: dense, specpc, specprefill, random, "
                 "tail");
    expect_error(kv, "specpc", 0,
                 "specpc is a prompt method, not a kv method: use --prompt specpc");
    expect_error(pc, "speckv:keep=3", 0, "speckv is a kv method, not a prompt method: use --kv");
    expect_error(kv, "speckv:kep=3", 7,
                 "speckv has no parameter \"kep\"; it has: keep, window, kernel, pool, reduce, "
                 "lookahead, prefill_window, prefill_vertical, budget, beta, alpha, rule");
    expect_error(pc, "specpc:w=3", 7,
                 "it has: keep, window, kernel, neighbors, pool, reduce, start_layer, weighted, "
                 "lookahead, positions, protect");
    expect_error(kv, "dense:keep=3", 6, "dense takes no parameters");
    expect_error(kv, "speckv:", 7, "expected key=value at byte 7");
    expect_error(kv, "speckv:keep=128,", 16, "expected key=value at byte 16");
    expect_error(kv, "speckv:,keep=128", 7, "expected key=value at byte 7");
    expect_error(kv, ":keep=4", 0, "unknown kv method \"\"");
    expect_error(kv, "speckv:keep", 7,
                 "keep has no value, expected keep=rows (256), a share (25%)");
    expect_error(kv, "speckv:=4", 7, "no parameter \"\"");
    expect_error(kv, "speckv:keep=128,keep=256", 16, "keep is given twice");
    expect_error(kv, "speckv:keep=", 12, "keep is \"\", expected rows (256)");
    expect_error(kv, "speckv:window=0", 14, "window is \"0\", expected 1..65536");
    expect_error(kv, "speckv:window=65537", 14, "expected 1..65536");
    expect_error(kv, "speckv:window=-1", 14, "window is \"-1\"");
    expect_error(kv, "speckv:window= 1", 14, "window is \" 1\"");
    expect_error(kv, "speckv:window=99999999999999999999999999", 14, "expected 1..65536");
    expect_error(kv, "speckv:kernel=8", 14, "kernel is \"8\", expected 1..4095 in steps of 2");
    expect_error(kv, "speckv:prefill_window=100", 22, "expected 64..1048576 in steps of 64");
    expect_error(kv, "speckv:pool=none", 12, "pool is \"none\", expected max|mean");
    expect_error(pc, "specpc:pool=ma", 12, "expected max|mean|none");
    expect_error(pc, "specpc:pool=max|mean", 12, "expected max|mean|none");
    expect_error(pc, "specpc:protect=", 15, "expected on|off");
    expect_error(kv, "speckv:keep=64\nMiB", 12, "keep is \"64?MiB\"");
}

static void test_window_and_keep(void **state) {
    (void)state;
    const enum ft_stage kv = FT_STAGE_KV, pc = FT_STAGE_PROMPT;
    expect_error(kv, "speckv:keep=32,window=32", 0,
                 "window is 32, expected less than keep, which is 32");
    expect_error(kv, "speckv:keep=8", 0, "window is 8, expected less than keep, which is 8");
    expect_error(pc, "specpc:keep=64", 0, "window is 64, expected less than keep, which is 64");
    struct ft_choice choice = parsed(kv, "speckv:keep=9");
    struct ft_facts facts = { .n_prompt = 100, .n_layer = 4, .n_predict = 5, .token_bytes = 1000 };
    struct ft_look look;
    choice.method->look(choice.params, &facts, &look);
    assert_int_equal(look.window, 8); /* keep < 64 */
    ft_choice_done(&choice);
    choice = parsed(kv, "speckv:keep=64");
    choice.method->look(choice.params, &facts, &look);
    assert_int_equal(look.window, 32);
    ft_choice_done(&choice);

    struct ft_error err;
    choice = parsed(kv, "speckv:keep=50%"); /* 50 rows: the small window */
    choice.method->look(choice.params, &facts, &look);
    assert_int_equal(look.window, 8);
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_OK);
    facts.n_prompt = 16;
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_ARG);
    assert_non_null(
        strstr(err.text, "window is 8, expected less than keep, which is 50% = 8 rows"));
    ft_choice_done(&choice);
    choice = parsed(kv, "speckv:keep=9KB");
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_OK);
    facts.token_bytes = 1001;
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_ARG);
    assert_non_null(strstr(err.text, "9KB = 8 rows"));
    ft_choice_done(&choice);
    choice = parsed(pc, "specpc:start_layer=4");
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_ARG);
    assert_non_null(strstr(err.text, "start_layer is 4, but the layers are 0..3"));
    facts.n_layer = 5;
    assert_int_equal(ft_choice_budget_check(&choice, &facts, &err), FT_OK);
    ft_choice_done(&choice);
}

static void test_uint(void **state) {
    (void)state;
    struct ft_choice choice = parsed(FT_STAGE_KV, "speckv:prefill_vertical=0");
    uint32_t value = 7;
    assert_true(ft_choice_uint(&choice, "prefill_vertical", &value) && value == 0);
    assert_true(ft_choice_uint(&choice, "lookahead", &value) && value == FT_UNSET);
    assert_false(ft_choice_uint(&choice, "keep", &value));
    assert_false(ft_choice_uint(&choice, "pool", &value));
    ft_choice_done(&choice);
}

static void test_nomem(void **state) {
    (void)state;
    struct ft_choice choice;
    struct ft_error err;
    ft_alloc_fail_after(1, false);
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, "speckv", &choice, &err), FT_NOMEM);
    ft_alloc_fail_after(0, false);
}

/* ---- amounts ---- */

static void test_amount_text(void **state) {
    (void)state;
    static const char *const same[] = { "1",       "256",  "2147483647", "25%",    "12.5%",
                                        "0.0001%", "100%", "64MiB",      "1.5GiB", "64MB",
                                        "3KB",     "7KiB", "1GB",        "0.3KiB", "1000001B",
                                        "33.25%",  "1B" };
    static const char *const shorter[][2] = { { "1024KiB", "1MiB" }, { "1000KB", "1MB" },
                                              { "1000000B", "1MB" }, { "007", "7" },
                                              { "25.0%", "25%" },    { "1024B", "1KiB" } };
    struct ft_amount amount;
    char text[24];
    for (size_t i = 0; i < FT_COUNT(same); i++) {
        assert_int_equal(ft_amount_parse(same[i], &amount), FT_OK);
        ft_amount_text(&amount, text, sizeof(text));
        assert_string_equal(text, same[i]);
    }
    for (size_t i = 0; i < FT_COUNT(shorter); i++) {
        assert_int_equal(ft_amount_parse(shorter[i][0], &amount), FT_OK);
        ft_amount_text(&amount, text, sizeof(text));
        assert_string_equal(text, shorter[i][1]);
    }
}

static void test_amount_bad(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",    "0",    "0%",     "0MiB",  "-1",       "+1",         "1.5",
        "%",   "101%", "100.1%", "1e3",   "64mib",    "64M",        "64 MiB",
        "MiB", ".5%",  "1.%",    "1..2%", "12%%",     "0x10",       "nan",
        "inf", "256 ", " 256",   "1,5%",  "0.00001%", "2147483648", "99999999999999999999",
        "25%x"
    };
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        struct ft_amount amount = { FT_AMOUNT_ROWS, 42 };
        if (ft_amount_parse(bad[i], &amount) != FT_ARG || amount.value != 42) {
            fail_msg("\"%s\" was accepted or changed the output", bad[i]);
        }
    }
}

static void test_amount_rows(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t n_prompt;
        uint64_t token_bytes;
        uint32_t want;
    } cases[] = { { "256", 10, 1, 256 },          { "25%", 10, 1, 2 },
                  { "25%", 1000, 1, 250 },        { "29%", 100, 1, 29 },
                  { "0.1%", 1000, 1, 1 },         { "0.1%", 999, 1, 0 },
                  { "33.3333%", 30000, 1, 9999 }, { "100%", 7, 1, 7 },
                  { "1MiB", 0, 1024, 1024 },      { "1MiB", 0, 1025, 1023 },
                  { "1KB", 0, 1024, 0 },          { "0.5KiB", 0, 2, 256 },
                  { "8GiB", 0, 1, INT32_MAX },    { "1.1%", 10000, 1, 110 } };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_amount amount;
        struct ft_facts facts = { .n_prompt = cases[i].n_prompt,
                                  .token_bytes = cases[i].token_bytes };
        assert_int_equal(ft_amount_parse(cases[i].text, &amount), FT_OK);
        assert_int_equal(ft_amount_rows(&amount, &facts), cases[i].want);
    }
}

/* Rows of a head in the bytes of all: whole blocks of the oldest, `residual` or more exact ones. */
static uint64_t packed_bytes(uint32_t n, const struct ft_facts *facts) {
    uint32_t n_block = n > facts->residual ? (n - facts->residual) / facts->block_rows : 0;
    return n_block * facts->block_bytes +
           (uint64_t)(n - n_block * facts->block_rows) * facts->token_bytes;
}

/* Where rows are packed a row more may take less: of an input, the most rows that fit. */
static void test_packed_amount(void **state) {
    (void)state;
    static const uint64_t block_bytes[] = { 18432, 28672, 69632 }; /* 2 bits to 8, 2 KiB a row */
    for (uint32_t i = 0; i < 3 * 3 * 700; i++) {
        struct ft_facts facts = { .n_prompt = 1 + i / 9 * 3,
                                  .token_bytes = 2048,
                                  .block_bytes = block_bytes[i % 3],
                                  .block_rows = 64,
                                  .residual = i / 3 % 3 * 32 };
        for (uint64_t bytes = 8192; bytes <= 1 << 22; bytes = bytes * 3 / 2) {
            struct ft_amount amount = { FT_AMOUNT_BYTES, (double)bytes };
            uint32_t want = facts.n_prompt, rows = ft_amount_rows(&amount, &facts);
            while (want > 0 && packed_bytes(want, &facts) > bytes) {
                want--;
            }
            if (FT_MIN(rows, facts.n_prompt) != want) {
                fail_msg("%u rows, residual %u, %llu bytes: got %u want %u", facts.n_prompt,
                         facts.residual, (unsigned long long)bytes, rows, want);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_catalogue),       cmocka_unit_test(test_public),
        cmocka_unit_test(test_dense),           cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_given),           cmocka_unit_test(test_errors),
        cmocka_unit_test(test_window_and_keep), cmocka_unit_test(test_uint),
        cmocka_unit_test(test_nomem),           cmocka_unit_test(test_amount_text),
        cmocka_unit_test(test_amount_bad),      cmocka_unit_test(test_amount_rows),
        cmocka_unit_test(test_packed_amount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
