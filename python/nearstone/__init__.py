"""Nearstone: an embedded, durable vector store.

A program opens a folder, puts vectors with a key and a JSON payload into collections, searches and deletes
them, and never loses a write that was acknowledged::

    import nearstone

    with nearstone.open("notes.near") as store:
        notes = store.collection_or_create("notes", dim=3, metric="cosine", keys=str)
        notes.upsert("intro", [1.0, 0.0, 0.0], {"title": "Introduction"})
        notes.upsert(["usage", "end"], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        for hit in notes.search([0.9, 0.1, 0.0], k=2):
            print(hit.key, hit.distance, hit.payload)

Vectors come in as anything numpy can cast to float32; rows of C-contiguous float32 arrays are read in place.
Distances come out smaller for nearer rows: ``"l2"`` is the squared Euclidean distance, ``"cosine"`` is
``1 - cos``, ``"ip"`` is the negated inner product. Handles work from any thread, and every call that does
work releases the interpreter's lock. Arrays that a call was given must not be changed before it returns: not
by other threads, and not by a filter or a signal handler, which run in the middle of the call.
"""

from __future__ import annotations

from nearstone._errors import (
    AlreadyExists,
    Busy,
    Cancelled,
    Closed,
    Corruption,
    DiskFull,
    Error,
    InvalidArgument,
    Io,
    NotAStore,
    NotFound,
    Poisoned,
    ReadOnly,
    UnsupportedVersion,
)
from nearstone._nearstone import (
    BackgroundPause,
    Batch,
    BulkLoaded,
    Collection,
    CollectionAt,
    Commit,
    Hit,
    Hits,
    Row,
    Snapshot,
    Store,
    __version__,
    build_segments,
    in_memory,
    open,
)

__all__ = [
    "AlreadyExists",
    "BackgroundPause",
    "Batch",
    "BulkLoaded",
    "Busy",
    "Cancelled",
    "Closed",
    "Collection",
    "CollectionAt",
    "Commit",
    "Corruption",
    "DiskFull",
    "Error",
    "Hit",
    "Hits",
    "InvalidArgument",
    "Io",
    "NotAStore",
    "NotFound",
    "Poisoned",
    "ReadOnly",
    "Row",
    "Snapshot",
    "Store",
    "UnsupportedVersion",
    "__version__",
    "build_segments",
    "in_memory",
    "open",
]
