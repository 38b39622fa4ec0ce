/* SPDX-License-Identifier: Apache-2.0 */
/* unpack512.c - GGUF weight blocks to panels of unsigned bytes, in 512-bit registers.
 *
 * Sixteen rows at a time: 64 numbers of each become 64 bytes in the order of k, then sixteen such
 * registers are transposed as dwords.  Everything is exact: bytes are the stored integers, or their
 * products with the stored integer scale where those fit a byte (q2_K: 3 * 15, q3_K: -124..128).
 *
 * Lab book, cycles per weight out of the cache / out of memory, one thread of a 2-core Zen 4 at
 * 3.65 GHz, k 2048: q4_0 0.15 / 0.22, q4_1 0.18 / 0.30, q5_0 0.17 / 0.30, q5_1 0.19 / 0.27, q8_0
 * 0.12 / 0.41, q2_K 0.14 / 0.32, q3_K 0.18 / 0.47, q4_K 0.10 / 0.37, q5_K 0.12 / 0.47, q6_K 0.12 /
 * 0.49.  A product with 512 tokens takes 10 to 12, so unpacking is 1 to 2 % of it once the rows are
 * in the cache: hence fetch_next.
 */
#include <string.h>

#include "kern/loads.h"
#include "kern/unpack.h"

enum { COL = FT_PANEL_COL, SUPER = 256 };

/* type, numbers and bytes of a block, kind */
#define TYPES(X)                                                                                   \
    X(FT_W_Q4_0, 32, 18, FT_PANEL_PLAIN)                                                           \
    X(FT_W_Q4_1, 32, 20, FT_PANEL_OFFSET)                                                          \
    X(FT_W_Q5_0, 32, 22, FT_PANEL_PLAIN)                                                           \
    X(FT_W_Q5_1, 32, 24, FT_PANEL_OFFSET)                                                          \
    X(FT_W_Q8_0, 32, 34, FT_PANEL_PLAIN)                                                           \
    X(FT_W_Q2_K, 256, 84, FT_PANEL_OFFSETS)                                                        \
    X(FT_W_Q3_K, 256, 110, FT_PANEL_PLAIN)                                                         \
    X(FT_W_Q4_K, 256, 144, FT_PANEL_OFFSET)                                                        \
    X(FT_W_Q5_K, 256, 176, FT_PANEL_OFFSET)                                                        \
    X(FT_W_Q6_K, 256, 210, FT_PANEL_HALVES)

uint32_t ft_unpack_block(uint32_t type) {
    switch (type) {
#define X(type_, n, bytes, kind)                                                                   \
    case type_:                                                                                    \
        return n;
        TYPES(X)
#undef X
    default:
        return 0;
    }
}

enum ft_panel_kind ft_unpack_kind(uint32_t type) {
    switch (type) {
#define X(type_, n, bytes, kind)                                                                   \
    case type_:                                                                                    \
        return kind;
        TYPES(X)
#undef X
    default:
        return FT_PANEL_PLAIN;
    }
}

INLINE size_t block_bytes(uint32_t type) {
    switch (type) {
#define X(type_, n, bytes, kind)                                                                   \
    case type_:                                                                                    \
        return bytes;
        TYPES(X)
#undef X
    default:
        return 0;
    }
}

/* ---- loads ---- */

INLINE __m512i pair256(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

INLINE __m512i both256(const void *p) {
    return _mm512_broadcast_i64x4(load256(p));
}

/* x in the low 32 bytes, y in the high ones */
INLINE __m512i halves8(int x, int y) {
    return pair256(_mm256_set1_epi8((char)x), _mm256_set1_epi8((char)y));
}

/* rows of a panel: those behind n_col repeat the last */
INLINE void row_pointers(const uint8_t *w, size_t stride, uint32_t n_col, const uint8_t *row[COL]) {
    for (uint32_t c = 0; c < COL; c++) {
        row[c] = w + FT_MIN(c, n_col - 1) * stride;
    }
}

INLINE void store_columns(__m512i x[16], uint32_t n, uint8_t *q) {
    transpose16(x);
    UNROLL for (uint32_t i = 0; i < 16; i++) {
        if (i < n) {
            _mm512_store_si512(q + i * COL * 4, x[i]);
        }
    }
}

/* ---- blocks of 32 with one scale ---- */

/* 32 numbers of a block as bytes */
INLINE __m256i bytes32(uint32_t type, const uint8_t *b) {
    const __m256i low4 = _mm256_set1_epi8(15);
    if (type == FT_W_Q8_0) {
        return _mm256_xor_si256(load256(b + 2), _mm256_set1_epi8((char)0x80));
    }
    size_t head = type == FT_W_Q4_0 ? 2 : type == FT_W_Q4_1 ? 4 : type == FT_W_Q5_0 ? 6 : 8;
    __m128i n = load128(b + head);
    __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(n), _mm_srli_epi16(n, 4), 1);
    q = _mm256_and_si256(q, low4);
    if (type == FT_W_Q5_0 || type == FT_W_Q5_1) {
        q = _mm256_mask_add_epi8(q, load32(b + head - 4), q, _mm256_set1_epi8(16));
    }
    if (type == FT_W_Q4_0 || type == FT_W_Q5_0) {
        q = _mm256_add_epi8(q, _mm256_set1_epi8(type == FT_W_Q4_0 ? 128 - 8 : 128 - 16));
    }
    return q;
}

/* Scales and minima, row by row so that memory is read in order, then as f32. */
INLINE void scales32(uint32_t type, const uint8_t *const row[COL], uint32_t n_block,
                     const struct ft_panel *p, uint16_t *half) {
    bool has_min = type == FT_W_Q4_1 || type == FT_W_Q5_1;
    size_t bytes = block_bytes(type), n_half = (size_t)n_block * COL;
    for (uint32_t c = 0; c < COL; c++) {
        const uint8_t *b = row[c];
        for (uint32_t i = 0; i < n_block; i++, b += bytes) {
            half[i * COL + c] = load_u16(b);
            if (has_min) {
                half[n_half + i * COL + c] = load_u16(b + 2);
            }
        }
    }
    for (size_t i = 0; i < n_half; i += 16) {
        _mm512_store_ps(p->scale + i, _mm512_cvtph_ps(load256(half + i)));
        if (has_min) {
            __m512 min = _mm512_cvtph_ps(load256(half + n_half + i));
            _mm512_store_ps(p->offset + i, _mm512_sub_ps(_mm512_setzero_ps(), min));
        }
    }
}

INLINE void unpack32(uint32_t type, const uint8_t *w, size_t stride, uint32_t n_col, uint32_t k,
                     const struct ft_panel *p, uint16_t *half) {
    const uint8_t *row[COL];
    size_t bytes = block_bytes(type);
    row_pointers(w, stride, n_col, row);
    scales32(type, (const uint8_t *const *)row, k / 32, p, half);
    for (uint32_t t = 0; t < k; t += 64) {
        bool full = k - t >= 64;
        size_t at = t / 32 * bytes;
        for (uint32_t first = 0; first < COL; first += 16) {
            __m512i x[16];
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                const uint8_t *b = row[first + c] + at;
                __m256i low = bytes32(type, b);
                x[c] = full ? pair256(low, bytes32(type, b + bytes)) : _mm512_castsi256_si512(low);
            }
            store_columns(x, full ? 16 : 8, p->q + (t * COL + first * 4));
        }
    }
}

/* ---- superblocks of 256 ---- */

/* byte i of each dword as f32 */
INLINE __m512 byte_ps(__m512i x, uint32_t i) {
    return _mm512_cvtepi32_ps(
        _mm512_and_si512(_mm512_srli_epi32(x, 8 * i), _mm512_set1_epi32(0xff)));
}

INLINE __m512 signed_byte_ps(__m512i x, uint32_t i) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * i), 24));
}

INLINE __m512 low_half_ps(__m512i x) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

INLINE __m512 high_half_ps(__m512i x) {
    return low_half_ps(_mm512_srli_epi32(x, 16));
}

/* the dword at byte `at` of each row's block */
INLINE __m512i gather_dword(const uint8_t *const *row, size_t at) {
    __m128i x[4];
    UNROLL for (int i = 0; i < 4; i++) {
        x[i] = _mm_cvtsi32_si128((int)load32(row[4 * i] + at));
        x[i] = _mm_insert_epi32(x[i], (int)load32(row[4 * i + 1] + at), 1);
        x[i] = _mm_insert_epi32(x[i], (int)load32(row[4 * i + 2] + at), 2);
        x[i] = _mm_insert_epi32(x[i], (int)load32(row[4 * i + 3] + at), 3);
    }
    return pair256(_mm256_inserti128_si256(_mm256_castsi128_si256(x[0]), x[1], 1),
                   _mm256_inserti128_si256(_mm256_castsi128_si256(x[2]), x[3], 1));
}

/* q4_K, q5_K: f16 d and dmin, then 8 scales and 8 minima of 6 bits in 12 bytes, at the start */
INLINE void scales_k45(const uint8_t *const *row, size_t at, float *scale, float *offset) {
    const __m512i low6 = _mm512_set1_epi32(0x3f3f3f3f), low4 = _mm512_set1_epi32(0x0f0f0f0f),
                  top2 = _mm512_set1_epi32(0x30303030);
    __m128i head[16];
    __m512i h[4], s[2], m[2];
    UNROLL for (int c = 0; c < 16; c++) {
        head[c] = load128(row[c] + at);
    }
    transpose4(head, h);
    __m512 d = low_half_ps(h[0]), dmin = high_half_ps(h[0]);
    s[0] = _mm512_and_si512(h[1], low6);
    m[0] = _mm512_and_si512(h[2], low6);
    s[1] = _mm512_or_si512(_mm512_and_si512(h[3], low4),
                           _mm512_and_si512(_mm512_srli_epi32(h[1], 2), top2));
    m[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(h[3], 4), low4),
                           _mm512_and_si512(_mm512_srli_epi32(h[2], 2), top2));
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        _mm512_store_ps(scale + i * COL, _mm512_mul_ps(d, byte_ps(s[i / 4], i % 4)));
        _mm512_store_ps(offset + i * COL, _mm512_mul_ps(dmin, byte_ps(m[i / 4], i % 4)));
    }
}

/* q6_K: 16 signed scales at 192, d at 208 */
INLINE void scales_k6(const uint8_t *const *row, size_t at, float *scale) {
    __m128i head[16];
    __m512i h[4];
    UNROLL for (int c = 0; c < 16; c++) {
        head[c] = load128(row[c] + at + 192);
    }
    transpose4(head, h);
    __m512 d = high_half_ps(gather_dword(row, at + 206));
    UNROLL for (uint32_t i = 0; i < 16; i++) {
        _mm512_store_ps(scale + i * COL, _mm512_mul_ps(d, signed_byte_ps(h[i / 4], i % 4)));
    }
}

/* q2_K: 16 bytes of scale (low 4 bits, already in the panel's bytes) and minimum at the start; d
 * and dmin at 80 */
INLINE void scales_k2(const uint8_t *const *row, size_t at, float *scale, float *offset) {
    __m128i head[16];
    __m512i h[4], dd = gather_dword(row, at + 80);
    UNROLL for (int c = 0; c < 16; c++) {
        head[c] = load128(row[c] + at);
    }
    transpose4(head, h);
    __m512 d = low_half_ps(dd), dmin = high_half_ps(dd);
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        __m512i m = _mm512_and_si512(_mm512_srli_epi32(h[i / 2], 4), _mm512_set1_epi32(0x0f0f0f0f));
        __m512 low = _mm512_mul_ps(dmin, byte_ps(m, i % 2 * 2)),
               high = _mm512_mul_ps(dmin, byte_ps(m, i % 2 * 2 + 1));
        _mm512_store_ps(scale + i * COL, d);
        _mm512_store_ps(offset + i * 2 * COL, high);
        _mm512_store_ps(offset + (i * 2 + 1) * COL, _mm512_sub_ps(low, high));
    }
}

/* q3_K: d at 108; its sign is turned, see bytes_k3 */
INLINE void scales_k3(const uint8_t *const *row, size_t at, float *scale) {
    __m512 d = _mm512_sub_ps(_mm512_setzero_ps(), high_half_ps(gather_dword(row, at + 106)));
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        _mm512_store_ps(scale + i * COL, d);
    }
}

/* q3_K: 16 scales of 6 bits less 32, as bytes; low 4 bits in 8 bytes at 96, high 2 bits in the 4
 * bytes behind */
INLINE __m128i scale_bytes_k3(const uint8_t *b) {
    __m128i a = _mm_srli_si128(load128(b + 94), 2);
    __m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(a, 0x44), _mm_setr_epi32(0, 0, 4, 4));
    __m128i high = _mm_srlv_epi32(_mm_shuffle_epi32(a, 0xaa), _mm_setr_epi32(0, 2, 4, 6));
    low = _mm_and_si128(low, _mm_set1_epi8(15));
    high = _mm_slli_epi32(_mm_and_si128(high, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
}

/* bytes 4 i .. 4 i + 3 of s, 16 times each */
INLINE __m512i spread16(__m128i s, uint32_t i) {
    __m512i index =
        _mm512_add_epi8(_mm512_set1_epi8((char)(4 * i)),
                        _mm512_set_epi32(0x03030303, 0x03030303, 0x03030303, 0x03030303, 0x02020202,
                                         0x02020202, 0x02020202, 0x02020202, 0x01010101, 0x01010101,
                                         0x01010101, 0x01010101, 0, 0, 0, 0));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(s), index);
}

/* q2_K, q3_K: two bits of 128 numbers in 32 bytes, two bits further every 32 numbers; those of
 * numbers [64 i, 64 i + 64) times their scale */
INLINE __m512i times_two_bits(const uint8_t *qs, uint32_t i, __m512i s) {
    __m512i q = both256(qs + i / 2 * 32);
    int bit = i % 2 * 4;
    __mmask64 one = _mm512_test_epi8_mask(q, halves8(1 << bit, 4 << bit)),
              two = _mm512_test_epi8_mask(q, halves8(2 << bit, 8 << bit));
    __m512i x = _mm512_maskz_mov_epi8(one, s);
    return _mm512_mask_add_epi8(x, two, x, _mm512_add_epi8(s, s));
}

INLINE __m512i four_times(__m512i s) {
    s = _mm512_add_epi8(s, s);
    return _mm512_add_epi8(s, s);
}

/* 128 - (q - 4) scale: the product may be 128 but not -128; the third bit in 32 bytes at the start,
 * one bit further every 32 numbers, is set where 4 is NOT taken off */
INLINE __m512i bytes_k3(const uint8_t *b, uint32_t i, __m128i scale) {
    __m512i s = spread16(scale, i), x = times_two_bits(b + 32, i, s);
    __mmask64 less = _mm512_testn_epi8_mask(both256(b), halves8(1 << 2 * i, 2 << 2 * i));
    x = _mm512_mask_sub_epi8(x, less, x, four_times(s));
    return _mm512_sub_epi8(_mm512_set1_epi8((char)0x80), x);
}

/* numbers [64 i, 64 i + 64) of a superblock; scale: q2_K and q3_K's bytes */
INLINE __m512i bytes_k(uint32_t type, const uint8_t *b, uint32_t i, __m128i scale) {
    const __m512i low4 = _mm512_set1_epi8(15);
    if (type == FT_W_Q2_K) {
        return times_two_bits(b + 16, i, spread16(scale, i));
    }
    if (type == FT_W_Q3_K) {
        return bytes_k3(b, i, scale);
    }
    if (type == FT_W_Q6_K) {
        __m512i q = _mm512_loadu_si512(b + i / 2 * 64), h = both256(b + 128 + i / 2 * 32);
        q = i % 2 == 0 ? q : _mm512_srli_epi16(q, 4);
        /* two bits at 0, 2, 4, 6 move to 4; what rotates in from neighbours is masked */
        h = _mm512_rorv_epi64(h, i % 2 == 0 ? _mm512_set_epi64(62, 62, 62, 62, 60, 60, 60, 60)
                                            : _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0));
        q = _mm512_or_si512(_mm512_and_si512(q, low4), _mm512_and_si512(h, _mm512_set1_epi8(0x30)));
        return _mm512_add_epi8(q, _mm512_set1_epi8(128 - 32));
    }
    __m256i n = load256(b + (type == FT_W_Q4_K ? 16 : 48) + i * 32);
    __m512i q = _mm512_and_si512(pair256(n, _mm256_srli_epi16(n, 4)), low4);
    if (type == FT_W_Q5_K) {
        __mmask64 high = _mm512_test_epi8_mask(both256(b + 16), halves8(1 << 2 * i, 2 << 2 * i));
        q = _mm512_mask_add_epi8(q, high, q, _mm512_set1_epi8(16));
    }
    return q;
}

INLINE void unpack256(uint32_t type, const uint8_t *w, size_t stride, uint32_t n_col, uint32_t k,
                      const struct ft_panel *p) {
    const uint8_t *row[COL];
    size_t bytes = block_bytes(type), at = 0;
    row_pointers(w, stride, n_col, row);
    for (uint32_t t = 0; t < k; t += SUPER, at += bytes) {
        for (uint32_t first = 0; first < COL; first += 16) {
            const uint8_t *const *r = (const uint8_t *const *)row + first;
            float *scale = p->scale + t / 32 * (type == FT_W_Q6_K ? 2 : 1) * COL + first,
                  *offset = p->offset + t / 32 * (type == FT_W_Q2_K ? 2 : 1) * COL + first;
            __m128i s[16] = { 0 };
            if (type == FT_W_Q2_K) {
                scales_k2(r, at, scale, offset);
            } else if (type == FT_W_Q3_K) {
                scales_k3(r, at, scale);
            } else if (type == FT_W_Q6_K) {
                scales_k6(r, at, scale);
            } else {
                scales_k45(r, at, scale, offset);
            }
            UNROLL for (uint32_t c = 0; c < 16; c++) {
                if (type == FT_W_Q2_K) {
                    s[c] = _mm_and_si128(load128(r[c] + at), _mm_set1_epi8(15));
                } else if (type == FT_W_Q3_K) {
                    s[c] = scale_bytes_k3(r[c] + at);
                }
            }
            UNROLL for (uint32_t i = 0; i < SUPER / 64; i++) {
                __m512i x[16];
                UNROLL for (uint32_t c = 0; c < 16; c++) {
                    x[c] = bytes_k(type, r[c] + at, i, s[c]);
                }
                store_columns(x, 16, p->q + ((t + 64 * i) * COL + first * 4));
            }
        }
    }
}

#define X(type, n, bytes, kind)                                                                    \
    static __attribute__((noinline)) void unpack_##type(                                           \
        const uint8_t *w, size_t stride, uint32_t n_col, uint32_t first, uint32_t k,               \
        const struct ft_panel *p, uint16_t *half) {                                                \
        if (n == 32) {                                                                             \
            unpack32(type, w + (size_t)(first / n) * bytes, stride, n_col, k, p, half);            \
        } else {                                                                                   \
            unpack256(type, w + (size_t)(first / n) * bytes, stride, n_col, k, p);                 \
        }                                                                                          \
    }
TYPES(X)
#undef X

void ft_unpack(uint32_t type, const void *w, size_t w_stride, uint32_t n_col, uint32_t first,
               uint32_t k, const struct ft_panel *panel, uint16_t *half_scale) {
    switch (type) {
#define X(type_, n, bytes, kind)                                                                   \
    case type_:                                                                                    \
        unpack_##type_(w, w_stride, n_col, first, k, panel, half_scale);                           \
        break;
        TYPES(X)
#undef X
    default:
        ft_assert(ft_unpack_block(type) != 0);
    }
}
