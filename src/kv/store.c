/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - the KV cache: rows per (layer, KV head), each head with its own length.
 *
 *   layer l, head h:   k   | row 0 | row 1 | ... | n_row-1 | zero ... | cap    encoded, d wide
 *                      v   | ...                                      |
 *                      pos | 0     | 7     | ... | 31998   |               strictly increasing
 *                      aux | a method's own floats, n_aux per row; moved with the row
 *
 * A packed layer has room for blocks, too, and less for exact rows; n_row counts both:
 *
 *                      k_block | block 0: rows 0..63 | ... | block n_block-1 |   v_block alike
 *                      k       | row 64*n_block | ... | n_row-1 | zero ... | cap_exact
 *                      k_mean  | mean over the heads of row 0 | ... (is_mean) | f16, of the layer
 *
 * K and V of one layer are one mapping each, [n_head_kv][cap][d]; pages that were never written
 * cost nothing.  Everything beyond n_row reads as zero at all times (attention may read a padded
 * tail, and a stale NaN there would poison the sum), so whoever frees rows clears them: whole pages
 * go back to the kernel, the rest is overwritten.  Positions and lengths come from reserve;
 * appending a row allocates nothing.
 */
#include "kv/store.h"

#include <string.h>
#include <unistd.h>

enum {
    ROW_PAD = 16, /* cap is a multiple of this many rows */
    /* heads of at least this many bytes are asked for in large pages: a decode step then reads them a
     * quarter to a half faster, and what a half-filled page wastes stays small beside them */
    LARGE_PAGE = 2 << 20,
};

struct layer {
    uint8_t *k, *v;    /* [n_head_kv][cap_exact][d] encoded; NULL when nothing is reserved */
    ft_pos *pos;       /* [n_head_kv][cap] */
    float *aux;        /* [n_head_kv][cap][n_aux] 0 beyond n_row; NULL without any */
    uint32_t *n_row;   /* [n_head_kv] lives as long as the store, as n_block */
    uint32_t *n_block; /* [n_head_kv] */
    uint32_t cap, cap_exact, cap_block;
    uint8_t *k_block, *v_block; /* [n_head_kv][cap_block] */
    uint16_t *k_mean, *v_mean;  /* [cap_block][64][d] */
    struct ft_packing packing;  /* of what is reserved */
    struct ft_packing wanted;   /* from the next reservation on */
};

struct ft_kv {
    struct ft_kv_shape shape;
    struct ft_gauge *gauge;
    struct layer *layer; /* [n_layer] */
    uint32_t *n_row;     /* [2][n_layer][n_head_kv] rows, blocks: owns what the layers point into */
    /* [2][64][d] of a block that is being packed, the mean's first; NULL until a layer is packed */
    float *wide;
    size_t k_row_bytes, v_row_bytes, page_bytes;
    uint64_t bytes;  /* of rows held, all heads of all layers */
    int64_t pack_us; /* since ft_kv_set_packing */
};

static struct layer *layer_of(const struct ft_kv *kv, uint32_t layer) {
    ft_assert(layer < kv->shape.n_layer);
    return &kv->layer[layer];
}

static size_t row_bytes(const struct ft_kv_shape *shape) {
    return ft_fmt_row_bytes(shape->k_fmt, shape->d) + ft_fmt_row_bytes(shape->v_fmt, shape->d) +
           shape->n_aux * sizeof(float);
}

static void count_bytes(struct ft_kv *kv, int64_t delta) {
    kv->bytes = (uint64_t)((int64_t)kv->bytes + delta);
    ft_gauge_add(kv->gauge, delta);
}

static void count_rows(struct ft_kv *kv, int64_t delta) {
    count_bytes(kv, delta * (int64_t)row_bytes(&kv->shape));
}

/* Of one block of K and one of V. */
static size_t block_bytes(const struct ft_packing *packing, uint32_t d) {
    return packing->k.bits == 0
               ? 0
               : ft_pack_block_bytes(&packing->k, d) + ft_pack_block_bytes(&packing->v, d);
}

/* Of the means of one block of K and one of V. */
static size_t mean_bytes(const struct ft_packing *packing, uint32_t d) {
    return packing->is_mean ? (size_t)2 * FT_BLOCK_ROW * d * sizeof(uint16_t) : 0;
}

/* Where exact row `row` of head h lies in k and v. */
static size_t exact_at(const struct layer *l, uint32_t h, uint32_t row) {
    return (size_t)h * l->cap_exact + row - (size_t)l->n_block[h] * FT_BLOCK_ROW;
}

/* Bytes [from, to) of a mapping read as zero afterwards; whole pages among them are given back. */
static void clear_bytes(const struct ft_kv *kv, uint8_t *base, size_t from, size_t to) {
    size_t page = kv->page_bytes;
    size_t first = (from + page - 1) / page * page; /* base is page-aligned */
    size_t last = to / page * page;
    if (first >= last) {
        memset(base + from, 0, to - from);
        return;
    }
    memset(base + from, 0, first - from);
    ft_pages_drop(base + first, last - first);
    memset(base + last, 0, to - last);
}

/* Head h of a layer holds `n` rows from now on, its blocks among them; the rows behind them are
 * cleared. */
static void shrink_head(struct ft_kv *kv, struct layer *l, uint32_t h, uint32_t n) {
    uint32_t held = l->n_row[h];
    if (n == held) {
        return;
    }
    size_t first = exact_at(l, h, n), end = exact_at(l, h, held);
    clear_bytes(kv, l->k, first * kv->k_row_bytes, end * kv->k_row_bytes);
    clear_bytes(kv, l->v, first * kv->v_row_bytes, end * kv->v_row_bytes);
    if (l->aux != NULL) {
        memset(l->aux + ((size_t)h * l->cap + n) * kv->shape.n_aux, 0,
               (size_t)(held - n) * kv->shape.n_aux * sizeof(float));
    }
    count_rows(kv, -(int64_t)(held - n));
    l->n_row[h] = n;
}

ft_status ft_kv_new(const struct ft_kv_shape *shape, struct ft_gauge *gauge, struct ft_kv **out,
                    struct ft_error *err) {
    if (shape->n_layer == 0 || shape->n_head_kv == 0 || shape->d == 0 || shape->d > FT_HEAD_MAX ||
        (unsigned)shape->k_fmt >= FT_FMT_COUNT || (unsigned)shape->v_fmt >= FT_FMT_COUNT) {
        return ft_fail(err, FT_ARG, 0, "KV store: %u layers, %u heads of %u is not a shape",
                       shape->n_layer, shape->n_head_kv, shape->d);
    }
    if ((shape->k_fmt == FT_Q8_0 || shape->v_fmt == FT_Q8_0) && shape->d % 32 != 0) {
        return ft_fail(err, FT_ARG, 0, "KV store: q8_0 rows of %u, expected a multiple of 32",
                       shape->d);
    }
    struct ft_kv *kv = ft_alloc(1, sizeof(*kv));
    if (kv == NULL) {
        goto full;
    }
    kv->shape = *shape;
    kv->gauge = gauge;
    kv->k_row_bytes = ft_fmt_row_bytes(shape->k_fmt, shape->d);
    kv->v_row_bytes = ft_fmt_row_bytes(shape->v_fmt, shape->d);
    kv->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    kv->layer = ft_alloc(shape->n_layer, sizeof(*kv->layer));
    size_t n_list;
    if (kv->layer == NULL || !ft_size_mul(shape->n_layer, shape->n_head_kv, &n_list)) {
        goto full;
    }
    kv->n_row = ft_alloc(n_list, 2 * sizeof(*kv->n_row));
    if (kv->n_row == NULL) {
        goto full;
    }
    for (uint32_t l = 0; l < shape->n_layer; l++) {
        kv->layer[l].n_row = kv->n_row + (size_t)l * shape->n_head_kv;
        kv->layer[l].n_block = kv->layer[l].n_row + n_list;
    }
    *out = kv;
    return FT_OK;
full:
    ft_kv_free(kv);
    return ft_fail(err, FT_NOMEM, 0, "KV store: no memory for the tables of %u layers",
                   shape->n_layer);
}

void ft_kv_free(struct ft_kv *kv) {
    if (kv == NULL) {
        return;
    }
    for (uint32_t l = 0; kv->layer != NULL && kv->n_row != NULL && l < kv->shape.n_layer; l++) {
        ft_kv_release(kv, l);
    }
    ft_free(kv->n_row);
    ft_free(kv->layer);
    ft_free(kv->wide);
    ft_free(kv);
}

const struct ft_kv_shape *ft_kv_shape_of(const struct ft_kv *kv) {
    return &kv->shape;
}

void ft_kv_set_aux(struct ft_kv *kv, uint32_t n_aux) {
    for (uint32_t l = 0; l < kv->shape.n_layer; l++) {
        ft_assert(kv->layer[l].cap == 0);
    }
    kv->shape.n_aux = n_aux;
}

void ft_kv_set_packing(struct ft_kv *kv, uint32_t layer, const struct ft_packing *packing) {
    layer_of(kv, layer)->wanted = *packing;
    kv->pack_us = 0;
}

void ft_kv_release(struct ft_kv *kv, uint32_t layer) {
    struct layer *l = layer_of(kv, layer);
    uint32_t n_head = kv->shape.n_head_kv, d = kv->shape.d;
    count_bytes(kv, -(int64_t)(l->n_block[0] * mean_bytes(&l->packing, d)));
    for (uint32_t h = 0; h < n_head; h++) {
        uint32_t n_packed = l->n_block[h] * FT_BLOCK_ROW;
        count_rows(kv, -(int64_t)(l->n_row[h] - n_packed));
        count_bytes(kv, -(int64_t)(l->n_block[h] * block_bytes(&l->packing, d)));
        l->n_row[h] = l->n_block[h] = 0;
    }
    size_t n = (size_t)l->cap_exact * n_head, n_block = (size_t)l->cap_block * n_head;
    ft_pages_unmap(l->k, n * kv->k_row_bytes);
    ft_pages_unmap(l->v, n * kv->v_row_bytes);
    if (n_block > 0) {
        ft_pages_unmap(l->k_block, n_block * ft_pack_block_bytes(&l->packing.k, d));
        ft_pages_unmap(l->v_block, n_block * ft_pack_block_bytes(&l->packing.v, d));
        ft_pages_unmap(l->k_mean, l->cap_block * mean_bytes(&l->packing, d) / 2);
        ft_pages_unmap(l->v_mean, l->cap_block * mean_bytes(&l->packing, d) / 2);
    }
    ft_free(l->pos);
    ft_free(l->aux);
    l->k = l->v = l->k_block = l->v_block = NULL;
    l->k_mean = l->v_mean = NULL;
    l->pos = NULL;
    l->aux = NULL;
    l->cap = l->cap_exact = l->cap_block = 0;
}

/* Large pages where heads are large: all of a mapping is going to be written. */
static void *map_heads(size_t n_byte, uint32_t n_head) {
    void *p = ft_pages_map(n_byte);
    if (p != NULL && n_byte / n_head >= LARGE_PAGE) {
        ft_pages_large(p, n_byte);
    }
    return p;
}

/* Room for blocks beside cap_exact rows, all of a layer's. */
static bool reserve_blocks(struct ft_kv *kv, struct layer *l) {
    uint32_t n_head = kv->shape.n_head_kv, d = kv->shape.d;
    size_t n = (size_t)l->cap_block * n_head;
    if (n == 0) {
        return true;
    }
    ft_assert(kv->shape.n_aux == 0);
    if (kv->wide == NULL) {
        kv->wide = ft_alloc((size_t)2 * FT_BLOCK_ROW * d, sizeof(*kv->wide));
    }
    if (l->packing.is_mean) {
        l->k_mean = ft_pages_map(l->cap_block * mean_bytes(&l->packing, d) / 2);
        l->v_mean = ft_pages_map(l->cap_block * mean_bytes(&l->packing, d) / 2);
    }
    l->k_block = map_heads(n * ft_pack_block_bytes(&l->packing.k, d), n_head);
    l->v_block = map_heads(n * ft_pack_block_bytes(&l->packing.v, d), n_head);
    bool has_means = !l->packing.is_mean || (l->k_mean != NULL && l->v_mean != NULL);
    return kv->wide != NULL && l->k_block != NULL && l->v_block != NULL && has_means;
}

ft_status ft_kv_reserve(struct ft_kv *kv, uint32_t layer, uint32_t cap, struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    uint32_t n_head = kv->shape.n_head_kv;
    ft_kv_release(kv, layer);
    l->packing = l->wanted;
    if (cap == 0) {
        return FT_OK;
    }
    if (cap > UINT32_MAX - (ROW_PAD - 1)) {
        return ft_fail(err, FT_LIMIT, 0, "KV rows of layer %u: %u is too many", layer, cap);
    }
    cap = (cap + ROW_PAD - 1) / ROW_PAD * ROW_PAD;
    size_t n, k_bytes, v_bytes, all;
    if (!ft_size_mul(cap, n_head, &n) || !ft_size_mul(n, kv->k_row_bytes, &k_bytes) ||
        !ft_size_mul(n, kv->v_row_bytes, &v_bytes) || !ft_size_add(k_bytes, v_bytes, &all)) {
        return ft_fail(err, FT_NOMEM, 0, "KV rows of layer %u: %u rows overflow the address space",
                       layer, cap);
    }
    l->cap = l->cap_exact = cap;
    if (l->packing.k.bits > 0) { /* fewer bytes than all rows would be */
        uint64_t most = (uint64_t)l->packing.residual + FT_BLOCK_ROW + FT_KV_ROOM;
        l->cap_exact = (uint32_t)FT_MIN(cap, (most + ROW_PAD - 1) / ROW_PAD * ROW_PAD);
        l->cap_block = cap > l->packing.residual ? cap / FT_BLOCK_ROW : 0;
    }
    l->k = map_heads((size_t)l->cap_exact * n_head * kv->k_row_bytes, n_head);
    l->v = map_heads((size_t)l->cap_exact * n_head * kv->v_row_bytes, n_head);
    l->pos = ft_alloc(n, sizeof(*l->pos));
    uint32_t n_aux = kv->shape.n_aux;
    l->aux = n_aux > 0 ? ft_alloc(n, n_aux * sizeof(*l->aux)) : NULL;
    if (l->k == NULL || l->v == NULL || l->pos == NULL || (n_aux > 0 && l->aux == NULL) ||
        !reserve_blocks(kv, l)) {
        ft_kv_release(kv, layer);
        return ft_fail_memory(err, all, "KV rows of layer %u (%u rows)", layer, cap);
    }
    return FT_OK;
}

/* Whether n more rows, the first of them at `first`, may follow what head h holds. */
static ft_status check_append(const struct ft_kv *kv, uint32_t layer, uint32_t h, uint32_t n,
                              ft_pos first, struct ft_error *err) {
    const struct layer *l = layer_of(kv, layer);
    uint32_t held = l->n_row[h];
    if (n > l->cap - held) {
        return ft_fail(err, FT_LIMIT, 0,
                       "KV rows of layer %u head %u: %u held and %u more, room for %u", layer, h,
                       held, n, l->cap);
    }
    ft_pos last = held == 0 ? -1 : l->pos[(size_t)h * l->cap + held - 1];
    if (n > 0 && first <= last) {
        return ft_fail(err, FT_ARG, 0, "KV rows of layer %u head %u: position %d after %d", layer,
                       h, first, last);
    }
    return FT_OK;
}

/* A packed layer takes FT_KV_ROOM rows at a time. */
static ft_status check_room(const struct ft_kv *kv, uint32_t layer, uint32_t h, uint32_t n,
                            struct ft_error *err) {
    const struct layer *l = layer_of(kv, layer);
    uint32_t n_exact = l->n_row[h] - l->n_block[h] * FT_BLOCK_ROW;
    return n <= l->cap_exact - n_exact
               ? FT_OK
               : ft_fail(err, FT_LIMIT, 0,
                         "KV rows of layer %u head %u: %u exact and %u more, room for %u", layer, h,
                         n_exact, n, l->cap_exact);
}

ft_status ft_kv_extend(struct ft_kv *kv, uint32_t layer, const ft_pos *pos, uint32_t n,
                       struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    if (n == 0) {
        return FT_OK;
    }
    for (uint32_t j = 1; j < n; j++) {
        if (pos[j] <= pos[j - 1]) {
            return ft_fail(err, FT_ARG, j, "KV rows of layer %u: position %d after %d", layer,
                           pos[j], pos[j - 1]);
        }
    }
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        FT_TRY(check_append(kv, layer, h, n, pos[0], err));
        FT_TRY(check_room(kv, layer, h, n, err));
    }
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        memcpy(l->pos + (size_t)h * l->cap + l->n_row[h], pos, n * sizeof(*pos));
        l->n_row[h] += n;
    }
    count_rows(kv, (int64_t)n * kv->shape.n_head_kv);
    return FT_OK;
}

void ft_kv_write(struct ft_kv *kv, uint32_t layer, uint32_t h, ft_row row, const float *k,
                 const float *v) {
    struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv && row < l->n_row[h]);
    ft_assert(row >= l->n_block[h] * FT_BLOCK_ROW);
    const struct ft_kern *kern = ft_kern();
    size_t at = exact_at(l, h, row);
    kern->encode(kv->shape.k_fmt, k, l->k + at * kv->k_row_bytes, kv->shape.d);
    if (!v) { /* a row that is only asked for its key */
        return;
    }
    kern->encode(kv->shape.v_fmt, v, l->v + at * kv->v_row_bytes, kv->shape.d);
}

/* ---- packing ---- */

/* One side, K or V, of a layer that is being packed. */
struct side {
    const struct ft_pack *pack;
    enum ft_fmt fmt;
    uint8_t *rows, *blocks;
    uint16_t *means; /* NULL: blocks hold the rows themselves */
    size_t row_bytes, block_bytes;
};

static struct side side_of(const struct ft_kv *kv, const struct layer *l, bool is_value) {
    const struct ft_pack *pack = is_value ? &l->packing.v : &l->packing.k;
    return (struct side){ .pack = pack,
                          .fmt = is_value ? kv->shape.v_fmt : kv->shape.k_fmt,
                          .rows = is_value ? l->v : l->k,
                          .blocks = is_value ? l->v_block : l->k_block,
                          .means = is_value ? l->v_mean : l->k_mean,
                          .row_bytes = is_value ? kv->v_row_bytes : kv->k_row_bytes,
                          .block_bytes = ft_pack_block_bytes(pack, kv->shape.d) };
}

/* Row j of the 64 oldest exact rows of head h behind `block` more of them. */
static void oldest_row(const struct ft_kv *kv, const struct layer *l, const struct side *side,
                       uint32_t h, uint32_t block, uint32_t j, float *out) {
    size_t at = (size_t)h * l->cap_exact + (size_t)block * FT_BLOCK_ROW + j;
    ft_kern()->decode(side->fmt, side->rows + at * side->row_bytes, out, kv->shape.d);
}

/* The mean over heads of 64 rows, as it is stored, to `mean` [64][d]. */
static void average_heads(struct ft_kv *kv, const struct layer *l, const struct side *side,
                          uint32_t block, float *mean) {
    uint32_t d = kv->shape.d, n_head = kv->shape.n_head_kv;
    uint16_t *out = side->means + ((size_t)l->n_block[0] + block) * FT_BLOCK_ROW * d;
    float row[FT_HEAD_MAX];
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j++) {
        double sum[FT_HEAD_MAX] = { 0 };
        for (uint32_t h = 0; h < n_head; h++) {
            oldest_row(kv, l, side, h, block, j, row);
            for (uint32_t t = 0; t < d; t++) {
                sum[t] += (double)row[t];
            }
        }
        for (uint32_t t = 0; t < d; t++) {
            mean[(size_t)j * d + t] = (float)(sum[t] / n_head);
        }
    }
    ft_kern()->encode(FT_F16, mean, out, (size_t)FT_BLOCK_ROW * d);
    ft_kern()->decode(FT_F16, out, mean, (size_t)FT_BLOCK_ROW * d);
}

/* The `block`-th 64 of the oldest exact rows of all heads become a block each. */
static void pack_side(struct ft_kv *kv, struct layer *l, bool is_value, uint32_t h,
                      uint32_t block) {
    struct side side = side_of(kv, l, is_value);
    uint32_t d = kv->shape.d;
    float *mean = kv->wide, *rows = kv->wide + (size_t)FT_BLOCK_ROW * d;
    if (side.means != NULL && h == 0) {
        average_heads(kv, l, &side, block, mean);
    }
    for (uint32_t j = 0; j < FT_BLOCK_ROW; j++) {
        float *row = rows + (size_t)j * d;
        oldest_row(kv, l, &side, h, block, j, row);
        for (uint32_t t = 0; side.means != NULL && t < d; t++) {
            row[t] = mean[(size_t)j * d + t] - row[t];
        }
    }
    size_t to = (size_t)h * l->cap_block + l->n_block[h] + block;
    ft_kern()->pack(side.pack, rows, d, side.blocks + to * side.block_bytes);
}

/* n blocks of head h are made: the rows behind them move up. */
static void take_packed(struct ft_kv *kv, struct layer *l, uint32_t h, uint32_t n) {
    size_t first = (size_t)h * l->cap_exact, gone = (size_t)n * FT_BLOCK_ROW;
    size_t n_exact = l->n_row[h] - (size_t)l->n_block[h] * FT_BLOCK_ROW, left = n_exact - gone;
    uint8_t *k = l->k + first * kv->k_row_bytes, *v = l->v + first * kv->v_row_bytes;
    memmove(k, k + gone * kv->k_row_bytes, left * kv->k_row_bytes);
    memmove(v, v + gone * kv->v_row_bytes, left * kv->v_row_bytes);
    clear_bytes(kv, l->k, (first + left) * kv->k_row_bytes, (first + n_exact) * kv->k_row_bytes);
    clear_bytes(kv, l->v, (first + left) * kv->v_row_bytes, (first + n_exact) * kv->v_row_bytes);
    /* both were there for a moment */
    count_bytes(kv, (int64_t)(n * block_bytes(&l->packing, kv->shape.d)));
    count_rows(kv, -(int64_t)gone);
    l->n_block[h] += n;
}

static uint32_t blocks_due(const struct layer *l, uint32_t h) {
    uint32_t n_exact = l->n_row[h] - l->n_block[h] * FT_BLOCK_ROW;
    return n_exact > l->packing.residual ? (n_exact - l->packing.residual) / FT_BLOCK_ROW : 0;
}

void ft_kv_settle(struct ft_kv *kv, uint32_t layer) {
    struct layer *l = layer_of(kv, layer);
    uint32_t n_head = kv->shape.n_head_kv, most = 0;
    for (uint32_t h = 0; l->packing.k.bits > 0 && h < n_head; h++) {
        ft_assert(l->n_block[h] + blocks_due(l, h) <= l->cap_block);
        ft_assert(!l->packing.is_mean || l->n_row[h] == l->n_row[0]);
        most = FT_MAX(most, blocks_due(l, h));
    }
    if (most == 0) {
        return;
    }
    int64_t start = ft_time_us();
    for (int is_value = 0; is_value < 2; is_value++) {
        for (uint32_t block = 0; block < most; block++) {
            for (uint32_t h = 0; h < n_head; h++) {
                if (block < blocks_due(l, h)) {
                    pack_side(kv, l, is_value, h, block);
                }
            }
        }
    }
    count_bytes(kv, (int64_t)(most * mean_bytes(&l->packing, kv->shape.d)));
    for (uint32_t h = 0; h < n_head; h++) {
        uint32_t n = blocks_due(l, h);
        if (n > 0) {
            take_packed(kv, l, h, n);
        }
    }
    kv->pack_us += ft_time_us() - start;
}

int64_t ft_kv_pack_us(const struct ft_kv *kv) {
    return kv->pack_us;
}

void ft_kv_read(const struct ft_kv *kv, uint32_t layer, uint32_t h, float *k, float *v) {
    const struct layer *l = layer_of(kv, layer);
    uint32_t d = kv->shape.d, n_packed = l->n_block[h] * FT_BLOCK_ROW;
    const struct ft_kern *kern = ft_kern();
    for (uint32_t b = 0; b < l->n_block[h]; b++) {
        size_t at = (size_t)h * l->cap_block + b, to = (size_t)b * FT_BLOCK_ROW * d;
        kern->unpack(&l->packing.k, l->k_block + at * ft_pack_block_bytes(&l->packing.k, d),
                     ft_pack_mean(l->k_mean, b, d), d, k + to);
        kern->unpack(&l->packing.v, l->v_block + at * ft_pack_block_bytes(&l->packing.v, d),
                     ft_pack_mean(l->v_mean, b, d), d, v + to);
    }
    for (uint32_t row = n_packed; row < l->n_row[h]; row++) {
        size_t at = exact_at(l, h, row), to = (size_t)row * d;
        kern->decode(kv->shape.k_fmt, l->k + at * kv->k_row_bytes, k + to, d);
        kern->decode(kv->shape.v_fmt, l->v + at * kv->v_row_bytes, v + to, d);
    }
}

/* ---- lists of rows ---- */

/* A head's list must be strictly increasing and name rows that exist. */
static ft_status check_list(const struct ft_kv *kv, uint32_t layer, uint32_t h,
                            const struct ft_rows *rows, struct ft_error *err) {
    const struct layer *l = layer_of(kv, layer);
    if (rows->row == NULL && rows->n > l->n_row[h]) {
        return ft_fail(err, FT_ARG, 0, "KV rows of layer %u head %u: %u asked for, %u held", layer,
                       h, rows->n, l->n_row[h]);
    }
    for (uint32_t j = 0; rows->row != NULL && j < rows->n; j++) {
        ft_row row = rows->row[j];
        if (row >= l->n_row[h]) {
            return ft_fail(err, FT_ARG, j, "KV rows of layer %u head %u: row %u listed, %u held",
                           layer, h, row, l->n_row[h]);
        }
        if (j > 0 && row <= rows->row[j - 1]) {
            return ft_fail(err, FT_ARG, j, "KV rows of layer %u head %u: row %u listed after %u",
                           layer, h, row, rows->row[j - 1]);
        }
    }
    return FT_OK;
}

static ft_status check_lists(const struct ft_kv *kv, uint32_t layer, const struct ft_rows *keep,
                             struct ft_error *err) {
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        FT_TRY(check_list(kv, layer, h, &keep[h], err));
    }
    return FT_OK;
}

static ft_status check_exact(const struct ft_kv *kv, uint32_t layer, uint32_t h,
                             struct ft_error *err) {
    uint32_t n = layer_of(kv, layer)->n_block[h];
    return n == 0 ? FT_OK
                  : ft_fail(err, FT_UNSUP, 0,
                            "KV rows of layer %u head %u: %u blocks are packed, no row leaves one",
                            layer, h, n);
}

/* Rows [from, from + n) of head h of src to [to, to + n) of dst, all exact; within one layer they
 * may overlap. */
static void copy_run(const struct ft_kv *kv, uint32_t h, struct layer *dst, uint32_t to,
                     const struct layer *src, uint32_t from, size_t n) {
    size_t n_aux = kv->shape.n_aux;
    size_t at = exact_at(dst, h, to), at_src = exact_at(src, h, from);
    memmove(dst->k + at * kv->k_row_bytes, src->k + at_src * kv->k_row_bytes, n * kv->k_row_bytes);
    memmove(dst->v + at * kv->v_row_bytes, src->v + at_src * kv->v_row_bytes, n * kv->v_row_bytes);
    at = (size_t)h * dst->cap + to;
    at_src = (size_t)h * src->cap + from;
    memmove(dst->pos + at, src->pos + at_src, n * sizeof(*dst->pos));
    if (n_aux > 0) {
        memmove(dst->aux + at * n_aux, src->aux + at_src * n_aux, n * n_aux * sizeof(*dst->aux));
    }
}

/* Copy the listed rows [first, first + n) of head h of src to rows [to, to + n) of dst, run by
 * run. */
static void copy_rows(const struct ft_kv *kv, uint32_t h, struct layer *dst, uint32_t to,
                      const struct layer *src, const struct ft_rows *rows, uint32_t first,
                      uint32_t n) {
    for (uint32_t j = 0; j < n;) {
        const ft_row *row = rows->row != NULL ? rows->row + first : NULL;
        uint32_t from = row != NULL ? row[j] : first + j, run = 1;
        while (j + run < n && (row == NULL || row[j + run] == from + run)) {
            run++;
        }
        if (dst != src || to + j != from) {
            copy_run(kv, h, dst, to + j, src, from, run);
        }
        j += run;
    }
}

ft_status ft_kv_keep(struct ft_kv *kv, uint32_t layer, const struct ft_rows *keep,
                     struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    FT_TRY(check_lists(kv, layer, keep, err));
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        FT_TRY(check_exact(kv, layer, h, err));
    }
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        copy_rows(kv, h, l, 0, l, &keep[h], 0, keep[h].n);
        shrink_head(kv, l, h, keep[h].n);
    }
    return FT_OK;
}

ft_status ft_kv_drop(struct ft_kv *kv, uint32_t layer, uint32_t h, const struct ft_rows *drop,
                     struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    FT_TRY(check_list(kv, layer, h, drop, err));
    FT_TRY(check_exact(kv, layer, h, err));
    for (uint32_t i = 0; i < drop->n; i++) { /* what stands between two dropped rows moves down */
        uint32_t from = drop->row[i] + 1;
        uint32_t end = i + 1 < drop->n ? drop->row[i + 1] : l->n_row[h];
        copy_run(kv, h, l, from - 1 - i, l, from, end - from);
    }
    shrink_head(kv, l, h, l->n_row[h] - drop->n);
    return FT_OK;
}

/* Heads that share means hold the same rows. */
static ft_status check_alike(const struct ft_kv *kv, const struct layer *to, uint32_t layer,
                             const struct ft_rows *keep, struct ft_error *err) {
    for (uint32_t h = 1; to->packing.is_mean && h < kv->shape.n_head_kv; h++) {
        bool is_listed = keep[0].row != NULL && keep[h].row != NULL;
        bool is_same = keep[h].n == keep[0].n &&
                       (keep[h].row == keep[0].row ||
                        (is_listed &&
                         memcmp(keep[h].row, keep[0].row, keep[0].n * sizeof(*keep[0].row)) == 0));
        if (!is_same) {
            return ft_fail(
                err, FT_UNSUP, 0,
                "KV rows of layer %u: heads 0 and %u keep different rows, but share means", layer,
                h);
        }
    }
    return FT_OK;
}

ft_status ft_kv_gather(struct ft_kv *dst, uint32_t dst_layer, const struct ft_kv *src,
                       uint32_t src_layer, const struct ft_rows *keep, struct ft_error *err) {
    struct layer *to = layer_of(dst, dst_layer);
    const struct layer *from = layer_of(src, src_layer);
    const struct ft_kv_shape *a = &dst->shape;
    const struct ft_kv_shape *b = &src->shape;
    if (a->n_head_kv != b->n_head_kv || a->d != b->d || a->k_fmt != b->k_fmt ||
        a->v_fmt != b->v_fmt || a->n_aux != b->n_aux) {
        return ft_fail(err, FT_ARG, 0,
                       "KV rows of layer %u: source has %u heads of %u, expected %u of %u"
                       " in the same formats",
                       dst_layer, b->n_head_kv, b->d, a->n_head_kv, a->d);
    }
    FT_TRY(check_lists(src, src_layer, keep, err));
    for (uint32_t h = 0; h < a->n_head_kv; h++) {
        uint32_t row = keep[h].row != NULL && keep[h].n > 0 ? keep[h].row[0] : 0;
        ft_pos first = keep[h].n == 0 ? 0 : from->pos[(size_t)h * from->cap + row];
        FT_TRY(check_exact(src, src_layer, h, err));
        FT_TRY(check_append(dst, dst_layer, h, keep[h].n, first, err));
    }
    FT_TRY(check_alike(dst, to, dst_layer, keep, err));
    uint32_t most = 0;
    for (uint32_t h = 0; h < a->n_head_kv; h++) {
        most = FT_MAX(most, keep[h].n);
    }
    uint32_t step = to->packing.k.bits > 0 ? FT_KV_ROOM : FT_MAX(most, 1);
    for (uint32_t done = 0; done < most; done += step) {
        for (uint32_t h = 0; h < a->n_head_kv; h++) {
            uint32_t n = done < keep[h].n ? FT_MIN(step, keep[h].n - done) : 0;
            copy_rows(dst, h, to, to->n_row[h], from, &keep[h], done, n);
            to->n_row[h] += n;
            count_rows(dst, n);
        }
        ft_kv_settle(dst, dst_layer);
    }
    return FT_OK;
}

ft_status ft_kv_rewind(struct ft_kv *kv, uint32_t layer, uint32_t n, struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        uint32_t n_exact = l->n_row[h] - l->n_block[h] * FT_BLOCK_ROW;
        if (n_exact < n) {
            return ft_fail(err, FT_ARG, 0, "KV rows of layer %u head %u: %u to drop, %u held",
                           layer, h, n, n_exact);
        }
    }
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        shrink_head(kv, l, h, l->n_row[h] - n);
    }
    return FT_OK;
}

uint32_t ft_kv_rows(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    ft_assert(h < kv->shape.n_head_kv);
    return layer_of(kv, layer)->n_row[h];
}

uint32_t ft_kv_cap(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->cap;
}

const ft_pos *ft_kv_pos(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    const struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    return l->pos == NULL ? NULL : l->pos + (size_t)h * l->cap;
}

float *ft_kv_aux(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    const struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    return l->aux == NULL ? NULL : l->aux + (size_t)h * l->cap * kv->shape.n_aux;
}

const void *ft_kv_k(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    ft_assert(h < kv->shape.n_head_kv);
    const struct layer *l = layer_of(kv, layer);
    return l->k == NULL ? NULL : l->k + h * ft_kv_head_k_bytes(kv, layer);
}

const void *ft_kv_v(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    ft_assert(h < kv->shape.n_head_kv);
    const struct layer *l = layer_of(kv, layer);
    return l->v == NULL ? NULL : l->v + h * ft_kv_head_v_bytes(kv, layer);
}

size_t ft_kv_head_k_bytes(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->cap_exact * kv->k_row_bytes;
}

size_t ft_kv_head_v_bytes(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->cap_exact * kv->v_row_bytes;
}

const struct ft_packing *ft_kv_packing(const struct ft_kv *kv, uint32_t layer) {
    return &layer_of(kv, layer)->packing;
}

uint32_t ft_kv_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    ft_assert(h < kv->shape.n_head_kv);
    return layer_of(kv, layer)->n_block[h];
}

const void *ft_kv_k_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    const struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    size_t bytes = l->k_block ? l->cap_block * ft_pack_block_bytes(&l->packing.k, kv->shape.d) : 0;
    return l->k_block ? l->k_block + h * bytes : NULL;
}

const void *ft_kv_v_blocks(const struct ft_kv *kv, uint32_t layer, uint32_t h) {
    const struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    size_t bytes = l->v_block ? l->cap_block * ft_pack_block_bytes(&l->packing.v, kv->shape.d) : 0;
    return l->v_block ? l->v_block + h * bytes : NULL;
}

const void *ft_kv_k_means(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->k_mean;
}

const void *ft_kv_v_means(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->v_mean;
}

uint64_t ft_kv_bytes(const struct ft_kv *kv) {
    return kv->bytes;
}

size_t ft_kv_row_bytes(const struct ft_kv *kv) {
    return row_bytes(&kv->shape);
}

size_t ft_kv_token_bytes(const struct ft_kv_shape *shape) {
    return (size_t)shape->n_layer * shape->n_head_kv * row_bytes(shape);
}

uint64_t ft_kv_packed_bytes(const struct ft_kv_shape *shape, const struct ft_packing *packing,
                            uint64_t n) {
    uint64_t n_block =
        packing->k.bits > 0 && n > packing->residual ? (n - packing->residual) / FT_BLOCK_ROW : 0;
    return n_block * mean_bytes(packing, shape->d) +
           shape->n_head_kv * (n_block * block_bytes(packing, shape->d) +
                               (n - n_block * FT_BLOCK_ROW) * row_bytes(shape));
}
