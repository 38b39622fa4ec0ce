/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - how fast, side by side: every round runs every row once, medians over rounds.
 *
 * Rounds are interleaved so that a busy minute of the machine meets every row alike.  In front each
 * model reads the beginning of the prompt, which warms caches and is not counted.  What other
 * processes used of the CPUs is measured too.
 *
 *   prefill   from the prompt to its first logits: draft, scoring and target together
 *   decode    n_predict tokens, of which n_predict - 1 are evaluated
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "eval/eval.h"

enum { WARM_TOKEN = 2048, WARM_PEER = 64 };

/* of a row's numbers: what stands where in a sample */
enum { PREFILL_TOK_S, TTFT_MS, DECODE_TOK_S, DRAFT_MS, SCORE_MS, PREFILL_MS, PACK_MS, VALUE_COUNT };

struct sample {
    double value[VALUE_COUNT];
};

struct run {
    const struct ft_bench_params *params;
    uint32_t longest;      /* prompt */
    ft_token *written;     /* [n_predict] */
    struct sample *sample; /* [n_row][n_repeat] */
    struct ft_bench_row *row;
};

/* ---- one measurement ---- */

const char *ft_case_kv_type(const struct ft_bench_case *method,
                            const struct ft_session_params *session) {
    const char *asked = method->kv_type ? method->kv_type : session->kv_type;
    return asked ? asked : session->is_exact ? "f32" : "f16";
}

static double rate(double n, double us) {
    return us > 0 ? n * 1e6 / us : 0;
}

static void note_report(struct ft_bench_row *row, const struct ft_report *report) {
    row->n_kept = report->n_kept;
    row->kv_bytes = report->kv_bytes;
    row->kv_bytes_peak = FT_MAX(row->kv_bytes_peak, report->kv_bytes_peak);
    row->draft_kv_bytes_peak = FT_MAX(row->draft_kv_bytes_peak, report->draft_kv_bytes_peak);
    row->n_fallback = FT_MIN(report->n_fallback, (uint32_t)FT_FALLBACK_CAP);
    memcpy(row->fallback, report->fallback, sizeof row->fallback);
    memcpy(row->kernels, report->kernels, sizeof row->kernels);
    memcpy(row->kv_packing, report->kv_packing, sizeof row->kv_packing);
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
    session_params.kv_type = row->kv_type;
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
        out->value[TTFT_MS] = (double)read_us / 1e3;
        out->value[PREFILL_TOK_S] = rate(n, (double)read_us);
        out->value[DECODE_TOK_S] = rate(session_params.n_predict - 1.0, (double)decode_us);
        out->value[DRAFT_MS] = (double)report.draft_us / 1e3;
        out->value[SCORE_MS] = (double)report.score_us / 1e3;
        out->value[PREFILL_MS] = (double)report.prefill_us / 1e3;
        out->value[PACK_MS] = (double)report.pack_us / 1e3;
    }
    ft_session_free(session);
    return status;
}

static ft_status measure_peer(struct run *run, uint32_t n, struct ft_bench_row *row,
                              struct sample *out, struct ft_error *error) {
    const struct ft_session_params *session = run->params->session;
    uint32_t n_predict = session->n_predict;
    struct ft_peer_report report;
    ft_peer *peer = NULL;
    FT_TRY(ft_peer_open(run->params->peer_path, run->longest + n_predict, session->n_thread,
                        session->kv_type, &peer, error));
    ft_status status = ft_peer_run(peer, run->params->id, FT_MIN(n, (uint32_t)WARM_PEER),
                                   FT_MIN(n_predict, 2u), run->written, &report, error);
    if (status == FT_OK) {
        status = ft_peer_run(peer, run->params->id, n, n_predict, run->written, &report, error);
    }
    ft_peer_close(peer);
    FT_TRY(status);
    row->n_kept = n;
    row->kv_bytes = row->kv_bytes_peak = report.kv_bytes;
    out->value[TTFT_MS] = out->value[PREFILL_MS] = (double)report.prefill_us / 1e3;
    out->value[PREFILL_TOK_S] = rate(n, (double)report.prefill_us);
    out->value[DECODE_TOK_S] = rate(n_predict - 1.0, (double)report.decode_us);
    return FT_OK;
}

/* ---- rounds ---- */

static uint32_t rows_per_length(const struct ft_bench_params *params) {
    return params->n_case + (params->peer_path ? 1 : 0);
}

uint32_t ft_bench_rows(const struct ft_bench_params *params) {
    return params->n_length * rows_per_length(params);
}

/* Reads densely: no method has a say, none can refuse a prompt this short. */
static ft_status warm(const struct run *run, const ft_model *model, struct ft_error *error) {
    struct ft_session_params params = *run->params->session;
    ft_session *session = NULL;
    params.prompt = params.kv = NULL;
    params.n_ctx = 0;
    params.n_predict = 1;
    params.is_auto = params.is_strict = false;
    FT_TRY(ft_session_new(model, NULL, &params, &session, error));
    run->params->guard(session);
    ft_status status = ft_session_prompt(session, run->params->id,
                                         FT_MIN(run->longest, (uint32_t)WARM_TOKEN), 0, error);
    run->params->guard(NULL);
    ft_session_free(session);
    return status;
}

/* round_run - every row once. */
static ft_status round_run(struct run *run, uint32_t round, struct ft_error *error) {
    const struct ft_bench_params *params = run->params;
    uint32_t per_length = rows_per_length(params), n_row = ft_bench_rows(params);
    for (uint32_t i = 0; i < n_row; i++) {
        uint32_t which = i % per_length;
        struct ft_bench_row *row = &run->row[i];
        struct sample sample = { 0 };
        bool is_peer = which == params->n_case, has_peak = ft_memory_resident_peak_reset();
        uint64_t before = is_peer ? ft_memory_resident() : 0;
        if (params->step) {
            params->step(round * n_row + i, params->n_repeat * n_row, row->engine, row->method,
                         row->n_prompt, params->user);
        }
        if (is_peer) {
            FT_TRY(measure_peer(run, row->n_prompt, row, &sample, error));
        } else {
            FT_TRY(measure_ours(run, &params->cases[which], row->n_prompt, row, &sample, error));
        }
        uint64_t peak = has_peak ? ft_memory_resident_peak() - before : 0;
        row->resident_peak = FT_MAX(row->resident_peak, peak);
        run->sample[(size_t)i * params->n_repeat + round] = sample;
    }
    return FT_OK;
}

static void conclude(struct run *run, double *work) {
    uint32_t n = run->params->n_repeat, n_row = ft_bench_rows(run->params);
    for (uint32_t i = 0; i < n_row; i++) {
        const struct sample *sample = run->sample + (size_t)i * n;
        struct ft_bench_row *row = &run->row[i];
        struct ft_spread *const spread[VALUE_COUNT] = {
            [PREFILL_TOK_S] = &row->prefill_tok_s,
            [TTFT_MS] = &row->ttft_ms,
            [DECODE_TOK_S] = &row->decode_tok_s,
            [DRAFT_MS] = &row->draft_ms,
            [SCORE_MS] = &row->score_ms,
            [PREFILL_MS] = &row->prefill_ms,
            [PACK_MS] = &row->pack_ms,
        };
        for (uint32_t v = 0; v < VALUE_COUNT; v++) {
            for (uint32_t r = 0; r < n; r++) {
                work[r] = sample[r].value[v];
            }
            *spread[v] = ft_spread_of(work, n);
        }
        row->n_repeat = n;
    }
}

static ft_status run_rounds(struct run *run, double *foreign_cpu, struct ft_error *error) {
    struct ft_host_use start = { 0 };
    FT_TRY(warm(run, run->params->target, error));
    if (run->params->draft) {
        FT_TRY(warm(run, run->params->draft, error));
    }
    if (!ft_host_use_read(&start)) {
        start.at_s = 0;
    }
    for (uint32_t round = 0; round < run->params->n_repeat; round++) {
        FT_TRY(round_run(run, round, error));
    }
    *foreign_cpu = ft_host_foreign(&start);
    return FT_OK;
}

static void name_rows(const struct ft_bench_params *params, struct ft_bench_row *row) {
    uint32_t per_length = rows_per_length(params);
    for (uint32_t i = 0; i < ft_bench_rows(params); i++) {
        uint32_t which = i % per_length;
        bool is_peer = which == params->n_case;
        const struct ft_bench_case peer = { .label = "dense" };
        const struct ft_bench_case *method = is_peer ? &peer : &params->cases[which];
        row[i] = (struct ft_bench_row){ .engine = is_peer ? "libllama" : "foretoken",
                                        .method = method->label,
                                        .kv_type = ft_case_kv_type(method, params->session),
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
    run.longest = longest;
    name_rows(params, row);
    run.written = ft_alloc(n_predict, sizeof *run.written);
    run.sample = ft_alloc((size_t)n_row * params->n_repeat, sizeof *run.sample);
    if (!run.written || !run.sample || !work) {
        status = ft_fail(error, FT_NOMEM, 0, "no memory for %" PRIu32 " rows of results", n_row);
    }
    if (status == FT_OK) {
        status = run_rounds(&run, foreign_cpu, error);
    }
    if (status == FT_OK) {
        conclude(&run, work);
    }
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
