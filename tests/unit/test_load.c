/* SPDX-License-Identifier: Apache-2.0 */
/* test_load.c - where weights end up: which types are repacked (those that our own kernels do not
 * multiply), what is copied, that split files are one model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"

#include "base/base.h"
#include "model/load.h"
#include "model/product.h"

#define SHAPE                                                                                      \
    " --layers 2 --embd 256 --heads 4 --kv-heads 2 --head-dim 64 --ff 512 --vocab 512 --ctx 512 "

static ft_model *open_made(const char *options, enum ft_load load) {
    char command[1600];
    struct ft_error err = { 0 };
    ft_model *model = NULL;
    snprintf(command, sizeof command, "%s/mkmodel %s/load.gguf %s >/dev/null", FT_TEST_BIN_DIR,
             FT_TEST_SCRATCH_DIR, options);
    assert_int_equal(system(command), 0);
    if (ft_model_open(FT_TEST_SCRATCH_DIR "/load.gguf", load, &model, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

/* bytes of everything that is only multiplied: the layers' seven matrices and the head */
static uint64_t matrix_bytes(const ft_model *m) {
    uint64_t sum = ggml_nbytes(m->output);
    for (uint32_t l = 0; l < m->hp.n_layer; l++) {
        const struct ft_layer *w = &m->layer[l];
        sum += ggml_nbytes(w->wq) + ggml_nbytes(w->wk) + ggml_nbytes(w->wv) + ggml_nbytes(w->wo) +
               ggml_nbytes(w->gate) + ggml_nbytes(w->up) + ggml_nbytes(w->down);
    }
    return sum;
}

struct repack_case {
    const char *type;
    bool is_repacked; /* on x86-64 with AVX2, and AVX-512 for q2_k (ggml 0.25.1) */
};

static void repacked_types(void **state) {
    (void)state;
    static const struct repack_case cases[] = {
        { "q4_0", true },  { "q4_k", true },  { "iq4_nl", true }, { "q8_0", false },
        { "q6_k", false }, { "q5_k", false }, { "q3_k", false },  { "q4_1", false },
        { "f16", false },  { "bf16", false }, { "f32", false },
    };
    if (!ft_cpu_features().has_avx2) {
        print_message("SKIP repacked types: they are known for x86-64 with AVX2 only\n");
        skip();
    }
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        char options[256];
        struct ft_model_info info;
        snprintf(options, sizeof options, "--type %s" SHAPE, cases[i].type);
        ft_model *m = open_made(options, FT_LOAD_FULL);
        ft_model_info(m, &info);
        bool is_repacked = cases[i].is_repacked && !ft_product_takes(m->layer[0].wq);
        if (info.repacked_bytes != (is_repacked ? matrix_bytes(m) : 0)) {
            fail_msg("%s: %llu bytes repacked, the matrices have %llu", cases[i].type,
                     (unsigned long long)info.repacked_bytes, (unsigned long long)matrix_bytes(m));
        }
        ft_model_close(m);
    }
}

/* A tied embedding table is looked up where it is mapped, and multiplied where it was repacked. */
static void tied_head_is_a_copy(void **state) {
    (void)state;
    ft_model *m = open_made("--type q4_0 --tied" SHAPE, FT_LOAD_FULL);
    assert_ptr_equal(m->tok_embd->buffer, m->shard[0].buffer);
    if (m->repacked_bytes > 0) {
        assert_ptr_not_equal(m->output, m->tok_embd);
        assert_ptr_not_equal(m->output->buffer, m->shard[0].buffer);
    }
    ft_model_close(m);
}

static void plain_load_copies_nothing(void **state) {
    (void)state;
    ft_model *m = open_made("--type q4_0" SHAPE, FT_LOAD_PLAIN);
    struct ft_model_info info;
    ft_model_info(m, &info);
    assert_int_equal(info.repacked_bytes, 0);
    assert_int_equal(m->n_repack, 0);
    assert_ptr_equal(m->layer[1].down->buffer, m->shard[0].buffer);
    ft_model_close(m);
}

/* What a header-only open foretells is what a full open does. */
static void vocab_load_foretells(void **state) {
    (void)state;
    ft_model *m = open_made("--type q4_k" SHAPE, FT_LOAD_VOCAB);
    struct ft_model_info told, done;
    ft_model_info(m, &told);
    assert_int_equal(m->n_repack, 0);
    ft_model_close(m);
    m = open_made("--type q4_k" SHAPE, FT_LOAD_FULL);
    ft_model_info(m, &done);
    assert_int_equal(told.repacked_bytes, done.repacked_bytes);
    assert_int_equal(told.tensor_bytes, done.tensor_bytes);
    assert_string_equal(told.fingerprint, done.fingerprint);
    ft_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repacked_types),
        cmocka_unit_test(tied_head_is_a_copy),
        cmocka_unit_test(plain_load_copies_nothing),
        cmocka_unit_test(vocab_load_foretells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
