/* SPDX-License-Identifier: Apache-2.0 */
/* longbench.h - the English and code datasets of LongBench: prompts, limits, metrics, data files.
 *
 * Protocol   LongBench (THUDM/LongBench, MIT): format strings, token limits and metrics; as used by
 *            furiosa-ai/draft-based-approx-llm (Apache-2.0), which leaves out the Chinese and the
 *            synthetic datasets, does not cut long prompts and has no stop at a newline for samsum
 * Departs    a cut prompt is the user's bytes in front of and behind the cut, where LongBench decodes
 *            token ids: a character that the cut goes through is left out, not replaced
 */
#ifndef FT_EVAL_LONGBENCH_H
#define FT_EVAL_LONGBENCH_H

#include "base/base.h"
#include "eval/metrics.h"

enum { FT_LONGBENCH_COUNT = 14 };

struct ft_longbench_set {
    const char *name;   /* its file is NAME.jsonl */
    const char *format; /* {context} once, {input} at most once */
    uint32_t n_predict; /* tokens of an answer, at most */
    enum ft_metric metric;
    /* whether the prompt goes through the chat template; where not, it is raw text behind BOS.
     * Qwen3 always takes its template, with thinking disabled */
    bool has_template;
    bool is_first_line; /* of the clean answer, only its first line is scored */
    const char *group;  /* of datasets whose mean is a column of the paper's table */
};
/* question answering on one document, on several; summaries; few-shot; code */
extern const struct ft_longbench_set ft_longbench_sets[FT_LONGBENCH_COUNT];

/* ft_longbench_find - NULL: there is none of this name. */
const struct ft_longbench_set *ft_longbench_find(const char *name);

/* ft_longbench_prompt - the format with both texts in place; braces in them mean nothing.
 *   out      caller frees with ft_free
 * Errors     FT_NOMEM */
ft_status ft_longbench_prompt(const struct ft_longbench_set *set, const char *context,
                              const char *input, char **out);

/* ft_longbench_cut - LongBench's cut in the middle: the text of the first and the last limit/2
 * tokens stays, where there are more than limit.
 *
 *   text     in place
 *   piece    [n_piece] bytes of each of its tokens; a blank that the tokenizer puts in front of a
 *            text counts in the first one
 *   limit    0: nothing is cut; nor with 1, as in LongBench, whose last 0 tokens are all of them
 *   ->       tokens left */
uint32_t ft_longbench_cut(char *text, const uint32_t *piece, uint32_t n_piece, uint32_t limit);

/* ---- data: a JSON object on each line ---- */

struct ft_longbench_item {
    const char *id; /* _id; "" where the line has none */
    const char *context, *input;
    struct ft_strings answers; /* at least one */
    struct ft_strings classes; /* all_classes; of datasets with FT_METRIC_CLASS at least one */
    uint64_t length;           /* as the data counts it; 0: not told */
    void *json;                /* owns the texts */
    const char **list;         /* owns both lists */
};
/* ft_longbench_item_done - frees what the item owns; all zero is a no-op. */
void ft_longbench_item_done(struct ft_longbench_item *item);

struct ft_longbench_file;
/* ft_longbench_open - a data file of this set; nothing is read yet.
 * Errors     FT_IO, FT_FORMAT (an empty file), FT_NOMEM */
ft_status ft_longbench_open(const char *path, const struct ft_longbench_set *set,
                            struct ft_longbench_file **out, struct ft_error *error);
void ft_longbench_close(struct ft_longbench_file *file);

/* ft_longbench_digest - SHA-256 of the whole file, lower-case hex. */
void ft_longbench_digest(const struct ft_longbench_file *file, char hex[65]);

struct ft_longbench_place { /* where a line begins */
    uint64_t at, line;      /* bytes and lines in front of it */
};
/* ft_longbench_tell, ft_longbench_seek - where the next item is looked for. */
struct ft_longbench_place ft_longbench_tell(const struct ft_longbench_file *file);
void ft_longbench_seek(struct ft_longbench_file *file, struct ft_longbench_place place);

/* ft_longbench_next - the item of the next line; blank lines are passed over.
 *
 *   out      filled; ended with ft_longbench_item_done; valid after the file is closed
 *   has_item out, false: the file is at its end, *out is untouched
 * Errors     FT_FORMAT "FILE:LINE: FIELD is ..., expected ...", also when it is not JSON; FT_LIMIT
 *            (a line of more than 16 MiB); FT_NOMEM; `where` is a byte of the file, *out is
 *            untouched, and the next call goes on behind the line */
ft_status ft_longbench_next(struct ft_longbench_file *file, struct ft_longbench_item *out,
                            bool *has_item, struct ft_error *error);

#endif
