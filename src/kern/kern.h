/* SPDX-License-Identifier: Apache-2.0 */
/* kern.h - the contract of every arithmetic kernel, and the table that picks a variant.
 *
 * Kernels take pointers, strides and sizes of ONE work item; they never allocate, never split work,
 * and know nothing of models or methods.  ref.c is complete and portable: it is the specification.
 * A variant copies that table and overrides entries, so a missing kernel is merely slow.
 *
 * Arrays are row-major.  A KV row is d elements in a row format; rows of one head lie k_stride
 * bytes apart. Visibility is by row count: query i sees rows [0, vis[i]) of the span it is shown.
 */
#ifndef FT_KERN_KERN_H
#define FT_KERN_KERN_H

#include "base/base.h"

/* f32, f16, bf16: numbers one after the other; q8_0: blocks of 32 numbers, an f16 scale and 32
 * signed bytes each (34 bytes, as in GGUF), so d is a multiple of 32 there */
enum ft_fmt { FT_F32, FT_F16, FT_BF16, FT_Q8_0, FT_FMT_COUNT };
/* kernels fold max or sum; mean = sum / count */
enum ft_reduce { FT_REDUCE_MAX, FT_REDUCE_SUM, FT_REDUCE_MEAN };

enum {
    /* rows of K and V converted at a time; a span starts a new tile at its row 0 */
    FT_TILE_ROW = 64,
    FT_TILE_QUERY = 256,        /* most queries (all heads of a group together) in one call */
    FT_HEAD_MAX = 256,          /* largest d; d is a multiple of 8, at least 16; q8_0: of 32 */
    FT_FEW_QUERY = 32,          /* most queries of attend_few and attend_blocks */
    FT_BLOCK_ROW = FT_TILE_ROW, /* rows of a packed block */
};

/* pack - 64 rows of one head's K or V, quantised together and once, asymmetric as in KIVI
 * (arXiv:2402.02750) and TaDA.
 *
 * A group of numbers shares two f16 numbers: low is its smallest, rounded down; step is (largest -
 * low) / (2^bits - 1), rounded up, so that the top is reached.  A number x becomes u = (x - low) /
 * step, to the nearest whole (ties: even) in [0, 2^bits - 1], 0 where step is 0, and comes back as
 * low + step u, rounded once to f32: within step / 2 of x, and that rounding.  A group with a NaN,
 * an infinity or a number beyond +-65504 comes back as NaN, all of it.
 *
 * A block is  | step [n_group] f16 | low [n_group] f16 | codes, 64 * d * bits / 8 bytes |  with
 * n_group = 64 d / group, and groups in the order [64 / group][d] by channel, [d / group][64] by
 * token.  Where a code lies in there is pack.h's; keys and values differ in it, as attend_blocks
 * multiplies along channels here and along rows there.  A block is read with the pack that wrote it.
 */
enum ft_pack_by { FT_BY_TOKEN, FT_BY_CHANNEL };
struct ft_pack {
    uint8_t bits; /* 2, 4 or 8; 16: the rows themselves, f16 [64][d]; 0: nothing is packed */
    uint8_t by;   /* enum ft_pack_by */
    /* numbers of a group: by token 16, 32, 64, 128 or 256 consecutive numbers of a row, which divide
     * d, or 0: the whole row; by channel 16, 32 or 64 consecutive rows of a channel, or 0: all 64 */
    uint16_t group;
    bool is_value; /* rows of V */
};

/* attend - softmax(q.k * scale) v over one span of rows, folded into a running online softmax.
 *
 *   q        [m][d]      f32, rotated, rows q_stride floats apart
 *   k, v     [n][d]      encoded rows
 *   vis      [m]         rows query i may see, each <= n; NULL: all n
 *   max      [m]         running maximum of the scaled logits; starts at -INFINITY
 *   sum      [m]         running sum of exp(logit - max); starts at 0
 *   acc      [m][d]      running sum of exp(logit - max) * v; starts at 0, rows d floats apart
 *   work                 ft_kern_work_bytes() bytes, 64-byte aligned, uninitialised
 * Spans are folded by further calls on the same state; the caller divides acc by sum at the end
 * (attend_done).  Tiles in which a query sees nothing leave its state untouched.
 * Exact      ref accumulates in double.  With L = max over rows of sum|q_t k_t| * scale, variants
 *            differ from it by at most (2e-6 + 4 sqrt(d) 2^-24 L) * max|v| and NMSE 1e-10 * max(1,
 *            L/64)^2, for every row format: both read the same stored rows
 * Rounded    avx512bf16, where K and V are each bf16 or q8_0, rounds q, k, v and weights (summed and
 *            multiplied alike) to bf16, nearest even, and sums in f32.  Of ref with q, k and v so
 *            rounded it stays within (1.001 * 2^-9 + 1e-4) max|v| and NMSE 2^-17 more than the
 *            above: weights and its exp.  Of ref itself it stays within (e + 1.001 * 2^-8 + 1e-4)
 *            max|v| more, where a logit moves by at most e = (2^-8 + 2^-18) L, and NMSE 2^-16 (1
 *            + L^2 / d) more.  q8_0 rows of K meet q as bytes with a scale per 32, exact sums per
 *            block: there e = scale * sum over blocks of max|q_b| / 254 * sum|k_b|, and NMSE
 *            2^-16 (1 + 8 L^2 / d) more.  Finite numbers beyond bf16's range round to infinity;
 *            below 2^-126 they count as zero
 * Words      avx2, avx512vnni and, for other rows than those, avx512bf16, unless all rows are f32,
 *            take tiles of which a query sees all 64 rows in 16-bit
 *            words: numbers of q and k within max|q| / 16382 and max|k_c| / 8190, c a chunk of
 *            64, weights (summed and multiplied alike) within 1 / 16382 of the tile's largest, v
 *            within 1 / 8190 of its channel's largest in the tile.  Of ref it stays within (e +
 *            1.001 (2^-7 + 2^-13)) max|v| more, and NMSE e^2 / d + 2^-24 more, where a logit moves
 *            by at most e = scale * sum over chunks of (max|q| / 16382 sum|k| + max|k_c| / 8190
 *            sum|q| + 64 max|q| max|k_c| / (16382 * 8190)).  Tiles with an infinity, a NaN, a
 *            key beyond 2^40 or a value beyond 2^100, and queries with the like, are multiplied in
 *            f32; channels of a tile and q and chunks of k that are all below 2^-113 count as zero
 * Masked     a row that query i does not see is never multiplied for it, so NaN there cannot leak;
 *            bytes behind row n are not read
 * Same bits  the result of query i depends on its own q, vis[i] and the rows alone, never on m or
 *            on its index; in the variants, spans cut at multiples of FT_TILE_ROW fold to the bits
 *            of one span
 */
struct ft_attend {
    const float *q;
    const void *k, *v;
    const uint32_t *vis;
    float *max, *sum, *acc;
    void *work;
    size_t q_stride, k_stride, v_stride; /* floats, bytes, bytes */
    uint32_t m, n, d;
    enum ft_fmt k_fmt, v_fmt;
    float scale; /* > 0 */
};

/* lse - log-sum-exp of the scaled logits of each voter over the rows it may see.
 *   out      [m]         log(sum_j exp(q.k_j * scale)), natural log; -INFINITY when it sees nothing
 * Exact      ref accumulates in double; variants within 2e-6 + 2 sqrt(d) 2^-24 L + 2^-23 |lse| of
 *            it
 *
 * mass - what each row receives from the voters: fold over i of weight[i] * exp(q_i.k_j*scale -
 * lse[i]).
 *   lse      [m]         from lse, over ALL rows each voter sees
 *   weight   [m]         multiplies a voter's row; NULL: 1
 *   vis      [m]         as in attend, counted from row 0 of THIS span, may exceed n; a row that
 *            voter i cannot see gets 0 from it
 *   out      [n]         folded into what is already there (max or sum); starts at 0.  With out_stride
 *            [m][out_stride]: each voter to a list of its own, whatever was there, as far as the last
 *            row that any of them sees: 0 where this voter does not
 * Exact      ref in double; variants within relative 3e-6 + 2 sqrt(d) 2^-24 L of it (above 1e-36)
 * Same bits  out[j] depends on row j and the voters in order, never on n or where the span starts
 */
struct ft_vote {
    const float *q; /* [m][d] rows q_stride floats apart */
    const void *k;  /* [n][d] encoded rows */
    const uint32_t *vis;
    const float *weight, *lse;
    float *out;
    void *work;
    size_t q_stride, k_stride;
    size_t out_stride; /* mass only; 0: voters are folded */
    uint32_t m, n, d;
    enum ft_fmt k_fmt;
    enum ft_reduce red; /* mass only: max or sum */
    float scale;        /* > 0 */
};

/* attend_blocks - attend_few over whole packed blocks: softmax(q.k * scale) v folded into a running
 * online softmax; every query sees all 64 rows of every block.
 *
 *   k, v     [n_block]      blocks, k_stride and v_stride bytes apart, at even addresses
 *   k_mean   [n_block*64][d] f16 rows, d * 2 bytes apart, or NULL: a key is its row here less what
 *            the block holds (coding against the heads' mean, TaDA); v_mean likewise for values
 *   max, sum, acc, work     as in struct ft_attend
 * Exact      ref accumulates in double.  With L = max over rows of scale * sum|q_t| (|low| + (2^bits -
 *            1) step + |mean|), V the largest |low| + (2^bits - 1) step + |mean| of a value, rows of
 *            f16 and means counting as in attend_few, variants differ from it by at most (2e-6 + 4
 *            sqrt(d) 2^-24 L) V where nothing is packed, and by that which follows more where it is
 * Words      avx2 and all variants for x86, and neon, multiply codes as they are, with q and weights
 *            in 16-bit words, sums being exact: q within max|q| / 65534 where K is by token; q step
 *            of each channel within max|q step| / 65534 where it is by channel; so a logit moves by
 *            at most e = scale * max|q| / 65534 * sum u step, or scale * max|q step| / 65534 * sum
 *            u, u being the row's codes, and an output by 2 e V; weights, times the steps of the
 *            rows where V is by token, within 1 / 65534 of their largest in the block, so an output
 *            moves by at most 1.001 * 2^-10 R, R being the largest (2^bits - 1) step of a value.
 *            The mean square error is at most (1e-10 max(1, L/64)^2 + 4 s) V^2 + 2^-27 R^2, s being
 *            e's variance where all roundings are independent.  Queries with an infinity, a NaN or
 *            a number beyond 2^40 are multiplied in f32; what is all below 2^-111 counts as zero
 * Lost       a group that is NaN shows in the rows, or the channels, that it is in, as in ref
 * Same bits  the result of query i depends on its own q and the rows alone, never on m or on its
 *            index; calls cut between blocks fold to the bits of one call
 *
 * attend_unpacked - attend over whole packed blocks, each unpacked once for all queries: the bits of
 * attend over what unpack gives, as it is over rows of f16.
 *   m        at most FT_TILE_QUERY; all else as in attend_blocks
 */
struct ft_attend_blocks {
    const float *q; /* [m][d] rows q_stride floats apart */
    const void *k, *v;
    const void *k_mean, *v_mean;
    float *max, *sum, *acc;
    void *work;
    size_t q_stride, k_stride, v_stride; /* floats, bytes, bytes */
    uint32_t m, n_block, d;              /* m <= FT_FEW_QUERY as a rule; d a multiple of 16 */
    struct ft_pack k_pack, v_pack;       /* bits 2, 4, 8 or 16 each */
    float scale;                         /* > 0 */
};

struct ft_kern {
    const char *name; /* "ref", "avx2", "avx512", "avx512vnni", "avx512bf16", "neon" */
    /* encode / decode - n numbers to or from a row format, round to nearest even; NaN stays NaN */
    void (*encode)(enum ft_fmt fmt, const float *src, void *dst, size_t n);
    void (*decode)(enum ft_fmt fmt, const void *src, float *dst, size_t n);
    void (*attend)(const struct ft_attend *a);
    /* attend_few - attend for the few queries of a decode step (one token's group, m <=
     * FT_FEW_QUERY): reads every byte of K and V once; queries and weights stay f32 except with
     * q8_0 rows.  Promises and bounds of attend; where K and V are q8_0 a variant may round q to
     * signed bytes with one scale per 32 (a logit moves by at most scale * sum over blocks b of
     * max|q_b| / 254 * sum|k_b|, an output by twice that times max|v|) and the weights to 2^-16 of
     * the largest of a tile of 64 rows (an output moves by at most 2^-10 max|v|) */
    void (*attend_few)(const struct ft_attend *a);
    void (*lse)(const struct ft_vote *v);
    void (*mass)(const struct ft_vote *v);
    /* pack / unpack - rows [64][d] to and from a block of ft_pack_block_bytes() bytes; the same
     * bytes, and the same bits, in every variant
     *   mean     f16 [64][d] or NULL: the rows are these less what the block holds, rounded to f32 */
    void (*pack)(const struct ft_pack *pack, const float *rows, uint32_t d, void *block);
    void (*unpack)(const struct ft_pack *pack, const void *block, const void *mean, uint32_t d,
                   float *rows);
    void (*attend_blocks)(const struct ft_attend_blocks *a);
    void (*attend_unpacked)(const struct ft_attend_blocks *a);
};

extern const struct ft_kern ft_kern_ref;
#if defined(__x86_64__)
extern const struct ft_kern ft_kern_avx2, ft_kern_avx512, ft_kern_avx512vnni, ft_kern_avx512bf16;
#elif defined(__aarch64__)
extern const struct ft_kern ft_kern_neon;
#endif

/* ft_kern - the table in use: the best this machine has, or what FT_KERN=ref|avx2|avx512|
 * avx512vnni|avx512bf16|neon forces.
 * An FT_KERN that the machine cannot run, or an unknown one, falls back to the best; it is logged,
 * and sessions report it.
 */
const struct ft_kern *ft_kern(void);

/* ft_kern_ignored - the FT_KERN that named no variant this machine can run; NULL: none did. */
const char *ft_kern_ignored(void);

/* ft_kern_list - every variant this machine can run, ref first; for tests.  ->  count */
enum { FT_KERN_MOST = 5 };
uint32_t ft_kern_list(const struct ft_kern *out[FT_KERN_MOST]);

size_t ft_fmt_row_bytes(enum ft_fmt fmt, uint32_t d); /* of one row of d numbers */
const char *ft_fmt_name(enum ft_fmt fmt);             /* "f32", "f16", "bf16", "q8_0" */
bool ft_fmt_parse(const char *text, enum ft_fmt *out);
/* of a block of 64 rows: 4 bytes per group and the codes, nothing else; d is a multiple of 16 */
size_t ft_pack_block_bytes(const struct ft_pack *pack, uint32_t d);
/* f16 rows of means: those of block b; NULL if there are none */
const void *ft_pack_mean(const void *mean, uint32_t b, uint32_t d);
/* scratch of one thread, any kernel, any allowed size */
size_t ft_kern_work_bytes(void);

/* attend_done - acc[i][:] / sum[i] into out rows (out_stride floats apart); zeros where sum
 * is 0. */
void ft_attend_done(uint32_t m, uint32_t d, const float *acc, const float *sum, float *out,
                    size_t out_stride);
/* attend_merge - fold a partial state (max, sum, acc of one query) into another; the order of calls
 * is the order of bits. */
void ft_attend_merge(uint32_t d, float *max, float *sum, float *acc, float max2, float sum2,
                     const float *acc2);

#endif
