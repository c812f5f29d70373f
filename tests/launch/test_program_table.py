# SPDX-License-Identifier: Apache-2.0
"""Every program that is known to ask for CPUs, memory, uptime or load, by whatever file or syscall:
what it must say in a container with one CPU of this machine, half of its time and 256 MiB."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from umwelt import CPUS, SLOWNESS, runs

CPU = CPUS[-1]
LIMITS = ("--cpuset", CPU, "--cpus", "0.5", "--memory", "256M", "--memory-swap", "256M")
MIB = 256
BYTES = MIB << 20
HERE = pathlib.Path(__file__).parent

C_PROGRAM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
  double load[3] = {99};
  getloadavg(load, 3);
  printf("onln=%ld conf=%ld phys=%lld load=%d\n", sysconf(_SC_NPROCESSORS_ONLN),
         sysconf(_SC_NPROCESSORS_CONF),
         (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE), load[0] < 1);
}
"""
CPP_PROGRAM = """#include <cstdio>
#include <thread>
int main() { std::printf("n=%u\\n", std::thread::hardware_concurrency()); }
"""
OPENMP_PROGRAM = """#include <omp.h>
#include <stdio.h>
int main(void) { printf("n=%d places=%d\\n", omp_get_max_threads(), omp_get_num_places()); }
"""
TBB_PROGRAM = """#include <cstdio>
#include <oneapi/tbb/info.h>
int main() { std::printf("n=%d\\n", oneapi::tbb::info::default_concurrency()); }
"""
GO_PROGRAM = """package main

import ("fmt"; "runtime")

func main() { fmt.Printf("n=%d procs=%d\\n", runtime.NumCPU(), runtime.GOMAXPROCS(0)) }
"""
RUST_PROGRAM = """fn main() {
  println!("n={}", std::thread::available_parallelism().unwrap());
}
"""
JAVA_PROGRAM = """public class Ask {
  public static void main(String[] args) {
    var os = (com.sun.management.OperatingSystemMXBean)
        java.lang.management.ManagementFactory.getOperatingSystemMXBean();
    System.out.println("n=" + Runtime.getRuntime().availableProcessors() + " memory="
        + os.getTotalMemorySize() + " load=" + (os.getSystemLoadAverage() < 1));
  }
}
"""
NGINX = """daemon off; user root; pid /tmp/pid; error_log /tmp/nginx.log;
worker_processes auto; worker_cpu_affinity auto; events {}
"""

# name -> (file, text, command that builds it): in the order of a list of compilers
BUILT = {
    "glibc": ("glibc.c", C_PROGRAM, "gcc -o {out} {in}"),
    "glibc 32-bit": ("glibc32.c", C_PROGRAM, "gcc -m32 -static -o {out} {in}"),
    "musl static": ("musl.c", C_PROGRAM, "musl-gcc -static -o {out} {in}"),
    "C++": ("threads.cc", CPP_PROGRAM, "g++ -o {out} {in}"),
    "OpenMP": ("openmp.c", OPENMP_PROGRAM, "gcc -fopenmp -o {out} {in}"),
    "oneTBB": ("tbb.cc", TBB_PROGRAM, "g++ -o {out} {in} -ltbb"),
    "Go static": ("ask.go", GO_PROGRAM, "go build -o {out} {in}"),
    "Rust": ("ask.rs", RUST_PROGRAM, "rustc -o {out} {in}"),
    "JVM": ("Ask.java", JAVA_PROGRAM, "javac -d {folder} {in}"),
}

# (program, question, command, pattern, expected); "@NAME" is a program that was built.
TABLE = (
    ("glibc", "_SC_NPROCESSORS_ONLN", "@glibc", r"onln=(\d+)", 1),
    ("glibc", "_SC_NPROCESSORS_CONF", "@glibc", r"conf=(\d+)", 1),
    ("glibc", "_SC_PHYS_PAGES", "@glibc", r"phys=(\d+)", BYTES),
    ("glibc", "getloadavg < 1", "@glibc", r"load=(\d+)", 1),
    ("glibc 32-bit", "_SC_NPROCESSORS_ONLN", "@glibc 32-bit", r"onln=(\d+)", 1),
    ("glibc 32-bit", "_SC_PHYS_PAGES", "@glibc 32-bit", r"phys=(\d+)", BYTES),
    ("glibc 32-bit", "getloadavg < 1", "@glibc 32-bit", r"load=(\d+)", 1),
    ("musl static", "_SC_NPROCESSORS_ONLN", "@musl static", r"onln=(\d+)", 1),
    ("musl static", "_SC_NPROCESSORS_CONF", "@musl static", r"conf=(\d+)", 1),
    ("musl static", "_SC_PHYS_PAGES", "@musl static", r"phys=(\d+)", BYTES),
    ("musl static", "getloadavg < 1", "@musl static", r"load=(\d+)", 1),
    ("JVM", "availableProcessors()", "java -cp /x Ask", r"n=(\d+)", 1),
    ("JVM", "memory", "java -cp /x Ask", r"memory=(\d+)", BYTES),
    ("JVM", "getSystemLoadAverage() < 1", "java -cp /x Ask", r"load=(\w+)", "true"),
    ("JVM -UseContainerSupport", "availableProcessors()",
     "java -XX:-UseContainerSupport -cp /x Ask", r"n=(\d+)", 1),
    ("JVM -UseContainerSupport", "memory", "java -XX:-UseContainerSupport -cp /x Ask",
     r"memory=(\d+)", BYTES),
    ("JVM -UseContainerSupport", "getSystemLoadAverage() < 1",
     "java -XX:-UseContainerSupport -cp /x Ask", r"load=(\w+)", "true"),
    ("Go static", "NumCPU", "@Go static", r"n=(\d+)", 1),
    ("Go static", "GOMAXPROCS", "@Go static", r"procs=(\d+)", 1),
    ("Rust", "available_parallelism", "@Rust", r"n=(\d+)", 1),
    ("OpenMP", "omp_get_max_threads", "@OpenMP", r"n=(\d+)", 1),
    ("OpenMP", "places, bound",
     "env OMP_PLACES=cores OMP_PROC_BIND=close @OpenMP", r"places=(\d+)", 1),
    ("C++", "hardware_concurrency", "@C++", r"n=(\d+)", 1),
    ("oneTBB", "default_concurrency", "@oneTBB", r"n=(\d+)", 1),
    ("node", "os.cpus().length", "node -p os.cpus().length", r"(\d+)", 1),
    ("node", "availableParallelism()",
     "node -p 'os.availableParallelism ? os.availableParallelism() : os.cpus().length'",
     r"(\d+)", 1),
    ("node", "os.totalmem()", "node -p 'os.totalmem()'", r"(\d+)", BYTES),
    ("node", "os.uptime() < 60", "node -p 'os.uptime() < 60'", r"(\w+)", "true"),
    ("node", "os.loadavg()[0] < 1", "node -p 'os.loadavg()[0] < 1'", r"(\w+)", "true"),
    ("python3", "os.cpu_count()", "/usr/bin/python3 -c 'import os; print(os.cpu_count())'",
     r"(\d+)", 1),
    ("python3", "sched_getaffinity",
     "/usr/bin/python3 -c 'import os; print(len(os.sched_getaffinity(0)))'", r"(\d+)", 1),
    ("python3", "sysconf memory", "/usr/bin/python3 -c 'import os; "
     "print(os.sysconf(\"SC_PHYS_PAGES\") * os.sysconf(\"SC_PAGESIZE\"))'", r"(\d+)", BYTES),
    ("python3", "getloadavg < 1", "/usr/bin/python3 -c 'import os; print(os.getloadavg()[0] < 1)'",
     r"(\w+)", "True"),
    ("ruby", "Etc.nprocessors", "ruby -retc -e 'puts Etc.nprocessors'", r"(\d+)", 1),
    ("php", "sys_getloadavg < 1", "php -r 'echo sys_getloadavg()[0] < 1;'", r"(\d+)", 1),
    ("perl", "sysconf", "perl -MPOSIX -e 'print POSIX::sysconf(84)'", r"(\d+)", 1),
    ("nginx", "workers auto", "sh -c 'nginx -c /x/nginx.conf 2>/dev/null & sleep 1; "
     "echo n=$(ps ax | grep -c \"[n]ginx: worker\")'", r"n=(\d+)", 1),
    ("nginx", "worker_cpu_affinity auto: alerts", "sh -c 'nginx -c /x/nginx.conf 2>/dev/null & "
     "sleep 1; echo n=$(grep -c alert /tmp/nginx.log)'", r"n=(\d+)", 0),
    ("nproc", "", "nproc", r"(\d+)", 1),
    ("nproc", "--all", "nproc --all", r"(\d+)", 1),
    ("busybox", "nproc", "busybox nproc", r"(\d+)", 1),
    ("busybox", "free", "busybox free -m", r"Mem: +(\d+)", MIB),
    ("busybox", "free fits", "sh -c 'busybox free | awk \"/^Mem/{print \\\"fits=\\\" "
     "(\\$3 + \\$4 <= \\$2)}\"'", r"fits=(\d)", 1),
    ("busybox", "uptime", "busybox uptime", r"up (\d+) min", 0),
    ("busybox", "load < 1", "busybox uptime", r"load average: (0)\.", 0),
    ("busybox", "top", "busybox top -bn1", r"Mem: (\d{1,6})K used", None),
    ("free", "total", "free -b", r"Mem: +(\d+)", BYTES),
    ("uptime", "up", "uptime", r"up +(\d+) min", 0),
    ("uptime", "load < 1", "uptime", r"load average: (0)\.", 0),
    ("w", "up", "w", r"up +(\d+) min", 0),
    ("top", "memory", "top -b -n1", r"MiB Mem : +([\d.]+) total", "256.0"),
    ("top", "CPU lines", "top -b -1 -n1", r"%Cpu(\d+)", 0),
    ("vmstat", "memory", "vmstat -s", r"(\d+) K total memory", MIB << 10),
    ("ps", "age of process 1 < 60", "sh -c 'echo young=$(($(ps -o etimes= -p 1) < 60))'",
     r"young=(\d)", 1),
    ("lscpu", "CPU(s)", "lscpu", r"^CPU\(s\): +(\d+)", 1),
    ("lscpu", "on-line", "lscpu", r"On-line CPU\(s\) list: +(\S+)", 0),
    ("mpstat", "CPUs", "mpstat", r"\((\d+) CPU\)", 1),
    ("iostat", "CPUs", "iostat -c", r"\((\d+) CPU\)", 1),
    ("sar", "CPUs", "sar -u 1 1", r"\((\d+) CPU\)", 1),
    ("lstopo-no-graphics", "PUs", "lstopo-no-graphics --of console", r"PU L#0 \(P#(\d+)\)", 0),
    ("hwloc-calc", "PUs", "hwloc-calc --number-of pu all", r"(\d+)", 1),
    ("hwloc-bind", "pu:0", "hwloc-bind pu:0 -- nproc", r"(\d+)", 1),
    ("numactl", "CPUs", "numactl -s", r"physcpubind: (\S+)", 0),
    ("numactl", "-C 0", "numactl -C 0 nproc", r"^(\d+)", 1),
    ("numactl", "-a -C 0", "numactl -a -C 0 nproc", r"^(\d+)", 1),
    ("taskset", "-p", "taskset -pc 1", r"list: (\S+)", 0),
    ("taskset", "-c 0", "taskset -c 0 nproc", r"(\d+)", 1),
    ("stress-ng", "--cpu 0", "stress-ng --cpu 0 --cpu-ops 1", r"dispatching hogs: (\d+) cpu", 1),
    ("redis-server", "memory", "sh -c 'redis-server --port 0 --unixsocket /tmp/redis "
     "--save \"\" >/dev/null & sleep 1; redis-cli -s /tmp/redis info memory'",
     r"total_system_memory:(\d+)", BYTES),
    ("xz", "memory", "xz --robot --info-memory", r"^(\d+)", BYTES),
    ("xz", "-T0", "xz --info-memory", r"Number of processor threads: +(\d+)", 1),
    ("sort", "--debug", "sh -c 'echo a | sort --parallel=1 && echo n=1'", r"n=(\d)", 1),
    ("zstd", "-T0", "sh -c 'zstd -vv -T0 -c /etc/passwd 2>&1 >/dev/null'",
     r"(\d+) (?:physical|logical) core", None),
    ("ninja", "default -j", "sh -c 'ninja -h 2>&1'", r"-j N +run N jobs in parallel .*default=(\d+)",
     2),
)


class Row:
    def __init__(self, row):
        self.program, self.question, self.command, self.pattern, expected = row
        self.expected = None if expected is None else str(expected)
        self.got = "not run"

    def ask(self, umwelt, folder, built):
        command = self.command
        if "@" in command:
            name = command.partition("@")[2]
            if name not in built:
                self.got = self.expected = "not there"
                return
            command = command.replace(f"@{name}", f"/x/{built[name]}")
        elif not command.startswith("sh ") and shutil.which(command.split()[0]) is None or \
                shutil.which(self.program.split()[0]) is None and self.program[0].islower():
            self.got = self.expected = "not there"
            return
        elif self.program.startswith("JVM") and "JVM" not in built:
            self.got = self.expected = "not there"
            return
        done = umwelt("run", "--rm", *LIMITS, "-v", f"{folder}:/x:ro", "--", "sh", "-c", command,
                      timeout=120 * SLOWNESS)
        output = done.stdout + done.stderr
        found = re.search(self.pattern, output, re.M)
        self.got = found[1] if found else f"exit {done.returncode}: {output.strip()[-160:]!r}"
        if self.expected is None and found:
            self.expected = self.got


def build(folder):
    environment = {**os.environ, "GOFLAGS": "", "GO111MODULE": "off", "CGO_ENABLED": "0",
                   "GOCACHE": str(folder / "cache")}
    built = {}
    for name, (file, text, command) in BUILT.items():
        if shutil.which(command.split()[0]) is None:
            continue
        source, out = folder / file, folder / re.sub(r"\W", "-", name)
        source.write_text(text)
        words = [word.format(out=out, folder=folder, **{"in": source}) for word in command.split()]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            print(f"{name}: {done.stderr.strip()[-300:]}")
        elif out.exists() and not runs(out):
            print(f"{name}: this kernel doesn't run such programs")
        else:
            built[name] = out.name
    return built


def test_every_program_says_the_same(umwelt, tmp_path):
    if not CPUS:
        pytest.skip("needs a CPU")
    tmp_path.chmod(0o755)
    (tmp_path / "nginx.conf").write_text(NGINX)
    built = build(tmp_path)
    table = [Row(row) for row in TABLE]
    for row in table:
        row.ask(umwelt, tmp_path, built)
    text = "\n".join(f"{'' if row.got == row.expected else 'WRONG':6}{row.program:26}"
                     f"{row.question:34}{row.expected!s:12}{row.got}" for row in table)
    print(f"\n{'':6}{'PROGRAM':26}{'QUESTION':34}{'EXPECTED':12}GOT\n{text}")
    wrong = [row for row in table if row.got != row.expected]
    assert not wrong, f"\n{text}"
    assert sum(row.got != "not there" for row in table) >= 30, text
