# SPDX-License-Identifier: Apache-2.0
"""A Llama-architecture decoder: RMSNorm, RoPE (half-split), GQA, SwiGLU, tied embeddings."""
import math

import gguf
import torch
import torch.nn as nn
import torch.nn.functional as F

FAST = True             # on CUDA: kernels that older versions of torch have not


class ChunkedAttention(torch.autograd.Function):
    """Causal GQA attention for torch < 2, query-chunked, probabilities recomputed in the backward pass.

    q (B, nh, T, hd), k and v (B, nkv, T, hd).  Scores must be fp32 in both directions: a backward pass
    that recomputes them in another precision than the saved log-sum-exp makes training collapse.
    """
    @staticmethod
    def forward(ctx, q, k, v, C=128):
        B, nh, T, hd = q.shape
        nkv = k.shape[1]
        g, sc = nh // nkv, hd ** -0.5
        o = torch.empty_like(q)
        q5, o5 = q.view(B, nkv, g, T, hd), o.view(B, nkv, g, T, hd)
        lse = torch.empty(B, nkv, g, T)
        for s in range(0, T, C):
            e = min(T, s + C)
            c = e - s
            S = (q5[:, :, :, s:e].reshape(B, nkv, g * c, hd) @ k[:, :, :e].transpose(-1, -2)).mul_(sc)
            S = S.view(B, nkv, g, c, e)
            S[..., s:e].add_(torch.triu(torch.full((c, c), -1e9), 1))
            lse[..., s:e] = S.logsumexp(-1)
            P = S.sub_(lse[..., s:e, None]).exp_().view(B, nkv, g * c, e)
            o5[:, :, :, s:e] = (P @ v[:, :, :e]).view(B, nkv, g, c, hd)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.C = C
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, lse = ctx.saved_tensors
        C = ctx.C
        B, nh, T, hd = q.shape
        nkv = k.shape[1]
        g, sc = nh // nkv, hd ** -0.5
        do = do.contiguous()
        q5, d5 = q.view(B, nkv, g, T, hd), do.view(B, nkv, g, T, hd)
        D = (do * o).sum(-1).view(B, nkv, g, T)
        dq = torch.empty_like(q)
        dq5 = dq.view(B, nkv, g, T, hd)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for s in range(0, T, C):
            e = min(T, s + C)
            c = e - s
            qc = q5[:, :, :, s:e].reshape(B, nkv, g * c, hd)
            dc = d5[:, :, :, s:e].reshape(B, nkv, g * c, hd)
            S = (qc @ k[:, :, :e].transpose(-1, -2)).mul_(sc).view(B, nkv, g, c, e)
            S[..., s:e].add_(torch.triu(torch.full((c, c), -1e9), 1))
            P = S.sub_(lse[..., s:e, None]).exp_().view(B, nkv, g * c, e)
            dv[:, :, :e] += P.transpose(-1, -2) @ dc
            dP = dc @ v[:, :, :e].transpose(-1, -2)
            dP = dP.sub_(D[..., s:e].reshape(B, nkv, g * c, 1)).mul_(P).mul_(sc)
            dq5[:, :, :, s:e] = (dP @ k[:, :, :e]).view(B, nkv, g, c, hd)
            dk[:, :, :e] += dP.transpose(-1, -2) @ qc
        return dq, dk, dv, None


def attention(q, k, v):
    """q (B, nh, T, hd), k and v (B, nkv, T, hd) -> (B, nh, T, hd), causal."""
    if not hasattr(F, "scaled_dot_product_attention"):
        return ChunkedAttention.apply(q.contiguous(), k.contiguous(), v.contiguous(), 128)
    if FAST and q.dtype == torch.bfloat16 and q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    g = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)


class RMSNorm(nn.Module):
    def __init__(self, d, eps=1e-5):
        super().__init__()
        self.w = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        if FAST and x.is_cuda:
            return F.rms_norm(x, self.w.shape, self.w, self.eps)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.w


def rope_table(T, hd, theta):
    f = torch.arange(T).float()[:, None] * (theta ** (-torch.arange(0, hd, 2).float() / hd))[None]
    return f.cos(), f.sin()


def rope(x, c, s):
    h = x.shape[-1] // 2
    a, b = x[..., :h], x[..., h:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


class Rotate(torch.autograd.Function):
    """rope() of bf16, computed in fp32, with few passes over memory and nothing kept for the backward pass"""
    @staticmethod
    def turn(x, c, s):
        h, y = x.shape[-1] // 2, torch.empty_like(x)
        a, b = x[..., :h], x[..., h:]
        torch.sub(a * c, b * s, out=y[..., :h])
        torch.add(b * c, a * s, out=y[..., h:])
        return y

    @staticmethod
    def forward(ctx, x, c, s):
        ctx.table = c, s
        return Rotate.turn(x, c, s)

    @staticmethod
    def backward(ctx, dy):
        c, s = ctx.table
        return Rotate.turn(dy, c, -s), None, None


class Block(nn.Module):
    def __init__(self, d, nh, nkv, hd, ff):
        super().__init__()
        self.nh, self.nkv, self.hd = nh, nkv, hd

        def lin(i, o):
            return nn.Linear(i, o, bias=False)
        self.n1, self.n2 = RMSNorm(d), RMSNorm(d)
        self.wq, self.wk, self.wv, self.wo = lin(d, nh * hd), lin(d, nkv * hd), lin(d, nkv * hd), lin(nh * hd, d)
        self.w1, self.w3, self.w2 = lin(d, ff), lin(d, ff), lin(ff, d)

    def attn(self, x, c, sn):
        B, T, _ = x.shape
        half = x.is_cuda and torch.is_autocast_enabled()

        def heads(y, n):
            y = y.view(B, T, n, self.hd).transpose(1, 2)
            return y if half and FAST else y.float()
        x = x.bfloat16() if half else x                 # once, not for every product
        q, k, v = heads(self.wq(x), self.nh), heads(self.wk(x), self.nkv), heads(self.wv(x), self.nkv)
        turn = Rotate.apply if half and FAST else rope
        q, k = turn(q, c, sn), turn(k, c, sn)
        if half:
            q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
        with torch.autocast(x.device.type, enabled=False, dtype=torch.bfloat16):
            o = attention(q, k, v)
        return self.wo(o.transpose(1, 2).reshape(B, T, -1))

    def forward(self, x, c, sn):
        x = x + self.attn(self.n1(x), c, sn)
        h = self.n2(x)
        if x.is_cuda and torch.is_autocast_enabled():
            h = h.bfloat16()
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Llama(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        d, n = cfg["d"], cfg["layers"]
        self.emb = nn.Embedding(cfg["vocab"], d)
        self.blocks = nn.ModuleList([Block(d, cfg["heads"], cfg["kv_heads"], cfg["head_dim"], cfg["ff"])
                                     for _ in range(n)])
        self.nf = RMSNorm(d)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("wo.weight", "w2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * n) if deep else 0.02)
        c, s = rope_table(cfg["context"], cfg["head_dim"], cfg["theta"])
        self.register_buffer("cos", c, persistent=False)
        self.register_buffer("sin", s, persistent=False)

    def hidden(self, x):
        """states (B, T, d) for the head"""
        T = x.shape[1]
        h = self.emb(x)
        for b in self.blocks:
            h = b(h, self.cos[:T], self.sin[:T])
        return self.nf(h)

    def head(self, h):
        return h @ self.emb.weight.t()


def from_gguf(path):
    """checkpoint of a GGUF file that export_gguf.py wrote, to train on from a shipped model"""
    from export_gguf import NAMES
    meta, ts = gguf.read(path)
    g = {k: meta["llama." + n] for k, n in (
        ("d", "embedding_length"), ("layers", "block_count"), ("ff", "feed_forward_length"),
        ("heads", "attention.head_count"), ("kv_heads", "attention.head_count_kv"),
        ("head_dim", "attention.key_length"), ("context", "context_length"), ("theta", "rope.freq_base"),
        ("vocab", "vocab_size"))}
    w = {"emb.weight": gguf.tensor(path, ts["token_embd.weight"]), "nf.w": gguf.tensor(path, ts["output_norm.weight"])}
    heads = {"wq.weight": g["heads"], "wk.weight": g["kv_heads"]}
    for i in range(g["layers"]):
        for ours, theirs in NAMES.items():
            x = gguf.tensor(path, ts["blk.%d.%s.weight" % (i, theirs)])
            if ours in heads:                           # the inverse of export_gguf.permute
                x = x.reshape(heads[ours], -1, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
            w["blocks.%d.%s" % (i, ours)] = x
    return {"cfg": g, "model": {k: torch.from_numpy(v.copy()) for k, v in w.items()}}


def load(path, device="cpu", context=0):
    """model and checkpoint of a file that train.py or export_gguf.py wrote; context: made ready for longer samples"""
    if path.endswith(".gguf"):
        state = from_gguf(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=False)
        except TypeError:                               # torch 1.13 has no such argument
            state = torch.load(path, map_location="cpu")
    m = Llama(dict(state["cfg"], context=max(context, state["cfg"]["context"])))
    m.load_state_dict({k: v.float() for k, v in state["model"].items()})
    return m.to(device), state
