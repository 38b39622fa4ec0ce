/* SPDX-License-Identifier: Apache-2.0 */
/* eval_grid.c - the methods of a run: every --prompt with every --kv, at every --keep, with rows
 * stored in every --kv-type. */
#include <stdio.h>
#include <string.h>

#include "cli/suites.h"

enum { GRID_CAP = 1024, AMOUNT_CAP = 24 };

struct specs { /* owned texts; one NULL where none was given */
    char *text[GRID_CAP];
    uint32_t n;
};

static void specs_done(struct specs *specs) {
    for (uint32_t i = 0; i < specs->n; i++) {
        ft_free(specs->text[i]);
    }
    specs->n = 0;
}

static ft_status add_spec(struct specs *specs, const char *text, struct ft_error *error) {
    if (specs->n == GRID_CAP) {
        return ft_fail(error, FT_LIMIT, 0, "more than %d methods", GRID_CAP);
    }
    char *own = text ? ft_strdup(text) : NULL;
    if (text && !own) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the methods");
    }
    specs->text[specs->n++] = own;
    return FT_OK;
}

/* ---- amounts ---- */

/* The next amount of a list into word; false when there is none where one has to be. */
static bool next_amount(const char **at, char word[AMOUNT_CAP]) {
    size_t n = strcspn(*at, ",");
    if (n == 0 || n >= AMOUNT_CAP) {
        return false;
    }
    snprintf(word, AMOUNT_CAP, "%.*s", (int)n, *at);
    *at += n;
    bool is_last = **at == '\0';
    *at += !is_last;
    return is_last || **at != '\0';
}

static ft_status check_amounts(const char *keep, struct ft_error *error) {
    char word[AMOUNT_CAP];
    const char *at = keep;
    do {
        if (!next_amount(&at, word)) {
            return ft_fail(error, FT_ARG, 0,
                           "--keep is \"%.100s\", expected amounts with commas between: "
                           "32,64,25%%,64MiB",
                           keep);
        }
    } while (*at != '\0');
    return FT_OK;
}

/* Has the method a keep that its spec leaves open? */
static bool is_open(enum ft_stage stage, const char *spec) {
    const struct ft_method_info *info = NULL;
    bool has_keep = false;
    if (ft_method_check(stage, spec, &info, NULL) != FT_OK || !info) {
        return false;
    }
    for (uint32_t p = 0; p < info->n_param; p++) {
        has_keep = has_keep || strcmp(info->param[p].name, "keep") == 0;
    }
    for (const char *at = strchr(spec, ':'); at && has_keep; at = strchr(at, ',')) {
        at++;
        has_keep = strncmp(at, "keep=", 5) != 0;
    }
    return has_keep;
}

/* "snapkv:budget=ada" with 64 -> "snapkv:keep=64,budget=ada". */
static ft_status add_amounts(struct specs *specs, const char *spec, const char *keep,
                             struct ft_error *error) {
    char word[AMOUNT_CAP], text[FT_EVAL_LABEL_CAP];
    size_t n_name = strcspn(spec, ":");
    const char *rest = spec[n_name] == ':' ? spec + n_name + 1 : "";
    for (const char *at = keep; *at != '\0';) {
        next_amount(&at, word);
        int n = snprintf(text, sizeof text, "%.*s:keep=%s%s%s", (int)n_name, spec, word,
                         rest[0] ? "," : "", rest);
        if (n < 0 || (size_t)n >= sizeof text) {
            return ft_fail(error, FT_LIMIT, 0, "%.100s... is too long for a method", spec);
        }
        FT_TRY(add_spec(specs, text, error));
    }
    return FT_OK;
}

static ft_status expand(enum ft_stage stage, const struct ft_texts *given, const char *keep,
                        struct specs *out, bool *is_used, struct ft_error *error) {
    if (given->n == 0) {
        return add_spec(out, NULL, error);
    }
    for (uint32_t i = 0; i < given->n; i++) {
        bool is_swept = keep && is_open(stage, given->text[i]);
        *is_used = *is_used || is_swept;
        FT_TRY(is_swept ? add_amounts(out, given->text[i], keep, error)
                        : add_spec(out, given->text[i], error));
    }
    return FT_OK;
}

/* ---- combinations ---- */

/* "snapkv:keep=64"; "snapkv:keep=64 q4" where rows are stored otherwise than the record says. */
static ft_status make_label(const struct ft_bench_case *method, char out[FT_EVAL_LABEL_CAP],
                            struct ft_error *error) {
    const char *const part[] = { method->prompt, method->kv, method->kv_type };
    size_t need = sizeof "prompt + ";
    for (size_t i = 0; i < FT_COUNT(part); i++) {
        need += part[i] ? strlen(part[i]) : 0;
    }
    if (need > FT_EVAL_LABEL_CAP) {
        return ft_fail(error, FT_LIMIT, 0, "%.60s... with %.60s... is too long for a label",
                       method->prompt ? method->prompt : "", method->kv ? method->kv : "");
    }
    ft_method_label(method->prompt, method->kv, out, FT_EVAL_LABEL_CAP);
    if (method->kv_type) {
        size_t used = strlen(out);
        snprintf(out + used, FT_EVAL_LABEL_CAP - used, " %s", method->kv_type);
    }
    return FT_OK;
}

static void case_done(const struct ft_bench_case *method) {
    ft_free((void *)(uintptr_t)method->prompt);
    ft_free((void *)(uintptr_t)method->kv);
    ft_free((void *)(uintptr_t)method->kv_type);
    ft_free((void *)(uintptr_t)method->label);
}

static ft_status add_case(struct ft_grid *grid, const struct ft_bench_case *method,
                          struct ft_error *error) {
    char label[FT_EVAL_LABEL_CAP];
    FT_TRY(make_label(method, label, error));
    for (uint32_t i = 0; i < grid->n; i++) {
        if (strcmp(grid->all[i].label, label) == 0) {
            return FT_OK;
        }
    }
    struct ft_bench_case *more =
        grid->n < GRID_CAP ? ft_grow(grid->all, grid->n + 1, sizeof *more) : NULL;
    if (!more) {
        return ft_fail(error, grid->n < GRID_CAP ? FT_NOMEM : FT_LIMIT, 0,
                       "more combinations of methods than there is room for (%u)", grid->n);
    }
    grid->all = more;
    struct ft_bench_case *own = &more[grid->n++];
    *own = (struct ft_bench_case){ .prompt = method->prompt ? ft_strdup(method->prompt) : NULL,
                                   .kv = method->kv ? ft_strdup(method->kv) : NULL,
                                   .kv_type = method->kv_type ? ft_strdup(method->kv_type) : NULL,
                                   .label = ft_strdup(label) };
    return own->label && (own->prompt || !method->prompt) && (own->kv || !method->kv) &&
                   (own->kv_type || !method->kv_type)
               ? FT_OK
               : ft_fail(error, FT_NOMEM, 0, "not enough memory for the methods");
}

/* Every prompt method with every KV method, in one format; NULL: the one that labels leave out. */
static ft_status add_format(struct ft_grid *grid, const struct specs specs[2], const char *kv_type,
                            struct ft_error *error) {
    bool is_left_out = kv_type && strcmp(kv_type, grid->kv_type) == 0;
    for (uint32_t i = 0; i < specs[0].n * specs[1].n; i++) {
        const struct ft_bench_case method = { .prompt = specs[0].text[i / specs[1].n],
                                              .kv = specs[1].text[i % specs[1].n],
                                              .kv_type = is_left_out ? NULL : kv_type };
        FT_TRY(add_case(grid, &method, error));
    }
    return FT_OK;
}

ft_status ft_grid_add(struct ft_grid *grid, const struct ft_grid_block *block,
                      struct ft_error *error) {
    struct specs *specs = ft_alloc(2, sizeof *specs);
    bool is_used = false;
    ft_status status = specs ? FT_OK : ft_fail(error, FT_NOMEM, 0, "not enough memory");
    if (status == FT_OK && block->keep) {
        status = check_amounts(block->keep, error);
    }
    if (status == FT_OK) {
        status = expand(FT_STAGE_PROMPT, &block->prompt, block->keep, &specs[0], &is_used, error);
    }
    if (status == FT_OK) {
        status = expand(FT_STAGE_KV, &block->kv, block->keep, &specs[1], &is_used, error);
    }
    if (status == FT_OK && block->keep && !is_used) {
        status =
            ft_fail(error, FT_ARG, 0,
                    "--keep is \"%.100s\" and no method given (--prompt, --kv) has a keep that "
                    "is not said already",
                    block->keep);
    }
    for (uint32_t i = 0; status == FT_OK && i < FT_MAX(block->kv_type.n, 1u); i++) {
        const char *kv_type = block->kv_type.n > 0 ? block->kv_type.text[i] : NULL;
        kv_type = ft_text_is_calibrated(kv_type) ? grid->calibrated : kv_type;
        status = add_format(grid, specs, kv_type, error);
    }
    if (specs) {
        specs_done(&specs[0]);
        specs_done(&specs[1]);
    }
    ft_free(specs);
    return status;
}

void ft_grid_done(struct ft_grid *grid) {
    for (uint32_t i = 0; i < grid->n; i++) {
        case_done(&grid->all[i]);
    }
    ft_free(grid->all);
    *grid = (struct ft_grid){ .n = 0 };
}

int ft_grid_check(const struct ft_grid *grid) {
    int code = FT_EXIT_OK;
    for (uint32_t i = 0; i < grid->n; i++) {
        struct ft_error error = { 0 };
        if (ft_method_check(FT_STAGE_PROMPT, grid->all[i].prompt, NULL, &error) != FT_OK ||
            ft_kv_check(grid->all[i].kv, grid->all[i].kv_type, &error) != FT_OK) {
            code = ft_complain(FT_EXIT_USAGE, "%s: %s", grid->all[i].label, error.text);
        }
    }
    return code;
}

const char *ft_grid_kv_type(const struct ft_grid *grid, uint32_t method) {
    const char *own = grid->all[method].kv_type;
    return own ? own : grid->kv_type;
}
