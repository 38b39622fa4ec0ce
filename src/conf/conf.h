/* SPDX-License-Identifier: Apache-2.0 */
/* conf.h - the settings of one invocation, and the option table they are read from.
 *
 * A row of options.def is all there is to know of an option.  Text values are borrowed from argv.
 */
#ifndef FT_CONF_CONF_H
#define FT_CONF_CONF_H

#include "base/base.h"

enum ft_command_bit {
    FT_CMD_GENERATE = 1,
    FT_CMD_INFO = 2,
    FT_CMD_METHODS = 4,
    FT_CMD_TOKENS = 8,
    FT_CMD_PERPLEXITY = 16,
    FT_CMD_BENCH = 32,
    FT_CMD_SCORE = 64,
    FT_CMD_HELP = 128,
    FT_CMD_BREAKEVEN = 256,
    FT_CMD_EXPLAIN = 512,
    FT_CMD_EVAL = 1024,
    FT_CMD_REPORT = 2048,
    FT_CMD_CALIBRATE = 4096,
};

enum ft_option_kind {
    FT_OPT_GROUP,         /* a heading; names is its title */
    FT_OPT_FLAG,          /* bool */
    FT_OPT_TEXT,          /* const char * */
    FT_OPT_FILE,          /* const char *, completed as a file name */
    FT_OPT_UINT,          /* uint32_t in low..high */
    FT_OPT_LIMIT,         /* uint32_t in 0..high, or -1: FT_NO_LIMIT */
    FT_OPT_SEED,          /* struct ft_seed */
    FT_OPT_REAL,          /* double in low..high */
    FT_OPT_CHOICE,        /* uint32_t, index into the words of arg */
    FT_OPT_LIST,          /* struct ft_texts; may be repeated */
    FT_OPT_COUNTS,        /* struct ft_counts */
    FT_OPT_SHARD,         /* struct ft_shard, "i/n" */
    FT_OPT_PROMPT_METHOD, /* struct ft_texts, each checked by ft_method_check */
    FT_OPT_KV_METHOD,     /* likewise */
    FT_OPT_KV_TYPE,       /* const char *, checked by ft_kv_type_check, or "calibrated" */
    FT_OPT_KV_TYPES,      /* struct ft_texts, likewise */
};

#define FT_NO_LIMIT UINT32_MAX

struct ft_option {
    const char *names, *arg, *initial, *help;
    enum ft_option_kind kind;
    double low, high;
    uint32_t commands; /* union of enum ft_command_bit */
    size_t offset;     /* in struct ft_conf */
};

enum { FT_OPTION_CAP = 160 }; /* rows of the table */
enum { FT_TEXTS_CAP = 32, FT_COUNTS_CAP = 16, FT_ARG_CAP = 256, FT_CONF_ERROR_CAP = 2048 };

struct ft_texts {
    const char *text[FT_TEXTS_CAP];
    uint32_t n;
};
struct ft_counts {
    uint32_t value[FT_COUNTS_CAP];
    uint32_t n;
};
struct ft_seed {
    uint64_t value; /* at most INT64_MAX, the largest whole number of JSON libraries */
    bool is_drawn;  /* -1: the program draws one and says which */
};

struct ft_shard {
    uint32_t i, n; /* part i of n, 1 <= i <= n; n 0: nothing was said */
};

enum ft_progress_choice { FT_PROGRESS_AUTO, FT_PROGRESS_PLAIN, FT_PROGRESS_JSON, FT_PROGRESS_NONE };
enum ft_against_choice { FT_AGAINST_NONE, FT_AGAINST_LIBLLAMA };
enum ft_prefix_choice { FT_PREFIX_ON, FT_PREFIX_OFF };

struct ft_conf {
    uint32_t command; /* the bit of whoever parsed */
    const char *model, *draft;
    const char *file, *text, *system;
    bool is_chat, is_escape, is_plain_text, is_bare;
    struct ft_texts prompt, kv;
    bool is_strict, is_auto, is_exact;
    uint32_t n_predict, n_ctx, n_thread;
    const char *kv_type;      /* NULL: f16, or what else asks for */
    struct ft_texts kv_types; /* eval: formats that every method runs with; none: the same */
    double bits;              /* calibrate */
    uint32_t n_try;
    double rope_scale;
    double temperature, top_p, min_p, repeat_penalty;
    uint32_t top_k, repeat_last_n;
    struct ft_seed seed;
    struct ft_texts bias, stop;
    const char *grammar, *grammar_file;
    struct ft_counts ctx, depth, depths, budgets;
    const char *keep;
    struct ft_shard shard;
    uint32_t n_pp, n_tg;
    const char *shape, *draft_shape, *svg;
    uint32_t n_repeat, against, n_chunk;
    const char *arrays;
    const char *tasks, *haystack, *words, *squad, *hotpot, *out;
    uint32_t n_sample, answer_prefix;
    double tolerance; /* negative: none */
    bool is_json, is_csv, is_markdown, is_matrix, is_pieces, is_verbose, is_man, is_completion,
        is_help;
    uint32_t progress;

    const char *arg[FT_ARG_CAP]; /* [n_arg] what is not an option */
    uint32_t n_arg;
    char *const *word; /* [n_word] the arguments as given; borrowed */
    uint32_t n_word;
    bool is_given[FT_OPTION_CAP];  /* [row of the table] typed; see ft_conf_has */
    char error[FT_CONF_ERROR_CAP]; /* one line when parsing failed */
};

/* ft_conf_options - the table; *n rows, headings included. */
const struct ft_option *ft_conf_options(uint32_t *n);
/* ft_conf_initial - the initial value of an option for a command, or NULL. */
const char *ft_conf_initial(const struct ft_option *option, uint32_t command);
/* ft_option_name - the name messages use ("--draft"); out [cap]. */
void ft_option_name(const struct ft_option *option, char *out, size_t cap);
/* ft_choice_word - word `index` of "a|b|c" into out [cap]; false past the end. */
bool ft_choice_word(const char *choices, uint32_t index, char *out, size_t cap);

/* ft_conf_parse - the arguments behind a command's name.
 *
 *   argv     [argc] borrowed as long as out is used
 *   out      initial values, then what was typed; on FT_ARG only out->error means something
 * Errors     FT_ARG with one line in out->error that lists what there is
 */
ft_status ft_conf_parse(uint32_t command, int argc, char *const *argv, struct ft_conf *out);

/* ft_conf_has - whether an option ("--ctx") was typed, or has its initial value. */
bool ft_conf_has(const struct ft_conf *conf, const char *name);
/* ft_conf_init - the initial values of a command. */
ft_status ft_conf_init(uint32_t command, struct ft_conf *out);
/* ft_conf_find - an option of a command by a name ("--ctx"), or NULL. */
const struct ft_option *ft_conf_find(uint32_t command, const char *name);
/* ft_conf_set - one value as it would be typed; value is borrowed as long as out is used.
 * Errors     FT_ARG with one line in out->error */
ft_status ft_conf_set(const struct ft_option *option, const char *value, struct ft_conf *out);
/* ft_conf_over - arguments on top of the values that are there already; methods that are given
 * replace those, and so do KV formats and the arguments that are no options.
 * Errors     as ft_conf_parse */
ft_status ft_conf_over(uint32_t command, int argc, char *const *argv, struct ft_conf *out);

/* ---- shards (shard.c) ---- */

/* ft_shard_text - "2/8"; false when it is not that. */
bool ft_shard_text(const char *text, struct ft_shard *out);
/* ft_shard_environment - the part that belongs to this process of a SLURM array
 * (SLURM_ARRAY_TASK_ID, _COUNT, _MIN, _STEP) or of mpirun (OMPI_COMM_WORLD_RANK, _SIZE).
 *   out      n 0 where neither is there
 *   source   [cap] the variables that decided
 * Errors     FT_ARG: values that name no part, or both at once */
ft_status ft_shard_environment(struct ft_shard *out, char *source, size_t cap,
                               struct ft_error *error);

/* ft_conf_cache_folder - where files that can be made again belong:
 * ${XDG_CACHE_HOME:-$HOME/.cache}/foretoken into out [cap]; false when neither is set. */
bool ft_conf_cache_folder(char *out, size_t cap);

/* ---- text.c: text to numbers, whole strings only ---- */

bool ft_text_uint(const char *text, uint64_t high, uint64_t *out);
bool ft_text_real(const char *text, double *out); /* finite or infinite, never NaN */
/* ft_text_bytes - "64MiB": a number and B, KB, MB, GB, KiB, MiB or GiB; at least 1. */
bool ft_text_bytes(const char *text, uint64_t *out);
/* ft_text_bias - "15043+1", "15043-inf", "15043=0.5". */
bool ft_text_bias(const char *text, struct ft_logit_bias *out);
/* ft_text_self - "self:layers=K" -> K >= 1; false when it is not that. */
bool ft_text_self(const char *text, uint32_t *n_layer);
/* ft_text_is_calibrated - the format of KV rows that is read with a model: what foretoken calibrate kept
 * beside it; NULL is none. */
bool ft_text_is_calibrated(const char *text);
/* ft_text_escape - \n \r \t \\ \" \' become characters; others stay.
 *   out      [strlen(text) + 1], may be text */
void ft_text_escape(const char *text, char *out);
/* ft_text_distance - edits (insert, delete, replace, swap) between two words of up to 32 bytes;
 * 99 for longer ones. */
uint32_t ft_text_distance(const char *a, const char *b);

#endif
