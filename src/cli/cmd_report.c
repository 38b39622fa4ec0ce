/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_report.c - results of `foretoken eval` as tables and as a page, and two of them compared. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "eval/results.h"

/* ---- report ---- */

static int write_page(const struct ft_results *results, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    struct ft_save *save = NULL;
    char title[160];
    snprintf(title, sizeof title, "foretoken eval: %.100s", ft_file_name(conf->arg[0]));
    ft_status status = ft_save_open(ft_page_path(conf->out), &save, &error);
    if (status == FT_OK) {
        struct ft_error later;
        status = ft_report_html(results, title, save, &error);
        ft_status done = ft_save_done(save, status == FT_OK, &later);
        if (status == FT_OK && done != FT_OK) {
            status = done;
            error = later;
        }
    }
    return status == FT_OK ? FT_EXIT_OK : ft_complain_error("--out", &error);
}

/* Samples of eval importance have no answers: their tables are others. */
static int write_importance(const struct ft_results *results, const struct ft_conf *conf) {
    struct ft_error error = { 0 }, later = { 0 };
    struct ft_save *save = NULL;
    if (conf->is_json) {
        json_t *root = ft_report_json(results), *list = NULL;
        if (ft_importance_json(results, &list, &error) != FT_OK) {
            json_decref(root);
            return ft_complain_error(NULL, &error);
        }
        json_object_set_new(root, "importance", list);
        ft_json_print(root);
        return FT_EXIT_OK;
    }
    if (ft_save_open(NULL, &save, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    ft_status status =
        (conf->is_csv ? ft_importance_csv : ft_importance_markdown)(results, save, &error);
    ft_status done = ft_save_done(save, status == FT_OK, &later);
    if (status != FT_OK || done != FT_OK) {
        return ft_complain_error(NULL, status != FT_OK ? &error : &later);
    }
    return FT_EXIT_OK;
}

static int write_table(const struct ft_results *results, const struct ft_conf *conf) {
    struct ft_error error = { 0 };
    struct ft_save *save = NULL;
    if (conf->is_json) {
        ft_json_print(ft_report_json(results));
        return FT_EXIT_OK;
    }
    if (ft_save_open(NULL, &save, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    (conf->is_csv ? ft_report_csv : ft_report_markdown)(results, save);
    return ft_save_done(save, true, &error) == FT_OK ? FT_EXIT_OK : ft_complain_error(NULL, &error);
}

int ft_cmd_report(const struct ft_conf *conf) {
    struct ft_results results;
    struct ft_error error = { 0 };
    int code = FT_EXIT_OK;
    if (conf->n_arg == 0) {
        return ft_complain(FT_EXIT_USAGE,
                           "report: of which results? foretoken report FILE.jsonl [FILE.jsonl...]");
    }
    bool is_page = conf->out && !ft_page_path(conf->out); /* instead of the table */
    if (is_page && (conf->is_json || conf->is_csv)) {
        return ft_complain(FT_EXIT_USAGE,
                           "report: --out - puts the page on standard output, where %s goes too; "
                           "give --out a file name",
                           conf->is_json ? "--json" : "--csv");
    }
    if (conf->is_json && conf->is_csv) {
        return ft_complain(FT_EXIT_USAGE, "report: --json or --csv, not both");
    }
    if (ft_results_load(conf->arg, conf->n_arg, &results, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK) {
        code = ft_check_file(conf, "--out", ft_page_path(conf->out));
    }
    if (code == FT_EXIT_OK && conf->out) {
        code = write_page(&results, conf);
    }
    if (code == FT_EXIT_OK && !is_page) {
        code =
            (ft_results_is_importance(&results) ? write_importance : write_table)(&results, conf);
    }
    ft_results_done(&results);
    return code;
}

/* ---- compare ---- */

static void print_difference(const char *task, uint32_t ctx, const struct ft_difference *d) {
    ft_out("%-16s  ", task);
    if (ctx > 0) {
        ft_out("%7u", ctx);
    } else {
        ft_out("%7s", "");
    }
    ft_out("  %7.2f  %7.2f  %+7.2f  [%+7.2f, %+7.2f]  %u\n", d->a, d->b, d->score.mean,
           d->score.low, d->score.high, d->n);
}

static json_t *difference_value(const char *task, uint32_t ctx, const struct ft_difference *d) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(task));
    json_object_set_new(value, "ctx", ctx > 0 ? json_integer(ctx) : json_null());
    json_object_set_new(value, "a", json_real(d->a));
    json_object_set_new(value, "b", json_real(d->b));
    json_object_set_new(value, "difference", json_real(d->score.mean));
    json_object_set_new(value, "low", json_real(d->score.low));
    json_object_set_new(value, "high", json_real(d->score.high));
    json_object_set_new(value, "samples", json_integer(d->n));
    return value;
}

struct comparison {
    struct ft_results a, b;
    struct ft_difference *row; /* [a's n_task * n_ctx] */
    const struct ft_conf *conf;
    json_t *list; /* with --json */
    bool is_exceeded;
};

/* One method of b against a's only one. */
static int compare_method(struct comparison *c, uint32_t method) {
    struct ft_error error = { 0 };
    struct ft_difference all;
    uint32_t n;
    if (ft_results_compare(&c->a, 0, &c->b, method, c->row, &n, &all, &error) != FT_OK) {
        return ft_complain_error(c->b.method[method], &error);
    }
    bool is_exceeded = c->conf->tolerance >= 0 && -all.score.mean > c->conf->tolerance;
    c->is_exceeded = c->is_exceeded || is_exceeded;
    if (c->conf->is_json) {
        json_t *value = json_object(), *rows = json_array();
        for (uint32_t i = 0; i < n; i++) {
            json_array_append_new(rows, difference_value(c->a.task[c->row[i].task],
                                                         c->a.ctx[c->row[i].ctx], &c->row[i]));
        }
        json_object_set_new(value, "a", json_string(c->a.method[0]));
        json_object_set_new(value, "b", json_string(c->b.method[method]));
        json_object_set_new(value, "rows", rows);
        json_object_set_new(value, "mean", difference_value("mean", 0, &all));
        json_object_set_new(value, "exceeded", json_boolean(is_exceeded));
        json_array_append_new(c->list, value);
        return FT_EXIT_OK;
    }
    ft_out("a  ");
    ft_out_safe(c->a.method[0]);
    ft_out("\nb  ");
    ft_out_safe(c->b.method[method]);
    ft_out("\n%-16s  %7s  %7s  %7s  %7s  %-18s  %s\n", "task", "ctx", "a", "b", "b - a",
           "95 % interval", "samples");
    for (uint32_t i = 0; i < n; i++) {
        print_difference(c->a.task[c->row[i].task], c->a.ctx[c->row[i].ctx], &c->row[i]);
    }
    print_difference("mean", 0, &all);
    if (c->conf->tolerance >= 0) {
        ft_out("%s: a loss of %.2f, --tolerance %g\n", is_exceeded ? "exceeded" : "within",
               all.score.mean < 0 ? -all.score.mean : 0.0, c->conf->tolerance);
    }
    return FT_EXIT_OK;
}

/* A... vs B..., or A B.  first, n: of the names in conf->arg */
struct sides {
    uint32_t first[2], n[2];
};

static int find_sides(const struct ft_conf *conf, struct sides *sides) {
    uint32_t at = 1;
    while (at < conf->n_arg && strcmp(conf->arg[at], "vs") != 0) {
        at++;
    }
    bool is_pair = at == conf->n_arg && conf->n_arg == 3;
    *sides = is_pair ? (struct sides){ { 1, 2 }, { 1, 1 } }
                     : (struct sides){ { 1, at + 1 },
                                       { at - 1, conf->n_arg - FT_MIN(at + 1, conf->n_arg) } };
    return sides->n[0] > 0 && sides->n[1] > 0
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_USAGE,
                             "eval compare: expected two records of eval --out, got %u: foretoken "
                             "eval compare A.jsonl B.jsonl; several of a side: A... vs B...",
                             conf->n_arg - 1);
}

static int compare_all(struct comparison *c, const struct sides *sides) {
    struct ft_error error = { 0 };
    if (ft_results_load(&c->conf->arg[sides->first[0]], sides->n[0], &c->a, &error) != FT_OK ||
        ft_results_load(&c->conf->arg[sides->first[1]], sides->n[1], &c->b, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (c->a.n_method != 1) {
        return ft_complain(FT_EXIT_FAILED,
                           "%s holds %u methods, expected one that others are compared with",
                           c->conf->arg[1], c->a.n_method);
    }
    c->row = ft_alloc((size_t)c->a.n_task * c->a.n_ctx, sizeof *c->row);
    if (!c->row) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory to compare");
    }
    c->list = json_array();
    for (uint32_t m = 0; m < c->b.n_method; m++) {
        int code = compare_method(c, m);
        if (code != FT_EXIT_OK) {
            return code;
        }
    }
    if (c->conf->is_json) {
        ft_json_print(json_incref(c->list));
    }
    return c->is_exceeded ? FT_EXIT_FAILED : FT_EXIT_OK;
}

int ft_eval_compare(const struct ft_conf *conf) {
    struct comparison c = { .conf = conf };
    struct sides sides;
    int code = find_sides(conf, &sides);
    if (code == FT_EXIT_OK) {
        code = compare_all(&c, &sides);
    }
    json_decref(c.list);
    ft_free(c.row);
    ft_results_done(&c.a);
    ft_results_done(&c.b);
    return code;
}

/* ---- join ---- */

int ft_eval_join(const struct ft_conf *conf) {
    struct ft_joined joined;
    struct ft_error error = { 0 };
    if (conf->n_arg < 3) {
        return ft_complain(FT_EXIT_USAGE,
                           "eval join: expected a new record and those that it is made of: "
                           "foretoken eval join OUT.jsonl FILE.jsonl...");
    }
    if (strcmp(conf->arg[1], "-") == 0) {
        return ft_complain(FT_EXIT_USAGE,
                           "eval join: the new record is \"-\", expected a file name");
    }
    if (ft_record_join(conf->arg[1], &conf->arg[2], conf->n_arg - 2, &joined, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (conf->is_json) {
        ft_json_print(json_pack("{s:I, s:I}", "samples", (json_int_t)joined.n_row, "expected",
                                (json_int_t)joined.n_expected));
        return FT_EXIT_OK;
    }
    bool is_short = joined.n_row < joined.n_expected;
    ft_out("%llu samples", (unsigned long long)joined.n_row);
    if (is_short) {
        ft_out(" of %llu that were asked for", (unsigned long long)joined.n_expected);
    }
    ft_out("\n");
    return FT_EXIT_OK;
}
