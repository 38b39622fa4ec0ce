/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c - a suite of questions asked with some methods, and a record of the answers. */
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
               ? ft_complain(FT_EXIT_USAGE,
                             "eval: no suite \"%.100s\"; there are: %s; and sweep, compare, join",
                             conf->arg[0], list)
               : ft_complain(FT_EXIT_USAGE,
                             "eval: which suite? there are: %s; and sweep, compare, join", list);
}

static int make_grid(struct ft_eval *eval) {
    static const struct ft_grid_block dense = { .keep = NULL };
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    eval->grid.kv_type = conf->is_exact ? "f32" : "f16";
    eval->grid.calibrated = eval->setup.calibrated;
    if (eval->kind->takes_methods) { /* its cells say which, all in one format */
        if (conf->kv_types.n > 1) {
            return ft_complain(FT_EXIT_USAGE, "eval %s: --kv-type is given %u times, expected one",
                               eval->kind->name, conf->kv_types.n);
        }
        if (conf->kv_types.n > 0) {
            eval->grid.kv_type = ft_setup_kv_type(&eval->setup, conf->kv_types.text[0]);
        }
        return ft_grid_add(&eval->grid, &dense, &error) == FT_OK ? FT_EXIT_OK
                                                                 : ft_complain_error(NULL, &error);
    }
    for (uint32_t i = 0; i < eval->plan->n_block; i++) {
        if (ft_grid_add(&eval->grid, &eval->plan->block[i], &error) != FT_OK) {
            return ft_complain_error(NULL, &error);
        }
    }
    return ft_grid_check(&eval->grid);
}

/* "results.jsonl" -> "results.shard-2-of-8.jsonl". */
static int set_path(struct ft_eval *eval) {
    const char *out = eval->setup.conf->out;
    int n = 0;
    if (out && eval->shard.n == 0) {
        n = snprintf(eval->path, sizeof eval->path, "%s", out);
    } else if (out) {
        size_t n_stem = strlen(out);
        n_stem -= n_stem > 6 && strcmp(out + n_stem - 6, ".jsonl") == 0 ? 6 : 0;
        n = snprintf(eval->path, sizeof eval->path, "%.*s.shard-%u-of-%u%s", (int)n_stem, out,
                     eval->shard.i, eval->shard.n, out + n_stem);
    }
    return n >= 0 && (size_t)n < sizeof eval->path
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_FAILED, "--out: a name of %zu bytes is too long", strlen(out));
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

/* A length that stands twice would count twice in the mean. */
static int check_lengths(const struct ft_conf *conf) {
    for (uint32_t i = 0; i < conf->ctx.n; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (conf->ctx.value[k] == conf->ctx.value[i]) {
                return ft_complain(FT_EXIT_USAGE, "--ctx has %u twice", conf->ctx.value[i]);
            }
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
        code = check_lengths(conf);
    }
    if (code == FT_EXIT_OK) {
        code = eval->kind->check(eval);
    }
    if (code == FT_EXIT_OK && conf->out && strcmp(conf->out, "-") == 0) {
        code = ft_complain(FT_EXIT_USAGE,
                           "--out is \"-\", expected a file name: a later run goes on with the "
                           "record, so it cannot be standard output");
    }
    return code == FT_EXIT_OK ? set_path(eval) : code;
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

/* Which methods need more memory than there is: each is said. */
static int check_memory(const struct ft_eval *eval, uint32_t n_prompt) {
    int code = FT_EXIT_OK;
    for (uint32_t m = 0; m < eval->grid.n; m++) {
        int found = ft_setup_fit_case(&eval->setup, &eval->grid.all[m], n_prompt);
        code = found == FT_EXIT_OK ? code : found;
    }
    return code;
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
    return check_memory(eval, n_prompt);
}

/* ---- one plan ---- */

static void step(const struct ft_suite_step *now, void *user) {
    char text[FT_EVAL_LABEL_CAP + 96] = "done";
    if (now->cell) {
        snprintf(text, sizeof text, "%s, %u tokens, %s", now->cell->name, now->cell->ctx,
                 now->method);
    }
    ft_progress_count(user, "eval", now->done, now->total, now->left_s, text);
}

/* Everything up to the weights, cheapest checks first. */
static int prepare(struct ft_eval *eval) {
    const struct ft_conf *conf = &eval->plan->conf;
    struct ft_error error = { 0 };
    int code = check_options(eval, conf);
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&eval->setup, conf);
    }
    if (code == FT_EXIT_OK) {
        code = make_grid(eval);
        eval->setup.params.kv_type = eval->grid.kv_type;
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&eval->setup, NULL);
    }
    eval->is_chat = conf->is_chat;
    eval->has_prefix = conf->answer_prefix == FT_PREFIX_ON;
    if (code == FT_EXIT_OK) {
        code = eval->kind->open(eval);
    }
    if (code == FT_EXIT_OK) {
        eval->manifest = ft_eval_manifest(eval);
        code = try_cells(eval);
    }
    if (code == FT_EXIT_OK && ft_record_open(eval->path[0] ? eval->path : NULL, eval->manifest,
                                             &eval->record, &error) != FT_OK) {
        code = ft_complain_error("--out", &error);
    }
    return code;
}

/* What the record misses; weights are read only where that is something. */
static int run(struct ft_eval *eval) {
    struct ft_setup *setup = &eval->setup;
    struct ft_error error = { 0 };
    struct ft_session_params session = setup->params;
    session.progress = NULL;
    struct ft_suite_params params = { .session = &session,
                                      .suite = eval->ask,
                                      .cell = eval->cell,
                                      .n_cell = eval->n_cell,
                                      .method = eval->grid.all,
                                      .n_method = eval->grid.n,
                                      .shard = eval->shard,
                                      .is_chat = eval->is_chat,
                                      .has_prefix = eval->has_prefix,
                                      .record = eval->record,
                                      .guard = ft_ui_guard,
                                      .step = step,
                                      .user = &setup->progress };
    if (ft_suite_missing(&params) == 0) {
        return FT_EXIT_OK;
    }
    int code = ft_setup_load(setup);
    if (code != FT_EXIT_OK) {
        return code;
    }
    params.target = setup->target;
    params.draft = setup->draft;
    ft_status status = ft_suite_run(&params, &error);
    ft_progress_clear(&setup->progress);
    return status == FT_OK ? FT_EXIT_OK : ft_complain_error(NULL, &error);
}

static void finish(struct ft_eval *eval) {
    ft_record_close(eval->record);
    if (eval->kind) {
        eval->kind->close(eval);
    }
    json_decref(eval->manifest);
    ft_grid_done(&eval->grid);
    ft_setup_done(&eval->setup);
    *eval = (struct ft_eval){ .kind = NULL };
}

/* ---- all plans ---- */

static void print_models(const struct ft_conf *conf) {
    ft_out("model   ");
    ft_out_safe(ft_file_name(conf->model));
    if (conf->draft) {
        ft_out("\ndraft   ");
        ft_out_safe(ft_file_name(conf->draft));
    }
    ft_out("\n");
}

/* JSON: a sweep's results go into the list. */
static int run_one(struct ft_eval *eval, json_t *list) {
    json_t *value = NULL;
    int code = run(eval);
    if (code == FT_EXIT_OK && eval->setup.conf->is_json) {
        code = (eval->kind->value ? eval->kind->value : ft_eval_value)(eval, &value);
    } else if (code == FT_EXIT_OK) {
        if (list) {
            print_models(eval->setup.conf);
        }
        code = (eval->kind->print ? eval->kind->print : ft_eval_print)(eval);
        ft_out_flush();
    }
    if (value && list) {
        json_array_append_new(list, value);
    } else if (value) {
        ft_json_print(value);
    }
    return code;
}

/* The part that is ours: as asked, else as the environment says; n 0 where that is all. */
static int choose_shard(const struct ft_conf *conf, struct ft_shard *out) {
    struct ft_error error = { 0 };
    char source[48] = "";
    *out = conf->shard;
    if (out->n == 0 && ft_shard_environment(out, source, sizeof source, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (source[0] && out->n > 0) {
        ft_note("--shard %u/%u, as %s says", out->i, out->n, source);
    }
    if (out->n == 1) {
        out->n = 0;
    }
    return out->n > 0 && conf->seed.is_drawn
               ? ft_complain(FT_EXIT_USAGE,
                             "--seed -1 draws other samples for every part; give all of --shard "
                             "%u/%u the same seed",
                             out->i, out->n)
               : FT_EXIT_OK;
}

static int run_all(struct ft_eval *eval, uint32_t n, json_t *list) {
    int code = FT_EXIT_OK;
    for (uint32_t i = 0; i < n && code == FT_EXIT_OK; i++) {
        code = prepare(&eval[i]);
    }
    for (uint32_t i = 0; i < n && code == FT_EXIT_OK; i++) {
        code = run_one(&eval[i], list);
        finish(&eval[i]);
    }
    return code;
}

int ft_eval_plans(const struct ft_eval_plan *plan, uint32_t n) {
    const struct ft_conf *conf = &plan[0].conf;
    struct ft_shard shard;
    int code = choose_shard(conf, &shard);
    if (code != FT_EXIT_OK) {
        return code;
    }
    struct ft_eval *eval = ft_alloc(n, sizeof *eval);
    json_t *list = n > 1 ? json_array() : NULL;
    uint64_t seed = conf->seed.is_drawn ? (uint64_t)ft_time_us() : conf->seed.value;
    if (!eval || (n > 1 && !list)) {
        code = ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    for (uint32_t i = 0; i < n && code == FT_EXIT_OK; i++) {
        eval[i].plan = &plan[i];
        eval[i].seed = seed;
        eval[i].shard = shard;
    }
    if (code == FT_EXIT_OK) {
        code = run_all(eval, n, list);
    }
    for (uint32_t i = 0; i < n && eval; i++) {
        finish(&eval[i]);
    }
    if (code == FT_EXIT_OK && list && conf->is_json) {
        ft_json_print(json_incref(list));
    }
    json_decref(list);
    ft_free(eval);
    return code;
}

static int run_suite(const struct ft_conf *conf) {
    const struct ft_grid_block block = {
        .prompt = conf->prompt, .kv = conf->kv, .kv_type = conf->kv_types, .keep = conf->keep
    };
    struct ft_eval_plan *plan = ft_alloc(1, sizeof *plan);
    if (!plan) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    *plan = (struct ft_eval_plan){ .conf = *conf, .block = &block, .n_block = 1 };
    int code = ft_eval_plans(plan, 1);
    ft_free(plan);
    return code;
}

/* Options of `eval` that belong to suites, typed for a command that reads records. */
static int check_read_only(const struct ft_conf *conf, const char *const *used) {
    uint32_t n;
    const struct ft_option *options = ft_conf_options(&n);
    for (uint32_t i = 0; i < n; i++) {
        char name[48];
        bool is_used = !conf->is_given[i] || options[i].commands == UINT32_MAX;
        ft_option_name(&options[i], name, sizeof name);
        for (uint32_t k = 0; !is_used && used[k]; k++) {
            is_used = strcmp(used[k], name) == 0;
        }
        if (!is_used) {
            return ft_complain(FT_EXIT_USAGE, "eval %s has no use for %s", conf->arg[0], name);
        }
    }
    return FT_EXIT_OK;
}

static int compare(const struct ft_conf *conf) {
    static const char *const used[] = { "--tolerance", "--json", "--progress", NULL };
    int code = check_read_only(conf, used);
    return code == FT_EXIT_OK ? ft_eval_compare(conf) : code;
}

static int join(const struct ft_conf *conf) {
    static const char *const used[] = { "--json", "--progress", NULL };
    int code = check_read_only(conf, used);
    return code == FT_EXIT_OK ? ft_eval_join(conf) : code;
}

int ft_cmd_eval(const struct ft_conf *conf) {
    static const struct {
        const char *name;
        int (*run)(const struct ft_conf *conf);
    } other[] = { { "sweep", ft_eval_sweep }, { "compare", compare }, { "join", join } };
    for (size_t i = 0; i < FT_COUNT(other) && conf->n_arg > 0; i++) {
        if (strcmp(conf->arg[0], other[i].name) == 0) {
            return other[i].run(conf);
        }
    }
    return run_suite(conf);
}
