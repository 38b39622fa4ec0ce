/* SPDX-License-Identifier: Apache-2.0 */
/* test_share.c - one prefill for several sessions: what each holds, draws and reports is what it has
 * behind a prefill of its own, bit for bit; and which of them a prefill can serve.
 */
#include "engine_fixture.h"

enum { N_PROMPT = 600, N_NEXT = 8, MOST = 6 };

#define SHAPE " --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 2048 --sharpness 3 "

static struct {
    ft_model *target, *plain, *draft; /* plain: the target for exact runs */
    ft_token id[N_PROMPT];
} with;

static int open_all(void **state) {
    (void)state;
    with.target = model_made("share", "--layers 3 --type q8_0" SHAPE, FT_LOAD_FULL);
    with.plain = model_made("share", "--layers 3 --type q8_0" SHAPE, FT_LOAD_PLAIN);
    with.draft = model_made("share-draft", "--layers 2 --type f16 --seed 2" SHAPE, FT_LOAD_FULL);
    ids_random(with.id, N_PROMPT, with.target, 11);
    return 0;
}

static int close_all(void **state) {
    (void)state;
    ft_model_close(with.target);
    ft_model_close(with.plain);
    ft_model_close(with.draft);
    return 0;
}

struct ask {
    const char *kv, *kv_type, *prompt;
};

static ft_session *session_for(const struct ask *ask, bool is_exact) {
    struct ft_session_params params = ft_session_defaults();
    params.kv = ask->kv;
    params.kv_type = ask->kv_type;
    params.prompt = ask->prompt;
    params.n_thread = 1; /* more give the same bits: test_session.c */
    params.n_predict = N_NEXT + 1;
    params.is_exact = is_exact;
    params.is_kv_scored = true;
    return session_made(is_exact ? with.plain : with.target, with.draft, &params);
}

static void shared_read(ft_session **s, uint32_t n, bool *is_shared) {
    struct ft_error err = { .code = FT_OK };
    if (ft_session_prompt_shared(s[0], s + 1, n - 1, is_shared, with.id, N_PROMPT, 0, &err) !=
        FT_OK) {
        fail_msg("%s", err.text);
    }
}

/* ---- the same bits ---- */

static void assert_same_rows(const char *what, const ft_session *got, const ft_session *want) {
    for (uint32_t at = 0; at < 6; at++) {
        uint32_t l = at / 2, h = at % 2, n = ft_kv_rows(want->lane.kv, l, h);
        const float *x = NULL, *y = NULL;
        if (ft_kv_rows(got->lane.kv, l, h) != n) {
            fail_msg("%s: layer %u head %u: %u rows, want %u", what, l, h,
                     ft_kv_rows(got->lane.kv, l, h), n);
        }
        assert_memory_equal(ft_kv_pos(got->lane.kv, l, h), ft_kv_pos(want->lane.kv, l, h),
                            n * sizeof(ft_pos));
        uint32_t n_score = ft_session_kv_scores(want, l, h, &y);
        assert_int_equal(ft_session_kv_scores(got, l, h, &x), n_score);
        assert_true(n_score > 0);
        assert_same_bits(what, x, y, n_score);
    }
}

static void assert_same_report(const ft_session *got, const ft_session *want) {
    struct ft_report a, b;
    report_of(got, &a);
    report_of(want, &b);
    assert_int_equal(a.n_prompt, b.n_prompt);
    assert_int_equal(a.n_kept, b.n_kept);
    assert_int_equal(a.n_kv_kept, b.n_kv_kept);
    assert_int_equal(a.n_draft_text, b.n_draft_text);
    assert_int_equal(a.n_evicted, b.n_evicted);
    assert_int_equal(a.kv_bytes_full, b.kv_bytes_full);
    assert_int_equal(a.kv_bytes, b.kv_bytes);
    assert_int_equal(a.kv_bytes_now, b.kv_bytes_now);
    assert_int_equal(a.kv_state_bytes, b.kv_state_bytes);
    assert_int_equal(a.kv_bytes_peak, b.kv_bytes_peak);
    assert_int_equal(a.draft_kv_bytes_peak, b.draft_kv_bytes_peak);
    assert_int_equal(a.activation_bytes_peak, b.activation_bytes_peak);
    assert_int_equal(a.n_fallback, b.n_fallback);
    assert_int_equal(a.n_setting, b.n_setting);
    assert_string_equal(a.kv_method, b.kv_method);
    assert_string_equal(a.kv_packing, b.kv_packing);
    assert_true(a.ttft_us > 0 && a.prefill_us > 0 && a.score_us >= 0);
    assert_int_equal(b.n_shared, 0);
}

/* What was read together against what each reads alone; then the answers. */
static void check_family(const struct ask *ask, uint32_t n, bool is_exact) {
    ft_session *s[MOST] = { NULL };
    bool is_shared[MOST];
    for (uint32_t i = 0; i < n; i++) {
        s[i] = session_for(&ask[i], is_exact);
    }
    shared_read(s, n, is_shared);
    for (uint32_t i = 0; i < n; i++) {
        const char *what = ask[i].kv;
        struct ft_report report;
        ft_token got[N_NEXT], want[N_NEXT];
        ft_session *alone = session_for(&ask[i], is_exact);
        if (i > 0 && !is_shared[i - 1]) {
            fail_msg("%s is not read with %s", what, ask[0].kv);
        }
        assert_int_equal(report_of(s[i], &report)->n_shared, n);
        prompt_read(alone, with.id, N_PROMPT);
        assert_same_rows(what, s[i], alone);
        assert_same_bits(what, ft_session_logits(s[i]), ft_session_logits(alone),
                         n_vocab_of(alone));
        tokens_drawn(s[i], got, N_NEXT);
        tokens_drawn(alone, want, N_NEXT);
        assert_memory_equal(got, want, sizeof(got));
        assert_same_bits(what, ft_session_logits(s[i]), ft_session_logits(alone),
                         n_vocab_of(alone));
        assert_same_report(s[i], alone);
        ft_session_free(alone);
    }
    for (uint32_t i = 0; i < n; i++) {
        ft_session_free(s[i]);
    }
}

static const struct family {
    struct ask ask[MOST];
    uint32_t n;
} families[] = {
    { { { "snapkv:keep=40", NULL, NULL },
        { "snapkv:keep=20", NULL, NULL },
        { "snapkv:keep=50,budget=pyramid", NULL, NULL },
        { "snapkv:keep=300,budget=ada,window=8", NULL, NULL },
        { "snapkv:keep=45,rank=critical", NULL, NULL },
        { "snapkv:keep=32,kernel=1", NULL, NULL } },
      6 },
    { { { "snapkv:keep=256,group=max", NULL, NULL },
        { "snapkv:keep=128,group=max", NULL, NULL },
        { "snapkv:keep=320,group=max", "q4,residual=0", NULL },
        { "snapkv:keep=32KiB,group=max", "joint", NULL },
        { "snapkv:keep=256,group=max", "k4v2,residual=64", NULL } },
      5 },
    { { { "speckv:keep=128,lookahead=9", NULL, NULL },
        { "speckv:keep=64,lookahead=9,rank=critical", NULL, NULL },
        { "speckv:keep=25%,lookahead=9,budget=ada", NULL, NULL },
        { "speckv:keep=256,lookahead=9,budget=pyramid", "q8", NULL } },
      4 },
    { { { "oracle:keep=128", NULL, NULL }, { "oracle:keep=70", NULL, NULL } }, 2 },
    { { { "h2o:keep=40", NULL, NULL },
        { "h2o:keep=200", NULL, NULL },
        { "h2o:keep=90,budget=ada", NULL, NULL } },
      3 },
    { { { "h2o:keep=128,decode=off,window=32", NULL, NULL },
        { "h2o:keep=200,decode=off", "q4", NULL } },
      2 },
    { { { "tova:keep=33", NULL, NULL }, { "tova:keep=300", NULL, NULL } }, 2 },
    { { { "streamingllm:keep=100", NULL, NULL },
        { "streamingllm:keep=30", NULL, NULL },
        { "streamingllm:keep=80,positions=original", NULL, NULL } },
      3 },
    { { { "knorm:keep=60", NULL, NULL }, { "knorm:keep=9", NULL, NULL } }, 2 },
    { { { "random:keep=30,seed=5", NULL, NULL }, { "random:keep=300,seed=6", NULL, NULL } }, 2 },
};

static void test_same(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(families); i++) {
        check_family(families[i].ask, families[i].n, false);
    }
}

static void test_same_exact(void **state) {
    (void)state;
    static const struct ask asks[] = { { "speckv:keep=128,lookahead=9", NULL, NULL },
                                       { "speckv:keep=70,lookahead=9,budget=pyramid", NULL,
                                         NULL } };
    check_family(asks, 2, true);
}

/* ---- who may ---- */

/* The second of each pair has to read by itself, and can. */
static void test_apart(void **state) {
    (void)state;
    static const struct ask pairs[][2] = {
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=128,window=16", NULL, NULL } },
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=128,group=max", NULL, NULL } },
        { { "snapkv:keep=128", NULL, NULL }, { "h2o:keep=128", NULL, NULL } },
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=100", "bf16", NULL } },
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=100", "q4,rotate=k", NULL } },
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=100", NULL, "specpc:keep=300" } },
        { { "snapkv:keep=128", NULL, NULL }, { "snapkv:keep=600", NULL, NULL } },
        { { "h2o:keep=128", NULL, NULL }, { "h2o:keep=128,decode=off", NULL, NULL } },
        { { "h2o:keep=128", NULL, NULL }, { "h2o:keep=605", NULL, NULL } },
        { { "speckv:keep=128,lookahead=9", NULL, NULL },
          { "speckv:keep=100,lookahead=8", NULL, NULL } },
        { { "speckv:keep=256,lookahead=9", NULL, NULL },
          { "speckv:keep=200,lookahead=9,prefill_window=64,prefill_vertical=300", NULL, NULL } },
        { { "laq:keep=128", NULL, NULL }, { "laq:keep=100", NULL, NULL } },
        { { "keyformer:keep=128", NULL, NULL }, { "keyformer:keep=100", NULL, NULL } },
        { { "corm:keep=128,recent=9", NULL, NULL }, { "corm:keep=100,recent=9", NULL, NULL } },
        { { "dense", NULL, NULL }, { "dense", NULL, NULL } },
        { { NULL, NULL, "specpc:keep=300" }, { NULL, NULL, "specpc:keep=200" } },
    };
    for (size_t i = 0; i < FT_COUNT(pairs); i++) {
        ft_session *s[2] = { session_for(&pairs[i][0], false), session_for(&pairs[i][1], false) };
        struct ft_report report;
        ft_token id[2];
        bool is_shared = true;
        shared_read(s, 2, &is_shared);
        if (is_shared) {
            fail_msg("%zu: %s was read with %s", i, pairs[i][1].kv, pairs[i][0].kv);
        }
        assert_int_equal(report_of(s[0], &report)->n_shared, 0);
        assert_null(ft_session_logits(s[1]));
        prompt_read(s[1], with.id, N_PROMPT);
        tokens_drawn(s[0], id, 1);
        tokens_drawn(s[1], id, 1);
        ft_session_free(s[0]);
        ft_session_free(s[1]);
    }
}

/* An error of another one is its own; one of the first is everybody's. */
static void test_errors(void **state) {
    (void)state;
    static const struct ask asks[] = { { "snapkv:keep=128", NULL, NULL },
                                       { "snapkv:keep=1%,window=32", NULL, NULL },
                                       { "snapkv:keep=90", NULL, NULL } };
    ft_session *s[3] = { NULL };
    bool is_shared[2];
    struct ft_error err = { .code = FT_OK };
    ft_token bad[N_PROMPT];
    for (uint32_t i = 0; i < 3; i++) {
        s[i] = session_for(&asks[i], false);
    }
    shared_read(s, 3, is_shared);
    assert_false(is_shared[0]);
    assert_true(is_shared[1]);
    assert_null(ft_session_logits(s[1]));
    assert_non_null(ft_session_logits(s[2]));
    memcpy(bad, with.id, sizeof(bad));
    bad[7] = 300000;
    assert_int_equal(ft_session_prompt_shared(s[0], s + 1, 2, is_shared, bad, N_PROMPT, 0, &err),
                     FT_ARG);
    assert_string_equal(err.text, "token 7 is 300000, expected 0..299, the ids of the target");
    for (uint32_t i = 0; i < 3; i++) {
        assert_null(ft_session_logits(s[i]));
    }
    shared_read(s, 3, is_shared); /* and go on */
    assert_true(is_shared[1]);
    for (uint32_t i = 0; i < 3; i++) {
        ft_session_free(s[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same),
                                        cmocka_unit_test(test_same_exact),
                                        cmocka_unit_test(test_apart),
                                        cmocka_unit_test(test_errors) };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
