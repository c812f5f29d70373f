# SPDX-License-Identifier: Apache-2.0
"""kill -9 of whoever looks after a container, at any moment: the next command tidies up."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from umwelt import SLOWNESS

pytestmark = pytest.mark.usefixtures("nothing_left")

ROUNDS = 30 if SLOWNESS < 20 else 8
CONTAINERS = 20


def lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_and_wait(pid):
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20 * SLOWNESS
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_time(umwelt):
    before = time.monotonic()
    umwelt.run("--", "true")
    return time.monotonic() - before


@pytest.mark.timeout(300 * SLOWNESS)
def test_launcher_killed_at_random_moments(umwelt):
    before = umwelt.traces()
    umwelt.run("--", "true")  # the daemon's start is not what is measured
    whole = max(start_time(umwelt) for _ in range(3))
    print(f"a run takes {whole * 1000:.0f} ms")
    generator = random.Random(1)
    started = 0
    for number in range(ROUNDS):
        options = [[], ["--init"], ["--tty"], ["--network", "none"]][number % 4]
        process = umwelt.start("run", "--rm", *options, "--memory", "64m", "--", "sleep", "600",
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0, 1.2 * whole))
        started += any((umwelt.runtime / "launched").glob("*/state.json"))
        process.kill()
        process.wait()
    assert started > 0
    umwelt.ok("ps")
    umwelt.wait_for_traces(before)


def daemon_of(umwelt):
    return json.loads(umwelt.ok("daemon", "status", "--json"))


def descriptors(umwelt):
    return sum(len(os.listdir(f"/proc/{daemon_of(umwelt)[process]}/fd"))
               for process in ("pid", "server"))


@pytest.mark.timeout(300 * SLOWNESS)
@pytest.mark.parametrize("victim", ["server", "launchers"])
def test_killed_while_twenty_containers_start(umwelt, victim):
    """Nothing of a container that did not start is left, and those that did are whole."""
    umwelt.run("--", "true")
    before = umwelt.traces()
    held = descriptors(umwelt)
    processes = [umwelt.start("run", "--detach", "--name", f"many{number}", "--memory", "64m", "--",
                              "sleep", "600", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                 for number in range(CONTAINERS)]
    generator = random.Random(2)
    kills = 0
    while any(process.poll() is None for process in processes) and kills < CONTAINERS:
        time.sleep(generator.uniform(0.005, 0.1) * SLOWNESS)
        if victim == "server":
            os.kill(daemon_of(umwelt)["server"], signal.SIGKILL)
        else:
            generator.choice(processes).kill()
        kills += 1
    failed = [process for process in processes if process.wait(60 * SLOWNESS) != 0]
    errors = [process.stderr.read() for process in failed]
    print(f"{kills} kills of {victim}, {len(failed)} of {CONTAINERS} did not start: {errors[:1]}")
    assert kills > 0
    assert victim == "launchers" or not failed, errors
    running = [entry["name"] for entry in json.loads(umwelt.ok("ps", "--json"))]
    assert victim == "launchers" or len(running) == CONTAINERS
    for name in running:
        assert umwelt.ok("exec", name, "head", "-1", "/proc/meminfo").split()[1] == str(64 << 10)
    umwelt("rm", "--force", *(f"many{number}" for number in range(CONTAINERS)))
    umwelt.wait_for_traces(before)
    deadline = time.monotonic() + 20 * SLOWNESS
    while descriptors(umwelt) > held + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descriptors(umwelt) <= held + 2


def test_a_killed_launcher_takes_its_container_along(umwelt):
    process = umwelt.start("run", "--name", "orphan", "--", "sleep", "600")
    deadline = time.monotonic() + 20 * SLOWNESS
    while (state := umwelt.launched("orphan")) is None or state["status"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    while lives(state["init_pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "orphan" in umwelt.ok("ps", "--all")
    state = umwelt.launched("orphan")
    assert (state["status"], state["exit_code"]) == ("stopped", 137)
    umwelt.ok("rm", "orphan")


def test_monitor_of_a_detached_container_killed(umwelt):
    name = "watched"
    umwelt.ok("run", "--detach", "--name", name, "--init", "--", "sh", "-c",
              "sleep 600 & sleep 600")
    state = umwelt.launched(name)
    kill_and_wait(state["monitor_pid"])
    assert name in umwelt.ok("ps", "--all")
    assert umwelt.launched(name)["status"] == "stopped"
    umwelt.ok("rm", name)


def test_a_command_that_forgets_its_parent_is_killed_all_the_same(umwelt):
    """prctl(PR_SET_PDEATHSIG, 0) is a container's right."""
    process = umwelt.start("run", "--rm", "--name", "stubborn", "--", "/usr/bin/python3", "-c",
                           "import ctypes, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); "
                           "print('ready', flush=True); time.sleep(600)", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    init = umwelt.launched("stubborn")["init_pid"]
    process.kill()
    process.wait()
    umwelt.ok("ps")
    assert not lives(init)


def test_a_fork_bomb_dies(umwelt):
    process = umwelt.start("run", "--rm", "--pids-limit", "200", "--", "sh", "-c",
                           "f() { f | f & }; f; sleep 600", stderr=subprocess.DEVNULL)
    time.sleep(1)
    process.kill()
    process.wait()
    umwelt.ok("ps")


def test_state_of_another_process_with_the_same_pid(umwelt):
    """A pid alone is nobody: state that names a stranger does not get it killed."""
    umwelt.ok("run", "--detach", "--name", "reused", "--", "sleep", "600")
    state = umwelt.launched("reused")
    kill_and_wait(state["monitor_pid"])
    stranger = subprocess.Popen(["sleep", "600"])
    path = umwelt.runtime / "launched" / state["spec"]["id"] / "state.json"
    path.write_text(path.read_text().replace(f'"init_pid": {state["init_pid"]}',
                                             f'"init_pid": {stranger.pid}'))
    umwelt.ok("ps")
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    umwelt.ok("rm", "reused")
