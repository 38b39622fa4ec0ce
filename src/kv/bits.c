/* SPDX-License-Identifier: Apache-2.0 */
/* bits.c - bits and groups by the norms of weights. */
#include "kv/bits.h"

#include <math.h>

/* ---- bits ---- */

/* Widths, and what each takes beyond the smallest in steps of 2 bits. */
static const struct {
    uint8_t bits;
    uint32_t step;
} widths[] = { { 8, 3 }, { 4, 1 }, { 2, 0 } };

/* Best choices for tensors [i, n) with at most u steps, from those for [i + 1, n); the largest of
 * equal ones.
 *   below    [n_step + 1] errors of [i + 1, n);  error, choice [n_step + 1] of [i, n) */
static void choose(double s, const double *below, uint32_t n_step, double *error, uint8_t *choice) {
    for (uint32_t u = 0; u <= n_step; u++) {
        error[u] = INFINITY;
        for (uint8_t w = 0; w < FT_COUNT(widths); w++) {
            if (widths[w].step > u) {
                continue;
            }
            double sum = s * s * exp2(-2.0 * widths[w].bits) + below[u - widths[w].step];
            if (sum < error[u]) {
                error[u] = sum;
                choice[u] = w;
            }
        }
    }
}

ft_status ft_bits_by_norm(const double *s, uint32_t n, uint32_t average, uint8_t *bits,
                          struct ft_error *err) {
    ft_assert(average >= 2 && average <= 8);
    uint32_t n_step = (average - 2) * n / 2;
    size_t width = (size_t)n_step + 1;
    double *error = ft_alloc(2 * width, sizeof *error); /* [2][width], of two tensors in turn */
    uint8_t *choice = ft_alloc(n, width);               /* [n][width] */
    ft_status status = error && choice
                           ? FT_OK
                           : ft_fail(err, FT_NOMEM, 0, "no memory for the bits of %u tensors", n);
    for (uint32_t i = n; status == FT_OK && i-- > 0;) {
        choose(s[i], error + (i + 1) % 2 * width, n_step, error + i % 2 * width,
               choice + i * width);
    }
    for (uint32_t i = 0, left = n_step; status == FT_OK && i < n; i++) {
        uint8_t w = choice[i * width + left];
        bits[i] = widths[w].bits;
        left -= widths[w].step;
    }
    ft_free(error);
    ft_free(choice);
    return status;
}

/* ---- groups ---- */

enum { GROUP_LOW = 16 };

/* The power of two that is nearest to g in ratio, within [16, high]. */
static uint16_t rounded(double g, uint16_t high) {
    uint16_t group = GROUP_LOW;
    while (group < high && g > group * 1.4142135623730951) {
        group = (uint16_t)(group * 2);
    }
    return group;
}

static double cost_of(const uint16_t *group, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += 1.0 / group[i]; /* powers of two: exact */
    }
    return sum;
}

/* The group whose doubling adds least of sum s g for what it saves of sum 1 / g. */
static uint32_t cheapest(const double *s, const uint16_t *group, const uint16_t *high, uint32_t n) {
    uint32_t best = n;
    double least = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double price = 2 * s[i] * group[i] * group[i];
        if (group[i] < high[i] && price < least) {
            least = price;
            best = i;
        }
    }
    return best;
}

/* The group whose halving saves most for what it costs, of those that `room` is enough for. */
static uint32_t dearest(const double *s, const uint16_t *group, double room, uint32_t n) {
    uint32_t best = n;
    double most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double worth = s[i] * group[i] * group[i] / 2;
        if (group[i] > GROUP_LOW && 1.0 / group[i] <= room && worth > most) {
            most = worth;
            best = i;
        }
    }
    return best;
}

void ft_groups_by_norm(const double *s, uint32_t n, uint32_t average, const uint16_t *high,
                       uint16_t *group) {
    double sum = 0, limit = (double)n / average;
    uint32_t i;
    for (i = 0; i < n; i++) {
        sum += sqrt(s[i]);
    }
    for (i = 0; i < n; i++) {
        group[i] = rounded(s[i] > 0 ? sum / sqrt(s[i]) / limit : INFINITY, high[i]);
    }
    while (cost_of(group, n) > limit && (i = cheapest(s, group, high, n)) < n) {
        group[i] = (uint16_t)(group[i] * 2);
    }
    while ((i = dearest(s, group, limit - cost_of(group, n), n)) < n) {
        group[i] = (uint16_t)(group[i] / 2);
    }
}
