/* SPDX-License-Identifier: Apache-2.0 */
/* test_session.c - the timeline: same bits for any thread count, sessions used again, limits,
 * cancelling. */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

#include "engine_fixture.h"

enum { N_PROMPT = 1500, N_TOKEN = 64 };

#define TARGET                                                                                     \
    "--layers 3 --embd 128 --heads 4 --kv-heads 2 --ff 192 --vocab 300 --ctx 4096 --sharpness 3 "
#define DRAFT                                                                                      \
    "--layers 2 --embd 64 --heads 4 --kv-heads 1 --ff 96 --vocab 300 --ctx 4096 --sharpness 3 "    \
    "--seed 7 "

static const struct arch {
    const char *name, *target, *draft;
} archs[] = {
    { "llama", "--arch llama --type f16 " TARGET, "--arch llama --type f16 " DRAFT },
    { "qwen2", "--arch qwen2 --type q8_0 " TARGET, "--arch qwen2 --type f32 " DRAFT },
    { "qwen3", "--arch qwen3 --type q4_0 " TARGET, "--arch qwen3 --type q8_0 " DRAFT },
};

static const struct method {
    const char *name, *prompt, *kv;
} methods[] = {
    { "dense, decode over two splits", NULL, NULL },
    { "specpc", "specpc:keep=400", NULL },
    { "specpc with decode steps", "specpc:keep=400,lookahead=4,positions=original", NULL },
    { "speckv", NULL, "speckv:keep=300,lookahead=40" },
    { "speckv, vertical-slash", NULL,
      "speckv:keep=150,lookahead=40,prefill_window=128,prefill_vertical=64" },
    { "speckv, decode over two splits", NULL,
      "speckv:keep=1100,lookahead=20,pool=mean,reduce=mean" },
    { "cascade", "specpc:keep=600", "speckv:keep=128,lookahead=20" },
};

struct pair {
    ft_model *target, *draft;
};

static struct pair pair_made(const struct arch *arch) {
    char name[64];
    struct pair pair;
    snprintf(name, sizeof(name), "%s-target", arch->name);
    pair.target = model_made(name, arch->target, FT_LOAD_FULL);
    snprintf(name, sizeof(name), "%s-draft", arch->name);
    pair.draft = model_made(name, arch->draft, FT_LOAD_FULL);
    return pair;
}

static void pair_close(struct pair *pair) {
    ft_model_close(pair->target);
    ft_model_close(pair->draft);
}

static ft_session *session_for(const struct pair *pair, const struct method *method,
                               uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = method->prompt;
    params.kv = method->kv;
    params.n_thread = n_thread;
    params.n_predict = 2 * N_TOKEN;
    return session_made(pair->target, pair->draft, &params);
}

/* ---- what a run shows ---- */

struct outcome {
    float *first, *last; /* [n_vocab] behind the prompt, behind the tokens */
    uint32_t *kept;      /* per stage, layer, head: the count, then the list */
    size_t n_kept;
    ft_token id[N_TOKEN];
};

static void kept_copy(const ft_session *s, struct outcome *out) {
    const struct ft_hparams *hp = s->lane.hp;
    size_t cap = (1 + (size_t)hp->n_layer * hp->n_head_kv) * (N_PROMPT + 1);
    out->kept = test_malloc(cap * sizeof(*out->kept));
    for (uint32_t l = 0; l <= hp->n_layer; l++) { /* the last round is the prompt stage */
        bool is_prompt = l == hp->n_layer;
        for (uint32_t h = 0; h < (is_prompt ? 1 : hp->n_head_kv); h++) {
            const uint32_t *list;
            uint32_t n = ft_session_kept(s, is_prompt ? FT_STAGE_PROMPT : FT_STAGE_KV, l, h, &list);
            assert_true(n > 0 && n <= N_PROMPT);
            out->kept[out->n_kept++] = n;
            memcpy(out->kept + out->n_kept, list, n * sizeof(*list));
            out->n_kept += n;
        }
    }
}

static struct outcome outcome_of(ft_session *s, const ft_token *id, uint32_t n) {
    struct outcome out = { .n_kept = 0 };
    prompt_read(s, id, n);
    out.first = logits_copy(s);
    kept_copy(s, &out);
    tokens_drawn(s, out.id, N_TOKEN);
    out.last = logits_copy(s);
    return out;
}

static void outcome_done(struct outcome *out) {
    test_free(out->first);
    test_free(out->last);
    test_free(out->kept);
}

static void assert_same_outcome(const char *what, const struct outcome *got,
                                const struct outcome *want, uint32_t n) {
    assert_same_bits(what, got->first, want->first, n);
    assert_int_equal(got->n_kept, want->n_kept);
    assert_memory_equal(got->kept, want->kept, want->n_kept * sizeof(*want->kept));
    assert_memory_equal(got->id, want->id, sizeof(want->id));
    assert_same_bits(what, got->last, want->last, n);
}

/* ---- determinism ---- */

static void check_threads(const struct pair *pair, const struct method *method, const ft_token *id,
                          uint32_t most) {
    struct outcome want;
    for (uint32_t n_thread = 1; n_thread <= most; n_thread++) {
        ft_session *s = session_for(pair, method, n_thread);
        struct outcome got = outcome_of(s, id, N_PROMPT);
        if (n_thread == 1) {
            want = got;
        } else {
            assert_same_outcome(method->name, &got, &want, n_vocab_of(s));
            outcome_done(&got);
        }
        ft_session_free(s);
    }
    outcome_done(&want);
}

static void test_threads(void **state) {
    const struct arch *arch = *state;
    struct pair pair = pair_made(arch);
    ft_token id[N_PROMPT];
    ids_random(id, N_PROMPT, pair.target, 11);
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        check_threads(&pair, &methods[i], id, arch == archs ? 3 : 2);
    }
    pair_close(&pair);
}

/* ---- a session is used again ---- */

static void check_reuse(const struct pair *pair, const struct method *method, const ft_token *id) {
    ft_session *fresh = session_for(pair, method, 2);
    struct outcome want = outcome_of(fresh, id, N_PROMPT);
    uint32_t n_vocab = n_vocab_of(fresh);
    ft_session_free(fresh);

    ft_session *s = session_for(pair, method, 2);
    struct ft_error err;
    ft_token token, other[N_PROMPT], bad = -1;
    ids_random(other, N_PROMPT, pair->target, 99);
    prompt_read(s, other, N_PROMPT);
    tokens_drawn(s, &token, 1);
    struct outcome got = outcome_of(s, id, N_PROMPT); /* after another prompt */
    assert_same_outcome(method->name, &got, &want, n_vocab);
    outcome_done(&got);

    assert_int_equal(ft_session_prompt(s, &bad, 1, 0, &err), FT_ARG);
    assert_null(ft_session_logits(s));
    assert_int_equal(ft_session_next(s, &token, &err), FT_ARG);
    got = outcome_of(s, id, N_PROMPT); /* after an error */
    assert_same_outcome(method->name, &got, &want, n_vocab);
    outcome_done(&got);

    ft_session_cancel(s);
    assert_int_equal(ft_session_next(s, &token, &err), FT_CANCELLED);
    assert_int_equal(ft_session_feed(s, id, 1, NULL, &err), FT_CANCELLED);
    got = outcome_of(s, id, N_PROMPT); /* after a cancel */
    assert_same_outcome(method->name, &got, &want, n_vocab);
    outcome_done(&got);
    outcome_done(&want);
    ft_session_free(s);
}

static void test_reuse(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[1]);
    ft_token id[N_PROMPT];
    ids_random(id, N_PROMPT, pair.target, 12);
    for (size_t i = 0; i < FT_COUNT(methods); i += 2) { /* one of each kind */
        check_reuse(&pair, &methods[i], id);
    }
    pair_close(&pair);
}

/* Penalties and the counter of draws start anew with each prompt: the same seed gives the same
 * text. */
static void test_sampled(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    ft_token id[100], want[N_TOKEN], got[N_TOKEN];
    ids_random(id, 100, pair.target, 18);
    params.n_predict = N_TOKEN;
    params.sampling.temperature = 1;
    params.sampling.repeat_penalty = 1.5f;
    params.sampling.seed = 5;
    for (uint32_t n_thread = 1; n_thread <= 2; n_thread++) {
        params.n_thread = n_thread;
        ft_session *s = session_made(pair.target, NULL, &params);
        for (int round = 0; round < 2; round++) {
            prompt_read(s, id, 100);
            tokens_drawn(s, got, N_TOKEN);
            if (n_thread == 1 && round == 0) {
                memcpy(want, got, sizeof(want));
            }
            assert_memory_equal(got, want, sizeof(want));
        }
        ft_session_free(s);
    }
    pair_close(&pair);
}

/* The likeliest id behind these logits when the penalty counts the given ones. */
static ft_token penalised_best(const float *logits, uint32_t n_vocab, const ft_token *id, uint32_t n,
                               float penalty) {
    ft_token best = 0;
    float most = -INFINITY;
    for (uint32_t v = 0; v < n_vocab; v++) {
        float logit = logits[v];
        for (uint32_t t = 0; t < n; t++) {
            if (id[t] == (ft_token)v) {
                logit = logit > 0 ? logit / penalty : logit * penalty;
                break;
            }
        }
        if (logit > most) {
            most = logit;
            best = (ft_token)v;
        }
    }
    return best;
}

/* The repeat penalty counts the last tokens of the prompt and of what is fed, as llama.cpp does. */
static void test_penalty_counts_prompt(void **state) {
    (void)state;
    enum { N = 100, LAST = 64, ROUNDS = 30 };
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    ft_token id[N], got;
    uint32_t n_other = 0;
    params.n_thread = 1;
    params.n_predict = 8;
    params.sampling.repeat_penalty = 4;
    params.sampling.repeat_last_n = LAST;
    ft_session *s = session_made(pair.target, NULL, &params);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint32_t n_fed = round % 2 ? 3 : 0;
        ids_random(id, N, pair.target, 30 + round);
        prompt_read(s, id, N - n_fed);
        if (n_fed > 0) {
            assert_int_equal(ft_session_feed(s, id + N - n_fed, n_fed, NULL, &err), FT_OK);
        }
        float *logits = logits_copy(s);
        ft_token want = penalised_best(logits, n_vocab_of(s), id + N - LAST, LAST, 4);
        n_other += want != penalised_best(logits, n_vocab_of(s), id, 0, 4);
        tokens_drawn(s, &got, 1);
        assert_int_equal(got, want);
        test_free(logits);
    }
    assert_true(n_other > 0); /* else the penalty made no difference */
    ft_session_free(s);
    pair_close(&pair);
}

/* ---- drawing and feeding ---- */

/* Tokens given are the same as the same tokens drawn, in one piece or several. */
static void test_feed(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    ft_token id[N_PROMPT], drawn[N_TOKEN];
    struct ft_error err = { .code = FT_OK };
    ids_random(id, N_PROMPT, pair.target, 13);
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        ft_session *s = session_for(&pair, &methods[i], 2);
        uint32_t n_vocab = n_vocab_of(s);
        prompt_read(s, id, N_PROMPT);
        tokens_drawn(s, drawn, N_TOKEN);
        float *want = logits_copy(s); /* behind all tokens but the last */
        prompt_read(s, id, N_PROMPT);
        float *row = test_malloc(n_vocab * sizeof(*row));
        for (uint32_t t = 0; t + 1 < N_TOKEN; t++) {
            assert_int_equal(ft_session_feed(s, &drawn[t], 1, row, &err), FT_OK);
        }
        assert_same_bits(methods[i].name, row, want, n_vocab);
        assert_same_bits(methods[i].name, ft_session_logits(s), want, n_vocab);
        /* a token that waits to be evaluated comes before those given */
        prompt_read(s, id, N_PROMPT);
        tokens_drawn(s, drawn, 3);
        assert_int_equal(ft_session_feed(s, &drawn[3], 1, row, &err), FT_OK);
        float *mixed = logits_copy(s);
        prompt_read(s, id, N_PROMPT);
        for (uint32_t t = 0; t < 4; t++) {
            assert_int_equal(ft_session_feed(s, &drawn[t], 1, row, &err), FT_OK);
        }
        assert_same_bits(methods[i].name, mixed, row, n_vocab);
        test_free(mixed);
        test_free(row);
        test_free(want);
        ft_session_free(s);
    }
    pair_close(&pair);
}

/* ---- no allocation while decoding ---- */

static void test_no_allocation(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[2]);
    ft_token id[N_PROMPT], token;
    ids_random(id, N_PROMPT, pair.target, 14);
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        ft_session *s = session_for(&pair, &methods[i], 2);
        prompt_read(s, id, N_PROMPT);
        tokens_drawn(s, &token, 1);
        tokens_drawn(s, &token, 1);
        uint64_t before = ft_alloc_count();
        for (uint32_t t = 2; t < 100; t++) {
            tokens_drawn(s, &token, 1);
        }
        assert_int_equal(ft_alloc_count(), before);
        ft_session_free(s);
    }
    pair_close(&pair);
}

/* ---- limits ---- */

static void test_token_limit(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    struct ft_report report;
    ft_token id[40], drawn[5], token = -7;
    ids_random(id, 40, pair.target, 15);
    params.n_thread = 1;
    params.n_predict = 5;
    ft_session *s = session_made(pair.target, NULL, &params);
    for (int round = 0; round < 2; round++) { /* the limit is each prompt's */
        prompt_read(s, id, 40);
        tokens_drawn(s, drawn, 5);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(ft_session_next(s, &token, &err), FT_LIMIT);
            assert_non_null(strstr(err.text, "token limit"));
            assert_int_equal(token, -7);
        }
        ft_session_report(s, &report);
        assert_int_equal(report.n_generated, 5);
        assert_int_equal(report.n_fallback, 0); /* asked for, so nothing to say */
    }
    prompt_read(s, id, 40); /* given tokens count as well */
    assert_int_equal(ft_session_feed(s, id, 6, NULL, &err), FT_LIMIT);
    assert_int_equal(ft_session_feed(s, id, 4, NULL, &err), FT_OK);
    tokens_drawn(s, drawn, 1);
    assert_int_equal(ft_session_next(s, &token, &err), FT_LIMIT);
    ft_session_free(s);
    params.n_predict = 0;
    s = session_made(pair.target, NULL, &params);
    prompt_read(s, id, 40);
    assert_int_equal(ft_session_next(s, &token, &err), FT_LIMIT);
    ft_session_free(s);
    pair_close(&pair);
}

/* Seven positions are left: seven tokens are evaluated, and an eighth is drawn behind the last of
 * them. */
static void test_context_end(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    struct ft_report report;
    ft_token id[40], drawn[8], token;
    ids_random(id, 40, pair.target, 16);
    params.n_thread = 1;
    params.n_ctx = 47;
    ft_session *s = session_made(pair.target, NULL, &params);
    prompt_read(s, id, 40);
    tokens_drawn(s, drawn, 8);
    ft_session_report(s, &report);
    assert_int_equal(report.n_fallback, 0);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(ft_session_next(s, &token, &err), FT_LIMIT);
        assert_non_null(strstr(err.text, "full at position 47"));
    }
    ft_session_report(s, &report);
    assert_int_equal(report.n_fallback, 1);
    assert_true(report_says(s, "stopped: the context of the target is full at position 47"));
    ft_session_free(s);
    pair_close(&pair);
}

/* A strict run does not begin an answer that the context may cut: 8 tokens fit, the last one unread. */
static void test_strict_context_end(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    ft_token id[40], drawn[8], token;
    ids_random(id, 40, pair.target, 16);
    params.n_thread = 1;
    params.n_ctx = 47;
    params.is_strict = true;
    params.n_predict = 9;
    ft_session *s = session_made(pair.target, NULL, &params);
    assert_int_equal(ft_session_prompt(s, id, 40, 0, &err), FT_UNSUP);
    assert_non_null(strstr(err.text, "room for 8 of the 9 tokens"));
    ft_session_free(s);
    params.n_predict = 8;
    s = session_made(pair.target, NULL, &params);
    prompt_read(s, id, 40);
    tokens_drawn(s, drawn, 8);
    assert_int_equal(ft_session_next(s, &token, &err), FT_LIMIT);
    ft_session_free(s);
    pair_close(&pair);
}

static void test_no_prompt(void **state) {
    (void)state;
    struct pair pair = pair_made(&archs[0]);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    const uint32_t *list;
    const float *score;
    ft_token id = 1;
    ft_session *s = session_made(pair.target, NULL, &params);
    assert_null(ft_session_logits(s));
    assert_int_equal(ft_session_next(s, &id, &err), FT_ARG);
    assert_int_equal(ft_session_feed(s, &id, 1, NULL, &err), FT_ARG);
    assert_int_equal(ft_session_kept(s, FT_STAGE_KV, 0, 0, &list), 0);
    assert_int_equal(ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list), 0);
    assert_int_equal(ft_session_scores(s, &score), 0);
    prompt_read(s, &id, 1); /* the shortest prompt there is */
    assert_int_equal(ft_session_kept(s, FT_STAGE_KV, 0, 0, &list), 1);
    assert_int_equal(ft_session_kept(s, FT_STAGE_KV, 3, 0, &list),
                     0); /* no such layer, no such head */
    assert_int_equal(ft_session_kept(s, FT_STAGE_KV, 0, 2, &list), 0);
    assert_int_equal(ft_session_scores(s, &score), 0); /* nothing was dropped */
    ft_session_free(s);
    ft_session_free(NULL);
    pair_close(&pair);
}

/* ---- cancelling from another thread ---- */

enum { N_LONG = 12000, WAIT_MS = 100, CANCEL_MS = 200 };

struct cancelling {
    ft_session *session;
    enum ft_phase phase; /* wait until this phase has begun */
    atomic_bool has_begun;
    int64_t cancelled_us;
};

static void phase_seen(enum ft_phase phase, uint64_t done, uint64_t total, void *user) {
    struct cancelling *c = user;
    (void)done;
    (void)total;
    if (phase == c->phase) {
        atomic_store(&c->has_begun, true);
    }
}

static void *cancel_later(void *user) {
    struct cancelling *c = user;
    while (!atomic_load(&c->has_begun)) {
        usleep(1000);
    }
    usleep(WAIT_MS * 1000);
    c->cancelled_us = ft_time_us();
    ft_session_cancel(c->session);
    return NULL;
}

static void check_cancel(const ft_model *model, const ft_model *draft, const char *kv,
                         enum ft_phase phase, const ft_token *id) {
    struct cancelling c = { .phase = phase };
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err = { .code = FT_OK };
    ft_token token;
    pthread_t thread;
    params.kv = kv;
    params.n_thread = 2;
    params.n_predict = 4;
    params.progress = phase_seen;
    params.progress_user = &c;
    ft_session *s = c.session = session_made(model, draft, &params);
    assert_int_equal(pthread_create(&thread, NULL, cancel_later, &c), 0);
    ft_status status = ft_session_prompt(s, id, N_LONG, 0, &err);
    int64_t end = ft_time_us();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(status, FT_CANCELLED);
    assert_string_equal(err.text, "cancelled");
    print_message("cancelled within %.0f ms\n", (double)(end - c.cancelled_us) / 1000);
    assert_true(end - c.cancelled_us < CANCEL_MS * 1000);
    assert_null(ft_session_logits(s));
    assert_int_equal(s->lane.rows.now, 0); /* everything was given back */
    assert_int_equal(s->lane.activation.now, 0);
    assert_int_equal(ft_session_next(s, &token, &err), FT_CANCELLED);
    prompt_read(s, id, 100);
    tokens_drawn(s, &token, 1);
    ft_session_free(s);
}

static void test_cancel(void **state) {
    (void)state;
    ft_model *model = model_made(
        "long",
        "--layers 6 --embd 256 --heads 8 --kv-heads 8 --head-dim 64 --ff 512 --vocab 300 "
        "--ctx 16384 --type f16",
        FT_LOAD_FULL);
    ft_model *thin =
        model_made("thin",
                   "--layers 1 --embd 32 --heads 2 --kv-heads 1 --head-dim 16 --ff 32 --vocab 300 "
                   "--ctx 16384",
                   FT_LOAD_FULL);
    ft_token *id = test_malloc(N_LONG * sizeof(*id));
    ids_random(id, N_LONG, model, 17);
    check_cancel(model, NULL, NULL, FT_PHASE_PREFILL, id);
    check_cancel(model, model, "speckv:keep=256,lookahead=4", FT_PHASE_DRAFT, id);
    check_cancel(model, thin, "speckv:keep=256,lookahead=4", FT_PHASE_PREFILL, id);
    ft_model_close(thin);
    test_free(id);
    ft_model_close(model);
}

int main(void) {
    struct CMUnitTest tests[] = {
        { .name = "threads, llama",
          .test_func = test_threads,
          .initial_state = (void *)(uintptr_t)&archs[0] },
        { .name = "threads, qwen2",
          .test_func = test_threads,
          .initial_state = (void *)(uintptr_t)&archs[1] },
        { .name = "threads, qwen3",
          .test_func = test_threads,
          .initial_state = (void *)(uintptr_t)&archs[2] },
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_penalty_counts_prompt),
        cmocka_unit_test(test_feed),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_token_limit),
        cmocka_unit_test(test_context_end),
        cmocka_unit_test(test_strict_context_end),
        cmocka_unit_test(test_no_prompt),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
