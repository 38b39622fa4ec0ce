/* SPDX-License-Identifier: Apache-2.0 */
/* test_decode.c - rows that leave while an answer grows: which ones, what the model then answers,
 * and what is held, against a twin in double that does it the papers' way.
 *
 * The twin has a list of rows per layer and KV head, whole attention rows, keys without rotation,
 * which are rotated anew at every step (positions=compact: at their place in the list, the query at
 * the last one).  F32 models and F32 rows.
 */
#include "engine_fixture.h"
#include "forward_oracle.h"

enum { N_PROMPT = 70, N_STEP = 40, N_ALL = N_PROMPT + N_STEP, HEADS = 8, GROUP_MOST = 8 };

/* As in test_dropping.c: floats against double over three layers, and scores that floats cannot tell
 * apart may leave in either order. */
static const double LOGP_MAX = 2e-4;
static const double TIE = 1e-4;

#define TARGET " --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "

static ft_session *session_for(const ft_model *model, const char *kv, const char *kv_type,
                               uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.kv = kv;
    params.kv_type = kv_type;
    params.n_thread = n_thread;
    params.n_predict = 400;
    return session_made(model, NULL, &params);
}

static void fed(ft_session *s, const ft_token *id, uint32_t n, float *logits) {
    struct ft_error err = { .code = FT_OK };
    if (ft_session_feed(s, id, n, logits, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
}

/* ---- the twin ---- */

enum kind { H2O, TOVA, STREAMING, CORM };

struct row {
    double k[FT_HEAD_MAX], v[FT_HEAD_MAX]; /* k before RoPE */
    ft_pos pos;
    double score;
    double sure, maybe; /* CORM: the last important token, and with those that floats may see so */
};

struct list { /* of one KV head of one layer */
    struct row row[N_ALL + 1];
    uint32_t n, limit;
};

static struct twin {
    const ft_model *model;
    enum kind kind;
    uint32_t window, sinks, n_vote; /* n_vote: CORM's window */
    bool is_compact, is_evicting;
    struct list list[HEADS];
    double weight[HEADS * GROUP_MOST][N_ALL + 1]; /* of the step, by query head of all layers */
    uint32_t n_left;
} twin;

static struct list *list_at(uint32_t l, uint32_t h) {
    return &twin.list[l * twin.model->hp.n_head_kv + h];
}

/* Scores of H2O: what every query of the prompt gave, the mean over the group. */
static void twin_scores(const struct forward *f, uint32_t l, uint32_t h, double *score) {
    const struct ft_hparams *hp = &f->model->hp;
    uint32_t group = hp->n_head / hp->n_head_kv;
    struct oracle_layer layer = { .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                  .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = f->n,
                                  .d = hp->head_dim };
    double votes[N_PROMPT];
    memset(score, 0, f->n * sizeof(*score));
    for (uint32_t g = h * group; g < (h + 1) * group; g++) {
        oracle_votes(&layer, g, 0, f->n, votes);
        for (uint32_t j = 0; j < f->n; j++) {
            score[j] += votes[j] / group;
        }
    }
}

static void row_leaves(struct list *list, uint32_t j) {
    memmove(&list->row[j], &list->row[j + 1], (list->n - j - 1) * sizeof(list->row[0]));
    list->n--;
}

/* The t-th token gives a row this weight. */
static void corm_vote(struct row *row, double weight, double t) {
    row->sure = weight * t >= 1 + TIE ? t : row->sure;
    row->maybe = weight * t >= 1 - TIE ? t : row->maybe;
}

/* Behind the t-th token the session holds the rows that may stay, and none that must leave; those it
 * does not hold leave the twin.  ->  how many */
static uint32_t corm_leave(const ft_session *s, uint32_t l, uint32_t h, double t) {
    struct list *list = list_at(l, h);
    const ft_pos *pos = ft_kv_pos(s->lane.kv, l, h);
    uint32_t n_held = ft_kv_rows(s->lane.kv, l, h), n = 0;
    for (uint32_t j = list->n, at = n_held, newer = 0; j-- > 0; newer++) {
        const struct row *row = &list->row[j];
        bool is_held = at > 0 && pos[at - 1] == row->pos;
        if (is_held ? newer >= twin.window && t - row->maybe >= twin.n_vote
                    : newer < twin.window || t - row->sure < twin.n_vote) {
            fail_msg("layer %u head %u token %g: row %d, last important at %g, is %s", l, h, t,
                     row->pos, row->sure, is_held ? "still there" : "gone");
        }
        at -= is_held;
        if (!is_held) {
            row_leaves(list, j);
            n++;
        }
    }
    assert_int_equal(list->n, n_held);
    return n;
}

/* CORM: all rows of the prompt, the votes of its last n_vote tokens by query head, and the rows that
 * the session let go. */
static void corm_begin(const struct forward *f, const ft_session *s, uint32_t l, uint32_t h) {
    const struct ft_hparams *hp = &f->model->hp;
    struct list *list = list_at(l, h);
    uint32_t group = hp->n_head / hp->n_head_kv;
    struct oracle_layer layer = { .q = f->q + forward_at(f, l, hp->n_head, 0, 0),
                                  .k = f->k + forward_at(f, l, hp->n_head_kv, 0, 0),
                                  .n_head = hp->n_head,
                                  .n_head_kv = hp->n_head_kv,
                                  .n_q = f->n,
                                  .d = hp->head_dim };
    double weight[N_PROMPT];
    for (uint32_t t = f->n - FT_MIN(f->n, twin.n_vote); t < f->n; t++) {
        for (uint32_t g = h * group; g < (h + 1) * group; g++) {
            oracle_row(&layer, g, t, weight);
            for (uint32_t j = 0; j <= t; j++) {
                corm_vote(&list->row[j], weight[j], t + 1);
            }
        }
    }
    (void)corm_leave(s, l, h, f->n);
}

/* The rows that the session kept of the prompt (which ones is test_dropping.c's question), with the
 * twin's own numbers. */
static void twin_begin(const struct forward *f, const ft_session *s, uint32_t keep) {
    const struct ft_hparams *hp = &f->model->hp;
    double score[N_PROMPT];
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        uint32_t l = at / hp->n_head_kv, h = at % hp->n_head_kv;
        const ft_pos *pos = ft_kv_pos(s->lane.kv, l, h);
        struct list *list = &twin.list[at];
        twin_scores(f, l, h, score);
        list->n = twin.kind == CORM ? f->n : ft_kv_rows(s->lane.kv, l, h);
        list->limit = f->n <= keep ? keep : list->n;
        for (uint32_t j = 0; j < list->n; j++) {
            struct row *row = &list->row[j];
            ft_pos at_pos = twin.kind == CORM ? (ft_pos)j : pos[j];
            size_t from = forward_at(f, l, hp->n_head_kv, h, (uint32_t)at_pos);
            memcpy(row->k, f->kd + from, hp->head_dim * sizeof(*row->k));
            memcpy(row->v, f->v + from, hp->head_dim * sizeof(*row->v));
            forward_rotate(hp, NULL, -at_pos, row->k);
            row->pos = at_pos;
            row->score = score[at_pos];
            row->sure = row->maybe = at_pos + 1;
        }
        if (twin.kind == CORM) {
            corm_begin(f, s, l, h);
        }
    }
}

/* Attention of one query head, whose weights stay in w. */
static void twin_attend(const struct list *list, const double *q, double *w, double *out) {
    const struct ft_hparams *hp = &twin.model->hp;
    uint32_t d = hp->head_dim;
    double top = -INFINITY, sum = 0;
    memset(out, 0, d * sizeof(*out));
    for (uint32_t j = 0; j < list->n; j++) {
        double k[FT_HEAD_MAX];
        memcpy(k, list->row[j].k, d * sizeof(*k));
        forward_rotate(hp, NULL, twin.is_compact ? (ft_pos)j : list->row[j].pos, k);
        w[j] = 0;
        for (uint32_t c = 0; c < d; c++) {
            w[j] += q[c] * k[c] / sqrt((double)d);
        }
        top = fmax(top, w[j]);
    }
    for (uint32_t j = 0; j < list->n; j++) {
        w[j] = exp(w[j] - top);
        sum += w[j];
    }
    for (uint32_t j = 0; j < list->n; j++) {
        w[j] /= sum;
        for (uint32_t c = 0; c < d; c++) {
            out[c] += w[j] * list->row[j].v[c];
        }
    }
}

/* One token through all layers, behind rows that may have left in front of it (StreamingLLM). */
static void twin_step(ft_token id, ft_pos pos, double *logits) {
    const ft_model *m = twin.model;
    const struct ft_hparams *hp = &m->hp;
    uint32_t d = hp->head_dim, g = hp->n_head_kv, group = hp->n_head / g;
    double *x = test_malloc(hp->n_embd * sizeof(*x));
    double *q = test_malloc((size_t)hp->n_head * d * sizeof(*q));
    double *y = test_malloc((size_t)hp->n_head * d * sizeof(*y));
    double *k = test_malloc((size_t)g * d * sizeof(*k)),
           *v = test_malloc((size_t)g * d * sizeof(*v));
    forward_embed(m, id, x);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        forward_project(m, &m->layer[l], 0, x, q, k, v);
        for (uint32_t h = 0; h < g; h++) {
            struct list *list = list_at(l, h);
            if (twin.kind == STREAMING && twin.is_evicting && list->n == list->limit) {
                row_leaves(list, twin.sinks);
            }
            struct row *row = &list->row[list->n++];
            *row = (struct row){ .pos = pos };
            memcpy(row->k, k + (size_t)h * d, d * sizeof(*k));
            memcpy(row->v, v + (size_t)h * d, d * sizeof(*v));
        }
        for (uint32_t head = 0; head < hp->n_head; head++) {
            const struct list *list = list_at(l, head / group);
            forward_rotate(hp, NULL, twin.is_compact ? (ft_pos)list->n - 1 : pos,
                           q + (size_t)head * d);
            twin_attend(list, q + (size_t)head * d, twin.weight[l * hp->n_head + head],
                        y + (size_t)head * d);
        }
        forward_rest(m, &m->layer[l], y, x);
    }
    forward_output(m, x, logits);
    test_free(x);
    test_free(q);
    test_free(y);
    test_free(k);
    test_free(v);
}

/* What a head goes by behind a step: H2O's sums, or TOVA's mean over the layer. */
static void twin_vote(uint32_t l, uint32_t h, double *score) {
    const struct ft_hparams *hp = &twin.model->hp;
    struct list *list = list_at(l, h);
    uint32_t group = hp->n_head / hp->n_head_kv;
    uint32_t first = twin.kind == TOVA ? 0 : h * group, n = twin.kind == TOVA ? hp->n_head : group;
    for (uint32_t j = 0; j < list->n; j++) {
        double mean = 0;
        for (uint32_t head = first; head < first + n; head++) {
            mean += twin.weight[l * hp->n_head + head][j] / n;
        }
        list->row[j].score = twin.kind == TOVA ? mean : list->row[j].score + mean;
        score[j] = list->row[j].score;
    }
}

/* Every query head of the group votes for the step's token, the t-th. */
static void corm_evict(const ft_session *s, uint32_t l, uint32_t h) {
    const struct ft_hparams *hp = &twin.model->hp;
    struct list *list = list_at(l, h);
    uint32_t group = hp->n_head / hp->n_head_kv;
    double t = list->row[list->n - 1].pos + 1;
    for (uint32_t g = h * group; g < (h + 1) * group; g++) {
        for (uint32_t j = 0; j < list->n; j++) {
            corm_vote(&list->row[j], twin.weight[l * hp->n_head + g][j], t);
        }
    }
    list->row[list->n - 1].sure = list->row[list->n - 1].maybe = t;
    twin.n_left += corm_leave(s, l, h, t);
}

/* The session holds the twin's rows but one: that one had the lowest score, and leaves the twin. */
static void twin_evict(const ft_session *s, uint32_t l, uint32_t h) {
    struct list *list = list_at(l, h);
    const ft_pos *pos = ft_kv_pos(s->lane.kv, l, h);
    double score[N_ALL + 1];
    if (twin.kind == CORM) {
        corm_evict(s, l, h);
        return;
    }
    twin_vote(l, h, score);
    if (list->n <= list->limit) {
        return;
    }
    uint32_t gone = 0, least = 0;
    while (gone < list->n - 1 && list->row[gone].pos == pos[gone]) {
        gone++;
    }
    for (uint32_t j = 1; j < list->n - twin.window; j++) {
        least = score[j] <= score[least] ? j : least;
    }
    if (gone >= list->n - twin.window || score[gone] > score[least] * (1 + TIE)) {
        fail_msg("layer %u head %u of %u rows: row %u left with %g, row %u has %g", l, h, list->n,
                 gone, score[gone], least, score[least]);
    }
    row_leaves(list, gone);
    twin.n_left++;
}

static void assert_same_rows(const ft_session *s, const char *what, uint32_t step) {
    const struct ft_hparams *hp = &twin.model->hp;
    for (uint32_t at = 0; at < hp->n_layer * hp->n_head_kv; at++) {
        const struct list *list = &twin.list[at];
        uint32_t l = at / hp->n_head_kv, h = at % hp->n_head_kv;
        assert_int_equal(ft_kv_rows(s->lane.kv, l, h), list->n);
        for (uint32_t j = 0; j < list->n; j++) {
            if (ft_kv_pos(s->lane.kv, l, h)[j] != list->row[j].pos) {
                fail_msg("%s: step %u layer %u head %u row %u stands at %d, want %d", what, step, l,
                         h, j, ft_kv_pos(s->lane.kv, l, h)[j], list->row[j].pos);
            }
        }
        if (twin.is_evicting) {
            assert_in_range(list->n, 0, list->limit);
        }
    }
}

static void assert_near(const char *what, uint32_t step, const float *got, const double *want,
                        uint32_t n) {
    float *row = test_malloc(n * sizeof(*row));
    for (uint32_t t = 0; t < n; t++) {
        row[t] = (float)want[t];
    }
    double d = logp_distance(got, row, n);
    test_free(row);
    if (!(d <= LOGP_MAX)) {
        fail_msg("%s: step %u: |delta log p| is %g, at most %g", what, step, d, LOGP_MAX);
    }
}

static const struct twin_case {
    const char *spec;
    enum kind kind;
    uint32_t n, keep, window; /* n: tokens of the prompt, at most N_PROMPT */
    bool is_original, is_growing;
} twin_cases[] = {
    { "h2o:keep=24,window=5", H2O, N_PROMPT, 24, 5, true, false },
    { "h2o:keep=24,window=1", H2O, N_PROMPT, 24, 1, true, false },
    { "h2o:keep=24,window=5", H2O, 12, 24, 5, true, false }, /* within keep, and within window */
    { "h2o:keep=24,window=18", H2O, 10, 24, 18, true, false },
    { "h2o:keep=24,window=5", H2O, 24, 24, 5, true, false },
    { "h2o:keep=24,window=5", H2O, 1, 24, 5, true, false },
    { "h2o:keep=24,window=5,budget=ada,alpha=0", H2O, N_PROMPT, 24, 5, true, false },
    { "h2o:keep=24,window=5,budget=pyramid", H2O, N_PROMPT, 24, 5, true, false },
    { "h2o:keep=24,window=5,decode=off", H2O, N_PROMPT, 24, 5, true, true },
    /* without noise and at temperature 1 Keyformer's sums are H2O's: 21% of 24 rows are 5 */
    { "keyformer:keep=24,recent=21,noise=none,tau=1", H2O, N_PROMPT, 24, 5, true, false },
    { "keyformer:keep=24,recent=21,noise=none,tau=1", H2O, 12, 24, 5, true, false },
    { "keyformer:keep=24,recent=21,noise=none,tau=1,budget=ada", H2O, N_PROMPT, 24, 5, true,
      false },
    { "corm:keep=1000,recent=5,window=9", CORM, N_PROMPT, 1000, 5, true, false },
    { "corm:keep=1000,recent=1,window=2", CORM, N_PROMPT, 1000, 1, true, false },
    { "corm:keep=1000,recent=20,window=30", CORM, 25, 1000, 20, true, false }, /* votes later */
    { "corm:keep=1000,recent=12,window=3", CORM, 9, 1000, 12, true, false },
    { "tova:keep=24", TOVA, N_PROMPT, 24, 1, true, false },
    { "tova:keep=24", TOVA, 9, 24, 1, true, false },
    { "tova:keep=24,budget=pyramid", TOVA, N_PROMPT, 24, 1, true, false },
    { "streamingllm:keep=24", STREAMING, N_PROMPT, 24, 20, false, false },
    { "streamingllm:keep=24", STREAMING, 9, 24, 20, false, false },
    { "streamingllm:keep=24", STREAMING, 2, 24, 20, false, false }, /* fewer than sinks */
    { "streamingllm:keep=24,positions=original", STREAMING, N_PROMPT, 24, 20, true, false },
    { "streamingllm:keep=24,decode=off", STREAMING, N_PROMPT, 24, 20, false, true },
};

static void check_twin(const struct twin_case *c, const ft_model *model, const ft_token *id) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    ft_session *s = session_for(model, c->spec, "f32", 2);
    ft_pos pos[N_PROMPT];
    struct ft_report report;
    double *logits = test_malloc(hp->n_vocab * sizeof(*logits));
    for (uint32_t t = 0; t < c->n; t++) {
        pos[t] = (ft_pos)t;
    }
    twin.model = model;
    twin.kind = c->kind;
    twin.window = c->window;
    twin.sinks = 4;
    twin.n_vote = c->kind == CORM ? (uint32_t)atoi(strstr(c->spec, "window=") + 7) : 0;
    twin.is_compact = !c->is_original;
    twin.is_evicting = !c->is_growing;
    twin.n_left = 0;
    prompt_read(s, id, c->n);
    struct forward f = forward_run(model, id, pos, c->n, NULL, NULL);
    assert_near(c->spec, 0, ft_session_logits(s), f.logits, hp->n_vocab);
    twin_begin(&f, s, c->keep);
    for (uint32_t t = 0; t < N_STEP; t++) {
        fed(s, &id[N_PROMPT + t], 1, NULL);
        twin_step(id[N_PROMPT + t], (ft_pos)(c->n + t), logits);
        assert_near(c->spec, t + 1, ft_session_logits(s), logits, hp->n_vocab);
        for (uint32_t at = 0;
             c->kind != STREAMING && !c->is_growing && at < hp->n_layer * hp->n_head_kv; at++) {
            twin_evict(s, at / hp->n_head_kv, at % hp->n_head_kv);
        }
        assert_same_rows(s, c->spec, t + 1);
    }
    if (c->kind != STREAMING) {
        assert_int_equal(report_of(s, &report)->n_evicted, twin.n_left);
    }
    forward_done(&f);
    test_free(logits);
    ft_session_free(s);
}

static void test_twin(void **state) {
    ft_model *model = model_made("f32", *state, FT_LOAD_PLAIN);
    ft_token id[N_ALL];
    ids_random(id, N_ALL, model, 17);
    for (size_t i = 0; i < FT_COUNT(twin_cases); i++) {
        check_twin(&twin_cases[i], model, id);
    }
    ft_model_close(model);
}

/* ---- keys rotated anew ---- */

/* One layer: keys and values depend on their own token alone, so what streamingllm holds is what a
 * prompt of just those tokens holds at positions 0, 1, ...  Also where keys are stored turned. */
static void test_fresh_prefill(void **state) {
    (void)state;
    static const struct {
        const char *arguments, *kv_type;
    } models[] = {
        { "--arch llama --layers 1" TARGET, "f32" },
        { "--arch llama --layers 1" TARGET, "f32,rotate=k" },
        { "--arch qwen2 --layers 1" TARGET, "f32" },
        { "--arch qwen2 --layers 1" TARGET, "f32,rotate=kv" },
        { "--arch qwen3 --layers 1" TARGET, "f32" },
        { "--arch llama --layers 1 --rope linear" TARGET, "f32" },
        { "--arch llama --layers 1 --rope yarn" TARGET, "f32" },
        { "--arch llama --layers 1 --rope llama3" TARGET, "f32" },
    };
    enum { KEEP = 24 };
    for (size_t i = 0; i < FT_COUNT(models); i++) {
        ft_model *model = model_made("one", models[i].arguments, FT_LOAD_PLAIN);
        ft_token id[N_ALL], held[KEEP];
        ids_random(id, N_ALL, model, 3);
        ft_session *s = session_for(model, "streamingllm:keep=24", models[i].kv_type, 1);
        ft_session *fresh = session_for(model, NULL, "f32", 1);
        prompt_read(s, id, N_PROMPT);
        for (uint32_t t = N_PROMPT; t < N_ALL; t++) {
            fed(s, &id[t], 1, NULL);
            memcpy(held, id, 4 * sizeof(*id));
            memcpy(held + 4, id + t + 1 - (KEEP - 4), (KEEP - 4) * sizeof(*id));
            prompt_read(fresh, held, KEEP);
            double d = logp_distance(ft_session_logits(s), ft_session_logits(fresh), n_vocab_of(s));
            if (!(d <= LOGP_MAX)) {
                fail_msg("%s, %s: token %u: |delta log p| is %g, at most %g", models[i].arguments,
                         models[i].kv_type, t, d, LOGP_MAX);
            }
        }
        ft_session_free(fresh);
        ft_session_free(s);
        ft_model_close(model);
    }
}

/* The same token at every position of one layer: its keys differ by RoPE alone, so ggml's rotation
 * is the twin of ft_model_turns.  Angles are rounded to floats there: 300 radians to 3e-5. */
static void check_turns(const char *arguments, float rope_scale) {
    enum { N = 300 };
    ft_model *model = model_made("turns", arguments, FT_LOAD_PLAIN);
    const struct ft_hparams *hp = ft_model_hparams(model);
    struct ft_session_params params = ft_session_defaults();
    double turn[FT_HEAD_MAX / 2];
    ft_token id[N];
    params.kv_type = "f32";
    params.n_thread = 1;
    params.rope_scale = rope_scale;
    for (uint32_t t = 0; t < N; t++) {
        id[t] = 5;
    }
    ft_session *s = session_made(model, NULL, &params);
    prompt_read(s, id, N);
    ft_model_turns(model, rope_scale, turn);
    const float *k = ft_kv_k(s->lane.kv, 0, 1);
    double most = 0;
    for (uint32_t c = 0; c < hp->head_dim; c++) {
        most = fmax(most, fabs((double)k[c]));
    }
    for (uint32_t p = 1; p < N; p++) {
        for (uint32_t i = 0; i < hp->head_dim / 2; i++) {
            uint32_t a = hp->trait & FT_ROPE_NEOX ? i : 2 * i;
            uint32_t b = hp->trait & FT_ROPE_NEOX ? i + hp->head_dim / 2 : 2 * i + 1;
            double want = k[a] * cos(p * turn[i]) - k[b] * sin(p * turn[i]);
            if (!(fabs((double)k[p * hp->head_dim + a] - want) <= 1e-4 * most)) {
                fail_msg("%s: position %u pair %u: got %g want %g", arguments, p, i,
                         (double)k[p * hp->head_dim + a], want);
            }
        }
    }
    ft_session_free(s);
    ft_model_close(model);
}

static void test_turns(void **state) {
    (void)state;
    check_turns("--arch llama --layers 1" TARGET, 0);
    check_turns("--arch qwen3 --layers 1" TARGET, 0);
    check_turns("--arch qwen2 --layers 1" TARGET, 2.5f);
    check_turns("--arch llama --layers 1 --rope linear" TARGET, 0);
    check_turns("--arch llama --layers 1 --rope yarn" TARGET, 0);
    check_turns("--arch qwen2 --layers 1 --rope yarn" TARGET, 3.0f);
    check_turns("--arch llama --layers 1 --rope llama3" TARGET, 0);
}

/* ---- every method, every cache type ---- */

static const char *const specs[] = {
    "h2o:keep=40",
    "h2o:keep=40,budget=ada",
    "h2o:keep=40,budget=pyramid",
    "tova:keep=40",
    "streamingllm:keep=40",
    "streamingllm:keep=40,positions=original",
    "keyformer:keep=40",
    "keyformer:keep=40,window=8,seed=3,budget=ada",
    "keyformer:keep=40,noise=none,tau=7,budget=pyramid",
};
static const char *const types[] = { "f32", "f16", "bf16", "q8_0" };

static void assert_same_store(const char *what, const ft_session *a, const ft_session *b) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(a->lane.kv);
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) {
        uint32_t l = at / shape->n_head_kv, h = at % shape->n_head_kv;
        uint32_t n = ft_kv_rows(a->lane.kv, l, h);
        size_t bytes = n * ft_fmt_row_bytes(shape->k_fmt, shape->d);
        if (n != ft_kv_rows(b->lane.kv, l, h) ||
            memcmp(ft_kv_pos(a->lane.kv, l, h), ft_kv_pos(b->lane.kv, l, h), n * sizeof(ft_pos)) ||
            memcmp(ft_kv_k(a->lane.kv, l, h), ft_kv_k(b->lane.kv, l, h), bytes) ||
            memcmp(ft_kv_v(a->lane.kv, l, h), ft_kv_v(b->lane.kv, l, h), bytes)) {
            fail_msg("%s: layer %u head %u holds other rows", what, l, h);
        }
    }
}

/* One thread and tokens one by one; two threads and all tokens at once: the same bits.  Then what is
 * drawn, too. */
static void check_ways(const ft_model *model, const char *spec, const char *type,
                       const ft_token *id) {
    ft_session *one = session_for(model, spec, type, 1), *two = session_for(model, spec, type, 2);
    size_t n_vocab = n_vocab_of(one);
    float *logits = test_malloc(N_STEP * n_vocab * sizeof(*logits));
    ft_token a[8], b[8];
    prompt_read(one, id, N_PROMPT);
    prompt_read(two, id, N_PROMPT);
    fed(two, id + N_PROMPT, N_STEP, logits);
    for (uint32_t t = 0; t < N_STEP; t++) {
        fed(one, &id[N_PROMPT + t], 1, NULL);
        assert_same_bits(spec, ft_session_logits(one), logits + t * n_vocab, n_vocab);
    }
    assert_same_store(spec, one, two);
    tokens_drawn(one, a, 8);
    tokens_drawn(two, b, 8);
    assert_memory_equal(a, b, sizeof(a));
    assert_same_store(spec, one, two);
    test_free(logits);
    ft_session_free(one);
    ft_session_free(two);
}

static void test_ways(void **state) {
    (void)state;
    ft_model *model = model_made("q8", "--layers 3 --type q8_0 --head-dim 32" TARGET, FT_LOAD_FULL);
    ft_token id[N_ALL];
    ids_random(id, N_ALL, model, 8);
    for (size_t i = 0; i < FT_COUNT(specs) * FT_COUNT(types); i++) {
        check_ways(model, specs[i % FT_COUNT(specs)], types[i / FT_COUNT(specs)], id);
    }
    ft_model_close(model);
}

/* Bytes stay where they are for 200 tokens, no step allocates, and a prompt within keep grows to
 * keep and no further. */
static void check_flat(const ft_model *model, const char *spec, const ft_token *id, uint32_t n) {
    ft_session *s = session_for(model, spec, NULL, 1);
    const struct ft_kv_shape *shape = ft_kv_shape_of(s->lane.kv);
    bool is_watched = !strstr(spec, "streamingllm");
    struct ft_report report;
    ft_token next;
    prompt_read(s, id, n);
    uint64_t token = ft_kv_token_bytes(shape), most = 40 * token, before = 0, evicted = 0;
    if (strstr(spec, "pyramid")) {
        most = report_of(s, &report)->kv_bytes; /* rounds */
    }
    s->lane.rows.peak = s->lane.rows.now; /* of the steps alone */
    for (uint32_t t = 0; t < 240; t++) {
        tokens_drawn(s, &next, 1);
        assert_true(ft_kv_bytes(s->lane.kv) <= most);
        if (t == 40) {
            before = ft_alloc_count();
            evicted = report_of(s, &report)->n_evicted;
        }
    }
    report_of(s, &report);
    assert_int_equal(ft_alloc_count(), before);
    assert_int_equal(ft_kv_bytes(s->lane.kv), most);
    assert_int_equal(report.n_evicted - evicted, 199 * shape->n_layer * shape->n_head_kv);
    assert_int_equal(report.kv_bytes_now, most + s->decoding.sink_bytes);
    assert_int_equal(report.kv_bytes_peak, report.kv_bytes_now + (is_watched ? token : 0));
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) { /* the reserve, too */
        assert_in_range(ft_kv_cap(s->lane.kv, at / shape->n_head_kv), 1, 40 * 2 + 16);
    }
    ft_session_free(s);
}

static void test_flat(void **state) {
    (void)state;
    ft_model *model = model_made("f32", "--layers 3" TARGET, FT_LOAD_FULL);
    ft_token id[N_PROMPT];
    ids_random(id, N_PROMPT, model, 5);
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        check_flat(model, specs[i], id, N_PROMPT);
        if (!strstr(specs[i], "pyramid")) {
            check_flat(model, specs[i], id, 7);
        }
    }
    ft_model_close(model);
}

/* ---- what does not go together ---- */

static void test_refusals(void **state) {
    (void)state;
    ft_model *model = model_made("plain", "--layers 2" TARGET, FT_LOAD_PLAIN);
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    struct ft_error err;
    ft_session *s = NULL;
    ft_token id[N_PROMPT], next[40];
    ids_random(id, N_PROMPT, model, 2);
    s = session_for(model, "tova:keep=40", NULL, 1);
    prompt_read(s, id, N_PROMPT);
    assert_int_equal(ft_session_repeat(s, 80, &err), FT_ARG);
    assert_non_null(strstr(err.text, "tova drops rows at every step (decode=on)"));
    ft_session_free(s);
    params.n_predict = 100;
    params.prompt = "random:keep=50,window=8,positions=original";
    params.kv = "streamingllm:keep=30";
    s = session_made(model, NULL, &params);
    prompt_read(s, id, N_PROMPT);
    assert_true(report_says(s, "streamingllm: positions=original"));
    report_of(s, &report);
    for (uint32_t i = 0; i < report.n_setting; i++) {
        if (!strcmp(report.setting[i].name, "positions")) {
            assert_string_equal(report.setting[i].value, "original");
        }
    }
    tokens_drawn(s, next, 40);
    ft_session_free(s);
    params.is_strict = true;
    s = session_made(model, NULL, &params);
    assert_int_equal(ft_session_prompt(s, id, N_PROMPT, 0, &err), FT_UNSUP);
    ft_session_free(s);
    params.is_strict = false;
    params.prompt = NULL;
    params.is_exact = true; /* evidence is ours, attention ggml's: heads of one length */
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        params.kv = specs[i];
        if (strstr(specs[i], "ada")) {
            assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
            continue;
        }
        s = session_made(model, NULL, &params);
        prompt_read(s, id, N_PROMPT);
        tokens_drawn(s, next, 40);
        assert_true(report_of(s, &report)->n_evicted > 0);
        ft_session_free(s);
    }
    ft_model_close(model);
}

int main(void) {
    static const char *const archs[] = { "--arch llama --layers 3" TARGET,
                                         "--arch qwen3 --layers 2" TARGET };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_twin, (void *)(uintptr_t)archs[0]),
        cmocka_unit_test_prestate(test_twin, (void *)(uintptr_t)archs[1]),
        cmocka_unit_test(test_fresh_prefill),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("rows that leave while decoding", tests, NULL, NULL);
}
