/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - the KV cache: rows per (layer, KV head), each head with its own length.
 *
 *   layer l, head h:   k   | row 0 | row 1 | ... | n_row-1 | zero ... | cap    encoded, d wide
 *                      v   | ...                                      |
 *                      pos | 0     | 7     | ... | 31998   |               strictly increasing
 *                      aux | a method's own floats, n_aux per row; moved with the row
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
    uint8_t *k, *v;  /* [n_head_kv][cap][d] encoded; NULL when nothing is reserved */
    ft_pos *pos;     /* [n_head_kv][cap] */
    float *aux;      /* [n_head_kv][cap][n_aux] 0 beyond n_row; NULL without any */
    uint32_t *n_row; /* [n_head_kv] lives as long as the store */
    uint32_t cap;
};

struct ft_kv {
    struct ft_kv_shape shape;
    struct ft_gauge *gauge;
    struct layer *layer; /* [n_layer] */
    uint32_t *n_row;     /* [n_layer][n_head_kv] owns what the layers point into */
    size_t k_row_bytes, v_row_bytes, page_bytes;
    uint64_t n_row_all; /* rows held, all heads of all layers */
};

static struct layer *layer_of(const struct ft_kv *kv, uint32_t layer) {
    ft_assert(layer < kv->shape.n_layer);
    return &kv->layer[layer];
}

static size_t row_bytes(const struct ft_kv_shape *shape) {
    return ft_fmt_row_bytes(shape->k_fmt, shape->d) + ft_fmt_row_bytes(shape->v_fmt, shape->d) +
           shape->n_aux * sizeof(float);
}

static void count_rows(struct ft_kv *kv, int64_t delta) {
    kv->n_row_all = (uint64_t)((int64_t)kv->n_row_all + delta);
    ft_gauge_add(kv->gauge, delta * (int64_t)row_bytes(&kv->shape));
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

/* Head h of a layer holds `n` rows from now on; the rows behind them are cleared. */
static void shrink_head(struct ft_kv *kv, struct layer *l, uint32_t h, uint32_t n) {
    size_t first = (size_t)h * l->cap + n;
    size_t end = (size_t)h * l->cap + l->n_row[h];
    if (first == end) {
        return;
    }
    clear_bytes(kv, l->k, first * kv->k_row_bytes, end * kv->k_row_bytes);
    clear_bytes(kv, l->v, first * kv->v_row_bytes, end * kv->v_row_bytes);
    if (l->aux != NULL) {
        memset(l->aux + first * kv->shape.n_aux, 0,
               (end - first) * kv->shape.n_aux * sizeof(float));
    }
    count_rows(kv, -(int64_t)(l->n_row[h] - n));
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
    kv->n_row = ft_alloc(n_list, sizeof(*kv->n_row));
    if (kv->n_row == NULL) {
        goto full;
    }
    for (uint32_t l = 0; l < shape->n_layer; l++) {
        kv->layer[l].n_row = kv->n_row + (size_t)l * shape->n_head_kv;
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

void ft_kv_release(struct ft_kv *kv, uint32_t layer) {
    struct layer *l = layer_of(kv, layer);
    int64_t n_row = 0;
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        n_row += l->n_row[h];
        l->n_row[h] = 0;
    }
    count_rows(kv, -n_row);
    size_t n = (size_t)l->cap * kv->shape.n_head_kv;
    ft_pages_unmap(l->k, n * kv->k_row_bytes);
    ft_pages_unmap(l->v, n * kv->v_row_bytes);
    ft_free(l->pos);
    ft_free(l->aux);
    l->k = NULL;
    l->v = NULL;
    l->pos = NULL;
    l->aux = NULL;
    l->cap = 0;
}

ft_status ft_kv_reserve(struct ft_kv *kv, uint32_t layer, uint32_t cap, struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    ft_kv_release(kv, layer);
    if (cap == 0) {
        return FT_OK;
    }
    if (cap > UINT32_MAX - (ROW_PAD - 1)) {
        return ft_fail(err, FT_LIMIT, 0, "KV rows of layer %u: %u is too many", layer, cap);
    }
    cap = (cap + ROW_PAD - 1) / ROW_PAD * ROW_PAD;
    size_t n, k_bytes, v_bytes, all;
    if (!ft_size_mul(cap, kv->shape.n_head_kv, &n) || !ft_size_mul(n, kv->k_row_bytes, &k_bytes) ||
        !ft_size_mul(n, kv->v_row_bytes, &v_bytes) || !ft_size_add(k_bytes, v_bytes, &all)) {
        return ft_fail(err, FT_NOMEM, 0, "KV rows of layer %u: %u rows overflow the address space",
                       layer, cap);
    }
    l->cap = cap;
    l->k = ft_pages_map(k_bytes);
    l->v = ft_pages_map(v_bytes);
    if (k_bytes / kv->shape.n_head_kv >= LARGE_PAGE) {
        ft_pages_large(l->k, k_bytes);
        ft_pages_large(l->v, v_bytes);
    }
    l->pos = ft_alloc(n, sizeof(*l->pos));
    uint32_t n_aux = kv->shape.n_aux;
    l->aux = n_aux > 0 ? ft_alloc(n, n_aux * sizeof(*l->aux)) : NULL;
    if (l->k == NULL || l->v == NULL || l->pos == NULL || (n_aux > 0 && l->aux == NULL)) {
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
    const struct ft_kern *kern = ft_kern();
    size_t at = (size_t)h * l->cap + row;
    kern->encode(kv->shape.k_fmt, k, l->k + at * kv->k_row_bytes, kv->shape.d);
    if (!v) { /* a row that is only asked for its key */
        return;
    }
    kern->encode(kv->shape.v_fmt, v, l->v + at * kv->v_row_bytes, kv->shape.d);
}

/* A head's list must be strictly increasing and name rows that exist. */
static ft_status check_list(const struct ft_kv *kv, uint32_t layer, uint32_t h,
                            const struct ft_rows *rows, struct ft_error *err) {
    const struct layer *l = layer_of(kv, layer);
    for (uint32_t j = 0; j < rows->n; j++) {
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

/* Rows [from, from + n) of src to [to, to + n) of dst; within one layer they may overlap. */
static void copy_run(const struct ft_kv *kv, struct layer *dst, size_t to, const struct layer *src,
                     size_t from, size_t n) {
    size_t n_aux = kv->shape.n_aux;
    memmove(dst->k + to * kv->k_row_bytes, src->k + from * kv->k_row_bytes, n * kv->k_row_bytes);
    memmove(dst->v + to * kv->v_row_bytes, src->v + from * kv->v_row_bytes, n * kv->v_row_bytes);
    memmove(dst->pos + to, src->pos + from, n * sizeof(*dst->pos));
    if (n_aux > 0) {
        memmove(dst->aux + to * n_aux, src->aux + from * n_aux, n * n_aux * sizeof(*dst->aux));
    }
}

/* Copy listed rows [first_src + row[j]] of src to [first_dst + j] of dst, run by run. */
static void copy_rows(const struct ft_kv *kv, struct layer *dst, size_t first_dst,
                      const struct layer *src, size_t first_src, const struct ft_rows *rows) {
    for (uint32_t j = 0; j < rows->n;) {
        uint32_t run = 1;
        while (j + run < rows->n && rows->row[j + run] == rows->row[j] + run) {
            run++;
        }
        size_t to = first_dst + j;
        size_t from = first_src + rows->row[j];
        if (dst != src || to != from) {
            copy_run(kv, dst, to, src, from, run);
        }
        j += run;
    }
}

ft_status ft_kv_keep(struct ft_kv *kv, uint32_t layer, const struct ft_rows *keep,
                     struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    FT_TRY(check_lists(kv, layer, keep, err));
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        size_t first = (size_t)h * l->cap;
        copy_rows(kv, l, first, l, first, &keep[h]);
        shrink_head(kv, l, h, keep[h].n);
    }
    return FT_OK;
}

ft_status ft_kv_drop(struct ft_kv *kv, uint32_t layer, uint32_t h, const struct ft_rows *drop,
                     struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    ft_assert(h < kv->shape.n_head_kv);
    FT_TRY(check_list(kv, layer, h, drop, err));
    size_t first = (size_t)h * l->cap;
    for (uint32_t i = 0; i < drop->n; i++) { /* what stands between two dropped rows moves down */
        uint32_t from = drop->row[i] + 1;
        uint32_t end = i + 1 < drop->n ? drop->row[i + 1] : l->n_row[h];
        copy_run(kv, l, first + from - 1 - i, l, first + from, end - from);
    }
    shrink_head(kv, l, h, l->n_row[h] - drop->n);
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
        ft_pos first = keep[h].n == 0 ? 0 : from->pos[(size_t)h * from->cap + keep[h].row[0]];
        FT_TRY(check_append(dst, dst_layer, h, keep[h].n, first, err));
    }
    int64_t n_row = 0;
    for (uint32_t h = 0; h < a->n_head_kv; h++) {
        copy_rows(dst, to, (size_t)h * to->cap + to->n_row[h], from, (size_t)h * from->cap,
                  &keep[h]);
        to->n_row[h] += keep[h].n;
        n_row += keep[h].n;
    }
    count_rows(dst, n_row);
    return FT_OK;
}

ft_status ft_kv_rewind(struct ft_kv *kv, uint32_t layer, uint32_t n, struct ft_error *err) {
    struct layer *l = layer_of(kv, layer);
    for (uint32_t h = 0; h < kv->shape.n_head_kv; h++) {
        if (l->n_row[h] < n) {
            return ft_fail(err, FT_ARG, 0, "KV rows of layer %u head %u: %u to drop, %u held",
                           layer, h, n, l->n_row[h]);
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
    return layer_of(kv, layer)->cap * kv->k_row_bytes;
}

size_t ft_kv_head_v_bytes(const struct ft_kv *kv, uint32_t layer) {
    return layer_of(kv, layer)->cap * kv->v_row_bytes;
}

uint64_t ft_kv_bytes(const struct ft_kv *kv) {
    return kv->n_row_all * row_bytes(&kv->shape);
}

size_t ft_kv_row_bytes(const struct ft_kv *kv) {
    return row_bytes(&kv->shape);
}

size_t ft_kv_token_bytes(const struct ft_kv_shape *shape) {
    return (size_t)shape->n_layer * shape->n_head_kv * row_bytes(shape);
}
