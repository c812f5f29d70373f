# SPDX-License-Identifier: Apache-2.0
"""Nothing can be written: standard output is full."""

import json
import subprocess

import pytest

from umwelt import UMWELT


@pytest.mark.parametrize("arguments", [
    ["--help"], ["--version"], ["run", "--help"], ["__complete", "umwelt", "r"], ["ps"]],
    ids=" ".join)
def test_a_full_standard_output_is_said(umwelt, arguments):
    with open("/dev/full", "w") as output:
        done = subprocess.run([UMWELT, *arguments], env=umwelt.environment, stdout=output,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "umwelt: writing to standard output: No space left on device\n"


def test_a_container_whose_id_cannot_be_printed_is_named(umwelt):
    with open("/dev/full", "w") as output:
        done = subprocess.run([UMWELT, "run", "-d", "--", "sleep", "600"], env=umwelt.environment,
                              stdout=output, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 125
    name = json.loads(umwelt.ok("ps", "--json"))[0]["name"]
    assert done.stderr == ("umwelt: writing to standard output: No space left on device; container "
                           f"{name} was started and runs\n")
    umwelt.ok("rm", "--force", name)
