# SPDX-License-Identifier: Apache-2.0
"""In the test VM: a node with systemd, and the DaemonSet's pod on it, with the commands of the
manifest, in a cgroup, a mount namespace and a root filesystem of its own. The pod is killed and made
again while a container reads. Prints what it saw as JSON.

    kubernetes_node.py MANIFEST DEB...
"""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import yaml
from systemd_unit import ENVIRONMENT, MEMORY_KIB, Systemd, report_of, run, say, wait_until

REPLACED = 3
UMWELT = "/opt/umwelt/bin/umwelt"
CONTAINERD = pathlib.Path("/etc/containerd/config.toml")
# The image's files are those of the packages; the rest of its Debian is the node's.
POD = r"""
echo $$ > "/sys/fs/cgroup/pod/cgroup.procs"
mount -t overlay pod -o lowerdir=/image:/ /pod
mount --rbind / /pod/host
for folder in proc sys dev; do mount --rbind /$folder /pod/$folder; done
exec chroot /pod "$@"
"""


def make_image(debs):
    for folder in ("/image", "/pod"):
        pathlib.Path(folder).mkdir()
    run("mount", "-t", "tmpfs", "image", "/image")  # an overlay's layers must not overlap
    for deb in debs:
        run("dpkg-deb", "-x", deb, "/image")
    shutil.copytree("/image/lib", "/image/usr/lib", dirs_exist_ok=True)  # /lib is a link
    shutil.rmtree("/image/lib")
    pathlib.Path("/image/host").mkdir()


class Pod:
    cgroup = pathlib.Path("/sys/fs/cgroup/pod")

    def __init__(self, systemd, manifest):
        self.systemd = systemd
        documents = yaml.safe_load_all(manifest.read_text())
        daemon_set = next(each for each in documents if each["kind"] == "DaemonSet")
        self.spec = daemon_set["spec"]["template"]["spec"]
        self.main = None

    def command(self, words, environment=()):
        return [str(word) for word in self.systemd.command(
            "unshare", "-m", "env", *(f"{each['name']}={each['value']}" for each in environment),
            "sh", "-ec", POD, "sh", *words)]

    def start(self):
        self.cgroup.mkdir()
        for container in self.spec["initContainers"]:
            run(*self.command(container["command"], container["env"]))
        container = self.spec["containers"][0]
        self.main = subprocess.Popen(self.command(container["command"], container["env"]),
                                     env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        run(*self.command(container["readinessProbe"]["exec"]["command"]))

    def start_broken(self):
        """The exit code and last words of a new version whose daemon does not start."""
        self.kill()
        daemon = pathlib.Path("/image/usr/sbin/umweltd")
        good = daemon.rename("/image/umweltd")
        daemon.write_text("#!/bin/sh\nexit 1\n")
        daemon.chmod(0o755)
        self.cgroup.mkdir()
        container = self.spec["initContainers"][0]
        done = subprocess.run(self.command(container["command"], container["env"]), text=True,
                              env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=300)
        good.rename(daemon)
        self.cgroup.rmdir()
        self.start()
        return done.returncode, done.stderr.strip().splitlines()[-1]

    def remove(self):
        """What the script says, and its exit code."""
        done = subprocess.run(self.command(["sh", "/usr/share/umwelt/remove-from-host"]),
                              env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=300)
        return done.stderr, done.returncode

    def kill(self):
        """As the kubelet: whatever is in its cgroup."""
        assert self.main.poll() is None
        (self.cgroup / "cgroup.kill").write_text("1")
        self.main.wait(timeout=60)
        wait_until(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text(), "its end")
        self.cgroup.rmdir()


def main(manifest, debs):
    make_image(debs)
    assert shutil.which("umwelt") is None, "the node itself must have no packages"
    before = CONTAINERD.read_bytes() if CONTAINERD.exists() else None
    systemd = Systemd("-.slice")
    say("the node is up")
    pod = Pod(systemd, manifest)
    pod.start()
    say("the pod is ready")
    report = {"state": systemd.show("ActiveState"), "servers": []}
    report["set_up"] = UMWELT in CONTAINERD.read_text()
    systemd.run(UMWELT, "run", "--detach", "--name", "box", "--cpuset-cpus", "1", "--memory",
                f"{MEMORY_KIB}K", "--", "sleep", "100000")
    readers = systemd.readers(json.loads(systemd.run(UMWELT, "inspect", "box"))[0]["launched"]["init_pid"])
    say("readers read")

    def server():
        return json.loads(systemd.run(UMWELT, "daemon", "status", "--json"))["server"]

    report["servers"].append(server())
    for turn in range(REPLACED):
        pod.kill()
        time.sleep(1)
        assert server() == report["servers"][-1], "the daemon was killed with the pod"
        pod.start()
        report["servers"].append(server())
        say(f"pod {turn + 1} replaced")
    report["broken"] = pod.start_broken()
    report["servers"].append(server())
    say("a broken one did not take over, and the next one did")
    report["refused"] = pod.remove()
    report["readers"] = report_of(readers)
    say("readers ended")
    systemd.run(UMWELT, "rm", "--force", "box")
    report["removed"] = [*pod.remove(), systemd.show("ActiveState")]
    report["left"] = [str(path) for path in (
        pathlib.Path("/opt/umwelt"), pathlib.Path("/etc/systemd/system/umweltd.service"),
        pathlib.Path("/etc/systemd/system/multi-user.target.wants/umweltd.service"))
        if path.is_symlink() or path.exists()]
    report["left"] += [line for line in
                       pathlib.Path(f"/proc/{systemd.pid}/mountinfo").read_text().splitlines()
                       if " fuse.umwelt " in line]
    report["containerd_as_before"] = before == (
        CONTAINERD.read_bytes() if CONTAINERD.exists() else None)
    pod.kill()
    systemd.stop()
    print(json.dumps(report))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
