# SPDX-License-Identifier: Apache-2.0
"""A test for each of the plain OCI runtimes."""

import pytest
from machine import program

every_runtime = pytest.mark.parametrize(
    "runtime", [pytest.param(name, marks=pytest.mark.skipif(program(name) is None,
                                                            reason=f"needs {name}"))
                for name in ("runc", "crun")])
