/* SPDX-License-Identifier: Apache-2.0 */
/* tile.h - the loops over tiles of 64 rows that all vector variants share; each includes it once.
 *
 * The including file defines, for its registers:
 *
 *   MR              query rows of one call of the inner products below
 *   SOFTMAX_ROW     query rows of one call of softmax_rows()
 *   struct panel    K of one tile, transposed; panel_make()
 *   logits()        s[i][j] = q_i . k_j for at most MR rows, j over the whole tile; one chain of
 *                   fused multiply-adds in the order of t for every (i, j), whatever m is
 *   softmax_rows()  fold the first count[i] logits of each row of s into (max, sum), replace them
 *                   by exp(logit - max), leave the factor for older sums in shrink; a row with
 *                   count 0 is untouched
 *   values_add()    acc_i = acc_i * shrink_i + sum over j in [from, to) of p_ij v_j; one chain in
 *                   the order of j
 *   mass_fold()     out_j folded with the weights of the rows of s, in their order
 *
 * A query's numbers pass through the same operations in the same order wherever it stands, so its
 * bits depend on nothing but its own q, its count and the rows.
 *
 * Rows are converted in registers where they are used, once for every block of MR queries.  Keeping
 * f32 copies of a tile was slower for 8 to 256 queries: copies double the traffic between caches.
 */
#ifndef FT_KERN_TILE_H
#define FT_KERN_TILE_H

#include "kern/span.h"

/* n numbers of q8_0 blocks, exactly. */
static void q8_widen(const void *from, float *to, size_t n) {
    ft_assert(n % 32 == 0);
    for (size_t b = 0; b < n / 32; b++) {
        const char *block = (const char *)from + b * 34;
        uint16_t half;
        memcpy(&half, block, sizeof half);
#if defined(__AVX2__)
        __m256 scale = _mm256_set1_ps(_cvtsh_ss(half));
        UNROLL for (uint32_t t = 0; t < 32; t += 8) {
            __m128i byte = _mm_loadl_epi64((const __m128i *)(const void *)(block + 2 + t));
            __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(byte));
            _mm256_storeu_ps(to + b * 32 + t, _mm256_mul_ps(scale, x));
        }
#else
        float scale;
        ft_kern_ref.decode(FT_F16, &half, &scale, 1);
        for (uint32_t t = 0; t < 32; t++) {
            to[b * 32 + t] = scale * (float)(signed char)block[2 + t];
        }
#endif
    }
}

/* Scratch of one call, cut from ft_kern_work_bytes(). */
struct tile_work {
    float *panel;    /* [FT_HEAD_MAX][64] K of one tile, in the variant's own order and format */
    float *s;        /* [FT_TILE_QUERY][64] logits, then weights */
    float *shrink;   /* [FT_TILE_QUERY] */
    float *max;      /* [FT_TILE_QUERY] of lse */
    float *sum;      /* [FT_TILE_QUERY] of lse */
    uint32_t *count; /* [FT_TILE_QUERY] rows of this tile that a query sees */
    float *wide;     /* [64][FT_HEAD_MAX] q8_0 rows of one tile as f32, K and then V */
};

static struct tile_work tile_work_cut(void *work, uint32_t m, uint32_t d) {
    struct tile_work w;
    ft_assert(m <= FT_TILE_QUERY && d >= 16 && d <= FT_HEAD_MAX && d % 8 == 0);
    w.panel = work;
    w.s = w.panel + (size_t)FT_HEAD_MAX * FT_TILE_ROW;
    w.shrink = w.s + (size_t)FT_TILE_QUERY * FT_TILE_ROW;
    w.max = w.shrink + FT_TILE_QUERY;
    w.sum = w.max + FT_TILE_QUERY;
    w.count = (uint32_t *)(void *)(w.sum + FT_TILE_QUERY);
    w.wide = w.sum + (size_t)2 * FT_TILE_QUERY;
    return w;
}

static void tile_logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m,
                        uint32_t d, const struct tile_work *w) {
    for (uint32_t i = 0, n; i < m; i += n) {
        n = block_rows(m, i, MR);
        if (count_extent(w->count + i, n).most > 0) {
            logits(k, q + i * q_stride, q_stride, n, d, w->s + (size_t)i * FT_TILE_ROW);
        }
    }
}

static void tile_softmax(uint32_t m, float scale, float *max, float *sum, bool weights,
                         const struct tile_work *w) {
    for (uint32_t i = 0; i < m; i += SOFTMAX_ROW) {
        uint32_t n = FT_MIN(m - i, (uint32_t)SOFTMAX_ROW);
        struct extent e = count_extent(w->count + i, n);
        if (e.most > 0) {
            softmax_rows(w->s + (size_t)i * FT_TILE_ROW, n, w->count + i, e.least == FT_TILE_ROW,
                         scale, max + i, sum + i, w->shrink + i, weights);
        }
    }
}

/* Rows that all queries of a block see go through it together; the ragged rest one query at a
 * time, so that no query ever multiplies a row that it does not see, not even by zero. */
static void tile_values(const struct rows *v, uint32_t m, uint32_t d, float *acc,
                        const struct tile_work *w) {
    for (uint32_t i = 0, n; i < m; i += n) {
        n = block_rows(m, i, MR);
        uint32_t common = count_extent(w->count + i, n).least;
        if (common > 0) {
            values_add(v, w->s + (size_t)i * FT_TILE_ROW, n, 0, common, w->shrink + i,
                       acc + (size_t)i * d, d);
        }
        for (uint32_t g = i; g < i + n; g++) {
            if (w->count[g] > common) {
                values_add(v, w->s + (size_t)g * FT_TILE_ROW, 1, common, w->count[g],
                           common == 0 ? w->shrink + g : NULL, acc + (size_t)g * d, d);
            }
        }
    }
}

/* The rows themselves, or f32 copies of q8_0 rows in w->wide. */
static struct rows rows_widened(struct rows r, uint32_t d, const struct tile_work *w) {
    if (r.fmt != FT_Q8_0) {
        return r;
    }
    for (uint32_t j = 0; j < r.n; j++) {
        q8_widen(r.data + j * r.stride, w->wide + (size_t)j * d, d);
    }
    return (struct rows){ (const char *)w->wide, d * sizeof(float), 0, r.n, FT_F32 };
}

static void attend(const struct ft_attend *a) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        k = rows_widened(k, a->d, &w);
        struct panel panel = panel_make(&k, a->d, w.panel);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        tile_logits(&panel, a->q, a->q_stride, a->m, a->d, &w);
        tile_softmax(a->m, a->scale, a->max, a->sum, true, &w);
        v = rows_widened(v, a->d, &w);
        tile_values(&v, a->m, a->d, a->acc, &w);
    }
}

static void lse(const struct ft_vote *v) {
    struct tile_work w = tile_work_cut(v->work, v->m, v->d);
    uint32_t limit = row_limit(v->vis, v->m, v->n);
    for (uint32_t i = 0; i < v->m; i++) {
        w.max[i] = -INFINITY;
        w.sum[i] = 0;
    }
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(v->k, v->k_stride, v->k_fmt, first, limit);
        k = rows_widened(k, v->d, &w);
        struct panel panel = panel_make(&k, v->d, w.panel);
        tile_counts(v->vis, v->m, first, k.n, w.count);
        tile_logits(&panel, v->q, v->q_stride, v->m, v->d, &w);
        tile_softmax(v->m, v->scale, w.max, w.sum, false, &w);
    }
    for (uint32_t i = 0; i < v->m; i++) {
        v->out[i] =
            w.sum[i] != 0.0f ? (float)((double)w.max[i] + log((double)w.sum[i])) : -INFINITY;
    }
}

/* Voters one by one: each to its own list, whose lines for the next tile are asked for meanwhile. */
static void mass_lists(const struct tile_work *w, const struct ft_vote *v, uint32_t first,
                       uint32_t rows) {
    struct tile_work own = *w;
    struct ft_vote one = *v;
    one.m = 1;
    for (uint32_t i = 0; i < v->m; i++) {
        float list[FT_TILE_ROW] = { 0 }, *out = v->out + i * v->out_stride + first;
        for (uint32_t j = FT_TILE_ROW; j < 2 * FT_TILE_ROW; j += 16) {
            __builtin_prefetch((const char *)((uintptr_t)out + j * sizeof *out), 1);
        }
        mass_fold(&own, &one, list, rows);
        memcpy(out, list, rows * sizeof *out);
        own.s += FT_TILE_ROW;
        own.count++;
        one.lse++;
        one.weight = v->weight != NULL ? one.weight + 1 : NULL;
    }
}

static void mass(const struct ft_vote *v) {
    struct tile_work w = tile_work_cut(v->work, v->m, v->d);
    uint32_t limit = row_limit(v->vis, v->m, v->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(v->k, v->k_stride, v->k_fmt, first, limit);
        k = rows_widened(k, v->d, &w);
        struct panel panel = panel_make(&k, v->d, w.panel);
        tile_counts(v->vis, v->m, first, k.n, w.count);
        tile_logits(&panel, v->q, v->q_stride, v->m, v->d, &w);
        if (v->out_stride > 0) {
            mass_lists(&w, v, first, k.n);
        } else {
            mass_fold(&w, v, v->out + first, k.n);
        }
    }
}

#endif
