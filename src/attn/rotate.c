/* SPDX-License-Identifier: Apache-2.0 */
/* rotate.c - rows turned by a Hadamard matrix, so that no channel stands out when they are rounded.
 *
 * H / sqrt(d) is orthogonal and its own inverse: queries and keys that are both turned give the
 * logits they gave before, and turned values come back by turning the output.
 */
#include <math.h>

#include "attn/attn.h"

void ft_rotate(const float *from, float *to, size_t n, uint32_t d) {
    ft_assert((d & (d - 1)) == 0);
    float by = 1.0f / sqrtf((float)d);
    for (size_t i = 0; i < n; i++, from += d, to += d) {
        for (uint32_t t = 0; t < d; t++) {
            to[t] = from[t] * by;
        }
        for (uint32_t half = 1; half < d; half *= 2) { /* butterflies: Sylvester's order */
            for (uint32_t first = 0; first < d; first += 2 * half) {
                for (uint32_t t = first; t < first + half; t++) {
                    float a = to[t], b = to[t + half];
                    to[t] = a + b;
                    to[t + half] = a - b;
                }
            }
        }
    }
}
