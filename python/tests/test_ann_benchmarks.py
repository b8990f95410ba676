"""The classes for ann-benchmarks and big-ann-benchmarks, driven as their runners drive them, against exact
results."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import nearstone
from nearstone.ann_benchmarks import Nearstone
from nearstone.big_ann import NearstoneStreaming

Matrix = npt.NDArray[np.float32]


def made_rows(count: int, dim: int = 16, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def truth(metric: str, rows: Matrix, queries: Matrix, k: int) -> npt.NDArray[np.int64]:
    """Positions of the nearest rows (queries, k), by looking at all of them."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "angular":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    distances = -queries @ rows.T
    if metric == "euclidean":
        distances = 2 * distances + (rows**2).sum(axis=1)
    return np.argsort(distances, axis=1)[:, :k]


def recall(found: Any, expected: npt.NDArray[np.int64]) -> float:
    hits = sum(len(set(map(int, a)) & set(map(int, b))) for a, b in zip(found, expected, strict=True))
    return hits / expected.size


# ann-benchmarks


@pytest.mark.parametrize("metric", ["angular", "euclidean"])
@pytest.mark.parametrize("durable", [True, False])
def test_run_as_the_runner_does(metric: str, durable: bool, tmp_path: Path) -> None:
    rows, queries = made_rows(3000), made_rows(50, seed=2)
    expected = truth(metric, rows, queries, 10)
    param = {"M": 16, "efConstruction": 100, "durable": durable, "folder": str(tmp_path)}
    algorithm = Nearstone(metric, param)
    assert algorithm.get_memory_usage() > 1024
    algorithm.fit(rows)
    assert len(os.listdir(tmp_path)) == (1 if durable else 0)
    reached = []
    for ef in (10, 400):
        algorithm.set_query_arguments(ef)
        found = [algorithm.query(query, 10) for query in queries]
        for row in found:
            assert len(row) == 10 == len(set(row))
            assert rows[row[0]].shape == (16,)
        reached.append(recall(found, expected))
        algorithm.batch_query(queries, 10)
        batch = algorithm.get_batch_results()
        assert len(batch) == 50 and all(len(set(row)) == 10 for row in batch)
        assert recall(batch, expected) == pytest.approx(reached[-1], abs=0.05)
        assert f"ef={ef}" in str(algorithm) and "M=16" in str(algorithm)
    assert reached[0] > 0.6 and reached[1] > 0.97
    assert algorithm.get_additional() == {}
    algorithm.done()
    algorithm.done()
    assert os.listdir(tmp_path) == []


def test_fit_leaves_one_sealed_and_linked_file() -> None:
    algorithm = Nearstone("euclidean", {"durable": False})
    algorithm.fit(made_rows(9000))
    assert algorithm._scratch is not None
    (collection,) = algorithm._scratch.store.stats()["collections"].values()
    assert [segment["rows"] for segment in collection["segments"]] == [9000]
    assert collection["unsealed_rows"] == collection["unlinked_rows"] == 0
    algorithm.done()


def test_the_runner_may_pass_lists_float64_and_no_arguments() -> None:
    rows = made_rows(200)
    algorithm = Nearstone("euclidean")
    algorithm.fit([list(map(float, row)) for row in rows])
    assert int(algorithm.query(rows[7].astype(np.float64), 1)[0]) == 7
    assert len(algorithm.query(rows[7], 500)) == 200
    algorithm.fit(rows[:20])
    assert len(algorithm.query(rows[7], 500)) == 20
    algorithm.done()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_no_more_threads_than_cores_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pool(threads: int) -> ThreadPoolExecutor:
        asked.append(threads)
        return ThreadPoolExecutor(threads)

    monkeypatch.setattr("nearstone.ann_benchmarks.ThreadPoolExecutor", pool)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        for threads in (None, 3):
            algorithm = Nearstone("euclidean", {"durable": False, "threads": threads})
            algorithm.fit(made_rows(20))
            algorithm.done()
    finally:
        os.sched_setaffinity(0, before)
    assert asked == [1, 3]


def test_what_the_class_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric"):
        Nearstone("hamming", {})
    with pytest.raises(ValueError, match="ef_search"):
        Nearstone("angular", {"M": 16, "ef_search": 10})
    algorithm = Nearstone("angular", {"folder": str(tmp_path)})
    with pytest.raises(RuntimeError, match="fit"):
        algorithm.query(np.ones(4), 1)
    with pytest.raises(RuntimeError, match="batch_query"):
        algorithm.get_batch_results()
    for rows in (np.empty((0, 4)), np.ones(4)):
        with pytest.raises(ValueError, match="matrix"):
            algorithm.fit(rows)
    with pytest.raises(nearstone.InvalidArgument):
        algorithm.fit(np.zeros((3, 4)))
    algorithm.done()
    with pytest.raises(TypeError):
        Nearstone("angular", {"folder": str(tmp_path), "store": {"no_such_option": 1}}).fit(np.ones((3, 4)))
    assert os.listdir(tmp_path) == []


# big-ann-benchmarks, streaming


@pytest.mark.parametrize("metric", ["euclidean", "angular", "ip"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_runbook_of_all_operations(metric: str, durable: bool, tmp_path: Path) -> None:
    base, queries = made_rows(3000, seed=3), made_rows(40, seed=4)
    algorithm = NearstoneStreaming(metric, {"durable": durable, "folder": str(tmp_path)})
    algorithm.setup("float32", 2000, 16)
    algorithm.set_query_arguments({"ef": 200})
    live: dict[int, int] = {}  # tag -> position in base

    def look() -> float:
        tags = np.array(sorted(live), dtype=np.int64)
        algorithm.query(queries, 10)
        found = algorithm.get_results()
        assert found.shape == (40, 10) and np.isin(found, tags).all()
        assert algorithm.query_dists is not None and (np.diff(algorithm.query_dists, axis=1) >= 0).all()
        expected = tags[truth(metric, base[[live[int(tag)] for tag in tags]], queries, 10)]
        return recall(found, expected)

    for operation, start, end, source in (
        ("insert", 0, 1500, 0),
        ("delete", 200, 900, 0),
        ("insert", 1500, 2500, 1500),
        ("replace", 900, 1400, 2500),
        ("insert", 200, 300, 200),
        ("delete", 2000, 2600, 0),
    ):
        ids = np.arange(start, end, dtype=np.uint32)
        if operation == "delete":
            algorithm.delete(ids)
            for tag in ids:
                live.pop(int(tag), None)
        else:
            getattr(algorithm, operation)(base[source : source + len(ids)], ids)
            live.update({int(tag): source + n for n, tag in enumerate(ids)})
        assert look() > 0.93
    assert algorithm.track() == "stream" and algorithm.load_index("any") is False
    assert "ef=200" in str(algorithm)
    algorithm.done()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_are_rows_too(dtype: str) -> None:
    rows = np.random.default_rng(5).integers(0, 120, (400, 8)).astype(dtype)
    algorithm = NearstoneStreaming("euclidean", {"durable": False})
    algorithm.setup(dtype, 400, 8)
    algorithm.insert(rows, np.arange(400, dtype=np.uint32))
    algorithm.query(rows[:20], 3)
    assert algorithm.query_dists is not None and (algorithm.query_dists[:, 0] == 0).all()
    algorithm.done()


def test_too_few_rows_are_filled_up() -> None:
    algorithm = NearstoneStreaming("euclidean", {"durable": False, "link": False})
    algorithm.setup("float32", 10, 4)
    algorithm.query(np.ones((3, 4)), 5)
    assert (algorithm.get_results() == -1).all() and np.isinf(algorithm.query_dists).all()  # type: ignore[arg-type]
    algorithm.insert(np.eye(4), [7, 8, 9, 10])
    algorithm.insert(np.empty((0, 4)), np.empty(0))
    algorithm.delete([])
    algorithm.delete([9, 999])
    algorithm.query(np.eye(4)[:2], 5)
    found = algorithm.get_results()
    assert found[0, 0] == 7 and found[1, 0] == 8
    assert (found[:, 3:] == -1).all() and sorted(found[0, :3]) == [7, 8, 10]
    algorithm.setup("float32", 10, 2)
    algorithm.query(np.ones((1, 2)), 1)
    assert algorithm.get_results()[0, 0] == -1
    algorithm.done()


def test_of_two_rows_under_one_id_the_last_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = NearstoneStreaming("euclidean", {"durable": False})
    algorithm.setup("float32", 10, 4)
    # Slices on several threads have no order.
    monkeypatch.setattr("nearstone.big_ann.upsert_all", lambda *args: pytest.fail("sliced"))
    algorithm.insert(np.eye(4)[[0, 1, 2, 3, 0]], [5, 5, 6, 6, 5])
    algorithm.query(np.eye(4), 1)
    assert algorithm.get_results()[[0, 3], 0].tolist() == [5, 6]
    assert algorithm.query_dists is not None and algorithm.query_dists[:, 0].tolist() == [0.0, 2.0, 2.0, 0.0]
    algorithm.done()


def test_what_streaming_refuses() -> None:
    with pytest.raises(ValueError, match="metric"):
        NearstoneStreaming("cosine", {})
    with pytest.raises(ValueError, match="R"):
        NearstoneStreaming("euclidean", {"R": 32})
    algorithm = NearstoneStreaming("euclidean", {"durable": False})
    with pytest.raises(RuntimeError, match="setup"):
        algorithm.insert(np.ones((1, 4)), [0])
    with pytest.raises(RuntimeError, match="query"):
        algorithm.get_results()
    with pytest.raises(ValueError, match="dtype"):
        algorithm.setup("float64", 10, 4)
    algorithm.setup("float32", 10, 4)
    with pytest.raises(ValueError, match="2 ids"):
        algorithm.insert(np.ones((1, 4)), [0, 1])
    with pytest.raises(ValueError, match="negative"):
        algorithm.insert(np.ones((1, 4)), [-1])
    with pytest.raises(TypeError, match="integers"):
        algorithm.insert(np.ones((1, 4)), [0.5])
    with pytest.raises(nearstone.InvalidArgument):
        algorithm.insert(np.ones((1, 5)), [0])
    with pytest.raises(ValueError, match="Ls"):
        algorithm.set_query_arguments({"Ls": 50})
    with pytest.raises(NotImplementedError):
        algorithm.fit("dataset")
    with pytest.raises(NotImplementedError):
        algorithm.range_query(np.ones((1, 4)), 1.0)
    algorithm.query(np.ones((1, 4)), 1)
    assert algorithm.get_results()[0, 0] == -1
    algorithm.done()
