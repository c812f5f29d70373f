# SPDX-License-Identifier: Apache-2.0
"""umwelt doctor and containers that would rather not be looked at; a daemon without its mounts."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from disks import wait_until
from umwelt import HIERARCHIES, SLOWNESS


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


def test_a_service_is_stopped_by_systemd(umwelt):
    umwelt.ok("daemon", "start")
    daemon = json.loads(umwelt.ok("daemon", "status", "--json"))["pid"]
    root = HIERARCHIES[-1]  # the one of v2
    own = pathlib.Path(f"/proc/{daemon}/cgroup").read_text().splitlines()[-1].removeprefix("0::/")
    unit = root / f"umwelt-test-{daemon}" / "umweltd.service"
    unit.mkdir(parents=True)
    try:
        (unit / "cgroup.procs").write_text(f"{daemon}\n")
        done = umwelt("daemon", "stop", "--force")
        assert done.returncode == 1 and "systemctl stop umweltd" in done.stderr, done
    finally:
        (root / own / "cgroup.procs").write_text(f"{daemon}\n")
        unit.rmdir()
        unit.parent.rmdir()
    umwelt.ok("daemon", "stop", "--force")


def test_a_daemon_that_is_stopped(umwelt):
    """Its mounts don't answer either, and nobody may wait for them."""
    with umwelt.detached("--memory", "64m", "--", "sleep", "600") as name:
        daemon = json.loads(umwelt.ok("daemon", "status", "--json"))
        for process in (daemon["pid"], daemon["server"]):
            os.kill(process, signal.SIGSTOP)
        try:
            done = umwelt("doctor", "--json", timeout=30 * SLOWNESS)
            texts = [entry["text"] for entry in json.loads(done.stdout)["findings"]
                     if entry["level"] == "failure"]
            assert done.returncode == 1 and any("umweltd does not answer" in t for t in texts), texts
            assert any(f"{umwelt.runtime}/config: its daemon does not answer" in t for t in texts), texts
            done = umwelt("daemon", "stop", timeout=30 * SLOWNESS)
            assert done.returncode == 1 and "--force ends it nevertheless" in done.stderr, done
            umwelt.ok("daemon", "stop", "--force")
        finally:
            for process in (daemon["pid"], daemon["server"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
        assert umwelt("daemon", "status").returncode == 1
        umwelt.ok("daemon", "start")
        wait_until(lambda: umwelt("exec", name, "head", "-1", "/proc/meminfo").stdout.split()[1:2]
                   == ["65536"])
