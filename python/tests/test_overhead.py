"""What one search costs on top of the engine's.

The same query runs through `Collection.search` and, repeated inside the module, without Python around it;
both alternately, in many short rounds, so that some are undisturbed, and the fastest of each counts. The
collection is tiny, so that the difference is not lost in the search itself.
"""

from __future__ import annotations

import time

import numpy as np

import nearstone
from nearstone import _nearstone

LIMIT_NS = 2000
REPEAT = 100
ROUNDS = 300


def measure(rows: nearstone.Collection, query: np.ndarray) -> tuple[float, float]:
    """Nanoseconds of one search through Python and of one inside, the fastest round of each."""
    outside, inside = [], []
    search = rows.search
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        for _ in range(REPEAT):
            search(query, k=10, payloads=False)
        outside.append((time.perf_counter_ns() - begin) / REPEAT)
        inside.append(_nearstone._search_ns(rows, query, 10, 64, REPEAT))
    return min(outside), min(inside)


def test_one_search_costs_less_than_two_microseconds_more() -> None:
    with nearstone.in_memory(background="manual") as store:
        rows = store.create_collection("rows", 8, metric="l2")
        matrix = np.random.default_rng(1).standard_normal((100, 8), dtype=np.float32)
        rows.upsert(range(100), matrix)
        rows.link(1)
        said = []
        for _ in range(3):
            outside, inside = measure(rows, matrix[0])
            assert 100 < inside <= outside * 1.2, "the inner search was measured as well"
            said.append(
                f"{outside:.0f} ns through Python, {inside:.0f} ns inside: {outside - inside:.0f} ns more"
            )
            print(said[-1])
            if outside - inside < LIMIT_NS:
                return
        raise AssertionError("; ".join(said) + f"; the limit is {LIMIT_NS} ns")
