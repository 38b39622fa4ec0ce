/* SPDX-License-Identifier: Apache-2.0 */
/* prop_identity.c - runs that must be the same run: what SpecKV, SpecPC and their cascade are when nothing is dropped,
 * when everything is seen, and when the same rows or tokens are given by other means.
 *
 *     prop_identity [-s SEED] [-i CASE] [-n CASES]     -i replays one case
 *
 * A case draws a pair of models (three architectures, several types; every 16th case the shipped pair), a prompt and
 * the parameters of the methods; every property below is checked on it.  P1..P9 are the names of the specification.
 */
#include "engine_fixture.h"

enum { N_MAX = 700, N_FAMILY = 4, SHIPPED = 3, N_NEXT = 8, CASES = 200 };

static uint64_t seed = 1;
static uint32_t case_now;
static bool is_done;

static struct pair {
    ft_model *target, *draft;
} pairs[N_FAMILY];

/* One case: a pair, a prompt, and parameters in range. */
struct run {
    const struct pair *pair;
    ft_token id[N_MAX];
    uint32_t n, n_thread, window, kernel, lookahead, keep, pc_window, pc_keep;
    const char *kv_type, *pool, *reduce;
};

static void replay_told(void) {
    if (!is_done) {
        fprintf(stderr, "replay: prop_identity -s %llu -i %u\n", (unsigned long long)seed, case_now);
    }
}

/* ---- cases ---- */

static uint32_t between(uint64_t *rng, uint32_t low, uint32_t high) { return low + oracle_below(rng, high - low + 1); }

static void run_draw(struct run *run, uint32_t index) {
    static const char *const kv_types[] = { "f16", "f32", "bf16" }, *const folds[] = { "max", "mean" };
    uint64_t rng = seed * UINT64_C(1000003) + index;
    bool is_shipped = index % 16 == 15;
    *run = (struct run){ .pair = &pairs[is_shipped ? SHIPPED : oracle_below(&rng, SHIPPED)] };
    run->n = between(&rng, 40, is_shipped ? 200 : N_MAX);
    ids_random(run->id, run->n, run->pair->target, oracle_next(&rng));
    run->n_thread = between(&rng, 1, 2);
    run->kv_type = kv_types[oracle_below(&rng, 3)];
    run->pool = folds[oracle_below(&rng, 2)];
    run->reduce = folds[oracle_below(&rng, 2)];
    run->window = between(&rng, 1, run->n - 4);
    run->kernel = 1 + 2 * oracle_below(&rng, 8);
    run->lookahead = between(&rng, 1, 40);
    run->keep = between(&rng, run->window + 1, run->n - 2);
    run->pc_window = between(&rng, 1, run->n - 3);
    run->pc_keep = between(&rng, run->pc_window + 1, run->n - 1);
}

struct spec {
    char text[256];
};

/* speckv of this case with another budget and pattern */
static struct spec speckv(const struct run *run, uint32_t keep, uint32_t prefill_window, uint32_t prefill_vertical) {
    struct spec spec;
    snprintf(spec.text, sizeof(spec.text),
             "speckv:keep=%u,window=%u,kernel=%u,pool=%s,reduce=%s,lookahead=%u,prefill_window=%u,prefill_vertical=%u",
             keep, run->window, run->kernel, run->pool, run->reduce, run->lookahead, prefill_window, prefill_vertical);
    return spec;
}

static struct spec specpc(const struct run *run, uint32_t keep, const char *more) {
    struct spec spec;
    snprintf(spec.text, sizeof(spec.text), "specpc:keep=%u,window=%u,kernel=%u,pool=%s,reduce=%s%s", keep,
             run->pc_window, run->kernel, run->pool, run->reduce, more);
    return spec;
}

static void draft_seen(enum ft_phase phase, uint64_t done, uint64_t total, void *user) {
    (void)done;
    (void)total;
    *(bool *)user |= phase == FT_PHASE_DRAFT;
}

static ft_session *session_for(const struct run *run, const char *prompt, const char *kv, bool *has_drafted) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.kv_type = run->kv_type;
    params.n_thread = run->n_thread;
    params.n_predict = N_NEXT + 1;
    params.progress = has_drafted ? draft_seen : NULL;
    params.progress_user = has_drafted;
    return session_made(run->pair->target, run->pair->draft, &params);
}

/* ---- comparisons ---- */

/* Logits behind the prompt and N_NEXT greedy tokens. */
struct answer {
    float *logits;
    uint32_t n_vocab;
    ft_token id[N_NEXT];
};

static struct answer answer_of(ft_session *s) {
    struct answer answer = { .logits = logits_copy(s), .n_vocab = n_vocab_of(s) };
    tokens_drawn(s, answer.id, N_NEXT);
    return answer;
}

static struct answer answer_to(ft_session *s, const ft_token *id, uint32_t n) {
    prompt_read(s, id, n);
    return answer_of(s);
}

static void assert_same_answer(const char *what, struct answer *got, const struct answer *want) {
    assert_same_bits(what, got->logits, want->logits, want->n_vocab);
    assert_memory_equal(got->id, want->id, sizeof(want->id));
    test_free(got->logits);
}

static struct answer answer_dense(const struct run *run, const ft_token *id, uint32_t n) {
    ft_session *s = session_for(run, NULL, NULL, NULL);
    struct answer answer = answer_to(s, id, n);
    ft_session_free(s);
    return answer;
}

static void assert_kept(const ft_session *s, enum ft_stage stage, uint32_t n) {
    for (uint32_t l = 0; l < s->lane.n_layer; l++) {
        for (uint32_t h = 0; h < s->lane.hp->n_head_kv; h++) {
            const uint32_t *list;
            assert_int_equal(ft_session_kept(s, stage, l, h, &list), n);
            for (uint32_t j = 0; j < n; j++) {
                assert_int_equal(list[j], j);
            }
        }
    }
}

/* ---- P1, P8: nothing to drop ---- */

static void check_within(const struct run *run, const struct answer *dense) {
    uint32_t keep = run->n + case_now % 3;
    struct spec kv = speckv(run, keep, 128, keep), prompt = specpc(run, keep, "");
    for (int stage = 0; stage < 2; stage++) {
        bool has_drafted = false;
        ft_session *s = session_for(run, stage ? prompt.text : NULL, stage ? NULL : kv.text, &has_drafted);
        struct ft_report report;
        struct answer answer = answer_to(s, run->id, run->n);
        assert_same_answer("within keep", &answer, dense);
        ft_session_report(s, &report);
        assert_true(report_says(s, "dense"));
        assert_false(has_drafted);
        assert_int_equal(report.n_draft_text, 0);
        assert_int_equal(report.draft_kv_bytes_peak, 0);
        assert_string_equal(report.kv_method, "dense");
        assert_string_equal(report.prompt_method, "dense");
        ft_session_free(s);
    }
}

/* The stages run although they have nothing to drop: SpecPC keeps all n tokens, bit for bit the dense run. */
static void check_all_tokens(const struct run *run, const struct answer *dense) {
    struct spec prompt = specpc(run, run->n, case_now % 2 ? ",positions=original" : "");
    ft_session *s = session_for(run, prompt.text, NULL, NULL);
    struct ft_report report;
    s->is_shortcut_off = true;
    struct answer answer = answer_to(s, run->id, run->n);
    assert_same_answer("specpc keeps all", &answer, dense);
    assert_kept(s, FT_STAGE_PROMPT, run->n);
    ft_session_report(s, &report);
    assert_true(report.draft_kv_bytes_peak > 0);
    assert_string_equal(report.prompt_method, "specpc");
    ft_session_free(s);
}

static double worst_kept, worst_refed;

/* P2: SpecKV keeps all n - 1 rows.  What differs from the dense run is that the last token is computed alone (as a
 * decode step, other matrix and attention kernels) and not as the last row of a chunk: exactly what feeding it behind
 * a dense prompt of n - 1 tokens does.  The bound is therefore the distance that this dense run shows, and the logits
 * are those of this run. */
static void check_all_rows(const struct run *run, const struct answer *dense) {
    struct ft_error err;
    struct answer want = { .logits = NULL };
    ft_session *s = session_for(run, NULL, NULL, NULL);
    prompt_read(s, run->id, run->n - 1);
    assert_int_equal(ft_session_feed(s, &run->id[run->n - 1], 1, NULL, &err), FT_OK);
    want = answer_of(s);
    ft_session_free(s);
    for (int is_off = 0; is_off < 2; is_off++) {
        struct spec kv = speckv(run, is_off ? run->n + 5 : run->n - 1, 2048, 2048);
        s = session_for(run, NULL, kv.text, NULL);
        s->is_shortcut_off = is_off;
        prompt_read(s, run->id, run->n);
        assert_kept(s, FT_STAGE_KV, run->n - 1);
        struct answer answer = answer_of(s);
        double d = logp_distance(answer.logits, want.logits, want.n_vocab);
        if (d > worst_kept) printf("case %u n %u L %u d %g\n", case_now, run->n, run->lookahead, d);
        worst_kept = fmax(worst_kept, d);
        test_free(answer.logits);
        ft_session_free(s);
    }
    worst_refed = fmax(worst_refed, logp_distance(dense->logits, want.logits, want.n_vocab));
    test_free(want.logits);
}

static void check(uint32_t index) {
    static struct run run;
    case_now = index;
    run_draw(&run, index);
    struct answer dense = answer_dense(&run, run.id, run.n);
    check_within(&run, &dense);
    check_all_tokens(&run, &dense);
    check_all_rows(&run, &dense);
    test_free(dense.logits);
}

#define TARGET " --layers 3 --embd 128 --heads 4 --kv-heads 2 --ff 192 --vocab 300 --ctx 2048 --sharpness 3 "
#define DRAFT " --layers 2 --embd 64 --heads 4 --kv-heads 1 --ff 96 --vocab 300 --ctx 2048 --sharpness 3 --seed 7 "

int main(int argc, char **argv) {
    uint32_t n_case = CASES, only = UINT32_MAX;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long long value = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "-s")) {
            seed = value;
        } else if (!strcmp(argv[i], "-n")) {
            n_case = (uint32_t)value;
        } else if (!strcmp(argv[i], "-i")) {
            only = (uint32_t)value;
        }
    }
    atexit(replay_told);
    pairs[0].target = model_made("llama-target", "--arch llama --type f32" TARGET, FT_LOAD_FULL);
    pairs[0].draft = model_made("llama-draft", "--arch llama --type f16" DRAFT, FT_LOAD_FULL);
    pairs[1].target = model_made("qwen2-target", "--arch qwen2 --type q8_0" TARGET, FT_LOAD_FULL);
    pairs[1].draft = model_made("qwen2-draft", "--arch qwen2 --type q4_0" DRAFT, FT_LOAD_FULL);
    pairs[2].target = model_made("qwen3-target", "--arch qwen3 --type f16" TARGET, FT_LOAD_FULL);
    pairs[2].draft = model_made("qwen3-draft", "--arch qwen3 --type f32" DRAFT, FT_LOAD_FULL);
    pairs[SHIPPED].target = model_shipped("target");
    pairs[SHIPPED].draft = model_shipped("draft");
    for (uint32_t i = only == UINT32_MAX ? 0 : only; i < n_case; i++) {
        check(i);
        if (only != UINT32_MAX) {
            break;
        }
    }
    for (uint32_t i = 0; i < N_FAMILY; i++) {
        ft_model_close(pairs[i].target);
        ft_model_close(pairs[i].draft);
    }
    printf("prop_identity: seed %llu, %u cases; kept %g refed %g\n", (unsigned long long)seed, n_case, worst_kept,
           worst_refed);
    is_done = true;
    return 0;
}
