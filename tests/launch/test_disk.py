# SPDX-License-Identifier: Apache-2.0
"""Vdisks through the real command line."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import threading

import pytest
from disks import MIB, refused, vdisks, volume, wait_until
from umwelt import UMWELT, make_rootfs

pytestmark = pytest.mark.usefixtures("no_disk_left")
# The long version of the tests that have one.
LONG = bool(os.environ.get("UMWELT_LONG"))


def size_in(umwelt, *arguments):
    out = umwelt.run(*arguments, "--", "df", "-k", "/")
    return int(out.splitlines()[-1].split()[1]) * 1024


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


def test_two_files_say_the_same_of_what_was_written_back(umwelt, image, nothing_left):
    out = umwelt.sh("--image", image, "--disk", "256m",
                    "dd if=/dev/zero of=/f bs=1M count=20 2>/dev/null; sync; sleep 0.1; "
                    "cat /proc/diskstats; sed -n 's/^pgpgout //p' /proc/vmstat").split()
    assert abs(int(out[-1]) - int(out[9]) // 2) < 1024
    assert int(out[-1]) > 20 * 1024


def test_a_new_disk_has_no_counts_of_the_device_it_is_on(umwelt, image, nothing_left):
    """The kernel keeps those of a loop device when it gets another file."""
    wrote = umwelt.sh("--image", image, "--disk", "256m",
                      "dd if=/dev/zero of=/f bs=1M count=50 2>/dev/null; sync && cat /proc/diskstats")
    assert int(wrote.splitlines()[-1].split()[9]) >= 50 * 2048
    for line in umwelt.sh("--image", image, "--disk", "256m", "cat /proc/diskstats").splitlines():
        assert int(line.split()[9]) < 10 * 2048


def test_disk_under_each_kind_of_root(umwelt, image, rootfs, nothing_left):
    for root in (["--image", image], ["--rootfs", rootfs], []):
        out = umwelt.sh(*root, "--disk", "64m", "echo kept > /etc/f && cat /etc/f && df -k /")
        assert out.startswith("kept\n")
        assert int(out.splitlines()[-1].split()[1]) < 64 * 1024
    assert not pathlib.Path("/etc/f").exists()
    assert not (rootfs / "etc/f").exists()


def leaks(umwelt):
    """What doctor says of our loop devices."""
    findings = json.loads(umwelt("doctor", "--json").stdout)["findings"]
    return [f for f in findings if f["check"] == "leaks" and str(umwelt.state) in f["text"]]


def test_doctor_warns_of_leaked_loop_devices_alone(umwelt, image, nothing_left):
    """The kernel calls a new vdisk deleted, for it was attached before it had a name."""
    umwelt.ok("vdisk", "create", "old", "--size", "64m")
    with umwelt.detached("--image", image, "--disk", "64m", "--", "sleep", "1000"), \
            umwelt.detached("--image", image, "--disk", "old", "--", "sleep", "1000"), \
            volume(umwelt, "v"):
        with umwelt.detached("-v", "v:/data", "--", "sleep", "1000"):
            assert not leaks(umwelt)
            for name in ("old", "volume:v"):
                (umwelt.state / f"vdisks/{name}.img").rename(umwelt.state / f"vdisks/{name}.away")
            assert not leaks(umwelt)
            (umwelt.state / "vdisks/volume:v.away").rename(umwelt.state / "vdisks/volume:v.img")
            (umwelt.state / "vdisks/old.away").unlink()
            (leak,) = leaks(umwelt)
            assert "/vdisks/old" in leak["text"] and leak["level"] == "warning"
            assert leak["mend"].startswith("losetup -d /dev/loop")


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


def test_what_lies_on_another_root_is_refused(umwelt, image):
    umwelt.run("--disk", "64m", "--keep", "--name", "plain", "--", "touch", "/etc/f")
    refused(umwelt, "run", "--image", image, "--disk", "plain", "--", "true",
            text="was used without an image: leave --image away")
    assert umwelt.run("--disk", "plain", "--", "ls", "/etc/f") == "/etc/f\n"
    wait_until(lambda: not vdisks(umwelt)["plain"]["in_use"])
    umwelt.ok("vdisk", "rm", "plain")


def test_a_clone_is_started_as_what_it_is(umwelt, image, tmp_path):
    (tmp_path / "root/bin").mkdir(parents=True)
    umwelt.ok("image", "import", tmp_path / "root", "--name", "other")
    umwelt.run("--image", image, "--disk", "64m", "--disk-mode", "clone", "--keep", "--name", "full",
               "--", "touch", "/etc/f")
    refused(umwelt, "run", "--image", "other", "--disk", "full", "--", "true",
            text=f"is a clone of image {image}, not of image other: leave --image away")
    assert umwelt.run("--disk", "full", "--", "ls", "/etc/f") == "/etc/f\n"
    wait_until(lambda: not vdisks(umwelt)["full"]["in_use"])
    umwelt.ok("vdisk", "rm", "full")
    umwelt.ok("image", "rm", "other")


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
    umwelt.sh("--disk", "a", "head -c 60M /dev/zero > /f; sync")
    wait_until(lambda: not vdisks(umwelt)["a"]["in_use"])
    line = refused(umwelt, "vdisk", "grow", "a", "--size", "48m", text="can't be smaller than")
    least = int(re.search(r"than (\d+)m", line)[1])
    assert 60 < least < 128
    umwelt.ok("vdisk", "check", "a")
    umwelt.ok("vdisk", "snapshot", "a", "a-before")
    umwelt.ok("vdisk", "clone", "a-before", "b")
    refused(umwelt, "run", "--disk", "a-before", "--", "true", text="snapshot")
    df = json.loads(umwelt.ok("vdisk", "df", "--json"))
    names = [d["name"] for d in df["vdisks"]]
    assert set(names) >= {"a", "a-before", "b"} and names == sorted(names)
    assert df["pool"]["promised_bytes"] >= 3 * 256 * MIB
    assert "promised" in umwelt.ok("vdisk", "df")
    assert json.loads(umwelt.ok("vdisk", "inspect", "b"))[0]["usage"]["capacity_bytes"] == 256 * MIB
    umwelt.ok("vdisk", "trim", "a")
    full = json.loads(umwelt.ok("vdisk", "create", "--json", "--size", "64m", "--class",
                                "guaranteed", "full"))
    assert full["usage"]["reclaimable_bytes"] == 0  # nor does a trim give anything back
    refused(umwelt, "vdisk", "trim", "full", text="guaranteed")
    umwelt.ok("vdisk", "rm", "full")
    assert umwelt.ok("vdisk", "repair", "a").startswith("a  ")
    umwelt.ok("vdisk", "rm", "a", "a-before", "b")
    refused(umwelt, "vdisk", "rm", "a", text="there is no vdisk a")


def test_an_overlay_needs_the_content_it_was_made_on(umwelt, image, rootfs):
    """Files that only changed their owner have their data below."""
    umwelt.ok("vdisk", "create", "k", "--size", "64m")
    umwelt.ok("image", "import", "--name", "base", rootfs)
    umwelt.sh("--image", "base", "--disk", "k", "echo > /f")
    wait_until(lambda: not vdisks(umwelt)["k"]["in_use"])
    umwelt.ok("image", "rm", "--force", "base")
    (rootfs / "etc/f").write_text("other")
    umwelt.ok("image", "import", "--name", "base", rootfs)
    refused(umwelt, "run", "--rm", "--image", "base", "--disk", "k", "--", "true",
            text="lies on another content of image base")
    umwelt.ok("vdisk", "rm", "k")
    umwelt.ok("image", "rm", "base")


def test_a_start_that_fails_binds_no_empty_vdisk(umwelt, image, tmp_path):
    (tmp_path / "proc").symlink_to("tmp")
    umwelt.ok("image", "import", "--name", "bad", tmp_path)
    umwelt.ok("vdisk", "create", "fb", "--size", "64m")
    refused(umwelt, "run", "--rm", "--image", "bad", "--disk", "fb", "--", "true",
            text="is a symbolic link")
    umwelt.ok("image", "rm", "bad")
    assert umwelt.sh("--image", image, "--disk", "fb", "echo x > /f; cat /f") == "x\n"
    wait_until(lambda: not vdisks(umwelt)["fb"]["in_use"])
    assert vdisks(umwelt)["fb"]["record"]["image"] == image
    umwelt.ok("vdisk", "rm", "fb")


def test_a_clone_lies_on_no_image(umwelt, image, rootfs):
    for content in ("one", "two"):
        (rootfs / "etc/f").write_text(content)
        umwelt.ok("image", "import", "--name", "base", rootfs)
        if content == "one":
            umwelt.ok("vdisk", "create", "c", "--size", "64m", "--image", "base", "--clone")
        assert umwelt.sh("--image", "base", "--disk", "c", "cat /etc/f") == "one"
        wait_until(lambda: not vdisks(umwelt)["c"]["in_use"])
        umwelt.ok("image", "rm", "base")
    umwelt.ok("vdisk", "rm", "c")


def test_a_scratch_vdisk_starts_again(umwelt, image):
    """An overlay that never syncs leaves a mark that forbids the next one."""
    umwelt.ok("vdisk", "create", "s", "--size", "64m", "--class", "scratch")
    for expected in ("0\n", "1\n", "2\n"):
        assert umwelt.sh("--image", image, "--disk", "s",
                         "n=$(cat /n 2> /dev/null || echo 0); echo $n; echo $((n + 1)) > /n"
                         ) == expected
    umwelt.ok("vdisk", "rm", "s")


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


def test_command_that_is_not_there_keeps_no_disk(umwelt, image, nothing_left):
    for command, code in (("/nonexistent", 127), ("true", 0)):
        done = umwelt("run", "--name", "kk", "--image", image, "--disk", "64m", "--keep", "--",
                      command)
        assert done.returncode == code, done
        umwelt("rm", "kk")
    umwelt.ok("vdisk", "rm", "kk")


def test_who_looks_at_vdisks_is_in_no_starts_way(umwelt, image):
    umwelt.ok("vdisk", "create", "web", "--size", "64m")
    with volume(umwelt, "ex"), contextlib.ExitStack() as readers:
        stop = threading.Event()

        def look(*arguments):
            while not stop.is_set():
                umwelt.ok(*arguments)

        for arguments in (("volume", "ls"), ("vdisk", "df"), ("vdisk", "ls", "--json")):
            thread = threading.Thread(target=look, args=arguments)
            thread.start()
            readers.callback(thread.join)
        readers.callback(stop.set)  # which is called first
        for _ in range(12):
            umwelt.run("--image", image, "-v", "ex:/data", "--disk", "web", "--", "true")
    wait_until(lambda: umwelt("vdisk", "rm", "web").returncode == 0)


def test_the_command_has_no_descriptor_of_the_host(umwelt, image):
    out = umwelt.sh("--image", image, "--disk", "64m", "ls -l /proc/self/fd /proc/1/fd 2>/dev/null; true")
    assert "loop" not in out and ".img" not in out and "erofs" not in out
    out = umwelt.sh("--image", image, "--disk", "64m", "--init", "ls -l /proc/1/fd 2>/dev/null; true")
    assert "loop" not in out and ".img" not in out and "erofs" not in out
