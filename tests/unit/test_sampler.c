/* SPDX-License-Identifier: Apache-2.0 */
/* test_sampler.c - drawing: greedy, distribution, filters, bias, penalties, grammar, bad input. */
#include "text_fixture.h"

#include <llama.h>
#include <math.h>

#include "base/rng.h"

enum { N_DRAW = 20000 };

static ft_model *model;
static uint32_t n_vocab;
static float *logits; /* [n_vocab] */

static struct ft_sampling greedy(void) {
    return (struct ft_sampling){ .top_p = 1.0F, .repeat_penalty = 1.0F };
}

static struct ft_sampling at_temperature(float temperature, uint64_t seed) {
    struct ft_sampling p = greedy();
    p.temperature = temperature;
    p.seed = seed;
    return p;
}

static struct ft_sampler *sampler_of(const ft_model *of, const struct ft_sampling *params) {
    struct ft_sampler *s = NULL;
    struct ft_error err = { .code = FT_OK };
    if (ft_sampler_new(of, params, &s, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return s;
}

static ft_token drawn(struct ft_sampler *s, uint32_t step) {
    struct ft_error err = { .code = FT_OK };
    ft_token id = -1;
    if (ft_sampler_draw(s, logits, step, &id, &err) != FT_OK) {
        fail_msg("step %u: %s", step, err.text);
    }
    return id;
}

static void fill(float value) {
    for (uint32_t i = 0; i < n_vocab; i++) {
        logits[i] = value;
    }
}

/* ids 100.. get logits log(p), all others are out of reach */
static void fill_p(const double *p, uint32_t n) {
    fill(-1000.0F);
    for (uint32_t i = 0; i < n; i++) {
        logits[100 + i] = (float)log(p[i]);
    }
}

static void fill_random(uint64_t seed) {
    for (uint32_t i = 0; i < n_vocab; i++) {
        logits[i] = (float)(8.0 * ft_rng_uniform(seed, 0, 0, i) - 4.0);
    }
}

/* Draw often and count ids 100..; anything else fails. */
static void count_draws(const struct ft_sampling *params, uint32_t n, uint32_t n_draw,
                        uint32_t *count) {
    struct ft_sampler *s = sampler_of(model, params);
    memset(count, 0, n * sizeof(*count));
    for (uint32_t step = 0; step < n_draw; step++) {
        ft_token id = drawn(s, step);
        if (id < 100 || (uint32_t)id >= 100 + n) {
            fail_msg("step %u: drew %d", step, id);
        }
        count[id - 100]++;
    }
    ft_sampler_free(s);
}

static double chi_square(const uint32_t *count, const double *p, uint32_t n, uint32_t n_draw) {
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double want = p[i] * n_draw;
        sum += (count[i] - want) * (count[i] - want) / want;
    }
    return sum;
}

/* ---- greedy ---- */

static void test_greedy(void **state) {
    (void)state;
    struct ft_sampling p = greedy();
    struct ft_sampler *s = sampler_of(model, &p);
    fill(-3.0F);
    assert_int_equal(drawn(s, 0), 0); /* all equal: the lowest */
    logits[77] = logits[500] = 2.5F;
    assert_int_equal(drawn(s, 1), 77);
    logits[500] = nextafterf(2.5F, 3.0F);
    assert_int_equal(drawn(s, 2), 500);
    fill(-INFINITY);
    logits[9] = -1e30F;
    assert_int_equal(drawn(s, 3), 9);
    logits[n_vocab - 1] = 1.0F;
    assert_int_equal(drawn(s, 4), (ft_token)n_vocab - 1);
    ft_sampler_free(s);
    ft_sampler_free(NULL);
    /* through the candidates (a bias that changes nothing) the answer is the same */
    struct ft_logit_bias none = { .id = 5, .bias = 0.0F };
    p.bias = &none;
    p.n_bias = 1;
    s = sampler_of(model, &p);
    fill(-3.0F);
    logits[77] = logits[500] = 2.5F;
    assert_int_equal(drawn(s, 0), 77);
    ft_sampler_free(s);
}

static void test_bad_numbers(void **state) {
    (void)state;
    struct ft_sampling params[3] = { greedy(), at_temperature(1.0F, 1), greedy() };
    params[2].grammar = "root ::= [a-z]+";
    for (int i = 0; i < 3; i++) {
        struct ft_sampler *s = sampler_of(model, &params[i]);
        struct ft_error err;
        ft_token id = -7;
        fill(0.0F);
        logits[40] = NAN;
        assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_INTERNAL);
        assert_non_null(strstr(err.text, "token 40"));
        logits[40] = INFINITY;
        assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_INTERNAL);
        fill(-INFINITY);
        assert_int_not_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_OK);
        assert_int_equal(id, -7);
        ft_sampler_free(s);
    }
}

static void test_allocates_nothing(void **state) {
    (void)state;
    struct ft_sampling params[2] = { greedy(), at_temperature(0.7F, 1) };
    params[1].top_k = 40;
    params[1].top_p = 0.9F;
    params[1].min_p = 0.05F;
    params[1].repeat_penalty = 1.1F;
    params[1].repeat_last_n = 64;
    fill_random(1);
    for (int i = 0; i < 2; i++) {
        struct ft_sampler *s = sampler_of(model, &params[i]);
        uint64_t before = ft_alloc_count();
        for (uint32_t step = 0; step < 100; step++) {
            ft_sampler_accept(s, drawn(s, step));
        }
        assert_int_equal(ft_alloc_count(), before);
        ft_sampler_free(s);
    }
}

/* ---- the draw ---- */

static void test_deterministic(void **state) {
    (void)state;
    struct ft_sampling p = at_temperature(1.0F, 42), q = at_temperature(1.0F, 43);
    struct ft_sampler *a = sampler_of(model, &p), *b = sampler_of(model, &p),
                      *c = sampler_of(model, &q);
    uint32_t n_step_differs = 0, n_seed_differs = 0;
    fill_random(2);
    ft_token last = -1;
    for (uint32_t step = 0; step < 200; step++) {
        ft_token id = drawn(a, step);
        assert_int_equal(drawn(b, step), id);
        assert_int_equal(drawn(a, step), id); /* nothing but (seed, step) counts */
        n_step_differs += id != last;
        n_seed_differs += drawn(c, step) != id;
        last = id;
    }
    assert_true(n_step_differs > 190);
    assert_true(n_seed_differs > 190);
    ft_sampler_free(a);
    ft_sampler_free(b);
    ft_sampler_free(c);
}

static void test_distribution(void **state) {
    (void)state;
    static const double p[8] = { 0.30, 0.20, 0.15, 0.12, 0.10, 0.07, 0.04, 0.02 };
    uint32_t count[8];
    fill_p(p, 8);
    struct ft_sampling params = at_temperature(1.0F, 7);
    count_draws(&params, 8, N_DRAW, count);
    double chi = chi_square(count, p, 8, N_DRAW);
    assert_true(chi < 24.3); /* 7 degrees of freedom, p = 0.001 */
    /* temperature 2: p^(1/2), normalised */
    double warm[8], sum = 0.0;
    for (int i = 0; i < 8; i++) {
        sum += warm[i] = sqrt(p[i]);
    }
    for (int i = 0; i < 8; i++) {
        warm[i] /= sum;
    }
    params = at_temperature(2.0F, 8);
    count_draws(&params, 8, N_DRAW, count);
    assert_true(chi_square(count, warm, 8, N_DRAW) < 24.3);
    assert_true(chi_square(count, p, 8, N_DRAW) > 500.0); /* and the test can tell them apart */
    /* next to nothing: the best one */
    params = at_temperature(1e-30F, 9);
    count_draws(&params, 8, 200, count);
    assert_int_equal(count[0], 200);
}

static void test_filters(void **state) {
    (void)state;
    static const double p[5] = { 0.40, 0.30, 0.15, 0.10, 0.05 };
    uint32_t count[5];
    fill_p(p, 5);
    struct ft_sampling params = at_temperature(1.0F, 11);
    params.top_k = 1;
    count_draws(&params, 5, 300, count);
    assert_int_equal(count[0], 300);
    params.top_k = 3;
    count_draws(&params, 5, N_DRAW, count);
    static const double three[5] = { 0.40 / 0.85, 0.30 / 0.85, 0.15 / 0.85, 0, 0 };
    assert_int_equal(count[3] + count[4], 0);
    assert_true(chi_square(count, three, 3, N_DRAW) < 13.8); /* 2 degrees of freedom, p = 0.001 */
    params = at_temperature(1.0F, 12);
    params.top_p = 0.65F;
    count_draws(&params, 5, 2000, count);
    assert_int_equal(count[2] + count[3] + count[4], 0);
    assert_true(count[1] > 500);
    params.top_p = 0.0F;
    count_draws(&params, 5, 200, count);
    assert_int_equal(count[0], 200);
    params = at_temperature(1.0F, 13);
    params.min_p = 0.3F; /* at least 0.12 here */
    count_draws(&params, 5, 2000, count);
    assert_int_equal(count[3] + count[4], 0);
    assert_true(count[2] > 150);
    /* filters look at the distribution before the temperature, as llama.cpp's do */
    params.temperature = 100.0F;
    count_draws(&params, 5, 2000, count);
    assert_int_equal(count[3] + count[4], 0);
}

static void test_bias(void **state) {
    (void)state;
    static const double p[3] = { 0.5, 0.3, 0.2 };
    uint32_t count[3];
    fill_p(p, 3);
    struct ft_logit_bias bias[2] = { { 100, -INFINITY }, { 102, 1.0F } };
    struct ft_sampling params = at_temperature(1.0F, 21);
    params.bias = bias;
    params.n_bias = 2;
    count_draws(&params, 3, N_DRAW, count);
    double sum = 0.3 + 0.2 * exp(1.0);
    const double want[2] = { 0.3 / sum, 0.2 * exp(1.0) / sum };
    assert_int_equal(count[0], 0);
    assert_true(chi_square(count + 1, want, 2, N_DRAW) < 10.8); /* 1 degree of freedom, p = 0.001 */
    /* the list is copied */
    params.temperature = 0.0F;
    struct ft_sampler *s = sampler_of(model, &params);
    bias[0].bias = 100.0F;
    assert_int_equal(drawn(s, 0), 102);
    ft_sampler_free(s);
    /* everything forbidden */
    struct ft_logit_bias *all = calloc(n_vocab, sizeof(*all));
    assert_non_null(all);
    for (uint32_t i = 0; i < n_vocab; i++) {
        all[i] = (struct ft_logit_bias){ (ft_token)i, -INFINITY };
    }
    params.bias = all;
    params.n_bias = n_vocab;
    s = sampler_of(model, &params);
    struct ft_error err;
    ft_token id;
    assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_ARG);
    assert_non_null(strstr(err.text, "forbidden"));
    ft_sampler_free(s);
    free(all);
}

static void test_penalty(void **state) {
    (void)state;
    struct ft_sampling params = greedy();
    params.repeat_penalty = 2.0F;
    params.repeat_last_n = 2;
    struct ft_sampler *s = sampler_of(model, &params);
    fill(-10.0F);
    logits[10] = 3.0F;
    logits[11] = 2.0F;
    logits[12] = 1.7F;
    logits[13] = -0.5F;
    assert_int_equal(drawn(s, 0), 10);
    ft_sampler_accept(s, 10); /* 1.5 */
    assert_int_equal(drawn(s, 1), 11);
    ft_sampler_accept(s, 11); /* 1.0 */
    assert_int_equal(drawn(s, 2), 12);
    ft_sampler_accept(s, 12); /* 0.85; 10 has left the window */
    assert_int_equal(drawn(s, 3), 10);
    ft_sampler_accept(s, -1);
    ft_sampler_accept(s, INT32_MAX); /* ids that do not exist are ignored */
    assert_int_equal(drawn(s, 3), 10);
    ft_sampler_accept(s, 10);
    ft_sampler_reset(s);
    assert_int_equal(drawn(s, 0), 10);
    ft_sampler_free(s);
    /* negative logits are multiplied: they fall, too */
    s = sampler_of(model, &params);
    fill(-0.9F);
    logits[13] = -0.5F;
    ft_sampler_accept(s, 13);
    assert_int_equal(drawn(s, 0), 0);
    ft_sampler_free(s);
}

/* ---- the padded tail ---- */

static void test_tail(void **state) {
    (void)state;
    ft_model *padded = text_model_edited(
        "tail", "token 4094 spare1; toktype 4094 5; token 4095 spare2; toktype 4095 5");
    assert_int_equal(ft_model_hparams(padded)->n_vocab_real, 4094);
    struct ft_sampling params[4] = { greedy(), at_temperature(1.0F, 3), at_temperature(5.0F, 4),
                                     greedy() };
    params[2].top_k = 50;
    params[3].grammar = "root ::= .*";
    fill_random(5);
    logits[4094] = logits[4095] = 50.0F;
    for (int i = 0; i < 4; i++) {
        struct ft_sampler *s = sampler_of(padded, &params[i]);
        for (uint32_t step = 0; step < 300; step++) {
            assert_true(drawn(s, step) < 4094);
        }
        ft_sampler_free(s);
    }
    struct ft_logit_bias bias = { 4094, 1.0F };
    struct ft_sampler *s = NULL;
    params[0].bias = &bias;
    params[0].n_bias = 1;
    assert_int_equal(ft_sampler_new(padded, &params[0], &s, NULL), FT_ARG);
    ft_model_close(padded);
}

/* ---- grammar ---- */

/* Draw until the end with logits that change at every step; -> the text. */
static void written(struct ft_sampler *s, uint64_t seed, char *out, size_t cap) {
    size_t n = 0;
    ft_sampler_reset(s);
    for (uint32_t step = 0; step < 200; step++) {
        fill_random(seed * 1000 + step);
        ft_token id = drawn(s, step);
        ft_sampler_accept(s, id);
        if (ft_token_is_end(model, id)) {
            out[n] = '\0';
            return;
        }
        n += ft_token_piece(model, id, false, out + n, cap - n - 1);
        assert_true(n < cap - 1);
    }
    out[n] = '\0';
    fail_msg("no end: %s", out);
}

static void test_grammar(void **state) {
    (void)state;
    struct ft_sampling params[2] = { greedy(), at_temperature(1.5F, 1) };
    uint32_t n_yes = 0, n_no = 0;
    for (int i = 0; i < 2; i++) {
        params[i].grammar = "root ::= \"yes, \\u00e9\" | \"no\"\n";
        struct ft_sampler *s = sampler_of(model, &params[i]);
        for (uint64_t seed = 0; seed < 30; seed++) {
            char text[256];
            written(s, seed, text, sizeof(text));
            n_yes += strcmp(text, "yes, \xC3\xA9") == 0;
            n_no += strcmp(text, "no") == 0;
        }
        ft_sampler_free(s);
    }
    assert_int_equal(n_yes + n_no, 60);
    assert_true(n_yes > 0 && n_no > 0);
}

static bool is_list(const char *text) {
    if (*text++ != '[') {
        return false;
    }
    for (;;) {
        size_t n = strspn(text, "0123456789");
        if (n < 1 || n > 3) {
            return false;
        }
        text += n;
        if (*text != ',') {
            return strcmp(text, "]") == 0;
        }
        text++;
    }
}

static void test_grammar_rules(void **state) {
    (void)state;
    struct ft_sampling params = at_temperature(1.0F, 5);
    params.grammar = "# a list\nroot ::= \"[\" num (\",\" num){0,4} \"]\"\nnum ::= [0-9]{1,3}\n";
    struct ft_sampler *s = sampler_of(model, &params);
    for (uint64_t seed = 0; seed < 30; seed++) {
        char text[256];
        written(s, seed, text, sizeof(text));
        if (!is_list(text)) {
            fail_msg("seed %llu: %s", (unsigned long long)seed, text);
        }
    }
    ft_sampler_free(s);
}

/* A token that the grammar forbids, taken by force, ends in an error and not in an exception. */
static void test_grammar_strays(void **state) {
    (void)state;
    struct ft_sampling params = greedy();
    params.grammar = "root ::= [0-9]+";
    struct ft_sampler *s = sampler_of(model, &params);
    struct ft_tokens x = text_tokens(model, "x", 1, 0), seven = text_tokens(model, "7", 1, 0);
    struct ft_error err;
    ft_token id;
    fill_random(9);
    ft_sampler_accept(s, seven.id[0]);
    assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_OK);
    ft_sampler_accept(s, x.id[0]);
    assert_int_equal(ft_sampler_draw(s, logits, 1, &id, &err), FT_ARG);
    assert_non_null(strstr(err.text, "grammar"));
    ft_sampler_reset(s);
    assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_OK);
    /* the end comes too early */
    ft_sampler_accept(s, llama_vocab_eos(llama_model_get_vocab(ft_model_vocab_llama(model))));
    assert_int_equal(ft_sampler_draw(s, logits, 1, &id, &err), FT_ARG);
    ft_sampler_free(s);
    ft_tokens_free(&x);
    ft_tokens_free(&seven);
    /* nothing in the vocabulary is allowed: a token id that is masked out */
    struct ft_logit_bias never = { 300, -INFINITY };
    params.grammar = "root ::= <[300]>";
    params.bias = &never;
    params.n_bias = 1;
    s = sampler_of(model, &params);
    assert_int_equal(ft_sampler_draw(s, logits, 0, &id, &err), FT_ARG);
    assert_non_null(strstr(err.text, "grammar"));
    ft_sampler_free(s);
}

/* With a grammar that allows half of the mass the result is the distribution over that half. */
static void test_grammar_distribution(void **state) {
    (void)state;
    struct ft_tokens a = text_tokens(model, "a", 1, 0), b = text_tokens(model, "b", 1, 0),
                     c = text_tokens(model, "c", 1, 0);
    struct ft_sampling params = at_temperature(1.0F, 31);
    params.grammar = "root ::= [ab]";
    struct ft_sampler *s = sampler_of(model, &params);
    fill(-1000.0F);
    logits[a.id[0]] = (float)log(0.1);
    logits[b.id[0]] = (float)log(0.3);
    logits[c.id[0]] = (float)log(0.6);
    uint32_t count[2] = { 0 };
    for (uint32_t step = 0; step < 2000; step++) {
        ft_token id = drawn(s, step);
        assert_true(id == a.id[0] || id == b.id[0]);
        count[id == b.id[0]]++;
    }
    static const double want[2] = { 0.25, 0.75 };
    assert_true(chi_square(count, want, 2, 2000) < 10.8); /* 1 degree of freedom, p = 0.001 */
    ft_sampler_free(s);
    ft_tokens_free(&a);
    ft_tokens_free(&b);
    ft_tokens_free(&c);
}

/* ---- parameters ---- */

static void test_params(void **state) {
    (void)state;
    struct ft_logit_bias bias[] = { { 4096, 0.0F }, { -1, 0.0F }, { 1, NAN }, { 1, INFINITY } };
    struct {
        struct ft_sampling p;
        ft_status want;
        const char *word;
    } cases[14];
    size_t n = 0;
#define CASE(field, value, status, text)                                                           \
    do {                                                                                           \
        cases[n].p = greedy();                                                                     \
        cases[n].p.field = value;                                                                  \
        cases[n].want = status;                                                                    \
        cases[n++].word = text;                                                                    \
    } while (0)
    CASE(temperature, -0.1F, FT_ARG, "temperature");
    CASE(temperature, NAN, FT_ARG, "temperature");
    CASE(temperature, INFINITY, FT_ARG, "temperature");
    CASE(top_p, 1.5F, FT_ARG, "top_p");
    CASE(top_p, NAN, FT_ARG, "top_p");
    CASE(min_p, -1.0F, FT_ARG, "min_p");
    CASE(repeat_penalty, 0.0F, FT_ARG, "repeat_penalty");
    CASE(repeat_penalty, NAN, FT_ARG, "repeat_penalty");
    CASE(repeat_last_n, UINT32_MAX, FT_ARG, "repeat_last_n");
    CASE(grammar, "root ::= \"a", FT_FORMAT, "grammar line 1");
    for (int i = 0; i < 4; i++) {
        CASE(bias, &bias[i], FT_ARG, "bias");
        cases[n - 1].p.n_bias = 1;
    }
#undef CASE
    assert_int_equal(n, FT_COUNT(cases));
    for (size_t i = 0; i < n; i++) {
        struct ft_sampler *s = NULL;
        struct ft_error err;
        assert_int_equal(ft_sampler_new(model, &cases[i].p, &s, &err), cases[i].want);
        assert_null(s);
        if (strstr(err.text, cases[i].word) == NULL) {
            fail_msg("case %zu: '%s' lacks '%s'", i, err.text, cases[i].word);
        }
    }
    struct ft_sampling fine = greedy();
    fine.grammar = "";
    struct ft_sampler *s = sampler_of(model, &fine); /* an empty grammar is none */
    fill(0.0F);
    assert_int_equal(drawn(s, 0), 0);
    ft_sampler_free(s);
}

static int setup(void **state) {
    (void)state;
    model = text_model();
    n_vocab = ft_model_hparams(model)->n_vocab;
    logits = calloc(n_vocab, sizeof(*logits));
    return logits == NULL || n_vocab != 4096;
}

static int teardown(void **state) {
    (void)state;
    free(logits);
    ft_model_close(model);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_bad_numbers),
        cmocka_unit_test(test_allocates_nothing),
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_grammar),
        cmocka_unit_test(test_grammar_rules),
        cmocka_unit_test(test_grammar_strays),
        cmocka_unit_test(test_grammar_distribution),
        cmocka_unit_test(test_params),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
