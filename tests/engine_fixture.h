/* SPDX-License-Identifier: Apache-2.0 */
/* engine_fixture.h - models, sessions and comparisons for the tests of the engine. */
#ifndef FT_TESTS_ENGINE_FIXTURE_H
#define FT_TESTS_ENGINE_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "score_oracle.h"

/* ---- models ---- */

static inline ft_model *model_at(const char *path, enum ft_load load) {
    struct ft_error err = { .code = FT_OK };
    ft_model *model = NULL;
    if (ft_model_open(path, load, &model, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

/* A generated model: scratch/NAME.gguf, made by mkmodel with these arguments. */
static inline ft_model *model_made(const char *name, const char *arguments, enum ft_load load) {
    char path[512], command[1536];
    snprintf(path, sizeof(path), "%s/%s.gguf", FT_TEST_SCRATCH_DIR, name);
    snprintf(command, sizeof(command), "'%s/mkmodel' '%s' %s >/dev/null", FT_TEST_BIN_DIR, path,
             arguments);
    assert_int_equal(system(command), 0);
    return model_at(path, load);
}

/* which: "target" or "draft" of the shipped pair */
static inline ft_model *model_shipped(const char *which) {
    char path[512];
    snprintf(path, sizeof(path), "%s/models/foretoken-%s-f16.gguf", FT_TEST_SOURCE_DIR, which);
    return model_at(path, FT_LOAD_FULL);
}

/* ---- sessions ---- */

static inline ft_session *session_made(const ft_model *target, const ft_model *draft,
                                       const struct ft_session_params *params) {
    struct ft_error err = { .code = FT_OK };
    ft_session *session = NULL;
    if (ft_session_new(target, draft, params, &session, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return session;
}

static inline void prompt_read(ft_session *session, const ft_token *id, uint32_t n) {
    struct ft_error err = { .code = FT_OK };
    if (ft_session_prompt(session, id, n, 0, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
}

static inline void tokens_drawn(ft_session *session, ft_token *id, uint32_t n) {
    struct ft_error err = { .code = FT_OK };
    for (uint32_t t = 0; t < n; t++) {
        if (ft_session_next(session, &id[t], &err) != FT_OK) {
            fail_msg("token %u: %s", t, err.text);
        }
    }
}

static inline struct ft_report *report_of(const ft_session *session, struct ft_report *report) {
    ft_session_report(session, report);
    return report;
}

static inline bool report_says(const ft_session *session, const char *text) {
    struct ft_report report;
    ft_session_report(session, &report);
    for (uint32_t i = 0; i < report.n_fallback; i++) {
        if (strstr(report.fallback[i], text)) {
            return true;
        }
    }
    return false;
}

/* Ordinary ids of a generated vocabulary (its last four are special), or of the shipped one. */
static inline void ids_random(ft_token *id, uint32_t n, const ft_model *model, uint64_t seed) {
    struct ft_model_info info;
    ft_model_info(model, &info);
    for (uint32_t t = 0; t < n; t++) {
        id[t] = (ft_token)oracle_below(&seed, info.n_vocab_real - 4);
    }
}

/* ---- comparisons ---- */

static inline void assert_same_bits(const char *what, const float *got, const float *want,
                                    size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof(*got)) != 0) {
            fail_msg("%s: [%zu] got %.9g want %.9g", what, i, (double)got[i], (double)want[i]);
        }
    }
}

static inline double log_sum_exp(const float *row, uint32_t n) {
    double max = (double)row[0], sum = 0;
    for (uint32_t t = 1; t < n; t++) {
        max = fmax(max, (double)row[t]);
    }
    for (uint32_t t = 0; t < n; t++) {
        sum += exp((double)row[t] - max);
    }
    return max + log(sum);
}

/* largest |delta log p| of two rows of logits */
static inline double logp_distance(const float *a, const float *b, uint32_t n) {
    double shift = log_sum_exp(a, n) - log_sum_exp(b, n), worst = 0;
    for (uint32_t t = 0; t < n; t++) {
        worst = fmax(worst, fabs((double)a[t] - (double)b[t] - shift));
    }
    return worst;
}

static inline uint32_t n_vocab_of(const ft_session *session) {
    return session->lane.hp->n_vocab;
}

/* A copy of the session's logits; the caller frees it with test_free. */
static inline float *logits_copy(const ft_session *session) {
    const float *logits = ft_session_logits(session);
    assert_non_null(logits);
    float *copy = test_malloc(n_vocab_of(session) * sizeof(*copy));
    memcpy(copy, logits, n_vocab_of(session) * sizeof(*copy));
    return copy;
}

#endif
