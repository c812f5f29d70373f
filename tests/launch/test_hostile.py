# SPDX-License-Identifier: Apache-2.0
"""Root filesystems and commands that want out."""

import fcntl
import os
import shutil
import subprocess
import sys
import time

import pytest

from umwelt import SLOWNESS, UMWELT

pytestmark = pytest.mark.usefixtures("nothing_left")


def escape(umwelt, rootfs, tmp_path, *options):
    """Runs with a folder of the host that must stay as it is; the image has one of that name."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (rootfs / str(victim)[1:]).mkdir(parents=True)
    done = umwelt("run", "--rm", "--rootfs", rootfs, *options)
    assert list(victim.iterdir()) == []
    return done


def test_symlinks_in_mount_targets_stay_inside(umwelt, rootfs, tmp_path):
    (rootfs / "link").symlink_to(tmp_path / "victim")
    (rootfs / "up").symlink_to("../../../../../.." + str(tmp_path / "victim"))
    done = escape(umwelt, rootfs, tmp_path, "--tmpfs", "/link/a", "--tmpfs", "/up/b", "--",
                  "/bin/sh", "-c", "grep -c tmpfs.*victim /proc/mounts")
    assert done.returncode == 0, done
    assert (rootfs / str(tmp_path / "victim/a")[1:]).is_dir()


def test_workdir_through_symlinks_and_descriptors(umwelt, rootfs, tmp_path):
    (rootfs / "link").symlink_to(tmp_path / "victim")
    done = escape(umwelt, rootfs, tmp_path, "-w", "/link/new", "--", "/bin/pwd")
    assert done.stdout.strip() == str(tmp_path / "victim/new")
    for descriptor in range(3, 16):
        done = umwelt("run", "--rm", "--rootfs", rootfs, "-w", f"/proc/self/fd/{descriptor}",
                      "--", "/bin/pwd")
        assert done.returncode == 125, (descriptor, done)


def test_a_symlink_to_nowhere_is_refused(umwelt, rootfs):
    (rootfs / "link").symlink_to("/nowhere")
    for options in (["--tmpfs", "/link"], ["--tmpfs", "/link/a"], ["-w", "/link"],
                    ["-v", "/etc/hostname:/link"]):
        done = umwelt("run", "--rm", "--rootfs", rootfs, *options, "--", "/bin/true")
        assert done.returncode == 125 and "/link" in done.stderr, done
    assert not (rootfs / "nowhere").exists()


def test_passwd_is_a_way_to_nowhere(umwelt, rootfs):
    for target in ("/proc/self/fd/3", "/proc/1/cwd/etc/passwd", "../../../../etc/passwd"):
        (rootfs / "etc/passwd").unlink()
        (rootfs / "etc/passwd").symlink_to(target)
        done = umwelt("run", "--rm", "--rootfs", rootfs, "--user", "daemon", "--", "/bin/id")
        assert done.returncode == 125 and done.stderr.count("\n") == 1, (target, done)


def test_device_files_of_an_image_do_not_work(umwelt, rootfs):
    os.mknod(rootfs / "zero", 0o20666, os.makedev(1, 5))
    assert "Permission denied" in umwelt.sh("--rootfs", rootfs,
                                            "dd if=/zero count=1 2>&1 || true")


def test_no_host_descriptor_is_open(umwelt, rootfs):
    links = umwelt.sh("--rootfs", rootfs, "for f in /proc/self/fd/* /proc/1/fd/* /proc/1/root "
                      "/proc/1/cwd; do readlink $f; done 2>/dev/null; true").split()
    assert {link for link in links if not link.startswith("pipe:")} <= {"/dev/null", "/"}


# unshare(2), the same of x32, clone(2), clone3(2).
MAKE_CGROUP_NAMESPACES = """
import ctypes, errno, signal
CLONE_NEWCGROUP, CLONE_NEWUSER = 0x02000000, 0x10000000
both = CLONE_NEWUSER | CLONE_NEWCGROUP
libc = ctypes.CDLL(None, use_errno=True)
for number, flags in (272, both), (272 | 0x40000000, both), (56, both | signal.SIGCHLD), (435, 0):
    done = libc.syscall(number, ctypes.c_long(flags), 0, 0, 0, 0)
    print("made" if done >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
"""
MOUNT_CGROUPS = """
unshare --user --map-root-user --mount sh -c 'for type in cgroup2 "cgroup -o cpu"; do
  mount -t $type none /mnt 2> /dev/null && echo mounted; done; echo user namespace'"""


@pytest.mark.parametrize("options", [[], ["--intercept", "off"]])
def test_its_limits_are_out_of_reach(umwelt, options):
    """With a cgroup namespace and a user namespace root could mount its cgroups to be written to."""
    refused = ["EPERM", "EPERM", "EPERM", "ENOSYS"]
    with umwelt.detached(*options, "--", "sleep", "600") as name:
        for start in (["exec", name], ["run", "--rm", *options, "--"]):
            made = umwelt.ok(*start, sys.executable, "-c", MAKE_CGROUP_NAMESPACES)
            assert made.split() == refused
            assert umwelt.ok(*start, "sh", "-c", MOUNT_CGROUPS) == "user namespace\n"


# As long as a launcher runs its file is busy, and only then: what counts is the mount.
PROBE = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
int main(void) {
  DIR* proc = opendir("/proc");
  for (struct dirent* e; (e = readdir(proc)) != NULL;) {
    char path[300], target[256] = "";
    snprintf(path, sizeof path, "/proc/%s/exe", e->d_name);
    if (readlink(path, target, 255) < 0) continue;
    if (strcmp(target, "/") != 0 && strstr(target, "umwelt") == NULL) continue;  // "/": a file's mount
    struct statvfs s;
    if (fstatvfs(open(path, O_PATH), &s) != 0) return 1;
    printf("reached %s\n", s.f_flag & ST_RDONLY ? "read-only" : "writable");
    return open(path, O_WRONLY) < 0 ? 0 : 1;
  }
  return 2;
}
"""


def full_pipe():
    """Whoever writes to it waits: (its end for reading, its end for writing)."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
    return reader, writer


def reach_launcher(umwelt, container, *starting):
    """What a program in the container makes of the launcher, which waits there with its answer."""
    reader, writer = full_pipe()
    process = umwelt.start(*starting, stdout=writer, stderr=writer, stdin=subprocess.DEVNULL)
    os.close(writer)
    try:
        deadline = time.monotonic() + 20 * SLOWNESS
        done = umwelt("exec", container, "/x/probe")
        while done.returncode != 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            done = umwelt("exec", container, "/x/probe")
        return done.returncode, done.stdout
    finally:
        with open(reader, "rb") as stream:
            stream.read()
        process.wait()


@pytest.mark.parametrize("command", ["/x/link", "/x/script"])
def test_the_launchers_own_program_is_out_of_reach(umwelt, tmp_path, command):
    """/proc/PID/exe of a process that was just the launcher (CVE-2019-5736)."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "probe.c").write_text(PROBE)
    subprocess.run(["cc", "-o", tmp_path / "probe", tmp_path / "probe.c"], check=True)
    (tmp_path / "link").symlink_to("/proc/self/exe")
    (tmp_path / "script").write_text("#!/proc/self/exe\n")
    (tmp_path / "script").chmod(0o755)
    before = UMWELT.read_bytes()
    name = f"t{os.getpid()}"
    options = ["-v", f"{tmp_path}:/x", "--name", name]
    reached = reach_launcher(umwelt, name, "run", "--rm", *options, "--", command)
    assert reached == (0, "reached read-only\n")
    with umwelt.detached("-v", f"{tmp_path}:/x", "--", "sleep", "600") as name:
        reached = reach_launcher(umwelt, name, "exec", name, command)
        assert reached == (0, "reached read-only\n")
    assert UMWELT.read_bytes() == before


def test_an_init_shows_nothing_of_the_launcher(umwelt):
    assert umwelt.sh("--init", "readlink /proc/1/exe || echo no; ls /proc/1/fd 2>&1 || true; "
                     "cat /proc/1/maps 2>&1 || true").splitlines()[0] == "no"


@pytest.mark.parametrize("options", [[], ["--tty"]])
def test_an_init_has_no_descriptor_of_the_launcher(umwelt, options, tmp_path):
    """Neither a connection to the daemon, which takes so and so many, nor what it inherited."""
    name = f"t{os.getpid()}"
    with open(tmp_path / "inherited", "w") as inherited:
        umwelt.ok("run", "--detach", "--rm", "--init", *options, "--name", name, "--", "sleep",
                  "600", pass_fds=[inherited.fileno()])
    try:
        descriptors = os.listdir(f"/proc/{umwelt.launched(name)['init_pid']}/fd")
        assert sorted(descriptors) == ["0", "1", "2"]
    finally:
        umwelt("rm", "--force", name)
