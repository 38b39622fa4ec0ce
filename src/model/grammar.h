/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.h - whether a GBNF grammar is one that libllama takes without harm. */
#ifndef FT_MODEL_GRAMMAR_H
#define FT_MODEL_GRAMMAR_H

#include "base/base.h"

/* ft_grammar_check - parse GBNF text with a rule "root" and refuse what libllama would print about,
 * loop over, or run out of stack or memory on.
 *
 *   model    whose tokens <text> names; NULL: such names are refused
 * Errors     FT_FORMAT naming line and cause (err->where = byte), FT_LIMIT, FT_NOMEM */
ft_status ft_grammar_check(const ft_model *model, const char *text, struct ft_error *err);

#endif
