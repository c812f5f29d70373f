# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

pytest.register_assert_rewrite("umwelt", "disks")
import disks  # noqa: E402
import umwelt as launcher  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "vm: also run in the virtual machine")
    # A shell's background job ignores these, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # What a thread of a test asserts counts.
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120 * launcher.SLOWNESS))


@pytest.fixture(scope="session", autouse=True)
def machine():
    missing = [what for what, there in (
        ("root", os.geteuid() == 0), ("/dev/fuse", os.path.exists("/dev/fuse")),
        ("cgroups", bool(launcher.HIERARCHIES))) if not there]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    assert launcher.UMWELT.exists(), f"no {launcher.UMWELT}: build first, or set UMWELT_BIN"


@pytest.fixture(scope="module")
def umwelt():
    """The command line with folders, and so with a daemon, of its own; one for a file."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-launch-"))
    it = launcher.Umwelt(folder)
    yield it
    it.clean_up()
    shutil.rmtree(folder)


@pytest.fixture
def nothing_left(umwelt):
    """What the test launched has gone with everything that belonged to it."""
    before = umwelt.traces()
    yield
    umwelt.wait_for_traces(before)


@pytest.fixture(scope="session")
def busybox():
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("needs busybox")
    return path


@pytest.fixture
def rootfs(tmp_path, busybox):
    return launcher.make_rootfs(tmp_path / "rootfs", busybox)


@pytest.fixture(scope="module")
def image(umwelt, tmp_path_factory, busybox):
    root = launcher.make_rootfs(tmp_path_factory.mktemp("image") / "rootfs", busybox)
    for name in ("df", "sync", "rm", "mv", "wc", "cmp", "md5sum", "ln", "mkdir"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/lower").write_text("lower\n")
    umwelt.ok("image", "import", "--name", "busybox", root)
    return "busybox"


@pytest.fixture
def no_disk_left(umwelt, image):
    """Every vdisk, loop device and image that a test made has gone with it."""
    before = set(disks.vdisks(umwelt))
    yield
    disks.wait_until(lambda: not disks.loops_of(umwelt))
    assert set(disks.vdisks(umwelt)) == before


@pytest.fixture
def host_filesystem(tmp_path):
    backing, point = tmp_path / "backing", tmp_path / "host"
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", backing, "512m"], check=True)
    subprocess.run(["mount", "-o", "loop", backing, point], check=True)
    yield point
    # The kernel lets go of a vdisk's file a moment after its last user.
    disks.wait_until(lambda: subprocess.run(["umount", point]).returncode == 0, 30)


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
