/* SPDX-License-Identifier: Apache-2.0 */
/* test_conf.c - the command line against the option table: kinds, spellings, refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "conf/conf.h"

enum { WORD_CAP = 80 };

/* parse - words in one string, separated by blanks; a `~` stands for a blank inside a word. */
static ft_status parse(uint32_t command, const char *line, struct ft_conf *conf) {
    static char words[2048];
    static char *argv[WORD_CAP];
    int argc = 0;
    assert_true(strlen(line) < sizeof words);
    snprintf(words, sizeof words, "%s", line);
    for (char *at = words; *at != '\0';) {
        size_t n = strcspn(at, " ");
        assert_true(argc < WORD_CAP);
        argv[argc++] = at;
        bool is_last = at[n] == '\0';
        at[n] = '\0';
        for (size_t i = 0; i < n; i++) {
            at[i] = at[i] == '~' ? ' ' : at[i];
        }
        at += n + !is_last;
    }
    return ft_conf_parse(command, argc, argv, conf);
}

static void accept(uint32_t command, const char *line, struct ft_conf *conf) {
    if (parse(command, line, conf) != FT_OK) {
        fail_msg("\"%s\" is refused: %s", line, conf->error);
    }
}

/* refuse - the message holds every word of `expected`, blanks between them. */
static void refuse(uint32_t command, const char *line, const char *expected) {
    struct ft_conf conf;
    if (parse(command, line, &conf) == FT_OK) {
        fail_msg("\"%s\" is accepted", line);
    }
    if (!strstr(conf.error, expected)) {
        fail_msg("\"%s\": \"%s\" does not say \"%s\"", line, conf.error, expected);
    }
    assert_null(strchr(conf.error, '\n'));
}

/* One format, of which the last counts, or for eval all of them; what is typed over a file's values
 * replaces them as methods do, each for itself. */
static void kv_types(void **state) {
    char *const over[] = { "--kv-type", "bf16", "--samples", "3" };
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_GENERATE, "--kv-type q4 --kv-type k=q4,v=q2,group=32", &conf);
    assert_string_equal(conf.kv_type, "k=q4,v=q2,group=32");
    assert_int_equal(conf.kv_types.n, 0);
    accept(FT_CMD_PERPLEXITY, "--kv-type calibrated", &conf);
    assert_string_equal(conf.kv_type, "calibrated");
    accept(FT_CMD_BENCH, "--kv-type q4 --kv-type calibrated", &conf);
    assert_string_equal(conf.kv_types.text[1], "calibrated");
    accept(FT_CMD_EVAL, "ruler --kv-type f16 --kv snapkv --kv-type=k=q4,v=q2", &conf);
    assert_null(conf.kv_type);
    assert_int_equal(conf.kv_types.n, 2);
    assert_string_equal(conf.kv_types.text[1], "k=q4,v=q2");
    assert_int_equal(ft_conf_over(FT_CMD_EVAL, 4, over, &conf), FT_OK);
    assert_int_equal(conf.kv_types.n, 1);
    assert_string_equal(conf.kv_types.text[0], "bf16");
    assert_string_equal(conf.kv.text[0], "snapkv");
    assert_int_equal(ft_conf_over(FT_CMD_EVAL, 2, over + 2, &conf), FT_OK);
    assert_int_equal(conf.kv_types.n, 1);
    refuse(FT_CMD_EVAL, "--kv-type f16 --kv-type q3", "--kv-type q3: kv type: 'q3' is unknown");
    refuse(FT_CMD_BENCH, "--kv-type k=q4,v=q3", "v is 'q3', expected f32");
    refuse(FT_CMD_EVAL, "--kv-type f16,q4", "'q4' is unknown, expected"); /* no list with commas */
}

/* Whether an option was typed, by any of its names; an initial value is not. */
static void given(void **state) {
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_EVAL, "ruler --samples 20 --answer_prefix=on", &conf);
    assert_true(ft_conf_has(&conf, "--samples"));
    assert_true(ft_conf_has(&conf, "--answer-prefix"));
    assert_false(ft_conf_has(&conf, "--ctx"));
    assert_int_equal(conf.ctx.value[0], 4096);
    assert_false(ft_conf_has(&conf, "--seed"));
    assert_false(ft_conf_has(&conf, "--sample"));
    accept(FT_CMD_EVAL, "ruler --ctx 4096 -t 2", &conf);
    assert_true(ft_conf_has(&conf, "--ctx") && ft_conf_has(&conf, "--threads"));
    assert_false(ft_conf_has(&conf, "--samples"));
    accept(FT_CMD_BENCH, "--ctx 512", &conf); /* another row of the same name */
    assert_true(ft_conf_has(&conf, "--ctx"));
}

static void initial_values(void **state) {
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_GENERATE, "", &conf);
    assert_null(conf.model);
    assert_int_equal(conf.n_predict, 256);
    assert_int_equal(conf.n_ctx, 0);
    assert_int_equal(conf.repeat_last_n, 64);
    assert_true(conf.temperature == 0 && conf.top_p == 1 && conf.min_p == 0);
    assert_true(conf.repeat_penalty == 1);
    assert_int_equal(conf.progress, FT_PROGRESS_AUTO);
    accept(FT_CMD_PERPLEXITY, "", &conf);
    assert_int_equal(conf.n_ctx, 512);
    assert_true(conf.repeat_penalty == 0); /* not one of its options: no value */
    accept(FT_CMD_INFO, "", &conf);
    assert_int_equal(conf.n_ctx, 0);
    accept(FT_CMD_BENCH, "", &conf);
    assert_int_equal(conf.n_predict, 32);
    assert_int_equal(conf.ctx.n + conf.depth.n, 0);
    assert_int_equal(conf.n_pp, 512);
}

static void spellings(void **state) {
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_GENERATE, "-m a.gguf -md b.gguf -n 5 --n_predict=6 --temp 0.5", &conf);
    assert_string_equal(conf.model, "a.gguf");
    assert_string_equal(conf.draft, "b.gguf");
    assert_int_equal(conf.n_predict, 6);
    assert_true(conf.temperature == 0.5);
    accept(FT_CMD_GENERATE, "--model=x=y.gguf -p=why? -f -", &conf);
    assert_string_equal(conf.model, "x=y.gguf");
    assert_string_equal(conf.text, "why?");
    assert_string_equal(conf.file, "-");
    accept(FT_CMD_GENERATE, "-p -~a~list~item", &conf);
    assert_string_equal(conf.text, "- a list item");
    accept(FT_CMD_GENERATE, "-p=--json", &conf);
    assert_string_equal(conf.text, "--json");
    assert_false(conf.is_json);
    accept(FT_CMD_INFO, "a.gguf --json -- -b.gguf", &conf);
    assert_int_equal(conf.n_arg, 2);
    assert_string_equal(conf.arg[1], "-b.gguf");
    assert_true(conf.is_json);
}

static void lists_and_numbers(void **state) {
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_GENERATE, "--stop a -r b --seed 9223372036854775807", &conf);
    assert_int_equal(conf.stop.n, 2);
    assert_string_equal(conf.stop.text[1], "b");
    assert_true(conf.seed.value == INT64_MAX && !conf.seed.is_drawn);
    accept(FT_CMD_GENERATE, "-s -1", &conf);
    assert_true(conf.seed.is_drawn);
    accept(FT_CMD_BENCH, "--ctx 1024,4096,7 --against libllama", &conf);
    assert_int_equal(conf.ctx.n, 3);
    assert_int_equal(conf.ctx.value[1], 4096);
    assert_int_equal(conf.against, FT_AGAINST_LIBLLAMA);
    accept(FT_CMD_BENCH, "--depth 0,4096 --pp 7 --tg 1 --shape tiny:q8_0", &conf);
    assert_int_equal(conf.depth.n, 2);
    assert_int_equal(conf.depth.value[0], 0);
    assert_int_equal(conf.depth.value[1], 4096);
    assert_int_equal(conf.n_pp, 7);
    assert_string_equal(conf.shape, "tiny:q8_0");
    accept(FT_CMD_GENERATE, "--kv speckv:keep=25% --prompt specpc:keep=64MiB", &conf);
    assert_string_equal(conf.kv.text[0], "speckv:keep=25%");
}

static void limits(void **state) {
    struct ft_conf conf;
    (void)state;
    accept(FT_CMD_GENERATE, "-n 0 -c 0", &conf);
    assert_int_equal(conf.n_predict, 0);
    accept(FT_CMD_GENERATE, "-n -1", &conf);
    assert_true(conf.n_predict == FT_NO_LIMIT);
    accept(FT_CMD_GENERATE, "--n-predict=1000000", &conf);
    assert_int_equal(conf.n_predict, 1000000);
    accept(FT_CMD_PERPLEXITY, "-c 4", &conf);
    assert_int_equal(conf.n_ctx, 4);
}

static void refusals(void **state) {
    (void)state;
    refuse(FT_CMD_GENERATE, "--kvv x", "did you mean --kv?; there are: --model");
    refuse(FT_CMD_TOKENS, "--kv speckv", "no option --kv; there are: --model");
    refuse(FT_CMD_GENERATE, "-n", "-n needs a value: N");
    refuse(FT_CMD_GENERATE, "-f -p x", "-f needs a value (FILE) and is followed by the option -p");
    refuse(FT_CMD_GENERATE, "--json=yes", "--json takes no value");
    refuse(FT_CMD_GENERATE, "-n -2",
           "--predict is \"-2\", expected a whole number from -1 to 1000000");
    refuse(FT_CMD_GENERATE, "-n 1e3", "a whole number from -1");
    refuse(FT_CMD_GENERATE, "-n 99999999999999999999", "a whole number from -1");
    refuse(FT_CMD_GENERATE, "-n=", "a whole number from -1");
    refuse(FT_CMD_BENCH, "-n -1", "--predict is \"-1\", expected a whole number from 1 to 1000000");
    refuse(FT_CMD_INFO, "-n 0", "a whole number from 1");
    refuse(FT_CMD_PERPLEXITY, "-c 0", "--ctx-size is \"0\", expected a whole number from 4");
    refuse(FT_CMD_PERPLEXITY, "-c 3", "a whole number from 4");
    refuse(FT_CMD_GENERATE, "--temp nan", "a number from 0 to 100");
    refuse(FT_CMD_GENERATE, "--top-p 1.5", "a number from 0 to 1");
    refuse(FT_CMD_GENERATE, "--top-p 0,5", "a number from 0 to 1");
    refuse(FT_CMD_GENERATE, "--seed 1.5", "a whole number, or -1");
    refuse(FT_CMD_GENERATE, "--seed 9223372036854775808", "a whole number, or -1");
    refuse(FT_CMD_GENERATE, "--progress fancy", "one of auto|plain|json|none");
    refuse(FT_CMD_GENERATE, "-m=", "a file name");
    refuse(FT_CMD_BENCH, "--tg 0", "a whole number from 1");
    refuse(FT_CMD_BENCH, "--depth 1,", "whole numbers from 0");
    refuse(FT_CMD_GENERATE, "--depth 1", "no option --depth");
    refuse(FT_CMD_BENCH, "--ctx 10,", "whole numbers from 1");
    refuse(FT_CMD_BENCH, "--ctx ,10", "whole numbers from 1");
    refuse(FT_CMD_BENCH, "--ctx 0", "whole numbers from 1");
    refuse(FT_CMD_BENCH, "--ctx 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "up to 16 whole");
}

static void method_refusals(void **state) {
    (void)state;
    refuse(FT_CMD_GENERATE, "--kv nope", "there are: dense");
    refuse(FT_CMD_GENERATE, "--prompt speckv", "--prompt: ");
    refuse(FT_CMD_GENERATE, "--prompt Who~is~it?", "goes with -p");
    refuse(FT_CMD_GENERATE, "--kv speckv:kepe=3", "keep");
    refuse(FT_CMD_GENERATE, "--kv speckv:keep=10,window=10", "window");
    refuse(FT_CMD_GENERATE, "--kv speckv:keep=0", "keep");
    refuse(FT_CMD_GENERATE, "--kv speckv:kernel=4", "kernel");
    refuse(FT_CMD_GENERATE, "--kv speckv:pool=median", "max|mean");
}

/* What is typed goes over values that are there; methods replace, as a sweep's file expects. */
static void values_on_top(void **state) {
    char *argv[] = { (char *)(uintptr_t) "sweep", (char *)(uintptr_t) "--samples=3",
                     (char *)(uintptr_t) "--kv", (char *)(uintptr_t) "dense" };
    struct ft_conf conf;
    (void)state;
    assert_int_equal(ft_conf_init(FT_CMD_EVAL, &conf), FT_OK);
    assert_int_equal(conf.n_sample, 20);
    assert_int_equal(ft_conf_set(ft_conf_find(FT_CMD_EVAL, "--kv"), "snapkv", &conf), FT_OK);
    assert_int_equal(ft_conf_set(ft_conf_find(FT_CMD_EVAL, "--prompt"), "tail", &conf), FT_OK);
    assert_int_equal(ft_conf_set(ft_conf_find(FT_CMD_EVAL, "--ctx"), "512", &conf), FT_OK);
    assert_int_equal(ft_conf_set(ft_conf_find(FT_CMD_EVAL, "--ctx"), "5", &conf), FT_ARG);
    assert_non_null(strstr(conf.error, "--ctx is \"5\", expected"));
    assert_int_equal(ft_conf_over(FT_CMD_EVAL, 2, argv, &conf), FT_OK);
    assert_string_equal(conf.kv.text[0], "snapkv");
    assert_int_equal(conf.ctx.value[0], 512);
    assert_int_equal(conf.n_sample, 3);
    assert_int_equal(conf.n_arg, 1);
    assert_int_equal(ft_conf_over(FT_CMD_EVAL, 4, argv, &conf), FT_OK);
    assert_int_equal(conf.prompt.n, 0);
    assert_int_equal(conf.kv.n, 1);
    assert_string_equal(conf.kv.text[0], "dense");
    assert_null(ft_conf_find(FT_CMD_GENERATE, "--samples"));
    accept(FT_CMD_EVAL, "ruler --shard 2/8 --keep 32,25%", &conf);
    assert_true(conf.shard.i == 2 && conf.shard.n == 8);
    assert_string_equal(conf.keep, "32,25%");
    accept(FT_CMD_EVAL, "ruler", &conf);
    assert_int_equal(conf.shard.n, 0);
    refuse(FT_CMD_EVAL, "--shard 9/8", "--shard is \"9/8\", expected i/n with 1 <= i <= n");
}

/* A list that is too long says so instead of forgetting its end. */
static void argument_bound(void **state) {
    char *argv[FT_ARG_CAP + 1];
    struct ft_conf conf;
    (void)state;
    for (int i = 0; i < FT_ARG_CAP; i++) {
        argv[i] = (char *)(uintptr_t) "a";
    }
    argv[FT_ARG_CAP] = (char *)(uintptr_t) "last";
    assert_int_equal(ft_conf_parse(FT_CMD_REPORT, FT_ARG_CAP, argv, &conf), FT_OK);
    assert_int_equal(conf.n_arg, FT_ARG_CAP);
    assert_int_equal(ft_conf_parse(FT_CMD_REPORT, FT_ARG_CAP + 1, argv, &conf), FT_ARG);
    assert_string_equal(conf.error, "unexpected argument \"last\"");
}

static void list_bound(void **state) {
    char line[1024] = "";
    struct ft_conf conf;
    (void)state;
    for (uint32_t i = 0; i < FT_TEXTS_CAP; i++) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "%s-r x", i > 0 ? " " : "");
    }
    accept(FT_CMD_GENERATE, line, &conf);
    assert_int_equal(conf.stop.n, FT_TEXTS_CAP);
    size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, " -r y");
    refuse(FT_CMD_GENERATE, line, "no more than 32");
}

/* Every row is explained and has an initial value that it would accept itself. */
static void table(void **state) {
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    char name[48], line[128];
    struct ft_conf conf;
    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        if (option[i].kind == FT_OPT_GROUP) {
            continue;
        }
        assert_non_null(option[i].help);
        assert_true(option[i].commands != 0);
        assert_true((option[i].kind == FT_OPT_FLAG) == (option[i].arg == NULL));
        ft_option_name(&option[i], name, sizeof name);
        for (uint32_t bit = 1; bit <= FT_CMD_HELP; bit <<= 1) {
            const char *initial = ft_conf_initial(&option[i], bit);
            if (initial && (option[i].commands & bit)) {
                snprintf(line, sizeof line, "%s=%s", name, initial);
                accept(bit, line, &conf);
            }
        }
    }
}

static void numbers_as_text(void **state) {
    uint64_t whole = 7;
    double real;
    (void)state;
    assert_true(ft_text_uint("18446744073709551615", UINT64_MAX, &whole) && whole == UINT64_MAX);
    assert_false(ft_text_uint("18446744073709551616", UINT64_MAX, &whole));
    assert_false(ft_text_uint("", 9, &whole));
    assert_false(ft_text_uint("+1", 9, &whole));
    assert_false(ft_text_uint("10", 9, &whole));
    assert_true(ft_text_real("-inf", &real) && real == -INFINITY);
    assert_false(ft_text_real("nan", &real));
    assert_false(ft_text_real(" 1", &real));
    assert_false(ft_text_real("1x", &real));
}

static void biases_as_text(void **state) {
    struct ft_logit_bias bias = { 0 };
    (void)state;
    assert_true(ft_text_bias("15043+1", &bias) && bias.id == 15043 && bias.bias == 1.0f);
    assert_true(ft_text_bias("3-inf", &bias) && bias.id == 3 && bias.bias == -INFINITY);
    assert_true(ft_text_bias("3=0.5", &bias) && bias.bias == 0.5f);
    assert_false(ft_text_bias("3", &bias));
    assert_false(ft_text_bias("+3", &bias));
    assert_false(ft_text_bias("3+inf", &bias));
    assert_false(ft_text_bias("3+nan", &bias));
    assert_false(ft_text_bias("99999999999+1", &bias));
    assert_false(ft_text_bias("3+1x", &bias));
}

static void words(void **state) {
    uint32_t n = 0;
    char text[] = "a\\nb\\\\n\\q\\";
    (void)state;
    assert_true(ft_text_self("self:layers=4", &n) && n == 4);
    assert_false(ft_text_self("self:layers=0", &n));
    assert_false(ft_text_self("self:layers=", &n));
    assert_false(ft_text_self("self:layer=4", &n));
    ft_text_escape(text, text);
    assert_string_equal(text, "a\nb\\n\\q\\");
    assert_int_equal(ft_text_distance("--kv", "--kv"), 0);
    assert_int_equal(ft_text_distance("--seed", "--sede"), 1);
    assert_int_equal(ft_text_distance("kitten", "sitting"), 3);
    assert_int_equal(ft_text_distance("", "abc"), 3);
    assert_int_equal(ft_text_distance("0123456789012345678901234567890123", "a"), 99);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(given),
        cmocka_unit_test(kv_types),
        cmocka_unit_test(initial_values),
        cmocka_unit_test(spellings),
        cmocka_unit_test(lists_and_numbers),
        cmocka_unit_test(limits),
        cmocka_unit_test(refusals),
        cmocka_unit_test(method_refusals),
        cmocka_unit_test(values_on_top),
        cmocka_unit_test(argument_bound),
        cmocka_unit_test(list_bound),
        cmocka_unit_test(table),
        cmocka_unit_test(numbers_as_text),
        cmocka_unit_test(biases_as_text),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
