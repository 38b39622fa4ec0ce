/* SPDX-License-Identifier: Apache-2.0 */
/* eval.h - measuring loops on the public interface: perplexity and speed, models in real shapes
 * with synthetic weights to measure on, plots of what was measured. */
#ifndef FT_EVAL_EVAL_H
#define FT_EVAL_EVAL_H

#include "base/base.h"

/* ft_guard_fn - the session that runs from now on, or NULL: what an interrupt has to cancel. */
typedef void (*ft_guard_fn)(ft_session *session);

/* ---- perplexity (ppl.c) ---- */

enum { FT_LOGIT_BYTES = 64 << 20 }; /* logits held at once */
/* ft_logit_rows - rows of logits in one block: what fits, at least one, at most n_most. */
uint32_t ft_logit_rows(uint32_t n_vocab, uint32_t n_most);

struct ft_ppl_params {
    const ft_model *model, *draft;
    const struct ft_session_params *session; /* n_predict and n_ctx are set here */
    const ft_token *id; /* [n_id] the text, with what the model adds in front */
    uint32_t n_id;
    uint32_t n_ctx;       /* tokens of a chunk, >= 4 */
    uint32_t n_chunk_max; /* 0: all */
    ft_token bos;
    bool has_bos; /* the first token of each chunk is replaced by it */
    ft_guard_fn guard;
    void (*running)(uint32_t chunk, uint32_t n_chunk, double ppl, void *user);
    void *user;
};
struct ft_ppl {
    double ppl, error; /* exp(mean nll) and its standard error */
    double nll;        /* mean, natural log */
    uint64_t n_scored;
    uint32_t n_chunk;
    struct ft_report report; /* of the last chunk */
};

/* ft_ppl_run - llama.cpp's scheme: chunks of n_ctx tokens, the second half of each is scored.
 *
 * The first n_ctx/2 tokens of a chunk are its prompt and meet the KV method; the rest is fed.
 * Errors     FT_LIMIT when the text has less than two chunks, as llama.cpp; those of the session */
ft_status ft_ppl_run(const struct ft_ppl_params *params, struct ft_ppl *out,
                     struct ft_error *error);

/* ---- the machine (host.c) ---- */

struct ft_host_use {
    double busy_s, own_s, at_s; /* CPU seconds of the machine and of this process; wall clock */
};
bool ft_host_use_read(struct ft_host_use *out); /* false: unknown */
/* ft_host_foreign - cores that other processes used since then, on average; < 0: unknown. */
double ft_host_foreign(const struct ft_host_use *start);

/* The ceiling of decoding: how fast all threads together read memory beyond the last cache. */
struct ft_dram;
struct ft_dram *ft_dram_new(uint32_t n_thread); /* holds its buffer; NULL: no memory */
void ft_dram_free(struct ft_dram *dram);
/* ft_dram_rate - GB/s, the best of a few passes (some ten milliseconds); < 0: unknown. */
double ft_dram_rate(const struct ft_dram *dram);

/* ---- speed (bench.c) ---- */

struct ft_bench_case {
    const char *prompt, *kv; /* method specs, NULL: dense */
    const char *kv_type;     /* how rows are stored; NULL: as the session says */
    const char *label;
};
/* ft_case_kv_type - how a case's rows are stored: its own format, else the session's. */
const char *ft_case_kv_type(const struct ft_bench_case *method,
                            const struct ft_session_params *session);

struct ft_spread {
    double median, low, high;
};
/* ft_spread_of - sorts value[n], n >= 1. */
struct ft_spread ft_spread_of(double *value, uint32_t n);
struct ft_bench_row {
    const char *engine, *method, *kv_type;
    uint32_t n_prompt, n_kept, n_repeat;
    struct ft_spread prefill_tok_s; /* prompt tokens over everything before the first logits */
    struct ft_spread ttft_ms, decode_tok_s;
    struct ft_spread draft_ms, score_ms,
        prefill_ms;           /* parts of ttft_ms; the last is the target's */
    struct ft_spread pack_ms; /* quantising the prompt's rows: as pack_us of ft_report */
    uint64_t kv_bytes, kv_bytes_peak, draft_kv_bytes_peak;
    /* most memory resident during a run; the peer's: above what there was before it was opened;
     * 0: unknown */
    uint64_t resident_peak;
    uint32_t n_fallback;
    char fallback[FT_FALLBACK_CAP][160];
    char kernels[256];
    char kv_packing[512]; /* as in ft_report */
};
struct ft_bench_params {
    const ft_model *target, *draft;
    /* prompt, kv, n_ctx and, where a case has its own, kv_type are set here */
    const struct ft_session_params *session;
    const char *peer_path;             /* NULL: no libllama rows; they have the session's kv_type */
    const struct ft_bench_case *cases; /* [n_case] */
    uint32_t n_case;
    const uint32_t *n_prompt; /* [n_length] */
    uint32_t n_length;
    const ft_token *id; /* [largest n_prompt] every prompt is a prefix of it */
    uint32_t n_repeat;
    ft_guard_fn guard;
    void (*step)(uint32_t done, uint32_t total, const char *engine, const char *method,
                 uint32_t n_prompt, void *user);
    void *user;
};

/* ft_bench_rows - how many rows a run gives: lengths x (cases + peer). */
uint32_t ft_bench_rows(const struct ft_bench_params *params);

/* ft_bench_run - each round runs every row once, after each model has read the beginning of the
 * prompt, which is not counted.  The peer is opened for its rows alone, so that memory is measured apart.
 *
 *   row          [ft_bench_rows] lengths outermost, the peer behind the cases of its length
 *   foreign_cpu  cores that other processes used meanwhile, on average; < 0: unknown */
ft_status ft_bench_run(const struct ft_bench_params *params, struct ft_bench_row *row,
                       double *foreign_cpu, struct ft_error *error);

/* ---- from which length a draft pays (breakeven.c) ---- */

struct ft_even_params {
    const ft_model *target;
    const struct ft_session_params *session; /* prompt and kv are set here */
    const struct ft_bench_case *cases;       /* [n_case] none of them dense */
    uint32_t n_case;
    const uint32_t *n_prompt; /* [n_length] */
    uint32_t n_length;
    struct ft_rates target_rates, draft_rates; /* draft: n_layer 0 where none is given */
};
enum { FT_EVEN_COLUMN = 6, FT_EVEN_FARTHEST = 1 << 20 };
struct ft_even_column { /* a draft */
    double ratio;       /* its layer weights over the target's */
    bool is_given;      /* rates of its own; else scaled from the target's */
    struct ft_rates rates;
};
struct ft_even_table {
    struct ft_even_column column[FT_EVEN_COLUMN]; /* ratios rise; */
    uint32_t n_column;
    double exponent;         /* attention of a draft goes with ratio to this power */
    bool is_exponent_known;  /* taken from the draft given; else 2/3, depth and width alike */
    struct ft_expect *dense; /* [n_length] owned */
    /* [n_case][n_length][n_column] owned; not is_dropping: too short to drop anything */
    struct ft_expect *cell;
    uint32_t
        *pays; /* [n_case][n_column] owned: shortest prompt that pays; 0: none that was tried */
};

/* ft_even_run - every method, length and draft; nothing is computed but arithmetic.
 *   out      ended with ft_even_done, also after a failure */
ft_status ft_even_run(const struct ft_even_params *params, struct ft_even_table *out,
                      struct ft_error *error);
void ft_even_done(struct ft_even_table *table);

/* ft_bench_prompt - what the model adds in front, then ordinary text pieces drawn from a seed.
 *   id       [n] */
ft_status ft_bench_prompt(const ft_model *model, uint64_t seed, uint32_t n, ft_token *id,
                          struct ft_error *error);

/* ---- speed at a depth (depth.c) ---- */

enum { FT_DEPTH_BASE = 128 }; /* tokens read before rows are copied */

struct ft_depth_row {
    const char *engine, *kv_type;
    uint32_t depth, n_repeat;
    struct ft_spread prefill_s, prefill_tok_s; /* n_pp tokens behind `depth` rows */
    struct ft_spread decode_s, decode_tok_s;   /* n_tg tokens behind those */
    struct ft_spread dram_gb_s;                /* read rate beside the decode; < 0: unknown */
    uint64_t kv_bytes;                         /* K and V of depth + n_pp + n_tg tokens */
    /* seconds that a whole prompt of `depth` tokens would take: the measured costs per token,
     * linear between the middles of the measured pieces, integrated; < 0: depth 0 is missing */
    double prompt_s_extrapolated;
    char kernels[96];
};
struct ft_depth_params {
    const ft_model *target;
    const struct ft_session_params *session; /* methods, kv_type, n_predict and n_ctx are set here */
    const char *const *kv_type;              /* [n_kv_type] that take turns; libllama has the first */
    uint32_t n_kv_type;                      /* >= 1 */
    const char *peer_path;                   /* NULL: no libllama rows */
    const uint32_t *depth;                   /* [n_depth] increasing */
    uint32_t n_depth, n_pp, n_tg;            /* n_pp, n_tg >= 1 */
    const ft_token *id;                      /* [FT_DEPTH_BASE + n_pp] */
    uint32_t n_repeat;
    ft_guard_fn guard;
    void (*step)(uint32_t done, uint32_t total, const char *engine, uint32_t depth, void *user);
    void *user;
};

/* ft_depth_rows - how many rows a run gives: depths x (formats, and libllama). */
uint32_t ft_depth_rows(const struct ft_depth_params *params);
/* ft_depth_tokens - tokens that an engine must have room for at a depth. */
uint64_t ft_depth_tokens(const struct ft_depth_params *params, uint32_t depth);

/* ft_depth_run - each round measures every row once; one cheap round at the first depth goes ahead
 * and is not counted.  The cache is brought to its depth by copied rows, which is not timed.
 *
 *   row          [ft_depth_rows] depths outermost, libllama behind foretoken's formats
 *   foreign_cpu  as for ft_bench_run */
ft_status ft_depth_run(const struct ft_depth_params *params, struct ft_depth_row *row,
                       double *foreign_cpu, struct ft_error *error);

/* ---- files (save.c) ---- */

struct ft_save;
/* ft_save_open - begin a file that replaces `path` whole when it is done; NULL: standard output.
 * Errors     FT_IO, also when another process is writing it; FT_NOMEM */
ft_status ft_save_open(const char *path, struct ft_save **out, struct ft_error *error);
/* a failure is remembered until ft_save_done */
void ft_save_write(struct ft_save *save, const void *data, size_t n);
void ft_save_print(struct ft_save *save, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* ft_save_text - text for XML and HTML: markup is escaped, what XML does not allow becomes '?', and
 * carriage returns go. */
void ft_save_text(struct ft_save *save, const char *text, size_t n);
/* ft_size_text - "96.0 MiB"; out [24]. */
const char *ft_size_text(uint64_t n_byte, char *out);
/* A page: ft_page_begin, rules for its style sheet, ft_page_title, the text, ft_page_end. */
void ft_page_begin(struct ft_save *save);
void ft_page_title(struct ft_save *save, const char *title);
void ft_page_end(struct ft_save *save);
/* ft_save_done - put it in place, or (not wanted, or a failure) leave what was there; frees. */
ft_status ft_save_done(struct ft_save *save, bool is_wanted, struct ft_error *error);

/* ---- what was thrown away (explain.c) ---- */

struct ft_explain_params {
    const ft_model *target, *draft;
    const struct ft_session_params *session; /* prompt and kv are set here */
    const struct ft_bench_case *cases;       /* [n_case] */
    uint32_t n_case;
    const ft_token *id; /* [n] the prompt */
    uint32_t n, n_head; /* leading tokens that stay, as for ft_session_prompt */
    ft_guard_fn guard;
    void (*step)(uint32_t done, uint32_t total, const char *label, void *user);
    void *user;
};
/* What one case did to each prompt token. */
struct ft_explain_view {
    const char *label;
    float *weight; /* [n] 0..1: the share of (layer, KV head) pairs that hold the token; with a
                    * prompt method alone its score as a share of the largest */
    bool *is_kept; /* [n] read by the target, and in some head's rows */
    bool is_score; /* what weight is */
    uint32_t n_kept;
    struct ft_report report;
};

/* ft_explain_run - read the prompt once per case.
 *   view     [n_case] zeroed; ended with ft_explain_done, also after a failure
 * Errors     those of the session */
ft_status ft_explain_run(const struct ft_explain_params *params, struct ft_explain_view *view,
                         struct ft_error *error);
void ft_explain_done(struct ft_explain_view *view, uint32_t n);

/* ft_explain_save - one HTML file without scripts: a section per view, every token shaded by its
 * weight, dropped ones struck out.  save is done afterwards. */
ft_status ft_explain_save(const struct ft_explain_params *params,
                          const struct ft_explain_view *view, const char *title,
                          struct ft_save *save, struct ft_error *error);

/* ---- plots (plot.c) ---- */

struct ft_plot_point {
    const char *series; /* points of one series are joined in the order given */
    uint64_t x;         /* tokens or bytes, on a logarithmic axis; 0 stands left of the smallest */
    struct ft_spread y;
    const char *line; /* "q4": series "NAME" and "NAME q4" have one colour, all of q4 one kind of line;
                       * NULL: the series has a colour of its own */
};
struct ft_plot_panel {
    const char *title, *unit;          /* unit of a point's value: "tok/s" */
    const struct ft_plot_point *point; /* [n_point] */
    uint32_t n_point;
};
struct ft_plot {
    const char *title, *note, *x_title;
    const struct ft_plot_panel *panel; /* [n_panel] one below the other */
    uint32_t n_panel;
    bool is_bytes; /* what x counts; else tokens or rows */
};
/* ft_plot_save - an SVG file without scripts or fonts of its own, readable on light and dark. */
/* ft_plot_put - the same as a part of another file. */
void ft_plot_put(const struct ft_plot *plot, struct ft_save *save);
ft_status ft_plot_save(const struct ft_plot *plot, const char *path, struct ft_error *error);

struct ft_heat_map {          /* scores over two lists of numbers, as a heat map */
    const char *title, *note; /* note stands below */
    const char *x_title, *y_title;
    const uint32_t *x, *y;        /* [n_x] tokens, [n_y] percent */
    const struct ft_spread *cell; /* [n_y][n_x] 0..100; a median that is NaN: not measured */
    uint32_t n_x, n_y;
};
/* ft_heat_map_put - a part of another file, as ft_plot_put. */
void ft_heat_map_put(const struct ft_heat_map *grid, struct ft_save *save);
struct ft_plot_dots {
    const char *title, *note, *x_title, *y_title;
    double (
        *at)[2]; /* [n] borrowed: x and y, on logarithmic axes; a point with one of them <= 0 has
                            * no place there */
    uint32_t n;
};
/* ft_plot_dots_put - points that are not joined, as a part of another file. */
void ft_plot_dots_put(const struct ft_plot_dots *dots, struct ft_save *save);

/* ---- what goes together (matrix.c) ---- */

enum { FT_MATRIX_SPEC_CAP = 96, FT_MATRIX_REASON_CAP = 384 };
struct ft_matrix_cell {
    char estimator[FT_MATRIX_SPEC_CAP]; /* "h2o:decode=off": with what else decides */
    char budget[16], rank[16];
    const char *kv_type;
    char kv[FT_MATRIX_SPEC_CAP]; /* all of it but the format, as --kv takes it */
    bool runs;
    char reason[FT_MATRIX_REASON_CAP]; /* why not; "" where it runs */
};
/* ft_matrix_cell - estimator x budget x rank x format, the format changing fastest; what does not
 * go together is asked of ft_kv_check.
 *   ->       false past the end */
bool ft_matrix_cell(uint32_t index, struct ft_matrix_cell *out);

/* ---- synthetic models in real shapes (shape.c) ---- */

struct ft_shape_choice {
    uint32_t shape, type; /* rows of the tables */
    uint32_t n_vocab;     /* the shape's own; another may be set, at least 261 */
};
/* ft_shape_parse - "llama-3.2-1b:q4_k_m".
 * Errors     FT_ARG listing what there is */
ft_status ft_shape_parse(const char *text, struct ft_shape_choice *out, struct ft_error *error);
/* ft_shape_list - "llama-3.2-1b ...: f16 ..."; out [cap]. */
void ft_shape_list(char *out, size_t cap);
/* ft_shape_make - the file of a shape below `folder`, written unless it is there already.
 *
 *   path     out, [cap] its name
 *   is_new   out, whether it was written now
 * Errors     FT_IO, FT_NOMEM */
ft_status ft_shape_make(const struct ft_shape_choice *choice, const char *folder, char *path,
                        size_t cap, bool *is_new, struct ft_error *error);

#endif
