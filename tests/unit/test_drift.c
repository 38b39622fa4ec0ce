/* SPDX-License-Identifier: Apache-2.0 */
/* test_drift.c - a method against dense, token by token: divergences worked out by hand and by a
 * slow twin, and chunks of the shipped pair against perplexity and against single steps. */
#include "eval/drift.h"
#include "engine_fixture.h"

enum { N_CTX = 128, N_CHUNK = 3, FIRST = N_CTX / 2 };

static void assert_near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("got %.17g, want %.17g, tolerance %g", got, want, tolerance);
    }
}

/* ---- one position ---- */

/* p = 1/2 1/2, q = 1/4 3/4: KL = 1/2 log 2 + 1/2 log 2/3.  Logits are known up to a constant. */
static void test_by_hand(void **state) {
    const float p[] = { 3, 3 }, q[] = { 1, 1 + logf(3) }, lone[] = { 0, -INFINITY };
    (void)state;
    struct ft_drift_at got = ft_drift_position(p, q, 2, 0);
    assert_near(got.kl, 0.5 * log(2) + 0.5 * log(2.0 / 3), 1e-7); /* logf(3) is rounded */
    assert_near(got.nll_dense, log(2), 1e-15);
    assert_near(got.nll, log(4), 1e-7);
    assert_false(got.is_agreeing);          /* of equal ones the lower id: 0 against 1 */
    got = ft_drift_position(lone, p, 2, 0); /* 0 log 0 is 0 */
    assert_near(got.kl, log(2), 1e-15);
    assert_true(got.nll_dense == 0 && got.is_agreeing);
    assert_true(isinf(ft_drift_position(p, lone, 2, 0).kl));
}

/* Probabilities first, in long double, then the definition. */
static double slow_kl(const float *a, const float *b, uint32_t n) {
    long double sum[2] = { 0, 0 }, kl = 0;
    for (uint32_t v = 0; v < n; v++) {
        sum[0] += expl((long double)a[v]);
        sum[1] += expl((long double)b[v]);
    }
    for (uint32_t v = 0; v < n; v++) {
        long double p = expl((long double)a[v]) / sum[0], q = expl((long double)b[v]) / sum[1];
        kl += p * logl(p / q);
    }
    return (double)kl;
}

static void test_slow(void **state) {
    enum { N = 1000 };
    float a[N], b[N];
    uint64_t seed = 3;
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        float spread = (float)(round + 1), far = (float)round / 10;
        uint32_t best[2] = { 0, 0 };
        for (uint32_t v = 0; v < N; v++) {
            a[v] = spread * oracle_real(&seed);
            b[v] = a[v] + far * oracle_real(&seed);
            best[0] = a[v] > a[best[0]] ? v : best[0];
            best[1] = b[v] > b[best[1]] ? v : best[1];
        }
        struct ft_drift_at got = ft_drift_position(a, b, N, 7);
        assert_near(got.kl, slow_kl(a, b, N), 1e-12);
        assert_near(got.nll, log_sum_exp(b, N) - (double)b[7], 1e-12);
        assert_near(got.nll_dense, log_sum_exp(a, N) - (double)a[7], 1e-12);
        assert_int_equal(got.is_agreeing, best[0] == best[1]);
        got = ft_drift_position(a, a, N, 7);
        assert_true(got.kl == 0 && got.nll == got.nll_dense && got.is_agreeing);
    }
}

static void test_percentile(void **state) {
    double value[200];
    (void)state;
    for (uint32_t i = 0; i < 200; i++) {
        value[i] = (i * 37 + 5) % 200 + 1; /* 1..200, out of order */
    }
    assert_true(ft_drift_rank(value, 200, 0.99) == 198);
    assert_true(ft_drift_rank(value, 200, 0.5) == 100);
    assert_true(ft_drift_rank(value, 200, 1) == 200);
    assert_true(ft_drift_rank(value, 100, 0.99) == 99); /* sorted by now */
    assert_true(ft_drift_rank(value, 63, 0.99) == 63);
    assert_true(ft_drift_rank(value, 1, 0.99) == 1);
}

/* ---- chunks ---- */

static struct {
    ft_model *target, *draft;
    ft_token id[N_CTX * N_CHUNK];
} with;

static int open_pair(void **state) {
    (void)state;
    with.target = model_shipped("target");
    with.draft = model_shipped("draft");
    return ft_bench_prompt(with.target, 11, N_CTX * N_CHUNK, with.id, NULL) == FT_OK ? 0 : -1;
}

static int close_pair(void **state) {
    (void)state;
    ft_model_close(with.target);
    ft_model_close(with.draft);
    return 0;
}

static void no_guard(ft_session *session) {
    (void)session;
}

static struct ft_session_params params_of(const char *prompt, const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.n_thread = 1;
    return params;
}

static struct ft_drift drift(const char *prompt, const char *kv, uint32_t chunk) {
    struct ft_session_params session = params_of(prompt, kv);
    const struct ft_drift_params params = { .target = with.target,
                                            .draft = prompt || kv ? with.draft : NULL,
                                            .session = &session,
                                            .id = with.id + (size_t)chunk * N_CTX,
                                            .n_ctx = N_CTX,
                                            .guard = no_guard };
    struct ft_drift out;
    struct ft_error error = { .code = FT_OK };
    if (ft_drift_run(&params, &out, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return out;
}

static void test_dense(void **state) {
    struct ft_session_params session = params_of(NULL, NULL);
    struct ft_ppl ppl;
    struct ft_ppl_params params = { .model = with.target,
                                    .session = &session,
                                    .id = with.id,
                                    .n_id = N_CTX * N_CHUNK,
                                    .n_ctx = N_CTX,
                                    .guard = no_guard };
    double sum = 0;
    (void)state;
    for (uint32_t c = 0; c < N_CHUNK; c++) {
        struct ft_drift got = drift(NULL, NULL, c);
        assert_true(got.kl == 0 && got.kl_p99 == 0 && got.agreement == 1);
        assert_true(got.nll == got.nll_dense);
        assert_int_equal(got.n_scored, N_CTX - 1 - FIRST);
        sum += got.nll;
    }
    assert_int_equal(ft_ppl_run(&params, &ppl, NULL), FT_OK);
    assert_int_equal(ppl.n_chunk, N_CHUNK);
    assert_near(sum / N_CHUNK, ppl.nll, 1e-12); /* the same logits; sums in another order */
}

/* Logits behind id [FIRST, N_CTX - 1), one token at a time. */
static float *single_steps(const char *prompt, const char *kv, const ft_token *id) {
    struct ft_session_params params = params_of(prompt, kv);
    params.n_predict = N_CTX - FIRST;
    params.n_ctx = N_CTX;
    ft_session *s = session_made(with.target, prompt || kv ? with.draft : NULL, &params);
    uint32_t n_vocab = n_vocab_of(s), n = N_CTX - 1 - FIRST;
    float *logits = malloc((size_t)n * n_vocab * sizeof *logits);
    assert_non_null(logits);
    prompt_read(s, id, FIRST);
    for (uint32_t i = 0; i < n; i++) {
        struct ft_error error = { .code = FT_OK };
        if (ft_session_feed(s, id + FIRST + i, 1, logits + (size_t)i * n_vocab, &error) != FT_OK) {
            fail_msg("%s", error.text);
        }
    }
    ft_session_free(s);
    return logits;
}

/* The slow twin: both runs by single steps, all logits at once, the definition of KL. */
static void compare_steps(const char *prompt, const char *kv) {
    const ft_token *id = with.id + N_CTX;
    struct ft_drift got = drift(prompt, kv, 1);
    struct ft_model_info info;
    ft_model_info(with.target, &info);
    float *dense = single_steps(NULL, NULL, id), *method = single_steps(prompt, kv, id);
    uint32_t n = N_CTX - 1 - FIRST, n_vocab = info.n_vocab;
    double nll = 0, kl = 0;
    for (uint32_t i = 0; i < n; i++) {
        const float *a = dense + (size_t)i * n_vocab, *b = method + (size_t)i * n_vocab;
        nll += log_sum_exp(b, n_vocab) - (double)b[id[FIRST + i + 1]];
        kl += slow_kl(a, b, n_vocab);
    }
    print_message("%s: nll %.5f (%.5f), kl %.6f (%.6f)\n", prompt ? prompt : kv, got.nll, nll / n,
                  got.kl, kl / n);
    assert_true(got.kl > 1e-3 && got.kl_p99 > got.kl && got.agreement < 1);
    /* A block's matrix kernels round activations as a step's do not: some 1e-3 of a logit. */
    assert_near(got.nll, nll / n, 5e-3);
    assert_near(got.kl, kl / n, 5e-2 * kl / n);
    free(dense);
    free(method);
}

static void test_methods(void **state) {
    (void)state;
    compare_steps(NULL, "snapkv:keep=12,window=4");
    compare_steps(NULL, "speckv:keep=12,window=4,lookahead=4");
    compare_steps("specpc:keep=16,window=8,kernel=4", NULL);
    struct ft_drift got = drift("specpc:keep=32,window=8,kernel=4", "snapkv:keep=12,window=4", 0);
    assert_int_equal(got.report.n_kept, 32);
    assert_int_equal(got.report.n_kv_kept, 12);
}

/* Nothing is dropped: another run of the same, to the last bit. */
static void test_loose(void **state) {
    (void)state;
    struct ft_drift got = drift(NULL, "snapkv:keep=64,window=4", 0);
    assert_true(got.kl == 0 && got.agreement == 1 && got.report.n_fallback == 1);
}

static void test_refusals(void **state) {
    struct ft_session_params session = params_of(NULL, NULL);
    struct ft_drift_params params = {
        .target = with.target, .session = &session, .id = with.id, .n_ctx = 3, .guard = no_guard
    };
    struct ft_drift out;
    struct ft_error error;
    (void)state;
    assert_int_equal(ft_drift_run(&params, &out, &error), FT_ARG);
    params.n_ctx = 4;
    assert_int_equal(ft_drift_run(&params, &out, &error), FT_OK);
    assert_int_equal(out.n_scored, 1);
    session.kv = "speckv";
    assert_int_equal(ft_drift_run(&params, &out, &error), FT_ARG);
    assert_non_null(strstr(error.text, "needs a draft model"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),    cmocka_unit_test(test_slow),
        cmocka_unit_test(test_percentile), cmocka_unit_test(test_dense),
        cmocka_unit_test(test_methods),    cmocka_unit_test(test_loose),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_pair, close_pair);
}
