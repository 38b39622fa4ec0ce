/* SPDX-License-Identifier: Apache-2.0 */
/* gemm_int8.c - quantised weights times prompts: both sides as bytes, exact integer sums per block.
 *
 * Lab book.  `gemmbench 512 2048 2048`, unpacking included, one thread of a 2-core Zen 4 at
 * 3.65 GHz that was busy (processor time, best of several runs); gcc 12.  The ceiling is 468 GOP/s;
 * byte products, multiplications and fused multiply-adds share two ports, so with a block's 8
 * products go 2 more instructions (3 with an offset or a scale per 16, 4 in q2_K): 374, 340 and 312
 * at most.  Conversions and additions are free, they run on the other two.
 *                                                              q4_K   q8_0   q6_K   q2_K
 *   1  6 x 32 tiles, zero points of symmetric types in the
 *      sums' start values, q3_K and q2_K scales in the bytes    316    349    299    289
 *   2  activations fetched ten blocks ahead, the next item's
 *      rows fetched meanwhile                                   322    351    300    291
 *   3  q6_K: halves of a block for 3 tokens at a time                         306
 * Without unpacking step 1 made 323, 360, 306, 296; with activations fetched ahead 332 and 362.
 *
 * q4_K makes 324 with n 8192 and 326 with k 8192, q8_0 349 and 352; 9, 16, 32 and 64 tokens make
 * 209, 250, 281 and 306 in q4_K.  ggml's mul_mat, one thread, the same shape: q4_K repacked 148 and
 * as stored 72, q4_0 repacked 139, q8_0 109, q6_K 67, q5_K 49, q3_K 54.
 *
 * Tried without gain: stretches of 256 to 1024 numbers, so that a panel stays in the first-level
 * cache (4 to 11 % slower: sums travel to y and back); 64 and 128 columns per item (equal);
 * fetching the panel ahead (1 %, none beside the activations); q6_K 16 columns at a time (a quarter
 * slower).
 */
#include <string.h>

#include "kern/step.h"
#include "kern/unpack.h"

enum {
    COL = FT_PANEL_COL,
    STRETCH = 8192, /* numbers of k that have a panel at a time: 256 KiB and their scales */
    AHEAD = 1920,   /* bytes of activations that are fetched ahead: ten blocks */
    MR = 6,         /* 6 tokens x 32 columns: 12 integer and 12 f32 sums of the 32 registers */
};

/* Activations of a tile of MR tokens, one array behind the other so that a kernel reads those that
 * its kind of panel needs.  Words of 32 bits:
 *
 *   q       [k/4][MR]      four signed bytes
 *   scale   [k/32][MR]     f32
 *   start   [k/32][2][MR]  i32, -128 times the sum of a block's bytes; of its first half
 *   sum     [k/32][2][MR]  f32, scale times the sum of a block's bytes; of its first half
 */
struct tile {
    const int32_t *q, *start;
    const float *scale, *sum;
};

enum { TILE_WORD = 8 + 1 + 2 + 2 }; /* per block of 32 and token */

static struct tile tile_at(const void *packed, uint32_t k, uint32_t index, uint32_t block) {
    size_t n = k / 32 * MR, b = (size_t)block * MR;
    const int32_t *i = (const int32_t *)packed + n * TILE_WORD * index;
    const float *f = (const float *)packed + n * TILE_WORD * index;
    return (struct tile){
        .q = i + 8 * b,
        .scale = f + 8 * n + b,
        .start = i + 9 * n + 2 * b,
        .sum = f + 11 * n + 2 * b,
    };
}

static size_t packed_bytes(uint32_t m, uint32_t k) {
    return (size_t)((m + MR - 1) / MR) * MR * (k / 32) * TILE_WORD * 4;
}

/* ---- activations ---- */

/* Below this a block counts as zero: 127 / max has to be finite. */
#define TINY 0x1p-119f

/* The largest |x| of n numbers, a multiple of 32; a NaN is above all numbers. */
INLINE float largest(const float *x, uint32_t n) {
    __m512i most = _mm512_setzero_si512(), abs = _mm512_set1_epi32(0x7fffffff);
    for (uint32_t t = 0; t < n; t += 16) {
        __m512i v = _mm512_castps_si512(_mm512_loadu_ps(x + t));
        most = _mm512_max_epi32(most, _mm512_and_si512(v, abs));
    }
    int32_t top = _mm512_reduce_max_epi32(most);
    float max;
    memcpy(&max, &top, sizeof max);
    return max;
}

/* One block of 32 of a group's numbers, none above max.  A NaN or an infinity makes the scale one,
 * whatever the bytes are. */
INLINE void pack_block(const float *x, float max, uint32_t group, int32_t *q, float *scale,
                       int32_t *start, float *sum) {
    float inverse = max < TINY ? 0.0f : 127.0f / max;
    __m512 by = _mm512_set1_ps(inverse);
    __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), by)),
            b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), by));
    int32_t bytes[8];
    __m128i a8 = _mm512_cvtsepi32_epi8(a), b8 = _mm512_cvtsepi32_epi8(b);
    _mm_storeu_si128((__m128i *)(void *)bytes, a8);
    _mm_storeu_si128((__m128i *)(void *)(bytes + 4), b8);
    for (int i = 0; i < 8; i++) {
        q[i * MR] = bytes[i];
    }
    int32_t first = _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(a8)),
            all = first + _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(b8));
    float s = max < TINY ? 0.0f : max / 127.0f;
    s = group == 32 ? f16_step(s) : s;
    *scale = s;
    start[0] = -128 * all;
    start[MR] = -128 * first;
    sum[0] = s * (float)all;
    sum[MR] = s * (float)first;
}

/* group: activations whose largest makes the scale, a divisor of k. */
INLINE void pack_groups(const float *x, size_t x_stride, uint32_t k, uint32_t group, uint32_t first,
                        uint32_t n, void *packed) {
    for (uint32_t i = first; i < first + n; i++) {
        size_t block = (size_t)(k / 32) * MR, at = block * TILE_WORD * (i / MR) + i % MR;
        int32_t *w = (int32_t *)packed + at;
        float *f = (float *)packed + at, max = 0;
        for (uint32_t b = 0; b < k / 32; b++) {
            const float *from = x + i * x_stride + b * 32;
            if (b * 32 % group == 0) {
                max = largest(from, group);
            }
            pack_block(from, max, group, w + (size_t)b * 8 * MR, f + 8 * block + (size_t)b * MR,
                       w + 9 * block + (size_t)b * 2 * MR, f + 11 * block + (size_t)b * 2 * MR);
        }
    }
}

static void pack_32(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                    uint32_t n, void *packed) {
    ft_assert(k % 32 == 0 && first <= m && n <= m - first);
    pack_groups(x, x_stride, k, 32, first, n, packed);
}

static void pack_256(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                     uint32_t n, void *packed) {
    ft_assert(k % 256 == 0 && first <= m && n <= m - first);
    pack_groups(x, x_stride, k, 256, first, n, packed);
}

/* ---- products ---- */

INLINE void fetch_ahead(const int32_t *q) {
    _mm_prefetch((const char *)((uintptr_t)q + AHEAD), _MM_HINT_T0);
}

/* Where a block of 32 stands: activations of the tile, and the panel. */
struct block {
    const int32_t *q, *start;
    const float *scale, *sum, *w_scale, *w_offset;
    const uint8_t *w;
};

INLINE struct block block_at(const struct tile *a, const struct ft_panel *p, uint32_t b,
                             enum ft_panel_kind kind) {
    size_t i = (size_t)b * MR, c = (size_t)b * COL;
    return (struct block){
        .q = a->q + 8 * i,
        .start = a->start + 2 * i,
        .scale = a->scale + i,
        .sum = a->sum + 2 * i,
        .w_scale = p->scale + c * (kind == FT_PANEL_HALVES ? 2 : 1),
        .w_offset = p->offset + c * (kind == FT_PANEL_OFFSETS ? 2 : 1),
        .w = p->q + 32 * c,
    };
}

/* acc += one block, of n tokens, with one scale. */
INLINE void add_block(const struct block *b, uint32_t n, enum ft_panel_kind kind,
                      __m512 acc[MR][2]) {
    __m512i dot[MR][2];
    UNROLL for (uint32_t i = 0; i < n; i++) {
        dot[i][0] = dot[i][1] =
            kind == FT_PANEL_PLAIN ? _mm512_set1_epi32(b->start[i]) : _mm512_setzero_si512();
    }
    UNROLL for (uint32_t t = 0; t < 8; t++) {
        __m512i w0 = _mm512_load_si512(b->w + t * COL * 4),
                w1 = _mm512_load_si512(b->w + t * COL * 4 + 64);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m512i x = _mm512_set1_epi32(b->q[t * MR + i]);
            dot[i][0] = _mm512_dpbusd_epi32(dot[i][0], w0, x);
            dot[i][1] = _mm512_dpbusd_epi32(dot[i][1], w1, x);
        }
        if (t % 3 == 0) {
            fetch_ahead(b->q + t * MR);
        }
    }
    UNROLL for (uint32_t v = 0; v < 2; v++) {
        __m512 s = _mm512_load_ps(b->w_scale + 16 * v);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m512 d = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][v]), s);
            acc[i][v] = _mm512_fmadd_ps(d, _mm512_set1_ps(b->scale[i]), acc[i][v]);
        }
        UNROLL for (uint32_t o = 0; o < 2; o++) {
            if (kind == FT_PANEL_OFFSETS || (kind == FT_PANEL_OFFSET && o == 0)) {
                __m512 w = _mm512_load_ps(b->w_offset + o * COL + 16 * v);
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    acc[i][v] = _mm512_fnmadd_ps(w, _mm512_set1_ps(b->sum[o * MR + i]), acc[i][v]);
                }
            }
        }
    }
}

/* acc += one block, of tokens [first, first + n), n <= 3, with a scale per half: the first half's
 * part and the second half's sums live together, which leaves registers for three tokens. */
INLINE void add_halves(const struct block *b, uint32_t first, uint32_t n, __m512 acc[MR][2]) {
    __m512i dot[3][2];
    __m512 part[3][2];
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m512i s = _mm512_set1_epi32(b->start[MR + first + i]);
            if (h == 1) {
                s = _mm512_sub_epi32(_mm512_set1_epi32(b->start[first + i]), s);
            }
            dot[i][0] = dot[i][1] = s;
        }
        UNROLL for (uint32_t t = 4 * h; t < 4 * h + 4; t++) {
            __m512i w0 = _mm512_load_si512(b->w + t * COL * 4),
                    w1 = _mm512_load_si512(b->w + t * COL * 4 + 64);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m512i x = _mm512_set1_epi32(b->q[t * MR + first + i]);
                dot[i][0] = _mm512_dpbusd_epi32(dot[i][0], w0, x);
                dot[i][1] = _mm512_dpbusd_epi32(dot[i][1], w1, x);
            }
            if (first == 0 && t % 3 == 0) {
                fetch_ahead(b->q + t * MR);
            }
        }
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            __m512 s = _mm512_load_ps(b->w_scale + h * COL + 16 * v);
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m512 d = _mm512_cvtepi32_ps(dot[i][v]);
                part[i][v] = h == 0 ? _mm512_mul_ps(d, s) : _mm512_fmadd_ps(d, s, part[i][v]);
            }
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        __m512 s = _mm512_set1_ps(b->scale[first + i]);
        acc[first + i][0] = _mm512_fmadd_ps(part[i][0], s, acc[first + i][0]);
        acc[first + i][1] = _mm512_fmadd_ps(part[i][1], s, acc[first + i][1]);
    }
}

/* y [n][COL] of n tokens, the columns in mask; block by block in order, whatever n is. */
INLINE void multiply_tile(const struct tile *a, const struct ft_panel *p, uint32_t n_block,
                          uint32_t n, enum ft_panel_kind kind, float *y, size_t y_stride,
                          uint32_t mask, bool add) {
    __m512 acc[MR][2];
    __mmask16 m[2] = { (__mmask16)mask, (__mmask16)(mask >> 16) };
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            acc[i][v] =
                add ? _mm512_maskz_loadu_ps(m[v], y + i * y_stride + 16 * v) : _mm512_setzero_ps();
        }
    }
    for (uint32_t i = 0; i < n_block; i++) {
        struct block b = block_at(a, p, i, kind);
        if (kind == FT_PANEL_HALVES) {
            add_halves(&b, 0, FT_MIN(n, 3u), acc);
            if (n > 3) {
                add_halves(&b, 3, n - 3, acc);
            }
        } else {
            add_block(&b, n, kind, acc);
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t v = 0; v < 2; v++) {
            _mm512_mask_storeu_ps(y + i * y_stride + 16 * v, m[v], acc[i][v]);
        }
    }
}

#define TILE(kind, n)                                                                              \
    case n:                                                                                        \
        multiply_tile(a, p, n_block, n, kind, y, y_stride, mask, add);                             \
        break;

#define KERNEL(name, kind)                                                                         \
    static __attribute__((noinline)) void name(const struct tile *a, const struct ft_panel *p,     \
                                               uint32_t n_block, uint32_t n, float *y,             \
                                               size_t y_stride, uint32_t mask, bool add) {         \
        switch (n) {                                                                               \
            TILE(kind, 1)                                                                          \
            TILE(kind, 2)                                                                          \
            TILE(kind, 3)                                                                          \
            TILE(kind, 4)                                                                          \
            TILE(kind, 5)                                                                          \
        default:                                                                                   \
            multiply_tile(a, p, n_block, MR, kind, y, y_stride, mask, add);                        \
        }                                                                                          \
    }

KERNEL(multiply_plain, FT_PANEL_PLAIN)
KERNEL(multiply_halves, FT_PANEL_HALVES)
KERNEL(multiply_offset, FT_PANEL_OFFSET)
KERNEL(multiply_offsets, FT_PANEL_OFFSETS)

/* ---- one item ---- */

struct sizes {
    size_t q, scale, offset; /* bytes of a panel's arrays */
};

static struct sizes panel_sizes(uint32_t k) {
    size_t n = FT_MIN(k, (uint32_t)STRETCH), scale = n / 32 * COL * sizeof(float);
    return (struct sizes){ n * COL, 2 * scale, 2 * scale };
}

static size_t scratch_bytes(uint32_t k) {
    struct sizes s = panel_sizes(k);
    return s.q + s.scale + s.offset + s.scale / 2; /* the last: f16 scales, two of them */
}

/* Products of all tokens with the panel of numbers [t, t + n); y is added to unless t is 0. */
static void multiply_stretch(const struct ft_matmul_item *it, const struct ft_panel *p, uint32_t t,
                             uint32_t n) {
    uint32_t mask = it->n_col >= COL ? 0xffffffff : (1u << it->n_col) - 1;
    enum ft_panel_kind kind = ft_unpack_kind(it->type);
    for (uint32_t i = 0; i < it->m; i += MR) {
        struct tile a = tile_at(it->packed, it->k, i / MR, t / 32);
        uint32_t n_token = FT_MIN(it->m - i, (uint32_t)MR);
        float *y = it->y + i * it->y_stride;
        if (t + n == it->k) {
            fetch_next(it, i, n_token);
        }
        switch (kind) {
        case FT_PANEL_PLAIN:
            multiply_plain(&a, p, n / 32, n_token, y, it->y_stride, mask, t > 0);
            break;
        case FT_PANEL_HALVES:
            multiply_halves(&a, p, n / 32, n_token, y, it->y_stride, mask, t > 0);
            break;
        case FT_PANEL_OFFSET:
            multiply_offset(&a, p, n / 32, n_token, y, it->y_stride, mask, t > 0);
            break;
        case FT_PANEL_OFFSETS:
            multiply_offsets(&a, p, n / 32, n_token, y, it->y_stride, mask, t > 0);
            break;
        }
    }
}

static void multiply(const struct ft_matmul_item *it) {
    struct sizes s = panel_sizes(it->k);
    uint8_t *scratch = it->scratch;
    struct ft_panel p = { .q = scratch,
                          .scale = (float *)(void *)(scratch + s.q),
                          .offset = (float *)(void *)(scratch + s.q + s.scale) };
    uint16_t *half = (uint16_t *)(void *)(scratch + s.q + s.scale + s.offset);
    ft_assert(it->n_col >= 1 && it->n_col <= COL);
    for (uint32_t t = 0; t < it->k; t += STRETCH) {
        uint32_t n = FT_MIN(it->k - t, (uint32_t)STRETCH);
        ft_unpack(it->type, it->w, it->w_stride, it->n_col, t, n, &p, half);
        multiply_stretch(it, &p, t, n);
    }
}

static bool takes(uint32_t type, uint32_t k, uint32_t block) {
    return ft_unpack_block(type) == block && k > 0 && k % block == 0;
}

static bool takes_32(uint32_t type, uint32_t k, bool has_decode) {
    (void)has_decode;
    return takes(type, k, 32);
}

static bool takes_256(uint32_t type, uint32_t k, bool has_decode) {
    (void)has_decode;
    return takes(type, k, 256);
}

const struct ft_matmul ft_matmul_int8 = {
    .name = "int8",
    .item_col = COL,
    .takes = takes_32,
    .packed_bytes = packed_bytes,
    .pack = pack_32,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};

const struct ft_matmul ft_matmul_int8_k = {
    .name = "int8",
    .item_col = COL,
    .takes = takes_256,
    .packed_bytes = packed_bytes,
    .pack = pack_256,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
