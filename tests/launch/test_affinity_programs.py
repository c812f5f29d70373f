# SPDX-License-Identifier: Apache-2.0
"""Programs that pin themselves, by the CPU numbers that the container shows."""

import contextlib
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from umwelt import CPUS, SLOWNESS, cpu_list

# 4 and 7 of 8.
TWO = sorted({CPUS[len(CPUS) // 2], CPUS[-1]} | {CPUS[0]} if len(CPUS) < 3
             else {CPUS[len(CPUS) // 2], CPUS[-1]})
CPUSET = ",".join(map(str, TWO))

pytestmark = [pytest.mark.vm,
              pytest.mark.skipif(len(TWO) < 2, reason="needs 2 CPUs")]


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def allowed(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return cpu_list(re.search(r"Cpus_allowed_list:\s*(\S*)", status)[1])


def descendants(pid):
    children = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                children += [int(child), *descendants(child)]
    return children


def pinned_workers(init):
    with contextlib.suppress(OSError):
        return sorted(allowed(pid) for pid in descendants(init)
                      if b"worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
    return []


def run(umwelt, *command, options=()):
    return umwelt.run("--cpuset", CPUSET, *options, "--", *command, timeout=120 * SLOWNESS)


@pytest.mark.parametrize("masks", ["auto", "01 10"])
def test_nginx_workers(umwelt, tmp_path, masks):
    need("nginx")
    tmp_path.chmod(0o755)
    workers = "auto" if masks == "auto" else "2"
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; user root; pid /tmp/pid; error_log /tmp/log; worker_processes {workers};\n"
        f"worker_cpu_affinity {masks}; events {{}}\n")
    with umwelt.detached("--cpuset", CPUSET, "-v", f"{tmp_path}:/x:ro", "--", "sh", "-c",
                         "nginx -c /x/nginx.conf; sleep 1000") as name:
        init = umwelt.launched(name)["init_pid"]
        deadline = time.monotonic() + 20 * SLOWNESS
        while (pinned := pinned_workers(init)) != [[cpu] for cpu in TWO]:
            assert time.monotonic() < deadline, pinned
            time.sleep(0.1)
        log = umwelt.root(name) / "tmp/log"
        assert "alert" not in (log.read_text() if log.exists() else "")


def test_taskset(umwelt):
    need("taskset")
    said = run(umwelt, "sh", "-c", "taskset -pc $$; taskset -c 1 taskset -pc 1; "
               "taskset -c 1 sh -c 'taskset -pc $$; nproc'")
    assert re.findall(r"list: (\S+)", said) == ["0,1", "0,1", "1"]
    assert said.endswith("\n1\n")


def test_numactl(umwelt):
    need("numactl")
    assert "physcpubind: 0 1" in run(umwelt, "numactl", "-s")
    said = run(umwelt, "sh", "-c", "numactl -C 1 sh -c 'nproc; taskset -pc $$'; "
               "numactl --all -C 1 sh -c 'nproc; taskset -pc $$'; numactl -C 0,1 nproc; "
               "cd /sys/devices/system/cpu/cpu0/node*; node=$(basename $(pwd -P)); "
               "numactl -N ${node#node} nproc; numactl -m 0 nproc")
    assert re.fullmatch(r"1\n.*list: 1\n1\n.*list: 1\n2\n[12]\n2\n", said), said
    for asked in (["-C", "2"], ["--all", "-C", "2"]):
        refused = umwelt("run", "--rm", "--cpuset", CPUSET, "--", "numactl", *asked, "true")
        assert refused.returncode != 0, asked
    bound = run(umwelt, "numactl", "-C", str(TWO[1]), "sh", "-c", "nproc; taskset -pc $$",
                options=("--intercept", "off"))
    assert bound.startswith("1\n") and bound.endswith(f"list: {TWO[1]}\n")


USER = ("unshare", "--user", "--map-root-user")
COVERED = """
numactl -C 0 sh -c '
    echo $$ $PPID
    for file in status task/$$/status; do
        sed -n "/^\\([UG]id\\|Groups\\)/p" /proc/$$/$file | cksum
    done | uniq | wc -l
    sed -n "s/^\\(Tgid\\|Pid\\|PPid\\|NSpid\\|Cpus_allowed_list\\):\\t/\\1 /p" /proc/$$/status
    cmp /proc/$$/status /proc/$$/task/$$/status | wc -l
    ps -p $$ -o pid=,ppid=,comm='
grep -c /status /proc/self/mountinfo
"""


@pytest.mark.parametrize("inside", [(), USER], ids=["plain", "user-namespace"])
def test_the_status_of_a_program_that_uses_libnuma(umwelt, inside):
    """libnuma takes the CPUs that it allows from /proc/self/status alone."""
    need("numactl")
    said = umwelt("run", "--rm", "--cpuset", str(TWO[1]), "--", *inside, "sh", "-c", COVERED)
    lines = said.stdout.splitlines()
    pid, parent = lines[0].split()
    assert lines[1:] == ["1", f"Tgid {pid}", f"Pid {pid}", f"PPid {parent}", f"NSpid {pid}",
                         "Cpus_allowed_list 0", "1", f"{pid:>7} {parent:>7} sh", "0"], said


# What a process has just changed, and one that has ended and waits for its parent.
FRESH = """
import ctypes, os, re, signal, time
libc = ctypes.CDLL(None)
PR_SET_NAME, LIBNUMAS = 15, 4096 // 8

def text_of(path, name):
    with open(path) as status:
        return re.search(f"^{name}:\\t(.*)$", status.read(), re.M)[1]

libc.sched_getaffinity(0, LIBNUMAS, ctypes.create_string_buffer(LIBNUMAS))
names = [f"name{i}" for i in range(100)]
seen = []
for name in names:
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    seen.append(text_of("/proc/self/status", "Name"))
print(seen == names, text_of("/proc/self/status", "Cpus_allowed_list"))
child = os.fork()
if child == 0:
    libc.sched_getaffinity(0, LIBNUMAS, ctypes.create_string_buffer(LIBNUMAS))
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
with open("/proc/self/mountinfo") as mounts:
    print(f" /proc/{child}/status " in mounts.read())
print(text_of(f"/proc/{child}/status", "State"), text_of(f"/proc/{child}/status", "PPid"))
"""


def test_the_status_is_of_now_and_stays_until_the_parent_waits(umwelt):
    said = umwelt("run", "--rm", "--cpuset", str(TWO[1]), "--", "python3", "-c", FRESH)
    assert said.stdout == "True 0\nTrue\nZ (zombie) 1\n", said


def test_hwloc(umwelt):
    need("lstopo-no-graphics")
    topology = run(umwelt, "lstopo-no-graphics", "--of", "console")
    assert re.findall(r"PU L#\d+ \(P#(\d+)\)", topology) == ["0", "1"]
    bound = run(umwelt, "hwloc-bind", "pu:1", "--", "sh", "-c", "nproc; taskset -pc $$")
    assert bound.startswith("1\n") and bound.endswith("list: 1\n")


def test_openmp_places(umwelt, tmp_path):
    source = tmp_path / "places.c"
    source.write_text("""
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>
#include <stdio.h>
int main(void) {
  #pragma omp parallel
  {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    #pragma omp critical
    for (int cpu = 0; cpu < 64; ++cpu)
      if (CPU_ISSET(cpu, &set)) printf("thread %d of %d: %d\\n", omp_get_thread_num(),
                                       omp_get_num_threads(), cpu);
  }
}
""")
    done = subprocess.run(["gcc", "-fopenmp", "-o", tmp_path / "places", source])
    if done.returncode != 0:
        pytest.skip("needs gcc with OpenMP")
    tmp_path.chmod(0o755)
    said = run(umwelt, "/x/places", options=("-v", f"{tmp_path}:/x:ro", "--env",
                                             "OMP_PLACES=cores", "--env",
                                             "OMP_PROC_BIND=close"))
    # Two CPUs may be one core.
    assert re.findall(r"thread \d of 2", said) and set(re.findall(r": (\d+)", said)) == {"0", "1"}


def test_java_with_numa(umwelt):
    need("java")
    assert "Effective CPU Count: 2" in umwelt(
        "run", "--rm", "--cpuset", CPUSET, "--", "java", "-XX:+UseNUMA", "-XX:+UseParallelGC",
        "-XshowSettings:system", "-version", timeout=240 * SLOWNESS).stderr.replace("  ", " ")
