/* SPDX-License-Identifier: Apache-2.0 */
/* test_memory.c - KV bytes as measured are what the formulas say, and the process is really that
 * much smaller.
 *
 * b = bytes of one token's K and V in all layers, b/layers of one layer.  n tokens read, L drafted,
 * C kept:
 *
 *     dense      held n b            peak n b
 *     specpc     held C b            peak C b
 *     speckv     held C b            peak C b + (n + L) b/layers: one layer's full rows and the kept
 *     draft      no text: one layer's n rows; text: (n + L - 1) rows in all its layers
 *
 * The process is measured in children of its own (this program again with --child): the highest
 * resident size since it started (VmHWM), and what is resident behind the prefill.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>

#include "engine_fixture.h"

enum { N_SMALL = 700, N_LONG = 8500, KEEP = 256, LOOK = 16 };

/* ---- formulas ---- */

static struct {
    ft_model *target, *draft;
    ft_token id[N_SMALL];
} with;

#define TARGET                                                                                     \
    "--layers 3 --embd 64 --heads 4 --kv-heads 2 --head-dim 32 --vocab 300 --ff 64 --ctx 2048 "
#define DRAFT                                                                                      \
    "--layers 2 --embd 64 --heads 4 --kv-heads 1 --head-dim 32 --vocab 300 --ff 64 --ctx 2048 "    \
    "--seed 4 "

static int models_open(void **state) {
    (void)state;
    with.target = model_made("target", TARGET, FT_LOAD_FULL);
    with.draft = model_made("draft", DRAFT, FT_LOAD_FULL);
    ids_random(with.id, N_SMALL, with.target, 5);
    return 0;
}

static int models_close(void **state) {
    (void)state;
    ft_model_close(with.target);
    ft_model_close(with.draft);
    return 0;
}

static const struct method {
    const char *name, *prompt, *kv;
    bool is_text; /* the draft writes */
    uint32_t n_read, n_kept, n_step;
} methods[] = {
    { "dense", NULL, NULL, false, N_SMALL, N_SMALL, 0 },
    { "specpc", "specpc:keep=200", NULL, false, 200, 200, 1 },
    { "specpc, 3 steps", "specpc:keep=200,lookahead=3", NULL, true, 200, 200, 3 },
    { "speckv", NULL, "speckv:keep=64,lookahead=8", true, N_SMALL, 64, 8 },
    { "speckv, sparse", NULL, "speckv:keep=64,lookahead=8,prefill_window=128,prefill_vertical=64",
      true, N_SMALL, 64, 8 },
    { "cascade", "specpc:keep=200", "speckv:keep=64,lookahead=8", true, 200, 64, 8 },
    { "speckv within keep", NULL, "speckv:keep=1024", false, N_SMALL, N_SMALL, 0 },
};

/* bytes: of 32 numbers */
static uint64_t row_bytes(const ft_model *model, uint32_t bytes) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    return (uint64_t)2 * hp->n_head_kv * hp->head_dim * bytes / 32;
}

static void check_method(const struct method *m, const char *kv_type, uint32_t bytes) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = m->prompt;
    params.kv = m->kv;
    params.kv_type = kv_type;
    params.n_thread = 1;
    params.n_predict = 2000;
    ft_session *s = session_made(with.target, with.draft, &params);
    const struct ft_hparams *hp = s->lane.hp;
    uint64_t layer_row = row_bytes(with.target, bytes), token = layer_row * hp->n_layer;
    uint64_t draft_layer = row_bytes(with.draft, bytes);
    for (int round = 0; round < 2; round++) { /* again: the peak is this prompt's */
        struct ft_report report;
        prompt_read(s, with.id, N_SMALL);
        ft_session_report(s, &report);
        bool is_staged = m->n_kept < m->n_read;
        uint32_t n_text = report.n_draft_text;
        assert_int_equal(report.kv_bytes_full, N_SMALL * token);
        assert_int_equal(report.kv_bytes, m->n_kept * token);
        assert_int_equal(report.kv_bytes_peak,
                         m->n_kept * token + (is_staged ? (m->n_read + n_text) * layer_row : 0));
        uint64_t draft = m->n_step == 0 ? 0 : m->is_text ? 0 : N_SMALL * draft_layer;
        if (m->is_text) {
            uint32_t n_step = m->kv ? n_text : m->n_step;
            draft = (N_SMALL + n_step - 1) * draft_layer * 2;
        }
        assert_int_equal(report.draft_kv_bytes_peak, draft);
        uint64_t n_hidden = FT_MAX(m->n_step ? N_SMALL : 0, m->n_read + (is_staged ? n_text : 0));
        assert_int_equal(report.activation_bytes_peak, n_hidden * hp->n_embd * sizeof(float));
        assert_int_equal(ft_kv_bytes(s->lane.kv), (m->n_kept + is_staged) * token);
        assert_int_equal(s->lane.activation.now, 0);
        assert_int_equal(s->lane.rows.now, ft_kv_bytes(s->lane.kv));
    }
    ft_token id;
    for (uint32_t t = 0; t < 1200; t++) { /* rows of the answer count, above the prefill's peak */
        tokens_drawn(s, &id, 1);
    }
    struct ft_report report;
    ft_session_report(s, &report);
    assert_int_equal(report.kv_bytes, m->n_kept * token);
    assert_int_equal(report.kv_bytes_peak, (m->n_kept + (m->n_kept < m->n_read) + 1199) * token);
    ft_session_free(s);
}

static void test_formulas(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        check_method(&methods[i], "f16", 64);
    }
    check_method(&methods[3], "f32", 128);
    check_method(&methods[3], "bf16", 64);
    check_method(&methods[3], "q8_0", 34);
}

/* ---- the process ---- */

#define WIDE                                                                                       \
    "--layers 4 --embd 64 --heads 8 --kv-heads 8 --head-dim 64 --vocab 300 --ff 64 --ctx 16384 "
#define THIN                                                                                       \
    "--layers 1 --embd 32 --heads 2 --kv-heads 1 --head-dim 16 --vocab 300 --ff 32 --ctx 16384 "   \
    "--seed 2 "

struct measured {
    uint64_t before, after, peak; /* resident: session open, behind the prefill, highest of all */
    uint64_t kv_bytes, kv_bytes_peak;
};

static int child(const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    struct measured m = { .before = 0 };
    struct ft_report report;
    params.kv = kv;
    params.n_thread = 1;
    params.n_predict = LOOK;
    ft_model *target = model_at(FT_TEST_SCRATCH_DIR "/wide.gguf", FT_LOAD_FULL);
    ft_model *draft = model_at(FT_TEST_SCRATCH_DIR "/thin.gguf", FT_LOAD_FULL);
    ft_session *s = session_made(target, draft, &params);
    ft_token *id = malloc(N_LONG * sizeof(*id));
    ids_random(id, N_LONG, target, 6);
    m.before = ft_memory_resident();
    prompt_read(s, id, N_LONG);
    m.after = ft_memory_resident();
    m.peak = ft_memory_resident_peak();
    ft_session_report(s, &report);
    printf("%llu %llu %llu %llu %llu\n", (unsigned long long)m.before, (unsigned long long)m.after,
           (unsigned long long)m.peak, (unsigned long long)report.kv_bytes,
           (unsigned long long)report.kv_bytes_peak);
    free(id);
    ft_session_free(s);
    ft_model_close(draft);
    ft_model_close(target);
    return 0;
}

static struct measured child_run(const char *kv) {
    char self[512], command[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(n > 0);
    self[n] = '\0';
    /* ASan's quarantine would hold what was freed */
    snprintf(command, sizeof(command),
             "ASAN_OPTIONS=\"$ASAN_OPTIONS:quarantine_size_mb=1\" '%s' --child %s", self, kv);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    unsigned long long v[5] = { 0 };
    assert_int_equal(fscanf(pipe, "%llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4]),
                     5);
    assert_int_equal(pclose(pipe), 0);
    return (struct measured){ v[0], v[1], v[2], v[3], v[4] };
}

/* What differs beside rows: the draft's few rows (64 bytes a token), evidence [heads][n], ranking
 * and pages that are only partly used (one per head and layer at both ends): below 4 MiB together.
 */
enum { SLACK = 4 << 20 };

static void test_process(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("SKIP resident bytes of the process: a sanitizer keeps freed memory\n");
    skip();
#endif
    ft_model_close(model_made("wide", WIDE, FT_LOAD_VOCAB));
    ft_model_close(model_made("thin", THIN, FT_LOAD_VOCAB));
    struct measured dense = child_run("dense");
    struct measured kept =
        child_run("speckv:keep=256,lookahead=16,prefill_window=512,prefill_vertical=256");
    print_message("resident MiB, %d tokens: dense before %.1f after %.1f peak %.1f (rows %.1f); "
                  "speckv before %.1f after %.1f peak %.1f (rows %.1f, peak %.1f)\n",
                  N_LONG, (double)dense.before / 1048576, (double)dense.after / 1048576,
                  (double)dense.peak / 1048576, (double)dense.kv_bytes / 1048576,
                  (double)kept.before / 1048576, (double)kept.after / 1048576,
                  (double)kept.peak / 1048576, (double)kept.kv_bytes / 1048576,
                  (double)kept.kv_bytes_peak / 1048576);
    assert_int_equal(dense.kv_bytes_peak, (uint64_t)N_LONG * 8192);
    assert_int_equal(kept.kv_bytes, (uint64_t)KEEP * 8192);
    assert_true(kept.kv_bytes_peak <= kept.kv_bytes + (uint64_t)(N_LONG + LOOK) * 2048);
    assert_true(dense.kv_bytes_peak - kept.kv_bytes_peak > 8 * (uint64_t)SLACK); /* rows dominate */
    /* the peak is lower by what the formulas say */
    assert_true(kept.peak + (dense.kv_bytes_peak - kept.kv_bytes_peak) <= dense.peak + SLACK);
    /* behind the prefill one layer's full rows are gone */
    assert_true(kept.after + (kept.kv_bytes_peak - kept.kv_bytes) <= kept.peak + SLACK);
    /* and what is left is the kept rows, and a chunk's compute buffer */
    assert_true(kept.after - kept.before <= kept.kv_bytes + 2 * (uint64_t)SLACK);
    assert_true(dense.after - dense.before >= dense.kv_bytes);
    /* the same where heads keep different numbers of rows: room that the largest needs is not
     * touched by the others */
    struct measured ragged = child_run("snapkv:keep=256,budget=ada");
    assert_int_equal(ragged.kv_bytes, (uint64_t)KEEP * 8192);
    assert_true(ragged.after - ragged.before <= ragged.kv_bytes + 2 * (uint64_t)SLACK);
    assert_true(ragged.peak <= kept.peak + SLACK);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--child") == 0) {
        return child(argv[2]);
    }
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_formulas),
                                        cmocka_unit_test(test_process) };
    return cmocka_run_group_tests(tests, models_open, models_close);
}
