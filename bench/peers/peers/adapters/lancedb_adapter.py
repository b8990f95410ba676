"""LanceDB: one partition whose rows stand in an HNSW graph over 8-bit codes, with and without reranking."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq as HnswSqIndex

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, M

BATCH = 10_000


class HnswSq(Adapter):
    name = "lancedb"
    package = "lancedb"
    kind = "database"
    note = f"IVF_HNSW_SQ, one partition, m {M}, ef_construction {EF_CONSTRUCTION}, no reranking"
    query_limit = 200
    has_batch = False
    has_inserts = True
    refine: ClassVar[int | None] = None

    def open_empty(self) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)
        self.schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.job.dim))])
        self.path = self.job.folder / "lance"
        self.table = lancedb.connect(str(self.path)).create_table("rows", schema=self.schema)

    def _add(self, start: int, vectors: Matrix) -> None:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.job.dim)
        ids = pa.array(np.arange(start, start + len(vectors)))
        self.table.add(pa.table({"id": ids, "vector": flat}, schema=self.schema))

    def build(self, rows: Rows) -> None:
        self.open_empty()
        for start, batch in rows.batches(BATCH):
            self._add(start, batch)
        self.distance = self.job.metric
        index = HnswSqIndex(
            distance_type=self.distance, num_partitions=1, m=M, ef_construction=EF_CONSTRUCTION
        )
        self.table.create_index("vector", config=index)
        self.table.optimize()

    def use(self, value: float) -> None:
        self.ef = int(value)

    def one(self, query: Matrix, k: int) -> Any:
        asked = self.table.search(query, vector_column_name="vector").limit(k).nprobes(1)
        if self.refine:
            asked = asked.refine_factor(self.refine).ef(max(self.ef, k * self.refine))
        else:
            asked = asked.ef(self.ef)
        return asked.select(["id", "_distance"]).to_arrow().column("id").to_numpy()

    def save(self) -> Path:
        return self.path

    def insert(self, number: int, vector: Matrix) -> None:
        self._add(number, vector.reshape(1, -1))


class HnswSqRefine(HnswSq):
    name = "lancedb-refine"
    note = HnswSq.note.replace("no reranking", "best 2k reranked in float32")
    has_inserts = False
    refine = 2
