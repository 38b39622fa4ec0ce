/* SPDX-License-Identifier: Apache-2.0 */
/* kern.c - which kernel table runs on this machine, the row formats' names, and the small shared
 * finishers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kern/kern.h"
#include "kern/words.h"

/* ---- which variant ---- */

uint32_t ft_kern_list(const struct ft_kern *out[FT_KERN_MOST]) {
    uint32_t n = 0;
    out[n++] = &ft_kern_ref;
#if defined(__x86_64__)
    struct ft_cpu cpu = ft_cpu_features();
    if (cpu.has_avx2) {
        out[n++] = &ft_kern_avx2;
    }
    if (cpu.has_avx512) {
        out[n++] = &ft_kern_avx512;
    }
    if (cpu.has_avx512 && cpu.has_vnni) {
        out[n++] = &ft_kern_avx512vnni;
    }
    if (cpu.has_avx512 && cpu.has_bf16 && cpu.has_vnni) {
        out[n++] = &ft_kern_avx512bf16;
    }
#elif defined(__aarch64__)
    out[n++] = &ft_kern_neon;
#endif
    return n;
}

static const struct ft_kern *choose(void) {
    const struct ft_kern *list[FT_KERN_MOST];
    uint32_t n = ft_kern_list(list);
    const char *forced = getenv("FT_KERN");
    if (forced == NULL || forced[0] == '\0') {
        return list[n - 1];
    }
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(forced, list[i]->name) == 0) {
            return list[i];
        }
    }
    ft_log(FT_LOG_WARN,
           "FT_KERN=%s does not name a kernel variant that this machine can run; using %s", forced,
           list[n - 1]->name);
    return list[n - 1];
}

const struct ft_kern *ft_kern(void) {
    static _Atomic(const struct ft_kern *)
        chosen; /* written once; two first callers choose the same */
    const struct ft_kern *kern = atomic_load_explicit(&chosen, memory_order_acquire);
    if (kern == NULL) {
        kern = choose();
        atomic_store_explicit(&chosen, kern, memory_order_release);
    }
    return kern;
}

const char *ft_kern_ignored(void) {
    const char *forced = getenv("FT_KERN");
    bool is_heeded = forced == NULL || forced[0] == '\0' || strcmp(forced, ft_kern()->name) == 0;
    return is_heeded ? NULL : forced;
}

/* ---- row formats ---- */

static const struct {
    const char *name;
    uint32_t n_number, n_byte; /* of a block */
} formats[FT_FMT_COUNT] = {
    [FT_F32] = { "f32", 1, 4 },
    [FT_F16] = { "f16", 1, 2 },
    [FT_BF16] = { "bf16", 1, 2 },
    [FT_Q8_0] = { "q8_0", 32, 34 },
};

size_t ft_fmt_row_bytes(enum ft_fmt fmt, uint32_t d) {
    ft_assert(d % formats[fmt].n_number == 0);
    return (size_t)d / formats[fmt].n_number * formats[fmt].n_byte;
}

const char *ft_fmt_name(enum ft_fmt fmt) {
    return formats[fmt].name;
}

bool ft_fmt_parse(const char *text, enum ft_fmt *out) {
    for (size_t i = 0; i < FT_COUNT(formats); i++) {
        if (strcmp(text, formats[i].name) == 0) {
            *out = (enum ft_fmt)i;
            return true;
        }
    }
    return false;
}

size_t ft_kern_work_bytes(void) {
    /* the arrays of tile.h's struct tile_work, and words.h's; attend_few needs less */
    const size_t panel = (size_t)FT_TILE_ROW * FT_HEAD_MAX, queries = FT_TILE_QUERY;
    size_t floats = 2 * panel + queries * (FT_TILE_ROW + 4);
#if defined(__x86_64__)
    floats += sizeof(struct ft_words) / sizeof(float);
#endif
    /* avx512bf16.c's struct work: pairs of q, K and V, scales of q, scales and sums of K, logits
     * and weights of 16 queries and their factors, a count per query */
    size_t pairs = queries * FT_HEAD_MAX / 2 + panel + queries * FT_HEAD_MAX / 32 + 2 * panel / 32 +
                   16 * (FT_TILE_ROW + FT_TILE_ROW / 2 + 1) + queries;
    /* and, behind either, a block of K and of V, unpacked */
    return (FT_MAX(floats, pairs) + 2 * panel) * sizeof(float);
}

/* ---- finishing a softmax ---- */

void ft_attend_done(uint32_t m, uint32_t d, const float *acc, const float *sum, float *out,
                    size_t out_stride) {
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t t = 0; t < d; t++) {
            out[i * out_stride + t] = sum[i] != 0.0f ? acc[(size_t)i * d + t] / sum[i] : 0.0f;
        }
    }
}

void ft_attend_merge(uint32_t d, float *max, float *sum, float *acc, float max2, float sum2,
                     const float *acc2) {
    if (sum2 == 0.0f) { /* the other state saw no row: its max is -INFINITY */
        return;
    }
    float top = *max > max2 ? *max : max2;
    float keep = *sum == 0.0f ? 0.0f : expf(*max - top), gain = expf(max2 - top);
    for (uint32_t t = 0; t < d; t++) {
        acc[t] = acc[t] * keep + acc2[t] * gain;
    }
    *sum = *sum * keep + sum2 * gain;
    *max = top;
}
