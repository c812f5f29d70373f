# SPDX-License-Identifier: Apache-2.0
"""Containers of runc and crun that run already, and the command line."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile

import pytest

import machine as machines
from each import every_runtime
from machine import attach_all


@contextlib.contextmanager
def detached(bundle, runtime, tmp_path, name="box"):
    """The pid of a container that sleeps."""
    config = bundle.read()
    config["process"]["args"] = ["/bin/sh", "-c", "exec sleep 600"]
    bundle.write(config)
    command, environment = bundle.command(runtime, "run", "--detach", "--pid-file",
                                          tmp_path / "pid", "--bundle", bundle.folder, name)
    with open(tmp_path / "out", "wb") as out:
        bundle.machine.run(*command, env=environment, capture_output=False, stdout=out, stderr=out)
    try:
        yield (tmp_path / "pid").read_text()
    finally:
        command, environment = bundle.command(runtime, "delete", "--force", name)
        bundle.machine.run(*command, env=environment)


def views_of(pid):
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text()
    return len(re.findall(" - fuse.umwelt ", mounts))


@every_runtime
def test_attach_of_one_that_the_hook_registered(bundle, runtime, machine, tmp_path):
    """It stays one record with one set of files, also where another daemon has put its own over."""
    with detached(bundle, runtime, tmp_path) as pid:
        views, records = views_of(pid), machine.records()
        assert f" 0 mounted, {views} there already" in machine.umwelt("attach", pid).stdout
        assert machine.records() == records == {"box"}
        assert attach_all(machine, pid, tmp_path) == ""
        other = machines.Machine(pathlib.Path(tempfile.mkdtemp(prefix="umwelt-rt-", dir="/tmp")))
        try:
            other.umwelt("attach", pid)
            assert views_of(pid) == 2 * views
            for daemon in (machine, other, machine, other):
                daemon.umwelt("daemon", "reattach")
            assert views_of(pid) == 2 * views
        finally:
            other.clean_up()
            other.remove()
    machine.nothing_left()


def test_attach_keeps_what_the_container_chose(bundle, machine, tmp_path):
    config = bundle.read()
    config["annotations"] = {"umwelt.views": "memory"}
    bundle.write(config)
    with detached(bundle, "runc", tmp_path) as pid:
        views = views_of(pid)
        assert f" 0 mounted, {views} there already" in machine.umwelt("attach", pid).stdout
        machine.umwelt("attach", "--views", "memory,cpu", pid)
        assert views_of(pid) > views
    machine.nothing_left()


def cgroups_of(pid):
    """The directories of a process's cgroups below the root, by what /proc says of its mounts."""
    roots = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ", 2)
        for key in options.split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []:
            roots.setdefault(key, pathlib.Path(before.split()[4]))
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if path != "/" and controllers.split(",")[0] in roots:
            yield roots[controllers.split(",")[0]] / path.lstrip("/")


def move(pid, folder, name):
    (folder / name).mkdir(exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / "tasks").exists() and (folder / file).exists():
            (folder / name / file).write_text((folder / file).read_text())
    (folder / name / "cgroup.procs").write_text(str(pid))


@every_runtime
@pytest.mark.parametrize("namespace, name", [("cgroup", "init"), ("cgroup", "init.scope"),
                                             (None, "init.scope")])
def test_attach_of_one_whose_init_has_moved_itself(bundle, runtime, namespace, name, machine,
                                                   tmp_path):
    """As systemd does, and docker in docker: all of the container counts, not process 1 alone."""
    config = bundle.read()
    config["annotations"] = {"umwelt": "off"}
    spaces = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "cgroup"]
    config["linux"]["namespaces"] = spaces + ([{"type": namespace}] if namespace else [])
    bundle.write(config)
    with detached(bundle, runtime, tmp_path) as pid:
        folders = list(cgroups_of(pid))
        assert folders
        for folder in folders:
            move(pid, folder, name)
        command, environment = bundle.command(runtime, "exec", "--detach", "--pid-file",
                                              tmp_path / "busy", "box", "sh", "-c", "while :; do :; done")
        with open(tmp_path / "out", "wb") as out:
            machine.run(*command, env=environment, capture_output=False, stdout=out, stderr=out)
        busy = (tmp_path / "busy").read_text()
        for folder in folders:
            move(busy, folder, "work")
        machine.umwelt("attach", pid)
        root = pathlib.Path(f"/proc/{pid}/root")

        def user():
            return int((root / "proc/stat").read_text().split()[1])

        def tasks():
            return int((root / "proc/loadavg").read_text().split()[3].partition("/")[2])

        first = user()
        machines.wait_until(lambda: user() > first + 20, what="CPU time of all of the container")
        assert tasks() == 2
        assert f"MemTotal: {machines.MEMORY_KIB:>14} kB" in (root / "proc/meminfo").read_text()
        os.kill(int(busy), signal.SIGKILL)
        machines.wait_until(lambda: tasks() == 1, what="the end of the other process")
    machine.nothing_left()


def test_attach_of_one_whose_cgroup_steers_terminals(bundle, machine, tmp_path):
    """A container that may make cgroups gives them any name but one with a line end."""
    config = bundle.read()
    config["annotations"] = {"umwelt": "off"}
    bundle.write(config)
    with detached(bundle, "runc", tmp_path) as pid:
        for folder in list(cgroups_of(pid)):
            move(pid, folder, "docker-\033]0;name\a\x9bx.scope")
        assert "docker ?]0;name???x: " in machine.umwelt("attach", pid).stdout
    machine.nothing_left()


def test_ps_and_stop_of_one_of_another_runtime(bundle, machine, tmp_path):
    with detached(bundle, "runc", tmp_path) as pid:
        entry, = json.loads(machine.umwelt("ps", "--all", "--json").stdout)
        assert entry["command"] == ["sleep", "600"] and entry["pid"] == int(pid), entry
        assert (entry["finished"], entry["exit_code"], entry["oom_killed"]) == ("", None, False)
        assert re.search(r"\(registered\) +0\.5 +256MiB +box", machine.umwelt("ps", "-a").stdout)
        for command in (["stop", "box"], ["exec", "box", "true"], ["logs", "box"]):
            done = machine.umwelt(*command, check=False)
            assert "container box was not started by umwelt: use its own runtime" in done.stderr
        for name in ("box", "bo"):
            found, = json.loads(machine.umwelt("inspect", name).stdout)
            assert found["registered"]["id"] == "box" and found["launched"] is None, found
            assert machine.umwelt("explain", name, "/proc/meminfo").stdout.startswith("MemTotal:")
            assert ": 0 mounted" in machine.umwelt("attach", name).stdout
        refused = machine.umwelt("daemon", "stop", check=False)
        assert refused.returncode == 1, refused
        assert "1 running container would see no /proc/meminfo any more" in refused.stderr
    machine.nothing_left()


def test_all_leaves_those_of_another_daemon(machine, tmp_path):
    other = ["--runtime-dir", tmp_path / "run", "--state-dir", tmp_path / "state"]
    id = machine.umwelt(*other, "run", "--detach", "--name", "other", "sleep", "600").stdout.strip()
    try:
        assert id not in machine.umwelt("attach", "--all").stdout
        assert f"umwelt {id}: 0 mounted" in machine.umwelt(*other, "attach", "--all").stdout
    finally:
        machine.umwelt(*other, "rm", "--force", "other")
        machine.umwelt(*other, "daemon", "stop")
    machine.nothing_left()


CALLS = r"""
#include <stdio.h>
#include <sys/sysinfo.h>
#include <unistd.h>
int main(void) {
  for (;; usleep(20000)) {
    struct sysinfo info;
    if (sysinfo(&info) != 0) perror("failed");
    else printf("%lu\n", info.totalram * info.mem_unit / 1024);
    fflush(stdout);
  }
}
"""


@every_runtime
def test_one_guard_for_all_listeners(bundle, runtime, machine, tmp_path):
    """Syscalls of each container are let through while the daemon is away, and never fail."""
    def guard():
        return machine.pids(guards=True)

    def environment_of(pid):
        with contextlib.suppress(OSError):
            return pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        return b""

    def listeners(pid):
        with contextlib.suppress(OSError):  # it has just ended, or closed one
            links = [os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
            return sum("seccomp" in link for link in links)
        return 0

    own, hosts = f"{machines.MEMORY_KIB}\n", f"{machines.host_memory_kib()}\n"
    source = tmp_path / "calls.c"
    source.write_text(CALLS)
    subprocess.run(["gcc", "-O1", "-static", "-o", bundle.folder / "rootfs/bin/calls", source],
                   check=True)
    config = bundle.read()
    config["process"]["args"] = ["/bin/calls"]
    bundle.write(config)
    names, outputs = ["one", "two"], {}
    try:
        for name in names:
            command, environment = bundle.command(runtime, "run", "--detach", "--bundle",
                                                  bundle.folder, name)
            outputs[name] = tmp_path / name
            with open(outputs[name], "wb") as out:
                machine.run(*command, env=environment, capture_output=False, stdout=out, stderr=out)

        def all_see(wanted):
            def they_do():
                texts = [outputs[name].read_text() for name in names]
                assert not any("failed" in text for text in texts), texts
                return all(text.endswith(wanted) for text in texts)
            machines.wait_until(they_do, what=f"{wanted} in {names}")

        all_see(own)
        first = guard()
        assert len(first) == 1
        machine.umwelt("daemon", "upgrade")
        machines.wait_until(lambda: all(b"LISTEN_FDS=" in environment_of(pid)
                                        for pid in machine.pids()), what="the next keeper")
        assert guard() == first
        os.kill(first[0], signal.SIGKILL)
        machines.wait_until(lambda: first[0] not in guard(), what="the guard's end")
        machines.wait_until(lambda: any(listeners(pid) == 2 for pid in guard()),
                            what="another guard that has both listeners")
        second = guard()
        assert len(second) == 1
        machine.kill()
        all_see(hosts)
        assert guard() == second
        machine.start()
        all_see(own)
    finally:
        for name in names:
            command, environment = bundle.command(runtime, "delete", "--force", name)
            machine.run(*command, env=environment, check=False)
    machine.nothing_left()
    machine.stop()
    machines.wait_until(lambda: not guard(), what="the guard's end")
    machine.start()
