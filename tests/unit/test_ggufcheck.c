/* SPDX-License-Identifier: Apache-2.0 */
/* test_ggufcheck.c - every rule of the GGUF check: one change to a good file, one sentence as the
 * answer. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "gguf_edit.h"
#include "model/ggufcheck.h"

#ifndef FT_TEST_SCRATCH_DIR
#define FT_TEST_SCRATCH_DIR "."
#endif

/* ---- models to start from ---- */

static const char *make(const char *name, const char *options) {
    static char path[512];
    char command[2048];
    snprintf(path, sizeof(path), "%s/%s.gguf", FT_TEST_SCRATCH_DIR, name);
    snprintf(command, sizeof(command), "%s/mkmodel %s %s", FT_TEST_BIN_DIR, path, options);
    assert_int_equal(system(command), 0);
    return path;
}

#define SMALL "--layers 2 --embd 32 --heads 2 --kv-heads 1 --ff 32 --vocab 272 --ctx 512 "

/* A vocabulary as in Llama 2: scores, byte tokens, no merges. */
static void make_spm(struct ge *g) {
    char list[4096] = "strs tokenizer.ggml.tokens <unk>,<s>,</s>",
         types[2048] = "i32s tokenizer.ggml.token_type 2,3,3";
    char scores[2048] = "f32s tokenizer.ggml.scores 0,0,0";
    for (int i = 0; i < 256 + 13; i++) {
        size_t n = strlen(list);
        i < 256 ? snprintf(list + n, sizeof(list) - n, ",<0x%02X>", (unsigned)i)
                : snprintf(list + n, sizeof(list) - n, ",w%d", i);
        snprintf(types + strlen(types), sizeof(types) - strlen(types), i < 256 ? ",6" : ",1");
        snprintf(scores + strlen(scores), sizeof(scores) - strlen(scores), ",%d", -i);
    }
    ge_edit(g, "str tokenizer.ggml.model llama; del tokenizer.ggml.merges; del tokenizer.ggml.pre;"
               "u32 tokenizer.ggml.bos_token_id 1; u32 tokenizer.ggml.eos_token_id 2");
    ge_edit(g, list);
    ge_edit(g, types);
    ge_edit(g, scores);
}

struct check {
    ft_status status;
    struct ft_error err;
    struct ft_gguf_facts facts;
};

static struct check check_bytes(const uint8_t *data, size_t n) {
    struct check c = { .status = FT_OK };
    uint8_t *exact = malloc(n); /* no byte more, so that a sanitizer sees a read behind the end */
    memcpy(exact, data, n);
    struct ft_file_map map = { .data = exact, .size = n };
    c.status = ft_gguf_check(&map, "x.gguf", &c.facts, &c.err);
    free(exact);
    return c;
}

static struct check check_edit(const char *base, const char *edit) {
    struct ge g = ge_load(base);
    if (strncmp(edit, "SPM", 3) == 0) {
        make_spm(&g);
        edit += strspn(edit, "SPM; ");
    }
    ge_edit(&g, edit);
    size_t n;
    uint8_t *data = ge_build(&g, &n);
    struct check c = check_bytes(data, n);
    free(data);
    ge_free(&g);
    return c;
}

/* ---- rules ---- */

struct rule_case {
    const char *edit;
    ft_status status;
    const char *says; /* part of the message; NULL when accepted */
};

static const struct rule_case cases[] = {
    { "", FT_OK, NULL },
    /* architecture */
    { "str general.architecture mamba", FT_UNSUP,
      "general.architecture is 'mamba', expected llama, qwen2 or qwen3" },
    { "str general.architecture llama4", FT_UNSUP, "is 'llama4'" },
    { "del general.architecture", FT_FORMAT, "key general.architecture is missing" },
    { "u32 general.architecture 3", FT_FORMAT,
      "general.architecture has type u32, expected string" },
    { "str general.type adapter", FT_UNSUP, "general.type is 'adapter', expected model" },
    { "u32 general.name 3", FT_FORMAT, "general.name has type u32" },
    { "str general.name a\xff", FT_FORMAT, "general.name is not UTF-8" },
    /* refused by their keys */
    { "u32 llama.expert_count 8", FT_UNSUP, "llama.expert_count is 8: mixtures of experts" },
    { "u32 llama.expert_count 0", FT_OK, NULL },
    { "u32 llama.expert_used_count 2", FT_UNSUP, "llama.expert_used_count is 2" },
    { "u32s llama.expert_used_count 2,2", FT_UNSUP, "llama.expert_used_count is no number" },
    { "u32 llama.expert_group_count 2", FT_UNSUP, "llama.expert_group_count is 2" },
    { "u32 llama.expert_shared_count 1", FT_UNSUP, "llama.expert_shared_count is 1" },
    { "u32 llama.attention.sliding_window 4096", FT_UNSUP,
      "llama.attention.sliding_window is 4096: sliding-window" },
    { "u64 llama.attention.sliding_window 4096", FT_UNSUP,
      "llama.attention.sliding_window is 4096" },
    { "u32 llama.nextn_predict_layers 1", FT_UNSUP, "llama.nextn_predict_layers is 1" },
    { "f32 llama.attention.scale 0.5", FT_UNSUP, "llama.attention.scale is 0.5" },
    { "f32 llama.attention.scale nan", FT_UNSUP, "llama.attention.scale is nan" },
    { "f32 llama.logit_scale 0.5", FT_UNSUP, "llama.logit_scale is 0.5" },
    { "f32 llama.logit_scale 1", FT_OK, NULL },
    { "f32 llama.residual_scale 2", FT_UNSUP, "llama.residual_scale" },
    { "f32 llama.embedding_scale 2", FT_UNSUP, "llama.embedding_scale" },
    { "f32 llama.attn_logit_softcapping 50", FT_UNSUP, "llama.attn_logit_softcapping" },
    { "f32 llama.final_logit_softcapping 30", FT_UNSUP, "llama.final_logit_softcapping" },
    { "f32 llama.attention.max_alibi_bias 8", FT_UNSUP, "ALiBi" },
    { "f32 llama.attention.clamp_kqv 8", FT_UNSUP, "clamp_kqv" },
    { "u32 llama.attention.q_lora_rank 8", FT_UNSUP, "q_lora_rank" },
    { "u32 llama.attention.kv_lora_rank 8", FT_UNSUP, "kv_lora_rank" },
    { "u32 llama.pooling_type 1", FT_UNSUP, "llama.pooling_type is 1" },
    { "bool llama.attention.causal 0", FT_UNSUP, "llama.attention.causal is false" },
    { "bool llama.attention.causal 1", FT_OK, NULL },
    { "bool llama.attention.causal 2", FT_FORMAT, "llama.attention.causal is 2, expected 0 or 1" },
    /* sizes */
    { "del llama.context_length", FT_FORMAT, "key llama.context_length is missing" },
    { "del llama.attention.layer_norm_rms_epsilon", FT_FORMAT,
      "layer_norm_rms_epsilon is missing" },
    { "u32 llama.context_length 0", FT_FORMAT, "llama.context_length is 0, expected 1.." },
    { "u32 llama.context_length 4294967295", FT_FORMAT,
      "llama.context_length is 4294967295, expected 1.." },
    { "i32 llama.context_length 512", FT_FORMAT,
      "llama.context_length has type i32, expected u32" },
    { "u32 llama.embedding_length 0", FT_FORMAT, "llama.embedding_length is 0" },
    { "u32 llama.block_count 0", FT_FORMAT, "llama.block_count is 0, expected 1..512" },
    { "u32 llama.block_count 512", FT_FORMAT, "tensor blk.2.attn_norm.weight is missing" },
    { "u32 llama.block_count 513", FT_FORMAT, "llama.block_count is 513, expected 1..512" },
    { "u32 llama.block_count 1", FT_UNSUP, "tensor blk.1.attn_norm.weight is unknown" },
    { "u32 llama.feed_forward_length 0", FT_FORMAT, "llama.feed_forward_length is 0" },
    { "u32 llama.feed_forward_length 64", FT_FORMAT,
      "tensor blk.0.ffn_gate.weight is 32 x 32, expected 32 x 64" },
    { "u32s llama.feed_forward_length 32,32", FT_OK, NULL },
    { "i32s llama.feed_forward_length 32,32", FT_OK, NULL },
    { "u32s llama.feed_forward_length 32,64", FT_UNSUP,
      "feed_forward_length is 32 in layer 0 and 64 in layer 1" },
    { "u32s llama.feed_forward_length 32", FT_FORMAT,
      "feed_forward_length is an array of 1 elements, expected 2" },
    { "f32s llama.feed_forward_length 32,32", FT_FORMAT, "of type u32 or i32" },
    { "i32s llama.feed_forward_length -1,-1", FT_FORMAT,
      "feed_forward_length is -1, expected 1.." },
    { "u32s llama.attention.head_count_kv 1,1", FT_OK, NULL },
    { "u32s llama.attention.head_count_kv 1,2", FT_UNSUP,
      "head_count_kv is 1 in layer 0 and 2 in layer 1" },
    { "u32 llama.attention.head_count 0", FT_FORMAT, "llama.attention.head_count is 0" },
    { "u32 llama.attention.head_count 3; u32 llama.attention.head_count_kv 2", FT_FORMAT,
      "expected a divisor of head_count" },
    { "u32 llama.attention.head_count_kv 4", FT_FORMAT, "head_count_kv is 4, expected a divisor" },
    { "u32 llama.attention.head_count 1024; u32 llama.attention.head_count_kv 2", FT_UNSUP,
      "head_count_kv is 2 for 1024 heads: more than 256 heads of a group" },
    { "u32 llama.attention.head_count_kv 0", FT_FORMAT, "head_count_kv is 0" },
    { "u32 llama.attention.value_length 8", FT_UNSUP, "key_length is 16 and value_length is 8" },
    { "u32 llama.attention.key_length 12; u32 llama.attention.value_length 12", FT_UNSUP,
      "heads are 12 wide" },
    { "u32 llama.attention.key_length 8; u32 llama.attention.value_length 8", FT_UNSUP,
      "heads are 8 wide" },
    { "u32 llama.attention.key_length 264; u32 llama.attention.value_length 264", FT_UNSUP,
      "heads are 264 wide" },
    { "del llama.attention.key_length; del llama.attention.value_length; del "
      "llama.rope.dimension_count",
      FT_OK, NULL },
    { "u32 llama.rope.dimension_count 8", FT_UNSUP,
      "llama.rope.dimension_count is 8, expected 16" },
    { "f32 llama.attention.layer_norm_rms_epsilon 0", FT_FORMAT,
      "layer_norm_rms_epsilon is 0, expected above 0" },
    { "f32 llama.attention.layer_norm_rms_epsilon -1", FT_FORMAT, "layer_norm_rms_epsilon is -1" },
    { "f32 llama.attention.layer_norm_rms_epsilon nan", FT_FORMAT,
      "layer_norm_rms_epsilon is nan" },
    { "f32 llama.attention.layer_norm_rms_epsilon inf", FT_FORMAT,
      "layer_norm_rms_epsilon is inf" },
    /* positions */
    { "f32 llama.rope.freq_base 0", FT_FORMAT, "llama.rope.freq_base is 0" },
    { "f32 llama.rope.freq_base -10000", FT_FORMAT, "llama.rope.freq_base is -10000" },
    { "f32 llama.rope.freq_base nan", FT_FORMAT, "llama.rope.freq_base is nan" },
    { "f32 llama.rope.freq_base inf", FT_FORMAT, "llama.rope.freq_base is inf" },
    { "del llama.rope.freq_base", FT_OK, NULL },
    { "str llama.rope.scaling.type longrope", FT_UNSUP,
      "rope.scaling.type is 'longrope', expected none, linear or yarn" },
    { "str llama.rope.scaling.type spiral", FT_UNSUP, "rope.scaling.type is 'spiral'" },
    { "f32 llama.rope.scaling.factor -2", FT_FORMAT, "rope.scaling.factor is -2" },
    { "f32 llama.rope.scaling.factor nan", FT_FORMAT, "rope.scaling.factor is nan" },
    { "f32 llama.rope.scale_linear inf", FT_FORMAT, "rope.scale_linear is inf" },
    { "u32 llama.rope.scaling.factor 2", FT_FORMAT,
      "rope.scaling.factor has type u32, expected f32" },
    { "str llama.rope.scaling.type yarn; f32 llama.rope.scaling.factor 0.5", FT_FORMAT,
      "rope.scaling.factor is 0.5" },
    { "f32 llama.rope.scaling.attn_factor 0", FT_FORMAT, "rope.scaling.attn_factor is 0" },
    { "u32 llama.rope.scaling.original_context_length 0", FT_FORMAT,
      "original_context_length is 0" },
    /* split files */
    { "u16 split.count 1; u16 split.no 0", FT_OK, NULL },
    { "u16 split.count 2; u16 split.no 2; i32 split.tensors.count 9", FT_FORMAT,
      "split.no is 2, expected 0..1" },
    { "u16 split.count 2; u16 split.no 0", FT_FORMAT, "key split.tensors.count is missing" },
    { "u32 split.count 2", FT_FORMAT, "split.count has type u32, expected u16" },
    { "u16 split.count 1; i32 split.tensors.count 5", FT_FORMAT,
      "split.tensors.count is 5, but the files hold" },
    { "u16 split.count 2; i32 split.tensors.count -5", FT_FORMAT,
      "split.tensors.count is 4294967291" },
    /* tensors */
    { "tensor token_embd.weight drop", FT_FORMAT, "tensor token_embd.weight is missing" },
    { "tensor blk.1.ffn_up.weight drop", FT_FORMAT, "tensor blk.1.ffn_up.weight is missing" },
    { "tensor blk.1.ffn_up.weight dup", FT_FORMAT, "tensor blk.1.ffn_up.weight occurs twice" },
    { "tensor output.weight drop", FT_OK, NULL },
    { "rename output.weight cls.output.weight", FT_UNSUP,
      "tensor cls.output.weight is unknown in architecture llama" },
    { "rename output.weight blk.0.attn_qkv.weight", FT_UNSUP,
      "fused q, k and v are not supported" },
    { "rename output.weight blk.0.ffn_gate_exps.weight", FT_UNSUP, "mixtures of experts" },
    { "rename output.weight blk.0.attn_q.scale", FT_UNSUP, "scaled weights are not supported" },
    { "rename output.weight blk.2.attn_q.weight", FT_UNSUP,
      "tensor blk.2.attn_q.weight is unknown" },
    { "rename output.weight blk.00.attn_q.bias", FT_UNSUP, "tensor blk.00.attn_q.bias is unknown" },
    { "rename output.weight blk..attn_q.bias", FT_UNSUP, "blk..attn_q.bias is unknown" },
    { "rename output.weight blk.99999999999999999999.attn_q.bias", FT_UNSUP, "is unknown" },
    { "rename output.weight output.bias", FT_UNSUP,
      "tensor output.bias is unknown in architecture llama" },
    { "rename output.weight blk.0.attn_q_norm.weight", FT_UNSUP, "attn_q_norm.weight is unknown" },
    { "tensor output_norm.weight ne0 31", FT_FORMAT,
      "tensor output_norm.weight is 31 x 1, expected 32 x 1" },
    { "tensor output_norm.weight as 1 64", FT_UNSUP,
      "tensor output_norm.weight has type f16, expected f32" },
    { "tensor blk.0.attn_q.weight as 24 1024", FT_UNSUP,
      "tensor blk.0.attn_q.weight has type i8, with which" },
    { "tensor blk.0.attn_q.weight as 15 1024", FT_UNSUP,
      "has type q8_K, with which ggml cannot multiply" },
    { "tensor blk.0.attn_q.weight type 4", FT_FORMAT, "has type 4, which ggml does not know" },
    { "tensor blk.0.attn_q.weight type 43", FT_FORMAT, "has type 43, which ggml does not know" },
    { "tensor blk.0.attn_q.weight type 0xffffffff", FT_FORMAT, "has type 4294967295" },
    { "tensor blk.0.attn_q.weight as 12 1024", FT_FORMAT,
      "has rows of 32, expected a multiple of 256 for type q4_K" },
    { "tensor blk.0.attn_q.weight as 1 2048", FT_OK, NULL },
    { "tensor blk.0.attn_q.weight dims 0", FT_FORMAT, "has 0 dimensions, expected 1..4" },
    { "tensor blk.0.attn_q.weight dims 5", FT_FORMAT, "has 5 dimensions, expected 1..4" },
    { "tensor blk.0.attn_q.weight dims 0xffffffff", FT_FORMAT, "has 4294967295 dimensions" },
    { "tensor blk.0.attn_q.weight ne0 0", FT_FORMAT, "has dimension 0 of size 0" },
    { "tensor blk.0.attn_q.weight ne1 0x8000000000000000", FT_FORMAT,
      "has dimension 1 of size 9223372036854775808" },
    { "tensor blk.0.attn_q.weight ne0 0x40000000001", FT_FORMAT,
      "is larger than the file" }, /* 2^42 + 1 */
    { "tensor blk.0.attn_q.weight ne0 0x4000000000000000", FT_FORMAT,
      "is larger than the file" }, /* wraps to 0 */
    { "tensor blk.0.attn_q.weight ne0 0x400000000; tensor blk.0.attn_q.weight ne1 0x400000000",
      FT_FORMAT, "is larger than the file" },
    { "tensor blk.0.attn_q.weight offset 0", FT_FORMAT, "has offset 0, expected" },
    { "tensor token_embd.weight offset 32", FT_FORMAT,
      "tensor token_embd.weight has offset 32, expected 0" },
    { "tensor output.weight offset 0x7fffffffffffffe0", FT_FORMAT,
      "has offset 9223372036854775776" },
    { "tensor output.weight as 0 512", FT_FORMAT, "it is truncated" },
    { "rename output.weight "
      "a123456789b123456789c123456789d123456789e123456789f123456789g123",
      FT_FORMAT, "a tensor name" },
    /* alignment */
    { "u32 general.alignment 32", FT_OK, NULL },
    { "u32 general.alignment 0", FT_FORMAT,
      "general.alignment is 0, expected a power of two from 8 to 65536" },
    { "u32 general.alignment 24", FT_FORMAT, "general.alignment is 24" },
    { "u32 general.alignment 0x80000000", FT_FORMAT, "general.alignment is 2147483648" },
    { "u64 general.alignment 32", FT_FORMAT, "general.alignment has type u64, expected u32" },
    /* vocabulary */
    { "del tokenizer.ggml.model", FT_FORMAT, "key tokenizer.ggml.model is missing" },
    { "str tokenizer.ggml.model none", FT_UNSUP,
      "tokenizer.ggml.model is 'none', expected llama or gpt2" },
    { "str tokenizer.ggml.model no_vocab", FT_UNSUP, "tokenizer.ggml.model is 'no_vocab'" },
    { "str tokenizer.ggml.model bert", FT_UNSUP, "tokenizer.ggml.model is 'bert'" },
    { "u32 tokenizer.ggml.pre 1", FT_FORMAT, "tokenizer.ggml.pre has type u32" },
    { "del tokenizer.ggml.tokens", FT_FORMAT, "key tokenizer.ggml.tokens is missing" },
    { "strs tokenizer.ggml.tokens", FT_FORMAT, "tokenizer.ggml.tokens has 0 elements" },
    { "u32s tokenizer.ggml.tokens 1,2", FT_FORMAT,
      "tokenizer.ggml.tokens is an array of u32, expected string" },
    { "str tokenizer.ggml.tokens a", FT_FORMAT,
      "tokenizer.ggml.tokens has type string, expected array" },
    { "strs tokenizer.ggml.tokens a,b", FT_FORMAT, "token_type has 272 elements, expected 2" },
    { "i32s tokenizer.ggml.token_type 1,1", FT_FORMAT, "token_type has 2 elements, expected 272" },
    { "u32s tokenizer.ggml.token_type 1,1", FT_FORMAT,
      "token_type is an array of u32, expected i32" },
    { "del tokenizer.ggml.token_type", FT_OK, NULL },
    { "toktype 5 7", FT_FORMAT, "tokenizer.ggml.token_type[5] is 7, expected 0..6" },
    { "token 5 b; token 9 b", FT_FORMAT, "tokens[5] and [9] are both 'b'" },
    { "token 5 ; token 6 ", FT_OK, NULL }, /* empty ones get names of their own */
    { "token 5 ; token 6 [EMPTY_5]", FT_FORMAT, "tokens[5] and [6] are both '[EMPTY_5]'" },
    { "token 5 a\xff", FT_FORMAT, "tokens[5] is not UTF-8" },
    { "token 5 a\xed\xa0\x80", FT_FORMAT, "tokens[5] is not UTF-8" },
    { "toktype 5 6", FT_FORMAT, "tokens[5] is a byte token with text" },
    { "toktype 5 6; token 5 <0x0A>", FT_OK, NULL },
    { "f32s tokenizer.ggml.scores 1,2", FT_FORMAT,
      "tokenizer.ggml.scores has 2 elements, expected 272" },
    { "strs tokenizer.ggml.scores a", FT_FORMAT,
      "tokenizer.ggml.scores is an array of string, expected f32" },
    { "del tokenizer.ggml.merges", FT_FORMAT, "key tokenizer.ggml.merges is missing" },
    { "u32s tokenizer.ggml.merges 1", FT_FORMAT, "merges is an array of u32, expected string" },
    { "strs tokenizer.ggml.merges", FT_OK, NULL },
    { "strs tokenizer.ggml.merges a b,ab", FT_FORMAT, "merges[1] is 'ab', expected two texts" },
    { "strs tokenizer.ggml.merges a b, ab", FT_FORMAT, "merges[1] is ' ab'" },
    { "strs tokenizer.ggml.merges a b,ab ", FT_FORMAT, "merges[1] is 'ab '" },
    { "strs tokenizer.ggml.merges a b,", FT_OK, NULL },
    { "strs tokenizer.ggml.merges a \xff", FT_FORMAT, "merges[0]" },
    { "u32 tokenizer.ggml.bos_token_id 272", FT_FORMAT, "bos_token_id is 272, expected 0..271" },
    { "u32 tokenizer.ggml.eos_token_id 4294967295", FT_FORMAT, "eos_token_id is 4294967295" },
    { "u32 tokenizer.ggml.padding_token_id 4294967295", FT_OK, NULL }, /* "there is none" */
    { "u32 tokenizer.ggml.fim_pre_token_id 300", FT_FORMAT, "fim_pre_token_id is 300" },
    { "i32 tokenizer.ggml.bos_token_id 1", FT_FORMAT, "bos_token_id has type i32, expected u32" },
    { "del tokenizer.ggml.bos_token_id; bool tokenizer.ggml.add_bos_token 1", FT_FORMAT,
      "bos_token_id is missing" },
    { "del tokenizer.ggml.eos_token_id; bool tokenizer.ggml.add_eos_token 1", FT_FORMAT,
      "eos_token_id is missing" },
    { "del tokenizer.ggml.bos_token_id; del tokenizer.ggml.add_bos_token", FT_OK, NULL },
    { "u32 tokenizer.ggml.add_bos_token 1", FT_FORMAT,
      "add_bos_token has type u32, expected bool" },
    { "u32 tokenizer.ggml.add_space_prefix 1", FT_FORMAT, "add_space_prefix has type u32" },
    { "str tokenizer.ggml.suppress_tokens 1", FT_FORMAT, "suppress_tokens has type string" },
    { "u32 tokenizer.chat_template 1", FT_FORMAT,
      "tokenizer.chat_template has type u32, expected string" },
    { "str tokenizer.chat_template a\xc3", FT_FORMAT, "tokenizer.chat_template is not UTF-8" },
    /* a vocabulary of the other kind */
    { "SPM", FT_OK, NULL },
    { "SPM; token 68 x", FT_FORMAT, "tokens[68] is a byte token with text 'x', expected <0xNN>" },
    { "SPM; token 68 x; toktype 68 1", FT_FORMAT, "has no byte token <0x41>" },
    { "SPM; token 68 A; toktype 68 1", FT_OK, NULL },   /* the letter itself serves */
    { "SPM; token 195 x; toktype 195 1", FT_OK, NULL }, /* 0xC0 occurs in no UTF-8 text */
    { "SPM; token 13 <0x0a>; toktype 13 6", FT_FORMAT, "is a byte token with text '<0x0a>'" },
    { "SPM; token 13 <0xZZ>", FT_FORMAT, "is a byte token with text '<0xZZ>'" },
    { "SPM; token 13 <0x0A", FT_FORMAT, "is a byte token with text '<0x0A'" },
    { "SPM; token 13 <0x0AA>", FT_FORMAT, "is a byte token" },
    { "SPM; token 13 <", FT_FORMAT, "is a byte token with text '<'" },
    { "SPM; token 13 ", FT_FORMAT, "is a byte token with text ''" },
    { "SPM; del tokenizer.ggml.bos_token_id; bool tokenizer.ggml.add_bos_token 1", FT_OK,
      NULL }, /* default 1 */
};

static void test_rules(void **state) {
    (void)state;
    const char *base = make("rules", SMALL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct check c = check_edit(base, cases[i].edit);
        const char *says = cases[i].says;
        if (c.status != cases[i].status || (says != NULL && strstr(c.err.text, says) == NULL)) {
            fail_msg("case %zu \"%s\":\n  got  %d %s\n  want %d %s", i, cases[i].edit, c.status,
                     c.status == FT_OK ? "" : c.err.text, cases[i].status,
                     says == NULL ? "" : says);
        }
        if (says != NULL) {
            assert_int_equal(strncmp(c.err.text, "x.gguf: ", 8), 0);
        } else {
            ft_gguf_facts_done(&c.facts);
        }
    }
}

/* A token of the largest size that would decode to far more bytes than it has. */
static void test_blow_up(void **state) {
    (void)state;
    struct ge g = ge_load(make("blow", SMALL));
    static char text[5000];
    memset(text, 0, sizeof(text));
    for (size_t i = 0; i + 3 <= 4096; i += 3) {
        memcpy(text + i, "\xe2\x82\xac", 3);
    }
    for (int id = 0; id < 40; id++) {
        text[0] = (char)('a' + id % 26);
        text[1] = (char)('a' + id / 26);
        text[2] = ' ';
        ge_token(&g, (uint64_t)id, text);
    }
    size_t n;
    uint8_t *data = ge_build(&g, &n);
    struct check c = check_bytes(data, n);
    assert_int_equal(c.status, FT_FORMAT);
    assert_non_null(strstr(c.err.text, "would decode to"));
    free(data);
    text[4095] = text[4096] = 'x';
    ge_token(&g, 0, text);
    data = ge_build(&g, &n);
    c = check_bytes(data, n);
    assert_non_null(strstr(c.err.text, "tokens[0] has 4097 bytes, expected at most 4096"));
    free(data);
    ge_free(&g);
}

/* ---- the container ---- */

struct patch {
    size_t at, n;
    uint64_t value;
    ft_status status;
    const char *says;
};

static void test_container(void **state) {
    (void)state;
    struct ge_bytes b = ge_read(make("container", SMALL));
    static const struct patch patches[] = {
        { 0, 1, 'X', FT_FORMAT, "expected \"GGUF\": not a GGUF file" },
        { 4, 4, 1, FT_UNSUP, "GGUF version is 1, expected 2 or 3" },
        { 4, 4, 4, FT_UNSUP, "GGUF version is 4" },
        { 4, 4, 0, FT_UNSUP, "GGUF version is 0x00000000" },
        { 4, 4, 0x03000000, FT_UNSUP, "a big-endian file?" },
        { 4, 4, 2, FT_OK, NULL },
        { 8, 8, 0, FT_FORMAT, "the file has no tensors" },
        { 8, 8, 65537, FT_FORMAT, "tensor count is 65537, expected at most" },
        { 8, 8, UINT64_MAX, FT_FORMAT, "tensor count is 18446744073709551615" },
        { 8, 8, UINT64_C(1) << 63, FT_FORMAT, "tensor count is 9223372036854775808" },
        { 16, 8, 0, FT_FORMAT, "tensor" }, /* keys are read as tensors */
        { 16, 8, 65537, FT_FORMAT, "key count is 65537, expected at most" },
        { 16, 8, UINT64_MAX, FT_FORMAT, "key count is 18446744073709551615" },
        { 24, 8, UINT64_MAX, FT_FORMAT, "a key at byte 32 needs 18446744073709551615 bytes" },
        { 24, 8, UINT64_C(1) << 32, FT_FORMAT, "needs 4294967296 bytes, but only" },
        { 24, 8, 0, FT_FORMAT, "a key at byte 24 has 0 bytes" },
        { 32, 1, 0, FT_FORMAT, "holds byte 0x00" },
        { 32, 1, 0xff, FT_FORMAT, "holds byte 0xff" },
        { 24 + 8 + 20, 4, 13, FT_FORMAT, "general.architecture has type 13, expected 0..12" },
        { 24 + 8 + 20, 4, 9, FT_FORMAT,
          "general.architecture has" }, /* a length read as an element count */
    };
    for (size_t i = 0; i < sizeof(patches) / sizeof(patches[0]); i++) {
        const struct patch *p = &patches[i];
        uint8_t *data = malloc(b.n);
        memcpy(data, b.data, b.n);
        for (size_t k = 0; k < p->n; k++) {
            data[p->at + k] = (uint8_t)(p->value >> (8 * k));
        }
        struct check c = check_bytes(data, b.n);
        if (c.status != p->status || (p->says != NULL && strstr(c.err.text, p->says) == NULL)) {
            fail_msg("patch %zu: got %d %s, want %d %s", i, c.status, c.err.text, p->status,
                     p->says ? p->says : "");
        }
        if (c.status == FT_OK) {
            ft_gguf_facts_done(&c.facts);
        }
        free(data);
    }
    free(b.data);
}

static void test_arrays(void **state) {
    (void)state;
    const char *base = make("arrays", SMALL);
    static const uint8_t nested[] = { 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
                                      4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
    static const uint8_t endless[] = { 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f };
    static const struct {
        const uint8_t *value;
        size_t n;
        const char *says;
    } values[] = { { nested, sizeof(nested), "arrays of arrays are not supported" },
                   { endless, sizeof(endless),
                     "has 4611686018427387903 elements of at least 4 bytes, but only" } };
    for (size_t i = 0; i < 2; i++) {
        struct ge g = ge_load(base);
        struct ge_entry *key = ge_key(&g, "extra", 9);
        ge_put(&key->value, values[i].value, values[i].n);
        size_t n;
        uint8_t *data = ge_build(&g, &n);
        struct check c = check_bytes(data, n);
        assert_int_equal(c.status, FT_FORMAT);
        assert_non_null(strstr(c.err.text, values[i].says));
        free(data);
        ge_free(&g);
    }
    struct ge g = ge_load(base);
    g.key[g.n_key] = g.key[0]; /* the same key again */
    g.n_key++;
    size_t n;
    uint8_t *data = ge_build(&g, &n);
    struct check c = check_bytes(data, n);
    assert_non_null(strstr(c.err.text, "key general.architecture occurs twice"));
    free(data);
    g.n_key--;
    ge_free(&g);
}

static void test_where(void **state) {
    (void)state;
    const char *base = make("where", SMALL);
    struct ge g = ge_load(base);
    ge_edit(&g, "u32 llama.block_count 0");
    size_t n;
    uint8_t *data = ge_build(&g, &n);
    struct check c = check_bytes(data, n);
    uint64_t at = c.err.where; /* the value itself, right behind name and type */
    assert_true(at > 40 && at < n);
    assert_memory_equal(data + at - 4 - 17, "llama.block_count", 17);
    free(data);
    ge_free(&g);
}

/* ---- facts ---- */

static void test_facts(void **state) {
    (void)state;
    struct check c = check_edit(
        make(
            "facts",
            "--arch qwen3 --layers 3 --embd 64 --heads 4 --kv-heads 2 --head-dim 32 "
            "--ff 96 --vocab 300 --pad-vocab 20 --ctx 4096 --tied --chat --name alpha --type q8_0"),
        "");
    const struct ft_hparams *h = &c.facts.hparams;
    assert_int_equal(c.status, FT_OK);
    assert_string_equal(h->arch, "qwen3");
    assert_int_equal(h->trait, FT_ROPE_NEOX | FT_QK_NORM);
    assert_int_equal(h->n_layer, 3);
    assert_int_equal(h->n_embd, 64);
    assert_int_equal(h->n_head, 4);
    assert_int_equal(h->n_head_kv, 2);
    assert_int_equal(h->head_dim, 32);
    assert_int_equal(h->n_ff, 96);
    assert_int_equal(h->n_vocab, 320);
    assert_int_equal(h->n_vocab_real, 300);
    assert_int_equal(h->n_ctx_train, 4096);
    assert_true(h->rms_eps == 1e-5f && h->rope_base == 10000 && h->rope_freq_scale == 1 &&
                h->rope_attn_factor == 1);
    assert_true(h->rope_ext_factor == 0);
    assert_int_equal(h->rope_n_ctx_orig, 4096);
    assert_string_equal(c.facts.name, "alpha");
    assert_string_equal(c.facts.file_type, "Q8_0");
    assert_true(c.facts.has_chat_template && c.facts.is_tied && !c.facts.has_rope_freqs);
    assert_int_equal(c.facts.split_count, 1);
    assert_int_equal(c.facts.data_offset % 32, 0);
    assert_int_equal(c.facts.n_tensor, 2 + 3 * 11);
    assert_string_equal(c.facts.tensor[0].name, "token_embd.weight");
    assert_int_equal(c.facts.tensor[0].offset, c.facts.data_offset);
    assert_int_equal(c.facts.tensor[0].n_byte, 320 * 2 * 34);
    assert_int_equal(strlen(c.facts.fingerprint), 64);
    uint64_t n_param = 0;
    for (uint32_t i = 0; i < c.facts.n_tensor; i++) {
        n_param += c.facts.tensor[i].ne[0] * c.facts.tensor[i].ne[1];
    }
    assert_int_equal(c.facts.n_param, n_param);
    ft_gguf_facts_done(&c.facts);
    ft_gguf_facts_done(&c.facts);
    ft_gguf_facts_done(NULL);
}

static void test_rope_facts(void **state) {
    (void)state;
    static const struct {
        const char *edit;
        float scale, ext, attn;
    } rope[] = {
        { "", 1, 0, 1 },
        { "f32 llama.rope.scaling.factor 4", 0.25f, 0, 1 }, /* the type is linear when absent */
        { "f32 llama.rope.scale_linear 2", 0.5f, 0, 1 },    /* the older name */
        { "f32 llama.rope.scale_linear 2; f32 llama.rope.scaling.factor 8", 0.125f, 0, 1 },
        { "f32 llama.rope.scaling.factor 0", 1, 0, 1 },
        { "str llama.rope.scaling.type none; f32 llama.rope.scaling.factor 4", 1, 0, 1 },
        { "str llama.rope.scaling.type yarn; f32 llama.rope.scaling.factor 4", 0.25f, 1, 1 },
        { "str llama.rope.scaling.type yarn; f32 llama.rope.scaling.factor 4; f32 "
          "llama.rope.scaling.attn_factor 1.5",
          0.25f, 1, 1.5f },
    };
    const char *base = make("rope", SMALL);
    for (size_t i = 0; i < sizeof(rope) / sizeof(rope[0]); i++) {
        struct check c = check_edit(base, rope[i].edit);
        assert_int_equal(c.status, FT_OK);
        assert_true(c.facts.hparams.rope_freq_scale == rope[i].scale);
        assert_true(c.facts.hparams.rope_ext_factor == rope[i].ext);
        assert_true(c.facts.hparams.rope_attn_factor == rope[i].attn);
        ft_gguf_facts_done(&c.facts);
    }
}

static void test_fingerprint(void **state) {
    (void)state;
    const char *base = make("print", SMALL);
    struct check a = check_edit(base, ""), b = check_edit(base, "f32 llama.rope.freq_base 10001");
    struct ge g = ge_load(base);
    g.tensor[1].value.data[0] ^= 1; /* weights are not part of it */
    size_t n;
    uint8_t *data = ge_build(&g, &n);
    struct check c = check_bytes(data, n);
    assert_string_equal(a.facts.fingerprint, c.facts.fingerprint);
    assert_string_not_equal(a.facts.fingerprint, b.facts.fingerprint);
    free(data);
    ge_free(&g);
    ft_gguf_facts_done(&a.facts);
    ft_gguf_facts_done(&b.facts);
    ft_gguf_facts_done(&c.facts);
}

/* ---- split files ---- */

static ft_status check_file(const char *path, struct ft_gguf_facts *facts, struct ft_error *err) {
    struct ft_file_map map;
    assert_int_equal(ft_file_map_open(path, &map, err), FT_OK);
    ft_status status = ft_gguf_check(&map, path, facts, err);
    ft_file_map_close(&map);
    return status;
}

static void test_split(void **state) {
    (void)state;
    char base[512], path[600];
    snprintf(base, sizeof(base), "%s", make("split", SMALL "--split 3"));
    base[strlen(base) - 5] = '\0';
    struct ft_gguf_facts facts[3];
    struct ft_error err;
    for (unsigned i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s-%05u-of-00003.gguf", base, i + 1);
        assert_int_equal(check_file(path, &facts[i], &err), FT_OK);
        assert_int_equal(facts[i].split_no, i);
        assert_int_equal(facts[i].split_count, 3);
    }
    assert_int_equal(ft_gguf_check_set(facts, 3, "set", &err), FT_OK);
    assert_false(facts[0].is_tied);
    assert_int_equal(ft_gguf_check_set(facts, 2, "set", &err), FT_FORMAT);
    assert_non_null(strstr(err.text, "2 files were given, expected all 3"));
    struct ft_gguf_facts wrong[3] = { facts[0], facts[2], facts[1] };
    assert_int_equal(ft_gguf_check_set(wrong, 3, "set", &err), FT_FORMAT);
    assert_non_null(strstr(err.text, "file 2 of 3 says that it is number 3 of 3"));
    assert_int_equal(ft_gguf_check_set(facts + 1, 2, "set", &err), FT_FORMAT);
    facts[2].n_tensor--;
    assert_int_equal(ft_gguf_check_set(facts, 3, "set", &err), FT_FORMAT);
    assert_non_null(strstr(err.text, "split.tensors.count is 21, but the files hold 20 tensors"));
    for (unsigned i = 0; i < 3; i++) {
        ft_gguf_facts_done(&facts[i]);
    }
}

/* ---- memory ---- */

/* Every allocation fails once: FT_NOMEM each time, nothing leaks (the sanitizer looks), and a
 * clean end. */
static void test_out_of_memory(void **state) {
    (void)state;
    const char *base = make("memory", SMALL);
    struct ge_bytes b = ge_read(base);
    uint64_t before = ft_alloc_count();
    struct check c = check_bytes(b.data, b.n);
    uint64_t n_call = ft_alloc_count() - before;
    ft_gguf_facts_done(&c.facts);
    assert_true(n_call >= 5);
    for (uint64_t n = 1; n <= n_call; n++) {
        ft_alloc_fail_after(n, false);
        c = check_bytes(b.data, b.n);
        ft_alloc_fail_after(0, false);
        assert_int_equal(c.status, FT_NOMEM);
    }
    free(b.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),      cmocka_unit_test(test_blow_up),
        cmocka_unit_test(test_container),  cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_where),      cmocka_unit_test(test_facts),
        cmocka_unit_test(test_rope_facts), cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_split),      cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
