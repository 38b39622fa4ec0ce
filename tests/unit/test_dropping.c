/* SPDX-License-Identifier: Apache-2.0 */
/* test_dropping.c - runs of the KV methods that need no draft: which rows they keep, what the model
 * then answers, and what that holds in memory, against the naive oracle in double.
 *
 * The oracle reads the same weights (F32 models, F32 rows).  The first logits are those of a dense
 * run, as rows leave behind the prompt; a token fed behind it sees what was kept.
 */
#include "engine_fixture.h"
#include "forward_oracle.h"

enum { N_SHORT = 260, N_LONG = 600, N_NEXT = 6, HEADS = 8 };

/* As in test_compress.c: floats against double over three layers. */
static const double LOGP_MAX = 2e-4;
/* Scores that floats cannot tell apart may be chosen in either order. */
static const double TIE = 1e-4;

#define TARGET " --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "

static const struct arch {
    const char *name, *arguments;
    uint32_t n;
} archs[] = {
    { "llama", "--arch llama --layers 3" TARGET, N_SHORT },
    { "qwen3", "--arch qwen3 --layers 3" TARGET, N_SHORT },
    { "one layer", "--arch llama --layers 1" TARGET, N_SHORT },
    { "two chunks", "--arch qwen2 --layers 2" TARGET, N_LONG },
};

static ft_session *session_for(const ft_model *model, const char *kv, const char *kv_type,
                               uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.kv = kv;
    params.kv_type = kv_type;
    params.n_thread = n_thread;
    params.n_predict = N_NEXT + 1;
    return session_made(model, NULL, &params);
}

/* ---- what is kept, and what is answered ---- */

enum kind { SNAPKV, H2O, TOVA, STREAMING, KNORM, RANDOM };

static const struct kv_case {
    const char *spec;
    enum kind kind;
    uint32_t keep, window, kernel;
    bool is_pool_max, is_group_max;
    uint64_t seed;
} kv_cases[] = {
    { "snapkv:keep=64,window=16,kernel=5", SNAPKV, 64, 16, 5, true, false, 0 },
    { "snapkv:keep=40,window=1,kernel=3,pool=mean", SNAPKV, 40, 1, 3, false, false, 0 },
    { "snapkv:keep=90,window=30,kernel=1,group=max", SNAPKV, 90, 30, 1, true, true, 0 },
    { "h2o:keep=48,window=8", H2O, 48, 8, 1, true, false, 0 },
    { "h2o", H2O, 1024, 32, 1, true, false, 0 }, /* nothing to drop */
    { "tova:keep=33", TOVA, 33, 1, 1, true, false, 0 },
    { "streamingllm:keep=50,sinks=3", STREAMING, 50, 47, 1, true, false, 0 },
    { "knorm:keep=60,window=7", KNORM, 60, 7, 1, true, false, 0 },
    { "random:keep=30,seed=5", RANDOM, 30, 0, 1, true, false, 5 },
};

static uint64_t mixed(uint64_t x) { /* SplitMix64 adds before it mixes */
    return oracle_next(&x);
}

/* Scores of head h of a layer over n_col rows. */
static void oracle_scores(const struct kv_case *c, const struct oracle_layer *x, uint32_t l,
                          uint32_t h, uint32_t n_col, double *out) {
    uint32_t group = x->n_head / x->n_head_kv, first = h * group, n_voter = group;
    double votes[N_LONG], joined[N_LONG] = { 0 };
    uint32_t voter = c->kind == H2O ? 0 : x->n_q - c->window;
    if (c->kind == TOVA) {
        first = 0;
        n_voter = x->n_head;
    }
    for (uint32_t g = first; c->kind <= TOVA && g < first + n_voter; g++) {
        oracle_votes(x, g, voter, n_col, votes);
        for (uint32_t j = 0; j < n_col; j++) {
            joined[j] =
                c->is_group_max ? fmax(joined[j], votes[j]) : joined[j] + votes[j] / n_voter;
        }
    }
    for (uint32_t j = 0; c->kind > TOVA && j < n_col; j++) {
        const float *k = x->k + ((size_t)h * x->n_q + j) * x->d;
        double sum = 0;
        for (uint32_t d = 0; d < x->d; d++) {
            sum += (double)k[d] * (double)k[d];
        }
        uint64_t value = mixed(mixed(mixed(c->seed) ^ mixed((uint64_t)l << 32 | h)) ^ j);
        joined[j] = c->kind == STREAMING ? n_col - (double)j
                    : c->kind == KNORM   ? 1 / sum
                                         : (double)(value >> 11) * 0x1p-53;
    }
    oracle_pool(joined, n_col, c->kernel, c->is_pool_max, out);
}

/* What the engine kept in head h of layer l is the oracle's choice.  list: [n of the prompt] */
static uint32_t check_rows(const struct kv_case *c, const ft_session *s, const struct forward *f,
                           uint32_t l, uint32_t h, uint32_t *list) {
    const struct ft_hparams *hp = &f->model->hp;
    struct oracle_layer layer = { .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                  .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = f->n,
                                  .d = hp->head_dim };
    uint32_t n_kept = FT_MIN(c->keep, f->n), n_col = f->n - c->window, ranked[N_LONG];
    uint32_t n_free = FT_MIN(n_kept - c->window, n_col), n_got;
    double score[N_LONG];
    uint8_t is_chosen[N_LONG] = { 0 };
    const uint32_t *got;
    n_got = ft_session_kept(s, FT_STAGE_KV, l, h, &got);
    assert_int_equal(n_got, n_kept);
    memcpy(list, got, n_got * sizeof(*got));
    oracle_scores(c, &layer, l, h, n_col, score);
    oracle_rank(score, n_col, ranked);
    for (uint32_t j = 0; j < n_free; j++) {
        is_chosen[ranked[j]] = 1;
    }
    for (uint32_t j = 0; j < n_free; j++) {
        double edge = score[ranked[n_free - 1]];
        if (list[j] >= n_col || (!is_chosen[list[j]] && fabs(score[list[j]] - edge) > TIE * edge)) {
            fail_msg("%s: layer %u head %u kept %u with score %g, the last chosen one has %g",
                     c->spec, l, h, list[j], score[list[j]], edge);
        }
    }
    for (uint32_t j = n_free; j < n_kept; j++) {
        assert_int_equal(list[j], f->n - n_kept + j);
    }
    return n_kept;
}

static void assert_near(const char *what, const float *got, const double *want, uint32_t n) {
    float *row = test_malloc(n * sizeof(*row));
    for (uint32_t t = 0; t < n; t++) {
        row[t] = (float)want[t];
    }
    double d = logp_distance(got, row, n);
    if (!(d <= LOGP_MAX)) {
        fail_msg("%s: |delta log p| is %g, at most %g", what, d, LOGP_MAX);
    }
    test_free(row);
}

static void check_case(const struct kv_case *c, const ft_model *model, const struct forward *f,
                       const ft_token *id) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    uint32_t n_list = hp->n_layer * hp->n_head_kv, *lists[HEADS], counts[HEADS];
    struct ft_error err;
    ft_session *s = session_for(model, c->spec, "f32", 2);
    prompt_read(s, id, f->n);
    assert_near(c->spec, ft_session_logits(s), f->logits, hp->n_vocab);
    for (uint32_t at = 0; at < n_list; at++) {
        lists[at] = test_malloc(N_LONG * sizeof(**lists));
        counts[at] = check_rows(c, s, f, at / hp->n_head_kv, at % hp->n_head_kv, lists[at]);
    }
    double *logits = test_malloc(hp->n_vocab * sizeof(*logits));
    assert_int_equal(ft_session_feed(s, &id[3], 1, NULL, &err), FT_OK);
    forward_step_ragged(f, id[3], (ft_pos)f->n, (const uint32_t *const *)lists, counts, logits);
    assert_near(c->spec, ft_session_logits(s), logits, hp->n_vocab);
    test_free(logits);
    for (uint32_t at = 0; at < n_list; at++) {
        test_free(lists[at]);
    }
    ft_session_free(s);
}

static void test_oracle(void **state) {
    const struct arch *arch = *state;
    ft_model *model = model_made("target", arch->arguments, FT_LOAD_PLAIN);
    ft_token id[N_LONG];
    ft_pos pos[N_LONG];
    ids_random(id, arch->n, model, 21);
    for (uint32_t t = 0; t < arch->n; t++) {
        pos[t] = (ft_pos)t;
    }
    struct forward f = forward_run(model, id, pos, arch->n, NULL, NULL);
    for (size_t i = 0; i < FT_COUNT(kv_cases); i++) {
        check_case(&kv_cases[i], model, &f, id);
    }
    forward_done(&f);
    ft_model_close(model);
}

/* ---- every such method ---- */

static bool is_draftless(const struct ft_method *method) {
    return method->act == FT_RETAIN && method->score && !method->needs_draft;
}

/* Logits behind the prompt and N_NEXT greedy tokens. */
struct answer {
    float *logits, *later;
    ft_token id[N_NEXT];
};

static struct answer answer_of(ft_session *s) {
    struct answer answer = { .logits = logits_copy(s) };
    tokens_drawn(s, answer.id, N_NEXT);
    answer.later = logits_copy(s);
    return answer;
}

static void answer_done(struct answer *answer) {
    test_free(answer->logits);
    test_free(answer->later);
}

static void assert_same_answer(const char *what, ft_session *s, const struct answer *want) {
    struct answer got = answer_of(s);
    assert_same_bits(what, got.logits, want->logits, n_vocab_of(s));
    assert_same_bits(what, got.later, want->later, n_vocab_of(s));
    assert_memory_equal(got.id, want->id, sizeof(want->id));
    answer_done(&got);
}

/* Nothing to drop, and the stage runs all the same: bit for bit the dense run, which reads a layer
 * in one graph. */
static void test_all_kept(void **state) {
    (void)state;
    ft_model *model = model_made("q8", "--layers 3 --type q8_0" TARGET, FT_LOAD_FULL);
    ft_token id[N_LONG];
    ids_random(id, N_LONG, model, 4);
    for (uint32_t n = 100; n <= N_LONG; n += N_LONG - 100) {
        ft_session *dense = session_for(model, NULL, NULL, 2);
        prompt_read(dense, id, n);
        struct answer want = answer_of(dense);
        ft_session_free(dense);
        for (uint32_t i = 0; i < ft_catalogue_count(); i++) {
            char spec[64];
            struct ft_report report;
            snprintf(spec, sizeof(spec), "%s:keep=%u", ft_catalogue(i)->name, n);
            if (!is_draftless(ft_catalogue(i))) {
                continue;
            }
            ft_session *s = session_for(model, spec, NULL, 2);
            s->is_shortcut_off = true;
            prompt_read(s, id, n);
            assert_string_equal(report_of(s, &report)->kv_method, ft_catalogue(i)->name);
            assert_int_equal(report.n_kv_kept, n);
            assert_same_answer(spec, s, &want);
            ft_session_free(s);
        }
        answer_done(&want);
    }
    ft_model_close(model);
}

/* The same bits with one thread and with two. */
static void test_threads(void **state) {
    (void)state;
    static const char *const specs[] = { "snapkv:keep=70,group=max", "h2o:keep=70", "tova:keep=9",
                                         "knorm:keep=70" };
    ft_model *model = model_made("q8", "--layers 3 --type q8_0" TARGET, FT_LOAD_FULL);
    ft_token id[N_LONG];
    ids_random(id, N_LONG, model, 9);
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        ft_session *one = session_for(model, specs[i], NULL, 1);
        prompt_read(one, id, N_LONG);
        struct answer want = answer_of(one);
        ft_session_free(one);
        ft_session *two = session_for(model, specs[i], NULL, 2);
        prompt_read(two, id, N_LONG);
        assert_same_answer(specs[i], two, &want);
        ft_session_free(two);
        answer_done(&want);
    }
    ft_model_close(model);
}

/* Rows that are dropped are gone: bytes held are those of the rows, at most one layer's full rows
 * came on top, and no draft held any. */
static void test_bytes(void **state) {
    (void)state;
    ft_model *model = model_made("f32", "--layers 3" TARGET, FT_LOAD_FULL);
    ft_token id[N_LONG];
    ids_random(id, N_LONG, model, 9);
    for (uint32_t i = 0; i < ft_catalogue_count(); i++) {
        char spec[64];
        struct ft_report report;
        struct ft_estimate said;
        struct ft_error err;
        struct ft_session_params params = ft_session_defaults();
        snprintf(spec, sizeof(spec), "%s:keep=50", ft_catalogue(i)->name);
        if (!is_draftless(ft_catalogue(i))) {
            continue;
        }
        ft_session *s = session_for(model, spec, NULL, 1);
        uint64_t token = ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv));
        prompt_read(s, id, N_LONG);
        report_of(s, &report);
        assert_int_equal(report.kv_bytes, 50 * token);
        assert_int_equal(report.kv_bytes_peak, 50 * token + N_LONG * token / 3);
        assert_int_equal(report.kv_bytes_full, N_LONG * token);
        assert_int_equal(ft_kv_bytes(s->lane.kv), 50 * token);
        assert_int_equal(report.n_kv_kept, 50);
        assert_int_equal(report.draft_us, 0);
        assert_int_equal(report.n_draft_text + report.draft_kv_bytes_peak, 0);
        params.kv = spec;
        params.n_predict = N_NEXT + 1;
        assert_int_equal(ft_estimate(model, NULL, &params, N_LONG, &said, &err), FT_OK);
        assert_int_equal(said.kv_bytes, report.kv_bytes);
        assert_int_equal(said.kv_bytes_peak, report.kv_bytes_peak);
        assert_int_equal(said.draft_kv_bytes_peak, 0);
        assert_in_range(report.compute_bytes_peak, said.compute_bytes / 4, said.compute_bytes);
        ft_session_free(s);
    }
    ft_model_close(model);
}

/* A draft that was given is not read for a method that has no use for it. */
static void test_draft_idle(void **state) {
    (void)state;
    ft_model *model = model_made("q8", "--layers 3 --type q8_0" TARGET, FT_LOAD_FULL);
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    ft_token id[N_SHORT];
    ids_random(id, N_SHORT, model, 2);
    params.kv = "snapkv:keep=40";
    params.n_predict = N_NEXT;
    ft_session *s = session_made(model, model, &params);
    prompt_read(s, id, N_SHORT);
    report_of(s, &report);
    assert_int_equal(report.draft_us, 0);
    assert_int_equal(report.draft_kv_bytes_peak + s->draft_work.k, 0);
    assert_int_equal(report.n_fallback, 0);
    ft_session_free(s);
    ft_model_close(model);
}

int main(void) {
    struct CMUnitTest tests[FT_COUNT(archs) + 4] = {
        cmocka_unit_test(test_all_kept),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_draft_idle),
    };
    for (size_t i = 0; i < FT_COUNT(archs); i++) {
        tests[i + 4] = (struct CMUnitTest){ .name = archs[i].name,
                                            .test_func = test_oracle,
                                            .initial_state = (void *)(uintptr_t)&archs[i] };
    }
    return cmocka_run_group_tests_name("rows that leave behind the prompt", tests, NULL, NULL);
}
