/* SPDX-License-Identifier: Apache-2.0 */
/* packneon.c - packed blocks in 128-bit registers: codes stay codes until they are multiplied.
 *
 * A load that takes every second word apart leaves eight lanes in a register, twice: a multiply-add of
 * four lanes with one word needs no more.  Packing is ref's.
 */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kern/packside.h"

void ft_kern__pack_fast(const struct ft_pack *pack, const float *rows, uint32_t d, void *block) {
    ft_kern__pack(pack, rows, d, block);
}

void ft_kern__unpack_fast(const struct ft_pack *pack, const void *block, const void *mean,
                          uint32_t d, float *rows) {
    ft_kern__unpack(pack, block, mean, d, rows);
}

INLINE float32x4_t halves4(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

/* ---- numbers to words ---- */

/* As integers, so that a NaN is above everything. */
INLINE int32x4_t larger(int32x4_t top, float32x4_t x) {
    return vmaxq_s32(top, vreinterpretq_s32_f32(vabsq_f32(x)));
}

INLINE float lanes_most(int32x4_t x) {
    return vgetq_lane_f32(vreinterpretq_f32_s32(vdupq_n_s32(vmaxvq_s32(x))), 0);
}

static float row_most(const float *x, uint32_t n) {
    int32x4_t most = vdupq_n_s32(0);
    for (uint32_t t = 0; t < n; t += 4) {
        most = larger(most, vld1q_f32(x + t));
    }
    return lanes_most(most);
}

/* n numbers, a multiple of 8, the largest of which is `most`; a NaN leaves a NaN in scale. */
static void words_of(const float *x, uint32_t n, float most, float sign, int16_t *word,
                     float *scale) {
    float by = inverse_of(most, WORD_MOST);
    *scale = sign * scale_of(most, WORD_MOST);
    for (uint32_t t = 0; t < n; t += 8) {
        int16x4_t low = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + t), by)));
        int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + t + 4), by));
        vst1q_s16(word + t, vqmovn_high_s32(low, high));
    }
}

static void words_plain(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        uint32_t group, float sign, struct pack_words to) {
    for (uint32_t i = 0; i < n; i++, x += x_stride) {
        for (uint32_t g = 0; g < n_along / group; g++) {
            float32x4_t sum = vdupq_n_f32(0);
            for (uint32_t t = g * group; t < (g + 1) * group; t += 4) {
                sum = vaddq_f32(sum, vld1q_f32(x + t));
            }
            to.sum[i * PACK_SUM + g] = sign * vaddvq_f32(sum);
        }
        words_of(x, n_along, row_most(x, n_along), sign, to.word + (size_t)i * FT_HEAD_MAX,
                 to.scale + i);
    }
}

INLINE void words_times(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        const uint16_t *step, const uint16_t *low, float sign, float *wide,
                        struct pack_words to) {
    int32x4_t most[FT_PACK_QUERY];
    float32x4_t sum[FT_PACK_QUERY];
    UNROLL for (uint32_t i = 0; i < n; i++) {
        most[i] = vdupq_n_s32(0);
        sum[i] = vdupq_n_f32(0);
    }
    for (uint32_t t = 0; t < n_along; t += 4) {
        float32x4_t by = halves4(step + t), base = halves4(low + t);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            float32x4_t y = vld1q_f32(x + i * x_stride + t);
            sum[i] = vfmaq_f32(sum[i], y, base);
            y = vmulq_f32(y, by);
            most[i] = larger(most[i], y);
            vst1q_f32(wide + (size_t)i * FT_HEAD_MAX + t, y);
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        to.sum[i * PACK_SUM] = sign * vaddvq_f32(sum[i]);
        words_of(wide + (size_t)i * FT_HEAD_MAX, n_along, lanes_most(most[i]), sign,
                 to.word + (size_t)i * FT_HEAD_MAX, to.scale + i);
    }
}

/* ---- products ---- */

/* sum[i] of n rows of words with 16 lanes, four in a register. */
INLINE void dots(const char *codes, uint32_t n_reg, uint32_t bits, const int16_t *x, uint32_t n,
                 size_t ahead, int32x4_t sum[FT_PACK_QUERY][4]) {
    const uint16x8_t mask = vdupq_n_u16((uint16_t)((1u << bits) - 1));
    UNROLL for (uint32_t i = 0; i < n; i++) {
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            sum[i][c] = vdupq_n_s32(0);
        }
    }
    for (uint32_t r = 0; r < n_reg; r++, codes += 64, x += 32 / bits) {
        const uint16_t *from = (const uint16_t *)(const void *)codes;
        uint16x8x2_t a = vld2q_u16(from), b = vld2q_u16(from + 16); /* val: even, odd along */
        __builtin_prefetch((const char *)((uintptr_t)codes + ahead));
        UNROLL for (uint32_t p = 0; p < 16 / bits; p++) {
            const int16x8_t right = vdupq_n_s16((int16_t) - (int)(p * bits));
            UNROLL for (uint32_t e = 0; e < 2; e++) {
                int16x8_t y = vreinterpretq_s16_u16(vandq_u16(vshlq_u16(a.val[e], right), mask)),
                          z = vreinterpretq_s16_u16(vandq_u16(vshlq_u16(b.val[e], right), mask));
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    int16_t w = x[i * FT_HEAD_MAX + 2 * p + e];
                    sum[i][0] = vmlal_n_s16(sum[i][0], vget_low_s16(y), w);
                    sum[i][1] = vmlal_high_n_s16(sum[i][1], y, w);
                    sum[i][2] = vmlal_n_s16(sum[i][2], vget_low_s16(z), w);
                    sum[i][3] = vmlal_high_n_s16(sum[i][3], z, w);
                }
            }
        }
    }
}

INLINE void lanes_along(const struct side *s, uint32_t bits, uint32_t n, uint32_t from, uint32_t to,
                        struct pack_words x, float *out, size_t out_stride) {
    const char *codes = s->codes + (size_t)from * s->n_along * bits / 8;
    for (uint32_t lane = from; lane < to; lane += 16, codes += s->n_along * 2 * bits) {
        int32x4_t dot[FT_PACK_QUERY][4];
        dots(codes, s->n_along * bits / 32, bits, x.word, n, s->ahead, dot);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            float32x4_t sum = vdupq_n_f32(x.sum[i * PACK_SUM]);
            UNROLL for (uint32_t c = 0; c < 4; c++) {
                float *p = out + i * out_stride + lane + 4 * c;
                float32x4_t y = vfmaq_n_f32(sum, vcvtq_f32_s32(dot[i][c]), x.scale[i]);
                vst1q_f32(p, vaddq_f32(vld1q_f32(p), y));
            }
        }
    }
}

INLINE void lanes_apart(const struct side *s, uint32_t bits, uint32_t n, struct pack_words x,
                        float *out, size_t out_stride) {
    const char *codes = s->codes;
    for (uint32_t lane = 0; lane < s->n_lane; lane += 16) {
        for (uint32_t g = 0; g < s->n_along / s->group; g++, codes += s->group * 2 * bits) {
            size_t at = (size_t)g * s->n_lane + lane;
            int32x4_t dot[FT_PACK_QUERY][4];
            dots(codes, s->group * bits / 32, bits, x.word + g * s->group, n, s->ahead, dot);
            UNROLL for (uint32_t c = 0; c < 4; c++) {
                float32x4_t step = halves4(s->step + at + 4 * c),
                            low = halves4(s->low + at + 4 * c);
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    float *p = out + i * out_stride + lane + 4 * c;
                    float32x4_t y = vmulq_n_f32(vcvtq_f32_s32(dot[i][c]), x.scale[i]);
                    y = vfmaq_f32(vld1q_f32(p), y, step);
                    vst1q_f32(p, vfmaq_n_f32(y, low, x.sum[i * PACK_SUM + g]));
                }
            }
        }
    }
}
