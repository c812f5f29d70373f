# SPDX-License-Identifier: Apache-2.0
"""What umweltd does under the restrictions of its unit, which systemd's own library puts on this
process. Prints a line for each call that fails.

    sandbox.py UNIT LIBRARY PID     PID: a process of another user
"""

import configparser
import ctypes
import os
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWCGROUP = 0x20000, 0x2000000
NAMESPACES = {"mnt": CLONE_NEWNS, "cgroup": CLONE_NEWCGROUP}
PR_SET_NO_NEW_PRIVS, SYS_OPENAT2, O_PATH = 38, 437, 0o10000000


def restrict(service, library):
    systemd = ctypes.CDLL(library)
    allowed = [NAMESPACES[name] for name in service["RestrictNamespaces"].split()]
    assert systemd.seccomp_restrict_namespaces(ctypes.c_ulong(sum(allowed))) == 0
    if service.get("RestrictSUIDSGID") == "yes":
        assert systemd.seccomp_restrict_suid_sgid() == 0


def say(name, result):
    if result < 0:
        print(f"{name}: {os.strerror(ctypes.get_errno())}")


def main(unit, library, pid, restricted=None):
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=",
                                       comment_prefixes="#")
    parser.optionxform = str
    parser.read(unit)
    service = parser["Service"]
    if not restricted:
        kept = service["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
        subprocess.run(["setpriv", "--bounding-set", ",".join(["-all", *kept]), sys.executable,
                        __file__, unit, library, pid, "restricted"], check=True)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    say("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    restrict(service, library)
    how = (ctypes.c_uint64 * 3)(O_PATH, 0, 0)
    say("openat2", libc.syscall(SYS_OPENAT2, -1, b"/proc", how, ctypes.sizeof(how)))
    for name, flag in NAMESPACES.items():
        say(f"setns {name}", libc.setns(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), flag))
    try:
        os.sched_setaffinity(int(pid), os.sched_getaffinity(int(pid)))
    except OSError as error:
        print(f"sched_setaffinity: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
