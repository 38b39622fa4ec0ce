/* SPDX-License-Identifier: Apache-2.0 */
/* longbench.c - LongBench's prompts and limits (THUDM/LongBench, MIT), and a reader of its data.
 *
 * The format strings are the protocol, with their slips: "asconcisely" in narrativeqa, the blank in
 * front of the second instruction of qasper, blanks at ends of lines in multi_news and code.  They
 * are Copyright (c) 2023 THU-KEG & Zhipu AI, under the MIT license.
 */
#include "eval/longbench.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* Far above what any model could read at once: some three million tokens. */
enum { LINE_BYTES = 16 << 20 };

/* ---- the table ---- */

#define NARRATIVEQA                                                                                \
    "You are given a story, which can be either a novel or a movie script, and a question. "       \
    "Answer the question asconcisely as you can, using a single phrase if possible. "              \
    "Do not provide any explanation.\n\n"                                                          \
    "Story: {context}\n\n"                                                                         \
    "Now, answer the question based on the story asconcisely as you can, "                         \
    "using a single phrase if possible. Do not provide any explanation.\n\n"                       \
    "Question: {input}\n\n"                                                                        \
    "Answer:"
#define QASPER                                                                                     \
    "You are given a scientific article and a question. Answer the question as concisely as you "  \
    "can, using a single phrase or sentence if possible. If the question cannot be answered "      \
    "based on the information in the article, write \"unanswerable\". If the question is a "       \
    "yes/no question, answer \"yes\", \"no\", or \"unanswerable\". "                               \
    "Do not provide any explanation.\n\n"                                                          \
    "Article: {context}\n\n"                                                                       \
    " Answer the question based on the above article as concisely as you "                         \
    "can, using a single phrase or sentence if possible. If the question cannot be answered "      \
    "based on the information in the article, write \"unanswerable\". If the question is a "       \
    "yes/no question, answer \"yes\", \"no\", or \"unanswerable\". "                               \
    "Do not provide any explanation.\n\n"                                                          \
    "Question: {input}\n\n"                                                                        \
    "Answer:"
#define MULTIFIELDQA                                                                               \
    "Read the following text and answer briefly.\n\n"                                              \
    "{context}\n\n"                                                                                \
    "Now, answer the following question based on the above text, only give me the answer and do "  \
    "not output any other words.\n\n"                                                              \
    "Question: {input}\n"                                                                          \
    "Answer:"
#define PASSAGES /* hotpotqa, 2wikimqa, musique */                                                 \
    "Answer the question based on the given passages. Only give me the answer and do not output "  \
    "any other words.\n\n"                                                                         \
    "The following are given passages.\n"                                                          \
    "{context}\n\n"                                                                                \
    "Answer the question based on the given passages. Only give me the answer and do not output "  \
    "any other words.\n\n"                                                                         \
    "Question: {input}\n"                                                                          \
    "Answer:"
#define GOV_REPORT                                                                                 \
    "You are given a report by a government agency. Write a one-page summary of the report.\n\n"   \
    "Report:\n"                                                                                    \
    "{context}\n\n"                                                                                \
    "Now, write a one-page summary of the report.\n\n"                                             \
    "Summary:"
#define QMSUM                                                                                      \
    "You are given a meeting transcript and a query containing a question or instruction. "        \
    "Answer the query in one or more sentences.\n\n"                                               \
    "Transcript:\n"                                                                                \
    "{context}\n\n"                                                                                \
    "Now, answer the query based on the above meeting transcript in one or more sentences.\n\n"    \
    "Query: {input}\n"                                                                             \
    "Answer:"
#define MULTI_NEWS                                                                                 \
    "You are given several news passages. Write a one-page summary of all news. \n\n"              \
    "News:\n"                                                                                      \
    "{context}\n\n"                                                                                \
    "Now, write a one-page summary of all the news.\n\n"                                           \
    "Summary:"
#define TREC                                                                                       \
    "Please determine the type of the question below. "                                            \
    "Here are some examples of questions.\n\n"                                                     \
    "{context}\n"                                                                                  \
    "{input}"
#define TRIVIAQA                                                                                   \
    "Answer the question based on the given passage. Only give me the answer and do not output "   \
    "any other words. The following are some examples.\n\n"                                        \
    "{context}\n\n"                                                                                \
    "{input}"
#define SAMSUM                                                                                     \
    "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"      \
    "{context}\n\n"                                                                                \
    "{input}"
#define LCC                                                                                        \
    "Please complete the code given below. \n"                                                     \
    "{context}Next line of code:\n"
#define REPOBENCH                                                                                  \
    "Please complete the code given below. \n"                                                     \
    "{context}{input}Next line of code:\n"

#define SINGLE "single-doc QA"
#define MULTI "multi-doc QA"
#define SUMMARY "summarization"
#define FEW_SHOT "few-shot"
#define CODE_SETS "code"

const struct ft_longbench_set ft_longbench_sets[FT_LONGBENCH_COUNT] = {
    /* name, format, n_predict, metric, has_template, is_first_line, group */
    { "narrativeqa", NARRATIVEQA, 128, FT_METRIC_F1, true, false, SINGLE },
    { "qasper", QASPER, 128, FT_METRIC_F1, true, false, SINGLE },
    { "multifieldqa_en", MULTIFIELDQA, 64, FT_METRIC_F1, true, false, SINGLE },
    { "hotpotqa", PASSAGES, 32, FT_METRIC_F1, true, false, MULTI },
    { "2wikimqa", PASSAGES, 32, FT_METRIC_F1, true, false, MULTI },
    { "musique", PASSAGES, 32, FT_METRIC_F1, true, false, MULTI },
    { "gov_report", GOV_REPORT, 512, FT_METRIC_ROUGE_L, true, false, SUMMARY },
    { "qmsum", QMSUM, 512, FT_METRIC_ROUGE_L, true, false, SUMMARY },
    { "multi_news", MULTI_NEWS, 512, FT_METRIC_ROUGE_L, true, false, SUMMARY },
    { "trec", TREC, 64, FT_METRIC_CLASS, false, true, FEW_SHOT },
    { "triviaqa", TRIVIAQA, 32, FT_METRIC_F1, false, true, FEW_SHOT },
    { "samsum", SAMSUM, 128, FT_METRIC_ROUGE_L, false, true, FEW_SHOT },
    { "lcc", LCC, 64, FT_METRIC_CODE, false, false, CODE_SETS },
    { "repobench-p", REPOBENCH, 64, FT_METRIC_CODE, false, false, CODE_SETS },
};

const struct ft_longbench_set *ft_longbench_find(const char *name) {
    for (uint32_t i = 0; i < FT_LONGBENCH_COUNT; i++) {
        if (strcmp(ft_longbench_sets[i].name, name) == 0) {
            return &ft_longbench_sets[i];
        }
    }
    return NULL;
}

/* ---- prompts ---- */

static bool is_prefix(const char *prefix, const char *text) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

ft_status ft_longbench_prompt(const struct ft_longbench_set *set, const char *context,
                              const char *input, char **out) {
    size_t n = strlen(set->format) + 1, n_context = strlen(context), n_input = strlen(input);
    char *text = NULL;
    /* room for both is enough: no format has a place twice */
    if (ft_size_add(n, n_context, &n) && ft_size_add(n, n_input, &n)) {
        text = ft_alloc(n, 1);
    }
    if (!text) {
        return FT_NOMEM;
    }
    char *to = text;
    for (const char *at = set->format; *at != '\0';) {
        if (is_prefix("{context}", at)) {
            memcpy(to, context, n_context);
            to += n_context;
            at += strlen("{context}");
        } else if (is_prefix("{input}", at)) {
            memcpy(to, input, n_input);
            to += n_input;
            at += strlen("{input}");
        } else {
            *to++ = *at++;
        }
    }
    *out = text; /* ends with a zero: ft_alloc */
    return FT_OK;
}

static size_t sum(const uint32_t *piece, uint32_t n) {
    size_t n_byte = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_byte += piece[i];
    }
    return n_byte;
}

static bool is_inside(char c) { /* a character, behind its first byte */
    return ((unsigned char)c & 0xc0) == 0x80;
}

uint32_t ft_longbench_cut(char *text, const uint32_t *piece, uint32_t n_piece, uint32_t limit) {
    uint32_t half = limit / 2;
    size_t n = strlen(text), n_all = sum(piece, n_piece);
    if (half == 0 || n_piece <= limit) {
        return n_piece;
    }
    size_t head = sum(piece, half), n_tail = FT_MIN(sum(piece + n_piece - half, half), n);
    size_t n_blank = n_all > n ? n_all - n : 0, tail = n - n_tail;
    head = FT_MIN(head - FT_MIN(n_blank, head), tail);
    while (head > 0 && is_inside(text[head])) {
        head--;
    }
    while (is_inside(text[tail])) {
        tail++;
    }
    memmove(text + head, text + tail, n - tail + 1);
    return 2 * half;
}

/* ---- data ---- */

struct ft_longbench_file {
    struct ft_file_map map;
    size_t at; /* of the next line */
    uint64_t line;
    const struct ft_longbench_set *set;
    char *path;
};

/* Where a message belongs: a line of a file. */
struct place {
    const struct ft_longbench_file *file;
    uint64_t where; /* its first byte */
    struct ft_error *error;
};

ft_status ft_longbench_open(const char *path, const struct ft_longbench_set *set,
                            struct ft_longbench_file **out, struct ft_error *error) {
    struct ft_longbench_file *file = ft_alloc(1, sizeof *file);
    if (file) {
        file->set = set;
        file->path = ft_strdup(path);
    }
    if (!file || !file->path) {
        ft_longbench_close(file);
        return ft_fail(error, FT_NOMEM, 0, "no memory to read %.160s", path);
    }
    ft_status status = ft_file_map_open(path, &file->map, error);
    if (status != FT_OK) {
        ft_longbench_close(file);
        return status;
    }
    *out = file;
    return FT_OK;
}

void ft_longbench_close(struct ft_longbench_file *file) {
    if (file) {
        ft_file_map_close(&file->map);
        ft_free(file->path);
        ft_free(file);
    }
}

void ft_longbench_digest(const struct ft_longbench_file *file, char hex[65]) {
    struct ft_sha256 sha;
    ft_sha256_init(&sha);
    ft_sha256_add(&sha, file->map.data, file->map.size);
    ft_sha256_done(&sha, hex);
}

struct ft_longbench_place ft_longbench_tell(const struct ft_longbench_file *file) {
    return (struct ft_longbench_place){ .at = file->at, .line = file->line };
}

void ft_longbench_seek(struct ft_longbench_file *file, struct ft_longbench_place place) {
    ft_assert(place.at <= file->map.size);
    file->at = place.at;
    file->line = place.line;
}

static const char *kind_of(const json_t *value) {
    if (!value) {
        return "missing";
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return json_array_size(value) > 0 ? "a list" : "an empty list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return json_integer_value(value) < 0 ? "a negative number" : "a number";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_NULL:
        return "null";
    default:
        return "true or false";
    }
}

static ft_status wrong(const struct place *place, const char *field, const json_t *value,
                       const char *expected) {
    return ft_fail(place->error, FT_FORMAT, place->where,
                   "%.100s:%" PRIu64 ": %s is %s, expected %s", place->file->path,
                   place->file->line, field, kind_of(value), expected);
}

static ft_status take_text(const struct place *place, const json_t *line, const char *field,
                           const char **out) {
    const json_t *value = json_object_get(line, field);
    if (!json_is_string(value)) {
        return wrong(place, field, value, "a string");
    }
    *out = json_string_value(value);
    return FT_OK;
}

/* A list of strings goes to list[]; null and a missing one are empty. */
static ft_status take_list(const struct place *place, const json_t *value, const char *field,
                           const char **list, struct ft_strings *out) {
    *out = (struct ft_strings){ .text = list };
    for (; out->n < json_array_size(value); out->n++) {
        const json_t *text = json_array_get(value, out->n);
        if (!json_is_string(text)) {
            return ft_fail(place->error, FT_FORMAT, place->where,
                           "%.100s:%" PRIu64 ": %s[%zu] is %s, expected a string",
                           place->file->path, place->file->line, field, out->n, kind_of(text));
        }
        list[out->n] = json_string_value(text);
    }
    return FT_OK;
}

static ft_status take_lists(const struct place *place, const json_t *line,
                            struct ft_longbench_item *item) {
    const json_t *answers = json_object_get(line, "answers");
    const json_t *classes = json_object_get(line, "all_classes");
    size_t n_answer = json_array_size(answers), n_class = json_array_size(classes);
    bool has_classes = place->file->set->metric == FT_METRIC_CLASS;
    if (n_answer == 0) {
        return wrong(place, "answers", answers, "a list of strings");
    }
    if (has_classes && n_class == 0) {
        return wrong(place, "all_classes", classes, "a list of strings");
    }
    if (classes && !json_is_array(classes) && !json_is_null(classes)) {
        return wrong(place, "all_classes", classes, "a list of strings or null");
    }
    item->list = ft_alloc(n_answer + n_class, sizeof *item->list);
    if (!item->list) {
        return ft_fail(place->error, FT_NOMEM, place->where, "no memory for the answers of a line");
    }
    FT_TRY(take_list(place, answers, "answers", item->list, &item->answers));
    return take_list(place, classes, "all_classes", item->list + n_answer, &item->classes);
}

/* What the data may leave out. */
static ft_status take_rest(const struct place *place, const json_t *line,
                           struct ft_longbench_item *item) {
    const json_t *length = json_object_get(line, "length");
    item->id = "";
    if (length && (!json_is_integer(length) || json_integer_value(length) < 0)) {
        return wrong(place, "length", length, "a whole number, not negative");
    }
    item->length = length ? (uint64_t)json_integer_value(length) : 0;
    return json_object_get(line, "_id") ? take_text(place, line, "_id", &item->id) : FT_OK;
}

static ft_status take_item(const struct place *place, const json_t *line,
                           struct ft_longbench_item *item) {
    if (!json_is_object(line)) {
        return wrong(place, "the line", line, "an object");
    }
    FT_TRY(take_text(place, line, "context", &item->context));
    FT_TRY(take_text(place, line, "input", &item->input));
    FT_TRY(take_lists(place, line, item));
    return take_rest(place, line, item);
}

static ft_status parse_line(const struct place *place, const char *text, size_t n,
                            struct ft_longbench_item *out) {
    json_error_t why;
    if (n > LINE_BYTES) {
        return ft_fail(place->error, FT_LIMIT, place->where,
                       "%.100s:%" PRIu64 ": the line has %zu bytes, expected at most %d",
                       place->file->path, place->file->line, n, LINE_BYTES);
    }
    struct ft_longbench_item item = { .json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why) };
    if (!item.json && json_error_code(&why) == json_error_out_of_memory) {
        return ft_fail(place->error, FT_NOMEM, place->where, "no memory for a line of %zu bytes",
                       n);
    }
    if (!item.json) {
        return ft_fail(place->error, FT_FORMAT, place->where + (uint64_t)FT_MAX(why.position, 0),
                       "%.100s:%" PRIu64 ": not JSON at byte %d: %.80s", place->file->path,
                       place->file->line, why.position, why.text);
    }
    ft_status status = take_item(place, item.json, &item);
    if (status != FT_OK) {
        ft_longbench_item_done(&item);
        return status;
    }
    *out = item;
    return FT_OK;
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!memchr(" \t\r", text[i], 3)) {
            return false;
        }
    }
    return true;
}

ft_status ft_longbench_next(struct ft_longbench_file *file, struct ft_longbench_item *out,
                            bool *has_item, struct ft_error *error) {
    while (file->at < file->map.size) {
        struct place place = { .file = file, .where = file->at, .error = error };
        const char *text = (const char *)file->map.data + file->at;
        size_t n_left = file->map.size - file->at;
        const char *newline = memchr(text, '\n', n_left);
        size_t n = newline ? (size_t)(newline - text) : n_left;
        file->at += newline ? n + 1 : n;
        file->line++;
        if (!is_blank(text, n)) {
            FT_TRY(parse_line(&place, text, n, out));
            *has_item = true;
            return FT_OK;
        }
    }
    *has_item = false;
    return FT_OK;
}

void ft_longbench_item_done(struct ft_longbench_item *item) {
    json_decref(item->json);
    ft_free(item->list);
    *item = (struct ft_longbench_item){ 0 };
}
