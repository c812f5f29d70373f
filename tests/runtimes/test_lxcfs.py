# SPDX-License-Identifier: Apache-2.0
"""umweltd in lxcfs's place: its folder, its options, LXC's hook."""

import os
import pathlib
import signal
import subprocess
import tempfile
import time

import engines
import machine as machines
import pytest
from machine import BIN, SHOW, assert_own_resources, program, wait_until

HOOK = pathlib.Path("/usr/share/lxcfs/lxc.mount.hook")
FILES = ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps")


class InPlaceOfLxcfs(machines.Machine):
    """With the command line that lxcfs had, but for the name of the folder's option."""

    def __init__(self, folder):
        self.lxcfs, self.pid_file = folder / "lxcfs", folder / "lxcfs.pid"
        super().__init__(folder)

    def start(self, check=True):
        return self.run(BIN / "umweltd", "--runtime-dir", self.runtime, "--lxcfs-compat",
                        self.lxcfs, "-l", "--enable-cfs", "-u", "--enable-pidfd", "-o",
                        "allow_other", "-p", self.pid_file, check=check)


@pytest.fixture(scope="module")
def machine():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-rt-", dir="/tmp"))
    it = InPlaceOfLxcfs(folder)
    yield it
    it.clean_up()
    it.remove()


def test_the_folder_is_as_lxcfs_has_it(machine):
    assert os.path.ismount(machine.lxcfs)
    assert {"proc", "sys"} <= set(os.listdir(machine.lxcfs))
    for file in FILES:
        assert (machine.lxcfs / "proc" / file).read_text()
    assert (machine.lxcfs / "sys/devices/system/cpu/online").read_text()
    assert int(machine.pid_file.read_text()) in machine.pids()
    log = (machine.runtime / "umweltd.log").read_text()
    for option in ("-l", "--enable-cfs", "-u", "--enable-pidfd", "-o"):
        assert f"lxcfs's {option}" in log
    os.kill(int(machine.pid_file.read_text()), signal.SIGUSR1)  # systemctl reload lxcfs
    time.sleep(0.1)
    assert (machine.lxcfs / "proc/meminfo").read_text()


@pytest.mark.skipif(program("lxc-execute") is None or not HOOK.exists(),
                    reason="needs lxc-execute, lxcfs")
def test_the_hook_of_lxcfs(machine, tmp_path):
    rootfs = machines.make_rootfs(tmp_path / "rootfs")
    (tmp_path / "lxc").mkdir()
    hook = tmp_path / "hook"
    hook.write_text(HOOK.read_text().replace("/var/lib/lxcfs", str(machine.lxcfs)))
    hook.chmod(0o755)
    config = tmp_path / "config"
    config.write_text("\n".join([
        f"lxc.rootfs.path = dir:{rootfs}", "lxc.uts.name = box", "lxc.net.0.type = none",
        "lxc.mount.auto = proc:mixed sys:ro", f"lxc.hook.mount = {hook}",
        *machines.lxc_limits()]) + "\n")
    done = machine.run("lxc-execute", "-P", tmp_path / "lxc", "-n", "box", "-f", config, "--",
                       "/bin/sh", "-c", SHOW)
    assert_own_resources(done.stdout.replace("\r", ""), answered=False)


@pytest.mark.skipif(program("runc") is None, reason="needs runc")
def test_mounts_of_the_users_of_lxcfs(machine, tmp_path):
    """As `docker run -v /var/lib/lxcfs/proc/meminfo:/proc/meminfo` has them. A daemon that was
    killed is no other than lxcfs: what runs keeps its dead mounts, what starts is right."""
    bundle = engines.Bundle(machine, tmp_path / "bundle")
    config = bundle.read()
    config["mounts"] += [{"destination": f"/proc/{file}", "type": "bind", "options": ["bind", "ro"],
                          "source": f"{machine.lxcfs}/proc/{file}"} for file in FILES]
    config["mounts"].append({"destination": "/sys/devices/system/cpu", "type": "bind",
                             "source": f"{machine.lxcfs}/sys/devices/system/cpu",
                             "options": ["rbind", "ro"]})
    bundle.write(config)
    runc = (program("runc"), "--root", bundle.folder / "state", "run", "-b", bundle.folder, "box")
    assert_own_resources(machine.run(*runc).stdout, answered=False)
    machine.kill()
    machine.start()
    assert_own_resources(machine.run(*runc).stdout, answered=False)


@pytest.mark.skipif(program("lxcfs") is None, reason="needs lxcfs")
def test_one_after_the_other(machine):
    """Beside an lxcfs that runs it does not start; after one that died it does."""
    machine.stop()
    assert not os.path.ismount(machine.lxcfs) and not machine.pid_file.exists()
    assert machines.host_mounts(machine.folder) <= machine.mounts_before
    lxcfs = subprocess.Popen([program("lxcfs"), "-f", "-p", machine.folder / "other.pid",
                              machine.lxcfs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until((machine.lxcfs / "proc/meminfo").exists, 10, "lxcfs's start")
        refused = machine.start(check=False)
        assert refused.returncode == 1 and "systemctl disable --now lxcfs" in refused.stderr
    finally:
        lxcfs.kill()
        lxcfs.wait()
    machine.start()
    assert (machine.lxcfs / "proc/meminfo").read_text()
    os.kill(int(machine.pid_file.read_text()), signal.SIGTERM)
    wait_until(lambda: not machine.pids(), what="the daemon's end")
    assert not os.path.ismount(machine.lxcfs) and not machine.pid_file.exists()


def test_its_options_are_for_its_place_alone(machine):
    refused = machine.run(BIN / "umweltd", "-l", check=False)
    assert refused.returncode == 2 and "--lxcfs-compat" in refused.stderr + refused.stdout
    refused = machine.run(BIN / "umweltd", "--lxcfs-compat", "here", check=False)
    assert refused.returncode == 2 and "absolute" in refused.stderr
