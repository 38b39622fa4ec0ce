/* SPDX-License-Identifier: Apache-2.0 */
/* test_votes.c - methods whose voters are told one by one, CORM and Keyformer, in whole runs: what is
 * held, what changes nothing, what chance and threads may change.  Which rows leave is the question of
 * test_evict.c (by hand) and test_decode.c (a twin in double).
 */
#include "engine_fixture.h"
#include "eval/ruler.h"

enum { N_PROMPT = 600, N_STEP = 60 };

#define TARGET " --embd 64 --heads 4 --kv-heads 2 --ff 96 --vocab 300 --ctx 1024 --sharpness 3 "

static ft_session *session_for(const ft_model *model, const char *kv, uint32_t n_thread) {
    struct ft_session_params params = ft_session_defaults();
    params.kv = kv;
    params.n_thread = n_thread;
    params.n_predict = N_STEP + 1;
    return session_made(model, NULL, &params);
}

static ft_model *model_for(ft_token id[N_PROMPT]) {
    ft_model *model = model_made("q8", "--layers 3 --type q8_0" TARGET, FT_LOAD_FULL);
    ids_random(id, N_PROMPT, model, 6);
    return model;
}

static void step(ft_session *s) {
    ft_token next;
    tokens_drawn(s, &next, 1);
}

/* ---- corm ---- */

/* A memory without end: every row was once its own, so none leaves, and the answer is the dense one. */
static void test_endless(void **state) {
    (void)state;
    ft_token id[N_PROMPT], next[2][N_STEP];
    ft_model *model = model_for(id);
    struct ft_report report;
    ft_session *dense = session_for(model, NULL, 2);
    ft_session *s = session_for(model, "corm:keep=1000,recent=1,window=16777216", 2);
    prompt_read(s, id, 90); /* it says that nothing can leave */
    assert_string_equal(report_of(s, &report)->kv_method, "dense");
    assert_true(report_says(s, "corm: dense, none of the first 1000 rows leaves"));
    s->is_shortcut_off = true;
    prompt_read(dense, id, N_PROMPT);
    prompt_read(s, id, N_PROMPT);
    assert_string_equal(report_of(s, &report)->kv_method, "corm");
    assert_same_bits("prompt", ft_session_logits(s), ft_session_logits(dense), n_vocab_of(s));
    tokens_drawn(dense, next[0], N_STEP);
    tokens_drawn(s, next[1], N_STEP);
    assert_memory_equal(next[0], next[1], sizeof(next[0]));
    assert_same_bits("answer", ft_session_logits(s), ft_session_logits(dense), n_vocab_of(s));
    assert_int_equal(report_of(s, &report)->n_evicted, 0);
    ft_session_free(dense);
    ft_session_free(s);
    ft_model_close(model);
}

static uint64_t rows_of(const ft_session *s, uint32_t *least, uint32_t *most) {
    const struct ft_kv_shape *shape = ft_kv_shape_of(s->lane.kv);
    uint64_t n = 0;
    *least = UINT32_MAX;
    *most = 0;
    for (uint32_t at = 0; at < shape->n_layer * shape->n_head_kv; at++) {
        uint32_t rows = ft_kv_rows(s->lane.kv, at / shape->n_head_kv, at % shape->n_head_kv);
        n += rows;
        *least = FT_MIN(*least, rows);
        *most = FT_MAX(*most, rows);
    }
    return n;
}

/* Heads end with numbers of their own, the bytes are those of the rows, no head ever holds more than
 * keep, and no step allocates. */
static void test_ragged(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        uint32_t n, recent, keep;
    } cases[] = {
        { "corm:keep=5000,window=20,recent=9", N_PROMPT, 9, N_PROMPT + N_STEP + 1 },
        { "corm:keep=5000,window=20,recent=9,group=mean", N_PROMPT, 9, N_PROMPT + N_STEP + 1 },
        { "corm:keep=5000,window=20,recent=9,support=resident", N_PROMPT, 9,
          N_PROMPT + N_STEP + 1 },
        { "corm:keep=100,window=200,recent=9", N_PROMPT, 9, 100 },
        { "corm:keep=100,window=60,recent=9", 40, 9, 100 }, /* spared, and votes later */
        { "corm:keep=30,window=60,recent=9", 25, 9, 30 },   /* the cap is reached later */
    };
    ft_token id[N_PROMPT];
    ft_model *model = model_for(id);
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        ft_session *s = session_for(model, cases[i].spec, 2);
        struct ft_report report;
        uint32_t least, most;
        bool is_ragged = false;
        prompt_read(s, id, cases[i].n);
        uint64_t before = 0, row = ft_kv_row_bytes(s->lane.kv), n = rows_of(s, &least, &most);
        report_of(s, &report);
        assert_int_equal(report.kv_bytes, n * row);
        assert_int_equal(report.n_kv_kept, most);
        for (uint32_t t = 0; t < N_STEP; t++) {
            step(s);
            if (t == 3) {
                before = ft_alloc_count();
            }
            n = rows_of(s, &least, &most);
            is_ragged |= least < most;
            assert_in_range(least, FT_MIN(cases[i].recent, cases[i].n), most);
            assert_in_range(most, least, cases[i].keep);
            assert_int_equal(ft_kv_bytes(s->lane.kv), n * row);
        }
        assert_int_equal(ft_alloc_count(), before);
        assert_true(is_ragged || cases[i].keep < 200);
        assert_true(report_of(s, &report)->n_evicted > 0);
        ft_session_free(s);
    }
    ft_model_close(model);
}

/* `mean` is the stricter rule: a mean that is large enough has a head that is.  A prompt with one
 * voter is the same question for all of them. */
static void test_group(void **state) {
    (void)state;
    ft_token id[N_PROMPT];
    ft_model *model = model_for(id);
    ft_session *any = session_for(model, "corm:window=1,recent=1", 1);
    ft_session *mean = session_for(model, "corm:window=1,recent=1,group=mean", 1);
    prompt_read(any, id, N_PROMPT);
    prompt_read(mean, id, N_PROMPT);
    for (uint32_t at = 0; at < 6; at++) {
        uint32_t n = ft_kv_rows(any->lane.kv, at / 2, at % 2), j = 0;
        uint32_t n_mean = ft_kv_rows(mean->lane.kv, at / 2, at % 2);
        const ft_pos *pos = ft_kv_pos(any->lane.kv, at / 2, at % 2);
        assert_true(n_mean <= n && n_mean > 0);
        for (uint32_t i = 0; i < n_mean; i++, j++) {
            while (j < n && pos[j] != ft_kv_pos(mean->lane.kv, at / 2, at % 2)[i]) {
                j++;
            }
            assert_true(j < n);
        }
    }
    ft_session_free(any);
    ft_session_free(mean);
    ft_model_close(model);
}

static ft_status count(const char *text, const char *prefix, uint32_t *n, void *user,
                       struct ft_error *err) {
    const struct ft_chat chat = { .user = text, .begun = prefix, .is_plain = true };
    struct ft_tokens tokens = { 0 };
    uint32_t n_head;
    FT_TRY(ft_chat_tokens(user, &chat, &tokens, &n_head, err));
    *n = tokens.n;
    ft_tokens_free(&tokens);
    return FT_OK;
}

/* Share of the rows of one prompt of n_token that votes leave. */
static double share_of(ft_model *model, struct ft_ruler *ruler, uint32_t task, uint32_t n_token,
                       uint32_t text) {
    struct ft_sample sample = { .n_turn = 0 };
    struct ft_tokens tokens = { 0 };
    struct ft_error err = { 0 };
    struct ft_report report;
    uint32_t n_head;
    assert_int_equal(ft_ruler_make(ruler, task, n_token, text, &sample, &err), FT_OK);
    const struct ft_chat chat = { .user = sample.turn[0].text,
                                  .begun = sample.turn[0].prefix,
                                  .is_plain = true };
    assert_int_equal(ft_chat_tokens(model, &chat, &tokens, &n_head, &err), FT_OK);
    ft_session *s = session_for(model, "corm:keep=100%,window=128,recent=64", 2);
    prompt_read(s, tokens.id, tokens.n);
    report_of(s, &report);
    double share = (double)(report.kv_bytes - report.kv_state_bytes) / (double)report.kv_bytes_full;
    ft_session_free(s);
    ft_tokens_free(&tokens);
    ft_sample_done(&sample);
    return share;
}

/* What share of a text's rows votes leave, with the shipped target: the longer, the less. */
static void test_share(void **state) {
    (void)state;
    enum { N_TEXT = 3 };
    static const uint32_t lengths[] = { 512, 1024, 2048, 4096 };
    uint32_t task[FT_RULER_TASK_CAP], n_task;
    ft_model *model = model_shipped("target");
    struct ft_ruler_params params = {
        .seed = 3, .has_prefix = true, .count = count, .user = model
    };
    struct ft_ruler *ruler = NULL;
    struct ft_error err = { 0 };
    double before = 1;
    if (ft_ruler_new(&params, &ruler, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(ft_ruler_tasks("niah_single_2,chain", task, &n_task, &err), FT_OK);
    for (size_t i = 0; i < FT_COUNT(lengths); i++) {
        double share = 0;
        for (uint32_t at = 0; at < n_task * N_TEXT; at++) {
            share += share_of(model, ruler, task[at / N_TEXT], lengths[i], at % N_TEXT);
        }
        share /= n_task * N_TEXT;
        print_message("%u tokens: %.3f of the rows stay\n", lengths[i], share);
        assert_true(share < before);
        before = share;
    }
    ft_ruler_free(ruler);
    ft_model_close(model);
}

/* ---- keyformer ---- */

/* Every head holds keep rows at every step; and rows of the answer that are no longer among the newest
 * are held, in the place of the prompt's. */
static void test_held(void **state) {
    (void)state;
    enum { KEEP = 40, RECENT = 4 };
    ft_token id[N_PROMPT];
    ft_model *model = model_for(id);
    /* one voter of the prompt: what 600 of them gave 60 tokens do not reach */
    ft_session *s = session_for(model, "keyformer:keep=40,recent=10,window=1", 2);
    uint32_t least, most, n_key = 0;
    prompt_read(s, id, N_PROMPT);
    for (uint32_t t = 0; t < N_STEP; t++) {
        (void)rows_of(s, &least, &most);
        assert_int_equal(least, KEEP);
        assert_int_equal(most, KEEP);
        step(s);
    }
    for (uint32_t at = 0; at < 6; at++) {
        const ft_pos *pos = ft_kv_pos(s->lane.kv, at / 2, at % 2);
        for (uint32_t j = 0; j < KEEP - RECENT; j++) {
            n_key += pos[j] >= N_PROMPT;
        }
        for (uint32_t j = KEEP - RECENT; j < KEEP; j++) { /* the newest are there, all of them */
            assert_int_equal(pos[j], pos[KEEP - 1] - (ft_pos)(KEEP - 1 - j));
        }
    }
    assert_true(n_key > 0);
    ft_session_free(s);
    ft_model_close(model);
}

static uint32_t n_other(const ft_session *a, const ft_session *b) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < 6; at++) {
        n += memcmp(ft_kv_pos(a->lane.kv, at / 2, at % 2), ft_kv_pos(b->lane.kv, at / 2, at % 2),
                    ft_kv_rows(a->lane.kv, at / 2, at % 2) * sizeof(ft_pos)) != 0;
    }
    return n;
}

/* A seed is a seed; another one, or none, keeps other rows. */
static void test_seeds(void **state) {
    (void)state;
    static const char *const specs[] = { "keyformer:keep=60,seed=1", "keyformer:keep=60,seed=1",
                                         "keyformer:keep=60,seed=2",
                                         "keyformer:keep=60,noise=none" };
    ft_token id[N_PROMPT];
    ft_model *model = model_for(id);
    ft_session *s[FT_COUNT(specs)];
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        s[i] = session_for(model, specs[i], 2);
        prompt_read(s[i], id, N_PROMPT);
    }
    assert_int_equal(n_other(s[0], s[1]), 0);
    assert_true(n_other(s[0], s[2]) > 0);
    assert_true(n_other(s[0], s[3]) > 0);
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        ft_session_free(s[i]);
    }
    ft_model_close(model);
}

/* ---- both ---- */

/* The same bits for 1, 2 and 4 threads: rows, state, logits. */
static void test_threads(void **state) {
    (void)state;
    static const char *const specs[] = { "corm:keep=300,window=100,recent=9",
                                         "corm:keep=5000,window=550,recent=9,group=mean",
                                         "keyformer:keep=60,seed=4",
                                         "keyformer:keep=60,window=30,budget=ada" };
    ft_token id[N_PROMPT], next[2][N_STEP];
    ft_model *model = model_for(id);
    for (size_t i = 0; i < FT_COUNT(specs); i++) {
        ft_session *one = session_for(model, specs[i], 1);
        prompt_read(one, id, N_PROMPT);
        float *want = logits_copy(one);
        tokens_drawn(one, next[0], N_STEP);
        for (uint32_t n_thread = 2; n_thread <= 4; n_thread *= 2) {
            ft_session *s = session_for(model, specs[i], n_thread);
            prompt_read(s, id, N_PROMPT);
            assert_same_bits(specs[i], ft_session_logits(s), want, n_vocab_of(s));
            tokens_drawn(s, next[1], N_STEP);
            assert_memory_equal(next[0], next[1], sizeof(next[0]));
            assert_same_bits(specs[i], ft_session_logits(s), ft_session_logits(one), n_vocab_of(s));
            for (uint32_t at = 0; at < 6; at++) {
                uint32_t l = at / 2, h = at % 2, n = ft_kv_rows(one->lane.kv, l, h);
                assert_int_equal(ft_kv_rows(s->lane.kv, l, h), n);
                assert_memory_equal(ft_kv_pos(s->lane.kv, l, h), ft_kv_pos(one->lane.kv, l, h),
                                    n * sizeof(ft_pos));
                assert_memory_equal(ft_kv_aux(s->lane.kv, l, h), ft_kv_aux(one->lane.kv, l, h),
                                    n * sizeof(float));
            }
            ft_session_free(s);
        }
        test_free(want);
        ft_session_free(one);
    }
    ft_model_close(model);
}

/* ft_evidence_lists is ft_evidence_mass of one voter and one head alone, bit for bit, for every
 * variant and row format. */
static void test_lists(void **state) {
    (void)state;
    enum { D = 32, ROWS = 150, HEADS = 6, KV_HEADS = 2, VOTERS = 5, COLS = 140 };
    static float q[VOTERS * HEADS * D], k[ROWS * D], lse[HEADS * VOTERS], out[3 * 3 * COLS];
    static float one[HEADS * COLS];
    static unsigned char rows[FT_FMT_COUNT][KV_HEADS][ROWS * D * 4];
    uint32_t vis[VOTERS] = { 3, 70, 64, 139, 150 };
    const struct ft_kern *list[FT_KERN_MOST];
    uint64_t seed = 8;
    for (size_t i = 0; i < FT_COUNT(q); i++) {
        q[i] = oracle_real(&seed) * 3;
    }
    size_t bytes = (ft_attn_scratch_bytes(3, D) + 63) / 64 * 64;
    void *scratch = aligned_alloc(64, bytes);
    assert_non_null(scratch);
    for (uint32_t v = 0, n_kern = ft_kern_list(list); v < n_kern; v++) {
        for (uint32_t fmt = 0; fmt < FT_FMT_COUNT; fmt++) {
            struct ft_span head[HEADS];
            for (uint32_t h = 0; h < KV_HEADS; h++) {
                for (size_t i = 0; i < FT_COUNT(k); i++) {
                    k[i] = oracle_real(&seed);
                }
                list[v]->encode((enum ft_fmt)fmt, k, rows[fmt][h], FT_COUNT(k));
            }
            for (uint32_t g = 0; g < HEADS; g++) {
                head[g] = (struct ft_span){ .k = rows[fmt][g / 3], .n_row = ROWS };
            }
            struct ft_span own[KV_HEADS] = { head[0], head[3] };
            struct ft_evidence_job job = { .q = q,
                                           .vis = vis,
                                           .head = own,
                                           .lse = lse,
                                           .mass = one,
                                           .n_voter = VOTERS,
                                           .n_head = HEADS,
                                           .n_head_kv = KV_HEADS,
                                           .d = D,
                                           .n_col = COLS,
                                           .k_fmt = (enum ft_fmt)fmt,
                                           .red = FT_REDUCE_MAX,
                                           .scale = .2f };
            for (uint32_t item = 0; item < ft_evidence_lse_items(&job); item++) {
                ft_evidence_lse(list[v], &job, item, scratch);
            }
            for (uint32_t h = 0; h < KV_HEADS; h++) {
                memset(out, 0x7f, sizeof(out));
                ft_evidence_lists(list[v], &job, h, 2, 3, out, scratch);
                for (uint32_t i = 0; i < 3; i++) {
                    struct ft_evidence_job single = job; /* every query head a KV head of its own */
                    float alone[HEADS];
                    for (uint32_t g = 0; g < HEADS; g++) {
                        alone[g] = lse[g * VOTERS + 2 + i];
                    }
                    single.q = q + (size_t)(2 + i) * HEADS * D;
                    single.vis = vis + 2 + i;
                    single.head = head;
                    single.lse = alone;
                    single.n_voter = 1;
                    single.n_head_kv = HEADS;
                    for (uint32_t item = 0; item < ft_evidence_mass_items(&single); item++) {
                        ft_evidence_mass(list[v], &single, item, scratch);
                    }
                    for (uint32_t g = 0; g < 3; g++) {
                        assert_same_bits(list[v]->name, out + (i * 3 + g) * COLS,
                                         one + (h * 3 + g) * COLS, COLS);
                    }
                }
            }
        }
    }
    free(scratch);
}

static void test_refusals(void **state) {
    (void)state;
    ft_model *model = model_made("plain", "--layers 2" TARGET, FT_LOAD_PLAIN);
    struct ft_session_params params = ft_session_defaults();
    struct ft_score_input in = { .n_prompt = 8 };
    struct ft_score_output out;
    struct ft_error err;
    float row[8 * 16] = { 0 };
    struct ft_score_layer layer = { .q = row, .k = row };
    ft_session *s = NULL;
    ft_token id[N_PROMPT];
    ids_random(id, N_PROMPT, model, 2);
    params.is_exact = true;
    params.kv = "corm";
    assert_int_equal(ft_session_new(model, NULL, &params, &s, &err), FT_ARG);
    assert_non_null(strstr(err.text, "corm with exact: heads keep as many rows as votes say"));
    params.kv = "keyformer:keep=40";
    s = session_made(model, NULL, &params);
    prompt_read(s, id, N_PROMPT);
    step(s);
    assert_int_equal(ft_session_repeat(s, 80, &err), FT_ARG);
    assert_non_null(strstr(err.text, "keyformer drops rows at every step"));
    ft_session_free(s);
    in.n_layer = 1;
    in.n_head = in.n_head_kv = 1;
    in.d = 16;
    in.layer = &layer;
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, "keyformer:keep=4", &in, &out, &err), FT_ARG);
    assert_non_null(strstr(err.text, "keyformer: votes count one by one"));
    assert_int_equal(ft_score_arrays(FT_STAGE_KV, "corm:recent=2,keep=4", &in, &out, &err), FT_ARG);
    ft_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_endless),  cmocka_unit_test(test_ragged),
        cmocka_unit_test(test_group),    cmocka_unit_test(test_share),
        cmocka_unit_test(test_held),     cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_lists),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("voters told one by one", tests, NULL, NULL);
}
