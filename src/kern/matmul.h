/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.h - products of stored weights with f32 activations: the contract, and the ways there are.
 *
 *   y[i][c] = sum over t of x[i][t] w[c][t]     x [m][k] f32, w [n][k] in a GGUF tensor type, y f32
 *
 * A way packs the activations of all m tokens once (threads share the tokens), then multiplies them
 * with blocks of `item_col` weight rows; a block is one work item and nothing else writes its
 * columns of y.  Weights are read where they lie and are decoded block by block into a scratch that
 * fits the second-level cache, so they exist once in memory.
 *
 * Same bits   y[i][c] depends on x[i], w[c] and the way alone: not on m, on the index of the token
 *             or of the column, on how tokens were shared out, or on what else is multiplied
 */
#ifndef FT_KERN_MATMUL_H
#define FT_KERN_MATMUL_H

#include "base/base.h"

/* GGUF tensor types that the ways know by themselves; the numbers are the file format's. */
enum ft_weight {
    FT_W_F32 = 0,
    FT_W_F16 = 1,
    FT_W_Q4_0 = 2,
    FT_W_Q4_1 = 3,
    FT_W_Q5_0 = 6,
    FT_W_Q5_1 = 7,
    FT_W_Q8_0 = 8,
    FT_W_Q2_K = 10,
    FT_W_Q3_K = 11,
    FT_W_Q4_K = 12,
    FT_W_Q5_K = 13,
    FT_W_Q6_K = 14,
    FT_W_BF16 = 30,
};

/* One work item. */
struct ft_matmul_item {
    uint32_t type; /* GGUF tensor type */
    const void *w; /* [n_col][k] weight rows, w_stride bytes apart */
    size_t w_stride;
    uint32_t m, n_col, k; /* n_col <= item_col */
    const void *packed;   /* from pack, all m tokens */
    float *y;             /* [m][n_col] rows y_stride floats apart; written, not added to */
    size_t y_stride;
    void *scratch; /* scratch_bytes(k) bytes, 64-byte aligned, one per thread */
    /* a row of this type as k floats, for types that the way does not know itself; may be NULL */
    void (*decode)(const void *row, float *out, int64_t k);
    /* the rows of this thread's next item, as many and as far apart; they come into the cache
     * meanwhile; may be NULL */
    const void *next;
};

struct ft_matmul {
    const char *name;  /* "int8", "int16", "bf16", "rows" */
    uint32_t item_col; /* weight rows of one item */
    /* can it multiply this type; has_decode: item.decode will be set */
    bool (*takes)(uint32_t type, uint32_t k, bool has_decode);
    size_t (*packed_bytes)(uint32_t m, uint32_t k);
    /* pack - tokens [first, first + n) of x [m][k], rows x_stride floats apart, into packed
     * (64-byte aligned), which belongs to all m; the layout does not depend on the weights' type */
    void (*pack)(const float *x, size_t x_stride, uint32_t m, uint32_t k, uint32_t first,
                 uint32_t n, void *packed);
    size_t (*scratch_bytes)(uint32_t k);
    void (*multiply)(const struct ft_matmul_item *item);
};

/* int8 - for prompts: activations as signed bytes with a scale per 32, or per 256 for k-quants
 * (int8_k), which are the roundings of ggml's own products: what is finer than them is no nearer to
 * llama.cpp's answers.  Weights as bytes with a scale and an offset per 16 or 32, exact integer
 * sums per block.
 * Exact      with w the decoded weights, within (1 + 2^-14) sum over blocks b of 32, or 256, of
 *            h_b sum|w_b|, h_b = max|x_b| / 254, for blocks of 32 plus 2^-11 max|x_b|, the scale
 *            being an f16 where it can: activations alone are rounded; plus f32 rounding of sums,
 *            (3 k / 32 + 8) 2^-24 sum (|x| + h_b) (|w| + 2 |o|), o the offset that the type takes
 *            from the block, 0 for most (8 or 16 times the scale in the 256-bit way's
 *            q4_0 and q5_0).  A block of x below 2^-119 counts as zero
 * int16 - for prompts in 256 bits, weights that fill a byte (q8_0) or have integer scales (q3_K,
 *            q6_K): activations as words of 12 bits and a sign with a scale per 128, weights as words
 * Exact      as int8, with blocks of 128, 8190 for 254, no offsets, 2^-114 for 2^-119.  Both are
 *            finite for |x| below 2^122
 *        in 512 bits, weights in 16 bits and those that item.decode knows: both sides as words with a
 *            scale per 128, as fine as the sum of a block allows: with s_b = max(max|x_b| / 32767,
 *            |x_b| / 46330), |x_b| the root of the sum of squares, words are x_b / s_b
 * Exact      with s_b of x and z_b of w, within (1 + 2^-14) / 2 sum over blocks b of
 *            (s_b sum|w_b| + z_b sum|x_b| + 64 s_b z_b), plus f32 rounding of sums,
 *            (k / 128 + 12) 2^-24 sum (|x| + s_b / 2) (|w| + z_b / 2).  A block of x below 2^-110
 *            and one of w below 2^-60 count as zero.  Finite for |x| below 2^90 and w as f16 has
 *            them; beyond 2^60 another w may make its column a NaN or an infinity
 * bf16 - for prompts, weights stored as bf16, where there are products of it: activations rounded to
 *            bf16, sums in f32 pairs
 * Exact      within 2^-8 sum|x w|, plus f32 rounding of the sums, k 2^-24 sum|x w|; numbers below
 *            2^-126 count as zero
 * All        a NaN or an infinity in x[i] makes y[i] a NaN or an infinity, and no other row; in a
 *            weight of 16 bits it does so to the weight's column, and no other
 * rows - for a few tokens (m <= FT_MATMUL_FEW): each weight row is read once, no panels.  Quantised
 *            weights meet the bytes of int8, f16, bf16 and f32 weights f32 activations
 * Exact      within (1 + 2^-20) sum over blocks b of h_b sum|w_b|, h_b as in int8, for f16, bf16
 *            and f32 0; plus f32 rounding, (k/16 + 16) 2^-24 sum|x w| and, where weights are quantised,
 *            2^-21 sum over b of sum|x_b| max|w_b|.  Blocks of x below 2^-100 count as zero */
enum { FT_MATMUL_FEW = 8 };
#if defined(__x86_64__)
extern const struct ft_matmul ft_matmul_int8, ft_matmul_int8_k, ft_matmul_int16, ft_matmul_bf16,
    ft_matmul_rows, ft_matmul_int8_avx2, ft_matmul_int8_k_avx2, ft_matmul_int16_avx2;
#endif

/* ft_matmul_way - the way that measured fastest on this machine's instructions for this type and
 * number of tokens, or NULL: leave it to ggml.  FT_KERN restricts it as it does the kernels. */
const struct ft_matmul *ft_matmul_way(uint32_t type, uint32_t k, uint32_t m, bool has_decode);

#endif
