"""Runs a command in the confinement of a systemd unit, as far as that needs no systemd:

    python -m world.confined UNIT COMMAND ...

No new privileges, no memory that is both written and executed, the system calls of SystemCallFilter and the address
families of RestrictAddressFamilies; all else fails with EPERM, as under the unit.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65  # prctl(2); the second since Linux 6.3
ALLOW, EPERM = 0x7FFF0000, 0x00050001  # seccomp(2): SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
EQUAL = 4  # SCMP_CMP_EQ


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def values(unit: Path, name: str) -> list[str]:
    """The words of all lines `name=` of a unit."""
    return re.findall(rf"(?m)^{name}=(.*)$", unit.read_text())


def calls_of(group: str) -> set[str]:
    """The system calls in a group like `@system-service`, as this systemd knows it."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for word in re.findall(r"(?m)^\s+([@\w-]+)\s*$", done.stdout):
        found |= calls_of(word) if word.startswith("@") else {word}
    return found


def confine(unit: Path) -> None:
    """Confine this process and what it becomes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if "yes" in values(unit, "MemoryDenyWriteExecute"):
        libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # an older kernel does not know it
    allowed = {"execve"}
    for word in " ".join(values(unit, "SystemCallFilter")).split():
        allowed = allowed - calls_of(word[1:]) if word.startswith("~") else allowed | calls_of(word)
    families = [getattr(socket, name) for name in values(unit, "RestrictAddressFamilies")[0].split()]
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(EPERM))
    for name in sorted(allowed):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        rules = [[_Compare(0, EQUAL, family, 0)] for family in families] if name == "socket" else [[]]
        for rule in rules if number >= 0 else ():
            array = (_Compare * len(rule))(*rule)
            if seccomp.seccomp_rule_add_array(context, ALLOW, number, len(rule), array):
                raise OSError(f"no rule for {name}")
    if seccomp.seccomp_load(context):
        raise OSError("the filter cannot be loaded")


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
