/* SPDX-License-Identifier: Apache-2.0 */
/* eval_texts.c - the texts, words and questions that samples of `foretoken eval` are made of. */
#include <stdlib.h>

#include "cli/suites.h"

static const char *const text_option[FT_EVAL_TEXTS] = { "haystack", "words", "squad", "hotpot" };

static const char *path_of(const struct ft_conf *conf, uint32_t i) {
    const char *const path[FT_EVAL_TEXTS] = { conf->haystack, conf->words, conf->squad,
                                              conf->hotpot };
    return path[i];
}

int ft_eval_texts_open(struct ft_eval_texts *texts, uint32_t n, struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ft_error error = { 0 };
    int code = FT_EXIT_OK;
    texts->n = n;
    for (uint32_t i = 0; i < n && code == FT_EXIT_OK; i++) {
        const char *path = path_of(conf, i);
        size_t n_byte;
        code = path ? ft_read_document(path, &texts->text[i], &n_byte) : FT_EXIT_OK;
    }
    const struct ft_ruler_params params = { .seed = eval->seed,
                                            .has_prefix = conf->answer_prefix == FT_PREFIX_ON,
                                            .haystack = texts->text[0],
                                            .words = texts->text[1],
                                            .squad = texts->text[2],
                                            .hotpot = texts->text[3],
                                            .count = ft_eval_count,
                                            .user = eval };
    if (code == FT_EXIT_OK && ft_ruler_new(&params, &texts->made, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    return code;
}

/* Names of files are told but not compared: what is in them is. */
void ft_eval_texts_describe(const struct ft_eval_texts *texts, const struct ft_conf *conf,
                            json_t *manifest, json_t *files) {
    static const char *const made[FT_EVAL_TEXTS] = { "synthetic haystack", "generated words",
                                                     "synthetic questions",
                                                     "synthetic two-hop questions" };
    json_object_set_new(manifest, "answer_prefix",
                        json_boolean(conf->answer_prefix == FT_PREFIX_ON));
    for (uint32_t i = 0; i < texts->n; i++) {
        const char *path = path_of(conf, i);
        json_object_set_new(manifest, text_option[i],
                            texts->text[i] ? ft_json_digest(texts->text[i]) : json_string(made[i]));
        json_object_set_new(files, text_option[i],
                            path ? ft_json_text(ft_file_name(path)) : json_null());
    }
}

void ft_eval_texts_close(struct ft_eval_texts *texts) {
    ft_ruler_free(texts->made);
    for (uint32_t i = 0; i < texts->n; i++) {
        free(texts->text[i]);
    }
}
