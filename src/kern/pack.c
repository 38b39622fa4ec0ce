/* SPDX-License-Identifier: Apache-2.0 */
/* pack.c - packed blocks in plain C: what a block of 64 rows weighs, how it is written and read, and
 * attention over what comes back, which the others are measured against. */
#include "kern/pack.h"

#include <math.h>
#include <string.h>

#define F16_MOST 65504.0f

static uint16_t half_nearest(float x) {
    uint16_t h;
    ft_kern_ref.encode(FT_F16, &x, &h, 1);
    return h;
}

static float half_wide(uint16_t h) {
    float x;
    ft_kern_ref.decode(FT_F16, &h, &x, 1);
    return x;
}

/* The largest f16 that is not above x, |x| <= 65504; a zero is positive. */
static uint16_t half_down(float x) {
    uint16_t h = half_nearest(x);
    if (half_wide(h) > x) {
        h = (uint16_t)(h >= 0x8000 ? h + 1 : h - 1);
    }
    return h == 0x8000 ? 0 : h;
}

/* The smallest f16 that is not below x, 0 <= x <= 65504. */
static uint16_t half_up(float x) {
    uint16_t h = half_nearest(x);
    return (uint16_t)(half_wide(h) < x ? h + 1 : h);
}

/* ---- sizes ---- */

size_t ft_pack_block_bytes(const struct ft_pack *pack, uint32_t d) {
    if (pack->bits == 0) {
        return 0;
    }
    if (pack->bits == 16) {
        return FT_BLOCK_ROW * ft_fmt_row_bytes(FT_F16, d);
    }
    struct pack_shape s = pack_shape(pack, d);
    return pack_codes_at(&s) + (size_t)FT_BLOCK_ROW * d * s.bits / 8;
}

const void *ft_pack_mean(const void *mean, uint32_t b, uint32_t d) {
    return mean != NULL ? (const char *)mean + b * FT_BLOCK_ROW * ft_fmt_row_bytes(FT_F16, d)
                        : NULL;
}

/* ---- codes ---- */

/* Where a code is: the byte offset of its word, and the bit in that. */
struct place {
    size_t at;
    uint32_t bit;
};

static struct place place_of(const struct pack_shape *s, uint32_t d, uint32_t j, uint32_t c) {
    uint32_t lane = s->is_value ? c : j, along = s->is_value ? j : c;
    uint32_t n_along = s->is_value ? (uint32_t)FT_BLOCK_ROW : d, n = 16 / s->bits;
    uint32_t reg = (lane / 16 * (n_along / (2 * n)) + along / (2 * n)) * 2 + lane / 8 % 2;
    uint32_t word = reg * 16 + lane % 8 * 2 + along % 2;
    return (struct place){ pack_codes_at(s) + word * sizeof(uint16_t), along / 2 % n * s->bits };
}

static uint32_t code_read(const struct pack_shape *s, const char *block, struct place p) {
    uint16_t word;
    memcpy(&word, block + p.at, sizeof word);
    return (uint32_t)word >> p.bit & s->top;
}

/* into codes that were all zero */
static void code_write(char *block, struct place p, uint32_t code) {
    uint16_t word;
    memcpy(&word, block + p.at, sizeof word);
    word = (uint16_t)(word | code << p.bit);
    memcpy(block + p.at, &word, sizeof word);
}

/* ---- pack ---- */

/* The group whose first number is in row j, channel c. */
static void group_pack(const struct pack_shape *s, const float *rows, uint32_t d, uint32_t j,
                       uint32_t c, char *block) {
    float least = INFINITY, most = -INFINITY;
    bool fits = true;
    for (uint32_t e = 0; e < s->n_row * s->n_channel; e++) {
        float x = rows[(size_t)(j + e / s->n_channel) * d + c + e % s->n_channel];
        fits = fits && fabsf(x) <= F16_MOST;
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    uint32_t group = pack_group(s, d, j, c);
    uint16_t half_step = 0x7e00, half_low = 0x7e00; /* NaN; the codes stay zero */
    if (fits) {
        half_low = half_down(least);
        /* zeros of either sign give one zero */
        half_step = half_up((most - half_wide(half_low)) / (float)s->top + 0.0f);
    }
    memcpy(block + group * sizeof half_step, &half_step, sizeof half_step);
    memcpy(block + pack_low_at(s) + group * sizeof half_low, &half_low, sizeof half_low);
    float step = half_wide(half_step), low = half_wide(half_low);
    for (uint32_t e = 0; e < s->n_row * s->n_channel && step > 0; e++) {
        uint32_t row = j + e / s->n_channel, channel = c + e % s->n_channel;
        float u = rintf((rows[(size_t)row * d + channel] - low) / step);
        uint32_t code = u >= (float)s->top ? s->top : (uint32_t)u; /* x is not below low */
        code_write(block, place_of(s, d, row, channel), code);
    }
}

void ft_kern__pack(const struct ft_pack *pack, const float *rows, uint32_t d, void *block) {
    if (pack->bits == 16) {
        ft_kern_ref.encode(FT_F16, rows, block, (size_t)FT_BLOCK_ROW * d);
        return;
    }
    struct pack_shape s = pack_shape(pack, d);
    memset(block, 0, ft_pack_block_bytes(pack, d));
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j += s.n_row) {
        for (uint32_t c = 0; c < d; c += s.n_channel) {
            group_pack(&s, rows, d, j, c, block);
        }
    }
}

/* What the block itself holds. */
static void block_unpack(const struct ft_pack *pack, const void *block, uint32_t d, float *rows) {
    if (pack->bits == 16) {
        ft_kern_ref.decode(FT_F16, block, rows, (size_t)FT_BLOCK_ROW * d);
        return;
    }
    struct pack_shape s = pack_shape(pack, d);
    const char *from = block;
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j++) {
        for (uint32_t c = 0; c < d; c++) {
            uint32_t group = pack_group(&s, d, j, c);
            uint16_t step, low;
            memcpy(&step, from + group * sizeof step, sizeof step);
            memcpy(&low, from + pack_low_at(&s) + group * sizeof low, sizeof low);
            /* 11 bits times 8: exact, so fused or not does not matter */
            float x = half_wide(step) * (float)code_read(&s, from, place_of(&s, d, j, c));
            rows[(size_t)j * d + c] = half_wide(low) + x;
        }
    }
}

void ft_kern__unpack(const struct ft_pack *pack, const void *block, const void *mean, uint32_t d,
                     float *rows) {
    block_unpack(pack, block, d, rows);
    for (size_t e = 0; mean != NULL && e < (size_t)FT_BLOCK_ROW * d; e++) {
        rows[e] = half_wide(((const uint16_t *)mean)[e]) - rows[e];
    }
}

/* ---- attention ---- */

struct ft_attend ft_kern__unpack_block(const struct ft_kern *kern, const struct ft_attend_blocks *a,
                                       uint32_t b) {
    const size_t n = (size_t)FT_BLOCK_ROW * FT_HEAD_MAX;
    float *k = (float *)a->work + ft_kern_work_bytes() / sizeof *k - 2 * n, *v = k + n;
    ft_assert(a->m <= FT_TILE_QUERY);
    kern->unpack(&a->k_pack, (const char *)a->k + b * a->k_stride, ft_pack_mean(a->k_mean, b, a->d),
                 a->d, k);
    kern->unpack(&a->v_pack, (const char *)a->v + b * a->v_stride, ft_pack_mean(a->v_mean, b, a->d),
                 a->d, v);
    return (struct ft_attend){
        .q = a->q,
        .k = k,
        .v = v,
        .max = a->max,
        .sum = a->sum,
        .acc = a->acc,
        .work = a->work,
        .q_stride = a->q_stride,
        .k_stride = a->d * sizeof *k,
        .v_stride = a->d * sizeof *v,
        .m = a->m,
        .n = FT_BLOCK_ROW,
        .d = a->d,
        .k_fmt = FT_F32,
        .v_fmt = FT_F32,
        .scale = a->scale,
    };
}

void ft_kern__attend_unpacked(const struct ft_kern *kern, const struct ft_attend_blocks *a) {
    for (uint32_t b = 0; b < a->n_block; b++) {
        struct ft_attend rows = ft_kern__unpack_block(kern, a, b);
        kern->attend(&rows);
    }
}

void ft_kern__attend_blocks(const struct ft_attend_blocks *a) {
    ft_kern__attend_unpacked(&ft_kern_ref, a);
}
