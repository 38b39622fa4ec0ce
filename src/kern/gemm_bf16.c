/* SPDX-License-Identifier: Apache-2.0 */
/* gemm_bf16.c - weights stored as bf16 times prompts: activations rounded to bf16, sums in f32.
 *
 * Lab book.  `gemmbench m n k`, panels included, one thread of a 2-core Zen 4 at 3.65 GHz (ceiling
 * 233 GFLOP/s), processor time, the machine busy; gcc 12; f16 weights, converted to bf16, m 512;
 * weights stored as bf16 make 222 with n and k 2048.
 *                                                  n 2048 k 2048    n 8192 k 2048    n 2048 k 8192
 *   1  6 x 64 tiles, panels of 2048 numbers              218              216              197
 *   2  activations fetched ahead                         218              219              216
 *
 * Panels of 1024 or 4096 numbers are 3 % slower with k 8192.  With 9, 16, 32, 64, 128 tokens it
 * makes 109, 137, 163, 188, 198.  oneDNN 2.6.3 (bf16 in, f32 out, OMP_NUM_THREADS=1, its
 * brg:avx512_core_bf16): 222, 224, 223 with weights in its own order, 172 when they are reordered
 * each time (4.9 cycles per weight; panels here take 0.4).  ggml's mul_mat, same shapes: f16 92 to
 * 95, bf16 139, f32 73.
 */
#include <string.h>

#include "kern/unpack.h"

enum {
    COL = 64,
    STRETCH = 2048, /* numbers of k that have a panel at a time: 64 columns are 256 KiB */
    AHEAD = 1920,   /* bytes of activations that are fetched ahead */
    MR = 6, /* 6 tokens x 64 columns: 24 sums, 4 operands and a broadcast of the 32 registers */
};

/* ---- activations: tiles of MR tokens, [k/2][MR] pairs ---- */

static size_t packed_bytes(uint32_t m, uint32_t k) {
    return (size_t)((m + MR - 1) / MR) * MR * k * 2;
}

INLINE __m512i narrow(__m512 low, __m512 high) {
    __m512bh h = _mm512_cvtne2ps_pbh(high, low);
    __m512i x;
    memcpy(&x, &h, sizeof x);
    return x;
}

static void pack(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                 uint32_t n, void *packed) {
    ft_assert(k % 32 == 0 && first <= m && n <= m - first);
    for (uint32_t i = first; i < first + n; i++) {
        const float *from = x + i * x_stride;
        uint32_t *to = (uint32_t *)packed + (size_t)(i / MR) * MR * (k / 2) + i % MR;
        for (uint32_t t = 0; t < k; t += 32) {
            uint32_t pair[16];
            _mm512_storeu_si512(pair,
                                narrow(_mm512_loadu_ps(from + t), _mm512_loadu_ps(from + t + 16)));
            UNROLL for (uint32_t j = 0; j < 16; j++) {
                to[(t / 2 + j) * MR] = pair[j];
            }
        }
    }
}

/* ---- weights: panels [k/2][COL] of pairs ---- */

static void panel_make(const uint8_t *w, size_t stride, uint32_t n_col, uint32_t k,
                       uint32_t *panel) {
    const uint8_t *row[COL]; /* those behind n_col repeat the last */
    for (uint32_t c = 0; c < COL; c++) {
        row[c] = w + FT_MIN(c, n_col - 1) * stride;
    }
    for (uint32_t t = 0; t < k; t += 32) {
        for (uint32_t first = 0; first < COL; first += 16) {
            __m512i x[16];
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                x[c] = _mm512_loadu_si512(row[first + c] + t * 2);
            }
            transpose16(x);
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                _mm512_store_si512(panel + (t / 2 + c) * COL + first, x[c]);
            }
        }
    }
}

/* ---- products ---- */

INLINE __m512bh as_bf16(__m512i x) {
    __m512bh h;
    memcpy(&h, &x, sizeof h);
    return h;
}

/* y [n][COL] of n tokens, the columns in mask; pair by pair in order, whatever n is. */
INLINE void multiply_n(const uint32_t *x, const uint32_t *w, uint32_t n_pair, uint32_t n, float *y,
                       size_t y_stride, uint64_t mask, bool add) {
    __m512 acc[MR][4];
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 4; v++) {
            acc[i][v] =
                add ? _mm512_maskz_loadu_ps((__mmask16)(mask >> 16 * v), y + i * y_stride + 16 * v)
                    : _mm512_setzero_ps();
        }
    }
    for (uint32_t t = 0; t < n_pair; t += 8) {
        UNROLL for (uint32_t u = 0; u < 8; u++) {
            __m512bh b[4];
            UNROLL for (uint32_t v = 0; v < 4; v++) {
                b[v] = as_bf16(_mm512_load_si512(w + u * COL + 16 * v));
            }
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m512bh a = as_bf16(_mm512_set1_epi32((int)x[u * MR + i]));
                UNROLL for (uint32_t v = 0; v < 4; v++) {
                    acc[i][v] = _mm512_dpbf16_ps(acc[i][v], b[v], a);
                }
            }
            if (u % 3 == 0) { /* eight pairs of MR tokens are three lines */
                _mm_prefetch((const char *)((uintptr_t)(x + u * MR) + AHEAD), _MM_HINT_T0);
            }
        }
        x += 8 * MR;
        w += 8 * COL;
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 4; v++) {
            _mm512_mask_storeu_ps(y + i * y_stride + 16 * v, (__mmask16)(mask >> 16 * v),
                                  acc[i][v]);
        }
    }
}

static void multiply_tile(const uint32_t *x, const uint32_t *w, uint32_t n_pair, uint32_t n,
                          float *y, size_t y_stride, uint64_t mask, bool add) {
    switch (n) {
    case 1:
        multiply_n(x, w, n_pair, 1, y, y_stride, mask, add);
        break;
    case 2:
        multiply_n(x, w, n_pair, 2, y, y_stride, mask, add);
        break;
    case 3:
        multiply_n(x, w, n_pair, 3, y, y_stride, mask, add);
        break;
    case 4:
        multiply_n(x, w, n_pair, 4, y, y_stride, mask, add);
        break;
    case 5:
        multiply_n(x, w, n_pair, 5, y, y_stride, mask, add);
        break;
    default:
        multiply_n(x, w, n_pair, MR, y, y_stride, mask, add);
    }
}

/* ---- one item ---- */

static size_t scratch_bytes(uint32_t k) { /* the panel */
    return (size_t)FT_MIN(k, (uint32_t)STRETCH) * COL * 2;
}

static void multiply(const struct ft_matmul_item *it) {
    uint32_t *panel = it->scratch;
    uint64_t mask = it->n_col >= COL ? ~UINT64_C(0) : (UINT64_C(1) << it->n_col) - 1;
    ft_assert(it->n_col >= 1 && it->n_col <= COL && it->k % 32 == 0);
    for (uint32_t t = 0; t < it->k; t += STRETCH) {
        uint32_t n = FT_MIN(it->k - t, (uint32_t)STRETCH);
        panel_make((const uint8_t *)it->w + (size_t)t * 2, it->w_stride, it->n_col, n, panel);
        for (uint32_t i = 0; i < it->m; i += MR) {
            const uint32_t *x =
                (const uint32_t *)it->packed + (size_t)i * (it->k / 2) + (size_t)(t / 2) * MR;
            if (t + n == it->k) {
                fetch_next(it, i, FT_MIN(it->m - i, (uint32_t)MR));
            }
            multiply_tile(x, panel, n / 2, FT_MIN(it->m - i, (uint32_t)MR),
                          it->y + i * it->y_stride, it->y_stride, mask, t > 0);
        }
    }
}

static bool takes(uint32_t type, uint32_t k, bool has_decode) {
    (void)has_decode;
    return type == FT_W_BF16 && k > 0 && k % 32 == 0;
}

const struct ft_matmul ft_matmul_bf16 = {
    .name = "bf16",
    .item_col = COL,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
