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
    ITEM_CAP = 2 * FT_KV_LAYER_MAX + 32, /* longer text means nothing: a width for every layer */
};
#define UNSAID UINT32_MAX

/* What was said, before it is put together. */
struct said {
    uint32_t format[2]; /* of K, V: index into formats[] */
    uint32_t by[2], group[2], group_both, residual, rows, rotate;
    uint32_t is_by_norm, bits, norm, groups; /* kvq; bits of tada too */
    uint32_t is_tada, mean, is_joint;
    uint8_t layer_bits[FT_KV_LAYER_MAX];
    uint32_t n_layer_bits;
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
/* beside those: names for both sides */
static const char *const specials[] = { "k4v2", "tada", "kvq", "joint" };
enum { SPECIAL_K4V2, SPECIAL_TADA, SPECIAL_KVQ, SPECIAL_JOINT };

static const char *const ways[] = { "token", "channel" }; /* in the order of enum ft_pack_by */
static const char *const row_names[] = { "f32", "f16", "bf16" };
static const char *const rotations[] = { "none", "k", "kv" };
static const char *const norms[] = { "frobenius", "spectral" };
static const char *const means[] = { "none", "heads" };
static const char *const groupings[] = { "same", "norm" };

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
    uint32_t special = word_find(specials, FT_COUNT(specials), name);
    uint32_t format = special != UNSAID ? FORMAT_Q4 : format_find(name);
    said->is_joint = special == SPECIAL_JOINT ? 1 : UNSAID;
    said->is_by_norm = special == SPECIAL_KVQ ? 1 : UNSAID;
    if (special == SPECIAL_TADA) {
        said->is_tada = said->mean = 1;
        said->by[0] = said->by[1] = FT_BY_TOKEN;
    }
    said->format[0] = format;
    said->format[1] = special == SPECIAL_K4V2 ? FORMAT_Q2 : format;
    return format != UNSAID;
}

enum kind {
    KIND_FORMAT,
    KIND_WAY,
    KIND_ROWS,
    KIND_ROTATION,
    KIND_GROUP,
    KIND_RESIDUAL,
    KIND_BITS,
    KIND_NORM,
    KIND_GROUPING,
    KIND_MEAN
};

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
    { "bits", KIND_BITS, offsetof(struct said, bits) },
    { "norm", KIND_NORM, offsetof(struct said, norm) },
    { "groups", KIND_GROUPING, offsetof(struct said, groups) },
    { "mean", KIND_MEAN, offsetof(struct said, mean) },
};

static const char *const expected[] = {
    [KIND_FORMAT] = "f32, f16, bf16, q8_0, q8, q4 or q2",
    [KIND_WAY] = "channel or token",
    [KIND_ROWS] = "f16, bf16 or f32",
    [KIND_ROTATION] = "none, k or kv",
    [KIND_GROUP] = "16, 32, 64, 128 or 256",
    [KIND_RESIDUAL] = "0..1048576",
    [KIND_BITS] = "2..8",
    [KIND_NORM] = "frobenius or spectral",
    [KIND_GROUPING] = "same or norm",
    [KIND_MEAN] = "none or heads",
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
    case KIND_BITS:
        n = number_of(text, 8);
        return n != UNSAID && n >= 2 ? n : UNSAID;
    case KIND_NORM:
        return word_find(norms, FT_COUNT(norms), text);
    case KIND_MEAN:
        return word_find(means, FT_COUNT(means), text);
    case KIND_GROUPING:
        return word_find(groupings, FT_COUNT(groupings), text);
    default:
        return number_of(text, RESIDUAL_MAX);
    }
}

/* "4.2.8": a width for each layer. */
static bool take_widths(struct said *said, const char *text) {
    said->n_layer_bits = 0;
    for (const char *at = text;; at += 2) {
        bool is_width = *at == '2' || *at == '4' || *at == '8';
        if (!is_width || said->n_layer_bits == FT_KV_LAYER_MAX || (at[1] != '.' && at[1] != '\0')) {
            return false;
        }
        said->layer_bits[said->n_layer_bits++] = (uint8_t)(*at - '0');
        if (at[1] == '\0') {
            return true;
        }
    }
}

/* item: "name" where it is the first, or "key=value". */
static ft_status take_item(struct said *said, char *item, size_t at, struct ft_error *err) {
    char *equals = strchr(item, '=');
    if (!equals) {
        return at == 0 && take_name(said, item)
                   ? FT_OK
                   : ft_fail(err, FT_ARG, at,
                             "kv type: '%.40s' is unknown, expected f32, f16, bf16, q8_0, q8, q4, "
                             "q2, k4v2, joint, tada or kvq first, or settings such as "
                             "k=q4,v=q2,group=64,residual=64",
                             item);
    }
    *equals = '\0';
    for (size_t i = 0; i < FT_COUNT(settings); i++) {
        if (strcmp(settings[i].name, item) == 0) {
            enum kind kind = settings[i].kind;
            if (kind == KIND_BITS && strchr(equals + 1, '.')) {
                return take_widths(said, equals + 1)
                           ? FT_OK
                           : ft_fail(err, FT_ARG, at,
                                     "kv type: bits is '%.40s', expected 2..8, or 2, 4 or 8 for "
                                     "each layer: 4.2.8",
                                     equals + 1);
            }
            uint32_t value = value_of(kind, equals + 1);
            memcpy((char *)said + settings[i].offset, &value, sizeof value);
            return value != UNSAID ? FT_OK
                                   : ft_fail(err, FT_ARG, at, "kv type: %s is '%s', expected %s",
                                             item, equals + 1, expected[kind]);
        }
    }
    return ft_fail(err, FT_ARG, at,
                   "kv type: no setting '%s', there are k, v, k_by, v_by, group, k_group, v_group, "
                   "residual, rows, rotate, mean; of tada bits; of kvq bits, norm, groups",
                   item);
}

static ft_status read_items(const char *text, struct said *said, struct ft_error *err) {
    for (const char *at = text; at != NULL;) {
        char item[ITEM_CAP];
        size_t n = strcspn(at, ",");
        if (n >= sizeof item) {
            return ft_fail(err, FT_ARG, (uint64_t)(at - text),
                           "kv type: '%.40s...' is no setting, expected k=q4 or the like", at);
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

/* Some names choose the bits themselves, and what belongs to them means nothing elsewhere. */
static ft_status check_choosing(const struct said *said, struct ft_error *err) {
    bool is_q4 = said->format[0] == FORMAT_Q4 && said->format[1] == FORMAT_Q4;
    if (said->is_joint != UNSAID && (!is_q4 || said->mean == 1)) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: joint chooses the bits of k and v: it takes no k=, v= or mean=");
    }
    if (said->is_joint != UNSAID && said->rows != UNSAID && formats[said->rows].fmt != FT_F16) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: joint counts its budget in f16 rows: it takes no rows=%s",
                       formats[said->rows].name);
    }
    if (said->is_by_norm != UNSAID && !is_q4) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: kvq chooses the bits of k and v: it takes bits=, no k= or v=");
    }
    if (said->is_by_norm == UNSAID && (said->norm != UNSAID || said->groups != UNSAID)) {
        return ft_fail(err, FT_ARG, 0, "kv type: norm and groups belong to kvq");
    }
    bool has_widths = said->n_layer_bits != UNSAID;
    if (has_widths && said->is_tada == UNSAID) {
        return ft_fail(err, FT_ARG, 0, "kv type: bits of each layer belong to tada");
    }
    if (said->is_by_norm == UNSAID && said->is_tada == UNSAID && said->bits != UNSAID) {
        return ft_fail(err, FT_ARG, 0, "kv type: bits belongs to kvq and tada");
    }
    bool is_width = said->bits == 2 || said->bits == 4 || said->bits == 8 || said->bits == UNSAID;
    if (said->is_tada != UNSAID && (!is_q4 || !is_width)) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: tada packs k and v alike: it takes bits=2, 4 or 8, no k= or v=");
    }
    return FT_OK;
}

static ft_status put_together(const struct said *said, struct ft_kv_format *out,
                              struct ft_error *err) {
    static const char *const side[] = { "k", "v" };
    FT_TRY(check_choosing(said, err));
    bool is_packed = formats[said->format[0]].bits > 0 || formats[said->format[1]].bits > 0;
    bool has_settings = said->by[0] != UNSAID || said->by[1] != UNSAID ||
                        said->group[0] != UNSAID || said->group[1] != UNSAID ||
                        said->group_both != UNSAID || said->residual != UNSAID ||
                        said->rows != UNSAID || said->mean == 1;
    if (!is_packed && has_settings) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: k_by, v_by, group, k_group, v_group, residual, rows and mean are "
                       "for packed rows, but k=%s, v=%s",
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
    out->is_mean = said->mean == 1;
    out->is_joint = said->is_joint != UNSAID;
    if (said->is_tada != UNSAID) { /* a group that nobody named is a row */
        out->k_pack.bits = out->v_pack.bits = said->bits != UNSAID ? (uint8_t)said->bits : 4;
        out->is_row_grouped = true;
        if (said->n_layer_bits != UNSAID) {
            out->n_layer_bits = said->n_layer_bits;
            memcpy(out->layer_bits, said->layer_bits, said->n_layer_bits);
        }
    }
    if (said->is_by_norm != UNSAID) {
        out->is_by_norm = true;
        out->has_norm_groups = said->groups == 1;
        out->is_spectral = said->norm == 1;
        out->k_pack.bits = out->v_pack.bits = said->bits != UNSAID ? (uint8_t)said->bits : 4;
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
    size_t special = index - FT_COUNT(formats);
    return index < FT_COUNT(formats)      ? formats[index].name
           : special < FT_COUNT(specials) ? specials[special]
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
                       "kv type: q8_0, but the head size %u of the %s is not a multiple of 32", d,
                       whose);
    }
    if (format->is_k_rotated && (d & (d - 1)) != 0) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type: rotate, but the head size %u of the %s is no power of two", d,
                       whose);
    }
    if (ft_kv_format_is_packed(format) && d % 16 != 0) {
        return ft_fail(
            err, FT_ARG, 0,
            "kv type: packed rows, but the head size %u of the %s is not a multiple of 16", d,
            whose);
    }
    struct ft_pack *side[] = { &format->k_pack, &format->v_pack };
    for (int i = 0; i < 2; i++) {
        if (format->is_row_grouped && side[i]->group == 0) {
            side[i]->group = side[i]->by == FT_BY_CHANNEL ? FT_BLOCK_ROW : (uint16_t)d;
        }
        FT_TRY(fit_pack(side[i], i == 0 ? "k" : "v", d, whose, err));
    }
    return FT_OK;
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
    /* bits that layers, or prompts, get one by one have no one name */
    const char *chosen = f.is_by_norm         ? "kvq"
                         : f.is_joint         ? "joint"
                         : f.n_layer_bits > 0 ? "by layer"
                                              : NULL;
    tell_text(&told, "k", chosen ? chosen : name_of(f.k_fmt, &f.k_pack));
    tell_pack(&told, &f.k_pack);
    tell_text(&told, "v", chosen ? chosen : name_of(f.v_fmt, &f.v_pack));
    tell_pack(&told, &f.v_pack);
    if (f.is_by_norm) {
        tell_number(&told, "bits", f.k_pack.bits);
        tell_text(&told, "norm", norms[f.is_spectral]);
        tell_text(&told, "groups", groupings[f.has_norm_groups]);
    }
    if (ft_kv_format_is_packed(&f)) {
        const struct ft_pack none = { 0 };
        tell_number(&told, "residual", f.residual);
        tell_text(&told, "rows", name_of(f.k_fmt, &none));
        tell_text(&told, "mean", means[f.is_mean]);
    }
    tell_text(&told, "rotate", rotations[f.is_k_rotated + f.is_v_rotated]);
    return index < told.n;
}
