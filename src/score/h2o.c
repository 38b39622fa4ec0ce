/* SPDX-License-Identifier: Apache-2.0 */
/* h2o.c - H2O at the end of the prompt: rows that all its tokens attended to most stay.
 *
 * Paper    arXiv:2306.14048
 * Score    s[j] = mean over a KV head's query heads of sum over all prompt tokens i of
 *          softmax(q_i.k/sqrt d)[j]; candidates j in [0, n - window); kept: the keep - window best
 *          and the window
 * Departs  the prefill form: the original also counts while it decodes, and then drops one row at
 *          every step; a KV head keeps rows, not a query head; sums stay fp32; window is 32 (8
 *          where keep < 64), where the original keeps half of its budget for recent rows;
 *          ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include <string.h>

#include "score/score.h"

struct h2o {
    struct ft_amount keep;
    uint32_t window;
};

#define AT(field) offsetof(struct h2o, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .low = 1, .high = 65536,
      .unset = "32 (8 if keep < 64)", .help = "last prompt rows that stay whatever their score" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct h2o *p = params;
    if (p->window == FT_UNSET) {
        p->window = ft_window_default(ft_amount_rows(&p->keep, facts));
    }
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct h2o p = *(const struct h2o *)params;
    resolve(&p, facts);
    /* A mean over voters ranks as their sum does. */
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = p.window,
        .fold = FT_FOLD_MEAN,
        .is_all_voting = true,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    memcpy(out, ev->mass, ev->n_row * sizeof(*out));
}

const struct ft_method ft_method_h2o = {
    .name = "h2o",
    .title = "all prompt tokens choose the KV rows that stay",
    .paper = "arXiv:2306.14048",
    .file = "src/score/h2o.c",
    .act = FT_RETAIN,
    .params = table,
    .params_size = sizeof(struct h2o),
    .resolve = resolve,
    .look = look,
    .score = score,
};
