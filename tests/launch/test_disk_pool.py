# SPDX-License-Identifier: Apache-2.0
"""What many vdisks share: admission, the host's space, those made ready, and what a crash leaves."""

import contextlib
import fcntl
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

import pytest
from disks import MIB, loops_of, refused, vdisks, volume, wait_until
from umwelt import HIERARCHIES, SLOWNESS, Umwelt

pytestmark = pytest.mark.usefixtures("no_disk_left")

# The long version of the tests that have one.
LONG = bool(os.environ.get("UMWELT_LONG"))


def test_admission(umwelt, configured):
    configured('[disk]\npolicy = "reserve"\npool_size = "3g"\nlow_water = 0\n')
    umwelt.ok("vdisk", "create", "a", "--size", "2g")
    line = refused(umwelt, "vdisk", "create", "b", "--size", "2g", text="the pool is full")
    assert "2.0 GiB promised to 1 vdisks and 2.0 GiB asked for make 4.0 GiB" in line
    assert "3.0 GiB" in line
    configured('[disk]\npolicy = "overcommit=2"\npool_size = "3g"\nlow_water = 0\n')
    umwelt.ok("vdisk", "create", "b", "--size", "2g")
    umwelt.ok("vdisk", "rm", "a", "b")


def test_wrong_configuration(umwelt, tmp_path):
    (tmp_path / "bad.toml").write_text('[disk]\npolicy = "plenty"\n')
    umwelt.environment["UMWELT_CONFIG"] = str(tmp_path / "bad.toml")
    try:
        refused(umwelt, "vdisk", "ls", text="bad.toml:2: disk.policy must be")
    finally:
        del umwelt.environment["UMWELT_CONFIG"]


# Writes and syncs what the one before it did not, and notes how far it came, also on an error.
FILLER = """
i=0
while :; do
  dd if=/dev/urandom of=fill.$i bs=1M count=8 conv=fsync 2> /dev/null || : > failed
  i=$((i + 1)); echo $i > count; sync count
done
"""


@contextlib.contextmanager
def frozen(umwelt, name):
    """Stopped, as a daemon that was killed leaves a container; the file that says so."""
    identity = umwelt.launched(name)["spec"]["id"]
    files = [path for root in HIERARCHIES for path in root.glob(f"*/{identity}/*")
             if path.name in ("freezer.state", "cgroup.freeze")]
    file = next((path for path in files if path.name == "freezer.state"), files[0])
    umwelt("daemon", "stop", "--force")
    file.write_text("FROZEN" if file.name == "freezer.state" else "1")
    try:
        yield file
    finally:
        file.write_text("THAWED" if file.name == "freezer.state" else "0")
        umwelt("daemon", "start")


def goes_on(file):
    return file.read_text().strip() in ("THAWED", "0")


def test_a_daemon_thaws_before_all_else(umwelt, image):
    """An image may be read for minutes by who has the images' lock."""
    with umwelt.detached("--image", image, "--disk", "64m", "--", "sleep", "1000") as name:
        with frozen(umwelt, name) as file:
            images = os.open(umwelt.state / "images", os.O_RDONLY)
            try:
                fcntl.flock(images, fcntl.LOCK_EX)
                umwelt.ok("daemon", "start")
                wait_until(lambda: goes_on(file))
            finally:
                os.close(images)


def test_a_container_that_can_not_be_thawed_is_named_and_tried_again(umwelt, image):
    log = umwelt.runtime / "umweltd.log"
    with umwelt.detached("--image", image, "--disk", "64m", "--", "sleep", "1000") as name:
        with frozen(umwelt, name) as file:
            subprocess.run(["mount", "--bind", "/dev/full", file], check=True)
            try:
                umwelt.ok("daemon", "start")
                identity = umwelt.launched(name)["spec"]["id"]
                text = f"container {identity} is still stopped: "
                wait_until(lambda: text in log.read_text())
            finally:
                subprocess.run(["umount", file], check=True)
            wait_until(lambda: goes_on(file))
            assert f"container {identity} goes on" in log.read_text()


@pytest.mark.vm
def test_growth_stops_before_the_host_is_full(umwelt, image, host_filesystem, tmp_path):
    """The vdisks were promised more than there is: their containers wait for space."""
    near = Umwelt(host_filesystem)
    near.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
    (tmp_path / "umwelt.toml").write_text(
        '[disk]\npolicy = "overcommit=8"\nlow_water = "200m"\ncritical = "120m"\n')
    log = near.runtime / "umweltd.log"

    def free():
        status = os.statvfs(host_filesystem)
        return status.f_bavail * status.f_frsize

    def directory(name):
        """Where it writes to: the second one to a volume."""
        return near.root(name) / ("data" if name == "two" else "")

    def count(name):
        path = directory(name) / "count"
        return int(path.read_text() or 0) if path.exists() else 0

    try:
        near.ok("daemon", "start")
        names = ["one", "two", "three"]
        near.ok("volume", "create", "data", "--size", "1g")
        for name in names:
            where = ("--volume", "data:/data", "--workdir", "/data") if name == "two" else (
                "--disk", "1g")
            near.ok("run", "--detach", "--name", name, *where, "--", "sh", "-c", FILLER)
        stopped = []

        def all_wait():
            stopped[:] = [count(name) for name in names]
            time.sleep(1)
            text = log.read_text()
            return (text.rfind("is stopped until there is space") > text.rfind("goes on") and
                    [count(name) for name in names] == stopped and any(stopped))

        wait_until(all_wait, 60)
        assert re.search(r"at level (low|critical)(.|\n)* is stopped", log.read_text())
        least = free()  # with what was dirty when they were stopped, or part of it
        assert least > 0
        start = time.monotonic()
        near.ok("kill", "two")
        near.ok("rm", "--force", "two", "three")
        assert time.monotonic() - start < 5 * SLOWNESS
        wait_until(lambda: count("one") > stopped[0], 80)
        assert not (near.root("one") / "failed").exists()
        (near.root("one") / "writable").touch()
        print(f"\nstopped after {stopped} times 8 MiB with {least / MIB:.0f} MiB free")
    finally:
        near.clean_up()
    wait_until(lambda: not loops_of(near))


def test_the_ballast_is_above_the_marks(umwelt, host_filesystem, tmp_path):
    """Else it would be given up for space, and made again of it, without end."""
    near = Umwelt(host_filesystem)
    near.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
    free = os.statvfs(host_filesystem).f_bavail * os.statvfs(host_filesystem).f_frsize

    def ballasts(low_water, ballast):
        (tmp_path / "umwelt.toml").write_text(
            f'[disk]\nlow_water = "{low_water >> 20}m"\ncritical = "10m"\nballast = "{ballast}"\n')
        near.ok("daemon", "start")
        time.sleep(1)
        near.ok("daemon", "stop")
        return [file.stat().st_blocks * 512 for file in host_filesystem.rglob("ballast")]

    try:
        assert ballasts(free - 60 * MIB, "80m") == []
        assert ballasts(free - 100 * MIB, "80m") == [80 * MIB]
        assert ballasts(free - 100 * MIB, "0") == []
    finally:
        near.clean_up()


def test_what_others_write_stops_nobody(umwelt, image, host_filesystem, tmp_path):
    """What is dirty in memory will be on some disk, but not on this one."""
    near = Umwelt(host_filesystem)
    near.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
    free = os.statvfs(host_filesystem).f_bavail * os.statvfs(host_filesystem).f_frsize
    low_water, critical = free - 60 * MIB, free - 100 * MIB
    (tmp_path / "umwelt.toml").write_text(
        f'[disk]\nlow_water = "{low_water >> 20}m"\ncritical = "{critical >> 20}m"\n')

    def dirty():
        text = pathlib.Path("/proc/meminfo").read_text()
        return int(re.search(r"^Dirty: *(\d+)", text, re.MULTILINE)[1]) * 1024

    most = 0
    try:
        near.ok("daemon", "start")
        with near.detached("--disk", "64m", "--", "sh", "-c",
                           "while :; do echo > /beat; sleep 0.05; done"):
            with open(tmp_path / "elsewhere", "wb") as file:
                for _ in range(400):
                    file.write(bytes(MIB))
                    if file.tell() % (20 * MIB) == 0:
                        most = max(most, dirty())
                        time.sleep(0.1)
    finally:
        log = (near.runtime / "umweltd.log").read_text()
        near.clean_up()
    wait_until(lambda: not loops_of(near))
    assert "is stopped" not in log
    if most < 150 * MIB:
        pytest.skip(f"needs memory for what is dirty: {most >> 20} MiB were")


def test_a_refused_clone_copies_no_image(umwelt, image, configured):
    configured('[disk]\npolicy = "reserve"\npool_size = "100m"\nlow_water = 0\n')
    for command in (("vdisk", "create", "c", "--size", "300m", "--image", image, "--clone"),
                    ("run", "--image", image, "--disk", "301m", "--disk-mode", "clone", "--", "true"),
                    ("run", "--image", image, "--disk", "16t", "--", "true")):
        refused(umwelt, *command, text="the pool is full")
    assert not list((umwelt.state / "images").glob("*.ext4"))
    templates = umwelt.state / "templates"
    assert not [p for p in templates.glob("*") if p.stat().st_size > 16 * MIB]


def test_ready_vdisks(umwelt, image, configured):
    ready = umwelt.state / "vdisks/.ready"
    configured('[disk]\nready = 3\nready_size = "96m"\n')
    wait_until(lambda: ready.exists() and len(list(ready.iterdir())) == 3)
    taken = {path.name.rsplit("-", 1)[1] for path in ready.iterdir()}
    with umwelt.detached("--image", image, "--disk", "96m", "--", "sleep", "1000") as name:
        disk = vdisks(umwelt)[umwelt.launched(name)["spec"]["id"]]
        assert disk["record"]["id"] in taken
        wait_until(lambda: len(list(ready.iterdir())) == 3)
        assert umwelt("exec", name, "sh", "-c", "echo x > /f && cat /f").stdout == "x\n"
    for _ in range(5):
        assert umwelt.sh("--image", image, "--disk", "96m", "echo x > /f && cat /f") == "x\n"
    umwelt("daemon", "stop", "--force")
    assert list(ready.iterdir()) == []


def test_killed_at_any_moment(umwelt, image):
    """create, run and rm in 4 workers, each killed at a random moment."""
    moments, kept, failures = (200 if LONG else 24), [], []
    seed = random.randrange(1 << 30)
    lock = threading.Lock()
    start = time.monotonic()
    umwelt.run("--image", image, "--disk", "64m", "--", "true")
    whole = max(0.1, time.monotonic() - start)

    def work(worker):
        rng = random.Random(seed + worker)
        for i in range(moments // 4):
            name = f"crash-{worker}-{i}"
            arguments = rng.choice([
                ["vdisk", "create", name, "--size", "64m"],
                ["run", "--rm", "--image", image, "--disk", "64m", "--", "true"],
                ["run", "--name", name, "--image", image, "--disk", "64m", "--keep", "--",
                 "sh", "-c", "echo x > /f; sync"]])
            process = umwelt.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(rng.uniform(0, 2.5 * whole))  # four run at a time
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
            with lock:
                if arguments[0] == "vdisk" and out.strip() == name:
                    kept.append(name)
                unwanted = [kept.pop()] if rng.random() < 0.3 and kept else []
            if unwanted:
                umwelt("vdisk", "rm", *unwanted)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    umwelt("daemon", "stop", "--force")
    wait_until(lambda: not loops_of(umwelt), 30)
    umwelt("ps")  # tidies up after launchers
    umwelt.ok("daemon", "start")
    left = vdisks(umwelt)
    assert set(kept) <= set(left), (seed, kept, left)
    for name, disk in left.items():
        assert disk["record"] and disk["record"]["keep"], (seed, disk)
        if umwelt("vdisk", "check", name).stdout != f"{name}  clean\n":
            failures.append(name)
    assert not failures, (seed, failures)
    staging = [p for p in (umwelt.state / "images").iterdir() if p.name.startswith(".")]
    assert not staging and not list((umwelt.state / "vdisks/.ready").glob("*"))
    names = umwelt("ps", "--all", "--quiet").stdout.split()
    if names:
        umwelt.ok("rm", "--force", *names)
    if left:
        umwelt.ok("vdisk", "rm", *left)


def test_names_that_an_option_could_not_mean(umwelt, image):
    """`run --disk` takes a size for one; a volume is what is named as one."""
    for size in ("64m", "128", "1GiB", "2.5t"):
        refused(umwelt, "vdisk", "create", "--size", "32m", "--", size, text="is a capacity")
    refused(umwelt, "run", "--image", image, "--name", "128m", "--disk", "64m", "--keep", "--",
            "true", text="choose another --name")
    refused(umwelt, "vdisk", "create", "volume:x", "--size", "32m", text="umwelt volume create x")
    umwelt.ok("vdisk", "create", "plain", "--size", "32m")
    for command in ("clone", "snapshot"):
        refused(umwelt, "vdisk", command, "plain", "64m", text="is a capacity")
        refused(umwelt, "vdisk", command, "plain", "volume:y", text="name it y")
    with volume(umwelt, "v"):
        for command in ("clone", "snapshot"):
            refused(umwelt, "vdisk", command, "volume:v", "w", text="name it volume:w")
        assert set(vdisks(umwelt)) == {"plain", "volume:v"}
        umwelt.ok("vdisk", "clone", "volume:v", "volume:w")
        umwelt.ok("run", "--rm", "--image", image, "-v", "w:/w", "--", "true")
    umwelt.ok("volume", "rm", "w")
    umwelt.ok("vdisk", "rm", "plain")


def test_an_interrupted_export_leaves_no_file(umwelt, tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    for folder in (root, out):
        folder.mkdir()
    with open(root / "zeros", "wb") as file:
        file.truncate(200 * MIB)
    umwelt.ok("image", "import", "--name", "zeros", root)

    def has_written(export):
        if export.poll() is not None:
            return True
        text = pathlib.Path(f"/proc/{export.pid}/io").read_text()
        return int(text.split("wchar:")[1].split()[0]) > MIB

    for _ in range(20):  # until one is not faster
        export = umwelt.start("image", "export", "zeros", "--output", out / "a.tar")
        while not has_written(export):
            pass
        export.send_signal(signal.SIGTERM)
        if export.wait() != 0:
            break
        (out / "a.tar").unlink()
    assert export.returncode != 0 and list(out.iterdir()) == []
    umwelt.ok("image", "export", "zeros", "--output", out / "a.tar")
    assert (out / "a.tar").stat().st_size > 200 * MIB
    refused(umwelt, "image", "export", "zeros", "--output", out / "a.tar", text="exists: remove it")
    refused(umwelt, "image", "export", "zeros", "--output", out / "absent/a.tar", text="No such file")
    umwelt.ok("image", "rm", "zeros")
