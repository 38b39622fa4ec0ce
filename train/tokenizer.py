# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE tokenizer: trainer, encoder, decoder (pure Python).

Splitting follows the Llama-3 pattern (letters with one leading character, groups of up to
three digits, punctuation runs), so that GGUF files carry tokenizer.ggml.model = gpt2 and
tokenizer.ggml.pre = llama-bpe.  All 2- and 3-digit groups are whole tokens (found by the
"whole word first" rule of that pre-tokenizer, no merges needed).  No token but "\n" itself
contains a newline.

  python3 tokenizer.py --out tok.json --vocab 4096 --words adj.txt noun.txt -- text1.txt text2.txt ...
  python3 tokenizer.py --out tok.json --like model.gguf
"""
import argparse
import collections
import heapq
import json
import re

import gguf

L = r"[^\W\d_]"
PAT = re.compile(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|(?:[^\r\n\w]|_)?" + L + r"+|\d{1,3}|"
    r" ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|bos|>", "<|eos|>", "<|pad|>", "<|sep|>"] + ["<|reserved_%d|>" % i for i in range(12)]


def byte_chars():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, n = {}, 0
    for b in range(256):
        if b in keep:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + n)
            n += 1
    return out


BYTE = byte_chars()
UNBYTE = {c: b for b, c in BYTE.items()}


class Tokenizer:
    def __init__(self, path):
        if path.endswith(".gguf"):
            meta = gguf.read(path)[0]
            self.tokens = meta["tokenizer.ggml.tokens"]
            self.merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
            self.specials = [t for t in self.tokens if t in SPECIALS]
        else:
            with open(path) as f:
                j = json.load(f)
            self.tokens, self.merges, self.specials = j["tokens"], [tuple(m) for m in j["merges"]], j["specials"]
        self.id = {t: i for i, t in enumerate(self.tokens)}
        self.rank = {tuple(m): i for i, m in enumerate(self.merges)}
        self.cache = {}
        self.bos, self.eos, self.pad = (self.id[s] for s in SPECIALS[:3])

    def _word(self, w):
        s = "".join(BYTE[b] for b in w.encode("utf8"))
        if s in self.id:
            return [self.id[s]]
        p = list(s)
        while len(p) > 1:
            r, i = min((self.rank.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(zip(p, p[1:])))
            if r == 1 << 30:
                break
            p[i:i + 2] = [p[i] + p[i + 1]]
        return [self.id[t] for t in p]

    def encode(self, text):
        out, c = [], self.cache
        for w in PAT.findall(text):
            t = c.get(w)
            if t is None:
                t = c[w] = self._word(w)
            out += t
        return out

    def decode(self, ids):
        s = "".join(self.tokens[i] for i in ids if self.tokens[i] not in self.specials)
        return bytes(UNBYTE[c] for c in s).decode("utf8", "replace")


def train(counts, vocab):
    tokens = [BYTE[b] for b in range(256)]
    tokens += ["%02d" % i for i in range(100)] + ["%03d" % i for i in range(1000)]
    words, freq = [], []
    for w, n in counts.items():
        if n > 1 and not re.search(r"[\d\n\r]", w):
            words.append([BYTE[b] for b in w.encode("utf8")])
            freq.append(n)
    pc, pos = collections.Counter(), collections.defaultdict(set)
    for i, w in enumerate(words):
        for p in zip(w, w[1:]):
            pc[p] += freq[i]
            pos[p].add(i)
    heap = [(-n, p) for p, n in pc.items()]
    heapq.heapify(heap)
    merges = []
    have = set(tokens)
    while len(tokens) < vocab - len(SPECIALS):
        n, p = heapq.heappop(heap)
        if pc.get(p, 0) != -n:
            if pc.get(p, 0) > 0:
                heapq.heappush(heap, (-pc[p], p))
            continue
        new, changed = p[0] + p[1], set()
        merges.append(p)
        if new not in have:
            have.add(new)
            tokens.append(new)
        for i in list(pos[p]):
            w, f, o, j = words[i], freq[i], [], 0
            for q in zip(w, w[1:]):
                pc[q] -= f
                changed.add(q)
            while j < len(w):
                if j + 1 < len(w) and w[j] == p[0] and w[j + 1] == p[1]:
                    o.append(new)
                    j += 2
                else:
                    o.append(w[j])
                    j += 1
            words[i] = o
            for q in zip(o, o[1:]):
                pc[q] += f
                pos[q].add(i)
                changed.add(q)
        pc.pop(p, None)
        pos.pop(p, None)
        for q in changed:
            if pc.get(q, 0) > 0:
                heapq.heappush(heap, (-pc[q], q))
    return tokens + SPECIALS, merges


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    ap.add_argument("--vocab", type=int, default=4096)
    ap.add_argument("--words", nargs=2, help="adjective list, noun list")
    ap.add_argument("--like", default="", help="the tokenizer of this GGUF file, nothing trained")
    ap.add_argument("texts", nargs="*")
    a = ap.parse_args()
    if a.like:
        t = Tokenizer(a.like)
        with open(a.out, "w") as f:
            json.dump({"tokens": t.tokens, "merges": t.merges, "specials": t.specials}, f)
        raise SystemExit
    from wording import TEMPLATES, clean
    c = collections.Counter()
    for f in a.texts:
        c.update(PAT.findall(clean(open(f, errors="replace").read())))
    for t in TEMPLATES:                        # prompt wording: make its words whole tokens
        for w in PAT.findall(t):
            c[w] += 20000
    for lst, pre in zip(a.words, " -"):
        for w in open(lst).read().split():
            c[pre + w] += 40
    tokens, merges = train(c, a.vocab)
    json.dump({"tokens": tokens, "merges": merges, "specials": SPECIALS}, open(a.out, "w"))
    t = Tokenizer(a.out)
    n = b = 0
    for w, k in c.items():
        n += k * len(t._word(w))
        b += k * len(w.encode())
    print("vocab", len(tokens), "merges", len(merges), "bytes/token %.2f" % (b / n), "tokens %.2fM" % (n / 1e6))
