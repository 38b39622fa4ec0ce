/* SPDX-License-Identifier: Apache-2.0 */
/* fold.c - the score of a prompt while the layers and the steps of a draft vote.
 *
 * Within a step the largest layer counts.  Of the steps the largest counts too, or their mean.
 */
#include <string.h>

#include "score/score.h"

ft_status ft_folding_init(struct ft_folding *f, const struct ft_look *look, uint32_t n_head,
                          uint32_t n_head_kv, uint32_t n, struct ft_error *err) {
    *f = (struct ft_folding){
        .look = *look, .n_head = n_head, .n_head_kv = n_head_kv, .n = n, .n_step = 0
    };
    f->score = ft_alloc(n, sizeof *f->score);
    f->step = look->is_step_mean ? ft_alloc(n, sizeof *f->step) : f->score;
    f->pooled = look->head_pool > 0 ? ft_alloc(n, sizeof *f->pooled) : NULL;
    return f->score && f->step && (f->pooled || look->head_pool == 0)
               ? FT_OK
               : ft_fail(err, FT_NOMEM, 0, "no memory for the scores of %u tokens", n);
}

void ft_folding_done(struct ft_folding *f) {
    if (f->step != f->score) {
        ft_free(f->step);
    }
    ft_free(f->score);
    ft_free(f->pooled);
    *f = (struct ft_folding){ .n = 0 };
}

void ft_folding_layer(struct ft_folding *f, const float *column) {
    if (f->look.head_pool == 0) {
        ft_fold_heads(f->look.fold, column, f->n_head_kv, f->n, f->step);
        return;
    }
    for (uint32_t g = 0; g < f->n_head; g++) {
        ft_pool(column + (size_t)g * f->n, f->n, f->look.head_pool, false, f->pooled);
        ft_fold_heads(FT_FOLD_MAX, f->pooled, 1, f->n, f->step);
    }
}

void ft_folding_step(struct ft_folding *f) {
    f->n_step++;
    for (uint32_t j = 0; f->step != f->score && j < f->n; j++) {
        f->score[j] += f->step[j];
        f->step[j] = 0;
    }
}

float *ft_folding_end(struct ft_folding *f) {
    float *score = f->score;
    for (uint32_t j = 0; f->step != f->score && f->n_step > 0 && j < f->n; j++) {
        score[j] /= (float)f->n_step;
    }
    if (f->step == f->score) {
        f->step = NULL;
    }
    f->score = NULL;
    return score;
}
