/* SPDX-License-Identifier: Apache-2.0 */
/* speckv.c - SpecKV: a draft writes a likely answer; its queries choose the prompt rows to keep.
 *
 * Paper    arXiv:2506.08373 (SpecKV)
 * Score    s[j] = pool_k( max over voters and a KV head's query heads of softmax(q.k/sqrt d)[j] )
 *          voters: the last window + 1 prompt tokens and the lookahead tokens, read by the target;
 *          candidates j in [0, n - window - 1); kept: the keep - window best and the window
 *          The method `oracle` is the same with the target's own greedy answer, written by a dense
 *          run, as lookahead tokens: what SpecKV could do with a draft that is never wrong
 * Departs  a prompt within keep is dense and the draft does not run (the code drafts first);
 *          keep above prefill_window + prefill_vertical raises prefill_vertical (the code refuses);
 *          window is 8 where keep < 64, as the code's 32 would leave nothing to choose;
 *          scores stay fp32 (the code forms logits in bf16); ties go to the lower index (the
 *          code's sort is unstable)
 * Golden   vectors worked out by hand from the authors' code (furiosa-ai/draft-based-approx-llm at
 *          d79e404), in tests/unit/test_speckv.c
 */
#include "score/score.h"

struct speckv {
    struct ft_amount keep;
    uint32_t window, kernel, pool, reduce, lookahead, prefill_window, prefill_vertical;
};

enum { POOL_MAX, POOL_MEAN };     /* order of the choices below */
enum { REDUCE_MAX, REDUCE_MEAN };

#define AT(field) offsetof(struct speckv, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "rows of each KV head that stay, the window included" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .low = 1, .high = 65536,
      .unset = "32 (8 if keep < 64)",
      .help = "last prompt rows that stay whatever their score" },
    { .name = "kernel", .type = FT_UINT, .offset = AT(kernel), .initial = "7", .low = 1,
      .high = 4095, .step = 2, .help = "pooling width" },
    { .name = "pool", .type = FT_CHOICE, .offset = AT(pool), .initial = "max",
      .choices = "max|mean", .help = "how neighbouring scores are pooled" },
    { .name = "reduce", .type = FT_CHOICE, .offset = AT(reduce), .initial = "max",
      .choices = "max|mean", .help = "how voters and the heads of a group are joined" },
    { .name = "lookahead", .type = FT_UINT, .offset = AT(lookahead), .low = 1, .high = 65536,
      .unset = "the token limit", .help = "most tokens that are written ahead" },
    { .name = "prefill_window", .type = FT_UINT, .offset = AT(prefill_window), .initial = "2048",
      .low = 64, .high = 1048576, .step = 64, .help = "sparse prefill: recent rows that are seen" },
    { .name = "prefill_vertical", .type = FT_UINT, .offset = AT(prefill_vertical),
      .initial = "2048", .low = 0, .high = 1048576,
      .help = "sparse prefill: best columns that every row sees" },
    { .name = NULL },
};

static void resolve(void *params, const struct ft_facts *facts) {
    struct speckv *p = params;
    uint32_t keep = ft_amount_rows(&p->keep, facts);
    if (p->window == FT_UNSET) {
        p->window = ft_window_default(keep);
    }
    if (p->lookahead == FT_UNSET) {
        p->lookahead = FT_MAX(facts->n_predict, 1);
    }
    /* The columns and the band together must be able to hold what the cache keeps. */
    if (keep > p->prefill_window && keep - p->prefill_window > p->prefill_vertical) {
        p->prefill_vertical = keep - p->prefill_window;
    }
}

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    struct speckv p = *(const struct speckv *)params;
    resolve(&p, facts);
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .window = p.window,
        .lookahead = p.lookahead,
        .refeed = 1,
        .fold = p.reduce == REDUCE_MAX ? FT_FOLD_MAX : FT_FOLD_MEAN,
        .prefill_window = p.prefill_window,
        .prefill_vertical = p.prefill_vertical,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct speckv *p = params;
    ft_pool(ev->mass, ev->n_row, p->kernel, p->pool == POOL_MAX, out);
}

const struct ft_method ft_method_speckv = {
    .name = "speckv",
    .title = "a drafted answer chooses the KV rows that stay",
    .paper = "arXiv:2506.08373",
    .file = "src/score/speckv.c",
    .act = FT_RETAIN,
    .needs_draft = true,
    .needs_draft_text = true,
    .params = table,
    .params_size = sizeof(struct speckv),
    .resolve = resolve,
    .look = look,
    .score = score,
};

const struct ft_method ft_method_oracle = {
    .name = "oracle",
    .title = "the target's own answer chooses the KV rows that stay, at the price of a dense run",
    .paper = "arXiv:2506.08373",
    .file = "src/score/speckv.c",
    .act = FT_RETAIN,
    .writes_itself = true,
    .params = table,
    .params_size = sizeof(struct speckv),
    .resolve = resolve,
    .look = look,
    .score = score,
};
