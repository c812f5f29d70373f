# SPDX-License-Identifier: Apache-2.0
"""podman, containerd, LXC and systemd-nspawn, unchanged but for `umwelt setup`."""

import pathlib
import subprocess
import time

import engines
import machine as machines
import pytest
from machine import CPU, SHOW, assert_own_resources, program, wait_until


def needs(*names):
    return pytest.mark.skipif(any(program(name) is None for name in names),
                              reason=f"needs {', '.join(names)}")


def files_of(folder):
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
            for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("runtime, file, text", [
    ("docker", "daemon.json", '{"debug" :true }'), ("docker", "daemon.json", None),
    ("podman", "hooks.d", None), ("crio", "hooks.d", None), ("cdi", "cdi.json", None),
    ("containerd", "config.toml", "version = 2 # two\n[grpc]\n  address='/x'\n"),
    ("containerd", "config.toml", None), ("lxc", "common.conf.d/50.conf", None),
    ("lxc", "common.conf.d/50.conf", "# theirs"), ("nspawn", "unit.d/umwelt.conf", None)])
def test_setup_and_undo(machine, tmp_path, runtime, file, text):
    """Every byte and every mode is as before."""
    etc = tmp_path / "etc"
    path = etc / file
    (path if file == "hooks.d" else path.parent).mkdir(parents=True)
    (etc / "other").write_text("other\n")
    if text is not None:
        path.write_text(text)
        path.chmod(0o640)
    before = files_of(etc)
    own = machine.environment
    machine.environment = {**own, "UMWELT_STATE_DIR": str(tmp_path / "state")}
    try:
        machine.umwelt("setup", runtime, "--file", path)
        assert files_of(etc) != before
        done = machine.umwelt("setup", runtime, "--undo")
        # Until then it starts what is gone when the package is.
        assert ("next: systemctl" in done.stderr) == (runtime in ("docker", "containerd", "crio",
                                                                  "nspawn"))
    finally:
        machine.environment = own
    assert files_of(etc) == before
    # The links stay: containers that run are stopped through them.
    assert {path.name for path in (tmp_path / "state").rglob("*")} == {"runtimes", "runc", "crun"}


@needs("podman", "conmon")
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_podman(machine, image, runtime):
    if program(runtime) is None:
        pytest.skip(f"needs {runtime}")
    podman = engines.Podman(machine, image, runtime)
    limits = ("-m", "256m", "--cpus", "0.5", "--cpuset-cpus", CPU)
    try:
        assert_own_resources(podman("run", "--rm", *limits, "box:1", "sh", "-c", SHOW).stdout,
                             answered=False)
        name = f"p{time.monotonic_ns()}"
        podman("run", "-d", "--name", name, *limits, "box:1", "sleep", "600")
        assert_own_resources(podman("exec", name, "sh", "-c", SHOW).stdout, answered=False)
        podman("restart", "-t", "0", name)
        assert_own_resources(podman("exec", name, "sh", "-c", SHOW).stdout, answered=False)
        podman("rm", "-f", "-t", "0", name)
    finally:
        podman.stop()
    machine.nothing_left()
    assert machine.oci_log() == ""


@needs("containerd", "ctr")
def test_containerd(machine, image):
    containerd = engines.Containerd(machine, image)
    try:
        done = containerd("run", "--rm", "--memory-limit", machines.MEMORY_KIB * 1024,
                          "--cpu-quota", 50000, "--cpu-period", 100000,
                          "docker.io/library/box:1", "box", "sh", "-c", SHOW)
        assert_own_resources(done.stdout)
    finally:
        containerd.stop()
    machine.nothing_left()
    assert machine.oci_log() == ""


@needs("containerd", "ctr")
@pytest.mark.parametrize("pid", ["own", "shared"])
def test_cri(machine, image, pid):
    """A pod as the kubelet starts it, with a pid namespace for each container, or one for all."""
    cri = pytest.importorskip("cri", reason="needs grpc for Python")
    containerd = engines.Containerd(machine, image)
    kubelet = cri.Kubelet(containerd.socket)
    image, wait = "docker.io/library/box:1", ["sleep", "600"]
    show = ["sh", "-c", SHOW]
    try:
        pod = kubelet.run_pod("pod", cri.CONTAINER if pid == "own" else cri.POD)
        box = kubelet.start(pod, "box", image, wait,
                            cri.resources(str(CPU), machines.MEMORY_KIB * 1024))
        assert len(machine.records()) == 1  # the pod's sandbox has none
        small = kubelet.start(pod, "small", image, wait, cri.resources(str(CPU), 64 << 20))
        assert_own_resources(kubelet.exec(box, show))
        assert_own_resources(kubelet.exec(small, show), 64 << 10)
        kubelet.update(box, cri.resources(str(CPU), 192 << 20))
        wait_until(lambda: machines.parse(kubelet.exec(box, show))["memory"] == str(192 << 10),
                   what="the new limit")
        assert_own_resources(kubelet.exec(box, show), 192 << 10)
        assert_own_resources(kubelet.exec(small, show), 64 << 10)
        for container in (box, small):
            kubelet.remove(container)
        kubelet.remove_pod(pod)
        machine.nothing_left()
    finally:
        containerd.stop()
    assert machine.oci_log() == ""


@needs("lxc-start")
def test_lxc_with_an_init_that_mounts_its_run(machine, tmp_path):
    """As systemd does where nothing is mounted: docs/runtimes.md has a line for that."""
    rootfs = machines.make_rootfs(tmp_path / "rootfs")
    (rootfs / "sbin/init").unlink()
    (rootfs / "sbin/init").write_text(
        "#!/bin/sh\ngrep -q ' /run ' /proc/mounts || mount -t tmpfs tmpfs /run\n"
        "touch /run/mine && ls /run >/seen\n")
    (rootfs / "sbin/init").chmod(0o755)
    hooks, config = tmp_path / "conf.d", tmp_path / "config"
    (tmp_path / "lxc").mkdir()
    machine.umwelt("setup", "lxc", "--file", hooks / "50-umwelt.conf")
    text = (machines.ROOT / "docs/runtimes.md").read_text()
    entry = next(line.strip() for line in text.splitlines() if " lxc.mount.entry = tmpfs run" in line)
    try:
        for lines, seen in (([], ["mine"]), ([entry], ["container_info", "container_info.json", "mine"])):
            config.write_text("\n".join([
                f"lxc.rootfs.path = dir:{rootfs}", "lxc.uts.name = box", "lxc.net.0.type = none",
                "lxc.mount.auto = proc:mixed sys:ro", f"lxc.include = {hooks}",
                *machines.lxc_limits(), *lines]) + "\n")
            machine.run("lxc-start", "-F", "-P", tmp_path / "lxc", "-n", "box", "-f", config)
            assert (rootfs / "seen").read_text().split() == seen
            assert list((rootfs / "run").iterdir()) == []
    finally:
        machine.umwelt("setup", "lxc", "--undo")
    machine.nothing_left()
    assert machine.oci_log() == ""


@needs("lxc-execute")
def test_lxc(machine, tmp_path):
    rootfs = machines.make_rootfs(tmp_path / "rootfs")
    hooks = tmp_path / "conf.d"
    (tmp_path / "lxc").mkdir()
    machine.umwelt("setup", "lxc", "--file", hooks / "50-umwelt.conf")
    config = tmp_path / "config"
    config.write_text("\n".join([
        f"lxc.rootfs.path = dir:{rootfs}", "lxc.uts.name = box", "lxc.net.0.type = none",
        "lxc.mount.auto = proc:mixed sys:ro", f"lxc.include = {hooks}",
        *machines.lxc_limits()]) + "\n")
    try:
        done = machine.run("lxc-execute", "-P", tmp_path / "lxc", "-n", "box", "-f", config, "--",
                           "/bin/sh", "-c", SHOW)
        assert_own_resources(done.stdout.replace("\r", ""), answered=False)
    finally:
        machine.umwelt("setup", "lxc", "--undo")
    assert not (hooks / "50-umwelt.conf").exists()
    assert list((rootfs / "run").iterdir()) == []
    machine.nothing_left()
    assert machine.oci_log() == ""


@needs("systemd-nspawn")
def test_nspawn(machine, tmp_path):
    """It has no hook: the container is given its files when it runs."""
    rootfs = machines.make_rootfs(tmp_path / "rootfs")
    script = f"until [ -e /etc/go ]; do sleep 0.1; done; {SHOW}"
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            [program("systemd-nspawn"), "-q", "-D", rootfs, "--register=no", "--keep-unit",
             "--as-pid2", "/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, env=machine.environment)
    try:
        def inner():
            """The container's init: the child of nspawn that is the first of its namespace."""
            for status in pathlib.Path("/proc").glob("[0-9]*/status"):
                try:
                    text = status.read_text()
                except OSError:
                    continue
                pids = text.split("NSpid:")[1].split("\n")[0].split() if "NSpid:" in text else []
                if f"PPid:\t{process.pid}\n" in text and len(pids) == 2 and pids[1] == "1":
                    return int(pids[0])
            return 0
        wait_until(inner, 20, "the start of the container")
        own = pathlib.Path("/proc", str(inner()), "root", "etc/os-release")
        wait_until(lambda: own.exists() and own.read_text() == "ID=busybox\n", 20, "its root")
        machine.umwelt("attach", inner())
        (rootfs / "etc/go").touch()
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    seen = machines.parse((tmp_path / "out").read_text().replace("\r", ""))
    assert int(seen["views"]) > 5, (tmp_path / "out").read_text()
    assert int(seen["uptime"]) < 120
    machine.nothing_left()
