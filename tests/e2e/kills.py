# SPDX-License-Identifier: Apache-2.0
"""kills - run a command that goes on with its record, end it with SIGKILL at random moments, and let it finish.

Usage    kills.py --kills N --seed N RECORD -- COMMAND...

A moment is drawn from the seed as a number of new lines and a part of the time that the next one takes, so that
moments lie in starts, in samples and in writes however busy the machine is.  Fails when the record of a killed
run is not the beginning of the next one's, or when the kills never met a record under way.
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


def wait_for(process, path, n_line, span):
    """Until the record has n_line lines; -> seconds that the last of them took, `span` where none came."""
    start = time.monotonic()
    n_seen = content(path).count(b"\n")
    while process.poll() is None and n_seen < n_line:
        time.sleep(0.002)
        n_now = content(path).count(b"\n")
        if n_now > n_seen:
            span = time.monotonic() - start
            start = time.monotonic()
            n_seen = n_now
    return span


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
    span = 0.2  # seconds between lines, as the last run had them
    n_added = n_torn = 0
    moments = []
    before = b""
    while len(moments) < args.kills:
        n_line = draw.choice((0, 0, 1, 1, 2))
        part = draw.random()
        process = subprocess.Popen(args.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        span = wait_for(process, args.record, before.count(b"\n") + n_line, span)
        try:
            process.wait(part * span)
        except subprocess.TimeoutExpired:
            pass
        if process.poll() is not None:
            sys.exit(f"seed {args.seed}: finished after {len(moments)} kills, exit code {process.returncode}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(n_line + part)
        after = content(args.record)
        if not after.startswith(whole_lines(before)):
            sys.exit(f"seed {args.seed}, kill {len(moments)} at {moments[-1]:.2f} lines: rows that were there have changed")
        n_added += after.count(b"\n") > before.count(b"\n")
        n_torn += after != whole_lines(after)
        before = after
    print(f"seed {args.seed}, killed at {' '.join(f'{m:.2f}' for m in moments)} lines: "
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
