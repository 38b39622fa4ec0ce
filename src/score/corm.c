/* SPDX-License-Identifier: Apache-2.0 */
/* corm.c - CORM: a row leaves when no token of the last ones found it important.
 *
 * Paper    arXiv:2404.15949
 * Score    token t (the t-th of the text) finds row j important when softmax(q_t.k/sqrt d)[j] >= 1/t for
 *          any query head of the KV head, or for their mean; its own row always.  last[j] is the last
 *          such t, which says the same as a history of `window` votes.  A row with
 *          t - last[j] >= window leaves, unless it is one of the `recent` newest.  The last `window`
 *          rows of the prompt vote, then rows leave at once; every further token votes, then rows
 *          leave.  As many stay as votes say, in each head another number; only where more than keep
 *          would be left, those with the smallest last[] leave too, then those with the lower weight
 *          (the group's, of the step), then the higher index
 * Departs  the paper has no cap.  Its rule for grouped queries is not known to us: `any` keeps the more
 *          rows.  What a softmax over fewer rows gives is larger, so survivors stay more easily;
 *          support=resident asks for 1 / rows held instead.  Comparisons are fp32; t is exact up to
 *          2^24 tokens
 * Golden   vectors worked out by hand, and the history of votes as a slow twin, in
 *          tests/unit/test_evict.c
 */
#include <string.h>

#include "score/score.h"

struct corm {
    struct ft_amount keep;
    uint32_t window, recent, group, support;
};

enum { GROUP_ANY, GROUP_MEAN }; /* order of the choices below */
enum { SUPPORT_SEEN, SUPPORT_RESIDENT };

#define AT(field) offsetof(struct corm, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "4096",
      .help = "most rows that a KV head may hold; votes say how many of them stay" },
    { .name = "window", .type = FT_UINT, .offset = AT(window), .initial = "256", .low = 1,
      .high = 16777216, .help = "tokens whose votes count: a row that none of them wants leaves" },
    { .name = "recent", .type = FT_UINT, .offset = AT(recent), .initial = "256", .low = 1,
      .high = 65536, .help = "newest rows that stay whatever the votes" },
    { .name = "group", .type = FT_CHOICE, .offset = AT(group), .initial = "any",
      .choices = "any|mean", .help = "which query heads of a KV head must find a row important" },
    { .name = "support", .type = FT_CHOICE, .offset = AT(support), .initial = "seen",
      .choices = "seen|resident",
      .help = "a row is important from 1 / tokens of the text so far on, or 1 / rows held" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct corm *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_TARGET,
        .column = FT_COLUMN_MASS,
        .window = p->recent,
        .n_observed = p->window,
        .n_spared = FT_MAX(p->window, p->recent),
        .is_group_max = true,
        .is_evicting = true,
    };
}

/* What the state says of a row: when it was last important. */
static void score(const struct ft_evidence *ev, const void *params, float *out) {
    (void)params;
    memcpy(out, ev->mass, ev->n_row * sizeof(*out));
}

/* The group's weights, in place of its first query head's. */
static void join(const struct ft_step *step, uint32_t group) {
    float *to = step->mass;
    for (uint32_t g = 1; g < step->n_mass; g++) {
        const float *from = step->mass + g * step->mass_stride;
        for (uint32_t j = 0; j < step->n_row; j++) {
            float top = from[j] > to[j] ? from[j] : to[j];
            to[j] = group == GROUP_ANY ? top : to[j] + from[j];
        }
    }
    for (uint32_t j = 0; group == GROUP_MEAN && j < step->n_row; j++) {
        to[j] /= (float)step->n_mass;
    }
}

static void observe(const struct ft_step *step, const void *params) {
    const struct corm *p = params;
    float now = (float)(step->pos_now + 1);
    float least = 1 / (p->support == SUPPORT_RESIDENT ? (float)step->n_row : now);
    join(step, p->group);
    for (uint32_t j = 0; j < step->n_row; j++) {
        step->aux[j] = step->mass[j] >= least ? now : step->aux[j];
    }
    step->aux[step->n_row - 1] = now;
}

/* When row j was last important; its own token comes before all who voted. */
static float last_of(const struct ft_step *step, uint32_t j) {
    float own = (float)(step->pos[j] + 1);
    return step->aux[j] > own ? step->aux[j] : own;
}

static bool is_minor(const struct ft_step *step, uint32_t window, uint32_t j) {
    return (float)(step->pos_now + 1) - last_of(step, j) >= (float)window;
}

/* Who leaves first where too many stay: floats >= 0 have the order of their bits. */
static uint64_t key_of(const struct ft_step *step, uint32_t j) {
    float last = last_of(step, j);
    uint32_t high, low;
    memcpy(&high, &last, sizeof(high));
    memcpy(&low, &step->mass[j], sizeof(low));
    return (uint64_t)high << 32 | low;
}

/* Rows before `end` that votes let stay and whose key is at most `most`. */
static uint32_t count_below(const struct ft_step *step, uint32_t window, uint32_t end,
                            uint64_t most) {
    uint32_t n = 0;
    for (uint32_t j = 0; j < end; j++) {
        n += key_of(step, j) <= most && !is_minor(step, window, j);
    }
    return n;
}

/* The key of the n-th row to leave, by halving: 64 passes at most, and two for one row, as a rule. */
static uint64_t key_at(const struct ft_step *step, uint32_t window, uint32_t end, uint32_t n) {
    uint64_t low = UINT64_MAX, high = 0;
    for (uint32_t j = 0; j < end; j++) {
        uint64_t key = key_of(step, j);
        if (!is_minor(step, window, j)) {
            low = key < low ? key : low;
            high = key > high ? key : high;
        }
    }
    high = n == 1 ? low : high;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (count_below(step, window, end, middle) >= n) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static uint32_t evict(const struct ft_step *step, const void *params, uint32_t *drop) {
    const struct corm *p = params;
    uint32_t end = step->n_row - FT_MIN(step->window, step->n_row), n_stay = step->n_row, n = 0;
    for (uint32_t j = 0; j < end; j++) {
        n_stay -= is_minor(step, p->window, j);
    }
    uint32_t n_over = n_stay > step->keep ? n_stay - step->keep : 0;
    uint64_t key = n_over > 0 ? key_at(step, p->window, end, n_over) : 0;
    /* of rows with the very key of the last one to leave, those with a lower index stay */
    uint32_t n_spared = n_over > 0 ? count_below(step, p->window, end, key) - n_over : 0;
    for (uint32_t j = 0; j < end; j++) {
        bool is_over = n_over > 0 && key_of(step, j) <= key;
        if (is_minor(step, p->window, j)) {
            drop[n++] = j;
        } else if (is_over && key_of(step, j) == key && n_spared > 0) {
            n_spared--;
        } else if (is_over) {
            drop[n++] = j;
        }
    }
    return n;
}

const struct ft_method ft_method_corm = {
    .name = "corm",
    .title = "KV rows leave that no recent token found important",
    .paper = "arXiv:2404.15949",
    .file = "src/score/corm.c",
    .act = FT_RETAIN,
    .is_capped = true,
    .unfit = { [FT_BUDGET_PYRAMID] = "votes say how many rows stay in each layer",
               [FT_BUDGET_ADA] = "votes say how many rows stay in each head" },
    .unfit_critical = "votes say which rows leave, nothing is ranked",
    .params = table,
    .params_size = sizeof(struct corm),
    .look = look,
    .score = score,
    .n_aux = 1,
    .observe = observe,
    /* as keyformer's, all prompt rows voting; 1.1 to 1.6 in five runs in turn */
    .observe_cost = 1.2,
    .evict = evict,
};
