/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - the inside of a session; for the files of this folder only.
 *
 *   session.c   the timeline: prompt, next, feed
 *   prefill.c   a lane: one model being read, layer by layer or token by token
 *   compress.c  the stages: draft, score, keep, and the prefill that applies them
 *   share.c     one such prefill for several sessions
 *   trial.c     the prefill of a method that first tries a choice of rows
 *   decode.c    rows that leave while an answer grows
 *   pair.c      may these models and this prompt go together
 *   estimate.c  memory, before anything is computed
 *   cost.c      what a plan costs, from rates
 *   rates.c     rates, from a few layers of a model
 *   auto.c      dense or what was asked for, whichever is expected to answer first
 *   formats.c   how rows are stored, layer by layer
 *   report.c    what happened
 */
#ifndef FT_ENGINE_ENGINE_H
#define FT_ENGINE_ENGINE_H

#include "attn/op.h"
#include "base/base.h"
#include "kv/bits.h"
#include "kv/format.h"
#include "kv/store.h"
#include "model/model.h"
#include "score/score.h"

/* tokens per graph, as libllama's default micro-batch: the same matrix kernels run */
enum { FT_CHUNK = 512 };

/* ---- lane: one model being read (prefill.c) ---- */

struct ft_work { /* tokens x layers that had each part computed since the lane was opened */
    uint64_t q, k, v, rest;
    uint64_t voter;  /* tokens x layers whose queries voted */
    uint64_t logits; /* rows of logits */
};

struct ft_lane {
    const ft_model *model;
    const struct ft_hparams *hp;
    /* read this many layers: fewer than the model has when it drafts for itself */
    uint32_t n_layer;
    bool is_exact;
    struct ft_kv_format format;
    struct ft_eval *eval;
    struct ft_ops *ops;
    struct ft_kv *kv;           /* rows that stay */
    struct ft_kv *stage;        /* one layer's rows while it is being read, or NULL */
    struct ft_gauge rows;       /* bytes of rows held, both stores */
    struct ft_gauge activation; /* bytes of hidden states */
    uint32_t *row_count;        /* [n_head_kv] scratch */
    struct ft_work work;
    ft_progress_fn progress;
    void *progress_user;
    enum ft_phase phase;
};

struct ft_lane_params {
    const ft_model *model;
    uint32_t n_layer;
    uint32_t n_thread;
    struct ft_kv_format format;
    bool is_exact;
    float rope_scale;
    atomic_bool *is_cancelled; /* borrowed until close */
    ft_progress_fn progress;
    void *progress_user;
    enum ft_phase phase;
};
ft_status ft_lane_open(struct ft_lane *lane, const struct ft_lane_params *params,
                       struct ft_error *err);
void ft_lane_close(struct ft_lane *lane); /* a zeroed lane is a no-op */

/* What one layer's evidence decided; filled by the decide callback. */
struct ft_decision {
    const struct ft_rows *keep;   /* [n_head_kv] rows that stay; NULL: all (not staged) */
    const struct ft_slash *slash; /* pattern of this layer's own attention; NULL: dense */
};

/* A layer-major prefill of a whole prompt on an empty lane.
 *
 * For every layer: keys and values of all tokens, then the evidence of the last n_voter queries
 * where a layer votes, then the decision, then attention, output projection and FFN.  Layers that
 * do not vote do all of it in one graph, and what is decided without votes is decided behind it. */
struct ft_prefill {
    const ft_token *id;
    const ft_pos *pos; /* [n] increasing */
    uint32_t n;
    uint32_t n_more; /* rows to reserve per head and layer behind those that stay */
    /* [n_vocab] of the last token; NULL: none wanted, and the last layer stops early */
    float *logits;
    /* rows live in the staging store; only decided ones are copied (none without a decision) */
    bool is_staged;
    bool is_whole; /* staged all the same, where rows are packed: all of them are copied */
    /* evidence [n_head_kv][n_col] of a layer, the callback's to write on; NULL for FT_COLUMN_NONE;
     * NULL decide = no decision */
    ft_status (*decide)(void *user, uint32_t layer, float *column, struct ft_decision *out,
                        struct ft_error *err);
    void *user;
    /* NULL, or told of every voter alone (op.h), voters counted from the first; nothing is folded and
     * decide is handed nothing but room for evidence */
    void (*observe)(void *user, uint32_t layer, uint32_t h, uint32_t voter, float *weight);
    enum ft_column column;
    uint32_t layer_first;  /* layers below do not vote */
    bool is_evidence_only; /* neither rows nor logits are wanted: the last layer needs no V */
    uint32_t n_voter, n_col;
    const float *weight; /* [n_voter] or NULL */
    enum ft_reduce red;
    bool is_per_head; /* red joins voters alone: evidence is [n_head][n_col] */
    /* NULL, or where the queries of the last n_query voters go: those of layer l, [n_query][n_head][d],
     * to query + l * query_stride; n_query <= n_voter */
    float *query;
    size_t query_stride;
    uint32_t n_query;
    int64_t score_us; /* out: time spent on evidence and decisions */
};
ft_status ft_lane_prefill(struct ft_lane *lane, struct ft_prefill *prefill, struct ft_error *err);
/* ft_lane_keep - the decided rows of a staged layer, and room for n_more behind them in every head. */
ft_status ft_lane_keep(struct ft_lane *lane, uint32_t layer, const struct ft_kv *stage,
                       const struct ft_rows *keep, uint32_t n_more, struct ft_error *err);

/* ft_lane_feed - n tokens through all layers at the end of the rows held (token-major).
 *   logits   [n_logit][n_vocab] of the last n_logit tokens
 *   watch    NULL, or [n_layer] evidence to collect beside attention */
struct ft_feed {
    const ft_token *id;
    const ft_pos *pos;
    uint32_t n, n_logit;
    float *logits;
    const struct ft_watch *watch; /* [n_layer]; entries with mass NULL collect nothing */
    /* NULL, or where the queries of all tokens go, as in ft_prefill; n is a chunk at most then, and
     * is_trimmed passes are not taken: n_logit is 0 or n */
    float *query;
    size_t query_stride;
};
ft_status ft_lane_feed(struct ft_lane *lane, const struct ft_feed *feed, struct ft_error *err);

/* ft_lane_vote - queries of earlier tokens vote about the rows that a layer holds.
 *   query    [n][n_head][d] rotated;  watch  where the evidence goes */
ft_status ft_lane_vote(struct ft_lane *lane, uint32_t layer, const float *query, uint32_t n,
                       const struct ft_watch *watch, struct ft_error *err);

/* ft_lane_output_norms - the size of what the first n values of every head would add to the
 * residual stream (struct ft_output_norms).
 *   kv, kv_layer   where the values of `layer` are held;  out [n_head_kv][n] */
ft_status ft_lane_output_norms(struct ft_lane *lane, uint32_t layer, const struct ft_kv *kv,
                               uint32_t kv_layer, uint32_t n, float *out, struct ft_error *err);

/* ft_lane_probe - one pass of a few layers over rows that stand there, and the time it took.
 * Nothing of the lane's own rows is touched. */
enum ft_probe_kind {
    FT_PROBE_LAYERS,    /* everything that these layers do to the tokens */
    FT_PROBE_ATTENTION, /* queries and attention alone, as far as a graph allows: the last layer
                         * with one row of logits */
};
struct ft_probe {
    enum ft_probe_kind kind;
    struct ft_kv *kv;    /* layer 0 serves all layers; the rows [n_row - n_token, n_row) are
                       * overwritten by FT_PROBE_LAYERS */
    const float *hidden; /* [n_token][n_embd] */
    float *out;          /* [n_token][n_embd], [n_vocab] scratch of either kind */
    const ft_pos *pos;   /* [n_token] */
    uint32_t layer_first, layer_end, n_token;
    uint32_t n_row; /* that the last token sees, itself included; at most what kv holds */
};
ft_status ft_lane_probe(struct ft_lane *lane, const struct ft_probe *probe, int64_t *us,
                        struct ft_error *err);

/* ---- session ---- */

struct ft_plan {                   /* how one prompt will be run: decided before any work */
    uint32_t n_prompt, n_input;    /* tokens given; tokens the target will read */
    bool is_prompt_on, is_kv_on;   /* does the stage drop anything */
    uint32_t prompt_keep, kv_keep; /* resolved to rows */
    struct ft_facts prompt_facts, kv_facts; /* what they, and defaults, were resolved with */
    bool is_kv_whole;    /* nothing leaves behind the prompt, which is within the budget: later */
    uint32_t kv_limit;   /* the budget as asked, where rows leave at every step */
    bool is_kv_capped;   /* rows leave as votes say, the budget only caps what they leave */
    uint32_t kv_aux;     /* floats of state beside each row */
    double kv_vote_cost; /* of a prompt's vote, in votes that are folded */
    struct ft_look prompt_look, kv_look;
    struct ft_layers kv_layers; /* how kv_keep is spread: rows beside the window */
    uint32_t n_text;            /* tokens the draft writes */
    uint32_t n_step;            /* draft steps in all, prefill counted; 0: the draft does not run */
    uint32_t n_trial;           /* tokens the target writes on trial rows; 0: there is no trial */
    bool is_critical;           /* kv: values go through the output projection once more */
    uint32_t n_answer;          /* tokens that may follow the prompt */
    ft_pos pos_first;           /* position of the first answer token */
};

struct ft_decoding { /* steps of an answer that change rows already held (decode.c) */
    bool is_evicting, is_compact;
    uint32_t *limit; /* [n_layer][n_head_kv] most rows of a head */
    uint32_t *drop;  /* [largest limit + 1] rows of a head that leave */
    uint64_t n_evicted;
    struct ft_watch *watch; /* [n_layer] NULL: nobody is asked, as the next four */
    float *mass;            /* [n_layer][n_head_kv, or n_head][stride] of one step */
    float *lse;             /* [n_layer][n_head] */
    float *joined;          /* [stride] the mean over a layer's heads */
    size_t stride;
    uint64_t scratch_bytes; /* of these */
    /* compact: keys of the first rows as the prompt rotated them, and by how much they are now */
    uint32_t n_sink;
    float *sink;  /* [n_layer][n_head_kv][n_sink][d] */
    double *turn; /* [d/2] radians per position */
    float *wheel; /* [d/2][2] cos, sin of shift * turn */
    ft_pos shift;
    uint64_t sink_bytes;
};

struct ft_session {
    const ft_model *target, *draft;  /* draft NULL: none, or the target's own layers */
    struct ft_session_params params; /* strings owned */
    struct ft_choice prompt, kv;
    struct ft_kv_format format;
    struct ft_packing *packing; /* [n_layer] owned */
    double joint_share;         /* kv type joint: what the last budget was of f16 rows */
    struct ft_sampler *sampler;
    atomic_bool is_cancelled;
    struct ft_lane lane; /* the target's */
    float *logits;       /* [n_vocab] */
    bool has_logits, has_pending;
    ft_token pending; /* drawn, not yet evaluated */
    ft_pos pos_next;
    uint32_t n_left;     /* tokens that may still be evaluated */
    ft_pos pos_kept_end; /* rows below this position are what prefill kept */
    uint32_t *kept;      /* [n_kept] prompt tokens the target read */
    uint32_t n_kept;
    float *score; /* [n_prompt] what the prompt stage ranked by; NULL: it dropped nothing */
    /* [n_layer][n_head_kv][n_kv_score] what the KV stage ranked by; NULL: not asked for, or it
     * dropped nothing */
    float *kv_score;
    uint32_t n_kv_score;
    struct ft_plan plan;
    struct ft_report report;
    struct ft_decoding decoding;
    bool is_dense_chosen;      /* by is_auto, for this prompt: methods count as dense */
    /* while a prompt is read: the sessions whose rows this one's prefill chooses too */
    ft_session *const *mate; /* [n_mate] borrowed */
    uint32_t n_mate;
    struct ft_work draft_work; /* what the draft computed for the last prompt */
    /* tests only: a stage that has nothing to drop runs all the same */
    bool is_shortcut_off;
    /* tests only: measure whatever dense is expected to take */
    bool is_auto_eager;
};

/* ft_session_policy - parameters, methods and pair of a zeroed session with target and draft set:
 * all that can be
 * checked without weights.  ft_session_policy_done ends it, also after a failure. */
ft_status ft_session_policy(ft_session *s, const struct ft_session_params *params,
                            struct ft_error *err);
void ft_session_policy_done(ft_session *s);

/* ---- formats.c ---- */

/* ft_formats_init - s->format and s->packing from the parameters; both are freed with the policy.
 * Errors     FT_ARG, FT_NOMEM, FT_UNSUP */
ft_status ft_formats_init(ft_session *s, struct ft_error *err);
/* ft_formats_joint - bits for a budget that is `share` of the prompt's rows in f16: 4 up to an eighth,
 * 8 up to a half, else rows as they are (arXiv:2412.12706, the crossover of its iso-byte curves);
 * keys never get 2.  For this prompt; a no-op unless the kv type is `joint`. */
void ft_formats_joint(ft_session *s, double share);
/* ft_formats_set - layers of a store are packed as the session says, from their next reservation
 * on; or not at all. */
void ft_formats_set(const ft_session *s, struct ft_kv *kv, bool is_on);
/* ft_formats_block_bytes - of 64 packed rows of every head in all layers; 0: nothing is packed. */
uint64_t ft_formats_block_bytes(const ft_session *s);
/* ft_formats_text - what is stored, for a report; "" where nothing is packed. */
void ft_formats_text(const ft_session *s, char *out, size_t cap);

/* ---- stages (compress.c) ---- */

struct ft_draft_result {
    ft_token *text; /* [n_text] owned */
    uint32_t n_text;
    float *score; /* [n_prompt] owned; NULL when the prompt stage is off */
};
void ft_draft_result_done(struct ft_draft_result *result);

/* ft_compress_draft - read the prompt with the draft: text for the kv stage, scores for the prompt
 * stage. */
ft_status ft_compress_draft(ft_session *s, const ft_token *id, struct ft_draft_result *out,
                            struct ft_error *err);
/* ft_compress_prompt - scores -> s->kept.  n_head: leading tokens that must stay. */
ft_status ft_compress_prompt(ft_session *s, const float *score, uint32_t n_head,
                             struct ft_error *err);
/* ft_compress_prefill - the target reads s->kept of id, dense or dropping rows, with look-ahead text
 * where the method asks for it; fills s->logits. */
ft_status ft_compress_prefill(ft_session *s, const ft_token *id,
                              const struct ft_draft_result *draft, struct ft_error *err);
/* ft_compress_mate - what is left to do for one of s->mate behind the prefill of s: its last token once
 * more where the method wants that, and its report. */
ft_status ft_compress_mate(const ft_session *s, ft_session *mate, const ft_token *id,
                           struct ft_error *err);

/* ---- share.c ---- */

/* ft_share_may - would a prefill by a's plan give b, planned too, the evidence that b's own would? */
bool ft_share_may(const ft_session *a, const ft_session *b);
/* How a prefill that drops rows votes. */
struct ft_votes {
    enum ft_column column;
    uint32_t n_col, n_voter; /* with state, columns are the window's rows too */
    enum ft_reduce red;
    bool is_per_head, is_sparse; /* sparse: the vertical-slash pattern */
};
/* ft_votes_of - n_read: tokens, drafted ones included. */
struct ft_votes ft_votes_of(const ft_session *s, uint32_t n_read);

/* ft_compress_greedy - the likeliest of the first n ids, the lowest of equal ones. */
ft_token ft_compress_greedy(const float *logits, uint32_t n);
/* ft_compress_note - the scores of the layer that is being decided, where the caller wants them. */
void ft_compress_note(const ft_session *s, const struct ft_chooser *c, uint32_t layer);
/* ft_compress_norms - what rank=critical ranks by, for the layer that is being decided; a no-op
 * without it.
 *   kv, kv_layer   where that layer's values are held */
ft_status ft_compress_norms(struct ft_lane *lane, struct ft_chooser *c, uint32_t layer,
                            const struct ft_kv *kv, uint32_t kv_layer, struct ft_error *err);

/* ---- trial.c ---- */

/* ft_trial_prefill - read s->plan.n_input tokens, keep all their rows, write look-ahead text behind
 * those that SnapKV would keep, and let its queries choose the rows that stay in s->lane; fills
 * s->logits.  The text's time is draft_us of the report, that of votes and choices score_us; both are
 * taken off prefill_us.
 *   id, pos  [n_input] */
ft_status ft_trial_prefill(ft_session *s, const ft_token *id, const ft_pos *pos,
                           struct ft_error *err);
/* ft_voters - rows of n_read whose queries vote about a prompt of n_input. */
static inline uint32_t ft_voters(const struct ft_look *look, uint32_t n_input, uint32_t n_read) {
    if (look->column != FT_COLUMN_MASS) {
        return 0;
    }
    if (look->n_observed > 0) {
        return FT_MIN(look->n_observed, n_input);
    }
    return look->is_all_voting ? n_read : look->window + look->refeed + (n_read - n_input);
}

/* How voters are joined, as the kernels know it. */
static inline enum ft_reduce ft_reduce_of(enum ft_fold fold) {
    return fold == FT_FOLD_MAX   ? FT_REDUCE_MAX
           : fold == FT_FOLD_SUM ? FT_REDUCE_SUM
                                 : FT_REDUCE_MEAN;
}

/* ---- decode.c ---- */

/* ft_decoding_is_watching - is every step's attention asked for? */
bool ft_decoding_is_watching(const struct ft_plan *plan);
/* ft_decoding_room - rows to reserve per head behind those that stay of the prompt. */
uint32_t ft_decoding_room(const struct ft_plan *plan);
/* ft_decoding_sink_bytes - of the copies that positions=compact rotates from. */
uint64_t ft_decoding_sink_bytes(const struct ft_plan *plan, const struct ft_hparams *hp);
/* ft_decoding_begin - the state of a layer's prompt rows, from what its voters gave; nothing where
 * the method has none.  While the layer is being read.
 *   column   [n_head_kv][n_col] of all rows of the prompt */
void ft_decoding_begin(const ft_session *s, uint32_t layer, const float *column, uint32_t n_col,
                       uint32_t n_voter);
/* ft_decoding_observe - a prompt row votes alone; nothing where the method folds votes.  While the layer
 * is being read.
 *   n_row    rows that it sees, its own the last;  weight [group][stride] */
void ft_decoding_observe(const ft_session *s, uint32_t layer, uint32_t h, uint32_t n_row,
                         float *weight, size_t stride);
/* ft_decoding_leave - which rows of a prompt a capped method lets go, behind the last vote.
 *   weight   as `observe` left it;  drop [n_row] ascending;  ->  count */
uint32_t ft_decoding_leave(const ft_session *s, uint32_t layer, uint32_t h, uint32_t n_row,
                           float *weight, size_t stride, uint32_t *drop);
/* ft_decoding_column - the first float of each row's state, as evidence.
 *   column   [n_head_kv][n_col] */
void ft_decoding_column(const ft_session *s, uint32_t layer, float *column, uint32_t n_col);
/* ft_decoding_init - behind a prefill: limits and buffers, as the plan needs them; also ended by
 * ft_decoding_done after a failure. */
ft_status ft_decoding_init(ft_session *s, struct ft_error *err);
void ft_decoding_done(ft_session *s); /* a zeroed one is a no-op */
/* ft_decoding_before, ft_decoding_behind - around the evaluation of one token; of several where
 * nothing is evicted. */
ft_status ft_decoding_before(ft_session *s, struct ft_error *err);
ft_status ft_decoding_behind(ft_session *s, struct ft_error *err);

/* ---- pair.c ---- */

/* ft_pair_plan - resolve methods against a prompt, check contexts; fills s->plan and notes
 * fallbacks. */
ft_status ft_pair_plan(ft_session *s, uint32_t n_prompt, uint32_t n_head, struct ft_error *err);
/* ft_pair_context - positions a model may see. */
uint64_t ft_pair_context(const ft_model *model, float rope_scale);
/* ft_pair_draft - the model that drafts: the draft; the target where its first layers do, or where
 * the method wants its own answer. */
const ft_model *ft_pair_draft(const ft_session *s);
uint32_t ft_pair_draft_layers(const ft_session *s); /* of that model, as many as draft */

/* ---- estimate.c ---- */

/* ft_estimate_run - bytes a planned run needs on top of the weights. */
struct ft_run_bytes {
    uint64_t kv, kv_peak, draft_kv_peak, activation, compute, total;
};
void ft_estimate_run(const ft_session *s, const struct ft_plan *plan, struct ft_run_bytes *out);
/* FT_NOMEM naming the largest consumer */
ft_status ft_estimate_check(const ft_session *s, struct ft_error *err);

/* ---- cost.c: arithmetic alone ---- */

/* ft_cost_pairs - (query, visible row) pairs of one layer's causal attention over n tokens.
 *   window, n_vertical   of the vertical-slash pattern; window 0: dense.  Where in the text the
 *            vertical rows stand is not known beforehand: evenly spread is assumed */
double ft_cost_pairs(uint32_t n, uint32_t window, uint32_t n_vertical);
/* ft_cost_plan - what a plan is expected to take.  draft: NULL when nothing is dropped. */
void ft_cost_plan(const struct ft_rates *target, const struct ft_rates *draft,
                  const struct ft_plan *plan, struct ft_expect *out);
/* ft_cost_dense_most - report.dense_most_us: a dense run has n / n_read times the tokens and that
 * ratio of pairs; whichever share of prefill_us each of them had, it takes no longer than the
 * larger of the two. */
int64_t ft_cost_dense_most(const struct ft_plan *plan, uint32_t n_read, int64_t prefill_us);

/* ---- rates.c ---- */

struct ft_meter; /* one model being measured */
ft_status ft_meter_new(const struct ft_lane_params *params, struct ft_meter **out,
                       struct ft_error *err);
void ft_meter_free(struct ft_meter *meter);
/* ft_meter_glance - a first guess from a few tokens in one layer: token_us, and pair_us from the
 * number of multiplications. */
ft_status ft_meter_glance(struct ft_meter *meter, struct ft_rates *out, struct ft_error *err);
/* ft_meter_measure - after ft_meter_glance: all of it, as ft_rates_measure. */
ft_status ft_meter_measure(struct ft_meter *meter, uint32_t n_row, int64_t budget_us,
                           struct ft_rates *out, struct ft_error *err);

/* ---- auto.c ---- */

/* ft_auto_plan - ft_pair_plan, then the dense plan in its place where that is expected to give the
 * first token sooner, or is all that there is; says so in s->report.automatic. */
ft_status ft_auto_plan(ft_session *s, uint32_t n_prompt, uint32_t n_head, struct ft_error *err);
/* ft_auto_is_unfit - the method does not work on this prompt (too long, or a share of it too little):
 * with is_auto a reason to read it dense. */
bool ft_auto_is_unfit(ft_status status);

/* ---- report.c ---- */

void ft_report_begin(ft_session *s, uint32_t n_prompt);
/* ft_report_fallback - say a choice aloud; FT_UNSUP when the session is strict. */
ft_status ft_report_fallback(ft_session *s, struct ft_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* ft_report_kernels - an FT_KERN that could not be heeded is a fallback. */
ft_status ft_report_kernels(ft_session *s, struct ft_error *err);
void ft_report_settings(ft_session *s); /* every parameter as used */

#endif
