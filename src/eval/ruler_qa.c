/* SPDX-License-Identifier: Apache-2.0 */
/* ruler_qa.c - questions over documents: SQuAD (qa_1), HotpotQA (qa_2), or made-up substitutes.
 *
 * Template and parameters: NVIDIA/RULER (Apache-2.0), scripts/data/synthetic/constants.py and
 * qa.py.  Sample i asks question i.  Its documents are taken first, then those of the same article,
 * then others; where there are no more, all of them again.
 *
 * Departs  the order is drawn for every sample (RULER's is the same in all of them).
 *
 * The substitutes have names of generated words: qa_1 asks a fact of one made-up town, qa_2 for the
 * birthplace of a made-up book's author, which takes two documents.
 */
#include <stdio.h>
#include <string.h>

#include "eval/ruler_parts.h"

enum { MADE_DOCS = 4096, NAMES_A_DOC = 3, QUESTION_MAX = 1 << 22 };

static const char qa_form[] =
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\nThe following are given documents.\n\n{context}\n\nAnswer the question "
    "based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "Question: {query}";
static const char qa_prefix[] = " Answer:";

/* ---- the collection ---- */

static bool grow(void **list, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap) {
        return true;
    }
    uint32_t more_cap = FT_MAX(*cap * 2, 64u);
    void *more = more_cap < QUESTION_MAX * 2u ? ft_grow(*list, more_cap, size) : NULL;
    if (more) {
        *list = more;
        *cap = more_cap;
    }
    return more != NULL;
}

/* add_doc - number of a document, which is new or known already; text is taken over. */
static bool add_doc(struct ft_qa *qa, json_t *known, char *text, uint32_t *number) {
    const json_t *there = text ? json_object_get(known, text) : NULL;
    if (there) {
        *number = (uint32_t)json_integer_value(there);
        ft_free(text);
        return true;
    }
    if (!text || !grow((void **)&qa->doc, qa->n_doc, &qa->doc_cap, sizeof *qa->doc) ||
        json_object_set_new(known, text, json_integer(qa->n_doc)) != 0) {
        ft_free(text);
        return false;
    }
    *number = qa->n_doc;
    qa->doc[qa->n_doc++] = text;
    return true;
}

/* add_question - a question whose lists have room for that much, or NULL. */
static struct ft_qa_question *add_question(struct ft_qa *qa, const char *query, size_t n_answer,
                                           size_t n_doc) {
    if (!grow((void **)&qa->question, qa->n_question, &qa->question_cap, sizeof *qa->question)) {
        return NULL;
    }
    struct ft_qa_question *q = &qa->question[qa->n_question++];
    *q = (struct ft_qa_question){ .query = ft_strdup(query),
                                  .answer = ft_alloc(FT_MAX(n_answer, 1u), sizeof *q->answer),
                                  .doc = ft_alloc(FT_MAX(n_doc, 1u), sizeof *q->doc) };
    return q->query && q->answer && q->doc ? q : NULL;
}

static bool add_answer(struct ft_qa_question *q, const char *text) {
    q->answer[q->n_answer] = ft_strdup(text);
    return q->answer[q->n_answer++] != NULL;
}

void ft_ruler__qa_done(struct ft_qa *qa) {
    for (uint32_t i = 0; i < qa->n_doc; i++) {
        ft_free(qa->doc[i]);
    }
    for (uint32_t i = 0; i < qa->n_question; i++) {
        struct ft_qa_question *q = &qa->question[i];
        for (uint32_t a = 0; q->answer && a < q->n_answer; a++) {
            ft_free(q->answer[a]);
        }
        ft_free(q->answer);
        ft_free(q->query);
        ft_free(q->doc);
    }
    ft_free(qa->doc);
    ft_free(qa->question);
    *qa = (struct ft_qa){ 0 };
}

/* ---- SQuAD ---- */

enum outcome { TAKEN, BAD_SHAPE, NO_MEMORY };

/* The questions of one paragraph that have an answer. */
static enum outcome take_questions(struct ft_qa *qa, const json_t *paragraph, uint32_t gold,
                                   const uint32_t *article, uint32_t n_article) {
    size_t i;
    const json_t *entry;
    json_array_foreach(json_object_get(paragraph, "qas"), i, entry) {
        const char *query = json_string_value(json_object_get(entry, "question"));
        const json_t *answers = json_object_get(entry, "answers");
        if (json_is_true(json_object_get(entry, "is_impossible"))) {
            continue;
        }
        if (!query || !json_is_array(answers) || json_array_size(answers) == 0) {
            return BAD_SHAPE;
        }
        struct ft_qa_question *q = add_question(qa, query, json_array_size(answers), n_article + 1);
        if (!q) {
            return NO_MEMORY;
        }
        q->doc[q->n_doc++] = gold;
        q->n_gold = 1;
        for (uint32_t d = 0; d < n_article; d++) {
            if (article[d] != gold) {
                q->doc[q->n_doc++] = article[d];
            }
        }
        for (size_t a = 0; a < json_array_size(answers); a++) {
            const char *text =
                json_string_value(json_object_get(json_array_get(answers, a), "text"));
            if (!text || text[0] == '\0') {
                return BAD_SHAPE;
            }
            if (!add_answer(q, text)) {
                return NO_MEMORY;
            }
        }
    }
    return TAKEN;
}

static enum outcome take_article(struct ft_qa *qa, json_t *known, const json_t *paragraphs) {
    size_t n = json_array_size(paragraphs);
    uint32_t *doc = ft_alloc(FT_MAX(n, 1u), sizeof *doc),
             *each = ft_alloc(FT_MAX(n, 1u), sizeof *each);
    uint32_t n_doc = 0;
    enum outcome outcome = doc && each ? TAKEN : NO_MEMORY;
    for (size_t p = 0; p < n && outcome == TAKEN; p++) {
        const char *text =
            json_string_value(json_object_get(json_array_get(paragraphs, p), "context"));
        uint32_t before = qa->n_doc;
        if (!text) {
            outcome = BAD_SHAPE;
        } else if (!add_doc(qa, known, ft_strdup(text), &each[p])) {
            outcome = NO_MEMORY;
        } else if (qa->n_doc > before) {
            doc[n_doc++] = each[p];
        }
    }
    for (size_t p = 0; p < n && outcome == TAKEN; p++) {
        outcome = take_questions(qa, json_array_get(paragraphs, p), each[p], doc, n_doc);
    }
    ft_free(doc);
    ft_free(each);
    return outcome;
}

static enum outcome take_squad(struct ft_qa *qa, json_t *known, const json_t *root) {
    const json_t *data = json_object_get(root, "data"), *article;
    size_t i;
    if (!json_is_array(data)) {
        return BAD_SHAPE;
    }
    json_array_foreach(data, i, article) {
        const json_t *paragraphs = json_object_get(article, "paragraphs");
        enum outcome outcome =
            json_is_array(paragraphs) ? take_article(qa, known, paragraphs) : BAD_SHAPE;
        if (outcome != TAKEN) {
            return outcome;
        }
    }
    return qa->n_question > 0 ? TAKEN : BAD_SHAPE;
}

/* ---- HotpotQA ---- */

/* "Title\n" and the sentences, as they are; NULL: no memory, or *is_good is false. */
static char *document_of(const json_t *pair, bool *is_good) {
    const char *title = json_string_value(json_array_get(pair, 0));
    const json_t *sentences = json_array_get(pair, 1);
    struct ft_ruler_text text = { 0 };
    *is_good = title && json_is_array(sentences);
    if (*is_good) {
        ft_ruler__add(&text, title);
        ft_ruler__add(&text, "\n");
    }
    for (size_t i = 0; *is_good && i < json_array_size(sentences); i++) {
        const char *sentence = json_string_value(json_array_get(sentences, i));
        *is_good = sentence != NULL;
        ft_ruler__add(&text, sentence ? sentence : "");
    }
    return ft_ruler__take(&text);
}

static enum outcome take_hotpot_question(struct ft_qa *qa, json_t *known, const json_t *entry) {
    const char *query = json_string_value(json_object_get(entry, "question"));
    const char *answer = json_string_value(json_object_get(entry, "answer"));
    const json_t *context = json_object_get(entry, "context");
    if (!query || !answer || answer[0] == '\0' || json_array_size(context) == 0) {
        return BAD_SHAPE;
    }
    struct ft_qa_question *q = add_question(qa, query, 1, json_array_size(context));
    if (!q || !add_answer(q, answer)) {
        return NO_MEMORY;
    }
    for (size_t i = 0; i < json_array_size(context); i++) {
        bool is_good;
        char *text = document_of(json_array_get(context, i), &is_good);
        if (!is_good) {
            ft_free(text);
            return BAD_SHAPE;
        }
        if (!add_doc(qa, known, text, &q->doc[q->n_doc])) {
            return NO_MEMORY;
        }
        q->n_gold = ++q->n_doc;
    }
    return TAKEN;
}

static enum outcome take_hotpot(struct ft_qa *qa, json_t *known, const json_t *root) {
    const json_t *entry;
    size_t i;
    json_array_foreach(root, i, entry) {
        enum outcome outcome = take_hotpot_question(qa, known, entry);
        if (outcome != TAKEN) {
            return outcome;
        }
    }
    return qa->n_question > 0 ? TAKEN : BAD_SHAPE;
}

/* ---- made-up questions ---- */

/* Names that differ: the words of a permutation, with a capital letter. */
struct names {
    uint32_t *order, at;
};

static const char *next_name(struct names *names, char out[FT_RULER_WORD]) {
    static const struct ft_lexicon made = { .n = 0 };
    ft_ruler__word(&made, names->order[names->at++], out);
    out[0] = (char)(out[0] - 'a' + 'A');
    return out;
}

static const char *const product[] = {
    "glass", "cheese", "clocks", "bells",   "paper",   "salt",
    "lace",  "honey",  "boats",  "violins", "pottery", "carpets"
};

static bool make_town(struct ft_qa *qa, json_t *known, struct names *names, struct ft_draw *draw) {
    char town[FT_RULER_WORD], river[FT_RULER_WORD], founder[FT_RULER_WORD], query[160];
    struct ft_ruler_text text = { 0 };
    next_name(names, town);
    next_name(names, river);
    next_name(names, founder);
    const char *known_for = product[ft_ruler__below(draw, FT_COUNT(product))];
    ft_ruler__addf(&text, "%s is a town on the river %s. It was founded in %u by %s", town, river,
                   1000 + ft_ruler__below(draw, 900), founder);
    ft_ruler__addf(&text, ", and it is known for its %s.", known_for);
    const char *const answer[] = { river, founder, known_for };
    static const char *const form[] = { "On which river is the town of ",
                                        "Who founded the town of ",
                                        "What is known to come from the town of " };
    uint32_t kind = ft_ruler__below(draw, FT_COUNT(form));
    snprintf(query, sizeof query, "%s%s?", form[kind], town);
    uint32_t number = 0;
    bool is_there = add_doc(qa, known, ft_ruler__take(&text), &number);
    struct ft_qa_question *q = is_there ? add_question(qa, query, 1, 1) : NULL;
    if (!q || !add_answer(q, answer[kind])) {
        return false;
    }
    q->doc[0] = number;
    q->n_gold = q->n_doc = 1;
    return true;
}

static bool make_book(struct ft_qa *qa, json_t *known, struct names *names, struct ft_draw *draw) {
    char book[FT_RULER_WORD], author[FT_RULER_WORD], town[FT_RULER_WORD], query[160];
    struct ft_ruler_text first = { 0 }, second = { 0 };
    uint32_t doc[2] = { 0 };
    next_name(names, book);
    next_name(names, author);
    next_name(names, town);
    ft_ruler__addf(&first, "%s\n%s is a novel of %u that was written by %s.", book, book,
                   1800 + ft_ruler__below(draw, 200), author);
    ft_ruler__addf(&second, "%s\n%s was born in the town of %s and sold %s before writing.", author,
                   author, town, product[ft_ruler__below(draw, FT_COUNT(product))]);
    snprintf(query, sizeof query, "In which town was the author of the novel %s born?", book);
    char *text = ft_ruler__take(&first), *other = ft_ruler__take(&second);
    bool is_first = add_doc(qa, known, text, &doc[0]);
    bool is_second = add_doc(qa, known, other, &doc[1]);
    struct ft_qa_question *q = is_first && is_second ? add_question(qa, query, 1, 2) : NULL;
    if (!q || !add_answer(q, town)) {
        return false;
    }
    memcpy(q->doc, doc, sizeof doc);
    q->n_gold = q->n_doc = 2;
    return true;
}

static enum outcome make_all(struct ft_qa *qa, json_t *known, uint64_t seed, bool has_two_hops) {
    struct ft_draw draw = ft_draw_new(seed, UINT64_MAX - 1 - has_two_hops);
    struct ft_lexicon made;
    if (ft_ruler__lexicon(NULL, &made, NULL) != FT_OK) {
        return NO_MEMORY;
    }
    uint32_t n = has_two_hops ? MADE_DOCS / 2 : MADE_DOCS;
    struct names names = { .order = ft_ruler__choose(&draw, n * NAMES_A_DOC, made.n) };
    bool is_good = names.order != NULL;
    for (uint32_t i = 0; i < n && is_good; i++) {
        is_good = has_two_hops ? make_book(qa, known, &names, &draw)
                               : make_town(qa, known, &names, &draw);
    }
    ft_free(names.order);
    return is_good ? TAKEN : NO_MEMORY;
}

/* ---- reading ---- */

static ft_status read_qa(const char *text, uint64_t seed, bool is_hotpot, struct ft_qa *out,
                         struct ft_error *error) {
    const char *option = is_hotpot ? "--hotpot" : "--squad";
    struct ft_qa qa = { 0 };
    json_error_t where;
    json_t *root = text ? json_loads(text, JSON_REJECT_DUPLICATES, &where) : NULL;
    json_t *known = json_object();
    enum outcome outcome;
    if (text && !root) {
        json_decref(known);
        return ft_fail(error, FT_FORMAT, 0, "%s: line %d: %.120s", option, where.line, where.text);
    }
    if (!text) {
        outcome = make_all(&qa, known, seed, is_hotpot);
    } else {
        outcome = is_hotpot ? take_hotpot(&qa, known, root) : take_squad(&qa, known, root);
    }
    json_decref(root);
    json_decref(known);
    if (outcome == TAKEN) {
        *out = qa;
        return FT_OK;
    }
    uint32_t n = qa.n_question;
    ft_ruler__qa_done(&qa);
    return outcome == NO_MEMORY
               ? ft_fail(error, FT_NOMEM, 0, "not enough memory for questions")
               : ft_fail(error, FT_FORMAT, n, "%s: not %s behind question %u, expected %s", option,
                         is_hotpot ? "HotpotQA" : "SQuAD 2", n,
                         is_hotpot ? "[{question, answer, context: [[title, [sentence]]]}]"
                                   : "{data: [{paragraphs: [{context, qas}]}]}");
}

ft_status ft_ruler__squad(const char *text, uint64_t seed, struct ft_qa *out,
                          struct ft_error *error) {
    return read_qa(text, seed, false, out, error);
}

ft_status ft_ruler__hotpot(const char *text, uint64_t seed, struct ft_qa *out,
                           struct ft_error *error) {
    return read_qa(text, seed, true, out, error);
}

/* ---- samples ---- */

/* n documents: gold ones, then of the same article, then others, then all again; shuffled.
 *   out      [n] */
static bool choose_docs(const struct ft_qa *qa, const struct ft_qa_question *q,
                        struct ft_draw *draw, uint32_t *out, uint32_t n) {
    uint32_t n_more = q->n_doc - q->n_gold, n_out = 0;
    uint32_t *more = ft_ruler__choose(draw, n_more, n_more);
    uint32_t *other = ft_ruler__choose(draw, qa->n_doc, qa->n_doc);
    bool *is_own = ft_alloc(qa->n_doc, sizeof *is_own);
    bool is_good = more && other && is_own;
    for (uint32_t i = 0; is_good && i < q->n_doc; i++) {
        uint32_t doc = q->doc[i < q->n_gold ? i : q->n_gold + more[i - q->n_gold]];
        is_own[doc] = true;
        if (n_out < n) {
            out[n_out++] = doc;
        }
    }
    for (uint32_t i = 0; is_good && n_out < n; i++) {
        uint32_t doc = other[i % qa->n_doc];
        if (i >= qa->n_doc || !is_own[doc]) {
            out[n_out++] = doc;
        }
    }
    ft_free(more);
    ft_free(other);
    ft_free(is_own);
    ft_ruler__shuffle(draw, out, is_good ? n : 0);
    return is_good;
}

static char *context_of(const struct ft_qa *qa, const struct ft_qa_question *q,
                        struct ft_draw *draw, uint32_t n) {
    struct ft_ruler_text text = { 0 };
    uint32_t *doc = ft_alloc(n, sizeof *doc);
    bool is_good = doc && choose_docs(qa, q, draw, doc, n);
    for (uint32_t i = 0; is_good && i < n; i++) {
        ft_ruler__addf(&text, "%sDocument %u:\n", i > 0 ? "\n\n" : "", i + 1);
        ft_ruler__add(&text, qa->doc[doc[i]]);
    }
    text.is_bad = text.is_bad || !is_good;
    ft_free(doc);
    return ft_ruler__take(&text);
}

static ft_status build(const struct ft_ruler_order *order, const struct ft_qa *qa,
                       struct ft_sample *out, struct ft_error *error) {
    struct ft_draw draw = order->draw;
    struct ft_ruler_text text = { 0 }, prefix = { 0 };
    if (order->index >= qa->n_question) {
        return ft_fail(error, FT_LIMIT, order->index,
                       "%s has %u questions, expected one for each of at least %u samples",
                       order->task->name, qa->n_question, order->index + 1);
    }
    const struct ft_qa_question *q = &qa->question[order->index];
    char *context = context_of(qa, q, &draw, FT_MAX(order->size, q->n_gold));
    if (!context) {
        return FT_NOMEM;
    }
    const struct ft_ruler_slot slot[] = { { "context", context }, { "query", q->query } };
    ft_ruler__fill(&text, qa_form, slot, FT_COUNT(slot));
    ft_ruler__add(&prefix, qa_prefix);
    ft_free(context);
    return ft_ruler__turn(out, &text, &prefix, (const char *const *)q->answer, q->n_answer);
}

ft_status ft_ruler__qa_1(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error) {
    return build(order, &order->ruler->squad, out, error);
}

ft_status ft_ruler__qa_2(const struct ft_ruler_order *order, struct ft_sample *out,
                         struct ft_error *error) {
    return build(order, &order->ruler->hotpot, out, error);
}
