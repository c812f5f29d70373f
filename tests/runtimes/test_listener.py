# SPDX-License-Identifier: Apache-2.0
"""Where the kernel or the runtime takes no seccomp listener, a container starts without one."""

import os
import sys
import time

import machine as machines
import pytest
from each import every_runtime
from machine import assert_own_resources, program

needs_runc = pytest.mark.skipif(program("runc") is None, reason="needs runc")
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


# What runc 1.0 says and does.
OLD_RUNC = """#!/bin/sh
echo "$*" >> {folder}/asked
case $1 in
  features) echo "No help topic for 'features'" >&2; exit 3 ;;
  --version) echo "runc version 1.0.1"; echo "commit: v1.0.1-0-g4144b638"; exit ;;
esac
if grep -q SCMP_ACT_NOTIFY {folder}/config.json; then
  echo "string SCMP_ACT_NOTIFY is not a valid action for seccomp" >&2
  exit 1
fi
exec {runc} "$@"
"""


@pytest.fixture
def fake(bundle, monkeypatch):
    """Bundle.run() runs this script."""
    path = bundle.folder / "fake-runc"

    def write(text):
        path.write_text(text.format(folder=bundle.folder, runc=program("runc")))
        path.chmod(0o755)
        asked = bundle.folder / "asked"
        asked.write_text("")
        return lambda: [line for line in asked.read_text().splitlines() if "--bundle" not in line]

    plain = bundle.command
    monkeypatch.setattr(bundle, "command", lambda *arguments: (
        plain(*arguments)[0],
        {**plain(*arguments)[1], "UMWELT_OCI_RUNTIME": str(path)}))
    yield write
    (bundle.machine.runtime / "no-listener-for-fake-runc").unlink(missing_ok=True)


@needs_runc
def test_a_runtime_that_does_not_know_listeners(bundle, fake, log):
    """It is asked once, and has files and the kernel's answers."""
    asked = fake(OLD_RUNC)
    for name in ("one", "two"):
        assert_own_resources(bundle.run("runc", name=name).stdout, answered=False)
        assert asked() == ["features", "--version"]
    assert "seccomp" not in bundle.read()["linux"]
    assert log.read_text().count("\n") == 1
    assert "container one: " in log.read_text() and "SCMP_ACT_NOTIFY" in log.read_text()
    config = bundle.read()
    config["annotations"] = {"umwelt": "off"}
    bundle.write(config)
    (bundle.machine.runtime / "oci-runtimes").unlink()
    bundle.run("runc")
    assert asked() == ["features", "--version"]


@needs_runc
def test_a_runtime_after_its_upgrade(bundle, fake, log):
    fake(OLD_RUNC)
    assert_own_resources(bundle.run("runc").stdout, answered=False)
    log.unlink()
    asked = fake("#!/bin/sh\necho $* >> {folder}/asked\nexec {runc} \"$@\"\n")
    for _ in range(2):
        assert_own_resources(bundle.run("runc").stdout)
        assert asked() == ["features"]
    assert not log.exists()


@needs_runc
@pytest.mark.parametrize("answer", [
    "sleep 1000", "yes", "head -c 1000000 /dev/zero", "kill -9 $$", "echo \\\\033[2J; exit 1"],
    ids=["nothing", "endless", "zeros", "killed", "escapes"])
def test_a_runtime_that_answers_nonsense(bundle, fake, log, answer):
    """Whatever it says, for long or not at all."""
    text = OLD_RUNC.replace("echo \"No help topic for 'features'\" >&2; exit 3", answer)
    fake(text.replace("1.0.1", "\\\\033[2J"))
    begin = time.monotonic()
    assert_own_resources(bundle.run("runc").stdout, answered=False)
    assert time.monotonic() - begin < 10 * machines.SLOWNESS
    assert log.read_text().count("\n") == 1 and "\x1b" not in log.read_text()


@every_runtime
@pytest.mark.parametrize("spoil", [
    lambda path: path.write_bytes(b"\0yes\n" * 100000), lambda path: path.mkdir(),
    lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")],
    ids=["bytes", "folder", "fifo", "device"])
def test_what_is_in_the_place_of_the_answers(bundle, runtime, spoil):
    path = bundle.machine.runtime / "oci-runtimes"
    path.unlink(missing_ok=True)
    spoil(path)
    try:
        assert_own_resources(bundle.run(runtime).stdout)
        assert bundle.machine.oci_log() == ""
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


FILTER = """
import ctypes, os, struct, sys
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)))
assert ctypes.CDLL(None).syscall(317, 1, 0, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
