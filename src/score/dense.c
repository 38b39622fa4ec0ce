/* SPDX-License-Identifier: Apache-2.0 */
/* dense.c - the control: every token is read and every row stays.
 *
 * Paper    none
 * Score    none
 * Departs  nowhere known
 * Golden   parity of the dense engine with libllama
 */
#include "score/score.h"

static const struct ft_param table[] = {
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    (void)params;
    (void)facts;
    *out = (struct ft_look){ .source = FT_SOURCE_TARGET };
}

const struct ft_method ft_method_dense = {
    .name = "dense",
    .title = "everything stays",
    .paper = "",
    .file = "src/score/dense.c",
    .act = FT_RETAIN,
    .params = table,
    .look = look,
};
