/* SPDX-License-Identifier: Apache-2.0 */
/* depth.c - speed as the cache fills: n_pp tokens read and n_tg decoded behind `depth` rows.
 *
 *   | FT_DEPTH_BASE tokens read | their rows copied ... | n_pp tokens, timed | n_tg tokens, timed |
 *   0                                                depth
 *
 * Attention costs the same whatever rows hold, so copies stand for a prompt that nobody has to wait
 * for, on both engines.  Depth 0 is a prompt of n_pp tokens.  Engines take turns; before each
 * measurement the threads of the other one are given time to fall asleep.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "eval/eval.h"

enum metric { PREFILL_S, PREFILL_RATE, DECODE_S, DECODE_RATE, DRAM_RATE, METRICS };
enum { SETTLE_MS = 200 }; /* idle workers of a thread pool poll for less than that */

struct run {
    const struct ft_depth_params *params;
    ft_peer *peer;
    struct ft_dram *dram;     /* may be NULL */
    ft_token *written;        /* [n_tg + 1] */
    double (*value)[METRICS]; /* [n_row][n_repeat] */
    struct ft_depth_row *row;
};

static void settle(void) {
    struct timespec pause = { .tv_nsec = SETTLE_MS * 1000000L };
    nanosleep(&pause, NULL);
}

/* Rows of one depth: a format each, then libllama. */
static uint32_t per_depth(const struct ft_depth_params *params) {
    return params->n_kv_type + (params->peer_path ? 1 : 0);
}

/* ---- one measurement ---- */

uint64_t ft_depth_tokens(const struct ft_depth_params *params, uint32_t depth) {
    return (uint64_t)depth + params->n_pp + params->n_tg + 1; /* the last one is only drawn */
}

static ft_status check_logits(const ft_session *session, uint32_t n, struct ft_error *error) {
    const float *logit = ft_session_logits(session);
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(logit[i])) {
            return ft_fail(error, FT_INTERNAL, i, "logit %" PRIu32 " is not finite", i);
        }
    }
    return FT_OK;
}

/* Bring a session to its depth; -> *done tokens of id were used. */
static ft_status fill(ft_session *session, const struct ft_depth_params *params, uint32_t depth,
                      uint32_t *done, struct ft_error *error) {
    *done = FT_MIN(depth, (uint32_t)FT_DEPTH_BASE);
    if (depth == 0) {
        return FT_OK;
    }
    FT_TRY(ft_session_prompt(session, params->id, *done, 0, error));
    return ft_session_repeat(session, depth, error);
}

static ft_status time_session(ft_session *session, const struct run *run, uint32_t depth,
                              int64_t us[2], struct ft_error *error) {
    const struct ft_depth_params *params = run->params;
    uint32_t done;
    FT_TRY(fill(session, params, depth, &done, error));
    settle();
    int64_t start = ft_time_us();
    if (depth == 0) {
        FT_TRY(ft_session_prompt(session, params->id, params->n_pp, 0, error));
    } else {
        FT_TRY(ft_session_feed(session, params->id + done, params->n_pp, NULL, error));
    }
    int64_t middle = ft_time_us();
    for (uint32_t i = 0; i <= params->n_tg; i++) {
        FT_TRY(ft_session_next(session, &run->written[i], error));
    }
    us[0] = middle - start;
    us[1] = ft_time_us() - middle;
    struct ft_model_info info;
    ft_model_info(params->target, &info);
    return check_logits(session, info.n_vocab_real, error);
}

static ft_status measure_ours(const struct run *run, struct ft_depth_row *row, int64_t us[2],
                              struct ft_error *error) {
    const struct ft_depth_params *params = run->params;
    struct ft_session_params session_params = *params->session;
    ft_session *session = NULL;
    session_params.prompt = session_params.kv = NULL;
    session_params.kv_type = row->kv_type;
    session_params.n_ctx = 0;
    uint32_t read = row->depth == 0 ? params->n_pp : FT_MIN(row->depth, (uint32_t)FT_DEPTH_BASE);
    session_params.n_predict = (uint32_t)ft_depth_tokens(params, row->depth) - read;
    FT_TRY(ft_session_new(params->target, NULL, &session_params, &session, error));
    params->guard(session);
    ft_status status = time_session(session, run, row->depth, us, error);
    params->guard(NULL);
    if (status == FT_OK) {
        struct ft_report report;
        ft_session_report(session, &report);
        row->kv_bytes = report.kv_bytes_peak;
        memcpy(row->kernels, report.kernels, sizeof row->kernels);
    }
    ft_session_free(session);
    return status;
}

static ft_status measure_peer(const struct run *run, struct ft_depth_row *row, int64_t us[2],
                              struct ft_error *error) {
    const struct ft_depth_params *params = run->params;
    struct ft_peer_report report;
    uint32_t done = FT_MIN(row->depth, (uint32_t)FT_DEPTH_BASE);
    FT_TRY(ft_peer_fill(run->peer, params->id, done, row->depth, error));
    settle();
    FT_TRY(ft_peer_continue(run->peer, params->id + done, params->n_pp, params->n_tg + 1,
                            run->written, &report, error));
    if (report.n_row != row->depth) {
        return ft_fail(error, FT_INTERNAL, 0, "libllama holds %" PRIu32 " rows, expected %" PRIu32,
                       report.n_row, row->depth);
    }
    us[0] = report.prefill_us;
    us[1] = report.decode_us;
    row->kv_bytes = report.kv_bytes;
    return FT_OK;
}

static ft_status measure(const struct run *run, uint32_t i, double value[METRICS],
                         struct ft_error *error) {
    int64_t us[2] = { 0 };
    struct ft_depth_row *row = &run->row[i];
    bool is_peer = i % per_depth(run->params) == run->params->n_kv_type;
    FT_TRY(is_peer ? measure_peer(run, row, us, error) : measure_ours(run, row, us, error));
    value[PREFILL_S] = (double)FT_MAX(us[0], 1) / 1e6;
    value[DECODE_S] = (double)FT_MAX(us[1], 1) / 1e6;
    value[PREFILL_RATE] = run->params->n_pp / value[PREFILL_S];
    value[DECODE_RATE] = run->params->n_tg / value[DECODE_S];
    settle();
    value[DRAM_RATE] = ft_dram_rate(run->dram);
    return FT_OK;
}

/* ---- rounds ---- */

uint32_t ft_depth_rows(const struct ft_depth_params *params) {
    return params->n_depth * per_depth(params);
}

static ft_status run_rounds(struct run *run, double *foreign_cpu, struct ft_error *error) {
    const struct ft_depth_params *params = run->params;
    struct ft_host_use start = { 0 };
    uint32_t n_row = ft_depth_rows(params), n_warm = per_depth(params);
    uint32_t total = n_warm + params->n_repeat * n_row;
    for (uint32_t done = 0; done < total; done++) {
        double unused[METRICS];
        uint32_t i = done < n_warm ? done : (done - n_warm) % n_row;
        uint32_t round = done < n_warm ? 0 : (done - n_warm) / n_row;
        double *value = done < n_warm ? unused : run->value[(size_t)i * params->n_repeat + round];
        if (done == n_warm && !ft_host_use_read(&start)) {
            start.at_s = 0;
        }
        if (params->step) {
            params->step(done, total, run->row[i].engine, run->row[i].depth, params->user);
        }
        FT_TRY(measure(run, i, value, error));
    }
    *foreign_cpu = ft_host_foreign(&start);
    return FT_OK;
}

/* ---- conclusions ---- */

static void conclude(struct run *run, double *work) {
    uint32_t n = run->params->n_repeat;
    for (uint32_t i = 0; i < ft_depth_rows(run->params); i++) {
        struct ft_depth_row *row = &run->row[i];
        struct ft_spread *out[METRICS] = { &row->prefill_s, &row->prefill_tok_s, &row->decode_s,
                                           &row->decode_tok_s, &row->dram_gb_s };
        for (uint32_t m = 0; m < METRICS; m++) {
            for (uint32_t r = 0; r < n; r++) {
                work[r] = run->value[(size_t)i * n + r][m];
            }
            *out[m] = ft_spread_of(work, n);
        }
        row->n_repeat = n;
    }
}

/* The cost per token, linear between the middles of pieces, integrated over [0, to]. */
static double cost_integral(const struct ft_depth_row *row, uint32_t n, uint32_t step, double n_pp,
                            double to) {
    double sum = 0, at = 0, cost = 1 / row[0].prefill_tok_s.median;
    for (uint32_t i = 0; i < n && at < to; i++) {
        const struct ft_depth_row *r = &row[(size_t)i * step];
        double middle = r->depth + n_pp / 2, next = 1 / r->prefill_tok_s.median;
        double part = FT_MIN(middle, to) - at;
        sum += part * (cost + (next - cost) / (middle - at) * part / 2);
        at = middle;
        cost = next;
    }
    return sum;
}

/* A piece measured at depth D tells the cost per token at its middle x = D + n_pp/2.  Between two
 * middles the cost is linear (attention is), before the first it is the first's, and the integral
 * of it over [0, depth] is the time of a whole prompt.  rows of one engine are `step` apart. */
static void extrapolate(struct ft_depth_row *row, uint32_t n, uint32_t step, double n_pp) {
    for (uint32_t i = 0; i < n; i++) {
        struct ft_depth_row *r = &row[(size_t)i * step];
        r->prompt_s_extrapolated =
            row[0].depth > 0 ? -1 : cost_integral(row, n, step, n_pp, r->depth);
    }
}

static ft_status open_parts(struct run *run, struct ft_error *error) {
    const struct ft_depth_params *params = run->params;
    const struct ft_session_params *session = params->session;
    size_t n_value = (size_t)ft_depth_rows(params) * params->n_repeat;
    uint64_t n_ctx = ft_depth_tokens(params, params->depth[params->n_depth - 1]);
    run->written = ft_alloc((size_t)params->n_tg + 1, sizeof *run->written);
    run->value = ft_alloc(n_value, sizeof *run->value);
    if (!run->written || !run->value) {
        return ft_fail(error, FT_NOMEM, 0, "no memory for %zu results", n_value);
    }
    if (n_ctx > INT32_MAX) {
        return ft_fail(error, FT_LIMIT, 0, "%" PRIu64 " tokens are too many", n_ctx);
    }
    run->dram = ft_dram_new(session->n_thread ? session->n_thread : ft_cpu_count());
    return params->peer_path ? ft_peer_open(params->peer_path, (uint32_t)n_ctx, session->n_thread,
                                            params->kv_type[0], &run->peer, error)
                             : FT_OK;
}

ft_status ft_depth_run(const struct ft_depth_params *params, struct ft_depth_row *row,
                       double *foreign_cpu, struct ft_error *error) {
    struct run run = { .params = params, .row = row };
    uint32_t n = per_depth(params);
    double *work = ft_alloc(params->n_repeat, sizeof *work);
    for (uint32_t i = 0; i < ft_depth_rows(params); i++) {
        bool is_peer = i % n == params->n_kv_type;
        row[i] = (struct ft_depth_row){ .engine = is_peer ? "libllama" : "foretoken",
                                        .kv_type = params->kv_type[is_peer ? 0 : i % n],
                                        .depth = params->depth[i / n] };
    }
    ft_status status =
        work ? open_parts(&run, error) : ft_fail(error, FT_NOMEM, 0, "no memory for results");
    if (status == FT_OK) {
        status = run_rounds(&run, foreign_cpu, error);
    }
    if (status == FT_OK) {
        conclude(&run, work);
        for (uint32_t e = 0; e < n; e++) {
            extrapolate(row + e, params->n_depth, n, params->n_pp);
        }
    }
    ft_peer_close(run.peer);
    ft_dram_free(run.dram);
    ft_free(run.written);
    ft_free(run.value);
    ft_free(work);
    return status;
}
