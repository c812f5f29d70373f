# SPDX-License-Identifier: Apache-2.0
"""Nothing can be written: the runtime folder is full, or standard output is."""

import json
import os
import signal
import subprocess

import pytest

from disks import wait_until
from umwelt import CPUS, UMWELT, Umwelt


@pytest.fixture
def full(tmp_path):
    """The command line with a small runtime folder, and a container that fills it and ends."""
    umwelt = Umwelt(tmp_path)
    umwelt.runtime.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", umwelt.runtime], check=True)
    try:
        umwelt.ok("run", "-d", "--name", "bystander", "--", "sleep", "600")
        umwelt.ok("run", "-d", "--name", "filler", "-v", f"{tmp_path}:/host", "--", "sh", "-c",
                  "until [ -e /host/go ]; do sleep 0.05; done; seq 1 100000; exit 5")
        yield umwelt
    finally:
        umwelt.clean_up()
        subprocess.run(["umount", "--lazy", umwelt.runtime], check=True)


def fill(umwelt):
    (umwelt.folder / "go").touch()
    assert umwelt("wait", "filler").stdout == "5\n"
    with pytest.raises(OSError, match="No space left"):
        (umwelt.runtime / "more").write_bytes(b"x" * 65536)


def test_the_exit_code_is_kept_and_every_command_works(full):
    fill(full)
    state = full.launched("filler")
    assert (state["status"], state["exit_code"]) == ("stopped", 5)
    assert "Exited (5)" in full.ok("ps", "--all")
    assert full.ok("logs", "filler").startswith("1\n2\n3\n")
    assert full.ok("wait", "filler") == "5\n"
    full.ok("stop", "--time", "0", "bystander")
    assert full.ok("wait", "bystander") == "137\n"
    full.ok("rm", "--force", "filler", "bystander")
    full.ok("daemon", "stop")
    full.run("--", "true")


def test_a_container_that_is_removed_at_its_end_still_tells_its_exit_code(full):
    full.ok("run", "-d", "--rm", "--name", "short", "-v", f"{full.folder}:/host", "--", "sh", "-c",
            "until [ -e /host/full ]; do sleep 0.05; done; exit 6")
    short = full.launched("short")["spec"]["id"]
    waiting = full.start("wait", "short", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until((full.runtime / "launched" / short / "last-state.json").exists)
    fill(full)
    (full.folder / "full").touch()
    assert waiting.communicate(timeout=20)[0] == "6\n"


def test_a_killed_monitor_is_tidied_up_after(full):
    fill(full)
    os.kill(full.launched("bystander")["monitor_pid"], signal.SIGKILL)
    wait_until(lambda: "Exited (137)" in full.ok("ps", "--all"))
    full.ok("rm", "bystander")


def test_a_killed_daemon_is_started_again(full):
    fill(full)
    daemon = json.loads(full.ok("daemon", "status", "--json"))
    os.kill(daemon["server"], signal.SIGSTOP)  # or it starts another keeper first
    os.kill(daemon["pid"], signal.SIGKILL)
    os.kill(daemon["server"], signal.SIGKILL)
    assert full.ok("exec", "bystander", "nproc") == f"{len(CPUS)}\n"
    wait_until(lambda: full("exec", "bystander", "cat", "/proc/uptime").returncode == 0)
    full.ok("update", "--memory", "77m", "bystander")
    assert full.launched("bystander")["spec"]["limits"]["memory_bytes"] == 77 << 20
    done = full("run", "--name", "more", "--", "true")
    assert done.returncode == 125 and "No space left on device" in done.stderr
    assert "more" not in full.ok("ps", "--all")


def test_one_that_cannot_be_tidied_is_in_nobody_elses_way(umwelt):
    with umwelt.detached("--", "sleep", "600") as stuck, umwelt.detached("--", "true") as other:
        state = umwelt.launched(stuck)
        folder = umwelt.runtime / "launched" / state["spec"]["id"]
        subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=True)
        os.kill(state["monitor_pid"], signal.SIGKILL)
        wait_until(lambda: "Read-only file system" in umwelt("ps").stderr)
        for command in (["ps", "--all"], ["logs", other], ["wait", other], ["stop", other],
                        ["rm", "--force", other], ["run", "--rm", "--", "true"]):
            done = umwelt(*command)
            assert done.returncode == 0 and done.stderr.count("\n") == 1, done
        subprocess.run(["umount", folder], check=True)
        assert umwelt.ok("wait", stuck) == "137\n"


@pytest.mark.parametrize("arguments", [
    ["--help"], ["--version"], ["run", "--help"], ["__complete", "umwelt", "r"], ["ps"]],
    ids=" ".join)
def test_a_full_standard_output_is_said(umwelt, arguments):
    with open("/dev/full", "w") as output:
        done = subprocess.run([UMWELT, *arguments], env=umwelt.environment, stdout=output,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "umwelt: writing to standard output: No space left on device\n"


def test_a_container_whose_id_cannot_be_printed_is_named(umwelt):
    with open("/dev/full", "w") as output:
        done = subprocess.run([UMWELT, "run", "-d", "--", "sleep", "600"], env=umwelt.environment,
                              stdout=output, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 125
    name = json.loads(umwelt.ok("ps", "--json"))[0]["name"]
    assert done.stderr == ("umwelt: writing to standard output: No space left on device; container "
                           f"{name} was started and runs\n")
    umwelt.ok("rm", "--force", name)
