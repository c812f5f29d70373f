# SPDX-License-Identifier: Apache-2.0
"""Who may include whom: the folders are the architecture (docs/architecture.md)."""

import re

from conftest import ROOT, tracked

# A folder includes itself and the folders named here, which are all of those below it.
BELOW = {"base": set()}
BELOW["host"] = BELOW["cgroup"] = {"base"}
BELOW["view"] = {"base", "host", "cgroup"}
BELOW["container"] = BELOW["view"] | {"view"}
BELOW["control"] = BELOW["container"] | {"container"}
BELOW["intercept"] = BELOW["view"] | {"view", "container"}
BELOW["vdisk"] = BELOW["control"] | {"control"}
BELOW["launch"] = BELOW["vdisk"] | {"vdisk", "intercept"}
BELOW["oci"] = BELOW["launch"] | {"launch"}
BELOW["cli"] = BELOW["control"] | {"control", "launch", "intercept", "vdisk", "oci"}
BELOW["fusefs"] = BELOW["cli"]

# Renderers do no I/O and know no clock: of the folders below, only plain structs and parsing.
VIEW_ALLOWED = {"host/facts.h", "cgroup/state.h", "base/cpu_set.h", "base/parse.h",
                "base/result.h"}
VIEW_FORBIDDEN_SYSTEM = re.compile(
    r"fcntl\.h|unistd\.h|dirent\.h|fstream|iostream|filesystem|cstdio|stdio\.h|chrono|ctime|"
    r"time\.h|sys/(?!types\.h).*|linux/.*|thread|mutex")

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)


def includes(path):
    return INCLUDE.findall((ROOT / path).read_text())


def folder(path):
    return path.split("/")[1] if path.startswith("src/") else "fusefs"


def sources():
    return tracked("src/*.cc", "src/*.h", "fusefs/*.cc", "fusefs/*.h")


def test_every_folder_is_a_layer():
    assert {folder(path) for path in sources()} <= set(BELOW)


def test_a_folder_includes_only_what_is_below_it():
    wrong = []
    for path in sources():
        for quote, name in includes(path):
            own = name.split("/")[0]
            if quote == '"' and own not in BELOW[folder(path)] | {folder(path)}:
                wrong.append(f"{path} includes {name}")
    assert not wrong, "\n".join(wrong)


def test_includes_name_the_folder_and_exist():
    wrong = [f"{path} includes {name}" for path in sources() for quote, name in includes(path)
             if quote == '"' and not any((ROOT / top / name).is_file() for top in ("src", "."))]
    assert not wrong, "\n".join(wrong)


def test_view_is_pure():
    wrong = []
    for path in tracked("src/view/*.cc", "src/view/*.h"):
        for quote, name in includes(path):
            if quote == '"' and not name.startswith("view/") and name not in VIEW_ALLOWED:
                wrong.append(f"{path} includes {name}")
            if quote == "<" and VIEW_FORBIDDEN_SYSTEM.fullmatch(name):
                wrong.append(f"{path} includes <{name}>")
    assert not wrong, "\n".join(wrong)


def test_libraries_below_container_do_not_log():
    wrong = [path for path in sources() if folder(path) in ("host", "cgroup", "view")
             for _, name in includes(path) if name == "base/log.h" or name.startswith("spdlog/")]
    assert not wrong, "\n".join(wrong)
