/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - results as JSON, and the arrays of `score` read from JSON.
 *
 * Reading trusts nothing: duplicate keys and deep nesting are jansson's errors, and every list is
 * held against the shape that the first ones announced, with the key in the message.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ---- writing ---- */

static int put(const char *bytes, size_t n, void *user) {
    (void)user;
    ft_out_bytes(bytes, n);
    return 0;
}

void ft_json_print(json_t *value) {
    json_dump_callback(value, put, NULL, JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
    ft_out_bytes("\n", 1);
    json_decref(value);
}

json_t *ft_json_text(const char *text) {
    json_t *value = json_string(text);
    if (!value) {
        char *copy = ft_strdup(text);
        for (char *at = copy; at && *at != '\0'; at++) {
            *at = (unsigned char)*at < 0x80 ? *at : '?';
        }
        value = copy ? json_string(copy) : json_null();
        ft_free(copy);
    }
    return value;
}

json_t *ft_json_digest(const char *text) {
    struct ft_sha256 sha;
    char hex[65], line[80];
    ft_sha256_init(&sha);
    ft_sha256_add(&sha, text, strlen(text));
    ft_sha256_done(&sha, hex);
    snprintf(line, sizeof line, "sha256:%s", hex);
    return json_string(line);
}

json_t *ft_json_ms(int64_t us) {
    return json_real((double)us / 1000.0);
}

json_t *ft_json_model(const ft_model *model) {
    struct ft_model_info info;
    json_t *value = json_object();
    ft_model_info(model, &info);
    json_object_set_new(value, "path", ft_json_text(info.path));
    json_object_set_new(value, "name", ft_json_text(info.name));
    json_object_set_new(value, "arch", ft_json_text(info.arch));
    json_object_set_new(value, "file_type", ft_json_text(info.file_type));
    json_object_set_new(value, "file_bytes", json_integer((json_int_t)info.file_bytes));
    json_object_set_new(value, "tensor_bytes", json_integer((json_int_t)info.tensor_bytes));
    json_object_set_new(value, "repacked_bytes", json_integer((json_int_t)info.repacked_bytes));
    json_object_set_new(value, "n_param", json_integer((json_int_t)info.n_param));
    json_object_set_new(value, "n_layer", json_integer(info.n_layer));
    json_object_set_new(value, "n_ctx_train", json_integer(info.n_ctx_train));
    json_object_set_new(value, "fingerprint", ft_json_text(info.fingerprint));
    return value;
}

json_t *ft_json_setting(const struct ft_setting *setting) {
    double real;
    uint64_t whole;
    if (setting->is_number && ft_text_uint(setting->value, INT64_MAX, &whole)) {
        return json_integer((json_int_t)whole);
    }
    if (setting->is_number && ft_text_real(setting->value, &real) && isfinite(real)) {
        return json_real(real);
    }
    return ft_json_text(setting->value);
}

json_t *ft_json_method(const struct ft_report *report, const char *stage) {
    bool is_prompt = strcmp(stage, "prompt") == 0;
    const char *name = is_prompt ? report->prompt_method : report->kv_method;
    json_t *value = json_object();
    json_object_set_new(value, "name", ft_json_text(name ? name : "dense"));
    for (uint32_t i = 0; i < report->n_setting && i < FT_SETTING_CAP; i++) {
        if (strcmp(report->setting[i].stage, stage) == 0) {
            json_object_set_new(value, report->setting[i].name,
                                ft_json_setting(&report->setting[i]));
        }
    }
    if (json_object_get(value, "keep")) { /* "25%" and "64MiB" as what they were in this run */
        json_object_set_new(value, is_prompt ? "keep_tokens" : "keep_rows",
                            json_integer(is_prompt ? report->n_kept : report->n_kv_kept));
    }
    return value;
}

json_t *ft_json_fallbacks(const struct ft_report *report) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < report->n_fallback && i < FT_FALLBACK_CAP; i++) {
        json_array_append_new(list, ft_json_text(report->fallback[i]));
    }
    return list;
}

const char *ft_file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "attend=avx512 mass=avx512" -> {"attend":"avx512","mass":"avx512"}; anything else stays text. */
json_t *ft_json_kernels(const struct ft_report *report) {
    char name[sizeof report->kernels], kind[sizeof report->kernels];
    json_t *value = json_object();
    for (const char *at = report->kernels + strspn(report->kernels, " "); *at != '\0';) {
        size_t n = strcspn(at, " "), n_name = strcspn(at, "= ");
        if (n_name == n) {
            json_decref(value);
            return ft_json_text(report->kernels);
        }
        snprintf(name, sizeof name, "%.*s", (int)n_name, at);
        snprintf(kind, sizeof kind, "%.*s", (int)(n - n_name - 1), at + n_name + 1);
        json_object_set_new(value, name, ft_json_text(kind));
        at += n;
        at += strspn(at, " ");
    }
    return value;
}

json_t *ft_json_rates(const struct ft_rates *rates) {
    json_t *value = json_object();
    json_object_set_new(value, "n_layer", json_integer(rates->n_layer));
    json_object_set_new(value, "layer_weights", json_integer((json_int_t)rates->n_weight));
    json_object_set_new(value, "token_us", json_real(rates->token_us));
    json_object_set_new(value, "pass_us", json_real(rates->pass_us));
    json_object_set_new(value, "pair_ns",
                        json_pack("[f,f]", rates->pair_us[0] * 1e3, rates->pair_us[1] * 1e3));
    json_object_set_new(value, "pair_rows",
                        json_pack("[f,f]", rates->pair_row[0], rates->pair_row[1]));
    json_object_set_new(value, "step_us", json_real(rates->step_us));
    json_object_set_new(value, "row_ns", json_real(rates->row_us * 1e3));
    json_object_set_new(value, "head_us", json_real(rates->head_us));
    json_object_set_new(value, "measure_ms", ft_json_ms(rates->measure_us));
    return value;
}

static json_t *known_ms(bool is_known, int64_t us) {
    return is_known ? ft_json_ms(us) : json_null();
}

json_t *ft_json_auto(const struct ft_report *report) {
    const struct ft_auto *a = &report->automatic;
    json_t *value = json_object(), *ttft = json_object(), *answer = json_object();
    json_t *rates = json_null();
    bool is_known = a->is_measured;
    json_object_set_new(ttft, "dense",
                        known_ms(is_known || a->dense.ttft_us > 0, a->dense.ttft_us));
    json_object_set_new(ttft, "plan", known_ms(is_known, a->plan.ttft_us));
    json_object_set_new(ttft, "plan_draft", known_ms(is_known, a->plan.draft_us));
    json_object_set_new(ttft, "plan_target", known_ms(is_known, a->plan.target_us));
    json_object_set_new(answer, "dense", known_ms(is_known, a->dense.answer_us));
    json_object_set_new(answer, "plan", known_ms(is_known, a->plan.answer_us));
    if (is_known) {
        rates = json_object();
        json_object_set_new(rates, "target", ft_json_rates(&a->target));
        json_object_set_new(rates, "draft", ft_json_rates(&a->draft));
    }
    json_object_set_new(value, "chosen", ft_json_text(a->is_dense ? "dense" : "plan"));
    json_object_set_new(value, "text", ft_json_text(a->text));
    json_object_set_new(value, "measured", json_boolean(is_known));
    json_object_set_new(value, "expected_ms", ttft);
    json_object_set_new(value, "expected_answer_ms", answer);
    json_object_set_new(value, "happened_ms", ft_json_ms(report->ttft_us - a->measure_us));
    json_object_set_new(value, "measure_ms", ft_json_ms(a->measure_us));
    json_object_set_new(value, "rates", rates);
    return value;
}

/* ---- reading the arrays of `score` ---- */

/* key_before - the last "key": in front of a position, for messages of the JSON parser. */
static void key_before(const char *text, size_t at, char *out, size_t cap) {
    out[0] = '\0';
    while (at > 2) {
        at--;
        if (text[at] != ':' || text[at - 1] != '"') {
            continue;
        }
        size_t end = at - 1, start = end;
        while (start > 0 && text[start - 1] != '"') {
            start--;
        }
        if (start > 0 && end - start < cap - 8) {
            snprintf(out, cap, "in \"%.*s\":", (int)(end - start), text + start);
        }
        return;
    }
}

static ft_status fail(struct ft_error *error, ft_status code, const char *key, const char *format,
                      ...) __attribute__((format(printf, 4, 5)));
static ft_status fail(struct ft_error *error, ft_status code, const char *key, const char *format,
                      ...) {
    char text[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    error->code = code;
    error->where = 0;
    snprintf(error->text, sizeof error->text, "%.70s%s%s", key, text[0] == '[' ? "" : " ", text);
    return code;
}

/* list - value must be an array of n (0: any, at least one) elements. */
static ft_status list(const json_t *value, const char *key, size_t n, struct ft_error *error) {
    if (!value) {
        return fail(error, FT_FORMAT, key, "is missing");
    }
    if (!json_is_array(value)) {
        return fail(error, FT_FORMAT, key, "is no list");
    }
    size_t found = json_array_size(value);
    if (found == 0) {
        return fail(error, FT_FORMAT, key, "is empty");
    }
    if (n != 0 && found != n) {
        return fail(error, FT_FORMAT, key, "has %zu elements, expected %zu", found, n);
    }
    return FT_OK;
}

static ft_status count(const json_t *root, const char *key, json_int_t low, uint32_t *out,
                       struct ft_error *error) {
    const json_t *value = json_object_get(root, key);
    if (!value) {
        return fail(error, FT_FORMAT, key, "is missing");
    }
    if (!json_is_integer(value)) {
        return fail(error, FT_FORMAT, key, "is no whole number");
    }
    json_int_t number = json_integer_value(value);
    if (number < low || number > 1 << 24) {
        return fail(error, FT_FORMAT, key, "is %lld, expected %lld..%d", (long long)number,
                    (long long)low, 1 << 24);
    }
    *out = (uint32_t)number;
    return FT_OK;
}

static ft_status floats(const json_t *values, const char *key, size_t n, float *out,
                        struct ft_error *error) {
    FT_TRY(list(values, key, n, error));
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(values, i);
        char own[96];
        snprintf(own, sizeof own, "%.60s[%zu]", key, i);
        if (!json_is_number(value)) {
            return fail(error, FT_FORMAT, own, "is no number");
        }
        out[i] = (float)json_number_value(value);
        if (!isfinite(out[i])) {
            return fail(error, FT_FORMAT, own, "is %g, beyond a 32-bit float",
                        json_number_value(value));
        }
    }
    return FT_OK;
}

/* matrix - value[n_head][n_row][d] into one new block; 0 means "as found here" and is filled in. */
static ft_status matrix(const json_t *value, const char *key, uint32_t shape[3], const float **out,
                        struct ft_error *error) {
    char own[96];
    FT_TRY(list(value, key, shape[0], error));
    shape[0] = (uint32_t)json_array_size(value);
    for (size_t i = 0; i < shape[0];
         i++) { /* shapes first: nothing is allocated for a list that lies */
        const json_t *rows = json_array_get(value, i);
        snprintf(own, sizeof own, "%.60s[%zu]", key, i);
        FT_TRY(list(rows, own, shape[1], error));
        shape[1] = (uint32_t)json_array_size(rows);
        for (size_t r = 0; r < shape[1]; r++) {
            const json_t *row = json_array_get(rows, r);
            snprintf(own, sizeof own, "%.60s[%zu][%zu]", key, i, r);
            FT_TRY(list(row, own, shape[2], error));
            shape[2] = (uint32_t)json_array_size(row);
        }
    }
    size_t n_row = (size_t)shape[0] * shape[1], n;
    float *block = ft_size_mul(n_row, shape[2], &n) ? ft_alloc(n, sizeof *block) : NULL;
    if (!block) {
        return fail(error, FT_NOMEM, key, "does not fit in memory");
    }
    *out = block;
    for (size_t r = 0; r < n_row; r++) {
        const json_t *row = json_array_get(json_array_get(value, r / shape[1]), r % shape[1]);
        snprintf(own, sizeof own, "%.60s[%zu][%zu]", key, r / shape[1], r % shape[1]);
        FT_TRY(floats(row, own, shape[2], block + r * shape[2], error));
    }
    return FT_OK;
}

static ft_status layers(const json_t *root, struct ft_arrays *out, uint32_t n_row,
                        struct ft_error *error) {
    const json_t *value = json_object_get(root, "layers");
    uint32_t q_shape[3] = { 0, n_row, 0 }, k_shape[3] = { 0, n_row, 0 };
    char key[48];
    FT_TRY(list(value, "layers", 0, error));
    size_t n = json_array_size(value);
    out->layer = ft_alloc(n, sizeof *out->layer);
    if (!out->layer) {
        return fail(error, FT_NOMEM, "layers", "do not fit in memory");
    }
    out->in.n_layer = (uint32_t)n;
    for (size_t l = 0; l < n; l++) {
        const json_t *layer = json_array_get(value, l);
        snprintf(key, sizeof key, "layers[%zu]", l);
        if (!json_is_object(layer)) {
            return fail(error, FT_FORMAT, key, "is no object with q and k");
        }
        snprintf(key, sizeof key, "layers[%zu].q", l);
        FT_TRY(matrix(json_object_get(layer, "q"), key, q_shape, &out->layer[l].q, error));
        k_shape[1] = q_shape[1];
        k_shape[2] = q_shape[2];
        snprintf(key, sizeof key, "layers[%zu].k", l);
        FT_TRY(matrix(json_object_get(layer, "k"), key, k_shape, &out->layer[l].k, error));
        if (q_shape[0] % k_shape[0] != 0) {
            return fail(error, FT_FORMAT, key,
                        "has %u heads, which do not divide the %u heads of q", k_shape[0],
                        q_shape[0]);
        }
    }
    out->in.layer = out->layer;
    out->in.n_head = q_shape[0];
    out->in.n_head_kv = k_shape[0];
    out->in.d = q_shape[2];
    if (q_shape[1] < out->in.n_prompt) {
        return fail(error, FT_FORMAT, "layers[0].q", "has %u rows for n_prompt %u", q_shape[1],
                    out->in.n_prompt);
    }
    out->in.n_more = q_shape[1] - out->in.n_prompt;
    return FT_OK;
}

static ft_status scores_alone(const json_t *root, struct ft_arrays *out, struct ft_error *error) {
    const json_t *value = json_object_get(root, "score");
    if (json_object_get(root, "layers")) {
        return fail(error, FT_FORMAT, "score", "and layers exclude each other");
    }
    FT_TRY(list(value, "score", 0, error));
    size_t n = json_array_size(value);
    out->in.n_prompt = (uint32_t)n;
    if (json_object_get(root, "n_prompt")) {
        FT_TRY(count(root, "n_prompt", 1, &out->in.n_prompt, error));
    }
    out->score = ft_alloc(n, sizeof *out->score);
    if (!out->score) {
        return fail(error, FT_NOMEM, "score", "does not fit in memory");
    }
    out->in.score = out->score;
    FT_TRY(floats(value, "score", out->in.n_prompt, out->score, error));
    for (uint32_t i = 0; i < out->in.n_prompt; i++) {
        if (out->score[i] < 0) {
            return fail(error, FT_FORMAT, "score", "[%u] is %g, expected a number >= 0", i,
                        (double)out->score[i]);
        }
    }
    return FT_OK;
}

ft_status ft_arrays_parse(const char *text, size_t n, enum ft_stage stage, struct ft_arrays *out,
                          struct ft_error *error) {
    json_error_t where;
    uint32_t n_more = 0;
    ft_status status;
    *out = (struct ft_arrays){ .layer = NULL };
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        char key[64], place[128];
        key_before(text, FT_MIN((size_t)FT_MAX(where.position, 0), n), key, sizeof key);
        snprintf(place, sizeof place, "line %d column %d: %s", where.line, where.column, key);
        return fail(error, FT_FORMAT, place, "%.140s",
                    where.text[0] == ' ' ? where.text + 1 : where.text);
    }
    if (!json_is_object(root)) {
        status = fail(error, FT_FORMAT, "the text", "is no JSON object");
    } else if (stage == FT_STAGE_PROMPT && json_object_get(root, "score")) {
        status = scores_alone(root, out, error);
    } else {
        status = count(root, "n_prompt", 1, &out->in.n_prompt, error);
        if (status == FT_OK && stage == FT_STAGE_KV) {
            status = count(root, "n_lookahead", 0, &n_more, error);
        }
        if (status == FT_OK) {
            status = layers(root, out, stage == FT_STAGE_KV ? out->in.n_prompt + n_more : 0, error);
        }
    }
    json_decref(root);
    if (status != FT_OK) {
        ft_arrays_done(out);
    }
    return status;
}

void ft_arrays_done(struct ft_arrays *arrays) {
    for (uint32_t l = 0; arrays->layer && l < arrays->in.n_layer; l++) {
        ft_free((void *)(uintptr_t)arrays->layer[l].q);
        ft_free((void *)(uintptr_t)arrays->layer[l].k);
    }
    ft_free(arrays->layer);
    ft_free(arrays->score);
    *arrays = (struct ft_arrays){ .layer = NULL };
}

/* ---- writing scores ---- */

static json_t *real_list(const float *value, uint32_t n) {
    json_t *result = json_array();
    for (uint32_t i = 0; i < n; i++) {
        /* A NaN or an infinity has no JSON text; null says that there is no number. */
        json_array_append_new(result,
                              isfinite(value[i]) ? json_real((double)value[i]) : json_null());
    }
    return result;
}

static json_t *index_list(const uint32_t *value, uint32_t n) {
    json_t *result = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(result, json_integer(value[i]));
    }
    return result;
}

json_t *ft_json_scores(enum ft_stage stage, const struct ft_arrays *arrays,
                       const struct ft_score_output *out) {
    json_t *root = json_object();
    if (stage == FT_STAGE_PROMPT) {
        const struct ft_score_head *head = &out->head[0];
        json_object_set_new(root, "score", real_list(head->mass, head->n_mass));
        json_object_set_new(root, "pooled", real_list(head->pooled, head->n_mass));
        json_object_set_new(root, "kept", index_list(head->kept, head->n_kept));
        return root;
    }
    json_t *layer_list = json_array();
    for (uint32_t l = 0; l < arrays->in.n_layer; l++) {
        json_t *layer = json_object(), *heads = json_array();
        for (uint32_t h = 0; h < arrays->in.n_head_kv; h++) {
            const struct ft_score_head *head = &out->head[l * arrays->in.n_head_kv + h];
            json_t *entry = json_object();
            json_object_set_new(entry, "mass", real_list(head->mass, head->n_mass));
            json_object_set_new(entry, "pooled", real_list(head->pooled, head->n_mass));
            json_object_set_new(entry, "ranked", index_list(head->ranked, head->n_ranked));
            json_object_set_new(entry, "kept", index_list(head->kept, head->n_kept));
            json_array_append_new(heads, entry);
        }
        json_object_set_new(layer, "heads", heads);
        json_array_append_new(layer_list, layer);
    }
    json_object_set_new(root, "layers", layer_list);
    return root;
}
