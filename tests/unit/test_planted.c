/* SPDX-License-Identifier: Apache-2.0 */
/* test_planted.c - a pair whose weights are set by hand: the answer depends on one row that only
 * drafted tokens find.
 *
 * The model (tools/planted.c): decoys 'X' are what every prompt query votes for; the digit in the
 * prompt is the needle, which only the query of '=' looks for; the target answers ':=' and the
 * digit, or ':=-' when the needle is gone.  The draft writes ':=-', so its second token asks; the
 * blind draft writes '::::' and never does.
 */
#include "engine_fixture.h"

enum { N_PROMPT = 385, N_ANSWER = 3, LAYER = 1, HEAD = 0 };

static ft_model *target, *draft, *blind;

static int models_open(void **state) {
    (void)state;
    char command[1024];
    snprintf(command, sizeof(command), "'%s/mkmodel' --planted '%s'", FT_TEST_BIN_DIR,
             FT_TEST_SCRATCH_DIR);
    assert_int_equal(system(command), 0);
    target = model_at(FT_TEST_SCRATCH_DIR "/target.gguf", FT_LOAD_FULL);
    draft = model_at(FT_TEST_SCRATCH_DIR "/draft.gguf", FT_LOAD_FULL);
    blind = model_at(FT_TEST_SCRATCH_DIR "/blind.gguf", FT_LOAD_FULL);
    return 0;
}

static int models_close(void **state) {
    (void)state;
    ft_model_close(target);
    ft_model_close(draft);
    ft_model_close(blind);
    return 0;
}

/* Filler, a decoy every 12 tokens of the first 260, the digit at `needle`, '?' at the end.  A token
 * is a byte. */
static void prompt_made(ft_token id[N_PROMPT], uint32_t needle, char digit) {
    static const char words[] =
        "the sea was calm and the crew slept below while the wind turned to the south ";
    for (uint32_t t = 0; t < N_PROMPT; t++) {
        id[t] = words[t % (sizeof(words) - 1)];
        if (t % 12 == 6 && t < 260) {
            id[t] = 'X';
        }
    }
    id[needle] = digit;
    id[N_PROMPT - 1] = '?';
}

static const struct method {
    const char *name, *prompt, *kv;
    bool is_blind, is_found;
} methods[] = {
    { "dense", NULL, NULL, false, true },
    { "speckv: the second drafted token asks", NULL, "speckv:keep=64,window=8,kernel=7,lookahead=2",
      false, true },
    { "speckv: all drafted tokens", NULL, "speckv:keep=64,window=8,kernel=7", false, true },
    { "speckv: the first drafted token does not ask", NULL,
      "speckv:keep=64,window=8,kernel=7,lookahead=1", false, false },
    { "speckv: a draft that never asks", NULL, "speckv:keep=64,window=8,kernel=7,lookahead=8", true,
      false },
    { "speckv: sparse prefill", NULL,
      "speckv:keep=64,window=8,kernel=7,lookahead=2,prefill_window=64,prefill_vertical=56", false,
      true },
    { "speckv: sparse prefill, nobody asks", NULL,
      "speckv:keep=64,window=8,kernel=7,lookahead=1,prefill_window=64,prefill_vertical=56", false,
      false },
    { "speckv: budgets by score", NULL, "speckv:keep=64,window=8,lookahead=2,budget=ada", false,
      true },
    { "oracle: the target's own answer asks, whatever the draft", NULL,
      "oracle:keep=64,window=8,lookahead=2", true, true },
    { "snapkv: no prompt token asks", NULL, "snapkv:keep=64,window=8,kernel=7", false, false },
    { "snapkv: budgets by score", NULL, "snapkv:keep=64,window=8,budget=ada", false, false },
    { "h2o: no prompt token asks", NULL, "h2o:keep=64,window=8", false, false },
    { "tova: the last prompt token does not ask", NULL, "tova:keep=64", false, false },
    { "streamingllm: the needle is in the middle", NULL, "streamingllm:keep=32", false, false },
    { "specpc: the third step asks", "specpc:keep=128,window=16,lookahead=3", NULL, false, true },
    { "specpc, own positions", "specpc:keep=128,window=16,lookahead=3,positions=original", NULL,
      false, true },
    { "specpc: two steps do not ask", "specpc:keep=128,window=16,lookahead=2", NULL, false, false },
    { "specpc: one step", "specpc:keep=128,window=16", NULL, false, false },
    { "specpc: a draft that never asks", "specpc:keep=128,window=16,lookahead=4", NULL, true,
      false },
    { "tail: the needle is in front", "tail:keep=24", NULL, false, false },
    { "cascade", "specpc:keep=128,window=16,lookahead=3",
      "speckv:keep=64,window=8,kernel=7,lookahead=2", false, true },
    { "cascade: the first stage drops it", "specpc:keep=128,window=16",
      "speckv:keep=64,window=8,kernel=7,lookahead=2", false, false },
    { "cascade: the second stage drops it", "specpc:keep=128,window=16,lookahead=3",
      "speckv:keep=24,window=8,kernel=7,lookahead=1", false, false },
};

/* Did the needle's row survive both stages? */
static bool is_held(const ft_session *s, uint32_t needle) {
    const uint32_t *token, *row;
    uint32_t n_token = ft_session_kept(s, FT_STAGE_PROMPT, 0, 0, &token);
    uint32_t n_row = ft_session_kept(s, FT_STAGE_KV, LAYER, HEAD, &row);
    bool is_original = s->plan.is_prompt_on && !s->plan.prompt_look.is_compact;
    for (uint32_t i = 0; i < n_row; i++) {
        uint32_t from = is_original ? row[i] : token[row[i]];
        assert_true(from < N_PROMPT && (is_original || row[i] < n_token));
        if (from == needle) {
            return true;
        }
    }
    return false;
}

static void check(const struct method *m, uint32_t needle, char digit) {
    struct ft_session_params params = ft_session_defaults();
    ft_token id[N_PROMPT], answer[N_ANSWER];
    params.prompt = m->prompt;
    params.kv = m->kv;
    params.n_thread = 1;
    params.n_predict = N_ANSWER;
    prompt_made(id, needle, digit);
    ft_session *s = session_made(target, m->is_blind ? blind : draft, &params);
    prompt_read(s, id, N_PROMPT);
    bool has_row = is_held(s, needle);
    tokens_drawn(s, answer, N_ANSWER);
    char want = m->is_found ? digit : '-';
    if (has_row != m->is_found || answer[0] != ':' || answer[1] != '=' || answer[2] != want) {
        fail_msg("%s, needle at %u: row %s, answer %c%c%c, expected :=%c", m->name, needle,
                 has_row ? "kept" : "dropped", answer[0], answer[1], answer[2], want);
    }
    ft_session_free(s);
}

static void test_method(void **state) {
    for (uint32_t i = 0; i < 10; i++) {
        check(*state, 290 + 7 * i, (char)('0' + i));
    }
}

/* The text ends at an end token, which is the last voter: ":=-" and <|eos|>. */
static void test_end_token(void **state) {
    (void)state;
    struct ft_session_params params = ft_session_defaults();
    struct ft_report report;
    ft_token id[N_PROMPT];
    params.kv = "speckv:keep=64,window=8,lookahead=10";
    params.n_thread = 1;
    prompt_made(id, 300, '4');
    ft_session *s = session_made(target, draft, &params);
    prompt_read(s, id, N_PROMPT);
    ft_session_report(s, &report);
    assert_int_equal(report.n_draft_text, 4);
    assert_int_equal(report.kv_bytes_peak, 64 * ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv)) +
                                               (N_PROMPT + 4) *
                                                   ft_kv_token_bytes(ft_kv_shape_of(s->lane.kv)) /
                                                   s->lane.n_layer);
    ft_session_free(s);
}

int main(void) {
    struct CMUnitTest tests[FT_COUNT(methods) + 1] = { cmocka_unit_test(test_end_token) };
    for (size_t i = 0; i < FT_COUNT(methods); i++) {
        tests[i + 1] = (struct CMUnitTest){ .name = methods[i].name,
                                            .test_func = test_method,
                                            .initial_state = (void *)(uintptr_t)&methods[i] };
    }
    return cmocka_run_group_tests_name("planted pair", tests, models_open, models_close);
}
