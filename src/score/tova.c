/* SPDX-License-Identifier: Apache-2.0 */
/* tova.c - TOVA: the last token's attention, averaged over a layer's heads, says what stays.
 *
 * Paper    arXiv:2401.06104
 * Score    s[j] = mean over all query heads of a layer of softmax(q.k/sqrt d)[j], q of the last
 *          prompt token; candidates j in [0, n - 1); kept: the keep - 1 best and the last row.
 *          All heads of a layer keep the same rows.  decode=on: every further token votes in the
 *          same way, and where a layer then holds more than keep rows, the lowest one leaves
 * Departs  the voting token's own row always stays; budget=pyramid limits a layer to what it kept of
 *          the prompt; ties go to the lower index.  decode=off is the form that other works measure:
 *          rows leave once, behind the prompt, and the answer's rows come on top
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c and
 *          test_evict.c
 */
#include <string.h>

#include "score/score.h"

struct tova {
    struct ft_amount keep;
    uint32_t decode; /* 0: on */
};

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = offsetof(struct tova, keep), .initial = "1024",
      .help = "rows of each KV head that stay, the last one included" },
    { .name = "decode", .type = FT_CHOICE, .offset = offsetof(struct tova, decode),
      .initial = "on", .choices = "on|off",
      .help = "every token of the answer votes too and a row leaves (paper), or rows leave behind "
              "the prompt only" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = 1,
        .fold = FT_FOLD_MEAN,
        .is_layer_wide = true,
        .is_evicting = ((const struct tova *)params)->decode == 0,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    memcpy(out, ev->mass, ev->n_row * sizeof(*out));
}

static uint32_t evict(const struct ft_step *step, const void *params, uint32_t *drop) {
    (void)params;
    return ft_keep_evict(step->mass, step, drop);
}

const struct ft_method ft_method_tova = {
    .name = "tova",
    .title = "the last token chooses the KV rows of a layer that stay",
    .paper = "arXiv:2401.06104",
    .file = "src/score/tova.c",
    .act = FT_RETAIN,
    .unfit = { [FT_BUDGET_ADA] = "all heads of a layer share one score" },
    .params = table,
    .params_size = sizeof(struct tova),
    .look = look,
    .score = score,
    .evict = evict,
};
