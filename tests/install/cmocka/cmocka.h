/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka.h - stands in for cmocka where there is none for the target: the part of its interface
 * that the tests cross-compiled by neon.sh use.  The first failure ends the program. */
#ifndef FT_STAND_IN_CMOCKA_H
#define FT_STAND_IN_CMOCKA_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(function)                                                                 \
    { #function, function }

#define print_message(...) printf(__VA_ARGS__)
#define fail_msg(...)                                                                              \
    (printf(__VA_ARGS__), printf("\n%s:%d: failed\n", __FILE__, __LINE__), exit(1))
#define fail() fail_msg("fail()")
#define skip() /* the reason has been printed as "SKIP ..." */ return

#define assert_true(x) ((x) ? (void)0 : fail_msg("%s is false", #x))
#define assert_false(x) assert_true(!(x))
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_null(p) assert_true((p) == NULL)
#define assert_ptr_equal(a, b) assert_true((const void *)(a) == (const void *)(b))
#define assert_int_equal(a, b) assert_true((uintmax_t)(a) == (uintmax_t)(b))
#define assert_int_not_equal(a, b) assert_true((uintmax_t)(a) != (uintmax_t)(b))
#define assert_string_equal(a, b) assert_true(strcmp(a, b) == 0)
#define assert_memory_equal(a, b, n) assert_true(memcmp(a, b, n) == 0)
#define assert_memory_not_equal(a, b, n) assert_true(memcmp(a, b, n) != 0)
#define assert_in_range(x, low, high) assert_true((x) >= (low) && (x) <= (high))

static inline int cmocka_run_all(const char *group, const struct CMUnitTest *tests, size_t n) {
    printf("[==========] %s: Running %zu test(s).\n", group, n);
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;
        printf("[ RUN      ] %s\n", tests[i].name);
        fflush(stdout);
        tests[i].run(&state);
        printf("[       OK ] %s\n", tests[i].name);
    }
    return 0;
}
#define cmocka_run_group_tests_name(group, tests, setup, teardown)                                 \
    cmocka_run_all(group, tests,                                                                   \
                   sizeof(tests) / sizeof((tests)[0]) + 0 * sizeof((setup) == (teardown)))

#endif
