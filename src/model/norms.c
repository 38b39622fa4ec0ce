/* SPDX-License-Identifier: Apache-2.0 */
/* norms.c - how large the projections that make keys and values are. */
#include <math.h>
#include <string.h>

#include "ggml.h"

#include "model/load.h"

enum { POWER_STEPS = 20 }; /* of the power iteration: sigma is found to a percent or better */

/* A matrix decoded: [n_out][n_in]. */
struct matrix {
    float *x;
    size_t n_in, n_out, n_byte;
};

static ft_status matrix_decode(const ft_model *model, const struct ggml_tensor *used,
                               struct matrix *out, struct ft_error *err) {
    const struct ggml_tensor *w = ft_model_mapped(model, used);
    ggml_to_float_t decode = ggml_get_type_traits(w->type)->to_float;
    if (!decode && w->type != GGML_TYPE_F32) {
        return ft_fail(err, FT_UNSUP, 0, "%s: weights of type %s cannot be decoded", w->name,
                       ggml_type_name(w->type));
    }
    *out = (struct matrix){ .n_in = (size_t)w->ne[0], .n_out = (size_t)w->ne[1] };
    out->n_byte = out->n_in * out->n_out * sizeof *out->x;
    out->x = ft_pages_map(out->n_byte);
    if (!out->x) {
        return ft_fail_memory(err, out->n_byte, "the decoded weights of %s", w->name);
    }
    for (size_t e = 0; e < out->n_out; e++) {
        const void *row = (const uint8_t *)w->data + e * w->nb[1];
        if (decode) {
            decode(row, out->x + e * out->n_in, w->ne[0]);
        } else {
            memcpy(out->x + e * out->n_in, row, out->n_in * sizeof *out->x);
        }
    }
    if (w != used) {
        ft_model_release(model, w);
    }
    return FT_OK;
}

/* |W|_F, its columns times scale (NULL: 1). */
static double frobenius(const struct matrix *w, const float *scale) {
    double sum = 0;
    for (size_t e = 0; e < w->n_out; e++) {
        for (size_t i = 0; i < w->n_in; i++) {
            double x = (double)w->x[e * w->n_in + i] * (scale ? (double)scale[i] : 1.0);
            sum += x * x;
        }
    }
    return sqrt(sum);
}

/* The largest singular value, by powers of W^T W from a fixed start.
 *   at       [n_in], to [n_out] scratch */
static double spectral(const struct matrix *w, double *at, double *to) {
    double sigma = 0;
    for (size_t i = 0; i < w->n_in; i++) {
        at[i] = 1.0 + (double)(i * 2654435761u % 1024) / 1024.0; /* along no axis */
    }
    for (int step = 0; step < POWER_STEPS; step++) {
        double norm = 0, out = 0;
        for (size_t i = 0; i < w->n_in; i++) {
            norm += at[i] * at[i];
        }
        norm = sqrt(norm);
        for (size_t e = 0; e < w->n_out; e++) {
            to[e] = 0;
            for (size_t i = 0; i < w->n_in; i++) {
                to[e] += (double)w->x[e * w->n_in + i] * at[i];
            }
            to[e] /= norm > 0 ? norm : 1;
            out += to[e] * to[e];
        }
        sigma = sqrt(out);
        memset(at, 0, w->n_in * sizeof *at);
        for (size_t e = 0; e < w->n_out; e++) {
            for (size_t i = 0; i < w->n_in; i++) {
                at[i] += (double)w->x[e * w->n_in + i] * to[e];
            }
        }
    }
    return sigma;
}

static ft_status norm_of(const ft_model *model, const struct ggml_tensor *tensor, enum ft_norm norm,
                         const float *scale, double *out, struct ft_error *err) {
    struct matrix w = { 0 };
    ft_status status = matrix_decode(model, tensor, &w, err);
    if (status == FT_OK && norm == FT_NORM_SPECTRAL) {
        double *work = ft_alloc(w.n_in + w.n_out, sizeof *work);
        *out = work ? spectral(&w, work, work + w.n_in) : 0;
        status = work ? FT_OK : ft_fail(err, FT_NOMEM, 0, "no memory for the norm of a matrix");
        ft_free(work);
    } else if (status == FT_OK) {
        *out = frobenius(&w, scale);
    }
    ft_pages_unmap(w.x, w.n_byte);
    return status;
}

/* Keys that are normalised per head have the size that the norm's weights give them. */
static double normalised(const struct ggml_tensor *weight, uint32_t n_head) {
    double sum = 0;
    for (int64_t i = 0; i < weight->ne[0]; i++) {
        double x = (double)((const float *)weight->data)[i];
        sum += x * x;
    }
    return sqrt(sum * n_head);
}

bool ft_model_has_weights(const ft_model *model) {
    return model->load != FT_LOAD_VOCAB;
}

ft_status ft_model_kv_norms(const ft_model *model, uint32_t layer, enum ft_norm norm, double *k,
                            double *v, struct ft_error *err) {
    const struct ft_layer *l = &model->layer[layer];
    ft_assert(layer < model->hp.n_layer && l->wk && l->wv);
    bool is_f32 =
        l->attn_norm->type == GGML_TYPE_F32 && (!l->k_norm || l->k_norm->type == GGML_TYPE_F32);
    if (l->k_norm && !is_f32) {
        return ft_fail(err, FT_UNSUP, 0, "%s: a norm of type %s, expected F32", l->k_norm->name,
                       ggml_type_name(l->k_norm->type));
    }
    if (l->k_norm) { /* of activations, both: an input of mean square 1 in every channel */
        *k = normalised(l->k_norm, model->hp.n_head_kv);
        return norm_of(model, l->wv, FT_NORM_FROBENIUS, l->attn_norm->data, v, err);
    }
    FT_TRY(norm_of(model, l->wk, norm, NULL, k, err));
    return norm_of(model, l->wv, norm, NULL, v, err);
}
