/* SPDX-License-Identifier: Apache-2.0 */
/* test_peer.c - libllama's engine as the opponent: runs twice alike, refuses what would abort. */
#include "text_fixture.h"

enum { N = 300, N_PREDICT = 12 };

static ft_peer *peer_open(const char *kv_type, uint32_t n_ctx) {
    char path[512];
    struct ft_error err = { .code = FT_OK };
    ft_peer *peer = NULL;
    text_path(path);
    if (ft_peer_open(path, n_ctx, 1, kv_type, &peer, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return peer;
}

static void make_prompt(ft_token *id) {
    for (int t = 0; t < N; t++) {
        id[t] = 100 + t * 7 % 2000;
    }
}

static void test_run(void **state) {
    (void)state;
    static const struct {
        const char *kv_type;
        uint64_t n_byte;
    } cases[] = { { "f16", 2 }, { "f32", 4 }, { "bf16", 2 }, { NULL, 2 } };
    ft_token id[N], first[N_PREDICT];
    ft_model *model = text_model();
    const struct ft_hparams *hp = ft_model_hparams(model);
    make_prompt(id);
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        ft_peer *peer = peer_open(cases[i].kv_type, 512);
        for (int run = 0; run < 2; run++) {
            ft_token out[N_PREDICT];
            struct ft_peer_report report = { .prefill_us = -1 };
            struct ft_error err = { .code = FT_OK };
            assert_int_equal(ft_peer_run(peer, id, N, N_PREDICT, out, &report, &err), FT_OK);
            assert_true(report.prefill_us > 0 && report.decode_us > 0);
            assert_int_equal(report.kv_bytes, (uint64_t)(N + N_PREDICT) * hp->n_layer *
                                                  hp->n_head_kv * hp->head_dim * 2 *
                                                  cases[i].n_byte);
            if (run == 0) {
                memcpy(first, out, sizeof(first));
            }
            assert_memory_equal(out, first, sizeof(first)); /* the cache was cleared */
        }
        ft_peer_close(peer);
    }
    ft_peer_close(NULL);
    ft_model_close(model);
}

/* More tokens than one batch of 2,048 holds. */
static void test_batches(void **state) {
    (void)state;
    enum { LONG = 2100 };
    ft_token id[LONG], out[2];
    struct ft_peer_report report;
    struct ft_error err = { .code = FT_OK };
    for (int t = 0; t < LONG; t++) {
        id[t] = 100 + t % 999;
    }
    ft_peer *peer = peer_open("f16", LONG + 2);
    if (ft_peer_run(peer, id, LONG, 2, out, &report, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    ft_peer_close(peer);
}

static void test_errors(void **state) {
    (void)state;
    struct ft_error err;
    ft_peer *peer = NULL;
    ft_token id[N], out[4];
    struct ft_peer_report report;
    char path[512];
    text_path(path);
    assert_int_equal(ft_peer_open("/nowhere/at/all.gguf", 512, 1, "f16", &peer, &err), FT_IO);
    assert_int_equal(ft_peer_open(path, 512, 1, "q8_0", &peer, &err), FT_ARG);
    assert_int_equal(ft_peer_open(path, 0, 1, "f16", &peer, &err), FT_ARG);
    assert_int_equal(ft_peer_open(path, 512, 100000, "f16", &peer, &err), FT_ARG);
    assert_null(peer);
    peer = peer_open("f16", 256);
    make_prompt(id);
    assert_int_equal(ft_peer_run(peer, id, 0, 4, out, &report, &err), FT_LIMIT);
    assert_int_equal(ft_peer_run(peer, id, 253, 4, out, &report, &err), FT_LIMIT);
    assert_int_equal(ft_peer_run(peer, id, 252, 4, out, &report, &err), FT_OK);
    id[5] = -1;
    assert_int_equal(ft_peer_run(peer, id, 10, 1, out, &report, &err), FT_ARG);
    id[5] = 4096;
    assert_int_equal(ft_peer_run(peer, id, 10, 1, out, &report, &err), FT_ARG);
    assert_int_equal(err.where, 5);
    ft_peer_close(peer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
