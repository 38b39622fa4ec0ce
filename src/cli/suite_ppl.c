/* SPDX-License-Identifier: Apache-2.0 */
/* suite_ppl.c - `foretoken eval ppl`: what a method does to the next-token distribution on a text.
 *
 * Sample i is chunk i of the text, as `foretoken perplexity` cuts it.
 */
#include <math.h>
#include <stdlib.h>

#include "cli/suites.h"
#include "eval/drift.h"

struct ppl {
    char *text;
    struct ft_tokens tokens; /* with what the model adds in front */
    ft_token *chunk;         /* [longest ctx] */
    bool has_bos;
    ft_token bos; /* takes the place of every chunk's first token, as in perplexity */
    struct ft_cell cell[FT_COUNTS_CAP];
};

static int check(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    if (conf->n_arg > 1) {
        return ft_complain(FT_EXIT_USAGE, "eval ppl: unexpected argument \"%.100s\"", conf->arg[1]);
    }
    if (!conf->file) {
        return ft_complain(FT_EXIT_USAGE, "eval ppl: on which text? -f FILE is needed");
    }
    return FT_EXIT_OK;
}

static void describe(const struct ft_eval *eval, json_t *manifest, json_t *files) {
    const struct ppl *ppl = eval->own;
    json_object_set_new(manifest, "text", ft_json_digest(ppl->text));
    json_object_set_new(files, "text", ft_json_text(ft_file_name(eval->setup.conf->file)));
}

/* ---- samples ---- */

static ft_status measure(const struct ft_suite_params *params, const struct ft_bench_case *method,
                         const struct ft_cell *cell, const struct ft_record_key *key, json_t **row,
                         struct ft_error *error) {
    struct ppl *ppl = params->suite.user;
    struct ft_session_params session = *params->session;
    session.prompt = method->prompt;
    session.kv = method->kv;
    session.kv_type = ft_case_kv_type(method, params->session);
    const struct ft_drift_params drift = { .target = params->target,
                                           .draft = params->draft,
                                           .session = &session,
                                           .id = ppl->chunk,
                                           .n_ctx = cell->ctx,
                                           .guard = params->guard };
    struct ft_drift out;
    for (uint32_t t = 0; t < cell->ctx; t++) {
        ppl->chunk[t] = ppl->tokens.id[(size_t)key->index * cell->ctx + t];
    }
    ppl->chunk[0] = ppl->has_bos ? ppl->bos : ppl->chunk[0];
    FT_TRY(ft_drift_run(&drift, &out, error));
    *row = ft_row_new(cell, key, session.kv_type, &out.report);
    json_object_set_new(*row, "score", json_real(100 * out.agreement));
    json_object_set_new(*row, "nll", json_real(out.nll));
    json_object_set_new(*row, "nll_dense", json_real(out.nll_dense));
    json_object_set_new(*row, "nll_difference", json_real(out.nll - out.nll_dense));
    json_object_set_new(*row, "kl", json_real(out.kl));
    json_object_set_new(*row, "kl_p99", json_real(out.kl_p99));
    json_object_set_new(*row, "agreement", json_real(100 * out.agreement));
    json_object_set_new(*row, "scored_tokens", json_integer(out.n_scored));
    return FT_OK;
}

/* -> the longest chunk, or 0 after a complaint */
static uint32_t add_cells(struct ft_eval *eval) {
    const struct ft_conf *conf = eval->setup.conf;
    struct ppl *ppl = eval->own;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < conf->ctx.n; i++) {
        uint32_t ctx = conf->ctx.value[i];
        uint64_t need = (uint64_t)ctx * conf->n_sample;
        if (ctx > ppl->tokens.n) {
            ft_complain(FT_EXIT_FAILED, "%.100s has %u tokens, a sample of --ctx %u takes more",
                        conf->file, ppl->tokens.n, ctx);
            return 0;
        }
        if (need > ppl->tokens.n) {
            ft_complain(FT_EXIT_FAILED,
                        "%.100s has %u tokens; %u samples of %u need %llu (--samples %u at most)",
                        conf->file, ppl->tokens.n, conf->n_sample, ctx, (unsigned long long)need,
                        ppl->tokens.n / ctx);
            return 0;
        }
        ppl->cell[eval->n_cell++] = (struct ft_cell){
            .name = "ppl", .data = "given text", .ctx = ctx, .n_sample = conf->n_sample
        };
        longest = FT_MAX(longest, ctx);
    }
    return longest;
}

static int open_ppl(struct ft_eval *eval) {
    struct ft_error error = { 0 };
    struct ft_tokens bos = { 0 };
    struct ppl *ppl = eval->own = ft_alloc(1, sizeof *ppl);
    size_t n;
    if (!ppl) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory");
    }
    int code = ft_read_document(eval->setup.conf->file, &ppl->text, &n);
    if (code != FT_EXIT_OK) {
        return code;
    }
    if (ft_tokenize(eval->setup.target, ppl->text, n, FT_TOKENIZE_BOS, &ppl->tokens, &error) !=
            FT_OK ||
        ft_tokenize(eval->setup.target, "", 0, FT_TOKENIZE_BOS, &bos, &error) != FT_OK) {
        return ft_complain_error(eval->setup.conf->file, &error);
    }
    ppl->has_bos = bos.n > 0;
    ppl->bos = bos.n > 0 ? bos.id[0] : 0;
    ft_tokens_free(&bos);
    uint32_t longest = add_cells(eval);
    if (longest == 0) {
        return FT_EXIT_FAILED;
    }
    ppl->chunk = ft_alloc(longest, sizeof *ppl->chunk);
    if (!ppl->chunk) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for %u tokens", longest);
    }
    eval->setup.params.n_predict = longest - longest / 2;
    eval->cell = ppl->cell;
    eval->ask = (struct ft_suite){ .user = ppl, .measure = measure };
    return FT_EXIT_OK;
}

static void close_ppl(struct ft_eval *eval) {
    struct ppl *ppl = eval->own;
    if (ppl) {
        ft_tokens_free(&ppl->tokens);
        ft_free(ppl->chunk);
        free(ppl->text);
        ft_free(ppl);
    }
}

/* ---- what is printed ---- */

enum { NLL, NLL_DENSE, KL, KL_P99, KEPT, KEPT_ROWS, KV_BYTES, COLUMNS };
static const char *const column[COLUMNS] = { "nll",         "nll_dense", "kl",      "kl_p99",
                                             "kept_tokens", "kept_rows", "kv_bytes" };

struct row {    /* of a cell */
    uint32_t n; /* samples; 0: the rest says nothing */
    struct ft_interval agreement;
    double mean[COLUMNS];
    const char *fallback; /* the first one said */
    uint32_t n_fallback;
};

/* value [n_sample] is room to work in. */
static struct row row_of(const struct ft_eval *eval, const struct ft_cell *cell, const char *method,
                         double *value) {
    struct row row = { .n = 0 };
    struct ft_record_key key = { .task = cell->name, .method = method, .ctx = cell->ctx };
    for (; key.index < cell->n_sample; key.index++) {
        const json_t *found = ft_record_find(eval->record, &key);
        const json_t *said = json_array_get(json_object_get(found, "fallbacks"), 0);
        if (!found || !ft_shard_has(&eval->shard, (uint32_t)(cell - eval->cell), key.index)) {
            continue;
        }
        value[row.n++] = json_number_value(json_object_get(found, "score"));
        for (int k = 0; k < COLUMNS; k++) {
            row.mean[k] += json_number_value(json_object_get(found, column[k]));
        }
        row.fallback = row.fallback ? row.fallback : json_string_value(said);
        row.n_fallback += said != NULL;
    }
    for (int k = 0; k < COLUMNS && row.n > 0; k++) {
        row.mean[k] /= row.n;
    }
    row.agreement = row.n > 0 ? ft_interval_of(value, row.n) : row.agreement;
    return row;
}

static void print_row(const struct ft_cell *cell, const struct row *row) {
    char kv[24];
    ft_out("%7u  %8.4f  %8.4f  %+8.4f  %8.5f  %8.4f  %7.2f  [%6.2f, %6.2f]  %6.0f  %6.0f  %s\n",
           cell->ctx, row->mean[NLL_DENSE], row->mean[NLL], row->mean[NLL] - row->mean[NLL_DENSE],
           row->mean[KL], row->mean[KL_P99], row->agreement.mean, row->agreement.low,
           row->agreement.high, row->mean[KEPT], row->mean[KEPT_ROWS],
           ft_size_text((uint64_t)row->mean[KV_BYTES], kv));
    if (row->n_fallback > 0) {
        ft_out("%u of the samples: ", row->n_fallback);
        ft_out_safe(row->fallback);
        ft_out("\n");
    }
}

static json_t *value_of(const struct ft_eval *eval, uint32_t m, const struct ft_cell *cell,
                        const struct row *row) {
    json_t *value = json_object();
    json_object_set_new(value, "task", json_string(cell->name));
    json_object_set_new(value, "ctx", json_integer(cell->ctx));
    json_object_set_new(value, "method", ft_json_text(eval->grid.all[m].label));
    json_object_set_new(value, "kv_type", ft_json_text(ft_grid_kv_type(&eval->grid, m)));
    json_object_set_new(value, "score", json_real(row->agreement.mean));
    json_object_set_new(value, "low", json_real(row->agreement.low));
    json_object_set_new(value, "high", json_real(row->agreement.high));
    json_object_set_new(value, "samples", json_integer(row->n));
    for (int k = 0; k < COLUMNS; k++) {
        json_object_set_new(value, column[k], json_real(row->mean[k]));
    }
    json_object_set_new(value, "nll_difference", json_real(row->mean[NLL] - row->mean[NLL_DENSE]));
    json_object_set_new(value, "agreement", json_real(row->agreement.mean));
    json_object_set_new(value, "fallback_samples", json_integer(row->n_fallback));
    json_object_set_new(value, "fallback",
                        row->fallback ? ft_json_text(row->fallback) : json_null());
    return value;
}

static void print_method(const struct ft_eval *eval, const char *method, double *value) {
    ft_out("method  ");
    ft_out_safe(method);
    ft_out("\n%7s  %8s  %8s  %8s  %8s  %8s  %7s  %-16s  %6s  %6s  %s\n", "ctx", "dense", "method",
           "more", "KL", "KL p99", "agree %", "95 % interval", "read", "rows", "KV");
    for (uint32_t i = 0; i < eval->n_cell; i++) {
        struct row row = row_of(eval, &eval->cell[i], method, value);
        if (row.n > 0) {
            print_row(&eval->cell[i], &row);
        }
    }
}

static int print(const struct ft_eval *eval) {
    double *value = ft_alloc(eval->setup.conf->n_sample, sizeof *value);
    if (!value) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the scores");
    }
    for (uint32_t m = 0; m < eval->grid.n; m++) {
        print_method(eval, eval->grid.all[m].label, value);
        ft_out(m + 1 < eval->grid.n ? "\n" : "");
    }
    if (eval->shard.n > 0) {
        ft_out("part %u/%u of ", eval->shard.i, eval->shard.n);
    }
    ft_out("%u chunks each, the second half scored; dense and method are the mean negative "
           "log-likelihood in nats,\nKL that of dense from the method, p99 the mean of the chunks' "
           "99th percentiles; dense stores %s rows\n",
           eval->setup.conf->n_sample, eval->grid.kv_type);
    ft_free(value);
    return FT_EXIT_OK;
}

static int value(const struct ft_eval *eval, json_t **out) {
    double *score = ft_alloc(eval->setup.conf->n_sample, sizeof *score);
    if (!score) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the scores");
    }
    json_t *root = json_object(), *rows = json_array();
    for (uint32_t i = 0; i < eval->grid.n * eval->n_cell; i++) {
        const struct ft_cell *cell = &eval->cell[i % eval->n_cell];
        uint32_t m = i / eval->n_cell;
        struct row row = row_of(eval, cell, eval->grid.all[m].label, score);
        if (row.n > 0) {
            json_array_append_new(rows, value_of(eval, m, cell, &row));
        }
    }
    json_object_set_new(root, "rows", rows);
    json_object_set(root, "manifest", eval->manifest);
    ft_free(score);
    *out = root;
    return FT_EXIT_OK;
}

static const char *const unused[] = { "--budgets", "--tasks",    "--chat",  "--answer-prefix",
                                      "--depths",  "--haystack", "--words", "--squad",
                                      "--hotpot",  "--seed",     NULL };

const struct ft_eval_kind ft_eval_ppl = { .name = "ppl",
                                          .check = check,
                                          .open = open_ppl,
                                          .describe = describe,
                                          .close = close_ppl,
                                          .print = print,
                                          .value = value,
                                          .unused = unused };
