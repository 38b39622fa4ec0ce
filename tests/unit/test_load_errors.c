/* SPDX-License-Identifier: Apache-2.0 */
/* test_load_errors.c - opening what is no good model: one line that names the file, no crash,
 * nothing kept. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "gguf_edit.h"

#ifndef FT_TEST_SCRATCH_DIR
#define FT_TEST_SCRATCH_DIR "."
#endif

#define SMALL "--layers 2 --embd 64 --heads 2 --kv-heads 1 --ff 64 --vocab 272 --ctx 512 "

static const char *at(const char *name) {
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, 512, "%s/%s", FT_TEST_SCRATCH_DIR, name);
    return out;
}

static const char *make(const char *name, const char *options) {
    char command[1600];
    const char *path = at(name);
    snprintf(command, sizeof(command), "%s/mkmodel %s %s", FT_TEST_BIN_DIR, path, options);
    assert_int_equal(system(command), 0);
    return path;
}

static const enum ft_load loads[] = { FT_LOAD_FULL, FT_LOAD_PLAIN, FT_LOAD_VOCAB };

/* Opens in every way and expects the same refusal each time. */
static void refused(const char *path, ft_status want, const char *says) {
    for (size_t i = 0; i < FT_COUNT(loads); i++) {
        ft_model *model = (ft_model *)&i; /* must stay as it is */
        struct ft_error err = { .code = FT_OK };
        ft_status status = ft_model_open(path, loads[i], &model, &err);
        if (status != want || strstr(err.text, says) == NULL || err.code != want) {
            fail_msg("%s, load %d: got %d \"%s\", want %d \"%s\"", path, (int)loads[i], status,
                     err.text, want, says);
        }
        assert_ptr_equal(model, &i);
        assert_null(strchr(err.text, '\n'));
        const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
        assert_non_null(strstr(err.text, name));
        assert_int_equal(ft_model_open(path, loads[i], &model, NULL), want);
    }
}

static void test_no_model(void **state) {
    (void)state;
    refused(at("missing.gguf"), FT_IO, "No such file or directory");
    refused("", FT_IO, "cannot be opened");
    refused(FT_TEST_SCRATCH_DIR, FT_IO, "is a directory");
    ge_write(at("empty.gguf"), (const uint8_t *)"", 0);
    refused(at("empty.gguf"), FT_FORMAT, "is empty");
    ge_write(at("text.gguf"), (const uint8_t *)"{\"hello\": 1}\n", 13);
    refused(at("text.gguf"), FT_FORMAT, "not a GGUF file");
    ge_write(at("short.gguf"), (const uint8_t *)"GG", 2);
    refused(at("short.gguf"), FT_FORMAT, "needs 4 bytes, but only 2 are left");
    if (geteuid() != 0) { /* root may read everything */
        ge_write(at("secret.gguf"), (const uint8_t *)"GGUF", 4);
        chmod(at("secret.gguf"), 0);
        refused(at("secret.gguf"), FT_IO, "Permission denied");
    }
}

static void test_truncated(void **state) {
    (void)state;
    struct ge_bytes b = ge_read(make("whole.gguf", SMALL));
    ft_model *model;
    assert_int_equal(ft_model_open(at("whole.gguf"), FT_LOAD_FULL, &model, NULL), FT_OK);
    ft_model_close(model);
    for (size_t n = 1; n < b.n; n += n < 6000 ? 997 : 16384) {
        ge_write(at("cut.gguf"), b.data, n);
        refused(at("cut.gguf"), FT_FORMAT, "cut.gguf: ");
    }
    ge_write(at("cut.gguf"), b.data, b.n - 1);
    refused(at("cut.gguf"), FT_FORMAT, "it is truncated");
    free(b.data);
}

static void test_unsupported(void **state) {
    (void)state;
    static const struct {
        const char *edit, *says;
        ft_status status;
    } cases[] = {
        { "str general.architecture mamba",
          "general.architecture is 'mamba', expected llama, qwen2 or qwen3", FT_UNSUP },
        { "u32 llama.expert_count 8", "llama.expert_count is 8", FT_UNSUP },
        { "u32 llama.attention.sliding_window 4096", "sliding-window attention is not supported",
          FT_UNSUP },
        { "str tokenizer.ggml.model none", "tokenizer.ggml.model is 'none'", FT_UNSUP },
        { "token 9 b; token 8 b", "are both 'b'", FT_FORMAT },
        { "str tokenizer.ggml.pre neverheardof", "vocabulary",
          FT_FORMAT }, /* libllama knows the names */
    };
    make("base.gguf", SMALL);
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ge g = ge_load(at("base.gguf"));
        size_t n;
        ge_edit(&g, cases[i].edit);
        uint8_t *data = ge_build(&g, &n);
        ge_write(at("edited.gguf"), data, n);
        refused(at("edited.gguf"), cases[i].status, cases[i].says);
        free(data);
        ge_free(&g);
    }
}

/* The fuzzer's corpus: five good models, everything else is an attack. */
static void test_hostile(void **state) {
    (void)state;
    static const char *const good[] = { "llama", "qwen2", "qwen3", "spm",
                                        "split-00001-of-00002.gguf" };
    const char *folder = FT_TEST_SOURCE_DIR "/tests/fuzz/corpus/fuzz_gguf";
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    unsigned n_good = 0, n_bad = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[1024];
        bool is_good = false;
        for (size_t i = 0; i < FT_COUNT(good); i++) {
            is_good = is_good || strcmp(entry->d_name, good[i]) == 0;
        }
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.') {
            continue;
        }
        struct ft_error err = { .code = FT_OK };
        ft_model *model = NULL;
        ft_status status = ft_model_open(path, FT_LOAD_FULL, &model, &err);
        if ((status == FT_OK) != is_good || (!is_good && strstr(err.text, entry->d_name) == NULL)) {
            fail_msg("%s: got %d \"%s\"", path, status, err.text);
        }
        ft_model_close(model);
        is_good ? n_good++ : n_bad++;
    }
    closedir(dir);
    assert_int_equal(n_good, FT_COUNT(good));
    assert_true(n_bad >= 30);
}

static void test_split(void **state) {
    (void)state;
    make("s.gguf", SMALL "--split 3");
    ft_model *model = NULL;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_model_open(at("s-00001-of-00003.gguf"), FT_LOAD_FULL, &model, &err), FT_OK);
    struct ft_model_info info;
    ft_model_info(model, &info);
    assert_int_equal(info.n_layer, 2);
    ft_model_close(model);

    refused(at("s-00002-of-00003.gguf"), FT_FORMAT, "expected the first");
    assert_int_equal(rename(at("s-00003-of-00003.gguf"), at("away")), 0);
    struct ft_error missing;
    assert_int_equal(ft_model_open(at("s-00001-of-00003.gguf"), FT_LOAD_FULL, &model, &missing),
                     FT_IO);
    assert_non_null(strstr(missing.text, "s-00003-of-00003.gguf: cannot be opened: No such file"));

    struct ge_bytes second = ge_read(at("s-00002-of-00003.gguf"));
    ge_write(at("s-00003-of-00003.gguf"), second.data, second.n); /* the same part twice */
    assert_int_equal(ft_model_open(at("s-00001-of-00003.gguf"), FT_LOAD_FULL, &model, &err),
                     FT_FORMAT);
    assert_non_null(strstr(err.text, "s-00003-of-00003.gguf"));
    free(second.data);

    assert_int_equal(rename(at("away"), at("s-00003-of-00003.gguf")), 0);
    assert_int_equal(rename(at("s-00001-of-00003.gguf"), at("renamed.gguf")), 0);
    refused(at("renamed.gguf"), FT_FORMAT, "-00001-of-00003.gguf");

    /* parts of another model */
    make("t.gguf", "--layers 3 --embd 64 --heads 2 --kv-heads 1 --ff 64 --vocab 272 --split 3");
    assert_int_equal(rename(at("renamed.gguf"), at("t-00001-of-00003.gguf")), 0);
    assert_int_equal(ft_model_open(at("t-00001-of-00003.gguf"), FT_LOAD_FULL, &model, &err),
                     FT_UNSUP);
    assert_non_null(strstr(err.text, "tensor blk."));
}

/* Each of our allocations fails once, and then all from the n-th on: an answer each time, and no
 * leak. */
static void test_out_of_memory(void **state) {
    (void)state;
    const char *path = make("memory.gguf", SMALL "--type q4_0");
    for (size_t i = 0; i < FT_COUNT(loads); i++) {
        ft_model *model = NULL;
        uint64_t before = ft_alloc_count();
        assert_int_equal(ft_model_open(path, loads[i], &model, NULL), FT_OK);
        uint64_t n_call = ft_alloc_count() - before;
        ft_model_close(model);
        assert_true(n_call >= 8);
        for (uint64_t n = 1; n <= 2 * n_call; n++) {
            struct ft_error err = { .code = FT_OK };
            model = NULL;
            ft_alloc_fail_after((n + 1) / 2, n % 2 == 0);
            ft_status status = ft_model_open(path, loads[i], &model, &err);
            ft_alloc_fail_after(0, false);
            if (status != FT_NOMEM || err.text[0] == '\0') {
                fail_msg("allocation %d of %d: got %d \"%s\"", (int)(n + 1) / 2, (int)n_call,
                         status, err.text);
            }
            assert_null(model);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_model),    cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_unsupported), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_split),       cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
