/* SPDX-License-Identifier: Apache-2.0 */
/* foretoken.h - the public interface: long prompts made cheap by a draft model that reads first.
 *
 * Two nouns.  A model is a GGUF file, immutable after opening and shared by any number of sessions.
 * A session is one timeline on a target model: a prompt goes in whole, the draft reads it first if
 * a method asks for that, the target keeps what matters, and tokens come out one at a time.
 *
 *     evidence -> score -> budget -> keep -> apply
 *
 * The library never prints, never exits and never reads the environment (except FT_KERN, a
 * diagnostic). Strings are UTF-8.  Unless a comment says otherwise, pointers are borrowed for the
 * call, and out parameters are untouched on failure.  Calls that may fail for more than one reason
 * take `err`, which may be NULL.
 */
#ifndef FORETOKEN_H
#define FORETOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FT_API __attribute__((visibility("default")))
#else
#define FT_API
#endif

#define FT_VERSION_MAJOR 0
#define FT_VERSION_MINOR 1
#define FT_VERSION_PATCH 0

/* ---- status and errors ----------------------------------------------------------------------- */

#define FT_STATUS_LIST(X)                                                                          \
    X(FT_OK, "ok")                                                                                 \
    X(FT_ARG, "argument out of range")                                                             \
    X(FT_NOMEM, "not enough memory")                                                               \
    X(FT_IO, "input or output failed")                                                             \
    X(FT_FORMAT, "malformed data")                                                                 \
    X(FT_UNSUP, "not supported")                                                                   \
    X(FT_LIMIT, "beyond a limit")                                                                  \
    X(FT_MISMATCH, "models do not belong together")                                                \
    X(FT_CANCELLED, "cancelled")                                                                   \
    X(FT_INTERNAL, "internal failure")

typedef enum ft_status {
#define FT_STATUS_ENUM(name, text) name,
    FT_STATUS_LIST(FT_STATUS_ENUM)
#undef FT_STATUS_ENUM
} ft_status;

struct ft_error {
    ft_status code;
    uint64_t where; /* byte offset, token index or 0 */
    char text[240]; /* one line: the thing, the value found, what was expected */
};

/* ft_status_text - the fixed English text of a status; never NULL. */
FT_API const char *ft_status_text(ft_status status);

/* ft_version - "major.minor.patch" of the library that runs. */
FT_API const char *ft_version(void);
/* ft_kernel_table - the variant of our kernels that this machine runs: "ref", "avx2", "avx512"... */
FT_API const char *ft_kernel_table(void);

enum ft_log_level { FT_LOG_DEBUG, FT_LOG_INFO, FT_LOG_WARN, FT_LOG_ERROR };
typedef void (*ft_log_fn)(enum ft_log_level level, const char *text, void *user);

/* ft_log_set - where log lines of the library and of ggml go; fn NULL drops them (the default).
 * Thread     call before any other function; the callback may be called from any thread */
FT_API void ft_log_set(ft_log_fn fn, void *user);

typedef int32_t ft_token;
typedef int32_t ft_pos; /* where a token stands in the text: what RoPE sees */

/* ---- models ---------------------------------------------------------------------------------- */

typedef struct ft_model ft_model;

enum ft_load {
    FT_LOAD_FULL,  /* weights mapped, repacked where ggml offers that */
    FT_LOAD_PLAIN, /* weights mapped, never repacked: what is_exact sessions need */
    FT_LOAD_VOCAB, /* header and vocabulary only: tokens, templates, sizes, estimates */
};

struct ft_model_info {
    const char *path, *name, *arch, *file_type; /* borrowed until close; name may be "" */
    char fingerprint[65];  /* SHA-256 of header and tensor table, lower-case hex */
    uint64_t file_bytes;   /* all split files together */
    uint64_t tensor_bytes; /* weights as stored */
    /* of these, copied once into a faster layout (FT_LOAD_VOCAB: would be) */
    uint64_t repacked_bytes;
    /* what weights then take: a copy lets its mapped pages go, a tied head's stay */
    uint64_t resident_bytes;
    uint64_t n_param; /* weights, counted */
    uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
    uint32_t n_vocab_real; /* ids below this may be sampled; the rest is a padded tail */
    uint32_t n_ctx_train;
    bool has_chat_template, has_bos;
};

/* ft_model_open - open a GGUF file (the first of a split set opens all of them).
 *
 *   out      the caller closes it with ft_model_close
 * Errors     FT_IO (missing), FT_FORMAT (damaged or lying header), FT_UNSUP (architecture, key),
 *            FT_NOMEM */
FT_API ft_status ft_model_open(const char *path, enum ft_load load, ft_model **out,
                               struct ft_error *err);
FT_API void ft_model_close(ft_model *model); /* NULL is a no-op; no session may use it any more */
FT_API void ft_model_info(const ft_model *model, struct ft_model_info *out);

/* ft_pair_check - may this draft serve this target?  Token ids must be shared, up to a padded tail.
 * Errors     FT_MISMATCH naming the first id that differs (also in err->where) */
FT_API ft_status ft_pair_check(const ft_model *target, const ft_model *draft, struct ft_error *err);

/* ---- text ------------------------------------------------------------------------------------ */

struct ft_tokens {
    ft_token *id; /* [n] caller frees with ft_tokens_free */
    uint32_t n;
};

enum ft_tokenize {
    FT_TOKENIZE_BOS = 1,     /* add what the model adds in front (BOS) */
    FT_TOKENIZE_SPECIAL = 2, /* text such as <|im_start|> becomes its special token */
};

/* ft_tokenize - text to ids.
 *   flags    a union of enum ft_tokenize
 * Errors     FT_FORMAT when the text is not UTF-8 (err->where = byte), FT_LIMIT beyond INT32_MAX
 *            bytes, FT_NOMEM */
FT_API ft_status ft_tokenize(const ft_model *model, const char *text, size_t n_byte, unsigned flags,
                             struct ft_tokens *out, struct ft_error *err);
FT_API void ft_tokens_free(struct ft_tokens *tokens);

/* ft_token_piece - the bytes of one token; may be a part of a UTF-8 character.
 *   special  whether control tokens have a text or are empty
 *   ->       the length; nothing is written when it exceeds cap; 0 for an id out of range */
FT_API size_t ft_token_piece(const ft_model *model, ft_token id, bool special, char *buf,
                             size_t cap);

/* ft_token_is_end - whether generation stops at this id. */
FT_API bool ft_token_is_end(const ft_model *model, ft_token id);

/* ft_chat_render - user text (and system text, may be NULL) through the model's chat template.
 *   out          NUL-terminated; the caller frees it with ft_text_free
 *   n_head_byte  bytes in front of the user's text: the system header; may be NULL
 * Errors         FT_UNSUP when the file has no template or libllama does not know it */
FT_API ft_status ft_chat_render(const ft_model *model, const char *system, const char *user,
                                char **out, size_t *n_head_byte, struct ft_error *err);
FT_API void ft_text_free(char *text);

/* A stream turns token bytes into text that may be shown: complete UTF-8 only, stop strings
 * withheld. */
typedef struct ft_stream ft_stream;
FT_API ft_status ft_stream_new(const char *const *stop, uint32_t n_stop, ft_stream **out,
                               struct ft_error *err);
FT_API void ft_stream_free(ft_stream *stream);
/* ft_stream_push - feed bytes; *text [*n] is borrowed until the next call; *stopped once a stop
 * string was seen.
 * bytes NULL flushes: an incomplete character at the very end becomes U+FFFD.
 * Errors     FT_NOMEM, FT_LIMIT (too many bytes at once); nothing has changed */
FT_API ft_status ft_stream_push(ft_stream *stream, const char *bytes, size_t n_byte,
                                const char **text, size_t *n, bool *stopped);

/* ---- methods --------------------------------------------------------------------------------- */

enum ft_stage { FT_STAGE_PROMPT, FT_STAGE_KV };

struct ft_param_info {
    const char *name, *type, *initial, *range, *help; /* as text, for help and documents */
};
struct ft_method_info {
    const char *name, *title, *paper, *file;
    enum ft_stage stage;
    /* any draft; a draft that writes tokens (not self:layers) */
    bool needs_draft, needs_draft_text;
    uint32_t n_param;
    const struct ft_param_info *param; /* [n_param] */
};
FT_API uint32_t ft_method_count(void); /* how many methods ft_method_info knows */
FT_API const struct ft_method_info *ft_method_info(uint32_t index); /* NULL when out of range */

/* ft_kv_type_check - how KV rows are stored: "f32", "f16", "bf16", "q8_0"; packed in blocks of 64 rows
 * once they are old enough: "q8", "q4", "q2", "k4v2", "kvq"; or settings, also behind a name:
 * "k=q4,v=q2,group=64,residual=64" (docs/KV.md has them all).  NULL is "f16".
 * Errors     FT_ARG that says what there is, where = byte of spec */
FT_API ft_status ft_kv_type_check(const char *spec, struct ft_error *err);
FT_API const char *ft_kv_type_name(uint32_t index); /* "f32", ... "k4v2"; NULL when out of range */
/* ft_kv_check - does a KV method go with rows that are stored so?  What the size of a model's heads
 * has to say about a format is not asked.
 * Errors     those of ft_method_check and ft_kv_type_check; FT_ARG as ft_session_prompt has it */
FT_API ft_status ft_kv_check(const char *kv, const char *kv_type, struct ft_error *err);

struct ft_kv_layer { /* what a kv type gives one layer; bits 0: rows as they are */
    double k_norm, v_norm; /* of the weights (kvq); 0: not asked, or there are none */
    uint32_t k_bits, v_bits, k_group, v_group;
};
/* ft_kv_type_layers - a kv type against a model.
 *   out      [n_layer]
 * Errors     FT_ARG, FT_NOMEM, FT_UNSUP */
FT_API ft_status ft_kv_type_layers(const ft_model *model, const char *spec, struct ft_kv_layer *out,
                                   struct ft_error *err);

/* ft_method_check - parse "name" or "name:key=value,..." for a stage without running anything.
 *   spec     NULL or "dense" is always accepted
 *   info     may be NULL
 * Errors     FT_ARG that lists what there is */
FT_API ft_status ft_method_check(enum ft_stage stage, const char *spec,
                                 const struct ft_method_info **info, struct ft_error *err);

/* ---- sessions ---------------------------------------------------------------------------------
 *
 *     struct ft_session_params p = ft_session_defaults();
 *     p.kv = "speckv:keep=256";
 *     ft_session *s;
 *     if (ft_session_new(target, draft, &p, &s, &err) == FT_OK &&
 *         ft_session_prompt(s, tokens.id, tokens.n, 0, &err) == FT_OK) {
 *         ft_token id;
 *         while (ft_session_next(s, &id, &err) == FT_OK && !ft_token_is_end(target, id)) show(id);
 *     }
 */

typedef struct ft_session ft_session;

struct ft_logit_bias {
    ft_token id;
    float bias; /* added to the raw logit; -INFINITY forbids */
};

struct ft_sampling {
    float temperature;    /* 0: greedy, the lowest id wins a tie */
    uint32_t top_k;       /* 0: off */
    float top_p, min_p;   /* 1 and 0: off */
    float repeat_penalty; /* 1: off */
    /* latest tokens that the penalty counts, the prompt's included, dropped ones too */
    uint32_t repeat_last_n;
    uint64_t seed;
    const struct ft_logit_bias *bias; /* [n_bias] copied by ft_session_new */
    uint32_t n_bias;
    const char *grammar; /* GBNF, root rule "root"; NULL: none; copied */
};

enum ft_phase { FT_PHASE_DRAFT, FT_PHASE_PREFILL };
/* done and total count tokens x layers of the phase; observes only */
typedef void (*ft_progress_fn)(enum ft_phase phase, uint64_t done, uint64_t total, void *user);

struct ft_session_params {
    const char *prompt;   /* prompt method, NULL or "dense": none; copied */
    const char *kv;       /* KV method, likewise; copied */
    const char *kv_type;  /* as ft_kv_type_check takes it; NULL: "f16"; copied */
    uint32_t self_layers; /* > 0: the target's first layers are the draft (draft must be NULL) */
    uint32_t n_predict;   /* most tokens that will be asked for */
    /* 0: as many as the prompt and n_predict need, at most what was trained */
    uint32_t n_ctx;
    uint32_t n_thread; /* at most 256; 0: the machine's cores, as far as that goes */
    bool is_exact;     /* stock attention, F32 rows; the model must be FT_LOAD_PLAIN */
    bool is_strict;    /* a fallback is an error */
    /* the KV stage's scores are kept for ft_session_kv_scores: 4 bytes per row, KV head and layer */
    bool is_kv_scored;
    /* compare the expected time to the first token with a dense run's, and run dense where drafting
     * does not pay.  With neither prompt nor kv, and a draft, the plan is "specpc".  It goes by
     * measured time, so two equal runs may choose differently; each choice is a reproducible run. */
    bool is_auto;
    /* > 1: linear RoPE scaling, extends the trained context by this factor; 0: off */
    float rope_scale;
    struct ft_sampling sampling;
    ft_progress_fn progress; /* may be NULL */
    void *progress_user;
};
FT_API struct ft_session_params ft_session_defaults(void); /* what the program uses without flags */

/* ft_session_new - check parameters, pair and method; nothing is computed yet.
 *
 *   target, draft   borrowed until ft_session_free; draft may be NULL
 * Errors            FT_ARG, FT_UNSUP, FT_MISMATCH, FT_NOMEM */
FT_API ft_status ft_session_new(const ft_model *target, const ft_model *draft,
                                const struct ft_session_params *params, ft_session **out,
                                struct ft_error *err);
FT_API void ft_session_free(ft_session *session);

/* ft_session_prompt - read a whole prompt: draft, score, keep, prefill.  Starts the timeline anew.
 *
 *   id       [n] token ids, n >= 1
 *   n_head   leading tokens that prompt compression must keep (system header); BOS is always kept
 * Errors     FT_ARG (empty, id out of range), FT_LIMIT (beyond the trained context; protected >
 *            keep), FT_NOMEM, FT_CANCELLED; the session can be given another prompt afterwards */
FT_API ft_status ft_session_prompt(ft_session *session, const ft_token *id, uint32_t n,
                                   uint32_t n_head, struct ft_error *err);

/* ft_session_prompt_shared - the same for several sessions at once: those of `other` that ask for the same
 * votes, methods that differ in how many rows stay above all, take their rows out of this session's
 * prefill.  What they hold and draw has the same bits as behind a ft_session_prompt of their own.
 *
 *   other      [n_other] none of them the session itself; of the same models
 *   is_shared  [n_other] out: has this one read the prompt too?  The others have none
 * Errors       those of ft_session_prompt; then none of them has a prompt.  What would be an error of one
 *              of `other` alone leaves it out
 * Cancel       ft_session_cancel of the first one */
FT_API ft_status ft_session_prompt_shared(ft_session *session, ft_session *const *other,
                                          uint32_t n_other, bool *is_shared, const ft_token *id,
                                          uint32_t n, uint32_t n_head, struct ft_error *err);

/* ft_session_next - draw the next token from the current distribution (evaluating the one before
 * it).
 * Errors     FT_LIMIT when n_predict or the context is used up; FT_ARG without a prompt, or where
 *            grammar and bias leave no token to draw: the timeline stays.  FT_CANCELLED, FT_NOMEM
 *            and FT_INTERNAL while evaluating end it: only another prompt goes on */
FT_API ft_status ft_session_next(ft_session *session, ft_token *id, struct ft_error *err);

/* ft_session_feed - append given tokens instead of drawn ones (teacher forcing).  They count
 * against n_predict and
 * for the repeat penalty; a grammar does not see them.
 *   logits   NULL, or [n][n_vocab]: raw logits after each token; undefined on failure
 * Errors     FT_ARG (n is 0, id out of range, no prompt), FT_LIMIT (more than is left): the
 *            timeline stays; otherwise as ft_session_next */
FT_API ft_status ft_session_feed(ft_session *session, const ft_token *id, uint32_t n, float *logits,
                                 struct ft_error *err);

/* ft_session_repeat - for measurement: bring the cache to a depth without reading that many tokens.
 * The rows that a head holds are repeated cyclically at the positions that follow, until every head
 * holds n_row rows.  They count against n_predict like tokens fed; logits and report stay.
 *   n_row    at least what is held already
 * Errors     FT_ARG (no prompt, heads hold different numbers of rows, n_row below what is held),
 *            FT_LIMIT (more than n_predict or the context leaves room for), FT_NOMEM;
 *            nothing has changed */
FT_API ft_status ft_session_repeat(ft_session *session, uint32_t n_row, struct ft_error *err);

/* ft_session_logits - raw logits [n_vocab] of the current position; NULL before a prompt.
 * Owner      the session; valid until its next call */
FT_API const float *ft_session_logits(const ft_session *session);

/* ft_session_cancel - stop at the next graph node; safe from signal handlers and other threads.
 * The flag stays set until the next ft_session_prompt. */
FT_API void ft_session_cancel(ft_session *session);

/* What a model costs on this machine, in microseconds; ft_rates_measure fills it.  Reading is an
 * amount per token and a share per pair of query and visible row; a step of decoding is an amount
 * per layer and one per row. */
struct ft_rates {
    uint32_t n_layer;
    double n_weight; /* weights that a token meets in all layers, output matrix not counted */
    /* of a layer's weights: q, k, v, output projection, feed-forward; their sum is 1 */
    double share_q, share_k, share_v, share_o, share_f;
    double token_us; /* one token more through the matrices of one layer */
    double pass_us;  /* one layer's pass over a chunk of tokens, however few */
    /* one query and one row that it sees, all heads of one layer: near and far in the text */
    double pair_us[2];
    double pair_row[2];     /* where that was: rows in front */
    double step_us, row_us; /* decoding: one layer; one row more in one layer */
    double head_us;         /* logits of one token */
    int64_t measure_us;     /* what measuring took */
};

/* What a run is expected to take. */
struct ft_expect {
    int64_t draft_us, target_us; /* reading the prompt, with scoring; draft: writing text too */
    int64_t ttft_us;             /* both: to the first logits */
    int64_t answer_us;           /* to the last of n_predict tokens */
    bool is_dropping;            /* tokens or rows are dropped: not a dense run */
};

struct ft_auto {      /* the choice of a session with is_auto */
    bool is_on;       /* false: nothing below was touched */
    bool is_dense;    /* chosen; otherwise what was asked for */
    bool is_measured; /* rates were taken, expectations are known */
    struct ft_expect dense, plan;
    struct ft_rates target, draft; /* draft of self:layers=K: the target's, K layers */
    int64_t measure_us;            /* part of ttft_us */
    char text[240];                /* the choice in one line, with the reason */
};

struct ft_setting {
    char stage[8]; /* "prompt" or "kv" */
    char name[24], value[24];
    bool is_number;
};
enum { FT_SETTING_CAP = 40, FT_FALLBACK_CAP = 16 };
/* ft_method_setting - parameter `index` of those that apply to a spec, defaults included, before
 * anything runs; the report of a session has them as used.
 *   out      a default that depends on the run reads as its rule ("32 (8 if keep < 64)")
 *   ->       false past the end, or when ft_method_check refuses the spec */
FT_API bool ft_method_setting(enum ft_stage stage, const char *spec, uint32_t index,
                              struct ft_setting *out);
/* ft_kv_type_setting - setting `index` of those that apply to a format: k and v, where one of them
 * is packed k_by, k_group, v_by, v_group, residual and rows, then rotate; stage is "kv".
 *   head_dim   of the model: groups that nobody named follow it
 *   ->         false past the end, or when the format is refused, also for heads of that size */
FT_API bool ft_kv_type_setting(const char *spec, uint32_t head_dim, uint32_t index,
                               struct ft_setting *out);

struct ft_report {             /* what happened to the last prompt, measured */
    uint32_t n_prompt, n_kept; /* prompt tokens given; tokens the target read */
    uint32_t n_kv_kept;        /* prompt rows per KV head after prefill (largest head) */
    /* tokens drawn; tokens written ahead, by the draft or (laq) by the target */
    uint32_t n_generated, n_draft_text;
    /* K and V of all prompt tokens in all layers, as a dense run stores them */
    uint64_t kv_bytes_full;
    uint64_t kv_bytes;     /* rows held after prefill, with what a method stores beside them */
    uint64_t kv_bytes_now; /* the same at this moment, the answer's rows included */
    /* of kv_bytes, what is neither K nor V: scores of rows, copies of keys to rotate anew */
    uint64_t kv_state_bytes;
    uint64_t n_evicted;     /* rows of KV heads that left while the answer grew */
    uint64_t kv_bytes_peak; /* most held at any moment, staging included */
    uint64_t draft_kv_bytes_peak, activation_bytes_peak, compute_bytes_peak;
    /* ttft: prompt given to first logits; draft: reading and writing ahead, (laq) by the target */
    int64_t draft_us, score_us, prefill_us, ttft_us, decode_us;
    /* 0, or how many sessions read the prompt together: times are then what one of them would have
     * taken, its own decisions beside what all have in common */
    uint32_t n_shared;
    int64_t pack_us; /* of prefill_us (laq: of score_us): quantising the prompt's rows */
    /* as run: "dense" when nothing had to be dropped */
    const char *prompt_method, *kv_method;
    uint32_t n_setting, n_fallback;
    struct ft_setting setting[FT_SETTING_CAP]; /* every parameter as used */
    char fallback[FT_FALLBACK_CAP][160];       /* every silent-choice candidate, said aloud */
    /* "attend=avx512bf16 mass=avx512bf16 prompt=int8:q4_K+q6_K step=rows:q4_K+q6_K" */
    char kernels[256];
    char kv_packing[512]; /* bits of each layer's packed rows, as used; "": rows are not packed */
    struct ft_auto automatic;
    /* most that a dense run could have taken to its first token, scaled from this run's own
     * prefill; 0: nothing was dropped.  A ttft_us above it was slower than dense. */
    int64_t dense_most_us;
};
/* ft_session_report - a copy of what was measured so far. */
FT_API void ft_session_report(const ft_session *session, struct ft_report *out);

/* ft_session_kept - which prompt tokens or rows survived.
 *   prompt stage: indices into the prompt, ascending;  kv stage: positions of (layer, KV head),
 *   ascending
 *   ->       the count; *index is owned by the session until its next call.  0 leaves it untouched:
 *            no prompt was read, or there is no such layer or head */
FT_API uint32_t ft_session_kept(const ft_session *session, enum ft_stage stage, uint32_t layer,
                                uint32_t head, const uint32_t **index);

/* ft_session_scores - the numbers that the prompt stage ranked the prompt's tokens by, [n_prompt],
 * higher = more important.
 *   ->       the count; *score is owned by the session until its next prompt.  0 leaves it untouched:
 *            no prompt was read, or its prompt stage had nothing to drop */
FT_API uint32_t ft_session_scores(const ft_session *session, const float **score);

/* ft_session_kv_scores - the numbers that the KV stage ranked the rows of (layer, KV head) by, with
 * is_kv_scored: score j is that of the j-th token that the target read.  The last ones, which stay
 * whatever their score, have none.
 *   ->       the count; *score is owned by the session until its next prompt.  0 leaves it untouched:
 *            no prompt was read, its KV stage had nothing to drop, or there is no such layer or head */
FT_API uint32_t ft_session_kv_scores(const ft_session *session, uint32_t layer, uint32_t head,
                                     const float **score);

/* ---- looking before leaping ------------------------------------------------------------------ */

struct ft_estimate {
    uint64_t weights_bytes, draft_weights_bytes; /* resident once loaded */
    uint64_t kv_bytes, kv_bytes_peak, draft_kv_bytes_peak, activation_bytes, compute_bytes;
    uint64_t total_bytes;     /* the peak of a run */
    uint64_t available_bytes; /* the least of MemAvailable, cgroup limit, RLIMIT_AS */
    bool fits;
    char why[200]; /* "" when it fits */
};
/* ft_estimate - memory that a run would take, from headers alone (FT_LOAD_VOCAB suffices).
 *   draft    as for ft_session_new        n_prompt  tokens of the prompt, >= 1
 * Errors     those of ft_session_new and ft_session_prompt that need no weights */
FT_API ft_status ft_estimate(const ft_model *target, const ft_model *draft,
                             const struct ft_session_params *params, uint32_t n_prompt,
                             struct ft_estimate *out, struct ft_error *err);

/* ft_rates_measure - read and decode a few tokens in a layer or two of a model, and take the time.
 *
 *   params     of the session meant: threads, kv_type, is_exact, rope_scale
 *   n_row      attention is measured up to this many rows (at most 8192)
 *   budget_us  what measuring may take, roughly; the least it can take is some ten graphs of a
 *              layer.  With less, fewer tokens are read and the figures are rougher
 * Errors       FT_ARG (a model opened for its vocabulary), FT_NOMEM */
FT_API ft_status ft_rates_measure(const ft_model *model, const struct ft_session_params *params,
                                  uint32_t n_row, int64_t budget_us, struct ft_rates *out,
                                  struct ft_error *err);

/* ft_rates_scaled - a model that does not exist: `ratio` times the weights of a measured one.
 * Matrices cost in proportion; attention, which grows with layers x heads x head size, costs
 * ratio^exponent (2/3 where depth and width grow alike).  What a graph costs by itself stays. */
FT_API struct ft_rates ft_rates_scaled(const struct ft_rates *rates, double ratio, double exponent);

/* ft_expect_run - the time that a run with these parameters would take; no weights are touched.
 *
 *   draft      rates of the draft, or NULL when no method needs one
 * Trained contexts are not looked at: a table may go beyond them.
 * Errors     those of ft_session_new and ft_session_prompt that need no weights */
FT_API ft_status ft_expect_run(const ft_model *target, const struct ft_session_params *params,
                               uint32_t n_prompt, const struct ft_rates *target_rates,
                               const struct ft_rates *draft_rates, struct ft_expect *out,
                               struct ft_error *err);

/* ---- scoring on the caller's own arrays ------------------------------------------------------ */

struct ft_score_layer {
    const float *q; /* [n_head][n_q][d] already rotated */
    const float *k; /* [n_head_kv][n_q][d] already rotated */
};
struct ft_score_input {
    uint32_t n_prompt, n_more; /* n_q = n_prompt + n_more: lookahead (kv) or decode rows (prompt) */
    uint32_t n_layer, n_head, n_head_kv, d;
    const struct ft_score_layer *layer; /* [n_layer] */
    /* [n_prompt]: prompt stage, selection alone; then layer is NULL */
    const float *score;
};
struct ft_score_head {       /* one KV head, or the whole prompt stage */
    float *mass, *pooled;    /* [n_mass] (prompt stage: the score) */
    uint32_t *ranked, *kept; /* [n_ranked] best first; [n_kept] ascending positions */
    uint32_t n_mass, n_ranked, n_kept;
};
struct ft_score_output {
    uint32_t n_head; /* n_layer * n_head_kv for kv, layer-major; 1 for prompt */
    struct ft_score_head *head;
};
/* ft_score_arrays - run a method's own scoring and selection in fp32; out: free with
 * ft_score_free. */
FT_API ft_status ft_score_arrays(enum ft_stage stage, const char *spec,
                                 const struct ft_score_input *in, struct ft_score_output *out,
                                 struct ft_error *err);
FT_API void ft_score_free(struct ft_score_output *out);

/* ---- the peer: libllama's own engine, for side-by-side measurement only ---------------------- */

typedef struct ft_peer ft_peer;
/* ft_peer_open - load a model in libllama with its default settings (flash attention, repacked
 * weights). */
FT_API ft_status ft_peer_open(const char *path, uint32_t n_ctx, uint32_t n_thread,
                              const char *kv_type, ft_peer **out, struct ft_error *err);
FT_API void ft_peer_close(ft_peer *peer);
struct ft_peer_report {
    int64_t prefill_us; /* n tokens, up to the first logits */
    int64_t decode_us;  /* n_predict tokens, the first from those logits */
    uint64_t kv_bytes;  /* what its cache holds at the end, n_predict cells counted */
    uint32_t n_row;     /* cells it held before id was read */
};
/* ft_peer_run - clear the cache, prefill id[n], decode n_predict greedy tokens into out.
 * Errors     FT_ARG (id out of range), FT_LIMIT (more than n_ctx), FT_INTERNAL */
FT_API ft_status ft_peer_run(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                             ft_token *out, struct ft_peer_report *report, struct ft_error *err);
/* ft_peer_fill - clear the cache and bring it to n_row rows by copies, as ft_session_repeat does:
 * read id[n], then repeat its rows cyclically.  n_row 0 leaves it empty; below n only that many
 * tokens are read.
 * Errors     FT_ARG (id out of range), FT_LIMIT (n is 0, more than n_ctx), FT_NOMEM, FT_INTERNAL;
 *            the cache is empty then */
FT_API ft_status ft_peer_fill(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_row,
                              struct ft_error *err);
/* ft_peer_continue - ft_peer_run behind what the cache holds. */
FT_API ft_status ft_peer_continue(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_predict,
                                  ft_token *out, struct ft_peer_report *report,
                                  struct ft_error *err);

#ifdef __cplusplus
}
#endif
#endif
