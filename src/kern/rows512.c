/* SPDX-License-Identifier: Apache-2.0 */
/* rows512.c - products of stored weights with a few tokens, each weight row read once, no panels.
 *
 * Lab book.  GB/s of weights, one thread of a 2-core Zen 4 at 3.65 GHz, busy; gcc 12; processor
 * time, medians; k 2048 / 8192, rows of 160 to 384 MB in pages of 4 KB, which a plain loop of loads
 * reads with 19 to 28 GB/s (33 in pages of 2 MB).
 *                                             from cache, q4_K m = 1 / 4   from memory, q4_K / q8_0
 *   1  row by row, 32 bytes spread to both halves by
 *      shifts, rows prefetched 2 KB ahead in each         23 / 10             10, 14 / 13, 16
 *   2  prefetched in the order of memory, one group of
 *      rows ahead (first or second level, the better)     23 / 10             21, 21 / 25, 25
 *   3  4 rows in a register, 16 bytes each: sub-scales
 *      applied in place, no sums across lanes             28 / 11
 *   4  8 rows share the repeated activations (repeating
 *      is a shuffle, even from memory); >= 16 KB ahead    30 / 12             24, 23 / 23, 25
 *
 * Step 4 and ggml 0.25.1 (plain; q4_K repacked 8x8 in brackets) on the same memory, k 2048:
 *          m = 1              m = 2              m = 4              m = 8
 *   q4_K   24 / 19 (21)       18 / 7.9 (10)      11 / 4.5 (5.7)     5.8 / 2.4 (2.8)
 *   q5_K   27 / 17            21 / 7.5           14 / 4.0           7.0 / 2.1
 *   q6_K   20 / 22            16 / 10            10 / 6.1           5.9 / 3.3
 *   q8_0   23 / 21            25 / 8.2           18 / 7.6           9.3 / 5.1
 *   q4_0   20 / 9.9           15 / 4.1           9.9 / 3.7          4.8 / 2.6
 *   q4_1   19 / 9.8           15 / 4.8           11 / 2.8           5.9 / 1.6
 *   q5_0   17 / 13            15 / 5.3           10 / 4.6           5.3 / 2.8
 *   q5_1   18 / 12            16 / 5.7           11 / 3.3           5.2 / 1.8
 *   f16    20 / 23            20 / 15            19 / 13            12 / 7.9
 *   bf16   20 / 22            20 / 17            18 / 13            12 / 10
 * In pages of 2 MB q4_K reads 28 / 30 and q6_K 22 / 26 GB/s at m = 1, k 2048 / 8192.
 *
 * Tried without gain: every second line prefetched (half as fast), prefetches into the first level
 * (a group and its successor do not fit), the next block once more into the first level (q6_K
 * alone gains).
 */
#include <math.h>
#include <string.h>

#include "kern/rows.h"
#include "kern/step.h"

enum {
    FLAT = 32,         /* weights of a block of q8_0, q4_0, q4_1, q5_0, q5_1 */
    NOT_FINITE = 0x99, /* classes of vfpclassps: NaN, infinities */
};

/* Blocks whose activations are all below this count as zero: 1 / step stays finite. */
static const float smallest = 0x1p-100f;

/* ---- packing ---- */

/* The largest magnitude of 32 numbers, or NaN when one is not finite. */
ROWS_INLINE float largest(const float *x) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const unsigned bad =
        _mm512_fpclass_ps_mask(a, NOT_FINITE) | _mm512_fpclass_ps_mask(b, NOT_FINITE);
    return bad != 0 ? NAN : max;
}

/* 32 numbers to nearest bytes, x * per_step being within -127..127; returns the bytes' sum. */
ROWS_INLINE int32_t to_bytes(const float *x, float per_step, int8_t *out) {
    const __m512 per = _mm512_set1_ps(per_step);
    __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), per));
    __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), per));
    _mm_store_si128((__m128i *)(void *)out, _mm512_cvtsepi32_epi8(a));
    _mm_store_si128((__m128i *)(void *)(out + 16), _mm512_cvtsepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

/* [n][4]: `offset` times the sums of 4 bytes, `runs` runs of 16 bytes added up for each. */
ROWS_INLINE void starts(const int8_t *byte, int offset, int runs, int32_t to[4]) {
    __m128i sum = _mm_setzero_si128();
    for (int i = 0; i < runs; i++) {
        sum = _mm_dpbusd_epi32(sum, _mm_set1_epi8((char)offset),
                               _mm_load_si128((const __m128i *)(const void *)(byte + 16 * i)));
    }
    _mm_store_si128((__m128i *)(void *)to, _mm_sub_epi32(_mm_setzero_si128(), sum));
}

ROWS_INLINE void pack_flat(const float *x, int8_t *byte, int32_t start[4], float *step,
                           float *sum) {
    const float max = largest(x);
    if (!(max >= smallest)) { /* zeros, or NaN: times zero bytes, NaN */
        memset(byte, 0, FLAT);
        memset(start, 0, 4 * sizeof *start);
        *step = max < smallest ? 0 : max;
        *sum = *step;
        return;
    }
    *step = f16_step(max / 127);
    *sum = *step * (float)to_bytes(x, 127 / max, byte);
    starts(byte, 128, 2, start);
}

static void pack_super(const float *x, struct rows_super *to) {
    float most = 0;
    for (int j = 0; j < 8; j++) {
        const float max = largest(x + 32 * j);
        most = most >= max || isnan(most) ? most : max;
    }
    memset(to, 0, sizeof *to);
    if (!(most >= smallest)) { /* as in pack_flat */
        to->d = most < smallest ? 0 : most;
        return;
    }
    to->d = most / 127;
    for (int j = 0; j < 8; j++) {
        to->sum[j] = (int16_t)to_bytes(x + 32 * j, 127 / most, to->byte + 32 * j);
    }
    for (int j = 0; j < 16; j++) {
        starts(to->byte + 16 * j, 32, 1, to->start + 4 * j);
    }
}

static size_t packed_bytes(uint32_t m, uint32_t k) {
    return m * rows_part(k).total;
}

static void pack(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                 uint32_t n, void *packed) {
    const struct rows_part at = rows_part(k);
    (void)m;
    for (uint32_t i = first; i < first + n; i++) {
        const float *from = x + i * x_stride;
        uint8_t *to = (uint8_t *)packed + i * at.total;
        memset(to, 0, at.super);
        memcpy(to, from, (size_t)k * sizeof *x);
        for (size_t b = 0; b < k / FLAT; b++) {
            pack_flat(from + b * FLAT, (int8_t *)to + at.byte + b * FLAT,
                      (int32_t *)(void *)(to + at.start) + 4 * b,
                      (float *)(void *)(to + at.step) + b, (float *)(void *)(to + at.sum) + b);
        }
        for (size_t b = 0; at.super < at.total && b < k / 256; b++) {
            pack_super(from + b * 256, (struct rows_super *)(void *)(to + at.super) + b);
        }
    }
}

/* ---- f32, f16, bf16 ---- */

ROWS_INLINE __m512 float16(const uint8_t *p, uint32_t type) {
    if (type == FT_W_F32) {
        return _mm512_loadu_ps(p);
    }
    const __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return type == FT_W_F16 ? _mm512_cvtph_ps(h)
                            : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

ROWS_INLINE void float_set(const struct rows_job *job, uint32_t set, uint32_t type, uint32_t m) {
    const size_t bytes = type == FT_W_F32 ? 128 : 64; /* of 32 weights */
    const uint8_t *const *rows = job->w + ROWS_SET * set;
    __m512 acc[ROWS_TOKEN][ROWS_SET];
    ROWS_EACH(t, m) ROWS_EACH(r, ROWS_SET) {
        acc[t][r] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < job->k / FLAT; b++) {
        const size_t at = b * bytes;
        rows_prefetch(job, ROWS_SET * set, ROWS_SET, at, bytes);
        ROWS_EACH(half, 2) {
            __m512 w[ROWS_SET];
            ROWS_EACH(r, ROWS_SET) {
                w[r] = float16(rows[r] + at + half * bytes / 2, type);
            }
            ROWS_EACH(t, m) {
                const float *x = (const float *)(const void *)(job->token + t * job->token_bytes);
                const __m512 v = _mm512_load_ps(x + b * FLAT + half * 16);
                ROWS_EACH(r, ROWS_SET) {
                    acc[t][r] = _mm512_fmadd_ps(v, w[r], acc[t][r]);
                }
            }
        }
    }
    ROWS_EACH(t, m) {
        rows_store(job, t, set, rows_sum(rows_fold(acc[t])));
    }
}

ROWS_INLINE void run_float(const struct rows_job *job, uint32_t type, uint32_t m) {
    for (uint32_t set = 0; set * ROWS_SET < job->n; set++) {
        float_set(job, set, type, m);
    }
}

/* ---- blocks of 32 ---- */

/* What multiplies the f32 sums in the end: bytes are made of q4_0 as 16 q and of q5_0 as 8 q, so
 * that the offset of all three signed types is 128. */
ROWS_INLINE float flat_unit(uint32_t type) {
    return type == FT_W_Q4_0 ? 0x1p-4f : type == FT_W_Q5_0 ? 0x1p-3f : 1;
}

ROWS_INLINE size_t flat_bytes(uint32_t type) {
    switch (type) {
    case FT_W_Q4_0:
        return 18;
    case FT_W_Q4_1:
        return 20;
    case FT_W_Q5_0:
        return 22;
    case FT_W_Q5_1:
        return 24;
    default:
        return 34;
    }
}

ROWS_INLINE bool flat_has_min(uint32_t type) {
    return type == FT_W_Q4_1 || type == FT_W_Q5_1;
}

/* Weights of a block of four rows as unsigned bytes: 0..15 and 16..31. */
ROWS_INLINE void flat_unpack(const uint8_t *const rows[ROWS_SET], size_t at, uint32_t type,
                             __m512i w[2]) {
    const bool fifth = type == FT_W_Q5_0 || type == FT_W_Q5_1;
    const size_t head = flat_has_min(type) ? 4 : 2;
    const __m512i q = rows_gather(rows, at + head + (fifth ? 4 : 0));
    switch (type) {
    case FT_W_Q8_0:
        w[0] = _mm512_xor_si512(q, rows_bytes(0x80));
        w[1] = _mm512_xor_si512(rows_gather(rows, at + head + 16), rows_bytes(0x80));
        break;
    case FT_W_Q4_0:
        w[0] = _mm512_and_si512(_mm512_slli_epi32(q, 4), rows_bytes(0xf0));
        w[1] = _mm512_and_si512(q, rows_bytes(0xf0));
        break;
    case FT_W_Q5_0:
        w[0] = _mm512_and_si512(_mm512_slli_epi32(q, 3), rows_bytes(0x78));
        w[1] = _mm512_and_si512(_mm512_srli_epi32(q, 1), rows_bytes(0x78));
        break;
    default:
        w[0] = _mm512_and_si512(q, rows_bytes(0x0f));
        w[1] = _mm512_and_si512(_mm512_srli_epi32(q, 4), rows_bytes(0x0f));
        break;
    }
    if (fifth) {
        const __m512i high = rows_bytes(type == FT_W_Q5_0 ? 0x80 : 0x10);
        w[0] = _mm512_mask_add_epi8(w[0], rows_gather16(rows, at + head), w[0], high);
        w[1] = _mm512_mask_add_epi8(w[1], rows_gather16(rows, at + head + 2), w[1], high);
    }
}

ROWS_INLINE void run_flat(const struct rows_job *job, uint32_t type, uint32_t m) {
    const size_t bytes = flat_bytes(type);
    __m512 acc[ROWS_TOKEN][ROWS_SETS];
    __m256 offset[ROWS_TOKEN];
    ROWS_EACH(t, m) {
        offset[t] = _mm256_setzero_ps();
        ROWS_EACH(s, ROWS_SETS) {
            acc[t][s] = _mm512_setzero_ps();
        }
    }
    for (size_t b = 0; b < job->k / FLAT; b++) {
        const size_t at = b * bytes;
        __m512i w[ROWS_SETS][2];
        rows_prefetch(job, 0, ROWS_GROUP, at, bytes);
        ROWS_EACH(s, ROWS_SETS) {
            flat_unpack(job->w + ROWS_SET * s, at, type, w[s]);
        }
        const __m256 d = rows_gather_f16(job, at);
        const __m256 min = flat_has_min(type) ? rows_gather_f16(job, at + 2) : d;
        ROWS_EACH(t, m) {
            const uint8_t *part = job->token + t * job->token_bytes;
            const float *step = (const float *)(const void *)(part + job->at.step);
            const uint8_t *byte = part + job->at.byte + FLAT * b;
            const __m512i x[2] = { rows_repeat(byte), rows_repeat(byte + 16) };
            const __m512i start = flat_has_min(type) ? _mm512_setzero_si512()
                                                     : rows_repeat(part + job->at.start + 16 * b);
            const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps(step[b]));
            ROWS_EACH(s, ROWS_SETS) {
                __m512i sum = _mm512_dpbusd_epi32(start, w[s][0], x[0]);
                sum = _mm512_dpbusd_epi32(sum, w[s][1], x[1]);
                acc[t][s] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), rows_spread(scale, (int)s), acc[t][s]);
            }
            if (flat_has_min(type)) {
                const float *sum = (const float *)(const void *)(part + job->at.sum);
                offset[t] = _mm256_fmadd_ps(min, _mm256_set1_ps(sum[b]), offset[t]);
            }
        }
    }
    ROWS_EACH(t, m) {
        const __m128 unit = _mm_set1_ps(flat_unit(type));
        rows_store(job, t, 0,
                   _mm_fmadd_ps(rows_sum(acc[t][0]), unit, _mm256_castps256_ps128(offset[t])));
        rows_store(job, t, 1,
                   _mm_fmadd_ps(rows_sum(acc[t][1]), unit, _mm256_extractf128_ps(offset[t], 1)));
    }
}

/* ---- the table ---- */

#define ROWS_ALL(name, call, type)                                                                 \
    static void name##_1(const struct rows_job *job) {                                             \
        call(job, type, 1);                                                                        \
    }                                                                                              \
    static void name##_2(const struct rows_job *job) {                                             \
        call(job, type, 2);                                                                        \
    }                                                                                              \
    static void name##_3(const struct rows_job *job) {                                             \
        call(job, type, 3);                                                                        \
    }                                                                                              \
    static void name##_4(const struct rows_job *job) {                                             \
        call(job, type, 4);                                                                        \
    }                                                                                              \
    static const rows_run name[] = { name##_1, name##_2, name##_3, name##_4 };
ROWS_ALL(f32, run_float, FT_W_F32)
ROWS_ALL(f16, run_float, FT_W_F16)
ROWS_ALL(bf16, run_float, FT_W_BF16)
ROWS_ALL(q8_0, run_flat, FT_W_Q8_0)
ROWS_ALL(q4_0, run_flat, FT_W_Q4_0)
ROWS_ALL(q4_1, run_flat, FT_W_Q4_1)
ROWS_ALL(q5_0, run_flat, FT_W_Q5_0)
ROWS_ALL(q5_1, run_flat, FT_W_Q5_1)

/* For m of 1..ROWS_TOKEN tokens; NULL: a type that is not known. */
static rows_run rows_find(uint32_t type, uint32_t m) {
    switch (type) {
    case FT_W_F32:
        return f32[m - 1];
    case FT_W_F16:
        return f16[m - 1];
    case FT_W_BF16:
        return bf16[m - 1];
    case FT_W_Q8_0:
        return q8_0[m - 1];
    case FT_W_Q4_0:
        return q4_0[m - 1];
    case FT_W_Q4_1:
        return q4_1[m - 1];
    case FT_W_Q5_0:
        return q5_0[m - 1];
    case FT_W_Q5_1:
        return q5_1[m - 1];
    default:
        return ft_kern__rows_k(type, m);
    }
}

static bool takes(uint32_t type, uint32_t k, bool has_decode) {
    (void)has_decode;
    const uint32_t block = ft_kern__rows_k(type, 1) != NULL ? 256 : FLAT;
    return k > 0 && k % block == 0 && rows_find(type, 1) != NULL;
}

static size_t scratch_bytes(uint32_t k) {
    (void)k;
    return 0;
}

static void multiply(const struct ft_matmul_item *item) {
    struct rows_job job = { .at = rows_part(item->k), .k = item->k, .y_stride = item->y_stride };
    job.token_bytes = job.at.total;
    const size_t group = ROWS_GROUP * item->w_stride;
    job.ahead = (ROWS_AHEAD + group - 1) / group * group;
    for (uint32_t c = 0; c < item->n_col; c += ROWS_GROUP) {
        job.n = FT_MIN(item->n_col - c, (uint32_t)ROWS_GROUP);
        for (uint32_t r = 0; r < ROWS_GROUP; r++) {
            job.w[r] = (const uint8_t *)item->w + (c + FT_MIN(r, job.n - 1)) * item->w_stride;
        }
        for (uint32_t t = 0; t < item->m; t += ROWS_TOKEN) {
            job.token = (const uint8_t *)item->packed + t * job.token_bytes;
            job.y = item->y + t * item->y_stride + c;
            rows_find(item->type, FT_MIN(item->m - t, (uint32_t)ROWS_TOKEN))(&job);
        }
    }
}

const struct ft_matmul ft_matmul_rows = {
    .name = "rows",
    .item_col = ROWS_ITEM,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
