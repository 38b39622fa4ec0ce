/* SPDX-License-Identifier: Apache-2.0 */
/* test_depth.c - caches filled by copied rows, on both engines; the measurement at depths. */
#define _POSIX_C_SOURCE 200809L
#include "engine_fixture.h"
#include "eval/depth.c"

#define MODEL                                                                                      \
    "--layers 3 --embd 128 --heads 4 --kv-heads 2 --head-dim 32 --ff 192 --vocab 300 --ctx 4096 "  \
    "--type f16 --sharpness 3"
enum { N = 50, N_ROW = 777, N_VOCAB = 300, N_PREDICT = 800 };

static ft_session *session_for(const ft_model *model, const char *kv_type, uint32_t n_predict) {
    struct ft_session_params params = ft_session_defaults();
    params.kv_type = kv_type;
    params.n_thread = 1;
    params.n_predict = n_predict;
    return session_made(model, NULL, &params);
}

/* ---- ft_session_repeat ---- */

static void assert_rows(const ft_session *s, uint32_t n, uint32_t n_row) {
    const struct ft_kv *kv = s->lane.kv;
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        size_t k_bytes = ft_kv_head_k_bytes(kv, l) / ft_kv_cap(kv, l);
        for (uint32_t h = 0; h < s->lane.hp->n_head_kv; h++) {
            const uint8_t *k = ft_kv_k(kv, l, h), *v = ft_kv_v(kv, l, h);
            assert_int_equal(ft_kv_rows(kv, l, h), n_row);
            for (uint32_t j = 0; j < n_row; j++) {
                assert_int_equal(ft_kv_pos(kv, l, h)[j], j);
                if (s->format.k_fmt != FT_Q8_0) { /* blocks of bytes may be rounded once more */
                    assert_memory_equal(k + j * k_bytes, k + j % n * k_bytes, k_bytes);
                    assert_memory_equal(v + j * k_bytes, v + j % n * k_bytes, k_bytes);
                }
            }
        }
    }
}

static void test_repeat(void **state) {
    (void)state;
    static const char *const kv_types[] = { "f16", "f32", "bf16", "q8_0" };
    ft_model *model = model_made("depth", MODEL, FT_LOAD_FULL);
    ft_token id[N];
    ids_random(id, N, model, 7);
    for (size_t i = 0; i < FT_COUNT(kv_types); i++) {
        struct ft_error err = { .code = FT_OK };
        ft_session *s = session_for(model, kv_types[i], N_PREDICT);
        prompt_read(s, id, N);
        float *before = logits_copy(s);
        if (ft_session_repeat(s, N_ROW, &err) != FT_OK) {
            fail_msg("%s", err.text);
        }
        assert_same_bits("logits stay", ft_session_logits(s), before, N_VOCAB);
        assert_rows(s, N, N_ROW);
        struct ft_report report;
        assert_int_equal(report_of(s, &report)->kv_bytes_peak, ft_kv_bytes(s->lane.kv));
        assert_int_equal(ft_session_feed(s, id, 20, NULL, &err), FT_OK);
        assert_int_equal(ft_kv_rows(s->lane.kv, 2, 1), N_ROW + 20);
        assert_int_equal(ft_kv_pos(s->lane.kv, 2, 1)[N_ROW + 19], N_ROW + 19);
        for (uint32_t v = 0; v < N_VOCAB; v++) {
            assert_true(isfinite(ft_session_logits(s)[v]));
        }
        ft_token drawn[30];
        tokens_drawn(s, drawn, 30);
        test_free(before);
        ft_session_free(s);
    }
    ft_model_close(model);
}

/* Copies are attended: tokens behind them see another text than behind the prompt alone. */
static void test_repeat_is_seen(void **state) {
    (void)state;
    ft_model *model = model_made("depth", MODEL, FT_LOAD_FULL);
    ft_token id[N];
    struct ft_error err = { .code = FT_OK };
    float *logits[2];
    ids_random(id, N, model, 7);
    for (int is_deep = 0; is_deep < 2; is_deep++) {
        ft_session *s = session_for(model, "f32", N_PREDICT);
        prompt_read(s, id, N);
        assert_int_equal(ft_session_repeat(s, is_deep ? N_ROW : N, &err), FT_OK);
        assert_int_equal(ft_session_feed(s, id, 9, NULL, &err), FT_OK);
        logits[is_deep] = logits_copy(s);
        ft_session_free(s);
    }
    double most = 0;
    for (uint32_t v = 0; v < N_VOCAB; v++) {
        most = FT_MAX(most, fabs((double)(logits[0][v] - logits[1][v])));
    }
    assert_true(most > 0.01);
    test_free(logits[0]);
    test_free(logits[1]);
    ft_model_close(model);
}

static void test_repeat_errors(void **state) {
    (void)state;
    ft_model *model = model_made("depth", MODEL, FT_LOAD_FULL);
    ft_token id[N], drawn;
    struct ft_error err = { .code = FT_OK };
    ids_random(id, N, model, 7);
    ft_session *s = session_for(model, "f16", 100);
    assert_int_equal(ft_session_repeat(s, 80, &err), FT_ARG); /* no prompt */
    prompt_read(s, id, N);
    assert_int_equal(ft_session_repeat(s, N - 1, &err), FT_ARG);
    assert_int_equal(ft_session_repeat(s, 0, &err), FT_ARG);
    assert_int_equal(ft_session_repeat(s, N + 101, &err), FT_LIMIT);
    assert_int_equal(ft_session_repeat(s, UINT32_MAX, &err), FT_LIMIT);
    tokens_drawn(s, &drawn, 1); /* waits to be evaluated: it needs room too */
    assert_int_equal(ft_session_repeat(s, N + 100, &err), FT_LIMIT);
    ft_alloc_fail_after(1, true);
    ft_status status = ft_session_repeat(s, N + 20, &err);
    ft_alloc_fail_after(0, false);
    assert_int_equal(status, FT_NOMEM);
    assert_rows(s, N, N); /* nothing of that changed anything */
    assert_int_equal(ft_session_repeat(s, N, &err), FT_OK);
    assert_int_equal(ft_session_repeat(s, N + 99, &err), FT_OK);
    assert_rows(s, N, N + 99);
    assert_int_equal(ft_session_feed(s, id, 1, NULL, &err), FT_LIMIT);
    ft_session_free(s);
    /* heads that hold different numbers */
    s = session_for(model, "f16", 100);
    prompt_read(s, id, N);
    struct ft_rows keep[2] = { { (ft_row[]){ 0, 1 }, 2 }, { (ft_row[]){ 0, 1, 2 }, 3 } };
    assert_int_equal(ft_kv_keep(s->lane.kv, 1, keep, &err), FT_OK);
    assert_int_equal(ft_session_repeat(s, 80, &err), FT_ARG);
    assert_non_null(strstr(err.text, "layer 1"));
    ft_session_free(s);
    ft_model_close(model);
}

/* ---- the measurement ---- */

static void guard(ft_session *session) {
    (void)session;
}

static uint32_t n_step, n_step_total;

static void count_step(uint32_t done, uint32_t total, const char *engine, uint32_t depth,
                       void *user) {
    (void)engine;
    (void)depth;
    (void)user;
    assert_int_equal(done, n_step++);
    assert_int_equal(total, n_step_total);
}

static void test_run(void **state) {
    (void)state;
    static const uint32_t depth[] = { 0, 600 };
    char path[512];
    ft_token id[FT_DEPTH_BASE + 40];
    ft_model *model = model_made("depth", MODEL, FT_LOAD_FULL);
    struct ft_session_params session = ft_session_defaults();
    struct ft_depth_row row[4];
    struct ft_error err = { .code = FT_OK };
    double foreign = -2;
    snprintf(path, sizeof(path), "%s/depth.gguf", FT_TEST_SCRATCH_DIR);
    ids_random(id, FT_COUNT(id), model, 7);
    session.n_thread = 1;
    static const char *const kv_types[] = { "f16", "q8_0", "k4v2,residual=0" };
    struct ft_depth_params params = { .target = model,
                                      .session = &session,
                                      .kv_type = kv_types,
                                      .n_kv_type = 1,
                                      .peer_path = path,
                                      .depth = depth,
                                      .n_depth = 2,
                                      .n_pp = 40,
                                      .n_tg = 5,
                                      .id = id,
                                      .n_repeat = 2,
                                      .guard = guard,
                                      .step = count_step };
    n_step = 0;
    n_step_total = 2 + 2 * 4;
    assert_int_equal(ft_depth_rows(&params), 4);
    if (ft_depth_run(&params, row, &foreign, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(n_step, 10);
    for (uint32_t i = 0; i < 4; i++) {
        const struct ft_depth_row *r = &row[i];
        size_t token = (size_t)3 * 2 * 32 * 2 * 2;
        assert_string_equal(r->engine, i % 2 == 1 ? "libllama" : "foretoken");
        assert_int_equal(r->depth, depth[i / 2]);
        assert_int_equal(r->n_repeat, 2);
        assert_true(r->prefill_tok_s.low > 0 && r->prefill_tok_s.low <= r->prefill_tok_s.median &&
                    r->prefill_tok_s.median <= r->prefill_tok_s.high);
        assert_true(r->decode_tok_s.low > 0 && r->decode_s.median > 0);
        assert_true(r->dram_gb_s.low > 0);
        /* libllama's cell for the last token, which is not evaluated, counts */
        assert_int_equal(r->kv_bytes, token * (r->depth + 45 + i % 2));
        assert_string_equal(r->kv_type, "f16");
    }
    /* formats take turns at each depth; rows that are packed read as many tokens from fewer bytes */
    struct ft_depth_row turn[8];
    params.n_kv_type = 3;
    n_step = 0;
    n_step_total = 4 + 2 * 8;
    assert_int_equal(ft_depth_rows(&params), 8);
    if (ft_depth_run(&params, turn, &foreign, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(n_step, n_step_total);
    for (uint32_t i = 0; i < 8; i++) {
        assert_string_equal(turn[i].engine, i % 4 == 3 ? "libllama" : "foretoken");
        assert_string_equal(turn[i].kv_type, kv_types[i % 4 == 3 ? 0 : i % 4]);
        assert_int_equal(turn[i].depth, depth[i / 4]);
        assert_true(turn[i].decode_tok_s.low > 0);
    }
    assert_true(turn[5].kv_bytes < turn[4].kv_bytes && turn[6].kv_bytes < turn[5].kv_bytes);
    ft_model_close(model);
}

/* Costs of 1 + x/1000 seconds a token, measured over pieces of 100: the integral is exact. */
static void test_extrapolate(void **state) {
    (void)state;
    struct ft_depth_row row[6];
    static const uint32_t depth[3] = { 0, 1000, 4000 };
    for (uint32_t i = 0; i < 6; i++) {
        double middle = depth[i / 2] + 50.0;
        row[i] = (struct ft_depth_row){ .depth = depth[i / 2],
                                        .prefill_tok_s.median = 1 / (1 + middle / 1000) };
    }
    extrapolate(row, 3, 2, 100);
    assert_true(row[0].prompt_s_extrapolated == 0);
    for (uint32_t i = 1; i < 3; i++) { /* before the first middle the cost is taken as constant */
        double n = depth[i], exact = n + n * n / 2000, start = 50.0 * 50 / 2000;
        assert_true(fabs(row[2 * i].prompt_s_extrapolated - exact - start) < 1e-6 * exact);
    }
    for (uint32_t i = 0; i < 6; i += 2) { /* all in front of the first middle */
        row[i].depth = i * 10;
        row[i].prefill_tok_s.median = 1 / (1 + (i * 10 + 50.0) / 1000);
    }
    extrapolate(row, 3, 2, 100);
    for (uint32_t i = 0; i < 6; i += 2) {
        assert_true(fabs(row[i].prompt_s_extrapolated - i * 10 * 1.05) < 1e-9);
    }
    row[1].depth = 10;
    extrapolate(row + 1, 3, 2, 100);
    assert_true(row[3].prompt_s_extrapolated < 0); /* nobody measured the beginning */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeat),        cmocka_unit_test(test_repeat_is_seen),
        cmocka_unit_test(test_repeat_errors), cmocka_unit_test(test_run),
        cmocka_unit_test(test_extrapolate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
