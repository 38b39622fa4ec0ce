/* SPDX-License-Identifier: Apache-2.0 */
/* test_specprefill.c - SpecPrefill: its vectors, and a run against the naive oracle in double. */
#include "engine_fixture.h"
#include "forward_oracle.h"

enum { N_HEAD = 4, N_HEAD_KV = 2, D = 2, N = 10, N_LONG = 260, STEPS = 5 };

/* ---- vectors: the formulas of test_baselines.c ---- */

static struct ft_score_output run(const char *spec, uint32_t n_more) {
    static float q[N_HEAD * (N + 2) * D], k[N_HEAD_KV * (N + 2) * D];
    uint32_t n_row = N + n_more;
    struct ft_score_layer layer = { .q = q, .k = k };
    struct ft_score_input in = { .n_prompt = N,
                                 .n_more = n_more,
                                 .n_layer = 1,
                                 .n_head = N_HEAD,
                                 .n_head_kv = N_HEAD_KV,
                                 .d = D,
                                 .layer = &layer };
    struct ft_score_output out;
    struct ft_error err;
    for (uint32_t t = 0; t < n_row; t++) {
        for (uint32_t h = 0; h < N_HEAD_KV; h++) {
            k[(h * n_row + t) * D] = (float)((3 * (t + h)) % 7) - 3;
            k[(h * n_row + t) * D + 1] = (float)((5 * (t + h)) % 4) - 1;
        }
        for (uint32_t g = 0; g < N_HEAD; g++) {
            q[(g * n_row + t) * D] = (float)((t + g) % 3) - 1;
            q[(g * n_row + t) * D + 1] = (float)((2 * t + g) % 5) - 2;
        }
    }
    if (ft_score_arrays(FT_STAGE_PROMPT, spec, &in, &out, &err) != FT_OK) {
        fail_msg("%s: %s", spec, err.text);
    }
    return out;
}

static void expect_near(const char *what, const float *got, const double *want) {
    for (uint32_t j = 0; j < N; j++) {
        if (!(fabs((double)got[j] - want[j]) <= 6e-7)) { /* printed with six decimals */
            fail_msg("%s[%u] is %.7f want %.7f", what, j, (double)got[j], want[j]);
        }
    }
}

static void expect_kept(const char *spec, uint32_t n_more, const uint32_t *want, uint32_t n) {
    struct ft_score_output out = run(spec, n_more);
    assert_int_equal(out.head->n_kept, n);
    for (uint32_t j = 0; j < n; j++) {
        if (out.head->kept[j] != want[j]) {
            fail_msg("%s: kept[%u] is %u, want %u", spec, j, out.head->kept[j], want[j]);
        }
    }
    ft_score_free(&out);
}

static void test_vectors(void **state) {
    (void)state;
    static const double one[N] = { .031647, .044689, .189981, .172111, .176755,
                                   .183815, .244016, .221610, .216163, .084719 };
    static const double three[N] = { .057622, .107555, .166943, .169619, .155826,
                                     .184391, .218754, .201689, .189492, .113726 };
    static const double chunks[N] = { .125435, .125435, .125435, .125435, .190165,
                                      .190165, .190165, .190165, .151609, .151609 };
    struct ft_score_output out = run("specprefill:keep=5,kernel=3,chunk=4,lookahead=1", 0);
    expect_near("one step", out.head->mass, one);
    ft_score_free(&out);
    out = run("specprefill:keep=5,kernel=3,chunk=4,lookahead=3", 2);
    expect_near("three steps", out.head->mass, three);
    expect_near("chunks", out.head->pooled, chunks);
    ft_score_free(&out);
    /* whole chunks, best first; the last one is cut */
    expect_kept("specprefill:keep=4,kernel=3,chunk=4", 2, (uint32_t[]){ 4, 5, 6, 7 }, 4);
    expect_kept("specprefill:keep=5,kernel=3,chunk=4", 2, (uint32_t[]){ 4, 5, 6, 7, 8 }, 5);
    expect_kept("specprefill:keep=8,kernel=3,chunk=4", 2, (uint32_t[]){ 0, 1, 4, 5, 6, 7, 8, 9 },
                8);
    expect_kept("specprefill:keep=2,kernel=3,chunk=1", 2, (uint32_t[]){ 6, 7 }, 2);
}

/* Ready scores: chunks of them alone. */
static void test_scores(void **state) {
    (void)state;
    static const float score[7] = { 0, 3, 1, 1, 5, 0, 2 };
    struct ft_score_input in = { .n_prompt = 7, .score = score };
    struct ft_score_output out;
    struct ft_error err;
    assert_int_equal(
        ft_score_arrays(FT_STAGE_PROMPT, "specprefill:keep=3,chunk=2", &in, &out, &err), FT_OK);
    assert_int_equal(out.head->kept[0], 4); /* means 1.5, 1, 2.5, 2: 4 5, then 6 */
    assert_int_equal(out.head->kept[1], 5);
    assert_int_equal(out.head->kept[2], 6);
    ft_score_free(&out);
}

/* ---- a run ---- */

#define TARGET "--embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "
#define DRAFT TARGET "--layers 3 --seed 7 "

static void drop(void *user, const struct forward *f, uint32_t l, uint8_t *sees) {
    const uint8_t *is_kept = user;
    (void)l;
    for (size_t at = 0; at < (size_t)f->model->hp.n_head_kv * f->n * f->n; at++) {
        size_t j = at % f->n, i = at / f->n % f->n;
        sees[at] &= is_kept[j] || i == j;
    }
}

/* What query head g of a layer gives to the prompt's rows at row t, seeing these alone. */
static void oracle_prompt_row(const struct oracle_layer *x, uint32_t g, uint32_t t, double *p) {
    double all[N_LONG + STEPS], sum = 0;
    oracle_row(x, g, t, all);
    for (uint32_t j = 0; j < N_LONG; j++) {
        sum += all[j];
    }
    for (uint32_t j = 0; j < N_LONG; j++) {
        p[j] = all[j] / sum;
    }
}

static void oracle_score(const struct forward *f, double *score) {
    const struct ft_hparams *hp = &f->model->hp;
    memset(score, 0, N_LONG * sizeof(*score));
    for (uint32_t t = N_LONG - 1; t < f->n; t++) {
        double best[N_LONG] = { 0 }, p[N_LONG], pooled[N_LONG];
        for (uint32_t l = 0; l < hp->n_layer; l++) {
            struct oracle_layer x = { .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                      .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                      .n_head = hp->n_head,
                                      .n_head_kv = hp->n_head_kv,
                                      .n_q = f->n,
                                      .d = hp->head_dim };
            for (uint32_t g = 0; g < hp->n_head; g++) {
                oracle_prompt_row(&x, g, t, p);
                oracle_pool(p, N_LONG, 13, false, pooled);
                for (uint32_t j = 0; j < N_LONG; j++) {
                    best[j] = fmax(best[j], pooled[j]);
                }
            }
        }
        for (uint32_t j = 0; j < N_LONG; j++) {
            score[j] += best[j] / (f->n - N_LONG + 1);
        }
    }
}

/* The tokens that chunks of these scores keep, ascending. */
static void oracle_kept(const double *score, uint32_t keep, uint32_t *want) {
    double chunk[N_LONG];
    uint32_t ranked[N_LONG];
    for (uint32_t j = 0; j < N_LONG; j++) {
        uint32_t first = j / 32 * 32, end = FT_MIN(first + 32, (uint32_t)N_LONG);
        chunk[j] = 0;
        for (uint32_t i = first; i < end; i++) {
            chunk[j] += score[i] / (end - first);
        }
    }
    oracle_rank(chunk, N_LONG, ranked);
    memcpy(want, ranked, keep * sizeof(*want));
    qsort(want, keep, sizeof(*want), oracle_ascending);
}

/* Own positions: the whole prompt, in which nobody but itself sees a dropped token; the last token
 * read is the last one kept. */
static void check_logits(const ft_session *s, const ft_model *target, const ft_token *id,
                         const ft_pos *pos, const uint32_t *kept, uint32_t n_kept) {
    uint8_t is_kept[N_LONG] = { 0 };
    for (uint32_t j = 0; j < n_kept; j++) {
        is_kept[kept[j]] = 1;
    }
    struct forward f = forward_run(target, id, pos, kept[n_kept - 1] + 1, drop, is_kept);
    float *logits = test_malloc(n_vocab_of(s) * sizeof(*logits));
    for (uint32_t t = 0; t < n_vocab_of(s); t++) {
        logits[t] = (float)f.logits[t];
    }
    assert_true(logp_distance(ft_session_logits(s), logits, n_vocab_of(s)) <= 2e-4);
    test_free(logits);
    forward_done(&f);
}

static void check_score(ft_session *s, const ft_token *id, const double *want) {
    struct ft_draft_result again = { .n_text = 0 };
    struct ft_error err;
    assert_int_equal(ft_compress_draft(s, id, &again, &err), FT_OK);
    for (uint32_t j = 0; j < N_LONG; j++) {
        if (!(fabs((double)again.score[j] - want[j]) <= 1e-4 * want[j])) {
            fail_msg("score[%u] is %g, want %g", j, (double)again.score[j], want[j]);
        }
    }
    ft_draft_result_done(&again);
}

static void test_run(void **state) {
    (void)state;
    enum { KEEP = 100 };
    ft_model *target = model_made("target", TARGET "--layers 2", FT_LOAD_PLAIN);
    ft_model *draft = model_made("draft", DRAFT, FT_LOAD_PLAIN);
    struct ft_session_params params = ft_session_defaults();
    ft_token id[N_LONG + STEPS];
    ft_pos pos[N_LONG + STEPS];
    const uint32_t *list;
    double score[N_LONG];
    uint32_t want[N_LONG];
    params.n_thread = 2;
    params.kv_type = "f32";
    ids_random(id, N_LONG, target, 14);
    for (uint32_t t = 0; t < N_LONG + STEPS; t++) {
        pos[t] = (ft_pos)t;
    }
    ft_session *plain = session_made(draft, NULL, &params); /* what the draft goes on with */
    prompt_read(plain, id, N_LONG);
    tokens_drawn(plain, id + N_LONG, STEPS - 1);
    ft_session_free(plain);
    params.prompt = "specprefill:keep=100,lookahead=5,protect=off";
    ft_session *s = session_made(target, draft, &params);
    prompt_read(s, id, N_LONG);
    struct forward f = forward_run(draft, id, pos, N_LONG + STEPS - 1, NULL, NULL);
    oracle_score(&f, score);
    forward_done(&f);
    oracle_kept(score, KEEP, want);
    assert_int_equal(ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list), KEEP);
    assert_memory_equal(list, want, KEEP * sizeof(*want));
    check_logits(s, target, id, pos, want, KEEP);
    check_score(s, id, score);
    ft_session_free(s);
    ft_model_close(target);
    ft_model_close(draft);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
