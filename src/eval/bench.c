/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - how fast, side by side: every round runs every row once, medians over rounds.
 *
 * Rounds are interleaved so that a busy minute of the machine meets every row alike; one round in
 * front warms caches and is not counted.  What other processes used of the CPUs is measured too.
 *
 *   prefill   from the prompt to its first logits: draft, scoring and target together
 *   decode    n_predict tokens, of which n_predict - 1 are evaluated
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "eval/eval.h"

struct sample {
    double prefill_tok_s, ttft_ms, decode_tok_s;
};

struct run {
    const struct ft_bench_params *params;
    ft_peer *peer;
    ft_token *written;     /* [n_predict] */
    struct sample *sample; /* [n_row][n_repeat] */
    struct ft_bench_row *row;
};

/* ---- one measurement ---- */

static double rate(double n, double us) {
    return us > 0 ? n * 1e6 / us : 0;
}

static void note_report(struct ft_bench_row *row, const struct ft_report *report) {
    row->n_kept = report->n_kept;
    row->kv_bytes = report->kv_bytes;
    row->kv_bytes_peak = FT_MAX(row->kv_bytes_peak, report->kv_bytes_peak);
    row->n_fallback = FT_MIN(report->n_fallback, (uint32_t)FT_FALLBACK_CAP);
    memcpy(row->fallback, report->fallback, sizeof row->fallback);
    memcpy(row->kernels, report->kernels, sizeof row->kernels);
}

static ft_status measure_ours(struct run *run, const struct ft_bench_case *which, uint32_t n,
                              struct ft_bench_row *row, struct sample *out,
                              struct ft_error *error) {
    const struct ft_bench_params *params = run->params;
    struct ft_session_params session_params = *params->session;
    struct ft_report report;
    ft_session *session = NULL;
    session_params.prompt = which->prompt;
    session_params.kv = which->kv;
    session_params.n_ctx = 0;
    FT_TRY(ft_session_new(params->target, params->draft, &session_params, &session, error));
    params->guard(session);
    int64_t start = ft_time_us();
    ft_status status = ft_session_prompt(session, params->id, n, 0, error);
    int64_t read_us = ft_time_us() - start;
    start = ft_time_us();
    for (uint32_t i = 0; status == FT_OK && i < session_params.n_predict; i++) {
        status = ft_session_next(session, &run->written[i], error);
    }
    if (status == FT_LIMIT && ft_session_logits(session)) { /* the prompt was read */
        struct ft_error full = *error;
        ft_fail(error, FT_LIMIT, 0, "a prompt of %" PRIu32 " tokens and %" PRIu32 " more: %s", n,
                session_params.n_predict, full.text);
    }
    int64_t decode_us = ft_time_us() - start;
    params->guard(NULL);
    if (status == FT_OK) {
        ft_session_report(session, &report);
        note_report(row, &report);
        out->ttft_ms = (double)read_us / 1e3;
        out->prefill_tok_s = rate(n, (double)read_us);
        out->decode_tok_s = rate(session_params.n_predict - 1.0, (double)decode_us);
    }
    ft_session_free(session);
    return status;
}

static ft_status measure_peer(struct run *run, uint32_t n, struct ft_bench_row *row,
                              struct sample *out, struct ft_error *error) {
    uint32_t n_predict = run->params->session->n_predict;
    struct ft_peer_report report;
    FT_TRY(ft_peer_run(run->peer, run->params->id, n, n_predict, run->written, &report, error));
    row->n_kept = n;
    row->kv_bytes = row->kv_bytes_peak = report.kv_bytes;
    out->ttft_ms = (double)report.prefill_us / 1e3;
    out->prefill_tok_s = rate(n, (double)report.prefill_us);
    out->decode_tok_s = rate(n_predict - 1.0, (double)report.decode_us);
    return FT_OK;
}

/* ---- rounds ---- */

static uint32_t rows_per_length(const struct ft_bench_params *params) {
    return params->n_case + (params->peer_path ? 1 : 0);
}

uint32_t ft_bench_rows(const struct ft_bench_params *params) {
    return params->n_length * rows_per_length(params);
}

/* round_run - every row once; round 0 is the warm-up. */
static ft_status round_run(struct run *run, uint32_t round, struct ft_error *error) {
    const struct ft_bench_params *params = run->params;
    uint32_t per_length = rows_per_length(params), n_row = ft_bench_rows(params);
    for (uint32_t i = 0; i < n_row; i++) {
        uint32_t which = i % per_length;
        struct ft_bench_row *row = &run->row[i];
        struct sample sample = { 0 };
        if (params->step) {
            params->step(round * n_row + i, (params->n_repeat + 1) * n_row, row->engine,
                         row->method, row->n_prompt, params->user);
        }
        if (which < params->n_case) {
            FT_TRY(measure_ours(run, &params->cases[which], row->n_prompt, row, &sample, error));
        } else {
            FT_TRY(measure_peer(run, row->n_prompt, row, &sample, error));
        }
        if (round > 0) {
            run->sample[(size_t)i * params->n_repeat + round - 1] = sample;
        }
    }
    return FT_OK;
}

static void conclude(struct run *run, double *work) {
    uint32_t n = run->params->n_repeat, n_row = ft_bench_rows(run->params);
    for (uint32_t i = 0; i < n_row; i++) {
        const struct sample *sample = run->sample + (size_t)i * n;
        for (uint32_t r = 0; r < n; r++) {
            work[r] = sample[r].prefill_tok_s;
        }
        run->row[i].prefill_tok_s = ft_spread_of(work, n);
        for (uint32_t r = 0; r < n; r++) {
            work[r] = sample[r].ttft_ms;
        }
        run->row[i].ttft_ms = ft_spread_of(work, n);
        for (uint32_t r = 0; r < n; r++) {
            work[r] = sample[r].decode_tok_s;
        }
        run->row[i].decode_tok_s = ft_spread_of(work, n);
        run->row[i].n_repeat = n;
    }
}

static ft_status run_rounds(struct run *run, double *foreign_cpu, struct ft_error *error) {
    struct ft_host_use start = { 0 };
    for (uint32_t round = 0; round <= run->params->n_repeat; round++) {
        FT_TRY(round_run(run, round, error));
        if (round == 0 && !ft_host_use_read(&start)) {
            start.at_s = 0;
        }
    }
    *foreign_cpu = ft_host_foreign(&start);
    return FT_OK;
}

static void name_rows(const struct ft_bench_params *params, struct ft_bench_row *row) {
    uint32_t per_length = rows_per_length(params);
    for (uint32_t i = 0; i < ft_bench_rows(params); i++) {
        uint32_t which = i % per_length;
        bool is_peer = which == params->n_case;
        row[i] = (struct ft_bench_row){ .engine = is_peer ? "libllama" : "foretoken",
                                        .method = is_peer ? "dense" : params->cases[which].label,
                                        .n_prompt = params->n_prompt[i / per_length] };
    }
}

ft_status ft_bench_run(const struct ft_bench_params *params, struct ft_bench_row *row,
                       double *foreign_cpu, struct ft_error *error) {
    uint32_t n_row = ft_bench_rows(params), longest = 0, n_predict = params->session->n_predict;
    struct run run = { .params = params, .row = row };
    double *work = ft_alloc(params->n_repeat, sizeof *work);
    ft_status status = FT_OK;
    for (uint32_t i = 0; i < params->n_length; i++) {
        longest = FT_MAX(longest, params->n_prompt[i]);
    }
    name_rows(params, row);
    run.written = ft_alloc(n_predict, sizeof *run.written);
    run.sample = ft_alloc((size_t)n_row * params->n_repeat, sizeof *run.sample);
    if (!run.written || !run.sample || !work) {
        status = ft_fail(error, FT_NOMEM, 0, "no memory for %" PRIu32 " rows of results", n_row);
    }
    if (status == FT_OK && params->peer_path) {
        status = ft_peer_open(params->peer_path, longest + n_predict, params->session->n_thread,
                              params->session->kv_type, &run.peer, error);
    }
    if (status == FT_OK) {
        status = run_rounds(&run, foreign_cpu, error);
    }
    if (status == FT_OK) {
        conclude(&run, work);
    }
    ft_peer_close(run.peer);
    ft_free(run.written);
    ft_free(run.sample);
    ft_free(work);
    return status;
}

/* ---- statistics ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct ft_spread ft_spread_of(double *value, uint32_t n) {
    qsort(value, n, sizeof *value, by_value);
    double middle = n % 2 == 1 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2;
    return (struct ft_spread){ .median = middle, .low = value[0], .high = value[n - 1] };
}

/* ---- prompts ---- */

ft_status ft_bench_prompt(const ft_model *model, uint64_t seed, uint32_t n, ft_token *id,
                          struct ft_error *error) {
    struct ft_model_info info;
    struct ft_tokens head = { 0 };
    char piece[8];
    uint32_t done = 0;
    ft_model_info(model, &info);
    FT_TRY(ft_tokenize(model, "", 0, FT_TOKENIZE_BOS, &head, error));
    for (; done < n && done < head.n; done++) {
        id[done] = head.id[done];
    }
    ft_tokens_free(&head);
    for (uint64_t draw = 0; done < n; draw++) {
        if (draw > 1000 + 1000 * (uint64_t)n) {
            return ft_fail(error, FT_FORMAT, 0,
                           "the vocabulary has hardly any pieces of text to draw from");
        }
        ft_token candidate = (ft_token)(ft_rng_value(seed, 0, 0, draw) % info.n_vocab_real);
        /* Control tokens have no text: a prompt of ordinary pieces holds none of them. */
        if (ft_token_piece(model, candidate, false, piece, sizeof piece) > 0 &&
            !ft_token_is_end(model, candidate)) {
            id[done++] = candidate;
        }
    }
    return FT_OK;
}
