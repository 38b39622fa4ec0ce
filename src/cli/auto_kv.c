/* SPDX-License-Identifier: Apache-2.0 */
/* auto_kv.c - --kv auto:bytes=N: which method, how many rows and in which format, for one prompt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "eval/kv_table.h"

bool ft_auto_kv_is_asked(const struct ft_conf *conf) {
    return conf->kv.n > 0 && strncmp(conf->kv.text[conf->kv.n - 1], "auto", 4) == 0;
}

/* Bytes that dense f16 rows of the prompt take. */
static ft_status dense_bytes(const struct ft_setup *setup, uint32_t n_prompt, uint64_t *out,
                             struct ft_error *error) {
    struct ft_session_params params = setup->params;
    struct ft_estimate estimate;
    params.prompt = params.kv = params.kv_type = NULL;
    params.is_auto = false;
    FT_TRY(ft_estimate(setup->target, NULL, &params, n_prompt, &estimate, error));
    *out = estimate.kv_bytes;
    return FT_OK;
}

/* Without measurements: the paper's way of drafting where there is a draft, and rows and bits
 * together. */
static bool by_rule(bool has_draft, const char *bytes, const char *because,
                    struct ft_auto_kv *out) {
    snprintf(out->kv_type, sizeof out->kv_type, "joint");
    snprintf(out->why, sizeof out->why,
             "%s; so %s, and bits by how much of the prompt the bytes are", because,
             has_draft ? "speckv, as there is a draft" : "snapkv, as there is no draft");
    return ft_kv_spec_keep(has_draft ? "speckv" : "snapkv", bytes, out->kv, sizeof out->kv);
}

static int choose(const struct ft_setup *setup, uint32_t n_prompt, const char *bytes, double share,
                  json_t *table, struct ft_auto_kv *out) {
    struct ft_kv_pick pick;
    bool has_draft = setup->draft != NULL, is_room = true;
    if (!json_is_array(table)) {
        is_room = by_rule(has_draft, bytes,
                          "nothing was measured of this model (foretoken calibrate -m MODEL "
                          "RECORD... keeps what was)",
                          out);
    } else if (!ft_kv_table_pick(table, n_prompt, share, has_draft, &pick)) {
        char because[96];
        snprintf(because, sizeof because,
                 "nothing was measured with as little as %.2f %% of dense bytes", 100 * share);
        is_room = by_rule(has_draft, bytes, because, out);
    } else {
        bool is_dense = strcmp(pick.kv, "dense") == 0;
        snprintf(out->kv_type, sizeof out->kv_type, "%s", pick.kv_type);
        snprintf(
            out->why, sizeof out->why,
            "scored %.1f [%.1f, %.1f] at %u tokens with %.2f %% of dense bytes, %u samples; best "
            "of %u measured that fit %.2f %%",
            pick.score, pick.low, pick.high, pick.ctx, 100 * pick.share, pick.samples, pick.n_fit,
            100 * share);
        is_room = ft_kv_spec_keep(pick.kv, is_dense ? NULL : bytes, out->kv, sizeof out->kv);
    }
    return is_room ? FT_EXIT_OK
                   : ft_complain(FT_EXIT_FAILED, "--kv auto: the method's text is too long");
}

int ft_auto_kv_choose(struct ft_setup *setup, uint32_t n_prompt, struct ft_auto_kv *out) {
    const struct ft_conf *conf = setup->conf;
    const char *spec = conf->kv.text[conf->kv.n - 1];
    static const char head[] = "auto:bytes=";
    struct ft_error error = { 0 };
    uint64_t bytes = 0, dense = 0;
    json_t *table = NULL;
    *out = (struct ft_auto_kv){ .is_on = true };
    if (strncmp(spec, head, sizeof head - 1) != 0 ||
        !ft_text_bytes(spec + sizeof head - 1, &bytes)) {
        return ft_complain(FT_EXIT_USAGE,
                           "--kv is \"%.60s\", expected auto:bytes=64MiB or the like", spec);
    }
    if (conf->kv_type || conf->is_exact) {
        return ft_complain(FT_EXIT_USAGE, "--kv auto chooses the format of rows: leave %s out",
                           conf->kv_type ? "--kv-type" : "--exact");
    }
    if (dense_bytes(setup, n_prompt, &dense, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    double share = (double)bytes / (double)FT_MAX(dense, 1);
    int code = FT_EXIT_OK;
    if (bytes >= dense) {
        snprintf(out->kv, sizeof out->kv, "dense");
        snprintf(out->kv_type, sizeof out->kv_type, "f16");
        snprintf(out->why, sizeof out->why, "all rows fit");
    } else {
        code = ft_calibration_table(conf->model, setup->target, &table);
        if (code == FT_EXIT_OK) {
            code = choose(setup, n_prompt, spec + sizeof head - 1, share, table, out);
        }
        json_decref(table);
    }
    if (code == FT_EXIT_OK) {
        const struct ft_method_info *info = NULL;
        bool is_known = ft_method_check(FT_STAGE_KV, out->kv, &info, NULL) == FT_OK && info;
        setup->needs_draft = setup->needs_draft || (is_known && info->needs_draft);
        setup->params.kv = out->kv;
        setup->params.kv_type = out->kv_type;
    }
    return code;
}
