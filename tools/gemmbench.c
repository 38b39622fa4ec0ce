/* SPDX-License-Identifier: Apache-2.0 */
/* gemmbench.c - speed of the matmul ways on one thread, GFLOP/s per way and weight type.
 *
 *   gemmbench [m] [n] [k] [repeats] [type]   defaults 512, 2048, 2048, 5 and all types
 *
 * Weights are random bits with tame scales, freshly out of memory; unpacking counts, packing of the
 * activations is shown apart.  The median of the repeats is printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "kern/matmul.h"

enum { MAX_REPEAT = 101, MAX_SIZE = 1 << 16 };

/* block: numbers and bytes; half: f16 scales, at these bytes of the block */
static const struct {
    const char *name;
    uint32_t type, block, bytes;
    int half[2];
} types[] = {
    { "q4_0", FT_W_Q4_0, 32, 18, { 0, 0 } },       { "q4_1", FT_W_Q4_1, 32, 20, { 0, 2 } },
    { "q5_0", FT_W_Q5_0, 32, 22, { 0, 0 } },       { "q5_1", FT_W_Q5_1, 32, 24, { 0, 2 } },
    { "q8_0", FT_W_Q8_0, 32, 34, { 0, 0 } },       { "q2_K", FT_W_Q2_K, 256, 84, { 80, 82 } },
    { "q3_K", FT_W_Q3_K, 256, 110, { 108, 108 } }, { "q4_K", FT_W_Q4_K, 256, 144, { 0, 2 } },
    { "q5_K", FT_W_Q5_K, 256, 176, { 0, 2 } },     { "q6_K", FT_W_Q6_K, 256, 210, { 208, 208 } },
    { "f16", FT_W_F16, 1, 2, { 0, 0 } },           { "bf16", FT_W_BF16, 1, 2, { 0, 0 } },
    { "f32", FT_W_F32, 1, 4, { 0, 0 } },
};

struct bench {
    const struct ft_matmul *way;
    struct ft_matmul_item item;
    uint32_t n;
    float *x;
    uint8_t *w;
    void *packed;
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Processor time of this process: what other programs take of the core does not count. */
static double cpu_us(void) {
    return (double)clock() * 1e6 / CLOCKS_PER_SEC;
}

static void *must(size_t n) {
    void *p = aligned_alloc(64, (n + 63) & ~(size_t)63);
    if (p == NULL) {
        fprintf(stderr, "gemmbench: out of memory\n");
        exit(1);
    }
    return p;
}

static void run_pack(const struct bench *b) {
    const struct ft_matmul_item *it = &b->item;
    b->way->pack(b->x, it->k, it->m, it->k, 0, it->m, b->packed);
}

static void run_multiply(const struct bench *b) {
    for (uint32_t c = 0; c < b->n; c += b->way->item_col) {
        struct ft_matmul_item it = b->item;
        it.w = b->w + c * it.w_stride;
        it.y += c;
        it.n_col = FT_MIN(b->way->item_col, b->n - c);
        it.next = c + it.n_col < b->n ? b->w + (c + it.n_col) * it.w_stride : NULL;
        b->way->multiply(&it);
    }
}

static double median_us(const struct bench *b, uint32_t n_repeat,
                        void (*run)(const struct bench *)) {
    double us[MAX_REPEAT];
    run(b);
    for (uint32_t r = 0; r < n_repeat; r++) {
        double from = cpu_us();
        run(b);
        us[r] = cpu_us() - from;
    }
    qsort(us, n_repeat, sizeof us[0], by_value);
    return us[n_repeat / 2];
}

static void fill(uint8_t *w, size_t n_block, size_t at_type) {
    for (size_t i = 0; i < n_block * types[at_type].bytes; i++) {
        w[i] = (uint8_t)(ft_rng_uniform(1, 0, 0, i) * 256);
        if (types[at_type].block == 1) { /* no infinities: exponents near one */
            w[i] = i % types[at_type].bytes == types[at_type].bytes - 1 ? 0x3c : w[i];
        }
    }
    for (size_t b = 0; b < n_block && types[at_type].block > 1; b++) {
        for (int h = 0; h < 2; h++) {
            uint16_t one = 0x2c00;
            memcpy(w + b * types[at_type].bytes + types[at_type].half[h], &one, sizeof one);
        }
    }
}

static void bench_type(const struct ft_matmul *way, size_t at_type, const uint32_t size[3],
                       uint32_t n_repeat) {
    uint32_t m = size[0], n = size[1], k = size[2], type = types[at_type].type;
    if (!way->takes(type, k, false)) {
        return;
    }
    struct bench b = { .way = way, .n = n };
    size_t n_block = (size_t)n * k / types[at_type].block;
    b.w = must(n_block * types[at_type].bytes);
    b.x = must((size_t)m * k * sizeof *b.x);
    b.packed = must(way->packed_bytes(m, k));
    fill(b.w, n_block, at_type);
    for (size_t i = 0; i < (size_t)m * k; i++) {
        b.x[i] = (float)ft_rng_uniform(2, 0, 0, i) * 2 - 1;
    }
    b.item = (struct ft_matmul_item){
        .type = type,
        .w_stride = k / types[at_type].block * types[at_type].bytes,
        .m = m,
        .k = k,
        .packed = b.packed,
        .y = must((size_t)m * n * sizeof(float)),
        .y_stride = n,
        .scratch = must(way->scratch_bytes(k)),
    };
    double pack = median_us(&b, n_repeat, run_pack);
    double us = median_us(&b, n_repeat, run_multiply);
    printf("%-5s %-5s m %u n %u k %u  %7.1f GFLOP/s  pack %5.2f GB/s\n", way->name,
           types[at_type].name, (unsigned)m, (unsigned)n, (unsigned)k,
           2e-3 * (double)m * n * k / us, (double)m * k * 4e-3 / pack);
    fflush(stdout);
    free(b.w);
    free(b.x);
    free(b.packed);
    free(b.item.y);
    free(b.item.scratch);
}

int main(int argc, char **argv) {
    uint32_t size[3] = { 512, 2048, 2048 }, n_repeat = 5;
    for (int i = 1; i < argc && i <= 4; i++) {
        uint32_t most = i == 4 ? MAX_REPEAT : MAX_SIZE, x = (uint32_t)strtoul(argv[i], NULL, 10);
        if (x < 1 || x > most) {
            fprintf(stderr, "usage: gemmbench [m] [n] [k] [repeats, 1 to %d] [type]\n", MAX_REPEAT);
            return 2;
        }
        *(i == 4 ? &n_repeat : &size[i - 1]) = x;
    }
#if defined(__x86_64__)
    struct ft_cpu cpu = ft_cpu_features();
    const struct ft_matmul *way[] = {
        cpu.has_vnni ? &ft_matmul_int8 : NULL,        cpu.has_vnni ? &ft_matmul_int8_k : NULL,
        cpu.has_vnni ? &ft_matmul_int16 : NULL,       cpu.has_bf16 ? &ft_matmul_bf16 : NULL,
        cpu.has_vnni ? &ft_matmul_rows : NULL,        cpu.has_avx2 ? &ft_matmul_int8_avx2 : NULL,
        cpu.has_avx2 ? &ft_matmul_int8_k_avx2 : NULL, cpu.has_avx2 ? &ft_matmul_int16_avx2 : NULL
    };
    for (size_t w = 0; w < FT_COUNT(way); w++) {
        for (size_t i = 0; way[w] != NULL && i < FT_COUNT(types); i++) {
            bool few = way[w] != &ft_matmul_rows || size[0] <= FT_MATMUL_FEW;
            if (few && (argc <= 5 || strcmp(argv[5], types[i].name) == 0)) {
                bench_type(way[w], i, size, n_repeat);
            }
        }
    }
#endif
    return 0;
}
