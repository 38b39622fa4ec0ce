/* SPDX-License-Identifier: Apache-2.0 */
/* test_ruler.c - RULER's tasks with a toy token counter: lengths, seeds, needles, variables.
 *
 * The texts expected here are written out from NVIDIA/RULER's constants.py, apart from the
 * templates of the code under test.
 */
#define _POSIX_C_SOURCE 200809L /* strtok_r */
#include "ruler_fixture.h"

enum { LENGTHS = 4, SAMPLES = 4 };
static const uint32_t length[LENGTHS] = { 1500, 2048, 4096, 9000 };

/* ---- every task ---- */

/* What more hay would at least have taken: a line of noise, a needle, a document, ... */
static uint32_t slack_of(const char *name) {
    if (strcmp(name, "cwe") == 0) {
        return 80; /* a word three times with its numbers, behind a text that other words change */
    }
    return strcmp(name, "niah_multikey_3") == 0 ? 130 : strncmp(name, "qa", 2) == 0 ? 60 : 40;
}

static void test_every_task(void **state) {
    struct ft_ruler *ruler = opened(7);
    (void)state;
    for (uint32_t task = 0; ft_ruler_name(task); task++) {
        const char *name = ft_ruler_name(task);
        for (uint32_t l = 0; l < LENGTHS; l++) {
            for (uint32_t i = 0; i < SAMPLES; i++) {
                struct ft_sample sample = made(ruler, name, length[l], i);
                uint32_t n = 0;
                assert_int_equal(sample.n_turn, ft_ruler_turns(task));
                for (uint32_t t = 0; t < sample.n_turn; t++) {
                    const struct ft_turn *turn = &sample.turn[t];
                    char answer[512] = "it is ";
                    assert_true(turn->n_reference > 0);
                    n += tokens(turn) + sample.n_predict;
                    for (uint32_t r = 0; r < turn->n_reference; r++) {
                        assert_true(times(sample.turn[0].text, turn->reference[r]) > 0);
                        strncat(answer, turn->reference[r], 60);
                        strncat(answer, ", ", 3);
                    }
                    assert_true(scored(ruler, task, turn, answer) >= 1);
                    assert_true(scored(ruler, task, turn, "") <= 0);
                    assert_true(scored(ruler, task, turn, "no idea") <= 0);
                }
                if (n > length[l] || n + slack_of(name) < length[l]) {
                    fail_msg("%s at %u has %u tokens", name, length[l], n);
                }
                ft_sample_done(&sample);
            }
        }
    }
    ft_ruler_free(ruler);
}

static void test_seeds(void **state) {
    struct ft_ruler *one = opened(7), *again = opened(7), *other = opened(8);
    (void)state;
    for (uint32_t task = 0; ft_ruler_name(task); task++) {
        const char *name = ft_ruler_name(task);
        /* not in the order of the other maker: a sample depends on nothing made before */
        struct ft_sample next = made(one, name, 2048, 3), a = made(one, name, 2048, 2);
        struct ft_sample b = made(again, name, 2048, 2), c = made(other, name, 2048, 2);
        assert_true(is_same(&a, &b));
        assert_false(is_same(&a, &c));
        assert_false(is_same(&a, &next));
        ft_sample_done(&next);
        ft_sample_done(&a);
        ft_sample_done(&b);
        ft_sample_done(&c);
    }
    ft_ruler_free(one);
    ft_ruler_free(again);
    ft_ruler_free(other);
}

/* ---- needles ---- */

struct niah {
    const char *name, *kind; /* of the value, in the singular */
    uint32_t n_key, n_value, n_query;
    const char *hay; /* a piece that stands between needles; NULL: more needles */
};
static const struct niah niah[] = {
    { "niah_single_1", "number", 1, 1, 1, "\nThe grass is green. The sky is blue." },
    { "niah_single_2", "number", 1, 1, 1, ". The " },
    { "niah_single_3", "uuid", 1, 1, 1, ". The " },
    { "niah_multikey_1", "number", 4, 1, 1, ". The " },
    { "niah_multikey_2", "number", 1, 1, 1, NULL },
    { "niah_multikey_3", "uuid", 1, 1, 1, NULL },
    { "niah_multivalue", "number", 1, 4, 1, ". The " },
    { "niah_multiquery", "number", 4, 1, 4, ". The " },
};

static void check_value(const char *value, bool is_uuid) {
    if (is_uuid) {
        assert_int_equal(strlen(value), 36);
        assert_int_equal(strspn(value, "0123456789abcdef-"), 36);
        assert_true(value[8] == '-' && value[13] == '-' && value[18] == '-' && value[23] == '-');
        assert_true(value[14] == '4' && strchr("89ab", value[19])); /* RFC 4122, random */
    } else {
        assert_int_equal(strlen(value), 7);
        assert_int_equal(strspn(value, "0123456789"), 7);
        assert_true(value[0] != '0');
    }
}

static void check_wording(const struct niah *row, const struct ft_turn *turn) {
    bool is_one = row->n_query * row->n_value == 1;
    char head[300], tail[700], needle[64], prefix[700];
    char *query = between(turn->prefix, "for ", " mentioned");
    if (is_one) {
        snprintf(head, sizeof head,
                 "A special magic %s is hidden within the following text. Make sure to memorize "
                 "it. I will quiz you about the %s afterwards.\n",
                 row->kind, row->kind);
        snprintf(tail, sizeof tail,
                 "\nWhat is the special magic %s for %s mentioned in the provided text?", row->kind,
                 query);
        snprintf(prefix, sizeof prefix,
                 " The special magic %s for %s mentioned in the provided text is", row->kind,
                 query);
    } else {
        snprintf(head, sizeof head,
                 "Some special magic %ss are hidden within the following text. Make sure to "
                 "memorize it. I will quiz you about the %ss afterwards.\n",
                 row->kind, row->kind);
        snprintf(tail, sizeof tail,
                 "\nWhat are all the special magic %ss for %s mentioned in the provided text?",
                 row->kind, query);
        snprintf(prefix, sizeof prefix,
                 " The special magic %ss for %s mentioned in the provided text are", row->kind,
                 query);
    }
    assert_begins(turn->text, head);
    assert_ends(turn->text, tail);
    assert_string_equal(turn->prefix, prefix);
    if (row->n_query == 4) {
        assert_int_equal(times(query, ", "), 3);
        assert_int_equal(times(query, ", and "), 1);
    }
    snprintf(needle, sizeof needle, "One of the special magic %ss for ", row->kind);
    uint32_t n_needle = times(turn->text, needle);
    if (row->hay) {
        assert_int_equal(n_needle, row->n_key * row->n_value);
        assert_true(times(turn->text, row->hay) > 10);
    } else {
        assert_true(n_needle > 10);
    }
    free(query);
}

/* Every reference stands in a needle of a key that is asked for, and that key has no others. */
static void check_references(const struct niah *row, const struct ft_turn *turn) {
    char line[256];
    char *query = between(turn->prefix, "for ", " mentioned");
    char *rest = query;
    uint32_t n = 0;
    assert_int_equal(turn->n_reference, row->n_query * row->n_value);
    for (char *end = rest; end; rest = end ? end + 2 : rest) {
        end = strstr(rest, ", ");
        if (end) {
            *end = '\0';
        }
        const char *key = strncmp(rest, "and ", 4) == 0 ? rest + 4 : rest;
        snprintf(line, sizeof line, "One of the special magic %ss for %s is: ", row->kind, key);
        assert_int_equal(times(turn->text, line), row->n_value);
        for (uint32_t v = 0; v < row->n_value; v++, n++) {
            check_value(turn->reference[n], strcmp(row->kind, "uuid") == 0);
            snprintf(line, sizeof line, "One of the special magic %ss for %s is: %s.", row->kind,
                     key, turn->reference[n]);
            assert_int_equal(times(turn->text, line), 1);
        }
    }
    assert_int_equal(n, turn->n_reference);
    free(query);
}

static void test_needles(void **state) {
    struct ft_ruler *ruler = opened(11);
    (void)state;
    for (size_t k = 0; k < sizeof niah / sizeof *niah; k++) {
        for (uint32_t i = 0; i < 10; i++) {
            struct ft_sample sample = made(ruler, niah[k].name, 1500 + 700 * (i % 3), i);
            assert_int_equal(sample.n_predict, 128);
            check_wording(&niah[k], &sample.turn[0]);
            check_references(&niah[k], &sample.turn[0]);
            ft_sample_done(&sample);
        }
    }
    ft_ruler_free(ruler);
}

static void test_shared(void **state) {
    struct ft_ruler *ruler = opened(3);
    (void)state;
    struct ft_sample sample = made(ruler, "shared", 2048, 0);
    const struct niah row = { "shared", "number", 4, 1, 1, ". The " };
    assert_int_equal(sample.n_turn, 3);
    check_wording(&row, &sample.turn[0]);
    for (uint32_t t = 1; t < 3; t++) {
        assert_begins(sample.turn[t].text, "\nWhat is the special magic number for ");
        assert_int_equal(sample.turn[t].n_reference, 1);
        assert_string_not_equal(sample.turn[t].reference[0], sample.turn[t - 1].reference[0]);
    }
    ft_sample_done(&sample);
    ft_ruler_free(ruler);
}

/* An essay is the user's text from its start, sentence by sentence, with single blanks. */
static void test_essay(void **state) {
    struct ft_ruler *ruler = open_with((struct ft_ruler_params){
        .seed = 1,
        .has_prefix = true,
        .haystack =
            "Mr. Hill  saw\nit. He \"left.\" Then at 3.5 p.m. he ran!  Why? J. Doe knew." });
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        struct ft_sample sample = made(ruler, "niah_single_2", 400, i);
        char *context = between(sample.turn[0].text, "afterwards.\n", "\nWhat is");
        char *needle = strstr(context, "One of the");
        assert_non_null(needle);
        char *behind = strchr(needle, ':');
        while (*behind != '.') {
            behind++;
        }
        /* In front stands the end of a sentence, or the start of the text. */
        *needle = '\0';
        if (needle == context + 1) {
            assert_string_equal(context, " ");
        } else {
            assert_begins(context, "Mr. Hill saw it. He \"left.\" Then at 3.5 p.m. he ran!");
            static const char *const end[] = { "saw it. ", "\"left.\" ", "ran! ", "Why? ",
                                               "knew. " };
            bool is_end = behind[1] == ' ' && behind[2] == '\0';
            for (size_t e = 0; e < sizeof end / sizeof *end; e++) {
                size_t n = strlen(end[e]), n_context = strlen(context);
                is_end = is_end || (n_context >= n && strcmp(context + n_context - n, end[e]) == 0);
            }
            if (!is_end) {
                fail_msg("the needle stands behind \"...%s\"",
                         context + (strlen(context) > 40 ? strlen(context) - 40 : 0));
            }
        }
        free(context);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

/* Is this many of n sentences one of RULER's 40 depths? */
static bool is_depth(uint32_t before, uint32_t n) {
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t percent = (uint32_t)(i * 100.0 / 39 + 0.5);
        if (before == (uint32_t)(n * (percent / 100.0))) {
            return true;
        }
    }
    return false;
}

/* Every word of this haystack is a sentence. */
static void test_depths(void **state) {
    struct ft_ruler *ruler = open_with(
        (struct ft_ruler_params){ .seed = 2, .has_prefix = true, .haystack = "Aa! Bb! Cc!" });
    uint32_t first = UINT32_MAX, last = 0;
    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct ft_sample sample = made(ruler, "niah_multikey_1", 1200, i);
        char *context = between(sample.turn[0].text, "afterwards.\n", "\nWhat is");
        uint32_t n = times(context, "!"), n_before = UINT32_MAX;
        assert_true(n > 120);
        for (char *at = strstr(context, "One of"); at; at = strstr(at + 1, "One of")) {
            char kept = *at;
            *at = '\0';
            uint32_t before = times(context, "!");
            *at = kept;
            assert_true(is_depth(before, n));
            assert_true(before != n_before); /* four different depths, ascending */
            n_before = before;
            first = before < first ? before : first;
            last = before * 100 / n > last ? before * 100 / n : last;
        }
        free(context);
        ft_sample_done(&sample);
    }
    assert_true(first == 0 && last > 95);
    ft_ruler_free(ruler);
}

/* ---- variables ---- */

/* In order, and each copy from the one before. */
static void check_chain(const char *text, const char *value, char *const *name, uint32_t n) {
    char line[64];
    snprintf(line, sizeof line, "VAR %s = %s\n", name[0], value);
    const char *at = strstr(text, line);
    assert_non_null(at);
    for (uint32_t i = 1; i < n; i++) {
        snprintf(line, sizeof line, "VAR %s = VAR %s \n", name[i], name[i - 1]);
        at = strstr(at, line);
        assert_non_null(at);
    }
}

static void check_example(const char *example) {
    char *name[5], *rest = NULL;
    char *value = between(example, "assigned the value ", " in the text");
    char *list = between(example, "they are:  ", "\n\n");
    for (uint32_t i = 0; i < 5; i++) {
        name[i] = strtok_r(i == 0 ? list : NULL, " ", &rest);
        assert_non_null(name[i]);
        assert_int_equal(strlen(name[i]), 3);
    }
    check_chain(example, value, name, 5);
    free(value);
    free(list);
}

static void test_tracking(void **state) {
    static const char head[] = "Memorize and track the chain(s) of variable assignment hidden in "
                               "the following text.\n\n";
    struct ft_ruler *ruler = opened(5);
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        struct ft_sample sample = made(ruler, "vt", length[i % LENGTHS], i);
        const struct ft_turn *turn = &sample.turn[0];
        char tail[128], prefix[256];
        assert_begins(turn->text, head);
        char *task = strstr(turn->text + 1, head);
        assert_non_null(task);
        uint32_t n_example;
        char *example = calloc((size_t)(task - turn->text) + 1, 1);
        memcpy(example, turn->text, (size_t)(task - turn->text));
        count(example, "", &n_example, NULL, NULL);
        assert_true(n_example <= 501 && n_example > 300);
        check_example(example);
        char *value = between(turn->prefix, "assigned the value ", ",");
        snprintf(tail, sizeof tail,
                 "\nQuestion: Find all variables that are assigned the value %s in the text above.",
                 value);
        snprintf(prefix, sizeof prefix,
                 " Answer: According to the chain(s) of variable assignment in the text above, 5 "
                 "variables are assigned the value %s, they are: ",
                 value);
        assert_ends(turn->text, tail);
        assert_string_equal(turn->prefix, prefix);
        assert_int_equal(turn->n_reference, 5);
        assert_int_equal(sample.n_predict, 30);
        assert_int_equal(times(task, "VAR "), 9);
        check_chain(task, value, turn->reference, 5);
        free(value);
        free(example);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

static void test_pointers(void **state) {
    struct ft_ruler *ruler = opened(5);
    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        struct ft_sample sample = made(ruler, "chain", 2048, i);
        const struct ft_turn *turn = &sample.turn[0];
        char name[8], line[64];
        assert_int_equal(sscanf(strstr(turn->prefix, "VAR "), "VAR %3[A-Z] =", name), 1);
        for (uint32_t hop = 0; hop < 2; hop++) {
            snprintf(line, sizeof line, " VAR %s = VAR ", name);
            char *at = strstr(turn->text, line);
            assert_non_null(at);
            memcpy(name, at + strlen(line), 3);
        }
        snprintf(line, sizeof line, " VAR %s = %s. ", name, turn->reference[0]);
        assert_non_null(strstr(turn->text, line));
        assert_int_equal(times(turn->text, "= VAR "), 4);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task), cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_needles),    cmocka_unit_test(test_shared),
        cmocka_unit_test(test_essay),      cmocka_unit_test(test_depths),
        cmocka_unit_test(test_tracking),   cmocka_unit_test(test_pointers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
