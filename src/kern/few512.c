/* SPDX-License-Identifier: Apache-2.0 */
/* few512.c - attention of the few queries of a decode step on AVX-512 machines: rows are converted
 * in registers, nothing is transposed through memory.
 *
 * Lab book.  f16 rows, GB/s of K and V on one thread of a 2-core Zen 4 at 3.65 GHz, spans of 1024
 * rows, processor time; gcc 12.  "cache" is one span over and over, "memory" 512 MiB in large pages
 * out of which a loop of loads reads 29 GB/s.  Columns are m = 1 / 4 / 7 queries.
 *                                              d 64, cache           d 128, cache
 *   0  avx512.c's attend (transposes K)        28.4 / 16.6 / 10.5    25.6 / 17.1 / 11.3
 *   1  4 rows x m queries, sums transposed
 *      in registers, softmax of 4 queries         - / 18.3 /  -         - / 21.1 /  -
 *   2  a function per format and m, so that
 *      addresses stay in registers             41.1 / 19.3 / 10.8    49.2 / 22.3 / 12.5
 *   4  K in 256 bits: sums of 8 lanes, half
 *      of the shuffles; broadcasts in V's
 *      multiply-adds                           51.1 / 21.7 / 12.5    51.3 / 23.7 / 13.4
 *                                              d 64, memory          d 128, memory
 *   0                                          19.3 / 14.9 / 9.8     13.5 / 15.8 / 10.2
 *   2  next tile prefetched                    19.6 / 15.9 / 10.2    19.3 / 18.8 / 11.3
 *   3  two tiles ahead; short rows not at all  28.8 / 17.3 /  9.7    20.2 / 19.6 / 11.3
 *   4  first lines of every page prefetched    26.9 / 18.2 /  -      22.1 / 18.6 /  -
 * With 4 queries and more this is bound by arithmetic: 4 m multiply-adds for 64 numbers, 29 GB/s at
 * the unit's rate for m = 4.  A page is 32 rows: with a hint for its first lines step 3's worst runs
 * (m = 4) rose from 7 to 11 GB/s to 15; its best are no better, and other programs' use of memory
 * moves both more than the hint does.  Pages of 4 KiB cost up to a third of what memory gives.
 * Tried without gain: products of bf16 pairs for K and V (25 in cache, no more than this out of
 * memory: converting f16 costs what the multiplications save), two rows in a register (fewer sums,
 * more loads and inserts), V in 256 bits by halves of rows (every second line: 6 GB/s), blends in
 * place of half of the shuffles (7 % slower), prefetching into the first level, every second line
 * only, rows of V 4 to 16 at a time.
 */
#include <math.h>
#include <string.h>

#include "kern/few512.h"

enum {
    MR = 6,     /* 6 queries x 4 rows (K) or x 64 numbers (V): 24 sums, 4 operands */
    QUAD = 4,   /* rows of K that meet a chunk of q while it is in a register */
    BLOCK = 32, /* numbers of a q8_0 block */
    BLOCK_BYTE = 34,
};

/* Scratch of one call, cut from ft_kern_work_bytes(). */
struct few {
    float *s;        /* [m][64] logits, then weights */
    float *shrink;   /* [m] factor for older sums */
    uint32_t *count; /* [m] rows of this tile that a query sees */
    char *rest;      /* [16][d] encoded: the last rows of K, filled up with zeros */
};

static struct few few_cut(const struct ft_attend *a) {
    struct few f;
    ft_assert(a->m <= FT_FEW_QUERY && a->d >= 16 && a->d <= FT_HEAD_MAX && a->d % 8 == 0);
    f.s = a->work;
    f.shrink = f.s + (size_t)FT_FEW_QUERY * FT_TILE_ROW;
    f.count = (uint32_t *)(void *)(f.shrink + FT_FEW_QUERY);
    f.rest = (char *)(f.shrink + (size_t)2 * FT_FEW_QUERY);
    return f;
}

/* How far ahead rows are prefetched; 0: not at all.  Rows of up to 128 bytes are read in one stream
 * that the hardware follows by itself, and faster: instructions for it are bound by the first-level
 * cache's outstanding misses, about 20 GB/s here.  Longer rows of V are read in parts. */
INLINE size_t few_ahead(const struct rows *r, uint32_t d) {
    return d <= 64 ? 0 : FEW_AHEAD * r->ahead;
}

/* The hardware follows a stream to the end of a page of 4 KiB; where the next begins it has to be
 * told, or every page starts with a miss. */
INLINE void fetch_pages(const struct rows *r) {
    for (size_t at = 0; at < r->ahead; at += 4096) {
        fetch(r->data + at, r->ahead);
        fetch(r->data + at + 64, r->ahead);
    }
}

/* Numbers [t, t + 32) of a row. */
INLINE void fetch32(const char *row, uint32_t t, enum ft_fmt fmt, size_t ahead) {
    if (fmt == FT_Q8_0) {
        fetch(row + t / BLOCK * BLOCK_BYTE, ahead);
    } else if (fmt == FT_F32) {
        fetch(row + t * 4, ahead);
        fetch(row + t * 4 + 64, ahead);
    } else {
        fetch(row + t * 2, ahead);
    }
}

/* ---- q . k ---- */

/* Numbers [t, t + 8) of a row. */
INLINE __m256 row8(const char *row, uint32_t t, enum ft_fmt fmt) {
    if (fmt == FT_Q8_0) {
        const char *block = row + t / BLOCK * BLOCK_BYTE;
        uint16_t half;
        memcpy(&half, block, sizeof half);
        __m256 scale = _mm256_cvtph_ps(_mm_set1_epi16((short)half));
        __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(block + 2 + t % BLOCK));
        return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), scale);
    }
    if (fmt == FT_F32) {
        return _mm256_loadu_ps((const float *)(const void *)row + t);
    }
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 * (size_t)t));
    return fmt == FT_F16 ? _mm256_cvtph_ps(h)
                         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* m queries times 4 rows.  part[2 i]: in each of two lanes half of the sums of rows 0 to 3 with
 * query i. */
INLINE void dots(const char *const row[QUAD], enum ft_fmt fmt, const float *q, size_t q_stride,
                 int m, uint32_t d, size_t ahead, __m256 *part) {
    __m256 sum[QUAD][MR];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int r = 0; r < QUAD; r++) {
            sum[r][i] = _mm256_setzero_ps();
        }
    }
    for (uint32_t t = 0; t < d; t += 8) {
        __m256 k[QUAD];
        UNROLL for (int r = 0; r < QUAD; r++) {
            if (ahead != 0 && t % 32 == 0) {
                fetch32(row[r], t, fmt, ahead);
            }
            k[r] = row8(row[r], t, fmt);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m256 x = _mm256_loadu_ps(q + (size_t)i * q_stride + t);
            UNROLL for (int r = 0; r < QUAD; r++) {
                sum[r][i] = _mm256_fmadd_ps(x, k[r], sum[r][i]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        __m256 a = _mm256_add_ps(_mm256_unpacklo_ps(sum[0][i], sum[1][i]),
                                 _mm256_unpackhi_ps(sum[0][i], sum[1][i]));
        __m256 b = _mm256_add_ps(_mm256_unpacklo_ps(sum[2][i], sum[3][i]),
                                 _mm256_unpackhi_ps(sum[2][i], sum[3][i]));
        __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
        part[2 * i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                                    _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
    }
}

/* Logits of m queries and n rows, a multiple of 8. */
INLINE void logits_n(const struct rows *k, enum ft_fmt fmt, const float *q, size_t q_stride, int m,
                     uint32_t d, float *s) {
    size_t stride = k->stride, ahead = few_ahead(k, d);
    const char *row = k->data;
    for (uint32_t j = 0; j < k->n; j += 8) {
        __m256 part[MR * 2];
        for (uint32_t b = 0; b < 2; b++, row += QUAD * stride) {
            const char *const quad[QUAD] = { row, row + stride, row + 2 * stride,
                                             row + 3 * stride };
            __asm__("" : "+r"(q)); /* keeps q[constant] an addressing mode, not a saved address */
            dots(quad, fmt, q, q_stride, m, d, ahead, part + b);
        }
        UNROLL for (int i = 0; i < m; i++) {
            __m256 x = part[2 * i], y = part[2 * i + 1];
            _mm256_storeu_ps(s + i * FT_TILE_ROW + j,
                             _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20),
                                           _mm256_permute2f128_ps(x, y, 0x31)));
        }
    }
}

/* Every format and number of queries is a function of its own: in one body the compiler runs out
 * of registers for addresses. */
#define OUTLINE static __attribute__((noinline))
#define LOGITS(name, fmt, m)                                                                       \
    OUTLINE void logits_##name##_##m(const struct rows *k, const float *q, size_t q_stride,        \
                                     uint32_t d, float *s) {                                       \
        if (d == 64 && q_stride == 64) {                                                           \
            logits_n(k, fmt, q, 64, m, 64, s);                                                     \
        } else if (d == 128 && q_stride == 128) {                                                  \
            logits_n(k, fmt, q, 128, m, 128, s);                                                   \
        } else {                                                                                   \
            logits_n(k, fmt, q, q_stride, m, d, s);                                                \
        }                                                                                          \
    }
#define EACH_M(make, name, fmt)                                                                    \
    make(name, fmt, 1) make(name, fmt, 2) make(name, fmt, 3) make(name, fmt, 4) make(name, fmt, 5) \
        make(name, fmt, 6)
#define EACH(make)                                                                                 \
    EACH_M(make, f32, FT_F32)                                                                      \
    EACH_M(make, f16, FT_F16) EACH_M(make, bf16, FT_BF16) EACH_M(make, q8, FT_Q8_0)
EACH(LOGITS)

#define ROW_OF(what, name)                                                                         \
    {                                                                                              \
        what##_##name##_1, what##_##name##_2, what##_##name##_3, what##_##name##_4,                \
            what##_##name##_5, what##_##name##_6                                                   \
    }
#define TABLE(what)                                                                                \
    {                                                                                              \
        [FT_F32] = ROW_OF(what, f32), [FT_F16] = ROW_OF(what, f16),                                \
        [FT_BF16] = ROW_OF(what, bf16), [FT_Q8_0] = ROW_OF(what, q8),                              \
    }

static void logits(const struct rows *k, const struct ft_attend *a, const struct few *f) {
    static void (*const run[FT_FMT_COUNT][MR])(const struct rows *, const float *, size_t, uint32_t,
                                               float *) = TABLE(logits);
    size_t row_bytes = ft_fmt_row_bytes(k->fmt, a->d);
    struct rows whole = *k, rest = { f->rest, row_bytes, 0, 16, k->fmt };
    whole.n = k->n / 16 * 16;
    if (k->n > whole.n) {
        memset(f->rest, 0, 16 * row_bytes);
        for (uint32_t j = whole.n; j < k->n; j++) {
            memcpy(f->rest + (j - whole.n) * row_bytes, k->data + j * k->stride, row_bytes);
        }
    }
    for (uint32_t i = 0, n; i < a->m; i += n) {
        n = block_rows(a->m, i, MR);
        const float *q = a->q + i * a->q_stride;
        float *s = f->s + (size_t)i * FT_TILE_ROW;
        run[k->fmt][n - 1](&whole, q, a->q_stride, a->d, s);
        if (k->n > whole.n) {
            run[k->fmt][n - 1](&rest, q, a->q_stride, a->d, s + whole.n);
        }
    }
}

/* ---- softmax ---- */

/* Four queries at a time, one lane each. */
static void softmax(const struct ft_attend *a, const struct few *f) {
    for (uint32_t i = 0; i < a->m; i += 4) {
        uint32_t n = FT_MIN(a->m - i, 4u);
        float *s = f->s + (size_t)i * FT_TILE_ROW, top[16];
        __mmask16 here = low_lanes(n);
        __mmask16 some = _mm512_mask_cmpgt_epu32_mask(
            here, _mm512_maskz_loadu_epi32(here, f->count + i), _mm512_setzero_si512());
        __m512 x[4];
        for (uint32_t g = 0; g < 4; g++) {
            x[g] = g < n ? few_row_max(s + g * FT_TILE_ROW, f->count[i + g]) : _mm512_setzero_ps();
        }
        REDUCE4(x, MAX);
        __m512 old = _mm512_maskz_loadu_ps(here, a->max + i);
        __m512 high = _mm512_max_ps(old, _mm512_mul_ps(x[0], _mm512_set1_ps(a->scale)));
        __m512 factor = exp16(_mm512_sub_ps(old, high));
        _mm512_mask_storeu_ps(a->max + i, some, high);
        _mm512_mask_storeu_ps(f->shrink + i, some, factor);
        _mm512_storeu_ps(top, high);
        for (uint32_t g = 0; g < 4; g++) {
            x[g] = g < n && f->count[i + g] > 0
                       ? few_row_exp(s + g * FT_TILE_ROW, f->count[i + g], a->scale, top[g])
                       : _mm512_setzero_ps();
        }
        REDUCE4(x, ADD);
        __m512 sum = _mm512_maskz_loadu_ps(here, a->sum + i);
        _mm512_mask_storeu_ps(a->sum + i, some, _mm512_fmadd_ps(sum, factor, x[0]));
    }
}

/* ---- p v ---- */

/* sum + x * *y.  Compilers broadcast *y into a register once for all x, which takes a register and
 * 1 cycle in 11 more than a product that broadcasts by itself. */
INLINE __m512 add_product(__m512 sum, __m512 x, const float *y) {
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*y));
    return sum;
}

/* acc = acc * shrink + sum over rows [from, to) of p v, for n_vec * 16 numbers from t on. */
INLINE void values_n(const struct rows *v, enum ft_fmt fmt, const float *p, int m, int n_vec,
                     __mmask16 mask, uint32_t from, uint32_t to, const float *shrink, float *acc,
                     uint32_t d, uint32_t t) {
    __m512 sum[MR][4];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = _mm512_maskz_loadu_ps(mask, acc + (size_t)i * d + t + 16 * (size_t)c);
            if (shrink != NULL) {
                sum[i][c] = _mm512_mul_ps(sum[i][c], _mm512_set1_ps(shrink[i]));
            }
        }
    }
    size_t stride = v->stride, ahead = few_ahead(v, d);
    const char *row = v->data + from * stride;
    const float *last = p + to;
    for (p += from; p < last; p++, row += stride) {
        __m512 x[4];
        if (n_vec == 4 && ahead != 0) {
            fetch32(row, t, fmt, ahead);
            fetch32(row, t + 32, fmt, ahead);
        }
        UNROLL for (int c = 0; c < n_vec; c++) {
            x[c] = row16(row, t + 16 * (uint32_t)c, mask, fmt);
        }
        UNROLL for (int i = 0; i < m; i++) {
            UNROLL for (int c = 0; c < n_vec; c++) {
                sum[i][c] = add_product(sum[i][c], x[c], p + i * FT_TILE_ROW);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            _mm512_mask_storeu_ps(acc + (size_t)i * d + t + 16 * (size_t)c, mask, sum[i][c]);
        }
    }
}

#define VALUES(name, fmt, m)                                                                       \
    OUTLINE void values_##name##_##m(const struct rows *v, const float *p, uint32_t from,          \
                                     uint32_t to, const float *shrink, float *acc, uint32_t d) {   \
        uint32_t t = 0;                                                                            \
        for (; d - t >= 64; t += 64) {                                                             \
            values_n(v, fmt, p, m, 4, 0xffff, from, to, shrink, acc, d, t);                        \
        }                                                                                          \
        for (; d - t >= 16; t += 16) {                                                             \
            values_n(v, fmt, p, m, 1, 0xffff, from, to, shrink, acc, d, t);                        \
        }                                                                                          \
        if (t < d) {                                                                               \
            values_n(v, fmt, p, m, 1, 0xff, from, to, shrink, acc, d, t);                          \
        }                                                                                          \
    }
EACH(VALUES)

/* As in tile.h: what all queries of a block see together, the ragged rest one query at a time. */
static void values(const struct rows *v, const struct ft_attend *a, const struct few *f) {
    static void (*const run[FT_FMT_COUNT][MR])(const struct rows *, const float *, uint32_t,
                                               uint32_t, const float *, float *, uint32_t) =
        TABLE(values);
    for (uint32_t i = 0, n; i < a->m; i += n) {
        n = block_rows(a->m, i, MR);
        uint32_t common = count_extent(f->count + i, n).least;
        if (common > 0) {
            run[v->fmt][n - 1](v, f->s + (size_t)i * FT_TILE_ROW, 0, common, f->shrink + i,
                               a->acc + (size_t)i * a->d, a->d);
        }
        for (uint32_t g = i; g < i + n; g++) {
            if (f->count[g] > common) {
                run[v->fmt][0](v, f->s + (size_t)g * FT_TILE_ROW, common, f->count[g],
                               common == 0 ? f->shrink + g : NULL, a->acc + (size_t)g * a->d, a->d);
            }
        }
    }
}

void ft_kern__few_avx512(const struct ft_attend *a) {
    struct few f = few_cut(a);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        tile_counts(a->vis, a->m, first, k.n, f.count);
        fetch_pages(&k);
        fetch_pages(&v);
        logits(&k, a, &f);
        softmax(a, &f);
        values(&v, a, &f);
    }
}
