/* SPDX-License-Identifier: Apache-2.0 */
/* suite_needle.c - `foretoken eval needle`: a needle of RULER's at every depth of every length. */
#include <stdio.h>

#include "cli/suites.h"

enum { CELL_CAP = FT_COUNTS_CAP * FT_COUNTS_CAP, NAME_CAP = 16 };

struct needle {
    struct ft_eval_texts texts;
    struct ft_needle ask;
    char name[FT_COUNTS_CAP][NAME_CAP]; /* of the depths: "needle@30" */
    struct ft_cell cell[CELL_CAP];
};

/* The kind of needle: one of RULER's tasks. */
static int take_task(struct needle *needle, const char *list) {
    uint32_t task[FT_RULER_TASK_CAP], n;
    struct ft_error error = { 0 };
    if (ft_ruler_tasks(list ? list : "niah_single_2", task, &n, &error) != FT_OK) {
        return ft_complain_error("--tasks", &error);
    }
    if (n != 1 || !ft_ruler_is_single(task[0])) {
        return ft_complain(FT_EXIT_USAGE,
                           "eval needle: --tasks is \"%.100s\", expected one of niah_single_1, "
                           "niah_single_2, niah_single_3",
                           list);
    }
    needle->ask.task = task[0];
    return FT_EXIT_OK;
}

static int check(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    const struct ft_counts *depths = &conf->depths;
    struct needle *needle = ft_alloc(1, sizeof *needle);
    eval->own = needle;
    if (!needle) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    if (conf->n_arg > 1) {
        return ft_complain(FT_EXIT_USAGE, "eval needle: unexpected argument \"%.100s\"",
                           conf->arg[1]);
    }
    for (uint32_t i = 0; i < depths->n; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (depths->value[i] == depths->value[k]) {
                return ft_complain(FT_EXIT_USAGE, "--depths holds %u twice", depths->value[i]);
            }
        }
        snprintf(needle->name[i], NAME_CAP, "needle@%u", depths->value[i]);
    }
    return take_task(needle, conf->tasks);
}

static void add_cells(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct needle *needle = eval->own;
    for (uint32_t c = 0; c < conf->ctx.n; c++) {
        for (uint32_t i = 0; i < conf->depths.n; i++) {
            needle->cell[eval->n_cell++] =
                (struct ft_cell){ .task = conf->depths.value[i],
                                  .name = needle->name[i],
                                  .data = ft_ruler_data(needle->texts.made, needle->ask.task),
                                  .ctx = conf->ctx.value[c],
                                  .n_sample = conf->n_sample,
                                  .has_depth = true,
                                  .depth = conf->depths.value[i] };
        }
    }
    eval->cell = needle->cell;
}

static int open_needle(struct ft_eval *eval) {
    struct needle *needle = eval->own;
    int code = ft_eval_texts_open(&needle->texts, 2, eval);
    if (code == FT_EXIT_OK) {
        needle->ask.ruler = needle->texts.made;
        eval->ask = (struct ft_suite){ .user = &needle->ask,
                                       .make = ft_needle_make,
                                       .score = ft_needle_score };
        add_cells(eval);
    }
    return code;
}

static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    const struct needle *needle = eval->own;
    json_object_set_new(manifest, "needle", json_string(ft_ruler_name(needle->ask.task)));
    ft_eval_texts_describe(&needle->texts, eval->setup.conf, manifest, files);
}

static void close_needle(struct ft_eval *eval) {
    struct needle *needle = eval->own;
    if (needle) {
        ft_eval_texts_close(&needle->texts);
        ft_free(needle);
    }
}

static const char *const unused[] = { "--file",   "--budgets",   "--squad",
                                      "--hotpot", "--tolerance", NULL };

const struct ft_eval_kind ft_eval_needle = { .name = "needle",
                                             .check = check,
                                             .open = open_needle,
                                             .describe = describe,
                                             .close = close_needle,
                                             .unused = unused };
