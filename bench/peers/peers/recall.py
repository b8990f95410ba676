"""Exact truth, and how much of it an answer holds.

Two rows can be equally near, and which of them an exact search names is chance. So an answer is judged by
distances: a returned row counts when its exact distance is no larger than that of the k-th true neighbour
plus ``TOLERANCE``. Distances are computed here, in double precision, from the ids alone; what a peer says
about distances isn't read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .datasets import Dataset, Matrix

TOLERANCE = 1e-6
SPARE = 16
"""Candidates beyond k that the single precision pass keeps, so that its rounding can't lose a true neighbour.
"""
BLOCK_ROWS = 20_000
BLOCK_QUERIES = 500

Ids = npt.NDArray[np.int64]


def exact_distances(metric: str, query: Matrix, rows: Matrix) -> npt.NDArray[np.float64]:
    """Squared Euclidean, 1 - cosine for rows of any length, or the negative product, of one query (dim,) to
    rows (n, dim).
    """
    q, x = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return np.square(x - q).sum(axis=1)
    if metric == "cosine":
        return 1.0 - (x @ q) / (np.linalg.norm(x, axis=1) * np.linalg.norm(q))
    if metric == "ip":
        return -(x @ q)
    raise ValueError(f"unknown metric {metric!r}")


def brute_force(metric: str, rows: Matrix, queries: Matrix, k: int) -> Ids:
    """Ids (queries, k) of the nearest rows, nearest first: a blocked pass in float32, then an exact one."""
    keep = min(k + SPARE, len(rows))
    best_ids = np.zeros((len(queries), 0), dtype=np.int64)
    best = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        ids, near = [], []
        # Ordering by |x|^2 - 2 x.q is ordering by squared distance; for unit rows also by cosine.
        # Products alone are what inner product orders by.
        squares = np.einsum("ij,ij->i", block, block) if metric != "ip" else np.zeros(len(block), np.float32)
        for first in range(0, len(queries), BLOCK_QUERIES):
            score = squares - 2.0 * (queries[first : first + BLOCK_QUERIES] @ block.T)
            kept = min(keep, len(block))
            top = np.argpartition(score, kept - 1, axis=1)[:, :kept]
            ids.append(top + start)
            near.append(np.take_along_axis(score, top, axis=1))
        best_ids = np.hstack([best_ids, np.vstack(ids)])
        best = np.hstack([best, np.vstack(near)])
        if best.shape[1] > keep:
            top = np.argpartition(best, keep - 1, axis=1)[:, :keep]
            best_ids, best = np.take_along_axis(best_ids, top, axis=1), np.take_along_axis(best, top, axis=1)
    out = np.empty((len(queries), min(k, len(rows))), dtype=np.int64)
    for number, query in enumerate(queries):
        exact = exact_distances(metric, query, rows[best_ids[number]])
        order = np.lexsort((best_ids[number], exact))[: out.shape[1]]
        out[number] = best_ids[number][order]
    return out


class Truth:
    """The distance of the k-th true neighbour of every query of a set."""

    def __init__(self, dataset: Dataset, k: int) -> None:
        self.dataset = dataset
        self.k = min(k, len(dataset.rows))
        self.source = "file" if dataset.known is not None else "brute force"
        ids = dataset.known
        if ids is None:
            ids = brute_force(dataset.metric, dataset.rows, dataset.queries, self.k)
        if ids.shape[0] != len(dataset.queries) or ids.shape[1] < self.k:
            raise ValueError(f"truth of shape {ids.shape} for {len(dataset.queries)} queries and k = {k}")
        self.bound = np.array(
            [
                exact_distances(dataset.metric, query, dataset.rows[ids[number, : self.k]]).max()
                for number, query in enumerate(dataset.queries)
            ]
        )

    def recall(self, answers: Ids) -> float:
        """Mean share of k right rows over the first ``len(answers)`` queries; -1 pads short answers.

        An id named twice in one answer counts once; an id that is no row's is an error, for it says that the
        adapter or the peer mixes up its ids.
        """
        if len(answers) == 0 or len(answers) > len(self.bound):
            raise ValueError(f"{len(answers)} answers to {len(self.bound)} queries")
        right = 0
        for number, answer in enumerate(answers):
            ids = np.unique(answer[: self.k])
            ids = ids[ids != -1]
            if len(ids) == 0:
                continue
            if ids[0] < 0 or ids[-1] >= len(self.dataset.rows):
                raise ValueError(f"query {number}: id {ids[0] if ids[0] < 0 else ids[-1]} is no row")
            exact = exact_distances(self.dataset.metric, self.dataset.queries[number], self.dataset.rows[ids])
            right += int((exact <= self.bound[number] + TOLERANCE).sum())
        return right / (self.k * len(answers))
