/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_words.c - words, and the tasks that count them: common words (cwe), frequent words (fwe).
 *
 * Templates and parameters: NVIDIA/RULER (Apache-2.0), scripts/data/synthetic/constants.py,
 * common_words_extraction.py and freq_words_extraction.py.
 *
 *   cwe   10 words 30 times, the others 3 times each, numbered, in any order; in front one solved
 *         example of 40 words (10 and 3 times).  Below 4096 tokens: 6 times and once, and an
 *         example of 20 words (3 times and once)
 *   fwe   a vocabulary of a fiftieth of the length; rank k stands floor(N k^-2 / zeta(2)) times;
 *         rank 1 is "..." and does not count, ranks 2 to 4 are the answer
 *
 * Departs  the order is drawn for every sample (RULER's is the same in all of them); the example of
 *          cwe is inside the user's message where a chat template is used; N is the largest that
 *          fits (RULER: a multiple of a 32nd of the length); words are generated ones or the
 *          user's (RULER: lists of English nouns, adjectives and verbs).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { COMMON = 10, SHORT_CTX = 4096, CODED = 6, FREQUENT = 3, LEXICON_MIN = 64 };

/* ---- words ---- */

static const char consonant[] = "bdfgklmnprstvz", vowel[] = "aeiou", coda[] = "bdklmnrst";
enum {
    N_CONSONANT = sizeof consonant - 1,
    N_VOWEL = sizeof vowel - 1,
    N_CODA = sizeof coda - 1,
    N_MADE = N_CONSONANT * N_VOWEL * N_CONSONANT * N_VOWEL * N_CODA
};

const char *ft_ruler__word(const struct ft_lexicon *words, uint32_t i, char out[FT_RULER_WORD]) {
    if (words->word) {
        return words->word[i];
    }
    out[0] = consonant[i % N_CONSONANT];
    i /= N_CONSONANT;
    out[1] = vowel[i % N_VOWEL];
    i /= N_VOWEL;
    out[2] = consonant[i % N_CONSONANT];
    i /= N_CONSONANT;
    out[3] = vowel[i % N_VOWEL];
    out[4] = coda[i / N_VOWEL % N_CODA];
    out[5] = '\0';
    return out;
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Words of a list in place, sorted, each once. */
static ft_status cut(struct ft_lexicon *words, struct ft_error *error) {
    static const char blanks[] = " \t\n\v\f\r";
    uint32_t n = 0;
    for (char *at = words->text + strspn(words->text, blanks); *at != '\0';) {
        size_t n_byte = strcspn(at, blanks);
        bool is_last = at[n_byte] == '\0';
        if (n_byte >= FT_RULER_WORD) {
            return ft_fail(error, FT_FORMAT, (uint64_t)(at - words->text),
                           "--words: \"%.*s...\" has %zu bytes, expected words of at most %d", 24,
                           at, n_byte, FT_RULER_WORD - 1);
        }
        at[n_byte] = '\0';
        words->word[n++] = at;
        at += n_byte + !is_last;
        at += strspn(at, blanks);
    }
    qsort(words->word, n, sizeof *words->word, compare);
    for (uint32_t i = 0; i < n; i++) {
        if (words->n == 0 || strcmp(words->word[words->n - 1], words->word[i]) != 0) {
            words->word[words->n++] = words->word[i];
        }
    }
    return words->n >= LEXICON_MIN
               ? FT_OK
               : ft_fail(error, FT_FORMAT, 0, "--words: %u different words, expected at least %d",
                         words->n, LEXICON_MIN);
}

ft_status ft_ruler__lexicon(const char *text, struct ft_lexicon *out, struct ft_error *error) {
    struct ft_lexicon words = { .n = N_MADE };
    if (!text) {
        *out = words;
        return FT_OK;
    }
    words = (struct ft_lexicon){ .text = ft_strdup(text) };
    words.word = ft_alloc(strlen(text) / 2 + 1, sizeof *words.word);
    ft_status status = words.text && words.word
                           ? cut(&words, error)
                           : ft_fail(error, FT_NOMEM, 0, "not enough memory for the words");
    if (status != FT_OK) {
        ft_ruler__lexicon_done(&words);
        return status;
    }
    *out = words;
    return FT_OK;
}

void ft_ruler__lexicon_done(struct ft_lexicon *words) {
    ft_free(words->text);
    ft_free(words->word);
    *words = (struct ft_lexicon){ 0 };
}

/* ---- common words ---- */

static const char cwe_form[] =
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common "
    "words in the above list?";
static const char cwe_prefix[] =
    " Answer: The top 10 words that appear most often in the list are:";

struct word_list {
    uint32_t n_word, n_common, n_rare; /* words, how often each of the common and other ones */
};

/* The template with a list; common [COMMON][FT_RULER_WORD] are its most frequent words. */
static bool add_list(const struct ft_lexicon *words, const struct word_list *list,
                     struct ft_draw *draw, struct ft_ruler_text *out,
                     char (*common)[FT_RULER_WORD]) {
    char word[FT_RULER_WORD];
    struct ft_ruler_text context = { 0 };
    uint32_t n = COMMON * list->n_common + (list->n_word - COMMON) * list->n_rare;
    uint32_t *chosen = ft_ruler__choose(draw, list->n_word, words->n);
    uint32_t *entry = ft_ruler__choose(draw, n, n);
    for (uint32_t i = 0; chosen && entry && i < n; i++) {
        uint32_t which = entry[i] < COMMON * list->n_common
                             ? entry[i] / list->n_common
                             : COMMON + (entry[i] - COMMON * list->n_common) / list->n_rare;
        ft_ruler__addf(&context, "%s%u. %s", i > 0 ? " " : "", i + 1,
                       ft_ruler__word(words, chosen[which], word));
    }
    for (uint32_t i = 0; chosen && i < COMMON; i++) {
        snprintf(common[i], FT_RULER_WORD, "%s", ft_ruler__word(words, chosen[i], word));
    }
    ft_free(chosen);
    ft_free(entry);
    char *bytes = ft_ruler__take(&context);
    const struct ft_ruler_slot slot[] = { { "context", bytes } };
    if (bytes) {
        ft_ruler__fill(out, cwe_form, slot, 1);
    }
    ft_free(bytes);
    return chosen && entry && bytes;
}

ft_status ft_ruler__cwe(const struct ft_ruler_order *order, struct ft_sample *out,
                        struct ft_error *error) {
    bool is_short = order->ctx < SHORT_CTX;
    const struct word_list example = { is_short ? 20 : 40, is_short ? 3 : 10, is_short ? 1 : 3 };
    const struct word_list list = { order->size, is_short ? 6 : 30, is_short ? 1 : 3 };
    struct ft_draw draw = order->draw;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    char common[COMMON][FT_RULER_WORD];
    const char *reference[COMMON];
    (void)error;
    text.is_bad = !add_list(&order->ruler->words, &example, &draw, &text, common) || text.is_bad;
    ft_ruler__addf(&text, "%s ", cwe_prefix);
    for (uint32_t i = 0; i < COMMON; i++) {
        ft_ruler__addf(&text, "%s%u. %s", i > 0 ? " " : "", i + 1, common[i]);
    }
    ft_ruler__add(&text, "\n");
    text.is_bad = !add_list(&order->ruler->words, &list, &draw, &text, common) || text.is_bad;
    ft_ruler__add(&prefix, cwe_prefix);
    for (uint32_t i = 0; i < COMMON; i++) {
        reference[i] = common[i];
    }
    return ft_ruler__turn(out, &text, &prefix, reference, COMMON);
}

/* ---- frequent words ---- */

static const char fwe_form[] =
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?";
static const char fwe_prefix[] =
    " Answer: According to the coded text above, the three most frequently appeared words are:";

/* n different words of CODED random letters behind the dots. */
static void draw_vocabulary(struct ft_draw *draw, char (*word)[CODED + 2], uint32_t n) {
    snprintf(word[0], CODED + 2, "...");
    for (uint32_t i = 1; i < n;) {
        uint32_t same = 1;
        for (uint32_t c = 0; c < CODED; c++) {
            word[i][c] = (char)('a' + ft_ruler__below(draw, 26));
        }
        word[i][CODED] = '\0';
        while (same < i && strcmp(word[same], word[i]) != 0) {
            same++;
        }
        i += same == i;
    }
}

/* How often the word of a rank (from 1) stands in a text of n_word. */
static uint32_t count_of(uint32_t n_word, uint32_t rank) {
    static const double zeta_2 = 1.6449340668482264; /* pi^2 / 6 */
    return (uint32_t)floor((double)n_word / ((double)rank * rank) / zeta_2);
}

static char *coded_text(struct ft_draw *draw, char (*word)[CODED + 2], uint32_t n_vocabulary,
                        uint32_t n_word) {
    struct ft_ruler_text text = { 0 };
    uint32_t n = 0, *entry = ft_alloc((size_t)n_word + 1, sizeof *entry);
    for (uint32_t rank = 1; entry && rank <= n_vocabulary; rank++) {
        for (uint32_t i = count_of(n_word, rank); i > 0; i--) {
            entry[n++] = rank - 1;
        }
    }
    text.is_bad = !entry;
    if (entry) {
        ft_ruler__shuffle(draw, entry, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        ft_ruler__add(&text, i > 0 ? " " : "");
        ft_ruler__add(&text, word[entry[i]]);
    }
    ft_free(entry);
    return ft_ruler__take(&text);
}

ft_status ft_ruler__fwe(const struct ft_ruler_order *order, struct ft_sample *out,
                        struct ft_error *error) {
    uint32_t n_token = order->ctx - FT_MIN(order->ctx, order->task->n_reserve);
    uint32_t n_vocabulary = FT_MAX(n_token / 50, FREQUENT + 1u);
    struct ft_draw draw = order->draw;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    char(*word)[CODED + 2] = ft_alloc(n_vocabulary, sizeof *word);
    char *context = NULL;
    (void)error;
    if (word) {
        draw_vocabulary(&draw, word, n_vocabulary);
        context = coded_text(&draw, word, n_vocabulary, order->size);
    }
    if (!context) {
        ft_free(word);
        return FT_NOMEM;
    }
    const struct ft_ruler_slot slot[] = { { "context", context } };
    ft_ruler__fill(&text, fwe_form, slot, 1);
    ft_ruler__add(&prefix, fwe_prefix);
    const char *const reference[FREQUENT] = { word[1], word[2], word[3] };
    ft_status status = ft_ruler__turn(out, &text, &prefix, reference, FREQUENT);
    ft_free(context);
    ft_free(word);
    return status;
}
