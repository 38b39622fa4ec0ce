/* SPDX-License-Identifier: Apache-2.0 */
/* depth.c - bench --depth: speed as the cache fills, beside libllama if asked. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { TEXT_CAP = 48, LABEL_CAP = 96 };

struct result {
    const struct ft_setup *setup;
    const struct ft_depth_params *params;
    const struct ft_depth_row *row; /* [n] */
    uint32_t n;
    double foreign_cpu;
};

/* Ours over libllama's at the same depth; 0: there is none. */
static double ratio(const struct result *result, uint32_t i, bool is_decode) {
    uint32_t n = result->params->n_kv_type, at = i % (n + 1);
    if (!result->params->peer_path || at == n) {
        return 0;
    }
    const struct ft_depth_row *row = &result->row[i], *peer = row + (n - at);
    return is_decode ? row->decode_tok_s.median / peer->decode_tok_s.median
                     : row->prefill_tok_s.median / peer->prefill_tok_s.median;
}

/* ---- JSON ---- */

static json_t *number(double value, bool is_known) {
    return is_known ? json_real(value) : json_null();
}

static json_t *bound_value(const struct ft_depth_row *row, bool is_low) {
    json_t *value = json_object();
    const struct ft_spread *spread[] = { &row->prefill_tok_s, &row->decode_tok_s, &row->dram_gb_s };
    static const char *const name[] = { "prefill_tok_s", "decode_tok_s", "dram_gb_s" };
    for (size_t i = 0; i < FT_COUNT(name); i++) {
        double bound = is_low ? spread[i]->low : spread[i]->high;
        json_object_set_new(value, name[i], number(bound, bound >= 0));
    }
    return value;
}

static json_t *row_value(const struct result *result, uint32_t i) {
    const struct ft_depth_row *row = &result->row[i];
    const struct ft_setup *setup = result->setup;
    double prefill = ratio(result, i, false), decode = ratio(result, i, true);
    json_t *value = json_object();
    json_object_set_new(value, "engine", ft_json_text(row->engine));
    json_object_set_new(value, "method", ft_json_text("dense"));
    json_object_set_new(value, "kv_type", ft_json_text(row->kv_type));
    json_object_set_new(value, "depth", json_integer(row->depth));
    json_object_set_new(value, "pp", json_integer(result->params->n_pp));
    json_object_set_new(value, "tg", json_integer(result->params->n_tg));
    json_object_set_new(value, "prefill_s", json_real(row->prefill_s.median));
    json_object_set_new(value, "prefill_tok_s", json_real(row->prefill_tok_s.median));
    json_object_set_new(value, "decode_s", json_real(row->decode_s.median));
    json_object_set_new(value, "decode_tok_s", json_real(row->decode_tok_s.median));
    json_object_set_new(value, "dram_gb_s", number(row->dram_gb_s.median, row->dram_gb_s.low >= 0));
    json_object_set_new(value, "low", bound_value(row, true));
    json_object_set_new(value, "high", bound_value(row, false));
    json_object_set_new(value, "prefill_ratio", number(prefill, prefill > 0));
    json_object_set_new(value, "decode_ratio", number(decode, decode > 0));
    json_object_set_new(value, "prompt_s_extrapolated",
                        number(row->prompt_s_extrapolated, row->prompt_s_extrapolated >= 0));
    json_object_set_new(value, "kv_bytes", json_integer((json_int_t)row->kv_bytes));
    json_object_set_new(value, "repeats", json_integer(row->n_repeat));
    json_object_set_new(value, "threads", json_integer(ft_bench_threads(setup)));
    json_object_set_new(value, "foreign_cpu",
                        number(result->foreign_cpu, result->foreign_cpu >= 0));
    json_object_set_new(value, "kernels", ft_json_text(row->kernels));
    json_object_set_new(value, "model", ft_json_text(ft_file_name(setup->conf->model)));
    json_object_set_new(value, "version", ft_json_text(ft_version()));
    return value;
}

static void print_json(const struct result *result) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < result->n; i++) {
        json_array_append_new(list, row_value(result, i));
    }
    ft_json_print(list);
}

/* ---- CSV ---- */

static void csv_text(const char *text) {
    ft_out(",\"");
    for (; *text; text++) {
        ft_out(*text == '"' ? "\"\"" : "%c", *text);
    }
    ft_out("\"");
}

static void csv_number(double value, bool is_known) {
    if (is_known) {
        ft_out(",%.4f", value);
    } else {
        ft_out(",");
    }
}

static void csv_spread(const struct ft_spread *spread) {
    csv_number(spread->median, spread->low >= 0);
    csv_number(spread->low, spread->low >= 0);
    csv_number(spread->high, spread->high >= 0);
}

static void print_csv(const struct result *result) {
    const struct ft_depth_params *params = result->params;
    ft_out("engine,method,kv_type,depth,pp,tg,prefill_s,prefill_tok_s,prefill_tok_s_low,"
           "prefill_tok_s_high,decode_s,decode_tok_s,decode_tok_s_low,decode_tok_s_high,dram_gb_s,"
           "dram_gb_s_low,dram_gb_s_high,prefill_ratio,decode_ratio,prompt_s_extrapolated,kv_bytes,"
           "repeats,threads,foreign_cpu,kernels,model,version\n");
    for (uint32_t i = 0; i < result->n; i++) {
        const struct ft_depth_row *row = &result->row[i];
        double prefill = ratio(result, i, false), decode = ratio(result, i, true);
        ft_out("%s,dense", row->engine);
        csv_text(row->kv_type);
        ft_out(",%u,%u,%u,%.6f", row->depth, params->n_pp, params->n_tg, row->prefill_s.median);
        csv_spread(&row->prefill_tok_s);
        ft_out(",%.6f", row->decode_s.median);
        csv_spread(&row->decode_tok_s);
        csv_spread(&row->dram_gb_s);
        csv_number(prefill, prefill > 0);
        csv_number(decode, decode > 0);
        csv_number(row->prompt_s_extrapolated, row->prompt_s_extrapolated >= 0);
        ft_out(",%llu,%u,%u", (unsigned long long)row->kv_bytes, row->n_repeat,
               ft_bench_threads(result->setup));
        csv_number(result->foreign_cpu, result->foreign_cpu >= 0);
        csv_text(row->kernels);
        csv_text(ft_file_name(result->setup->conf->model));
        ft_out(",%s\n", ft_version());
    }
}

/* ---- text ---- */

static const char *spread_text(const struct ft_spread *spread, char out[TEXT_CAP]) {
    if (spread->low < 0) {
        snprintf(out, TEXT_CAP, "-");
    } else {
        snprintf(out, TEXT_CAP, "%.1f [%.1f-%.1f]", spread->median, spread->low, spread->high);
    }
    return out;
}

static const char *ratio_text(double value, char out[16]) {
    snprintf(out, 16, value > 0 ? "%.2f" : "-", value);
    return out;
}

static void print_remarks(const struct result *result) {
    const struct ft_depth_params *params = result->params;
    const struct ft_depth_row *last = &result->row[result->n - 1];
    ft_out("PP tokens are read behind `depth` copied rows, TG tokens decoded behind those; %u "
           "threads\n",
           ft_bench_threads(result->setup));
    ft_out("medians of %u rounds [lowest-highest]; DRAM: what the threads read beyond the caches "
           "just then, the ceiling of decoding\n",
           last->n_repeat);
    if (params->peer_path) {
        ft_out("x PP, x TG: speed over libllama's at the same depth\n");
    }
    if (last->depth > 0 && last->prompt_s_extrapolated >= 0) {
        ft_out("a whole prompt of %u tokens, extrapolated from S_PP:", last->depth);
        uint32_t n = params->n_kv_type + (params->peer_path ? 1 : 0);
        for (uint32_t i = result->n - n; i < result->n; i++) {
            const struct ft_depth_row *row = &result->row[i];
            ft_out(" %s %s %.1f s", row->engine, row->kv_type, row->prompt_s_extrapolated);
        }
        ft_out("\n");
    }
    if (result->foreign_cpu >= 0) {
        ft_out("other processes used %.2f of %u cores meanwhile\n", result->foreign_cpu,
               ft_cpu_count());
    }
}

static void print_text(const struct result *result) {
    const struct ft_depth_params *params = result->params;
    char pp[TEXT_CAP], tg[TEXT_CAP], dram[TEXT_CAP], x_pp[16], x_tg[16];
    ft_out("%-9s  %-6s  %7s  %5s  %5s  %8s  %-22s  %8s  %-20s  %-18s  %6s  %6s\n", "engine", "KV",
           "depth", "PP", "TG", "T_PP s", "S_PP tok/s", "T_TG s", "S_TG tok/s", "DRAM GB/s", "x PP",
           "x TG");
    for (uint32_t i = 0; i < result->n; i++) {
        const struct ft_depth_row *row = &result->row[i];
        ft_out("%-9s  %-6s  %7u  %5u  %5u  %8.3f  %-22s  %8.3f  %-20s  %-18s  %6s  %6s\n",
               row->engine, row->kv_type, row->depth, params->n_pp, params->n_tg,
               row->prefill_s.median, spread_text(&row->prefill_tok_s, pp), row->decode_s.median,
               spread_text(&row->decode_tok_s, tg), spread_text(&row->dram_gb_s, dram),
               ratio_text(ratio(result, i, false), x_pp), ratio_text(ratio(result, i, true), x_tg));
    }
    print_remarks(result);
}

/* ---- running ---- */

static int plot(const struct result *result) {
    uint32_t n = result->n;
    struct ft_plot_point *point = ft_alloc(2 * (size_t)n, sizeof *point);
    char *labels = ft_alloc(n, LABEL_CAP);
    if (!point || !labels) {
        ft_free(point);
        ft_free(labels);
        return ft_complain(FT_EXIT_FAILED, "not enough memory to plot %u rows", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct ft_depth_row *row = &result->row[i];
        const char *name = labels + (size_t)i * LABEL_CAP;
        snprintf(labels + (size_t)i * LABEL_CAP, LABEL_CAP, "%s dense%s%s", row->engine,
                 result->params->n_kv_type > 1 ? " " : "",
                 result->params->n_kv_type > 1 ? row->kv_type : "");
        point[i] =
            (struct ft_plot_point){ .series = name, .x = row->depth, .y = row->prefill_tok_s };
        point[n + i] =
            (struct ft_plot_point){ .series = name, .x = row->depth, .y = row->decode_tok_s };
    }
    int code = ft_bench_plot(result->setup, "rows in the cache", point, point + n, n);
    ft_free(point);
    ft_free(labels);
    return code;
}

static void step(uint32_t done, uint32_t total, const char *engine, uint32_t depth, void *user) {
    struct ft_progress *progress = user;
    char text[96];
    snprintf(text, sizeof text, "%u/%u  %s, depth %u", done + 1, total, engine, depth);
    ft_progress_clear(progress);
    ft_progress_stage(progress, text);
    if (progress->mode == FT_PROGRESS_PLAIN) {
        ft_note("%s", text);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        fprintf(stderr, "{\"event\":\"progress\",\"phase\":\"bench\",\"done\":%u,\"total\":%u}\n",
                done, total);
    }
}

/* What would be refused after the first depths have been measured is refused before. */
static int check_room(const struct ft_setup *setup, const struct ft_depth_params *params) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_model_info info;
    struct ft_estimate estimate;
    uint32_t deepest = params->depth[params->n_depth - 1];
    uint64_t n = ft_depth_tokens(params, deepest) - 1;
    ft_model_info(setup->target, &info);
    double trained = info.n_ctx_train * FT_MAX(conf->rope_scale, 1.0);
    if ((double)n > trained) {
        return ft_complain(FT_EXIT_FAILED,
                           "--depth %u, --pp %u and --tg %u are beyond the trained context of %s: "
                           "%.0f tokens (--rope-scale extends it)",
                           deepest, params->n_pp, params->n_tg, conf->model, trained);
    }
    struct ft_session_params session = setup->params;
    session.kv_type = params->kv_type[0];
    uint32_t n_first = deepest > 0 ? FT_MIN(deepest, (uint32_t)FT_DEPTH_BASE) : params->n_pp;
    session.n_predict = (uint32_t)n - n_first;
    if (ft_estimate(setup->target, NULL, &session, n_first, &estimate, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    return estimate.fits ? FT_EXIT_OK
                         : ft_complain(FT_EXIT_FAILED, "--depth %u %s", deepest, estimate.why);
}

static int measure(struct ft_setup *setup, struct ft_depth_params *params) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    uint32_t n = ft_depth_rows(params);
    struct ft_depth_row *row = ft_alloc(n, sizeof *row);
    struct result result = { .setup = setup, .params = params, .row = row, .n = n };
    if (!row) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows", n);
    }
    ft_status status = ft_depth_run(params, row, &result.foreign_cpu, &error);
    ft_progress_clear(&setup->progress);
    int code = FT_EXIT_OK;
    if (status != FT_OK) {
        code = ft_complain_error(NULL, &error);
    } else if (conf->is_json) {
        print_json(&result);
    } else if (conf->is_csv) {
        print_csv(&result);
    } else {
        print_text(&result);
    }
    if (status == FT_OK) {
        code = plot(&result);
    }
    ft_free(row);
    return code;
}

int ft_bench_depth(struct ft_setup *setup) {
    const struct ft_conf *conf = setup->conf;
    struct ft_session_params session = setup->params;
    session.progress = NULL;
    const char *kv_type[FT_TEXTS_CAP] = { ft_bench_kv_type(setup) };
    for (uint32_t i = 0; i < conf->kv_types.n; i++) {
        kv_type[i] = ft_setup_kv_type(setup, conf->kv_types.text[i]);
    }
    struct ft_depth_params params = { .session = &session,
                                      .kv_type = kv_type,
                                      .n_kv_type = FT_MAX(conf->kv_types.n, 1),
                                      .peer_path =
                                          conf->against == FT_AGAINST_LIBLLAMA ? conf->model : NULL,
                                      .depth = conf->depth.value,
                                      .n_depth = conf->depth.n,
                                      .n_pp = conf->n_pp,
                                      .n_tg = conf->n_tg,
                                      .n_repeat = conf->n_repeat,
                                      .guard = ft_ui_guard,
                                      .step = step,
                                      .user = &setup->progress };
    ft_token *id = NULL;
    int code = check_room(setup, &params);
    if (code == FT_EXIT_OK) {
        code = ft_bench_ids(setup, FT_DEPTH_BASE + params.n_pp, &id);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(setup);
    }
    if (code == FT_EXIT_OK) {
        params.target = setup->target;
        params.id = id;
        code = measure(setup, &params);
    }
    ft_free(id);
    return code;
}
