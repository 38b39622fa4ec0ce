/* SPDX-License-Identifier: Apache-2.0 */
/* specpc.c - SpecPC: the draft's own attention deletes prompt tokens before the target reads them.
 *
 * Paper    arXiv:2506.08373 (SpecPC)
 * Score    s[j] = max over layers >= start_layer and over steps of (max over heads and the last
 *          `window` prompt queries i of u_i softmax(q.k/sqrt d)[j]), u the ramp of `weighted`;
 *          decode steps have weight 1; all n keys are scored; then pooled
 * Keep     the last window tokens, then the ranked tokens, each with its neighbours, until keep is
 *          full
 * Departs  where paper and authors' code differ, the code is followed: a ramp that ignores the
 *          oldest query (weighted=paper gives the other), max over heads (not mean), window keys
 *          scored too, neighbours joined in rank order instead of a second pooling; reduce=mean is
 *          executed as a sum, as the code does;
 *          start_layer is min(8, n_layer/2) instead of 8, so that shallow drafts vote too;
 *          scores stay fp32 (the code rounds probabilities to bf16); ties go to the lower index,
 *          and of two equally distant neighbours the left one comes first (the code's sorts are
 *          unstable);
 *          protected tokens (protect=on) come before everything; protect=off is the code's way
 * Golden   vectors worked out by hand from the authors' code (furiosa-ai/draft-based-approx-llm at
 *          d79e404), in tests/unit/test_specpc.c
 */
#include <string.h>

#include "score/score.h"

struct specpc {
    struct ft_amount keep;
    uint32_t window, kernel, neighbors, pool, reduce, start_layer, weighted, lookahead;
    uint32_t positions, protect;
};

enum { POOL_MAX, POOL_MEAN, POOL_NONE }; /* order of the choices below */
enum { REDUCE_MAX, REDUCE_MEAN };
enum { WEIGHTED_CODE, WEIGHTED_PAPER, WEIGHTED_OFF };
enum { POSITIONS_COMPACT, POSITIONS_ORIGINAL };
enum { PROTECT_ON, PROTECT_OFF };

enum { START_LAYER_MAX = 8 }; /* of every released configuration */

#define AT(field) offsetof(struct specpc, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "prompt tokens that the target reads, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "64", .low = 1,
      .high = 65536, .help = "last prompt tokens that vote and stay" },
    { .name = "kernel", .type = FT_UINT, .offset = AT(kernel), .initial = "32", .low = 1,
      .high = 4096, .help = "pooling width" },
    { .name = "neighbors", .type = FT_UINT, .offset = AT(neighbors), .low = 0, .high = 4096,
      .unset = "kernel", .help = "tokens that a chosen one brings along, itself included" },
    { .name = "pool", .type = FT_CHOICE, .offset = AT(pool), .initial = "max",
      .choices = "max|mean|none", .help = "how neighbouring scores are pooled" },
    { .name = "reduce", .type = FT_CHOICE, .offset = AT(reduce), .initial = "max",
      .choices = "max|mean", .help = "how queries and heads are joined (mean: their sum)" },
    { .name = "start_layer", .type = FT_UINT, .offset = AT(start_layer), .low = 0, .high = 1023,
      .unset = "min(8, n_layer/2)", .help = "first layer of the draft that votes" },
    { .name = "weighted", .type = FT_CHOICE, .offset = AT(weighted), .initial = "code",
      .choices = "code|paper|off", .help = "weight of query i of w: i/(w-1), (i+1)/w or 1" },
    { .name = "lookahead", .type = FT_UINT, .offset = AT(lookahead), .initial = "1", .low = 1,
      .high = 65536, .help = "draft steps that vote; the first is the prefill" },
    { .name = "positions", .type = FT_CHOICE, .offset = AT(positions), .initial = "compact",
      .choices = "compact|original", .help = "positions of kept tokens: 0, 1, ... or their own" },
    { .name = "protect", .type = FT_CHOICE, .offset = AT(protect), .initial = "on",
      .choices = "on|off", .help = "keep BOS and the system header" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct specpc *p = params;
    if (p->neighbors == FT_UNSET) {
        p->neighbors = p->kernel;
    }
    if (p->start_layer == FT_UNSET) {
        p->start_layer = FT_MIN(START_LAYER_MAX, facts->n_layer / 2);
    }
}

static enum ft_ramp ramp(uint32_t weighted) {
    switch (weighted) {
    case WEIGHTED_CODE:
        return FT_RAMP_CODE;
    case WEIGHTED_PAPER:
        return FT_RAMP_PAPER;
    default:
        return FT_RAMP_OFF;
    }
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct specpc p = *(const struct specpc *)params;
    resolve(&p, facts);
    *out = (struct ft_look){
        .source = FT_SOURCE_DRAFT,
        .window = p.window,
        .lookahead = p.lookahead,
        .layer_first = p.start_layer,
        .fold = p.reduce == REDUCE_MAX ? FT_FOLD_MAX : FT_FOLD_SUM,
        .ramp = ramp(p.weighted),
        .is_compact = p.positions == POSITIONS_COMPACT,
        .is_protecting = p.protect == PROTECT_ON,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct specpc *p = params;
    if (p->pool == POOL_NONE) {
        memcpy(out, ev->mass, ev->n_row * sizeof(*out));
        return;
    }
    ft_pool(ev->mass, ev->n_row, p->kernel, p->pool == POOL_MAX, out);
}

/* Index j and its neighbours -(nb-1)/2 .. nb/2, nearest first, left before right; clamped. */
static void add_around(struct ft_set *set, uint32_t j, uint32_t nb) {
    uint32_t left = nb > 0 ? (nb - 1) / 2 : 0, right = nb / 2;
    ft_set_add(set, j);
    for (uint32_t far = 1; far <= right && set->room > 0; far++) { /* right >= left */
        if (far <= left) {
            ft_set_add(set, j > far ? j - far : 0);
        }
        ft_set_add(set, far < set->n - j ? j + far : set->n - 1);
    }
}

static uint32_t keep(const float *score, const void *params, const struct ft_budget *budget,
                     uint32_t *work, uint32_t *out) {
    const struct specpc *p = params;
    uint32_t *ranked = work + budget->n_prompt;
    /* Every ranked token brings at least itself, so `keep` of them always fill the budget. */
    uint32_t n_ranked = ft_keep_rank(score, budget->n_prompt, budget->keep, work, ranked);
    struct ft_set set = ft_set_begin(budget, p->window, work);
    for (uint32_t i = 0; i < n_ranked && set.room > 0; i++) {
        add_around(&set, ranked[i], p->neighbors == FT_UNSET ? p->kernel : p->neighbors);
    }
    return ft_set_list(&set, out);
}

const struct ft_method ft_method_specpc = {
    .name = "specpc",
    .title = "the draft's attention chooses the prompt tokens that are read",
    .paper = "arXiv:2506.08373",
    .file = "src/score/specpc.c",
    .act = FT_PROMPT,
    .needs_draft = true,
    .params = table,
    .params_size = sizeof(struct specpc),
    .resolve = resolve,
    .look = look,
    .score = score,
    .keep = keep,
};
