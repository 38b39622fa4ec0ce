# SPDX-License-Identifier: Apache-2.0
"""Adjective and noun lists from WordNet's index files (Debian package wordnet-base).

  python3 wordlists.py --wordnet DIR --out DIR
Also writes heldout.txt, the words (10 %, by hash) that no training prompt holds: a line of adjectives, one of nouns.
"""
import argparse
import os
import re

from wording import is_held

ap = argparse.ArgumentParser()
ap.add_argument("--wordnet", required=True)
ap.add_argument("--out", required=True)
a = ap.parse_args()
os.makedirs(a.out, exist_ok=True)
held = []
for pos, need in (("adj", 1), ("noun", 2)):
    out = set()
    for line in open(os.path.join(a.wordnet, "index." + pos), errors="replace"):
        f = line.split()
        if line[0] != " " and re.fullmatch("[a-z]{4,8}", f[0]) and int(f[5 + int(f[3])]) >= need:
            out.add(f[0])               # at least `need` senses that occur in the tagged corpus
    with open(os.path.join(a.out, pos + ".txt"), "w") as f:
        f.write("\n".join(sorted(out)) + "\n")
    held.append(" ".join(w for w in sorted(out) if is_held(w)))
    print(pos, len(out), "held out", len(held[-1].split()))
with open(os.path.join(a.out, "heldout.txt"), "w") as f:
    f.write("\n".join(held) + "\n")
