/* SPDX-License-Identifier: Apache-2.0 */
/* test_needle.c - one needle at a given depth: where it stands, how often, how long the text is. */
#include "ruler_fixture.h"

static const char *const kind[] = { "niah_single_1", "niah_single_2", "niah_single_3" };
static const uint32_t depth_of[] = { 0, 1, 10, 25, 33, 50, 67, 90, 99, 100 };

static struct ft_sample made_at(struct ft_ruler *ruler, const char *name, uint32_t depth,
                                uint32_t ctx, uint32_t index) {
    struct ft_needle needle = { ruler, task_of(name) };
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_error error = { 0 };
    if (ft_needle_make(&needle, depth, ctx, index, &sample, &error) != FT_OK) {
        fail_msg("%s at %u %% of %u: %s", name, depth, ctx, error.text);
    }
    return sample;
}

static uint32_t words(const char *text, const char *end) {
    uint32_t n = 0;
    for (const char *at = text; at < end; at++) {
        bool is_blank = *at == ' ' || *at == '\n';
        n += !is_blank && (at == text || at[-1] == ' ' || at[-1] == '\n');
    }
    return n;
}

/* The words of the longest piece that ends with a full stop, a newline or the text. */
static uint32_t longest(const char *text, char border) {
    uint32_t most = 0;
    for (const char *at = text; *at != '\0';) {
        const char *end = strchr(at, border);
        end = end ? end + 1 : at + strlen(at);
        uint32_t n = words(at, end);
        most = n > most ? n : most;
        at = end;
    }
    return most;
}

/* The context of a sample without its needle; *before of its *n words stand in front of the needle.
 * The caller frees it. */
static char *without_needle(const struct ft_turn *turn, uint32_t *before, uint32_t *n) {
    char *context = between(turn->text, "afterwards.\n", "\nWhat is the special magic ");
    char *needle = strstr(context, "One of the special magic ");
    assert_non_null(needle);
    assert_int_equal(times(context, "special magic"), 1);
    assert_int_equal(times(turn->text, turn->reference[0]), 1);
    char *value = strstr(needle, turn->reference[0]);
    assert_non_null(value);
    char *end = value + strlen(turn->reference[0]);
    assert_int_equal(*end, '.');
    assert_true(end[1] == ' ' || end[1] == '\n' || end[1] == '\0');
    const char *front = needle;
    while (front > context && (front[-1] == ' ' || front[-1] == '\n')) {
        front--;
    }
    bool is_border = front == context || front[-1] == '.';
    *before = words(context, needle);
    memmove(needle, end + 1, strlen(end + 1) + 1);
    *n = words(context, context + strlen(context));
    assert_true(is_border || *before == *n); /* a text may end within a sentence */
    return context;
}

static void check_depth(struct ft_ruler *ruler, const char *name, uint32_t depth, uint32_t ctx) {
    struct ft_sample sample = made_at(ruler, name, depth, ctx, 3);
    const struct ft_turn *turn = &sample.turn[0];
    uint32_t before, n;
    assert_int_equal(sample.n_turn, 1);
    assert_int_equal(turn->n_reference, 1);
    char *rest = without_needle(turn, &before, &n);
    uint32_t sentence = longest(rest, strcmp(name, kind[0]) == 0 ? '\n' : '.');
    double off = before - n * depth / 100.0;
    if (off < -0.5 * sentence - 0.5 || off > 0.5 * sentence + 0.5) {
        fail_msg("%s: %u of %u words stand in front of the needle, expected %u %%", name, before, n,
                 depth);
    }
    assert_true(depth > 0 || before == 0);
    assert_true(depth < 100 || before == n);
    uint32_t n_token = tokens(turn) + sample.n_predict;
    assert_true(n_token <= ctx && n_token > ctx - 40);
    free(rest);
    ft_sample_done(&sample);
}

static void test_places(void **state) {
    struct ft_ruler *ruler = opened(5);
    (void)state;
    for (size_t k = 0; k < FT_COUNT(kind); k++) {
        for (size_t d = 0; d < FT_COUNT(depth_of); d++) {
            check_depth(ruler, kind[k], depth_of[d], 512);
            check_depth(ruler, kind[k], depth_of[d], 3000);
        }
    }
    ft_ruler_free(ruler);
}

/* A user's text of sentences of one to nine words, shorter than the context: it begins again. */
static void test_given_text(void **state) {
    char text[2048] = "";
    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        for (uint32_t w = 0; w < 1 + i * 7 % 9; w++) {
            strcat(text, w == 0 ? "Some" : " more");
        }
        strcat(text, ". ");
    }
    struct ft_ruler *ruler =
        open_with((struct ft_ruler_params){ .seed = 1, .has_prefix = true, .haystack = text });
    for (size_t d = 0; d < FT_COUNT(depth_of); d++) {
        check_depth(ruler, "niah_single_2", depth_of[d], 1500);
    }
    ft_ruler_free(ruler);
}

/* What differs between depths is the depth; between indices and seeds it is the needle. */
static void test_same(void **state) {
    struct ft_ruler *ruler = opened(7), *other = opened(8);
    (void)state;
    for (size_t k = 0; k < FT_COUNT(kind); k++) {
        struct ft_sample a = made_at(ruler, kind[k], 20, 600, 0);
        struct ft_sample again = made_at(ruler, kind[k], 20, 600, 0);
        struct ft_sample deep = made_at(ruler, kind[k], 80, 600, 0);
        struct ft_sample next = made_at(ruler, kind[k], 20, 600, 1);
        struct ft_sample seed = made_at(other, kind[k], 20, 600, 0);
        assert_true(is_same(&a, &again));
        assert_string_equal(a.turn[0].reference[0], deep.turn[0].reference[0]);
        assert_string_equal(a.turn[0].prefix, deep.turn[0].prefix);
        assert_string_not_equal(a.turn[0].text, deep.turn[0].text);
        assert_string_not_equal(a.turn[0].reference[0], next.turn[0].reference[0]);
        assert_string_not_equal(a.turn[0].reference[0], seed.turn[0].reference[0]);
        ft_sample_done(&a);
        ft_sample_done(&again);
        ft_sample_done(&deep);
        ft_sample_done(&next);
        ft_sample_done(&seed);
    }
    ft_ruler_free(ruler);
    ft_ruler_free(other);
}

static void test_scores(void **state) {
    struct ft_ruler *ruler = opened(7);
    (void)state;
    for (size_t k = 0; k < FT_COUNT(kind); k++) {
        struct ft_needle needle = { ruler, task_of(kind[k]) };
        struct ft_sample sample = made_at(ruler, kind[k], 40, 600, 0);
        const struct ft_turn *turn = &sample.turn[0];
        char answer[128];
        double score = -1;
        snprintf(answer, sizeof answer, " it is %s, I think", turn->reference[0]);
        assert_int_equal(ft_needle_score(&needle, 40, turn, answer, &score), FT_OK);
        assert_true(score == 1);
        answer[7 + 2]++; /* one digit of the value */
        assert_int_equal(ft_needle_score(&needle, 40, turn, answer, &score), FT_OK);
        assert_true(score == 0);
        assert_int_equal(ft_needle_score(&needle, 40, turn, "", &score), FT_OK);
        assert_true(score == 0);
        ft_sample_done(&sample);
    }
    ft_ruler_free(ruler);
}

static void test_refusals(void **state) {
    struct ft_ruler *ruler = opened(7);
    struct ft_needle needle = { ruler, task_of("niah_single_2") };
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_error error = { 0 };
    (void)state;
    assert_int_equal(ft_needle_make(&needle, 50, 150, 0, &sample, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "niah_single_2: sample 0 takes at least"));
    assert_int_equal(sample.n_turn, 0);
    for (uint32_t t = 0; ft_ruler_name(t); t++) {
        bool is_single = false;
        for (size_t k = 0; k < FT_COUNT(kind); k++) {
            is_single = is_single || strcmp(ft_ruler_name(t), kind[k]) == 0;
        }
        assert_int_equal(ft_ruler_is_single(t), is_single);
    }
    ft_ruler_free(ruler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),   cmocka_unit_test(test_given_text),
        cmocka_unit_test(test_same),     cmocka_unit_test(test_scores),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
