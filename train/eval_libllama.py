# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the pair on held-out prompts, greedy, measured through libllama itself (standard library only).

  python3 eval_libllama.py --models DIR --book moby.txt --lengths 1024,2048,4096 --n 100 --out accuracy.json
Compiles eval_libllama.c against the libllama that scripts/get-llama installs.  An answer is right when it holds every
expected string (RULER's rule); "found" is the mean share of them, RULER's score; "ends" counts answers that are right
and hold nothing else but words of the question before they end.
Lengths are the longest prompt; those that leave no room for the answer in a model's context are left out.
"""
import argparse
import glob
import hashlib
import json
import math
import os
import re
import subprocess
import tempfile
import time

import gguf
import prompts
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = 128              # tokens of an answer, as many as RULER gives its needles
LIMITS = {"vt": 30}     # of those that RULER gives fewer


def wilson(right, n, z=1.96):
    """95 % interval of a share"""
    p, d = right / n, 1 + z * z / n
    mid, half = (p + z * z / 2 / n) / d, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / d
    return [round(max(0., mid - half), 3), round(min(1., mid + half), 3)]


class Model:
    """one eval_libllama process"""

    def __init__(self, program, path, threads):
        self.context = gguf.read(path)[0]["llama.context_length"]
        self.p = subprocess.Popen([program, path, str(self.context), str(threads)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)

    def ask(self, text, limit):
        b = text.encode()
        self.p.stdin.write(b"%d %d\n" % (limit, len(b)) + b)
        self.p.stdin.flush()
        head = self.p.stdout.readline()
        if not head:
            raise SystemExit("eval_libllama ended")
        n, made, size = map(int, head.split())
        return n, made, self.p.stdout.read(size).decode("utf8", "replace")

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def build(out):
    prefix = subprocess.run([os.path.join(HERE, "../scripts/get-llama")], check=True, capture_output=True,
                            text=True).stdout.split()[-1]
    subprocess.run(["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-isystem", prefix + "/include",
                    os.path.join(HERE, "eval_libllama.c"), "-o", out, "-L" + prefix + "/lib", "-lllama", "-lggml-base",
                    "-Wl,-rpath," + prefix + "/lib"], check=True)
    return os.path.basename(prefix)


def measure(model, ps):
    right = ends = tokens = found = 0
    for p in ps:
        limit = LIMITS.get(p["task"], ROOM)
        n, made, text = model.ask(p["prompt"], limit)
        if n != p["tokens"]:
            raise SystemExit("libllama counts %d tokens, prompts.py %d" % (n, p["tokens"]))
        share = sum(a in text for a in p["answers"]) / len(p["answers"])
        found += share
        right += share == 1
        known = set(re.findall(r"\w+", p["prompt"].rsplit("\n", 1)[-1])) | set(p["answers"]) | {"is", "and"}
        ends += share == 1 and made < limit and set(re.findall(r"\w+", text)) <= known
        tokens += n
    n = len(ps)
    return {"n": n, "right": right, "accuracy": round(right / n, 3), "interval": wilson(right, n),
            "found": round(found / n, 3), "ends": round(ends / n, 3), "mean_prompt_tokens": round(tokens / n)}


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class Results:
    """the JSON file of results, saved after every row; rows of files that have changed are dropped"""

    def __init__(self, path, files, about):
        self.path, self.data = path, dict(about, files={
            os.path.basename(f): {"sha256": sha256(f), "bytes": os.path.getsize(f),
                                  "context": gguf.read(f)[0]["llama.context_length"]} for f in files}, rows=[])
        if path and os.path.exists(path):
            with open(path) as f:
                old = json.load(f)
            same = {n for n, v in old["files"].items() if self.data["files"].get(n) == v}
            if all(old.get(k) == v for k, v in about.items()):
                self.data["rows"] = [r for r in old["rows"] if r["file"] in same]

    def has(self, **key):
        return any(all(r[k] == v for k, v in key.items()) for r in self.data["rows"])

    def add(self, row):
        self.data["rows"].append(row)
        order = list(prompts.TASKS)
        self.data["rows"].sort(key=lambda r: (order.index(r["task"]), r["tokens"], r["file"]))
        if self.path:
            with open(self.path + ".tmp", "w") as f:
                json.dump(self.data, f, indent=1)
                f.write("\n")
            os.replace(self.path + ".tmp", self.path)


def main():
    ap = argparse.ArgumentParser(description="accuracy through libllama")
    ap.add_argument("--models", default=os.path.join(HERE, "../models"))
    ap.add_argument("--book", required=True)
    ap.add_argument("--lengths", default="1024,2048,4096")
    ap.add_argument("--tasks", default="single,multikey4,multikey8,multiquery4,multivalue2,multivalue4,"
                    "chain2,chain4,vt")
    ap.add_argument("--n", type=int, default=100)
    ap.add_argument("--seed", type=int, default=12345)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--words", default=os.path.join(HERE, "heldout.txt"))
    ap.add_argument("--out", default="", help="JSON file; what it holds already is not measured again")
    a = ap.parse_args()
    files = sorted(glob.glob(os.path.join(a.models, "*.gguf")))
    tok = Tokenizer(files[0])
    book, words = prompts.Book(a.book, tok), prompts.held_out(a.words)
    with tempfile.TemporaryDirectory() as tmp:
        program = os.path.join(tmp, "eval_libllama")
        library = build(program)
        results = Results(a.out, files, {"library": library.rsplit("-", 1)[0], "seed": a.seed})
        for path in files:
            m, name = Model(program, path, a.threads), os.path.basename(path)
            for task, T in [(t, T) for T in map(int, a.lengths.split(",")) for t in a.tasks.split(",")]:
                if T + ROOM > m.context or results.has(file=name, task=task, tokens=T, n=a.n):
                    continue
                t0, row = time.time(), dict(file=name, task=task, tokens=T)
                row.update(measure(m, prompts.make(book, tok, words, task, T, a.n, a.seed)))
                results.add(row)
                print("%(file)s %(task)s T %(tokens)d accuracy %(accuracy).3f %(interval)s found %(found).3f" % row,
                      "ends %(ends).3f" % row, "(%.0f s)" % (time.time() - t0), flush=True)
            m.close()


if __name__ == "__main__":
    main()
