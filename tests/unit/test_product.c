/* SPDX-License-Identifier: Apache-2.0 */
/* test_product.c - products as graph nodes: against ggml's own, for every type and number of tokens,
 * bit for bit alike on one thread and on two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-cpu.h"
#include "ggml.h"

#include "base/base.h"
#include "base/rng.h"
#include "kern/matmul.h"
#include "model/load.h"
#include "model/product.h"

#define SHAPE                                                                                      \
    " --layers 2 --embd 256 --heads 4 --kv-heads 2 --head-dim 64 --ff 512 --vocab 515 --ctx 512 "

static const char *const types[] = { "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k",
                                     "q4_k", "q5_k", "q6_k", "f16",  "bf16", "f32",  "iq4_nl" };

static ft_model *open_made(const char *type) {
    char command[1600];
    struct ft_error err = { 0 };
    ft_model *model = NULL;
    snprintf(command, sizeof command, "%s/mkmodel %s/product.gguf" SHAPE "--type %s >/dev/null",
             FT_TEST_BIN_DIR, FT_TEST_SCRATCH_DIR, type);
    assert_int_equal(system(command), 0);
    if (ft_model_open(FT_TEST_SCRATCH_DIR "/product.gguf", FT_LOAD_FULL, &model, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

struct product { /* one matrix, m tokens: ours and ggml's */
    struct ggml_context *ctx;
    struct ft_products *products;
    struct ggml_tensor *ours, *theirs;
    size_t n;
};

static struct product product_of(ft_model *model, struct ggml_tensor *w, uint32_t m,
                                 uint32_t n_thread) {
    struct ft_error err = { 0 };
    struct ft_products_params params = { .model = model, .n_thread = n_thread };
    struct ggml_init_params init = { .mem_size = (size_t)64 << 20 };
    struct product p = { .ctx = ggml_init(init) };
    assert_int_equal(ft_products_new(&params, &p.products, &err), FT_OK);
    ft_products_begin(p.products);
    struct ggml_tensor *x = ggml_new_tensor_2d(p.ctx, GGML_TYPE_F32, w->ne[0], m);
    float *value = x->data;
    for (size_t i = 0; i < (size_t)w->ne[0] * m; i++) { /* sum of four: roughly normal */
        double sum = 0;
        for (uint32_t r = 0; r < 4; r++) {
            sum += (double)(ft_rng_value(7, r, 0, i) >> 40) / (double)(1 << 24) - 0.5;
        }
        value[i] = (float)sum;
    }
    p.ours = ft_product(p.products, p.ctx, w, x);
    p.theirs = ggml_mul_mat(p.ctx, w, x);
    p.n = (size_t)w->ne[1] * m;
    struct ggml_cgraph *graph = ggml_new_graph(p.ctx);
    ggml_build_forward_expand(graph, p.ours);
    ggml_build_forward_expand(graph, p.theirs);
    assert_int_equal(ggml_graph_compute_with_ctx(p.ctx, graph, (int)n_thread), GGML_STATUS_SUCCESS);
    return p;
}

static void product_done(struct product *p) {
    ft_products_free(p->products);
    ggml_free(p->ctx);
}

static double nmse(const struct product *p) {
    const float *a = p->ours->data, *b = p->theirs->data;
    double error = 0, power = 0;
    for (size_t i = 0; i < p->n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        power += (double)b[i] * (double)b[i];
    }
    return error / power;
}

/* Both sides round activations to 8 bits with a scale per block: relative noise of 0.5 to 0.7 % each,
 * so 1e-4 in squares; bf16 weights and activations give 1e-5.  The kernels' own bounds are tested in
 * test_matmul.c and test_rows.c. */
static void agrees_with_ggml(void **state) {
    (void)state;
    static const uint32_t tokens[] = { 1, 3, 8, 9, 100 };
    for (size_t t = 0; t < FT_COUNT(types); t++) {
        ft_model *model = open_made(types[t]);
        struct ggml_tensor *matrices[] = { model->layer[1].wq, model->layer[1].down,
                                           model->output };
        for (size_t i = 0; i < FT_COUNT(tokens) * FT_COUNT(matrices); i++) {
            uint32_t m = tokens[i / FT_COUNT(matrices)];
            struct product p = product_of(model, matrices[i % FT_COUNT(matrices)], m, 1);
            double error = nmse(&p);
            if (!(error < 2e-4)) {
                fail_msg("%s, %u tokens: NMSE %g, expected < 2e-4", types[t], m, error);
            }
            product_done(&p);
        }
        ft_model_close(model);
    }
}

static void threads_do_not_matter(void **state) {
    (void)state;
    for (size_t t = 0; t < FT_COUNT(types); t++) {
        ft_model *model = open_made(types[t]);
        for (uint32_t m = 1; m <= 100; m += 99) {
            struct product one = product_of(model, model->layer[0].up, m, 1);
            struct product two = product_of(model, model->layer[0].up, m, 2);
            assert_memory_equal(one.ours->data, two.ours->data, one.n * sizeof(float));
            product_done(&one);
            product_done(&two);
        }
        ft_model_close(model);
    }
}

/* A product that two readers share is packed once; another way, or another x, packs again. */
static void packs_are_shared(void **state) {
    (void)state;
    ft_model *model = open_made("q8_0");
    struct ft_error err = { 0 };
    struct ft_products_params params = { .model = model, .n_thread = 1 };
    struct ft_products *products = NULL;
    struct ggml_init_params init = { .mem_size = (size_t)16 << 20 };
    struct ggml_context *ctx = ggml_init(init);
    assert_int_equal(ft_products_new(&params, &products, &err), FT_OK);
    ft_products_begin(products);
    struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 256, 64);
    struct ggml_tensor *z = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 256, 64);
    struct ggml_tensor *a = ft_product(products, ctx, model->layer[0].wq, x);
    struct ggml_tensor *b = ft_product(products, ctx, model->layer[0].wk, x);
    struct ggml_tensor *c = ft_product(products, ctx, model->layer[0].wv, z);
    if (ft_matmul_way(GGML_TYPE_Q8_0, 256, 64, true)) {
        assert_ptr_equal(a->src[0], b->src[0]);
        assert_ptr_not_equal(a->src[0], c->src[0]);
    } else {
        print_message("no way of ours on this machine: ggml multiplies\n");
        assert_int_equal(a->op, GGML_OP_MUL_MAT);
    }
    ft_products_free(products);
    ggml_free(ctx);
    ft_model_close(model);
}

/* Ways that alternate pack anew for every matrix: a graph of all layers has room for that. */
static void every_product_may_pack(void **state) {
    (void)state;
    ft_model *model = open_made("q8_0");
    struct ft_error err = { 0 };
    struct ft_products_params params = { .model = model, .n_thread = 1 };
    struct ft_products *products = NULL;
    struct ggml_init_params init = { .mem_size = (size_t)64 << 20 };
    struct ggml_context *ctx = ggml_init(init);
    assert_int_equal(ft_products_new(&params, &products, &err), FT_OK);
    ft_products_begin(products);
    for (uint32_t l = 0; l < ft_model_hparams(model)->n_layer; l++) {
        struct ggml_tensor *const w[] = { model->layer[l].wq,   model->layer[l].wk,
                                          model->layer[l].wv,   model->layer[l].wo,
                                          model->layer[l].gate, model->layer[l].up,
                                          model->layer[l].down };
        for (size_t i = 0; i < FT_COUNT(w); i++) {
            struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, w[i]->ne[0], 64);
            assert_non_null(ft_product(products, ctx, w[i], x));
        }
    }
    struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, model->output->ne[0], 64);
    assert_non_null(ft_product(products, ctx, model->output, x));
    ft_products_free(products);
    ggml_free(ctx);
    ft_model_close(model);
}

static void says_its_ways(void **state) {
    (void)state;
    char text[80];
    ft_model *model = open_made("q4_k");
    const struct ft_matmul *way = ft_matmul_way(GGML_TYPE_Q4_K, 256, 512, true);
    ft_model_ways(model, 512, text, sizeof text);
    char expected[80];
    snprintf(expected, sizeof expected, "%s:q4_K", way ? way->name : "ggml");
    assert_non_null(strstr(text, expected));
    ft_model_ways(model, 512, text, 6); /* cut where it ends, never in the middle of a word */
    assert_true(strlen(text) < 6);
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_ggml), cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(packs_are_shared), cmocka_unit_test(every_product_may_pack),
        cmocka_unit_test(says_its_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
