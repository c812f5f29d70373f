# SPDX-License-Identifier: Apache-2.0
"""CPU time in a container's own /proc/stat."""

import subprocess
import time

import pytest

from umwelt import CPUS

# 2 s of user time by its own account, with few system calls.
BUSY = "import os\nwhile os.times().user < 2: sum(range(99999))"


def cpu_lines(text):
    """{"cpu": [user, nice, system, ...], "cpu0": ...} in ticks."""
    return {line.split()[0]: [int(n) for n in line.split()[1:]]
            for line in text.splitlines() if line.startswith("cpu")}


def stat_of(umwelt, name):
    return cpu_lines((umwelt.root(name) / "proc/stat").read_text())


def test_a_new_container_has_no_cpu_without_time(umwelt):
    """To mpstat such a CPU is offline."""
    for _ in range(10):
        first = umwelt.run("--", "head", "-n", "1", "/proc/stat").split()
        assert any(int(word) for word in first[1:]), first


@pytest.mark.timeout(500)
def test_two_seconds_of_work_beside_a_busy_host(umwelt):
    neighbour = subprocess.Popen(["/usr/bin/python3", "-c", "while True: pass"])
    try:
        with umwelt.detached("--cpuset", CPUS[-1], "--", "sleep", "600") as busy, \
                umwelt.detached("--cpuset", CPUS[0], "--", "sleep", "600") as idle:
            busy_before, idle_before = stat_of(umwelt, busy), stat_of(umwelt, idle)
            umwelt.ok("exec", busy, "/usr/bin/python3", "-c", BUSY, timeout=400)
            time.sleep(0.05)
            busy_after, idle_after = stat_of(umwelt, busy), stat_of(umwelt, idle)
    finally:
        neighbour.kill()
        neighbour.wait()
    user, _, system, idle_ticks = (a - b for a, b in zip(busy_after["cpu"][:4],
                                                         busy_before["cpu"]))
    print(f"busy: user {user}, system {system}, idle {idle_ticks} ticks")
    assert 190 <= user <= 210
    assert system <= 40  # the interpreter's start, and the ticks that preemption costs
    quiet_user, _, quiet_system, quiet_idle = (
        a - b for a, b in zip(idle_after["cpu"][:4], idle_before["cpu"]))
    print(f"idle: user {quiet_user}, system {quiet_system}, idle {quiet_idle} ticks")
    assert quiet_user + quiet_system <= 5
    assert quiet_idle >= 150
    for lines in (busy_after, idle_after):
        total = [sum(column) for column in zip(*(v for k, v in lines.items() if k != "cpu"))]
        assert all(abs(a - b) <= len(lines) for a, b in zip(total, lines["cpu"]))
