#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks the same retrieval prompts with several methods and prints one comparison table (Markdown).

  train/prompts.py --book moby-dick.txt --task single --tokens 1900 --n 30 --seed 7 >prompts.jsonl
  scripts/needles.py --foretoken build/release/bin/foretoken -m TARGET -d DRAFT prompts.jsonl \\
      'dense' 'specpc | --prompt specpc:keep=512' 'speckv | --kv speckv:keep=128'

A prompt counts as answered when every expected answer occurs in the text that was generated (RULER's rule).
Prompt after prompt, all methods take turns, so that a busy machine hurts them alike.  Intervals are Wilson's, 95 %.
"""
import argparse
import json
import math
import statistics
import subprocess
import sys


def wilson(hits, n, z=1.96):
    """95 % interval of a share, in percent"""
    p, zz = hits / n, z * z
    middle, spread = p + zz / (2 * n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return 100 * (middle - spread) / (1 + zz / n), 100 * (middle + spread) / (1 + zz / n)


def ask(args, options, prompt):
    command = [args.foretoken, "generate", "-m", args.model, "-d", args.draft, "--json", "-n", str(args.predict)]
    if args.threads:
        command += ["-t", str(args.threads)]
    run = subprocess.run(command + options, input=prompt.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode != 0:
        sys.exit("%s: %s" % (" ".join(command + options), run.stderr.decode().strip()))
    return json.loads(run.stdout)


def show_progress(done, total):
    if sys.stderr.isatty():
        sys.stderr.write("\r%d of %d prompts%s" % (done, total, "\n" if done == total else ""))


def row(name, results, rights):
    low, high = wilson(sum(rights), len(rights))
    middle = lambda key: statistics.median(r[key] for r in results)
    return "| %s | %d of %d | %.0f %% [%.0f, %.0f] | %d | %.0f KiB | %.0f KiB | %.0f ms |" % (
        name, sum(rights), len(rights), 100 * sum(rights) / len(rights), low, high, middle("kept_tokens"),
        middle("kv_bytes") / 1024, middle("kv_bytes_peak") / 1024, middle("ttft_ms"))


def main():
    parser = argparse.ArgumentParser(description="compare methods on retrieval prompts")
    parser.add_argument("--foretoken", required=True)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-d", "--draft", required=True)
    parser.add_argument("-n", "--predict", type=int, default=12)
    parser.add_argument("-t", "--threads", type=int, default=0)
    parser.add_argument("--show", type=int, default=1, help="print the answers to this many prompts")
    parser.add_argument("prompts", help="JSON lines with task, prompt, answers")
    parser.add_argument("method", nargs="+", help="NAME or 'NAME | OPTIONS of foretoken generate'")
    args = parser.parse_args()
    with open(args.prompts, encoding="utf8") as file:
        prompts = [json.loads(line) for line in file]
    methods = [(m.split("|", 1)[0].strip(), m.split("|", 1)[1].split() if "|" in m else []) for m in args.method]
    results = {name: [] for name, _ in methods}
    rights = {name: [] for name, _ in methods}
    for i, prompt in enumerate(prompts):
        if i < args.show:
            print("...%s\n  expected: %s" % (prompt["prompt"][-110:].replace("\n", " "), ", ".join(prompt["answers"])))
        for name, options in methods:
            result = ask(args, options, prompt["prompt"])
            results[name].append(result)
            rights[name].append(all(a in result["text"] for a in prompt["answers"]))
            if i < args.show:
                print("  %-9s %s" % (name + ":", result["text"].strip().replace("\n", " ")))
        show_progress(i + 1, len(prompts))
    print("\n| method | answered | share [95 %] | tokens read by the target | KV kept | KV peak | first token |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, _ in methods:
        print(row(name, results[name], rights[name]))


main()
