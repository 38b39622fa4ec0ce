/* SPDX-License-Identifier: Apache-2.0 */
/* auto.c - dense or what was asked for: whichever is expected to give its first token sooner.
 *
 * The first token decides, not the end of the answer: it is what somebody waits for, it does not
 * depend on a length that only the answer will tell, and a plan that is slower there has to win
 * the loss back over an answer that may stop after three words.  Both are reported.
 *
 * Measuring costs time of the very run that it should speed up: at most 3 % of what dense is
 * expected to take, and SPEND_MAX_US in all.  Where dense takes less than DENSE_LEAST_US by a first
 * guess, nothing is measured: there is nothing to win.
 */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

enum { DENSE_LEAST_US = 1000000, SPEND_MAX_US = 250000 };

static struct ft_lane_params lane_of(ft_session *s, const ft_model *model) {
    return (struct ft_lane_params){
        .model = model,
        .n_layer = ft_model_hparams(model)->n_layer,
        .n_thread = s->params.n_thread,
        .format = s->format,
        .is_exact = s->params.is_exact,
        .rope_scale = s->params.rope_scale,
        .is_cancelled = &s->is_cancelled,
        .phase = FT_PHASE_PREFILL,
    };
}

static const char *seconds(int64_t us, char out[24]) {
    double s = (double)us / 1e6;
    snprintf(out, 24, s < 0.0995 ? "%.3f" : s < 9.95 ? "%.2f" : s < 99.5 ? "%.1f" : "%.0f", s);
    return out;
}

static void name_plan(const ft_session *s, const struct ft_plan *plan, char out[48]) {
    bool is_both = plan->is_prompt_on && plan->is_kv_on;
    snprintf(out, 48, "%s%s%s", plan->is_prompt_on ? s->prompt.method->name : "",
             is_both ? "+" : "", plan->is_kv_on ? s->kv.method->name : "");
}

/* The draft's rates: its own, or the target's for fewer layers. */
static ft_status measure_draft(ft_session *s, uint32_t n_row, int64_t budget_us,
                               struct ft_error *err) {
    struct ft_auto *a = &s->report.automatic;
    if (ft_pair_draft(s) == s->target) {
        a->draft = a->target;
        a->draft.n_layer = ft_pair_draft_layers(s);
        a->draft.n_weight *= (double)a->draft.n_layer / a->target.n_layer;
        a->draft.measure_us = 0;
        return FT_OK;
    }
    struct ft_lane_params params = lane_of(s, s->draft);
    struct ft_meter *meter = NULL;
    FT_TRY(ft_meter_new(&params, &meter, err));
    ft_status status = ft_meter_glance(meter, &a->draft, err);
    if (status == FT_OK) {
        status = ft_meter_measure(meter, n_row, budget_us, &a->draft, err);
    }
    ft_meter_free(meter);
    return status;
}

/* Rates of both models and what they lead to expect; is_measured stays false where dense is short.
 */
static ft_status expect(ft_session *s, const struct ft_plan *dense, const struct ft_plan *plan,
                        struct ft_error *err) {
    struct ft_auto *a = &s->report.automatic;
    struct ft_lane_params params = lane_of(s, s->target);
    struct ft_meter *meter = NULL;
    int64_t budget_us = 0;
    FT_TRY(ft_meter_new(&params, &meter, err));
    ft_status status = ft_meter_glance(meter, &a->target, err);
    if (status == FT_OK) {
        ft_cost_plan(&a->target, NULL, dense, &a->dense);
        a->is_measured = a->dense.ttft_us >= DENSE_LEAST_US || s->is_auto_eager;
        budget_us = FT_MIN(a->dense.ttft_us / 100 * 3, (int64_t)SPEND_MAX_US);
    }
    if (status == FT_OK && a->is_measured) {
        status = ft_meter_measure(meter, plan->n_prompt, budget_us * 6 / 10, &a->target, err);
    }
    ft_meter_free(meter);
    FT_TRY(status);
    if (a->is_measured) {
        if (plan->n_step > 0) {
            FT_TRY(measure_draft(s, plan->n_prompt, budget_us * 4 / 10, err));
        }
        ft_cost_plan(&a->target, &a->draft, dense, &a->dense);
        ft_cost_plan(&a->target, &a->draft, plan, &a->plan);
    }
    return FT_OK;
}

/* The dense plan of the same prompt in s->plan; false, with the reason, when it cannot be run. */
static bool plan_dense(ft_session *s, uint32_t n_prompt, uint32_t n_head, struct ft_error *why) {
    s->is_dense_chosen = true;
    return ft_pair_plan(s, n_prompt, n_head, why) == FT_OK && ft_estimate_check(s, why) == FT_OK;
}

static void choose(ft_session *s, const struct ft_plan *plan) {
    struct ft_auto *a = &s->report.automatic;
    char name[48], dense[24], all[24], draft[24], target[24];
    name_plan(s, plan, name);
    seconds(a->dense.ttft_us, dense);
    if (!a->is_measured) {
        a->is_dense = true;
        snprintf(
            a->text, sizeof a->text,
            "dense expected %s s by a first guess, too short for %.40s to matter: dense, nothing "
            "more was measured",
            dense, name);
        return;
    }
    a->is_dense = a->dense.ttft_us <= a->plan.ttft_us;
    snprintf(a->text, sizeof a->text,
             "dense expected %s s to the first token, %.40s %s s (draft %s + target %s): %.40s",
             dense, name, seconds(a->plan.ttft_us, all), seconds(a->plan.draft_us, draft),
             seconds(a->plan.target_us, target), a->is_dense ? "dense" : name);
}

/* Both can be run: s->plan is dense, `plan` what was asked for. */
static ft_status weigh(ft_session *s, const struct ft_plan *plan, struct ft_error *err) {
    struct ft_plan dense = s->plan;
    int64_t start = ft_time_us();
    ft_status status = expect(s, &dense, plan, err);
    s->report.automatic.measure_us = ft_time_us() - start;
    FT_TRY(status);
    choose(s, plan);
    return FT_OK;
}

bool ft_auto_is_unfit(ft_status status) {
    return status == FT_LIMIT || status == FT_ARG;
}

ft_status ft_auto_plan(ft_session *s, uint32_t n_prompt, uint32_t n_head, struct ft_error *err) {
    struct ft_auto *a = &s->report.automatic;
    struct ft_error why = { .code = FT_OK };
    char name[48];
    a->is_on = true;
    ft_status status = ft_pair_plan(s, n_prompt, n_head, &why);
    struct ft_plan plan = s->plan;
    double share = s->joint_share; /* of the format, which the dense plan sets too */
    uint32_t n_fallback = s->report.n_fallback;
    if (status != FT_OK && !ft_auto_is_unfit(status)) {
        goto fail;
    }
    if (ft_auto_is_unfit(status)) {
        struct ft_error other;
        a->is_dense = plan_dense(s, n_prompt, n_head, &other);
        snprintf(a->text, sizeof a->text, "%.200s: dense", why.text);
        if (!a->is_dense) {
            goto fail;
        }
    } else if (!plan.is_prompt_on && !plan.is_kv_on) {
        a->is_dense = true;
        if (!a->text[0]) {
            snprintf(a->text, sizeof a->text, "no method was given: dense");
        }
        return FT_OK;
    } else if (!plan_dense(s, n_prompt, n_head, &why)) {
        name_plan(s, &plan, name);
        snprintf(a->text, sizeof a->text, "dense cannot be run (%.150s): %.40s", why.text, name);
    } else {
        FT_TRY(weigh(s, &plan, err));
    }
    s->is_dense_chosen = a->is_dense;
    if (a->is_dense) {
        s->report.n_fallback = 0; /* they were about the other plan */
    } else {
        s->plan = plan;
        ft_formats_joint(s, share);
        s->report.n_fallback = n_fallback;
    }
    return FT_OK;
fail:
    if (err) {
        *err = why;
    }
    return status;
}
