/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_methods.c - the methods as a table, as Markdown (docs/METHODS.md) or as JSON. */
#include <string.h>

#include "cli/cli.h"

static const char *stage_text(enum ft_stage stage) {
    return stage == FT_STAGE_PROMPT ? "--prompt" : "--kv";
}

static const char *draft_text(const struct ft_method_info *info) {
    return !info->needs_draft        ? "no draft"
           : info->needs_draft_text ? "draft model"
                                     : "draft model or self:layers=K";
}

static void print_text(void) {
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const struct ft_method_info *info = ft_method_info(i);
        ft_out("%s%s %s - %s\n", i > 0 ? "\n" : "", stage_text(info->stage), info->name, info->title);
        ft_out("    needs: %s%s%s%s\n", draft_text(info), info->paper ? "; paper: " : "",
               info->paper ? info->paper : "", "");
        for (uint32_t p = 0; p < info->n_param; p++) {
            const struct ft_param_info *param = &info->param[p];
            ft_out("    %-17s %-24s default %-16s %s\n", param->name, param->range, param->initial, param->help);
        }
    }
    ft_out("\nkeep= says what stays: 256 (rows or tokens), 25%% (a share, rounded down) or 64MiB (K and V of the "
           "whole model).\nBoth options together are a cascade: --prompt first, --kv on what it kept.\n");
}

/* cell - text inside a Markdown table. */
static void cell(const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '|') {
            ft_out("\\");
        }
        ft_out_bytes(text, 1);
    }
    ft_out(" | ");
}

static void print_markdown_method(const struct ft_method_info *info) {
    ft_out("\n## `%s %s`\n\n%s. Needs: %s. Code: `src/score/%s`.", stage_text(info->stage), info->name, info->title,
           draft_text(info), info->file ? info->file : "");
    ft_out(info->paper ? " Paper: %s.\n" : "%s\n", info->paper ? info->paper : "");
    if (info->n_param == 0) {
        return;
    }
    ft_out("\n| parameter | range | default | meaning |\n| --- | --- | --- | --- |\n");
    for (uint32_t p = 0; p < info->n_param; p++) {
        const struct ft_param_info *param = &info->param[p];
        ft_out("| `%s` | ", param->name);
        cell(param->range);
        cell(param->initial);
        cell(param->help);
        ft_out("\n");
    }
}

static void print_markdown(void) {
    ft_out("# Methods\n\nMade by `foretoken methods --markdown` from the methods themselves; do not edit.\n\n"
           "A method is chosen with `--prompt NAME:key=value,...` (which prompt tokens the target reads) or\n"
           "`--kv NAME:key=value,...` (which KV rows stay); both together are a cascade. `keep=` says what stays:\n"
           "`256` rows or tokens, `25%%` of that stage's input, rounded down, or `64MiB` of K and V of the whole\n"
           "model. A prompt within `keep` is read densely.\n\n"
           "| method | option | what it does | needs | paper |\n| --- | --- | --- | --- | --- |\n");
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const struct ft_method_info *info = ft_method_info(i);
        ft_out("| `%s` | `%s` | ", info->name, stage_text(info->stage));
        cell(info->title);
        cell(draft_text(info));
        cell(info->paper ? info->paper : "");
        ft_out("\n");
    }
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        print_markdown_method(ft_method_info(i));
    }
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
    json_object_set_new(value, "stage", ft_json_text(info->stage == FT_STAGE_PROMPT ? "prompt" : "kv"));
    json_object_set_new(value, "title", ft_json_text(info->title));
    json_object_set_new(value, "paper", info->paper ? ft_json_text(info->paper) : json_null());
    json_object_set_new(value, "needs_draft", json_boolean(info->needs_draft));
    json_object_set_new(value, "needs_draft_text", json_boolean(info->needs_draft_text));
    json_object_set_new(value, "parameters", params);
    return value;
}

int ft_cmd_methods(const struct ft_conf *conf) {
    if (conf->is_json && conf->is_markdown) {
        return ft_complain(FT_EXIT_USAGE, "--json and --markdown exclude each other");
    }
    if (conf->is_json) {
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
