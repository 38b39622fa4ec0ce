/* SPDX-License-Identifier: Apache-2.0 */
/* test_critical.c - rank=critical: the second stage by hand, and the sizes of projected values of
 * models of many types against plain loops in double.  Whole runs are in test_dropping.c.
 */
#include "ggml.h"

#include "engine_fixture.h"
#include "model/load.h"

/* ---- the ranking, by hand ---- */

enum { N = 6 };

static void expect_rank(const float *score, const float *norm, uint32_t rho, uint32_t k,
                        const uint32_t *want, uint32_t n_want) {
    float second[N];
    uint32_t work[N], got[N];
    struct ft_critical c = {
        .score = score, .norm = norm, .n = N, .rho = rho, .second = second, .work = work
    };
    assert_int_equal(ft_critical_rank(&c, k, got), n_want);
    for (uint32_t i = 0; i < n_want; i++) {
        if (got[i] != want[i]) {
            fail_msg("rho %u, k %u: [%u] is %u, want %u", rho, k, i, got[i], want[i]);
        }
    }
}

static void test_by_hand(void **state) {
    (void)state;
    /* (score + 1e-4) norm: .5001 .8002 .9003 .8004 .5005 .6006 */
    static const float score[N] = { .5f, .4f, .3f, .2f, .1f, .1f }, norm[N] = { 1, 2, 3, 4, 5, 6 };
    expect_rank(score, norm, 50, 4, (const uint32_t[]){ 0, 1, 2, 3 }, 4);
    expect_rank(score, norm, 0, 3, (const uint32_t[]){ 2, 3, 1 }, 3);
    expect_rank(score, norm, 40, 3, (const uint32_t[]){ 0, 2, 3 }, 3); /* floor(1.2) */
    expect_rank(score, norm, 100, 3, (const uint32_t[]){ 0, 1, 2 }, 3);
    expect_rank(score, norm, 50, 1, (const uint32_t[]){ 2 }, 1);
    expect_rank(score, norm, 50, 9, (const uint32_t[]){ 0, 1, 2, 3, 5, 4 }, N);
    expect_rank(score, norm, 50, 0, NULL, 0);
}

/* Rows that nobody looks at go by their size alone; equal ones by place. */
static void test_edges(void **state) {
    (void)state;
    static const float none[N] = { 0 }, size[N] = { 1, 3, 2, 3, 0, 1 };
    static const float broken[N] = { NAN, 1, NAN, 0, 2, 0 },
                       endless[N] = { INFINITY, 1, 1, 1, 1, 1 };
    expect_rank(none, size, 0, 4, (const uint32_t[]){ 1, 3, 2, 0 }, 4);
    expect_rank(none, size, 50, 4, (const uint32_t[]){ 0, 1, 3, 2 }, 4);
    /* no number: last, and nobody twice, whatever is asked for */
    expect_rank(broken, size, 50, 4, (const uint32_t[]){ 4, 1, 3, 5 }, 4);
    expect_rank(broken, size, 50, 6, (const uint32_t[]){ 4, 1, 3, 5, 0, 2 }, 6);
    expect_rank(none, endless, 0, 2, (const uint32_t[]){ 0, 1 }, 2);
}

/* ---- the sizes ---- */

enum { N_ROW = 1030 }; /* two graphs, the second short */

static void values_of(void *user, uint32_t h, uint32_t first, uint32_t n, float *out) {
    const float *v = user;
    uint32_t d = 32;
    memcpy(out, v + ((size_t)h * N_ROW + first) * d, (size_t)n * d * sizeof(*out));
}

/* Row e of a matrix as ggml decodes it. */
static void row_decoded(const struct ggml_tensor *w, int64_t e, float *out) {
    const char *row = (const char *)w->data + (size_t)e * w->nb[1];
    if (w->type == GGML_TYPE_F32) {
        memcpy(out, row, (size_t)w->ne[0] * sizeof(*out));
    } else {
        ggml_get_type_traits(w->type)->to_float(row, out, w->ne[0]);
    }
}

static void check_rows(const struct ft_hparams *hp, const float *weight, const float *v,
                       const float *got) {
    uint32_t d = hp->head_dim, group = hp->n_head / hp->n_head_kv;
    for (uint32_t h = 0; h < hp->n_head_kv; h++) {
        for (uint32_t j = 0; j < N_ROW; j += 103) { /* the last one is row 1030 - 103 + 103 - 1 */
            uint32_t at = j == 9 * 103 ? N_ROW - 1 : j;
            double want = 0;
            for (uint32_t g = h * group; g < (h + 1) * group; g++) {
                for (uint32_t e = 0; e < hp->n_embd; e++) {
                    double sum = 0;
                    for (uint32_t c = 0; c < d; c++) {
                        sum += (double)weight[((size_t)e * hp->n_head + g) * d + c] *
                               (double)v[((size_t)h * N_ROW + at) * d + c];
                    }
                    want += fabs(sum) / group;
                }
            }
            double value = (double)got[(size_t)h * N_ROW + at];
            if (!(fabs(value - want) <= 1e-5 * want)) { /* floats in dot products of 32 */
                fail_msg("head %u row %u: %.9g want %.9g", h, at, value, want);
            }
        }
    }
}

/* plain: the same file opened without copies in faster layouts; what lies there is the truth. */
static void check_model(const ft_model *model, const ft_model *plain, uint32_t n_thread) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    struct ft_eval_params params = { .model = model, .n_thread = n_thread };
    struct ft_eval *eval;
    struct ft_error err;
    uint64_t seed = 5;
    size_t width = (size_t)hp->n_head * hp->head_dim, n_v = (size_t)hp->n_head_kv * N_ROW * 32;
    float *v = test_malloc(n_v * sizeof(*v)),
          *weight = test_malloc(hp->n_embd * width * sizeof(*v));
    float *out = test_malloc((size_t)hp->n_head_kv * N_ROW * sizeof(*out));
    assert_int_equal(hp->head_dim, 32);
    for (size_t i = 0; i < n_v; i++) {
        v[i] = (float)oracle_below(&seed, 2001) / 1000 - 1;
    }
    assert_int_equal(ft_eval_new(&params, &eval, &err), FT_OK);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        struct ft_output_norms job = {
            .layer = l, .n = N_ROW, .values = values_of, .user = v, .out = out
        };
        assert_int_equal(ft_eval_output_norms(eval, &job, &err), FT_OK);
        for (int64_t e = 0; e < hp->n_embd; e++) {
            row_decoded(plain->layer[l].wo, e, weight + (size_t)e * width);
        }
        check_rows(hp, weight, v, out);
    }
    assert_true(ft_eval_compute_bytes(eval) >= hp->n_embd * (width + 1024) * sizeof(float));
    ft_eval_free(eval);
    test_free(v);
    test_free(weight);
    test_free(out);
}

static void test_sizes(void **state) {
    (void)state;
    static const char *const types[] = { "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k" };
    uint32_t n_copy = 0;
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        char arguments[160];
        struct ft_model_info info;
        snprintf(arguments, sizeof(arguments),
                 "--arch %s --layers 2 --embd 256 --heads 8 --kv-heads 2 --head-dim 32 --ff 256 "
                 "--vocab 300 --type %s",
                 i % 2 ? "qwen2" : "llama", types[i]);
        ft_model *full = model_made("sizes", arguments, FT_LOAD_FULL);
        ft_model *plain = model_made("sizes", arguments, FT_LOAD_PLAIN);
        ft_model_info(full, &info);
        n_copy += info.repacked_bytes > 0;
        check_model(full, plain, 2);
        check_model(plain, plain, 1);
        ft_model_close(full);
        ft_model_close(plain);
    }
    print_message("%u of %zu types were copied into a faster layout\n", n_copy, FT_COUNT(types));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
