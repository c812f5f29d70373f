#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How long it takes to start a container, run /bin/true in it and tidy up: umwelt beside others.

Each launcher has a worker process that starts it again and again; the rounds go over all of them
in random order, so that whatever else the machine does meets all alike. They run one right after
the other, and then with a pause before each: to move a process between cgroups takes the kernel an
RCU grace period, unless another one has just been moved. All run a static busybox
in the same root filesystem, without network set-up. crun runs it a second time with nine files of
the shared tree bound over the kernel's, as those who have no launcher of their own do it.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

UNIFIED = "/sys/fs/cgroup/unified"
PAUSES_S = (0, 0.3)
BOUND = ["proc/cpuinfo", "proc/diskstats", "proc/loadavg", "proc/meminfo", "proc/slabinfo",
         "proc/stat", "proc/swaps", "proc/uptime", "sys/devices/system/cpu"]


def make_rootfs(folder):
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for name in ("sh", "true"):
        (folder / "bin" / name).symlink_to("busybox")


def make_bundle(bundle, rootfs, bound=None):
    """`bound`: a tree whose files are bound over the kernel's."""
    bundle.mkdir()
    subprocess.run(["runc", "spec", "-b", bundle], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=["/bin/true"], terminal=False)
    config["root"] = {"path": str(rootfs), "readonly": True}
    config["linux"]["resources"]["memory"] = {"limit": 256 << 20}
    if bound:
        config["mounts"] += [{"destination": f"/{file}", "source": f"{bound}/{file}",
                              "type": "bind", "options": ["bind", "ro"]} for file in BOUND]
    (bundle / "config.json").write_text(json.dumps(config))


def launchers(folder, umwelt):
    """name -> command; "{n}" becomes the number of the run, for names."""
    rootfs = folder / "rootfs"
    make_rootfs(rootfs)
    make_bundle(folder / "bundle", rootfs)
    make_bundle(folder / "bound", rootfs, folder / "state")
    root = str(rootfs)
    bundle = str(folder / "bundle")
    commands = {
        "unshare and chroot": ["unshare", "-mpuinf", "chroot", root, "/bin/true"],
        "bwrap": ["bwrap", "--unshare-all", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev",
                  "--ro-bind", "/sys", "/sys", "/bin/true"],
        "crun": ["crun", "--root", f"{folder}/crun", "run", "-b", bundle, "bench{n}"],
        "crun, nine files bound": ["crun", "--root", f"{folder}/crun", "run", "-b",
                                   f"{folder}/bound", "bench{n}"],
        "runc": ["runc", "--root", f"{folder}/runc", "run", "-b", bundle, "bench{n}"],
        "umwelt run --rootfs": [umwelt, "run", "--rm", "--memory", "256M", "--network", "none",
                                "--rootfs", root, "--", "/bin/true"],
        "umwelt run (host's root)": [umwelt, "run", "--rm", "--memory", "256M", "--network", "none",
                                     "--", "/bin/true"],
    }
    return {name: command for name, command in commands.items() if shutil.which(command[0])}


class Worker:
    """A process that runs one launcher; crun's hides the unified hierarchy, which it refuses."""

    def __init__(self, name, command):
        self.name = name
        argv = [sys.executable, __file__, "--worker", *command]
        if name.startswith("crun") and os.path.ismount(UNIFIED):
            argv = ["unshare", "-m", "--propagation", "private", "sh", "-c",
                    f'umount {UNIFIED}; exec "$@"', "sh", *argv]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.strip().isdigit():
            raise SystemExit(f"launch: {self.name} failed: {answer.strip()}")
        return int(answer) / 1e6

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def work(command):
    """Answers each line of stdin with the nanoseconds of one run, or with what went wrong."""
    with tempfile.TemporaryFile() as errors:
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                 (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                 (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)]
        for number, _ in enumerate(sys.stdin):
            argv = [word.replace("{n}", f"-{os.getpid()}-{number}") for word in command]
            started = time.monotonic_ns()
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=files)
            _, status = os.waitpid(pid, 0)
            took = time.monotonic_ns() - started
            if status != 0:
                errors.seek(0)
                took = " ".join(errors.read().decode(errors="replace").split()) or f"{status:#x}"
            print(took, flush=True)


def measure(umwelt, rounds):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-bench."))
    environment = {"UMWELT_RUNTIME_DIR": f"{folder}/run", "UMWELT_STATE_DIR": f"{folder}/state"}
    os.environ.update(environment)
    workers = []
    try:
        subprocess.run([umwelt, "daemon", "start"], check=True, stdout=subprocess.DEVNULL)
        workers += [Worker(*item) for item in launchers(folder, umwelt).items()]
        times = {worker.name: {pause: [] for pause in PAUSES_S} for worker in workers}
        for pause in PAUSES_S:
            for number in range(rounds + 3):
                for worker in random.sample(workers, len(workers)):
                    time.sleep(pause)
                    took = worker.run()
                    if number >= 3:  # the first ones warm up
                        times[worker.name][pause].append(took)
    finally:
        for worker in workers:
            worker.close()
        subprocess.run([umwelt, "daemon", "stop"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    return times


def table(times):
    lines = ["| launcher | median, ms | p10 | p90 | after a pause: median | p10 | p90 |",
             "| --- |" + " ---: |" * 3 * len(PAUSES_S)]
    for name, by_pause in times.items():
        cells = []
        for values in by_pause.values():
            deciles = statistics.quantiles(values, n=10)
            cells += [statistics.median(values), deciles[0], deciles[-1]]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return "\n".join(lines)


def main():
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--umwelt", required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=pathlib.Path, help="write every time to this file")
    arguments = parser.parse_args()
    times = measure(arguments.umwelt, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(times, indent=1))
    print(table(times))
    return None


if __name__ == "__main__":
    sys.exit(main())
