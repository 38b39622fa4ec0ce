/* SPDX-License-Identifier: Apache-2.0 */
/* product.h - products of weights and activations as nodes of a ggml graph, each in the way that is
 * fastest for its type and number of tokens. */
#ifndef FT_MODEL_PRODUCT_H
#define FT_MODEL_PRODUCT_H

#include "model/model.h"

struct ft_products; /* nodes' parameters and scratch of one evaluation context */

struct ft_products_params {
    const ft_model *model;
    uint32_t n_thread;
    bool (*is_cancelled)(void *user); /* polled by every thread between work items; may be NULL */
    void *user;
};
/* Errors     FT_NOMEM */
ft_status ft_products_new(const struct ft_products_params *params, struct ft_products **out,
                          struct ft_error *err);
void ft_products_free(struct ft_products *products); /* NULL is a no-op */

/* ft_products_begin - a new graph: the nodes of the last one are gone. */
void ft_products_begin(struct ft_products *products);

/* ft_product - x times a weight matrix.
 *   products   NULL: ggml multiplies, in libllama's order
 *   w {k, n}   x {k, m} f32   ->  {n, m} f32
 * Where several products share x one after the other, its activations are packed once. */
struct ggml_tensor *ft_product(struct ft_products *products, struct ggml_context *ctx,
                               struct ggml_tensor *w, struct ggml_tensor *x);

/* ft_product_takes - do our own ways multiply this matrix, for prompts and single tokens alike?
 * Then it stays as the file has it; no repacked copy is made. */
bool ft_product_takes(const struct ggml_tensor *w);

#endif
