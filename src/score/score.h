/* SPDX-License-Identifier: Apache-2.0 */
/* score.h - what a published method is: a descriptor, its parameters, and numbers from evidence.
 *
 * Policy only.  A method sees plain arrays: it never knows the model, the store or another method.
 * One file and one line in methods.def per method; flags, help, documents and tests derive from the
 * descriptor.  The engine runs the stages in this order:
 *
 *     look (what to watch) -> evidence -> score -> budget -> keep -> apply
 *
 *   score.c     the catalogue and the parameters
 *   keep.c      pooling, ranking, which rows of a head stay
 *   budget.c    how many rows a head of a layer may keep
 *   critical.c  the second stage of a ranking: by what a row's value would add
 *   choose.c    these steps for all KV heads of a layer
 *   fold.c      evidence of a draft's layers and steps -> the score of a prompt
 *
 * Scores: higher = more important.  Ties: the lower index wins.
 */
#ifndef FT_SCORE_SCORE_H
#define FT_SCORE_SCORE_H

#include "base/base.h"

/* ---- parameters: a table per method, a struct of its own, filled by one parser ---- */

enum ft_param_type {
    FT_UINT,   /* uint32_t */
    FT_KEEP,   /* struct ft_amount: rows, share or bytes */
    FT_CHOICE, /* uint32_t, index into `choices` ("max|mean|none") */
};

struct ft_amount {
    enum { FT_AMOUNT_ROWS, FT_AMOUNT_SHARE, FT_AMOUNT_BYTES } unit;
    double value; /* rows, percent (0, 100], or bytes */
};

/* FT_UNSET - an FT_UINT whose default depends on other things; the text for it is `unset`. */
#define FT_UNSET UINT32_MAX

struct ft_param {
    const char *name;
    enum ft_param_type type;
    size_t offset;            /* in the method's params struct */
    const char *initial;      /* as text, parsed like user input; NULL: FT_UNSET */
    uint32_t low, high, step; /* FT_UINT: low, low + step, ... high; step 0 reads as 1 */
    const char *choices;      /* FT_CHOICE: "max|mean" */
    const char *unset;        /* what help says for an unset default: "the token limit" */
    const char *help;
};

/* ---- what a method watches ---- */

enum ft_act {
    FT_RETAIN, /* change storage: drop rows of a KV head */
    FT_ATTEND, /* choose this step's view; every row stays */
    FT_PROMPT, /* drop prompt tokens before the target reads them */
};
enum ft_source { FT_SOURCE_TARGET, FT_SOURCE_DRAFT }; /* whose attention votes */
/* what rows are known by: the attention they receive, the norm of their keys, their place alone */
enum ft_column { FT_COLUMN_MASS, FT_COLUMN_NORM, FT_COLUMN_NONE };
/* voters and heads of a group -> one number per row */
enum ft_fold { FT_FOLD_MAX, FT_FOLD_MEAN, FT_FOLD_SUM };
/* weight of window row i of w, oldest first: 1, i/(w-1), (i+1)/w */
enum ft_ramp { FT_RAMP_OFF, FT_RAMP_CODE, FT_RAMP_PAPER };

struct ft_facts {         /* of this run, for defaults that depend on it */
    uint32_t n_prompt;    /* tokens of this stage's input */
    uint32_t n_layer;     /* of the model that votes */
    uint32_t n_predict;   /* token limit of the request */
    uint64_t token_bytes; /* K and V of one token in all layers of the target */
    /* where rows are packed: the oldest, so many together in so many bytes, in all layers; 0: none */
    uint64_t block_bytes;
    uint32_t block_rows, residual; /* at least `residual` rows are exact */
    uint32_t keep; /* the budget in rows, where it is not what the amount says; else 0 */
};

struct ft_look {
    enum ft_source source;
    enum ft_column column; /* without mass nobody votes */
    uint32_t sinks;        /* kv: first prompt rows that the scores keep; fewer than the budget */
    uint32_t n_observed;   /* kv, with `observe`: last prompt rows that vote, one by one */
    uint32_t n_spared;     /* kv, is_capped: no row leaves as long as there are no more tokens */
    uint32_t window;       /* last prompt rows that stay; with the refeed rows they vote */
    uint32_t lookahead;    /* kv: drafted tokens that vote too; prompt: draft steps, >= 1 */
    uint32_t refeed;       /* last prompt rows, dropped and fed again before decoding */
    uint32_t trial_window; /* kv, has_trial: window of the trial's SnapKV, >= window */
    uint32_t layer_first;  /* layers below do not vote */
    enum ft_fold fold;
    enum ft_ramp ramp;
    uint32_t prefill_window, prefill_vertical; /* vertical-slash prefill; window 0: dense */
    bool is_all_voting;  /* kv: every prompt row votes, not only the last ones */
    /* kv: `fold` joins voters alone, the largest head of a group counts; `observe`, `evict`: query
     * heads one by one */
    bool is_group_max;
    bool is_layer_wide;  /* kv: the mean over the KV heads of a layer counts for all of them */
    bool is_evicting;    /* kv: rows also leave at every step behind the prompt; see `evict` */
    uint32_t head_pool;  /* prompt: mean-pooling width of each query head alone; 0: none */
    bool is_step_mean;   /* prompt: steps are averaged; else the largest counts */
    bool is_prompt_only; /* queries behind the prompt see its rows alone */
    /* prompt: kept tokens get new contiguous positions; kv: so do kept rows, behind the prompt */
    bool is_compact;
    bool is_protecting; /* prompt: BOS and system header are kept */
};

/* ---- budgets over layers and heads, and the ranking within a head: settings that every KV method
 * has ---- */

enum { FT_BUDGET_UNIFORM, FT_BUDGET_PYRAMID, FT_BUDGET_ADA, FT_BUDGET_COUNT };
enum { FT_RULE_EXACT, FT_RULE_ADAKV };
enum { FT_RANK_SCORE, FT_RANK_CRITICAL };

struct ft_split {
    uint32_t budget; /* FT_BUDGET_* */
    uint32_t beta;   /* pyramid: the last layer's share of B is 1 in beta */
    uint32_t alpha;  /* ada: percent of B that every head has for certain */
    uint32_t rule;   /* ada: FT_RULE_* */
    uint32_t rank;   /* FT_RANK_* */
    uint32_t rho;    /* critical: percent of a head's rows that the score alone chooses */
};

/* ---- evidence, scores, selection ---- */

struct ft_evidence {      /* of one KV head (kv) or the whole prompt; borrowed for the call */
    uint32_t n_row;       /* candidates: kv n - window - refeed; prompt n */
    uint32_t layer, head; /* which KV head; prompt 0, 0 */
    uint32_t n_voter;     /* with `observe`: how many it was told of */
    /* [n_row] >= 0; NULL unless looked at, as the next one.  With `observe` the first float of each
     * row's state */
    const float *mass;
    const float *norm;    /* [n_row] >= 0 L2 norms of the keys as stored */
};

struct ft_budget {        /* what keep must obey */
    uint32_t keep;        /* C: rows that stay, window included, >= window */
    uint32_t n_prompt;    /* n */
    uint32_t n_rank;      /* how long the ranking is, >= keep - window (kv) */
    const uint32_t *must; /* [n_must] ascending indices that stay whatever their score (prompt) */
    uint32_t n_must;
};

/* One KV head behind one step: the token that was evaluated, or the one that is about to be, if
 * rows are not known by attention (column is not FT_COLUMN_MASS).  Borrowed for the call. */
struct ft_step {
    uint32_t layer, head;
    uint32_t n_row;    /* rows held; with mass the last one is the step's own */
    uint32_t keep;     /* most rows that may stay, >= window */
    uint32_t window;   /* look.window */
    uint32_t n_step;   /* tokens of the answer so far, this one included; a prompt row votes: 0 */
    uint32_t n_answer; /* as many may come in all */
    ft_pos pos_now;    /* where the step's token stands */
    const ft_pos *pos; /* [n_row] where rows stand in the text, increasing */
    /* [n_row] the step's attention: heads of a group joined by look.fold, or the mean over the layer's
     * heads; with is_group_max the group's query heads one by one, [n_mass][mass_stride], which
     * `observe` may write on.  NULL unless looked at */
    float *mass;
    uint32_t n_mass;    /* 1, or the query heads of the group */
    size_t mass_stride; /* from one to the next */
    float *aux;         /* [n_row][n_aux] state, 0 in a new row */
};

struct ft_method {
    const char *name, *title, *paper, *file;
    enum ft_act act;
    bool needs_draft, needs_draft_text;
    bool writes_itself; /* (kv) look-ahead text is the target's own answer: a dense run first */
    /* (kv) a trial: behind the rows that SnapKV would keep, the target writes look-ahead text whose
     * queries then vote about all rows */
    bool has_trial;
    /* (kv) rows leave behind the prompt by `evict` too: keep is a cap, not what is kept, and heads
     * end with numbers of their own */
    bool is_capped;
    /* why a budget makes no sense with these scores; NULL: it does */
    const char *unfit[FT_BUDGET_COUNT];
    const char *unfit_critical;    /* the same of rank=critical */
    const struct ft_param *params; /* ends with name NULL */
    size_t params_size;
    /* resolve - put a number in the place of every default that depends on the run, and raise what
     * must be raised for this budget (SpecKV's prefill_vertical).  NULL: nothing depends on it. */
    void (*resolve)(void *params, const struct ft_facts *facts);
    /* look - what to watch, with every default resolved against the facts. */
    void (*look)(const void *params, const struct ft_facts *facts, struct ft_look *out);
    /* score - evidence -> [n_row] numbers.  No allocation; out does not alias the evidence.
     * NULL: nothing is ever dropped (dense). */
    void (*score)(const struct ft_evidence *ev, const void *params, float *out);
    /* keep - (prompt methods) scores -> ascending indices: all when keep >= n_prompt, else `keep`
     * of them; `must` first, then the last `window`, then by rank.  NULL (kv methods):
     * ft_keep_rank, then ft_keep_retain.
     *   work  [ft_keep_work(n_prompt)] scratch;  out [min(keep, n_prompt)];  ->  count */
    uint32_t (*keep)(const float *score, const void *params, const struct ft_budget *budget,
                     uint32_t *work, uint32_t *out);
    uint32_t n_aux; /* (kv) floats of state beside each row where is_evicting */
    /* begin - the prompt's evidence about all rows of a head -> aux.  NULL: state starts at zero and
     * the prompt needs no votes beyond those of `score`.
     *   ev       n_row counts the window too;  n_voter queries voted;  aux [n_row][n_aux] */
    void (*begin)(const struct ft_evidence *ev, const void *params, uint32_t n_voter, float *aux);
    /* observe - one voter brings the state of the rows it sees up to date; in place of `begin`.  Asked
     * for each of the last look.n_observed rows of the prompt, oldest first, then for every step in
     * front of `evict`, which finds mass as it was left.  NULL: `evict` sees to it.
     * Thread     heads of a layer at the same time */
    void (*observe)(const struct ft_step *step, const void *params);
    double observe_cost; /* of a vote that is told alone, in votes that are folded; as measured */
    /* evict - brings aux up to date and names the rows that leave: at least n_row - keep of them.
     * NULL: rows leave behind the prompt only.
     *   drop     [n_row] ascending;  ->  count */
    uint32_t (*evict)(const struct ft_step *step, const void *params, uint32_t *drop);
};

/* ---- catalogue (score.c) ---- */

uint32_t ft_catalogue_count(void);
const struct ft_method *ft_catalogue(uint32_t index); /* in methods.def order; dense first */

/* A method with its parameters: what "name:key=value,..." means. */
struct ft_choice {
    const struct ft_method *method;
    void *params; /* [params_size] owned; behind it, struct ft_split */
};
/* ft_method_param - parameter i, the method's own first, then those of budgets; NULL: no more. */
const struct ft_param *ft_method_param(const struct ft_method *method, uint32_t i);
const struct ft_split *ft_choice_split(const struct ft_choice *choice);
/* ft_choice_parse - spec for a stage; NULL, "" and "dense" give the method `dense`.
 *   out      the caller ends it with ft_choice_done; untouched on failure
 * Errors     FT_ARG, where = byte of spec: unknown method or parameter (lists what there is), value
 *            out of range (says the range), window >= keep where keep is in rows; FT_NOMEM */
ft_status ft_choice_parse(enum ft_stage stage, const char *spec, struct ft_choice *out,
                          struct ft_error *err);
void ft_choice_done(struct ft_choice *choice); /* NULL method: a no-op */

/* ft_choice_budget_check - does the budget work for this input?  Ask after n_prompt <= keep was
 * answered with dense.  What depends on the facts: window < keep (a share or bytes resolved), and
 * that some layer votes.
 * Errors     FT_ARG */
ft_status ft_choice_budget_check(const struct ft_choice *choice, const struct ft_facts *facts,
                                 struct ft_error *err);

/* ft_choice_setting - parameter i of those that apply (no beta without pyramid) as the user would
 * type it ("1024", "25%", "64MiB", "max").
 *   facts    of the run: the values as used; NULL: an open default reads as its `unset` text
 *   ->       false past the end */
bool ft_choice_setting(const struct ft_choice *choice, const struct ft_facts *facts, uint32_t i,
                       struct ft_setting *out);

/* ft_choice_keep - the budget in rows for this input: rows as they are, a share floored, bytes
 * divided by token_bytes.  A method without a budget (dense) keeps n_prompt. */
uint32_t ft_choice_keep(const struct ft_choice *choice, const struct ft_facts *facts);

/* ft_choice_amount - the budget as it was given; NULL for a method without one. */
const struct ft_amount *ft_choice_amount(const struct ft_choice *choice);

/* ft_choice_uint - a FT_UINT parameter by name, FT_UNSET while its default is open.
 *   ->       false when there is none of that name */
bool ft_choice_uint(const struct ft_choice *choice, const char *name, uint32_t *out);

/* ft_amount_parse - "256", "25%", "64MiB" (B, KB, MB, GB, KiB, MiB, GiB).  FT_ARG: malformed, zero,
 * above 100% or finer than four decimals; out untouched. */
ft_status ft_amount_parse(const char *text, struct ft_amount *out);
/* ft_amount_text - the shortest spelling: 1024KiB reads as 1MiB. */
void ft_amount_text(const struct ft_amount *amount, char *buf, size_t cap);
uint32_t ft_amount_rows(const struct ft_amount *amount, const struct ft_facts *facts);

/* ft_param_range - what a parameter takes, for help and errors: "1..255 in steps of 2", "max|mean".
 *   buf      64 bytes are enough */
void ft_param_range(const struct ft_param *param, char *buf, size_t cap);

/* ---- keep (keep.c) ---- */

/* ft_keep_rank - the k best of score[n], best first; ties (-0 is 0): lower index; NaN ranks last.
 * Cost       four passes over n and a sort of k; no allocation
 *   work     [n] scratch;  out [min(k, n)];  ->  min(k, n) */
uint32_t ft_keep_rank(const float *score, uint32_t n, uint32_t k, uint32_t *work, uint32_t *out);
/* ft_keep_retain - rows a KV head keeps: the first keep - window ranked candidates and the window
 * rows [n_prompt - window - refeed, n_prompt - refeed), ascending.
 *   ranked   [budget->n_rank] distinct, < n_prompt - window - refeed;  out [keep];  ->  count */
uint32_t ft_keep_retain(const uint32_t *ranked, const struct ft_look *look,
                        const struct ft_budget *budget, uint32_t *out);

/* ft_keep_evict - the `evict` of a method that goes by one number per row: of the rows in front of
 * the window the lowest leave, as many as are too many; ties: the higher index; NaN leaves first.
 *   score    [n_row];  drop [n_row];  ->  count */
uint32_t ft_keep_evict(const float *score, const struct ft_step *step, uint32_t *drop);

/* A set of prompt tokens under construction: one bit per token, and how many more may join. */
struct ft_set {
    uint32_t *bit; /* [ceil(n / 32)] borrowed */
    uint32_t n, room;
};
/* ft_set_begin - what must stay, then the last `window` tokens, as far as the budget goes. */
struct ft_set ft_set_begin(const struct ft_budget *budget, uint32_t window, uint32_t *bit);
void ft_set_add(struct ft_set *set, uint32_t j);
uint32_t ft_set_list(const struct ft_set *set, uint32_t *out); /* ascending; ->  count */
/* ft_keep_tokens - the `keep` of a prompt method that goes by rank alone. */
uint32_t ft_keep_tokens(const float *score, uint32_t window, const struct ft_budget *budget,
                        uint32_t *work, uint32_t *out);

size_t ft_keep_work(uint32_t n_prompt); /* uint32_t's that a method's keep may scribble on */

/* ft_window_default - window where none was asked for: 32, or 8 of a budget below 64, of which 32
 * would leave few rows or none to choose. */
uint32_t ft_window_default(uint32_t keep);

/* ft_pool - one-dimensional pooling, same length, stride 1, window k: left (k-1)/2, right k/2.
 *   is_max   max over what is inside (scores are >= 0: zero padding would change nothing); a NaN
 *            gives way to every number.  Else sum / k, summed in double (edges are damped)
 *   out      does not alias in
 * Cost       max n log k, mean n k */
void ft_pool(const float *in, uint32_t n, uint32_t k, bool is_max, float *out);

/* ft_fold_heads - (prompt methods) one layer's, or one draft step's, mass into the score of the
 * prompt: KV heads joined by `fold`, then the larger of that and what other layers and steps left.
 *   mass     [n_head][n];  score [n], starts at 0 */
void ft_fold_heads(enum ft_fold fold, const float *mass, uint32_t n_head, uint32_t n, float *score);

/* ft_group_max - of each group of query heads the largest, in place.
 *   column   [n_head][n] -> [n_head_kv][n] */
void ft_group_max(float *column, uint32_t n_head, uint32_t n_head_kv, uint32_t n);

/* ft_ramp_weight - weight of window row i of w. */
float ft_ramp_weight(enum ft_ramp ramp, uint32_t i, uint32_t w);

/* ---- the score of a prompt (fold.c) ---- */

struct ft_folding {
    struct ft_look look;
    uint32_t n_head, n_head_kv, n, n_step;
    float *score;  /* [n] of the steps so far */
    float *step;   /* [n] of the step that votes; score itself where the largest step counts */
    float *pooled; /* [n] where heads are pooled alone */
};
/* ft_folding_init - the caller ends it with ft_folding_done, also after a failure. */
ft_status ft_folding_init(struct ft_folding *f, const struct ft_look *look, uint32_t n_head,
                          uint32_t n_head_kv, uint32_t n, struct ft_error *err);
void ft_folding_done(struct ft_folding *f); /* a zeroed one is a no-op */
/* ft_folding_layer - a layer votes: mass [n_head_kv][n], or [n_head][n] where heads are pooled
 * alone. */
void ft_folding_layer(struct ft_folding *f, const float *column);
void ft_folding_step(struct ft_folding *f); /* all layers of a step have voted */
/* ft_folding_end - the score [n]; the caller frees it with ft_free. */
float *ft_folding_end(struct ft_folding *f);

/* ---- budgets (budget.c) ---- */

/* Rows beside the window that a KV head keeps on average: most - l * step in layer l. */
struct ft_layers {
    uint32_t most, step;
};
/* ft_split_layers - n_free: B, the same for every layer of a uniform budget
 *   n_col    candidates of a head, >= n_free;  n_prompt  tokens of the stage's input */
struct ft_layers ft_split_layers(const struct ft_split *split, uint32_t n_free, uint32_t n_col,
                                 uint32_t n_prompt, uint32_t n_layer);
uint64_t ft_layers_sum(const struct ft_layers *layers, uint32_t n_layer); /* over all layers */

/* ft_split_heads - (ada) rows beside the window for each KV head of a layer whose heads have
 * n_free on average.  rule=exact: together n_head * n_free, and each at least floor(alpha n_free).
 *   out      [n_head]; none exceeds n
 * Cost       two passes of ft_keep_rank over all heads; no allocation */
struct ft_heads {
    const float *score; /* [n_head][n] */
    uint32_t n_head, n; /* n_head * n < 2^32 */
    float *copy;        /* [n_head][n] scratch */
    uint32_t *work;     /* [n_head][n] scratch */
    uint32_t *ranked;   /* [n_head][n_free] scratch */
};
void ft_split_heads(const struct ft_split *split, const struct ft_heads *heads, uint32_t n_free,
                    uint32_t *out);

/* ---- the second stage (critical.c) ---- */

struct ft_critical {
    const float *score; /* [n] of one KV head */
    const float *norm;  /* [n] |W_o v|_1 of each row, the mean over the group's query heads */
    uint32_t n, rho;
    float *second;  /* [n] scratch */
    uint32_t *work; /* [n] scratch */
};
/* ft_critical_rank - the k rows that stay: floor(rho k / 100) by score, best first, then the others
 * by (score + 1e-4) norm, best first; ties: lower index; NaN last.
 *   out      [min(k, n)];  ->  min(k, n) */
uint32_t ft_critical_rank(const struct ft_critical *c, uint32_t k, uint32_t *out);

/* ---- all KV heads of a layer (choose.c) ---- */

struct ft_chooser_params {
    const struct ft_choice *choice; /* borrowed until done */
    struct ft_look look;
    uint32_t n_layer, n_head; /* n_head: KV heads of a layer */
    uint32_t n_prompt;
    uint32_t n_voter;    /* of evidence that `observe` was told, voter by voter */
    uint32_t keep;       /* window <= keep <= n_prompt - refeed */
    uint32_t n_vertical; /* ranked columns that the prefill asks for, <= n_col */
};

struct ft_chooser { /* the answers of one layer; every layer uses the buffers again */
    struct ft_chooser_params p;
    uint32_t n_col;              /* candidates: n_prompt - window - refeed, >= 1 */
    uint32_t rank_cap, kept_cap; /* strides of the lists */
    float *joined;               /* [n_col] where is_layer_wide */
    float *pooled;               /* [n_head][n_col] scores */
    struct ft_layers layers;
    struct ft_heads heads; /* budget=ada */
    uint32_t *n_free;      /* [n_head] candidates that stay */
    /* rank=critical, else NULL: [n_head][n_col] filled by the caller before ft_chooser_keep;
     * [n_col] and [most rows of a head] scratch */
    float *output_norm, *second;
    uint32_t *chosen;
    uint32_t *ranked, *n_ranked; /* [n_head][rank_cap] best score first; [n_head] */
    uint32_t *kept, *n_kept;     /* [n_head][kept_cap] ascending; [n_head] */
    uint32_t *work;              /* [n_col] */
};
/* ft_chooser_init - the caller ends it with ft_chooser_done, also after a failure.
 * Errors     FT_NOMEM; FT_LIMIT: too many scores to compare across heads */
ft_status ft_chooser_init(struct ft_chooser *c, const struct ft_chooser_params *params,
                          struct ft_error *err);
void ft_chooser_done(struct ft_chooser *c); /* a zeroed one is a no-op */
/* ft_mean_heads - the mean over KV heads, summed in double.
 *   column   [n_head][stride], of which [n] count;  out [n] */
void ft_mean_heads(const float *column, uint32_t n_head, size_t stride, uint32_t n, float *out);
/* ft_chooser_column - what KV head h is scored by, [n_col]: of `column` [n_head][n_col], or the
 * joined one. */
const float *ft_chooser_column(const struct ft_chooser *c, const float *column, uint32_t h);
/* ft_chooser_score - evidence of a layer -> pooled.  column: NULL where nothing is looked at. */
void ft_chooser_score(struct ft_chooser *c, uint32_t layer, const float *column);
/* ft_chooser_keep - pooled, and output_norm where there is one, of a layer -> ranked and kept. */
void ft_chooser_keep(struct ft_chooser *c, uint32_t layer);

#endif
