/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_calibrate.c - what is found out about one model and kept beside it: bits of each layer, and
 * what methods and formats scored. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "eval/calibrate.h"
#include "eval/eval.h"
#include "eval/kv_table.h"

enum { PATH_CAP = 4096, KEPT_MAX = 16 << 20 };

/* "x.gguf" -> "x.kv.json" */
static int path_beside(const char *model, char *out, size_t cap) {
    size_t n = strlen(model);
    bool is_gguf = n > 5 && strcmp(model + n - 5, ".gguf") == 0;
    int used = snprintf(out, cap, "%.*s.kv.json", (int)(is_gguf ? n - 5 : n), model);
    return used > 0 && (size_t)used < cap
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_FAILED, "the path of %.100s is too long", model);
}

/* What is kept beside a model: an object, empty where there is nothing yet. */
static int read_kept(const char *path, json_t **out) {
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    if (access(path, F_OK) != 0) {
        *out = json_object();
        return FT_EXIT_OK;
    }
    struct stat found;
    if (stat(path, &found) == 0 && !S_ISREG(found.st_mode)) { /* one to be read could block */
        return ft_complain(FT_EXIT_FAILED, "--out: %.160s is not a regular file", path);
    }
    int code = ft_read_file(path, KEPT_MAX, &text, &n);
    if (code != FT_EXIT_OK) {
        return code;
    }
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return ft_complain(FT_EXIT_FAILED, "%.200s is no result of foretoken calibrate: not JSON",
                           path);
    }
    return FT_EXIT_OK;
}

/* Bits or a table, and of which model they are. */
static bool is_result(const json_t *kept) {
    return json_is_string(json_object_get(kept, "fingerprint")) &&
           (json_is_string(json_object_get(kept, "kv_type")) ||
            json_is_array(json_object_get(kept, "table")));
}

static bool is_of(const json_t *kept, const ft_model *model) {
    struct ft_model_info info;
    const char *of = json_string_value(json_object_get(kept, "fingerprint"));
    ft_model_info(model, &info);
    return of && strcmp(of, info.fingerprint) == 0;
}

int ft_calibration_table(const char *path, const ft_model *model, json_t **table) {
    char kept_path[PATH_CAP];
    json_t *kept = NULL;
    *table = NULL;
    int code = path_beside(path, kept_path, sizeof kept_path);
    if (code == FT_EXIT_OK) {
        code = read_kept(kept_path, &kept);
    }
    json_t *found = json_object_get(kept, "table");
    if (code == FT_EXIT_OK && found && !is_of(kept, model)) {
        code = ft_complain(FT_EXIT_FAILED, "%.200s was measured of another model than %.100s",
                           kept_path, path);
    } else if (code == FT_EXIT_OK) {
        *table = json_incref(found);
    }
    json_decref(kept);
    return code;
}

int ft_calibration_read(const char *model, char **kv_type, char fingerprint[65]) {
    char path[PATH_CAP];
    json_t *root = NULL;
    int code = path_beside(model, path, sizeof path);
    if (code == FT_EXIT_OK && access(path, R_OK) != 0) {
        return ft_complain(
            FT_EXIT_FAILED,
            "--kv-type calibrated: no %.200s; foretoken calibrate -m %.200s makes it", path, model);
    }
    if (code == FT_EXIT_OK) {
        code = read_kept(path, &root);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    const char *found = json_string_value(json_object_get(root, "kv_type"));
    const char *of = json_string_value(json_object_get(root, "fingerprint"));
    if (!found || !of || strlen(of) != 64 || ft_kv_type_check(found, NULL) != FT_OK) {
        code =
            ft_complain(FT_EXIT_FAILED,
                        "%.200s is no result of foretoken calibrate: a kv_type and a fingerprint "
                        "are expected",
                        path);
    } else {
        memcpy(fingerprint, of, 65);
        *kv_type = ft_strdup(found);
        code = *kv_type ? code : ft_complain(FT_EXIT_FAILED, "not enough memory for a kv type");
    }
    json_decref(root);
    return code;
}

static void tried(const char *kv_type, double kl, bool is_best, void *user) {
    const struct ft_conf *conf = user;
    if (!conf->is_json && is_best) {
        ft_out("  KL %.5f  %s\n", kl, kv_type);
        ft_out_flush();
    }
}

/* What was found, and on what: all that whoever uses it has to know. */
static json_t *result_value(const struct ft_setup *setup, const char *text, size_t n,
                            const struct ft_calibrate *found) {
    const struct ft_conf *conf = setup->conf;
    struct ft_model_info info;
    struct ft_sha256 sha;
    char hex[65];
    ft_model_info(setup->target, &info);
    ft_sha256_init(&sha);
    ft_sha256_add(&sha, text, n);
    ft_sha256_done(&sha, hex);
    json_t *value = json_object();
    json_object_set_new(value, "kv_type", json_string(found->kv_type));
    json_object_set_new(value, "bits", json_real(found->average));
    json_object_set_new(value, "kl", json_real(found->kl));
    json_object_set_new(value, "kl_same_bits", json_real(found->kl_same));
    json_object_set_new(value, "tried", json_integer(found->n_tried));
    json_object_set_new(value, "n_ctx", json_integer(conf->n_ctx));
    json_object_set_new(value, "seed", json_integer((json_int_t)setup->params.sampling.seed));
    json_object_set_new(value, "text", ft_json_text(ft_file_name(conf->file ? conf->file : "-")));
    json_object_set_new(value, "text_sha256", json_string(hex));
    json_object_set_new(value, "fingerprint", json_string(info.fingerprint));
    json_object_set_new(value, "version", ft_json_text(ft_version()));
    return value;
}

/* Where the result goes, and what is there of this model already: an object, empty where there is
 * nothing yet.  What is not of this model stays as it is. */
static int open_kept(const struct ft_setup *setup, char path[PATH_CAP], json_t **kept) {
    const struct ft_conf *conf = setup->conf;
    struct ft_model_info info;
    int code = FT_EXIT_OK;
    *kept = NULL;
    if (!conf->out) {
        code = path_beside(conf->model, path, PATH_CAP);
    } else if (snprintf(path, PATH_CAP, "%s", conf->out) >= PATH_CAP) {
        code = ft_complain(FT_EXIT_FAILED, "--out: the path %.100s... is too long", conf->out);
    }
    if (code == FT_EXIT_OK) {
        code = read_kept(path, kept);
    }
    if (code != FT_EXIT_OK || json_object_size(*kept) == 0 ||
        (is_result(*kept) && is_of(*kept, setup->target))) {
        return code;
    }
    ft_model_info(setup->target, &info);
    code =
        is_result(*kept)
            ? ft_complain(FT_EXIT_FAILED,
                          "%.200s has the result of another model (fingerprint %.12s..., this one "
                          "is %.12s...); move it away, or name another file with -o",
                          path, json_string_value(json_object_get(*kept, "fingerprint")),
                          info.fingerprint)
            : ft_complain(FT_EXIT_FAILED,
                          "%.200s is no result of foretoken calibrate: a fingerprint, and a "
                          "kv_type or a table, are expected; it stays as it is",
                          path);
    json_decref(*kept);
    *kept = NULL;
    return code;
}

/* Before work begins: may the result go where it is meant to? */
static int check_kept(const struct ft_setup *setup) {
    char path[PATH_CAP];
    json_t *kept = NULL;
    int code = open_kept(setup, path, &kept);
    json_decref(kept);
    return code == FT_EXIT_OK ? ft_check_file(setup->conf, "--out", path) : code;
}

/* Put beside the model, or where -o says, with what is there of it already. */
static int save(const struct ft_setup *setup, json_t *value) {
    char path[PATH_CAP];
    struct ft_error error = { 0 };
    json_t *kept = NULL;
    int code = open_kept(setup, path, &kept);
    if (code != FT_EXIT_OK) {
        return code;
    }
    json_object_update(kept, value);
    char *text = json_dumps(kept, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    struct ft_save *file = NULL;
    ft_status status = text ? ft_save_open(path, &file, &error)
                            : ft_fail(&error, FT_NOMEM, 0, "not enough memory for %.100s", path);
    if (status == FT_OK) {
        ft_save_print(file, "%s\n", text);
        status = ft_save_done(file, true, &error);
    }
    free(text);
    json_decref(kept);
    return status == FT_OK ? FT_EXIT_OK : ft_complain_error(NULL, &error);
}

/* ---- measured methods, from records ---- */

static int add_table(const struct ft_setup *setup, const struct ft_results *results) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_model_info info;
    json_t *table = NULL;
    const char *of = json_string_value(json_object_get(ft_results_manifest(results, 0), "target"));
    ft_model_info(setup->target, &info);
    if (!of || strcmp(of, info.fingerprint) != 0) {
        return ft_complain(FT_EXIT_FAILED, "%.200s was measured of another model than %.100s",
                           conf->arg[0], conf->model);
    }
    if (ft_kv_table_of(results, &table, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    size_t n = json_array_size(table);
    json_t *value = json_object();
    json_object_set_new(value, "fingerprint", json_string(info.fingerprint));
    json_object_set_new(value, "table", table);
    json_object_set(value, "table_seed", json_object_get(ft_results_manifest(results, 0), "seed"));
    json_object_set_new(value, "version", ft_json_text(ft_version()));
    int code = save(setup, value);
    if (conf->is_json) {
        ft_json_print(value);
        return code;
    }
    json_decref(value);
    if (code == FT_EXIT_OK) {
        ft_out("%zu measured methods and formats are kept: --kv auto:bytes=N chooses among them\n",
               n);
    }
    return code;
}

static int run_table(struct ft_setup *setup) {
    struct ft_error error = { 0 };
    struct ft_results results;
    int code = ft_setup_peek(setup, NULL);
    if (code == FT_EXIT_OK) {
        code = check_kept(setup);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    if (ft_results_load(setup->conf->arg, setup->conf->n_arg, &results, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    } else {
        code = add_table(setup, &results);
    }
    ft_results_done(&results);
    return code;
}

/* ---- bits, from a text ---- */

static int run(struct ft_setup *setup, const struct ft_chunks *chunks) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_calibrate found;
    struct ft_model_info info;
    ft_model_info(setup->target, &info);
    struct ft_calibrate_params params = { .target = setup->target,
                                          .session = &setup->params,
                                          .id = chunks->tokens.id,
                                          .n_ctx = conf->n_ctx,
                                          .n_layer = info.n_layer,
                                          .average = conf->bits,
                                          .n_random = conf->n_try,
                                          .n_exchange = conf->n_try,
                                          .seed = setup->params.sampling.seed,
                                          .guard = ft_ui_guard,
                                          .tried = tried,
                                          .user = (void *)(uintptr_t)conf };
    ft_status status = ft_calibrate_run(&params, &found, &error);
    ft_progress_clear(&setup->progress);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    json_t *value = result_value(setup, chunks->text, chunks->n_text, &found);
    if (conf->is_json) {
        int code = save(setup, value);
        ft_json_print(value);
        return code;
    }
    ft_out("%s\n%.3f bits on average, KL %.5f (%.5f with the same bits everywhere), %u choices "
           "tried\n",
           found.kv_type, found.average, found.kl, found.kl_same, found.n_tried);
    int code = save(setup, value);
    json_decref(value);
    if (code == FT_EXIT_OK) {
        ft_out("kept: --kv-type calibrated uses it\n");
    }
    return code;
}

static int run_text(struct ft_setup *setup) {
    struct ft_chunks chunks;
    int code = ft_chunks_open(setup, 1, &chunks);
    if (code == FT_EXIT_OK) {
        code = check_kept(setup);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(setup, &chunks);
    }
    ft_chunks_done(&chunks);
    return code;
}

int ft_cmd_calibrate(const struct ft_conf *conf) {
    struct ft_setup setup = { 0 };
    int code = ft_setup_init(&setup, conf);
    setup.params.sampling.seed = conf->seed.is_drawn ? (uint64_t)ft_time_us() : conf->seed.value;
    if (code == FT_EXIT_OK && conf->n_arg > 0 && conf->file) {
        code = ft_complain(FT_EXIT_USAGE, "-f and records exclude each other: bits or a table");
    }
    if (code == FT_EXIT_OK) {
        code = conf->n_arg > 0 ? run_table(&setup) : run_text(&setup);
    }
    ft_setup_done(&setup);
    return code;
}
