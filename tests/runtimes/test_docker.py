# SPDX-License-Identifier: Apache-2.0
"""docker, unchanged but for `umwelt setup docker`."""

import json
import os

import engines
import machine as machines
import pytest
from machine import (CPU, SHOW, assert_hosts_resources, assert_own_resources, attach_all, program,
                     wait_until)

pytestmark = pytest.mark.skipif(program("dockerd") is None or program("docker") is None,
                                reason="needs dockerd, docker")
TEN = 10


@pytest.fixture(scope="module")
def docker(machine, image):
    it = engines.Docker(machine, image)
    yield it
    it.stop()


def show(docker, name):
    return docker("exec", name, "sh", "-c", SHOW).stdout


def test_run(docker):
    done = docker("run", "--rm", "--network", "none", "-m", "256m", "--cpus", "0.5",
                  "--cpuset-cpus", CPU, "box:1", "sh", "-c", SHOW)
    assert_own_resources(done.stdout)
    docker.machine.nothing_left()


def test_exec_sees_the_same_and_update_shows(docker):
    name = docker.start()
    assert_own_resources(show(docker, name))
    docker("update", "-m", "128m", "--memory-swap", "256m", name)
    wait_until(lambda: machines.parse(show(docker, name))["memory"] == str(128 * 1024), 1,
               "the new limit")
    docker("update", "-m", "256m", "--memory-swap", "512m", name)
    docker("restart", "-t", "0", name)
    assert_own_resources(show(docker, name))
    docker("rm", "-f", name)
    docker.machine.nothing_left()
    assert docker.machine.oci_log() == ""


def test_name_and_labels(docker):
    name = docker.start("--label", "umwelt.views=memory,info")
    mounts = docker("exec", name, "cat", "/proc/self/mountinfo").stdout.splitlines()
    shown = {line.split()[4] for line in mounts if " fuse.umwelt " in line}
    assert {"/proc/meminfo", "/proc/vmstat", "/run/container_info"} <= shown
    assert not shown & {"/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu"}
    info = docker("exec", name, "cat", "/run/container_info").stdout
    assert f"CONTAINER_NAME='{name}'" in info
    docker("rm", "-f", name)
    off = docker.start("-e", "umwelt=off")
    assert_hosts_resources(show(docker, off))
    docker("rm", "-f", off)


def test_without_a_daemon(docker):
    with docker.machine.down():
        done = docker("run", "--rm", "--network", "none", "box:1", "sh", "-c", SHOW)
        assert_hosts_resources(done.stdout)
        refused = docker("run", "--rm", "--network", "none", "--label", "umwelt=required", "-e",
                         "umwelt=off", "box:1", "true", check=False)
        assert refused.returncode != 0
        assert "umwelt daemon start" in docker.machine.oci_log()
    (docker.machine.runtime / "oci.log").unlink()


def test_attach_to_what_runs_already(docker):
    """Started when no daemon ran."""
    with docker.machine.down():
        name = docker.start()
    (docker.machine.runtime / "oci.log").unlink()
    assert_hosts_resources(show(docker, name))
    pid = docker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    answer = docker.machine.umwelt("attach", "--json", pid)
    assert json.loads(answer.stdout)["mounted"] > 5
    assert_own_resources(show(docker, name), answered=False)
    again = json.loads(docker.machine.umwelt("attach", "--json", pid).stdout)
    assert again["mounted"] == 0 and again["present"] > 5
    docker("rm", "-f", name)
    docker.machine.nothing_left()


def test_kill_of_the_daemon(docker):
    """Every process of it, while containers run: what they read is right again after its start."""
    names = [docker.start() for _ in range(TEN)]
    before = docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", *names).stdout
    for name in names:
        assert_own_resources(show(docker, name))
    docker.machine.kill()
    # Nothing hangs meanwhile, and what asks the kernel is told of the host.
    assert docker("exec", names[0], "cat", "/proc/meminfo", check=False).returncode == 1
    assert docker("exec", names[0], "nproc").stdout != ""
    docker.machine.start()

    def right(name):
        try:
            assert_own_resources(show(docker, name))
        except (AssertionError, KeyError):
            return False
        return True
    for name in names:
        wait_until(lambda: right(name), 10, "its own figures in " + name)
    assert docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", *names).stdout == before
    docker("rm", "-f", *names)
    docker.machine.nothing_left()


def test_exec_without_a_daemon(docker):
    """docker writes down where a container's syscalls are answered, and goes there at every exec."""
    name = docker.start()
    with docker.machine.down():
        # The kernel's own answer, first to a program that stays.
        docker("update", "--cpuset-cpus", f"0-{CPU}", name)
        docker("exec", "-d", name, "sh", "-c", "while sleep 0.1; do nproc >/tmp/nproc; done")
        assert docker("exec", name, "nproc").stdout.strip() == str(os.cpu_count())
        wait_until(lambda: docker("exec", name, "cat", "/tmp/nproc", check=False).stdout.strip() ==
                   str(os.cpu_count()), 5, "nproc")
    assert_own_resources(show(docker, name))
    wait_until(lambda: docker("exec", name, "cat", "/tmp/nproc").stdout == "1\n", 5,
               "the daemon's answer to what began without it")
    docker("rm", "-f", name)
    docker.machine.nothing_left()


def test_undo_is_byte_exact(machine, tmp_path):
    for number, text in enumerate((
            '{}', '{"debug":true}', '{\n\t"runtimes" : { "other":{"path":"/x"} },\n\n  "x":'
            '123456789012345678901234567890, "default-runtime":"runc"}\n\n', ' { } ',
            '{"a":[1,2,{"b":null}],\r\n"runtimes":{}}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        machine.umwelt("setup", "docker", "--file", path, "--undo", check=False)
        dry = machine.umwelt("setup", "docker", "--file", path, "--dry-run").stdout
        assert "umwelt-runtime" in dry and path.read_bytes() == text.encode()
        environment = {"UMWELT_STATE_DIR": str(tmp_path / f"state{number}")}
        own = machine.environment
        machine.environment = {**own, **environment}
        try:
            machine.umwelt("setup", "docker", "--file", path)
            after = json.loads(path.read_text())
            assert after["default-runtime"] == "umwelt"
            machine.umwelt("setup", "docker", "--file", path)
            assert json.loads(path.read_text()) == after
            machine.umwelt("setup", "docker", "--undo")
        finally:
            machine.environment = own
        assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("text", [
    None, "{}", '{\n  "debug": true\n}\n', '{"runtimes": {}, "default-runtime": "runc"}',
    '{"default-runtime": "gpu", "runtimes": {"gpu": {"path": "/usr/bin/crun"}}}'])
def test_undo_leaves_what_was_written_since(machine, tmp_path, text):
    path = tmp_path / "daemon.json"
    if text is not None:
        path.write_text(text)
    own = machine.environment
    machine.environment = {**own, "UMWELT_STATE_DIR": str(tmp_path / "state")}
    try:
        machine.umwelt("setup", "docker", "--file", path)
        edited = path.read_text().rstrip()[:-1].rstrip() + ',\n  "mtu": 1400\n}\n'
        path.write_text(edited)
        machine.umwelt("setup", "docker", "--undo")
        assert json.loads(path.read_text()) == {**json.loads(text or "{}"), "mtu": 1400}
        assert "mtu\": 1400\n}\n" in path.read_text()

        # What is ours in a way that no setup writes is somebody else's to take out.
        machine.umwelt("setup", "docker", "--file", path)
        path.write_text(path.read_text().replace('"mtu"', '"exec-opts": ["umwelt-runtime"], "mtu"'))
        edited = path.read_text()
        done = machine.umwelt("setup", "docker", "--undo", check=False)
        assert done.returncode == 1 and "by hand" in done.stderr and path.read_text() == edited
    finally:
        machine.environment = own


def test_a_gpus_runtime_stays_behind_ours(machine, tmp_path):
    """With its arguments, and also where it is in no PATH and another one has its name."""
    path, real = tmp_path / "daemon.json", tmp_path / "opt/runc"
    real.parent.mkdir()
    real.write_text('#!/bin/sh\necho gpu "$@"\n')
    real.chmod(0o755)
    path.write_text(json.dumps({"default-runtime": "gpu", "runtimes": {
        "gpu": {"path": str(real), "runtimeArgs": ["--all"]}}}))
    own = machine.environment
    machine.environment = {**own, "UMWELT_STATE_DIR": str(tmp_path / "state")}
    try:
        machine.umwelt("setup", "docker", "--file", path.name, cwd=tmp_path)
        entry = json.loads(path.read_text())["runtimes"]["umwelt"]
        assert machine.run(entry["path"], "state", "x").stdout == "gpu state x\n"
        assert entry["runtimeArgs"] == ["--all"]
        machine.umwelt("setup", "docker", "--undo")
        assert machine.run(entry["path"], "state", "x").stdout == "gpu state x\n"
    finally:
        machine.environment = own


def test_attach_of_all_leaves_one_that_says_off(docker, tmp_path):
    name = docker.start("-e", "umwelt=off")
    pid = docker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    assert attach_all(docker.machine, pid, tmp_path) == ""
    assert not docker.machine.records()
    docker.machine.umwelt("attach", pid)
    assert docker.machine.records() == {docker("inspect", "-f", "{{.Id}}", name).stdout.strip()}
    docker("rm", "-f", name)
    docker.machine.nothing_left()


def test_attach_to_one_with_the_hosts_process_ids(docker, tmp_path):
    name = docker.start("--pid=host", "--label", "umwelt=off")
    pid = docker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    id = docker("inspect", "-f", "{{.Id}}", name).stdout.strip()
    said = attach_all(docker.machine, pid, tmp_path)
    assert id in said and f"umwelt attach {pid}" in said, said
    assert_hosts_resources(show(docker, name))
    docker.machine.umwelt("attach", pid)
    assert docker.machine.records() == {id}
    seen = machines.parse(show(docker, name))
    assert (seen["memory"], seen["cpuinfo"]) == (str(machines.MEMORY_KIB), "1"), seen
    assert attach_all(docker.machine, pid, tmp_path) == ""
    docker("rm", "-f", name)
    docker.machine.nothing_left()
