/* SPDX-License-Identifier: Apache-2.0 */
/* prop_store.c - the KV store against a naive list of rows, after each of many random operations.
 *
 *     prop_store [-s SEED] [-i CASE] [-n CASES] [--full]     a case is 1,000 operations
 *
 * Compared after each operation: lengths, positions, every byte of the touched layer up to its room
 * (zero beyond the last row), bytes held, and the shared gauge.  Operations that must fail are
 * mixed in.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kv/store.h"

enum {
    N_STORE = 2,
    N_LAYER = 2,
    HEAD_MAX = 3,
    CAP_MAX = 320,
    D_MAX = 64,
    ROW_MAX = 4 * D_MAX,
    AUX_MAX = 2,
    N_STEP = 1000
};

struct naive_head {
    uint32_t n;
    ft_pos pos[CAP_MAX];
    unsigned char k[CAP_MAX][ROW_MAX], v[CAP_MAX][ROW_MAX];
    float aux[CAP_MAX][AUX_MAX];
};
struct naive_layer {
    uint32_t cap;
    struct naive_head head[HEAD_MAX];
};

static uint64_t seed = 1, draw;
static uint32_t case_now, step_now;
static struct ft_kv_shape shape;
static size_t k_bytes, v_bytes; /* of a row */
static struct ft_kv *kv[N_STORE];
static struct ft_gauge gauge;
static struct naive_layer naive[N_STORE][N_LAYER];
static uint64_t naive_peak, n_done[8], n_refused;

static _Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void broken(const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "prop_store: step %u: ", step_now);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, "\nreplay: prop_store -s %llu -i %u\n", (unsigned long long)seed,
                  case_now);
    exit(1);
}

/* A number in [0, n). */
static uint32_t below(uint32_t n) {
    return (uint32_t)(ft_rng_value(seed, case_now, 0, draw++) % n);
}

/* ---- the naive store ---- */

static uint64_t naive_rows(void) {
    uint64_t n = 0;
    for (int s = 0; s < N_STORE; s++) {
        for (int l = 0; l < N_LAYER; l++) {
            for (uint32_t h = 0; h < shape.n_head_kv; h++) {
                n += naive[s][l].head[h].n;
            }
        }
    }
    return n;
}

static void naive_copy(struct naive_head *to, uint32_t j, const struct naive_head *from,
                       uint32_t i) {
    to->pos[j] = from->pos[i];
    memmove(to->k[j], from->k[i], k_bytes);
    memmove(to->v[j], from->v[i], v_bytes);
    memmove(to->aux[j], from->aux[i], sizeof(to->aux[j]));
}

/* ---- comparison ---- */

static void check_head(int s, uint32_t l, uint32_t h) {
    static const unsigned char zeros[ROW_MAX];
    const struct naive_head *want = &naive[s][l].head[h];
    if (ft_kv_rows(kv[s], l, h) != want->n) {
        broken("store %d layer %u head %u: %u rows, want %u", s, l, h, ft_kv_rows(kv[s], l, h),
               want->n);
    }
    const unsigned char *k = ft_kv_k(kv[s], l, h), *v = ft_kv_v(kv[s], l, h);
    for (uint32_t j = 0; j < naive[s][l].cap; j++) {
        if (memcmp(k + j * k_bytes, j < want->n ? want->k[j] : zeros, k_bytes) != 0) {
            broken("store %d layer %u head %u: K row %u of %u differs", s, l, h, j, want->n);
        }
        if (memcmp(v + j * v_bytes, j < want->n ? want->v[j] : zeros, v_bytes) != 0) {
            broken("store %d layer %u head %u: V row %u of %u differs", s, l, h, j, want->n);
        }
        if (j < want->n && shape.n_aux > 0 &&
            memcmp(ft_kv_aux(kv[s], l, h) + (size_t)j * shape.n_aux, want->aux[j],
                   shape.n_aux * sizeof(float)) != 0) {
            broken("store %d layer %u head %u row %u: other aux values", s, l, h, j);
        }
        if (j < want->n && ft_kv_pos(kv[s], l, h)[j] != want->pos[j]) {
            broken("store %d layer %u head %u row %u: position %d, want %d", s, l, h, j,
                   ft_kv_pos(kv[s], l, h)[j], want->pos[j]);
        }
    }
}

static void check(int s, uint32_t l) {
    if (ft_kv_cap(kv[s], l) != naive[s][l].cap) {
        broken("store %d layer %u: room for %u, want %u", s, l, ft_kv_cap(kv[s], l),
               naive[s][l].cap);
    }
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        check_head(s, l, h);
    }
    uint64_t bytes = naive_rows() * (k_bytes + v_bytes + shape.n_aux * sizeof(float));
    naive_peak = FT_MAX(naive_peak, bytes);
    if (gauge.now != bytes || gauge.peak != naive_peak) {
        broken("gauge %llu peak %llu, want %llu %llu", (unsigned long long)gauge.now,
               (unsigned long long)gauge.peak, (unsigned long long)bytes,
               (unsigned long long)naive_peak);
    }
    if (ft_kv_bytes(kv[0]) + ft_kv_bytes(kv[1]) != bytes) {
        broken("stores hold other bytes than %llu", (unsigned long long)bytes);
    }
}

static void expect(ft_status got, bool is_ok) {
    if ((got == FT_OK) != is_ok) {
        broken("status %s, want %s", ft_status_text(got), is_ok ? "ok" : "a failure");
    }
    n_refused += !is_ok;
}

/* ---- operations ---- */

static void op_reserve(int s, uint32_t l) {
    uint32_t cap = below(8) == 0 ? 0 : 1 + below(CAP_MAX);
    naive[s][l].cap = (cap + 15) / 16 * 16;
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        naive[s][l].head[h].n = 0;
    }
    if (cap == 0) {
        ft_kv_release(kv[s], l);
    } else {
        expect(ft_kv_reserve(kv[s], l, cap, NULL), true);
    }
}

static void fill(int s, uint32_t l, uint32_t h, uint32_t row) {
    float k[D_MAX], v[D_MAX];
    for (uint32_t c = 0; c < shape.d; c++) {
        k[c] = (float)below(2000) / 7.0F - 100.0F;
        v[c] = 1.0F / (1.0F + (float)below(1000));
    }
    ft_kv_write(kv[s], l, h, row, k, v);
    ft_kern()->encode(shape.k_fmt, k, naive[s][l].head[h].k[row], shape.d);
    ft_kern()->encode(shape.v_fmt, v, naive[s][l].head[h].v[row], shape.d);
    for (uint32_t i = 0; i < shape.n_aux; i++) {
        float x = (float)below(1000);
        ft_kv_aux(kv[s], l, h)[(size_t)row * shape.n_aux + i] = x;
        naive[s][l].head[h].aux[row][i] = x;
    }
}

static void op_extend(int s, uint32_t l) {
    ft_pos pos[CAP_MAX], last = -1;
    uint32_t n = 1 + below(below(4) == 0 ? 100 : 5);
    bool is_ok = true;
    struct naive_layer *want = &naive[s][l];
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        const struct naive_head *head = &want->head[h];
        is_ok = is_ok && head->n + n <= want->cap;
        last = head->n > 0 ? FT_MAX(last, head->pos[head->n - 1]) : last;
    }
    for (uint32_t j = 0; j < n; j++) {
        pos[j] = last + 1 + (ft_pos)below(3);
        last = pos[j];
    }
    if (below(10) == 0) { /* one position that does not fit */
        uint32_t j = below(n);
        pos[j] = j > 0 ? pos[j - 1] - (ft_pos)below(2) : -1;
        is_ok = false;
    }
    expect(ft_kv_extend(kv[s], l, pos, n, NULL), is_ok);
    for (uint32_t h = 0; is_ok && h < shape.n_head_kv; h++) {
        for (uint32_t j = 0; j < n; j++) {
            uint32_t row = want->head[h].n;
            for (uint32_t i = 0; i < shape.n_aux; i++) {
                if (ft_kv_aux(kv[s], l, h)[(size_t)row * shape.n_aux + i] != 0.0F) {
                    broken("store %d layer %u head %u: new row %u has aux values", s, l, h, row);
                }
            }
            want->head[h].pos[row] = pos[j];
            fill(s, l, h, want->head[h].n++);
        }
    }
}

/* Random lists of rows, one per head; *is_ok is false when one of them was spoilt. */
static void make_lists(int s, uint32_t l, ft_row row[HEAD_MAX][CAP_MAX + 1], struct ft_rows *list,
                       bool *is_ok) {
    *is_ok = true;
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        uint32_t held = naive[s][l].head[h].n, n = 0, percent = below(4) == 0 ? 100 : below(100);
        bool in_runs = below(2) == 0, is_in = true;
        for (uint32_t j = 0; j < held; j++) {
            is_in = in_runs && below(8) != 0 ? is_in : below(100) < percent;
            row[h][n] = j;
            n += is_in;
        }
        list[h] = (struct ft_rows){ .row = row[h], .n = n };
    }
    if (below(12) == 0) {
        uint32_t h = below(shape.n_head_kv), n = list[h].n;
        if (n > 1 && below(2) == 0) {
            row[h][n - 1] = row[h][n - 2];
        } else {
            row[h][n] = naive[s][l].head[h].n + below(3);
            list[h].n++;
        }
        *is_ok = false;
    }
}

static void op_keep(int s, uint32_t l) {
    static ft_row row[HEAD_MAX][CAP_MAX + 1];
    struct ft_rows list[HEAD_MAX];
    bool is_ok;
    make_lists(s, l, row, list, &is_ok);
    expect(ft_kv_keep(kv[s], l, list, NULL), is_ok);
    for (uint32_t h = 0; is_ok && h < shape.n_head_kv; h++) {
        struct naive_head *head = &naive[s][l].head[h];
        for (uint32_t j = 0; j < list[h].n; j++) {
            naive_copy(head, j, head, row[h][j]);
        }
        head->n = list[h].n;
    }
}

/* One head loses rows of its own. */
static void op_drop(int s, uint32_t l) {
    static ft_row row[HEAD_MAX][CAP_MAX + 1];
    struct ft_rows list[HEAD_MAX];
    bool is_ok;
    make_lists(s, l, row, list, &is_ok);
    uint32_t h = below(shape.n_head_kv), at = 0, n = 0;
    struct naive_head *head = &naive[s][l].head[h];
    is_ok = true; /* the head that was spoilt may be another one */
    for (uint32_t i = 0; i < list[h].n; i++) {
        is_ok = is_ok && row[h][i] < head->n && (i == 0 || row[h][i] > row[h][i - 1]);
    }
    expect(ft_kv_drop(kv[s], l, h, &list[h], NULL), is_ok);
    for (uint32_t j = 0; is_ok && j < head->n; j++) {
        if (at < list[h].n && row[h][at] == j) {
            at++;
        } else {
            naive_copy(head, n++, head, j);
        }
    }
    head->n = is_ok ? n : head->n;
}

static void op_gather(int s, uint32_t l) {
    static ft_row row[HEAD_MAX][CAP_MAX + 1];
    struct ft_rows list[HEAD_MAX];
    int from = (int)below(N_STORE);
    uint32_t from_l = below(N_LAYER);
    bool is_ok;
    if (from == s && from_l == l) {
        from_l = 1 - l;
    }
    make_lists(from, from_l, row, list, &is_ok);
    struct naive_layer *to = &naive[s][l];
    const struct naive_layer *src = &naive[from][from_l];
    for (uint32_t h = 0; is_ok && h < shape.n_head_kv; h++) {
        const struct naive_head *head = &to->head[h];
        is_ok = head->n + list[h].n <= to->cap &&
                (list[h].n == 0 || head->n == 0 ||
                 src->head[h].pos[row[h][0]] > head->pos[head->n - 1]);
    }
    expect(ft_kv_gather(kv[s], l, kv[from], from_l, list, NULL), is_ok);
    for (uint32_t h = 0; is_ok && h < shape.n_head_kv; h++) {
        for (uint32_t j = 0; j < list[h].n; j++) {
            naive_copy(&to->head[h], to->head[h].n++, &src->head[h], row[h][j]);
        }
    }
}

static void op_rewind(int s, uint32_t l) {
    uint32_t n = below(below(5) == 0 ? 200 : 4);
    bool is_ok = true;
    for (uint32_t h = 0; h < shape.n_head_kv; h++) {
        is_ok = is_ok && naive[s][l].head[h].n >= n;
    }
    expect(ft_kv_rewind(kv[s], l, n, NULL), is_ok);
    for (uint32_t h = 0; is_ok && h < shape.n_head_kv; h++) {
        naive[s][l].head[h].n -= n;
    }
}

static void op_write(int s, uint32_t l) {
    uint32_t h = below(shape.n_head_kv), n = naive[s][l].head[h].n;
    if (n > 0) {
        fill(s, l, h, below(n));
    }
}

static void step(void) {
    static void (*const op[])(int, uint32_t) = { op_reserve, op_extend, op_keep, op_gather,
                                                 op_rewind,  op_write,  op_drop };
    static const uint32_t share[] = { 2, 45, 7, 12, 19, 10, 5 };
    uint32_t which = 0, x = below(100), l = below(N_LAYER);
    int s = (int)below(N_STORE);
    while (x >= share[which]) {
        x -= share[which++];
    }
    op[which](s, l);
    n_done[which]++;
    check(s, l);
}

static void run(uint32_t number) {
    case_now = number;
    draw = 0;
    static const uint32_t widths[] = { 16, 24, 64 };
    shape = (struct ft_kv_shape){
        .n_layer = N_LAYER,
        .n_head_kv = 1 + below(HEAD_MAX),
        .d = widths[below(3)],
        .k_fmt = (enum ft_fmt)below(FT_FMT_COUNT),
        .v_fmt = (enum ft_fmt)below(FT_FMT_COUNT),
        .n_aux = below(AUX_MAX + 1),
    };
    if (shape.k_fmt == FT_Q8_0 || shape.v_fmt == FT_Q8_0) {
        shape.d = 32 * (1 + below(2));
    }
    k_bytes = ft_fmt_row_bytes(shape.k_fmt, shape.d);
    v_bytes = ft_fmt_row_bytes(shape.v_fmt, shape.d);
    gauge = (struct ft_gauge){ 0 };
    naive_peak = 0;
    memset(naive, 0, sizeof(naive));
    for (int s = 0; s < N_STORE; s++) {
        expect(ft_kv_new(&shape, &gauge, &kv[s], NULL), true);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            op_reserve(s, l);
        }
    }
    for (step_now = 0; step_now < N_STEP; step_now++) {
        step();
    }
    for (int s = 0; s < N_STORE; s++) {
        ft_kv_free(kv[s]);
    }
    if (gauge.now != 0) {
        broken("%llu bytes are left after the stores", (unsigned long long)gauge.now);
    }
}

int main(int argc, char **argv) {
    unsigned long first = 0, count = 100;
    for (int i = 1; i < argc; i++) {
        unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], NULL, 10) : 0;
        if (strcmp(argv[i], "-s") == 0) {
            seed = value;
        } else if (strcmp(argv[i], "-i") == 0) {
            first = value;
            count = 1;
        } else if (strcmp(argv[i], "-n") == 0) {
            count = value;
        } else if (strcmp(argv[i], "--full") == 0) {
            count = 1000;
        }
    }
    (void)printf("prop_store: seed %llu, cases %lu..%lu of %d operations\n",
                 (unsigned long long)seed, first, first + count - 1, N_STEP);
    for (unsigned long i = first; i < first + count; i++) {
        run((uint32_t)i);
    }
    for (int i = 0; i < 7; i++) {
        if (n_done[i] == 0) {
            broken("operation %d never ran", i);
        }
    }
    (void)printf("prop_store: reserve %llu extend %llu keep %llu gather %llu rewind %llu write "
                 "%llu drop %llu, refused %llu\n",
                 (unsigned long long)n_done[0], (unsigned long long)n_done[1],
                 (unsigned long long)n_done[2], (unsigned long long)n_done[3],
                 (unsigned long long)n_done[4], (unsigned long long)n_done[5],
                 (unsigned long long)n_done[6], (unsigned long long)n_refused);
    return 0;
}
