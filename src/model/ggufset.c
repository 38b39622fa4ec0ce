/* SPDX-License-Identifier: Apache-2.0 */
/* ggufset.c - the tensors of a model, over all of its files: names, shapes, once each, none
 * missing. */
#include <ggml.h>
#include <inttypes.h>
#include <string.h>

#include "model/ggufwalk.h"

enum { LAYER_MAX = 512 }; /* LLAMA_MAX_LAYERS; ggufcheck.c refuses more */

enum family { LLAMA = 1, QWEN2 = 2, QWEN3 = 4, ANY = 7 };

static unsigned family_of(const char *arch) {
    return strcmp(arch, "llama") == 0 ? LLAMA : strcmp(arch, "qwen2") == 0 ? QWEN2 : QWEN3;
}

enum dim { NONE, EMBD, VOCAB, Q, KV, FF, HEAD, ROT };

enum { REQUIRED = 1, MATRIX = 2 };

struct rule {
    const char *name;
    enum dim ne[2];
    unsigned family, flags;
};

static const struct rule model_rules[] = {
    { "token_embd.weight", { EMBD, VOCAB }, ANY, REQUIRED | MATRIX },
    { "output_norm.weight", { EMBD, NONE }, ANY, REQUIRED },
    { "output.weight", { EMBD, VOCAB }, ANY, MATRIX },
    { "output.bias", { VOCAB, NONE }, QWEN2, 0 },
    { "rope_freqs.weight", { ROT, NONE }, LLAMA, 0 },
};

static const struct rule layer_rules[] = {
    { "attn_norm.weight", { EMBD, NONE }, ANY, REQUIRED },
    { "attn_q.weight", { EMBD, Q }, ANY, REQUIRED | MATRIX },
    { "attn_k.weight", { EMBD, KV }, ANY, REQUIRED | MATRIX },
    { "attn_v.weight", { EMBD, KV }, ANY, REQUIRED | MATRIX },
    { "attn_q.bias", { Q, NONE }, ANY, 0 },
    { "attn_k.bias", { KV, NONE }, ANY, 0 },
    { "attn_v.bias", { KV, NONE }, ANY, 0 },
    { "attn_q_norm.weight", { HEAD, NONE }, QWEN3, REQUIRED },
    { "attn_k_norm.weight", { HEAD, NONE }, QWEN3, REQUIRED },
    { "attn_output.weight", { Q, EMBD }, ANY, REQUIRED | MATRIX },
    { "attn_output.bias", { EMBD, NONE }, LLAMA, 0 },
    { "ffn_norm.weight", { EMBD, NONE }, ANY, REQUIRED },
    { "ffn_gate.weight", { EMBD, FF }, ANY, REQUIRED | MATRIX },
    { "ffn_up.weight", { EMBD, FF }, ANY, REQUIRED | MATRIX },
    { "ffn_down.weight", { FF, EMBD }, ANY, REQUIRED | MATRIX },
    { "ffn_gate.bias", { FF, NONE }, LLAMA, 0 },
    { "ffn_up.bias", { FF, NONE }, LLAMA, 0 },
    { "ffn_down.bias", { EMBD, NONE }, LLAMA, 0 },
};

enum { N_MODEL = FT_COUNT(model_rules), N_LAYER_RULE = FT_COUNT(layer_rules) };

struct set {
    struct ft_gguf_walk walk; /* for messages only */
    const struct ft_hparams *h;
    unsigned family;
    bool *seen; /* [N_MODEL + n_layer * N_LAYER_RULE] */
};

static uint64_t dim_size(const struct ft_hparams *h, enum dim dim) {
    switch (dim) {
    case EMBD:
        return h->n_embd;
    case VOCAB:
        return h->n_vocab;
    case Q:
        return (uint64_t)h->n_head * h->head_dim;
    case KV:
        return (uint64_t)h->n_head_kv * h->head_dim;
    case FF:
        return h->n_ff;
    case HEAD:
        return h->head_dim;
    case ROT:
        return h->head_dim / 2;
    case NONE:
        break;
    }
    return 1;
}

/* The layer in "blk.N." and the rest of the name; false for any other spelling of a number. */
static bool layer_name(const char *name, uint32_t n_layer, uint32_t *layer, const char **rest) {
    if (strncmp(name, "blk.", 4) != 0) {
        return false;
    }
    uint32_t value = 0;
    const char *p = name + 4;
    for (; *p >= '0' && *p <= '9' && value < LAYER_MAX; p++) {
        value = 10 * value + (uint32_t)(*p - '0');
    }
    bool is_plain = p > name + 4 && (name[4] != '0' || p == name + 5);
    *layer = value;
    *rest = p + 1;
    return is_plain && *p == '.' && value < n_layer;
}

/* The rule for a name and the place of its mark; NULL when no rule knows it. */
static const struct rule *rule_find(const struct set *s, const char *name, size_t *mark) {
    uint32_t layer;
    const char *rest = name;
    bool is_layer = layer_name(name, s->h->n_layer, &layer, &rest);
    const struct rule *rule = is_layer ? layer_rules : model_rules;
    size_t n = is_layer ? (size_t)N_LAYER_RULE : (size_t)N_MODEL;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(rule[i].name, rest) == 0 && (rule[i].family & s->family) != 0) {
            *mark = is_layer ? N_MODEL + (size_t)layer * N_LAYER_RULE + i : i;
            return &rule[i];
        }
    }
    return NULL;
}

static ft_status unknown_tensor(const struct set *s, const struct ft_gguf_tensor *t) {
    const char *why = "";
    if (strstr(t->name, "attn_qkv") != NULL) {
        why = ": fused q, k and v are not supported";
    } else if (strstr(t->name, "_exps") != NULL || strstr(t->name, "ffn_gate_inp") != NULL) {
        why = ": mixtures of experts are not supported";
    } else if (strstr(t->name, ".scale") != NULL || strstr(t->name, "_scale") != NULL) {
        why = ": scaled weights are not supported";
    }
    return ft_gguf__fail(&s->walk, FT_UNSUP, t->where, "tensor %s is unknown in architecture %s%s",
                         t->name, s->h->arch, why);
}

static ft_status check_tensor(const struct set *s, const struct ft_gguf_tensor *t) {
    size_t mark = 0;
    const struct rule *rule = rule_find(s, t->name, &mark);
    if (rule == NULL) {
        return unknown_tensor(s, t);
    }
    uint64_t ne0 = dim_size(s->h, rule->ne[0]), ne1 = dim_size(s->h, rule->ne[1]);
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != 1 || t->ne[3] != 1) {
        return ft_gguf__fail(
            &s->walk, FT_FORMAT, t->where,
            "tensor %s is %" PRIu64 " x %" PRIu64 "%s, expected %" PRIu64 " x %" PRIu64, t->name,
            t->ne[0], t->ne[1], t->ne[2] * t->ne[3] != 1 ? " x ..." : "", ne0, ne1);
    }
    if ((rule->flags & MATRIX) == 0 && t->type != GGML_TYPE_F32) {
        return ft_gguf__fail(&s->walk, FT_UNSUP, t->where, "tensor %s has type %s, expected f32",
                             t->name, ggml_type_name((enum ggml_type)t->type));
    }
    if (s->seen[mark]) {
        return ft_gguf__fail(&s->walk, FT_FORMAT, t->where, "tensor %s occurs twice", t->name);
    }
    s->seen[mark] = true;
    return FT_OK;
}

static ft_status check_missing(const struct set *s) {
    for (size_t i = 0; i < N_MODEL; i++) {
        if ((model_rules[i].flags & REQUIRED) != 0 && !s->seen[i]) {
            return ft_gguf__fail(&s->walk, FT_FORMAT, 0, "tensor %s is missing",
                                 model_rules[i].name);
        }
    }
    for (uint32_t l = 0; l < s->h->n_layer; l++) {
        for (size_t i = 0; i < N_LAYER_RULE; i++) {
            const struct rule *rule = &layer_rules[i];
            bool is_needed = (rule->flags & REQUIRED) != 0 && (rule->family & s->family) != 0;
            if (is_needed && !s->seen[N_MODEL + (size_t)l * N_LAYER_RULE + i]) {
                return ft_gguf__fail(&s->walk, FT_FORMAT, 0, "tensor blk.%" PRIu32 ".%s is missing",
                                     l, rule->name);
            }
        }
    }
    return FT_OK;
}

static ft_status check_files(const struct set *s, const struct ft_gguf_facts *facts,
                             uint32_t n_file) {
    uint64_t n_tensor = 0;
    for (uint32_t f = 0; f < n_file; f++) {
        if (facts[f].split_no != f || (f > 0 && facts[f].split_count != n_file)) {
            return ft_gguf__fail(&s->walk, FT_FORMAT, 0,
                                 "file %" PRIu32 " of %" PRIu32 " says that it is number %" PRIu32
                                 " of %" PRIu32,
                                 f + 1, n_file, facts[f].split_no + 1, facts[f].split_count);
        }
        n_tensor += facts[f].n_tensor;
        for (uint32_t i = 0; i < facts[f].n_tensor; i++) {
            FT_TRY(check_tensor(s, &facts[f].tensor[i]));
        }
    }
    if (n_tensor != facts[0].split_tensors) {
        return ft_gguf__fail(&s->walk, FT_FORMAT, 0,
                             "split.tensors.count is %" PRIu32 ", but the files hold %" PRIu64
                             " tensors",
                             facts[0].split_tensors, n_tensor);
    }
    return check_missing(s);
}

ft_status ft_gguf_check_set(struct ft_gguf_facts *facts, uint32_t n_file, const char *path,
                            struct ft_error *err) {
    const struct ft_hparams *h = &facts[0].hparams;
    struct set s = { .h = h,
                     .family = h->arch == NULL ? 0 : family_of(h->arch),
                     .walk = { .err = err } };
    ft_gguf__label(s.walk.label, path);
    if (h->arch == NULL || n_file != facts[0].split_count) {
        return ft_gguf__fail(&s.walk, FT_FORMAT, 0,
                             "%" PRIu32 " files were given, expected all %" PRIu32
                             " of the set, the first one first",
                             n_file, facts[0].split_count);
    }
    s.seen = ft_alloc(N_MODEL + (size_t)h->n_layer * N_LAYER_RULE, sizeof(*s.seen));
    if (s.seen == NULL) {
        return ft_gguf__fail(&s.walk, FT_NOMEM, 0, "no memory to check %" PRIu32 " layers",
                             h->n_layer);
    }
    ft_status status = check_files(&s, facts, n_file);
    if (status == FT_OK) {
        facts[0].is_tied = !s.seen[2];
        facts[0].has_rope_freqs = s.seen[4];
    }
    ft_free(s.seen);
    return status;
}
