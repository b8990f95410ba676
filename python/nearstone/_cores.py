"""How many threads are worth starting."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may run on, at least 1: a machine can have more than a container or ``taskset``
    leaves to it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
