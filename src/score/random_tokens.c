/* SPDX-License-Identifier: Apache-2.0 */
/* random_tokens.c - the control of the prompt stage: tokens that are read are drawn by chance.
 *
 * Paper    none
 * Score    s[j] = u(seed, j), uniform in [0, 1); kept: protected tokens, the last window tokens,
 *          then the largest
 * Departs  nowhere known
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_tokens_kept.c
 */
#include "base/rng.h"
#include "score/score.h"

struct random_tokens {
    struct ft_amount keep;
    uint32_t window, seed, positions, protect;
};

enum { POSITIONS_COMPACT, POSITIONS_ORIGINAL }; /* order of the choices below */
enum { PROTECT_ON, PROTECT_OFF };

#define AT(field) offsetof(struct random_tokens, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "prompt tokens that the target reads, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "64", .low = 0,
      .high = 65536, .help = "last prompt tokens that stay for certain" },
    { .name = "seed", .type = FT_UINT, .offset = AT(seed), .initial = "0", .low = 0,
      .high = 2147483647, .help = "another seed, other tokens" },
    { .name = "positions", .type = FT_CHOICE, .offset = AT(positions), .initial = "compact",
      .choices = "compact|original", .help = "positions of kept tokens: 0, 1, ... or their own" },
    { .name = "protect", .type = FT_CHOICE, .offset = AT(protect), .initial = "on",
      .choices = "on|off", .help = "keep BOS and the system header" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct random_tokens *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_DRAFT,
        .column = FT_COLUMN_NONE,
        .window = p->window,
        .is_compact = p->positions == POSITIONS_COMPACT,
        .is_protecting = p->protect == PROTECT_ON,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct random_tokens *p = params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = (float)ft_rng_uniform(p->seed, 0, 0, j);
    }
}

static uint32_t keep(const float *scores, const void *params, const struct ft_budget *budget,
                     uint32_t *work, uint32_t *out) {
    const struct random_tokens *p = params;
    return ft_keep_tokens(scores, p->window, budget, work, out);
}

const struct ft_method ft_method_random_tokens = {
    .name = "random",
    .title = "chance chooses the prompt tokens that are read",
    .paper = "",
    .file = "src/score/random_tokens.c",
    .act = FT_PROMPT,
    .params = table,
    .params_size = sizeof(struct random_tokens),
    .look = look,
    .score = score,
    .keep = keep,
};
