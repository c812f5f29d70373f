# SPDX-License-Identifier: Apache-2.0
"""The runtimes as their users call them."""

import json
import os
import pathlib
import subprocess
import tempfile
import time

import machine as machines
from machine import BIN, CPU, SYSTEM_PATH, program, wait_until


def crun_wrapper(folder):
    """crun 1.8 does not start where a hybrid cgroup2 mount is in sight."""
    path = folder / "crun-here"
    if not path.exists():
        hidden = "umount /sys/fs/cgroup/unified;" if os.path.ismount("/sys/fs/cgroup/unified") else ""
        path.write_text(f"#!/bin/sh\nexec unshare -m --propagation private sh -c "
                        f"'{hidden} exec {program('crun')} \"$@\"' sh \"$@\"\n")
        path.chmod(0o755)
    return path


class Bundle:
    """An OCI bundle: one CPU, half its time, 256 MiB."""

    def __init__(self, machine, folder):
        self.machine, self.folder = machine, folder
        machines.make_rootfs(folder / "rootfs")
        subprocess.run([program("runc"), "spec"], cwd=folder, check=True)
        config = json.loads(self.path.read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/sh", "-c", machines.SHOW]
        config["root"]["readonly"] = False
        config["linux"]["namespaces"] = [
            entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
        config["mounts"] = [entry for entry in config["mounts"] if entry["type"] != "cgroup"]
        config["linux"]["resources"] = {
            "memory": {"limit": machines.MEMORY_KIB * 1024},
            "cpu": {"cpus": str(CPU), "quota": 50000, "period": 100000}}
        self.write(config)

    @property
    def path(self):
        return self.folder / "config.json"

    def read(self):
        return json.loads(self.path.read_text())

    def write(self, config):
        self.path.write_text(json.dumps(config, indent=2))

    def command(self, runtime, *arguments):
        real = crun_wrapper(self.machine.folder) if runtime == "crun" else program(runtime)
        return ([BIN / "umwelt-runtime", "--root", self.folder / "state", *arguments],
                {**self.machine.environment, "UMWELT_OCI_RUNTIME": str(real)})

    def run(self, runtime, check=True, name="box", below=()):
        """`below`: a command that executes the rest."""
        command, environment = self.command(runtime, "run", "--bundle", self.folder, name)
        return self.machine.run(*below, *command, env=environment, check=check)


class Docker:
    """dockerd of the distribution with a data root of its own, set up by `umwelt setup docker`."""

    def __init__(self, machine, image):
        self.machine = machine
        folder = self.folder = machine.folder / "docker"
        folder.mkdir()
        self.config = folder / "daemon.json"
        self.config.write_text(json.dumps({
            "data-root": f"{folder}/data", "exec-root": f"{folder}/exec",
            "pidfile": f"{folder}/pid", "hosts": [f"unix://{folder}/sock"], "iptables": False,
            "bridge": "none", "ip-forward": False, "storage-driver": "overlay2"}))
        machine.umwelt("setup", "docker", "--file", self.config)
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([program("dockerd"), "--config-file", self.config],
                                        env=machine.environment, stdout=self.log, stderr=self.log)
        wait_until(lambda: self("info", check=False).returncode == 0, 30, "dockerd's answer")
        with open(image, "rb") as stdin:
            self("import", "-", "box:1", stdin=stdin)

    def __call__(self, *arguments, **options):
        return self.machine.run(program("docker"), "-H", f"unix://{self.folder}/sock", *arguments,
                                **options)

    def start(self, *options, command=("sleep", "600"), limits=True):
        """The name of a container in the background."""
        name = f"t{time.monotonic_ns()}"
        limit = ("-m", "256m", "--cpus", "0.5", "--cpuset-cpus", CPU) if limits else ()
        self("run", "-d", "--name", name, "--network", "none", *limit, *options, "box:1", *command)
        return name

    def stop(self):
        names = self("ps", "-aq", check=False).stdout.split()
        if names:
            self("rm", "-f", *names, check=False)
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()
        for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


class Podman:
    def __init__(self, machine, image, runtime):
        self.machine, folder = machine, machine.folder / f"podman-{runtime}"
        folder.mkdir()
        real = crun_wrapper(folder) if runtime == "crun" else program(runtime)
        machine.umwelt("setup", "podman", "--file", folder / "hooks.d")
        (folder / "containers.conf").write_text(f"""
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
runtime = "{runtime}"
hooks_dir = ["{folder}/hooks.d"]
[engine.runtimes]
{runtime} = ["{real}"]
""")
        self.folder = folder
        self("import", image, "box:1")

    def __call__(self, *arguments, **options):
        environment = {**self.machine.environment,
                       "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        return self.machine.run(
            program("podman"), "--root", self.folder / "root", "--runroot", self.folder / "runroot",
            "--storage-driver", "overlay", *arguments, env=environment, **options)

    def stop(self):
        self("rm", "-af", "-t", "0", check=False)
        self.machine.umwelt("setup", "podman", "--undo", check=False)
        for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


class Containerd:
    """containerd of the distribution, with CRI in the host's network. It has the image "box:1", and
    "pause:1" for pods."""

    def __init__(self, machine, image):
        self.machine = machine
        folder = self.folder = pathlib.Path(
            tempfile.mkdtemp(prefix="containerd-", dir=machine.folder))
        config = folder / "config.toml"
        config.write_text(f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/sock"
[ttrpc]
  address = "{folder}/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  disable_apparmor = true
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""")
        machine.umwelt("setup", "containerd", "--file", config)
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            [program("containerd"), "--config", config], stdout=self.log, stderr=self.log,
            env={**machine.environment, "PATH": f"{machine.state}/runtimes:{SYSTEM_PATH}"})
        wait_until(lambda: self("version", check=False).returncode == 0, 30, "containerd's answer")
        # What the kubelet sees is in a namespace of its own.
        for namespace, name, command in (("default", "box", ["sh"]), ("k8s.io", "box", ["sh"]),
                                         ("k8s.io", "pause", ["sleep", "100000"])):
            self("-n", namespace, "image", "import", self._docker_archive(image, name, command))

    @property
    def socket(self):
        return self.folder / "sock"

    def _docker_archive(self, image, name, command):
        """What ctr imports: an image in docker's layout."""
        import hashlib
        import io
        import tarfile
        layer = pathlib.Path(image).read_bytes()
        config = json.dumps({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/sbin:/bin"]},
            "rootfs": {"type": "layers",
                       "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}).encode()
        file = hashlib.sha256(config).hexdigest() + ".json"
        manifest = json.dumps([{"Config": file, "RepoTags": [f"docker.io/library/{name}:1"],
                                "Layers": ["layer.tar"]}]).encode()
        path = self.folder / "archive.tar"
        with tarfile.open(path, "w") as archive:
            for member, data in ((file, config), ("layer.tar", layer), ("manifest.json", manifest)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    def __call__(self, *arguments, **options):
        return self.machine.run(program("ctr"), "-a", self.socket, *arguments, **options)

    def stop(self):
        for task in self("tasks", "ls", "-q", check=False).stdout.split():
            self("tasks", "kill", "-s", "9", task, check=False)
            self("tasks", "rm", "-f", task, check=False)
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()
        self.machine.umwelt("setup", "containerd", "--undo", check=False)
        for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
