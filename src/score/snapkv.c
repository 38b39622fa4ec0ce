/* SPDX-License-Identifier: Apache-2.0 */
/* snapkv.c - SnapKV: the last prompt queries vote for the rows to keep.
 *
 * Paper    arXiv:2404.14469
 * Score    s[j] = pool_k( join over a KV head's query heads of sum over voters of
 *          softmax(q.k/sqrt d)[j] ); voters: the last window prompt tokens; candidates
 *          j in [0, n - window); kept: the keep - window best and the window
 * Departs  a KV head keeps rows, not a query head: the authors' code repeats keys and values for
 *          every query head, which loses what grouped queries save; the group is joined before
 *          pooling, by its mean or its largest head;
 *          the default is window 32 and a maximum over 7, as in the authors' published runs (the
 *          class has an average over 5); window is 8 where keep < 64;
 *          weights stay fp32 (the code rounds them to the model's type); ties go to the lower index
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_baselines.c
 */
#include "score/score.h"

struct snapkv {
    struct ft_amount keep;
    uint32_t window, kernel, pool, group;
};

enum { POOL_MAX, POOL_MEAN }; /* order of the choices below */
enum { GROUP_MEAN, GROUP_MAX };

#define AT(field) offsetof(struct snapkv, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .low = 1, .high = 65536,
      .unset = "32 (8 if keep < 64)", .help = "last prompt rows, which vote and stay" },
    { .name = "kernel", .type = FT_UINT, .offset = AT(kernel), .initial = "7", .low = 1,
      .high = 4095, .step = 2, .help = "pooling width" },
    { .name = "pool", .type = FT_CHOICE, .offset = AT(pool), .initial = "max",
      .choices = "max|mean", .help = "how neighbouring scores are pooled" },
    { .name = "group", .type = FT_CHOICE, .offset = AT(group), .initial = "mean",
      .choices = "mean|max", .help = "how the query heads of a KV head are joined" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct snapkv *p = params;
    if (p->window == FT_UNSET) {
        p->window = ft_window_default(ft_amount_rows(&p->keep, facts));
    }
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct snapkv p = *(const struct snapkv *)params;
    resolve(&p, facts);
    /* A mean over voters ranks as their sum does. */
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = p.window,
        .fold = FT_FOLD_MEAN,
        .is_group_max = p.group == GROUP_MAX,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct snapkv *p = params;
    ft_pool(ev->mass, ev->n_row, p->kernel, p->pool == POOL_MAX, out);
}

const struct ft_method ft_method_snapkv = {
    .name = "snapkv",
    .title = "the last prompt tokens choose the KV rows that stay",
    .paper = "arXiv:2404.14469",
    .file = "src/score/snapkv.c",
    .act = FT_RETAIN,
    .params = table,
    .params_size = sizeof(struct snapkv),
    .resolve = resolve,
    .look = look,
    .score = score,
};
