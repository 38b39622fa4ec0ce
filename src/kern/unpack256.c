/* SPDX-License-Identifier: Apache-2.0 */
/* unpack256.c - GGUF weight blocks to panels of bytes or 16-bit words, in 256-bit registers.
 *
 * Eight rows at a time: 32 numbers of each, in the order of k, then transposed as dwords.
 * Everything is exact: bytes are the stored integers, words their products with the stored integer
 * scale (q6_K: 32 * 128, q3_K: 4 * 32).
 */
#include <string.h>

#include "kern/loads.h"
#include "kern/unpack256.h"
#include "kern/ymm.h"

enum { COL = FT_STRIP_COL, LANE = 8, SUPER = 256 };

/* type, numbers and bytes of a block, numbers that share a scale, largest byte */
#define TYPES(X)                                                                                   \
    X(FT_W_Q4_0, 32, 18, 32, 15)                                                                   \
    X(FT_W_Q4_1, 32, 20, 32, 15)                                                                   \
    X(FT_W_Q5_0, 32, 22, 32, 31)                                                                   \
    X(FT_W_Q5_1, 32, 24, 32, 31)                                                                   \
    X(FT_W_Q8_0, 32, 34, 32, 0)                                                                    \
    X(FT_W_Q3_K, 256, 110, 128, 0)                                                                 \
    X(FT_W_Q4_K, 256, 144, 32, 15)                                                                 \
    X(FT_W_Q5_K, 256, 176, 32, 31)                                                                 \
    X(FT_W_Q6_K, 256, 210, 128, 0)

INLINE struct ft_strip_kind kind_of(uint32_t type) {
    switch (type) {
#define X(type_, block, bytes, scaled, most)                                                       \
    case type_:                                                                                    \
        return (struct ft_strip_kind){ block, bytes, scaled, most };
        TYPES(X)
#undef X
    default:
        return (struct ft_strip_kind){ 0, 0, 0, 0 };
    }
}

struct ft_strip_kind ft_strip_kind(uint32_t type) {
    return kind_of(type);
}

/* ---- panels ---- */

/* Eight dwords of each of eight columns, to the panel's rows of dwords from `to` on. */
INLINE void store_columns(__m256i x[8], void *to) {
    transpose8_words(x);
    UNROLL for (int i = 0; i < 8; i++) {
        _mm256_store_si256((__m256i *)to + i * (COL / LANE), x[i]);
    }
}

/* ---- numbers ---- */

/* 255 in the bytes whose bit is set in both */
INLINE __m256i has_bit(__m256i x, __m256i bit) {
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit);
}

/* bit i of x, as byte i: 0 or 16 */
INLINE __m256i fifth_bits(uint32_t x) {
    const __m256i index =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i at = _mm256_shuffle_epi8(_mm256_set1_epi32((int)x), index);
    return _mm256_and_si256(has_bit(at, _mm256_set1_epi64x((long long)0x8040201008040201)),
                            _mm256_set1_epi8(16));
}

/* numbers [32 i, 32 i + 32) of a block, as unsigned bytes */
INLINE __m256i bytes32(uint32_t type, const uint8_t *b, uint32_t i) {
    const __m256i low4 = _mm256_set1_epi8(15);
    if (type == FT_W_Q4_K || type == FT_W_Q5_K) {
        __m256i n = load256(b + (type == FT_W_Q4_K ? 16 : 48) + i / 2 * 32);
        __m256i q = _mm256_and_si256(i % 2 == 0 ? n : _mm256_srli_epi16(n, 4), low4);
        if (type == FT_W_Q5_K) {
            __m256i high = has_bit(load256(b + 16), _mm256_set1_epi8((char)(1 << i)));
            q = _mm256_or_si256(q, _mm256_and_si256(high, _mm256_set1_epi8(16)));
        }
        return q;
    }
    size_t head = type == FT_W_Q4_0 ? 2 : type == FT_W_Q4_1 ? 4 : type == FT_W_Q5_0 ? 6 : 8;
    __m128i n = load128(b + head);
    __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(n), _mm_srli_epi16(n, 4), 1);
    q = _mm256_and_si256(q, low4);
    if (type == FT_W_Q5_0 || type == FT_W_Q5_1) {
        q = _mm256_or_si256(q, fifth_bits(load32(b + head - 4)));
    }
    return q;
}

/* q3_K: 16 scales of 6 bits less 32; low 4 bits in 8 bytes at 96, high 2 bits in the 4 behind */
INLINE int scale_k3(const uint8_t *b, uint32_t i) {
    uint32_t low = b[96 + i % 8] >> (i < 8 ? 0 : 4) & 15, high = b[104 + i % 4] >> i / 4 * 2 & 3;
    return (int)(low | high << 4) - 32;
}

/* numbers [32 i, 32 i + 32) of a block as words */
INLINE void words32(uint32_t type, const uint8_t *b, uint32_t i, __m256i out[2]) {
    __m256i q = _mm256_setzero_si256();
    int scale[2] = { 1, 1 };
    if (type == FT_W_Q8_0) {
        q = load256(b + 2);
    } else if (type == FT_W_Q6_K) {
        uint32_t h = i / 4, j = i % 4;
        __m256i n = load256(b + h * 64 + j % 2 * 32), top = load256(b + 128 + h * 32);
        n = _mm256_and_si256(j < 2 ? n : _mm256_srli_epi16(n, 4), _mm256_set1_epi8(15));
        top = _mm256_srl_epi16(top, _mm_cvtsi32_si128((int)j * 2));
        top = _mm256_slli_epi16(_mm256_and_si256(top, _mm256_set1_epi8(3)), 4);
        q = _mm256_sub_epi8(_mm256_or_si256(n, top), _mm256_set1_epi8(32));
        scale[0] = (int8_t)b[192 + 2 * i];
        scale[1] = (int8_t)b[193 + 2 * i];
    } else {
        __m256i n = load256(b + 32 + i / 4 * 32);
        n = _mm256_srl_epi16(n, _mm_cvtsi32_si128((int)(i % 4) * 2));
        n = _mm256_and_si256(n, _mm256_set1_epi8(3));
        __m256i kept = has_bit(load256(b), _mm256_set1_epi8((char)(1 << i)));
        q = _mm256_sub_epi8(n, _mm256_andnot_si256(kept, _mm256_set1_epi8(4)));
        scale[0] = scale_k3(b, 2 * i);
        scale[1] = scale_k3(b, 2 * i + 1);
    }
    out[0] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
    out[1] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
    if (type != FT_W_Q8_0) {
        out[0] = _mm256_mullo_epi16(out[0], _mm256_set1_epi16((short)scale[0]));
        out[1] = _mm256_mullo_epi16(out[1], _mm256_set1_epi16((short)scale[1]));
    }
}

/* ---- scales of eight columns ---- */

/* q4_K, q5_K: f16 d and dmin, then 8 scales and 8 minima of 6 bits in 12 bytes, at the start */
INLINE void scales_k45(const uint8_t *const row[LANE], size_t at, float *scale, float *offset) {
    __m256i s[LANE], o[LANE];
    UNROLL for (int c = 0; c < LANE; c++) {
        const uint8_t *b = row[c] + at;
        uint32_t x = load32(b + 4), y = load32(b + 8), z = load32(b + 12);
        uint64_t high_s = (z & 0x0f0f0f0f) | (x >> 2 & 0x30303030),
                 high_o = (z >> 4 & 0x0f0f0f0f) | (y >> 2 & 0x30303030);
        uint64_t s8 = (x & 0x3f3f3f3f) | high_s << 32, o8 = (y & 0x3f3f3f3f) | high_o << 32;
        __m256 sf = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)s8))),
               of = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)o8)));
        s[c] = _mm256_castps_si256(_mm256_mul_ps(sf, _mm256_set1_ps(_cvtsh_ss(load_u16(b)))));
        o[c] = _mm256_castps_si256(_mm256_mul_ps(of, _mm256_set1_ps(_cvtsh_ss(load_u16(b + 2)))));
    }
    store_columns(s, scale);
    store_columns(o, offset);
}

/* One block of eight columns, from row `at` bytes on. */
INLINE void block_scales(uint32_t type, const uint8_t *const row[LANE], size_t at, float *scale,
                         float *offset) {
    if (type == FT_W_Q4_K || type == FT_W_Q5_K) {
        scales_k45(row, at, scale, offset);
        return;
    }
    for (uint32_t c = 0; c < LANE; c++) {
        const uint8_t *b = row[c] + at;
        if (type == FT_W_Q3_K || type == FT_W_Q6_K) {
            scale[c] = scale[COL + c] = _cvtsh_ss(load_u16(b + (type == FT_W_Q3_K ? 108 : 208)));
            continue;
        }
        scale[c] = _cvtsh_ss(load_u16(b));
        if (type == FT_W_Q4_1 || type == FT_W_Q5_1) {
            offset[c] = -_cvtsh_ss(load_u16(b + 2));
        } else if (type != FT_W_Q8_0) {
            offset[c] = scale[c] * (type == FT_W_Q4_0 ? 8 : 16);
        }
    }
}

/* ---- a panel ---- */

/* numbers [32 i, 32 i + 32) of a block of eight columns, to their place in the panel */
INLINE void unpack_32(uint32_t type, const uint8_t *const row[LANE], size_t at, uint32_t i,
                      uint8_t *to) {
    __m256i x[LANE], y[LANE];
    if (kind_of(type).most > 0) {
        UNROLL for (int c = 0; c < LANE; c++) {
            x[c] = bytes32(type, row[c] + at, i);
        }
        store_columns(x, to);
        return;
    }
    UNROLL for (int c = 0; c < LANE; c++) {
        __m256i both[2];
        words32(type, row[c] + at, i, both);
        x[c] = both[0];
        y[c] = both[1];
    }
    store_columns(x, to);
    store_columns(y, to + (size_t)LANE * COL * 4);
}

INLINE void unpack(uint32_t type, const uint8_t *w, size_t stride, uint32_t n_col, uint32_t k,
                   const struct ft_strip *p) {
    struct ft_strip_kind kind = kind_of(type);
    const uint8_t *row[COL];
    for (uint32_t c = 0; c < COL; c++) {
        row[c] = w + FT_MIN(c, n_col - 1) * stride;
    }
    size_t word = kind.most == 0 ? 2 : 1, at = 0;
    for (uint32_t t = 0; t < k; t += kind.block, at += kind.bytes) {
        for (uint32_t first = 0; first < COL; first += LANE) {
            const uint8_t *const *r = (const uint8_t *const *)row + first;
            size_t s = t / kind.scaled * COL + first;
            block_scales(type, r, at, p->scale + s, p->offset ? p->offset + s : NULL);
            for (uint32_t i = 0; i < kind.block / 32; i++) {
                unpack_32(type, r, at, i,
                          (uint8_t *)p->q + (t + 32 * i) * COL * word + (size_t)first * 4);
            }
        }
    }
}

#define X(type, block, bytes, scaled, most)                                                        \
    static __attribute__((noinline)) void unpack_##type(const uint8_t *w, size_t stride,           \
                                                        uint32_t n_col, uint32_t first,            \
                                                        uint32_t k, const struct ft_strip *p) {    \
        unpack(type, w + (size_t)(first / block) * bytes, stride, n_col, k, p);                    \
    }
TYPES(X)
#undef X

void ft_strip_unpack(uint32_t type, const void *w, size_t w_stride, uint32_t n_col, uint32_t first,
                     uint32_t k, const struct ft_strip *strip) {
    switch (type) {
#define X(type_, block, bytes, scaled, most)                                                       \
    case type_:                                                                                    \
        unpack_##type_(w, w_stride, n_col, first, k, strip);                                       \
        break;
        TYPES(X)
#undef X
    default:
        ft_assert(kind_of(type).block != 0);
    }
}
