/* SPDX-License-Identifier: Apache-2.0 */
/* kv_table.c - measured methods and formats, and the best of them for a budget. */
#include "eval/kv_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- method texts ---- */

static bool append(char *out, size_t cap, const char *text, size_t n) {
    size_t used = strlen(out);
    if (used + n + 1 > cap) {
        return false;
    }
    memcpy(out + used, text, n);
    out[used + n] = '\0';
    return true;
}

bool ft_kv_spec_keep(const char *kv, const char *keep, char *out, size_t cap) {
    size_t n_name = strcspn(kv, ":");
    const char *at = kv + n_name;
    bool is_first = true, is_room = cap > 0;
    out[0] = '\0';
    is_room = is_room && append(out, cap, kv, n_name);
    if (keep) {
        is_room = is_room && append(out, cap, ":keep=", 6) && append(out, cap, keep, strlen(keep));
        is_first = false;
    }
    while (is_room && *at != '\0') { /* at the ':' or ',' in front of an item */
        size_t n = strcspn(at + 1, ",");
        if (strncmp(at + 1, "keep=", 5) != 0) {
            is_room = append(out, cap, is_first ? ":" : ",", 1) && append(out, cap, at + 1, n);
            is_first = false;
        }
        at += 1 + n;
    }
    return is_room;
}

/* The KV method of a label, without its format and its keep; false: it is none, or not alone. */
static bool kv_of_label(const char *label, const char *kv_type, char out[FT_KV_SPEC_CAP]) {
    char kv[FT_KV_SPEC_CAP];
    size_t n = strlen(label), n_type = strlen(kv_type);
    bool has_type =
        n > n_type && label[n - n_type - 1] == ' ' && strcmp(label + n - n_type, kv_type) == 0;
    n -= has_type ? n_type + 1 : 0;
    if (n >= sizeof kv) {
        return false;
    }
    memcpy(kv, label, n);
    kv[n] = '\0';
    return ft_method_check(FT_STAGE_KV, kv, NULL, NULL) == FT_OK &&
           ft_kv_spec_keep(kv, NULL, out, FT_KV_SPEC_CAP);
}

/* ---- the table ---- */

/* What the dense run with f16 rows took at length `ctx` of the list; 0: there is none. */
static double dense_bytes(const struct ft_results *results, uint32_t ctx) {
    struct ft_group mean;
    for (uint32_t m = 0; m < results->n_method; m++) {
        if (strcmp(results->method[m], "dense") == 0 && strcmp(results->kv_type[m], "f16") == 0 &&
            ft_results_mean(results, ctx, m, &mean) > 0) {
            return mean.kv_bytes;
        }
    }
    return 0;
}

ft_status ft_kv_table_of(const struct ft_results *results, json_t **out, struct ft_error *error) {
    json_t *table = json_array();
    for (uint32_t c = 0; table && c < results->n_ctx; c++) {
        double dense = dense_bytes(results, c);
        if (dense <= 0) {
            json_decref(table);
            return ft_fail(
                error, FT_ARG, 0,
                "the records have no dense run with f16 rows at %u tokens: shares need one",
                results->ctx[c]);
        }
        for (uint32_t m = 0; m < results->n_method; m++) {
            struct ft_group mean;
            char kv[FT_KV_SPEC_CAP];
            if (!kv_of_label(results->method[m], results->kv_type[m], kv) ||
                ft_results_mean(results, c, m, &mean) == 0) {
                continue;
            }
            json_t *row = json_object();
            json_object_set_new(row, "kv", json_string(kv));
            json_object_set_new(row, "kv_type", json_string(results->kv_type[m]));
            json_object_set_new(row, "ctx", json_integer(results->ctx[c]));
            json_object_set_new(row, "share", json_real(mean.kv_bytes / dense));
            json_object_set_new(row, "score", json_real(mean.score.mean));
            json_object_set_new(row, "low", json_real(mean.score.low));
            json_object_set_new(row, "high", json_real(mean.score.high));
            json_object_set_new(row, "samples", json_integer(mean.n));
            json_array_append_new(table, row);
        }
    }
    if (!table) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a table");
    }
    *out = table;
    return FT_OK;
}

/* ---- a choice ---- */

static double number_of(const json_t *row, const char *key) {
    return json_number_value(json_object_get(row, key));
}

static const char *text_of(const json_t *row, const char *key) {
    const char *text = json_string_value(json_object_get(row, key));
    return text ? text : "";
}

/* How far a length is from the prompt's, in ratio. */
static double distance(const json_t *row, uint32_t n) {
    double ctx = number_of(row, "ctx");
    return ctx > 0 ? fabs(log(ctx / n)) : INFINITY;
}

static bool is_usable(const json_t *row, bool has_draft) {
    const struct ft_method_info *info = NULL;
    const char *kv = text_of(row, "kv"), *kv_type = text_of(row, "kv_type");
    bool is_known = strlen(kv) < FT_KV_SPEC_CAP && strlen(kv_type) < FT_KV_SPEC_CAP &&
                    ft_kv_check(kv, kv_type, NULL) == FT_OK &&
                    ft_method_check(FT_STAGE_KV, kv, &info, NULL) == FT_OK;
    return is_known && (has_draft || !info || !info->needs_draft);
}

bool ft_kv_table_pick(const json_t *table, uint32_t n, double share, bool has_draft,
                      struct ft_kv_pick *out) {
    double nearest = INFINITY;
    size_t i;
    const json_t *row, *best = NULL;
    uint32_t n_fit = 0;
    json_array_foreach(table, i, row) {
        nearest = fmin(nearest, distance(row, n));
    }
    json_array_foreach(table, i, row) {
        bool is_near = distance(row, n) <= nearest && nearest < INFINITY;
        /* medians of shares: what was asked as a sixteenth may read as a little more */
        if (!is_near || number_of(row, "share") > share * 1.005 || !is_usable(row, has_draft)) {
            continue;
        }
        n_fit++;
        double better = best ? number_of(row, "score") - number_of(best, "score") : 1;
        bool is_smaller = best && number_of(row, "share") < number_of(best, "share");
        best = better > 0 || (better >= 0 && is_smaller) ? row : best;
    }
    if (!best) {
        return false;
    }
    *out = (struct ft_kv_pick){ .ctx = (uint32_t)number_of(best, "ctx"),
                                .samples = (uint32_t)number_of(best, "samples"),
                                .share = number_of(best, "share"),
                                .score = number_of(best, "score"),
                                .low = number_of(best, "low"),
                                .high = number_of(best, "high"),
                                .n_fit = n_fit };
    snprintf(out->kv, sizeof out->kv, "%s", text_of(best, "kv"));
    snprintf(out->kv_type, sizeof out->kv_type, "%s", text_of(best, "kv_type"));
    return true;
}
