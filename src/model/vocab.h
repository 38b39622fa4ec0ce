/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.h - what two vocabularies have in common; the rest of vocab.c is public (foretoken.h). */
#ifndef FT_MODEL_VOCAB_H
#define FT_MODEL_VOCAB_H

#include "base/base.h"

/* ft_vocab_compare - do both models mean the same by every token id?
 * Padding at the end (ids from n_vocab_real on) may differ in length and text.
 * Errors     FT_MISMATCH naming the first id that differs and both texts; err->where is the id */
ft_status ft_vocab_compare(const ft_model *target, const ft_model *draft, struct ft_error *err);

#endif
