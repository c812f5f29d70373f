# SPDX-License-Identifier: Apache-2.0
"""Plain OCI bundles with runc and crun, also hostile ones."""

import errno
import json
import os
import re
import subprocess
import time

import engines
import machine as machines
import pytest
from each import every_runtime
from machine import CPU, SHOW, assert_hosts_resources, assert_own_resources, program


@every_runtime
def test_figures_are_the_containers(bundle, runtime):
    assert_own_resources(bundle.run(runtime).stdout)
    assert bundle.machine.oci_log() == ""
    bundle.machine.nothing_left()
    assert list((bundle.folder / "rootfs/run").iterdir()) == []


@every_runtime
def test_what_is_not_ours_in_config_json_survives(bundle, runtime):
    config = bundle.read()
    config["annotations"] = {"org.example": "é\u2028"}
    text = json.dumps(config, ensure_ascii=False, indent=3)
    odd = text.replace('"linux": {', '"linux": {\n\n "unknownField" :  18446744073709551615,', 1)
    bundle.path.write_text(odd)
    bundle.run(runtime)
    ours = r',\s*"(hooks|seccomp)": *\{.*?\]\}(?=\s*\})'
    assert re.sub(ours, "", bundle.path.read_text(), flags=re.S) == odd
    once = bundle.path.read_bytes()
    assert_own_resources(bundle.run(runtime).stdout)
    assert bundle.path.read_bytes() == once


@every_runtime
def test_the_memory_of_the_machine_is_not_to_be_seen(bundle, runtime):
    config = bundle.read()
    config["process"]["args"] = ["/bin/sh", "-c", "cat /proc/pagetypeinfo 2>/dev/null; "
                                 "ls /sys/devices/system/memory 2>/dev/null; true"]
    bundle.write(config)
    assert bundle.run(runtime).stdout == ""


@every_runtime
def test_processes_have_started_now(bundle, runtime):
    """As programs tell that: btime of /proc/stat, and what /proc/PID/stat counts from there."""
    config = bundle.read()
    config["process"]["args"] = ["/bin/sh", "-c", "grep btime /proc/stat; cat /proc/self/stat; "
                                 "cut -d. -f1 /proc/uptime"]
    bundle.write(config)
    btime, stat, uptime = bundle.run(runtime).stdout.splitlines()
    ticks = int(stat.rsplit(")", 1)[1].split()[19])
    started = int(btime.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    assert abs(time.time() - started) < 60
    assert int(uptime) < 60


LIKE_LIBNUMA = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main() {
  unsigned char mask[512];
  long length = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  printf("%ld %u %d\n", length, mask[0], getpid());
  char line[256];
  for (FILE* file = fopen("/proc/self/status", "r"); fgets(line, sizeof line, file);)
    if (!strncmp(line, "Pid:", 4) || !strncmp(line, "Cpus_allowed_list:", 18))
      fputs(line, stdout);
}
"""


@every_runtime
def test_a_program_that_uses_libnuma(bundle, runtime, tmp_path):
    """Its /proc/self/status has the CPUs that the answer to its first question has."""
    source = tmp_path / "like_libnuma.c"
    source.write_text(LIKE_LIBNUMA)
    subprocess.run(["gcc", "-static", "-o", bundle.folder / "rootfs/bin/like-libnuma", source],
                   check=True)
    config = bundle.read()
    config["process"]["args"] = ["/bin/sh", "-c", "like-libnuma; grep -c /status /proc/mounts"]
    bundle.write(config)
    said = bundle.run(runtime, check=False).stdout.splitlines()
    length, mask, pid = said[0].split()
    assert (int(length) > 0, mask) == (True, "1")
    assert said[1:] == [f"Pid:\t{pid}", "Cpus_allowed_list:\t0", "0"]


@every_runtime
def test_programs_of_32_bits(bundle, runtime, tmp_path):
    """The filter that is added for syscalls lets them live."""
    source = tmp_path / "exit.c"
    source.write_text('void _start(void) { __asm__("int $0x80" :: "a"(1), "b"(42)); }\n')
    exit42 = bundle.folder / "rootfs/bin/exit42"
    built = subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-o", exit42, source],
                           capture_output=True)
    if built.returncode != 0:
        pytest.skip("needs gcc -m32")
    try:
        subprocess.run([exit42])
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("needs a kernel that runs 32-bit programs")
    config = bundle.read()
    config["process"]["args"] = ["/bin/exit42"]
    config["linux"].pop("seccomp", None)
    bundle.write(config)
    assert bundle.run(runtime, check=False).returncode == 42
    seccomp = bundle.read()["linux"]["seccomp"]
    assert sorted(seccomp["syscalls"][0]["names"]) == [
        "getcpu", "sched_getaffinity", "sched_setaffinity", "sysinfo"]


@every_runtime
def test_choices(bundle, runtime):
    config = bundle.read()
    config["annotations"] = {"umwelt.views": "memory"}
    bundle.write(config)
    seen = machines.parse(bundle.run(runtime).stdout)
    assert seen["memory"] == str(machines.MEMORY_KIB)
    assert seen["cpuinfo"] == str(os.cpu_count())
    assert seen["sysinfo"] == str(machines.host_memory_kib())  # as the files that it does not have
    config["annotations"] = {}
    config["process"]["env"].append("umwelt=off")
    bundle.write(config)
    assert_hosts_resources(bundle.run(runtime).stdout)
    config["annotations"] = {"umwelt": "on"}
    bundle.write(config)
    assert_own_resources(bundle.run(runtime).stdout)


@every_runtime
def test_off_is_off_also_for_a_bundle_that_was_not(bundle, runtime):
    """A daemon that is down does not keep it from starting."""
    assert_own_resources(bundle.run(runtime).stdout)
    config = bundle.read()
    assert config["linux"]["seccomp"]["listenerPath"]
    config["annotations"] = {"umwelt": "off"}
    bundle.write(config)
    with bundle.machine.down():
        assert_hosts_resources(bundle.run(runtime).stdout)
    assert bundle.machine.oci_log() == ""
    config = bundle.read()
    assert config["linux"]["seccomp"]["listenerPath"] is None
    assert config["hooks"] == {"createRuntime": [], "poststop": []}


@every_runtime
def test_what_could_not_be_registered_has_the_kernels_answers(bundle, runtime):
    """As its files are the host's."""
    (bundle.folder / "rootfs/sys").rmdir()
    (bundle.folder / "rootfs/sys").symlink_to("/tmp")
    config = bundle.read()
    config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/sys"]
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    bundle.write(config)
    seen = bundle.run(runtime).stdout
    assert_hosts_resources(seen)
    assert machines.parse(seen)["sysinfo"] == str(machines.host_memory_kib()), seen
    assert bundle.read()["linux"]["seccomp"]["listenerPath"]
    (bundle.machine.runtime / "oci.log").unlink()


@every_runtime
def test_what_a_profile_denies_stays_denied(bundle, runtime, tmp_path):
    source = tmp_path / "ask.c"
    source.write_text("#include <sys/sysinfo.h>\n#include <errno.h>\n"
                      "int main(void) { struct sysinfo i; return sysinfo(&i) ? errno : 0; }\n")
    subprocess.run(["gcc", "-static", "-o", bundle.folder / "rootfs/bin/ask", source], check=True)
    config = bundle.read()
    config["process"]["args"] = ["/bin/ask"]
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sysinfo"], "action": "SCMP_ACT_ERRNO"}]}
    bundle.write(config)
    assert bundle.run(runtime, check=False).returncode == errno.EPERM
    assert sorted(bundle.read()["linux"]["seccomp"]["syscalls"][1]["names"]) == [
        "getcpu", "sched_getaffinity", "sched_setaffinity"]
    config["process"]["args"] = ["/bin/sh", "-c", SHOW]
    bundle.write(config)
    seen = machines.parse(bundle.run(runtime).stdout)
    assert (seen["nproc"], seen["online"]) == ("1", str(CPU)), seen
    assert bundle.machine.oci_log() == ""


@every_runtime
def test_one_rule_for_each_call(bundle, runtime):
    """And one of them twice."""
    names = ["sysinfo", "sched_getaffinity", "sched_setaffinity", "getcpu", "sysinfo"]
    config = bundle.read()
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_LOG",
        "syscalls": [{"names": [name], "action": "SCMP_ACT_ALLOW"} for name in names]}
    bundle.write(config)
    assert_own_resources(bundle.run(runtime).stdout)
    assert bundle.machine.oci_log() == ""


@every_runtime
def test_required_holds_where_we_can_not_read_on(bundle, runtime):
    """A key twice, which the runtimes take, and a root filesystem of another name."""
    plain = bundle.read()
    (bundle.folder / "elsewhere").symlink_to("rootfs")
    other_root = {**plain, "root": {**plain["root"], "path": "elsewhere"}}
    log = bundle.machine.runtime / "oci.log"
    for config, extra in ((plain, ', "x": 1, "x": 2}'), (other_root, "}")):
        for annotations in ({}, {"umwelt": "required"}):
            text = json.dumps({**config, "annotations": annotations})
            bundle.path.write_text(text[:-1] + extra)
            done = bundle.run(runtime, check=False)
            if annotations:
                assert done.returncode != 0 and "memory" not in done.stdout
            elif done.returncode == 0:
                assert_hosts_resources(done.stdout)
            # runc itself takes no root that is a symbolic link.
            if annotations and (runtime, config) != ("runc", other_root):
                assert "umwelt=required" in log.read_text()
            log.unlink(missing_ok=True)


@pytest.mark.parametrize("runtime, options", [
    ("runc", ["-b={}"]), ("runc", ["-bundle", "{}"]), ("crun", ["-b{}"]), ("crun", ["--bund", "{}"])])
def test_every_form_of_the_bundles_option(bundle, runtime, options):
    if program(runtime) is None:
        pytest.skip(f"needs {runtime}")
    command, environment = bundle.command(
        runtime, "run", *(option.format(bundle.folder) for option in options), "box")
    assert_own_resources(bundle.machine.run(*command, env=environment).stdout)


@pytest.mark.skipif(program("crun") is None, reason="needs crun")
def test_another_config_than_the_bundles(bundle):
    """The hooks would read that one."""
    before, log = bundle.path.read_bytes(), bundle.machine.runtime / "oci.log"
    for mode, code in (("on", 0), ("required", 1)):
        config = {**bundle.read(), "annotations": {"umwelt": mode}}
        (bundle.folder / "other.json").write_text(json.dumps(config))
        command, environment = bundle.command("crun", "run", "--bundle", bundle.folder, "--config",
                                              bundle.folder / "other.json", "box")
        done = bundle.machine.run(*command, env=environment, check=False)
        assert done.returncode == code, done
        assert "--config" in log.read_text() and bundle.path.read_bytes() == before
        log.unlink()


@every_runtime
def test_a_config_that_is_a_link(bundle, runtime):
    """It stays one, and its file has the owner that it had."""
    real = bundle.folder / "real.json"
    bundle.path.rename(real)
    bundle.path.symlink_to(real)
    os.chown(real, 4711, 4712)
    assert_own_resources(bundle.run(runtime).stdout)
    assert bundle.path.is_symlink() and "hooks" in json.loads(real.read_text())
    assert (real.stat().st_uid, real.stat().st_gid) == (4711, 4712)


@every_runtime
@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_a_volume_on_run_stays_as_it_is(bundle, runtime, propagation, tmp_path):
    """Other containers and the host have it, too. A filesystem of the container's own has the files."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "volume", volume], check=True)
    subprocess.run(["mount", f"--make-{propagation}", volume], check=True)
    show = SHOW + "echo info $(ls /run | grep -c .)"
    try:
        config = bundle.read()
        config["process"]["args"][-1] = show
        config["mounts"].append({"destination": "/run", "type": "bind", "source": str(volume),
                                 "options": ["rbind", f"r{propagation}"]})
        bundle.write(config)
        text = bundle.run(runtime).stdout
        assert_own_resources(text)
        assert machines.parse(text)["info"] == "0" and list(volume.iterdir()) == []
    finally:
        subprocess.run(["umount", volume], check=True)
    config["mounts"][-1] = {"destination": "/run", "type": "tmpfs", "source": "tmpfs"}
    bundle.write(config)
    assert machines.parse(bundle.run(runtime).stdout)["info"] == "2"
    assert bundle.machine.oci_log() == ""


def test_lxcs_hook_reads_the_mode_first(machine, tmp_path):
    config = tmp_path / "config"
    environment = {**machine.environment, "LXC_NAME": "box", "LXC_CONFIG_FILE": str(config),
                   "LXC_PID": "0"}
    del environment["UMWELT_RUNTIME_DIR"]
    for lines, code in ((["umwelt.views=nonsense"], 0),
                        (["umwelt.views=nonsense", "umwelt=required"], 1),
                        (["umwelt=required", "umwelt.views=nonsense"], 1),
                        (["umwelt=required", "umwelt=nonsense"], 1)):
        config.write_text("".join(f"lxc.environment = {line}\n" for line in lines))
        done = machine.run(machines.BIN / "umwelt-runtime", "lxc-hook", "--runtime-dir",
                           machine.runtime, "box", "lxc", "start-host", env=environment, check=False)
        assert done.returncode == code, (lines, done)
        assert "nonsense" in machine.oci_log()
        (machine.runtime / "oci.log").unlink()


@every_runtime
def test_without_a_daemon_it_starts_unless_that_is_forbidden(bundle, runtime):
    with bundle.machine.down():
        assert_hosts_resources(bundle.run(runtime).stdout)
        assert "umwelt daemon start" in bundle.machine.oci_log()
        config = bundle.read()
        config["annotations"] = {"umwelt": "required"}
        bundle.write(config)
        refused = bundle.run(runtime, check=False)
        assert refused.returncode != 0
        assert "memory" not in refused.stdout
        assert "umwelt=required" in bundle.machine.oci_log()
    assert_own_resources(bundle.run(runtime).stdout)
    (bundle.machine.runtime / "oci.log").unlink()


@pytest.mark.skipif(program("runc") is None, reason="needs runc")
def test_where_no_daemon_ever_ran_the_log_says_so(bundle, tmp_path):
    """runc shows nothing of what a hook says that succeeds."""
    command, environment = bundle.command("runc", "run", "--bundle", bundle.folder, "box")
    environment["UMWELT_RUNTIME_DIR"] = str(tmp_path / "never")
    assert_hosts_resources(bundle.machine.run(*command, env=environment).stdout)
    assert "umwelt daemon start" in (tmp_path / "never/oci.log").read_text()


def test_a_bundle_that_is_not_there_is_no_daemon_that_is_not(bundle, tmp_path):
    command, environment = bundle.command("runc", "run", "--bundle", tmp_path / "absent", "box")
    done = bundle.machine.run(*command, env=environment, check=False)
    assert f"{tmp_path}/absent/config.json: No such file" in done.stderr
    assert "umweltd does not run" not in done.stderr
    (bundle.machine.runtime / "oci.log").unlink()


@pytest.mark.skipif(program("runc") is None, reason="needs runc")
def test_two_containers_of_one_name(bundle, machine, tmp_path):
    """Runtimes with folders of their own may have the same id."""
    runtime = "runc"
    other = engines.Bundle(machine, tmp_path / "other")
    config = other.read()
    config["process"]["args"] = ["/bin/sh", "-c", "sleep 600"]
    config["linux"]["resources"]["memory"]["limit"] //= 2
    config["linux"]["cgroupsPath"] = f"/umwelt-test-{os.getpid()}"
    other.write(config)
    command, environment = other.command(runtime, "run", "--detach", "--bundle", other.folder,
                                         "box")
    with open(tmp_path / "out", "wb") as out:
        machine.run(*command, env=environment, capture_output=False, stdout=out, stderr=out)
    try:
        assert_own_resources(bundle.run(runtime).stdout)
        exec_command, environment = other.command(runtime, "exec", "box", "/bin/sh", "-c", SHOW)
        assert_own_resources(machine.run(*exec_command, env=environment).stdout,
                             memory_kib=machines.MEMORY_KIB // 2)
    finally:
        command, environment = other.command(runtime, "delete", "--force", "box")
        machine.run(*command, env=environment)
    machine.nothing_left()
