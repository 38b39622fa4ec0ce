/* SPDX-License-Identifier: Apache-2.0 */
/* unpack.h - GGUF weight blocks as panels of unsigned bytes, and a transpose that panels need.
 *
 * A panel holds FT_PANEL_COL weight rows ("columns", as they become columns of y) of one stretch of
 * k, four numbers of a column together, as the byte dot products read them.
 *
 *   q        [k/4][FT_PANEL_COL][4]   unsigned bytes
 *   scale    [k/32][1 or 2][FT_PANEL_COL]
 *   offset   [k/32][0, 1 or 2][FT_PANEL_COL]
 *
 * What w[c][t] of a block of 32 is depends on the kind:
 *
 *   FT_PANEL_PLAIN     scale (q - 128)                                  q4_0 q5_0 q8_0 q3_K
 *   FT_PANEL_HALVES    scale[t / 16] (q - 128)                          q6_K
 *   FT_PANEL_OFFSET    scale q - offset                                 q4_1 q5_1 q4_K q5_K
 *   FT_PANEL_OFFSETS   scale q - offset[0] - (t < 16 ? offset[1] : 0)   q2_K
 */
#ifndef FT_KERN_UNPACK_H
#define FT_KERN_UNPACK_H

#include "kern/matmul.h"
#include "kern/next.h"
#include "kern/zmm.h"

enum { FT_PANEL_COL = 32 };

enum ft_panel_kind {
    FT_PANEL_PLAIN,
    FT_PANEL_HALVES,
    FT_PANEL_OFFSET,
    FT_PANEL_OFFSETS,
};

struct ft_panel {
    uint8_t *q;
    float *scale, *offset;
};

/* ft_unpack_block - numbers per block of a type that the panels know; 0: unknown. */
uint32_t ft_unpack_block(uint32_t type);
enum ft_panel_kind ft_unpack_kind(uint32_t type);

/* ft_unpack - numbers [first, first + k) of n_col rows, 1 to FT_PANEL_COL, w_stride bytes apart;
 * first and k are multiples of the type's block.  Columns from n_col on repeat the last row.
 * half_scale: FT_PANEL_COL * (k / 32) * 2 numbers of scratch. */
void ft_unpack(uint32_t type, const void *w, size_t w_stride, uint32_t n_col, uint32_t first,
               uint32_t k, const struct ft_panel *panel, uint16_t *half_scale);

/* Four dwords of each of 16 rows: out[i] lane r = dword i of row r. */
INLINE void transpose4(const __m128i row[16], __m512i out[4]) {
    __m512i x[4], y[4];
    UNROLL for (int i = 0; i < 4; i++) { /* lane j of x[i] is row 4 j + i */
        x[i] = _mm512_castsi128_si512(row[i]);
        x[i] = _mm512_inserti32x4(x[i], row[i + 4], 1);
        x[i] = _mm512_inserti32x4(x[i], row[i + 8], 2);
        x[i] = _mm512_inserti32x4(x[i], row[i + 12], 3);
    }
    y[0] = _mm512_unpacklo_epi32(x[0], x[1]);
    y[1] = _mm512_unpackhi_epi32(x[0], x[1]);
    y[2] = _mm512_unpacklo_epi32(x[2], x[3]);
    y[3] = _mm512_unpackhi_epi32(x[2], x[3]);
    out[0] = _mm512_unpacklo_epi64(y[0], y[2]);
    out[1] = _mm512_unpackhi_epi64(y[0], y[2]);
    out[2] = _mm512_unpacklo_epi64(y[1], y[3]);
    out[3] = _mm512_unpackhi_epi64(y[1], y[3]);
}

#endif
