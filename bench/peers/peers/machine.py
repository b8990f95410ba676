"""What the figures were measured on, and what a process holds. Linux only: all of it comes from /proc."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, cores, memory, kernel and Python of this machine."""
    cpu, flags = "unknown", set[str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            cpu = value.strip()
        elif name.strip() == "flags":
            flags = set(value.split())
    wanted = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "simd": [flag for flag in wanted if flag in flags],
        "memory_mib": _kib("/proc/meminfo", "MemTotal") // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "strace": shutil.which("strace") is not None,
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def memory() -> dict[str, int]:
    """Of this process, in KiB: the most it ever held, and what it holds now, anonymous and from files."""
    names = {"hwm": "VmHWM", "rss": "VmRSS", "anon": "RssAnon", "file": "RssFile"}
    return {short: _kib("/proc/self/status", name) for short, name in names.items()}


def reset_peak() -> None:
    """Lets VmHWM start again from what is held now, so that imports don't count as the peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # refused in some containers; the peak then includes the imports, which are small


def bytes_on_disk(path: Path) -> dict[str, int]:
    """Of a file or folder: bytes the files are long, and bytes the file system set aside for them."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    return {
        "length": sum(stat.st_size for stat in stats),
        "allocated": sum(stat.st_blocks * 512 for stat in stats),
        "files": len(files),
    }


def _kib(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0
