/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_hay.c - haystacks: RULER's noise, a text of the user's, or sentences made from a seed.
 *
 * RULER splits sentences with nltk's punkt.  Here a sentence ends at a word with . ! or ? at its
 * end (quotes and brackets aside) where the next word begins with no small letter, and the word is
 * neither an initial nor one of a few titles.
 */
#include <stdio.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { DEPTHS = 40, LINES_CAP = 8, MADE_SENTENCES = 4000 };

const char ft_ruler__noise[] =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/* ---- sentences from a seed ---- */

static const char *const adjective[] = { "old",   "quiet", "narrow", "bright", "careful", "distant",
                                         "empty", "early", "gentle", "heavy",  "honest",  "late",
                                         "plain", "rough", "silver", "small",  "steady",  "young" };
static const char *const noun[] = { "harbor", "garden",  "teacher", "window",  "mountain", "letter",
                                    "bridge", "doctor",  "market",  "painter", "orchard",  "river",
                                    "sailor", "kitchen", "village", "library", "carpenter" };
static const char *const verb[] = { "watched", "followed", "remembered", "described", "carried",
                                    "found",   "repaired", "admired",    "left",      "visited",
                                    "drew",    "measured", "forgot",     "praised" };
static const char *const opening[] = { "In the morning", "After the rain", "Before winter",
                                       "Every summer",   "That evening",   "At first",
                                       "Years later",    "Without a word", "On most days" };
static const char *const closing[] = { "near the water",
                                       "before the others came",
                                       "with little to say",
                                       "because nobody else would",
                                       "and then went home",
                                       "as people do in such places",
                                       "for the better part of a week",
                                       "under a pale sky" };

static const char *pick(struct ft_draw *draw, const char *const *list, size_t n) {
    return list[ft_ruler__below(draw, (uint32_t)n)];
}

static char *made_text(uint64_t seed) {
    struct ft_draw draw = ft_draw_new(seed, UINT64_MAX);
    struct ft_ruler_text text = { 0 };
    for (uint32_t i = 0; i < MADE_SENTENCES; i++) {
        uint32_t kind = ft_ruler__below(&draw, 3);
        if (kind == 0) {
            ft_ruler__addf(&text, "%s the ", pick(&draw, opening, FT_COUNT(opening)));
        } else {
            ft_ruler__add(&text, "The ");
        }
        ft_ruler__addf(&text, "%s %s", pick(&draw, adjective, FT_COUNT(adjective)),
                       pick(&draw, noun, FT_COUNT(noun)));
        ft_ruler__addf(&text, " %s the %s", pick(&draw, verb, FT_COUNT(verb)),
                       pick(&draw, noun, FT_COUNT(noun)));
        if (kind == 1) {
            ft_ruler__addf(&text, " of the %s %s", pick(&draw, adjective, FT_COUNT(adjective)),
                           pick(&draw, noun, FT_COUNT(noun)));
        }
        ft_ruler__addf(&text, " %s. ", pick(&draw, closing, FT_COUNT(closing)));
    }
    return ft_ruler__take(&text);
}

/* ---- words and sentences ---- */

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_title(const char *word, size_t n) {
    static const char *const title[] = { "Mr", "Mrs", "Ms", "Dr", "St", "Prof", "vs", "etc" };
    for (size_t i = 0; i < FT_COUNT(title); i++) {
        if (strlen(title[i]) == n && memcmp(title[i], word, n) == 0) {
            return true;
        }
    }
    return n == 1 && word[0] >= 'A' && word[0] <= 'Z';
}

static bool is_end(const char *word, const char *next) {
    size_t n = strlen(word);
    while (n > 0 && (strchr("\"')]}", word[n - 1]) || (unsigned char)word[n - 1] >= 0x80)) {
        n--; /* a curly quote is three bytes beyond ASCII */
    }
    if (n == 0 || !strchr(".!?", word[n - 1]) || (next[0] >= 'a' && next[0] <= 'z')) {
        return false;
    }
    return word[n - 1] != '.' || !is_title(word, n - 1);
}

static uint32_t count_words(const char *text) {
    uint32_t n = 0;
    for (const char *at = text; *at != '\0'; at++) {
        n += !is_blank(*at) && (at == text || is_blank(at[-1]));
    }
    return n;
}

static void cut_words(struct ft_hay *hay) {
    char *at = hay->text;
    for (uint32_t i = 0; i < hay->n; i++) {
        while (is_blank(*at)) {
            at++;
        }
        hay->word[i] = at;
        while (*at != '\0' && !is_blank(*at)) {
            at++;
        }
        if (*at != '\0') {
            *at++ = '\0';
        }
    }
    for (uint32_t i = 0; i < hay->n; i++) {
        hay->is_first[i] = i == 0 || is_end(hay->word[i - 1], hay->word[i]);
    }
}

ft_status ft_ruler__hay(const char *text, uint64_t seed, struct ft_hay *out,
                        struct ft_error *error) {
    struct ft_hay hay = { .text = text ? ft_strdup(text) : made_text(seed) };
    ft_status status = FT_NOMEM;
    if (hay.text) {
        hay.n = count_words(hay.text);
        hay.word = ft_alloc(FT_MAX(hay.n, 1u), sizeof *hay.word);
        hay.is_first = ft_alloc(FT_MAX(hay.n, 1u), sizeof *hay.is_first);
        status = hay.word && hay.is_first ? FT_OK : FT_NOMEM;
    }
    if (status == FT_NOMEM) {
        ft_fail(error, FT_NOMEM, 0, "not enough memory for the haystack");
    } else if (hay.n == 0) {
        status = ft_fail(error, FT_FORMAT, 0, "--haystack: the text holds no word");
    }
    if (status != FT_OK) {
        ft_ruler__hay_done(&hay);
        return status;
    }
    cut_words(&hay);
    *out = hay;
    return FT_OK;
}

void ft_ruler__hay_done(struct ft_hay *hay) {
    ft_free(hay->text);
    ft_free(hay->word);
    ft_free(hay->is_first);
    *hay = (struct ft_hay){ 0 };
}

/* ---- an essay with lines in it ---- */

void ft_ruler__depths(const struct ft_hay *hay, uint32_t n_word, struct ft_draw *draw, uint32_t n,
                      uint32_t *at) {
    uint32_t depth[LINES_CAP], n_sentence = 0, sentence = 0, placed = 0;
    ft_assert(n <= LINES_CAP);
    ft_ruler__places(draw, n, DEPTHS, depth);
    for (uint32_t i = 0; i < n_word; i++) {
        n_sentence += hay->is_first[i % hay->n];
    }
    for (uint32_t i = 0; i < n_word && placed < n; i++) {
        bool is_first = hay->is_first[i % hay->n];
        while (is_first && placed < n) {
            /* percents are rounded first, as RULER does */
            uint32_t percent = (depth[placed] * 200 + DEPTHS - 1) / (2 * (DEPTHS - 1));
            if ((uint32_t)(n_sentence * (percent / 100.0)) > sentence) {
                break;
            }
            at[placed++] = i;
        }
        sentence += is_first;
    }
    while (placed < n) {
        at[placed++] = n_word;
    }
}

uint32_t ft_ruler__border(const struct ft_hay *hay, uint32_t n_word, uint32_t percent) {
    int64_t goal = (int64_t)n_word * percent, nearest = INT64_MAX; /* hundredths of a word */
    uint32_t at = 0;
    for (uint32_t i = 0; i <= n_word; i++) {
        int64_t off = FT_MAX((int64_t)i * 100 - goal, goal - (int64_t)i * 100);
        if ((i == n_word || hay->is_first[i % hay->n]) && off < nearest) {
            nearest = off;
            at = i;
        }
    }
    return at;
}

/* RULER joins parts of the text and lines with one blank each; a part may be empty. */
void ft_ruler__essay(const struct ft_hay *hay, uint32_t n_word, const char *const *line,
                     const uint32_t *at, uint32_t n, struct ft_ruler_text *out) {
    uint32_t placed = 0;
    bool is_part_open = false; /* a word of this part was written */
    for (uint32_t i = 0; i <= n_word; i++) {
        while (placed < n && at[placed] == i) {
            ft_ruler__add(out, " ");
            ft_ruler__add(out, line[placed++]);
            ft_ruler__add(out, " ");
            is_part_open = false;
        }
        if (i < n_word) {
            ft_ruler__add(out, is_part_open ? " " : "");
            ft_ruler__add(out, hay->word[i % hay->n]);
            is_part_open = true;
        }
    }
}
