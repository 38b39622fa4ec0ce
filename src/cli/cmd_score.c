/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_score.c - a method's own scoring and selection on the user's arrays. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { ARRAYS_MAX = 256 << 20 }; /* bytes of JSON; parsed it takes about ten times as much */

static int run(const struct ft_conf *conf, enum ft_stage stage, const char *spec) {
    struct ft_error error = { 0 };
    struct ft_arrays arrays = { .layer = NULL };
    struct ft_score_output output = { 0 };
    char *text = NULL;
    size_t n = 0;
    int code = ft_read_file(conf->arrays, ARRAYS_MAX, &text, &n);
    if (code != FT_EXIT_OK) {
        return code;
    }
    ft_status status = ft_arrays_parse(text, n, stage, &arrays, &error);
    free(text);
    if (status == FT_OK) {
        status = ft_score_arrays(stage, spec, &arrays.in, &output, &error);
    }
    if (status == FT_OK) {
        ft_json_print(ft_json_scores(stage, &arrays, &output));
    } else {
        code = ft_complain_error(conf->arrays, &error);
    }
    ft_score_free(&output);
    ft_arrays_done(&arrays);
    return code;
}

int ft_cmd_score(const struct ft_conf *conf) {
    bool has_prompt = conf->prompt.n > 0;
    if (!conf->arrays) {
        return ft_complain(FT_EXIT_USAGE, "which arrays? --arrays FILE is needed");
    }
    if (has_prompt == (conf->kv.n > 0)) {
        return ft_complain(FT_EXIT_USAGE,
                           "which method? one of --kv METHOD and --prompt METHOD is needed");
    }
    const struct ft_texts *specs = has_prompt ? &conf->prompt : &conf->kv;
    const char *spec = specs->text[specs->n - 1];
    enum ft_stage stage = has_prompt ? FT_STAGE_PROMPT : FT_STAGE_KV;
    const struct ft_method_info *info = NULL;
    if (ft_method_check(stage, spec, &info, NULL) != FT_OK || !info ||
        strcmp(info->name, "dense") == 0) {
        return ft_complain(FT_EXIT_USAGE,
                           "%s %s scores nothing; foretoken methods lists those that do",
                           has_prompt ? "--prompt" : "--kv", spec);
    }
    return run(conf, stage, spec);
}
