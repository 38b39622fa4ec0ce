/* SPDX-License-Identifier: Apache-2.0 */
/* pack256.c - packed blocks in 256-bit registers: codes stay codes until they are multiplied.
 *
 * Lab book.  Instructions per query and row, group of 4, 4 bits, K by channel and V by token
 * (tests/perf/instructions.txt); attend_few of rows in f16, d 64 / d 128:            59 / 103
 *   1  words of codes, steps and lows applied to every sum alike                      51
 *   2  sums that shrink in registers, which gcc's -O2 does not see to by itself       45
 *   3  steps that are in q, or in the weights, not applied again                      42 /  72
 * `kernbench 1024 11`, ns per row and head on one thread of a 2-core Zen 3 (9.7 to 10.8 GB/s), three
 * runs on a machine that was never quiet:   out of memory            in cache
 *   f16 by attend_few        d 64 / d 128   43 to 44 / 82 to 94      28 to 29 / 35 to 49
 *   8 bits, KIVI's groups of all 64 rows    21 to 23 / 31 to 39      15 to 22 / 25
 *   4 bits                                  15 to 21 / 26 to 33      15 to 20 / 24 to 29
 *   2 bits                                  21 to 24 / 24 to 29      20 to 23 / 24 to 34
 * Multiply-adds of words do twice the work of f32's, so it is instructions and not memory that bound
 * all of them: fewer bits save memory, hardly time.
 */
#include <math.h>
#include <string.h>

#include "kern/loads.h"
#include "kern/packside.h"
#include "kern/ymm.h"

INLINE __m256 halves8(const uint16_t *p) {
    return load8(p, 0, FT_F16);
}

/* ---- numbers to words ---- */

/* As integers, so that a NaN is above everything. */
INLINE __m256 larger(__m256 top, __m256 x) {
    return _mm256_castsi256_ps(
        _mm256_max_epi32(_mm256_castps_si256(top), _mm256_castps_si256(magnitude(x))));
}

INLINE float lanes_most(__m256 x) {
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128(_mm256_castps_si256(x)),
                              _mm256_extracti128_si256(_mm256_castps_si256(x), 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(y));
}

/* The largest |number|, or a NaN that is among them. */
static float row_most(const float *x, uint32_t n) {
    __m256 most = _mm256_setzero_ps();
    for (uint32_t t = 0; t < n; t += 8) {
        most = larger(most, _mm256_loadu_ps(x + t));
    }
    return lanes_most(most);
}

INLINE float lanes_sum(__m256 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

/* n numbers, a multiple of 16, the largest of which is `most`; a NaN leaves a NaN in scale. */
static void words_of(const float *x, uint32_t n, float most, float sign, int16_t *word,
                     float *scale) {
    __m256 by = _mm256_set1_ps(inverse_of(most, WORD_MOST));
    *scale = sign * scale_of(most, WORD_MOST);
    for (uint32_t t = 0; t < n; t += 16) {
        __m256i w =
            _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + t), by)),
                               _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + t + 8), by)));
        _mm256_storeu_si256((__m256i *)(void *)(word + t), _mm256_permute4x64_epi64(w, 0xd8));
    }
}

/* n rows of numbers, and the sums of their groups, times sign. */
static void words_plain(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        uint32_t group, float sign, struct pack_words to) {
    for (uint32_t i = 0; i < n; i++, x += x_stride) {
        __m256 most = _mm256_setzero_ps();
        for (uint32_t g = 0; g < n_along / group; g++) {
            __m256 sum = _mm256_setzero_ps();
            for (uint32_t t = g * group; t < (g + 1) * group; t += 8) {
                __m256 y = _mm256_loadu_ps(x + t);
                most = larger(most, y);
                sum = _mm256_add_ps(sum, y);
            }
            to.sum[i * PACK_SUM + g] = sign * lanes_sum(sum);
        }
        words_of(x, n_along, lanes_most(most), sign, to.word + (size_t)i * FT_HEAD_MAX,
                 to.scale + i);
    }
}

/* n rows of numbers times steps, and the sum of what they make of the lows, times sign. */
INLINE void words_times(const float *x, size_t x_stride, uint32_t n, uint32_t n_along,
                        const uint16_t *step, const uint16_t *low, float sign, float *wide,
                        struct pack_words to) {
    __m256 most[FT_PACK_QUERY], sum[FT_PACK_QUERY];
    UNROLL for (uint32_t i = 0; i < n; i++) {
        most[i] = sum[i] = _mm256_setzero_ps();
    }
    for (uint32_t t = 0; t < n_along; t += 8) {
        __m256 by = halves8(step + t), base = halves8(low + t);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m256 y = _mm256_loadu_ps(x + i * x_stride + t);
            sum[i] = _mm256_fmadd_ps(y, base, sum[i]);
            y = _mm256_mul_ps(y, by);
            most[i] = larger(most[i], y);
            _mm256_storeu_ps(wide + (size_t)i * FT_HEAD_MAX + t, y);
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) {
        to.sum[i * PACK_SUM] = sign * lanes_sum(sum[i]);
        words_of(wide + (size_t)i * FT_HEAD_MAX, n_along, lanes_most(most[i]), sign,
                 to.word + (size_t)i * FT_HEAD_MAX, to.scale + i);
    }
}

/* ---- products ---- */

/* sum[i] of n rows of words with 16 lanes, over the numbers of n_reg pairs of registers.  |words| are
 * at most 2^15, codes 255, numbers along a lane 256: within 31 bits. */
INLINE void dots(const char *codes, uint32_t n_reg, uint32_t bits, const int16_t *x, uint32_t n,
                 size_t ahead, __m256i sum[FT_PACK_QUERY][2]) {
    const __m256i mask = _mm256_set1_epi16((short)((1 << bits) - 1));
    UNROLL for (uint32_t i = 0; i < n; i++) {
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    }
    for (uint32_t r = 0; r < n_reg; r++, codes += 64, x += 32 / bits) {
        __m256i a = load256(codes), b = load256(codes + 32);
        _mm_prefetch((const char *)((uintptr_t)codes + ahead), _MM_HINT_T0);
        UNROLL for (uint32_t p = 0; p < 16 / bits; p++) {
            __m256i c = _mm256_srli_epi16(a, (int)(p * bits)),
                    e = _mm256_srli_epi16(b, (int)(p * bits));
            if ((p + 1) * bits < 16) {
                c = _mm256_and_si256(c, mask);
                e = _mm256_and_si256(e, mask);
            }
            UNROLL for (uint32_t i = 0; i < n; i++) {
                __m256i y = _mm256_set1_epi32((int)load32(x + i * FT_HEAD_MAX + 2 * p));
                sum[i][0] = in_place(_mm256_add_epi32(sum[i][0], _mm256_madd_epi16(c, y)));
                sum[i][1] = in_place(_mm256_add_epi32(sum[i][1], _mm256_madd_epi16(e, y)));
            }
        }
    }
}

/* out[i][lane] += (row i of x) . (lane), for the lanes [from, to), 16 at a time, steps being in x. */
INLINE void lanes_along(const struct side *s, uint32_t bits, uint32_t n, uint32_t from, uint32_t to,
                        struct pack_words x, float *out, size_t out_stride) {
    const char *codes = s->codes + (size_t)from * s->n_along * bits / 8;
    for (uint32_t lane = from; lane < to; lane += 16, codes += s->n_along * 2 * bits) {
        __m256i dot[FT_PACK_QUERY][2];
        dots(codes, s->n_along * bits / 32, bits, x.word, n, s->ahead, dot);
        UNROLL for (uint32_t i = 0; i < n; i++) {
            __m256 scale = _mm256_broadcast_ss(x.scale + i),
                   sum = _mm256_broadcast_ss(x.sum + i * PACK_SUM);
            UNROLL for (uint32_t e = 0; e < 2; e++) {
                float *p = out + i * out_stride + lane + 8 * e;
                __m256 y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i][e]), scale, sum);
                _mm256_storeu_ps(p, _mm256_add_ps(_mm256_loadu_ps(p), y));
            }
        }
    }
}

/* The same with a step and a low for every lane and group of numbers along it. */
INLINE void lanes_apart(const struct side *s, uint32_t bits, uint32_t n, struct pack_words x,
                        float *out, size_t out_stride) {
    const char *codes = s->codes;
    for (uint32_t lane = 0; lane < s->n_lane; lane += 16) {
        for (uint32_t g = 0; g < s->n_along / s->group; g++, codes += s->group * 2 * bits) {
            size_t at = (size_t)g * s->n_lane + lane;
            __m256i dot[FT_PACK_QUERY][2];
            dots(codes, s->group * bits / 32, bits, x.word + g * s->group, n, s->ahead, dot);
            UNROLL for (uint32_t e = 0; e < 2; e++) {
                __m256 step = halves8(s->step + at + 8 * e), low = halves8(s->low + at + 8 * e);
                UNROLL for (uint32_t i = 0; i < n; i++) {
                    float *p = out + i * out_stride + lane + 8 * e;
                    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[i][e]),
                                             _mm256_broadcast_ss(x.scale + i));
                    y = _mm256_fmadd_ps(y, step, _mm256_loadu_ps(p));
                    __m256 sum = _mm256_broadcast_ss(x.sum + i * PACK_SUM + g);
                    _mm256_storeu_ps(p, _mm256_fmadd_ps(sum, low, y));
                }
            }
        }
    }
}

/* ---- pack and unpack ---- */

INLINE __m256 by_lane(const uint16_t *of, const struct side *s, uint32_t lane, uint32_t along) {
    if (s->is_along) {
        uint16_t h = of[(size_t)(lane / s->group) * s->n_along + along];
        return _mm256_set1_ps(_cvtsh_ss(h));
    }
    return halves8(of + (size_t)(along / s->group) * s->n_lane + lane);
}

/* The register, and in it the bit, of lanes [lane, lane + 8) at numbers `along` and the next. */
INLINE size_t register_at(const struct side *s, uint32_t lane, uint32_t along, uint32_t *bit) {
    uint32_t n = 16 / s->bits;
    *bit = along / 2 % n * s->bits;
    return 32 * (size_t)((lane / 16 * (s->n_along / (2 * n)) + along / (2 * n)) * 2 + lane / 8 % 2);
}

/* Numbers [along, along + 8) of lanes [lane, lane + 8): x[number] lane. */
INLINE void lanes_load(bool is_value, const float *rows, uint32_t d, uint32_t lane, uint32_t along,
                       __m256 x[8]) {
    const float *from = rows + (is_value ? (size_t)along * d + lane : (size_t)lane * d + along);
    UNROLL for (uint32_t e = 0; e < 8; e++) {
        x[e] = _mm256_loadu_ps(from + (size_t)e * d);
    }
    if (!is_value) {
        transpose8(x);
    }
}

/* Codes of lanes [lane, lane + 8) at numbers [along + half, + 8), along a multiple of 16: x[number]
 * lane.  What bits and half are is known to the compiler. */
INLINE void codes8(const struct side *s, uint32_t bits, uint32_t lane, uint32_t along,
                   uint32_t half, __m256 x[8]) {
    const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
    const uint32_t n = 16 / bits;
    uint32_t reg = (lane / 16 * (s->n_along / (2 * n)) + along / (2 * n)) * 2 + lane / 8 % 2;
    UNROLL for (uint32_t e = half; e < half + 8; e += 2) {
        __m256i u = load256(s->codes + (size_t)32 * reg + e / (2 * n) * 64);
        const int bit = (int)(e / 2 % n * bits);
        x[e - half] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(u, bit), mask));
        x[e - half + 1] =
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(u, bit + 16), mask));
    }
}

/* low + step u of eight rows and eight channels, steps being those of lanes, or one for each number
 * along them. */
INLINE void steps8(const uint16_t *step, const uint16_t *low, bool is_along, __m256 x[8]) {
    __m256 by = halves8(step), base = halves8(low);
    if (!is_along) {
        UNROLL for (uint32_t e = 0; e < 8; e++) {
            x[e] = _mm256_fmadd_ps(by, x[e], base);
        }
        return;
    }
    float steps[8], lows[8];
    _mm256_storeu_ps(steps, by);
    _mm256_storeu_ps(lows, base);
    UNROLL for (uint32_t e = 0; e < 8; e++) {
        x[e] = _mm256_fmadd_ps(_mm256_broadcast_ss(steps + e), x[e], _mm256_broadcast_ss(lows + e));
    }
}

/* Eight rows of eight channels, or what they leave of their means; the next block's are on their way
 * meanwhile. */
INLINE void rows8(const uint16_t *mean, uint32_t d, uint32_t j, uint32_t c, __m256 x[8],
                  float *rows) {
    size_t at = (size_t)j * d + c;
    if (mean != NULL) {
        UNROLL for (uint32_t e = 0; e < 8; e++) {
            const uint16_t *from = mean + at + (size_t)e * d;
            x[e] = _mm256_sub_ps(halves8(from), x[e]);
            _mm_prefetch((const char *)((uintptr_t)from + FT_BLOCK_ROW * sizeof *mean * d),
                         _MM_HINT_T1);
        }
    }
    UNROLL for (uint32_t e = 0; e < 8; e++) {
        _mm256_storeu_ps(rows + at + (size_t)e * d, x[e]);
    }
}

INLINE void side_unpack(const struct side *s, uint32_t bits, const struct ft_pack *pack,
                        const uint16_t *mean, uint32_t d, float *rows) {
    bool by_token = pack->by == FT_BY_TOKEN, is_value = pack->is_value;
    for (uint32_t lane = 0; lane < s->n_lane; lane += 8) {
        for (uint32_t first = 0; first < s->n_along; first += 16) {
            UNROLL for (uint32_t half = 0; half < 16; half += 8) {
                uint32_t along = first + half, j = is_value ? along : lane,
                         c = is_value ? lane : along;
                uint32_t group = by_token ? c / s->group * FT_BLOCK_ROW + j : j / s->group * d + c;
                __m256 x[8];
                codes8(s, bits, lane, first, half, x);
                if (is_value || by_token) {
                    steps8(s->step + group, s->low + group, is_value && by_token, x);
                }
                if (!is_value) {
                    transpose8(x);
                }
                if (!is_value && !by_token) { /* lanes are channels by now */
                    steps8(s->step + group, s->low + group, false, x);
                }
                rows8(mean, d, j, c, x, rows);
            }
        }
    }
}

void ft_kern__unpack_fast(const struct ft_pack *pack, const void *block, const void *mean,
                          uint32_t d, float *rows) {
    if (pack->bits == 16) {
        for (size_t e = 0; e < (size_t)FT_BLOCK_ROW * d; e += 8) {
            __m256 x = load8(block, e, FT_F16);
            x = mean != NULL ? _mm256_sub_ps(load8(mean, e, FT_F16), x) : x;
            _mm256_storeu_ps(rows + e, x);
        }
        return;
    }
    struct side s = side_of(pack, block, d);
    if (s.bits == 2) {
        side_unpack(&s, 2, pack, mean, d, rows);
    } else if (s.bits == 4) {
        side_unpack(&s, 4, pack, mean, d, rows);
    } else {
        side_unpack(&s, 8, pack, mean, d, rows);
    }
}

#define MIN(a, b) _mm256_min_ps(a, b)
#define OR(a, b) _mm256_or_ps(a, b)

/* What is known of eight groups. */
struct extremes {
    __m256 least, most, lost; /* lost: all ones where a number is none of f16 */
};

INLINE struct extremes extremes_add(struct extremes e, __m256 x) {
    return (struct extremes){
        .least = _mm256_min_ps(x, e.least),
        .most = _mm256_max_ps(x, e.most),
        .lost =
            _mm256_or_ps(e.lost, _mm256_cmp_ps(magnitude(x), _mm256_set1_ps(65504), _CMP_NLE_UQ)),
    };
}

/* low and step of eight groups, as ref rounds them; zeros are positive. */
INLINE void extremes_store(struct extremes e, float top, uint16_t *step, uint16_t *low) {
    const __m128i lost = _mm_packs_epi32(_mm256_castsi256_si128(_mm256_castps_si256(e.lost)),
                                         _mm256_extracti128_si256(_mm256_castps_si256(e.lost), 1)),
                  nan = _mm_set1_epi16(0x7e00);
    const __m256 zero = _mm256_setzero_ps();
    __m128i l = _mm256_cvtps_ph(_mm256_add_ps(e.least, zero), _MM_FROUND_TO_NEG_INF);
    __m256 up = _mm256_div_ps(_mm256_sub_ps(e.most, _mm256_cvtph_ps(l)), _mm256_set1_ps(top));
    __m128i u = _mm256_cvtps_ph(_mm256_add_ps(up, zero), _MM_FROUND_TO_POS_INF);
    _mm_storeu_si128((__m128i *)(void *)low, _mm_blendv_epi8(l, nan, lost));
    _mm_storeu_si128((__m128i *)(void *)step, _mm_blendv_epi8(u, nan, lost));
}

/* Groups of rows of eight channels. */
static void steps_by_channel(const struct pack_shape *s, const float *rows, uint32_t d,
                             uint16_t *step, uint16_t *low) {
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j += s->n_row) {
        for (uint32_t c = 0; c < d; c += 8) {
            const float *x = rows + (size_t)j * d + c;
            struct extremes e = { _mm256_set1_ps(INFINITY), _mm256_set1_ps(-INFINITY),
                                  _mm256_setzero_ps() };
            for (uint32_t i = 0; i < s->n_row; i++) {
                e = extremes_add(e, _mm256_loadu_ps(x + (size_t)i * d));
            }
            uint32_t group = pack_group(s, d, j, c);
            extremes_store(e, (float)s->top, step + group, low + group);
        }
    }
}

/* Groups of channels of eight rows. */
static void steps_by_token(const struct pack_shape *s, const float *rows, uint32_t d,
                           uint16_t *step, uint16_t *low) {
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j += 8) {
        for (uint32_t c = 0; c < d; c += s->n_channel) {
            __m256 least[8], most[8], lost[8];
            for (uint32_t i = 0; i < 8; i++) {
                const float *x = rows + (size_t)(j + i) * d + c;
                struct extremes e = { _mm256_set1_ps(INFINITY), _mm256_set1_ps(-INFINITY),
                                      _mm256_setzero_ps() };
                for (uint32_t t = 0; t < s->n_channel; t += 8) {
                    e = extremes_add(e, _mm256_loadu_ps(x + t));
                }
                least[i] = e.least;
                most[i] = e.most;
                lost[i] = e.lost;
            }
            REDUCE8(least, MIN);
            REDUCE8(most, MAX);
            REDUCE8(lost, OR);
            uint32_t group = pack_group(s, d, j, c);
            extremes_store((struct extremes){ least[0], most[0], lost[0] }, (float)s->top,
                           step + group, low + group);
        }
    }
}

void ft_kern__pack_fast(const struct ft_pack *pack, const float *rows, uint32_t d, void *block) {
    if (pack->bits == 16) {
        ft_kern_avx2.encode(FT_F16, rows, block, (size_t)FT_BLOCK_ROW * d);
        return;
    }
    struct pack_shape shape = pack_shape(pack, d);
    uint16_t *step = block, *low = step + shape.n_group;
    char *codes = (char *)block + pack_codes_at(&shape);
    memset(codes, 0, (size_t)FT_BLOCK_ROW * d * shape.bits / 8);
    if (shape.n_row == 1) {
        steps_by_token(&shape, rows, d, step, low);
    } else {
        steps_by_channel(&shape, rows, d, step, low);
    }
    struct side s = side_of(pack, block, d);
    const __m256 top = _mm256_set1_ps((float)shape.top), zero = _mm256_setzero_ps();
    for (uint32_t lane = 0; lane < s.n_lane; lane += 8) {
        for (uint32_t along = 0; along < s.n_along; along += 8) {
            __m256 x[8];
            lanes_load(pack->is_value, rows, d, lane, along, x);
            for (uint32_t e = 0; e < 8; e++) {
                __m256 by = by_lane(step, &s, lane, along + e);
                x[e] = _mm256_sub_ps(x[e], by_lane(low, &s, lane, along + e));
                x[e] = _mm256_min_ps(_mm256_div_ps(x[e], by), top);
                x[e] = _mm256_and_ps(x[e], _mm256_cmp_ps(by, zero, _CMP_GT_OQ));
            }
            for (uint32_t e = 0; e < 8; e += 2) {
                uint32_t bit;
                __m256i *to = (__m256i *)(void *)(codes + register_at(&s, lane, along + e, &bit));
                __m256i u = _mm256_or_si256(_mm256_cvtps_epi32(x[e]),
                                            _mm256_slli_epi32(_mm256_cvtps_epi32(x[e + 1]), 16));
                u = _mm256_sll_epi32(u, _mm_cvtsi32_si128((int)bit));
                _mm256_storeu_si256(to, _mm256_or_si256(_mm256_loadu_si256(to), u));
            }
        }
    }
}
