/* SPDX-License-Identifier: Apache-2.0 */
/* eval_manifest.c - the first line of a record: what decides about the samples, and must be the
 * same for a run that goes on; then what is only told: files, and the run with its command,
 * methods, cells, program and machine. */
#include <stdio.h>
#include <string.h>

#include "cli/suites.h"
#include "eval/about.h"

/* ---- the run ---- */

/* A word as a shell takes it. */
static void add_word(char **text, const char *word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_@%+=:,./-";
    bool is_plain = word[0] != '\0' && word[strspn(word, plain)] == '\0';
    size_t used = *text ? strlen(*text) : 0;
    char *more = ft_grow(*text, used + 4 * strlen(word) + 4, 1);
    if (!more) {
        return;
    }
    char *at = more + used;
    *text = more;
    *at++ = ' ';
    if (!is_plain) {
        *at++ = '\'';
    }
    for (; *word != '\0'; word++) {
        size_t n = *word == '\'' ? 4 : 1;
        memcpy(at, *word == '\'' ? "'\\''" : word, n);
        at += n;
    }
    if (!is_plain) {
        *at++ = '\'';
    }
    *at = '\0';
}

static json_t *command_of(const struct ft_conf *conf) {
    char *text = ft_strdup("foretoken eval");
    for (uint32_t i = 0; i < conf->n_word && text; i++) {
        add_word(&text, conf->word[i]);
    }
    json_t *value = text ? ft_json_text(text) : json_null();
    ft_free(text);
    return value;
}

/* {"name":"speckv","keep":64,...}: every parameter that applies. */
static json_t *stage_of(enum ft_stage stage, const char *spec) {
    json_t *value = json_object();
    struct ft_setting setting;
    snprintf(setting.name, sizeof setting.name, "%.*s", spec ? (int)strcspn(spec, ":") : 5,
             spec ? spec : "dense");
    json_object_set_new(value, "name", ft_json_text(setting.name));
    for (uint32_t i = 0; ft_method_setting(stage, spec, i, &setting); i++) {
        json_object_set_new(value, setting.name, ft_json_setting(&setting));
    }
    return value;
}

/* {"name":"q4","k":"q4","k_by":"channel","k_group":64,...}: as it is for this target. */
static json_t *kv_type_of(const char *kv_type, uint32_t head_dim) {
    json_t *value = json_object();
    struct ft_setting setting;
    json_object_set_new(value, "name", ft_json_text(kv_type));
    for (uint32_t i = 0; ft_kv_type_setting(kv_type, head_dim, i, &setting); i++) {
        json_object_set_new(value, setting.name, ft_json_setting(&setting));
    }
    return value;
}

static json_t *methods_of(const struct ft_eval *eval) {
    json_t *value = json_object();
    struct ft_model_info info;
    ft_model_info(eval->setup.target, &info);
    for (uint32_t m = 0; m < eval->grid.n; m++) {
        const struct ft_bench_case *method = &eval->grid.all[m];
        json_t *stages = json_object();
        json_object_set_new(stages, "prompt", stage_of(FT_STAGE_PROMPT, method->prompt));
        json_object_set_new(stages, "kv", stage_of(FT_STAGE_KV, method->kv));
        json_object_set_new(stages, "kv_type",
                            kv_type_of(ft_grid_kv_type(&eval->grid, m), info.head_dim));
        json_object_set_new(value, method->label, stages);
    }
    return value;
}

static json_t *cells_of(const struct ft_eval *eval) {
    json_t *list = json_array();
    for (uint32_t c = 0; c < eval->n_cell; c++) {
        json_t *value = json_object();
        json_object_set_new(value, "task", json_string(eval->cell[c].name));
        json_object_set_new(value, "ctx", json_integer(eval->cell[c].ctx));
        json_object_set_new(value, "samples", json_integer(eval->cell[c].n_sample));
        if (eval->cell[c].method) {
            json_object_set_new(value, "method", json_string(eval->cell[c].method));
        }
        json_array_append_new(list, value);
    }
    return list;
}

static json_t *run_of(const struct ft_eval *eval) {
    json_t *value = json_object();
    char shard[32];
    json_object_set_new(value, "command", command_of(eval->setup.conf));
    if (eval->shard.n > 0) {
        snprintf(shard, sizeof shard, "%u/%u", eval->shard.i, eval->shard.n);
        json_object_set_new(value, "shard", json_string(shard));
    }
    json_object_set_new(value, "cells", cells_of(eval));
    json_object_set_new(value, "methods", methods_of(eval));
    json_object_set_new(value, "commit", json_string(ft_about_commit()));
    json_object_set_new(value, "libraries", ft_about_libraries());
    json_object_set_new(value, "threads", json_integer(ft_bench_threads(&eval->setup)));
    json_object_set_new(value, "machine", ft_about_machine());
    return value;
}

/* ---- all of it ---- */

static json_t *fingerprint_of(const struct ft_eval *eval) {
    struct ft_model_info info;
    if (eval->setup.self_layers > 0) {
        return ft_json_text(eval->setup.conf->draft);
    }
    if (!eval->setup.draft) {
        return json_null();
    }
    ft_model_info(eval->setup.draft, &info);
    return json_string(info.fingerprint);
}

json_t *ft_eval_manifest(const struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    const struct ft_session_params *params = &eval->setup.params;
    struct ft_model_info info;
    json_t *value = json_object(), *files = json_object();
    ft_model_info(eval->setup.target, &info);
    json_object_set_new(value, "suite", json_string(eval->kind->name));
    json_object_set_new(value, "version", json_string(ft_version()));
    json_object_set_new(value, "target", json_string(info.fingerprint));
    json_object_set_new(value, "draft", fingerprint_of(eval));
    json_object_set_new(value, "seed", json_integer((json_int_t)eval->seed));
    json_object_set_new(value, "chat", json_boolean(eval->is_chat));
    json_object_set_new(value, "kv_type", ft_json_text(eval->grid.kv_type));
    json_object_set_new(value, "exact", json_boolean(conf->is_exact));
    json_object_set_new(value, "rope_scale", json_real((double)params->rope_scale));
    json_object_set_new(files, "target", ft_json_text(ft_file_name(conf->model)));
    json_object_set_new(files, "draft",
                        conf->draft ? ft_json_text(ft_file_name(conf->draft)) : json_null());
    eval->kind->describe(eval, value, files);
    json_object_set_new(value, "files", files);
    json_object_set_new(value, "run", run_of(eval));
    return value;
}
