/* SPDX-License-Identifier: Apache-2.0 */
/* test_session.c - the timeline: same bits for any thread count, sessions used again, limits, cancelling. */
#include <pthread.h>
#include <unistd.h>

#include "engine_fixture.h"

enum { N_PROMPT = 1500, N_TOKEN = 64, CANCEL_MS = 200 };

#define TARGET "--layers 3 --embd 128 --heads 4 --kv-heads 2 --ff 192 --vocab 300 --ctx 4096 --sharpness 3 "
#define DRAFT "--layers 2 --embd 64 --heads 4 --kv-heads 1 --ff 96 --vocab 300 --ctx 4096 --sharpness 3 --seed 7 "

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
    { "speckv, vertical-slash", NULL, "speckv:keep=150,lookahead=40,prefill_window=128,prefill_vertical=64" },
    { "speckv, decode over two splits", NULL, "speckv:keep=1100,lookahead=20,pool=mean,reduce=mean" },
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

static ft_session *session_for(const struct pair *pair, const struct method *method, uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = method->prompt;
    params.kv = method->kv;
    params.n_thread = n_thread;
    params.n_predict = 2 * N_TOKEN;
    return session_made(pair->target, pair->draft, &params);
}

/* ---- what a run shows ---- */

struct outcome {
    float *first, *last;   /* [n_vocab] behind the prompt, behind the tokens */
    uint32_t *kept;        /* per stage, layer, head: the count, then the list */
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

static void assert_same_outcome(const char *what, const struct outcome *got, const struct outcome *want, uint32_t n) {
    assert_same_bits(what, got->first, want->first, n);
    assert_int_equal(got->n_kept, want->n_kept);
    assert_memory_equal(got->kept, want->kept, want->n_kept * sizeof(*want->kept));
    assert_memory_equal(got->id, want->id, sizeof(want->id));
    assert_same_bits(what, got->last, want->last, n);
}

/* ---- determinism ---- */

static void check_threads(const struct pair *pair, const struct method *method, const ft_token *id) {
    struct outcome want;
    for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
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
        check_threads(&pair, &methods[i], id);
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
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        check_reuse(&pair, &methods[i], id);
    }
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

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_threads, (void *)(uintptr_t)&archs[0]),
        cmocka_unit_test_prestate(test_threads, (void *)(uintptr_t)&archs[1]),
        cmocka_unit_test_prestate(test_threads, (void *)(uintptr_t)&archs[2]),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_feed),
        cmocka_unit_test(test_no_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
