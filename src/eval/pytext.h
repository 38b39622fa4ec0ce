/* SPDX-License-Identifier: Apache-2.0 */
/* pytext.h - text as Python's str sees it, for scores that are defined by Python programs.
 *
 * Text is UTF-8 and is read by code points, as Python does; a byte that begins no character counts
 * as a code point of its own, beyond Unicode.  Nothing here allocates.
 *
 * Departs    lower case: Latin with its usual accents, Greek and Cyrillic letters; all other
 *            characters stay, and a capital sigma at the end of a word becomes an ordinary one
 *            word characters: of what is not ASCII, the tables name punctuation, symbols, accents
 *            and emoji as far as English text has them; everything else belongs to a word
 */
#ifndef FT_EVAL_PYTEXT_H
#define FT_EVAL_PYTEXT_H

#include "base/base.h"

/* A piece of a text: bytes at .. at + n, borrowed. */
struct ft_piece {
    const char *at;
    size_t n;
};

/* ft_pytext_next - the code point at *at, which moves behind it; *at < end. */
uint32_t ft_pytext_next(const char **at, const char *end);

bool ft_pytext_is_space(uint32_t c); /* str.isspace, and where str.split() splits */
bool ft_pytext_is_word(uint32_t c);  /* \w of re */

/* ft_pytext_split - the next word of text.split(); false: there is none.
 *   at       where to look from; moves behind the word */
bool ft_pytext_split(const char **at, const char *end, struct ft_piece *out);

/* ft_pytext_lower - str.lower() in place: the length in bytes stays. */
void ft_pytext_lower(char *text);
/* ft_pytext_strip - str.strip() in place. */
void ft_pytext_strip(char *text);

#endif
