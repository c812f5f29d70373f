# SPDX-License-Identifier: Apache-2.0
"""Where the kernel or the runtime takes no seccomp listener, a container starts without one."""

import sys

import machine as machines
import pytest
from each import every_runtime
from machine import assert_own_resources

BELOW = (sys.executable, machines.ROOT / "tests/fixtures/below_a_listener.py")


@pytest.fixture(autouse=True)
def log(machine):
    path = machine.runtime / "oci.log"
    yield path
    path.unlink(missing_ok=True)


@every_runtime
def test_below_another_listener(bundle, runtime, log):
    """Also where an earlier start has left one in the bundle. It is said once for all of them."""
    marker = bundle.machine.runtime / "no-room-for-listener"
    marker.unlink(missing_ok=True)
    assert_own_resources(bundle.run(runtime).stdout)
    assert bundle.machine.oci_log() == "" and not marker.exists()
    for name in ("one", "two"):
        assert_own_resources(bundle.run(runtime, name=name, below=BELOW).stdout, answered=False)
        assert bundle.read()["linux"]["seccomp"]["listenerPath"] is None
    assert bundle.machine.oci_log().count("\n") == 1 and "container one: " in log.read_text()
    assert_own_resources(bundle.run(runtime).stdout)


@every_runtime
def test_below_a_filter_without_a_listener(bundle, runtime):
    below = (sys.executable, "-c", FILTER)
    assert_own_resources(bundle.run(runtime, below=below).stdout)
    assert bundle.machine.oci_log() == ""


FILTER = """
import ctypes, os, struct, sys
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)))
assert ctypes.CDLL(None).syscall(317, 1, 0, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
