# SPDX-License-Identifier: Apache-2.0
"""Who a reader of the shared tree is: containers as other programs build them, none registered."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from umweltd import CPUS, SLOWNESS, SYS_CPU, V1, Cgroup, cpu_list, wait_until

pytestmark = pytest.mark.vm

MIB = 1 << 20


@pytest.fixture
def cgroups(daemon):
    """Makes cgroups; they go with the test, the inner ones first."""
    made = []

    def make(name, memory=None):
        made.append(Cgroup(name))
        if memory is not None:
            made[-1].set_memory(memory)
        return made[-1]

    yield make
    for cgroup in reversed(made):
        cgroup.remove()


def join(cgroup):
    return " && ".join(f"echo $$ > {root / cgroup.name}/cgroup.procs"
                       for root in cgroup.roots.values())


def run(script, *wrapper):
    return subprocess.run([*wrapper, "sh", "-ec", script], check=True, capture_output=True,
                          text=True, timeout=30 * SLOWNESS).stdout


def total_of(text):
    return int(re.search(r"MemTotal: +(\d+) kB", text)[1]) << 10


def meminfo(daemon):
    return f"cat {daemon.state}/proc/meminfo"


class Init:
    """The init of a new pid namespace, in a cgroup; it does nothing but reap."""

    def __init__(self, cgroup, *namespaces):
        self.process = subprocess.Popen(
            ["sh", "-ec", f'{join(cgroup)} && exec unshare "$@" sleep infinity', "sh", "--pid",
             "--fork", "--kill-child", *namespaces])
        wait_until(self.find, 10 * SLOWNESS)

    def find(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = children.read_text().split()
        self.pid = int(found[0]) if found else None
        return found and pathlib.Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n"

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()


def test_nested_cgroups_of_one_container(daemon, cgroups):
    """The root of the cgroup namespace, however deep the reader is in it; of limits the smallest."""
    outer = cgroups("outer", 300 * MIB)
    cgroups("outer/box", 200 * MIB)
    deep = cgroups("outer/box/sub", 100 * MIB)
    box = " && ".join(f"echo $$ > {root / outer.name}/box/cgroup.procs"
                      for root in outer.roots.values())
    if not V1:  # v2 has no processes where there are controllers below
        box = join(cgroups("outer/box2", 200 * MIB))
        deep = cgroups("outer/box2/sub")
    inside = run(f"{box}; exec unshare --cgroup --pid --fork sh -ec '{join(deep)}; {meminfo(daemon)}'"
                 if V1 else
                 f"{join(deep)}; {meminfo(daemon)}")
    assert total_of(inside) == 200 * MIB


def test_systemd_in_the_container(daemon, cgroups):
    """Its init moves to init.scope, its services to system.slice; all of them are the container."""
    cgroups("machine", 150 * MIB)
    scope = cgroups("machine/init.scope")
    service = cgroups("machine/system.slice", 50 * MIB)
    # An init moves itself, and starts a service that moves itself.
    text = run(f"{join(scope)}; {meminfo(daemon)}; "
               f"sh -ec '{join(service)}; {meminfo(daemon)}'; :", "unshare", "--pid", "--fork")
    totals = re.findall(r"MemTotal: +(\d+) kB", text)
    assert totals == [str(150 << 10)] * 2


def test_a_pod_that_shares_a_pid_namespace(daemon, cgroups):
    """The init is the pause container's; each container is its own below the pod."""
    cgroups("pod", 400 * MIB)
    pause = cgroups("pod/pause", 10 * MIB)
    apps = [cgroups(f"pod/app{n}", n * 64 * MIB) for n in (1, 2)]
    init = Init(pause)
    try:
        for n, app in enumerate(apps, 1):
            enter = f"exec nsenter --pid --target {init.pid}"
            assert total_of(run(f"{join(app)}; {enter} {meminfo(daemon)}")) == n * 64 * MIB
        inner = cgroups("pod/app2/inner", 20 * MIB) if V1 else None
        if inner:
            text = run(f"{join(inner)}; {enter} {meminfo(daemon)}")
            assert total_of(text) == 128 * MIB
    finally:
        init.end()


def test_a_registered_container_whose_init_has_moved_itself(daemon, cgroups):
    """As systemd and docker in docker do: the container is where its cgroup namespace begins."""
    box = cgroups("box", 120 * MIB)
    init = Init(box, "--cgroup")
    busy = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    folders = [root / box.name / name for root in box.roots.values() for name in ("init", "work")]
    try:
        for folder in folders:
            folder.mkdir()
            if (folder / "tasks").exists() and (folder / "cpuset.cpus").exists():
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text((folder.parent / file).read_text())
            process = init.pid if folder.name == "init" else busy.pid
            (folder / "cgroup.procs").write_text(str(process))
        daemon.call(op="register", record={"id": "box", "init_pid": init.pid})
        live = daemon.runtime / "live/box/proc"

        def user():
            return int((live / "stat").read_text().split()[1])

        def tasks():
            return int((live / "loadavg").read_text().split()[3].partition("/")[2])

        assert total_of((live / "meminfo").read_text()) == 120 * MIB
        first = user()
        wait_until(lambda: user() > first + 10, 20 * SLOWNESS)
        # unshare(1), which waits for the init, is in the container's own cgroup.
        assert tasks() == 3
        busy.kill()
        busy.wait()
        wait_until(lambda: tasks() == 2, 10 * SLOWNESS)
    finally:
        busy.kill()
        busy.wait()
        init.end()

        def removed():
            for folder in folders:
                if folder.exists():
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            return not any(folder.exists() for folder in folders)
        wait_until(removed, 10 * SLOWNESS)


def test_pid_namespace_of_the_host(daemon, cgroups):
    """docker run --pid=host: a cgroup namespace only. And without that: its own cgroup."""
    box = cgroups("box", 77 * MIB)
    text = run(f"{join(box)}; exec unshare --cgroup sh -ec '{meminfo(daemon)}'")
    assert total_of(text) == 77 * MIB
    assert total_of(run(f"{join(box)}; {meminfo(daemon)}")) == 77 * MIB


def test_outside_of_all_it_is_the_machine_also_in_new_namespaces(daemon):
    own = total_of(pathlib.Path("/proc/meminfo").read_text())
    assert total_of(run(meminfo(daemon))) == own
    assert total_of(run(meminfo(daemon), "unshare", "--pid", "--fork", "--cgroup")) == own


def test_a_cgroup_made_again_under_its_name_is_another_container(daemon, cgroups):
    first = cgroups("again", 60 * MIB)
    assert total_of(run(f"{join(first)}; {meminfo(daemon)}")) == 60 * MIB
    first.remove()
    second = cgroups("again", 90 * MIB)
    time.sleep(0.01)  # reads within 5 ms share a text
    assert total_of(run(f"{join(second)}; {meminfo(daemon)}")) == 90 * MIB


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_the_daemon_never_forks(daemon, cgroups, folder):
    log = folder / "strace"
    trace = subprocess.Popen(["strace", "-f", "-q", "-e", "trace=clone,clone3,fork,vfork,execve",
                              "-o", log, "-p", str(daemon.server_pid())], stderr=subprocess.DEVNULL)
    wait_until(lambda: re.search(r"TracerPid:\s+[1-9]", pathlib.Path(
        f"/proc/{daemon.server_pid()}/status").read_text()), 10 * SLOWNESS)
    for n in range(3):
        box = cgroups(f"fork{n}", 50 * MIB)
        run(f"{join(box)}; exec unshare --cgroup --pid --fork {meminfo(daemon)}")
        init = Init(box)
        run(f"{join(box)}; exec nsenter --pid --target {init.pid} {meminfo(daemon)}")
        init.end()
    trace.send_signal(signal.SIGINT)
    trace.wait()
    calls = [line for line in log.read_text().splitlines() if "(" in line and "resumed" not in line]
    assert all("CLONE_THREAD" in line for line in calls), calls


# What lxcfs's own tests ask (tests/test_meminfo_hierarchy.sh and so on).


def test_memory_hierarchy(daemon, cgroups):
    cgroups("h", 500 * MIB)
    cgroups("h/a", 200 * MIB)
    leaf = cgroups("h/a/b", 300 * MIB)
    assert total_of(run(f"{join(leaf)}; {meminfo(daemon)}")) == 200 * MIB


def test_swap_hierarchy(daemon, cgroups):
    top = cgroups("s", 100 * MIB)
    leaf = cgroups("s/t")
    file = "memory.memsw.limit_in_bytes" if V1 else "memory.swap.max"
    if not (top.folder("memory") / file).exists():
        pytest.skip("needs swap accounting")
    top.write("memory", file, 120 * MIB if V1 else 20 * MIB)
    text = run(f"{join(leaf)}; {meminfo(daemon)}; cat {daemon.state}/proc/swaps")
    host = int(re.search(r"SwapTotal: +(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    swap = int(re.search(r"SwapTotal: +(\d+)", text)[1])
    assert swap == min(host, 20 << 10)
    sizes = [int(line.split()[2]) for line in text[text.index("Filename"):].splitlines()[1:]]
    assert sum(sizes) == swap


@pytest.mark.skipif(len(CPUS) < 2, reason="needs 2 CPUs")
def test_cpuset_and_quota_hierarchy(daemon, cgroups):
    top = cgroups("c")
    leaf = cgroups("c/d")
    if V1:  # a cpuset can't be taken from below
        leaf.set_cpus(CPUS[-1])
    top.set_cpus(CPUS[-1])
    script = f"{join(leaf)}; cat {daemon.state}/{SYS_CPU}/online; grep -c ^processor " \
             f"{daemon.state}/proc/cpuinfo; grep -c '^cpu[0-9]' {daemon.state}/proc/stat"
    assert run(script).split() == [str(CPUS[-1]), "1", "1"]
    top.set_cpus(",".join(map(str, CPUS)))
    if V1:
        leaf.set_cpus(",".join(map(str, CPUS)))
    top.set_quota(1)
    leaf.set_quota(0.9)
    # Limits that nobody registered are read again after 0.1 s.
    wait_until(lambda: run(script).split() == [str(CPUS[0]), "1", "1"], 5 * SLOWNESS)
    # An ancestor's is the smaller one.
    leaf.set_quota(None)
    time.sleep(0.2)
    assert run(script).split() == [str(CPUS[0]), "1", "1"]


def test_uptime_at_the_start_and_the_shape_of_stat(daemon, cgroups):
    box = cgroups("young", 50 * MIB)
    begun = time.monotonic()
    text = run(f"{join(box)}; exec unshare --pid --fork sh -c "
               f"'cat {daemon.state}/proc/uptime {daemon.state}/proc/stat'")
    first, *stat = text.splitlines()
    up, idle = map(float, first.split())
    assert 0 <= up <= time.monotonic() - begun + 1
    assert 0 <= idle <= (up + 1) * len(CPUS)
    own = pathlib.Path("/proc/stat").read_text().splitlines()
    names = lambda lines: [line.split()[0] for line in lines if not re.match(r"cpu\d", line)]
    assert names(stat) == names(own)
    assert len(stat[0].split()) == len(own[0].split())
    assert len(cpu_list(",".join(re.findall(r"^cpu(\d+)", text, re.M)))) == len(CPUS)


def test_a_hundred_reads_are_never_empty(daemon, cgroups):
    box = cgroups("often", 50 * MIB)
    for file in ("meminfo", "stat", "cpuinfo", "uptime", "swaps"):
        sizes = run(f"{join(box)}; for i in $(seq 100); do cat {daemon.state}/proc/{file} | wc -c; "
                    "done").split()
        assert len(sizes) == 100 and int(min(sizes, key=int)) > 0
