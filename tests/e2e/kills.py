# SPDX-License-Identifier: Apache-2.0
"""kills - run a command that goes on with its record, end it with SIGKILL at random moments, and let it finish.

Usage    kills.py --kills N --seed N RECORD -- COMMAND...

A kill counts when the command was at work.  Moments are drawn from the seed between 0 and a span that begins
with what a start takes and is adapted: longer after a run that added nothing, shorter where the record would be
finished before all kills were done.  Fails when the record of a killed run is not the beginning of the next
one's, or when the kills never met a record under way.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import time


def content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def whole_lines(data):
    return data[:data.rfind(b"\n") + 1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("record")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    if os.path.exists(args.record):
        os.remove(args.record)
    span = 0.4
    n_added = n_torn = 0
    moments = []
    before = b""
    while len(moments) < args.kills:
        moment = draw.uniform(0, span)
        process = subprocess.Popen(args.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(moment)
            sys.exit(f"seed {args.seed}: finished after {len(moments)} kills, exit code {process.returncode}")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        moments.append(moment)
        after = content(args.record)
        if not after.startswith(whole_lines(before)):
            sys.exit(f"seed {args.seed}, kill {len(moments)} at {moment:.3f} s: rows that were there have changed")
        n_new = after.count(b"\n") - before.count(b"\n")
        n_added += n_new > 0
        n_torn += not after.endswith(b"\n")
        span = span * 1.2 if n_new == 0 else span / 1.2 if n_new > 3 else span
        before = after
    print(f"seed {args.seed}, killed at {' '.join(f'{m:.3f}' for m in moments)} s: "
          f"{n_added} runs added rows, {n_torn} left a torn line, {before.count(chr(10).encode())} lines so far")
    if n_added < 2:
        sys.exit("the kills never met a record under way")
    start = time.monotonic()
    done = subprocess.run(args.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0 or not content(args.record).startswith(whole_lines(before)):
        sys.exit(f"seed {args.seed}: the last run failed ({done.returncode}) or changed rows")
    print(f"finished in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
