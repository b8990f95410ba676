"""Scalable Vector Search: a Vamana graph over float32, and over its LVQ codes where the processor is
accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import svs

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, M

DEGREE = 2 * M


class Vamana(Adapter):
    name = "svs"
    package = "scalable-vs"
    note = f"Vamana, float32, degree {DEGREE}, window {EF_CONSTRUCTION}, alpha 1.2"

    def build(self, rows: Rows) -> None:
        parameters = svs.VamanaBuildParameters(
            alpha=1.2, graph_max_degree=DEGREE, window_size=EF_CONSTRUCTION
        )
        self.index = svs.Vamana.build(
            parameters, self.source(rows), svs.DistanceType.L2, num_threads=self.job.threads
        )

    def source(self, rows: Rows) -> Any:
        return rows.all()

    def use(self, value: float) -> None:
        self._threads(1)
        self.index.search_window_size = int(value)

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.search(query, k)[0][0]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        self._threads(threads)
        try:
            return self.index.search(queries, k)[0]
        finally:
            self._threads(1)

    def _threads(self, threads: int) -> None:
        if self.index.num_threads != threads:
            self.index.num_threads = threads

    def save(self) -> Path:
        folder = self.job.folder / "index"
        folder.mkdir()
        self.index.save(str(folder / "config"), str(folder / "graph"), str(folder / "data"))
        return folder


class VamanaLvq(Vamana):
    name = "svs-lvq"
    note = f"Vamana, LVQ 4 + 8 bits, degree {DEGREE}, window {EF_CONSTRUCTION}, alpha 1.2"

    def source(self, rows: Rows) -> Any:
        vectors = self.job.folder / "vectors.fvecs"
        with vectors.open("wb") as file:
            for _, batch in rows.batches(10_000):
                counted = np.empty((len(batch), rows.dim + 1), dtype=np.float32)
                counted[:, 0].view(np.int32)[:] = rows.dim
                counted[:, 1:] = batch
                counted.tofile(file)
        loader = svs.VectorDataLoader(str(vectors), svs.DataType.float32, dims=rows.dim)
        return svs.LVQLoader(loader, primary=4, residual=8)

    def save(self) -> Path:
        (self.job.folder / "vectors.fvecs").unlink()
        return super().save()
