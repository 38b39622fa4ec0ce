/* SPDX-License-Identifier: Apache-2.0 */
/* stock.c - attention by ggml's own operations on the store's F32 rows, in libllama's order: the
 * slow twin.
 *
 * libllama without flash attention computes softmax(mask + k q / sqrt d) and multiplies by the
 * transposed values. Which matrix kernel ggml picks depends on the number of rows, so rows are
 * padded to a multiple of 16 with rows that read as zero and a mask of -inf: their products are
 * exact zeros, and the kernels are libllama's.
 */
#include <math.h>
#include <string.h>

#include "ggml.h"

#include "attn/op.h"

enum { ROW_PAD = 16 };

/* mask {n_row_padded, n_token}: 0 where token i sees row j, -inf elsewhere.  The counts travel in
 * the shape of
 * dst and in src[1], a view whose ne[0] is n_row: a custom op has no parameter room of its own. */
static void run_mask(struct ggml_tensor *dst, int ith, int nth, void *data) {
    (void)data;
    int64_t n_token = dst->ne[1], n_row = dst->src[1]->ne[0];
    for (int64_t i = ith; i < n_token; i += nth) {
        float *row = (float *)dst->data + i * dst->ne[0];
        for (int64_t j = 0; j < dst->ne[0]; j++) {
            row[j] = j < n_row - n_token + i + 1 ? 0.0f : -INFINITY;
        }
    }
}

/* rows of a layer as a tensor {d, n_row, n_head_kv} over the store's own memory */
static struct ggml_tensor *rows_tensor(struct ggml_context *ctx, const struct ft_kv_shape *shape,
                                       uint32_t n_row, const void *data, size_t head_bytes) {
    struct ggml_tensor *t =
        ggml_new_tensor_3d(ctx, GGML_TYPE_F32, shape->d, n_row, shape->n_head_kv);
    t->nb[2] = head_bytes;
    t->nb[3] = head_bytes * shape->n_head_kv;
    memcpy(&t->data, &data,
           sizeof t->data); /* ggml has no const tensors; nothing writes to this one */
    return t;
}

struct ggml_tensor *ft_op_stock(struct ft_ops *ops, const struct ft_attn_in *in, uint32_t n_row,
                                struct ggml_tensor *dep) {
    (void)ops;
    const struct ft_kv_shape *shape = ft_kv_shape_of(in->kv);
    uint32_t n_pad =
        FT_MIN((n_row + ROW_PAD - 1) / ROW_PAD * ROW_PAD, ft_kv_cap(in->kv, in->kv_layer));
    struct ggml_context *ctx = in->ctx;
    struct ggml_tensor *k = rows_tensor(ctx, shape, n_pad, ft_kv_k(in->kv, in->kv_layer, 0),
                                        ft_kv_head_k_bytes(in->kv, in->kv_layer));
    struct ggml_tensor *v = rows_tensor(ctx, shape, n_pad, ft_kv_v(in->kv, in->kv_layer, 0),
                                        ft_kv_head_v_bytes(in->kv, in->kv_layer));
    if (dep) {
        ggml_build_forward_expand(in->graph,
                                  dep); /* rows are written before any node below reads them */
    }
    struct ggml_tensor *count = ggml_view_1d(ctx, k, n_row, 0);
    struct ggml_tensor *args[2] = { in->q, count };
    struct ggml_tensor *mask = ggml_custom_4d(ctx, GGML_TYPE_F32, n_pad, in->n_token, 1, 1, args, 2,
                                              run_mask, GGML_N_TASKS_MAX, NULL);
    struct ggml_tensor *q = ggml_permute(ctx, in->q, 0, 2, 1, 3);
    struct ggml_tensor *kq = ggml_mul_mat(ctx, k, q);
    kq = ggml_soft_max_ext(ctx, kq, mask, 1.0f / sqrtf((float)shape->d), 0.0f);
    struct ggml_tensor *vt = ggml_cont(ctx, ggml_permute(ctx, v, 1, 0, 2, 3));
    struct ggml_tensor *kqv = ggml_permute(ctx, ggml_mul_mat(ctx, vt, kq), 0, 2, 1, 3);
    return ggml_cont_2d(ctx, kqv, in->q->ne[0] * in->q->ne[1], in->n_token);
}
