# SPDX-License-Identifier: Apache-2.0
r"""Trains one model of the pair through the stages of plans.py, on a CUDA device where there is one.

  python3 train.py --size cpu --model draft --dir OUT --tok tok.json --hay hay.npz --adj adj.txt --noun noun.txt \
      --resume
OUT/MODEL.pt is rewritten every two minutes; OUT/MODEL-STAGE.pt is kept at each stage end.
"""
import time

START = time.time()     # importing torch counts against --seconds

import argparse
import faulthandler
import os
import random
import signal

import model
import numpy as np
import plans
import torch
import torch.nn.functional as F
from data import Tasks, pack, picked
from feed import Feed, Maker
from model import Llama, load
from tokenizer import Tokenizer

TEST = {"single": "niah:n=1:m=1:same=0:full=1:head=1", "multi8": "niah:n=8:m=1:same=0:full=1:head=1",
        "mq4": "mq:n=4:m=4:head=1", "mv2": "mv:c=2:extra=2:head=1", "mv4": "mv:c=4:extra=2:head=1",
        "chain2": "trace:hops=2:chains=2:head=1", "chain4": "trace:hops=4:chains=2:head=1",
        "vt": "vt:hops=4:example=1:letters=5"}


def move(batch, device):
    """tensors of data.picked() on the device"""
    out = {}
    for k, v in batch.items():
        t = torch.from_numpy(v)
        if device.type == "cuda":
            t = (t.pin_memory() if t.numel() else t).to(device, non_blocking=True)
        out[k] = t if v.dtype == np.float32 else t.long()
    return out


def losses(m, batch, device, bf16=True):
    """answer loss, prose loss, right first choices among the answers' tokens, right answers; no step waits for the
    device"""
    b, answers = move(batch, device), int(batch["g"].max(initial=0))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        lo = m.head(m.hidden(b["x"][:, :-1]).flatten(0, 1).index_select(0, b["at"]))
    lo, y, w, g = lo.float(), b["y"], b["w"], b["g"]
    ok = lo.argmax(-1) == y
    ce, wa, wl = F.cross_entropy(lo, y, reduction="none"), w.clamp(min=0), (w < 0).float()
    at, other = b["also_at"], b["also_y"]               # minus the logarithm of the probability of all that is right
    odds = torch.exp(lo[at, other] - lo[at, y[at]])
    ce = ce - torch.log1p(torch.zeros_like(ce).index_add(0, at, odds))
    ok = ok.float().index_add(0, at, (lo.argmax(-1)[at] == other).float()) > 0
    la = (ce * wa).sum() / wa.sum().clamp(min=1e-6)
    ll = (ce * wl).sum() / wl.sum().clamp(min=1)
    wrong = torch.zeros(answers + 1, device=device).index_add_(0, g, (~ok).float())[1:]
    tokens = (g > 0).float()
    return la, ll, (ok * tokens).sum() / tokens.sum().clamp(min=1), wrong == 0


@torch.no_grad()
def evaluate(m, test, T, device, n):
    """share of right answers per task; test: tasks with held-out keys"""
    test.r, r, rng = random.Random(T), {}, np.random.default_rng(0)
    room = 131072 if device.type == "cuda" else 8192
    for name, spec in TEST.items():
        res, B = [], max(1, min(n, room // T))
        for _ in range(0, n, B):
            b = pack([test.one(T, spec) for _ in range(B)], T, test.t.pad)
            res += losses(m, picked(b, 0, rng), device)[3].tolist()
        if res:                                         # vt does not fit into short samples
            r[name] = round(float(np.mean(res)), 2)
    return r


class Run:
    def __init__(self, a):
        self.a, self.tok, self.stop = a, Tokenizer(a.tok), []
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, lambda *_: self.stop.append(1))
        files = (self.tok, a.hay, a.adj, a.noun)
        self.held = Tasks(*files, held=True)
        self.plan = plans.PLANS[a.size][a.model]
        cuda = torch.cuda.is_available()
        state, self.at = None, dict(stage=self.plan[0]["name"], done=0., tokens=0, seconds=0., step=0)
        path = os.path.join(a.dir, a.model + ".pt")
        if a.resume and os.path.exists(path):
            self.m, state = load(path, context=plans.CONTEXT[a.size])
            self.at = {k: state[k] for k in self.at}
        elif a.init:
            self.m = load(a.init, context=plans.CONTEXT[a.size])[0]
        else:
            self.m = Llama(dict(plans.SHAPES[a.size][a.model], context=plans.CONTEXT[a.size], theta=5e5,
                                vocab=len(self.tok.tokens)))
        if a.stage and not state:
            self.at.update(stage=a.stage, done=0.)
        workers = a.workers if a.workers >= 0 else max(1, (os.cpu_count() or 2) - 2) if cuda else 0
        self.maker = Maker(Tasks(*files), self.plan, a.lm_share, cuda)
        self.feed = Feed(self.maker, workers, a.seed + self.at["step"])     # before CUDA starts
        self.device = torch.device("cuda" if cuda else "cpu")
        if cuda:
            torch.backends.cuda.enable_cudnn_sdp(False)     # it plans anew for every shape
        self.m.to(self.device)
        self.opt = self.optimizer(state)
        self.warm = 0 if state and "opt" in state else self.at["step"]
        self.t0 = START - self.at["seconds"]
        self.saved = self.tested = time.time()
        self.hist = []
        print("%s: %.3f M parameters on %s, %d workers, ready after %.0f s" % (
            a.model, sum(p.numel() for p in self.m.parameters()) / 1e6, self.device, workers, time.time() - START),
            flush=True)

    def optimizer(self, state=None):
        ps, fused = list(self.m.parameters()), self.device.type == "cuda" and model.FAST
        opt = torch.optim.AdamW([{"params": [p for p in ps if p.dim() == 2], "weight_decay": .02},
                                 {"params": [p for p in ps if p.dim() == 1], "weight_decay": 0.}],
                                lr=1e-3, betas=(0.9, 0.98), **({"fused": True} if fused else {}))
        if state and "opt" in state:
            opt.load_state_dict(state["opt"])
            for group in opt.param_groups:
                group["fused"] = fused
        return opt

    def save(self, name=None):
        self.at["seconds"] = time.time() - self.t0
        st = dict(self.at, model=self.m.state_dict(), cfg=self.m.cfg)
        path = os.path.join(self.a.dir, self.a.model + ("-" + name if name else "") + ".pt")
        if not name:
            st["opt"] = self.opt.state_dict()
        torch.save(st, path + ".tmp")
        os.replace(path + ".tmp", path)
        self.saved = time.time()

    def test(self, T):
        n = max(1, round(self.a.test_n * min(1, self.a.scale)))
        print("held-out keys, T %d: %s" % (T, evaluate(self.m, self.held, T, self.device, n)), flush=True)
        self.tested = time.time()

    def step(self, batch, lr):
        """one update; a gradient that is not finite changes nothing"""
        for gr in self.opt.param_groups:
            gr["lr"] = lr
        la, ll, acc, right = losses(self.m, batch, self.device, not self.a.fp32)
        self.opt.zero_grad()
        (la + self.a.lm * ll).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.)
        if self.opt.defaults.get("fused"):
            self.opt.found_inf = (~torch.isfinite(norm)).float()    # the fused update reads it on the device
            self.opt.step()
        elif torch.isfinite(norm):
            self.opt.step()
        exact = right.float().mean() if len(right) else torch.zeros((), device=self.device)
        return torch.stack([la.detach(), ll.detach(), acc, exact, norm])

    def check(self):
        """Three steps of every stage at its longest, before anything depends on them: says what a step takes, and
        that memory and kernels suffice.  At rate 0 the model stays as it is."""
        for i, st in enumerate(self.plan):
            T, batch = self.maker.make(i, max(st["lens"]))
            self.step(batch, 0.).tolist()
            t = time.time()
            h = [self.step(batch, 0.) for _ in range(2)][-1].tolist()
            print("check %s: T %d x %d, %.0f ms, answer loss %.2f, gradient %.2f" % (
                st["name"], T, len(batch["x"]), (time.time() - t) * 500, h[0], h[4]), flush=True)
        self.opt = self.optimizer()

    def limit(self, i):
        """seconds that the rest of stage i may take: its part of what is left"""
        shares = [s["share"] for s in self.plan[i:]]
        shares[0] *= 1 - self.at["done"]
        return max(.1, START + self.a.seconds - self.a.reserve - time.time()) * shares[0] / max(1e-9, sum(shares))

    def stage(self, i):
        """to the end of stage i: at["done"] runs from 0 to 1, by tokens or by the clock"""
        st, at, device = self.plan[i], self.at, self.device.type
        begin, first, clock = at["done"], time.time(), self.limit(i) if self.a.seconds else 0
        self.hist = []
        while at["done"] < 1 and not self.stop:
            got = self.feed.get(i, self.stop)
            if got is None:
                return
            T, batch = got
            lr = st["lr"] * min(1, (at["step"] - self.warm + 1) / 80) * (max(.02, 1 - at["done"]) if st["decay"] else 1)
            self.hist.append(self.step(batch, lr))
            at["step"] += 1
            at["tokens"] += batch["x"].size
            if clock:
                at["done"] = begin + (1 - begin) * (time.time() - first) / clock
            else:
                at["done"] += batch["x"].size / (st["tok"] * self.a.scale * 1e6)
            if at["step"] % self.a.log == 0:
                if clock:
                    faulthandler.dump_traceback_later(90, exit=True)    # what hangs is started again
                print("%s step %d T %d %.0fs tok %.2fM done %.3f lr %.1e" % (
                    st["name"], at["step"], T, time.time() - self.t0, at["tokens"] / 1e6, at["done"], lr),
                    "answer loss %.3f prose loss %.2f token acc %.3f exact %.3f gradient %.2f" % self.mean(self.a.log),
                    flush=True)
            if time.time() - self.saved > self.a.save_seconds:
                self.save()
            if time.time() - self.tested > self.a.test_minutes * 60:
                self.test(max(256, *st["lens"]))
            look = at["step"] % (self.a.log if device == "cuda" else 1) == 0    # looking waits for the device
            if look and len(self.hist) >= 40 and self.mean(40)[3] > st["until"]:
                return

    def mean(self, n):
        self.hist = self.hist[-1000:]
        return tuple(torch.stack(self.hist[-n:]).mean(0).tolist())

    def run(self):
        names = [s["name"] for s in self.plan]
        if self.a.check and not self.at["step"]:
            self.check()
        for i in range(names.index(self.at["stage"]), len(names)):
            self.stage(i)
            if self.stop:
                self.save()
                return
            self.save()
            lens = sorted(self.plan[i]["lens"])
            for T in [T for T in lens if T >= 2048] if i + 1 == len(names) else [max(256, lens[-1])]:
                self.test(T)
            self.save(names[i])
            if i + 1 < len(names):
                self.at.update(stage=names[i + 1], done=0.)
                self.save()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--size", choices=list(plans.PLANS), default="cpu")
    ap.add_argument("--model", choices=("draft", "target"), required=True)
    for k in ("dir", "tok", "hay", "adj", "noun"):
        ap.add_argument("--" + k, required=True)
    ap.add_argument("--resume", action="store_true", help="continue from DIR/MODEL.pt if it is there")
    ap.add_argument("--init", default="", help="checkpoint whose weights to start from")
    ap.add_argument("--stage", default="", help="stage to start with, where no checkpoint is there to continue from")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--log", type=int, default=25)
    ap.add_argument("--lm", type=float, default=.15, help="weight of the prose loss")
    ap.add_argument("--lm-share", type=float, default=.2, help="share of prose positions that count")
    ap.add_argument("--test-minutes", type=float, default=15.)
    ap.add_argument("--test-n", type=int, default=16, help="test samples of a task")
    ap.add_argument("--save-seconds", type=float, default=120.)
    ap.add_argument("--scale", type=float, default=1., help="all stage lengths times this, to try the pipeline out")
    ap.add_argument("--seconds", type=float, default=0., help="go by the clock: share this time among the stages")
    ap.add_argument("--reserve", type=float, default=5., help="seconds of these for the last tests")
    ap.add_argument("--workers", type=int, default=-1, help="processes that make batches")
    ap.add_argument("--check", action="store_true", help="try every stage before the first")
    ap.add_argument("--plain", action="store_true", help="no kernels that older versions of torch have not")
    ap.add_argument("--fp32", action="store_true", help="no bf16 matrix products")
    a = ap.parse_args()
    if a.model not in plans.PLANS[a.size]:
        ap.error("the size %s has no %s" % (a.size, a.model))
    if "tok" not in plans.PLANS[a.size][a.model][0] and not a.seconds:
        ap.error("the plan %s goes by the clock: --seconds" % a.size)
    model.FAST = not a.plain
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.dir, exist_ok=True)
    Run(a).run()
