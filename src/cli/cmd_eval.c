/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c - a suite of questions asked with one method: scores with intervals, and a record. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "eval/ruler.h"

enum { CELL_CAP = FT_RULER_TASK_CAP * FT_COUNTS_CAP, LABEL_CAP = 512, TEXTS = 4 };

struct eval {
    struct ft_setup setup;
    uint64_t seed;
    char *text[TEXTS]; /* haystack, words, squad, hotpot; NULL: not given */
    struct ft_ruler *ruler;
    uint32_t task[FT_RULER_TASK_CAP], n_task;
    struct ft_cell cell[CELL_CAP]; /* lengths outermost */
    uint32_t n_cell;
    char method[LABEL_CAP];
    json_t *manifest;
    struct ft_record *record;
    struct ft_outcome *outcome; /* [n_cell][n_sample] */
};

/* ---- the command line ---- */

static int check_options(struct eval *eval, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    const char *suite = conf->n_arg > 0 ? conf->arg[0] : "";
    if (strcmp(suite, "ruler") != 0) {
        return conf->n_arg > 0
                   ? ft_complain(FT_EXIT_USAGE,
                                 "eval: no suite \"%.100s\"; there are: ruler; and compare", suite)
                   : ft_complain(FT_EXIT_USAGE, "eval: which suite? there are: ruler; and compare");
    }
    if (conf->n_arg > 1) {
        return ft_complain(FT_EXIT_USAGE, "eval %s: unexpected argument \"%.100s\"", suite,
                           conf->arg[1]);
    }
    if (ft_ruler_tasks(conf->tasks, eval->task, &eval->n_task, &error) != FT_OK) {
        return ft_complain_error("--tasks", &error);
    }
    for (uint32_t i = 0; i < eval->n_task && conf->is_chat; i++) {
        if (ft_ruler_turns(eval->task[i]) > 1) {
            return ft_complain(FT_EXIT_USAGE,
                               "%s goes on in plain text after an answer; leave --chat out",
                               ft_ruler_name(eval->task[i]));
        }
    }
    if (conf->prompt.n > 1 || conf->kv.n > 1) {
        return ft_complain(FT_EXIT_USAGE,
                           "%s is given %u times, eval runs one method; run it again for the "
                           "other, with the same --out",
                           conf->kv.n > 1 ? "--kv" : "--prompt",
                           conf->kv.n > 1 ? conf->kv.n : conf->prompt.n);
    }
    return FT_EXIT_OK;
}

static const char *const text_option[TEXTS] = { "haystack", "words", "squad", "hotpot" };

static const char *path_of(const struct ft_conf *conf, uint32_t i) {
    const char *const path[TEXTS] = { conf->haystack, conf->words, conf->squad, conf->hotpot };
    return path[i];
}

static int read_texts(struct eval *eval, const struct ft_conf *conf) {
    int code = FT_EXIT_OK;
    for (uint32_t i = 0; i < TEXTS && code == FT_EXIT_OK; i++) {
        size_t n;
        code =
            path_of(conf, i) ? ft_read_document(path_of(conf, i), &eval->text[i], &n) : FT_EXIT_OK;
    }
    return code;
}

/* ---- the manifest ---- */

static json_t *digest_of(const char *text) {
    struct ft_sha256 sha;
    char hex[65], line[80];
    ft_sha256_init(&sha);
    ft_sha256_add(&sha, text, strlen(text));
    ft_sha256_done(&sha, hex);
    snprintf(line, sizeof line, "sha256:%s", hex);
    return json_string(line);
}

static json_t *fingerprint_of(const struct eval *eval) {
    struct ft_model_info info;
    if (eval->setup.self_layers > 0) {
        return ft_json_text(eval->setup.conf->draft);
    }
    if (!eval->setup.draft) {
        return json_null();
    }
    ft_model_info(eval->setup.draft, &info);
    return json_string(info.fingerprint);
}

/* Names of files are told but not compared: what is in them is. */
static json_t *files_of(const struct ft_conf *conf) {
    json_t *files = json_object();
    json_object_set_new(files, "target", ft_json_text(ft_file_name(conf->model)));
    json_object_set_new(files, "draft",
                        conf->draft ? ft_json_text(ft_file_name(conf->draft)) : json_null());
    for (uint32_t i = 0; i < TEXTS; i++) {
        const char *path = path_of(conf, i);
        json_object_set_new(files, text_option[i],
                            path ? ft_json_text(ft_file_name(path)) : json_null());
    }
    return files;
}

static json_t *manifest_of(const struct eval *eval) {
    static const char *const made[TEXTS] = { "synthetic haystack", "generated words",
                                             "synthetic questions", "synthetic two-hop questions" };
    const struct ft_conf *conf = eval->setup.conf;
    const struct ft_session_params *params = &eval->setup.params;
    struct ft_model_info info;
    json_t *value = json_object();
    ft_model_info(eval->setup.target, &info);
    json_object_set_new(value, "suite", json_string("ruler"));
    json_object_set_new(value, "version", json_string(ft_version()));
    json_object_set_new(value, "target", json_string(info.fingerprint));
    json_object_set_new(value, "draft", fingerprint_of(eval));
    json_object_set_new(value, "seed", json_integer((json_int_t)eval->seed));
    json_object_set_new(value, "answer_prefix", json_boolean(conf->answer_prefix == FT_PREFIX_ON));
    json_object_set_new(value, "chat", json_boolean(conf->is_chat));
    json_object_set_new(value, "kv_type", json_string(ft_bench_kv_type(&eval->setup)));
    json_object_set_new(value, "exact", json_boolean(conf->is_exact));
    json_object_set_new(value, "rope_scale", json_real((double)params->rope_scale));
    for (uint32_t i = 0; i < TEXTS; i++) {
        json_object_set_new(value, text_option[i],
                            eval->text[i] ? digest_of(eval->text[i]) : json_string(made[i]));
    }
    json_object_set_new(value, "files", files_of(conf));
    return value;
}

/* ---- samples ---- */

static ft_status count(const char *text, const char *prefix, uint32_t *n, void *user,
                       struct ft_error *error) {
    const struct eval *eval = user;
    const struct ft_chat chat = { .user = text,
                                  .begun = prefix,
                                  .is_plain = !eval->setup.conf->is_chat };
    struct ft_tokens tokens = { 0 };
    uint32_t n_head;
    FT_TRY(ft_chat_tokens(eval->setup.target, &chat, &tokens, &n_head, error));
    *n = tokens.n;
    ft_tokens_free(&tokens);
    return FT_OK;
}

static int open_suite(struct eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    const struct ft_ruler_params params = { .seed = eval->seed,
                                            .has_prefix = conf->answer_prefix == FT_PREFIX_ON,
                                            .haystack = eval->text[0],
                                            .words = eval->text[1],
                                            .squad = eval->text[2],
                                            .hotpot = eval->text[3],
                                            .count = count,
                                            .user = eval };
    if (ft_ruler_new(&params, &eval->ruler, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    for (uint32_t c = 0; c < conf->ctx.n; c++) {
        for (uint32_t i = 0; i < eval->n_task; i++) {
            eval->cell[eval->n_cell++] =
                (struct ft_cell){ .task = eval->task[i],
                                  .name = ft_ruler_name(eval->task[i]),
                                  .data = ft_ruler_data(eval->ruler, eval->task[i]),
                                  .ctx = conf->ctx.value[c] };
        }
    }
    return FT_EXIT_OK;
}

/* The last sample of every cell is made before weights are loaded: what cannot be is said now. */
static int try_cells(struct eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    uint32_t n_prompt = 0, n_ctx = ft_setup_context(&eval->setup);
    for (uint32_t c = 0; c < conf->ctx.n; c++) {
        if (conf->ctx.value[c] > n_ctx) {
            return ft_complain(FT_EXIT_FAILED,
                               "--ctx %u is beyond the %u tokens that %s was trained for",
                               conf->ctx.value[c], n_ctx, conf->model);
        }
    }
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        struct ft_sample sample = { .n_turn = 0 };
        ft_progress_stage(&eval->setup.progress, "making samples");
        if (ft_ruler_make(eval->ruler, cell->task, cell->ctx, conf->n_sample - 1, &sample,
                          &error) != FT_OK) {
            ft_progress_clear(&eval->setup.progress);
            return ft_complain_error(NULL, &error);
        }
        uint32_t n_predict = sample.n_predict * sample.n_turn;
        eval->setup.params.n_predict = FT_MAX(eval->setup.params.n_predict, n_predict);
        n_prompt = FT_MAX(n_prompt, cell->ctx - FT_MIN(n_predict, cell->ctx - 1));
        ft_sample_done(&sample);
    }
    ft_progress_clear(&eval->setup.progress);
    return ft_setup_fit(&eval->setup, n_prompt);
}

/* ---- results ---- */

struct row {
    struct ft_interval score;
    double n_prompt, n_kept, n_kv_kept, kv_bytes, ttft_ms; /* medians */
    uint32_t n_fallback;                                   /* samples that did not run as asked */
    const char *fallback;                                  /* why the first of them did not */
};

/* value [n_sample] is room to work in. */
static struct row row_of(const struct ft_outcome *outcome, uint32_t n, double *value) {
    struct row row = { .n_fallback = 0 };
    for (uint32_t i = 0; i < n; i++) {
        value[i] = outcome[i].score;
        row.n_fallback += outcome[i].fallback != NULL;
        row.fallback = row.fallback ? row.fallback : outcome[i].fallback;
    }
    row.score = ft_interval_of(value, n);
    double *const out[] = { &row.n_prompt, &row.n_kept, &row.n_kv_kept, &row.kv_bytes,
                            &row.ttft_ms };
    for (size_t k = 0; k < FT_COUNT(out); k++) {
        for (uint32_t i = 0; i < n; i++) {
            const struct ft_outcome *o = &outcome[i];
            const double all[] = { o->n_prompt, o->n_kept, o->n_kv_kept, (double)o->kv_bytes,
                                   o->ttft_ms };
            value[i] = all[k];
        }
        *out[k] = ft_spread_of(value, n).median;
    }
    return row;
}

static json_t *row_value(const struct eval *eval, const struct ft_cell *cell,
                         const struct row *row) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    json_object_set_new(value, "method", ft_json_text(eval->method));
    json_object_set_new(value, "score", json_real(row->score.mean));
    json_object_set_new(value, "low", json_real(row->score.low));
    json_object_set_new(value, "high", json_real(row->score.high));
    json_object_set_new(value, "samples", json_integer(eval->setup.conf->n_sample));
    json_object_set_new(value, "data", json_string(cell->data));
    json_object_set_new(value, "prompt_tokens", json_real(row->n_prompt));
    json_object_set_new(value, "kept_tokens", json_real(row->n_kept));
    json_object_set_new(value, "kept_rows", json_real(row->n_kv_kept));
    json_object_set_new(value, "kv_bytes", json_integer((json_int_t)row->kv_bytes));
    json_object_set_new(value, "ttft_ms", json_real(row->ttft_ms));
    json_object_set_new(value, "fallback_samples", json_integer(row->n_fallback));
    json_object_set_new(value, "fallback",
                        row->fallback ? ft_json_text(row->fallback) : json_null());
    return value;
}

/* The mean over the tasks of a length, as RULER averages. */
static double mean_of(const struct eval *eval, const struct row *row, uint32_t length) {
    double sum = 0;
    for (uint32_t i = 0; i < eval->n_task; i++) {
        sum += row[length * eval->n_task + i].score.mean;
    }
    return sum / eval->n_task;
}

static void print_json(const struct eval *eval, const struct row *row) {
    const struct ft_counts *ctx = &eval->setup.conf->ctx;
    json_t *root = json_object(), *rows = json_array(), *means = json_array();
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        json_array_append_new(rows, row_value(eval, &eval->cell[i], &row[i]));
    }
    for (uint32_t c = 0; c < ctx->n; c++) {
        json_t *mean = json_object();
        json_object_set_new(mean, "ctx", json_integer(ctx->value[c]));
        json_object_set_new(mean, "method", ft_json_text(eval->method));
        json_object_set_new(mean, "score", json_real(mean_of(eval, row, c)));
        json_object_set_new(mean, "tasks", json_integer(eval->n_task));
        json_array_append_new(means, mean);
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "means", means);
    json_object_set(root, "manifest", eval->manifest);
    ft_json_print(root);
}

static void print_text(const struct eval *eval, const struct row *row) {
    const struct ft_counts *ctx = &eval->setup.conf->ctx;
    char kv[24];
    ft_out("method  ");
    ft_out_safe(eval->method);
    ft_out("\n%-15s  %7s  %6s  %-15s  %8s  %8s  %-10s  %12s  %s\n", "task", "ctx", "score",
           "95 % interval", "read", "rows", "KV", "first token", "made of");
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        const struct row *r = &row[i];
        ft_out("%-15s  %7u  %6.2f  [%6.2f, %6.2f]  %8.0f  %8.0f  %-10s  %9.0f ms  %s\n", cell->name,
               cell->ctx, r->score.mean, r->score.low, r->score.high, r->n_kept, r->n_kv_kept,
               ft_size_text((uint64_t)r->kv_bytes, kv), r->ttft_ms, cell->data);
    }
    for (uint32_t c = 0; c < ctx->n && eval->n_task > 1; c++) {
        ft_out("%-15s  %7u  %6.2f\n", "mean", ctx->value[c], mean_of(eval, row, c));
    }
    ft_out("%u samples each, seed %llu; read, rows, KV and first token are medians\n",
           eval->setup.conf->n_sample, (unsigned long long)eval->seed);
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        if (row[i].n_fallback > 0) {
            ft_out("%s at %u, %u of the samples: ", eval->cell[i].name, eval->cell[i].ctx,
                   row[i].n_fallback);
            ft_out_safe(row[i].fallback);
            ft_out("\n");
        }
    }
}

static int print_rows(const struct eval *eval) {
    uint32_t n = eval->setup.conf->n_sample;
    struct row *row = ft_alloc(eval->n_cell, sizeof *row);
    double *value = ft_alloc(n, sizeof *value);
    int code = FT_EXIT_OK;
    if (!row || !value) {
        code = ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows", eval->n_cell);
    }
    for (uint32_t i = 0; i < eval->n_cell && code == FT_EXIT_OK; i++) {
        row[i] = row_of(eval->outcome + (size_t)i * n, n, value);
    }
    if (code == FT_EXIT_OK) {
        (eval->setup.conf->is_json ? print_json : print_text)(eval, row);
    }
    ft_free(row);
    ft_free(value);
    return code;
}

/* ---- the command ---- */

static void step(uint32_t done, uint32_t total, const struct ft_cell *cell, void *user) {
    struct ft_progress *progress = user;
    char text[96];
    snprintf(text, sizeof text, "%u/%u  %s, %u tokens", done + 1, total, cell->name, cell->ctx);
    ft_progress_clear(progress);
    ft_progress_stage(progress, text);
    if (progress->mode == FT_PROGRESS_PLAIN) {
        ft_note("%s", text);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        fprintf(stderr, "{\"event\":\"progress\",\"phase\":\"eval\",\"done\":%u,\"total\":%u}\n",
                done, total);
    }
}

static int run(struct eval *eval) {
    struct ft_setup *setup = &eval->setup;
    struct ft_error error = { 0 };
    struct ft_session_params session = setup->params;
    session.progress = NULL;
    const struct ft_suite_params params = {
        .target = setup->target,
        .draft = setup->draft,
        .session = &session,
        .suite = { .user = eval->ruler, .make = ft_ruler_make, .score = ft_ruler_score },
        .cell = eval->cell,
        .n_cell = eval->n_cell,
        .n_sample = setup->conf->n_sample,
        .method = eval->method,
        .is_chat = setup->conf->is_chat,
        .has_prefix = setup->conf->answer_prefix == FT_PREFIX_ON,
        .record = eval->record,
        .guard = ft_ui_guard,
        .step = step,
        .user = &setup->progress
    };
    eval->outcome = ft_alloc((size_t)eval->n_cell * setup->conf->n_sample, sizeof *eval->outcome);
    if (!eval->outcome) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the scores");
    }
    ft_status status = ft_suite_run(&params, eval->outcome, &error);
    ft_progress_clear(&setup->progress);
    return status == FT_OK ? print_rows(eval) : ft_complain_error(NULL, &error);
}

/* Everything up to the weights, cheapest checks first. */
static int prepare(struct eval *eval, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    int code = check_options(eval, conf);
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&eval->setup, conf);
    }
    if (code == FT_EXIT_OK) {
        code = read_texts(eval, conf);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&eval->setup, NULL);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    eval->seed = conf->seed.is_drawn ? (uint64_t)ft_time_us() : conf->seed.value;
    ft_method_label(eval->setup.params.prompt, eval->setup.params.kv, eval->method, LABEL_CAP);
    eval->manifest = manifest_of(eval);
    code = open_suite(eval);
    if (code == FT_EXIT_OK) {
        code = try_cells(eval);
    }
    if (code == FT_EXIT_OK &&
        ft_record_open(conf->out, eval->manifest, &eval->record, &error) != FT_OK) {
        code = ft_complain_error("--out", &error);
    }
    return code;
}

int ft_cmd_eval(const struct ft_conf *conf) {
    if (conf->n_arg > 0 && strcmp(conf->arg[0], "compare") == 0) {
        return ft_eval_compare(conf);
    }
    struct eval *eval = ft_alloc(1, sizeof *eval);
    if (!eval) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    int code = prepare(eval, conf);
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(&eval->setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(eval);
    }
    ft_record_close(eval->record);
    ft_ruler_free(eval->ruler);
    ft_free(eval->outcome);
    json_decref(eval->manifest);
    for (uint32_t i = 0; i < TEXTS; i++) {
        free(eval->text[i]);
    }
    ft_setup_done(&eval->setup);
    ft_free(eval);
    return code;
}
