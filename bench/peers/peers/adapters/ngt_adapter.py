"""NGT: its default graph (ANNG), searched by widening the radius (epsilon) rather than by a list length."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ngtpy
import numpy as np

from ..datasets import Matrix
from ..rows import Rows
from .base import Adapter, Job, M, Setting

BATCH = 10_000
EPSILONS = (-0.04, -0.02, 0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16)


def _set_openmp_threads(threads: int) -> None:
    """For batch_search, which has no parameter for it: asks the OpenMP that the wheel brought along."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libgomp" in line and "ngt.libs" in line:
            ctypes.CDLL(line.split(maxsplit=5)[5]).omp_set_num_threads(threads)
            return


class Anng(Adapter):
    name = "ngt"
    package = "ngt"
    note = f"ANNG, float32, {M} edges at creation (made both ways), else defaults; the sweep is over epsilon"

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        count = min(len(efs), len(EPSILONS))
        picked = np.unique(np.linspace(0, len(EPSILONS) - 1, count).round().astype(int))
        return [Setting(f"epsilon={EPSILONS[i]:g}", EPSILONS[i]) for i in picked]

    def build(self, rows: Rows) -> None:
        self.path = self.job.folder / "index"
        ngtpy.create(str(self.path), rows.dim, edge_size_for_creation=M, distance_type="L2")
        self.index = ngtpy.Index(str(self.path), log_disabled=True)
        for _, batch in rows.batches(BATCH):
            self.index.batch_insert(batch, num_threads=self.job.threads, build=False)
        self.index.build_index(num_threads=self.job.threads)

    def use(self, value: float) -> None:
        self.epsilon = value
        self.index.set(epsilon=value)

    def one(self, query: Matrix, k: int) -> Any:
        return self.index.search(query, k, self.epsilon, with_distance=False)

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        _set_openmp_threads(threads)
        results = ngtpy.BatchResults()
        self.index.batch_search(queries, results, k, with_distance=False)
        bounds = results.get_index()
        return np.split(results.get_indexed_ids(), bounds[1:-1])

    def save(self) -> Path:
        self.index.save()
        return self.path

    def close(self) -> None:
        self.index.close()
