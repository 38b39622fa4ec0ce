/* SPDX-License-Identifier: Apache-2.0 */
/* test_oom.c - running out of memory is an answer: the n-th allocation fails, for every n, once and
 * from then on.
 *
 * Allocations of ours fail (ft_alloc, ft_grow, ft_pages_map), and ggml's compute buffer, which
 * comes from posix_memalign; what else ggml and libllama allocate does not go through a hook.  Each
 * failure must be FT_NOMEM with a text, nothing may leak (under ASan), the session can be freed,
 * and it can be given the prompt again.
 */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include <errno.h>

#include "engine_fixture.h"

enum { N_PROMPT = 90, N_NEXT = 2, N_MAX = 4000 };

static struct {
    ft_model *target, *draft;
    char path[512];
    ft_token id[N_PROMPT];
} with;

struct scenario {
    const char *name, *prompt, *kv;
    uint32_t self_layers;
};

static const struct scenario scenarios[] = {
    { .name = "dense" },
    { .name = "specpc", .prompt = "specpc:keep=40,window=8,kernel=3" },
    { .name = "specpc, decode steps", .prompt = "specpc:keep=40,window=8,kernel=3,lookahead=3" },
    { .name = "specpc, self:layers",
      .prompt = "specpc:keep=40,window=8,kernel=3",
      .self_layers = 1 },
    { .name = "speckv", .kv = "speckv:keep=24,lookahead=4" },
    { .name = "speckv, vertical-slash",
      .kv = "speckv:keep=12,lookahead=4,prefill_window=64,prefill_vertical=4" },
    { .name = "snapkv, group=max", .kv = "snapkv:keep=24,group=max" },
    { .name = "specprefill", .prompt = "specprefill:keep=40,lookahead=3" },
    { .name = "random, tova", .prompt = "random:keep=40,window=8", .kv = "tova:keep=24" },
    { .name = "oracle", .kv = "oracle:keep=24,lookahead=4" },
    { .name = "laq", .kv = "laq:keep=24,lookahead=3" },
    { .name = "laq, critical", .kv = "laq:keep=24,lookahead=3,rank=critical,budget=ada" },
    { .name = "snapkv, critical", .kv = "snapkv:keep=24,rank=critical" },
    { .name = "tova", .kv = "tova:keep=24" },
    { .name = "h2o", .kv = "h2o:keep=24" },
    { .name = "h2o, later", .kv = "h2o:keep=91" },
    { .name = "keyformer", .kv = "keyformer:keep=24" },
    { .name = "keyformer, later", .kv = "keyformer:keep=91,window=8" },
    { .name = "corm", .kv = "corm:keep=24,window=6,recent=4" },
    { .name = "corm, later", .kv = "corm:keep=200,window=91,recent=4" },
    { .name = "streamingllm", .kv = "streamingllm:keep=24" },
    { .name = "speckv, ada", .kv = "speckv:keep=24,lookahead=4,budget=ada" },
    { .name = "knorm", .kv = "knorm:keep=24" },
    { .name = "cascade",
      .prompt = "specpc:keep=60,window=8,kernel=3",
      .kv = "speckv:keep=24,lookahead=4" },
};

static int models_open(void **state) {
    (void)state;
    with.target = model_made("target", "--layers 2 --vocab 300 --ff 64 --type f16", FT_LOAD_FULL);
    with.draft =
        model_made("draft", "--layers 2 --vocab 300 --ff 64 --type q4_0 --seed 3", FT_LOAD_FULL);
    snprintf(with.path, sizeof(with.path), "%s/draft.gguf", FT_TEST_SCRATCH_DIR);
    ids_random(with.id, N_PROMPT, with.target, 5);
    return 0;
}

static int models_close(void **state) {
    (void)state;
    ft_model_close(with.target);
    ft_model_close(with.draft);
    return 0;
}

/* ---- one run ---- */

struct outcome {
    ft_status status;
    float *logits; /* behind the prompt, or NULL */
};

static void assert_no_memory(const char *name, uint64_t n, ft_status status,
                             const struct ft_error *err) {
    if (status != FT_NOMEM || err->code != FT_NOMEM || err->text[0] == '\0') {
        fail_msg("%s: allocation %llu fails: %s (%s), expected %s", name, (unsigned long long)n,
                 ft_status_text(status), err->text, ft_status_text(FT_NOMEM));
    }
}

/* A whole life of a session in which the n-th allocation fails.  ->  whether nothing failed: n was
 * not reached */
static bool run_session(const struct scenario *c, uint64_t n, bool is_sticky, const float *want) {
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    ft_session *s = NULL;
    ft_token id;
    params.prompt = c->prompt;
    params.kv = c->kv;
    params.kv_type = "f16";
    params.self_layers = c->self_layers;
    params.n_thread = 1;
    params.n_predict = N_NEXT;
    params.is_kv_scored = true;
    const ft_model *draft = (c->prompt || c->kv) && !c->self_layers ? with.draft : NULL;
    uint64_t before = ft_alloc_count();
    ft_alloc_fail_after(n, is_sticky);
    ft_status status = ft_session_new(with.target, draft, &params, &s, &err);
    if (status != FT_OK) {
        ft_alloc_fail_after(0, false);
        assert_null(s);
        assert_no_memory(c->name, n, status, &err);
        return false;
    }
    status = ft_session_prompt(s, with.id, N_PROMPT, 4, &err);
    bool is_whole = status == FT_OK;
    if (!is_whole) {
        assert_no_memory(c->name, n, status, &err);
        assert_null(ft_session_logits(s));
        assert_int_equal(ft_session_next(s, &id, &err), FT_ARG);
        ft_alloc_fail_after(0, false);
        prompt_read(s, with.id, N_PROMPT);
    }
    for (uint32_t t = 0; t < N_NEXT; t++) {
        status = ft_session_next(s, &id, &err);
        if (status != FT_OK) {
            assert_no_memory(c->name, n, status, &err);
            is_whole = false;
            break;
        }
    }
    ft_alloc_fail_after(0, false);
    if (is_whole && ft_alloc_count() - before >= n) {
        fail_msg("%s: allocation %llu failed and nobody said so", c->name, (unsigned long long)n);
    }
    prompt_read(s, with.id, N_PROMPT);
    assert_same_bits(c->name, ft_session_logits(s), want, n_vocab_of(s));
    ft_session_free(s);
    return is_whole;
}

/* ---- the loop ---- */

static void check_session(const struct scenario *c) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = c->prompt;
    params.kv = c->kv;
    params.self_layers = c->self_layers;
    params.n_thread = 1;
    params.n_predict = N_NEXT;
    ft_session *s = session_made(
        with.target, (c->prompt || c->kv) && !c->self_layers ? with.draft : NULL, &params);
    assert_int_equal(ft_session_prompt(s, with.id, N_PROMPT, 0, NULL), FT_OK);
    float *want = logits_copy(s);
    ft_session_free(s);

    for (int is_sticky = 0; is_sticky < 2; is_sticky++) {
        uint64_t n = 1;
        while (n <= N_MAX && !run_session(c, n, is_sticky, want)) {
            n++;
        }
        print_message("%-24s %s: %llu allocations failed in turn\n", c->name,
                      is_sticky ? "from then on" : "once", (unsigned long long)n - 1);
        assert_in_range(n, 20, N_MAX); /* fewer: the loop has not met the run's allocations */
    }
    test_free(want);
}

static void test_session(void **state) {
    check_session(*state);
}

/* ---- ggml's compute buffer ---- */

static size_t buffer_limit = SIZE_MAX;

/* In the place of the C library's, for every library of this program. */
__attribute__((visibility("default"))) int posix_memalign(void **out, size_t align, size_t n) {
    *out = n > buffer_limit ? NULL : aligned_alloc(align, (n + align - 1) / align * align);
    return *out ? 0 : ENOMEM;
}

static void test_compute(void **state) {
    (void)state;
    struct ft_session_params params = ft_session_defaults();
    params.kv = "speckv:keep=24,lookahead=4";
    params.n_thread = 1;
    ft_session *s = session_made(with.target, with.draft, &params);
    static const size_t limits[] = { 1000, 1000, 40000,
                                     40000 }; /* the first graph does not fit; a later one */
    for (size_t i = 0; i < FT_COUNT(limits); i++) {
        struct ft_error err = { .code = FT_OK };
        buffer_limit = limits[i];
        ft_status status = ft_session_prompt(s, with.id, N_PROMPT, 4, &err);
        buffer_limit = SIZE_MAX;
        assert_no_memory("the compute buffer", i, status, &err);
        assert_non_null(strstr(err.text, "compute buffer"));
        const char *need = strstr(err.text, "layers ");
        assert_true(need && (need = strstr(need, ": ")) && strtod(need + 2, NULL) > 0);
        assert_non_null(strstr(need, " KiB needed, "));
    }
    prompt_read(s, with.id, N_PROMPT);
    ft_session_free(s);
}

static void test_model(void **state) {
    (void)state;
    for (int is_sticky = 0; is_sticky < 2; is_sticky++) {
        uint64_t n = 1;
        for (; n <= N_MAX; n++) {
            struct ft_error err = { .code = FT_OK };
            ft_model *model = NULL;
            ft_alloc_fail_after(n, is_sticky);
            ft_status status = ft_model_open(with.path, FT_LOAD_FULL, &model, &err);
            ft_alloc_fail_after(0, false);
            if (status == FT_OK) {
                ft_model_close(model);
                break;
            }
            assert_null(model);
            assert_no_memory("opening a model", n, status, &err);
        }
        assert_in_range(n, 4, N_MAX);
    }
}

static void test_estimate(void **state) {
    (void)state;
    struct ft_session_params params = ft_session_defaults();
    params.prompt = "specpc:keep=60,window=8";
    params.kv = "speckv:keep=24";
    params.kv_type = "bf16";
    uint64_t n = 1;
    for (; n <= N_MAX; n++) {
        struct ft_error err = { .code = FT_OK };
        struct ft_estimate estimate;
        ft_alloc_fail_after(n, false);
        ft_status status = ft_estimate(with.target, with.draft, &params, N_PROMPT, &estimate, &err);
        ft_alloc_fail_after(0, false);
        if (status == FT_OK) {
            break;
        }
        assert_no_memory("an estimate", n, status, &err);
    }
    assert_in_range(n, 4, N_MAX);
}

/* Two sessions read together: both have the prompt in the end, or none has. */
static void test_shared(void **state) {
    (void)state;
    static const char *const specs[] = { "speckv:keep=24,lookahead=4",
                                         "speckv:keep=40,lookahead=4,rank=critical" };
    struct ft_session_params params = ft_session_defaults();
    ft_session *s[2] = { NULL };
    float *want[2];
    params.n_thread = 1;
    params.is_kv_scored = true;
    for (uint32_t i = 0; i < 2; i++) {
        params.kv = specs[i];
        s[i] = session_made(with.target, with.draft, &params);
        prompt_read(s[i], with.id, N_PROMPT);
        want[i] = logits_copy(s[i]);
    }
    uint64_t n = 1;
    for (bool is_whole = false; n <= N_MAX && !is_whole; n++) {
        struct ft_error err = { .code = FT_OK };
        bool is_shared = false;
        uint64_t before = ft_alloc_count();
        ft_alloc_fail_after(n, false);
        ft_status status =
            ft_session_prompt_shared(s[0], s + 1, 1, &is_shared, with.id, N_PROMPT, 0, &err);
        is_whole = ft_alloc_count() - before < n;
        ft_alloc_fail_after(0, false);
        if (status == FT_OK) {
            assert_true(is_whole && is_shared);
            assert_same_bits("first", ft_session_logits(s[0]), want[0], n_vocab_of(s[0]));
            assert_same_bits("second", ft_session_logits(s[1]), want[1], n_vocab_of(s[1]));
        } else {
            assert_no_memory("two sessions", n, status, &err);
            assert_null(ft_session_logits(s[0]));
            assert_null(ft_session_logits(s[1]));
        }
    }
    assert_in_range(n, 20, N_MAX);
    for (uint32_t i = 0; i < 2; i++) {
        test_free(want[i]);
        ft_session_free(s[i]);
    }
}

int main(void) {
    enum { N_OTHER = 4 };
    struct CMUnitTest tests[FT_COUNT(scenarios) + N_OTHER] = { cmocka_unit_test(test_model),
                                                               cmocka_unit_test(test_estimate),
                                                               cmocka_unit_test(test_compute),
                                                               cmocka_unit_test(test_shared) };
    for (size_t i = 0; i < FT_COUNT(scenarios); i++) {
        tests[i + N_OTHER] =
            (struct CMUnitTest){ .name = scenarios[i].name,
                                 .test_func = test_session,
                                 .initial_state = (void *)(uintptr_t)&scenarios[i] };
    }
    return cmocka_run_group_tests_name("allocation failures", tests, models_open, models_close);
}
