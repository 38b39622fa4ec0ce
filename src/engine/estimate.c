/* SPDX-License-Identifier: Apache-2.0 */
/* estimate.c - the memory of a run before anything is computed, from shapes alone.
 *
 * The same numbers serve `foretoken info` and the refusal of a prompt that would not fit.  Rows and
 * hidden states are exact; the compute buffer is an upper estimate of what ggml will reserve for
 * one chunk.
 */
#include <inttypes.h>
#include <stdio.h>

#include "engine/engine.h"

static struct ft_kv_shape shape_of(const struct ft_hparams *hp, uint32_t n_layer,
                                   const struct ft_kv_format *format, uint32_t n_aux) {
    return (struct ft_kv_shape){ .n_layer = n_layer,
                                 .n_head_kv = hp->n_head_kv,
                                 .d = hp->head_dim,
                                 .k_fmt = format->k_fmt,
                                 .v_fmt = format->v_fmt,
                                 .n_aux = n_aux };
}

/* Exact rows. */
static uint64_t token_bytes(const struct ft_hparams *hp, uint32_t n_layer,
                            const struct ft_kv_format *format, uint32_t n_aux) {
    struct ft_kv_shape shape = shape_of(hp, n_layer, format, n_aux);
    return ft_kv_token_bytes(&shape);
}

/* What layers hold of the prompt, and n_more rows of each head behind it; packed where rows are.
 * (budget=ada: as if heads were alike.) */
static uint64_t held_bytes(const ft_session *s, const struct ft_plan *plan, uint32_t n_more) {
    const struct ft_hparams *hp = s->lane.hp;
    struct ft_kv_shape shape = shape_of(hp, hp->n_layer, &s->format, plan->kv_aux);
    bool is_dropping = plan->is_kv_on && !plan->is_kv_whole;
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        uint64_t n_row = plan->n_input;
        if (is_dropping) { /* the layer's own share of the budget */
            n_row = plan->kv_look.window + ft_layers_sum(&plan->kv_layers, l + 1) -
                    ft_layers_sum(&plan->kv_layers, l);
        }
        bytes += ft_kv_packed_bytes(&shape, &s->packing[l], n_row + n_more);
    }
    return bytes;
}

/* A graph's widest moment.  A chunk: residual, norm, and the three FFN matrices, or q, k, v beside
 * attention's output.
 * Voters: all in one graph, but only q.  Stock attention: every weight of a chunk, the mask, and
 * values transposed. */
static uint64_t compute_bytes(const struct ft_hparams *hp, uint32_t n_token, uint32_t n_voter,
                              bool is_exact) {
    uint64_t chunk = FT_MIN(n_token, (uint32_t)FT_CHUNK), row = n_token + 16;
    uint64_t ffn = 2 * (uint64_t)hp->n_embd + 3 * (uint64_t)hp->n_ff;
    uint64_t qkv =
        2 * (uint64_t)hp->n_embd + 2 * ((uint64_t)hp->n_head + hp->n_head_kv) * hp->head_dim;
    uint64_t votes = n_voter * (2 * (uint64_t)hp->n_embd + 2 * (uint64_t)hp->n_head * hp->head_dim);
    uint64_t stock = row * (chunk * (hp->n_head + 1) + (uint64_t)hp->n_head_kv * hp->head_dim);
    return (FT_MAX(chunk * FT_MAX(ffn, qkv), votes) + (is_exact ? stock : 0) + hp->n_vocab) *
           sizeof(float);
}

/* rows whose queries vote about a stage, a chunk at most in one graph; those of a trial that were
 * kept all vote in one */
static uint32_t voters(const struct ft_look *look, bool is_on, uint32_t n_input, uint32_t n_read,
                       uint32_t n_trial) {
    if (!is_on) {
        return 0;
    }
    if (n_trial > 0) {
        return FT_MAX(FT_MIN(look->trial_window, (uint32_t)FT_CHUNK), look->window + n_trial);
    }
    return FT_MIN(ft_voters(look, n_input, n_read), (uint32_t)FT_CHUNK);
}

/* rank=critical: the decoded output projection, and the products of a graph of 1024 rows beside it. */
static uint64_t norm_bytes(const struct ft_hparams *hp, uint32_t n_row) {
    uint64_t rows = FT_MIN(n_row, UINT32_C(1024)), width = (uint64_t)hp->n_head * hp->head_dim;
    return (width * hp->n_embd + rows * ((uint64_t)hp->n_embd + hp->head_dim + 1)) * sizeof(float);
}

/* A trial: all rows of the prompt beside those tried and the text's; when the first layer has been
 * chosen, its rows in the place of those tried, and its full rows still there. */
static uint64_t trial_peak(const struct ft_plan *plan, uint64_t per_token, uint32_t n_layer) {
    uint64_t tried = (uint64_t)plan->kv_keep + plan->n_trial;
    uint64_t chosen = (uint64_t)plan->kv_look.window + plan->kv_layers.most;
    return per_token * plan->n_input +
           per_token / n_layer * (tried * (n_layer - 1) + FT_MAX(tried, chosen));
}

void ft_estimate_run(const ft_session *s, const struct ft_plan *plan, struct ft_run_bytes *out) {
    const struct ft_hparams *target = s->lane.hp;
    uint64_t per_token = token_bytes(target, target->n_layer, &s->format, plan->kv_aux);
    uint32_t n_read = plan->n_input + plan->n_text;
    *out = (struct ft_run_bytes){ .activation = (uint64_t)n_read * target->n_embd * sizeof(float) };
    bool is_dropping = plan->is_kv_on && !plan->is_kv_whole;
    bool is_staged = is_dropping || ft_kv_format_is_packed(&s->format);
    uint64_t sinks = ft_decoding_sink_bytes(plan, target), rows = held_bytes(s, plan, 0);
    out->kv = rows + sinks;
    /* while the last layer is read, the others' kept rows; later, the row that is fed again */
    uint64_t on_top =
        FT_MAX(per_token / target->n_layer * n_read, per_token * plan->kv_look.refeed);
    uint64_t reading = rows + (is_staged ? on_top : 0);
    if (plan->n_trial > 0) {
        uint64_t n_vote = (uint64_t)plan->kv_look.window + plan->n_trial;
        reading = trial_peak(plan, per_token, target->n_layer);
        out->activation +=
            n_vote * target->n_layer * target->n_head * target->head_dim * sizeof(float);
    }
    if (plan->is_kv_on && plan->kv_look.n_observed > 0) { /* voters' weights for all rows */
        out->activation += (uint64_t)target->n_head * FT_LIST_VOTER * plan->n_input * sizeof(float);
    }
    uint64_t refed = is_dropping ? per_token * plan->kv_look.refeed : 0;
    /* the answer's last token gets no row */
    uint32_t n_more = FT_MIN(ft_decoding_room(plan), plan->n_answer - FT_MIN(plan->n_answer, 1));
    uint64_t answer = per_token * ft_decoding_room(plan);
    out->kv_peak = FT_MAX(reading, held_bytes(s, plan, n_more) + sinks + refed);
    bool is_exact = s->params.is_exact;
    uint32_t n_kv_voter =
        voters(&plan->kv_look, plan->is_kv_on, plan->n_input, n_read, plan->n_trial);
    out->compute = compute_bytes(target, n_read, n_kv_voter, is_exact);
    if (plan->is_critical) { /* the buffer stays as large as it was */
        out->compute += norm_bytes(target, plan->n_input);
    }
    uint64_t draft_activation = 0;
    if (plan->n_step > 0) {
        const struct ft_hparams *draft = ft_model_hparams(ft_pair_draft(s));
        bool has_cache = plan->n_text > 0 || plan->n_step > 1;
        uint32_t n_layer =
            has_cache ? ft_pair_draft_layers(s) : 1; /* without steps one layer's rows at a time */
        out->draft_kv_peak = token_bytes(draft, n_layer, &s->format, 0) *
                             (plan->n_prompt + (has_cache ? plan->n_step - 1 : 0));
        draft_activation = (uint64_t)plan->n_prompt * draft->n_embd * sizeof(float);
        uint32_t n_voter = voters(&plan->prompt_look, plan->is_prompt_on, 0, 0, 0);
        out->compute =
            FT_MAX(out->compute, compute_bytes(draft, plan->n_prompt, n_voter, is_exact));
    }
    uint64_t scored = 0;
    if (plan->is_kv_on && s->params.is_kv_scored) {
        uint32_t n_col = plan->n_input - plan->kv_look.window - plan->kv_look.refeed;
        scored = (uint64_t)target->n_layer * target->n_head_kv * n_col * sizeof(float);
    }
    /* the draft is done before the target begins */
    out->total = FT_MAX(reading + sinks + answer + scored + out->activation,
                        out->draft_kv_peak + draft_activation) +
                 out->compute;
    out->activation = FT_MAX(out->activation, draft_activation);
}

ft_status ft_estimate_check(const ft_session *s, struct ft_error *err) {
    struct ft_run_bytes need;
    ft_estimate_run(s, &s->plan, &need);
    uint64_t available = ft_memory_available();
    if (need.total <= available) {
        return FT_OK;
    }
    return ft_fail(err, FT_NOMEM, 0,
                   "a prompt of %u tokens needs %" PRIu64 " MiB (rows %" PRIu64
                   ", draft rows %" PRIu64 ", hidden states %" PRIu64 ", compute %" PRIu64
                   "), available are %" PRIu64 " MiB",
                   s->plan.n_prompt, need.total >> 20, need.kv_peak >> 20, need.draft_kv_peak >> 20,
                   need.activation >> 20, need.compute >> 20, available >> 20);
}

/* Exact runs open models plain, so nothing is copied. */
static uint64_t weights(const ft_session *s, const struct ft_model_info *info) {
    return s->params.is_exact ? info->tensor_bytes : info->resident_bytes;
}

static void fill(struct ft_estimate *out, const ft_session *s, const ft_model *draft) {
    struct ft_model_info info;
    struct ft_run_bytes need;
    ft_estimate_run(s, &s->plan, &need);
    ft_model_info(s->target, &info);
    *out = (struct ft_estimate){ .weights_bytes = weights(s, &info),
                                 .kv_bytes = need.kv,
                                 .kv_bytes_peak = need.kv_peak,
                                 .draft_kv_bytes_peak = need.draft_kv_peak,
                                 .activation_bytes = need.activation,
                                 .compute_bytes = need.compute };
    if (draft) {
        ft_model_info(draft, &info);
        out->draft_weights_bytes = weights(s, &info);
    }
    out->total_bytes = out->weights_bytes + out->draft_weights_bytes + need.total;
    out->available_bytes = ft_memory_available();
    out->fits = out->total_bytes <= out->available_bytes;
    if (!out->fits) {
        snprintf(out->why, sizeof out->why,
                 "needs %" PRIu64 " MiB (weights %" PRIu64 ", rows %" PRIu64 ", draft rows %" PRIu64
                 ", hidden states %" PRIu64 ", compute %" PRIu64 "), available are %" PRIu64 " MiB",
                 out->total_bytes >> 20, (out->weights_bytes + out->draft_weights_bytes) >> 20,
                 need.kv_peak >> 20, need.draft_kv_peak >> 20, need.activation >> 20,
                 need.compute >> 20, out->available_bytes >> 20);
    }
}

ft_status ft_estimate(const ft_model *target, const ft_model *draft,
                      const struct ft_session_params *params, uint32_t n_prompt,
                      struct ft_estimate *out, struct ft_error *err) {
    if (n_prompt == 0) {
        return ft_fail(err, FT_ARG, 0, "the prompt is empty, expected at least one token");
    }
    ft_session *s = ft_alloc(1, sizeof *s); /* never opened: policy and shapes only */
    if (!s) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for an estimate");
    }
    s->target = target;
    s->draft = draft;
    ft_status status = ft_session_policy(s, params, err);
    if (status == FT_OK) {
        struct ft_error first = { 0 };
        status = ft_pair_plan(s, n_prompt, 0, &first);
        if (ft_auto_is_unfit(status) && params->is_auto) { /* will be read dense, if that can be */
            s->is_dense_chosen = true;
            status = ft_pair_plan(s, n_prompt, 0, NULL) == FT_OK ? FT_OK : status;
        }
        if (status != FT_OK && err) {
            *err = first;
        }
    }
    if (status == FT_OK) {
        fill(out, s, draft);
    }
    ft_session_policy_done(s);
    ft_free(s);
    return status;
}
