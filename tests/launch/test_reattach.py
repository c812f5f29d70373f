# SPDX-License-Identifier: Apache-2.0
"""Running containers get their files back when nothing of the daemon was left."""

import json
import os
import signal
import time

from umwelt import SLOWNESS


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
