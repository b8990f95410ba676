"""Threads: handles are shared, the interpreter's lock is released, and nothing is seen half done.

Where a test waits for something to happen it counts what happened, so that a slow machine only makes it
slower.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Runs calls in threads of their own, at once; what one raises is raised here."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(one, call) for call in calls]]


def test_eight_threads_read_and_write_through_shared_handles(path: Path) -> None:
    with nearstone.open(path, durability="os", seal_rows=400) as store:
        rows = store.create_collection("rows", 8, metric="l2", m=8, ef_construction=40)
        names = store.create_collection("names", 8, keys="str", metric="l2", m=8, ef_construction=40)
        done = threading.Event()

        def vector(key: int, step: int) -> np.ndarray:
            return np.full(8, key * 1000 + step, np.float32)

        def write(number: int) -> int:
            for step in range(600):
                key = number * 100 + step % 50
                if step % 3 == 0:
                    with store.batch() as batch:
                        batch.upsert(rows, key, vector(key, step), {"step": step})
                        batch.upsert(names, str(key), vector(key, step), {"step": step})
                elif step % 3 == 1:
                    rows.upsert([key, key + 50], np.stack([vector(key, step), vector(key + 50, step)]))
                else:
                    rows.delete([key, key + 50])
            return 600

        def read() -> int:
            seen = 0
            while not done.is_set():
                hits = rows.search(np.zeros((3, 8)), 10, vectors=True)
                for one in hits:
                    for hit in one:
                        # A row is whole: its vector is one of those that were written under its key.
                        assert len(set(hit.vector.tolist())) == 1
                        assert int(hit.vector[0]) // 1000 == hit.key
                        if hit.payload is not None:
                            assert int(hit.vector[0]) % 1000 == hit.payload["step"]
                        seen += 1
                listed = list(rows.keys())
                assert listed == sorted(set(listed))
                with store.snapshot() as snapshot:
                    for key, row in zip(listed[:5], rows.at(snapshot).get(listed[:5]), strict=True):
                        assert row is None or row.key == key
            return seen

        def seal() -> int:
            times = 0
            while not done.is_set():
                store.flush()
                store.compact()
                store.stats()
                times += 1
            return times

        def all_writers() -> None:
            try:
                together(*[lambda number=number: write(number) for number in range(4)])
            finally:
                done.set()

        results = together(all_writers, read, read, read, seal)
        assert results[4] >= 1 and sum(results[1:4]) > 0
        for number in range(4):
            for key in range(number * 100, number * 100 + 50):
                step = max(step for step in range(600) if step % 3 == 0 and number * 100 + step % 50 == key)
                row = names.get(str(key))
                assert row.payload == {"step": step} and row.vector.tolist() == vector(key, step).tolist()
        store.verify()


class Ticker:
    """Counts how often a Python thread gets its turn while something else runs."""

    def __enter__(self) -> Ticker:
        self.ticks, self.done, self.begin = 0, threading.Event(), time.monotonic()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self) -> None:
        while not self.done.wait(0.001):
            self.ticks += 1

    def __exit__(self, *what: object) -> None:
        self.seconds = time.monotonic() - self.begin
        self.done.set()
        self.thread.join()

    def check(self, what: str) -> None:
        assert self.seconds > 0.05, f"{what} took {self.seconds:.3f} s: too short to say anything"
        said = f"{what}: {self.ticks} ticks in {self.seconds:.2f} s"
        print(said)
        # A thread that waits for the lock gets it once in a while even from a call that never releases it.
        assert self.ticks > 30 * self.seconds, said


def test_long_calls_release_the_interpreter_lock(path: Path, rng: np.random.Generator) -> None:
    with nearstone.open(path, durability="os", background="manual") as store:
        n = 1800
        rows = store.create_collection("rows", 64, metric="l2", m=16, ef_construction=500)
        matrix = rng.standard_normal((n, 64), dtype=np.float32)
        wide = store.create_collection("wide", 16_384, metric="l2")
        big = np.ones((n // 2, 16_384), np.float32)
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                wide.upsert(np.arange(len(big)), big)
        ticker.check("upsert")
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                wide.search(big[:20], 10, exact=True)
        ticker.check("matrix search")
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                wide.search(big[0], 10, exact=True)
        ticker.check("search")
        store.drop_collection("wide")
        few = 400  # More rows than that are linked by whoever puts them.
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                rows.upsert(np.arange(few), matrix[:few])
                rows.link(1)
        ticker.check("link")
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                rows.upsert(np.arange(n), matrix)
                rows.flush()
        ticker.check("flush")
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                rows.upsert(np.arange(n), matrix)
                store.compact()
        ticker.check("compact")
        with Ticker() as ticker:
            while time.monotonic() < ticker.begin + 0.3:
                store.verify()
        ticker.check("verify")


def test_a_sync_that_waits_does_not_hold_the_lock(path: Path) -> None:
    """Many threads commit at once: they share syncs, so together they are faster than one after the other."""
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", 4, metric="l2")

        def write(number: int) -> None:
            for step in range(25):
                rows.upsert(number * 1000 + step, [1, 2, 3, 4])

        before = store.stats()["log"]["syncs"]
        together(*[lambda number=number: write(number) for number in range(8)])
        syncs = store.stats()["log"]["syncs"] - before
        assert len(rows) == 200
        assert syncs < 190, f"{syncs} syncs for 200 commits of 8 threads: none was shared"


def test_a_batch_in_two_threads_is_serialised_or_refused(store: nearstone.Store) -> None:
    rows = store.create_collection("rows", 4, metric="l2")
    batch = store.batch()
    refused: list[str] = []

    def add(number: int) -> int:
        added = 0
        for step in range(90):
            keys = [number * 10_000 + step * 10 + i for i in range(5)]
            try:
                batch.upsert(rows, keys, np.ones((5, 4), np.float32))
                added += 5
            except (nearstone.Error, RuntimeError) as error:
                refused.append(str(error))
        return added

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        added = sum(together(*[lambda number=number: add(number) for number in range(4)]))
    finally:
        sys.setswitchinterval(interval)
    assert len(batch) == added > 0
    assert all(len(text) > 10 for text in refused)
    assert batch.commit().upserted == added == len(rows)


def test_a_batch_is_committed_once(store: nearstone.Store) -> None:
    rows = store.create_collection("rows", 4, metric="l2")
    for turn in range(20):
        batch = store.batch().upsert(rows, range(90), np.ones((90, 4), np.float32))
        before = store.snapshot().lsn

        def commit(batch: nearstone.Batch = batch) -> bool:
            try:
                return batch.commit().upserted == 90
            except (nearstone.Error, RuntimeError):
                return False

        assert together(commit, commit, commit).count(True) == 1, turn
        assert store.snapshot().lsn == before + 1


def test_readers_never_see_half_a_batch(store: nearstone.Store) -> None:
    a, b = (store.create_collection(name, 1, metric="l2") for name in "ab")
    done = threading.Event()

    def write() -> None:
        try:
            for step in range(500):
                store.batch().upsert(a, 1, [step]).upsert(b, 2, [step]).commit()
        finally:
            done.set()

    def read() -> int:
        seen = 0
        while not done.is_set():
            with store.snapshot() as snapshot:
                left, right = a.at(snapshot).get(1), b.at(snapshot).get(2)
                assert (left is None) == (right is None)
                if left is not None:
                    assert left.vector[0] == right.vector[0] and left.version == right.version
                    seen += 1
        return seen

    assert sum(together(write, read, read)[1:]) > 0


def test_closing_while_others_work(path: Path) -> None:
    for _ in range(5):
        store = nearstone.open(path, durability="os")
        rows = store.collection_or_create("rows", 8, metric="l2", m=4, ef_construction=20)
        rows.upsert(range(500), np.ones((500, 8)))
        going = threading.Semaphore(0)

        def work(call: Callable[[], Any], going: threading.Semaphore = going) -> str:
            for _ in range(10**6):
                going.release()
                try:
                    call()
                except nearstone.Closed as error:
                    return str(error)
                except nearstone.Cancelled as error:
                    return str(error)
            return "never closed"

        def close(store: nearstone.Store = store, going: threading.Semaphore = going) -> str:
            for _ in range(8):
                going.acquire()
            store.close()
            return "closed"

        results = together(
            close,
            lambda rows=rows: work(lambda: rows.upsert(1, np.ones(8))),
            lambda rows=rows: work(lambda: rows.search(np.ones((20, 8)), 5)),
            lambda rows=rows: work(lambda: list(rows.keys())),
            lambda store=store: work(store.compact),
            lambda rows=rows: work(lambda: rows.search(np.ones(8), 5, filter=lambda key: key % 2 == 0)),
        )
        assert all("closed" in text or "cancel" in text for text in results), results
        assert store.closed


def test_an_iterator_shared_by_threads_gives_every_key_once_or_refuses(store: nearstone.Store) -> None:
    rows = store.create_collection("rows", 1, metric="l2")
    rows.upsert(range(1500), np.ones((1500, 1)))
    listing = rows.keys()

    def take() -> list[int]:
        taken = []
        while True:
            try:
                taken.append(next(listing))
            except StopIteration:
                return taken
            except (RuntimeError, nearstone.Error):
                continue

    parts = together(take, take, take)
    assert sorted(key for part in parts for key in part) == list(range(1500))
    assert all(part == sorted(part) for part in parts)


def test_the_main_thread_of_a_filter_is_not_needed(store: nearstone.Store, rng: np.random.Generator) -> None:
    """Searches with Python filters, many threads each, from many threads: no deadlock between their locks."""
    rows = store.create_collection("rows", 8, metric="l2")
    matrix = rng.standard_normal((300, 8), dtype=np.float32)
    rows.upsert(range(300), matrix)

    def search() -> bool:
        hits = rows.search(matrix[:40], 5, exact=True, threads=4, filter=lambda key: key % 3 == 0)
        return not (hits.keys % 3).any() and hits.keys.shape == (40, 5)

    assert all(together(*[search] * 6))
    with pytest.raises(ZeroDivisionError):
        together(lambda: rows.search(matrix, 5, threads=4, filter=lambda key: 1 // 0))
