/* SPDX-License-Identifier: Apache-2.0 */
/* test_longbench_suite.c - samples from files of LongBench's form: what is in them, how they are
 * cut, what they score, what is refused. */
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

#include "eval/longbench_suite.h"

#define FOLDER FT_TEST_SCRATCH_DIR "/longbench"

enum { TEMPLATE = 5 }; /* tokens around a prompt that is not raw */

/* A token is four bytes of a text, whatever they are. */
static ft_status split(const char *text, uint32_t **piece, uint32_t *n, void *user,
                       struct ft_error *error) {
    size_t n_byte = strlen(text);
    (void)user;
    (void)error;
    *n = (uint32_t)((n_byte + 3) / 4);
    *piece = ft_alloc(*n + 1, sizeof **piece);
    for (uint32_t i = 0; *piece && i < *n; i++) {
        (*piece)[i] = i + 1 < *n || n_byte % 4 == 0 ? 4 : n_byte % 4;
    }
    return *piece ? FT_OK : FT_NOMEM;
}

/* Up to two tokens more, depending on the length: a text that was cut has not as many tokens as
 * the cut left.  user counts the calls. */
static ft_status count(const char *text, const char *prefix, bool is_raw, uint32_t *n, void *user,
                       struct ft_error *error) {
    (void)error;
    ++*(uint32_t *)user;
    *n = 1 + (uint32_t)(strlen(text) + 3) / 4 + (uint32_t)(strlen(prefix) + 3) / 4 +
         (is_raw ? 0 : TEMPLATE) + (uint32_t)strlen(text) % 3;
    return FT_OK;
}

static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", FOLDER, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void clear(void) {
    mkdir(FOLDER, 0777);
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s.jsonl", FOLDER, ft_longbench_sets[i].name);
        unlink(path);
    }
}

static ft_status try_open(struct ft_longbench_params params, const char *tasks,
                          struct ft_longbench **out, struct ft_error *error) {
    static uint32_t n_call;
    uint32_t set[FT_LONGBENCH_COUNT];
    assert_int_equal(ft_longbench_tasks(tasks, set, &params.n_set, NULL), FT_OK);
    params.set = set;
    params.folder = params.folder ? params.folder : FOLDER;
    params.split = split;
    params.count = count;
    params.user = &n_call;
    return ft_longbench_new(&params, out, error);
}

static struct ft_longbench *opened(struct ft_longbench_params params, const char *tasks) {
    struct ft_longbench *suite = NULL;
    struct ft_error error = { 0 };
    if (try_open(params, tasks, &suite, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return suite;
}

static struct ft_sample made(struct ft_longbench *suite, uint32_t task, uint32_t ctx,
                             uint32_t index) {
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_error error = { 0 };
    if (ft_longbench_make(suite, task, ctx, index, &sample, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return sample;
}

static double scored(struct ft_longbench *suite, uint32_t task, const struct ft_sample *sample,
                     const char *prediction) {
    double score = -1;
    assert_int_equal(ft_longbench_score(suite, task, &sample->turn[0], prediction, &score), FT_OK);
    return score;
}

/* ---- structure ---- */

#define ITEM(context, input, answers, classes)                                                     \
    "{\"context\":\"" context "\",\"input\":\"" input "\",\"answers\":" answers                    \
    ",\"all_classes\":" classes "}\n"

static void write_all(void) {
    clear();
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        char name[64], text[1024];
        snprintf(name, sizeof name, "%s.jsonl", ft_longbench_sets[i].name);
        snprintf(text, sizeof text,
                 "\n" ITEM("first context of %s", "first input", "[\"Red\",\"Blue sky\"]",
                           "[\"Red\",\"Blue sky\"]") "\n\n" ITEM("second", "q%u", "[\"Two\"]",
                                                                 "[\"One\",\"Two\"]"),
                 ft_longbench_sets[i].name, i);
        put(name, text);
    }
}

/* Every dataset: its own prompt, limit, references; every reference scores 1, another text less. */
static void every_set(void **state) {
    (void)state;
    write_all();
    struct ft_longbench *suite = opened((struct ft_longbench_params){ .has_template = true }, NULL);
    assert_int_equal(ft_longbench_count(suite), FT_LONGBENCH_COUNT);
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        const struct ft_longbench_set *set = &ft_longbench_sets[i];
        const struct ft_longbench_data *data = ft_longbench_data(suite, i);
        char context[64], name[64], *want = NULL;
        assert_ptr_equal(data->set, set);
        assert_int_equal(data->n_item, 2);
        snprintf(name, sizeof name, "%s.jsonl", set->name);
        assert_string_equal(data->name, name);
        assert_int_equal(strlen(data->digest), 7 + 64);
        struct ft_sample sample = made(suite, i, 2048, 0), second = made(suite, i, 2048, 1);
        snprintf(context, sizeof context, "first context of %s", set->name);
        assert_int_equal(ft_longbench_prompt(set, context, "first input", &want), FT_OK);
        assert_int_equal(sample.n_turn, 1);
        assert_string_equal(sample.turn[0].text, want);
        assert_string_equal(sample.turn[0].prefix, "");
        assert_int_equal(sample.n_predict, set->n_predict);
        assert_int_equal(sample.is_raw, !set->has_template);
        assert_int_equal(sample.n_cut, 0);
        assert_int_equal(sample.turn[0].n_reference, 2);
        assert_int_equal(second.turn[0].n_reference, 1);
        assert_non_null(strstr(second.turn[0].text, "second"));
        for (uint32_t r = 0; r < 2; r++) {
            assert_true(scored(suite, i, &sample, sample.turn[0].reference[r]) > 1 - 1e-6);
        }
        assert_true(scored(suite, i, &second, "Two") > 1 - 1e-6);
        assert_true(scored(suite, i, &second, "nothing") < 0.5);
        assert_true(scored(suite, i, &second, "") == 0);
        ft_free(want);
        ft_sample_done(&sample);
        ft_sample_done(&second);
    }
    ft_longbench_free(suite);
}

/* Answers are cleaned as the protocol says, with classes of the item at hand. */
static void scores(void **state) {
    (void)state;
    write_all();
    struct ft_longbench *suite =
        opened((struct ft_longbench_params){ .has_template = true }, "trec,triviaqa,samsum,qasper");
    struct ft_sample trec = made(suite, 0, 1024, 1), trivia = made(suite, 1, 1024, 1),
                     samsum = made(suite, 2, 1024, 1), qasper = made(suite, 3, 1024, 1);
    assert_int_equal(trec.turn[0].n_choice, 2);
    assert_true(scored(suite, 0, &trec, " Two\nType: One\n") == 1); /* the first line alone */
    assert_true(scored(suite, 0, &trec, "One or Two") == 0.5);
    assert_true(scored(suite, 1, &trivia, "\nTwo\nthree four five") == 1);
    assert_true(scored(suite, 2, &samsum, "Two\nthree four five") > 0.999);
    assert_true(scored(suite, 3, &qasper, "Two\nthree") < 0.7); /* all lines count */
    assert_true(scored(suite, 3, &qasper, "It was three. Answer: two.") == 1);
    ft_sample_done(&trec);
    ft_sample_done(&trivia);
    ft_sample_done(&samsum);
    ft_sample_done(&qasper);
    ft_longbench_free(suite);
}

static void templates(void **state) {
    (void)state;
    write_all();
    static const struct {
        bool has_template, is_qwen3, is_raw[2]; /* of qasper, of trec */
        const char *prefix;
    } cases[] = {
        { false, false, { true, true }, "" },
        { true, false, { false, true }, "" },
        { true, true, { false, false }, "<think>\n\n</think>\n\n" },
    };
    for (size_t c = 0; c < FT_COUNT(cases); c++) {
        struct ft_longbench *suite =
            opened((struct ft_longbench_params){ .has_template = cases[c].has_template,
                                                 .is_qwen3 = cases[c].is_qwen3 },
                   "qasper,trec");
        for (uint32_t t = 0; t < 2; t++) {
            struct ft_sample sample = made(suite, t, 1024, 0);
            assert_int_equal(sample.is_raw, cases[c].is_raw[t]);
            assert_string_equal(sample.turn[0].prefix, cases[c].prefix);
            ft_sample_done(&sample);
        }
        ft_longbench_free(suite);
    }
}

/* ---- the cut ---- */

/* A text with letters of two bytes, into contexts of many sizes: what is left is the
 * beginning and the end of the whole prompt, whole letters, as much as there is room for. */
static void cuts(void **state) {
    (void)state;
    enum { CAP = 1 << 14 };
    char *line = calloc(CAP, 1), *context = calloc(CAP, 1), *want = NULL;
    clear();
    for (uint32_t i = 0; i < 900; i++) {
        snprintf(context + strlen(context), 16, "%s%u ", i % 3 == 0 ? "\xC3\xBC" : "x", i);
    }
    snprintf(line, CAP, ITEM("%s", "Why?", "[\"a\"]", "null"), context);
    put("musique.jsonl", line);
    struct ft_longbench *suite =
        opened((struct ft_longbench_params){ .has_template = true }, "musique");
    assert_int_equal(ft_longbench_prompt(ft_longbench_find("musique"), context, "Why?", &want),
                     FT_OK);
    for (uint32_t ctx = 60; ctx < 1400; ctx += 7) {
        struct ft_sample sample = made(suite, 0, ctx, 0);
        const char *text = sample.turn[0].text;
        uint32_t n, n_call = 0, n_room = ctx - sample.n_predict;
        size_t n_text = strlen(text), n_want = strlen(want), head = 0, tail = 0;
        count(text, "", false, &n, &n_call, NULL);
        assert_true(n <= n_room);
        assert_int_equal(sample.n_cut > 0, n_text < n_want);
        assert_int_equal(ft_utf8_check(text, n_text), n_text);
        while (head < n_text && text[head] == want[head]) {
            head++;
        }
        while (tail < n_text && text[n_text - 1 - tail] == want[n_want - 1 - tail]) {
            tail++;
        }
        assert_true(head + tail >= n_text); /* nothing but a cut */
        if (sample.n_cut > 0) {
            assert_true(n + 8 > n_room);
            assert_true(head + 16 > n_text / 2 && tail + 16 > n_text / 2);
        }
        ft_sample_done(&sample);
    }
    struct ft_sample none = { .n_turn = 0 };
    struct ft_error error = { 0 };
    assert_int_equal(ft_longbench_make(suite, 0, 38, 0, &none, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "musique: an answer of 32 tokens"));
    assert_non_null(strstr(error.text, "--ctx 38"));
    assert_int_equal(ft_longbench_make(suite, 0, 10, 0, &none, &error), FT_LIMIT);
    assert_int_equal(none.n_turn, 0);
    ft_longbench_free(suite);
    ft_free(want);
    free(line);
    free(context);
}

/* ---- files ---- */

static void choice(void **state) {
    (void)state;
    clear();
    put("trec.jsonl", ITEM("a", "b", "[\"k\"]", "[\"k\"]"));
    put("qasper.jsonl", ITEM("a", "b", "[\"k\"]", "null") ITEM("aaaa", "b", "[\"k\"]", "null")
                            ITEM("aa", "b", "[\"k\"]", "null"));
    struct ft_longbench *suite = opened((struct ft_longbench_params){ .has_template = true }, NULL);
    assert_int_equal(ft_longbench_count(suite), 2); /* in the order of reports */
    assert_string_equal(ft_longbench_data(suite, 0)->set->name, "qasper");
    assert_string_equal(ft_longbench_data(suite, 1)->set->name, "trec");
    assert_int_equal(ft_longbench_longest(suite, 0, 1), 0);
    assert_int_equal(ft_longbench_longest(suite, 0, 3), 1);
    /* in any order, any number of times */
    struct ft_sample last = made(suite, 0, 999, 2), first = made(suite, 0, 999, 0);
    struct ft_sample again = made(suite, 0, 999, 2);
    assert_string_equal(last.turn[0].text, again.turn[0].text);
    assert_string_not_equal(last.turn[0].text, first.turn[0].text);
    ft_sample_done(&last);
    ft_sample_done(&first);
    ft_sample_done(&again);
    ft_longbench_free(suite);
    suite = opened((struct ft_longbench_params){ .has_template = true }, "trec,qasper,trec");
    assert_int_equal(ft_longbench_count(suite), 2); /* in the order asked for */
    assert_string_equal(ft_longbench_data(suite, 0)->set->name, "trec");
    ft_longbench_free(suite);
    uint32_t set[FT_LONGBENCH_COUNT], n;
    struct ft_error error = { 0 };
    assert_int_equal(ft_longbench_tasks("trec,vt", set, &n, &error), FT_ARG);
    assert_non_null(strstr(error.text, "no dataset \"vt\"; there are: narrativeqa qasper"));
    assert_non_null(strstr(error.text, "repobench-p"));
    assert_int_equal(ft_longbench_tasks("", set, &n, &error), FT_ARG);
}

static void refuse(const char *folder, const char *tasks, ft_status code, const char *words) {
    struct ft_longbench *suite = NULL;
    struct ft_error error = { 0 };
    assert_int_equal(
        try_open((struct ft_longbench_params){ .folder = folder }, tasks, &suite, &error), code);
    assert_null(suite);
    if (!strstr(error.text, words)) {
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
    }
}

static void refusals(void **state) {
    (void)state;
    clear();
    refuse(FOLDER "/none", NULL, FT_IO, "none: No such file");
    refuse(FOLDER, NULL, FT_FORMAT, "holds none of LongBench's files, such as narrativeqa.jsonl");
    refuse(FOLDER, "lcc", FT_IO, "lcc.jsonl");
    put("lcc.jsonl", ITEM("a", "b", "[\"k\"]", "null") ITEM("a", "b", "[]", "null"));
    refuse(FOLDER, NULL, FT_FORMAT, "lcc.jsonl:2: answers is an empty list");
    refuse(FOLDER "/lcc.jsonl", NULL, FT_IO, "is a file, expected the folder");
    put("lcc.jsonl", "\n  \n");
    refuse(FOLDER, NULL, FT_FORMAT, "lcc.jsonl holds no sample");
    put("lcc.jsonl", ITEM("a", "b", "[\"k\"]", "null"));
    put("trec.jsonl", "{");
    refuse(FOLDER, NULL, FT_FORMAT, "trec.jsonl:1: not JSON"); /* what is open is closed */
}

static void out_of_memory(void **state) {
    (void)state;
    struct ft_longbench *suite = NULL;
    struct ft_error error = { 0 };
    ft_status status = FT_NOMEM;
    clear();
    put("trec.jsonl", ITEM("a long context that is cut in its middle so that it fits", "b",
                           "[\"k\",\"l\"]", "[\"k\",\"m\"]"));
    for (uint64_t n = 1; status != FT_OK; n++) {
        ft_alloc_fail_after(n, false);
        status = try_open((struct ft_longbench_params){ .is_qwen3 = false }, NULL, &suite, &error);
        ft_alloc_fail_after(0, false);
        assert_true(n < 40 && (status == FT_OK || status == FT_NOMEM));
    }
    status = FT_NOMEM;
    for (uint64_t n = 1; status != FT_OK; n++) {
        struct ft_sample sample = { .n_turn = 0 };
        ft_alloc_fail_after(n, false);
        status = ft_longbench_make(suite, 0, 90, 0, &sample, &error);
        ft_alloc_fail_after(0, false);
        assert_true(n < 40 && (status == FT_OK || status == FT_NOMEM));
        assert_int_equal(sample.n_turn, status == FT_OK);
        assert_true(n > 1 || status == FT_NOMEM);
        assert_true(status != FT_OK || sample.n_cut > 0);
        ft_sample_done(&sample);
    }
    ft_longbench_free(suite);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set),     cmocka_unit_test(scores), cmocka_unit_test(templates),
        cmocka_unit_test(cuts),          cmocka_unit_test(choice), cmocka_unit_test(refusals),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
