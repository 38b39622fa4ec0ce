/* SPDX-License-Identifier: Apache-2.0 */
/* methods.c - the catalogue of methods as the public interface shows it: everything as text. */
#include <pthread.h>
#include <stdio.h>

#include "score/score.h"

/* The texts are derived from the descriptors once; afterwards they are only read. */
enum { METHOD_CAP = 32, PARAM_CAP = 256, RANGE_CAP = 64 };

static struct {
    pthread_once_t once;
    struct ft_method_info method[METHOD_CAP];
    struct ft_param_info param[PARAM_CAP];
    char range[PARAM_CAP][RANGE_CAP];
} told = { .once = PTHREAD_ONCE_INIT };

static const char *type_text(enum ft_param_type type) {
    static const char *const texts[] = {
        [FT_UINT] = "number", [FT_KEEP] = "amount", [FT_CHOICE] = "choice"
    };
    return texts[type];
}

static void tell(void) {
    uint32_t at = 0;
    ft_assert(ft_catalogue_count() <= METHOD_CAP);
    for (uint32_t i = 0; i < ft_catalogue_count(); i++) {
        const struct ft_method *method = ft_catalogue(i);
        struct ft_method_info *info = &told.method[i];
        *info = (struct ft_method_info){
            .name = method->name,
            .title = method->title,
            .paper = method->paper,
            .file = method->file,
            .stage = method->act == FT_PROMPT ? FT_STAGE_PROMPT : FT_STAGE_KV,
            .needs_draft = method->needs_draft,
            .needs_draft_text = method->needs_draft_text,
            .param = &told.param[at],
        };
        const struct ft_param *p;
        for (uint32_t j = 0; (p = ft_method_param(method, j)) != NULL; j++, at++) {
            ft_assert(at < PARAM_CAP);
            ft_param_range(p, told.range[at], RANGE_CAP);
            told.param[at] = (struct ft_param_info){
                .name = p->name,
                .type = type_text(p->type),
                .initial = p->initial != NULL ? p->initial : p->unset,
                .range = told.range[at],
                .help = p->help,
            };
            info->n_param++;
        }
    }
}

uint32_t ft_method_count(void) {
    return ft_catalogue_count();
}

const struct ft_method_info *ft_method_info(uint32_t index) {
    (void)pthread_once(&told.once, tell);
    return index < ft_catalogue_count() ? &told.method[index] : NULL;
}

bool ft_method_setting(enum ft_stage stage, const char *spec, uint32_t index,
                       struct ft_setting *out) {
    struct ft_choice choice;
    if (ft_choice_parse(stage, spec, &choice, NULL) != FT_OK) {
        return false;
    }
    bool is_there = ft_choice_setting(&choice, NULL, index, out);
    ft_choice_done(&choice);
    return is_there;
}

ft_status ft_method_check(enum ft_stage stage, const char *spec, const struct ft_method_info **info,
                          struct ft_error *err) {
    struct ft_choice choice;
    FT_TRY(ft_choice_parse(stage, spec, &choice, err));
    for (uint32_t i = 0; info != NULL && i < ft_catalogue_count(); i++) {
        if (ft_catalogue(i) == choice.method) {
            *info = ft_method_info(i);
        }
    }
    ft_choice_done(&choice);
    return FT_OK;
}
