/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_breakeven.c - the break-even table: measured rates, then arithmetic. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "eval/eval.h"

enum { CASES_CAP = 16, LABEL_CAP = 256, MEASURE_US = 2000000 };

struct cases {
    struct ft_bench_case list[CASES_CAP];
    char label[CASES_CAP][LABEL_CAP];
    uint32_t n;
};

static bool add_case(struct cases *cases, const char *prompt, const char *kv) {
    bool has_prompt = prompt && strcmp(prompt, "dense") != 0, has_kv = kv && strcmp(kv, "dense");
    if (!has_prompt && !has_kv) {
        return true; /* dense is what everything is compared with */
    }
    if (cases->n == CASES_CAP) {
        return false;
    }
    char *label = cases->label[cases->n];
    snprintf(label, LABEL_CAP, "%s%s%s", has_prompt ? prompt : "", has_prompt && has_kv ? "+" : "",
             has_kv ? kv : "");
    cases->list[cases->n++] = (struct ft_bench_case){ .prompt = has_prompt ? prompt : NULL,
                                                      .kv = has_kv ? kv : NULL,
                                                      .label = label };
    return true;
}

static int plan_cases(const struct ft_conf *conf, struct cases *cases) {
    uint32_t n_prompt = FT_MAX(conf->prompt.n, 1u), n_kv = FT_MAX(conf->kv.n, 1u);
    bool has_room = true;
    if (conf->prompt.n + conf->kv.n == 0) {
        add_case(cases, "specpc", NULL);
        add_case(cases, NULL, "speckv");
        add_case(cases, "specpc:keep=2048", "speckv");
        return FT_EXIT_OK;
    }
    for (uint32_t i = 0; i < n_prompt * n_kv; i++) {
        has_room = has_room && add_case(cases, conf->prompt.n ? conf->prompt.text[i / n_kv] : NULL,
                                        conf->kv.n ? conf->kv.text[i % n_kv] : NULL);
    }
    if (!has_room) {
        return ft_complain(FT_EXIT_USAGE, "breakeven: %u combinations of methods, at most %d",
                           n_prompt * n_kv, CASES_CAP);
    }
    return cases->n > 0
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_USAGE, "breakeven: dense is what methods are compared "
                                            "with; give another one, or none");
}

/* ---- results ---- */

static double speedup(const struct ft_expect *dense, const struct ft_expect *plan) {
    return (double)dense->ttft_us / (double)FT_MAX(plan->ttft_us, (int64_t)1);
}

/* "1/16", or "0.163 given" */
static const char *ratio_text(const struct ft_even_column *column, char out[24]) {
    if (column->is_given) {
        snprintf(out, 24, "%.3f given", column->ratio);
    } else {
        snprintf(out, 24, "1/%.0f", 1 / column->ratio);
    }
    return out;
}

static const struct ft_expect *cell_at(const struct ft_even_params *params,
                                       const struct ft_even_table *table, uint32_t c, uint32_t i,
                                       uint32_t column) {
    return &table->cell[((size_t)c * params->n_length + i) * table->n_column + column];
}

static void print_rates(const char *who, const struct ft_rates *r) {
    ft_out(
        "%-7s %.1f M weights in %u layers; a layer: %.2f us a token, %.2f to %.2f ns a pair of "
        "query and row (%.0f to %.0f rows), %.0f us a pass; decoding: %.1f us a layer, %.2f ns a "
        "row; measured in %.0f ms\n",
        who, r->n_weight / 1e6, r->n_layer, r->token_us, r->pair_us[0] * 1e3, r->pair_us[1] * 1e3,
        r->pair_row[0], r->pair_row[1], r->pass_us, r->step_us, r->row_us * 1e3,
        (double)r->measure_us / 1e3);
}

static void print_text(const struct ft_even_params *params, const struct ft_even_table *table) {
    char name[24], text[24];
    print_rates("target", &params->target_rates);
    if (params->draft_rates.n_layer > 0) {
        print_rates("draft", &params->draft_rates);
    }
    for (uint32_t c = 0; c < params->n_case; c++) {
        ft_out("\n%s: how many times sooner the first token comes than dense\n",
               params->cases[c].label);
        ft_out("%9s %11s", "prompt", "dense ms");
        for (uint32_t k = 0; k < table->n_column; k++) {
            ft_out(" %12s", ratio_text(&table->column[k], name));
        }
        ft_out("\n");
        for (uint32_t i = 0; i < params->n_length; i++) {
            ft_out("%9u %11.0f", params->n_prompt[i], (double)table->dense[i].ttft_us / 1e3);
            for (uint32_t k = 0; k < table->n_column; k++) {
                const struct ft_expect *cell = cell_at(params, table, c, i, k);
                snprintf(text, sizeof text, "%.2f", speedup(&table->dense[i], cell));
                ft_out(" %12s", cell->is_dropping ? text : "dense");
            }
            ft_out("\n");
        }
        ft_out("%-21s", "pays from");
        for (uint32_t k = 0; k < table->n_column; k++) {
            uint32_t n = table->pays[c * table->n_column + k];
            snprintf(text, sizeof text, "%u", n);
            ft_out(" %12s", n > 0 ? text : "never");
        }
        ft_out("\n");
    }
    ft_out("\ncolumns: layer weights of the draft over the target's. Scaled drafts: matrices and "
           "decoding in\nproportion, attention with the ratio to the power of %.2f (%s), the "
           "target's own overhead a pass.\nAnswers of %u tokens; text of a draft as long as its "
           "method says; vertical rows evenly spread;\nscoring at attention's rate; lengths beyond "
           "the trained context are arithmetic only; \"never\": not up to %d tokens.\n",
           table->exponent,
           table->is_exponent_known ? "of the draft given" : "depth and width alike",
           params->session->n_predict, FT_EVEN_FARTHEST);
}

static void print_csv(const struct ft_even_params *params, const struct ft_even_table *table) {
    ft_out(
        "method,ratio,given,n_prompt,dense_ttft_ms,ttft_ms,draft_ms,target_ms,speedup,pays_from\n");
    for (uint32_t c = 0; c < params->n_case; c++) {
        for (uint32_t i = 0; i < params->n_length * table->n_column; i++) {
            uint32_t k = i % table->n_column, row = i / table->n_column;
            const struct ft_expect *cell = cell_at(params, table, c, row, k);
            uint32_t pays = table->pays[c * table->n_column + k];
            ft_out("\"%s\",%.6f,%d,%u,%.3f,%.3f,%.3f,%.3f,%.4f,", params->cases[c].label,
                   table->column[k].ratio, table->column[k].is_given, params->n_prompt[row],
                   (double)table->dense[row].ttft_us / 1e3, (double)cell->ttft_us / 1e3,
                   (double)cell->draft_us / 1e3, (double)cell->target_us / 1e3,
                   speedup(&table->dense[row], cell));
            if (pays > 0) {
                ft_out("%u", pays);
            }
            ft_out("\n");
        }
    }
}

static json_t *cell_value(const struct ft_even_params *params, const struct ft_even_table *table,
                          uint32_t c, uint32_t i, uint32_t k) {
    const struct ft_expect *cell = cell_at(params, table, c, i, k), *dense = &table->dense[i];
    uint32_t pays = table->pays[c * table->n_column + k];
    json_t *value = json_object();
    json_object_set_new(value, "method", ft_json_text(params->cases[c].label));
    json_object_set_new(value, "ratio", json_real(table->column[k].ratio));
    json_object_set_new(value, "given", json_boolean(table->column[k].is_given));
    json_object_set_new(value, "n_prompt", json_integer(params->n_prompt[i]));
    json_object_set_new(value, "drops", json_boolean(cell->is_dropping));
    json_object_set_new(value, "dense_ttft_ms", ft_json_ms(dense->ttft_us));
    json_object_set_new(value, "ttft_ms", ft_json_ms(cell->ttft_us));
    json_object_set_new(value, "draft_ms", ft_json_ms(cell->draft_us));
    json_object_set_new(value, "target_ms", ft_json_ms(cell->target_us));
    json_object_set_new(value, "speedup", json_real(speedup(dense, cell)));
    json_object_set_new(value, "dense_answer_ms", ft_json_ms(dense->answer_us));
    json_object_set_new(value, "answer_ms", ft_json_ms(cell->answer_us));
    json_object_set_new(value, "pays_from", pays > 0 ? json_integer(pays) : json_null());
    return value;
}

static void print_json(const struct ft_setup *setup, const struct ft_even_params *params,
                       const struct ft_even_table *table) {
    json_t *root = json_object(), *rates = json_object(), *rows = json_array();
    bool has_draft = params->draft_rates.n_layer > 0;
    json_object_set_new(rates, "target", ft_json_rates(&params->target_rates));
    json_object_set_new(rates, "draft",
                        has_draft ? ft_json_rates(&params->draft_rates) : json_null());
    for (uint32_t c = 0; c < params->n_case; c++) {
        for (uint32_t i = 0; i < params->n_length * table->n_column; i++) {
            json_array_append_new(
                rows, cell_value(params, table, c, i / table->n_column, i % table->n_column));
        }
    }
    json_object_set_new(root, "target", ft_json_model(setup->target));
    json_object_set_new(root, "draft", has_draft ? ft_json_model(setup->draft) : json_null());
    json_object_set_new(root, "rates", rates);
    json_object_set_new(root, "attention_exponent", json_real(table->exponent));
    json_object_set_new(root, "attention_exponent_from",
                        ft_json_text(table->is_exponent_known ? "draft" : "assumed"));
    json_object_set_new(root, "n_predict", json_integer(params->session->n_predict));
    json_object_set_new(
        root, "n_thread",
        json_integer(setup->params.n_thread ? setup->params.n_thread : ft_cpu_count()));
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "version", ft_json_text(ft_version()));
    ft_json_print(root);
}

/* ---- the command ---- */

static ft_status measure(const struct ft_setup *setup, const ft_model *model, struct ft_rates *out,
                         struct ft_error *error) {
    uint32_t longest = 0;
    for (uint32_t i = 0; i < setup->conf->ctx.n; i++) {
        longest = FT_MAX(longest, setup->conf->ctx.value[i]);
    }
    return ft_rates_measure(model, &setup->params, longest, MEASURE_US / 2, out, error);
}

static int run(const struct ft_setup *setup, const struct cases *cases) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_even_table table = { 0 };
    struct ft_even_params params = { .target = setup->target,
                                     .session = &setup->params,
                                     .cases = cases->list,
                                     .n_case = cases->n,
                                     .n_prompt = conf->ctx.value,
                                     .n_length = conf->ctx.n };
    ft_status status = measure(setup, setup->target, &params.target_rates, &error);
    if (status == FT_OK && setup->draft) {
        status = measure(setup, setup->draft, &params.draft_rates, &error);
    }
    if (status == FT_OK) {
        status = ft_even_run(&params, &table, &error);
    }
    if (status == FT_OK) {
        if (conf->is_json) {
            print_json(setup, &params, &table);
        } else if (conf->is_csv) {
            print_csv(&params, &table);
        } else {
            print_text(&params, &table);
        }
    }
    ft_even_done(&table);
    return status == FT_OK ? FT_EXIT_OK : ft_complain_error(NULL, &error);
}

int ft_cmd_breakeven(const struct ft_conf *conf) {
    struct ft_conf own = *conf;
    struct ft_setup setup = { 0 };
    struct cases cases = { .n = 0 };
    own.prompt.n = own.kv.n = 0; /* methods are this command's own: they need no draft here */
    int code = plan_cases(conf, &cases);
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&setup, &own);
    }
    if (code == FT_EXIT_OK && setup.self_layers > 0) {
        code = ft_complain(FT_EXIT_USAGE, "breakeven: a draft of the target's own layers has no "
                                          "size of its own; give a model with -d FILE");
    }
    setup.needs_draft = own.draft != NULL;
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&setup, NULL);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(&setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(&setup, &cases);
    }
    ft_setup_done(&setup);
    return code;
}
