# SPDX-License-Identifier: Apache-2.0
"""Writes the measured part of models/README.md from models/accuracy.json (between the two marker lines).

  python3 card.py --models DIR
"""
import argparse
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- begin measured: train/card.py -->", "<!-- end measured -->"


def table(acc):
    cell = {(r["file"], r["task"], r["tokens"]): r for r in acc["rows"]}
    files = sorted(acc["files"], key=lambda f: "draft" in f)
    out = ["| task | prompt tokens | n | " + " | ".join(files) + " |", "| --- | ---: | ---: |" + " ---: |" * len(files)]
    keys = []
    for r in acc["rows"]:
        if (r["task"], r["tokens"]) not in keys:
            keys.append((r["task"], r["tokens"]))
    for task, T in keys:
        rows = [cell.get((f, task, T)) for f in files]
        text = ["%.2f [%.2f, %.2f]" % (r["accuracy"], *r["interval"]) if r else "" for r in rows]
        out.append("| %s | %d | %d | %s |" % (task, T, next(r["n"] for r in rows if r), " | ".join(text)))
    return out


def main():
    ap = argparse.ArgumentParser(description="model card from accuracy.json")
    ap.add_argument("--models", default=os.path.join(HERE, "../models"))
    a = ap.parse_args()
    with open(os.path.join(a.models, "accuracy.json")) as f:
        acc = json.load(f)
    lines = table(acc) + ["", "| file | bytes | context | sha256 |", "| --- | ---: | ---: | --- |"]
    lines += ["| %s | %d | %d | `%s` |" % (n, f["bytes"], f["context"], f["sha256"]) for n, f in acc["files"].items()]
    path = os.path.join(a.models, "README.md")
    with open(path) as f:
        text = f.read()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    with open(path, "w") as f:
        f.write(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


if __name__ == "__main__":
    main()
