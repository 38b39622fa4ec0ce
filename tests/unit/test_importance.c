/* SPDX-License-Identifier: Apache-2.0 */
/* test_importance.c - scores that a session gives out are those it chose by, and an estimator that
 * is the truth agrees with it. */
#include "engine_fixture.h"
#include "eval/importance.h"

enum { N = 200 };

static struct {
    ft_model *target, *draft;
    ft_token id[N];
} with;

static int open_pair(void **state) {
    (void)state;
    with.target = model_shipped("target");
    with.draft = model_shipped("draft");
    return ft_bench_prompt(with.target, 3, N, with.id, NULL) == FT_OK ? 0 : -1;
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
    params.n_predict = 8;
    params.n_thread = 1;
    return params;
}

/* ---- what a session chose by ---- */

static int compare_rows(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* A head keeps its best scores and every row that has none. */
static void check_head(const ft_session *s, uint32_t l, uint32_t h, const char *spec,
                       uint32_t n_input) {
    const uint32_t *kept = NULL;
    const float *score = NULL;
    uint32_t order[N], want[N], refeed = strncmp(spec, "speckv", 6) == 0;
    uint32_t n = ft_session_kv_scores(s, l, h, &score),
             n_kept = ft_session_kept(s, FT_STAGE_KV, l, h, &kept);
    assert_true(n > 0 && n <= n_input - refeed);
    uint32_t n_window = n_input - refeed - n, n_best = n_kept - n_window;
    assert_int_equal(ft_best_first(score, n, order, NULL), FT_OK);
    memcpy(want, order, n_best * sizeof *want);
    for (uint32_t i = 0; i < n_window; i++) {
        want[n_best + i] = n + i;
    }
    qsort(want, n_kept, sizeof *want, compare_rows);
    if (memcmp(want, kept, n_kept * sizeof *want) != 0) {
        fail_msg("%s: layer %u head %u keeps other rows than its scores say", spec, l, h);
    }
}

static void test_kept(void **state) {
    static const char *const specs[] = {
        "snapkv:keep=40,window=8",
        "snapkv:keep=40,window=8,group=max,pool=mean",
        "snapkv:keep=40,window=8,budget=pyramid",
        "snapkv:keep=40,window=8,budget=ada",
        "speckv:keep=40,window=8,lookahead=4",
        "h2o:keep=40",
        "keyformer:keep=40",
        "tova:keep=40",
        "knorm:keep=40",
        "random:keep=40",
    };
    struct ft_model_info info;
    (void)state;
    ft_model_info(with.target, &info);
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        struct ft_session_params params = params_of(NULL, specs[i]);
        params.is_kv_scored = true;
        ft_session *s = session_made(with.target, with.draft, &params);
        prompt_read(s, with.id, N);
        for (uint32_t l = 0; l < info.n_layer; l++) {
            for (uint32_t h = 0; h < info.n_head_kv; h++) {
                check_head(s, l, h, specs[i], N);
            }
        }
        ft_session_free(s);
    }
}

/* With a prompt method in front, score j belongs to the j-th token that was read. */
static void test_cascade(void **state) {
    struct ft_session_params params =
        params_of("specpc:keep=90,window=8,kernel=4", "snapkv:keep=40,window=8");
    (void)state;
    params.is_kv_scored = true;
    ft_session *s = session_made(with.target, with.draft, &params);
    prompt_read(s, with.id, N);
    check_head(s, 1, 0, "snapkv", 90);
    ft_session_free(s);
}

static void test_without(void **state) {
    const float *score = NULL;
    struct ft_session_params params = params_of(NULL, "snapkv:keep=40,window=8");
    (void)state;
    ft_session *s = session_made(with.target, NULL, &params);
    prompt_read(s, with.id, N);
    assert_int_equal(ft_session_kv_scores(s, 0, 0, &score), 0); /* not asked for */
    ft_session_free(s);
    params.is_kv_scored = true;
    s = session_made(with.target, NULL, &params);
    assert_int_equal(ft_session_kv_scores(s, 0, 0, &score), 0); /* no prompt yet */
    prompt_read(s, with.id, N);
    assert_int_equal(ft_session_kv_scores(s, 99, 0, &score), 0);
    assert_int_equal(ft_session_kv_scores(s, 0, 99, &score), 0);
    assert_null(score);
    assert_int_equal(ft_session_kv_scores(s, 0, 0, &score), N - 8);
    prompt_read(s, with.id, 40); /* within the budget: dense, and the old ones are gone */
    assert_int_equal(ft_session_kv_scores(s, 0, 0, &score), 0);
    ft_session_free(s);
}

/* Scores change nothing, and the estimate counts them. */
static void test_cost(void **state) {
    struct ft_session_params params = params_of(NULL, "snapkv:keep=40,window=8");
    struct ft_estimate without, scored;
    struct ft_model_info info;
    (void)state;
    ft_model_info(with.target, &info);
    ft_session *s = session_made(with.target, NULL, &params);
    prompt_read(s, with.id, N);
    float *plain = logits_copy(s);
    ft_session_free(s);
    assert_int_equal(ft_estimate(with.target, NULL, &params, N, &without, NULL), FT_OK);
    params.is_kv_scored = true;
    assert_int_equal(ft_estimate(with.target, NULL, &params, N, &scored, NULL), FT_OK);
    assert_int_equal(scored.total_bytes - without.total_bytes,
                     (uint64_t)info.n_layer * info.n_head_kv * (N - 8) * sizeof(float));
    s = session_made(with.target, NULL, &params);
    prompt_read(s, with.id, N);
    assert_same_bits("logits with scores kept", ft_session_logits(s), plain, info.n_vocab);
    test_free(plain);
    ft_session_free(s);
}

/* ---- estimators ---- */

static ft_status read_scores(enum ft_stage stage, const char *spec, const ft_model *draft,
                             struct ft_scores *out, struct ft_error *error) {
    struct ft_session_params session = params_of(NULL, NULL);
    const struct ft_scores_params params = { .target = with.target,
                                             .draft = draft,
                                             .session = &session,
                                             .stage = stage,
                                             .spec = spec,
                                             .id = with.id,
                                             .n = N,
                                             .guard = no_guard };
    return ft_scores_read(&params, out, error);
}

static struct ft_importance compared(enum ft_stage stage, const char *spec, const ft_model *draft,
                                     const char *truth, const ft_model *judge) {
    static const struct ft_budgets budgets = { .value = { 8, 32 }, .n = 2, .stated = 1 };
    struct ft_scores side[2];
    struct ft_importance out = { .n = 0 };
    struct ft_error error = { .code = FT_OK };
    if (read_scores(stage, spec, draft, &side[0], &error) != FT_OK ||
        read_scores(stage, truth, judge, &side[1], &error) != FT_OK ||
        ft_importance_of(&side[0], &side[1], &budgets, &out, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    ft_scores_done(&side[0]);
    ft_scores_done(&side[1]);
    return out;
}

/* Of the same numbers; a quotient of their sums is 1 up to rounding. */
static bool is_same(const struct ft_importance *x) {
    return x->mean.r2 > 1 - 1e-12 && x->mean.spearman > 1 - 1e-12 && x->mean.overlap[0] == 1 &&
           x->mean.overlap[1] == 1;
}

/* The target drafting for itself is the truth; another model is not. */
static void test_truth(void **state) {
    const char *specpc = "specpc:keep=65", *oracle = "oracle:keep=65";
    (void)state;
    struct ft_importance x = compared(FT_STAGE_PROMPT, specpc, with.target, specpc, with.target);
    assert_true(is_same(&x));
    assert_int_equal(x.n, N);
    ft_importance_done(&x);
    x = compared(FT_STAGE_PROMPT, specpc, with.draft, specpc, with.target);
    assert_false(is_same(&x));
    assert_true(x.mean.r2 > 0 && x.mean.r2 < 1 && x.mean.overlap[1] < 1);
    ft_importance_done(&x);
    x = compared(FT_STAGE_KV, "speckv:keep=65", with.target, oracle, NULL);
    assert_true(is_same(&x));
    assert_int_equal(x.n, N - 33);
    assert_int_equal(x.n_layer, 4);
    ft_importance_done(&x);
    x = compared(FT_STAGE_KV, "snapkv:keep=65", NULL, oracle, NULL);
    assert_int_equal(x.n, N - 33);
    assert_false(is_same(&x));
    ft_importance_done(&x);
}

static void test_refusals(void **state) {
    struct ft_scores scores;
    struct ft_error error;
    (void)state;
    assert_int_equal(read_scores(FT_STAGE_KV, "snapkv:keep=200", NULL, &scores, &error), FT_LIMIT);
    assert_non_null(
        strstr(error.text, "snapkv:keep=200 ranks nothing in a prompt of 200 tokens: "));
    ft_scores_done(&scores);
    assert_int_equal(read_scores(FT_STAGE_PROMPT, "specpc:keep=65", NULL, &scores, &error), FT_ARG);
    assert_non_null(strstr(error.text, "needs a draft"));
    ft_scores_done(&scores);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),    cmocka_unit_test(test_cascade),
        cmocka_unit_test(test_without), cmocka_unit_test(test_cost),
        cmocka_unit_test(test_truth),   cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_pair, close_pair);
}
