/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.c - which estimators go with which budgets, rankings and formats of KV rows, and why not.
 *
 * Nothing here knows an answer: names come from the methods' parameters and the list of formats,
 * verdicts from the check that a run is refused by.
 */
#include <stdio.h>
#include <string.h>

#include "eval/eval.h"

/* Settings that decide what happens to rows, beside budget and rank; few methods have them. */
static const char *const deciding[] = { "decode", "positions" };

/* One axis of a method: the words of a parameter. */
struct axis {
    const char *name;
    const char *words; /* "on|off" */
    uint32_t n;
};

static const char *range_of(const struct ft_method_info *info, const char *name) {
    for (uint32_t p = 0; p < info->n_param; p++) {
        if (strcmp(info->param[p].name, name) == 0) {
            return info->param[p].range;
        }
    }
    return NULL;
}

/* n 1 where the method does not have it. */
static struct axis axis_of(const struct ft_method_info *info, const char *name) {
    struct axis axis = { .name = name, .words = range_of(info, name), .n = 1 };
    for (const char *at = axis.words; at && (at = strchr(at, '|')) != NULL; at++) {
        axis.n++;
    }
    return axis;
}

static void word_of(const struct axis *axis, uint32_t index, char *out, size_t cap) {
    const char *at = axis->words;
    for (uint32_t i = 0; i < index; i++) {
        at = strchr(at, '|') + 1;
    }
    snprintf(out, cap, "%.*s", (int)strcspn(at, "|"), at);
}

static uint32_t count_formats(void) {
    uint32_t n = 0;
    while (ft_kv_type_name(n)) {
        n++;
    }
    return n;
}

/* Takes the place on an axis out of *index, of which the last axis changes fastest. */
static uint32_t take(uint32_t *index, uint32_t *n_left, uint32_t n) {
    *n_left /= n;
    uint32_t at = *index / *n_left;
    *index %= *n_left;
    return at;
}

/* ":decode=off", then ",positions=original". */
static void add_setting(const struct axis *axis, uint32_t at, char out[FT_MATRIX_SPEC_CAP]) {
    char word[16];
    size_t used = strlen(out);
    word_of(axis, at, word, sizeof word);
    snprintf(out + used, FT_MATRIX_SPEC_CAP - used, "%c%s=%s", strchr(out, ':') ? ',' : ':',
             axis->name, word);
}

static void judge(struct ft_matrix_cell *cell) {
    struct ft_error error = { .code = FT_OK };
    cell->runs = ft_kv_check(cell->kv, cell->kv_type, &error) == FT_OK;
    snprintf(cell->reason, sizeof cell->reason, "%s", cell->runs ? "" : error.text);
}

bool ft_matrix_cell(uint32_t index, struct ft_matrix_cell *out) {
    const uint32_t n_format = count_formats();
    for (uint32_t m = 0; m < ft_method_count(); m++) {
        const struct ft_method_info *info = ft_method_info(m);
        const struct axis budget = axis_of(info, "budget"), rank = axis_of(info, "rank");
        uint32_t n = budget.n * rank.n * n_format;
        struct axis own[FT_COUNT(deciding)];
        for (size_t i = 0; i < FT_COUNT(own); i++) {
            own[i] = axis_of(info, deciding[i]);
            n *= own[i].n;
        }
        if (info->stage != FT_STAGE_KV || !budget.words || !rank.words) {
            continue; /* dense, and what is no estimator of rows */
        }
        if (index >= n) {
            index -= n;
            continue;
        }
        snprintf(out->estimator, sizeof out->estimator, "%s", info->name);
        for (size_t i = 0; i < FT_COUNT(own); i++) {
            uint32_t at = take(&index, &n, own[i].n);
            if (own[i].words) {
                add_setting(&own[i], at, out->estimator);
            }
        }
        memcpy(out->kv, out->estimator, sizeof out->kv);
        uint32_t at = take(&index, &n, budget.n);
        word_of(&budget, at, out->budget, sizeof out->budget);
        add_setting(&budget, at, out->kv);
        at = take(&index, &n, rank.n);
        word_of(&rank, at, out->rank, sizeof out->rank);
        add_setting(&rank, at, out->kv);
        out->kv_type = ft_kv_type_name(index);
        judge(out);
        return true;
    }
    return false;
}
