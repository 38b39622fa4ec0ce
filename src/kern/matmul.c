/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.c - which way multiplies which weights on this machine. */
#include <string.h>

#include "kern/kern.h"
#include "kern/matmul.h"

#if defined(__x86_64__)

/* Tokens from which our panels beat ggml.  bf16 weights: ggml multiplies them well in place, 168
 * GFLOP/s against 107 for 9 tokens and 146 against 163 for 32.  Types that have to be decoded:
 * decoding costs 4 cycles per number (IQ4_NL, MXFP4) or less (TQ1_0, TQ2_0), a token 1/32 here
 * and, in IQ4_NL, 1/12 there: 75 against 92 for 64 tokens, 95 against 90 for 96. */
enum { BF16_FROM = 24, DECODED_FROM = 96 };

/* Types whose blocks ggml 0.25.1 unpacks for many tokens at once, which beats decoding row by row:
 * 178 to 192 GFLOP/s for 512 tokens against 121 to 186.  The numbers are the file format's. */
enum { IQ2_XXS = 16, IQ2_XS, IQ3_XXS, IQ1_S, IQ3_S = 21, IQ2_S, IQ4_XS, IQ1_M = 29 };

static uint32_t words_from(uint32_t type) {
    switch (type) {
    case FT_W_F16:
    case FT_W_BF16:
        return FT_MATMUL_FEW + 1;
    case IQ2_XXS:
    case IQ2_XS:
    case IQ3_XXS:
    case IQ1_S:
    case IQ3_S:
    case IQ2_S:
    case IQ4_XS:
    case IQ1_M:
        return UINT32_MAX;
    default:
        return DECODED_FROM;
    }
}

static const struct ft_matmul *first_that_takes(const struct ft_matmul *const *way, size_t n,
                                                uint32_t type, uint32_t k, bool has_decode) {
    for (size_t i = 0; i < n; i++) {
        if (way[i]->takes(type, k, has_decode)) {
            return way[i];
        }
    }
    return NULL;
}

/* 512 bits with VNNI. */
static const struct ft_matmul *way_vnni(uint32_t type, uint32_t k, uint32_t m, bool has_decode,
                                        bool has_bf16) {
    static const struct ft_matmul *const prompt[] = { &ft_matmul_int8, &ft_matmul_int8_k,
                                                      &ft_matmul_int16 };
    if (m <= FT_MATMUL_FEW) {
        return ft_matmul_rows.takes(type, k, has_decode) ? &ft_matmul_rows : NULL;
    }
    const struct ft_matmul *way = first_that_takes(prompt, FT_COUNT(prompt), type, k, has_decode);
    if (way == &ft_matmul_int16 && type == FT_W_BF16 && has_bf16) {
        return m >= BF16_FROM ? &ft_matmul_bf16 : NULL;
    }
    return way == &ft_matmul_int16 && m < words_from(type) ? NULL : way;
}

/* With 8 tokens the 256-bit ways make 36 to 89 GOP/s against ggml's 33 to 46, with 16 already 55 to
 * 118 (Zen 3, one thread, n = k = 2048); a single token is ggml's.  The border of rows does. */
static const struct ft_matmul *way_avx2(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    static const struct ft_matmul *const prompt[] = { &ft_matmul_int8_avx2, &ft_matmul_int8_k_avx2,
                                                      &ft_matmul_int16_avx2 };
    return m > FT_MATMUL_FEW ? first_that_takes(prompt, FT_COUNT(prompt), type, k, has_decode)
                             : NULL;
}

const struct ft_matmul *ft_matmul_way(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    struct ft_cpu cpu = ft_cpu_features();
    const char *table = ft_kern()->name;
    /* FT_KERN=ref leaves the ways out, avx2 and avx512 those in 512 bits, avx512vnni that of bf16 */
    bool is_bf16 = strcmp(table, "avx512bf16") == 0,
         is_vnni = is_bf16 || strcmp(table, "avx512vnni") == 0;
    if (type == FT_W_F32) { /* whoever stores 32 bits wants them multiplied */
        return NULL;
    }
    if (is_vnni && cpu.has_vnni) {
        return way_vnni(type, k, m, has_decode, is_bf16 && cpu.has_bf16);
    }
    return cpu.has_avx2 && strcmp(table, "ref") != 0 ? way_avx2(type, k, m, has_decode) : NULL;
}

#else

const struct ft_matmul *ft_matmul_way(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    (void)type, (void)k, (void)m, (void)has_decode;
    return NULL;
}

#endif
