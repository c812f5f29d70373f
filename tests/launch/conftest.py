# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import shutil
import tempfile

import pytest

pytest.register_assert_rewrite("umwelt")
import umwelt as launcher  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "vm: also run in the virtual machine")


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
