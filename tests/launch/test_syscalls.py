# SPDX-License-Identifier: Apache-2.0
"""The syscalls of a container say what its files say."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from umwelt import CPUS, SLOWNESS, UMWELT, parent_of, runs

PROGRAMS = pathlib.Path(__file__).parent / "programs"
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
CPU = CPUS[-1]
BYTES = 256 << 20
LIMITS = ("--cpuset", CPU, "--cpus", "0.5", "--memory", "256M", "--memory-swap", "256M")
SECONDS = float(os.environ.get("UMWELT_TEST_SECONDS", "4"))


def compile_c(folder, name, *command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    program = folder / name
    done = subprocess.run([*command, "-O1", "-o", program, PROGRAMS / "calls.c"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs a {' '.join(command)} that links: {done.stderr.strip()[-200:]}")
    if not runs(program):
        pytest.skip(f"needs a kernel that runs what {' '.join(command)} makes")
    return program


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("calls")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def calls(folder):
    return compile_c(folder, "calls", "gcc", "-pthread", "-static")


def answers(text):
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def show(umwelt, calls, *options):
    text = umwelt.run(*options, "-v", f"{calls.parent}:/x:ro", "--", f"/x/{calls.name}", "show")
    return answers(text)


def check(said):
    assert said["totalram"] == str(BYTES)
    assert 0 < int(said["freeram"]) < BYTES
    assert (said["affinity"], said["cpu"], said["set_all"]) == ("0", "0", "0")
    assert said["bufferram"] == "0" and said["totalswap"] == "0"
    assert int(said["uptime"]) < 60 * SLOWNESS
    assert float(said["load"]) < 1
    assert int(said["procs"]) <= 3


@pytest.mark.vm
def test_native(umwelt, calls):
    check(show(umwelt, calls, *LIMITS))


def test_32_bit(umwelt, folder):
    check(show(umwelt, compile_c(folder, "calls32", "gcc", "-m32", "-pthread", "-static"), *LIMITS))


def test_static_musl(umwelt, folder):
    check(show(umwelt, compile_c(folder, "calls-musl", "musl-gcc", "-static"), *LIMITS))


def test_off_is_the_kernels_own(umwelt, calls):
    said = show(umwelt, calls, "--intercept", "off", *LIMITS)
    assert int(said["totalram"]) > BYTES
    assert said["affinity"] == str(CPU)


@pytest.mark.vm
def test_numbers_are_dense_only_when_they_are_answered(umwelt):
    show_ids = "cat /sys/devices/system/cpu/online; grep ^processor /proc/cpuinfo"
    for option, cpu in (("on", 0), ("off", CPU)):
        said = umwelt.sh("--intercept", option, "--cpuset", CPU, show_ids)
        assert re.findall(r"\d+", said) == [str(cpu)] * 2, option


def test_files_and_calls_agree(umwelt, calls):
    script = ("while read key value rest; do case $key in MemTotal:|Shmem:|Buffers:|SwapTotal:) "
              "echo $key$value;; esac; done </proc/meminfo; /x/calls show")
    said = umwelt.sh(*LIMITS, "-v", f"{calls.parent}:/x:ro", "--tmpfs", "/shm", script)
    files = dict(re.findall(r"^(\w+):(\d+)", said, re.M))
    syscalls = answers(said)
    for key, name in (("MemTotal", "totalram"), ("Buffers", "bufferram"),
                      ("SwapTotal", "totalswap"), ("Shmem", "sharedram")):
        assert int(files[key]) * 1024 == int(syscalls[name]), key


def test_exec_and_init(umwelt, calls):
    with umwelt.detached("--init", *LIMITS, "-v", f"{calls.parent}:/x:ro", "--", "sleep",
                         "1000") as name:
        check(answers(umwelt.ok("exec", name, "/x/calls", "show")))
        check(answers(umwelt.ok("exec", "--user", "nobody", name, "/x/calls", "show")))


def test_a_quota_counts_but_does_not_bind(umwelt):
    if len(CPUS) < 2:
        pytest.skip("needs 2 CPUs")
    with umwelt.detached("--cpus", "0.5", "--", "sleep", "1000") as name:
        assert umwelt.ok("exec", name, "nproc") == "1\n"
        pid = umwelt.launched(name)["init_pid"]
        assert os.sched_getaffinity(pid) == set(CPUS)


def test_affinity_is_set_on_the_real_task(umwelt):
    if len(CPUS) < 2:
        pytest.skip("needs 2 CPUs")
    first, last = CPUS[0], CPUS[-1]
    with umwelt.detached("--cpuset", f"{first},{last}", "--", "sleep", "1000") as name:
        pid = umwelt.launched(name)["init_pid"]
        assert umwelt.ok("exec", name, "taskset", "-p", "-c", "1", "1").endswith(
            "new affinity list: 1\n")
        assert os.sched_getaffinity(pid) == {last}
        assert "affinity mask: 2" in umwelt.ok("exec", name, "taskset", "-p", "1")
        # Children and programs that are executed have it too.
        assert umwelt.ok("exec", name, "taskset", "-c", "0", "sh", "-c", "nproc; taskset -p $$"
                         ).splitlines()[0] == "1"
        refused = umwelt("exec", name, "taskset", "-p", "-c", "2", "1")
        assert refused.returncode == 1 and "Invalid argument" in refused.stderr
        absent = umwelt("exec", name, "taskset", "-p", "999999")
        assert absent.returncode == 1 and "No such process" in absent.stderr
        alien = umwelt("exec", "--user", "nobody", name, "taskset", "-p", "-c", "0", "1")
        assert alien.returncode == 1 and "Operation not permitted" in alien.stderr
        assert os.sched_getaffinity(pid) == {last}
        umwelt.ok("exec", name, "taskset", "-p", "-c", "0-63", "1")
        assert os.sched_getaffinity(pid) == {first, last}


def test_affinity_survives_a_change_of_limits(umwelt):
    if len(CPUS) < 2:
        pytest.skip("needs 2 CPUs")
    first, last = CPUS[0], CPUS[-1]
    with umwelt.detached("--cpuset", f"{first},{last}", "--", "sleep", "1000") as name:
        pid = umwelt.launched(name)["init_pid"]
        umwelt.ok("exec", name, "taskset", "-p", "-c", "1", "1")
        umwelt.ok("update", "--cpuset-cpus", str(first), name)
        assert os.sched_getaffinity(pid) == {first}
        assert "list: 0" in umwelt.ok("exec", name, "taskset", "-pc", "1")
        umwelt.ok("update", "--cpuset-cpus", f"{first},{last}", name)
        assert os.sched_getaffinity(pid) == {last}
        assert "list: 1" in umwelt.ok("exec", name, "taskset", "-pc", "1")
        umwelt.ok("update", "--cpus", "1", name)
        assert "list: 0" in umwelt.ok("exec", name, "taskset", "-pc", "1")


OWN_LISTENER = r"""
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
  struct sock_filter code[] = {{6, 0, 0, SECCOMP_RET_ALLOW}};
  struct sock_fprog program = {1, code};
  long fd = syscall(SYS_seccomp, 1, 8ul, &program);
  printf("listener=%d\n", fd < 0 ? errno : 0);
  long plain = syscall(SYS_seccomp, 1, 0ul, &program);
  printf("filter=%d\n", plain < 0 ? errno : 0);
}
"""


def test_a_listener_of_its_own_is_refused_and_a_filter_is_not(umwelt, folder):
    source = folder / "own.c"
    source.write_text(OWN_LISTENER)
    subprocess.run(["gcc", "-static", "-o", folder / "own", source], check=True)
    run = ("-v", f"{folder}:/x:ro", "--", "/x/own")
    assert umwelt.run(*run) == "listener=16\nfilter=0\n"  # EBUSY
    assert umwelt.run("--intercept", "off", *run) == "listener=0\nfilter=0\n"


def below_a_listener(umwelt, *arguments):
    return subprocess.run([sys.executable, FIXTURES / "below_a_listener.py", UMWELT,
                           *map(str, arguments)],
                          env=umwelt.environment, text=True, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60 * SLOWNESS)


def test_below_a_listener_the_option_is_named(umwelt):
    command = ("--cpuset", CPU, "--", "sh", "-c", "nproc; cat /sys/devices/system/cpu/online")
    umwelt.ok("daemon", "start")
    before = umwelt.ok("ps", "--all", "--quiet")
    done = below_a_listener(umwelt, "run", "--rm", *command)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert done.stderr.count("\n") == 1 and "--intercept off" in done.stderr, done
    assert umwelt.ok("ps", "--all", "--quiet") == before
    done = below_a_listener(umwelt, "run", "--rm", "--intercept", "off", *command)
    assert (done.stdout, done.stderr) == (f"1\n{CPU}\n", ""), done
    done = below_a_listener(umwelt, "run", "--rm", "--views", "best-effort", *command)
    assert done.stdout == f"1\n{CPU}\n", done
    assert done.stderr.count("\n") == 1 and "--intercept off" in done.stderr, done
    finding = {entry["check"]: entry for entry in
               json.loads(below_a_listener(umwelt, "doctor", "--json").stdout)["findings"]}
    assert finding["system calls"]["level"] == "warning", finding


def daemon_pid(umwelt):
    return int((umwelt.runtime / "umweltd.lock").read_text())


def test_without_a_daemon_the_kernel_answers_and_then_a_new_one_does(umwelt, calls):
    with umwelt.detached(*LIMITS, "-v", f"{calls.parent}:/x:ro", "--", "sh", "-c",
                         "while :; do /x/calls show >/tmp/now; echo $? >>/tmp/now; "
                         "mv /tmp/now /tmp/last; sleep 0.05; done") as name:
        def last():
            return (umwelt.root(name) / "tmp/last").read_text()

        def wait_for(condition):
            deadline = time.monotonic() + 10 * SLOWNESS
            while not condition():
                assert time.monotonic() < deadline, last()
                time.sleep(0.05)

        def answered(by_us):
            """All of a run: one that asks just now may be answered by each."""
            said = answers(last())
            return ((said["totalram"], said["affinity"]) == (str(BYTES), "0") if by_us else
                    int(said["totalram"]) > BYTES and said["affinity"] == str(CPU))

        wait_for((umwelt.root(name) / "tmp/last").exists)
        assert answered(by_us=True)
        umwelt.ok("daemon", "stop", "--force")
        wait_for(lambda: answered(by_us=False))
        assert last().endswith("\n0\n")
        umwelt.ok("daemon", "start")
        wait_for(lambda: answered(by_us=True))
        assert last().endswith("\n0\n")


def test_a_daemon_that_came_unseen_gets_the_listener(umwelt, calls):
    """Whoever waits for the container finds one dead and the next one there at the same look."""
    with umwelt.detached(*LIMITS, "-v", f"{calls.parent}:/x:ro", "--", "sh", "-c",
                         "while :; do /x/calls show >/tmp/now && mv /tmp/now /tmp/last; "
                         "sleep 0.05; done") as name:
        last = umwelt.root(name) / "tmp/last"
        waits = parent_of(umwelt.launched(name)["init_pid"])
        os.kill(waits, signal.SIGSTOP)
        daemon = json.loads(umwelt.ok("daemon", "status", "--json"))
        os.kill(daemon["server"], signal.SIGSTOP)  # or it would start another keeper
        for pid in daemon["pid"], daemon["server"]:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10 * SLOWNESS
        while umwelt("daemon", "status").returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        umwelt.ok("daemon", "start")
        os.kill(waits, signal.SIGCONT)
        for _ in range(2):  # the first may have been asked before
            last.unlink(missing_ok=True)
            while not last.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        said = answers(last.read_text())
        assert (said["totalram"], said["affinity"]) == (str(BYTES), "0")


def test_killed_servers_lose_no_call(umwelt, calls):
    """Every answer is right, however often the server dies."""
    kills = int(os.environ.get("UMWELT_TEST_KILLS", "15"))
    cpus = min(len(CPUS), 2)
    command = ["run", "--rm", "--cpuset", ",".join(map(str, CPUS[:cpus])), "--memory", "256M",
               "-v", f"{calls.parent}:/x:ro", "--", "/x/calls", "hammer", "8", str(cpus),
               str(BYTES)]
    running = umwelt.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.readline() == "ready\n"
    killed = set()
    while running.poll() is None and len(killed) < kills:
        servers = [pid for pid in server_pids(umwelt) if pid not in killed]
        if not servers:
            time.sleep(0.05)  # the next one starts
            continue
        time.sleep(0.2 * SLOWNESS)
        os.kill(servers[0], signal.SIGKILL)
        killed.add(servers[0])
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60 * SLOWNESS)
    assert (running.returncode, err) == (0, ""), (out, err, killed)
    assert re.fullmatch(r"calls=[1-9]\d+ wrong=0\n", out), out
    assert len(killed) == kills
    print(f"\n{len(killed)} kills: {out.strip()}")


def server_pids(umwelt):
    """The processes that the keeper started."""
    keeper = daemon_pid(umwelt)
    children = pathlib.Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return [int(pid) for pid in children]


def test_the_same_as_a_bare_kernel(umwelt, calls):
    """Random calls, valid or not, have the same results and effects as outside."""
    seeds = os.environ.get("UMWELT_TEST_SEEDS", "1 2").split()
    all_cpus = ",".join(map(str, CPUS))
    if pathlib.Path("/sys/devices/system/cpu/possible").read_text().strip() != f"0-{len(CPUS) - 1}":
        pytest.skip("needs a machine whose CPUs are all there, from 0 on")
    for seed in seeds:
        bare = subprocess.run([calls, "random", seed, "2000"], capture_output=True, text=True)
        inside = umwelt.run("--cpuset", all_cpus, "-v", f"{calls.parent}:/x:ro", "--",
                            "/x/calls", "random", seed, "2000")
        different = [(a, b) for a, b in zip(bare.stdout.splitlines(), inside.splitlines())
                     if a != b]
        assert not different and len(bare.stdout.splitlines()) == 2000, different[:5]


RECORDED = pathlib.Path(__file__).parents[1] / "fixtures" / "affinity"


@pytest.mark.vm
@pytest.mark.parametrize(("count", "cpuset"), [(1, CPUS[-1:]), (3, CPUS[1:2] + CPUS[4:6])])
def test_the_same_as_a_kernel_with_so_many_cpus(umwelt, calls, count, cpuset):
    """The recording is a kernel's, without us, on a machine that has no other CPUs."""
    if len(cpuset) != count:
        pytest.skip("needs 8 CPUs")
    kernel = subprocess.run([calls, "show"], capture_output=True, text=True, check=True).stdout
    if answers(kernel)["affinity_bytes"] != "8":
        pytest.skip("needs a kernel with masks of 8 bytes, as the recorded one")
    recorded = (RECORDED / f"{count}cpu").read_text().splitlines()
    inside = umwelt.run("--cpuset", ",".join(map(str, cpuset)), "-v", f"{calls.parent}:/x:ro", "--",
                        "/x/calls", "random", "1", "2000").splitlines()
    different = [(a, b) for a, b in zip(recorded, inside) if a != b]
    print(f"\n{len(inside)} calls on CPUs {cpuset}: {len(different)} differ from {count} CPUs")
    assert not different and len(recorded) == len(inside) == 2000, different[:5]


def test_a_flood_harms_nobody_else(umwelt, calls):
    """Another container's calls in a loop leave the answers as they are; the cost is printed."""
    cost = ["--", "/x/calls", "cost", "getaffinity", "5000"]
    volume = ("-v", f"{calls.parent}:/x:ro")
    alone = umwelt.run(*volume, *cost)
    flood = umwelt.start("run", "--rm", "--cpuset", CPU, "--memory", "256M", *volume, "--",
                         "/x/calls", "hammer", "4", "1", str(BYTES), stdout=subprocess.PIPE)
    assert flood.stdout.readline() == "ready\n"
    beside = umwelt.run(*volume, *cost)
    flood.send_signal(signal.SIGTERM)
    out = flood.communicate(timeout=60 * SLOWNESS)[0]
    assert flood.returncode == 0 and re.fullmatch(r"calls=[1-9]\d+ wrong=0\n", out), out
    median = [int(re.search(r"p50=(\d+)", text)[1]) for text in (alone, beside)]
    print(f"\nmedian alone {median[0]} ns, beside a flood {median[1]} ns")
    assert median[1] < 50 * median[0]


def test_bad_programs_get_the_kernels_errors(umwelt, folder):
    source = folder / "bad.c"
    source.write_text("""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
  long null = syscall(SYS_sysinfo, 0L) == 0 ? 0 : errno;
  long kernel = syscall(SYS_sysinfo, -4096L) == 0 ? 0 : errno;
  long nothing = syscall(SYS_getcpu, 0L, 0L, 0L) == 0 ? 0 : errno;
  long bad = syscall(SYS_getcpu, 1L, 0L, 0L) == 0 ? 0 : errno;
  printf("%ld %ld %ld %ld\\n", null, kernel, nothing, bad);
}
""")
    subprocess.run(["gcc", "-static", "-o", folder / "bad", source], check=True)
    assert umwelt.run("-v", f"{folder}:/x:ro", "--", "/x/bad") == "14 14 0 14\n"
    assert UMWELT.exists()
