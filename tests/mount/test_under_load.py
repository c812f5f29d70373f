# SPDX-License-Identifier: Apache-2.0
"""Many readers while everything changes: no failed read, nothing grows."""

import os
import random
import threading
import time

import pytest

from umweltd import CPUS, DURATION, SHARED, SLOWNESS, files_of, wait_until

pytestmark = pytest.mark.timeout(120 * SLOWNESS + DURATION)

THREADS = 64


def read_whole(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def readable(paths):
    """Those that the host itself lets root read."""
    result = []
    for path in paths:
        try:
            read_whole(path)
            result.append(str(path))
        except OSError:
            pass
    return result


def test_64_threads_read_everything_while_limits_change_and_containers_come_and_go(daemon):
    steady = [daemon.container(f"steady{i}") for i in range(3)]
    cpu = f"/cpu{CPUS[-1]}/"  # the others' directories come and go
    paths = [path for container in steady for path in readable(files_of(container))
             if "/cpu/cpu" not in path or cpu in path]
    assert len(paths) > 60
    stop = threading.Event()
    failures, reads = [], [0] * THREADS

    def read(index):
        mine = random.Random(index).sample(paths, len(paths))
        while not stop.is_set():
            for path in mine:
                try:
                    read_whole(path)
                    reads[index] += 1
                except OSError as error:
                    failures.append((path, error))

    def change():
        while not stop.is_set():
            for container in steady:
                container.cgroup.set_memory(random.choice((64, 256, 4096)) << 20)
                container.cgroup.set_cpus(random.choice((f"{CPUS[-1]}", ",".join(map(str, CPUS)))))
                container.cgroup.set_quota(random.choice((None, 1.5)))
                container.refresh()
                time.sleep(0.005)

    def come_and_go():
        number = 0
        while not stop.is_set():
            number += 1
            guest = daemon.container(f"guest{number % 3}")
            assert read_whole(guest.live / "proc/stat") and read_whole(guest.config / "proc/cpuinfo")
            guest.remove()
            daemon.containers.remove(guest)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(THREADS)]
    threads += [threading.Thread(target=change), threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    time.sleep(DURATION / 2)
    halfway = daemon.fds(), daemon.rss_kib("RssAnon"), sum(reads)
    time.sleep(DURATION / 2)
    stop.set()
    for thread in threads:
        thread.join()
    end = daemon.fds(), daemon.rss_kib("RssAnon"), sum(reads)
    print(f"{end[2]} reads; descriptors {halfway[0]} -> {end[0]}, "
          f"anonymous memory {halfway[1]} -> {end[1]} KiB")
    assert not failures, failures[:5]
    assert end[2] > 1000 / SLOWNESS
    # A guest more or less may be there at either moment.
    assert end[0] <= halfway[0] + 80
    if os.environ.get("UMWELT_VARIANT", "release") == "release":
        assert end[1] <= halfway[1] * 1.1 + 1024


def test_containers_leave_nothing_behind(daemon):
    def one():
        container = daemon.container("guest")
        for path in readable(files_of(container)):
            assert path
        container.remove()
        daemon.containers.remove(container)

    one()
    before = daemon.fds()
    for _ in range(20):
        one()
    # Descriptors of the last one go a moment after the reply.
    wait_until(lambda: daemon.fds() <= before + 1, 20 * SLOWNESS)
    assert os.listdir(daemon.runtime / "config") == []


def test_open_files_without_end_cost_bounded_memory(daemon, container):
    """Each keeps a snapshot in the daemon, up to a bound."""
    held = []
    try:
        for _ in range(3000):
            held.append(os.open(container.live / "proc/stat", os.O_RDONLY))
            os.pread(held[-1], 1 << 16, 0)
            time.sleep(0) if len(held) % 100 else time.sleep(0.002)
        if os.environ.get("UMWELT_VARIANT", "release") == "release":
            assert daemon.rss_kib() < 200 << 10
        assert os.pread(held[0], 100, 0).startswith(b"cpu ")
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_reading_an_unreadable_container_logs_little(daemon, container):
    held = os.open(container.live / "proc/meminfo", os.O_RDONLY)
    container.init.kill()
    container.init.wait()
    container.cgroup.remove()
    time.sleep(SHARED)
    for _ in range(1000):
        with pytest.raises(OSError):
            os.pread(held, 100, 0)
    os.close(held)
    assert daemon.log().count("\n") < 30
