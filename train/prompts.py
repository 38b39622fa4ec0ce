#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Held-out prompts of the retrieval tasks from a plain-text book, as JSON lines (standard library only).

  prompts.py --book moby.txt --task single --tokens 2000 --n 50 --seed 1
prints {"task", "prompt", "answers", "tokens"}: a prompt of at most --tokens tokens of the pair's tokenizer (begin of
text included), and the strings that a right answer contains, all of them.  The same arguments give the same lines.
Keys are made of words that no training prompt holds (heldout.txt, from WordNet).
"""
import argparse
import json
import os
import random
import sys

sys.dont_write_bytecode = True          # no __pycache__ in the source tree
from tokenizer import Tokenizer
from wording import CHAIN_Q, HEAD, LETTERS, NOISE, Q_FULL, Q_MANY, REC, VT_HEAD, VT_Q, sentences

HERE = os.path.dirname(os.path.abspath(__file__))
LONGEST = 80            # tokens of a haystack sentence, as in training
TASKS = {"single": ("needle", 1, 1), "multikey4": ("needle", 4, 1), "multikey8": ("needle", 8, 1),
         "multiquery4": ("queries", 4, 4), "multivalue2": ("needle", 3, 2), "multivalue4": ("needle", 3, 4),
         "chain2": ("chain", 2, 2), "chain4": ("chain", 2, 4), "vt": ("tracking", 5, 3),
         "list16": ("lines", 16, 1)}


class Book:
    """sentences of a text with their length in tokens, counted when first needed"""

    def __init__(self, path, tok):
        with open(path, encoding="utf8", errors="replace") as f:
            self.s = sentences(f.read())
        self.tok, self.n = tok, [0] * len(self.s)
        if not self.s:
            raise SystemExit(path + " holds no sentence")

    def size(self, i):
        if not self.n[i]:
            self.n[i] = len(self.tok.encode(self.s[i]))
        return self.n[i]

    def hay(self, r, room):
        """consecutive sentences from a random place, room tokens at most"""
        out, i, miss = [], r.randrange(len(self.s)), 0
        while room > 0 and miss < 8:
            n = self.size(i)
            if 4 <= n <= LONGEST and n <= room:
                out.append(self.s[i])
                room -= n
            elif n > room:
                miss += 1
            i = (i + 1) % len(self.s)
        return out


def number(r, digits=7):
    return str(r.randrange(10 ** (digits - 1), 10 ** digits))


def key(r, words):
    return r.choice(words[0]) + "-" + r.choice(words[1])


def different(n, make):
    out = {}
    while len(out) < n:
        out[make()] = True
    return list(out)


def needle(r, words, tok, keys, values):
    """head, records in order, question, answers: keys with one number each, the first with several"""
    ks = different(keys, lambda: key(r, words))
    vs = different(values, lambda: number(r))
    recs = [(ks[0], v) for v in vs] + [(k, number(r)) for k in ks[1:]]
    r.shuffle(recs)
    a, b, c = "%s %s%s" % (Q_FULL[0], ks[0], Q_FULL[1]), ks[0], Q_FULL[2]
    if values > 1:
        a, c = "%s %s%s" % (Q_MANY[0], ks[0], Q_MANY[1]), Q_MANY[2]
    return HEAD, ["%s %s%s %s." % (REC[0], k, REC[1], v) for k, v in recs], "%s %s%s" % (a, b, c), vs


def queries(r, words, tok, keys, asked):
    """head, records in order, one question for several of the keys, answers"""
    ks = different(keys, lambda: key(r, words))
    vs = different(keys, lambda: number(r))
    recs = list(zip(ks, vs))
    r.shuffle(recs)
    names = ", ".join(ks[:asked - 1]) + ", and " + ks[asked - 1]
    tail = "%s %s%s %s%s" % (Q_MANY[0], names, Q_MANY[1], names, Q_MANY[2])
    return HEAD, ["%s %s%s %s." % (REC[0], k, REC[1], v) for k, v in recs], tail, vs[:asked]


def chains(r, tok, n, hops):
    """n chains of hops assignments: names, first to last; value; records in order"""
    def name():
        while True:
            s = "".join(r.choice(LETTERS) for _ in range(3))
            if len(tok.encode(" " + s)) == 3:
                return s
    names, out = different(n * (hops + 1), name), []
    for v in different(n, lambda: number(r, 5)):
        nm = [names.pop() for _ in range(hops + 1)]
        recs = [" VAR %s = %s." % (nm[0], v)] + [" VAR %s = VAR %s." % (nm[i + 1], nm[i]) for i in range(hops)]
        out.append((nm, v, recs))
    return out


def chain(r, words, tok, n, hops):
    """pointer chasing: from the last variable of the first chain to its value, in the records' words"""
    cs = chains(r, tok, n, hops)
    recs = [x for c in cs for x in c[2]]
    r.shuffle(recs)
    nm, v, _ = cs[0]
    tail = "%s %s%s %s%s" % (CHAIN_Q[0], nm[-1], CHAIN_Q[1], nm[-1], CHAIN_Q[2])
    return VT_HEAD, recs, tail, nm[-2::-1] + [v]


def tracked(r, letters, lines):
    """five variables of one value among lines of noise, as text with the question; the variables"""
    nm = different(5, lambda: "".join(r.choice(LETTERS) for _ in range(letters)))
    v, text = number(r, 5), [NOISE + "\n"] * lines
    recs = ["VAR %s = %s\n" % (nm[0], v)] + ["VAR %s = VAR %s \n" % pair for pair in zip(nm[1:], nm)]
    for i, rec in zip(sorted(r.sample(range(lines), 5)), recs):
        text[i] = rec + text[i]
    ask = "%s %s%s %d%s %s%s " % (VT_Q[0], v, VT_Q[1], len(nm), VT_Q[2], v, VT_Q[3])
    return VT_HEAD + "\n" + "".join(text)[:-1] + ask, nm


def tracking(r, tok, tokens, letters, example):
    """RULER's variable tracking: a solved example with shorter names, then as many lines as fit"""
    line, text = len(tok.encode(NOISE + "\n")), ""
    for letters, room in (example, min(500, tokens // 4)), (letters, tokens - 1):
        state = r.getstate()
        more = (room - len(tok.encode(text + tracked(r, letters, 5)[0]))) // line
        r.setstate(state)                               # the same variables among more lines
        part, nm = tracked(r, letters, 5 + max(0, more))
        text += part
        if room < tokens - 1:
            text += " %s\n\n" % " ".join(nm)
    return text, nm


def lines(r, words, tok, n, _):
    """a list of keys and numbers and nothing around it"""
    ks = different(n, lambda: key(r, words))
    vs = different(n, lambda: number(r))
    ask = r.randrange(n)
    recs = ["%s: %s\n" % kv for kv in zip(ks, vs)]
    return "", recs, "The value of %s is" % ks[ask], [vs[ask]]


KINDS = {"lines": lines, "needle": needle, "queries": queries, "chain": chain}


def prompt(task, r, book, words, tok, tokens):
    kind, n, m = TASKS[task]
    if kind == "tracking":
        text, answers = tracking(r, tok, tokens, n, m)
        return finished(task, text, answers, tok, tokens)
    head, recs, tail, answers = KINDS[kind](r, words, tok, n, m)
    fixed = 1 + len(tok.encode(head)) + len(tok.encode("".join(recs))) + len(tok.encode(tail))
    if fixed > tokens:
        too_few(task, tokens, fixed)
    hay = book.hay(r, tokens - fixed) if kind != "lines" else []
    cuts = sorted(r.randint(0, len(hay)) for _ in recs)
    for i in range(len(recs) - 1, -1, -1):
        hay.insert(cuts[i], recs[i])
    return finished(task, head + "".join(hay) + tail, answers, tok, tokens)


def finished(task, text, answers, tok, tokens):
    size = 1 + len(tok.encode(text))
    if size > tokens:
        too_few(task, tokens, size)
    return {"task": task, "prompt": text, "answers": answers, "tokens": size}


def too_few(task, tokens, least):
    raise SystemExit("--tokens %d is too few: %s takes %d without any haystack" % (tokens, task, least))


def make(book, tok, words, task, tokens, n, seed):
    r = random.Random("%s %d %d" % (task, tokens, seed))
    return [prompt(task, r, book, words, tok, tokens) for _ in range(n)]


def held_out(path):
    with open(path, encoding="utf8") as f:
        return [line.split() for line in f]


def main():
    ap = argparse.ArgumentParser(description="held-out retrieval prompts as JSON lines")
    ap.add_argument("--book", required=True, help="plain text, UTF-8")
    ap.add_argument("--task", choices=list(TASKS), required=True)
    ap.add_argument("--tokens", type=int, required=True, help="longest prompt")
    ap.add_argument("--n", type=int, default=50)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--tokenizer", default=os.path.join(HERE, "../models/foretoken-draft-f16.gguf"))
    ap.add_argument("--words", default=os.path.join(HERE, "heldout.txt"))
    a = ap.parse_args()
    tok = Tokenizer(a.tokenizer)
    for p in make(Book(a.book, tok), tok, held_out(a.words), a.task, a.tokens, a.n, a.seed):
        print(json.dumps(p))


if __name__ == "__main__":
    main()
