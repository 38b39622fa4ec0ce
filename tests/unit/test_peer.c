/* SPDX-License-Identifier: Apache-2.0 */
/* test_peer.c - libllama's engine as the opponent: runs twice alike, refuses what would abort. */
#include "model/peer.c"
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
        uint64_t n_byte; /* of 32 numbers */
    } cases[] = { { "f16", 64 }, { "f32", 128 }, { "bf16", 64 }, { "q8_0", 34 }, { NULL, 64 } };
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
                                                  hp->n_head_kv * hp->head_dim / 32 * 2 *
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

/* ---- copied rows ---- */

static void fill(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_row) {
    struct ft_error err = { .code = FT_OK };
    if (ft_peer_fill(peer, id, n, n_row, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
}

/* Sequence 0 holds n_row cells, at positions from 0 on; sequence 1 holds none. */
static void assert_cells(ft_peer *peer, uint32_t n_row, uint32_t n_pos, size_t cell_bytes) {
    llama_memory_t memory = llama_get_memory(peer->ctx);
    size_t empty = llama_state_seq_get_size(peer->ctx, 1);
    size_t held = llama_state_seq_get_size(peer->ctx, 0) - empty;
    assert_int_equal(llama_memory_seq_pos_max(memory, 1), -1);
    assert_int_equal(llama_memory_seq_pos_min(memory, 0), 0);
    assert_int_equal(llama_memory_seq_pos_max(memory, 0), n_pos - 1);
    /* besides K and V a cell has its position and sequence there */
    assert_true(held >= n_row * cell_bytes && held < n_row * (cell_bytes + 32));
}

static void test_fill(void **state) {
    (void)state;
    static const char *const kv_types[] = { "f16", "f32", "bf16", "q8_0" };
    ft_token id[N], out[4];
    make_prompt(id);
    for (size_t i = 0; i < FT_COUNT(kv_types); i++) {
        ft_peer *peer = peer_open(kv_types[i], 2048);
        for (uint32_t n_row = 1000; n_row <= 1024; n_row += 24) { /* with and without a rest */
            struct ft_peer_report report;
            struct ft_error err = { .code = FT_OK };
            fill(peer, id, 128, n_row);
            assert_cells(peer, n_row, 128, peer->cell_bytes);
            assert_int_equal(ft_peer_continue(peer, id, 100, 4, out, &report, &err), FT_OK);
            assert_int_equal(report.n_row, n_row);
            assert_int_equal(report.kv_bytes, (uint64_t)peer->cell_bytes * (n_row + 104));
            assert_cells(peer, n_row + 103, 128 + 103, peer->cell_bytes); /* one is only drawn */
        }
        ft_peer_close(peer);
    }
}

/* Logits of the last of 20 tokens behind n_row rows. */
static float *logits_behind(ft_peer *peer, const ft_token *id, uint32_t n, uint32_t n_row) {
    ft_token out[1];
    struct ft_peer_report report;
    struct ft_error err = { .code = FT_OK };
    uint32_t n_vocab = ft_model_hparams(peer->header)->n_vocab;
    fill(peer, id, n, n_row);
    assert_int_equal(ft_peer_continue(peer, id + N - 20, 20, 1, out, &report, &err), FT_OK);
    float *logits = test_malloc(n_vocab * sizeof(*logits));
    memcpy(logits, llama_get_logits_ith(peer->ctx, -1), n_vocab * sizeof(*logits));
    return logits;
}

/* Attention sees the copies, and rows without copies are those of a prompt. */
static void test_fill_is_seen(void **state) {
    (void)state;
    ft_token id[N];
    ft_peer *peer = peer_open("f32", 2048);
    uint32_t n_vocab = ft_model_hparams(peer->header)->n_vocab;
    make_prompt(id);
    float *read = logits_behind(peer, id, 128, 64), *same = logits_behind(peer, id, 64, 64);
    float *more = logits_behind(peer, id, 64, 640);
    double most = 0;
    for (uint32_t v = 0; v < n_vocab; v++) {
        assert_true(isfinite(more[v]));
        assert_true(read[v] == same[v]);
        most = FT_MAX(most, fabs((double)(more[v] - read[v])));
    }
    assert_true(most > 0.01);
    test_free(read);
    test_free(same);
    test_free(more);
    ft_peer_close(peer);
}

static void test_fill_errors(void **state) {
    (void)state;
    ft_token id[N], out[N_PREDICT], plain[N_PREDICT];
    struct ft_peer_report report;
    struct ft_error err = { .code = FT_OK };
    ft_peer *peer = peer_open("f16", 512);
    make_prompt(id);
    assert_int_equal(ft_peer_run(peer, id, 100, N_PREDICT, plain, &report, &err), FT_OK);
    assert_int_equal(ft_peer_fill(peer, id, 0, 10, &err), FT_LIMIT);
    assert_int_equal(ft_peer_fill(peer, id, 100, 513, &err), FT_LIMIT);
    id[7] = -1;
    assert_int_equal(ft_peer_fill(peer, id, 100, 200, &err), FT_ARG);
    make_prompt(id);
    fill(peer, id, 100, 500);
    assert_int_equal(ft_peer_continue(peer, id, 10, 3, out, &report, &err), FT_LIMIT);
    assert_int_equal(ft_peer_continue(peer, id, 10, 2, out, &report, &err), FT_OK);
    fill(peer, id, 100, 0); /* empty: as a run */
    assert_int_equal(ft_peer_continue(peer, id, 100, N_PREDICT, out, &report, &err), FT_OK);
    assert_int_equal(report.n_row, 0);
    assert_memory_equal(out, plain, sizeof(out));
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
    assert_int_equal(ft_peer_open(path, 512, 1, "q4_0", &peer, &err), FT_ARG);
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
        cmocka_unit_test(test_run),         cmocka_unit_test(test_batches),
        cmocka_unit_test(test_fill),        cmocka_unit_test(test_fill_is_seen),
        cmocka_unit_test(test_fill_errors), cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
