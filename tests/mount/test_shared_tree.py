# SPDX-License-Identifier: Apache-2.0
"""The shared tree, as lxcfs's users mount it: who reads decides."""

import os
import re
import subprocess

import pytest

from umweltd import CPUS, SYS_CPU, Cgroup, cpu_list

pytestmark = pytest.mark.vm


@pytest.fixture
def cgroup(daemon):
    cgroup = Cgroup("caller")
    yield cgroup
    cgroup.remove()


def inside(cgroup, script, *wrapper):
    """Runs a shell script in the cgroup, then in what `wrapper` makes."""
    join = " && ".join(f"echo $$ > {root / cgroup.name}/cgroup.procs"
                       for root in cgroup.roots.values())
    return subprocess.run(["sh", "-ec", f'{join} && exec "$@"', "sh", *wrapper, "sh", "-ec", script],
                          check=True, capture_output=True, text=True).stdout


def test_outside_of_any_container_it_is_the_machine(daemon):
    proc = daemon.state / "proc"
    total = re.search(r"MemTotal: +(\d+)", open("/proc/meminfo").read())[1]
    assert re.search(r"MemTotal: +(\d+)", (proc / "meminfo").read_text())[1] == total
    assert (daemon.state / SYS_CPU / "online").read_text() == open(f"/{SYS_CPU}/online").read()


def test_the_whole_tree_is_there(daemon):
    for file in ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps"):
        assert (daemon.state / "proc" / file).read_text()
    folder = daemon.state / SYS_CPU
    assert set(os.listdir(folder)) >= {"online", "possible", "present", f"cpu{CPUS[0]}"}
    assert (folder / f"cpu{CPUS[0]}/topology/core_id").read_text().strip().isdigit()


@pytest.mark.parametrize("namespaces", [[], ["--cgroup"], ["--pid", "--fork"],
                                        ["--cgroup", "--pid", "--fork", "--mount-proc"],
                                        ["--user", "--map-root-user", "--pid", "--fork"]],
                         ids=" ".join)
def test_a_registered_container_sees_itself(daemon, container, namespaces):
    container.cgroup.set_memory(99 << 20)
    container.cgroup.set_cpus(CPUS[-1])
    container.refresh()
    text = inside(container.cgroup, f"cat {daemon.state}/proc/meminfo", "unshare", *namespaces)
    assert f"MemTotal: {99 << 10:14d} kB" in text
    cpus = inside(container.cgroup, f"""cd {daemon.state}/{SYS_CPU}
        cat online; ls -d cpu[0-9]*; cat cpu{CPUS[-1]}/topology/package_cpus_list""",
                  "unshare", *namespaces)
    assert cpus.split() == [str(CPUS[-1]), f"cpu{CPUS[-1]}", str(CPUS[-1])]


def test_a_caller_in_a_cgroup_namespace_sees_its_root(daemon, cgroup):
    cgroup.set_memory(88 << 20)
    text = inside(cgroup, f"cat {daemon.state}/proc/meminfo", "unshare", "--cgroup", "--pid", "--fork")
    assert f"MemTotal: {88 << 10:14d} kB" in text


@pytest.mark.skipif(len(CPUS) < 2, reason="needs 2 CPUs")
def test_two_callers_at_the_same_name_see_their_own_cpus(daemon, cgroup):
    """Nothing of what one caller was shown stays in the kernel's cache for the other."""
    cgroup.set_cpus(CPUS[-1])
    folder = daemon.state / SYS_CPU
    for _ in range(3):
        assert [(folder / f"cpu{cpu}").is_dir() for cpu in CPUS] == [True] * len(CPUS)
        own = inside(cgroup, f"cat {folder}/online; cd {folder}; ls -d cpu[0-9]*; "
                             f"test -e cpu{CPUS[0]}/topology/core_id || echo none",
                     "unshare", "--cgroup", "--pid", "--fork").split()
        assert own == [str(CPUS[-1]), f"cpu{CPUS[-1]}", "none"]
        assert cpu_list((folder / "online").read_text()) == CPUS


def test_mounted_as_lxcfs_is(daemon, container, folder):
    container.cgroup.set_memory(66 << 20)
    container.refresh()
    text = inside(container.cgroup, f"""
        for file in cpuinfo meminfo stat uptime loadavg swaps; do
          mount --bind {daemon.state}/proc/$file /proc/$file
        done
        mount --bind {daemon.state}/{SYS_CPU} /{SYS_CPU}
        free -k | awk '/Mem:/ {{ print $2 }}'; uptime > /dev/null; cat /proc/loadavg > /dev/null
        ls /{SYS_CPU} > /dev/null""", "unshare", "--mount", "--pid", "--fork", "--mount-proc")
    assert text.split() == [str(66 << 10)]
