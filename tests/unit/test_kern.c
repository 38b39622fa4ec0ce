/* SPDX-License-Identifier: Apache-2.0 */
/* test_kern.c - every kernel variant against ref.c, ref.c against formulas, and the promises about bits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kern/kern.h"

enum { N_MAX = 1000, M_MAX = FT_TILE_QUERY };

static const uint32_t head_sizes[] = { 16, 32, 64, 80, 96, 128, 256 };
static const uint32_t query_counts[] = { 1, 3, 4, 7, 16, 61, 256 };
static const uint32_t row_counts[] = { 1, 5, 63, 64, 65, 200, 1000 };

/* ---- data ---- */

enum input { INPUT_RANDOM, INPUT_LARGE, INPUT_ZERO, INPUT_TINY, INPUT_EQUAL, INPUT_COUNT };
enum sight { SIGHT_ALL, SIGHT_CAUSAL, SIGHT_RAGGED, SIGHT_NONE_SOME, SIGHT_COUNT };

struct data {
    float *q, *kf, *vf; /* [M_MAX][d], [n][d] */
    char *k, *v;        /* encoded, n rows; the allocation ends with the last row */
    uint32_t vis[M_MAX];
    float weight[M_MAX];
    uint32_t m, n, d;
    enum ft_fmt fmt;
    float scale;
    uint64_t seed;
};

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static void *aligned(size_t n_byte)
{
    return must(aligned_alloc(64, (n_byte + 63) & ~(size_t)63));
}

static float uniform(uint64_t seed, uint32_t what, uint64_t i)
{
    return (float)(ft_rng_uniform(seed, what, 0, i) * 2 - 1);
}

static void fill(float *x, size_t n, uint64_t seed, uint32_t what, float size)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = uniform(seed, what, i) * size;
    }
}

/* Largest logits: RANDOM about 3, LARGE about 80, ZERO 0, TINY denormal products, EQUAL all the same. */
static void data_fill(struct data *t, enum input input)
{
    float size = input == INPUT_ZERO ? 0 : input == INPUT_TINY ? 1e-7f : input == INPUT_LARGE ? 4.5f : 1;
    fill(t->q, (size_t)M_MAX * t->d, t->seed, 0, size * 2);
    fill(t->kf, (size_t)t->n * t->d, t->seed, 1, size * 2);
    fill(t->vf, (size_t)t->n * t->d, t->seed, 2, input == INPUT_TINY ? 1e-6f : 3);
    for (uint32_t j = 1; j < t->n && input == INPUT_EQUAL; j++) {
        memcpy(t->kf + (size_t)j * t->d, t->kf, t->d * sizeof(float));
    }
}

static void data_sight(struct data *t, enum sight sight)
{
    for (uint32_t i = 0; i < M_MAX; i++) {
        uint32_t behind = M_MAX - 1 - i;
        uint32_t ragged = (uint32_t)(ft_rng_uniform(t->seed, 3, 0, i) * (t->n + 1));
        t->vis[i] = sight == SIGHT_ALL      ? t->n
                    : sight == SIGHT_CAUSAL ? (t->n > behind / 4 ? t->n - behind / 4 : 0)
                    : sight == SIGHT_RAGGED ? ragged
                                            : (i % 3 == 1 ? 0 : ragged);
        t->weight[i] = (float)ft_rng_uniform(t->seed, 4, 0, i) * 2;
    }
}

static struct data data_new(uint32_t m, uint32_t n, uint32_t d, enum ft_fmt fmt, enum input input, enum sight sight)
{
    static uint64_t seed = 1;
    struct data t = { .m = m, .n = n, .d = d, .fmt = fmt, .scale = 1 / sqrtf((float)d), .seed = seed++ };
    size_t n_byte = (size_t)n * d * ft_fmt_bytes(fmt);
    t.q = must(malloc((size_t)M_MAX * d * sizeof(float)));
    t.kf = must(malloc((size_t)n * d * sizeof(float)));
    t.vf = must(malloc((size_t)n * d * sizeof(float)));
    t.k = must(malloc(n_byte));
    t.v = must(malloc(n_byte));
    data_fill(&t, input);
    data_sight(&t, sight);
    ft_kern_ref.encode(fmt, t.kf, t.k, (size_t)n * d);
    ft_kern_ref.encode(fmt, t.vf, t.v, (size_t)n * d);
    ft_kern_ref.decode(fmt, t.k, t.kf, (size_t)n * d);
    ft_kern_ref.decode(fmt, t.v, t.vf, (size_t)n * d);
    return t;
}

static void data_free(struct data *t)
{
    free(t->q);
    free(t->kf);
    free(t->vf);
    free(t->k);
    free(t->v);
}

/* Largest sum of |q_t k_t| * scale: what the rounding errors of a logit are relative to. */
static double logit_size(const struct data *t)
{
    double size = 0;
    for (uint32_t i = 0; i < t->m; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            double sum = 0;
            for (uint32_t c = 0; c < t->d; c++) {
                sum += fabs((double)t->q[(size_t)i * t->d + c] * (double)t->kf[(size_t)j * t->d + c]);
            }
            size = fmax(size, sum * (double)t->scale);
        }
    }
    return size;
}

/* ---- attention state ---- */

struct state {
    float max[M_MAX], sum[M_MAX];
    float *acc; /* [m][d] */
};

static struct state state_new(uint32_t m, uint32_t d)
{
    struct state s;
    for (uint32_t i = 0; i < M_MAX; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0;
    }
    s.acc = must(calloc((size_t)m * d, sizeof(float)));
    return s;
}

static void *work_area(void)
{
    static void *work;
    if (work == NULL) {
        work = aligned(ft_kern_work_bytes());
    }
    memset(work, 0xff, ft_kern_work_bytes()); /* NaNs: a kernel that reads what it did not write shows it */
    return work;
}

/* Rows [from, to) of t folded into s for queries [first, first + m). */
static void run_attend(const struct ft_kern *kern, const struct data *t, uint32_t first, uint32_t m, uint32_t from,
                       uint32_t to, struct state *s)
{
    uint32_t vis[M_MAX];
    size_t stride = t->d * ft_fmt_bytes(t->fmt);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seen = t->vis[first + i] > from ? t->vis[first + i] - from : 0;
        vis[i] = FT_MIN(seen, to - from);
    }
    struct ft_attend a = {
        .q = t->q + (size_t)first * t->d, .k = t->k + from * stride, .v = t->v + from * stride, .vis = vis,
        .max = s->max, .sum = s->sum, .acc = s->acc, .work = work_area(), .q_stride = t->d, .k_stride = stride,
        .v_stride = stride, .m = m, .n = to - from, .d = t->d, .k_fmt = t->fmt, .v_fmt = t->fmt, .scale = t->scale,
    };
    kern->attend(&a);
}

static void run_vote(const struct ft_kern *kern, const struct data *t, uint32_t from, uint32_t to, enum ft_reduce red,
                     bool is_mass, float *lse, float *mass)
{
    uint32_t vis[M_MAX];
    size_t stride = t->d * ft_fmt_bytes(t->fmt);
    for (uint32_t i = 0; i < t->m; i++) {
        vis[i] = t->vis[i] > from ? t->vis[i] - from : 0;
    }
    struct ft_vote v = {
        .q = t->q, .k = t->k + from * stride, .vis = vis, .weight = t->weight, .lse = lse,
        .out = is_mass ? mass : lse, .work = work_area(), .q_stride = t->d, .k_stride = stride, .m = t->m,
        .n = to - from, .d = t->d, .k_fmt = t->fmt, .red = red, .scale = t->scale,
    };
    if (is_mass) {
        kern->mass(&v);
    } else {
        kern->lse(&v);
    }
}

/* ---- comparison ---- */

static const struct ft_kern *variants[4];
static uint32_t n_variant;
static struct {
    double attend, attend_nmse, lse, mass;
} worst[4]; /* errors as fractions of their bounds, printed at the end */

static void check(bool good, const char *what, const struct ft_kern *kern, const struct data *t, uint32_t i, uint32_t j,
                  double got, double want, double bound)
{
    if (!good) {
        fail_msg("%s %s: d %u fmt %s m %u n %u seed %llu, query %u place %u: got %.9g want %.9g (bound %.3g)", kern->name,
                 what, t->d, ft_fmt_name(t->fmt), t->m, t->n, (unsigned long long)t->seed, i, j, got, want, bound);
    }
}

/* A logit is one chain of d fused multiply-adds, so its error is below d * 2^-24 * sum|q_t k_t| * scale; rounding
 * errors have random signs, so that 4 sqrt(d) stands for d.  A relative change e of all weights moves an output by
 * at most 2 e max|v|; 2e-6 max|v| covers exp, the sums over rows and the division. */
static double logit_bound(const struct data *t)
{
    return 4 * sqrt(t->d) * 0x1p-24 * logit_size(t);
}

static void compare_attend(uint32_t variant, const struct data *t, const struct state *got, const struct state *want)
{
    const struct ft_kern *kern = variants[variant];
    double err2 = 0, ref2 = 0, bound = (2e-6 + 2 * logit_bound(t)) * 3;
    for (uint32_t i = 0; i < t->m; i++) {
        if (t->vis[i] == 0) {
            check(got->sum[i] == 0 && isinf(got->max[i]), "untouched", kern, t, i, 0, (double)got->sum[i], 0, 0);
            continue;
        }
        for (uint32_t c = 0; c < t->d; c++) {
            double a = (double)got->acc[(size_t)i * t->d + c] / (double)got->sum[i];
            double b = (double)want->acc[(size_t)i * t->d + c] / (double)want->sum[i];
            check(fabs(a - b) <= bound, "attend", kern, t, i, c, a, b, bound);
            worst[variant].attend = fmax(worst[variant].attend, fabs(a - b) / bound);
            err2 += (a - b) * (a - b);
            ref2 += b * b;
        }
    }
    double nmse = ref2 > 0 ? err2 / ref2 : err2, size = fmax(1, logit_size(t) / 64), most = 1e-10 * size * size;
    check(nmse <= most, "attend NMSE", kern, t, 0, 0, nmse, 0, most);
    worst[variant].attend_nmse = fmax(worst[variant].attend_nmse, nmse / most);
}

static void case_attend(struct data *t)
{
    struct state want = state_new(t->m, t->d);
    run_attend(&ft_kern_ref, t, 0, t->m, 0, t->n, &want);
    for (uint32_t v = 1; v < n_variant; v++) {
        struct state got = state_new(t->m, t->d);
        run_attend(variants[v], t, 0, t->m, 0, t->n, &got);
        compare_attend(v, t, &got, &want);
        free(got.acc);
    }
    free(want.acc);
}

static void case_vote(struct data *t, enum ft_reduce red)
{
    float lse[M_MAX], got_lse[M_MAX], mass[N_MAX] = { 0 };
    run_vote(&ft_kern_ref, t, 0, t->n, red, false, lse, NULL);
    run_vote(&ft_kern_ref, t, 0, t->n, red, true, lse, mass);
    for (uint32_t v = 1; v < n_variant; v++) {
        float got[N_MAX] = { 0 };
        double bound = 2e-6 + logit_bound(t);
        run_vote(variants[v], t, 0, t->n, red, false, got_lse, NULL);
        for (uint32_t i = 0; i < t->m; i++) {
            double e = lse[i] == got_lse[i] ? 0 : fabs((double)got_lse[i] - (double)lse[i]);
            double limit = bound + 0x1p-23 * fabs(t->vis[i] > 0 ? (double)lse[i] : 0);
            check(e <= limit, "lse", variants[v], t, i, 0, (double)got_lse[i], (double)lse[i], limit);
            worst[v].lse = fmax(worst[v].lse, e / limit);
        }
        run_vote(variants[v], t, 0, t->n, red, true, lse, got);
        for (uint32_t j = 0; j < t->n; j++) { /* relative, down to where f32 has no full mantissa any more */
            double e = fabs((double)got[j] - (double)mass[j]), limit = (1e-6 + bound) * (double)mass[j] + 1e-36;
            check(e <= limit, "mass", variants[v], t, 0, j, (double)got[j], (double)mass[j], limit);
            worst[v].mass = fmax(worst[v].mass, e / limit);
        }
    }
}

/* Every head size, format, query and row count; inputs and sights take turns so that each meets each. */
static void test_variants_match_ref(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (size_t d = 0; d < FT_COUNT(head_sizes); d++) {
        for (size_t m = 0; m < FT_COUNT(query_counts); m++) {
            for (size_t n = 0; n < FT_COUNT(row_counts); n++, turn++) {
                for (uint32_t fmt = 0; fmt < FT_FMT_COUNT; fmt++) {
                    bool heavy = (uint64_t)query_counts[m] * row_counts[n] * head_sizes[d] > 2000000;
                    if (heavy && fmt != turn % FT_FMT_COUNT) {
                        continue; /* the reference is slow: one format each */
                    }
                    struct data t = data_new(query_counts[m], row_counts[n], head_sizes[d], (enum ft_fmt)fmt,
                                             (enum input)((turn + fmt) % INPUT_COUNT),
                                             (enum sight)((turn / INPUT_COUNT + fmt) % SIGHT_COUNT));
                    case_attend(&t);
                    case_vote(&t, turn % 2 ? FT_REDUCE_MAX : FT_REDUCE_SUM);
                    data_free(&t);
                }
            }
        }
    }
    for (uint32_t v = 1; v < n_variant; v++) {
        print_message("%s: errors as shares of their bounds: attend %.3f (NMSE %.3f) lse %.3f mass %.3f\n",
                      variants[v]->name, worst[v].attend, worst[v].attend_nmse, worst[v].lse, worst[v].mass);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants_match_ref),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("kern", tests, NULL, NULL);
}
