# SPDX-License-Identifier: Apache-2.0
"""Images through the real command line, also odd ones, and what the commands print as JSON."""

import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
from disks import MIB, refused, vdisks, volume, wait_until
from umwelt import UMWELT, Umwelt

pytestmark = pytest.mark.usefixtures("no_disk_left")


@pytest.fixture
def bare(umwelt, tmp_path, busybox):
    """A root filesystem of one program."""
    root = tmp_path / "bare"
    root.mkdir()
    shutil.copy(busybox, root / "busybox")
    umwelt.ok("image", "import", root)
    yield root
    umwelt.ok("image", "rm", "bare")


def test_mount_points_that_an_image_lacks(umwelt, bare, nothing_left):
    for disk in ([], ["--disk", "64m"], ["--disk", "64m", "--disk-mode", "clone"]):
        out = umwelt.run("--image", "bare", *disk, "--", "/busybox", "ls", "/", "/proc/self")
        assert {"proc", "sys", "dev", "run", "exe", "cgroup"} <= set(out.split())
    refused(umwelt, "run", "--rootfs", bare, "--", "/busybox", "true", text="its /proc is missing")
    assert [path.name for path in bare.iterdir()] == ["busybox"]


def test_images_on_a_read_only_filesystem(umwelt, host_filesystem, bare, tmp_path, nothing_left):
    images = umwelt.state / "images"
    assert not (host_filesystem / "images").exists()
    shutil.copytree(images, host_filesystem / "images")
    subprocess.run(["mount", "-o", "remount,ro", host_filesystem], check=True)
    subprocess.run(["mount", "--bind", host_filesystem / "images", images], check=True)
    try:
        with umwelt.detached("--image", "bare", "--", "/busybox", "sleep", "1000"):
            assert umwelt.run("--image", "bare", "--", "/busybox", "echo", "on") == "on\n"
            assert json.loads(umwelt.ok("image", "inspect", "bare"))[0]["in_use"]
        umwelt.ok("image", "export", "bare", "--output", tmp_path / "bare.tar")
        refused(umwelt, "image", "rm", "bare", text="Read-only")
    finally:
        subprocess.run(["umount", "-l", images], check=True)


def test_doctor_names_an_import_that_was_cut_off(umwelt, image):
    folder = umwelt.state / "images/.staging-cutoff"
    folder.mkdir()
    findings = json.loads(umwelt("doctor", "--json").stdout)["findings"]
    (leak,) = [f for f in findings if f["check"] == "leaks" and str(folder) in f["text"]]
    assert leak["level"] == "warning" and leak["mend"] == f"rm -r {folder}"
    umwelt("image", "import", "--name", image, "/etc")
    assert not folder.exists()


def test_json_of_what_changes_a_disk(umwelt, image, tmp_path):
    def told(*arguments):
        return json.loads(umwelt.ok(*arguments, "--json"))

    umwelt.ok("vdisk", "create", "a", "--size", "64m")
    assert told("vdisk", "grow", "a", "--size", "128m")["record"]["capacity_bytes"] == 128 * MIB
    assert told("vdisk", "snapshot", "a", "s")["record"]["snapshot_of"] == "a"
    assert told("vdisk", "clone", "a", "c")["name"] == "c"
    done = umwelt("vdisk", "rm", "--json", "s", "absent", "c")
    assert done.returncode == 1 and json.loads(done.stdout) == [{"name": "s"}, {"name": "c"}]
    assert "there is no vdisk absent" in done.stderr
    umwelt.ok("vdisk", "rm", "a")
    assert not {"a", "s", "c"} & set(vdisks(umwelt))
    with volume(umwelt, "kept"):
        (updated,) = told("volume", "update", "kept", "--write-bps", "5m")
        assert updated["name"] == "kept" and "5242880" in json.dumps(updated)
    umwelt.ok("volume", "create", "v", "--size", "64m")
    assert told("volume", "rm", "v") == [{"name": "v"}]
    umwelt.ok("image", "import", "--name", "gone", tmp_path)
    assert told("image", "rm", "gone") == [{"name": "gone"}]


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
    refused(umwelt, "image", "export", "small", "--output", tmp_path / "again.tar",
            text="again.tar exists: remove it")
    refused(umwelt, "image", "export", "small", "--output", "/dev/null",
            text="/dev/null is no new file: write to it with >")
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


def test_an_import_leaves_the_vdisks_their_critical_mark(umwelt, image, host_filesystem, tmp_path):
    near = Umwelt(host_filesystem)
    near.environment["UMWELT_CONFIG"] = str(tmp_path / "umwelt.toml")
    (tmp_path / "umwelt.toml").write_text('[disk]\nlow_water = "350m"\ncritical = "350m"\n')
    (tmp_path / "large").mkdir()
    (tmp_path / "large/f").write_bytes(os.urandom(100 * MIB))
    try:
        refused(near, "image", "import", tmp_path / "large", text="must stay free")
        (tmp_path / "umwelt.toml").write_text('[disk]\nlow_water = "50m"\n')
        near.ok("image", "import", tmp_path / "large")
        near.ok("image", "rm", "large")
    finally:
        near.clean_up()


def test_image_without_disk_keeps_nothing(umwelt, image):
    assert umwelt.sh("--image", image, "cat /etc/lower; echo x > /etc/lower; cat /etc/lower"
                     ) == "lower\nx\n"
    assert umwelt.sh("--image", image, "cat /etc/lower") == "lower\n"


def test_image_in_use_is_not_removed(umwelt, image):
    with umwelt.detached("--image", image, "--", "sleep", "1000"):
        assert json.loads(umwelt.ok("image", "inspect", image))[0]["in_use"]
        refused(umwelt, "image", "rm", image, text="in use")
    assert umwelt.run("--image", image, "--", "echo", "still") == "still\n"


def test_an_image_below_a_kept_vdisk_is_not_removed(umwelt, image, rootfs):
    umwelt.ok("image", "import", "--name", "below", rootfs)
    umwelt.ok("image", "import", "--name", "same", rootfs)
    umwelt.ok("vdisk", "create", "above", "--size", "64m")
    umwelt.sh("--image", "below", "--disk", "above", "echo > /f")
    line = refused(umwelt, "image", "rm", "below", text="image below: vdisk above lies on it")
    assert "umwelt vdisk rm above" in line and "--force" in line
    umwelt.ok("image", "rm", "same")
    umwelt.ok("image", "rm", "--force", "below")
    # The content is what counts.
    umwelt.ok("image", "import", "--name", "below", rootfs)
    refused(umwelt, "image", "rm", "below", text="lies on it")
    wait_until(lambda: umwelt("vdisk", "rm", "above").returncode == 0)
    umwelt.ok("image", "rm", "below")


def test_damaged_images(umwelt, image, tmp_path):
    (tmp_path / "f").write_text("one")
    umwelt.ok("image", "import", "--name", "damaged", tmp_path)
    (umwelt.state / "images/damaged.json").write_text("")
    listed = umwelt("image", "ls")
    assert listed.returncode == 0 and "busybox" in listed.stdout and "damaged" not in listed.stdout
    assert "image damaged is damaged: umwelt image rm damaged" in listed.stderr
    for command in (["image", "inspect", "--verify"], ["run", "--image"]):
        refused(umwelt, *command, "damaged", *(["--", "true"] if "run" in command else []),
                text="image damaged is damaged")
    umwelt.ok("image", "rm", "damaged")
    assert umwelt("image", "ls").stderr == ""
    assert len(list((umwelt.state / "images").glob("*.erofs"))) == 1


def test_import_from_a_path_of_any_bytes(umwelt, image, tmp_path):
    source = tmp_path / os.fsdecode(b"\xff")
    source.mkdir()
    umwelt.ok("image", "import", "--name", "bytes", source)
    umwelt.ok("image", "rm", "bytes")


EXCHANGE = """
import ctypes, random, sys, time
libc = ctypes.CDLL(None)
names = [name.encode() for name in sys.argv[1:]]
print("started", flush=True)
while True:
    libc.syscall(316, -100, names[0], -100, names[1], 2)  # renameat2, RENAME_EXCHANGE
    time.sleep(random.random() / 50)
"""


def test_import_of_a_directory_that_changes(umwelt, tmp_path):
    """As a container may change its root: a directory becomes a link to one of the host's."""
    host, root = tmp_path / "host", tmp_path / "root"
    for folder, text in (host, "the host's"), (root / "own", "its own"):
        folder.mkdir(parents=True)
        for i in range(200):
            (folder / f"file{i}").write_text(text)
    (root / "link").symlink_to(host)
    process = subprocess.Popen([sys.executable, "-c", EXCHANGE, root / "own", root / "link"],
                               stdout=subprocess.PIPE)
    imported = 0
    try:
        assert process.stdout.readline() == b"started\n"
        for _ in range(40):
            if umwelt("image", "import", root).returncode != 0:
                continue  # it saw the change
            imported += 1
            umwelt.ok("image", "export", "root", "--output", tmp_path / "root.tar")
            umwelt.ok("image", "rm", "root")
            assert b"the host's" not in (tmp_path / "root.tar").read_bytes()
            (tmp_path / "root.tar").unlink()
    finally:
        process.kill()
        process.communicate()
    assert imported


def test_import_with_closed_streams(umwelt, image, tmp_path, rootfs):
    with tarfile.open(tmp_path / "closed.tar", "w") as tar:
        tar.add(rootfs, ".")
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", UMWELT, "image", "import",
                    tmp_path / "closed.tar"], env=umwelt.environment, timeout=60, check=False)
    umwelt.ok("image", "rm", "closed")


def test_closed_streams_are_nobodys(umwelt, image):
    """No file of ours gets their numbers, nor what is said to people."""
    umwelt.ok("vdisk", "create", "a", "--size", "64m")
    out = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", UMWELT, "run", "--rm", "--image", image, "--disk", "a",
         "--", "sh", "-c", "cd /proc/self/fd && ls -l 0 2"],
        env=umwelt.environment, timeout=60, check=True, capture_output=True, text=True).stdout
    assert out.count("/dev/null") == 2, out
    wait_until(lambda: not vdisks(umwelt)["a"]["in_use"])
    assert umwelt.ok("vdisk", "check", "a") == "a  clean\n"
    umwelt.ok("vdisk", "rm", "a")


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
