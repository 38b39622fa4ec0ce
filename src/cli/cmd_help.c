/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_help.c - help, man page and shell completion, all from the command and option tables. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { WIDTH = 90, INDENT = 6 };

/* ---- plain text ---- */

/* wrap - words of text in lines of WIDTH, the first one starting at column `at`. */
static void wrap(const char *text, int at, int indent) {
    bool is_first = true;
    while (*text != '\0') {
        int n = (int)strcspn(text, " ");
        if (is_first) {
            is_first = false;
        } else if (at + 1 + n > WIDTH) {
            ft_out("\n%*s", indent, "");
            at = indent;
        } else {
            ft_out(" ");
            at++;
        }
        ft_out("%.*s", n, text);
        at += n;
        text += n + (text[n] == ' ');
    }
    ft_out("\n");
}

/* names_text - "-m, --model FILE" */
static void names_text(const struct ft_option *option, char *out, size_t cap) {
    size_t used = 0;
    for (const char *at = option->names; *at != '\0' && used + 3 < cap; at++) {
        if (*at == ' ') {
            out[used++] = ',';
        }
        out[used++] = *at;
    }
    out[used] = '\0';
    if (option->arg) {
        snprintf(out + used, cap - used, " %s", option->arg);
    }
}

/* range_text - " (1..1000000, default 256)" or "". */
static void range_text(const struct ft_option *option, uint32_t command, char *out, size_t cap) {
    const char *initial = ft_conf_initial(option, command);
    bool has_range = (option->kind == FT_OPT_UINT || option->kind == FT_OPT_LIMIT ||
                      option->kind == FT_OPT_REAL) &&
                     option->high < 1e9;
    out[0] = '\0';
    if (has_range) {
        snprintf(out, cap, initial ? " (%.10g..%.10g, default %s)" : " (%.10g..%.10g)", option->low,
                 option->high, initial);
    } else if (initial) {
        snprintf(out, cap, " (default %s)", initial);
    }
}

static bool is_taken(const struct ft_option *option, uint32_t command) {
    return option->kind != FT_OPT_GROUP && (option->commands & command) != 0;
}

static void help_options(uint32_t command) {
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    const char *group = NULL;
    char names[128], range[96];
    for (uint32_t i = 0; i < n; i++) {
        if (option[i].kind == FT_OPT_GROUP) {
            group = option[i].names;
        } else if (is_taken(&option[i], command)) {
            if (group) {
                ft_out("\n%s\n", group);
                group = NULL;
            }
            names_text(&option[i], names, sizeof names);
            range_text(&option[i], command, range, sizeof range);
            ft_out("  %s\n%*s", names, INDENT, "");
            char text[512];
            snprintf(text, sizeof text, "%s%s", option[i].help, range);
            wrap(text, INDENT, INDENT);
        }
    }
}

void ft_help_command(const struct ft_command *command) {
    ft_out("usage: foretoken %s %s%s[OPTION...]\n\n", command->name, command->args,
           command->args[0] ? " " : "");
    wrap(command->about, 0, 0);
    ft_out("\n    %s\n", command->example);
    help_options(command->bit);
}

void ft_help_overview(void) {
    ft_out("usage: foretoken COMMAND [OPTION...]\n\n");
    wrap("A small draft model reads a long prompt first and tells the big model what to keep. "
         "Models are GGUF files of the llama, qwen2 and qwen3 architectures.",
         0, 0);
    ft_out("\nCommands\n");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        ft_out("  %-11s %s\n", command->name, command->summary);
    }
    ft_out("\n    %s\n\n", ft_commands[0].example);
    ft_out("foretoken help COMMAND shows its options; foretoken --version the version.\n"
           "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n");
}

/* ---- man page (man(7) macros) ---- */

/* roff - text with what troff would read as commands escaped. */
static void roff(const char *text) {
    bool is_line_start = true;
    for (; *text != '\0'; text++) {
        if (is_line_start && (*text == '.' || *text == '\'')) {
            ft_out("\\&");
        }
        is_line_start = *text == '\n';
        if (*text == '\\') {
            ft_out("\\e");
        } else if (*text == '-') {
            ft_out("\\-");
        } else {
            ft_out_bytes(text, 1);
        }
    }
}

static void man_commands(void) {
    ft_out(".SH COMMANDS\n");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        ft_out(".SS %s\n", command->name);
        roff(command->about);
        ft_out("\n.PP\n.nf\n.RS\n");
        roff(command->example);
        ft_out("\n.RE\n.fi\n");
    }
}

/* Who takes an option, when not everybody does. */
static void man_takers(const struct ft_option *option) {
    bool is_first = true;
    ft_out("\n.br\n");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        if (option->commands & command->bit) {
            ft_out(is_first ? "In: %s" : ", %s", command->name);
            is_first = false;
        }
    }
    ft_out(".\n");
}

static void man_initials(const struct ft_option *option) {
    char range[96];
    range_text(option, 0, range, sizeof range);
    roff(range);
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        const char *initial = ft_conf_initial(option, command->bit);
        bool is_other = initial && (!option->initial || strcmp(initial, option->initial) != 0);
        if ((option->commands & command->bit) && is_other) {
            ft_out("; %s: %s", command->name, initial);
        }
    }
}

static void man_options(void) {
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    char names[128];
    ft_out(".SH OPTIONS\nOptions are written \\-\\-name value or \\-\\-name=value.\n");
    for (uint32_t i = 0; i < n; i++) {
        if (option[i].kind == FT_OPT_GROUP) {
            ft_out(".SS %s\n", option[i].names);
            continue;
        }
        names_text(&option[i], names, sizeof names);
        ft_out(".TP\n.B ");
        roff(names);
        ft_out("\n");
        roff(option[i].help);
        man_initials(&option[i]);
        if (option[i].commands != UINT32_MAX) {
            man_takers(&option[i]);
        } else {
            ft_out("\n");
        }
    }
}

static void man_methods(void) {
    ft_out(".SH METHODS\n");
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const struct ft_method_info *info = ft_method_info(i);
        ft_out(".SS %s\n", info->name);
        roff(info->title);
        ft_out(".\n");
        for (uint32_t p = 0; p < info->n_param; p++) {
            const struct ft_param_info *param = &info->param[p];
            ft_out(".TP\n.B %s\n", param->name);
            roff(param->help);
            ft_out(" (");
            roff(param->range);
            ft_out("; default ");
            roff(param->initial);
            ft_out(")\n");
        }
    }
}

static void print_man(void) {
    ft_out(".\\\" SPDX-License-Identifier: Apache-2.0\n.\\\" Made by: foretoken help --man\n.TH "
           "FORETOKEN 1 \"\" \"foretoken %s\" \"User "
           "Commands\"\n.ad l\n.nh\n",
           ft_version());
    ft_out(
        ".SH NAME\nforetoken \\- run long prompts on small memory with a draft that reads first\n");
    ft_out(".SH SYNOPSIS\n");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        ft_out(".B foretoken %s\n", command->name);
        ft_out(command->args[0] ? ".I %s\n[OPTION...]\n.br\n" : "[OPTION...]%s\n.br\n",
               command->args);
    }
    ft_out(".SH DESCRIPTION\nA small draft model reads a long prompt first and tells the big model "
           "what to keep: which prompt\ntokens it reads at all, and which rows of its KV store "
           "stay. Models are GGUF files of the llama,\nqwen2 and qwen3 architectures; draft and "
           "target share one vocabulary.\n");
    man_commands();
    man_options();
    man_methods();
    ft_out(".SH EXIT STATUS\n.TP\n.B 0\ndone\n.TP\n.B 1\nfailed; one line on standard error says "
           "why\n.TP\n.B 2\n"
           "wrong usage; the line lists what there is\n.TP\n.B 130\ninterrupted by Ctrl\\-C\n");
    ft_out(".SH ENVIRONMENT\n.TP\n.B FT_KERN\nforces one set of kernels (ref, avx2, avx512, "
           "avx512vnni, avx512bf16, neon): a diagnostic; one that this machine cannot run is a "
           "fallback\n");
}

/* ---- completion for bash ---- */

static void completion_names(uint32_t command) {
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    for (uint32_t i = 0; i < n; i++) {
        if (is_taken(&option[i], command)) {
            ft_out(" %s", option[i].names);
        }
    }
}

/* completion_words - the values of a choice, the methods of a stage or the names of formats, behind
 * each other. */
static void completion_words(const struct ft_option *option) {
    char word[48];
    if (option->kind == FT_OPT_CHOICE) {
        for (uint32_t i = 0; ft_choice_word(option->arg, i, word, sizeof word); i++) {
            ft_out(i > 0 ? " %s" : "%s", word);
        }
        return;
    }
    if (option->kind == FT_OPT_KV_TYPE || option->kind == FT_OPT_KV_TYPES) {
        for (uint32_t i = 0; ft_kv_type_name(i); i++) {
            ft_out(i > 0 ? " %s" : "%s", ft_kv_type_name(i));
        }
        ft_out(" calibrated");
        return;
    }
    enum ft_stage stage = option->kind == FT_OPT_KV_METHOD ? FT_STAGE_KV : FT_STAGE_PROMPT;
    bool is_first = true;
    for (uint32_t m = 0; m < ft_method_count(); m++) {
        const struct ft_method_info *info = ft_method_info(m);
        if (ft_method_is_for(info, stage)) {
            ft_out(is_first ? "%s" : " %s", info->name);
            is_first = false;
        }
    }
}

/* completion_value - the branch for the word behind one option. */
static void completion_value(const struct ft_option *option) {
    ft_out("    ");
    for (const char *at = option->names; *at != '\0'; at++) {
        ft_out("%c", *at == ' ' ? '|' : *at);
    }
    switch (option->kind) {
    case FT_OPT_FILE:
        ft_out(") COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n");
        break;
    case FT_OPT_CHOICE:
    case FT_OPT_PROMPT_METHOD:
    case FT_OPT_KV_METHOD:
    case FT_OPT_KV_TYPE:
    case FT_OPT_KV_TYPES:
        ft_out(") COMPREPLY=($(compgen -W \"");
        completion_words(option);
        ft_out("\" -- \"$current\")); return ;;\n");
        break;
    default:
        ft_out(") COMPREPLY=(); return ;;\n");
        break;
    }
}

static void completion_values(void) {
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    for (uint32_t i = 0; i < n; i++) {
        bool is_again = i > 0 && strcmp(option[i].names, option[i - 1].names) == 0;
        if (option[i].kind != FT_OPT_GROUP && option[i].kind != FT_OPT_FLAG && !is_again) {
            completion_value(&option[i]);
        }
    }
}

static void print_completion(void) {
    ft_out("# SPDX-License-Identifier: Apache-2.0\n"
           "# Completion of foretoken for bash.  Made by: foretoken help --completion-bash\n"
           "_foretoken() {\n"
           "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} "
           "options\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W \"");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        ft_out("%s ", command->name);
    }
    ft_out("--help --version\" -- \"$current\"))\n        return\n    fi\n    case $previous in\n");
    completion_values();
    ft_out("    esac\n    case ${COMP_WORDS[1]} in\n");
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        ft_out("    %s) options=\"", command->name);
        completion_names(command->bit);
        ft_out("\" ;;\n");
    }
    ft_out("    *) options= ;;\n    esac\n"
           "    case $current in\n"
           "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$current\")) ;;\n"
           "    *) COMPREPLY=($(compgen -f -- \"$current\")) ;;\n"
           "    esac\n}\n"
           "complete -o filenames -F _foretoken foretoken\n");
}

int ft_cmd_help(const struct ft_conf *conf) {
    if (conf->is_man) {
        print_man();
    } else if (conf->is_completion) {
        print_completion();
    } else if (conf->n_arg == 0) {
        ft_help_overview();
    } else {
        const struct ft_command *command = ft_command_find(conf->arg[0]);
        if (!command) {
            return ft_complain(FT_EXIT_USAGE,
                               "help: no command \"%.100s\"; foretoken help lists them",
                               conf->arg[0]);
        }
        ft_help_command(command);
    }
    return FT_EXIT_OK;
}
