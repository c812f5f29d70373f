# SPDX-License-Identifier: Apache-2.0
"""`umwelt run`: the process, its identity, its filesystems."""

import os
import pathlib
import signal
import stat
import subprocess
import time

import pytest

from umwelt import CPUS, HIERARCHIES, SLOWNESS, has_v1

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("nothing_left")]

DOCKER_CAPABILITIES = "00000000a80425fb"


@pytest.mark.parametrize("script, code", [
    ("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$; sleep 5", 0),
    ("sh -c 'kill -TERM $$'; exit $?", 143)])
def test_exit_code(umwelt, script, code):
    # The kernel spares an init its own SIGKILL, hence the 0.
    done = umwelt("run", "--rm", "--", "sh", "-c", script.replace("sleep 5", "exit 0"))
    assert done.returncode == code
    assert "umwelt" not in done.stderr


@pytest.mark.parametrize("command, code", [
    (["no-such-command"], 127), (["/no/such/command"], 127), (["/etc"], 126),
    (["/etc/passwd"], 126), ([""], 127)])
def test_command_that_cannot_be_executed(umwelt, command, code):
    done = umwelt("run", "--", *command)
    assert done.returncode == code
    assert done.stderr.startswith("umwelt: ") and done.stderr.count("\n") == 1


def test_output_and_input_are_passed_on(umwelt):
    done = umwelt("run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; cat")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert umwelt.sh("-i", "cat", input="hello") == "hello"
    assert umwelt.sh("cat; readlink /proc/self/fd/0", input="hello") == "/dev/null\n"


def test_identity(umwelt):
    pid, hostname, session = umwelt.sh(
        "--hostname", "box.example", "echo $$; hostname; cut -d' ' -f6 /proc/self/stat").split()
    assert (pid, hostname, session) == ("1", "box.example", "1")


def test_namespaces_are_its_own(umwelt):
    names = ("pid", "mnt", "uts", "ipc", "cgroup", "time", "net")
    inside = umwelt.sh("; ".join(f"readlink /proc/self/ns/{name}" for name in names)).split()
    for name, link in zip(names, inside):
        assert (link == os.readlink(f"/proc/self/ns/{name}")) == (name == "net"), name
    assert umwelt.sh("--network", "none", "readlink /proc/self/ns/net").strip() != os.readlink(
        "/proc/self/ns/net")
    assert umwelt.sh("--network", "none", "ls /sys/class/net") == "lo\n"


TALK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=10)
server.accept()[0].sendall(b"hello")
print(client.recv(5).decode())
"""


def test_without_a_network_a_container_reaches_itself(umwelt):
    assert umwelt.run("--network", "none", "--", "/usr/bin/python3", "-c", TALK) == "hello\n"
    flags = int(umwelt.run("--network", "none", "--", "cat", "/sys/class/net/lo/flags"), 16)
    assert flags == 0x9  # IFF_UP | IFF_LOOPBACK


def test_cgroup_is_its_own(umwelt):
    for line in umwelt.sh("cat /proc/self/cgroup").splitlines():
        assert line.endswith(":/") or "/.." not in line, line


def test_limits_are_in_the_kernel(umwelt):
    with umwelt.detached("--cpuset", CPUS[-1], "--cpus", "0.5", "--memory", "64m",
                         "--memory-swap", "96m", "--pids-limit", "50", "--cpu-shares", "512",
                         "--", "sleep", "600") as name:
        group = f"umwelt/{umwelt.launched(name)['spec']['id']}"

        def value(file):
            for root in HIERARCHIES:
                path = root / group / file
                if path.exists():
                    return path.read_text().strip()
            return None
        assert value("cpuset.cpus") == str(CPUS[-1])
        assert value("pids.max") == "50"
        if has_v1("memory"):
            assert value("memory.limit_in_bytes") == str(64 << 20)
            assert value("memory.memsw.limit_in_bytes") in (str(96 << 20), None)
            assert value("cpu.cfs_quota_us") == "50000"
            assert value("cpu.shares") == "512"
        else:
            assert value("memory.max") == str(64 << 20)
            assert value("memory.swap.max") in (str(32 << 20), None)
            assert value("cpu.max") == "50000 100000"
            assert value("cpu.weight") == "20"


def test_limits_are_found_inside(umwelt):
    inside = umwelt.sh("--memory", "64m", "--cpus", "0.5",
                       "cat /sys/fs/cgroup/memory/memory.limit_in_bytes "
                       "/sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || "
                       "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max").split()
    assert inside[0] == str(64 << 20) and inside[1] == "50000"


def test_capabilities_and_no_new_privileges(umwelt):
    status = umwelt.sh("cat /proc/self/status")
    fields = dict(line.split(":\t") for line in status.splitlines())
    for key in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[key], 16) == int(DOCKER_CAPABILITIES, 16), key
    assert (fields["CapInh"], fields["CapAmb"]) == ("0" * 16, "0" * 16)
    assert fields["NoNewPrivs"] == "1"
    fields = dict(line.split(":\t") for line in umwelt.run(
        "--user", "65534", "--", "cat", "/proc/self/status").splitlines())
    assert (fields["CapPrm"], fields["CapEff"]) == ("0" * 16, "0" * 16)
    assert fields["NoNewPrivs"] == "1"


def test_signals_and_descriptors_are_clean(umwelt):
    with open("/etc/hostname") as leak:
        status, descriptors = umwelt.sh(
            "cat /proc/self/status; echo --; ls /proc/self/fd", pass_fds=[leak.fileno()],
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN)).split("--\n")
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert (fields["SigBlk"], fields["SigIgn"]) == ("0" * 16, "0" * 16)
    assert fields["Umask"] == "0022"
    assert descriptors.split() == ["0", "1", "2", "3"]  # 3: the listed folder itself


def test_environment(umwelt, tmp_path):
    file = tmp_path / "variables"
    file.write_text("\ufeff# comment\nA=file\n  B=x=y\n\nHOME_KEPT\n")
    umwelt.environment["HOME_KEPT"] = "kept"
    text = umwelt.run("-e", "A=1", "--env", "EMPTY=", "-e", "NOT_THERE", "--env-file", file,
                      "-e", "A=2", "--hostname", "box", "--", "env")
    del umwelt.environment["HOME_KEPT"]
    assert dict(line.split("=", 1) for line in text.splitlines()) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
        "HOSTNAME": "box", "A": "2", "B": "x=y", "EMPTY": "", "HOME_KEPT": "kept"}
    file.write_text("export A=1\n")
    refused = umwelt("run", "--rm", "--env-file", file, "--", "true")
    assert refused.returncode == 125 and "'export A=1' is not KEY=value" in refused.stderr


def test_user_of_the_containers_own_passwd(umwelt, rootfs):
    def run(user):
        return umwelt.sh("--rootfs", rootfs, "--user", user, "id -u; id -g; id -G; echo $HOME")
    assert run("app").split() == ["1234", "1235", "1235", "77", "/tmp"]
    assert run("app:77").split() == ["1234", "77", "77", "/tmp"]
    assert run("5:6").split() == ["5", "6", "6", "/"]
    done = umwelt("run", "--rootfs", rootfs, "--user", "daemon", "--", "id")
    assert done.returncode == 125 and "daemon" in done.stderr and done.stderr.count("\n") == 1


def test_a_user_opens_its_pipes_by_name(umwelt):
    script = "head -n 1 /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr"
    user = ["--user", "1234"]
    done = umwelt("run", "--rm", "-i", *user, "--", "sh", "-c", script, input="in\n")
    assert (done.stdout, done.stderr) == ("in\nout\n", "err\n")
    name = umwelt.ok("run", "--detach", *user, "--", "sh", "-c", script).strip()
    assert umwelt.ok("wait", name).strip() == "0"
    done = umwelt("logs", name)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    umwelt.ok("rm", name)
    with umwelt.detached("--", "sleep", "600") as name:
        done = umwelt("exec", "-i", *user, name, "sh", "-c", script, input="in\n")
        assert (done.stdout, done.stderr) == ("in\nout\n", "err\n")


def test_a_file_that_output_goes_to_keeps_its_owner(umwelt, tmp_path):
    with open(tmp_path / "out", "wb") as out:
        umwelt("run", "--rm", "--user", "1234", "--", "echo", "hi", capture_output=False,
               stdout=out)
    assert (tmp_path / "out").read_text() == "hi\n"
    assert os.stat(tmp_path / "out").st_uid == os.geteuid()


def test_workdir(umwelt, rootfs):
    assert umwelt.run("-w", "/usr/lib", "--", "pwd") == "/usr/lib\n"
    assert umwelt.run("--rootfs", rootfs, "-w", "/new/dir", "--", "pwd") == "/new/dir\n"
    assert umwelt.run("--", "pwd") == "/\n"


def test_the_hosts_root_is_never_written(umwelt, tmp_path):
    target = pathlib.Path("/usr/umwelt-test-was-here")
    assert umwelt.sh(f"touch {target} && test -e {target} && rm /etc/passwd && echo done") == (
        "done\n")
    assert not target.exists() and pathlib.Path("/etc/passwd").exists()


def test_it_finds_itself_and_the_hosts_names(umwelt, image):
    names = "cat /etc/hostname; tail -n 1 /etc/hosts; cat /etc/resolv.conf"
    own = ["--hostname", "box"]
    expected = f"box\n127.0.1.1\tbox\n{pathlib.Path('/etc/resolv.conf').read_text()}"
    assert umwelt.sh(*own, names) == expected
    assert umwelt.sh(*own, "getent hosts box").split() == ["127.0.1.1", "box"]
    assert umwelt.sh(*own, "--image", image, names) == expected
    # They are the container's.
    before = pathlib.Path("/etc/hosts").read_bytes()
    assert umwelt.sh("echo 192.0.2.1 there >> /etc/hosts; tail -n 1 /etc/hosts") == (
        "192.0.2.1 there\n")
    assert pathlib.Path("/etc/hosts").read_bytes() == before
    # What the user mounts lies above.
    assert umwelt.sh("-v", "/etc/hosts:/etc/hosts:ro", "cat /etc/hosts").encode() == before


def test_name_files_leave_a_root_filesystem_as_it_is(umwelt, rootfs):
    for name in ("hosts", "resolv.conf"):
        (rootfs / "etc" / name).unlink(missing_ok=True)
    (rootfs / "etc/resolv.conf").symlink_to("../run/nowhere/resolv.conf")
    (rootfs / "etc/hostname").unlink(missing_ok=True)
    (rootfs / "etc/hostname").mkdir()  # as docker leaves it where a source was missing
    seen = umwelt.sh("--rootfs", rootfs,
                     "cat /etc/resolv.conf; test -e /etc/hosts || test -e /run/nowhere || echo none")
    assert seen == f"{pathlib.Path('/etc/resolv.conf').read_text()}none\n"
    assert not (rootfs / "etc/hosts").exists() and (rootfs / "etc/resolv.conf").is_symlink()


def test_without_a_network_it_asks_nobody(umwelt, image):
    seen = umwelt.sh("--network", "none", "--hostname", "box", "--image", image,
                     "cat /etc/hosts; test -s /etc/resolv.conf || echo none")
    assert seen == "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\tbox\nnone\n"


def test_read_only_root(umwelt, rootfs):
    for options in ([], ["--rootfs", rootfs]):
        assert "Read-only" in umwelt.sh(*options, "--read-only", "--tmpfs", "/tmp",
                                        "touch /tmp/a && touch /a 2>&1; echo")
    assert umwelt.sh("--read-only", "(: >> /etc/hosts) 2>/dev/null || echo kept") == "kept\n"
    assert not (rootfs / "a").exists()


def test_a_rootfs_is_written_to(umwelt, rootfs):
    umwelt.sh("--rootfs", rootfs, "echo hi >/written")
    assert (rootfs / "written").read_text() == "hi\n"


def test_mounts(umwelt, rootfs, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    done = umwelt.sh(
        "--rootfs", rootfs, "-v", f"{source}:/data", "-v", f"{source}:/ro:ro",
        "--mount", f"type=bind,source={source}/file,target=/deep/one,readonly",
        "--mount", "type=tmpfs,target=/mem,tmpfs-size=1m,tmpfs-mode=700,readonly=false",
        "--tmpfs", "/mem2:size=2m",
        "cat /data/file /ro/file /deep/one; echo; echo new >/data/new; "
        "touch /ro/x 2>&1; touch /deep/one 2>&1; stat -c %a /mem /mem2; "
        "dd if=/dev/zero of=/mem/big bs=1M count=2 2>&1 | grep -c 'No space'")
    assert done.startswith("texttexttext\n")
    assert done.count("Read-only file system") == 2
    assert done.split()[-3:] == ["700", "1777", "1"]
    assert (source / "new").read_text() == "new\n"


def test_mounts_below_a_source_are_there_and_read_only(umwelt, tmp_path):
    inner = tmp_path / "source/inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        (inner / "file").write_text("x")
        assert "Read-only" in umwelt.sh("-v", f"{tmp_path}/source:/data:ro",
                                        "cat /data/inner/file; touch /data/inner/y 2>&1; echo")
    finally:
        subprocess.run(["umount", inner], check=True)


def test_dev(umwelt):
    listing = umwelt.sh("ls /dev").split()
    assert set(listing) == {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                            "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
    assert umwelt.sh("echo x >/dev/null; head -c3 /dev/zero | od -An -c; : >/dev/shm/x; "
                     "echo out >/dev/stdout; head -c 1 /dev/urandom | wc -c").split() == [
                         "\\0", "\\0", "\\0", "out", "1"]


def test_devices_cannot_be_changed_or_made(umwelt):
    before = os.stat("/dev/null")
    assert umwelt.sh("chmod 600 /dev/null 2>/dev/null || echo no; "
                     "chown 1 /dev/null 2>/dev/null || echo no").split() == ["no", "no"]
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
    for folder in ("/root", "/dev", "/run", "/tmp", "/dev/shm"):
        assert umwelt.sh(f"mknod {folder}/made c 1 5 && head -c1 {folder}/made 2>&1 || true"
                         ).strip().endswith("Permission denied"), folder


def test_masked_and_read_only_paths(umwelt):
    script = ("for f in /proc/kcore /proc/keys /proc/timer_list; do "
              "[ ! -e $f ] || [ $(wc -c <$f) = 0 ] || echo $f shows; done; "
              "for d in /proc/acpi /proc/scsi /sys/firmware; do "
              "[ ! -e $d ] || [ -z \"$(ls $d)\" ] || echo $d shows; done; "
              "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run "
              "/sys/fs/cgroup/memory/memory.limit_in_bytes /proc/irq/default_smp_affinity; do "
              "[ ! -e $f ] || (cat $f >$f) 2>/dev/null && echo $f is written; done; true")
    # `cat a >a` of a file that is absent is no write: the last loop prints only real ones.
    lines = umwelt.sh(script.replace("[ ! -e $f ] || (cat", "[ -e $f ] && (cat")).splitlines()
    assert lines == []


def test_filesystems_in_memory_are_no_larger_than_the_memory(umwelt):
    script = "stat -f -c '%b %S' / /run /tmp/own | while read b s; do echo $((b * s)); done"
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for memory, most in (("64m", 64 << 20), (f"{2 * machine}", machine)):
        sizes = umwelt.sh("--memory", memory, "--tmpfs", "/tmp/own", script).split()
        assert len(sizes) == 3
        assert all(int(size) <= most for size in sizes), sizes


def test_the_memory_of_the_machine_is_not_to_be_seen(umwelt):
    assert umwelt.sh("--memory", "64m", "cat /proc/pagetypeinfo 2>/dev/null; "
                     "ls /sys/devices/system/memory 2>/dev/null; true") == ""


def test_run_has_the_directories_of_the_image(umwelt, rootfs):
    (rootfs / "run/app").mkdir(parents=True)
    os.chown(rootfs / "run/app", 12, 34)
    os.chmod(rootfs / "run/app", 0o750)
    (rootfs / "run/file").write_text("stale")
    assert umwelt.sh("--rootfs", rootfs, "stat -c '%a %u %g' /run/app; ls /run/file 2>&1"
                     " || true").startswith("750 12 34\n")


def test_an_init_reaps_and_passes_signals_on(umwelt):
    # A zombie that nobody reaps stays in /proc.
    assert umwelt.sh("--init", "echo $$; (sleep 0.1 & echo $! > /tmp/orphan; exec true) & wait; "
                     "while [ -e /proc/$(cat /tmp/orphan) ]; do sleep 0.05; done; "
                     "ps -o stat= | grep -c Z || true").split() == ["2", "0"]
    assert umwelt("run", "--rm", "--init", "--", "sh", "-c", "exit 7").returncode == 7
    assert umwelt("run", "--rm", "--init", "--", "no-such-command").returncode == 127
    process = umwelt.start("run", "--rm", "--init", "--", "sh", "-c",
                           "trap 'exit 9' TERM; echo ready; sleep 60 & wait",
                           stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(20 * SLOWNESS) == 9


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_are_forwarded(umwelt, name):
    process = umwelt.start("run", "--rm", "--", "sh", "-c",
                           f"trap 'echo got; exit 5' {name}; echo ready; "
                           "while :; do sleep 0.1; done", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.stdout.readline() == "got\n"
    assert process.wait(20 * SLOWNESS) == 5


def test_an_ignored_signal_is_not_for_the_container(umwelt):
    """As nohup(1) has it, and a shell for a script's background jobs."""
    process = umwelt.start("run", "--rm", "--", "sh", "-c", "trap 'exit 5' HUP; sleep 2; exit 6",
                           preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    time.sleep(1 * SLOWNESS)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20 * SLOWNESS) == 6


def test_a_command_without_a_handler_ends_as_elsewhere(umwelt):
    process = umwelt.start("run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 60",
                           stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20 * SLOWNESS) == 130


@pytest.mark.parametrize("options", [[], ["--init"]])
def test_out_of_memory_is_reported(umwelt, options):
    done = umwelt("run", "--rm", *options, "--memory", "32m", "--", "/usr/bin/python3", "-c",
                  "x = bytearray(200 << 20)")
    assert done.returncode == 137
    assert done.stderr == "umwelt: killed: out of memory (limit 32 MiB); raise --memory\n"


def test_memory_below_what_the_command_needs(umwelt):
    done = umwelt("run", "--rm", "--memory", "4m", "--", "/usr/bin/python3", "-c",
                  "x = bytearray(100 << 20)")
    assert done.returncode in (125, 137)
    assert "memory" in done.stderr and done.stderr.count("\n") == 1, done


def test_pids_limit(umwelt):
    done = umwelt("run", "--rm", "--pids-limit", "3", "--", "sh", "-c",
                  "sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait")
    assert done.returncode != 0 and "fork" in done.stderr.lower()


def test_names_are_taken_once(umwelt):
    with umwelt.detached("--", "sleep", "600") as name:
        done = umwelt("run", "--name", name, "--", "true")
        assert done.returncode == 125
        assert name in done.stderr and done.stderr.count("\n") == 1
    assert umwelt("run", "--rm", "--name", name, "--", "true").returncode == 0


def test_without_rm_it_stays_listed(umwelt):
    assert umwelt("run", "--name", "kept", "--", "sh", "-c", "exit 4").returncode == 4
    state = umwelt.launched("kept")
    assert (state["status"], state["exit_code"]) == ("stopped", 4)
    assert "kept" in umwelt.ok("ps", "--all")
    umwelt.ok("rm", "kept")
    assert umwelt.launched("kept") is None


def test_works_below_a_file_of_odd_mode(umwelt, tmp_path):
    """A script without an interpreter line is no program; the kernel's word is passed on."""
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    script.chmod(stat.S_IRWXU)
    assert umwelt("run", "--rm", "-v", f"{tmp_path}:/x", "--", "/x/script").returncode == 126
