#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""summary.py - add up what scripts/check left in its results folder.

Usage    summary.py RESULTS SECONDS

<preset>.xml        JUnit results of ctest; where a program reports its own cases (cmocka), those are counted
passed-<name>.txt   one step that passed
failed-<name>.txt   one step that failed: what

A skip counts wherever it happens: exit code 77, a cmocka case, or a line of output "SKIP reason" or "skip: reason".
"""
import glob
import os
import re
import sys
import xml.etree.ElementTree as ElementTree


def reason_of(text):
    """The line that says why a test was skipped."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for line in lines:
        if "skip" in line.lower() and "[  SKIPPED ]" not in line:
            return line
    return lines[-1] if lines else "no reason given"


def count_test(preset, case, failed, skipped):
    """Add one ctest entry to the lists; return how many cases of it passed."""
    where = f"{preset}/{case.get('name')}"
    output = case.findtext("system-out") or ""
    skip = case.find("skipped")
    if skip is not None and "SKIP_" in skip.get("message", ""):
        skipped.append(f"{where}: {reason_of(output)}")
        return 0
    passed = len(re.findall(r"^\[       OK \]", output, re.M))
    reasons = re.findall(r"^(?:SKIP|skip|skipped)(?::| ) *(\S.*)$", output, re.M)
    names = sorted(set(re.findall(r"^\[  SKIPPED \] (\w+)$", output, re.M)))
    for index in range(max(len(names), len(reasons))):  # a skipped cmocka case prints its reason as well
        name = f".{names[index]}" if index < len(names) else ""
        skipped.append(f"{where}{name}: {reasons[index] if index < len(reasons) else 'no reason given'}")
    if case.get("status") == "run" and case.find("failure") is None:
        return passed if "[==========]" in output else 1
    inner = sorted(set(re.findall(r"^\[  FAILED  \] (?:\w+: )?(\w+)$", output, re.M)))
    failed.extend(f"{where}.{name}" for name in inner)
    if not inner:
        failure = case.find("failure") if skip is None else skip
        message = failure.get("message") if failure is not None else ""
        failed.append(f"{where}: {message or case.get('status')}")
    return passed


def main():
    results, seconds = sys.argv[1:]
    passed, failed, skipped = 0, [], []
    for path in sorted(glob.glob(os.path.join(results, "*.xml"))):
        preset = os.path.basename(path)[:-len(".xml")]
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            passed += count_test(preset, case, failed, skipped)
    passed += len(glob.glob(os.path.join(results, "passed-*.txt")))
    for path in sorted(glob.glob(os.path.join(results, "failed-*.txt"))):
        with open(path) as file:
            failed.append(file.read().strip())
    for line in skipped:
        print(f"check: skipped {line}")
    for line in failed:
        print(f"check: FAILED {line}")
    print(f"check: {passed} passed, {len(failed)} failed, {len(skipped)} skipped ({int(seconds) // 60} min {int(seconds) % 60} s)")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
