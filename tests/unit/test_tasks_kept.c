/* SPDX-License-Identifier: Apache-2.0 */
/* test_tasks_kept.c - with everything kept, every method is the dense run: on every task of RULER and
 * our own, with the shipped pair.
 *
 * With the shortcut (nothing to drop: run dense) bit for bit.  Without it the stages run although
 * they have nothing to drop; then, too, bit for bit, but for methods that feed the prompt's last
 * token again: there it is a prompt of n - 1 tokens with the last one fed behind it, and differs from
 * the dense run by the rounding of that one row.
 */
#include "engine_fixture.h"
#include "eval/ruler.h"

enum { LENGTHS = 3 };
static const uint32_t length[LENGTHS] = { 512, 1024,
                                          2048 }; /* the first that has room for a task */

/* Of the row that is fed again, in log p, with f16 weights and rows: measured .010 with bf16 products,
 * .023 with avx2, .031 with avx512. */
static const double REFED_MAX = 0.1;

static ft_model *target, *draft;
static double worst;

static int open_models(void **state) {
    (void)state;
    target = model_shipped("target");
    draft = model_shipped("draft");
    return 0;
}

static int close_models(void **state) {
    (void)state;
    ft_model_close(target);
    ft_model_close(draft);
    return 0;
}

/* ---- prompts ---- */

static ft_status count(const char *text, const char *prefix, uint32_t *n, void *user,
                       struct ft_error *error) {
    const struct ft_chat chat = { .user = text, .begun = prefix, .is_plain = true };
    struct ft_tokens tokens = { 0 };
    uint32_t n_head;
    (void)user;
    FT_TRY(ft_chat_tokens(target, &chat, &tokens, &n_head, error));
    *n = tokens.n;
    ft_tokens_free(&tokens);
    return FT_OK;
}

static struct ft_tokens prompt_of(struct ft_ruler *ruler, uint32_t task) {
    struct ft_error err = { 0 };
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_tokens tokens = { 0 };
    uint32_t n_head, i = 0;
    while (ft_ruler_make(ruler, task, length[i], 0, &sample, &err) != FT_OK) {
        if (++i == LENGTHS) {
            fail_msg("%s: %s", ft_ruler_name(task), err.text);
        }
    }
    const struct ft_chat chat = { .user = sample.turn[0].text,
                                  .begun = sample.turn[0].prefix,
                                  .is_plain = true };
    assert_int_equal(ft_chat_tokens(target, &chat, &tokens, &n_head, &err), FT_OK);
    ft_sample_done(&sample);
    return tokens;
}

/* ---- runs ---- */

struct wanted { /* logits of the first answer token */
    float *dense, *refed;
};

static float *copy_of(const ft_session *s) {
    uint32_t n = n_vocab_of(s);
    float *copy = test_malloc(n * sizeof *copy);
    memcpy(copy, ft_session_logits(s), n * sizeof *copy);
    return copy;
}

static struct wanted wanted_of(const struct ft_tokens *tokens) {
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err;
    struct wanted want;
    params.n_thread = 1;
    ft_session *s = session_made(target, NULL, &params);
    prompt_read(s, tokens->id, tokens->n);
    want.dense = copy_of(s);
    prompt_read(s, tokens->id, tokens->n - 1);
    assert_int_equal(ft_session_feed(s, &tokens->id[tokens->n - 1], 1, NULL, &err), FT_OK);
    want.refed = copy_of(s);
    worst = fmax(worst, logp_distance(want.dense, want.refed, n_vocab_of(s)));
    assert_true(worst <= REFED_MAX);
    ft_session_free(s);
    return want;
}

static void check_method(const struct ft_method *method, const struct ft_tokens *tokens,
                         const struct wanted *want) {
    char spec[64];
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    bool is_prompt = method->act == FT_PROMPT;
    bool is_refed = method->needs_draft_text || method->writes_itself;
    /* a method whose keep is only a cap: votes must not count either */
    snprintf(spec, sizeof spec, "%s:keep=%u%s", method->name, tokens->n,
             method->is_capped ? ",window=16777216" : "");
    *(is_prompt ? &params.prompt : &params.kv) = spec;
    params.n_predict = 8;
    params.n_thread = 1;
    for (int is_off = 0; is_off < 2; is_off++) {
        ft_session *s = session_made(target, draft, &params);
        s->is_shortcut_off = is_off;
        prompt_read(s, tokens->id, tokens->n);
        report_of(s, &report);
        assert_same_bits(spec, ft_session_logits(s), is_off && is_refed ? want->refed : want->dense,
                         n_vocab_of(s));
        assert_int_equal(report.n_kept, tokens->n);
        assert_int_equal(report.n_kv_kept, tokens->n - (is_off && is_refed));
        if (is_off) { /* it did run */
            assert_string_equal(is_prompt ? report.prompt_method : report.kv_method, method->name);
        }
        ft_session_free(s);
    }
}

static void test_every_task(void **state) {
    (void)state;
    const struct ft_ruler_params params = { .seed = 3, .has_prefix = true, .count = count };
    struct ft_error err = { 0 };
    struct ft_ruler *ruler = NULL;
    assert_int_equal(ft_ruler_new(&params, &ruler, &err), FT_OK);
    for (uint32_t task = 0; ft_ruler_name(task); task++) {
        struct ft_tokens tokens = prompt_of(ruler, task);
        struct wanted want = wanted_of(&tokens);
        for (uint32_t i = 0; i < ft_catalogue_count(); i++) {
            const struct ft_method *method = ft_catalogue(i);
            if (method->score && method->act != FT_ATTEND) {
                check_method(method, &tokens, &want);
            }
        }
        test_free(want.dense);
        test_free(want.refed);
        ft_tokens_free(&tokens);
    }
    ft_ruler_free(ruler);
    print_message("the row that is fed again: %.4f in log p at most\n", worst);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_task) };
    return cmocka_run_group_tests_name("everything kept on every task", tests, open_models,
                                       close_models);
}
