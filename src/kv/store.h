/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - the KV cache: rows per (layer, KV head), each head with its own length.
 *
 * Where a layer is packed, the oldest rows of a head lie in blocks of 64, quantised together: rows
 * [0, 64 * blocks).  Those behind them are exact.  A row is quantised once and stays in its block.
 */
#ifndef FT_KV_STORE_H
#define FT_KV_STORE_H

#include "base/base.h"
#include "kern/kern.h"

struct ft_kv_shape {
    uint32_t n_layer, n_head_kv, d;
    enum ft_fmt k_fmt, v_fmt;
    uint32_t n_aux; /* floats of a method beside each row; they move with it and count as bytes */
};

struct ft_rows {       /* a list of rows of one head */
    const ft_row *row; /* [n] strictly increasing; NULL: the first n */
    uint32_t n;
};

/* How a layer is packed; bits 0 in k: not at all. */
struct ft_packing {
    struct ft_pack k, v;
    uint32_t residual; /* at least so many rows of a head are exact, and fewer than 64 more */
    /* blocks hold what must be taken from the mean over the layer's heads, kept in f16 (TaDA,
     * arXiv:2506.04642); heads then have the same rows */
    bool is_mean;
};
enum { FT_KV_ROOM = 512 }; /* rows that may be appended to a packed layer before ft_kv_settle */

struct ft_kv;

/* ft_kv_new - an empty store; no rows are reserved yet.
 *   gauge    counts the bytes of rows held (K and V, encoded); may be shared by stores and may be
 *            NULL; borrowed until free */
ft_status ft_kv_new(const struct ft_kv_shape *shape, struct ft_gauge *gauge, struct ft_kv **out,
                    struct ft_error *err);
void ft_kv_free(struct ft_kv *kv);
const struct ft_kv_shape *ft_kv_shape_of(const struct ft_kv *kv);
/* ft_kv_set_aux - floats beside each row from now on; nothing may be reserved. */
void ft_kv_set_aux(struct ft_kv *kv, uint32_t n_aux);

/* ft_kv_set_packing - how layers are packed from their next reservation on.  n_aux must be 0 then:
 * what a method keeps beside a row has no place in a block. */
void ft_kv_set_packing(struct ft_kv *kv, uint32_t layer, const struct ft_packing *packing);

/* ft_kv_reserve - room for `cap` rows in every head of a layer (whole pages; untouched pages cost
 * nothing).
 * What the layer held before is released.  cap is rounded up to a multiple of 16; rows beyond n_row
 * read as zero until appended, so a padded tail is harmless.
 * Errors     FT_NOMEM naming layer and bytes */
ft_status ft_kv_reserve(struct ft_kv *kv, uint32_t layer, uint32_t cap, struct ft_error *err);
void ft_kv_release(struct ft_kv *kv, uint32_t layer); /* rows and room are gone; pages returned */

/* ft_kv_extend - make n new rows at the end of every head of a layer, at the given positions.
 *   pos      [n] increasing, greater than the last position held, or FT_ARG
 *   ->       contents are undefined until ft_kv_write fills them
 * Errors     FT_LIMIT when the room is used up; nothing has changed */
ft_status ft_kv_extend(struct ft_kv *kv, uint32_t layer, const ft_pos *pos, uint32_t n,
                       struct ft_error *err);

/* ft_kv_write - encode one token's K and V of one head into row `row` (already extended).  k, v:
 * [d] f32.
 * Thread     different (head, row) pairs may be written at the same time */
void ft_kv_write(struct ft_kv *kv, uint32_t layer, uint32_t h, ft_row row, const float *k,
                 const float *v);

/* ft_kv_settle - pack the oldest exact rows of every head of a layer while more than residual + 63
 * are exact; nothing in a layer that is not packed.  No allocation. */
void ft_kv_settle(struct ft_kv *kv, uint32_t layer);
/* ft_kv_pack_us - what that took where blocks were made, since ft_kv_set_packing: rows read, packed, and
 * the exact ones behind them moved. */
int64_t ft_kv_pack_us(const struct ft_kv *kv);

/* ft_kv_read - all rows of a head, decoded.
 *   k, v     [rows][d] */
void ft_kv_read(const struct ft_kv *kv, uint32_t layer, uint32_t h, float *k, float *v);

/* ft_kv_keep - keep the listed rows of one layer and drop the rest.
 *   keep     [n_head_kv] lists of rows, each strictly increasing; borrowed for the call
 *   ->       survivors keep their order, positions and aux values; pages no longer needed are returned
 * Errors     FT_ARG if a row is out of range or a list is not increasing; FT_UNSUP if a head has packed
 *            rows; nothing has changed */
ft_status ft_kv_keep(struct ft_kv *kv, uint32_t layer, const struct ft_rows *keep,
                     struct ft_error *err);

/* ft_kv_drop - drop the listed rows of one head; the others keep their order, positions and aux
 * values.
 * Cost       one pass over the rows behind the first listed one; no allocation
 * Errors     as ft_kv_keep */
ft_status ft_kv_drop(struct ft_kv *kv, uint32_t layer, uint32_t h, const struct ft_rows *drop,
                     struct ft_error *err);

/* ft_kv_gather - copy the listed rows of (src, src_layer), which is not packed, to the end of (dst,
 * dst_layer), which has room and equal shape; if that is packed, they settle there.  Errors FT_UNSUP if
 * heads that share means get different rows. */
ft_status ft_kv_gather(struct ft_kv *dst, uint32_t dst_layer, const struct ft_kv *src,
                       uint32_t src_layer, const struct ft_rows *keep, struct ft_error *err);

/* ft_kv_rewind - drop the last n rows of every head of a layer.  Errors FT_ARG if a head has fewer
 * exact ones. */
ft_status ft_kv_rewind(struct ft_kv *kv, uint32_t layer, uint32_t n, struct ft_error *err);

uint32_t ft_kv_rows(const struct ft_kv *kv, uint32_t layer, uint32_t h); /* rows held */
/* room, a multiple of 16 */
uint32_t ft_kv_cap(const struct ft_kv *kv, uint32_t layer);
/* [rows] borrowed until the next change */
const ft_pos *ft_kv_pos(const struct ft_kv *kv, uint32_t layer, uint32_t h);
/* [rows][n_aux] 0 in a new row; NULL without any; borrowed until the next change */
float *ft_kv_aux(const struct ft_kv *kv, uint32_t layer, uint32_t h);
/* the exact rows, [][d] encoded: row 64 * blocks and those behind it */
const void *ft_kv_k(const struct ft_kv *kv, uint32_t layer, uint32_t h);
const void *ft_kv_v(const struct ft_kv *kv, uint32_t layer, uint32_t h);
/* distance between heads, K */
size_t ft_kv_head_k_bytes(const struct ft_kv *kv, uint32_t layer);
size_t ft_kv_head_v_bytes(const struct ft_kv *kv, uint32_t layer);
const struct ft_packing *ft_kv_packing(const struct ft_kv *kv, uint32_t layer);
uint32_t ft_kv_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h); /* held; 0: none */
/* [blocks] one after the other, ft_pack_block_bytes each */
const void *ft_kv_k_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h);
const void *ft_kv_v_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h);
/* [64 blocks][d] f16, of all heads; NULL where blocks hold the rows themselves */
const void *ft_kv_k_means(const struct ft_kv *kv, uint32_t layer);
const void *ft_kv_v_means(const struct ft_kv *kv, uint32_t layer);
/* of rows held, aux and blocks included */
uint64_t ft_kv_bytes(const struct ft_kv *kv);
size_t ft_kv_row_bytes(const struct ft_kv *kv); /* of one exact row of one head */
/* one token in all layers, aux included */
size_t ft_kv_token_bytes(const struct ft_kv_shape *shape);
/* ft_kv_packed_bytes - of n rows of every head of one layer, settled. */
uint64_t ft_kv_packed_bytes(const struct ft_kv_shape *shape, const struct ft_packing *packing,
                            uint64_t n);

#endif
