# SPDX-License-Identifier: Apache-2.0
"""umwelt doctor finds what is wrong, and says what mends it."""

import contextlib
import json
import os

import machine as machines
import pytest
from machine import program


def examine(machine):
    done = machine.umwelt("doctor", "--json", check=False)
    answer = json.loads(done.stdout)
    assert (done.returncode == 0) == answer["ok"]
    return answer


def failures(answer):
    return [finding for finding in answer["findings"] if finding["level"] == "failure"]


def test_a_machine_in_order(machine):
    answer = examine(machine)
    assert answer["ok"], failures(answer)
    checks = {finding["check"] for finding in answer["findings"]}
    assert {"fuse", "kernel", "cgroups", "daemon", "mounts", "containers", "leaks",
            "disk"} <= checks


def test_no_daemon(machine):
    with machine.down():
        wrong = failures(examine(machine))
        assert [finding["check"] for finding in wrong] == ["daemon"]
        assert "umwelt daemon start" in wrong[0]["mend"]


def test_who_may_not_look_is_told_so(machine):
    checks = ["daemon"] if os.stat("/dev/fuse").st_mode & 0o006 else ["daemon", "fuse"]
    machine.folder.chmod(0o711)
    done = machine.run("setpriv", "--reuid=65534", "--clear-groups", machines.BIN / "umwelt",
                       "doctor", "--json", check=False)
    findings = {entry["check"]: entry for entry in json.loads(done.stdout)["findings"]}
    for check in checks:
        assert "Permission denied" in findings[check]["text"], findings
        assert findings[check]["mend"] == "umwelt doctor   (as root)", findings


def test_its_text_says_what_to_type(machine):
    """After the death of every process of the daemon, too; doing as it says is enough."""
    machine.kill()
    done = machine.umwelt("doctor", check=False)
    assert done.returncode == 1
    wrong, mend = done.stdout.split("\nTo mend it:\n")
    assert "FAILURE" in wrong and f"{machine.runtime}/live: its daemon died" in wrong
    commands = {line.strip().split("   (")[0] for line in mend.splitlines()
                if line.startswith("  ") and ("umwelt daemon" in line or str(machine.folder) in line)}
    assert commands == {"umwelt daemon start"}
    machine.umwelt("daemon", "start")
    assert examine(machine)["ok"]


@pytest.mark.skipif(program("dockerd") is None, reason="needs dockerd")
def test_a_runtime_that_is_set_up(machine, tmp_path):
    """As long as its file says so."""
    def level():
        return {finding["level"] for finding in examine(machine)["findings"]
                if finding["text"].startswith("docker is")}
    path = tmp_path / "daemon.json"
    machine.umwelt("setup", "docker", "--file", path)
    assert level() == {"ok"}
    path.write_text("{}")
    assert level() == {"note"}
    machine.umwelt("setup", "docker", "--undo")
    assert path.read_text() == "{}"


@contextlib.contextmanager
def running(bundle, out_path, annotations):
    """A container `doc` of runc."""
    config = bundle.read()
    config["process"]["args"] = ["/bin/sleep", "600"]
    config["annotations"] = annotations
    bundle.write(config)
    command, environment = bundle.command("runc", "run", "--detach", "--bundle", bundle.folder,
                                          "doc")
    with open(out_path, "wb") as out:
        bundle.machine.run(*command, env=environment, capture_output=False, stdout=out, stderr=out)
    try:
        yield
    finally:
        command, environment = bundle.command("runc", "delete", "--force", "doc")
        bundle.machine.run(*command, env=environment)


@pytest.mark.skipif(program("runc") is None, reason="needs runc")
def test_files_that_were_not_asked_for_are_not_missed(bundle, tmp_path):
    for group in ("cpu", "memory"):
        with running(bundle, tmp_path / "out", {"umwelt.views": group}):
            answer = examine(bundle.machine)
            assert answer["ok"], (group, failures(answer))
    bundle.machine.nothing_left()


@pytest.mark.skipif(program("runc") is None, reason="needs runc")
def test_a_container_without_its_files(bundle, tmp_path):
    machine = bundle.machine
    with running(bundle, tmp_path / "out", {}):
        assert examine(machine)["ok"]
        record = json.loads((machine.runtime / "records/doc.json").read_text())
        pid = record["init_pid"]
        machine.run("nsenter", "--target", pid, "--mount", "--root", "/bin/umount", "/proc/meminfo")
        wrong = failures(examine(machine))
        assert [finding["check"] for finding in wrong] == ["container doc"]
        assert wrong[0]["mend"] == f"umwelt attach {pid}"
        machine.umwelt(*wrong[0]["mend"].split()[1:])
        assert examine(machine)["ok"]
    machine.nothing_left()


def test_watch_prints_what_changes(machine):
    import subprocess
    watch = subprocess.Popen([machines.BIN / "umwelt", "doctor", "--watch", "--interval", "1"],
                             env=machine.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert "every 1 s" in watch.stdout.readline()
        with machine.down():
            line = next(line for line in watch.stdout if "FAILURE daemon" in line)
            assert "umwelt daemon start" in line
        assert any("ok daemon" in line for line in watch.stdout)
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()
