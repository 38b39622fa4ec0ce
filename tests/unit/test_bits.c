/* SPDX-License-Identifier: Apache-2.0 */
/* test_bits.c - bits and groups by norms: never above the average, monotone, as good as any choice on
 * two layers; norms of weights against their definitions. */
#include "engine_fixture.h"
#include "gguf_edit.h"

enum { N_MOST = 64 };

static double error_of(const double *s, const uint8_t *bits, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += s[i] * s[i] * pow(4, -(double)bits[i]);
    }
    return sum;
}

static void sensitivities(uint64_t *seed, double *s, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        s[i] = exp(3.0 * (double)oracle_real(seed)); /* 0.05 .. 20 */
    }
}

static void test_bits(void **state) {
    (void)state;
    uint64_t seed = 9;
    for (int round = 0; round < 400; round++) {
        uint32_t n = 2 + oracle_below(&seed, N_MOST - 2), average = 2 + oracle_below(&seed, 7);
        double s[N_MOST];
        uint8_t bits[N_MOST];
        uint32_t sum = 0;
        sensitivities(&seed, s, n);
        assert_int_equal(ft_bits_by_norm(s, n, average, bits, NULL), FT_OK);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(bits[i] == 2 || bits[i] == 4 || bits[i] == 8);
            sum += bits[i];
            for (uint32_t j = 0; j < n; j++) {
                assert_true(!(s[i] > s[j]) || bits[i] >= bits[j]);
            }
        }
        assert_true(sum <= n * average);
        for (uint32_t i = 0; i < n; i++) {                            /* what fits is used */
            assert_true(bits[i] == 8 || sum + bits[i] > n * average); /* 2 more, or 4 */
        }
    }
    double same[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    uint8_t bits[8];
    assert_int_equal(ft_bits_by_norm(same, 8, 3, bits, NULL),
                     FT_OK); /* what is left goes to the lower index */
    assert_memory_equal(bits, ((uint8_t[]){ 4, 4, 4, 4, 2, 2, 2, 2 }), 8);
    double keys[8] = { 9, 3, 8, 2, 7, 3, 9, 1 }; /* keys that are larger: K4V2 */
    assert_int_equal(ft_bits_by_norm(keys, 8, 3, bits, NULL), FT_OK);
    assert_memory_equal(bits, ((uint8_t[]){ 4, 2, 4, 2, 4, 2, 4, 2 }), 8);
}

/* All 3^4 choices on two layers. */
static void test_bits_against_all(void **state) {
    (void)state;
    static const uint8_t widths[] = { 2, 4, 8 };
    uint64_t seed = 4;
    for (int round = 0; round < 300; round++) {
        uint32_t average = 2 + oracle_below(&seed, 7);
        double s[4], least = INFINITY;
        uint8_t bits[4], all[4];
        sensitivities(&seed, s, 4);
        assert_int_equal(ft_bits_by_norm(s, 4, average, bits, NULL), FT_OK);
        for (uint32_t choice = 0; choice < 81; choice++) {
            uint32_t used = 0, rest = choice;
            for (uint32_t i = 0; i < 4; i++, rest /= 3) {
                all[i] = widths[rest % 3];
                used += all[i];
            }
            if (used <= 4 * average) {
                least = fmin(least, error_of(s, all, 4));
            }
        }
        if (error_of(s, bits, 4) > least * 1.0000001) {
            fail_msg("average %u: error %g, best %g", average, error_of(s, bits, 4), least);
        }
    }
}

static void test_groups(void **state) {
    (void)state;
    static const uint32_t averages[] = { 16, 32, 64 };
    uint64_t seed = 3;
    for (int round = 0; round < 400; round++) {
        uint32_t n = 2 + oracle_below(&seed, N_MOST - 2),
                 average = averages[oracle_below(&seed, 3)];
        double s[N_MOST], cost = 0, ours = 0, same = 0;
        uint16_t high[N_MOST], group[N_MOST];
        sensitivities(&seed, s, n);
        for (uint32_t i = 0; i < n; i++) {
            high[i] = i % 2 == 0 ? 64 : 128;
        }
        ft_groups_by_norm(s, n, average, high, group);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(group[i] >= 16 && group[i] <= high[i]);
            assert_int_equal(group[i] & (group[i] - 1), 0);
            cost += 1.0 / group[i];
            ours += s[i] * group[i];
            same += s[i] * average;
            for (uint32_t j = i % 2; j < n; j += 2) { /* of one `high` */
                assert_true(!(s[i] > s[j]) || group[i] <= group[j]);
            }
        }
        assert_true(cost <= (double)n / average);
        assert_true(ours <= same * 1.0000001); /* never worse than all alike */
    }
}

/* ---- norms of weights ---- */

static void test_norms(void **state) {
    (void)state;
    ft_model *model = model_shipped("weak");
    double sum[2] = { 0, 0 };
    for (uint32_t l = 0; l < ft_model_hparams(model)->n_layer; l++) {
        double frobenius[2], spectral[2];
        struct ft_error err;
        assert_int_equal(
            ft_model_kv_norms(model, l, FT_NORM_FROBENIUS, &frobenius[0], &frobenius[1], &err),
            FT_OK);
        assert_int_equal(
            ft_model_kv_norms(model, l, FT_NORM_SPECTRAL, &spectral[0], &spectral[1], &err), FT_OK);
        for (int i = 0; i < 2; i++) { /* 64 x 128: |W|_2 <= |W|_F <= sqrt(64) |W|_2 */
            assert_true(spectral[i] <= frobenius[i]);
            assert_true(frobenius[i] <= 8 * spectral[i]);
            sum[i] += frobenius[i];
        }
    }
    assert_true(sum[0] >
                sum[1]); /* keys are larger, as the paper says, on the mean of the layers */
    ft_model_close(model);
}

/* A weight that is no number has no norm: said, not computed with. */
static void test_infinite(void **state) {
    (void)state;
    static const uint8_t infinite[] = { 0x00, 0x7c }, none[] = { 0x00, 0x7e };
    const char *path = FT_TEST_SCRATCH_DIR "/infinite.gguf";
    struct ge g = ge_load(FT_TEST_SOURCE_DIR "/models/foretoken-draft-f16.gguf");
    struct ge_entry *at = NULL;
    for (size_t i = 0; i < g.n_tensor; i++) {
        at = strcmp(g.tensor[i].name, "blk.1.attn_v.weight") == 0 ? &g.tensor[i] : at;
    }
    assert_non_null(at);
    for (int i = 0; i < 2; i++) {
        size_t n;
        memcpy(at->value.data, i == 0 ? infinite : none, 2);
        uint8_t *bytes = ge_build(&g, &n);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, n, file), n);
        fclose(file);
        free(bytes);
        ft_model *model = model_at(path, FT_LOAD_FULL);
        struct ft_kv_layer layer[16];
        struct ft_error err;
        assert_int_equal(ft_kv_type_layers(model, "kvq", layer, &err), FT_FORMAT);
        assert_non_null(strstr(err.text, "blk.1.attn_v.weight"));
        ft_model_close(model);
    }
    ge_free(&g);
    remove(path);
}

/* kvq gives the bits that the norms say, and their bytes are what the store counts. */
static void test_kvq(void **state) {
    (void)state;
    ft_model *model = model_shipped("target");
    uint32_t n_layer = ft_model_hparams(model)->n_layer;
    struct ft_kv_layer layer[16];
    struct ft_error err;
    ft_token id[600];
    assert_true(n_layer <= 16);
    assert_int_equal(ft_kv_type_layers(model, "kvq,bits=3", layer, &err), FT_OK);
    struct ft_session_params params = ft_session_defaults();
    params.kv_type = "kvq,bits=3";
    params.n_thread = 1;
    ft_session *s = session_made(model, NULL, &params);
    ids_random(id, 600, model, 1);
    prompt_read(s, id, 600);
    double norm[32];
    uint8_t bits[32];
    uint64_t want = 0, d = 64;
    for (uint32_t l = 0; l < n_layer; l++) {
        norm[2 * l] = layer[l].k_norm;
        norm[2 * l + 1] = layer[l].v_norm;
    }
    assert_int_equal(ft_bits_by_norm(norm, 2 * n_layer, 3, bits, NULL), FT_OK);
    for (uint32_t l = 0; l < n_layer; l++) {
        assert_int_equal(layer[l].k_bits, bits[2 * l]);
        assert_int_equal(layer[l].v_bits, bits[2 * l + 1]);
        assert_int_equal(ft_kv_packing(s->lane.kv, l)->k.bits, bits[2 * l]);
        /* 600 rows: 8 blocks and 88 exact rows; 64 groups a block of either */
        want += 2 * (8 * (64 * d * (bits[2 * l] + bits[2 * l + 1]) / 8 + 2 * 64 * 4) + 88 * d * 4);
    }
    struct ft_report report;
    assert_int_equal(report_of(s, &report)->kv_bytes, want);
    char told[24];
    snprintf(told, sizeof told, "bits of k %u", bits[0]);
    assert_non_null(strstr(report.kv_packing, told));
    struct ft_estimate estimate;
    ft_model *header =
        model_at(FT_TEST_SOURCE_DIR "/models/foretoken-target-f16.gguf", FT_LOAD_VOCAB);
    assert_int_equal(ft_estimate(header, NULL, &params, 600, &estimate, &err), FT_OK);
    assert_int_equal(estimate.kv_bytes, want); /* whichever layers have them */
    ft_model_close(header);
    ft_session_free(s);
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),     cmocka_unit_test(test_bits_against_all),
        cmocka_unit_test(test_groups),   cmocka_unit_test(test_norms),
        cmocka_unit_test(test_infinite), cmocka_unit_test(test_kvq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
