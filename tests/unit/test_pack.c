/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack.c - packed blocks against their definition, attention over them in every variant against
 * ref, and the promises about bytes, bits and numbers that are none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kern/kern.h"

enum { ROW = FT_BLOCK_ROW, GUARD = 64, MAX_BLOCK = 4 };

static const uint32_t head_sizes[] = { 16, 32, 48, 64, 80, 96, 128, 160, 256 };
static const uint8_t all_bits[] = { 2, 4, 8, 16 };
static const uint16_t groups[] = { 0, 16, 32, 64, 128, 256 };

static const struct ft_kern *variants[FT_KERN_MOST];
static uint32_t n_variant;

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

static float uniform(uint64_t seed, uint32_t what, uint64_t i) {
    return (float)(ft_rng_uniform(seed, what, 0, i) * 2 - 1);
}

static bool allowed(const struct ft_pack *pack, uint32_t d) {
    uint32_t n = pack->by == FT_BY_TOKEN ? d : (uint32_t)ROW;
    return pack->bits == 16 ? pack->group == 0 && pack->by == FT_BY_TOKEN
                            : pack->group == 0 || n % pack->group == 0;
}

/* Every allowed pack for heads of d numbers, in turn. -> how many */
enum { MOST_PACK = 4 * 2 * 6 };
static uint32_t packs_of(uint32_t d, bool is_value, struct ft_pack out[MOST_PACK]) {
    uint32_t n = 0;
    for (uint32_t e = 0; e < MOST_PACK; e++) {
        struct ft_pack pack = { .bits = all_bits[e / 12],
                                .by = (uint8_t)(e / 6 % 2),
                                .group = groups[e % 6],
                                .is_value = is_value };
        if (allowed(&pack, d)) {
            out[n++] = pack;
        }
    }
    return n;
}

/* ---- data ---- */

enum input {
    INPUT_RANDOM,
    INPUT_OUTLIER, /* a channel of 50 times the size, and one token */
    INPUT_EQUAL,   /* groups of one number each */
    INPUT_HUGE,    /* to the ends of f16 */
    INPUT_TINY,    /* about its smallest number and below */
    INPUT_OFFSET,  /* far from zero, close together */
    INPUT_ZERO,    /* of both signs */
    INPUT_COUNT
};

static float number(enum input input, uint64_t seed, uint32_t j, uint32_t c, uint32_t d) {
    float x = uniform(seed, 1, (uint64_t)j * d + c);
    switch (input) {
    case INPUT_OUTLIER:
        return x * (c == 5 || j == 9 ? 100 : 2) + (c == 5 ? 300 : 0);
    case INPUT_EQUAL:
        return (c / 16 + j / 16) % 3 == 0 ? 0.1f
                                          : (float)(c / 16 % 5) * -0.3f + x * (float)(j % 32 / 16);
    case INPUT_HUGE:
        return x > 0.9f ? 65504 : x < -0.9f ? -65504 : x * 65504;
    case INPUT_TINY:
        return x * 3e-7f;
    case INPUT_OFFSET:
        return 40 + x * 0.03f;
    case INPUT_ZERO:
        return x > 0 ? 0.0f : -0.0f;
    default:
        return x * 2;
    }
}

/* Rows of one head's K or V: as numbers, in packed blocks, and what the definition says of them. */
struct side {
    float *x;                /* [n][d] as given to pack */
    float *out;              /* [n][d] as they come back from ref */
    float *step, *low, *top; /* [n][d] of each number's group; top: the code */
    void *mean;              /* f16 [n][d] or NULL */
    float *mean_wide;
    char *block; /* at an odd multiple of 2 bytes, the allocation ends with the last block */
    char *alloc;
    size_t stride;
    struct ft_pack pack;
};

/* ---- the definition ---- */

/* all finite f16 numbers, ascending */
static float halves[2 * 0x7c00 - 1];

static void halves_make(void) {
    for (uint32_t u = 0; u < 0x7c00; u++) {
        uint16_t h = (uint16_t)u;
        float x;
        ft_kern_ref.decode(FT_F16, &h, &x, 1);
        halves[0x7c00 - 1 + u] = x;
        halves[0x7c00 - 1 - u] = u == 0 ? 0 : -x;
    }
}

/* -> the first index whose number is not below x */
static size_t half_from(float x) {
    size_t low = 0, high = FT_COUNT(halves) - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (halves[middle] < x) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void group_define(struct side *s, uint32_t d, uint32_t j, uint32_t c, uint32_t n_row,
                         uint32_t n_channel) {
    float least = INFINITY, most = -INFINITY, codes = (float)((1 << s->pack.bits) - 1);
    bool is_lost = false;
    for (uint32_t e = 0; e < n_row * n_channel; e++) {
        float x = s->x[(size_t)(j + e / n_channel) * d + c + e % n_channel];
        is_lost = is_lost || !(fabsf(x) <= 65504);
        least = fminf(least, x);
        most = fmaxf(most, x);
    }
    size_t at = is_lost ? 0 : half_from(least);
    float low = is_lost ? NAN : halves[at] > least ? halves[at - 1] : halves[at];
    float step = is_lost ? NAN : halves[half_from((most - low) / codes)];
    for (uint32_t e = 0; e < n_row * n_channel; e++) {
        size_t here = (size_t)(j + e / n_channel) * d + c + e % n_channel;
        s->step[here] = step;
        s->low[here] = low;
        s->top[here] = step > 0 ? fminf(rintf((s->x[here] - low) / step), codes) : 0;
    }
}

/* step, low and top of n rows. */
static void define(struct side *s, uint32_t n, uint32_t d) {
    bool by_token = s->pack.by == FT_BY_TOKEN;
    uint32_t group = s->pack.group != 0 ? s->pack.group : by_token ? d : (uint32_t)ROW;
    uint32_t n_row = by_token ? 1 : group, n_channel = by_token ? group : 1;
    for (uint32_t j = 0; j < n; j += n_row) {
        for (uint32_t c = 0; c < d; c += n_channel) {
            group_define(s, d, j, c, n_row, n_channel);
        }
    }
}

static size_t formula(const struct ft_pack *pack, uint32_t d) {
    uint32_t group = pack->group != 0 ? pack->group : pack->by == FT_BY_TOKEN ? d : (uint32_t)ROW;
    size_t codes = (size_t)ROW * d * pack->bits / 8;
    return pack->bits == 16 ? codes : codes + (size_t)ROW * d / group * 4;
}

static void side_pack(struct side *s, uint32_t n_block, uint32_t d) {
    for (uint32_t b = 0; b < n_block; b++) {
        size_t at = (size_t)b * ROW * d;
        ft_kern_ref.pack(&s->pack, s->x + at, d, s->block + b * s->stride);
        ft_kern_ref.unpack(&s->pack, s->block + b * s->stride, d, s->out + at);
    }
    if (s->pack.bits != 16) {
        define(s, n_block * ROW, d);
    }
}

static struct side side_new(struct ft_pack pack, uint32_t n_block, uint32_t d, enum input input,
                            bool has_mean, uint64_t seed) {
    size_t n = (size_t)n_block * ROW * d;
    struct side s = { .pack = pack, .stride = ft_pack_block_bytes(&pack, d) };
    float **all[] = { &s.x, &s.out, &s.step, &s.low, &s.top, &s.mean_wide };
    for (size_t i = 0; i < FT_COUNT(all); i++) {
        *all[i] = must(calloc(n, sizeof(float)));
    }
    for (size_t e = 0; e < n; e++) {
        s.x[e] = number(input, seed, (uint32_t)(e / d), (uint32_t)(e % d), d);
    }
    s.alloc = must(malloc(n_block * s.stride + 2));
    s.block = s.alloc + 2;
    if (has_mean) {
        s.mean = must(malloc(n * sizeof(uint16_t)));
        for (size_t e = 0; e < n; e++) {
            s.mean_wide[e] = uniform(seed, 7, e) * 2;
        }
        ft_kern_ref.encode(FT_F16, s.mean_wide, s.mean, n);
        ft_kern_ref.decode(FT_F16, s.mean, s.mean_wide, n);
    }
    side_pack(&s, n_block, d);
    return s;
}

static void side_free(struct side *s) {
    float *all[] = { s->x, s->out, s->step, s->low, s->top, s->mean_wide };
    for (size_t i = 0; i < FT_COUNT(all); i++) {
        free(all[i]);
    }
    free(s->mean);
    free(s->alloc);
}

/* ---- pack and unpack ---- */

static void test_bytes(void **unused) {
    (void)unused;
    struct ft_pack packs[MOST_PACK], none = { 0 };
    for (size_t c = 0; c < FT_COUNT(head_sizes); c++) {
        uint32_t n = packs_of(head_sizes[c], c % 2, packs);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(ft_pack_block_bytes(&packs[i], head_sizes[c]),
                             formula(&packs[i], head_sizes[c]));
        }
    }
    /* KIVI at 4 bits, d 64: 2048 bytes of codes, 64 groups; of 8192 in f16 */
    struct ft_pack kivi = { .bits = 4, .by = FT_BY_CHANNEL, .group = 64 };
    assert_int_equal(ft_pack_block_bytes(&kivi, 64), 2048 + 256);
    assert_int_equal(ft_pack_block_bytes(&none, 64), 0);
}

/* Bits: -0 is not 0; any NaN is a NaN. */
static void assert_same_numbers(const float *a, const float *b, size_t n) {
    for (size_t e = 0; e < n; e++) {
        assert_true(isnan(a[e]) ? isnan(b[e]) : memcmp(a + e, b + e, sizeof *a) == 0);
    }
}

static void guards_set(char *p, size_t n) {
    memset(p, 0xa5, GUARD);
    memset(p + GUARD + n, 0xa5, GUARD);
}

static void guards_check(const char *p, size_t n) {
    for (size_t e = 0; e < GUARD; e++) {
        assert_true(p[e] == (char)0xa5 && p[GUARD + n + e] == (char)0xa5);
    }
}

/* A block of every variant: the definition's numbers, ref's bytes, nothing beside them. */
static void check_block(const struct side *s, uint32_t d) {
    size_t n = (size_t)ROW * d, row_bytes = n * sizeof(float);
    char *block = must(malloc(s->stride + 2 * GUARD + 2)),
         *rows = must(malloc(row_bytes + 2 * GUARD));
    for (uint32_t v = 0; v < n_variant; v++) {
        char *to = block + v % 2 * 2;
        guards_set(to, s->stride);
        guards_set(rows, row_bytes);
        memset(to + GUARD, 0x5a, s->stride);
        variants[v]->pack(&s->pack, s->x, d, to + GUARD);
        variants[v]->unpack(&s->pack, to + GUARD, d, (float *)(void *)(rows + GUARD));
        guards_check(to, s->stride);
        guards_check(rows, row_bytes);
        assert_memory_equal(to + GUARD, s->block, s->stride);
        assert_same_numbers((const float *)(const void *)(rows + GUARD), s->out, n);
    }
    for (size_t e = 0; e < n && s->pack.bits != 16; e++) {
        float want = s->low[e] + s->step[e] * s->top[e];
        if (!(isnan(want) ? isnan(s->out[e]) : want == s->out[e])) {
            fail_msg("bits %u by %u group %u d %u, number %zu: %.9g is back as %.9g, not %.9g",
                     s->pack.bits, s->pack.by, s->pack.group, d, e, (double)s->x[e],
                     (double)s->out[e], (double)want);
        }
        double away = fabs((double)s->out[e] - (double)s->x[e]);
        double rounding = (fabs((double)s->low[e]) + fabs((double)s->x[e])) * 0x1p-22;
        assert_true(isnan(want) || away <= (double)s->step[e] / 2 + rounding);
    }
    free(block);
    free(rows);
}

static void test_definition(void **unused) {
    (void)unused;
    struct ft_pack packs[MOST_PACK];
    uint32_t turn = 0;
    for (size_t c = 0; c < 2 * FT_COUNT(head_sizes); c++) {
        uint32_t d = head_sizes[c / 2], n = packs_of(d, c % 2, packs);
        for (uint32_t i = 0; i < n; i++, turn++) {
            enum input input = (enum input)(turn % INPUT_COUNT);
            struct side s = side_new(packs[i], 1, d, input, false, turn);
            check_block(&s, d);
            side_free(&s);
        }
    }
}

/* What is no number of f16 takes its group along, and nothing else. */
static void test_lost_groups(void **unused) {
    (void)unused;
    static const float bad[] = { NAN, INFINITY, -INFINITY, 65505, -70000, 1e30f, -NAN, 65519 };
    struct ft_pack packs[MOST_PACK];
    uint32_t turn = 0;
    for (size_t c = 0; c < 2 * FT_COUNT(head_sizes); c++) {
        uint32_t d = head_sizes[c / 2], n = packs_of(d, c % 2, packs);
        for (uint32_t i = 0; i < n; i++, turn++) {
            struct side s = side_new(packs[i], 1, d, INPUT_RANDOM, false, turn), clean;
            clean = side_new(packs[i], 1, d, INPUT_RANDOM, false, turn);
            size_t at = (size_t)(uniform(turn, 3, 0) * 0.49f * (float)(ROW * d)) + ROW * d / 2;
            s.x[at] = bad[turn % FT_COUNT(bad)];
            side_pack(&s, 1, d);
            if (packs[i].bits != 16) {
                check_block(&s, d);
                assert_true(isnan(s.out[at]));
                for (size_t e = 0; e < (size_t)ROW * d; e++) {
                    assert_true(isnan(s.out[e]) ? isnan(s.step[e]) : s.out[e] == clean.out[e]);
                }
            }
            side_free(&s);
            side_free(&clean);
        }
    }
}

/* ---- attention ---- */

struct job {
    struct side k, v;
    float *q;
    uint32_t m, n_block, d;
    float scale;
};

struct state {
    float max[FT_FEW_QUERY], sum[FT_FEW_QUERY], acc[FT_FEW_QUERY * FT_HEAD_MAX];
};

static struct job job_new(struct ft_pack k, struct ft_pack v, uint32_t m, uint32_t n_block,
                          uint32_t d, enum input input, uint32_t means) {
    static uint64_t seed = 1000;
    struct job t = { .m = m, .n_block = n_block, .d = d, .scale = 1 / sqrtf((float)d) };
    v.is_value = true;
    t.k = side_new(k, n_block, d, input, means & 1, ++seed);
    t.v = side_new(v, n_block, d, input, means & 2, ++seed);
    t.q = must(malloc((size_t)m * d * sizeof(float)));
    /* logits of a few units whatever the rows are; some queries much larger or smaller */
    float size = input == INPUT_HUGE      ? 1e-4f
                 : input == INPUT_OUTLIER ? 0.05f
                 : input == INPUT_TINY    ? 1e6f
                                          : 2;
    for (uint32_t e = 0; e < m * d; e++) {
        uint32_t i = e / d;
        t.q[e] = uniform(seed, 9, e) * size * (i % 5 == 3 ? 8.0f : i % 7 == 4 ? 1e-6f : 1.0f);
    }
    return t;
}

static void job_free(struct job *t) {
    side_free(&t->k);
    side_free(&t->v);
    free(t->q);
}

static void state_clear(struct state *s) {
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < FT_FEW_QUERY; i++) {
        s->max[i] = -INFINITY;
    }
}

static const void *mean_from(const struct side *s, uint32_t block, uint32_t d) {
    return s->mean == NULL ? NULL : (const char *)s->mean + (size_t)block * ROW * d * 2;
}

static void *work_area(void) {
    static char *work;
    size_t n = (ft_kern_work_bytes() + 63) / 64 * 64;
    work = work != NULL ? work : must(aligned_alloc(64, n));
    return memset(work, 0xff, n); /* NaNs: what is read without having been written shows */
}

/* Blocks [from, to) folded into s for queries [first, first + m). */
static void run(const struct ft_kern *kern, const struct job *t, uint32_t first, uint32_t m,
                uint32_t from, uint32_t to, struct state *s) {
    kern->attend_blocks(&(struct ft_attend_blocks){
        .q = t->q + (size_t)first * t->d,
        .k = t->k.block + from * t->k.stride,
        .v = t->v.block + from * t->v.stride,
        .k_mean = mean_from(&t->k, from, t->d),
        .v_mean = mean_from(&t->v, from, t->d),
        .max = s->max,
        .sum = s->sum,
        .acc = s->acc,
        .work = work_area(),
        .q_stride = t->d,
        .k_stride = t->k.stride,
        .v_stride = t->v.stride,
        .m = m,
        .n_block = to - from,
        .d = t->d,
        .k_pack = t->k.pack,
        .v_pack = t->v.pack,
        .scale = t->scale,
    });
}

/* What a row is once it is unpacked and its mean is applied. */
static double value_of(const struct side *s, size_t e) {
    return s->mean != NULL ? (double)s->mean_wide[e] - (double)s->out[e] : (double)s->out[e];
}

/* ref's attend over the same numbers as f32 rows: what both round differs by f32's last bit. */
static void test_ref_is_attend(void **unused) {
    (void)unused;
    static struct state got, want;
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK];
    for (uint32_t turn = 0; turn < 200; turn++) {
        uint32_t d = head_sizes[turn % FT_COUNT(head_sizes)], n = ROW * 2;
        uint32_t n_pack = packs_of(d, false, k_packs);
        packs_of(d, true, v_packs);
        struct job t = job_new(k_packs[turn % n_pack], v_packs[turn / 3 % n_pack], 3, 2, d,
                               (enum input)(turn / 2 % INPUT_COUNT), turn % 4);
        float *k = must(malloc(n * d * sizeof(float))), *v = must(malloc(n * d * sizeof(float)));
        double most = 0;
        for (uint32_t e = 0; e < n * d; e++) {
            k[e] = (float)value_of(&t.k, e);
            v[e] = (float)value_of(&t.v, e);
            most = fmax(most, fabs((double)v[e]));
        }
        state_clear(&got);
        state_clear(&want);
        run(&ft_kern_ref, &t, 0, 3, 0, 2, &got);
        ft_kern_ref.attend(&(struct ft_attend){
            .q = t.q,
            .k = k,
            .v = v,
            .max = want.max,
            .sum = want.sum,
            .acc = want.acc,
            .work = work_area(),
            .q_stride = d,
            .k_stride = d * sizeof(float),
            .v_stride = d * sizeof(float),
            .m = 3,
            .n = n,
            .d = d,
            .k_fmt = FT_F32,
            .v_fmt = FT_F32,
            .scale = t.scale,
        });
        for (uint32_t e = 0; e < 3 * d; e++) {
            double a = (double)(got.acc[e] / got.sum[e / d]),
                   b = (double)(want.acc[e] / want.sum[e / d]);
            assert_true(fabs(a - b) <= 1e-4 * most);
        }
        free(k);
        free(v);
        job_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_lost_groups),
        cmocka_unit_test(test_ref_is_attend),
    };
    n_variant = ft_kern_list(variants);
    halves_make();
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
