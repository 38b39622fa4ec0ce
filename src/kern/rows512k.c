/* SPDX-License-Identifier: Apache-2.0 */
/* rows512k.c - products of k-quants with a few tokens: super-blocks of 256 weights, in integers.
 *
 * See rows512.c for the lab book.  Four rows share a register, 16 bytes each.  4 or 8 products of
 * bytes are added (vpdpbusd), the sums of two sub-blocks are packed to 16 bits and multiplied with
 * their scales (vpdpwssd): one conversion to f32 follows per super-block.
 *
 *   q4_K  144 bytes: d, dmin f16, 8 scales and 8 mins of 6 bits in 12 bytes, 128 bytes of nibbles;
 *         32 bytes hold block 2j in their low and block 2j+1 in their high nibbles
 *   q5_K  176 bytes: as q4_K with 32 bytes of fifth bits before the nibbles; bit j is block j's
 *   q6_K  210 bytes: 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales of 16
 *         weights, d f16; weights are less 32
 */
#include "kern/rows.h"

enum { Q4K_BYTES = 144, Q5K_BYTES = 176, Q6K_BYTES = 210 };

ROWS_INLINE __m512i lanes4(int a, int b, int c, int d) {
    return _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d));
}

/* In each lane: 16-bit number a four times, then b four times. */
ROWS_INLINE __m512i pick2(__m512i x, int a, int b) {
    const int wa = 0x01000100 + 0x02020202 * a, wb = 0x01000100 + 0x02020202 * b;
    return _mm512_shuffle_epi8(x, lanes4(wa, wa, wb, wb));
}

ROWS_INLINE const struct rows_super *supers(const struct rows_job *job, uint32_t t) {
    const uint8_t *part = job->token + t * job->token_bytes + job->at.super;
    return (const struct rows_super *)(const void *)part;
}

ROWS_INLINE __m512 widen16(__m512i x) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

/* ---- q4_K, q5_K ---- */

/* The scales and mins of four super-blocks: 8 16-bit numbers in lane r are row r's. */
struct heads {
    __m512i scale, min;
    __m512 d, dmin; /* four times in lane r */
};

/* Three words u0 u1 u2 hold the scales: 0..3 are the low 6 bits of the bytes of u0, 4..7 the low
 * nibbles of u2 below the upper bit pairs of u0; mins likewise with u1 and the high nibbles. */
ROWS_INLINE struct heads heads_load(const uint8_t *const w[ROWS_SET], size_t at) {
    const __m512i h = rows_gather(w, at), zero = _mm512_setzero_si512();
    __m512i a = _mm512_shuffle_epi32(h, (_MM_PERM_ENUM)_MM_SHUFFLE(3, 2, 3, 1));
    a = _mm512_srlv_epi32(a, lanes4(0, 0, 0, 4));
    a = _mm512_and_si512(a, lanes4(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    __m512i b = _mm512_shuffle_epi32(h, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 2, 1, 1));
    b = _mm512_srli_epi32(b, 2);
    a = _mm512_ternarylogic_epi32(a, b, lanes4(0, 0x30303030, 0, 0x30303030), 0xf8);
    const __m512i dd = _mm512_shuffle_epi32(h, (_MM_PERM_ENUM)0);
    return (struct heads){ .scale = _mm512_unpacklo_epi8(a, zero),
                           .min = _mm512_unpackhi_epi8(a, zero),
                           .d = widen16(dd),
                           .dmin = widen16(_mm512_srli_epi32(dd, 16)) };
}

/* Bit `bit` of each byte at place 4; what comes in from neighbours is masked away later. */
ROWS_INLINE __m512i to_bit4(__m512i x, int bit) {
    return bit <= 4 ? _mm512_slli_epi32(x, (unsigned)(4 - bit))
                    : _mm512_srli_epi32(x, (unsigned)(bit - 4));
}

/* Blocks 2j (w[0], w[1]) and 2j + 1 (w[2], w[3]), 16 weights of four rows each. */
ROWS_INLINE void unpack_q45(const uint8_t *const rows[ROWS_SET], size_t nibbles, int j, bool fifth,
                            const __m512i bits[2], __m512i w[4]) {
    ROWS_UNROLL for (int i = 0; i < 2; i++) {
        const __m512i q = rows_gather(rows, nibbles + (size_t)(32 * j + 16 * i));
        w[i] = _mm512_and_si512(q, rows_bytes(0x0f));
        w[2 + i] = _mm512_and_si512(_mm512_srli_epi32(q, 4), rows_bytes(0x0f));
        if (fifth) {
            const __m512i one = rows_bytes(0x10);
            w[i] = _mm512_ternarylogic_epi32(w[i], to_bit4(bits[i], 2 * j), one, 0xf8);
            w[2 + i] = _mm512_ternarylogic_epi32(w[2 + i], to_bit4(bits[i], 2 * j + 1), one, 0xf8);
        }
    }
}

/* Sums of 8 products are at most 8 * 31 * 127 < 2^15, those of a super-block at most
 * 4 * 2 * 8 * 31 * 127 * 63 < 2^24. */
ROWS_INLINE void run_q45(const struct rows_job *job, bool fifth, uint32_t m) {
    const size_t bytes = fifth ? Q5K_BYTES : Q4K_BYTES;
    const __m512i zero = _mm512_setzero_si512();
    __m512 acc[ROWS_TOKEN][ROWS_SETS];
    ROWS_EACH(t, m) ROWS_EACH(s, ROWS_SETS) {
        acc[t][s] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < job->k / 256; b++) {
        const size_t at = b * bytes, nibbles = at + (fifth ? 48 : 16);
        rows_prefetch(job, 0, ROWS_GROUP, at, bytes);
        __m512i sum[ROWS_TOKEN][ROWS_SETS], bits[ROWS_SETS][2];
        struct heads h[ROWS_SETS];
        ROWS_EACH(s, ROWS_SETS) {
            h[s] = heads_load(job->w + ROWS_SET * s, at);
            ROWS_EACH(i, 2) {
                bits[s][i] = fifth ? rows_gather(job->w + ROWS_SET * s, at + 16 + 16 * i) : zero;
            }
        }
        ROWS_EACH(t, m) ROWS_EACH(s, ROWS_SETS) {
            sum[t][s] = zero;
        }
        ROWS_EACH(j, 4) {
            __m512i w[ROWS_SETS][4], scale[ROWS_SETS];
            ROWS_EACH(s, ROWS_SETS) {
                unpack_q45(job->w + ROWS_SET * s, nibbles, (int)j, fifth, bits[s], w[s]);
                scale[s] = pick2(h[s].scale, 2 * (int)j, 2 * (int)j + 1);
            }
            ROWS_EACH(t, m) {
                const int8_t *byte = supers(job, t)[b].byte + 64 * j;
                const __m512i x[4] = { rows_repeat(byte), rows_repeat(byte + 16),
                                       rows_repeat(byte + 32), rows_repeat(byte + 48) };
                ROWS_EACH(s, ROWS_SETS) {
                    __m512i low = _mm512_dpbusd_epi32(zero, w[s][0], x[0]);
                    low = _mm512_dpbusd_epi32(low, w[s][1], x[1]);
                    __m512i high = _mm512_dpbusd_epi32(zero, w[s][2], x[2]);
                    high = _mm512_dpbusd_epi32(high, w[s][3], x[3]);
                    sum[t][s] =
                        _mm512_dpwssd_epi32(sum[t][s], _mm512_packs_epi32(low, high), scale[s]);
                }
            }
        }
        ROWS_EACH(t, m) {
            const struct rows_super *x = supers(job, t) + b;
            const __m512i bytes_sum = rows_repeat(x->sum);
            ROWS_EACH(s, ROWS_SETS) {
                const __m512i less = _mm512_madd_epi16(h[s].min, bytes_sum);
                __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][s]), h[s].d);
                y = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(less), h[s].dmin, y);
                acc[t][s] = _mm512_fmadd_ps(y, _mm512_set1_ps(x->d), acc[t][s]);
            }
        }
    }
    ROWS_EACH(t, m) ROWS_EACH(s, ROWS_SETS) {
        rows_store(job, t, s, rows_sum(acc[t][s]));
    }
}

/* ---- q6_K ---- */

/* Part p of half n: 16 low nibbles and 16 high ones of four rows, with their upper bit pairs. */
ROWS_INLINE void unpack_q6(const uint8_t *const rows[ROWS_SET], size_t nibbles, uint32_t p,
                           __m512i pairs, __m512i w[2]) {
    const __m512i q = rows_gather(rows, nibbles + 16 * p), four = rows_bytes(0x0f);
    const int bit = p < 2 ? 0 : 2;
    w[0] = _mm512_and_si512(q, four);
    w[1] = _mm512_and_si512(_mm512_srli_epi32(q, 4), four);
    w[0] = _mm512_ternarylogic_epi32(w[0], to_bit4(pairs, bit), rows_bytes(0x30), 0xf8);
    w[1] = _mm512_ternarylogic_epi32(w[1], to_bit4(pairs, bit + 4), rows_bytes(0x30), 0xf8);
}

/* Half n (0, 1) of a super-block.  Sums of 4 products are at most 4 * 32 * 127 < 2^15, those of
 * half a super-block at most 4 * 2 * 4 * 32 * 127 * 128 < 2^24. */
ROWS_INLINE void half_q6(const struct rows_job *job, size_t b, uint32_t n, uint32_t m,
                         __m512i sum[ROWS_TOKEN][ROWS_SETS]) {
    const size_t at = b * Q6K_BYTES;
    const __m512i zero = _mm512_setzero_si512();
    __m512i scale[ROWS_SETS], pairs[ROWS_SETS][2];
    ROWS_EACH(s, ROWS_SETS) {
        const uint8_t *const *rows = job->w + ROWS_SET * s;
        const __m512i all = rows_gather(rows, at + 192);
        __m512i half = n == 0 ? _mm512_unpacklo_epi8(zero, all) : _mm512_unpackhi_epi8(zero, all);
        scale[s] = _mm512_srai_epi16(half, 8);
        ROWS_EACH(t, m) {
            sum[t][s] = zero;
        }
        pairs[s][0] = rows_gather(rows, at + 128 + 32 * n);
        pairs[s][1] = rows_gather(rows, at + 144 + 32 * n);
    }
    ROWS_EACH(p, 4) {
        __m512i w[ROWS_SETS][2];
        ROWS_EACH(s, ROWS_SETS) {
            unpack_q6(job->w + ROWS_SET * s, at + 64 * n, p, pairs[s][p % 2], w[s]);
        }
        ROWS_EACH(t, m) {
            const struct rows_super *x = supers(job, t) + b;
            const uint32_t low = 128 * n + 16 * p, high = low + 64;
            const __m512i start[2] = { rows_repeat(x->start + low / 4),
                                       rows_repeat(x->start + high / 4) };
            const __m512i byte[2] = { rows_repeat(x->byte + low), rows_repeat(x->byte + high) };
            ROWS_EACH(s, ROWS_SETS) {
                const __m512i two =
                    _mm512_packs_epi32(_mm512_dpbusd_epi32(start[0], w[s][0], byte[0]),
                                       _mm512_dpbusd_epi32(start[1], w[s][1], byte[1]));
                sum[t][s] =
                    _mm512_dpwssd_epi32(sum[t][s], two, pick2(scale[s], (int)p, 4 + (int)p));
            }
        }
    }
}

/* The next super-block to the first-level cache: blocks of 210 bytes are not aligned, and pieces
 * that lie in two lines wait twice (q4_K gains nothing by it).  The compiler must not spread these
 * among the loads of this super-block: 15 instead of 21 GB/s. */
ROWS_INLINE void prefetch_next(const struct rows_job *job, size_t at) {
    ROWS_EACH(r, ROWS_GROUP) {
        ROWS_EACH(i, (Q6K_BYTES + 63) / 64) {
            const uintptr_t next = (uintptr_t)job->w[r] + at + Q6K_BYTES + 64 * i;
            _mm_prefetch((const char *)next, _MM_HINT_T0);
        }
    }
    __asm__ volatile("" ::: "memory");
}

ROWS_INLINE void run_q6(const struct rows_job *job, uint32_t m) {
    __m512 acc[ROWS_TOKEN][ROWS_SETS];
    ROWS_EACH(t, m) ROWS_EACH(s, ROWS_SETS) {
        acc[t][s] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < job->k / 256; b++) {
        rows_prefetch(job, 0, ROWS_GROUP, b * Q6K_BYTES, Q6K_BYTES);
        prefetch_next(job, b * Q6K_BYTES);
        const __m256 d = rows_gather_f16(job, b * Q6K_BYTES + 208);
        __m512i sum[2][ROWS_TOKEN][ROWS_SETS];
        half_q6(job, b, 0, m, sum[0]);
        half_q6(job, b, 1, m, sum[1]);
        ROWS_EACH(t, m) {
            const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps(supers(job, t)[b].d));
            ROWS_EACH(s, ROWS_SETS) {
                const __m512 whole = _mm512_add_ps(_mm512_cvtepi32_ps(sum[0][t][s]),
                                                   _mm512_cvtepi32_ps(sum[1][t][s]));
                acc[t][s] = _mm512_fmadd_ps(whole, rows_spread(scale, (int)s), acc[t][s]);
            }
        }
    }
    ROWS_EACH(t, m) ROWS_EACH(s, ROWS_SETS) {
        rows_store(job, t, s, rows_sum(acc[t][s]));
    }
}

#define ROWS_K(m)                                                                                  \
    static void q4_K_##m(const struct rows_job *job) {                                             \
        run_q45(job, false, m);                                                                    \
    }                                                                                              \
    static void q5_K_##m(const struct rows_job *job) {                                             \
        run_q45(job, true, m);                                                                     \
    }                                                                                              \
    static void q6_K_##m(const struct rows_job *job) {                                             \
        run_q6(job, m);                                                                            \
    }
ROWS_K(1)
ROWS_K(2)
ROWS_K(3)
ROWS_K(4)

rows_run ft_kern__rows_k(uint32_t type, uint32_t m) {
    static const rows_run q4[] = { q4_K_1, q4_K_2, q4_K_3, q4_K_4 };
    static const rows_run q5[] = { q5_K_1, q5_K_2, q5_K_3, q5_K_4 };
    static const rows_run q6[] = { q6_K_1, q6_K_2, q6_K_3, q6_K_4 };
    switch (type) {
    case FT_W_Q4_K:
        return q4[m - 1];
    case FT_W_Q5_K:
        return q5[m - 1];
    case FT_W_Q6_K:
        return q6[m - 1];
    default:
        return NULL;
    }
}
