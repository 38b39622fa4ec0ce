/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokens_kept.c - the prompt methods that need no draft: which tokens they keep, and that the
 * target then reads these. */
#include "engine_fixture.h"

enum { N = 300, N_NEXT = 5 };

#define TARGET "--layers 2 --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 "

static ft_model *model;
static ft_token id[N];

static int model_open(void **state) {
    (void)state;
    model = model_made("target", TARGET, FT_LOAD_FULL);
    ids_random(id, N, model, 8);
    return 0;
}

static int model_close(void **state) {
    (void)state;
    ft_model_close(model);
    return 0;
}

/* ---- vectors ---- */

static const struct vector {
    const char *spec;
    uint32_t n_kept, kept[10];
} vectors[] = {
    { "tail:keep=3", 3, { 7, 8, 9 } },
    { "tail:keep=10", 10, { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 } },
    /* SplitMix64's finaliser by hand: .652 .034 .843 .781 .118 .245 .500 .394 .893 .565 */
    { "random:keep=3,window=0", 3, { 2, 3, 8 } },
    { "random:keep=4,window=2", 4, { 2, 3, 8, 9 } },
    { "random:keep=5,window=2", 5, { 0, 2, 3, 8, 9 } },
    { "random:keep=3,window=0,seed=7", 3, { 1, 5, 9 } },
};

static void test_vectors(void **state) {
    (void)state;
    float rows[10 * 2] = { 0 };
    struct ft_score_layer layer = { .q = rows, .k = rows };
    struct ft_score_input in = {
        .n_prompt = 10, .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d = 2, .layer = &layer
    };
    struct ft_score_output out;
    struct ft_error err;
    for (size_t i = 0; i < FT_COUNT(vectors); i++) {
        const struct vector *v = &vectors[i];
        if (ft_score_arrays(FT_STAGE_PROMPT, v->spec, &in, &out, &err) != FT_OK) {
            fail_msg("%s: %s", v->spec, err.text);
        }
        assert_int_equal(out.head->n_kept, v->n_kept);
        assert_memory_equal(out.head->kept, v->kept, v->n_kept * sizeof(*v->kept));
        ft_score_free(&out);
    }
    float score[10] = { 0 };
    in = (struct ft_score_input){ .n_prompt = 10, .score = score };
    assert_int_equal(ft_score_arrays(FT_STAGE_PROMPT, "tail:keep=3", &in, &out, &err), FT_ARG);
    assert_non_null(strstr(err.text, "tail does not go by scores"));
}

/* Names may serve both stages; each stage has its own parameters. */
static void test_names(void **state) {
    (void)state;
    const struct ft_method_info *prompt = NULL, *kv = NULL;
    struct ft_error err;
    assert_int_equal(ft_method_check(FT_STAGE_PROMPT, "random:protect=off", &prompt, &err), FT_OK);
    assert_int_equal(ft_method_check(FT_STAGE_KV, "random", &kv, &err), FT_OK);
    assert_ptr_not_equal(prompt, kv);
    assert_int_equal(prompt->stage, FT_STAGE_PROMPT);
    assert_int_equal(kv->stage, FT_STAGE_KV);
    assert_int_equal(ft_method_check(FT_STAGE_KV, "random:protect=off", NULL, &err), FT_ARG);
    assert_int_equal(ft_method_check(FT_STAGE_KV, "tail", NULL, &err), FT_ARG);
    assert_non_null(
        strstr(err.text, "tail is a prompt method, not a kv method: use --prompt tail"));
}

/* ---- runs ---- */

static ft_session *session_for(const char *prompt, const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.n_thread = 1;
    params.n_predict = N_NEXT + 1;
    return session_made(model, NULL, &params);
}

/* Compact: bit for bit a plain run of the kept tokens.  No draft is there, none is missed. */
static void test_runs(void **state) {
    (void)state;
    static const char *const specs[] = { "random:keep=100", "random:keep=40%,window=0,seed=3",
                                         "tail:keep=77" };
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        struct ft_report report;
        struct ft_error err;
        const uint32_t *list;
        ft_token kept[N], next[N_NEXT], want[N_NEXT];
        ft_session *s = session_for(specs[i], NULL), *plain = session_for(NULL, NULL);
        assert_int_equal(ft_session_prompt(s, id, N, 12, &err), FT_OK);
        uint32_t n = ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list);
        for (uint32_t j = 0; j < n; j++) {
            assert_true(j >= 12 || list[j] == j); /* the protected head */
            kept[j] = id[list[j]];
        }
        assert_int_equal(report_of(s, &report)->n_kept, n);
        assert_int_equal(report.draft_us, 0);
        assert_int_equal(report.draft_kv_bytes_peak, 0);
        prompt_read(plain, kept, n);
        assert_same_bits(specs[i], ft_session_logits(s), ft_session_logits(plain), n_vocab_of(s));
        tokens_drawn(s, next, N_NEXT);
        tokens_drawn(plain, want, N_NEXT);
        assert_memory_equal(next, want, sizeof(want));
        ft_session_free(plain);
        ft_session_free(s);
    }
}

/* Original: kept tokens stand where they stood, and the answer goes on behind the whole prompt. */
static void test_original(void **state) {
    (void)state;
    const uint32_t *list;
    ft_token next[N_NEXT];
    ft_session *s = session_for("random:keep=100,positions=original", "snapkv:keep=50");
    prompt_read(s, id, N);
    uint32_t n = ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list), at = 0, token[N];
    assert_int_equal(n, 100);
    memcpy(token, list, n * sizeof(*token));
    assert_int_equal(ft_session_kept(s, FT_STAGE_KV, 1, 1, &list), 50);
    for (uint32_t j = 0; j < 50; j++) { /* rows that stay are positions of tokens that stay */
        while (at < n && token[at] != list[j]) {
            at++;
        }
        assert_true(at < n);
    }
    tokens_drawn(s, next, N_NEXT);
    assert_int_equal(ft_kv_pos(s->lane.kv, 0, 0)[50], N);
    ft_session_free(s);
}

/* A draft that writes for the KV stage does not vote about the prompt. */
static void test_cascade(void **state) {
    (void)state;
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    struct ft_estimate said;
    struct ft_error err;
    params.prompt = "tail:keep=100,protect=off";
    params.kv = "speckv:keep=40,lookahead=4";
    params.n_thread = 1;
    params.n_predict = 3;
    ft_session *s = session_made(model, model, &params);
    prompt_read(s, id, N);
    report_of(s, &report);
    assert_int_equal(s->draft_work.voter, 0);
    assert_in_range(report.n_draft_text, 1, 4);
    assert_int_equal(report.n_kept, 100);
    assert_int_equal(report.n_kv_kept, 40);
    assert_int_equal(ft_estimate(model, model, &params, N, &said, &err), FT_OK);
    assert_int_equal(said.kv_bytes, report.kv_bytes);
    ft_session_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_names),
        cmocka_unit_test(test_runs),    cmocka_unit_test(test_original),
        cmocka_unit_test(test_cascade),
    };
    return cmocka_run_group_tests_name("prompts without a draft", tests, model_open, model_close);
}
