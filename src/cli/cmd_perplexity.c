/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_perplexity.c - perplexity of a text, in llama.cpp's words. */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>

#include "cli/cli.h"
#include "eval/eval.h"

static void running(uint32_t chunk, uint32_t n_chunk, double ppl, void *user) {
    const struct ft_conf *conf = user;
    if (!conf->is_json) {
        ft_out("[%u]%.4f%s", chunk, ppl, chunk < n_chunk ? "," : "\n");
        ft_out_flush();
    }
}

static void print_json(const struct ft_setup *setup, const struct ft_ppl *ppl) {
    json_t *root = json_object(), *models = json_object(), *method = json_object();
    json_object_set_new(models, "target", ft_json_model(setup->target));
    json_object_set_new(models, "draft", setup->draft ? ft_json_model(setup->draft) : json_null());
    json_object_set_new(method, "kv", ft_json_method(&ppl->report, "kv"));
    json_object_set_new(root, "ppl", json_real(ppl->ppl));
    json_object_set_new(root, "error", json_real(ppl->error));
    json_object_set_new(root, "nll", json_real(ppl->nll));
    json_object_set_new(root, "n_ctx", json_integer(setup->conf->n_ctx));
    json_object_set_new(root, "chunks", json_integer(ppl->n_chunk));
    json_object_set_new(root, "scored_tokens", json_integer((json_int_t)ppl->n_scored));
    json_object_set_new(root, "kv_bytes", json_integer((json_int_t)ppl->report.kv_bytes));
    json_object_set_new(root, "fallbacks", ft_json_fallbacks(&ppl->report));
    json_object_set_new(root, "method", method);
    json_object_set_new(root, "models", models);
    json_object_set_new(root, "kernels", ft_json_kernels(&ppl->report));
    json_object_set_new(root, "version", ft_json_text(ft_version()));
    ft_json_print(root);
}

static void print_text(const struct ft_ppl *ppl) {
    ft_out("Final estimate: PPL = %.4f +/- %.5f\n", ppl->ppl, ppl->error);
    for (uint32_t i = 0; i < ppl->report.n_fallback && i < FT_FALLBACK_CAP; i++) {
        ft_note("fallback  %s", ppl->report.fallback[i]);
    }
}

static int run(struct ft_setup *setup, const struct ft_tokens *tokens) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_tokens bos = { 0 };
    struct ft_ppl ppl = { 0 };
    struct ft_ppl_params params = { .model = setup->target,
                                    .draft = setup->draft,
                                    .session = &setup->params,
                                    .id = tokens->id,
                                    .n_id = tokens->n,
                                    .n_ctx = conf->n_ctx,
                                    .n_chunk_max = conf->n_chunk,
                                    .guard = ft_ui_guard,
                                    .running = running,
                                    .user = (void *)(uintptr_t)conf };
    ft_status status = ft_tokenize(setup->target, "", 0, FT_TOKENIZE_BOS, &bos, &error);
    if (status == FT_OK) {
        params.has_bos = bos.n > 0;
        params.bos = bos.n > 0 ? bos.id[0] : 0;
        ft_tokens_free(&bos);
        status = ft_ppl_run(&params, &ppl, &error);
    }
    ft_progress_clear(&setup->progress);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (conf->is_json) {
        print_json(setup, &ppl);
    } else {
        print_text(&ppl);
    }
    return FT_EXIT_OK;
}

int ft_cmd_perplexity(const struct ft_conf *conf) {
    struct ft_setup setup = { 0 };
    struct ft_chunks chunks = { .text = NULL };
    int code = ft_setup_init(&setup, conf);
    if (isatty(STDOUT_FILENO)) {
        setup.progress.is_bar = false; /* the running estimate is there already */
    }
    if (code == FT_EXIT_OK) {
        code = ft_chunks_open(&setup, 2, &chunks);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_load(&setup);
    }
    if (code == FT_EXIT_OK) {
        code = run(&setup, &chunks.tokens);
    }
    ft_chunks_done(&chunks);
    ft_setup_done(&setup);
    return code;
}
