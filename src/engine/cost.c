/* SPDX-License-Identifier: Apache-2.0 */
/* cost.c - how long a plan will take, from what a token, a pair and a step cost.
 *
 *   reading    n tokens through the matrices of every layer, the (query, row) pairs of its
 *              attention, a fixed amount for every pass over a chunk
 *   scoring    the voters' queries once more, and their pairs with all rows: two passes of q.k
 *              are as many multiplications as the q.k and p.v of attention, so the same rate;
 *              more by what a method says where voters are told one by one
 *   steps      every layer's weights and the rows held, once a token
 *   trial      steps behind the rows tried, then a second vote about all rows
 *   values     rank=critical: all rows through the output projection, at the rate of reading
 *
 * What prefill.c leaves out is left out here: of the last layer, keys and values are computed, and
 * one token's queries, attention and feed-forward where logits are wanted.
 * No model, no clock: the tests check it with numbers made up.
 */
#include <math.h>

#include "engine/engine.h"

double ft_cost_pairs(uint32_t n, uint32_t window, uint32_t n_vertical) {
    double pairs = 0;
    if (window == 0) {
        return (double)n * ((double)n + 1) / 2;
    }
    for (uint64_t first = 0; first < n; first += 64) { /* attn/vslash.c: by blocks of 64 rows */
        double m = (double)FT_MIN(n - first, (uint64_t)64);
        double start = first > window ? (double)(first - window) : 0;
        double below = FT_MIN((double)n_vertical * start / (double)n, start);
        pairs += m * ((double)first - start + below) + m * (m + 1) / 2;
    }
    return pairs;
}

/* The rate of pairs whose queries have about `row` rows in front. */
static double pair_us(const struct ft_rates *r, double row) {
    double near = r->pair_row[0], far = r->pair_row[1];
    double t = far > near ? (row - near) / (far - near) : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return r->pair_us[0] + t * (r->pair_us[1] - r->pair_us[0]);
}

struct reading { /* one model reads a prompt */
    uint32_t n, window, n_vertical;
    uint32_t n_voter, layer_first; /* no voters: nobody votes */
    double vote_cost;              /* of a voter's pair, in pairs */
    bool has_logits, has_values;   /* values: of the last layer */
};

static double read_us(const struct ft_rates *r, const struct reading *w) {
    double n = w->n, n_layer = r->n_layer, n_chunk = ceil(n / FT_CHUNK);
    double pairs = ft_cost_pairs(w->n, w->window, w->n_vertical);
    double pair = pair_us(r, w->window ? FT_MIN(w->window + w->n_vertical, n / 2) : n / 2);
    double us = (n_layer - 1) * (n * r->token_us + pairs * pair) + n_layer * n_chunk * r->pass_us;
    us += n * r->token_us * (r->share_k + (w->has_values ? r->share_v : 0));
    if (w->has_logits) { /* the last token's */
        us += r->token_us * (r->share_q + r->share_o + r->share_f) + n * pair + r->head_us;
    }
    if (w->n_voter > 0 && w->layer_first < r->n_layer) {
        double n_pass = n_chunk + ceil((double)w->n_voter / FT_CHUNK);
        double one = n_pass * r->pass_us + w->n_voter * r->token_us * r->share_q;
        one += w->vote_cost * w->n_voter * (n - w->n_voter / 2.0) * pair_us(r, n);
        us += (n_layer - w->layer_first) * one;
    }
    return us;
}

/* n steps of decoding behind n_row rows, which grow to at most n_most. */
static double steps_us(const struct ft_rates *r, double n, double n_row, double n_most) {
    double rows = FT_MIN(n_row + (n + 1) / 2, FT_MAX(n_row, n_most));
    return n * (r->n_layer * (r->step_us + rows * r->row_us) + r->head_us);
}

static double draft_us(const struct ft_rates *r, const struct ft_plan *plan) {
    bool is_writing = plan->n_text > 0 || plan->n_step > 1;
    struct reading w = {
        .n = plan->n_prompt, .vote_cost = 1, .has_logits = is_writing, .has_values = is_writing
    };
    if (plan->is_prompt_on && plan->prompt_look.column == FT_COLUMN_MASS) {
        w.n_voter = plan->prompt_look.window;
        w.layer_first = plan->prompt_look.layer_first;
    }
    double n_step = plan->n_step > 0 ? plan->n_step - 1.0 : 0;
    return read_us(r, &w) + (is_writing ? steps_us(r, n_step, plan->n_prompt, INFINITY) : 0);
}

/* Queries that are there already vote about n rows, in every layer. */
static double vote_us(const struct ft_rates *r, double n_voter, double n) {
    return r->n_layer * (r->pass_us + n_voter * n * pair_us(r, n));
}

void ft_cost_plan(const struct ft_rates *target, const struct ft_rates *draft,
                  const struct ft_plan *plan, struct ft_expect *out) {
    double drafting = 0, n_row = plan->n_input;
    if (draft && plan->n_step > 0) {
        drafting = draft_us(draft, plan);
    }
    struct reading w = {
        .n = plan->n_input, .vote_cost = plan->kv_vote_cost, .has_logits = true, .has_values = true
    };
    double again = 0, trying = 0, n_most = INFINITY;
    if (plan->is_kv_on && plan->kv_look.is_evicting) {
        n_most = plan->kv_limit + 1.0;
    }
    if (plan->is_kv_on && plan->is_kv_whole) {
        w.n_voter = plan->kv_aux > 0 ? w.n : 0;
        w.n_voter = plan->kv_look.n_observed > 0 ? ft_voters(&plan->kv_look, w.n, w.n) : w.n_voter;
    } else if (plan->is_kv_on) {
        const struct ft_look *look = &plan->kv_look;
        w = (struct reading){ .n = plan->n_input + plan->n_text,
                              .has_values = true,
                              .has_logits = look->refeed == 0 };
        w.n_voter = ft_voters(look, plan->n_input, w.n);
        w.vote_cost = plan->kv_vote_cost;
        if (plan->n_trial > 0) {
            w.n_voter = look->trial_window;
            trying = steps_us(target, plan->n_trial, plan->kv_keep, INFINITY);
            again += vote_us(target, look->window + plan->n_trial, plan->n_input);
        }
        if (plan->is_critical) {
            again += (double)plan->n_input * target->n_layer * target->token_us * target->share_o;
        }
        if (look->prefill_window > 0 &&
            w.n > (uint64_t)look->prefill_window + look->prefill_vertical) {
            w.window = look->prefill_window;
            w.n_vertical = look->prefill_vertical;
        }
        n_row = look->window +
                (double)ft_layers_sum(&plan->kv_layers, target->n_layer) / target->n_layer;
        again += look->refeed > 0 ? steps_us(target, 1, n_row, INFINITY) : 0;
    }
    double reading = read_us(target, &w) + again;
    double n_more = plan->n_answer > 0 ? plan->n_answer - 1.0 : 0;
    *out = (struct ft_expect){ .draft_us = (int64_t)(drafting + trying),
                               .target_us = (int64_t)reading,
                               .is_dropping = plan->is_prompt_on || plan->is_kv_on };
    out->ttft_us = out->draft_us + out->target_us;
    double answer = steps_us(target, n_more, n_row, n_most);
    if (plan->is_kv_on && ft_decoding_is_watching(plan)) { /* two passes of q.k more, as scoring */
        double rows = FT_MIN(n_row + (n_more + 1) / 2, FT_MAX(n_row, n_most));
        answer += n_more * target->n_layer * rows * target->row_us;
    }
    out->answer_us = out->ttft_us + (int64_t)answer;
}

int64_t ft_cost_dense_most(const struct ft_plan *plan, uint32_t n_read, int64_t prefill_us) {
    const struct ft_look *look = &plan->kv_look;
    bool is_sparse = plan->is_kv_on && look->prefill_window > 0 &&
                     n_read > (uint64_t)look->prefill_window + look->prefill_vertical;
    double tokens = (double)plan->n_prompt / n_read;
    double pairs =
        ft_cost_pairs(plan->n_prompt, 0, 0) /
        ft_cost_pairs(n_read, is_sparse ? look->prefill_window : 0, look->prefill_vertical);
    return (int64_t)((double)prefill_us * FT_MAX(tokens, pairs));
}

struct ft_rates ft_rates_scaled(const struct ft_rates *rates, double ratio, double exponent) {
    struct ft_rates out = *rates;
    double attention = pow(ratio, exponent);
    out.n_weight *= ratio;
    out.token_us *= ratio;
    out.step_us *= ratio;
    out.head_us *= attention; /* a matrix of one side: it grows with the width alone, or less */
    out.row_us *= attention;
    out.pair_us[0] *= attention;
    out.pair_us[1] *= attention;
    return out;
}

/* ---- a run that is only looked at ---- */

static ft_status expect(ft_session *s, const struct ft_session_params *params, uint32_t n_prompt,
                        const struct ft_rates *target, const struct ft_rates *draft,
                        struct ft_expect *out, struct ft_error *err) {
    FT_TRY(ft_session_policy(s, params, err));
    FT_TRY(ft_pair_plan(s, n_prompt, 0, err));
    draft = s->kv.method->writes_itself ? target : draft;
    if (s->plan.n_step > 0 && !draft) {
        return ft_fail(err, FT_ARG, 0, "no rates of a draft, and the methods need one");
    }
    ft_cost_plan(target, draft, &s->plan, out);
    return FT_OK;
}

ft_status ft_expect_run(const ft_model *target, const struct ft_session_params *params,
                        uint32_t n_prompt, const struct ft_rates *target_rates,
                        const struct ft_rates *draft_rates, struct ft_expect *out,
                        struct ft_error *err) {
    if (n_prompt == 0) {
        return ft_fail(err, FT_ARG, 0, "the prompt is empty, expected at least one token");
    }
    ft_session *s = ft_alloc(1, sizeof *s); /* never opened: policy and shapes only */
    if (!s) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for an expectation");
    }
    struct ft_session_params unbound = *params;
    unbound.n_ctx = 0;
    unbound.rope_scale = 1024.0f; /* the most there is: a context beyond every length */
    unbound.is_auto = unbound.is_strict = false;
    s->target = target;
    /* its rates speak for the draft; a model is needed for the number of its layers alone */
    s->draft = draft_rates && !params->self_layers ? target : NULL;
    ft_status status = expect(s, &unbound, n_prompt, target_rates, draft_rates, out, err);
    ft_session_policy_done(s);
    ft_free(s);
    return status;
}
