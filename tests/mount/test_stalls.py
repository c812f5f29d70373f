# SPDX-License-Identifier: Apache-2.0
"""What one container holds up is its own: the others come, change and go meanwhile."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from umweltd import CPUS, SLOWNESS, SYS_CPU, UMWELTD, V1, V2, Cgroup, cpu_list, wait_until

needs_v2 = pytest.mark.skipif(not V2, reason="needs cgroup2")
HANGING = pathlib.Path(__file__).parents[1] / "fixtures/hanging_filesystem.py"

# Lists a directory into memory that is never there, which keeps the directory locked; then another
# thread wants that lock for itself alone, so whoever comes later waits for it.
HOLDER = """
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None)
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 4096, mmap.MAP_PRIVATE)
buffer = ctypes.c_char.from_buffer(memory)
new = sys.argv[2].encode() + b"/new"
libc.mkdir(new, 0o755)  # what the kernel knows to be absent it looks for again now
libc.rmdir(new)
directory = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
GETDENTS64, MKDIR = 217, 83
def hold():
    libc.syscall(ctypes.c_long(GETDENTS64), directory, ctypes.byref(buffer), ctypes.c_long(4096))
def want():
    libc.syscall(ctypes.c_long(MKDIR), new, ctypes.c_long(0o755))
def stays_in(thread, call):
    seen = 0
    while seen < 5:
        with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
            seen = seen + 1 if file.read().split()[0] == str(call) else 0
        time.sleep(0.02)
for action, call in (hold, GETDENTS64), (want, MKDIR):
    thread = threading.Thread(target=action)
    thread.start()
    stays_in(thread, call)
print("held", flush=True)
"""


@contextlib.contextmanager
def held(directory, folder):
    mount_point = folder / "hanging"
    mount_point.mkdir()
    processes = []

    def start(*arguments, says):
        processes.append(subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == says

    try:
        start(HANGING, mount_point, says=b"mounted\n")
        start("-c", HOLDER, mount_point / "file", directory, says=b"held\n")
        yield
        assert processes[1].poll() is None, "it held nothing"
    finally:
        for process in processes:  # the server of the filesystem first
            process.kill()
            process.wait()
            process.stdout.close()
        subprocess.run(["umount", "-l", mount_point], check=True)
        with contextlib.suppress(OSError):
            (directory / "new").rmdir()


def is_there(container, cpu):
    return (container.config / SYS_CPU / f"cpu{cpu}").exists()


@pytest.mark.skipif(len(CPUS) < 2, reason="needs 2 CPUs")
def test_a_locked_directory_holds_up_nobody(daemon, container, folder):
    """Of the CPUs of one container, while they come and go; also at the start of a server."""
    others = [daemon.container(f"other{i}") for i in range(2)]
    online = container.config / SYS_CPU / "online"
    files = [online, *(online.parent / f"cpu{cpu}/topology/core_id" for cpu in CPUS)]
    assert all(file.read_text() for file in files)  # or they would be looked up, and wait
    daemon.patience = 5 * SLOWNESS
    with held(container.config / SYS_CPU, folder):
        for cpus in (CPUS[:1], CPUS, CPUS[:1]):
            container.cgroup.set_cpus(",".join(map(str, cpus)))
            container.refresh()
            assert cpu_list(online.read_text()) == cpus
            assert [cpu for cpu in CPUS if is_there(container, cpu)] == cpus
        others.pop().remove()
        others[0].refresh()
        server = daemon.server_pid()
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: daemon.server_pid() != server, 10 * SLOWNESS)
        container.cgroup.set_cpus(",".join(map(str, CPUS)))
        container.refresh()
        assert cpu_list(online.read_text()) == CPUS
        others[0].cgroup.set_cpus(CPUS[0])
        others[0].refresh()
        assert [cpu for cpu in CPUS if is_there(others[0], cpu)] == CPUS[:1]
        assert daemon.container("new").read("proc/meminfo")
        others.pop().remove()


def test_a_locked_cgroup_holds_up_nobody(daemon, container, folder):
    """Of a container with cgroups of its own below, whose tasks are counted."""
    other = daemon.container("other")
    directory = container.cgroup.folder("pids")
    inner = directory / "inner"
    inner.mkdir()
    files = ("proc/loadavg", "proc/stat", "proc/meminfo")
    try:
        assert all(container.read(file) for file in files)
        time.sleep(1.1)  # the tasks are counted once a second
        with held(directory, folder):
            readers = [threading.Thread(target=container.read, args=("proc/loadavg",), daemon=True)
                       for _ in range(8)]
            for reader in readers:
                reader.start()
            other.cgroup.set_memory(64 << 20)
            start = time.monotonic()
            wait_until(lambda: "MemTotal:          65536 kB" in other.read("proc/meminfo"),
                       5 * SLOWNESS)
            assert all(other.read(file) for file in files)
            for reader in readers:
                reader.join(5 * SLOWNESS)
                assert not reader.is_alive()
            assert all(container.read(file) for file in files)
            assert time.monotonic() - start < 5 * SLOWNESS
    finally:
        inner.rmdir()


@needs_v2
def test_a_cgroup_that_is_locked_for_a_while_is_waited_for(container, folder, v2_folder):
    """Nothing tells it from one on a machine that is overloaded: an update must not fail there."""
    refreshed = threading.Event()

    def refresh():
        container.refresh()
        refreshed.set()

    waiting = threading.Thread(target=refresh)
    with held(v2_folder, folder):
        container.cgroup.set_memory(64 << 20)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
    waiting.join(5 * SLOWNESS)
    assert refreshed.is_set()
    assert "MemTotal:          65536 kB" in container.read("proc/meminfo")


def folder_in_v2(cgroup):
    """Where the kernel lacks some of the files; on a hybrid machine it has none there yet."""
    if not V1:
        return cgroup.folder("")
    cgroup.roots[""] = pathlib.Path(V2)
    folder = cgroup.roots[""] / cgroup.name
    folder.mkdir(parents=True)
    return folder


def readable(container, file="proc/loadavg"):
    try:
        return bool(container.read(file))
    except OSError:
        return False


def new_server(daemon, action):
    server = daemon.server_pid()
    action(server)
    wait_until(lambda: daemon.server_pid() != server, 10 * SLOWNESS)


@needs_v2
def test_a_locked_cgroup_holds_up_no_start(daemon, container, folder, v2_folder):
    """A new server opens its files again; it has its own back when it lets go."""
    other = daemon.container("other")
    upgrade = [UMWELTD.parent / "umwelt", "--runtime-dir", daemon.runtime, "--state-dir",
               daemon.state, "daemon", "upgrade"]
    with held(v2_folder, folder):
        for action in (lambda server: os.kill(server, signal.SIGKILL),
                       lambda server: subprocess.run(upgrade, check=True, timeout=60)):
            new_server(daemon, action)
            assert other.read("proc/loadavg")
        other.cgroup.set_memory(64 << 20)
        wait_until(lambda: "MemTotal:          65536 kB" in other.read("proc/meminfo"),
                   5 * SLOWNESS)
        assert daemon.container("new").read("proc/loadavg")
    wait_until(lambda: readable(container), 10 * SLOWNESS)
    container.cgroup.set_memory(32 << 20)
    wait_until(lambda: "MemTotal:          32768 kB" in container.read("proc/meminfo"),
               10 * SLOWNESS)
    container.remove()
    assert not readable(container)


def total_pressure(container):
    return int(container.read("proc/pressure/cpu").splitlines()[0].split("total=")[1])


@needs_v2
def test_a_locked_cgroup_whose_pressure_goes_holds_up_nobody(daemon, container, folder, v2_folder):
    other = daemon.container("other")
    switch = v2_folder / "cgroup.pressure"
    if not switch.exists():
        pytest.skip("needs cgroup.pressure")
    busy = [subprocess.Popen(
        ["sh", "-c", f"echo $$ > {v2_folder}/cgroup.procs && exec taskset -c {CPUS[-1]} "
                     "sh -c 'while :; do :; done'"]) for _ in range(2)]
    wait_until(lambda: total_pressure(container) > 0, 10 * SLOWNESS)
    switch_fd = os.open(switch, os.O_WRONLY)
    try:
        server = daemon.server_pid()
        with held(v2_folder, folder):
            os.write(switch_fd, b"0")
            for _ in range(3):
                assert container.read("proc/loadavg")
                assert total_pressure(container) == 0
            other.cgroup.set_memory(64 << 20)
            wait_until(lambda: "MemTotal:          65536 kB" in other.read("proc/meminfo"),
                       5 * SLOWNESS)
            assert daemon.server_pid() == server
        os.write(switch_fd, b"1")
        wait_until(lambda: total_pressure(container) > 0, 10 * SLOWNESS)
    finally:
        os.close(switch_fd)
        for process in busy:
            process.kill()
            process.wait()


@needs_v2
def test_a_locked_cgroup_above_holds_up_nobody(daemon, container, folder):
    """Of a caller in a cgroup below, whose limits are those of the one above, too."""
    stranger, nested = Cgroup("stranger"), Cgroup("stranger/nested")
    directory = folder_in_v2(stranger)
    folder_in_v2(nested)
    reader = subprocess.Popen(
        ["sh", "-c", f"while read go; do cat {daemon.state}/proc/loadavg; done"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask():
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        return len(reader.stdout.readline().split())

    try:
        nested.attach(reader.pid)
        assert ask() == 5
        server = daemon.server_pid()
        with held(directory, folder):
            for _ in range(5):
                assert ask() == 5
                start = time.monotonic()
                assert container.read("proc/loadavg")
                assert time.monotonic() - start < 3 * SLOWNESS
                time.sleep(0.3)
            assert daemon.server_pid() == server
    finally:
        reader.stdin.close()
        reader.kill()
        reader.wait()
        nested.remove()
        stranger.remove()


@needs_v2
def test_many_cgroups_below_a_locked_one_hold_up_nobody(daemon, container, folder):
    stranger = Cgroup("stranger")
    directory = folder_in_v2(stranger)
    below = [Cgroup(f"stranger/{i}") for i in range(60)]
    readers = []
    try:
        for cgroup in below:
            folder_in_v2(cgroup)
            readers.append(subprocess.Popen(
                ["sh", "-c", f"while read go; do cat {daemon.state}/proc/loadavg; done"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            cgroup.attach(readers[-1].pid)

        def go():
            for reader in readers:
                reader.stdin.write(b"\n")
                reader.stdin.flush()

        def answers():
            return [len(reader.stdout.readline().split()) for reader in readers]

        go()
        assert answers() == [5] * len(readers)
        time.sleep(2.2)  # limits are read anew for so long after the first time
        with held(directory, folder):
            go()
            time.sleep(0.1)
            start = time.monotonic()
            assert container.read("proc/loadavg")
            assert time.monotonic() - start < 2 * SLOWNESS
            assert answers() == [5] * len(readers)
    finally:
        for reader in readers:
            reader.stdin.close()
            reader.kill()
            reader.wait()
        for cgroup in below:
            cgroup.remove()
        stranger.remove()


@needs_v2
def test_many_namespaces_in_a_locked_cgroup_hold_up_nobody(daemon, container, folder):
    """Neither those that are registered, nor one of another cgroup that is not."""
    stranger, victim = Cgroup("stranger"), Cgroup("victim")
    directory = folder_in_v2(stranger)
    script = f"""read go; i=0; while [ $i -lt 80 ]; do
        unshare --pid --fork cat {daemon.state}/proc/loadavg & i=$((i + 1)); done; wait"""
    readers = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ask = ["sh", "-c", "".join(f"echo $$ > {root / victim.name}/cgroup.procs && "
                               for root in victim.roots.values()) +
           f"exec cat {daemon.state}/proc/loadavg"]
    try:
        stranger.attach(readers.pid)
        with held(directory, folder):
            readers.stdin.write(b"\n")
            readers.stdin.close()
            end = time.monotonic() + 6 * SLOWNESS
            while time.monotonic() < end:
                start = time.monotonic()
                assert container.read("proc/loadavg")
                asked = subprocess.run(ask, capture_output=True, text=True, check=False)
                assert len(asked.stdout.split()) == 5, asked.stderr
                assert time.monotonic() - start < 3 * SLOWNESS
    finally:
        readers.kill()
        readers.wait()
        stranger.remove()
        victim.remove()


def test_a_locked_cgroup_of_nobody_holds_up_nobody(daemon, container, folder):
    """Its processes are seen for the first time while it is locked, in the shared tree."""
    stranger = Cgroup("stranger")
    directory = stranger.folder("pids")
    command = f"""for i in 1 2 3; do unshare --pid --fork cat {daemon.state}/proc/loadavg & done
        wait; exec sleep infinity"""
    readers = subprocess.Popen(["sh", "-c", f"read go; {command}"], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        stranger.attach(readers.pid)
        assert container.read("proc/loadavg")
        server = daemon.server_pid()
        with held(directory, folder):
            readers.stdin.write(b"\n")
            readers.stdin.close()
            start = time.monotonic()
            while time.monotonic() < start + 3 * SLOWNESS:
                before = time.monotonic()
                assert container.read("proc/loadavg")
                assert time.monotonic() - before < 3 * SLOWNESS
            assert daemon.server_pid() == server
        text = subprocess.run(["sh", "-c", f"echo $$ > {directory}/cgroup.procs && "
                               f"cat {daemon.state}/proc/loadavg"], capture_output=True, text=True,
                              timeout=20 * SLOWNESS)
        assert len(text.stdout.split()) == 5, text.stderr
    finally:
        readers.kill()
        readers.wait()
        for pid in stranger.processes():
            os.kill(pid, signal.SIGKILL)
        stranger.remove()


OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def hanging_at(path, before=""):
    """An init process that serves a filesystem over something of its container, and never answers."""
    script = f"{before} exec {sys.executable} {HANGING} {path}"
    return (*OWN_MOUNTS, "sh", "-c", script)


def mounts(container):
    return pathlib.Path(f"/proc/{container.init.pid}/mountinfo").read_text()


def test_a_container_that_does_not_answer_is_left(daemon):
    """At the start of a daemon that mounts the files again."""
    silent = daemon.container("silent", init=hanging_at("/run"))
    covered = daemon.container("covered", init=hanging_at(
        "/sys/devices/system/cpu", "mount -t tmpfs run /run &&"))
    well = daemon.container("well", init=(*OWN_MOUNTS, "sh", "-c",
                                          "mount -t tmpfs run /run && exec sleep infinity"))
    wait_until(lambda: all("fuse.hanging" in mounts(it) for it in (silent, covered)), 10 * SLOWNESS)
    wait_until(lambda: " /run " in mounts(well), 10 * SLOWNESS)
    daemon.kill()
    daemon.start()

    for container in (covered, well):
        wait_until(lambda: "/run/container_info.json" in mounts(container), 10 * SLOWNESS)
        assert mounts(container).count(" /sys/devices/system/cpu ro") == 1
    well.refresh()
    wait_until(lambda: "files of container silent: a filesystem that is mounted in it does not "
               "answer" in daemon.log(), 10 * SLOWNESS)

    again = subprocess.run(
        [UMWELTD.parent / "umwelt", "--runtime-dir", daemon.runtime, "--state-dir", daemon.state,
         "daemon", "reattach"], capture_output=True, text=True, timeout=20 * SLOWNESS)
    assert again.returncode == 1
    assert "container silent: a filesystem that is mounted in it does not answer" in again.stderr
    assert [line.split(",")[0] for line in again.stdout.splitlines()] == [
        "covered: 0 mounted", "well: 0 mounted"]
    assert daemon.stop() == 0
