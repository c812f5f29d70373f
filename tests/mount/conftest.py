# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import shutil
import tempfile
import time

import pytest

import umweltd


def pytest_configure(config):
    config.addinivalue_line("markers", "vm: also run in the virtual machine")
    # What a thread of a test asserts counts.
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60 * umweltd.SLOWNESS))


@pytest.fixture(scope="session", autouse=True)
def machine():
    missing = [what for what, there in (
        ("root", os.geteuid() == 0), ("/dev/fuse", os.path.exists("/dev/fuse")),
        ("cgroups", bool(umweltd.V1 or umweltd.V2))) if not there]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    assert umweltd.UMWELTD.exists(), f"no {umweltd.UMWELTD}: build first, or set UMWELT_BIN"


@pytest.fixture
def folder():
    path = pathlib.Path(tempfile.mkdtemp(prefix="umwelt-mount-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stopped_daemon(folder):
    """Not started yet."""
    daemon = umweltd.Daemon(folder)
    yield daemon
    daemon.clean_up()
    assert not umweltd.mounted_below(folder)


@pytest.fixture
def daemon(stopped_daemon):
    yield stopped_daemon.start()
    log = stopped_daemon.log()
    assert "Sanitizer" not in log and "runtime error" not in log, log


@pytest.fixture
def container(daemon):
    return daemon.container("web")


@pytest.fixture
def v2_folder(container):
    """The container's cgroup in v2; on a hybrid machine the tests' cgroups have none."""
    if not umweltd.V1:
        yield container.cgroup.folder("")
        return
    folder = pathlib.Path(umweltd.V2) / container.cgroup.name
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text(str(container.init.pid))
    container.daemon.call(op="unregister", id=container.id)
    container.daemon.call(op="register", record={"id": container.id,
                                                 "init_pid": container.init.pid})
    yield folder
    container.init.kill()
    container.init.wait()
    for pid in (folder / "cgroup.procs").read_text().split():
        os.kill(int(pid), 9)
    deadline = time.monotonic() + 10
    while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    folder.rmdir()
    folder.parent.rmdir()
