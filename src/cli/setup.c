/* SPDX-License-Identifier: Apache-2.0 */
/* setup.c - from settings to texts, models and session parameters, cheapest checks first.
 *
 *   init   options against each other; no file is touched
 *   peek   headers and vocabularies: pair, token ids, estimates
 *   load   the weights
 */
#define _DEFAULT_SOURCE /* getentropy */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "eval/run.h"

/* ---- files ---- */

/* What path names among the files that the command reads; NULL: nothing. */
static const char *input_at(const struct ft_conf *conf, const char *path) {
    const char *const inputs[] = { conf->model, conf->draft,        conf->file,
                                   conf->words, conf->grammar_file, conf->haystack,
                                   conf->squad, conf->hotpot,       conf->arrays };
    struct stat own, other;
    if (stat(path, &own) != 0) {
        return NULL;
    }
    for (uint32_t i = 0; i < FT_COUNT(inputs) + conf->n_arg; i++) {
        const char *input = i < FT_COUNT(inputs) ? inputs[i] : conf->arg[i - FT_COUNT(inputs)];
        if (input && stat(input, &other) == 0 && own.st_dev == other.st_dev &&
            own.st_ino == other.st_ino) {
            return input;
        }
    }
    return NULL;
}

int ft_check_file(const struct ft_conf *conf, const char *option, const char *path) {
    struct ft_error error = { 0 };
    struct ft_save *save = NULL;
    if (!path) {
        return FT_EXIT_OK;
    }
    if (strcmp(path, "-") == 0) {
        return ft_complain(FT_EXIT_USAGE,
                           "%s is \"-\", expected a file name: standard output has the results",
                           option);
    }
    const char *input = input_at(conf, path);
    if (input) {
        return ft_complain(FT_EXIT_USAGE,
                           "%s is \"%.160s\", expected none of the files that are read: %.160s",
                           option, path, input);
    }
    if (ft_save_open(path, &save, &error) != FT_OK) {
        return ft_complain_error(option, &error);
    }
    ft_save_done(save, false, NULL);
    return FT_EXIT_OK;
}

const char *ft_page_path(const char *path) {
    return path && strcmp(path, "-") == 0 ? NULL : path;
}

/* ---- reading text ---- */

static int read_all(int fd, const char *name, uint64_t n_max, char **out, size_t *n) {
    size_t cap = 1 << 16, used = 0;
    char *bytes = malloc(cap + 1);
    while (bytes) {
        ssize_t got = read(fd, bytes + used, cap - used);
        if (got == 0) {
            bytes[used] = '\0';
            *out = bytes;
            *n = used;
            return FT_EXIT_OK;
        }
        if (got < 0 && errno != EINTR) {
            free(bytes);
            return ft_complain(FT_EXIT_FAILED, "%s: %s", name, strerror(errno));
        }
        used += got > 0 ? (size_t)got : 0;
        if (used > n_max) {
            free(bytes);
            return ft_complain(FT_EXIT_FAILED, "%s: more than %llu bytes", name,
                               (unsigned long long)n_max);
        }
        if (used == cap) {
            char *more = realloc(bytes, cap * 2 + 1);
            if (!more) {
                free(bytes);
            }
            bytes = more;
            cap *= 2;
        }
    }
    return ft_complain(FT_EXIT_FAILED, "%s: not enough memory to read it", name);
}

int ft_read_file(const char *path, uint64_t n_max, char **out, size_t *n) {
    if (strcmp(path, "-") == 0) {
        if (isatty(STDIN_FILENO)) {
            ft_note("reading standard input; Ctrl-D ends it");
        }
        return read_all(STDIN_FILENO, "standard input", n_max, out, n);
    }
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        return ft_complain(FT_EXIT_FAILED, "%s: %s", path, strerror(errno));
    }
    int code = read_all(fd, path, n_max, out, n);
    close(fd);
    return code;
}

static int check_text(const char *name, const char *text, size_t n) {
    size_t bad = ft_utf8_check(text, n);
    if (n == 0) {
        return ft_complain(FT_EXIT_FAILED, "%s is empty", name);
    }
    if (bad < n) {
        return ft_complain(FT_EXIT_FAILED, "%s is not UTF-8: byte 0x%02x at offset %zu", name,
                           (unsigned)(unsigned char)text[bad], bad);
    }
    const char *nul = memchr(text, '\0', n);
    if (nul) {
        return ft_complain(FT_EXIT_FAILED, "%s is not text: a NUL byte at offset %zu", name,
                           (size_t)(nul - text));
    }
    return FT_EXIT_OK;
}

/* join - document, one blank line, question; takes the document over. */
static int join(char **text, size_t *n, const char *question) {
    size_t n_question = strlen(question), n_document = *n;
    while (n_document > 0 && ((*text)[n_document - 1] == '\n' || (*text)[n_document - 1] == '\r')) {
        n_document--;
    }
    char *both = realloc(*text, n_document + n_question + 3);
    if (!both) {
        return ft_complain(FT_EXIT_FAILED, "not enough memory for the text");
    }
    memcpy(both + n_document, "\n\n", 2);
    memcpy(both + n_document + 2, question, n_question + 1);
    *text = both;
    *n = n_document + 2 + n_question;
    return FT_EXIT_OK;
}

static int read_document(const char *path, const char *name, char **out, size_t *n) {
    int code = ft_read_file(path, INT32_MAX - 1, out, n);
    if (code == FT_EXIT_OK && *n >= 3 && memcmp(*out, "\xef\xbb\xbf", 3) == 0) {
        *n -= 3; /* a byte order mark says how the file is written and is no text of its author */
        memmove(*out, *out + 3, *n + 1);
    }
    return code == FT_EXIT_OK ? check_text(name, *out, *n) : code;
}

int ft_read_document(const char *path, char **out, size_t *n) {
    return read_document(path, strcmp(path, "-") == 0 ? "standard input" : path, out, n);
}

int ft_read_text(const struct ft_conf *conf, char **out, size_t *n) {
    char *question = NULL, *text = NULL;
    size_t n_text = 0;
    int code = FT_EXIT_OK;
    if (conf->text) {
        question = malloc(strlen(conf->text) + 1);
        if (!question) {
            return ft_complain(FT_EXIT_FAILED, "not enough memory for the text");
        }
        memcpy(question, conf->text, strlen(conf->text) + 1);
        if (conf->is_escape) {
            ft_text_escape(conf->text, question);
        }
        code = check_text("the prompt (-p)", question, strlen(question));
    }
    if (code == FT_EXIT_OK && (conf->file || !question)) {
        code = conf->file ? ft_read_document(conf->file, &text, &n_text)
                          : read_document("-", "the prompt (standard input)", &text, &n_text);
    }
    if (code == FT_EXIT_OK && text && question) {
        code = join(&text, &n_text, question);
    } else if (code == FT_EXIT_OK && question) {
        text = question;
        n_text = strlen(question);
        question = NULL;
    }
    free(question);
    if (code != FT_EXIT_OK) {
        free(text);
        return code;
    }
    *out = text;
    *n = n_text;
    return FT_EXIT_OK;
}

ft_status ft_prompt_tokens(const struct ft_setup *setup, const char *text, struct ft_tokens *out,
                           uint32_t *n_head, struct ft_error *error) {
    const struct ft_conf *conf = setup->conf;
    struct ft_chat chat = { .user = text, .is_plain = !conf->is_chat, .has_special = true };
    char *system = conf->is_chat && conf->system ? ft_strdup(conf->system) : NULL;
    if (conf->is_chat && conf->system && !system) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for the system message");
    }
    if (system && conf->is_escape) {
        ft_text_escape(conf->system, system);
    }
    chat.system = system;
    ft_status status = ft_chat_tokens(setup->target, &chat, out, n_head, error);
    ft_free(system);
    return status;
}

/* ---- options against each other ---- */

static int check_methods(struct ft_setup *setup, enum ft_stage stage,
                         const struct ft_texts *specs) {
    const char *option = stage == FT_STAGE_PROMPT ? "--prompt" : "--kv";
    int code = FT_EXIT_OK; /* every method that does not go is said */
    for (uint32_t i = 0; i < specs->n; i++) {
        const struct ft_method_info *info = NULL;
        if (ft_method_check(stage, specs->text[i], &info, NULL) != FT_OK || !info) {
            continue; /* dense; a bad one did not get past the parser */
        }
        if (info->needs_draft && !setup->conf->draft) {
            code = ft_complain(FT_EXIT_USAGE, "%s %s needs a draft model: -d FILE%s", option,
                               info->name, info->needs_draft_text ? "" : " or -d self:layers=K");
        }
        if (info->needs_draft_text && setup->self_layers > 0) {
            code = ft_complain(
                FT_EXIT_USAGE,
                "%s %s needs a draft that writes text, and the first %u layers of the target "
                "cannot: give a model with -d FILE",
                option, info->name, setup->self_layers);
        }
        setup->needs_draft = setup->needs_draft || info->needs_draft;
    }
    return code;
}

/* Is one of these more than dense? */
static bool drops(enum ft_stage stage, const struct ft_texts *specs) {
    for (uint32_t i = 0; i < specs->n; i++) {
        const struct ft_method_info *info = NULL;
        if (ft_method_check(stage, specs->text[i], &info, NULL) == FT_OK && info &&
            strcmp(info->name, "dense") != 0) {
            return true;
        }
    }
    return false;
}

/* --auto chooses between dense and what was asked for; with a draft alone that is specpc. */
static int check_auto(struct ft_setup *setup) {
    const struct ft_conf *conf = setup->conf;
    if (ft_auto_kv_is_asked(conf)) {
        return ft_complain(FT_EXIT_USAGE,
                           "--auto and --kv %.40s both choose the method; leave one out",
                           conf->kv.text[conf->kv.n - 1]);
    }
    if (conf->prompt.n + conf->kv.n == 0 && conf->draft) {
        setup->needs_draft = true;
    }
    return setup->needs_draft || drops(FT_STAGE_PROMPT, &conf->prompt) ||
                   drops(FT_STAGE_KV, &conf->kv)
               ? FT_EXIT_OK
               : ft_complain(FT_EXIT_USAGE,
                             "--auto has nothing to choose from: give a draft "
                             "(-d), or a method that drops something (--prompt, --kv)");
}

/* Is it among the formats given? */
static bool wants_calibrated(const struct ft_conf *conf) {
    bool is_wanted = ft_text_is_calibrated(conf->kv_type);
    for (uint32_t i = 0; i < conf->kv_types.n; i++) {
        is_wanted = is_wanted || ft_text_is_calibrated(conf->kv_types.text[i]);
    }
    return is_wanted;
}

const char *ft_setup_kv_type(const struct ft_setup *setup, const char *typed) {
    return ft_text_is_calibrated(typed) ? setup->calibrated : typed;
}

static bool is_exact_format(const struct ft_conf *conf) {
    bool is_f32 = !conf->kv_type || strcmp(conf->kv_type, "f32") == 0;
    for (uint32_t i = 0; i < conf->kv_types.n; i++) {
        is_f32 = is_f32 && strcmp(conf->kv_types.text[i], "f32") == 0;
    }
    return is_f32;
}

static int check_options(const struct ft_conf *conf) {
    if (!conf->model) {
        return ft_complain(FT_EXIT_USAGE, "which model? -m FILE is needed");
    }
    if (conf->system && !conf->is_chat) {
        return ft_complain(FT_EXIT_USAGE,
                           "--system needs --chat: only a chat template has a place for it");
    }
    if (conf->grammar && !conf->grammar[0]) {
        return ft_complain(FT_EXIT_USAGE, "--grammar is \"\", expected a grammar in GBNF");
    }
    if (conf->file && conf->grammar_file && strcmp(conf->file, "-") == 0 &&
        strcmp(conf->grammar_file, "-") == 0) {
        return ft_complain(FT_EXIT_USAGE,
                           "--file and --grammar-file are both \"-\": standard input is read once");
    }
    if (conf->grammar && conf->grammar_file) {
        return ft_complain(FT_EXIT_USAGE, "--grammar and --grammar-file exclude each other");
    }
    if (conf->is_json && conf->is_csv) {
        return ft_complain(FT_EXIT_USAGE, "--json and --csv exclude each other");
    }
    if (conf->is_exact && !is_exact_format(conf)) {
        return ft_complain(FT_EXIT_USAGE, "--exact stores KV rows as f32; leave --kv-type out");
    }
    if (conf->rope_scale > 0 && conf->rope_scale < 1) {
        return ft_complain(FT_EXIT_USAGE, "--rope-scale is %g, expected 0 (off) or at least 1",
                           conf->rope_scale);
    }
    return FT_EXIT_OK;
}

static int set_sampling(struct ft_setup *setup) {
    const struct ft_conf *conf = setup->conf;
    struct ft_sampling *sampling = &setup->params.sampling;
    sampling->temperature = (float)conf->temperature;
    sampling->top_k = conf->top_k;
    sampling->top_p = (float)conf->top_p;
    sampling->min_p = (float)conf->min_p;
    sampling->repeat_penalty = (float)conf->repeat_penalty;
    sampling->repeat_last_n = conf->repeat_last_n;
    sampling->seed = conf->seed.value;
    if (conf->seed.is_drawn && getentropy(&sampling->seed, sizeof sampling->seed) != 0) {
        return ft_complain(FT_EXIT_FAILED, "cannot draw a seed: %s", strerror(errno));
    }
    sampling->seed &= INT64_MAX;
    for (uint32_t i = 0; i < conf->bias.n; i++) {
        if (!ft_text_bias(conf->bias.text[i], &setup->bias[i])) {
            return ft_complain(
                FT_EXIT_USAGE,
                "--logit-bias is \"%.100s\", expected a token id, + or -, and a number: 15043+1, "
                "15043-inf",
                conf->bias.text[i]);
        }
    }
    sampling->bias = setup->bias;
    sampling->n_bias = conf->bias.n;
    sampling->grammar = conf->grammar;
    if (conf->grammar_file) {
        size_t n;
        int code = ft_read_file(conf->grammar_file, 1 << 20, &setup->grammar, &n);
        if (code == FT_EXIT_OK) {
            code = check_text(conf->grammar_file, setup->grammar, n);
        }
        sampling->grammar = setup->grammar;
        return code;
    }
    return FT_EXIT_OK;
}

static void set_params(struct ft_setup *setup) {
    const struct ft_conf *conf = setup->conf;
    struct ft_session_params *params = &setup->params;
    *params = ft_session_defaults();
    params->prompt = conf->prompt.n > 0 ? conf->prompt.text[conf->prompt.n - 1] : NULL;
    params->kv = conf->kv.n > 0 ? conf->kv.text[conf->kv.n - 1] : NULL;
    params->kv_type = conf->is_exact ? "f32" : ft_setup_kv_type(setup, conf->kv_type);
    params->self_layers = setup->needs_draft ? setup->self_layers : 0;
    params->n_predict = conf->n_predict;
    params->n_ctx = conf->n_ctx;
    params->n_thread = conf->n_thread;
    params->is_exact = conf->is_exact;
    params->is_strict = conf->is_strict;
    params->is_auto = conf->is_auto;
    params->rope_scale = (float)conf->rope_scale;
    params->progress = ft_progress_step;
    params->progress_user = &setup->progress;
}

int ft_setup_init(struct ft_setup *setup, const struct ft_conf *conf) {
    *setup = (struct ft_setup){ .conf = conf };
    int code = check_options(conf);
    if (code != FT_EXIT_OK) {
        return code;
    }
    if (conf->draft && strncmp(conf->draft, "self:", 5) == 0 &&
        !ft_text_self(conf->draft, &setup->self_layers)) {
        return ft_complain(FT_EXIT_USAGE,
                           "-d is \"%.100s\", expected a file or self:layers=K with K >= 1",
                           conf->draft);
    }
    code = check_methods(setup, FT_STAGE_PROMPT, &conf->prompt);
    int kv_code = check_methods(setup, FT_STAGE_KV, &conf->kv);
    code = code == FT_EXIT_OK ? kv_code : code;
    if (code == FT_EXIT_OK && conf->is_auto) {
        code = check_auto(setup);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    if (wants_calibrated(conf)) {
        code = ft_calibration_read(conf->model, &setup->calibrated, setup->calibrated_of);
    }
    if (code != FT_EXIT_OK) {
        return code;
    }
    ft_progress_init(&setup->progress, conf);
    set_params(setup);
    /* Only generate has sampling options; elsewhere their fields are zero and mean nothing. */
    return conf->repeat_penalty > 0 ? set_sampling(setup) : FT_EXIT_OK;
}

/* ---- models ---- */

static int open_models(struct ft_setup *setup, enum ft_load load, bool has_draft) {
    struct ft_error error = { 0 };
    char text[64];
    int64_t start = ft_time_us();
    snprintf(text, sizeof text, "loading %.48s", setup->conf->model);
    ft_progress_stage(&setup->progress, text);
    ft_status status = ft_model_open(setup->conf->model, load, &setup->target, &error);
    if (status == FT_OK && has_draft) {
        status = ft_model_open(setup->conf->draft, load, &setup->draft, &error);
    }
    setup->load_us += ft_time_us() - start;
    ft_progress_clear(&setup->progress);
    if (status != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    struct ft_model_info info;
    ft_model_info(setup->target, &info);
    if (setup->calibrated && strcmp(info.fingerprint, setup->calibrated_of) != 0) {
        return ft_complain(FT_EXIT_FAILED,
                           "--kv-type calibrated: what is kept beside %.100s was found for another "
                           "model (fingerprint %.12s..., this one is %.12s...)",
                           setup->conf->model, setup->calibrated_of, info.fingerprint);
    }
    return FT_EXIT_OK;
}

int ft_setup_peek(struct ft_setup *setup, struct ft_error *misfit) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    struct ft_model_info info;
    int code = open_models(setup, FT_LOAD_VOCAB, conf->draft && setup->self_layers == 0);
    if (code != FT_EXIT_OK) {
        return code;
    }
    ft_model_info(setup->target, &info);
    if (setup->draft && ft_pair_check(setup->target, setup->draft, &error) != FT_OK) {
        if (!misfit) {
            return ft_complain_error(NULL, &error);
        }
        *misfit = error;
    }
    if (setup->self_layers >= info.n_layer) {
        return ft_complain(FT_EXIT_USAGE, "-d self:layers=%u: %s has %u layers, expected fewer",
                           setup->self_layers, conf->model, info.n_layer);
    }
    for (uint32_t i = 0; i < conf->bias.n; i++) {
        if ((uint32_t)setup->bias[i].id >= info.n_vocab_real) {
            return ft_complain(FT_EXIT_USAGE, "--logit-bias %s: the vocabulary has the ids 0..%u",
                               conf->bias.text[i], info.n_vocab_real - 1);
        }
    }
    return FT_EXIT_OK;
}

int ft_setup_fit(const struct ft_setup *setup, uint32_t n_prompt) {
    struct ft_error error = { 0 };
    struct ft_estimate estimate;
    const ft_model *draft = setup->needs_draft ? setup->draft : NULL;
    if (ft_estimate(setup->target, draft, &setup->params, n_prompt, &estimate, &error) != FT_OK) {
        return ft_complain_error(NULL, &error);
    }
    if (!estimate.fits) {
        return ft_complain(FT_EXIT_FAILED, "a prompt of %u tokens %s", n_prompt, estimate.why);
    }
    return FT_EXIT_OK;
}

int ft_setup_fit_case(const struct ft_setup *setup, const struct ft_bench_case *method,
                      uint32_t n_prompt) {
    struct ft_session_params params = setup->params;
    struct ft_error error = { 0 };
    struct ft_estimate estimate;
    const ft_model *draft = setup->needs_draft ? setup->draft : NULL;
    params.prompt = method->prompt;
    params.kv = method->kv;
    params.kv_type = ft_case_kv_type(method, &setup->params);
    if (ft_estimate(setup->target, draft, &params, n_prompt, &estimate, &error) != FT_OK) {
        return ft_complain_error(method->label, &error);
    }
    return estimate.fits ? FT_EXIT_OK
                         : ft_complain(FT_EXIT_FAILED, "%s: a prompt of %u tokens %s",
                                       method->label, n_prompt, estimate.why);
}

uint32_t ft_setup_context(const struct ft_setup *setup) {
    const struct ft_session_params *params = &setup->params;
    struct ft_model_info info;
    ft_model_info(setup->target, &info);
    double n = floor((double)info.n_ctx_train * FT_MAX((double)params->rope_scale, 1));
    n = FT_MIN(n, (double)INT32_MAX);
    return params->n_ctx > 0 ? params->n_ctx : (uint32_t)n;
}

int ft_setup_load(struct ft_setup *setup) {
    struct ft_model_info info;
    bool has_draft = setup->draft && setup->needs_draft;
    if (setup->conf->draft && !setup->needs_draft && !setup->conf->is_json) {
        ft_note("the draft is not used: no method that needs one was given (--prompt, --kv)");
    }
    ft_model_close(setup->target);
    ft_model_close(setup->draft);
    setup->target = setup->draft = NULL;
    int code = open_models(setup, setup->conf->is_exact ? FT_LOAD_PLAIN : FT_LOAD_FULL, has_draft);
    if (code == FT_EXIT_OK) {
        ft_model_info(setup->target, &info);
        setup->progress.n_layer[FT_PHASE_PREFILL] = info.n_layer;
        setup->progress.n_layer[FT_PHASE_DRAFT] =
            setup->self_layers > 0 ? setup->self_layers : info.n_layer;
        if (setup->draft) {
            ft_model_info(setup->draft, &info);
            setup->progress.n_layer[FT_PHASE_DRAFT] = info.n_layer;
        }
    }
    return code;
}

/* ---- a text in chunks ---- */

int ft_chunks_open(struct ft_setup *setup, uint32_t n_least, struct ft_chunks *out) {
    const struct ft_conf *conf = setup->conf;
    struct ft_error error = { 0 };
    *out = (struct ft_chunks){ .text = NULL };
    int code = ft_read_text(conf, &out->text, &out->n_text);
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(setup, NULL);
    }
    if (code == FT_EXIT_OK && ft_tokenize(setup->target, out->text, out->n_text, FT_TOKENIZE_BOS,
                                          &out->tokens, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK && out->tokens.n / n_least < conf->n_ctx) {
        code = ft_complain(FT_EXIT_FAILED, "the text has %u tokens; %s of %u are needed (-c)",
                           out->tokens.n, n_least == 1 ? "a chunk" : "two chunks", conf->n_ctx);
    }
    if (code == FT_EXIT_OK) {
        setup->params.n_predict = conf->n_ctx - conf->n_ctx / 2;
        code = ft_setup_fit(setup, conf->n_ctx / 2);
    }
    return code;
}

void ft_chunks_done(struct ft_chunks *chunks) {
    ft_tokens_free(&chunks->tokens);
    free(chunks->text);
    *chunks = (struct ft_chunks){ .text = NULL };
}

void ft_setup_done(struct ft_setup *setup) {
    ft_ui_guard(NULL);
    ft_model_close(setup->target);
    ft_model_close(setup->draft);
    free(setup->grammar);
    ft_free(setup->calibrated);
    *setup = (struct ft_setup){ 0 };
}
