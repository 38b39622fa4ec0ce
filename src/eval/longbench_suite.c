/* SPDX-License-Identifier: Apache-2.0 */
/* longbench_suite.c - LongBench's files as samples: opened and checked, cut to fit, scored. */
#define _POSIX_C_SOURCE 200809L
#include "eval/longbench_suite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_BYTES = 4096 };

/* What Qwen3's template writes where thinking is disabled. */
static const char no_thought[] = "<think>\n\n</think>\n\n";

struct item {
    struct ft_longbench_place place;
    uint64_t n_byte; /* of its line */
};
struct data {
    struct ft_longbench_data known;
    struct ft_longbench_file *file;
    struct item *item; /* [known.n_item] */
};
struct ft_longbench {
    struct ft_longbench_params params; /* set is not used any more */
    struct data data[FT_LONGBENCH_COUNT];
    uint32_t n_data;
};

/* ---- names ---- */

static ft_status unknown(const char *word, size_t n, struct ft_error *error) {
    char list[200] = "";
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, " %s", ft_longbench_sets[i].name);
    }
    return ft_fail(error, FT_ARG, 0, "no dataset \"%.*s\"; there are:%s",
                   (int)FT_MIN(n, (size_t)24), word, list);
}

ft_status ft_longbench_tasks(const char *list, uint32_t *set, uint32_t *n, struct ft_error *error) {
    bool is_there[FT_LONGBENCH_COUNT] = { false };
    *n = 0;
    for (const char *at = list; at; at = *at == ',' ? at + 1 : NULL) {
        size_t n_byte = strcspn(at, ",");
        uint32_t i = 0;
        while (i < FT_LONGBENCH_COUNT && (strlen(ft_longbench_sets[i].name) != n_byte ||
                                          memcmp(ft_longbench_sets[i].name, at, n_byte) != 0)) {
            i++;
        }
        if (i == FT_LONGBENCH_COUNT) {
            return unknown(at, n_byte, error);
        }
        if (!is_there[i]) {
            is_there[i] = true;
            set[(*n)++] = i;
        }
        at += n_byte;
    }
    return FT_OK;
}

/* ---- files ---- */

static ft_status path_of(const struct ft_longbench *suite, const char *name, char *path,
                         struct ft_error *error) {
    int n = snprintf(path, PATH_BYTES, "%s/%s", suite->params.folder, name);
    return n > 0 && n < PATH_BYTES
               ? FT_OK
               : ft_fail(error, FT_LIMIT, 0, "%.160s: the name is longer than %d bytes",
                         suite->params.folder, PATH_BYTES);
}

static ft_status check_folder(const char *folder, struct ft_error *error) {
    struct stat found;
    if (stat(folder, &found) != 0) {
        return ft_fail(error, FT_IO, 0, "%.160s: %s", folder, strerror(errno));
    }
    return S_ISDIR(found.st_mode)
               ? FT_OK
               : ft_fail(error, FT_IO, 0,
                         "%.160s is a file, expected the folder that holds LongBench's files",
                         folder);
}

/* Every line is parsed once, so that what is wrong with one is said before anything is computed. */
static ft_status take_items(struct data *data, const char *path, struct ft_error *error) {
    uint32_t cap = 0;
    for (bool has_item = true; has_item;) {
        struct ft_longbench_item item = { 0 };
        struct ft_longbench_place place = ft_longbench_tell(data->file);
        FT_TRY(ft_longbench_next(data->file, &item, &has_item, error));
        if (!has_item) {
            break;
        }
        ft_longbench_item_done(&item);
        if (data->known.n_item == cap) {
            cap = FT_MAX(2 * cap, 256u);
            struct item *more = ft_grow(data->item, cap, sizeof *more);
            if (!more) {
                return ft_fail(error, FT_NOMEM, 0, "not enough memory for the items of %.160s",
                               path);
            }
            data->item = more;
        }
        data->item[data->known.n_item++] =
            (struct item){ .place = place, .n_byte = ft_longbench_tell(data->file).at - place.at };
    }
    return data->known.n_item > 0 ? FT_OK
                                  : ft_fail(error, FT_FORMAT, 0, "%.160s holds no sample", path);
}

static ft_status open_data(struct ft_longbench *suite, const struct ft_longbench_set *set,
                           bool is_asked_for, struct ft_error *error) {
    struct data *data = &suite->data[suite->n_data];
    char path[PATH_BYTES], hex[65];
    struct stat found;
    *data = (struct data){ .known = { .set = set } };
    snprintf(data->known.name, sizeof data->known.name, "%s.jsonl", set->name);
    FT_TRY(path_of(suite, data->known.name, path, error));
    if (!is_asked_for && stat(path, &found) != 0 && errno == ENOENT) {
        return FT_OK;
    }
    FT_TRY(ft_longbench_open(path, set, &data->file, error));
    suite->n_data++;
    FT_TRY(take_items(data, path, error));
    ft_longbench_digest(data->file, hex);
    snprintf(data->known.digest, sizeof data->known.digest, "sha256:%s", hex);
    return FT_OK;
}

static ft_status open_all(struct ft_longbench *suite, struct ft_error *error) {
    const struct ft_longbench_params *params = &suite->params;
    uint32_t n = params->n_set > 0 ? params->n_set : FT_LONGBENCH_COUNT;
    FT_TRY(check_folder(params->folder, error));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t set = params->n_set > 0 ? params->set[i] : i;
        FT_TRY(open_data(suite, &ft_longbench_sets[set], params->n_set > 0, error));
    }
    return suite->n_data > 0 ? FT_OK
                             : ft_fail(error, FT_FORMAT, 0,
                                       "%.160s holds none of LongBench's files, such as %s.jsonl",
                                       params->folder, ft_longbench_sets[0].name);
}

ft_status ft_longbench_new(const struct ft_longbench_params *params, struct ft_longbench **out,
                           struct ft_error *error) {
    struct ft_longbench *suite = ft_alloc(1, sizeof *suite);
    if (!suite) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for LongBench's files");
    }
    suite->params = *params;
    ft_status status = open_all(suite, error);
    if (status != FT_OK) {
        ft_longbench_free(suite);
        return status;
    }
    *out = suite;
    return FT_OK;
}

void ft_longbench_free(struct ft_longbench *suite) {
    for (uint32_t i = 0; suite && i < suite->n_data; i++) {
        ft_longbench_close(suite->data[i].file);
        ft_free(suite->data[i].item);
    }
    ft_free(suite);
}

uint32_t ft_longbench_count(const struct ft_longbench *suite) {
    return suite->n_data;
}

const struct ft_longbench_data *ft_longbench_data(const struct ft_longbench *suite, uint32_t task) {
    return &suite->data[task].known;
}

uint32_t ft_longbench_longest(const struct ft_longbench *suite, uint32_t task, uint32_t n) {
    const struct item *item = suite->data[task].item;
    uint32_t longest = 0;
    for (uint32_t i = 1; i < n; i++) {
        longest = item[i].n_byte > item[longest].n_byte ? i : longest;
    }
    return longest;
}

/* ---- prompts that fit ---- */

struct fit {
    const struct ft_longbench *suite;
    const struct ft_longbench_set *set;
    const char *prefix;
    bool is_raw;
    uint32_t ctx, n_room; /* tokens of all, of the prompt */
};

static ft_status count(const struct fit *fit, const char *text, uint32_t *n,
                       struct ft_error *error) {
    const struct ft_longbench_params *params = &fit->suite->params;
    return params->count(text, fit->prefix, fit->is_raw, n, params->user, error);
}

/* Both halves are tokenized again, next to each other and inside the template, so what was counted
 * before the cut is a few tokens off: the cut is made again until the prompt fits.
 *   text     in and out; n its tokens as the model reads it, more than there is room for */
static ft_status cut(const struct fit *fit, char *text, uint32_t n, uint32_t *n_cut,
                     struct ft_error *error) {
    const struct ft_longbench_params *params = &fit->suite->params;
    uint32_t *piece = NULL, n_piece = 0, n_left;
    FT_TRY(params->split(text, &piece, &n_piece, params->user, error));
    char *whole = ft_strdup(text);
    ft_status status =
        whole ? FT_OK : ft_fail(error, FT_NOMEM, 0, "not enough memory to cut a prompt");
    for (n_left = n_piece; n > fit->n_room && status == FT_OK;) {
        uint32_t n_over = n - fit->n_room;
        if (n_left < n_over + 2) {
            status = ft_fail(error, FT_LIMIT, 0,
                             "%s: an answer of %u tokens and what is around the prompt leave "
                             "nothing of --ctx %u",
                             fit->set->name, fit->set->n_predict, fit->ctx);
            break;
        }
        memcpy(text, whole, strlen(whole) + 1);
        n_left = ft_longbench_cut(text, piece, n_piece, n_left - n_over);
        status = count(fit, text, &n, error);
    }
    *n_cut = n_piece - n_left;
    ft_free(whole);
    ft_free(piece);
    return status;
}

static ft_status fit_prompt(const struct fit *fit, char *text, uint32_t *n_cut,
                            struct ft_error *error) {
    uint32_t n;
    *n_cut = 0;
    FT_TRY(count(fit, text, &n, error));
    return n > fit->n_room ? cut(fit, text, n, n_cut, error) : FT_OK;
}

/* ---- samples ---- */

/* Copies; NULL: no memory.  *n_done of them are there. */
static char **copy_texts(const struct ft_strings *texts, uint32_t *n_done) {
    char **copy = ft_alloc(FT_MAX(texts->n, (size_t)1), sizeof *copy);
    for (*n_done = 0; copy && *n_done < texts->n; ++*n_done) {
        copy[*n_done] = ft_strdup(texts->text[*n_done]);
        if (!copy[*n_done]) {
            break;
        }
    }
    return copy;
}

static ft_status fill(struct ft_sample *sample, const struct fit *fit,
                      const struct ft_longbench_item *item, struct ft_error *error) {
    struct ft_turn *turn = &sample->turn[0];
    sample->n_turn = 1;
    sample->n_predict = fit->set->n_predict;
    sample->is_raw = fit->is_raw;
    turn->prefix = ft_strdup(fit->prefix);
    turn->reference = copy_texts(&item->answers, &turn->n_reference);
    turn->choice = copy_texts(&item->classes, &turn->n_choice);
    ft_status status = ft_longbench_prompt(fit->set, item->context, item->input, &turn->text);
    if (status != FT_OK || !turn->prefix || !turn->reference || !turn->choice ||
        turn->n_reference < item->answers.n || turn->n_choice < item->classes.n) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a sample of %s", fit->set->name);
    }
    return fit_prompt(fit, turn->text, &sample->n_cut, error);
}

ft_status ft_longbench_make(void *user, uint32_t task, uint32_t ctx, uint32_t index,
                            struct ft_sample *out, struct ft_error *error) {
    const struct ft_longbench *suite = user;
    const struct data *data = &suite->data[task];
    const struct ft_longbench_set *set = data->known.set;
    const struct ft_longbench_params *params = &suite->params;
    bool is_chat = params->has_template && (set->has_template || params->is_qwen3);
    const struct fit fit = { .suite = suite,
                             .set = set,
                             .prefix = params->is_qwen3 ? no_thought : "",
                             .is_raw = !is_chat,
                             .ctx = ctx,
                             .n_room = ctx > set->n_predict ? ctx - set->n_predict : 0 };
    struct ft_longbench_item item = { 0 };
    struct ft_sample sample = { .n_turn = 0 };
    bool has_item = false;
    ft_assert(index < data->known.n_item);
    ft_longbench_seek(data->file, data->item[index].place);
    FT_TRY(ft_longbench_next(data->file, &item, &has_item, error));
    ft_status status =
        has_item ? fill(&sample, &fit, &item, error)
                 : ft_fail(error, FT_FORMAT, index, "%s: item %u is gone", data->known.name, index);
    ft_longbench_item_done(&item);
    if (status != FT_OK) {
        ft_sample_done(&sample);
        return status;
    }
    *out = sample;
    return FT_OK;
}

ft_status ft_longbench_score(void *user, uint32_t task, const struct ft_turn *turn,
                             const char *prediction, double *score) {
    const struct ft_longbench *suite = user;
    const struct ft_longbench_set *set = suite->data[task].known.set;
    const struct ft_strings truths = { .text = (const char *const *)turn->reference,
                                       .n = turn->n_reference };
    const struct ft_strings classes = { .text = (const char *const *)turn->choice,
                                        .n = turn->n_choice };
    char *answer = ft_strdup(prediction);
    if (!answer) {
        return FT_NOMEM;
    }
    ft_answer_clean(answer);
    if (set->is_first_line) {
        ft_answer_first_line(answer);
    }
    ft_status status = ft_metric_score(set->metric, answer, &truths, &classes, score);
    ft_free(answer);
    return status;
}
