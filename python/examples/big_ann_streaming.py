"""A runbook of the streaming track of big-ann-benchmarks, played over a small set made here.

    python big_ann_streaming.py

The set has clusters, and the runbook inserts and deletes cluster after cluster: what is searched is never
spread the way it was when the graph began. `nearstone.big_ann.NearstoneStreaming` is the class that the
benchmark would load; the loop below calls it the way its runner does and compares each search with the exact
result of that moment.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from nearstone.big_ann import NearstoneStreaming

ROWS, QUERIES, DIM, CLUSTERS, K = 32_000, 500, 48, 16, 10
SIZE = ROWS // CLUSTERS


def runbook() -> list[dict[str, Any]]:
    """Clusters come one by one; from the sixth on the oldest goes. Then a replacement in place."""
    steps: list[dict[str, Any]] = []
    for n in range(CLUSTERS):
        steps.append({"operation": "insert", "start": n * SIZE, "end": (n + 1) * SIZE})
        if n >= 6:
            steps.append({"operation": "delete", "start": (n - 6) * SIZE, "end": (n - 5) * SIZE})
        if n % 3 == 2:
            steps.append({"operation": "search"})
    last = (CLUSTERS - 1) * SIZE
    steps.append(
        {"operation": "replace", "tags_start": last, "tags_end": ROWS, "ids_start": 0, "ids_end": SIZE}
    )
    steps.append({"operation": "search"})
    return steps


def main() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((CLUSTERS, DIM))
    rows = (np.repeat(centres, SIZE, axis=0) + 0.6 * rng.standard_normal((ROWS, DIM))).astype(np.float32)
    queries = (
        centres[rng.integers(0, CLUSTERS, QUERIES)] + 0.6 * rng.standard_normal((QUERIES, DIM))
    ).astype(np.float32)
    live: dict[int, int] = {}  # tag -> row

    def truth() -> npt.NDArray[np.int64]:
        tags = np.fromiter(live, dtype=np.int64)
        now = rows[np.fromiter(live.values(), dtype=np.int64)]
        distances = (now**2).sum(axis=1) - 2 * (queries @ now.T)
        return tags[np.argpartition(distances, K, axis=1)[:, :K]]

    algorithm = NearstoneStreaming("euclidean", {"M": 16, "efConstruction": 100})
    algorithm.setup("float32", 8 * SIZE, DIM)
    algorithm.set_query_arguments({"ef": 80})
    print(algorithm)
    try:
        for number, step in enumerate(runbook(), 1):
            start = time.perf_counter()
            match step:
                case {"operation": "insert", "start": first, "end": end}:
                    algorithm.insert(rows[first:end], np.arange(first, end, dtype=np.uint32))
                    live.update((tag, tag) for tag in range(first, end))
                case {"operation": "delete", "start": first, "end": end}:
                    algorithm.delete(np.arange(first, end, dtype=np.uint32))
                    for tag in range(first, end):
                        del live[tag]
                case {"operation": "replace", "tags_start": first, "tags_end": end, "ids_start": source}:
                    tags = np.arange(first, end, dtype=np.uint32)
                    algorithm.replace(rows[source : source + len(tags)], tags)
                    live.update((first + n, source + n) for n in range(len(tags)))
                case {"operation": "search"}:
                    algorithm.query(queries, K)
            took = time.perf_counter() - start
            line = f"{number:>3}  {step['operation']:<8} {len(live):>7,} rows  {took:6.2f} s"
            if step["operation"] == "search":
                found = algorithm.get_results()
                agree = [np.isin(a, b).sum() / K for a, b in zip(found, truth(), strict=True)]
                line += f"  {QUERIES / took:>8,.0f}/s  recall {np.mean(agree):.4f}"
                assert np.mean(agree) > 0.8
            print(line)
    finally:
        algorithm.done()


if __name__ == "__main__":
    main()
