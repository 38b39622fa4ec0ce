/* SPDX-License-Identifier: Apache-2.0 */
/* bits.h - how many bits, and how large a group, each layer's keys and values get: arithmetic on
 * sensitivities.
 *
 * Quantize What Counts (arXiv:2502.15075), norm-guided allocation.  s: [n] sensitivities >= 0 of
 * K0, V0, K1, V1, ...: norms of the projections' weights. */
#ifndef FT_KV_BITS_H
#define FT_KV_BITS_H

#include "base/base.h"

/* ft_bits_by_norm - widths of 2, 4 or 8 bits whose sum is at most n * average, and which make the
 * sum of s_i^2 4^-bits_i least.  (The paper's code goes from width to width greedily and stops where
 * the next one does not fit; this is what it approximates.)  Ties: more bits at the lower index.
 *   average  2..8
 *   bits     [n]
 * Errors     FT_NOMEM */
ft_status ft_bits_by_norm(const double *s, uint32_t n, uint32_t average, uint8_t *bits,
                          struct ft_error *err);

/* ft_groups_by_norm - group sizes, powers of two from 16 to high[i], that make sum of s_i g_i small
 * (its optimum is g_i ~ 1 / sqrt(s_i)) while sum of 1 / g_i, which is what steps and lows cost, is at
 * most n / average: rounded optimum, then moves one by one.
 *   average  16 or more; high [n] >= average, or the sum is what `high` makes it
 *   group    [n] */
void ft_groups_by_norm(const double *s, uint32_t n, uint32_t average, const uint16_t *high,
                       uint16_t *group);

#endif
