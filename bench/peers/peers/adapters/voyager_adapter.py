"""Voyager: a maintained descendant of hnswlib, over float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import voyager

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, M

BATCH = 10_000


class Voyager(Adapter):
    name = "voyager"
    package = "voyager"
    note = f"float32, M {M}, ef_construction {EF_CONSTRUCTION}"

    def build(self, rows: Rows) -> None:
        space = voyager.Space.Cosine if self.job.metric == "cosine" else voyager.Space.Euclidean
        self.index = voyager.Index(
            space, rows.dim, M=M, ef_construction=EF_CONSTRUCTION, max_elements=rows.count
        )
        for start, batch in rows.batches(BATCH):
            self.index.add_items(batch, list(range(start, start + len(batch))), num_threads=self.job.threads)

    def use(self, value: float) -> None:
        self.ef = int(value)

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.query(query, k, num_threads=1, query_ef=self.ef)[0]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.index.query(queries, k, num_threads=threads, query_ef=self.ef)[0]

    def save(self) -> Path:
        path = self.job.folder / "index.voy"
        self.index.save(str(path))
        return path
