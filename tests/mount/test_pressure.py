# SPDX-License-Identifier: Apache-2.0
"""/proc/pressure: of the container's own cgroup, with triggers."""

import errno
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from umweltd import CPUS, SLOWNESS, V1, V2

PRESSURE = pathlib.Path("/proc/pressure")
RESOURCES = sorted(path.name for path in PRESSURE.iterdir()) if PRESSURE.exists() else []
pytestmark = [pytest.mark.vm, pytest.mark.skipif(not RESOURCES, reason="needs PSI"),
              pytest.mark.skipif(not V2, reason="needs cgroup2")]
CYCLES = int(os.environ.get("UMWELT_TEST_TRIGGERS", 300))
HOG = "b = bytearray(48 << 20)\nwhile True: b[::4096] = bytes(len(b) // 4096)"
# Of a user who is nobody else's.
USER = 61234


def busy(folder, number):
    """So many processes that want a CPU, all the same one."""
    return [subprocess.Popen(
        ["sh", "-c", f"echo $$ > {folder}/cgroup.procs && exec taskset -c {CPUS[-1]} "
                     "sh -c 'while :; do :; done'"]) for _ in range(number)]


def end(processes):
    for process in processes:
        process.kill()
        process.wait()


def open_trigger(path, text="some 100000 2000000"):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, text.encode() + b"\0")
    except OSError:
        os.close(fd)
        raise
    return fd


def may_use_any_window():
    """CAP_SYS_RESOURCE"""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"CapEff:\s+(\w+)", status)[1], 16) >> 24 & 1 == 1


def totals(text):
    return [int(total) for total in re.findall(r"total=(\d+)", text)]


def test_the_files_are_there_as_the_kernel_has_them(container):
    assert sorted(os.listdir(container.pressure / "proc/pressure")) == RESOURCES
    for name in RESOURCES:
        text = container.read(f"proc/pressure/{name}")
        assert re.sub(r"[\d.]+=?|\b0\b", "", re.sub(r"=[\d.]+", "=", text)) == re.sub(
            r"[\d.]+=?|\b0\b", "", re.sub(r"=[\d.]+", "=", (PRESSURE / name).read_text()))


def test_it_is_the_container_s_own(container, v2_folder):
    path = container.pressure / "proc/pressure/cpu"
    assert totals(path.read_text())[0] < 100_000
    processes = busy(v2_folder, 3)
    try:
        deadline = time.monotonic() + 20 * SLOWNESS
        while totals(path.read_text())[0] < 200_000:
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.1)
        assert totals(path.read_text())[0] <= totals((v2_folder / "cpu.pressure").read_text())[0]
    finally:
        end(processes)


@pytest.mark.skipif(not V1, reason="needs cgroup v1")
def test_without_a_cgroup_in_v2_nothing_waited_and_nothing_fires(container):
    """The machine's own pressure is nobody else's."""
    assert set(totals(container.read("proc/pressure/cpu"))) == {0}
    with pytest.raises(OSError) as failure:
        open_trigger(container.pressure / "proc/pressure/cpu")
    assert failure.value.errno == errno.EOPNOTSUPP


def test_a_trigger_fires_under_pressure_and_not_before(container, v2_folder):
    window = 1_000_000 if may_use_any_window() else 2_000_000
    fd = open_trigger(container.pressure / "proc/pressure/cpu", f"some 100000 {window}")
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    assert poll.poll(1500) == []
    processes = busy(v2_folder, 3)
    try:
        assert poll.poll(20_000 * SLOWNESS) == [(fd, select.POLLPRI)]
        # Again, at the next window.
        assert poll.poll(20_000 * SLOWNESS) == [(fd, select.POLLPRI)]
    finally:
        end(processes)
        os.close(fd)


def test_a_trigger_fires_by_epoll_too(container, v2_folder):
    fd = open_trigger(container.pressure / "proc/pressure/cpu")
    processes = busy(v2_folder, 3)
    try:
        with select.epoll() as epoll:
            epoll.register(fd, select.EPOLLPRI)
            assert epoll.poll(20 * SLOWNESS) == [(fd, select.EPOLLPRI)]
    finally:
        end(processes)
        os.close(fd)


def test_a_trigger_fires_under_memory_pressure(container, v2_folder):
    """Pages are thrown out to swap and read back again and again."""
    if not (v2_folder / "memory.max").exists():
        pytest.skip("needs the memory controller in cgroup2")
    if "SwapTotal:             0 kB" in pathlib.Path("/proc/meminfo").read_text():
        pytest.skip("needs swap")
    container.cgroup.set_memory(24 << 20)
    fd = open_trigger(container.pressure / "proc/pressure/memory", "some 50000 2000000")
    hog = subprocess.Popen(
        ["sh", "-c", f"echo $$ > {v2_folder}/cgroup.procs; exec {sys.executable} -c '{HOG}'"])
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        assert poll.poll(30_000 * SLOWNESS) == [(fd, select.POLLPRI)]
    finally:
        hog.kill()
        hog.wait()
        os.close(fd)


def test_the_shared_tree_takes_triggers_for_the_caller_s_own_cgroup(container, v2_folder):
    """Also a server after the one that mounted it."""
    path = container.daemon.state / "proc/pressure/cpu"
    script = (f"exec 3<>{path} && echo 'some 100000 2000000' >&3 && echo armed && "
              "exec sleep infinity")
    for attempt in range(2):
        user = subprocess.Popen(["sh", "-c", f"echo $$ > {v2_folder}/cgroup.procs && {script}"],
                                stdout=subprocess.PIPE, text=True)
        assert user.stdout.readline() == "armed\n"
        end([user])
        if attempt == 0:
            os.kill(container.daemon.server_pid(), 9)
    with pytest.raises(OSError) as failure:
        os.open(container.daemon.state / "proc/uptime", os.O_RDWR)
    assert failure.value.errno == errno.EROFS


def test_what_is_no_trigger_is_refused(container, v2_folder):
    path = container.pressure / "proc/pressure/cpu"
    for text in ("", "some", "some 1", "some x y", "none 1 2000000", "some 0 2000000",
                 "some 3000000 2000000", "some 1 20000000", "x" * 5000):
        with pytest.raises(OSError) as failure:
            open_trigger(path, text)
        assert failure.value.errno == errno.EINVAL, text
    fd = open_trigger(path)
    with pytest.raises(OSError) as failure:
        os.write(fd, b"some 100000 2000000\0")
    assert failure.value.errno == errno.EBUSY
    assert os.pread(fd, 100, 0).startswith(b"some avg10=")
    os.close(fd)
    # A shell opens it with O_TRUNC and writes no zero byte.
    path.write_text("some 100000 2000000\n")


def test_polling_without_a_trigger_says_that_there_is_none(container):
    with open(container.pressure / "proc/pressure/cpu") as file:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        events = poll.poll(1000)
        with open("/proc/pressure/cpu") as own:
            kernel = select.poll()
            kernel.register(own, select.POLLPRI)
            assert [event for _, event in events] == [event for _, event in kernel.poll(1000)]


def test_other_files_poll_as_files_do(container):
    events = (select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM | select.POLLPRI |
              select.POLLERR | select.POLLHUP | select.POLLRDHUP)

    def answer(file):
        poll = select.poll()
        poll.register(file, events)
        (_, result), = poll.poll(1000)
        with select.epoll() as epoll:
            epoll.register(file, events)
            assert epoll.poll(1) == [(file.fileno(), result)]
        return result

    for name in ("proc/stat", "proc/meminfo", "proc/cpuinfo"):
        with open(container.path(name)) as file, open(f"/{name}") as kernels:
            assert answer(file) == answer(kernels)


def test_the_kernel_polls_other_files_alone(daemon, container):
    """Once it has been told: nobody is asked, so nobody has to answer."""
    with open(container.live / "proc/stat") as file:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert poll.poll(1000)
        server = daemon.server_pid()
        for pid in (daemon.pid, server):
            os.kill(pid, signal.SIGSTOP)
        go_on = threading.Timer(2, lambda: [os.kill(pid, signal.SIGCONT)
                                            for pid in (server, daemon.pid)])
        go_on.start()
        begin = time.monotonic()
        assert poll.poll(1000)
        assert time.monotonic() - begin < 1
        go_on.join()


UNPRIVILEGED = """
import errno, os, sys
path, cycles = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid({user}); os.setuid({user})
def trigger(text):
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, text)
    except OSError as error:
        os.close(fd)
        return error.errno
    return fd, None
assert trigger(b"some 100000 1000000") == errno.EINVAL
for cycle in range(cycles):
    fd, _ = trigger(b"some %d 2000000" % (100000 + cycle))
    os.close(fd)
held = []
while type(last := trigger(b"some 100000 2000000")) is tuple:
    held.append(last[0])
print(len(held), last == errno.ENOSPC)
"""


IDLE_WORKERS = 4  # at most, src/base/workers.cc


def lasting_threads(tasks):
    """Without those that serve one connection to the control socket for a moment."""
    def count():
        time.sleep(0.02)
        return len(os.listdir(tasks))
    return min(count() for _ in range(20))


@pytest.mark.timeout(900 * SLOWNESS)
def test_an_unprivileged_user_opens_and_closes_many_without_effect_on_anyone(
        daemon, container, v2_folder, folder):
    """Neither on the daemon nor on who else wants triggers, also in the same container."""
    path = container.pressure / "proc/pressure/cpu"
    other = open_trigger(path)
    mount = folder / "pressure"
    mount.touch()
    # Those that are opened at the first need do not count: a trigger left behind for each cycle would.
    tasks = f"/proc/{daemon.server_pid()}/task"
    descriptors, threads = daemon.fds(), lasting_threads(tasks)
    own = f"mount --bind {path} {mount} && exec \"$@\""
    user = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec", own, "sh", sys.executable, "-c",
         UNPRIVILEGED.format(user=USER), mount, str(CYCLES)], stdout=subprocess.PIPE, text=True)
    waits = []
    while user.poll() is None:
        begun = time.monotonic()
        container.read("proc/meminfo")
        waits.append(time.monotonic() - begun)
        fd = open_trigger(path)
        os.close(fd)
        time.sleep(0.05)
    assert user.stdout.read() == "16 True\n"
    assert user.returncode == 0
    assert sorted(waits)[len(waits) // 2] < 0.1 * SLOWNESS
    processes = busy(v2_folder, 3)
    try:
        poll = select.poll()
        poll.register(other, select.POLLPRI)
        assert poll.poll(20_000 * SLOWNESS) == [(other, select.POLLPRI)]
    finally:
        end(processes)
    os.close(other)
    deadline = time.monotonic() + 30 * SLOWNESS
    while daemon.fds() > descriptors + 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert daemon.fds() <= descriptors + 4
    assert lasting_threads(tasks) <= threads + IDLE_WORKERS


def test_a_removed_cgroup_is_told(container, v2_folder):
    """POLLERR: the source of events is gone."""
    folder = v2_folder / "below"
    folder.mkdir()
    sleeper = subprocess.Popen(["sleep", "infinity"])
    (folder / "cgroup.procs").write_text(str(sleeper.pid))
    below = container.daemon.call(op="register", record={"id": "below", "init_pid": sleeper.pid})
    assert below["ok"]
    fd = open_trigger(container.daemon.runtime / "pressure/below/proc/pressure/cpu")
    sleeper.kill()
    sleeper.wait()
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    deadline = time.monotonic() + 10 * SLOWNESS
    while True:
        try:
            folder.rmdir()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    events = poll.poll(10_000 * SLOWNESS)
    assert events and events[0][1] & select.POLLERR
    os.close(fd)


def test_after_the_server_died_a_trigger_is_gone_and_another_one_works(container, v2_folder):
    """POLLERR, as of a source of events that is no more."""
    path = container.pressure / "proc/pressure/cpu"
    fd = open_trigger(path)
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    assert poll.poll(0) == []
    os.kill(container.daemon.server_pid(), 9)
    deadline = time.monotonic() + 10 * SLOWNESS
    while not (events := poll.poll(100)) and time.monotonic() < deadline:
        pass
    assert events and events[0][1] & select.POLLERR
    os.close(fd)
    fd = open_trigger(path)
    processes = busy(v2_folder, 3)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        assert poll.poll(20_000 * SLOWNESS) == [(fd, select.POLLPRI)]
    finally:
        end(processes)
        os.close(fd)
