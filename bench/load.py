#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What load averages cost: of containers that nobody reads, at the first read, and of those that
are read again and again; and what the ways to count active tasks cost for one container.

    bench/load.py [--containers 200] [--tasks 50] [--seconds 20]

docs/views/loadavg.md has the table of a run and what follows from it.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/mount"))
import umweltd as support  # noqa: E402


class Group:
    """A cgroup in every hierarchy, or in cgroup2 alone, with sleeping tasks."""

    def __init__(self, name, tasks, v2_alone):
        roots = [pathlib.Path(support.V2)] if v2_alone else [
            pathlib.Path(root) for root in support.V1.values()] or [pathlib.Path(support.V2)]
        self.path = f"/umwelt-bench-{os.getpid()}-{name}"
        self.folders = [pathlib.Path(f"{root}{self.path}") for root in dict.fromkeys(roots)]
        for folder in self.folders:
            folder.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (folder / file).exists() and support.V1:
                    (folder / file).write_text((folder.parent / file).read_text())
        # The shell's children are born in its cgroups.
        script = f"for i in $(seq {tasks - 1}); do sleep infinity & done; echo; exec sleep infinity"
        self.init = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE,
                                     preexec_fn=self.enter)
        self.init.stdout.readline()

    def enter(self):
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def pids(self):
        return [int(pid) for pid in (self.folders[0] / "cgroup.procs").read_text().split()]

    def remove(self):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.init.wait()
        for folder in self.folders:
            support.wait_until(lambda folder=folder: not (folder / "cgroup.procs").read_text(), 30)
            folder.rmdir()


def cpu_seconds(pid):
    """Of all threads that live (proc(5), /proc/PID/task/TID/schedstat)."""
    return sum(int(file.read_text().split()[0])
               for file in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def timed(action):
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e6


def read(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def measure_daemon(folder, groups, paths, seconds):
    """(ms of CPU a second unread, us of a first read, of a later one, ms a second read)"""
    daemon = support.Daemon(folder).start()
    try:
        files = []
        for number, group in enumerate(groups):
            daemon.call(op="register", record={
                "id": f"load{number}", "init_pid": group.init.pid, **paths(group)})
            files.append(daemon.runtime / "live" / f"load{number}" / "proc/loadavg")
        time.sleep(2)

        def per_second(during):
            before, start = cpu_seconds(daemon.pid), time.perf_counter()
            during(start + seconds)
            return ((cpu_seconds(daemon.pid) - before) / (time.perf_counter() - start)) * 1000

        unread = per_second(lambda until: time.sleep(until - time.perf_counter()))
        first = [timed(lambda file=file: read(file)) for file in files]
        again = [timed(lambda file=file: read(file)) for file in files]

        def read_all(until):
            while time.perf_counter() < until:
                for file in files:
                    read(file)
                time.sleep(max(0.0, min(5.0, until - time.perf_counter())))

        return unread, statistics.median(first), statistics.median(again), per_second(read_all)
    finally:
        daemon.clean_up()


def measure_ways(group):
    """Microseconds for one container: what each source costs to read."""
    pids = group.pids()
    ways = {
        "state of every task (/proc/PID/task/TID/stat)":
            lambda: [read(f"/proc/{pid}/task/{pid}/stat") for pid in pids],
        "waiting time of every task (/proc/PID/schedstat)":
            lambda: [read(f"/proc/{pid}/schedstat") for pid in pids],
        "waiting time of the cgroup (cpu.pressure)":
            lambda: [read(folder / "cpu.pressure") for folder in group.folders
                     if (folder / "cpu.pressure").exists()],
        "list of the tasks (cgroup.procs)":
            lambda: read(group.folders[0] / "cgroup.procs"),
    }
    return {name: statistics.median(timed(way) for _ in range(30)) for name, way in ways.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    kinds = {"cgroup2": True, **({"v1": False} if support.V1 else {})}
    for kind, v2_alone in kinds.items():
        groups = []
        folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-bench-"))
        folder.chmod(0o755)
        try:
            for number in range(arguments.containers):
                groups.append(Group(f"{kind}-{number}", arguments.tasks, v2_alone))
            print(f"{kind}: {arguments.containers} containers of {arguments.tasks} tasks")
            paths = (lambda group: {"cgroup": {"": group.path}}) if v2_alone else (lambda group: {})
            for count in sorted({0, 1, 16, arguments.containers}):
                unread, first, again, read_ms = measure_daemon(
                    folder, groups[:count], paths, arguments.seconds) if count else (
                    measure_idle(folder, arguments.seconds), 0, 0, 0)
                print(f"  {count:4} registered: unread {unread:6.2f} ms of CPU a second; first "
                      f"read {first:6.0f} us, the next {again:4.0f} us; all read every 5 s "
                      f"{read_ms:6.2f} ms of CPU a second")
            for name, us in measure_ways(groups[0]).items():
                print(f"  {us:8.0f} us  {name}")
        finally:
            for group in groups:
                group.remove()
            shutil.rmtree(folder)


def measure_idle(folder, seconds):
    daemon = support.Daemon(folder).start()
    try:
        time.sleep(2)
        before = cpu_seconds(daemon.pid)
        time.sleep(seconds)
        return (cpu_seconds(daemon.pid) - before) / seconds * 1000
    finally:
        daemon.clean_up()


if __name__ == "__main__":
    main()
