"""Bulk loads: rows that become visible together, what becomes of keys that are there, and calls that do not end well."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone


def matrix(rng: np.random.Generator, n: int, dim: int = 4) -> np.ndarray:
    return rng.standard_normal((n, dim), dtype=np.float32)


def test_rows_are_there_together_and_after_a_reopening(path: Path, rng: np.random.Generator) -> None:
    vectors = matrix(rng, 1000)
    payloads = [{"i": i} if i % 3 else None for i in range(1000)]
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", 4)
        loaded = rows.bulk_load(range(1000), vectors, payloads)
        assert (loaded.lsn, loaded.inserted, loaded.replaced, loaded.kept) == (1, 1000, 0, 0)
        assert repr(loaded) == "BulkLoaded(lsn=1, inserted=1000, replaced=0, kept=0)"
        assert store.stats()["collections"]["rows"]["unsealed_rows"] == 0
    with nearstone.open(path) as store:
        rows = store.collection("rows")
        assert len(rows) == 1000
        for i in (0, 1, 500, 999):
            row = rows.get(i)
            assert row is not None and row.version == 1 and row.payload == payloads[i]
            assert row.vector.tobytes() == vectors[i].tobytes()
            assert rows.search(vectors[i], k=1).keys[0] == i
        assert store.verify()["rows"] == 1000


def test_each_policy(store: nearstone.Store, refused: Callable[..., Any]) -> None:
    rows = store.create_collection("rows", 2, metric="l2", keys="str")
    rows.upsert(["a", "b"], [[0, 0], [1, 0]])
    refused(
        nearstone.AlreadyExists,
        ["b", "1 of the 2"],
        lambda: rows.bulk_load(["b", "c"], [[2, 2], [3, 3]], on_collision="refuse"),
    )
    assert len(rows) == 2
    kept = rows.bulk_load(["b", "c"], [[2, 2], [3, 3]], on_collision="keep")
    assert (kept.inserted, kept.kept) == (1, 1)
    assert rows.get("b").vector.tolist() == [1, 0]
    replaced = rows.bulk_load(["b", "d"], [[4, 4], [5, 5]])
    assert (replaced.inserted, replaced.replaced) == (1, 1)
    assert rows.get("b").vector.tolist() == [4, 4]
    # One row, and none.
    assert rows.bulk_load("e", [6, 6], {"x": 1}).inserted == 1
    assert rows.get("e").payload == {"x": 1}
    nothing = rows.bulk_load([], [])
    assert (nothing.lsn, nothing.inserted) == (replaced.lsn + 1, 0)


def test_a_snapshot_does_not_see_it(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows = store.create_collection("rows", 4)
    before = matrix(rng, 20)
    rows.upsert(range(20), before)
    snapshot = store.snapshot()
    rows.bulk_load(range(10, 40), matrix(rng, 30))
    reads = rows.at(snapshot)
    assert (len(reads), len(rows)) == (20, 40)
    assert reads.get_vectors(range(20)).tobytes() == before.tobytes()


def test_bad_input_changes_nothing(store: nearstone.Store, refused: Callable[..., Any]) -> None:
    rows = store.create_collection("rows", 2)
    good = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    bad: Any = nearstone.InvalidArgument
    refused(bad, ["7", "given already", "row 2"], lambda: rows.bulk_load([7, 8, 7], good))
    refused(bad, ["row 1", "NaN"], lambda: rows.bulk_load([1, 2], [[1, 0], [float("nan"), 0]]))
    refused(bad, ["row 1", "zero"], lambda: rows.bulk_load([1, 2], [[1, 0], [0, 0]]))
    refused(bad, ["3 keys", "2 vectors"], lambda: rows.bulk_load([1, 2, 3], good[:2]))
    refused(bad, ["on_collision", "replce"], lambda: rows.bulk_load([1], good[:1], on_collision="replce"))  # type: ignore[arg-type]
    refused(bad, ["threads", "0"], lambda: rows.bulk_load([1], good[:1], threads=0))
    with pytest.raises(TypeError):
        rows.bulk_load([1], good[:1], [3])  # type: ignore[list-item]
    assert len(rows) == 0 and store.snapshot().lsn == 0


def test_arrays_that_need_a_copy(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows = store.create_collection("rows", 4, metric="l2")
    wide = rng.standard_normal((50, 8))
    rows.bulk_load(np.arange(50), wide[:, ::2])
    rows.bulk_load(np.arange(50, 100), np.asfortranarray(wide[:, 1::2]), threads=2)
    expected = np.concatenate([wide[:, ::2], wide[:, 1::2]]).astype(np.float32)
    assert rows.get_vectors(range(100)).tobytes() == expected.tobytes()


def test_progress_can_cancel(path: Path, rng: np.random.Generator) -> None:
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", 4)
        steps: list[tuple[str, int, int]] = []
        rows.bulk_load(range(500), matrix(rng, 500), progress=lambda *step: steps.append(step))
        assert {phase for phase, _, _ in steps} == {"link", "write"}
        assert all(0 <= done <= total == 500 for _, done, total in steps)
        files = sorted(path.joinpath("segments").iterdir())
        for phase in ("link", "write"):
            with pytest.raises(nearstone.Cancelled):
                rows.bulk_load(range(900), matrix(rng, 900), progress=lambda now, *_: now != phase)
            assert len(rows) == 500
            assert sorted(path.joinpath("segments").iterdir()) == files
        with pytest.raises(ZeroDivisionError):
            rows.bulk_load(range(900), matrix(rng, 900), progress=lambda *_: 1 // 0)
        assert len(rows) == 500


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
def test_interrupted_it_has_done_nothing(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((40_000, 128), dtype=np.float32)
    with nearstone.in_memory() as store:
        rows = store.create_collection("rows", 128)
        main = threading.get_ident()
        timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            rows.bulk_load(range(len(vectors)), vectors)
        took = time.monotonic() - began
        timer.join()
        assert took < 5
        assert len(rows) == 0
        rows.upsert(1, vectors[0])


def test_other_threads_run_meanwhile(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((5_000, 64), dtype=np.float32)
    with nearstone.in_memory() as store:
        rows = store.create_collection("rows", 64)
        rows.upsert(1_000_000, vectors[0])
        counts: list[int] = []
        done = threading.Event()

        def load() -> None:
            rows.bulk_load(range(len(vectors)), vectors)
            done.set()

        thread = threading.Thread(target=load)
        thread.start()
        while not done.is_set():
            counts.append(len(rows))
            rows.upsert(2_000_000, vectors[1])
            time.sleep(0.001)
        thread.join()
        # Either nothing of it is seen or all.
        assert set(counts) <= {1, 2, 5_001, 5_002} and len(counts) > 3
        assert len(rows) == 5_002
