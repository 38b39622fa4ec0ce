/* SPDX-License-Identifier: Apache-2.0 */
/* test_compress.c - what an engine run keeps and answers, against the naive oracle in double.
 *
 * The oracle reads the same weights (F32 models, F32 rows): a naive forward pass (forward_oracle.h)
 * gives the queries and keys, naive scoring (score_oracle.h) the rows and tokens to keep, a mask or
 * a choice of rows the logits. ft_score_arrays, fed with the same queries and keys, must choose the
 * same.
 */
#include "engine_fixture.h"
#include "forward_oracle.h"

enum { N_SHORT = 260, N_LONG = 600, LOOK = 12, N_ALL = N_LONG + LOOK };

/* Floats against double over three layers: sums of at most 612 terms, logits of about 10. */
static const double LOGP_MAX = 2e-4;
/* Scores that floats cannot tell apart may be chosen in either order. */
static const double TIE = 1e-4;

/* exp of a logit of about 10 that is exact to a few 2^-21 */
static const double SCORE_REL = 1e-4;

static struct {
    double logp, score;
    uint32_t n_tie;
} worst;

#define TARGET " --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "
#define DRAFT                                                                                      \
    " --embd 64 --heads 4 --kv-heads 1 --ff 64 --vocab 300 --ctx 1024 --sharpness 3 --seed 7 "

static const struct arch {
    const char *name, *target, *draft;
    uint32_t n; /* tokens of the prompt */
} archs[] = {
    { "llama", "--arch llama --layers 3" TARGET, "--arch llama --layers 2" DRAFT, N_SHORT },
    { "qwen2", "--arch qwen2 --layers 3 --tied" TARGET, "--arch qwen2 --layers 2" DRAFT, N_SHORT },
    { "qwen3", "--arch qwen3 --layers 3" TARGET, "--arch qwen3 --layers 3 --tied" DRAFT, N_SHORT },
    { "one layer", "--arch llama --layers 1" TARGET, "--arch qwen2 --layers 1" DRAFT, N_SHORT },
    { "two chunks", "--arch llama --layers 2" TARGET, "--arch qwen2 --layers 2" DRAFT, N_LONG },
};

struct pair {
    ft_model *target, *draft;
    uint32_t n;
    ft_token id[N_ALL]; /* the prompt [n]; later the draft's text behind it */
};

static struct pair pair_made(const struct arch *arch) {
    struct pair pair = { .n = arch->n,
                         .target = model_made("target", arch->target, FT_LOAD_PLAIN),
                         .draft = model_made("draft", arch->draft, FT_LOAD_PLAIN) };
    ids_random(pair.id, pair.n, pair.target, 21);
    return pair;
}

static void pair_close(struct pair *pair) {
    ft_model_close(pair->target);
    ft_model_close(pair->draft);
}

static ft_session *session_for(const struct pair *pair, const char *prompt, const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.kv_type = "f32";
    params.n_thread = 2;
    params.n_predict = LOOK;
    return session_made(pair->target, pair->draft, &params);
}

static void assert_near(const char *what, const float *got, const double *want, uint32_t n) {
    float *row = test_malloc(n * sizeof(*row));
    for (uint32_t t = 0; t < n; t++) {
        row[t] = (float)want[t];
    }
    double d = logp_distance(got, row, n);
    worst.logp = fmax(worst.logp, d);
    if (!(d <= LOGP_MAX)) {
        fail_msg("%s: |delta log p| is %g, at most %g", what, d, LOGP_MAX);
    }
    test_free(row);
}

static struct oracle_layer layer_of(const struct forward *f, uint32_t l) {
    const struct ft_hparams *hp = &f->model->hp;
    return (struct oracle_layer){ .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                  .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = f->n,
                                  .d = hp->head_dim };
}

static void positions(ft_pos *pos, uint32_t n) {
    for (uint32_t t = 0; t < n; t++) {
        pos[t] = (ft_pos)t;
    }
}

/* ---- the KV stage ---- */

static const struct kv_case {
    const char *spec;
    uint32_t keep, window, kernel;
    bool is_pool_max, is_reduce_max;
    uint32_t prefill_window, n_vertical; /* 0: dense */
} kv_cases[] = {
    { "speckv:keep=64,window=16,kernel=5,lookahead=12", 64, 16, 5, true, true, 0, 0 },
    { "speckv:keep=9,window=8,kernel=1,lookahead=12", 9, 8, 1, true, true, 0, 0 },
    { "speckv:keep=100,window=1,kernel=7,pool=mean,reduce=mean,lookahead=12", 100, 1, 7, false,
      false, 0, 0 },
    { "speckv:keep=150,window=40,kernel=3,reduce=mean,lookahead=12", 150, 40, 3, true, false, 0,
      0 },
    { "speckv:keep=48,window=16,kernel=5,lookahead=12,prefill_window=64,prefill_vertical=20", 48,
      16, 5, true, true, 64, 20 },
    { "speckv:keep=60,window=16,kernel=3,pool=mean,lookahead=12,prefill_window=128,prefill_"
      "vertical=64",
      60, 16, 3, false, true, 128, 64 },
};

struct choosing {
    const struct kv_case *c;
    const ft_session *s;
    uint32_t n;                   /* tokens of the prompt */
    uint32_t n_tie;               /* choices that differ by a tie */
    const uint32_t **kept;        /* [n_layer * n_head_kv] what the engine kept */
    struct ft_score_layer *layer; /* [n_layer] */
};

/* got and the first n of ranked are the same set, up to scores that are equal within floats */
static uint32_t assert_same_choice(const char *what, const uint32_t *got, uint32_t n,
                                   const double *score, uint32_t n_score, const uint32_t *ranked) {
    uint8_t *is_chosen = test_calloc(n_score, 1);
    uint32_t n_other = 0;
    double edge = score[ranked[n - 1]];
    for (uint32_t j = 0; j < n; j++) {
        is_chosen[ranked[j]] = 1;
    }
    for (uint32_t j = 0; j < n; j++) {
        assert_true(got[j] < n_score);
        if (!is_chosen[got[j]]) {
            n_other++;
            if (fabs(score[got[j]] - edge) > TIE * edge) {
                fail_msg("%s: kept %u with score %g, the last chosen one has %g", what, got[j],
                         score[got[j]], edge);
            }
        }
    }
    test_free(is_chosen);
    return n_other;
}

static void choose(void *user, const struct forward *f, uint32_t l, uint8_t *sees) {
    struct choosing *choosing = user;
    const struct kv_case *c = choosing->c;
    struct oracle_layer layer = layer_of(f, l);
    uint32_t n_col = choosing->n - c->window - 1, n_free = c->keep - c->window, ranked[N_LONG];
    double mass[N_LONG], pooled[N_LONG];
    for (uint32_t h = 0; h < layer.n_head_kv; h++) {
        const uint32_t *list;
        oracle_speckv(&layer, h, choosing->n, c->window, c->is_reduce_max, mass);
        oracle_pool(mass, n_col, c->kernel, c->is_pool_max, pooled);
        oracle_rank(pooled, n_col, ranked);
        assert_int_equal(ft_session_kept(choosing->s, FT_STAGE_KV, l, h, &list), c->keep);
        choosing->n_tie += assert_same_choice(c->spec, list, n_free, pooled, n_col, ranked);
        for (uint32_t j = 0; j < c->window; j++) {
            assert_int_equal(list[n_free + j], n_col + j);
        }
        choosing->kept[l * layer.n_head_kv + h] = list;
        for (uint32_t i = 0; c->prefill_window && i < f->n; i++) {
            uint8_t *row = sees + ((size_t)h * f->n + i) * f->n;
            uint32_t block = i / 64 * 64,
                     start = block > c->prefill_window ? block - c->prefill_window : 0;
            memset(row, 0, start);
            for (uint32_t j = 0; j < c->n_vertical; j++) {
                row[ranked[j]] |= ranked[j] < start;
            }
        }
    }
    choosing->layer[l] = (struct ft_score_layer){ .q = layer.q, .k = layer.k };
}

/* The same choice by ft_score_arrays on the oracle's queries and keys. */
static void check_arrays(const struct choosing *choosing, const struct forward *f,
                         const struct pair *pair) {
    const struct ft_hparams *hp = ft_model_hparams(pair->target);
    struct ft_score_input in = { .n_prompt = pair->n,
                                 .n_more = f->n - pair->n,
                                 .n_layer = hp->n_layer,
                                 .n_head = hp->n_head,
                                 .n_head_kv = hp->n_head_kv,
                                 .d = hp->head_dim,
                                 .layer = choosing->layer };
    struct ft_score_output out;
    struct ft_error err;
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, choosing->c->spec, &in, &out, &err), FT_OK);
    assert_int_equal(out.n_head, hp->n_layer * hp->n_head_kv);
    for (uint32_t h = 0; h < out.n_head && choosing->n_tie == 0; h++) {
        assert_int_equal(out.head[h].n_kept, choosing->c->keep);
        assert_memory_equal(out.head[h].kept, choosing->kept[h],
                            choosing->c->keep * sizeof(uint32_t));
    }
    ft_score_free(&out);
}

/* The draft's text behind the prompt.  ->  its length */
static uint32_t text_added(ft_session *s, struct pair *pair) {
    struct ft_draft_result draft = { .n_text = 0 };
    struct ft_error err;
    assert_int_equal(ft_compress_draft(s, pair->id, &draft, &err), FT_OK);
    memcpy(pair->id + pair->n, draft.text, draft.n_text * sizeof(*pair->id));
    uint32_t n = draft.n_text;
    ft_draft_result_done(&draft);
    return n;
}

static void check_kv(struct pair *pair, const struct kv_case *c) {
    const struct ft_hparams *hp = ft_model_hparams(pair->target);
    ft_session *s = session_for(pair, NULL, c->spec);
    struct choosing choosing = { .c = c, .s = s, .n = pair->n };
    ft_pos pos[N_ALL];
    prompt_read(s, pair->id, pair->n);
    uint32_t n = pair->n + text_added(s, pair);
    choosing.kept = test_calloc((size_t)hp->n_layer * hp->n_head_kv, sizeof(*choosing.kept));
    choosing.layer = test_calloc(hp->n_layer, sizeof(*choosing.layer));
    positions(pos, n);
    struct forward f = forward_run(pair->target, pair->id, pos, n, choose, &choosing);
    check_arrays(&choosing, &f, pair);
    assert_true(choosing.n_tie <= 2); /* of hundreds */
    worst.n_tie += choosing.n_tie;
    forward_step(&f, pair->id[pair->n - 1], (ft_pos)pair->n - 1, choosing.kept, c->keep, f.logits);
    assert_near(c->spec, ft_session_logits(s), f.logits, hp->n_vocab);
    forward_done(&f);
    test_free((void *)choosing.kept);
    test_free(choosing.layer);
    ft_session_free(s);
}

/* ---- the prompt stage ---- */

static const struct prompt_case {
    const char *spec;
    uint32_t keep, window, kernel, neighbors, n_step, layer_first, n_head;
    bool is_pool_max, is_reduce_max, is_compact;
    enum ft_ramp ramp;
} prompt_cases[] = {
    { "specpc:keep=100,window=16,kernel=4", 100, 16, 4, 4, 1, UINT32_MAX, 0, true, true, true,
      FT_RAMP_CODE },
    { "specpc:keep=100,window=16,kernel=4,positions=original", 100, 16, 4, 4, 1, UINT32_MAX, 0,
      true, true, false, FT_RAMP_CODE },
    { "specpc:keep=60,window=5,kernel=3,neighbors=0,start_layer=0,weighted=paper,positions="
      "original",
      60, 5, 3, 0, 1, 0, 12, true, true, false, FT_RAMP_PAPER },
    { "specpc:keep=80,window=20,pool=mean,reduce=mean,kernel=5,weighted=off,start_layer=0", 80, 20,
      5, 5, 1, 0, 30, false, false, true, FT_RAMP_OFF },
    { "specpc:keep=70,window=8,kernel=2,lookahead=6,positions=original", 70, 8, 2, 2, 6, UINT32_MAX,
      1, true, true, false, FT_RAMP_CODE },
    { "specpc:keep=70,window=1,kernel=2,neighbors=7,lookahead=3,reduce=mean", 70, 1, 2, 7, 3,
      UINT32_MAX, 0, true, false, true, FT_RAMP_CODE },
};

static void drop(void *user, const struct forward *f, uint32_t l, uint8_t *sees) {
    const uint8_t *is_kept = user;
    (void)l;
    for (size_t at = 0; at < (size_t)f->model->hp.n_head_kv * f->n * f->n; at++) {
        size_t j = at % f->n, i = at / f->n % f->n;
        sees[at] &= is_kept[j] || i == j;
    }
}

/* What the draft writes behind the prompt: id[n_step - 1]; it is evaluated, and votes. */
static void draft_steps(const struct pair *pair, ft_token *id, uint32_t n_step) {
    struct ft_session_params params = ft_session_defaults();
    params.n_thread = 1;
    ft_session *s = session_made(pair->draft, NULL, &params);
    prompt_read(s, pair->id, pair->n);
    tokens_drawn(s, id, n_step - 1);
    ft_session_free(s);
}

/* score [n] and the tokens to keep */
static uint32_t oracle_tokens(const struct prompt_case *c, struct pair *pair, double *score,
                              uint32_t *out) {
    const struct ft_hparams *hp = ft_model_hparams(pair->draft);
    double u[64], pooled[N_LONG];
    uint32_t must[64], n = pair->n + c->n_step - 1;
    ft_pos pos[N_ALL];
    draft_steps(pair, pair->id + pair->n, c->n_step);
    positions(pos, n);
    for (uint32_t i = 0; i < c->window; i++) {
        u[i] = c->ramp == FT_RAMP_OFF || c->window == 1 ? 1
               : c->ramp == FT_RAMP_PAPER               ? (i + 1.0) / c->window
                                                        : i / (c->window - 1.0);
    }
    for (uint32_t i = 0; i < c->n_head; i++) {
        must[i] = i;
    }
    struct forward f = forward_run(pair->draft, pair->id, pos, n, NULL, NULL);
    for (uint32_t l = c->layer_first == UINT32_MAX ? hp->n_layer / 2 : c->layer_first;
         l < hp->n_layer; l++) {
        struct oracle_layer layer = layer_of(&f, l);
        oracle_specpc(&layer, pair->n, c->window, u, c->is_reduce_max, score);
    }
    forward_done(&f);
    oracle_pool(score, pair->n, c->kernel, c->is_pool_max, pooled);
    return oracle_select(pooled, pair->n, c->keep, c->window, c->neighbors, must, c->n_head, out);
}

/* The draft reads once more: its score is the oracle's, number by number. */
static void assert_same_score(const char *what, ft_session *s, const struct pair *pair,
                              const double *want) {
    struct ft_draft_result draft = { .n_text = 0 };
    struct ft_error err;
    assert_int_equal(ft_compress_draft(s, pair->id, &draft, &err), FT_OK);
    for (uint32_t j = 0; j < pair->n; j++) {
        if (!(fabs((double)draft.score[j] - want[j]) <= SCORE_REL * want[j] + 1e-9)) {
            fail_msg("%s: score[%u] is %g, expected %g", what, j, (double)draft.score[j], want[j]);
        }
        worst.score = want[j] > 1e-6 ? fmax(worst.score, fabs((double)draft.score[j] / want[j] - 1))
                                     : worst.score;
    }
    ft_draft_result_done(&draft);
}

static void check_prompt(struct pair *pair, const struct prompt_case *c) {
    struct ft_error err = { .code = FT_OK };
    ft_session *s = session_for(pair, c->spec, NULL);
    const uint32_t *list;
    uint32_t want[N_LONG];
    double score[N_LONG] = { 0 };
    ft_pos pos[N_ALL];
    if (ft_session_prompt(s, pair->id, pair->n, c->n_head, &err) != FT_OK) {
        fail_msg("%s: %s", c->spec, err.text);
    }
    assert_int_equal(oracle_tokens(c, pair, score, want), c->keep);
    assert_same_score(c->spec, s, pair, score);
    assert_int_equal(ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list), c->keep);
    assert_memory_equal(list, want, c->keep * sizeof(*want));

    uint8_t is_kept[N_LONG] = { 0 };
    ft_token id[N_LONG];
    for (uint32_t j = 0; j < c->keep; j++) {
        is_kept[want[j]] = 1;
        id[j] = pair->id[want[j]];
    }
    positions(pos, pair->n);
    /* compact: the kept tokens alone; original: the whole prompt, in which nobody sees a dropped
     * token */
    struct forward f = c->is_compact
                           ? forward_run(pair->target, id, pos, c->keep, NULL, NULL)
                           : forward_run(pair->target, pair->id, pos, pair->n, drop, is_kept);
    assert_near(c->spec, ft_session_logits(s), f.logits, n_vocab_of(s));
    forward_done(&f);
    ft_session_free(s);
}

/* ---- the cascade: the text stands behind the prompt, at n under original and at m under compact
 * ---- */

static void check_cascade(struct pair *pair, bool is_compact) {
    static const struct kv_case c = {
        "speckv:keep=40,window=8,kernel=3,lookahead=12", 40, 8, 3, true, true, 0, 0
    };
    const struct ft_hparams *hp = ft_model_hparams(pair->target);
    char prompt[128];
    snprintf(prompt, sizeof(prompt), "specpc:keep=100,window=16,kernel=4,positions=%s",
             is_compact ? "compact" : "original");
    ft_session *s = session_for(pair, prompt, c.spec);
    const uint32_t *list, **kept = test_calloc((size_t)hp->n_layer * hp->n_head_kv, sizeof(*kept));
    ft_token id[N_ALL];
    ft_pos pos[N_ALL];
    prompt_read(s, pair->id, pair->n);
    uint32_t n_text = text_added(s, pair), m = ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &list);
    assert_int_equal(m, 100);
    for (uint32_t j = 0; j < m + n_text; j++) {
        id[j] = pair->id[j < m ? list[j] : pair->n + j - m];
        pos[j] = (ft_pos)(is_compact ? j : j < m ? list[j] : pair->n + j - m);
    }
    struct forward f = forward_run(pair->target, id, pos, m + n_text, NULL, NULL);
    uint32_t *rows = test_malloc((size_t)hp->n_layer * hp->n_head_kv * m * sizeof(*rows));
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        struct oracle_layer layer = layer_of(&f, at / hp->n_head_kv);
        double mass[N_LONG], pooled[N_LONG];
        uint32_t ranked[N_LONG], row = 0, *mine = rows + (size_t)at * m;
        oracle_speckv(&layer, at % hp->n_head_kv, m, c.window, true, mass);
        oracle_pool(mass, m - c.window - 1, c.kernel, true, pooled);
        oracle_rank(pooled, m - c.window - 1, ranked);
        assert_int_equal(
            ft_session_kept(s, FT_STAGE_KV, at / hp->n_head_kv, at % hp->n_head_kv, &list), c.keep);
        for (uint32_t j = 0; j < c.keep; j++) { /* from positions to rows */
            while (row < m && (uint32_t)pos[row] != list[j]) {
                row++;
            }
            assert_true(row < m);
            mine[j] = row;
        }
        assert_int_equal(assert_same_choice("cascade", mine, c.keep - c.window, pooled,
                                            m - c.window - 1, ranked),
                         0);
        kept[at] = mine;
    }
    forward_step(&f, id[m - 1], pos[m - 1], kept, c.keep, f.logits);
    assert_near(prompt, ft_session_logits(s), f.logits, hp->n_vocab);
    forward_done(&f);
    test_free(rows);
    test_free((void *)kept);
    ft_session_free(s);
}

/* ---- */

/* Before anything is dropped: the oracle and the engine are the same model. */
static void check_dense(const struct pair *pair) {
    ft_session *s = session_for(pair, NULL, NULL);
    ft_pos pos[N_ALL];
    positions(pos, pair->n);
    struct forward f = forward_run(pair->target, pair->id, pos, pair->n, NULL, NULL);
    prompt_read(s, pair->id, pair->n);
    assert_near("dense", ft_session_logits(s), f.logits, n_vocab_of(s));
    forward_done(&f);
    ft_session_free(s);
}

static void test_arch(void **state) {
    struct pair pair = pair_made(*state);
    size_t first = pair.n == N_LONG ? FT_COUNT(kv_cases) - 2
                                    : 0; /* the slow oracle reads long prompts a few times only */
    check_dense(&pair);
    for (size_t i = first; i < FT_COUNT(kv_cases); i++) {
        check_kv(&pair, &kv_cases[i]);
    }
    for (size_t i = first; i < FT_COUNT(prompt_cases); i++) {
        check_prompt(&pair, &prompt_cases[i]);
    }
    check_cascade(&pair, true);
    check_cascade(&pair, false);
    pair_close(&pair);
}

int main(void) {
    struct CMUnitTest tests[FT_COUNT(archs)];
    for (size_t i = 0; i < FT_COUNT(archs); i++) {
        tests[i] = (struct CMUnitTest){ .name = archs[i].name,
                                        .test_func = test_arch,
                                        .initial_state = (void *)(uintptr_t)&archs[i] };
    }
    int n_failed = cmocka_run_group_tests_name("what a run keeps and answers", tests, NULL, NULL);
    print_message("|delta log p| at most %.2g, scores off by %.2g, %u rows chosen by a tie\n",
                  worst.logp, worst.score, worst.n_tie);
    return n_failed;
}
