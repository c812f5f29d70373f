# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of everything that serves files while docker containers run, and a start of it again: how
many containers read right values then, without a restart of any. umwelt beside lxcfs."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/runtimes"))
COUNT = 10
PATIENCE_S = 2  # after the new start
FILES = ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps")


def right(docker, name, kib):
    """Whether every file can be read, and meminfo has the container's limit."""
    done = docker("exec", name, "cat", *[f"/proc/{file}" for file in FILES], check=False)
    total = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("MemTotal:")]
    return done.returncode == 0 and total == [str(kib)]


def start_lxcfs(folder):
    process = subprocess.Popen([shutil.which("lxcfs"), "-f", "-l", "-p", folder.parent / "lxcfs.pid",
                                folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (folder / "proc/meminfo").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def main():
    import engines
    import machine as machines

    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-crash-"))
    machine = machines.Machine(folder)
    image = folder / "image.tar"
    machines.make_rootfs(folder / "rootfs")
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", image, "."], check=True)
    docker = engines.Docker(machine, image)
    lxcfs = folder / "lxcfs"
    lxcfs.mkdir()
    rows = []
    served = None
    try:
        names = [docker.start() for _ in range(COUNT)]
        before = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        machine.kill()
        down = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        machine.start()
        time.sleep(PATIENCE_S)
        after = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        rows.append(("umwelt", before, down, after))
        docker("rm", "-f", *names)

        served = start_lxcfs(lxcfs)
        volumes = [word for file in FILES
                   for word in ("-v", f"{lxcfs}/proc/{file}:/proc/{file}:rw")]
        names = [docker.start("--runtime", "runc", *volumes) for _ in range(COUNT)]
        before = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        served.send_signal(signal.SIGKILL)
        served.wait()
        down = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        subprocess.run(["umount", "-l", lxcfs], check=False)
        served = start_lxcfs(lxcfs)
        time.sleep(PATIENCE_S)
        after = sum(right(docker, name, machines.MEMORY_KIB) for name in names)
        rows.append(("lxcfs", before, down, after))
        docker("rm", "-f", *names)
    finally:
        if served is not None:
            served.terminate()
            served.wait()
        subprocess.run(["umount", "-l", lxcfs], check=False, stderr=subprocess.DEVNULL)
        docker.stop()
        machine.clean_up()
        shutil.rmtree(folder)
    print(f"| containers of {COUNT} that read right values | before | killed | started again |")
    print("| --- | ---: | ---: | ---: |")
    for row in rows:
        print("| {} | {} | {} | {} |".format(*row))


if __name__ == "__main__":
    main()
