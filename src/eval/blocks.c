/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c - random weights drawn in the block formats of GGUF: no quantiser, no rounding.
 *
 * Codes and scales are drawn so that the decoded weights have mean 0 and the deviation asked for.
 * The formats are ggml's; a block's layout stands above its function.
 */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "eval/blocks.h"

const struct ft_block_info ft_blocks[FT_BLOCK_COUNT] = {
    [FT_BLOCK_F32] = { 0, 1, 4 },       [FT_BLOCK_F16] = { 1, 1, 2 },
    [FT_BLOCK_Q4_0] = { 2, 32, 18 },    [FT_BLOCK_Q5_0] = { 6, 32, 22 },
    [FT_BLOCK_Q8_0] = { 8, 32, 34 },    [FT_BLOCK_Q4_K] = { 12, 256, 144 },
    [FT_BLOCK_Q6_K] = { 14, 256, 210 },
};

struct ft_draw ft_draw_new(uint64_t seed, uint64_t stream) {
    return (struct ft_draw){ .key = ft_rng_mix(ft_rng_mix(seed) ^ ft_rng_mix(stream)) };
}

uint64_t ft_draw_next(struct ft_draw *d) {
    return ft_rng_mix(d->key ^ d->at++);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void draw_bytes(struct ft_draw *d, uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t bits = ft_draw_next(d);
        memcpy(out + i, &bits, FT_MIN(n - i, (size_t)8));
    }
}

uint16_t ft_half_of(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude < UINT32_C(113) << 23) { /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(fabsf(value) * 0x1p24f));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1); /* ties to even */
    return (uint16_t)(sign | (magnitude - (UINT32_C(112) << 23)) >> 13);
}

static void put_half(uint8_t *out, uint16_t half) {
    out[0] = (uint8_t)half;
    out[1] = (uint8_t)(half >> 8);
}

/* Codes run from -n to n-1, half a step below 0 on average; a scale of either sign makes up for
 * that. */
static uint16_t signed_half(struct ft_draw *d, uint16_t half) {
    return (uint16_t)(half | (ft_draw_next(d) >> 63 ? 0x8000 : 0));
}

/* d, then codes of 4 bits (-8..7), of 5 (-16..15, the fifth bits in front), or of 8 */
static void draw_plain(struct ft_draw *d, enum ft_block block, uint16_t scale, uint8_t *out) {
    put_half(out, signed_half(d, scale));
    draw_bytes(d, out + 2, ft_blocks[block].n_byte - 2);
}

/* d, dmin, 8 scales and minima of 6 bits, 256 codes of 4 bits: w = d*scale*code - dmin*minimum.
 * Scales are 32..63, minima the same, and dmin is 7.5 d: w = d*scale*(code - 7.5). */
static void draw_q4_k(struct ft_draw *d, uint16_t scale, uint16_t min, uint8_t *out) {
    uint8_t s[8];
    uint64_t bits = ft_draw_next(d);
    for (int j = 0; j < 8; j++) {
        s[j] = (uint8_t)(32 + (bits >> (8 * j) & 31));
    }
    put_half(out, scale);
    put_half(out + 2, min);
    for (int j = 0; j < 4; j++) {
        out[4 + j] = out[8 + j] = (uint8_t)(s[j] | s[j + 4] >> 4 << 6);
        out[12 + j] = (uint8_t)((s[j + 4] & 15) | (s[j + 4] & 15) << 4);
    }
    draw_bytes(d, out + 16, 128);
}

/* 256 codes of 4 + 2 bits, 16 signed scales (16..31, either sign), d */
static void draw_q6_k(struct ft_draw *d, uint16_t scale, uint8_t *out) {
    uint8_t bits[16];
    draw_bytes(d, out, 192);
    draw_bytes(d, bits, sizeof bits);
    for (int j = 0; j < 16; j++) {
        int s = 16 + (bits[j] & 15);
        out[192 + j] = (uint8_t)(bits[j] & 128 ? -s : s);
    }
    put_half(out + 208, scale);
}

static void draw_f16(struct ft_draw *d, float deviation, uint8_t *out) {
    /* uniform over +-sqrt(3) deviations */
    int32_t code = (int32_t)(ft_draw_next(d) >> 40) - (1 << 23);
    put_half(out, ft_half_of((float)code * 0x1p-23f * 1.7320508f * deviation));
}

/* Deviation of code*scale in each format, codes being uniform. */
static double unit_deviation(enum ft_block block) {
    switch (block) {
    case FT_BLOCK_Q4_0:
        return sqrt((8 * 8 * 4 - 1) / 12.0 + .25);
    case FT_BLOCK_Q5_0:
        return sqrt((16 * 16 * 4 - 1) / 12.0 + .25);
    case FT_BLOCK_Q8_0:
        return sqrt((256.0 * 256 - 1) / 12 + .25);
    case FT_BLOCK_Q4_K: /* rms of 32..63 and of the odd halves -7.5..7.5 */
        return sqrt(2341.5 * 21.25);
    case FT_BLOCK_Q6_K: /* rms of 16..31 and of -32..31 */
        return sqrt(573.5 * ((64 * 64 - 1) / 12.0 + .25));
    default:
        return 1;
    }
}

void ft_blocks_draw(struct ft_draw *d, enum ft_block block, float deviation, uint8_t *out,
                    size_t n_block) {
    float step = deviation / (float)unit_deviation(block);
    uint16_t scale = ft_half_of(step), min = ft_half_of(7.5f * step);
    for (size_t i = 0; i < n_block; i++, out += ft_blocks[block].n_byte) {
        switch (block) {
        case FT_BLOCK_Q4_K:
            draw_q4_k(d, scale, min, out);
            break;
        case FT_BLOCK_Q6_K:
            draw_q6_k(d, scale, out);
            break;
        case FT_BLOCK_F16:
            draw_f16(d, deviation, out);
            break;
        default:
            draw_plain(d, block, scale, out);
            break;
        }
    }
}
