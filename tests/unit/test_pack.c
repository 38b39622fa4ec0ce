/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack.c - packed blocks against their definition, attention over them in every variant against
 * ref, and the promises about bytes, bits and numbers that are none. */
#include "kern_fixture.h"

enum { ROW = FT_BLOCK_ROW, GUARD = 64 };

static const uint32_t head_sizes[] = { 16, 32, 48, 64, 80, 96, 128, 160, 256 };
static const uint32_t query_counts[] = { 1, 2, 3, 4, 5, 7, 8, 14, FT_FEW_QUERY };
static const uint8_t all_bits[] = { 2, 4, 8, 16 };
static const uint16_t groups[] = { 0, 16, 32, 64, 128, 256 };

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
        ft_kern_ref.unpack(&s->pack, s->block + b * s->stride, NULL, d, s->out + at);
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

/* A block of every variant: the definition's numbers, ref's bytes, nothing beside them; and those
 * numbers taken from means. */
static void check_block(const struct side *s, uint32_t d) {
    size_t n = (size_t)ROW * d, row_bytes = n * sizeof(float);
    char *block = must(malloc(s->stride + 2 * GUARD + 2)),
         *rows = must(malloc(row_bytes + 2 * GUARD));
    float *less = must(malloc(row_bytes));
    for (size_t e = 0; e < n; e++) {
        less[e] = s->mean_wide[e] - s->out[e];
    }
    for (uint32_t v = 0; v < n_variant; v++) {
        char *to = block + v % 2 * 2;
        guards_set(to, s->stride);
        guards_set(rows, row_bytes);
        memset(to + GUARD, 0x5a, s->stride);
        variants[v]->pack(&s->pack, s->x, d, to + GUARD);
        float *out = (float *)(void *)(rows + GUARD);
        variants[v]->unpack(&s->pack, to + GUARD, NULL, d, out);
        guards_check(to, s->stride);
        guards_check(rows, row_bytes);
        assert_memory_equal(to + GUARD, s->block, s->stride);
        assert_same_numbers(out, s->out, n);
        if (s->mean != NULL) {
            variants[v]->unpack(&s->pack, to + GUARD, s->mean, d, out);
            guards_check(rows, row_bytes);
            assert_same_numbers(out, less, n);
        }
    }
    free(less);
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
            struct side s = side_new(packs[i], 1, d, input, turn % 2, turn);
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
        for (uint32_t i = (uint32_t)(c % 3); i < n; i += 3, turn++) {
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

/* Blocks [from, to) for queries [first, first + m). */
static struct ft_attend_blocks blocks_of(const struct job *t, uint32_t first, uint32_t m,
                                         uint32_t from, uint32_t to) {
    return (struct ft_attend_blocks){
        .q = t->q + (size_t)first * t->d,
        .k = t->k.block + from * t->k.stride,
        .v = t->v.block + from * t->v.stride,
        .k_mean = mean_from(&t->k, from, t->d),
        .v_mean = mean_from(&t->v, from, t->d),
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
    };
}

/* The same folded into s. */
static void run(const struct ft_kern *kern, const struct job *t, uint32_t first, uint32_t m,
                uint32_t from, uint32_t to, struct state *s) {
    struct ft_attend_blocks blocks = blocks_of(t, first, m, from, to);
    blocks.max = s->max;
    blocks.sum = s->sum;
    blocks.acc = s->acc;
    kern->attend_blocks(&blocks);
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

/* ---- unpacked ---- */

enum { MANY = 130 };
struct many {
    float max[MANY], sum[MANY], acc[MANY * FT_HEAD_MAX];
};

static struct many *many_new(void) {
    struct many *s = must(calloc(1, sizeof *s));
    for (uint32_t i = 0; i < MANY; i++) {
        s->max[i] = -INFINITY;
    }
    return s;
}

/* All rows of a side, as attend takes them: f32, or f16 where that holds the same numbers. */
static void *rows_of(const struct side *s, size_t n, enum ft_fmt *fmt) {
    float *x = must(malloc(n * sizeof *x)), *back = must(malloc(n * sizeof *back));
    for (size_t e = 0; e < n; e++) {
        x[e] = (float)value_of(s, e);
    }
    uint16_t *half = must(malloc(n * sizeof *half));
    ft_kern_ref.encode(FT_F16, x, half, n);
    ft_kern_ref.decode(FT_F16, half, back, n);
    bool is_same = memcmp(x, back, n * sizeof *x) == 0;
    *fmt = is_same ? FT_F16 : FT_F32;
    free(back);
    free(is_same ? (void *)x : (void *)half);
    return is_same ? (void *)half : (void *)x;
}

/* Blocks whose numbers are whole: 0 and the largest code are in every group. */
static void side_whole(struct side *s, uint32_t n, uint32_t d, uint64_t seed) {
    for (uint32_t e = 0; e < n * d && s->pack.bits != 16; e++) {
        uint32_t j = e / d % 16, c = e % d % 16, top = (1u << s->pack.bits) - 1;
        s->x[e] = j == c              ? 0
                  : j == (c + 1) % 16 ? (float)top
                                      : (float)(ft_rng_value(seed, 0, 0, e) % top);
    }
    side_pack(s, n / ROW, d);
}

/* Many queries over blocks: the bits of attend over the rows that unpack gives, one side of which is
 * f16, in one call, and in two for all queries but the first. */
static void test_unpacked_is_attend(void **unused) {
    (void)unused;
    static const uint32_t sizes[] = { 64, 80, 128 };
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK], plain = { .bits = 16 };
    for (uint32_t c = 0; c < n_variant * 60; c++) {
        const struct ft_kern *kern = variants[c % n_variant];
        uint32_t turn = c / n_variant, d = sizes[turn % 3], m = turn % 2 == 0 ? 70 : MANY;
        if (kern == &ft_kern_ref && turn % 10 != 0) { /* which is slow */
            continue;
        }
        uint32_t n_pack = packs_of(d, false, k_packs), which = turn / 3 % 3, n = 3 * ROW;
        packs_of(d, true, v_packs);
        struct job t = job_new(which == 1 ? plain : k_packs[turn % n_pack],
                               which == 0 ? plain : v_packs[turn * 5 % n_pack], m, 3, d,
                               INPUT_RANDOM, which == 2 ? 0 : which + 1);
        t.q[5 * d + 3] *= turn % 4 == 0 ? 1e30f : 1; /* one that does not become words */
        if (which == 2) {
            side_whole(&t.k, n, d, turn);
            side_whole(&t.v, n, d, turn + 1);
        }
        struct many *got = many_new(), *cut = many_new(), *want = many_new();
        enum ft_fmt k_fmt, v_fmt;
        void *k = rows_of(&t.k, (size_t)n * d, &k_fmt), *v = rows_of(&t.v, (size_t)n * d, &v_fmt);
        assert_true(k_fmt == FT_F16 || v_fmt == FT_F16);
        kern->attend(&(struct ft_attend){
            .q = t.q,
            .k = k,
            .v = v,
            .max = want->max,
            .sum = want->sum,
            .acc = want->acc,
            .work = work_area(),
            .q_stride = d,
            .k_stride = ft_fmt_row_bytes(k_fmt, d),
            .v_stride = ft_fmt_row_bytes(v_fmt, d),
            .m = m,
            .n = n,
            .d = d,
            .k_fmt = k_fmt,
            .v_fmt = v_fmt,
            .scale = t.scale,
        });
        struct ft_attend_blocks whole = blocks_of(&t, 0, m, 0, 3);
        whole.max = got->max;
        whole.sum = got->sum;
        whole.acc = got->acc;
        kern->attend_unpacked(&whole);
        for (uint32_t from = 0; from < 3; from += 2) {
            struct ft_attend_blocks part = blocks_of(&t, 1, m - 1, from, FT_MIN(from + 2, 3u));
            part.max = cut->max + 1;
            part.sum = cut->sum + 1;
            part.acc = cut->acc + d;
            kern->attend_unpacked(&part);
        }
        if (kern != &ft_kern_ref) { /* which rounds its double state after every block */
            assert_memory_equal(got->acc, want->acc, (size_t)m * d * sizeof(float));
            assert_memory_equal(got->sum, want->sum, m * sizeof(float));
            assert_memory_equal(got->max, want->max, m * sizeof(float));
        }
        assert_memory_equal(cut->acc + d, got->acc + d, (size_t)(m - 1) * d * sizeof(float));
        assert_memory_equal(cut->sum + 1, got->sum + 1, (m - 1) * sizeof(float));
        free(got);
        free(cut);
        free(want);
        free(k);
        free(v);
        job_free(&t);
    }
}

/* ---- against ref ---- */

/* What the bound of kern.h is made of, over all queries and rows. */
struct bound {
    double sum;         /* L */
    double move;        /* e: of a logit, as words are rounded */
    double variance;    /* of that: an error within half a unit has a variance of unit^2 / 12 */
    double most, range; /* V, R */
};

/* e and its variance for a query and row j. */
static void logit_moves(const struct job *t, const float *q, uint32_t j, struct bound *b) {
    const struct side *k = &t->k;
    bool by_token = k->pack.by == FT_BY_TOKEN;
    double top = 0, move = 0, square = 0;
    for (uint32_t c = 0; c < t->d && k->pack.bits != 16; c++) {
        size_t at = (size_t)j * t->d + c;
        double u = (double)k->top[at], step = (double)k->step[at];
        top = fmax(top, fabs((double)q[c]) * (by_token ? 1 : step));
        move += u * (by_token ? step : 1);
        square += u * u * (by_token ? step * step : 1);
    }
    double unit = top / 32767 * (double)t->scale;
    b->move = fmax(b->move, unit / 2 * move);
    b->variance = fmax(b->variance, unit * unit / 12 * square);
}

/* The largest a number of a group can be in size. */
static double reach(const struct side *s, size_t at) {
    double mean = s->mean != NULL ? fabs((double)s->mean_wide[at]) : 0;
    if (s->pack.bits == 16) {
        return mean + fabs((double)s->out[at]);
    }
    return mean + fabs((double)s->low[at]) + (double)s->step[at] * ((1 << s->pack.bits) - 1);
}

static struct bound bound_of(const struct job *t) {
    struct bound b = { 0 };
    for (uint32_t i = 0; i < t->m; i++) {
        const float *q = t->q + (size_t)i * t->d;
        for (uint32_t j = 0; j < t->n_block * ROW; j++) {
            double sum = 0;
            for (uint32_t c = 0; c < t->d; c++) {
                sum += fabs((double)q[c]) * reach(&t->k, (size_t)j * t->d + c);
            }
            b.sum = fmax(b.sum, sum * (double)t->scale);
            logit_moves(t, q, j, &b);
        }
    }
    for (size_t at = 0; at < (size_t)t->n_block * ROW * t->d; at++) {
        double codes = (1 << t->v.pack.bits) - 1;
        b.most = fmax(b.most, reach(&t->v, at));
        b.range = fmax(b.range, t->v.pack.bits == 16 ? 0 : codes * (double)t->v.step[at]);
    }
    return b;
}

static const char *name_of(const struct job *t) {
    static char text[120];
    snprintf(text, sizeof text, "K %u bits by %u group %u%s, V %u bits by %u group %u%s",
             t->k.pack.bits, t->k.pack.by, t->k.pack.group, t->k.mean != NULL ? ", mean" : "",
             t->v.pack.bits, t->v.pack.by, t->v.pack.group, t->v.mean != NULL ? ", mean" : "");
    return text;
}

/* -> the largest error as a share of its bound, in share[0]; of the mean square's, in share[1] */
static void compare(const struct ft_kern *kern, const struct job *t, const struct state *got,
                    const struct state *want, double share[2]) {
    struct bound b = bound_of(t);
    double logit = 2 * sqrt(t->d) * 0x1p-24 * b.sum;
    double most = (2e-6 + 2 * (logit + b.move)) * b.most + 1.001 * 0x1p-10 * b.range;
    double large = fmax(1, b.sum / 64), square = 0;
    double mean_square =
        (1e-10 * large * large + 4 * b.variance) * b.most * b.most + 0x1p-27 * b.range * b.range;
    for (uint32_t i = 0; i < t->m; i++) {
        assert_true(fabs((double)got->max[i] - (double)want->max[i]) <=
                    logit + b.move + 1e-6 * fabs((double)want->max[i]));
        for (uint32_t c = 0; c < t->d; c++) {
            double x = (double)got->acc[(size_t)i * t->d + c] / (double)got->sum[i];
            double y = (double)want->acc[(size_t)i * t->d + c] / (double)want->sum[i];
            if (!(fabs(x - y) <= most)) {
                fail_msg("%s, %s: d %u m %u, query %u channel %u: got %.9g want %.9g (%.3g)",
                         kern->name, name_of(t), t->d, t->m, i, c, x, y, most);
            }
            share[0] = fmax(share[0], most > 0 ? fabs(x - y) / most : 0);
            square += (x - y) * (x - y) / t->m / t->d;
        }
    }
    if (!(square <= mean_square)) {
        fail_msg("%s, %s: d %u m %u: mean square error %.3g, at most %.3g", kern->name, name_of(t),
                 t->d, t->m, square, mean_square);
    }
    share[1] = fmax(share[1], mean_square > 0 ? square / mean_square : 0);
}

static void test_matches_ref(void **unused) {
    (void)unused;
    static struct state want, got;
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK];
    double share[FT_KERN_MOST][2] = { { 0 } };
    uint32_t turn = 0;
    for (size_t c = 0; c < FT_COUNT(head_sizes); c++) {
        uint32_t d = head_sizes[c], n_pack = packs_of(d, false, k_packs);
        packs_of(d, true, v_packs);
        for (uint32_t i = 0; i < 2 * n_pack; i++, turn++) { /* packs of K with two of V each */
            uint32_t m = query_counts[turn % FT_COUNT(query_counts)];
            struct job t = job_new(k_packs[i % n_pack], v_packs[(i * 3 + i / n_pack) % n_pack], m,
                                   1 + turn % (d < 128 ? 3 : 2), d,
                                   (enum input)(turn / 2 % INPUT_COUNT), turn / 3 % 4);
            state_clear(&want);
            run(&ft_kern_ref, &t, 0, m, 0, t.n_block, &want);
            for (uint32_t v = 1; v < n_variant; v++) {
                state_clear(&got);
                run(variants[v], &t, 0, m, 0, t.n_block, &got);
                compare(variants[v], &t, &got, &want, share[v]);
            }
            job_free(&t);
        }
    }
    for (uint32_t v = 1; v < n_variant; v++) {
        print_message("%s: errors as shares of their bounds: %.3f, mean squares %.3f\n",
                      variants[v]->name, share[v][0], share[v][1]);
    }
}

/* Where q is whole units of a word and steps are powers of two, words lose nothing: keys are as exact
 * as f32. */
static void test_exact_words(void **unused) {
    (void)unused;
    static struct state want, got;
    for (uint32_t turn = 0; turn < 3 * 2 * 8; turn++) {
        uint32_t d = 32 * (1 + turn % 8), m = 1 + turn % 7;
        struct ft_pack k = { .bits = all_bits[turn % 3], .by = (uint8_t)(turn / 3 % 2) };
        struct ft_pack v = { .bits = 16 };
        struct job t = job_new(k, v, m, 2, d, INPUT_RANDOM, 0);
        for (uint32_t e = 0; e < 2 * ROW * d; e++) { /* -1 and a whole step are in every group */
            uint32_t j = e / d, c = e % d, codes = (1u << k.bits) - 1;
            uint32_t u = j % 16 == c % 16         ? 0
                         : j % 16 == (c + 1) % 16 ? codes
                                                  : (j * 7 + c) % codes;
            t.k.x[e] = -1 + 0x1p-9f * (float)u;
        }
        side_pack(&t.k, 2, d);
        for (uint32_t e = 0; e < m * d; e++) {
            t.q[e] = e % d == 7 ? 32767 : rintf(uniform(turn, 9, e) * 32767);
        }
        t.scale = 0x1p-17f;
        state_clear(&want);
        run(&ft_kern_ref, &t, 0, m, 0, 2, &want);
        for (uint32_t i = 1; i < n_variant; i++) {
            state_clear(&got);
            run(variants[i], &t, 0, m, 0, 2, &got);
            for (uint32_t e = 0; e < m * d; e++) {
                double x = (double)got.acc[e] / (double)got.sum[e / d];
                double y = (double)want.acc[e] / (double)want.sum[e / d];
                assert_true(fabs(x - y) <= 2e-5);
            }
        }
        job_free(&t);
    }
}

/* ---- bits ---- */

/* A query alone, in every group and at every place of it, and calls cut between blocks. */
static void test_same_bits(void **unused) {
    (void)unused;
    static struct state whole, part;
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK];
    static const uint32_t sizes[] = { 64, 80, 128 }, cuts[] = { 0, 1, 3, 4 };
    for (uint32_t c = 0; c < n_variant * 60; c++) {
        const struct ft_kern *kern = variants[c / 60];
        if (kern == &ft_kern_ref && c % 10 != 0) { /* which is slow */
            continue;
        }
        uint32_t d = sizes[c % 3], m = 14, n_pack = packs_of(d, false, k_packs);
        packs_of(d, true, v_packs);
        struct job t =
            job_new(k_packs[c % n_pack], v_packs[c * 3 % n_pack], m, 4, d, INPUT_OUTLIER, c % 4);
        t.q[5 * d + 3] *= c % 2 == 0 ? 1 : 1e30f; /* one that does not become words */
        state_clear(&whole);
        run(kern, &t, 0, m, 0, 4, &whole);
        for (uint32_t i = 0; i < m * 4; i++) {
            uint32_t first = i / 4, n = FT_MIN(1 + i % 4 * 2, m - first);
            state_clear(&part);
            run(kern, &t, first, n, 0, 4, &part);
            assert_memory_equal(part.acc, whole.acc + (size_t)first * d, n * d * sizeof(float));
            assert_memory_equal(part.sum, whole.sum + first, n * sizeof(float));
            assert_memory_equal(part.max, whole.max + first, n * sizeof(float));
        }
        state_clear(&part);
        for (size_t i = 0; i + 1 < FT_COUNT(cuts); i++) {
            run(kern, &t, 0, m, cuts[i], cuts[i + 1], &part);
        }
        /* ref rounds its double state after every block too */
        assert_memory_equal(&part, &whole, sizeof whole);
        job_free(&t);
    }
}

/* ---- numbers that are none ---- */

/* A NaN or an infinity in a query leaves no number of its output, or none that ref has not; queries too
 * large for words do what they do in ref; no other query notices. */
static void test_odd_queries(void **unused) {
    (void)unused;
    static const float odd[] = { NAN, INFINITY, -INFINITY, 1e13f, 1e30f };
    static struct state clean, got, want;
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK];
    uint32_t d = 96, n_pack = packs_of(d, false, k_packs), m = 6;
    packs_of(d, true, v_packs);
    for (uint32_t c = 0; c < n_variant * n_pack * FT_COUNT(odd); c += 3) {
        const struct ft_kern *kern = variants[c / FT_COUNT(odd) / n_pack];
        uint32_t i = c / FT_COUNT(odd) % n_pack;
        struct job t = job_new(k_packs[i], v_packs[i], m, 2, d, INPUT_RANDOM, c % 4);
        float x = odd[c % FT_COUNT(odd)];
        t.scale /= isfinite(x) ? x : 1; /* so that its logits are as ever */
        state_clear(&clean);
        state_clear(&got);
        state_clear(&want);
        run(kern, &t, 0, m, 0, 2, &clean);
        for (uint32_t e = 0; e < d; e++) {
            t.q[d + e] *= isfinite(x) ? x : e == c * 7 % d ? x : 1;
        }
        run(kern, &t, 0, m, 0, 2, &got);
        run(&ft_kern_ref, &t, 0, m, 0, 2, &want);
        for (uint32_t e = 0; e < m * d; e++) {
            float a = got.acc[e] / got.sum[e / d], b = want.acc[e] / want.sum[e / d];
            if (e / d != 1) {
                assert_memory_equal(&got.acc[e], &clean.acc[e], sizeof(float));
            } else if (isfinite(x)) { /* in f32: no words are rounded but weights' */
                assert_true(fabs((double)a - (double)b) <= 4e-3);
            } else {
                assert_true(isnan(x) ? isnan(a) : !isfinite(a) || isfinite(b));
            }
        }
        job_free(&t);
    }
}

/* A group that came to NaN shows where ref shows it, and nowhere else. */
static void test_nan_groups(void **unused) {
    (void)unused;
    static struct state got, want;
    struct ft_pack k_packs[MOST_PACK], v_packs[MOST_PACK];
    uint32_t d = 64, n_pack = packs_of(d, false, k_packs), m = 5;
    packs_of(d, true, v_packs);
    for (uint32_t c = 0; c < n_variant * n_pack * 3; c++) {
        const struct ft_kern *kern = variants[c / 3 / n_pack];
        struct job t =
            job_new(k_packs[c / 3 % n_pack], v_packs[c / 3 % n_pack], m, 3, d, INPUT_RANDOM, c % 4);
        struct side *s = c % 3 == 0 ? &t.k : &t.v;
        s->x[(size_t)(ROW + 11) * d + 21] = c % 3 == 2 ? INFINITY : NAN;
        side_pack(s, 3, d);
        state_clear(&got);
        state_clear(&want);
        run(kern, &t, 0, m, 0, 3, &got);
        run(&ft_kern_ref, &t, 0, m, 0, 3, &want);
        uint32_t n_nan = 0;
        for (uint32_t e = 0; e < m * d; e++) {
            bool is_lost = !isfinite(want.acc[e] / want.sum[e / d]);
            assert_int_equal(!isfinite(got.acc[e] / got.sum[e / d]), is_lost);
            n_nan += is_lost;
        }
        assert_true(n_nan > 0);
        job_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),       cmocka_unit_test(test_definition),
        cmocka_unit_test(test_lost_groups), cmocka_unit_test(test_ref_is_attend),
        cmocka_unit_test(test_matches_ref), cmocka_unit_test(test_exact_words),
        cmocka_unit_test(test_same_bits),   cmocka_unit_test(test_odd_queries),
        cmocka_unit_test(test_nan_groups),  cmocka_unit_test(test_unpacked_is_attend),
    };
    n_variant = ft_kern_list(variants);
    halves_make();
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
