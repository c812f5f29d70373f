# SPDX-License-Identifier: Apache-2.0
"""The real command line, and what it may leave behind."""

import contextlib
import errno
import json
import os
import pathlib
import pty
import select
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("UMWELT_BIN", ROOT / "build" / "bin"))
UMWELT = BIN / "umwelt"
# Sanitizers and emulation make everything slower.
SLOWNESS = {"asan": 4, "tsan": 12, "vm": 20}.get(os.environ.get("UMWELT_VARIANT", ""), 1)
CPUS = sorted(os.sched_getaffinity(0))
# What must not be skipped for want of a program, as tests/summary.py has it.
REQUIRED = set(os.environ.get("UMWELT_REQUIRE", "").split(","))


def _hierarchies():
    roots = set()
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            roots.add(pathlib.Path(before.split()[4]))
    return sorted(roots)


HIERARCHIES = _hierarchies()


def has_v1(controller):
    return any(controller in root.name.split(",") for root in HIERARCHIES)


def runs(program):
    """Whether the kernel runs programs of this kind: it may be built without those of 32 bits."""
    try:
        subprocess.run([program], capture_output=True)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return False
    return True


def environment_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def parent_of(pid):
    with contextlib.suppress(OSError):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def without_gcov(text):
    """gcov complains where a user or a root filesystem has no place for its counts."""
    return "".join(line for line in text.splitlines(True) if not line.startswith("profiling:"))


class Umwelt:
    def __init__(self, folder):
        self.folder = folder
        self.runtime, self.state = folder / "run", folder / "state"
        self.environment = {**os.environ, "UMWELT_RUNTIME_DIR": str(self.runtime),
                            "UMWELT_STATE_DIR": str(self.state)}

    def start(self, *arguments, **options):
        return subprocess.Popen([UMWELT, *map(str, arguments)], env=self.environment, text=True,
                                **options)

    def __call__(self, *arguments, **options):
        options = {"capture_output": True, "timeout": 60 * SLOWNESS, **options}
        if "input" not in options and "stdin" not in options:
            options["stdin"] = subprocess.DEVNULL
        done = subprocess.run([UMWELT, *map(str, arguments)], env=self.environment, text=True,
                              **options)
        if os.environ.get("UMWELT_VARIANT") == "coverage" and done.stderr:
            done.stderr = without_gcov(done.stderr)
        return done

    def ok(self, *arguments, **options):
        """The output of a command that must succeed without a word on stderr."""
        done = self(*arguments, **options)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
        return done.stdout

    def run(self, *arguments, **options):
        return self.ok("run", "--rm", *arguments, **options)

    def sh(self, *arguments, **options):
        """The last argument is a script."""
        return self.run(*arguments[:-1], "--", "sh", "-c", arguments[-1], **options)

    @contextlib.contextmanager
    def detached(self, *arguments):
        """The name of a container that runs as long as the block."""
        name = f"t{os.getpid()}-{time.monotonic_ns()}"
        self.ok("run", "--detach", "--name", name, *arguments)
        try:
            yield name
        finally:
            self("rm", "--force", name)

    def inspect(self, name):
        answer = json.loads(self.ok("inspect", "--json", name))
        return answer[0] if isinstance(answer, list) else answer

    def launched(self, name):
        """The launcher's own state of a container."""
        for path in (self.runtime / "launched").glob("*/state.json"):
            state = json.loads(path.read_text())
            if name in (state["spec"]["name"], state["spec"]["id"]):
                return state
        return None

    def root(self, name):
        """A container's root directory, as its first process sees it."""
        return pathlib.Path("/proc", str(self.launched(name)["init_pid"]), "root")

    def own(self, pid):
        """Whether a process, or whoever started it, is ours and not of another test run."""
        key = f"UMWELT_RUNTIME_DIR={self.runtime}".encode()
        while pid > 1:
            if key in environment_of(pid):
                return True
            pid = parent_of(pid)
        return False

    def traces(self):
        """What a container could leave behind on the host."""
        found = set()
        for root in HIERARCHIES:
            for group in root.glob("umwelt/*/"):
                with contextlib.suppress(OSError):
                    pids = [int(p) for p in (group / "cgroup.procs").read_text().split()]
                    if not pids or any(self.own(pid) for pid in pids):
                        found.add(f"cgroup {group}")
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        for line in mounts.splitlines():
            point = line.split()[4]
            if point.startswith(f"{self.folder}/"):
                found.add(f"mount {point}")
        for entry in (self.runtime / "launched").glob("*"):
            found.add(f"state {entry.name}")
        for entry in (self.runtime / "records").glob("*.json"):
            found.add(f"registration {entry.name}")
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "exe").readlink().name.startswith("umwelt") and self.own(
                            int(entry.name)):
                        found.add(f"process {entry.name} {(entry / 'exe').readlink().name}")
        return {trace for trace in found
                if not trace.endswith(".lock") and "umweltd" not in trace
                and trace not in (f"mount {self.runtime}/config", f"mount {self.runtime}/live",
                                  f"mount {self.runtime}/pressure", f"mount {self.state}/proc",
                                  f"mount {self.state}/proc/pressure", f"mount {self.state}/sys")}

    def wait_for_traces(self, expected, seconds=5):
        deadline = time.monotonic() + seconds * SLOWNESS
        while (left := self.traces() - expected) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left

    def clean_up(self):
        names = self("ps", "--all", "--quiet").stdout.split()
        if names:
            self("rm", "--force", *names)
        self("daemon", "stop", "--force")


class Terminal:
    """A pseudo-terminal with a program in it, as a person would use it."""

    def __init__(self, umwelt, *arguments, rows=40, columns=120):
        self.output = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ.update(umwelt.environment, TERM="xterm")
            os.execv(UMWELT, ["umwelt", *map(str, arguments)])
        self.pid = pid
        self.resize(rows, columns)

    def resize(self, rows, columns):
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def write(self, text):
        os.write(self.fd, text.encode())

    def read_until(self, text, seconds=20):
        deadline = time.monotonic() + seconds * SLOWNESS
        while text not in self.output:
            assert time.monotonic() < deadline, (text, self.output)
            if not self._read(0.2):
                break
        assert text in self.output, (text, self.output)

    def _read(self, seconds):
        """False at the end."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.output += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def wait(self, seconds=20):
        """The exit code."""
        deadline = time.monotonic() + seconds * SLOWNESS
        while self._read(0.1):
            assert time.monotonic() < deadline, self.output
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def make_rootfs(path, busybox):
    """A small root filesystem: a static busybox."""
    for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
        (path / directory).mkdir(parents=True)
    shutil.copy(busybox, path / "bin/busybox")
    for name in ("sh", "cat", "ls", "id", "mount", "nproc", "grep", "stat", "touch", "sleep",
                 "echo", "env", "true", "ps", "test", "mknod", "dd", "readlink", "chmod", "pwd"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/tmp:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\napp:x:1235:\nextra:x:77:app\n")
    return path


def cpu_list(text):
    """"0-2,5" as a list of numbers."""
    ids = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ids += range(int(first), int(last or first) + 1)
    return ids
