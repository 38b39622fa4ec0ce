/* SPDX-License-Identifier: Apache-2.0 */
/* tova.c - TOVA: the last token's attention, averaged over a layer's heads, says what stays.
 *
 * Paper    arXiv:2401.06104
 * Score    s[j] = mean over all query heads of a layer of softmax(q.k/sqrt d)[j], q of the last
 *          prompt token; candidates j in [0, n - 1); kept: the keep - 1 best and the last row.
 *          All heads of a layer keep the same rows
 * Departs  rows leave once, behind the prompt: the paper drops one row at every step beyond the
 *          budget.  The voting token's own row always stays; ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include <string.h>

#include "score/score.h"

struct tova {
    struct ft_amount keep;
};

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = offsetof(struct tova, keep), .initial = "1024",
      .help = "rows of each KV head that stay, the last one included" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    (void)params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = 1,
        .fold = FT_FOLD_MEAN,
        .is_layer_wide = true,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    memcpy(out, ev->mass, ev->n_row * sizeof(*out));
}

const struct ft_method ft_method_tova = {
    .name = "tova",
    .title = "the last prompt token chooses the KV rows of a layer that stay",
    .paper = "arXiv:2401.06104",
    .file = "src/score/tova.c",
    .act = FT_RETAIN,
    .unfit = { [FT_BUDGET_ADA] = "all heads of a layer share one score" },
    .params = table,
    .params_size = sizeof(struct tova),
    .look = look,
    .score = score,
};
