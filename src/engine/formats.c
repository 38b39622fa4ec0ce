/* SPDX-License-Identifier: Apache-2.0 */
/* formats.c - how a session's rows are stored: --kv-type against a model, layer by layer. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

enum { GROUP_MOST = 128 }; /* of groups that norms choose, as in Quantize What Counts */

/* ---- kvq: norms -> bits and groups ---- */

/* Norms of K0, V0, K1, V1, ...; all alike where a model was opened without its weights: bytes do not
 * depend on where the bits are. */
static ft_status norms_of(const ft_model *model, const struct ft_kv_format *format, double *s,
                          struct ft_error *err) {
    enum ft_norm norm = format->is_spectral ? FT_NORM_SPECTRAL : FT_NORM_FROBENIUS;
    for (uint32_t l = 0; l < ft_model_hparams(model)->n_layer; l++) {
        s[2 * l] = s[2 * l + 1] = 1;
        if (ft_model_has_weights(model)) {
            FT_TRY(ft_model_kv_norms(model, l, norm, &s[2 * l], &s[2 * l + 1], err));
            for (uint32_t i = 0; i < 2; i++) {
                if (!isfinite(s[2 * l + i])) {
                    return ft_fail(err, FT_FORMAT, 0,
                                   "kv type: the norm of blk.%u.attn_%c.weight is %g, expected a "
                                   "finite number",
                                   l, i == 0 ? 'k' : 'v', s[2 * l + i]);
                }
            }
        }
    }
    return FT_OK;
}

/* The largest group that norms may choose: a block's rows, or a power of two that divides a row. */
static uint16_t group_most(const struct ft_pack *pack, uint32_t d) {
    uint32_t most = pack->by == FT_BY_CHANNEL ? FT_BLOCK_ROW : GROUP_MOST;
    while (pack->by == FT_BY_TOKEN && d % most != 0) {
        most /= 2;
    }
    return (uint16_t)most;
}

static ft_status pack_by_norm(const ft_model *model, const struct ft_kv_format *format,
                              struct ft_packing *out, double *s, struct ft_error *err) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    uint32_t n = 2 * hp->n_layer;
    uint8_t *bits = ft_alloc(n, sizeof *bits);
    uint16_t *group = ft_alloc(2 * (size_t)n, sizeof *group), *high = group ? group + n : NULL;
    ft_status status = bits && group ? FT_OK
                                     : ft_fail(err, FT_NOMEM, 0,
                                               "no memory for the bits of %u layers", hp->n_layer);
    if (status == FT_OK) {
        status = norms_of(model, format, s, err);
    }
    for (uint32_t i = 0; status == FT_OK && i < n; i++) {
        const struct ft_pack *pack = i % 2 == 0 ? &format->k_pack : &format->v_pack;
        group[i] = pack->group;
        high[i] = group_most(pack, hp->head_dim);
    }
    if (status == FT_OK) {
        status = ft_bits_by_norm(s, n, format->k_pack.bits, bits, err);
    }
    if (status == FT_OK && format->has_norm_groups) {
        ft_groups_by_norm(s, n, FT_MIN(format->k_pack.group, format->v_pack.group), high, group);
    }
    for (uint32_t l = 0; status == FT_OK && l < hp->n_layer; l++) {
        size_t i = 2 * (size_t)l;
        out[l].k.bits = bits[i];
        out[l].k.group = group[i];
        out[l].v.bits = bits[i + 1];
        out[l].v.group = group[i + 1];
    }
    ft_free(bits);
    ft_free(group);
    return status;
}

/* ---- a format against a model ---- */

/* norm: NULL, or [2 n_layer] to be filled where the format asks for norms. */
static ft_status packings_of(const ft_model *model, const struct ft_kv_format *format,
                             struct ft_packing *out, double *norm, struct ft_error *err) {
    uint32_t n_layer = ft_model_hparams(model)->n_layer;
    for (uint32_t l = 0; l < n_layer; l++) {
        out[l] = (struct ft_packing){ .k = format->k_pack,
                                      .v = format->v_pack,
                                      .residual = format->residual,
                                      .is_mean = format->is_mean };
    }
    if (format->n_layer_bits > 0 && format->n_layer_bits != n_layer) {
        return ft_fail(err, FT_ARG, 0, "kv type: bits of %u layers, but the model has %u",
                       format->n_layer_bits, n_layer);
    }
    for (uint32_t l = 0; l < format->n_layer_bits; l++) {
        out[l].k.bits = out[l].v.bits = format->layer_bits[l];
    }
    if (!format->is_by_norm) {
        return FT_OK;
    }
    double *own = norm ? NULL : ft_alloc(2 * (size_t)n_layer, sizeof *own);
    if (!norm && !own) {
        return ft_fail(err, FT_NOMEM, 0, "no memory for the norms of %u layers", n_layer);
    }
    ft_status status = pack_by_norm(model, format, out, norm ? norm : own, err);
    ft_free(own);
    return status;
}

ft_status ft_formats_init(ft_session *s, struct ft_error *err) {
    const char *type = s->params.kv_type ? s->params.kv_type : s->params.is_exact ? "f32" : "f16";
    struct ft_kv_format *format = &s->format;
    FT_TRY(ft_kv_format_parse(type, format, err));
    bool is_plain = format->k_fmt == FT_F32 && format->v_fmt == FT_F32 && !format->is_k_rotated &&
                    !ft_kv_format_is_packed(format);
    if (s->params.is_exact && !is_plain) {
        return ft_fail(err, FT_ARG, 0, "kv type '%s' with exact: exact runs store f32 rows", type);
    }
    FT_TRY(ft_kv_format_fit(format, s->lane.hp->head_dim, "target", err));
    if (format->is_mean && s->lane.hp->n_head_kv == 1) {
        return ft_fail(err, FT_ARG, 0,
                       "kv type '%s': the target has one KV head, its mean is the head itself",
                       type);
    }
    if (s->draft) { /* its rows are never packed */
        struct ft_kv_format rows = { .k_fmt = format->k_fmt, .v_fmt = format->v_fmt };
        FT_TRY(ft_kv_format_fit(&rows, ft_model_hparams(s->draft)->head_dim, "draft", err));
    }
    s->packing = ft_alloc(s->lane.hp->n_layer, sizeof *s->packing);
    return s->packing ? packings_of(s->target, format, s->packing, NULL, err)
                      : ft_fail(err, FT_NOMEM, 0, "no memory for the formats of %u layers",
                                s->lane.hp->n_layer);
}

void ft_formats_joint(ft_session *s, double share) {
    if (!s->format.is_joint) {
        return;
    }
    uint8_t bits = share <= 0.125 ? 4 : share <= 0.5 ? 8 : 0;
    s->joint_share = share;
    s->format.k_pack.bits = s->format.v_pack.bits = bits;
    for (uint32_t l = 0; l < s->lane.hp->n_layer; l++) {
        s->packing[l].k.bits = s->packing[l].v.bits = bits;
    }
}

void ft_formats_set(const ft_session *s, struct ft_kv *kv, bool is_on) {
    static const struct ft_packing none = { .residual = 0 };
    for (uint32_t l = 0; l < s->lane.hp->n_layer; l++) {
        ft_kv_set_packing(kv, l, is_on ? &s->packing[l] : &none);
    }
}

uint64_t ft_formats_block_bytes(const ft_session *s) {
    const struct ft_hparams *hp = s->lane.hp;
    struct ft_kv_shape shape = { .n_layer = 1, .n_head_kv = hp->n_head_kv, .d = hp->head_dim };
    uint64_t bytes = 0;
    for (uint32_t l = 0; ft_kv_format_is_packed(&s->format) && l < hp->n_layer; l++) {
        struct ft_packing block = s->packing[l];
        block.residual = 0;
        bytes += ft_kv_packed_bytes(&shape, &block, FT_BLOCK_ROW);
    }
    return bytes;
}

/* "4", or "4 4 2 8" where layers differ; cut where cap ends. */
static void list_bits(const ft_session *s, bool is_value, char *out, size_t cap) {
    const struct ft_packing *first = s->packing;
    bool is_alike = true;
    for (uint32_t l = 0; l < s->lane.hp->n_layer; l++) {
        const struct ft_pack *pack = is_value ? &first[l].v : &first[l].k;
        is_alike = is_alike && pack->bits == (is_value ? first->v.bits : first->k.bits);
    }
    size_t used = 0;
    for (uint32_t l = 0; l < (is_alike ? 1 : s->lane.hp->n_layer) && used < cap; l++) {
        const struct ft_pack *pack = is_value ? &first[l].v : &first[l].k;
        int n = snprintf(out + used, cap - used, l > 0 ? " %u" : "%u", pack->bits);
        used += n > 0 ? (size_t)n : 0;
    }
}

void ft_formats_text(const ft_session *s, char *out, size_t cap) {
    char k[240] = "", v[240] = "";
    char share[64] = "";
    if (s->format.is_joint) {
        snprintf(share, sizeof share, "joint, budget %.2f %% of f16 rows: ", 100 * s->joint_share);
    }
    if (!ft_kv_format_is_packed(&s->format)) {
        snprintf(out, cap, "%s%s", share, s->format.is_joint ? "rows as they are" : "");
        return;
    }
    list_bits(s, false, k, sizeof k);
    list_bits(s, true, v, sizeof v);
    snprintf(out, cap, "%sblocks of %d rows, %u or more exact; bits of k %s, of v %s%s", share,
             FT_BLOCK_ROW, s->format.residual, k, v,
             s->format.is_mean ? ", of deviations from the mean over heads" : "");
}

ft_status ft_kv_type_layers(const ft_model *model, const char *spec, struct ft_kv_layer *out,
                            struct ft_error *err) {
    const struct ft_hparams *hp = ft_model_hparams(model);
    struct ft_kv_format format;
    FT_TRY(ft_kv_format_parse(spec, &format, err));
    FT_TRY(ft_kv_format_fit(&format, hp->head_dim, "model", err));
    struct ft_packing *packing = ft_alloc(hp->n_layer, sizeof *packing);
    double *norm = ft_alloc(2 * (size_t)hp->n_layer, sizeof *norm);
    ft_status status =
        packing && norm
            ? packings_of(model, &format, packing, norm, err)
            : ft_fail(err, FT_NOMEM, 0, "no memory for the formats of %u layers", hp->n_layer);
    for (uint32_t l = 0; status == FT_OK && l < hp->n_layer; l++) {
        const struct ft_pack *k = &packing[l].k, *v = &packing[l].v;
        out[l] = (struct ft_kv_layer){ .k_norm = norm[2 * l],
                                       .v_norm = norm[2 * l + 1],
                                       .k_bits = k->bits,
                                       .v_bits = v->bits,
                                       .k_group = k->group,
                                       .v_group = v->group };
    }
    ft_free(packing);
    ft_free(norm);
    return status;
}
