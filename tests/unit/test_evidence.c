/* SPDX-License-Identifier: Apache-2.0 */
/* test_evidence.c - attention received per column: the published vectors, a plain double scorer,
 * item order. */
#include "attn/attn.h"
#include "kern_fixture.h"

enum { KV_HEAD_MAX = 4, VOTER_MAX = 200 };

/* Both passes, items in order or backwards, on scratch that holds NaNs. */
static void run(const struct ft_kern *kern, const struct ft_evidence_job *job, bool backwards) {
    size_t n_byte =
        (ft_attn_scratch_bytes(job->n_head / job->n_head_kv, job->d) + 63) & ~(size_t)63;
    void *scratch = must(aligned_alloc(64, n_byte));
    memset(scratch, 0xff, n_byte);
    memset(job->lse, 0xff, (size_t)job->n_head * job->n_voter * sizeof(float));
    memset(job->mass, 0xff, (size_t)job->n_head_kv * job->n_col * sizeof(float));
    uint32_t n = ft_evidence_lse_items(job);
    for (uint32_t i = 0; i < n; i++) {
        ft_evidence_lse(kern, job, backwards ? n - 1 - i : i, scratch);
    }
    n = ft_evidence_mass_items(job);
    for (uint32_t i = 0; i < n; i++) {
        ft_evidence_mass(kern, job, backwards ? n - 1 - i : i, scratch);
    }
    free(scratch);
}

/* ---- the vectors of the method description ---- */

/* K[j] = (((3j) mod 7)-3, ((5j) mod 4)-1), Q[h][t] = (((t+h) mod 3)-1, ((2t+h) mod 5)-2), two
 * heads on one KV head, d = 2: padded with zeros to the least head size, scaled by 1/sqrt(2) all
 * the same. */
enum { PAD = 16 };

struct tiny {
    float q[12 * 2 * PAD], k[12 * PAD], lse[2 * 12], mass[12];
    uint32_t vis[12];
    struct ft_span head;
    struct ft_evidence_job job;
};

/* Voters are rows [first, first + n_voter); the mass of n_col columns is wanted. */
static void tiny_fill(struct tiny *t, uint32_t first, uint32_t n_voter, uint32_t n_row,
                      uint32_t n_col) {
    memset(t, 0, sizeof *t);
    for (int j = 0; j < (int)n_row; j++) {
        t->k[j * PAD] = (float)(3 * j % 7 - 3);
        t->k[j * PAD + 1] = (float)(5 * j % 4 - 1);
    }
    for (int i = 0; i < (int)n_voter; i++) {
        int at = (int)first + i;
        for (int h = 0; h < 2; h++) {
            t->q[(i * 2 + h) * PAD] = (float)((at + h) % 3 - 1);
            t->q[(i * 2 + h) * PAD + 1] = (float)((2 * at + h) % 5 - 2);
        }
        t->vis[i] = (uint32_t)at + 1;
    }
    t->head = (struct ft_span){ .k = t->k, .n_row = n_row };
    t->job = (struct ft_evidence_job){
        .q = t->q,
        .vis = t->vis,
        .head = &t->head,
        .lse = t->lse,
        .mass = t->mass,
        .n_voter = n_voter,
        .n_head = 2,
        .n_head_kv = 1,
        .d = PAD,
        .n_col = n_col,
        .k_fmt = FT_F32,
        .red = FT_REDUCE_MAX,
        .scale = 1 / sqrtf(2),
    };
}

/* The vectors are given with six digits (half a unit: 5e-7); f32 adds less than 5e-7 to numbers
 * below 1. */
static void check_vector(const struct ft_kern *kern, const char *what, const float *got,
                         const double *want, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        if (!(fabs((double)got[j] - want[j]) <= 1e-6)) {
            fail_msg("%s %s: column %u: got %.7f want %.6f", kern->name, what, j, (double)got[j],
                     want[j]);
        }
    }
}

static void test_v_score(void **unused) {
    (void)unused;
    enum { N = 10, W = 4 };
    static const double code[N] = { .216552, .038944, .160185, .369459, .324873,
                                    .106775, .089822, .637108, .078982, .021837 };
    static const double with_step[N] = { .254103, .061777, .160185, .369459, .324873,
                                         .106775, .089822, .637108, .254103, .324546 };
    static const double paper[N] = { .243621, .043812, .180208, .369459, .398795,
                                     .120122, .089822, .637108, .088855, .021837 };
    for (uint32_t v = 0; v < n_variant; v++) {
        struct tiny window, step;
        float weight[W], folded[N];
        tiny_fill(&window, N - W, W, N, N);
        window.job.weight = weight;
        for (int i = 0; i < W; i++) {
            weight[i] = (float)i / (W - 1);
        }
        run(variants[v], &window.job, false);
        check_vector(variants[v], "V-score, code weights", window.mass, code, N);
        tiny_fill(&step, N, 1, N + 1,
                  N); /* one decode row: over n+1 keys, cut to the first n columns */
        run(variants[v], &step.job, false);
        for (int j = 0; j < N; j++) {
            folded[j] = fmaxf(window.mass[j], step.mass[j]);
        }
        check_vector(variants[v], "V-score with the decode row", folded, with_step, N);
        for (int i = 0; i < W; i++) {
            weight[i] = (float)(i + 1) / W;
        }
        run(variants[v], &window.job, true);
        check_vector(variants[v], "V-score, paper weights", window.mass, paper, N);
    }
}

/* n = 10, L = 2, w = 2: the last w + L + 1 of 12 rows vote on columns 0 .. n-w-2. */
static void test_v_speckv(void **unused) {
    (void)unused;
    static const double want[] = { .324828, .061777, .274341, .379768, .797590, .160163, .092328 };
    for (uint32_t v = 0; v < n_variant; v++) {
        struct tiny t;
        tiny_fill(&t, 12 - 5, 5, 12, 7);
        run(variants[v], &t.job, false);
        check_vector(variants[v], "V-speckv", t.mass, want, FT_COUNT(want));
    }
}

/* ---- against a plain scorer ---- */

struct scene {
    struct ft_evidence_job job;
    struct ft_span head[KV_HEAD_MAX];
    uint32_t vis[VOTER_MAX];
    float weight[VOTER_MAX];
    float *q, *lse, *mass, *k[KV_HEAD_MAX];
};

static float number(uint32_t what, uint32_t head, uint64_t i) {
    return (float)(ft_rng_uniform(23, what, head, i) * 2 - 1);
}

/* Voters are the last rows of a text whose heads kept different numbers of rows; some see little
 * or nothing. */
static struct scene *scene_new(uint32_t n_head, uint32_t n_head_kv, uint32_t d, uint32_t n_voter,
                               uint32_t n_row, enum ft_fmt fmt) {
    struct scene *s = must(calloc(1, sizeof *s));
    fmt = fmt == FT_Q8_0 && d % 32 != 0 ? FT_F16 : fmt; /* q8_0 rows are whole blocks */
    size_t n_q = (size_t)n_voter * n_head * d;
    uint32_t n_col = n_row - n_row / 5;
    s->q = must(malloc(n_q * sizeof *s->q));
    s->lse = must(malloc((size_t)n_head * n_voter * sizeof *s->lse));
    s->mass = must(malloc((size_t)n_head_kv * n_col * sizeof *s->mass));
    for (size_t i = 0; i < n_q; i++) {
        s->q[i] = number(0, 0, i) * 3;
    }
    for (uint32_t i = 0; i < n_voter; i++) {
        s->vis[i] = i % 11 == 3 ? 0 : i % 7 == 5 ? n_row / 3 : n_row - (n_voter - 1 - i) % n_row;
        s->weight[i] = (float)i / (float)n_voter;
    }
    for (uint32_t h = 0; h < n_head_kv; h++) {
        size_t n_k = (size_t)(n_row + h) * d;
        void *rows = must(malloc((n_row + h) * ft_fmt_row_bytes(fmt, d)));
        s->k[h] = must(malloc(n_k * sizeof(float)));
        for (size_t i = 0; i < n_k; i++) {
            s->k[h][i] = number(1, h, i);
        }
        ft_kern_ref.encode(fmt, s->k[h], rows, n_k);
        ft_kern_ref.decode(fmt, rows, s->k[h], n_k);
        s->head[h] = (struct ft_span){ .k = rows, .n_row = n_row + h };
    }
    s->job = (struct ft_evidence_job){
        .q = s->q,
        .vis = s->vis,
        .head = s->head,
        .lse = s->lse,
        .mass = s->mass,
        .n_voter = n_voter,
        .n_head = n_head,
        .n_head_kv = n_head_kv,
        .d = d,
        .n_col = n_col,
        .k_fmt = fmt,
        .red = FT_REDUCE_MAX,
        .scale = 1 / sqrtf((float)d),
    };
    return s;
}

static void scene_free(struct scene *s) {
    for (uint32_t h = 0; h < s->job.n_head_kv; h++) {
        free((void *)(uintptr_t)s->head[h].k);
        free(s->k[h]);
    }
    free(s->q);
    free(s->lse);
    free(s->mass);
    free(s);
}

/* Rows of attention in full, in double: out [n_head_kv][n_col]. */
static void plain_scorer(const struct scene *s, double *out) {
    const struct ft_evidence_job *job = &s->job;
    uint32_t group = job->n_head / job->n_head_kv;
    double *p = must(malloc((job->head[0].n_row + KV_HEAD_MAX) * sizeof *p));
    memset(out, 0, (size_t)job->n_head_kv * job->n_col * sizeof *out);
    for (uint32_t i = 0; i < job->n_voter; i++) {
        for (uint32_t g = 0; g < job->n_head; g++) {
            const float *q = s->q + ((size_t)i * job->n_head + g) * job->d;
            double sum = 0, *mine = out + (size_t)(g / group) * job->n_col;
            for (uint32_t j = 0; j < job->vis[i]; j++) {
                double logit = 0;
                for (uint32_t t = 0; t < job->d; t++) {
                    logit += (double)q[t] * (double)s->k[g / group][(size_t)j * job->d + t];
                }
                p[j] = exp(logit * (double)job->scale);
                sum += p[j];
            }
            for (uint32_t j = 0; j < FT_MIN(job->vis[i], job->n_col); j++) {
                double x = p[j] / sum * (job->weight != NULL ? (double)job->weight[i] : 1);
                mine[j] = job->red == FT_REDUCE_MAX ? fmax(mine[j], x) : mine[j] + x;
            }
        }
    }
    for (size_t j = 0; j < (size_t)job->n_head_kv * job->n_col && job->red == FT_REDUCE_MEAN; j++) {
        out[j] /= (double)job->n_voter * group;
    }
    free(p);
}

static const struct {
    uint32_t n_head, n_head_kv, d, n_voter, n_row;
} cases[] = {
    { 1, 1, 16, 1, 1 },      { 4, 2, 64, 33, 700 },  { 14, 2, 64, 64, 300 },
    { 9, 3, 64, 161, 1100 }, /* more voters than a kernel call takes, more columns than an item */
    { 4, 4, 80, 17, 130 },   { 32, 1, 128, 20, 90 },
};

/* sum|q k| * scale stays below 3 * sqrt(d) / 2 * 1.6 < 30, so a logit is off by less than 2
 * sqrt(d) 2^-24 * 30 = 4e-5 (d = 128), and so is lse: 8e-5 relative, plus the sum of some hundred
 * positive terms. */
#define TOLERANCE 1e-4

static void check_plain(const struct scene *s, const struct ft_kern *kern, const double *want) {
    for (uint32_t h = 0; h < s->job.n_head_kv; h++) {
        for (uint32_t j = 0; j < s->job.n_col; j++) {
            double got = (double)s->mass[(size_t)h * s->job.n_col + j],
                   x = want[(size_t)h * s->job.n_col + j];
            if (!(fabs(got - x) <= TOLERANCE * x)) {
                fail_msg("%s: KV head %u column %u: got %.9g want %.9g", kern->name, h, j, got, x);
            }
        }
    }
}

static void test_plain_scorer(void **unused) {
    (void)unused;
    for (uint32_t c = 0; c < FT_COUNT(cases) * 3; c++) {
        struct scene *s =
            scene_new(cases[c / 3].n_head, cases[c / 3].n_head_kv, cases[c / 3].d,
                      cases[c / 3].n_voter, cases[c / 3].n_row, (enum ft_fmt)(c % FT_FMT_COUNT));
        static const enum ft_reduce reds[] = { FT_REDUCE_MAX, FT_REDUCE_SUM, FT_REDUCE_MEAN };
        s->job.red = reds[(c + c / 3) % 3];
        s->job.weight = c % 2 ? s->weight : NULL;
        size_t n = (size_t)s->job.n_head_kv * s->job.n_col;
        double *want = must(malloc(n * sizeof *want));
        float *first = must(malloc(n * sizeof *first));
        plain_scorer(s, want);
        for (uint32_t v = 0; v < n_variant; v++) {
            run(variants[v], &s->job, false);
            check_plain(s, variants[v], want);
            memcpy(first, s->mass, n * sizeof *first);
            run(variants[v], &s->job, true);
            assert_memory_equal(s->mass, first, n * sizeof *first);
        }
        free(want);
        free(first);
        scene_free(s);
    }
}

/* Ragged heads without a list of what is seen: each head alone, with the list written out, gives the
 * same bits; columns beyond a head's rows stay as they were. */
static void test_ragged(void **unused) {
    (void)unused;
    for (uint32_t c = 0; c < FT_COUNT(cases); c++) {
        uint32_t n_voter = FT_MIN(cases[c].n_voter, 3), n_row = FT_MAX(cases[c].n_row, n_voter);
        struct scene *s = scene_new(cases[c].n_head, cases[c].n_head_kv, cases[c].d, n_voter, n_row,
                                    (enum ft_fmt)(c % FT_FMT_COUNT));
        uint32_t group = cases[c].n_head / cases[c].n_head_kv, d = cases[c].d, vis[3];
        uint32_t n_col = n_row + cases[c].n_head_kv + 5;
        float *mass = must(malloc((size_t)cases[c].n_head_kv * n_col * sizeof *mass));
        float *alone = must(malloc((size_t)n_col * sizeof *alone));
        float *q = must(malloc((size_t)n_voter * group * d * sizeof *q));
        struct ft_evidence_job all = s->job;
        all.vis = NULL;
        all.red = FT_REDUCE_MEAN;
        all.n_col = n_col;
        all.mass = mass;
        for (uint32_t v = 0; v < n_variant; v++) {
            run(variants[v], &all, v % 2);
            for (uint32_t h = 0; h < cases[c].n_head_kv; h++) {
                uint32_t held = s->head[h].n_row;
                struct ft_evidence_job one = all;
                for (uint32_t i = 0; i < n_voter; i++) {
                    vis[i] = held - (n_voter - 1 - i);
                    memcpy(q + (size_t)i * group * d,
                           s->q + ((size_t)i * all.n_head + h * group) * d, group * d * sizeof *q);
                }
                one.q = q;
                one.vis = vis;
                one.head = &s->head[h];
                one.mass = alone;
                one.n_head = group;
                one.n_head_kv = 1;
                one.n_col = held;
                float *lse = one.lse = must(malloc((size_t)group * n_voter * sizeof *lse));
                run(variants[v], &one, false);
                free(lse);
                assert_memory_equal(mass + (size_t)h * n_col, alone, held * sizeof *alone);
                const unsigned char *rest = (const void *)(mass + (size_t)h * n_col + held);
                assert_true(rest[0] == 0xff && rest[(n_col - held) * sizeof *mass - 1] == 0xff);
            }
        }
        free(mass);
        free(alone);
        free(q);
        scene_free(s);
    }
}

/* P11: heads inside a group change places; the maximum keeps its bits. */
static void test_group_order(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new(8, 2, 32, 30, 200, FT_F16);
        uint32_t d = s->job.d;
        size_t n_byte = (size_t)2 * s->job.n_col * sizeof(float);
        float *first = must(malloc(n_byte)), row[32];
        run(variants[v], &s->job, false);
        memcpy(first, s->mass, n_byte);
        for (uint32_t i = 0; i < 30; i++) {
            float *a = s->q + ((size_t)i * 8 + 1) * d, *b = s->q + ((size_t)i * 8 + 3) * d;
            memcpy(row, a, sizeof row);
            memcpy(a, b, sizeof row);
            memcpy(b, row, sizeof row);
        }
        run(variants[v], &s->job, false);
        assert_memory_equal(s->mass, first, n_byte);
        free(first);
        scene_free(s);
    }
}

/* A needle: one key that every voter asks for takes all of the attention; nobody else gets any. */
static void test_needle(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new(4, 1, 64, 8, 600, FT_F32);
        uint32_t d = s->job.d, needle = 345;
        float *k = s->k[0];
        memset(k, 0, (size_t)600 * d * sizeof *k);
        memset(s->q, 0, (size_t)8 * 4 * d * sizeof *s->q);
        k[(size_t)needle * d + 7] = 20;
        for (uint32_t i = 0; i < 8 * 4; i++) {
            s->q[(size_t)i * d + 7] =
                20; /* logit 400 / 8 = 50 against 0: weight 1 - 600 exp(-50) */
        }
        for (uint32_t i = 0; i < 8; i++) {
            s->vis[i] = 600 - 8 + i + 1;
        }
        memcpy((void *)(uintptr_t)s->head[0].k, k, (size_t)600 * d * sizeof *k);
        run(variants[v], &s->job, false);
        for (uint32_t j = 0; j < s->job.n_col; j++) {
            assert_true(j == needle ? s->mass[j] > 0.999999f : s->mass[j] < 1e-6f);
        }
        scene_free(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v_score),      cmocka_unit_test(test_v_speckv),
        cmocka_unit_test(test_plain_scorer), cmocka_unit_test(test_group_order),
        cmocka_unit_test(test_ragged),       cmocka_unit_test(test_needle),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("evidence", tests, NULL, NULL);
}
