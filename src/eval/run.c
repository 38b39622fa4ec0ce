/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - samples through sessions: a prompt, its answer, further questions, a score, a row. */
#include <math.h>
#include <string.h>

#include "eval/run.h"

enum { PIECE_BYTES = 512 };
#define Z_95 1.959963984540054 /* 97.5 % of a normal distribution lie below */

void ft_sample_done(struct ft_sample *sample) {
    for (uint32_t t = 0; t < sample->n_turn; t++) {
        struct ft_turn *turn = &sample->turn[t];
        for (uint32_t i = 0; i < turn->n_reference; i++) {
            ft_free(turn->reference[i]);
        }
        for (uint32_t i = 0; i < turn->n_choice; i++) {
            ft_free(turn->choice[i]);
        }
        ft_free(turn->reference);
        ft_free(turn->choice);
        ft_free(turn->text);
        ft_free(turn->prefix);
    }
    *sample = (struct ft_sample){ .n_turn = 0 };
}

/* ---- tokens of a sample ---- */

struct asked { /* the turns of a sample as ids */
    struct ft_tokens tokens[FT_TURN_CAP];
    uint32_t n_head;
    uint32_t n_more; /* tokens behind the first turn's prompt: later questions and answers */
};

struct question { /* made once for all methods */
    const struct ft_cell *cell;
    uint32_t index;
    bool is_made;
    struct ft_sample sample;
    struct asked asked;
    json_t **row; /* [n_method] of methods that were answered with one before them; NULL */
};

static void asked_done(struct asked *asked) {
    for (uint32_t t = 0; t < FT_TURN_CAP; t++) {
        ft_tokens_free(&asked->tokens[t]);
    }
}

/* A later question continues the text: nothing is added in front of it. */
static ft_status continue_tokens(const ft_model *model, const struct ft_turn *turn, bool has_prefix,
                                 struct ft_tokens *out, struct ft_error *error) {
    size_t n_text = strlen(turn->text), n_prefix = has_prefix ? strlen(turn->prefix) : 0;
    char *text = ft_alloc(n_text + n_prefix + 1, 1);
    if (!text) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a question");
    }
    memcpy(text, turn->text, n_text);
    memcpy(text + n_text, turn->prefix, n_prefix);
    ft_status status = ft_tokenize(model, text, n_text + n_prefix, 0, out, error);
    ft_free(text);
    return status;
}

static ft_status tokenize(const struct ft_suite_params *params, const struct ft_sample *sample,
                          struct asked *out, struct ft_error *error) {
    const struct ft_chat chat = { .user = sample->turn[0].text,
                                  .begun = params->has_prefix ? sample->turn[0].prefix : NULL,
                                  .is_plain = !params->is_chat || sample->is_raw };
    FT_TRY(ft_chat_tokens(params->target, &chat, &out->tokens[0], &out->n_head, error));
    out->n_more = sample->n_predict * sample->n_turn;
    for (uint32_t t = 1; t < sample->n_turn; t++) {
        FT_TRY(continue_tokens(params->target, &sample->turn[t], params->has_prefix,
                               &out->tokens[t], error));
        out->n_more += out->tokens[t].n;
    }
    return FT_OK;
}

/* ---- answers ---- */

struct answer {
    char *bytes; /* NUL-terminated UTF-8; a NUL that a model writes is left out */
    size_t n, cap;
};

static ft_status keep(struct answer *answer, const char *text, size_t n) {
    if (answer->n + n + 1 > answer->cap) {
        size_t cap = FT_MAX(answer->cap * 2, answer->n + n + 512);
        char *more = ft_grow(answer->bytes, cap, 1);
        if (!more) {
            return FT_NOMEM;
        }
        answer->bytes = more;
        answer->cap = cap;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\0') {
            answer->bytes[answer->n++] = text[i];
        }
    }
    answer->bytes[answer->n] = '\0';
    return FT_OK;
}

static ft_status push(ft_stream *stream, struct answer *answer, const char *bytes, size_t n) {
    const char *text;
    size_t n_text;
    bool is_stopped;
    FT_TRY(ft_stream_push(stream, bytes, n, &text, &n_text, &is_stopped));
    return keep(answer, text, n_text);
}

/* Tokens until the model ends, its context does, or n_predict were written. */
static ft_status write_answer(const ft_model *model, ft_session *session, uint32_t n_predict,
                              ft_stream *stream, struct answer *answer, struct ft_error *error) {
    char piece[PIECE_BYTES];
    ft_status status = FT_OK;
    for (uint32_t i = 0; i < n_predict && status == FT_OK; i++) {
        ft_token id;
        status = ft_session_next(session, &id, error);
        if (status == FT_LIMIT) {
            status = FT_OK;
            break;
        }
        if (status != FT_OK || ft_token_is_end(model, id)) {
            break;
        }
        size_t n = ft_token_piece(model, id, false, piece, sizeof piece);
        if (n > 0 && n <= sizeof piece && push(stream, answer, piece, n) != FT_OK) {
            status = ft_fail(error, FT_NOMEM, 0, "not enough memory for an answer");
        }
    }
    return status;
}

static ft_status answer_turn(const struct ft_suite_params *params, ft_session *session,
                             uint32_t n_predict, struct answer *out, struct ft_error *error) {
    ft_stream *stream = NULL;
    FT_TRY(ft_stream_new(NULL, 0, &stream, error));
    ft_status status = keep(out, "", 0);
    if (status == FT_OK) {
        status = write_answer(params->target, session, n_predict, stream, out, error);
    }
    if (status == FT_OK) {
        status = push(stream, out, NULL, 0);
    }
    ft_stream_free(stream);
    return status;
}

/* ---- rows ---- */

static void set_count(json_t *row, const char *key, uint64_t n) {
    json_object_set_new(row, key, json_integer((json_int_t)n));
}

static json_t *times_of(const struct ft_report *report) {
    json_t *times = json_object();
    json_object_set_new(times, "draft_ms", json_real((double)report->draft_us / 1e3));
    json_object_set_new(times, "score_ms", json_real((double)report->score_us / 1e3));
    json_object_set_new(times, "prefill_ms", json_real((double)report->prefill_us / 1e3));
    json_object_set_new(times, "ttft_ms", json_real((double)report->ttft_us / 1e3));
    json_object_set_new(times, "decode_ms", json_real((double)report->decode_us / 1e3));
    if (report->n_shared > 0) { /* which methods a run finds missing is no part of a sample */
        json_object_set_new(times, "shared", json_integer(report->n_shared));
    }
    return times;
}

/* Predictions and references of all turns; scores of each where there are several. */
static void set_answers(json_t *row, const struct ft_sample *sample, const struct answer *answer,
                        const double *score) {
    json_t *predictions = json_array(), *references = json_array(), *scores = json_array();
    for (uint32_t t = 0; t < sample->n_turn; t++) {
        json_array_append_new(predictions, json_string(answer[t].bytes));
        json_array_append_new(scores, json_real(100 * score[t]));
        for (uint32_t i = 0; i < sample->turn[t].n_reference; i++) {
            json_array_append_new(references, json_string(sample->turn[t].reference[i]));
        }
    }
    if (sample->n_turn == 1) {
        json_object_set(row, "prediction", json_array_get(predictions, 0));
        json_decref(predictions);
        json_decref(scores);
    } else {
        json_object_set_new(row, "prediction", predictions);
        json_object_set_new(row, "turn_scores", scores);
    }
    json_object_set_new(row, "references", references);
}

json_t *ft_row_new(const struct ft_cell *cell, const struct ft_record_key *key, const char *kv_type,
                   const struct ft_report *report) {
    json_t *row = json_object(), *fallbacks = json_array();
    for (uint32_t i = 0; i < report->n_fallback && i < FT_FALLBACK_CAP; i++) {
        json_array_append_new(fallbacks, json_string(report->fallback[i]));
    }
    json_object_set_new(row, "task", json_string(key->task));
    set_count(row, "ctx", key->ctx);
    set_count(row, "index", key->index);
    json_object_set_new(row, "method", json_string(key->method));
    json_object_set_new(row, "kv_type", json_string(kv_type));
    json_object_set_new(row, "data", json_string(cell->data));
    if (cell->has_depth) {
        set_count(row, "depth", cell->depth);
    }
    set_count(row, "prompt_tokens", report->n_prompt);
    set_count(row, "kept_tokens", report->n_kept);
    set_count(row, "kept_rows", report->n_kv_kept);
    set_count(row, "kv_bytes", report->kv_bytes);
    set_count(row, "kv_bytes_full", report->kv_bytes_full);
    set_count(row, "kv_bytes_peak", report->kv_bytes_peak);
    set_count(row, "draft_kv_bytes_peak", report->draft_kv_bytes_peak);
    if (report->kv_packing[0]) {
        json_object_set_new(row, "kv_packing", json_string(report->kv_packing));
    }
    json_object_set_new(row, "fallbacks", fallbacks);
    json_object_set_new(row, "times", times_of(report));
    return row;
}

/* -> NULL: no memory. */
static json_t *row_of(const struct ft_suite_params *params, const struct ft_bench_case *method,
                      const struct ft_record_key *key, const struct question *question,
                      const struct answer *answer, const struct ft_report *report) {
    const struct ft_suite *suite = &params->suite;
    const struct ft_cell *cell = question->cell;
    const struct ft_sample *sample = &question->sample;
    double score[FT_TURN_CAP], sum = 0;
    for (uint32_t t = 0; t < sample->n_turn; t++) {
        if (suite->score(suite->user, cell->task, &sample->turn[t], answer[t].bytes, &score[t]) !=
            FT_OK) {
            return NULL;
        }
        sum += score[t];
    }
    json_t *row = ft_row_new(cell, key, ft_case_kv_type(method, params->session), report);
    if (sample->n_cut > 0) {
        set_count(row, "cut_tokens", sample->n_cut);
    }
    set_answers(row, sample, answer, score);
    json_object_set_new(row, "score", json_real(100 * sum / sample->n_turn));
    set_count(row, "generated_tokens", report->n_generated);
    return row;
}

bool ft_outcome_find(const struct ft_record *record, const struct ft_record_key *key,
                     struct ft_outcome *out) {
    const json_t *row = ft_record_find(record, key);
    const json_t *times = json_object_get(row, "times");
    const json_t *fallbacks = json_object_get(row, "fallbacks");
    if (!row) {
        return false;
    }
    *out = (struct ft_outcome){
        .score = json_number_value(json_object_get(row, "score")),
        .n_prompt = (uint32_t)json_integer_value(json_object_get(row, "prompt_tokens")),
        .n_kept = (uint32_t)json_integer_value(json_object_get(row, "kept_tokens")),
        .n_kv_kept = (uint32_t)json_integer_value(json_object_get(row, "kept_rows")),
        .kv_bytes = (uint64_t)json_integer_value(json_object_get(row, "kv_bytes")),
        .n_cut = (uint32_t)json_integer_value(json_object_get(row, "cut_tokens")),
        .ttft_ms = json_number_value(json_object_get(times, "ttft_ms")),
        .fallback = json_string_value(json_array_get(fallbacks, 0))
    };
    return true;
}

/* ---- one sample ---- */

static ft_status question_make(const struct ft_suite_params *params, struct question *question,
                               struct ft_error *error) {
    const struct ft_suite *suite = &params->suite;
    if (question->is_made) {
        return FT_OK;
    }
    question->is_made = true;
    question->row = ft_alloc(params->n_method, sizeof(json_t *));
    if (!question->row) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for %u rows", params->n_method);
    }
    FT_TRY(suite->make(suite->user, question->cell->task, question->cell->ctx, question->index,
                       &question->sample, error));
    return tokenize(params, &question->sample, &question->asked, error);
}

static void question_done(struct question *question, uint32_t n_method) {
    for (uint32_t m = 0; question->row && m < n_method; m++) {
        json_decref(question->row[m]);
    }
    ft_free(question->row);
    asked_done(&question->asked);
    ft_sample_done(&question->sample);
}

static ft_status session_of(const struct ft_suite_params *params, uint32_t method,
                            const struct question *question, ft_session **out,
                            struct ft_error *error) {
    const struct ft_bench_case *one = &params->method[method];
    struct ft_session_params session = *params->session;
    session.prompt = one->prompt;
    session.kv = one->kv;
    session.kv_type = ft_case_kv_type(one, params->session);
    session.n_predict = question->asked.n_more;
    return ft_session_new(params->target, params->draft, &session, out, error);
}

/* All turns, the first of which has been read, and the row. */
static ft_status answer(const struct ft_suite_params *params, uint32_t method,
                        const struct question *question, const struct ft_record_key *key,
                        ft_session *session, json_t **row, struct ft_error *error) {
    const struct ft_sample *sample = &question->sample;
    const struct asked *asked = &question->asked;
    struct answer answer[FT_TURN_CAP] = { { NULL, 0, 0 } };
    struct ft_report report;
    ft_status status = FT_OK;
    params->guard(session);
    for (uint32_t t = 0; t < sample->n_turn && status == FT_OK; t++) {
        if (t > 0) {
            status = ft_session_feed(session, asked->tokens[t].id, asked->tokens[t].n, NULL, error);
        }
        if (status == FT_OK) {
            status = answer_turn(params, session, sample->n_predict, &answer[t], error);
        }
    }
    params->guard(NULL);
    if (status == FT_OK) {
        ft_session_report(session, &report);
        *row = row_of(params, &params->method[method], key, question, answer, &report);
        status = *row ? FT_OK : ft_fail(error, FT_NOMEM, 0, "not enough memory for a row");
    }
    for (uint32_t t = 0; t < FT_TURN_CAP; t++) {
        ft_free(answer[t].bytes);
    }
    return status;
}

static struct ft_record_key key_of(const struct ft_suite_params *params, uint32_t cell,
                                   uint32_t index, uint32_t method) {
    const struct ft_cell *at = &params->cell[cell];
    return (struct ft_record_key){ .task = at->name,
                                   .method = at->method ? at->method : params->method[method].label,
                                   .ctx = at->ctx,
                                   .index = index };
}

/* Could b's rows come out of a's prefill?  The session says so in the end. */
static bool is_alike(const struct ft_bench_case *a, const struct ft_bench_case *b) {
    size_t n = a->kv && !a->prompt && !b->prompt ? strcspn(a->kv, ":") : 0;
    return n > 0 && b->kv && strcspn(b->kv, ":") == n && memcmp(a->kv, b->kv, n) == 0;
}

struct together { /* methods that may be answered behind one prefill, the one that is due first */
    uint32_t n, *method;  /* [n] */
    ft_session **session; /* [n] */
    bool *is_shared;      /* [n] of those behind the first */
};

static void together_done(struct together *all) {
    for (uint32_t i = 0; all->session && i < all->n; i++) {
        ft_session_free(all->session[i]);
    }
    ft_free(all->method);
    ft_free(all->session);
    ft_free(all->is_shared);
}

/* What cannot be opened now is refused when it is its turn. */
static ft_status together_init(struct together *all, const struct ft_suite_params *params,
                               uint32_t cell, uint32_t method, const struct question *question,
                               struct ft_error *error) {
    all->method = ft_alloc(params->n_method, sizeof *all->method);
    all->session = ft_alloc(params->n_method, sizeof(ft_session *));
    all->is_shared = ft_alloc(params->n_method, sizeof *all->is_shared);
    if (!all->method || !all->session || !all->is_shared) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for %u methods", params->n_method);
    }
    all->method[0] = method;
    FT_TRY(session_of(params, method, question, &all->session[0], error));
    all->n = 1;
    for (uint32_t m = method + 1; m < params->n_method; m++) {
        const struct ft_record_key key = key_of(params, cell, question->index, m);
        if (!question->row[m] && is_alike(&params->method[method], &params->method[m]) &&
            !ft_record_find(params->record, &key) &&
            session_of(params, m, question, &all->session[all->n], NULL) == FT_OK) {
            all->method[all->n++] = m;
        }
    }
    return FT_OK;
}

static ft_status read_together(const struct ft_suite_params *params, const struct together *all,
                               const struct question *question, struct ft_error *error) {
    const struct asked *asked = &question->asked;
    params->guard(all->session[0]);
    ft_status status =
        ft_session_prompt_shared(all->session[0], all->session + 1, all->n - 1, all->is_shared,
                                 asked->tokens[0].id, asked->tokens[0].n, asked->n_head, error);
    params->guard(NULL);
    return status;
}

/* Rows of methods that come later wait until it is their turn: a record has the same order however
 * often its run was ended. */
static ft_status ask(const struct ft_suite_params *params, uint32_t cell, uint32_t method,
                     struct question *question, struct ft_error *error) {
    struct together all = { 0 };
    ft_status status = together_init(&all, params, cell, method, question, error);
    if (status == FT_OK) {
        status = read_together(params, &all, question, error);
    }
    for (uint32_t i = 0; i < all.n && status == FT_OK; i++) {
        uint32_t m = all.method[i];
        const struct ft_record_key key = key_of(params, cell, question->index, m);
        if (i == 0 || all.is_shared[i - 1]) {
            status = answer(params, m, question, &key, all.session[i], &question->row[m], error);
        }
    }
    together_done(&all);
    return status;
}

static ft_status run_method(const struct ft_suite_params *params, uint32_t cell, uint32_t method,
                            struct question *question, const struct ft_record_key *key,
                            struct ft_error *error) {
    json_t *row = NULL;
    if (params->suite.measure) {
        FT_TRY(params->suite.measure(params, &params->method[method], question->cell, key, &row,
                                     error));
        return ft_record_add(params->record, row, error);
    }
    FT_TRY(question_make(params, question, error));
    if (!question->row[method]) {
        FT_TRY(ask(params, cell, method, question, error));
    }
    row = question->row[method];
    question->row[method] = NULL;
    return ft_record_add(params->record, row, error);
}

/* ---- all of them ---- */

uint64_t ft_cells_sum(const struct ft_cell *cell, uint32_t n_cell) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n_cell; i++) {
        sum += cell[i].n_sample;
    }
    return sum;
}

bool ft_shard_has(const struct ft_shard *shard, uint32_t cell, uint32_t index) {
    return shard->n < 2 || ((uint64_t)cell + index) % shard->n == shard->i - 1;
}

/* The methods that a sample misses; eta may be NULL. */
static uint32_t count_methods(const struct ft_suite_params *params, uint32_t cell, uint32_t index,
                              struct ft_eta *eta) {
    uint32_t n = 0;
    for (uint32_t m = 0; m < params->n_method; m++) {
        const struct ft_record_key key = key_of(params, cell, index, m);
        if (!ft_record_find(params->record, &key)) {
            n++;
            if (eta) {
                ft_eta_plan(eta, cell, m);
            }
        }
    }
    return n;
}

/* What the record misses of this part; *total: what the part has at all.  eta may be NULL. */
static uint64_t count_missing(const struct ft_suite_params *params, uint64_t *total,
                              struct ft_eta *eta) {
    uint64_t n = 0;
    *total = 0;
    for (uint32_t c = 0; c < params->n_cell; c++) {
        for (uint32_t i = 0; i < params->cell[c].n_sample; i++) {
            if (ft_shard_has(&params->shard, c, i)) {
                n += count_methods(params, c, i, eta);
                *total += params->n_method;
            }
        }
    }
    return n;
}

uint64_t ft_suite_missing(const struct ft_suite_params *params) {
    uint64_t total;
    return count_missing(params, &total, NULL);
}

struct run {
    const struct ft_suite_params *params;
    struct ft_eta eta;
    uint64_t done, total;
};

static void say_step(const struct run *run, const struct ft_cell *cell, const char *method) {
    const struct ft_suite_step step = { .done = run->done,
                                        .total = run->total,
                                        .left_s = ft_eta_left(&run->eta),
                                        .cell = cell,
                                        .method = method };
    if (run->params->step) {
        run->params->step(&step, run->params->user);
    }
}

static ft_status run_question(struct run *run, uint32_t cell, struct question *question,
                              struct ft_error *error) {
    const struct ft_suite_params *params = run->params;
    for (uint32_t m = 0; m < params->n_method; m++) {
        const struct ft_record_key key = key_of(params, cell, question->index, m);
        if (ft_record_find(params->record, &key)) {
            continue;
        }
        say_step(run, question->cell, key.method);
        int64_t start = ft_time_us();
        FT_TRY(run_method(params, cell, m, question, &key, error));
        ft_eta_took(&run->eta, cell, m, (double)(ft_time_us() - start) / 1e6);
        run->done++;
    }
    return FT_OK;
}

static ft_status run_cell(struct run *run, uint32_t cell, struct ft_error *error) {
    const struct ft_suite_params *params = run->params;
    ft_status status = FT_OK;
    for (uint32_t i = 0; i < params->cell[cell].n_sample && status == FT_OK; i++) {
        if (ft_shard_has(&params->shard, cell, i)) {
            struct question question = { .cell = &params->cell[cell], .index = i };
            status = run_question(run, cell, &question, error);
            question_done(&question, params->n_method);
        }
    }
    return status;
}

ft_status ft_suite_run(const struct ft_suite_params *params, struct ft_error *error) {
    struct run run = { .params = params };
    ft_status status = ft_eta_init(&run.eta, params->cell, params->n_cell, params->n_method, error);
    if (status == FT_OK) {
        uint64_t missing = count_missing(params, &run.total, &run.eta);
        run.done = run.total - missing;
        for (uint32_t c = 0; c < params->n_cell && status == FT_OK; c++) {
            status = run_cell(&run, c, error);
        }
        if (status == FT_OK && missing > 0) {
            say_step(&run, NULL, NULL);
        }
    }
    ft_eta_done(&run.eta);
    return status;
}

/* ---- intervals ---- */

/* Wilson 1927: the shares p that are z standard errors sqrt(p (1-p) / n) from the one seen. */
static void wilson(double share, double n, struct ft_interval *out) {
    const double z = Z_95, zz = z * z;
    double middle = share + zz / (2 * n);
    double spread = z * sqrt(share * (1 - share) / n + zz / (4 * n * n));
    out->low = 100 * FT_MAX((middle - spread) / (1 + zz / n), 0);
    out->high = 100 * FT_MIN((middle + spread) / (1 + zz / n), 1);
}

/* Agresti and Coull 1998, for scores that are no shares: z^2 / 2 is about 2. */
static void normal(const double *score, uint32_t n, struct ft_interval *out) {
    const double n_all = n + 4.0;
    double sum = 200;
    for (uint32_t i = 0; i < n; i++) {
        sum += score[i];
    }
    double mean = sum / n_all;
    double squares = 2 * mean * mean + 2 * (100 - mean) * (100 - mean);
    for (uint32_t i = 0; i < n; i++) {
        squares += (score[i] - mean) * (score[i] - mean);
    }
    double spread = Z_95 * sqrt(squares / (n_all - 1) / n_all);
    out->low = FT_MAX(mean - spread, 0);
    out->high = FT_MIN(mean + spread, 100);
}

struct ft_interval ft_interval_of(const double *score, uint32_t n) {
    struct ft_interval out = { .mean = 0 };
    bool is_share = true;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += score[i];
        is_share = is_share && (score[i] <= 0 || score[i] >= 100);
    }
    out.mean = sum / n;
    if (is_share) {
        wilson(out.mean / 100, n, &out);
    } else {
        normal(score, n, &out);
    }
    /* sums round, and the added scores pull a few equal ones to the middle */
    out.low = FT_MIN(out.low, out.mean);
    out.high = FT_MAX(out.high, out.mean);
    return out;
}
