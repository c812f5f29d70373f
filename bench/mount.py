#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a read through the filesystem costs, beside the kernel's own file and beside lxcfs.

One container, limited to one CPU and 256 MiB; the reader runs in its cgroup, in a pid namespace of
its own. Each file is read as the kernel serves it, from the container's tree, from the shared tree,
and from lxcfs, in turns within one run of bench/reader.cc. The system calls of the servers are
counted in runs of their own (perf, where it is installed): of reads one after the other, of such
with a single read(2), and of reads 10 ms apart, which share no rendering.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/mount"))
import umweltd as support  # noqa: E402

CONFIG = ["proc/cpuinfo", "sys/devices/system/cpu/online", "sys/devices/system/node/online"]
LIVE = ["proc/stat", "proc/meminfo", "proc/uptime", "proc/loadavg", "proc/swaps", "proc/diskstats"]
SOURCES = {"kernel": "the kernel", "container": "container tree", "shared": "shared tree",
           "lxcfs": "lxcfs"}
READERS = (1, 8)


@contextlib.contextmanager
def lxcfs(folder):
    """A mounted lxcfs with load averages: (its pid, its mount point); (0, None) where it lacks."""
    if shutil.which("lxcfs") is None:
        yield 0, None
        return
    mount = folder / "lxcfs"
    mount.mkdir()
    with open(folder / "lxcfs.log", "wb") as log:
        process = subprocess.Popen(["lxcfs", "-f", "-l", "-p", folder / "lxcfs.pid", mount],
                                   stdout=log, stderr=log)
    try:
        support.wait_until((mount / "proc/meminfo").exists, 10)
        yield process.pid, mount
    finally:
        process.terminate()
        process.wait()


class Bench:
    def __init__(self, reader, container, lxcfs_pid, lxcfs_mount):
        self.reader, self.container = reader, container
        self.lxcfs_pid, self.lxcfs_mount = lxcfs_pid, lxcfs_mount

    def sources(self, file):
        """name -> (path, pid of the server)"""
        daemon = self.container.daemon
        server = daemon.server_pid()
        found = {"kernel": (f"/{file}", 0), "container": (self.container.path(file), server),
                 "shared": (daemon.state / file, server)}
        with contextlib.suppress(OSError):  # it lists files that it does not have
            if self.lxcfs_mount and (self.lxcfs_mount / file).read_bytes():
                found["lxcfs"] = (self.lxcfs_mount / file, self.lxcfs_pid)
        return found

    def run(self, sources, *options, before=()):
        """Runs the reader in the container's cgroup."""
        words = [f"{name}={path}" + (f"={pid}" if pid else "")
                 for name, (path, pid) in sources.items()]
        result = subprocess.run([*before, "unshare", "--pid", "--fork", self.reader, *options,
                                 *words], preexec_fn=lambda: self.container.cgroup.attach(
                                     os.getpid()), check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(result.stdout)

    def count_calls(self, name, source, folder, reads, *options):
        """System calls of the server a read."""
        counts = folder / "perf"
        perf = ["perf", "stat", "-x;", "-o", counts, "-e", "raw_syscalls:sys_enter", "-p",
                str(source[1]), "--"]
        self.run({name: source}, "--rounds", "1", "--batch", str(reads), *options, before=perf)
        # "<not counted>" where there was none.
        return int((re.search(r"^(\d+);", counts.read_text(), re.M) or [0, 0])[1]) / reads

    def measure(self, file, arguments, folder):
        sources = self.sources(file)
        result = {"file": f"/{file}", "kind": "config" if file in CONFIG else "live",
                  "sources": {name: {} for name in sources}}
        for readers in READERS:
            measured = self.run(sources, "--rounds", str(arguments.rounds), "--batch",
                                str(arguments.batch), "--readers", str(readers))
            for name, figures in measured.items():
                result["sources"][name][str(readers)] = figures
        for name, source in sources.items():
            if source[1] and shutil.which("perf"):
                count = lambda *options: self.count_calls(name, source, folder, *options)  # noqa
                result["sources"][name]["calls"] = {"burst": count(2000),
                                                    "one_read": count(2000, "--one-read"),
                                                    "alone": count(200, "--pause", "10000")}
        return result


def rss_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1])


def measure(arguments, folder):
    with lxcfs(folder) as (lxcfs_pid, lxcfs_mount):
        daemon = support.Daemon(folder)
        daemon.command = [word if word != "debug" else "warning" for word in daemon.command]
        try:
            daemon.start()
            container = daemon.container("bench")
            container.cgroup.set_cpus(support.CPUS[-1])
            container.cgroup.set_memory(256 << 20)
            container.refresh()
            bench = Bench(arguments.reader, container, lxcfs_pid, lxcfs_mount)
            files = []
            for file in arguments.file or CONFIG + LIVE:
                files.append(bench.measure(file, arguments, folder))
                print(file, file=sys.stderr, flush=True)
            rss = {"umweltd": rss_kib(daemon.server_pid()), "keeper": rss_kib(daemon.pid)}
            if lxcfs_pid:
                rss["lxcfs"] = rss_kib(lxcfs_pid)
        finally:
            daemon.clean_up()
    return {"rss_kib": rss, "files": files}


def us(ns):
    return f"{ns / 1000:.1f}" if ns < 100000 else f"{ns / 1000:.0f}"


def cpu_ns(figures):
    return figures["reader_cpu_ns"] + figures["server_cpu_ns"]


def table(results, readers):
    lines = ["| file | from | p50 | p99 | reads/s | CPU a read | p50 to kernel | "
             "reads/s to lxcfs | CPU to lxcfs |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for result in results["files"]:
        figures = {name: source[readers] for name, source in result["sources"].items()}
        kernel, peer = figures["kernel"], figures.get("lxcfs")
        for name, own in figures.items():
            beside = (f"{own['reads_per_s'] / peer['reads_per_s']:.1f} | "
                      f"{cpu_ns(own) / cpu_ns(peer):.2f}" if peer else " | ")
            lines.append(
                f"| {result['file'] if name == 'kernel' else ''} | {SOURCES[name]} | "
                f"{us(own['p50_ns'])} | {us(own['p99_ns'])} | {own['reads_per_s']:,.0f} | "
                f"{us(cpu_ns(own))} | {own['p50_ns'] / kernel['p50_ns']:.2f} | {beside} |")
    return "\n".join(lines)


def table_of_calls(results):
    lines = ["| file | from | one after the other | with one read(2) | 10 ms apart |",
             "| --- | --- | ---: | ---: | ---: |"]
    for result in results["files"]:
        for name, source in result["sources"].items():
            if calls := source.get("calls"):
                lines.append(f"| {result['file']} | {SOURCES[name]} | " + " | ".join(
                    f"{calls[way]:.1f}" for way in ("burst", "one_read", "alone")) + " |")
    return "\n".join(lines)


def goals(results):
    """Rows of (goal, file, figure, whether it is met)."""
    for result in results["files"]:
        sources, file, live = result["sources"], result["file"], result["kind"] == "live"
        own, peer = sources["container"], sources.get("lxcfs")
        if not live:
            kernel = next((r["sources"]["kernel"]["1"]["p50_ns"] for r in results["files"]
                           if r["file"] == "/proc/cpuinfo"), None)
            if kernel:
                part = own["1"]["p50_ns"] / kernel
                yield "at most 0.25 of the kernel's cpuinfo", file, f"{part:.2f}", part <= 0.25
        elif calls := own.get("calls", {}).get("one_read"):
            yield "at most 6 system calls, one read(2)", file, f"{calls:.1f}", calls <= 6.05
        for readers in map(str, READERS):
            if not peer:
                continue
            beside = f"{readers} reader" + ("s" if readers != "1" else "")
            least = 3 if live else 40
            ratio = own[readers]["reads_per_s"] / peer[readers]["reads_per_s"]
            yield f"at least {least} times lxcfs, {beside}", file, f"{ratio:.1f}", ratio >= least
            ratio = sources["shared"][readers]["reads_per_s"] / peer[readers]["reads_per_s"]
            yield f"shared tree at least twice lxcfs, {beside}", file, f"{ratio:.1f}", ratio >= 2
            if live:
                part = cpu_ns(own[readers]) / cpu_ns(peer[readers])
                yield (f"at most a third of lxcfs's CPU time, {beside}", file, f"{part:.2f}",
                       part <= 1 / 3)


def table_of_goals(results):
    lines = ["| goal | file | measured | |", "| --- | --- | ---: | --- |"]
    for goal, file, figure, met in goals(results):
        lines.append(f"| {goal} | {file} | {figure} | {'met' if met else '**missed**'} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", type=pathlib.Path, required=True, help="bench_reader")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=100, help="reads of a reader in a round")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure to this file")
    parser.add_argument("--file", action="append", help="only this one (proc/stat); repeatable")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-bench-"))
    folder.chmod(0o755)
    try:
        results = measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    for readers in map(str, READERS):
        print(f"\n{readers} reader{'s' if readers != '1' else ''}, times in microseconds; CPU: "
              f"reader and server\n\n{table(results, readers)}")
    print(f"\nSystem calls of the server a read\n\n{table_of_calls(results)}")
    print("\nMemory (RSS): " + ", ".join(
        f"{name} {kib / 1024:.1f} MiB" for name, kib in results["rss_kib"].items()))
    print(f"\n{table_of_goals(results)}")


if __name__ == "__main__":
    main()
