/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv_types.c - sessions whose rows are packed: what is promised to the bit and to the byte, what
 * is refused, and the order that published systems found, on real keys and values. */
#include "engine_fixture.h"

#define MODEL                                                                                      \
    "--layers 3 --embd 128 --heads 4 --kv-heads 2 --head-dim 32 --ff 192 --vocab 300 --ctx 4096 "  \
    "--type f16 --sharpness 3"
enum { N = 700, N_VOCAB = 300, N_FEED = 600 };

static struct ft_session_params params_of(const char *kv, const char *kv_type, uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.kv = kv;
    params.kv_type = kv_type;
    params.n_thread = n_thread;
    params.n_predict = 800;
    return params;
}

/* Logits of a prompt, then of tokens fed together and one by one: [3][N_VOCAB]. */
static float *run(const ft_model *model, const char *kv, const char *kv_type, uint32_t n_thread) {
    ft_token id[N + N_FEED + 40];
    struct ft_session_params params = params_of(kv, kv_type, n_thread);
    ft_session *s = session_made(model, NULL, &params);
    struct ft_error err;
    float *out = test_malloc(3 * N_VOCAB * sizeof *out);
    ids_random(id, FT_COUNT(id), model, 3);
    prompt_read(s, id, N);
    memcpy(out, ft_session_logits(s), N_VOCAB * sizeof *out);
    assert_int_equal(ft_session_feed(s, id + N, N_FEED, NULL, &err), FT_OK);
    memcpy(out + N_VOCAB, ft_session_logits(s), N_VOCAB * sizeof *out);
    for (uint32_t t = 0; t < 40; t++) {
        assert_int_equal(ft_session_feed(s, id + N + N_FEED + t, 1, NULL, &err), FT_OK);
    }
    memcpy(out + (size_t)2 * N_VOCAB, ft_session_logits(s), N_VOCAB * sizeof *out);
    ft_session_free(s);
    return out;
}

static double distance(const float *a, const float *b) {
    double worst = 0;
    for (uint32_t i = 0; i < 3; i++) {
        worst =
            fmax(worst, logp_distance(a + (size_t)i * N_VOCAB, b + (size_t)i * N_VOCAB, N_VOCAB));
    }
    return worst;
}

/* A residual that holds everything, in f32: the rows of an f32 cache, bit for bit. */
static void test_residual_holds_all(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const char *const kv[] = { NULL, "snapkv:keep=300", "h2o:keep=300,decode=off",
                                      "laq:keep=300,lookahead=8" };
    for (size_t i = 0; i < FT_COUNT(kv); i++) {
        float *want = run(model, kv[i], "f32", 2);
        float *got = run(model, kv[i], "q2,rows=f32,residual=100000", 2);
        assert_same_bits(kv[i] ? kv[i] : "dense", got, want, (size_t)3 * N_VOCAB);
        test_free(want);
        test_free(got);
    }
    ft_model_close(model);
}

/* The first token is of exact rows whatever the format; more bits are nearer to the truth. */
static void test_nearer_with_bits(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const char *const types[] = { "q2,rows=f32",          "q4,rows=f32",
                                         "q8,rows=f32",          "tada,bits=2,rows=f32",
                                         "tada,bits=4,rows=f32", "tada,bits=8,rows=f32" };
    float *dense = run(model, NULL, "f32", 1);
    double last = INFINITY;
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        float *one = run(model, NULL, types[i], 1), *two = run(model, NULL, types[i], 2);
        assert_same_bits("threads", two, one, (size_t)3 * N_VOCAB);
        assert_same_bits("first token", one, dense, N_VOCAB);
        double far = distance(one, dense);
        print_message("%s: largest |delta log p| %.2g\n", types[i], far);
        last = i % 3 == 0 ? INFINITY : last;
        assert_true(far < last / (i % 3 < 2 ? 2 : 8) && far > 0); /* 2 bits more, 4 bits more */
        last = far;
        test_free(one);
        test_free(two);
    }
    test_free(dense);
    ft_model_close(model);
}

static void test_rotated(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const char *const kv[] = { NULL, "snapkv:keep=200,rank=critical",
                                      "laq:keep=200,lookahead=8", "h2o:keep=200" };
    for (size_t i = 0; i < FT_COUNT(kv); i++) {
        float *want = run(model, kv[i], "f32", 1);
        float *k = run(model, kv[i], "f32,rotate=k", 1),
              *both = run(model, kv[i], "f32,rotate=kv", 1);
        double far = fmax(distance(k, want), distance(both, want));
        if (!(far < 0.05 && far > 0)) { /* kernels that round rows to words round others now */
            fail_msg("%s: %.3g", kv[i] ? kv[i] : "dense", far);
        }
        test_free(want);
        test_free(k);
        test_free(both);
    }
    ft_model_close(model);
}

/* Bytes of n rows a head, by the formula: 64-row blocks and what is behind them. */
static uint64_t bytes_of(const ft_session *s, uint64_t n, uint32_t k_bits, uint32_t v_bits,
                         uint32_t residual) {
    uint64_t d = s->lane.hp->head_dim, head = (uint64_t)s->lane.n_layer * s->lane.hp->n_head_kv;
    uint64_t n_block = n > residual ? (n - residual) / 64 : 0;
    uint64_t k = 64 * d * k_bits / 8 + d * 4, v = 64 * d * v_bits / 8 + (uint64_t)64 * (d / 32) * 4;
    return head * (n_block * (k + v) + (n - 64 * n_block) * d * 4);
}

static void test_bytes(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const struct {
        const char *text;
        uint32_t k, v, residual;
    } cases[] = { { "q8", 8, 8, 64 }, { "q4", 4, 4, 64 }, { "k4v2,residual=0", 4, 2, 0 } };
    ft_token id[N + 130], drawn[130];
    ids_random(id, N, model, 3);
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_session_params params = params_of(NULL, cases[i].text, 1);
        params.n_predict = 130;
        ft_session *s = session_made(model, NULL, &params);
        struct ft_report report;
        prompt_read(s, id, N);
        uint64_t want = bytes_of(s, N, cases[i].k, cases[i].v, cases[i].residual);
        assert_int_equal(report_of(s, &report)->kv_bytes, want);
        int64_t pack_us = report.pack_us; /* the prompt's rows alone */
        assert_in_range(pack_us, 1, report.prefill_us);
        for (uint32_t t = 1; t <= 130; t++) {
            tokens_drawn(s, drawn, 1);
            assert_int_equal(ft_kv_bytes(s->lane.kv),
                             bytes_of(s, N + t - 1, cases[i].k, cases[i].v, cases[i].residual));
        }
        struct ft_estimate estimate;
        struct ft_error err;
        assert_int_equal(ft_estimate(model, NULL, &params, N, &estimate, &err), FT_OK);
        assert_int_equal(estimate.kv_bytes, want);
        /* the exact rows of one layer come on top of what all layers hold; rows that are just being
         * packed are there twice */
        uint64_t layer = (uint64_t)2 * N * 32 * 4, twice = (uint64_t)2 * (64 + 512 + 64) * 32 * 4;
        report_of(s, &report);
        assert_int_equal(report.pack_us, pack_us);
        assert_int_equal(estimate.kv_bytes_peak, want + layer);
        assert_in_range(report.kv_bytes_peak, estimate.kv_bytes_peak,
                        estimate.kv_bytes_peak + twice);
        ft_session_free(s);
    }
    ft_model_close(model);
}

/* A budget in bytes is obeyed to the byte, and one row more would not fit. */
static void test_budget_in_bytes(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const char *const types[] = { "f16", "q8", "q4", "q2,residual=0" };
    static const uint32_t bytes[] = { 150000, 222222, 333333 };
    ft_token id[3000];
    ids_random(id, 3000, model, 3);
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        for (size_t j = 0; j < FT_COUNT(bytes); j++) {
            char kv[64];
            snprintf(kv, sizeof kv, "snapkv:keep=%uB,window=8", bytes[j]);
            struct ft_session_params params = params_of(kv, types[i], 1);
            ft_session *s = session_made(model, NULL, &params);
            struct ft_report report;
            prompt_read(s, id, 3000);
            report_of(s, &report);
            assert_true(report.kv_bytes <= bytes[j]);
            assert_true(report.n_kv_kept < 3000);
            struct ft_kv_shape shape = *ft_kv_shape_of(s->lane.kv);
            uint64_t more = 0, n = report.n_kv_kept + 1;
            more = shape.n_layer * ft_kv_packed_bytes(&shape, ft_kv_packing(s->lane.kv, 0), n);
            /* where a row more completes a block it may take less: then two blocks' rows more */
            if (more <= report.kv_bytes) {
                more = shape.n_layer *
                       ft_kv_packed_bytes(&shape, ft_kv_packing(s->lane.kv, 0), n + 64);
            }
            if (more <= bytes[j]) {
                fail_msg("%s, %u bytes: %u rows take %llu, one more %llu", types[i], bytes[j],
                         report.n_kv_kept, (unsigned long long)report.kv_bytes,
                         (unsigned long long)more);
            }
            ft_session_free(s);
        }
    }
    ft_model_close(model);
}

/* joint: the bytes that keep= takes in f16, filled with rows of 4, 8 or 16 bits by the share that they
 * are of the prompt's. */
static void test_joint(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const struct {
        const char *keep;
        uint32_t rows, bits; /* in f16 */
    } cases[] = {
        { "94", 94, 4 },       { "6.25%", 187, 4 }, { "12.5%", 375, 4 }, { "12.6%", 378, 8 },
        { "200000B", 260, 4 }, { "50%", 1500, 8 },  { "60%", 1800, 16 },
    };
    static const char *const kv[] = { "snapkv", "h2o:decode=off,", "knorm" };
    ft_token id[3000];
    ids_random(id, 3000, model, 3);
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        char spec[96];
        const char *name = kv[i % FT_COUNT(kv)];
        snprintf(spec, sizeof spec, "%s%skeep=%s", name, strchr(name, ':') ? "" : ":",
                 cases[i].keep);
        struct ft_session_params params = params_of(spec, "joint,residual=32", 1);
        ft_session *s = session_made(model, NULL, &params);
        struct ft_report report;
        prompt_read(s, id, 3000);
        report_of(s, &report);
        struct ft_kv_shape shape = *ft_kv_shape_of(s->lane.kv);
        const struct ft_packing *packing = ft_kv_packing(s->lane.kv, 1);
        uint64_t budget = (uint64_t)cases[i].rows * 768; /* 3 layers, 2 heads, 32 numbers, f16 */
        assert_int_equal(packing->k.bits, cases[i].bits == 16 ? 0 : cases[i].bits);
        if (report.kv_bytes > budget) {
            fail_msg("%s: %llu bytes, budget %llu", spec, (unsigned long long)report.kv_bytes,
                     (unsigned long long)budget);
        }
        uint32_t n = report.n_kv_kept; /* one row more, or a block more, does not fit */
        assert_true(3 * ft_kv_packed_bytes(&shape, packing, n + 1) > budget ||
                    3 * ft_kv_packed_bytes(&shape, packing, n + 64) > budget);
        assert_true(cases[i].bits == 16 ? n == cases[i].rows : n > cases[i].rows);
        assert_non_null(strstr(report.kv_packing, "joint, budget"));
        struct ft_estimate estimate;
        struct ft_error err;
        assert_int_equal(ft_estimate(model, NULL, &params, 3000, &estimate, &err), FT_OK);
        assert_int_equal(estimate.kv_bytes, report.kv_bytes);
        /* another prompt, another share: within what 94 rows take, or dense */
        prompt_read(s, id, 200);
        assert_true(ft_kv_bytes(s->lane.kv) <= (uint64_t)200 * 768);
        ft_session_free(s);
    }
    ft_model_close(model);
}

static void test_refused(void **state) {
    (void)state;
    ft_model *model = model_made("types", MODEL, FT_LOAD_FULL);
    static const struct {
        const char *kv, *part;
    } bad[] = {
        { "h2o:keep=64", "rows leave at every step (decode=on)" },
        { "tova:keep=64", "expected decode=off" },
        { "streamingllm:keep=64", "expected decode=off,positions=original" },
        { "streamingllm:keep=64,decode=off", "keys are rotated anew (positions=compact)" },
        { "snapkv:keep=64", "a mean over the heads" }, /* with tada */
    };
    ft_token id[N];
    struct ft_error err;
    ids_random(id, N, model, 3);
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        bool is_tada = strncmp(bad[i].kv, "snapkv", 6) == 0;
        struct ft_session_params params = params_of(bad[i].kv, is_tada ? "tada" : "q4", 1);
        ft_session *s = session_made(model, NULL, &params);
        assert_int_equal(ft_session_prompt(s, id, N, 0, &err), FT_ARG);
        if (!strstr(err.text, bad[i].part)) {
            fail_msg("%s: %s", bad[i].kv, err.text);
        }
        ft_session_free(s);
    }
    ft_session *s = NULL;
    struct ft_session_params params = params_of(NULL, "q5", 1);
    assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
    params = params_of(NULL, "q4,v_group=64", 1);
    assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
    assert_non_null(strstr(err.text, "heads of the target have 32"));
    ft_model_close(model);
}

/* ---- real keys and values: the shipped target on English ---- */

enum { N_TEXT = 1536, N_READ = 1024 };

static void text_of(const ft_model *model, ft_token *id) {
    static const char *const files[] = { "docs/KV.md", "docs/EVAL.md", "README.md" };
    uint32_t n = 0;
    for (size_t i = 0; i < FT_COUNT(files) && n < N_TEXT; i++) {
        char path[512];
        struct ft_file_map map;
        struct ft_tokens tokens = { .n = 0 };
        struct ft_error err;
        snprintf(path, sizeof path, "%s/%s", FT_TEST_SOURCE_DIR, files[i]);
        assert_int_equal(ft_file_map_open(path, &map, &err), FT_OK);
        assert_int_equal(ft_tokenize(model, (const char *)map.data, map.size, 0, &tokens, &err),
                         FT_OK);
        for (uint32_t t = 0; t < tokens.n && n < N_TEXT; t++) {
            id[n++] = tokens.id[t];
        }
        ft_tokens_free(&tokens);
        ft_file_map_close(&map);
    }
    assert_int_equal(n, N_TEXT);
}

/* Sum of squared errors of a head's rows, packed alike. */
static double error_of(const float *rows, uint32_t n, uint32_t d, uint8_t bits, bool is_value) {
    struct ft_pack pack = {
        .bits = bits, .by = FT_BY_TOKEN, .group = (uint16_t)d, .is_value = is_value
    };
    uint8_t *block = test_malloc(ft_pack_block_bytes(&pack, d));
    float *back = test_malloc((size_t)64 * d * sizeof *back);
    double sum = 0;
    for (uint32_t j = 0; j + 64 <= n; j += 64) {
        const float *from = rows + (size_t)j * d;
        ft_kern()->pack(&pack, from, d, block);
        ft_kern()->unpack(&pack, block, NULL, d, back);
        for (uint32_t t = 0; t < 64 * d; t++) {
            sum += pow((double)from[t] - (double)back[t], 2);
        }
    }
    test_free(block);
    test_free(back);
    return sum;
}

/* Quantize What Counts: at equal bits keys lose more than values. */
static void test_keys_lose_more(void **state) {
    (void)state;
    ft_model *model = model_shipped("target");
    ft_token id[N_TEXT];
    text_of(model, id);
    struct ft_session_params params = params_of(NULL, "f32", 1);
    ft_session *s = session_made(model, NULL, &params);
    prompt_read(s, id, N_READ);
    uint32_t d = s->lane.hp->head_dim;
    float *rows = test_malloc((size_t)2 * N_READ * d * sizeof *rows);
    static const uint8_t bits[] = { 2, 4, 8 };
    for (size_t i = 0; i < FT_COUNT(bits); i++) {
        double k = 0, v = 0;
        for (uint32_t at = 0; at < s->lane.n_layer * s->lane.hp->n_head_kv; at++) {
            ft_kv_read(s->lane.kv, at / s->lane.hp->n_head_kv, at % s->lane.hp->n_head_kv, rows,
                       rows + (size_t)N_READ * d);
            k += error_of(rows, N_READ, d, bits[i], false);
            v += error_of(rows + (size_t)N_READ * d, N_READ, d, bits[i], true);
        }
        print_message("%u bits: squared error of keys / of values = %.3g\n", bits[i], k / v);
        assert_true(k > v);
    }
    test_free(rows);
    ft_session_free(s);
    ft_model_close(model);
}

/* Mean KL of the dense f32 run's distributions of N_TEXT - N_READ next tokens to those of kv_type. */
static double divergence(const ft_model *model, const ft_token *id, const char *kv_type,
                         const float *dense, float *logits) {
    struct ft_session_params params = params_of(NULL, kv_type, 1);
    ft_session *s = session_made(model, NULL, &params);
    uint32_t n_vocab = n_vocab_of(s), n = N_TEXT - N_READ;
    struct ft_error err;
    prompt_read(s, id, N_READ);
    if (ft_session_feed(s, id + N_READ, n, logits, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    double sum = 0;
    for (uint32_t t = 0; dense && t < n; t++) {
        const float *a = dense + (size_t)t * n_vocab, *b = logits + (size_t)t * n_vocab;
        double log_a = log_sum_exp(a, n_vocab), log_b = log_sum_exp(b, n_vocab);
        for (uint32_t v = 0; v < n_vocab; v++) {
            double p = (double)a[v] - log_a;
            sum += exp(p) * (p - ((double)b[v] - log_b));
        }
    }
    ft_session_free(s);
    return sum / n;
}

static void test_order_of_types(void **state) {
    (void)state;
    ft_model *model = model_shipped("target");
    ft_token id[N_TEXT];
    text_of(model, id);
    size_t n = (size_t)(N_TEXT - N_READ) * ft_model_hparams(model)->n_vocab;
    float *dense = test_malloc(n * sizeof *dense), *other = test_malloc(n * sizeof *other);
    divergence(model, id, "f32", NULL, dense);
    static const char *const types[] = { "q8", "q4", "k4v2", "k=q2,v=q4", "q2" };
    double kl[FT_COUNT(types)];
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        kl[i] = divergence(model, id, types[i], dense, other);
        print_message("%s: KL %.3g\n", types[i], kl[i]);
    }
    assert_true(kl[0] >= 0 && kl[0] < 1e-4);
    assert_true(kl[0] < kl[1] && kl[1] < kl[2]);
    assert_true(kl[2] < kl[3]); /* bits belong to keys */
    assert_true(kl[3] < kl[4]);
    test_free(dense);
    test_free(other);
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual_holds_all),
        cmocka_unit_test(test_nearer_with_bits),
        cmocka_unit_test(test_rotated),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_budget_in_bytes),
        cmocka_unit_test(test_joint),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_keys_lose_more),
        cmocka_unit_test(test_order_of_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
