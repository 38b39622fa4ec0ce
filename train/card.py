# SPDX-License-Identifier: Apache-2.0
"""Writes the measured part of models/README.md from models/accuracy.json (between the two marker lines).

  python3 card.py --models DIR
"""
import argparse
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- begin measured: train/card.py -->", "<!-- end measured -->"


ROLES = "target", "draft", "weak"


def role(name):
    """place of foretoken-target-f16.gguf and the like in the table, and its column's head"""
    _, which, kind = name.rsplit(".", 1)[0].split("-")
    return (kind, ROLES.index(which)), "%s %s" % (which, kind)


def text(row):
    """share of right answers, its interval and, where answers may be right in part, RULER's score"""
    if not row:
        return ""
    part = row.get("found", row["accuracy"]) != row["accuracy"]
    return "%.2f [%.2f, %.2f]" % (row["accuracy"], *row["interval"]) + (" / %.2f" % row["found"] if part else "")


def table(acc):
    cell = {(r["file"], r["task"], r["tokens"]): r for r in acc["rows"]}
    files = sorted(acc["files"], key=role)
    out = ["| task | prompt tokens | n | " + " | ".join(role(f)[1] for f in files) + " |",
           "| --- | ---: | ---: |" + " ---: |" * len(files)]
    keys = []
    for r in acc["rows"]:
        if (r["task"], r["tokens"]) not in keys:
            keys.append((r["task"], r["tokens"]))
    for task, T in keys:
        rows = [cell.get((f, task, T)) for f in files]
        n = next(r["n"] for r in rows if r)
        out.append("| %s | %d | %d | %s |" % (task, T, n, " | ".join(map(text, rows))))
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
        card = f.read()
    head, tail = card.split(BEGIN)[0], card.split(END)[1]
    with open(path, "w") as f:
        f.write(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


if __name__ == "__main__":
    main()
