/* SPDX-License-Identifier: Apache-2.0 */
/* h2o.c - H2O: the rows that all tokens so far attended to most stay, and the latest ones.
 *
 * Paper    arXiv:2306.14048
 * Score    s[j] = mean over a KV head's query heads of sum over all prompt tokens i of
 *          softmax(q_i.k/sqrt d)[j]; candidates j in [0, n - window); kept: the keep - window best
 *          and the window.  decode=on: every further token adds its own weights to s, its row
 *          starts with what it gives itself; where a head then holds more than keep rows, the one
 *          with the lowest s in front of the last `window` rows leaves.  A row that leaves the
 *          window is a candidate with all it was given before
 * Departs  a KV head keeps rows, not a query head: a group's weights count as their mean; sums stay
 *          fp32; window is 32 (8 where keep < 64), where the original keeps half of its budget for
 *          recent rows; budget=ada and pyramid limit each head to what it kept of the prompt; ties
 *          go to the lower index.  decode=off is the form that other works measure: rows leave
 *          once, behind the prompt, and the answer's rows come on top
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c and
 *          test_evict.c
 */
#include <string.h>

#include "score/score.h"

struct h2o {
    struct ft_amount keep;
    uint32_t window;
    uint32_t decode; /* 0: on */
};

#define AT(field) offsetof(struct h2o, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .low = 1, .high = 65536,
      .unset = "32 (8 if keep < 64)", .help = "last prompt rows that stay whatever their score" },
    { .name = "decode", .type = FT_CHOICE, .offset = AT(decode), .initial = "on",
      .choices = "on|off",
      .help = "at every step of the answer scores grow and a row leaves (paper), or rows leave "
              "behind the prompt only" },
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
        .is_evicting = p.decode == 0,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    memcpy(out, ev->mass, ev->n_row * sizeof(*out));
}

/* The sum over voters, which the prompt's evidence has as a mean. */
static void begin(const struct ft_evidence *ev, const void *params, uint32_t n_voter, float *aux) {
    (void)params;
    for (uint32_t j = 0; j < ev->n_row; j++) {
        aux[j] = ev->mass[j] * (float)n_voter;
    }
}

static uint32_t evict(const struct ft_step *step, const void *params, uint32_t *drop) {
    (void)params;
    for (uint32_t j = 0; j < step->n_row; j++) {
        step->aux[j] += step->mass[j];
    }
    return ft_keep_evict(step->aux, step, drop);
}

const struct ft_method ft_method_h2o = {
    .name = "h2o",
    .title = "all tokens so far choose the KV rows that stay",
    .paper = "arXiv:2306.14048",
    .file = "src/score/h2o.c",
    .act = FT_RETAIN,
    .params = table,
    .params_size = sizeof(struct h2o),
    .resolve = resolve,
    .look = look,
    .score = score,
    .n_aux = 1,
    .begin = begin,
    .evict = evict,
};
