# SPDX-License-Identifier: Apache-2.0
"""In the test VM: the packages' unit under systemd, and containers that read while every process of
it is killed. Prints what it saw as JSON.

    systemd_unit.py DEB...      installs the packages and starts systemd
    systemd_unit.py --read PID  (of itself) reads the files of a container until its stdin ends
"""

import json
import os
import pathlib
import re
import select
import subprocess
import sys
import time

KILLS = 8
RESTARTS = 4
MEMORY_KIB = 65536
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
               "DEBIAN_FRONTEND": "noninteractive"}


def run(*command, check=True):
    done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    assert not check or done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout.strip()


def say(text):
    print(f"{time.monotonic():.1f} s: {text}", file=sys.stderr, flush=True)


def wait_until(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        time.sleep(0.1)


class Systemd:
    """systemd as the first process of a pid namespace. `unit` is what it starts."""

    def __init__(self, unit="umweltd.service"):
        self.process = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--mount", "--propagation", "private", "--mount-proc",
             "/lib/systemd/systemd", "--system", f"--unit={unit}", "--log-target=null"],
            env={**ENVIRONMENT, "container": "other"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=sys.stderr)
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: children.read_text().strip(), "the start of systemd")
        self.pid = int(children.read_text())
        wait_until(lambda: self.show("ActiveState", unit) == "active", f"the start of {unit}")

    def command(self, *words):
        return ["nsenter", "-t", self.pid, "-m", "-p", *words]

    def run(self, *words, check=True):
        return run(*self.command(*words), check=check)

    def show(self, name, unit="umweltd.service"):
        return self.run("systemctl", "show", "--value", "-p", name, "--", unit, check=False)

    def readers(self, pid, count=2):
        """Processes that read a container's files; report() ends them."""
        found = [subprocess.Popen(
            [str(word) for word in self.command(sys.executable, os.path.abspath(__file__), "--read",
                                                pid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
            for _ in range(count)]
        for reader in found:
            assert reader.stdout.readline() == "reads\n"
        return found

    def stop(self):
        os.kill(self.pid, 9)
        self.process.wait(timeout=60)


def read(pid):
    """Reads of a container's files, as a process beside it."""
    root = pathlib.Path(f"/proc/{pid}/root")
    expected = {"proc/meminfo": rb"\AMemTotal: +%d kB\n" % MEMORY_KIB,
                "proc/cpuinfo": rb"\Aprocessor\t: 0\n(?!.*\nprocessor)",
                "proc/stat": rb"\Acpu .*\ncpu0 .*\n(?!cpu)", "proc/uptime": rb"\A[0-9]",
                "sys/devices/system/cpu/online": rb"\A0\n\Z"}
    seen = {"reads": 0, "failed": [], "wrong": [], "longest_stall_ms": 0}
    print("reads", flush=True)
    while not select.select([0], [], [], 0)[0]:
        for name, pattern in expected.items():
            started = time.monotonic()
            try:
                text = (root / name).read_bytes()
            except OSError as error:
                seen["failed"].append(f"{name}: {error}")
                continue
            finally:
                seen["reads"] += 1
                stall = round((time.monotonic() - started) * 1000)
                seen["longest_stall_ms"] = max(seen["longest_stall_ms"], stall)
            if not re.search(pattern, text, re.S if "cpuinfo" in name else 0):
                seen["wrong"].append(f"{name}: {text[:200]!r}")
    print(json.dumps(seen))


def report_of(readers):
    return [json.loads(reader.communicate("end\n", timeout=60)[0]) for reader in readers]


def main(debs):
    run("dpkg", "--install", *debs)
    say("the packages are installed")
    systemd = Systemd()
    say("umweltd.service is active")
    report = {"state": systemd.show("ActiveState"), "kills": 0}
    systemd.run("umwelt", "run", "--detach", "--name", "box", "--cpuset-cpus", "1", "--memory",
                f"{MEMORY_KIB}K", "--", "sleep", "100000")
    pid = json.loads(systemd.run("umwelt", "inspect", "box"))[0]["launched"]["init_pid"]
    readers = systemd.readers(pid)
    say("readers read")
    report["stored"] = int(systemd.show("NFileDescriptorStore"))
    for kill in range(KILLS):
        main_pid = systemd.show("MainPID")
        systemd.run("systemctl", "kill", "-s", "KILL", "umweltd.service")
        report["kills"] += 1
        wait_until(lambda before=main_pid: systemd.show("ActiveState") == "active" and
                   systemd.show("MainPID") not in ("0", before), f"restart {kill}")
        say(f"kill {kill + 1} survived")
        time.sleep(0.5)
    report["restarts"] = int(systemd.show("NRestarts"))
    for restart in range(RESTARTS):
        main_pid = systemd.show("MainPID")
        systemd.run("systemctl", "restart", "umweltd.service")
        assert systemd.show("MainPID") not in ("0", main_pid)
        say(f"restart {restart + 1} survived")
        time.sleep(0.5)
    report["stored_after"] = int(systemd.show("NFileDescriptorStore"))
    report["readers"] = report_of(readers)
    say("readers ended")
    systemd.run("umwelt", "rm", "--force", "box")
    systemd.run("systemctl", "stop", "umweltd.service")
    report["stopped"] = systemd.show("ActiveState")
    mounts = pathlib.Path(f"/proc/{systemd.pid}/mountinfo").read_text()
    report["mounts_left"] = [line for line in mounts.splitlines() if " fuse.umwelt " in line]
    systemd.stop()
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        read(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
