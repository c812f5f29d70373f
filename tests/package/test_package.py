# SPDX-License-Identifier: Apache-2.0
"""The Debian packages: built by ./dev package, installed in a clean Debian, used, purged."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from systemd_unit import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBS = sorted((ROOT / "build/package").glob("*.deb"))
PACKAGES = ("umwelt", "umweltd", "umwelt-runtimes")
# What apt and dpkg themselves change.
VOLATILE = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "tmp", "proc", "sys", "dev",
            "etc/ld.so.cache", "run/lock", "var/lib/systemd", "root", "debs", "etc/mtab")


def packages():
    return [deb for deb in DEBS if "dbgsym" not in deb.name]


@pytest.fixture(scope="module")
def debian():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap")
    assert packages(), "no packages: ./dev package"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-package-"))
    root = folder / "root"
    # The libraries come with the Debian, so that what the packages leave is theirs alone.
    depends = "fuse3,procps"
    made = subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={depends}", "bookworm",
                           root], capture_output=True, text=True)
    if made.returncode != 0:
        shutil.rmtree(folder)
        assert "Unable to locate package" not in made.stderr, made.stderr
        pytest.skip(f"needs network: {made.stderr.splitlines()[-1] if made.stderr else ''}")
    (root / "debs").mkdir()
    for deb in packages():
        shutil.copy(deb, root / "debs")
    mounts = [("proc", "proc", "proc"), ("sysfs", "sysfs", "sys"), ("tmpfs", "tmpfs", "run")]
    for kind, source, target in mounts:
        subprocess.run(["mount", "-t", kind, source, root / target], check=True)
    subprocess.run(["mount", "--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup"], check=True)
    subprocess.run(["mount", "--make-rslave", root / "sys/fs/cgroup"], check=True)
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
    yield root
    for target in ("dev", "sys/fs/cgroup", "sys", "proc", "run"):
        subprocess.run(["umount", "-R", "-l", root / target], check=False)
    shutil.rmtree(folder)


def inside(root, *command, check=True):
    done = subprocess.run(["chroot", root, *command], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=300,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                               "DEBIAN_FRONTEND": "noninteractive"})
    assert not check or done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
    return done


def files(root):
    found = set()
    for folder, directories, names in os.walk(root):
        relative = os.path.relpath(folder, root)
        for name in list(directories):
            path = os.path.normpath(os.path.join(relative, name))
            if path in VOLATILE or os.path.ismount(os.path.join(root, path)) and path != "run":
                directories.remove(name)
        found |= {os.path.normpath(os.path.join(relative, name)) for name in names + directories}
    return {path for path in found if path not in VOLATILE}


@pytest.mark.parametrize("package, program", [("e2fsprogs", "mkfs.ext4"), ("erofs-utils", "mkfs.erofs")])
def test_the_programs_that_storage_runs_come_with_it(package, program):
    """By default."""
    sources = "".join(path.read_text() for path in (ROOT / "src/vdisk").glob("*.cc"))
    assert f'"{program}"' in sources
    control = (ROOT / "packaging/debian/control").read_text().split("\nPackage: umwelt\n")[1]
    for text in (control.split("\n\n")[0],
                 (ROOT / "packaging/rpm/umwelt.spec").read_text().split("%description")[0]):
        assert any(line.startswith("Recommends:") and package in line
                   for line in text.splitlines())


def status(root):
    return json.loads(inside(root, "umwelt", "daemon", "status", "--json").stdout)


def test_lintian():
    if shutil.which("lintian") is None:
        pytest.skip("needs lintian")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", *packages()],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_installed_used_and_purged(debian):
    before = files(debian)
    inside(debian, "dpkg", "--install", *[f"/debs/{deb.name}" for deb in packages()])
    assert (debian / "etc/systemd/system/multi-user.target.wants/umweltd.service").is_symlink()
    inside(debian, "umwelt", "daemon", "start")
    try:
        before_upgrade = status(debian)
        inside(debian, "dpkg", "--install", *[f"/debs/{deb.name}" for deb in packages()])
        wait_until(lambda: status(debian)["server"] != before_upgrade["server"],
                   "an upgrade in place")
        assert status(debian)["pid"] == before_upgrade["pid"]
        doctor = inside(debian, "umwelt", "doctor", "--json", check=False)
        answer = json.loads(doctor.stdout)
        assert answer["ok"], doctor.stdout
        assert inside(debian, "umweltd", "--version").stdout.startswith("umweltd ")
        assert inside(debian, "man", "-w", "umwelt-setup", check=False).returncode in (0, 127)
        inside(debian, "umwelt", "setup", "podman")
        hook = debian / "usr/share/containers/oci/hooks.d/umwelt-createRuntime.json"
        text = hook.read_text()
        # Without its program no container would start any more.
        hook.write_text(text + "\n")
        refused = inside(debian, "dpkg", "--remove", PACKAGES[-1], check=False)
        assert refused.returncode != 0 and "undo the setup of podman by hand" in refused.stderr
        assert (debian / "usr/bin/umwelt-runtime").exists()
        hook.write_text(text)
        assert inside(debian, "umwelt-runtime", "--version", check=False).returncode == 1
        inside(debian, "dpkg", "--remove", *reversed(PACKAGES))
        assert not os.path.ismount(debian / "run/umwelt/live")
    finally:
        inside(debian, "umwelt", "daemon", "stop", "--force", check=False)
    disk = debian / "var/lib/umwelt/vdisks"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "disk", disk], check=True)
    (disk / "theirs").touch()
    inside(debian, "dpkg", "--purge", *reversed(PACKAGES))
    there = (disk / "theirs").exists()
    subprocess.run(["umount", disk], check=True)
    assert there
    assert [*disk.parent.iterdir()] == [disk]
    shutil.rmtree(disk.parent)
    left = files(debian) - before
    # Directories of a runtime that setup had to make may stay.
    left -= {"usr/share/containers", "usr/share/containers/oci", "usr/share/containers/oci/hooks.d"}
    assert not left, "\n".join(sorted(left))
    assert not [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
                if " fuse.umwelt " in line and str(debian) in line]
