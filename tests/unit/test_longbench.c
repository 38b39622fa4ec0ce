/* SPDX-License-Identifier: Apache-2.0 */
/* test_longbench.c - the table against LongBench's own files, prompts, the cut, and the reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/longbench.h"

#define FILE_PATH FT_TEST_SCRATCH_DIR "/data.jsonl"

/* ---- the table ---- */

/* SHA-256 of each value of LongBench/config/dataset2prompt.json in THUDM/LongBench at 2e00731,
 * computed from that file; limits from dataset2maxlen.json; metrics and whether the chat template
 * is used from eval.py and pred.py. */
static const struct {
    const char *name, *sha256;
    uint32_t n_predict;
    enum ft_metric metric;
    bool has_input, has_template, is_first_line;
} official[] = {
    { "narrativeqa", "aada7ed24b06abace5b0045ac3bcfe06fc831a6cf434f0ecfd99fb7b3d299e1c", 128,
      FT_METRIC_F1, true, true, false },
    { "qasper", "0fbdd123fe7f83d6d6a9c583ca28cb29d68e523bf8fec01a0cf2dcd11037775d", 128,
      FT_METRIC_F1, true, true, false },
    { "multifieldqa_en", "20b4666a2de8a1f701bdb6c4e015fa9f8758d64b361d841f7766df6c9ceba770", 64,
      FT_METRIC_F1, true, true, false },
    { "hotpotqa", "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb", 32,
      FT_METRIC_F1, true, true, false },
    { "2wikimqa", "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb", 32,
      FT_METRIC_F1, true, true, false },
    { "musique", "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb", 32,
      FT_METRIC_F1, true, true, false },
    { "gov_report", "91c25d585b189ced91c9280efcb4ecb5dcff9548cd4e3bfae66c68025b569e95", 512,
      FT_METRIC_ROUGE_L, false, true, false },
    { "qmsum", "dca23b678fe0183bbd9555b57947022aed1b85739da5ad7e1b4708dd0c71c409", 512,
      FT_METRIC_ROUGE_L, true, true, false },
    { "multi_news", "2af3f28c40b902e6535d4910510d51653613c49de9b2fc287c5958395061101d", 512,
      FT_METRIC_ROUGE_L, false, true, false },
    { "trec", "0eff8bebdba99d91e9d7d91b6ab39455ac74648bea92c9255c9f68c62175b2db", 64,
      FT_METRIC_CLASS, true, false, true },
    { "triviaqa", "00a802e6377e72fca39b169cf6c28893bedf23ba7286b03ecd15867c3e27a7c4", 32,
      FT_METRIC_F1, true, false, true },
    { "samsum", "a68d884234907eefcaa0eacf7b2997f60fa46603988dceae6a44f9b49f045b3f", 128,
      FT_METRIC_ROUGE_L, true, false, true },
    { "lcc", "6a1f24cf0bb83cd90f1fca8f0dd24801626c2aaea29db834ddc83b950e71190e", 64, FT_METRIC_CODE,
      false, false, false },
    { "repobench-p", "ee9ec182ea5ffeb70a7140d55baea97264a8612d88226d323afa90859c36240c", 64,
      FT_METRIC_CODE, true, false, false },
};

static uint32_t count(const char *text, const char *part) {
    uint32_t n = 0;
    for (; (text = strstr(text, part)) != NULL; text += strlen(part)) {
        n++;
    }
    return n;
}

static void table(void **state) {
    (void)state;
    assert_int_equal(FT_COUNT(official), FT_LONGBENCH_COUNT);
    for (size_t i = 0; i < FT_COUNT(official); i++) {
        const struct ft_longbench_set *set = ft_longbench_find(official[i].name);
        struct ft_sha256 sha;
        char hex[65];
        assert_non_null(set);
        assert_ptr_equal(set, &ft_longbench_sets[i]); /* the order of reports */
        ft_sha256_init(&sha);
        ft_sha256_add(&sha, set->format, strlen(set->format));
        ft_sha256_done(&sha, hex);
        if (strcmp(hex, official[i].sha256) != 0) {
            fail_msg("%s: not LongBench's format: %s", set->name, set->format);
        }
        assert_int_equal(count(set->format, "{context}"), 1);
        assert_int_equal(count(set->format, "{input}"), official[i].has_input);
        assert_int_equal(count(set->format, "{"), 1 + official[i].has_input);
        assert_int_equal(set->n_predict, official[i].n_predict);
        assert_int_equal(set->metric, official[i].metric);
        assert_int_equal(set->has_template, official[i].has_template);
        assert_int_equal(set->is_first_line, official[i].is_first_line);
    }
    assert_null(ft_longbench_find("passage_count"));
    assert_null(ft_longbench_find(""));
}

/* ---- prompts ---- */

static void assert_prompt(const char *name, const char *context, const char *input,
                          const char *want) {
    char *text = NULL;
    assert_int_equal(ft_longbench_prompt(ft_longbench_find(name), context, input, &text), FT_OK);
    assert_string_equal(text, want);
    ft_free(text);
}

static void prompts(void **state) {
    (void)state;
    assert_prompt("lcc", "int a;\n", "unused",
                  "Please complete the code given below. \nint a;\nNext line of code:\n");
    assert_prompt("repobench-p", "{input}", "{context}%s",
                  "Please complete the code given below. \n{input}{context}%sNext line of code:\n");
    assert_prompt("samsum", "", "",
                  "Summarize the dialogue into a few short sentences. The following are some "
                  "examples.\n\n\n\n");
    char *text = NULL;
    ft_alloc_fail_after(1, false);
    assert_int_equal(ft_longbench_prompt(ft_longbench_find("lcc"), "c", "i", &text), FT_NOMEM);
    ft_alloc_fail_after(0, false);
    assert_null(text);
}

static void cut(void **state) {
    (void)state;
    static const struct {
        uint32_t n, limit;
        const char *want;
        uint32_t n_want;
    } cases[] = {
        { 7, 0, "1234567", 7 }, /* not wanted */
        { 7, 1, "1234567", 7 }, { 7, 2, "17", 2 },      { 7, 4, "1267", 4 },
        { 7, 5, "1267", 4 }, /* int(5/2) at each end */
        { 7, 6, "123567", 6 },  { 7, 7, "1234567", 7 }, { 7, UINT32_MAX, "1234567", 7 },
        { 0, 4, "", 0 },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        static const uint32_t piece[7] = { 1, 1, 1, 1, 1, 1, 1 };
        char text[8] = "1234567";
        text[cases[i].n] = '\0';
        assert_int_equal(ft_longbench_cut(text, piece, cases[i].n, cases[i].limit),
                         cases[i].n_want);
        assert_string_equal(text, cases[i].want);
    }
}

/* Tokens of several bytes, of parts of a character, and of a blank that is not in the text. */
static void cut_pieces(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t piece[6], n, limit;
        const char *want;
    } cases[] = {
        { "one two three four", { 3, 4, 6, 5 }, 4, 2, "one four" },
        { "one two three four", { 4, 4, 6, 5 }, 4, 2, "one four" }, /* " one" */
        { "one two three four", { 4, 4, 6, 5 }, 4, 3, "one four" },
        { "\xC3\xBC.\xC3\xBC", { 1, 1, 1, 1, 1 }, 5, 2, "" }, /* half a letter at each end */
        { "\xC3\xBC.\xC3\xBC", { 1, 1, 1, 1, 1 }, 5, 4, "\xC3\xBC\xC3\xBC" },
        { "a\xF0\x9F\x98\x80z", { 2, 1, 1, 1, 1 }, 5, 2, "az" },
        { "abc", { 9, 9, 9 }, 3, 2, "abc" }, /* pieces that are not of this text: nothing breaks */
        { "abc", { 0, 0, 0 }, 3, 2, "" },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        char text[32];
        snprintf(text, sizeof text, "%s", cases[i].text);
        ft_longbench_cut(text, cases[i].piece, cases[i].n, cases[i].limit);
        assert_string_equal(text, cases[i].want);
    }
}

/* ---- data ---- */

static void write_data(const char *text) {
    FILE *file = fopen(FILE_PATH, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static struct ft_longbench_file *opened(const char *name) {
    struct ft_longbench_file *file = NULL;
    struct ft_error error = { 0 };
    if (ft_longbench_open(FILE_PATH, ft_longbench_find(name), &file, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return file;
}

static void reads(void **state) {
    (void)state;
    struct ft_longbench_item item = { 0 }, second = { 0 };
    struct ft_error error = { 0 };
    bool has_item = false;
    write_data("{\"input\": \"q\\u00e9\", \"context\": \"a\\nb\", \"answers\": [\"x\", \"y\"], "
               "\"length\": 12, \"dataset\": \"qasper\", \"language\": \"en\", "
               "\"all_classes\": null, \"_id\": \"id1\"}\n"
               "\n \t\r\n"
               "{\"context\":\"\",\"input\":\"\",\"answers\":[\"\"],\"all_classes\":[\"k\"]}\r");
    struct ft_longbench_file *file = opened("qasper");
    assert_int_equal(ft_longbench_next(file, &item, &has_item, &error), FT_OK);
    assert_true(has_item);
    assert_int_equal(ft_longbench_next(file, &second, &has_item, &error), FT_OK);
    assert_true(has_item);
    assert_int_equal(ft_longbench_next(file, &second, &has_item, &error), FT_OK);
    assert_false(has_item);
    ft_longbench_close(file);
    assert_string_equal(item.id, "id1");
    assert_string_equal(item.context, "a\nb");
    assert_string_equal(item.input, "q\xC3\xA9");
    assert_int_equal(item.answers.n, 2);
    assert_string_equal(item.answers.text[0], "x");
    assert_string_equal(item.answers.text[1], "y");
    assert_int_equal(item.classes.n, 0);
    assert_int_equal(item.length, 12);
    assert_string_equal(second.id, "");
    assert_string_equal(second.answers.text[0], "");
    assert_int_equal(second.classes.n, 1);
    assert_string_equal(second.classes.text[0], "k");
    assert_int_equal(second.length, 0);
    ft_longbench_item_done(&item);
    ft_longbench_item_done(&item);
    ft_longbench_item_done(&second);
}

/* The second line of a file is `line`; what the reader says of it, behind the file's name. */
static void assert_refused(const char *name, const char *line, const char *want) {
    static const char good[] = "{\"context\":\"c\",\"input\":\"i\",\"answers\":[\"a\"],"
                               "\"all_classes\":[\"a\"]}\n";
    char text[1024];
    struct ft_longbench_item item = { 0 }, untouched = { 0 };
    struct ft_error error = { 0 };
    bool has_item = false;
    snprintf(text, sizeof text, "%s%s\n%s", good, line, good);
    write_data(text);
    struct ft_longbench_file *file = opened(name);
    assert_int_equal(ft_longbench_next(file, &item, &has_item, &error), FT_OK);
    ft_longbench_item_done(&item);
    assert_int_equal(ft_longbench_next(file, &untouched, &has_item, &error), FT_FORMAT);
    assert_null(untouched.json);
    if (!strstr(error.text, want) || !strstr(error.text, "data.jsonl:2: ")) {
        fail_msg("%s: got \"%s\", want \"%s\"", line, error.text, want);
    }
    assert_true(error.where >= strlen(good) && error.where <= strlen(good) + strlen(line));
    assert_int_equal(ft_longbench_next(file, &item, &has_item, &error), FT_OK);
    assert_true(has_item); /* the bad line is behind */
    ft_longbench_item_done(&item);
    ft_longbench_close(file);
}

#define LINE(fields) "{\"context\":\"c\",\"input\":\"i\"," fields "}"

static void refusals(void **state) {
    (void)state;
    assert_refused("qasper", "[1]", ":2: the line is a list, expected an object");
    assert_refused("qasper", "{\"context\":\"c\",", ":2: not JSON at byte ");
    assert_refused("qasper", "{} {}", ":2: not JSON at byte ");
    assert_refused("qasper", "{\"context\":\"\xFF\"}", ":2: not JSON at byte ");
    assert_refused("qasper", "{\"context\":\"\\u0000\"}", ":2: not JSON at byte ");
    assert_refused("qasper", "{\"input\":\"a\",\"input\":\"b\"}", "duplicate object key");
    assert_refused("qasper", "{\"input\":\"i\"}", ":2: context is missing, expected a string");
    assert_refused("qasper", "{\"context\":7}", ":2: context is a number, expected a string");
    assert_refused("qasper", "{\"context\":\"c\",\"input\":null}",
                   ":2: input is null, expected a string");
    assert_refused("qasper", LINE("\"answers\":\"a\""),
                   ":2: answers is a string, expected a list of strings");
    assert_refused("qasper", LINE("\"answers\":[]"),
                   ":2: answers is an empty list, expected a list of strings");
    assert_refused("qasper", LINE("\"answers\":[\"a\",{}]"),
                   ":2: answers[1] is an object, expected a string");
    assert_refused("qasper", LINE("\"answers\":[\"a\"],\"all_classes\":true"),
                   ":2: all_classes is true or false, expected a list of strings or null");
    assert_refused("trec", LINE("\"answers\":[\"a\"],\"all_classes\":null"),
                   ":2: all_classes is null, expected a list of strings");
    assert_refused("trec", LINE("\"answers\":[\"a\"],\"all_classes\":[\"k\",1.5]"),
                   ":2: all_classes[1] is a number with a fraction, expected a string");
    assert_refused("qasper", LINE("\"answers\":[\"a\"],\"length\":-1"),
                   ":2: length is a negative number, expected a whole number");
    assert_refused("qasper", LINE("\"answers\":[\"a\"],\"_id\":3"),
                   ":2: _id is a number, expected a string");
}

static void no_file(void **state) {
    (void)state;
    struct ft_longbench_file *file = NULL;
    struct ft_error error = { 0 };
    assert_int_equal(
        ft_longbench_open(FT_TEST_SCRATCH_DIR "/none.jsonl", ft_longbench_sets, &file, &error),
        FT_IO);
    assert_non_null(strstr(error.text, "none.jsonl"));
    write_data("");
    assert_int_equal(ft_longbench_open(FILE_PATH, ft_longbench_sets, &file, &error), FT_FORMAT);
    assert_null(file);
}

/* A line of 16 MiB is read, one of a byte more is not. */
static void long_line(void **state) {
    (void)state;
    static const char head[] = "{\"input\":\"i\",\"answers\":[\"a\"],\"context\":\"",
                      tail[] = "\"}";
    enum { LIMIT = 16 << 20 };
    for (size_t n = LIMIT; n <= LIMIT + 1; n++) {
        struct ft_longbench_item item = { 0 };
        struct ft_error error = { 0 };
        bool has_item = false;
        char *text = calloc(n + 1, 1);
        assert_non_null(text);
        memset(text, 'x', n);
        memcpy(text, head, sizeof head - 1);
        memcpy(text + n - (sizeof tail - 1), tail, sizeof tail - 1);
        write_data(text);
        free(text);
        struct ft_longbench_file *file = opened("qasper");
        ft_status status = ft_longbench_next(file, &item, &has_item, &error);
        assert_int_equal(status, n > LIMIT ? FT_LIMIT : FT_OK);
        if (n > LIMIT) {
            assert_non_null(strstr(error.text, "data.jsonl:1: the line has 16777217 bytes"));
        }
        ft_longbench_item_done(&item);
        ft_longbench_close(file);
    }
}

static void out_of_memory(void **state) {
    (void)state;
    struct ft_longbench_file *file = NULL;
    struct ft_longbench_item item = { 0 };
    struct ft_error error = { 0 };
    bool has_item = false;
    write_data(LINE("\"answers\":[\"a\"]"));
    for (uint64_t n = 1; n <= 2; n++) {
        ft_alloc_fail_after(n, false);
        assert_int_equal(ft_longbench_open(FILE_PATH, ft_longbench_sets, &file, &error), FT_NOMEM);
        ft_alloc_fail_after(0, false);
        assert_null(file);
    }
    file = opened("qasper");
    ft_alloc_fail_after(1, false);
    assert_int_equal(ft_longbench_next(file, &item, &has_item, &error), FT_NOMEM);
    ft_alloc_fail_after(0, false);
    assert_null(item.json);
    ft_longbench_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),      cmocka_unit_test(prompts),   cmocka_unit_test(cut),
        cmocka_unit_test(cut_pieces), cmocka_unit_test(reads),     cmocka_unit_test(refusals),
        cmocka_unit_test(no_file),    cmocka_unit_test(long_line), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
