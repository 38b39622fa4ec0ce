/* SPDX-License-Identifier: Apache-2.0 */
/* step.h - the step of activations that become bytes, 32 at a time. */
#ifndef FT_KERN_STEP_H
#define FT_KERN_STEP_H

#include <immintrin.h>

#include "kern/inline.h"

/* ggml keeps this step in f16, so a rounding of all its products is in it; where f16 has it normal,
 * we have the same. */
INLINE float f16_step(float step) {
    return step >= 0x1p-14f && step <= 65504 ? _cvtsh_ss(_cvtss_sh(step, 0)) : step;
}

#endif
