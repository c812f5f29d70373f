# SPDX-License-Identifier: Apache-2.0
"""umwelt explain: what it says of a line is what the kernel says."""

import json
import pathlib
import re

import pytest

from umwelt import CPUS

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def name(umwelt):
    with umwelt.detached("--cpuset-cpus", CPUS[-1], "--cpus", "0.5", "--memory", "96M", "--",
                         "sleep", "infinity") as name:
        yield name


def lines_of(umwelt, *arguments):
    return json.loads(umwelt.ok("explain", "--json", *arguments))["lines"]


def test_every_value_is_in_the_file_that_it_is_said_to_be_from(umwelt, name):
    for file in ("/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/uptime",
                 "/sys/devices/system/cpu/online", "/run/container_info"):
        lines = lines_of(umwelt, name, file)
        assert "\n".join(line["text"] for line in lines)
        for line in lines:
            assert line["from"] or line["note"], line
            origins = [(source["file"], source.get("line")) for source in line["from"]]
            assert len(origins) == len(set(origins)), line
            if file == "/proc/meminfo" and re.search(r" [1-9]\d* kB", line["text"]):
                assert line["from"], line
            for source in line["from"]:
                text = pathlib.Path(source["file"]).read_text()
                if "line" in source:
                    assert re.search(rf"^{re.escape(source['line'])}\s", text, re.M), source
                if "limit" in source["file"] or source["file"].endswith(".max"):
                    assert source["value"] == " ".join(text.splitlines()), source


def test_a_limit_is_named_with_its_file(umwelt, name):
    total = next(line for line in lines_of(umwelt, name, "/proc/meminfo")
                 if line["text"].startswith("MemTotal"))
    assert total["text"].split()[1] == str(96 << 10)
    assert [source["value"] for source in total["from"]] == [str(96 << 20)]
    assert re.search(r"/umwelt/.*memory\.(max|limit_in_bytes)$", total["from"][0]["file"])
    buffers = next(line for line in lines_of(umwelt, name, "/proc/meminfo")
                   if line["text"].startswith("Buffers"))
    assert buffers["from"] == [] and buffers["note"].startswith("0:")


def test_text_shows_lines_and_sources(umwelt, name):
    text = umwelt.ok("explain", name, "/sys/devices/system/cpu/online")
    assert text.splitlines()[0] == "0"  # dense: the syscalls of this container are answered
    assert re.search(r"^    <- \S+cpuset\S+ = \S+$", text, re.M)
    topology = umwelt.ok("explain", name,
                         "/sys/devices/system/cpu/cpu0/topology/core_cpus_list")
    assert topology.splitlines()[0] == "0"


def test_the_machine_is_explained_by_its_own_files(umwelt):
    total = lines_of(umwelt, "/proc/meminfo")[0]
    assert total["from"][0]["file"] == "/proc/meminfo"
    assert total["text"] == f"MemTotal:{total['from'][0]['value'].rjust(len(total['text']) - 9)}"


def test_what_is_not_served_is_an_error(umwelt, name):
    for arguments in ((name, "/proc/version"), (name, "/etc/passwd"),
                      (name, "/sys/devices/system/cpu/../../../../etc/passwd"),
                      (name, "/sys/devices/system/cpu/cpu4711/online"), ("nobody", "/proc/stat")):
        done = umwelt("explain", *arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout, arguments


def test_tabs_stay(umwelt, name):
    heading = umwelt.ok("exec", name, "head", "-n1", "/proc/swaps")
    assert "\t" in heading and umwelt.ok("explain", name, "/proc/swaps").startswith(heading)


def test_a_container_that_has_ended(umwelt):
    umwelt.ok("run", "--name", "over", "--", "true")
    done = umwelt("explain", "over", "/proc/meminfo")
    assert done.returncode != 0 and "over is not running; umwelt ps" in done.stderr, done
    umwelt.ok("rm", "over")
