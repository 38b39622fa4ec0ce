# SPDX-License-Identifier: Apache-2.0
"""Training samples of the long-context tasks, built token by token, and the haystack file.

  python3 data.py --tok tok.json --out haystack.npz -- text1.txt text2.txt ...
"""
import argparse
import random

import numpy as np
from wording import CHAIN_Q, HEAD, LETTERS, Q_FULL, Q_MANY, REC, VT_HEAD, VT_Q, sentences, split_words


class Sample:
    """Tokens x; weights w of the loss on predicting each (-1: plain prose); answer groups g (0: no answer);
    alt: for a token index, every token that would be right there (values may be listed in any order)."""

    def __init__(self, bos):
        self.x, self.w, self.g, self.alt = [bos], [0.], [0], {}

    def add(self, ids, weight=0., group=0):
        self.x += ids
        self.w += [weight] * len(ids)
        self.g += [group] * len(ids)
        return self


class Tasks:
    def __init__(self, tok, hay, adj, noun, held=False, seed=0):
        self.t, self.r = tok, random.Random(seed)
        z = np.load(hay)
        self.ids, self.off = z["ids"].astype(np.int64), z["off"].astype(np.int64)
        e = self.e = tok.encode
        self.adj = [(e(" " + w), e(w), w) for w in split_words(adj, held)]
        self.noun = [(e("-" + w), w) for w in split_words(noun, held)]
        self.few = random.Random(0).sample(range(256, len(tok.tokens) - 16), 256)
        self.seps = [e(t) for t in (": ", ": ", " is ", " is: ", " = ")]
        self.short = sorted({n[0][-1] for n in self.noun} | {a[0][-1] for a in self.adj})
        self.head, self.vhead, self.nl, self.sp, self.dot, self.com, self.colon = map(
            e, (HEAD, VT_HEAD, "\n", " ", ".", ",", ":"))
        self.rec, self.qf, self.qm, self.vq, self.cq = ([e(p) for p in x] for x in (REC, Q_FULL, Q_MANY, VT_Q, CHAIN_Q))
        self.var, self.vareq, self.eq, self.valof, self.is_ = map(e, (" VAR", " = VAR", " =", "\nThe value of", " is"))
        self.and_ = e(", and")

    # ---- small parts
    def key(self):
        a, n = self.r.choice(self.adj), self.r.choice(self.noun)
        return a[0] + n[0], a[1] + n[0], a[2] + "-" + n[1]      # mid-sentence, line start, text

    def keys(self, n):
        d = {}
        while len(d) < n:
            k = self.key()
            d[k[2]] = k
        return list(d.values())

    def num(self, digits=7):
        s = str(self.r.randrange(10 ** (digits - 1), 10 ** digits))
        return [self.t.id[s[i:i + 3]] for i in range(0, digits, 3)]

    def names(self, n):
        """variable names: three letters, three tokens"""
        out = {}
        while len(out) < n:
            s = "".join(self.r.choice(LETTERS) for _ in range(3))
            ids = self.e(" " + s)
            if len(ids) == 3:
                out[s] = ids
        return list(out.values())

    def hay(self, room):
        """list of consecutive sentences with at most room tokens"""
        n, out = len(self.off) - 1, []
        i = self.r.randrange(n)
        miss = 0
        while room > 0 and miss < 8:
            a, b = self.off[i % n], self.off[i % n + 1]
            if b - a <= room:
                out.append(self.ids[a:b].tolist())
                room -= b - a
            else:
                miss += 1
            i += 1
        return out

    def scatter(self, T, head, recs, tail):
        """One sample of at most T tokens: head, the records in this order at random sentence gaps of the
        haystack, then the tail (a Sample whose first token is dropped), end-of-text."""
        room = T - 2 - len(head) - sum(map(len, recs)) - (len(tail.x) - 1)
        h = self.hay(room) if room > 0 else []
        cuts = sorted(self.r.randint(0, len(h)) for _ in recs)
        s = Sample(self.t.bos).add(head)
        j = 0
        for i in range(len(h) + 1):
            while j < len(recs) and cuts[j] == i:
                s.add(recs[j])
                j += 1
            if i < len(h):
                s.add(h[i], -1.)
        base = len(s.x) - 1
        s.x, s.w, s.g = s.x + tail.x[1:], s.w + tail.w[1:], s.g + tail.g[1:]
        s.alt = {base + i: v for i, v in tail.alt.items()}
        return s.add([self.t.eos], .5)

    def pick_head(self, T, head, which):
        if head is None:
            head = T > 200 and self.r.random() < .4
        return which if head else []

    # ---- tasks; T is the largest length; the other parameters fix what is random by default
    def niah(self, T, same=0.2, n=None, m=None, full=0.6, head=None):
        """n needles, m of them asked: in the record's wording (same), RULER's question (full), or its last half"""
        r = self.r
        head = self.pick_head(T, head, self.head)
        u = r.random()
        form = 0 if u < same else (2 if u < same + full else 1)
        dense = r.uniform(0.7 if T < 400 else 0.3, 1.0) if n is None else 0
        if n is None and r.random() < 0.15:
            m = 1
        left = (T - 2 - len(head)) * dense
        recs, qs, cost = [], [], 0
        for k in self.keys(int(n or 40)):
            v = self.num()
            rec = self.rec[0] + k[0] + self.rec[1] + self.sp + v + self.dot
            qlen = len(rec) if form == 0 else (len(self.qf[2]) + 8 + len(k[0]) if form == 1 else 38 + 2 * len(k[0]))
            if m and len(recs) >= m:
                qlen = 0
            if n is None and len(recs) >= 1 and cost + len(rec) + qlen > left:
                break
            cost += len(rec) + qlen
            recs.append(rec)
            qs.append((k, v))
        r.shuffle(qs)
        tail = Sample(0)
        for i, (k, v) in enumerate(qs[:int(m or len(qs))]):
            if form == 0:
                tail.add((self.nl if i == 0 else []) + self.rec[0] + k[0] + self.rec[1])
            elif form == 1:
                tail.add((self.nl if i == 0 else []) + self.qf[1][6:] + k[0] + self.qf[2])
            else:
                tail.add(self.qf[0] + k[0] + self.qf[1]).add(k[0], .2).add(self.qf[2])
            tail.add(self.sp, .2).add(v, 1., i + 1).add(self.dot, .5)
        r.shuffle(recs)
        return self.scatter(T, head, recs, tail)

    def kv(self, T, n=None, same=0.5, m=None, easy=0):
        """key-value list; the question repeats the line (same) or asks "The value of KEY is";
        easy: keys of one or two tokens and nothing but a space between key and number"""
        r = self.r
        same = easy or r.random() < same
        per = (6 if easy else 10) + (6 if easy else 10 if same else 14)
        n = int(n or max(2, int(min(40, (T - 4) // per) * r.uniform(.5, 1))))
        if easy == 1:
            ks = [(None, k + self.sp) for k in ([r.choice(self.short)] for _ in range(n))]
        elif easy:
            ks = [(None, k[1] + (self.sp if r.random() < .5 else self.colon + self.sp)) for k in self.keys(n)]
        else:
            sep = r.choice(self.seps) if same else self.seps[0]
            ks = [(k[0], k[1] + sep) for k in self.keys(n)]
        ks = [(k, self.num()) for k in ks]
        s = Sample(self.t.bos)
        for i, (k, v) in enumerate(ks):
            s.add((self.nl if i else []) + k[1] + v)
        r.shuffle(ks)
        for i, (k, v) in enumerate(ks[:int(m or n)]):
            pre = self.nl + k[1] if same else self.valof + k[0] + self.is_ + self.sp
            if len(s.x) + len(pre) + 6 > T and i:
                break
            s.add(pre[:-1]).add(pre[-1:], .2).add(v, 1., i + 1)
            if not same:
                s.add(self.dot, .5)
        return s if same else s.add([self.t.eos], .5)

    def mv(self, T, c=None, extra=None, head=None, maxq=0, short=0.):
        """multi-value: several numbers for one key, listed in any order; short: share of samples that ask with
        the last half of the question (and so fit more questions)"""
        r = self.r
        head = self.pick_head(T, head, self.head)
        short = r.random() < short
        room = T - 2 - len(head)
        recs, todo, cost = [], [], 0
        for i, k in enumerate(self.keys(12)):
            asked = i == 0 or (not c and (not maxq or i < maxq))
            vs = [self.num() for _ in range(int(c or r.randint(1, 4)) if asked else 1)]
            rec = [self.rec[0] + k[0] + self.rec[1] + self.sp + v + self.dot for v in vs]
            qlen = (9 if short else 40) + (1 if short else 2) * len(k[0]) + 5 * len(vs) if asked else 0
            if i and (cost + sum(map(len, rec)) + qlen > room * .9 or (extra is not None and i > extra)):
                break
            cost += sum(map(len, rec)) + qlen
            recs += rec
            if asked:
                todo.append((k[0], vs))
        r.shuffle(recs)
        r.shuffle(todo)
        tail = Sample(0)
        for i, (k, vs) in enumerate(todo):
            if short:
                tail.add((self.nl if i == 0 else []) + self.qm[1][6:] + k + self.qm[2])
            else:
                tail.add(self.qm[0] + k + self.qm[1]).add(k, .2).add(self.qm[2])
            self.listing(tail, vs, i + 1)
        return self.scatter(T, head, recs, tail)

    def mq(self, T, n=None, m=None, head=None):
        """multi-query: the numbers of several keys asked in one question, listed in any order; n needles, one
        question for m of them, or questions for two to four until all are asked"""
        r = self.r
        head = self.pick_head(T, head, self.head)
        left = (T - 2 - len(head)) * (r.uniform(.4, 1.) if n is None else 1.)
        asks, recs, cost = [], [], 0
        ks = [(k[0], self.num()) for k in self.keys(int(n or 32))]
        while ks:
            ask = [ks.pop() for _ in range(min(len(ks), int(m or r.randint(2, 4 if T > 200 else 2))))]
            rec = [self.rec[0] + k + self.rec[1] + self.sp + v + self.dot for k, v in ask]
            cost += sum(map(len, rec)) + 40 + sum(2 * len(k) + 8 for k, _ in ask)
            if asks and n is None and cost > left:
                break
            asks.append(ask)
            recs += rec
        r.shuffle(recs)
        tail = Sample(0)
        for i, ask in enumerate(asks[:1] if m else asks):
            names = list(ask[0][0])
            for j, (k, _) in enumerate(ask[1:]):
                names += (self.and_ if j + 2 == len(ask) else self.com) + k
            tail.add(self.qm[0] + names + self.qm[1]).add(names, .2).add(self.qm[2])
            self.listing(tail, [v for _, v in ask], i + 1)
        return self.scatter(T, head, recs, tail)

    def multi(self, T, easy=0.5, again=0.):
        """lines "key value.", several of one key, then "key value, value." for each: what mv needs, dense; again:
        share of samples that repeat the key before each value instead, so that only the choice is left to learn"""
        r = self.r
        again = r.random() < again
        keys = [[r.choice(self.short)] if r.random() < easy else k[1] for k in self.keys(12)]
        recs, todo, cost = [], [], 0
        for k in keys:
            vs = [self.num() for _ in range(r.randint(1, 3))]
            cost += (2 + len(k) + 5) * len(vs) + 1 + len(k) + (5 + again * (1 + len(k))) * len(vs)
            if todo and cost > T - 3:
                break
            recs += [self.nl + k + self.sp + v + self.dot for v in vs]
            todo.append((k, vs))
        r.shuffle(recs)
        r.shuffle(todo)
        s = Sample(self.t.bos)
        for rec in recs:
            s.add(rec)
        for i, (k, vs) in enumerate(todo):
            self.listing(s.add(self.nl + k), vs, i + 1, self.dot + self.nl + k if again else None)
        return s.add([self.t.eos], .5)

    def link(self, T, easy=0):
        """records VAR DEF = VAR ABC, then "ABC DEF." for each: what vt needs, dense; easy: share of samples with
        names of one token, which may stand closer together"""
        r = self.r
        easy = r.random() < easy
        mid = r.choice(([], self.eq, self.vareq)) if easy else self.vareq
        n = max(2, int((T - 4) // (9 if easy else 17) * r.uniform(.4, 1)))
        nm = [[t] for t in r.sample(self.short, n + 1)] if easy else self.names(n + 1)
        if r.random() < .5:                             # a tree instead of a chain
            pairs = [(nm[r.randrange(i)] if i > 1 and r.random() < .3 else nm[i - 1], nm[i]) for i in range(1, n + 1)]
            pairs = list({tuple(a): (a, b) for a, b in pairs}.values())
        else:
            pairs = [(nm[i - 1], nm[i]) for i in range(1, n + 1)]
        s = Sample(self.t.bos)
        r.shuffle(pairs)
        for a, b in pairs:
            s.add(self.var + b + mid + a + self.dot)
        r.shuffle(pairs)
        s.add(self.nl)
        for i, (a, b) in enumerate(pairs):
            s.add(a).add(b, 1., i + 1).add(self.dot, .2)
        return s.add([self.t.eos], .5)

    def listing(self, tail, vs, group, between=None):
        """" 123, 456." in random order; at the first token of a value every value not yet listed is right; between:
        what stands between values, given, not asked"""
        self.r.shuffle(vs)
        for j, v in enumerate(vs):
            tail.add(self.sp, .2)
            tail.alt[len(tail.x)] = sorted({u[0] for u in vs[j:]})
            tail.add(v[:1], 3. if j else 1., group).add(v[1:], 1., group)
            if between and j + 1 < len(vs):
                tail.add(between)
            else:
                tail.add(self.com if j + 1 < len(vs) else self.dot, .7, group)

    def vt(self, T, hops=None, chains=None, head=None, short=0.):
        """variable tracking: VAR ABC = 12345 ... VAR DEF = VAR ABC; list all variables of a value"""
        r = self.r
        head = self.pick_head(T, head, self.vhead)
        short = r.random() < short
        most = max(1, min(10, (T - len(head)) // (75 if short else 130)))
        chains = int(chains or r.randint(1, most))
        names = self.names(5 * chains)
        lists, todo = [], []
        for _ in range(chains):
            h = int(hops or r.randint(1, 4 if T > 200 else 2))
            nm = [names.pop() for _ in range(h + 1)]
            v = self.num(5)
            recs = [self.var + nm[0] + self.eq + self.sp + v + self.dot]
            recs += [self.var + nm[i + 1] + self.vareq + nm[i] + self.dot for i in range(h)]
            lists.append(recs)
            todo.append((v, nm))
        recs, pend = [], [x[:] for x in lists]
        while any(pend):
            recs.append(r.choice([p for p in pend if p]).pop(0))
        r.shuffle(todo)
        tail = Sample(0)
        for i, (v, nm) in enumerate(todo[:1 if hops else None]):
            if short:
                tail.add(self.vq[2] + self.sp + v + self.vq[3])
            else:
                tail.add(self.vq[0] + self.sp + v + self.vq[1] + self.e(" %d" % len(nm)) + self.vq[2] +
                         self.sp + v + self.vq[3])
            for n in nm:
                tail.add(n, 1., i + 1)
            tail.add(self.dot, .7, i + 1)
        if len(head) + sum(map(len, recs)) + len(tail.x) + 2 > T and hops is None:
            return self.vt(T, chains=chains - 1, short=short) if chains > 1 else self.niah(T)
        return self.scatter(T, head, recs, tail)

    def trace(self, T, hops=None, chains=None, head=None, short=0.):
        """pointer chasing: the records of vt in any order; follow one variable to its value, in the records' words"""
        r = self.r
        head = self.pick_head(T, head, self.vhead)
        short = r.random() < short
        room, recs, todo, cost = T - 2 - len(head), [], [], 0
        names = self.names(60)
        while len(todo) < int(chains or 12):
            h = int(hops or r.randint(1, 4 if T > 150 else 2))
            asked = not hops or not todo
            cost += 11 * (h + 1) + (11 * (h + 1) + (0 if short else 40) if asked else 0)
            if todo and not chains and cost > room * (.7 + .3 * r.random()):
                break
            nm, v = [names.pop() for _ in range(h + 1)], self.num(5)
            steps = [self.var + nm[i] + self.vareq + nm[i - 1] + self.dot for i in range(h, 0, -1)]
            steps.append(self.var + nm[0] + self.eq + self.sp + v + self.dot)
            recs += steps
            todo.append((nm[-1], steps))
        r.shuffle(recs)
        tail, todo = Sample(0), todo[:1 if hops else None]
        for i, (name, steps) in enumerate(todo):
            pre = self.nl + self.var if short else self.cq[0] + name + self.cq[1]
            tail.add(pre + name + self.eq)
            for j, st in enumerate(steps):
                st = st if j else st[len(self.var) + len(name) + len(self.eq):]
                tail.add(st[:-1], 1., i + 1).add(self.dot, .5, i + 1)
        if len(head) + sum(map(len, recs)) + len(tail.x) + 2 > T and not hops:
            return self.niah(T)
        return self.scatter(T, head, recs, tail)

    def copy(self, T, small=0):
        """warm-up: a random span, a gap of prose, the span again; small: only 256 different tokens, short"""
        r = self.r
        if small:
            T = 40
        n = r.randint(5, (T - 2) // 2)
        if small or r.random() < .5:
            span = r.choices(self.few if small else range(len(self.t.tokens) - 16), k=n)
        else:
            span = []
            while len(span) < n:
                span += self.num() + (self.key()[0] if r.random() < .7 else [])
            span = span[:n]
        s = Sample(self.t.bos).add(span)
        for h in self.hay(r.randint(0, max(0, T - 1 - 2 * n))):
            s.add(h)
        s.add(span[:1])
        for i in range(1, n):
            s.add(span[i:i + 1], 1., 1 + i // 8)
        return s

    def prose(self, T):
        s = Sample(self.t.bos)
        for h in self.hay(T - 1):
            s.add(h, -1.)
        return s

    def one(self, T, spec):
        """spec: "task" or "task:parameter=value:..." """
        name, *kw = spec.split(":")
        return getattr(self, name)(T, **{k: float(v) for k, v in (p.split("=") for p in kw)})

    def batch(self, B, T, mix, fixed=False):
        """mix: {spec: share}; fixed: exactly T long"""
        return pack([self.one(T, s) for s in self.r.choices(list(mix), list(mix.values()), k=B)], T, self.t.pad, fixed)


def pack(samples, T, pad, fixed=False):
    """padded arrays x, w, g and a list of (row, index of the predicted token, right tokens)"""
    n = T if fixed else min(T, max(len(s.x) for s in samples))
    x = np.full((len(samples), n), pad)
    w, g, alt = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.int64), []
    for i, s in enumerate(samples):
        m = min(n, len(s.x))
        x[i, :m], w[i, :m], g[i, :m] = s.x[:m], s.w[:m], s.g[:m]
        alt += [(i, j, a) for j, a in s.alt.items() if j < n and len(a) > 1]
    return x, w, g, alt


def picked(batch, lm_share, rng, unit=1):
    """What a step needs of a packed batch, small and free of shapes that only the loss would know: x; where, among
    the predictions in a row, the loss looks (at), for which token (y), with which weight (w; -1: prose) and for which
    answer (g, numbered over the batch; 0: none); rows of these with several right tokens (ids, padded with the first
    where off is not 0).  lm_share: share of the prose positions; unit: their number is rounded up to one of these."""
    x, w, g, alt = batch
    y, w, g = x[:, 1:], w[:, 1:], g[:, 1:]
    keep = (w > 0) | ((w < 0) & (rng.random(w.shape, np.float32) < lm_share))
    at = np.flatnonzero(keep)
    more = -len(at) % unit
    group = g.ravel()[at] + (g > 0).ravel()[at] * (at // w.shape[1]) * 1000
    group = np.unique(np.append(group, 0), return_inverse=True)[1].ravel()[:-1]
    row = np.cumsum(keep.ravel()) - 1
    width = max([len(a) for _, _, a in alt], default=1)
    return dict(
        x=x.astype(np.int16), at=np.append(at, [0] * more).astype(np.int32),
        y=np.append(y.ravel()[at], [0] * more).astype(np.int16),
        w=np.append(w.ravel()[at], [0.] * more).astype(np.float32), g=np.append(group, [0] * more).astype(np.int32),
        rows=np.array([row[i * w.shape[1] + j - 1] for i, j, _ in alt], np.int32),
        ids=np.array([a + a[:1] * (width - len(a)) for _, _, a in alt], np.int16).reshape(-1, width),
        off=np.array([[0.] * len(a) + [-1e9] * (width - len(a)) for _, _, a in alt], np.float32).reshape(-1, width))


if __name__ == "__main__":
    from tokenizer import Tokenizer
    ap = argparse.ArgumentParser()
    ap.add_argument("--tok", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--max", type=int, default=80, help="longest sentence kept, in tokens")
    ap.add_argument("texts", nargs="+")
    a = ap.parse_args()
    t, ids, off = Tokenizer(a.tok), [], [0]
    for f in a.texts:
        for s in sentences(open(f, errors="replace").read()):
            e = t.encode(s)
            if 4 <= len(e) <= a.max:
                ids += e
                off.append(len(ids))
    np.savez_compressed(a.out, ids=np.array(ids, np.uint16), off=np.array(off, np.int32))
    print("sentences", len(off) - 1, "tokens %.2fM" % (len(ids) / 1e6))
