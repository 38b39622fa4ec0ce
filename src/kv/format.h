/* SPDX-License-Identifier: Apache-2.0 */
/* format.h - how KV rows are stored, as a user says it: "q8_0", "k=q4,v=q2,group=64,residual=64".
 */
#ifndef FT_KV_FORMAT_H
#define FT_KV_FORMAT_H

#include "base/base.h"
#include "kern/kern.h"

enum { FT_KV_LAYER_MAX = 256 }; /* layers whose bits can be listed */

/* Rows are appended as they are (k_fmt, v_fmt); where something is packed, the oldest rows of a
 * head are quantised in blocks of 64, once, and the last `residual` never. */
struct ft_kv_format {
    enum ft_fmt k_fmt, v_fmt;
    struct ft_pack k_pack, v_pack; /* bits 0, in both: nothing is packed */
    uint32_t residual;
    bool is_k_rotated, is_v_rotated; /* by a Hadamard matrix, before they are stored */
    bool is_row_grouped;             /* a group that nobody named is a whole row, not 64 numbers */
    bool is_mean; /* blocks hold deviations from the mean over a layer's heads (TaDA) */
    /* kvq: bits (and groups) of each layer by the norms of its weights; k_pack and v_pack have the
     * averages */
    bool is_by_norm, has_norm_groups, is_spectral;
    /* tada: bits of each layer, as foretoken calibrate finds them; n 0: k_pack and v_pack say */
    uint8_t layer_bits[FT_KV_LAYER_MAX];
    uint32_t n_layer_bits;
    bool is_joint; /* bits are chosen with the number of rows, prompt by prompt */
};

/* ft_kv_format_parse - items split by commas: a name first, or settings, or both.
 *
 *   joint               with a KV method: as many rows as fit, packed, into the bytes that its keep= takes
 *                       in f16; how many bits depends on how much of the prompt that is
 *   f32 f16 bf16 q8_0   rows as they are
 *   q8 q4 q2            both packed: keys by channel, values by token, groups of 64 (KIVI)
 *   k4v2                k=q4,v=q2 (Quantize What Counts)
 *   tada                the mean over a layer's KV heads in f16, each head's deviation from it packed,
 *                       a whole row a group: bits=2, 4 or 8 (4), or of each layer, bits=4.8.2
 *   kvq                 bits of each layer's K and V by the norms of its weights (the same, 2.2):
 *                       bits= on average, 2..8 (4); norm=frobenius, spectral; groups=same, norm:
 *                       then group= is the average
 *   k= v=               a row format for each, or q8, q4, q2; f16 beside a packed one
 *   k_by= v_by=         channel, token: what shares a step and a low
 *   group= k_group= v_group=   how many do
 *   residual=           rows
 *   rows=               f16, bf16, f32: of rows that are not packed yet
 *   rotate=             none, k, kv
 *   mean=               none, heads: what is packed are deviations, as with tada
 *
 * NULL reads as "f16".
 * Errors     FT_ARG naming the item, where = its byte; out untouched */
ft_status ft_kv_format_parse(const char *text, struct ft_kv_format *out, struct ft_error *err);

/* ft_kv_format_fit - do these formats suit heads of d numbers?  Groups that nobody named get their
 * size: 64, less where that does not divide a row.
 *   whose    "target", for the message
 * Errors     FT_ARG */
ft_status ft_kv_format_fit(struct ft_kv_format *format, uint32_t d, const char *whose,
                           struct ft_error *err);

static inline bool ft_kv_format_is_packed(const struct ft_kv_format *format) {
    return format->k_pack.bits > 0;
}

#endif
