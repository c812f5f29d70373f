# SPDX-License-Identifier: Apache-2.0
"""What programs print in a container has no figure of the machine in it: every number that they
print is compared with the machine's own counters, as they were before and after."""

import os
import pathlib
import re
import shutil

import pytest

from umwelt import CPUS

pytestmark = pytest.mark.vm

PROGRAMS = {
    "iostat": ["iostat -x", "iostat -d -k", "iostat -p ALL"],
    "vmstat": ["vmstat 1 2", "vmstat -s", "vmstat -d", "vmstat -D"],
    "free": ["free -b", "free -k -w", "free -m"],
    "top": ["top -b -n1"],
    "ps": ["ps aux"],
    "mpstat": ["mpstat -P ALL -I ALL"],
    "slabtop": ["slabtop -o"],
    "cat": [f"cat /proc/{file} 2>/dev/null" for file in (
        "meminfo", "stat", "loadavg", "uptime", "swaps", "diskstats", "partitions", "vmstat",
        "interrupts", "softirqs", "schedstat", "zoneinfo", "buddyinfo", "slabinfo", "cgroups")],
}
# A number below this is met by chance.
SMALLEST = 20_000


def numbers_of(text):
    return [float(number) for number in re.findall(r"(?<![\w.:-])\d+(?:\.\d+)?(?![\w.:-])", text)]


def host_figures():
    """Name -> (figure, the same in other units that programs print)."""
    read = {file: pathlib.Path(f"/proc/{file}").read_text()
            for file in ("meminfo", "stat", "vmstat", "diskstats", "uptime", "softirqs",
                         "zoneinfo")}
    figures = {}

    def add(name, value, *factors):
        figures[name] = [float(value) * factor for factor in (1, *factors)]

    for key, value in re.findall(r"^(\S+): +(\d+) kB", read["meminfo"], re.M):
        if key not in ("VmallocTotal", "Hugepagesize"):  # constants of the architecture
            # DirectMap1G in MB is round: 24 GB are the number of bytes in 6 pages, too.
            add(key, value, 1024, *(() if key.startswith("DirectMap") else (1 / 1024,)))
    for line in read["stat"].splitlines():
        name, *values = line.split()
        for column, value in enumerate(values[:10] if name.startswith("cpu") else values[:1]):
            add(f"stat {name} {column}", value)
    for line in read["vmstat"].splitlines():
        add(f"vmstat {line.split()[0]}", line.split()[1], 4, 1024)
    for line in read["diskstats"].splitlines():
        _, _, name, *values = line.split()
        for column, value in enumerate(values):
            add(f"disk {name} {column}", value, 0.5)
    for line in read["softirqs"].splitlines()[1:]:
        name, *values = line.split()
        for column, value in enumerate(values):
            add(f"softirq {name} {column}", value)
    zone = ""
    for line in read["zoneinfo"].splitlines():
        if line.startswith("Node"):
            zone = line
        elif words := re.search(r"(\w+) +(\d+)$", line):
            add(f"{zone} {words[1]}", words[2])
    add("uptime", read["uptime"].split()[0])
    return figures


def meets(number, before, after):
    """Whether it is a value that this figure had in the meantime, in one of its units."""
    for low, high in zip(before, after):
        low, high = min(low, high), max(low, high)
        # One that moves much is met by chance.
        if low >= SMALLEST and high - low <= low / 10000 and low - 0.5 <= number <= high + 0.5:
            return True
    return False


def found_in(output, before, after, own):
    return [f"{name}: {number:.0f}" for number in numbers_of(output)
            if number >= SMALLEST and number not in own
            for name, values in before.items()
            if name in after and meets(number, values, after[name])]


MEMORY_MIB = 211


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_figure_of_the_host(umwelt, program):
    if shutil.which(program) is None and not pathlib.Path(f"/usr/sbin/{program}").exists():
        pytest.skip(f"needs {program}")
    before = host_figures()
    command = "; ".join(f"echo '== {line}'; {line}" for line in PROGRAMS[program])
    output = umwelt.sh("--cpuset", CPUS[-1], "--memory", f"{MEMORY_MIB}M",
                       "--memory-swap", f"{MEMORY_MIB}M", command)
    after = host_figures()
    # What the container shares with the machine by its nature: sizes of devices. And its own limit,
    # which some counter of the machine may have reached.
    own = {float(size) for size in re.findall(
        r"^ +\d+ +\d+ +(\d+)", pathlib.Path("/proc/partitions").read_text(), re.M)}
    own |= {float(MEMORY_MIB * unit) for unit in (256, 1 << 10, 1 << 20)}  # pages, KiB, bytes
    found = found_in(output, before, after, own)
    assert not found, "\n".join([*found, output])


@pytest.mark.skipif(os.major(os.stat("/usr/bin").st_dev) == 0,
                    reason="needs /usr/bin on a block device")
def test_diskstats_has_what_the_container_read(umwelt):
    program = os.path.realpath("/usr/bin/python3")
    before, after = map(int, umwelt.sh(
        "count() { awk '{n += $6} END {print n + 0}' /proc/diskstats; }; count; "
        f"dd if={program} of=/dev/null bs=64k iflag=direct 2>/dev/null; count").split())
    assert after - before >= os.path.getsize(program) // 512 // 2


def test_every_file_that_the_kernel_has_too_is_in_the_place_of_its_own(umwelt):
    served = ("buddyinfo", "cgroups", "cpuinfo", "diskstats", "interrupts", "loadavg", "meminfo",
              "pagetypeinfo", "partitions", "schedstat", "slabinfo", "softirqs", "stat", "swaps",
              "uptime", "vmstat", "zoneinfo")
    mounted = set(re.findall(r" /proc/(\w+) fuse", umwelt.sh("cat /proc/self/mounts")))
    assert mounted >= {file for file in served if pathlib.Path(f"/proc/{file}").exists()}


def test_slabinfo_is_for_root_only(umwelt):
    answers = umwelt.sh("stat -c %a /proc/slabinfo; cat /proc/slabinfo | wc -l; "
                        "setpriv --reuid 65534 --regid 65534 --clear-groups "
                        "cat /proc/slabinfo 2>/dev/null || echo refused").split()
    assert answers == ["400", "2", "refused"]


def test_the_container_reads_its_own_load(umwelt):
    load1, _, _, tasks, last_pid, _, procs_running = umwelt.sh(
        "sleep 0.1; cat /proc/loadavg; grep procs_running /proc/stat").split()
    running, total = map(int, tasks.split("/"))
    assert float(load1) < 1
    # Who reads is running, as for the kernel: programs subtract themselves.
    assert 1 <= running <= total <= 5
    assert 1 <= int(procs_running) <= 5
    assert 1 <= int(last_pid) <= 10


def test_the_comparison_finds_the_hosts_own_output():
    before = host_figures()
    output = pathlib.Path("/proc/meminfo").read_text()
    found = found_in(output, before, host_figures(), set())
    assert any(line.startswith("MemTotal") for line in found)
