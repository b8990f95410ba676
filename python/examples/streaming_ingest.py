"""Rows that keep arriving, searches in between, old rows deleted, and a count at the end.

    python streaming_ingest.py [folder]

A generator yields small batches. Four writers take them from a queue and upsert them, each call durable when
it returns: writers that wait together share one sync of the disk. One thread searches all the time. One
thread deletes the oldest rows, so that about WINDOW rows stay. At the end the store is closed and opened
again, and every row that was acknowledged and not deleted must be there, with its very bits, and no other
row.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import nearstone

DIM = 64
ROWS = 40_000
BATCH = 50
WRITERS = 4
WINDOW = 15_000


def vectors_of(batch: int) -> npt.NDArray[np.float32]:
    """The rows of a batch; made again from its number when they are checked."""
    rng = np.random.default_rng(batch)
    # A slow drift: what arrives together is alike.
    centre = np.sin(batch / 100 + np.arange(DIM))
    return np.asarray(centre + 0.5 * rng.standard_normal((BATCH, DIM)), dtype=np.float32)


def keys_of(batch: int) -> npt.NDArray[np.uint64]:
    return np.arange(batch * BATCH, (batch + 1) * BATCH, dtype=np.uint64)


def arriving() -> Iterator[tuple[int, npt.NDArray[np.float32], list[dict[str, object]]]]:
    for batch in range(ROWS // BATCH):
        yield batch, vectors_of(batch), [{"batch": batch, "position": n} for n in range(BATCH)]


class Ingest:
    """The threads and what they share. `acknowledged` holds batches in the order in which they became
    durable."""

    def __init__(self, rows: nearstone.Collection) -> None:
        self.rows = rows
        self.waiting: queue.Queue[tuple[int, npt.NDArray[np.float32], list[dict[str, object]]] | None]
        self.waiting = queue.Queue(maxsize=32)
        self.acknowledged: deque[int] = deque()
        self.deleted = 0
        self.searches = 0
        self.found = 0
        self.slowest_ms = 0.0
        self.written = threading.Event()
        self.errors: list[BaseException] = []

    def write(self) -> None:
        while (item := self.waiting.get()) is not None:
            batch, vectors, payloads = item
            self.rows.upsert(keys_of(batch), vectors, payloads)
            self.acknowledged.append(batch)

    def search(self) -> None:
        while not self.written.is_set():
            if not self.acknowledged:
                time.sleep(0.001)
                continue
            batch = self.acknowledged[-1]
            start = time.perf_counter()
            hits = self.rows.search(vectors_of(batch)[0], k=10)
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - start) * 1000)
            self.searches += 1
            # It was acknowledged a moment ago: visible, linked into the graph or not.
            key = int(keys_of(batch)[0])
            assert key in self.rows and len(hits) == 10
            self.found += key in hits.keys

    def expire(self) -> None:
        while not self.written.is_set() or len(self.acknowledged) * BATCH > WINDOW:
            if len(self.acknowledged) * BATCH > WINDOW:
                self.deleted += self.rows.delete(keys_of(self.acknowledged.popleft()))
            else:
                time.sleep(0.001)

    def run(self) -> None:
        def guarded(work: object) -> None:
            try:
                work()  # type: ignore[operator]
            except BaseException as error:
                self.errors.append(error)
                while work == self.write and self.waiting.get() is not None:
                    pass  # keep the producer from waiting for a writer that is gone

        writers = [threading.Thread(target=guarded, args=(self.write,)) for _ in range(WRITERS)]
        others = [threading.Thread(target=guarded, args=(work,)) for work in (self.search, self.expire)]
        for thread in writers + others:
            thread.start()
        for item in arriving():
            self.waiting.put(item)
        for _ in writers:
            self.waiting.put(None)
        for thread in writers:
            thread.join()
        self.written.set()
        for thread in others:
            thread.join()
        if self.errors:
            raise self.errors[0]


def main(folder: Path) -> None:
    path = folder / "stream.near"
    with nearstone.open(path) as store:
        ingest = Ingest(store.create_collection("rows", DIM, metric="l2"))
        start = time.perf_counter()
        ingest.run()
        took = time.perf_counter() - start
        print(f"{ROWS:,} rows, {BATCH} at a time, {WRITERS} writers: {took:.1f} s, {ROWS / took:,.0f} rows/s")
        print(f"{ingest.searches:,} searches meanwhile, the slowest {ingest.slowest_ms:.0f} ms;", end=" ")
        print(f"{ingest.found:,} found the row that had just been acknowledged")
        print(f"{ingest.deleted:,} old rows deleted, {len(ingest.rows):,} stay")
        print("stats:")
        before = store.stats()
        show(before)
        start = time.perf_counter()
        store.flush()
        store.compact()
        after = store.stats()
        print(f"sealed and compacted in {time.perf_counter() - start:.1f} s:", end=" ")
        print(
            f"{before['memory_bytes'] / 2**20:.1f} -> {after['memory_bytes'] / 2**20:.1f} MiB of memory,",
            end=" ",
        )
        print(f"{before['disk_bytes'] / 2**20:.1f} -> {after['disk_bytes'] / 2**20:.1f} MiB on disk")

    start = time.perf_counter()
    with nearstone.open(path, create=False) as store:
        print(f"opened again in {time.perf_counter() - start:.2f} s")
        rows = store.collection("rows")
        expected = np.sort(np.concatenate([keys_of(batch) for batch in ingest.acknowledged]))
        there = np.fromiter(rows.keys(), dtype=np.uint64)
        assert np.array_equal(there, expected), (len(there), len(expected))
        for batch in ingest.acknowledged:
            assert np.array_equal(rows.get_vectors(keys_of(batch)), vectors_of(batch)), batch
        assert ingest.deleted + len(there) == ROWS
        print(f"all {len(there):,} rows are there, bit for bit, and no other")


def show(value: object, indent: int = 2) -> None:
    """Print nested statistics, one number per line."""
    for name, inner in value.items() if isinstance(value, dict) else []:
        if isinstance(inner, dict):
            print(f"{' ' * indent}{name}")
            show(inner, indent + 2)
        elif isinstance(inner, list):
            print(f"{' ' * indent}{name}: {len(inner)}")
            for each in inner:
                show(each, indent + 2)
        else:
            print(f"{' ' * indent}{name}: {inner}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
