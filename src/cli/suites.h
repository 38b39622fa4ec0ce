/* SPDX-License-Identifier: Apache-2.0 */
/* suites.h - what `foretoken eval SUITE` asks: a row of functions for each suite, in a table of
 * cmd_eval.c.
 *
 *   cmd_eval.c      models, method and record, the same for every suite
 *   eval_table.c    what is printed of suites that ask questions
 *   eval_texts.c    texts that samples are made of
 *   suite_NAME.c    options, texts and cells of one suite, and what is printed of one that measures
 */
#ifndef FT_CLI_SUITES_H
#define FT_CLI_SUITES_H

#include "cli/cli.h"
#include "eval/ruler.h"
#include "eval/run.h"

enum { FT_EVAL_LABEL_CAP = 512 };

struct ft_eval_kind;
struct ft_eval {
    const struct ft_eval_kind *kind;
    struct ft_setup setup;
    uint64_t seed;
    void *own;                  /* the suite's, made by its check, ended by its close */
    struct ft_suite ask;        /* filled by open, as the cells are */
    const struct ft_cell *cell; /* [n_cell] the suite's; cells of a length stand together */
    uint32_t n_cell;
    bool is_chat, has_prefix; /* of the samples; as the options say, unless open says otherwise */
    char method[FT_EVAL_LABEL_CAP];
    json_t *manifest;
    struct ft_record *record;
    struct ft_outcome *outcome; /* of all cells, one after the other */
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
    void (*close)(struct ft_eval *eval);      /* also after a failure; own may be NULL */
    int (*print)(const struct ft_eval *eval); /* NULL: ft_eval_print */
    const char *const *unused; /* options that it has no use for, "--squad"; ends with NULL */
    bool takes_methods;        /* several of --prompt and --kv, and it runs them itself */
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

/* ft_eval_print (eval_table.c) - the outcome of all cells, on standard output. */
int ft_eval_print(const struct ft_eval *eval);

/* ft_eval_count - tokens of a prompt and the beginning of its answer, as the model at hand reads
 * them; user is the struct ft_eval. */
ft_status ft_eval_count(const char *text, const char *prefix, uint32_t *n, void *user,
                        struct ft_error *error);

#endif
