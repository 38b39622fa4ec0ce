# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a checkpoint (or GGUF file) in torch, on held-out keys and a held-out text.

  python3 evaluate.py --ckpt target.pt --tok tok.json --hay hay_test.npz --adj adj.txt --noun noun.txt --lengths 2048
An answer is right when every token of it, given the right ones before, is the first choice.  Lengths are whole samples.
eval_libllama.py measures the exported files.
"""
import argparse
import os

import numpy as np
import torch
from data import Tasks, pack, picked
from eval_libllama import wilson
from model import load
from tokenizer import Tokenizer
from train import TEST, losses


def main():
    ap = argparse.ArgumentParser(description="accuracy in torch")
    for k in ("ckpt", "tok", "hay", "adj", "noun"):
        ap.add_argument("--" + k, required=True)
    ap.add_argument("--lengths", default="1024,2048")
    ap.add_argument("--tasks", default=",".join(TEST))
    ap.add_argument("--n", type=int, default=100)
    ap.add_argument("--seed", type=int, default=12345)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tok, (m, state) = Tokenizer(a.tok), load(a.ckpt, device)
    print("trained tokens", state.get("tokens"), "stage", state.get("stage"))
    for T in map(int, a.lengths.split(",")):
        for name in a.tasks.split(","):
            t, right = Tasks(tok, a.hay, a.adj, a.noun, held=True, seed=a.seed + T), []
            part, rng = [], np.random.default_rng(0)
            while len(right) < a.n:
                s = [t.one(T, TEST[name]) for _ in range(max(1, min(a.n - len(right), 8192 // T)))]
                with torch.no_grad():
                    acc, ok = losses(m, picked(pack(s, T, tok.pad), 0, rng), device, bf16=False)[2:]
                right += ok.tolist()
                part.append(acc.item())
            print("%-8s T %5d right %.3f %s token accuracy %.3f" % (
                name, T, np.mean(right), wilson(sum(right), len(right)), np.mean(part)), flush=True)


if __name__ == "__main__":
    main()
