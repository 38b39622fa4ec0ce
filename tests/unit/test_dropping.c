/* SPDX-License-Identifier: Apache-2.0 */
/* test_dropping.c - runs of the KV methods that need no draft, and of all budgets: which rows they
 * keep, what the model then answers, and what that holds in memory, against the naive oracle in
 * double.
 *
 * The oracle reads the same weights (F32 models, F32 rows).  Without look-ahead text the first
 * logits are those of a dense run, as rows leave behind the prompt; a token fed behind it sees what
 * was kept.
 */
#include "engine_fixture.h"
#include "forward_oracle.h"

enum { N_SHORT = 260, N_LONG = 600, N_NEXT = 6, HEADS = 8, LOOK = 6 };

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

enum kind { SNAPKV, H2O, TOVA, LAQ, STREAMING, KNORM, RANDOM, SPECKV };

static const struct kv_case {
    const char *spec;
    enum kind kind;
    uint32_t keep, window, kernel;
    bool is_pool_max, is_group_max;
    uint64_t seed;
    uint32_t budget, alpha;
} kv_cases[] = {
    { "snapkv:keep=64,window=16,kernel=5", SNAPKV, 64, 16, 5, true, false, 0, 0, 0 },
    { "snapkv:keep=40,window=1,kernel=3,pool=mean", SNAPKV, 40, 1, 3, false, false, 0, 0, 0 },
    { "snapkv:keep=90,window=30,kernel=1,group=max", SNAPKV, 90, 30, 1, true, true, 0, 0, 0 },
    { "h2o:keep=48,window=8", H2O, 48, 8, 1, true, false, 0, 0, 0 },
    { "tova:keep=33", TOVA, 33, 1, 1, true, false, 0, 0, 0 },
    { "streamingllm:keep=50,sinks=3,decode=off,positions=original", STREAMING, 50, 47, 1, true,
      false, 0, 0, 0 },
    { "knorm:keep=60,window=7", KNORM, 60, 7, 1, true, false, 0, 0, 0 },
    { "random:keep=30,seed=5", RANDOM, 30, 0, 1, true, false, 5, 0, 0 },
    { "snapkv:keep=64,window=16,kernel=5,budget=pyramid", SNAPKV, 64, 16, 5, true, false, 0,
      FT_BUDGET_PYRAMID, 0 },
    { "snapkv:keep=64,window=16,kernel=5,budget=ada", SNAPKV, 64, 16, 5, true, false, 0,
      FT_BUDGET_ADA, 20 },
    { "h2o:keep=48,window=8,budget=ada,alpha=0", H2O, 48, 8, 1, true, false, 0, FT_BUDGET_ADA, 0 },
    { "tova:keep=33,budget=pyramid", TOVA, 33, 1, 1, true, false, 0, FT_BUDGET_PYRAMID, 0 },
    { "snapkv:keep=70,window=10,kernel=3,budget=ada,alpha=75", SNAPKV, 70, 10, 3, true, false, 0,
      FT_BUDGET_ADA, 75 },
    { "speckv:keep=64,window=16,kernel=5,lookahead=6,budget=ada", SPECKV, 64, 16, 5, true, false, 0,
      FT_BUDGET_ADA, 20 },
    { "speckv:keep=40,window=8,kernel=3,lookahead=6,budget=pyramid", SPECKV, 40, 8, 3, true, false,
      0, FT_BUDGET_PYRAMID, 0 },
    { "snapkv:keep=64,window=16,kernel=5,rank=critical", SNAPKV, 64, 16, 5, true, false, 0, 0, 0 },
    { "h2o:keep=48,window=8,budget=ada,rank=critical,rho=0", H2O, 48, 8, 1, true, false, 0,
      FT_BUDGET_ADA, 20 },
    { "tova:keep=33,budget=pyramid,rank=critical,rho=30", TOVA, 33, 1, 1, true, false, 0,
      FT_BUDGET_PYRAMID, 0 },
    { "speckv:keep=64,window=16,kernel=5,lookahead=6,rank=critical,rho=75", SPECKV, 64, 16, 5, true,
      false, 0, 0, 0 },
    { "laq:keep=40,window=8,trial_window=12,kernel=5,lookahead=3", LAQ, 40, 8, 5, true, false, 0, 0,
      0 },
    { "laq:keep=33,window=0,trial_window=9,kernel=7,lookahead=2,budget=ada", LAQ, 33, 0, 7, true,
      false, 0, FT_BUDGET_ADA, 20 },
    { "laq:keep=50,window=5,trial_window=16,kernel=1,lookahead=2,budget=pyramid,rank=critical", LAQ,
      50, 5, 1, true, false, 0, FT_BUDGET_PYRAMID, 0 },
    { "keyformer:keep=48,recent=17,noise=none", H2O, 48, 8, 1, true, false, 0, 0, 0 },
    { "keyformer:keep=48,recent=17,noise=none,budget=ada", H2O, 48, 8, 1, true, false, 0,
      FT_BUDGET_ADA, 20 },
    { "keyformer:keep=48,recent=17,noise=none,rank=critical", H2O, 48, 8, 1, true, false, 0, 0, 0 },
};

/* "name=NUMBER" of a case's spec. */
static uint32_t number_of(const struct kv_case *c, const char *name, uint32_t otherwise) {
    const char *at = strstr(c->spec, name);
    return at ? (uint32_t)strtoul(at + strlen(name), NULL, 10) : otherwise;
}

static bool is_critical(const struct kv_case *c) {
    return strstr(c->spec, "rank=critical") != NULL;
}

static uint64_t mixed(uint64_t x) { /* SplitMix64 adds before it mixes */
    return oracle_next(&x);
}

static uint32_t n_ragged; /* layers whose heads kept different numbers, of one model */

/* What a run did, and what the oracle read: the prompt [n], and the draft's text behind it. */
struct seen {
    const struct kv_case *c;
    const ft_session *s;
    const struct forward *f;
    uint32_t n, refeed;
    uint32_t *list[HEADS], count[HEADS]; /* [n_layer * n_head_kv] rows kept */
    uint32_t n_ragged;                   /* layers whose heads keep different numbers */
};

static uint32_t n_col_of(const struct seen *x) {
    return x->n - x->c->window - x->refeed;
}

/* Scores of head h of a layer. */
static void oracle_scores(const struct seen *x, const struct oracle_layer *layer, uint32_t l,
                          uint32_t h, double *out) {
    const struct kv_case *c = x->c;
    uint32_t group = layer->n_head / layer->n_head_kv, first = h * group, n_voter = group;
    uint32_t n_col = n_col_of(x), voter = c->kind == H2O ? 0 : x->n - c->window;
    double votes[N_LONG], joined[N_LONG] = { 0 };
    if (c->kind == TOVA) {
        first = 0;
        n_voter = layer->n_head;
    }
    for (uint32_t g = first; c->kind <= LAQ && g < first + n_voter; g++) {
        if (c->kind == LAQ) {
            oracle_laq(layer, g, x->n, c->window, n_col, votes);
        } else {
            oracle_votes(layer, g, voter, n_col, votes);
        }
        for (uint32_t j = 0; j < n_col; j++) {
            double vote = votes[j] / (c->kind == SNAPKV ? c->window
                                      : c->kind == H2O  ? x->n
                                                        : 1); /* means, as critical adds 1e-4 */
            joined[j] = c->is_group_max ? fmax(joined[j], vote) : joined[j] + vote / n_voter;
        }
    }
    for (uint32_t j = 0; c->kind > LAQ && j < n_col; j++) {
        const float *k = layer->k + ((size_t)h * layer->n_q + j) * layer->d;
        double sum = 0;
        for (uint32_t d = 0; d < layer->d; d++) {
            sum += (double)k[d] * (double)k[d];
        }
        uint64_t value = mixed(mixed(mixed(c->seed) ^ mixed((uint64_t)l << 32 | h)) ^ j);
        joined[j] = c->kind == STREAMING ? n_col - (double)j
                    : c->kind == KNORM   ? 1 / sum
                                         : (double)(value >> 11) * 0x1p-53;
    }
    if (c->kind == SPECKV) {
        oracle_speckv(layer, h, x->n, c->window, true, joined);
    }
    oracle_pool(joined, n_col, c->kernel, c->is_pool_max, out);
}

/* Rows beside the window that each head of layer l may keep. */
static void oracle_counts(const struct seen *x, uint32_t l, double score[][N_LONG],
                          uint32_t ranked[][N_LONG], uint32_t *count) {
    const struct kv_case *c = x->c;
    const struct ft_hparams *hp = &x->f->model->hp;
    uint32_t n_head = hp->n_head_kv, n_col = n_col_of(x);
    uint32_t n_free = FT_MIN(c->keep, x->n) - c->window;
    if (c->budget == FT_BUDGET_PYRAMID && hp->n_layer > 1) { /* no case is near a clip */
        uint32_t least = n_free / 20, most = 2 * n_free - least;
        n_free = most - l * ((most - least) / (hp->n_layer - 1));
    }
    for (uint32_t h = 0; h < n_head; h++) {
        count[h] = c->budget == FT_BUDGET_ADA ? n_free * c->alpha / 100 : n_free;
    }
    uint32_t n_left = n_head * (n_free - count[0]);
    for (uint32_t i = 0; i < n_left; i++) { /* one row at a time to the head with the best next */
        uint32_t best = n_head;
        for (uint32_t h = 0; h < n_head; h++) {
            if (count[h] < n_col &&
                (best == n_head ||
                 score[h][ranked[h][count[h]]] > score[best][ranked[best][count[best]]])) {
                best = h;
            }
        }
        count[best]++;
    }
}

/* Rows by the score alone, and the others by the second stage; without one all are by score. */
struct stages {
    const double *score, *second;
    const uint32_t *ranked;
    uint32_t n_sure, n_free;
    uint8_t is_chosen[N_LONG];
    double edge[2]; /* the last row that each stage chose; NAN: none */
};

static void oracle_stages(struct stages *s, uint32_t n_col) {
    static uint32_t by_second[N_LONG];
    s->edge[0] = s->n_sure > 0 ? s->score[s->ranked[s->n_sure - 1]] : NAN;
    s->edge[1] = NAN;
    for (uint32_t j = 0; j < s->n_sure; j++) {
        s->is_chosen[s->ranked[j]] = 1;
    }
    if (s->n_sure == s->n_free) {
        return;
    }
    oracle_rank(s->second, n_col, by_second);
    uint32_t n_left = s->n_free - s->n_sure;
    for (uint32_t i = 0; n_left > 0; i++) {
        if (!s->is_chosen[by_second[i]]) {
            s->is_chosen[by_second[i]] = 1;
            s->edge[1] = s->second[by_second[i]];
            n_left--;
        }
    }
}

static bool is_tied(double value, double edge) {
    return fabs(value - edge) <= TIE * edge;
}

/* What a head kept is the oracle's choice. */
static void check_head(const struct seen *x, uint32_t at, const double *score,
                       const uint32_t *ranked, uint32_t n_free) {
    static double second[N_LONG];
    uint32_t n_head = x->f->model->hp.n_head_kv;
    struct stages stages = { .score = score,
                             .second = second,
                             .ranked = ranked,
                             .n_sure = is_critical(x->c)
                                           ? n_free * number_of(x->c, "rho=", 50) / 100
                                           : n_free,
                             .n_free = n_free };
    uint32_t n_col = n_col_of(x), n_kept = n_free + x->c->window, *list = x->list[at];
    if (is_critical(x->c)) {
        for (uint32_t j = 0; j < n_col; j++) {
            second[j] = (score[j] + 1e-4) * forward_output_norm(x->f, at / n_head, at % n_head, j);
        }
    }
    oracle_stages(&stages, n_col);
    if (x->count[at] != n_kept) {
        fail_msg("%s: head %u keeps %u, want %u", x->c->spec, at, x->count[at], n_kept);
    }
    for (uint32_t j = 0; j < n_free; j++) {
        if (list[j] >= n_col ||
            (!stages.is_chosen[list[j]] && !is_tied(score[list[j]], stages.edge[0]) &&
             !is_tied(second[list[j]], stages.edge[1]))) {
            fail_msg("%s: head %u kept %u with score %g, the last chosen ones have %g and %g",
                     x->c->spec, at, list[j], score[list[j]], stages.edge[0], stages.edge[1]);
        }
    }
    for (uint32_t j = n_free; j < n_kept; j++) {
        assert_int_equal(list[j], x->n - x->refeed - n_kept + j);
    }
}

static void check_layer(struct seen *x, uint32_t l) {
    static double score[HEADS][N_LONG];
    static uint32_t ranked[HEADS][N_LONG];
    const struct ft_hparams *hp = &x->f->model->hp;
    struct oracle_layer layer = { .q = x->f->q + forward_at(x->f, l, hp->n_head, 0, 0),
                                  .k = x->f->k + forward_at(x->f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = x->f->n,
                                  .d = hp->head_dim };
    uint32_t count[HEADS];
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        oracle_scores(x, &layer, l, h, score[h]);
        oracle_rank(score[h], n_col_of(x), ranked[h]);
    }
    oracle_counts(x, l, score, ranked, count);
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        uint32_t at = l * hp->n_head_kv + h;
        const uint32_t *got;
        x->count[at] = ft_session_kept(x->s, FT_STAGE_KV, l, h, &got);
        x->list[at] = test_malloc(N_LONG * sizeof(*got));
        memcpy(x->list[at], got, x->count[at] * sizeof(*got));
        check_head(x, at, score[h], ranked[h], count[h]);
        x->n_ragged += count[h] != count[0];
    }
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

/* Rows held are those listed, and their bytes are what the report says. */
static void check_bytes(const struct seen *x) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(x->s->lane.kv);
    uint64_t row = ft_kv_row_bytes(x->s->lane.kv), n_row = 0;
    struct ft_report report;
    uint32_t most = 0;
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) {
        n_row += x->count[at];
        most = FT_MAX(most, x->count[at]);
    }
    report_of(x->s, &report);
    assert_int_equal(report.kv_bytes, n_row * row);
    assert_int_equal(report.n_kv_kept, most);
    if (x->c->budget != FT_BUDGET_PYRAMID && most < x->n) { /* the same bytes as uniform */
        assert_int_equal(report.kv_bytes, x->c->keep * ft_kv_token_bytes(shape));
    }
    assert_int_equal(ft_kv_bytes(x->s->lane.kv),
                     report.kv_bytes + x->refeed * ft_kv_token_bytes(shape));
}

static void check_case(const struct kv_case *c, const ft_model *model, const struct forward *f,
                       const ft_token *id) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    ft_session *s = session_for(model, c->spec, "f32", 2);
    struct seen x = { .c = c, .s = s, .f = f, .n = f->n };
    struct ft_error err;
    double *logits = test_malloc(hp->n_vocab * sizeof(*logits));
    prompt_read(s, id, f->n);
    assert_near(c->spec, ft_session_logits(s), f->logits, hp->n_vocab);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        check_layer(&x, l);
    }
    check_bytes(&x);
    n_ragged += x.n_ragged;
    assert_int_equal(ft_session_feed(s, &id[3], 1, NULL, &err), FT_OK);
    forward_step_ragged(f, id[3], (ft_pos)f->n, (const uint32_t *const *)x.list, x.count, logits);
    assert_near(c->spec, ft_session_logits(s), logits, hp->n_vocab);
    test_free(logits);
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        test_free(x.list[at]);
    }
    ft_session_free(s);
}

/* Ada-SpecKV and its like: the model drafts for itself, the last prompt token is fed again. */
static void check_speckv(const struct kv_case *c, const ft_model *model, ft_token *id,
                         const ft_pos *pos, uint32_t n) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    struct ft_session_params params = ft_session_defaults();
    struct ft_draft_result draft = { .n_text = 0 };
    struct ft_error err;
    params.kv = c->spec;
    params.kv_type = "f32";
    params.n_thread = 2;
    ft_session *s = session_made(model, model, &params);
    prompt_read(s, id, n);
    assert_int_equal(ft_compress_draft(s, id, &draft, &err), FT_OK);
    memcpy(id + n, draft.text, draft.n_text * sizeof(*id));
    struct forward f = forward_run(model, id, pos, n + draft.n_text, NULL, NULL);
    struct seen x = { .c = c, .s = s, .f = &f, .n = n, .refeed = 1 };
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        check_layer(&x, l);
    }
    check_bytes(&x);
    n_ragged += x.n_ragged;
    forward_step_ragged(&f, id[n - 1], (ft_pos)n - 1, (const uint32_t *const *)x.list, x.count,
                        f.logits);
    assert_near(c->spec, ft_session_logits(s), f.logits, hp->n_vocab);
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        test_free(x.list[at]);
    }
    ft_draft_result_done(&draft);
    forward_done(&f);
    ft_session_free(s);
}

/* Text of LAQ sees in every layer the rows that SnapKV would keep of the prompt, and its own. */
static void mask_trial(void *user, const struct forward *f, uint32_t l, uint8_t *sees) {
    const struct kv_case *c = user;
    const struct ft_hparams *hp = &f->model->hp;
    struct oracle_layer layer = { .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                  .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = f->n,
                                  .d = hp->head_dim };
    uint32_t trial_window = number_of(c, "trial_window=", 32), n = N_SHORT;
    uint32_t n_col = n - trial_window, group = hp->n_head / hp->n_head_kv;
    static uint32_t ranked[N_SHORT];
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        double p[N_SHORT + LOOK], joined[N_SHORT] = { 0 }, pooled[N_SHORT];
        for (uint32_t g = h * group; g < (h + 1) * group; g++) {
            for (uint32_t t = n_col; t < n; t++) {
                oracle_row(&layer, g, t, p);
                for (uint32_t j = 0; j < n_col; j++) {
                    joined[j] += p[j];
                }
            }
        }
        oracle_pool(joined, n_col, 7, true, pooled);
        oracle_rank(pooled, n_col, ranked);
        for (uint32_t i = n; i < f->n; i++) {
            for (uint32_t j = c->keep - trial_window; j < n_col; j++) {
                sees[((size_t)h * f->n + i) * f->n + ranked[j]] = 0;
            }
        }
    }
}

/* LAQ step by step: the text, a token at a time, by whole passes that see the trial's rows alone;
 * then the votes of all its queries. */
static void check_laq(const struct kv_case *c, const ft_model *model, const struct forward *dense,
                      ft_token *id, const ft_pos *pos) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    ft_session *s = session_for(model, c->spec, "f32", 2);
    struct ft_report report;
    struct ft_error err;
    double *logits = test_malloc(hp->n_vocab * sizeof(*logits));
    struct forward f = { .n = 0 };
    const double *last = dense->logits;
    uint32_t n = dense->n;
    for (uint32_t t = 0; t < number_of(c, "lookahead=", 8); t++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < hp->n_vocab_real; i++) {
            best = last[i] > last[best] ? i : best;
        }
        id[n + t] = (ft_token)best;
        assert_false(ft_token_is_end(model, id[n + t]));
        forward_done(&f);
        f = forward_run(model, id, pos, n + t + 1, mask_trial, (void *)(uintptr_t)c);
        last = f.logits;
    }
    prompt_read(s, id, n);
    assert_int_equal(report_of(s, &report)->n_draft_text, number_of(c, "lookahead=", 8));
    struct seen x = { .c = c, .s = s, .f = &f, .n = n };
    assert_near(c->spec, ft_session_logits(s), dense->logits, hp->n_vocab);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        check_layer(&x, l);
    }
    check_bytes(&x);
    assert_int_equal(ft_session_feed(s, &id[3], 1, NULL, &err), FT_OK);
    forward_step_ragged(dense, id[3], (ft_pos)n, (const uint32_t *const *)x.list, x.count, logits);
    assert_near(c->spec, ft_session_logits(s), logits, hp->n_vocab);
    test_free(logits);
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        test_free(x.list[at]);
    }
    forward_done(&f);
    ft_session_free(s);
}

static void test_oracle(void **state) {
    const struct arch *arch = *state;
    ft_model *model = model_made("target", arch->arguments, FT_LOAD_PLAIN);
    ft_token id[N_LONG + LOOK];
    ft_pos pos[N_LONG + LOOK];
    ids_random(id, arch->n, model, 21);
    for (uint32_t t = 0; t < arch->n + LOOK; t++) {
        pos[t] = (ft_pos)t;
    }
    struct forward f = forward_run(model, id, pos, arch->n, NULL, NULL);
    n_ragged = 0;
    for (size_t i = 0; i < FT_COUNT(kv_cases); i++) {
        if (arch->n == N_LONG && i % 5 != 3) { /* the slow oracle: h2o and some budgets */
            continue;
        }
        if (kv_cases[i].kind == SPECKV) {
            check_speckv(&kv_cases[i], model, id, pos, arch->n);
        } else if (kv_cases[i].kind == LAQ && arch->n == N_LONG) {
            continue; /* a pass over everything for every token of text */
        } else if (kv_cases[i].kind == LAQ) {
            check_laq(&kv_cases[i], model, &f, id, pos);
        } else {
            check_case(&kv_cases[i], model, &f, id);
        }
    }
    assert_true(n_ragged > 0);
    forward_done(&f);
    ft_model_close(model);
}

/* ---- every such method ---- */

static const char *const budgets[] = { "uniform",
                                       "pyramid",
                                       "ada",
                                       "ada,rule=adakv",
                                       "uniform,rank=critical",
                                       "pyramid,rank=critical",
                                       "ada,rank=critical" };

static bool is_draftless(const struct ft_method *method) {
    return method->act == FT_RETAIN && method->score && !method->needs_draft &&
           !method->writes_itself;
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

/* Does the method also drop rows at every step? */
static bool is_stepwise(const struct ft_method *method) {
    return method->evict != NULL;
}

static bool has_off(const struct ft_method *method) { /* it takes decode=off */
    const struct ft_param *param;
    for (uint32_t i = 0; (param = ft_method_param(method, i)) != NULL; i++) {
        if (strcmp(param->name, "decode") == 0) {
            return true;
        }
    }
    return false;
}

/* Settings that leave it to `keep` alone which rows leave. */
static const char *cap_alone(const struct ft_method *method) {
    return method->is_capped ? ",recent=8,window=16777216" : "";
}

/* What streamingllm notes beside rows: copies in f32 of the keys of its four sinks. */
static uint64_t sink_bytes(const struct ft_method *method, const struct ft_kv_shape *shape) {
    bool is_compact = strcmp(method->name, "streamingllm") == 0;
    return is_compact ? UINT64_C(16) * shape->n_layer * shape->n_head_kv * shape->d : 0;
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
        uint32_t n_method = ft_catalogue_count();
        for (uint32_t i = 0; i < n_method * FT_COUNT(budgets); i++) {
            const struct ft_method *method = ft_catalogue(i % n_method);
            /* one that always goes on has the answer's rows to keep, too: it has work to do later */
            bool is_later = is_stepwise(method) && !has_off(method);
            char spec[96];
            struct ft_report report;
            snprintf(spec, sizeof(spec), "%s:keep=%u,budget=%s%s%s", method->name,
                     n + (is_later ? N_NEXT : 0), budgets[i / n_method], cap_alone(method),
                     is_stepwise(method) && !is_later ? ",decode=off" : "");
            if (!is_draftless(method) || ft_method_check(FT_STAGE_KV, spec, NULL, NULL) != FT_OK) {
                continue;
            }
            ft_session *s = session_for(model, spec, NULL, 2);
            s->is_shortcut_off = !is_later;
            prompt_read(s, id, n);
            assert_string_equal(report_of(s, &report)->kv_method, method->name);
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
    static const char *const specs[] = {
        "snapkv:keep=70,group=max",         "h2o:keep=70", "keyformer:keep=70",
        "corm:keep=300,window=70,recent=9", "tova:keep=9", "knorm:keep=70",
        "snapkv:keep=70,budget=ada",        "laq:keep=70", "snapkv:keep=70,rank=critical"
    };
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
        snprintf(spec, sizeof(spec), "%s:keep=50%s", ft_catalogue(i)->name,
                 cap_alone(ft_catalogue(i)));
        if (!is_draftless(ft_catalogue(i)) || ft_catalogue(i)->has_trial) {
            continue;
        }
        ft_session *s = session_for(model, spec, NULL, 1);
        uint64_t plain = ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv));
        uint64_t sinks = sink_bytes(ft_catalogue(i), ft_kv_shape_of(s->lane.kv));
        prompt_read(s, id, N_LONG);
        report_of(s, &report);
        /* four bytes each in two heads of three layers */
        uint64_t aux = 24 * ft_catalogue(i)->n_aux, token = plain + aux;
        assert_int_equal(report.kv_bytes, 50 * token + sinks);
        assert_int_equal(report.kv_state_bytes, 50 * aux + sinks);
        assert_int_equal(report.kv_bytes_peak, 50 * token + N_LONG * token / 3);
        assert_int_equal(report.kv_bytes_full, N_LONG * plain);
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

/* A trial's peak: all rows of the prompt, those of the trial, and those of the text; the queries that
 * vote stand beside the hidden states.  What is held behind it are the rows that stay. */
static void test_trial_bytes(void **state) {
    (void)state;
    ft_model *model = model_made("f32", "--layers 3" TARGET, FT_LOAD_FULL);
    const struct ft_hparams *hp = ft_model_hparams(model);
    ft_token id[N_LONG];
    struct ft_report report;
    ids_random(id, N_LONG, model, 9);
    ft_session *s = session_for(model, "laq:keep=50,window=4,lookahead=5", NULL, 1);
    uint64_t token = ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv));
    for (int again = 0; again < 2; again++) { /* the store that was lent is the lane's again */
        prompt_read(s, id, N_LONG);
        report_of(s, &report);
        assert_int_equal(report.n_draft_text, 5);
        assert_int_equal(report.kv_bytes, 50 * token);
        assert_int_equal(report.kv_bytes_peak, (N_LONG + 50 + 5) * token);
        assert_int_equal(report.activation_bytes_peak,
                         (N_LONG * hp->n_embd + 3 * (4 + 5) * hp->n_head * hp->head_dim) *
                             sizeof(float));
        assert_int_equal(ft_kv_bytes(s->lane.kv), 50 * token);
        assert_int_equal(report.draft_kv_bytes_peak, 0);
        assert_true(report.draft_us > 0 && report.score_us > 0 && report.prefill_us > 0);
    }
    ft_session_free(s);
    ft_model_close(model);
}

/* An end token stops the look-ahead, is the last of it, and votes: the shipped pair's target answers
 * a needle in six tokens. */
static void test_trial_end(void **state) {
    (void)state;
    static const char filler[] = "The grass is green. The sky is blue. The sun is yellow. ";
    static const char question[] =
        "One of the special magic numbers for grey-river is: 4821375. The grass is green.\n"
        "What is the special magic number for grey-river mentioned in the provided text? The "
        "special magic number for grey-river mentioned in the provided text is";
    char text[2048] = "";
    ft_model *model = model_shipped("target");
    struct ft_tokens tokens;
    struct ft_report report;
    struct ft_error err;
    for (int i = 0; i <= 20; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s", i < 20 ? filler : question);
    }
    assert_int_equal(ft_tokenize(model, text, strlen(text), FT_TOKENIZE_BOS, &tokens, &err), FT_OK);
    ft_session *s = session_for(model, "laq:keep=64,lookahead=40", NULL, 2);
    uint64_t token = ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv));
    prompt_read(s, tokens.id, tokens.n);
    report_of(s, &report);
    assert_int_equal(report.n_draft_text, 6);
    assert_int_equal(report.kv_bytes_peak, (tokens.n + 64 + 6) * token);
    ft_token id[6];
    tokens_drawn(s, id, 6); /* and so does the answer */
    assert_true(ft_token_is_end(model, id[5]));
    ft_session_free(s);
    ft_tokens_free(&tokens);
    ft_model_close(model);
}

/* Every estimator with every budget and ranking: a run that holds what it says, or a reason with
 * both names. */
static void check_pairing(const ft_model *model, const struct ft_method *method, const char *budget,
                          const char *decode, const ft_token *id) {
    const char *name = method->name;
    char spec[96], bare[16];
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    struct ft_estimate said;
    struct ft_error err = { .code = FT_OK };
    snprintf(spec, sizeof(spec), "%s:keep=60,budget=%s%s%s", name, budget, decode,
             cap_alone(method));
    const char *rank = strstr(budget, "rank=");
    snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(budget, ","), budget);
    params.kv = spec;
    params.n_predict = N_NEXT + 1;
    if (ft_method_check(FT_STAGE_KV, spec, NULL, &err) != FT_OK) {
        bool is_named = strstr(err.text, bare) || (rank && strstr(err.text, rank));
        if (!strstr(err.text, name) || !is_named || !strstr(err.text, "no sense")) {
            fail_msg("%s: \"%s\" is no reason", spec, err.text);
        }
        return;
    }
    ft_session *s = session_made(model, model, &params);
    uint64_t n_row = 0;
    ft_token answer[N_NEXT];
    prompt_read(s, id, N_SHORT);
    const struct ft_kv_shape *shape = ft_kv_shape_of(s->lane.kv); /* a trial changes the store */
    uint64_t row = ft_kv_row_bytes(s->lane.kv);
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) {
        const uint32_t *list;
        n_row +=
            ft_session_kept(s, FT_STAGE_KV, at / shape->n_head_kv, at % shape->n_head_kv, &list);
    }
    report_of(s, &report);
    assert_int_equal(report.kv_bytes, n_row * row + sink_bytes(method, shape));
    tokens_drawn(s, answer, N_NEXT);
    bool is_growing = !is_stepwise(method) || strstr(decode, "off");
    n_row += is_growing ? (N_NEXT - 1) * shape->n_layer * shape->n_head_kv : 0;
    n_row += method->needs_draft_text || method->writes_itself
                 ? shape->n_layer * shape->n_head_kv /* fed again */
                 : 0;
    assert_int_equal(ft_kv_bytes(s->lane.kv), n_row * row);
    assert_int_equal(ft_estimate(model, model, &params, N_SHORT, &said, &err), FT_OK);
    int64_t rounded =
        strstr(budget, "adakv") ? shape->n_layer * shape->n_head_kv * (int64_t)row : 0;
    assert_true(llabs((int64_t)(said.kv_bytes - report.kv_bytes)) <= rounded);
    report_of(s, &report);
    assert_true(llabs((int64_t)(said.kv_bytes_peak - report.kv_bytes_peak)) <= rounded);
    ft_session_free(s);
}

static void test_matrix(void **state) {
    (void)state;
    ft_model *model = model_made("f32", "--layers 3" TARGET, FT_LOAD_FULL);
    ft_token id[N_SHORT];
    ids_random(id, N_SHORT, model, 31);
    for (uint32_t i = 0; i < ft_catalogue_count(); i++) {
        const struct ft_method *method = ft_catalogue(i);
        for (size_t b = 0; method->act == FT_RETAIN && method->score && b < FT_COUNT(budgets);
             b++) {
            check_pairing(model, method, budgets[b], "", id);
            if (has_off(method)) {
                check_pairing(model, method, budgets[b], ",decode=off", id);
            }
        }
    }
    ft_model_close(model);
}

/* Stock attention needs heads of one length; layers may differ. */
static void test_exact(void **state) {
    (void)state;
    ft_model *model = model_made("plain", "--layers 3" TARGET, FT_LOAD_PLAIN);
    struct ft_session_params params = ft_session_defaults();
    struct ft_error err;
    ft_session *s = NULL;
    ft_token id[N_SHORT], next[N_NEXT];
    ids_random(id, N_SHORT, model, 1);
    params.is_exact = true;
    params.kv = "snapkv:keep=40,budget=ada";
    assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
    assert_non_null(strstr(err.text, "snapkv: budget=ada with exact"));
    params.kv = "snapkv:keep=40,budget=pyramid";
    s = session_made(model, NULL, &params);
    prompt_read(s, id, N_SHORT);
    tokens_drawn(s, next, N_NEXT);
    ft_session_free(s);
    ft_model_close(model);
}

/* The oracle is SpecKV with the target for a draft, whatever draft was given; what it writes ahead
 * is the dense answer. */
static void test_oracle_method(void **state) {
    (void)state;
    ft_model *model = model_made("q8", "--layers 3 --type q8_0" TARGET, FT_LOAD_FULL);
    ft_model *other = model_made("other", "--layers 1 --seed 3" TARGET, FT_LOAD_FULL);
    struct ft_session_params params = ft_session_defaults();
    struct ft_draft_result text = { .n_text = 0 };
    struct ft_report report;
    struct ft_error err;
    ft_token id[N_SHORT], dense[N_NEXT];
    ids_random(id, N_SHORT, model, 6);
    params.n_thread = 2;
    params.n_predict = N_NEXT + 1;
    ft_session *s = session_made(model, NULL, &params);
    prompt_read(s, id, N_SHORT);
    tokens_drawn(s, dense, N_NEXT);
    ft_session_free(s);
    params.kv = "speckv:keep=40,lookahead=6";
    s = session_made(model, model, &params);
    prompt_read(s, id, N_SHORT);
    struct answer want = answer_of(s);
    ft_session_free(s);
    params.kv = "oracle:keep=40,lookahead=6";
    for (int has_draft = 0; has_draft < 2; has_draft++) {
        s = session_made(model, has_draft ? other : NULL, &params);
        prompt_read(s, id, N_SHORT);
        assert_string_equal(report_of(s, &report)->kv_method, "oracle");
        assert_same_answer(params.kv, s, &want);
        assert_int_equal(ft_compress_draft(s, id, &text, &err), FT_OK);
        assert_int_equal(text.n_text, LOOK);
        assert_memory_equal(text.text, dense, sizeof(dense));
        ft_draft_result_done(&text);
        ft_session_free(s);
    }
    answer_done(&want);
    params.prompt = "tail:keep=100";
    assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
    assert_non_null(strstr(err.text, "oracle answers the whole prompt"));
    ft_model_close(other);
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
    struct CMUnitTest tests[FT_COUNT(archs) + 9] = {
        cmocka_unit_test(test_all_kept),      cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bytes),         cmocka_unit_test(test_draft_idle),
        cmocka_unit_test(test_matrix),        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_oracle_method), cmocka_unit_test(test_trial_bytes),
        cmocka_unit_test(test_trial_end),
    };
    for (size_t i = 0; i < FT_COUNT(archs); i++) {
        tests[i + 9] = (struct CMUnitTest){ .name = archs[i].name,
                                            .test_func = test_oracle,
                                            .initial_state = (void *)(uintptr_t)&archs[i] };
    }
    return cmocka_run_group_tests_name("rows that leave behind the prompt", tests, NULL, NULL);
}
