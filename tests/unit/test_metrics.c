/* SPDX-License-Identifier: Apache-2.0 */
/* test_metrics.c - clean-up and scores against values worked out by hand from the definitions.
 *
 * Where a case counts words, p is the share of the answer's, r that of the truth's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/metrics.h"

#define STRINGS(...)                                                                               \
    (&(struct ft_strings){ (const char *const[]){ __VA_ARGS__ },                                   \
                           sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *) })

typedef ft_status (*pair_fn)(const char *answer, const char *truth, double *out);

/* The last bits: the same few operations on doubles, in an order that nobody promised. */
static void assert_near(double got, double want, const char *what) {
    if (!(fabs(got - want) <= 1e-14)) {
        fail_msg("%s: got %.17g, want %.17g", what, got, want);
    }
}

struct pair_case {
    const char *answer, *truth;
    double want;
};

static void check_pairs(pair_fn score, const struct pair_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double got = -1;
        assert_int_equal(score(cases[i].answer, cases[i].truth, &got), FT_OK);
        assert_near(got, cases[i].want, cases[i].answer);
    }
}

/* ---- the answer ---- */

static void assert_becomes(void (*change)(char *), const char *text, const char *want) {
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    change(copy);
    assert_string_equal(copy, want);
}

static void clean(void **state) {
    (void)state;
    assert_becomes(ft_answer_clean, "", "");
    assert_becomes(ft_answer_clean, " \n plain text \t", "plain text");
    assert_becomes(ft_answer_clean, "let me see <think/>\n\n 42", "42");
    assert_becomes(ft_answer_clean, "Answer: 1 Answer: 2", "2");
    assert_becomes(ft_answer_clean, "Answer:", "");
    assert_becomes(ft_answer_clean, "answer: small letters", "answer: small letters");
    /* tags in their own order, not in that of the text: after "Answer:" no "Summary:" is left */
    assert_becomes(ft_answer_clean, "Summary: s Answer: a", "a");
    assert_becomes(ft_answer_clean, "Answer: a Summary: s", "s");
    assert_becomes(ft_answer_clean, "The answer is: x The final answer is: y", "y");
    assert_becomes(ft_answer_clean, "The final answer is: y The answer is: x", "x");
    assert_becomes(ft_answer_clean, "Next line of code:\n    return 1\n", "return 1");
    assert_becomes(ft_answer_clean, "one\ttwo", "one\ttwo"); /* tabs stay for LongBench */
    assert_becomes(ft_answer_printable, "\x02one 1\ttwo\x1Fthree\x7F\n\x1B",
                   "one 1\ntwo\nthree\x7F");
    assert_becomes(ft_answer_first_line, "", "");
    assert_becomes(ft_answer_first_line, "\n\n", "");
    assert_becomes(ft_answer_first_line, "\n\n one \ntwo", " one ");
    assert_becomes(ft_answer_first_line, "only", "only");
}

/* ---- F1 ---- */

static void f1(void **state) {
    (void)state;
    static const struct pair_case cases[] = {
        /* cat sat | cat sat down: p = 1, r = 2/3, 2*(2/3)/(5/3) */
        { "The cat sat.", "a cat SAT down", 0.8 },
        /* two of three either way: each "no" counts as often as it is in both */
        { "no no no", "no no yes", 2.0 / 3 },
        { "yes", "no", 0 },
        { "", "x", 0 },
        { "x", "", 0 },
        { "", "", 0 },
        { "?!", "x", 0 },
        { "the", "a", 0 }, /* both empty */
        /* punctuation is deleted, it does not part words: p = 1/2, r = 1 */
        { "state-of-the-art thing", "stateoftheart", 2.0 / 3 },
        { "an an apple", "apple", 1 },
        { "theory", "the theory", 1 },
        { "can", "c n", 0 }, /* "an" in a word is none */
        { "x\xE2\x80\x94the\xE2\x80\x94", "x\xE2\x80\x94 \xE2\x80\x94", 1 }, /* between dashes */
        { "New\xC2\xA0York", "york new", 1 }, /* the blank that does not break; no order */
        { "CAF\xC3\x89", "caf\xC3\xA9", 1 },
        { "x", "x y z w", 0.4 }, /* p = 1, r = 1/4: 0.5/1.25 */
    };
    check_pairs(ft_metric_f1, cases, FT_COUNT(cases));
}

/* ---- ROUGE-L ---- */

static void rouge_l(void **state) {
    (void)state;
    static const struct pair_case cases[] = {
        { "a b c", "a b c", 2 / (2 + 1e-8) },
        { "a", "b", 0 },
        { "A", "a", 0 }, /* case counts */
        { "", "a", 0 },
        { "a", "", 0 },
        { "...", "a", 0 },
        { "a", ".", 0 },
        /* Lin's example: w1 w2 with one sentence, w1 w3 w5 with the other: 4 in the union, of 5
         * words of the truth and 8 of the answer: r = 4/5, p = 1/2 */
        { "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 2 * 0.4 / (1.3 + 1e-8) },
        /* "a b" against "b a": a or b?  A tie leaves a word of the answer, a, so it is b, and the
         * second sentence adds nothing: 1 of 2 and 2.  (The other way: 2 of 2 and 2.) */
        { "b a. b", "a b", 2 * 0.25 / (1 + 1e-8) },
        { "b a. a", "a b", 2 / (2 + 1e-8) },
        /* words are counted once */
        { "x", "x x x", 2 / (2 + 1e-8) },
        /* x y and x x are as long; the tie at the ends leaves the answer's y: {x} of {x, y} */
        { "x x y", "x y x", 2 * 0.25 / (1 + 1e-8) },
        /* the union grows over the truth's sentences, a counts once: r = 1/3, p = 1 */
        { "a", "a b. a c", 2 * (1.0 / 3) / (4.0 / 3 + 1e-8) },
        /* what is behind the last stop is a sentence with the empty word: r = 1/2, p = 1 */
        { "a", "a. ", 2 * 0.5 / (1.5 + 1e-8) },
        { "a.", "a", 2 / (2 + 1e-8) },
        { " ", "\n", 2 / (2 + 1e-8) },
        /* order counts in a sentence, of which a stop in a number makes two */
        { "14 3", "3 14", 2 * 0.25 / (1 + 1e-8) },
        { "14.3", "3.14", 2 / (2 + 1e-8) },
        /* x y is longer than z: y z x ... : 2 of 3 words each */
        { "x y z", "z x y", 2 * (4.0 / 9) / (4.0 / 3 + 1e-8) },
    };
    check_pairs(ft_metric_rouge_l, cases, FT_COUNT(cases));
}

/* Sentences on which Python's recursion gives up. */
static void rouge_long(void **state) {
    (void)state;
    enum { N = 2000 };
    char *text = calloc(N, 8);
    double got = -1;
    assert_non_null(text);
    for (int i = 0, n = 0; i < N; i++) {
        n += snprintf(text + n, 8, "w%d ", i);
    }
    assert_int_equal(ft_metric_rouge_l(text, text, &got), FT_OK);
    assert_near(got, 2 / (2 + 1e-8), "long");
    free(text);
}

/* ---- classes ---- */

static void classes(void **state) {
    (void)state;
    const struct ft_strings *few = STRINGS("city", "other city", "date");
    assert_true(ft_metric_class("date", "date", few) == 1);
    assert_true(ft_metric_class("it is a date.", "date", few) == 1);
    assert_true(ft_metric_class("Date", "date", few) == 0);
    assert_true(ft_metric_class("date, city", "date", few) == 0.5);
    assert_true(ft_metric_class("city", "date", few) == 0);
    assert_true(ft_metric_class("", "date", few) == 0);
    assert_true(ft_metric_class("place", "place", few) == 0); /* no class */
    assert_true(ft_metric_class("date", "date", &(struct ft_strings){ 0 }) == 0);
    /* "city" is found too, but is part of the truth; the other way round it is not */
    assert_true(ft_metric_class("other city", "other city", few) == 1);
    assert_true(ft_metric_class("other city", "city", few) == 0.5);
    /* removing a moves b to where the walk has been: b stays; then c goes, leaving b and abc */
    assert_true(ft_metric_class("abc", "abc", STRINGS("a", "b", "c", "abc")) == 0.5);
    /* a goes, abc is passed over (and would stay anyway), b goes */
    assert_true(ft_metric_class("abc", "abc", STRINGS("a", "abc", "b")) == 1);
    /* classes that are not in the answer are not in the list that is walked along */
    assert_true(ft_metric_class("abc", "abc", STRINGS("a", "x", "b", "y", "abc")) == 0.5);
}

/* ---- code ---- */

static void code(void **state) {
    (void)state;
    static const struct pair_case cases[] = {
        { "x = 1", "x = 1", 1 },
        { "", "", 1 },
        { "", "x", 0 },
        { "x", "", 0 },
        { "\n\n# note\n```\ny // z\nfoo()\nbar()", "foo()", 1 },
        { "`x`", "x", 0 }, /* no line of code */
        { "`x`\n", "", 1 },
        { "a/b", "a/b", 1 },
        { "\n  x", "x", 0.5 },  /* blanks stay: 1 common of 3 + 1 */
        { "abc", "abd", 0.67 }, /* 2 common of 3 + 3: 4/6 */
        { "abc", "xyz", 0 },
        { "aab", "abb", 0.67 },
        { "ab", "ba", 0.5 }, /* one common: 2/4 */
        /* 1 and 3 common of 8 + 8: 12.5 and 37.5 */
        { "abcdefgh", "aPQRSTUV", 0.12 },
        { "abcdefgh", "abcPQRST", 0.38 },
        /* code points: e acute and e grave share a byte, but nothing else */
        { "\xC3\xA9", "\xC3\xA8", 0 },
        { "a\xC3\xA9", "a\xC3\xA8", 0.5 },
    };
    check_pairs(ft_metric_code, cases, FT_COUNT(cases));
}

/* ---- all references ---- */

static void references(void **state) {
    (void)state;
    double got = -1;
    const struct ft_strings *three = STRINGS("Alpha", "beta", "\xC3\x89t\xC3\xA9");
    assert_int_equal(ft_metric_all("ALPHA, Betas", three, &got), FT_OK);
    assert_near(got, 2.0 / 3, "all");
    assert_int_equal(ft_metric_part("ALPHA, Betas", three, &got), FT_OK);
    assert_true(got == 1);
    assert_int_equal(ft_metric_all("\xC3\xA9T\xC3\x89", three, &got), FT_OK);
    assert_near(got, 1.0 / 3, "accents");
    assert_int_equal(ft_metric_part("gamma", three, &got), FT_OK);
    assert_true(got == 0);
    assert_int_equal(ft_metric_part("", STRINGS("x", ""), &got), FT_OK);
    assert_true(got == 1); /* "" is in "" */
    assert_int_equal(ft_metric_all("x", &(struct ft_strings){ 0 }, &got), FT_OK);
    assert_true(got == 0);
}

static double best(enum ft_metric metric, const char *answer, const struct ft_strings *truths) {
    double got = -1;
    const struct ft_strings *names = STRINGS("one", "two");
    assert_int_equal(ft_metric_score(metric, answer, truths, names, &got), FT_OK);
    return got;
}

static void any_metric(void **state) {
    (void)state;
    const struct ft_strings *truths = STRINGS("two", "one", "a one b");
    assert_near(best(FT_METRIC_F1, "one", truths), 1, "F1");
    assert_near(best(FT_METRIC_ROUGE_L, "one", truths), 2 / (2 + 1e-8), "ROUGE-L");
    assert_near(best(FT_METRIC_CLASS, "one", truths), 1, "class");
    assert_near(best(FT_METRIC_CODE, "oxe", truths), 0.67, "code");
    assert_near(best(FT_METRIC_ALL, "one", truths), 1.0 / 3, "all");
    assert_near(best(FT_METRIC_PART, "one", truths), 1, "part");
    assert_near(best(FT_METRIC_F1, "one", &(struct ft_strings){ 0 }), 0, "no references");
}

/* Every allocation fails once: FT_NOMEM, and *out is left alone. */
static void out_of_memory(void **state) {
    (void)state;
    for (int metric = FT_METRIC_F1; metric <= FT_METRIC_PART; metric++) {
        const struct ft_strings *truths = STRINGS("one two. three", "one");
        uint64_t n = 0;
        double got;
        ft_status status;
        do {
            got = -1;
            ft_alloc_fail_after(++n, false);
            status = ft_metric_score((enum ft_metric)metric, "two one. four", truths,
                                     STRINGS("one"), &got);
            ft_alloc_fail_after(0, false);
            assert_true(status == FT_OK || (status == FT_NOMEM && got == -1));
        } while (status != FT_OK && n < 100);
        assert_true(metric == FT_METRIC_CLASS ? n == 1 : n >= 4 && n < 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean),      cmocka_unit_test(f1),         cmocka_unit_test(rouge_l),
        cmocka_unit_test(rouge_long), cmocka_unit_test(classes),    cmocka_unit_test(code),
        cmocka_unit_test(references), cmocka_unit_test(any_metric), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
