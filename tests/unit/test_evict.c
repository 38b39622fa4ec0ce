/* SPDX-License-Identifier: Apache-2.0 */
/* test_evict.c - which rows the methods let go at a step: numbers worked out by hand, plain arrays.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "score/score.h"

enum { N = 8 };

static const ft_pos places[N] = { 0, 3, 4, 9, 11, 12, 13, 20 };

struct head { /* a head's rows, and what the method noted beside them */
    float mass[N], aux[N];
    uint32_t drop[N];
};

static uint32_t evict(const char *spec, uint32_t n_row, uint32_t keep, uint32_t window,
                      struct head *head) {
    struct ft_choice choice;
    struct ft_error err = { .code = FT_OK };
    if (ft_choice_parse(FT_STAGE_KV, spec, &choice, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    struct ft_step step = { .n_row = n_row,
                            .keep = keep,
                            .window = window,
                            .pos_now = places[n_row - 1],
                            .pos = places,
                            .mass = head->mass,
                            .n_mass = 1,
                            .mass_stride = N,
                            .aux = head->aux };
    uint32_t n = choice.method->evict(&step, choice.params, head->drop);
    ft_choice_done(&choice);
    return n;
}

/* Sums grow, the lowest in front of the window leaves; the window's rows do not, however low. */
static void test_h2o(void **state) {
    (void)state;
    struct head head = { .mass = { .25f, .125f, 0, .5f, .125f, 0 },
                         .aux = { 1, .5f, .75f, .25f, 0, 0 } };
    assert_int_equal(evict("h2o:keep=5,window=2", 6, 5, 2, &head), 1);
    assert_int_equal(head.drop[0], 1); /* 1.25 .625 .75 .75 | .125 0 */
    static const float want[6] = { 1.25f, .625f, .75f, .75f, .125f, 0 };
    assert_memory_equal(head.aux, want, sizeof(want));
    /* the next step: 2 and 3 are level, the higher index leaves; row 4 is a candidate now */
    struct head next = { .mass = { 0 }, .aux = { 1.25f, .75f, .75f, .875f, 1, 0 } };
    assert_int_equal(evict("h2o:keep=5,window=2", 6, 5, 2, &next), 1);
    assert_int_equal(next.drop[0], 2);
    struct head left = { .mass = { 0 }, .aux = { 1.25f, .75f, .875f, .0625f, 1, 0 } };
    assert_int_equal(evict("h2o:keep=5,window=2", 6, 5, 2, &left), 1);
    assert_int_equal(left.drop[0], 3); /* it was in the window at first, and left it: not frozen */
}

/* A head within its limit loses nothing, and still counts. */
static void test_room(void **state) {
    (void)state;
    struct head head = { .mass = { .5f, .5f }, .aux = { 1, 0 } };
    assert_int_equal(evict("h2o:keep=5,window=2", 2, 5, 2, &head), 0);
    assert_true(head.aux[0] == 1.5f && head.aux[1] == .5f);
    assert_int_equal(evict("tova:keep=5", 5, 5, 1, &head), 0);
    assert_int_equal(evict("streamingllm:keep=7", 7, 7, 3, &head), 0);
}

/* TOVA goes by the step alone; the voting token's own row stays. */
static void test_tova(void **state) {
    (void)state;
    struct head head = { .mass = { .3f, .1f, .2f, .1f, .25f, .05f } };
    assert_int_equal(evict("tova:keep=5", 6, 5, 1, &head), 1);
    assert_int_equal(head.drop[0], 3); /* .1 twice */
}

/* The oldest row behind the sinks. */
static void test_streamingllm(void **state) {
    (void)state;
    struct head head = { .mass = { 0 } };
    assert_int_equal(evict("streamingllm:keep=7", 7, 6, 3, &head), 1);
    assert_int_equal(head.drop[0], 4);
    assert_int_equal(evict("streamingllm:keep=7,sinks=1", 8, 6, 6, &head), 2);
    assert_int_equal(head.drop[0], 1);
    assert_int_equal(head.drop[1], 2);
}

/* Several at once, NaN first, against a plain sort. */
static void test_lowest(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (uint32_t round = 0; round < 2000; round++) {
        float score[N];
        uint32_t drop[N], n_row = 1 + (uint32_t)(ft_rng_mix(++seed) % N);
        uint32_t window = (uint32_t)(ft_rng_mix(++seed) % n_row);
        uint32_t keep = window + (uint32_t)(ft_rng_mix(++seed) % (n_row - window + 1));
        uint32_t n_free = n_row - window, order[N];
        for (uint32_t j = 0; j < n_row; j++) {
            uint32_t v = (uint32_t)(ft_rng_mix(++seed) % 5);
            score[j] = v == 4 ? NAN : (float)v;
        }
        for (uint32_t j = 0; j < n_free; j++) { /* order: who leaves first */
            uint32_t at = j;
            while (at > 0 && (isnan(score[j]) ||
                              (!isnan(score[order[at - 1]]) && score[j] <= score[order[at - 1]]))) {
                order[at] = order[at - 1];
                at--;
            }
            order[at] = j;
        }
        struct ft_step step = { .n_row = n_row, .keep = keep, .window = window };
        uint32_t n = ft_keep_evict(score, &step, drop);
        assert_int_equal(n, n_row - FT_MIN(keep, n_row));
        for (uint32_t i = 0; i < n; i++) {
            uint32_t found = 0;
            for (uint32_t j = 0; j < n; j++) {
                found += drop[j] == order[i];
            }
            assert_int_equal(found, 1);
            assert_true(i == 0 || drop[i] > drop[i - 1]);
        }
    }
}

/* decode=off asks for nothing. */
static void test_look(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        bool is_evicting, is_compact;
    } cases[] = {
        { "h2o", true, false },         { "h2o:decode=off", false, false },
        { "tova", true, false },        { "tova:decode=off", false, false },
        { "streamingllm", true, true }, { "streamingllm:decode=off", false, true },
        { "snapkv", false, false },     { "streamingllm:positions=original", true, false },
    };
    struct ft_facts facts = { .n_prompt = 9000, .n_layer = 4, .n_predict = 9, .token_bytes = 64 };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_choice choice;
        struct ft_look look;
        assert_int_equal(ft_choice_parse(FT_STAGE_KV, cases[i].spec, &choice, NULL), FT_OK);
        choice.method->look(choice.params, &facts, &look);
        assert_int_equal(look.is_evicting, cases[i].is_evicting);
        assert_int_equal(look.is_compact, cases[i].is_compact);
        assert_true(!look.is_evicting || choice.method->evict);
        assert_true((choice.method->n_aux > 0) == (choice.method->begin != NULL));
        ft_choice_done(&choice);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_h2o),    cmocka_unit_test(test_room),
        cmocka_unit_test(test_tova),   cmocka_unit_test(test_streamingllm),
        cmocka_unit_test(test_lowest), cmocka_unit_test(test_look),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
