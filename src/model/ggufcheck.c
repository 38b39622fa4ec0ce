/* SPDX-License-Identifier: Apache-2.0 */
/* ggufcheck.c - which GGUF files this engine runs: architecture, hyperparameters, positions.
 *
 * The rules follow what libllama does with the three dense families (llama, qwen2, qwen3);
 * whatever it reads and we do not compute is refused by name, and so is what it would ignore
 * although the file asks for it.
 */
#include "model/ggufcheck.h"

#include <inttypes.h>
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/ggufwalk.h"

enum {
    LAYER_MAX = 512, /* LLAMA_MAX_LAYERS */
    HEAD_MAX = 1024,
    GROUP_MAX = 256, /* query heads of a KV head: what the kernels take at once */
    HEAD_DIM_MIN = 16,
    HEAD_DIM_MAX = 256,
    HEAD_DIM_STEP = 8,
    EMBD_MAX = 1 << 20,
    FF_MAX = 1 << 22,
    CTX_MAX = 1 << 30,
};

/* ---- families ---- */

static const struct {
    const char *arch;
    unsigned trait;
} families[] = {
    { "llama", 0 },
    { "qwen2", FT_ROPE_NEOX },
    { "qwen3", FT_ROPE_NEOX | FT_QK_NORM },
};

static ft_status check_arch(struct ft_gguf_walk *w, struct ft_hparams *h) {
    struct ft_gguf_span arch, type = { .text = "model", .n = 5 };
    FT_TRY(ft_gguf__need(w, "general.architecture"));
    FT_TRY(ft_gguf__string(w, "general.architecture", &arch));
    for (size_t i = 0; i < FT_COUNT(families); i++) {
        if (ft_gguf__is(arch, families[i].arch)) {
            w->arch = h->arch = families[i].arch;
            h->trait = families[i].trait;
        }
    }
    if (h->arch == NULL) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "general.architecture")->at,
                             "general.architecture is '%.*s', expected llama, qwen2 or qwen3",
                             (int)FT_MIN(arch.n, (size_t)40), arch.text);
    }
    FT_TRY(ft_gguf__string(w, "general.type", &type));
    if (!ft_gguf__is(type, "model")) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "general.type")->at,
                             "general.type is '%.*s', expected model",
                             (int)FT_MIN(type.n, (size_t)40), type.text);
    }
    return FT_OK;
}

/* ---- what is refused by its key ---- */

struct refusal {
    const char *name, *why;
    double neutral; /* the value that changes nothing; 0 does not either */
};

static const struct refusal refusals[] = {
    { "*.expert_count", "mixtures of experts are not supported", 0 },
    { "*.expert_used_count", "mixtures of experts are not supported", 0 },
    { "*.expert_group_count", "mixtures of experts are not supported", 0 },
    { "*.expert_shared_count", "mixtures of experts are not supported", 0 },
    { "*.nextn_predict_layers", "extra prediction layers are not supported", 0 },
    { "*.attention.sliding_window", "sliding-window attention is not supported", 0 },
    { "*.attention.scale", "an attention scale of its own is not supported", 0 },
    { "*.attention.max_alibi_bias", "ALiBi is not supported", 0 },
    { "*.attention.clamp_kqv", "clamping of q, k and v is not supported", 0 },
    { "*.attention.q_lora_rank", "latent attention is not supported", 0 },
    { "*.attention.kv_lora_rank", "latent attention is not supported", 0 },
    { "*.logit_scale", "scaled logits are not supported", 1 },
    { "*.residual_scale", "scaled residuals are not supported", 1 },
    { "*.embedding_scale", "scaled embeddings are not supported", 1 },
    { "*.attn_logit_softcapping", "soft-capped logits are not supported", 0 },
    { "*.final_logit_softcapping", "soft-capped logits are not supported", 0 },
    { "*.pooling_type", "pooled embeddings are not supported", 0 },
};

static ft_status check_refusals(const struct ft_gguf_walk *w) {
    for (size_t i = 0; i < FT_COUNT(refusals); i++) {
        const struct refusal *r = &refusals[i];
        const struct ft_gguf_key *key = ft_gguf__find(w, r->name);
        bool is_number = key != NULL && key->type != FT_GGUF_ARRAY && key->type != FT_GGUF_STRING;
        double value = is_number ? ft_gguf__number(w, key, 0) : 0;
        if (key != NULL && !(is_number && (value == 0 || value == r->neutral))) {
            return ft_gguf__fail(w, FT_UNSUP, key->at, "%s%s is %s%.6g: %s", w->arch, r->name + 1,
                                 is_number ? "" : "no number, but ", value, r->why);
        }
    }
    bool is_causal = true;
    FT_TRY(ft_gguf__bool(w, "*.attention.causal", &is_causal));
    if (!is_causal) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "*.attention.causal")->at,
                             "%s.attention.causal is false: encoders are not supported", w->arch);
    }
    return FT_OK;
}

/* ---- sizes ---- */

/* A number for all layers, or an array that repeats it. */
static ft_status layer_number(const struct ft_gguf_walk *w, const char *name, uint32_t n_layer,
                              uint32_t hi, uint32_t *out) {
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    if (key == NULL || key->type != FT_GGUF_ARRAY) {
        return ft_gguf__u32(w, name, 1, hi, out);
    }
    if ((key->item != FT_GGUF_U32 && key->item != FT_GGUF_I32) || key->n != n_layer) {
        return ft_gguf__fail(w, FT_FORMAT, key->where,
                             "%s%s is an array of %" PRIu64 " elements, expected %" PRIu32
                             " of type u32 or i32",
                             w->arch, name + 1, key->n, n_layer);
    }
    double first = ft_gguf__number(w, key, 0);
    for (uint32_t l = 1; l < n_layer; l++) {
        double value = ft_gguf__number(w, key, l);
        if (value != first) {
            return ft_gguf__fail(w, FT_UNSUP, key->at + 4 * (size_t)l,
                                 "%s%s is %.0f in layer 0 and %.0f in layer %" PRIu32
                                 ": layers that differ are not supported",
                                 w->arch, name + 1, first, value, l);
        }
    }
    if (!(first >= 1 && first <= hi)) {
        return ft_gguf__fail(w, FT_FORMAT, key->at, "%s%s is %.0f, expected 1..%" PRIu32, w->arch,
                             name + 1, first, hi);
    }
    *out = (uint32_t)first;
    return FT_OK;
}

static ft_status check_heads(const struct ft_gguf_walk *w, struct ft_hparams *h) {
    FT_TRY(layer_number(w, "*.attention.head_count", h->n_layer, HEAD_MAX, &h->n_head));
    h->n_head_kv = h->n_head;
    FT_TRY(layer_number(w, "*.attention.head_count_kv", h->n_layer, HEAD_MAX, &h->n_head_kv));
    if (h->n_head % h->n_head_kv != 0) {
        return ft_gguf__fail(w, FT_FORMAT, ft_gguf__find(w, "*.attention.head_count_kv")->at,
                             "%s.attention.head_count_kv is %" PRIu32
                             ", expected a divisor of head_count, which is %" PRIu32,
                             w->arch, h->n_head_kv, h->n_head);
    }
    if (h->n_head / h->n_head_kv > GROUP_MAX) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "*.attention.head_count_kv")->at,
                             "%s.attention.head_count_kv is %" PRIu32 " for %" PRIu32
                             " heads: more than %d heads of a group are not supported",
                             w->arch, h->n_head_kv, h->n_head, GROUP_MAX);
    }
    uint32_t key_length = h->n_embd / h->n_head, value_length, n_rot;
    FT_TRY(ft_gguf__u32(w, "*.attention.key_length", 1, EMBD_MAX, &key_length));
    value_length = h->n_embd / h->n_head;
    FT_TRY(ft_gguf__u32(w, "*.attention.value_length", 1, EMBD_MAX, &value_length));
    if (key_length != value_length) {
        return ft_gguf__fail(w, FT_UNSUP, 0,
                             "%s.attention.key_length is %" PRIu32 " and value_length is %" PRIu32
                             ": they must be equal",
                             w->arch, key_length, value_length);
    }
    if (key_length < HEAD_DIM_MIN || key_length > HEAD_DIM_MAX || key_length % HEAD_DIM_STEP != 0) {
        return ft_gguf__fail(w, FT_UNSUP, 0,
                             "heads are %" PRIu32
                             " wide (%s.attention.key_length or embedding_length / "
                             "head_count), expected a multiple of %d from %d to %d",
                             key_length, w->arch, HEAD_DIM_STEP, HEAD_DIM_MIN, HEAD_DIM_MAX);
    }
    n_rot = h->head_dim = key_length;
    FT_TRY(ft_gguf__u32(w, "*.rope.dimension_count", 0, UINT32_MAX, &n_rot));
    if (n_rot != h->head_dim) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "*.rope.dimension_count")->at,
                             "%s.rope.dimension_count is %" PRIu32 ", expected %" PRIu32
                             ", the width of a head",
                             w->arch, n_rot, h->head_dim);
    }
    return FT_OK;
}

static ft_status check_sizes(const struct ft_gguf_walk *w, struct ft_hparams *h) {
    static const char *const needed[] = {
        "*.context_length",      "*.embedding_length",     "*.block_count",
        "*.feed_forward_length", "*.attention.head_count", "*.attention.layer_norm_rms_epsilon",
    };
    for (size_t i = 0; i < FT_COUNT(needed); i++) {
        FT_TRY(ft_gguf__need(w, needed[i]));
    }
    FT_TRY(ft_gguf__u32(w, "*.context_length", 1, CTX_MAX, &h->n_ctx_train));
    FT_TRY(ft_gguf__u32(w, "*.embedding_length", 1, EMBD_MAX, &h->n_embd));
    FT_TRY(ft_gguf__u32(w, "*.block_count", 1, LAYER_MAX, &h->n_layer));
    FT_TRY(layer_number(w, "*.feed_forward_length", h->n_layer, FF_MAX, &h->n_ff));
    FT_TRY(check_heads(w, h));
    FT_TRY(ft_gguf__f32(w, "*.attention.layer_norm_rms_epsilon", &h->rms_eps));
    if (!(h->rms_eps > 0 && h->rms_eps < 1)) {
        return ft_gguf__fail(
            w, FT_FORMAT, ft_gguf__find(w, "*.attention.layer_norm_rms_epsilon")->at,
            "%s.attention.layer_norm_rms_epsilon is %g, expected above 0 and below 1", w->arch,
            (double)h->rms_eps);
    }
    return FT_OK;
}

/* ---- rotary positions, with libllama's defaults (llama-model.cpp and llama-context.cpp of
 * v0.5.0) ---- */

static ft_status positive(const struct ft_gguf_walk *w, const char *name, double lo, double hi,
                          float *out) {
    FT_TRY(ft_gguf__f32(w, name, out));
    if (*out >= (float)lo && *out <= (float)hi) {
        return FT_OK;
    }
    return ft_gguf__fail(w, FT_FORMAT, ft_gguf__find(w, name)->at, "%s%s is %g, expected %g..%g",
                         w->arch, name + 1, (double)*out, lo, hi);
}

static ft_status check_rope_scaling(const struct ft_gguf_walk *w, struct ft_hparams *h) {
    struct ft_gguf_span type = { .text = "linear",
                                 .n = 6 }; /* libllama's default, with a factor of 1 */
    FT_TRY(ft_gguf__string(w, "*.rope.scaling.type", &type));
    bool is_yarn = ft_gguf__is(type, "yarn"), is_none = ft_gguf__is(type, "none");
    if (!is_yarn && !is_none && !ft_gguf__is(type, "linear")) {
        return ft_gguf__fail(w, FT_UNSUP, ft_gguf__find(w, "*.rope.scaling.type")->at,
                             "%s.rope.scaling.type is '%.*s', expected none, linear or yarn",
                             w->arch, (int)FT_MIN(type.n, (size_t)40), type.text);
    }
    const char *name = ft_gguf__find(w, "*.rope.scaling.factor") != NULL ? "*.rope.scaling.factor"
                                                                         : "*.rope.scale_linear";
    const struct ft_gguf_key *key = ft_gguf__find(w, name);
    float factor = 1;
    if (key != NULL &&
        !(key->type == FT_GGUF_F32 && ft_gguf__number(w, key, 0) == 0)) { /* 0 says: none */
        FT_TRY(positive(w, name, is_yarn ? 1 : 1e-3, 1e6, &factor));
    }
    h->rope_freq_scale = is_none ? 1 : 1 / factor;
    h->rope_ext_factor = is_yarn ? 1 : 0;
    /* libllama cancels ggml's YaRN magnitude and multiplies by this key alone */
    h->rope_attn_factor = 1;
    return positive(w, "*.rope.scaling.attn_factor", 1e-3, 1e3, &h->rope_attn_factor);
}

static ft_status check_rope(const struct ft_gguf_walk *w, struct ft_hparams *h) {
    h->rope_base = 10000;
    FT_TRY(positive(w, "*.rope.freq_base", 1, 1e15, &h->rope_base));
    h->rope_n_ctx_orig = h->n_ctx_train;
    FT_TRY(
        ft_gguf__u32(w, "*.rope.scaling.original_context_length", 1, CTX_MAX, &h->rope_n_ctx_orig));
    FT_TRY(check_rope_scaling(w, h));
    bool ignored;
    return ft_gguf__bool(w, "*.rope.scaling.finetuned", &ignored);
}

/* ---- what a model calls itself ---- */

static const char *file_type_text(uint32_t file_type) {
    static const char *const names[] = {
        [LLAMA_FTYPE_ALL_F32] = "F32",
        [LLAMA_FTYPE_MOSTLY_F16] = "F16",
        [LLAMA_FTYPE_MOSTLY_Q4_0] = "Q4_0",
        [LLAMA_FTYPE_MOSTLY_Q4_1] = "Q4_1",
        [LLAMA_FTYPE_MOSTLY_Q8_0] = "Q8_0",
        [LLAMA_FTYPE_MOSTLY_Q5_0] = "Q5_0",
        [LLAMA_FTYPE_MOSTLY_Q5_1] = "Q5_1",
        [LLAMA_FTYPE_MOSTLY_Q2_K] = "Q2_K",
        [LLAMA_FTYPE_MOSTLY_Q3_K_S] = "Q3_K_S",
        [LLAMA_FTYPE_MOSTLY_Q3_K_M] = "Q3_K_M",
        [LLAMA_FTYPE_MOSTLY_Q3_K_L] = "Q3_K_L",
        [LLAMA_FTYPE_MOSTLY_Q4_K_S] = "Q4_K_S",
        [LLAMA_FTYPE_MOSTLY_Q4_K_M] = "Q4_K_M",
        [LLAMA_FTYPE_MOSTLY_Q5_K_S] = "Q5_K_S",
        [LLAMA_FTYPE_MOSTLY_Q5_K_M] = "Q5_K_M",
        [LLAMA_FTYPE_MOSTLY_Q6_K] = "Q6_K",
        [LLAMA_FTYPE_MOSTLY_IQ2_XXS] = "IQ2_XXS",
        [LLAMA_FTYPE_MOSTLY_IQ2_XS] = "IQ2_XS",
        [LLAMA_FTYPE_MOSTLY_Q2_K_S] = "Q2_K_S",
        [LLAMA_FTYPE_MOSTLY_IQ3_XS] = "IQ3_XS",
        [LLAMA_FTYPE_MOSTLY_IQ3_XXS] = "IQ3_XXS",
        [LLAMA_FTYPE_MOSTLY_IQ1_S] = "IQ1_S",
        [LLAMA_FTYPE_MOSTLY_IQ4_NL] = "IQ4_NL",
        [LLAMA_FTYPE_MOSTLY_IQ3_S] = "IQ3_S",
        [LLAMA_FTYPE_MOSTLY_IQ3_M] = "IQ3_M",
        [LLAMA_FTYPE_MOSTLY_IQ2_S] = "IQ2_S",
        [LLAMA_FTYPE_MOSTLY_IQ2_M] = "IQ2_M",
        [LLAMA_FTYPE_MOSTLY_IQ4_XS] = "IQ4_XS",
        [LLAMA_FTYPE_MOSTLY_IQ1_M] = "IQ1_M",
        [LLAMA_FTYPE_MOSTLY_BF16] = "BF16",
        [LLAMA_FTYPE_MOSTLY_TQ1_0] = "TQ1_0",
        [LLAMA_FTYPE_MOSTLY_TQ2_0] = "TQ2_0",
        [LLAMA_FTYPE_MOSTLY_MXFP4_MOE] = "MXFP4",
        [LLAMA_FTYPE_MOSTLY_NVFP4] = "NVFP4",
        [LLAMA_FTYPE_MOSTLY_Q1_0] = "Q1_0",
        [LLAMA_FTYPE_MOSTLY_Q2_0] = "Q2_0",
    };
    return file_type < FT_COUNT(names) && names[file_type] != NULL ? names[file_type] : "unknown";
}

static ft_status check_labels(const struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    struct ft_gguf_span name = { .text = "", .n = 0 };
    uint32_t file_type = UINT32_MAX;
    FT_TRY(ft_gguf__string(w, "general.name", &name));
    FT_TRY(ft_gguf__u32(w, "general.file_type", 0, UINT32_MAX, &file_type));
    facts->file_type = file_type_text(file_type & ~(uint32_t)LLAMA_FTYPE_GUESSED);
    facts->name = ft_alloc(name.n + 1, 1);
    if (facts->name == NULL) {
        return ft_gguf__fail(w, FT_NOMEM, 0, "no memory for a name of %zu bytes", name.n);
    }
    memcpy(facts->name, name.text, name.n);
    return FT_OK;
}

static ft_status check_split(const struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    uint32_t no = 0, count = 1;
    FT_TRY(ft_gguf__u16(w, "split.count", 0, UINT16_MAX, &count));
    FT_TRY(ft_gguf__u16(w, "split.no", 0, UINT16_MAX, &no));
    facts->split_count = FT_MAX(count, 1u);
    facts->split_no = no;
    facts->split_tensors = facts->n_tensor;
    FT_TRY(ft_gguf__i32(w, "split.tensors.count", 65536, &facts->split_tensors));
    if (no >= facts->split_count) {
        return ft_gguf__fail(w, FT_FORMAT, ft_gguf__find(w, "split.no")->at,
                             "split.no is %" PRIu32 ", expected 0..%" PRIu32, no,
                             facts->split_count - 1);
    }
    return count > 1 ? ft_gguf__need(w, "split.tensors.count") : FT_OK;
}

/* ---- the whole check ---- */

static ft_status check_rules(struct ft_gguf_walk *w, struct ft_gguf_facts *facts) {
    struct ft_hparams *h = &facts->hparams;
    FT_TRY(check_split(w, facts));
    if (facts->split_no > 0) { /* later files hold tensors and nothing else */
        facts->name = ft_strdup("");
        facts->file_type = "unknown";
        return facts->name != NULL ? FT_OK : ft_gguf__fail(w, FT_NOMEM, 0, "no memory for a name");
    }
    FT_TRY(check_arch(w, h));
    FT_TRY(check_labels(w, facts));
    if (facts->n_tensor == 0 && facts->split_count == 1) {
        return ft_gguf__fail(w, FT_FORMAT, 8,
                             "the file has no tensors: it holds a vocabulary, not a model");
    }
    FT_TRY(check_refusals(w));
    FT_TRY(check_sizes(w, h));
    FT_TRY(check_rope(w, h));
    return ft_gguf__vocab(w, facts);
}

ft_status ft_gguf_check(const struct ft_file_map *file, const char *path,
                        struct ft_gguf_facts *facts, struct ft_error *err) {
    struct ft_gguf_walk walk = { .data = file->data, .size = file->size, .arch = "", .err = err };
    struct ft_gguf_facts found = { .name = NULL };
    ft_gguf__label(walk.label, path);
    ft_status status = ft_gguf__walk(&walk, &found);
    if (status == FT_OK) {
        status = check_rules(&walk, &found);
    }
    if (status == FT_OK && found.split_count == 1) {
        status = ft_gguf_check_set(&found, 1, path, err);
    }
    ft_gguf__walk_done(&walk);
    if (status != FT_OK) {
        ft_gguf_facts_done(&found);
        return status;
    }
    *facts = found;
    return FT_OK;
}

void ft_gguf_facts_done(struct ft_gguf_facts *facts) {
    if (facts != NULL) {
        ft_free(facts->name);
        ft_free(facts->tensor);
        facts->name = NULL;
        facts->tensor = NULL;
        facts->n_tensor = 0;
    }
}
