/* SPDX-License-Identifier: Apache-2.0 */
/* importance.c - scores out of sessions, and an estimate compared with the truth. */
#include "eval/importance.h"

#include <math.h>
#include <string.h>

/* ---- scores ---- */

static ft_status take(struct ft_scores *out, const float *score, uint32_t list,
                      struct ft_error *error) {
    float *own = out->score + (size_t)list * out->n;
    for (uint32_t j = 0; j < out->n; j++) {
        if (!isfinite(score[j])) {
            return ft_fail(error, FT_INTERNAL, j, "the score of token %u is no number", j);
        }
        own[j] = score[j];
    }
    return FT_OK;
}

static ft_status take_all(const struct ft_scores_params *params, const ft_session *session,
                          struct ft_scores *out, struct ft_error *error) {
    bool is_kv = params->stage == FT_STAGE_KV;
    const float *score = NULL;
    struct ft_model_info info;
    ft_model_info(params->target, &info);
    out->n_layer = is_kv ? info.n_layer : 1;
    out->n_head = is_kv ? info.n_head_kv : 1;
    out->n =
        is_kv ? ft_session_kv_scores(session, 0, 0, &score) : ft_session_scores(session, &score);
    if (out->n == 0) {
        return ft_fail(error, FT_LIMIT, 0, "%.60s ranks nothing in a prompt of %u tokens%s%.100s",
                       params->spec, params->n, out->report.n_fallback > 0 ? ": " : "",
                       out->report.n_fallback > 0 ? out->report.fallback[0] : "");
    }
    uint32_t n_list = out->n_layer * out->n_head;
    out->score = ft_alloc((size_t)n_list * out->n, sizeof *out->score);
    if (!out->score) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for %u lists of %u scores", n_list,
                       out->n);
    }
    for (uint32_t i = 0; i < n_list; i++) {
        if (is_kv) {
            ft_session_kv_scores(session, i / out->n_head, i % out->n_head, &score);
        }
        FT_TRY(take(out, score, i, error));
    }
    return FT_OK;
}

ft_status ft_scores_read(const struct ft_scores_params *params, struct ft_scores *out,
                         struct ft_error *error) {
    struct ft_session_params own = *params->session;
    ft_session *session = NULL;
    *out = (struct ft_scores){ .n = 0 };
    own.prompt = params->stage == FT_STAGE_PROMPT ? params->spec : NULL;
    own.kv = params->stage == FT_STAGE_KV ? params->spec : NULL;
    own.is_kv_scored = params->stage == FT_STAGE_KV;
    own.self_layers = params->self_layers;
    FT_TRY(ft_session_new(params->target, params->draft, &own, &session, error));
    params->guard(session);
    ft_status status = ft_session_prompt(session, params->id, params->n, params->n_head, error);
    params->guard(NULL);
    if (status == FT_OK) {
        ft_session_report(session, &out->report);
        status = take_all(params, session, out, error);
    }
    ft_session_free(session);
    return status;
}

void ft_scores_done(struct ft_scores *scores) {
    ft_free(scores->score);
    *scores = (struct ft_scores){ .n = 0 };
}

/* ---- compared ---- */

struct mean { /* of the values that are there */
    double sum;
    uint32_t n;
};

static void add(struct mean *mean, double value) {
    if (isfinite(value)) {
        mean->sum += value;
        mean->n++;
    }
}

static double mean_of(const struct mean *mean) {
    return mean->n > 0 ? mean->sum / mean->n : (double)NAN;
}

struct means {
    struct mean r2, r2_log, spearman, overlap[FT_BUDGETS_CAP];
};

static ft_status compare_lists(const struct ft_scores *a, const struct ft_scores *b,
                               const struct ft_budgets *budgets, struct ft_importance *out,
                               struct ft_error *error) {
    struct means all = { .r2 = { .n = 0 } };
    for (uint32_t l = 0; l < a->n_layer; l++) {
        struct mean r2 = { .n = 0 }, overlap = { .n = 0 };
        for (uint32_t h = 0; h < a->n_head; h++) {
            size_t list = (size_t)l * a->n_head + h;
            struct ft_agreement one;
            FT_TRY(ft_agreement_of(a->score + list * a->n, b->score + list * b->n, out->n, budgets,
                                   &one, error));
            add(&all.r2, one.r2);
            add(&r2, one.r2);
            add(&all.r2_log, one.r2_log);
            add(&all.spearman, one.spearman);
            add(&overlap, one.overlap[budgets->stated]);
            for (uint32_t i = 0; i < budgets->n; i++) {
                add(&all.overlap[i], one.overlap[i]);
            }
        }
        out->r2_layer[l] = mean_of(&r2);
        out->overlap_layer[l] = mean_of(&overlap);
    }
    out->mean.r2 = mean_of(&all.r2);
    out->mean.r2_log = mean_of(&all.r2_log);
    out->mean.spearman = mean_of(&all.spearman);
    for (uint32_t i = 0; i < budgets->n; i++) {
        out->mean.overlap[i] = mean_of(&all.overlap[i]);
    }
    return FT_OK;
}

ft_status ft_importance_of(const struct ft_scores *estimate, const struct ft_scores *truth,
                           const struct ft_budgets *budgets, struct ft_importance *out,
                           struct ft_error *error) {
    *out =
        (struct ft_importance){ .n_layer = estimate->n_layer, .n = FT_MIN(estimate->n, truth->n) };
    if (estimate->n_layer != truth->n_layer || estimate->n_head != truth->n_head) {
        return ft_fail(error, FT_MISMATCH, 0, "%u x %u lists of scores against %u x %u",
                       estimate->n_layer, estimate->n_head, truth->n_layer, truth->n_head);
    }
    for (uint32_t i = 0; i < budgets->n; i++) {
        if (budgets->value[i] >= out->n) {
            return ft_fail(error, FT_LIMIT, i, "a budget of %u where %u tokens have a score",
                           budgets->value[i], out->n);
        }
    }
    out->r2_layer = ft_alloc(out->n_layer, sizeof *out->r2_layer);
    out->overlap_layer = ft_alloc(out->n_layer, sizeof *out->overlap_layer);
    return out->r2_layer && out->overlap_layer
               ? compare_lists(estimate, truth, budgets, out, error)
               : ft_fail(error, FT_NOMEM, 0, "not enough memory for %u layers", out->n_layer);
}

void ft_importance_done(struct ft_importance *importance) {
    ft_free(importance->r2_layer);
    ft_free(importance->overlap_layer);
    *importance = (struct ft_importance){ .n = 0 };
}

/* ---- points ---- */

ft_status ft_importance_points(const struct ft_scores *estimate, const struct ft_scores *truth,
                               json_t **out, struct ft_error *error) {
    uint32_t n = FT_MIN(estimate->n, truth->n), step = (n + FT_POINTS_CAP - 1) / FT_POINTS_CAP;
    uint32_t *order = ft_alloc(n, sizeof *order);
    if (!order) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory to sort %u scores", n);
    }
    ft_status status = ft_best_first(truth->score, n, order, error);
    json_t *points = json_array();
    for (uint32_t i = 0; i < n && status == FT_OK; i += step) {
        json_t *point = json_array();
        json_array_append_new(point, json_real((double)estimate->score[order[i]]));
        json_array_append_new(point, json_real((double)truth->score[order[i]]));
        json_array_append_new(points, point);
    }
    ft_free(order);
    if (status != FT_OK) {
        json_decref(points);
        return status;
    }
    *out = points;
    return FT_OK;
}
