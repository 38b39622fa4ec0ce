# SPDX-License-Identifier: Apache-2.0
"""Starts a larger model from a smaller one with (nearly) the same function: extra width, heads and layers begin
as small noise or as identity.  The head dimension may double (the RoPE frequencies of a head of 32 are every
second one of a head of 64).  As many query heads with more KV heads share copies of the KV head that they shared
before; with fewer KV heads attention starts anew.

  python3 grow.py --ckpt draft-question.pt --out grown.pt --size cpu
"""
import argparse
import math

import plans
import torch
from model import Llama, load


class Grow:
    def __init__(self, small, shape, noise):
        self.small, self.noise = small, noise
        self.old, self.c0 = {k: v.detach() for k, v in small.state_dict().items()}, small.cfg
        self.c1 = dict(self.c0, **shape)
        self.big = Llama(self.c1)
        self.new = self.big.state_dict()
        self.k = self.c1["head_dim"] // self.c0["head_dim"]

    def rows(self, n0, n1, half):
        """where the rows of n0 heads go among n1; half: rotary pairs (j, j + hd/2), else plain"""
        h0, h1, per = self.c0["head_dim"], self.c1["head_dim"], n0 // self.c0["kv_heads"]
        out = []
        for h in range(n0):
            to = h // per * (n1 // self.c1["kv_heads"]) + h % per       # stays with its KV head
            for j in range(h0):
                out.append(to * h1 + ((j % (h0 // 2)) * self.k + (j // (h0 // 2)) * (h1 // 2) if half else j))
        return torch.tensor(out)

    def put(self, name, x, r=None, c=None):
        t = self.new[name]
        t.mul_(self.noise / 0.02)
        r = torch.arange(x.shape[0]) if r is None else r
        c = torch.arange(x.shape[1]) if c is None else c
        t[r[:, None], c[None]] = x

    def norm(self, name):
        """the mean square runs over more, at first empty, dimensions"""
        s = math.sqrt(self.c0["d"] / self.c1["d"])
        self.new[name].fill_(float(self.old[name].mean()) * s)
        self.new[name][:self.c0["d"]] = self.old[name] * s

    def block(self, i):
        p, old = "blocks.%d." % i, self.old
        self.norm(p + "n1.w")
        self.norm(p + "n2.w")
        for n in ("w1", "w3", "w2"):
            self.put(p + n + ".weight", old[p + n + ".weight"])
        if self.c0["heads"] == self.c1["heads"] and self.c0["kv_heads"] < self.c1["kv_heads"]:
            self.copies(p)
        elif self.c0["kv_heads"] <= self.c1["kv_heads"]:
            self.attention(p)

    def copies(self, p):
        """what is not a KV head stays as it is"""
        for n in ("wq", "wo"):
            self.put(p + n + ".weight", self.old[p + n + ".weight"])
        for n in ("wk", "wv"):
            w = self.old[p + n + ".weight"].unflatten(0, (self.c0["kv_heads"], -1))
            w = w.repeat_interleave(self.c1["kv_heads"] // self.c0["kv_heads"], 0)
            self.put(p + n + ".weight", w.flatten(0, 1))

    def attention(self, p):
        old = self.old
        heads, kv = (self.c0["heads"], self.c1["heads"]), (self.c0["kv_heads"], self.c1["kv_heads"])
        self.put(p + "wq.weight", old[p + "wq.weight"] * math.sqrt(self.k), self.rows(*heads, True))
        self.put(p + "wk.weight", old[p + "wk.weight"], self.rows(*kv, True))
        self.put(p + "wv.weight", old[p + "wv.weight"], self.rows(*kv, False))
        self.put(p + "wo.weight", old[p + "wo.weight"], None, self.rows(*heads, False))

    def run(self):
        self.put("emb.weight", self.old["emb.weight"])
        self.norm("nf.w")
        for i in range(self.c1["layers"]):
            if i < self.c0["layers"]:
                self.block(i)
            else:                                       # a new layer starts as the identity
                for n in ("wo.weight", "w2.weight"):
                    self.new["blocks.%d.%s" % (i, n)].zero_()
        self.big.load_state_dict(self.new)
        return self.big


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--ckpt", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--size", choices=list(plans.SHAPES), default="cpu")
    ap.add_argument("--model", choices=("draft", "target"), default="target", help="whose shape it gets")
    ap.add_argument("--noise", type=float, default=0.005)
    a = ap.parse_args()
    torch.manual_seed(5)
    small = load(a.ckpt)[0]
    with torch.no_grad():
        big = Grow(small, plans.SHAPES[a.size][a.model], a.noise).run()
        x = torch.randint(0, small.cfg["vocab"], (1, 200))
        y, z = small.head(small.hidden(x)), big.head(big.hidden(x))
    torch.save({"model": big.state_dict(), "cfg": big.cfg}, a.out)
    print("logit change: max %.3f of std %.3f, same first choice %.3f" % (
        (y - z).abs().max(), y.std(), (y.argmax(-1) == z.argmax(-1)).float().mean()))
