/* SPDX-License-Identifier: Apache-2.0 */
/* test_estimate.c - what an estimate says, from headers alone, is what the run then measures. */
#include "engine_fixture.h"

enum { N_PROMPT = 1100, N_HUGE = 4000000 };

#define TARGET "--layers 3 --embd 128 --heads 4 --kv-heads 2 --vocab 300 --ff 128 --ctx 2048 "
#define DRAFT "--layers 2 --embd 64 --heads 4 --kv-heads 1 --vocab 300 --ff 64 --ctx 2048 --seed 4 "
/* a token costs 2 MiB of rows, so that a short prompt does not fit anywhere */
#define HUGE                                                                                       \
    "--layers 16 --embd 64 --heads 128 --kv-heads 128 --head-dim 256 --vocab 300 --ff 64 --ctx "   \
    "4000000 "

static const struct method {
    const char *name, *prompt, *kv;
    uint32_t self_layers;
    bool is_exact;
} methods[] = {
    { .name = "dense" },
    { .name = "specpc", .prompt = "specpc:keep=200" },
    { .name = "specpc, 3 steps", .prompt = "specpc:keep=200,lookahead=3" },
    { .name = "specprefill", .prompt = "specprefill:keep=200" },
    { .name = "random", .prompt = "random:keep=200" },
    { .name = "specpc, self:layers", .prompt = "specpc:keep=200", .self_layers = 2 },
    { .name = "speckv", .kv = "speckv:keep=64,lookahead=8" },
    { .name = "speckv, sparse",
      .kv = "speckv:keep=64,lookahead=8,prefill_window=128,prefill_vertical=64" },
    { .name = "speckv, many voters", .kv = "speckv:keep=1080,window=1070,lookahead=8" },
    { .name = "speckv within keep", .kv = "speckv:keep=1500" },
    { .name = "cascade", .prompt = "specpc:keep=200", .kv = "speckv:keep=64,lookahead=8" },
    { .name = "oracle", .kv = "oracle:keep=64,lookahead=8" },
    { .name = "laq", .kv = "laq:keep=64,lookahead=8" },
    { .name = "laq, pyramid", .kv = "laq:keep=64,lookahead=8,budget=pyramid" },
    { .name = "laq, many voters",
      .kv = "laq:keep=1080,window=1050,trial_window=1060,lookahead=8,budget=pyramid" },
    { .name = "laq, cascade", .prompt = "specpc:keep=200", .kv = "laq:keep=64,lookahead=8" },
    { .name = "laq, exact", .kv = "laq:keep=64,lookahead=8", .is_exact = true },
    { .name = "laq, critical", .kv = "laq:keep=64,lookahead=8,rank=critical" },
    { .name = "snapkv", .kv = "snapkv:keep=64" },
    { .name = "snapkv, critical", .kv = "snapkv:keep=64,rank=critical" },
    { .name = "snapkv, group=max", .kv = "snapkv:keep=64,group=max" },
    { .name = "h2o", .kv = "h2o:keep=64" },
    { .name = "keyformer", .kv = "keyformer:keep=64" },
    { .name = "tova", .kv = "tova:keep=64" },
    { .name = "knorm", .kv = "knorm:keep=64" },
    { .name = "streamingllm", .kv = "streamingllm:keep=64" },
    { .name = "cascade without text", .prompt = "specpc:keep=200", .kv = "snapkv:keep=64" },
    { .name = "dense, exact", .is_exact = true },
    { .name = "snapkv, exact", .kv = "snapkv:keep=64", .is_exact = true },
    { .name = "speckv, exact", .kv = "speckv:keep=64,lookahead=8", .is_exact = true },
};

static struct ft_session_params params_of(const struct method *m) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = m->prompt;
    params.kv = m->kv;
    params.self_layers = m->self_layers;
    params.is_exact = m->is_exact;
    params.n_thread = 1;
    params.n_predict = 8;
    return params;
}

static void check_method(const struct method *m, ft_model *const full[2],
                         ft_model *const header[2]) {
    struct ft_session_params params = params_of(m);
    struct ft_error err = { .code = FT_OK };
    struct ft_estimate said, told;
    struct ft_report report;
    struct ft_model_info info;
    ft_token id[N_PROMPT];
    ids_random(id, N_PROMPT, full[0], 9);
    bool has_draft = (m->prompt || m->kv) && !m->self_layers;
    assert_int_equal(
        ft_estimate(header[0], has_draft ? header[1] : NULL, &params, N_PROMPT, &said, &err),
        FT_OK);
    assert_int_equal(
        ft_estimate(full[0], has_draft ? full[1] : NULL, &params, N_PROMPT, &told, &err), FT_OK);
    told.available_bytes = said.available_bytes; /* another moment */
    assert_memory_equal(&said, &told, sizeof(said));
    ft_session *s = session_made(full[0], has_draft ? full[1] : NULL, &params);
    prompt_read(s, id, N_PROMPT);
    ft_session_report(s, &report);
    assert_true(report.n_draft_text == 0 ||
                report.n_draft_text == 8); /* an end token would make the text shorter */
    assert_int_equal(said.kv_bytes, report.kv_bytes);
    tokens_drawn(s, id, 8); /* the peak is the whole run's */
    assert_int_equal(said.kv_bytes_peak, report_of(s, &report)->kv_bytes_peak);
    assert_int_equal(said.draft_kv_bytes_peak, report.draft_kv_bytes_peak);
    assert_int_equal(said.activation_bytes, report.activation_bytes_peak);
    print_message("%-20s compute %llu KiB, estimated %llu\n", m->name,
                  (unsigned long long)report.compute_bytes_peak >> 10,
                  (unsigned long long)said.compute_bytes >> 10);
    assert_in_range(report.compute_bytes_peak, said.compute_bytes / 4, said.compute_bytes);
    ft_model_info(full[0], &info);
    assert_int_equal(said.weights_bytes, info.tensor_bytes); /* a copy replaces what it is of */
    assert_true(said.total_bytes >=
                said.weights_bytes + said.draft_weights_bytes + said.kv_bytes_peak);
    assert_true(said.fits && said.why[0] == '\0');
    ft_session_free(s);
}

static void test_methods(void **state) {
    (void)state;
    ft_model *full[2] = { model_made("target", TARGET, FT_LOAD_FULL),
                          model_made("draft", DRAFT, FT_LOAD_FULL) };
    ft_model *header[2] = { model_made("target", TARGET, FT_LOAD_VOCAB),
                            model_made("draft", DRAFT, FT_LOAD_VOCAB) };
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        check_method(&methods[i], full, header);
    }
    struct ft_session_params params = params_of(&methods[6]);
    struct ft_error err = { .code = FT_OK };
    struct ft_estimate said;
    assert_int_equal(ft_estimate(header[0], header[1], &params, 0, &said, &err), FT_ARG);
    assert_int_equal(ft_estimate(header[0], header[1], &params, 2049, &said, &err), FT_LIMIT);
    assert_int_equal(ft_estimate(header[0], NULL, &params, N_PROMPT, &said, &err), FT_ARG);
    for (size_t i = 0; i < 2; i++) {
        ft_model_close(full[i]);
        ft_model_close(header[i]);
    }
}

/* Copies replace mapped pages, but for a tied head: its table is looked up where it is mapped.  An
 * exact run opens its model plain: the estimate, made from the header alone, counts no copies. */
static void test_exact_weights(void **state) {
    (void)state;
    ft_model *header =
        model_made("repacked", TARGET "--type q4_0 --tied --vocab 320", FT_LOAD_VOCAB);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    struct ft_estimate said;
    struct ft_model_info info;
    ft_model_info(header, &info);
    assert_int_equal(ft_estimate(header, header, &params, N_PROMPT, &said, &err), FT_OK);
    /* q4_0: blocks of 32 weights in 18 bytes */
    uint64_t head = info.repacked_bytes > 0 ? 320 * 128 / 32 * 18 : 0;
    assert_int_equal(said.weights_bytes, info.tensor_bytes + head);
    assert_int_equal(said.draft_weights_bytes, said.weights_bytes);
    params.is_exact = true;
    assert_int_equal(ft_estimate(header, header, &params, N_PROMPT, &said, &err), FT_OK);
    assert_int_equal(said.weights_bytes, info.tensor_bytes);
    assert_int_equal(said.draft_weights_bytes, info.tensor_bytes);
    ft_model_close(header);
}

/* Too little memory: said by the estimate, and refused by the session before anything is computed.
 */
static void test_too_large(void **state) {
    (void)state;
    ft_model *model = model_made("huge", HUGE, FT_LOAD_FULL);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    struct ft_estimate said;
    params.n_thread = 1;
    assert_int_equal(ft_estimate(model, NULL, &params, N_HUGE - 300, &said, &err), FT_OK);
    assert_int_equal(said.kv_bytes, (uint64_t)(N_HUGE - 300) << 21);
    assert_false(said.fits);
    assert_non_null(strstr(said.why, "available"));
    ft_session *s = session_made(model, NULL, &params);
    ft_token *id = test_calloc(N_HUGE, sizeof(*id));
    int64_t start = ft_time_us();
    assert_int_equal(ft_session_prompt(s, id, N_HUGE - 300, 0, &err), FT_NOMEM);
    assert_true(ft_time_us() - start < 5000000);
    assert_non_null(strstr(err.text, "rows "));
    assert_non_null(strstr(err.text, "available are"));
    prompt_read(s, id, 3);
    test_free(id);
    ft_session_free(s);
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_methods),
                                        cmocka_unit_test(test_exact_weights),
                                        cmocka_unit_test(test_too_large) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
