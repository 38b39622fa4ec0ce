/* SPDX-License-Identifier: Apache-2.0 */
/* suite_longbench.c - `foretoken eval longbench DIR`: its options, files and cells. */
#include <string.h>

#include "cli/suites.h"
#include "eval/longbench_suite.h"

enum { CELL_CAP = FT_LONGBENCH_COUNT * FT_COUNTS_CAP };

struct longbench {
    uint32_t set[FT_LONGBENCH_COUNT], n_set; /* of --tasks */
    struct ft_longbench *made;
    struct ft_counts ctx;
    bool is_qwen3;
    struct ft_cell cell[CELL_CAP];
};

static int check(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    struct longbench *own = ft_alloc(1, sizeof *own);
    eval->own = own;
    if (!own) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    if (conf->n_arg < 2) {
        return ft_complain(FT_EXIT_USAGE, "eval longbench: in which folder are its files? "
                                          "foretoken eval longbench DIR -m FILE");
    }
    if (conf->n_arg > 2) {
        return ft_complain(FT_EXIT_USAGE, "eval longbench: unexpected argument \"%.100s\"",
                           conf->arg[2]);
    }
    if (ft_longbench_tasks(conf->tasks, own->set, &own->n_set, &error) != FT_OK) {
        return ft_complain_error("--tasks", &error);
    }
    return FT_EXIT_OK;
}

/* ---- texts as the model reads them ---- */

static ft_status split(const char *text, uint32_t **piece, uint32_t *n, void *user,
                       struct ft_error *error) {
    const ft_model *model = ((struct ft_eval *)user)->setup.target;
    struct ft_tokens tokens = { 0 };
    FT_TRY(ft_tokenize(model, text, strlen(text), 0, &tokens, error));
    uint32_t *out = ft_alloc(FT_MAX(tokens.n, 1u), sizeof *out);
    for (uint32_t i = 0; out && i < tokens.n; i++) {
        out[i] = (uint32_t)ft_token_piece(model, tokens.id[i], true, NULL, 0);
    }
    *piece = out;
    *n = tokens.n;
    ft_tokens_free(&tokens);
    return out ? FT_OK : ft_fail(error, FT_NOMEM, 0, "not enough memory for a prompt's tokens");
}

static ft_status count(const char *text, const char *prefix, bool is_raw, uint32_t *n, void *user,
                       struct ft_error *error) {
    const struct ft_eval *eval = user;
    const struct ft_chat chat = { .user = text, .begun = prefix, .is_plain = is_raw };
    struct ft_tokens tokens = { 0 };
    uint32_t n_head;
    FT_TRY(ft_chat_tokens(eval->setup.target, &chat, &tokens, &n_head, error));
    *n = tokens.n;
    ft_tokens_free(&tokens);
    return FT_OK;
}

/* ---- cells ---- */

/* Of the longest line, which is near enough to say beforehand what memory is needed. */
static ft_status longest_prompt(struct ft_eval *eval, struct ft_cell *cell,
                                struct ft_error *error) {
    struct longbench *own = eval->own;
    uint32_t index = ft_longbench_longest(own->made, cell->task, cell->n_sample);
    struct ft_sample sample = { .n_turn = 0 };
    FT_TRY(ft_longbench_make(own->made, cell->task, cell->ctx, index, &sample, error));
    ft_status status = count(sample.turn[0].text, sample.turn[0].prefix, sample.is_raw,
                             &cell->n_prompt, eval, error);
    ft_sample_done(&sample);
    return status;
}

static int add_cells(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct longbench *own = eval->own;
    struct ft_error error = { 0 };
    uint32_t n_ctx = ft_setup_context(&eval->setup);
    own->ctx = conf->ctx;
    if (!ft_conf_has(conf, "--ctx")) {
        own->ctx = (struct ft_counts){ .value = { n_ctx }, .n = 1 };
    }
    eval->cell = own->cell;
    ft_progress_stage(&eval->setup.progress, "making samples");
    for (uint32_t c = 0; c < own->ctx.n; c++) {
        for (uint32_t i = 0; i < ft_longbench_count(own->made); i++) {
            const struct ft_longbench_data *data = ft_longbench_data(own->made, i);
            struct ft_cell *cell = &own->cell[eval->n_cell++];
            bool is_part = ft_conf_has(conf, "--samples") && conf->n_sample < data->n_item;
            *cell = (struct ft_cell){ .task = i,
                                      .name = data->set->name,
                                      .data = data->name,
                                      .group = data->set->group,
                                      .ctx = own->ctx.value[c],
                                      .n_sample = is_part ? conf->n_sample : data->n_item };
            /* a length beyond the model's is refused where all suites' are */
            if (cell->ctx <= n_ctx && longest_prompt(eval, cell, &error) != FT_OK) {
                ft_progress_clear(&eval->setup.progress);
                return ft_complain_error(NULL, &error);
            }
        }
    }
    ft_progress_clear(&eval->setup.progress);
    return FT_EXIT_OK;
}

/* ---- the suite ---- */

static int open_longbench(struct ft_eval *eval) {
    struct longbench *own = eval->own;
    struct ft_model_info info;
    struct ft_error error = { 0 };
    ft_model_info(eval->setup.target, &info);
    eval->is_chat = info.has_chat_template;
    eval->has_prefix = true; /* the empty thought, or nothing */
    own->is_qwen3 = strcmp(info.arch, "qwen3") == 0;
    if (own->is_qwen3 && !info.has_chat_template) {
        return ft_complain(FT_EXIT_FAILED,
                           "%s: LongBench asks Qwen3 in its chat template, and the file has none",
                           eval->setup.conf->model);
    }
    const struct ft_longbench_params params = { .folder = eval->setup.conf->arg[1],
                                                .set = own->set,
                                                .n_set = own->n_set,
                                                .has_template = info.has_chat_template,
                                                .is_qwen3 = own->is_qwen3,
                                                .split = split,
                                                .count = count,
                                                .user = eval };
    if (ft_longbench_new(&params, &own->made, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    eval->ask = (struct ft_suite){ .user = own->made,
                                   .make = ft_longbench_make,
                                   .score = ft_longbench_score };
    return add_cells(eval);
}

/* The last part of the folder's name, which may end with a slash. */
static json_t *folder_name(const char *path) {
    char *copy = ft_strdup(path);
    for (size_t n = copy ? strlen(copy) : 0; n > 1 && copy[n - 1] == '/'; n--) {
        copy[n - 1] = '\0';
    }
    json_t *value = copy ? ft_json_text(ft_file_name(copy)) : json_null();
    ft_free(copy);
    return value;
}

static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    const struct longbench *own = eval->own;
    json_t *data = json_object();
    for (uint32_t i = 0; i < ft_longbench_count(own->made); i++) {
        const struct ft_longbench_data *d = ft_longbench_data(own->made, i);
        json_object_set_new(data, d->set->name, json_string(d->digest));
    }
    json_object_set_new(manifest, "data", data);
    json_object_set_new(files, "data", folder_name(eval->setup.conf->arg[1]));
}

static bool is_there(const struct longbench *own, const struct ft_longbench_set *set) {
    for (uint32_t i = 0; i < ft_longbench_count(own->made); i++) {
        if (ft_longbench_data(own->made, i)->set == set) {
            return true;
        }
    }
    return false;
}

/* Names of the datasets that no file was read for. */
static json_t *names_left(const struct longbench *own) {
    json_t *names = json_array();
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        if (!is_there(own, &ft_longbench_sets[i])) {
            json_array_append_new(names, json_string(ft_longbench_sets[i].name));
        }
    }
    return names;
}

static void remark_text(const struct ft_eval *eval, const json_t *left) {
    const struct longbench *own = eval->own;
    const struct ft_conf *conf = eval->setup.conf;
    if (ft_conf_has(conf, "--samples")) {
        ft_out("the first %u samples of each file (--samples)\n", conf->n_sample);
    } else {
        ft_out("all samples of each file\n");
    }
    for (size_t i = 0; i < json_array_size(left); i++) {
        const char *what = own->n_set > 0 ? "not asked (--tasks):" : "not there:";
        ft_out("%s %s%s", i == 0 ? what : ",", json_string_value(json_array_get(left, i)),
               i + 1 == json_array_size(left) ? "\n" : "");
    }
    ft_out("%s\n", !eval->is_chat  ? "the model has no chat template: every prompt is plain text"
                   : own->is_qwen3 ? "in the chat template, behind an empty thought"
                                   : "in the chat template, but for few-shot and code");
}

static void remark(const struct ft_eval *eval, json_t *root) {
    const struct longbench *own = eval->own;
    const struct ft_conf *conf = eval->setup.conf;
    json_t *left = names_left(own);
    if (root) {
        json_object_set(root, own->n_set > 0 ? "not_asked" : "missing", left);
        json_object_set_new(root, "first_samples",
                            ft_conf_has(conf, "--samples") ? json_integer(conf->n_sample)
                                                           : json_null());
    } else {
        remark_text(eval, left);
    }
    json_decref(left);
}

static void close_longbench(struct ft_eval *eval) {
    struct longbench *own = eval->own;
    if (own) {
        ft_longbench_free(own->made);
        ft_free(own);
    }
}

static const char *const unused[] = { "--file",   "--budgets",  "--chat",      "--answer-prefix",
                                      "--depths", "--haystack", "--words",     "--squad",
                                      "--hotpot", "--seed",     "--tolerance", NULL };

const struct ft_eval_kind ft_eval_longbench = { .name = "longbench",
                                                .is_fixed = true,
                                                .check = check,
                                                .open = open_longbench,
                                                .describe = describe,
                                                .remark = remark,
                                                .close = close_longbench,
                                                .unused = unused };
