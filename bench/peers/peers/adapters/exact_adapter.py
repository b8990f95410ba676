"""An exact scan with numpy, which is always there; its recall of 1 says that truth and ids are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Matrix
from ..rows import Rows
from .base import Adapter, Job, Keys, Setting


class Exact(Adapter):
    name = "exact"
    package = "numpy"
    note = "every row is compared, by one matrix product in float32; nothing on disk"
    query_limit = 200
    batch_threads = False
    has_changes = True

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        return [Setting("exact", 0)]

    def build(self, rows: Rows) -> None:
        self.rows = rows.all()
        self.ids = np.arange(len(self.rows))
        self.squares = np.einsum("ij,ij->i", self.rows, self.rows)

    def use(self, value: float) -> None:
        pass

    def one(self, query: Matrix, k: int) -> Any:
        score = self.squares - 2 * (self.rows @ query)
        return self.ids[_nearest(score[None, :], k)[0]]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.ids[_nearest(self.squares - 2 * (queries @ self.rows.T), k)]

    def save(self) -> Path:
        return self.job.folder

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        self.remove(keys)
        self.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        kept = ~np.isin(self.ids, keys)
        self.ids, self.rows, self.squares = self.ids[kept], self.rows[kept], self.squares[kept]

    def add(self, keys: Keys, vectors: Matrix) -> None:
        self.ids = np.concatenate([self.ids, keys])
        self.rows = np.concatenate([self.rows, vectors])
        self.squares = np.concatenate([self.squares, np.einsum("ij,ij->i", vectors, vectors)])


def _nearest(score: Matrix, k: int) -> Any:
    top = np.argpartition(score, min(k, score.shape[1]) - 1, axis=1)[:, :k]
    return np.take_along_axis(top, np.argsort(np.take_along_axis(score, top, axis=1), axis=1), axis=1)
