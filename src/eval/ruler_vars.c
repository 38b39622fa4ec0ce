/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_vars.c - chains of variables: RULER's variable tracking (vt), and pointer chasing (chain), which
 * is ours, in the wording that the demo pair was trained on (train/wording.py).
 *
 * Templates and parameters of vt: NVIDIA/RULER (Apache-2.0), scripts/data/synthetic/constants.py
 * and variable_tracking.py, with the solved example in front, the blank behind a copied variable
 * and the two blanks before the example's answer.
 *
 * Departs  the example's lines are placed anew in every sample (RULER draws only its names anew),
 *          and it takes at most a quarter of ctx (RULER: 500 tokens, which is less from 2000 on);
 *          names of a sample differ from each other.
 */
#include <stdio.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { CHAIN = 5, NAME = 5, EXAMPLE_NAME = 3, EXAMPLE_MAX = 500 }; /* names of vt's chain: 4 hops */

enum {
    CHASED = 2,
    LINKS = 3,
    CHASED_NAME = 3,
    LINE_BYTES = 32
}; /* chains of 2 hops, their names */

static const char vt_form[] =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {query} in the text "
    "above.";
static const char vt_prefix[] = " Answer: According to the chain(s) of variable assignment in the "
                                "text above, {num_v} variables "
                                "are assigned the value {query}, they are: ";
static const char chain_form[] =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
    "{context}\nQuestion: What is the value of the variable {query} in the text above?";
static const char chain_prefix[] =
    " Answer: According to the chain(s) of variable assignment in the text above, VAR {query} =";

struct chains {
    char name[FT_MAX(CHAIN, CHASED *LINKS)][NAME + 1]; /* one chain behind the other */
    char value[CHASED][8];
};

/* n chains of n_link variables each. */
static void draw_chains(struct ft_draw *draw, uint32_t n, uint32_t n_link, uint32_t n_letter,
                        struct chains *out) {
    for (uint32_t i = 0; i < n * n_link;) {
        uint32_t same = 0;
        for (uint32_t c = 0; c < n_letter; c++) {
            out->name[i][c] = (char)('A' + ft_ruler__below(draw, 26));
        }
        out->name[i][n_letter] = '\0';
        while (same < i && strcmp(out->name[same], out->name[i]) != 0) {
            same++;
        }
        i += same == i;
    }
    for (uint32_t c = 0; c < n; c++) {
        do {
            snprintf(out->value[c], sizeof out->value[c], "%u",
                     10000 + ft_ruler__below(draw, 89999));
        } while (c > 0 && strcmp(out->value[0], out->value[c]) == 0);
    }
}

/* n_line lines of noise with the links of the chain in their order; NULL: no memory. */
static char *context_of(const struct chains *chains, uint32_t n_line, struct ft_draw *draw) {
    uint32_t at[CHAIN], placed = 0;
    struct ft_ruler_text text = { 0 };
    ft_ruler__places(draw, CHAIN, n_line, at);
    for (uint32_t i = 0; i < n_line; i++) {
        ft_ruler__add(&text, i > 0 ? "\n" : "");
        if (placed < CHAIN && at[placed] == i) {
            if (placed == 0) {
                ft_ruler__addf(&text, "VAR %s = %s\n", chains->name[0], chains->value[0]);
            } else {
                ft_ruler__addf(&text, "VAR %s = VAR %s \n", chains->name[placed],
                               chains->name[placed - 1]);
            }
            placed++;
        }
        ft_ruler__add(&text, ft_ruler__noise);
    }
    return ft_ruler__take(&text);
}

/* ---- variable tracking ---- */

/* The template without and with its begun answer, for a chain in n_line lines of noise. */
static bool add_question(const struct chains *chains, uint32_t n_line, struct ft_draw *draw,
                         struct ft_ruler_text *text, struct ft_ruler_text *prefix) {
    char *context = context_of(chains, n_line, draw);
    const struct ft_ruler_slot slot[] = { { "context", context },
                                          { "query", chains->value[0] },
                                          { "num_v", "5" } };
    if (context) {
        ft_ruler__fill(text, vt_form, slot, FT_COUNT(slot));
        ft_ruler__fill(prefix, vt_prefix, slot, FT_COUNT(slot));
    }
    ft_free(context);
    return context != NULL;
}

struct example {
    const struct ft_ruler_order *order;
    char *text; /* the latest */
};

static ft_status measure_example(void *user, uint32_t n_line, uint32_t *n_token,
                                 struct ft_error *error) {
    struct example *example = user;
    const struct ft_ruler_params *params = &example->order->ruler->params;
    struct ft_draw draw = example->order->draw;
    struct chains chains;
    struct ft_ruler_text text = { 0 };
    draw.key =
        ft_rng_mix(draw.key); /* a stream of its own: our chain draws the same for any size */
    draw_chains(&draw, 1, CHAIN, EXAMPLE_NAME, &chains);
    text.is_bad = !add_question(&chains, n_line, &draw, &text, &text);
    for (uint32_t i = 0; i < CHAIN; i++) {
        ft_ruler__addf(&text, " %s", chains.name[i]);
    }
    ft_ruler__add(&text, "\n\n");
    ft_free(example->text);
    example->text = ft_ruler__take(&text);
    return example->text ? params->count(example->text, "", n_token, params->user, error)
                         : ft_fail(error, FT_NOMEM, 0, "not enough memory for an example");
}

static ft_status make_example(struct example *example, struct ft_error *error) {
    const struct ft_ruler_fit fit = { .measure = measure_example,
                                      .user = example,
                                      .low = CHAIN,
                                      .high = EXAMPLE_MAX,
                                      .limit = FT_MIN(EXAMPLE_MAX, example->order->ctx / 4) };
    uint32_t n_line, n_token;
    FT_TRY(ft_ruler__fit(&fit, &n_line, &n_token, error));
    return measure_example(example, FT_MAX(n_line, (uint32_t)CHAIN), &n_token, error);
}

ft_status ft_ruler__vt(const struct ft_ruler_order *order, struct ft_sample *out,
                       struct ft_error *error) {
    struct example example = { .order = order };
    struct ft_draw draw = order->draw;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    struct chains chains;
    const char *reference[CHAIN];
    ft_status status = make_example(&example, error);
    if (status == FT_OK) {
        draw_chains(&draw, 1, CHAIN, NAME, &chains);
        ft_ruler__add(&text, example.text);
        text.is_bad = !add_question(&chains, order->size, &draw, &text, &prefix) || text.is_bad;
        for (uint32_t i = 0; i < CHAIN; i++) {
            reference[i] = chains.name[i];
        }
        status = ft_ruler__turn(out, &text, &prefix, reference, CHAIN);
    }
    ft_free(example.text);
    return status;
}

/* ---- pointer chasing ---- */

/* Links of all chains, in any order, as sentences of an essay; NULL: no memory. */
static char *scatter(const struct ft_ruler_order *order, const struct chains *chains,
                     struct ft_draw *draw) {
    char line[CHASED * LINKS][LINE_BYTES];
    const char *placed[CHASED * LINKS];
    uint32_t place[CHASED * LINKS], at[CHASED * LINKS];
    struct ft_ruler_text text = { 0 };
    for (uint32_t i = 0; i < CHASED * LINKS; i++) {
        const char *from = i % LINKS == 0 ? chains->value[i / LINKS] : chains->name[i - 1];
        snprintf(line[i], LINE_BYTES, "VAR %.5s = %s%.5s.", chains->name[i],
                 i % LINKS == 0 ? "" : "VAR ", from);
        place[i] = i;
    }
    ft_ruler__shuffle(draw, place, CHASED * LINKS);
    for (uint32_t i = 0; i < CHASED * LINKS; i++) {
        placed[i] = line[place[i]];
    }
    ft_ruler__depths(&order->ruler->hay, order->size, draw, CHASED * LINKS, at);
    ft_ruler__essay(&order->ruler->hay, order->size, placed, at, CHASED * LINKS, &text);
    return ft_ruler__take(&text);
}

/* Two chains; the value of one's last variable is two hops away, and where the next hop leads is only
 * known when the one before has been read. */
ft_status ft_ruler__chain(const struct ft_ruler_order *order, struct ft_sample *out,
                          struct ft_error *error) {
    struct ft_draw draw = order->draw;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    struct chains chains;
    (void)error;
    draw_chains(&draw, CHASED, LINKS, CHASED_NAME, &chains);
    char *context = scatter(order, &chains, &draw);
    if (!context) {
        return FT_NOMEM;
    }
    const struct ft_ruler_slot slot[] = { { "context", context },
                                          { "query", chains.name[LINKS - 1] } };
    const char *const reference[] = { chains.value[0] };
    ft_ruler__fill(&text, chain_form, slot, FT_COUNT(slot));
    ft_ruler__fill(&prefix, chain_prefix, slot, FT_COUNT(slot));
    ft_free(context);
    return ft_ruler__turn(out, &text, &prefix, reference, 1);
}
