/* SPDX-License-Identifier: Apache-2.0 */
/* choose.c - from the evidence of a layer to the rows that each of its KV heads keeps.
 *
 * Runs of the engine and ft_score_arrays both go through here, so that what a researcher sees on
 * arrays is what a run does.
 */
#include <string.h>

#include "score/score.h"

/* Scratch for comparing the scores of all heads of a layer. */
static ft_status heads_init(struct ft_chooser *c, struct ft_error *err) {
    struct ft_heads *heads = &c->heads;
    size_t n = (size_t)c->p.n_head * c->n_col;
    if (n > UINT32_MAX) {
        return ft_fail(err, FT_LIMIT, 0, "budget=ada compares at most 2^32 rows, a layer has %zu",
                       n);
    }
    *heads = (struct ft_heads){ .score = c->pooled, .n_head = c->p.n_head, .n = c->n_col };
    heads->copy = ft_alloc(n, sizeof *heads->copy);
    heads->work = ft_alloc(n, sizeof *heads->work);
    heads->ranked = ft_alloc((size_t)c->p.n_head * c->layers.most + 1, sizeof *heads->ranked);
    return heads->copy && heads->work && heads->ranked
               ? FT_OK
               : ft_fail(err, FT_NOMEM, 0, "no memory to compare %zu rows of a layer", n);
}

/* What the second stage needs: sizes of values, and a list of at most `most` rows. */
static ft_status critical_init(struct ft_chooser *c, uint32_t most, struct ft_error *err) {
    size_t n = (size_t)c->p.n_head * c->n_col;
    c->output_norm = ft_alloc(n, sizeof *c->output_norm);
    c->second = ft_alloc(c->n_col, sizeof *c->second);
    c->chosen = ft_alloc((size_t)most + 1, sizeof *c->chosen);
    return c->output_norm && c->second && c->chosen
               ? FT_OK
               : ft_fail(err, FT_NOMEM, 0, "no memory for the sizes of %zu values", n);
}

ft_status ft_chooser_init(struct ft_chooser *c, const struct ft_chooser_params *params,
                          struct ft_error *err) {
    const struct ft_look *look = &params->look;
    size_t n_head = params->n_head;
    ft_assert(params->keep >= look->window && params->n_prompt > look->window + look->refeed);
    uint32_t n_col = params->n_prompt - look->window - look->refeed;
    const struct ft_split *split = ft_choice_split(params->choice);
    *c = (struct ft_chooser){ .p = *params, .n_col = n_col };
    c->layers = ft_split_layers(split, params->keep - look->window, n_col, params->n_prompt,
                                params->n_layer);
    uint32_t most = split->budget == FT_BUDGET_ADA ? n_col : c->layers.most;
    c->rank_cap = FT_MIN(FT_MAX(most, params->n_vertical), n_col);
    c->kept_cap = most + look->window;
    c->joined = look->is_layer_wide ? ft_alloc(n_col, sizeof *c->joined) : NULL;
    c->pooled = ft_alloc(n_head * n_col, sizeof *c->pooled);
    c->n_free = ft_alloc(n_head, sizeof *c->n_free);
    c->ranked = ft_alloc(n_head * c->rank_cap + 1, sizeof *c->ranked);
    c->n_ranked = ft_alloc(n_head, sizeof *c->n_ranked);
    c->kept = ft_alloc(n_head * c->kept_cap + 1, sizeof *c->kept);
    c->n_kept = ft_alloc(n_head, sizeof *c->n_kept);
    c->work = ft_alloc(n_col, sizeof *c->work);
    if ((look->is_layer_wide && !c->joined) || !c->pooled || !c->n_free || !c->ranked ||
        !c->n_ranked || !c->kept || !c->n_kept || !c->work) {
        return ft_fail(err, FT_NOMEM, 0, "no memory to choose among %u rows", n_col);
    }
    if (split->rank == FT_RANK_CRITICAL) {
        FT_TRY(critical_init(c, most, err));
    }
    return split->budget == FT_BUDGET_ADA ? heads_init(c, err) : FT_OK;
}

void ft_chooser_done(struct ft_chooser *c) {
    ft_free(c->joined);
    ft_free(c->pooled);
    ft_free(c->n_free);
    ft_free(c->ranked);
    ft_free(c->n_ranked);
    ft_free(c->kept);
    ft_free(c->n_kept);
    ft_free(c->work);
    ft_free(c->output_norm);
    ft_free(c->second);
    ft_free(c->chosen);
    ft_free(c->heads.copy);
    ft_free(c->heads.work);
    ft_free(c->heads.ranked);
    *c = (struct ft_chooser){ .n_col = 0 };
}

const float *ft_chooser_column(const struct ft_chooser *c, const float *column, uint32_t h) {
    if (column == NULL) {
        return NULL;
    }
    return c->joined != NULL ? c->joined : column + (size_t)h * c->n_col;
}

/* Groups are equally large, so the mean of their means is the mean over all query heads. */
void ft_mean_heads(const float *column, uint32_t n_head, size_t stride, uint32_t n, float *out) {
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0;
        for (uint32_t h = 0; h < n_head; h++) {
            sum += (double)column[h * stride + j];
        }
        out[j] = (float)(sum / n_head);
    }
}

void ft_chooser_score(struct ft_chooser *c, uint32_t layer, const float *column) {
    const struct ft_choice *choice = c->p.choice;
    if (c->joined != NULL) {
        ft_mean_heads(column, c->p.n_head, c->n_col, c->n_col, c->joined);
    }
    for (uint32_t h = 0; h < c->p.n_head; h++) {
        const float *own = ft_chooser_column(c, column, h);
        struct ft_evidence evidence = {
            .n_row = c->n_col,
            .layer = layer,
            .head = h,
            .n_voter = c->p.n_voter,
            .mass = c->p.look.column == FT_COLUMN_MASS ? own : NULL,
            .norm = c->p.look.column == FT_COLUMN_NORM ? own : NULL,
        };
        choice->method->score(&evidence, choice->params, c->pooled + (size_t)h * c->n_col);
    }
}

static void split_rows(struct ft_chooser *c, uint32_t layer) {
    const struct ft_split *split = ft_choice_split(c->p.choice);
    uint32_t n_free = c->layers.most - layer * c->layers.step;
    for (uint32_t h = 0; h < c->p.n_head; h++) {
        c->n_free[h] = n_free;
    }
    if (split->budget == FT_BUDGET_ADA) {
        ft_split_heads(split, &c->heads, n_free, c->n_free);
    }
}

/* rank=critical: the rows of head h that stay, in place of the best by score. */
static const uint32_t *second_stage(const struct ft_chooser *c, uint32_t h) {
    struct ft_critical critical = { .score = c->pooled + (size_t)h * c->n_col,
                                    .norm = c->output_norm + (size_t)h * c->n_col,
                                    .n = c->n_col,
                                    .rho = ft_choice_split(c->p.choice)->rho,
                                    .second = c->second,
                                    .work = c->work };
    (void)ft_critical_rank(&critical, c->n_free[h], c->chosen);
    return c->chosen;
}

void ft_chooser_keep(struct ft_chooser *c, uint32_t layer) {
    const struct ft_look *look = &c->p.look;
    split_rows(c, layer);
    for (uint32_t h = 0; h < c->p.n_head; h++) {
        uint32_t *ranked = c->ranked + (size_t)h * c->rank_cap;
        uint32_t n_rank = FT_MIN(FT_MAX(c->n_free[h], c->p.n_vertical), c->n_col);
        struct ft_budget budget = { .keep = c->n_free[h] + look->window,
                                    .n_prompt = c->p.n_prompt,
                                    .n_rank = n_rank };
        c->n_ranked[h] =
            ft_keep_rank(c->pooled + (size_t)h * c->n_col, c->n_col, n_rank, c->work, ranked);
        const uint32_t *chosen = c->output_norm != NULL ? second_stage(c, h) : ranked;
        c->n_kept[h] = ft_keep_retain(chosen, look, &budget, c->kept + (size_t)h * c->kept_cap);
    }
}
