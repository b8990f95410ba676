"""usearch: HNSW over float32 or 8-bit integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from usearch.index import Index

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, Keys, M

BATCH = 10_000


class F32(Adapter):
    name = "usearch"
    package = "usearch"
    note = f"float32, connectivity {M}, expansion_add {EF_CONSTRUCTION}"
    dtype: ClassVar[str] = "f32"
    has_changes = True
    has_products = True

    def build(self, rows: Rows) -> None:
        self.index = Index(
            ndim=self.job.dim,
            metric={"cosine": "cos", "l2": "l2sq", "ip": "ip"}[self.job.metric],
            dtype=self.dtype,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        for start, batch in rows.batches(BATCH):
            self.index.add(np.arange(start, start + len(batch)), batch, threads=self.job.threads)

    def use(self, value: float) -> None:
        self.index.expansion_search = int(value)

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.search(query, k, threads=1).keys

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.index.search(queries, k, threads=threads).keys

    def save(self) -> Path:
        path = self.job.folder / "index.usearch"
        self.index.save(str(path))
        return path

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        self.remove(keys)
        self.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        self.index.remove(keys)

    def add(self, keys: Keys, vectors: Matrix) -> None:
        self.index.add(keys, vectors, threads=self.job.threads)


class I8(F32):
    name = "usearch-i8"
    note = f"8-bit integers, no reranking, connectivity {M}, expansion_add {EF_CONSTRUCTION}"
    dtype = "i8"
