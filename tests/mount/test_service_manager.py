# SPDX-License-Identifier: Apache-2.0
"""What umweltd tells a service manager, and what it takes back from its store of descriptors."""

import array
import contextlib
import os
import socket
import subprocess
import threading
import time

import pytest

from umweltd import SLOWNESS, mounted_below, wait_until


class Manager:
    """The receiving end of sd_notify(3), with a store of descriptors."""

    def __init__(self, folder):
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.told, self.store = [], {}
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()

    def _receive(self):
        while True:
            text, control, _, _ = self.socket.recvmsg(
                4096, socket.CMSG_SPACE(array.array("i").itemsize))
            fields = dict(line.split("=", 1) for line in text.decode().splitlines())
            if "FDSTORE" in fields:
                fd = array.array("i", control[0][2])[0]
                self._close(self.store.pop(fields["FDNAME"], None))
                self.store[fields["FDNAME"]] = fd
            elif "FDSTOREREMOVE" in fields:
                self._close(self.store.pop(fields["FDNAME"], None))
            else:
                self.told.append(fields)

    @staticmethod
    def _close(fd):
        if fd is not None:
            os.close(fd)

    def told_of(self, name):
        return [fields[name] for fields in self.told if name in fields]

    def start(self, daemon, watchdog_ms=400):
        """As systemd does it: the stored descriptors from 3 on."""
        kept = dict(self.store)
        copies = [os.dup(fd) for fd in kept.values()]

        def place():
            high = [os.dup2(fd, 200 + i) for i, fd in enumerate(copies)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
            os.closerange(3 + len(high), 1024)

        environment = {**os.environ, "NOTIFY_SOCKET": str(self.path),
                       "WATCHDOG_USEC": str(watchdog_ms * 1000)}
        if kept:
            environment.update(LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=":".join(kept))
        with open(daemon.log_path, "ab") as log:
            daemon.process = subprocess.Popen(
                ["sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh", *daemon.command,
                 "--foreground"], stderr=log, env=environment, preexec_fn=place, close_fds=False)
        for fd in copies:
            os.close(fd)
        daemon.pid = daemon.process.pid
        wait_until(lambda: daemon.process.poll() is not None or daemon.answers(), 10 * SLOWNESS)
        assert daemon.process.poll() is None, daemon.log()


@pytest.fixture
def manager(folder):
    return Manager(folder)


def test_without_a_service_manager_nothing_is_left(daemon, folder):
    """SIGQUIT, which leaves everything for a service manager to keep."""
    assert daemon.leave() == 0
    assert not mounted_below(folder)


def test_ready_watchdog_and_stopping(stopped_daemon, manager, folder):
    manager.start(stopped_daemon)
    wait_until(lambda: manager.told_of("READY") == ["1"], 5 * SLOWNESS)
    wait_until(lambda: len(manager.told_of("WATCHDOG")) > 3, 5 * SLOWNESS)
    assert {"journal", "listener", "config.0", "live.0", "pressure.0"} <= set(manager.store)
    assert not {"lock", "state.lock"} & set(manager.store)
    assert not manager.told_of("STOPPING")
    assert stopped_daemon.stop() == 0
    wait_until(lambda: manager.told_of("STOPPING") == ["1"], 5)
    wait_until(lambda: not manager.store, 5)  # what is unmounted is not to come back
    assert not mounted_below(folder)


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_killed_or_restarted_daemon_comes_back_without_a_failed_read(stopped_daemon, manager, end):
    daemon = stopped_daemon
    manager.start(daemon)
    container = daemon.container("web")
    paths = [container.live / "proc/meminfo", container.live / "proc/stat",
             container.config / "proc/cpuinfo"]
    held = open(container.live / "proc/uptime", "rb", buffering=0)
    stop, failures, reads = threading.Event(), [], [0]

    def read():
        while not stop.is_set():
            for path in paths:
                try:
                    assert path.read_bytes().endswith(b"\n")
                    reads[0] += 1
                except (OSError, AssertionError) as error:
                    failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    rounds = 5
    try:
        for _ in range(rounds):
            time.sleep(0.2)
            assert getattr(daemon, end)() in (None, 0)
            time.sleep(0.05)
            manager.start(daemon)
            assert held.read(100)
            held.seek(0)
    finally:
        stop.set()
        with contextlib.suppress(AssertionError):
            if not daemon.answers():
                manager.start(daemon)
        for thread in threads:
            thread.join()
    held.close()
    print(f"\n{rounds} times {end} for keeper and server: {reads[0]} reads, {len(failures)} failures")
    assert not failures, failures[:5]
    assert reads[0] > 100


def test_a_restart_mends_what_is_gone(stopped_daemon, manager):
    """As one expects of it, also where the descriptors were kept."""
    daemon = stopped_daemon
    manager.start(daemon)
    container = daemon.container("web")
    wait_until(lambda: len(manager.told_of("READY")) == 1, 5 * SLOWNESS)
    for starts, gone in enumerate(("mount", "socket"), 2):
        before = {name: os.fstat(fd).st_ino for name, fd in manager.store.items()}
        assert daemon.leave() == 0
        if gone == "mount":
            subprocess.run(["umount", "--lazy", daemon.runtime / "live"], check=True)
        else:
            (daemon.runtime / "umweltd.sock").unlink()
        manager.start(daemon)
        for path in (container.live / "proc/uptime", container.config / "proc/cpuinfo"):
            assert path.read_bytes().endswith(b"\n")
        changed = "journal" if gone == "mount" else "listener"
        wait_until(lambda n=starts: len(manager.told_of("READY")) == n, 5 * SLOWNESS)
        assert os.fstat(manager.store[changed]).st_ino != before[changed]
        assert set(manager.store) == set(before)
