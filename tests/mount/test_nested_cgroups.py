# SPDX-License-Identifier: Apache-2.0
"""Cgroups many levels deep: right figures, and no read costs more for the depth."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from umweltd import CPUS, SLOWNESS, V1, V2, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 * SLOWNESS)]

DEPTHS = (1, 3, 6, 50)
READS = 100
MIB = 1 << 20
ROOTS = {c: pathlib.Path(V1[c]) for c in V1} or {"": pathlib.Path(V2 or "/")}


class Nested:
    """A registered container so many levels below the mount points."""

    def __init__(self, daemon, depth):
        self.daemon, self.id, self.depth = daemon, f"deep{depth}", depth
        names = [f"umwelt-test-{os.getpid()}-{self.id}"] + ["n"] * (depth - 1)
        self.folders = {}
        for controller, root in ROOTS.items():
            folder = root
            for name in names:
                if not V1:
                    (folder / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")
                folder = folder / name
                folder.mkdir()
                if controller == "cpuset":
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (folder / file).write_text((folder.parent / file).read_text())
            self.folders[controller] = folder
        self.init = subprocess.Popen(["sleep", "infinity"])
        for folder in self.folders.values():
            (folder / "cgroup.procs").write_text(str(self.init.pid))
        daemon.call(op="register", record={"id": self.id, "init_pid": self.init.pid})
        self.live = daemon.runtime / "live" / self.id

    def write(self, level, controller, file, text):
        """`level` counts upwards from the container's own cgroup."""
        folder = self.folders[controller if V1 else ""]
        for _ in range(level):
            folder = folder.parent
        (folder / file).write_text(str(text))

    def meminfo(self):
        text = (self.live / "proc/meminfo").read_text()
        return {key: int(value) for key, value in re.findall(r"^(\S+): +(\d+)", text, re.M)}

    def remove(self):
        with contextlib.suppress(RuntimeError, OSError):
            self.daemon.call(op="unregister", id=self.id)
        self.init.kill()
        self.init.wait()
        for folder in self.folders.values():
            if not folder.exists():
                continue
            wait_until(lambda folder=folder: not (folder / "cgroup.procs").read_text(), 10)
            for _ in range(self.depth):
                folder.rmdir()
                folder = folder.parent


@pytest.fixture
def nested(daemon):
    made = []

    def make(depth):
        made.append(Nested(daemon, depth))
        return made[-1]

    yield make
    for container in made:
        container.remove()


def limit_memory(container, level, size):
    container.write(level, "memory", "memory.limit_in_bytes" if V1 else "memory.max", size)
    container.daemon.call(op="refresh", id=container.id)


def calls_of_the_daemon(daemon, trace, action):
    """System calls of the threads that serve, by name, while the action runs."""
    tasks = pathlib.Path(f"/proc/{daemon.server_pid()}/task")
    serving = set()
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if (task / "comm").read_text().strip() in ("config", "live"):
                serving.add(task.name)
    assert serving
    strace = subprocess.Popen(["strace", "-f", "-o", trace, "-p", str(daemon.server_pid())],
                              stderr=subprocess.PIPE, text=True)
    threads = len(os.listdir(f"/proc/{daemon.server_pid()}/task"))
    attached = 0
    for line in strace.stderr:
        attached += "attached" in line
        if attached == 1 and "threads" in line or attached == threads:
            break
    time.sleep(0.2)
    action()
    strace.terminate()
    strace.wait()
    calls = {}
    for line in trace.read_text().splitlines():
        pid, call = line.split(None, 1)
        name = re.match(r"(\w+)\(", call)
        if pid in serving and name:
            calls[name[1]] = calls.get(name[1], 0) + 1
    return calls


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.skipif(os.environ.get("UMWELT_VARIANT") in ("asan", "tsan"),
                    reason="needs a build without sanitizers: they make system calls of their own")
def test_the_system_calls_of_a_read_do_not_grow_with_the_depth(daemon, nested, folder):
    counts = {}
    for where in ("itself", "its topmost ancestor"):
        for depth in DEPTHS:
            container = nested(depth)
            limit_memory(container, 0 if where == "itself" else container.depth - 1, 64 * MIB)
            file = str(container.live / "proc/meminfo")
            cat = ["sh", "-c", f"for i in $(seq {READS}); do cat {file}; done >/dev/null"]
            subprocess.run(cat, check=True)
            calls = calls_of_the_daemon(daemon, folder / f"trace{depth}",
                                        lambda cat=cat: subprocess.run(cat, check=True))
            each = sum(calls.values()) / READS
            names = ", ".join(f"{name} {count / READS:.1f}" for name, count in sorted(
                calls.items(), key=lambda item: -item[1]) if count >= READS / 10)
            print(f"limited by {where}, depth {container.depth}: {each:.1f} a cat ({names})")
            counts[where, depth] = each
            container.remove()
    for (where, depth), each in counts.items():
        # Four requests with two calls each, and up to four control files; now and then the limits
        # are read again meanwhile.
        assert round(each) <= 12, f"limited by {where}, depth {depth}: {each} system calls"
        # One level has no ancestor that could limit it. How often limits have become too old and are
        # read again, and how many reads share a text, depends on how fast the machine is just now.
        assert each <= counts[where, DEPTHS[1]] + 2, f"grows with the depth {depth}"


def test_the_smallest_limit_of_50_levels_counts(daemon, nested):
    container = nested(50)
    assert container.depth == 50
    limits = {0: 96 * MIB, 10: 80 * MIB, 30: 64 * MIB, 49: 128 * MIB}
    for level, size in sorted(limits.items(), reverse=True):
        limit_memory(container, level, size)
    assert container.meminfo()["MemTotal"] == 64 << 10
    limit_memory(container, 10, 48 * MIB)
    meminfo = container.meminfo()
    assert meminfo["MemTotal"] == 48 << 10
    assert meminfo["MemFree"] <= meminfo["MemAvailable"] <= meminfo["MemTotal"]

    if V1:
        container.write(25, "cpu", "cpu.cfs_quota_us", 50000)
        container.write(0, "cpuset", "cpuset.cpus", CPUS[-1])
    else:
        container.write(25, "cpu", "cpu.max", "50000 100000")
        container.write(0, "cpuset", "cpuset.cpus", CPUS[-1])
    daemon.call(op="refresh", id=container.id)
    stat = (container.live / "proc/stat").read_text()
    assert re.findall(r"^cpu(\d+)", stat, re.M) == [str(CPUS[-1])]
    loadavg = (container.live / "proc/loadavg").read_text().split()
    assert loadavg[3].endswith("/1")
    assert int(loadavg[4]) == container.init.pid


def test_what_neighbours_leave_of_a_larger_limit_further_up(daemon, nested):
    container = nested(2)
    limit_memory(container, 1, 128 * MIB)
    limit_memory(container, 0, 96 * MIB)
    before = container.meminfo()
    assert before["MemTotal"] == 96 << 10
    assert before["MemAvailable"] > 88 << 10
    folder = container.folders["memory" if V1 else ""].with_name("neighbour")
    folder.mkdir()
    code = (f"import sys; sys.stdin.read(1); kept = bytearray({80 * MIB}); "
            "print(len(kept), flush=True); input()")
    neighbour = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
    try:
        (folder / "cgroup.procs").write_text(str(neighbour.pid))
        neighbour.stdin.write("x")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == f"{80 * MIB}\n"
        meminfo = container.meminfo()
        assert meminfo["MemTotal"] == 96 << 10
        assert 16 << 10 < meminfo["MemAvailable"] <= 48 << 10
        assert meminfo["MemFree"] <= meminfo["MemAvailable"]
    finally:
        neighbour.kill()
        neighbour.communicate()
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), 10)
        folder.rmdir()
    wait_until(lambda: container.meminfo()["MemAvailable"] > 88 << 10, 10)
