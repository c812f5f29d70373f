# SPDX-License-Identifier: Apache-2.0
"""Real programs in a container with one CPU and 256 MiB: what each must print, and what it printed.
The whole table is shown when one of them is wrong, and with -s."""

import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from umwelt import CPUS, REQUIRED, SLOWNESS, Terminal

CPU = CPUS[-1]
LIMITS = ("--cpuset", CPU, "--memory", "256M", "--memory-swap", "256M")
BYTES = 256 << 20

NGINX = """
worker_processes auto;
pid /tmp/nginx.pid;
error_log /dev/null;
events { worker_connections 64; }
"""
NODE = ("const os = require('os'); console.log('cpus=' + os.cpus().length, 'total=' + "
        "os.totalmem(), 'fits=' + (os.freemem() <= os.totalmem()), 'young=' + (os.uptime() < 60),"
        "'load=' + (os.loadavg()[0] < 1))")
PYTHON = """import os
print(f"cpus={os.cpu_count()} affinity={len(os.sched_getaffinity(0))}")
"""
GO = """package main

import (
  "fmt"
  "runtime"
)

func main() { fmt.Printf("cpus=%d procs=%d\\n", runtime.NumCPU(), runtime.GOMAXPROCS(0)) }
"""


class Row:
    def __init__(self, program, what, command, pattern, expected, options=()):
        self.program, self.what, self.command = program, what, command
        self.pattern, self.expected, self.options = pattern, str(expected), options
        self.got = "not run"

    @property
    def right(self):
        return self.got == self.expected

    def ask(self, umwelt, folder):
        done = umwelt("run", "--rm", *LIMITS, "-v", f"{folder}:/x:ro", *self.options, "--",
                      "sh", "-c", self.command, timeout=120 * SLOWNESS)
        output = done.stdout + done.stderr
        found = re.search(self.pattern, output, re.M)
        self.got = found[1] if found else f"exit {done.returncode}: {output.strip()[-160:]!r}"


def java_rows():
    settings = "java -XshowSettings:system -version"
    flags = "java -XX:+PrintFlagsFinal -version 2>/dev/null"
    without = "java -XX:-UseContainerSupport -XX:+PrintFlagsFinal -version 2>/dev/null"
    return [
        Row("java", "CPUs", settings, r"Effective CPU Count: (\S+)", 1),
        # On a machine of 256 MiB, which sysinfo(2) tells it is on, that is no limit.
        Row("java", "memory", settings, r"Memory Limit: (\S+)", "Unlimited"),
        Row("java, --intercept off", "memory", settings, r"Memory Limit: (\S+)", "256.00M",
            ("--intercept", "off")),
        Row("java", "heap fits", f"{flags} | awk '/ MaxHeapSize /{{print \"fits=\" ($4 <= {BYTES})}}'",
            r"fits=(\d)", 1),
        Row("java -UseContainerSupport", "CPUs: serial collector", without,
            r" UseSerialGC += (\w+)", "true"),
    ]


def rows():
    stat = "awk '/^cpu[0-9]/{n++} END{print \"cpus=\" n}' /proc/stat"
    return {
        "java": java_rows(),
        "go": [Row("go", "NumCPU", "/x/go-program", r"cpus=(\d+)", 1),
               Row("go", "GOMAXPROCS", "/x/go-program", r"procs=(\d+)", 1)],
        "nginx": [Row("nginx", "worker_processes auto",
                      "nginx -c /x/nginx.conf && "
                      "until ps ax | grep -q '[n]ginx: worker'; do sleep 0.1; done; sleep 0.5; "
                      "echo workers=$(ps ax | grep -c '[n]ginx: worker')", r"workers=(\d+)", 1)],
        "node": [Row("node", "os.cpus().length", f"node -e \"{NODE}\"", r"cpus=(\d+)", 1),
                 Row("node", "os.totalmem()", f"node -e \"{NODE}\"", r"total=(\d+)", BYTES),
                 Row("node", "os.freemem() fits", f"node -e \"{NODE}\"", r"fits=(\w+)", "true"),
                 Row("node", "os.uptime() < 60", f"node -e \"{NODE}\"", r"young=(\w+)", "true"),
                 Row("node", "os.loadavg() < 1", f"node -e \"{NODE}\"", r"load=(\w+)", "true")],
        "python3": [Row("python", "os.cpu_count()", "/usr/bin/python3 /x/program.py",
                        r"cpus=(\d+)", 1),
                    Row("python", "sched_getaffinity", "/usr/bin/python3 /x/program.py",
                        r"affinity=(\d+)", 1)],
        "nproc": [Row("nproc", "", "echo cpus=$(nproc)", r"cpus=(\d+)", 1)],
        "getconf": [Row("getconf", "_NPROCESSORS_ONLN", "echo cpus=$(getconf _NPROCESSORS_ONLN)",
                        r"cpus=(\d+)", 1)],
        "free": [Row("free -b", "total", "free -b", r"^Mem: +(\d+)", BYTES),
                 Row("free -b", "adds up",
                     "free -bw | awk '/^Mem/{print \"adds=\" ($3 <= $2 && $4 <= $2 && "
                     "$8 <= $2 && $4 + $6 + $7 <= $2)}'", r"adds=(\d)", 1),
                 Row("free -b", "swap", "free -b", r"^Swap: +(\d+)", 0)],
        "top": [Row("top -b", "memory", "top -b -n1", r"MiB Mem : +([\d.]+) total", "256.0"),
                Row("top -b", "up", "top -b -n1", r"up +(\d+) min", 0),
                Row("top -b -1", "CPU lines", "echo cpus=$(top -b -1 -n1 | grep -c '^%Cpu[0-9]')",
                    r"cpus=(\d+)", 1),
                Row("top -b", "tasks fit", "top -b -n1", r"Tasks: +([1-5]) total", 2)],
        "vmstat": [Row("vmstat -s", "memory", "vmstat -s", r"(\d+) K total memory", 262144),
                   Row("vmstat", "a line", "vmstat 1 2 | tail -1 | wc -w", r"^(\d+)$", 17)],
        "uptime": [Row("uptime", "up", "uptime", r"up +(\d+) min", 0)],
        "ps": [Row("ps -o etimes", "age of pid 1 < 60",
                   "ps -o etimes= -p 1 | awk '{print \"young=\" ($1 >= 0 && $1 < 60)}'",
                   r"young=(\d)", 1),
               Row("ps -o lstart", "is now",
                   "a=$(date -d \"$(ps -o lstart= -p 1)\" +%s); b=$(date +%s); "
                   "echo now=$((b - a < 60 && a - b < 60))", r"now=(\d)", 1)],
        "lscpu": [Row("lscpu", "on-line", "lscpu", r"On-line CPU\(s\) list: +(\S+)", 0),
                  Row("lscpu -p", "lines", "echo cpus=$(lscpu -p | grep -vc '^#')",
                      r"cpus=(\d+)", 1)],
        "mpstat": [Row("mpstat", "header", "mpstat", r"\((\d+) CPU\)", 1),
                   Row("mpstat -P ALL", "rows",
                       "echo cpus=$(mpstat -P ALL 1 1 | grep -c '^Average: *[0-9]')",
                       r"cpus=(\d+)", 1)],
        "awk": [Row("/proc/stat", "CPU lines", stat, r"cpus=(\d+)", 1)],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("programs")
    (path / "nginx.conf").write_text(NGINX)
    (path / "program.py").write_text(PYTHON)
    if shutil.which("go"):
        (path / "program.go").write_text(GO)
        subprocess.run(["go", "build", "-o", path / "go-program", path / "program.go"], check=True,
                       cwd=path, env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"})
    return path


def table(all_rows):
    cells = [("program", "what", "must print", "printed", "")]
    cells += [(r.program, r.what, r.expected, r.got, "" if r.right else "WRONG") for r in all_rows]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths + [0])).rstrip()
                     for row in cells)


@pytest.mark.timeout(600 * SLOWNESS)
def test_programs(umwelt, folder):
    asked, missing = [], []
    for program, program_rows in rows().items():
        if shutil.which(program) is None and not pathlib.Path(f"/usr/sbin/{program}").exists():
            missing.append(program)
            continue
        for row in program_rows:
            row.ask(umwelt, folder)
            asked.append(row)
    print("\n" + table(asked))
    assert not missing or not {"all", "programs", *missing} & REQUIRED, f"missing: {missing}"
    if missing:
        print(f"not installed: {', '.join(missing)}")
    assert all(row.right for row in asked), "\n" + table(asked)


def test_htop(umwelt):
    if shutil.which("htop") is None:
        pytest.skip("needs htop")
    terminal = Terminal(umwelt, "run", "--rm", "-it", *LIMITS, "--", "htop", "-C", "-d", "5")
    terminal.read_until("256M")
    time.sleep(1)
    terminal.write("q")
    assert terminal.wait() == 0


@pytest.mark.skipif(len(CPUS) < 2, reason="needs 2 CPUs")
def test_a_quota_alone(umwelt):
    """Programs that ask a file; sched_getaffinity knows no quota."""
    python, getconf, stat = umwelt.sh(
        "--cpus", "0.5", "/usr/bin/python3 -c 'import os; print(os.cpu_count())'; "
        "getconf _NPROCESSORS_ONLN; grep -c '^cpu[0-9]' /proc/stat").split()
    assert (python, getconf, stat) == ("1", "1", "1")
