/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.c - reads GBNF the way libllama v0.5.0 does, and refuses what would hurt there.
 *
 *   bad syntax            libllama writes to stderr
 *   x{3,2}                a loop of 2^64 rounds
 *   deep nesting, chains  one stack frame each
 *   a ::= b | b, b ::= ..  2^n steps in its search for left recursion, which forgets where it was
 *   left recursion        behind a rule that is empty only indirectly: a stack grows forever
 *
 * A rule is a list of items, alternatives separated by marks.  Groups become rules without a name,
 * as in libllama; repetition is a flag (may be absent) here, because neither emptiness nor what can
 * stand first depends on the count.
 */
#include "model/grammar.h"

#include <string.h>

enum {
    TEXT_BYTES_MAX = 128 << 10,
    NEST_MAX = 200,         /* parentheses: a few frames each in both parsers */
    CHAIN_MAX = 2000,       /* rules that begin with each other */
    STEPS_MAX = 1 << 20,    /* of libllama's search for left recursion */
    REPEAT_MAX = 2000,      /* libllama's MAX_REPETITION_THRESHOLD */
    EXPANDED_MAX = 1 << 18, /* elements after repetitions are written out */
    TOKEN_BYTES_MAX = 256,  /* <text> */
    TOKEN_DIGITS_MAX = 9,   /* <[123]> */
};
#define NO_LIMIT UINT64_MAX

enum item_kind { ITEM_TERMINAL, ITEM_RULE, ITEM_OR };

struct item {
    enum item_kind kind;
    bool is_optional;
    uint32_t rule; /* ITEM_RULE */
    uint32_t next; /* index + 1 of the next item of the same rule, 0: the last */
};

struct rule {
    const char *name; /* [n] in the text; n is 0 for a group */
    size_t n;
    uint32_t first, last; /* index + 1 of items */
    bool is_defined, is_nullable, is_done, is_open;
    uint32_t n_step; /* of libllama's search from here */
};

struct parser {
    const ft_model *model;
    const char *text, *at;
    struct rule *rule;
    struct item *item;
    size_t n_rule, rule_cap, n_item, item_cap;
    uint64_t n_symbol; /* names and generated names, counted as libllama does */
    uint64_t n_expanded;
    unsigned n_nest;
    struct ft_error *err;
};

/* The last symbol of a sequence: what a repetition repeats. */
struct symbol {
    uint32_t item;      /* index + 1, 0: none */
    uint64_t n_element; /* libllama's elements */
    uint64_t n_prev_rule;
};

/* ---- errors and memory ---- */

static unsigned line_of(const struct parser *p, const char *at) {
    unsigned line = 1;
    for (const char *c = p->text; c < at; c++) {
        line += *c == '\n';
    }
    return line;
}

static ft_status fail(const struct parser *p, const char *what) {
    return ft_fail(p->err, FT_FORMAT, (uint64_t)(p->at - p->text), "grammar line %u: %s",
                   line_of(p, p->at), what);
}

static ft_status too_much(const struct parser *p, const char *what, uint64_t limit) {
    return ft_fail(p->err, FT_LIMIT, (uint64_t)(p->at - p->text),
                   "grammar line %u: %s, at most %llu", line_of(p, p->at), what,
                   (unsigned long long)limit);
}

static ft_status make_room(struct parser *p, void **list, size_t n, size_t *cap, size_t size) {
    if (n < *cap) {
        return FT_OK;
    }
    size_t more = *cap == 0 ? 64 : 2 * *cap;
    void *grown = ft_grow(*list, more, size);
    if (grown == NULL) {
        return ft_fail(p->err, FT_NOMEM, 0, "grammar: no memory for %zu parts", more);
    }
    *list = grown;
    *cap = more;
    return FT_OK;
}

static ft_status add_rule(struct parser *p, const char *name, size_t n, uint32_t *out) {
    void *list = p->rule;
    FT_TRY(make_room(p, &list, p->n_rule, &p->rule_cap, sizeof(*p->rule)));
    p->rule = list;
    p->rule[p->n_rule] = (struct rule){ .name = name, .n = n };
    *out = (uint32_t)p->n_rule++;
    p->n_symbol++;
    return FT_OK;
}

static ft_status find_rule(struct parser *p, const char *name, size_t n, uint32_t *out) {
    for (size_t i = 0; i < p->n_rule; i++) {
        if (p->rule[i].n == n && memcmp(p->rule[i].name, name, n) == 0) {
            *out = (uint32_t)i;
            return FT_OK;
        }
    }
    return add_rule(p, name, n, out);
}

static ft_status add_item(struct parser *p, uint32_t rule, enum item_kind kind, uint32_t to,
                          uint32_t *out) {
    void *list = p->item;
    FT_TRY(make_room(p, &list, p->n_item, &p->item_cap, sizeof(*p->item)));
    p->item = list;
    p->item[p->n_item] = (struct item){ .kind = kind, .rule = to };
    uint32_t index = (uint32_t)++p->n_item;
    struct rule *r = &p->rule[rule];
    if (r->last == 0) {
        r->first = index;
    } else {
        p->item[r->last - 1].next = index;
    }
    r->last = index;
    *out = index;
    return FT_OK;
}

/* ---- syntax ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c);
}

static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static void skip_space(struct parser *p, bool has_newline) {
    for (;;) {
        char c = *p->at;
        if (c == '#') {
            p->at += strcspn(p->at, "\r\n");
        } else if (c == ' ' || c == '\t' || (has_newline && (c == '\r' || c == '\n'))) {
            p->at++;
        } else {
            return;
        }
    }
}

/* One character of a literal or a class, perhaps escaped. */
static ft_status parse_char(struct parser *p) {
    if (*p->at != '\\') {
        if (*p->at == '\0') {
            return fail(p, "unexpected end");
        }
        do { /* the text is UTF-8 */
            p->at++;
        } while (((unsigned char)*p->at & 0xc0) == 0x80);
        return FT_OK;
    }
    char c = p->at[1];
    if (c != '\0' && strchr("trn\\\"[]-", c) != NULL) {
        p->at += 2;
        return FT_OK;
    }
    unsigned n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n == 0) {
        return fail(p, "unknown escape, expected \\x \\u \\U \\t \\r \\n \\\\ \\\" \\[ \\] or \\-");
    }
    p->at += 2;
    for (unsigned i = 0; i < n; i++, p->at++) {
        if (!is_hex(*p->at)) {
            return fail(p, "too few hexadecimal digits");
        }
    }
    return FT_OK;
}

static ft_status parse_literal(struct parser *p, uint64_t *n_element) {
    p->at++;
    while (*p->at != '"') {
        FT_TRY(parse_char(p));
        ++*n_element;
    }
    p->at++;
    return FT_OK;
}

static ft_status parse_class(struct parser *p, uint64_t *n_element) {
    p->at += p->at[1] == '^' ? 2 : 1;
    while (*p->at != ']') {
        FT_TRY(parse_char(p));
        ++*n_element;
        if (p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            FT_TRY(parse_char(p));
            ++*n_element;
        }
    }
    p->at++;
    return FT_OK;
}

/* <[123]> or <text>, with ! in front or not. */
static ft_status parse_token(struct parser *p) {
    p->at += *p->at == '!';
    if (*p->at != '<') {
        return fail(p, "expected '<' after '!'");
    }
    const char *start = p->at;
    size_t n = strcspn(start, ">");
    if (start[n] != '>' || n >= TOKEN_BYTES_MAX) {
        return fail(p, "token without '>'");
    }
    n++;
    if (start[1] == '[') {
        size_t n_digit = strspn(start + 2, "0123456789");
        if (n_digit == 0 || n_digit > TOKEN_DIGITS_MAX ||
            strncmp(start + 2 + n_digit, "]>", 2) != 0) {
            return fail(p, "expected a token as <[number]>");
        }
    } else {
        struct ft_tokens tokens = { .n = 0 };
        if (p->model != NULL) {
            FT_TRY(ft_tokenize(p->model, start, n, FT_TOKENIZE_SPECIAL, &tokens, p->err));
        }
        uint32_t n_token = tokens.n;
        ft_tokens_free(&tokens);
        if (n_token != 1) {
            return fail(p, "<...> is not one token of the vocabulary");
        }
    }
    p->at = start + n;
    return FT_OK;
}

static ft_status parse_count(struct parser *p, uint64_t *out) {
    size_t n = strspn(p->at, "0123456789");
    if (n == 0 || n > TOKEN_DIGITS_MAX) {
        return fail(p, "expected a number of repetitions");
    }
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        *out = *out * 10 + (uint64_t)(p->at[i] - '0');
    }
    p->at += n;
    return FT_OK;
}

/* {m} {m,} {m,n} behind the brace. */
static ft_status parse_braces(struct parser *p, bool is_nested, uint64_t *min, uint64_t *max) {
    skip_space(p, is_nested);
    FT_TRY(parse_count(p, min));
    skip_space(p, is_nested);
    *max = *min;
    if (*p->at == ',') {
        p->at++;
        skip_space(p, is_nested);
        *max = NO_LIMIT;
        if (is_digit(*p->at)) {
            FT_TRY(parse_count(p, max));
            skip_space(p, is_nested);
        }
    }
    if (*p->at != '}') {
        return fail(p, "expected '}'");
    }
    p->at++;
    if (*min > REPEAT_MAX) {
        return too_much(p, "too many repetitions", REPEAT_MAX);
    }
    if (*max < *min) {
        return fail(p, "repetition ends below its beginning");
    }
    *max = *max > REPEAT_MAX ? NO_LIMIT : *max; /* as libllama does */
    return FT_OK;
}

/* Count what libllama writes out for symbol{min,max}. */
static ft_status repeat(struct parser *p, struct symbol *s, uint64_t min, uint64_t max) {
    if (s->n_element == 0) {
        return fail(p, "nothing to repeat");
    }
    uint64_t n_option = max == NO_LIMIT ? 1 : max - min;
    uint64_t n_copy = max != NO_LIMIT && max > 0 ? max : FT_MAX(min, (uint64_t)1);
    p->n_symbol += n_option;
    p->n_expanded += s->n_element * (n_copy + 1);
    if (s->n_prev_rule * n_copy > REPEAT_MAX) {
        return too_much(p, "repetitions of repetitions multiply", REPEAT_MAX);
    }
    if (p->n_expanded > EXPANDED_MAX) {
        return too_much(p, "repetitions write out too much", EXPANDED_MAX);
    }
    if (min == 0) {
        p->item[s->item - 1].is_optional = true;
    }
    s->n_element = s->n_element * min + (n_option > 0);
    s->n_prev_rule *= n_copy;
    return FT_OK;
}

static ft_status parse_alternatives(struct parser *p, uint32_t rule, bool is_nested);

static ft_status parse_group(struct parser *p, uint32_t rule, struct symbol *s) {
    if (++p->n_nest > NEST_MAX) {
        return too_much(p, "parentheses too deep", NEST_MAX);
    }
    p->at++;
    skip_space(p, true);
    uint32_t group;
    uint64_t n_before = p->n_symbol;
    FT_TRY(add_rule(p, "", 0, &group));
    FT_TRY(parse_alternatives(p, group, true));
    if (*p->at != ')') {
        return fail(p, "expected ')'");
    }
    p->at++;
    p->n_nest--;
    s->n_prev_rule = FT_MAX(p->n_symbol - n_before, (uint64_t)1);
    s->n_element = 1;
    return add_item(p, rule, ITEM_RULE, group, &s->item);
}

static ft_status parse_reference(struct parser *p, uint32_t rule, struct symbol *s) {
    const char *name = p->at;
    uint32_t to;
    while (is_word(*p->at)) {
        p->at++;
    }
    FT_TRY(find_rule(p, name, (size_t)(p->at - name), &to));
    s->n_element = 1;
    return add_item(p, rule, ITEM_RULE, to, &s->item);
}

static ft_status parse_terminal(struct parser *p, uint32_t rule, struct symbol *s) {
    if (*p->at == '"') {
        FT_TRY(parse_literal(p, &s->n_element));
    } else if (*p->at == '[') {
        FT_TRY(parse_class(p, &s->n_element));
    } else if (*p->at == '.') {
        p->at++;
        s->n_element = 1;
    } else {
        FT_TRY(parse_token(p));
        s->n_element = 1;
    }
    p->n_expanded += s->n_element;
    /* "" and [] match the empty text */
    return s->n_element == 0 ? FT_OK : add_item(p, rule, ITEM_TERMINAL, 0, &s->item);
}

/* One symbol or one repetition; *is_end when the sequence is over. */
static ft_status parse_part(struct parser *p, uint32_t rule, bool is_nested, struct symbol *s,
                            bool *is_end) {
    char c = *p->at;
    uint64_t min = c == '+', max = c == '?' ? 1 : NO_LIMIT;
    if (c == '*' || c == '+' || c == '?' || c == '{') {
        p->at++;
        if (c == '{') {
            FT_TRY(parse_braces(p, is_nested, &min, &max));
        }
        skip_space(p, is_nested);
        return repeat(p, s, min, max);
    }
    *s = (struct symbol){ .n_prev_rule = 1 };
    if (c == '(') {
        FT_TRY(parse_group(p, rule, s));
    } else if (is_word(c)) {
        FT_TRY(parse_reference(p, rule, s));
    } else if (c == '"' || c == '[' || c == '.' || c == '<' || c == '!') {
        FT_TRY(parse_terminal(p, rule, s));
    } else {
        *is_end = true;
        return FT_OK;
    }
    skip_space(p, is_nested);
    return FT_OK;
}

static ft_status parse_alternatives(struct parser *p, uint32_t rule, bool is_nested) {
    for (;;) {
        struct symbol s = { .n_prev_rule = 1 };
        bool is_end = false;
        while (!is_end) {
            FT_TRY(parse_part(p, rule, is_nested, &s, &is_end));
        }
        if (*p->at != '|') {
            p->rule[rule].is_defined = true;
            return FT_OK;
        }
        uint32_t mark;
        FT_TRY(add_item(p, rule, ITEM_OR, 0, &mark));
        p->at++;
        skip_space(p, true);
    }
}

static ft_status parse_rule(struct parser *p) {
    const char *name = p->at;
    uint32_t rule;
    while (is_word(*p->at)) {
        p->at++;
    }
    if (p->at == name) {
        return fail(p, "expected the name of a rule");
    }
    FT_TRY(find_rule(p, name, (size_t)(p->at - name), &rule));
    skip_space(p, false);
    if (strncmp(p->at, "::=", 3) != 0) {
        return fail(p, "expected ::=");
    }
    p->at += 3;
    skip_space(p, true);
    p->rule[rule].first = p->rule[rule].last = 0; /* a second definition replaces the first */
    FT_TRY(parse_alternatives(p, rule, false));
    if (*p->at != '\0' && *p->at != '\r' && *p->at != '\n') {
        return fail(p, "expected the end of the line");
    }
    skip_space(p, true);
    return FT_OK;
}

/* ---- meaning ---- */

static ft_status fail_rule(const struct parser *p, const struct rule *r, const char *what) {
    return ft_fail(p->err, FT_FORMAT, r->n > 0 ? (uint64_t)(r->name - p->text) : 0,
                   "grammar: rule '%.*s' %s", r->n > 0 ? (int)FT_MIN(r->n, (size_t)60) : 7,
                   r->n > 0 ? r->name : "(group)", what);
}

static bool may_be_absent(const struct parser *p, const struct item *item) {
    return item->is_optional || (item->kind == ITEM_RULE && p->rule[item->rule].is_nullable);
}

static bool has_empty_alternative(const struct parser *p, const struct rule *r) {
    bool is_empty = true;
    for (uint32_t i = r->first; i != 0; i = p->item[i - 1].next) {
        const struct item *item = &p->item[i - 1];
        if (item->kind == ITEM_OR) {
            if (is_empty) {
                return true;
            }
            is_empty = true;
        } else {
            is_empty = is_empty && may_be_absent(p, item);
        }
    }
    return is_empty;
}

static ft_status find_nullable(struct parser *p) {
    bool is_changed = true;
    for (unsigned round = 0; is_changed; round++) {
        if (round > CHAIN_MAX) {
            return too_much(p, "rules that may be empty follow from each other", CHAIN_MAX);
        }
        is_changed = false;
        for (size_t i = p->n_rule; i-- > 0;) {
            struct rule *r = &p->rule[i];
            if (!r->is_nullable && has_empty_alternative(p, r)) {
                r->is_nullable = is_changed = true;
            }
        }
    }
    return FT_OK;
}

/* Walk all that can stand first, once per rule, and count the steps of a walk that forgets. */
static ft_status walk_first(struct parser *p, uint32_t rule, unsigned depth) {
    struct rule *r = &p->rule[rule];
    if (r->is_open) {
        return fail_rule(p, r, "begins with itself (left recursion)");
    }
    if (depth > CHAIN_MAX) {
        return too_much(p, "rules begin with each other", CHAIN_MAX);
    }
    r->is_open = true;
    r->n_step = 1;
    bool is_first = true;
    for (uint32_t i = r->first; i != 0; i = p->item[i - 1].next) {
        const struct item *item = &p->item[i - 1];
        if (item->kind == ITEM_OR) {
            is_first = true;
            continue;
        }
        if (is_first && item->kind == ITEM_RULE) {
            if (!p->rule[item->rule].is_done) {
                FT_TRY(walk_first(p, item->rule, depth + 1));
            }
            r->n_step += p->rule[item->rule].n_step;
            if (r->n_step > STEPS_MAX) {
                return fail_rule(p, r, "can begin in too many ways");
            }
        }
        is_first = is_first && may_be_absent(p, item);
    }
    r->is_open = false;
    r->is_done = true;
    return FT_OK;
}

static ft_status check_meaning(struct parser *p) {
    bool has_root = false;
    uint64_t n_step = 0;
    for (size_t i = 0; i < p->n_rule; i++) {
        const struct rule *r = &p->rule[i];
        if (!r->is_defined) {
            return fail_rule(p, r, "is used and not defined");
        }
        has_root = has_root || (r->n == 4 && memcmp(r->name, "root", 4) == 0);
    }
    if (!has_root) {
        return ft_fail(p->err, FT_FORMAT, 0, "grammar: no rule 'root'");
    }
    FT_TRY(find_nullable(p));
    for (uint32_t i = 0; i < p->n_rule; i++) {
        if (!p->rule[i].is_done) {
            FT_TRY(walk_first(p, i, 0));
        }
        n_step += p->rule[i].n_step;
        if (n_step > 4 * (uint64_t)STEPS_MAX) {
            return too_much(p, "rules can begin in too many ways", STEPS_MAX);
        }
    }
    return FT_OK;
}

ft_status ft_grammar_check(const ft_model *model, const char *text, struct ft_error *err) {
    size_t n = strlen(text);
    if (n > TEXT_BYTES_MAX) {
        return ft_fail(err, FT_LIMIT, 0, "grammar has %zu bytes, expected at most %d", n,
                       TEXT_BYTES_MAX);
    }
    size_t bad = ft_utf8_check(text, n);
    if (bad < n) {
        return ft_fail(err, FT_FORMAT, bad, "grammar is not UTF-8 at byte %zu", bad);
    }
    struct parser p = { .model = model, .text = text, .at = text, .err = err };
    ft_status status = FT_OK;
    skip_space(&p, true);
    while (*p.at != '\0' && status == FT_OK) {
        status = parse_rule(&p);
    }
    if (status == FT_OK) {
        status = check_meaning(&p);
    }
    ft_free(p.rule);
    ft_free(p.item);
    return status;
}
