# SPDX-License-Identifier: Apache-2.0
"""Containers of runc whose config.json names the daemon's socket as listenerPath."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from umwelt import CPUS, SLOWNESS

CALLS = ["sysinfo", "sched_getaffinity", "sched_setaffinity", "getcpu"]
BYTES = 256 << 20
LOOP = ("while :; do nproc >/tmp/n 2>&1; free >>/tmp/n 2>&1; mv /tmp/n /tmp/last; sleep 0.1; done")


@pytest.fixture
def bundle(umwelt, tmp_path, busybox):
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    from umwelt import make_rootfs
    rootfs = make_rootfs(tmp_path / "rootfs", busybox)
    for name in ("free", "mv"):
        (rootfs / "bin" / name).symlink_to("busybox")
    subprocess.run(["runc", "spec", "-b", tmp_path], check=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"].update(args=["sh", "-c", LOOP], terminal=False)
    config["linux"]["resources"] = {"memory": {"limit": BYTES},
                                    "cpu": {"quota": 50000, "period": 100000}}
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(umwelt.runtime / "seccomp.sock"),
        "syscalls": [{"names": CALLS, "action": "SCMP_ACT_NOTIFY"}]}
    config["root"] = {"path": "rootfs", "readonly": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_runc(umwelt, bundle):
    umwelt.ok("daemon", "start")
    name = f"umwelt-test-{os.getpid()}"
    runc = ["runc", "--root", bundle / "state"]
    with open(bundle / "log", "w") as log:  # the container has it open as long as it runs
        code = subprocess.call([*runc, "run", "--detach", "-b", bundle, name],
                               stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    assert code == 0, (bundle / "log").read_text()
    try:
        said = bundle / "rootfs/tmp/last"

        def wait_for(pattern):
            deadline = time.monotonic() + 15 * SLOWNESS
            while not (said.exists() and re.search(pattern, said.read_text(), re.S)):
                assert time.monotonic() < deadline, said.exists() and said.read_text()
                time.sleep(0.05)

        wait_for(rf"^1\n.*Mem: +{BYTES >> 10}")
        umwelt.ok("daemon", "stop", "--force")
        host = int(re.search(r"MemTotal: +(\d+)",
                             pathlib.Path("/proc/meminfo").read_text())[1])
        wait_for(rf"^{len(CPUS)}\n.*Mem: +{host}")
        umwelt.ok("daemon", "start")
        wait_for(rf"^1\n.*Mem: +{BYTES >> 10}")
    finally:
        subprocess.run([*runc, "kill", name, "KILL"], capture_output=True)
        time.sleep(0.2)
        subprocess.run([*runc, "delete", "--force", name], capture_output=True)
