/* SPDX-License-Identifier: Apache-2.0 */
/* gemm_int16.c - weights in 16 bits, or of types that something else decodes, times prompts: both
 * sides as 16-bit words, exact integer sums per group.
 *
 * vpdpwssd is as fast as vdpbf16ps, and words of 13 bits with a scale per group of numbers are
 * twenty times finer than bf16.
 *
 * Lab book.  `gemmbench 512 2048 2048 15 f16`, panels included, one thread of a 2-core Zen 4 at
 * 3.65 GHz (ceiling 233 GFLOP/s), processor time, the machine busy; gcc 12.  Scaling a group's sums
 * takes 2 instructions of the ports that multiply.                                k 2048  k 8192
 *   1  6 x 32 tiles, groups of 32, words up to 8191 on both sides: 2 beside 16
 *      products                                                                       190
 *   2  words as large as the root of a group's squares allows: in groups of 128 as fine for
 *      normal numbers (4095 per root mean square, 8191 / 2.2 before), and up to four times
 *      finer beside an outlier; 2 beside 64 products                                  209     203
 *   3  rows widened once, the next group's lines fetched meanwhile                    212     207
 * Groups of 64 make 199, of 256 no more than of 128.  Panels of 1024, 4096 and 8192 numbers make
 * what 2048 do.  n 8192 makes 212; 9, 16, 32, 64, 128 tokens make 78, 111, 146, 175, 193.  The same
 * weights rounded to bf16 (gemm_bf16.c) made 217, with k 8192 205, and 104, 138, 163, 190, 204: a
 * panel takes 0.6 cycles per weight here, 0.4 there.  ggml's mul_mat: 92 to 95.
 *
 * Types that ggml decodes, row by row, n 1024, k 2048, m 512: IQ4_NL 172, MXFP4 172, TQ1_0 198,
 * TQ2_0 197; ggml's mul_mat 88, 44, 56, 108.
 */
#include <string.h>

#include "kern/matmul.h"
#include "kern/next.h"
#include "kern/zmm.h"

enum {
    COL = 32,
    MR = 6,         /* 6 tokens x 32 columns: 12 integer and 12 f32 sums of the 32 registers */
    GROUP = 128,    /* numbers that share a scale; the last group of a row may be shorter */
    STRETCH = 2048, /* numbers of k that have a panel at a time: 128 KiB and their scales */
    AHEAD = 1920,   /* bytes of activations that are fetched ahead */
};

/* The largest word, and the largest root of the sum of a group's squared words: by Cauchy and
 * Schwarz no sum of products, nor any part of one, is above the product of two such roots.
 * Rounding adds at most sqrt(GROUP) / 2 to a root, and (46330 + 5.7)^2 < 2^31. */
#define WORD_MAX 32767.0f
#define ROOT_MAX 46330.0f

/* A group whose largest |x|, or |w|, is below counts as zero: x has normal scales above, w normal
 * squares. */
#define TINY_X 0x1p-110f
#define TINY_W 0x1p-60f

/* ---- activations ---- */

/* A tile of MR tokens, group by group: scale [MR] f32, then [GROUP/2][MR] pairs of words. */
enum { TILE_GROUP = (1 + GROUP / 2) * MR };

INLINE uint32_t group_count(uint32_t k) {
    return (k + GROUP - 1) / GROUP;
}

static size_t tile_words(uint32_t k) {
    return ((size_t)k / 2 + group_count(k)) * MR;
}

static size_t packed_bytes(uint32_t m, uint32_t k) {
    return (size_t)((m + MR - 1) / MR) * tile_words(k) * 4;
}

/* vpackssdw works within lanes: dword j of words(0 to 15, 16 to 31) is this pair of numbers. */
INLINE uint32_t pair_at(uint32_t j) {
    return j % 4 < 2 ? j / 4 * 2 + j % 4 : 6 + j / 4 * 2 + j % 4;
}

INLINE __m512i words(__m512 low, __m512 high, __m512 by) {
    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(low, by)),
                              _mm512_cvtps_epi32(_mm512_mul_ps(high, by)));
}

/* What takes the words of a group of x back to numbers. */
INLINE float scale_of(const float *x, uint32_t n) {
    __m512 most = _mm512_setzero_ps(), square = most;
    for (uint32_t t = 0; t < n; t += 16) {
        most = larger(most, _mm512_abs_ps(_mm512_loadu_ps(x + t)));
    }
    int32_t top = _mm512_reduce_max_epi32(_mm512_castps_si512(most));
    float max;
    memcpy(&max, &top, sizeof max);
    if (max < TINY_X) {
        return 0;
    }
    for (uint32_t t = 0; t < n; t += 16) { /* of numbers up to 1: no square is too large */
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + t), _mm512_set1_ps(1 / max));
        square = _mm512_fmadd_ps(v, v, square);
    }
    float root = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(_mm512_reduce_add_ps(square))));
    return max * FT_MAX(1 / WORD_MAX, root * (1 / ROOT_MAX));
}

static void pack_row(const float *x, uint32_t k, int32_t *q, float *scale) {
    for (uint32_t t = 0, at = 0; t < k; t += GROUP, at += TILE_GROUP) {
        scale[at] = scale_of(x + t, FT_MIN(k - t, (uint32_t)GROUP));
    }
    for (uint32_t t = 0; t < k; t += GROUP) {
        __m512 inverse = _mm512_set1_ps(*scale == 0 ? 0 : 1 / *scale);
        for (uint32_t u = t; u < FT_MIN(t + GROUP, k); u += 32) {
            int32_t pair[16];
            _mm512_storeu_si512(
                pair, words(_mm512_loadu_ps(x + u), _mm512_loadu_ps(x + u + 16), inverse));
            UNROLL for (uint32_t j = 0; j < 16; j++) {
                q[((u - t) / 2 + pair_at(j)) * MR] = pair[j];
            }
        }
        scale += TILE_GROUP;
        q += TILE_GROUP;
    }
}

static void pack(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                 uint32_t n, void *packed) {
    ft_assert(k % 32 == 0 && first <= m && n <= m - first);
    for (uint32_t i = first; i < first + n; i++) {
        size_t at = tile_words(k) * (i / MR) + i % MR;
        pack_row(x + i * x_stride, k, (int32_t *)packed + at + MR, (float *)packed + at);
    }
}

/* ---- weights ---- */

struct panel {
    int32_t *q;   /* [k/2][COL] pairs of words */
    float *scale; /* [k/GROUP, rounded up][COL] */
};

/* How a row stands there: as the file has it, or decoded. */
INLINE enum ft_fmt format_of(uint32_t type) {
    return type == FT_W_F16 ? FT_F16 : type == FT_W_BF16 ? FT_BF16 : FT_F32;
}

/* Rows of the next item come into the second-level cache while tokens are multiplied, but a
 * prompt's activations push the first of them out again. */
INLINE void fetch_group(enum ft_fmt fmt, const uint8_t *row, uint32_t t) {
    _mm_prefetch((const char *)((uintptr_t)row + t * (fmt == FT_F32 ? 4 : 2)), _MM_HINT_T0);
}

/* Numbers [t, t + n) of 16 rows, as f32 into stage [16][GROUP].  scale: what takes each row's words
 * back to numbers.  -> what takes the numbers to words */
INLINE __m512 stage_rows(enum ft_fmt fmt, const uint8_t *const row[16], uint32_t t, uint32_t n,
                         float *stage, float *scale) {
    __m512 max[16], square[16];
    for (uint32_t r = 0; r < 16; r++) {
        __m512 m[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() }, s[2] = { m[0], m[0] };
        for (uint32_t u = 0; u < n; u += 32) {
            UNROLL for (uint32_t j = 0; j < 2; j++) {
                __m512 v = load16(row[r], t + u + 16 * j, fmt);
                if (j == 0) {
                    fetch_group(fmt, row[r], t + u + GROUP);
                }
                _mm512_store_ps(stage + r * GROUP + u + 16 * j, v);
                m[j] = larger(m[j], _mm512_abs_ps(v));
                s[j] = _mm512_fmadd_ps(v, v, s[j]);
            }
        }
        max[r] = larger(m[0], m[1]);
        square[r] = _mm512_add_ps(s[0], s[1]);
    }
    REDUCE16(max, larger);
    REDUCE16(square, ADD);
    __m512 top = max[0], root = _mm512_sqrt_ps(square[0]);
    __mmask16 some = _mm512_cmp_ps_mask(top, _mm512_set1_ps(TINY_W), _CMP_NLT_UQ);
    __m512 back = _mm512_max_ps(_mm512_mul_ps(root, _mm512_set1_ps(1 / ROOT_MAX)),
                                _mm512_mul_ps(top, _mm512_set1_ps(1 / WORD_MAX)));
    _mm512_store_ps(scale, _mm512_maskz_mov_ps(some, back));
    return _mm512_maskz_div_ps(some, _mm512_set1_ps(1), back);
}

/* Numbers [0, k) of n_col rows. */
INLINE void panel_make(enum ft_fmt fmt, const uint8_t *w, size_t stride, uint32_t n_col, uint32_t k,
                       const struct panel *p) {
    _Alignas(64) float stage[16 * GROUP], by[16];
    const uint8_t *row[COL]; /* those behind n_col repeat the last */
    for (uint32_t c = 0; c < COL; c++) {
        row[c] = w + FT_MIN(c, n_col - 1) * stride;
    }
    for (uint32_t t = 0; t < k; t += GROUP) {
        uint32_t n = FT_MIN(k - t, (uint32_t)GROUP);
        for (uint32_t first = 0; first < COL; first += 16) {
            _mm512_store_ps(
                by, stage_rows(fmt, row + first, t, n, stage, p->scale + t / GROUP * COL + first));
            for (uint32_t u = 0; u < n; u += 32) {
                __m512i x[16];
                UNROLL for (uint32_t r = 0; r < 16; r++) {
                    const float *from = stage + r * GROUP + u;
                    x[r] = words(_mm512_load_ps(from), _mm512_load_ps(from + 16),
                                 _mm512_set1_ps(by[r]));
                }
                transpose16(x);
                UNROLL for (uint32_t j = 0; j < 16; j++) {
                    _mm512_store_si512(p->q + ((t + u) / 2 + pair_at(j)) * COL + first, x[j]);
                }
            }
        }
    }
}

/* ---- products ---- */

/* y [n][COL] of n tokens, the columns in mask; group by group in order, whatever n is. */
INLINE void multiply_n(const int32_t *x, const struct panel *p, uint32_t k, uint32_t n, float *y,
                       size_t y_stride, uint32_t mask, bool add) {
    const int32_t *w = p->q;
    __m512 acc[MR][2];
    __mmask16 m[2] = { (__mmask16)mask, (__mmask16)(mask >> 16) };
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            acc[i][v] =
                add ? _mm512_maskz_loadu_ps(m[v], y + i * y_stride + 16 * v) : _mm512_setzero_ps();
        }
    }
    for (uint32_t t = 0; t < k; t += GROUP) {
        const float *scale = (const float *)(const void *)x, *w_scale = p->scale + t / GROUP * COL;
        __m512i dot[MR][2];
        UNROLL for (uint32_t i = 0; i < n; i++) {
            dot[i][0] = dot[i][1] = _mm512_setzero_si512();
        }
        x += MR;
        for (const int32_t *end = x + FT_MIN(k - t, (uint32_t)GROUP) / 2 * MR; x < end;) {
            UNROLL for (uint32_t u = 0; u < 8; u++) {
                __m512i w0 = _mm512_load_si512(w + u * COL),
                        w1 = _mm512_load_si512(w + u * COL + 16);
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    __m512i a = _mm512_set1_epi32(x[u * MR + i]);
                    dot[i][0] = _mm512_dpwssd_epi32(dot[i][0], w0, a);
                    dot[i][1] = _mm512_dpwssd_epi32(dot[i][1], w1, a);
                }
                if (u % 3 == 0) { /* eight pairs of MR tokens are three lines */
                    _mm_prefetch((const char *)((uintptr_t)(x + u * MR) + AHEAD), _MM_HINT_T0);
                }
            }
            x += 8 * MR;
            w += 8 * COL;
        }
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            __m512 s = _mm512_load_ps(w_scale + 16 * v);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m512 d = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][v]), s);
                acc[i][v] = _mm512_fmadd_ps(d, _mm512_set1_ps(scale[i]), acc[i][v]);
            }
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            _mm512_mask_storeu_ps(y + i * y_stride + 16 * v, m[v], acc[i][v]);
        }
    }
}

static void multiply_tile(const int32_t *x, const struct panel *p, uint32_t k, uint32_t n, float *y,
                          size_t y_stride, uint32_t mask, bool add) {
#define CALL(n) multiply_n(x, p, k, n, y, y_stride, mask, add)
    BY_ROWS_6(n, CALL)
}

/* ---- one item ---- */

/* In the scratch: the panel's words and scales, then, for types of others, all rows as f32. */
static size_t q_bytes(uint32_t k) {
    return (size_t)FT_MIN(k, (uint32_t)STRETCH) * COL * 2;
}

static size_t panel_bytes(uint32_t k) {
    return q_bytes(k) + (size_t)group_count(FT_MIN(k, (uint32_t)STRETCH)) * COL * sizeof(float);
}

static size_t scratch_bytes(uint32_t k) {
    return panel_bytes(k) + (size_t)k * COL * sizeof(float);
}

static void decode_rows(const struct ft_matmul_item *it, float *to) {
    for (uint32_t c = 0; c < it->n_col; c++) {
        it->decode((const uint8_t *)it->w + c * it->w_stride, to + (size_t)c * it->k, it->k);
    }
}

static void multiply(const struct ft_matmul_item *it) {
    uint8_t *scratch = it->scratch;
    struct panel p = { .q = it->scratch, .scale = (float *)(void *)(scratch + q_bytes(it->k)) };
    float *decoded = (float *)(void *)(scratch + panel_bytes(it->k));
    uint32_t mask = it->n_col >= COL ? 0xffffffff : (1u << it->n_col) - 1;
    enum ft_fmt fmt = format_of(it->type);
    ft_assert(it->n_col >= 1 && it->n_col <= COL && it->k % 32 == 0);
    if (fmt == FT_F32) {
        decode_rows(it, decoded);
    }
    for (uint32_t t = 0; t < it->k; t += STRETCH) {
        uint32_t n = FT_MIN(it->k - t, (uint32_t)STRETCH);
        const uint8_t *w = (const uint8_t *)it->w + (size_t)t * 2;
        if (fmt == FT_F16) {
            panel_make(FT_F16, w, it->w_stride, it->n_col, n, &p);
        } else if (fmt == FT_BF16) {
            panel_make(FT_BF16, w, it->w_stride, it->n_col, n, &p);
        } else {
            panel_make(FT_F32, (const uint8_t *)(decoded + t), it->k * sizeof(float), it->n_col, n,
                       &p);
        }
        for (uint32_t i = 0; i < it->m; i += MR) {
            const int32_t *x = (const int32_t *)it->packed + tile_words(it->k) * (i / MR) +
                               (size_t)(t / GROUP) * TILE_GROUP;
            uint32_t n_token = FT_MIN(it->m - i, (uint32_t)MR);
            if (t + n == it->k) {
                fetch_next(it, i, n_token);
            }
            multiply_tile(x, &p, n, n_token, it->y + i * it->y_stride, it->y_stride, mask, t > 0);
        }
    }
}

static bool takes(uint32_t type, uint32_t k, bool has_decode) {
    return k > 0 && k % 32 == 0 && (format_of(type) != FT_F32 || has_decode);
}

const struct ft_matmul ft_matmul_int16 = {
    .name = "int16",
    .item_col = COL,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
