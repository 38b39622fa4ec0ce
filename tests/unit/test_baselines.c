/* SPDX-License-Identifier: Apache-2.0 */
/* test_baselines.c - the KV methods that need no draft: vectors through the public interface, and
 * what each asks to watch.
 *
 * The vectors are those formulas of test_speckv.c, with KV head h shifted by h rows: worked out in
 * double by plain loops over whole softmax rows, printed with six decimals.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "score/score.h"

enum { N_HEAD = 4, N_HEAD_KV = 2, D = 2, N = 10, LOOK = 3 };

/* half a unit of the last decimal, and a little for fp32 */
static const double TOLERANCE = 6e-7;

/* The methods look at N rows of prompt; laq at LOOK rows of text behind it, too. */
static struct ft_score_output run(const char *spec) {
    float q[N_HEAD * (N + LOOK) * D], k[N_HEAD_KV * (N + LOOK) * D];
    uint32_t n_more = strncmp(spec, "laq", 3) == 0 ? LOOK : 0, n_q = N + n_more;
    struct ft_score_layer layer[2] = { { .q = q, .k = k }, { .q = q, .k = k } };
    struct ft_score_input in = { .n_prompt = N,
                                 .n_more = n_more,
                                 .n_layer = 2,
                                 .n_head = N_HEAD,
                                 .n_head_kv = N_HEAD_KV,
                                 .d = D,
                                 .layer = layer };
    struct ft_score_output out;
    struct ft_error err;
    for (uint32_t t = 0; t < n_q; t++) {
        for (uint32_t h = 0; h < N_HEAD_KV; h++) {
            k[(h * n_q + t) * D] = (float)((3 * (t + h)) % 7) - 3;
            k[(h * n_q + t) * D + 1] = (float)((5 * (t + h)) % 4) - 1;
        }
        for (uint32_t g = 0; g < N_HEAD; g++) {
            q[(g * n_q + t) * D] = (float)((t + g) % 3) - 1;
            q[(g * n_q + t) * D + 1] = (float)((2 * t + g) % 5) - 2;
        }
    }
    if (ft_score_arrays(FT_STAGE_KV, spec, &in, &out, &err) != FT_OK) {
        fail_msg("%s: %s", spec, err.text);
    }
    assert_int_equal(out.n_head, 2 * N_HEAD_KV);
    return out;
}

static void expect_near(const char *spec, const char *what, const float *got, const double *want,
                        uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        if (!(fabs((double)got[j] - want[j]) <= TOLERANCE)) {
            fail_msg("%s: %s[%u] is %.7f want %.7f", spec, what, j, (double)got[j], want[j]);
        }
    }
}

/* One KV head of layer 0. */
static const struct vector {
    const char *spec;
    uint32_t head, n_col, n_kept;
    double mass[N], pooled[N];
    uint32_t kept[N];
} vectors[] = {
    { "snapkv:keep=6,window=3,kernel=3",
      0,
      7,
      6,
      { .074902, .034558, .087870, .165244, .217893, .051080, .050263 },
      { .074902, .087870, .165244, .217893, .217893, .217893, .051080 },
      { 3, 4, 5, 7, 8, 9 } },
    { "snapkv:keep=6,window=3,kernel=3",
      1,
      7,
      6,
      { .069026, .143117, .099847, .128143, .157694, .073227, .129818 },
      { .143117, .143117, .143117, .157694, .157694, .157694, .129818 },
      { 3, 4, 5, 7, 8, 9 } },
    { "snapkv:keep=5,window=3,kernel=3,pool=mean",
      1,
      7,
      5,
      { .069026, .143117, .099847, .128143, .157694, .073227, .129818 },
      { .070715, .103997, .123703, .128562, .119688, .120247, .067682 },
      { 2, 3, 7, 8, 9 } },
    { "snapkv:keep=6,window=3,kernel=1,group=max",
      0,
      7,
      6,
      { .117794, .035973, .112373, .180554, .270789, .064487, .056437 },
      { .117794, .035973, .112373, .180554, .270789, .064487, .056437 },
      { 0, 3, 4, 7, 8, 9 } },
    { "snapkv:keep=6,window=3,kernel=3,group=max",
      1,
      7,
      6,
      { .075678, .222492, .100284, .195204, .161360, .092214, .148992 },
      { .222492, .222492, .222492, .195204, .195204, .161360, .148992 },
      { 0, 1, 2, 7, 8, 9 } },
    /* text sees the ten keys of the prompt and none of its own */
    { "laq:keep=6,window=2,trial_window=3,kernel=3",
      0,
      8,
      6,
      { .103816, .036519, .086182, .098139, .150988, .051552, .036388, .274412 },
      { .103816, .103816, .098139, .150988, .150988, .150988, .274412, .274412 },
      { 3, 4, 6, 7, 8, 9 } },
    { "laq:keep=6,window=2,trial_window=3,kernel=3,lookahead=3",
      1,
      8,
      6,
      { .044027, .115649, .120614, .148931, .094163, .058947, .188296, .067050 },
      { .115649, .120614, .148931, .148931, .148931, .188296, .188296, .188296 },
      { 2, 5, 6, 7, 8, 9 } },
    { "laq:keep=4,window=0,trial_window=3,kernel=3",
      0,
      10,
      4,
      { .102909, .037905, .087090, .061844, .167594, .040492, .029646, .235170, .107472, .129879 },
      { .102909, .102909, .087090, .167594, .167594, .167594, .235170, .235170, .235170, .129879 },
      { 3, 6, 7, 8 } },
    { "h2o:keep=5,window=3",
      0,
      7,
      5,
      { .325795, .120007, .152959, .123828, .114385, .041892, .025678 },
      { .325795, .120007, .152959, .123828, .114385, .041892, .025678 },
      { 0, 2, 7, 8, 9 } },
    { "h2o:keep=6,window=3",
      1,
      7,
      6,
      { .268858, .242139, .116025, .092770, .129573, .046531, .044366 },
      { .268858, .242139, .116025, .092770, .129573, .046531, .044366 },
      { 0, 1, 4, 7, 8, 9 } },
    /* head 1 by itself would keep 3, 4 and 7 before 6; both heads keep what the layer says */
    { "tova:keep=5",
      0,
      9,
      5,
      { .049522, .026606, .034450, .268773, .092527, .033504, .070944, .326321, .068843 },
      { .049522, .026606, .034450, .268773, .092527, .033504, .070944, .326321, .068843 },
      { 3, 4, 6, 7, 9 } },
    { "tova:keep=5",
      1,
      9,
      5,
      { .049522, .026606, .034450, .268773, .092527, .033504, .070944, .326321, .068843 },
      { .049522, .026606, .034450, .268773, .092527, .033504, .070944, .326321, .068843 },
      { 3, 4, 6, 7, 9 } },
    /* squares: 10 0 10 5 5 4 2 13 1 9 */
    { "knorm:keep=4",
      0,
      10,
      4,
      { 3.162278, 0, 3.162278, 2.236068, 2.236068, 2, 1.414214, 3.605551, 1, 3 },
      { -3.162278, 0, -3.162278, -2.236068, -2.236068, -2, -1.414214, -3.605551, -1, -3 },
      { 1, 5, 6, 8 } },
    { "knorm:keep=4,window=2",
      0,
      8,
      4,
      { 3.162278, 0, 3.162278, 2.236068, 2.236068, 2, 1.414214, 3.605551 },
      { -3.162278, 0, -3.162278, -2.236068, -2.236068, -2, -1.414214, -3.605551 },
      { 1, 6, 8, 9 } },
    { "streamingllm:keep=7",
      1,
      7,
      7,
      { 0 },
      { 0, -1, -2, -3, -4, -5, -6 },
      { 0, 1, 2, 3, 7, 8, 9 } },
    { "streamingllm:keep=3,sinks=1",
      0,
      8,
      3,
      { 0 },
      { 0, -1, -2, -3, -4, -5, -6, -7 },
      { 0, 8, 9 } },
    /* SplitMix64's finaliser by hand, see base/rng.h */
    { "random:keep=3",
      0,
      10,
      3,
      { 0 },
      { .652448, .034012, .842966, .781499, .117730, .244918, .499550, .393545, .892718, .564723 },
      { 2, 3, 8 } },
    { "random:keep=3",
      1,
      10,
      3,
      { 0 },
      { .001029, .095702, .268113, .912505, .089353, .402850, .032448, .554553, .312714, .529903 },
      { 3, 7, 9 } },
    { "random:keep=3",
      2,
      10,
      3,
      { 0 }, /* layer 1 */
      { .423748, .054909, .164410, .947072, .808621, .326489, .066018, .789153, .754033, .187636 },
      { 3, 4, 7 } },
    { "random:keep=4,window=1,seed=7",
      0,
      9,
      4,
      { 0 },
      { .393652, .836825, .147109, .153791, .137938, .779180, .021630, .413179, .579511 },
      { 1, 5, 8, 9 } },
};

static void test_vectors(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(vectors); i++) {
        const struct vector *v = &vectors[i];
        struct ft_score_output out = run(v->spec);
        const struct ft_score_head *head = &out.head[v->head];
        assert_int_equal(head->n_mass, v->n_col);
        expect_near(v->spec, "mass", head->mass, v->mass, v->n_col);
        expect_near(v->spec, "pooled", head->pooled, v->pooled, v->n_col);
        if (head->n_kept != v->n_kept ||
            memcmp(head->kept, v->kept, v->n_kept * sizeof(*v->kept)) != 0) {
            fail_msg("%s, head %u: other rows kept", v->spec, v->head);
        }
        ft_score_free(&out);
    }
}

/* n <= keep: dense, whatever the scores say. */
static void test_within_keep(void **state) {
    (void)state;
    static const char *const specs[] = { "snapkv:keep=10,window=3", "h2o:keep=10",   "tova:keep=10",
                                         "streamingllm:keep=10",    "knorm:keep=10", "random" };
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        struct ft_score_output out = run(specs[i]);
        for (uint32_t h = 0; h < out.n_head; h++) {
            assert_int_equal(out.head[h].n_ranked, 0);
            assert_int_equal(out.head[h].n_kept, N);
            for (uint32_t j = 0; j < N; j++) {
                assert_int_equal(out.head[h].kept[j], j);
            }
        }
        ft_score_free(&out);
    }
}

static struct ft_look laq_look_of(const char *spec, const struct ft_facts *facts) {
    struct ft_choice choice;
    struct ft_look look;
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, spec, &choice, NULL), FT_OK);
    assert_false(choice.method->needs_draft || choice.method->needs_draft_text);
    choice.method->look(choice.params, facts, &look);
    assert_int_equal(look.source, FT_SOURCE_TARGET);
    ft_choice_done(&choice);
    return look;
}

static struct ft_look look_of(const char *spec, const struct ft_facts *facts) {
    struct ft_look look = laq_look_of(spec, facts);
    assert_int_equal(look.lookahead + look.refeed + look.prefill_window + look.trial_window, 0);
    return look;
}

static void test_look(void **state) {
    (void)state;
    struct ft_facts facts = { .n_prompt = 9000, .n_layer = 4, .n_predict = 99, .token_bytes = 64 };
    struct ft_look look = look_of("snapkv", &facts);
    assert_int_equal(look.column, FT_COLUMN_MASS);
    assert_int_equal(look.window, 32);
    assert_false(look.is_all_voting || look.is_group_max || look.is_layer_wide);
    assert_int_equal(look_of("snapkv:keep=63", &facts).window, 8);
    assert_true(look_of("snapkv:group=max", &facts).is_group_max);
    look = laq_look_of("laq", &facts);
    assert_int_equal(look.column, FT_COLUMN_MASS);
    assert_true(look.window == 8 && look.trial_window == 32 && look.lookahead == 8);
    assert_true(look.is_prompt_only && look.fold == FT_FOLD_MEAN && look.refeed == 0);
    assert_int_equal(laq_look_of("laq:keep=63", &facts).trial_window, 8);
    assert_int_equal(laq_look_of("laq:keep=63,window=9", &facts).trial_window, 9);
    look = look_of("h2o", &facts);
    assert_true(look.is_all_voting && look.column == FT_COLUMN_MASS && look.window == 32);
    look = look_of("keyformer:keep=1000", &facts);
    assert_true(look.window == 300 && look.n_observed == 9000 && look.is_evicting);
    look = look_of("keyformer:keep=50%,recent=20,window=32", &facts);
    assert_true(look.window == 900 && look.n_observed == 32);
    assert_int_equal(look_of("keyformer:keep=3", &facts).window, 1);
    look = look_of("corm:window=300", &facts);
    assert_true(look.window == 256 && look.n_observed == 300 && look.n_spared == 300);
    look = look_of("tova", &facts);
    assert_true(look.is_layer_wide && look.column == FT_COLUMN_MASS && look.window == 1);
    look = look_of("streamingllm:keep=10%", &facts);
    assert_int_equal(look.column, FT_COLUMN_NONE);
    assert_int_equal(look.window, 896);
    assert_int_equal(look_of("knorm", &facts).column, FT_COLUMN_NORM);
    assert_int_equal(look_of("knorm", &facts).window, 0);
    assert_int_equal(look_of("random:window=5", &facts).column, FT_COLUMN_NONE);
}

static void expect_refusal(const char *spec, const char *part) {
    struct ft_choice choice;
    struct ft_error err;
    assert_int_equal(ft_choice_parse(FT_STAGE_KV, spec, &choice, &err), FT_ARG);
    if (strstr(err.text, part) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", spec, err.text, part);
    }
}

static void test_refusals(void **state) {
    (void)state;
    expect_refusal("streamingllm:keep=4", "sinks is 4, expected less than keep, which is 4");
    expect_refusal("streamingllm:keep=3", "sinks is 4, expected less than keep, which is 3");
    expect_refusal("streamingllm:sinks=0", "expected 1..65536");
    expect_refusal("tova:keep=1", "window is 1, expected less than keep");
    expect_refusal("snapkv:keep=8", "window is 8, expected less than keep");
    expect_refusal("corm:keep=256", "recent is 256, expected less than keep, which is 256");
    expect_refusal("corm:window=0", "window is \"0\", expected 1..16777216");
    expect_refusal("corm:budget=ada", "votes say how many rows stay in each head");
    expect_refusal("corm:budget=pyramid", "votes say how many rows stay in each layer");
    expect_refusal("corm:rank=critical", "nothing is ranked");
    expect_refusal("corm:group=max", "expected any|mean");
    expect_refusal("keyformer:keep=1", "recent is 1, expected less than keep, which is 1");
    expect_refusal("keyformer:recent=100", "expected 1..99");
    expect_refusal("keyformer:tau=0", "expected 1..1000000");
    expect_refusal("keyformer:noise=gaussian", "expected gumbel|none");
    expect_refusal("h2o:kernel=3", "h2o has no parameter \"kernel\"");
    expect_refusal("random:seed=-1", "expected 0..2147483647");
    expect_refusal("knorm:keep=0", "keep is \"0\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_within_keep),
        cmocka_unit_test(test_look),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
