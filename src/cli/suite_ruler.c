/* SPDX-License-Identifier: Apache-2.0 */
/* suite_ruler.c - `foretoken eval ruler`: its options and cells. */
#include "cli/suites.h"

enum { CELL_CAP = FT_RULER_TASK_CAP * FT_COUNTS_CAP };

struct ruler {
    struct ft_eval_texts texts;
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

/* ---- samples ---- */

static void add_cells(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ruler *ruler = eval->own;
    for (uint32_t c = 0; c < conf->ctx.n; c++) {
        for (uint32_t i = 0; i < ruler->n_task; i++) {
            ruler->cell[eval->n_cell++] =
                (struct ft_cell){ .task = ruler->task[i],
                                  .name = ft_ruler_name(ruler->task[i]),
                                  .data = ft_ruler_data(ruler->texts.made, ruler->task[i]),
                                  .ctx = conf->ctx.value[c],
                                  .n_sample = conf->n_sample };
        }
    }
    eval->cell = ruler->cell;
}

static int open_ruler(struct ft_eval *eval) {
    struct ruler *ruler = eval->own;
    int code = ft_eval_texts_open(&ruler->texts, FT_EVAL_TEXTS, eval);
    if (code == FT_EXIT_OK) {
        eval->ask = (struct ft_suite){ .user = ruler->texts.made,
                                       .make = ft_ruler_make,
                                       .score = ft_ruler_score };
        add_cells(eval);
    }
    return code;
}

static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    const struct ruler *ruler = eval->own;
    ft_eval_texts_describe(&ruler->texts, eval->setup.conf, manifest, files);
}

static void close_ruler(struct ft_eval *eval) {
    struct ruler *ruler = eval->own;
    if (ruler) {
        ft_eval_texts_close(&ruler->texts);
        ft_free(ruler);
    }
}

static const char *const unused[] = { "--file", "--depths", "--budgets", "--tolerance", NULL };

const struct ft_eval_kind ft_eval_ruler = { .name = "ruler",
                                            .check = check,
                                            .open = open_ruler,
                                            .describe = describe,
                                            .close = close_ruler,
                                            .unused = unused };
