"""Nearstone: a durable folder whose rows stand in one sealed segment, searched by its graph or exactly, and a
store in memory with its unsealed graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nearstone
import numpy as np

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, Job, Keys, M, Setting

BATCH = 1000
UNLIMITED = 1 << 40


class Durable(Adapter):
    name = "nearstone"
    package = "nearstone"
    kind = "database"
    note = f"folder, synced at each commit, one sealed segment, m {M}, ef_construction {EF_CONSTRUCTION}"
    has_inserts = True
    has_changes = True
    has_products = True

    def open_empty(self) -> None:
        self.path = self.job.folder / "rows.near"
        self.store = nearstone.open(self.path, durability="sync", background=self.job.threads)
        self._create()

    def _create(self) -> None:
        self.rows = self.store.create_collection(
            "rows", self.job.dim, metric=self.job.metric, m=M, ef_construction=EF_CONSTRUCTION
        )

    def _upsert(self, rows: Rows) -> None:
        for start, batch in rows.batches(BATCH):
            self.rows.upsert(np.arange(start, start + len(batch), dtype=np.uint64), batch)

    def build(self, rows: Rows) -> None:
        self.open_empty()
        self._upsert(rows)
        self.rows.link(self.job.threads)
        self.rows.flush()
        self.rows.compact()
        self._check(sealed=True)

    def _check(self, sealed: bool) -> None:
        """What answers must be what the report says it is: one sealed segment, or the linked graph alone."""
        rows = self.store.stats()["collections"]["rows"]
        parts = len(rows["segments"]), rows["unsealed_rows"], rows["unlinked_rows"]
        if parts != ((1, 0, 0) if sealed else (0, rows["rows"], 0)):
            raise RuntimeError(f"(segments, unsealed rows, unlinked rows) are {parts} of {rows['rows']} rows")

    def use(self, value: float) -> None:
        self.ef = int(value)

    def one(self, query: Matrix, k: int) -> Any:
        return self.rows.search(query, k, ef=self.ef, payloads=False).keys

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.rows.search(queries, k, ef=self.ef, payloads=False, threads=threads).keys

    def save(self) -> Path:
        return self.path

    def close(self) -> None:
        self.store.close()

    def insert(self, number: int, vector: Matrix) -> None:
        self.rows.upsert(number, vector)

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        self.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        self.rows.delete(keys.astype(np.uint64))

    def add(self, keys: Keys, vectors: Matrix) -> None:
        for start in range(0, len(keys), BATCH):
            part = slice(start, start + BATCH)
            self.rows.upsert(keys[part].astype(np.uint64), vectors[part])


class Bulk(Durable):
    name = "nearstone-bulk"
    note = f"the same folder, by a bulk load into one sealed segment, m {M}, ef_construction {EF_CONSTRUCTION}"
    has_inserts = False
    has_changes = False

    def open_empty(self) -> None:
        self.path = self.job.folder / "rows.near"
        sizes = {"memory_budget": UNLIMITED, "seal_bytes": UNLIMITED, "seal_rows": (1 << 32) - 1}
        self.store = nearstone.open(self.path, durability="sync", background=self.job.threads, **sizes)
        self._create()

    def build(self, rows: Rows) -> None:
        self.open_empty()
        self.rows.bulk_load(np.arange(rows.count, dtype=np.uint64), rows.all(), threads=self.job.threads)
        self._check(sealed=True)


class Exhaustive(Durable):
    name = "nearstone-exact"
    note = "every row is compared; folder, synced at each commit, one sealed segment"
    has_inserts = False
    has_changes = False

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        return [Setting("exact", 0)]

    def use(self, value: float) -> None:
        pass

    def one(self, query: Matrix, k: int) -> Any:
        return self.rows.search(query, k, exact=True, payloads=False).keys

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.rows.search(queries, k, exact=True, payloads=False, threads=threads).keys


class InMemory(Durable):
    name = "nearstone-memory"
    kind = "library"
    note = (
        f"in memory, unsealed graph over float32, m {M}, ef_construction {EF_CONSTRUCTION}; nothing on disk"
    )
    has_inserts = False
    has_changes = False

    def open_empty(self) -> None:
        # Nothing may be sealed: the graph over float32 is what is measured here.
        self.store = nearstone.in_memory(
            background=self.job.threads,
            memory_budget=UNLIMITED,
            seal_bytes=UNLIMITED,
            seal_rows=(1 << 32) - 1,
            auto_compact=False,
        )
        self._create()

    def build(self, rows: Rows) -> None:
        self.open_empty()
        self._upsert(rows)
        self.rows.link(self.job.threads)
        self._check(sealed=False)

    def save(self) -> Path:
        return self.job.folder
