/* SPDX-License-Identifier: Apache-2.0 */
/* test_shape.c - synthetic models: real sizes, sane weights in every format, files that appear
 * whole, engines that read them. */
#define _POSIX_C_SOURCE 200809L
#include <ggml.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_fixture.h"
#include "eval/shape.c"

static struct ft_shape_choice choice_of(const char *text) {
    struct ft_shape_choice choice;
    struct ft_error err = { .code = FT_OK };
    if (ft_shape_parse(text, &choice, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    return choice;
}

static struct file file_of(const struct ft_shape_choice *choice) {
    struct file f = { .shape = &shapes[choice->shape], .choice = choice };
    assert_int_equal(make_header(&f, NULL), FT_OK);
    return f;
}

static void file_done(struct file *f) {
    ft_free(f->tensor);
    ft_free(f->header.data);
}

/* ---- names ---- */

static void test_parse(void **state) {
    (void)state;
    static const char *const bad[] = { "",      "tiny",       "tiny:",      "tiny:q8",
                                       ":q8_0", "tinny:q8_0", "tiny:q8_0 ", "tiny:q8_0:f16" };
    struct ft_shape_choice choice = choice_of("qwen2.5-0.5b:q8_0");
    assert_string_equal(shapes[choice.shape].name, "qwen2.5-0.5b");
    assert_int_equal(choice.n_vocab, 151936);
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        struct ft_error err = { .code = FT_OK };
        assert_int_equal(ft_shape_parse(bad[i], &choice, &err), FT_ARG);
        assert_non_null(strstr(err.text, "llama-3.2-1b"));
        assert_non_null(strstr(err.text, "q4_0")); /* the end of the list is not cut off */
    }
}

/* ---- sizes: parameters of the published models, rope_freqs counted; their files ---- */

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t n_tensor;
        uint64_t n_param;
        double bytes; /* of weights, in the published file of that type */
    } cases[] = {
        { "llama-3.2-1b:q4_k_m", 147, 1235814432, 799.9e6 },
        { "llama-3.1-8b:q4_k_m", 292, 8030261312, 4912.9e6 },
        { "qwen2.5-0.5b:q8_0", 290, 494032768, 525.1e6 },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_shape_choice choice = choice_of(cases[i].name);
        struct file f = file_of(&choice);
        uint64_t n_param = 0, n_byte = 0;
        for (uint32_t t = 0; t < f.n_tensor; t++) {
            n_param += (uint64_t)f.tensor[t].ne[0] * FT_MAX(f.tensor[t].ne[1], 1u);
            n_byte += f.tensor[t].n_byte;
        }
        assert_int_equal(f.n_tensor, cases[i].n_tensor);
        assert_int_equal(n_param, cases[i].n_param);
        if (fabs((double)n_byte - cases[i].bytes) > 0.002 * cases[i].bytes) {
            fail_msg("%s: %llu bytes, expected about %.0f", cases[i].name,
                     (unsigned long long)n_byte, cases[i].bytes);
        }
        file_done(&f);
    }
}

/* In a q4_k_m file of 16 layers llama.cpp stores attn_v and ffn_down of these in 6 bits. */
static void test_fine_layers(void **state) {
    (void)state;
    static const bool fine[16] = { 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1 };
    struct ft_shape_choice choice = choice_of("llama-3.2-1b:q4_k_m");
    struct file f = file_of(&choice);
    uint32_t n_seen = 0;
    for (uint32_t t = 0; t < f.n_tensor; t++) {
        uint32_t l;
        char part_name[NAME_CAP];
        if (sscanf(f.tensor[t].name, "blk.%u.%40s", &l, part_name) != 2 ||
            (strcmp(part_name, "attn_v.weight") != 0 &&
             strcmp(part_name, "ffn_down.weight") != 0)) {
            continue;
        }
        assert_int_equal(f.tensor[t].block, fine[l] ? FT_BLOCK_Q6_K : FT_BLOCK_Q4_K);
        n_seen++;
    }
    assert_int_equal(n_seen, 32);
    assert_int_equal(f.tensor[0].block, FT_BLOCK_Q6_K); /* tied embeddings are the head */
    file_done(&f);
    choice = choice_of("qwen2.5-0.5b:q4_k_m"); /* 896 inputs are no whole blocks of 256 */
    f = file_of(&choice);
    assert_int_equal(f.tensor[0].block, FT_BLOCK_Q8_0);
    assert_int_equal(f.tensor[2].block, FT_BLOCK_Q5_0);
    file_done(&f);
}

/* ---- weights ---- */

/* Decoded by ggml: mean 0 and the deviation asked for.  2^18 numbers of deviation 1 have a mean
 * within 0.01 (5 sigma, scales shared by a block of Q4_K count) and a deviation within 1 %. */
static void test_blocks(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    float *value = test_malloc(N * sizeof(*value));
    for (uint32_t b = FT_BLOCK_F16; b < FT_BLOCK_COUNT; b++) {
        const struct ft_block_info *info = &ft_blocks[b];
        const struct ggml_type_traits *traits = ggml_get_type_traits((enum ggml_type)info->id);
        assert_int_equal(traits->blck_size, info->n);
        assert_int_equal(traits->type_size, info->n_byte);
        for (uint32_t k = 256; k <= 16384; k *= 8) {
            float deviation = 1 / sqrtf((float)k);
            uint8_t *bytes = test_malloc((size_t)N / info->n * info->n_byte);
            struct ft_draw draw = ft_draw_new(3, b * 100 + k);
            double sum = 0, sum2 = 0;
            ft_blocks_draw(&draw, (enum ft_block)b, deviation, bytes, N / info->n);
            traits->to_float(bytes, value, N);
            for (int i = 0; i < N; i++) {
                double x = (double)(value[i] / deviation);
                sum += x;
                sum2 += x * x;
            }
            double mean = sum / N, found = sqrt(sum2 / N);
            if (!(fabs(mean) < 0.01) || !(fabs(found - 1) < 0.01)) {
                fail_msg("%s, %u inputs: mean %g deviation %g, expected 0 and 1", traits->type_name,
                         k, mean, found);
            }
            test_free(bytes);
        }
    }
    test_free(value);
}

static void test_half(void **state) {
    (void)state;
    const struct ggml_type_traits *traits = ggml_get_type_traits(GGML_TYPE_F16);
    for (uint32_t i = 0; i < 0x7c00; i++) { /* every finite half is itself; its neighbourhood too */
        uint16_t half = (uint16_t)i;
        float value;
        traits->to_float(&half, &value, 1);
        if (ft_half_of(value) != half || ft_half_of(-value) != (half | 0x8000) ||
            ft_half_of(value * 1.0001f) != half) {
            fail_msg("half 0x%04x = %g does not survive", half, (double)value);
        }
    }
}

/* ---- files ---- */

static void make(const struct ft_shape_choice *choice, char path[512], bool is_new) {
    struct ft_error err = { .code = FT_OK };
    bool found = !is_new;
    if (ft_shape_make(choice, FT_TEST_SCRATCH_DIR "/a/b", path, 512, &found, &err) != FT_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(found, is_new);
}

static void test_files(void **state) {
    (void)state;
    char path[512], other[512];
    struct ft_shape_choice choice = choice_of("tiny:q8_0");
    struct stat before, after;
    unlink(FT_TEST_SCRATCH_DIR "/a/b/tiny-q8_0.gguf");
    unlink(FT_TEST_SCRATCH_DIR "/a/b/tiny-q8_0-vocab300.gguf");
    make(&choice, path, true);
    assert_int_equal(stat(path, &before), 0);
    make(&choice, path, false);
    assert_int_equal(truncate(path, before.st_size - 1), 0); /* not whole: made again */
    make(&choice, path, true);
    FILE *file = fopen(path, "r+b"); /* another model under that name */
    assert_non_null(file);
    fseek(file, 200, SEEK_SET);
    fputc('?', file);
    fclose(file);
    make(&choice, path, true);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    choice.n_vocab = 300;
    make(&choice, other, true);
    assert_string_not_equal(path, other);
    struct ft_error err = { .code = FT_OK };
    bool is_new;
    choice.n_vocab = 260;
    assert_int_equal(ft_shape_make(&choice, FT_TEST_SCRATCH_DIR, other, 512, &is_new, &err),
                     FT_ARG);
    choice.n_vocab = 512;
    assert_int_equal(ft_shape_make(&choice, path, other, 512, &is_new, &err), FT_IO);
    assert_int_equal(ft_shape_make(&choice, FT_TEST_SCRATCH_DIR, other, 20, &is_new, &err), FT_IO);
}

/* Every type is read by both engines, and makes finite logits. */
static void test_engines(void **state) {
    (void)state;
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        char name[64], path[512];
        bool is_new;
        ft_token id[40], out[4];
        struct ft_error err = { .code = FT_OK };
        struct ft_peer_report report;
        snprintf(name, sizeof(name), "tiny:%s", types[i].name);
        struct ft_shape_choice choice = choice_of(name);
        assert_int_equal(
            ft_shape_make(&choice, FT_TEST_SCRATCH_DIR, path, sizeof(path), &is_new, &err), FT_OK);
        ft_model *model = model_at(path, FT_LOAD_FULL);
        struct ft_session_params params = ft_session_defaults();
        params.n_thread = 1;
        ft_session *session = session_made(model, NULL, &params);
        ids_random(id, 40, model, 5);
        prompt_read(session, id, 40);
        const float *logit = ft_session_logits(session);
        double sum2 = 0;
        for (uint32_t v = 0; v < 512; v++) {
            assert_true(isfinite(logit[v]));
            sum2 += (double)logit[v] * (double)logit[v] / 512;
        }
        assert_true(sum2 > 0.1 && sum2 < 10); /* hidden states of a normal size */
        ft_session_free(session);
        ft_model_close(model);
        ft_peer *peer = NULL;
        if (ft_peer_open(path, 64, 1, "f16", &peer, &err) != FT_OK ||
            ft_peer_run(peer, id, 40, 4, out, &report, &err) != FT_OK) {
            fail_msg("%s: %s", name, err.text);
        }
        ft_peer_close(peer);
    }
}

/* Shapes of one run make a pair when they share a vocabulary. */
static void test_pair(void **state) {
    (void)state;
    struct ft_error err = { .code = FT_OK };
    char path[2][512];
    bool is_new;
    struct ft_shape_choice choice = choice_of("tiny:q8_0");
    struct ft_shape_choice other = choice_of("tiny:q4_0");
    for (int round = 0; round < 2; round++) {
        other.n_vocab = round == 0 ? 400 : choice.n_vocab;
        ft_shape_make(&choice, FT_TEST_SCRATCH_DIR, path[0], 512, &is_new, &err);
        ft_shape_make(&other, FT_TEST_SCRATCH_DIR, path[1], 512, &is_new, &err);
        ft_model *a = model_at(path[0], FT_LOAD_VOCAB), *b = model_at(path[1], FT_LOAD_VOCAB);
        assert_int_equal(ft_pair_check(a, b, &err), round == 0 ? FT_MISMATCH : FT_OK);
        ft_model_close(a);
        ft_model_close(b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),       cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_fine_layers), cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_half),        cmocka_unit_test(test_files),
        cmocka_unit_test(test_engines),     cmocka_unit_test(test_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
