/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - one prefill for several sessions.
 *
 * Which rows stay is decided layer by layer from evidence that does not depend on how many may stay:
 * sessions that ask the same tokens for the same votes can each take their rows out of one prefill
 * (compress.c).  What they hold then has the same bits as if each had read the prompt by itself.
 */
#include <string.h>

#include "engine/engine.h"

struct ft_votes ft_votes_of(const ft_session *s, uint32_t n_read) {
    const struct ft_plan *plan = &s->plan;
    const struct ft_look *look = &plan->kv_look;
    return (struct ft_votes){
        .column = look->column,
        .n_col = plan->n_input - (plan->kv_aux > 0 ? 0 : look->window + look->refeed),
        .n_voter = ft_voters(look, plan->n_input, n_read),
        .red = ft_reduce_of(look->fold),
        .is_per_head = look->is_group_max,
        .is_sparse = look->prefill_window > 0 &&
                     n_read > (uint64_t)look->prefill_window + look->prefill_vertical,
    };
}

static bool is_same_vote(const struct ft_votes *a, const struct ft_votes *b) {
    bool is_place_alone = a->column == FT_COLUMN_NONE;
    return a->column == b->column &&
           (is_place_alone || (a->n_col == b->n_col && a->n_voter == b->n_voter &&
                               a->red == b->red && a->is_per_head == b->is_per_head));
}

/* Are tokens and rows of the prompt the same numbers in both? */
static bool is_same_reading(const ft_session *a, const ft_session *b) {
    const struct ft_session_params *p = &a->params, *q = &b->params;
    const struct ft_kv_format *f = &a->format, *g = &b->format;
    return a->target == b->target && a->draft == b->draft && p->self_layers == q->self_layers &&
           p->is_exact == q->is_exact &&
           memcmp(&p->rope_scale, &q->rope_scale, sizeof(float)) == 0 && p->n_ctx == q->n_ctx &&
           f->k_fmt == g->k_fmt && f->v_fmt == g->v_fmt && f->is_k_rotated == g->is_k_rotated &&
           f->is_v_rotated == g->is_v_rotated;
}

/* Rows leave behind each layer of one read of the whole prompt, chosen from folded votes. */
static bool is_plain(const ft_session *s) {
    const struct ft_plan *plan = &s->plan;
    return plan->is_kv_on && !plan->is_kv_whole && !plan->is_kv_capped && !plan->is_prompt_on &&
           plan->n_trial == 0 && !s->kv.method->observe && !s->params.is_auto &&
           !ft_votes_of(s, plan->n_input + plan->n_text).is_sparse;
}

bool ft_share_may(const ft_session *a, const ft_session *b) {
    const struct ft_plan *p = &a->plan, *q = &b->plan;
    if (!is_plain(a) || !is_plain(b) || !is_same_reading(a, b)) {
        return false;
    }
    const struct ft_votes x = ft_votes_of(a, p->n_input + p->n_text),
                          y = ft_votes_of(b, q->n_input + q->n_text);
    return a->kv.method == b->kv.method && p->n_prompt == q->n_prompt && p->n_input == q->n_input &&
           p->n_text == q->n_text && p->n_step == q->n_step && p->kv_aux == q->kv_aux &&
           p->pos_first == q->pos_first && p->kv_look.refeed == q->kv_look.refeed &&
           is_same_vote(&x, &y);
}
