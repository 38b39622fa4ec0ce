/* SPDX-License-Identifier: Apache-2.0 */
/* test_pytext.c - code points, white space, words and lower case as Python has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "eval/pytext.h"

static void assert_codes(const char *text, const uint32_t *want, size_t n) {
    const char *at = text, *end = text + strlen(text);
    for (size_t i = 0; i < n; i++) {
        assert_true(at < end);
        assert_int_equal(ft_pytext_next(&at, end), want[i]);
    }
    assert_ptr_equal(at, end);
}

static void code_points(void **state) {
    (void)state;
    assert_codes("a\xC3\xA9\xE2\x80\x94\xF0\x9F\x98\x80",
                 (const uint32_t[]){ 'a', 0xE9, 0x2014, 0x1F600 }, 4);
    /* lone continuation, cut character, overlong form: each byte for itself */
    assert_codes("\x80z\xE2\x80", (const uint32_t[]){ 0x110080, 'z', 0x1100E2, 0x110080 }, 4);
    assert_codes("\xE0\x80\x80", (const uint32_t[]){ 0x1100E0, 0x110080, 0x110080 }, 3);
    assert_codes("\xC3", (const uint32_t[]){ 0x1100C3 }, 1);
}

/* "".join of the words, each in brackets */
static void assert_split(const char *text, const char *want) {
    char got[128] = "";
    const char *at = text, *end = text + strlen(text);
    struct ft_piece word;
    while (ft_pytext_split(&at, end, &word)) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "[%.*s]", (int)word.n, word.at);
    }
    assert_string_equal(got, want);
}

static void split(void **state) {
    (void)state;
    assert_split("", "");
    assert_split(" \t\n", "");
    assert_split("one", "[one]");
    assert_split("  a b\x1C"
                 "c\xC2\xA0"
                 "d\xE2\x80\x83"
                 "e\xE3\x80\x80",
                 "[a][b][c][d][e]");
    assert_split("a\xE2\x80\x8B"
                 "b",
                 "[a\xE2\x80\x8B"
                 "b]"); /* U+200B is no white space */
}

static void assert_becomes(void (*change)(char *), const char *text, const char *want) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", text);
    change(copy);
    assert_string_equal(copy, want);
}

static void strip(void **state) {
    (void)state;
    assert_becomes(ft_pytext_strip, "", "");
    assert_becomes(ft_pytext_strip, " \n\xC2\xA0", "");
    assert_becomes(ft_pytext_strip, "x", "x");
    assert_becomes(ft_pytext_strip, "\n  a  b\t\xC2\x85", "a  b");
}

static void lower(void **state) {
    (void)state;
    assert_becomes(ft_pytext_lower, "@AZ[`az{09", "@az[`az{09");
    /* E acute, multiplication sign, Y diaeresis, L stroke, I dotted (stays) */
    assert_becomes(ft_pytext_lower, "\xC3\x89\xC3\x97\xC5\xB8\xC5\x81\xC4\xB0",
                   "\xC3\xA9\xC3\x97\xC3\xBF\xC5\x82\xC4\xB0");
    /* Greek Omega and Alpha tonos, Cyrillic Io and Zhe, Vietnamese E circumflex acute */
    assert_becomes(ft_pytext_lower, "\xCE\xA9\xCE\x86\xD0\x81\xD0\x96\xE1\xBA\xBE",
                   "\xCF\x89\xCE\xAC\xD1\x91\xD0\xB6\xE1\xBA\xBF");
    assert_becomes(ft_pytext_lower, "A\xC3", "a\xC3");
}

static void word_characters(void **state) {
    (void)state;
    static const uint32_t word[] = { 'a', 'Z', '0', '_', 0xAA, 0xB2, 0xBC, 0xE9, 0x416, 0x4E2D };
    static const uint32_t other[] = { ' ', '-', '@', 0xA0, 0xAB, 0xD7, 0x2014, 0x201C, 0x1F600 };
    for (size_t i = 0; i < FT_COUNT(word); i++) {
        assert_true(ft_pytext_is_word(word[i]));
    }
    for (size_t i = 0; i < FT_COUNT(other); i++) {
        assert_false(ft_pytext_is_word(other[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(code_points), cmocka_unit_test(split),           cmocka_unit_test(strip),
        cmocka_unit_test(lower),       cmocka_unit_test(word_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
