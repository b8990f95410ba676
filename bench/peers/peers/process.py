"""The driver's end of a worker: start it, ask it, stop it in between, and end it.

A worker is stopped (SIGSTOP) whenever it isn't asked something, so that no pool, compactor or spinning thread
of one library takes time from another. Each is in a session of its own: an interrupt from the keyboard
reaches the driver only, which then ends its workers one by one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class PeerFailed(Exception):
    """The peer refused, crashed or took too long; the text is the reason."""


def environment(threads: int) -> dict[str, str]:
    """That of the driver, with the thread pools of the usual runtimes bounded, telemetry off, and numpy free
    to choose its kernels.
    """
    count = str(threads)
    python_path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    # A setting that forces kernels of another processor on OpenBLAS would slow numpy down.
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    return {
        **kept,
        "PYTHONPATH": python_path,
        "OMP_NUM_THREADS": count,
        # Waiting OpenMP threads sleep: spinning ones take the cores that the working ones need.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "TOKIO_WORKER_THREADS": count,
        "LANCE_CPU_THREADS": count,
        "ANONYMIZED_TELEMETRY": "False",
    }


class Process:
    """One worker. Not for several threads."""

    def __init__(self, order: dict[str, Any], log: Path) -> None:
        self.name: str = order["name"]
        self.log = log
        with log.open("ab") as file:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "peers.worker", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=order["folder"],
                env=environment(order["threads"]),
                start_new_session=True,
            )
        self.unread = b""
        self.gone = False

    def ask(self, patience: float, **command: Any) -> dict[str, Any]:
        """The answer to a command; PeerFailed after ``patience`` seconds, and when the worker says no or
        dies.
        """
        if self.gone:
            raise PeerFailed("its process is gone")
        self._signal(signal.SIGCONT)
        try:
            self.child.stdin.write(json.dumps(command).encode() + b"\n")
            self.child.stdin.flush()
        except OSError:
            raise PeerFailed(self._end()) from None
        line = self._line(time.monotonic() + patience)
        if line is None:
            self.kill()
            raise PeerFailed(f"{command['cmd']} took more than {patience:.0f} s")
        self._signal(signal.SIGSTOP)
        reply = json.loads(line)
        if not reply.pop("ok"):
            raise PeerFailed(reply["reason"])
        return reply

    def _line(self, end: float) -> bytes | None:
        out = self.child.stdout.fileno()
        while b"\n" not in self.unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                return None
            some = os.read(out, 65536)
            if not some:
                raise PeerFailed(self._end())
            self.unread += some
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def _end(self) -> str:
        """Why the worker is gone, with the last thing it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(5)
        code = self.child.poll()
        self.kill()
        said = last_line(self.log)
        how = (
            f"killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"exit code {code}"
        )
        return f"its process ended ({how})" + (f": {said}" if said else "")

    def quit(self) -> None:
        """Lets the library close; whatever happens, the process is gone afterwards."""
        with contextlib.suppress(PeerFailed):
            self.ask(60, cmd="quit")
        self.kill()

    def kill(self) -> None:
        self.gone = True
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, number)


def last_line(log: Path) -> str:
    """The last line of a log that isn't blank, cut to a readable length."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""
    return ""
