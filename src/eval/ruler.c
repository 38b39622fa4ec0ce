/* SPDX-License-Identifier: Apache-2.0 */
/* ruler.c - RULER's tasks: the table, a sample at a length, and how right an answer is.
 *
 * Parameters: NVIDIA/RULER (Apache-2.0), scripts/synthetic.yaml, scripts/data/synthetic and
 * scripts/eval.  A sample of length ctx holds the prompt, the begun answer and the tokens reserved
 * for the rest of it; they are counted in full where the answer is not begun, too, so that both
 * ways of asking share their prompts.
 *
 * Departs  RULER searches one amount of hay per task and length and takes some away where a
 *          sample is too long; here every sample gets the largest amount that fits.
 */
#include <stdio.h>
#include <string.h>

#include "eval/metrics.h"
#include "eval/ruler_parts.h"

enum { SIZE_MAX_HAY = 1 << 26 };

/* clang-format off */
#define TASK(name_, build_, reserve_, free_, size_min_)                                            \
    .name = (name_), .build = (build_), .n_reserve = (reserve_), .n_free = (free_),                \
    .size_min = (size_min_), .n_turn = 1
#define NIAH(name_, hay_, key_, value_, n_key_, n_value_, n_query_)                                \
    { TASK(name_, ft_ruler__niah, 128, 128, (hay_) == FT_HAY_ESSAY ? 1 : (n_key_) * (n_value_)),   \
      .hay = (hay_), .key = (key_), .value = (value_),                                             \
      .n_key = (n_key_), .n_value = (n_value_), .n_query = (n_query_) }

static const struct ft_ruler_task table[] = {
    NIAH("niah_single_1", FT_HAY_NOISE, FT_KIND_WORD, FT_KIND_NUMBER, 1, 1, 1),
    NIAH("niah_single_2", FT_HAY_ESSAY, FT_KIND_WORD, FT_KIND_NUMBER, 1, 1, 1),
    NIAH("niah_single_3", FT_HAY_ESSAY, FT_KIND_WORD, FT_KIND_UUID, 1, 1, 1),
    NIAH("niah_multikey_1", FT_HAY_ESSAY, FT_KIND_WORD, FT_KIND_NUMBER, 4, 1, 1),
    NIAH("niah_multikey_2", FT_HAY_NEEDLES, FT_KIND_WORD, FT_KIND_NUMBER, 1, 1, 1),
    NIAH("niah_multikey_3", FT_HAY_NEEDLES, FT_KIND_UUID, FT_KIND_UUID, 1, 1, 1),
    NIAH("niah_multivalue", FT_HAY_ESSAY, FT_KIND_WORD, FT_KIND_NUMBER, 1, 4, 1),
    NIAH("niah_multiquery", FT_HAY_ESSAY, FT_KIND_WORD, FT_KIND_NUMBER, 1, 1, 4),
    { TASK("vt", ft_ruler__vt, 30, 64, 5) },
    { TASK("cwe", ft_ruler__cwe, 120, 120, 20) },
    { TASK("fwe", ft_ruler__fwe, 50, 64, 80) }, /* from 73 on ranks 4 and 5 never tie */
    { TASK("qa_1", ft_ruler__qa_1, 32, 64, 1), .is_part = true },
    { TASK("qa_2", ft_ruler__qa_2, 32, 64, 1), .is_part = true },
    { TASK("chain", ft_ruler__chain, 32, 64, 1), .hay = FT_HAY_ESSAY, .is_ours = true },
    { .name = "shared", .build = ft_ruler__shared, .n_reserve = 24, .n_free = 64, .size_min = 1,
      .n_turn = 3, .hay = FT_HAY_ESSAY, .key = FT_KIND_WORD, .value = FT_KIND_NUMBER,
      .n_key = 4, .n_value = 1, .n_query = 1, .is_ours = true },
};
/* clang-format on */
_Static_assert(FT_COUNT(table) <= FT_RULER_TASK_CAP, "room for every task");

/* ---- names ---- */

const char *ft_ruler_name(uint32_t task) {
    return task < FT_COUNT(table) ? table[task].name : NULL;
}

uint32_t ft_ruler_turns(uint32_t task) {
    return table[task].n_turn;
}

static ft_status unknown(const char *word, size_t n, struct ft_error *error) {
    char list[200] = "";
    for (uint32_t i = 0; i < FT_COUNT(table); i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, " %s", table[i].name);
    }
    return ft_fail(error, FT_ARG, 0, "no task \"%.*s\"; there are:%s", (int)FT_MIN(n, (size_t)24),
                   word, list);
}

ft_status ft_ruler_tasks(const char *list, uint32_t *task, uint32_t *n, struct ft_error *error) {
    bool is_there[FT_COUNT(table)] = { false };
    *n = 0;
    for (uint32_t i = 0; !list && i < FT_COUNT(table); i++) {
        if (!table[i].is_ours) {
            task[(*n)++] = i;
        }
    }
    for (const char *at = list; at; at = *at == ',' ? at + 1 : NULL) {
        size_t n_byte = strcspn(at, ",");
        uint32_t i = 0;
        while (i < FT_COUNT(table) &&
               (strlen(table[i].name) != n_byte || memcmp(table[i].name, at, n_byte) != 0)) {
            i++;
        }
        if (i == FT_COUNT(table)) {
            return unknown(at, n_byte, error);
        }
        if (!is_there[i]) {
            is_there[i] = true;
            task[(*n)++] = i;
        }
        at += n_byte;
    }
    return FT_OK;
}

const char *ft_ruler_data(const struct ft_ruler *ruler, uint32_t task) {
    static const char *const essay[2][2] = {
        { "synthetic haystack, generated words", "synthetic haystack, given words" },
        { "given haystack, generated words", "given haystack, given words" }
    };
    const struct ft_ruler_task *row = &table[task];
    if (row->build == ft_ruler__qa_1) {
        return ruler->has_squad ? "SQuAD" : "synthetic questions";
    }
    if (row->build == ft_ruler__qa_2) {
        return ruler->has_hotpot ? "HotpotQA" : "synthetic two-hop questions";
    }
    if (row->build == ft_ruler__chain) {
        return ruler->has_haystack ? "given haystack" : "synthetic haystack";
    }
    if (row->n_key > 0 && row->hay == FT_HAY_ESSAY) {
        return essay[ruler->has_haystack][ruler->has_words];
    }
    if (row->build == ft_ruler__cwe || (row->n_key > 0 && row->key == FT_KIND_WORD)) {
        return ruler->has_words ? "given words" : "generated words";
    }
    return "none needed";
}

/* ---- the texts ---- */

ft_status ft_ruler_new(const struct ft_ruler_params *params, struct ft_ruler **out,
                       struct ft_error *error) {
    struct ft_ruler *ruler = ft_alloc(1, sizeof *ruler);
    if (!ruler) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for RULER's texts");
    }
    *ruler = (struct ft_ruler){ .params = *params,
                                .has_haystack = params->haystack != NULL,
                                .has_words = params->words != NULL,
                                .has_squad = params->squad != NULL,
                                .has_hotpot = params->hotpot != NULL };
    ft_status status = ft_ruler__lexicon(params->words, &ruler->words, error);
    if (status == FT_OK) {
        status = ft_ruler__hay(params->haystack, params->seed, &ruler->hay, error);
    }
    if (status == FT_OK) {
        status = ft_ruler__squad(params->squad, params->seed, &ruler->squad, error);
    }
    if (status == FT_OK) {
        status = ft_ruler__hotpot(params->hotpot, params->seed, &ruler->hotpot, error);
    }
    if (status != FT_OK) {
        ft_ruler_free(ruler);
        return status;
    }
    *out = ruler;
    return FT_OK;
}

void ft_ruler_free(struct ft_ruler *ruler) {
    if (ruler) {
        ft_ruler__lexicon_done(&ruler->words);
        ft_ruler__hay_done(&ruler->hay);
        ft_ruler__qa_done(&ruler->squad);
        ft_ruler__qa_done(&ruler->hotpot);
        ft_free(ruler);
    }
}

/* ---- samples ---- */

ft_status ft_ruler__turn(struct ft_sample *sample, struct ft_ruler_text *text,
                         struct ft_ruler_text *prefix, const char *const *reference, uint32_t n) {
    ft_assert(sample->n_turn < FT_TURN_CAP);
    struct ft_turn *turn = &sample->turn[sample->n_turn++];
    *turn = (struct ft_turn){ .text = ft_ruler__take(text),
                              .prefix = ft_ruler__take(prefix),
                              .reference = ft_alloc(FT_MAX(n, 1u), sizeof *turn->reference) };
    bool is_whole = turn->text && turn->prefix && turn->reference;
    for (uint32_t i = 0; is_whole && i < n; i++) {
        turn->reference[i] = ft_strdup(reference[i]);
        is_whole = turn->reference[i] != NULL;
        turn->n_reference += is_whole;
    }
    return is_whole ? FT_OK : FT_NOMEM;
}

struct attempt {
    struct ft_ruler_order order;
    struct ft_sample best; /* the largest that fits */
    uint32_t best_size;
    uint32_t limit;
};

static ft_status build(const struct ft_ruler_order *order, struct ft_sample *out,
                       struct ft_error *error) {
    const struct ft_ruler_params *params = &order->ruler->params;
    ft_status status = order->task->build(order, out, error);
    out->n_predict = params->has_prefix ? order->task->n_reserve : order->task->n_free;
    if (status == FT_NOMEM) {
        ft_fail(error, FT_NOMEM, 0, "not enough memory for a sample of %s at %u tokens",
                order->task->name, order->ctx);
    }
    return status;
}

static ft_status measure(void *user, uint32_t size, uint32_t *n_token, struct ft_error *error) {
    struct attempt *attempt = user;
    const struct ft_ruler_params *params = &attempt->order.ruler->params;
    struct ft_sample sample = { .n_turn = 0 };
    attempt->order.size = size;
    ft_status status = build(&attempt->order, &sample, error);
    *n_token = 0;
    for (uint32_t t = 0; t < sample.n_turn && status == FT_OK; t++) {
        uint32_t n = 0;
        status = params->count(sample.turn[t].text, sample.turn[t].prefix, &n, params->user, error);
        *n_token += n + attempt->order.task->n_reserve;
    }
    if (status == FT_OK && *n_token <= attempt->limit && size > attempt->best_size) {
        struct ft_sample kept = attempt->best;
        attempt->best = sample;
        attempt->best_size = size;
        sample = kept;
    }
    ft_sample_done(&sample);
    return status;
}

/* size and draw of the order are filled in here. */
static ft_status make(const struct ft_ruler *ruler, uint32_t task, struct ft_ruler_order order,
                      struct ft_sample *out, struct ft_error *error) {
    uint64_t seed = ruler->params.seed;
    uint32_t best, n_token;
    order.ruler = ruler;
    order.task = &table[task];
    order.draw = ft_draw_new(seed, ft_rng_value(seed, task, order.ctx, order.index));
    struct attempt attempt = { .order = order, .limit = order.ctx };
    const struct ft_ruler_fit fit = { .measure = measure,
                                      .user = &attempt,
                                      .low = table[task].size_min,
                                      .high = table[task].build == ft_ruler__cwe ? ruler->words.n
                                                                                 : SIZE_MAX_HAY,
                                      .limit = order.ctx };
    ft_status status = ft_ruler__fit(&fit, &best, &n_token, error);
    if (status == FT_OK && best == 0) {
        status = ft_fail(error, FT_LIMIT, n_token,
                         "%s: sample %u takes at least %u tokens with its answer, --ctx is %u",
                         table[task].name, order.index, n_token, order.ctx);
    }
    if (status == FT_OK && best == fit.high) {
        status = ft_fail(error, FT_LIMIT, best,
                         "%s: %u words do not fill %u tokens; give more with --words",
                         table[task].name, best, order.ctx);
    }
    if (status != FT_OK) {
        ft_sample_done(&attempt.best);
        return status;
    }
    *out = attempt.best;
    return FT_OK;
}

ft_status ft_ruler_make(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                        struct ft_sample *out, struct ft_error *error) {
    const struct ft_ruler_order order = { .ctx = ctx, .index = index };
    return make(user, task, order, out, error);
}

bool ft_ruler_is_single(uint32_t task) {
    const struct ft_ruler_task *row = &table[task];
    return row->build == ft_ruler__niah && row->hay != FT_HAY_NEEDLES &&
           row->n_key * row->n_value * row->n_query == 1;
}

ft_status ft_needle_make(void *user, uint32_t depth, uint32_t ctx, uint32_t index,
                         struct ft_sample *out, struct ft_error *error) {
    const struct ft_needle *needle = user;
    const struct ft_ruler_order order = {
        .ctx = ctx, .index = index, .has_depth = true, .depth = depth
    };
    return make(needle->ruler, needle->task, order, out, error);
}

/* ---- scores ---- */

/* RULER strips an answer; the release of the draft-based papers, which does not begin it, keeps
 * what stands behind the last of some tags first. */
ft_status ft_ruler_score(void *user, uint32_t task, const struct ft_turn *turn,
                         const char *prediction, double *score) {
    const struct ft_ruler *ruler = user;
    const struct ft_strings truths = { .text = (const char *const *)turn->reference,
                                       .n = turn->n_reference };
    char *answer = ft_strdup(prediction);
    if (!answer) {
        return FT_NOMEM;
    }
    if (!ruler->params.has_prefix) {
        ft_answer_clean(answer);
    }
    ft_answer_printable(answer);
    ft_status status = ft_metric_score(table[task].is_part ? FT_METRIC_PART : FT_METRIC_ALL, answer,
                                       &truths, NULL, score);
    ft_free(answer);
    return status;
}

ft_status ft_needle_score(void *user, uint32_t depth, const struct ft_turn *turn,
                          const char *prediction, double *score) {
    const struct ft_needle *needle = user;
    (void)depth;
    return ft_ruler_score(needle->ruler, needle->task, turn, prediction, score);
}
