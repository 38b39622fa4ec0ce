/* SPDX-License-Identifier: Apache-2.0 */
/* ref.c - every kernel in plain C with sums in double: slow, portable, and what the others are
 * measured against. */
#include <math.h>
#include <string.h>

#include "kern/kern.h"
#include "kern/pack.h"

/* ---- row formats, by bits ---- */

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Drop the lowest n_bit bits (1..31) of a magnitude, round to nearest even. */
static uint32_t shift_round_even(uint32_t u, uint32_t n_bit) {
    uint32_t half = (uint32_t)1 << (n_bit - 1);
    uint32_t odd = (u >> n_bit) & 1;
    return (uint32_t)(((uint64_t)u + half - 1 + odd) >> n_bit);
}

static uint16_t f16_of(float x) {
    uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000, mag = u & 0x7fffffff;
    if (mag >
        0x7f800000) { /* NaN: quiet, upper payload bits kept, as the hardware conversions do */
        return (uint16_t)(sign | 0x7e00 | ((mag >> 13) & 0x3ff));
    }
    if (mag >= 0x477ff000) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    }
    if (mag >= 0x38800000) { /* a carry out of the mantissa moves the exponent up, as it must */
        return (uint16_t)(sign | shift_round_even(mag - 0x38000000, 13));
    }
    uint32_t exponent = mag >> 23;
    if (exponent < 102) { /* below half of the smallest subnormal, 2^-25 */
        return (uint16_t)sign;
    }
    return (uint16_t)(sign | shift_round_even((mag & 0x7fffff) | 0x800000, 126 - exponent));
}

static float f16_to(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31) {
        return float_of(sign | 0x7f800000 | (mantissa << 13) | (mantissa != 0 ? 0x400000 : 0));
    }
    if (exponent == 0) {
        float x = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -x : x;
    }
    return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static uint16_t bf16_of(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t)((u >> 16) | 0x40);
    }
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

enum { Q8_NUMBER = 32, Q8_BYTE = 34 };

/* One q8_0 block: scale = f16(max|x| / 127), q = x * (1 / unrounded scale) to nearest even. The
 * numbers come back as scale * q, exact in f32.  Where the scale rounds to zero all q are zero; a
 * block with a NaN, an infinity or numbers too large for an f16 scale comes back as NaN. */
static void q8_encode(const float *x, char *block) {
    int8_t q[Q8_NUMBER] = { 0 };
    float top = 0;
    bool is_finite = true;
    for (uint32_t t = 0; t < Q8_NUMBER; t++) {
        is_finite = is_finite && fabsf(x[t]) < INFINITY;
        top = fabsf(x[t]) > top ? fabsf(x[t]) : top;
    }
    float scale = top / 127.0f;
    uint16_t half = f16_of(scale);
    if (!is_finite || half == 0x7c00) {
        half = 0x7e00;
    } else if (half != 0) {
        float inverse = 1.0f / scale;
        for (uint32_t t = 0; t < Q8_NUMBER; t++) {
            q[t] = (int8_t)rintf(x[t] * inverse);
        }
    }
    memcpy(block, &half, sizeof half);
    memcpy(block + sizeof half, q, sizeof q);
}

static void q8_decode(const char *block, float *x) {
    uint16_t half;
    int8_t q[Q8_NUMBER];
    memcpy(&half, block, sizeof half);
    memcpy(q, block + sizeof half, sizeof q);
    for (uint32_t t = 0; t < Q8_NUMBER; t++) {
        x[t] = f16_to(half) * (float)q[t];
    }
}

static void encode(enum ft_fmt fmt, const float *src, void *dst, size_t n) {
    uint16_t *half = dst;
    if (fmt == FT_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    if (fmt == FT_Q8_0) {
        ft_assert(n % Q8_NUMBER == 0);
        for (size_t i = 0; i < n / Q8_NUMBER; i++) {
            q8_encode(src + i * Q8_NUMBER, (char *)dst + i * Q8_BYTE);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        half[i] = fmt == FT_F16 ? f16_of(src[i]) : bf16_of(src[i]);
    }
}

static void decode(enum ft_fmt fmt, const void *src, float *dst, size_t n) {
    const uint16_t *half = src;
    if (fmt == FT_F32) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    if (fmt == FT_Q8_0) {
        ft_assert(n % Q8_NUMBER == 0);
        for (size_t i = 0; i < n / Q8_NUMBER; i++) {
            q8_decode((const char *)src + i * Q8_BYTE, dst + i * Q8_NUMBER);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        dst[i] = fmt == FT_F16 ? f16_to(half[i]) : float_of((uint32_t)half[i] << 16);
    }
}

static void row_decode(enum ft_fmt fmt, const void *rows, size_t stride, uint32_t row, uint32_t d,
                       float *out) {
    decode(fmt, (const char *)rows + (size_t)row * stride, out, d);
}

static double dot(const float *a, const float *b, uint32_t d) {
    double sum = 0;
    for (uint32_t t = 0; t < d; t++) {
        sum += (double)a[t] * (double)b[t];
    }
    return sum;
}

/* ---- attention ---- */

static void attend_one(const struct ft_attend *a, uint32_t i, uint32_t n_visible) {
    double acc[FT_HEAD_MAX], sum = (double)a->sum[i], max = (double)a->max[i];
    float row[FT_HEAD_MAX], *out = a->acc + (size_t)i * a->d;
    const float *q = a->q + (size_t)i * a->q_stride;
    for (uint32_t t = 0; t < a->d; t++) {
        acc[t] = (double)out[t];
    }
    for (uint32_t j = 0; j < n_visible; j++) {
        row_decode(a->k_fmt, a->k, a->k_stride, j, a->d, row);
        double logit = dot(q, row, a->d) * (double)a->scale, old = max;
        max = logit > max ? logit : max;
        double shrink = old == max ? 1 : exp(old - max), p = exp(logit - max);
        sum = sum * shrink + p;
        row_decode(a->v_fmt, a->v, a->v_stride, j, a->d, row);
        for (uint32_t t = 0; t < a->d; t++) {
            acc[t] = acc[t] * shrink + p * (double)row[t];
        }
    }
    for (uint32_t t = 0; t < a->d; t++) {
        out[t] = (float)acc[t];
    }
    a->max[i] = (float)max;
    a->sum[i] = (float)sum;
}

static void attend(const struct ft_attend *a) {
    for (uint32_t i = 0; i < a->m; i++) {
        uint32_t n_visible = a->vis != NULL ? a->vis[i] : a->n;
        if (n_visible > 0) {
            attend_one(a, i, n_visible);
        }
    }
}

/* ---- evidence ---- */

static void lse(const struct ft_vote *v) {
    float row[FT_HEAD_MAX];
    for (uint32_t i = 0; i < v->m; i++) {
        uint32_t n_visible = v->vis != NULL ? v->vis[i] : v->n;
        double max = -INFINITY, sum = 0;
        for (uint32_t j = 0; j < n_visible; j++) {
            row_decode(v->k_fmt, v->k, v->k_stride, j, v->d, row);
            double logit = dot(v->q + (size_t)i * v->q_stride, row, v->d) * (double)v->scale,
                   old = max;
            max = logit > max ? logit : max;
            sum = sum * (old == max ? 1 : exp(old - max)) + exp(logit - max);
        }
        v->out[i] = n_visible > 0 ? (float)(max + log(sum)) : -INFINITY;
    }
}

static void mass(const struct ft_vote *v) {
    float row[FT_HEAD_MAX];
    uint32_t limit = v->vis == NULL ? v->n : 0;
    for (uint32_t i = 0; i < v->m && v->vis != NULL; i++) {
        limit = FT_MAX(limit, FT_MIN(v->vis[i], v->n));
    }
    for (uint32_t i = 0; i < v->m && v->out_stride > 0; i++) {
        struct ft_vote one = *v;
        one.q += i * v->q_stride;
        one.vis = v->vis != NULL ? v->vis + i : NULL;
        one.lse += i;
        one.weight = v->weight != NULL ? v->weight + i : NULL;
        one.out += i * v->out_stride;
        one.out_stride = 0;
        one.m = 1;
        memset(one.out, 0, limit * sizeof *one.out);
        mass(&one);
    }
    for (uint32_t j = 0; j < v->n && v->out_stride == 0; j++) {
        double out = (double)v->out[j];
        row_decode(v->k_fmt, v->k, v->k_stride, j, v->d, row);
        for (uint32_t i = 0; i < v->m; i++) {
            if (v->vis != NULL && j >= v->vis[i]) {
                continue;
            }
            double logit = dot(v->q + (size_t)i * v->q_stride, row, v->d) * (double)v->scale;
            double p =
                exp(logit - (double)v->lse[i]) * (v->weight != NULL ? (double)v->weight[i] : 1);
            out = v->red == FT_REDUCE_MAX ? (p > out ? p : out) : out + p;
        }
        v->out[j] = (float)out;
    }
}

const struct ft_kern ft_kern_ref = {
    .name = "ref",
    .encode = encode,
    .decode = decode,
    .attend = attend,
    .attend_few = attend,
    .lse = lse,
    .mass = mass,
    .pack = ft_kern__pack,
    .unpack = ft_kern__unpack,
    .attend_blocks = ft_kern__attend_blocks,
    .attend_unpacked = ft_kern__attend_blocks,
};
