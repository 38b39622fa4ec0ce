/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.c - answers cleaned and scored as LongBench (MIT) and RULER (Apache-2.0) do; written from
 * their definitions, which metrics.h states together with what differs. */
#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/pytext.h"

/* ---- the answer ---- */

void ft_answer_clean(char *answer) {
    static const char *const tag[] = { "<think/>",       "Answer:",
                                       "Summary:",       "The final answer is:",
                                       "The answer is:", "Next line of code:" };
    const char *from = answer;
    for (size_t i = 0; i < FT_COUNT(tag); i++) {
        for (const char *at = from; (at = strstr(at, tag[i])) != NULL;) {
            from = at += strlen(tag[i]);
        }
    }
    memmove(answer, from, strlen(from) + 1);
    ft_pytext_strip(answer);
}

void ft_answer_printable(char *answer) {
    for (char *at = answer; *at != '\0'; at++) {
        *at = (unsigned char)*at < ' ' ? '\n' : *at;
    }
    ft_pytext_strip(answer);
}

void ft_answer_first_line(char *answer) {
    const char *from = answer + strspn(answer, "\n");
    size_t n = strcspn(from, "\n");
    memmove(answer, from, n);
    answer[n] = '\0';
}

/* ---- words ---- */

struct word {
    struct ft_piece text;
    uint32_t id; /* ROUGE-L: equal for equal words */
};

struct words {
    char *copy; /* what the words point into, if it is ours */
    struct word *word;
    size_t n;
    size_t *end; /* [n_sentence] number of the word behind each sentence */
    size_t n_sentence;
};

static void words_free(struct words *words) {
    ft_free(words->copy);
    ft_free(words->word);
    ft_free(words->end);
}

static int compare_words(const void *a, const void *b) {
    const struct ft_piece *x = &((const struct word *)a)->text,
                          *y = &((const struct word *)b)->text;
    int order = memcmp(x->at, y->at, FT_MIN(x->n, y->n));
    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

/* ---- F1 ---- */

static bool is_punctuation(char c) {
    return c != '\0' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) != NULL;
}

static void drop_punctuation(char *text) {
    char *to = text;
    for (; *text != '\0'; text++) {
        if (!is_punctuation(*text)) {
            *to++ = *text;
        }
    }
    *to = '\0';
}

static bool is_article(const char *at, size_t n) {
    return (n == 1 && at[0] == 'a') || (n == 2 && memcmp(at, "an", n) == 0) ||
           (n == 3 && memcmp(at, "the", n) == 0);
}

/* re.sub(r"\b(a|an|the)\b", " "): runs of word characters, which white space alone does not end;
 * blanks of the same number, since words are all that is looked at afterwards. */
static void blank_articles(char *text) {
    const char *end = text + strlen(text);
    for (char *at = text; at < end;) {
        const char *behind = at, *run_end = at;
        while (behind < end && ft_pytext_is_word(ft_pytext_next(&behind, end))) {
            run_end = behind;
        }
        size_t n = (size_t)(run_end - at);
        if (is_article(at, n)) {
            memset(at, ' ', n);
        }
        at += (size_t)(behind - at); /* behind the run and the character that ended it */
    }
}

/* The words of a text as F1 compares them, sorted. */
static ft_status f1_words(const char *text, struct words *out) {
    out->copy = ft_strdup(text);
    out->word = ft_alloc(strlen(text) / 2 + 2, sizeof *out->word); /* as in rouge_words */
    if (!out->copy || !out->word) {
        return FT_NOMEM;
    }
    ft_pytext_lower(out->copy);
    drop_punctuation(out->copy);
    blank_articles(out->copy);
    const char *at = out->copy, *end = at + strlen(at);
    while (ft_pytext_split(&at, end, &out->word[out->n].text)) {
        out->n++;
    }
    qsort(out->word, out->n, sizeof *out->word, compare_words);
    return FT_OK;
}

static size_t count_common(const struct words *a, const struct words *b) {
    size_t n = 0;
    for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
        int order = compare_words(&a->word[i], &b->word[j]);
        n += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return n;
}

ft_status ft_metric_f1(const char *answer, const char *truth, double *out) {
    struct words a = { 0 }, t = { 0 };
    ft_status status = f1_words(answer, &a);
    if (status == FT_OK) {
        status = f1_words(truth, &t);
    }
    if (status == FT_OK) {
        size_t n = count_common(&a, &t);
        double p = n > 0 ? (double)n / (double)a.n : 0, r = n > 0 ? (double)n / (double)t.n : 0;
        *out = n > 0 ? 2 * p * r / (p + r) : 0;
    }
    words_free(&a);
    words_free(&t);
    return status;
}

/* ---- ROUGE-L ---- */

static void add_sentence(struct words *words, const char *at, const char *end) {
    size_t n = words->n;
    while (ft_pytext_split(&at, end, &words->word[words->n].text)) {
        words->n++;
    }
    if (words->n == n) { /* of white space alone */
        words->word[words->n++].text = (struct ft_piece){ .at = at };
    }
    words->end[words->n_sentence++] = words->n;
}

static ft_status rouge_words(const char *text, struct words *out) {
    /* k words or sentences take k bytes and k - 1 between them; one more is looked for */
    size_t cap = strlen(text) / 2 + 2;
    out->word = ft_alloc(cap, sizeof *out->word);
    out->end = ft_alloc(cap, sizeof *out->end);
    if (!out->word || !out->end) {
        return FT_NOMEM;
    }
    for (const char *at = text; *at != '\0'; at += *at == '.') {
        size_t n = strcspn(at, ".");
        if (n > 0) {
            add_sentence(out, at, at + n);
        }
        at += n;
    }
    return FT_OK;
}

static int compare_refs(const void *a, const void *b) {
    return compare_words(*(struct word *const *)a, *(struct word *const *)b);
}

/* Numbers the words of both texts, equal ones alike; n_id: how many there are. */
static ft_status number_words(const struct words *a, const struct words *b, uint32_t *n_id) {
    size_t n = 0;
    struct word **list = ft_size_add(a->n, b->n, &n) ? ft_alloc(n, sizeof *list) : NULL;
    if (!list || n > UINT32_MAX) {
        ft_free(list);
        return FT_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        list[i] = i < a->n ? &a->word[i] : &b->word[i - a->n];
    }
    qsort(list, n, sizeof *list, compare_refs);
    *n_id = 0;
    for (size_t i = 0; i < n; i++) {
        *n_id += i > 0 && compare_refs(&list[i - 1], &list[i]) != 0;
        list[i]->id = *n_id;
    }
    *n_id += n > 0;
    ft_free(list);
    return FT_OK;
}

enum step { MATCH, LEFT, UP };

/* Marks the words of the longest common subsequence that rouge's walk back from the end finds:
 * equal words are taken; else it goes up (leaves a word of x) only where that is strictly longer.
 *
 *   x        [n_x] a sentence of the truth        y  [n_y] one of the answer
 *   is_in    [n_id] out, marks are added */
static ft_status mark_common(const struct word *x, size_t n_x, const struct word *y, size_t n_y,
                             bool *is_in) {
    uint8_t *step = ft_alloc(n_x, n_y); /* [n_x][n_y] */
    uint32_t *length = ft_alloc(n_y + 1, sizeof *length);
    if (!step || !length) {
        ft_free(step);
        ft_free(length);
        return FT_NOMEM;
    }
    for (size_t i = 0; i < n_x; i++) {
        uint32_t corner = 0; /* length[j] of the row above, which length[j + 1] still needs */
        for (size_t j = 0; j < n_y; j++) {
            uint32_t up = length[j + 1], left = length[j];
            bool is_same = x[i].id == y[j].id;
            step[i * n_y + j] = is_same ? MATCH : up > left ? UP : LEFT;
            length[j + 1] = is_same ? corner + 1 : FT_MAX(up, left);
            corner = up;
        }
    }
    for (size_t i = n_x, j = n_y; i > 0 && j > 0;) {
        uint8_t way = step[(i - 1) * n_y + j - 1];
        if (way == MATCH) {
            is_in[x[i - 1].id] = true;
        }
        i -= way != LEFT;
        j -= way != UP;
    }
    ft_free(step);
    ft_free(length);
    return FT_OK;
}

static ft_status mark_all(const struct words *truth, const struct words *answer, bool *is_in) {
    for (size_t s = 0; s < truth->n_sentence; s++) {
        size_t x = s > 0 ? truth->end[s - 1] : 0;
        for (size_t c = 0; c < answer->n_sentence; c++) {
            size_t y = c > 0 ? answer->end[c - 1] : 0;
            FT_TRY(mark_common(truth->word + x, truth->end[s] - x, answer->word + y,
                               answer->end[c] - y, is_in));
        }
    }
    return FT_OK;
}

static double count_marks(const bool *is_in, uint32_t n_id) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_id; i++) {
        n += is_in[i];
    }
    return n;
}

/* How many distinct words; clears the marks first. */
static double count_distinct(const struct words *words, bool *is_in, uint32_t n_id) {
    memset(is_in, 0, n_id * sizeof *is_in);
    for (size_t i = 0; i < words->n; i++) {
        is_in[words->word[i].id] = true;
    }
    return count_marks(is_in, n_id);
}

static ft_status rouge_l(const struct words *answer, const struct words *truth, double *out) {
    uint32_t n_id;
    FT_TRY(number_words(answer, truth, &n_id));
    bool *is_in = ft_alloc(n_id, sizeof *is_in);
    ft_status status = is_in ? mark_all(truth, answer, is_in) : FT_NOMEM;
    if (status == FT_OK) {
        double u = count_marks(is_in, n_id);
        double r = u / count_distinct(truth, is_in, n_id);
        double p = u / count_distinct(answer, is_in, n_id);
        *out = 2 * (p * r / (p + r + 1e-8));
    }
    ft_free(is_in);
    return status;
}

ft_status ft_metric_rouge_l(const char *answer, const char *truth, double *out) {
    struct words a = { 0 }, t = { 0 };
    ft_status status = rouge_words(answer, &a);
    if (status == FT_OK) {
        status = rouge_words(truth, &t);
    }
    if (status == FT_OK && (a.n == 0 || t.n == 0)) {
        *out = 0;
    } else if (status == FT_OK) {
        status = rouge_l(&a, &t, out);
    }
    words_free(&a);
    words_free(&t);
    return status;
}

/* ---- classes ---- */

/* A list that shrinks while it is walked along: what stands behind a removed class moves into its
 * place, and the walk goes on behind that. */
double ft_metric_class(const char *answer, const char *truth, const struct ft_strings *classes) {
    uint32_t n_left = 0;
    bool is_found = false, is_skipped = false;
    for (size_t i = 0; i < classes->n; i++) {
        const char *name = classes->text[i];
        if (!strstr(answer, name)) {
            continue;
        }
        bool is_truth = strcmp(name, truth) == 0;
        bool is_removed = !is_skipped && !is_truth && strstr(truth, name);
        n_left += !is_removed;
        is_found = is_found || is_truth;
        is_skipped = is_removed;
    }
    return is_found ? 1.0 / n_left : 0;
}

/* ---- code ---- */

static bool is_code(struct ft_piece line) {
    for (size_t i = 0; i < line.n; i++) {
        char c = line.at[i];
        if (c == '`' || c == '#' || (c == '/' && i + 1 < line.n && line.at[i + 1] == '/')) {
            return false;
        }
    }
    return true;
}

/* The first line that is code; an empty one if there is none. */
static struct ft_piece code_line(const char *answer) {
    struct ft_piece line = { .at = answer + strspn(answer, "\n") };
    for (;; line.at += line.n + 1) {
        line.n = strcspn(line.at, "\n");
        if (is_code(line)) {
            return line;
        }
        if (line.at[line.n] == '\0') {
            return (struct ft_piece){ .at = line.at };
        }
    }
}

struct codes {
    uint32_t *code; /* [n] code points */
    size_t n;
};

static ft_status codes_of(struct ft_piece text, struct codes *out) {
    out->code = ft_alloc(text.n, sizeof *out->code);
    if (!out->code) {
        return FT_NOMEM;
    }
    for (const char *at = text.at; at < text.at + text.n;) {
        out->code[out->n++] = ft_pytext_next(&at, text.at + text.n);
    }
    return FT_OK;
}

/* Length of the longest common subsequence. */
static ft_status count_lcs(const struct codes *a, const struct codes *b, size_t *out) {
    size_t *length = ft_alloc(b->n + 1, sizeof *length);
    if (!length) {
        return FT_NOMEM;
    }
    for (size_t i = 0; i < a->n; i++) {
        size_t corner = 0;
        for (size_t j = 0; j < b->n; j++) {
            size_t up = length[j + 1];
            length[j + 1] = a->code[i] == b->code[j] ? corner + 1 : FT_MAX(up, length[j]);
            corner = up;
        }
    }
    *out = length[b->n];
    ft_free(length);
    return FT_OK;
}

ft_status ft_metric_code(const char *answer, const char *truth, double *out) {
    struct ft_piece line = code_line(answer), wanted = { truth, strlen(truth) };
    struct codes a = { 0 }, b = { 0 };
    size_t n_same;
    if (line.n == wanted.n && memcmp(line.at, truth, line.n) == 0) {
        *out = 1;
        return FT_OK;
    }
    if (line.n == 0 || wanted.n == 0) {
        *out = 0;
        return FT_OK;
    }
    ft_status status = codes_of(line, &a);
    if (status == FT_OK) {
        status = codes_of(wanted, &b);
    }
    if (status == FT_OK) {
        status = count_lcs(&a, &b, &n_same);
    }
    if (status == FT_OK) {
        double n = (double)(a.n + b.n), distance = n - 2 * (double)n_same;
        *out = rint(100 * (1 - distance / n)) / 100; /* rint: halves to even, as round() */
    }
    ft_free(a.code);
    ft_free(b.code);
    return status;
}

/* ---- all references ---- */

static char *lowered(const char *text) {
    char *copy = ft_strdup(text);
    if (copy) {
        ft_pytext_lower(copy);
    }
    return copy;
}

static ft_status count_hits(const char *answer, const struct ft_strings *truths, size_t *n_hit) {
    char *where = lowered(answer);
    ft_status status = where ? FT_OK : FT_NOMEM;
    *n_hit = 0;
    for (size_t i = 0; i < truths->n && status == FT_OK; i++) {
        char *what = lowered(truths->text[i]);
        status = what ? FT_OK : FT_NOMEM;
        *n_hit += what && strstr(where, what);
        ft_free(what);
    }
    ft_free(where);
    return status;
}

ft_status ft_metric_all(const char *answer, const struct ft_strings *truths, double *out) {
    size_t n_hit;
    FT_TRY(count_hits(answer, truths, &n_hit));
    *out = n_hit > 0 ? (double)n_hit / (double)truths->n : 0;
    return FT_OK;
}

ft_status ft_metric_part(const char *answer, const struct ft_strings *truths, double *out) {
    size_t n_hit;
    FT_TRY(count_hits(answer, truths, &n_hit));
    *out = n_hit > 0;
    return FT_OK;
}

static ft_status score_one(enum ft_metric metric, const char *answer, const char *truth,
                           const struct ft_strings *classes, double *out) {
    switch (metric) {
    case FT_METRIC_F1:
        return ft_metric_f1(answer, truth, out);
    case FT_METRIC_ROUGE_L:
        return ft_metric_rouge_l(answer, truth, out);
    case FT_METRIC_CODE:
        return ft_metric_code(answer, truth, out);
    default:
        ft_assert(metric == FT_METRIC_CLASS);
        *out = ft_metric_class(answer, truth, classes);
        return FT_OK;
    }
}

ft_status ft_metric_score(enum ft_metric metric, const char *answer,
                          const struct ft_strings *truths, const struct ft_strings *classes,
                          double *out) {
    double best = 0, score = 0;
    if (metric == FT_METRIC_ALL) {
        return ft_metric_all(answer, truths, out);
    }
    if (metric == FT_METRIC_PART) {
        return ft_metric_part(answer, truths, out);
    }
    for (size_t i = 0; i < truths->n; i++) {
        FT_TRY(score_one(metric, answer, truths->text[i], classes, &score));
        best = FT_MAX(best, score);
    }
    *out = best;
    return FT_OK;
}
