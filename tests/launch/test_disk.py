# SPDX-License-Identifier: Apache-2.0
"""Images, vdisks and volumes through the real command line."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import tarfile
import threading
import time

import pytest
from umwelt import SLOWNESS, UMWELT, Umwelt, make_rootfs

MIB = 1 << 20
PROGRAMS = pathlib.Path(__file__).parent / "programs"
# The long version of the tests that have one.
LONG = bool(os.environ.get("UMWELT_LONG"))


def loops_of(umwelt):
    """Loop devices on files of our state directory."""
    found = set()
    for device in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if str(umwelt.state) in device.read_text():
                found.add(device.parts[3])
    return found


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def vdisks(umwelt):
    return {disk["name"]: disk for disk in json.loads(umwelt.ok("vdisk", "ls", "--json"))}


def refused(umwelt, *arguments, text=""):
    """One line that says why; the line."""
    done = umwelt(*arguments)
    assert done.returncode != 0, arguments
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("umwelt: "), done
    assert text in lines[0], done
    return lines[0]


@pytest.fixture(scope="module")
def image(umwelt, tmp_path_factory, busybox):
    root = make_rootfs(tmp_path_factory.mktemp("image") / "rootfs", busybox)
    for name in ("df", "sync", "rm", "mv", "wc", "cmp", "md5sum", "ln", "mkdir"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/lower").write_text("lower\n")
    umwelt.ok("image", "import", "--name", "busybox", root)
    return "busybox"


@pytest.fixture(autouse=True)
def no_disk_left(umwelt, image):
    """Every vdisk, loop device and image that a test made has gone with it."""
    before = set(vdisks(umwelt))
    yield
    wait_until(lambda: not loops_of(umwelt))
    assert set(vdisks(umwelt)) == before


def size_in(umwelt, *arguments):
    out = umwelt.run(*arguments, "--", "df", "-k", "/")
    return int(out.splitlines()[-1].split()[1]) * 1024


# --- images ---------------------------------------------------------------------------------------

def test_image_commands(umwelt, image, tmp_path, rootfs):
    archive = tmp_path / "small.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(rootfs, ".")
    out = umwelt.ok("image", "import", archive)
    assert out.startswith("small  sha256:")
    listed = {i["name"]: i for i in json.loads(umwelt.ok("image", "ls", "--json"))}
    assert set(listed) == {"busybox", "small"} and not listed["small"]["in_use"]
    assert "small" in umwelt.ok("image", "ls")
    umwelt.ok("image", "inspect", "--verify", "small")
    umwelt.ok("image", "export", "small", "--output", tmp_path / "again.tar")
    again = json.loads(umwelt.ok("image", "import", "--json", "--name", "again",
                                 tmp_path / "again.tar"))
    assert again["digest"] == listed["small"]["digest"]
    assert umwelt.run("--image", "again", "--", "echo", "hello") == "hello\n"
    with open(tmp_path / "again.tar", "rb") as stdin:
        umwelt.ok("image", "import", "--name", "piped", "-", stdin=stdin)
    out = umwelt.ok("image", "prefetch", archive, tmp_path / "again.tar")
    assert out.count("was there") == 2
    umwelt.ok("image", "rm", "small", "again", "piped")
    assert [i["name"] for i in json.loads(umwelt.ok("image", "ls", "--json"))] == ["busybox"]


def test_image_without_disk_keeps_nothing(umwelt, image):
    assert umwelt.sh("--image", image, "cat /etc/lower; echo x > /etc/lower; cat /etc/lower"
                     ) == "lower\nx\n"
    assert umwelt.sh("--image", image, "cat /etc/lower") == "lower\n"


def test_image_in_use_is_not_removed(umwelt, image):
    with umwelt.detached("--image", image, "--", "sleep", "1000"):
        assert json.loads(umwelt.ok("image", "inspect", image))[0]["in_use"]
        refused(umwelt, "image", "rm", image, text="in use")
    assert umwelt.run("--image", image, "--", "echo", "still") == "still\n"


def test_image_that_is_not_there(umwelt, image):
    line = refused(umwelt, "run", "--image", "busybx", "--", "true", text="did you mean busybox?")
    assert "no such image" in line


@pytest.mark.parametrize("make,text", [
    (lambda t: t.addfile(tarfile.TarInfo("../evil")), "'..'"),
    (lambda t: t.addfile(tarfile.TarInfo("/etc/evil")), "absolute"),
], ids=["dotdot", "absolute"])
def test_hostile_archives(umwelt, image, tmp_path, make, text):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        make(tar)
    refused(umwelt, "image", "import", tmp_path / "bad.tar", text=text)
    assert {p.suffix for p in (umwelt.state / "images").iterdir()} == {".erofs", ".json"}


def test_import_of_what_is_no_archive(umwelt, image, tmp_path):
    (tmp_path / "text.tar").write_text("not an archive\n" * 1000)
    refused(umwelt, "image", "import", tmp_path / "text.tar", text="archive")
    refused(umwelt, "image", "import", "/dev/null", text="neither a directory nor an archive")
    refused(umwelt, "image", "import", tmp_path / "absent", text="No such file")


# --- run --disk -----------------------------------------------------------------------------------

def test_df_shows_the_capacity(umwelt, image, nothing_left):
    size = size_in(umwelt, "--image", image, "--disk", "256m")
    assert 220 * MIB < size < 256 * MIB
    assert size_in(umwelt, "--image", image, "--disk", "256m", "--disk-mode", "clone") < 256 * MIB
    out = umwelt.run("--image", image, "--disk", "256m", "--", "cat", "/run/container_info")
    assert str(256 * MIB) in out


def test_figures_show_the_own_disk_alone(umwelt, image, nothing_left):
    out = umwelt.sh("--image", image, "--disk", "256m",
                    "echo x > /etc/f; sync; cat /proc/partitions; echo ---; cat /proc/diskstats")
    partitions, diskstats = out.split("---\n")
    rows = [line.split() for line in partitions.splitlines()[2:]]
    assert [int(row[2]) for row in rows] == [256 * 1024]
    assert [line.split()[2] for line in diskstats.splitlines()] == [rows[0][3]]
    assert rows[0][3].startswith("loop")


def test_disk_under_each_kind_of_root(umwelt, image, rootfs, nothing_left):
    for root in (["--image", image], ["--rootfs", rootfs], []):
        out = umwelt.sh(*root, "--disk", "64m", "echo kept > /etc/f && cat /etc/f && df -k /")
        assert out.startswith("kept\n")
        assert int(out.splitlines()[-1].split()[1]) < 64 * 1024
    assert not pathlib.Path("/etc/f").exists()
    assert not (rootfs / "etc/f").exists()


@pytest.mark.parametrize("mode", ["overlay", "clone"])
def test_capacity_is_hard(umwelt, image, mode, nothing_left):
    size, write = ("1g", 1536) if LONG else ("256m", 384)
    out = umwelt.sh(
        "--image", image, "--disk", size, "--disk-mode", mode,
        "dd if=/dev/urandom of=/before bs=1M count=8 2>/dev/null; sync; md5sum < /before;"
        f"dd if=/dev/zero of=/f bs=1M count={write} 2>&1; sync; md5sum < /before;"
        "stat -c %s /f; rm /f; sync; dd if=/dev/zero of=/g bs=1M count=100 2>&1 && echo again")
    lines = out.splitlines()
    sums = [line for line in lines if line.endswith("  -")]
    assert len(sums) == 2 and sums[0] == sums[1]
    assert "No space left on device" in out and lines[-1] == "again"
    written = next(int(line) for line in lines if line.isdigit())
    capacity = (1024 if LONG else 256) * MIB
    assert 0.85 * capacity < written < capacity


def test_kept_disk_is_used_again(umwelt, image):
    umwelt.run("--image", image, "--disk", "64m", "--keep", "--name", "kept", "--",
               "sh", "-c", "echo one > /etc/f")
    wait_until(lambda: not vdisks(umwelt)["kept"]["in_use"])
    assert umwelt.sh("--image", image, "--disk", "kept", "cat /etc/f") == "one\n"
    refused(umwelt, "run", "--disk", "kept", "--", "true", text="belongs to image busybox")
    wait_until(lambda: not vdisks(umwelt)["kept"]["in_use"])
    assert umwelt.ok("vdisk", "check", "kept") == "kept  clean\n"
    umwelt.ok("vdisk", "rm", "kept")


def test_one_container_at_a_time(umwelt, image):
    umwelt.ok("vdisk", "create", "one", "--size", "64m", "--image", image)
    with umwelt.detached("--image", image, "--disk", "one", "--", "sleep", "1000"):
        refused(umwelt, "run", "--image", image, "--disk", "one", "--", "true", text="in use")
        refused(umwelt, "vdisk", "rm", "one", text="in use")
        refused(umwelt, "vdisk", "check", "one", text="in use")
    wait_until(lambda: not vdisks(umwelt)["one"]["in_use"])
    umwelt.ok("vdisk", "rm", "one")


def test_vdisk_commands(umwelt, image):
    made = json.loads(umwelt.ok("vdisk", "create", "--json", "a", "--size", "128m"))
    assert made["record"]["capacity_bytes"] == 128 * MIB and not made["in_use"]
    refused(umwelt, "vdisk", "create", "a", "--size", "64m", text="exists")
    umwelt.ok("vdisk", "grow", "a", "--size", "256m")
    umwelt.ok("vdisk", "snapshot", "a", "a-before")
    umwelt.ok("vdisk", "clone", "a-before", "b")
    refused(umwelt, "run", "--image", image, "--disk", "a-before", "--", "true", text="snapshot")
    df = json.loads(umwelt.ok("vdisk", "df", "--json"))
    assert {d["name"] for d in df["vdisks"]} >= {"a", "a-before", "b"}
    assert df["pool"]["promised_bytes"] >= 3 * 256 * MIB
    assert "promised" in umwelt.ok("vdisk", "df")
    assert json.loads(umwelt.ok("vdisk", "inspect", "b"))[0]["usage"]["capacity_bytes"] == 256 * MIB
    umwelt.ok("vdisk", "trim", "a")
    assert umwelt.ok("vdisk", "repair", "a").startswith("a  ")
    umwelt.ok("vdisk", "rm", "a", "a-before", "b")
    refused(umwelt, "vdisk", "rm", "a", text="there is no vdisk a")


@pytest.mark.parametrize("arguments,text", [
    (["--disk", "0"], "capacity"), (["--disk", "1m"], "capacity"),
    (["--disk", "31m"], "capacity"), (["--disk", "100000t"], "capacity"),
    (["--disk", "99999999999999999999"], "there is no vdisk"), (["--disk", "-5g"], "neither"),
    (["--disk", "../x"], "neither"), (["--disk", "absent"], "there is no vdisk absent"),
    (["--disk-mode", "clone", "--disk", "64m"], "needs --image"),
    (["--keep"], "needs --disk"), (["--disk", "64m", "--disk-class", "fast"], "thin"),
    (["--disk", "64m", "--disk-class", "scratch", "--keep"], "scratch"),
    (["-v", "absent:/data"], "there is no volume absent"),
])
def test_bad_disks(umwelt, arguments, text, nothing_left):
    refused(umwelt, "run", *arguments, "--", "true", text=text)


def test_larger_than_the_host_can_address(umwelt, image):
    done = umwelt("run", "--disk", "32t", "--", "true")
    if done.returncode == 0:
        pytest.skip("needs ext4: this filesystem has files of 32 TiB")
    assert len(done.stderr.splitlines()) == 1, done
    refused(umwelt, "run", "--disk", "32t", "--", "true")


@pytest.fixture
def host_filesystem(tmp_path):
    backing, point = tmp_path / "backing", tmp_path / "host"
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", backing, "512m"], check=True)
    subprocess.run(["mount", "-o", "loop", backing, point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


def test_host_filesystem_turns_read_only(umwelt, host_filesystem, nothing_left):
    state = ("--state-dir", host_filesystem / "state")
    umwelt.ok(*state, "vdisk", "create", "d", "--size", "32m")
    umwelt.ok(*state, "volume", "create", "v", "--size", "32m")
    subprocess.run(["mount", "-o", "remount,ro", host_filesystem], check=True)
    for arguments in (("vdisk", "create", "e", "--size", "32m"),
                      ("vdisk", "grow", "d", "--size", "64m"), ("vdisk", "snapshot", "d", "e"),
                      ("vdisk", "check", "d"), ("vdisk", "rm", "d"), ("volume", "rm", "v"),
                      ("image", "import", "/etc"), ("run", "--disk", "32m", "--", "true"),
                      ("run", "-v", "v:/data", "--", "true")):
        line = refused(umwelt, *state, *arguments)
        assert re.search("read-only", line, re.IGNORECASE), line
    listed = json.loads(umwelt.ok(*state, "vdisk", "ls", "--json"))
    assert {disk["name"] for disk in listed} == {"d", "volume:v"}
    findings = json.loads(umwelt(*state, "doctor", "--json").stdout)
    assert any("read-only" in finding["text"] for finding in findings["findings"]), findings
    subprocess.run(["mount", "-o", "remount,rw", host_filesystem], check=True)
    assert umwelt.run("--", "echo", "on") == "on\n"
    umwelt.ok(*state, "vdisk", "rm", "d")
    umwelt.ok(*state, "volume", "rm", "v")
    assert not list((host_filesystem / "state/vdisks").glob("*.img"))


# Mounts a /dev without loop devices.
NO_LOOPS = """
mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir pts shm
for name in null zero full random urandom tty fuse; do
  touch $name && mount --bind /dev/$name $name
done
cd / && mount --move "$1" /dev
shift
exec "$@"
"""


def test_machine_without_loop_devices(umwelt, tmp_path, nothing_left):
    with volume(umwelt, "v"):
        for what in (("--disk", "32m"), ("-v", "v:/data")):
            done = subprocess.run(["unshare", "--mount", "sh", "-c", NO_LOOPS, "sh", tmp_path,
                                   UMWELT, "run", *what, "--", "true"], text=True,
                                  env=umwelt.environment, capture_output=True)
            assert done.returncode == 125, done
            assert done.stderr.count("\n") == 1 and "no loop devices" in done.stderr, done


def test_image_too_large_for_its_clone(umwelt, image, tmp_path, busybox):
    root = make_rootfs(tmp_path / "big", busybox)
    (root / "big").write_bytes(os.urandom(40 * MIB))
    umwelt.ok("image", "import", "--name", "big", root)
    refused(umwelt, "run", "--image", "big", "--disk", "32m", "--disk-mode", "clone", "--", "true",
            text="does not fit")
    umwelt.ok("image", "rm", "big")


def test_command_that_is_not_there_leaves_no_disk(umwelt, image, nothing_left):
    done = umwelt("run", "--rm", "--image", image, "--disk", "64m", "--", "/nonexistent")
    assert done.returncode == 127


def test_the_command_has_no_descriptor_of_the_host(umwelt, image):
    out = umwelt.sh("--image", image, "--disk", "64m", "ls -l /proc/self/fd /proc/1/fd 2>/dev/null; true")
    assert "loop" not in out and ".img" not in out and "erofs" not in out
    out = umwelt.sh("--image", image, "--disk", "64m", "--init", "ls -l /proc/1/fd 2>/dev/null; true")
    assert "loop" not in out and ".img" not in out and "erofs" not in out


# --- volumes --------------------------------------------------------------------------------------

@contextlib.contextmanager
def volume(umwelt, name, *options):
    umwelt.ok("volume", "create", name, "--size", "128m", *options)
    try:
        yield name
    finally:
        wait_until(lambda: umwelt("volume", "rm", name).returncode == 0)


def test_volume_outlives_containers(umwelt, image):
    with volume(umwelt, "data"):
        umwelt.sh("--image", image, "-v", "data:/data", "echo one > /data/f")
        wait_until(lambda: not json.loads(umwelt.ok("volume", "inspect", "data"))[0]["in_use"])
        out = umwelt.sh("--image", image, "-v", "data:/data:ro",
                        "cat /data/f; touch /data/g 2>&1; df -k /data")
        assert out.startswith("one\n") and "Read-only" in out
        assert int(out.splitlines()[-1].split()[1]) < 128 * 1024
        assert "data" in umwelt.ok("volume", "ls")


def test_exclusive_and_shared_volumes(umwelt, image):
    with volume(umwelt, "mine"), volume(umwelt, "ours", "--shared"):
        with umwelt.detached("--image", image, "-v", "mine:/m", "-v", "ours:/o", "--",
                             "sh", "-c", "echo there > /o/f; sleep 1000"):
            refused(umwelt, "run", "--image", image, "-v", "mine:/m", "--", "true", text="in use")
            refused(umwelt, "volume", "rm", "ours", text="in use")
            wait_until(lambda: umwelt.sh("--image", image, "-v", "ours:/o",
                                         "cat /o/f 2>/dev/null || true") == "there\n")


def has_strict_limit():
    return any(pathlib.Path("/sys/class/bdi").glob("7:*/strict_limit"))


@pytest.mark.vm
@pytest.mark.parametrize(("way", "first"), [("direct", 0), ("buffered", 16), ("mmap", 16)])
def test_write_speed(umwelt, way, first, nothing_left):
    """The first megabytes of a buffered writer only fill what may be dirty."""
    if way != "direct" and not has_strict_limit():
        pytest.skip("needs Linux 6.2: dirty limits of a device")
    with volume(umwelt, "slow", "--write-bps", "10m"):
        speed = float(umwelt.run("-v", "slow:/data", "--", "/usr/bin/python3",
                                 PROGRAMS / "write_speed.py", way, first, 60))
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


# --- admission, pool, crash -----------------------------------------------------------------------

@pytest.fixture
def configured(umwelt, tmp_path):
    """The command line with a configuration, and a daemon that has read it."""
    def configure(text):
        umwelt("daemon", "stop", "--force")
        (tmp_path / "umwelt.toml").write_text(text)
        umwelt.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
        umwelt.ok("daemon", "start")
    yield configure
    umwelt("daemon", "stop", "--force")
    umwelt.environment.pop("UMWELT_CONFIG", None)


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
  dd if=/dev/urandom of=/fill.$i bs=1M count=8 conv=fsync 2> /dev/null || : > /failed
  i=$((i + 1)); echo $i > /count; sync /count
done
"""


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

    def count(name):
        path = near.root(name) / "count"
        return int(path.read_text() or 0) if path.exists() else 0

    try:
        near.ok("daemon", "start")
        names = ["one", "two", "three"]
        for name in names:
            near.ok("run", "--detach", "--name", name, "--disk", "1g", "--", "sh", "-c", FILLER)
        stopped = []

        def all_wait():
            """Not for long where others have much dirty in memory, which counts, too."""
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
            time.sleep(rng.uniform(0, 0.25 * SLOWNESS))
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
            if arguments[0] == "vdisk" and out.strip() == name:
                kept.append(name)
            if rng.random() < 0.3 and kept:
                umwelt("vdisk", "rm", kept.pop())

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
