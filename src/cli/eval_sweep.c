/* SPDX-License-Identifier: Apache-2.0 */
/* eval_sweep.c - `foretoken eval sweep FILE.toml`: models x methods x budgets x lengths x tasks.
 *
 * Keys are options without their dashes, with the same values; beside them there are
 *
 *   suite       what is asked
 *   models      [[models]] model, draft: a record for each, in the folder `out`
 *   methods     [[methods]] prompt, kv, keep, kv-type: a block of combinations each; one without
 *               kv-type has that of the file
 *
 * What is typed replaces what the file says: -m or -d its models, --kv or --prompt its methods,
 * --keep and --kv-type those of every block.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/suites.h"
#include "conf/toml.h"

enum { BLOCKS = 32, PAIRS = 64, KEY_CAP = 64, FILE_MOST = 1 << 20 };

struct sweep {
    const char *path;
    json_t *root, *line; /* owned: values, and where they stand */
    json_t *text;        /* list of texts that settings borrow, owned */
    struct ft_conf conf; /* the file's, what was typed on top */
    struct ft_grid_block block[BLOCKS];
    uint32_t n_block;
    struct pair {
        const char *model, *draft, *out;
    } pair[PAIRS];
    uint32_t n_pair;
};

/* ---- what is wrong, and where ---- */

static int wrong(const struct sweep *sweep, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int wrong(const struct sweep *sweep, const char *key, const char *format, ...) {
    char text[1536];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_int_t line = json_integer_value(json_object_get(sweep->line, key));
    return line > 0 ? ft_complain(FT_EXIT_USAGE, "%s:%d: %s", sweep->path, (int)line, text)
                    : ft_complain(FT_EXIT_USAGE, "%s: %s", sweep->path, text);
}

static const char *kind_of(const json_t *value) {
    return json_is_object(value)    ? "a table"
           : json_is_array(value)   ? "a list"
           : json_is_string(value)  ? "text"
           : json_is_boolean(value) ? "true or false"
           : json_is_integer(value) ? "a whole number"
                                    : "a number";
}

static int wrong_kind(const struct sweep *sweep, const char *key, const json_t *value,
                      const char *expected) {
    return wrong(sweep, key, "%s is %s, expected %s", key, kind_of(value), expected);
}

/* ---- values as they would be typed ---- */

/* The sweep's own copy; NULL: no memory. */
static const char *keep_text(struct sweep *sweep, const char *text) {
    json_t *own = json_string(text);
    return own && json_array_append_new(sweep->text, own) == 0 ? json_string_value(own) : NULL;
}

enum { TEXTS = 1, WHOLE = 2, REALS = 4, LISTS = 8 };

/* One value that is no list; false where its kind is not among `kinds`. */
static bool type_one(const json_t *value, unsigned kinds, char *out, size_t cap) {
    int n = -1;
    if ((kinds & TEXTS) && json_is_string(value)) {
        n = snprintf(out, cap, "%s", json_string_value(value));
    } else if ((kinds & (WHOLE | REALS)) && json_is_integer(value)) {
        n = snprintf(out, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if ((kinds & REALS) && json_is_real(value)) {
        n = snprintf(out, cap, "%.17g", json_real_value(value));
    }
    return n >= 0 && (size_t)n < cap;
}

/* A value, or a list of them with commas between.
 *   ->       NULL: not of these kinds */
static const char *typed(struct sweep *sweep, const json_t *value, unsigned kinds) {
    char text[4096];
    size_t used = 0;
    if (!json_is_array(value)) {
        return type_one(value, kinds, text, sizeof text) ? keep_text(sweep, text) : NULL;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0) {
            text[used++] = ',';
        }
        if (!(kinds & LISTS) || used + 1 >= sizeof text ||
            !type_one(json_array_get(value, i), kinds, text + used, sizeof text - used - 1)) {
            return NULL;
        }
        used += strlen(text + used);
    }
    return used > 0 ? keep_text(sweep, text) : NULL;
}

static const struct {
    enum ft_option_kind kind;
    unsigned kinds;
    const char *expected;
} takes[] = { { FT_OPT_TEXT, TEXTS | WHOLE | LISTS, "text, or a list" },
              { FT_OPT_FILE, TEXTS, "the name of a file" },
              { FT_OPT_CHOICE, TEXTS, "text" },
              { FT_OPT_SHARD, TEXTS, "text" },
              { FT_OPT_UINT, WHOLE, "a whole number" },
              { FT_OPT_LIMIT, WHOLE, "a whole number" },
              { FT_OPT_SEED, WHOLE, "a whole number" },
              { FT_OPT_COUNTS, WHOLE | LISTS, "a whole number, or a list of them" },
              { FT_OPT_REAL, REALS, "a number" } };

static int set_text(struct sweep *sweep, struct ft_conf *conf, const char *key,
                    const struct ft_option *option, const char *text) {
    if (!text) {
        return ft_complain(FT_EXIT_FAILED, "%s: not enough memory for %s", sweep->path, key);
    }
    return ft_conf_set(option, text, conf) == FT_OK ? FT_EXIT_OK
                                                    : wrong(sweep, key, "%s", conf->error);
}

/* A method or a KV format, or a list of them. */
static int set_texts(struct sweep *sweep, struct ft_conf *conf, const char *key,
                     const struct ft_option *option, const json_t *value) {
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    int code = FT_EXIT_OK;
    for (size_t i = 0; i < n && code == FT_EXIT_OK; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        code = json_is_string(one)
                   ? set_text(sweep, conf, key, option, json_string_value(one))
                   : wrong_kind(sweep, key, one,
                                option->kind == FT_OPT_KV_TYPES ? "a format, or a list of them"
                                                                : "a method, or a list of them");
    }
    return code;
}

/* Any option; its place in the file is key. */
static int set_option(struct sweep *sweep, struct ft_conf *conf, const char *key,
                      const struct ft_option *option, const json_t *value) {
    if (option->kind == FT_OPT_FLAG) {
        if (!json_is_boolean(value)) {
            return wrong_kind(sweep, key, value, "true or false");
        }
        return json_is_true(value) ? set_text(sweep, conf, key, option, "") : FT_EXIT_OK;
    }
    for (size_t i = 0; i < FT_COUNT(takes); i++) {
        if (takes[i].kind == option->kind) {
            const char *text = typed(sweep, value, takes[i].kinds);
            return text ? set_text(sweep, conf, key, option, text)
                        : wrong_kind(sweep, key, value, takes[i].expected);
        }
    }
    return set_texts(sweep, conf, key, option, value);
}

/* ---- keys ---- */

static bool is_key(const char *list, const char *key) {
    size_t n = strlen(key);
    for (const char *at = list; *at != '\0'; at += strspn(at, ", ")) {
        size_t n_word = strcspn(at, ",");
        if (n_word == n && strncmp(at, key, n) == 0) {
            return true;
        }
        at += n_word;
    }
    return false;
}

/* An option of eval by its long name without dashes, of those in `list` ("": any). */
static const struct ft_option *option_of(const char *key, const char *list) {
    char name[KEY_CAP + 8];
    if (strlen(key) > KEY_CAP || (list[0] && !is_key(list, key))) {
        return NULL;
    }
    snprintf(name, sizeof name, "--%s", key);
    const struct ft_option *option = ft_conf_find(FT_CMD_EVAL, name);
    return option && strcmp(key, "help") != 0 ? option : NULL;
}

static int unknown_key(const struct sweep *sweep, const char *place, const char *key,
                       const char *list) {
    char all[1024] = "suite, models, methods";
    uint32_t n;
    const struct ft_option *option = ft_conf_options(&n);
    for (uint32_t i = 0; i < n && !list[0]; i++) {
        char name[KEY_CAP];
        size_t used = strlen(all);
        if (option[i].kind != FT_OPT_GROUP && (option[i].commands & FT_CMD_EVAL)) {
            ft_option_name(&option[i], name, sizeof name);
            if (option_of(name + 2, "")) {
                snprintf(all + used, sizeof all - used, ", %s", name + 2);
            }
        }
    }
    return wrong(sweep, place, "no key \"%.60s\"; there are: %s", key, list[0] ? list : all);
}

/* A [[name]] list: each table's options into a conf of its own, then `add`. */
static int read_tables(struct sweep *sweep, const char *name, const char *list,
                       int (*add)(struct sweep *sweep, const char *place,
                                  const struct ft_conf *conf)) {
    json_t *tables = json_object_get(sweep->root, name), *value;
    struct ft_conf *conf = ft_alloc(1, sizeof *conf);
    int code = conf ? FT_EXIT_OK : ft_complain(FT_EXIT_FAILED, "not enough memory");
    if (code == FT_EXIT_OK && tables && !json_is_array(tables)) {
        code = wrong_kind(sweep, name, tables, "a list of tables, [[...]]");
    }
    for (size_t i = 0; i < json_array_size(tables) && code == FT_EXIT_OK; i++) {
        json_t *table = json_array_get(tables, i);
        char place[2 * KEY_CAP + 32], at[KEY_CAP];
        const char *key;
        memset(conf, 0, sizeof *conf);
        snprintf(at, sizeof at, "%.30s[%zu]", name, i);
        if (!json_is_object(table)) {
            code = wrong_kind(sweep, at, table, "a table");
        }
        json_object_foreach(table, key, value) {
            const struct ft_option *option = option_of(key, list);
            snprintf(place, sizeof place, "%s.%.*s", at, KEY_CAP, key);
            code = option ? set_option(sweep, conf, place, option, value)
                          : unknown_key(sweep, place, key, list);
            if (code != FT_EXIT_OK) {
                break;
            }
        }
        if (code == FT_EXIT_OK) {
            code = add(sweep, at, conf);
        }
    }
    ft_free(conf);
    return code;
}

static int add_block(struct sweep *sweep, const char *place, const struct ft_conf *conf) {
    if (sweep->n_block == BLOCKS) {
        return wrong(sweep, place, "more than %d tables of methods", BLOCKS);
    }
    sweep->block[sweep->n_block++] = (struct ft_grid_block){
        .prompt = conf->prompt, .kv = conf->kv, .kv_type = conf->kv_types, .keep = conf->keep
    };
    return FT_EXIT_OK;
}

static int add_pair(struct sweep *sweep, const char *place, const struct ft_conf *conf) {
    if (!conf->model) {
        return wrong(sweep, place, "model is missing: the target's file");
    }
    if (sweep->n_pair == PAIRS) {
        return wrong(sweep, place, "more than %d pairs of models", PAIRS);
    }
    sweep->pair[sweep->n_pair++] = (struct pair){ .model = conf->model, .draft = conf->draft };
    return FT_EXIT_OK;
}

/* ---- the file ---- */

static int read_file(struct sweep *sweep) {
    struct ft_error error = { 0 };
    char *text = NULL;
    size_t n = 0;
    int code = ft_read_file(sweep->path, FILE_MOST, &text, &n);
    if (code == FT_EXIT_OK &&
        ft_toml_parse(sweep->path, text, n, &sweep->root, &sweep->line, &error) != FT_OK) {
        code = error.code == FT_FORMAT ? ft_complain(FT_EXIT_USAGE, "%s", error.text)
                                       : ft_complain_error(NULL, &error);
    }
    free(text);
    return code;
}

static int read_options(struct sweep *sweep) {
    const char *key;
    json_t *value;
    json_object_foreach(sweep->root, key, value) {
        bool is_own = is_key("suite, models, methods", key);
        const struct ft_option *option = is_own ? NULL : option_of(key, "");
        int code = is_own   ? FT_EXIT_OK
                   : option ? set_option(sweep, &sweep->conf, key, option, value)
                            : unknown_key(sweep, key, key, "");
        if (code != FT_EXIT_OK) {
            return code;
        }
    }
    value = json_object_get(sweep->root, "suite");
    if (!json_is_string(value)) {
        return value ? wrong_kind(sweep, "suite", value, "the name of a suite")
                     : wrong(sweep, "", "suite is missing: suite = \"ruler\"");
    }
    return FT_EXIT_OK;
}

static int read_settings(struct sweep *sweep) {
    const struct ft_conf *conf = &sweep->conf;
    int code = read_options(sweep);
    if (code == FT_EXIT_OK) {
        code = read_tables(sweep, "methods", "prompt, kv, keep, kv-type", add_block);
    }
    if (code == FT_EXIT_OK) {
        code = read_tables(sweep, "models", "model, draft", add_pair);
    }
    if (code == FT_EXIT_OK && sweep->n_block > 0 &&
        (conf->prompt.n + conf->kv.n > 0 || conf->keep)) {
        code = wrong(sweep, "methods",
                     "[[methods]], and prompt, kv or keep outside of it, exclude each other");
    }
    if (code == FT_EXIT_OK && sweep->n_pair > 0 && (conf->model || conf->draft)) {
        code = wrong(sweep, "models",
                     "[[models]], and model or draft outside of it, exclude each "
                     "other");
    }
    return code;
}

/* ---- what was typed ---- */

static int override(struct sweep *sweep, const struct ft_conf *given) {
    struct ft_conf *conf = &sweep->conf;
    if (ft_conf_over(FT_CMD_EVAL, (int)given->n_word, given->word, conf) != FT_OK) {
        return ft_complain(FT_EXIT_USAGE, "eval: %s", conf->error); /* it was read before */
    }
    if (given->prompt.n + given->kv.n > 0) {
        sweep->n_block = 0;
    }
    for (uint32_t i = 0; i < sweep->n_block; i++) {
        struct ft_grid_block *block = &sweep->block[i];
        block->keep = given->keep ? given->keep : block->keep;
        if (block->kv_type.n == 0 || given->kv_types.n > 0) {
            block->kv_type = conf->kv_types;
        }
    }
    if (given->model) {
        sweep->n_pair = 0;
    }
    for (uint32_t i = 0; i < sweep->n_pair && given->draft; i++) {
        sweep->pair[i].draft = given->draft;
    }
    if (sweep->n_block == 0) {
        add_block(sweep, "", conf);
    }
    if (sweep->n_pair == 0 && conf->model) {
        add_pair(sweep, "", conf);
    }
    if (sweep->n_pair == 0) {
        return wrong(sweep, "", "no models: [[models]] with model and draft, or -m FILE");
    }
    return conf->out ? FT_EXIT_OK : wrong(sweep, "", "out is missing: the folder of the records");
}

/* What `all` does not have yet. */
static bool join_texts(struct ft_texts *all, const struct ft_texts *own) {
    for (uint32_t t = 0; t < own->n; t++) {
        uint32_t at = 0;
        while (at < all->n && strcmp(all->text[at], own->text[t]) != 0) {
            at++;
        }
        if (at == FT_TEXTS_CAP) {
            return false;
        }
        all->text[at] = own->text[t];
        all->n = FT_MAX(all->n, at + 1);
    }
    return true;
}

/* Methods and formats of all blocks together: what they need is checked once. */
static int join_blocks(struct sweep *sweep) {
    struct ft_conf *conf = &sweep->conf;
    conf->prompt.n = conf->kv.n = conf->kv_types.n = 0;
    for (uint32_t b = 0; b < sweep->n_block; b++) {
        const struct ft_grid_block *block = &sweep->block[b];
        if (!join_texts(&conf->prompt, &block->prompt) || !join_texts(&conf->kv, &block->kv)) {
            return wrong(sweep, "methods", "more than %d different methods of a stage",
                         FT_TEXTS_CAP);
        }
        if (!join_texts(&conf->kv_types, &block->kv_type)) {
            return wrong(sweep, "methods", "more than %d different formats of KV rows",
                         FT_TEXTS_CAP);
        }
    }
    return FT_EXIT_OK;
}

/* ---- a record for each pair ---- */

/* "models/a.gguf" -> "a" */
static int stem(const char *path, const char **name) {
    size_t n;
    *name = ft_file_name(path);
    n = strlen(*name);
    return (int)(n > 5 && strcmp(*name + n - 5, ".gguf") == 0 ? n - 5 : n);
}

/* The target's name; with the draft's where another pair has the same target's. */
static int name_record(struct sweep *sweep, uint32_t i) {
    char path[FT_EVAL_PATH_CAP];
    const char *name, *other, *draft = "";
    struct pair *pair = &sweep->pair[i];
    int n_name = stem(pair->model, &name), n_draft = 0;
    for (uint32_t k = 0; k < sweep->n_pair && pair->draft; k++) {
        int n_other = stem(sweep->pair[k].model, &other);
        if (k != i && n_other == n_name && memcmp(other, name, (size_t)n_name) == 0) {
            n_draft = stem(pair->draft, &draft);
        }
    }
    int n = snprintf(path, sizeof path, "%s/%.*s%s%.*s.jsonl", sweep->conf.out, n_name, name,
                     n_draft > 0 ? "+" : "", n_draft, draft);
    if (n < 0 || (size_t)n >= sizeof path) {
        return wrong(sweep, "out", "out is too long for the name of a record");
    }
    for (uint32_t k = 0; k < i; k++) {
        if (strcmp(sweep->pair[k].out, path) == 0) {
            return wrong(sweep, "models", "two pairs of models would write %s", path);
        }
    }
    pair->out = keep_text(sweep, path);
    return pair->out ? FT_EXIT_OK : ft_complain(FT_EXIT_FAILED, "not enough memory");
}

static int make_folder(const char *path) {
    struct stat found;
    if (mkdir(path, 0777) != 0 && errno != EEXIST) {
        return ft_complain(FT_EXIT_FAILED, "--out: %s: cannot be made: %s", path, strerror(errno));
    }
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode)
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_FAILED, "--out: %s is no folder, which a sweep needs", path);
}

static int run_pairs(struct sweep *sweep) {
    struct ft_eval_plan *plan = ft_alloc(sweep->n_pair, sizeof *plan);
    int code = plan ? FT_EXIT_OK : ft_complain(FT_EXIT_FAILED, "not enough memory");
    sweep->conf.n_arg = 1;
    sweep->conf.arg[0] = json_string_value(json_object_get(sweep->root, "suite"));
    for (uint32_t i = 0; i < sweep->n_pair && code == FT_EXIT_OK; i++) {
        code = name_record(sweep, i);
        plan[i] = (struct ft_eval_plan){ .conf = sweep->conf,
                                         .block = sweep->block,
                                         .n_block = sweep->n_block };
        plan[i].conf.model = sweep->pair[i].model;
        plan[i].conf.draft = sweep->pair[i].draft;
        plan[i].conf.out = sweep->pair[i].out;
    }
    if (code == FT_EXIT_OK) {
        code = make_folder(sweep->conf.out);
    }
    if (code == FT_EXIT_OK) {
        code = ft_eval_plans(plan, sweep->n_pair);
    }
    ft_free(plan);
    return code;
}

static int run_sweep(struct sweep *sweep, const struct ft_conf *given) {
    int code = read_file(sweep);
    if (code == FT_EXIT_OK) {
        code = read_settings(sweep);
    }
    if (code == FT_EXIT_OK) {
        code = override(sweep, given);
    }
    if (code == FT_EXIT_OK) {
        code = join_blocks(sweep);
    }
    return code == FT_EXIT_OK ? run_pairs(sweep) : code;
}

int ft_eval_sweep(const struct ft_conf *conf) {
    struct sweep *sweep = ft_alloc(1, sizeof *sweep);
    int code;
    if (conf->n_arg != 2) {
        ft_free(sweep);
        return ft_complain(FT_EXIT_USAGE,
                           "eval sweep: expected one file of settings: foretoken eval "
                           "sweep FILE.toml");
    }
    if (!sweep || ft_conf_init(FT_CMD_EVAL, &sweep->conf) != FT_OK) {
        ft_free(sweep);
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    sweep->path = conf->arg[1];
    sweep->text = json_array();
    code = run_sweep(sweep, conf);
    json_decref(sweep->root);
    json_decref(sweep->line);
    json_decref(sweep->text);
    ft_free(sweep);
    return code;
}
