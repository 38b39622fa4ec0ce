/* SPDX-License-Identifier: Apache-2.0 */
/* test_ruler_words.c - RULER's tasks that count words or ask about documents, texts of the user's,
 * scores and their intervals; see test_ruler.c.
 */
#define _POSIX_C_SOURCE 200809L /* strtok_r */
#include "ruler_fixture.h"

enum { WORDS_CAP = 40000 };

/* ---- counted words ---- */

struct tally {
    char *word;
    uint32_t n;
};

static int by_word(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_count(const void *a, const void *b) {
    uint32_t x = ((const struct tally *)a)->n, y = ((const struct tally *)b)->n;
    return (x < y) - (x > y);
}

/* The different words of a text, most frequent first; numbers "12." are left out if asked. */
static uint32_t tally(char *text, bool is_numbered, struct tally *out) {
    static char *word[WORDS_CAP];
    uint32_t n = 0, n_out = 0;
    char *rest = NULL;
    for (char *at = strtok_r(text, " ", &rest); at; at = strtok_r(NULL, " ", &rest)) {
        assert_true(n < WORDS_CAP);
        if (is_numbered) {
            assert_int_equal(atoi(at), n + 1);
            at = strtok_r(NULL, " ", &rest);
            assert_non_null(at);
        }
        word[n++] = at;
    }
    qsort(word, n, sizeof *word, by_word);
    for (uint32_t i = 0; i < n; i++) {
        if (n_out == 0 || strcmp(out[n_out - 1].word, word[i]) != 0) {
            out[n_out++] = (struct tally){ word[i], 0 };
        }
        out[n_out - 1].n++;
    }
    qsort(out, n_out, sizeof *out, by_count);
    return n_out;
}

static bool is_reference(const struct ft_turn *turn, const char *word) {
    for (uint32_t i = 0; i < turn->n_reference; i++) {
        if (strcmp(turn->reference[i], word) == 0) {
            return true;
        }
    }
    return false;
}

static void check_list(char *list, uint32_t n_common, uint32_t n_rare, uint32_t n_all,
                       const struct ft_turn *turn) {
    static struct tally found[WORDS_CAP];
    uint32_t n = tally(list, true, found);
    assert_true(n_all == 0 || n == n_all);
    assert_true(n > 10);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(found[i].n, i < 10 ? n_common : n_rare);
        if (turn) {
            assert_int_equal(is_reference(turn, found[i].word), i < 10);
        }
    }
}

static void test_common_words(void **state) {
    static const char head[] =
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n";
    static const char question[] =
        "\nQuestion: What are the 10 most common words in the above list?";
    struct ft_ruler *ruler = opened(9);
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        bool is_short = i % 2 == 0;
        struct ft_sample sample = made(ruler, "cwe", is_short ? 2048 : 5000, i);
        const struct ft_turn *turn = &sample.turn[0];
        assert_begins(turn->text, head);
        assert_ends(turn->text, question);
        assert_string_equal(turn->prefix,
                            " Answer: The top 10 words that appear most often in the list are:");
        assert_int_equal(turn->n_reference, 10);
        assert_int_equal(sample.n_predict, 120);
        char *example = between(turn->text, head, question);
        check_list(example, is_short ? 3 : 10, is_short ? 1 : 3, is_short ? 20 : 40, NULL);
        assert_non_null(strstr(turn->text, "in the list are: 1. "));
        char *list = between(strstr(turn->text + 1, head), head, question);
        check_list(list, is_short ? 6 : 30, is_short ? 1 : 3, 0, turn);
        free(example);
        free(list);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

/* floor(N / (k^2 zeta(2))) for the N that gives the dots their number. */
static void test_frequent_words(void **state) {
    static struct tally found[WORDS_CAP];
    static const char head[] =
        "Read the following coded text and track the frequency of each coded word. Find the three "
        "most frequently appeared coded words. ";
    static const char question[] =
        "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
        "three most frequently appeared words in the above coded text?";
    struct ft_ruler *ruler = opened(13);
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t ctx = 1500 + 1500 * i;
        struct ft_sample sample = made(ruler, "fwe", ctx, i);
        const struct ft_turn *turn = &sample.turn[0];
        assert_begins(turn->text, head);
        assert_ends(turn->text, question);
        assert_string_equal(turn->prefix, " Answer: According to the coded text above, the three "
                                          "most frequently appeared words are:");
        char *text = between(turn->text, head, question);
        uint32_t n = tally(text, false, found);
        assert_string_equal(found[0].word, "...");
        assert_true(n <= (ctx - 50) / 50);
        double n_word = (found[0].n + 0.5) * 1.6449340668482264;
        for (uint32_t k = 1; k < n; k++) {
            double share = n_word / ((k + 1.0) * (k + 1.0)) / 1.6449340668482264;
            assert_true(found[k].n <= share + 0.5 && found[k].n + 1.5 >= share);
            assert_int_equal(strlen(found[k].word), 6);
            assert_int_equal(is_reference(turn, found[k].word), k <= 3);
        }
        assert_true(found[3].n > found[4].n);
        free(text);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

/* ---- questions over documents ---- */

static const char squad[] =
    "{\"version\":\"v2.0\",\"data\":[{\"title\":\"A\",\"paragraphs\":["
    "{\"context\":\"Rollo led them.\",\"qas\":[{\"question\":\"Who led them?\",\"id\":\"1\","
    "\"answers\":[{\"text\":\"Rollo\",\"answer_start\":0},{\"text\":\"the "
    "duke\",\"answer_start\":0}],"
    "\"is_impossible\":false},{\"question\":\"Why?\",\"id\":\"2\",\"answers\":[],"
    "\"is_impossible\":true}]},{\"context\":\"They came by sea.\",\"qas\":[{\"question\":"
    "\"How did they come?\",\"id\":\"3\",\"answers\":[{\"text\":\"by sea\",\"answer_start\":10}],"
    "\"is_impossible\":false}]}]},{\"title\":\"B\",\"paragraphs\":[{\"context\":\"Oxygen burns.\","
    "\"qas\":[]}]}]}";
static const char hotpot[] =
    "[{\"_id\":\"1\",\"question\":\"Who wrote it?\",\"answer\":\"Ann\",\"context\":[[\"Book\","
    "[\"It is by\",\" Ann.\"]],[\"Ann\",[\"Ann "
    "writes.\"]]]},{\"_id\":\"2\",\"question\":\"Where?\","
    "\"answer\":\"here\",\"context\":[[\"Book\",[\"It is by\",\" "
    "Ann.\"]],[\"Place\",[\"here\"]]]}]";

static void test_files_of_questions(void **state) {
    struct ft_ruler *ruler = open_with((struct ft_ruler_params){
        .seed = 1, .has_prefix = true, .squad = squad, .hotpot = hotpot });
    struct ft_error error = { 0 };
    struct ft_sample sample = { .n_turn = 0 };
    (void)state;
    assert_string_equal(ft_ruler_data(ruler, task_of("qa_1")), "SQuAD");
    sample = made(ruler, "qa_1", 300, 0);
    assert_begins(
        sample.turn[0].text,
        "Answer the question based on the given documents. Only give me the answer and do "
        "not output any other words.\n\nThe following are given documents.\n\nDocument "
        "1:\n");
    assert_ends(sample.turn[0].text,
                "\n\nAnswer the question based on the given documents. Only give me the answer and "
                "do not output any other words.\n\nQuestion: Who led them?");
    assert_string_equal(sample.turn[0].prefix, " Answer:");
    assert_int_equal(sample.turn[0].n_reference, 2);
    assert_string_equal(sample.turn[0].reference[1], "the duke");
    assert_true(times(sample.turn[0].text, "Oxygen burns.") > 1); /* again and again, as RULER */
    assert_true(times(sample.turn[0].text, "Rollo led them.") > 1);
    assert_true(scored(ruler, task_of("qa_1"), &sample.turn[0], "THE DUKE") >= 1);
    ft_sample_done(&sample);
    sample = made(ruler, "qa_1", 300, 1); /* the question without an answer is not asked */
    assert_string_equal(sample.turn[0].reference[0], "by sea");
    ft_sample_done(&sample);
    assert_int_equal(ft_ruler_make(ruler, task_of("qa_1"), 300, 2, &sample, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "qa_1 has 2 questions"));
    sample = made(ruler, "qa_2", 300, 1);
    assert_non_null(strstr(sample.turn[0].text, ":\nBook\nIt is by Ann.\n\n"));
    assert_non_null(strstr(sample.turn[0].text, ":\nPlace\nhere\n\n"));
    ft_sample_done(&sample);
    ft_ruler_free(ruler);
}

static void refuses(struct ft_ruler_params params, const char *words) {
    struct ft_error error = { 0 };
    struct ft_ruler *ruler = NULL;
    params.count = count;
    assert_int_equal(ft_ruler_new(&params, &ruler, &error), FT_FORMAT);
    assert_null(ruler);
    if (!strstr(error.text, words)) {
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
    }
}

static void test_bad_texts(void **state) {
    struct ft_error error = { 0 };
    struct ft_sample sample = { .n_turn = 0 };
    uint32_t task[FT_RULER_TASK_CAP], n;
    (void)state;
    refuses((struct ft_ruler_params){ .squad = "{\"data\":" }, "--squad: line 1");
    refuses((struct ft_ruler_params){ .squad = "{\"data\":[{}]}" }, "--squad: not SQuAD 2");
    refuses((struct ft_ruler_params){ .hotpot = "[{\"question\":\"x\"}]" }, "behind question 0");
    refuses((struct ft_ruler_params){ .hotpot = "[]" }, "--hotpot: not HotpotQA");
    refuses((struct ft_ruler_params){ .words = "a b a" }, "2 different words, expected at least");
    refuses((struct ft_ruler_params){ .words = "abcdefghijklmnopqrstuvwxyzabcdefgh" }, "34 bytes");
    refuses((struct ft_ruler_params){ .haystack = " \n" }, "--haystack: the text holds no word");
    assert_int_equal(ft_ruler_tasks("vt,cw", task, &n, &error), FT_ARG);
    assert_non_null(strstr(error.text, "no task \"cw\"; there are: niah_single_1 niah_single_2"));
    assert_non_null(strstr(error.text, "chain shared"));
    assert_int_equal(ft_ruler_tasks("vt,,vt", task, &n, &error), FT_ARG);
    assert_int_equal(ft_ruler_tasks("", task, &n, &error), FT_ARG);
    assert_int_equal(ft_ruler_tasks("vt,cwe,vt", task, &n, &error), FT_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ft_ruler_tasks(NULL, task, &n, &error), FT_OK);
    assert_int_equal(n, 13);
    struct ft_ruler *ruler = opened(1);
    assert_int_equal(ft_ruler_make(ruler, task_of("vt"), 256, 0, &sample, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "vt: sample 0 takes at least "));
    ft_ruler_free(ruler);
}

/* A list of words bounds a list of common words; keys come from it. */
static void test_given_words(void **state) {
    static char list[4096];
    struct ft_error error = { 0 };
    struct ft_sample sample = { .n_turn = 0 };
    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(list + strlen(list), 16, "w%c%c\n", (char)('a' + i / 10), (char)('a' + i % 10));
    }
    struct ft_ruler *ruler =
        open_with((struct ft_ruler_params){ .seed = 1, .has_prefix = true, .words = list });
    sample = made(ruler, "niah_single_1", 1024, 0);
    char *key = between(sample.turn[0].prefix, "number for ", " mentioned");
    assert_true(strlen(key) == 7 && key[0] == 'w' && key[3] == '-' && key[4] == 'w');
    free(key);
    ft_sample_done(&sample);
    assert_int_equal(ft_ruler_make(ruler, task_of("cwe"), 4096, 0, &sample, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "100 words do not fill 4096 tokens"));
    ft_ruler_free(ruler);
}

/* ---- scores ---- */

static void test_scores(void **state) {
    struct ft_ruler *on = opened(1);
    struct ft_ruler *off = open_with((struct ft_ruler_params){ .seed = 1, .has_prefix = false });
    char *reference[] = { "Alpha", "beta", "7" };
    const struct ft_turn turn = { .reference = reference, .n_reference = 3 };
    uint32_t all = task_of("vt"), part = task_of("qa_2");
    (void)state;
    assert_true(scored(on, all, &turn, "ALPHA\tand BETAs") * 3 == 2);
    assert_true(scored(on, all, &turn, "alph a, bet a") == 0);
    assert_true(scored(on, part, &turn, "it is 17") == 1);
    assert_true(scored(on, part, &turn, "eight") == 0);
    /* tags cut only where the answer was not begun */
    assert_true(scored(on, all, &turn, "alpha Answer: beta") * 3 == 2);
    assert_true(scored(off, all, &turn, "alpha Answer: beta") * 3 == 1);
    assert_true(scored(off, all, &turn, "7 Answer: beta The answer is: alpha") * 3 == 1);
    assert_true(scored(off, all, &turn, "alpha beta 7") == 1);
    struct ft_sample begun = made(on, "vt", 2048, 1), bare = made(off, "vt", 2048, 1);
    assert_true(is_same(&begun, &bare)); /* who runs it leaves the prefix out */
    assert_int_equal(begun.n_predict, 30);
    assert_int_equal(bare.n_predict, 64);
    ft_sample_done(&begun);
    ft_sample_done(&bare);
    ft_ruler_free(on);
    ft_ruler_free(off);
}

static void assert_near(double value, double expected) {
    if (value < expected - 0.005 || value > expected + 0.005) {
        fail_msg("got %.4f, expected %.4f", value, expected);
    }
}

static void test_intervals(void **state) {
    double share[20] = {
        100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100
    };
    double equal[4] = { 25, 25, 25, 25 };
    (void)state;
    struct ft_interval it = ft_interval_of(share, 20); /* 15 of 20 */
    assert_near(it.mean, 75);
    assert_near(it.low, 53.13);
    assert_near(it.high, 88.81);
    it = ft_interval_of(share, 15);
    assert_near(it.low, 79.61);
    assert_near(it.high, 100);
    /* 25 four times, 0 and 100 twice: mean 37.5, variance 1875 / 1.12 ..., by hand */
    it = ft_interval_of(equal, 4);
    assert_near(it.mean, 25);
    assert_near(it.low, 37.5 - 1.959963984540054 * 40.08919 / 2.8284271);
    assert_near(it.high, 37.5 + 1.959963984540054 * 40.08919 / 2.8284271);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_common_words),       cmocka_unit_test(test_frequent_words),
        cmocka_unit_test(test_files_of_questions), cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_given_words),        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_intervals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
