/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - what the commands share: the command table, the terminal, set-up of models, JSON.
 *
 * Only this folder owns standard error and exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
 * A function that returns an exit code has already said what went wrong.
 */
#ifndef FT_CLI_CLI_H
#define FT_CLI_CLI_H

#include <jansson.h>

#include "conf/conf.h"
#include "eval/eval.h"

enum { FT_EXIT_OK = 0, FT_EXIT_FAILED = 1, FT_EXIT_USAGE = 2, FT_EXIT_INTERRUPT = 130 };

/* ---- commands (table in main.c) ---- */

struct ft_command {
    const char *name, *args, *summary;
    const char *about;   /* a paragraph for help and the man page */
    const char *example; /* lines of shell */
    uint32_t bit;        /* enum ft_command_bit */
    uint32_t arg_max;    /* arguments that are not options */
    int (*run)(const struct ft_conf *conf);
};
extern const struct ft_command ft_commands[]; /* ends with name NULL */

int ft_cmd_generate(const struct ft_conf *conf);
int ft_cmd_info(const struct ft_conf *conf);
int ft_cmd_methods(const struct ft_conf *conf);
int ft_cmd_tokens(const struct ft_conf *conf);
int ft_cmd_perplexity(const struct ft_conf *conf);
int ft_cmd_calibrate(const struct ft_conf *conf);
int ft_cmd_bench(const struct ft_conf *conf);
int ft_cmd_breakeven(const struct ft_conf *conf);
int ft_cmd_explain(const struct ft_conf *conf);
int ft_cmd_eval(const struct ft_conf *conf);
int ft_cmd_report(const struct ft_conf *conf);
int ft_cmd_score(const struct ft_conf *conf);
int ft_cmd_help(const struct ft_conf *conf);

const struct ft_command *ft_command_find(const char *name); /* NULL: none */
/* ft_help_overview, ft_help_command - to standard output. */
void ft_help_overview(void);
void ft_help_command(const struct ft_command *command);

/* ---- the terminal (ui.c) ---- */

/* ft_ui_start - open standard descriptors, SIGPIPE off, SIGINT handled; before anything else. */
void ft_ui_start(void);

/* Standard output is buffered until ft_out_flush; the first failure sticks. */
void ft_out(const char *format, ...) __attribute__((format(printf, 1, 2)));
void ft_out_bytes(const char *bytes, size_t n);
bool ft_out_flush(void); /* false once the reader is gone or the disk is full */
/* ft_out_end - flush; a reader that went away is no failure (0), anything else is said (1). */
int ft_out_end(int code);
/* ft_out_safe - text of a file or a model: control characters become '?'. */
void ft_out_safe(const char *text);

/* ft_complain - "foretoken: ..." on standard error; returns code. */
int ft_complain(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* ft_complain_error - the error's line behind an optional "what: "; FT_CANCELLED is silent. */
int ft_complain_error(const char *what, const struct ft_error *error);
void ft_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* ft_exit_of - FT_ARG is a usage error, FT_CANCELLED an interrupt, the rest failed. */
int ft_exit_of(ft_status status);

/* ft_ui_guard - the session a Ctrl-C cancels; NULL: Ctrl-C ends the program at once. */
void ft_ui_guard(ft_session *session);
bool ft_ui_is_interrupted(void);

/* Progress on standard error: a bar, lines or JSON lines.  It only observes. */
struct ft_progress {
    enum ft_progress_choice mode;
    bool is_bar, is_drawn, has_phase;
    enum ft_phase phase;
    uint32_t n_layer[2]; /* of the model that works in each phase; 0: unknown */
    int64_t start_us, shown_us;
};
void ft_progress_init(struct ft_progress *progress, const struct ft_conf *conf);
void ft_progress_start(struct ft_progress *progress); /* a prompt begins */
void ft_progress_step(enum ft_phase phase, uint64_t done, uint64_t total, void *progress);
/* ft_progress_stage - what happens meanwhile, on a terminal only ("loading model.gguf"). */
void ft_progress_stage(struct ft_progress *progress, const char *text);
/* ft_progress_count - work that is counted in pieces: `done` of `total` are, and text says what comes
 * next.
 *   left_s   seconds until all are; < 0: not known yet */
void ft_progress_count(struct ft_progress *progress, const char *phase, uint64_t done,
                       uint64_t total, double left_s, const char *text);
void ft_progress_clear(struct ft_progress *progress); /* before other output */

/* ---- from settings to models and sessions (setup.c) ---- */

struct ft_setup {
    const struct ft_conf *conf;
    ft_model *target, *draft; /* owned */
    struct ft_session_params params;
    struct ft_progress progress;
    bool needs_draft;
    uint32_t self_layers;
    int64_t load_us;
    char *grammar;          /* owned */
    char *calibrated;       /* owned: what --kv-type calibrated means; NULL where nobody asked */
    char calibrated_of[65]; /* fingerprint of the model it was found for */
    struct ft_logit_bias bias[FT_TEXTS_CAP];
};

/* ft_calibration_read - what foretoken calibrate kept beside a model.
 *   kv_type      the caller frees it with ft_free;  fingerprint  of the model it was found for */
int ft_calibration_read(const char *model, char **kv_type, char fingerprint[65]);

/* ft_calibration_table - the table of measured methods that is kept beside a model; NULL where there is
 * none.  One of another model is an error. */
int ft_calibration_table(const char *path, const ft_model *model, json_t **table);

/* What --kv auto:bytes=N became (auto_kv.c). */
struct ft_auto_kv {
    bool is_on;
    char kv[288], kv_type[256], why[320];
};
bool ft_auto_kv_is_asked(const struct ft_conf *conf);
/* ft_auto_kv_choose - method, rows and format for a prompt, from what was measured of the model; into
 * *out, which setup->params then points to. */
int ft_auto_kv_choose(struct ft_setup *setup, uint32_t n_prompt, struct ft_auto_kv *out);

/* ft_setup_init - what can be checked without opening a model.  ft_setup_done in any case. */
int ft_setup_init(struct ft_setup *setup, const struct ft_conf *conf);
void ft_setup_done(struct ft_setup *setup);
/* ft_setup_kv_type - a format as it was typed, or what calibrated means; NULL stays NULL. */
const char *ft_setup_kv_type(const struct ft_setup *setup, const char *typed);
/* ft_setup_peek - open headers and vocabularies only; checks the pair and token ids.
 *   misfit   NULL: a pair that does not fit is an error; else it is only noted here */
int ft_setup_peek(struct ft_setup *setup, struct ft_error *misfit);
/* ft_setup_fit - after ft_setup_peek: refuse a run whose estimate is above the memory there is. */
int ft_setup_fit(const struct ft_setup *setup, uint32_t n_prompt);
/* ft_setup_fit_case - the same for one of several cases, whose label the message begins with. */
int ft_setup_fit_case(const struct ft_setup *setup, const struct ft_bench_case *method,
                      uint32_t n_prompt);
/* ft_setup_context - positions that a run may use: -c, else all that were trained. */
uint32_t ft_setup_context(const struct ft_setup *setup);
/* ft_setup_load - open the weights instead. */
int ft_setup_load(struct ft_setup *setup);

/* ft_check_file - before work begins: can the option's file be written, and is it none of those that
 * the command reads?  NULL: yes; "-": no, as standard output has other work. */
int ft_check_file(const struct ft_conf *conf, const char *option, const char *path);
/* ft_page_path - where a page goes: NULL, which is standard output, also for "-". */
const char *ft_page_path(const char *path);
/* ft_read_file - a whole file or standard input ("-"); NUL-terminated, caller frees with free. */
int ft_read_file(const char *path, uint64_t n_max, char **out, size_t *n);
/* ft_read_document - a file or standard input ("-") that is text: UTF-8, no NUL, not empty; a byte
 * order mark is dropped.
 *   out      caller frees with free */
int ft_read_document(const char *path, char **out, size_t *n);
/* ft_read_text - the text of -f and -p, or standard input: UTF-8, no NUL, not empty.
 *   out      caller frees with free */
int ft_read_text(const struct ft_conf *conf, char **out, size_t *n);

/* A text that is read in chunks of -c tokens, the second half of each scored: calibrate, perplexity. */
struct ft_chunks {
    char *text; /* [n_text] */
    size_t n_text;
    struct ft_tokens tokens;
};
/* ft_chunks_open - after ft_setup_init: the text of -f, headers and vocabularies, tokens, memory; what
 * is left is ft_setup_load.
 *   n_least  chunks that the text has to have
 *   out      ended with ft_chunks_done, also after a failure */
int ft_chunks_open(struct ft_setup *setup, uint32_t n_least, struct ft_chunks *out);
void ft_chunks_done(struct ft_chunks *chunks);

/* ft_prompt_tokens - a text as its model reads it, in the chat template with --chat and --system.
 *   n_head   out: leading tokens that belong to the system's header
 *   out      ended with ft_tokens_free, also after a failure */
ft_status ft_prompt_tokens(const struct ft_setup *setup, const char *text, struct ft_tokens *out,
                           uint32_t *n_head, struct ft_error *error);

/* ---- bench (cmd_bench.c, depth.c) ---- */

/* Combinations of the --prompt and --kv methods given, and of several --kv-type. */
enum { FT_CASES_CAP = 64, FT_LABEL_CAP = 256 };
struct ft_cases {
    struct ft_bench_case all[FT_CASES_CAP];
    char label[FT_CASES_CAP][FT_LABEL_CAP];
    uint32_t n;
};
/* ft_cases_init - every combination; one dense case where nothing was given.  After ft_setup_init. */
int ft_cases_init(struct ft_cases *cases, const struct ft_setup *setup);

/* ft_bench_ids - n tokens: the beginning of -f, or random pieces.
 *   out      caller frees with ft_free */
int ft_bench_ids(const struct ft_setup *setup, uint32_t n, ft_token **out);
/* ft_bench_plot - --svg FILE, if asked for: speeds over tokens; prefill, decode [n]. */
int ft_bench_plot(const struct ft_setup *setup, const char *x_title,
                  const struct ft_plot_point *prefill, const struct ft_plot_point *decode,
                  uint32_t n);
/* ft_method_label - "dense", "speckv:keep=64", "specpc+speckv"; a spec may be NULL.  out [cap] */
void ft_method_label(const char *prompt, const char *kv, char *out, size_t cap);
const char *ft_bench_kv_type(const struct ft_setup *setup);
uint32_t ft_bench_threads(const struct ft_setup *setup);
/* ft_bench_depth - the rest of `bench --depth`, after ft_setup_peek. */
int ft_bench_depth(struct ft_setup *setup);

/* ft_method_is_for - does a stage take this method?  Two of one name may serve a stage each. */
bool ft_method_is_for(const struct ft_method_info *info, enum ft_stage stage);

/* ---- eval (cmd_eval.c, cmd_report.c) ---- */

/* ft_eval_compare - `eval compare A B`, or `eval compare A... vs B...`: records behind the word. */
int ft_eval_compare(const struct ft_conf *conf);
int ft_eval_join(const struct ft_conf *conf); /* `eval join OUT FILE...` */

/* ---- JSON (json.c) ---- */

/* ft_json_print - to standard output with a newline; frees value. */
void ft_json_print(json_t *value);
json_t *ft_json_text(const char *text);   /* bytes that are not UTF-8 become '?' */
json_t *ft_json_digest(const char *text); /* "sha256:..." */
json_t *ft_json_ms(int64_t us);
json_t *ft_json_model(const ft_model *model);
json_t *ft_json_setting(const struct ft_setting *setting); /* a number where it is one */
/* ft_json_method - the settings of one stage as used: {"name":...,"keep":1024,...}. */
json_t *ft_json_method(const struct ft_report *report, const char *stage);
json_t *ft_json_fallbacks(const struct ft_report *report);
/* ft_file_name - the last part of a path: records do not depend on where a file lies. */
const char *ft_file_name(const char *path);
json_t *ft_json_kernels(const struct ft_report *report);
json_t *ft_json_rates(const struct ft_rates *rates);
/* ft_json_auto - what --auto expected, chose and met. */
json_t *ft_json_auto(const struct ft_report *report);

/* The caller's arrays of `score`, flattened. */
struct ft_arrays {
    struct ft_score_input in;
    struct ft_score_layer *layer; /* owned, with what they point to */
    float *score;                 /* owned */
};
/* ft_arrays_parse - check and flatten; messages start with the key ("layers[0].q[1][3]").
 * Errors   FT_FORMAT, FT_LIMIT, FT_NOMEM */
ft_status ft_arrays_parse(const char *text, size_t n, enum ft_stage stage, struct ft_arrays *out,
                          struct ft_error *error);
void ft_arrays_done(struct ft_arrays *arrays);
json_t *ft_json_scores(enum ft_stage stage, const struct ft_arrays *arrays,
                       const struct ft_score_output *out);

#endif
