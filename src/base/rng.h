/* SPDX-License-Identifier: Apache-2.0 */
/* rng.h - randomness as a value: f(seed, layer, head, position), so that nothing depends on the
 * order in which threads or chunks ask for it.
 *
 * The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per coordinate.
 */
#ifndef FT_BASE_RNG_H
#define FT_BASE_RNG_H

#include <stdint.h>

static inline uint64_t ft_rng_mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* ft_rng_value - 64 random bits for one coordinate. */
static inline uint64_t ft_rng_value(uint64_t seed, uint32_t layer, uint32_t head,
                                    uint64_t position) {
    uint64_t place = ft_rng_mix((uint64_t)layer << 32 | head);
    return ft_rng_mix(ft_rng_mix(ft_rng_mix(seed) ^ place) ^ position);
}

/* ft_rng_uniform - the same, as a number in [0, 1). */
static inline double ft_rng_uniform(uint64_t seed, uint32_t layer, uint32_t head,
                                    uint64_t position) {
    return (double)(ft_rng_value(seed, layer, head, position) >> 11) * 0x1p-53;
}

#endif
