# SPDX-License-Identifier: Apache-2.0
"""What is in the trees, and how it reads."""

import os
import pathlib
import re
import stat
import subprocess
import time

import pytest

from umweltd import CPUS, SHARED, SYS_CPU, cpu_list, files_of, walk

pytestmark = pytest.mark.vm

CONFIG_FILES = ("proc/cpuinfo", "run/container_info", "run/container_info.json",
                f"{SYS_CPU}/online", f"{SYS_CPU}/possible", f"{SYS_CPU}/kernel_max")
LIVE_FILES = ("proc/meminfo", "proc/stat", "proc/uptime", "proc/loadavg", "proc/swaps")


def test_every_file_reads_as_often_as_the_host_s_own(container):
    paths = files_of(container)
    assert len(paths) > 20
    for path in paths:
        try:
            text = path.read_bytes()
        except OSError as error:
            # Some files of the host can't be read by anybody; then the reason is the host's.
            own = "/" + str(path.relative_to(container.config))
            with pytest.raises(OSError) as expected:
                open(own, "rb").read()
            assert error.errno == expected.value.errno, own
        else:
            # It has done no I/O and has no block of the memory; not every kernel has schedstat.
            if not text and path.name not in ("diskstats", "pagetypeinfo", "schedstat"):
                own = pathlib.Path("/", path.relative_to(container.config))
                assert own.read_bytes() == b"", path


def test_a_file_is_on_its_own_connection_only(container):
    for file in CONFIG_FILES:
        assert (container.config / file).is_file()
        assert not (container.live / file).exists()
    for file in LIVE_FILES:
        assert (container.live / file).is_file()
        assert not (container.config / file).exists()
    assert os.listdir(container.pressure) == ["proc"]
    assert os.listdir(container.pressure / "proc") in (["pressure"], [])
    assert not (container.live / "proc/pressure").exists()


def test_one_read_gets_all_of_a_long_text(container):
    """Also when that takes the kernel more than one request (connection.h, kLiveMaxRead)."""
    files = [path for path in (container.live / "proc").iterdir() if path.is_file()]
    longest = max(files, key=lambda path: len(path.read_bytes()))
    file = os.open(longest, os.O_RDONLY)
    text = os.read(file, 1 << 20)
    assert os.read(file, 1 << 20) == b""
    os.close(file)
    # In small parts it is as long, but for a figure that grew meanwhile.
    file = os.open(longest, os.O_RDONLY)
    parts = []
    while part := os.read(file, 1000):
        parts.append(part)
    os.close(file)
    assert abs(len(b"".join(parts)) - len(text)) < 256, longest


def test_modes_and_owners(container):
    for tree in container.trees:
        for path, is_directory, is_link in walk(tree):
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (0, 0)
            if is_link:
                continue
            pressure = "proc/pressure/" in str(path) and not is_directory
            assert stat.S_IMODE(status.st_mode) & 0o222 == (0o222 if pressure else 0), path
            if is_directory:
                assert stat.S_IMODE(status.st_mode) == 0o555, path
    for file in CONFIG_FILES + LIVE_FILES:
        assert stat.S_IMODE(container.path(file).stat().st_mode) == 0o444, file


def test_files_of_the_host_keep_their_read_permission(container):
    for path, is_directory, is_link in walk(container.config / SYS_CPU / f"cpu{CPUS[-1]}"):
        if not is_directory and not is_link:
            own = os.lstat("/" + str(path.relative_to(container.config)))
            assert path.lstat().st_mode & 0o444 == own.st_mode & 0o444, path


def test_nothing_can_be_written(container):
    for tree in container.trees:
        for path, is_directory, is_link in walk(tree):
            if is_directory:
                with pytest.raises(OSError):
                    (path / "new").touch()
            elif not is_link:
                if "proc/pressure/" not in str(path):
                    with pytest.raises(OSError):
                        open(path, "wb")
                with pytest.raises(OSError):
                    path.chmod(0o777)
                with pytest.raises(OSError):
                    path.unlink()


def test_others_do_not_reach_the_trees_and_a_bind_mount_shows_all_users(daemon, container, folder):
    script = f"""
        touch {folder}/cpuinfo {folder}/meminfo && mkdir {folder}/cpu &&
        mount --bind {container.config}/proc/cpuinfo {folder}/cpuinfo &&
        mount --bind {container.live}/proc/meminfo {folder}/meminfo &&
        mount --bind {container.config}/{SYS_CPU} {folder}/cpu &&
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '
            cat {folder}/cpuinfo {folder}/meminfo {folder}/cpu/online >/dev/null &&
            ls {folder}/cpu/cpu{CPUS[0]}/topology >/dev/null &&
            ! cat {container.config}/proc/cpuinfo 2>/dev/null && ! ls {daemon.runtime}/live'
    """
    subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script], check=True,
                   stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("file", CONFIG_FILES + LIVE_FILES)
def test_partial_reads_give_the_whole(container, file):
    path = container.path(file)
    # Files of the live connection move; within one open file they do not.
    with open(path, "rb", buffering=0) as whole:
        first = os.pread(whole.fileno(), 1 << 20, 0)
        for size in (1, 7, 512, 4095):
            parts, offset = [], 1
            while part := os.pread(whole.fileno(), size, offset):
                parts.append(part)
                offset += len(part)
                if size == 1 and offset > 300:
                    break
            joined = b"".join(parts)
            assert joined == first[1:1 + len(joined)]
            assert size == 1 or len(joined) == len(first) - 1
        assert os.pread(whole.fileno(), 100, len(first)) == b""
        assert os.pread(whole.fileno(), 100, 1 << 40) == b""
        assert os.pread(whole.fileno(), 0, 0) == b""


def test_a_rewind_reads_anew(container):
    with open(container.live / "proc/uptime", "rb", buffering=0) as file:
        before = file.read()
        os.pread(file.fileno(), 4096, 1)
        subprocess.run(["sleep", "0.05"], check=True)
        file.seek(0)
        assert float(file.read().split()[0]) > float(before.split()[0])


def shape(text):
    """The text without its numbers, which move, and the blanks that pad them to a column."""
    return re.sub(r" *\d+", " N", text)


@pytest.mark.parametrize("file", ["proc/cpuinfo", "proc/meminfo", f"{SYS_CPU}/possible"])
@pytest.mark.parametrize("command", ["busybox cat {0}", "busybox cp {0} {1} && cat {1}",
                                     "cp {0} {1} && cat {1}", "cat {0}", "tail -n 100000 {0}",
                                     "dd status=none bs=1000 if={0}", "head -c 100000 {0}",
                                     "python3 -Ic 'import shutil; shutil.copyfile(\"{0}\", \"{1}\")'"
                                     " && cat {1}"])
def test_programs_copy_the_whole_file(container, folder, file, command):
    """busybox and Python by sendfile(2), others by read(2), tail after a look at the end."""
    path = container.path(file)
    copy = subprocess.run(command.format(path, folder / "copy"), shell=True, check=True,
                          capture_output=True, text=True).stdout
    numbers = re.compile(r" *\d+")
    assert numbers.sub("N", copy) == numbers.sub("N", path.read_text())


def test_size_is_not_counted_on(container):
    for file in CONFIG_FILES + LIVE_FILES:
        path = container.path(file)
        count = int(subprocess.run(["wc", "-c", path], check=True, capture_output=True,
                                   text=True).stdout.split()[0])
        assert abs(count - len(path.read_bytes())) < 64, file
        last = subprocess.run(["tail", "-n", "1", path], check=True, capture_output=True,
                              text=True).stdout
        assert shape(last) == shape(path.read_text().splitlines(True)[-1]), file


def test_listing_and_lookup_agree(daemon, container):
    container.cgroup.set_cpus(CPUS[-1])
    container.refresh()
    for tree in (*(daemon.runtime / name for name in ("config", "live", "pressure")),
                 daemon.state / "proc", daemon.state / "sys"):
        for path, is_directory, is_link in walk(tree):
            status = path.lstat()
            assert stat.S_ISDIR(status.st_mode) == is_directory, path
            assert stat.S_ISLNK(status.st_mode) == is_link, path
    folder = container.config / SYS_CPU
    for cpu in range(max(CPUS) + 3):
        assert (folder / f"cpu{cpu}").exists() == (f"cpu{cpu}" in os.listdir(folder))
    for name in ("cpu", "cpu00", "cpu-1", "cpu99999", "nothing", "x" * 255):
        assert not (folder / name).exists()


def test_inode_numbers_are_the_same_in_listing_and_status(container):
    for tree in container.trees:
        for entry in os.scandir(tree):
            assert entry.inode() == entry.stat().st_ino
    for entry in os.scandir(container.config / SYS_CPU):
        assert entry.inode() == entry.stat().st_ino


def test_cpu_directories_mirror_the_host_s(container):
    cpu = CPUS[-1]
    ours, own = container.config / SYS_CPU / f"cpu{cpu}", f"/{SYS_CPU}/cpu{cpu}"
    relative = lambda top: {(str(path.relative_to(top)), is_directory, is_link)
                            for path, is_directory, is_link in walk(top)}
    assert relative(ours) == relative(own)
    for path, _, is_link in walk(ours):
        if is_link:
            assert os.readlink(path) == os.readlink(own + "/" + str(path.relative_to(ours)))


def test_one_story_about_the_cpus(container):
    for cpus, quota in ((CPUS[-1:], None), (CPUS[:2], None), (CPUS[:2], 0.5), (CPUS[:2], 1.5)):
        container.cgroup.set_cpus(",".join(map(str, cpus)))
        container.cgroup.set_quota(quota)
        container.refresh()
        expected = cpus if quota is None else cpus[:max(1, round(quota + 0.49))]
        folder = container.config / SYS_CPU
        assert cpu_list((folder / "online").read_text()) == expected
        listed = [name for name in os.listdir(folder) if re.fullmatch(r"cpu\d+", name)]
        assert sorted(listed) == [f"cpu{cpu}" for cpu in expected]
        blocks = re.findall(r"^processor\s*: (\d+)$", container.read("proc/cpuinfo"), re.MULTILINE)
        assert [int(block) for block in blocks] == expected
        lines = re.findall(r"^cpu(\d+) ", container.read("proc/stat"), re.MULTILINE)
        assert [int(line) for line in lines] == expected
        container.cgroup.set_cpus(",".join(map(str, CPUS)))


NODES = pathlib.Path("/sys/devices/system/node")


@pytest.mark.skipif(not NODES.exists(), reason="needs NUMA support")
def test_memory_nodes(daemon, container):
    """Those of the container's CPUs and memory, with its CPUs and its memory."""
    container.cgroup.set_cpus(CPUS[-1])
    container.cgroup.set_memory(123 << 20)
    container.refresh()
    folder = container.config / NODES.relative_to("/")
    names = [f"node{n}" for n in cpu_list((folder / "online").read_text())]
    assert sorted(names) == sorted(n for n in os.listdir(folder) if re.fullmatch(r"node\d+", n))
    cpus, memory = [], 0
    for name in names:
        listed = cpu_list((folder / name / "cpulist").read_text())
        links = [n for n in os.listdir(folder / name) if re.fullmatch(r"cpu\d+", n)]
        assert sorted(links) == sorted(f"cpu{cpu}" for cpu in listed)
        assert all(os.readlink(folder / name / link) == f"../../cpu/{link}" for link in links)
        assert not any(n.startswith("memory") and n[6:].isdigit() for n in os.listdir(folder / name))
        cpus += listed
        memory += int(re.search(r"MemTotal: +(\d+)", (folder / name / "meminfo").read_text())[1])
        assert len((folder / name / "distance").read_text().split()) == len(names)
    assert cpus == [CPUS[-1]]
    assert memory == 123 << 10
    for cpu in CPUS:
        assert (folder / f"node0/cpu{cpu}").is_symlink() == (cpu in cpu_list(
            (folder / "node0/cpulist").read_text())) or not (folder / "node0").exists()
    container.cgroup.set_cpus(",".join(map(str, CPUS)))
    container.refresh()
    listed = [cpu_list((folder / name / "cpulist").read_text()) for name in names]
    assert sorted(sum(listed, [])) == CPUS


def test_huge_pages_are_the_host_s_without_a_limit(container):
    pools = pathlib.Path("/sys/kernel/mm/hugepages")
    if not pools.exists():
        pytest.skip("needs hugetlbfs")
    for path in pools.glob("*/nr_hugepages"):
        assert container.read(path.relative_to("/")) == path.read_text()


def test_dense_ids_show_the_physical_cpu_behind(daemon):
    container = daemon.container("dense", policy={"cpu_ids": "dense"})
    container.cgroup.set_cpus(CPUS[-1])
    container.refresh()
    folder = container.config / SYS_CPU
    assert (folder / "online").read_text() == "0\n"
    assert [name for name in os.listdir(folder) if re.fullmatch(r"cpu\d+", name)] == ["cpu0"]
    own = f"/{SYS_CPU}/cpu{CPUS[-1]}"
    assert sorted(os.listdir(folder / "cpu0")) == sorted(os.listdir(own))


def test_an_unknown_or_removed_container_is_not_there(daemon, container):
    config = daemon.runtime / "config"
    assert not (config / "nobody").exists()
    assert "web" in os.listdir(config)
    held = os.open(container.live / "proc/meminfo", os.O_RDONLY)
    container.remove()
    for tree in (config, daemon.runtime / "live", daemon.runtime / "pressure"):
        assert "web" not in os.listdir(tree)
        assert not (tree / "web").exists()
    with pytest.raises(OSError):
        os.pread(held, 100, 0)
    os.close(held)
    again = daemon.container("web")
    assert again.read("proc/meminfo").startswith("MemTotal:")
    assert again.record["number"] != container.record["number"]


def test_a_container_whose_cgroup_is_gone_fails_to_read_and_harms_nobody(daemon, container):
    other = daemon.container("other")
    held = os.open(container.live / "proc/meminfo", os.O_RDONLY)
    container.init.kill()
    container.init.wait()
    container.cgroup.remove()
    time.sleep(SHARED)
    with pytest.raises(OSError):
        os.pread(held, 100, 0)
    os.close(held)
    assert other.read("proc/meminfo").startswith("MemTotal:")
