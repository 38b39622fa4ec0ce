/* SPDX-License-Identifier: Apache-2.0 */
/* explain.c - a prompt as HTML, every token shaded by its importance and marked kept or dropped, so
 * that a person can look at what a method threw away.
 */
#include <stdio.h>
#include <string.h>

#include "eval/eval.h"

enum { SHADES = 10, PIECE_CAP = 4096 };

/* ---- what a run did ---- */

/* Rows of the KV stage are positions; with positions=compact those count the tokens that were read. */
static bool is_compact(const struct ft_report *report) {
    for (uint32_t i = 0; i < report->n_setting; i++) {
        const struct ft_setting *setting = &report->setting[i];
        if (strcmp(setting->stage, "prompt") == 0 && strcmp(setting->name, "positions") == 0) {
            return strcmp(setting->value, "compact") == 0;
        }
    }
    return true;
}

/* The last token is fed again behind the rows that stay, or is one of them: it is always there. */
static void count_rows(const ft_session *session, const struct ft_model_info *info,
                       const uint32_t *read, uint32_t n_read, bool is_read_order,
                       struct ft_explain_view *view) {
    float pairs = (float)(info->n_layer * info->n_head_kv);
    for (uint32_t l = 0; l < info->n_layer; l++) {
        for (uint32_t h = 0; h < info->n_head_kv; h++) {
            const uint32_t *at = NULL;
            uint32_t n = ft_session_kept(session, FT_STAGE_KV, l, h, &at);
            for (uint32_t i = 0; i < n; i++) {
                ft_assert(!is_read_order || at[i] < n_read);
                view->weight[is_read_order ? read[at[i]] : at[i]] += 1 / pairs;
            }
        }
    }
    view->weight[read[n_read - 1]] = 1;
    for (uint32_t i = 0; i < n_read; i++) {
        view->is_kept[read[i]] = view->weight[read[i]] > 0;
    }
}

static void take_scores(const ft_session *session, struct ft_explain_view *view) {
    const float *score = NULL;
    float most = 0;
    uint32_t n = ft_session_scores(session, &score);
    for (uint32_t t = 0; t < n; t++) {
        most = score[t] > most ? score[t] : most;
    }
    for (uint32_t t = 0; t < n && most > 0; t++) {
        view->weight[t] = score[t] > 0 ? score[t] / most : 0;
    }
}

static void look_at(const ft_session *session, const ft_model *target, uint32_t n,
                    struct ft_explain_view *view) {
    const struct ft_report *report = &view->report;
    struct ft_model_info info;
    const uint32_t *read = NULL;
    uint32_t n_read = ft_session_kept(session, FT_STAGE_PROMPT, 0, 0, &read);
    ft_model_info(target, &info);
    view->is_score =
        strcmp(report->kv_method, "dense") == 0 && strcmp(report->prompt_method, "dense") != 0;
    if (view->is_score) {
        take_scores(session, view);
        for (uint32_t i = 0; i < n_read; i++) {
            view->is_kept[read[i]] = true;
        }
    } else {
        count_rows(session, &info, read, n_read, is_compact(report), view);
    }
    for (uint32_t t = 0; t < n; t++) {
        view->n_kept += view->is_kept[t];
    }
}

static ft_status run_case(const struct ft_explain_params *params, const struct ft_bench_case *c,
                          struct ft_explain_view *view, struct ft_error *error) {
    struct ft_session_params own = *params->session;
    ft_session *session = NULL;
    own.prompt = c->prompt;
    own.kv = c->kv;
    view->label = c->label;
    view->weight = ft_alloc(params->n, sizeof *view->weight);
    view->is_kept = ft_alloc(params->n, sizeof *view->is_kept);
    if (!view->weight || !view->is_kept) {
        return ft_fail(error, FT_NOMEM, 0, "no memory to look at %u tokens", params->n);
    }
    FT_TRY(ft_session_new(params->target, params->draft, &own, &session, error));
    params->guard(session);
    ft_status status = ft_session_prompt(session, params->id, params->n, params->n_head, error);
    if (status == FT_OK) {
        ft_session_report(session, &view->report);
        look_at(session, params->target, params->n, view);
    }
    params->guard(NULL);
    ft_session_free(session);
    return status;
}

ft_status ft_explain_run(const struct ft_explain_params *params, struct ft_explain_view *view,
                         struct ft_error *error) {
    for (uint32_t i = 0; i < params->n_case; i++) {
        params->step(i, params->n_case, params->cases[i].label, params->user);
        FT_TRY(run_case(params, &params->cases[i], &view[i], error));
    }
    return FT_OK;
}

void ft_explain_done(struct ft_explain_view *view, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        ft_free(view[i].weight);
        ft_free(view[i].is_kept);
    }
}

/* ---- the page ---- */

static const char style[] = "pre{font:inherit;white-space:pre-wrap;overflow-wrap:anywhere}\n"
                            "code{font-size:.9em}\n"
                            "s{opacity:.55;text-decoration-thickness:1px}\n";

/* One hue, lighter for less: it reads on white and on black, and in grey. */
static void put_shades(struct ft_save *save) {
    for (int i = 0; i < SHADES; i++) {
        ft_save_print(save, ".w%d{background:rgba(224,112,47,%.2f)}\n", i, i * 0.075);
    }
}

static void put_legend(struct ft_save *save, const char *what) {
    ft_save_print(save, "<p>%s: ", what);
    for (int i = 0; i < SHADES; i++) {
        ft_save_print(save, "<span class=\"w%d\">&nbsp;%d&ndash;%d&nbsp;%%</span>", i,
                      i * 100 / SHADES, (i + 1) * 100 / SHADES);
    }
    ft_save_print(save, " <s>dropped</s></p>\n");
}

static void put_summary(struct ft_save *save, const struct ft_explain_view *view) {
    const struct ft_report *r = &view->report;
    ft_save_print(save, "<h2><code>");
    ft_save_text(save, view->label, strlen(view->label));
    ft_save_print(save,
                  "</code></h2>\n<p>%u of %u tokens stay. The target read %u of them; KV %.1f of "
                  "%.1f MiB.</p>\n",
                  view->n_kept, r->n_prompt, r->n_kept, (double)r->kv_bytes / 1048576,
                  (double)r->kv_bytes_full / 1048576);
    for (uint32_t i = 0; i < r->n_fallback && i < FT_FALLBACK_CAP; i++) {
        ft_save_print(save, "<p>Fallback: ");
        ft_save_text(save, r->fallback[i], strlen(r->fallback[i]));
        ft_save_print(save, "</p>\n");
    }
    put_legend(save, view->is_score ? "Score, as a share of the largest"
                                    : "Share of the heads (of every layer) that hold the token");
}

/* Tokens that share a character are one piece of text, as dark as the darkest, kept if one is; the
 * tooltip counts them. */
struct span {
    char text[PIECE_CAP];
    size_t n;
    uint32_t first, last, n_kept;
    float weight;
};

static void put_span(struct ft_save *save, const struct span *span) {
    int shade = (int)(span->weight * SHADES);
    const char *tag = span->n_kept > 0 ? "span" : "s";
    ft_save_print(save, "<%s class=\"w%d\" title=\"token %u", tag,
                  FT_MIN(FT_MAX(shade, 0), SHADES - 1), span->first);
    if (span->last > span->first) {
        ft_save_print(save, " to %u, %u of %u kept", span->last, span->n_kept,
                      span->last - span->first + 1);
    }
    ft_save_print(save, ": %.0f %%\">", (double)span->weight * 100);
    ft_save_text(save, span->text, span->n);
    ft_save_print(save, "</%s>", tag);
}

static void put_tokens(struct ft_save *save, const struct ft_explain_params *params,
                       const struct ft_explain_view *view) {
    struct span span = { .n = 0 };
    bool is_open = false;
    ft_save_print(save, "<pre>");
    for (uint32_t t = 0; t < params->n; t++) {
        if (!is_open) {
            span = (struct span){ .first = t };
        }
        size_t room = sizeof span.text - span.n,
               n = ft_token_piece(params->target, params->id[t], true, span.text + span.n, room);
        span.n += n <= room ? n : 0;
        span.last = t;
        span.weight = view->weight[t] > span.weight ? view->weight[t] : span.weight;
        span.n_kept += view->is_kept[t];
        is_open = ft_utf8_tail(span.text, span.n) > 0 && t + 1 < params->n;
        if (!is_open) {
            put_span(save, &span);
        }
    }
    ft_save_print(save, "</pre>\n");
}

ft_status ft_explain_save(const struct ft_explain_params *params,
                          const struct ft_explain_view *view, const char *title,
                          struct ft_save *save, struct ft_error *error) {
    ft_page_begin(save);
    ft_save_print(save, "%s", style);
    put_shades(save);
    ft_page_title(save, title);
    for (uint32_t i = 0; i < params->n_case; i++) {
        put_summary(save, &view[i]);
        put_tokens(save, params, &view[i]);
    }
    ft_page_end(save);
    return ft_save_done(save, true, error);
}
