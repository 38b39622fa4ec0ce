/* SPDX-License-Identifier: Apache-2.0 */
/* sampler.c - from a row of logits to the next token id.
 *
 *   raw logits + bias -> penalties -> [grammar] -> forbidden ids dropped -> top-k -> top-p -> min-p
 *              -> softmax at the temperature -> draw
 *
 * The filters are libllama's, in llama.cpp's order; softmax and draw are ours, so that a draw is a
 * function of (seed, step) and nothing else.  A full grammar mask costs tens of milliseconds: the
 * token is drawn without it and tested alone, and only if it fails drawn anew from all that the
 * grammar allows, with a random number of its own.  Ids of a padded tail never become candidates.
 */
#include <inttypes.h>
#include <llama.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "model/grammar.h"
#include "model/load.h"

enum {
    LAST_N_MAX = 1 << 20, /* libllama allocates this many ids at once */
    BIAS_MAX = 1 << 20,
};

/* Coordinates of the sampler's random numbers; no layer has this number. */
#define RNG_SAMPLER UINT32_MAX
enum { RNG_DRAW, RNG_REDRAW };

struct ft_sampler {
    struct ft_sampling params;       /* bias and grammar are owned or NULL */
    struct ft_logit_bias *bias;      /* [params.n_bias] */
    uint32_t n_id;                   /* ids below may be drawn */
    struct llama_token_data *cand;   /* [n_id] NULL for the plain argmax */
    struct llama_sampler *penalties; /* NULL: off; likewise below */
    struct llama_sampler *filters;
    struct llama_sampler *grammar;
    bool has_strayed; /* an id was accepted that the grammar forbids */
    ft_token stray;
};

/* ---- construction ---- */

static ft_status check_params(const struct ft_sampling *p, struct ft_error *err) {
    if (!(p->temperature >= 0.0f) || isinf(p->temperature)) {
        return ft_fail(err, FT_ARG, 0, "temperature is %g, expected 0 or more",
                       (double)p->temperature);
    }
    if (!(p->top_p >= 0.0f && p->top_p <= 1.0f)) {
        return ft_fail(err, FT_ARG, 0, "top_p is %g, expected 0..1", (double)p->top_p);
    }
    if (!(p->min_p >= 0.0f && p->min_p <= 1.0f)) {
        return ft_fail(err, FT_ARG, 0, "min_p is %g, expected 0..1", (double)p->min_p);
    }
    if (!(p->repeat_penalty > 0.0f) || isinf(p->repeat_penalty)) {
        return ft_fail(err, FT_ARG, 0, "repeat_penalty is %g, expected more than 0",
                       (double)p->repeat_penalty);
    }
    if (p->repeat_last_n > LAST_N_MAX) {
        return ft_fail(err, FT_ARG, 0, "repeat_last_n is %" PRIu32 ", expected 0..%d",
                       p->repeat_last_n, LAST_N_MAX);
    }
    return FT_OK;
}

static ft_status copy_bias(struct ft_sampler *s, struct ft_error *err) {
    const struct ft_logit_bias *from = s->params.bias;
    uint32_t n = s->params.n_bias;
    s->params.bias = NULL;
    if (n > BIAS_MAX) {
        return ft_fail(err, FT_ARG, 0, "%" PRIu32 " logit biases, expected at most %d", n,
                       BIAS_MAX);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (from[i].id < 0 || (uint32_t)from[i].id >= s->n_id) {
            return ft_fail(err, FT_ARG, i,
                           "logit bias %" PRIu32 " is for token %" PRId32 ", expected 0..%" PRIu32,
                           i + 1, from[i].id, s->n_id - 1);
        }
        if (!(from[i].bias < INFINITY)) { /* -INFINITY forbids; NaN and +INFINITY mean nothing */
            return ft_fail(err, FT_ARG, i,
                           "logit bias of token %" PRId32 " is %g, expected a number", from[i].id,
                           (double)from[i].bias);
        }
    }
    s->bias = ft_alloc((size_t)n + 1, sizeof(*s->bias));
    if (s->bias == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "sampler: no memory for %" PRIu32 " biases", n);
    }
    if (n > 0) {
        memcpy(s->bias, from, n * sizeof(*from));
    }
    return FT_OK;
}

/* The filters that change something, in llama.cpp's order; NULL when there is none. */
static struct llama_sampler *make_filters(const struct ft_sampling *p, uint32_t n_id) {
    struct llama_sampler *chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    if (p->top_k > 0 && p->top_k < n_id) {
        llama_sampler_chain_add(chain, llama_sampler_init_top_k((int32_t)p->top_k));
    }
    if (p->top_p < 1.0f) {
        llama_sampler_chain_add(chain, llama_sampler_init_top_p(p->top_p, 1));
    }
    if (p->min_p > 0.0f) {
        llama_sampler_chain_add(chain, llama_sampler_init_min_p(p->min_p, 1));
    }
    if (llama_sampler_chain_n(chain) == 0) {
        llama_sampler_free(chain);
        return NULL;
    }
    return chain;
}

static ft_status make_grammar(struct ft_sampler *s, const ft_model *model, struct ft_error *err) {
    const char *text = s->params.grammar;
    s->params.grammar = NULL; /* libllama keeps its own copy */
    if (text == NULL || text[0] == '\0') {
        return FT_OK;
    }
    FT_TRY(ft_grammar_check(model, text, err));
    const struct llama_vocab *vocab = llama_model_get_vocab(ft_model_vocab_llama(model));
    s->grammar = llama_sampler_init_grammar(vocab, text, "root");
    return s->grammar != NULL ? FT_OK
                              : ft_fail(err, FT_FORMAT, 0, "grammar: libllama does not accept it");
}

static ft_status build(struct ft_sampler *s, const ft_model *model, struct ft_error *err) {
    const struct ft_sampling *p = &s->params;
    FT_TRY(check_params(p, err));
    FT_TRY(copy_bias(s, err));
    FT_TRY(make_grammar(s, model, err));
    if (p->repeat_penalty != 1.0f && p->repeat_last_n > 0) {
        s->penalties = llama_sampler_init_penalties((int32_t)s->n_id, (int32_t)p->repeat_last_n,
                                                    p->repeat_penalty, 0.0f, 0.0f);
    }
    if (p->temperature > 0.0f) {
        s->filters = make_filters(p, s->n_id);
    }
    bool is_plain =
        p->temperature == 0.0f && p->n_bias == 0 && s->penalties == NULL && s->grammar == NULL;
    if (!is_plain) {
        s->cand = ft_alloc(s->n_id, sizeof(*s->cand));
        if (s->cand == NULL) {
            return ft_fail(err, FT_NOMEM, 0, "sampler: no memory for %" PRIu32 " candidates",
                           s->n_id);
        }
    }
    return FT_OK;
}

ft_status ft_sampler_new(const ft_model *model, const struct ft_sampling *params,
                         struct ft_sampler **out, struct ft_error *err) {
    struct ft_sampler *s = ft_alloc(1, sizeof(*s));
    if (s == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "sampler: no memory");
    }
    s->params = *params;
    s->n_id = ft_model_hparams(model)->n_vocab_real;
    ft_status status = build(s, model, err);
    if (status != FT_OK) {
        ft_sampler_free(s);
        return status;
    }
    *out = s;
    return FT_OK;
}

static void free_stage(struct llama_sampler *stage) {
    if (stage != NULL) {
        llama_sampler_free(stage);
    }
}

void ft_sampler_free(struct ft_sampler *sampler) {
    if (sampler == NULL) {
        return;
    }
    free_stage(sampler->penalties);
    free_stage(sampler->filters);
    free_stage(sampler->grammar);
    ft_free(sampler->bias);
    ft_free(sampler->cand);
    ft_free(sampler);
}

void ft_sampler_reset(struct ft_sampler *sampler) {
    if (sampler->penalties != NULL) {
        llama_sampler_reset(sampler->penalties);
    }
    if (sampler->grammar != NULL) {
        llama_sampler_reset(sampler->grammar);
    }
    sampler->has_strayed = false;
}

/* ---- drawing ---- */

static ft_status not_a_number(uint32_t id, float logit, struct ft_error *err) {
    return ft_fail(err, FT_INTERNAL, id,
                   "logit of token %" PRIu32 " is %g: the model computes no "
                   "usable numbers",
                   id, (double)logit);
}

/* The largest logit, lowest id first. */
static ft_status draw_plain(const struct ft_sampler *s, const float *logits, ft_token *out,
                            struct ft_error *err) {
    uint32_t best = 0;
    for (uint32_t id = 0; id < s->n_id; id++) {
        if (!(logits[id] < INFINITY)) { /* NaN too */
            return not_a_number(id, logits[id], err);
        }
        best = logits[id] > logits[best] ? id : best;
    }
    if (logits[best] == -INFINITY) {
        return not_a_number(best, logits[best], err);
    }
    *out = (ft_token)best;
    return FT_OK;
}

/* Fill the candidates, in order of id, with what may be drawn. */
static ft_status candidates(struct ft_sampler *s, const float *logits, bool has_grammar,
                            struct llama_token_data_array *out, struct ft_error *err) {
    for (uint32_t id = 0; id < s->n_id; id++) {
        if (!(logits[id] < INFINITY)) {
            return not_a_number(id, logits[id], err);
        }
        s->cand[id] = (struct llama_token_data){ .id = (llama_token)id, .logit = logits[id] };
    }
    for (uint32_t i = 0; i < s->params.n_bias; i++) {
        s->cand[s->bias[i].id].logit += s->bias[i].bias;
    }
    *out = (struct llama_token_data_array){ .data = s->cand, .size = s->n_id, .selected = -1 };
    if (s->penalties != NULL) {
        llama_sampler_apply(s->penalties, out);
    }
    if (has_grammar) {
        llama_sampler_apply(s->grammar, out);
    }
    size_t n = 0;
    for (size_t i = 0; i < out->size; i++) {
        if (!(out->data[i].logit < INFINITY)) { /* a penalty can overflow */
            return not_a_number((uint32_t)out->data[i].id, out->data[i].logit, err);
        }
        if (out->data[i].logit > -INFINITY) {
            out->data[n++] = out->data[i];
        }
    }
    out->size = n;
    if (n == 0) {
        return ft_fail(err, FT_ARG, 0, "no token is left to draw: %s",
                       has_grammar ? "the grammar allows none of the vocabulary here"
                                   : "all are forbidden");
    }
    return FT_OK;
}

/* One of the candidates in proportion to exp(logit / temperature); u in [0, 1). */
static ft_token draw_from(const struct llama_token_data_array *cand, double temperature, double u) {
    double max = -INFINITY;
    for (size_t i = 0; i < cand->size; i++) {
        max = FT_MAX(max, (double)cand->data[i].logit);
    }
    double sum = 0.0;
    for (size_t i = 0; i < cand->size; i++) {
        sum += exp(((double)cand->data[i].logit - max) / temperature);
    }
    double rest = u * sum;
    llama_token last = cand->data[0].id;
    for (size_t i = 0; i < cand->size; i++) {
        double p = exp(((double)cand->data[i].logit - max) / temperature);
        last = p > 0.0 ? cand->data[i].id : last;
        rest -= p;
        if (rest < 0.0) {
            return cand->data[i].id;
        }
    }
    return last; /* rounding left a crumb */
}

static ft_status pick(struct ft_sampler *s, const float *logits, uint32_t step, bool has_grammar,
                      ft_token *out, struct ft_error *err) {
    struct llama_token_data_array cand;
    FT_TRY(candidates(s, logits, has_grammar, &cand, err));
    if (s->params.temperature == 0.0f) {
        size_t best = 0; /* candidates are in order of id: the lowest of equals */
        for (size_t i = 1; i < cand.size; i++) {
            best = cand.data[i].logit > cand.data[best].logit ? i : best;
        }
        *out = cand.data[best].id;
        return FT_OK;
    }
    if (s->filters != NULL) {
        llama_sampler_apply(s->filters, &cand);
    }
    ft_assert(cand.size > 0);
    double u =
        ft_rng_uniform(s->params.seed, RNG_SAMPLER, has_grammar ? RNG_REDRAW : RNG_DRAW, step);
    *out = draw_from(&cand, (double)s->params.temperature, u);
    return FT_OK;
}

/* Whether the grammar allows this id next. */
static bool is_allowed(struct ft_sampler *s, ft_token id) {
    struct llama_token_data one = { .id = id, .logit = 0.0f };
    struct llama_token_data_array list = { .data = &one, .size = 1, .selected = -1 };
    llama_sampler_apply(s->grammar, &list);
    return one.logit > -INFINITY;
}

ft_status ft_sampler_draw(struct ft_sampler *sampler, const float *logits, uint32_t step,
                          ft_token *out, struct ft_error *err) {
    struct ft_sampler *s = sampler;
    if (s->has_strayed) {
        return ft_fail(err, FT_ARG, 0,
                       "token %" PRId32 " was taken, which the grammar does not allow", s->stray);
    }
    if (s->cand == NULL) {
        return draw_plain(s, logits, out, err);
    }
    ft_token id;
    FT_TRY(pick(s, logits, step, false, &id, err));
    if (s->grammar != NULL && !is_allowed(s, id)) {
        FT_TRY(pick(s, logits, step, true, &id, err));
    }
    *out = id;
    return FT_OK;
}

void ft_sampler_see(struct ft_sampler *sampler, const ft_token *id, uint32_t n) {
    if (sampler->penalties == NULL) {
        return;
    }
    for (uint32_t t = n - FT_MIN(n, sampler->params.repeat_last_n); t < n; t++) {
        if (id[t] >= 0 && (uint32_t)id[t] < sampler->n_id) {
            llama_sampler_accept(sampler->penalties, id[t]);
        }
    }
}

void ft_sampler_accept(struct ft_sampler *sampler, ft_token id) {
    struct ft_sampler *s = sampler;
    if (id < 0 || (uint32_t)id >= s->n_id) {
        return;
    }
    if (s->penalties != NULL) {
        llama_sampler_accept(s->penalties, id);
    }
    if (s->grammar == NULL || s->has_strayed) {
        return;
    }
    if (is_allowed(s, id)) { /* libllama throws otherwise */
        llama_sampler_accept(s->grammar, id);
    } else {
        s->has_strayed = true;
        s->stray = id;
    }
}
