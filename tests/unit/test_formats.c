/* SPDX-License-Identifier: Apache-2.0 */
/* test_formats.c - f16 and bf16 rows of every kernel variant against the formats' definitions, and
 * the formats' names and sizes. */
#include "kern_fixture.h"

/* The value of a half or bfloat16, from its definition. */
static double value_of(uint16_t h, int n_mantissa, int bias) {
    int exponent = (h & 0x7fff) >> n_mantissa, mantissa = h & ((1 << n_mantissa) - 1);
    double x = exponent == 0 ? ldexp(mantissa, 1 - bias - n_mantissa)
                             : ldexp(mantissa + (1 << n_mantissa), exponent - bias - n_mantissa);
    return h & 0x8000 ? -x : x;
}

static float special_float(uint64_t i) {
    static const uint32_t special[] = {
        0,          0x80000000, 1,          0x007fffff, 0x00800000, 0x33000000, 0x33000001,
        0x32ffffff, 0x33800000, 0x387fc000, 0x387fe000, 0x387fffff, 0x38800000, 0x477fefff,
        0x477ff000, 0x477fffff, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
        0xffc12345, 0x7f7f8000, 0x7f7f7fff, 0x3f808000, 0x3f818000, 0x3f801000, 0x3f803000,
    };
    uint32_t u = i < FT_COUNT(special) ? special[i] : (uint32_t)ft_rng_value(7, 0, 0, i);
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void test_decode(void **unused) {
    (void)unused;
    for (uint32_t v = 0; v < n_variant; v++) {
        for (uint32_t h = 0; h < 65536; h++) {
            uint16_t in[17];
            float f16[17], bf16[17];
            for (int i = 0; i < 17; i++) {
                in[i] = (uint16_t)h;
            }
            size_t n = 1 + h % 17;
            variants[v]->decode(FT_F16, in, f16, n);
            variants[v]->decode(FT_BF16, in, bf16, n);
            bool special = (h & 0x7c00) == 0x7c00, wide = (h & 0x7f80) == 0x7f80;
            assert_true(special ? !isfinite(f16[n - 1])
                                : (double)f16[n - 1] == value_of((uint16_t)h, 10, 15));
            assert_true(wide ? !isfinite(bf16[n - 1])
                             : (double)bf16[n - 1] == value_of((uint16_t)h, 7, 127));
            assert_int_equal(special && (h & 0x3ff) != 0, isnan(f16[n - 1]) != 0);
            assert_int_equal(wide && (h & 0x7f) != 0, isnan(bf16[n - 1]) != 0);
        }
    }
}

/* h is the nearest number of its format to x, and the even one of two that are equally near. */
static void check_nearest(float x, uint16_t h, int n_mantissa, int bias) {
    uint16_t infinity = (uint16_t)(0x7fff >> n_mantissa << n_mantissa);
    if (isnan(x)) {
        assert_true((h & 0x7fff) > infinity);
        return;
    }
    assert_int_equal(signbit(x) != 0, h >> 15);
    double size = fabs((double)x), here = value_of(h & 0x7fff, n_mantissa, bias);
    double up = value_of((uint16_t)((h & 0x7fff) + 1), n_mantissa,
                         bias); /* infinity counts as the next power of two */
    double down = (h & 0x7fff) > 0 ? value_of((uint16_t)((h & 0x7fff) - 1), n_mantissa, bias) : -1;
    if ((h & 0x7fff) == infinity) {
        assert_true(size >= (down + here) / 2);
        return;
    }
    double least = fmin(fabs(size - up), fabs(size - down)), mine = fabs(size - here);
    assert_true(mine < least || (mine == least && h % 2 == 0));
}

static void test_encode(void **unused) {
    (void)unused;
    enum { N = 20003 };
    float *x = must(malloc(N * sizeof *x));
    for (uint32_t i = 0; i < N; i++) {
        x[i] = i % 3 == 0 ? uniform(5, 0, i) * 0x1p-14f : special_float(i);
    }
    for (uint64_t i = 0; i < 40; i++) {
        x[i] = special_float(i);
    }
    for (uint32_t fmt = FT_F16; fmt <= FT_BF16; fmt++) {
        uint16_t *ref = must(malloc(N * sizeof *ref)), *got = must(malloc(N * sizeof *got));
        ft_kern_ref.encode((enum ft_fmt)fmt, x, ref, N);
        for (uint32_t i = 0; i < N; i++) {
            check_nearest(x[i], ref[i], fmt == FT_F16 ? 10 : 7, fmt == FT_F16 ? 15 : 127);
        }
        for (uint32_t v = 1; v < n_variant; v++) {
            variants[v]->encode((enum ft_fmt)fmt, x, got, N);
            assert_memory_equal(got, ref, N * sizeof *ref);
        }
        free(ref);
        free(got);
    }
    free(x);
}

static void test_format_names(void **unused) {
    (void)unused;
    for (uint32_t fmt = 0; fmt < FT_FMT_COUNT; fmt++) {
        enum ft_fmt back = FT_FMT_COUNT;
        assert_true(ft_fmt_parse(ft_fmt_name((enum ft_fmt)fmt), &back));
        assert_int_equal(back, fmt);
    }
    enum ft_fmt untouched = FT_F16;
    assert_false(ft_fmt_parse("q4", &untouched));
    assert_int_equal(untouched, FT_F16);
    assert_int_equal(ft_fmt_row_bytes(FT_F32, 24), 96);
    assert_int_equal(ft_fmt_row_bytes(FT_F16, 24) + ft_fmt_row_bytes(FT_BF16, 24), 96);
    assert_int_equal(ft_fmt_row_bytes(FT_Q8_0, 96), 102);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_format_names),
    };
    n_variant = ft_kern_list(variants);
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
