# SPDX-License-Identifier: Apache-2.0
"""A container whose daemon neither runs nor can be started: --views says what happens."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

import umwelt as launcher

HOST_TOTAL = pathlib.Path("/proc/meminfo").read_text().splitlines()[0]


@pytest.fixture
def alone(tmp_path):
    """The launcher in a folder without umweltd, which is not in PATH either."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(launcher.UMWELT, folder)
    environment = {**os.environ, "PATH": "/bin:/usr/bin",
                   "UMWELT_RUNTIME_DIR": str(tmp_path / "run"),
                   "UMWELT_STATE_DIR": str(tmp_path / "state")}
    assert shutil.which("umweltd", path=environment["PATH"]) is None

    def run(*arguments):
        return subprocess.run([folder / "umwelt", *arguments], env=environment, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=60 * launcher.SLOWNESS)

    yield run
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


COMMAND = ("--memory", "64m", "--", "sh", "-c", "head -1 /proc/meminfo; nproc")


def test_required_is_the_default_and_starts_nothing(alone):
    for arguments in ((), ("--views", "required")):
        done = alone("run", "--rm", *arguments, *COMMAND)
        assert done.returncode == 125 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "umweltd" in done.stderr
    assert json.loads(alone("ps", "--all", "--json").stdout) == []


def test_best_effort_starts_with_a_warning_and_the_machines_files(alone):
    done = alone("run", "--rm", "--views", "best-effort", *COMMAND)
    assert done.returncode == 0
    assert done.stdout == f"{HOST_TOTAL}\n{len(launcher.CPUS)}\n"
    assert done.stderr.count("\n") == 1 and "the machine's files" in done.stderr


def test_without_views_the_machines_interrupts_and_heat_are_hidden(alone):
    done = alone("run", "--rm", "--views", "best-effort", "--", "sh", "-c",
                 "wc -c </proc/interrupts; "
                 "find /sys/devices/system/cpu/ -path '*/thermal_throttle/*'")
    assert (done.returncode, done.stdout) == (0, "0\n"), done


def test_what_became_of_best_effort_is_in_inspect_and_holds_for_exec(alone):
    started = alone("run", "--detach", "--name", "web", "--views", "best-effort", "--", "sleep", "600")
    assert started.returncode == 0 and "the machine's files" in started.stderr
    try:
        assert alone("exec", "web", "nproc").stdout == f"{len(launcher.CPUS)}\n"
        assert json.loads(alone("inspect", "web").stdout)[0]["launched"]["spec"]["views"] == "none"
    finally:
        assert alone("rm", "--force", "web").returncode == 0


def test_best_effort_gets_its_files_later(tmp_path):
    own = launcher.Umwelt(tmp_path)
    (tmp_path / "umwelt.toml").write_text("threads = 0\n")  # which the daemon refuses
    own.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
    try:
        started = own("run", "--detach", "--name", "web", "--views", "best-effort", "--memory", "64m",
                      "--", "sleep", "600")
        assert started.returncode == 0 and "the machine's files" in started.stderr
        assert own.ok("update", "--memory", "96m", "web") == "web\n"
        del own.environment["UMWELT_CONFIG"]
        own.ok("daemon", "start")
        assert own.ok("update", "--memory", "128m", "web") == "web\n"
        refused = own("explain", "web", "/proc/meminfo")
        assert refused.returncode == 1 and "umwelt attach web" in refused.stderr
        own.ok("attach", "web")
        total = own.ok("exec", "web", "head", "-1", "/proc/meminfo")
        assert total.split()[1] == str(128 << 10)
        assert own.ok("explain", "web", "/proc/meminfo").startswith(total)
        own.ok("update", "--memory", "160m", "web")
        assert own.ok("exec", "web", "head", "-1", "/proc/meminfo").split()[1] == str(160 << 10)
    finally:
        own("rm", "--force", "web")
        own.clean_up()


def test_a_daemon_that_runs_is_used(umwelt):
    shown = umwelt.run("--views", "best-effort", "--memory", "64m", "--", "head", "-1",
                       "/proc/meminfo")
    assert shown.split()[1] == str(64 << 10)
    done = umwelt("run", "--views", "maybe", "--", "true")
    assert done.returncode == 125 and "required or best-effort" in done.stderr


@pytest.mark.parametrize("command", [("explain", "gone", "/proc/stat"), ("attach", "gone")])
def test_no_daemon_is_started_for_a_container_that_is_not_there(tmp_path, command):
    environment = {**os.environ, "UMWELT_RUNTIME_DIR": str(tmp_path / "run"),
                   "UMWELT_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run([launcher.UMWELT, *command], env=environment, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1 and "no such container: gone" in done.stderr
    assert not (tmp_path / "run/umweltd.sock").exists()


def test_the_memory_of_the_machine_is_not_to_be_seen(alone):
    said = alone("run", "--rm", "--views", "best-effort", "--", "sh", "-c",
                 "cat /proc/pagetypeinfo 2>/dev/null; ls /sys/devices/system/memory 2>/dev/null; true")
    assert (said.returncode, said.stdout) == (0, "")
