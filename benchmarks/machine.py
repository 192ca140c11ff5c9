"""What the figures were measured on: printed above every table."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa


def describe() -> str:
    """One line: processor, cores, memory, kernel, versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(models, platform.machine())
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, duckdb {duckdb.__version__}, pyarrow {pa.__version__}"
    )
