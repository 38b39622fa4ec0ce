/* SPDX-License-Identifier: Apache-2.0 */
/* ruler.h - the 13 tasks of RULER, made at any length in the tokens of the model at hand, and two
 * tasks of our own.
 *
 * Pure: from a token counter, words and texts to prompts and references; no model, no file.
 * Sample `index` of a task at a length depends on (seed, task, ctx, index), on the texts given and
 * on the counter, and on nothing else.
 */
#ifndef FT_EVAL_RULER_H
#define FT_EVAL_RULER_H

#include "eval/run.h"

struct ft_ruler;
struct ft_ruler_params {
    uint64_t seed;
    /* the answer is begun for the model, as RULER does; false: as the code of the draft-based
     * papers does, which leaves more tokens to vt, fwe and qa and cuts answers at tags */
    bool has_prefix;
    /* essays, as plain text; words with white space between; SQuAD and HotpotQA as JSON.
     * NULL: made from the seed instead.  Borrowed for the call */
    const char *haystack, *words, *squad, *hotpot;
    /* count - tokens of text and prefix together, as the model will read them */
    ft_status (*count)(const char *text, const char *prefix, uint32_t *n, void *user,
                       struct ft_error *error);
    void *user;
};

/* ft_ruler_new - take the texts apart; the caller frees with ft_ruler_free.
 * Errors     FT_FORMAT naming the option whose text is not what it should be; FT_NOMEM */
ft_status ft_ruler_new(const struct ft_ruler_params *params, struct ft_ruler **out,
                       struct ft_error *error);
void ft_ruler_free(struct ft_ruler *ruler); /* NULL is a no-op */

enum { FT_RULER_TASK_CAP = 16 };
const char *ft_ruler_name(uint32_t task); /* NULL past the last */
/* ft_ruler_tasks - "vt,cwe" to tasks; NULL: RULER's own 13.
 *   task     [FT_RULER_TASK_CAP], *n of them, each once
 * Errors     FT_ARG that lists what there is */
ft_status ft_ruler_tasks(const char *list, uint32_t *task, uint32_t *n, struct ft_error *error);
/* ft_ruler_data - what the text of a task is made of: "synthetic haystack, generated words". */
const char *ft_ruler_data(const struct ft_ruler *ruler, uint32_t task);
/* ft_ruler_turns - questions of a sample. */
uint32_t ft_ruler_turns(uint32_t task);

/* make and score of a suite; user is the struct ft_ruler.
 * Errors     FT_LIMIT (ctx is too small for the task, more samples than questions), FT_NOMEM,
 *            those of the counter */
ft_status ft_ruler_make(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                        struct ft_sample *out, struct ft_error *error);
ft_status ft_ruler_score(void *user, uint32_t task, const struct ft_turn *turn,
                         const char *prediction, double *score);

/* ---- one needle at a given depth (ruler.c) ---- */

/* ft_ruler_is_single - one needle in text that holds no other: niah_single_1 to 3. */
bool ft_ruler_is_single(uint32_t task);

struct ft_needle {
    struct ft_ruler *ruler; /* borrowed */
    uint32_t task;          /* ft_ruler_is_single */
};
/* make and score of a suite; user is the struct ft_needle.
 *
 *   depth    percent of the context's words, 0..100: the needle stands between the two sentences
 *            (niah_single_1: copies of the noise) whose border is nearest
 *   ->       the same index has the same needle and, but for a few words, the same text at every
 *            depth
 * Errors     those of ft_ruler_make */
ft_status ft_needle_make(void *user, uint32_t depth, uint32_t ctx, uint32_t index,
                         struct ft_sample *out, struct ft_error *error);
ft_status ft_needle_score(void *user, uint32_t depth, const struct ft_turn *turn,
                          const char *prediction, double *score);

#endif
