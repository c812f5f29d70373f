# SPDX-License-Identifier: Apache-2.0
"""Programs that ask in different ways which CPUs there are agree, in both numberings: one CPU that is
not the first, or CPUs that are not neighbours. The table is shown with -s; docs/programs.md has it."""

import os
import re
import shutil
import subprocess

import pytest

from umwelt import CPUS, REQUIRED, SLOWNESS, Terminal, cpu_list

pytestmark = [pytest.mark.vm, pytest.mark.skipif(len(CPUS) < 2, reason="needs 2 CPUs")]

SET = "1,4-5" if len(CPUS) >= 8 else str(CPUS[-1])
IDS = cpu_list(SET)
POSSIBLE = cpu_list(open("/sys/devices/system/cpu/possible").read())
NUMBERS = r"\d+(?:[-,]\d+)*"
GO = """package main

import (
  "fmt"
  "runtime"
)

func main() { fmt.Println("cpus", runtime.NumCPU(), runtime.GOMAXPROCS(0)) }
"""
JAVA = """class Cpus {
  public static void main(String[] a) {
    System.out.println("cpus " + Runtime.getRuntime().availableProcessors());
  }
}
"""

# Options, the shown ids, and the ids that there could be.
NUMBERINGS = {
    "dense": ((), list(range(len(IDS))), list(range(len(IDS)))),
    "host": (("--intercept", "off"), IDS, POSSIBLE),
}

# program, what is asked, command, pattern of each answer, what must come out
COUNT, WHICH, ALL = "count", "which", "all"
ROWS = [
    ("nproc", "nproc", "nproc", r"^(\d+)$", COUNT),
    ("nproc", "nproc --all", "nproc --all", r"^(\d+)$", ALL),
    ("lscpu", "lscpu, on-line list", "lscpu", rf"On-line CPU\(s\) list: +({NUMBERS})", "ids"),
    ("lscpu", "lscpu -p", "lscpu -p=CPU", r"^(\d+)$", WHICH),
    ("lscpu", "lscpu, NUMA nodes", "lscpu", rf"NUMA node\d+ CPU\(s\): +({NUMBERS})", "ids"),
    ("mpstat", "mpstat -P ALL 1 1", "mpstat -P ALL 1 1", r"^Average: +(\d+) ", WHICH),
    ("mpstat", "mpstat, heading", "mpstat", r"\((\d+) CPU\)", COUNT),
    ("sar", "sar -u 1 1, heading", "sar -u 1 1", r"\((\d+) CPU\)", COUNT),
    ("sar", "sar -P ALL 1 1", "sar -P ALL -u 1 1", r"^Average: +(\d+) ", WHICH),
    ("lstopo-no-graphics", "lstopo, PUs", "lstopo-no-graphics", r"PU L#\d+ \(P#(\d+)\)|PU P#(\d+)",
     WHICH),
    ("numactl", "numactl -H, CPUs of nodes", "numactl -H", r"^node \d+ cpus: ([\d ]+)$", "words"),
    ("node", "Node os.cpus().length", "node -p 'require(\"os\").cpus().length'", r"^(\d+)$", COUNT),
    ("java", "JVM availableProcessors()", "java -cp /x -Xshare:auto Cpus", r"^cpus (\d+)$", COUNT),
    ("python3", "Python os.cpu_count()", "/usr/bin/python3 -c 'import os; print(os.cpu_count())'",
     r"^(\d+)$", COUNT),
    ("python3", "Python sched_getaffinity(0)",
     "/usr/bin/python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep=\"\\n\")'",
     r"^(\d+)$", WHICH),
    ("go", "Go NumCPU()", "/x/cpus", r"^cpus (\d+) ", COUNT),
    ("getconf", "getconf _NPROCESSORS_ONLN", "getconf _NPROCESSORS_ONLN", r"^(\d+)$", COUNT),
    ("awk", "processors in cpuinfo", "cat /proc/cpuinfo", r"^processor\s*: (\d+)$", WHICH),
    ("awk", "CPU lines in stat", "cat /proc/stat", r"^cpu(\d+) ", WHICH),
    ("awk", "columns of interrupts", "head -1 /proc/interrupts", r"CPU(\d+)", WHICH),
]


def answer(output, pattern, expected, shown, possible):
    found = [next(group for group in match.groups() if group is not None)
             for match in re.finditer(pattern, output, re.M)]
    if expected == "ids":
        return sorted(sum((cpu_list(text) for text in found), [])), shown
    if expected == "words":
        return sorted(int(word) for text in found for word in text.split()), shown
    return sorted(map(int, found)), {COUNT: [len(shown)], WHICH: shown, ALL: [len(possible)]}[expected]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("programs")
    (path / "Cpus.java").write_text(JAVA)
    if shutil.which("javac"):
        subprocess.run(["javac", "Cpus.java"], cwd=path, check=True)
    (path / "cpus.go").write_text(GO)
    if shutil.which("go"):
        subprocess.run(["go", "build", "-o", path / "cpus", path / "cpus.go"], check=True, cwd=path,
                       env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"})
    return path


def ask(run, rows):
    """(exit code, output) of every row's command, all in one place: emulated CPUs start slowly."""
    script = "".join(f"echo '@@{i}'; {{ {row[2]}; }} 2>&1; echo \"@@$?\"\n"
                     for i, row in enumerate(rows))
    said = re.findall(r"^@@(\d+)\n(.*?)@@(\d+)$", run(script), re.M | re.S)
    assert [int(i) for i, _, _ in said] == list(range(len(rows))), said
    return [(int(code), output) for _, output, code in said]


@pytest.fixture(scope="module")
def installed(folder):
    """The rows whose program is here."""
    rows = [row for row in ROWS if shutil.which(row[0]) and
            (row[0] != "java" or (folder / "Cpus.class").exists())]
    missing = sorted({row[0] for row in ROWS if row not in rows})
    assert not missing or not {"all", "programs", *missing} & REQUIRED, f"missing: {missing}"
    if missing:
        print(f"not installed: {', '.join(missing)}")
    return rows


@pytest.fixture(scope="module")
def outside(folder, installed):
    return ask(lambda script: subprocess.run(["sh", "-c", script.replace("/x", str(folder))],
                                             capture_output=True, text=True).stdout, installed)


@pytest.mark.timeout(900 * SLOWNESS)
@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_all_agree_and_none_aborts(umwelt, folder, installed, outside, numbering):
    options, shown, possible = NUMBERINGS[numbering]
    inside = ask(lambda script: umwelt.run("--cpuset-cpus", SET, *options, "-v", f"{folder}:/x:ro",
                                           "--", "sh", "-c", script, timeout=600 * SLOWNESS),
                 installed)
    print(f"\n--cpuset-cpus {SET} of {len(CPUS)}, {numbering} numbering")
    wrong = []
    for row, host, (code, output) in zip(installed, outside, inside):
        _, what, _, pattern, expected = row
        got, wanted = answer(output, pattern, expected, shown, possible)
        show = lambda ids: ",".join(map(str, ids)) or "-"
        print(f"| {what} | {show(answer(host[1], pattern, expected, shown, possible)[0])} | "
              f"{show(got)} |", flush=True)
        if code != 0 or got != wanted:
            wrong.append((what, got, wanted, code, output[-300:]))
    assert not wrong, wrong


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_htop_shows_the_same(umwelt, numbering):
    """As many bars as CPUs; a number below that is not there is "offline"."""
    if shutil.which("htop") is None:
        pytest.skip("needs htop")
    options, shown, _ = NUMBERINGS[numbering]
    terminal = Terminal(umwelt, "run", "--rm", "-it", "--cpuset-cpus", SET, *options, "--", "htop",
                        "-C", "-d", "5")
    terminal.read_until("F10")
    terminal.write("q")
    assert terminal.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\(B|\x0f", "", terminal.output)
    bars = plain[:plain.index("Mem[")]
    assert len(re.findall(r"\[[^\[\]]*\d%\]", bars)) == len(shown), bars
    assert bars.count("offline") == max(shown) + 1 - len(shown), bars
