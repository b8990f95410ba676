"""Small promises between the driver and its processes, all Linux: they die with it, and keep to the cores
they are given.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """The kernel kills this process when the driver is gone, also while it is stopped."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def first_to_go() -> None:
    """If memory runs out, the kernel shall take this process and not the driver."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")


def keep_to(cores: set[int]) -> None:
    """Moves every thread of this process to these cores; threads they start later follow."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            os.sched_setaffinity(int(task), cores)
