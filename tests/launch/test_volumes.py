# SPDX-License-Identifier: Apache-2.0
"""Volumes and their speed limits through the real command line."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from disks import refused, volume, wait_until
from umwelt import HIERARCHIES, SLOWNESS, UMWELT

pytestmark = pytest.mark.usefixtures("no_disk_left")
BLKIO = next((root for root in HIERARCHIES if "blkio" in root.name.split(",")), None)
PROGRAMS = pathlib.Path(__file__).parent / "programs"


def test_volume_outlives_containers(umwelt, image):
    with volume(umwelt, "data"):
        umwelt.sh("--image", image, "-v", "data:/data", "echo one > /data/f")
        wait_until(lambda: not json.loads(umwelt.ok("volume", "inspect", "data"))[0]["in_use"])
        out = umwelt.sh("--image", image, "-v", "data:/data:ro",
                        "cat /data/f; touch /data/g 2>&1; df -k /data")
        assert out.startswith("one\n") and "Read-only" in out
        assert int(out.splitlines()[-1].split()[1]) < 128 * 1024
        assert "data" in umwelt.ok("volume", "ls")
        out = umwelt.run("--image", image, "--mount", "source=data,target=/d", "--", "cat", "/d/f")
        assert out == "one\n"


def test_exclusive_and_shared_volumes(umwelt, image):
    with volume(umwelt, "mine"), volume(umwelt, "ours", "--shared"):
        with umwelt.detached("--image", image, "-v", "mine:/m", "-v", "ours:/o", "--",
                             "sh", "-c", "echo there > /o/f; sleep 1000"):
            refused(umwelt, "run", "--image", image, "-v", "mine:/m", "--", "true", text="in use")
            refused(umwelt, "volume", "rm", "ours", text="in use")
            wait_until(lambda: umwelt.sh("--image", image, "-v", "ours:/o",
                                         "cat /o/f 2>/dev/null || true") == "there\n")


def test_the_name_that_a_volume_has_among_vdisks(umwelt, image):
    with volume(umwelt, "data"):
        for command in ("rm", "inspect", "update"):
            limit = ("--write-bps", "1m") if command == "update" else ()
            done = umwelt("volume", command, "volume:data", *limit)
            assert done.returncode == 1 and "leave 'volume:' away" in done.stderr, done
        refused(umwelt, "volume", "rm", "absent", text="there is no volume absent")


def has_strict_limit():
    return any(pathlib.Path("/sys/class/bdi").glob("7:*/strict_limit"))


@pytest.mark.vm
@pytest.mark.parametrize(("way", "first"), [("direct", 0), ("buffered", 32), ("mmap", 32)])
def test_write_speed(umwelt, way, first, nothing_left):
    """The first megabytes of a buffered writer only fill what may be dirty."""
    if way != "direct" and not has_strict_limit():
        pytest.skip("needs Linux 6.2: dirty limits of a device")
    with volume(umwelt, "slow", "--write-bps", "10m"):
        speed = float(umwelt.run("-v", "slow:/data", "--", "/usr/bin/python3",
                                 PROGRAMS / "write_speed.py", way, first, first + 50))
    print(f"\n{way}: {speed:.2f} MiB/s of 10")
    assert 3 / SLOWNESS < speed < 11  # a busy machine is slower


def test_speed_changes_at_once(umwelt, nothing_left):
    with volume(umwelt, "v", "--write-bps", "1m"):
        with umwelt.detached("-v", "v:/data", "--", "sh", "-c",
                             "dd if=/dev/zero of=/data/f bs=1M count=60 oflag=direct;"
                             "touch /data/done; sleep 1000") as name:
            time.sleep(1)
            umwelt.ok("volume", "update", "v", "--write-bps", "none")
            wait_until(lambda: umwelt("exec", name, "test", "-e", "/data/done").returncode == 0,
                       40)
        limits = json.loads(umwelt.ok("volume", "inspect", "v"))[0]["record"]["limits"]
        assert limits == {}


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_limit_where_less_may_be_dirty_on_the_whole_host(umwelt, tmp_path, nothing_left):
    """A small host, or vm.dirty_bytes: the kernel refuses more than its threshold."""
    if not has_strict_limit():
        pytest.skip("needs Linux 6.2: dirty limits of a device")
    paths = [word for number in range(256)
             for word in ("-P", f"/sys/devices/virtual/bdi/7:{number}/max_bytes")]
    with volume(umwelt, "v", "--write-bps", "100m"):
        done = subprocess.run(["strace", "-o", tmp_path / "trace", *paths, "-e", "trace=write",
                               "-e", "inject=write:error=EINVAL", UMWELT, "run", "--rm",
                               "-v", "v:/data", "--", "true"], env=umwelt.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60 * SLOWNESS)
    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert (done.returncode, done.stderr) == (0, ""), done


def device_limits(umwelt, name):
    """Of the loop device of a volume in use."""
    device = json.loads(umwelt.ok("volume", "inspect", name))[0]["device"]
    number = pathlib.Path("/sys/block", device.removeprefix("/dev/"), "dev").read_text().strip()

    def limited():
        found = pathlib.Path("/sys/class/bdi", number, "strict_limit").read_text() == "1\n"
        for path in BLKIO.glob("blkio.throttle.*_device") if BLKIO else ():
            found |= any(line.split()[0] == number for line in path.read_text().splitlines())
        return found
    return limited


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_limit_that_changes_while_a_container_starts(umwelt, image, tmp_path, nothing_left):
    """The start has read the old one by then."""
    if not has_strict_limit():
        pytest.skip("needs Linux 6.2: dirty limits of a device")
    with volume(umwelt, "v", "--write-bps", "1m"):
        with subprocess.Popen(["strace", "-o", tmp_path / "trace", "-e", "trace=flock",
                               "-e", "inject=flock:delay_enter=500000", UMWELT, "run", "--name",
                               "starts", "--rm", "--image", image, "-v", "v:/data", "--",
                               "sleep", "1000"], env=umwelt.environment) as run:
            try:
                wait_until(lambda: json.loads(umwelt.ok("volume", "inspect", "v"))[0]["in_use"])
                umwelt.ok("volume", "update", "v", "--write-bps", "none")
                assert umwelt.launched("starts")["status"] == "created"
                wait_until(lambda: umwelt.launched("starts")["status"] == "running", 30)
                assert not device_limits(umwelt, "v")()
                identity = umwelt.launched("starts")["spec"]["id"]
                for path in BLKIO.glob(f"*/{identity}/blkio.throttle.*_device") if BLKIO else ():
                    assert path.read_text() == ""
            finally:
                umwelt("rm", "--force", "starts")
                run.wait(30)


@pytest.mark.parametrize("end", ["rm", "kill"])
def test_a_speed_limit_ends_with_its_volumes_use(umwelt, image, nothing_left, end):
    if not has_strict_limit():
        pytest.skip("needs Linux 6.2: dirty limits of a device")
    with volume(umwelt, "v", "--write-bps", "200k", "--shared"):
        with umwelt.detached("--image", image, "-v", "v:/data", "--", "sleep", "1000") as one:
            limited = device_limits(umwelt, "v")
            with umwelt.detached("--image", image, "-v", "v:/data", "--", "sleep", "1000"):
                umwelt.ok("vdisk", "trim", "volume:v")
                umwelt.ok("volume", "ls")
                assert limited()
            assert limited()
            if end == "rm":
                umwelt.ok("exec", one, "sh", "-c", "head -c 2097152 /dev/zero > /data/f")
                start = time.monotonic()
                umwelt.ok("rm", "--force", one)
                assert not limited()
                assert time.monotonic() - start < 5 * SLOWNESS
            else:
                os.kill(umwelt.launched(one)["monitor_pid"], signal.SIGKILL)
                umwelt("ps")
        wait_until(lambda: not limited(), 40)
        umwelt.ok("vdisk", "trim", "volume:v")
        assert not limited()
