/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_generate.c - a document and a question in, an answer out as it comes, then what it took. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { ANSWER_MAX = 1 << 30 };

struct answer {
    struct ft_setup setup;
    char *text; /* the prompt */
    size_t n_text;
    struct ft_tokens tokens;
    uint32_t n_head; /* leading tokens of the chat's system header */
    ft_session *session;
    ft_stream *stream;
    char *written; /* [n_written] the whole answer, for --json */
    size_t n_written, written_cap;
    char *piece; /* [piece_cap] */
    size_t piece_cap;
    struct ft_auto_kv auto_kv;
    bool is_line_open; /* the answer's last character is no newline */
    const char *end;   /* why it ended */
};

/* ---- the answer ---- */

static bool keep_text(struct answer *answer, const char *text, size_t n) {
    if (answer->n_written + n > answer->written_cap) {
        size_t cap = FT_MAX(answer->written_cap * 2, answer->n_written + n + 4096);
        char *more = cap < ANSWER_MAX ? ft_grow(answer->written, cap, 1) : NULL;
        if (!more) {
            return false;
        }
        answer->written = more;
        answer->written_cap = cap;
    }
    memcpy(answer->written + answer->n_written, text, n);
    answer->n_written += n;
    return true;
}

/* emit - show text or keep it; false when there is nobody to read on. */
static ft_status emit(struct answer *answer, const char *bytes, size_t n_byte, bool *is_over) {
    const char *text;
    size_t n;
    bool is_stopped = false;
    FT_TRY(ft_stream_push(answer->stream, bytes, n_byte, &text, &n, &is_stopped));
    if (n > 0 && answer->setup.conf->is_json) {
        if (!keep_text(answer, text, n)) {
            return FT_NOMEM;
        }
    } else if (n > 0) {
        ft_out_bytes(text, n);
        answer->is_line_open = text[n - 1] != '\n';
        if (!ft_out_flush()) {
            answer->end = NULL;
            *is_over = true;
        }
    }
    if (is_stopped) {
        answer->end = "a stop string";
        *is_over = true;
    }
    return FT_OK;
}

static ft_status emit_token(struct answer *answer, ft_token id, bool *is_over) {
    size_t n = ft_token_piece(answer->setup.target, id, false, answer->piece, answer->piece_cap);
    if (n > answer->piece_cap) {
        char *more = ft_grow(answer->piece, n, 1);
        if (!more) {
            return FT_NOMEM;
        }
        answer->piece = more;
        answer->piece_cap = n;
        n = ft_token_piece(answer->setup.target, id, false, more, n);
    }
    return n > 0 ? emit(answer, answer->piece, n, is_over) : FT_OK;
}

static ft_status write_answer(struct answer *answer, struct ft_error *error) {
    uint32_t limit = answer->setup.params.n_predict;
    bool is_over = false;
    ft_status status = FT_OK;
    answer->end =
        answer->setup.conf->n_predict == FT_NO_LIMIT ? "the end of the context" : "the limit of -n";
    for (uint32_t i = 0; i < limit && !is_over; i++) {
        ft_token id;
        status = ft_session_next(answer->session, &id, error);
        if (status == FT_LIMIT) {
            answer->end = "the end of the context";
            status = FT_OK;
            break;
        }
        if (status == FT_OK && ft_token_is_end(answer->setup.target, id)) {
            answer->end = "an end token";
            break;
        }
        if (status == FT_OK) {
            status = emit_token(answer, id, &is_over);
            if (status != FT_OK) {
                ft_fail(error, status, 0, "not enough memory for the answer");
            }
        }
        if (status != FT_OK) {
            break;
        }
    }
    bool was_stopped = is_over;
    if (status == FT_OK && !was_stopped) {
        status = emit(answer, NULL, 0, &is_over);
    }
    return status;
}

/* ---- what it took ---- */

static double decode_rate(const struct ft_report *report) {
    return report->n_generated > 1 && report->decode_us > 0
               ? (report->n_generated - 1) * 1e6 / (double)report->decode_us
               : 0;
}

static void print_method(const struct ft_report *report, const char *stage, const char *name) {
    char line[1024];
    size_t used = (size_t)snprintf(line, sizeof line, "%-9s %s", stage, name ? name : "dense");
    for (uint32_t i = 0; i < report->n_setting && used < sizeof line; i++) {
        const struct ft_setting *setting = &report->setting[i];
        if (strcmp(setting->stage, stage) == 0) {
            used += (size_t)snprintf(line + used, sizeof line - used, " %s=%s", setting->name,
                                     setting->value);
        }
    }
    ft_note("%s", line);
}

/* print_auto - what was expected and what happened; measuring is not part of either. */
static void print_auto(const struct ft_report *report) {
    const struct ft_auto *a = &report->automatic;
    ft_note("auto      %s", a->text);
    if (a->is_measured) {
        const struct ft_expect *chosen = a->is_dense ? &a->dense : &a->plan;
        ft_note("          expected %.0f ms, took %.0f ms, measuring %.0f ms more; to the last of "
                "-n tokens dense %.0f ms, with methods %.0f ms",
                (double)chosen->ttft_us / 1e3, (double)(report->ttft_us - a->measure_us) / 1e3,
                (double)a->measure_us / 1e3, (double)a->dense.answer_us / 1e3,
                (double)a->plan.answer_us / 1e3);
    } else {
        ft_note("          took %.0f ms, measuring %.0f ms more",
                (double)(report->ttft_us - a->measure_us) / 1e3, (double)a->measure_us / 1e3);
    }
}

/* print_slower - a drafting run that was slower than dense says so, where its own rate proves it. */
static void print_slower(const struct ft_report *report) {
    int64_t took = report->ttft_us - report->automatic.measure_us;
    if (report->dense_most_us > 0 && took > report->dense_most_us + report->dense_most_us / 20) {
        ft_note("slower    than dense: %.0f ms to the first token, dense at most %.0f ms by this "
                "run's own rate",
                (double)took / 1e3, (double)report->dense_most_us / 1e3);
    }
}

/* print_packing - how rows are stored, and what it cost to bring them there; nothing of plain ones. */
static void print_packing(const struct ft_report *report) {
    if (report->kv_packing[0]) {
        ft_note("packed    %s; packing took %.1f ms", report->kv_packing,
                (double)report->pack_us / 1e3);
    }
}

static void print_summary(const struct answer *answer, const struct ft_report *report) {
    char full[24], now[24], peak[24], draft[24], activations[24], rate[32] = "";
    const struct ft_sampling *sampling = &answer->setup.params.sampling;
    ft_note("tokens    %u in the prompt, %u read by the target, up to %u rows a KV head kept",
            report->n_prompt, report->n_kept, report->n_kv_kept);
    print_method(report, "prompt", report->prompt_method);
    print_method(report, "kv", report->kv_method);
    ft_note("KV        %s full, %s kept, %s peak; draft peak %s, activations peak %s",
            ft_size_text(report->kv_bytes_full, full), ft_size_text(report->kv_bytes, now),
            ft_size_text(report->kv_bytes_peak, peak),
            ft_size_text(report->draft_kv_bytes_peak, draft),
            ft_size_text(report->activation_bytes_peak, activations));
    print_packing(report);
    if (report->n_evicted > 0) {
        ft_note("evicted   %llu rows of KV heads while the answer grew; %s held at its end",
                (unsigned long long)report->n_evicted, ft_size_text(report->kv_bytes_now, now));
    }
    if (report->kv_state_bytes > 0) {
        ft_note(
            "state     %s of what is kept are neither K nor V, but what the method notes of rows",
            ft_size_text(report->kv_state_bytes, now));
    }
    ft_note("time      load %.0f ms, draft %.0f ms, scoring %.0f ms, prefill %.0f ms, first token "
            "%.0f ms",
            (double)answer->setup.load_us / 1e3, (double)report->draft_us / 1e3,
            (double)report->score_us / 1e3, (double)report->prefill_us / 1e3,
            (double)report->ttft_us / 1e3);
    if (answer->auto_kv.is_on) {
        ft_note("auto      %s in %s: %s", answer->auto_kv.kv, answer->auto_kv.kv_type,
                answer->auto_kv.why);
    }
    if (report->automatic.is_on) {
        print_auto(report);
    }
    print_slower(report);
    if (report->n_generated > 1) {
        snprintf(rate, sizeof rate, ", %.1f tok/s", decode_rate(report));
    }
    ft_note("answer    %u token%s%s, ended by %s", report->n_generated,
            report->n_generated == 1 ? "" : "s", rate, answer->end);
    if (sampling->temperature > 0) {
        ft_note("seed      %llu", (unsigned long long)sampling->seed);
    }
    for (uint32_t i = 0; i < report->n_fallback && i < FT_FALLBACK_CAP; i++) {
        ft_note("fallback  %s", report->fallback[i]);
    }
}

/* bias_value - [{"token":15043,"bias":1.0}]; infinities, which JSON lacks, as text. */
static json_t *bias_value(const struct ft_sampling *sampling) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < sampling->n_bias; i++) {
        json_t *entry = json_object();
        double bias = (double)sampling->bias[i].bias;
        json_object_set_new(entry, "token", json_integer(sampling->bias[i].id));
        json_object_set_new(entry, "bias",
                            isfinite(bias) ? json_real(bias)
                                           : ft_json_text(bias < 0 ? "-inf" : "inf"));
        json_array_append_new(list, entry);
    }
    return list;
}

/* meant_value - the text of -p, --system or --stop as it was meant, with -e; null without one. */
static json_t *meant_value(const struct ft_conf *conf, const char *text) {
    char *own = text ? ft_strdup(text) : NULL;
    if (own && conf->is_escape) {
        ft_text_escape(text, own);
    }
    json_t *value = own ? ft_json_text(own) : json_null();
    ft_free(own);
    return value;
}

/* set_texts - what the answer had to follow, and how the prompt was made. */
static void set_texts(json_t *method, const struct answer *answer) {
    const struct ft_conf *conf = answer->setup.conf;
    const struct ft_sampling *sampling = &answer->setup.params.sampling;
    json_t *stop = json_array();
    for (uint32_t i = 0; i < conf->stop.n; i++) {
        json_array_append_new(stop, meant_value(conf, conf->stop.text[i]));
    }
    json_object_set_new(method, "stop", stop);
    json_object_set_new(method, "grammar",
                        sampling->grammar ? ft_json_text(sampling->grammar) : json_null());
    json_object_set_new(method, "chat", json_boolean(conf->is_chat));
    json_object_set_new(method, "system", meant_value(conf, conf->system));
}

/* method_value - every parameter as used: both stages, storage and sampling. */
static json_t *method_value(const struct answer *answer, const struct ft_report *report) {
    const struct ft_session_params *params = &answer->setup.params;
    const struct ft_sampling *sampling = &params->sampling;
    json_t *method = json_object(), *draw = json_object();
    json_object_set_new(draw, "temperature", json_real((double)sampling->temperature));
    json_object_set_new(draw, "top_k", json_integer(sampling->top_k));
    json_object_set_new(draw, "top_p", json_real((double)sampling->top_p));
    json_object_set_new(draw, "min_p", json_real((double)sampling->min_p));
    json_object_set_new(draw, "repeat_penalty", json_real((double)sampling->repeat_penalty));
    json_object_set_new(draw, "repeat_last_n", json_integer(sampling->repeat_last_n));
    json_object_set_new(draw, "seed", json_integer((json_int_t)sampling->seed));
    json_object_set_new(draw, "logit_bias", bias_value(sampling));
    json_object_set_new(method, "prompt", ft_json_method(report, "prompt"));
    json_object_set_new(method, "kv", ft_json_method(report, "kv"));
    json_object_set_new(method, "kv_type", ft_json_text(params->kv_type ? params->kv_type : "f16"));
    json_object_set_new(method, "exact", json_boolean(params->is_exact));
    json_object_set_new(method, "strict", json_boolean(params->is_strict));
    json_object_set_new(method, "n_predict", json_integer(params->n_predict));
    json_object_set_new(method, "n_ctx", json_integer(ft_setup_context(&answer->setup)));
    json_object_set_new(method, "threads", json_integer(ft_bench_threads(&answer->setup)));
    json_object_set_new(method, "rope_scale", json_real((double)params->rope_scale));
    json_object_set_new(method, "sampling", draw);
    set_texts(method, answer);
    return method;
}

static json_t *models_value(const struct ft_setup *setup) {
    json_t *models = json_object(), *draft = json_null();
    if (setup->draft) {
        draft = ft_json_model(setup->draft);
    } else if (setup->params.self_layers > 0) {
        draft = json_object();
        json_object_set_new(draft, "self_layers", json_integer(setup->params.self_layers));
    }
    json_object_set_new(models, "target", ft_json_model(setup->target));
    json_object_set_new(models, "draft", draft);
    return models;
}

static void set_bytes(json_t *root, const char *key, uint64_t n) {
    json_object_set_new(root, key, json_integer((json_int_t)n));
}

static void print_json(const struct answer *answer, const struct ft_report *report) {
    json_t *root = json_object();
    json_object_set_new(root, "text",
                        json_stringn(answer->written ? answer->written : "", answer->n_written));
    json_object_set_new(root, "prompt_tokens", json_integer(report->n_prompt));
    json_object_set_new(root, "kept_tokens", json_integer(report->n_kept));
    json_object_set_new(root, "generated_tokens", json_integer(report->n_generated));
    set_bytes(root, "kv_bytes_full", report->kv_bytes_full);
    set_bytes(root, "kv_bytes", report->kv_bytes);
    set_bytes(root, "kv_bytes_peak", report->kv_bytes_peak);
    set_bytes(root, "kv_bytes_now", report->kv_bytes_now);
    set_bytes(root, "kv_state_bytes", report->kv_state_bytes);
    set_bytes(root, "evicted_rows", report->n_evicted);
    set_bytes(root, "draft_kv_bytes_peak", report->draft_kv_bytes_peak);
    set_bytes(root, "activation_bytes_peak", report->activation_bytes_peak);
    json_object_set_new(root, "load_ms", ft_json_ms(answer->setup.load_us));
    json_object_set_new(root, "draft_ms", ft_json_ms(report->draft_us));
    json_object_set_new(root, "score_ms", ft_json_ms(report->score_us));
    json_object_set_new(root, "prefill_ms", ft_json_ms(report->prefill_us));
    json_object_set_new(root, "pack_ms", ft_json_ms(report->pack_us));
    json_object_set_new(root, "ttft_ms", ft_json_ms(report->ttft_us));
    json_object_set_new(root, "decode_tok_s", json_real(decode_rate(report)));
    json_object_set_new(root, "fallbacks", ft_json_fallbacks(report));
    if (report->automatic.is_on) {
        json_object_set_new(root, "auto", ft_json_auto(report));
    }
    if (answer->auto_kv.is_on) {
        json_t *chosen = json_object();
        json_object_set_new(chosen, "kv", ft_json_text(answer->auto_kv.kv));
        json_object_set_new(chosen, "kv_type", ft_json_text(answer->auto_kv.kv_type));
        json_object_set_new(chosen, "why", ft_json_text(answer->auto_kv.why));
        json_object_set_new(root, "kv_auto", chosen);
    }
    json_object_set_new(root, "method", method_value(answer, report));
    json_object_set_new(root, "models", models_value(&answer->setup));
    json_object_set_new(root, "kernels", ft_json_kernels(report));
    json_object_set_new(root, "kv_packing", ft_json_text(report->kv_packing));
    json_object_set_new(root, "version", ft_json_text(ft_version()));
    ft_json_print(root);
}

/* ---- the command ---- */

static ft_status open_stream(struct answer *answer, struct ft_error *error) {
    const struct ft_texts *stop = &answer->setup.conf->stop;
    char *own[FT_TEXTS_CAP] = { NULL };
    const char *list[FT_TEXTS_CAP];
    ft_status status = FT_OK;
    for (uint32_t i = 0; i < stop->n; i++) {
        own[i] = ft_strdup(stop->text[i]);
        if (own[i] && answer->setup.conf->is_escape) {
            ft_text_escape(stop->text[i], own[i]);
        }
        list[i] = own[i] ? own[i] : stop->text[i];
    }
    status = ft_stream_new(list, stop->n, &answer->stream, error);
    for (uint32_t i = 0; i < stop->n; i++) {
        ft_free(own[i]);
    }
    return status;
}

/* set_limit - -n -1 as a number: the positions behind the whole prompt, but at least the token that
 * a full context still draws. */
static int set_limit(struct answer *answer) {
    uint32_t n_ctx = ft_setup_context(&answer->setup), n = answer->tokens.n;
    if (n > n_ctx) {
        return ft_complain(FT_EXIT_FAILED,
                           "-n -1: a prompt of %u tokens leaves nothing of a context of %u; %s", n,
                           n_ctx,
                           answer->setup.params.prompt ? "give -n a number"
                                                       : "a method with --prompt makes it shorter, "
                                                         "--rope-scale the context longer");
    }
    answer->setup.params.n_predict = FT_MAX(n_ctx - n, 1);
    return FT_EXIT_OK;
}

/* prepare - everything up to the weights; nothing heavy has been done when it refuses. */
static int prepare(struct answer *answer, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    int code = ft_setup_init(&answer->setup, conf);
    if (code == FT_EXIT_OK) {
        code = ft_read_text(conf, &answer->text, &answer->n_text);
    }
    if (code == FT_EXIT_OK && open_stream(answer, &error) != FT_OK) {
        code = ft_complain_error("--stop", &error);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&answer->setup, NULL);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    if (ft_prompt_tokens(&answer->setup, answer->text, &answer->tokens, &answer->n_head, &error) !=
        FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (conf->n_predict == FT_NO_LIMIT) {
        code = set_limit(answer);
    }
    if (code == FT_EXIT_OK && ft_auto_kv_is_asked(conf)) {
        code = ft_auto_kv_choose(&answer->setup, answer->tokens.n, &answer->auto_kv);
    }
    return code == FT_EXIT_OK ? ft_setup_fit(&answer->setup, answer->tokens.n) : code;
}

static int finish(struct answer *answer, ft_status status, const struct ft_error *error) {
    struct ft_report report;
    bool is_json = answer->setup.conf->is_json;
    ft_progress_clear(&answer->setup.progress);
    if (!is_json && answer->is_line_open && ft_out_flush()) {
        ft_out("\n");
        ft_out_flush();
    }
    if (status != FT_OK && status != FT_CANCELLED) {
        return ft_complain_error(NULL, error);
    }
    if (!answer->end) { /* the reader went away before the end: be quiet, as head expects */
        return status == FT_CANCELLED ? FT_EXIT_INTERRUPT : FT_EXIT_OK;
    }
    ft_session_report(answer->session, &report);
    if (status == FT_CANCELLED) {
        answer->end = "Ctrl-C";
        if (!is_json) {
            print_summary(answer, &report);
        }
        return FT_EXIT_INTERRUPT;
    }
    if (is_json) {
        print_json(answer, &report);
    } else {
        print_summary(answer, &report);
    }
    return FT_EXIT_OK;
}

static int run(struct answer *answer) {
    struct ft_error error = { 0 };
    struct ft_setup *setup = &answer->setup;
    ft_status status =
        ft_session_new(setup->target, setup->draft, &setup->params, &answer->session, &error);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    ft_ui_guard(answer->session);
    ft_progress_start(&setup->progress);
    status = ft_session_prompt(answer->session, answer->tokens.id, answer->tokens.n, answer->n_head,
                               &error);
    ft_progress_clear(&setup->progress);
    if (status == FT_OK) {
        status = write_answer(answer, &error);
    }
    if (status == FT_OK && ft_ui_is_interrupted()) {
        status = FT_CANCELLED;
    }
    return finish(answer, status, &error);
}

int ft_cmd_generate(const struct ft_conf *conf) {
    struct answer answer = { .n_head = 0 };
    int code = prepare(&answer, conf);
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(&answer.setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(&answer);
    }
    ft_ui_guard(NULL);
    ft_session_free(answer.session);
    ft_stream_free(answer.stream);
    ft_tokens_free(&answer.tokens);
    ft_free(answer.written);
    ft_free(answer.piece);
    free(answer.text);
    ft_setup_done(&answer.setup);
    return code;
}
