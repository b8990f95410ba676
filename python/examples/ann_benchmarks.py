"""Recall against queries per second, as ann-benchmarks measures it, over a small set made here.

    python ann_benchmarks.py

`nearstone.ann_benchmarks.Nearstone` is the class that the benchmark would load; the loop below calls it the
way its runner does. The rows have 12 latent dimensions in 64, so they are neither trivial nor hopeless.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from nearstone.ann_benchmarks import Nearstone

ROWS, QUERIES, DIM, LATENT, K = 10_000, 500, 64, 12, 10


def made(metric: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Rows, queries, and the true nearest rows of each query."""
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((LATENT, DIM)) / np.sqrt(LATENT)
    points = np.tanh(rng.standard_normal((ROWS + QUERIES, LATENT)) @ mix)
    points = (points + 0.05 * rng.standard_normal(points.shape)).astype(np.float32)
    rows, queries = points[:ROWS], points[ROWS:]
    a, b = queries, rows
    if metric == "angular":
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    distances = (b**2).sum(axis=1) - 2 * (a @ b.T)
    return rows, queries, np.argpartition(distances, K, axis=1)[:, :K]


def recall(found: npt.ArrayLike, truth: npt.NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).sum() / K for a, b in zip(np.asarray(found), truth, strict=True)]))


def main() -> None:
    for metric in ("angular", "euclidean"):
        rows, queries, truth = made(metric)
        algorithm = Nearstone(metric, {"M": 16, "efConstruction": 200})
        try:
            before = algorithm.get_memory_usage()
            start = time.perf_counter()
            algorithm.fit(rows)
            took, grown = time.perf_counter() - start, algorithm.get_memory_usage() - before
            print(f"{metric}: {ROWS:,} x {DIM} built in {took:.1f} s, {grown / 1024:.0f} MiB more resident")
            print(f"  {'':<60} recall   one by one      batch")
            for ef in (10, 20, 40, 80, 160):
                algorithm.set_query_arguments(ef)
                start = time.perf_counter()
                found = [algorithm.query(query, K) for query in queries]
                single = QUERIES / (time.perf_counter() - start)
                start = time.perf_counter()
                algorithm.batch_query(queries, K)
                batch = QUERIES / (time.perf_counter() - start)
                assert recall(algorithm.get_batch_results(), truth) > 0.5
                print(f"  {algorithm!s:<60} {recall(found, truth):.4f} {single:>8,.0f}/s {batch:>8,.0f}/s")
        finally:
            algorithm.done()


if __name__ == "__main__":
    main()
