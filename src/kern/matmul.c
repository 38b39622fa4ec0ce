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
        return FT_MATMUL_FEW + 1;
    case FT_W_BF16: /* where there are no bf16 products */
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

/* FT_KERN=ref leaves the ways out, avx2 and avx512 those in 512 bits, avx512vnni that of bf16. */
static bool table_is(const char *name) {
    return strcmp(ft_kern()->name, name) == 0;
}

/* With 8 tokens the 256-bit ways make 36 to 89 GOP/s against ggml's 33 to 46, with 16 already 55 to
 * 118 (Zen 3, one thread, n = k = 2048); a single token is ggml's.  The border of rows does. */
static const struct ft_matmul *way_avx2(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    if (m <= FT_MATMUL_FEW) {
        return NULL;
    }
    static const struct ft_matmul *const way[] = { &ft_matmul_int8_avx2, &ft_matmul_int8_k_avx2,
                                                   &ft_matmul_int16_avx2 };
    for (size_t i = 0; i < FT_COUNT(way); i++) {
        if (way[i]->takes(type, k, has_decode)) {
            return way[i];
        }
    }
    return NULL;
}

const struct ft_matmul *ft_matmul_way(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    struct ft_cpu cpu = ft_cpu_features();
    if (type == FT_W_F32) { /* whoever stores 32 bits wants them multiplied */
        return NULL;
    }
    bool has_bf16 = table_is("avx512bf16") && cpu.has_bf16,
         has_byte = (table_is("avx512vnni") || table_is("avx512bf16")) && cpu.has_vnni;
    if (has_byte && m <= FT_MATMUL_FEW && ft_matmul_rows.takes(type, k, has_decode)) {
        return &ft_matmul_rows;
    }
    if (has_byte && m > FT_MATMUL_FEW && ft_matmul_int8.takes(type, k, has_decode)) {
        return &ft_matmul_int8;
    }
    if (has_byte && m > FT_MATMUL_FEW && ft_matmul_int8_k.takes(type, k, has_decode)) {
        return &ft_matmul_int8_k;
    }
    if (has_bf16 && m >= BF16_FROM && ft_matmul_bf16.takes(type, k, has_decode)) {
        return &ft_matmul_bf16;
    }
    if (has_byte && m >= words_from(type) && ft_matmul_int16.takes(type, k, has_decode)) {
        return &ft_matmul_int16;
    }
    return !has_byte && cpu.has_avx2 && !table_is("ref") ? way_avx2(type, k, m, has_decode) : NULL;
}

#else

const struct ft_matmul *ft_matmul_way(uint32_t type, uint32_t k, uint32_t m, bool has_decode) {
    (void)type, (void)k, (void)m, (void)has_decode;
    return NULL;
}

#endif
