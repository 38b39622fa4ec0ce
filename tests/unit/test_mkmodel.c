/* SPDX-License-Identifier: Apache-2.0 */
/* test_mkmodel.c - libllama itself runs what tools/mkmodel makes, and the planted pair does what
 * it promises. */
#define _DEFAULT_SOURCE /* popen */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <ggml.h>
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "model/ggufcheck.h"

#ifndef FT_TEST_SCRATCH_DIR
#define FT_TEST_SCRATCH_DIR "."
#endif

static void silent(enum ggml_log_level level, const char *text, void *user) {
    (void)level, (void)text, (void)user;
}

static const char *make(const char *options) {
    static char path[512];
    char command[2048];
    snprintf(path, sizeof(path), "%s/made.gguf", FT_TEST_SCRATCH_DIR);
    snprintf(command, sizeof(command), "%s/mkmodel %s %s", FT_TEST_BIN_DIR, path, options);
    if (system(command) != 0) {
        fail_msg("%s failed", command);
    }
    return path;
}

static struct ft_gguf_facts facts_of(const char *path) {
    struct ft_file_map map;
    struct ft_gguf_facts facts;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_file_map_open(path, &map, &err), FT_OK);
    if (ft_gguf_check(&map, path, &facts, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    ft_file_map_close(&map);
    return facts;
}

/* ---- greedy text by libllama ---- */

struct run {
    struct llama_model *model;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
};

static struct run run_open(const char *path) {
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();
    mp.n_gpu_layers = 0;
    cp.n_ctx = cp.n_batch = 512;
    cp.n_threads = cp.n_threads_batch = 1;
    struct run r = { .model = llama_model_load_from_file(path, mp) };
    if (r.model == NULL) {
        fail_msg("libllama does not load %s", path);
    }
    r.ctx = llama_init_from_model(r.model, cp);
    assert_non_null(r.ctx);
    r.vocab = llama_model_get_vocab(r.model);
    return r;
}

static void run_close(struct run *r) {
    llama_free(r->ctx);
    llama_model_free(r->model);
}

static llama_token best(const struct run *r) {
    const float *logit = llama_get_logits_ith(r->ctx, -1);
    llama_token id = 0;
    for (llama_token i = 0; i < llama_vocab_n_tokens(r->vocab); i++) {
        assert_true(isfinite(logit[i]) && fabsf(logit[i]) < 100);
        id = logit[i] > logit[id] ? i : id;
    }
    return id;
}

/* Reads text, forgets the row of position `drop` (-1: none), and writes up to 8 tokens. */
static const char *run_text(const struct run *r, const char *text, int drop) {
    static char out[256];
    llama_token id[512];
    int32_t n = llama_tokenize(r->vocab, text, (int32_t)strlen(text), id, 512, true, true);
    assert_true(n > 0);
    llama_memory_clear(llama_get_memory(r->ctx), true);
    assert_int_equal(llama_decode(r->ctx, llama_batch_get_one(id, n)), 0);
    if (drop >= 0) {
        assert_true(llama_memory_seq_rm(llama_get_memory(r->ctx), 0, drop, drop + 1));
    }
    out[0] = '\0';
    for (int i = 0; i < 8; i++) {
        llama_token next = best(r);
        char piece[64] = "";
        if (llama_vocab_is_eog(r->vocab, next)) {
            break;
        }
        llama_token_to_piece(r->vocab, next, piece, sizeof(piece) - 1, 0, true);
        snprintf(out + strlen(out), sizeof(out) - strlen(out), "%s", piece);
        assert_int_equal(llama_decode(r->ctx, llama_batch_get_one(&next, 1)), 0);
    }
    return out;
}

/* ---- models with random weights ---- */

static const char *const archs[] = { "llama", "qwen2", "qwen3" };
static const char *const types[] = { "f32",  "f16",  "bf16", "q8_0",   "q4_0",
                                     "q4_1", "q5_0", "q5_1", "q2_K",   "q3_K",
                                     "q4_K", "q5_K", "q6_K", "iq4_nl", "iq4_xs" };

static void test_all_types(void **state) {
    (void)state;
    for (size_t a = 0; a < FT_COUNT(archs); a++) {
        for (size_t t = 0; t < FT_COUNT(types); t++) {
            char options[256];
            snprintf(options, sizeof(options),
                     "--arch %s --type %s --layers 1 --embd 256 --heads 4 --kv-heads 2 --ff 256 "
                     "--vocab 272",
                     archs[a], types[t]);
            const char *path = make(options);
            struct ft_gguf_facts facts = facts_of(path);
            for (uint32_t i = 0; i < facts.n_tensor; i++) {
                const char *want = facts.tensor[i].ne[1] > 1 ? types[t] : "f32";
                assert_string_equal(ggml_type_name((enum ggml_type)facts.tensor[i].type), want);
            }
            ft_gguf_facts_done(&facts);
            struct run r = run_open(path);
            run_text(&r, "the sea was calm", -1);
            run_close(&r);
        }
    }
}

static void test_options(void **state) {
    (void)state;
    static const char *const options[] = {
        "--embd 96 --heads 2 --kv-heads 1 --head-dim 64 --tied --rope llama3 --bias --chat",
        "--arch qwen3 --embd 96 --heads 2 --kv-heads 2 --head-dim 128 --tied --rope yarn "
        "--pad-vocab 24 --bos",
        "--arch qwen2 --embd 128 --heads 2 --kv-heads 1 --rope linear --type q4_k",
        "--embd 128 --heads 1 --kv-heads 1 --pre llama-bpe --vocab 2000 --type q4_k --rope yarn "
        "--sharpness 3",
        "--pre qwen2 --vocab 300 --ctx 64 --rope-base 1e6 --seed 7 --name x",
    };
    for (size_t i = 0; i < FT_COUNT(options); i++) {
        const char *path = make(options[i]);
        struct ft_gguf_facts facts = facts_of(path);
        ft_gguf_facts_done(&facts);
        struct run r = run_open(path);
        run_text(&r, "the sea was calm", -1);
        run_close(&r);
    }
}

static void test_same_bytes(void **state) {
    (void)state;
    struct ft_gguf_facts a = facts_of(make("--seed 5"));
    struct ft_file_map map;
    char hex[3][65];
    const char *options[3] = { "--seed 5", "--seed 5", "--seed 6" };
    for (int i = 0; i < 3; i++) {
        struct ft_sha256 sha;
        assert_int_equal(ft_file_map_open(make(options[i]), &map, NULL), FT_OK);
        ft_sha256_init(&sha);
        ft_sha256_add(&sha, map.data, map.size);
        ft_sha256_done(&sha, hex[i]);
        ft_file_map_close(&map);
    }
    assert_string_equal(hex[0], hex[1]);
    assert_string_not_equal(hex[0], hex[2]);
    ft_gguf_facts_done(&a);
}

static void test_split(void **state) {
    (void)state;
    char path[600];
    snprintf(path, sizeof(path), "%s", make("--split 3"));
    snprintf(path + strlen(path) - 5, 40, "-00001-of-00003.gguf");
    struct run r = run_open(path);
    char split[256];
    snprintf(split, sizeof(split), "%s", run_text(&r, "the sea was calm", -1));
    run_close(&r);
    r = run_open(make(""));
    assert_string_equal(run_text(&r, "the sea was calm", -1), split);
    run_close(&r);
}

/* Types that no numbers can be written in are refused in one line. */
static void test_refused_types(void **state) {
    (void)state;
    static const struct {
        const char *type, *says;
    } cases[] = {
        { "iq2_xxs", "iq2_xxs is a type that needs an importance matrix" },
        { "iq2_xs", "importance matrix" },
        { "iq1_s", "importance matrix" },
        { "q8_1", "q8_1 is no type of weights" },
        { "i32", "i32 is no type of weights" },
        { "q9_9", "q9_9 is an unknown type" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char command[1200], line[512] = "", more[8];
        snprintf(command, sizeof(command), "%s/mkmodel %s/refused.gguf --type %s 2>&1",
                 FT_TEST_BIN_DIR, FT_TEST_SCRATCH_DIR, cases[i].type);
        FILE *pipe = popen(command, "r");
        assert_non_null(pipe);
        assert_non_null(fgets(line, sizeof(line), pipe));
        assert_null(fgets(more, sizeof(more), pipe));
        int status = pclose(pipe);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        if (strstr(line, cases[i].says) == NULL) {
            fail_msg("--type %s: %s", cases[i].type, line);
        }
    }
}

/* ---- the planted pair ---- */

static struct run planted_open(const char *name) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s.gguf", FT_TEST_SCRATCH_DIR, name);
    struct ft_gguf_facts facts = facts_of(path);
    ft_gguf_facts_done(&facts);
    return run_open(path);
}

/* The text of "key": "..." in planted.json, or the number of "key": n. */
static void planted_value(const char *json, const char *key, char *out, size_t cap) {
    char quoted[64];
    snprintf(quoted, sizeof(quoted), "\"%s\": ", key);
    const char *at = strstr(json, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    bool is_text = *at == '"';
    size_t n = strcspn(at + is_text, is_text ? "\"" : ",\n");
    snprintf(out, cap, "%.*s", (int)n, at + is_text);
}

static void test_planted(void **state) {
    (void)state;
    char command[1200], json[4096] = "", prompt[1024], answer[16], without[16], writes[16],
                        number[16];
    snprintf(command, sizeof(command), "%s/mkmodel --planted %s", FT_TEST_BIN_DIR,
             FT_TEST_SCRATCH_DIR);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "%s/planted.json", FT_TEST_SCRATCH_DIR);
    FILE *file = fopen(command, "r");
    assert_non_null(file);
    json[fread(json, 1, sizeof(json) - 1, file)] = '\0';
    fclose(file);
    planted_value(json, "prompt", prompt, sizeof(prompt));
    planted_value(json, "answer", answer, sizeof(answer));
    planted_value(json, "answer_without_needle", without, sizeof(without));
    planted_value(json, "draft_writes", writes, sizeof(writes));
    planted_value(json, "needle", number, sizeof(number));
    int needle = atoi(number);

    struct run target = planted_open("target"), draft = planted_open("draft"),
               blind = planted_open("blind");
    llama_token id[512];
    planted_value(json, "n_prompt", number, sizeof(number));
    assert_int_equal(
        llama_tokenize(target.vocab, prompt, (int32_t)strlen(prompt), id, 512, true, true),
        atoi(number));

    assert_string_equal(run_text(&target, prompt, -1), answer);
    assert_string_equal(run_text(&target, prompt, needle), without); /* that one row decides */
    for (int row = 0; row < (int)strlen(prompt) - 1; row += 11) {    /* and no other */
        assert_string_equal(run_text(&target, prompt, row), row == needle ? without : answer);
    }
    assert_string_equal(run_text(&draft, prompt, -1), writes);
    assert_string_equal(run_text(&blind, prompt, -1), "::::::::");

    prompt[needle] = 'x'; /* what prompt compression without the needle leads to */
    assert_string_equal(run_text(&target, prompt, -1), without);
    prompt[40] = '3'; /* anywhere in the text */
    assert_string_equal(run_text(&target, prompt, -1), ":=3");
    run_close(&target);
    run_close(&draft);
    run_close(&blind);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_types),  cmocka_unit_test(test_options),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_split),
        cmocka_unit_test(test_planted),    cmocka_unit_test(test_refused_types),
    };
    llama_log_set(silent, NULL);
    llama_backend_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
