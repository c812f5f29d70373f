# SPDX-License-Identifier: Apache-2.0
"""What umwelt adds to the start of a container: runs of a bundle with runc and crun, with and
without, in random order within each round."""

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

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/runtimes"))
UNIFIED = "/sys/fs/cgroup/unified"


def private():
    """In a mount namespace of our own, without what crun 1.8 stumbles over on a hybrid machine."""
    if os.environ.get("UMWELT_BENCH_PRIVATE"):
        return
    hide = f"umount {UNIFIED};" if os.path.ismount(UNIFIED) else ""
    os.environ["UMWELT_BENCH_PRIVATE"] = "1"
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", "sh", "-c",
                          f'{hide} exec "$@"', "sh", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    private()
    import engines
    import machine as machines

    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-start-"))
    machine = machines.Machine(folder)
    variants = {}
    for runtime in ("runc", "crun"):
        real = machines.program(runtime)
        if real is None:
            continue
        for name, command in ((f"{runtime}", [real]),
                              (f"{runtime} + umwelt", [machines.BIN / "umwelt-runtime"])):
            bundle = engines.Bundle(machine, folder / name.replace(" ", ""))
            config = bundle.read()
            config["process"]["args"] = ["/bin/true"]
            bundle.write(config)
            variants[name] = ([str(part) for part in command] +
                              ["--root", str(folder / "state"), "run", "--bundle",
                               str(bundle.folder)],
                              {**machine.environment, "UMWELT_OCI_RUNTIME": real})
    times = {name: [] for name in variants}
    try:
        for turn in range(-3, arguments.rounds):
            for name in random.sample(list(variants), len(variants)):
                command, environment = variants[name]
                begin = time.perf_counter()
                subprocess.run([*command, f"b{turn + 3}"], env=environment, check=True,
                               stdin=subprocess.DEVNULL)
                if turn >= 0:
                    times[name].append((time.perf_counter() - begin) * 1000)
        assert not machine.oci_log(), machine.oci_log()
    finally:
        machine.clean_up()
        shutil.rmtree(folder)
    print("| start of a container | median | p10 | added, of the medians |")
    print("| --- | ---: | ---: | ---: |")
    result = {}
    for name, values in times.items():
        median, low = statistics.median(values), statistics.quantiles(values, n=10)[0]
        base = statistics.median(times[name.split()[0]])
        added = f"{median - base:.1f} ms" if "+" in name else ""
        print(f"| {name} | {median:.1f} ms | {low:.1f} ms | {added} |")
        result[name] = values
    if arguments.json:
        arguments.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
