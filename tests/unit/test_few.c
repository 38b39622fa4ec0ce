/* SPDX-License-Identifier: Apache-2.0 */
/* test_few.c - attend_few of every variant against ref.c, its promises about bits and unseen rows,
 * and q8_0 rows against their definition. */
#include "kern_fixture.h"

enum { BLOCK = 32, BLOCK_BYTE = 34 };
/* what rounding the weights of q8_0 values adds, as a share of max|v| */
#define Q8_WEIGHT 0x1p-10

static const uint32_t head_sizes[] = { 16, 24, 32, 64, 80, 96, 128, 160, 256 };
static const uint32_t query_counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 14, 16, FT_FEW_QUERY };
static const uint32_t row_counts[] = { 1, 5, 15, 16, 17, 63, 64, 65, 81, 200, 1024 };

/* ---- data ---- */

enum input { INPUT_RANDOM, INPUT_LARGE, INPUT_ZERO, INPUT_TINY, INPUT_EQUAL, INPUT_COUNT };

struct data {
    float *q, *kf; /* [m][d]; [n][d] as stored */
    char *k, *v;   /* encoded, the allocations end with the last row */
    uint32_t vis[FT_FEW_QUERY];
    uint32_t m, n, d;
    enum ft_fmt fmt;
    float scale;
};

struct state {
    float max[FT_FEW_QUERY], sum[FT_FEW_QUERY], acc[FT_FEW_QUERY * FT_HEAD_MAX];
};

static float *numbers(size_t n, uint64_t seed, uint32_t what, float size) {
    float *x = must(malloc(n * sizeof *x));
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(ft_rng_uniform(seed, what, 0, i) * 2 - 1) * size;
    }
    return x;
}

/* Largest logits: RANDOM about 3, LARGE about 80, ZERO 0, TINY denormal products. */
static struct data data_new(uint32_t m, uint32_t n, uint32_t d, enum ft_fmt fmt, enum input input) {
    static uint64_t seed = 1;
    float size = input == INPUT_ZERO    ? 0
                 : input == INPUT_TINY  ? 1e-7f
                 : input == INPUT_LARGE ? 9
                                        : 2;
    struct data t = { .m = m, .n = n, .d = d, .fmt = fmt, .scale = 1 / sqrtf((float)d) };
    size_t row = ft_fmt_row_bytes(fmt, d), n_number = (size_t)n * d;
    float *v = numbers(n_number, ++seed, 2, 3);
    t.q = numbers((size_t)m * d, seed, 0, size);
    t.kf = numbers(n_number, seed, 1, size);
    for (uint32_t j = 1; j < n && input == INPUT_EQUAL; j++) {
        memcpy(t.kf + (size_t)j * d, t.kf, d * sizeof(float));
    }
    t.k = must(malloc(n * row));
    t.v = must(malloc(n * row));
    ft_kern_ref.encode(fmt, t.kf, t.k, n_number);
    ft_kern_ref.encode(fmt, v, t.v, n_number);
    ft_kern_ref.decode(fmt, t.k, t.kf, n_number);
    free(v);
    for (uint32_t i = 0; i < m; i++) {
        t.vis[i] = n;
    }
    return t;
}

static void data_free(struct data *t) {
    free(t->q);
    free(t->kf);
    free(t->k);
    free(t->v);
}

static void state_clear(struct state *s) {
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < FT_FEW_QUERY; i++) {
        s->max[i] = -INFINITY;
    }
}

/* Rows [from, to) folded into s for queries [first, first + m); vis NULL where all is seen. */
static void run(void (*attend)(const struct ft_attend *), const struct data *t, uint32_t first,
                uint32_t m, uint32_t from, uint32_t to, struct state *s) {
    static void *work;
    uint32_t vis[FT_FEW_QUERY];
    size_t row = ft_fmt_row_bytes(t->fmt, t->d), work_bytes = (ft_kern_work_bytes() + 63) / 64 * 64;
    bool all = true;
    work = work != NULL ? work : must(aligned_alloc(64, work_bytes));
    memset(work, 0xff, work_bytes); /* NaNs: what is read without having been written shows */
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seen = t->vis[first + i] > from ? t->vis[first + i] - from : 0;
        vis[i] = FT_MIN(seen, to - from);
        all = all && vis[i] == to - from;
    }
    attend(&(struct ft_attend){
        .q = t->q + (size_t)first * t->d,
        .k = t->k + from * row,
        .v = t->v + from * row,
        .vis = all ? NULL : vis,
        .max = s->max,
        .sum = s->sum,
        .acc = s->acc,
        .work = work,
        .q_stride = t->d,
        .k_stride = row,
        .v_stride = row,
        .m = m,
        .n = to - from,
        .d = t->d,
        .k_fmt = t->fmt,
        .v_fmt = t->fmt,
        .scale = t->scale,
    });
}

/* ---- against ref.c ---- */

/* Over all pairs of a query and a row: the largest sum|q_t k_t| * scale (what the rounding of f32
 * sums is relative to); the largest change of a logit when q is rounded to signed bytes with one
 * scale for 32 numbers: half a step, max|q| / 254 of a block, times the block's sum|k|; and the
 * largest variance of that change: an error within half a step has a variance of step^2 / 12. */
struct logit_size {
    double sum, bytes, variance;
};

static struct logit_size logit_size(const struct data *t) {
    struct logit_size size = { 0, 0, 0 };
    for (uint32_t i = 0; i < t->m; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            double sum = 0, bytes = 0, variance = 0;
            for (uint32_t b = 0; b < t->d; b += BLOCK) {
                double top = 0, k = 0, k2 = 0;
                for (uint32_t c = b; c < FT_MIN(b + BLOCK, t->d); c++) {
                    double x = fabs((double)t->q[(size_t)i * t->d + c]);
                    double y = fabs((double)t->kf[(size_t)j * t->d + c]);
                    top = fmax(top, x);
                    k += y;
                    k2 += y * y;
                    sum += x * y;
                }
                bytes += top / 254 * k;
                variance += top / 127 * (top / 127) / 12 * k2;
            }
            size.sum = fmax(size.sum, sum * (double)t->scale);
            size.bytes = fmax(size.bytes, bytes * (double)t->scale);
            size.variance = fmax(size.variance, variance * (double)(t->scale * t->scale));
        }
    }
    return size;
}

/* The bound of kern.h; |v| is at most 3. */
static void compare(const struct ft_kern *kern, const struct data *t, const struct state *got,
                    const struct state *want, double *share) {
    struct logit_size size = logit_size(t);
    bool has_bytes = t->fmt == FT_Q8_0;
    double logit = 2 * sqrt(t->d) * 0x1p-24 * size.sum + (has_bytes ? size.bytes : 0);
    double bound = (2e-6 + 2 * logit + (has_bytes ? Q8_WEIGHT : 0)) * 3;
    double err2 = 0, ref2 = 0, large = fmax(1, size.sum / 64);
    double nmse = 1e-10 * large * large + (has_bytes ? 4 * size.variance + 1e-8 : 0);
    for (uint32_t i = 0; i < t->m; i++) {
        if (t->vis[i] == 0) {
            assert_true(got->sum[i] == 0 && isinf(got->max[i]));
            continue;
        }
        for (uint32_t c = 0; c < t->d; c++) {
            double a = (double)got->acc[(size_t)i * t->d + c] / (double)got->sum[i];
            double b = (double)want->acc[(size_t)i * t->d + c] / (double)want->sum[i];
            if (!(fabs(a - b) <= bound)) {
                fail_msg("%s %s: d %u m %u n %u, query %u channel %u: got %.9g want %.9g (%.3g)",
                         kern->name, ft_fmt_name(t->fmt), t->d, t->m, t->n, i, c, a, b, bound);
            }
            *share = fmax(*share, fabs(a - b) / bound);
            err2 += (a - b) * (a - b);
            ref2 += b * b;
        }
    }
    if (!(err2 <= nmse * ref2 || err2 == 0)) {
        fail_msg("%s %s: d %u m %u n %u: NMSE %.3g, at most %.3g", kern->name, ft_fmt_name(t->fmt),
                 t->d, t->m, t->n, err2 / ref2, nmse);
    }
    *share = fmax(*share, err2 == 0 ? 0 : err2 / ref2 / nmse);
}

static void test_matches_ref(void **unused) {
    (void)unused;
    double share[8][FT_FMT_COUNT] = { { 0 } };
    static struct state want, got;
    uint32_t turn = 0;
    for (size_t c = 0; c < FT_COUNT(head_sizes) * FT_COUNT(query_counts); c++) {
        uint32_t d = head_sizes[c / FT_COUNT(query_counts)];
        uint32_t m = query_counts[c % FT_COUNT(query_counts)];
        for (size_t n = 0; n < FT_COUNT(row_counts); n++, turn++) {
            enum ft_fmt fmt = (enum ft_fmt)(turn % FT_FMT_COUNT);
            fmt = d % BLOCK != 0 && fmt == FT_Q8_0 ? FT_F16 : fmt;
            struct data t =
                data_new(m, row_counts[n], d, fmt, (enum input)(turn / 3 % INPUT_COUNT));
            for (uint32_t i = 0; i < m && turn % 5 == 0; i++) {
                t.vis[i] = i % 3 == 1 ? 0 : (uint32_t)(ft_rng_uniform(turn, 3, 0, i) * (t.n + 1));
            }
            state_clear(&want);
            run(ft_kern_ref.attend, &t, 0, m, 0, t.n, &want);
            for (uint32_t v = 0; v < n_variant; v++) {
                state_clear(&got);
                run(variants[v]->attend_few, &t, 0, m, 0, t.n, &got);
                compare(variants[v], &t, &got, &want, &share[v][fmt]);
            }
            data_free(&t);
        }
    }
    for (uint32_t v = 1; v < n_variant; v++) {
        print_message(
            "%s: errors as shares of their bounds: f32 %.3f f16 %.3f bf16 %.3f q8_0 %.3f\n",
            variants[v]->name, share[v][FT_F32], share[v][FT_F16], share[v][FT_BF16],
            share[v][FT_Q8_0]);
    }
}

/* Where q is whole numbers of steps, bytes lose nothing: with q8_0 rows what is left are the
 * weights, 2^-16 of the largest of a tile.  Rows differ in size, so that nothing wrong cancels in
 * the softmax. */
static void test_exact_bytes(void **unused) {
    (void)unused;
    static struct state want, got;
    for (uint32_t c = 0; c < 8 * 3; c++) {
        uint32_t d = BLOCK * (1 + c % 8), m = 1 + c % 7, n = 64 + 40 * (c / 8);
        struct data t = data_new(m, n, d, FT_Q8_0, INPUT_RANDOM);
        for (uint32_t i = 0; i < m * d; i++) {
            float step = 1 / (float)(32 << (i / BLOCK % 3)); /* blocks of different scales */
            t.q[i] = i % BLOCK == 7 ? 127 * step : rintf(t.q[i] * 63) * step;
        }
        for (uint32_t j = 0; j < n * d; j++) {
            t.kf[j] *= (float)(1 + j / d % 5) / 5;
        }
        ft_kern_ref.encode(FT_Q8_0, t.kf, t.k, (size_t)n * d);
        state_clear(&want);
        run(ft_kern_ref.attend, &t, 0, m, 0, n, &want);
        for (uint32_t v = 1; v < n_variant; v++) {
            double err2 = 0, ref2 = 0;
            state_clear(&got);
            run(variants[v]->attend_few, &t, 0, m, 0, n, &got);
            for (uint32_t i = 0; i < m * d; i++) {
                double a = (double)got.acc[i] / (double)got.sum[i / d];
                double b = (double)want.acc[i] / (double)want.sum[i / d];
                err2 += (a - b) * (a - b);
                ref2 += b * b;
            }
            if (!(err2 <= 1e-8 * ref2)) {
                fail_msg("%s: d %u m %u n %u: NMSE %.3g", variants[v]->name, d, m, n, err2 / ref2);
            }
        }
        data_free(&t);
    }
}

/* K and V in different formats. */
static void test_mixed_formats(void **unused) {
    (void)unused;
    static struct state want, got;
    static float acc[2][64];
    for (uint32_t c = 0; c < FT_FMT_COUNT * FT_FMT_COUNT; c++) {
        struct data k = data_new(4, 100, 64, (enum ft_fmt)(c / FT_FMT_COUNT), INPUT_RANDOM);
        struct data v = data_new(4, 100, 64, (enum ft_fmt)(c % FT_FMT_COUNT), INPUT_RANDOM);
        void *work = must(aligned_alloc(64, (ft_kern_work_bytes() + 63) / 64 * 64));
        struct ft_attend a = {
            .q = k.q,
            .k = k.k,
            .v = v.v,
            .work = work,
            .q_stride = 64,
            .k_stride = ft_fmt_row_bytes(k.fmt, 64),
            .v_stride = ft_fmt_row_bytes(v.fmt, 64),
            .m = 4,
            .n = 100,
            .d = 64,
            .k_fmt = k.fmt,
            .v_fmt = v.fmt,
            .scale = k.scale,
        };
        struct logit_size size = logit_size(&k);
        double logit = 0x1p-20 * size.sum + (k.fmt == FT_Q8_0 ? size.bytes : 0);
        double bound = (2e-6 + 2 * logit + (v.fmt == FT_Q8_0 ? Q8_WEIGHT : 0)) * 3;
        for (uint32_t i = 0; i < n_variant; i++) {
            struct state *s = i == 0 ? &want : &got;
            state_clear(s);
            a.max = s->max;
            a.sum = s->sum;
            a.acc = s->acc;
            (i == 0 ? ft_kern_ref.attend : variants[i]->attend_few)(&a);
            ft_attend_done(1, 64, s->acc + 3 * 64, s->sum + 3, acc[i > 0], 64);
            for (uint32_t t = 0; t < 64 && i > 0; t++) {
                assert_true(fabs((double)acc[1][t] - (double)acc[0][t]) <= bound);
            }
        }
        free(work);
        data_free(&k);
        data_free(&v);
    }
}

/* ---- bits ---- */

/* A query alone, in every group and at every place of it, and spans cut at multiples of 64 rows. */
static void test_same_bits(void **unused) {
    (void)unused;
    static struct state whole, part;
    static const uint32_t cuts[] = { 0, 64, 192, 250 };
    for (uint32_t c = 0; c < n_variant * FT_FMT_COUNT * 3; c++) {
        const struct ft_kern *kern = variants[c / FT_FMT_COUNT / 3];
        static const uint32_t sizes[] = { 64, 96, 160 };
        uint32_t d = sizes[c % 3], m = 14;
        struct data t = data_new(m, 250, d, (enum ft_fmt)(c / 3 % FT_FMT_COUNT), INPUT_RANDOM);
        for (uint32_t i = 0; i < m; i++) {
            t.vis[i] = i % 4 == 2 ? 250 - 13 * i : 250;
        }
        state_clear(&whole);
        run(kern->attend_few, &t, 0, m, 0, 250, &whole);
        for (uint32_t i = 0; i < m * 4; i++) {
            uint32_t first = i / 4, n = FT_MIN(1 + i % 4 * 2, m - first);
            state_clear(&part);
            run(kern->attend_few, &t, first, n, 0, 250, &part);
            assert_memory_equal(part.acc, whole.acc + (size_t)first * d, n * d * sizeof(float));
            assert_memory_equal(part.sum, whole.sum + first, n * sizeof(float));
            assert_memory_equal(part.max, whole.max + first, n * sizeof(float));
        }
        state_clear(&part);
        for (size_t i = 0; i + 1 < FT_COUNT(cuts) && kern != &ft_kern_ref; i++) {
            run(kern->attend_few, &t, 0, m, cuts[i], cuts[i + 1], &part);
        }
        if (kern != &ft_kern_ref) { /* which rounds its double state between spans */
            assert_memory_equal(&part, &whole, sizeof whole);
        }
        data_free(&t);
    }
}

/* NaN in all rows that a query does not see leaves its bits alone; where it is seen, it shows. */
static void test_unseen_rows(void **unused) {
    (void)unused;
    static struct state clean, dirty;
    for (uint32_t c = 0; c < n_variant * FT_FMT_COUNT; c++) {
        const struct ft_kern *kern = variants[c / FT_FMT_COUNT];
        struct data t = data_new(8, 150, 64, (enum ft_fmt)(c % FT_FMT_COUNT), INPUT_RANDOM);
        for (uint32_t i = 0; i < t.m; i++) {
            t.vis[i] = i == 5 ? 150 : 141 - i % 4 * 9;
        }
        size_t row = ft_fmt_row_bytes(t.fmt, t.d);
        state_clear(&clean);
        state_clear(&dirty);
        run(kern->attend_few, &t, 0, t.m, 0, t.n, &clean);
        memset(t.k + 141 * row, 0xff, 9 * row);
        memset(t.v + 141 * row, 0xff, 9 * row);
        run(kern->attend_few, &t, 0, t.m, 0, t.n, &dirty);
        for (uint32_t i = 0; i < t.m; i++) {
            if (i != 5) {
                assert_memory_equal(dirty.acc + (size_t)i * 64, clean.acc + (size_t)i * 64, 256);
                assert_true(dirty.sum[i] == clean.sum[i] && dirty.max[i] == clean.max[i]);
            }
            assert_int_equal(isnan(dirty.acc[(size_t)i * 64 + 7]) != 0, i == 5);
        }
        data_free(&t);
    }
}

/* NaN anywhere in a query shows in all of its output, and in no other query. */
static void test_nan_query(void **unused) {
    (void)unused;
    static struct state clean, got;
    static const uint32_t places[] = { 0, 7, 15, 16, 31, 33, 60, 95 };
    for (uint32_t c = 0; c < n_variant * FT_FMT_COUNT * FT_COUNT(places); c++) {
        const struct ft_kern *kern = variants[c / FT_FMT_COUNT / FT_COUNT(places)];
        struct data t = data_new(4, 200, 96, (enum ft_fmt)(c % FT_FMT_COUNT), INPUT_RANDOM);
        state_clear(&clean);
        state_clear(&got);
        run(kern->attend_few, &t, 0, t.m, 0, t.n, &clean);
        t.q[t.d + places[c / FT_FMT_COUNT % FT_COUNT(places)]] = NAN;
        run(kern->attend_few, &t, 0, t.m, 0, t.n, &got);
        for (uint32_t i = 0; i < t.m * t.d; i++) {
            if (i / t.d == 1) {
                assert_true(isnan(got.acc[i] / got.sum[1]));
            } else {
                assert_memory_equal(&got.acc[i], &clean.acc[i], sizeof(float));
            }
        }
        data_free(&t);
    }
}

/* ---- q8_0 ---- */

static uint16_t half_of(float x) {
    uint16_t h;
    ft_kern_ref.encode(FT_F16, &x, &h, 1);
    return h;
}

/* The definition, block by block, and the variants' bytes equal to ref's. */
static void test_blocks(void **unused) {
    (void)unused;
    enum { N = 400 * BLOCK };
    static const float tops[] = { 1, 0x1p-30f, 1e-7f, 8e6f, 8.4e6f, 1e30f, 0, 1e-38f, 127, 5e-4f };
    static char ref[N / BLOCK * BLOCK_BYTE], got[N / BLOCK * BLOCK_BYTE];
    static float back[N], again[N];
    float *x = numbers(N, 5, 0, 1);
    for (uint32_t i = 0; i < N; i++) {
        x[i] *= tops[i / BLOCK % FT_COUNT(tops)];
    }
    x[100 * BLOCK + 3] = NAN;
    x[110 * BLOCK + 31] = -INFINITY;
    x[128 * BLOCK] = 127; /* the scale is 1: ties go to the even neighbour */
    for (int e = 1; e < BLOCK; e++) {
        x[128 * BLOCK + e] = (float)e - 15.5f;
    }
    ft_kern_ref.encode(FT_Q8_0, x, ref, N);
    ft_kern_ref.decode(FT_Q8_0, ref, back, N);
    for (uint32_t b = 0; b < N / BLOCK; b++) {
        float top = 0;
        bool is_finite = true;
        for (uint32_t e = 0; e < BLOCK; e++) {
            is_finite = is_finite && isfinite(x[b * BLOCK + e]);
            top = fmaxf(top, fabsf(x[b * BLOCK + e]));
        }
        uint16_t scale;
        memcpy(&scale, ref + (size_t)b * BLOCK_BYTE, sizeof scale);
        bool is_lost = !is_finite || half_of(top / 127) == half_of(INFINITY);
        assert_int_equal(scale, is_lost ? 0x7e00 : half_of(top / 127));
        for (uint32_t e = 0; e < BLOCK; e++) {
            double here = (double)x[b * BLOCK + e], step = (double)top / 127;
            /* half a step, the rounding of the scale; 2^-25 where f16 has no full mantissa */
            double most = step / 2 + fabs(here) * 0x1p-10 + 127 * 0x1p-25;
            assert_true(is_lost ? isnan(back[b * BLOCK + e])
                                : fabs((double)back[b * BLOCK + e] - here) <= most);
        }
    }
    for (int e = 1; e < BLOCK; e++) {
        int near = (int)lrint((double)x[128 * BLOCK + e]);
        assert_int_equal((int8_t)ref[128 * BLOCK_BYTE + 2 + e], near);
        assert_int_equal(near % 2, 0);
    }
    for (uint32_t v = 1; v < n_variant; v++) {
        memset(got, 0, sizeof got);
        variants[v]->encode(FT_Q8_0, x, got, N);
        assert_memory_equal(got, ref, sizeof got);
        variants[v]->decode(FT_Q8_0, ref, again, N);
        for (uint32_t i = 0; i < N; i++) {
            assert_true(isnan(back[i]) ? isnan(again[i]) : back[i] == again[i]);
        }
    }
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_ref),   cmocka_unit_test(test_exact_bytes),
        cmocka_unit_test(test_mixed_formats), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_unseen_rows),   cmocka_unit_test(test_nan_query),
        cmocka_unit_test(test_blocks),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("few", tests, NULL, NULL);
}
