# SPDX-License-Identifier: Apache-2.0
"""Bundles that want something mounted where it must not be, or can't be read."""

import pathlib
import subprocess

import pytest
from each import every_runtime
from machine import assert_hosts_resources, host_mounts


def refused(bundle, runtime, before):
    """Whatever the runtime does with such a bundle: nothing of ours is mounted for the host."""
    done = bundle.run(runtime, check=False)
    assert host_mounts() == before
    bundle.machine.nothing_left()
    return done


@every_runtime
@pytest.mark.parametrize("where", ["proc", "sys"])
def test_symlink_in_the_place_of_a_filesystem(bundle, runtime, where, tmp_path):
    before = host_mounts()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "meminfo").write_text("outside\n")
    (bundle.folder / "rootfs" / where).rmdir()
    (bundle.folder / "rootfs" / where).symlink_to(outside)
    config = bundle.read()
    config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != f"/{where}"]
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    bundle.write(config)
    done = refused(bundle, runtime, before)
    assert "outside" not in done.stdout
    assert (outside / "meminfo").read_text() == "outside\n"
    config["annotations"] = {"umwelt": "required"}
    bundle.write(config)
    assert refused(bundle, runtime, before).returncode != 0


@every_runtime
def test_root_filesystem_that_is_a_symlink(bundle, runtime):
    before = host_mounts()
    (bundle.folder / "elsewhere").symlink_to("/")
    config = bundle.read()
    config["root"]["path"] = "elsewhere"
    config["annotations"] = {"umwelt": "required"}
    bundle.write(config)
    assert refused(bundle, runtime, before).returncode != 0


@every_runtime
def test_a_filesystem_that_is_shared_with_the_host(bundle, runtime, tmp_path):
    """A view there would also be a view for the host."""
    before = host_mounts()
    shared = tmp_path / "shared-sys"
    shared.mkdir()
    subprocess.run(["mount", "-t", "sysfs", "sysfs", shared], check=True)
    subprocess.run(["mount", "--make-shared", shared], check=True)
    try:
        config = bundle.read()
        config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/sys"]
        config["mounts"].append({"destination": "/sys", "type": "bind", "source": str(shared),
                                 "options": ["rbind", "rshared"]})
        config["linux"]["rootfsPropagation"] = "rshared"
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
        config["annotations"] = {"umwelt": "required"}
        bundle.write(config)
        refused(bundle, runtime, before)
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        assert not [line for line in mounts.splitlines()
                    if str(shared) in line and "umwelt " in line.split(" - ")[1]]
    finally:
        subprocess.run(["umount", "-R", "-l", shared], check=True)


@every_runtime
@pytest.mark.parametrize("text", [
    b"", b"nonsense", b"[" * 100000, b'{"hooks":{},"Hooks":{}}', b'{"ociVersion":"1.0","a":1,"a":2}',
    b'{"x":"' + b"a" * (17 << 20) + b'"}', b"\xff\xfe{}"],
    ids=["empty", "nonsense", "deep", "case", "twice", "huge", "bytes"])
def test_malformed_config(bundle, runtime, text):
    before = host_mounts()
    bundle.path.write_bytes(text)
    done = refused(bundle, runtime, before)
    assert done.returncode != 0
    assert bundle.path.read_bytes() == text


@every_runtime
@pytest.mark.parametrize("annotations", [
    {"umwelt.views": "../../../etc"}, {"umwelt.views": "cpu" * 10000}, {"umwelt.root": "/"},
    {"umwelt.cpu-ids": "\x1b[2J\n0"}, {"umwelt": "REQUIRED"}])
def test_hostile_annotations(bundle, runtime, annotations):
    """Such a container is none of ours; one that is required is no container at all."""
    log = bundle.machine.runtime / "oci.log"
    config = bundle.read()
    config["annotations"] = dict(annotations)
    bundle.write(config)
    assert_hosts_resources(bundle.run(runtime).stdout)
    assert "\x1b" not in log.read_text()
    log.unlink()
    if "umwelt" not in annotations:
        config["annotations"]["umwelt"] = "required"
        bundle.write(config)
        assert bundle.run(runtime, check=False).returncode != 0
        log.unlink()
