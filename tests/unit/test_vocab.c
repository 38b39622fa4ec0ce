/* SPDX-License-Identifier: Apache-2.0 */
/* test_vocab.c - tokens, pieces, chat templates and pairs; hostile text in bounded time. */
#include "text_fixture.h"

#include <llama.h>

#include "model/vocab.h"

/* ---- round trips ---- */

static void test_round_trip(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "a",
        " ",
        "Hello, world.",
        "  two  spaces\n\n\tand tabs \r\n",
        "0123456789 3.14159 1,000,000",
        "na\xC3\xAFve caf\xC3\xA9 \xE2\x80\x94 \xE2\x80\x9Cquoted\xE2\x80\x9D",
        "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82\xE4\xBD\xA0\xE5\xA5\xBD",
        "\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 emoji",
        "'s 't 'll DON'T",
        "<|reserved_4|> is text here",
        "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xE0\xA4\xB9\xE0\xA4\xBF",
        "a\xC2\xA0"
        "b\xE3\x80\x80"
        "c",
    };
    ft_model *model = text_model();
    for (size_t i = 0; i < FT_COUNT(texts); i++) {
        struct ft_tokens tokens = text_tokens(model, texts[i], strlen(texts[i]), 0);
        size_t n;
        char *back = text_pieces(model, tokens.id, tokens.n, false, &n);
        assert_int_equal(n, strlen(texts[i]));
        assert_string_equal(back, texts[i]);
        free(back);
        ft_tokens_free(&tokens);
    }
    ft_model_close(model);
}

static void test_bos(void **state) {
    (void)state;
    ft_model *model = text_model();
    ft_token bos = ft_model_bos(model);
    char bos_text[64], twice[256];
    assert_true(bos >= 0);
    size_t n = ft_token_piece(model, bos, true, bos_text, sizeof(bos_text) - 1);
    bos_text[n] = '\0';
    struct ft_tokens plain = text_tokens(model, "one two", 7, 0);
    struct ft_tokens with = text_tokens(model, "one two", 7, FT_TOKENIZE_BOS);
    assert_int_equal(with.n, plain.n + 1);
    assert_int_equal(with.id[0], bos);
    assert_memory_equal(with.id + 1, plain.id, plain.n * sizeof(ft_token));
    ft_tokens_free(&plain);

    /* text that brings its own BOS, as a rendered template may, gets no second one */
    n = (size_t)snprintf(twice, sizeof(twice), "%sone two", bos_text);
    struct ft_tokens own = text_tokens(model, twice, n, FT_TOKENIZE_BOS | FT_TOKENIZE_SPECIAL);
    assert_int_equal(own.n, with.n);
    assert_memory_equal(own.id, with.id, with.n * sizeof(ft_token));
    ft_tokens_free(&own);
    /* but two that are written are two */
    n = (size_t)snprintf(twice, sizeof(twice), "%s%sone two", bos_text, bos_text);
    own = text_tokens(model, twice, n, FT_TOKENIZE_BOS | FT_TOKENIZE_SPECIAL);
    assert_int_equal(own.n, with.n + 1);
    assert_int_equal(own.id[1], bos);
    ft_tokens_free(&own);
    /* without FT_TOKENIZE_SPECIAL it is text */
    own = text_tokens(model, bos_text, strlen(bos_text), 0);
    assert_true(own.n > 1 && own.id[0] != bos);
    ft_tokens_free(&own);

    struct ft_tokens empty = text_tokens(model, "", 0, FT_TOKENIZE_BOS);
    assert_int_equal(empty.n, 1);
    assert_int_equal(empty.id[0], bos);
    ft_tokens_free(&empty);
    assert_null(empty.id);
    ft_tokens_free(&with);
    ft_tokens_free(NULL);
    ft_model_close(model);

    model = text_model_edited(
        "ends", "bool tokenizer.ggml.add_eos_token 1; bool tokenizer.ggml.add_bos_token 0");
    empty = text_tokens(model, "x", 1, FT_TOKENIZE_BOS);
    assert_int_equal(empty.n,
                     1); /* a model that adds EOS and no BOS: nothing in front, nothing behind */
    ft_tokens_free(&empty);
    ft_model_close(model);
}

static void test_bad_text(void **state) {
    (void)state;
    struct ft_error err;
    struct ft_tokens tokens = { .n = 77 };
    ft_model *model = text_model();
    static const char broken[] = "fine \xC3(";
    assert_int_equal(ft_tokenize(model, broken, sizeof(broken) - 1, 0, &tokens, &err), FT_FORMAT);
    assert_int_equal(err.where, 5);
    assert_int_equal(ft_tokenize(model, "\xED\xA0\x80", 3, 0, &tokens, &err), FT_FORMAT);
    assert_int_equal(ft_tokenize(model, "x", (size_t)INT32_MAX + 1, 0, &tokens, &err), FT_LIMIT);
    assert_int_equal(ft_tokenize(model, "x", SIZE_MAX, 0, &tokens, &err), FT_LIMIT);
    assert_int_equal(tokens.n, 77); /* untouched */
    struct ft_tokens zero = text_tokens(model, "a\0b", 3, 0);
    assert_int_equal(zero.n, 3);
    ft_tokens_free(&zero);
    ft_model_close(model);
}

static void test_out_of_memory(void **state) {
    (void)state;
    ft_model *model = text_model();
    char *text = malloc(5001);
    assert_non_null(text);
    memset(text, 'x', 5000);
    uint32_t n_failed = 0;
    for (uint64_t n = 1; n < 20; n++) {
        struct ft_tokens tokens = { .n = 0 };
        ft_alloc_fail_after(n, false);
        ft_status status = ft_tokenize(model, text, 5000, FT_TOKENIZE_BOS, &tokens, NULL);
        ft_alloc_fail_after(0, false);
        if (status == FT_OK) {
            ft_tokens_free(&tokens);
            break;
        }
        assert_int_equal(status, FT_NOMEM);
        n_failed++;
    }
    assert_true(n_failed >= 3 && n_failed < 19);
    free(text);
    ft_model_close(model);
}

/* ---- hostile text ---- */

/* 20 s: a slow, busy machine; what this guards against takes minutes or overflows the stack. */
static void expect_fast(int64_t start_us, const char *what, const char *unit) {
    int64_t us = ft_time_us() - start_us;
    if (us > 20 * INT64_C(1000000)) {
        fail_msg("%s of '%s' took %lld ms", what, unit, (long long)(us / 1000));
    }
}

static char *repeated(const char *unit, size_t n_byte, size_t *n) {
    size_t n_unit = strlen(unit);
    char *text = malloc(n_byte + 1);
    assert_non_null(text);
    for (*n = 0; *n + n_unit <= n_byte; *n += n_unit) {
        memcpy(text + *n, unit, n_unit);
    }
    text[*n] = '\0';
    return text;
}

/* One character a million times: no overflow, bounded time, and nothing is lost. */
static void test_long_runs(void **state) {
    (void)state;
    static const char *const units[] = {
        "a", "A", " ", "7", "!", "\n", "\xF0\x9F\x98\x80", "\xE4\xB8\xAD", "\xCC\x81"
    };
    static const char *const pres[] = { "llama-bpe",   "qwen2",  "smollm", "default",
                                        "deepseek-v3", "tekken", "gpt-4o" };
    for (size_t p = 0; p < FT_COUNT(pres); p++) {
        char command[128];
        snprintf(command, sizeof(command), "str tokenizer.ggml.pre %s", pres[p]);
        ft_model *model = text_model_edited("runs", command);
        for (size_t u = 0; u < FT_COUNT(units); u++) {
            size_t n, n_back;
            char *text = repeated(units[u], p == 0 ? 1 << 20 : 1 << 17, &n);
            int64_t start = ft_time_us();
            struct ft_tokens tokens = text_tokens(model, text, n, 0);
            expect_fast(start, pres[p], units[u]);
            char *back = text_pieces(model, tokens.id, tokens.n, false, &n_back);
            assert_int_equal(n_back, n);
            assert_memory_equal(back, text, n);
            free(back);
            free(text);
            ft_tokens_free(&tokens);
        }
        ft_model_close(model);
    }
}

/* libllama's list of fragments is quadratic: 1 MiB in one call takes 15 s, 4 MiB four minutes. */
static void test_many_specials(void **state) {
    (void)state;
    ft_model *model = text_model();
    size_t n;
    char *text = repeated("<|reserved_4|>", 4 << 20, &n);
    int64_t start = ft_time_us();
    struct ft_tokens tokens = text_tokens(model, text, n, FT_TOKENIZE_SPECIAL);
    expect_fast(start, "4 MiB", "special");
    assert_int_equal(tokens.n, n / 14);
    for (uint32_t t = 0; t < tokens.n; t++) {
        assert_int_equal(tokens.id[t], tokens.id[0]);
    }
    ft_tokens_free(&tokens);
    free(text);
    ft_model_close(model);
}

/* SentencePiece: the same as in one call, and a run of unknown characters (quadratic there). */
static void test_spm(void **state) {
    (void)state;
    ft_model *model = text_model_spm();
    const struct llama_vocab *vocab = llama_model_get_vocab(ft_model_vocab_llama(model));
    size_t n;
    char *text = repeated("ab <|reserved_4|>  \xE4\xB8\xAD", 200000, &n);
    struct ft_tokens tokens = text_tokens(model, text, n, FT_TOKENIZE_SPECIAL);
    ft_token *want = malloc(4 * n * sizeof(*want));
    assert_non_null(want);
    int32_t n_want = llama_tokenize(vocab, text, (int32_t)n, want, (int32_t)(4 * n), false, true);
    assert_int_equal(tokens.n, n_want);
    assert_memory_equal(tokens.id, want, tokens.n * sizeof(*want));
    ft_tokens_free(&tokens);
    free(text);
    text = repeated("\xF0\x9F\x98\x80", 1 << 18, &n);
    int64_t start = ft_time_us();
    tokens = text_tokens(model, text, n, 0);
    expect_fast(start, "SentencePiece", "emoji");
    assert_int_equal(tokens.n,
                     n + 1); /* a byte token each, and the blank that SentencePiece adds */
    ft_tokens_free(&tokens);
    free(want);
    free(text);
    ft_model_close(model);
}

/* ---- single tokens ---- */

static void test_pieces(void **state) {
    (void)state;
    ft_model *model = text_model();
    struct ft_model_info info;
    ft_model_info(model, &info);
    char buf[64];
    static const ft_token bad[] = { -1, INT32_MIN, INT32_MAX };
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        assert_int_equal(ft_token_piece(model, bad[i], true, buf, sizeof(buf)), 0);
        assert_false(ft_token_is_end(model, bad[i]));
    }
    assert_int_equal(ft_token_piece(model, (ft_token)info.n_vocab, true, buf, sizeof(buf)), 0);
    assert_false(ft_token_is_end(model, (ft_token)info.n_vocab));
    ft_token bos = ft_model_bos(model);
    assert_int_equal(ft_token_piece(model, bos, false, buf, sizeof(buf)), 0);
    size_t n = ft_token_piece(model, bos, true, buf, sizeof(buf));
    assert_true(n > 3);
    memset(buf, 'x', sizeof(buf));
    assert_int_equal(ft_token_piece(model, bos, true, buf, n - 1), n);
    for (size_t i = 0; i < sizeof(buf); i++) {
        assert_int_equal(buf[i], 'x');
    }
    assert_int_equal(ft_token_piece(model, bos, true, buf, n), n);
    assert_int_equal(buf[n], 'x');
    assert_true(ft_token_is_end(
        model, llama_vocab_eos(llama_model_get_vocab(ft_model_vocab_llama(model)))));
    assert_false(ft_token_is_end(model, 65));
    ft_model_close(model);
}

/* ---- chat ---- */

static void expect_chat(const ft_model *model, const char *system, const char *user,
                        const char *want, const char *head) {
    struct ft_error err = { .code = FT_OK };
    char *text = NULL;
    size_t n_head = 999;
    if (ft_chat_render(model, system, user, &text, &n_head, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(text, want);
    assert_int_equal(n_head, strlen(head));
    assert_memory_equal(text, head, n_head);
    ft_text_free(text);
}

#define CHATML "{% for m in messages %}{{'<|im_start|>' + m['role']}}{% endfor %}"

static void test_chat(void **state) {
    (void)state;
    ft_model *model = text_model_edited("chatml", "str tokenizer.chat_template " CHATML);
    expect_chat(model, NULL, "Hi", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>user\n");
    expect_chat(model, "", "Hi", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>user\n");
    expect_chat(model, NULL, "", "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>user\n");
    /* the user's text also stands in the system text, and so does what marks the place inside */
    expect_chat(model, "Say Hi. x00000000Q x00000001Q", "Hi",
                "<|im_start|>system\nSay Hi. x00000000Q "
                "x00000001Q<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\nSay Hi. x00000000Q x00000001Q<|im_end|>\n<|im_start|>user\n");
    expect_chat(model, "user\n", "user\n",
                "<|im_start|>system\nuser\n<|im_end|>\n<|im_start|>user\nuser\n<|im_end|>\n<|im_"
                "start|>assistant\n",
                "<|im_start|>system\nuser\n<|im_end|>\n<|im_start|>user\n");
    struct ft_error err;
    char *text = NULL;
    assert_int_equal(ft_chat_render(model, NULL, "\xFF", &text, NULL, &err), FT_FORMAT);
    assert_int_equal(ft_chat_render(model, "a\xC3", "x", &text, NULL, &err), FT_FORMAT);
    assert_non_null(strstr(err.text, "system"));
    assert_null(text);
    /* long text: the terminator always fits */
    size_t n;
    char *user = repeated("word ", 100000, &n);
    assert_int_equal(ft_chat_render(model, "s", user, &text, NULL, &err), FT_OK);
    assert_int_equal(strlen(text),
                     n + strlen("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
                                "<|im_start|>assistant\n"));
    ft_text_free(text);
    ft_text_free(NULL);
    free(user);
    ft_model_close(model);
}

static void test_chat_other(void **state) {
    (void)state;
    /* llama-2 style: the user's text is trimmed, the system text sits inside the same turn */
    ft_model *model =
        text_model_edited("inst", "str tokenizer.chat_template [INST] <<SYS>> content.strip()");
    expect_chat(model, "S", "  Hi ", "[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST]",
                "[INST] <<SYS>>\nS\n<</SYS>>\n\n");
    ft_model_close(model);
    struct ft_error err;
    char *text = NULL;
    model = text_model_edited("unknown", "str tokenizer.chat_template {{ messages }}");
    assert_int_equal(ft_chat_render(model, NULL, "x", &text, NULL, &err), FT_UNSUP);
    assert_non_null(strstr(err.text, "tokenizer.chat_template"));
    ft_model_close(model);
    model = text_model();
    struct ft_model_info info;
    ft_model_info(model, &info);
    if (!info.has_chat_template) {
        assert_int_equal(ft_chat_render(model, NULL, "x", &text, NULL, &err), FT_UNSUP);
        assert_non_null(strstr(err.text, "tokenizer.chat_template"));
    }
    ft_model_close(model);
}

/* A template that writes BOS itself does not lead to two. */
static void test_chat_bos(void **state) {
    (void)state;
    ft_model *model =
        text_model_edited("seed", "str tokenizer.chat_template <seed:bos>; token 4080 <seed:bos>");
    struct ft_error err;
    char *text = NULL;
    size_t n_head;
    assert_int_equal(ft_chat_render(model, NULL, "Hi", &text, &n_head, &err), FT_OK);
    assert_int_equal(strncmp(text, "<seed:bos>", 10), 0);
    struct ft_tokens tokens =
        text_tokens(model, text, strlen(text), FT_TOKENIZE_BOS | FT_TOKENIZE_SPECIAL);
    assert_int_equal(tokens.id[0], 4080);
    assert_int_not_equal(tokens.id[1], 4080);
    ft_tokens_free(&tokens);
    ft_text_free(text);
    ft_model_close(model);
}

/* ---- pairs ---- */

static void expect_mismatch(const ft_model *a, const ft_model *b, uint64_t where, const char *first,
                            const char *second) {
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_vocab_compare(a, b, &err), FT_MISMATCH);
    assert_int_equal(err.where, where);
    if (strstr(err.text, first) == NULL || strstr(err.text, second) == NULL) {
        fail_msg("'%s' lacks '%s' or '%s'", err.text, first, second);
    }
}

static void test_compare(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    ft_model *a = text_model();
    assert_int_equal(ft_vocab_compare(a, a, &err), FT_OK);
    ft_model *b = text_model_edited("b", "token 300 \xE4\xB8\xAD"
                                         "changed; token 900 later");
    expect_mismatch(a, b, 300, "token 300",
                    "'\xE4\xB8\xAD"
                    "changed'");
    expect_mismatch(b, a, 300,
                    "target has '\xE4\xB8\xAD"
                    "changed'",
                    "draft has '");
    ft_model_close(b);
    /* a padded tail: unused tokens with other names, or named [PADn] */
    b = text_model_edited("padded",
                          "token 4094 spare1; toktype 4094 5; token 4095 spare2; toktype 4095 5");
    ft_model *c = text_model_edited("padded2", "token 4094 [PAD4094]; token 4095 [PAD4095]");
    assert_int_equal(ft_model_hparams(b)->n_vocab_real, 4094);
    assert_int_equal(ft_model_hparams(c)->n_vocab_real, 4094);
    assert_int_equal(ft_vocab_compare(b, c, &err), FT_OK);
    expect_mismatch(a, b, 4094, "reserved", "spare1"); /* a real token against padding */
    ft_model_close(c);
    ft_model_close(b);
    b = text_model_edited("bos", "u32 tokenizer.ggml.bos_token_id 4083");
    expect_mismatch(a, b, 4080, "4080 as BOS", "4083");
    ft_model_close(b);
    b = text_model_edited("long", "token 301 012345678901234567890123456789012345678\xC3\xA9xyz");
    expect_mismatch(a, b, 301, "'012345678901234567890123456789012345678'", "token 301");
    ft_model_close(b);
    ft_model_close(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bos),
        cmocka_unit_test(test_bad_text),   cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_long_runs),  cmocka_unit_test(test_many_specials),
        cmocka_unit_test(test_spm),        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_chat),       cmocka_unit_test(test_chat_other),
        cmocka_unit_test(test_chat_bos),   cmocka_unit_test(test_compare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
