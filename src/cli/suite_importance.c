/* SPDX-License-Identifier: Apache-2.0 */
/* suite_importance.c - `foretoken eval importance`: how well the draft says what matters to the
 * target, on the prompts of `foretoken eval ruler`.
 *
 * --prompt and --kv name the estimators; without them specpc, speckv and snapkv.  What each is
 * compared with is in importance.h.  A cell is an estimator on a task at a length.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/suites.h"
#include "eval/importance.h"
#include "eval/ruler.h"

enum {
    ESTIMATORS_CAP = 8,
    CELLS_CAP = ESTIMATORS_CAP * FT_RULER_TASK_CAP * FT_COUNTS_CAP,
    SPEC_CAP = 256,
    /* A method ranks only where its budget is below the prompt; scores do not depend on how far. */
    KEEP_BESIDE_WINDOW = 65
};
/* More than any prompt: layers are read dense, so that estimate and truth rank the same rows. */
#define DENSE_PREFILL "prefill_window=1048576"

struct estimator {
    enum ft_stage stage;
    const char *label;    /* as given */
    char spec[SPEC_CAP];  /* with a budget */
    char truth[SPEC_CAP]; /* what it is compared with */
    bool needs_draft;
};

struct importance {
    void *ruler;          /* own of that suite */
    struct ft_suite asks; /* likewise */
    struct estimator estimator[ESTIMATORS_CAP];
    uint32_t n_estimator;
    uint32_t self_layers;
    struct ft_budgets budgets; /* all that were asked for */
    struct ft_cell cell[CELLS_CAP];
    uint32_t n_predict; /* of the sample at hand, as the token limit */
};

/* ---- options ---- */

/* A call of the suite whose prompts these are, with its own data in place. */
static int as_ruler(struct ft_eval *eval, int (*call)(struct ft_eval *eval)) {
    struct importance *own = eval->own;
    eval->own = own->ruler;
    int code = call(eval);
    own->ruler = eval->own;
    eval->own = own;
    return code;
}

static bool has_setting(const char *spec, const char *name) {
    size_t n = strlen(name);
    for (const char *at = strpbrk(spec, ":,"); at; at = strpbrk(at + 1, ":,")) {
        if (strncmp(at + 1, name, n) == 0 && at[1 + n] == '=') {
            return true;
        }
    }
    return false;
}

static unsigned long window_of(const char *spec) {
    const char *at = strstr(spec, "window=");
    return at ? strtoul(at + strlen("window="), NULL, 10) : 0;
}

/* "snapkv:pool=mean" with "keep=65" */
static bool with_settings(const char *spec, const char *settings, char out[SPEC_CAP]) {
    int n = snprintf(out, SPEC_CAP, "%s%c%s", spec, strchr(spec, ':') ? ',' : ':', settings);
    return n > 0 && n < SPEC_CAP;
}

static int too_long(const char *spec) {
    return ft_complain(FT_EXIT_USAGE, "eval importance: \"%.60s...\" is too long", spec);
}

/* Methods whose look-ahead is text have the truth's settings; others are compared with its own. */
static int set_specs(struct estimator *e, const struct ft_method_info *info) {
    char settings[96], truth[SPEC_CAP] = "oracle";
    bool is_ahead = strcmp(info->name, "speckv") == 0 || strcmp(info->name, "oracle") == 0;
    unsigned long keep = window_of(e->label) + KEEP_BESIDE_WINDOW;
    snprintf(settings, sizeof settings, "keep=%lu%s%s", keep, is_ahead ? "," : "",
             is_ahead ? DENSE_PREFILL : "");
    if (!with_settings(e->label, settings, e->spec)) {
        return too_long(e->label);
    }
    if (e->stage == FT_STAGE_PROMPT) {
        memcpy(e->truth, e->spec, sizeof e->truth);
        return FT_EXIT_OK;
    }
    if (is_ahead) {
        snprintf(truth, sizeof truth, "oracle%s", e->label + strlen(info->name));
    }
    snprintf(settings, sizeof settings, "keep=%lu," DENSE_PREFILL,
             is_ahead ? keep : KEEP_BESIDE_WINDOW);
    return with_settings(truth, settings, e->truth) ? FT_EXIT_OK : too_long(e->label);
}

static int add_estimator(struct importance *own, enum ft_stage stage, const char *label) {
    const char *option = stage == FT_STAGE_PROMPT ? "--prompt" : "--kv";
    const struct ft_method_info *info = NULL;
    struct ft_error error = { 0 };
    if (own->n_estimator == ESTIMATORS_CAP) {
        return ft_complain(FT_EXIT_USAGE, "eval importance: more than %d methods", ESTIMATORS_CAP);
    }
    if (ft_method_check(stage, label, &info, &error) != FT_OK) {
        return ft_complain_error(option, &error);
    }
    if (!info || strcmp(info->name, "dense") == 0) {
        return ft_complain(FT_EXIT_USAGE, "eval importance: %s dense ranks nothing", option);
    }
    if (stage == FT_STAGE_PROMPT && !info->needs_draft) {
        return ft_complain(FT_EXIT_USAGE,
                           "eval importance: --prompt %s asks no draft, so there is nothing of the "
                           "target's to compare it with",
                           info->name);
    }
    if (has_setting(label, "keep") || has_setting(label, "prefill_window")) {
        return ft_complain(FT_EXIT_USAGE,
                           "eval importance: %s %.100s sets %s, which decides nothing here; "
                           "--budgets says where rankings are compared",
                           option, label, has_setting(label, "keep") ? "keep" : "prefill_window");
    }
    for (uint32_t i = 0; i < own->n_estimator; i++) {
        if (strcmp(own->estimator[i].label, label) == 0) {
            return ft_complain(FT_EXIT_USAGE, "eval importance: %s is given twice", label);
        }
    }
    struct estimator *e = &own->estimator[own->n_estimator++];
    *e = (struct estimator){ .stage = stage, .label = label, .needs_draft = info->needs_draft };
    return set_specs(e, info);
}

static int add_estimators(struct importance *own, const struct ft_conf *conf) {
    int code = FT_EXIT_OK;
    if (conf->prompt.n + conf->kv.n == 0) {
        if (!conf->draft) {
            return ft_complain(
                FT_EXIT_USAGE,
                "eval importance compares a draft with the target: -d FILE is needed "
                "(or --kv with a method that asks no draft)");
        }
        if (strncmp(conf->draft, "self:", 5) == 0) {
            return ft_complain(FT_EXIT_USAGE,
                               "eval importance: %.60s writes no text for speckv; name what is to "
                               "be measured: --prompt specpc",
                               conf->draft);
        }
        code = add_estimator(own, FT_STAGE_PROMPT, "specpc");
        code = code == FT_EXIT_OK ? add_estimator(own, FT_STAGE_KV, "speckv") : code;
        return code == FT_EXIT_OK ? add_estimator(own, FT_STAGE_KV, "snapkv") : code;
    }
    for (uint32_t i = 0; i < conf->prompt.n && code == FT_EXIT_OK; i++) {
        code = add_estimator(own, FT_STAGE_PROMPT, conf->prompt.text[i]);
    }
    for (uint32_t i = 0; i < conf->kv.n && code == FT_EXIT_OK; i++) {
        code = add_estimator(own, FT_STAGE_KV, conf->kv.text[i]);
    }
    return code;
}

static int compare_counts(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

_Static_assert((int)FT_BUDGETS_CAP == (int)FT_COUNTS_CAP, "every --budgets has room");

static int set_budgets(struct importance *own, const struct ft_conf *conf) {
    static const struct ft_counts usual = { .value = { 32, 64, 128, 256, 512, 1024 }, .n = 6 };
    const struct ft_counts *given = conf->budgets.n > 0 ? &conf->budgets : &usual;
    struct ft_budgets *budgets = &own->budgets;
    budgets->n = given->n;
    memcpy(budgets->value, given->value, sizeof budgets->value);
    qsort(budgets->value, budgets->n, sizeof *budgets->value, compare_counts);
    for (uint32_t i = 1; i < budgets->n; i++) {
        if (budgets->value[i] == budgets->value[i - 1]) {
            return ft_complain(FT_EXIT_USAGE, "--budgets has %u twice", budgets->value[i]);
        }
    }
    for (uint32_t i = 0; i < conf->ctx.n; i++) {
        if (budgets->value[0] >= conf->ctx.value[i]) {
            return ft_complain(FT_EXIT_USAGE, "--budgets: none is below --ctx %u",
                               conf->ctx.value[i]);
        }
    }
    return FT_EXIT_OK;
}

static int check(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct importance *own = eval->own = ft_alloc(1, sizeof *own);
    if (!own) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    if (conf->n_arg > 1) {
        return ft_complain(FT_EXIT_USAGE, "eval importance: unexpected argument \"%.100s\"",
                           conf->arg[1]);
    }
    int code = as_ruler(eval, ft_eval_ruler.check);
    if (code == FT_EXIT_OK) {
        code = add_estimators(own, conf);
    }
    return code == FT_EXIT_OK ? set_budgets(own, conf) : code;
}

/* ---- samples ---- */

static ft_status make(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                      struct ft_sample *out, struct ft_error *error) {
    const struct importance *own = user;
    return own->asks.make(own->asks.user, task, ctx, index, out, error);
}

static const struct estimator *estimator_of(const struct importance *own,
                                            const struct ft_cell *cell) {
    uint32_t i = 0;
    while (own->estimator[i].label != cell->method) {
        i++;
    }
    return &own->estimator[i];
}

/* Both sides of a comparison. */
static ft_status read_scores(const struct ft_suite_params *params, const struct ft_cell *cell,
                             uint32_t index, struct ft_scores side[2], struct ft_error *error) {
    struct importance *own = params->suite.user;
    const struct estimator *e = estimator_of(own, cell);
    struct ft_session_params session = *params->session;
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_tokens tokens = { 0 };
    bool is_prompt = e->stage == FT_STAGE_PROMPT;
    uint32_t n_head = 0;
    FT_TRY(make(own, cell->task, cell->ctx, index, &sample, error));
    const struct ft_chat chat = { .user = sample.turn[0].text,
                                  .begun = params->has_prefix ? sample.turn[0].prefix : NULL,
                                  .is_plain = !params->is_chat };
    session.n_predict = sample.n_predict;
    ft_status status = ft_chat_tokens(params->target, &chat, &tokens, &n_head, error);
    struct ft_scores_params scores = { .target = params->target,
                                       .draft = e->needs_draft ? params->draft : NULL,
                                       .session = &session,
                                       .self_layers = e->needs_draft ? own->self_layers : 0,
                                       .stage = e->stage,
                                       .spec = e->spec,
                                       .id = tokens.id,
                                       .n = tokens.n,
                                       .n_head = n_head,
                                       .guard = params->guard };
    if (status == FT_OK) {
        status = ft_scores_read(&scores, &side[0], error);
    }
    if (status == FT_OK) {
        scores.draft = is_prompt ? params->target : NULL;
        scores.self_layers = 0;
        scores.spec = e->truth;
        status = ft_scores_read(&scores, &side[1], error);
    }
    ft_tokens_free(&tokens);
    ft_sample_done(&sample);
    return status;
}

/* Those that the prompt has room for.  The stated one is the largest up to an eighth of the length,
 * so that it is the same for all samples of a cell; else the smallest.
 *   n        tokens that have a score */
static ft_status budgets_for(const struct importance *own, uint32_t ctx, uint32_t n,
                             struct ft_budgets *out, struct ft_error *error) {
    *out = own->budgets;
    while (out->n > 0 && out->value[out->n - 1] >= n) {
        out->n--;
    }
    while (out->stated + 1 < own->budgets.n && own->budgets.value[out->stated + 1] <= ctx / 8) {
        out->stated++;
    }
    return out->stated < out->n
               ? FT_OK
               : ft_fail(
                     error, FT_LIMIT, 0,
                     "--budgets: %u is not below the %u tokens of this prompt that have a score",
                     own->budgets.value[out->stated], n);
}

static json_t *list_of(const double *value, uint32_t n, double scale) {
    json_t *list = json_array();
    for (uint32_t l = 0; l < n; l++) {
        json_array_append_new(list, ft_json_number(scale * value[l]));
    }
    return list;
}

static json_t *row_of(const struct ft_cell *cell, const struct ft_record_key *key,
                      const char *kv_type, const struct ft_scores *estimate,
                      const struct ft_budgets *budgets, const struct ft_importance *found) {
    json_t *row = ft_row_new(cell, key, kv_type, &estimate->report);
    json_t *overlap = json_object(), *random = json_object();
    for (uint32_t i = 0; i < budgets->n; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", budgets->value[i]);
        json_object_set_new(overlap, name, json_real(100 * found->mean.overlap[i]));
        json_object_set_new(random, name, json_real(100.0 * budgets->value[i] / found->n));
    }
    json_object_set_new(row, "score", json_real(100 * found->mean.overlap[budgets->stated]));
    json_object_set_new(row, "budget", json_integer(budgets->value[budgets->stated]));
    json_object_set_new(row, "r2", ft_json_number(found->mean.r2));
    json_object_set_new(row, "r2_log", ft_json_number(found->mean.r2_log));
    json_object_set_new(row, "spearman", ft_json_number(found->mean.spearman));
    json_object_set_new(row, "overlap", overlap);
    json_object_set_new(row, "random", random);
    json_object_set_new(row, "scored_tokens", json_integer(found->n));
    json_object_set_new(row, "draft_tokens", json_integer(estimate->report.n_draft_text));
    if (found->n_layer > 1) {
        json_object_set_new(row, "r2_layers", list_of(found->r2_layer, found->n_layer, 1));
        json_object_set_new(row, "overlap_layers",
                            list_of(found->overlap_layer, found->n_layer, 100));
    }
    return row;
}

static ft_status measure(const struct ft_suite_params *params, const struct ft_bench_case *method,
                         const struct ft_cell *cell, const struct ft_record_key *key, json_t **row,
                         struct ft_error *error) {
    (void)method; /* the cell's estimator */
    const struct importance *own = params->suite.user;
    struct ft_scores side[2] = { { .n = 0 }, { .n = 0 } };
    struct ft_importance found = { .n = 0 };
    struct ft_budgets budgets;
    json_t *points = NULL;
    bool is_prompt = estimator_of(own, cell)->stage == FT_STAGE_PROMPT;
    ft_status status = read_scores(params, cell, key->index, side, error);
    if (status == FT_OK) {
        status = budgets_for(own, cell->ctx, FT_MIN(side[0].n, side[1].n), &budgets, error);
    }
    if (status == FT_OK) {
        status = ft_importance_of(&side[0], &side[1], &budgets, &found, error);
    }
    if (status == FT_OK && is_prompt && key->index == 0) {
        status = ft_importance_points(&side[0], &side[1], &points, error);
    }
    if (status == FT_OK) {
        *row =
            row_of(cell, key, ft_case_kv_type(method, params->session), &side[0], &budgets, &found);
        if (points) {
            json_object_set_new(*row, "points", points);
        }
    }
    ft_importance_done(&found);
    ft_scores_done(&side[0]);
    ft_scores_done(&side[1]);
    return status;
}

/* ---- cells ---- */

/* Estimators of a task stand together. */
static void add_cells(struct ft_eval *eval) {
    struct importance *own = eval->own;
    const struct ft_cell *asked = eval->cell;
    uint32_t n = 0;
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        for (uint32_t k = 0; k < own->n_estimator; k++) {
            own->cell[n] = asked[i];
            own->cell[n++].method = own->estimator[k].label;
        }
    }
    eval->cell = own->cell;
    eval->n_cell = n;
}

static int open_importance(struct ft_eval *eval) {
    struct importance *own = eval->own;
    struct ft_setup *setup = &eval->setup;
    int code = as_ruler(eval, ft_eval_ruler.open);
    if (code != FT_EXIT_OK) {
        return code;
    }
    own->asks = eval->ask;
    eval->ask = (struct ft_suite){ .user = own, .make = make, .measure = measure };
    add_cells(eval);
    /* Methods are run one by one; the memory asked about is that of the largest run. */
    setup->params.prompt = setup->params.kv = NULL;
    setup->params.self_layers = 0;
    own->self_layers = setup->self_layers;
    for (uint32_t i = 0; i < own->n_estimator; i++) {
        const struct estimator *e = &own->estimator[i];
        setup->needs_draft = setup->needs_draft || e->needs_draft;
        setup->params.kv = e->stage == FT_STAGE_KV ? e->truth : setup->params.kv;
    }
    setup->params.is_kv_scored = setup->params.kv != NULL;
    return FT_EXIT_OK;
}

static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    const struct importance *own = eval->own;
    struct ft_eval ruler = *eval;
    json_t *budgets = json_array();
    ruler.own = own->ruler;
    ft_eval_ruler.describe(&ruler, manifest, files);
    for (uint32_t i = 0; i < own->budgets.n; i++) {
        json_array_append_new(budgets, json_integer(own->budgets.value[i]));
    }
    json_object_set_new(manifest, "budgets", budgets);
}

static int close_ruler(struct ft_eval *eval) {
    ft_eval_ruler.close(eval);
    return FT_EXIT_OK;
}

static void close_importance(struct ft_eval *eval) {
    if (eval->own) {
        as_ruler(eval, close_ruler);
        ft_free(eval->own);
    }
}

/* ---- what is printed ---- */

static void print_cell(const struct ft_cell *cell, const struct ft_overlap *o) {
    ft_out("%-15s  %7u  ", cell->name, cell->ctx);
    ft_out_safe(cell->method);
    ft_out("\n%26s R^2 %.3f (of logarithms %.3f), rank correlation %.3f\n%26s", "", o->r2,
           o->r2_log, o->spearman, "");
    for (uint32_t b = 0; b < o->n_budget; b++) {
        ft_out(" %u: %.1f (%.1f)", o->budget[b], o->overlap[b].mean, o->random[b]);
    }
    ft_out("\n");
}

static json_t *value_of(const struct ft_cell *cell, const struct ft_overlap *o,
                        const json_t *const *row, uint32_t n) {
    json_t *value = json_object();
    double *score = ft_alloc(n, sizeof *score);
    for (uint32_t i = 0; score && i < n; i++) {
        score[i] = json_number_value(json_object_get(row[i], "score"));
    }
    struct ft_interval mean = score ? ft_interval_of(score, n) : (struct ft_interval){ .mean = 0 };
    ft_free(score);
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    json_object_set_new(value, "method", ft_json_text(cell->method));
    json_object_set_new(value, "score", json_real(mean.mean));
    json_object_set_new(value, "low", json_real(mean.low));
    json_object_set_new(value, "high", json_real(mean.high));
    json_object_set(value, "budget", json_object_get(row[0], "budget"));
    json_object_set_new(value, "data", json_string(cell->data));
    ft_overlap_set(value, o);
    return value;
}

static int print_cells(const struct ft_eval *eval, const json_t **row, json_t *rows) {
    struct ft_error error = { 0 };
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i];
        struct ft_overlap overlap;
        struct ft_record_key key = { .task = cell->name, .method = cell->method, .ctx = cell->ctx };
        uint32_t n = 0;
        for (; key.index < cell->n_sample; key.index++) {
            row[n] = ft_record_find(eval->record, &key);
            n += row[n] && ft_shard_has(&eval->shard, i, key.index);
        }
        if (n == 0) {
            continue;
        }
        if (ft_overlap_of(row, n, &overlap, &error) != FT_OK) {
            return ft_complain_error(NULL, &error);
        }
        if (rows) {
            json_array_append_new(rows, value_of(cell, &overlap, row, n));
        } else {
            print_cell(cell, &overlap);
        }
    }
    return FT_EXIT_OK;
}

/* rows: NULL prints. */
static int all_cells(const struct ft_eval *eval, json_t *rows) {
    const json_t **row = ft_alloc(eval->setup.conf->n_sample, sizeof *row);
    if (!row) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the scores");
    }
    int code = print_cells(eval, row, rows);
    ft_free((void *)row);
    return code;
}

static int print(const struct ft_eval *eval) {
    int code = all_cells(eval, NULL);
    if (code == FT_EXIT_OK && eval->shard.n > 0) {
        ft_out("part %u/%u of ", eval->shard.i, eval->shard.n);
    }
    if (code == FT_EXIT_OK) {
        ft_out("%u samples each, seed %llu; \"C: x (y)\": x %% of the C best are the same, where a "
               "random choice has y %%\n",
               eval->setup.conf->n_sample, (unsigned long long)eval->seed);
    }
    return code;
}

static int value(const struct ft_eval *eval, json_t **out) {
    json_t *rows = json_array();
    int code = all_cells(eval, rows);
    if (code == FT_EXIT_OK) {
        *out = json_object();
        json_object_set(*out, "rows", rows);
        json_object_set(*out, "manifest", eval->manifest);
    }
    json_decref(rows);
    return code;
}

static const char *const unused[] = { "--file", "--depths", "--keep", "--tolerance", NULL };

const struct ft_eval_kind ft_eval_importance = { .name = "importance",
                                                 .check = check,
                                                 .open = open_importance,
                                                 .describe = describe,
                                                 .close = close_importance,
                                                 .print = print,
                                                 .value = value,
                                                 .takes_methods = true,
                                                 .unused = unused };
