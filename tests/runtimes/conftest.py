# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import subprocess
import tempfile

import pytest

pytest.register_assert_rewrite("machine", "engines")
import engines  # noqa: E402
import machine as machines  # noqa: E402


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))


@pytest.fixture(scope="session", autouse=True)
def able():
    missing = [what for what, there in (
        ("root", os.geteuid() == 0), ("/dev/fuse", os.path.exists("/dev/fuse")),
        ("busybox", machines.program("busybox"))) if not there]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    for name in ("umwelt", "umweltd", "umwelt-runtime"):
        assert (machines.BIN / name).exists(), f"no {machines.BIN / name}: set UMWELT_BIN"


@pytest.fixture
def needs(request):
    for name in request.param:
        if machines.program(name) is None:
            pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def machine():
    """One daemon a file of tests; no mount of ours is left of it in the host's namespace."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-rt-", dir="/tmp"))
    it = machines.Machine(folder)
    yield it
    before = machines.host_mounts()
    it.clean_up()
    assert machines.host_mounts(folder) <= before
    it.remove()


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """A root filesystem with busybox, as a tar archive."""
    folder = tmp_path_factory.mktemp("image")
    machines.make_rootfs(folder / "rootfs")
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


@pytest.fixture
def bundle(machine, tmp_path):
    return engines.Bundle(machine, tmp_path / "bundle")
