# SPDX-License-Identifier: Apache-2.0
"""Running containers get their files back when nothing of the daemon was left."""

import json
import os
import shutil
import signal
import time

import pytest

from umwelt import CPUS, SLOWNESS


def test_files_come_back_after_keeper_and_server_were_killed(umwelt):
    limits = {"one": 256, "two": 128}
    for name, size in limits.items():
        umwelt.ok("run", "--detach", "--name", name, "--memory", f"{size}m", "--", "sleep", "1000")

    def total(name):
        text = umwelt.ok("exec", name, "cat", "/proc/meminfo")
        return int(text.split()[1]) >> 10

    assert {name: total(name) for name in limits} == limits
    daemon = json.loads(umwelt.ok("daemon", "status", "--json"))
    os.kill(daemon["pid"], signal.SIGKILL)
    os.kill(daemon["server"], signal.SIGKILL)
    umwelt.ok("daemon", "start")
    deadline = time.monotonic() + 10 * SLOWNESS
    while time.monotonic() < deadline:
        if all(umwelt("exec", name, "cat", "/proc/meminfo").returncode == 0 for name in limits):
            break
        time.sleep(0.05)
    assert {name: total(name) for name in limits} == limits
    again = umwelt.ok("daemon", "reattach")
    assert again.count(" 0 mounted, ") == len(limits), again


# Says each size of memory that it has seen.
READER = """
import os
seen = set()
while not os.path.exists("/tmp/end"):
    try:
        with open("/proc/meminfo") as file:
            size = file.readline().split()[1]
    except OSError:
        continue
    if size not in seen:
        seen.add(size)
        print(size, flush=True)
"""


def test_the_machines_figures_are_not_seen_meanwhile(umwelt):
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 5):
        pytest.skip("needs Linux 6.5 (MOVE_MOUNT_BENEATH)")
    umwelt.ok("run", "--detach", "--name", "reader", "--memory", "64m", "--", "python3", "-c",
              READER)
    for _ in range(8):
        daemon = json.loads(umwelt.ok("daemon", "status", "--json"))
        os.kill(daemon["pid"], signal.SIGKILL)
        os.kill(daemon["server"], signal.SIGKILL)
        umwelt.ok("daemon", "start")
        deadline = time.monotonic() + 10 * SLOWNESS
        while umwelt("exec", "reader", "cat", "/proc/meminfo").returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    umwelt.ok("exec", "reader", "touch", "/tmp/end")
    umwelt.ok("wait", "reader")
    assert umwelt.ok("logs", "reader").split() == [str(64 << 10)]


def test_the_status_of_a_program_that_uses_libnuma_comes_back(umwelt):
    if shutil.which("numactl") is None:
        pytest.skip("needs numactl")
    last = str(CPUS[-1])
    umwelt.ok("run", "--detach", "--name", "numa", "--cpuset", last, "--", "sh", "-c",
              "numactl -C 0 sh -c 'echo $$ > /tmp/pid; exec sleep 1000'")
    deadline = time.monotonic() + 10 * SLOWNESS
    while not (pid := umwelt("exec", "numa", "cat", "/tmp/pid").stdout.strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    def allowed():
        return umwelt("exec", "numa", "grep", "Cpus_allowed_list", f"/proc/{pid}/status").stdout

    assert allowed() == "Cpus_allowed_list:\t0\n"
    daemon = json.loads(umwelt.ok("daemon", "status", "--json"))
    os.kill(daemon["pid"], signal.SIGKILL)
    os.kill(daemon["server"], signal.SIGKILL)
    umwelt.ok("daemon", "start")
    while allowed() != "Cpus_allowed_list:\t0\n":
        assert time.monotonic() < deadline + 10
        time.sleep(0.05)
    assert umwelt.ok("exec", "numa", "grep", "-c", "/status", "/proc/self/mountinfo") == "1\n"
