/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - asks a model the questions of a suite, scores what it writes, and keeps a record that a
 * later run goes on with.
 *
 * A suite makes samples; ruler.h is one.  The runner knows tokens, sessions and files, and nothing
 * of what is asked.
 */
#ifndef FT_EVAL_RUN_H
#define FT_EVAL_RUN_H

#include <jansson.h>

#include "conf/conf.h"
#include "eval/eval.h"

/* ---- samples ---- */

enum { FT_TURN_CAP = 4 };

struct ft_turn {      /* a question and what a right answer contains */
    char *text;       /* that of the first turn holds the context */
    char *prefix;     /* how the answer begins */
    char **reference; /* [n_reference] */
    uint32_t n_reference;
    char **choice; /* [n_choice] classes that an answer may name; NULL: any text may be right */
    uint32_t n_choice;
};
struct ft_sample {                    /* all text is owned */
    struct ft_turn turn[FT_TURN_CAP]; /* [n_turn] asked one after the other in one session */
    uint32_t n_turn;
    uint32_t n_predict; /* most tokens of each answer */
    uint32_t n_cut;     /* tokens left out of the first turn's text, so that it fits */
    bool is_raw;        /* no chat template, whatever the suite's other samples have */
};
void ft_sample_done(struct ft_sample *sample);

struct ft_suite_params;
struct ft_record_key;
struct ft_cell;
struct ft_suite {
    void *user;
    /* make - sample `index` of a task at a length: the same arguments make the same sample.
     *   out      ended with ft_sample_done; empty after a failure */
    ft_status (*make)(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                      struct ft_sample *out, struct ft_error *error);
    /* score - how right an answer is, 0..1.  Errors: FT_NOMEM */
    ft_status (*score)(void *user, uint32_t task, const struct ft_turn *turn,
                       const char *prediction, double *out);
    /* measure - NULL, or instead of asking questions: the numbers of a sample, as the row that goes
     * into the record.  Nothing is generated, and score is not used.
     *   key      of the row
     *   row      ft_row_new, a score, and keys of its own */
    ft_status (*measure)(const struct ft_suite_params *params, const struct ft_bench_case *method,
                         const struct ft_cell *cell, const struct ft_record_key *key, json_t **row,
                         struct ft_error *error);
};

/* ---- text as the model reads it (chat.c) ---- */

struct ft_chat {
    const char *system; /* NULL: none */
    const char *user;
    const char *begun; /* how the answer begins, behind the template; NULL: not begun */
    bool is_plain;     /* no template: user, then begun */
    bool has_special;  /* plain text: text such as <|im_start|> becomes its special token */
};
/* ft_chat_tokens - ids of a prompt, with what the model adds in front.
 *
 *   n_head   leading tokens of the template's own header, which compression must keep
 * Errors     those of ft_chat_render and ft_tokenize */
ft_status ft_chat_tokens(const ft_model *model, const struct ft_chat *chat, struct ft_tokens *out,
                         uint32_t *n_head, struct ft_error *error);

/* ---- the record (record.c): JSON lines, the manifest first ---- */

struct ft_record;
/* ft_record_open - begin a file, or go on with one that has the same manifest.
 *
 *   path      NULL: nothing is kept beyond this run
 *   manifest  borrowed until close; every key but "files" and "run" has to be the same in the file.
 *             "run" (who ran it, how and where) is told: a run that goes on with another one's
 *             record puts a line {"run":{...}} before its first row
 * A last line without its end is what a killed run leaves, and is cut off.
 * Errors      FT_IO, also when another process writes it; FT_FORMAT (no record, a damaged line);
 *             FT_MISMATCH naming the setting that differs; the file is as it was */
ft_status ft_record_open(const char *path, json_t *manifest, struct ft_record **out,
                         struct ft_error *error);
void ft_record_close(struct ft_record *record); /* NULL is a no-op */

struct ft_record_key {
    const char *task, *method;
    uint32_t ctx, index;
};
/* ft_record_find - the row of a sample that is done, or NULL; the record's own. */
const json_t *ft_record_find(const struct ft_record *record, const struct ft_record_key *key);
/* ft_record_add - write one row as a line, whole; takes row over. */
ft_status ft_record_add(struct ft_record *record, json_t *row, struct ft_error *error);

/* ft_record_same - are these manifests of the same samples?
 *   there    the one of the file `path`
 * Errors     FT_MISMATCH naming the first setting that differs, with both values */
ft_status ft_record_same(const char *path, const json_t *manifest, const json_t *there,
                         struct ft_error *error);
/* ft_record_line - a value as a record has it, with its newline.
 *   ->       [*n] and a NUL behind them, the caller frees it with ft_free; NULL: no memory */
char *ft_record_line(const json_t *value, size_t *n);
/* ft_record_is_run - is a line {"run":{...}}, which is no sample? */
bool ft_record_is_run(const json_t *line);

/* ---- one record of many (join.c) ---- */

struct ft_joined {
    uint64_t n_row, n_expected; /* samples there; of all cells with all methods, 0: not told */
};
/* ft_record_join - the records of shards, or of any parts of a run, as the one that an undivided
 * run writes: manifest, rows by cell, index and method.  The runs of all parts are told in front.
 *   path     [n] records with the same manifest; a sample that is in several must be the same
 *            there, apart from times
 * Errors     those of reading; FT_MISMATCH naming the setting or the sample that differs; FT_IO,
 *            also when `out` is there already */
ft_status ft_record_join(const char *out, const char *const *path, uint32_t n,
                         struct ft_joined *joined, struct ft_error *error);

/* ---- running (run.c) ---- */

struct ft_cell { /* a task at a length */
    uint32_t task;
    const char *name, *data; /* data: what the text is made of */
    const char *group;       /* of tasks that have a mean of their own; NULL: none */
    uint32_t ctx, n_sample;
    uint32_t n_prompt; /* tokens of its longest prompt; 0: what ctx has room for */
    bool has_depth;
    uint32_t depth;     /* where in the context the answer stands, percent */
    const char *method; /* as in the rows, of a suite that measures; NULL: that of the run */
};
uint64_t ft_cells_sum(const struct ft_cell *cell, uint32_t n_cell); /* samples of all */
/* ft_shard_has - does a sample of cell number `cell` belong to the part?  Neighbours go to
 * different parts, and more samples of a cell move none of them. */
bool ft_shard_has(const struct ft_shard *shard, uint32_t cell, uint32_t index);

struct ft_outcome {
    double score; /* 0..100 */
    uint32_t n_prompt, n_kept, n_kv_kept;
    uint64_t kv_bytes;
    uint32_t n_cut; /* tokens left out of the prompt before it was read */
    double ttft_ms;
    const char *fallback; /* the first one said, NULL: none; the record's own */
};
/* ft_outcome_find - false: the record does not have the sample. */
bool ft_outcome_find(const struct ft_record *record, const struct ft_record_key *key,
                     struct ft_outcome *out);

struct ft_suite_step {
    uint64_t done, total; /* samples times methods of this part; done: the record's count, too */
    double left_s;        /* < 0: nothing was measured yet */
    const struct ft_cell *cell; /* what comes next; NULL: nothing, all is done */
    const char *method;
};
struct ft_suite_params {
    const ft_model *target, *draft;
    /* prompt, kv, n_predict and, where a method has its own, kv_type are set here */
    const struct ft_session_params *session;
    struct ft_suite suite;
    const struct ft_cell *cell; /* [n_cell] */
    uint32_t n_cell;
    const struct ft_bench_case *method; /* [n_method] labels as in the rows */
    uint32_t n_method;
    struct ft_shard shard; /* n 0: all samples */
    bool is_chat, has_prefix;
    struct ft_record *record;
    ft_guard_fn guard;
    void (*step)(const struct ft_suite_step *step, void *user);
    void *user;
};
/* ft_suite_missing - samples times methods of this part that the record does not have. */
uint64_t ft_suite_missing(const struct ft_suite_params *params);
/* ft_suite_run - those of every cell, one after the other: each is made once and asked with every
 * method that it misses.
 * Errors     those of suite, session and record; what is in the record stays */
ft_status ft_suite_run(const struct ft_suite_params *params, struct ft_error *error);

/* ---- how long it will take (eta.c) ---- */

struct ft_eta {
    const struct ft_cell *cell; /* [n_cell] borrowed */
    uint32_t n_cell, n_method;
    struct ft_eta_pair { /* a method at a length; kept at the length's first cell */
        double sum_s;
        uint32_t n_took, n_left;
    } * pair; /* [n_cell][n_method] owned */
};
/* ft_eta_init - nothing is left yet.  ft_eta_done in any case.  Errors FT_NOMEM */
ft_status ft_eta_init(struct ft_eta *eta, const struct ft_cell *cell, uint32_t n_cell,
                      uint32_t n_method, struct ft_error *error);
void ft_eta_done(struct ft_eta *eta);
void ft_eta_plan(struct ft_eta *eta, uint32_t cell, uint32_t method); /* one more to do */
void ft_eta_took(struct ft_eta *eta, uint32_t cell, uint32_t method, double seconds);
/* ft_eta_left - seconds for what is planned: a method at a length takes its mean so far; not
 * measured yet, that of its nearest measured length, by tokens; else that of all methods.
 *   ->       < 0: nothing was measured */
double ft_eta_left(const struct ft_eta *eta);

/* ft_row_new - a row with what every sample has: its key, what was read and kept, memory, fallbacks
 * and times.  The score is the caller's to set. */
json_t *ft_row_new(const struct ft_cell *cell, const struct ft_record_key *key, const char *kv_type,
                   const struct ft_report *report);

struct ft_interval {
    double mean, low, high;
};
/* ft_interval_of - mean and 95 % interval of n >= 1 scores from 0 to 100.
 *
 * Scores that are all 0 or 100 are a share: Wilson's interval.  Others: the normal interval of
 * their mean, with two scores of 0 and two of 100 added as Agresti and Coull do for shares, so that
 * a few equal scores do not pass for certainty.  The mean is always inside. */
struct ft_interval ft_interval_of(const double *score, uint32_t n);

#endif
