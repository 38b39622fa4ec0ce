# SPDX-License-Identifier: Apache-2.0
"""Plain text from the packages that `fetch` unpacked, one file per source.

  python3 corpus.py --packages DIR --out DIR
The six novels of janeaustenr become austen_0 ... austen_5: Emma, Mansfield Park, Northanger Abbey, Persuasion,
Pride and Prejudice, Sense and Sensibility.
"""
import argparse
import bz2
import glob
import gzip
import json
import lzma
import os
import re
import struct
import zlib


class R:
    """enough of R's serialisation to read character vectors"""

    def __init__(self, b):
        self.b, self.p, self.refs = b, 14, []
        if struct.unpack(">i", b[2:6])[0] == 3:
            self.p += 4 + struct.unpack(">i", b[14:18])[0]

    def i(self):
        self.p += 4
        return struct.unpack(">i", self.b[self.p - 4:self.p])[0]

    def item(self):
        f = self.i()
        t = f & 255
        if t in (254, 242, 241, 253, 251, 252):
            return None
        if t == 255:
            r = (f >> 8) or self.i()
            return self.refs[r - 1] if r - 1 < len(self.refs) else None
        if t == 1:
            v = self.item()
            self.refs.append(v)
            return v
        if t == 2:
            if f & 0x200:
                self.item()
            tag = self.item() if f & 0x400 else None
            car, cdr = self.item(), self.item()
            return [(tag, car)] + (cdr if isinstance(cdr, list) else [])
        if t == 9:
            n = self.i()
            if n < 0:
                return ""
            self.p += n
            return self.b[self.p - n:self.p].decode("utf-8", "replace")
        if t in (10, 13, 14, 16, 19):
            n = self.i()
            if t in (16, 19):
                v = [self.item() for _ in range(n)]
            else:
                w = 8 if t == 14 else 4
                v = struct.unpack(">%d%s" % (n, "d" if t == 14 else "i"), self.b[self.p:self.p + w * n])
                self.p += w * n
            if f & 0x200:
                self.item()
            return v
        if t == 238:
            self.item()
            st = self.item()
            self.item()
            return st
        raise ValueError("type %d at %d" % (t, self.p))


def chunk(b):
    t = b[4:5]
    if t == b"Z":
        return lzma.decompress(b[5:], format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    return bz2.decompress(b[5:]) if t == b"2" else b[5:] if t == b"0" else zlib.decompress(b[4:])


def number(path):
    return [int(n) for n in re.findall(r"\d+", os.path.basename(path))] or [0]


def joined(pattern):
    return "\n\n".join(open(f, errors="replace").read() for f in sorted(glob.glob(pattern), key=number))


def bible(path):
    v = json.load(open(path))
    v = v.values() if isinstance(v, dict) else v
    return "\n".join(re.sub(r"[\[\]#]", "", x).strip() for x in v)


def novels(folder):
    rdb = open(os.path.join(folder, "Rdata.rdb"), "rb").read()
    rdx = zlib.decompress(open(os.path.join(folder, "Rdata.rdx"), "rb").read(), 47)
    for k, e in enumerate(R(rdx).item()[0]):
        x = R(chunk(rdb[e[0]:e[0] + e[1]])).item()
        if isinstance(x, list) and x and isinstance(x[0], str):
            yield "austen_%d" % k, "\n".join(x)


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--packages", required=True)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    p = a.packages
    texts = {"kjv": bible(p + "/kjv/json/verses-1769.json"), "sotu": joined(p + "/sotu/data/*.txt"),
             "moby": joined(p + "/moby/data/chapter_*.txt"),
             "jargon": gzip.open(p + "/jargon-text/usr/share/doc/jargon-text/jargon.txt.gz", "rt",
                                 errors="replace").read()}
    texts.update(novels(p + "/r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data"))
    for name, text in texts.items():
        with open(os.path.join(a.out, name + ".txt"), "w") as f:
            f.write(text)
        print(name, len(text))
