/* SPDX-License-Identifier: Apache-2.0 */
/* test_matrix.c - what `foretoken methods --matrix` says, run: a cell that runs reads a prompt, drops
 * rows and answers; one that does not is refused with that very reason. */
#include "engine_fixture.h"
#include "eval/eval.h"

#define MODEL                                                                                      \
    "--layers 2 --embd 128 --heads 4 --kv-heads 2 --head-dim 32 --ff 96 --vocab 300 --ctx 1024 "   \
    "--type f16 --sharpness 3"
/* 200 rows of 260 stay: with a residual of 64 two blocks of a head are packed. */
enum { N = 260, KEEP = 200, N_NEXT = 3, N_LAYER = 2, N_HEAD = 2, HEAD_DIM = 32, F16_ROW = 2 * 2 };

/* One format of each class: as numbers are, in blocks of a row, in blocks of 64 rows, and K and V
 * packed differently. */
static const char *const run_types[] = { "f16", "q8_0", "q4", "k4v2", "tada", "kvq", "joint" };

static bool is_run_type(const char *kv_type) {
    for (size_t i = 0; i < FT_COUNT(run_types); i++) {
        if (strcmp(run_types[i], kv_type) == 0) {
            return true;
        }
    }
    return false;
}

/* Does the method keep as many rows as it finds right, at most KEEP? */
static bool is_capped(const struct ft_matrix_cell *cell) {
    return strncmp(cell->kv, "corm", 4) == 0;
}

static struct ft_session_params params_of(const struct ft_matrix_cell *cell, char spec[160]) {
    struct ft_session_params params = ft_session_defaults();
    /* votes of few tokens, so that there are rows that they do not spare */
    const char *votes = is_capped(cell) ? ",recent=64,window=32" : "";
    snprintf(spec, 160, "%s,keep=%d%s", cell->kv, KEEP, votes);
    params.kv = spec;
    params.kv_type = cell->kv_type;
    params.n_thread = 1;
    params.n_predict = N_NEXT + 1;
    return params;
}

static void check_runs(const ft_model *model, const struct ft_matrix_cell *cell,
                       const ft_token *id) {
    char spec[160];
    struct ft_session_params params = params_of(cell, spec);
    struct ft_report report;
    struct ft_estimate said;
    struct ft_error err = { .code = FT_OK };
    ft_token next[N_NEXT];
    if (ft_estimate(model, model, &params, N, &said, &err) != FT_OK) {
        fail_msg("%s %s runs, but: %s", spec, cell->kv_type, err.text);
    }
    ft_session *s = session_made(model, model, &params);
    prompt_read(s, id, N);
    tokens_drawn(s, next, N_NEXT);
    report_of(s, &report);
    assert_int_equal(report.n_fallback, strcmp(cell->kv_type, "tada") == 0); /* 2 heads */
    /* what f16 rows of so many take, and what packing leaves of that */
    uint64_t plain = (uint64_t)N_LAYER * N_HEAD * KEEP * HEAD_DIM * F16_ROW;
    uint64_t rows = report.kv_bytes - report.kv_state_bytes;
    bool is_exact = strcmp(cell->budget, "uniform") == 0 && !is_capped(cell);
    /* a budget above half of the prompt gets no packed rows from joint; two heads get next to nothing
     * from means */
    bool is_f16 = strcmp(cell->kv_type, "f16") == 0 || strcmp(cell->kv_type, "joint") == 0;
    bool is_tada = strcmp(cell->kv_type, "tada") == 0;
    uint64_t most = is_tada ? plain : plain * 3 / 4;
    if (report.kv_bytes == 0 || report.kv_bytes >= report.kv_bytes_full + report.kv_state_bytes ||
        (is_exact && (is_f16 ? rows != plain : rows >= most)) ||
        (is_exact && report.kv_bytes != said.kv_bytes)) {
        fail_msg("%s %s: %llu bytes, %llu of them no rows, %llu said", spec, cell->kv_type,
                 (unsigned long long)report.kv_bytes, (unsigned long long)report.kv_state_bytes,
                 (unsigned long long)said.kv_bytes);
    }
    ft_session_free(s);
}

static void check_refused(const ft_model *model, const struct ft_matrix_cell *cell,
                          const ft_token *id) {
    char spec[160];
    struct ft_session_params params = params_of(cell, spec);
    struct ft_estimate said;
    struct ft_error err = { .code = FT_OK };
    ft_session *s = NULL;
    assert_int_equal(ft_estimate(model, model, &params, N, &said, &err), FT_ARG);
    assert_string_equal(err.text, cell->reason);
    ft_status status = ft_session_new(model, model, &params, &s, &err);
    if (status == FT_OK) { /* what only the prompt's plan can tell */
        status = ft_session_prompt(s, id, N, 0, &err);
        ft_session_free(s);
    }
    assert_int_equal(status, FT_ARG);
    assert_string_equal(err.text, cell->reason);
    assert_non_null(strchr(cell->reason, ','));
}

static void test_cells(void **state) {
    (void)state;
    ft_model *model = model_made("matrix", MODEL, FT_LOAD_FULL);
    struct ft_matrix_cell cell;
    ft_token id[N];
    uint32_t n = 0, n_run = 0, n_refused = 0;
    ids_random(id, N, model, 5);
    for (; ft_matrix_cell(n, &cell); n++) {
        assert_int_equal(cell.reason[0] == '\0', cell.runs);
        if (!cell.runs) {
            check_refused(model, &cell, id);
            n_refused++;
        } else if (is_run_type(cell.kv_type)) {
            check_runs(model, &cell, id);
            n_run++;
        }
    }
    print_message("%u cells: %u were run, %u are refused\n", n, n_run, n_refused);
    assert_true(n_run > 0 && n_refused > 0);
    assert_false(ft_matrix_cell(n + 1000, &cell));
    ft_model_close(model);
}

/* Every estimator with every budget, ranking and format, and what these do to it. */
static void test_names(void **state) {
    (void)state;
    struct ft_matrix_cell cell, last = { .kv = "" };
    uint32_t n_type = 0, n_estimator = 0, n = 0, seen = 0;
    while (ft_kv_type_name(n_type)) {
        assert_int_equal(ft_kv_type_check(ft_kv_type_name(n_type++), NULL), FT_OK);
    }
    assert_string_equal(ft_kv_type_name(n_type - 1), "joint");
    for (; ft_matrix_cell(n, &cell); n++) {
        bool is_tada = strcmp(cell.kv_type, "tada") == 0;
        bool is_packed = strchr("qktj", cell.kv_type[0]) != NULL;
        is_packed = is_packed && strcmp(cell.kv_type, "q8_0") != 0;
        assert_string_equal(cell.kv_type, ft_kv_type_name(n % n_type));
        assert_int_equal(n % n_type == 0, strcmp(cell.kv, last.kv) != 0);
        n_estimator += strcmp(cell.estimator, last.estimator) != 0;
        if (strcmp(cell.kv, "h2o:decode=off,budget=ada,rank=score") == 0 ||
            strcmp(cell.kv, "snapkv:budget=pyramid,rank=critical") == 0) {
            assert_int_equal(cell.runs, !is_tada); /* heads keep rows of their own */
            seen++;
        }
        if (strcmp(cell.kv, "h2o:decode=on,budget=uniform,rank=score") == 0) {
            assert_int_equal(cell.runs, !is_packed);
            assert_true(cell.runs || strstr(cell.reason, "expected decode=off, or a kv type"));
            seen++;
        }
        if (strncmp(cell.kv, "streamingllm:decode=off,positions=original,budget=ada", 53) == 0) {
            assert_non_null(strstr(cell.reason, "makes no sense"));
            seen++;
        }
        last = cell;
    }
    assert_int_equal(seen, (1 + 1 + 1 + 2) * n_type);
    /* 11 of them, h2o and tova with two ways to decode, streamingllm also with two of its positions */
    assert_int_equal(n_estimator, 11 + 1 + 1 + 3);
    assert_int_equal(n, n_estimator * 3 * 2 * n_type);
}

/* What is asked is what a run asks: of methods and formats that are none, too. */
static void test_check(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    assert_int_equal(ft_kv_check(NULL, NULL, NULL), FT_OK);
    assert_int_equal(ft_kv_check("dense", "q2", NULL), FT_OK);
    assert_int_equal(ft_kv_check("tova:keep=50%", "f16", &err), FT_OK);
    assert_int_equal(ft_kv_check("tova:keep=1MiB,decode=off", "q4", &err), FT_OK);
    assert_int_equal(ft_kv_check("tova:keep=1MiB", "k=q4", &err), FT_ARG);
    assert_non_null(strstr(err.text, "tova with kv type 'k=q4'"));
    assert_int_equal(ft_kv_check("snapkv", "q3", &err), FT_ARG);
    assert_non_null(strstr(err.text, "'q3' is unknown"));
    assert_int_equal(ft_kv_check("snapk", "q4", &err), FT_ARG);
    assert_non_null(strstr(err.text, "snapk"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
