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

/* exp(r) = 1 + r + C2 r^2 + .. + C6 r^6 for |r| <= ln2/2: interpolated at the Chebyshev nodes of
 * (exp(r) - 1 - r) / r^2; relative error 1.0e-8 in exact arithmetic. */
#define EXP_C2 0.5f
#define EXP_C3 0x1.5554dcp-3f
#define EXP_C4 0x1.555518p-5f
#define EXP_C5 0x1.120b6ep-7f
#define EXP_C6 0x1.6d110ap-10f

/* Encoded rows of one tile. */
struct rows {
    const char *data;
    size_t stride; /* bytes */
    size_t ahead;  /* bytes to the next tile, prefetched meanwhile; 0: this is the last */
    uint32_t n;    /* at most FT_TILE_ROW; nothing behind them is read */
    enum ft_fmt fmt;
};

/* Scratch of one call, cut from ft_kern_work_bytes(). */
struct tile_work {
    float *panel;    /* [FT_HEAD_MAX][64] K of one tile, in the variant's own order and format */
    float *s;        /* [FT_TILE_QUERY][64] logits, then weights */
    float *shrink;   /* [FT_TILE_QUERY] */
    float *max;      /* [FT_TILE_QUERY] of lse */
    float *sum;      /* [FT_TILE_QUERY] of lse */
    uint32_t *count; /* [FT_TILE_QUERY] rows of this tile that a query sees */
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
    return w;
}

/* Rows in blocks of at most MR, as even as possible: 8 is 4 + 4, not 6 + 2. */
static uint32_t block_rows(uint32_t m, uint32_t first) {
    uint32_t left = m - first, n_block = (left + MR - 1) / MR;
    return (left + n_block - 1) / n_block;
}

static uint32_t row_limit(const uint32_t *vis, uint32_t m, uint32_t n) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < m && vis != NULL; i++) {
        most = FT_MAX(most, vis[i]);
    }
    return vis != NULL ? FT_MIN(most, n) : n;
}

/* count[i] = rows of tile [first, first + rows) that query i sees. */
static void tile_counts(const uint32_t *vis, uint32_t m, uint32_t first, uint32_t rows,
                        uint32_t *count) {
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seen = vis == NULL ? rows : vis[i] > first ? vis[i] - first : 0;
        count[i] = FT_MIN(seen, rows);
    }
}

struct extent {
    uint32_t least, most;
};

static struct extent count_extent(const uint32_t *count, uint32_t m) {
    struct extent e = { count[0], count[0] };
    for (uint32_t i = 1; i < m; i++) {
        e.least = FT_MIN(e.least, count[i]);
        e.most = FT_MAX(e.most, count[i]);
    }
    return e;
}

static void tile_logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m,
                        uint32_t d, const struct tile_work *w) {
    for (uint32_t i = 0, n; i < m; i += n) {
        n = block_rows(m, i);
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
        n = block_rows(m, i);
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

static struct rows tile_rows(const void *data, size_t stride, enum ft_fmt fmt, uint32_t first,
                             uint32_t limit) {
    bool last = limit - first <= FT_TILE_ROW;
    return (struct rows){
        .data = (const char *)data + first * stride,
        .stride = stride,
        .ahead = last ? 0 : FT_TILE_ROW * stride,
        .n = last ? limit - first : (uint32_t)FT_TILE_ROW,
        .fmt = fmt,
    };
}

static void attend(const struct ft_attend *a) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        struct panel panel = panel_make(&k, a->d, w.panel);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        tile_logits(&panel, a->q, a->q_stride, a->m, a->d, &w);
        tile_softmax(a->m, a->scale, a->max, a->sum, true, &w);
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

static void mass(const struct ft_vote *v) {
    struct tile_work w = tile_work_cut(v->work, v->m, v->d);
    uint32_t limit = row_limit(v->vis, v->m, v->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(v->k, v->k_stride, v->k_fmt, first, limit);
        struct panel panel = panel_make(&k, v->d, w.panel);
        tile_counts(v->vis, v->m, first, k.n, w.count);
        tile_logits(&panel, v->q, v->q_stride, v->m, v->d, &w);
        mass_fold(&w, v, v->out + first, k.n);
    }
}

#endif
