"""zvec: HNSW over float32, 8-bit integers and RaBitQ codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zvec

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, M

BATCH = 1000


class Plain(Adapter):
    name = "zvec"
    package = "zvec"
    kind = "database"
    note = f"float32, m {M}, ef_construction {EF_CONSTRUCTION}, optimized"
    has_batch = False
    has_inserts = True
    has_sync = True

    def index(self, metric: Any) -> Any:
        return zvec.HnswIndexParam(metric, M, EF_CONSTRUCTION)

    def parameters(self, ef: int) -> Any:
        return zvec.HnswQueryParam(ef)

    def open_empty(self) -> None:
        zvec.init(
            log_level=zvec.LogLevel.ERROR, query_threads=self.job.threads, optimize_threads=self.job.threads
        )
        metric = zvec.MetricType.COSINE if self.job.metric == "cosine" else zvec.MetricType.L2
        vectors = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, self.job.dim, self.index(metric))
        self.path = self.job.folder / "collection"
        self.rows = zvec.create_and_open(str(self.path), zvec.CollectionSchema("rows", vectors=vectors))

    def build(self, rows: Rows) -> None:
        self.open_empty()
        for start, batch in rows.batches(BATCH):
            docs = [zvec.Doc(str(start + i), vectors={"v": vector}) for i, vector in enumerate(batch)]
            for status in self.rows.insert(docs):
                if not status.ok():
                    raise RuntimeError(f"insert: {status}")
        self.rows.optimize(zvec.OptimizeOption(self.job.threads))
        self.rows.flush()

    def use(self, value: float) -> None:
        self.search = self.parameters(int(value))

    def one(self, query: Matrix, k: int) -> Any:
        asked = zvec.Query("v", vector=query, param=self.search)
        return [doc.id for doc in self.rows.query(asked, topk=k, output_fields=[])]

    def save(self) -> Path:
        self.rows.flush()
        return self.path

    def close(self) -> None:
        self.rows.close()

    def insert(self, number: int, vector: Matrix) -> None:
        status = self.rows.insert(zvec.Doc(str(number), vectors={"v": vector}))
        if not status.ok():
            raise RuntimeError(f"insert: {status}")

    def sync(self) -> None:
        self.rows.flush()


class Int8(Plain):
    name = "zvec-int8"
    note = f"8-bit integers, m {M}, ef_construction {EF_CONSTRUCTION}, optimized"
    has_inserts = False

    def index(self, metric: Any) -> Any:
        return zvec.HnswIndexParam(metric, M, EF_CONSTRUCTION, zvec.QuantizeType.INT8)


class Rabitq(Plain):
    name = "zvec-rabitq"
    note = f"RaBitQ codes of 7 bits, m {M}, ef_construction {EF_CONSTRUCTION}, optimized"
    has_inserts = False

    def index(self, metric: Any) -> Any:
        return zvec.HnswRabitqIndexParam(metric, m=M, ef_construction=EF_CONSTRUCTION)

    def parameters(self, ef: int) -> Any:
        return zvec.HnswRabitqQueryParam(ef)
