/* SPDX-License-Identifier: Apache-2.0 */
/* score.c - the catalogue of methods, and the one parser of "name:key=value,...". */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "score/score.h"

#define METHOD(name) extern const struct ft_method ft_method_##name;
#include "score/methods.def"
#undef METHOD

static const struct ft_method *const catalogue[] = {
#define METHOD(name) &ft_method_##name,
#include "score/methods.def"
#undef METHOD
};

enum {
    TEXT_CAP = 160,  /* a list of names inside an error line */
    VALUE_CAP = 24,  /* as ft_setting.value: nothing longer can be meant */
    PARAMS_CAP = 128 /* largest params struct; struct ft_split stands behind it */
};

#define AT(field) (PARAMS_CAP + offsetof(struct ft_split, field))

/* Rows of the table below that others belong to. */
enum { SHARED_BUDGET = 0, SHARED_RANK = 4, SHARED_NONE = -1 };

/* What every KV method can be told about its budget and its ranking: parameters of its own, written
 * once. */
static const struct shared {
    struct ft_param param;
    int owner; /* the choice that it belongs to, and what must have been chosen there */
    uint32_t value;
} shared[] = {
    { { .name = "budget", .type = FT_CHOICE, .offset = AT(budget), .initial = "uniform",
        .choices = "uniform|pyramid|ada",
        .help = "spread of rows: alike, fewer in later layers, by score over a layer's heads" },
      SHARED_NONE, 0 },
    { { .name = "beta", .type = FT_UINT, .offset = AT(beta), .initial = "20", .low = 1,
        .high = 1000, .help = "pyramid: the last layer's share is 1 in beta of the average" },
      SHARED_BUDGET, FT_BUDGET_PYRAMID },
    { { .name = "alpha", .type = FT_UINT, .offset = AT(alpha), .initial = "20", .low = 0,
        .high = 100, .help = "ada: percent of the average that every head keeps for certain" },
      SHARED_BUDGET, FT_BUDGET_ADA },
    { { .name = "rule", .type = FT_CHOICE, .offset = AT(rule), .initial = "exact",
        .choices = "exact|adakv",
        .help = "ada: the total is exact, or rounded head by head as in AdaKV's code" },
      SHARED_BUDGET, FT_BUDGET_ADA },
    { { .name = "rank", .type = FT_CHOICE, .offset = AT(rank), .initial = "score",
        .choices = "score|critical",
        .help = "order of a head's rows: by score, or then by the size of their values' output too" },
      SHARED_NONE, 0 },
    { { .name = "rho", .type = FT_UINT, .offset = AT(rho), .initial = "50", .low = 0,
        .high = 100, .help = "critical: percent of the chosen rows that the score alone chooses" },
      SHARED_RANK, FT_RANK_CRITICAL },
};

#undef AT

/* Parameter i of a method; *own: the first one that is not its own. */
static const struct ft_param *param_at(const struct ft_method *method, uint32_t i, uint32_t *own) {
    *own = 0;
    while (method->params[*own].name != NULL) {
        (*own)++;
    }
    if (i < *own) {
        return &method->params[i];
    }
    bool has_budget = method->act == FT_RETAIN && method->score != NULL;
    return has_budget && i - *own < FT_COUNT(shared) ? &shared[i - *own].param : NULL;
}

const struct ft_param *ft_method_param(const struct ft_method *method, uint32_t i) {
    uint32_t own;
    return param_at(method, i, &own);
}

uint32_t ft_catalogue_count(void) {
    return (uint32_t)FT_COUNT(catalogue);
}

const struct ft_method *ft_catalogue(uint32_t index) {
    return index < FT_COUNT(catalogue) ? catalogue[index] : NULL;
}

/* ---- text ---- */

/* A piece of the user's text that is safe to show: one line, shortened. */
struct shown {
    char text[44];
};

static struct shown show(const char *s, size_t n) {
    struct shown out = { "" };
    size_t cap = sizeof(out.text) - 4, i;
    for (i = 0; i < n && i < cap; i++) {
        out.text[i] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
    }
    if (i < n) {
        memcpy(out.text + i, "...", 3);
    }
    return out;
}

/* Append to a bounded text; what does not fit is cut. */
static void append(char *buf, size_t cap, const char *s) {
    size_t used = strlen(buf);
    (void)snprintf(buf + used, cap - used, "%s", s);
}

/* "name" is one of "a|b|c": its index, or UINT32_MAX. */
static uint32_t choice_find(const char *choices, const char *name) {
    size_t n = strlen(name);
    uint32_t index = 0;
    for (const char *at = choices; *at != '\0'; index++) {
        size_t length = strcspn(at, "|");
        if (length == n && memcmp(at, name, n) == 0) {
            return index;
        }
        at += length + (at[length] == '|');
    }
    return UINT32_MAX;
}

static void choice_text(const char *choices, uint32_t index, char *buf, size_t cap) {
    for (; index > 0; index--) {
        choices += strcspn(choices, "|") + 1;
    }
    (void)snprintf(buf, cap, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* ---- amounts ---- */

static const struct {
    const char *name;
    double bytes;
} units[] = {
    /* where two spellings are equally short the earlier one is shown */
    { "GiB", 1073741824 }, { "MiB", 1048576 }, { "KiB", 1024 }, { "GB", 1e9 },
    { "MB", 1e6 },         { "KB", 1e3 },      { "B", 1 },
};

enum { DECIMALS = 4 }; /* of a share or a number of units */
static const double pow10_of[DECIMALS + 1] = { 1, 10, 100, 1000, 10000 };

/* Decimal digits, at most four after a point; no sign, no exponent, no locale.  -> what follows */
static const char *decimal_parse(const char *s, double *out, bool *is_whole) {
    double mantissa = 0;
    unsigned digits = 0, decimals = 0;
    for (; *s >= '0' && *s <= '9' && digits < 13; s++, digits++) {
        mantissa = mantissa * 10 + (*s - '0');
    }
    *is_whole = *s != '.';
    if (!*is_whole && digits > 0) {
        for (s++; *s >= '0' && *s <= '9' && decimals < DECIMALS; s++, decimals++) {
            mantissa = mantissa * 10 + (*s - '0');
        }
    }
    *out = mantissa / pow10_of[decimals];
    return digits > 0 && (*is_whole || decimals > 0) ? s : NULL;
}

static void decimal_text(double value, char *buf, size_t cap) {
    uint64_t scaled = (uint64_t)(value * pow10_of[DECIMALS] + 0.5);
    (void)snprintf(buf, cap, "%llu.%04llu", (unsigned long long)(scaled / 10000),
                   (unsigned long long)(scaled % 10000));
    size_t n = strlen(buf);
    while (buf[n - 1] == '0') {
        n--;
    }
    buf[buf[n - 1] == '.' ? n - 1 : n] = '\0';
}

ft_status ft_amount_parse(const char *text, struct ft_amount *out) {
    double value;
    bool is_whole;
    const char *suffix = decimal_parse(text, &value, &is_whole);
    if (suffix == NULL || value <= 0) {
        return FT_ARG;
    }
    if (*suffix == '\0') {
        if (!is_whole || value > INT32_MAX) {
            return FT_ARG;
        }
        *out = (struct ft_amount){ FT_AMOUNT_ROWS, value };
        return FT_OK;
    }
    if (strcmp(suffix, "%") == 0) {
        if (value > 100) {
            return FT_ARG;
        }
        *out = (struct ft_amount){ FT_AMOUNT_SHARE, value };
        return FT_OK;
    }
    for (size_t i = 0; i < FT_COUNT(units); i++) {
        if (strcmp(suffix, units[i].name) == 0) {
            *out = (struct ft_amount){ FT_AMOUNT_BYTES, value * units[i].bytes };
            return FT_OK;
        }
    }
    return FT_ARG;
}

void ft_amount_text(const struct ft_amount *amount, char *buf, size_t cap) {
    char best[64] = "", text[64];
    if (amount->unit != FT_AMOUNT_BYTES) {
        decimal_text(amount->value, text, sizeof(text));
        (void)snprintf(buf, cap, "%s%s", text, amount->unit == FT_AMOUNT_SHARE ? "%" : "");
        return;
    }
    for (size_t i = 0; i < FT_COUNT(units); i++) {
        struct ft_amount back;
        decimal_text(amount->value / units[i].bytes, text, sizeof(text));
        append(text, sizeof(text), units[i].name);
        bool is_same = ft_amount_parse(text, &back) == FT_OK && back.value == amount->value;
        if (is_same && (best[0] == '\0' || strlen(text) < strlen(best))) {
            memcpy(best, text, sizeof(best));
        }
    }
    if (best[0] == '\0') { /* more digits than a user can type */
        (void)snprintf(best, sizeof(best), "%.0fB", amount->value);
    }
    (void)snprintf(buf, cap, "%s", best);
}

/* The most rows that fit: exact ones, or blocks and behind them the residual and what is no block
 * yet.  A row more may take less, where it makes a block whole: what counts are the blocks that the
 * input has, so that rows for which bytes would be enough with further blocks are not taken for
 * fitting. */
static double rows_of_bytes(double bytes, const struct ft_facts *facts) {
    double token = (double)FT_MAX(facts->token_bytes, 1), block = (double)facts->block_bytes;
    double exact = facts->residual * token;
    if (facts->block_rows == 0 || bytes < exact + block) {
        return floor(bytes / token);
    }
    uint32_t n_packed = facts->n_prompt - FT_MIN(facts->residual, facts->n_prompt);
    double n = FT_MIN(floor((bytes - exact) / block), (double)(n_packed / facts->block_rows));
    double rest = floor((bytes - exact - n * block) / token);
    return n * facts->block_rows + facts->residual + FT_MIN(rest, facts->block_rows - 1.0);
}

uint32_t ft_amount_rows(const struct ft_amount *amount, const struct ft_facts *facts) {
    double rows = amount->value;
    if (facts->keep > 0) {
        return facts->keep;
    }
    if (amount->unit == FT_AMOUNT_SHARE) {
        /* A share is a whole number of millionths, so this floor is exact. */
        uint64_t millionths = (uint64_t)(amount->value * pow10_of[DECIMALS] + 0.5);
        rows = (double)(facts->n_prompt * millionths / 1000000);
    } else if (amount->unit == FT_AMOUNT_BYTES) {
        rows = rows_of_bytes(amount->value, facts);
    }
    return rows < (double)INT32_MAX ? (uint32_t)rows : (uint32_t)INT32_MAX;
}

/* ---- one parameter ---- */

static void *field(const struct ft_param *param, void *params) {
    return (unsigned char *)params + param->offset;
}

static const void *field_of(const struct ft_param *param, const void *params) {
    return (const unsigned char *)params + param->offset;
}

static uint32_t uint_of(const struct ft_param *param, const void *params) {
    return *(const uint32_t *)field_of(param, params);
}

void ft_param_range(const struct ft_param *param, char *buf, size_t cap) {
    switch (param->type) {
    case FT_CHOICE:
        (void)snprintf(buf, cap, "%s", param->choices);
        break;
    case FT_KEEP:
        (void)snprintf(buf, cap, "rows (256), a share (25%%) or bytes (64MiB)");
        break;
    default:
        (void)snprintf(buf, cap, "%u..%u", param->low, param->high);
        if (param->step > 1) {
            size_t used = strlen(buf);
            (void)snprintf(buf + used, cap - used, " in steps of %u", param->step);
        }
    }
}

/* Set one parameter from text.  false: not a value it takes. */
static bool param_set(const struct ft_param *param, const char *text, void *params) {
    if (param->type == FT_KEEP) {
        return ft_amount_parse(text, field(param, params)) == FT_OK;
    }
    uint32_t *out = field(param, params);
    if (param->type == FT_CHOICE) {
        uint32_t index = choice_find(param->choices, text);
        if (index != UINT32_MAX) {
            *out = index;
        }
        return index != UINT32_MAX;
    }
    size_t n = strlen(text);
    uint64_t value = 0;
    if (n == 0 || n > 10 || strspn(text, "0123456789") != n) {
        return false;
    }
    for (; *text != '\0'; text++) {
        value = value * 10 + (uint64_t)(*text - '0');
    }
    if (value < param->low || value > param->high ||
        (value - param->low) % FT_MAX(param->step, 1) != 0) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static void params_init(const struct ft_method *method, void *params) {
    const struct ft_param *p;
    for (uint32_t i = 0; (p = ft_method_param(method, i)) != NULL; i++) {
        if (p->initial == NULL) {
            *(uint32_t *)field(p, params) = FT_UNSET;
        } else {
            ft_assert(param_set(p, p->initial, params));
        }
    }
}

/* ---- a whole choice ---- */

static bool serves(const struct ft_method *method, enum ft_stage stage) {
    bool is_prompt = method->act == FT_PROMPT;
    return method->score == NULL || is_prompt == (stage == FT_STAGE_PROMPT);
}

static const char *stage_name(enum ft_stage stage) {
    return stage == FT_STAGE_PROMPT ? "prompt" : "kv";
}

static ft_status method_find(enum ft_stage stage, const char *name, size_t n,
                             const struct ft_method **out, struct ft_error *err) {
    const struct ft_method *other = NULL; /* of that name, but for the other stage */
    char list[TEXT_CAP] = "";
    for (size_t i = 0; i < FT_COUNT(catalogue); i++) {
        bool is_it = strlen(catalogue[i]->name) == n && memcmp(catalogue[i]->name, name, n) == 0;
        if (is_it && serves(catalogue[i], stage)) {
            *out = catalogue[i];
            return FT_OK;
        }
        other = is_it ? catalogue[i] : other;
        if (serves(catalogue[i], stage)) {
            append(list, sizeof(list), list[0] == '\0' ? "" : ", ");
            append(list, sizeof(list), catalogue[i]->name);
        }
    }
    if (other != NULL) {
        const char *its = stage_name(stage == FT_STAGE_KV ? FT_STAGE_PROMPT : FT_STAGE_KV);
        return ft_fail(err, FT_ARG, 0, "%s is a %s method, not a %s method: use --%s %s",
                       other->name, its, stage_name(stage), its, other->name);
    }
    return ft_fail(err, FT_ARG, 0, "unknown %s method \"%s\"; there are: %s", stage_name(stage),
                   show(name, n).text, list);
}

/* A method's parameters while they are read from `spec`. */
struct reading {
    const struct ft_method *method;
    const char *spec;
    void *params;
    uint32_t seen; /* a bit per parameter */
};

static ft_status param_find(const struct reading *in, size_t where, size_t n, uint32_t *index,
                            struct ft_error *err) {
    const struct ft_method *method = in->method;
    const char *name = in->spec + where;
    const struct ft_param *param;
    char list[TEXT_CAP] = "";
    for (uint32_t i = 0; (param = ft_method_param(method, i)) != NULL; i++) {
        const char *own = param->name;
        if (strlen(own) == n && memcmp(own, name, n) == 0) {
            *index = i;
            return FT_OK;
        }
        append(list, sizeof(list), i == 0 ? "" : ", ");
        append(list, sizeof(list), own);
    }
    if (list[0] == '\0') {
        return ft_fail(err, FT_ARG, where, "%s takes no parameters, found \"%s\"", method->name,
                       show(name, n).text);
    }
    return ft_fail(err, FT_ARG, where, "%s has no parameter \"%s\"; it has: %s", method->name,
                   show(name, n).text, list);
}

/* One "key=value" of n bytes at spec + where. */
static ft_status item_parse(struct reading *in, size_t where, size_t n, struct ft_error *err) {
    const struct ft_method *method = in->method;
    const char *item = in->spec + where, *equals = memchr(item, '=', n);
    size_t n_name = equals != NULL ? (size_t)(equals - item) : n, n_value = n - n_name;
    uint32_t i = 0;
    FT_TRY(param_find(in, where, n_name, &i, err));
    const struct ft_param *param = ft_method_param(method, i);
    char value[VALUE_CAP] = "", range[64];
    ft_param_range(param, range, sizeof(range));
    if ((in->seen >> i) & 1) {
        return ft_fail(err, FT_ARG, where, "%s: %s is given twice", method->name, param->name);
    }
    in->seen |= UINT32_C(1) << i;
    if (equals == NULL) {
        return ft_fail(err, FT_ARG, where, "%s: %s has no value, expected %s=%s", method->name,
                       param->name, param->name, range);
    }
    n_value--;
    bool is_short = n_value < sizeof(value);
    if (is_short) {
        memcpy(value, equals + 1, n_value);
    }
    if (!is_short || !param_set(param, value, in->params)) {
        return ft_fail(err, FT_ARG, where + n_name + 1, "%s: %s is \"%s\", expected %s",
                       method->name, param->name, show(equals + 1, n_value).text, range);
    }
    return FT_OK;
}

static ft_status list_parse(struct reading *in, size_t where, struct ft_error *err) {
    for (;;) {
        size_t n = strcspn(in->spec + where, ",");
        if (n == 0) {
            return ft_fail(err, FT_ARG, where, "\"%s\": expected key=value at byte %zu",
                           show(in->spec, strlen(in->spec)).text, where);
        }
        FT_TRY(item_parse(in, where, n, err));
        if (in->spec[where + n] == '\0') {
            return FT_OK;
        }
        where += n + 1;
    }
}

const struct ft_split *ft_choice_split(const struct ft_choice *choice) {
    return (const void *)((const unsigned char *)choice->params + PARAMS_CAP);
}

/* Does parameter i apply?  beta belongs to pyramid alone. */
static bool applies(const struct ft_choice *choice, uint32_t i) {
    uint32_t own;
    (void)param_at(choice->method, i, &own);
    if (i < own || shared[i - own].owner == SHARED_NONE) {
        return true;
    }
    const struct shared *row = &shared[i - own];
    return uint_of(&shared[row->owner].param, choice->params) == row->value;
}

/* The name of a value of a shared choice. */
static const char *value_name(int owner, uint32_t value, char buf[16]) {
    choice_text(shared[owner].param.choices, value, buf, 16);
    return buf;
}

/* A setting of a budget, or of a ranking, that was not chosen. */
static ft_status owner_check(const struct ft_choice *choice, const struct shared *row,
                             struct ft_error *err) {
    char wanted[16], chosen[16];
    const struct ft_param *owner = &shared[row->owner].param;
    return ft_fail(err, FT_ARG, 0, "%s: %s belongs to %s=%s, the %s is %s", choice->method->name,
                   row->param.name, owner->name, value_name(row->owner, row->value, wanted),
                   owner->name,
                   value_name(row->owner, uint_of(owner, choice->params), chosen));
}

/* Budgets and rankings that make no sense with a method, and settings of others than were chosen. */
static ft_status split_check(const struct ft_choice *choice, uint32_t seen, struct ft_error *err) {
    const struct ft_method *method = choice->method;
    const struct ft_split *split = ft_choice_split(choice);
    const struct ft_param *param;
    char name[16];
    if (method->unfit[split->budget] != NULL) {
        return ft_fail(err, FT_ARG, 0, "%s: budget=%s makes no sense, %s", method->name,
                       value_name(SHARED_BUDGET, split->budget, name),
                       method->unfit[split->budget]);
    }
    if (split->rank == FT_RANK_CRITICAL && method->unfit_critical != NULL) {
        return ft_fail(err, FT_ARG, 0, "%s: rank=critical makes no sense, %s", method->name,
                       method->unfit_critical);
    }
    for (uint32_t i = 0; (param = ft_method_param(method, i)) != NULL; i++) {
        uint32_t own;
        (void)param_at(method, i, &own);
        if (((seen >> i) & 1) && !applies(choice, i)) {
            return owner_check(choice, &shared[i - own], err);
        }
    }
    return FT_OK;
}

const struct ft_amount *ft_choice_amount(const struct ft_choice *choice) {
    for (const struct ft_param *p = choice->method->params; p->name != NULL; p++) {
        if (p->type == FT_KEEP) {
            return field_of(p, choice->params);
        }
    }
    return NULL;
}

ft_status ft_choice_parse(enum ft_stage stage, const char *spec, struct ft_choice *out,
                          struct ft_error *err) {
    struct ft_choice choice = { .method = catalogue[0] };
    if (spec == NULL || spec[0] == '\0') {
        spec = catalogue[0]->name;
    }
    size_t n_name = strcspn(spec, ":");
    FT_TRY(method_find(stage, spec, n_name, &choice.method, err));
    ft_assert(choice.method->params_size <= PARAMS_CAP);
    choice.params = ft_alloc(PARAMS_CAP + sizeof(struct ft_split), 1);
    if (choice.params == NULL) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for the parameters of %s", choice.method->name);
    }
    params_init(choice.method, choice.params);
    ft_status status = FT_OK;
    if (spec[n_name] == ':') {
        struct reading in = { .method = choice.method, .spec = spec, .params = choice.params };
        status = list_parse(&in, n_name + 1, err);
        if (status == FT_OK) {
            status = split_check(&choice, in.seen, err);
        }
    }
    const struct ft_amount *keep = ft_choice_amount(&choice);
    if (status == FT_OK && keep != NULL && keep->unit == FT_AMOUNT_ROWS) {
        /* A share or bytes depend on the prompt; rows do not. */
        struct ft_facts any = { .n_prompt = 1, .n_layer = UINT32_MAX, .n_predict = 1 };
        status = ft_choice_budget_check(&choice, &any, err);
    }
    if (status != FT_OK) {
        ft_choice_done(&choice);
        return status;
    }
    *out = choice;
    return FT_OK;
}

void ft_choice_done(struct ft_choice *choice) {
    ft_free(choice->params);
    *choice = (struct ft_choice){ .method = NULL };
}

/* What the rows that stay for certain are called. */
static const char *window_name(const struct ft_choice *choice) {
    uint32_t value;
    return ft_choice_uint(choice, "recent", &value) ? "recent" : "window";
}

ft_status ft_choice_budget_check(const struct ft_choice *choice, const struct ft_facts *facts,
                                 struct ft_error *err) {
    const struct ft_method *method = choice->method;
    const struct ft_amount *amount = ft_choice_amount(choice);
    if (amount == NULL) {
        return FT_OK;
    }
    struct ft_look look;
    char text[VALUE_CAP];
    uint32_t keep = ft_amount_rows(amount, facts);
    method->look(choice->params, facts, &look);
    ft_amount_text(amount, text, sizeof(text));
    if (look.window >= keep && amount->unit == FT_AMOUNT_ROWS) {
        return ft_fail(err, FT_ARG, 0, "%s: %s is %u, expected less than keep, which is %s",
                       method->name, window_name(choice), look.window, text);
    }
    if (look.window >= keep) {
        return ft_fail(err, FT_ARG, 0,
                       "%s: %s is %u, expected less than keep, which is %s = %u rows here",
                       method->name, window_name(choice), look.window, text, keep);
    }
    if (method->has_trial && look.trial_window >= keep) {
        return ft_fail(err, FT_ARG, 0,
                       "%s: trial_window is %u, expected less than keep, which is %u rows",
                       method->name, look.trial_window, keep);
    }
    if (method->has_trial && look.window > look.trial_window) {
        return ft_fail(err, FT_ARG, 0, "%s: window is %u, expected at most trial_window, %u",
                       method->name, look.window, look.trial_window);
    }
    if (look.sinks >= keep) {
        return ft_fail(err, FT_ARG, 0, "%s: sinks is %u, expected less than keep, which is %u rows",
                       method->name, look.sinks, keep);
    }
    if (look.column == FT_COLUMN_MASS && look.layer_first >= facts->n_layer) {
        return ft_fail(err, FT_ARG, 0, "%s: start_layer is %u, but the layers are 0..%u",
                       method->name, look.layer_first, facts->n_layer - 1);
    }
    return FT_OK;
}

static void setting_text(const struct ft_param *param, const void *params, struct ft_setting *out) {
    if (param->type == FT_KEEP) {
        const struct ft_amount *amount = field_of(param, params);
        ft_amount_text(amount, out->value, sizeof(out->value));
        out->is_number = amount->unit == FT_AMOUNT_ROWS;
        return;
    }
    uint32_t value = uint_of(param, params);
    if (param->type == FT_CHOICE) {
        choice_text(param->choices, value, out->value, sizeof(out->value));
    } else if (value == FT_UNSET) {
        (void)snprintf(out->value, sizeof(out->value), "%s", param->unset);
    } else {
        (void)snprintf(out->value, sizeof(out->value), "%u", value);
        out->is_number = true;
    }
}

bool ft_choice_setting(const struct ft_choice *choice, const struct ft_facts *facts, uint32_t i,
                       struct ft_setting *out) {
    const struct ft_method *method = choice->method;
    const struct ft_param *param;
    uint32_t at = 0;
    while ((param = ft_method_param(method, at)) != NULL && (!applies(choice, at) || i-- > 0)) {
        at++;
    }
    if (param == NULL) {
        return false;
    }
    _Alignas(max_align_t) unsigned char used[PARAMS_CAP + sizeof(struct ft_split)];
    memcpy(used, choice->params, sizeof(used));
    if (facts != NULL && method->resolve != NULL) {
        method->resolve(used, facts);
    }
    memset(out, 0, sizeof(*out));
    (void)snprintf(out->stage, sizeof(out->stage), "%s",
                   stage_name(method->act == FT_PROMPT ? FT_STAGE_PROMPT : FT_STAGE_KV));
    (void)snprintf(out->name, sizeof(out->name), "%s", param->name);
    setting_text(param, used, out);
    return true;
}

uint32_t ft_choice_keep(const struct ft_choice *choice, const struct ft_facts *facts) {
    const struct ft_amount *amount = ft_choice_amount(choice);
    return amount != NULL ? ft_amount_rows(amount, facts) : facts->n_prompt;
}

bool ft_choice_uint(const struct ft_choice *choice, const char *name, uint32_t *out) {
    const struct ft_param *p;
    for (uint32_t i = 0; (p = ft_method_param(choice->method, i)) != NULL; i++) {
        if (p->type == FT_UINT && strcmp(p->name, name) == 0) {
            *out = uint_of(p, choice->params);
            return true;
        }
    }
    return false;
}
