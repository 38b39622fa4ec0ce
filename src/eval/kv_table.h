/* SPDX-License-Identifier: Apache-2.0 */
/* kv_table.h - what KV methods and formats of rows scored on a model, and the choice among them for so
 * many bytes.
 *
 * The table is made from records of `foretoken eval`: a row for each KV method (without its keep),
 * format and length, with what its rows took as a share of what the dense f16 run of the same record
 * took.  A choice never leaves
 * the measured: of the rows that took no larger share than there is now, at the length nearest to the
 * prompt's, the best score wins.
 */
#ifndef FT_EVAL_KV_TABLE_H
#define FT_EVAL_KV_TABLE_H

#include <jansson.h>

#include "eval/results.h"

/* ft_kv_table_of - [{"kv","kv_type","ctx","share","score","low","high","samples"}, ...] of the cells
 * without a prompt method; the caller's.
 * Errors     FT_NOMEM; FT_ARG where a length has no dense f16 run */
ft_status ft_kv_table_of(const struct ft_results *results, json_t **out, struct ft_error *error);

enum { FT_KV_SPEC_CAP = 256 };
struct ft_kv_pick {
    char kv[FT_KV_SPEC_CAP]; /* without keep; "dense" */
    char kv_type[FT_KV_SPEC_CAP];
    uint32_t ctx, samples;
    double share, score, low, high;
    uint32_t n_fit; /* rows that took no larger share, at this length */
};
/* ft_kv_table_pick - the best row for a prompt of n tokens with at most `share` of dense bytes.  Equal
 * scores: the smaller share, then the earlier row.
 *   has_draft  may the method need a draft's text?
 *   ->       false: none fits */
bool ft_kv_table_pick(const json_t *table, uint32_t n, double share, bool has_draft,
                      struct ft_kv_pick *out);

/* ft_kv_spec_keep - a method's text with another keep, "snapkv:keep=64MiB,window=8"; keep NULL: without
 * one.
 *   ->       false: out is too small */
bool ft_kv_spec_keep(const char *kv, const char *keep, char *out, size_t cap);

#endif
