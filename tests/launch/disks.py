# SPDX-License-Identifier: Apache-2.0
"""What the tests of vdisks and volumes share."""

import contextlib
import json
import pathlib
import time

from umwelt import SLOWNESS

MIB = 1 << 20


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


@contextlib.contextmanager
def volume(umwelt, name, *options):
    umwelt.ok("volume", "create", name, "--size", "128m", *options)
    try:
        yield name
    finally:
        wait_until(lambda: umwelt("volume", "rm", name).returncode == 0)
