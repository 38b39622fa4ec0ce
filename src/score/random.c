/* SPDX-License-Identifier: Apache-2.0 */
/* random.c - the control: rows that stay are drawn by chance.
 *
 * Paper    none
 * Score    s[j] = u(seed, layer, KV head, j), uniform in [0, 1), j the row's index in what is read;
 *          candidates j in [0, n - window); kept: the keep - window largest and the window
 * Departs  nowhere known
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include "base/rng.h"
#include "score/score.h"

struct random {
    struct ft_amount keep;
    uint32_t window, seed;
};

#define AT(field) offsetof(struct random, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "0", .low = 0,
      .high = 65536, .help = "last prompt rows that stay for certain" },
    { .name = "seed", .type = FT_UINT, .offset = AT(seed), .initial = "0", .low = 0,
      .high = 2147483647, .help = "another seed, other rows" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct random *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_NONE,
        .window = p->window,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct random *p = params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = (float)ft_rng_uniform(p->seed, ev->layer, ev->head, j);
    }
}

const struct ft_method ft_method_random = {
    .name = "random",
    .title = "chance chooses the KV rows that stay",
    .paper = "",
    .file = "src/score/random.c",
    .act = FT_RETAIN,
    .unfit = { [FT_BUDGET_ADA] = "chance says nothing about what a head needs" },
    .unfit_critical = "chance says nothing about how much a row is read",
    .params = table,
    .params_size = sizeof(struct random),
    .look = look,
    .score = score,
};
