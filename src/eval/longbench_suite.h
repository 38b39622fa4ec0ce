/* SPDX-License-Identifier: Apache-2.0 */
/* longbench_suite.h - samples from a folder of LongBench's data files: prompts that fit into a
 * context, and how right an answer is.
 *
 * Files are mapped and checked whole when the suite is made; an item is parsed again when its
 * sample is.  What a model makes of a text is asked through two functions; no model is known here.
 */
#ifndef FT_EVAL_LONGBENCH_SUITE_H
#define FT_EVAL_LONGBENCH_SUITE_H

#include "eval/longbench.h"
#include "eval/run.h"

struct ft_longbench_params {
    const char *folder; /* holds NAME.jsonl; borrowed until the suite is freed */
    /* [n_set] indices into ft_longbench_sets, whose files have to be there; n_set 0: what is */
    const uint32_t *set;
    uint32_t n_set;
    bool has_template; /* the model has a chat template: datasets that use one are asked in it */
    bool is_qwen3;     /* all of them are, and the answer begins behind an empty thought */
    /* split - bytes of each token of a plain text, with nothing in front.
     *   piece    out, [n] caller frees with ft_free */
    ft_status (*split)(const char *text, uint32_t **piece, uint32_t *n, void *user,
                       struct ft_error *error);
    /* count - tokens of a prompt and the beginning of its answer, as the model reads them.
     *   is_raw   not in the chat template */
    ft_status (*count)(const char *text, const char *prefix, bool is_raw, uint32_t *n, void *user,
                       struct ft_error *error);
    void *user;
};

/* ft_longbench_tasks - "qasper,trec" to indices into ft_longbench_sets.
 *   set      [FT_LONGBENCH_COUNT], *n of them, each once
 * Errors     FT_ARG that lists what there is */
ft_status ft_longbench_tasks(const char *list, uint32_t *set, uint32_t *n, struct ft_error *error);

struct ft_longbench;
/* ft_longbench_new - open the files and check every line of them.
 * Errors     FT_IO (no folder, a file that is asked for is not there); FT_FORMAT (a damaged line,
 *            "FILE:LINE: ..."; a file without a sample; a folder with none of them); FT_NOMEM */
ft_status ft_longbench_new(const struct ft_longbench_params *params, struct ft_longbench **out,
                           struct ft_error *error);
void ft_longbench_free(struct ft_longbench *suite); /* NULL is a no-op */

struct ft_longbench_data { /* a file; the suite's own */
    const struct ft_longbench_set *set;
    char name[32];   /* "qasper.jsonl" */
    char digest[80]; /* "sha256:..." */
    uint32_t n_item;
};
uint32_t ft_longbench_count(const struct ft_longbench *suite); /* files; each is a task */
const struct ft_longbench_data *ft_longbench_data(const struct ft_longbench *suite, uint32_t task);
/* ft_longbench_longest - of the first n items the one with most bytes; 1 <= n <= n_item. */
uint32_t ft_longbench_longest(const struct ft_longbench *suite, uint32_t task, uint32_t n);

/* make and score of a suite; user is the struct ft_longbench.
 *   ctx      most tokens of prompt and answer together: a longer prompt is cut in the middle before
 *            it goes into the template, and n_cut tells by how many tokens
 * Errors     FT_LIMIT when template and answer alone fill ctx; those of the reader and of params */
ft_status ft_longbench_make(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                            struct ft_sample *out, struct ft_error *error);
ft_status ft_longbench_score(void *user, uint32_t task, const struct ft_turn *turn,
                             const char *prediction, double *score);

#endif
