# SPDX-License-Identifier: Apache-2.0
"""`umwelt update`: what is recorded is what is in force."""

import pathlib
import subprocess

import pytest

from disks import wait_until
from umwelt import HIERARCHIES, has_v1

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("nothing_left")]

ROUNDS, MANY = 5, 8


def in_force(state, file):
    for root in HIERARCHIES:
        path = root / "umwelt" / state["spec"]["id"] / file
        if path.exists():
            return path.read_text().strip()
    return None


def test_updates_at_the_same_time_are_one_after_the_other(umwelt):
    with umwelt.detached("--memory", "64m", "--", "sleep", "600") as name:
        for number in range(ROUNDS):
            options = [("--memory", f"{100 + number + 10 * i}m") if i % 2 else
                       ("--pids-limit", 100 + number + 10 * i) for i in range(MANY)]
            running = [umwelt.start("update", *option, name, stdout=subprocess.DEVNULL)
                       for option in options]
            assert [process.wait(60) for process in running] == [0] * MANY
            state = umwelt.launched(name)
            limits = state["spec"]["limits"]
            memory = "memory.limit_in_bytes" if has_v1("memory") else "memory.max"
            assert str(limits["memory_bytes"]) == in_force(state, memory), number
            assert str(limits["pids_limit"]) == in_force(state, "pids.max"), number
            assert limits["pids_limit"] >= 100 + number


@pytest.mark.skipif(not has_v1("cpu"), reason="needs cpu-v1: cgroup v2 has one file of both")
def test_a_longer_period_keeps_the_room_of_a_cgroup_below(umwelt):
    with umwelt.detached("--cpus", "2", "--", "sleep", "600") as name:
        own = pathlib.Path("umwelt", umwelt.launched(name)["spec"]["id"])
        folder = next(root / own / "below" for root in HIERARCHIES
                      if (root / own / "cpu.cfs_quota_us").exists())
        folder.mkdir()
        folder.joinpath("cpu.cfs_quota_us").write_text("150000")
        for quota, period in (300000, 200000), (15000, 10000), (200000, 100000):
            umwelt.ok("update", "--cpu-quota", quota, "--cpu-period", period, name)
            state = umwelt.launched(name)
            assert in_force(state, "cpu.cfs_quota_us") == str(quota)
            assert in_force(state, "cpu.cfs_period_us") == str(period)


def test_another_limit_on_memory_leaves_as_much_swap(umwelt):
    def check(name, memory, swap):
        state = umwelt.launched(name)
        limits = state["spec"]["limits"]
        assert limits["memory_bytes"] == memory << 20
        if has_v1("memory"):
            total = int(in_force(state, "memory.memsw.limit_in_bytes"))
            assert total > 1 << 62 if swap is None else total == memory + swap << 20
        else:
            assert in_force(state, "memory.swap.max") == (
                "max" if swap is None else str(swap << 20))
        if swap is not None:
            assert limits["memory_swap_bytes"] == memory + swap << 20

    for total, swap in (("96m", 32), ("-1", None)):
        with umwelt.detached("--memory", "64m", "--memory-swap", total, "--", "sleep", "600"
                             ) as name:
            check(name, 64, swap)
            for memory in (32, 128):  # below, and above what both were together
                umwelt.ok("update", "--memory", f"{memory}m", name)
                check(name, memory, swap)


@pytest.mark.skipif(not has_v1("memory"), reason="needs memory-v1: cgroup v2 refuses no limit")
def test_an_update_that_is_refused_changes_nothing(umwelt):
    with umwelt.detached("--memory", "64m", "--cpus", "1", "--", "sh", "-c",
                         "head -c 30000000 /dev/zero >/dev/shm/x; touch /dev/shm/filled; sleep 600"
                         ) as name:
        wait_until(lambda: umwelt.root(name).joinpath("dev/shm/filled").exists())
        refused = umwelt("update", "--cpus", "0.5", "--pids-limit", "50", "--memory", "5m", name)
        assert refused.returncode == 1 and "uses more than that now" in refused.stderr
        state = umwelt.launched(name)
        assert in_force(state, "cpu.cfs_quota_us") == "100000"
        assert in_force(state, "pids.max") == "max"
        assert in_force(state, "memory.limit_in_bytes") == str(64 << 20)
