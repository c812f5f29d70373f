# SPDX-License-Identifier: Apache-2.0
"""Changes that nobody tells the daemon of: the files follow by themselves."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from umweltd import CPUS, SLOWNESS, SYS_CPU, V1, Cgroup, cpu_list, wait_until

pytestmark = pytest.mark.vm

MIB = 1 << 20
# The limits are compared once a second.
SOON = 10 * SLOWNESS


@pytest.fixture
def below(daemon):
    """A registered container in a cgroup below another one."""
    parent = Cgroup("parent")
    container = daemon.container("parent/web".replace("/", "-"))
    inner = Cgroup("parent/web")
    inner.attach(container.init.pid)
    daemon.call(op="unregister", id=container.id)
    daemon.call(op="register", record={"id": container.id, "init_pid": container.init.pid})
    container.inner = inner
    yield parent, container
    container.init.kill()
    container.init.wait()
    inner.remove()
    parent.remove()


def total_of(container):
    return int(re.search(r"MemTotal: +(\d+) kB", container.read("proc/meminfo"))[1]) << 10


def online(container):
    return cpu_list(container.read(f"{SYS_CPU}/online"))


def test_a_limit_of_an_ancestor(below):
    parent, container = below
    before = total_of(container), online(container)
    parent.set_memory(111 * MIB)
    parent.set_quota(1)
    wait_until(lambda: total_of(container) == 111 * MIB, SOON)
    wait_until(lambda: len(online(container)) == 1, SOON)
    parent.set_memory(-1 if V1 else "max")
    parent.set_quota(None)
    wait_until(lambda: (total_of(container), online(container)) == before, SOON)


@pytest.mark.skipif(bool(V1), reason="needs cgroup v2")
def test_controllers_that_are_enabled_late(daemon):
    parent = Cgroup("late")
    inner = parent.roots[""] / parent.name / "web"
    inner.mkdir()
    container = daemon.container("late")
    try:
        (inner / "cgroup.procs").write_text(str(container.init.pid))
        daemon.call(op="unregister", id=container.id)
        daemon.call(op="register", record={"id": container.id, "init_pid": container.init.pid})
        before = total_of(container)
        assert not (inner / "memory.max").exists()
        (inner.parent / "cgroup.subtree_control").write_text("+memory +cpu")
        (inner / "memory.max").write_text(str(55 * MIB))
        (inner / "cpu.max").write_text("100000 100000")
        wait_until(lambda: total_of(container) == 55 * MIB, SOON)
        wait_until(lambda: len(online(container)) == 1, SOON)
        # What it used before stays where it was charged.
        free = int(re.search(r"MemFree: +(\d+) kB", container.read("proc/meminfo"))[1])
        assert free <= 55 << 10
        (inner.parent / "cgroup.subtree_control").write_text("-memory -cpu")
        wait_until(lambda: total_of(container) == before, SOON)
    finally:
        container.init.kill()
        container.init.wait()
        wait_until(lambda: not (inner / "cgroup.procs").read_text(), SOON)
        inner.rmdir()
        parent.remove()


@pytest.mark.skipif(not V1, reason="needs cgroup v1")
def test_a_renamed_cgroup_is_the_same_container(container):
    container.cgroup.set_memory(66 * MIB)
    container.refresh()
    folders = [root / container.cgroup.name for root in container.cgroup.roots.values()]
    for folder in folders:
        folder.rename(folder.with_name("renamed"))
    try:
        assert total_of(container) == 66 * MIB
        (container.cgroup.roots["memory"] / container.cgroup.base / "renamed" /
         "memory.limit_in_bytes").write_text(str(70 * MIB))
        wait_until(lambda: total_of(container) == 70 * MIB, SOON)
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.with_name("renamed").rename(folder)


def test_an_init_that_is_moved_leaves_the_container_where_it_was(daemon, container):
    """A container is its cgroup, not a process."""
    container.cgroup.set_memory(44 * MIB)
    container.refresh()
    other = Cgroup("elsewhere")
    try:
        other.attach(container.init.pid)
        assert total_of(container) == 44 * MIB
        container.cgroup.attach(container.init.pid)
    finally:
        other.remove()


# More than the limit, in pages that are not alike, and small when compressed.
HOG = "import os, time; b = b''.join(os.urandom(64) * 64 for _ in range(9216)); time.sleep(1000)"


def test_pages_in_swap_and_zswap(container):
    """What the kernel throws out is in the container's figures."""
    folder = container.cgroup.folder("memory")
    if not (folder / "memory.swap.max").exists() or "SwapTotal:             0 kB" in pathlib.Path(
            "/proc/meminfo").read_text():
        pytest.skip("needs swap and cgroup v2")
    zswap = pathlib.Path("/sys/module/zswap/parameters/enabled")
    container.cgroup.set_memory(24 * MIB)
    (folder / "memory.swap.max").write_text(str(64 * MIB))
    container.refresh()
    hog = subprocess.Popen(["sh", "-c", f"echo $$ > {folder}/cgroup.procs; "
                            f"exec {sys.executable} -c \"{HOG}\""])
    try:
        used = folder / "memory.swap.current"
        wait_until(lambda: int(used.read_text()) > 8 * MIB, SOON)

        def of_kernel():
            stat = dict(re.findall(r"^(zswap|zswapped) (\d+)$", (folder / "memory.stat").read_text(),
                                   re.M))
            return {"SwapUsed": int(used.read_text()) >> 10,
                    **{key.capitalize(): int(size) >> 10 for key, size in stat.items()}}

        def shown():
            text = container.read("proc/meminfo")
            sizes = {key: int(size) for key, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.M)}
            sizes["SwapUsed"] = sizes["SwapTotal"] - sizes["SwapFree"]
            assert sizes["SwapTotal"] == 64 << 10
            return {key: sizes[key] for key in of_kernel()}

        def settled():
            before, seen, after = of_kernel(), shown(), of_kernel()
            return before == after and seen == before

        wait_until(settled, SOON)
        print(f"\n{shown()}")
        if zswap.exists() and zswap.read_text() == "Y\n":
            assert 0 < shown()["Zswap"] < shown()["Zswapped"]
    finally:
        hog.kill()
        hog.wait()


def hotplug_cpu():
    """The last CPU that can be taken offline. cgroup v1 takes it out of every cpuset of the machine
    for good, so only where the machine is ours."""
    if os.environ.get("UMWELT_VARIANT") != "vm":
        return None
    for cpu in reversed(CPUS):
        file = pathlib.Path(f"/{SYS_CPU}/cpu{cpu}/online")
        if cpu != 0 and file.exists() and os.access(file, os.W_OK):
            return cpu, file
    return None


@pytest.mark.skipif(hotplug_cpu() is None, reason="needs CPU hotplug in a virtual machine")
def test_cpu_hotplug(daemon, container):
    cpu, file = hotplug_cpu()
    others = [c for c in CPUS if c != cpu]
    container.cgroup.set_cpus(",".join(map(str, CPUS)))
    container.refresh()
    nodes = container.config / "sys/devices/system/node"

    def story():
        listed = [int(name[3:]) for name in os.listdir(container.config / SYS_CPU)
                  if re.fullmatch(r"cpu\d+", name)]
        blocks = re.findall(r"^processor\s*: (\d+)$", container.read("proc/cpuinfo"), re.M)
        lines = re.findall(r"^cpu(\d+) ", container.read("proc/stat"), re.M)
        of_nodes = sum((cpu_list((nodes / name / "cpulist").read_text())
                        for name in os.listdir(nodes) if re.fullmatch(r"node\d+", name)), [])
        return [sorted(map(int, ids)) for ids in (online(container), listed, blocks, lines, of_nodes)]

    assert story() == [CPUS] * 5
    file.write_text("0")
    try:
        wait_until(lambda: story() == [others] * 5, SOON)
        assert not (container.config / SYS_CPU / f"cpu{cpu}").exists()
        shared = daemon.state / SYS_CPU
        wait_until(lambda: cpu_list((shared / "online").read_text()) == others, SOON)
    finally:
        file.write_text("1")
    deadline = time.monotonic() + SOON
    while story() != [CPUS] * 5:
        # cgroup v1 leaves a CPU that came back out of the cpuset
        assert time.monotonic() < deadline, story()
        with contextlib.suppress(OSError):
            container.cgroup.set_cpus(",".join(map(str, CPUS)))
        time.sleep(0.05)
    assert (container.config / SYS_CPU / f"cpu{cpu}/topology/core_id").read_text()
