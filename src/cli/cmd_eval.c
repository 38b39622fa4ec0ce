/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c - a suite of questions asked with one method, and a record of the answers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/suites.h"

static const struct ft_eval_kind *const kinds[] = { &ft_eval_ruler, &ft_eval_needle,
                                                    &ft_eval_longbench, &ft_eval_ppl,
                                                    &ft_eval_importance };

/* ---- the command line ---- */

/* "ruler, needle" into out [cap]. */
static void list_kinds(char *out, size_t cap) {
    size_t at = 0;
    for (size_t i = 0; i < FT_COUNT(kinds) && at < cap; i++) {
        int n = snprintf(out + at, cap - at, "%s%s", i > 0 ? ", " : "", kinds[i]->name);
        at += n > 0 ? (size_t)n : 0;
    }
}

static int find_kind(struct ft_eval *eval, const struct ft_conf *conf) {
    char list[160];
    for (size_t i = 0; i < FT_COUNT(kinds) && conf->n_arg > 0; i++) {
        if (strcmp(conf->arg[0], kinds[i]->name) == 0) {
            eval->kind = kinds[i];
            return FT_EXIT_OK;
        }
    }
    list_kinds(list, sizeof list);
    return conf->n_arg > 0
               ? ft_complain(FT_EXIT_USAGE, "eval: no suite \"%.100s\"; there are: %s; and compare",
                             conf->arg[0], list)
               : ft_complain(FT_EXIT_USAGE, "eval: which suite? there are: %s; and compare", list);
}

/* An option that a suite does not read would be left out silently. */
static int check_unused(const struct ft_eval *eval) {
    for (const char *const *option = eval->kind->unused; *option; option++) {
        if (ft_conf_has(eval->setup.conf, *option)) {
            return ft_complain(FT_EXIT_USAGE, "eval %s has no use for %s", eval->kind->name,
                               *option);
        }
    }
    return FT_EXIT_OK;
}

static int check_options(struct ft_eval *eval, const struct ft_conf *conf) {
    int code = find_kind(eval, conf);
    eval->setup.conf = conf;
    if (code == FT_EXIT_OK) {
        code = check_unused(eval);
    }
    if (code == FT_EXIT_OK) {
        code = eval->kind->check(eval);
    }
    if (code == FT_EXIT_OK && conf->out && strcmp(conf->out, "-") == 0) {
        code = ft_complain(FT_EXIT_USAGE,
                           "--out is \"-\", expected a file name: a later run goes on with the "
                           "record, so it cannot be standard output");
    }
    if (code == FT_EXIT_OK && !eval->kind->takes_methods &&
        (conf->prompt.n > 1 || conf->kv.n > 1)) {
        code = ft_complain(FT_EXIT_USAGE,
                           "%s is given %u times, eval runs one method; run it again for the "
                           "other, with the same --out",
                           conf->kv.n > 1 ? "--kv" : "--prompt",
                           conf->kv.n > 1 ? conf->kv.n : conf->prompt.n);
    }
    return code;
}

/* ---- the manifest ---- */

static json_t *fingerprint_of(const struct ft_eval *eval) {
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

static json_t *manifest_of(const struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    const struct ft_session_params *params = &eval->setup.params;
    struct ft_model_info info;
    json_t *value = json_object(), *files = json_object();
    ft_model_info(eval->setup.target, &info);
    json_object_set_new(value, "suite", json_string(eval->kind->name));
    json_object_set_new(value, "version", json_string(ft_version()));
    json_object_set_new(value, "target", json_string(info.fingerprint));
    json_object_set_new(value, "draft", fingerprint_of(eval));
    json_object_set_new(value, "seed", json_integer((json_int_t)eval->seed));
    json_object_set_new(value, "chat", json_boolean(eval->is_chat));
    json_object_set_new(value, "kv_type", json_string(ft_bench_kv_type(&eval->setup)));
    json_object_set_new(value, "exact", json_boolean(conf->is_exact));
    json_object_set_new(value, "rope_scale", json_real((double)params->rope_scale));
    json_object_set_new(files, "target", ft_json_text(ft_file_name(conf->model)));
    json_object_set_new(files, "draft",
                        conf->draft ? ft_json_text(ft_file_name(conf->draft)) : json_null());
    eval->kind->describe(eval, value, files);
    json_object_set_new(value, "files", files);
    return value;
}

/* ---- samples ---- */

ft_status ft_eval_count(const char *text, const char *prefix, uint32_t *n, void *user,
                        struct ft_error *error) {
    const struct ft_eval *eval = user;
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

/* The last sample of every cell is made before weights are loaded: what cannot be is said now. */
static int try_cells(struct ft_eval *eval) {
    struct ft_error error = { 0 };
    uint32_t n_prompt = 0, n_ctx = ft_setup_context(&eval->setup);
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        struct ft_sample sample = { .n_turn = 0 };
        if (cell->ctx > n_ctx) {
            return ft_complain(FT_EXIT_FAILED,
                               "--ctx %u is beyond the %u tokens that %s was trained for",
                               cell->ctx, n_ctx, eval->setup.conf->model);
        }
        if (!eval->ask.make) { /* it has said itself what cannot be */
            uint32_t n_more = eval->setup.params.n_predict;
            n_prompt = FT_MAX(n_prompt, cell->ctx - FT_MIN(n_more, cell->ctx - 1));
            continue;
        }
        ft_progress_stage(&eval->setup.progress, "making samples");
        if (eval->ask.make(eval->ask.user, cell->task, cell->ctx, cell->n_sample - 1, &sample,
                           &error) != FT_OK) {
            ft_progress_clear(&eval->setup.progress);
            return ft_complain_error(NULL, &error);
        }
        uint32_t n_predict = sample.n_predict * sample.n_turn;
        eval->setup.params.n_predict = FT_MAX(eval->setup.params.n_predict, n_predict);
        uint32_t n_room = cell->ctx - FT_MIN(n_predict, cell->ctx - 1);
        n_prompt = FT_MAX(n_prompt, cell->n_prompt > 0 ? FT_MIN(cell->n_prompt, n_room) : n_room);
        ft_sample_done(&sample);
    }
    ft_progress_clear(&eval->setup.progress);
    return ft_setup_fit(&eval->setup, n_prompt);
}

/* ---- the command ---- */

static void step(uint64_t done, uint64_t total, const struct ft_cell *cell, void *user) {
    struct ft_progress *progress = user;
    char text[96];
    snprintf(text, sizeof text, "%" PRIu64 "/%" PRIu64 "  %s, %u tokens", done + 1, total,
             cell->name, cell->ctx);
    ft_progress_clear(progress);
    ft_progress_stage(progress, text);
    if (progress->mode == FT_PROGRESS_PLAIN) {
        ft_note("%s", text);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        fprintf(stderr,
                "{\"event\":\"progress\",\"phase\":\"eval\",\"done\":%" PRIu64 ",\"total\":%" PRIu64
                "}\n",
                done, total);
    }
}

static int run(struct ft_eval *eval) {
    struct ft_setup *setup = &eval->setup;
    struct ft_error error = { 0 };
    struct ft_session_params session = setup->params;
    session.progress = NULL;
    const struct ft_suite_params params = { .target = setup->target,
                                            .draft = setup->draft,
                                            .session = &session,
                                            .suite = eval->ask,
                                            .cell = eval->cell,
                                            .n_cell = eval->n_cell,
                                            .method = eval->method,
                                            .is_chat = eval->is_chat,
                                            .has_prefix = eval->has_prefix,
                                            .record = eval->record,
                                            .guard = ft_ui_guard,
                                            .step = step,
                                            .user = &setup->progress };
    eval->outcome = ft_alloc(ft_cells_sum(eval->cell, eval->n_cell), sizeof *eval->outcome);
    if (!eval->outcome) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the scores");
    }
    ft_status status = ft_suite_run(&params, eval->outcome, &error);
    ft_progress_clear(&setup->progress);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    return eval->kind->print ? eval->kind->print(eval) : ft_eval_print(eval);
}

/* Everything up to the weights, cheapest checks first. */
static int prepare(struct ft_eval *eval, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    int code = check_options(eval, conf);
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&eval->setup, conf);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&eval->setup, NULL);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    eval->is_chat = conf->is_chat;
    eval->has_prefix = conf->answer_prefix == FT_PREFIX_ON;
    eval->seed = conf->seed.is_drawn ? (uint64_t)ft_time_us() : conf->seed.value;
    ft_method_label(eval->setup.params.prompt, eval->setup.params.kv, eval->method,
                    FT_EVAL_LABEL_CAP);
    code = eval->kind->open(eval);
    if (code == FT_EXIT_OK) {
        eval->manifest = manifest_of(eval);
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
    struct ft_eval *eval = ft_alloc(1, sizeof *eval);
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
    if (eval->kind) {
        eval->kind->close(eval);
    }
    ft_free(eval->outcome);
    json_decref(eval->manifest);
    ft_setup_done(&eval->setup);
    ft_free(eval);
    return code;
}
