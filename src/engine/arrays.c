/* SPDX-License-Identifier: Apache-2.0 */
/* arrays.c - a method's scoring and selection on the caller's own queries and keys, in fp32.
 *
 * Researchers compare these numbers with their tensors, so nothing here is arithmetic of its own:
 * the evidence kernels and the score and keep functions are those of a run.
 */
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "kern/kern.h"
#include "score/score.h"

enum {
    ALIGN = 64,        /* kernels want their scratch so */
    HEAD_STEP = 8,     /* kernels take heads of 16, 24, ... floats; shorter rows are padded with */
    HEAD_MIN = 16,     /* zeros, which leave every dot product as it is */
    HEADS_MAX = 65536, /* keeps products of sizes below far away from 2^64 */
};

/* One call: what is asked, and the buffers of one layer. */
struct arrays {
    const struct ft_score_input *in;
    struct ft_choice choice;
    struct ft_look look;
    struct ft_facts facts;
    uint32_t keep, window; /* rows; the window clamped to the prompt */
    uint32_t n_voter;      /* of the largest job */
    uint32_t n_col, width; /* width: d padded */
    uint32_t n_column;     /* heads that votes are folded for: KV heads, or all */
    float *q;              /* [n_voter][n_head][width] */
    float *k;              /* [n_head_kv][n_q][width] */
    struct ft_span *head;  /* [n_head_kv], or one for each query head */
    uint32_t *vis;         /* [n_voter] */
    float *weight, *lse;   /* [n_voter], [n_head][n_voter] */
    float *mass;           /* [n_column][n_col]; key norms where these are looked at */
    void *scratch, *scratch_base;
    uint32_t *work; /* ranking */
};

/* ---- input ---- */

static ft_status shape_check(const struct ft_score_input *in, struct ft_error *err) {
    if (in->n_layer == 0 || in->layer == NULL) {
        return ft_fail(err, FT_ARG, 0, "layers: there are none, expected at least one");
    }
    if (in->n_head == 0 || in->n_head > HEADS_MAX || in->n_head_kv == 0 ||
        in->n_head % in->n_head_kv != 0 || in->n_head / in->n_head_kv > FT_TILE_QUERY) {
        return ft_fail(err, FT_ARG, 0,
                       "q has %u heads and k has %u, expected a multiple of 1 to %d (at most %d)",
                       in->n_head, in->n_head_kv, FT_TILE_QUERY, HEADS_MAX);
    }
    if (in->d == 0 || in->d > FT_HEAD_MAX) {
        return ft_fail(err, FT_ARG, 0, "rows have %u numbers, expected 1 to %d", in->d,
                       FT_HEAD_MAX);
    }
    for (uint32_t l = 0; l < in->n_layer; l++) {
        if (in->layer[l].q == NULL || in->layer[l].k == NULL) {
            return ft_fail(err, FT_ARG, l, "layer %u: q or k is missing", l);
        }
    }
    return FT_OK;
}

static ft_status input_check(enum ft_stage stage, const struct ft_score_input *in,
                             struct ft_error *err) {
    if (in->n_prompt == 0 || in->n_prompt > INT32_MAX || in->n_more > INT32_MAX - in->n_prompt) {
        return ft_fail(err, FT_ARG, 0, "n_prompt is %u with %u further rows, expected 1 to %d",
                       in->n_prompt, in->n_more, INT32_MAX);
    }
    if (in->score == NULL) {
        return shape_check(in, err);
    }
    if (stage != FT_STAGE_PROMPT) {
        return ft_fail(err, FT_ARG, 0, "score: only a prompt method selects from ready scores");
    }
    if (in->layer != NULL) {
        return ft_fail(err, FT_ARG, 0, "both score and layers are given, expected one of them");
    }
    for (uint32_t j = 0; j < in->n_prompt; j++) {
        if (!(in->score[j] >= 0) || isinf(in->score[j])) {
            return ft_fail(err, FT_ARG, j, "score[%u] is %g, expected a number >= 0", j,
                           (double)in->score[j]);
        }
    }
    return FT_OK;
}

/* A lookahead that was given and the rows that are there say the same: as many drafted tokens for
 * the KV stage; for the prompt stage the steps behind the prefill, which is the first one. */
static ft_status lookahead_check(const struct arrays *a, enum ft_stage stage, const char *spec,
                                 struct ft_error *err) {
    uint32_t asked = 0;
    if (a->in->score != NULL || spec == NULL || strstr(spec, "lookahead=") == NULL ||
        !ft_choice_uint(&a->choice, "lookahead", &asked)) {
        return FT_OK;
    }
    uint32_t n_row = stage == FT_STAGE_PROMPT ? asked - 1 : asked;
    if (n_row != a->in->n_more) {
        return ft_fail(err, FT_FORMAT, 0,
                       "%s: lookahead=%u means %u rows beyond n_prompt, the arrays have %u",
                       a->choice.method->name, asked, n_row, a->in->n_more);
    }
    return FT_OK;
}

static ft_status choice_check(struct arrays *a, struct ft_error *err) {
    const struct ft_amount *amount = ft_choice_amount(&a->choice);
    if (a->choice.method->score == NULL) {
        return ft_fail(err, FT_ARG, 0, "%s scores nothing: choose a method that does",
                       a->choice.method->name);
    }
    if (amount->unit == FT_AMOUNT_BYTES) {
        return ft_fail(err, FT_ARG, 0, "keep in bytes needs a model: give rows or a share");
    }
    a->facts = (struct ft_facts){
        .n_prompt = a->in->n_prompt,
        /* Ready scores come from any number of layers: every start_layer will do. */
        .n_layer = a->in->score != NULL ? UINT32_MAX : a->in->n_layer,
        .n_predict = a->in->n_more,
    };
    a->keep = ft_choice_keep(&a->choice, &a->facts);
    if (a->keep < a->in->n_prompt) {
        FT_TRY(ft_choice_budget_check(&a->choice, &a->facts, err));
    }
    a->choice.method->look(a->choice.params, &a->facts, &a->look);
    if (a->choice.method->observe != NULL) {
        return ft_fail(err, FT_ARG, 0,
                       "%s: votes count one by one, with a state beside each row, which a run has "
                       "and arrays do not: use generate or eval",
                       a->choice.method->name);
    }
    if (ft_choice_split(&a->choice)->rank == FT_RANK_CRITICAL) {
        return ft_fail(
            err, FT_ARG, 0,
            "%s: rank=critical needs values and a model's output projection, arrays have "
            "queries and keys alone",
            a->choice.method->name);
    }
    if (a->choice.method->has_trial && a->look.window + a->in->n_more == 0) {
        return ft_fail(err, FT_FORMAT, 0, "%s: window=0 and no rows beyond n_prompt: nobody votes",
                       a->choice.method->name);
    }
    if (a->look.column == FT_COLUMN_NONE && a->in->score != NULL) {
        return ft_fail(err, FT_ARG, 0, "%s does not go by scores: give layers",
                       a->choice.method->name);
    }
    if (a->look.lookahead == 0 && a->in->n_more > 0) {
        return ft_fail(err, FT_FORMAT, 0,
                       "%s looks at the prompt alone, the arrays have %u rows beyond n_prompt",
                       a->choice.method->name, a->in->n_more);
    }
    return FT_OK;
}

/* ---- buffers ---- */

static ft_status buffers_new(struct arrays *a, struct ft_error *err) {
    const struct ft_score_input *in = a->in;
    size_t n_q = (size_t)in->n_prompt + in->n_more, voter = a->n_voter;
    a->width = (in->d + HEAD_STEP - 1) / HEAD_STEP * HEAD_STEP;
    a->width = FT_MAX(a->width, HEAD_MIN);
    size_t scratch = ft_attn_scratch_bytes(in->n_head / in->n_head_kv, a->width);
    a->q = ft_alloc(voter * in->n_head * a->width, sizeof(*a->q));
    a->k = ft_alloc((size_t)in->n_head_kv * n_q * a->width, sizeof(*a->k));
    a->n_column = a->look.is_group_max || a->look.head_pool > 0 ? in->n_head : in->n_head_kv;
    a->head = ft_alloc(a->n_column, sizeof(*a->head));
    a->vis = ft_alloc(voter, sizeof(*a->vis));
    a->weight = ft_alloc(voter, sizeof(*a->weight));
    a->lse = ft_alloc(voter * in->n_head, sizeof(*a->lse));
    a->mass = ft_alloc((size_t)a->n_column * a->n_col, sizeof(*a->mass));
    a->scratch_base = ft_alloc(scratch + ALIGN, 1);
    if (a->q == NULL || a->k == NULL || a->head == NULL || a->vis == NULL || a->weight == NULL ||
        a->lse == NULL || a->mass == NULL || a->scratch_base == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for one layer of %zu rows", n_q);
    }
    uintptr_t at = (uintptr_t)a->scratch_base;
    a->scratch = (unsigned char *)a->scratch_base + (ALIGN - at % ALIGN) % ALIGN;
    return FT_OK;
}

static void buffers_free(struct arrays *a) {
    ft_free(a->q);
    ft_free(a->k);
    ft_free(a->head);
    ft_free(a->vis);
    ft_free(a->weight);
    ft_free(a->lse);
    ft_free(a->mass);
    ft_free(a->scratch_base);
    ft_free(a->work);
    ft_choice_done(&a->choice);
}

static ft_status head_new(struct ft_score_head *head, uint32_t n_mass, uint32_t n_rank,
                          uint32_t n_kept, struct ft_error *err) {
    head->mass = ft_alloc(FT_MAX(n_mass, 1), sizeof(*head->mass));
    head->pooled = ft_alloc(FT_MAX(n_mass, 1), sizeof(*head->pooled));
    head->ranked = ft_alloc(FT_MAX(n_rank, 1), sizeof(*head->ranked));
    head->kept = ft_alloc(FT_MAX(n_kept, 1), sizeof(*head->kept));
    head->n_mass = n_mass;
    if (head->mass == NULL || head->pooled == NULL || head->ranked == NULL || head->kept == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for %u scores", n_mass);
    }
    return FT_OK;
}

static void keep_all(struct ft_score_head *head, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        head->kept[j] = j;
    }
    head->n_kept = n;
}

/* ---- evidence ---- */

static void keys_load(struct arrays *a, uint32_t l) {
    const struct ft_score_input *in = a->in;
    size_t n_q = (size_t)in->n_prompt + in->n_more;
    uint32_t group = a->n_column / in->n_head_kv;
    for (uint32_t h = 0; h < in->n_head_kv; h++) {
        float *rows = a->k + h * n_q * a->width;
        for (size_t j = 0; j < n_q; j++) {
            memcpy(rows + j * a->width, in->layer[l].k + (h * n_q + j) * in->d,
                   in->d * sizeof(float));
        }
        for (uint32_t g = 0; g < group; g++) {
            a->head[h * group + g] = (struct ft_span){ .k = rows, .n_row = (uint32_t)n_q };
        }
    }
}

/* What rows [first, first + n) of layer l, weighted by the ramp, give to each column: a->mass. */
static void vote(struct arrays *a, uint32_t l, uint32_t first, uint32_t n) {
    static const enum ft_reduce reduce_of[] = { [FT_FOLD_MAX] = FT_REDUCE_MAX,
                                                [FT_FOLD_MEAN] = FT_REDUCE_MEAN,
                                                [FT_FOLD_SUM] = FT_REDUCE_SUM };
    const struct ft_score_input *in = a->in;
    size_t n_q = (size_t)in->n_prompt + in->n_more;
    for (uint32_t i = 0; i < n; i++) {
        a->vis[i] = a->look.is_prompt_only ? FT_MIN(first + i + 1, in->n_prompt) : first + i + 1;
        a->weight[i] = ft_ramp_weight(a->look.ramp, i, n);
        for (uint32_t g = 0; g < in->n_head; g++) {
            memcpy(a->q + ((size_t)i * in->n_head + g) * a->width,
                   in->layer[l].q + (g * n_q + first + i) * in->d, in->d * sizeof(float));
        }
    }
    struct ft_evidence_job job = {
        .q = a->q,
        .vis = a->vis,
        .weight = a->look.ramp == FT_RAMP_OFF ? NULL : a->weight,
        .head = a->head,
        .lse = a->lse,
        .mass = a->mass,
        .n_voter = n,
        .n_head = in->n_head,
        .n_head_kv = a->n_column,
        .d = a->width,
        .n_col = a->n_col,
        .k_fmt = FT_F32,
        .red = reduce_of[a->look.fold],
        .scale = (float)(1 / sqrt((double)in->d)),
    };
    for (uint32_t item = 0; item < ft_evidence_lse_items(&job); item++) {
        ft_evidence_lse(ft_kern(), &job, item, a->scratch);
    }
    for (uint32_t item = 0; item < ft_evidence_mass_items(&job); item++) {
        ft_evidence_mass(ft_kern(), &job, item, a->scratch);
    }
    if (a->look.is_group_max) {
        ft_group_max(a->mass, in->n_head, in->n_head_kv, a->n_col);
    }
}

/* ---- kv stage: one answer per KV head ---- */

static void copy(uint32_t *to, const uint32_t *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

/* The answer of KV head h of a layer; dense: everything stays, and the scores say what they say. */
static ft_status kv_head(const struct arrays *a, const struct ft_chooser *c, bool is_dense,
                         uint32_t h, struct ft_score_head *head, struct ft_error *err) {
    uint32_t n = a->in->n_prompt;
    uint32_t n_ranked = is_dense ? 0 : c->n_ranked[h], n_kept = is_dense ? n : c->n_kept[h];
    FT_TRY(head_new(head, a->n_col, n_ranked, n_kept, err));
    if (a->n_col > 0) {
        const float *column =
            ft_chooser_column(c, a->look.column == FT_COLUMN_NONE ? NULL : a->mass, h);
        if (column != NULL) {
            memcpy(head->mass, column, a->n_col * sizeof(*column));
        }
        memcpy(head->pooled, c->pooled + (size_t)h * a->n_col, a->n_col * sizeof(*head->pooled));
    }
    if (is_dense) {
        keep_all(head, n);
        return FT_OK;
    }
    copy(head->ranked, c->ranked + (size_t)h * c->rank_cap, n_ranked);
    copy(head->kept, c->kept + (size_t)h * c->kept_cap, n_kept);
    head->n_ranked = n_ranked;
    head->n_kept = n_kept;
    return FT_OK;
}

/* What a layer's rows are known by: a->mass, unless nothing is looked at. */
static void kv_column(struct arrays *a, uint32_t l) {
    const struct ft_score_input *in = a->in;
    if (a->look.column == FT_COLUMN_NONE) {
        return;
    }
    keys_load(a, l);
    if (a->look.column == FT_COLUMN_MASS) {
        uint32_t n_q = in->n_prompt + in->n_more;
        vote(a, l, n_q - a->n_voter, a->n_voter);
        return;
    }
    for (uint32_t h = 0; h < in->n_head_kv; h++) {
        ft_evidence_norms(ft_kern(), &a->head[h], FT_F32, a->width, a->n_col,
                          a->mass + (size_t)h * a->n_col);
    }
}

static ft_status kv_layer(struct arrays *a, struct ft_chooser *c, bool is_dense, uint32_t l,
                          struct ft_score_head *head, struct ft_error *err) {
    if (a->n_col > 0) {
        kv_column(a, l);
        ft_chooser_score(c, l, a->mass);
    }
    if (!is_dense) {
        ft_chooser_keep(c, l);
    }
    for (uint32_t h = 0; h < a->in->n_head_kv; h++) {
        FT_TRY(kv_head(a, c, is_dense, h, &head[h], err));
    }
    return FT_OK;
}

static ft_status kv_run(struct arrays *a, struct ft_score_output *out, struct ft_error *err) {
    const struct ft_score_input *in = a->in;
    const struct ft_look *look = &a->look;
    struct ft_chooser chooser = { .n_col = 0 };
    uint32_t tail = look->window + look->refeed;
    bool is_dense = in->n_prompt <= a->keep;
    ft_status status = FT_OK;
    a->n_col = in->n_prompt > tail ? in->n_prompt - tail : 0;
    a->n_voter = look->is_all_voting ? in->n_prompt + in->n_more : tail + in->n_more;
    if (a->n_col > 0) {
        struct ft_chooser_params params = { .choice = &a->choice,
                                            .look = *look,
                                            .n_layer = in->n_layer,
                                            .n_head = in->n_head_kv,
                                            .n_prompt = in->n_prompt,
                                            .keep = is_dense ? look->window : a->keep };
        FT_TRY(buffers_new(a, err));
        status = ft_chooser_init(&chooser, &params, err);
    }
    for (uint32_t l = 0; status == FT_OK && l < in->n_layer; l++) {
        status = kv_layer(a, &chooser, is_dense, l, &out->head[(size_t)l * in->n_head_kv], err);
    }
    ft_chooser_done(&chooser);
    return status;
}

/* ---- prompt stage: one answer ---- */

/* The window of the prompt votes, then every row behind it: a window of one, with weight 1. */
static void prompt_step(struct arrays *a, struct ft_folding *folding, uint32_t step) {
    const struct ft_score_input *in = a->in;
    for (uint32_t l = a->look.layer_first; l < in->n_layer; l++) {
        keys_load(a, l);
        if (step == 0) {
            vote(a, l, in->n_prompt - a->window, a->window);
        } else {
            vote(a, l, in->n_prompt + step - 1, 1);
        }
        ft_folding_layer(folding, a->mass);
    }
    ft_folding_step(folding);
}

static ft_status prompt_score(struct arrays *a, float *score, struct ft_error *err) {
    const struct ft_score_input *in = a->in;
    struct ft_folding folding = { .n = 0 };
    ft_status status =
        ft_folding_init(&folding, &a->look, in->n_head, in->n_head_kv, in->n_prompt, err);
    for (uint32_t step = 0; status == FT_OK && step <= in->n_more; step++) {
        prompt_step(a, &folding, step);
    }
    if (status == FT_OK) {
        float *found = ft_folding_end(&folding);
        memcpy(score, found, in->n_prompt * sizeof(*score));
        ft_free(found);
    }
    ft_folding_done(&folding);
    return status;
}

static ft_status prompt_run(struct arrays *a, struct ft_score_output *out, struct ft_error *err) {
    const struct ft_method *method = a->choice.method;
    struct ft_score_head *head = &out->head[0];
    uint32_t n = a->in->n_prompt;
    struct ft_budget budget = { .keep = a->keep, .n_prompt = n, .n_rank = a->keep };
    FT_TRY(head_new(head, n, 0, FT_MIN(n, a->keep), err));
    a->work = ft_alloc(ft_keep_work(n), sizeof(*a->work));
    if (a->work == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to rank %u tokens", n);
    }
    if (a->in->score != NULL) {
        memcpy(head->mass, a->in->score, n * sizeof(*head->mass));
    } else if (a->look.column != FT_COLUMN_NONE) {
        a->n_col = n;
        a->n_voter = a->window = FT_MIN(a->look.window, n);
        FT_TRY(buffers_new(a, err));
        FT_TRY(prompt_score(a, head->mass, err));
    }
    struct ft_evidence evidence = { .n_row = n, .mass = head->mass };
    method->score(&evidence, a->choice.params, head->pooled);
    head->n_kept = method->keep(head->pooled, a->choice.params, &budget, a->work, head->kept);
    return FT_OK;
}

ft_status ft_score_arrays(enum ft_stage stage, const char *spec, const struct ft_score_input *in,
                          struct ft_score_output *out, struct ft_error *err) {
    struct arrays a = { .in = in };
    struct ft_score_output found = { .n_head = 1 };
    FT_TRY(ft_choice_parse(stage, spec, &a.choice, err));
    ft_status status = input_check(stage, in, err);
    if (status == FT_OK) {
        status = lookahead_check(&a, stage, spec, err);
    }
    if (status == FT_OK) {
        status = choice_check(&a, err);
    }
    if (status != FT_OK) {
        goto out;
    }
    if (stage == FT_STAGE_KV) {
        if (in->n_layer > UINT32_MAX / in->n_head_kv) {
            status = ft_fail(err, FT_ARG, 0, "%u layers of %u KV heads are too many", in->n_layer,
                             in->n_head_kv);
            goto out;
        }
        found.n_head = in->n_layer * in->n_head_kv;
    }
    found.head = ft_alloc(found.n_head, sizeof(*found.head));
    if (found.head == NULL) {
        status = ft_fail(err, FT_NOMEM, 0, "no memory for %u heads", found.n_head);
        goto out;
    }
    status = stage == FT_STAGE_KV ? kv_run(&a, &found, err) : prompt_run(&a, &found, err);
out:
    buffers_free(&a);
    if (status != FT_OK) {
        ft_score_free(&found);
        return status;
    }
    *out = found;
    return FT_OK;
}

void ft_score_free(struct ft_score_output *out) {
    for (uint32_t i = 0; out->head != NULL && i < out->n_head; i++) {
        ft_free(out->head[i].mass);
        ft_free(out->head[i].pooled);
        ft_free(out->head[i].ranked);
        ft_free(out->head[i].kept);
    }
    ft_free(out->head);
    *out = (struct ft_score_output){ .n_head = 0 };
}
