/* SPDX-License-Identifier: Apache-2.0 */
/* kernbench.c - speed of the attention kernels on one thread: GFLOP/s of prefill, GB/s of decode,
 * per variant.
 *
 *   kernbench [rows] [repeats]      defaults 4096 and 5; the median of the repeats is printed
 *
 * Prefill is the whole causal triangle up to 8192 rows, beyond that the last 512 queries.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attn/attn.h"
#include "base/rng.h"

enum { GROUP = 4, MAX_REPEAT = 101 };

struct bench {
    const struct ft_kern *kern;
    struct ft_attn_job job;
    struct ft_span head;
    void *scratch;
    float *state;
    uint32_t n_repeat;
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Processor time of this process: what other programs take of the core does not count. */
static double cpu_us(void) {
    return (double)clock() * 1e6 / CLOCKS_PER_SEC;
}

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "kernbench: out of memory\n");
        exit(1);
    }
    return p;
}

static double median_us(const struct bench *b, void (*run)(const struct bench *)) {
    double us[MAX_REPEAT];
    for (uint32_t r = 0; r < b->n_repeat; r++) {
        double from = cpu_us();
        run(b);
        us[r] = cpu_us() - from;
    }
    qsort(us, b->n_repeat, sizeof us[0], by_value);
    return us[b->n_repeat / 2];
}

static void run_prefill(const struct bench *b) {
    for (uint32_t i = 0; i < ft_attn_item_count(&b->job); i++) {
        ft_attn_dense(b->kern, &b->job, i, b->scratch);
    }
}

static void run_decode(const struct bench *b) {
    for (uint32_t r = 0; r < 20; r++) {
        for (uint32_t i = 0; i < ft_attn_split_count(&b->job); i++) {
            ft_attn_split(b->kern, &b->job, i, b->state, b->scratch);
        }
        ft_attn_join(&b->job, 0, b->state);
    }
}

static void bench_shape(struct bench *b, uint32_t n_row, uint32_t d, enum ft_fmt fmt) {
    size_t row = d * ft_fmt_bytes(fmt);
    uint32_t n_query = n_row <= 8192 ? n_row : 512;
    float *x = must(malloc((size_t)n_row * GROUP * d * sizeof *x));
    char *k = must(aligned_alloc(64, n_row * row)), *v = must(aligned_alloc(64, n_row * row));
    float *out = must(malloc((size_t)n_query * GROUP * d * sizeof *out));
    for (size_t i = 0; i < (size_t)n_row * GROUP * d; i++) {
        x[i] = (float)ft_rng_uniform(1, 0, 0, i) * 2 - 1;
    }
    b->kern->encode(fmt, x, k, (size_t)n_row * d);
    b->kern->encode(fmt, x + (size_t)n_row * d, v, (size_t)n_row * d);
    b->head = (struct ft_span){ k, v, n_row };
    b->job = (struct ft_attn_job){
        .q = x,
        .out = out,
        .head = &b->head,
        .n_query = n_query,
        .n_head = GROUP,
        .n_head_kv = 1,
        .d = d,
        .k_fmt = fmt,
        .v_fmt = fmt,
        .scale = 1 / sqrtf((float)d),
    };
    b->scratch = must(aligned_alloc(64, (ft_attn_scratch_bytes(GROUP, d) + 63) & ~(size_t)63));
    b->state =
        must(malloc((n_row / FT_SPLIT_ROW + 1) * ft_attn_split_floats(GROUP, d) * sizeof(float)));
    double pairs = (n_row - (n_query - 1) / 2.0) * n_query * GROUP;
    double prefill = median_us(b, run_prefill);
    b->job.n_query = 1;
    double decode = median_us(b, run_decode) / 20;
    printf("%-7s d %3u group %u rows %u %-4s  prefill %7.1f GFLOP/s  decode %6.2f GB/s\n",
           b->kern->name, (unsigned)d, (unsigned)GROUP, (unsigned)n_row, ft_fmt_name(fmt),
           pairs * d * 4 / prefill * 1e-3, (double)n_row * (double)row * 2 / decode * 1e-3);
    fflush(stdout);
    free(x);
    free(k);
    free(v);
    free(out);
    free(b->scratch);
    free(b->state);
}

int main(int argc, char **argv) {
    const struct ft_kern *list[4];
    uint32_t n_row = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 4096;
    uint32_t n_repeat = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 5;
    if (n_row < 1 || n_row > 1u << 20 || n_repeat < 1 || n_repeat > MAX_REPEAT) {
        fprintf(stderr, "usage: kernbench [rows, 1 to 1048576] [repeats, 1 to %d]\n", MAX_REPEAT);
        return 2;
    }
    uint32_t n = ft_kern_list(list);
    for (uint32_t i = n; i-- > 1;) { /* not ref: it is not meant to be fast */
        struct bench b = { .kern = list[i], .n_repeat = n_repeat };
        bench_shape(&b, n_row, 64, FT_F16);
        bench_shape(&b, n_row, 128, FT_F16);
    }
    return 0;
}
