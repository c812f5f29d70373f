# SPDX-License-Identifier: Apache-2.0
"""The manual says what the programs do: every option of --help is in its page, and no other."""

import os
import pathlib
import re
import subprocess

import pytest
from conftest import ROOT

MAN = ROOT / "docs/man"
PAGES = sorted(MAN.glob("*.[1-9]"))
# Told once, in umwelt(1) and umweltd(8).
EVERYWHERE = {"-h", "--help"}


def program(name):
    if "UMWELT_BIN" in os.environ:
        return pathlib.Path(os.environ["UMWELT_BIN"], name)
    for folder in ("build/bin", "build"):
        if (ROOT / folder / name).is_file():
            return ROOT / folder / name
    pytest.skip(f"{name} is not built")


def help_of(*command):
    return subprocess.run([program(command[0]), *command[1:], "--help"], check=True,
                          capture_output=True, text=True, timeout=20,
                          env={**os.environ, "COLUMNS": "100"}).stdout


def options_of_help(text):
    """The option names at the start of the indented lines, before their description."""
    found = set()
    for line in text.splitlines():
        match = re.match(r"  +((-\w|--[\w-]+)(,\s*(-\w|--[\w-]+))*)", line)
        if match:
            found |= set(re.findall(r"--[\w-]+|-\w", match[1]))
    return found


def options_of_page(text):
    """The flags in the heads of its lists: ".It Fl m Ar SIZE , Fl Fl memory Ar SIZE"."""
    found = set()
    for line in re.findall(r"^\.It (Fl .*)$", text, re.MULTILINE):
        found |= {"--" + name for name in re.findall(r"\bFl Fl ([\w-]+)", line)}
        found |= {"-" + name for name in re.findall(r"\bFl (\w)(?: |$)", line)}
    return found


def commands_of_help(text):
    listed = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return re.findall(r"^  ([a-z-]+) ", listed[1], re.MULTILINE) if listed else []


def test_pages_exist():
    names = {page.name for page in PAGES}
    commands = commands_of_help(help_of("umwelt"))
    assert commands
    expected = {f"umwelt-{command}.1" for command in commands}
    expected |= {"umwelt-runtime.8", "umwelt.1", "umweltd.8", "umwelt.toml.5", "container_info.5"}
    assert names == expected


def test_umwelt_lists_every_command():
    listed = re.findall(r"^\.It Cm ([a-z-]+)$", (MAN / "umwelt.1").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(commands_of_help(help_of("umwelt")))


def pages_with_options():
    return [page.name for page in PAGES if page.suffix in (".1", ".8")
            and page.name != "umwelt-runtime.8"]  # takes another program's options


@pytest.mark.parametrize("name", pages_with_options())
def test_options(name):
    words = name.rsplit(".", 1)[0].split("-", 1)
    text = help_of(*words)
    expected = options_of_help(text)
    for command in commands_of_help(text) if len(words) == 2 else []:
        expected |= options_of_help(help_of(*words, command))
    page = options_of_page((MAN / name).read_text())
    if len(words) == 2:
        expected -= EVERYWHERE
    assert page == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc(page):
    result = subprocess.run(["mandoc", "-Tlint", "-W", "warning", page], capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stdout


def test_container_info_has_every_key():
    source = (ROOT / "src/view/container_info.cc").read_text()
    keys = set(re.findall(r'^\s*\{"([A-Z_]+)",', source, re.MULTILINE))
    assert keys
    heads = re.findall(r"^\.It Ev (.*)$", (MAN / "container_info.5").read_text(), re.MULTILINE)
    assert {key for head in heads for key in head.split(" , ")} == keys


def test_configuration_has_every_key():
    source = (ROOT / "fusefs/options.cc").read_text()
    keys = set(re.findall(r'key == "(\w+)"', source))
    assert keys
    page = (MAN / "umwelt.toml.5").read_text()
    assert set(re.findall(r"^\.It Va (\w+)$", page, re.MULTILINE)) == keys
    source = (ROOT / "src/vdisk/settings.cc").read_text()
    keys = set(re.findall(r'key == "(\w+)"', source))
    assert set(re.findall(r"^\.It Va disk\.(\w+)$", page, re.MULTILINE)) == keys
