/* SPDX-License-Identifier: Apache-2.0 */
/* knorm.c - rows with short keys stay: they are those that receive much attention.
 *
 * Paper    arXiv:2406.11430
 * Score    s[j] = -|k_j|, the L2 norm of the key as stored; candidates j in [0, n - window)
 * Departs  keys are measured behind RoPE, which leaves their length as it is, and as the cache
 *          stores them, rounded; rows leave once, behind the prompt; every layer drops rows (the
 *          authors' code can leave out the first layers); window protects the last rows, and is 0
 *          as theirs; ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include "score/score.h"

struct knorm {
    struct ft_amount keep;
    uint32_t window;
};

#define AT(field) offsetof(struct knorm, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "0", .low = 0,
      .high = 65536, .help = "last prompt rows that stay whatever their score" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct knorm *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_NORM,
        .window = p->window,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = -ev->norm[j];
    }
}

const struct ft_method ft_method_knorm = {
    .name = "knorm",
    .title = "the KV rows with the shortest keys stay",
    .paper = "arXiv:2406.11430",
    .file = "src/score/knorm.c",
    .act = FT_RETAIN,
    .unfit_critical = "scores are negative lengths: times a size, the largest outputs would go first",
    .params = table,
    .params_size = sizeof(struct knorm),
    .look = look,
    .score = score,
};
