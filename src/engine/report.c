/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what happened to a prompt: parameters as used, choices said aloud, kernels that
 * ran. */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

const char *ft_kernel_table(void) {
    return ft_kern()->name;
}

void ft_report_begin(ft_session *s, uint32_t n_prompt) {
    s->draft_work = (struct ft_work){ 0 };
    s->is_dense_chosen = false;
    s->report =
        (struct ft_report){ .n_prompt = n_prompt, .prompt_method = "dense", .kv_method = "dense" };
    const char *attend = ft_kern()->name;
    char prompt[80] = "ggml", step[80] = "ggml";
    if (!s->params.is_exact) {
        ft_model_ways(s->target, FT_CHUNK, prompt, sizeof prompt);
        ft_model_ways(s->target, 1, step, sizeof step);
    }
    snprintf(s->report.kernels, sizeof s->report.kernels, "attend=%s mass=%s prompt=%s step=%s",
             s->params.is_exact ? "stock" : attend, attend, prompt, step);
}

ft_status ft_report_fallback(ft_session *s, struct ft_error *err, const char *format, ...) {
    char text[sizeof s->report.fallback[0]];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (s->params.is_strict) {
        return ft_fail(err, FT_UNSUP, 0, "strict: %s", text);
    }
    for (uint32_t i = 0; i < s->report.n_fallback; i++) {
        if (!strcmp(s->report.fallback[i], text)) {
            return FT_OK; /* once is enough */
        }
    }
    if (s->report.n_fallback < FT_FALLBACK_CAP) {
        memcpy(s->report.fallback[s->report.n_fallback++], text, sizeof text);
    }
    ft_log(FT_LOG_INFO, "%s", text);
    return FT_OK;
}

ft_status ft_report_kernels(ft_session *s, struct ft_error *err) {
    const struct ft_kern *list[FT_KERN_MOST];
    const char *ignored = ft_kern_ignored();
    char names[64] = "";
    if (!ignored) {
        return FT_OK;
    }
    for (uint32_t i = 0, n = ft_kern_list(list); i < n; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, i ? ", %s" : "%s", list[i]->name);
    }
    return ft_report_fallback(s, err,
                              "FT_KERN=%.40s is no kernel variant of this machine (%s): using %s",
                              ignored, names, ft_kern()->name);
}

static void add_settings(ft_session *s, const struct ft_choice *choice, const char *stage,
                         const struct ft_facts *facts) {
    struct ft_report *report = &s->report;
    struct ft_setting setting;
    for (uint32_t i = 0; ft_choice_setting(choice, facts, i, &setting); i++) {
        if (report->n_setting < FT_SETTING_CAP) {
            snprintf(setting.stage, sizeof setting.stage, "%s", stage);
            report->setting[report->n_setting++] = setting;
        }
    }
}

/* The value of one setting, replaced where the run had to differ from what was asked. */
static void set_text(ft_session *s, const char *stage, const char *name, const char *value) {
    for (uint32_t i = 0; i < s->report.n_setting; i++) {
        struct ft_setting *setting = &s->report.setting[i];
        if (!strcmp(setting->stage, stage) && !strcmp(setting->name, name)) {
            snprintf(setting->value, sizeof setting->value, "%s", value);
        }
    }
}

static void set_value(ft_session *s, const char *stage, const char *name, uint32_t value) {
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    set_text(s, stage, name, text);
}

void ft_report_settings(ft_session *s) {
    const struct ft_plan *plan = &s->plan;
    struct ft_report *report = &s->report;
    struct ft_kv_shape shape = *ft_kv_shape_of(s->lane.kv);
    shape.n_aux = 0; /* of K and V alone: what the last prompt stored beside them is past */
    uint64_t token_bytes = ft_kv_token_bytes(&shape);
    ft_formats_text(s, report->kv_packing, sizeof report->kv_packing);
    report->kv_bytes_full = token_bytes * plan->n_prompt;
    report->n_kept = plan->n_input;
    report->n_kv_kept = plan->is_kv_on ? plan->kv_keep : plan->n_input;
    if (plan->is_prompt_on) {
        report->prompt_method = s->prompt.method->name;
        add_settings(s, &s->prompt, "prompt", &plan->prompt_facts);
        set_value(s, "prompt", "lookahead", plan->prompt_look.lookahead); /* where it has one */
    }
    if (plan->is_kv_on) {
        report->kv_method = s->kv.method->name;
        add_settings(s, &s->kv, "kv", &plan->kv_facts);
        if (plan->n_text + plan->n_trial > 0) { /* one of them is 0 */
            set_value(s, "kv", "lookahead", plan->n_text + plan->n_trial);
        }
        if (!plan->kv_look.is_compact) { /* where it has such a parameter */
            set_text(s, "kv", "positions", "original");
        }
    }
}
