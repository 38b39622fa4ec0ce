# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint as GGUF (architecture llama), f16, q8_0 or f32.

  python3 export_gguf.py --ckpt target.pt --tok tok.json --out target-f16.gguf --type f16 --context 4352
"""
import argparse

import gguf
from gguf import BOOL, F32, I32, STR, U32
from model import load
from tokenizer import Tokenizer

NAMES = {"n1.w": "attn_norm", "wq.weight": "attn_q", "wk.weight": "attn_k", "wv.weight": "attn_v",
         "wo.weight": "attn_output", "n2.w": "ffn_norm", "w1.weight": "ffn_gate", "w3.weight": "ffn_up",
         "w2.weight": "ffn_down"}


def permute(x, heads):
    """half-split RoPE (as trained, and as in Hugging Face files) to the interleaved order of GGUF's llama"""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def tensors(cfg, w):
    out = [("token_embd.weight", w["emb.weight"]), ("output_norm.weight", w["nf.w"])]
    heads = {"wq.weight": cfg["heads"], "wk.weight": cfg["kv_heads"]}
    for i in range(cfg["layers"]):
        for ours, theirs in NAMES.items():
            x = w["blocks.%d.%s" % (i, ours)]
            out.append(("blk.%d.%s.weight" % (i, theirs), permute(x, heads[ours]) if ours in heads else x))
    return out


def metadata(cfg, tok, name, kind, context):
    ids, special = tok.id, set(tok.specials)
    m = "llama."
    return [
        ("general.architecture", STR, "llama"), ("general.name", STR, name), ("general.license", STR, "apache-2.0"),
        ("general.file_type", U32, {"f32": 0, "f16": 1, "q8_0": 7}[kind]), ("general.quantization_version", U32, 2),
        (m + "vocab_size", U32, len(tok.tokens)), (m + "context_length", U32, context),
        (m + "embedding_length", U32, cfg["d"]), (m + "block_count", U32, cfg["layers"]),
        (m + "feed_forward_length", U32, cfg["ff"]), (m + "attention.head_count", U32, cfg["heads"]),
        (m + "attention.head_count_kv", U32, cfg["kv_heads"]), (m + "attention.key_length", U32, cfg["head_dim"]),
        (m + "attention.value_length", U32, cfg["head_dim"]), (m + "attention.layer_norm_rms_epsilon", F32, 1e-5),
        (m + "rope.freq_base", F32, cfg["theta"]), (m + "rope.dimension_count", U32, cfg["head_dim"]),
        ("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, "llama-bpe"),
        ("tokenizer.ggml.tokens", [STR], tok.tokens),
        ("tokenizer.ggml.token_type", [I32], [3 if t in special else 1 for t in tok.tokens]),
        ("tokenizer.ggml.merges", [STR], [" ".join(p) for p in tok.merges]),
        ("tokenizer.ggml.bos_token_id", U32, ids["<|bos|>"]), ("tokenizer.ggml.eos_token_id", U32, ids["<|eos|>"]),
        ("tokenizer.ggml.padding_token_id", U32, ids["<|pad|>"]), ("tokenizer.ggml.add_bos_token", BOOL, True),
    ]


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    for k in ("ckpt", "tok", "out", "name"):
        ap.add_argument("--" + k, required=True)
    ap.add_argument("--type", choices=list(gguf.TYPES), default="f16")
    ap.add_argument("--context", type=int, required=True, help="the longest trained length")
    a = ap.parse_args()
    m, state = load(a.ckpt)
    w = {k: v.detach().float().numpy() for k, v in m.state_dict().items()}
    gguf.write(a.out, metadata(m.cfg, Tokenizer(a.tok), a.name, a.type, a.context), tensors(m.cfg, w), a.type)
    print(a.out, a.type, "context", a.context, "trained tokens", state.get("tokens"))
