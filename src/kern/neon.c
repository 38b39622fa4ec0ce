/* SPDX-License-Identifier: Apache-2.0 */
/* neon.c - the kernels in 128-bit registers of the base AArch64 instruction set: f32 arithmetic,
 * rows converted in registers.
 *
 * Lab book.  No time of a real core yet: answers are checked under qemu-aarch64
 * (tests/install/neon.sh), whose clock says nothing.  Counted instead, in the inner loops of
 * `aarch64-linux-gnu-objdump -d` (gcc 12, -O2, f16 rows): other instructions per multiply-add of
 * four lanes.                                                           logits   p v    few (m = 4)
 *   1  8 queries x 8 keys or channels, 4 numbers of q (of p) in one
 *      register and multiplied by lane; indices of 32 bits                  0.86   0.58      1.53
 *   2  pointers that move instead of indices                                0.28   0.48      1.19
 *
 * Sixteen sums hide a latency of four cycles on four pipes.  With fewer than 5 queries a call takes
 * 2 or 4 times as many keys or channels, so that there are never fewer than 8 sums.
 */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kern/inline.h"
#include "kern/kern.h"
#include "kern/packwords.h"

enum {
    MR = 8,          /* 8 queries x 8 keys: 16 sums, 2 operands and 8 registers of q of the 32 */
    SOFTMAX_ROW = 4, /* the factors of 4 rows are one exp */
    PANEL = 8,       /* keys side by side in a panel */
    N_PANEL = FT_TILE_ROW / PANEL,
    FEW = 4, /* queries that share 4 rows of K in attend_few: 16 sums */
};

struct tile_work;
struct rows;
struct panel {
    const float *data; /* [N_PANEL][d][PANEL] */
};
static struct panel panel_make(const struct rows *k, uint32_t d, float *to);
static void logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m, uint32_t d,
                   float *s);
static void softmax_rows(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                         float *max, float *sum, float *shrink, bool weights);
static void values_add(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                       const float *shrink, float *acc, uint32_t d);
static void mass_fold(const struct tile_work *w, const struct ft_vote *v, float *out,
                      uint32_t rows);

#include "kern/tile.h"

/* A format known at compile time for everything that is inlined into `call`. */
#define BY_FORMAT(fmt, call)                                                                       \
    switch (fmt) {                                                                                 \
    case FT_F32:                                                                                   \
        call(FT_F32);                                                                              \
        break;                                                                                     \
    case FT_F16:                                                                                   \
        call(FT_F16);                                                                              \
        break;                                                                                     \
    case FT_BF16:                                                                                  \
        call(FT_BF16);                                                                             \
        break;                                                                                     \
    default:                                                                                       \
        call(FT_Q8_0);                                                                             \
        break;                                                                                     \
    }

/* ---- row formats ---- */

enum { Q8_BLOCK = 32, Q8_BYTE = 34 }; /* numbers and bytes of a block: f16 scale, signed bytes */

INLINE float32x4_t wide_f16(uint16x4_t h) {
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

INLINE float32x4_t wide_bf16(uint16x4_t h) {
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}

struct eight {
    float32x4_t low, high;
};

/* Numbers [t, t + 8) of a row; t is a multiple of 8. */
INLINE struct eight load8(const char *row, size_t t, enum ft_fmt fmt) {
    if (fmt == FT_F32) {
        const float *x = (const float *)(const void *)row + t;
        return (struct eight){ vld1q_f32(x), vld1q_f32(x + 4) };
    }
    if (fmt == FT_Q8_0) { /* exact: 11 bits of scale times 7 bits */
        const char *block = row + t / Q8_BLOCK * Q8_BYTE;
        uint16_t bits;
        memcpy(&bits, block, sizeof bits); /* a block starts at any even byte */
        float32x4_t scale = wide_f16(vdup_n_u16(bits));
        int16x8_t x = vmovl_s8(vld1_s8((const int8_t *)block + 2 + t % Q8_BLOCK));
        return (struct eight){ vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), scale),
                               vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(x))), scale) };
    }
    uint16x8_t h = vld1q_u16((const uint16_t *)(const void *)row + t);
    return fmt == FT_F16
               ? (struct eight){ wide_f16(vget_low_u16(h)), wide_f16(vget_high_u16(h)) }
               : (struct eight){ wide_bf16(vget_low_u16(h)), wide_bf16(vget_high_u16(h)) };
}

/* Nearest even; a NaN keeps its sign and upper payload and is made quiet, as fcvtn does for f16. */
INLINE uint16x4_t narrow_bf16(float32x4_t x) {
    uint32x4_t u = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t up = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    up = vbslq_u32(vceqq_f32(x, x), up, vorrq_u32(u, vdupq_n_u32(0x400000)));
    return vshrn_n_u32(up, 16);
}

/* How many of n numbers the loops over eights take; ref does the rest. */
INLINE size_t whole_eights(enum ft_fmt fmt, size_t n) {
    return fmt == FT_F16 || fmt == FT_BF16 ? n & ~(size_t)7 : 0;
}

static void encode(enum ft_fmt fmt, const float *src, void *dst, size_t n) {
    size_t whole = whole_eights(fmt, n);
    for (size_t i = 0; i < whole; i += 4) {
        float32x4_t x = vld1q_f32(src + i);
        vst1_u16((uint16_t *)dst + i,
                 fmt == FT_F16 ? vreinterpret_u16_f16(vcvt_f16_f32(x)) : narrow_bf16(x));
    }
    ft_kern_ref.encode(fmt, src + whole, (char *)dst + whole * 2, n - whole);
}

INLINE void decode_eights(enum ft_fmt fmt, const char *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        struct eight x = load8(src, i, fmt);
        vst1q_f32(dst + i, x.low);
        vst1q_f32(dst + i + 4, x.high);
    }
}

static void decode(enum ft_fmt fmt, const void *src, float *dst, size_t n) {
    size_t whole = whole_eights(fmt, n);
    if (fmt == FT_Q8_0) { /* nothing but whole blocks */
        decode_eights(FT_Q8_0, src, dst, n);
        return;
    }
    if (fmt == FT_F16) {
        decode_eights(FT_F16, src, dst, whole);
    } else {
        decode_eights(FT_BF16, src, dst, whole);
    }
    ft_kern_ref.decode(fmt, (const char *)src + whole * 2, dst + whole, n - whole);
}

/* ---- K panels ---- */

/* Transpose 4 x 4 numbers: x[c] lane r = x[r] lane c. */
INLINE void transpose4(float32x4_t x[4]) {
    float32x4_t a = vtrn1q_f32(x[0], x[1]), b = vtrn2q_f32(x[0], x[1]);
    float32x4_t c = vtrn1q_f32(x[2], x[3]), e = vtrn2q_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    x[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(e));
    x[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    x[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(e));
}

/* Rows behind the last one repeat it: they are never seen, and nothing behind it is read. */
INLINE const char *row_at(const struct rows *k, uint32_t r) {
    return k->data + FT_MIN(r, k->n - 1) * k->stride;
}

INLINE void pack(const struct rows *k, enum ft_fmt fmt, uint32_t d, float *out) {
    for (uint32_t r = 0; r < FT_TILE_ROW; r += 4) {
        float *to = out + (size_t)(r / PANEL) * d * PANEL + r % PANEL;
        for (uint32_t t = 0; t < d; t += 8) {
            float32x4_t low[4], high[4];
            UNROLL for (uint32_t i = 0; i < 4; i++) {
                struct eight x = load8(row_at(k, r + i), t, fmt);
                low[i] = x.low;
                high[i] = x.high;
            }
            transpose4(low);
            transpose4(high);
            UNROLL for (uint32_t i = 0; i < 4; i++) {
                vst1q_f32(to + (size_t)(t + i) * PANEL, low[i]);
                vst1q_f32(to + (size_t)(t + i + 4) * PANEL, high[i]);
            }
        }
    }
}

static struct panel panel_make(const struct rows *k, uint32_t d, float *to) {
#define CALL_PACK(fmt) pack(k, fmt, d, to)
    BY_FORMAT(k->fmt, CALL_PACK)
    return (struct panel){ to };
}

/* ---- q . k ---- */

/* sum[i][c] += lane `lane` of x[i] times y[c]. */
#define ADD_LANE(lane)                                                                             \
    UNROLL for (int i = 0; i < m; i++) {                                                           \
        UNROLL for (int c = 0; c < n_vec; c++) {                                                   \
            sum[i][c] = vfmaq_laneq_f32(sum[i][c], y[c], x[i], lane);                              \
        }                                                                                          \
    }

/* m queries x 4 n_vec keys, m * n_vec <= 16. */
INLINE void logits_n(const float *panel, const float *q, size_t q_stride, int m, int n_vec,
                     uint32_t d, float *s) {
    float32x4_t sum[MR][8], x[MR], y[8];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = vdupq_n_f32(0);
        }
    }
    const float *from[MR], *last = q + d;
    UNROLL for (int i = 0; i < m; i++) {
        from[i] = q + (size_t)i * q_stride;
    }
#define LOGITS_LANE(lane)                                                                          \
    UNROLL for (int c = 0; c < n_vec; c++) {                                                       \
        y[c] = vld1q_f32(panel + (size_t)(c / 2) * panel_size + PANEL * (lane) + c % 2 * 4);       \
    }                                                                                              \
    ADD_LANE(lane)
    for (size_t panel_size = (size_t)d * PANEL; from[0] != last; panel += 4 * PANEL) {
        UNROLL for (int i = 0; i < m; i++) {
            x[i] = vld1q_f32(from[i]);
            from[i] += 4;
        }
        LOGITS_LANE(0)
        LOGITS_LANE(1)
        LOGITS_LANE(2)
        LOGITS_LANE(3)
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            vst1q_f32(s + i * FT_TILE_ROW + c * 4, sum[i][c]);
        }
    }
}

/* call(queries, vectors): as many vectors as keep 16 sums in registers. */
#define BY_ROWS(call)                                                                              \
    switch (m) {                                                                                   \
    case 1:                                                                                        \
        call(1, 8);                                                                                \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2, 8);                                                                                \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3, 4);                                                                                \
        break;                                                                                     \
    case 4:                                                                                        \
        call(4, 4);                                                                                \
        break;                                                                                     \
    case 5:                                                                                        \
        call(5, 2);                                                                                \
        break;                                                                                     \
    case 6:                                                                                        \
        call(6, 2);                                                                                \
        break;                                                                                     \
    case 7:                                                                                        \
        call(7, 2);                                                                                \
        break;                                                                                     \
    default:                                                                                       \
        call(8, 2);                                                                                \
        break;                                                                                     \
    }

static void logits(const struct panel *k, const float *q, size_t q_stride, uint32_t m, uint32_t d,
                   float *s) {
#define CALL_LOGITS(n, n_vec)                                                                      \
    for (uint32_t b = 0; b < N_PANEL; b += (n_vec) / 2) {                                          \
        logits_n(k->data + (size_t)b * d * PANEL, q, q_stride, n, n_vec, d, s + b * PANEL);        \
    }
    BY_ROWS(CALL_LOGITS)
}

/* The same without a panel, for so few queries that transposing K would cost more than they do:
 * lanes are four numbers t of a product, added up at the end. */
INLINE void few_n(const struct rows *k, enum ft_fmt fmt, const float *q, size_t q_stride, int m,
                  uint32_t d, float *s) {
    for (uint32_t r = 0; r < k->n; r += 4) {
        const char *row[4];
        const float *from[FEW], *last = q + d;
        float32x4_t sum[FEW][4];
        UNROLL for (int c = 0; c < 4; c++) {
            row[c] = row_at(k, r + (uint32_t)c);
            UNROLL for (int i = 0; i < m; i++) {
                sum[i][c] = vdupq_n_f32(0);
            }
        }
        UNROLL for (int i = 0; i < m; i++) {
            from[i] = q + (size_t)i * q_stride;
        }
        for (size_t t = 0; from[0] != last; t += 8) {
            struct eight y[4];
            UNROLL for (int c = 0; c < 4; c++) {
                y[c] = load8(row[c], t, fmt);
            }
            UNROLL for (int i = 0; i < m; i++) {
                float32x4_t low = vld1q_f32(from[i]), high = vld1q_f32(from[i] + 4);
                from[i] += 8;
                UNROLL for (int c = 0; c < 4; c++) {
                    sum[i][c] = vfmaq_f32(sum[i][c], low, y[c].low);
                    sum[i][c] = vfmaq_f32(sum[i][c], high, y[c].high);
                }
            }
        }
        UNROLL for (int i = 0; i < m; i++) {
            vst1q_f32(s + i * FT_TILE_ROW + r, vpaddq_f32(vpaddq_f32(sum[i][0], sum[i][1]),
                                                          vpaddq_f32(sum[i][2], sum[i][3])));
        }
    }
}

INLINE void few_fmt(const struct rows *k, enum ft_fmt fmt, const float *q, size_t q_stride,
                    uint32_t m, uint32_t d, float *s) {
    switch (m) {
    case 1:
        few_n(k, fmt, q, q_stride, 1, d, s);
        break;
    case 2:
        few_n(k, fmt, q, q_stride, 2, d, s);
        break;
    case 3:
        few_n(k, fmt, q, q_stride, 3, d, s);
        break;
    default:
        few_n(k, fmt, q, q_stride, 4, d, s);
        break;
    }
}

static void few_logits(const struct rows *k, const struct ft_attend *a, float *s) {
    for (uint32_t i = 0; i < a->m; i += FEW) {
#define CALL_FEW(fmt)                                                                              \
    few_fmt(k, fmt, a->q + i * a->q_stride, a->q_stride, FT_MIN(a->m - i, (uint32_t)FEW), a->d,    \
            s + (size_t)i * FT_TILE_ROW)
        BY_FORMAT(k->fmt, CALL_FEW)
    }
}

/* ---- softmax ---- */

INLINE float32x4_t power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* exp for x <= 88; below -104 it is zero; NaN stays NaN.  2^n is applied in two halves because n
 * reaches -150, below the normal exponents. */
INLINE float32x4_t exp4(float32x4_t x) {
    x = vmaxq_f32(vdupq_n_f32(-104.0f), x);
    float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0x1.62e4p-1f));
    r = vfmsq_f32(r, n, vdupq_n_f32(0x1.7f7d1cp-20f));
    float32x4_t p = vdupq_n_f32(EXP_C6);
    p = vfmaq_f32(vdupq_n_f32(EXP_C5), p, r);
    p = vfmaq_f32(vdupq_n_f32(EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(EXP_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(p, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
}

/* All ones in lanes 4*v + l < count. */
INLINE uint32x4_t lanes(uint32_t count, int v) {
    static const int32_t iota[4] = { 0, 1, 2, 3 };
    return vcgtq_s32(vdupq_n_s32((int32_t)count - 4 * v), vld1q_s32(iota));
}

INLINE float row_max(const float *s, uint32_t count, bool full) {
    float32x4_t top[4], none = vdupq_n_f32(-INFINITY);
    UNROLL for (int v = 0; v < FT_TILE_ROW / 4; v++) {
        float32x4_t x = vld1q_f32(s + 4 * v);
        x = full ? x : vbslq_f32(lanes(count, v), x, none);
        top[v % 4] = v < 4 ? x : vmaxq_f32(top[v % 4], x);
    }
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(top[0], top[1]), vmaxq_f32(top[2], top[3])));
}

INLINE float row_exp(float *s, uint32_t count, bool full, float scale, float max, bool weights) {
    float32x4_t by = vdupq_n_f32(scale), down = vdupq_n_f32(-max), sum = vdupq_n_f32(0);
    UNROLL for (int v = 0; v < FT_TILE_ROW / 4; v++) {
        float32x4_t p = exp4(vfmaq_f32(down, vld1q_f32(s + 4 * v), by));
        if (!full) {
            p = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(p), lanes(count, v)));
        }
        if (weights) {
            vst1q_f32(s + 4 * v, p);
        }
        sum = vaddq_f32(sum, p);
    }
    return vaddvq_f32(sum);
}

INLINE void softmax_n(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                      float *max, float *sum, float *shrink, bool weights) {
    float top[SOFTMAX_ROW] = { 0 }, old[SOFTMAX_ROW] = { 0 }, factor[SOFTMAX_ROW];
    for (uint32_t i = 0; i < m; i++) {
        old[i] = max[i];
        top[i] = row_max(s + i * FT_TILE_ROW, count[i], full) * scale;
    }
    float32x4_t before = vld1q_f32(old), high = vmaxq_f32(before, vld1q_f32(top));
    vst1q_f32(top, high);
    vst1q_f32(factor, exp4(vsubq_f32(before, high)));
    for (uint32_t i = 0; i < m; i++) {
        if (count[i] > 0) {
            float more = row_exp(s + i * FT_TILE_ROW, count[i], full, scale, top[i], weights);
            sum[i] = fmaf(sum[i], factor[i], more);
            max[i] = top[i];
            shrink[i] = factor[i];
        }
    }
}

static void softmax_rows(float *s, uint32_t m, const uint32_t *count, bool full, float scale,
                         float *max, float *sum, float *shrink, bool weights) {
    if (full && weights) {
        softmax_n(s, m, count, true, scale, max, sum, shrink, true);
    } else if (weights) {
        softmax_n(s, m, count, false, scale, max, sum, shrink, true);
    } else {
        softmax_n(s, m, count, full, scale, max, sum, shrink, false);
    }
}

/* ---- p v ---- */

/* m queries x 4 n_vec channels from t on. */
INLINE void values_n(const struct rows *v, enum ft_fmt fmt, const float *p, int m, int n_vec,
                     uint32_t from, uint32_t to, const float *shrink, float *acc, uint32_t d,
                     uint32_t t) {
    float32x4_t sum[MR][8], x[MR], y[8];
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            sum[i][c] = vld1q_f32(acc + (size_t)i * d + t + 4 * (size_t)c);
            if (shrink != NULL) {
                sum[i][c] = vmulq_n_f32(sum[i][c], shrink[i]);
            }
        }
    }
    const char *row = v->data + from * v->stride;
    uint32_t left = to - from;
    p += from;
#define VALUES_LANE(lane)                                                                          \
    UNROLL for (int c = 0; c < n_vec; c += 2) {                                                    \
        struct eight e = load8(row, t + 4 * (uint32_t)c, fmt);                                     \
        y[c] = e.low;                                                                              \
        y[c + 1] = e.high;                                                                         \
    }                                                                                              \
    ADD_LANE(lane)                                                                                 \
    row += v->stride;
    for (; left >= 4; left -= 4, p += 4) {
        UNROLL for (int i = 0; i < m; i++) {
            x[i] = vld1q_f32(p + i * FT_TILE_ROW);
        }
        VALUES_LANE(0)
        VALUES_LANE(1)
        VALUES_LANE(2)
        VALUES_LANE(3)
    }
    for (; left > 0; left--, p++) {
        UNROLL for (int i = 0; i < m; i++) {
            x[i] = vdupq_n_f32(p[i * FT_TILE_ROW]);
        }
        VALUES_LANE(0)
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int c = 0; c < n_vec; c++) {
            vst1q_f32(acc + (size_t)i * d + t + 4 * (size_t)c, sum[i][c]);
        }
    }
}

INLINE void values_fmt(const struct rows *v, enum ft_fmt fmt, const float *p, uint32_t m,
                       uint32_t from, uint32_t to, const float *shrink, float *acc, uint32_t d) {
    uint32_t t = 0;
#define CALL_WIDE(n, n_vec)                                                                        \
    for (; d - t >= 4 * (n_vec); t += 4 * (n_vec)) {                                               \
        values_n(v, fmt, p, n, n_vec, from, to, shrink, acc, d, t);                                \
    }
#define CALL_REST(n, n_vec)                                                                        \
    for (; (n_vec) > 2 && t < d; t += 8) {                                                         \
        values_n(v, fmt, p, n, 2, from, to, shrink, acc, d, t);                                    \
    }
    BY_ROWS(CALL_WIDE)
    BY_ROWS(CALL_REST)
}

static void values_add(const struct rows *v, const float *p, uint32_t m, uint32_t from, uint32_t to,
                       const float *shrink, float *acc, uint32_t d) {
#define CALL_VALUES(fmt) values_fmt(v, fmt, p, m, from, to, shrink, acc, d)
    BY_FORMAT(v->fmt, CALL_VALUES)
}

/* ---- a few queries ---- */

static void attend_few(const struct ft_attend *a) {
    struct tile_work w = tile_work_cut(a->work, a->m, a->d);
    uint32_t limit = row_limit(a->vis, a->m, a->n);
    for (uint32_t first = 0; first < limit; first += FT_TILE_ROW) {
        struct rows k = tile_rows(a->k, a->k_stride, a->k_fmt, first, limit);
        struct rows v = tile_rows(a->v, a->v_stride, a->v_fmt, first, limit);
        tile_counts(a->vis, a->m, first, k.n, w.count);
        few_logits(&k, a, w.s);
        tile_softmax(a->m, a->scale, a->max, a->sum, true, &w);
        tile_values(&v, a->m, a->d, a->acc, &w);
    }
}

/* ---- packed blocks ---- */

static void add_times(float *to, const float *from, float by, size_t n) {
    for (size_t e = 0; e < n; e += 4) {
        vst1q_f32(to + e, vfmaq_n_f32(vld1q_f32(to + e), vld1q_f32(from + e), by));
    }
}

static void multiply(float *to, float by, size_t n) {
    for (size_t e = 0; e < n; e += 4) {
        vst1q_f32(to + e, vmulq_n_f32(vld1q_f32(to + e), by));
    }
}

#include "kern/blocks.h"

/* ---- mass ---- */

static void mass_fold(const struct tile_work *w, const struct ft_vote *v, float *out,
                      uint32_t rows) {
    float32x4_t by = vdupq_n_f32(v->scale);
    for (uint32_t first = 0; first < rows; first += 4) {
        float part[4] = { 0 };
        size_t n_byte = FT_MIN(rows - first, 4u) * sizeof(float);
        memcpy(part, out + first, n_byte);
        float32x4_t o = vld1q_f32(part);
        for (uint32_t i = 0; i < v->m; i++) {
            float32x4_t s = vld1q_f32(w->s + (size_t)i * FT_TILE_ROW + first);
            float32x4_t p = exp4(vfmaq_f32(vdupq_n_f32(-v->lse[i]), s, by));
            p = vmulq_n_f32(p, v->weight != NULL ? v->weight[i] : 1.0f);
            p = vreinterpretq_f32_u32(
                vandq_u32(vreinterpretq_u32_f32(p), lanes(w->count[i], (int)first / 4)));
            o = v->red == FT_REDUCE_MAX ? vmaxq_f32(o, p) : vaddq_f32(o, p);
        }
        vst1q_f32(part, o);
        memcpy(out + first, part, n_byte);
    }
}

static void attend_unpacked(const struct ft_attend_blocks *a) {
    ft_kern__attend_unpacked(&ft_kern_neon, a);
}

const struct ft_kern ft_kern_neon = {
    .name = "neon",
    .encode = encode,
    .decode = decode,
    .attend = attend,
    .attend_few = attend_few,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack_fast,
    .unpack = ft_kern__unpack_fast,
    .attend_blocks = attend_blocks,
    .attend_unpacked = attend_unpacked,
};
