#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an answered syscall costs, and what it does to the start of programs.

Each round asks in a container with and in one without --intercept, in turns, so that whatever else
the machine does meets both alike. The flood is another container with 4 threads that call in a loop.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

CALLS = ("sysinfo", "getaffinity", "setaffinity", "getcpu")
STARTS = {
    "java -version": ["java", "-version"],
    "node -e 0": ["node", "-e", "0"],
    "make -j": ["make", "-s", "-j", "-C", "/x", "-f", "/x/Makefile"],
}
MAKEFILE = "all: $(addprefix t,$(shell seq 40))\nt%:\n\t@true\n"


class Umwelt:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.environment = {**os.environ, "UMWELT_RUNTIME_DIR": f"{folder}/run",
                            "UMWELT_STATE_DIR": f"{folder}/state"}

    def command(self, *arguments, intercept="on"):
        return [self.program, "run", "--rm", "--intercept", intercept, "-v",
                f"{self.folder}/x:/x:ro", *map(str, arguments)]

    def run(self, *arguments, **options):
        return subprocess.run(self.command(*arguments, **options), env=self.environment, check=True,
                              capture_output=True, text=True)

    def start(self, *arguments):
        return subprocess.Popen(self.command(*arguments), env=self.environment,
                                stdout=subprocess.DEVNULL)


def median_ns(umwelt, call, count, **options):
    text = umwelt.run("--", "/x/calls", "cost", call, str(count), **options).stdout
    return int(re.search(r"p50=(\d+)", text)[1])


def floor_ns(umwelt, call, count):
    """What the kernel takes for an answer from user space, by a listener that does nothing else."""
    text = subprocess.run([umwelt.folder / "x/listener", umwelt.folder / "x/calls", "cost", call,
                           str(count)], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"p50=(\d+)", text)[1])


def measure_calls(umwelt, rounds, count):
    found = {call: {"off": [], "floor": [], "on": [], "flood": []} for call in CALLS}
    for _ in range(rounds):
        for call in CALLS:
            found[call]["floor"].append(floor_ns(umwelt, call, count))
            found[call]["off"].append(median_ns(umwelt, call, count, intercept="off"))
            found[call]["on"].append(median_ns(umwelt, call, count))
            flood = umwelt.start("--cpuset-cpus", min(os.sched_getaffinity(0)), "--memory", "64m",
                                 "--", "/x/calls", "hammer", "4", "1", 64 << 20)
            time.sleep(0.5)
            found[call]["flood"].append(median_ns(umwelt, call, count))
            flood.terminate()
            flood.wait()
    return {call: {key: statistics.median(values) for key, values in row.items()}
            for call, row in found.items()}


def measure_starts(umwelt, rounds):
    found = {}
    for name, command in STARTS.items():
        if shutil.which(command[0]) is None:
            continue
        times = {"off": [], "on": []}
        for _ in range(rounds):
            for which, row in times.items():
                begin = time.monotonic()
                umwelt.run("--", *command, intercept=which)
                row.append(time.monotonic() - begin)
        found[name] = {which: statistics.median(row) for which, row in times.items()}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--umwelt", required=True)
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20000)
    options = parser.parse_args()
    here = pathlib.Path(__file__).parent
    folder = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-bench-"))
    (folder / "x").mkdir()
    (folder / "x/Makefile").write_text(MAKEFILE)
    for source in here.parent / "tests/launch/programs/calls.c", here / "listener.c":
        subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", folder / "x" / source.stem,
                        source], check=True)
    umwelt = Umwelt(options.umwelt, folder)
    try:
        calls = measure_calls(umwelt, options.rounds, options.count)
        starts = measure_starts(umwelt, options.rounds * 2)
    finally:
        subprocess.run([options.umwelt, "daemon", "stop", "--force"], env=umwelt.environment,
                       check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print("| call, median | kernel | a listener that does nothing | umwelt "
          "| umwelt, another container in a loop on 4 threads |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for call, row in calls.items():
        print(f"| `{call}` |" + "|".join(f" {row[key] / 1000:.2f} us "
                                         for key in ("off", "floor", "on", "flood")) + "|")
    print("\n| program, started in a container | --intercept off | on |\n| --- | ---: | ---: |")
    for name, row in starts.items():
        print(f"| `{name}` | {row['off'] * 1000:.0f} ms | {row['on'] * 1000:.0f} ms |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"calls": calls, "starts": starts}))


if __name__ == "__main__":
    main()
