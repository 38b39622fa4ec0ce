/* SPDX-License-Identifier: Apache-2.0 */
/* rope.c - how far RoPE turns each pair of a head's channels from one position to the next.
 *
 *     turn[i] = base^(-2i/d) / factor[i]                        plain; factor: rope_freqs, or 1
 *     linear    turn[i] * scale
 *     YaRN      between the two: pairs that turn more than 32 times over the original context stay
 *               as they are, pairs that turn less than once are scaled, those between are mixed
 *
 * The angle at a position is position * turn, so a rotated key moves to another position by one
 * more rotation.  YaRN's factor on the length of keys is not part of it: it is there already.
 * Source     RoPE arXiv:2104.09864; YaRN arXiv:2309.00071, sections 3.1 and 3.2; the twin is
 *            ggml_rope_ext as graph.c calls it (tests/unit/test_evict.c)
 */
#include <math.h>

#include "ggml.h"

#include "model/load.h"

static const double pi = 3.14159265358979323846;

/* The pair that turns n times over the original context, counted from 0, not rounded. */
static double pair_turning(const struct ft_hparams *hp, double n) {
    return hp->head_dim * log(hp->rope_n_ctx_orig / (n * 2 * pi)) /
           (2 * log((double)hp->rope_base));
}

void ft_model_turns(const ft_model *model, float rope_scale, double *turn) {
    const struct ft_hparams *hp = &model->hp;
    const float *factor = model->rope_freqs ? model->rope_freqs->data : NULL;
    double scale = (double)hp->rope_freq_scale / (rope_scale > 1.0f ? (double)rope_scale : 1.0);
    double first = fmax(0, floor(pair_turning(hp, 32)));
    double last = fmin(hp->head_dim - 1.0, ceil(pair_turning(hp, 1)));
    for (uint32_t i = 0; i < hp->head_dim / 2; i++) {
        double plain = pow((double)hp->rope_base, -2.0 * i / hp->head_dim);
        plain /= factor ? (double)factor[i] : 1;
        double t = fmin(1, fmax(0, (i - first) / fmax(0.001, last - first)));
        double kept = (double)hp->rope_ext_factor * (1 - t); /* share that is not scaled */
        turn[i] = plain * (kept + (1 - kept) * scale);
    }
}
