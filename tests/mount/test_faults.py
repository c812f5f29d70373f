# SPDX-License-Identifier: Apache-2.0
"""The server and the keeper are killed, stopped, starved and replaced while everything is read.

Each test prints its counts. UMWELT_FAULTS=full makes them as long as they are meant to be.
"""

import contextlib
import os
import pathlib
import random
import resource
import shutil
import signal
import threading
import time

import pytest

from umweltd import CPUS, SLOWNESS, SYS_CPU, UMWELTD, V1, cpu_list, files_of, wait_until

FULL = os.environ.get("UMWELT_FAULTS") == "full"
pytestmark = pytest.mark.timeout(180 * SLOWNESS)

READERS = 8


def read_whole(path, size=1 << 16):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, size):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def readable(container):
    """Every file that the host itself lets root read."""
    paths = []
    for path in files_of(container):
        with contextlib.suppress(OSError):
            read_whole(path)
            paths.append(str(path))
    return paths


class Load:
    """Threads that read files until the block ends; what fails, and how long a read takes."""

    def __init__(self, paths, threads=READERS, check=lambda path, text: None):
        self.paths, self.check = paths, check
        self.stop = threading.Event()
        self.reads, self.failures, self.times = [0] * threads, [], []
        self.threads = [threading.Thread(target=self._read, args=(i,)) for i in range(threads)]

    def _read(self, index):
        mine = random.Random(index).sample(self.paths, len(self.paths))
        times = []
        while not self.stop.is_set():
            for path in mine:
                if self.stop.is_set():
                    break
                start = time.monotonic()
                try:
                    text = read_whole(path)
                    times.append(time.monotonic() - start)
                    if wrong := self.check(path, text):
                        self.failures.append((path, wrong))
                    self.reads[index] += 1
                except Exception as error:  # also of a check: a text that is no text of this file
                    self.failures.append((path, repr(error)))
        self.times += times

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def report(self, what, stalls=None):
        of, times = ("of the stalls ", stalls) if stalls else ("", self.times)
        p99 = sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]
        print(f"\n{what}: {sum(self.reads)} reads, {len(self.failures)} failures; longest read "
              f"{max(self.times) * 1000:.1f} ms; p99 {of}{p99 * 1000:.2f} ms", flush=True)


COUNTED_PAGES = (b"pgpgin", b"pgpgout", b"pswpin", b"pswpout", b"pgfault", b"pgmajfault")
# Uses CPU time, and makes processes and page faults.
BUSY = ("sh", "-c", "while :; do dd if=/dev/zero of=/dev/null bs=64k count=2000 2>&-; sleep 0.1; done")


def counters(name, text):
    """What never goes back of a file."""
    if name == "uptime":
        return [float(field) for field in text.split()]
    if name == "stat":
        rows = {row.split()[0]: row.split()[1:] for row in text.splitlines()}
        return [int(field) for key in (b"cpu", b"processes") for field in rows[key]]
    if name == "vmstat":
        rows = dict(row.split() for row in text.splitlines())
        return [int(rows[key]) for key in COUNTED_PAGES if key in rows]
    return []


def meminfo_error(text):
    """What can't be of a memory."""
    kib = {row.split()[0][:-1].decode(): int(row.split()[1]) for row in text.splitlines()}
    for part, whole in (("MemFree", "MemTotal"), ("MemAvailable", "MemTotal"),
                        ("Cached", "MemTotal"), ("SwapFree", "SwapTotal")):
        if kib[part] > kib[whole]:
            return f"{part} {kib[part]} > {whole} {kib[whole]}"
    if kib["MemFree"] + kib["Buffers"] + kib["Cached"] > kib["MemTotal"]:
        return f"more than MemTotal: {text[:300]!r}"
    return None


def make_check():
    """A file that is read must be whole, and make sense for some moment; no counter goes back."""
    lengths, last = {}, {}

    def check(path, text):
        name = path.rsplit("/", 1)[1]
        if wrong := check_form(path, name, text):
            return wrong
        now = counters(name, text)
        before = last.get((threading.get_ident(), path), now)
        last[threading.get_ident(), path] = now
        if any(a > b for a, b in zip(before, now)):
            return f"went back from {before} to {now}"
        return None

    def check_form(path, name, text):
        if name in ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "vmstat"):
            if not text.endswith(b"\n"):
                return f"cut short: {text[-40:]!r}"
        if name == "uptime" and (len(text.split()) != 2 or text.count(b"\n") != 1):
            return f"not one line: {text!r}"
        if name == "loadavg" and text.count(b"\n") != 1:
            return f"not one line: {text!r}"
        if name == "stat" and text.count(b"\nbtime ") != 1:
            return f"not one text: {text!r}"
        lines = text.count(b"\n")
        if name in ("meminfo", "cpuinfo") and lengths.setdefault(path, lines) != lines:
            return f"{lines} lines, not {lengths[path]}"
        return None

    return check


def test_the_server_is_killed_again_and_again(daemon, container):
    kills, seconds = (200, 20) if FULL else (30, 5)
    with Load(readable(container), check=make_check()) as load:
        time.sleep(0.3)
        servers = set()
        end = time.monotonic() + seconds
        for i in range(kills):
            time.sleep(max(0, end - time.monotonic()) / (kills - i))
            server = daemon.server_pid()
            servers.add(server)
            os.kill(server, signal.SIGKILL)
        time.sleep(0.5)
    # A stall is a read that waited for a new server: about one for each thread and kill.
    stalls = sorted(load.times)[-kills * READERS:]
    load.report(f"{kills} SIGKILLs of the server in {seconds} s", stalls)
    assert not load.failures, load.failures[:5]
    assert len(servers) >= kills * 0.9
    assert sum(load.reads) > kills


def test_a_stopped_server_is_replaced(daemon, container):
    rounds = 5 if FULL else 1
    stalls = {signal.SIGKILL: [], signal.SIGSTOP: []}
    with Load(readable(container), check=make_check()) as load:
        for _ in range(rounds):
            for how, times in stalls.items():
                time.sleep(0.5)
                server = daemon.server_pid()
                start = time.monotonic()
                os.kill(server, how)
                read_whole(container.live / "proc/uptime")
                times.append(time.monotonic() - start)
                assert daemon.server_pid() != server
    killed, stopped = map(max, stalls.values())
    load.report(f"{rounds} SIGSTOPs of the server, back after {stopped:.2f} s, killed {killed:.2f} s")
    assert not load.failures, load.failures[:5]
    # Until it is noticed; then as fast as the other, on a machine that is as busy.
    assert stopped < 3 * max(1, SLOWNESS / 2) + 20 * killed


def test_the_keeper_is_killed(daemon, container):
    """The server goes on and starts another keeper, which replaces the server when that dies."""
    rounds = 20 if FULL else 3
    with Load(readable(container), check=make_check()) as load:
        for _ in range(rounds):
            old = daemon.call(op="ping")
            os.kill(old["pid"], signal.SIGKILL)
            wait_until(lambda: daemon.call(op="ping")["pid"] != old["pid"], 10 * SLOWNESS)
            assert daemon.server_pid() == old["server"]
            time.sleep(0.2)
            os.kill(old["server"], signal.SIGKILL)
            wait_until(lambda: daemon.server_pid() != old["server"], 10 * SLOWNESS)
    daemon.process.wait()
    load.report(f"{rounds} SIGKILLs of the keeper")
    assert not load.failures, load.failures[:5]
    pid = daemon.call(op="ping")["pid"]
    assert (daemon.runtime / "umweltd.lock").read_text() == f"{pid}\n"
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10 * SLOWNESS)
    assert not (daemon.runtime / "umweltd.sock").exists()


@pytest.mark.parametrize("how", ["socket", "signal"])
def test_upgrades_in_place(daemon, container, folder, how):
    upgrades = 20 if FULL else 4
    held = open(container.live / "proc/stat", "rb", buffering=0)
    text = held.read(100)
    programs = [folder / "umweltd-a", folder / "umweltd-b"]
    for program in programs:
        shutil.copy(UMWELTD, program)
    with Load(readable(container), check=make_check()) as load:
        for i in range(upgrades):
            time.sleep(0.2)
            before = daemon.call(op="ping")
            if how == "socket":
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    daemon.call(op="upgrade", program=str(programs[i % 2]))
            else:
                os.kill(daemon.pid, signal.SIGUSR2)
            wait_until(lambda: daemon.server_pid() != before["server"], 20 * SLOWNESS)
            after = daemon.call(op="ping")
            assert after["pid"] == before["pid"] == daemon.pid
            expected = str(programs[i % 2]) if how == "socket" else str(UMWELTD)
            for pid in (after["server"], after["pid"]):
                wait_until(lambda: os.readlink(f"/proc/{pid}/exe") == expected, 10 * SLOWNESS)
        # What replaces the new server is the new program, too.
        os.kill(after["server"], signal.SIGKILL)
        wait_until(lambda: daemon.server_pid() != after["server"], 10 * SLOWNESS)
        assert os.readlink(f"/proc/{daemon.server_pid()}/exe") == expected
    load.report(f"{upgrades} upgrades by {how}")
    assert not load.failures, load.failures[:5]
    rest = held.read(1 << 16)  # of a file opened under the first of all
    held.close()
    assert text.startswith(b"cpu ") and (text + rest).count(b"btime ") == 1


def test_a_replaced_program_takes_over_from_a_keeper_that_a_server_started(stopped_daemon, folder):
    program, new = folder / "umweltd", folder / "new"
    for path in (program, new):
        shutil.copy(UMWELTD, path)
    stopped_daemon.command[0] = program
    daemon = stopped_daemon.start()
    before = daemon.call(op="ping")
    new.rename(program)
    os.kill(before["pid"], signal.SIGKILL)
    daemon.process.wait()
    wait_until(lambda: daemon.call(op="ping")["pid"] != before["pid"], 10 * SLOWNESS)
    keeper = daemon.call(op="ping")["pid"]
    comm = pathlib.Path(f"/proc/{keeper}/comm")
    wait_until(lambda: comm.read_text() == "umweltd\n", 10 * SLOWNESS)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        daemon.call(op="upgrade", program="")
    wait_until(lambda: daemon.server_pid() != before["server"], 20 * SLOWNESS)
    for pid in (daemon.server_pid(), keeper):
        wait_until(lambda: os.readlink(f"/proc/{pid}/exe") == str(program), 10 * SLOWNESS)
    os.kill(keeper, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{keeper}"), 10 * SLOWNESS)


def test_an_upgrade_that_fails_changes_nothing(daemon, container, folder):
    before = daemon.call(op="ping")
    broken, missing = folder / "broken", folder / "missing"
    broken.write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    broken.chmod(0o755)
    with Load(readable(container), threads=2) as load:
        for program, why in ((broken, "status 3"), (missing, "No such file")):
            with pytest.raises(RuntimeError, match=f"goes on as it was: .*{why}"):
                daemon.call(op="upgrade", program=str(program))
            assert daemon.call(op="ping") == before
        with pytest.raises(RuntimeError, match="absolute"):
            daemon.call(op="upgrade", program="umweltd")
    load.report("2 upgrades that fail")
    assert not load.failures, load.failures[:5]


def test_an_open_file_outlives_its_server(daemon, container):
    """What was read in parts is of one text, also when the server was killed in between."""
    for _ in range(5):
        with open(container.live / "proc/meminfo", "rb", buffering=0) as file, \
                open(container.live / "proc/uptime", "rb", buffering=0) as line:
            first, whole = file.read(101), line.read(100)
            server = daemon.server_pid()
            container.cgroup.set_memory(random.randrange(64, 9000) << 20)
            os.kill(server, signal.SIGKILL)
            time.sleep(0.02)
            text = first + file.read(1 << 16)
            assert line.read(100) == b"", whole
        keys = [row.split(b":")[0] for row in text.splitlines()]
        assert len(keys) == len(set(keys)) and text.endswith(b" kB\n")
        wait_until(lambda: daemon.server_pid() != server, 10 * SLOWNESS)


def test_limits_that_change_while_nobody_serves_are_shown(daemon, container):
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    container.cgroup.set_cpus(",".join(map(str, CPUS)))
    container.refresh()
    for count in (1, 2, 1):
        assert read_whole(container.config / "proc/cpuinfo")
        keeper, server = daemon.pid, daemon.server_pid()
        os.kill(keeper, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        container.cgroup.set_cpus(",".join(map(str, CPUS[:count])))
        os.kill(keeper, signal.SIGCONT)
        container.refresh()
        assert read_whole(container.config / "proc/cpuinfo").count(b"processor\t") == count
        assert len(cpu_list(container.read(f"{SYS_CPU}/online"))) == count


def test_no_counter_goes_back_when_the_server_is_killed(daemon, container):
    """Also where one sample could not make up the past: CPUs went away after the last answer."""
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    paths = [container.live / "proc/stat", container.live / "proc/uptime"]
    for _ in range(5):
        container.cgroup.set_cpus(",".join(map(str, CPUS)))
        container.refresh()
        time.sleep(0.3)
        before = [counters(path.name, read_whole(path)) for path in paths]
        server = daemon.server_pid()
        os.kill(server, signal.SIGKILL)
        container.cgroup.set_cpus(str(CPUS[0]))
        wait_until(lambda: daemon.server_pid() not in (None, server), 10 * SLOWNESS)
        container.refresh()
        for path, then in zip(paths, before):
            now = counters(path.name, read_whole(path))
            assert all(a <= b for a, b in zip(then, now)), (path, then, now)


def test_no_descriptors_left(daemon, container):
    """The server has none: what is open goes on, the rest works again when there are some."""
    server = daemon.server_pid()
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    paths = [str(container.live / f"proc/{name}") for name in
             ("meminfo", "uptime")]
    for path in paths:
        read_whole(path)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (daemon.fds(), before[1]))
    with Load(paths, threads=2) as load:
        daemon.patience = SLOWNESS
        with contextlib.suppress(RuntimeError, OSError):
            daemon.container("other")
        daemon.patience = 10 * SLOWNESS
        time.sleep(0.3)
    load.report("no descriptors left")
    assert not load.failures, load.failures[:5]
    resource.prlimit(server, resource.RLIMIT_NOFILE, before)
    wait_until(daemon.answers, 10 * SLOWNESS)
    assert daemon.container("third").read("proc/meminfo")


def test_out_of_memory(daemon, container, folder):
    """The server hits the limit of a cgroup of its own and is killed for it: another one is there."""
    memory = pathlib.Path(V1["memory"]) if V1 else container.cgroup.folder("memory").parent.parent
    cgroup = memory / f"umwelt-test-oom-{os.getpid()}"
    cgroup.mkdir()
    try:
        server = daemon.server_pid()
        with Load(readable(container)) as load:
            (cgroup / "cgroup.procs").write_text(str(server))
            limit = cgroup / ("memory.limit_in_bytes" if V1 else "memory.max")
            for size in range(18, 26):  # v1 refuses what is less than it has used already
                with contextlib.suppress(OSError):  # v2 may kill at once
                    limit.write_text(str(1 << size))
                    break
            held = []
            deadline = time.monotonic() + 10 * SLOWNESS
            while os.path.exists(f"/proc/{server}") and time.monotonic() < deadline:
                held.append(os.open(container.live / "proc/stat", os.O_RDONLY))
                os.pread(held[-1], 1 << 16, 0)
            for descriptor in held:
                os.close(descriptor)
        killed = not os.path.exists(f"/proc/{server}")
        load.report(f"out of memory ({'killed' if killed else 'not killed'})")
        assert killed
        assert not load.failures, load.failures[:5]
        assert daemon.server_pid() != server
    finally:
        wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), 10)
        cgroup.rmdir()


@pytest.mark.timeout(float(os.environ.get("UMWELT_SOAK", 0)) + 180 * SLOWNESS)
def test_soak(daemon):
    """Containers come and go, limits change, the server is killed at random; every value is right."""
    usual = 120 if os.environ.get("UMWELT_VARIANT") == "release" else 20
    seconds = float(os.environ.get("UMWELT_SOAK", usual))
    sizes = [64, 256, 4096]
    steady = [daemon.container(f"steady{i}", init=BUSY) for i in range(2)]
    for container in steady:
        container.cgroup.set_memory(sizes[0] << 20)
        container.refresh()
    whole = make_check()

    def check(path, text):
        if path.endswith("proc/meminfo"):
            total = int(text.split()[1]) >> 10
            return meminfo_error(text) if total in sizes else f"MemTotal {total} MiB"
        if path.endswith("proc/cpuinfo"):
            count = text.count(b"processor\t")
            good = text.endswith(b"\n\n") and 1 <= count <= len(CPUS)
            return None if good else f"{count} processors, end {text[-30:]!r}"
        if path.endswith("cpu/online"):
            return None if text.strip() in online else f"online {text!r}"
        return whole(path, text)

    online = {str(CPUS[0]).encode(), (container.config / SYS_CPU / "online").read_bytes().strip()}
    cpu = f"/cpu{CPUS[0]}/"
    paths = [path for container in steady for path in readable(container)
             if "/cpu/cpu" not in path or cpu in path]
    kills = rounds = guests = 0
    end = time.monotonic() + seconds
    chance = random.Random(7)
    with Load(paths, check=check) as load:
        while time.monotonic() < end:
            rounds += 1
            container = chance.choice(steady)
            container.cgroup.set_memory(chance.choice(sizes) << 20)
            container.cgroup.set_cpus(chance.choice((CPUS[0], ",".join(map(str, CPUS)))))
            if chance.random() < 0.5:
                with contextlib.suppress(OSError):
                    container.refresh()
            if chance.random() < 0.1:
                kills += 1
                os.kill(daemon.server_pid(), signal.SIGKILL)
            if chance.random() < 0.1:
                guests += 1
                with contextlib.suppress(OSError):
                    guest = daemon.container(f"guest{guests % 3}")
                    assert read_whole(guest.live / "proc/stat")
                    guest.remove()
                    daemon.containers.remove(guest)
            time.sleep(0.05)
    load.report(f"soak of {seconds:.0f} s, {rounds} changes, {guests} guests, {kills} SIGKILLs")
    assert not load.failures, load.failures[:5]
