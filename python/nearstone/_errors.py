"""What calls raise: one class per kind of error, named by what the caller can do about it.

Every error is an ``Error`` and says in its text which value broke which limit. Beyond the text:

- ``kind``: the name of the kind, in snake case.
- ``outcome``: for a failed write, ``"not_applied"`` (definitely not, now or later) or ``"indeterminate"`` (it may be
  there after the next open, whole, or not at all).
- ``place``: for ``Corruption``, a dict of ``file``, ``offset``, ``expected`` and ``found``; else ``None``.

Kinds that Python has a word for are of that class as well: ``InvalidArgument`` is a ``ValueError``, ``NotFound`` a
``LookupError``, ``Io`` and ``DiskFull`` are ``OSError``.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """An error of a Nearstone call."""

    kind: str = "error"
    outcome: str = "not_applied"
    place: dict[str, Any] | None = None


class InvalidArgument(Error, ValueError):
    """The call was wrong; calling again with the same arguments fails again."""

    kind = "invalid_argument"


class NotFound(Error, LookupError):
    """No such collection, store, file or key."""

    kind = "not_found"


class AlreadyExists(Error):
    """It is there already, and is something else."""

    kind = "already_exists"


class NotAStore(Error):
    """The folder or file is not Nearstone's."""

    kind = "not_a_store"


class UnsupportedVersion(Error):
    """Written by a newer or an incompatible version."""

    kind = "unsupported_version"


class Corruption(Error):
    """Bytes on disk are not what was written; ``place`` says where."""

    kind = "corruption"


class Io(Error, OSError):
    """The operating system failed a call."""

    kind = "io"


class DiskFull(Io):
    """No room left; a write that fails with it was definitely not applied."""

    kind = "disk_full"


class Busy(Error):
    """Someone else holds it, or it took too long; try again later."""

    kind = "busy"


class ReadOnly(Error):
    """The store, the folder or the file system takes no writes."""

    kind = "read_only"


class Cancelled(Error):
    """The caller cancelled it."""

    kind = "cancelled"


class Poisoned(Error):
    """An earlier failure left the durable state unknown: the store takes no more writes until it is opened again."""

    kind = "poisoned"


class Closed(Error):
    """The store was closed, or this process is a forked child of the one that opened it."""

    kind = "closed"


__all__ = [
    "AlreadyExists",
    "Busy",
    "Cancelled",
    "Closed",
    "Corruption",
    "DiskFull",
    "Error",
    "InvalidArgument",
    "Io",
    "NotAStore",
    "NotFound",
    "Poisoned",
    "ReadOnly",
    "UnsupportedVersion",
]
