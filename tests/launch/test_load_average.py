# SPDX-License-Identifier: Apache-2.0
"""The load average over minutes, against the kernel's formula."""

import math
import os
import pathlib
import time

import pytest

from umwelt import CPUS

SECONDS = float(os.environ.get("UMWELT_TEST_LOAD_SECONDS", 0))

pytestmark = [pytest.mark.vm, pytest.mark.timeout(SECONDS + 600),
              pytest.mark.skipif(SECONDS == 0, reason="needs UMWELT_TEST_LOAD_SECONDS, 300 or so")]


def load_of(umwelt, name):
    text = (umwelt.root(name) / "proc/loadavg").read_text()
    return [float(word) for word in text.split()[:3]]


def test_three_busy_tasks_and_an_idle_neighbour(umwelt):
    loop = "while :; do :; done"
    with umwelt.detached("--cpuset", CPUS[0], "--", "sleep", "100000") as idle, \
            umwelt.detached("--cpuset", CPUS[-1], "--", "sh", "-c",
                            f"({loop}) & ({loop}) & {loop}") as busy:
        start, worst, quiet = time.monotonic(), 0.0, 0.0
        while (spent := time.monotonic() - start) < SECONDS:
            expected = [3 * (1 - math.exp(-spent / period)) for period in (60, 300, 900)]
            loads, neighbour = load_of(umwelt, busy), load_of(umwelt, idle)
            host = pathlib.Path("/proc/loadavg").read_text().split()[:3]
            print(f"{time.time():.0f} {spent:5.0f} s: busy {loads}, formula "
                  f"{[round(load, 2) for load in expected]}, idle {neighbour}, machine {host}",
                  flush=True)
            worst = max(worst, *(abs(a - b) for a, b in zip(loads, expected)))
            quiet = max(quiet, *neighbour)
            time.sleep(15)
    # The start of a container counts for some seconds, as does what is between two samples.
    assert worst < 0.25
    assert quiet <= 0.05
