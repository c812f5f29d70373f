# SPDX-License-Identifier: Apache-2.0
"""What cannot be done is said in one line, with exit code 125, and leaves nothing behind."""

import os
import shutil
import subprocess

import pytest

from umwelt import CPUS, UMWELT

pytestmark = pytest.mark.usefixtures("nothing_left")

ABSENT = max(CPUS) + 1000
OPTIONS = [
    # CPUs
    ["--cpuset", str(ABSENT)], ["--cpuset", f"0-{ABSENT}"], ["--cpuset", "1-0"], ["--cpuset", "0-"],
    ["--cpuset", ""], ["--cpuset", ","], ["--cpuset", "-1"], ["--cpuset", "a"],
    ["--cpuset", "99999999999999999999"], ["--cpuset", "0;1"], ["--cpuset-cpus", " "],
    ["--cpuset-mems", "900"], ["--cpuset-mems", "x"],
    ["--cpus", "0"], ["--cpus", "nan"], ["--cpus", "inf"], ["--cpus", "1e9"], ["--cpus", "-1"],
    ["--cpus", "0.001"], ["--cpus", "1000000000"], ["--cpus", "0x1"], ["--cpus", ""],
    ["--cpus", "1,5"], ["--cpus", "99999999999999999999999999"], ["--cpus", str(len(CPUS) + 4000)],
    ["--cpu-period", "999"], ["--cpu-period", "1000001"], ["--cpu-quota", "999"],
    ["--cpu-quota", "-5"], ["--cpu-quota", "99999999999999999999"],
    ["--cpus", "1", "--cpu-quota", "50000"],
    ["--cpu-shares", "1"], ["--cpu-shares", "262145"],
    ["--cpu-policy", "up"], ["--cpu-ids", "random"],
    # memory and tasks
    ["--memory", "0"], ["--memory", "1"], ["--memory", "4095k"], ["--memory", "-1"],
    ["--memory", "99999999999999999999g"], ["--memory", "16777216t"], ["--memory", "12q"],
    ["--memory", "nan"], ["--memory", ""], ["--memory", "64m", "--memory-swap", "32m"],
    ["--memory-swap", "32m"], ["--pids-limit", "0"], ["--pids-limit", "x"],
    ["--pids-limit", "99999999999999999999"],
    # names
    ["--name", "a/b"], ["--name", ".."], ["--name", ""], ["--name", "-x"], ["--name", "x" * 65],
    ["--name", "a\nb"], ["--hostname", "a b"], ["--hostname", "-"], ["--hostname", "x" * 65],
    # files
    ["--rootfs", "/no/such/folder"], ["--rootfs", "/etc/passwd"], ["--rootfs", ""],
    ["-v", "relative:/x"], ["-v", "/etc"], ["-v", "/etc:/x:rx"], ["-v", "/no/such:/x"],
    ["-v", "/etc:/"], ["-v", "/etc:/proc"], ["-v", "/etc:/proc/sys"], ["-v", "/etc:/x/../proc"],
    ["-v", "/etc:relative"], ["--mount", "type=bind,source=/etc"],
    ["--mount", "type=nfs,source=/etc,target=/x"], ["--mount", "target=/x"], ["--mount", "x"],
    ["--mount", "type=tmpfs,target=/x,readonly=maybe"],
    ["--mount", "type=tmpfs,target=/x,tmpfs-size=-1"], ["--tmpfs", "/x:size=0"],
    ["--tmpfs", "/x:mode=9"], ["--tmpfs", "/proc"],
    ["--env-file", "/no/such/file"], ["-e", ""], ["-e", "=x"],
    ["-w", "relative"], ["-w", "/etc/passwd"], ["-w", "/../x"],
    # people and the rest
    ["--user", "no-such-user"], ["--user", "root:no-such-group"], ["--user", "4294967295"],
    ["--user", ":"], ["--network", "bridge"], ["--no-such-option"], ["--memory"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o)[:40].replace("\n", "?"))
def test_option(umwelt, options):
    done = umwelt("run", *options, "--", "true")
    assert done.returncode == 125, done
    assert done.stdout == ""
    assert done.stderr.startswith("umwelt: ") and done.stderr.count("\n") == 1, done.stderr
    assert len(done.stderr) < 300


@pytest.mark.parametrize("command", ["run", "exec"])
def test_empty_text_is_no_value(umwelt, command):
    options = ("--user", "--image", "--disk") if command == "run" else ("--user",)
    for option in options:
        for words in ([option, ""], [f"{option}="]):
            done = umwelt(command, *words, "box", "true")
            assert done.returncode == 125, done
            assert done.stderr == f"umwelt: {command}: {option}: is empty\n"


@pytest.mark.parametrize("arguments", [
    ["vdisk", "create", "d", "--size", "64m", "--image", ""], ["setup", "docker", "--file", ""],
    ["image", "export", "--output", "", "i"],
    ["vdisk", "create", "d"], ["vdisk", "create", "d", "--clone", "--size", "64m"],
    ["vdisk", "create", "a/b", "--size", "64m"], ["vdisk", "create", "d", "--size", "1"],
    ["vdisk", "grow", "d"], ["vdisk", "clone", "d", "a/b"], ["vdisk", "snapshot", "d", ""],
    ["volume", "create", "v"], ["volume", "create", "a/b", "--size", "64m"],
    ["volume", "update", "v"], ["update", "c"], ["update", "c", "--cpus", "1", "--cpu-quota", "5000"],
    ["update", "c", "--memory", "64m", "--memory-swap", "32m"],
    ["image", "import", "-"], ["image", "import", "/etc", "--name", "a/b"], ["image", "import", "/"],
    ["attach"], ["attach", "c", "--all"], ["setup", "foo"], ["setup"], ["completion", "tcsh"],
    ["doctor", "--watch", "--json"], ["doctor", "--interval", "0"], ["doctor", "--interval", "5"],
    ["oci-hook", "foo"],
    ["explain", "web"], ["explain", "web", "proc/stat"],
], ids=" ".join)
def test_wrong_command_line(umwelt, arguments):
    done = umwelt(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("umwelt: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_hook_without_a_state(umwelt):
    umwelt.ok("daemon", "start")
    for stage in ("createRuntime", "poststop"):
        done = umwelt("oci-hook", stage, input="")
        assert done.returncode == 0 and done.stderr.count("\n") == 1, done
        assert ("it starts with the host's files" in done.stderr) == (stage != "poststop")


def test_no_command(umwelt):
    for arguments in (["run"], ["run", "--"], ["run", "--memory", "64m"]):
        done = umwelt(*arguments)
        assert done.returncode == 125 and done.stderr.count("\n") == 1, done


def refused(umwelt, rootfs, *words):
    done = umwelt("run", "--rootfs", rootfs, "--", "/bin/true")
    assert done.returncode == 125, done
    assert done.stderr.startswith("umwelt: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_root_filesystem_without_proc(umwelt, rootfs):
    (rootfs / "proc").rmdir()
    refused(umwelt, rootfs, str(rootfs), "/proc", "missing")


def test_root_filesystem_whose_proc_is_a_file(umwelt, rootfs):
    (rootfs / "proc").rmdir()
    (rootfs / "proc").write_text("")
    refused(umwelt, rootfs, "/proc", "directory")


@pytest.mark.parametrize("target", ["/", "/tmp", "../../../../../../tmp", "/proc", "nowhere"])
@pytest.mark.parametrize("name", ["proc", "sys", "dev", "run"])
def test_root_filesystem_with_a_symlink_for_a_mount_point(umwelt, rootfs, name, target):
    if (rootfs / name).exists():
        (rootfs / name).rmdir()
    (rootfs / name).symlink_to(target)
    refused(umwelt, rootfs, f"/{name}", "symbolic link")


def test_root_filesystem_whose_proc_cpuinfo_is_a_symlink(umwelt, rootfs, tmp_path):
    (tmp_path / "target").write_text("mine")
    (rootfs / "proc/cpuinfo").symlink_to(tmp_path / "target")
    refused(umwelt, rootfs, "/proc/cpuinfo", "symbolic link")
    assert (tmp_path / "target").read_text() == "mine"


def test_unknown_containers(umwelt):
    for command in (["exec", "ghost", "true"], ["stop", "ghost"], ["inspect", "ghost"],
                    ["rm", "ghost"], ["update", "ghost", "--memory", "64m"], ["kill", "ghost"]):
        done = umwelt(*command)
        assert done.returncode == (125 if command[0] == "exec" else 1), done
        assert "ghost" in done.stderr and done.stderr.count("\n") == 1, done


def test_update_that_cannot_be(umwelt):
    with umwelt.detached("--memory", "64m", "--", "sleep", "600") as name:
        state = umwelt.launched(name)
        for options in (["--cpuset", str(ABSENT)], ["--memory", "1"], ["--cpus", "0"], []):
            done = umwelt("update", name, *options)
            assert done.returncode != 0 and done.stderr.count("\n") == 1, done
        assert umwelt.launched(name) == state


def test_without_a_daemon_program(umwelt, tmp_path):
    """A launcher that finds no umweltd says so."""
    alone = tmp_path / "umwelt"
    shutil.copy(UMWELT, alone)
    done = subprocess.run([alone, "--runtime-dir", tmp_path / "run", "--state-dir",
                           tmp_path / "state", "run", "--", "true"],
                          env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.startswith("umwelt: ") and done.stderr.count("\n") == 1, done.stderr
    assert not list((tmp_path / "run/launched").glob("[!.]*"))


def test_real_time_scheduling_policy(umwelt):
    """Where the kernel gives a new cgroup no real-time budget the message says what to do."""
    assert umwelt("run", "--rm", "--", "true").returncode == 0  # a daemon that is not real-time
    done = umwelt("run", "--rm", "--", "true",
                  preexec_fn=lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)))
    if done.returncode != 0:
        assert done.returncode == 125 and "chrt --other 0" in done.stderr, done
        assert done.stderr.count("\n") == 1, done


def test_a_configuration_that_is_not_there(umwelt):
    done = umwelt("--config", "/no/such.toml", "run", "--", "true")
    assert done.returncode == 125
    assert done.stderr == ("umwelt: configuration /no/such.toml: No such file or directory; "
                           "--config or UMWELT_CONFIG names it\n")
