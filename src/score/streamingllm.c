/* SPDX-License-Identifier: Apache-2.0 */
/* streamingllm.c - StreamingLLM: the first rows and the last ones stay, whatever they say.
 *
 * Paper    arXiv:2309.17453
 * Score    s[j] = -j; the window is keep - sinks rows, so that of the candidates
 *          j in [0, n - window) the first `sinks` stay.  decode=on: before a further token is
 *          read, the oldest row behind the sinks leaves, so that keep rows are held with its own.
 *          positions=compact: a row counts as standing at its place in the cache, 0, 1, ...
 * Departs  the paper keeps keys unrotated and rotates all of them at every step.  Attention sees
 *          differences of positions alone, and those among the recent rows are the same in the text
 *          and in the cache: so the sinks alone are rotated, forward by as many positions as are
 *          missing between them and the recent rows, from copies in fp32 of the keys as the prompt
 *          stored them (the copies count as memory).  Each is so rounded to the cache's type twice,
 *          however long the answer gets; the text's positions must stay within the context.  The
 *          prompt is read with all its rows, the paper's rolls from the start.  decode=off: rows
 *          leave once, behind the prompt; positions=original: keys keep what they were rotated for
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c and
 *          test_evict.c
 */
#include "score/score.h"

struct streamingllm {
    struct ft_amount keep;
    uint32_t sinks;
    uint32_t decode;    /* 0: on */
    uint32_t positions; /* 0: compact */
};

#define AT(field) offsetof(struct streamingllm, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the sinks included" },
    { .name = "sinks", .type = FT_UINT, .offset = AT(sinks), .initial = "4", .low = 1,
      .high = 65536, .help = "first prompt rows that stay" },
    { .name = "decode", .type = FT_CHOICE, .offset = AT(decode), .initial = "on",
      .choices = "on|off",
      .help = "at every step of the answer the oldest row behind the sinks leaves (paper), or rows "
              "leave behind the prompt only" },
    { .name = "positions", .type = FT_CHOICE, .offset = AT(positions), .initial = "compact",
      .choices = "compact|original",
      .help = "where kept rows count as standing: at their place in the cache (paper) or in the "
              "text" },
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
        .is_evicting = p->decode == 0,
        .is_compact = p->positions == 0,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        out[j] = -(float)j; /* beyond 2^24 neighbours tie, and the lower index wins as it should */
    }
}

static uint32_t evict(const struct ft_step *step, const void *params, uint32_t *drop) {
    const struct streamingllm *p = params;
    uint32_t n_drop = step->n_row > step->keep ? step->n_row - step->keep : 0;
    for (uint32_t i = 0; i < n_drop; i++) {
        drop[i] = p->sinks + i;
    }
    return n_drop;
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
    .evict = evict,
};
