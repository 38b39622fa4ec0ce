/* SPDX-License-Identifier: Apache-2.0 */
/* test_cost.c - what a run is expected to take, what is_auto makes of it, and that a draft computes
 * no more than its answer needs.
 *
 * No test here goes by the clock: rates are made up, and of measured ones only what must hold for
 * any figures is checked.
 */
#include "engine_fixture.h"
#include "eval/eval.h"

#define TARGET                                                                                     \
    "--layers 4 --embd 128 --heads 4 --kv-heads 2 --ff 256 --vocab 300 --ctx 4096 --sharpness 3 "
#define DRAFT                                                                                      \
    "--layers 3 --embd 64 --heads 4 --kv-heads 1 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "    \
    "--seed 7 "

enum { N_PROMPT = 900, N_LONG = 1500 };

static const struct ft_rates made_up = {
    .n_layer = 4,
    .n_weight = 4e6,
    .share_q = 0.1,
    .share_k = 0.05,
    .share_v = 0.05,
    .share_o = 0.1,
    .share_f = 0.7,
    .token_us = 100,
    .pass_us = 7,
    .pair_us = { 0.5, 0.5 },
    .pair_row = { 100, 100 },
    .step_us = 30,
    .row_us = 0.25,
    .head_us = 11,
};

/* ---- arithmetic ---- */

static uint64_t pairs_naive(uint32_t n, uint32_t window) {
    uint64_t pairs = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t block = i / 64 * 64;
        pairs += i + 1 - (window && block > window ? block - window : 0);
    }
    return pairs;
}

static void test_pairs(void **state) {
    (void)state;
    static const uint32_t length[] = { 1, 2, 63, 64, 65, 700, 4096 },
                          window[] = { 0, 64, 100, 512 };
    for (size_t i = 0; i < FT_COUNT(length); i++) {
        for (size_t w = 0; w < FT_COUNT(window); w++) {
            double want = (double)pairs_naive(length[i], window[w]);
            double got = ft_cost_pairs(length[i], window[w], 0);
            assert_true(fabs(got - want) < 0.5);
        }
    }
    /* the vertical rows add at most n_vertical a query, and never more than dense */
    double band = ft_cost_pairs(8192, 512, 0), slash = ft_cost_pairs(8192, 512, 256);
    assert_true(slash > band && slash < band + 8192.0 * 256);
    assert_true(ft_cost_pairs(8192, 512, 8192) <= ft_cost_pairs(8192, 0, 0));
    /* dense grows with the square, the pattern in proportion */
    double dense = ft_cost_pairs(131072, 0, 0) / ft_cost_pairs(65536, 0, 0);
    double linear = ft_cost_pairs(131072, 512, 256) / ft_cost_pairs(65536, 512, 256);
    assert_true(dense > 3.99 && dense < 4.01 && linear > 1.99 && linear < 2.02);
}

static struct ft_plan dense_plan(uint32_t n) {
    return (struct ft_plan){ .n_prompt = n, .n_input = n, .n_answer = 5 };
}

static void test_dense(void **state) {
    (void)state;
    struct ft_expect got;
    struct ft_plan plan = dense_plan(100);
    ft_cost_plan(&made_up, NULL, &plan, &got);
    /* three layers whole; the last: all keys and values, the last token's queries, output,
     * feed-forward and attention; four passes; logits */
    double want =
        3 * 100 * 100 + 100 * 100 * 0.1 + 100 * 0.9 + 3 * 5050 * 0.5 + 100 * 0.5 + 4 * 7 + 11;
    assert_int_equal(got.draft_us, 0);
    assert_true(llabs(got.ttft_us - (int64_t)want) <= 1);
    want = 4 * (4 * (30 + 102.5 * 0.25) + 11); /* four more tokens behind 100 rows */
    assert_true(llabs(got.answer_us - got.ttft_us - (int64_t)want) <= 1);
    plan = dense_plan(600); /* two chunks */
    ft_cost_plan(&made_up, NULL, &plan, &got);
    want = 3 * 600 * 100 + 600 * 100 * 0.1 + 100 * 0.9 + 3 * 180300 * 0.5 + 600 * 0.5 + 8 * 7 + 11;
    assert_true(llabs(got.ttft_us - (int64_t)want) <= 1);
}

static void test_far_rows(void **state) {
    (void)state;
    struct ft_rates rates = made_up;
    struct ft_expect near, middle, far;
    struct ft_plan plan = dense_plan(4000);
    rates.pair_row[1] = 2100;
    ft_cost_plan(&rates, NULL, &plan, &near);
    rates.pair_us[1] = 1;
    ft_cost_plan(&rates, NULL, &plan, &middle); /* 2000 rows in front on average */
    rates.pair_us[0] = 1;
    ft_cost_plan(&rates, NULL, &plan, &far);
    assert_true(near.ttft_us < middle.ttft_us && middle.ttft_us < far.ttft_us);
    double share = (double)(middle.ttft_us - near.ttft_us) / (double)(far.ttft_us - near.ttft_us);
    assert_true(fabs(share - 0.95) < 1e-3);
}

static void test_dense_most(void **state) {
    (void)state;
    struct ft_plan plan = { .n_prompt = 2000, .is_prompt_on = true };
    int64_t most = ft_cost_dense_most(&plan, 1000, 1000000); /* attention alone: four times */
    assert_true(most > 3990000 && most <= 4000000);
    plan = (struct ft_plan){ .n_prompt = 2000, .is_kv_on = true };
    most = ft_cost_dense_most(&plan, 2500, 1000000); /* matrices alone: in proportion */
    assert_int_equal(most, 800000);
    plan.kv_look.prefill_window = 512;
    plan.kv_look.prefill_vertical = 100;
    assert_true(ft_cost_dense_most(&plan, 2500, 1000000) > 800000); /* the pattern saw fewer */
}

/* ---- whole runs ---- */

static struct ft_expect expected(const ft_model *target, const char *prompt, const char *kv,
                                 uint32_t n, const struct ft_rates *draft) {
    struct ft_session_params params = ft_session_defaults();
    struct ft_expect out;
    struct ft_error err = { .code = FT_OK };
    params.prompt = prompt;
    params.kv = kv;
    if (ft_expect_run(target, &params, n, &made_up, draft, &out, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return out;
}

/* Without a draft nothing is drafted; scoring comes on top of the dense run, and decoding is
 * cheaper. */
static void test_draftless(void **state) {
    (void)state;
    ft_model *target = model_made("target", TARGET, FT_LOAD_VOCAB);
    struct ft_expect dense = expected(target, NULL, NULL, 4000, NULL);
    struct ft_expect none = expected(target, NULL, "streamingllm:keep=100", 4000, NULL);
    struct ft_expect some = expected(target, NULL, "snapkv:keep=100", 4000, NULL);
    struct ft_expect all = expected(target, NULL, "h2o:keep=100", 4000, NULL);
    struct ft_expect pyramid = expected(target, NULL, "snapkv:keep=100,budget=pyramid", 4000, NULL);
    assert_int_equal(none.draft_us + some.draft_us + all.draft_us, 0);
    assert_int_equal(none.ttft_us, dense.ttft_us);
    assert_true(some.ttft_us > dense.ttft_us && all.ttft_us > 2 * some.ttft_us - dense.ttft_us);
    assert_true(none.answer_us - none.ttft_us < dense.answer_us - dense.ttft_us);
    struct ft_expect key = expected(target, NULL, "keyformer:keep=100", 4000, NULL);
    struct ft_expect few = expected(target, NULL, "keyformer:keep=100,window=32", 4000, NULL);
    struct ft_expect corm = expected(target, NULL, "corm:keep=1000", 4000, NULL);
    assert_true(key.ttft_us > all.ttft_us); /* as many voters, told one by one */
    assert_true(few.ttft_us > some.ttft_us && few.ttft_us < all.ttft_us);
    assert_true(corm.ttft_us > few.ttft_us && corm.ttft_us < all.ttft_us); /* 256 of 4000 */
    assert_int_equal(pyramid.ttft_us, some.ttft_us);
    assert_true(pyramid.answer_us >= some.answer_us); /* a few rows more, as its step is whole */
    assert_true(some.is_dropping && !dense.is_dropping);
    ft_model_close(target);
}

/* A trial: its steps are draft time, and its votes come on top of SnapKV's; critical: the values of
 * all rows through the output projection. */
static void test_trial(void **state) {
    (void)state;
    ft_model *target = model_made("target", TARGET, FT_LOAD_VOCAB);
    struct ft_expect snapkv = expected(target, NULL, "snapkv:keep=100,window=32", 4000, NULL);
    struct ft_expect laq = expected(target, NULL, "laq:keep=100,trial_window=32", 4000, NULL);
    struct ft_expect longer =
        expected(target, NULL, "laq:keep=100,trial_window=32,lookahead=16", 4000, NULL);
    struct ft_expect critical =
        expected(target, NULL, "snapkv:keep=100,window=32,rank=critical", 4000, NULL);
    /* eight steps in four layers behind 100 rows */
    double steps = 8 * (4 * (30 + 104.5 * 0.25) + 11);
    double votes = 4 * (7 + 16 * 4000 * 0.5);
    assert_true(llabs(laq.draft_us - (int64_t)steps) <= 1);
    assert_true(llabs(laq.target_us - snapkv.target_us - (int64_t)votes) <= 1);
    assert_int_equal(laq.ttft_us, laq.draft_us + laq.target_us);
    assert_true(longer.draft_us > 2 * laq.draft_us && longer.target_us > laq.target_us);
    assert_int_equal(laq.answer_us - laq.ttft_us, snapkv.answer_us - snapkv.ttft_us);
    assert_true(llabs(critical.ttft_us - snapkv.ttft_us - 4 * 4000 * 10) <= 1);
    assert_int_equal(critical.draft_us, 0);
    ft_model_close(target);
}

static void test_monotone(void **state) {
    (void)state;
    static const char *const method[][2] = { { NULL, NULL },
                                             { "specpc:keep=256", NULL },
                                             { "specpc:keep=256,lookahead=4", NULL },
                                             { NULL, "speckv:keep=128" },
                                             { "specpc:keep=512", "speckv:keep=128" } };
    ft_model *target = model_made("target", TARGET, FT_LOAD_VOCAB);
    for (size_t i = 0; i < FT_COUNT(method); i++) {
        struct ft_expect last = { 0 };
        for (uint32_t n = 600; n < 200000; n += n / 2) { /* beyond the trained context, too */
            struct ft_rates half = ft_rates_scaled(&made_up, 0.5, 2.0 / 3);
            struct ft_rates tenth = ft_rates_scaled(&made_up, 0.1, 2.0 / 3);
            struct ft_expect big = expected(target, method[i][0], method[i][1], n, &half);
            struct ft_expect small = expected(target, method[i][0], method[i][1], n, &tenth);
            assert_true(big.ttft_us > last.ttft_us && big.draft_us >= last.draft_us);
            assert_int_equal(big.ttft_us, big.draft_us + big.target_us);
            assert_true(big.answer_us > big.ttft_us);
            assert_int_equal(small.target_us, big.target_us);
            assert_true(i == 0 ? small.draft_us == 0 : small.draft_us < big.draft_us);
            last = big;
        }
    }
    /* the pattern pays from some length on, in the target's own read */
    struct ft_expect dense = expected(target, NULL, NULL, 100000, NULL);
    struct ft_expect slash = expected(target, NULL, "speckv:keep=128", 100000, &made_up);
    assert_true(slash.target_us < dense.target_us);
    struct ft_session_params params = ft_session_defaults();
    struct ft_expect out;
    struct ft_error err;
    params.kv = "speckv:keep=128";
    assert_int_equal(ft_expect_run(target, &params, 900, &made_up, NULL, &out, &err), FT_ARG);
    assert_int_equal(ft_expect_run(target, &params, 0, &made_up, &made_up, &out, &err), FT_ARG);
    ft_model_close(target);
}

static void check_pays(const struct ft_even_params *even, const struct ft_bench_case *which,
                       const struct ft_even_column *column, uint32_t pays) {
    for (uint32_t n = pays - 1; n <= pays; n++) {
        struct ft_expect dense = expected(even->target, NULL, NULL, n, NULL);
        struct ft_expect plan = expected(even->target, which->prompt, which->kv, n, &column->rates);
        assert_int_equal(plan.draft_us > 0 && plan.ttft_us < dense.ttft_us, n == pays);
    }
}

static void test_break_even(void **state) {
    (void)state;
    static const uint32_t length[] = { 100, 2000, 40000 };
    const struct ft_bench_case cases[] = { { .prompt = "specpc:keep=512", .label = "pc" },
                                           { .kv = "speckv:keep=256,lookahead=16",
                                             .label = "kv" } };
    struct ft_session_params params = ft_session_defaults();
    struct ft_even_params even = { .target = model_made("target", TARGET, FT_LOAD_VOCAB),
                                   .session = &params,
                                   .cases = cases,
                                   .n_case = 2,
                                   .n_prompt = length,
                                   .n_length = 3,
                                   .target_rates = made_up };
    struct ft_even_table table;
    struct ft_error err;
    even.draft_rates = ft_rates_scaled(&made_up, 0.2, 0.8);
    assert_int_equal(ft_even_run(&even, &table, &err), FT_OK);
    assert_int_equal(table.n_column, 6);
    assert_true(table.column[3].is_given && fabs(table.column[3].ratio - 0.2) < 1e-9);
    assert_true(table.is_exponent_known && fabs(table.exponent - 0.8) < 1e-9);
    for (uint32_t c = 0; c < 2; c++) {
        for (uint32_t k = 0; k < table.n_column; k++) {
            uint32_t pays = table.pays[c * table.n_column + k];
            assert_true(k == 0 || table.column[k].ratio > table.column[k - 1].ratio);
            assert_true(k == 0 || pays >= table.pays[c * table.n_column + k - 1]);
            assert_true(pays > 512);
            check_pays(&even, &cases[c], &table.column[k], pays);
            assert_int_equal(table.cell[(c * 3 + 0) * table.n_column + k].draft_us, 0);
        }
    }
    ft_even_done(&table);
    even.draft_rates = (struct ft_rates){ 0 };
    even.target_rates.pair_us[0] = even.target_rates.pair_us[1] = 0; /* no attention at all */
    even.target_rates.row_us = 0;
    even.n_case = 1;
    even.cases = &cases[1];
    assert_int_equal(ft_even_run(&even, &table, &err), FT_OK);
    assert_int_equal(table.n_column, 5);
    assert_false(table.is_exponent_known);
    assert_int_equal(table.pays[0], 0); /* reading twice never pays then */
    ft_even_done(&table);
    ft_model_close((ft_model *)(uintptr_t)even.target);
}

/* ---- measured rates ---- */

static void assert_rates(const struct ft_rates *r, const ft_model *model) {
    struct ft_model_info info;
    ft_model_info(model, &info);
    double share = r->share_q + r->share_k + r->share_v + r->share_o + r->share_f;
    assert_int_equal(r->n_layer, info.n_layer);
    assert_true(r->n_weight > 0 && r->n_weight < (double)info.n_param);
    assert_true(fabs(share - 1) < 1e-9);
    assert_true(r->token_us > 0 && r->pass_us >= 0 && r->step_us > 0 && r->row_us >= 0);
    assert_true(r->pair_us[0] > 0 && r->pair_us[1] > 0 && r->head_us > 0 && r->measure_us > 0);
    assert_true(r->pair_us[1] <= 2 * r->pair_us[0] && r->pair_row[1] >= r->pair_row[0]);
}

static void test_measure(void **state) {
    (void)state;
    static const char *const kv_type[] = { "f16", "f32", "bf16", "q8_0" };
    ft_model *model = model_made("target", TARGET "--type q8_0", FT_LOAD_PLAIN);
    ft_model *vocab = model_made("target", TARGET, FT_LOAD_VOCAB);
    struct ft_session_params params = ft_session_defaults();
    struct ft_rates rates;
    struct ft_error err = { .code = FT_OK };
    for (size_t i = 0; i < FT_COUNT(kv_type); i++) {
        params.kv_type = kv_type[i];
        assert_int_equal(ft_rates_measure(model, &params, i ? 3000 : 1, 1000, &rates, &err), FT_OK);
        assert_rates(&rates, model);
    }
    params.kv_type = NULL;
    params.is_exact = true;
    assert_int_equal(ft_rates_measure(model, &params, 700, 1000, &rates, &err), FT_OK);
    assert_rates(&rates, model);
    params.n_thread = 1000;
    assert_int_equal(ft_rates_measure(model, &params, 700, 1000, &rates, &err), FT_ARG);
    params.n_thread = 1;
    assert_int_equal(ft_rates_measure(vocab, &params, 700, 1000, &rates, &err), FT_ARG);
    ft_model_close(model);
    ft_model_close(vocab);
}

/* ---- is_auto ---- */

static ft_session *auto_session(const ft_model *target, const ft_model *draft, const char *prompt,
                                const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.n_thread = 2;
    params.is_auto = params.is_strict = true; /* a choice is no fallback */
    return session_made(target, draft, &params);
}

/* The same prompt without a choice gives the same bits. */
static void assert_same_run(ft_session *s, const ft_token *id, uint32_t n) {
    struct ft_report report;
    ft_session_report(s, &report);
    struct ft_session_params params = ft_session_defaults();
    params.n_thread = 2;
    params.prompt = report.automatic.is_dense ? NULL : s->params.prompt;
    params.kv = report.automatic.is_dense ? NULL : s->params.kv;
    ft_session *other = session_made(s->target, s->draft, &params);
    prompt_read(other, id, n);
    assert_same_bits("the chosen run", ft_session_logits(s), ft_session_logits(other),
                     n_vocab_of(s));
    ft_session_free(other);
}

static void test_auto(void **state) {
    (void)state;
    static const char *const method[][2] = { { NULL, NULL },
                                             { "specpc:keep=100", NULL },
                                             { NULL, "speckv:keep=100,lookahead=8" },
                                             { "specpc:keep=300", "speckv:keep=100,lookahead=8" } };
    ft_model *target = model_made("target", TARGET, FT_LOAD_FULL);
    ft_model *draft = model_made("draft", DRAFT, FT_LOAD_FULL);
    ft_token id[N_LONG];
    struct ft_report report;
    ids_random(id, N_LONG, target, 3);
    for (size_t i = 1; i < FT_COUNT(method); i++) {
        for (int eager = 0; eager < 2; eager++) {
            ft_session *s = auto_session(target, draft, method[i][0], method[i][1]);
            s->is_auto_eager = eager;
            prompt_read(s, id, N_PROMPT);
            const struct ft_auto *a = &report_of(s, &report)->automatic;
            assert_true(a->is_on && a->text[0] && a->dense.ttft_us > 0 && a->measure_us > 0);
            assert_true(eager == 0 || a->is_measured);
            assert_int_equal(report.n_fallback, 0);
            if (a->is_measured) {
                assert_rates(&a->target, target);
                assert_rates(&a->draft, draft);
                assert_int_equal(a->is_dense, a->dense.ttft_us <= a->plan.ttft_us);
                assert_non_null(strstr(a->text, "draft"));
            } else {
                assert_true(a->is_dense && a->plan.ttft_us == 0);
            }
            assert_int_equal(report.draft_us > 0, !a->is_dense);
            assert_true(report.ttft_us > a->measure_us);
            assert_same_run(s, id, N_PROMPT);
            prompt_read(s, id, 50); /* within every budget */
            assert_true(report_of(s, &report)->automatic.is_dense);
            assert_int_equal(report.automatic.measure_us, 0);
            assert_non_null(strstr(report.automatic.text, "nothing to drop"));
            ft_session_free(s);
        }
    }
    ft_session *s = auto_session(target, draft, NULL, NULL); /* specpc with its defaults */
    assert_string_equal(s->params.prompt, "specpc");
    prompt_read(s, id, N_LONG); /* more than the draft was trained for */
    assert_true(report_of(s, &report)->automatic.is_dense);
    assert_non_null(strstr(report.automatic.text, "trained context of the draft"));
    ft_session_free(s);
    ft_model_close(target);
    ft_model_close(draft);
}

static void test_auto_alone(void **state) {
    (void)state;
    ft_model *target = model_made("target", TARGET, FT_LOAD_FULL);
    struct ft_session_params params = ft_session_defaults();
    ft_token id[N_PROMPT];
    struct ft_report report;
    struct ft_error err;
    ids_random(id, N_PROMPT, target, 3);
    params.is_auto = true;
    ft_session *s = session_made(target, NULL, &params);
    prompt_read(s, id, N_PROMPT);
    assert_true(report_of(s, &report)->automatic.is_dense);
    assert_non_null(strstr(report.automatic.text, "no method"));
    ft_session_free(s);
    params.self_layers = 2; /* a draft of the target's own layers: the same rates, fewer layers */
    params.prompt = "specpc:keep=200";
    s = session_made(target, NULL, &params);
    s->is_auto_eager = true;
    prompt_read(s, id, N_PROMPT);
    assert_int_equal(report_of(s, &report)->automatic.draft.n_layer, 2);
    assert_true(report.automatic.draft.token_us == report.automatic.target.token_us);
    ft_session_free(s);
    /* what dense cannot do is done as asked, without measuring */
    params.prompt = "specpc:keep=200";
    params.n_ctx = 600;
    params.n_predict = 16;
    s = session_made(target, NULL, &params);
    prompt_read(s, id, N_PROMPT);
    assert_false(report_of(s, &report)->automatic.is_dense);
    assert_non_null(strstr(report.automatic.text, "dense cannot be run"));
    assert_int_equal(report.n_kept, 200);
    ft_session_free(s);
    params.prompt = NULL; /* and what neither can is refused as without a choice */
    params.self_layers = 0;
    s = session_made(target, NULL, &params);
    assert_int_equal(ft_session_prompt(s, id, N_PROMPT, 0, &err), FT_LIMIT);
    assert_non_null(strstr(err.text, "requested context"));
    ft_session_free(s);
    ft_model_close(target);
}

/* ---- a draft does what its answer needs ---- */

static struct ft_work draft_work(const ft_model *target, const ft_model *draft, const char *prompt,
                                 const char *kv, const ft_token *id, struct ft_report *report) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    ft_session *s = session_made(target, draft, &params);
    prompt_read(s, id, N_PROMPT);
    ft_session_report(s, report);
    struct ft_work work = s->draft_work;
    ft_session_free(s);
    return work;
}

static void test_draft_work(void **state) {
    (void)state;
    enum { L = 3, WINDOW = 16 };
    ft_model *target = model_made("target", TARGET, FT_LOAD_FULL);
    ft_model *draft = model_made("draft", DRAFT, FT_LOAD_FULL);
    ft_token id[N_PROMPT];
    struct ft_report report;
    ids_random(id, N_PROMPT, target, 3);
    /* evidence alone: layers below the first voting one collect none, and of the last one there
     * are keys, the voters' queries, and neither output, feed-forward nor logits */
    for (uint32_t first = 0; first < L; first++) {
        char spec[64];
        snprintf(spec, sizeof spec, "specpc:keep=100,window=%d,start_layer=%u", WINDOW, first);
        struct ft_work w = draft_work(target, draft, spec, NULL, id, &report);
        assert_int_equal(w.voter, WINDOW * (L - first));
        assert_int_equal(w.q, N_PROMPT * (L - 1) + w.voter);
        assert_int_equal(w.k, N_PROMPT * L);
        assert_int_equal(w.v, N_PROMPT * (L - 1)); /* of the last layer nobody reads values */
        assert_int_equal(w.rest, N_PROMPT * (L - 1));
        assert_int_equal(w.logits, 0);
    }
    /* text alone: nobody votes, of the last layer one token is read to the end, and logits are those
     * of the last token and of every step */
    struct ft_work w = draft_work(target, draft, NULL, "speckv:keep=100,lookahead=9", id, &report);
    uint32_t n_step = report.n_draft_text - 1;
    assert_int_equal(w.voter, 0);
    assert_int_equal(w.q, N_PROMPT * (L - 1) + 1 + n_step * L);
    assert_int_equal(w.k, (N_PROMPT + n_step) * L);
    assert_int_equal(w.rest, w.q);
    assert_int_equal(w.logits, 1 + n_step);
    w = draft_work(target, draft, NULL, NULL, id, &report);
    assert_int_equal(w.k + w.q + w.logits, 0);
    ft_model_close(target);
    ft_model_close(draft);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),      cmocka_unit_test(test_dense),
        cmocka_unit_test(test_far_rows),   cmocka_unit_test(test_dense_most),
        cmocka_unit_test(test_draftless),  cmocka_unit_test(test_trial),
        cmocka_unit_test(test_monotone),   cmocka_unit_test(test_break_even),
        cmocka_unit_test(test_measure),    cmocka_unit_test(test_auto),
        cmocka_unit_test(test_auto_alone), cmocka_unit_test(test_draft_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
