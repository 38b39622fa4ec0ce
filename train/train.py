# SPDX-License-Identifier: Apache-2.0
r"""Trains one model of the pair through the stages of plans.py, on a CUDA device where there is one.

  python3 train.py --size cpu --model draft --dir OUT --tok tok.json --hay hay.npz --adj adj.txt --noun noun.txt \
      --resume
OUT/MODEL.pt is rewritten every two minutes; OUT/MODEL-STAGE.pt is kept at each stage end.
"""
import argparse
import os
import random
import signal
import time

import numpy as np
import plans
import torch
from data import Tasks, pack
from model import Llama, load
from tokenizer import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

TEST = {"single": "niah:n=1:m=1:same=0:full=1:head=1", "multi8": "niah:n=8:m=1:same=0:full=1:head=1",
        "mv2": "mv:c=2:extra=2:head=1", "mv4": "mv:c=4:extra=2:head=1", "chain2": "trace:hops=2:chains=2:head=1",
        "chain4": "trace:hops=4:chains=2:head=1"}


class Feed(IterableDataset):
    """an endless stream of batches of one stage"""

    def __init__(self, files, stage, batch, seed):
        self.files, self.stage, self.batch, self.seed = files, stage, batch, seed

    def __iter__(self):
        w = get_worker_info()
        rng = random.Random("%d %d" % (self.seed, w.id if w else 0))
        tasks = Tasks(*self.files, held=False, seed=rng.random())
        lens = self.stage["lens"]
        while True:
            T = rng.choices(list(lens), list(lens.values()))[0]
            yield T, tasks.batch(max(2, self.batch // T), T, self.stage["mix"])


def as_is(batch):
    return batch


def losses(m, batch, device, lm_share, bf16=True):
    """answer loss, prose loss on a sample of its positions, right first choices of the answers, their groups"""
    x, w, g, alt = batch
    x = torch.from_numpy(x).to(device)
    y, w, g = x[:, 1:], w[:, 1:], g[:, 1:]
    keep = (w > 0) | ((w < 0) & (np.random.random(w.shape) < lm_share))
    sel = torch.from_numpy(keep).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        lo = m.head(m.hidden(x[:, :-1])[sel])
    lo, ws, y = lo.float(), torch.from_numpy(w[keep]).to(device), y[sel]
    top, lse = lo.argmax(-1), lo.logsumexp(-1)
    right = lo.gather(1, y[:, None])[:, 0]
    ok = top == y
    if alt:                                             # positions with several right tokens
        at = np.cumsum(keep.ravel()).reshape(keep.shape) - 1
        rows = torch.tensor([at[i, j - 1] for i, j, _ in alt], device=device)
        n = max(len(a) for _, _, a in alt)
        ids = torch.tensor([a + a[:1] * (n - len(a)) for _, _, a in alt], device=device)
        off = torch.tensor([[0.] * len(a) + [-1e9] * (n - len(a)) for _, _, a in alt], device=device)
        right = right.index_copy(0, rows, (lo[rows].gather(1, ids) + off).logsumexp(-1))
        ok[rows] = (ids == top[rows][:, None]).any(1)
    ce, ans = lse - right, ws > 0
    la = (ce * ws)[ans].sum() / ws[ans].sum().clamp(min=1e-6)
    ll = ce[~ans].mean() if bool((~ans).any()) else torch.zeros((), device=device)
    gg = g[keep]
    row = np.repeat(np.arange(len(w))[:, None], w.shape[1], 1)[keep]
    return la, ll, ok.cpu().numpy()[gg > 0], (row * 1000 + gg)[gg > 0]


def exact(ok, grp):
    """per answer: every token right"""
    u, inv = np.unique(grp, return_inverse=True)
    bad = np.zeros(len(u))
    np.add.at(bad, inv, ~ok)
    return bad == 0


@torch.no_grad()
def evaluate(m, files, T, device, n):
    """share of right answers per task on held-out keys (training text)"""
    test, r = Tasks(*files, held=True, seed=T), {}
    for name, spec in TEST.items():
        res, B = [], max(1, min(n, 8192 // T))
        for _ in range(0, n, B):
            b = pack([test.one(T, spec) for _ in range(B)], T, test.t.pad)
            res += exact(*losses(m, b, device, 0)[2:]).tolist()
        r[name] = round(float(np.mean(res)), 2)
    return r


class Run:
    def __init__(self, a):
        self.a = a
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tok = Tokenizer(a.tok)
        self.files = (self.tok, a.hay, a.adj, a.noun)
        self.plan = [dict(s, tok=s["tok"] * a.scale) for s in plans.PLANS[a.size][a.model]]
        self.path = os.path.join(a.dir, a.model + ".pt")
        self.at = dict(stage=self.plan[0]["name"], done=0, tokens=0, seconds=0., step=0)
        state = None
        if a.resume and os.path.exists(self.path):
            self.m, state = load(self.path, self.device)
            self.at = {k: state[k] for k in self.at}
        elif a.init:
            self.m = load(a.init, self.device)[0]
        else:
            self.m = Llama(dict(plans.SHAPES[a.size][a.model], context=plans.CONTEXT, theta=5e5,
                                vocab=len(self.tok.tokens))).to(self.device)
        if a.stage:
            self.at.update(stage=a.stage, done=0)
        ps = list(self.m.parameters())
        self.opt = torch.optim.AdamW([{"params": [p for p in ps if p.dim() == 2], "weight_decay": .02},
                                      {"params": [p for p in ps if p.dim() == 1], "weight_decay": 0.}],
                                     lr=1e-3, betas=(0.9, 0.98))
        if state and "opt" in state:
            self.opt.load_state_dict(state["opt"])
        self.warm = 0 if state and "opt" in state else self.at["step"]
        self.t0 = self.saved = self.tested = time.time() - self.at["seconds"]
        self.saved = self.tested = time.time()
        self.stop, self.hist = [], []
        print("%s: %.3f M parameters on %s" % (a.model, sum(p.numel() for p in ps) / 1e6, self.device), flush=True)

    def save(self, name=None):
        self.at["seconds"] = time.time() - self.t0
        st = dict(self.at, model=self.m.state_dict(), cfg=self.m.cfg)
        path = os.path.join(self.a.dir, "%s-%s.pt" % (self.a.model, name)) if name else self.path
        if not name:
            st["opt"] = self.opt.state_dict()
        torch.save(st, path + ".tmp")
        os.replace(path + ".tmp", path)
        self.saved = time.time()

    def test(self, lens):
        T, n = max(256, *lens), max(1, round(self.a.test_n * min(1, self.a.scale)))
        print("held-out keys, T %d: %s" % (T, evaluate(self.m, self.files, T, self.device, n)), flush=True)
        self.tested = time.time()

    def update(self, st, batch):
        at, frac = self.at, self.at["done"] / (st["tok"] * 1e6)
        lr = st["lr"] * min(1, (at["step"] - self.warm + 1) / 80) * (max(.02, 1 - frac) if st["decay"] else 1)
        for gr in self.opt.param_groups:
            gr["lr"] = lr
        la, ll, ok, grp = losses(self.m, batch, self.device, self.a.lm_share, not self.a.fp32)
        self.opt.zero_grad()
        (la + self.a.lm * ll).backward()
        torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.)
        self.opt.step()
        at["step"] += 1
        at["done"] += batch[0].size
        at["tokens"] += batch[0].size
        right = (ok.mean(), exact(ok, grp).mean()) if len(ok) else (0., 0.)
        self.hist.append((la.item(), ll.item(), *right))
        return lr

    def stage(self, st):
        workers = max(1, (os.cpu_count() or 2) - 2) if self.device.type == "cuda" else 0
        feed = Feed(self.files, st, plans.BATCH[self.a.size], self.a.seed + self.at["step"])
        self.hist = []
        for T, batch in DataLoader(feed, batch_size=None, num_workers=workers, collate_fn=as_is):
            lr, at = self.update(st, batch), self.at
            if at["step"] % self.a.log == 0:
                h = np.mean(self.hist[-self.a.log:], 0)
                print("%s step %d T %d %.0fs tok %.2fM of %.2fM lr %.1e" % (
                    st["name"], at["step"], T, time.time() - self.t0, at["done"] / 1e6, st["tok"], lr),
                    "answer loss %.3f prose loss %.2f token acc %.3f exact %.3f" % tuple(h), flush=True)
            if time.time() - self.saved > 120:
                self.save()
            if time.time() - self.tested > self.a.test_minutes * 60:
                self.test(st["lens"])
            early = len(self.hist) >= 40 and np.mean([h[3] for h in self.hist[-40:]]) > st["until"]
            if self.stop or early or at["done"] >= st["tok"] * 1e6:
                return

    def run(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, lambda *_: self.stop.append(1))
        names = [s["name"] for s in self.plan]
        for i in range(names.index(self.at["stage"]), len(names)):
            self.stage(self.plan[i])
            if self.stop:
                self.save()
                return
            self.test(self.plan[i]["lens"])
            self.save(names[i])
            if i + 1 < len(names):
                self.at.update(stage=names[i + 1], done=0)
            self.save()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--size", choices=list(plans.PLANS), default="cpu")
    ap.add_argument("--model", choices=("draft", "target"), required=True)
    for k in ("dir", "tok", "hay", "adj", "noun"):
        ap.add_argument("--" + k, required=True)
    ap.add_argument("--resume", action="store_true", help="continue from DIR/MODEL.pt if it is there")
    ap.add_argument("--init", default="", help="checkpoint whose weights to start from")
    ap.add_argument("--stage", default="", help="stage to start with")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--log", type=int, default=25)
    ap.add_argument("--lm", type=float, default=.15, help="weight of the prose loss")
    ap.add_argument("--lm-share", type=float, default=.2, help="share of prose positions that count")
    ap.add_argument("--test-minutes", type=float, default=15.)
    ap.add_argument("--test-n", type=int, default=16, help="test samples of a task")
    ap.add_argument("--scale", type=float, default=1., help="all stage lengths times this, to try the pipeline out")
    ap.add_argument("--fp32", action="store_true", help="no bf16 matrix products")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.dir, exist_ok=True)
    Run(a).run()
