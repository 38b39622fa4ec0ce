/* SPDX-License-Identifier: Apache-2.0 */
/* variants.h - entries of one variant's table that stand in another file or another variant's table. */
#ifndef FT_KERN_VARIANTS_H
#define FT_KERN_VARIANTS_H

#include "kern/kern.h"

/* attend_few of the AVX-512 variants; vnni: q8_0 rows in products of small integers, for machines
 * with AVX512_VNNI */
void ft_kern__few_avx512(const struct ft_attend *a);
void ft_kern__few_avx512vnni(const struct ft_attend *a);
/* attend_blocks of all variants for x86 */
void ft_kern__blocks_avx2(const struct ft_attend_blocks *a);

#endif
