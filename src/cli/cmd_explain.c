/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_explain.c - a document as an HTML page that shows what each method threw away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { SPEC_CAP = 64 };

static bool has_keep(const struct ft_method_info *info) {
    for (uint32_t i = 0; i < info->n_param; i++) {
        if (strcmp(info->param[i].name, "keep") == 0) {
            return true;
        }
    }
    return false;
}

/* What these models can run of all methods there are, a quarter kept. */
static void every_method(struct ft_cases *cases, char (*spec_of)[SPEC_CAP],
                         struct ft_setup *setup) {
    bool has_draft = setup->conf->draft != NULL, writes = has_draft && setup->self_layers == 0;
    cases->n = 0;
    for (uint32_t i = 0; i < ft_method_count() && cases->n < FT_CASES_CAP; i++) {
        const struct ft_method_info *info = ft_method_info(i);
        if (!has_keep(info) || (info->needs_draft && !has_draft) ||
            (info->needs_draft_text && !writes)) {
            continue;
        }
        char *spec = spec_of[cases->n], *label = cases->label[cases->n];
        bool is_prompt = info->stage == FT_STAGE_PROMPT;
        snprintf(spec, SPEC_CAP, "%s:keep=25%%", info->name);
        ft_method_label(is_prompt ? spec : NULL, is_prompt ? NULL : spec, label, FT_LABEL_CAP);
        cases->all[cases->n++] = (struct ft_bench_case){ .prompt = is_prompt ? spec : NULL,
                                                         .kv = is_prompt ? NULL : spec,
                                                         .label = label };
        setup->needs_draft = setup->needs_draft || info->needs_draft;
    }
    setup->params.self_layers = setup->needs_draft ? setup->self_layers : 0;
}

static bool is_given(const struct ft_conf *conf) {
    return conf->prompt.n + conf->kv.n > 0;
}

/* Every case against this prompt and the memory there is.  A method that nobody asked for by name and
 * that cannot run on this prompt is left out. */
static int check_cases(struct ft_cases *cases, struct ft_setup *setup, uint32_t n_prompt) {
    const ft_model *draft = setup->needs_draft ? setup->draft : NULL;
    struct ft_error error = { 0 };
    uint32_t n = 0;
    for (uint32_t i = 0; i < cases->n; i++) {
        struct ft_estimate estimate;
        setup->params.prompt = cases->all[i].prompt;
        setup->params.kv = cases->all[i].kv;
        ft_status status =
            ft_estimate(setup->target, draft, &setup->params, n_prompt, &estimate, &error);
        if (status != FT_OK && !is_given(setup->conf)) {
            ft_note("%s is left out: %s", cases->all[i].label, error.text);
            continue;
        }
        int code = ft_setup_fit(setup, n_prompt);
        if (code != FT_EXIT_OK) {
            return code;
        }
        cases->all[n++] = cases->all[i];
    }
    cases->n = n;
    return n > 0
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_FAILED, "no method can run on this prompt at keep=25%%; give "
                                             "one with --prompt or --kv");
}

static void step(uint32_t done, uint32_t total, const char *label, void *user) {
    char text[320];
    snprintf(text, sizeof text, "%u of %u: %s", done + 1, total, label);
    ft_progress_stage(user, text);
    ft_progress_start(user);
}

static int write_page(const struct ft_explain_params *params, const struct ft_explain_view *view,
                      const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    struct ft_save *save = NULL;
    const char *title = conf->file ? ft_file_name(conf->file) : "The prompt";
    ft_status status = ft_save_open(ft_page_path(conf->out), &save, &error);
    if (status == FT_OK) {
        status = ft_explain_save(params, view, title, save, &error);
    }
    return status == FT_OK ? FT_EXIT_OK : ft_complain_error(conf->out ? "--out" : NULL, &error);
}

static int run(struct ft_setup *setup, const struct ft_cases *cases, const struct ft_tokens *tokens,
               uint32_t n_head) {
    struct ft_error error = { 0 };
    struct ft_explain_params params = { .target = setup->target,
                                        .draft = setup->draft,
                                        .session = &setup->params,
                                        .cases = cases->all,
                                        .n_case = cases->n,
                                        .id = tokens->id,
                                        .n = tokens->n,
                                        .n_head = n_head,
                                        .guard = ft_ui_guard,
                                        .step = step,
                                        .user = &setup->progress };
    struct ft_explain_view *view = ft_alloc(cases->n, sizeof *view);
    if (!view) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u views", cases->n);
    }
    ft_status status = ft_explain_run(&params, view, &error);
    ft_progress_clear(&setup->progress);
    int code =
        status == FT_OK ? write_page(&params, view, setup->conf) : ft_complain_error(NULL, &error);
    ft_explain_done(view, cases->n);
    ft_free(view);
    return code;
}

int ft_cmd_explain(const struct ft_conf *conf) {
    struct ft_setup setup = { 0 };
    struct ft_cases cases = { .n = 0 };
    char spec[FT_CASES_CAP][SPEC_CAP];
    struct ft_tokens tokens = { 0 };
    struct ft_error error = { 0 };
    char *text = NULL;
    size_t n_text = 0;
    uint32_t n_head = 0;
    int code = ft_setup_init(&setup, conf);
    if (code == FT_EXIT_OK && is_given(conf)) {
        code = ft_cases_init(&cases, &setup);
    } else if (code == FT_EXIT_OK) {
        every_method(&cases, spec, &setup);
    }
    if (code == FT_EXIT_OK) {
        code = ft_check_file(conf, "--out", ft_page_path(conf->out));
    }
    if (code == FT_EXIT_OK) {
        code = ft_read_text(conf, &text, &n_text);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&setup, NULL);
    }
    if (code == FT_EXIT_OK && ft_prompt_tokens(&setup, text, &tokens, &n_head, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK) {
        code = check_cases(&cases, &setup, tokens.n);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(&setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(&setup, &cases, &tokens, n_head);
    }
    ft_tokens_free(&tokens);
    free(text);
    ft_setup_done(&setup);
    return code;
}
