/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_fixture.h - a toy token counter, and what the tests of RULER's tasks ask of a text. */
#ifndef FT_TESTS_RULER_FIXTURE_H
#define FT_TESTS_RULER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/ruler.h"

/* A token is a run of letters, a digit, a sign with nothing around it, or a newline. */
static inline ft_status count(const char *text, const char *prefix, uint32_t *n, void *user,
                              struct ft_error *error) {
    (void)user;
    (void)error;
    *n = 1;
    for (int part = 0; part < 2; part++) {
        const char *at = part == 0 ? text : prefix;
        for (char before = ' '; *at != '\0'; before = *at++) {
            bool is_letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
            bool was_letter = (before >= 'a' && before <= 'z') || (before >= 'A' && before <= 'Z');
            *n += *at != ' ' && !(is_letter && was_letter);
        }
    }
    return FT_OK;
}

static inline uint32_t tokens(const struct ft_turn *turn) {
    uint32_t n;
    count(turn->text, turn->prefix, &n, NULL, NULL);
    return n;
}

static inline struct ft_ruler *open_with(struct ft_ruler_params params) {
    struct ft_error error = { 0 };
    struct ft_ruler *ruler = NULL;
    params.count = count;
    if (ft_ruler_new(&params, &ruler, &error) != FT_OK) {
        fail_msg("%s", error.text);
    }
    return ruler;
}

static inline struct ft_ruler *opened(uint64_t seed) {
    return open_with((struct ft_ruler_params){ .seed = seed, .has_prefix = true });
}

static inline uint32_t task_of(const char *name) {
    uint32_t task[FT_RULER_TASK_CAP], n;
    assert_int_equal(ft_ruler_tasks(name, task, &n, NULL), FT_OK);
    assert_int_equal(n, 1);
    return task[0];
}

static inline struct ft_sample made(struct ft_ruler *ruler, const char *name, uint32_t ctx,
                                    uint32_t index) {
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_error error = { 0 };
    if (ft_ruler_make(ruler, task_of(name), ctx, index, &sample, &error) != FT_OK) {
        fail_msg("%s at %u: %s", name, ctx, error.text);
    }
    return sample;
}

static inline uint32_t times(const char *text, const char *word) {
    uint32_t n = 0;
    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word)) {
        n++;
    }
    return n;
}

static inline void assert_begins(const char *text, const char *head) {
    if (strncmp(text, head, strlen(head)) != 0) {
        fail_msg("\"%.200s\" does not begin with \"%s\"", text, head);
    }
}

static inline void assert_ends(const char *text, const char *tail) {
    size_t n = strlen(text), n_tail = strlen(tail);
    if (n < n_tail || strcmp(text + n - n_tail, tail) != 0) {
        fail_msg("\"...%s\" does not end with \"%s\"", text + (n > 200 ? n - 200 : 0), tail);
    }
}

/* The text between head and tail; the caller frees it. */
static inline char *between(const char *text, const char *head, const char *tail) {
    const char *start = strstr(text, head);
    assert_non_null(start);
    start += strlen(head);
    const char *end = strstr(start, tail);
    assert_non_null(end);
    char *out = calloc((size_t)(end - start) + 1, 1);
    memcpy(out, start, (size_t)(end - start));
    return out;
}

static inline bool is_same(const struct ft_sample *a, const struct ft_sample *b) {
    bool same = a->n_turn == b->n_turn;
    for (uint32_t t = 0; same && t < a->n_turn; t++) {
        same = strcmp(a->turn[t].text, b->turn[t].text) == 0 &&
               strcmp(a->turn[t].prefix, b->turn[t].prefix) == 0 &&
               a->turn[t].n_reference == b->turn[t].n_reference;
        for (uint32_t i = 0; same && i < a->turn[t].n_reference; i++) {
            same = strcmp(a->turn[t].reference[i], b->turn[t].reference[i]) == 0;
        }
    }
    return same;
}

static inline double scored(struct ft_ruler *ruler, uint32_t task, const struct ft_turn *turn,
                            const char *prediction) {
    double score = -1;
    assert_int_equal(ft_ruler_score(ruler, task, turn, prediction, &score), FT_OK);
    return score;
}

#endif
