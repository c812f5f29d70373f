# SPDX-License-Identifier: Apache-2.0
"""cgroups, the daemon and its control socket, for tests that use the real ones."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
UMWELTD = pathlib.Path(os.environ.get("UMWELT_BIN", ROOT / "build" / "bin")) / "umweltd"
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids")
SYS_CPU = "sys/devices/system/cpu"
CPUS = sorted(os.sched_getaffinity(0))
# Seconds for which what was read of a live file may be read again, doubled.
SHARED = 0.002
# Sanitizers make everything slower.
SLOWNESS = {"asan": 4, "tsan": 12, "vm": 20}.get(os.environ.get("UMWELT_VARIANT", ""), 1)

# Seconds that a test under load goes on.
DURATION = float(os.environ.get("UMWELT_TEST_DURATION", 4))

libc = ctypes.CDLL(None, use_errno=True)


def mountinfo():
    """(mount point, type, super options) of every mount."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        kind, _, options = after.split(" ", 2)
        yield point, kind, options.split(",")


def mounted_below(folder):
    return [point for point, _, _ in mountinfo() if point.startswith(f"{folder}/")]


def _hierarchies():
    v1, v2 = {}, None
    for point, kind, options in mountinfo():
        if kind == "cgroup2" and v2 is None:
            v2 = point
        if kind == "cgroup":
            for option in options:
                v1.setdefault(option, point)
    return {c: v1[c] for c in CONTROLLERS if c in v1}, v2


V1, V2 = _hierarchies()


class Cgroup:
    """One cgroup in every hierarchy, below umwelt-test-PID, with all of the host's CPUs."""

    def __init__(self, name):
        self.base = f"umwelt-test-{os.getpid()}"
        self.name = f"{self.base}/{name}"
        self.roots = {c: pathlib.Path(V1[c]) for c in V1} or {"": pathlib.Path(V2)}
        for root in self.roots.values():
            for folder in (root / self.base, root / self.name):
                if not V1:
                    (folder.parent / "cgroup.subtree_control").write_text(
                        "+cpu +cpuset +memory +pids")
                folder.mkdir(exist_ok=True)
                if (folder / "cpuset.mems").exists() and V1:
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (folder / file).write_text((folder.parent / file).read_text())

    def folder(self, controller):
        return self.roots[controller if V1 else ""] / self.name

    def write(self, controller, file, text):
        (self.folder(controller) / file).write_text(str(text))

    def set_cpus(self, cpus):
        self.write("cpuset", "cpuset.cpus", cpus)

    def set_quota(self, cpus):
        """As many CPUs' time, None for no limit."""
        if V1:
            self.write("cpu", "cpu.cfs_quota_us", -1 if cpus is None else int(cpus * 100000))
        else:
            self.write("cpu", "cpu.max", f"{'max' if cpus is None else int(cpus * 100000)} 100000")

    def set_memory(self, size):
        self.write("memory", "memory.limit_in_bytes" if V1 else "memory.max", size)

    def attach(self, pid):
        for root in self.roots.values():
            (root / self.name / "cgroup.procs").write_text(str(pid))

    def processes(self):
        pids = set()
        for root in self.roots.values():
            with contextlib.suppress(OSError):
                pids |= {int(p) for p in (root / self.name / "cgroup.procs").read_text().split()}
        return pids

    def remove(self):
        deadline = time.monotonic() + 10
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for root in self.roots.values():
            for folder in (root / self.name, root / self.base):
                with contextlib.suppress(OSError):
                    folder.rmdir()


class Container:
    """A registered cgroup with one process, and its pinned tree."""

    def __init__(self, daemon, id, init=("sleep", "infinity"), **record):
        self.daemon, self.id = daemon, id
        self.cgroup = Cgroup(id)
        self.init = subprocess.Popen(init, stdout=subprocess.DEVNULL)
        self.cgroup.attach(self.init.pid)
        try:
            self.record = daemon.call(
                op="register", record={"id": id, "init_pid": self.init.pid, **record})["record"]
        except BaseException:
            self.remove()
            raise
        self.config = daemon.runtime / "config" / id
        self.live = daemon.runtime / "live" / id
        self.pressure = daemon.runtime / "pressure" / id
        self.trees = (self.config, self.live, self.pressure)

    def path(self, file):
        """Where a served file is, whichever connection has it."""
        return next((tree / file for tree in self.trees if (tree / file).exists()),
                    self.live / file)

    def read(self, file):
        return self.path(file).read_text()

    def refresh(self):
        self.daemon.call(op="refresh", id=self.id)

    def remove(self):
        with contextlib.suppress(RuntimeError, OSError):
            self.daemon.call(op="unregister", id=self.id)
        self.init.kill()
        self.init.wait()
        self.cgroup.remove()


class Daemon:
    """umweltd with folders of its own."""

    def __init__(self, folder, *arguments):
        self.runtime, self.state = folder / "run", folder / "state"
        self.log_path = folder / "log"
        self.command = [UMWELTD, "--runtime-dir", self.runtime, "--state-dir", self.state,
                        "--log-level", "debug", *arguments]
        self.process = None
        self.pid = None
        self.containers = []
        self.patience = 10 * SLOWNESS  # of a call, in seconds

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*self.command, "--foreground"], stderr=log)
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or self.answers(), 10 * SLOWNESS)
        assert self.process.poll() is None, self.log()
        return self

    def answers(self):
        try:
            return bool(self.call(op="ping"))
        except OSError:
            return False

    def server_pid(self):
        """Of the process that serves; self.pid is the keeper's."""
        return self.call(op="ping")["server"]

    def call(self, **request):
        """As control::Client does it: again, if the server is replaced before it answers."""
        for attempt in range(20):
            try:
                reply = self._ask(request)
                break
            except (ConnectionResetError, BrokenPipeError):
                if attempt == 19 or request["op"] == "upgrade":
                    raise
        if not reply["ok"]:
            raise RuntimeError(reply["error"])
        return reply

    def _ask(self, request):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(self.patience)
            peer.connect(str(self.runtime / "umweltd.sock"))
            peer.send(json.dumps(request).encode())
            reply = peer.recv(1 << 20)
        if not reply:
            raise ConnectionResetError("the server went away")
        return json.loads(reply)

    def container(self, id, **options):
        self.containers.append(Container(self, id, **options))
        return self.containers[-1]

    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def stop(self):
        """The exit code, after SIGTERM."""
        self.process.terminate()
        return self.process.wait(10 * SLOWNESS)

    def leave(self):
        """The exit code, after SIGQUIT: what a service manager sends for a restart."""
        self.process.send_signal(signal.SIGQUIT)
        return self.process.wait(10 * SLOWNESS)

    def kill(self):
        """Keeper and server at once."""
        server = os.pidfd_open(self.server_pid())
        signal.pidfd_send_signal(server, signal.SIGSTOP)  # or it starts another keeper first
        self.process.kill()
        signal.pidfd_send_signal(server, signal.SIGKILL)
        self.process.wait()
        select.select([server], [], [])
        os.close(server)

    def clean_up(self):
        for container in self.containers:
            container.remove()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10 * SLOWNESS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for point in reversed(mounted_below(self.runtime.parent)):
            libc.umount2(os.fsencode(point), 2)

    def fds(self):
        return len(os.listdir(f"/proc/{self.server_pid()}/fd"))

    def rss_kib(self, kind="VmRSS"):
        """RssShmem is the fixed-size memory that outlives the server; RssAnon is what could leak."""
        status = pathlib.Path(f"/proc/{self.server_pid()}/status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+)", status)[1])


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def cpu_list(text):
    """"0-2,5" as a list of numbers."""
    ids = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ids += range(int(first), int(last or first) + 1)
    return ids


def walk(folder):
    """Every path below a folder: (path, is a directory, is a link)."""
    for entry in os.scandir(folder):
        yield pathlib.Path(entry.path), entry.is_dir(follow_symlinks=False), entry.is_symlink()
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def files_of(container):
    """Every regular file of both of a container's trees."""
    return [path for tree in (container.config, container.live)
            for path, is_directory, is_link in walk(tree) if not is_directory and not is_link]
