# SPDX-License-Identifier: Apache-2.0
"""What a container is like does not depend on the umask of whoever starts it."""

import os
import stat

import pytest

from umwelt import Umwelt, make_rootfs

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def private(tmp_path):
    """The command line of somebody whose files are nobody else's."""
    umwelt = Umwelt(tmp_path)
    before = os.umask(0o077)
    yield umwelt
    os.umask(before)
    umwelt.clean_up()


def test_another_user_in_the_container_is_let_in(private, tmp_path, busybox):
    root = make_rootfs(tmp_path / "rootfs", busybox)
    for path in (root, *root.glob("*")):
        path.chmod(0o755)
    private.ok("image", "import", "--name", "i", root)
    private.ok("volume", "create", "v", "--size", "64m")
    for options in ((), ("--tmpfs", "/new/one"), ("--image", "i"), ("-v", "v:/new/two"),
                    ("--image", "i", "--disk", "64m"), ("--disk", "64m"),
                    ("--image", "i", "--disk", "64m", "--disk-mode", "clone")):
        assert private.sh(*options, "-u", "65534", "stat -c %a /; umask; head -1 /proc/meminfo"
                          ).split()[:2] == ["755", "0022"], options
    private.ok("volume", "rm", "v")


def test_the_shared_tree_is_for_all(private):
    private.ok("daemon", "start")
    private.ok("daemon", "stop")
    for folder in (private.state, private.state / "proc", private.state / "sys"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755, folder


def test_an_exported_image_is_the_callers(private, tmp_path, busybox):
    private.ok("image", "import", "--name", "i", make_rootfs(tmp_path / "rootfs", busybox))
    private.ok("image", "export", "--output", tmp_path / "i.tar", "i")
    assert stat.S_IMODE((tmp_path / "i.tar").stat().st_mode) == 0o600
