/* SPDX-License-Identifier: Apache-2.0 */
/* test_base.c - errors, counted memory, checked sizes, UTF-8, SHA-256 and random values. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/rng.h"

/* ---- errors ---- */

static void test_status_text(void **state) {
    (void)state;
    assert_string_equal(ft_status_text(FT_OK), "ok");
    assert_string_equal(ft_status_text(FT_INTERNAL), "internal failure");
    assert_string_equal(ft_status_text((ft_status)99), "unknown status");
    assert_string_equal(ft_version(), "0.1.0");
}

static void test_fail(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_fail(&err, FT_FORMAT, 17, "%s is %d", "a", 3), FT_FORMAT);
    assert_int_equal(err.code, FT_FORMAT);
    assert_int_equal(err.where, 17);
    assert_string_equal(err.text, "a is 3");
    assert_int_equal(ft_fail(NULL, FT_IO, 0, "x"), FT_IO);
    ft_fail(&err, FT_IO, 0, "again: %s", err.text); /* an error may quote the one before */
    assert_string_equal(err.text, "again: a is 3");
}

static void test_fail_memory(void **state) {
    (void)state;
    static const struct {
        uint64_t n_byte;
        const char *says;
    } cases[] = {
        { 0, "no memory for rows of 3: 0 bytes needed, " },
        { 1023, ": 1023 bytes needed, " },
        { 1024, ": 1.0 KiB needed, " },
        { 12 * 1048576 + 524288, ": 12.5 MiB needed, " },
        { UINT64_C(3) << 40, ": 3072.0 GiB needed, " },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_error err = { .code = FT_OK };
        assert_int_equal(ft_fail_memory(&err, cases[i].n_byte, "rows of %d", 3), FT_NOMEM);
        assert_int_equal(err.code, FT_NOMEM);
        assert_non_null(strstr(err.text, cases[i].says));
        assert_string_equal(err.text + strlen(err.text) - strlen(" available"), " available");
    }
    assert_int_equal(ft_fail_memory(NULL, 1, "x"), FT_NOMEM);
}

static void test_fail_is_one_clean_line(void **state) {
    (void)state;
    struct ft_error err;
    ft_fail(&err, FT_IO, 0, "a\nb\x1b[2J\xff\xc3\xa9\x7f");
    assert_string_equal(err.text, "a?b?[2J?\xc3\xa9?");
    char longer[400];
    for (size_t n = 230; n < 250; n++) { /* a cut never leaves half a character */
        memset(longer, 'x', n);
        memcpy(longer + n - 3, "\xe2\x82\xac", 4);
        ft_fail(&err, FT_IO, 0, "%s", longer);
        size_t length = strlen(err.text);
        assert_true(length < sizeof(err.text));
        assert_int_equal(ft_utf8_check(err.text, length), length);
        assert_null(strchr(err.text, '?'));
    }
}

struct heard {
    unsigned n;
    enum ft_log_level level;
    char text[600];
};

static void hear(enum ft_log_level level, const char *text, void *user) {
    struct heard *heard = user;
    heard->n++;
    heard->level = level;
    snprintf(heard->text, sizeof(heard->text), "%s", text);
}

static void test_log(void **state) {
    (void)state;
    struct heard heard = { .n = 0 };
    ft_log(FT_LOG_ERROR, "nobody listens");
    ft_log_set(hear, &heard);
    ft_log(FT_LOG_WARN, "%d\n%d", 1, 2);
    ft_log_set(NULL, NULL);
    ft_log(FT_LOG_WARN, "nobody listens any more");
    assert_int_equal(heard.n, 1);
    assert_int_equal(heard.level, FT_LOG_WARN);
    assert_string_equal(heard.text, "1?2");
}

/* ---- sizes and memory ---- */

static void test_sizes(void **state) {
    (void)state;
    size_t out = 7;
    assert_true(ft_size_add(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
    assert_false(ft_size_add(SIZE_MAX, 1, &out));
    assert_false(ft_size_add(1, SIZE_MAX, &out));
    assert_true(out == SIZE_MAX); /* untouched */
    assert_true(ft_size_mul(SIZE_MAX / 3, 3, &out));
    assert_false(ft_size_mul(SIZE_MAX / 3 + 1, 3, &out));
    assert_false(ft_size_mul(SIZE_MAX, 2, &out));
    assert_true(ft_size_mul(SIZE_MAX, 0, &out) && out == 0);
    assert_true(ft_size_mul(0, SIZE_MAX, &out) && out == 0);
}

static void test_alloc(void **state) {
    (void)state;
    uint64_t before = ft_alloc_count();
    unsigned char *p = ft_alloc(10, 100);
    assert_non_null(p);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(p[i], 0);
    }
    memset(p, 5, 1000);
    p = ft_grow(p, 2000, 1);
    assert_non_null(p);
    assert_int_equal(p[999], 5);
    ft_free(p);
    char *copy = ft_strdup("text");
    assert_string_equal(copy, "text");
    ft_free(copy);
    void *empty = ft_alloc(0, 8);
    assert_non_null(empty); /* NULL means failure and nothing else */
    ft_free(empty);
    ft_free(NULL);
    assert_int_equal(ft_alloc_count() - before, 4);
    assert_null(ft_alloc(SIZE_MAX / 2, 4));
    assert_null(ft_alloc(SIZE_MAX, 1));
    assert_null(ft_grow(NULL, SIZE_MAX / 2, 4));
}

static void test_pages(void **state) {
    (void)state;
    size_t n = 10 * 4096 + 100;
    unsigned char *p = ft_pages_map(n);
    assert_non_null(p);
    memset(p, 1, n);
    ft_pages_drop(p + 1, 3 * 4096); /* whole pages inside: the second and the third */
    assert_int_equal(p[4095], 1);
    assert_int_equal(p[4096], 0);
    assert_int_equal(p[3 * 4096 - 1], 0);
    assert_int_equal(p[3 * 4096], 1);
    ft_pages_drop(p + 1, 100); /* no whole page */
    assert_int_equal(p[1], 1);
    ft_pages_unmap(p, n);
    ft_pages_unmap(NULL, n);
    assert_null(ft_pages_map(0));
    assert_null(ft_pages_map(SIZE_MAX));
    assert_null(ft_pages_map((size_t)1 << 60));
}

static void test_fail_after(void **state) {
    (void)state;
    ft_alloc_fail_after(3, false);
    void *a = ft_alloc(1, 1), *b = ft_strdup(""), *c = ft_alloc(1, 1), *d = ft_alloc(1, 1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    ft_alloc_fail_after(1, true);
    assert_null(ft_alloc(1, 1));
    assert_null(ft_pages_map(1));
    assert_null(ft_grow(NULL, 1, 1));
    assert_null(ft_strdup("x"));
    ft_alloc_fail_after(0, false);
    void *e = ft_alloc(1, 1);
    assert_non_null(e);
    ft_free(a);
    ft_free(b);
    ft_free(d);
    ft_free(e);
}

static void test_gauge(void **state) {
    (void)state;
    struct ft_gauge gauge = { .now = 0 };
    ft_gauge_add(&gauge, 100);
    ft_gauge_add(&gauge, -40);
    ft_gauge_add(&gauge, 30);
    assert_int_equal(gauge.now, 90);
    assert_int_equal(gauge.peak, 100);
    ft_gauge_add(NULL, 1);
}

/* ---- UTF-8 ---- */

/* Slow and obviously right: decode by arithmetic and look at the value. */
static size_t utf8_slow(const unsigned char *p, size_t n) {
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    for (size_t at = 0; at < n;) {
        unsigned length = p[at] < 0x80       ? 1
                          : p[at] >> 5 == 6  ? 2
                          : p[at] >> 4 == 14 ? 3
                          : p[at] >> 3 == 30 ? 4
                                             : 0;
        if (length == 0 || at + length > n) {
            return at;
        }
        uint32_t cp = length == 1 ? p[at] : p[at] & (0xffu >> (length + 1));
        for (unsigned i = 1; i < length; i++) {
            if (p[at + i] >> 6 != 2) {
                return at;
            }
            cp = cp << 6 | (p[at + i] & 0x3f);
        }
        if (cp < least[length] || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff)) {
            return at;
        }
        at += length;
    }
    return n;
}

static void test_utf8_all_short_texts(void **state) {
    (void)state;
    unsigned char p[12];
    for (uint32_t v = 0; v < 1u << 24;
         v += v < 1u << 16 ? 1 : 7) { /* every pair, every 7th triple */
        memset(p, 'a', sizeof(p));
        p[8] = (unsigned char)v;
        p[9] = (unsigned char)(v >> 8);
        p[10] = (unsigned char)(v >> 16);
        size_t want = utf8_slow(p, 11);
        if (ft_utf8_check((char *)p, 11) != want) {
            fail_msg("bytes %02x %02x %02x: got %zu want %zu", p[8], p[9], p[10],
                     ft_utf8_check((char *)p, 11), want);
        }
    }
}

static void test_utf8_four_bytes(void **state) {
    (void)state;
    for (uint32_t lead = 0xef; lead <= 0xf8; lead++) {
        for (uint32_t v = 0; v < 1u << 16; v += 5) {
            unsigned char p[4] = { (unsigned char)lead, (unsigned char)(v >> 8), (unsigned char)v,
                                   0x80 };
            assert_int_equal(ft_utf8_check((char *)p, 4), utf8_slow(p, 4));
        }
    }
}

static void test_utf8_tail(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t tail;
    } cases[] = {
        { "", 0 },
        { "a", 0 },
        { "\xc3", 1 },
        { "a\xc3", 1 },
        { "\xc3\xa9", 0 },
        { "\xe2", 1 },
        { "\xe2\x82", 2 },
        { "\xe2\x82\xac", 0 },
        { "\xf0\x9f", 2 },
        { "\xf0\x9f\x98", 3 },
        { "\xf0\x9f\x98\x80", 0 },
        { "\xff", 0 },
        { "\x80", 0 },
        { "\xc0", 0 },
        { "\xe0\x80", 0 },
        { "\xed\xa0", 0 },
        { "\xf4\x90", 0 },
        { "\xc3\x28\xe2", 1 },
        { "\x80\x80\x80\x80", 0 },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        assert_int_equal(ft_utf8_tail(cases[i].text, strlen(cases[i].text)), cases[i].tail);
    }
}

/* ---- SHA-256: the examples of FIPS 180-4 and NIST's test vectors ---- */

static void sha_of(const char *data, size_t n, size_t chunk, char hex[65]) {
    struct ft_sha256 sha;
    ft_sha256_init(&sha);
    for (size_t at = 0; at < n; at += chunk) {
        ft_sha256_add(&sha, data + at, FT_MIN(chunk, n - at));
    }
    ft_sha256_done(&sha, hex);
}

static void test_sha256(void **state) {
    (void)state;
    char hex[65], other[65];
    sha_of("", 0, 1, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha_of("abc", 3, 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha_of(two, 56, 56, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    size_t n = 1000000;
    char *million = malloc(n);
    memset(million, 'a', n);
    sha_of(million, n, n, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    for (size_t chunk = 1; chunk < 200; chunk += 21) { /* pieces of any size, ends at any place */
        sha_of(million, 1000 + chunk, 1000 + chunk, hex);
        sha_of(million, 1000 + chunk, chunk, other);
        assert_string_equal(hex, other);
    }
    free(million);
}

/* ---- random values ---- */

static void test_rng(void **state) {
    (void)state;
    double sum = 0, square = 0;
    unsigned n = 100000, low[64] = { 0 };
    for (unsigned i = 0; i < n; i++) {
        double u = ft_rng_uniform(1, 0, 0, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
        for (unsigned b = 0; b < 64; b++) {
            low[b] += (unsigned)(ft_rng_value(7, i % 5, i % 3, i / 15) >> b & 1);
        }
    }
    /* five standard deviations: 1/sqrt(12 n) and sqrt(4/45/n); 0.5/sqrt(n) for a bit */
    assert_true(fabs(sum / n - 0.5) < 5 * sqrt(1.0 / 12 / n));
    assert_true(fabs(square / n - 1.0 / 3) < 5 * sqrt(4.0 / 45 / n));
    for (unsigned b = 0; b < 64; b++) {
        assert_true(fabs((double)low[b] / n - 0.5) < 5 * 0.5 / sqrt(n));
    }
    assert_true(ft_rng_value(1, 2, 3, 4) == ft_rng_value(1, 2, 3, 4));
    assert_true(ft_rng_value(1, 2, 3, 4) != ft_rng_value(2, 2, 3, 4));
    assert_true(ft_rng_value(1, 2, 3, 4) != ft_rng_value(1, 3, 2, 4));
    assert_true(ft_rng_value(1, 2, 3, 4) != ft_rng_value(1, 2, 4, 3));
    assert_true(ft_rng_value(0, 0, 0, 0) != 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_text),
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_fail_memory),
        cmocka_unit_test(test_fail_is_one_clean_line),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_fail_after),
        cmocka_unit_test(test_gauge),
        cmocka_unit_test(test_utf8_all_short_texts),
        cmocka_unit_test(test_utf8_four_bytes),
        cmocka_unit_test(test_utf8_tail),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_rng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
