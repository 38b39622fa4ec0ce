/* SPDX-License-Identifier: Apache-2.0 */
/* kernbench.c - speed of the attention kernels: GFLOP/s of prefill on one thread, GB/s of decode on
 * one or more, per variant and row format, beside what this machine's products and memory give; and
 * over packed blocks the same of the last 512 queries, and nanoseconds per row of decode, beside rows
 * of f16.
 *
 *   kernbench [rows] [repeats] [threads]     defaults 4096, 5 and 1; the median of the repeats
 *
 * Prefill is the whole causal triangle up to 8192 rows, beyond that the last 512 queries; its
 * multiply-adds are counted for visible pairs only.  Decode walks as many heads as fill 256 MiB, so
 * that rows (256 and more of a head) come from memory and not from a cache.  One thread is timed by
 * the processor's clock, so that other programs do not count; several share memory, and are timed
 * by the wall's.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attn/attn.h"
#include "base/rng.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { GROUP = 4, MAX_REPEAT = 101, MAX_HEAD = 4096, MAX_THREAD = 64, MEMORY = 256 << 20 };

struct bench {
    const struct ft_kern *kern;
    struct ft_attn_job job;
    struct ft_span head[MAX_HEAD];
    void *scratch[MAX_THREAD];
    float *state;
    uint32_t n_repeat, n_thread, n_head; /* n_head: of decode */
    size_t head_bytes;                   /* of one head's K or V */
    double ceiling, read_rate;           /* GFLOP/s or 0, GB/s */
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef double (*clock_fn)(void); /* us */

/* Processor time of this process: what other programs take of the core does not count. */
static double cpu_us(void) {
    return (double)clock() * 1e6 / CLOCKS_PER_SEC;
}

static double wall_us(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "kernbench: out of memory\n");
        exit(1);
    }
    return p;
}

static double median_us(const struct bench *b, clock_fn now, void (*run)(const struct bench *)) {
    double us[MAX_REPEAT];
    for (uint32_t r = 0; r < b->n_repeat; r++) {
        double from = now();
        run(b);
        us[r] = now() - from;
    }
    qsort(us, b->n_repeat, sizeof us[0], by_value);
    return us[b->n_repeat / 2];
}

/* ---- threads ---- */

struct part {
    const struct bench *b;
    void (*run)(const struct part *part);
    const uint64_t *memory; /* of read_rate */
    uint32_t index;
    pthread_t thread;
};

static void *part_main(void *arg) {
    const struct part *part = arg;
    part->run(part);
    return NULL;
}

static void run_parts(const struct bench *b, const uint64_t *memory,
                      void (*run)(const struct part *)) {
    struct part part[MAX_THREAD];
    for (uint32_t i = 0; i < b->n_thread; i++) {
        part[i] = (struct part){ .b = b, .run = run, .memory = memory, .index = i };
        if (i > 0 && pthread_create(&part[i].thread, NULL, part_main, &part[i]) != 0) {
            fprintf(stderr, "kernbench: no thread\n");
            exit(1);
        }
    }
    run(&part[0]);
    for (uint32_t i = 1; i < b->n_thread; i++) {
        pthread_join(part[i].thread, NULL);
    }
}

static clock_fn clock_of(const struct bench *b) {
    return b->n_thread == 1 ? cpu_us : wall_us;
}

/* ---- what the machine gives ---- */

#if defined(__x86_64__)
/* GFLOP/s of vdpbf16ps out of registers: 24 independent sums, as in the kernel; 0: no such
 * instruction. */
__attribute__((target("avx512f,avx512bf16"))) static double bf16_ceiling(void) {
    enum { SUM = 24, ROUND = 1000000 };
    if (!ft_cpu_features().has_bf16) {
        return 0;
    }
    double best = 0;
    for (int r = 0; r < 5; r++) {
        __m512 sum[SUM];
        __m512i x = _mm512_set1_epi32(0x3f803f80);
        for (int i = 0; i < SUM; i++) {
            sum[i] = _mm512_set1_ps((float)i); /* equal sums would be one */
        }
        double from = cpu_us();
        for (int n = 0; n < ROUND; n++) {
#pragma GCC unroll 24
            for (int i = 0; i < SUM; i++) {
                sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x, (__m512bh)x);
            }
            __asm__ volatile("" : "+v"(x)); /* not one product for all rounds */
        }
        double us = cpu_us() - from;
        for (int i = 1; i < SUM; i++) {
            sum[0] = _mm512_add_ps(sum[0], sum[i]);
        }
        volatile float sink = _mm512_reduce_add_ps(sum[0]);
        (void)sink;
        best = fmax(best, 64.0 * SUM * ROUND / us * 1e-3);
    }
    return best;
}

/* GFLOP/s of f32 multiply-adds in 256 bits, likewise. */
__attribute__((target("avx2,fma"))) static double f32_ceiling(void) {
    enum { SUM = 12, ROUND = 2000000 };
    if (!ft_cpu_features().has_avx2) {
        return 0;
    }
    double best = 0;
    for (int r = 0; r < 5; r++) {
        __m256 sum[SUM], x = _mm256_set1_ps(1e-3f);
        for (int i = 0; i < SUM; i++) {
            sum[i] = _mm256_set1_ps((float)i); /* equal sums would be one */
        }
        double from = cpu_us();
        for (int n = 0; n < ROUND; n++) {
#pragma GCC unroll 12
            for (int i = 0; i < SUM; i++) {
                sum[i] = _mm256_fmadd_ps(x, x, sum[i]);
            }
            __asm__ volatile("" : "+x"(x)); /* not one product for all rounds */
        }
        double us = cpu_us() - from;
        for (int i = 1; i < SUM; i++) {
            sum[0] = _mm256_add_ps(sum[0], sum[i]);
        }
        volatile float sink = _mm256_cvtss_f32(sum[0]);
        (void)sink;
        best = fmax(best, 16.0 * SUM * ROUND / us * 1e-3);
    }
    return best;
}
#else
static double bf16_ceiling(void) {
    return 0;
}

static double f32_ceiling(void) {
    return 0;
}
#endif

/* A number of each line of a thread's share. */
static void read_part(const struct part *part) {
    size_t n = MEMORY / sizeof *part->memory / part->b->n_thread / 8 * 8;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i += 8) {
        sum += part->memory[part->index * n + i];
    }
    volatile uint64_t sink = sum;
    (void)sink;
}

/* GB/s of reading a buffer that no cache holds. */
static double read_rate(const struct bench *b) {
    uint64_t *x = must(aligned_alloc(64, MEMORY));
    double best = 0;
    memset(x, 1, MEMORY);
    for (int r = 0; r < 5; r++) {
        double from = clock_of(b)();
        run_parts(b, x, read_part);
        best = fmax(best, MEMORY / (clock_of(b)() - from) * 1e-3);
    }
    free(x);
    return best;
}

/* ---- the kernels ---- */

static void run_prefill(const struct bench *b) {
    for (uint32_t i = 0; i < ft_attn_item_count(&b->job); i++) {
        ft_attn_dense(b->kern, &b->job, i, b->scratch[0]);
    }
}

static void decode_part(const struct part *part) {
    const struct bench *b = part->b;
    for (uint32_t i = part->index; i < ft_attn_split_count(&b->job); i += b->n_thread) {
        ft_attn_split(b->kern, &b->job, i, b->state, b->scratch[part->index]);
    }
}

static void run_decode(const struct bench *b) {
    run_parts(b, NULL, decode_part);
    for (uint32_t h = 0; h < b->job.n_head_kv; h++) {
        ft_attn_join(&b->job, h, b->state);
    }
}

/* n_head copies of one head's rows, and queries for all of them; -> the bytes of K and V. */
static double job_make(struct bench *b, uint32_t n_row, uint32_t n_query, uint32_t d,
                       enum ft_fmt fmt) {
    size_t head = n_row * ft_fmt_row_bytes(fmt, d);
    uint32_t n_head = (uint32_t)FT_MIN(MEMORY / (2 * head) + 1, (size_t)MAX_HEAD);
    size_t n_q = (size_t)FT_MAX(n_query, n_head) * GROUP * d, n_x = FT_MAX(n_q, (size_t)n_row * d);
    float *x = must(malloc(n_x * sizeof *x)), *out = must(malloc(n_q * sizeof *out));
    for (size_t i = 0; i < n_x; i++) {
        x[i] = (float)ft_rng_uniform(1, 0, 0, i) * 2 - 1;
    }
    for (uint32_t h = 0; h < n_head; h++) {
        char *k = must(ft_pages_map(head)), *v = must(ft_pages_map(head));
        ft_pages_large(k, head); /* as the KV store does */
        ft_pages_large(v, head);
        if (h == 0) {
            b->kern->encode(fmt, x, k, (size_t)n_row * d);
        } else {
            memcpy(k, b->head[0].k, head);
        }
        memcpy(v, k, head);
        b->head[h] = (struct ft_span){ .k = k, .v = v, .n_row = n_row };
    }
    b->job = (struct ft_attn_job){
        .q = x,
        .out = out,
        .head = b->head,
        .n_query = n_query,
        .n_head = GROUP,
        .n_head_kv = 1,
        .d = d,
        .k_fmt = fmt,
        .v_fmt = fmt,
        .scale = 1 / sqrtf((float)d),
    };
    for (uint32_t i = 0; i < b->n_thread; i++) {
        size_t n = (ft_attn_scratch_bytes(GROUP, d) + 63) & ~(size_t)63;
        b->scratch[i] = must(aligned_alloc(64, n));
    }
    b->state = must(malloc((n_row / FT_SPLIT_ROW + 1) * n_head * ft_attn_split_floats(GROUP, d) *
                           sizeof(float)));
    b->n_head = n_head;
    b->head_bytes = head;
    return 2.0 * (double)head * n_head;
}

static void job_free(struct bench *b) {
    for (uint32_t h = 0; h < b->n_head; h++) {
        ft_pages_unmap((void *)(uintptr_t)b->head[h].k, b->head_bytes);
        ft_pages_unmap((void *)(uintptr_t)b->head[h].v, b->head_bytes);
    }
    free((void *)(uintptr_t)b->job.q);
    free(b->job.out);
    for (uint32_t i = 0; i < b->n_thread; i++) {
        free(b->scratch[i]);
    }
    free(b->state);
}

static void bench_shape(struct bench *b, uint32_t n_row, uint32_t d, enum ft_fmt fmt) {
    uint32_t n_query = n_row <= 8192 ? n_row : 512;
    double n_byte = job_make(b, n_row, n_query, d, fmt);
    double pairs = (n_row - (n_query - 1) / 2.0) * n_query * GROUP;
    double prefill = pairs * d * 4 / median_us(b, cpu_us, run_prefill) * 1e-3;
    b->job.n_query = 1;
    b->job.n_head_kv = b->n_head;
    b->job.n_head = b->n_head * GROUP;
    double decode = n_byte / median_us(b, clock_of(b), run_decode) * 1e-3;
    printf("%-10s d %3u group %u rows %u %-4s  prefill %6.1f GFLOP/s", b->kern->name, (unsigned)d,
           (unsigned)GROUP, (unsigned)n_row, ft_fmt_name(fmt), prefill);
    if (b->ceiling > 0) {
        printf(" %3.0f %%", prefill / b->ceiling * 100);
    }
    printf("  decode %6.2f GB/s %3.0f %%\n", decode, decode / b->read_rate * 100);
    fflush(stdout);
    job_free(b);
}

/* ---- packed blocks ---- */

struct packed {
    const char *name;
    struct ft_pack k, v;
    bool has_mean;
};

static const struct packed packed_cases[] = {
    { "f16 rows", { .bits = 16 }, { .bits = 16 }, false }, /* attend_few */
    { "q8 KIVI", { .bits = 8, .by = FT_BY_CHANNEL }, { .bits = 8, .by = FT_BY_TOKEN }, false },
    { "q4 KIVI", { .bits = 4, .by = FT_BY_CHANNEL }, { .bits = 4, .by = FT_BY_TOKEN }, false },
    { "q4 g32",
      { .bits = 4, .by = FT_BY_CHANNEL, .group = 32 },
      { .bits = 4, .by = FT_BY_TOKEN, .group = 32 },
      false },
    { "q4 token", { .bits = 4, .by = FT_BY_TOKEN }, { .bits = 4, .by = FT_BY_TOKEN }, false },
    { "q4 channel", { .bits = 4, .by = FT_BY_CHANNEL }, { .bits = 4, .by = FT_BY_CHANNEL }, false },
    { "q2 KIVI", { .bits = 2, .by = FT_BY_CHANNEL }, { .bits = 2, .by = FT_BY_TOKEN }, false },
    { "K8 V4", { .bits = 8, .by = FT_BY_CHANNEL }, { .bits = 4, .by = FT_BY_TOKEN }, false },
    { "K16 V4", { .bits = 16 }, { .bits = 4, .by = FT_BY_TOKEN }, false },
    { "q4 mean", { .bits = 4, .by = FT_BY_TOKEN }, { .bits = 4, .by = FT_BY_TOKEN }, true },
};

/* n_head heads of n_block blocks. */
struct packed_bench {
    struct bench b;
    const struct packed *c;
    char *k, *v;
    void *mean;
    float *q;
    uint32_t n_head, n_block, d;
    size_t k_block, v_block;
};

static bool is_plain(const struct packed *c) {
    return c->k.bits == 16 && c->v.bits == 16;
}

static void packed_head(const struct packed_bench *p, uint32_t h, void *work) {
    float max[GROUP], sum[GROUP] = { 0 }, acc[GROUP * FT_HEAD_MAX] = { 0 };
    char *k = p->k + (size_t)h * p->n_block * p->k_block,
         *v = p->v + (size_t)h * p->n_block * p->v_block;
    for (uint32_t i = 0; i < GROUP; i++) {
        max[i] = -INFINITY;
    }
    if (is_plain(p->c)) {
        size_t row = ft_fmt_row_bytes(FT_F16, p->d);
        p->b.kern->attend_few(&(struct ft_attend){
            .q = p->q,
            .k = k,
            .v = v,
            .max = max,
            .sum = sum,
            .acc = acc,
            .work = work,
            .q_stride = p->d,
            .k_stride = row,
            .v_stride = row,
            .m = GROUP,
            .n = p->n_block * FT_BLOCK_ROW,
            .d = p->d,
            .k_fmt = FT_F16,
            .v_fmt = FT_F16,
            .scale = 1 / sqrtf((float)p->d),
        });
        return;
    }
    p->b.kern->attend_blocks(&(struct ft_attend_blocks){
        .q = p->q,
        .k = k,
        .v = v,
        .k_mean = p->mean,
        .v_mean = p->mean,
        .max = max,
        .sum = sum,
        .acc = acc,
        .work = work,
        .q_stride = p->d,
        .k_stride = p->k_block,
        .v_stride = p->v_block,
        .m = GROUP,
        .n_block = p->n_block,
        .d = p->d,
        .k_pack = p->c->k,
        .v_pack = p->c->v,
        .scale = 1 / sqrtf((float)p->d),
    });
}

static void packed_part(const struct part *part) {
    const struct packed_bench *p = (const struct packed_bench *)part->b;
    for (uint32_t h = part->index; h < p->n_head; h += p->b.n_thread) {
        packed_head(p, h, p->b.scratch[part->index]);
    }
}

static void run_packed(const struct bench *b) {
    run_parts(b, NULL, packed_part);
}

static void run_packed_cached(const struct bench *b) {
    const struct packed_bench *p = (const struct packed_bench *)b;
    for (uint32_t h = 0; h < p->n_head; h++) {
        packed_head(p, 0, p->b.scratch[0]);
    }
}

/* GFLOP/s of the last queries of one head, as many as are fed at a time, behind blocks; where nothing
 * is packed, behind rows of f16.  Their own rows are f16. */
static double packed_prefill(struct packed_bench *p) {
    enum { MOST_QUERY = 512 };
    uint32_t rows = p->n_block * FT_BLOCK_ROW, n_query = FT_MIN(rows, (uint32_t)MOST_QUERY);
    size_t n = (size_t)n_query * p->d;
    void *own = must(malloc(n * sizeof(uint16_t)));
    float *q = must(malloc(n * GROUP * sizeof *q)), *out = must(malloc(n * GROUP * sizeof *out));
    p->b.kern->encode(FT_F16, p->q, own, n);
    for (size_t i = 0; i < n * GROUP; i++) {
        q[i] = (float)ft_rng_uniform(2, 0, 0, i) * 2 - 1;
    }
    struct ft_span *head = &p->b.head[0];
    *head = is_plain(p->c) ? (struct ft_span){ .k = p->k, .v = p->v, .n_row = rows }
                           : (struct ft_span){ .k = own,
                                               .v = own,
                                               .n_row = rows,
                                               .k_block = p->k,
                                               .v_block = p->v,
                                               .n_block = p->n_block - n_query / FT_BLOCK_ROW,
                                               .k_mean = p->mean,
                                               .v_mean = p->mean };
    p->b.job = (struct ft_attn_job){ .q = q,
                                     .out = out,
                                     .head = head,
                                     .n_query = n_query,
                                     .n_head = GROUP,
                                     .n_head_kv = 1,
                                     .d = p->d,
                                     .k_fmt = FT_F16,
                                     .v_fmt = FT_F16,
                                     .k_pack = p->c->k,
                                     .v_pack = p->c->v,
                                     .scale = 1 / sqrtf((float)p->d) };
    double pairs = (rows - (n_query - 1) / 2.0) * n_query * GROUP;
    double rate = pairs * p->d * 4 / median_us(&p->b, cpu_us, run_prefill) * 1e-3;
    free(own);
    free(q);
    free(out);
    return rate;
}

/* GFLOP/s of prefill; ns per row and head of decode: out of memory, and one head again and again */
static void bench_packed(const struct bench *b, uint32_t n_row, uint32_t d,
                         const struct packed *c) {
    struct packed_bench p = {
        .b = *b, .c = c, .d = d, .n_block = FT_MAX(n_row / FT_BLOCK_ROW, 1u)
    };
    struct ft_pack v_pack = c->v;
    v_pack.is_value = true;
    struct packed own = { c->name, c->k, v_pack, c->has_mean };
    p.c = &own;
    p.k_block = ft_pack_block_bytes(&own.k, d);
    p.v_block = ft_pack_block_bytes(&own.v, d);
    size_t rows = (size_t)p.n_block * FT_BLOCK_ROW, head = p.n_block * (p.k_block + p.v_block);
    /* as many heads as fill the memory with f16: the same rows in every case */
    p.n_head = (uint32_t)(MEMORY / (rows * d * 4) + 1);
    size_t k_bytes = p.n_head * p.n_block * p.k_block, v_bytes = p.n_head * p.n_block * p.v_block;
    float *x = must(malloc(rows * d * sizeof *x));
    for (size_t i = 0; i < rows * d; i++) {
        x[i] = (float)ft_rng_uniform(1, 0, 0, i) * 2 - 1;
    }
    p.q = x;
    p.k = must(ft_pages_map(k_bytes));
    p.v = must(ft_pages_map(v_bytes));
    ft_pages_large(p.k, k_bytes);
    ft_pages_large(p.v, v_bytes);
    if (own.has_mean) {
        p.mean = must(malloc(rows * d * sizeof(uint16_t)));
        b->kern->encode(FT_F16, x, p.mean, rows * d);
    }
    for (uint32_t i = 0; i < p.n_block; i++) {
        const float *from = x + (size_t)i * FT_BLOCK_ROW * d;
        b->kern->pack(&own.k, from, d, p.k + i * p.k_block);
        b->kern->pack(&own.v, from, d, p.v + i * p.v_block);
    }
    for (uint32_t h = 1; h < p.n_head; h++) {
        memcpy(p.k + h * p.n_block * p.k_block, p.k, p.n_block * p.k_block);
        memcpy(p.v + h * p.n_block * p.v_block, p.v, p.n_block * p.v_block);
    }
    for (uint32_t i = 0; i < b->n_thread; i++) {
        p.b.scratch[i] =
            must(aligned_alloc(64, (ft_attn_scratch_bytes(GROUP, d) + 63) & ~(size_t)63));
    }
    double prefill = packed_prefill(&p);
    double n = (double)rows * p.n_head, memory = median_us(&p.b, clock_of(b), run_packed);
    printf("%-10s d %3u group %u rows %u %-10s  %5.1f bits  prefill %6.1f GFLOP/s  "
           "decode %6.2f ns/row, %6.2f in cache\n",
           b->kern->name, (unsigned)d, (unsigned)GROUP, (unsigned)rows, own.name,
           (double)head * 4 / (double)(rows * d), prefill, memory / n * 1e3,
           median_us(&p.b, cpu_us, run_packed_cached) / n * 1e3);
    fflush(stdout);
    ft_pages_unmap(p.k, k_bytes);
    ft_pages_unmap(p.v, v_bytes);
    for (uint32_t i = 0; i < b->n_thread; i++) {
        free(p.b.scratch[i]);
    }
    free(p.mean);
    free(x);
}

int main(int argc, char **argv) {
    const struct ft_kern *list[FT_KERN_MOST];
    uint32_t n_row = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 4096;
    uint32_t n_repeat = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 5;
    uint32_t n_thread = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 1;
    if (n_thread < 1 || n_thread > MAX_THREAD || n_row < 1 || n_row > 1u << 20 || n_repeat < 1 ||
        n_repeat > MAX_REPEAT) {
        fprintf(stderr,
                "usage: kernbench [rows, 1 to 1048576] [repeats, 1 to %d] [threads, 1 to %d]\n",
                MAX_REPEAT, MAX_THREAD);
        return 2;
    }
    static struct bench b;
    b.n_repeat = n_repeat;
    b.n_thread = n_thread;
    b.ceiling = bf16_ceiling();
    const char *products = b.ceiling > 0 ? "bf16 pairs" : "f32 multiply-adds";
    b.ceiling = b.ceiling > 0 ? b.ceiling : f32_ceiling();
    b.read_rate = read_rate(&b);
    printf("one thread: %s %.1f GFLOP/s; memory read %.1f GB/s by %u; shares are of these\n",
           products, b.ceiling, b.read_rate, (unsigned)n_thread);
    uint32_t n = ft_kern_list(list);
    for (uint32_t i = n; i-- > 1;) { /* not ref: it is not meant to be fast */
        for (uint32_t d = 64; d <= 128; d += 64) {
            b.kern = list[i];
            bench_shape(&b, n_row, d, FT_F16);
            bench_shape(&b, n_row, d, FT_Q8_0);
        }
        for (size_t c = 0; c < 2 * FT_COUNT(packed_cases); c++) {
            bench_packed(&b, n_row, 64u << c / FT_COUNT(packed_cases),
                         &packed_cases[c % FT_COUNT(packed_cases)]);
        }
    }
    return 0;
}
