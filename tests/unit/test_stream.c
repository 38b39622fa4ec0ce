/* SPDX-License-Identifier: Apache-2.0 */
/* test_stream.c - what a stream shows: whole characters, no stop string, the same for any cuts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

#define BAD "\xEF\xBF\xBD"

struct shown {
    char text[4096];
    size_t n;
    bool is_stopped;
};

static ft_stream *stream_new(const char *const *stop, uint32_t n_stop) {
    ft_stream *stream = NULL;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_stream_new(stop, n_stop, &stream, &err), FT_OK);
    return stream;
}

static void push(ft_stream *stream, const char *bytes, size_t n, struct shown *out) {
    const char *text = NULL;
    size_t n_text = 0;
    assert_int_equal(ft_stream_push(stream, bytes, n, &text, &n_text, &out->is_stopped), FT_OK);
    assert_int_equal(ft_utf8_check(text, n_text), n_text);
    assert_true(out->n + n_text < sizeof(out->text));
    memcpy(out->text + out->n, text, n_text);
    out->n += n_text;
    out->text[out->n] = '\0';
}

/* The text in pieces of `size` bytes, then a flush. */
static void feed(const char *text, size_t n, size_t size, const char *const *stop, uint32_t n_stop,
                 struct shown *out) {
    ft_stream *stream = stream_new(stop, n_stop);
    memset(out, 0, sizeof(*out));
    for (size_t at = 0; at < n; at += size) {
        push(stream, text + at, FT_MIN(size, n - at), out);
    }
    push(stream, NULL, 0, out);
    ft_stream_free(stream);
}

static void test_cases(void **state) {
    (void)state;
    static const struct {
        const char *in, *stop[3], *out;
        bool is_stopped;
    } cases[] = {
        { "", { NULL }, "", false },
        { "plain", { NULL }, "plain", false },
        { "h\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80.",
          { NULL },
          "h\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80.",
          false },
        { "cut \xF0\x9F\x98", { NULL }, "cut " BAD, false }, /* at the very end: one U+FFFD */
        { "a\xF0\x9F\x98"
          "b",
          { NULL },
          "a" BAD "b",
          false }, /* a maximal subpart is one */
        { "a\x80\xBF"
          "b",
          { NULL },
          "a" BAD BAD "b",
          false }, /* stray continuations are two */
        { "\xC0\xAF\xED\xA0\x80", { NULL }, BAD BAD BAD BAD BAD, false }, /* overlong, surrogate */
        { "one\nStop: two", { "\nStop:" }, "one", true },
        { "one\nStop two", { "\nStop:" }, "one\nStop two", false },
        { "one\nStop", { "\nStop:" }, "one\nStop", false }, /* undecided until the flush */
        { "aaab", { "aab" }, "a", true },                   /* overlapping beginnings */
        { "ababac", { "abac" }, "ab", true },
        { "xabz", { "ab", "xabz" }, "x", true }, /* the one complete first */
        { "xabz", { "abz", "xabz" }, "", true }, /* of equals the longest */
        { "\xE4\xB8\xAD\xE6\x96\x87", { "\xE6\x96\x87" }, "\xE4\xB8\xAD", true },
        { "END", { "END" }, "", true },
        { "a\xFF"
          "END tail",
          { "END" },
          "a" BAD,
          true },
        { BAD " own", { NULL }, BAD " own", false },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        uint32_t n_stop = 0;
        while (n_stop < 3 && cases[i].stop[n_stop] != NULL) {
            n_stop++;
        }
        for (size_t size = 1; size <= 16; size++) {
            struct shown got;
            feed(cases[i].in, strlen(cases[i].in), size, cases[i].stop, n_stop, &got);
            if (strcmp(got.text, cases[i].out) != 0 || got.is_stopped != cases[i].is_stopped) {
                fail_msg("case %zu in pieces of %zu: got '%s' %d want '%s' %d", i, size, got.text,
                         got.is_stopped, cases[i].out, cases[i].is_stopped);
            }
        }
    }
}

/* Text is shown as early as it may be. */
static void test_timing(void **state) {
    (void)state;
    static const char *const stop[] = { "</end>" };
    ft_stream *stream = stream_new(stop, 1);
    struct shown got = { .n = 0 };
    push(stream, "ab<", 3, &got);
    assert_string_equal(got.text, "ab");
    push(stream, "/en", 3, &got);
    assert_string_equal(got.text, "ab");
    push(stream, "x</", 3, &got);
    assert_string_equal(got.text, "ab</enx");
    push(stream, "\xC3", 1, &got);
    assert_string_equal(got.text, "ab</enx"); /* decided only with the character */
    push(stream, "\xA9", 1, &got);
    assert_string_equal(got.text, "ab</enx</\xC3\xA9");
    push(stream, "</end>rest", 10, &got);
    assert_true(got.is_stopped);
    push(stream, "more", 4, &got);
    push(stream, NULL, 0, &got);
    assert_true(got.is_stopped);
    assert_string_equal(got.text, "ab</enx</\xC3\xA9");
    ft_stream_free(stream);
}

static void test_zero_bytes(void **state) {
    (void)state;
    struct shown got;
    feed("a\0b", 3, 1, NULL, 0, &got);
    assert_int_equal(got.n, 3);
    assert_memory_equal(got.text, "a\0b", 3);
}

static void test_limits(void **state) {
    (void)state;
    struct ft_error err;
    ft_stream *stream = NULL;
    static const char *const empty[] = { "ok", "" }, *const broken[] = { "a\xFF" };
    char *longest = calloc(1026, 1);
    const char *const too_long[] = { longest };
    assert_non_null(longest);
    memset(longest, 'x', 1025);
    assert_int_equal(ft_stream_new(empty, 2, &stream, &err), FT_ARG);
    assert_non_null(strstr(err.text, "stop string 2"));
    assert_int_equal(ft_stream_new(broken, 1, &stream, &err), FT_FORMAT);
    assert_int_equal(ft_stream_new(too_long, 1, &stream, &err), FT_ARG);
    assert_int_equal(ft_stream_new(too_long, 65, &stream, &err), FT_ARG);
    assert_null(stream);
    longest[1024] = '\0';
    stream = stream_new(too_long, 1);
    char *big = malloc(1 << 21);
    assert_non_null(big);
    memset(big, 'y', 1 << 21);
    const char *text;
    size_t n;
    bool is_stopped;
    assert_int_equal(ft_stream_push(stream, big, (1 << 20) + 1, &text, &n, &is_stopped), FT_LIMIT);
    assert_int_equal(ft_stream_push(stream, big, 1 << 20, &text, &n, &is_stopped), FT_OK);
    assert_int_equal(n, 1 << 20);
    memset(big, 0xFF, 1 << 20); /* every byte becomes three */
    assert_int_equal(ft_stream_push(stream, big, 1 << 20, &text, &n, &is_stopped), FT_OK);
    assert_int_equal(n, 3 << 20);
    ft_stream_free(stream);
    ft_stream_free(NULL);
    free(big);
    free(longest);
}

static void test_no_allocation(void **state) {
    (void)state;
    static const char *const stop[] = { "\n\n", "User:" };
    ft_stream *stream = stream_new(stop, 2);
    uint64_t before = ft_alloc_count();
    struct shown got;
    for (int i = 0; i < 1000; i++) {
        got.n = 0;
        push(stream, "some text \xF0\x9F\x98\x80 U", 17, &got);
    }
    assert_int_equal(ft_alloc_count(), before);
    ft_stream_free(stream);
}

static void test_out_of_memory(void **state) {
    (void)state;
    static const char *const stop[] = { "a", "b" };
    uint32_t n_failed = 0;
    for (uint64_t n = 1; n < 20; n++) {
        ft_stream *stream = NULL;
        ft_alloc_fail_after(n, false);
        ft_status status = ft_stream_new(stop, 2, &stream, NULL);
        ft_alloc_fail_after(0, false);
        if (status == FT_OK) {
            ft_stream_free(stream);
            break;
        }
        assert_int_equal(status, FT_NOMEM);
        assert_null(stream);
        n_failed++;
    }
    assert_int_equal(n_failed, 6); /* stream, list, two texts, two buffers */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),         cmocka_unit_test(test_timing),
        cmocka_unit_test(test_zero_bytes),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_no_allocation), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
