/* SPDX-License-Identifier: Apache-2.0 */
/* span.h - what the vector variants share whatever their registers: how a span of rows is walked in
 * tiles of 64, how many rows of a tile a query sees, and the polynomial of exp. */
#ifndef FT_KERN_SPAN_H
#define FT_KERN_SPAN_H

#include "kern/kern.h"

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

static inline struct rows tile_rows(const void *data, size_t stride, enum ft_fmt fmt,
                                    uint32_t first, uint32_t limit) {
    bool last = limit - first <= FT_TILE_ROW;
    return (struct rows){
        .data = (const char *)data + first * stride,
        .stride = stride,
        .ahead = last ? 0 : FT_TILE_ROW * stride,
        .n = last ? limit - first : (uint32_t)FT_TILE_ROW,
        .fmt = fmt,
    };
}

/* Queries in blocks of at most `most`, as even as possible: 8 is 4 + 4, not 6 + 2. */
static inline uint32_t block_rows(uint32_t m, uint32_t first, uint32_t most) {
    uint32_t left = m - first, n_block = (left + most - 1) / most;
    return (left + n_block - 1) / n_block;
}

static inline uint32_t row_limit(const uint32_t *vis, uint32_t m, uint32_t n) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < m && vis != NULL; i++) {
        most = FT_MAX(most, vis[i]);
    }
    return vis != NULL ? FT_MIN(most, n) : n;
}

/* count[i] = rows of tile [first, first + rows) that query i sees. */
static inline void tile_counts(const uint32_t *vis, uint32_t m, uint32_t first, uint32_t rows,
                               uint32_t *count) {
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seen = vis == NULL ? rows : vis[i] > first ? vis[i] - first : 0;
        count[i] = FT_MIN(seen, rows);
    }
}

struct extent {
    uint32_t least, most;
};

static inline struct extent count_extent(const uint32_t *count, uint32_t m) {
    struct extent e = { count[0], count[0] };
    for (uint32_t i = 1; i < m; i++) {
        e.least = FT_MIN(e.least, count[i]);
        e.most = FT_MAX(e.most, count[i]);
    }
    return e;
}

#endif
