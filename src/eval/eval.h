/* SPDX-License-Identifier: Apache-2.0 */
/* eval.h - measuring loops on the public interface: perplexity and speed. */
#ifndef FT_EVAL_EVAL_H
#define FT_EVAL_EVAL_H

#include "base/base.h"

/* ft_guard_fn - the session that runs from now on, or NULL: what an interrupt has to cancel. */
typedef void (*ft_guard_fn)(ft_session *session);

/* ---- perplexity (ppl.c) ---- */

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

/* ---- speed (bench.c) ---- */

struct ft_bench_case {
    const char *prompt, *kv; /* method specs, NULL: dense */
    const char *label;
};
struct ft_spread {
    double median, low, high;
};
struct ft_bench_row {
    const char *engine, *method;
    uint32_t n_prompt, n_kept, n_repeat;
    struct ft_spread prefill_tok_s; /* prompt tokens over everything before the first logits */
    struct ft_spread ttft_ms, decode_tok_s;
    uint64_t kv_bytes, kv_bytes_peak;
    uint32_t n_fallback;
    char fallback[FT_FALLBACK_CAP][160];
    char kernels[96];
};
struct ft_bench_params {
    const ft_model *target, *draft;
    const struct ft_session_params *session; /* prompt, kv and n_ctx are set here */
    const char *peer_path;                   /* NULL: no libllama rows */
    const struct ft_bench_case *cases;       /* [n_case] */
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

/* ft_bench_run - each round runs every row once, after one round that is not counted.
 *
 *   row          [ft_bench_rows] lengths outermost, the peer behind the cases of its length
 *   foreign_cpu  cores that other processes used meanwhile, on average; < 0: unknown */
ft_status ft_bench_run(const struct ft_bench_params *params, struct ft_bench_row *row,
                       double *foreign_cpu, struct ft_error *error);

/* ft_bench_prompt - what the model adds in front, then ordinary text pieces drawn from a seed.
 *   id       [n] */
ft_status ft_bench_prompt(const ft_model *model, uint64_t seed, uint32_t n, ft_token *id,
                          struct ft_error *error);

#endif
