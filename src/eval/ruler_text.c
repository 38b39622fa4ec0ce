/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_text.c - growing strings, templates, draws, and the search for a size. */
#include <stdio.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { TEXT_MAX = 1 << 30 };

/* ---- text ---- */

static void add_bytes(struct ft_ruler_text *text, const char *bytes, size_t n) {
    if (text->is_bad) {
        return;
    }
    if (text->n + n + 1 > text->cap) {
        size_t cap = FT_MAX(text->cap * 2, text->n + n + 256);
        char *more = cap < TEXT_MAX ? ft_grow(text->bytes, cap, 1) : NULL;
        if (!more) {
            text->is_bad = true;
            return;
        }
        text->bytes = more;
        text->cap = cap;
    }
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
    text->bytes[text->n] = '\0';
}

void ft_ruler__add(struct ft_ruler_text *text, const char *more) {
    add_bytes(text, more, strlen(more));
}

void ft_ruler__addf(struct ft_ruler_text *text, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof line) {
        text->is_bad = true;
        return;
    }
    add_bytes(text, line, (size_t)n);
}

void ft_ruler__fill(struct ft_ruler_text *text, const char *form, const struct ft_ruler_slot *slot,
                    uint32_t n) {
    while (*form != '\0') {
        size_t plain = strcspn(form, "{");
        add_bytes(text, form, plain);
        form += plain;
        if (*form == '\0') {
            return;
        }
        size_t n_name = strcspn(form, "}") - 1;
        uint32_t i = 0;
        while (i < n &&
               (strlen(slot[i].name) != n_name || memcmp(slot[i].name, form + 1, n_name) != 0)) {
            i++;
        }
        ft_assert(i < n);
        ft_ruler__add(text, slot[i].value);
        form += n_name + 2;
    }
}

char *ft_ruler__take(struct ft_ruler_text *text) {
    add_bytes(text, "", 0);
    char *bytes = text->is_bad ? NULL : text->bytes;
    if (text->is_bad) {
        ft_free(text->bytes);
    }
    *text = (struct ft_ruler_text){ 0 };
    return bytes;
}

/* ---- draws ---- */

uint32_t ft_ruler__below(struct ft_draw *draw, uint32_t n) {
    return (uint32_t)(((ft_draw_next(draw) >> 32) * n) >> 32);
}

/* Fisher and Yates, forwards: place i is final after step i. */
static void settle(struct ft_draw *draw, uint32_t *value, uint32_t n_first, uint32_t n_all) {
    for (uint32_t i = 0; i < n_first && i < n_all; i++) {
        uint32_t other = i + ft_ruler__below(draw, n_all - i), kept = value[i];
        value[i] = value[other];
        value[other] = kept;
    }
}

void ft_ruler__shuffle(struct ft_draw *draw, uint32_t *value, uint32_t n) {
    settle(draw, value, n, n);
}

uint32_t *ft_ruler__choose(struct ft_draw *draw, uint32_t n_first, uint32_t n_all) {
    uint32_t *value = ft_alloc(FT_MAX(n_all, 1u), sizeof *value);
    for (uint32_t i = 0; value && i < n_all; i++) {
        value[i] = i;
    }
    if (value) {
        settle(draw, value, n_first, n_all);
    }
    return value;
}

/* Each draw is a rank among the numbers still free; ascending order finds the rank's number. */
void ft_ruler__places(struct ft_draw *draw, uint32_t n, uint32_t n_all, uint32_t *out) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t value = ft_ruler__below(draw, n_all - i), at = 0;
        while (at < i && out[at] <= value) {
            value++;
            at++;
        }
        memmove(out + at + 1, out + at, (i - at) * sizeof *out);
        out[at] = value;
    }
}

/* ---- sizes ---- */

struct point {
    uint32_t size, n_token;
};

/* How far to go from `low` to meet the limit, by the slope from the first point, and a bit more. */
static uint32_t stride(const struct point *first, const struct point *low, uint32_t limit) {
    uint64_t rise = low->n_token > first->n_token ? low->n_token - first->n_token : 0;
    uint64_t run = low->size - first->size, room = limit - low->n_token;
    if (rise == 0 || run == 0) {
        return (uint32_t)FT_MIN(FT_MAX(8, 2 * run), UINT32_MAX);
    }
    uint64_t step = room * run / rise;
    return (uint32_t)FT_MIN(step + step / 16 + 1, UINT32_MAX);
}

/* Between a size that fits and one that does not: by proportion, every second time the middle. */
static uint32_t between(const struct point *low, const struct point *high, uint32_t limit,
                        bool is_middle) {
    uint64_t gap = high->size - low->size;
    uint64_t step = is_middle || high->n_token <= low->n_token
                        ? gap / 2
                        : gap * (limit - low->n_token) / (high->n_token - low->n_token);
    return low->size + (uint32_t)FT_MIN(FT_MAX(step, 1), gap - 1);
}

ft_status ft_ruler__fit(const struct ft_ruler_fit *fit, uint32_t *best, uint32_t *n_token,
                        struct ft_error *error) {
    struct point first = { .size = fit->low }, high = { 0 };
    FT_TRY(fit->measure(fit->user, first.size, &first.n_token, error));
    struct point low = first;
    *n_token = first.n_token;
    *best = 0;
    if (first.n_token > fit->limit) {
        return FT_OK;
    }
    while (high.size == 0 && low.size < fit->high) {
        uint32_t step = FT_MIN(stride(&first, &low, fit->limit), fit->high - low.size);
        struct point next = { .size = low.size + step };
        FT_TRY(fit->measure(fit->user, next.size, &next.n_token, error));
        *(next.n_token > fit->limit ? &high : &low) = next;
    }
    for (bool is_middle = false; high.size > low.size + 1; is_middle = !is_middle) {
        struct point next = { .size = between(&low, &high, fit->limit, is_middle) };
        FT_TRY(fit->measure(fit->user, next.size, &next.n_token, error));
        *(next.n_token > fit->limit ? &high : &low) = next;
    }
    *best = low.size;
    *n_token = low.n_token;
    return FT_OK;
}
