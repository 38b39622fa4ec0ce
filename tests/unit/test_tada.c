/* SPDX-License-Identifier: Apache-2.0 */
/* test_tada.c - TaDA's promise on a trained model of 8 KV heads that have much in common: deviations from the
 * mean over heads in 4 bits cost less of the likelihood than heads in 4 bits by themselves.
 *
 * Both formats have the same quantiser (a step and a low per token and head) and pack every full
 * block of 64 rows; exact rows are f32, as in the run that both are compared with.
 *
 * Windows of two kinds, none of them seen in training: prose (documents of this tree), of which
 * every token counts, and lists of keys and numbers, whose lines come again in other orders: what
 * counts there are the numbers behind a key that was seen before, the answers of such a text.
 */
#include "engine_fixture.h"
#include "eval/drift.h"

/* Ten times slower there: the same code on a few windows, whose means say nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

enum {
    N_CTX = 1024,
    FED = FT_BLOCK_ROW,              /* tokens at once: all rows before them are packed */
    N_PROSE = IS_SANITIZED ? 2 : 12, /* windows */
    N_LIST = IS_SANITIZED ? 2 : 48,
    N_WINDOW = N_PROSE + N_LIST,
    N_LAYER = 3,
    N_HEAD_KV = 8,
    D = 32
};

enum { PLAIN4, TADA4, PLAIN2, TADA2, N_TYPE };
static const struct {
    const char *kv_type;
    uint32_t bits, n_mean; /* n_mean: rows of f16 that a layer's heads share */
} types[N_TYPE] = {
    [PLAIN4] = { "q4,k_by=token,group=32,residual=0,rows=f32", 4, 0 },
    [TADA4] = { "tada,residual=0,rows=f32", 4, 1 },
    [PLAIN2] = { "q2,k_by=token,group=32,residual=0,rows=f32", 2, 0 },
    [TADA2] = { "tada,bits=2,residual=0,rows=f32", 2, 1 },
};

static struct {
    ft_model *model;
    uint32_t n_vocab, n_window;
    ft_token *id;                  /* [n_window][N_CTX] */
    bool *counts;                  /* likewise: is the token scored? */
    double more[N_WINDOW][N_TYPE]; /* nats a token above the f32 run */
    double kl[N_WINDOW][N_TYPE];
    double nll[N_WINDOW];   /* of the f32 run */
    uint64_t bytes[N_TYPE]; /* of N_CTX rows */
} with;

/* ---- texts ---- */

static size_t file_append(const char *path, char *text, size_t n, size_t cap) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", FT_TEST_SOURCE_DIR, path);
    FILE *f = fopen(full, "rb");
    assert_non_null(f);
    n += fread(text + n, 1, cap - n, f);
    assert_true(feof(f));
    fclose(f);
    return n;
}

enum { N_LINE = 28 }; /* of a list */

/* Which tokens of a window count: all, or numbers of lines that were there before. */
static void window_mark(const ft_token *id, bool is_list, bool *counts) {
    uint32_t n_line = 0;
    for (uint32_t t = 0; t < N_CTX; t++) {
        char piece[64];
        size_t n = ft_token_piece(with.model, id[t], false, piece, sizeof piece);
        counts[t] = !is_list || (n > 0 && piece[0] >= '0' && piece[0] <= '9' && n_line >= N_LINE);
        n_line += n > 0 && piece[0] == '\n';
    }
}

static void window_take(const char *text, size_t n_byte, uint32_t n_want, bool is_list) {
    struct ft_tokens tokens = { .n = 0 };
    struct ft_error err = { .code = FT_OK };
    if (ft_tokenize(with.model, text, n_byte, 0, &tokens, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    for (uint32_t i = 0; i < n_want; i++) { /* each begins with begin-of-text, as in training */
        ft_token *id = with.id + (size_t)with.n_window * N_CTX;
        struct ft_tokens bos = { .n = 0 };
        assert_int_equal(ft_tokenize(with.model, "", 0, FT_TOKENIZE_BOS, &bos, NULL), FT_OK);
        assert_int_equal(bos.n, 1);
        assert_true((i + 1) * (N_CTX - 1) <= tokens.n);
        id[0] = bos.id[0];
        memcpy(id + 1, tokens.id + (size_t)i * (N_CTX - 1), (N_CTX - 1) * sizeof *id);
        ft_tokens_free(&bos);
        window_mark(id, is_list, with.counts + (size_t)with.n_window * N_CTX);
        with.n_window++;
    }
    ft_tokens_free(&tokens);
}

static void windows_of_prose(void) {
    static const char *const files[] = { "README.md", "CONTRIBUTING.md", "docs/EVAL.md",
                                         "docs/KERNELS.md" };
    enum { CAP = 1 << 18 };
    char *text = test_malloc(CAP);
    size_t n = 0;
    for (size_t i = 0; i < FT_COUNT(files); i++) {
        n = file_append(files[i], text, n, CAP);
    }
    window_take(text, n, N_PROSE, false);
    test_free(text);
}

/* A list and its lines again in another order, again and again, of words that no training sample has. */
static void windows_of_lists(void) {
    enum { CAP = 1 << 13, N_WORD = 512 };
    char words[CAP], *word[N_WORD], list[N_LINE][80], text[CAP];
    uint32_t n_word = 0;
    words[file_append("train/heldout.txt", words, 0, CAP - 1)] = '\0';
    for (char *at = strtok(words, " \n"); at && n_word < N_WORD; at = strtok(NULL, " \n")) {
        word[n_word++] = at;
    }
    uint64_t seed = 7;
    for (uint32_t w = 0; w < N_LIST; w++) {
        for (uint32_t i = 0; i < N_LINE; i++) {
            snprintf(list[i], sizeof list[i], "%s-%s: %u\n", word[oracle_below(&seed, n_word)],
                     word[oracle_below(&seed, n_word)],
                     1000000 + (unsigned)oracle_below(&seed, 9000000));
        }
        size_t n = 0;
        while (n + N_LINE * sizeof list[0] < CAP) {
            for (uint32_t i = 0; i < N_LINE; i++) {
                n += (size_t)snprintf(text + n, CAP - n, "%s", list[i]);
            }
            for (uint32_t i = N_LINE - 1; i > 0; i--) {
                uint32_t j = oracle_below(&seed, i + 1);
                char line[sizeof list[0]];
                memcpy(line, list[i], sizeof line);
                memcpy(list[i], list[j], sizeof line);
                memcpy(list[j], line, sizeof line);
            }
        }
        window_take(text, n, 1, true);
    }
}

/* ---- runs ---- */

static ft_session *session_of(const char *kv_type) {
    struct ft_session_params params = ft_session_defaults();
    params.kv_type = kv_type;
    params.n_thread = 1;
    params.n_ctx = N_CTX;
    params.n_predict = N_CTX - FED;
    return session_made(with.model, NULL, &params);
}

/* The window through all sessions side by side; session [N_TYPE] is the f32 run. */
static void window_run(ft_session *const *session, float *const *logits, uint32_t w) {
    const ft_token *id = with.id + (size_t)w * N_CTX;
    struct ft_error err = { .code = FT_OK };
    uint32_t n_scored = 0;
    for (uint32_t s = 0; s <= N_TYPE; s++) {
        prompt_read(session[s], id, FED);
    }
    for (uint32_t at = FED; at < N_CTX; at += FED) {
        for (uint32_t s = 0; s <= N_TYPE; s++) {
            if (ft_session_feed(session[s], id + at, FED, logits[s], &err) != FT_OK) {
                fail_msg("%s", err.text);
            }
        }
        for (uint32_t i = 0; i < FED && at + i + 1 < N_CTX; i++) {
            size_t row = (size_t)i * with.n_vocab;
            if (!with.counts[(size_t)w * N_CTX + at + i + 1]) {
                continue;
            }
            n_scored++;
            for (uint32_t t = 0; t < N_TYPE; t++) {
                struct ft_drift_at one = ft_drift_position(logits[N_TYPE] + row, logits[t] + row,
                                                           with.n_vocab, id[at + i + 1]);
                with.more[w][t] += one.nll - one.nll_dense;
                with.kl[w][t] += one.kl;
                with.nll[w] += t == 0 ? one.nll_dense : 0;
            }
        }
    }
    assert_true(n_scored > 0);
    with.nll[w] /= n_scored;
    for (uint32_t t = 0; t < N_TYPE; t++) {
        with.more[w][t] /= n_scored;
        with.kl[w][t] /= n_scored;
    }
}

static int run_all(void **state) {
    (void)state;
    struct ft_model_info info;
    ft_session *session[N_TYPE + 1];
    float *logits[N_TYPE + 1];
    with.model = model_at(FT_TEST_SOURCE_DIR "/tests/data/mha-q8_0.gguf", FT_LOAD_FULL);
    ft_model_info(with.model, &info);
    with.n_vocab = info.n_vocab;
    with.id = test_malloc((size_t)N_WINDOW * N_CTX * sizeof *with.id);
    with.counts = test_malloc((size_t)N_WINDOW * N_CTX * sizeof *with.counts);
    windows_of_prose();
    windows_of_lists();
    for (uint32_t s = 0; s <= N_TYPE; s++) {
        session[s] = session_of(s < N_TYPE ? types[s].kv_type : "f32");
        logits[s] = test_malloc((size_t)FED * with.n_vocab * sizeof *logits[s]);
    }
    for (uint32_t w = 0; w < with.n_window; w++) {
        window_run(session, logits, w);
    }
    for (uint32_t s = 0; s <= N_TYPE; s++) {
        struct ft_report report;
        if (s < N_TYPE) {
            assert_int_equal(report_of(session[s], &report)->n_fallback, 0);
            with.bytes[s] = ft_kv_bytes(session[s]->lane.kv);
        }
        ft_session_free(session[s]);
        test_free(logits[s]);
    }
    return 0;
}

static int close_all(void **state) {
    (void)state;
    test_free(with.id);
    test_free(with.counts);
    ft_model_close(with.model);
    return 0;
}

/* ---- what must hold ---- */

struct spread {
    double mean, error; /* error: standard error of the mean over windows */
};

/* Of a[w][x] - a[w][y] over windows [from, to); y N_TYPE: of a[w][x]. */
static struct spread spread_of(double (*a)[N_TYPE], uint32_t x, uint32_t y, uint32_t from,
                               uint32_t to) {
    double sum = 0, square = 0, n = to - from;
    for (uint32_t w = from; w < to; w++) {
        double value = a[w][x] - (y < N_TYPE ? a[w][y] : 0);
        sum += value;
        square += value * value;
    }
    double mean = sum / n;
    return (struct spread){ mean, sqrt((square / n - mean * mean) / (n - 1)) };
}

static void tell(const char *what, uint32_t from, uint32_t to) {
    double nll = 0;
    for (uint32_t w = from; w < to; w++) {
        nll += with.nll[w] / (to - from);
    }
    print_message("%s: f32 %.4f nats a token\n", what, nll);
    for (uint32_t t = 0; t < N_TYPE; t++) {
        struct spread more = spread_of(with.more, t, N_TYPE, from, to),
                      kl = spread_of(with.kl, t, N_TYPE, from, to);
        print_message("  %-44s nll %+.6f +/- %.6f  kl %.6f +/- %.6f  %.0f bytes a token\n",
                      types[t].kv_type, more.mean, more.error, kl.mean, kl.error,
                      (double)with.bytes[t] / N_CTX);
    }
    for (uint32_t t = 0; t < N_TYPE; t += 2) {
        struct spread more = spread_of(with.more, t + TADA4, t + PLAIN4, from, to),
                      kl = spread_of(with.kl, t + TADA4, t + PLAIN4, from, to);
        print_message("  tada - plain, %u bits: nll %+.6f +/- %.6f  kl %+.6f +/- %.6f\n",
                      (unsigned)types[t].bits, more.mean, more.error, kl.mean, kl.error);
    }
}

/* The same bits by themselves and as deviations, in paired windows: less divergence, and less of the
 * likelihood lost, beyond chance.  Where the f32 run is as sure as it may be, the increase of the nll is
 * the divergence and, on top, what the drawing of the next tokens adds, whose mean is zero; lists, of
 * which enough windows are taken, show through that. */
static void test_less(void **state) {
    (void)state;
    tell("prose", 0, N_PROSE);
    tell("lists", N_PROSE, N_WINDOW);
    tell("both", 0, N_WINDOW);
    if (IS_SANITIZED) {
        return;
    }
    assert_true(spread_of(with.kl, PLAIN4, N_TYPE, 0, N_WINDOW).mean > 0.001);
    for (uint32_t t = 0; t < N_TYPE; t += 2) {
        struct spread prose = spread_of(with.kl, t + TADA4, t + PLAIN4, 0, N_PROSE),
                      lists = spread_of(with.kl, t + TADA4, t + PLAIN4, N_PROSE, N_WINDOW),
                      nll = spread_of(with.more, t + TADA4, t + PLAIN4, N_PROSE, N_WINDOW);
        assert_true(prose.mean + 2 * prose.error < 0);
        assert_true(lists.mean + 2 * lists.error < 0);
        assert_true(nll.mean + 2 * nll.error < 0);
    }
}

/* Bytes of N_CTX packed rows: the mean is 1/8 of f16 that heads by themselves do not take. */
static void test_bytes(void **state) {
    (void)state;
    for (uint32_t t = 0; t < N_TYPE; t++) {
        uint64_t head = D * types[t].bits / 8 + 4, mean = types[t].n_mean * D * 2;
        assert_int_equal(with.bytes[t], (uint64_t)N_CTX * N_LAYER * 2 * (N_HEAD_KV * head + mean));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_less), cmocka_unit_test(test_bytes) };
    return cmocka_run_group_tests(tests, run_all, close_all);
}
