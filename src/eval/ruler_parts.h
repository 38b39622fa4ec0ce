/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_parts.h - what the files of RULER's tasks share: text, draws, words, haystacks. */
#ifndef FT_EVAL_RULER_PARTS_H
#define FT_EVAL_RULER_PARTS_H

#include "base/rng.h"
#include "eval/blocks.h"
#include "eval/ruler.h"

/* ---- text (ruler_text.c) ---- */

struct ft_ruler_text { /* a growing string; a failure is remembered until it is taken */
    char *bytes;
    size_t n, cap;
    bool is_bad;
};
void ft_ruler__add(struct ft_ruler_text *text, const char *more);
void ft_ruler__addf(struct ft_ruler_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
struct ft_ruler_slot {
    const char *name, *value;
};
/* ft_ruler__fill - a template with every {name} replaced by its value. */
void ft_ruler__fill(struct ft_ruler_text *text, const char *form, const struct ft_ruler_slot *slot,
                    uint32_t n);
/* ft_ruler__take - the string, which the caller frees with ft_free; NULL: no memory. */
char *ft_ruler__take(struct ft_ruler_text *text);

/* ---- draws (ruler_text.c) ---- */

uint32_t ft_ruler__below(struct ft_draw *draw, uint32_t n); /* 0..n-1, n >= 1 */
/* ft_ruler__choose - the first n_first places of a permutation of n_all indices.
 *   ->       [n_all] the caller frees with ft_free; NULL: no memory */
uint32_t *ft_ruler__choose(struct ft_draw *draw, uint32_t n_first, uint32_t n_all);
/* ft_ruler__places - n different numbers below n_all, ascending; n <= n_all. */
void ft_ruler__places(struct ft_draw *draw, uint32_t n, uint32_t n_all, uint32_t *out);
void ft_ruler__shuffle(struct ft_draw *draw, uint32_t *value, uint32_t n);

/* ---- words (ruler_words.c) ---- */

enum { FT_RULER_WORD = 33 }; /* bytes of a word with its end */
struct ft_lexicon {
    char *text;  /* owned; NULL: words are generated */
    char **word; /* [n] in text, ascending, each once */
    uint32_t n;
};
ft_status ft_ruler__lexicon(const char *text, struct ft_lexicon *out, struct ft_error *error);
void ft_ruler__lexicon_done(struct ft_lexicon *words);
/* ft_ruler__word - word i < n; generated ones are five letters that can be pronounced. */
const char *ft_ruler__word(const struct ft_lexicon *words, uint32_t i, char out[FT_RULER_WORD]);

/* ---- haystacks (ruler_hay.c) ---- */

struct ft_hay {
    char *text;        /* owned; words end with NUL */
    const char **word; /* [n] */
    bool *is_first;    /* [n] of a sentence */
    uint32_t n;
};
/* ft_ruler__hay - split a text into words and sentences; NULL: write one from the seed. */
ft_status ft_ruler__hay(const char *text, uint64_t seed, struct ft_hay *out,
                        struct ft_error *error);
void ft_ruler__hay_done(struct ft_hay *hay);
/* The first n_word words of a haystack are an essay; it begins again where it ends. */
/* ft_ruler__depths - n different depths, out of 40 from 0 to 100 % of the sentences.
 *   at       [n] first words of sentences, ascending; n_word: behind the last one */
void ft_ruler__depths(const struct ft_hay *hay, uint32_t n_word, struct ft_draw *draw, uint32_t n,
                      uint32_t *at);
/* ft_ruler__border - the first word of a sentence, or n_word, nearest to percent of the words. */
uint32_t ft_ruler__border(const struct ft_hay *hay, uint32_t n_word, uint32_t percent);
/* ft_ruler__essay - an essay with n lines, each in front of the word at[i], ascending. */
void ft_ruler__essay(const struct ft_hay *hay, uint32_t n_word, const char *const *line,
                     const uint32_t *at, uint32_t n, struct ft_ruler_text *out);
extern const char ft_ruler__noise[]; /* RULER's five sentences */

/* ---- questions over documents (ruler_qa.c) ---- */

struct ft_qa_question {
    char *query;
    char **answer;
    uint32_t n_answer;
    uint32_t *doc; /* [n_doc] n_gold that hold the answer, then those of the same article */
    uint32_t n_gold, n_doc;
};
struct ft_qa {
    char **doc; /* [n_doc] each once */
    uint32_t n_doc, doc_cap;
    struct ft_qa_question *question;
    uint32_t n_question, question_cap;
};
/* ft_ruler__squad, ft_ruler__hotpot - from JSON; NULL: made from the seed. */
ft_status ft_ruler__squad(const char *text, uint64_t seed, struct ft_qa *out,
                          struct ft_error *error);
ft_status ft_ruler__hotpot(const char *text, uint64_t seed, struct ft_qa *out,
                           struct ft_error *error);
void ft_ruler__qa_done(struct ft_qa *qa);

/* ---- tasks (ruler.c has the table) ---- */

struct ft_ruler {
    struct ft_ruler_params params; /* the texts are not used any more */
    bool has_haystack, has_words, has_squad, has_hotpot;
    struct ft_lexicon words;
    struct ft_hay hay;
    struct ft_qa squad, hotpot;
};

enum ft_ruler_hay { FT_HAY_NOISE, FT_HAY_ESSAY, FT_HAY_NEEDLES };
enum ft_ruler_kind { FT_KIND_WORD, FT_KIND_NUMBER, FT_KIND_UUID };

/* What to build: everything a sample depends on, and how much hay. */
struct ft_ruler_order {
    const struct ft_ruler *ruler;
    const struct ft_ruler_task *task;
    uint32_t ctx, index;
    bool has_depth;      /* else depths are drawn */
    uint32_t depth;      /* of the only needle, percent */
    struct ft_draw draw; /* at its start: every size draws the same keys */
    uint32_t size;
};
/* A builder fills text, prefix and references of every turn.  FT_NOMEM needs no message. */
typedef ft_status (*ft_ruler_build)(const struct ft_ruler_order *order, struct ft_sample *out,
                                    struct ft_error *error);

struct ft_ruler_task {
    const char *name;
    ft_ruler_build build;
    /* tokens to generate, which RULER also reserves; without the begun answer */
    uint32_t n_reserve, n_free;
    uint32_t size_min; /* units of hay: words, lines, documents */
    enum ft_ruler_hay hay;
    enum ft_ruler_kind key, value;
    uint8_t n_key, n_value, n_query, n_turn;
    bool is_part; /* one reference is enough */
    bool is_ours;
};

ft_status ft_ruler__niah(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error);
ft_status ft_ruler__shared(const struct ft_ruler_order *order, struct ft_sample *out,
                           struct ft_error *error);
ft_status ft_ruler__vt(const struct ft_ruler_order *order, struct ft_sample *out,
                       struct ft_error *error);
ft_status ft_ruler__chain(const struct ft_ruler_order *order, struct ft_sample *out,
                          struct ft_error *error);
ft_status ft_ruler__cwe(const struct ft_ruler_order *order, struct ft_sample *out,
                        struct ft_error *error);
ft_status ft_ruler__fwe(const struct ft_ruler_order *order, struct ft_sample *out,
                        struct ft_error *error);
ft_status ft_ruler__qa_1(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error);
ft_status ft_ruler__qa_2(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error);

/* ft_ruler__turn - take both texts and copies of the references as one more turn. */
ft_status ft_ruler__turn(struct ft_sample *sample, struct ft_ruler_text *text,
                         struct ft_ruler_text *prefix, const char *const *reference, uint32_t n);

/* ft_ruler__fit - the largest size whose text has at most `limit` tokens.
 *
 *   measure  tokens at a size; they grow with it, but for a few
 *   best     out; 0 when even `low` is too much, then *n_token is what that takes
 * Cost       about ten measures */
struct ft_ruler_fit {
    ft_status (*measure)(void *user, uint32_t size, uint32_t *n_token, struct ft_error *error);
    void *user;
    uint32_t low, high, limit;
};
ft_status ft_ruler__fit(const struct ft_ruler_fit *fit, uint32_t *best, uint32_t *n_token,
                        struct ft_error *error);

#endif
