/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_needle.c - needles in haystacks: RULER's eight tasks, and one context asked several times.
 *
 * Templates and parameters: NVIDIA/RULER (Apache-2.0), scripts/data/synthetic/constants.py and
 * niah.py.  Where one value of one key is asked, RULER replaces "Some" by "A", "are all" and "are"
 * by "is", and drops the plural s in the template, but not in the needles: here are both wordings.
 *
 * Departs  keys, values, depths and the order of needles are drawn for every sample (RULER shuffles
 *          needles the same way in all of them); keys differ from each other, and from those of a
 *          haystack of needles.  Sentences are split where one ends before a capital letter.
 */
#include <stdio.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { NEEDLE_CAP = 4, KEY_BYTES = 2 * FT_RULER_WORD, LINE_BYTES = 256 };

static const char needle_form[] = "One of the special magic {type_needle_v} for {key} is: {value}.";
static const struct wording {
    const char *head, *question, *prefix;
} wording[2] = {
    { "Some special magic {type_needle_v} are hidden within the following text. Make sure to "
      "memorize it. I will quiz you about the {type_needle_v} afterwards.\n{context}\n",
      "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?",
      " The special magic {type_needle_v} for {query} mentioned in the provided text are" },
    { "A special magic {type_needle_v} is hidden within the following text. Make sure to "
      "memorize it. I will quiz you about the {type_needle_v} afterwards.\n{context}\n",
      "What is the special magic {type_needle_v} for {query} mentioned in the provided text?",
      " The special magic {type_needle_v} for {query} mentioned in the provided text is" },
};
static const char *const one[] = { "word", "number", "uuid" };
static const char *const many[] = { "words", "numbers", "uuids" };

/* ---- keys and values ---- */

static void draw_uuid(struct ft_draw *draw, char out[KEY_BYTES]) {
    uint64_t a = ft_draw_next(draw), b = ft_draw_next(draw);
    a = (a & ~UINT64_C(0xf000)) | 0x4000;               /* version 4 */
    b = (b & ~(UINT64_C(3) << 62)) | UINT64_C(1) << 63; /* its variant */
    snprintf(out, KEY_BYTES, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xffff), (unsigned)(b >> 48),
             (unsigned long long)(b & UINT64_C(0xffffffffffff)));
}

static void draw_text(const struct ft_ruler *ruler, enum ft_ruler_kind kind, struct ft_draw *draw,
                      char out[KEY_BYTES]) {
    char a[FT_RULER_WORD], b[FT_RULER_WORD];
    if (kind == FT_KIND_UUID) {
        draw_uuid(draw, out);
    } else if (kind == FT_KIND_NUMBER) {
        snprintf(out, KEY_BYTES, "%u", 1000000 + ft_ruler__below(draw, 9000000));
    } else {
        const char *first = ft_ruler__word(&ruler->words, ft_ruler__below(draw, ruler->words.n), a);
        const char *second =
            ft_ruler__word(&ruler->words, ft_ruler__below(draw, ruler->words.n), b);
        snprintf(out, KEY_BYTES, "%s-%s", first, second);
    }
}

/* Draw until it is none of the n there. */
static void draw_other(const struct ft_ruler *ruler, enum ft_ruler_kind kind, struct ft_draw *draw,
                       char (*there)[KEY_BYTES], uint32_t n, char out[KEY_BYTES]) {
    uint32_t i;
    do {
        draw_text(ruler, kind, draw, out);
        for (i = 0; i < n && strcmp(there[i], out) != 0; i++) {
        }
    } while (i < n);
}

/* ---- needles ---- */

struct needles {
    uint32_t n_key, n; /* needles: one for each value of each key */
    char key[NEEDLE_CAP][KEY_BYTES], value[NEEDLE_CAP][KEY_BYTES];
    uint32_t key_of[NEEDLE_CAP]; /* of a value */
    char line[NEEDLE_CAP][LINE_BYTES];
    const char *placed[NEEDLE_CAP]; /* lines in the order of the text */
    uint32_t asked[NEEDLE_CAP];     /* keys in the order of the questions */
};

static void write_needle(const struct ft_ruler_task *task, const char *key, const char *value,
                         char out[LINE_BYTES]) {
    const struct ft_ruler_slot slot[] = { { "type_needle_v", many[task->value] },
                                          { "key", key },
                                          { "value", value } };
    struct ft_ruler_text text = { 0 };
    ft_ruler__fill(&text, needle_form, slot, FT_COUNT(slot));
    char *bytes = ft_ruler__take(&text);
    snprintf(out, LINE_BYTES, "%s", bytes ? bytes : "");
    ft_free(bytes);
}

static void draw_needles(const struct ft_ruler_order *order, struct ft_draw *draw,
                         struct needles *out) {
    const struct ft_ruler_task *task = order->task;
    uint32_t place[NEEDLE_CAP] = { 0 };
    out->n_key = FT_MAX(task->n_key, task->n_query);
    out->n = out->n_key * task->n_value;
    ft_assert(out->n <= NEEDLE_CAP);
    for (uint32_t k = 0; k < out->n_key; k++) {
        draw_other(order->ruler, task->key, draw, out->key, k, out->key[k]);
        out->asked[k] = k;
    }
    for (uint32_t i = 0; i < out->n; i++) {
        draw_other(order->ruler, task->value, draw, out->value, i, out->value[i]);
        out->key_of[i] = i / task->n_value;
        place[i] = i;
        write_needle(task, out->key[out->key_of[i]], out->value[i], out->line[i]);
    }
    ft_ruler__shuffle(draw, place, out->n);
    for (uint32_t i = 0; i < out->n; i++) {
        out->placed[i] = out->line[place[i]];
    }
    ft_ruler__shuffle(draw, out->asked, out->n_key);
}

/* ---- the context ---- */

/* size lines of noise or of other needles, ours in front of n of them. */
static void add_lines(const struct ft_ruler_order *order, struct needles *needles,
                      struct ft_draw *draw, struct ft_ruler_text *out) {
    const struct ft_ruler_task *task = order->task;
    uint32_t at[NEEDLE_CAP], n = 0;
    char key[KEY_BYTES], value[KEY_BYTES], line[LINE_BYTES];
    if (order->has_depth) {
        at[0] = (uint32_t)(((uint64_t)order->size * order->depth + 50) / 100);
    } else {
        ft_ruler__places(draw, needles->n, order->size, at);
    }
    for (uint32_t i = 0; i < order->size; i++) {
        if (n < needles->n && at[n] == i) {
            ft_ruler__add(out, i > 0 ? "\n" : "");
            ft_ruler__add(out, needles->placed[n++]);
            ft_ruler__add(out, "\n");
        } else if (i > 0) {
            ft_ruler__add(out, "\n");
        }
        if (task->hay == FT_HAY_NOISE) {
            ft_ruler__add(out, ft_ruler__noise);
            continue;
        }
        draw_other(order->ruler, task->key, draw, needles->key, needles->n_key, key);
        draw_other(order->ruler, task->value, draw, needles->value, needles->n, value);
        write_needle(task, key, value, line);
        ft_ruler__add(out, line);
    }
    if (n < needles->n) { /* a depth of 100 % is behind the last line */
        ft_ruler__add(out, "\n");
        ft_ruler__add(out, needles->placed[n]);
    }
}

static void add_essay(const struct ft_ruler_order *order, const struct needles *needles,
                      struct ft_draw *draw, struct ft_ruler_text *out) {
    const struct ft_hay *hay = &order->ruler->hay;
    uint32_t at[NEEDLE_CAP];
    if (order->has_depth) {
        at[0] = ft_ruler__border(hay, order->size, order->depth);
    } else {
        ft_ruler__depths(hay, order->size, draw, needles->n, at);
    }
    ft_ruler__essay(hay, order->size, needles->placed, at, needles->n, out);
}

static char *context_of(const struct ft_ruler_order *order, struct needles *needles,
                        struct ft_draw *draw) {
    struct ft_ruler_text text = { 0 };
    if (order->task->hay == FT_HAY_ESSAY) {
        add_essay(order, needles, draw, &text);
    } else {
        add_lines(order, needles, draw, &text);
    }
    return ft_ruler__take(&text);
}

/* ---- questions ---- */

/* "a, b, and c" */
static void name_keys(const struct needles *needles, uint32_t first, uint32_t n, char *out,
                      size_t cap) {
    size_t used = 0;
    for (uint32_t i = 0; i < n && used < cap; i++) {
        const char *between = i == 0 ? "" : i + 1 < n ? ", " : ", and ";
        used += (size_t)snprintf(out + used, cap - used, "%s%s", between,
                                 needles->key[needles->asked[first + i]]);
    }
}

/* One turn about n keys from asked[first]; the first turn begins with the context. */
static ft_status ask(const struct ft_ruler_order *order, const struct needles *needles,
                     const char *context, uint32_t first, uint32_t n, struct ft_sample *out) {
    const struct ft_ruler_task *task = order->task;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    const char *reference[NEEDLE_CAP];
    char query[NEEDLE_CAP * (KEY_BYTES + 6)];
    uint32_t n_reference = 0;
    bool is_one = n * task->n_value == 1;
    name_keys(needles, first, n, query, sizeof query);
    const struct ft_ruler_slot slot[] = { { "type_needle_v",
                                            is_one ? one[task->value] : many[task->value] },
                                          { "context", context },
                                          { "query", query } };
    ft_ruler__fill(&text, first == 0 ? wording[is_one].head : "\n", slot, FT_COUNT(slot));
    ft_ruler__fill(&text, wording[is_one].question, slot, FT_COUNT(slot));
    ft_ruler__fill(&prefix, wording[is_one].prefix, slot, FT_COUNT(slot));
    for (uint32_t i = first; i < first + n; i++) {
        for (uint32_t v = 0; v < needles->n; v++) {
            if (needles->key_of[v] == needles->asked[i]) {
                reference[n_reference++] = needles->value[v];
            }
        }
    }
    return ft_ruler__turn(out, &text, &prefix, reference, n_reference);
}

/* n_turn questions about n keys each. */
static ft_status build(const struct ft_ruler_order *order, uint32_t n_turn, uint32_t n,
                       struct ft_sample *out) {
    struct needles needles;
    struct ft_draw draw = order->draw;
    ft_status status = FT_OK;
    draw_needles(order, &draw, &needles);
    ft_assert(!order->has_depth || needles.n == 1);
    char *context = context_of(order, &needles, &draw);
    if (!context) {
        return FT_NOMEM;
    }
    for (uint32_t t = 0; t < n_turn && status == FT_OK; t++) {
        status = ask(order, &needles, context, t * n, n, out);
    }
    ft_free(context);
    return status;
}

ft_status ft_ruler__niah(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error) {
    (void)error;
    return build(order, 1, order->task->n_query, out);
}

/* Ours: several keys of one context, asked one after the other in the same session.  What dropped
 * rows with the first question in view has to answer the others as well. */
ft_status ft_ruler__shared(const struct ft_ruler_order *order, struct ft_sample *out,
                           struct ft_error *error) {
    (void)error;
    return build(order, order->task->n_turn, 1, out);
}
