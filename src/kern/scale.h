/* SPDX-License-Identifier: Apache-2.0 */
/* scale.h - the scales of numbers that become integers. */
#ifndef FT_KERN_SCALE_H
#define FT_KERN_SCALE_H

#include "kern/inline.h"

/* What takes the largest of some numbers to the largest integer, and what takes it back: both zero
 * where the latter would be below the normal numbers. */
INLINE float inverse_of(float max, float most) {
    return max < most * 0x1p-126f ? 0.0f : most / max;
}

INLINE float scale_of(float max, float most) {
    return max < most * 0x1p-126f ? 0.0f : max / most;
}

#endif
