/* SPDX-License-Identifier: Apache-2.0 */
/* test_pair.c - which models, methods and prompts go together: every refusal and every choice said
 * aloud. */
#include "engine_fixture.h"

enum { CTX = 256, DRAFT_CTX = 512, N_MAX = 1200 };

#define SMALL "--layers 2 --embd 64 --heads 4 --kv-heads 2 --ff 64 "

static struct {
    ft_model *target, *draft; /* trained for 256 and 512 tokens */
    ft_model *bos, *padded, *longer, *repacked;
    ft_token id[N_MAX];
} with;

static int models_open(void **state) {
    (void)state;
    with.target = model_made("target", SMALL "--vocab 300 --ctx 256", FT_LOAD_FULL);
    with.draft = model_made("draft", SMALL "--vocab 300 --ctx 512 --seed 5", FT_LOAD_FULL);
    with.bos = model_made("bos", SMALL "--vocab 300 --ctx 256 --bos", FT_LOAD_FULL);
    with.padded =
        model_made("padded", SMALL "--vocab 300 --pad-vocab 3000 --ctx 512", FT_LOAD_FULL);
    with.longer = model_made("longer", SMALL "--vocab 301 --ctx 512", FT_LOAD_FULL);
    with.repacked = model_made("repacked", SMALL "--vocab 300 --ctx 256 --type q4_0", FT_LOAD_FULL);
    ids_random(with.id, N_MAX, with.target, 3);
    return 0;
}

static int models_close(void **state) {
    (void)state;
    ft_model *all[] = {
        with.target, with.draft, with.bos, with.padded, with.longer, with.repacked
    };
    for (size_t i = 0; i < FT_COUNT(all); i++) {
        ft_model_close(all[i]);
    }
    return 0;
}

static struct ft_session_params params_of(const char *prompt, const char *kv) {
    struct ft_session_params params = ft_session_defaults();
    params.prompt = prompt;
    params.kv = kv;
    params.n_thread = 1;
    params.n_predict = 4;
    return params;
}

#define assert_says(err, part)                                                                     \
    do {                                                                                           \
        if (!strstr((err).text, part)) {                                                           \
            fail_msg("\"%s\" does not say \"%s\"", (err).text, part);                              \
        }                                                                                          \
    } while (0)

/* ---- refused before any work: ft_session_new ---- */

struct refusal {
    const char *name, *prompt, *kv, *kv_type;
    uint32_t self_layers, n_ctx, n_thread;
    bool has_draft, is_exact;
    float rope_scale;
    ft_status code;
    const char *says;
};

static const struct refusal refusals[] = {
    { .name = "speckv without a draft",
      .kv = "speckv",
      .code = FT_ARG,
      .says = "speckv needs a draft" },
    { .name = "specpc without a draft",
      .prompt = "specpc",
      .code = FT_ARG,
      .says = "specpc needs a draft" },
    { .name = "speckv with self:layers",
      .kv = "speckv",
      .self_layers = 1,
      .code = FT_ARG,
      .says = "self:layers=1 has no output layer" },
    { .name = "decode steps of self:layers",
      .prompt = "specpc:lookahead=2",
      .self_layers = 1,
      .code = FT_ARG,
      .says = "text written by a draft" },
    { .name = "self:layers of all layers",
      .prompt = "specpc",
      .self_layers = 2,
      .code = FT_ARG,
      .says = "self:layers is 2, expected 1..1" },
    { .name = "self:layers beside a draft",
      .prompt = "specpc",
      .self_layers = 1,
      .has_draft = true,
      .code = FT_ARG,
      .says = "no other draft" },
    { .name = "an unknown method", .kv = "snapkw", .code = FT_ARG, .says = "there are: " },
    { .name = "a method of the other stage", .kv = "specpc", .code = FT_ARG, .says = "--prompt" },
    { .name = "an unknown kv type",
      .kv_type = "q4_0",
      .code = FT_ARG,
      .says = "'q4_0' is unknown, expected f32" },
    { .name = "q8_0 rows of heads that are no whole blocks",
      .kv_type = "q8_0",
      .code = FT_ARG,
      .says = "head size 16 of the target is not a multiple of 32" },
    { .name = "exact with q8_0 rows",
      .kv_type = "q8_0",
      .is_exact = true,
      .code = FT_ARG,
      .says = "exact runs store f32 rows" },
    { .name = "exact with f16 rows",
      .kv_type = "f16",
      .is_exact = true,
      .code = FT_ARG,
      .says = "exact" },
    { .name = "a context beyond the trained one",
      .n_ctx = CTX + 1,
      .code = FT_LIMIT,
      .says = "256 tokens" },
    { .name = "too many threads", .n_thread = 257, .code = FT_ARG, .says = "threads is 257" },
    { .name = "a negative rope scale", .rope_scale = -2, .code = FT_ARG, .says = "rope scale" },
    { .name = "a rope scale below 1", .rope_scale = 0.5f, .code = FT_ARG, .says = "rope scale" },
    { .name = "an endless rope scale",
      .rope_scale = INFINITY,
      .code = FT_ARG,
      .says = "rope scale is inf" },
    { .name = "a rope scale that is no number",
      .rope_scale = NAN,
      .code = FT_ARG,
      .says = "rope scale" },
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(refusals); i++) {
        const struct refusal *r = &refusals[i];
        struct ft_session_params params = params_of(r->prompt, r->kv);
        struct ft_error err = { .code = FT_OK };
        ft_session *s = NULL;
        params.kv_type = r->kv_type;
        params.self_layers = r->self_layers;
        params.n_ctx = r->n_ctx;
        params.n_thread = r->n_thread ? r->n_thread : 1;
        params.is_exact = r->is_exact;
        params.rope_scale = r->rope_scale;
        ft_status status =
            ft_session_new(with.target, r->has_draft ? with.draft : NULL, &params, &s, &err);
        if (status != r->code || s != NULL) {
            fail_msg("%s: %s, expected %s", r->name, ft_status_text(status),
                     ft_status_text(r->code));
        }
        assert_int_equal(err.code, r->code);
        assert_says(err, r->says);
    }
}

static void test_exact(void **state) {
    (void)state;
    struct ft_session_params params = params_of(NULL, NULL);
    struct ft_model_info info;
    struct ft_error err = { .code = FT_OK };
    ft_session *s = NULL;
    params.is_exact = true;
    ft_model_info(with.repacked, &info);
    if (info.repacked_bytes > 0) { /* this machine has a faster layout for q4_0 */
        assert_int_equal(ft_session_new(with.repacked, NULL, &params, &s, &err), FT_ARG);
        assert_says(err, "repacked");
    }
    ft_model *plain =
        model_made("repacked", SMALL "--vocab 300 --ctx 256 --type q4_0", FT_LOAD_PLAIN);
    s = session_made(plain, NULL, &params);
    prompt_read(s, with.id, 20);
    ft_session_free(s);
    params.kv = "speckv:keep=16,lookahead=2,prefill_window=64,prefill_vertical=4"; /* stock attention cannot do this */
    for (int is_strict = 0; is_strict < 2; is_strict++) {
        params.is_strict = is_strict;
        s = session_made(plain, with.draft, &params);
        assert_int_equal(ft_session_prompt(s, with.id, 100, 0, &err), is_strict ? FT_UNSUP : FT_OK);
        assert_true(is_strict || report_says(s, "exact: the vertical-slash prefill runs on "));
        ft_session_free(s);
    }
    params = params_of(NULL, NULL);
    ft_model_close(plain);
    ft_model *vocab =
        model_made("repacked", SMALL "--vocab 300 --ctx 256 --type q4_0", FT_LOAD_VOCAB);
    params.is_exact = false;
    assert_int_equal(ft_session_new(vocab, NULL, &params, &s, &err), FT_ARG);
    assert_says(err, "without weights");
    ft_model_close(vocab);
}

/* ---- vocabularies ---- */

static void test_vocabularies(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    struct ft_session_params params = params_of(NULL, "speckv:keep=16");
    ft_session *s = NULL;
    assert_int_equal(ft_pair_check(with.target, with.draft, &err), FT_OK);
    assert_int_equal(ft_pair_check(with.target, with.padded, &err), FT_OK);
    assert_int_equal(ft_pair_check(with.padded, with.target, &err), FT_OK);
    /* 300 against 301 tokens: the special ones stand behind the others, so id 296 is the first that
     * differs */
    assert_int_equal(ft_pair_check(with.target, with.longer, &err), FT_MISMATCH);
    assert_int_equal(err.where, 296);
    assert_says(err, "296");
    assert_int_equal(ft_session_new(with.target, with.longer, &params, &s, &err), FT_MISMATCH);
    assert_null(s);
    /* a padded tail on either side works, and its ids are never drafted or drawn */
    const ft_model *pairs[][2] = { { with.target, with.padded }, { with.padded, with.target } };
    for (size_t i = 0; i < FT_COUNT(pairs); i++) {
        s = session_made(pairs[i][0], pairs[i][1], &params);
        struct ft_draft_result draft = { .n_text = 0 };
        ft_token id[4];
        prompt_read(s, with.id, 100);
        assert_int_equal(ft_compress_draft(s, with.id, &draft, &err), FT_OK);
        for (uint32_t t = 0; t < draft.n_text; t++) {
            assert_in_range(draft.text[t], 0, 299);
        }
        ft_draft_result_done(&draft);
        tokens_drawn(s, id, 4);
        for (uint32_t t = 0; t < 4; t++) {
            assert_in_range(id[t], 0, 299);
        }
        ft_session_free(s);
    }
}

/* An id of the target's padded tail is no id of a draft whose table ends before it. */
static void test_tail_id(void **state) {
    (void)state;
    struct ft_session_params params = params_of(NULL, "speckv:keep=16");
    struct ft_error err = { .code = FT_OK };
    ft_token id[100];
    memcpy(id, with.id, sizeof(id));
    id[50] = 2500;
    ft_session *s = session_made(with.padded, with.target, &params);
    assert_int_equal(ft_session_prompt(s, id, 100, 0, &err), FT_ARG);
    assert_int_equal(err.where, 50);
    assert_says(err, "token 50 is 2500, expected 0..299, the ids of the draft");
    id[50] = 299;
    prompt_read(s, id, 100);
    id[10] = 2500; /* a prompt within keep is not read by the draft */
    prompt_read(s, id, 12);
    ft_session_free(s);
}

/* ---- prompts ---- */

struct reading {
    const char *name, *prompt, *kv;
    uint32_t n, n_head, self_layers, n_ctx;
    float rope_scale;
    bool has_bos, is_swapped; /* is_swapped: the target has the longer context */
    ft_status code;
    const char *says; /* the error, or a line of the report; NULL: no fallback at all */
    const char *strict_says; /* a strict run is refused with this, others are not */
    uint32_t n_kept, n_kv_kept;
};

static const struct reading readings[] = {
    { .name = "empty", .n = 0, .code = FT_ARG, .says = "empty" },
    { .name = "whole context",
      .n = CTX,
      .strict_says = "the context leaves room for 1 of the 4 tokens asked for",
      .n_kept = CTX,
      .n_kv_kept = CTX },
    { .name = "beyond the target",
      .n = CTX + 1,
      .code = FT_LIMIT,
      .says = "257 tokens is beyond the trained context of the target: 256" },
    { .name = "rope scale",
      .n = 2 * CTX,
      .rope_scale = 2,
      .strict_says = "the context leaves room for 1 of the 4 tokens asked for",
      .n_kept = 2 * CTX,
      .n_kv_kept = 2 * CTX },
    { .name = "beyond the scale",
      .n = 2 * CTX + 1,
      .rope_scale = 2,
      .code = FT_LIMIT,
      .says = "target: 512" },
    { .name = "requested context",
      .n = 101,
      .n_ctx = 100,
      .code = FT_LIMIT,
      .says = "beyond the requested context" },
    { .name = "compact lets a long prompt through",
      .prompt = "specpc:keep=200",
      .n = DRAFT_CTX,
      .n_kept = 200,
      .n_kv_kept = 200 },
    { .name = "original does not",
      .prompt = "specpc:keep=200,positions=original",
      .n = CTX + 1,
      .code = FT_LIMIT,
      .says = "trained context of the target" },
    { .name = "original within it",
      .strict_says = "the context leaves room for 1 of the 4 tokens asked for",
      .prompt = "specpc:keep=200,positions=original",
      .n = CTX,
      .n_kept = 200,
      .n_kv_kept = 200 },
    { .name = "beyond the draft",
      .prompt = "specpc:keep=200",
      .n = DRAFT_CTX + 1,
      .code = FT_LIMIT,
      .says = "513 tokens is beyond the trained context of the draft: 512" },
    { .name = "the draft's scale",
      .prompt = "specpc:keep=200",
      .n = 2 * DRAFT_CTX,
      .rope_scale = 2,
      .n_kept = 200,
      .n_kv_kept = 200 },
    { .name = "compact, yet too much is kept",
      .prompt = "specpc:keep=300",
      .n = 400,
      .code = FT_LIMIT,
      .says = "300 tokens is beyond the trained context of the target" },
    { .name = "speckv beyond the draft",
      .kv = "speckv:keep=100",
      .n = CTX + 1,
      .is_swapped = true,
      .code = FT_LIMIT,
      .says = "of the draft" },
    { .name = "within keep the draft reads nothing",
      .kv = "speckv:keep=300",
      .n = CTX + 1,
      .is_swapped = true,
      .says = "speckv: dense, 257 tokens are within keep=300",
      .n_kept = CTX + 1,
      .n_kv_kept = CTX + 1 },
    { .name = "no room for text",
      .kv = "speckv:keep=100",
      .n = CTX,
      .says = "speckv: dense, 256 tokens leave no position for look-ahead text",
      .n_kept = CTX,
      .n_kv_kept = CTX },
    { .name = "no room for text behind kept tokens",
      .prompt = "specpc:keep=200,positions=original",
      .kv = "speckv:keep=100",
      .n = CTX,
      .says = "speckv: dense, 256 tokens leave no position for look-ahead text",
      .n_kept = 200,
      .n_kv_kept = 200 },
    { .name = "little room for text",
      .kv = "speckv:keep=100,lookahead=50",
      .n = CTX - 10,
      .says = "lookahead reduced from 50 to 10",
      .n_kept = CTX - 10,
      .n_kv_kept = 100 },
    { .name = "room behind the kept tokens",
      .prompt = "specpc:keep=200",
      .kv = "speckv:keep=100,lookahead=50",
      .n = 400,
      .n_kept = 200,
      .n_kv_kept = 100 },
    { .name = "less room behind the kept tokens",
      .prompt = "specpc:keep=240",
      .kv = "speckv:keep=100,lookahead=50",
      .n = 400,
      .says = "lookahead reduced from 50 to 16",
      .n_kept = 240,
      .n_kv_kept = 100 },
    { .name = "less room in the draft",
      .prompt = "specpc:keep=200,lookahead=9",
      .n = DRAFT_CTX - 3,
      .says = "lookahead reduced from 9 to 4",
      .n_kept = 200,
      .n_kv_kept = 200 },
    { .name = "share, floored",
      .kv = "speckv:keep=25%,lookahead=2",
      .n = 203,
      .n_kept = 203,
      .n_kv_kept = 50 },
    { .name = "share of the stage's input",
      .prompt = "specpc:keep=50%,window=20",
      .kv = "speckv:keep=50%,lookahead=2",
      .n = 203,
      .n_kept = 101,
      .n_kv_kept = 50 },
    { .name = "bytes of the whole model",
      .kv = "speckv:keep=25KiB,lookahead=2",
      .n = 203,
      .n_kept = 203,
      .n_kv_kept = 100 },
    { .name = "a share below the window",
      .kv = "speckv:keep=10%,window=32",
      .n = 203,
      .code = FT_ARG,
      .says = "window is 32" },
    { .name = "a small keep has a small window",
      .kv = "speckv:keep=10%,lookahead=2",
      .n = 203,
      .n_kept = 203,
      .n_kv_kept = 20 },
    { .name = "the pattern must hold the rows",
      .kv = "speckv:keep=100,prefill_window=64,prefill_vertical=0,lookahead=2",
      .n = 203,
      .says = "prefill_vertical raised from 0 to 36",
      .n_kept = 203,
      .n_kv_kept = 100 },
    { .name = "protected tokens fit",
      .prompt = "specpc:keep=100,window=20",
      .n = 203,
      .n_head = 80,
      .n_kept = 100,
      .n_kv_kept = 100 },
    { .name = "protected tokens exceed keep",
      .prompt = "specpc:keep=100,window=20",
      .n = 203,
      .n_head = 81,
      .code = FT_LIMIT,
      .says = "81 protected tokens and a window of 20 exceed keep=100" },
    { .name = "protection off",
      .prompt = "specpc:keep=100,window=20,protect=off",
      .n = 203,
      .n_head = 81,
      .n_kept = 100,
      .n_kv_kept = 100 },
    { .name = "BOS is protected",
      .prompt = "specpc:keep=21,window=20",
      .n = 203,
      .has_bos = true,
      .n_kept = 21,
      .n_kv_kept = 21 },
    { .name = "specpc by the first layer",
      .prompt = "specpc:keep=100",
      .n = 203,
      .self_layers = 1,
      .n_kept = 100,
      .n_kv_kept = 100 },
    { .name = "specpc within keep",
      .prompt = "specpc",
      .n = 203,
      .says = "specpc: dense, the prompt of 203 tokens is within keep=1024",
      .n_kept = 203,
      .n_kv_kept = 203 },
};

static void read_one(const struct reading *r, bool is_strict) {
    struct ft_session_params params = params_of(r->prompt, r->kv);
    struct ft_error err = { .code = FT_OK };
    params.self_layers = r->self_layers;
    params.n_ctx = r->n_ctx;
    params.rope_scale = r->rope_scale;
    params.is_strict = is_strict;
    const ft_model *target = r->has_bos ? with.bos : r->is_swapped ? with.draft : with.target;
    const ft_model *draft = r->is_swapped ? with.target : with.draft;
    bool has_draft = (r->prompt || r->kv) && !r->self_layers;
    ft_session *s = session_made(target, has_draft ? draft : NULL, &params);
    ft_token first = with.id[0];
    with.id[0] = r->has_bos ? ft_model_bos(target) : first;
    ft_status status = ft_session_prompt(s, with.id, r->n, r->n_head, &err), want = r->code;
    with.id[0] = first;
    if (is_strict && want == FT_OK && (r->says || r->strict_says)) {
        want = FT_UNSUP;
    }
    if (status != want) {
        fail_msg("%s%s: %s (%s), expected %s", r->name, is_strict ? ", strict" : "",
                 ft_status_text(status), err.text, ft_status_text(want));
    }
    struct ft_report report;
    ft_session_report(s, &report);
    if (want != FT_OK) {
        assert_says(err, r->says ? r->says : r->strict_says);
        assert_null(ft_session_logits(s));
    } else {
        assert_int_equal(report.n_prompt, r->n);
        assert_int_equal(report.n_kept, r->n_kept);
        assert_int_equal(report.n_kv_kept, r->n_kv_kept);
        assert_int_equal(report.n_fallback, r->says ? 1 : 0);
        assert_true(!r->says || report_says(s, r->says));
    }
    const uint32_t *kept;
    if (r->has_bos) {
        assert_int_equal(ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &kept), r->n_kept);
        assert_int_equal(kept[0], 0);
    }
    ft_session_free(s);
}

static void test_readings(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(readings); i++) {
        read_one(&readings[i], false);
        read_one(&readings[i], true);
    }
}

/* An id that the target does not have, wherever it stands. */
static void test_ids(void **state) {
    (void)state;
    struct ft_session_params params = params_of(NULL, NULL);
    ft_session *s = session_made(with.target, NULL, &params);
    struct ft_error err = { .code = FT_OK };
    static const ft_token bad[] = { -1, 300, INT32_MAX, INT32_MIN };
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        ft_token id[4] = { 1, 2, bad[i], 3 };
        assert_int_equal(ft_session_prompt(s, id, 4, 0, &err), FT_ARG);
        assert_int_equal(err.where, 2);
        assert_says(err, "expected 0..299");
        prompt_read(s, id, 2);
        assert_int_equal(ft_session_feed(s, id, 4, NULL, &err), FT_ARG);
        assert_non_null(ft_session_logits(s)); /* a refused call leaves the timeline as it was */
        assert_int_equal(ft_session_feed(s, id, 2, NULL, &err), FT_OK);
    }
    assert_int_equal(ft_session_feed(s, bad, 0, NULL, &err), FT_ARG);
    ft_session_free(s);
}

/* --rope-scale 4 is what a file with linear scaling by 4 asks for. */
static void test_rope_scale(void **state) {
    (void)state;
    ft_model *linear = model_made("linear", SMALL "--vocab 300 --ctx 256 --rope linear", FT_LOAD_FULL);
    struct ft_session_params params = params_of(NULL, NULL);
    ft_session *want = session_made(linear, NULL, &params), *plain = session_made(with.target, NULL, &params);
    params.rope_scale = 4;
    ft_session *got = session_made(with.target, NULL, &params);
    prompt_read(want, with.id, 200);
    prompt_read(plain, with.id, 200);
    prompt_read(got, with.id, 200);
    uint32_t n_vocab = n_vocab_of(got);
    assert_same_bits("scaled", ft_session_logits(got), ft_session_logits(want), n_vocab);
    assert_true(logp_distance(ft_session_logits(got), ft_session_logits(plain), n_vocab) > 1e-3);
    ft_session_free(want);
    ft_session_free(plain);
    ft_session_free(got);
    ft_model_close(linear);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_exact),
        cmocka_unit_test(test_vocabularies), cmocka_unit_test(test_tail_id),
        cmocka_unit_test(test_readings),     cmocka_unit_test(test_ids), cmocka_unit_test(test_rope_scale),
    };
    return cmocka_run_group_tests(tests, models_open, models_close);
}
