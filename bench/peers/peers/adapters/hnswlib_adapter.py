"""hnswlib: HNSW over float32, the common yardstick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hnswlib

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, Keys, M

BATCH = 10_000


class Hnswlib(Adapter):
    name = "hnswlib"
    package = "hnswlib"
    note = f"float32, M {M}, ef_construction {EF_CONSTRUCTION}"
    has_changes = True
    has_products = True

    def build(self, rows: Rows) -> None:
        self.index = hnswlib.Index(space=self.job.metric, dim=self.job.dim)
        self.index.init_index(
            max_elements=self.job.rows_max or rows.count,
            M=M,
            ef_construction=EF_CONSTRUCTION,
            random_seed=100,
            allow_replace_deleted=self.job.rows_max is not None,
        )
        for start, batch in rows.batches(BATCH):
            self.index.add_items(batch, range(start, start + len(batch)), num_threads=self.job.threads)

    def use(self, value: float) -> None:
        self.index.set_ef(int(value))

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.knn_query(query, k, num_threads=1)[0][0]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.index.knn_query(queries, k, num_threads=threads)[0]

    def save(self) -> Path:
        path = self.job.folder / "index.bin"
        self.index.save_index(str(path))
        return path

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        # In place, which is the library's way to update: a key that was deleted and comes back into the slot
        # of another one would confuse its table of keys.
        self.index.add_items(vectors, keys, num_threads=self.job.threads)

    def remove(self, keys: Keys) -> None:
        for key in keys:
            self.index.mark_deleted(int(key))

    def add(self, keys: Keys, vectors: Matrix) -> None:
        self.index.add_items(vectors, keys, num_threads=self.job.threads, replace_deleted=True)
