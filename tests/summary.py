#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up the results of every suite, as `./dev test` left them in a folder.

VARIANT-SUITE.status holds the suite's exit code and seconds, VARIANT-SUITE.xml its JUnit report.
A suite that failed without a report of a failed test counts as one failure, and so does each
sanitizer-SUITE.PID, the report of a program. A skipped test says "needs NAME: ..."; where
UMWELT_REQUIRE (names, separated by commas, or "all") has NAME, it failed.
"""

import os
import pathlib
import re
import sys
import xml.etree.ElementTree as xml


def required(reason, names):
    match = re.match(r"(?:Skipped: )?needs ([\w.+-]+)", reason)
    return "all" in names or (match is not None and match[1] in names)


def read_report(path, names):
    """(passed, failed, skipped): names of test cases; skipped with the reason."""
    passed, failed, skipped = [], [], []
    if not path.exists():
        return passed, failed, skipped
    for suite in xml.parse(path).iter("testsuite"):
        for case in suite.findall("testcase"):
            name = f"{case.get('classname') or suite.get('name')}.{case.get('name')}"
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif skip is not None:
                reason = (skip.get("message") or skip.text or "").strip().split("\n")[-1]
                if required(reason, names):
                    failed.append(f"{name} (skipped, but required: {reason})")
                else:
                    skipped.append(f"{name}: {reason}")
            else:
                passed.append(name)
    return passed, failed, skipped


def main(folder):
    names = set(filter(None, os.environ.get("UMWELT_REQUIRE", "").split(",")))
    totals = [0, 0, 0]
    print("\n== results")
    for status_file in sorted(folder.glob("*.status")):
        status, seconds = status_file.read_text().split()
        counts = read_report(status_file.with_suffix(".xml"), names)
        passed, failed, skipped = counts
        if status != "0" and not failed:
            failed.append(f"the suite itself (exit code {status})")
        variant, suite = status_file.stem.split("-", 1)
        print(f"{suite:8} {variant:9} {len(passed):5} passed {len(failed):4} failed "
              f"{len(skipped):4} skipped {int(seconds):5} s")
        for name in failed:
            print(f"  FAILED  {name}")
        for name in skipped:
            print(f"  skipped {name}")
        totals = [a + len(b) for a, b in zip(totals, counts)]
    for report in sorted(folder.glob("sanitizer-*")):
        totals[1] += 1
        print(f"  FAILED  {report}:")
        print("\n".join(report.read_text(errors="replace").splitlines()[:40]))
    if sum(totals[:2]) == 0:
        print("no test ran")
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 0 if totals[1] == 0 and totals[0] > 0 else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
