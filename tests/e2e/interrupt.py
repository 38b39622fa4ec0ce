#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""interrupt.py - run a program, send SIGINT after a while, and judge how it ends.

Usage    interrupt.py SECONDS LIMIT_MS PROGRAM ARGUMENT...
Fails    when the program ends before SECONDS, later than LIMIT_MS after the signal, or not with 130
"""
import signal
import subprocess
import sys
import time

wait_s, limit_ms, command = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
# The descriptors stay open and silent: a program that waits for its input is interrupted too.
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(wait_s)
if child.poll() is not None:
    sys.exit(f"ended with {child.returncode} before it could be interrupted")
start = time.monotonic()
child.send_signal(signal.SIGINT)
code = child.wait(timeout=20)
took_ms = (time.monotonic() - start) * 1000
print(f"exit code {code} after {took_ms:.0f} ms")
sys.exit(0 if code == 130 and took_ms <= limit_ms else 1)
