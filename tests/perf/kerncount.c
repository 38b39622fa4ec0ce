/* SPDX-License-Identifier: Apache-2.0 */
/* kerncount.c - runs one kernel once, on made numbers of a fixed size, for a tool that counts
 * instructions (instructions.sh).
 *
 *   kerncount --list     a line per case: VARIANT/CASE UNITS; its cost is given per unit
 *   kerncount --build    what the counts depend on: compiler, build type, C library
 *   kerncount CASE       runs it inside ft_count_here(), the function to count in
 *
 * A case of a variant that this machine, or the tool, cannot run is not listed.  What is counted
 * depends on no clock and on no address: the same program gives the same count anywhere.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif

#include "base/rng.h"
#include "kern/kern.h"

enum what { ENCODE, DECODE, ATTEND, ATTEND_FEW, LSE, MASS, PACK, UNPACK, ATTEND_BLOCKS };

/* m queries over n rows; causal: the last queries of a prompt, 4 heads per token.  Packed: K by channel,
 * V by token, pack and unpack as K. */
struct kernel_case {
    const char *name;
    enum what what;
    enum ft_fmt fmt;
    uint32_t m, n, d;
    bool causal;
    uint8_t bits; /* of packed blocks */
};

static const struct kernel_case cases[] = {
    { "encode-f16", ENCODE, FT_F16, 0, 64, 64, false, 0 },
    { "encode-bf16", ENCODE, FT_BF16, 0, 64, 64, false, 0 },
    { "encode-q8_0", ENCODE, FT_Q8_0, 0, 64, 64, false, 0 },
    { "decode-f16", DECODE, FT_F16, 0, 64, 64, false, 0 },
    { "decode-bf16", DECODE, FT_BF16, 0, 64, 64, false, 0 },
    { "decode-q8_0", DECODE, FT_Q8_0, 0, 64, 64, false, 0 },
    { "attend-f16-d64", ATTEND, FT_F16, 256, 512, 64, true, 0 },
    { "attend-f16-d128", ATTEND, FT_F16, 256, 256, 128, true, 0 },
    { "attend-bf16-d64", ATTEND, FT_BF16, 256, 256, 64, true, 0 },
    { "attend-q8_0-d64", ATTEND, FT_Q8_0, 256, 256, 64, true, 0 },
    { "attend-f32-d64", ATTEND, FT_F32, 256, 256, 64, true, 0 },
    { "few-f16-d64", ATTEND_FEW, FT_F16, 4, 1024, 64, false, 0 },
    { "few-f16-d128", ATTEND_FEW, FT_F16, 4, 1024, 128, false, 0 },
    { "few-bf16-d64", ATTEND_FEW, FT_BF16, 4, 1024, 64, false, 0 },
    { "few-q8_0-d64", ATTEND_FEW, FT_Q8_0, 4, 1024, 64, false, 0 },
    { "lse-f16-d64", LSE, FT_F16, 128, 512, 64, true, 0 },
    { "mass-f16-d64", MASS, FT_F16, 128, 512, 64, true, 0 },
    { "pack-q4-d64", PACK, FT_F32, 0, 64, 64, false, 4 },
    { "unpack-q4-d64", UNPACK, FT_F32, 0, 64, 64, false, 4 },
    { "blocks-q2-d64", ATTEND_BLOCKS, FT_F32, 4, 1024, 64, false, 2 },
    { "blocks-q4-d64", ATTEND_BLOCKS, FT_F32, 4, 1024, 64, false, 4 },
    { "blocks-q4-d128", ATTEND_BLOCKS, FT_F32, 4, 1024, 128, false, 4 },
    { "blocks-q8-d64", ATTEND_BLOCKS, FT_F32, 4, 1024, 64, false, 8 },
};
/* ref is slow: these cases, an eighth of the rows and of the queries */
static const char *const ref_cases[] = { "encode-q8_0", "decode-q8_0", "attend-f16-d64",
                                         "lse-f16-d64", "mass-f16-d64" };

struct run {
    const struct ft_kern *kern;
    struct kernel_case c;
    struct ft_attend attend;
    struct ft_attend_blocks blocks;
    struct ft_vote vote;
    float *x;      /* numbers of K */
    void *encoded; /* n rows of K, then n rows of V */
    double n_unit; /* visible (query, row) pairs, or numbers */
};

void ft_count_here(const struct run *r);

__attribute__((noinline)) void ft_count_here(const struct run *r) {
    size_t n = (size_t)r->c.n * r->c.d;
    switch (r->c.what) {
    case ENCODE:
        r->kern->encode(r->c.fmt, r->x, r->encoded, n);
        break;
    case DECODE:
        r->kern->decode(r->c.fmt, r->encoded, r->x, n);
        break;
    case ATTEND:
        r->kern->attend(&r->attend);
        break;
    case ATTEND_FEW:
        r->kern->attend_few(&r->attend);
        break;
    case LSE:
        r->kern->lse(&r->vote);
        break;
    case MASS:
        r->kern->mass(&r->vote);
        break;
    case PACK:
        r->kern->pack(&r->blocks.k_pack, r->x, r->c.d, r->encoded);
        break;
    case UNPACK:
        r->kern->unpack(&r->blocks.k_pack, r->encoded, NULL, r->c.d, r->x);
        break;
    case ATTEND_BLOCKS:
        r->kern->attend_blocks(&r->blocks);
        break;
    }
}

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "kerncount: out of memory\n");
        exit(1);
    }
    return p;
}

static void *zeroed(size_t n_byte) {
    n_byte = (n_byte + 63) & ~(size_t)63;
    return memset(must(aligned_alloc(64, n_byte)), 0, n_byte);
}

static float *numbers(size_t n, uint32_t what) {
    float *x = must(malloc(n * sizeof *x));
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)ft_rng_uniform(1, what, 0, i) * 2 - 1;
    }
    return x;
}

static uint32_t visible(const struct kernel_case *c, uint32_t i) {
    return c->causal ? c->n - (c->m - 1 - i) / 4 : c->n;
}

static double units(const struct kernel_case *c) {
    double n = c->m == 0 ? (double)c->n * c->d : 0;
    for (uint32_t i = 0; i < c->m; i++) {
        n += visible(c, i);
    }
    return n;
}

/* The rows of K and V packed, in place of rows. */
static void prepare_blocks(struct run *r) {
    const struct kernel_case *c = &r->c;
    struct ft_pack k = { .bits = c->bits, .by = FT_BY_CHANNEL },
                   v = { .bits = c->bits, .by = FT_BY_TOKEN, .is_value = true };
    size_t k_bytes = ft_pack_block_bytes(&k, c->d), v_bytes = ft_pack_block_bytes(&v, c->d);
    uint32_t n = c->n / FT_BLOCK_ROW;
    char *to = r->encoded; /* f32 rows take more */
    for (uint32_t b = 0; b < n; b++) {
        const float *from = r->x + (size_t)b * FT_BLOCK_ROW * c->d;
        r->kern->pack(&k, from, c->d, to + b * k_bytes);
        r->kern->pack(&v, from + (size_t)c->n * c->d, c->d, to + n * k_bytes + b * v_bytes);
    }
    r->blocks = (struct ft_attend_blocks){
        .q = r->attend.q,
        .k = to,
        .v = to + n * k_bytes,
        .max = r->attend.max,
        .sum = r->attend.sum,
        .acc = r->attend.acc,
        .work = r->attend.work,
        .q_stride = c->d,
        .k_stride = k_bytes,
        .v_stride = v_bytes,
        .m = c->m,
        .n_block = n,
        .d = c->d,
        .k_pack = k,
        .v_pack = v,
        .scale = r->attend.scale,
    };
}

static void prepare(struct run *r) {
    const struct kernel_case *c = &r->c;
    size_t row = ft_fmt_row_bytes(c->fmt, c->d), n = (size_t)c->n * c->d;
    uint32_t m = FT_MAX(c->m, 1u), *vis = must(malloc(m * sizeof *vis));
    float *max = must(malloc(m * sizeof *max)), *lse = zeroed(m * sizeof *lse);
    r->x = numbers(2 * n, 0);
    r->encoded = zeroed(2 * c->n * row);
    ft_kern_ref.encode(c->fmt, r->x, r->encoded, 2 * n);
    for (uint32_t i = 0; i < m; i++) {
        vis[i] = visible(c, i);
        max[i] = -INFINITY;
    }
    r->attend = (struct ft_attend){
        .q = numbers((size_t)m * c->d, 1),
        .k = r->encoded,
        .v = (char *)r->encoded + c->n * row,
        .vis = vis,
        .max = max,
        .sum = zeroed(m * sizeof(float)),
        .acc = zeroed((size_t)m * c->d * sizeof(float)),
        .work = zeroed(ft_kern_work_bytes()),
        .q_stride = c->d,
        .k_stride = row,
        .v_stride = row,
        .m = c->m,
        .n = c->n,
        .d = c->d,
        .k_fmt = c->fmt,
        .v_fmt = c->fmt,
        .scale = 1 / sqrtf((float)c->d),
    };
    r->vote = (struct ft_vote){
        .q = r->attend.q,
        .k = r->encoded,
        .vis = vis,
        .lse = lse,
        .out = zeroed(FT_MAX(c->n, m) * sizeof(float)),
        .work = r->attend.work,
        .q_stride = c->d,
        .k_stride = row,
        .m = c->m,
        .n = c->n,
        .d = c->d,
        .k_fmt = c->fmt,
        .red = FT_REDUCE_SUM,
        .scale = r->attend.scale,
    };
    if (c->bits != 0) {
        prepare_blocks(r);
    }
    for (uint32_t i = 0; i < m && c->what == MASS; i++) {
        lse[i] = 6; /* about log(512): its value costs nothing */
    }
}

static bool in_ref(const char *name) {
    for (size_t i = 0; i < FT_COUNT(ref_cases); i++) {
        if (strcmp(name, ref_cases[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Case i of a variant; false: it has none. */
static bool case_of(const struct ft_kern *kern, size_t i, struct kernel_case *out) {
    *out = cases[i];
    if (kern != &ft_kern_ref) {
        return true;
    }
    out->m /= 8;
    out->n /= 8;
    return in_ref(out->name);
}

static void list_cases(void) {
    const struct ft_kern *list[FT_KERN_MOST];
    for (uint32_t v = 0, n = ft_kern_list(list); v < n; v++) {
        for (size_t i = 0; i < FT_COUNT(cases); i++) {
            struct kernel_case c;
            if (case_of(list[v], i, &c)) {
                printf("%s/%s %.0f\n", list[v]->name, c.name, units(&c));
            }
        }
    }
}

static void print_build(void) {
#if defined(__clang__)
    printf("clang %d", __clang_major__);
#else
    printf("gcc %d", __GNUC__);
#endif
#if defined(__x86_64__)
    printf(", x86_64");
#elif defined(__aarch64__)
    printf(", aarch64");
#endif
    printf(", %s", FT_BUILD);
#if defined(__GLIBC__)
    printf(", glibc %s", gnu_get_libc_version());
#endif
    printf("\n");
}

static int run_case(const char *name) {
    const struct ft_kern *list[FT_KERN_MOST];
    for (uint32_t v = 0, n = ft_kern_list(list); v < n; v++) {
        size_t n_name = strlen(list[v]->name);
        if (strncmp(name, list[v]->name, n_name) != 0 || name[n_name] != '/') {
            continue;
        }
        for (size_t i = 0; i < FT_COUNT(cases); i++) {
            struct run r = { .kern = list[v] };
            if (case_of(list[v], i, &r.c) && strcmp(name + n_name + 1, r.c.name) == 0) {
                prepare(&r);
                ft_count_here(&r);
                return 0; /* what was allocated goes with the process */
            }
        }
    }
    fprintf(stderr, "kerncount: no case %s here; --list lists them\n", name);
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list_cases();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--build") == 0) {
        print_build();
        return 0;
    }
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: kerncount --list | --build | CASE\n");
        return 2;
    }
    return run_case(argv[1]);
}
