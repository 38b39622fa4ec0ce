/* SPDX-License-Identifier: Apache-2.0 */
/* streamingllm.c - StreamingLLM: the first rows and the last ones stay, whatever they say.
 *
 * Paper    arXiv:2309.17453
 * Score    s[j] = -j; the window is keep - sinks rows, so that of the candidates
 *          j in [0, n - window) the first `sinks` stay
 * Departs  keys keep the positions they were rotated for; the paper gives what stays the positions
 *          0, 1, ... of its place in the cache and rotates at every step.  Rows leave once, behind
 *          the prompt; the paper's cache also drops rows while it decodes
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include "score/score.h"

struct streamingllm {
    struct ft_amount keep;
    uint32_t sinks;
};

#define AT(field) offsetof(struct streamingllm, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the sinks included" },
    { .name = "sinks", .type = FT_UINT, .offset = AT(sinks), .initial = "4", .low = 1,
      .high = 65536, .help = "first prompt rows that stay" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct streamingllm *p = params;
    uint32_t keep = ft_amount_rows(&p->keep, facts);
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_NONE,
        .sinks = p->sinks,
        .window = keep > p->sinks ? keep - p->sinks : 0, /* refused below: no row would be recent */
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = -(float)j; /* beyond 2^24 neighbours tie, and the lower index wins as it should */
    }
}

const struct ft_method ft_method_streamingllm = {
    .name = "streamingllm",
    .title = "the first and the last KV rows stay",
    .paper = "arXiv:2309.17453",
    .file = "src/score/streamingllm.c",
    .act = FT_RETAIN,
    .unfit = { [FT_BUDGET_PYRAMID] = "the sinks are the only rows that scores choose",
               [FT_BUDGET_ADA] = "scores say where a row stands, not what a head needs" },
    .unfit_critical = "scores say where a row stands, not how much it is read",
    .params = table,
    .params_size = sizeof(struct streamingllm),
    .look = look,
    .score = score,
};
