# SPDX-License-Identifier: Apache-2.0
"""Start, stop and what a crash leaves behind."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from umweltd import Daemon, SLOWNESS, UMWELTD, libc, mounted_below, wait_until

pytestmark = pytest.mark.vm
# Three connections and the shared tree: proc, sys, and proc/pressure where the kernel has that.
MOUNTS = 5 + os.path.exists("/proc/pressure")


def run(*arguments):
    return subprocess.run([UMWELTD, *arguments], capture_output=True, text=True,
                          timeout=20 * SLOWNESS)


def has_ended(pid):
    """Whether or not anybody has waited for it."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_sigterm_and_sigint_clean_up(stopped_daemon, folder):
    for stop in (signal.SIGTERM, signal.SIGINT):
        stopped_daemon.start()
        assert len(mounted_below(folder)) == MOUNTS
        stopped_daemon.process.send_signal(stop)
        assert stopped_daemon.process.wait(10 * SLOWNESS) == 0
        assert not mounted_below(folder)
        assert not (stopped_daemon.runtime / "umweltd.sock").exists()


def test_stops_while_files_are_open_and_bound(daemon, container, folder):
    held = [open(container.live / "proc/meminfo"), open(container.config / "proc/cpuinfo")]
    user = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec",
         f"touch {folder}/stat && mount --bind {container.live}/proc/stat {folder}/stat && "
         f"echo ready && while :; do cat {folder}/stat || exit 0; done"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert user.stdout.readline() == b"ready\n"
    stop = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - stop < 5 * SLOWNESS
    user.stdout.close()
    user.wait(20 * SLOWNESS)  # its mount is dead now: it got an error, it does not hang
    for file in held:
        file.close()
    assert not mounted_below(folder)


def test_second_start_says_who_runs(daemon):
    second = run("--foreground", "--runtime-dir", daemon.runtime, "--state-dir", daemon.state)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"already running as process {daemon.pid}" in second.stderr
    assert daemon.answers()


def test_a_state_folder_has_one_daemon(daemon, container, folder):
    """Its shared tree would be unmounted by another one's."""
    def refused(runtime):
        second = run("--foreground", "--runtime-dir", runtime, "--state-dir", daemon.state)
        assert second.returncode == 1
        assert second.stderr == (
            f"umweltd: already running as process {daemon.pid} ({daemon.state}/state.lock): another "
            "runtime folder needs a --state-dir of its own\n")
        assert len(mounted_below(folder)) == MOUNTS
        assert (daemon.state / "proc/uptime").read_text()

    refused(folder / "other")
    refused(daemon.state)
    server = daemon.server_pid()
    daemon.call(op="upgrade", program=str(UMWELTD))
    wait_until(lambda: daemon.server_pid() != server, 20 * SLOWNESS)
    refused(folder / "other")
    keeper = daemon.pid
    os.kill(keeper, signal.SIGKILL)
    daemon.process.wait()
    wait_until(lambda: daemon.call(op="ping")["pid"] != keeper, 10 * SLOWNESS)
    daemon.pid = daemon.call(op="ping")["pid"]
    lock = daemon.state / "state.lock"  # it writes that when it has begun
    wait_until(lambda: lock.read_text() == f"{daemon.pid}\n", 10 * SLOWNESS)
    refused(folder / "other")
    assert container.read("proc/uptime")
    os.kill(daemon.pid, signal.SIGTERM)
    wait_until(lambda: not mounted_below(folder), 10 * SLOWNESS)
    daemon.start()


def test_one_folder_for_both(folder):
    daemon = Daemon(folder)
    daemon.command[4] = daemon.state = daemon.runtime
    try:
        for end in (daemon.kill, daemon.stop):
            daemon.start()
            assert (daemon.runtime / "proc/uptime").read_text()
            end()
        assert not mounted_below(folder)
    finally:
        daemon.clean_up()


def test_a_crash_is_tidied_and_the_containers_are_taken_over(stopped_daemon, folder):
    daemon = stopped_daemon.start()
    container = daemon.container("web")
    before = container.record["number"]
    daemon.kill()
    assert len(mounted_below(folder)) == MOUNTS
    with pytest.raises(OSError):
        os.listdir(container.live)
    daemon.start()
    assert len(mounted_below(folder)) == MOUNTS
    assert container.read("proc/meminfo").startswith("MemTotal:")
    assert container.read("proc/cpuinfo").startswith("processor")
    assert daemon.call(op="list")["records"][0]["number"] == before


def test_a_live_remnant_is_tidied(stopped_daemon, folder):
    """Somebody still holds the connection of a daemon that was killed: its mounts are not dead,
    but nobody answers."""
    daemon = stopped_daemon.start()
    child = subprocess.Popen(["sleep", "infinity"])
    fuse = []
    for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            if os.readlink(f"/proc/{daemon.pid}/fd/{fd}") == "/dev/fuse":
                fuse.append(fd)
    assert len(fuse) >= 2
    pidfd = os.pidfd_open(daemon.pid)
    pidfd_getfd = lambda fd: libc.syscall(438, pidfd, int(fd), 0)
    copies = [pidfd_getfd(fd) for fd in fuse]
    assert all(copy >= 0 for copy in copies)
    daemon.kill()
    daemon.start()
    assert daemon.container("web").read("proc/meminfo").startswith("MemTotal:")
    for copy in copies:
        os.close(copy)
    os.close(pidfd)
    child.kill()
    child.wait()
    assert len(mounted_below(folder)) == MOUNTS


def test_goes_to_the_background_when_ready(stopped_daemon, folder):
    daemon = stopped_daemon
    started = run(*daemon.command[1:])
    assert (started.returncode, started.stderr) == (0, "")
    assert daemon.answers()
    daemon.pid = daemon.call(op="ping")["pid"]
    assert os.getsid(daemon.pid) != os.getsid(0)
    assert {os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in (0, 1)} == {"/dev/null"}
    assert "is ready" in (daemon.runtime / "umweltd.log").read_text()
    again = run(*daemon.command[1:])
    assert again.returncode == 1 and "already running" in again.stderr
    os.kill(daemon.pid, signal.SIGTERM)
    wait_until(lambda: has_ended(daemon.pid), 10 * SLOWNESS)
    assert not mounted_below(folder)


def test_stops_when_somebody_unmounts_it(daemon, folder):
    assert libc.umount2(os.fsencode(daemon.state / "proc"), 2) == 0
    assert libc.umount2(os.fsencode(daemon.state / "sys"), 2) == 0
    assert libc.umount2(os.fsencode(daemon.runtime / "live"), 0) == 0
    assert daemon.process.wait(10 * SLOWNESS) == 0
    assert "unmounted by somebody else" in daemon.log()
    assert not mounted_below(folder)


def test_stops_when_the_keeper_dies_as_somebody_unmounts_it(daemon, folder):
    server = daemon.server_pid()
    os.kill(daemon.pid, signal.SIGSTOP)
    for point in (daemon.state / "proc", daemon.state / "sys", daemon.runtime / "live"):
        assert libc.umount2(os.fsencode(point), 2) == 0
    wait_until(lambda: not (daemon.state / "proc" / "uptime").exists(), 10 * SLOWNESS)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{server}"), 10 * SLOWNESS)
    keeper = re.search(r"keeper (\d+) goes on", daemon.log())[1]
    wait_until(lambda: not os.path.exists(f"/proc/{keeper}"), 10 * SLOWNESS)
    assert not mounted_below(folder)


def test_foreign_mount_in_the_way(stopped_daemon, folder):
    state = folder / "state" / "proc"
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", state], check=True)
    (state / "theirs").touch()
    stopped_daemon.start()
    assert (state / "uptime").exists()
    assert stopped_daemon.stop() == 0
    assert (state / "theirs").exists()
    subprocess.run(["umount", state], check=True)


@pytest.mark.parametrize("arguments, message", [
    (["--no-such"], "--no-such; see umweltd --help"),
    (["--config"], "--config"),
    (["--log-level", "loud"], "log-level"), (["--thread", "4"], "unknown option --thread"),
    (["start"], "unexpected start"),
    (["--runtime-dir", "relative"], "relative"),
    (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
    (["--runtime-dir", "/dev/null/run"], "/dev/null"),
])
def test_wrong_arguments_get_one_line(arguments, message):
    result = run("--foreground", *arguments)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("umweltd: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_only_root_can_start_it(folder):
    folder.chmod(0o755)
    program = shutil.copy(UMWELTD, folder)
    result = subprocess.run([program, "--foreground", "--runtime-dir", folder / "run"], user=65534,
                            group=65534, extra_groups=[], capture_output=True, text=True)
    said = [line for line in result.stderr.splitlines() if not line.startswith("profiling:")]  # gcov
    assert said == ["umweltd: only root can serve containers, use sudo"]
    assert result.returncode == 1


@pytest.mark.parametrize("text, message", [
    ("thread = 1\n", ":1: unknown key 'thread'"), ("\nthreads = 0\n", ":2: threads"),
    ("log_level = \n", ":1: "), ("log_level = 'x'\n", "must be one of trace"),
])
def test_wrong_configuration_gets_one_line(folder, text, message):
    (folder / "umwelt.toml").write_text(text)
    result = run("--foreground", "--config", folder / "umwelt.toml", "--runtime-dir",
                 folder / "run", "--state-dir", folder / "state")
    assert result.returncode == 2
    assert result.stderr.startswith("umweltd: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def thread_names(pid):
    names = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
            names.append(pathlib.Path(f"/proc/{pid}/task/{task}/comm").read_text().strip())
    return names


def test_configuration_and_environment(folder):
    (folder / "umwelt.toml").write_text("threads = 1\nlog_level = 'debug'\n")
    environment = {**os.environ, "UMWELT_RUNTIME_DIR": str(folder / "run"),
                   "UMWELT_STATE_DIR": str(folder / "state"),
                   "UMWELT_CONFIG": str(folder / "umwelt.toml")}
    daemon = Daemon(folder)
    with open(daemon.log_path, "wb") as log:
        daemon.process = subprocess.Popen([UMWELTD, "-f"], env=environment, stderr=log)
    daemon.pid = daemon.process.pid
    try:
        wait_until(daemon.answers, 10 * SLOWNESS)
        names = thread_names(daemon.server_pid())
        assert names.count("config") == 1 and names.count("live") == names.count("pressure") == 1
        assert daemon.container("web").read("proc/uptime")
    finally:
        daemon.clean_up()


def test_version_and_help():
    assert run("--version").stdout.startswith("umweltd ")
    assert "--state-dir" in run("--help").stdout
    for option in ("--version", "--help"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([UMWELTD, option], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "umweltd: writing to standard output: No space left on device\n"


def test_a_private_umask_makes_no_private_tree(folder):
    daemon = Daemon(folder)
    before = os.umask(0o077)
    try:
        daemon.start().stop()
    finally:
        os.umask(before)
        daemon.clean_up()
    for path in (daemon.state, daemon.state / "proc"):
        assert path.stat().st_mode & 0o777 == 0o755
