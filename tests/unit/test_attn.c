/* SPDX-License-Identifier: Apache-2.0 */
/* test_attn.c - dense, vertical-slash and one-query attention against a plain double oracle; who
 * sees whom; same bits. */
#include "attn/attn.h"
#include "kern_fixture.h"

enum { KV_HEAD_MAX = 4 };

/* q, k and v are uniform in (-1, 1), scale is 1/sqrt(d): |logit| <= 4 and sum|q k| * scale <= 6
 * for the heads used here.  An output then differs from the double oracle by at most 2e-6 (exp,
 * sums, division) plus twice the error of a logit, 2 sqrt(d) 2^-24 * 6 <= 1.2e-5 for d = 256;
 * max|v| = 1. */
#define TOLERANCE 2.6e-5

static bool is_short(enum ft_fmt fmt) {
    return fmt == FT_BF16 || fmt == FT_Q8_0;
}

/* Rows of bf16 and q8_0: avx512bf16 rounds weights, 2^-9, with an exp of 1e-4; q, k and v only where
 * rows are q8_0: then v is off by 2^-9 and q by 1 / 254, which moves a logit by sum|k| * scale /
 * 254, and sum|k| <= 0.75 d here.  Words round the 64 weights of a tile by at most 2^-14 of the
 * largest (together 2^-11, as the signs are random), v by 2^-13 and q and k by 1 / 16382 and 1 /
 * 8190. */
static double tolerance(const struct ft_kern *kern, const struct ft_attn_job *job) {
    bool has_words = strcmp(kern->name, "avx2") == 0 || strcmp(kern->name, "avx512vnni") == 0 ||
                     strcmp(kern->name, "avx512bf16") == 0;
    if (strcmp(kern->name, "avx512bf16") == 0 && is_short(job->k_fmt) && is_short(job->v_fmt)) {
        double rounded = job->k_fmt == FT_Q8_0 ? 0x1p-9 + 0.75 * sqrt(job->d) / 254 : 0;
        return TOLERANCE + 0x1p-9 * 1.001 + 1e-4 + rounded;
    }
    double words = 0x1p-11 + 0x1p-13 + 0.75 * sqrt(job->d) * (1.0 / 16382 + 1.0 / 8190);
    return TOLERANCE + (has_words ? words : 0);
}

struct shape {
    uint32_t n_head, n_head_kv, d, n_query;
    uint32_t n_row[KV_HEAD_MAX];
};

struct scene {
    struct shape shape;
    struct ft_attn_job job;
    struct ft_span span[KV_HEAD_MAX];
    float *q, *out;
    float *k[KV_HEAD_MAX], *v[KV_HEAD_MAX]; /* decoded */
    const uint32_t *vertical[KV_HEAD_MAX];
    uint32_t n_vertical[KV_HEAD_MAX];
    void *scratch;
};

/* In (-1, 1), with the 8 bits that bf16 holds: rounding to it changes nothing. */
static float number(uint32_t what, uint32_t head, uint64_t i) {
    float x = (float)(ft_rng_uniform(11, what, head, i) * 2 - 1);
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u &= 0xffff0000;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void *rows_new(uint32_t what, uint32_t head, uint32_t n, uint32_t d, enum ft_fmt fmt,
                      float **decoded) {
    size_t n_number = (size_t)n * d;
    float *x = must(malloc(n_number * sizeof *x));
    void *rows = must(malloc(n * ft_fmt_row_bytes(fmt, d)));
    for (size_t i = 0; i < n_number; i++) {
        x[i] = number(what, head, i);
    }
    ft_kern_ref.encode(fmt, x, rows, n_number);
    ft_kern_ref.decode(fmt, rows, x, n_number);
    *decoded = x;
    return rows;
}

static void *scratch_new(uint32_t group, uint32_t d) {
    size_t n_byte = (ft_attn_scratch_bytes(group, d) + 63) & ~(size_t)63;
    void *scratch = must(aligned_alloc(64, n_byte));
    memset(scratch, 0xff, n_byte); /* NaNs: nothing may depend on what was there */
    return scratch;
}

static struct scene *scene_new(struct shape shape, enum ft_fmt fmt) {
    struct scene *s = must(calloc(1, sizeof *s));
    size_t n = (size_t)shape.n_query * shape.n_head * shape.d;
    s->shape = shape;
    fmt = fmt == FT_Q8_0 && shape.d % 32 != 0 ? FT_F16 : fmt; /* q8_0 rows are whole blocks */
    s->q = must(malloc(n * sizeof *s->q));
    s->out = must(malloc(n * sizeof *s->out));
    for (size_t i = 0; i < n; i++) {
        s->q[i] = number(0, 0, i);
        s->out[i] = NAN;
    }
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        s->span[h].n_row = shape.n_row[h];
        s->span[h].k = rows_new(1, h, shape.n_row[h], shape.d, fmt, &s->k[h]);
        s->span[h].v = rows_new(2, h, shape.n_row[h], shape.d, fmt, &s->v[h]);
    }
    s->scratch = scratch_new(shape.n_head / shape.n_head_kv, shape.d);
    s->job = (struct ft_attn_job){
        .q = s->q,
        .out = s->out,
        .head = s->span,
        .n_query = shape.n_query,
        .n_head = shape.n_head,
        .n_head_kv = shape.n_head_kv,
        .d = shape.d,
        .k_fmt = fmt,
        .v_fmt = fmt,
        .scale = 1 / sqrtf((float)shape.d),
        .vertical = s->vertical,
        .n_vertical = s->n_vertical,
    };
    return s;
}

static void scene_free(struct scene *s) {
    for (uint32_t h = 0; h < s->shape.n_head_kv; h++) {
        free((void *)(uintptr_t)s->span[h].k);
        free((void *)(uintptr_t)s->span[h].v);
        free(s->k[h]);
        free(s->v[h]);
    }
    free(s->q);
    free(s->out);
    free(s->scratch);
    free(s);
}

/* ---- the oracle ---- */

typedef bool (*sees_fn)(const struct scene *s, uint32_t h, uint32_t row, uint32_t j);

static bool sees_past(const struct scene *s, uint32_t h, uint32_t row, uint32_t j) {
    (void)s;
    (void)h;
    return j <= row;
}

static bool sees_vslash(const struct scene *s, uint32_t h, uint32_t row, uint32_t j) {
    bool listed = false;
    for (uint32_t i = 0; i < s->n_vertical[h]; i++) {
        listed = listed || s->vertical[h][i] == j;
    }
    return j <= row && ((int64_t)j >= (int64_t)(row / 64 * 64) - (int64_t)s->job.window || listed);
}

static bool sees_tree(const struct scene *s, uint32_t h, uint32_t row, uint32_t j) {
    uint32_t base = s->shape.n_row[h] - s->shape.n_query;
    return j < base || (s->job.tree[row - base] >> (j - base) & 1) != 0;
}

/* One query head of one query, at `row`: weights in double, two passes, then the weighted sum. */
static void oracle(const struct scene *s, uint32_t i, uint32_t g, uint32_t row, sees_fn sees,
                   double *out) {
    uint32_t d = s->shape.d, h = g / (s->shape.n_head / s->shape.n_head_kv);
    const float *q = s->q + ((size_t)i * s->shape.n_head + g) * d;
    double sum = 0;
    memset(out, 0, d * sizeof *out);
    for (uint32_t j = 0; j < s->shape.n_row[h]; j++) {
        if (!sees(s, h, row, j)) {
            continue;
        }
        double logit = 0;
        for (uint32_t t = 0; t < d; t++) {
            logit += (double)q[t] * (double)s->k[h][(size_t)j * d + t];
        }
        double p = exp(logit * (double)s->job.scale);
        sum += p;
        for (uint32_t t = 0; t < d; t++) {
            out[t] += p * (double)s->v[h][(size_t)j * d + t];
        }
    }
    for (uint32_t t = 0; t < d; t++) {
        out[t] /= sum;
    }
}

/* Query 0 stands at first_row, or at the end of its ragged head when that is negative. */
static void check_oracle(const struct scene *s, const struct ft_kern *kern, const char *what,
                         int64_t first_row, sees_fn sees) {
    const struct shape *shape = &s->shape;
    for (uint32_t i = 0; i < shape->n_query; i++) {
        for (uint32_t g = 0; g < shape->n_head; g++) {
            double want[FT_HEAD_MAX];
            uint32_t h = g / (shape->n_head / shape->n_head_kv);
            uint32_t start =
                first_row >= 0 ? (uint32_t)first_row : shape->n_row[h] - shape->n_query;
            oracle(s, i, g, start + i, sees, want);
            for (uint32_t t = 0; t < shape->d; t++) {
                double got = (double)s->out[((size_t)i * shape->n_head + g) * shape->d + t];
                if (!(fabs(got - want[t]) <= tolerance(kern, &s->job))) {
                    fail_msg("%s %s: query %u head %u dim %u: got %.9g want %.9g", kern->name, what,
                             i, g, t, got, want[t]);
                }
            }
        }
    }
}

/* ---- running jobs ---- */

typedef void (*item_fn)(const struct ft_kern *, const struct ft_attn_job *, uint32_t, void *);

static void run_items(const struct ft_kern *kern, const struct scene *s, item_fn one) {
    for (uint32_t i = 0; i < ft_attn_item_count(&s->job); i++) {
        one(kern, &s->job, i, s->scratch);
    }
}

static float *out_copy(const struct scene *s) {
    size_t n_byte = (size_t)s->shape.n_query * s->shape.n_head * s->shape.d * sizeof(float);
    float *copy = must(malloc(n_byte));
    memcpy(copy, s->out, n_byte);
    memset(s->out, 0xff, n_byte);
    return copy;
}

static void assert_out(const struct scene *s, const struct ft_kern *kern, const char *what,
                       const float *want) {
    size_t n = (size_t)s->shape.n_query * s->shape.n_head * s->shape.d;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&s->out[i], &want[i], sizeof want[i]) != 0) {
            fail_msg("%s %s: place %zu: got %.9g want the bits of %.9g", kern->name, what, i,
                     (double)s->out[i], (double)want[i]);
        }
    }
}

/* ---- dense ---- */

static const struct shape dense_shapes[] = {
    { 1, 1, 16, 1, { 1 } },
    { 4, 1, 64, 70, { 70 } },               /* one whole prompt */
    { 4, 2, 64, 67, { 200, 131 } },         /* ragged: heads kept different numbers of rows */
    { 14, 2, 64, 33, { 97, 33 } },          /* groups of 7: 32 tokens per item */
    { 4, 4, 80, 65, { 65, 66, 129, 300 } }, /* no sharing; head size beside the powers of two */
    { 32, 1, 128, 9, { 73 } },              /* one head for all: 8 tokens per item */
    { 3, 1, 256, 5, { 70 } },
    { 6, 3, 24, 66, { 66, 80, 128 } },
};

static void test_dense(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        for (size_t c = 0; c < FT_COUNT(dense_shapes); c++) {
            struct scene *s = scene_new(dense_shapes[c], (enum ft_fmt)((c + v) % FT_FMT_COUNT));
            run_items(variants[v], s, ft_attn_dense);
            check_oracle(s, variants[v], "dense", -1, sees_past);
            scene_free(s);
        }
    }
}

/* K and V may be stored in different formats. */
static void test_mixed_formats(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 4, 2, 64, 20, { 90, 100 } }, FT_F16);
        for (uint32_t h = 0; h < 2; h++) {
            free((void *)(uintptr_t)s->span[h].v);
            free(s->v[h]);
            s->span[h].v = rows_new(2, h, s->span[h].n_row, 64, FT_F32, &s->v[h]);
        }
        s->job.v_fmt = FT_F32;
        run_items(variants[v], s, ft_attn_dense);
        check_oracle(s, variants[v], "f16 keys, f32 values", -1, sees_past);
        scene_free(s);
    }
}

/* Items first to last, last to first: every output is written once, by one item. */
static void test_item_order(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 4, 2, 64, 200, { 210, 333 } }, FT_F16);
        uint32_t n = ft_attn_item_count(&s->job);
        assert_int_equal(n, 2 * 4);
        run_items(variants[v], s, ft_attn_dense);
        float *want = out_copy(s);
        for (uint32_t i = n; i-- > 0;) {
            ft_attn_dense(variants[v], &s->job, i, s->scratch);
        }
        assert_out(s, variants[v], "items backwards", want);
        free(want);
        scene_free(s);
    }
}

/* A prompt in chunks of any length gives the bits of the prompt in one. */
static void test_chunks(void **unused) {
    (void)unused;
    static const uint32_t chunks[] = { 1, 7, 64, 100 };
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 6, 2, 64, 150, { 150, 180 } }, FT_F16);
        run_items(variants[v], s, ft_attn_dense);
        float *want = out_copy(s);
        struct ft_attn_job whole = s->job;
        for (size_t c = 0; c < FT_COUNT(chunks); c++) {
            for (uint32_t from = 0; from < whole.n_query; from += s->job.n_query) {
                s->job.n_query = FT_MIN(chunks[c], whole.n_query - from);
                s->job.first_row = c % 2 ? from : 0; /* where items are cut must not matter */
                s->job.q = whole.q + (size_t)from * 6 * 64;
                s->job.out = whole.out + (size_t)from * 6 * 64;
                for (uint32_t h = 0; h < 2; h++) {
                    s->span[h].n_row = s->shape.n_row[h] - whole.n_query + from + s->job.n_query;
                }
                run_items(variants[v], s, ft_attn_dense);
            }
            assert_out(s, variants[v], "chunks", want);
            memset(s->out, 0xff, (size_t)150 * 6 * 64 * sizeof(float));
        }
        free(want);
        scene_free(s);
    }
}

/* ---- one query, rows split ---- */

static void test_decode(void **unused) {
    (void)unused;
    static const struct shape shapes[] = {
        { 4, 1, 64, 1, { 1 } },
        { 8, 2, 64, 1, { 1024, 1025 } },
        { 16, 2, 128, 1, { 2500, 3 } },
        { 9, 3, 64, 1, { 1500, 40, 2049 } },
        { 14, 2, 64, 1, { 1100, 1024 } },
        { 80, 2, 32, 1, { 1100, 70 } }, /* more heads than attend_few takes */
    };
    static const enum ft_fmt fmts[] = { FT_F16, FT_Q8_0 };
    for (uint32_t c = 0; c < FT_COUNT(shapes) * n_variant * 2; c++) {
        const struct ft_kern *kern = variants[c / 2 % n_variant];
        struct scene *s = scene_new(shapes[c / 2 / n_variant], fmts[c % 2]);
        uint32_t group = s->shape.n_head / s->shape.n_head_kv, n = ft_attn_split_count(&s->job),
                 longest = 0;
        for (uint32_t h = 0; h < s->shape.n_head_kv; h++) {
            longest = FT_MAX(longest, s->shape.n_row[h]);
        }
        assert_int_equal(n, s->shape.n_head_kv * ((longest + 1023) / 1024));
        size_t n_byte = n * ft_attn_split_floats(group, s->shape.d) * sizeof(float);
        float *state = must(malloc(n_byte));
        for (int backwards = 0; backwards < 2; backwards++) {
            memset(state, 0xff, n_byte);
            for (uint32_t i = 0; i < n; i++) {
                ft_attn_split(kern, &s->job, backwards ? n - 1 - i : i, state, s->scratch);
            }
            float *first = backwards ? out_copy(s) : NULL;
            for (uint32_t h = 0; h < s->shape.n_head_kv; h++) {
                ft_attn_join(&s->job, h, state);
            }
            if (backwards) {
                assert_out(s, kern, "splits backwards", first);
            }
            free(first);
        }
        check_oracle(s, kern, "decode", -1, sees_past);
        free(state);
        scene_free(s);
    }
}

/* ---- vertical-slash ---- */

/* V-band: which rows are seen, read off uniform attention (q = 0) over values that are one-hot in
 * 256 at a time. */
static void band_seen(const struct ft_kern *kern, struct scene *s, bool *seen) /* seen [T][T] */
{
    uint32_t total = s->shape.n_query, d = s->shape.d;
    float *v = must(malloc((size_t)total * d * sizeof *v));
    const void *old = s->span[0].v;
    s->span[0].v = v;
    for (uint32_t first = 0; first < total; first += d) {
        for (size_t i = 0; i < (size_t)total * d; i++) {
            v[i] = i / d == first + i % d ? 1 : 0;
        }
        run_items(kern, s, ft_attn_vslash);
        for (uint32_t i = 0; i < total; i++) {
            for (uint32_t t = 0; t < d && first + t < total; t++) {
                seen[(size_t)i * total + first + t] = s->out[(size_t)i * d + t] > 0;
            }
        }
    }
    s->span[0].v = old;
    free(v);
}

static void test_band_vector(void **unused) {
    (void)unused;
    enum { T = 400 };
    static const uint32_t columns[] = { 3, 70, 150, 200 };
    static const uint32_t n_used[] = {
        0, 0, 0, 1, 2, 3, 4
    }; /* by row block: columns below the band's start */
    bool *seen = must(calloc(T * T, sizeof *seen));
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 1, 1, 256, T, { T } }, FT_F32);
        memset(s->q, 0, T * 256 * sizeof(float));
        s->job.window = 128;
        s->vertical[0] = columns;
        s->n_vertical[0] = FT_COUNT(columns);
        band_seen(variants[v], s, seen);
        for (uint32_t i = 0; i < T; i++) {
            uint32_t b = i / 64, start = b >= 2 ? 64 * b - 128 : 0;
            for (uint32_t j = 0; j < T; j++) {
                bool want = j <= i && j >= start;
                for (uint32_t c = 0; c < n_used[b]; c++) {
                    want = want || j == columns[c];
                }
                if (seen[i * T + j] != want) {
                    fail_msg("%s: row %u column %u: seen %d want %d", variants[v]->name, i, j,
                             seen[i * T + j], want);
                }
            }
        }
        scene_free(s);
    }
    free(seen);
}

/* Every head has its own list; d, group and window vary; chunks that start anywhere. */
static void test_vslash(void **unused) {
    (void)unused;
    static const uint32_t first_rows[] = { 0, 64, 100, 301 };
    for (uint32_t c = 0; c < FT_COUNT(first_rows) * n_variant; c++) {
        const struct ft_kern *kern = variants[c % n_variant];
        uint32_t first_row = first_rows[c / n_variant], n_query = 420 - first_row;
        struct scene *s = scene_new((struct shape){ 6, 2, 32, n_query, { 420, 450 } }, FT_F16);
        uint32_t some[300], few[] = { 0, 63, 64, 65, 199, 200, 399 }, n_some = 0;
        for (uint32_t j = 0; j < 420 && n_some < 300; j++) {
            if (ft_rng_uniform(3, 0, 0, j) < 0.75) {
                some[n_some++] = j; /* more than one lot of gathered rows */
            }
        }
        s->vertical[0] = some;
        s->n_vertical[0] = n_some;
        s->vertical[1] = few;
        s->n_vertical[1] = FT_COUNT(few);
        s->job.window = 64;
        s->job.first_row = first_row;
        run_items(kern, s, ft_attn_vslash);
        check_oracle(s, kern, "vertical-slash", first_row, sees_vslash);
        scene_free(s);
    }
}

/* P6: all keys listed, or a window over everything, is dense attention.  As the band starts at
 * whole tiles, even the bits agree in the vector variants; ref rounds its double state between the
 * two spans. */
static void test_vslash_is_dense(void **unused) {
    (void)unused;
    uint32_t all[320];
    for (uint32_t j = 0; j < FT_COUNT(all); j++) {
        all[j] = j;
    }
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 4, 1, 64, 320, { 320 } }, FT_F16);
        run_items(variants[v], s, ft_attn_dense);
        float *dense = out_copy(s);
        s->vertical[0] = all;
        s->job.window = 1000;
        run_items(variants[v], s, ft_attn_vslash);
        assert_out(s, variants[v], "window >= T", dense);
        s->n_vertical[0] = FT_COUNT(all);
        s->job.window = 64;
        run_items(variants[v], s, ft_attn_vslash);
        if (v > 0) {
            assert_out(s, variants[v], "all keys listed", dense);
        }
        check_oracle(s, variants[v], "all keys listed", 0, sees_past);
        free(dense);
        scene_free(s);
    }
}

static void test_vslash_chunks(void **unused) {
    (void)unused;
    static const uint32_t columns[] = { 1, 2, 30, 90, 91, 170 };
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 8, 1, 64, 300, { 300 } }, FT_BF16);
        struct ft_attn_job whole = s->job;
        s->vertical[0] = columns;
        s->n_vertical[0] = FT_COUNT(columns);
        whole.window = s->job.window = 64;
        run_items(variants[v], s, ft_attn_vslash);
        float *want = out_copy(s);
        for (uint32_t from = 0; from < 300; from += 45) {
            s->job.n_query = FT_MIN(45u, 300 - from);
            s->job.first_row = from;
            s->job.q = whole.q + (size_t)from * 8 * 64;
            s->job.out = whole.out + (size_t)from * 8 * 64;
            run_items(variants[v], s, ft_attn_vslash);
        }
        assert_out(s, variants[v], "chunks", want);
        free(want);
        scene_free(s);
    }
}

/* ---- tree ---- */

/* Every query hangs below an earlier one or starts a branch of its own; NaN in the row of a query
 * shows in that query and those below it, in nobody else. */
static void test_tree(void **unused) {
    (void)unused;
    static const struct shape shapes[] = {
        { 4, 2, 64, 8, { 300, 131 } },
        { 14, 2, 64, 33, { 97, 33 } },
        { 32, 1, 128, 9, { 73 } },
        { 6, 3, 24, 5, { 5, 69, 128 } },
        { 8, 1, 96, FT_TREE_QUERY, { 500 } },
        { 4, 1, 32, 1, { 1 } },
    };
    for (uint32_t c = 0; c < n_variant * FT_COUNT(shapes) * FT_FMT_COUNT; c++) {
        const struct ft_kern *kern = variants[c / FT_FMT_COUNT / FT_COUNT(shapes)];
        struct scene *s =
            scene_new(shapes[c / FT_FMT_COUNT % FT_COUNT(shapes)], (enum ft_fmt)(c % FT_FMT_COUNT));
        uint64_t tree[FT_TREE_QUERY];
        uint32_t n = s->shape.n_query, bad = n / 2;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t above = (uint32_t)(ft_rng_uniform(7, c, 0, i) * (i + 1)); /* i: none */
            tree[i] = (uint64_t)1 << i | (above < i ? tree[above] : 0);
        }
        s->job.tree = tree;
        run_items(kern, s, ft_attn_tree);
        check_oracle(s, kern, "tree", -1, sees_tree);
        size_t row = ft_fmt_row_bytes(s->job.v_fmt, s->shape.d);
        memset((char *)(uintptr_t)s->span[0].v + (s->shape.n_row[0] - n + bad) * row, 0xff, row);
        run_items(kern, s, ft_attn_tree);
        for (uint32_t i = 0; i < n; i++) {
            bool shows = isnan(s->out[(size_t)i * s->shape.n_head * s->shape.d]);
            assert_int_equal(shows, tree[i] >> bad & 1);
        }
        scene_free(s);
    }
}

/* A chain is dense attention, up to the order of sums. */
static void test_chain(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        struct scene *s = scene_new((struct shape){ 4, 1, 64, 20, { 150 } }, FT_F16);
        uint64_t tree[20];
        for (uint32_t i = 0; i < 20; i++) {
            tree[i] = ((uint64_t)2 << i) - 1;
        }
        s->job.tree = tree;
        run_items(variants[v], s, ft_attn_tree);
        check_oracle(s, variants[v], "chain", -1, sees_past);
        scene_free(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),         cmocka_unit_test(test_mixed_formats),
        cmocka_unit_test(test_item_order),    cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_decode),        cmocka_unit_test(test_band_vector),
        cmocka_unit_test(test_vslash),        cmocka_unit_test(test_vslash_is_dense),
        cmocka_unit_test(test_vslash_chunks), cmocka_unit_test(test_tree),
        cmocka_unit_test(test_chain),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("attn", tests, NULL, NULL);
}
