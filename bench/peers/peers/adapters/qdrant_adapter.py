"""Qdrant Edge: the engine of Qdrant in the process. Rows go in first, then its optimizer builds one indexed
segment. It does nothing behind: after changes the optimizer is called again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import qdrant_edge as qe

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, Keys, M

BATCH = 1000


class Plain(Adapter):
    name = "qdrant-edge"
    package = "qdrant-edge-py"
    kind = "database"
    note = f"float32 in RAM, m {M}, ef_construct {EF_CONSTRUCTION}, one segment"
    batch_threads = False
    has_inserts = True
    has_sync = True
    has_changes = True
    quantized: ClassVar[bool] = False

    def open_empty(self) -> None:
        distance = qe.Distance.Cosine if self.job.metric == "cosine" else qe.Distance.Euclid
        quantization = None
        if self.quantized:
            quantization = qe.ScalarQuantizationConfig(qe.ScalarType.Int8, memory=qe.Memory.Pinned)
        self.path = self.job.folder / "shard"
        self.path.mkdir()
        self.shard = qe.EdgeShard.create(
            str(self.path),
            qe.EdgeConfig(
                vectors=qe.EdgeVectorParams(self.job.dim, distance, memory=qe.Memory.Cached),
                quantization_config=quantization,
                hnsw_config=qe.HnswIndexConfig(M, EF_CONSTRUCTION, 1, max_indexing_threads=self.job.threads),
                # A threshold of 1 KB: every segment gets its graph, however small the set.
                optimizers=qe.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1),
                max_search_threads=1,
            ),
        )

    def build(self, rows: Rows) -> None:
        self.open_empty()
        for start, batch in rows.batches(BATCH):
            self._upsert(range(start, start + len(batch)), batch)
        self.changed()
        self.shard.flush()

    def _upsert(self, keys: Iterable[int], vectors: Matrix) -> None:
        points = [qe.Point(int(key), vector) for key, vector in zip(keys, vectors, strict=True)]
        self.shard.update(qe.UpdateOperation.upsert_points(points))

    def use(self, value: float) -> None:
        self.parameters = qe.SearchParams(hnsw_ef=int(value))

    def prepare(self, queries: Matrix) -> list[Any]:
        return [query.tolist() for query in queries]

    def one(self, query: Any, k: int) -> Any:
        request = qe.QueryRequest(k, query=qe.Query.Nearest(query), params=self.parameters)
        return [point.id for point in self.shard.query(request)]

    def prepare_batch(self, queries: Matrix) -> Any:
        return self.prepare(queries)

    def many(self, queries: Any, k: int, threads: int) -> Any:
        requests = [qe.QueryRequest(k, query=qe.Query.Nearest(q), params=self.parameters) for q in queries]
        answers = self.shard.query_batch(qe.QueryBatchRequest(requests))
        return [[point.id for point in answer] for answer in answers]

    def save(self) -> Path:
        self.shard.flush()
        return self.path

    def close(self) -> None:
        self.shard.close()

    def insert(self, number: int, vector: Matrix) -> None:
        self.shard.update(qe.UpdateOperation.upsert_points([qe.Point(number, vector)]))

    def sync(self) -> None:
        self.shard.flush()

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        self.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        self.shard.update(qe.UpdateOperation.delete_points([int(key) for key in keys]))

    def add(self, keys: Keys, vectors: Matrix) -> None:
        for start in range(0, len(keys), BATCH):
            part = slice(start, start + BATCH)
            self._upsert(keys[part], vectors[part])

    def changed(self) -> None:
        while self.shard.optimize():
            pass


class Int8(Plain):
    name = "qdrant-edge-int8"
    note = f"8-bit scalar quantization in RAM, m {M}, ef_construct {EF_CONSTRUCTION}, one segment"
    has_inserts = False
    has_changes = False
    quantized = True
