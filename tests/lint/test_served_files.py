# SPDX-License-Identifier: Apache-2.0
"""Every served file has a page in docs/views, golden cases, and a row in the README."""

import re

import pytest

from conftest import ROOT, tracked

# The rows of the table in src/view/files.cc: {"proc/meminfo", 0444, ...
SERVED = re.findall(r'^\s*\{"((?:proc|sys|run)/[^"]+)",\s*0\d{3},',
                    (ROOT / "src/view/files.cc").read_text(), re.MULTILINE)
PAGES = {path: (ROOT / path).read_text() for path in tracked("docs/views/*.md")}


def page_of(served):
    """A page's title names the file, or a folder of it; then its text names the rest."""
    for path, text in PAGES.items():
        for title in re.findall(r"/[\w./-]+", text.split("\n", 1)[0]):
            if f"/{served}" == title:
                return path
            if f"/{served}".startswith(f"{title}/") and f"`{served[len(title):]}`" in text:
                return path
    return None


def test_the_table_is_found():
    assert "proc/meminfo" in SERVED
    rows = (ROOT / "src/view/files.cc").read_text().count('{"')
    assert len(SERVED) == rows, "a row that this test does not understand"


@pytest.mark.parametrize("served", SERVED)
def test_page(served):
    assert page_of(served), f"no page in docs/views has a title that names /{served}"


@pytest.mark.parametrize("served", SERVED)
def test_golden_case_per_cgroup_version(served):
    cases = {path.split("/")[2] for path in tracked(f"tests/golden/*/expected/{served}")}
    for version in ("v1", "v2", "hybrid"):
        assert any(case.split("-")[0] == version for case in cases), f"none for cgroup {version}"


def test_pages_name_served_files():
    unknown = [path for path, text in PAGES.items()
               if not any(page_of(served) == path for served in SERVED)]
    assert not unknown, "\n".join(unknown)
