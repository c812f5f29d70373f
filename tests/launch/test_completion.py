# SPDX-License-Identifier: Apache-2.0
"""The completion script in a bash of its own, without what a distribution adds to it."""

import os
import pty

import pytest

import umwelt as launcher


class Bash(launcher.Terminal):
    def __init__(self, umwelt, folder):
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(umwelt.environment, TERM="dumb", PS1="", INPUTRC="/dev/null",
                              PATH=f"{launcher.BIN}:/usr/bin:/bin")
            os.chdir(folder)
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.resize(40, 200)
        self.write("source <(umwelt completion bash)\n")

    def complete(self, line):
        """The words that `line` has after a tab."""
        self.output = ""
        self.write(f"{line}\t\x01printf '<%s>' \x05; printf '%s\\n' .end\n")
        self.read_until(">.end")
        return self.output[self.output.rindex("<umwelt>"):].partition(".end")[0].strip("<>").split("><")


@pytest.fixture(scope="module")
def bash(umwelt, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "a-file").touch()
    umwelt.ok("volume", "create", "vol1", "--size", "32m")
    umwelt.ok("image", "import", "--name", "a:b", folder)
    bash = Bash(umwelt, folder)
    yield bash
    bash.write("exit\n")
    bash.wait()
    umwelt.ok("image", "rm", "a:b", image)
    umwelt.ok("volume", "rm", "vol1")


@pytest.mark.parametrize("line, last", [
    ("umwelt vdisk rm volume:v", "volume:vol1"),
    ("umwelt vdisk rm vol", "volume:vol1"),
    ("umwelt image rm a:", "a:b"),
    ("umwelt run --network=h", "--network=host"),
    ("umwelt run --network h", "host"),
    ("umwelt run --image a:", "a:b"),
    ("umwelt run --image=a:", "--image=a:b"),
    ("umwelt  kill --signal=WIN", "--signal=WINCH"),
    ("umwelt run --rootfs=a-", "--rootfs=a-file"),
    ("umwelt run --env-file a-", "a-file"),
    ("umwelt setup dock", "docker"),
    ("umwelt oci-hook createR", "createRuntime"),
    ("umwelt completion f", "fish"),
    ("umwelt attach a", "a"),
    ("umwelt vol", "volume")])
def test_word(bash, line, last):
    assert bash.complete(line)[-1] == last


def test_colon_that_cuts_no_word(bash):
    bash.write("COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n")
    assert bash.complete("umwelt vdisk rm volume:v")[-1] == "volume:vol1"
    assert bash.complete("umwelt run --network=h")[-1] == "--network=host"


def test_values_of_operands(umwelt):
    words = umwelt.ok("__complete", "setup", "").split()
    assert words == ["docker", "podman", "containerd", "crio", "lxc", "nspawn", "cdi"]
