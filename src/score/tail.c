/* SPDX-License-Identifier: Apache-2.0 */
/* tail.c - the control that cuts: the last prompt tokens are read, and nothing in front of them.
 *
 * Paper    none
 * Score    s[j] = j - (n - 1); kept: protected tokens, then the last
 * Departs  nowhere known
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_tokens_kept.c
 */
#include "score/score.h"

struct tail {
    struct ft_amount keep;
    uint32_t positions, protect;
};

enum { POSITIONS_COMPACT, POSITIONS_ORIGINAL }; /* order of the choices below */
enum { PROTECT_ON, PROTECT_OFF };

#define AT(field) offsetof(struct tail, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "last prompt tokens, which the target reads" },
    { .name = "positions", .type = FT_CHOICE, .offset = AT(positions), .initial = "compact",
      .choices = "compact|original", .help = "positions of kept tokens: 0, 1, ... or their own" },
    { .name = "protect", .type = FT_CHOICE, .offset = AT(protect), .initial = "on",
      .choices = "on|off", .help = "keep BOS and the system header" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct tail *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_DRAFT,
        .column = FT_COLUMN_NONE,
        .is_compact = p->positions == POSITIONS_COMPACT,
        .is_protecting = p->protect == PROTECT_ON,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = -(float)(ev->n_row - 1 - j);
    }
}

static uint32_t keep(const float *scores, const void *params, const struct ft_budget *budget,
                     uint32_t *work, uint32_t *out) {
    (void)params;
    return ft_keep_tokens(scores, 0, budget, work, out);
}

const struct ft_method ft_method_tail = {
    .name = "tail",
    .title = "the last prompt tokens are read",
    .paper = "",
    .file = "src/score/tail.c",
    .act = FT_PROMPT,
    .params = table,
    .params_size = sizeof(struct tail),
    .look = look,
    .score = score,
    .keep = keep,
};
