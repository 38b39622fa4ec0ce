/* SPDX-License-Identifier: Apache-2.0 */
/* test_ppl.c - perplexity against libllama: the same chunks, scored by llama.cpp's scheme here.
 *
 * The oracle runs with F32 rows and stock attention and is given each chunk in the same two pieces,
 * so that logits are the same bits; what remains is the order of sums in double.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ggml-backend.h"
#include "llama.h"

#include "eval/eval.h"

enum { N_CTX = 96, N_CHUNK = 3, N_ID = N_CTX * N_CHUNK + 17, FIRST = N_CTX / 2, BOS = 5 };

static struct {
    char path[512];
    ft_model *model;
    uint32_t n_vocab;
    ft_token id[N_ID];
} with;

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)level;
    (void)text;
    (void)user;
}

static int open_all(void **state) {
    struct ft_model_info info;
    (void)state;
    llama_log_set(quiet, NULL);
    snprintf(with.path, sizeof with.path, "%s/models/foretoken-target-f16.gguf",
             FT_TEST_SOURCE_DIR);
    if (ft_model_open(with.path, FT_LOAD_PLAIN, &with.model, NULL) != FT_OK) {
        return -1;
    }
    ft_model_info(with.model, &info);
    with.n_vocab = info.n_vocab;
    return ft_bench_prompt(with.model, 11, N_ID, with.id, NULL) == FT_OK ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    ft_model_close(with.model);
    llama_backend_free();
    return 0;
}

/* ---- the oracle ---- */

static struct llama_batch batch_of(const ft_token *id, int32_t at, int32_t n) {
    struct llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int32_t t = 0; t < n; t++) {
        batch.token[t] = id[at + t];
        batch.pos[t] = at + t;
        batch.n_seq_id[t] = 1;
        batch.seq_id[t][0] = 0;
        batch.logits[t] = 1;
    }
    return batch;
}

/* llama.cpp: the logits of token j of a chunk predict token j + 1, for n_ctx/2 <= j < n_ctx - 1. */
static void oracle_chunk(struct llama_context *ctx, const ft_token *chunk, double sum[2]) {
    llama_memory_clear(llama_get_memory(ctx), true);
    struct llama_batch batch = batch_of(chunk, 0, FIRST);
    assert_int_equal(llama_decode(ctx, batch), 0);
    llama_batch_free(batch);
    batch = batch_of(chunk, FIRST, N_CTX - 1 - FIRST);
    assert_int_equal(llama_decode(ctx, batch), 0);
    for (int32_t j = FIRST; j < N_CTX - 1; j++) {
        const float *logit = llama_get_logits_ith(ctx, j - FIRST);
        double total = 0;
        for (uint32_t v = 0; v < with.n_vocab; v++) {
            total += exp((double)logit[v] - (double)logit[chunk[j + 1]]);
        }
        sum[0] += log(total);
        sum[1] += log(total) * log(total);
    }
    llama_batch_free(batch);
}

static struct ft_ppl oracle(bool has_bos, uint32_t n_chunk) {
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();
    double sum[2] = { 0, 0 }, n = (double)n_chunk * (N_CTX - 1 - FIRST);
    mp.use_extra_bufts = false;
    struct llama_model *model = llama_model_load_from_file(with.path, mp);
    assert_non_null(model);
    cp.n_ctx = N_CTX;
    cp.n_threads = cp.n_threads_batch = 2;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    assert_non_null(ctx);
    for (uint32_t c = 0; c < n_chunk; c++) {
        ft_token chunk[N_CTX];
        memcpy(chunk, with.id + (size_t)c * N_CTX, sizeof chunk);
        chunk[0] = has_bos ? BOS : chunk[0];
        oracle_chunk(ctx, chunk, sum);
    }
    llama_free(ctx);
    llama_model_free(model);
    double mean = sum[0] / n, variance = sum[1] / n - mean * mean;
    return (struct ft_ppl){ .ppl = exp(mean), .error = exp(mean) * sqrt(variance / (n - 1)) };
}

/* ---- cases ---- */

static struct ft_session_params exact(void) {
    struct ft_session_params params = ft_session_defaults();
    params.is_exact = true;
    params.kv_type = "f32";
    params.n_thread = 2;
    return params;
}

static void no_guard(ft_session *session) {
    (void)session;
}

static uint32_t n_running;
static void running(uint32_t chunk, uint32_t n_chunk, double ppl, void *user) {
    n_running++;
    assert_int_equal(chunk, n_running);
    assert_true(n_chunk <= N_CHUNK);
    *(double *)user = ppl;
}

static struct ft_ppl ours(bool has_bos, uint32_t n_chunk_max, double *last) {
    struct ft_session_params session = exact();
    struct ft_error error = { 0 };
    struct ft_ppl ppl = { 0 };
    struct ft_ppl_params params = { .model = with.model, .session = &session, .id = with.id };
    params.n_id = N_ID;
    params.n_ctx = N_CTX;
    params.n_chunk_max = n_chunk_max;
    params.has_bos = has_bos;
    params.bos = BOS;
    params.guard = no_guard;
    params.running = running;
    params.user = last;
    n_running = 0;
    if (ft_ppl_run(&params, &ppl, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return ppl;
}

static void compare(bool has_bos, uint32_t n_chunk_max, uint32_t n_chunk) {
    double last = 0;
    struct ft_ppl got = ours(has_bos, n_chunk_max, &last), want = oracle(has_bos, n_chunk);
    print_message("%u chunks, bos %d: %.6f +/- %.6f, libllama %.6f +/- %.6f\n", n_chunk, has_bos,
                  got.ppl, got.error, want.ppl, want.error);
    assert_int_equal(got.n_chunk, n_chunk);
    assert_int_equal(n_running, n_chunk);
    assert_int_equal(got.n_scored, n_chunk * (N_CTX - 1 - FIRST));
    assert_true(last == got.ppl);
    assert_true(fabs(got.ppl - want.ppl) <= 1e-9 * want.ppl);
    assert_true(fabs(got.error - want.error) <= 1e-7 * want.error);
}

static void as_libllama(void **state) {
    (void)state;
    compare(false, 0, N_CHUNK);
    compare(true, 0, N_CHUNK);
    compare(true, 2, 2);
}

static void refusals(void **state) {
    struct ft_session_params session = exact();
    struct ft_error error = { 0 };
    struct ft_ppl ppl;
    struct ft_ppl_params params = { .model = with.model, .session = &session, .id = with.id };
    (void)state;
    params.guard = no_guard;
    params.n_ctx = N_CTX;
    params.n_id = 2 * N_CTX - 1;
    assert_int_equal(ft_ppl_run(&params, &ppl, &error), FT_LIMIT);
    assert_non_null(strstr(error.text, "two chunks of 96 need 192"));
    params.n_ctx = 3;
    assert_int_equal(ft_ppl_run(&params, &ppl, &error), FT_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(as_libllama), cmocka_unit_test(refusals) };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
