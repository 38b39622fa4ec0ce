/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv_format.c - what --kv-type takes, and what it says to the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kv/format.h"

static struct ft_kv_format parsed(const char *text) {
    struct ft_kv_format format;
    struct ft_error err = { .code = FT_OK };
    if (ft_kv_format_parse(text, &format, &err) != FT_OK ||
        ft_kv_format_fit(&format, 64, "target", &err) != FT_OK) {
        fail_msg("'%s': %s", text, err.text);
    }
    return format;
}

static void assert_pack(struct ft_pack pack, uint8_t bits, enum ft_pack_by by, uint16_t group) {
    assert_int_equal(pack.bits, bits);
    if (bits != 16) {
        assert_int_equal(pack.by, by);
        assert_int_equal(pack.group, group);
    }
}

static void test_rows(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum ft_fmt k, v;
    } cases[] = {
        { NULL, FT_F16, FT_F16 },          { "f32", FT_F32, FT_F32 },
        { "bf16", FT_BF16, FT_BF16 },      { "q8_0", FT_Q8_0, FT_Q8_0 },
        { "k=q8_0", FT_Q8_0, FT_F16 },     { "k=f32,v=bf16", FT_F32, FT_BF16 },
        { "q8_0,v=f16", FT_Q8_0, FT_F16 }, { "f16,rotate=kv", FT_F16, FT_F16 },
    };
    for (size_t i = 0; i < FT_COUNT(cases); i++) {
        struct ft_kv_format f = parsed(cases[i].text);
        assert_int_equal(f.k_fmt, cases[i].k);
        assert_int_equal(f.v_fmt, cases[i].v);
        assert_false(ft_kv_format_is_packed(&f));
        assert_int_equal(f.k_pack.bits, 0);
        assert_int_equal(f.v_pack.bits, 0);
    }
    assert_true(parsed("f16,rotate=kv").is_v_rotated);
    assert_true(parsed("rotate=k").is_k_rotated);
    assert_false(parsed("rotate=k").is_v_rotated);
}

static void test_packed(void **state) {
    (void)state;
    struct ft_kv_format f = parsed("q4");
    assert_pack(f.k_pack, 4, FT_BY_CHANNEL, 64);
    assert_pack(f.v_pack, 4, FT_BY_TOKEN, 64);
    assert_false(f.k_pack.is_value);
    assert_true(f.v_pack.is_value);
    assert_int_equal(f.residual, 64);
    assert_int_equal(f.k_fmt, FT_F16);
    f = parsed("k=q4,v=q2,group=32,residual=128");
    assert_pack(f.k_pack, 4, FT_BY_CHANNEL, 32);
    assert_pack(f.v_pack, 2, FT_BY_TOKEN, 32);
    assert_int_equal(f.residual, 128);
    f = parsed("k4v2,rotate=k,rows=f32,residual=0");
    assert_pack(f.k_pack, 4, FT_BY_CHANNEL, 64);
    assert_pack(f.v_pack, 2, FT_BY_TOKEN, 64);
    assert_int_equal(f.v_fmt, FT_F32);
    assert_int_equal(f.residual, 0);
    f = parsed("group=16,k=q8,v_group=32,k_by=token,v_by=channel,v=q2");
    assert_pack(f.k_pack, 8, FT_BY_TOKEN, 16);
    assert_pack(f.v_pack, 2, FT_BY_CHANNEL, 32);
    f = parsed("kvq,bits=3,groups=norm,group=32,norm=spectral,residual=1");
    assert_true(f.is_by_norm && f.has_norm_groups && f.is_spectral);
    assert_int_equal(f.k_pack.bits, 3);
    assert_int_equal(f.v_pack.group, 32);
    assert_false(parsed("q4").is_by_norm);
    assert_int_equal(parsed("kvq").v_pack.bits, 4);
    f = parsed("tada,bits=2");
    assert_pack(f.k_pack, 2, FT_BY_TOKEN, 64);
    assert_pack(f.v_pack, 2, FT_BY_TOKEN, 64);
    assert_true(f.is_mean);
    assert_true(parsed("q4,mean=heads").is_mean);
    f = parsed("v=q4"); /* K is stored as it is, in the same blocks */
    assert_pack(f.k_pack, 16, 0, 0);
    assert_pack(f.v_pack, 4, FT_BY_TOKEN, 64);
}

/* A group that nobody named divides the row. */
static void test_fit(void **state) {
    (void)state;
    struct ft_kv_format f;
    struct ft_error err;
    assert_int_equal(ft_kv_format_parse("q4", &f, &err), FT_OK);
    assert_int_equal(ft_kv_format_fit(&f, 96, "target", &err), FT_OK);
    assert_pack(f.v_pack, 4, FT_BY_TOKEN, 32);
    assert_pack(f.k_pack, 4, FT_BY_CHANNEL, 64);
    assert_int_equal(ft_kv_format_parse("tada,k_by=channel", &f, &err), FT_OK);
    assert_int_equal(ft_kv_format_fit(&f, 48, "target", &err), FT_OK);
    assert_pack(f.k_pack, 4, FT_BY_CHANNEL, 64); /* a block, not a row */
    assert_pack(f.v_pack, 4, FT_BY_TOKEN, 48);
    static const struct {
        const char *text;
        uint32_t d;
        const char *part;
    } bad[] = {
        { "q8_0", 40, "q8_0, but the head size 40" },
        { "q4,v_group=128", 64,
          "v_group is 128 numbers of a row, but heads of the target have 64" },
        { "q4,k_group=128", 128, "k_group is 128 rows of a channel, expected at most 64" },
        { "rotate=k", 96, "head size 96 of the target is no power of two" },
        { "q2", 40, "head size 40 of the target is not a multiple of 16" },
    };
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        assert_int_equal(ft_kv_format_parse(bad[i].text, &f, &err), FT_OK);
        assert_int_equal(ft_kv_format_fit(&f, bad[i].d, "target", &err), FT_ARG);
        if (!strstr(err.text, bad[i].part)) {
            fail_msg("'%s': %s", bad[i].text, err.text);
        }
    }
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
        uint64_t where;
    } bad[] = {
        { "", "'' is unknown, expected f32, f16", 0 },
        { "q5", "'q5' is unknown, expected f32, f16", 0 },
        { "k=q4,q2", "'q2' is unknown", 5 },
        { "k=q3", "k is 'q3', expected f32, f16, bf16, q8_0, q8, q4 or q2", 0 },
        { "q4,group=48", "group is '48', expected 16, 32, 64, 128 or 256", 3 },
        { "q4,residual=-1", "residual is '-1', expected 0..1048576", 3 },
        { "q4,residual=9999999", "residual is '9999999'", 3 },
        { "q4,k_by=row", "k_by is 'row', expected channel or token", 3 },
        { "q4,rows=q8_0", "rows is 'q8_0', expected f16, bf16 or f32", 3 },
        { "q4,rotate=v", "rotate is 'v', expected none, k or kv", 3 },
        { "q4,width=3", "no setting 'width', there are k, v, k_by", 3 },
        { "q4,", "'' is unknown", 3 },
        { "q4,bits=4", "bits belongs to kvq and tada", 0 },
        { "norm=spectral", "norm and groups belong to kvq", 0 },
        { "tada,bits=3", "it takes bits=2, 4 or 8", 0 },
        { "f16,mean=heads", "and mean are for packed rows", 0 },
        { "joint,k=q8", "joint chooses the bits of k and v", 0 },
        { "joint,mean=heads", "takes no k=, v= or mean=", 0 },
        { "kvq,bits=9", "bits is '9', expected 2..8", 4 },
        { "kvq,norm=l1", "norm is 'l1', expected frobenius or spectral", 4 },
        { "kvq,k=q8", "kvq chooses the bits of k and v", 0 },
        { "f16,group=64", "are for packed rows, but k=f16, v=f16", 0 },
        { "k=q8_0,v=q4", "k=q8_0 beside packed v=q4, expected f16", 0 },
        { "k=q4,v=f32", "v=f32 beside packed k=q4", 0 },
        { "k=q4\n", "k is 'q4?', expected", 0 },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' is unknown", 0 },
        { "tada,bits=4.3.8", "bits is '4.3.8', expected 2..8, or 2, 4 or 8 for each layer", 5 },
        { "tada,bits=4.", "bits is '4.'", 5 },
        { "q4,bits=4.8", "bits of each layer belong to tada", 0 },
    };
    char longest[700] = "";
    struct ft_kv_format none;
    memset(longest, 'a', sizeof longest - 1);
    assert_int_equal(ft_kv_format_parse(longest, &none, NULL), FT_ARG);
    for (size_t i = 0; i < FT_COUNT(bad); i++) {
        struct ft_kv_format format = { .residual = 77 };
        struct ft_error err = { .code = FT_OK };
        assert_int_equal(ft_kv_format_parse(bad[i].text, &format, &err), FT_ARG);
        if (!strstr(err.text, bad[i].part) || err.where != bad[i].where) {
            fail_msg("'%s': %s (at %llu)", bad[i].text, err.text, (unsigned long long)err.where);
        }
        assert_int_equal(format.residual, 77); /* untouched */
        assert_int_equal(ft_kv_type_check(bad[i].text, &err), FT_ARG);
    }
    assert_int_equal(ft_kv_type_check("k4v2,residual=32", NULL), FT_OK);
    assert_int_equal(ft_kv_type_check(NULL, NULL), FT_OK);
}

/* "k=q4 k_by=channel ..." of all settings. */
static const char *told(const char *text, uint32_t head_dim) {
    static char all[256];
    struct ft_setting setting;
    all[0] = '\0';
    for (uint32_t i = 0; ft_kv_type_setting(text, head_dim, i, &setting); i++) {
        size_t used = strlen(all);
        assert_string_equal(setting.stage, "kv");
        assert_int_equal(setting.is_number, strstr(setting.name, "_group") ||
                                                !strcmp(setting.name, "residual") ||
                                                !strcmp(setting.name, "bits"));
        snprintf(all + used, sizeof all - used, "%s%s=%s", i > 0 ? " " : "", setting.name,
                 setting.value);
    }
    return all;
}

static void test_told(void **state) {
    (void)state;
    assert_string_equal(told(NULL, 64), "k=f16 v=f16 rotate=none");
    assert_string_equal(told("q8_0,v=bf16,rotate=k", 64), "k=q8_0 v=bf16 rotate=k");
    assert_string_equal(told("k4v2", 64),
                        "k=q4 k_by=channel k_group=64 v=q2 v_by=token v_group=64 residual=64 "
                        "rows=f16 mean=none rotate=none");
    assert_string_equal(told("tada,bits=8.4", 64),
                        "k=by layer k_by=token k_group=64 v=by layer v_by=token v_group=64 "
                        "residual=64 rows=f16 mean=heads rotate=none");
    assert_string_equal(told("kvq,bits=3", 64),
                        "k=kvq k_by=channel k_group=64 v=kvq v_by=token v_group=64 bits=3 "
                        "norm=frobenius groups=same residual=64 rows=f16 mean=none rotate=none");
    assert_string_equal(told("k4v2", 32), /* heads that a group does not divide */
                        "k=q4 k_by=channel k_group=64 v=q2 v_by=token v_group=32 residual=64 "
                        "rows=f16 mean=none rotate=none");
    assert_string_equal(told("k=q8,residual=0,rows=f32,rotate=kv,k_by=token,group=16", 64),
                        "k=q8 k_by=token k_group=16 v=f16 residual=0 rows=f32 mean=none rotate=kv");
    assert_string_equal(told("q3", 64), "");
    assert_string_equal(told("q8_0", 48), ""); /* no multiple of 32 */
    for (uint32_t i = 0; ft_kv_type_name(i); i++) {
        char first[24];
        snprintf(first, sizeof first, "k=%s",
                 strcmp(ft_kv_type_name(i), "k4v2") == 0 || strcmp(ft_kv_type_name(i), "tada") == 0
                     ? "q4"
                     : ft_kv_type_name(i));
        assert_int_equal(strncmp(told(ft_kv_type_name(i), 64), first, strlen(first)), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),   cmocka_unit_test(test_packed), cmocka_unit_test(test_fit),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
