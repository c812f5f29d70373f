#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a vdisk costs beside plain overlay on the same host directory, which has no limit.

Everything that is compared is measured in turns within one run, and the ratios are of one round;
shown is their median. --host makes an ext4, XFS or btrfs of its own to measure on (the vdisks are
then loop devices on a loop device); without it the directory of --directory is used.
"""

import argparse
import contextlib
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

MIB = 1 << 20
WRITE_SPEED = pathlib.Path(__file__).resolve().parents[1] / "tests/launch/programs/write_speed.py"


def sh(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True,
                          **options).stdout


def median(values):
    return statistics.median(values) if values else float("nan")


def make_image(folder, mib):
    """A static busybox and files of all sizes, as images have them."""
    rng = random.Random(mib)
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr/share"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for name in ("sh", "true", "cat", "dd", "sleep"):
        (folder / "bin" / name).symlink_to("busybox")
    left, number = mib * MIB, 0
    while left > 0:
        size = min(left, int(rng.lognormvariate(10, 2)) + 1)
        path = folder / "usr/share" / str(number % 100) / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(size))
        left, number = left - size, number + 1
    return folder


@contextlib.contextmanager
def host_filesystem(kind, folder):
    if kind is None:
        yield folder
        return
    backing, point = folder / "host.backing", folder / "host"
    point.mkdir()
    # Written out: holes would be allocated while we measure.
    sh("fallocate", "-l", "12G", backing)
    quiet = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}[kind]
    sh(f"mkfs.{kind}", *quiet, backing)
    device = sh("losetup", "--find", "--show", "--direct-io=on", backing).strip()
    try:
        sh("mount", device, point)
        try:
            yield point
        finally:
            sh("umount", point)
    finally:
        sh("losetup", "--detach", device)
        backing.unlink()


class Umwelt:
    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.environment = {**os.environ, "UMWELT_RUNTIME_DIR": str(folder / "run"),
                            "UMWELT_STATE_DIR": str(folder / "state"),
                            "UMWELT_CONFIG": str(folder / "umwelt.toml")}

    def __call__(self, *arguments):
        return sh(self.program, *arguments, env=self.environment)

    def popen(self, *arguments, stdout=subprocess.DEVNULL):
        return subprocess.Popen([self.program, *map(str, arguments)], env=self.environment,
                                stdout=stdout)

    def configure(self, text):
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run([self.program, "daemon", "stop", "--force"], env=self.environment,
                           stderr=subprocess.DEVNULL)
        (self.folder / "umwelt.toml").write_text(text)
        self("daemon", "start")


# --- the parts ------------------------------------------------------------------------------------

def creation(args, folder, mib):
    source = make_image(folder / f"image-{mib}", mib)
    out = json.loads(sh(args.create, "--directory", folder / f"create-{mib}", "--source", source,
                        "--rounds", args.rounds, "--copies", 3))
    shutil.rmtree(source)
    shutil.rmtree(folder / f"create-{mib}", ignore_errors=True)
    rounds = out["rounds"]
    result = {"image_mib": mib, "ms": {}, "ratios": {}}
    for way in ("plain", "pool", "template", "tools", "full copy"):
        result["ms"][way] = median([r[way] for r in rounds if way in r])
    for name, above, below in (("pool to plain", "pool", "plain"),
                               ("tools to template", "tools", "template"),
                               ("full copy to template", "full copy", "template")):
        result["ratios"][name] = median([r[above] / r[below] for r in rounds
                                         if above in r and below in r])
    return result


UNIFIED = "/sys/fs/cgroup/unified"


class Shell:
    """Runs one command after the other. crun refuses a hybrid cgroup hierarchy: it gets to see v1
    alone."""

    def __init__(self, environment, hide_unified):
        start = f"umount {UNIFIED}; " if hide_unified and os.path.ismount(UNIFIED) else ""
        loop = 'while read -r c; do eval "$c" </dev/null >/dev/null 2>&1; echo $?; done'
        self.process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "slave", "sh", "-c", start + loop],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ms(self, command):
        start = time.perf_counter()
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        if self.process.stdout.readline().strip() != "0":
            raise SystemExit(f"failed: {command}")
        return (time.perf_counter() - start) * 1000

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def starts(args, folder, umwelt):
    """umwelt run --image --disk beside crun on a plain overlay; see bench/launch.py for `apart`."""
    rootfs = make_image(folder / "start-image", 16)
    umwelt("image", "import", "--name", "start", rootfs)
    umwelt.configure('[disk]\nready = 4\nready_size = "1g"\n')
    bundle, merged = folder / "bundle", folder / "merged"
    for name in ("bundle", "merged", "upper", "work"):
        (folder / name).mkdir()
    sh("runc", "spec", "-b", bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=["/bin/true"], terminal=False)
    config["root"] = {"path": str(merged), "readonly": False}
    (bundle / "config.json").write_text(json.dumps(config))
    sh("mount", "-t", "overlay", "overlay", "-o",
       f"lowerdir={rootfs},upperdir={folder}/upper,workdir={folder}/work", merged)
    run = f"{umwelt.program} run --rm --network none --image start"
    commands = {
        "crun, overlay": f"crun --root {folder}/crun run -b {bundle} bench{{n}}",
        "umwelt run --image": f"{run} -- /bin/true",
        "umwelt run --image --disk 1g": f"{run} --disk 1g -- /bin/true"}
    shells = {name: Shell(umwelt.environment, name.startswith("crun")) for name in commands}
    ms = {pause: {name: [] for name in commands} for pause in (0, 0.3)}
    try:
        for pause in ms:
            for n in range(args.rounds + 2):
                for name in random.sample(list(commands), len(commands)):
                    time.sleep(pause)
                    while len(os.listdir(folder / "state/vdisks/.ready")) < 4:
                        time.sleep(0.01)
                    ms[pause][name].append(shells[name].ms(commands[name].format(n=f"{pause}-{n}")))
    finally:
        for shell in shells.values():
            shell.close()
        sh("umount", merged)
    umwelt.configure("")
    umwelt("image", "rm", "start")
    crun, _, disk = commands
    less = {pause: [a - b for a, b in zip(runs[disk], runs[crun])] for pause, runs in ms.items()}
    return {**{f"ms, {pause} s apart": {name: median(values[2:]) for name, values in runs.items()}
               for pause, runs in ms.items()},
            "umwelt --disk less crun, ms": {f"{p} s apart": median(v[2:]) for p, v in less.items()}}


FIO = {
    "sequential write, buffered": ["--rw=write", "--bs=1M", "--size=512M", "--end_fsync=1"],
    "sequential read, cold": ["--rw=read", "--bs=1M", "--size=512M"],
    "random write 4k, depth 16": ["--rw=randwrite", "--bs=4k", "--size=256M", "--direct=1",
                                  "--ioengine=libaio", "--iodepth=16", "--runtime=3",
                                  "--time_based"],
    "random read 4k, depth 16": ["--rw=randread", "--bs=4k", "--size=256M", "--direct=1",
                                 "--ioengine=libaio", "--iodepth=16", "--runtime=3",
                                 "--time_based"],
    "write 4k + fdatasync": ["--rw=randwrite", "--bs=4k", "--size=64M", "--fdatasync=1",
                             "--runtime=3", "--time_based"],
}


def fio(directory, options):
    # The file is there before the clock runs, and not in memory.
    sh("fio", "--name=f", f"--directory={directory}", "--create_only=1",
       *[o for o in options if o.startswith(("--rw", "--bs", "--size"))])
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    out = json.loads(sh("fio", "--name=f", f"--directory={directory}", "--output-format=json",
                        *options))
    job = out["jobs"][0]
    for path in pathlib.Path(directory).glob("f.*"):
        path.unlink()
    return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / MIB


def root_of(umwelt, name):
    """The root directory of a container as the host sees it."""
    state = json.loads(umwelt("inspect", name))[0]["launched"]
    return pathlib.Path("/proc", str(state["init_pid"]), "root")


@contextlib.contextmanager
def running(umwelt, name, *options):
    """The root directory of a container as long as the block."""
    umwelt("run", "--detach", "--name", name, *options, "--", "/bin/sleep", "1000000")
    try:
        yield root_of(umwelt, name)
    finally:
        umwelt("rm", "--force", name)


def throughput(args, folder, umwelt):
    """fio on the host, in a container's root filesystem, beside plain overlay."""
    rootfs = make_image(folder / "fio-image", 16)
    umwelt("image", "import", "--name", "fio", rootfs)
    merged = folder / "merged-fio"
    for name in ("upper-fio", "work-fio", "merged-fio"):
        (folder / name).mkdir()
    sh("mount", "-t", "overlay", "overlay", "-o",
       f"lowerdir={rootfs},upperdir={folder}/upper-fio,workdir={folder}/work-fio", merged)
    results = {job: {} for job in FIO}
    try:
        with contextlib.ExitStack() as stack:
            places = {"plain overlay": merged / "tmp"}
            for kind in ("thin", "guaranteed"):
                root = stack.enter_context(running(umwelt, f"fio-{kind}", "--image", "fio",
                                                   "--disk", "2g", "--disk-class", kind))
                places[kind] = root / "usr"
            for job, options in FIO.items():
                rounds = []
                for _ in range(args.fio_rounds):
                    one = {}
                    for place in random.sample(list(places), len(places)):
                        one[place] = fio(places[place], options)
                    rounds.append(one)
                results[job] = {
                    "mib_s": {p: median([r[p] for r in rounds]) for p in places},
                    "ratios": {p: median([r[p] / r["plain overlay"] for r in rounds])
                               for p in places if p != "plain overlay"}}
    finally:
        sh("umount", merged)
    umwelt("image", "rm", "fio")
    return results


def page_cache():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Cached:")).split()[1]
               ) / 1024


def density(args, folder, umwelt):
    """Containers from one image, made by 8 workers; and the page cache of 20 that read it all."""
    rootfs = make_image(folder / "dense-image", 200)
    umwelt("image", "import", "--name", "dense", rootfs)
    shutil.rmtree(rootfs)
    names = [f"dense-{i}" for i in range(args.containers)]
    start = time.perf_counter()
    queue, failed = list(names), 0
    workers = []
    while queue or workers:
        while queue and len(workers) < 8:
            workers.append(umwelt.popen("run", "--detach", "--name", queue.pop(), "--image", "dense",
                                        "--disk", "1g", "--", "/bin/sleep", "1000000"))
        for worker in [w for w in workers if w.poll() is not None]:
            failed += worker.returncode != 0
            workers.remove(worker)
        time.sleep(0.005)
    spent = time.perf_counter() - start
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    before = page_cache()
    for name in names[:20]:
        umwelt("exec", name, "/bin/sh", "-c", "cat $(/bin/busybox find /usr -type f) > /dev/null")
    cached = page_cache() - before
    umwelt("rm", "--force", *names)
    umwelt("image", "rm", "dense")
    return {"containers": args.containers, "seconds": spent, "failed": failed,
            "image_mib": 200, "page cache of 20 that read it all, MiB": cached}


def destruction(args, folder, umwelt):
    """10,000 small files and 512 MiB that nobody has synced."""
    rootfs = make_image(folder / "end-image", 4)
    umwelt("image", "import", "--name", "end", rootfs)
    fill = ("import os, sys\n"
            "d = sys.argv[1]\n"
            "for i in range(10000):\n"
            "    os.makedirs(f'{d}/{i % 100}', exist_ok=True)\n"
            "    open(f'{d}/{i % 100}/{i}', 'w').write('x' * 1000)\n"
            "with open(f'{d}/big', 'wb') as f:\n"
            "    for i in range(512): f.write(os.urandom(1 << 20))\n")
    times = []
    for n in range(5):
        os.sync()
        merged, upper, work = folder / "merged-end", folder / "upper-end", folder / "work-end"
        for path in (merged, upper, work):
            path.mkdir()
        sh("mount", "-t", "overlay", "overlay", "-o",
           f"lowerdir={rootfs},upperdir={upper},workdir={work}", merged)
        sh(sys.executable, "-c", fill, merged)
        start = time.perf_counter()
        sh("umount", merged)
        sh("rm", "-rf", upper, work)
        plain = time.perf_counter() - start
        merged.rmdir()
        os.sync()
        loops = len(list(pathlib.Path("/sys/block").glob("loop*/loop")))
        umwelt("run", "--detach", "--name", "end", "--image", "end", "--disk", "2g", "--",
               "/bin/sleep", "1000000")
        sh(sys.executable, "-c", fill, root_of(umwelt, "end") / "usr")
        start = time.perf_counter()
        umwelt("rm", "--force", "end")
        while len(list(pathlib.Path("/sys/block").glob("loop*/loop"))) > loops:
            time.sleep(0.001)
        vdisk = time.perf_counter() - start
        times.append((plain * 1000, vdisk * 1000))
    umwelt("image", "rm", "end")
    return {"umount and rm -rf, ms": median([plain for plain, _ in times]),
            "umwelt rm --force, loop device gone, ms": median([vdisk for _, vdisk in times]),
            "ratio": median([plain / vdisk for plain, vdisk in times])}


@contextlib.contextmanager
def volume(umwelt, name, *options):
    umwelt("volume", "create", name, "--size", "512m", *options)
    try:
        yield
    finally:
        umwelt("volume", "rm", name)


def speed_limit(args, folder, umwelt):
    """Writers on a volume that is limited to 10 MiB/s; and a neighbour's fsync beside them."""
    ways = {"direct": 0, "buffered": 32, "mmap": 32}  # and the MiB that only fill the page cache
    slow = ("/usr/bin/python3", str(WRITE_SPEED))
    sync = ("fio", "--name=f", "--directory=/data", "--rw=write", "--bs=4k", "--size=4m",
            "--fsync=1", "--time_based", "--runtime=4", "--output-format=json")

    def neighbour():
        with volume(umwelt, "near"):
            out = json.loads(umwelt("run", "-v", "near:/data", "--", *sync))
        return out["jobs"][0]["sync"]["lat_ns"]["percentile"]

    speeds, rounds = {way: [] for way in ways}, []
    for _ in range(args.speed_rounds):
        one = {}
        for way in random.sample([None, *ways], len(ways) + 1):
            if way is None:
                one[way] = neighbour()
                continue
            with volume(umwelt, "slow", "--write-bps", "10m"):
                writer = umwelt.popen("run", "-v", "slow:/data", "--", *slow, way, ways[way], 120,
                                      stdout=subprocess.PIPE)
                time.sleep(2)
                one[way] = neighbour()
                speeds[way].append(float(writer.communicate()[0]))
        rounds.append(one)
    return {"MiB/s of 10": {way: median(speeds[way]) for way in ways},
            **{f"a neighbour's fsync, p{p}, to that without the writer": {
                way: median([r[way][f"{p}.000000"] / r[None][f"{p}.000000"] for r in rounds])
                for way in ways} for p in (50, 99)},
            "a neighbour's fsync without the writer, ms": {
                f"p{p}": median([r[None][f"{p}.000000"] / 1e6 for r in rounds]) for p in (50, 99)}}


# --- report ---------------------------------------------------------------------------------------

def report(results):
    for part, result in results.items():
        print(f"\n## {part}\n")
        if part == "throughput":
            print("| fio | plain overlay MiB/s | thin | guaranteed | thin / plain | "
                  "guaranteed / plain |\n| --- | ---: | ---: | ---: | ---: | ---: |")
            for job, r in result.items():
                s, q = r["mib_s"], r["ratios"]
                print(f"| {job} | {s['plain overlay']:.1f} | {s['thin']:.1f} | "
                      f"{s['guaranteed']:.1f} | {q['thin']:.2f} | {q['guaranteed']:.2f} |")
            continue
        for key, value in result.items():
            if isinstance(value, dict):
                print("\n".join(f"- {key}, {k}: {v:.2f}" for k, v in value.items()))
            else:
                print(f"- {key}: {value:.2f}" if isinstance(value, float) else f"- {key}: {value}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--umwelt", required=True)
    parser.add_argument("--create", required=True, help="bench_vdisk")
    parser.add_argument("--directory", default="/var/tmp")
    parser.add_argument("--host", choices=("ext4", "xfs", "btrfs"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fio-rounds", type=int, default=3)
    parser.add_argument("--speed-rounds", type=int, default=3)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--large-mib", type=int, default=1800, help="0: no large image")
    parser.add_argument("--parts", default="creation,starts,throughput,density,destruction,"
                                           "speed_limit")
    parser.add_argument("--json")
    args = parser.parse_args()
    parts = args.parts.split(",")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-bench-", dir=args.directory))
    results = {}
    try:
        with host_filesystem(args.host, folder) as host:
            umwelt = Umwelt(args.umwelt, host)
            umwelt.configure("")
            try:
                if "creation" in parts:
                    for mib in [250] + ([args.large_mib] if args.large_mib else []):
                        results[f"creation, image of {mib} MiB"] = creation(args, host, mib)
                for part in (starts, throughput, density, destruction, speed_limit):
                    if part.__name__ in parts:
                        results[part.__name__] = part(args, host, umwelt)
            finally:
                umwelt("daemon", "stop", "--force")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"On {args.host or 'the directory ' + args.directory}, {os.cpu_count()} CPUs, load "
          f"{os.getloadavg()[0]:.1f}")
    report(results)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
