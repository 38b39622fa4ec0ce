/* SPDX-License-Identifier: Apache-2.0 */
/* breakeven.c - how much sooner than dense a draft gives the first token, by length and size.
 *
 * Everything comes from measured rates and ft_expect_run; no prompt is read.  The size of a draft
 * is its layer weights over the target's: what a token is multiplied with.  The shortest prompt
 * that pays is looked for from SHORTEST on in steps of an eighth, then between the last length that
 * did not pay and the first that did.
 */
#include <inttypes.h>
#include <math.h>

#include "eval/eval.h"

enum { SHORTEST = 64 };

static const double ratios[] = { 1.0 / 32, 1.0 / 16, 1.0 / 8, 1.0 / 4, 1.0 / 2 };

static double attention_us(const struct ft_rates *r) {
    return (r->pair_us[0] + r->pair_us[1]) * r->n_layer;
}

/* The columns in rising order, the given draft in its place. */
static void make_columns(const struct ft_even_params *params, struct ft_even_table *out) {
    const struct ft_rates *target = &params->target_rates, *draft = &params->draft_rates;
    bool is_given = draft->n_layer > 0;
    double own = is_given ? draft->n_weight / target->n_weight : 0;
    out->exponent = 2.0 / 3;
    if (is_given && own < 0.9) {
        double exponent = log(attention_us(draft) / attention_us(target)) / log(own);
        out->is_exponent_known = true;
        out->exponent = exponent < 0 ? 0 : exponent > 1 ? 1 : exponent;
    }
    for (uint32_t i = 0; i < FT_COUNT(ratios) || is_given;) {
        struct ft_even_column *column = &out->column[out->n_column++];
        if (is_given && (i == FT_COUNT(ratios) || own <= ratios[i])) {
            *column = (struct ft_even_column){ .ratio = own, .is_given = true, .rates = *draft };
            is_given = false;
            continue;
        }
        column->ratio = ratios[i++];
        column->rates = ft_rates_scaled(target, column->ratio, out->exponent);
    }
}

static ft_status expect(const struct ft_even_params *params, const struct ft_bench_case *which,
                        const struct ft_even_column *column, uint32_t n, struct ft_expect *out,
                        struct ft_error *error) {
    struct ft_session_params session = *params->session;
    session.prompt = which ? which->prompt : NULL;
    session.kv = which ? which->kv : NULL;
    return ft_expect_run(params->target, &session, n, &params->target_rates,
                         column ? &column->rates : NULL, out, error);
}

static ft_status pays_at(const struct ft_even_params *params, const struct ft_bench_case *which,
                         const struct ft_even_column *column, uint32_t n, bool *out,
                         struct ft_error *error) {
    struct ft_expect dense, plan;
    FT_TRY(expect(params, NULL, NULL, n, &dense, error));
    FT_TRY(expect(params, which, column, n, &plan, error));
    *out = plan.is_dropping && plan.ttft_us < dense.ttft_us;
    return FT_OK;
}

static ft_status find_shortest(const struct ft_even_params *params,
                               const struct ft_bench_case *which,
                               const struct ft_even_column *column, uint32_t *out,
                               struct ft_error *error) {
    uint32_t below = 0, n = SHORTEST;
    bool pays = false;
    for (;;) {
        FT_TRY(pays_at(params, which, column, n, &pays, error));
        if (pays || n >= FT_EVEN_FARTHEST) {
            break;
        }
        below = n;
        n = FT_MIN(n + n / 8, (uint32_t)FT_EVEN_FARTHEST);
    }
    *out = 0;
    while (pays && n - below > 1) {
        uint32_t middle = below + (n - below) / 2;
        bool is_enough;
        FT_TRY(pays_at(params, which, column, middle, &is_enough, error));
        *(is_enough ? &n : &below) = middle;
    }
    if (pays) {
        *out = n;
    }
    return FT_OK;
}

static ft_status fill(const struct ft_even_params *params, struct ft_even_table *out,
                      struct ft_error *error) {
    struct ft_expect *cell = out->cell;
    for (uint32_t i = 0; i < params->n_length; i++) {
        FT_TRY(expect(params, NULL, NULL, params->n_prompt[i], &out->dense[i], error));
    }
    for (uint32_t c = 0; c < params->n_case; c++) {
        for (uint32_t i = 0; i < params->n_length * out->n_column; i++) {
            FT_TRY(expect(params, &params->cases[c], &out->column[i % out->n_column],
                          params->n_prompt[i / out->n_column], cell++, error));
        }
        for (uint32_t i = 0; i < out->n_column; i++) {
            FT_TRY(find_shortest(params, &params->cases[c], &out->column[i],
                                 &out->pays[c * out->n_column + i], error));
        }
    }
    return FT_OK;
}

ft_status ft_even_run(const struct ft_even_params *params, struct ft_even_table *out,
                      struct ft_error *error) {
    *out = (struct ft_even_table){ .n_column = 0 };
    make_columns(params, out);
    size_t n_cell = (size_t)params->n_case * params->n_length * out->n_column;
    out->dense = ft_alloc(params->n_length, sizeof *out->dense);
    out->cell = ft_alloc(n_cell, sizeof *out->cell);
    out->pays = ft_alloc((size_t)params->n_case * out->n_column, sizeof *out->pays);
    if (!out->dense || !out->cell || !out->pays) {
        return ft_fail(error, FT_NOMEM, 0, "no memory for a table of %zu cells", n_cell);
    }
    return fill(params, out, error);
}

void ft_even_done(struct ft_even_table *table) {
    ft_free(table->dense);
    ft_free(table->cell);
    ft_free(table->pays);
    *table = (struct ft_even_table){ .n_column = 0 };
}
