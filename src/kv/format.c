/* SPDX-License-Identifier: Apache-2.0 */
/* format.c - "k=q4,v=q2,group=64,residual=64": the parser of how KV rows are stored.
 *
 * Settings are read into a draft in any order and put together at the end, so that group= may stand
 * in front of the formats that it belongs to.
 */
#include "kv/format.h"

#include <stdio.h>
#include <string.h>

enum {
    GROUP = 64,    /* Quantize What Counts; a smaller power of two where it does not divide a row */
    RESIDUAL = 64, /* Quantize What Counts */
    RESIDUAL_MAX = 1 << 20,
    ITEM_CAP = 40, /* longer text means nothing */
    UNSAID = UINT32_MAX,
};

/* What was said, before it is put together. */
struct said {
    uint32_t format[2]; /* of K, V: index into formats[] */
    uint32_t by[2], group[2], group_both, residual, rows, rotate;
};

static const struct {
    const char *name;
    enum ft_fmt fmt;
    uint8_t bits; /* 0: rows as they are */
} formats[] = {
    { "f32", FT_F32, 0 }, { "f16", FT_F16, 0 }, { "bf16", FT_BF16, 0 }, { "q8_0", FT_Q8_0, 0 },
    { "q8", FT_F16, 8 },  { "q4", FT_F16, 4 },  { "q2", FT_F16, 2 },
};
enum { FORMAT_F16 = 1, FORMAT_Q4 = 5, FORMAT_Q2 = 6 };
static const char name_k4v2[] = "k4v2"; /* beside those: one name for both */

static const char *const ways[] = { "token", "channel" }; /* in the order of enum ft_pack_by */
static const char *const row_names[] = { "f32", "f16", "bf16" };
static const char *const rotations[] = { "none", "k", "kv" };

static uint32_t format_find(const char *name) {
    for (uint32_t i = 0; i < FT_COUNT(formats); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return i;
        }
    }
    return UNSAID;
}

static uint32_t word_find(const char *const *words, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(words[i], name) == 0) {
            return i;
        }
    }
    return UNSAID;
}

static uint32_t number_of(const char *text, uint32_t high) {
    size_t n = strlen(text);
    uint32_t value = 0;
    if (n == 0 || n > 7 || strspn(text, "0123456789") != n) {
        return UNSAID;
    }
    for (; *text != '\0'; text++) {
        value = value * 10 + (uint32_t)(*text - '0');
    }
    return value <= high ? value : UNSAID;
}

static bool take_name(struct said *said, const char *name) {
    bool is_k4v2 = strcmp(name, name_k4v2) == 0;
    uint32_t format = is_k4v2 ? FORMAT_Q4 : format_find(name);
    said->format[0] = format;
    said->format[1] = is_k4v2 ? FORMAT_Q2 : format;
    return format != UNSAID;
}

enum kind { KIND_FORMAT, KIND_WAY, KIND_ROWS, KIND_ROTATION, KIND_GROUP, KIND_RESIDUAL };

static const struct {
    const char *name;
    enum kind kind;
    size_t offset; /* in struct said */
} settings[] = {
    { "k", KIND_FORMAT, offsetof(struct said, format[0]) },
    { "v", KIND_FORMAT, offsetof(struct said, format[1]) },
    { "k_by", KIND_WAY, offsetof(struct said, by[0]) },
    { "v_by", KIND_WAY, offsetof(struct said, by[1]) },
    { "group", KIND_GROUP, offsetof(struct said, group_both) },
    { "k_group", KIND_GROUP, offsetof(struct said, group[0]) },
    { "v_group", KIND_GROUP, offsetof(struct said, group[1]) },
    { "residual", KIND_RESIDUAL, offsetof(struct said, residual) },
    { "rows", KIND_ROWS, offsetof(struct said, rows) },
    { "rotate", KIND_ROTATION, offsetof(struct said, rotate) },
};

static const char *const expected[] = {
    [KIND_FORMAT] = "f32, f16, bf16, q8_0, q8, q4 or q2",
    [KIND_WAY] = "channel or token",
    [KIND_ROWS] = "f16, bf16 or f32",
    [KIND_ROTATION] = "none, k or kv",
    [KIND_GROUP] = "16, 32, 64, 128 or 256",
    [KIND_RESIDUAL] = "0..1048576",
};

static uint32_t value_of(enum kind kind, const char *text) {
    uint32_t n = 0;
    switch (kind) {
    case KIND_FORMAT:
        return format_find(text);
    case KIND_WAY:
        return word_find(ways, FT_COUNT(ways), text);
    case KIND_ROWS:
        return word_find(row_names, FT_COUNT(row_names), text);
    case KIND_ROTATION:
        return word_find(rotations, FT_COUNT(rotations), text);
    case KIND_GROUP:
        n = number_of(text, 256);
        return n != UNSAID && n >= 16 && (n & (n - 1)) == 0 ? n : UNSAID;
    default:
        return number_of(text, RESIDUAL_MAX);
    }
}

/* item: "name" where it is the first, or "key=value". */
static ft_status take_item(struct said *said, char *item, size_t at, struct ft_error *err) {
    char *equals = strchr(item, '=');
    if (!equals) {
        return at == 0 && take_name(said, item)
                   ? FT_OK
                   : ft_fail(err, FT_ARG, at,
                             "kv type: '%s' is unknown, expected f32, f16, bf16, q8_0, q8, q4, q2 "
                             "or k4v2 first, or settings such as k=q4,v=q2,group=64,residual=64",
                             item);
    }
    *equals = '\0';
    for (size_t i = 0; i < FT_COUNT(settings); i++) {
        if (strcmp(settings[i].name, item) == 0) {
            enum kind kind = settings[i].kind;
            uint32_t value = value_of(kind, equals + 1);
            memcpy((char *)said + settings[i].offset, &value, sizeof value);
            return value != UNSAID ? FT_OK
                                   : ft_fail(err, FT_ARG, at, "kv type: %s is '%s', expected %s",
                                             item, equals + 1, expected[kind]);
        }
    }
    return ft_fail(err, FT_ARG, at,
                   "kv type: no setting '%s', there are k, v, k_by, v_by, group, k_group, v_group, "
                   "residual, rows, rotate",
                   item);
}

static ft_status read_items(const char *text, struct said *said, struct ft_error *err) {
    for (const char *at = text; at != NULL;) {
        char item[ITEM_CAP];
        size_t n = strcspn(at, ",");
        if (n >= sizeof item) {
            return ft_fail(err, FT_ARG, (uint64_t)(at - text),
                           "kv type: '%.24s...' is no setting, expected k=q4 or the like", at);
        }
        memcpy(item, at, n);
        item[n] = '\0';
        for (size_t i = 0; i < n; i++) {
            item[i] = item[i] >= ' ' && item[i] <= '~' ? item[i] : '?';
        }
        FT_TRY(take_item(said, item, (size_t)(at - text), err));
        at = at[n] == ',' ? at + n + 1 : NULL;
    }
    return FT_OK;
}

/* Of K (0) or V (1); KIVI: keys have outlying channels, values do not. */
static struct ft_pack pack_of(const struct said *said, int which) {
    uint8_t bits = formats[said->format[which]].bits;
    uint32_t by = said->by[which] != UNSAID ? said->by[which]
                  : which == 0              ? FT_BY_CHANNEL
                                            : FT_BY_TOKEN;
    uint32_t group = said->group[which] != UNSAID ? said->group[which]
                     : said->group_both != UNSAID ? said->group_both
                                                  : 0; /* open until the heads are known */
    struct ft_pack pack = { .bits = 16, .is_value = which == 1 };
    if (bits > 0) {
        pack.bits = bits;
        pack.by = (uint8_t)by;
        pack.group = (uint16_t)group;
    }
    return pack;
}

static ft_status put_together(const struct said *said, struct ft_kv_format *out,
                              struct ft_error *err) {
    static const char *const side[] = { "k", "v" };
    bool is_packed = formats[said->format[0]].bits > 0 || formats[said->format[1]].bits > 0;
    bool has_settings = said->by[0] != UNSAID || said->by[1] != UNSAID ||
                        said->group[0] != UNSAID || said->group[1] != UNSAID ||
                        said->group_both != UNSAID || said->residual != UNSAID ||
                        said->rows != UNSAID;
    if (!is_packed && has_settings) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: k_by, v_by, group, k_group, v_group, residual and rows are for "
                       "packed rows, but k=%s, v=%s",
                       formats[said->format[0]].name, formats[said->format[1]].name);
    }
    for (int i = 0; is_packed && i < 2; i++) {
        if (formats[said->format[i]].bits == 0 && said->format[i] != FORMAT_F16) {
            return ft_fail(err, FT_ARG, 0,
                           "kv type: %s=%s beside packed %s=%s, expected f16, q8, q4 or q2",
                           side[i], formats[said->format[i]].name, side[1 - i],
                           formats[said->format[1 - i]].name);
        }
    }
    *out = (struct ft_kv_format){ .k_fmt = formats[said->format[0]].fmt,
                                  .v_fmt = formats[said->format[1]].fmt };
    out->is_k_rotated = said->rotate != UNSAID && said->rotate >= 1;
    out->is_v_rotated = said->rotate != UNSAID && said->rotate >= 2;
    if (is_packed) {
        enum ft_fmt rows = said->rows != UNSAID ? formats[said->rows].fmt : FT_F16;
        out->k_fmt = out->v_fmt = rows;
        out->k_pack = pack_of(said, 0);
        out->v_pack = pack_of(said, 1);
        out->residual = said->residual != UNSAID ? said->residual : RESIDUAL;
    }
    return FT_OK;
}

ft_status ft_kv_format_parse(const char *text, struct ft_kv_format *out, struct ft_error *err) {
    struct said said;
    memset(&said, 0xff, sizeof said); /* UNSAID, all of it */
    said.format[0] = said.format[1] = FORMAT_F16;
    if (text) {
        FT_TRY(read_items(text, &said, err));
    }
    return put_together(&said, out, err);
}

ft_status ft_kv_type_check(const char *spec, struct ft_error *err) {
    struct ft_kv_format format;
    return ft_kv_format_parse(spec, &format, err);
}

const char *ft_kv_type_name(uint32_t index) {
    return index < FT_COUNT(formats)    ? formats[index].name
           : index == FT_COUNT(formats) ? name_k4v2
                                        : NULL;
}

/* ---- heads ---- */

static ft_status fit_pack(struct ft_pack *pack, const char *side, uint32_t d, const char *whose,
                          struct ft_error *err) {
    if (pack->bits == 0 || pack->bits == 16) {
        return FT_OK;
    }
    if (pack->group == 0) {
        pack->group = GROUP;
        while (pack->by == FT_BY_TOKEN && d % pack->group != 0 && pack->group > 16) {
            pack->group /= 2;
        }
    }
    if (pack->by == FT_BY_CHANNEL && pack->group > FT_BLOCK_ROW) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: %s_group is %u rows of a channel, expected at most %d, a block",
                       side, pack->group, FT_BLOCK_ROW);
    }
    if (pack->by == FT_BY_TOKEN && d % pack->group != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: %s_group is %u numbers of a row, but heads of the %s have %u",
                       side, pack->group, whose, d);
    }
    return FT_OK;
}

ft_status ft_kv_format_fit(struct ft_kv_format *format, uint32_t d, const char *whose,
                           struct ft_error *err) {
    if ((format->k_fmt == FT_Q8_0 || format->v_fmt == FT_Q8_0) && d % 32 != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: q8_0, but the head size %u of the %s is no multiple of 32", d,
                       whose);
    }
    if (format->is_k_rotated && (d & (d - 1)) != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: rotate, but the head size %u of the %s is no power of two", d,
                       whose);
    }
    if (ft_kv_format_is_packed(format) && d % 16 != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: packed rows, but the head size %u of the %s is no multiple of 16",
                       d, whose);
    }
    FT_TRY(fit_pack(&format->k_pack, "k", d, whose, err));
    return fit_pack(&format->v_pack, "v", d, whose, err);
}

/* ---- as resolved ---- */

/* Rows of K or V by the name that means them. */
static const char *name_of(enum ft_fmt fmt, const struct ft_pack *pack) {
    bool is_packed = pack->bits > 0 && pack->bits < 16;
    for (uint32_t i = 0; i < FT_COUNT(formats) && pack->bits != 16; i++) {
        if (is_packed ? formats[i].bits == pack->bits
                      : formats[i].bits == 0 && formats[i].fmt == fmt) {
            return formats[i].name;
        }
    }
    return formats[FORMAT_F16].name; /* beside packed ones */
}

struct told { /* settings in their order */
    struct ft_setting *out;
    uint32_t wanted, n;
};

static void tell_text(struct told *told, const char *name, const char *value) {
    if (told->n++ == told->wanted) {
        *told->out = (struct ft_setting){ .stage = "kv" };
        snprintf(told->out->name, sizeof told->out->name, "%s", name);
        snprintf(told->out->value, sizeof told->out->value, "%s", value);
    }
}

static void tell_number(struct told *told, const char *name, uint32_t value) {
    char text[16];
    bool is_wanted = told->n == told->wanted;
    snprintf(text, sizeof text, "%u", (unsigned)value);
    tell_text(told, name, text);
    told->out->is_number = told->out->is_number || is_wanted;
}

static void tell_pack(struct told *told, const struct ft_pack *pack) {
    if (pack->bits > 0 && pack->bits < 16) {
        tell_text(told, pack->is_value ? "v_by" : "k_by", ways[pack->by]);
        tell_number(told, pack->is_value ? "v_group" : "k_group", pack->group);
    }
}

bool ft_kv_type_setting(const char *spec, uint32_t head_dim, uint32_t index,
                        struct ft_setting *out) {
    struct ft_kv_format f;
    struct told told = { .out = out, .wanted = index };
    if (ft_kv_format_parse(spec, &f, NULL) != FT_OK ||
        ft_kv_format_fit(&f, head_dim, "target", NULL) != FT_OK) {
        return false;
    }
    tell_text(&told, "k", name_of(f.k_fmt, &f.k_pack));
    tell_pack(&told, &f.k_pack);
    tell_text(&told, "v", name_of(f.v_fmt, &f.v_pack));
    tell_pack(&told, &f.v_pack);
    if (ft_kv_format_is_packed(&f)) {
        const struct ft_pack none = { 0 };
        tell_number(&told, "residual", f.residual);
        tell_text(&told, "rows", name_of(f.k_fmt, &none));
    }
    tell_text(&told, "rotate", rotations[f.is_k_rotated + f.is_v_rotated]);
    return index < told.n;
}
