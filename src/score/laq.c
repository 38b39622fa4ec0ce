/* SPDX-License-Identifier: Apache-2.0 */
/* laq.c - LAQ and LAQ++: the target itself looks ahead from a first choice of rows; the queries of
 * what it writes choose the rows that stay.
 *
 * Paper    arXiv:2505.20334
 * Run      (1) the target reads the prompt and keeps all rows, and the queries of the last window
 *          tokens; (2) behind the rows that SnapKV keeps of them (keep, trial_window, a maximum over
 *          7: the trial) it writes up to lookahead greedy tokens at their true positions, and their
 *          queries are kept; (3) all these queries vote about all rows; look-ahead text and trial
 *          are gone, and the answer begins with the logits of (1)
 * Score    s[j] = max over kernel neighbours of the mean over a KV head's query heads of the sum over
 *          voters of softmax(q.k/sqrt d)[j], over prompt keys alone; candidates j in
 *          [0, n - window); kept: the keep - window best and the window
 *          window=0 is LAQ, window=8, the default, LAQ++
 * Departs  window rows see the keys up to their own and look-ahead rows all of the prompt (the
 *          code's causal triangle lies on the last columns of the prompt, for all voters);
 *          an end token stops the look-ahead and votes as its last token;
 *          the trial is uniform over layers and heads and goes by score, whatever budget and rank
 *          the rows that stay have; trial_window is 8 where keep < 64, and a KV head keeps rows, not
 *          a query head, as in snapkv; weights stay fp32; ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c; runs
 *          against their steps one by one in tests/unit/test_dropping.c
 */
#include "score/score.h"

struct laq {
    struct ft_amount keep;
    uint32_t window, trial_window, kernel, lookahead;
};

#define AT(field) offsetof(struct laq, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included; as many are in the trial" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "8", .low = 0,
      .high = 65536, .help = "last prompt rows, which vote too and stay (LAQ++); 0: none (LAQ)" },
    { .name = "trial_window", .type = FT_UINT, .offset = AT(trial_window), .low = 1, .high = 65536,
      .unset = "32 (8 if keep < 64), at least window",
      .help = "last prompt rows that choose the rows of the trial" },
    { .name = "kernel", .type = FT_UINT, .offset = AT(kernel), .initial = "7", .low = 1,
      .high = 4095, .step = 2, .help = "pooling width" },
    { .name = "lookahead", .type = FT_UINT, .offset = AT(lookahead), .initial = "8", .low = 1,
      .high = 4096, .help = "most tokens that are written in the trial" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct laq *p = params;
    if (p->trial_window == FT_UNSET) {
        uint32_t usual = ft_window_default(ft_amount_rows(&p->keep, facts));
        p->trial_window = FT_MAX(usual, p->window);
    }
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct laq p = *(const struct laq *)params;
    resolve(&p, facts);
    /* A mean over voters ranks as their sum does. */
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = p.window,
        .trial_window = p.trial_window,
        .lookahead = p.lookahead,
        .fold = FT_FOLD_MEAN,
        .is_prompt_only = true,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct laq *p = params;
    ft_pool(ev->mass, ev->n_row, p->kernel, true, out);
}

const struct ft_method ft_method_laq = {
    .name = "laq",
    .title = "text that the target writes on a first choice of KV rows chooses those that stay",
    .paper = "arXiv:2505.20334",
    .file = "src/score/laq.c",
    .act = FT_RETAIN,
    .has_trial = true,
    .params = table,
    .params_size = sizeof(struct laq),
    .resolve = resolve,
    .look = look,
    .score = score,
};
