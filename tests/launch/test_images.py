# SPDX-License-Identifier: Apache-2.0
"""Images that are odd, or lie on an odd filesystem, and what the commands print as JSON."""

import json
import shutil
import subprocess

import pytest
from disks import MIB, refused, vdisks, volume

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
