# SPDX-License-Identifier: Apache-2.0
"""Training samples of the long-context tasks, built token by token, and the haystack file.

  python3 data.py --tok tok.json --out haystack.npz -- text1.txt text2.txt ...
"""
import argparse
import random

import numpy as np
from wording import (CHAIN_Q, HEAD, LETTERS, MADE_UP, NOISE, Q_FULL, Q_MANY, REC, VT_HEAD, VT_Q, sentences,
                     split_words)


class Sample:
    """Tokens x; weights w of the loss on predicting each (-1: plain prose); answer groups g (0: no answer);
    also: for a token index, the tokens that would be as right as the one there."""

    def __init__(self, bos):
        self.x, self.w, self.g, self.also = [bos], [0.], [0], {}

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
        self.and_, self.dash, self.line_var, self.noise = map(e, (", and", "\n-", "VAR", NOISE + "\n"))

    # ---- small parts
    def key(self):
        """adjective and noun, or, one in six, two words that are none, as `eval ruler` makes them up"""
        r = self.r
        if r.random() < .16:
            a, n = ("".join(r.choice(c) for c in MADE_UP) for _ in range(2))
            return self.e(" " + a) + self.e("-" + n), self.e(a) + self.e("-" + n), a + "-" + n
        a, n = r.choice(self.adj), r.choice(self.noun)
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

    def names(self, n, letters=0):
        """variable names: letters, or three of a token each; some of few letters, for their copies go wrong where a
        letter is repeated or shared"""
        out, pool = {}, LETTERS
        if letters >= 5 and self.r.random() < .4:
            pool = self.r.sample(LETTERS, 7)
        while len(out) < n:
            s = "".join(self.r.choice(pool) for _ in range(letters or 3))
            ids = self.e(" " + s)
            if letters or len(ids) == 3:
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
        s.also = {len(s.x) - 1 + i: tokens for i, tokens in tail.also.items()}
        s.x, s.w, s.g = s.x + tail.x[1:], s.w + tail.w[1:], s.g + tail.g[1:]
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

    def mv(self, T, c=None, extra=None, head=None, short=0., bare=0.):
        """multi-value: several numbers for one key; short: share of samples that ask with the last half of the question
        (and so fit more questions); bare: with records cut to "KEY is: 123." """
        r = self.r
        head = self.pick_head(T, head, self.head)
        short, pre = r.random() < short, [] if r.random() < bare else self.rec[0]
        room = T - 2 - len(head)
        recs, asks, cost = [], [], 0
        for i, k in enumerate(self.keys(12)):
            asked = i == 0 or not c
            n = int(c or min(max(2, T // 50), r.choice((1, 2, 2, 3, 3, 4, 4, 5))) if asked else 1)
            size = n * (len(pre) + len(k[0]) + 7)
            if asked:
                size += (12 if short else 43) + (2 if short else 3) * len(k[0]) + n * 5
            if i and (cost + size > room * .95 or (extra is not None and i > extra)):
                break
            cost += size
            if asked:
                asks.append([k[0]])
            recs += [(k[0], self.num()) for _ in range(n)]
        return self.lists(T, head, pre, recs, asks, short)

    def mq(self, T, n=None, m=None, head=None, short=0., bare=0.):
        """multi-query: the numbers of several keys asked in one question, listed in its order; n needles, one
        question for m of them, or questions for two to four until all are asked; short, bare: as for mv"""
        r = self.r
        head = self.pick_head(T, head, self.head)
        short, pre = r.random() < short, [] if r.random() < bare else self.rec[0]
        left = (T - 2 - len(head)) * (r.uniform(.4, 1.) if n is None else 1.)
        asks, recs, cost = [], [], 0
        ks = [k[0] for k in self.keys(int(n or 32))]
        while ks:
            ask = [ks.pop() for _ in range(min(len(ks), int(m or r.randint(2, 5 if T > 300 else 3))))]
            cost += (9 if short else 40) + sum(len(pre) + 16 + (3 if short else 4) * len(k) for k in ask)
            if asks and n is None and cost > left:
                break
            asks.append(ask)
            recs += [(k, self.num()) for k in ask]
        return self.lists(T, head, pre, recs, asks[:1] if m else asks, short)

    def lists(self, T, head, pre, recs, asks, short):
        """a sample of (key, number) records and questions, each for some keys, one number a key and listed as asked,
        " KEY is: 123, KEY is: 456.", or for one key: see listing"""
        r = self.r
        r.shuffle(recs)
        r.shuffle(asks)
        tail = Sample(0)
        for i, ask in enumerate(asks):
            names = list(ask[0])
            for j, k in enumerate(ask[1:]):
                names += (self.and_ if j + 2 == len(ask) else self.com) + k
            if short:
                tail.add((self.nl if i == 0 else []) + self.qm[1][6:] + names + self.qm[2])
            else:
                tail.add(self.qm[0] + names + self.qm[1]).add(names, .2).add(self.qm[2])
            for j, k in enumerate(ask):
                tail.add(k[:1], 2., i + 1).add(k[1:], 1., i + 1).add(self.rec[1], 1., i + 1)
                values = [v for key, v in recs if key == k]
                if len(ask) == 1:
                    self.listing(tail, values, i + 1)
                else:
                    self.number(tail, values[0], i + 1)
                tail.add(self.com if j + 1 < len(ask) else self.dot, 1., i + 1)
        return self.scatter(T, head, [pre + k + self.rec[1] + self.sp + v + self.dot for k, v in recs], tail)

    def number(self, s, v, group, weight=3.):
        """adds " 123"; weight: of its first token, where there is a choice"""
        s.add(self.sp, .1).add(v[:1], weight, group).add(v[1:], 1., group)

    def listing(self, s, values, group):
        """adds the values in any order, each on a line of its own: "\\n- 456\\n- 123".  Any that was not said yet is right;
        which are left is harder to tell at every step, and another one wrongly does less harm than an early end"""
        values = self.r.sample(values, len(values))
        for i, v in enumerate(values):
            s.add(self.dash[:1], 1.5, group).add(self.dash[1:], 1., group)
            s.also[len(s.x) + len(self.sp)] = [other[0] for other in values[i + 1:]]
            self.number(s, v, group, 3. + i)

    def multi(self, T, easy=0.5):
        """lines "key value", several of one key, then for each key its values: what mv needs, dense; easy: share of
        samples with keys of one token"""
        r = self.r
        easy = r.random() < easy
        keys = [[t] for t in r.sample(self.short, 24)] if easy else [k[1] for k in self.keys(12)]
        recs, todo, cost, most = [], [], 0, r.randint(2, 5)
        for k in keys:
            n = r.randint(1, most)
            cost += n * (10 + len(k)) + 2 + len(k)
            if todo and cost > T - 3:
                break
            recs += [(k, self.num()) for _ in range(n)]
            todo.append(k)
        r.shuffle(recs)
        r.shuffle(todo)
        s = Sample(self.t.bos)
        for k, v in recs:
            s.add(self.nl + k + self.sp + v)
        for i, k in enumerate(todo):
            self.listing(s.add(self.dot + self.nl + k), [v for key, v in recs if key == k], i + 1)
        return s.add(self.dot, .5).add([self.t.eos], .5)

    def vt(self, T, hops=None, example=None, bare=0., letters=None):
        """RULER's variable tracking: VAR ABC = 12345 ... VAR DEF = VAR ABC among lines of noise; all variables of the
        value, the last first, so that every step follows a record as it is read.  example: RULER's solved one (its
        names are of three letters and told first to last) in front; bare: share of samples without noise, which all
        short ones are; letters: of a name"""
        r = self.r
        bare = r.random() < bare or T < 480             # seven records among as many lines take that much
        s, end = Sample(self.t.bos), T - 2
        if example or (example is None and T > 800 and r.random() < .8):
            for name in self.tracking(s, min(500, T // 4), 4, 3, False):
                s.add(name)
            s.add(self.nl + self.nl)
        names = self.tracking(s, end - len(s.x), int(hops or r.choice((4, r.randint(1, 6)))),
                              int(letters or r.choice((5, 5, 3))), bare)
        for name in reversed(names):
            s.add(name[:1], 3., 1).add(name[1:], 1., 1)
        return s.add(self.dot, .5).add([self.t.eos], .5)

    def tracking(self, s, room, hops, letters, bare):
        """adds the lines of a chain, at most room tokens where there is that much, and the question; -> names"""
        r, v, nm = self.r, self.num(5), self.names(hops + 1, letters)
        recs = [self.line_var + nm[0] + self.eq + self.sp + v + self.nl]
        recs += [self.line_var + b + self.vareq + a + self.sp + self.nl for a, b in zip(nm, nm[1:])]
        head = self.vhead + self.nl
        ask = (self.vq[0] + self.sp + v + self.vq[1] + self.e(" %d" % len(nm)) + self.vq[2] + self.sp + v + self.vq[3] +
               self.sp)
        lines = (room - len(head + ask) - sum(map(len, recs + nm))) // len(self.noise)
        lines = 0 if bare else max(len(recs), lines)
        at = set(r.sample(range(lines), len(recs)) if lines else ())
        text = list(head)
        for i in range(lines):
            text += (recs.pop(0) if i in at else []) + self.noise
        for rec in recs:
            text += rec
        s.add(text[:-1]).add(ask)                       # the question begins with the last line's end
        return nm

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
    """padded arrays x, w, g and a list of (row, index, token that would be as right)"""
    n = T if fixed else min(T, max(len(s.x) for s in samples))
    x = np.full((len(samples), n), pad)
    w, g, also = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.int64), []
    for i, s in enumerate(samples):
        m = min(n, len(s.x))
        x[i, :m], w[i, :m], g[i, :m] = s.x[:m], s.w[:m], s.g[:m]
        also += [(i, j, a) for j, tokens in s.also.items() if j < n for a in tokens]
    return x, w, g, also


def picked(batch, lm_share, rng, unit=1):
    """What a step needs of a packed batch, small and free of shapes that only the loss would know: x; where, among
    the predictions in a row, the loss looks (at), for which token (y), with which weight (w; -1: prose) and for which
    answer (g, numbered over the batch; 0: none); also_at, also_y: index in these, and a token that would be as right.
    lm_share: share of the prose positions; unit: the numbers of both are rounded up to one of these, the last of the
    former being none then."""
    x, w, g, also = batch
    y, w, g = x[:, 1:], w[:, 1:], g[:, 1:]
    keep = (w > 0) | ((w < 0) & (rng.random(w.shape, np.float32) < lm_share))
    at = np.flatnonzero(keep)
    more = unit - len(at) % unit if unit > 1 else 0
    group = g.ravel()[at] + (g > 0).ravel()[at] * (at // w.shape[1]) * 1000
    group = np.unique(np.append(group, 0), return_inverse=True)[1].ravel()[:-1]
    also_at = np.searchsorted(at, np.array([i * w.shape[1] + j - 1 for i, j, _ in also], np.int64))
    rest = -len(also) % unit
    return dict(
        x=x.astype(np.int16), at=np.append(at, [0] * more).astype(np.int32),
        y=np.append(y.ravel()[at], [0] * more).astype(np.int16),
        w=np.append(w.ravel()[at], [0.] * more).astype(np.float32), g=np.append(group, [0] * more).astype(np.int32),
        also_at=np.append(also_at, [len(at) + more - 1] * rest).astype(np.int32),
        also_y=np.append([t for _, _, t in also], [0] * rest).astype(np.int16))


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
