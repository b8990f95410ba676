"""Closes the stores that a program leaves open when it ends, so that the next open finds a clean log.

A store is watched weakly: one that nobody holds any more has been closed by that.
"""

from __future__ import annotations

import atexit
import weakref
from typing import Any

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(store: Any) -> None:
    """Has the store closed at exit, unless it is gone before."""
    _open.add(store)


@atexit.register
def _close_all() -> None:
    for store in list(_open):
        try:
            store.close()
        except Exception:  # noqa: BLE001
            # Nobody is left to hear of it, and the other stores want to be closed too.
            continue
