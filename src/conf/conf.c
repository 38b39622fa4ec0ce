/* SPDX-License-Identifier: Apache-2.0 */
/* conf.c - reads the command line against options.def.
 *
 * `--name value` and `--name=value` are the same; `_` inside a long name counts as `-`.  Of
 * repeated options the last wins, lists collect.  Every failure is one line that says what would
 * be right.
 */
#include "conf/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENERATE FT_CMD_GENERATE
#define INFO FT_CMD_INFO
#define METHODS FT_CMD_METHODS
#define TOKENS FT_CMD_TOKENS
#define PERPLEXITY FT_CMD_PERPLEXITY
#define BENCH FT_CMD_BENCH
#define SCORE FT_CMD_SCORE
#define HELP FT_CMD_HELP
#define EVEN FT_CMD_BREAKEVEN
#define EXPLAIN FT_CMD_EXPLAIN
#define EVAL FT_CMD_EVAL
#define REPORT FT_CMD_REPORT
#define CALIBRATE FT_CMD_CALIBRATE
#define ANSWERS (GENERATE | BENCH | INFO | EVAL)
#define RUNS (ANSWERS | EXPLAIN)
#define MODELS (RUNS | TOKENS | PERPLEXITY | EVEN | CALIBRATE)
#define TEXTS (GENERATE | TOKENS | PERPLEXITY | BENCH | EXPLAIN | CALIBRATE)
#define REPORTS                                                                                    \
    (GENERATE | INFO | METHODS | TOKENS | PERPLEXITY | BENCH | EVEN | EVAL | REPORT | CALIBRATE)
#define ALL 0xffffffffu

static const struct ft_option table[] = {
#define FT_GROUP(title) { .names = (title), .kind = FT_OPT_GROUP },
#define FT_OPTION(field, kind_, names_, arg_, initial_, low_, high_, commands_, help_)             \
    { (names_), (arg_),         (initial_),                                                        \
      (help_),  FT_OPT_##kind_, (low_),                                                            \
      (high_),  (commands_),    offsetof(struct ft_conf, field) },
#define FT_INITIAL(command, field, initial)
#include "conf/options.def"
#undef FT_GROUP
#undef FT_OPTION
#undef FT_INITIAL
};

_Static_assert(FT_COUNT(table) <= FT_OPTION_CAP, "room for a mark of every option");

static const struct {
    uint32_t command;
    size_t offset;
    const char *initial;
} override[] = {
#define FT_GROUP(title)
#define FT_OPTION(field, kind, names, arg, initial, low, high, commands, help)
#define FT_INITIAL(command, field, initial)                                                        \
    { (command), offsetof(struct ft_conf, field), (initial) },
#include "conf/options.def"
#undef FT_GROUP
#undef FT_OPTION
#undef FT_INITIAL
};

const struct ft_option *ft_conf_options(uint32_t *n) {
    *n = (uint32_t)FT_COUNT(table);
    return table;
}

const char *ft_conf_initial(const struct ft_option *option, uint32_t command) {
    for (size_t i = 0; i < FT_COUNT(override); i++) {
        if (override[i].command == command && override[i].offset == option->offset) {
            return override[i].initial;
        }
    }
    return option->initial;
}

bool ft_conf_cache_folder(char *out, size_t cap) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool has_cache = cache && cache[0] == '/'; /* a relative one is to be ignored */
    if (!has_cache && (!home || home[0] != '/')) {
        return false;
    }
    int n =
        snprintf(out, cap, "%s%s/foretoken", has_cache ? cache : home, has_cache ? "" : "/.cache");
    return n > 0 && (size_t)n < cap;
}

/* next_word - the word at *cursor, up to `separator`, empty ones skipped; false at the end. */
static bool next_word(const char **cursor, char separator, const char **word, size_t *n) {
    while (**cursor == separator) {
        (*cursor)++;
    }
    if (**cursor == '\0') {
        return false;
    }
    const char *end = strchr(*cursor, separator);
    *word = *cursor;
    *n = end ? (size_t)(end - *cursor) : strlen(*cursor);
    *cursor += *n;
    return true;
}

void ft_option_name(const struct ft_option *option, char *out, size_t cap) {
    const char *cursor = option->names, *word;
    size_t n;
    snprintf(out, cap, "%.*s", (int)strcspn(option->names, " "), option->names);
    while (next_word(&cursor, ' ', &word, &n)) {
        if (word[1] == '-') {
            snprintf(out, cap, "%.*s", (int)n, word);
            return;
        }
    }
}

bool ft_choice_word(const char *choices, uint32_t index, char *out, size_t cap) {
    const char *word;
    size_t n;
    while (next_word(&choices, '|', &word, &n)) {
        if (index-- == 0) {
            snprintf(out, cap, "%.*s", (int)n, word);
            return true;
        }
    }
    return false;
}

/* ---- one value into its field ---- */

static ft_status refuse(struct ft_conf *conf, const struct ft_option *option, const char *value,
                        const char *expected) {
    char name[48];
    ft_option_name(option, name, sizeof name);
    snprintf(conf->error, sizeof conf->error, "%s is \"%.200s\", expected %s", name, value,
             expected);
    return FT_ARG;
}

static ft_status set_number(struct ft_conf *conf, const struct ft_option *option,
                            const char *value) {
    char expected[96];
    char *field = (char *)conf + option->offset;
    if (option->kind == FT_OPT_LIMIT && strcmp(value, "-1") == 0) {
        *(uint32_t *)(void *)field = FT_NO_LIMIT;
        return FT_OK;
    }
    if (option->kind != FT_OPT_REAL) {
        double low = FT_MAX(option->low, 0);
        uint64_t number;
        if (ft_text_uint(value, (uint64_t)option->high, &number) && number >= (uint64_t)low) {
            *(uint32_t *)(void *)field = (uint32_t)number;
            return FT_OK;
        }
        snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", option->low,
                 option->high);
        return refuse(conf, option, value, expected);
    }
    double number;
    if (ft_text_real(value, &number) && number >= option->low && number <= option->high) {
        *(double *)(void *)field = number;
        return FT_OK;
    }
    snprintf(expected, sizeof expected, "a number from %g to %g", option->low, option->high);
    return refuse(conf, option, value, expected);
}

static ft_status set_choice(struct ft_conf *conf, const struct ft_option *option,
                            const char *value) {
    char word[32], expected[96];
    for (uint32_t i = 0; ft_choice_word(option->arg, i, word, sizeof word); i++) {
        if (strcmp(word, value) == 0) {
            *(uint32_t *)(void *)((char *)conf + option->offset) = i;
            return FT_OK;
        }
    }
    snprintf(expected, sizeof expected, "one of %s", option->arg);
    return refuse(conf, option, value, expected);
}

static ft_status set_counts(struct ft_conf *conf, const struct ft_option *option,
                            const char *value) {
    struct ft_counts counts = { .n = 0 };
    char word[24], expected[96];
    snprintf(expected, sizeof expected,
             "up to %d whole numbers from %.0f to %.0f with commas between", FT_COUNTS_CAP,
             option->low, option->high);
    for (const char *at = value;; at++) {
        uint64_t number;
        size_t n = strcspn(at, ",");
        if (n >= sizeof word || counts.n == FT_COUNTS_CAP) {
            return refuse(conf, option, value, expected);
        }
        memcpy(word, at, n);
        word[n] = '\0';
        if (!ft_text_uint(word, (uint64_t)option->high, &number) ||
            number < (uint64_t)option->low) {
            return refuse(conf, option, value, expected);
        }
        counts.value[counts.n++] = (uint32_t)number;
        at += n;
        if (*at == '\0') {
            break;
        }
    }
    *(struct ft_counts *)(void *)((char *)conf + option->offset) = counts;
    return FT_OK;
}

static ft_status set_seed(struct ft_conf *conf, const struct ft_option *option, const char *value) {
    struct ft_seed seed = { 0 };
    if (strcmp(value, "-1") == 0) {
        seed.is_drawn = true;
    } else if (!ft_text_uint(value, INT64_MAX, &seed.value)) {
        return refuse(conf, option, value,
                      "a whole number, or -1 to draw one, at most 9223372036854775807");
    }
    *(struct ft_seed *)(void *)((char *)conf + option->offset) = seed;
    return FT_OK;
}

static ft_status set_shard(struct ft_conf *conf, const struct ft_option *option,
                           const char *value) {
    struct ft_shard *shard = (struct ft_shard *)(void *)((char *)conf + option->offset);
    return ft_shard_text(value, shard)
               ? FT_OK
               : refuse(conf, option, value, "i/n with 1 <= i <= n <= 10000: 2/8");
}

static ft_status add_text(struct ft_conf *conf, const struct ft_option *option, const char *value) {
    struct ft_texts *texts = (struct ft_texts *)(void *)((char *)conf + option->offset);
    if (texts->n == FT_TEXTS_CAP) {
        char expected[64];
        snprintf(expected, sizeof expected, "no more than %d of these", FT_TEXTS_CAP);
        return refuse(conf, option, value, expected);
    }
    texts->text[texts->n++] = value;
    return FT_OK;
}

static ft_status add_method(struct ft_conf *conf, const struct ft_option *option,
                            const char *value) {
    struct ft_error error = { 0 };
    char name[48];
    bool is_prompt = option->kind == FT_OPT_PROMPT_METHOD;
    bool is_auto = strncmp(value, "auto", 4) == 0 && (value[4] == ':' || value[4] == '\0');
    if (is_auto && !is_prompt && conf->command == GENERATE) {
        return add_text(conf, option, value); /* whoever runs it chooses a method */
    }
    if (!value[0]) { /* a variable of a script that is not set, more likely than a wish for dense */
        return refuse(conf, option, value, "METHOD or METHOD:KEY=VALUE,...");
    }
    ft_status status =
        ft_method_check(is_prompt ? FT_STAGE_PROMPT : FT_STAGE_KV, value, NULL, &error);
    if (status == FT_OK) {
        return add_text(conf, option, value);
    }
    /* llama.cpp's --prompt is our -p; say so to whoever typed a sentence. */
    const char *hint =
        is_prompt && strchr(value, ' ') ? " (the text of a question goes with -p)" : "";
    ft_option_name(option, name, sizeof name);
    snprintf(conf->error, sizeof conf->error, "%s: %s%s", name, error.text, hint);
    return FT_ARG;
}

static ft_status set_kv_type(struct ft_conf *conf, const struct ft_option *option,
                             const char *value) {
    struct ft_error error = { 0 };
    char name[48];
    if (!ft_text_is_calibrated(value) && ft_kv_type_check(value, &error) != FT_OK) {
        ft_option_name(option, name, sizeof name);
        snprintf(conf->error, sizeof conf->error, "%s %.100s: %s", name, value, error.text);
        return FT_ARG;
    }
    if (option->kind == FT_OPT_KV_TYPES) {
        return add_text(conf, option, value);
    }
    *(const char **)(void *)((char *)conf + option->offset) = value;
    return FT_OK;
}

static ft_status set_value(struct ft_conf *conf, const struct ft_option *option,
                           const char *value) {
    char *field = (char *)conf + option->offset;
    conf->is_given[option - table] = true;
    switch (option->kind) {
    case FT_OPT_FLAG:
        *(bool *)(void *)field = true;
        return FT_OK;
    case FT_OPT_FILE:
    case FT_OPT_TEXT:
        if (option->kind == FT_OPT_FILE && *value == '\0') {
            return refuse(conf, option, value, "a file name");
        }
        *(const char **)(void *)field = value;
        return FT_OK;
    case FT_OPT_UINT:
    case FT_OPT_LIMIT:
    case FT_OPT_REAL:
        return set_number(conf, option, value);
    case FT_OPT_SEED:
        return set_seed(conf, option, value);
    case FT_OPT_CHOICE:
        return set_choice(conf, option, value);
    case FT_OPT_COUNTS:
        return set_counts(conf, option, value);
    case FT_OPT_SHARD:
        return set_shard(conf, option, value);
    case FT_OPT_LIST:
        return add_text(conf, option, value);
    case FT_OPT_PROMPT_METHOD:
    case FT_OPT_KV_METHOD:
        return add_method(conf, option, value);
    case FT_OPT_KV_TYPE:
    case FT_OPT_KV_TYPES:
        return set_kv_type(conf, option, value);
    case FT_OPT_GROUP:
        break;
    }
    return FT_ARG;
}

/* ---- the command line ---- */

static bool is_name_of(const struct ft_option *option, const char *name, size_t n) {
    const char *cursor = option->names, *word;
    size_t n_word;
    while (next_word(&cursor, ' ', &word, &n_word)) {
        bool is_same = n_word == n;
        for (size_t i = 0; is_same && i < n; i++) {
            is_same =
                word[i] == name[i] || (i > 1 && word[1] == '-' && word[i] == '-' && name[i] == '_');
        }
        if (is_same) {
            return true;
        }
    }
    return false;
}

bool ft_conf_has(const struct ft_conf *conf, const char *name) {
    for (size_t i = 0; i < FT_COUNT(table); i++) {
        if (conf->is_given[i] && is_name_of(&table[i], name, strlen(name))) {
            return true;
        }
    }
    return false;
}

static const struct ft_option *find(uint32_t command, const char *name, size_t n) {
    for (size_t i = 0; i < FT_COUNT(table); i++) {
        if (table[i].kind != FT_OPT_GROUP && (table[i].commands & command) &&
            is_name_of(&table[i], name, n)) {
            return &table[i];
        }
    }
    return NULL;
}

static ft_status unknown(struct ft_conf *conf, uint32_t command, const char *name, size_t n) {
    char best[48] = "", typed[48], own[48], list[1024] = "";
    uint32_t best_distance = (uint32_t)FT_MIN(3, (n + 1) / 2); /* of short words any is near */
    snprintf(typed, sizeof typed, "%.*s", (int)FT_MIN(n, sizeof typed - 1), name);
    for (size_t i = 0; i < FT_COUNT(table); i++) {
        if (table[i].kind == FT_OPT_GROUP || !(table[i].commands & command)) {
            continue;
        }
        ft_option_name(&table[i], own, sizeof own);
        uint32_t distance = ft_text_distance(own, typed);
        if (distance < best_distance) {
            best_distance = distance;
            memcpy(best, own, sizeof best);
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, " %s", own);
    }
    snprintf(conf->error, sizeof conf->error, "no option %s%s%s%s; there are:%s", typed,
             best[0] ? ", did you mean " : "", best, best[0] ? "?" : "", list);
    return FT_ARG;
}

/* take - the option at argv[*i]; *i moves past its value. */
static ft_status take(struct ft_conf *conf, uint32_t command, int argc, char *const *argv, int *i) {
    const char *word = argv[*i], *value = strchr(word, '=');
    size_t n = value ? (size_t)(value - word) : strlen(word);
    const struct ft_option *option = find(command, word, n);
    char name[48];
    if (!option) {
        return unknown(conf, command, word, n);
    }
    snprintf(name, sizeof name, "%.*s", (int)FT_MIN(n, sizeof name - 1), word);
    if (option->kind == FT_OPT_FLAG) {
        if (value) {
            snprintf(conf->error, sizeof conf->error, "%s takes no value", name);
            return FT_ARG;
        }
        return set_value(conf, option, "");
    }
    if (value) {
        return set_value(conf, option, value + 1);
    }
    if (*i + 1 >= argc) {
        snprintf(conf->error, sizeof conf->error, "%s needs a value: %s", name, option->arg);
        return FT_ARG;
    }
    value = argv[++*i];
    if (find(command, value, strlen(value))) {
        snprintf(
            conf->error, sizeof conf->error,
            "%s needs a value (%s) and is followed by the option %s; %s=%s would mean that text",
            name, option->arg, value, name, value);
        return FT_ARG;
    }
    return set_value(conf, option, value);
}

const struct ft_option *ft_conf_find(uint32_t command, const char *name) {
    return find(command, name, strlen(name));
}

ft_status ft_conf_set(const struct ft_option *option, const char *value, struct ft_conf *out) {
    return set_value(out, option, value);
}

ft_status ft_conf_init(uint32_t command, struct ft_conf *out) {
    memset(out, 0, sizeof *out);
    out->command = command;
    for (size_t i = 0; i < FT_COUNT(table); i++) {
        const char *initial = ft_conf_initial(&table[i], command);
        if (initial && (table[i].commands & command)) {
            FT_TRY(set_value(out, &table[i], initial));
        }
    }
    memset(out->is_given, 0, sizeof out->is_given);
    return FT_OK;
}

ft_status ft_conf_over(uint32_t command, int argc, char *const *argv, struct ft_conf *out) {
    const struct ft_texts prompt = out->prompt, kv = out->kv, kv_types = out->kv_types;
    bool is_open = true;
    out->prompt.n = out->kv.n = out->kv_types.n = out->n_arg = 0;
    out->word = argv;
    out->n_word = (uint32_t)argc;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (is_open && strcmp(word, "--") == 0) {
            is_open = false;
        } else if (is_open && word[0] == '-' && word[1] != '\0') {
            FT_TRY(take(out, command, argc, argv, &i));
        } else if (out->n_arg == FT_ARG_CAP) {
            snprintf(out->error, sizeof out->error, "unexpected argument \"%.100s\"", word);
            return FT_ARG;
        } else {
            out->arg[out->n_arg++] = word;
        }
    }
    if (out->prompt.n + out->kv.n == 0) {
        out->prompt = prompt;
        out->kv = kv;
    }
    if (out->kv_types.n == 0) {
        out->kv_types = kv_types;
    }
    return FT_OK;
}

ft_status ft_conf_parse(uint32_t command, int argc, char *const *argv, struct ft_conf *out) {
    FT_TRY(ft_conf_init(command, out));
    return ft_conf_over(command, argc, argv, out);
}
