"""How fast a database takes rows one by one, and how often it asks the kernel to make them durable.

Three runs of a fresh process over a fresh store: one without strace for the speed, and two under strace, with
n inserts and with none; the difference of their counts is what n inserts cost, closing included. Counted are
fsync, fdatasync, msync with MS_SYNC, sync_file_range, syncfs and sync; msync with MS_ASYNC waits for nothing
and isn't counted. Writes can also be made durable through files opened with O_SYNC or O_DSYNC, or by
io_uring; both are looked for, and named when they are there, but such writes aren't counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import system
from .adapters import Job, adapter_class
from .process import PeerFailed, environment, last_line
from .rows import Rows

SYNC_CALLS = ("fsync", "fdatasync", "msync", "sync_file_range", "syncfs", "sync")
ALSO_TRACED = ("openat", "io_uring_setup")
CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)")
OPENED_SYNC = re.compile(r"\bO_D?SYNC\b")
LIMIT_SECONDS = 120.0


def parse_trace(text: str) -> dict[str, int]:
    """Calls by name from what strace wrote; what never happened isn't there.

    Besides SYNC_CALLS: "O_SYNC", files opened with it or with O_DSYNC, and "io_uring", rings that were set
    up.
    """
    counts: dict[str, int] = {}
    for line in text.splitlines():
        # "4711  fsync(3) = 0"; a call that another thread interrupts goes on in a line with "resumed".
        call = CALL.match(line)
        if call is None:
            continue
        name, arguments = call.groups()
        if name in SYNC_CALLS:
            if "MS_ASYNC" in arguments:
                continue
        elif name == "io_uring_setup":
            name = "io_uring"
        elif name == "openat" and OPENED_SYNC.search(arguments):
            name = "O_SYNC"
        else:
            continue
        counts[name] = counts.get(name, 0) + 1
    return counts


def measure(order: dict[str, Any], scratch: Path, mode: str, count: int, seconds: float) -> dict[str, Any]:
    """Rows per second and sync calls per insert; ``mode`` "flush" asks for a flush after each row."""
    rate = _run(order, scratch, mode, count, seconds, traced=False)[0]
    result: dict[str, Any] = {"mode": mode, **rate}
    if shutil.which("strace") is None:
        return {**result, "sync_calls_missing": "strace is not installed"}
    try:
        made, some = _run(order, scratch, mode, count, seconds, traced=True)
        _, none = _run(order, scratch, mode, 0, seconds, traced=True)
    except PeerFailed as error:
        return {**result, "sync_calls_missing": f"under strace: {error}"}
    inserted = made["inserts"]
    return {
        **result,
        "traced_inserts": inserted,
        "sync_calls": some,
        "sync_calls_without_inserts": none,
        "sync_calls_per_insert": (_total(some) - _total(none)) / max(inserted, 1),
    }


def _total(counts: dict[str, int]) -> int:
    return sum(counts.get(name, 0) for name in SYNC_CALLS)


def _run(
    order: dict[str, Any], scratch: Path, mode: str, count: int, seconds: float, traced: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    shutil.rmtree(scratch, ignore_errors=True)
    folder = scratch / "store"
    folder.mkdir(parents=True)
    out, trace, log = scratch / "out.json", scratch / "trace.txt", scratch / "log.txt"
    asked = {
        **order,
        "folder": str(folder),
        "mode": mode,
        "count": count,
        "seconds": seconds,
        "out": str(out),
    }
    command = [sys.executable, "-m", "peers.inserts", json.dumps(asked)]
    if traced:
        names = ",".join((*SYNC_CALLS, *ALSO_TRACED))
        command = ["strace", "-f", "-e", f"trace={names}", "-o", str(trace), *command]
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environment(order["threads"]),
            start_new_session=True,
        )
        try:
            code = child.wait(LIMIT_SECONDS + seconds)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"inserts took more than {LIMIT_SECONDS + seconds:.0f} s") from None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code != 0 or not out.exists():
        raise PeerFailed(f"inserts ended with {code}: {last_line(log)}")
    found = json.loads(out.read_text())
    traced_counts = parse_trace(trace.read_text(errors="replace")) if traced else {}
    shutil.rmtree(scratch, ignore_errors=True)
    return found, traced_counts


def main() -> None:
    system.die_with_parent()
    system.first_to_go()
    order = json.loads(sys.argv[1])
    adapter = adapter_class(order["name"])(
        Job(Path(order["folder"]), order["dim"], order["metric"], order["rows"], order["threads"])
    )
    rows = Rows(Path(order["rows_path"]), max(order["count"], 1))
    vectors, flush = rows.all(), order["mode"] == "flush"
    adapter.open_empty()
    took: list[int] = []
    began = time.perf_counter()
    for number in range(order["count"]):
        start = time.perf_counter_ns()
        adapter.insert(number, vectors[number])
        if flush:
            adapter.sync()
        took.append(time.perf_counter_ns() - start)
        if time.perf_counter() - began > order["seconds"]:
            break
    wall = time.perf_counter() - began
    adapter.close()
    us = sorted(ns / 1e3 for ns in took)
    result = {"inserts": len(us), "rows_per_second": len(us) / wall}
    if us:
        result |= {
            "p50_us": us[len(us) // 2],
            "p99_us": us[int(len(us) * 0.99)],
            "mean_us": sum(us) / len(us),
        }
    Path(order["out"]).write_text(json.dumps(result))
    os._exit(0)


if __name__ == "__main__":
    main()
