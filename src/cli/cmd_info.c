/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_info.c - a model's sizes, the memory a run would take, whether a pair fits: headers only. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { SIZES_CAP = 8 };

struct estimates {
    uint32_t n;
    uint32_t n_ctx[SIZES_CAP];
    struct ft_estimate at[SIZES_CAP];
    struct ft_error error[SIZES_CAP]; /* code FT_OK: at is filled */
};

/* What --kv-type gives each layer, where it packs rows. */
struct layers {
    uint32_t n;
    struct ft_kv_layer *at; /* owned */
};

/* read_layers - kvq looks at the weights: the model is mapped for it. */
static ft_status read_layers(const struct ft_setup *setup, struct layers *out,
                             struct ft_error *error) {
    ft_model *model = NULL;
    struct ft_model_info info;
    const char *kv_type = setup->conf->kv_type ? setup->params.kv_type : NULL;
    if (!kv_type) {
        return FT_OK;
    }
    ft_status status = ft_model_open(setup->conf->model, FT_LOAD_PLAIN, &model, error);
    if (status != FT_OK) {
        return status;
    }
    ft_model_info(model, &info);
    out->at = ft_alloc(info.n_layer, sizeof *out->at);
    status = out->at ? ft_kv_type_layers(model, kv_type, out->at, error)
                     : ft_fail(error, FT_NOMEM, 0, "not enough memory for a table");
    out->n = status == FT_OK && out->at[0].k_bits > 0 ? info.n_layer : 0;
    ft_model_close(model);
    return status;
}

static void print_layers(const struct ft_setup *setup, const struct layers *layers) {
    if (layers->n == 0) {
        return;
    }
    ft_out("rows of each layer  --kv-type ");
    ft_out_safe(setup->params.kv_type);
    ft_out("\n  %5s  %8s  %8s  %6s  %6s  %7s  %7s\n", "layer", "|W_K|", "|W_V|", "K bits", "V bits",
           "K group", "V group");
    for (uint32_t l = 0; l < layers->n; l++) {
        const struct ft_kv_layer *at = &layers->at[l];
        if (at->k_norm > 0) {
            ft_out("  %5u  %8.3g  %8.3g", l, at->k_norm, at->v_norm);
        } else {
            ft_out("  %5u  %8s  %8s", l, "-", "-");
        }
        ft_out("  %6u  %6u  %7u  %7u\n", at->k_bits, at->v_bits, at->k_group, at->v_group);
    }
}

static json_t *layers_value(const struct layers *layers) {
    json_t *value = json_array();
    for (uint32_t l = 0; l < layers->n; l++) {
        const struct ft_kv_layer *at = &layers->at[l];
        json_t *one = json_object();
        json_object_set_new(one, "k_norm", at->k_norm > 0 ? json_real(at->k_norm) : json_null());
        json_object_set_new(one, "v_norm", at->v_norm > 0 ? json_real(at->v_norm) : json_null());
        json_object_set_new(one, "k_bits", json_integer(at->k_bits));
        json_object_set_new(one, "v_bits", json_integer(at->v_bits));
        json_object_set_new(one, "k_group", json_integer(at->k_group));
        json_object_set_new(one, "v_group", json_integer(at->v_group));
        json_array_append_new(value, one);
    }
    return value;
}

/* choose_sizes - the context asked for, or round sizes up to the trained one. */
static void choose_sizes(const struct ft_conf *conf, const struct ft_model_info *info,
                         struct estimates *out) {
    if (conf->n_ctx > 0) {
        out->n_ctx[out->n++] = conf->n_ctx;
        return;
    }
    for (uint32_t size = 1024; size < info->n_ctx_train && out->n < SIZES_CAP - 1; size *= 4) {
        out->n_ctx[out->n++] = size;
    }
    out->n_ctx[out->n++] = info->n_ctx_train;
}

/* estimate - every size; methods that need the draft have no figures where the pair does not

 * fit. */
static void estimate(const struct ft_setup *setup, const struct ft_error *misfit,
                     struct estimates *out) {
    for (uint32_t i = 0; i < out->n; i++) {
        if (setup->needs_draft && misfit->code != FT_OK) {
            out->error[i] = *misfit;
            continue;
        }
        struct ft_session_params params = setup->params;
        params.n_ctx = 0;
        uint32_t most = ft_conf_has(setup->conf, "-n") ? out->n_ctx[i] - 1 : out->n_ctx[i] / 2;
        params.n_predict = FT_MIN(params.n_predict, FT_MAX(most, 1u));
        uint32_t n_prompt = FT_MAX(out->n_ctx[i] - params.n_predict, 1u);
        const ft_model *draft = setup->needs_draft ? setup->draft : NULL;
        out->error[i] = (struct ft_error){ 0 };
        ft_status status =
            ft_estimate(setup->target, draft, &params, n_prompt, &out->at[i], &out->error[i]);
        out->error[i].code = status;
    }
}

static void print_model(const char *role, const ft_model *model) {
    struct ft_model_info info;
    char file[24], tensors[24], repacked[24];
    ft_model_info(model, &info);
    ft_out("%s  ", role);
    ft_out_safe(info.path);
    ft_out("\n  name           ");
    ft_out_safe(info.name[0] ? info.name : "(none)");
    ft_out("\n  architecture   ");
    ft_out_safe(info.arch);
    ft_out("\n  file type      ");
    ft_out_safe(info.file_type);
    ft_out("\n  parameters     %.1f M\n", (double)info.n_param / 1e6);
    ft_out("  shape          %u layers, %u wide, %u/%u heads of %u, feed-forward %u\n",
           info.n_layer, info.n_embd, info.n_head, info.n_head_kv, info.head_dim, info.n_ff);
    ft_out("  vocabulary     %u ids, %u of them in use\n", info.n_vocab, info.n_vocab_real);
    ft_out("  trained for    %u tokens\n", info.n_ctx_train);
    ft_out("  chat template  %s\n", info.has_chat_template ? "yes" : "no");
    ft_out("  size           %s file, %s weights, %s of them repacked\n",
           ft_size_text(info.file_bytes, file), ft_size_text(info.tensor_bytes, tensors),
           ft_size_text(info.repacked_bytes, repacked));
    ft_out("  fingerprint    %s\n", info.fingerprint);
}

static void print_estimate(uint32_t n_ctx, const struct ft_estimate *at) {
    char weights[24], kv[24], peak[24], draft[24], rest[24], total[24];
    ft_out("  %8u  %-10s  %-10s  %-10s  %-10s  %-10s  %-10s  %s\n", n_ctx,
           ft_size_text(at->weights_bytes + at->draft_weights_bytes, weights),
           ft_size_text(at->kv_bytes, kv), ft_size_text(at->kv_bytes_peak, peak),
           ft_size_text(at->draft_kv_bytes_peak, draft),
           ft_size_text(at->activation_bytes + at->compute_bytes, rest),
           ft_size_text(at->total_bytes, total), at->fits ? "yes" : at->why);
}

static void print_text(const struct ft_setup *setup, const struct estimates *estimates,
                       const char *misfit) {
    char available[24];
    print_model("target", setup->target);
    if (setup->draft) {
        print_model("draft", setup->draft);
        ft_out("pair  %s%s\n", misfit ? "does not fit: " : "fits: both share their token ids",
               misfit ? misfit : "");
    }
    ft_out("memory of a run  --prompt %s --kv %s\n",
           setup->params.prompt ? setup->params.prompt : "dense",
           setup->params.kv ? setup->params.kv : "dense");
    ft_out("  %8s  %-10s  %-10s  %-10s  %-10s  %-10s  %-10s  %s\n", "context", "weights", "KV",
           "KV peak", "draft KV", "buffers", "total", "fits");
    for (uint32_t i = 0; i < estimates->n; i++) {
        if (estimates->error[i].code == FT_OK) {
            print_estimate(estimates->n_ctx[i], &estimates->at[i]);
        } else {
            ft_out("  %8u  ", estimates->n_ctx[i]);
            ft_out_safe(estimates->error[i].text);
            ft_out("\n");
        }
    }
    for (uint32_t i = 0; i < estimates->n; i++) {
        if (estimates->error[i].code == FT_OK) {
            ft_out("  available now  %s (MemAvailable, or less by a cgroup or ulimit -v)\n",
                   ft_size_text(estimates->at[i].available_bytes, available));
            break;
        }
    }
}

static json_t *model_value(const ft_model *model) {
    struct ft_model_info info;
    json_t *value = ft_json_model(model);
    ft_model_info(model, &info);
    json_object_set_new(value, "n_embd", json_integer(info.n_embd));
    json_object_set_new(value, "n_head", json_integer(info.n_head));
    json_object_set_new(value, "n_head_kv", json_integer(info.n_head_kv));
    json_object_set_new(value, "head_dim", json_integer(info.head_dim));
    json_object_set_new(value, "n_ff", json_integer(info.n_ff));
    json_object_set_new(value, "n_vocab", json_integer(info.n_vocab));
    json_object_set_new(value, "n_vocab_real", json_integer(info.n_vocab_real));
    json_object_set_new(value, "has_chat_template", json_boolean(info.has_chat_template));
    json_object_set_new(value, "has_bos", json_boolean(info.has_bos));
    return value;
}

static json_t *bytes(uint64_t n) {
    return n > INT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *estimate_value(uint32_t n_ctx, const struct ft_estimate *at,
                              const struct ft_error *error) {
    json_t *value = json_object();
    json_object_set_new(value, "n_ctx", json_integer(n_ctx));
    if (error->code != FT_OK) {
        json_object_set_new(value, "fits", json_false());
        json_object_set_new(value, "why", ft_json_text(error->text));
        return value;
    }
    json_object_set_new(value, "weights_bytes", bytes(at->weights_bytes));
    json_object_set_new(value, "draft_weights_bytes", bytes(at->draft_weights_bytes));
    json_object_set_new(value, "kv_bytes", bytes(at->kv_bytes));
    json_object_set_new(value, "kv_bytes_peak", bytes(at->kv_bytes_peak));
    json_object_set_new(value, "draft_kv_bytes_peak", bytes(at->draft_kv_bytes_peak));
    json_object_set_new(value, "activation_bytes", bytes(at->activation_bytes));
    json_object_set_new(value, "compute_bytes", bytes(at->compute_bytes));
    json_object_set_new(value, "total_bytes", bytes(at->total_bytes));
    json_object_set_new(value, "available_bytes", bytes(at->available_bytes));
    json_object_set_new(value, "fits", json_boolean(at->fits));
    json_object_set_new(value, "why", ft_json_text(at->why));
    return value;
}

static void print_json(const struct ft_setup *setup, const struct estimates *estimates,
                       const struct layers *layers, const char *misfit) {
    json_t *root = json_object(), *memory = json_array(), *pair = json_null();
    for (uint32_t i = 0; i < estimates->n; i++) {
        json_array_append_new(
            memory, estimate_value(estimates->n_ctx[i], &estimates->at[i], &estimates->error[i]));
    }
    if (setup->draft) {
        pair = json_object();
        json_object_set_new(pair, "fits", json_boolean(misfit == NULL));
        json_object_set_new(pair, "why", ft_json_text(misfit ? misfit : ""));
    }
    json_object_set_new(root, "target", model_value(setup->target));
    json_object_set_new(root, "draft", setup->draft ? model_value(setup->draft) : json_null());
    json_object_set_new(root, "pair", pair);
    json_object_set_new(root, "memory", memory);
    json_object_set_new(root, "kv_layers", layers_value(layers));
    ft_json_print(root);
}

/* with_arguments - MODEL and DRAFT may be bare arguments instead of -m and -d. */
static int with_arguments(const struct ft_conf *conf, struct ft_conf *out) {
    uint32_t next = 0;
    *out = *conf;
    if (!out->model && next < conf->n_arg) {
        out->model = conf->arg[next++];
    }
    if (!out->draft && next < conf->n_arg) {
        out->draft = conf->arg[next++];
    }
    if (next < conf->n_arg) {
        return ft_complain(FT_EXIT_USAGE, "info: unexpected argument \"%.100s\"", conf->arg[next]);
    }
    return out->model ? FT_EXIT_OK
                      : ft_complain(FT_EXIT_USAGE,
                                    "info: which model? usage: foretoken info MODEL [DRAFT]");
}

/* For scripts: the pair does not fit together, or a run of the length asked for does not fit into
 * memory.  Lengths that nobody asked for are a table, not a question. */
static bool is_no(const struct ft_conf *conf, const struct estimates *estimates,
                  const char *misfit) {
    bool is_tight = false;
    for (uint32_t i = 0; i < estimates->n; i++) {
        is_tight = is_tight || estimates->error[i].code != FT_OK || !estimates->at[i].fits;
    }
    return misfit != NULL || (conf->n_ctx > 0 && is_tight);
}

int ft_cmd_info(const struct ft_conf *conf) {
    struct ft_conf own;
    struct ft_setup setup = { 0 };
    struct estimates estimates = { 0 };
    struct ft_model_info info;
    struct ft_error misfit = { 0 }, error = { 0 };
    struct layers layers = { 0 };
    int code = with_arguments(conf, &own);
    if (code == FT_EXIT_OK) {
        code = ft_setup_init(&setup, &own);
    }
    if (code == FT_EXIT_OK) {
        code = ft_setup_peek(&setup, &misfit);
    }
    if (code == FT_EXIT_OK && read_layers(&setup, &layers, &error) != FT_OK) {
        code = ft_complain_error(NULL, &error);
    }
    if (code == FT_EXIT_OK) {
        ft_model_info(setup.target, &info);
        choose_sizes(&own, &info, &estimates);
        estimate(&setup, &misfit, &estimates);
        const char *why = misfit.code != FT_OK ? misfit.text : NULL;
        if (own.is_json) {
            print_json(&setup, &estimates, &layers, why);
        } else {
            print_text(&setup, &estimates, why);
            print_layers(&setup, &layers);
        }
        code = is_no(&own, &estimates, why) ? FT_EXIT_FAILED : FT_EXIT_OK;
    }
    ft_free(layers.at);
    ft_setup_done(&setup);
    return code;
}
