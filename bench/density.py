#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What many containers cost: the daemon's CPU time and memory with 500 registered, idle and while 50
of them are read 10 times a second, and what is left of it when all are gone, over 10 cycles."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/mount"))
import umweltd as support  # noqa: E402

SETTLING = 10  # seconds from the last registration to what is measured as idle
GIVING_BACK = 12  # seconds: memory goes back to the kernel every 10
FILES = ["proc/cpuinfo", "proc/stat", "proc/meminfo", "proc/uptime", "proc/loadavg"]


class Usage:
    """Of keeper and server, since the last look."""

    def __init__(self, daemon):
        self.pids = {"keeper": daemon.pid, "server": daemon.server_pid()}
        self.at, self.spent = time.monotonic(), self.cpu_seconds()

    def cpu_seconds(self):
        """Also of threads that have ended, which schedstat leaves out: utime and stime, proc(5)."""
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                  for pid in self.pids.values()]
        return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")

    def look(self):
        now, spent = time.monotonic(), self.cpu_seconds()
        percent = 100 * (spent - self.spent) / (now - self.at)
        self.at, self.spent = now, spent
        return {"cpu_percent": percent, **self.memory()}

    def memory(self):
        figures = {"fds": sum(len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
                              for pid in self.pids.values())}
        for kind in ("VmRSS", "RssAnon"):
            figures[f"{kind}_kib"] = sum(
                int(line.split()[1]) for pid in self.pids.values()
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith(f"{kind}:"))
        return figures


def register(daemon, count):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda number: support.Container(daemon, f"c{number}"), range(count)))


def remove(containers):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(support.Container.remove, containers))


def read(containers, seconds):
    """Each file of each container 10 times a second; how many reads that were."""
    paths = [container.path(file) for container in containers for file in FILES]
    start, reads = time.monotonic(), 0
    for turn in range(seconds * 10):
        time.sleep(max(0.0, start + turn / 10 - time.monotonic()))
        for path in paths:
            assert path.read_bytes()
            reads += 1
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    return reads / (time.monotonic() - start)


def measure(arguments, daemon):
    rows = {"without a container": Usage(daemon).memory()}
    usage = Usage(daemon)
    for cycle in range(arguments.cycles):
        containers = register(daemon, arguments.containers)
        if cycle == 0:
            time.sleep(SETTLING)
            usage.look()
            time.sleep(arguments.seconds)
            rows[f"{arguments.containers} containers, idle"] = usage.look()
            some = containers[:arguments.read]
            read(some, 1)  # the first reads of each make what later ones use
            usage.look()
            rate = read(some, arguments.seconds)
            rows[f"{len(some)} of them read 10 times a second ({rate:.0f} reads/s)"] = usage.look()
        remove(containers)
        if cycle in (0, arguments.cycles - 1):
            support.wait_until(lambda: not list((daemon.runtime / "records").glob("*.json")), 30)
            time.sleep(GIVING_BACK)
            name = "all gone" if cycle == 0 else f"all gone, after {cycle + 1} cycles"
            rows[name] = usage.memory()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--read", type=int, default=50)
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-density-"))
    daemon = support.Daemon(folder)
    daemon.command = [word if word != "debug" else "warning" for word in daemon.command]
    try:
        daemon.start()
        rows = measure(arguments, daemon)
    finally:
        daemon.clean_up()
        shutil.rmtree(folder)
    print("| keeper and server | CPU | memory (RSS) | of it anonymous | descriptors |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        cpu = f"{row['cpu_percent']:.2f} %" if "cpu_percent" in row else ""
        print(f"| {name} | {cpu} | {row['VmRSS_kib'] / 1024:.1f} MiB | "
              f"{row['RssAnon_kib'] / 1024:.1f} MiB | {row['fds']} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
