/* SPDX-License-Identifier: Apache-2.0 */
/* cut.h - where long text may be cut so that libllama can tokenise it piece by piece. */
#ifndef FT_MODEL_CUT_H
#define FT_MODEL_CUT_H

#include "base/base.h"

enum { FT_CUT_NONE = 4096 }; /* text of so many bytes needs no cut */

enum ft_cut_kind {
    FT_CUT_REGEX, /* BPE on std::regex */
    FT_CUT_HAND,  /* BPE on hand-written code */
    FT_CUT_SPM,   /* SentencePiece */
};

struct ft_cut {
    const ft_model *model;
    enum ft_cut_kind kind;
    bool has_space;       /* a special token holds a word, a space and more: spaces are no seams */
    bool is_last[256];    /* last bytes of special tokens */
    const char **special; /* [n_special] texts, borrowed from libllama */
    uint32_t n_special;
};

/* ft_model__cut_init - look at the vocabulary; done with ft_model__cut_done, also after a failure.
 *   parse    control tokens are looked for in the text too
 * Errors     FT_NOMEM */
ft_status ft_model__cut_init(struct ft_cut *cut, const ft_model *model, bool parse,
                             struct ft_error *err);
void ft_model__cut_done(struct ft_cut *cut);

/* ft_model__cut_next - where the piece that starts at byte `from` of text [n] ends; text is UTF-8.
 *   is_fresh   the next piece starts as a text of its own (behind a special token) */
size_t ft_model__cut_next(const struct ft_cut *cut, const char *text, size_t from, size_t n,
                          bool *is_fresh);

#endif
