# SPDX-License-Identifier: Apache-2.0
"""What every file of the project has in common."""

import re
import subprocess

from conftest import ROOT, tracked

CPP = ("*.cc", "*.h")
COMMENTED = ("*.cc", "*.h", "*.py", "*.sh", "meson.build", "dev", ".ci/run")

# The project stands alone: no notes to ourselves, no paths of the machine it was written on.
FORBIDDEN = {
    "a note of unfinished work": r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b",
    "a path of somebody's machine": r"(?<![\w.])/(work|home/\w+)/\w|\.\./sha" r"red\b",
    "a reference to a work list": r"\b[Ii]ssues? (#?\d+|[A-Z])\b",
    "a conflict marker": r"^(<{7}|>{7}) ",
}


def text_files():
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data and not path.startswith(("tests/fuzz/corpus/", "tests/fixtures/")):
            yield path, data.decode(errors="replace")


def test_spdx_line():
    missing = [path for path in tracked(*COMMENTED)
               if "SPDX-License-Identifier: Apache-2.0" not in
               "".join((ROOT / path).read_text().splitlines(keepends=True)[:5])]
    assert not missing, "\n".join(missing)


def test_forbidden_words():
    found = [f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]!r}"
             for path, text in text_files() for what, pattern in FORBIDDEN.items()
             for match in re.finditer(pattern, text, re.MULTILINE)]
    assert not found, "\n".join(found)


def test_no_stray_white_space():
    found = [path for path, text in text_files()
             if path.endswith((".cc", ".h", ".py", ".sh", ".build", "dev"))
             and (re.search(r"[ \t]+$|\t", text, re.MULTILINE) or not text.endswith("\n"))
             and text]
    assert not found, "\n".join(found)


def test_clang_format():
    result = subprocess.run(["clang-format", "--dry-run", "-Werror", *tracked(*CPP)], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_shellcheck():
    scripts = [path for path in tracked()
               if re.match(rb"#! ?/(usr/bin/env |bin/)(ba|busybox )?sh\b",
                           (ROOT / path).read_bytes()[:40])]
    assert "dev" in scripts
    result = subprocess.run(["shellcheck", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_python_compiles():
    for path in tracked("*.py"):
        compile((ROOT / path).read_text(), path, "exec")
