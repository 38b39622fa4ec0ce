/* SPDX-License-Identifier: Apache-2.0 */
/* keep.c - from numbers to the rows that stay: pooling, ranking, and what a KV head keeps.
 *
 * Everything here is exact in the order it promises (higher score, then lower index), allocates
 * nothing and does not depend on threads.
 */
#include <math.h>
#include <string.h>

#include "score/score.h"

/* ---- pooling ---- */

/* Largest power of two <= m. */
static uint32_t power_below(uint32_t m) {
    uint32_t p = 1;
    while (p <= m / 2) {
        p *= 2;
    }
    return p;
}

/* x[i] = max(x[i], x[i + far]) for every i, reading only what is not yet written. */
static void fold_right(float *x, uint32_t n, uint32_t far) {
    for (uint32_t i = 0; far < n && i < n - far; i++) {
        x[i] = x[i + far] > x[i] ? x[i + far] : x[i];
    }
}

static void fold_left(float *x, uint32_t n, uint32_t far) {
    for (uint32_t i = n; far < n && i > far; i--) {
        x[i - 1] = x[i - 1 - far] > x[i - 1] ? x[i - 1 - far] : x[i - 1];
    }
}

/* Maximum over windows of m elements that begin (end) at each element, in place.  After the step
 * with distance h, x[i] covers 2h elements; two windows of p <= m < 2p, m - p apart, cover m. */
static void max_window(float *x, uint32_t n, uint32_t m,
                       void (*fold)(float *, uint32_t, uint32_t)) {
    uint32_t p = power_below(m);
    for (uint32_t h = 1; h < p; h *= 2) {
        fold(x, n, h);
    }
    if (m > p) {
        fold(x, n, m - p);
    }
}

void ft_pool(const float *in, uint32_t n, uint32_t k, bool is_max, float *out) {
    uint32_t left = (k - 1) / 2, right = k / 2;
    if (is_max) {
        for (uint32_t i = 0; i < n; i++) {
            out[i] = isnan(in[i]) ? -INFINITY : in[i];
        }
        max_window(out, n, right + 1, fold_right);
        max_window(out, n, left + 1, fold_left);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = i > left ? i - left : 0, last = right < n - 1 - i ? i + right : n - 1;
        double sum = 0; /* a running sum would leave residue among zeros, and break ties by it */
        for (uint32_t j = first; j <= last; j++) {
            sum += (double)in[j];
        }
        out[i] = (float)(sum / k);
    }
}

/* ---- evidence of several heads ---- */

void ft_fold_heads(enum ft_fold fold, const float *mass, uint32_t n_head, uint32_t n,
                   float *score) {
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0;
        float best = 0;
        for (uint32_t h = 0; h < n_head; h++) {
            float x = mass[(size_t)h * n + j];
            sum += (double)x;
            best = x > best ? x : best;
        }
        if (fold != FT_FOLD_MAX) {
            best = (float)(fold == FT_FOLD_MEAN ? sum / n_head : sum);
        }
        score[j] = best > score[j] ? best : score[j];
    }
}

void ft_group_max(float *column, uint32_t n_head, uint32_t n_head_kv, uint32_t n) {
    uint32_t group = n_head / n_head_kv;
    for (uint32_t g = 0; g < n_head; g++) { /* what is overwritten has been read: g / group <= g */
        float *to = column + (size_t)(g / group) * n;
        const float *from = column + (size_t)g * n;
        for (uint32_t j = 0; j < n; j++) {
            to[j] = g % group == 0 || from[j] > to[j] ? from[j] : to[j];
        }
    }
}

float ft_ramp_weight(enum ft_ramp ramp, uint32_t i, uint32_t w) {
    switch (ramp) {
    case FT_RAMP_CODE:
        return w > 1 ? (float)i / (float)(w - 1) : 1.0F;
    case FT_RAMP_PAPER:
        return (float)(i + 1) / (float)w;
    default:
        return 1.0F;
    }
}

/* ---- ranking ---- */

/* Monotone map of scores to unsigned keys: NaN lowest, -0 equal to 0. */
static uint32_t key_of(float x) {
    uint32_t bits;
    if (isnan(x)) {
        return 0;
    }
    x += 0.0F; /* -0 + 0 = 0 */
    memcpy(&bits, &x, sizeof(bits));
    return bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
}

enum { DIGIT = 11, DIGITS = 1 << DIGIT }; /* 32 bits = 11 + 11 + 10 */

/* The k-th largest of key[n], 1 <= k <= n; *equal: how many of the k best are equal to it.
 * A radix selection: each round fixes the answer's next digit among keys that share its head. */
static uint32_t kth_largest(const uint32_t *key, uint32_t n, uint32_t k, uint32_t *equal) {
    static const unsigned shifts[] = { 21, 10, 0 }, widths[] = { DIGIT, DIGIT, 10 };
    uint32_t head = 0, mask = 0;
    for (unsigned r = 0; r < FT_COUNT(shifts); r++) {
        uint32_t count[DIGITS] = { 0 };
        uint32_t digits = UINT32_C(1) << widths[r], digit = digits - 1;
        for (uint32_t i = 0; i < n; i++) {
            count[(key[i] >> shifts[r]) & (digits - 1)] += (key[i] & mask) == head;
        }
        while (count[digit] < k) {
            k -= count[digit];
            digit--;
        }
        head |= digit << shifts[r];
        mask |= (digits - 1) << shifts[r];
    }
    *equal = k;
    return head;
}

/* Element a comes after element b: a lower key, or the same key and a higher index. */
static bool is_after(uint32_t key_a, uint32_t a, uint32_t key_b, uint32_t b) {
    return key_a != key_b ? key_a < key_b : a > b;
}

/* Let element `at` of the heap over (key, index)[n] sink; the root of a heap is what comes last. */
static void sink(uint32_t *key, uint32_t *index, uint32_t at, uint32_t n) {
    uint32_t k = key[at], x = index[at];
    for (uint32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && is_after(key[child + 1], index[child + 1], key[child], index[child])) {
            child++;
        }
        if (!is_after(key[child], index[child], k, x)) {
            break;
        }
        key[at] = key[child];
        index[at] = index[child];
        at = child;
    }
    key[at] = k;
    index[at] = x;
}

/* Heap sort: in place and never quadratic, whatever the scores are. */
static void sort_best_first(uint32_t *key, uint32_t *index, uint32_t n) {
    for (uint32_t i = n / 2; i > 0; i--) {
        sink(key, index, i - 1, n);
    }
    for (uint32_t i = n; i > 1; i--) {
        uint32_t k = key[0], x = index[0];
        key[0] = key[i - 1];
        index[0] = index[i - 1];
        key[i - 1] = k;
        index[i - 1] = x;
        sink(key, index, 0, i - 1);
    }
}

uint32_t ft_keep_rank(const float *score, uint32_t n, uint32_t k, uint32_t *work, uint32_t *out) {
    uint32_t equal, count = 0;
    k = FT_MIN(k, n);
    if (k == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        work[i] = key_of(score[i]);
    }
    uint32_t last = kth_largest(work, n, k, &equal);
    for (uint32_t i = 0; i < n; i++) { /* ascending, so the lowest of the equal ones get in */
        bool is_equal = work[i] == last;
        if (work[i] > last || (is_equal && equal > 0)) {
            equal -= is_equal;
            out[count] = i;
            work[count++] = work[i];
        }
    }
    sort_best_first(work, out, k);
    return k;
}

/* ---- what stays ---- */

static void sort_ascending(uint32_t *x, uint32_t n) {
    for (uint32_t size = n, build = n / 2; size > 1;) {
        if (build > 0) {
            build--;
        } else {
            uint32_t top = x[0];
            x[0] = x[--size];
            x[size] = top;
        }
        uint32_t at = build, value = x[at];
        for (uint32_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
            child += child + 1 < size && x[child + 1] > x[child];
            if (x[child] <= value) {
                break;
            }
            x[at] = x[child];
            at = child;
        }
        x[at] = value;
    }
}

uint32_t ft_keep_retain(const uint32_t *ranked, const struct ft_look *look,
                        const struct ft_budget *budget, uint32_t *out) {
    uint32_t tail = look->window + look->refeed;
    ft_assert(budget->keep >= look->window && budget->n_prompt > tail);
    ft_assert(budget->n_rank >= budget->keep - look->window);
    uint32_t count = budget->keep - look->window;
    memcpy(out, ranked, count * sizeof(*out));
    sort_ascending(out, count);
    for (uint32_t i = 0; i < look->window; i++) {
        out[count++] = budget->n_prompt - tail + i;
    }
    return count;
}

/* a leaves rather than b, which stands in front of it */
static bool leaves_before(float a, float b) {
    return isnan(a) || (!isnan(b) && a <= b);
}

uint32_t ft_keep_evict(const float *score, const struct ft_step *step, uint32_t *drop) {
    uint32_t n_drop = step->n_row > step->keep ? step->n_row - step->keep : 0;
    ft_assert(step->keep >= step->window);
    uint32_t n_free = step->n_row - FT_MIN(step->window, step->n_row);
    for (uint32_t i = 0; i < n_drop; i++) { /* one as a rule */
        uint32_t worst = UINT32_MAX, at = 0;
        for (uint32_t j = 0; j < n_free; j++) {
            if (at < i && drop[at] == j) { /* listed already */
                at++;
            } else if (worst == UINT32_MAX || leaves_before(score[j], score[worst])) {
                worst = j;
            }
        }
        for (at = i; at > 0 && drop[at - 1] > worst; at--) {
            drop[at] = drop[at - 1];
        }
        drop[at] = worst;
    }
    return n_drop;
}

uint32_t ft_window_default(uint32_t keep) {
    return keep < 64 ? 8 : 32;
}

/* ---- prompt tokens that stay ---- */

void ft_set_add(struct ft_set *set, uint32_t j) {
    uint32_t mask = UINT32_C(1) << (j % 32);
    if (set->room > 0 && (set->bit[j / 32] & mask) == 0) {
        set->bit[j / 32] |= mask;
        set->room--;
    }
}

struct ft_set ft_set_begin(const struct ft_budget *budget, uint32_t window, uint32_t *bit) {
    uint32_t n = budget->n_prompt;
    struct ft_set set = { .bit = bit, .n = n, .room = FT_MIN(budget->keep, n) };
    memset(bit, 0, ((size_t)n + 31) / 32 * sizeof(*bit));
    for (uint32_t i = 0; i < budget->n_must; i++) {
        ft_assert(budget->must[i] < n);
        ft_set_add(&set, budget->must[i]);
    }
    for (uint32_t i = 0; i < FT_MIN(window, n); i++) {
        ft_set_add(&set, n - 1 - i);
    }
    return set;
}

uint32_t ft_set_list(const struct ft_set *set, uint32_t *out) {
    uint32_t count = 0;
    for (uint32_t j = 0; j < set->n; j++) {
        if ((set->bit[j / 32] >> (j % 32)) & 1) {
            out[count++] = j;
        }
    }
    return count;
}

uint32_t ft_keep_tokens(const float *score, uint32_t window, const struct ft_budget *budget,
                        uint32_t *work, uint32_t *out) {
    uint32_t *ranked = work + budget->n_prompt;
    uint32_t n_ranked = ft_keep_rank(score, budget->n_prompt, budget->keep, work, ranked);
    struct ft_set set = ft_set_begin(budget, window, work);
    for (uint32_t i = 0; i < n_ranked; i++) {
        ft_set_add(&set, ranked[i]);
    }
    return ft_set_list(&set, out);
}

size_t ft_keep_work(uint32_t n_prompt) {
    return 2 * (size_t)n_prompt;
}
