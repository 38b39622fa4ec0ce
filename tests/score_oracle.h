/* SPDX-License-Identifier: Apache-2.0 */
/* score_oracle.h - the draft-based methods once more, naive, in double: what ours must equal.
 *
 * Written from the formulas alone: whole softmax rows, plain loops, plain sorting.  It shares
 * no code with src/.
 */
#ifndef FT_TESTS_SCORE_ORACLE_H
#define FT_TESTS_SCORE_ORACLE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One layer: q [H][n_q][d], k [G][n_q][d]. */
struct oracle_layer {
    const float *q, *k;
    uint32_t n_head, n_head_kv, n_q, d;
};

/* The whole softmax row of query head g at row t: p[j] for j <= t, 0 beyond. */
static inline void oracle_row(const struct oracle_layer *x, uint32_t g, uint32_t t, double *p) {
    uint32_t h = g / (x->n_head / x->n_head_kv);
    double top = -INFINITY, sum = 0;
    memset(p, 0, x->n_q * sizeof(*p));
    for (uint32_t j = 0; j <= t; j++) {
        double dot = 0;
        for (uint32_t c = 0; c < x->d; c++) {
            dot += (double)x->q[((size_t)g * x->n_q + t) * x->d + c] *
                   (double)x->k[((size_t)h * x->n_q + j) * x->d + c];
        }
        p[j] = dot / sqrt((double)x->d);
        top = p[j] > top ? p[j] : top;
    }
    for (uint32_t j = 0; j <= t; j++) {
        p[j] = exp(p[j] - top);
        sum += p[j];
    }
    for (uint32_t j = 0; j <= t; j++) {
        p[j] /= sum;
    }
}

/* s padded with zeros, (k-1)/2 on the left and k/2 on the right; max or sum / k of each window. */
static inline void oracle_pool(const double *s, uint32_t n, uint32_t k, bool is_max, double *out) {
    for (int64_t i = 0; i < n; i++) {
        double best = 0, sum = 0;
        for (int64_t j = i - (k - 1) / 2; j <= i + k / 2; j++) {
            double x = j >= 0 && j < n ? s[j] : 0;
            best = x > best ? x : best;
            sum += x;
        }
        out[i] = is_max ? best : sum / k;
    }
}

/* All indices, best first; ties: lower index; insertion sort. */
static inline void oracle_rank(const double *s, uint32_t n, uint32_t *out) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && s[out[at - 1]] < s[i]; at--) {
            out[at] = out[at - 1];
        }
        out[at] = i;
    }
}

/* SpecKV mass of KV head h over columns [0, n - w - 1); the rows from n - w - 1 to the end vote. */
static inline void oracle_speckv(const struct oracle_layer *x, uint32_t h, uint32_t n, uint32_t w,
                                 bool is_max, double *mass) {
    uint32_t group = x->n_head / x->n_head_kv, n_col = n - w - 1;
    double *p = malloc(x->n_q * sizeof(*p));
    memset(mass, 0, n_col * sizeof(*mass));
    for (uint32_t g = h * group; g < (h + 1) * group; g++) {
        for (uint32_t t = n_col; t < x->n_q; t++) {
            oracle_row(x, g, t, p);
            for (uint32_t j = 0; j < n_col; j++) {
                double share = p[j] / (group * (x->n_q - n_col));
                mass[j] = is_max ? (p[j] > mass[j] ? p[j] : mass[j]) : mass[j] + share;
            }
        }
    }
    free(p);
}

/* out[j], j < n_col: sum over the queries from row `first` on of query head g's softmax. */
static inline void oracle_votes(const struct oracle_layer *x, uint32_t g, uint32_t first,
                                uint32_t n_col, double *out) {
    double *p = malloc(x->n_q * sizeof(*p));
    memset(out, 0, n_col * sizeof(*out));
    for (uint32_t t = first; t < x->n_q; t++) {
        oracle_row(x, g, t, p);
        for (uint32_t j = 0; j < n_col; j++) {
            out[j] += p[j];
        }
    }
    free(p);
}

/* out[j], j < n_col: mean over the voters of query head g's softmax over the prompt's n keys.  Voters
 * are the last w queries of the prompt, which see the keys up to their own, and all behind it, which
 * see the whole prompt and nothing of each other. */
static inline void oracle_laq(const struct oracle_layer *x, uint32_t g, uint32_t n, uint32_t w,
                              uint32_t n_col, double *out) {
    uint32_t h = g / (x->n_head / x->n_head_kv), n_voter = w + x->n_q - n;
    double *p = malloc(n * sizeof(*p));
    memset(out, 0, n_col * sizeof(*out));
    for (uint32_t t = n - w; t < x->n_q; t++) {
        uint32_t vis = t < n ? t + 1 : n;
        double sum = 0;
        for (uint32_t j = 0; j < vis; j++) {
            double dot = 0;
            for (uint32_t c = 0; c < x->d; c++) {
                dot += (double)x->q[((size_t)g * x->n_q + t) * x->d + c] *
                       (double)x->k[((size_t)h * x->n_q + j) * x->d + c];
            }
            p[j] = exp(dot / sqrt((double)x->d));
            sum += p[j];
        }
        for (uint32_t j = 0; j < n_col && j < vis; j++) {
            out[j] += p[j] / sum / n_voter;
        }
    }
    free(p);
}

/* SpecPC score of one layer folded into score[n] by max: the last w prompt queries with the weights
 * u[w], then every row beyond n as a decode step of weight 1. */
static inline void oracle_specpc(const struct oracle_layer *x, uint32_t n, uint32_t w,
                                 const double *u, bool is_max, double *score) {
    double *p = malloc(x->n_q * sizeof(*p)), *row = malloc(n * sizeof(*row));
    for (uint32_t first = n - w; first < x->n_q; first = first < n ? n : first + 1) {
        uint32_t last = first < n ? n : first + 1;
        memset(row, 0, n * sizeof(*row));
        for (uint32_t g = 0; g < x->n_head; g++) {
            for (uint32_t t = first; t < last; t++) {
                oracle_row(x, g, t, p);
                for (uint32_t j = 0; j < n; j++) {
                    double v = p[j] * (t < n ? u[t - (n - w)] : 1);
                    row[j] = is_max ? (v > row[j] ? v : row[j]) : row[j] + v;
                }
            }
        }
        for (uint32_t j = 0; j < n; j++) {
            score[j] = row[j] > score[j] ? row[j] : score[j];
        }
    }
    free(p);
    free(row);
}

static inline void oracle_add(uint32_t *list, uint32_t *count, uint32_t j) {
    for (uint32_t i = 0; i < *count; i++) {
        if (list[i] == j) {
            return;
        }
    }
    list[(*count)++] = j;
}

static inline int oracle_ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* SpecPC selection as a list of steps: must, window, ranked with neighbours; cut to C; sorted.
 *   out      [n];  ->  count */
static inline uint32_t oracle_select(const double *pooled, uint32_t n, uint32_t keep, uint32_t w,
                                     uint32_t nb, const uint32_t *must, uint32_t n_must,
                                     uint32_t *out) {
    uint32_t *ranked = malloc(n * sizeof(*ranked)), *list = malloc(n * sizeof(*list)), count = 0;
    for (uint32_t i = 0; i < n_must; i++) {
        oracle_add(list, &count, must[i]);
    }
    for (uint32_t i = n - w; i < n; i++) {
        oracle_add(list, &count, i);
    }
    oracle_rank(pooled, n, ranked);
    for (uint32_t i = 0; i < keep && i < n; i++) {
        if (nb == 0) {
            oracle_add(list, &count, ranked[i]);
        }
        /* offsets -((nb-1)/2) .. nb/2 by distance, the negative one first */
        for (int64_t far = 0; far <= nb; far++) {
            for (int64_t sign = -1; sign <= 1; sign += 2) {
                int64_t offset = sign * far, j = (int64_t)ranked[i] + offset;
                if (nb == 0 || offset < -(int64_t)((nb - 1) / 2) || offset > (int64_t)(nb / 2)) {
                    continue;
                }
                j = j < 0 ? 0 : j > (int64_t)n - 1 ? (int64_t)n - 1 : j;
                oracle_add(list, &count, (uint32_t)j);
            }
        }
    }
    count = count < keep ? count : keep;
    memcpy(out, list, count * sizeof(*out));
    qsort(out, count, sizeof(*out), oracle_ascending);
    free(ranked);
    free(list);
    return count;
}

/* Randomness of the tests: splitmix64. */
static inline uint64_t oracle_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static inline uint32_t oracle_below(uint64_t *state, uint32_t n) {
    return (uint32_t)(oracle_next(state) % n);
}

static inline float oracle_real(uint64_t *state) { /* [-1, 1) */
    return (float)(oracle_next(state) >> 40) / 8388608.0F - 1.0F;
}

#endif
