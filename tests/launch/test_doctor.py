# SPDX-License-Identifier: Apache-2.0
"""umwelt doctor and containers that would rather not be looked at; a daemon without its mounts."""

import json
import os
import pathlib
import subprocess
import time

from umwelt import SLOWNESS

def finding_of(umwelt, name):
    done = umwelt("doctor", "--json", timeout=30 * SLOWNESS)
    findings = {entry["check"]: entry for entry in json.loads(done.stdout)["findings"]}
    return findings[f"container {name}"]


def test_a_fifo_in_the_place_of_a_file_holds_up_nobody(umwelt):
    script = ("mkfifo /tmp/fifo && mount --bind /tmp/fifo /proc/meminfo && touch /tmp/ready && "
              "exec sleep 600")
    with umwelt.detached("--user", "1000", "--", "unshare", "--map-root-user", "--mount", "sh",
                         "-c", script) as name:
        deadline = time.monotonic() + 20 * SLOWNESS
        while umwelt("exec", name, "test", "-e", "/tmp/ready").returncode != 0:
            assert time.monotonic() < deadline, umwelt("logs", name)
            time.sleep(0.05)
        finding = finding_of(umwelt, name)
        assert finding["level"] == "ok" and "covers its files" in finding["text"], finding


def test_a_limit_above_the_machines_memory_is_no_difference(umwelt):
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with umwelt.detached("--memory", str(host + (1 << 30)), "--", "sleep", "600") as name:
        finding = finding_of(umwelt, name)
        assert finding["level"] == "ok" and f"{host >> 20} MiB" in finding["text"], finding


def test_views_that_are_not_mounted_are_required_nevertheless(umwelt):
    umwelt.ok("daemon", "start")
    mount = umwelt.runtime / "live"
    assert os.path.ismount(mount)
    subprocess.run(["umount", "--lazy", mount], check=True)
    try:
        done = umwelt("run", "--rm", "--memory", "64m", "--", "head", "-1", "/proc/meminfo")
        assert (done.returncode, done.stdout) == (125, ""), done
        assert done.stderr.count("\n") == 1 and f"{mount} is not mounted" in done.stderr
        done = umwelt("run", "--rm", "--memory", "64m", "--views", "best-effort", "--", "head", "-1",
                      "/proc/meminfo")
        host = pathlib.Path("/proc/meminfo").read_text().splitlines()[0]
        assert (done.returncode, done.stdout) == (0, host + "\n"), done
        assert "sees the machine's files" in done.stderr
    finally:
        umwelt("daemon", "stop", "--force")
