# SPDX-License-Identifier: Apache-2.0
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tracked(*patterns):
    """The project's own files (git's, and those that git would add), as paths from the top."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
         "--exclude-standard", "--", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file())


@pytest.fixture
def root():
    return ROOT
