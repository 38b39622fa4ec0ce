/* SPDX-License-Identifier: Apache-2.0 */
/* budget.c - how the rows that a KV method may keep are spread over layers and KV heads.
 *
 * Paper    PyramidKV arXiv:2406.02069, AdaKV arXiv:2407.11550
 * Budget   B = keep - window rows beside the window, for each head of each layer on average.
 *          pyramid   layer l has most - l * step: min = floor(B / beta), most = 2B - min; where a
 *                    head has no more than `most` candidates, most is that many and min is
 *                    2B - most; step = floor((most - min) / (layers - 1)).  A prompt below 2B
 *                    tokens: uniform
 *          ada       of a layer's G heads each keeps its floor(alpha B) best rows; rule=exact: the
 *                    rest of G B goes to the best of all heads' other rows; rule=adakv: head h,
 *                    which has c of the G B best rows of all, keeps round(c (1 - alpha) +
 *                    floor(alpha B))
 * Departs  a method's own scores are compared across heads as they are (AdaKV's code can scale a
 *          head's scores by what its best rows hold of their sum); both keep rows per KV head, and
 *          what is dropped is gone; ties go to the lower head, then to the lower row; one layer is
 *          uniform.  pyramid keeps a little more than uniform would, as step is rounded down;
 *          rule=adakv up to half a row per head more or less, as it rounds
 * Golden   vectors of the formulas above, in tests/unit/test_budget.c
 */
#include <math.h>
#include <string.h>

#include "score/score.h"

struct ft_layers ft_split_layers(const struct ft_split *split, uint32_t n_free, uint32_t n_col,
                                 uint32_t n_prompt, uint32_t n_layer) {
    ft_assert(n_free <= n_col && n_layer > 0);
    uint64_t twice = 2 * (uint64_t)n_free;
    if (split->budget != FT_BUDGET_PYRAMID || n_prompt < twice || n_layer == 1) {
        return (struct ft_layers){ .most = n_free };
    }
    uint64_t least = n_free / split->beta, most = twice - least;
    if (most >= n_col) {
        most = n_col;
        least = twice - most;
    }
    return (struct ft_layers){ .most = (uint32_t)most,
                               .step = (uint32_t)((most - least) / (n_layer - 1)) };
}

uint64_t ft_layers_sum(const struct ft_layers *layers, uint32_t n_layer) {
    return (uint64_t)n_layer * layers->most - (uint64_t)layers->step * n_layer * (n_layer - 1) / 2;
}

void ft_split_heads(const struct ft_split *split, const struct ft_heads *heads, uint32_t n_free,
                    uint32_t *out) {
    uint32_t n_head = heads->n_head, n = heads->n;
    uint32_t n_sure = (uint32_t)((uint64_t)n_free * split->alpha / 100), n_all = n_head * n_free;
    bool is_exact = split->rule == FT_RULE_EXACT;
    memcpy(heads->copy, heads->score, (size_t)n_head * n * sizeof(*heads->copy));
    for (uint32_t h = 0; is_exact && h < n_head; h++) { /* rows that stay for certain come first */
        float *own = heads->copy + (size_t)h * n;
        uint32_t n_best = ft_keep_rank(own, n, n_sure, heads->work, heads->ranked);
        for (uint32_t i = 0; i < n_best; i++) {
            own[heads->ranked[i]] = INFINITY;
        }
    }
    memset(out, 0, n_head * sizeof(*out));
    n_all = ft_keep_rank(heads->copy, n_head * n, n_all, heads->work, heads->ranked);
    for (uint32_t i = 0; i < n_all; i++) {
        out[heads->ranked[i] / n]++;
    }
    for (uint32_t h = 0; !is_exact && n_free < n && h < n_head; h++) { /* all stay: no rounding */
        double share = (double)((uint64_t)out[h] * (100 - split->alpha)) / 100;
        out[h] = (uint32_t)rint(share + n_sure); /* halves to even, as the code's round */
    }
}
