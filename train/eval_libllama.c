/* SPDX-License-Identifier: Apache-2.0 */
/* Greedy answers through libllama itself: the accuracy of a model without any of foretoken's code.
 *
 *   eval_libllama MODEL CONTEXT THREADS < requests > answers
 *
 * request: "LIMIT BYTES\n" and BYTES bytes of prompt.
 * answer:  "PROMPT_TOKENS TOKENS BYTES\n" and BYTES bytes of text.
 * Generation ends at LIMIT tokens or at an end-of-generation token, which TOKENS counts and the
 * text does not hold.
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 512, TEXT = 1 << 16 };

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static int fail(const char *what, const char *name) {
    fprintf(stderr, "eval_libllama: %s %s\n", what, name);
    return 1;
}

/* The whole prompt, BATCH tokens at a time; false if libllama refuses. */
static int prefill(struct llama_context *ctx, llama_token *ids, int n) {
    for (int i = 0; i < n; i += BATCH) {
        int m = n - i < BATCH ? n - i : BATCH;
        if (llama_decode(ctx, llama_batch_get_one(ids + i, m)) != 0)
            return 0;
    }
    return 1;
}

static llama_token best(const float *logits, int n) {
    llama_token top = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[top])
            top = i;
    return top;
}

/* Appends the answer to text (TEXT bytes); returns its length in tokens, or -1. */
static int generate(struct llama_context *ctx, const struct llama_vocab *vocab, int limit,
                    char *text, int *bytes) {
    int n = 0;
    *bytes = 0;
    while (n < limit) {
        llama_token t = best(llama_get_logits_ith(ctx, -1), llama_vocab_n_tokens(vocab));
        n++;
        if (llama_vocab_is_eog(vocab, t))
            break;
        int len = llama_token_to_piece(vocab, t, text + *bytes, TEXT - *bytes, 0, false);
        if (len < 0)
            return -1;
        *bytes += len;
        if (n < limit && llama_decode(ctx, llama_batch_get_one(&t, 1)) != 0)
            return -1;
    }
    return n;
}

/* One request of stdin; 0 at its end, -1 on an error. */
static int serve(struct llama_context *ctx, const struct llama_vocab *vocab) {
    static char answer[TEXT];
    int limit, size, bytes, ok = -1;
    if (scanf("%d %d", &limit, &size) != 2)
        return 0;
    if (size < 0 || getchar() != '\n')
        return -1;
    char *text = malloc((size_t) size + 1);
    llama_token *ids = malloc(sizeof *ids * ((size_t) size + 8));
    if (text && ids && fread(text, 1, (size_t) size, stdin) == (size_t) size) {
        int n = llama_tokenize(vocab, text, size, ids, size + 8, true, false);
        llama_memory_clear(llama_get_memory(ctx), true);
        if (n > 0 && prefill(ctx, ids, n)) {
            int made = generate(ctx, vocab, limit, answer, &bytes);
            if (made >= 0) {
                printf("%d %d %d\n", n, made, bytes);
                fwrite(answer, 1, (size_t) bytes, stdout);
                fflush(stdout);
                ok = 1;
            }
        }
    }
    free(text);
    free(ids);
    return ok;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return fail("usage:", "eval_libllama MODEL CONTEXT THREADS");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model)
        return fail("cannot load", argv[1]);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t) strtoul(argv[2], NULL, 10);
    p.n_batch = p.n_ubatch = BATCH;
    p.n_threads = p.n_threads_batch = (int32_t) strtol(argv[3], NULL, 10);
    struct llama_context *ctx = llama_init_from_model(model, p);
    if (!ctx)
        return fail("no context for", argv[1]);
    int r;
    while ((r = serve(ctx, llama_model_get_vocab(model))) > 0)
        continue;
    llama_free(ctx);
    llama_model_free(model);
    return r < 0 ? fail("bad request or failed run of", argv[1]) : 0;
}
