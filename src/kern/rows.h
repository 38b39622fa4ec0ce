/* SPDX-License-Identifier: Apache-2.0 */
/* rows.h - what the files of the "rows" product share: packed activations and 4 rows at a time.
 *
 * Included by rows512.c and rows512k.c only.  The packed activations of a token do not depend on
 * the type of the weights:
 *
 *   x      [k] f32                       for f16, bf16 and f32 weights
 *   byte   [k] signed bytes              for blocks of 32 weights
 *   start  [k/32][4] i32                 -128 * (sum of bytes 4e .. 4e+3 and 16+4e .. 16+4e+3)
 *   step   [k/32] f32                    x is about step * byte
 *   sum    [k/32] f32                    step * (sum of the block's bytes)
 *   super  [k/256] struct rows_super     for k-quants, when k is a multiple of 256
 *
 * every part starting at a multiple of 64 bytes.
 */
#ifndef FT_KERN_ROWS_H
#define FT_KERN_ROWS_H

#include <immintrin.h>

#include "kern/matmul.h"

#if defined(__clang__)
#define ROWS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ROWS_UNROLL _Pragma("GCC unroll 32")
#endif
/* loops over tokens, sets and parts, whose counts are constants: unrolled */
#define ROWS_EACH(i, n) ROWS_UNROLL for (uint32_t i = 0; i < (n); i++)
#define ROWS_INLINE static inline __attribute__((always_inline))

enum {
    ROWS_SET = 4,       /* rows in a register, 128 bits each */
    ROWS_SETS = 2,      /* sets share activations: repeating 16 bytes four times costs a shuffle */
    ROWS_GROUP = 8,     /* rows multiplied together */
    ROWS_TOKEN = 4,     /* tokens that share unpacked weights: 4 x 2 sums fit the registers */
    ROWS_ITEM = 32,     /* rows of a work item */
    ROWS_AHEAD = 16384, /* bytes of weights prefetched at least */
};

/* 256 activations for the k-quants, x being about d * byte: one step for all, as in ggml's own
 * products, so that the same activations become the same bytes there, in prompts and here. */
struct rows_super {
    int8_t byte[256];
    int32_t start[64]; /* -32 * (sum of bytes 4e .. 4e+3): the offset of q6_K's weights */
    int16_t sum[8];    /* of the bytes of 32 each */
    float d;
    float pad[11];
};
_Static_assert(sizeof(struct rows_super) % 64 == 0, "the part behind it stays aligned");

struct rows_part {
    size_t byte, start, step, sum, super, total; /* byte offsets in a token's part */
};

ROWS_INLINE struct rows_part rows_part(uint32_t k) {
    const size_t scales = (k / 32 * sizeof(float) + 63) / 64 * 64;
    struct rows_part at = { .byte = (size_t)k * sizeof(float) };
    at.start = (at.byte + k + 63) / 64 * 64;
    at.step = (at.start + k / 32 * 16 + 63) / 64 * 64;
    at.sum = at.step + scales;
    at.super = at.sum + scales;
    at.total = at.super + (k % 256 == 0 ? k / 256 * sizeof(struct rows_super) : 0);
    return at;
}

/* A group of rows and the tokens to multiply it with.  Where fewer than ROWS_GROUP rows are left,
 * the last is repeated and n says how many count. */
struct rows_job {
    const uint8_t *w[ROWS_GROUP];
    const uint8_t *token; /* first token's packed part */
    size_t token_bytes;
    struct rows_part at;
    uint32_t k, n;
    size_t ahead; /* bytes from a group to the one prefetched meanwhile */
    float *y;
    size_t y_stride;
};

/* ---- four rows in a register: row r of the set in 128-bit lane r ---- */

ROWS_INLINE __m128i rows_load16(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* 16 bytes of each row. */
ROWS_INLINE __m512i rows_gather(const uint8_t *const w[ROWS_SET], size_t at) {
    /* not three inserts into 512 bits: loads of 256 bits and less can be two per clock */
    __m256i a = _mm256_castsi128_si256(rows_load16(w[0] + at));
    __m256i b = _mm256_castsi128_si256(rows_load16(w[2] + at));
    a = _mm256_inserti128_si256(a, rows_load16(w[1] + at), 1);
    b = _mm256_inserti128_si256(b, rows_load16(w[3] + at), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

/* A 16-bit number of each row. */
ROWS_INLINE uint64_t rows_gather16(const uint8_t *const w[ROWS_SET], size_t at) {
    uint16_t h[ROWS_SET];
    ROWS_UNROLL for (int r = 0; r < ROWS_SET; r++) {
        __builtin_memcpy(&h[r], w[r] + at, sizeof h[r]);
    }
    return h[0] | (uint64_t)h[1] << 16 | (uint64_t)h[2] << 32 | (uint64_t)h[3] << 48;
}

/* An f16 of each row of both sets. */
ROWS_INLINE __m256 rows_gather_f16(const struct rows_job *job, size_t at) {
    const __m128i low = _mm_cvtsi64_si128((long long)rows_gather16(job->w, at));
    return _mm256_cvtph_ps(
        _mm_insert_epi64(low, (long long)rows_gather16(job->w + ROWS_SET, at), 1));
}

/* Of the numbers of both sets, those of set s: number r four times in lane r. */
ROWS_INLINE __m512 rows_spread(__m256 x, int s) {
    const __m512i place = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(_mm512_add_epi32(place, _mm512_set1_epi32(ROWS_SET * s)),
                                 _mm512_castps256_ps512(x));
}

ROWS_INLINE __m512i rows_bytes(uint32_t byte) {
    return _mm512_set1_epi32((int)(byte * 0x01010101u));
}

/* 16 bytes of the activations, for all four rows. */
ROWS_INLINE __m512i rows_repeat(const void *p) {
    return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)p));
}

/* Sums of four rows, four in each lane.  The order of additions is that of every row. */
ROWS_INLINE __m512 rows_fold(const __m512 s[ROWS_SET]) {
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(s[0], s[1], 0x44),
                             _mm512_shuffle_f32x4(s[0], s[1], 0xee));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(s[2], s[3], 0x44),
                             _mm512_shuffle_f32x4(s[2], s[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Sum each lane of four: row r's sum in place r. */
ROWS_INLINE __m128 rows_sum(__m512 s) {
    const __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, s));
}

/* The outputs of token t for set s. */
ROWS_INLINE void rows_store(const struct rows_job *job, uint32_t t, uint32_t s, __m128 y) {
    const uint32_t mask = ((1u << job->n) - 1) >> (ROWS_SET * s) & 0xf;
    _mm_mask_storeu_ps(job->y + t * job->y_stride + ROWS_SET * s, (__mmask8)mask, y);
}

/* Of `rows` rows from row `first` of a later group: ask for the bytes that hold as much as [at,
 * at + n) of each, but in the order of memory: one stream, though the rows multiplied together are
 * several.  Into the second-level cache: it is far ahead. */
ROWS_INLINE void rows_prefetch(const struct rows_job *job, uint32_t first, uint32_t rows, size_t at,
                               size_t n) {
    const uintptr_t later = (uintptr_t)job->w[first] + job->ahead + rows * at;
    ROWS_UNROLL for (size_t i = 0; i < (n * rows + 63) / 64; i++) {
        _mm_prefetch((const char *)(later + 64 * i), _MM_HINT_T1);
    }
}

typedef void (*rows_run)(const struct rows_job *job);

/* ft_kern__rows_k - the products of a k-quant with 1..ROWS_TOKEN tokens, or NULL: another type. */
rows_run ft_kern__rows_k(uint32_t type, uint32_t m);

#endif
