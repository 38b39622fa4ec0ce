/* SPDX-License-Identifier: Apache-2.0 */
/* forward_oracle.h - a decoder model once more, naive and in double, on F32 weights: what the
 * engine must equal.
 *
 * Whole attention rows, plain loops, any mask.  Keys and values of every layer stay, so that a
 * later token can be computed on any choice of rows.  Written from the published description of the
 * three families; of src/ it uses the loaded tensors and header facts, nothing that computes.
 */
#ifndef FT_TESTS_FORWARD_ORACLE_H
#define FT_TESTS_FORWARD_ORACLE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"

#include "model/load.h"

struct forward {
    const ft_model *model;
    uint32_t n;
    float *q, *k;   /* [n_layer][n_head][n][d], [n_layer][n_head_kv][n][d] rotated, for scoring */
    double *kd, *v; /* [n_layer][n_head_kv][n][d] */
    double *logits; /* [n_vocab] of the last token */
};

/* What the queries of a layer see: sees[h][i][j], handed in causal; h is the KV head.  f has the
 * layer's q and k. */
typedef void (*forward_mask_fn)(void *user, const struct forward *f, uint32_t layer, uint8_t *sees);

static inline const float *forward_weight(const struct ggml_tensor *t) {
    if (t->type != GGML_TYPE_F32) {
        abort(); /* the oracle reads F32 only: the test made the wrong model */
    }
    return t->data;
}

/* y[n_out] = w x (+ bias) */
static inline void forward_matrix(const struct ggml_tensor *w, const struct ggml_tensor *bias,
                                  const double *x, double *y) {
    const float *data = forward_weight(w);
    for (int64_t o = 0; o < w->ne[1]; o++) {
        double sum = bias ? (double)forward_weight(bias)[o] : 0;
        for (int64_t i = 0; i < w->ne[0]; i++) {
            sum += (double)data[o * w->ne[0] + i] * x[i];
        }
        y[o] = sum;
    }
}

static inline void forward_norm(const struct ft_hparams *hp, const struct ggml_tensor *w,
                                const double *x, uint32_t n, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    double scale = 1 / sqrt(sum / n + (double)hp->rms_eps);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = x[i] * scale * (double)forward_weight(w)[i];
    }
}

/* One head: norm (qwen3), then RoPE; pairs (i, i + d/2) or (2i, 2i + 1). */
static inline void forward_rotate(const struct ft_hparams *hp, const struct ggml_tensor *norm,
                                  ft_pos pos, double *x) {
    uint32_t d = hp->head_dim;
    if (norm) {
        forward_norm(hp, norm, x, d, x);
    }
    for (uint32_t i = 0; i < d / 2; i++) {
        double angle = pos * pow((double)hp->rope_base, -2.0 * i / d);
        double *a = hp->trait & FT_ROPE_NEOX ? &x[i] : &x[2 * i];
        double *b = hp->trait & FT_ROPE_NEOX ? &x[i + d / 2] : &x[2 * i + 1];
        double u = *a, w = *b;
        *a = u * cos(angle) - w * sin(angle);
        *b = u * sin(angle) + w * cos(angle);
    }
}

/* Attention of one query head over listed rows k, v [n_row] (pointers to rows of d). */
static inline void forward_attend(uint32_t d, const double *q, const double *const *k,
                                  const double *const *v, uint32_t n_row, double *out) {
    double *p = malloc(n_row * sizeof(*p)), top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < n_row; j++) {
        p[j] = 0;
        for (uint32_t c = 0; c < d; c++) {
            p[j] += q[c] * k[j][c];
        }
        p[j] /= sqrt((double)d);
        top = fmax(top, p[j]);
    }
    memset(out, 0, d * sizeof(*out));
    for (uint32_t j = 0; j < n_row; j++) {
        p[j] = exp(p[j] - top);
        sum += p[j];
    }
    for (uint32_t j = 0; j < n_row; j++) {
        for (uint32_t c = 0; c < d; c++) {
            out[c] += p[j] / sum * v[j][c];
        }
    }
    free(p);
}

/* x += output projection of y; x += FFN(norm(x)) */
static inline void forward_rest(const ft_model *m, const struct ft_layer *w, const double *y,
                                double *x) {
    const struct ft_hparams *hp = &m->hp;
    double *t = malloc((hp->n_embd + 2 * (size_t)hp->n_ff) * sizeof(*t)), *gate = t + hp->n_embd,
           *up = gate + hp->n_ff;
    forward_matrix(w->wo, w->bo, y, t);
    for (uint32_t i = 0; i < hp->n_embd; i++) {
        x[i] += t[i];
    }
    forward_norm(hp, w->ffn_norm, x, hp->n_embd, t);
    forward_matrix(w->gate, w->gate_b, t, gate);
    forward_matrix(w->up, w->up_b, t, up);
    for (uint32_t i = 0; i < hp->n_ff; i++) {
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
    forward_matrix(w->down, w->down_b, gate, t);
    for (uint32_t i = 0; i < hp->n_embd; i++) {
        x[i] += t[i];
    }
    free(t);
}

/* q [n_head*d], k, v [n_head_kv*d] of one token */
static inline void forward_project(const ft_model *m, const struct ft_layer *w, ft_pos pos,
                                   const double *x, double *q, double *k, double *v) {
    const struct ft_hparams *hp = &m->hp;
    double *t = malloc(hp->n_embd * sizeof(*t));
    forward_norm(hp, w->attn_norm, x, hp->n_embd, t);
    forward_matrix(w->wq, w->bq, t, q);
    forward_matrix(w->wk, w->bk, t, k);
    forward_matrix(w->wv, w->bv, t, v);
    for (uint32_t h = 0; h < hp->n_head; h++) {
        forward_rotate(hp, w->q_norm, pos, q + (size_t)h * hp->head_dim);
    }
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        forward_rotate(hp, w->k_norm, pos, k + (size_t)h * hp->head_dim);
    }
    free(t);
}

static inline void forward_embed(const ft_model *m, ft_token id, double *x) {
    for (uint32_t i = 0; i < m->hp.n_embd; i++) {
        x[i] = (double)forward_weight(m->tok_embd)[(size_t)id * m->hp.n_embd + i];
    }
}

static inline void forward_output(const ft_model *m, const double *x, double *logits) {
    double *t = malloc(m->hp.n_embd * sizeof(*t));
    forward_norm(&m->hp, m->output_norm, x, m->hp.n_embd, t);
    forward_matrix(m->output, m->output_b, t, logits);
    free(t);
}

/* row (h, i) of layer l in [n_layer][heads][n][d] */
static inline size_t forward_at(const struct forward *f, uint32_t l, uint32_t heads, uint32_t h,
                                uint32_t i) {
    return (((size_t)l * heads + h) * f->n + i) * f->model->hp.head_dim;
}

static inline void forward_layer_qkv(struct forward *f, uint32_t l, const ft_pos *pos,
                                     const double *x) {
    const struct ft_hparams *hp = &f->model->hp;
    uint32_t d = hp->head_dim, n_head = hp->n_head, g = hp->n_head_kv;
    double *q = malloc((n_head + 2 * (size_t)g) * d * sizeof(*q)), *k = q + (size_t)n_head * d,
           *v = k + (size_t)g * d;
    for (uint32_t i = 0; i < f->n; i++) {
        forward_project(f->model, &f->model->layer[l], pos[i], x + (size_t)i * hp->n_embd, q, k, v);
        for (uint32_t h = 0; h < n_head; h++) {
            for (uint32_t c = 0; c < d; c++) {
                f->q[forward_at(f, l, n_head, h, i) + c] = (float)q[h * d + c];
            }
        }
        for (uint32_t h = 0; h < g; h++) {
            for (uint32_t c = 0; c < d; c++) {
                size_t at = forward_at(f, l, g, h, i) + c;
                f->kd[at] = k[h * d + c];
                f->k[at] = (float)k[h * d + c];
                f->v[at] = v[h * d + c];
            }
        }
    }
    free(q);
}

static inline void forward_layer_attend(const struct forward *f, uint32_t l, const uint8_t *sees,
                                        double *x) {
    const struct ft_hparams *hp = &f->model->hp;
    uint32_t d = hp->head_dim, n = f->n, g = hp->n_head_kv, group = hp->n_head / g;
    const double **k = malloc(n * sizeof(*k)), **v = malloc(n * sizeof(*v));
    double *y = malloc((size_t)hp->n_head * d * sizeof(*y)), *q = malloc(d * sizeof(*q));
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t head = 0; head < hp->n_head; head++) {
            uint32_t h = head / group, n_row = 0;
            for (uint32_t j = 0; j < n; j++) {
                if (sees[((size_t)h * n + i) * n + j]) {
                    k[n_row] = f->kd + forward_at(f, l, g, h, j);
                    v[n_row++] = f->v + forward_at(f, l, g, h, j);
                }
            }
            for (uint32_t c = 0; c < d; c++) {
                q[c] = (double)f->q[forward_at(f, l, hp->n_head, head, i) + c];
            }
            forward_attend(d, q, k, v, n_row, y + (size_t)head * d);
        }
        forward_rest(f->model, &f->model->layer[l], y, x + (size_t)i * hp->n_embd);
    }
    free(q);
    free(y);
    free((void *)k);
    free((void *)v);
}

static inline struct forward forward_run(const ft_model *model, const ft_token *id,
                                         const ft_pos *pos, uint32_t n, forward_mask_fn mask,
                                         void *user) {
    const struct ft_hparams *hp = &model->hp;
    size_t rows = (size_t)hp->n_layer * n * hp->head_dim;
    struct forward f = { .model = model, .n = n };
    f.q = malloc(rows * hp->n_head * sizeof(*f.q));
    f.k = malloc(rows * hp->n_head_kv * sizeof(*f.k));
    f.kd = malloc(rows * hp->n_head_kv * sizeof(*f.kd));
    f.v = malloc(rows * hp->n_head_kv * sizeof(*f.v));
    f.logits = malloc(hp->n_vocab * sizeof(*f.logits));
    double *x = malloc((size_t)n * hp->n_embd * sizeof(*x));
    uint8_t *sees = malloc((size_t)hp->n_head_kv * n * n);
    for (uint32_t i = 0; i < n; i++) {
        forward_embed(model, id[i], x + (size_t)i * hp->n_embd);
    }
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        forward_layer_qkv(&f, l, pos, x);
        for (size_t at = 0; at < (size_t)hp->n_head_kv * n * n; at++) {
            sees[at] = at % n <= at / n % n;
        }
        if (mask) {
            mask(user, &f, l, sees);
        }
        forward_layer_attend(&f, l, sees, x);
    }
    forward_output(model, x + (size_t)(n - 1) * hp->n_embd, f.logits);
    free(x);
    free(sees);
    return f;
}

/* One more token on chosen rows of f: kept[l * n_head_kv + h] lists as many rows as n_kept[the
 * same] says.  logits: [n_vocab] */
static inline void forward_step_ragged(const struct forward *f, ft_token id, ft_pos pos,
                                       const uint32_t *const *kept, const uint32_t *n_kept,
                                       double *logits) {
    const struct ft_hparams *hp = &f->model->hp;
    uint32_t d = hp->head_dim, g = hp->n_head_kv, group = hp->n_head / g;
    double *x = malloc(hp->n_embd * sizeof(*x)), *q = malloc((size_t)hp->n_head * d * sizeof(*q));
    double *k = malloc((size_t)g * d * sizeof(*k)), *v = malloc((size_t)g * d * sizeof(*v));
    double *y = malloc((size_t)hp->n_head * d * sizeof(*y));
    const double **kr = malloc((f->n + 1) * sizeof(*kr)), **vr = malloc((f->n + 1) * sizeof(*vr));
    forward_embed(f->model, id, x);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        forward_project(f->model, &f->model->layer[l], pos, x, q, k, v);
        for (uint32_t head = 0; head < hp->n_head; head++) {
            uint32_t h = head / group, n = n_kept[l * g + h];
            for (uint32_t j = 0; j < n; j++) {
                kr[j] = f->kd + forward_at(f, l, g, h, kept[l * g + h][j]);
                vr[j] = f->v + forward_at(f, l, g, h, kept[l * g + h][j]);
            }
            kr[n] = k + (size_t)h * d;
            vr[n] = v + (size_t)h * d;
            forward_attend(d, q + (size_t)head * d, kr, vr, n + 1, y + (size_t)head * d);
        }
        forward_rest(f->model, &f->model->layer[l], y, x);
    }
    forward_output(f->model, x, logits);
    free(x);
    free(q);
    free(k);
    free(v);
    free(y);
    free((void *)kr);
    free((void *)vr);
}

/* |W_o v|_1 of row j of KV head h: the mean over the group's query heads. */
static inline double forward_output_norm(const struct forward *f, uint32_t l, uint32_t h,
                                         uint32_t j) {
    const struct ft_hparams *hp = &f->model->hp;
    const float *w = forward_weight(f->model->layer[l].wo);
    const double *v = f->v + forward_at(f, l, hp->n_head_kv, h, j);
    uint32_t d = hp->head_dim, group = hp->n_head / hp->n_head_kv;
    double norm = 0;
    for (uint32_t g = h * group; g < (h + 1) * group; g++) {
        for (uint32_t e = 0; e < hp->n_embd; e++) {
            const float *row = w + ((size_t)e * hp->n_head + g) * d;
            double sum = 0;
            for (uint32_t c = 0; c < d; c++) {
                sum += (double)row[c] * v[c];
            }
            norm += fabs(sum) / group;
        }
    }
    return norm;
}

/* The same with n_kept rows in every head. */
static inline void forward_step(const struct forward *f, ft_token id, ft_pos pos,
                                const uint32_t *const *kept, uint32_t n_kept, double *logits) {
    uint32_t n = f->model->hp.n_layer * f->model->hp.n_head_kv;
    uint32_t *counts = malloc(n * sizeof(*counts));
    for (uint32_t at = 0; at < n; at++) {
        counts[at] = n_kept;
    }
    forward_step_ragged(f, id, pos, kept, counts, logits);
    free(counts);
}

static inline void forward_done(struct forward *f) {
    free(f->q);
    free(f->k);
    free(f->kd);
    free(f->v);
    free(f->logits);
}

#endif
