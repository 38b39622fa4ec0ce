/* SPDX-License-Identifier: Apache-2.0 */
/* test_calibrate.c - bits of layers: what is drawn obeys the average, and the search finds what counts. */
#include "engine_fixture.h"
#include "eval/calibrate.h"

static void test_draw(void **state) {
    (void)state;
    uint64_t seed = 5;
    uint32_t seen[9] = { 0 };
    for (int round = 0; round < 500; round++) {
        uint32_t n = 1 + oracle_below(&seed, 40), most = 2 * n + oracle_below(&seed, 6 * n + 1);
        uint32_t sum = 0;
        uint8_t bits[40];
        uint64_t own = (uint64_t)round, again = own;
        uint8_t same[40];
        ft_widths_draw(&own, n, most, bits);
        ft_widths_draw(&again, n, most, same);
        assert_memory_equal(bits, same, n);
        for (uint32_t l = 0; l < n; l++) {
            assert_true(bits[l] == 2 || bits[l] == 4 || bits[l] == 8);
            sum += bits[l];
            seen[bits[l]]++;
        }
        assert_true(sum <= most);
        for (uint32_t l = 0; l < n; l++) { /* no layer could be wider */
            assert_true(bits[l] == 8 || sum + bits[l] > most);
        }
    }
    assert_true(seen[2] > 500 && seen[4] > 500 && seen[8] > 500);
}

struct tried {
    char best[FT_KV_TYPE_CAP];
    double kl[64];
    uint32_t n;
};

static void note(const char *kv_type, double kl, bool is_best, void *user) {
    struct tried *t = user;
    t->kl[t->n++] = kl;
    if (is_best) {
        snprintf(t->best, sizeof t->best, "%s", kv_type);
    }
}

static void no_guard(ft_session *session) {
    (void)session;
}

static void test_search(void **state) {
    (void)state;
    ft_model *model = model_shipped("target");
    struct ft_session_params session = ft_session_defaults();
    ft_token id[400];
    struct tried tried = { .n = 0 };
    struct ft_calibrate found;
    struct ft_error err;
    session.n_thread = 1;
    ids_random(id, 400, model, 2);
    struct ft_calibrate_params params = { .target = model,
                                          .session = &session,
                                          .id = id,
                                          .n_ctx = 400,
                                          .n_layer = 4,
                                          .average = 3.5,
                                          .n_random = 4,
                                          .n_exchange = 3,
                                          .guard = no_guard,
                                          .tried = note,
                                          .user = &tried };
    if (ft_calibrate_run(&params, &found, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(found.n_tried, tried.n);
    assert_true(tried.n >= 5 && tried.n <= 8); /* nothing to exchange where all are alike */
    assert_string_equal(found.kv_type, tried.best);
    assert_true(found.kl_same == tried.kl[0]);
    for (uint32_t i = 0; i < tried.n; i++) {
        assert_true(found.kl <= tried.kl[i]);
    }
    assert_true(found.average <= 3.5 && found.kl > 0);
    /* the same bits, measured anew */
    struct ft_drift again;
    session.kv_type = found.kv_type;
    struct ft_drift_params drift = {
        .target = model, .session = &session, .id = id, .n_ctx = 400, .guard = no_guard
    };
    assert_int_equal(ft_drift_run(&drift, &again, &err), FT_OK);
    assert_true(again.kl == found.kl);
    params.average = 1.9;
    assert_int_equal(ft_calibrate_run(&params, &found, &err), FT_ARG);
    assert_non_null(strstr(err.text, "expected 2..8"));
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_draw),
                                        cmocka_unit_test(test_search) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
