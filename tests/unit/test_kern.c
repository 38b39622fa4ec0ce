/* SPDX-License-Identifier: Apache-2.0 */
/* test_kern.c - every kernel variant against ref.c, ref.c against formulas, promises about bits. */
#define _POSIX_C_SOURCE 200809L
#include <sys/wait.h>
#include <unistd.h>

#include "kern_fixture.h"

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

static void fill(float *x, size_t n, uint64_t seed, uint32_t what, float size) {
    for (size_t i = 0; i < n; i++) {
        x[i] = uniform(seed, what, i) * size;
    }
}

/* Largest logits: RANDOM about 3, LARGE about 80, ZERO 0, TINY denormal products, EQUAL all the
 * same. */
static void data_fill(struct data *t, enum input input) {
    float size = input == INPUT_ZERO    ? 0
                 : input == INPUT_TINY  ? 1e-7f
                 : input == INPUT_LARGE ? 4.5f
                                        : 1;
    fill(t->q, (size_t)M_MAX * t->d, t->seed, 0, size * 2);
    fill(t->kf, (size_t)t->n * t->d, t->seed, 1, size * 2);
    fill(t->vf, (size_t)t->n * t->d, t->seed, 2, input == INPUT_TINY ? 1e-6f : 3);
    for (uint32_t j = 1; j < t->n && input == INPUT_EQUAL; j++) {
        memcpy(t->kf + (size_t)j * t->d, t->kf, t->d * sizeof(float));
    }
}

static void data_sight(struct data *t, enum sight sight) {
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

static struct data data_new(uint32_t m, uint32_t n, uint32_t d, enum ft_fmt fmt, enum input input,
                            enum sight sight) {
    static uint64_t seed = 1;
    fmt = fmt == FT_Q8_0 && d % 32 != 0 ? FT_F16 : fmt; /* q8_0 rows are whole blocks */
    struct data t = {
        .m = m, .n = n, .d = d, .fmt = fmt, .scale = 1 / sqrtf((float)d), .seed = seed++
    };
    size_t n_byte = n * ft_fmt_row_bytes(fmt, d);
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

static void data_free(struct data *t) {
    free(t->q);
    free(t->kf);
    free(t->vf);
    free(t->k);
    free(t->v);
}

/* Largest sum of |q_t k_t| * scale: what the rounding errors of a logit are relative to. */
static double logit_size(const struct data *t) {
    double size = 0;
    for (uint32_t i = 0; i < t->m; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            double sum = 0;
            for (uint32_t c = 0; c < t->d; c++) {
                sum +=
                    fabs((double)t->q[(size_t)i * t->d + c] * (double)t->kf[(size_t)j * t->d + c]);
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

static struct state state_new(uint32_t m, uint32_t d) {
    struct state s;
    for (uint32_t i = 0; i < M_MAX; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0;
    }
    s.acc = must(calloc((size_t)m * d, sizeof(float)));
    return s;
}

/* Rows [from, to) of t folded into s for queries [first, first + m). */
static void run_attend(const struct ft_kern *kern, const struct data *t, uint32_t first, uint32_t m,
                       uint32_t from, uint32_t to, struct state *s) {
    uint32_t vis[M_MAX];
    size_t stride = ft_fmt_row_bytes(t->fmt, t->d);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seen = t->vis[first + i] > from ? t->vis[first + i] - from : 0;
        vis[i] = FT_MIN(seen, to - from);
    }
    struct ft_attend a = {
        .q = t->q + (size_t)first * t->d,
        .k = t->k + from * stride,
        .v = t->v + from * stride,
        .vis = vis,
        .max = s->max,
        .sum = s->sum,
        .acc = s->acc,
        .work = work_area(),
        .q_stride = t->d,
        .k_stride = stride,
        .v_stride = stride,
        .m = m,
        .n = to - from,
        .d = t->d,
        .k_fmt = t->fmt,
        .v_fmt = t->fmt,
        .scale = t->scale,
    };
    kern->attend(&a);
}

static void run_vote(const struct ft_kern *kern, const struct data *t, uint32_t from, uint32_t to,
                     enum ft_reduce red, bool is_mass, float *lse, float *mass) {
    uint32_t vis[M_MAX];
    size_t stride = ft_fmt_row_bytes(t->fmt, t->d);
    for (uint32_t i = 0; i < t->m; i++) {
        vis[i] = t->vis[i] > from ? t->vis[i] - from : 0;
    }
    struct ft_vote v = {
        .q = t->q,
        .k = t->k + from * stride,
        .vis = vis,
        .weight = t->weight,
        .lse = lse,
        .out = is_mass ? mass : lse,
        .work = work_area(),
        .q_stride = t->d,
        .k_stride = stride,
        .m = t->m,
        .n = to - from,
        .d = t->d,
        .k_fmt = t->fmt,
        .red = red,
        .scale = t->scale,
    };
    if (is_mass) {
        kern->mass(&v);
    } else {
        kern->lse(&v);
    }
}

/* ---- comparison ---- */

static struct {
    double attend, attend_nmse, rounded, rounded_nmse, lse, mass;
} worst[FT_KERN_MOST]; /* errors as fractions of their bounds, printed at the end */

struct place {
    uint32_t query, at; /* row or channel */
};

static void check(bool good, const char *what, const struct ft_kern *kern, const struct data *t,
                  struct place place, double got, double want, double bound) {
    if (!good) {
        fail_msg("%s %s: d %u fmt %s m %u n %u seed %llu, query %u place %u: got %.9g want %.9g "
                 "(bound %.3g)",
                 kern->name, what, t->d, ft_fmt_name(t->fmt), t->m, t->n,
                 (unsigned long long)t->seed, place.query, place.at, got, want, bound);
    }
}

/* A logit is one chain of d fused multiply-adds: its error is below d * 2^-24 * sum|q_t k_t| *
 * scale, and as rounding errors have random signs, 2 sqrt(d) stands for d.  A relative change e of
 * all weights moves an output by at most 2 e max|v|; 2e-6 max|v| covers exp, the sums over rows
 * and the division. */
static double logit_bound(const struct data *t) {
    return 2 * sqrt(t->d) * 0x1p-24 * logit_size(t);
}

/* Does attend round queries, rows and weights to bf16, q to bytes for q8_0? */
static bool rounds(const struct ft_kern *kern, enum ft_fmt fmt) {
    return (fmt == FT_BF16 || fmt == FT_Q8_0) && strcmp(kern->name, "avx512bf16") == 0;
}

static float most_of(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(x[i]));
    }
    return most;
}

static bool has_words(const struct ft_kern *kern, enum ft_fmt fmt) {
    bool is_f32 = fmt == FT_F32 || strcmp(kern->name, "avx512") == 0;
    return !is_f32 && strncmp(kern->name, "avx", 3) == 0 && !rounds(kern, fmt);
}

/* The most that bytes for q change q . k by: max|q| / 254 of its block of 32 times sum|k|. */
static double byte_error(const float *q, const float *k, uint32_t d) {
    double sum = 0;
    for (uint32_t c = 0; c < d; c += 32) {
        double half = (double)most_of(q + c, 32) / 254;
        for (uint32_t e = c; e < c + 32; e++) {
            sum += half * fabs((double)k[e]);
        }
    }
    return sum;
}

/* The most that words for q and for k, in chunks of 64, change q . k by. */
static double word_error(const float *q, const float *k, uint32_t d) {
    double sum = 0, q_half = (double)most_of(q, d) / (2 * 8191);
    for (uint32_t c = 0; c < d; c += 64) {
        uint32_t end = FT_MIN(c + 64, d);
        double k_half = (double)most_of(k + c, end - c) / (2 * 4095);
        for (uint32_t e = c; e < end; e++) {
            sum += q_half * fabs((double)k[e]) + k_half * fabs((double)q[e]) + q_half * k_half;
        }
    }
    return sum;
}

/* The most that a logit changes. */
static double logit_error(const struct data *t,
                          double (*error)(const float *q, const float *k, uint32_t d)) {
    double most = 0;
    for (uint32_t i = 0; i < t->m; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            most = fmax(most, error(t->q + (size_t)i * t->d, t->kf + (size_t)j * t->d, t->d));
        }
    }
    return most * (double)t->scale;
}

struct bound {
    double out, nmse;
};

/* f32 variants: 2e-6 and the logits.  avx512bf16 against numbers that are rounded as it rounds them
 * itself: its exp and the rounding of its weights come on top; a relative change of all weights by
 * at most e moves an output by at most e max|v|. */
static struct bound bound_rounded(const struct ft_kern *kern, const struct data *t) {
    double size = fmax(1, logit_size(t) / 64);
    struct bound b = { (2e-6 + 2 * logit_bound(t)) * 3, 1e-10 * size * size };
    if (rounds(kern, t->fmt)) {
        b.out += (0x1p-9 * 1.001 + 1e-4) * 3;
        b.nmse += 0x1p-17;
    } else if (has_words(kern, t->fmt)) { /* 64 weights a tile, the largest 1; V */
        b.out += (0x1p-7 * 1.001 + 0x1p-13 * 1.001) * 3;
        b.nmse += 0x1p-24;
    }
    return b;
}

/* Against the numbers as they are: q and k within 2^-9 each, or bytes; v within 2^-9.  The NMSE
 * knows that rounding errors are independent: those of a logit add up to L / sqrt(d) times that of
 * one. */
static struct bound bound_of(const struct ft_kern *kern, const struct data *t) {
    struct bound b = bound_rounded(kern, t);
    if (rounds(kern, t->fmt)) {
        double size = logit_size(t), bytes = t->fmt == FT_Q8_0 ? 8 : 1;
        double logit = t->fmt == FT_Q8_0 ? logit_error(t, byte_error) : (0x1p-8 + 0x1p-18) * size;
        b.out += (logit + 0x1p-9 * 1.001) * 3;
        b.nmse += 0x1p-16 * (1 + bytes * size * size / t->d);
    } else if (has_words(kern, t->fmt)) {
        double logit = logit_error(t, word_error);
        b.out += logit * 3;
        b.nmse += logit * logit / t->d;
    }
    return b;
}

static void compare_attend(uint32_t variant, const struct data *t, const struct state *got,
                           const struct state *want, struct bound most, struct bound *share) {
    const struct ft_kern *kern = variants[variant];
    double err2 = 0, ref2 = 0;
    for (uint32_t i = 0; i < t->m; i++) {
        if (t->vis[i] == 0) {
            check(got->sum[i] == 0 && isinf(got->max[i]), "untouched", kern, t,
                  (struct place){ i, 0 }, (double)got->sum[i], 0, 0);
            continue;
        }
        for (uint32_t c = 0; c < t->d; c++) {
            double a = (double)got->acc[(size_t)i * t->d + c] / (double)got->sum[i];
            double b = (double)want->acc[(size_t)i * t->d + c] / (double)want->sum[i];
            check(fabs(a - b) <= most.out, "attend", kern, t, (struct place){ i, c }, a, b,
                  most.out);
            share->out = fmax(share->out, fabs(a - b) / most.out);
            err2 += (a - b) * (a - b);
            ref2 += b * b;
        }
    }
    double nmse = ref2 > 0 ? err2 / ref2 : err2;
    check(nmse <= most.nmse, "attend NMSE", kern, t, (struct place){ 0, 0 }, nmse, 0, most.nmse);
    share->nmse = fmax(share->nmse, nmse / most.nmse);
}

static void round_bf16(float *x, size_t n) {
    uint16_t *half = must(malloc(n * sizeof *half));
    ft_kern_ref.encode(FT_BF16, x, half, n);
    ft_kern_ref.decode(FT_BF16, half, x, n);
    free(half);
}

static void round_bytes(float *x, size_t n) {
    for (size_t i = 0; i < n; i += 32) {
        float top = most_of(x + i, 32);
        for (size_t e = i; e < i + 32 && top > 0; e++) {
            x[e] = rintf(x[e] * (127 / top)) * (top / 127);
        }
    }
}

static float *copy_of(const float *x, size_t n) {
    return memcpy(must(malloc(n * sizeof *x)), x, n * sizeof *x);
}

/* t with the numbers that avx512bf16 computes with, in f32 rows. */
static struct data data_rounded(const struct data *t) {
    struct data r = *t;
    size_t n = (size_t)t->n * t->d, n_q = (size_t)t->m * t->d;
    r.fmt = FT_F32;
    r.q = copy_of(t->q, n_q);
    r.kf = copy_of(t->kf, n);
    r.vf = copy_of(t->vf, n);
    if (t->fmt == FT_Q8_0) {
        round_bytes(r.q, n_q);
    } else {
        round_bf16(r.q, n_q);
        round_bf16(r.kf, n);
    }
    round_bf16(r.vf, n);
    r.k = (char *)r.kf;
    r.v = (char *)r.vf;
    return r;
}

static void case_rounded(uint32_t v, const struct data *t, const struct state *got) {
    struct data r = data_rounded(t);
    struct state want = state_new(t->m, t->d);
    struct bound share = { worst[v].rounded, worst[v].rounded_nmse };
    run_attend(&ft_kern_ref, &r, 0, t->m, 0, t->n, &want);
    compare_attend(v, t, got, &want, bound_rounded(variants[v], t), &share);
    worst[v].rounded = share.out;
    worst[v].rounded_nmse = share.nmse;
    free(want.acc);
    free(r.q);
    free(r.kf);
    free(r.vf);
}

static void case_attend(struct data *t) {
    struct state want = state_new(t->m, t->d);
    run_attend(&ft_kern_ref, t, 0, t->m, 0, t->n, &want);
    for (uint32_t v = 1; v < n_variant; v++) {
        struct state got = state_new(t->m, t->d);
        struct bound share = { worst[v].attend, worst[v].attend_nmse };
        run_attend(variants[v], t, 0, t->m, 0, t->n, &got);
        compare_attend(v, t, &got, &want, bound_of(variants[v], t), &share);
        worst[v].attend = share.out;
        worst[v].attend_nmse = share.nmse;
        if (rounds(variants[v], t->fmt)) {
            case_rounded(v, t, &got);
        }
        free(got.acc);
    }
    free(want.acc);
}

static void case_vote(struct data *t, enum ft_reduce red) {
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
            check(e <= limit, "lse", variants[v], t, (struct place){ i, 0 }, (double)got_lse[i],
                  (double)lse[i], limit);
            worst[v].lse = fmax(worst[v].lse, e / limit);
        }
        run_vote(variants[v], t, 0, t->n, red, true, lse, got);
        for (uint32_t j = 0; j < t->n; j++) { /* relative, while f32 has a full mantissa */
            double e = fabs((double)got[j] - (double)mass[j]),
                   limit = (1e-6 + bound) * (double)mass[j] + 1e-36;
            check(e <= limit, "mass", variants[v], t, (struct place){ 0, j }, (double)got[j],
                  (double)mass[j], limit);
            worst[v].mass = fmax(worst[v].mass, e / limit);
        }
    }
}

/* Every head size, format, query and row count; inputs and sights take turns so that each meets
 * each. */
static void test_variants_match_ref(void **unused) {
    (void)unused;
    uint32_t turn = 0;
    for (size_t d = 0; d < FT_COUNT(head_sizes); d++) {
        for (size_t m = 0; m < FT_COUNT(query_counts); m++) {
            for (size_t n = 0; n < FT_COUNT(row_counts); n++, turn++) {
                for (uint32_t fmt = 0; fmt < FT_FMT_COUNT; fmt++) {
                    bool heavy =
                        (uint64_t)query_counts[m] * row_counts[n] * head_sizes[d] > 2000000;
                    if (heavy && fmt != turn % FT_FMT_COUNT) {
                        continue; /* the reference is slow: one format each */
                    }
                    struct data t =
                        data_new(query_counts[m], row_counts[n], head_sizes[d], (enum ft_fmt)fmt,
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
        print_message(
            "%s: errors as shares of their bounds: attend %.3f (NMSE %.3f) lse %.3f mass %.3f\n",
            variants[v]->name, worst[v].attend, worst[v].attend_nmse, worst[v].lse, worst[v].mass);
        if (rounds(variants[v], FT_BF16)) {
            print_message("%s: attend of rounded numbers %.3f (NMSE %.3f)\n", variants[v]->name,
                          worst[v].rounded, worst[v].rounded_nmse);
        }
    }
}

/* ---- ref against formulas ---- */

static double naive_logit(const struct data *t, uint32_t i, uint32_t j) {
    double sum = 0;
    for (uint32_t c = t->d; c-- > 0;) {
        sum += (double)t->q[(size_t)i * t->d + c] * (double)t->kf[(size_t)j * t->d + c];
    }
    return sum * (double)t->scale;
}

/* Two passes over all rows, everything in double, nothing shared with ref.c: only the roundings of
 * the f32 results differ, 2^-24 each, twice for acc / sum. */
static void test_ref_matches_formula(void **unused) {
    (void)unused;
    for (uint32_t fmt = 0; fmt < FT_FMT_COUNT; fmt++) {
        struct data t = data_new(7, 130, 32, (enum ft_fmt)fmt, INPUT_RANDOM, SIGHT_RAGGED);
        struct state s = state_new(t.m, t.d);
        float lse[M_MAX], mass[N_MAX] = { 0 };
        double want_mass[N_MAX] = { 0 };
        run_attend(&ft_kern_ref, &t, 0, t.m, 0, t.n, &s);
        run_vote(&ft_kern_ref, &t, 0, t.n, FT_REDUCE_SUM, false, lse, NULL);
        run_vote(&ft_kern_ref, &t, 0, t.n, FT_REDUCE_SUM, true, lse, mass);
        for (uint32_t i = 0; i < t.m; i++) {
            double out[FT_HEAD_MAX] = { 0 }, sum = 0;
            for (uint32_t j = 0; j < t.vis[i]; j++) {
                sum += exp(naive_logit(&t, i, j));
            }
            for (uint32_t j = 0; j < t.vis[i]; j++) {
                double p = exp(naive_logit(&t, i, j)) / sum;
                want_mass[j] += p * (double)t.weight[i];
                for (uint32_t c = 0; c < t.d; c++) {
                    out[c] += p * (double)t.vf[(size_t)j * t.d + c];
                }
            }
            for (uint32_t c = 0; c < t.d && t.vis[i] > 0; c++) {
                double got = (double)s.acc[(size_t)i * t.d + c] / (double)s.sum[i];
                check(fabs(got - out[c]) <= 3e-7 * 3, "formula", &ft_kern_ref, &t,
                      (struct place){ i, c }, got, out[c], 9e-7);
            }
            if (t.vis[i] > 0) {
                check(fabs((double)lse[i] - log(sum)) <= 1e-6, "lse formula", &ft_kern_ref, &t,
                      (struct place){ i, 0 }, (double)lse[i], log(sum), 1e-6);
            }
        }
        for (uint32_t j = 0; j < t.n; j++) {
            double e = fabs((double)mass[j] - want_mass[j]);
            check(e <= 1e-6 * want_mass[j], "mass formula", &ft_kern_ref, &t,
                  (struct place){ 0, j }, (double)mass[j], want_mass[j], 1e-6);
        }
        free(s.acc);
        data_free(&t);
    }
}

/* One product per logit, and exact: mass with lse 0 is exp itself.  A reduction in two constants,
 * a polynomial with 1e-8 and seven roundings of numbers near 1 stay below 1.5 units of 2^-23;
 * below the normal numbers the bound is a unit of 2^-149. */
static void test_exp(void **unused) {
    (void)unused;
    enum { N = 20000, D = 16 };
    float *k = must(calloc((size_t)N * D, sizeof *k)), *out = must(calloc(N, sizeof *out)),
          q[D] = { 1 }, lse = 0;
    for (uint32_t j = 0; j < N; j++) {
        k[(size_t)j * D] = 0.01f - 106 * (float)ft_rng_uniform(9, 0, 0, j);
    }
    for (uint32_t v = 0; v < n_variant; v++) {
        struct ft_vote vote = {
            .q = q,
            .k = k,
            .lse = &lse,
            .out = out,
            .work = work_area(),
            .q_stride = D,
            .k_stride = D * sizeof(float),
            .m = 1,
            .n = N,
            .d = D,
            .k_fmt = FT_F32,
            .red = FT_REDUCE_SUM,
            .scale = 1,
        };
        memset(out, 0, N * sizeof *out);
        variants[v]->mass(&vote);
        for (uint32_t j = 0; j < N; j++) {
            double x = (double)k[(size_t)j * D], want = exp(x);
            if (!(fabs((double)out[j] - want) <= 1.5 * 0x1p-23 * want + 0x1p-149)) {
                fail_msg("%s: exp(%.9g): got %.9g want %.9g", variants[v]->name, x, (double)out[j],
                         want);
            }
        }
    }
    free(k);
    free(out);
}

/* ---- same bits ---- */

static void assert_bits(const char *what, const struct ft_kern *kern, const struct data *t,
                        const void *a, const void *b, size_t n_byte) {
    if (memcmp(a, b, n_byte) != 0) {
        fail_msg("%s: %s: d %u fmt %s m %u n %u seed %llu: bits differ", kern->name, what, t->d,
                 ft_fmt_name(t->fmt), t->m, t->n, (unsigned long long)t->seed);
    }
}

static const uint32_t bit_heads[] = { 16, 64, 72, 128 };

/* The result of a query is the same alone, among others, and at any index. */
static void test_query_bits(void **unused) {
    (void)unused;
    static const uint32_t parts[] = { 1, 2, 4, 8, 9, 31 };
    for (uint32_t v = 0; v < n_variant * FT_COUNT(bit_heads) * FT_FMT_COUNT; v++) {
        const struct ft_kern *kern = variants[v / FT_FMT_COUNT / FT_COUNT(bit_heads)];
        uint32_t d = bit_heads[v / FT_FMT_COUNT % FT_COUNT(bit_heads)];
        struct data t = data_new(61, 200, d, (enum ft_fmt)(v % FT_FMT_COUNT), INPUT_RANDOM,
                                 v % 3 ? SIGHT_CAUSAL : SIGHT_NONE_SOME);
        struct state all = state_new(t.m, t.d);
        run_attend(kern, &t, 0, t.m, 0, t.n, &all);
        for (size_t p = 0; p < FT_COUNT(parts); p++) {
            for (uint32_t first = 0; first + parts[p] <= t.m; first += parts[p]) {
                struct state one = state_new(parts[p], t.d);
                run_attend(kern, &t, first, parts[p], 0, t.n, &one);
                assert_bits("max", kern, &t, one.max, all.max + first, parts[p] * sizeof(float));
                assert_bits("sum", kern, &t, one.sum, all.sum + first, parts[p] * sizeof(float));
                assert_bits("acc", kern, &t, one.acc, all.acc + (size_t)first * t.d,
                            parts[p] * t.d * sizeof(float));
                free(one.acc);
            }
        }
        free(all.acc);
        data_free(&t);
    }
}

/* Spans cut at whole tiles fold to the same bits in the vector variants; cut anywhere, and in ref
 * (which rounds its double state to f32 between calls), to the same numbers within the bound of a
 * variant. */
static void test_spans(void **unused) {
    (void)unused;
    for (uint32_t at = 0; at < n_variant * FT_FMT_COUNT; at++) {
        uint32_t v = at / FT_FMT_COUNT;
        struct data t =
            data_new(16, 300, 64, (enum ft_fmt)(at % FT_FMT_COUNT), INPUT_RANDOM, SIGHT_RAGGED);
        struct bound most = bound_rounded(variants[v], &t), share = { 0, 0 };
        struct state whole = state_new(t.m, t.d), tiles = state_new(t.m, t.d),
                     odd = state_new(t.m, t.d);
        run_attend(variants[v], &t, 0, t.m, 0, t.n, &whole);
        run_attend(variants[v], &t, 0, t.m, 0, 128, &tiles);
        run_attend(variants[v], &t, 0, t.m, 128, 192, &tiles);
        run_attend(variants[v], &t, 0, t.m, 192, 300, &tiles);
        run_attend(variants[v], &t, 0, t.m, 0, 77, &odd);
        run_attend(variants[v], &t, 0, t.m, 77, 300, &odd);
        if (v > 0) {
            assert_bits("acc of whole tiles", variants[v], &t, tiles.acc, whole.acc,
                        (size_t)t.m * t.d * sizeof(float));
            assert_bits("sum of whole tiles", variants[v], &t, tiles.sum, whole.sum,
                        t.m * sizeof(float));
        }
        compare_attend(v, &t, &tiles, &whole, most, &share);
        compare_attend(v, &t, &odd, &whole, most, &share);
        free(whole.acc);
        free(tiles.acc);
        free(odd.acc);
        data_free(&t);
    }
}

/* A column's mass is the same wherever the span starts and ends. */
static void test_mass_bits(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant * 2; v++) {
        const struct ft_kern *kern = variants[v / 2];
        enum ft_reduce red = v % 2 ? FT_REDUCE_MAX : FT_REDUCE_SUM;
        struct data t =
            data_new(61, 300, 80, (enum ft_fmt)(v % FT_FMT_COUNT), INPUT_RANDOM, SIGHT_RAGGED);
        float lse[M_MAX], whole[N_MAX] = { 0 }, part[N_MAX] = { 0 };
        run_vote(kern, &t, 0, t.n, red, false, lse, NULL);
        run_vote(kern, &t, 0, t.n, red, true, lse, whole);
        run_vote(kern, &t, 37, 299, red, true, lse, part);
        assert_bits("mass", kern, &t, part, whole + 37, (299 - 37) * sizeof(float));
        data_free(&t);
    }
}

/* Rows that a query does not see never touch it, not even as a product with zero: NaN in all of
 * them, once behind every query's view and once inside the view of other queries. */
static void test_invisible_rows(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant * FT_FMT_COUNT * 2; v++) {
        const struct ft_kern *kern = variants[v / FT_FMT_COUNT / 2];
        bool apart =
            v / FT_FMT_COUNT % 2; /* neighbours see different numbers of rows, or the same */
        struct data t =
            data_new(22, 150, 64, (enum ft_fmt)(v % FT_FMT_COUNT), INPUT_RANDOM, SIGHT_ALL);
        struct state clean = state_new(t.m, t.d), dirty = state_new(t.m, t.d);
        float lse[2][M_MAX], mass[2][N_MAX] = { { 0 } };
        for (uint32_t i = 0; i < t.m; i++) {
            uint32_t less = apart ? i % 7 * 9 : i / 8; /* odd and even counts */
            t.vis[i] = i == 21 || (apart && i == 5) ? 150 : 141 - less;
        }
        size_t row = ft_fmt_row_bytes(t.fmt, t.d);
        for (int pass = 0; pass < 2; pass++) {
            run_attend(kern, &t, 0, t.m, 0, t.n, pass == 0 ? &clean : &dirty);
            run_vote(kern, &t, 0, t.n, FT_REDUCE_SUM, false, lse[pass], NULL);
            t.m = 5; /* none of the first five sees the last rows */
            run_vote(kern, &t, 0, t.n, FT_REDUCE_SUM, true, lse[pass], mass[pass]);
            t.m = 22;
            memset(t.k + 141 * row, 0xff, 9 * row);
            memset(t.v + 141 * row, 0xff, 9 * row);
        }
        for (uint32_t i = 0; i < t.m; i++) {
            if (t.vis[i] <= 141) {
                assert_bits("acc", kern, &t, dirty.acc + (size_t)i * t.d,
                            clean.acc + (size_t)i * t.d, t.d * sizeof(float));
                assert_bits("sum", kern, &t, dirty.sum + i, clean.sum + i, sizeof(float));
                assert_bits("lse", kern, &t, lse[1] + i, lse[0] + i, sizeof(float));
            } else {
                assert_true(isnan(
                    dirty.acc[(size_t)i * t.d])); /* what is seen is not swept under the rug */
            }
        }
        assert_bits("mass", kern, &t, mass[1], mass[0], t.n * sizeof(float));
        free(clean.acc);
        free(dirty.acc);
        data_free(&t);
    }
}

/* What is seen is not swept under the rug: a NaN in a query is that query's and nobody else's, a
 * NaN in a row is everybody's, whatever its payload. */
static void test_visible_nan(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant * FT_FMT_COUNT * 3; v++) {
        const struct ft_kern *kern = variants[v / FT_FMT_COUNT / 3];
        uint32_t where = v / FT_FMT_COUNT % 3; /* q, K, V */
        struct data t =
            data_new(7, 130, 64, (enum ft_fmt)(v % FT_FMT_COUNT), INPUT_RANDOM, SIGHT_ALL);
        struct state clean = state_new(t.m, t.d), got = state_new(t.m, t.d);
        size_t row = ft_fmt_row_bytes(t.fmt, t.d);
        run_attend(kern, &t, 0, t.m, 0, t.n, &clean);
        if (where == 0) {
            const uint32_t nan = 0x7fc00001;
            memcpy(t.q + 3 * t.d + 40, &nan, sizeof nan);
        } else {
            memset((where == 1 ? t.k : t.v) + 70 * row, 0xff, row);
        }
        run_attend(kern, &t, 0, t.m, 0, t.n, &got);
        for (uint32_t i = 0; i < t.m; i++) {
            for (uint32_t c = 0; c < t.d && (where > 0 || i == 3); c++) {
                assert_true(isnan(got.acc[(size_t)i * t.d + c]));
            }
            if (where == 0 && i != 3) {
                assert_bits("beside a NaN", kern, &t, got.acc + (size_t)i * t.d,
                            clean.acc + (size_t)i * t.d, t.d * sizeof(float));
            }
        }
        free(clean.acc);
        free(got.acc);
        data_free(&t);
    }
}

/* Values at the ends of bf16's range, the same in every row: they come out. */
static void test_value_range(void **unused) {
    (void)unused;
    static const float size[] = { 1e33f, 0x1p99f, 0x1p101f, 0x1p-100f, 0x1p-112f };
    for (uint32_t at = 0; at < n_variant * FT_COUNT(size); at++) {
        double top = (double)size[at % FT_COUNT(size)];
        struct data t = data_new(5, 128, 24, FT_BF16, INPUT_EQUAL, SIGHT_ALL);
        struct state got = state_new(t.m, t.d);
        for (size_t i = 0; i < (size_t)t.n * t.d; i++) {
            t.vf[i] = (float)top * (float)(1 + i % 3) / 4;
        }
        ft_kern_ref.encode(FT_BF16, t.vf, t.v, (size_t)t.n * t.d);
        run_attend(variants[at / FT_COUNT(size)], &t, 0, t.m, 0, t.n, &got);
        for (size_t i = 0; i < (size_t)t.m * t.d; i++) {
            assert_true(fabs((double)(got.acc[i] / got.sum[i / t.d] - t.vf[i % t.d])) <=
                        0.008 * top);
        }
        free(got.acc);
        data_free(&t);
    }
}

/* The weights that are summed up are those that multiply, however they were rounded: values of 1
 * average to 1, but for the order of the sums; also where logits are huge and all the same. */
static void test_weights_sum(void **unused) {
    static const float scales[] = { 1, 0x1p16f, 0x1p23f, 0x1p30f };
    (void)unused;
    for (size_t c = 0; c < n_variant * FT_FMT_COUNT * FT_COUNT(scales); c++) {
        size_t v = c / FT_COUNT(scales), at = c % FT_COUNT(scales);
        enum input input = at > 0 ? INPUT_EQUAL : INPUT_RANDOM;
        struct data t = data_new(61, 300, 64, (enum ft_fmt)(v % FT_FMT_COUNT), input, SIGHT_CAUSAL);
        struct state s = state_new(t.m, t.d);
        t.scale *= scales[at];
        for (size_t i = 0; i < (size_t)t.n * t.d; i++) { /* a scale of 1 in every format */
            t.vf[i] = t.fmt == FT_Q8_0 ? 127 : 1;
        }
        ft_kern_ref.encode(t.fmt, t.vf, t.v, (size_t)t.n * t.d);
        run_attend(variants[v / FT_FMT_COUNT], &t, 0, t.m, 0, t.n, &s);
        for (size_t i = 0; i < (size_t)t.m * t.d; i++) {
            double out = (double)s.acc[i] / (double)s.sum[i / t.d] / (double)t.vf[0];
            assert_true(fabs(out - 1) <= t.n * 0x1p-24);
        }
        free(s.acc);
        data_free(&t);
    }
}

/* ---- finishers and choice ---- */

static void test_merge_and_done(void **unused) {
    (void)unused;
    float acc[16] = { 0 }, part[16], nothing[16] = { 0 }, out[16], max = -INFINITY, sum = 0;
    for (int t = 0; t < 16; t++) {
        part[t] = (float)t;
    }
    ft_attend_done(1, 16, acc, &sum, out, 16);
    for (int t = 0; t < 16; t++) {
        assert_true(out[t] == 0); /* nothing seen: zeros, not NaN */
    }
    ft_attend_merge(16, &max, &sum, acc, -INFINITY, 0, nothing);
    assert_true(isinf(max) && sum == 0);
    ft_attend_merge(16, &max, &sum, acc, 2, 4, part);
    assert_true(max == 2 && sum == 4);
    assert_memory_equal(acc, part, sizeof acc); /* the first part is taken over as it is */
    ft_attend_merge(16, &max, &sum, acc, -INFINITY, 0, nothing);
    assert_memory_equal(acc, part, sizeof acc);
    ft_attend_merge(16, &max, &sum, acc, 3, 1, part);
    double shrink = exp(-1.0);
    assert_true(max == 3);
    assert_true(fabs((double)sum - (1 + 4 * shrink)) <
                1e-6); /* a few roundings of numbers near 2.5 */
    assert_true(fabs((double)acc[15] - 15 * (1 + shrink)) < 5e-6);
    ft_attend_merge(16, &max, &sum, acc, 2, 1, part); /* now the newcomer shrinks */
    assert_true(max == 3);
    assert_true(fabs((double)sum - (1 + 5 * shrink)) < 1e-6);
    assert_true(fabs((double)acc[15] - 15 * (1 + 2 * shrink)) < 5e-6);
}

/* FT_KERN is read once, so every choice gets a process. */
static void check_choice(const char *forced, const char *want) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (forced != NULL) {
            setenv("FT_KERN", forced, 1);
        } else {
            unsetenv("FT_KERN");
        }
        const char *ignored = ft_kern_ignored();
        bool is_heeded = forced == NULL || forced[0] == '\0' || strcmp(forced, want) == 0;
        bool is_said =
            is_heeded ? ignored == NULL : ignored != NULL && strcmp(ignored, forced) == 0;
        _exit(strcmp(ft_kern()->name, want) == 0 && ft_kern() == ft_kern() && is_said ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("FT_KERN=%s did not choose %s, or not say so", forced != NULL ? forced : "(unset)",
                 want);
    }
}

static void test_choice(void **unused) {
    (void)unused;
    const char *best = variants[n_variant - 1]->name;
    assert_ptr_equal(variants[0], &ft_kern_ref);
    check_choice(NULL, best);
    check_choice("", best);
    check_choice("no-such-kernel", best);
    for (uint32_t v = 0; v < n_variant; v++) {
        check_choice(variants[v]->name, variants[v]->name);
    }
    if (n_variant < 3) {
        print_message("SKIP: this machine runs %u of the kernel variants\n", n_variant);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_matches_formula),
        cmocka_unit_test(test_variants_match_ref),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_query_bits),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_mass_bits),
        cmocka_unit_test(test_invisible_rows),
        cmocka_unit_test(test_visible_nan),
        cmocka_unit_test(test_value_range),
        cmocka_unit_test(test_weights_sum),
        cmocka_unit_test(test_merge_and_done),
        cmocka_unit_test(test_choice),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("kern", tests, NULL, NULL);
}
