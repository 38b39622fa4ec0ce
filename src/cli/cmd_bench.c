/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_bench.c - every combination of methods on every length, beside libllama if asked; and what
 * this shares with the measurement at depths (depth.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { PATH_CAP = 4096 };

struct plan {
    struct ft_cases cases;
    ft_token *id; /* [longest] owned */
    uint32_t longest;
};

static bool is_dense(const char *spec) {
    return !spec || strcmp(spec, "dense") == 0;
}

/* Does another method of this name serve the other stage? */
static bool has_twin(const char *spec) {
    size_t n = strcspn(spec, ":");
    uint32_t count = 0;
    for (uint32_t i = 0; i < ft_method_count(); i++) {
        const char *name = ft_method_info(i)->name;
        count += strlen(name) == n && memcmp(name, spec, n) == 0;
    }
    return count > 1;
}

void ft_method_label(const char *prompt, const char *kv, char *out, size_t cap) {
    if (is_dense(prompt)) {
        snprintf(out, cap, "%s%s", !is_dense(kv) && has_twin(kv) ? "kv " : "",
                 is_dense(kv) ? "dense" : kv);
    } else {
        snprintf(out, cap, "%s%s%s%s", is_dense(kv) && has_twin(prompt) ? "prompt " : "", prompt,
                 is_dense(kv) ? "" : "+", is_dense(kv) ? "" : kv);
    }
}

int ft_cases_init(struct ft_cases *cases, const struct ft_setup *setup) {
    const struct ft_conf *conf = setup->conf;
    uint32_t n_prompt = FT_MAX(conf->prompt.n, 1u), n_kv = FT_MAX(conf->kv.n, 1u);
    uint32_t n_type = FT_MAX(conf->kv_types.n, 1u);
    cases->n = n_prompt * n_kv * n_type;
    if (cases->n > FT_CASES_CAP) {
        return ft_complain(FT_EXIT_USAGE,
                           "%u combinations of methods and formats, expected at most %d", cases->n,
                           FT_CASES_CAP);
    }
    for (uint32_t i = 0; i < cases->n; i++) {
        uint32_t at = i / n_type;
        const char *prompt = conf->prompt.n > 0 ? conf->prompt.text[at / n_kv] : NULL;
        const char *kv = conf->kv.n > 0 ? conf->kv.text[at % n_kv] : NULL;
        const char *kv_type = conf->kv_types.n > 0 ? conf->kv_types.text[i % n_type] : NULL;
        char *label = cases->label[i];
        ft_method_label(prompt, kv, label, FT_LABEL_CAP);
        cases->all[i] = (struct ft_bench_case){
            .prompt = prompt, .kv = kv, .kv_type = ft_setup_kv_type(setup, kv_type), .label = label
        };
    }
    return FT_EXIT_OK;
}

/* ---- what both kinds of measurement need ---- */

const char *ft_bench_kv_type(const struct ft_setup *setup) {
    return setup->params.kv_type ? setup->params.kv_type : "f16";
}

uint32_t ft_bench_threads(const struct ft_setup *setup) {
    return setup->params.n_thread ? setup->params.n_thread : ft_cpu_count();
}

static int ids_of_file(const struct ft_setup *setup, uint32_t n, ft_token *id) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_tokens tokens = { 0 };
    char *text = NULL;
    size_t n_byte = 0;
    int code = ft_read_text(conf, &text, &n_byte);
    if (code == FT_EXIT_OK &&
        ft_tokenize(setup->target, text, n_byte, FT_TOKENIZE_BOS, &tokens, &error) != FT_OK) {
        code = ft_complain_error(conf->file, &error);
    }
    if (code == FT_EXIT_OK && tokens.n < n) {
        code = ft_complain(FT_EXIT_FAILED, "%s has %u tokens, %s needs %u", conf->file, tokens.n,
                           conf->depth.n > 0 ? "--depth" : "--ctx", n);
    }
    if (code == FT_EXIT_OK) {
        memcpy(id, tokens.id, n * sizeof *id);
    }
    ft_tokens_free(&tokens);
    free(text);
    return code;
}

int ft_bench_ids(const struct ft_setup *setup, uint32_t n, ft_token **out) {
    struct ft_error error = { 0 };
    const struct ft_seed *chosen = &setup->conf->seed;
    uint64_t seed = chosen->is_drawn ? (uint64_t)ft_time_us() : chosen->value;
    ft_token *id = ft_alloc(n, sizeof *id);
    if (!id) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u tokens", n);
    }
    int code = FT_EXIT_OK;
    if (chosen->is_drawn && !setup->conf->file) {
        ft_note("--seed %llu", (unsigned long long)seed);
    }
    if (setup->conf->file) {
        code = ids_of_file(setup, n, id);
    } else if (ft_bench_prompt(setup->target, seed, n, id, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code != FT_EXIT_OK) {
        ft_free(id);
        return code;
    }
    *out = id;
    return FT_EXIT_OK;
}

int ft_bench_plot(const struct ft_setup *setup, const char *x_title,
                  const struct ft_plot_point *prefill, const struct ft_plot_point *decode,
                  uint32_t n) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_model_info info;
    char title[128], note[128];
    if (!conf->svg) {
        return FT_EXIT_OK;
    }
    ft_model_info(setup->target, &info);
    snprintf(title, sizeof title, "%.64s, %.24s", info.name[0] ? info.name : "model",
             info.file_type);
    snprintf(note, sizeof note,
             "foretoken %s, %u threads, KV %s; medians of %u rounds, bars: lowest to highest",
             ft_version(), ft_bench_threads(setup),
             conf->kv_types.n > 1 ? "as named" : ft_bench_kv_type(setup), conf->n_repeat);
    const struct ft_plot_panel panel[] = { { "prefill, tokens/s", "tok/s", prefill, n },
                                           { "decode, tokens/s", "tok/s", decode, n } };
    const struct ft_plot plot = {
        .title = title, .note = note, .x_title = x_title, .panel = panel, .n_panel = 2
    };
    return ft_plot_save(&plot, conf->svg, &error) == FT_OK ? FT_EXIT_OK
                                                           : ft_complain_error("--svg", &error);
}

/* ---- results ---- */

static json_t *spread_value(const struct ft_bench_row *row, bool is_low) {
    json_t *value = json_object();
    json_object_set_new(value, "prefill_tok_s",
                        json_real(is_low ? row->prefill_tok_s.low : row->prefill_tok_s.high));
    json_object_set_new(value, "ttft_ms", json_real(is_low ? row->ttft_ms.low : row->ttft_ms.high));
    json_object_set_new(value, "decode_tok_s",
                        json_real(is_low ? row->decode_tok_s.low : row->decode_tok_s.high));
    return value;
}

static json_t *row_value(const struct ft_setup *setup, const struct ft_bench_row *row,
                         double foreign_cpu) {
    json_t *value = json_object(), *fallbacks = json_array();
    for (uint32_t i = 0; i < row->n_fallback; i++) {
        json_array_append_new(fallbacks, ft_json_text(row->fallback[i]));
    }
    json_object_set_new(value, "engine", ft_json_text(row->engine));
    json_object_set_new(value, "method", ft_json_text(row->method));
    json_object_set_new(value, "n_prompt", json_integer(row->n_prompt));
    json_object_set_new(value, "prefill_tok_s", json_real(row->prefill_tok_s.median));
    json_object_set_new(value, "ttft_ms", json_real(row->ttft_ms.median));
    json_object_set_new(value, "decode_tok_s", json_real(row->decode_tok_s.median));
    json_object_set_new(value, "kv_bytes", json_integer((json_int_t)row->kv_bytes));
    json_object_set_new(value, "kv_bytes_peak", json_integer((json_int_t)row->kv_bytes_peak));
    json_object_set_new(value, "draft_kv_bytes_peak",
                        json_integer((json_int_t)row->draft_kv_bytes_peak));
    json_object_set_new(value, "resident_bytes_peak",
                        row->resident_peak > 0 ? json_integer((json_int_t)row->resident_peak)
                                               : json_null());
    json_object_set_new(value, "draft_ms", json_real(row->draft_ms.median));
    json_object_set_new(value, "score_ms", json_real(row->score_ms.median));
    json_object_set_new(value, "prefill_ms", json_real(row->prefill_ms.median));
    json_object_set_new(value, "pack_ms", json_real(row->pack_ms.median));
    json_object_set_new(value, "low", spread_value(row, true));
    json_object_set_new(value, "high", spread_value(row, false));
    json_object_set_new(value, "repeats", json_integer(row->n_repeat));
    json_object_set_new(value, "kept_tokens", json_integer(row->n_kept));
    json_object_set_new(value, "generated_tokens", json_integer(setup->params.n_predict));
    json_object_set_new(value, "fallbacks", fallbacks);
    json_object_set_new(value, "foreign_cpu",
                        foreign_cpu < 0 ? json_null() : json_real(foreign_cpu));
    json_object_set_new(value, "kernels", ft_json_text(row->kernels));
    json_object_set_new(value, "kv_type", ft_json_text(row->kv_type));
    json_object_set_new(value, "kv_packing", ft_json_text(row->kv_packing));
    json_object_set_new(value, "threads", json_integer(ft_bench_threads(setup)));
    json_object_set_new(value, "model", ft_json_text(ft_file_name(setup->conf->model)));
    json_object_set_new(value, "version", ft_json_text(ft_version()));
    return value;
}

static void print_json(const struct ft_setup *setup, const struct ft_bench_row *row, uint32_t n,
                       double foreign_cpu) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(list, row_value(setup, &row[i], foreign_cpu));
    }
    ft_json_print(list);
}

static void print_csv(const struct ft_bench_row *row, uint32_t n) {
    ft_out(
        "engine,method,n_prompt,prefill_tok_s,ttft_ms,decode_tok_s,kv_bytes,kv_bytes_peak,"
        "draft_kv_bytes_peak,resident_bytes_peak,draft_ms,score_ms,prefill_ms,kv_type,pack_ms\n");
    for (uint32_t i = 0; i < n; i++) {
        const struct ft_bench_row *r = &row[i];
        char resident[24] = ""; /* unknown: empty */
        if (r->resident_peak > 0) {
            snprintf(resident, sizeof resident, "%llu", (unsigned long long)r->resident_peak);
        }
        ft_out("%s,\"%s\",%u,%.3f,%.3f,%.3f,%llu,%llu,%llu,%s,%.3f,%.3f,%.3f,\"%s\",%.3f\n",
               r->engine, r->method, r->n_prompt, r->prefill_tok_s.median, r->ttft_ms.median,
               r->decode_tok_s.median, (unsigned long long)r->kv_bytes,
               (unsigned long long)r->kv_bytes_peak, (unsigned long long)r->draft_kv_bytes_peak,
               resident, r->draft_ms.median, r->score_ms.median, r->prefill_ms.median, r->kv_type,
               r->pack_ms.median);
    }
}

static const char *spread_text(const struct ft_spread *spread, char out[48]) {
    snprintf(out, 48, "%.1f [%.1f-%.1f]", spread->median, spread->low, spread->high);
    return out;
}

/* "snapkv:keep=64 at 1024", with the format where there are several. */
static void print_name(const struct ft_bench_row *row, bool has_formats) {
    ft_out("%s%s%s at %u", row->method, has_formats ? " " : "", has_formats ? row->kv_type : "",
           row->n_prompt);
}

/* What drafting and packing took, and choices that were made, row by row. */
static void print_parts(const struct ft_bench_row *row, bool has_formats) {
    char kv[24];
    if (row->draft_ms.median > 0) {
        print_name(row, has_formats);
        ft_out(": draft %.0f ms, scoring %.0f ms, target %.0f ms; KV of the draft %s\n",
               row->draft_ms.median, row->score_ms.median, row->prefill_ms.median,
               ft_size_text(row->draft_kv_bytes_peak, kv));
    }
    if (row->kv_packing[0]) {
        print_name(row, has_formats);
        ft_out(": packing %.1f ms, %.2f %% of the target's %.0f ms; %s\n", row->pack_ms.median,
               100 * row->pack_ms.median / FT_MAX(row->prefill_ms.median, 1e-3),
               row->prefill_ms.median, row->kv_packing);
    }
}

static void print_fallbacks(const struct ft_bench_row *row, bool has_formats) {
    for (uint32_t f = 0; f < row->n_fallback; f++) {
        print_name(row, has_formats);
        ft_out(": ");
        ft_out_safe(row->fallback[f]);
        ft_out("\n");
    }
}

static void print_text(const struct ft_setup *setup, const struct ft_bench_row *row, uint32_t n,
                       double foreign_cpu) {
    char prefill[48], ttft[48], decode[48], kv[24], peak[24], resident[24];
    bool has_formats = setup->conf->kv_types.n > 1;
    int width = 6, kv_width = 4;
    for (uint32_t i = 0; i < n; i++) {
        width = FT_MAX(width, (int)strlen(row[i].method));
        kv_width = FT_MAX(kv_width, (int)strlen(row[i].kv_type));
    }
    ft_out("%-9s  %-*s  %-*s  %6s  %-24s  %-24s  %-24s  %-10s  %-10s  %s\n", "engine", width,
           "method", kv_width, "rows", "prompt", "prefill tok/s", "first token ms", "decode tok/s",
           "KV", "KV peak", "resident");
    for (uint32_t i = 0; i < n; i++) {
        ft_out("%-9s  %-*s  %-*s  %6u  %-24s  %-24s  %-24s  %-10s  %-10s  %s\n", row[i].engine,
               width, row[i].method, kv_width, row[i].kv_type, row[i].n_prompt,
               spread_text(&row[i].prefill_tok_s, prefill), spread_text(&row[i].ttft_ms, ttft),
               spread_text(&row[i].decode_tok_s, decode), ft_size_text(row[i].kv_bytes, kv),
               ft_size_text(row[i].kv_bytes_peak, peak),
               row[i].resident_peak > 0 ? ft_size_text(row[i].resident_peak, resident) : "-");
    }
    ft_out("medians of %u rounds [lowest-highest]; prefill counts everything before the first "
           "logits; resident: the process at most, libllama apart\n",
           row[0].n_repeat);
    for (uint32_t i = 0; i < n; i++) {
        print_parts(&row[i], has_formats);
    }
    if (foreign_cpu >= 0) {
        ft_out("other processes used %.2f of %u cores meanwhile\n", foreign_cpu, ft_cpu_count());
    }
    for (uint32_t i = 0; i < n; i++) {
        print_fallbacks(&row[i], has_formats);
    }
}

static void step(uint32_t done, uint32_t total, const char *engine, const char *method,
                 uint32_t n_prompt, void *user) {
    struct ft_progress *progress = user;
    char text[96];
    snprintf(text, sizeof text, "%u/%u  %s %s, %u tokens", done + 1, total, engine, method,
             n_prompt);
    ft_progress_clear(progress);
    ft_progress_stage(progress, text);
    if (progress->mode == FT_PROGRESS_PLAIN) {
        ft_note("%s", text);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        fprintf(stderr, "{\"event\":\"progress\",\"phase\":\"bench\",\"done\":%u,\"total\":%u}\n",
                done, total);
    }
}

static int plot_rows(const struct ft_setup *setup, const struct ft_bench_row *row, uint32_t n) {
    struct ft_plot_point *point = ft_alloc(2 * (size_t)n, sizeof *point);
    char(*name)[2 * FT_LABEL_CAP + 16] = ft_alloc(n, sizeof *name);
    bool has_formats = setup->conf->kv_types.n > 1;
    if (!point || !name) {
        ft_free(point);
        ft_free(name);
        return ft_complain(FT_EXIT_FAILED, "not enough memory to plot %u rows", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name[i], sizeof *name, "%s %s%s%s", row[i].engine, row[i].method,
                 has_formats ? " " : "", has_formats ? row[i].kv_type : "");
        point[i] = (struct ft_plot_point){ .series = name[i],
                                           .x = row[i].n_prompt,
                                           .y = row[i].prefill_tok_s };
        point[n + i] = (struct ft_plot_point){ .series = name[i],
                                               .x = row[i].n_prompt,
                                               .y = row[i].decode_tok_s };
    }
    int code = ft_bench_plot(setup, "tokens of the prompt", point, point + n, n);
    ft_free(point);
    ft_free(name);
    return code;
}

static int run(struct ft_setup *setup, struct plan *plan) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    double foreign_cpu = -1;
    struct ft_session_params session = setup->params;
    session.progress = NULL;
    struct ft_bench_params params = { .target = setup->target,
                                      .draft = setup->draft,
                                      .session = &session,
                                      .peer_path =
                                          conf->against == FT_AGAINST_LIBLLAMA ? conf->model : NULL,
                                      .cases = plan->cases.all,
                                      .n_case = plan->cases.n,
                                      .n_prompt = conf->ctx.value,
                                      .n_length = conf->ctx.n,
                                      .id = plan->id,
                                      .n_repeat = conf->n_repeat,
                                      .guard = ft_ui_guard,
                                      .step = step,
                                      .user = &setup->progress };
    uint32_t n = ft_bench_rows(&params);
    struct ft_bench_row *row = ft_alloc(n, sizeof *row);
    if (!row) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u rows", n);
    }
    ft_status status = ft_bench_run(&params, row, &foreign_cpu, &error);
    ft_progress_clear(&setup->progress);
    int code = FT_EXIT_OK;
    if (status != FT_OK) {
        code = ft_complain_error(NULL, &error);
    } else if (conf->is_json) {
        print_json(setup, row, n, foreign_cpu);
    } else if (conf->is_csv) {
        print_csv(row, n);
    } else {
        print_text(setup, row, n, foreign_cpu);
    }
    if (status == FT_OK) {
        code = plot_rows(setup, row, n);
    }
    ft_free(row);
    return code;
}

static int run_lengths(struct ft_setup *setup, struct plan *plan) {
    int code = ft_bench_ids(setup, plan->longest, &plan->id);
    for (uint32_t i = 0; code == FT_EXIT_OK && i < plan->cases.n; i++) {
        code = ft_setup_fit_case(setup, &plan->cases.all[i], plan->longest);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(setup, plan);
    }
    ft_free(plan->id);
    return code;
}

/* ---- settings ---- */

static int check_depth(const struct ft_conf *conf) {
    for (uint32_t i = 1; i < conf->depth.n; i++) {
        if (conf->depth.value[i] <= conf->depth.value[i - 1]) {
            return ft_complain(FT_EXIT_USAGE, "--depth has %u after %u, expected larger and larger",
                               conf->depth.value[i], conf->depth.value[i - 1]);
        }
    }
    const struct ft_texts *specs[] = { &conf->prompt, &conf->kv };
    for (uint32_t i = 0; i < 2 * FT_TEXTS_CAP; i++) {
        const struct ft_texts *texts = specs[i / FT_TEXTS_CAP];
        uint32_t t = i % FT_TEXTS_CAP;
        if (t < texts->n && !is_dense(texts->text[t])) {
            return ft_complain(FT_EXIT_USAGE,
                               "--depth measures the dense engine, %s goes with --ctx: a method "
                               "works on a prompt that was read",
                               texts->text[t]);
        }
    }
    if (conf->draft || conf->draft_shape) {
        return ft_complain(FT_EXIT_USAGE, "--depth measures one model; leave the draft out");
    }
    return FT_EXIT_OK;
}

static int check_options(const struct ft_conf *conf) {
    if (conf->shape && conf->model) {
        return ft_complain(FT_EXIT_USAGE, "--shape and -m exclude each other");
    }
    if (conf->draft_shape && conf->draft) {
        return ft_complain(FT_EXIT_USAGE, "--draft-shape and -d exclude each other");
    }
    if (conf->draft_shape && !conf->shape) {
        return ft_complain(FT_EXIT_USAGE,
                           "--draft-shape needs --shape: invented words fit no real vocabulary");
    }
    for (uint32_t i = 0; conf->shape && i < conf->kv_types.n; i++) {
        if (ft_text_is_calibrated(conf->kv_types.text[i])) {
            return ft_complain(FT_EXIT_USAGE, "--kv-type calibrated goes with -m: nothing is kept "
                                              "beside a synthetic model");
        }
    }
    if (conf->depth.n > 0 && conf->ctx.n > 0) {
        return ft_complain(FT_EXIT_USAGE, "--depth and --ctx exclude each other");
    }
    if (conf->depth.n > 0 && ft_conf_has(conf, "-n")) {
        return ft_complain(FT_EXIT_USAGE, "-n goes with --ctx; with --depth it is --tg");
    }
    if (conf->depth.n > 0) {
        return check_depth(conf);
    }
    if (ft_conf_has(conf, "--pp") || ft_conf_has(conf, "--tg")) {
        return ft_complain(FT_EXIT_USAGE,
                           "%s goes with --depth (0 is an empty cache); with --ctx "
                           "answers are -n tokens long",
                           ft_conf_has(conf, "--pp") ? "--pp" : "--tg");
    }
    if (conf->n_predict < 2) {
        return ft_complain(
            FT_EXIT_USAGE,
            "--predict is 1, bench needs at least 2: the first token costs no evaluation");
    }
    return FT_EXIT_OK;
}

/* ---- shapes ---- */

struct shapes {
    struct ft_shape_choice target, draft;
    char target_path[PATH_CAP], draft_path[PATH_CAP];
};

/* Names only; until the files are made, the settings name models by what was typed. */
static int parse_shapes(struct ft_conf *conf, struct shapes *shapes) {
    struct ft_error error = { 0 };
    if (conf->shape) {
        if (ft_shape_parse(conf->shape, &shapes->target, &error) != FT_OK) {
            return ft_complain(FT_EXIT_USAGE, "--shape: %s", error.text);
        }
        conf->model = conf->shape;
    }
    if (conf->draft_shape) {
        if (ft_shape_parse(conf->draft_shape, &shapes->draft, &error) != FT_OK) {
            return ft_complain(FT_EXIT_USAGE, "--draft-shape: %s", error.text);
        }
        shapes->draft.n_vocab = shapes->target.n_vocab; /* a pair shares its token ids */
        conf->draft = conf->draft_shape;
    }
    return FT_EXIT_OK;
}

static int make_shape(struct ft_setup *setup, const struct ft_shape_choice *choice,
                      const char *name, char path[PATH_CAP]) {
    struct ft_error error = { 0 };
    char cache[PATH_CAP - 8], folder[PATH_CAP], text[96];
    bool is_new = false;
    if (!ft_conf_cache_folder(cache, sizeof cache)) {
        return ft_complain(
            FT_EXIT_FAILED,
            "no folder for synthetic models: neither XDG_CACHE_HOME nor HOME is set");
    }
    snprintf(folder, sizeof folder, "%s/shapes", cache);
    snprintf(text, sizeof text, "drawing weights of %.48s", name);
    ft_progress_stage(&setup->progress, text);
    ft_status status = ft_shape_make(choice, folder, path, PATH_CAP, &is_new, &error);
    ft_progress_clear(&setup->progress);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    ft_note("%s: synthetic weights, %s %s", name, is_new ? "written to" : "in", path);
    return FT_EXIT_OK;
}

static int make_shapes(struct ft_setup *setup, struct ft_conf *conf, struct shapes *shapes) {
    int code = FT_EXIT_OK;
    if (conf->shape) {
        code = make_shape(setup, &shapes->target, conf->shape, shapes->target_path);
        conf->model = shapes->target_path;
    }
    if (code == FT_EXIT_OK && conf->draft_shape) {
        code = make_shape(setup, &shapes->draft, conf->draft_shape, shapes->draft_path);
        conf->draft = shapes->draft_path;
    }
    return code;
}

int ft_cmd_bench(const struct ft_conf *given) {
    struct plan plan = { .longest = 0 };
    struct ft_setup setup = { 0 };
    struct shapes shapes;
    struct ft_conf conf = *given;
    int code = check_options(&conf);
    conf.kv_type = conf.kv_types.n > 0 ? conf.kv_types.text[0] : NULL;
    if (conf.ctx.n == 0) {
        conf.ctx = (struct ft_counts){ .value = { 1024 }, .n = 1 };
    }
    for (uint32_t i = 0; i < conf.ctx.n; i++) {
        plan.longest = FT_MAX(plan.longest, conf.ctx.value[i]);
    }
    if (code == FT_EXIT_OK) {
        code = parse_shapes(&conf, &shapes);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&setup, &conf);
    }
    if (code == FT_EXIT_OK) {
        code = ft_cases_init(&plan.cases, &setup);
    }
    if (code == FT_EXIT_OK) {
        code = ft_check_file(&conf, "--svg", conf.svg); /* said before minutes of work, not after */
    }
    if (code == FT_EXIT_OK) {
        code = make_shapes(&setup, &conf, &shapes);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&setup, NULL);
    }
    if (code == FT_EXIT_OK) {
        code = conf.depth.n > 0 ? ft_bench_depth(&setup) : run_lengths(&setup, &plan);
    }
    ft_setup_done(&setup);
    return code;
}
