/* SPDX-License-Identifier: Apache-2.0 */
/* suites.h - what `foretoken eval SUITE` asks: a row of functions for each suite, in a table of
 * cmd_eval.c.
 *
 *   cmd_eval.c      models, methods and record, the same for every suite
 *   eval_grid.c     which methods
 *   eval_sweep.c    the same from a TOML file, for several pairs of models
 *   eval_manifest.c what a record tells of the run
 *   eval_table.c    what is printed of suites that ask questions
 *   eval_texts.c    texts that samples are made of
 *   suite_NAME.c    options, texts and cells of one suite, and what is printed of one that measures
 */
#ifndef FT_CLI_SUITES_H
#define FT_CLI_SUITES_H

#include "cli/cli.h"
#include "eval/ruler.h"
#include "eval/run.h"

/* ---- methods (eval_grid.c) ---- */

enum { FT_EVAL_LABEL_CAP = 512, FT_EVAL_PATH_CAP = 4096 };

struct ft_grid_block { /* every --prompt with every --kv in every --kv-type */
    struct ft_texts prompt, kv, kv_type;
    const char *keep; /* "32,25%": of those that have a keep and do not say it; NULL: none */
};
struct ft_grid {
    struct ft_bench_case *all; /* [n] with different labels; owned, with their texts */
    uint32_t n;
    const char *kv_type;    /* how rows are stored where a label does not say it; borrowed */
    const char *calibrated; /* what that format is for this model; borrowed */
};
/* ft_grid_add - the combinations of a block that are not there yet; ft_grid_done in any case.
 * Errors     FT_ARG: --keep is no list, or no method takes it; FT_LIMIT, FT_NOMEM */
ft_status ft_grid_add(struct ft_grid *grid, const struct ft_grid_block *block,
                      struct ft_error *error);
void ft_grid_done(struct ft_grid *grid);
/* ft_grid_check - each combination that is refused is said, one line each. */
int ft_grid_check(const struct ft_grid *grid);
/* ft_grid_kv_type - "f16", "q4": how the rows of a method are stored. */
const char *ft_grid_kv_type(const struct ft_grid *grid, uint32_t method);

/* ---- one run: a pair of models and a record ---- */

struct ft_eval_plan {
    struct ft_conf conf; /* its methods: all of the blocks, so that their needs are checked */
    const struct ft_grid_block *block; /* [n_block] */
    uint32_t n_block;
};
/* ft_eval_plans - plans one after the other; all are checked before the first one runs. */
int ft_eval_plans(const struct ft_eval_plan *plan, uint32_t n);

struct ft_eval_kind;
struct ft_eval {
    const struct ft_eval_kind *kind;
    const struct ft_eval_plan *plan;
    struct ft_setup setup;
    uint64_t seed;
    void *own;                  /* the suite's, made by its check, ended by its close */
    struct ft_suite ask;        /* filled by open, as the cells are */
    const struct ft_cell *cell; /* [n_cell] the suite's; cells of a length stand together */
    uint32_t n_cell;
    bool is_chat, has_prefix; /* of the samples; as the options say, unless open says otherwise */
    struct ft_grid grid;      /* the methods */
    struct ft_shard shard;    /* n 0: all samples */
    char path[FT_EVAL_PATH_CAP]; /* of the record; empty: none */
    json_t *manifest;
    struct ft_record *record;
};

struct ft_eval_kind { /* functions that return an exit code have said what is wrong */
    const char *name;
    bool is_fixed; /* samples are read, not drawn: the seed means nothing */
    /* check - options, before any file is opened; setup.conf is there, nothing else */
    int (*check)(struct ft_eval *eval);
    /* open - headers and vocabularies of the models are there, weights are not */
    int (*open)(struct ft_eval *eval);
    /* describe - keys of the manifest that decide about the samples; names of files apart */
    void (*describe)(const struct ft_eval *eval, json_t *manifest, json_t *files);
    /* remark - what else the table says, or with root its keys of the JSON; may be NULL */
    void (*remark)(const struct ft_eval *eval, json_t *root);
    void (*close)(struct ft_eval *eval); /* also after a failure; own may be NULL */
    /* print, value - the outcome as text, or as JSON; NULL: ft_eval_print, ft_eval_value */
    int (*print)(const struct ft_eval *eval);
    int (*value)(const struct ft_eval *eval, json_t **out);
    const char *const *unused; /* options that it has no use for, "--squad"; ends with NULL */
    bool takes_methods;        /* its cells have methods of their own, those of --prompt and --kv */
};
extern const struct ft_eval_kind ft_eval_ruler, ft_eval_needle, ft_eval_longbench, ft_eval_ppl,
    ft_eval_importance;

/* ---- texts (eval_texts.c) ---- */

enum { FT_EVAL_TEXTS = 4 };
struct ft_eval_texts {
    char *text[FT_EVAL_TEXTS]; /* haystack, words, squad, hotpot; NULL: not given; owned */
    uint32_t n;                /* how many of them the suite uses */
    struct ft_ruler *made;     /* owned */
};
/* ft_eval_texts_open - the first `n` texts, as files of the options, and what RULER makes of them. */
int ft_eval_texts_open(struct ft_eval_texts *texts, uint32_t n, struct ft_eval *eval);
void ft_eval_texts_describe(const struct ft_eval_texts *texts, const struct ft_conf *conf,
                            json_t *manifest, json_t *files);
void ft_eval_texts_close(struct ft_eval_texts *texts);

/* ft_eval_sweep (eval_sweep.c) - `eval sweep FILE.toml`. */
int ft_eval_sweep(const struct ft_conf *conf);

/* ft_eval_manifest (eval_manifest.c) - what decides about the samples, then what is told; the
 * caller's. */
json_t *ft_eval_manifest(const struct ft_eval *eval);

/* ft_eval_print, ft_eval_value (eval_table.c) - the outcome of all cells with all methods, on
 * standard output or as JSON, the caller's. */
int ft_eval_print(const struct ft_eval *eval);
int ft_eval_value(const struct ft_eval *eval, json_t **out);

/* ft_eval_count - tokens of a prompt and the beginning of its answer, as the model at hand reads
 * them; user is the struct ft_eval. */
ft_status ft_eval_count(const char *text, const char *prefix, uint32_t *n, void *user,
                        struct ft_error *error);

#endif
