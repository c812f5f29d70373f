# SPDX-License-Identifier: Apache-2.0
"""A daemon of our own, and the runtimes of the distribution with folders of their own."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("UMWELT_BIN", ROOT / "build" / "bin"))
# Debian's programs, whatever else is in /usr/local.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SLOWNESS = 3
CPU = sorted(os.sched_getaffinity(0))[-1]
MEMORY_KIB = 256 * 1024

# What a program in a container is told, one "key value" a line, with busybox alone.
SHOW = r"""
echo cpuinfo $(grep -c ^processor /proc/cpuinfo)
echo stat $(grep -c '^cpu[0-9]' /proc/stat)
echo online $(cat /sys/devices/system/cpu/online)
echo memory $(awk '/^MemTotal/{print $2}' /proc/meminfo)
echo swap $(awk '/^SwapTotal/{print $2}' /proc/meminfo)
echo uptime $(cut -d. -f1 /proc/uptime)
echo tasks $(cut -d/ -f2 /proc/loadavg | cut -d' ' -f1)
echo nproc $(nproc)
echo sysinfo $(free | awk '/^Mem/{print $2}')
echo views $(grep -c ' fuse.umwelt ' /proc/self/mountinfo)
"""


def program(name):
    return shutil.which(name, path=SYSTEM_PATH)


def wait_until(condition, seconds=10, what="it"):
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds * SLOWNESS} s"
        time.sleep(0.05)


def parse(text):
    """What SHOW printed."""
    return {words[0]: words[1] if len(words) == 2 else "" for words in
            (line.split(None, 1) for line in text.splitlines()) if words}


def assert_own_resources(text, memory_kib=MEMORY_KIB, answered=True):
    """One CPU. `answered`: syscalls are, too, and CPUs are numbered from 0 then."""
    seen = parse(text)
    assert seen["cpuinfo"] == seen["stat"] == seen["nproc"] == "1", text
    assert seen["memory"] == str(memory_kib), text
    assert seen["online"] == ("0" if answered else str(CPU)), text
    assert not answered or seen["sysinfo"] == str(memory_kib), text
    assert int(seen["uptime"]) < 120, text
    assert int(seen["tasks"]) < 40, text
    assert int(seen["views"]) > 5, text


def host_memory_kib():
    return int(pathlib.Path("/proc/meminfo").read_text().split()[1])


def assert_hosts_resources(text):
    seen = parse(text)
    assert seen["memory"] == str(host_memory_kib()), text
    assert seen["views"] == "0", text


def host_mounts(own="/nowhere"):
    """Mount points of FUSE filesystems of umwelt in the host's namespace: below `own`, and where no
    daemon makes its own."""
    points = {line.split()[4] for line in
              pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
              if " fuse.umwelt " in line}
    return {point for point in points if point.startswith(f"{own}/") or
            not point.startswith(("/tmp/umwelt-", "/run/umwelt/", "/var/lib/umwelt/"))}


class Machine:
    """umweltd in a folder, and the command line that uses it."""

    def __init__(self, folder):
        self.folder = folder
        self.mounts_before = host_mounts()  # maybe of daemons that are no test's
        self.runtime, self.state = folder / "run", folder / "state"
        self.environment = {**os.environ, "PATH": SYSTEM_PATH,
                            "UMWELT_RUNTIME_DIR": str(self.runtime),
                            "UMWELT_STATE_DIR": str(self.state)}
        self.runtime.mkdir()
        self.state.mkdir()
        self.start()

    def start(self):
        self.umwelt("daemon", "start")

    def umwelt(self, *arguments, check=True, **options):
        done = subprocess.run([BIN / "umwelt", *map(str, arguments)], env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60 * SLOWNESS, **options)
        assert not check or done.returncode == 0, (arguments, done)
        return done

    def run(self, *arguments, check=True, **options):
        """Any program, in this machine's environment."""
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 60 * SLOWNESS,
                   "stdin": subprocess.DEVNULL, "env": self.environment, **options}
        done = subprocess.run([str(argument) for argument in arguments], **options)
        assert not check or done.returncode == 0, (arguments, done, self.oci_log())
        return done

    def oci_log(self):
        path = self.runtime / "oci.log"
        return path.read_text() if path.exists() else ""

    def pids(self, guards=False):
        """The daemon's processes, keeper and server; or instead the guard that it leaves, which lets
        the containers' syscalls through while it is away."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "exe").readlink().name == "umweltd":
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    name = (entry / "comm").read_text().strip()
                    if str(self.runtime) in words and guards == (name == "umweltd-guard"):
                        found.append(int(entry.name))
        return found

    def kill(self):
        """SIGKILL of all of it: none is left to start another one."""
        def killed():
            pids = self.pids()
            for action in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, action)
            return not pids
        wait_until(killed, what="the daemon's end")

    def stop(self):
        self.umwelt("daemon", "stop", "--force", check=False)
        wait_until(lambda: not self.pids(), what="the daemon's end")

    def records(self):
        return {json.loads(path.read_text())["id"]
                for path in (self.runtime / "records").glob("*.json")}

    def nothing_left(self):
        wait_until(lambda: not self.records(), what="the end of registrations")

    @contextlib.contextmanager
    def down(self):
        self.stop()
        try:
            yield
        finally:
            self.start()

    def clean_up(self):
        self.kill()
        for point in sorted(host_mounts(self.folder), reverse=True):
            if point.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", point], check=False)

    def remove(self):
        """What podman does at a container's end may still be under way."""
        def removed():
            points = [line.split()[4] for line in
                      pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
            for point in reversed(points):
                if point.startswith(f"{self.folder}/"):
                    subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
            shutil.rmtree(self.folder, ignore_errors=True)
            return not self.folder.exists()
        wait_until(removed, what="the end of its folder")


def attach_all(machine, pid, tmp_path):
    """What it says on a machine that has no other container."""
    whole = tmp_path / "proc"
    whole.mkdir(exist_ok=True)
    script = (f"mount --rbind /proc {whole}; mount -t tmpfs none /proc; mkdir /proc/{pid}; "
              f"mount --bind {whole}/{pid} /proc/{pid}; ln -s {whole}/self /proc/self; "
              f"exec {BIN}/umwelt attach --all")
    done = machine.run("unshare", "--mount", "sh", "-ec", script)
    return done.stdout + done.stderr


def lxc_limits():
    """Lines of a container's configuration: one CPU, half its time, 256 MiB."""
    if pathlib.Path("/sys/fs/cgroup/memory").is_dir():
        return ["lxc.cgroup.memory.limit_in_bytes = 256M", f"lxc.cgroup.cpuset.cpus = {CPU}",
                "lxc.cgroup.cpu.cfs_quota_us = 50000"]
    return ["lxc.cgroup2.memory.max = 256M", f"lxc.cgroup2.cpuset.cpus = {CPU}",
            "lxc.cgroup2.cpu.max = 50000 100000"]


def make_rootfs(folder):
    busybox = program("busybox")
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "sbin", "usr/bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, folder / "bin/busybox")
    for name in ("awk", "cat", "cut", "echo", "free", "grep", "ls", "mount", "nproc", "sh", "sleep", "tr",
                 "true", "umount", "touch"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "sbin/init").symlink_to("../bin/busybox")
    (folder / "etc/os-release").write_text("ID=busybox\n")
    return folder
