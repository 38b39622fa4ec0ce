/* SPDX-License-Identifier: Apache-2.0 */
/* prop_keep.c - what must hold for any scores: ranking, retention, pooling, SpecPC's selection.
 *
 *     prop_keep [-s SEED] [-i CASE] [-n CASES]     -i replays one case
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "score/score.h"
#include "score_oracle.h"

enum { N_MAX = 400 };

static uint64_t seed = 1;
static uint32_t case_now;

static _Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void broken(const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "prop_keep: ");
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, "\nreplay: prop_keep -s %llu -i %u\n", (unsigned long long)seed,
                  case_now);
    exit(1);
}

/* Scores >= 0 of several kinds: smooth, few levels (many ties), sparse, all equal, with NaN. */
static void scores_fill(uint64_t *rng, float *s, uint32_t n) {
    uint32_t kind = oracle_below(rng, 5), levels = 2 + oracle_below(rng, 6);
    for (uint32_t i = 0; i < n; i++) {
        float x = (oracle_real(rng) + 1) / 2;
        bool is_rare = oracle_below(rng, 10) == 0;
        switch (kind) {
        case 0:
            s[i] = x;
            break;
        case 1:
            s[i] = (float)oracle_below(rng, levels);
            break;
        case 2:
            s[i] = is_rare ? x : 0;
            break;
        case 3:
            s[i] = 0.5F;
            break;
        default:
            s[i] = is_rare ? NAN : x;
        }
    }
}

/* Element a stays before element b. */
static bool is_before(const float *s, uint32_t a, uint32_t b) {
    if (isnan(s[a]) != isnan(s[b])) {
        return isnan(s[b]);
    }
    if (!isnan(s[a]) && s[a] != s[b]) {
        return s[a] > s[b];
    }
    return a < b;
}

static void ascending_check(const char *what, const uint32_t *list, uint32_t count, uint32_t n) {
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] >= n || (i > 0 && list[i] <= list[i - 1])) {
            broken("%s: entry %u is %u after %u, n %u", what, i, list[i], i > 0 ? list[i - 1] : 0,
                   n);
        }
    }
}

/* The ranking is the unique best-first order, cut at k: a longer one begins with a shorter one. */
static void rank_check(uint64_t *rng) {
    float s[N_MAX];
    uint32_t n = 1 + oracle_below(rng, N_MAX), k = oracle_below(rng, n + 3);
    uint32_t work[N_MAX], out[N_MAX], all[N_MAX];
    scores_fill(rng, s, n);
    uint32_t count = ft_keep_rank(s, n, k, work, out);
    if (count != FT_MIN(k, n)) {
        broken("rank: n %u k %u gave %u", n, k, count);
    }
    if (ft_keep_rank(s, n, n, work, all) != n) {
        broken("rank: all %u are fewer", n);
    }
    for (uint32_t i = 1; i < n; i++) {
        if (!is_before(s, all[i - 1], all[i])) {
            broken("rank: %u stands before %u", all[i - 1], all[i]);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (out[i] != all[i]) {
            broken("rank: k %u entry %u is %u, of all %u", k, i, out[i], all[i]);
        }
    }
}

/* SpecKV keeps C - w distinct candidates and the window, never the row that is fed again. */
static void retain_check(uint64_t *rng) {
    float s[N_MAX];
    uint32_t work[N_MAX], ranked[N_MAX], kept[N_MAX];
    uint32_t w = 1 + oracle_below(rng, 20), n = w + 2 + oracle_below(rng, N_MAX - w - 1);
    uint32_t keep = w + 1 + oracle_below(rng, n - w - 1);
    struct ft_look look = { .window = w, .refeed = 1 };
    struct ft_budget budget = { .keep = keep, .n_prompt = n };
    uint32_t n_row = n - w - 1, chosen = keep - w;
    budget.n_rank = chosen + oracle_below(rng, n_row - chosen + 1); /* columns may want more */
    scores_fill(rng, s, n_row);
    (void)ft_keep_rank(s, n_row, budget.n_rank, work, ranked);
    uint32_t count = ft_keep_retain(ranked, &look, &budget, kept);
    if (count != keep) {
        broken("retain: n %u keep %u w %u gave %u", n, keep, w, count);
    }
    ascending_check("retain", kept, count, n - 1);
    for (uint32_t i = 0; i < w; i++) {
        if (kept[chosen + i] != n_row + i) {
            broken("retain: window entry %u is %u", i, kept[chosen + i]);
        }
    }
    for (uint32_t i = 0, at = 0; i < n_row; i++) { /* no dropped row beats the last chosen one */
        if (at < chosen && kept[at] == i) {
            at++;
        } else if (is_before(s, i, ranked[chosen - 1])) {
            broken("retain: row %u was dropped, row %u kept", i, ranked[chosen - 1]);
        }
    }
    /* Keep of keep: ranking the survivors alone with the same budget changes nothing. */
    float left[N_MAX];
    uint32_t again[N_MAX];
    for (uint32_t i = 0; i < chosen; i++) {
        left[i] = s[kept[i]];
    }
    (void)ft_keep_rank(left, chosen, chosen, work, again);
    for (uint32_t i = 0; i < chosen; i++) {
        if (kept[again[i]] != ranked[i]) {
            broken("keep of keep: entry %u is %u, was %u", i, kept[again[i]], ranked[i]);
        }
    }
}

static struct ft_choice specpc_new(uint32_t keep, uint32_t w, uint32_t k, uint32_t nb) {
    struct ft_choice choice;
    struct ft_error err;
    char spec[128];
    (void)snprintf(spec, sizeof(spec), "specpc:keep=%u,window=%u,kernel=%u,neighbors=%u", keep, w,
                   k, nb);
    if (ft_choice_parse(FT_STAGE_PROMPT, spec, &choice, &err) != FT_OK) {
        broken("%s: %s", spec, err.text);
    }
    return choice;
}

/* SpecPC: ascending, min(C, n) long, with the window and what must stay; equal to the naive one. */
static void select_check(uint64_t *rng) {
    float s[N_MAX], pooled[N_MAX];
    double wide[N_MAX];
    uint32_t work[2 * N_MAX], kept[N_MAX], want[N_MAX], must[8];
    uint32_t w = 1 + oracle_below(rng, 20), n = w + oracle_below(rng, N_MAX - w + 1);
    uint32_t keep = w + 8 + 1 + oracle_below(rng, N_MAX), n_must = 0;
    uint32_t k = 1 + oracle_below(rng, 40), nb = oracle_below(rng, 40);
    struct ft_choice choice = specpc_new(keep, w, k, nb);
    for (uint32_t j = 0; j < n && n_must < FT_COUNT(must); j++) {
        if (oracle_below(rng, 30) == 0) {
            must[n_must++] = j;
        }
    }
    struct ft_budget budget = { .keep = keep, .n_prompt = n, .must = must, .n_must = n_must };
    scores_fill(rng, s, n);
    struct ft_evidence evidence = { .n_row = n, .mass = s };
    choice.method->score(&evidence, choice.params, pooled);
    uint32_t count = choice.method->keep(pooled, choice.params, &budget, work, kept);
    if (count != FT_MIN(keep, n)) {
        broken("select: n %u keep %u gave %u", n, keep, count);
    }
    ascending_check("select", kept, count, n);
    for (uint32_t i = 0; i < w; i++) {
        if (kept[count - 1 - i] != n - 1 - i) {
            broken("select: window token %u is missing", n - 1 - i);
        }
    }
    for (uint32_t j = 0; j < n; j++) {
        wide[j] = (double)pooled[j];
        if (!(wide[j] >= 0)) {
            wide[j] = -1; /* NaN ranks last */
        }
    }
    uint32_t n_want = oracle_select(wide, n, keep, w, nb, must, n_must, want);
    for (uint32_t i = 0; i < count; i++) {
        if (n_want != count || kept[i] != want[i]) {
            broken("select: entry %u is %u, want %u (n %u keep %u w %u k %u nb %u)", i, kept[i],
                   want[i], n, keep, w, k, nb);
        }
    }
    for (uint32_t i = 0, at = 0; i < n_must; i++) {
        while (at < count && kept[at] < must[i]) {
            at++;
        }
        if (at == count || kept[at] != must[i]) {
            broken("select: token %u must stay and is missing", must[i]);
        }
    }
    ft_choice_done(&choice);
}

/* Pooling keeps the maximum, never falls below the input, and is monotone. */
static void pool_check(uint64_t *rng) {
    float s[N_MAX], pooled[N_MAX], more[N_MAX], raised[N_MAX];
    uint32_t n = 1 + oracle_below(rng, N_MAX), k = 1 + oracle_below(rng, 70);
    for (uint32_t i = 0; i < n; i++) {
        s[i] = oracle_real(rng) + 1;
    }
    memcpy(more, s, n * sizeof(*s));
    more[oracle_below(rng, n)] += 1;
    ft_pool(s, n, k, true, pooled);
    ft_pool(more, n, k, true, raised);
    float top = 0, top_pooled = 0;
    for (uint32_t i = 0; i < n; i++) {
        top = FT_MAX(top, s[i]);
        top_pooled = FT_MAX(top_pooled, pooled[i]);
        if (pooled[i] < s[i] || raised[i] < pooled[i]) {
            broken("pool: n %u k %u element %u: %g of %g, raised %g", n, k, i, (double)pooled[i],
                   (double)s[i], (double)raised[i]);
        }
    }
    if (top != top_pooled) {
        broken("pool: n %u k %u: maximum %g became %g", n, k, (double)top, (double)top_pooled);
    }
}

static void run(uint32_t index) {
    static void (*const checks[])(uint64_t *) = { rank_check, retain_check, select_check,
                                                  pool_check };
    uint64_t rng = seed * UINT64_C(0x9E3779B97F4A7C15) + index;
    case_now = index;
    checks[index % FT_COUNT(checks)](&rng);
}

int main(int argc, char **argv) {
    unsigned long first = 0, count = 4000;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long value = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "-s") == 0) {
            seed = value;
        } else if (strcmp(argv[i], "-i") == 0) {
            first = value;
            count = 1;
        } else if (strcmp(argv[i], "-n") == 0) {
            count = value;
        }
    }
    (void)printf("prop_keep: seed %llu, cases %lu..%lu\n", (unsigned long long)seed, first,
                 first + count - 1);
    for (unsigned long i = first; i < first + count; i++) {
        run((uint32_t)i);
    }
    return 0;
}
