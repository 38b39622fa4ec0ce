/* SPDX-License-Identifier: Apache-2.0 */
/* suite_ruler.c - `foretoken eval ruler`: its options, texts and cells. */
#include <stdlib.h>
#include <string.h>

#include "cli/suites.h"
#include "eval/ruler.h"

enum { CELL_CAP = FT_RULER_TASK_CAP * FT_COUNTS_CAP, TEXTS = 4 };

struct ruler {
    char *text[TEXTS]; /* haystack, words, squad, hotpot; NULL: not given */
    struct ft_ruler *made;
    uint32_t task[FT_RULER_TASK_CAP], n_task;
    struct ft_cell cell[CELL_CAP];
};

static int check(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    struct ruler *ruler = ft_alloc(1, sizeof *ruler);
    eval->own = ruler;
    if (!ruler) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    if (conf->n_arg > 1) {
        return ft_complain(FT_EXIT_USAGE, "eval ruler: unexpected argument \"%.100s\"",
                           conf->arg[1]);
    }
    if (ft_ruler_tasks(conf->tasks, ruler->task, &ruler->n_task, &error) != FT_OK) {
        return ft_complain_error("--tasks", &error);
    }
    for (uint32_t i = 0; i < ruler->n_task && conf->is_chat; i++) {
        if (ft_ruler_turns(ruler->task[i]) > 1) {
            return ft_complain(FT_EXIT_USAGE,
                               "%s goes on in plain text after an answer; leave --chat out",
                               ft_ruler_name(ruler->task[i]));
        }
    }
    return FT_EXIT_OK;
}

/* ---- texts ---- */

static const char *const text_option[TEXTS] = { "haystack", "words", "squad", "hotpot" };

static const char *path_of(const struct ft_conf *conf, uint32_t i) {
    const char *const path[TEXTS] = { conf->haystack, conf->words, conf->squad, conf->hotpot };
    return path[i];
}

static int read_texts(struct ruler *ruler, const struct ft_conf *conf) {
    int code = FT_EXIT_OK;
    for (uint32_t i = 0; i < TEXTS && code == FT_EXIT_OK; i++) {
        const char *path = path_of(conf, i);
        size_t n;
        code = path ? ft_read_document(path, &ruler->text[i], &n) : FT_EXIT_OK;
    }
    return code;
}

/* Names of files are told but not compared: what is in them is. */
static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    static const char *const made[TEXTS] = { "synthetic haystack", "generated words",
                                             "synthetic questions", "synthetic two-hop questions" };
    const struct ft_conf *conf = eval->setup.conf;
    const struct ruler *ruler = eval->own;
    json_object_set_new(manifest, "answer_prefix",
                        json_boolean(conf->answer_prefix == FT_PREFIX_ON));
    for (uint32_t i = 0; i < TEXTS; i++) {
        const char *path = path_of(conf, i);
        json_object_set_new(manifest, text_option[i],
                            ruler->text[i] ? ft_json_digest(ruler->text[i]) : json_string(made[i]));
        json_object_set_new(files, text_option[i],
                            path ? ft_json_text(ft_file_name(path)) : json_null());
    }
}

/* ---- samples ---- */

static void add_cells(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ruler *ruler = eval->own;
    for (uint32_t c = 0; c < conf->ctx.n; c++) {
        for (uint32_t i = 0; i < ruler->n_task; i++) {
            ruler->cell[eval->n_cell++] =
                (struct ft_cell){ .task = ruler->task[i],
                                  .name = ft_ruler_name(ruler->task[i]),
                                  .data = ft_ruler_data(ruler->made, ruler->task[i]),
                                  .ctx = conf->ctx.value[c],
                                  .n_sample = conf->n_sample };
        }
    }
    eval->cell = ruler->cell;
}

static int open_ruler(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ruler *ruler = eval->own;
    struct ft_error error = { 0 };
    int code = read_texts(ruler, conf);
    const struct ft_ruler_params params = { .seed = eval->seed,
                                            .has_prefix = conf->answer_prefix == FT_PREFIX_ON,
                                            .haystack = ruler->text[0],
                                            .words = ruler->text[1],
                                            .squad = ruler->text[2],
                                            .hotpot = ruler->text[3],
                                            .count = ft_eval_count,
                                            .user = eval };
    if (code == FT_EXIT_OK && ft_ruler_new(&params, &ruler->made, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK) {
        eval->ask = (struct ft_suite){ .user = ruler->made,
                                       .make = ft_ruler_make,
                                       .score = ft_ruler_score };
        add_cells(eval);
    }
    return code;
}

static void close_ruler(struct ft_eval *eval) {
    struct ruler *ruler = eval->own;
    if (ruler) {
        ft_ruler_free(ruler->made);
        for (uint32_t i = 0; i < TEXTS; i++) {
            free(ruler->text[i]);
        }
        ft_free(ruler);
    }
}

const struct ft_eval_kind ft_eval_ruler = {
    .name = "ruler", .check = check, .open = open_ruler, .describe = describe, .close = close_ruler
};
