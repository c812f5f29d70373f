# SPDX-License-Identifier: Apache-2.0
"""The unit of the packages, under systemd in the test VM."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from test_package import ROOT, packages

UNIT = ROOT / "packaging/systemd/umweltd.service"


def test_security_score():
    """systemd's own opinion: 0 is best; a service without any restriction has 9.6."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        unit = shutil.copy(UNIT, folder)
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
                              capture_output=True, text=True)
    assert "Overall exposure level" in done.stdout, done
    line = done.stdout.strip().splitlines()[-1]
    print(line)
    assert float(line.split(":")[1].split()[0]) <= 5.5, done.stdout


def test_the_sandbox_leaves_what_the_daemon_calls():
    """The paths in containers, the namespaces that it enters, the CPU masks that it sets."""
    libraries = [*pathlib.Path("/usr/lib").glob("**/systemd/libsystemd-shared-*.so")]
    if os.geteuid() != 0 or not libraries:
        pytest.skip("needs root and systemd")
    other = subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "sleep", "100"])
    try:
        script = pathlib.Path(__file__).with_name("sandbox.py")
        done = subprocess.run([sys.executable, script, UNIT, libraries[0], str(other.pid)],
                              capture_output=True, text=True)
    finally:
        other.kill()
        other.wait()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_loop_module_is_there_before_its_devices_are_allowed():
    """systemd looks up "block-loop" once, when it starts the unit (systemd.resource-control(5))."""
    lines = UNIT.read_text().splitlines()
    assert "DeviceAllow=block-loop rw" in lines
    for key in ("Wants", "After"):
        named = [word for line in lines if line.startswith(f"{key}=")
                 for word in line.split("=", 1)[1].split()]
        assert "modprobe@loop.service" in named


def in_vm(script, *arguments):
    """What a script of this folder reports."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86")
    assert packages(), "no packages: ./dev package"
    done = subprocess.run(
        [ROOT / "tests/vm/run.sh", "--timeout", "1100", "-m", "3G", "--", "/usr/bin/python3",
         pathlib.Path(__file__).with_name(script), *arguments, *packages()],
        capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-5000:])
    report = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(report))
    return report


def check_readers(report):
    for reader in report["readers"]:
        assert reader["reads"] > 100
        assert not reader["failed"] and not reader["wrong"], reader


@pytest.mark.timeout(1200)
def test_a_node_whose_pod_is_replaced():
    """Kubernetes: the daemon outlives the DaemonSet's pod, and the next pod's takes over; no read
    fails."""
    report = in_vm("kubernetes_node.py", ROOT / "packaging/kubernetes/umwelt.yaml")
    assert report["state"] == "active" and report["set_up"]
    assert len(set(report["servers"])) == len(report["servers"]) > 1
    check_readers(report)
    assert report["broken"][0] == 1 and "the old one runs on" in report["broken"][1], report["broken"]
    assert "delete their pods" in report["refused"][0] and report["refused"][1] == 1
    assert report["removed"][1:] == [0, "inactive"], report["removed"]
    assert not report["left"] and report["containerd_as_before"]


@pytest.mark.timeout(1200)
def test_killed_and_restarted_under_systemd():
    """SIGKILL of every process of the service, and restarts: systemd keeps the descriptors, no read
    fails."""
    report = in_vm("systemd_unit.py")
    assert report["state"] == "active"
    assert report["kills"] == report["restarts"] > 0
    assert report["stored"] > 0 and report["stored_after"] > 0
    check_readers(report)
    assert report["stopped"] == "inactive"
    assert not report["mounts_left"]
