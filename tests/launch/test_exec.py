# SPDX-License-Identifier: Apache-2.0
"""`umwelt exec`, detached containers and their logs, terminals."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import termios
import threading
import time

import pytest

from disks import wait_until
from umwelt import CPUS, HIERARCHIES, SLOWNESS, UMWELT, Terminal

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def name(umwelt):
    with umwelt.detached("--cpuset", CPUS[-1], "--memory", "128m", "-e", "A=1", "-w", "/usr",
                         "--hostname", "box", "--network", "none", "--", "sleep", "600") as name:
        yield name


def test_exec_is_in_the_container(umwelt, name):
    init = umwelt.launched(name)["init_pid"]
    namespaces = ("pid", "mnt", "uts", "ipc", "cgroup", "time", "net")
    inside = umwelt.ok("exec", name, "readlink", *(f"/proc/self/ns/{n}" for n in namespaces))
    assert inside.split() == [os.readlink(f"/proc/{init}/ns/{n}") for n in namespaces]
    assert umwelt.ok("exec", name, "sh", "-c",
                     "pwd; echo $A; hostname; awk '/MemTotal/{print $2}' /proc/meminfo; nproc; "
                     "cat /proc/self/cgroup | grep -vc ':/$'; true").split() == [
                         "/usr", "1", "box", "131072", "1", "0"]


def test_exec_has_the_same_capabilities(umwelt, name):
    lines = umwelt.ok("exec", name, "grep", "-hE", "^(Cap|NoNewPrivs|SigBlk|SigIgn)", "/proc/1/status",
                      "/proc/self/status").splitlines()
    assert lines[:len(lines) // 2] == lines[len(lines) // 2:]


def test_exec_options(umwelt, name):
    assert umwelt.ok("exec", "--user", "65534:65533", "-w", "/tmp", "-e", "A=2", "-e", "B=3", name,
                     "sh", "-c", "id -u; id -g; pwd; echo $A$B").split() == [
                         "65534", "65533", "/tmp", "23"]
    assert umwelt.ok("exec", "-i", name, "cat", input="hello") == "hello"
    assert umwelt.ok("exec", name, "cat", input="hello") == ""


def test_exec_exit_codes(umwelt, name):
    assert umwelt("exec", name, "sh", "-c", "exit 9").returncode == 9
    assert umwelt("exec", name, "sh", "-c", "kill -9 $$").returncode == 137
    for command, code in (("no-such-command", 127), ("/etc", 126)):
        done = umwelt("exec", name, command)
        assert done.returncode == code and done.stderr.count("\n") == 1
    done = umwelt("exec", "--user", "ghost", name, "true")
    assert done.returncode == 125 and "ghost" in done.stderr
    assert "Z" not in umwelt.ok("exec", name, "ps", "-eo", "stat=")


def test_exec_counts_against_the_limit(umwelt, name):
    assert umwelt("exec", name, "/usr/bin/python3", "-c",
                  "x = bytearray(400 << 20)").returncode == 137


def test_exec_starts_a_daemon_that_answers_its_calls(umwelt, name):
    umwelt.ok("daemon", "stop", "--force")
    # Also its files are there by then.
    assert umwelt.ok("exec", name, "head", "-1", "/proc/meminfo").split()[1] == "131072"
    assert umwelt.ok("exec", name, "nproc") == "1\n"
    assert umwelt.ok("exec", name, "taskset", "-pc", "1").endswith(": 0\n")


def test_exec_needs_no_daemon_where_no_call_is_answered(umwelt):
    with umwelt.detached("--intercept", "off", "--", "sleep", "600") as name:
        umwelt.ok("daemon", "stop", "--force")
        assert umwelt.ok("exec", name, "echo", "hi") == "hi\n"
        assert umwelt("daemon", "status").returncode == 1
        umwelt.ok("daemon", "start")  # it forgets the container then


def test_exec_detached(umwelt, name):
    umwelt.ok("exec", "--detach", name, "sh", "-c", "sleep 0.3; touch /dev/shm/mark; sleep 600")
    wait_until(lambda: umwelt("exec", name, "test", "-e", "/dev/shm/mark").returncode == 0)


def test_a_killed_exec_takes_its_process_along(umwelt, name):
    process = umwelt.start("exec", name, "sh", "-c", "echo ready; exec sleep 601",
                           stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: "sleep 601" in umwelt.ok("exec", name, "ps", "ax"))
    process.kill()
    process.wait()
    wait_until(lambda: "sleep 601" not in umwelt.ok("exec", name, "ps", "ax"))


def test_signals_reach_an_exec(umwelt, name):
    process = umwelt.start("exec", name, "sh", "-c", "echo ready; exec sleep 602",
                           stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20 * SLOWNESS) == 143


def test_exec_into_a_stopped_container(umwelt):
    umwelt("run", "--name", "stopped", "--", "true")
    done = umwelt("exec", "stopped", "true")
    assert done.returncode == 125 and done.stderr.count("\n") == 1
    umwelt.ok("rm", "stopped")


# --- detached ------------------------------------------------------------------------------------

def test_detached_prints_its_id_and_logs(umwelt):
    identity = umwelt.ok("run", "-d", "--name", "talker", "--", "sh", "-c",
                         "echo out; echo err >&2; printf unfinished; exit 3").strip()
    assert umwelt.launched("talker")["spec"]["id"] == identity
    assert umwelt.ok("wait", "talker").strip() == "3"
    log = umwelt.runtime / "launched" / identity / "log"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted((e["stream"], e["log"]) for e in entries) == [
        ("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "unfinished")]
    done = umwelt("logs", "talker")
    assert (done.stdout, done.stderr) == ("out\nunfinished", "err\n")
    umwelt.ok("rm", "talker")


def has_open(process, path):
    with contextlib.suppress(OSError):  # one is closed in the meantime
        return any(link.readlink() == path
                   for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir())
    return False


@pytest.mark.parametrize("end", ["by itself", "by rm"])
def test_wait_has_the_exit_code_of_one_that_is_removed(umwelt, end):
    umwelt.ok("run", "-d", "--name", "brief", *(["--rm"] if end == "by itself" else []), "--",
              "sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.02; done")
    folder = umwelt.runtime / "launched" / umwelt.launched("brief")["spec"]["id"]
    waiting = [umwelt.start("wait", "brief", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
               for _ in range(2)]
    wait_until(lambda: all(has_open(process, folder / "last-state.json") for process in waiting))
    if end == "by itself":
        os.kill(umwelt.launched("brief")["init_pid"], signal.SIGUSR1)
    else:
        umwelt.ok("rm", "--force", "brief")
    for process in waiting:
        out, err = process.communicate(timeout=20 * SLOWNESS)
        assert (out.strip(), err) == ("7" if end == "by itself" else "137", "")
    assert not folder.exists()


def test_detached_lets_go_of_the_caller(umwelt):
    """Whoever reads the output gets its end at once; a terminal that closes ends nothing."""
    process = umwelt.start("run", "-d", "--name", "loose", "--", "sleep", "600",
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    process.communicate(timeout=20 * SLOWNESS)
    assert umwelt.launched("loose")["status"] == "running"
    umwelt.ok("rm", "--force", "loose")


def test_detached_log_is_bounded(umwelt):
    identity = umwelt.ok("run", "-d", "--name", "loud", "--", "sh", "-c",
                         "yes $(printf %01000d 7) | head -c 20000000").strip()
    umwelt.ok("wait", "loud")
    folder = umwelt.runtime / "launched" / identity
    sizes = {path.name: path.stat().st_size for path in folder.glob("log*")}
    assert set(sizes) == {"log", "log.1"} and max(sizes.values()) <= 8 << 20
    umwelt.ok("rm", "loud")


def test_detached_failures_come_back(umwelt):
    for command, code in (("no-such-command", 127), ("/etc", 126)):
        done = umwelt("run", "-d", "--", command)
        assert done.returncode == code and done.stderr.count("\n") == 1 and done.stdout == ""
    done = umwelt("run", "-d", "--user", "ghost", "--", "true")
    assert done.returncode == 125 and "ghost" in done.stderr


def test_detached_with_rm_is_gone_when_it_ends(umwelt):
    umwelt.ok("run", "-d", "--rm", "--name", "short", "--", "sleep", "0.5")
    deadline = time.monotonic() + 20 * SLOWNESS
    while umwelt.launched("short"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stop(umwelt):
    def stop(trap, seconds):
        umwelt.ok("run", "-d", "--name", "stopper", "--", "sh", "-c",
                  f"trap {trap} TERM; echo ready; sleep 600 & wait")
        wait_until(lambda: umwelt.ok("logs", "stopper") == "ready\n")
        before = time.monotonic()
        umwelt.ok("stop", "--time", seconds, "stopper")
        took = time.monotonic() - before
        state = umwelt.launched("stopper")
        umwelt.ok("rm", "stopper")
        return state["status"], state["exit_code"], took

    status, code, quick = stop("'exit 6'", 60)
    assert (status, code) == ("stopped", 6) and quick < 30
    status, code, took = stop("''", 1)
    assert (status, code) == ("stopped", 137)
    assert 1 <= took < 3 + 5 * quick


def test_a_start_that_does_not_come_to_its_end_can_be_ended(umwelt, name, tmp_path):
    groups = [root / "umwelt" / umwelt.launched(name)["spec"]["id"] for root in HIERARCHIES]
    freezer = next((group / "freezer.state" for group in groups
                    if (group / "freezer.state").exists()), None)
    freezer = freezer or next(group / "cgroup.freeze" for group in groups
                              if (group / "cgroup.freeze").exists())
    on, off = ("FROZEN", "THAWED") if freezer.name == "freezer.state" else ("1", "0")
    freezer.write_text(on)
    with open(tmp_path / "said", "w") as said:
        process = umwelt.start("exec", name, "true", stderr=said)
    try:
        time.sleep(0.5 * SLOWNESS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOWNESS) == 125
        assert "before the command was started" in (tmp_path / "said").read_text()
    finally:
        process.kill()
        freezer.write_text(off)


def test_a_container_with_as_many_processes_as_it_may_have_is_entered(umwelt):
    with umwelt.detached("--pids-limit", "1", "--", "sleep", "600") as name:
        lines = umwelt.ok("exec", name, "cat", "/proc/self/cgroup").splitlines()
    assert lines and all(line.endswith(":/") for line in lines), lines


def test_a_container_in_whose_cgroup_none_can_be_born_is_entered(umwelt, name):
    """As above on every host: the kernel refuses the first clone3."""
    strace = shutil.which("strace")
    if strace is None or not any((root / "cgroup.controllers").exists() for root in HIERARCHIES):
        pytest.skip("needs strace and cgroup2")
    done = subprocess.run([strace, "-o", "/dev/null", "-e", "trace=clone3",
                           "-e", "inject=clone3:error=EAGAIN:when=1", UMWELT, "exec", name,
                           "cat", "/proc/self/cgroup"], env=umwelt.environment, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOWNESS)
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert lines and all(line.endswith(":/") for line in lines), lines


# --- terminals -----------------------------------------------------------------------------------

def test_terminal(umwelt):
    terminal = Terminal(umwelt, "run", "--rm", "-it", "--", "sh")
    terminal.write("tty; stty size; readlink /proc/self/fd/0; echo $TERM; test -c /dev/console && "
                   "echo pres''ent\n")
    terminal.read_until("present")
    assert "/dev/pts/0" in terminal.output
    assert "40 120" in terminal.output
    assert "xterm" in terminal.output
    terminal.resize(50, 90)
    terminal.write("until stty size | grep '^50 90'; do sleep 0.05; done; echo re''sized\n")
    terminal.read_until("resized")
    terminal.write("echo sle''eping; sleep 100\n")
    terminal.read_until("sleeping")
    time.sleep(0.3 * SLOWNESS)
    terminal.write("\x03")  # to the program in the container, not to the launcher
    terminal.write("echo st''ill\n")
    terminal.read_until("still")
    terminal.write("exit 11\n")
    assert terminal.wait() == 11


def test_terminal_has_its_size_from_the_start(umwelt, name):
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "rb+", buffering=0) as terminal:
        termios.tcsetwinsize(terminal, (33, 99))
        for command in [["run", "--rm", "-it", "--"], ["exec", "-it", name]] * 10:
            umwelt(*command, "sh", "-c", "test \"$(stty size)\" = '33 99'", stdin=terminal,
                   stdout=terminal, capture_output=False, start_new_session=True, check=True)


@pytest.mark.skipif(os.environ.get("UMWELT_VARIANT") == "coverage",
                    reason="gcov fills the terminal before anybody reads it")
def test_terminal_with_an_init_and_a_user(umwelt):
    terminal = Terminal(umwelt, "run", "--rm", "-it", "--init", "--user", "65534", "--", "sh")
    terminal.write("stat -c %u $(tty); sleep 100\n")
    terminal.read_until("65534")
    time.sleep(0.3 * SLOWNESS)
    terminal.write("\x03")
    terminal.write("echo st''ill; exit 12\n")
    terminal.read_until("still")
    assert terminal.wait() == 12


def test_terminal_mode_is_restored(umwelt):
    import termios
    terminal = Terminal(umwelt, "run", "--rm", "-it", "--", "sh", "-c", "echo ready; read x")
    before = termios.tcgetattr(terminal.fd)
    terminal.read_until("ready")
    terminal.write("x\n")
    os.waitpid(terminal.pid, 0)
    assert termios.tcgetattr(terminal.fd)[3] & termios.ECHO == before[3] & termios.ECHO
    os.close(terminal.fd)


def test_terminal_in_exec(umwelt, name):
    terminal = Terminal(umwelt, "exec", "-it", name, "sh")
    terminal.write("tty; stty size; hostname; exit 13\n")
    terminal.read_until("box")
    assert "40 120" in terminal.output and "/dev/pts/" in terminal.output
    assert terminal.wait() == 13


def test_terminal_without_a_terminal(umwelt):
    """In a script: the input's end is the terminal's."""
    done = umwelt("run", "--rm", "-it", "--", "sh", input="echo hel''lo\n")
    assert done.returncode == 0 and "hello" in done.stdout
    assert "/dev/pts/0" in umwelt("run", "--rm", "-t", "--", "tty").stdout
    # A shell that edits its lines takes the terminal out of the mode in which it has an end.
    done = umwelt("run", "--rm", "-it", "--", "bash", "--norc", input="echo $((6 * 7))\nsleep 0.5\n",
                  timeout=20 * SLOWNESS)
    assert done.returncode == 0 and "42" in done.stdout
    done = umwelt("run", "--rm", "-it", "--", "cat", input="within a line", timeout=20 * SLOWNESS)
    assert done.returncode == 0 and "within a line" in done.stdout


def test_input_that_is_not_read_does_not_hold_output_back(umwelt):
    lines = "".join(f"{n}\n" for n in range(50000))
    process = umwelt.start("run", "--rm", "-it", "--", "sh", "-c",
                           "stty -echo; seq 100000; cat | tail -n 1; echo the end",
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        output = process.communicate(lines, timeout=60 * SLOWNESS)[0].splitlines()
    finally:
        process.kill()
    assert output[-2:] == ["49999", "the end"] and "100000" in output


def test_output_that_nobody_reads_does_not_hold_signals_back(umwelt):
    process = umwelt.start("run", "--rm", "-t", "--", "yes", stdout=subprocess.PIPE)
    try:
        time.sleep(1 * SLOWNESS)
        process.send_signal(signal.SIGTERM)
        time.sleep(1 * SLOWNESS)
        process.send_signal(signal.SIGTERM)  # the process has ended, its output is given up
        assert process.wait(20 * SLOWNESS) == 143
    finally:
        process.kill()
        process.stdout.close()


def test_endless_output_does_not_hold_signals_back(umwelt):
    process = umwelt.start("run", "--rm", "-t", "--", "yes", stdout=subprocess.PIPE)
    assert process.stdout.read(1 << 20).count("y") > 1000
    reader = threading.Thread(target=lambda: [None for _ in process.stdout])
    reader.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20 * SLOWNESS) == 143
    reader.join()


def fill_the_terminal():
    return ["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo done > /tmp/done; sleep 600"]


@contextlib.contextmanager
def nobody_reads(*command):
    """A command whose output is a pipe that stays full."""
    process = subprocess.Popen([UMWELT, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def fills_up(process):
    """Whether it has stopped writing: FIONREAD of the pipe stays the same."""
    def unread():
        buffer = bytearray(4)
        fcntl.ioctl(process.stdout, termios.FIONREAD, buffer)
        return int.from_bytes(buffer, "little")
    before = unread()
    time.sleep(0.3)
    return 10000 < before == unread()


def test_output_of_exec_that_nobody_takes_holds_up_no_end(umwelt, name, monkeypatch):
    for key, value in umwelt.environment.items():
        monkeypatch.setenv(key, value)
    with nobody_reads("exec", "-t", name, *fill_the_terminal()) as process:
        wait_until(lambda: fills_up(process), 30)
        start = time.monotonic()
        umwelt.ok("stop", "--time", "1", name)
        assert time.monotonic() - start < 15 * SLOWNESS
        assert process.poll() is None
        assert len(process.stdout.read()) > 60000  # what was written before the end


@pytest.mark.parametrize("suspended", [False, True])
def test_a_launcher_that_stands_still_holds_up_no_stop(umwelt, monkeypatch, suspended):
    for key, value in umwelt.environment.items():
        monkeypatch.setenv(key, value)
    one = f"still-{os.getpid()}"
    with nobody_reads("run", "--rm", "-t", "--name", one, "--", *fill_the_terminal()) as process:
        wait_until(lambda: fills_up(process), 30)
        if suspended:
            process.send_signal(signal.SIGSTOP)
        cgroup = umwelt.launched(one)["spec"]["id"]
        umwelt.ok("stop", "--time", "1", one)
        assert not any((folder / "umwelt" / cgroup).exists() for folder in HIERARCHIES)
        assert one not in umwelt.ok("ps")
        process.stdout.read()
        assert process.wait() == 137


def test_what_stays_keeps_nothing_of_the_callers(umwelt, tmp_path, monkeypatch):
    """As a lock of a script, which ends with the script."""
    lock = tmp_path / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        one = f"lock-{os.getpid()}"
        umwelt.ok("run", "--detach", "--name", one, "--", "sleep", "600", pass_fds=[file.fileno()])
        umwelt.ok("exec", "--detach", one, "sleep", "500", pass_fds=[file.fileno()])
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        umwelt.ok("rm", "--force", one)
