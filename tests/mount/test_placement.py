# SPDX-License-Identifier: Apache-2.0
"""Where the server's threads run: at a reader that is bound to one CPU, if it is the only one."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest

from umweltd import CPUS, SLOWNESS, wait_until

READ = "import sys\nwhile True: open(sys.argv[1]).read()"


def cpus_of_threads(daemon, name="live"):
    found = set()
    for task in pathlib.Path(f"/proc/{daemon.server_pid()}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            status = dict(line.split(":", 1) for line in
                          (task / "status").read_text().splitlines())
            if status["Name"].strip() == name:
                found.add(status["Cpus_allowed_list"].strip())
    return found


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_a_reader_bound_to_one_cpu_is_served_there(daemon, container):
    path = container.path("proc/stat")
    everywhere = cpus_of_threads(daemon)
    container.cgroup.set_cpus(CPUS[-1])
    reader = subprocess.Popen([sys.executable, "-c", READ, str(path)],
                              preexec_fn=lambda: container.cgroup.attach(os.getpid()))
    try:
        wait_until(lambda: cpus_of_threads(daemon) == {str(CPUS[-1])}, 5 * SLOWNESS)
        # Somebody who may run anywhere; soon after, the reader has the server to itself again.
        wait_until(lambda: path.read_bytes() and cpus_of_threads(daemon) == everywhere,
                   5 * SLOWNESS)
        wait_until(lambda: cpus_of_threads(daemon) == {str(CPUS[-1])}, 5 * SLOWNESS)
    finally:
        reader.kill()
        reader.wait()
