"""Other people's programs that the tests start: found, or named with the package that holds them."""

from __future__ import annotations

import shutil
import subprocess

PACKAGES = {"kamailio": "kamailio", "kamcmd": "kamailio", "sipp": "sip-tester", "tshark": "tshark"}


class MissingProgram(Exception):
    """A program that the tests need is not installed. The tests fail then; they never skip."""


def find(program: str) -> str:
    """The path of `program`."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MissingProgram(f"{program} is missing: apt-get install {PACKAGES.get(program, program)}")
    return path


def stop(process: subprocess.Popen[bytes], patience_s: float = 8) -> int:
    """Ends a process that we started: SIGTERM, and SIGKILL when that does not help. Its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(patience_s)
