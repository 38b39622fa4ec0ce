/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_methods.c - the methods as a table, as Markdown (docs/METHODS.md) or as JSON; what goes with
 * what. */
#include <string.h>

#include "cli/cli.h"

bool ft_method_is_for(const struct ft_method_info *info, enum ft_stage stage) {
    const struct ft_method_info *found = NULL;
    return ft_method_check(stage, info->name, &found, NULL) == FT_OK && found == info;
}

/* option_text - the options that take a method; dense goes with both. */
static const char *option_text(const struct ft_method_info *info) {
    bool is_prompt = ft_method_is_for(info, FT_STAGE_PROMPT);
    bool is_kv = ft_method_is_for(info, FT_STAGE_KV);
    return is_prompt && is_kv ? "--prompt, --kv" : is_prompt ? "--prompt" : "--kv";
}

static bool has_paper(const struct ft_method_info *info) {
    return info->paper && info->paper[0];
}

static const char *draft_text(const struct ft_method_info *info) {
    return !info->needs_draft       ? "no draft"
           : info->needs_draft_text ? "draft model"
                                    : "draft model or self:layers=K";
}

static void print_text(void) {
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const struct ft_method_info *info = ft_method_info(i);
        ft_out("%s%s  (%s)\n    %s\n    needs %s%s%s\n", i > 0 ? "\n" : "", info->name,
               option_text(info), info->title, draft_text(info), has_paper(info) ? "; paper " : "",
               has_paper(info) ? info->paper : "");
        for (uint32_t p = 0; p < info->n_param; p++) {
            const struct ft_param_info *param = &info->param[p];
            ft_out("      %-17s %s\n      %-17s %s; default %s\n", param->name, param->help, "",
                   param->range, param->initial);
        }
    }
    ft_out("\nkeep= says what stays: 256 (rows or tokens), 25%% (a share, rounded down) or 64MiB "
           "(K and V of the whole model).\nBoth options together are a cascade: --prompt first, "
           "--kv on what it kept.\n");
}

/* cell - text inside a Markdown table. */
static void cell(const char *text) {
    ft_out(" ");
    for (; *text != '\0'; text++) {
        if (*text == '|') {
            ft_out("\\");
        }
        ft_out_bytes(text, 1);
    }
    ft_out(" |");
}

static void print_markdown_method(const struct ft_method_info *info) {
    ft_out("\n## `%s`\n\n`%s`: %s. Needs %s.", info->name, option_text(info), info->title,
           draft_text(info));
    ft_out(info->file ? " Code: `%s`." : "%s", info->file ? info->file : "");
    ft_out(has_paper(info) ? " Paper: %s.\n" : "%s\n", has_paper(info) ? info->paper : "");
    if (info->n_param == 0) {
        return;
    }
    ft_out("\n| parameter | range | default | meaning |\n| --- | --- | --- | --- |\n");
    for (uint32_t p = 0; p < info->n_param; p++) {
        const struct ft_param_info *param = &info->param[p];
        ft_out("| `%s` |", param->name);
        cell(param->range);
        cell(param->initial);
        cell(param->help);
        ft_out("\n");
    }
}

static void print_markdown(void) {
    ft_out(
        "# Methods\n\nMade by `foretoken methods --markdown` from the methods themselves; do "
        "not edit.\n\n"
        "A method is chosen with `--prompt NAME:key=value,...` (which prompt tokens the "
        "target reads) or\n"
        "`--kv NAME:key=value,...` (which KV rows stay); both together are a cascade. `keep=` "
        "says what stays:\n"
        "`256` rows or tokens, `25%%` of that stage's input, rounded down, or `64MiB` of K "
        "and V of the whole\n"
        "model. A prompt within `keep` is read densely.\n\n"
        "`budget=` says how the rows of a KV method are spread over layers and heads: alike "
        "(`uniform`), fewer in later\n"
        "layers (`pyramid`, as in PyramidKV), or by score over the heads of a layer (`ada`, as "
        "in AdaKV; with `speckv`\n"
        "that is Ada-SpecKV). Dropped rows are freed, also where heads keep different numbers. "
        "`pyramid` rounds its steps\n"
        "down and keeps a few percent more than `keep` says, `rule=adakv` up to half a row per "
        "head more or less.\n\n"
        "`rank=critical` (CriticalKV, arXiv:2502.03805, `src/score/critical.c`) goes with every KV "
        "method whose score says\n"
        "how much a row is read: the score alone chooses `rho` percent of a head's rows, the "
        "others "
        "are chosen by the score\n"
        "times the size of what the row's value would add to the output.\n\n"
        "`decode=on` (`h2o`, `tova`, `streamingllm`; their default, as in the papers): rows "
        "also leave while the answer\n"
        "grows, one at every step, so that a head never holds more than `keep` says, also where "
        "the prompt alone is within\n"
        "`keep`. Text that is fed goes in one token at a time. `decode=off` is the form that "
        "most comparisons measure: rows\n"
        "leave once, behind the prompt, and the answer's rows come on top. `keyformer` and `corm` "
        "always go on. What a\n"
        "method notes of its rows counts as KV memory.\n\n"
        "`corm` has no budget: votes say how many rows of each head stay, and `keep` is the most "
        "that may. It is not to be\n"
        "compared at equal `keep`, but at equal bytes.\n\n"
        "| method | option | what it does | needs | paper |\n| --- | --- | --- | --- | --- |\n");
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const struct ft_method_info *info = ft_method_info(i);
        ft_out("| `%s` | `%s` |", info->name, option_text(info));
        cell(info->title);
        cell(draft_text(info));
        cell(has_paper(info) ? info->paper : "");
        ft_out("\n");
    }
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        print_markdown_method(ft_method_info(i));
    }
}

/* stages_value - the stages that take the method: dense goes with both. */
static json_t *stages_value(const struct ft_method_info *info) {
    static const char *const name[] = { [FT_STAGE_PROMPT] = "prompt", [FT_STAGE_KV] = "kv" };
    json_t *list = json_array();
    for (size_t stage = 0; stage < FT_COUNT(name); stage++) {
        if (ft_method_is_for(info, (enum ft_stage)stage)) {
            json_array_append_new(list, ft_json_text(name[stage]));
        }
    }
    return list;
}

static json_t *method_value(const struct ft_method_info *info) {
    json_t *value = json_object(), *params = json_array();
    for (uint32_t p = 0; p < info->n_param; p++) {
        const struct ft_param_info *param = &info->param[p];
        json_t *entry = json_object();
        json_object_set_new(entry, "name", ft_json_text(param->name));
        json_object_set_new(entry, "type", ft_json_text(param->type));
        json_object_set_new(entry, "range", ft_json_text(param->range));
        json_object_set_new(entry, "default", ft_json_text(param->initial));
        json_object_set_new(entry, "help", ft_json_text(param->help));
        json_array_append_new(params, entry);
    }
    json_object_set_new(value, "name", ft_json_text(info->name));
    json_object_set_new(value, "stages", stages_value(info));
    json_object_set_new(value, "title", ft_json_text(info->title));
    json_object_set_new(value, "paper", has_paper(info) ? ft_json_text(info->paper) : json_null());
    json_object_set_new(value, "needs_draft", json_boolean(info->needs_draft));
    json_object_set_new(value, "needs_draft_text", json_boolean(info->needs_draft_text));
    json_object_set_new(value, "parameters", params);
    return value;
}

/* ---- the matrix ---- */

static json_t *matrix_value(void) {
    json_t *list = json_array();
    struct ft_matrix_cell cell;
    for (uint32_t i = 0; ft_matrix_cell(i, &cell); i++) {
        json_t *value = json_object();
        json_object_set_new(value, "estimator", json_string(cell.estimator));
        json_object_set_new(value, "budget", json_string(cell.budget));
        json_object_set_new(value, "rank", json_string(cell.rank));
        json_object_set_new(value, "kv_type", json_string(cell.kv_type));
        json_object_set_new(value, "runs", json_boolean(cell.runs));
        json_object_set_new(value, "reason", cell.runs ? json_null() : ft_json_text(cell.reason));
        json_array_append_new(list, value);
    }
    return list;
}

/* Neighbours with one verdict stand together, their formats in front of it. */
static void print_matrix(void) {
    struct ft_matrix_cell cell, last = { .runs = false };
    ft_out("%-36s  %-7s  %-8s  formats: verdict", "estimator", "budget", "rank");
    for (uint32_t i = 0; ft_matrix_cell(i, &cell); i++) {
        bool is_new = i == 0 || strcmp(cell.kv, last.kv) != 0;
        if (is_new || strcmp(cell.reason, last.reason) != 0) {
            if (i > 0) {
                ft_out(": %s", last.runs ? "runs" : last.reason);
            }
            ft_out("\n%-36s  %-7s  %-8s ", is_new ? cell.estimator : "", is_new ? cell.budget : "",
                   is_new ? cell.rank : "");
        }
        ft_out(" %s", cell.kv_type);
        last = cell;
    }
    ft_out(": %s\n", last.runs ? "runs" : last.reason);
}

int ft_cmd_methods(const struct ft_conf *conf) {
    if (conf->is_json && conf->is_markdown) {
        return ft_complain(FT_EXIT_USAGE, "--json and --markdown exclude each other");
    }
    if (conf->is_matrix && conf->is_markdown) {
        return ft_complain(FT_EXIT_USAGE, "--matrix and --markdown exclude each other");
    }
    if (conf->is_matrix && !conf->is_json) {
        print_matrix();
    } else if (conf->is_matrix) {
        ft_json_print(matrix_value());
    } else if (conf->is_json) {
        json_t *list = json_array();
        for (uint32_t i = 0; i < ft_method_count(); i++) {
            json_array_append_new(list, method_value(ft_method_info(i)));
        }
        ft_json_print(list);
    } else if (conf->is_markdown) {
        print_markdown();
    } else {
        print_text();
    }
    return FT_EXIT_OK;
}
