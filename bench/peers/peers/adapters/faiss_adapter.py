"""faiss: four of its graphs and inverted lists, and its exact scan. Cosine sets are searched by Euclidean distance of unit
vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, Job, M, Setting

BATCH = 10_000
TRAIN_ROWS = 100_000
DIMS_PER_CODE = 4
# Product quantizers learn from 100 rows per centroid in 12 rounds: the defaults take minutes, for codes that
# find no more.
PQ_POINTS = 100
PQ_ROUNDS = 12


class _Faiss(Adapter):
    package = "faiss-cpu"

    def make(self) -> Any:
        raise NotImplementedError

    def build(self, rows: Rows) -> None:
        faiss.omp_set_num_threads(self.job.threads)
        self.threads = self.job.threads
        self.index = self.make()
        if not self.index.is_trained:
            self.index.train(self._sample(rows))
        for _, batch in rows.batches(BATCH):
            self.index.add(batch)

    def _sample(self, rows: Rows) -> Matrix:
        """Rows to train on: all, or blocks from all over when there are too many."""
        if rows.count <= TRAIN_ROWS:
            return rows.all()
        starts = np.linspace(0, rows.count - 1000, TRAIN_ROWS // 1000).astype(int)
        return np.concatenate([rows.read(start, start + 1000) for start in starts.tolist()])

    def prepare(self, queries: Matrix) -> list[Any]:
        return [query[None, :] for query in queries]

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.search(query, k)[1][0]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        self._threads(threads)
        try:
            return self.index.search(queries, k)[1]
        finally:
            self._threads(1)

    def _threads(self, threads: int) -> None:
        if threads != self.threads:
            faiss.omp_set_num_threads(threads)
            self.threads = threads

    def save(self) -> Path:
        path = self.job.folder / "index.faiss"
        faiss.write_index(self.index, str(path))
        return path


class Flat(_Faiss):
    name = "faiss-flat"
    note = "IndexFlatL2: every row is compared, by matrix products of blocks"

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        return [Setting("exact", 0)]

    def make(self) -> Any:
        return faiss.IndexFlatL2(self.job.dim)

    def use(self, value: float) -> None:
        self._threads(1)


class _Graph(_Faiss):
    def make(self) -> Any:
        index = self.graph()
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def graph(self) -> Any:
        raise NotImplementedError

    def use(self, value: float) -> None:
        self._threads(1)
        self.index.hnsw.efSearch = int(value)


class Hnsw(_Graph):
    name = "faiss-hnsw"
    note = f"IndexHNSWFlat, M {M}, efConstruction {EF_CONSTRUCTION}"

    def graph(self) -> Any:
        return faiss.IndexHNSWFlat(self.job.dim, M, faiss.METRIC_L2)


class HnswSq8(_Graph):
    name = "faiss-hnsw-sq8"
    note = f"IndexHNSWSQ, 8 bits, no reranking, M {M}, efConstruction {EF_CONSTRUCTION}"

    def graph(self) -> Any:
        return faiss.IndexHNSWSQ(self.job.dim, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_L2)


class HnswPq(_Graph):
    name = "faiss-hnsw-pq"
    note = f"IndexHNSWPQ, one byte per {DIMS_PER_CODE} dimensions, no reranking, M {M}"

    def graph(self) -> Any:
        index = faiss.IndexHNSWPQ(self.job.dim, self.job.dim // DIMS_PER_CODE, M, 8, faiss.METRIC_L2)
        _learn_briefly(faiss.downcast_index(index.storage).pq)
        return index


def _learn_briefly(quantizer: Any) -> None:
    quantizer.cp.max_points_per_centroid = PQ_POINTS
    quantizer.cp.niter = PQ_ROUNDS


def _lists(rows: int) -> int:
    return max(16, min(int(4 * math.sqrt(rows)), rows // 39))


class IvfPq(_Faiss):
    name = "faiss-ivfpq"
    note = f"IVFPQ, 4 sqrt(n) lists, HNSW quantizer, one byte per {DIMS_PER_CODE} dimensions, no reranking"

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        lists = _lists(job.rows)
        values = sorted({min(max(1, ef // 4), lists) for ef in efs})
        return [Setting(f"nprobe={value}", value) for value in values]

    def make(self) -> Any:
        self.quantizer = faiss.IndexHNSWFlat(self.job.dim, M, faiss.METRIC_L2)
        self.quantizer.hnsw.efConstruction = EF_CONSTRUCTION
        self.quantizer.hnsw.efSearch = 64
        self.lists = faiss.IndexIVFPQ(
            self.quantizer, self.job.dim, _lists(self.job.rows), self.job.dim // DIMS_PER_CODE, 8
        )
        self.lists.cp.min_points_per_centroid = 1
        _learn_briefly(self.lists.pq)
        return self.lists

    def use(self, value: float) -> None:
        self._threads(1)
        self.lists.nprobe = int(value)
        self.quantizer.hnsw.efSearch = max(64, 2 * int(value))


class IvfPqRefine(IvfPq):
    name = "faiss-ivfpq-refine"
    note = IvfPq.note.replace("no reranking", "best 100 reranked in float32")

    def make(self) -> Any:
        index = faiss.IndexRefineFlat(super().make())
        index.k_factor = 10
        return index
