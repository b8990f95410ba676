"""Processes: the lock, the end of the interpreter, forks, Ctrl-C and kills.

Every scene is a program of its own that runs in a child; it says on standard output what it did, and the test
looks at the store that it leaves behind. What always holds: a child never hangs, never dies of anything but
what the test does to it, and a write that it was told to be done is there afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nearstone

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")

PRELUDE = """
import atexit, json, os, signal, sys, threading, time
import numpy as np
import nearstone
path = sys.argv[1]
"""


# The lock


def test_another_process_gets_busy_with_the_lock(path: Path, run: Run) -> None:
    program = (
        PRELUDE
        + """
for options in ({}, {"read_only": True}, {"create": False}):
    try:
        nearstone.open(path, **options)
    except nearstone.Busy as error:
        print(error)
"""
    )
    with nearstone.open(path) as store:
        rows = store.create_collection("rows", 2)
        rows.upsert(1, [1, 2])
        said = run(program, path).stdout.splitlines()
        assert len(said) == 3
        assert all(str(path / "lock") in line for line in said), said
        rows.upsert(2, [1, 2])
    assert run(program, path).stdout == "", "closed here, it can be opened there"


def test_the_same_process_gets_busy_too(path: Path) -> None:
    with nearstone.open(path):
        with pytest.raises(nearstone.Busy, match="lock"):
            nearstone.open(path)
    with nearstone.open(path, read_only=True), nearstone.open(path, read_only=True):
        with pytest.raises(nearstone.Busy, match="lock"):
            nearstone.open(path)


def test_spawned_processes_read_side_by_side(path: Path, run: Run) -> None:
    with nearstone.open(path) as store:
        rows = store.create_collection("rows", 2, metric="l2")
        rows.upsert(range(100), np.arange(200).reshape(100, 2))
        rows.flush()
        rows.upsert(100, [500, 500])
    program = (
        PRELUDE
        + """
import multiprocessing

def work(number):
    with nearstone.open(path, read_only=True) as store:
        barrier.wait(20)
        rows = store.collection("rows")
        found = rows.search([2 * number, 2 * number + 1], 1).keys.tolist(), len(rows)
        barrier.wait(20)
        return found

def prepare(shared):
    global barrier
    barrier = shared

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with nearstone.open(path, read_only=True) as store:
        shared = context.Barrier(2)
        with context.Pool(2, prepare, (shared,)) as pool:
            print(json.dumps(pool.map(work, [7, 8], chunksize=1)))
        print(len(store.collection("rows")))
"""
    )
    said = run(program, path).stdout.splitlines()
    assert json.loads(said[0]) == [[[7], 101], [[8], 101]] and said[1] == "101"


# The end of the interpreter

LEFT_OPEN = {
    "in a global": "keep = store",
    "only its collection": "keep = rows; del store",
    "only its collection, where nobody cleans up": "sys.keep = rows; del store",
    "in a cycle": "keep = [store, rows]; keep.append(keep); del store, rows",
    "with a batch, a snapshot and an iterator": """
keep = [store.batch().upsert(rows, 999, [9, 9]), store.snapshot(), rows.at(store.snapshot()), rows.keys()]
next(keep[3])
""",
    "while it raises": "raise SystemExit(0)",
    "used by an exit handler": "atexit.register(lambda: print(rows.upsert(1000, [1, 1]).upserted))",
    "used at exit by a finalizer": """
class Late:
    def __del__(self):
        # So late not even imports work; what counts is the store that is left behind.
        try:
            rows.upsert(1001, [1, 1])
        except Exception:
            pass
keep = Late()
""",
}


@pytest.mark.parametrize("how", LEFT_OPEN)
def test_a_store_left_open_is_closed_in_order(path: Path, run: Run, how: str) -> None:
    program = (
        PRELUDE
        + """
store = nearstone.open(path, durability="os")
rows = store.create_collection("rows", 2)
rows.upsert(range(50), np.ones((50, 2)))
for key in range(50, 60):
    rows.upsert(key, [1, 1])
"""
        + LEFT_OPEN[how]
    )
    done = run(program, path)
    with nearstone.open(path) as store:
        assert store.recovery["batches"] >= 11 and store.recovery["rewritten"] == 0, store.recovery
        assert store.recovery["torn_bytes"] == 0
        rows = store.collection("rows")
        assert set(range(60)) <= set(rows.keys()) and 999 not in rows
        if how == "used by an exit handler":
            assert done.stdout.split() == ["1"] and 1000 in rows


def test_a_process_that_ends_without_a_word_is_replayed(path: Path, run: Run) -> None:
    """The counterpart: what `rewritten` says when nothing was closed, so that 0 means something above."""
    program = (
        PRELUDE
        + """
store = nearstone.open(path, durability="os")
rows = store.create_collection("rows", 2)
for key in range(10):
    rows.upsert(key, [1, 1])
os._exit(0)
"""
    )
    run(program, path)
    with nearstone.open(path) as store:
        assert store.recovery["rewritten"] > 0, store.recovery
        assert list(store.collection("rows").keys()) == list(range(10))


@pytest.mark.parametrize("work", ["upsert", "search", "flush", "filter", "compact"])
def test_threads_that_still_work_do_not_disturb_the_end(path: Path, run: Run, work: str) -> None:
    program = (
        PRELUDE
        + """
work = sys.argv[2]
store = nearstone.open(path, durability="os")
rows = store.create_collection("rows", 32, m=8, ef_construction=40)
matrix = np.random.default_rng(1).standard_normal((2000, 32), dtype=np.float32)
rows.upsert(range(2000), matrix)
calls = {
    "upsert": lambda key: rows.upsert(2000 + key, matrix[key % 2000]),
    "search": lambda key: rows.search(matrix, 10, exact=True),
    "flush": lambda key: (rows.upsert(2000 + key, matrix[key % 2000]), rows.flush()),
    "filter": lambda key: rows.search(matrix, 10, filter=lambda key: True),
    "compact": lambda key: (rows.upsert(2000 + key, matrix[key % 2000]), store.compact(lambda *step: None)),
}
began = threading.Event()
def forever():
    key = 0
    while True:
        began.set()
        try:
            calls[work](key)
        except (nearstone.Closed, nearstone.Cancelled):
            return
        key += 1
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
began.wait()
time.sleep(0.15)
"""
    )
    begin = time.monotonic()
    done = run(program, path, work, check=False, timeout=30)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"
    assert not done.stderr, done.stderr
    assert time.monotonic() - begin < 15
    with nearstone.open(path) as store:
        assert store.recovery["torn_bytes"] == 0 and store.recovery["rewritten"] == 0, store.recovery
        assert len(store.collection("rows")) >= 2000
        store.verify()


# Forks


@needs_fork
@pytest.mark.parametrize("threads", [False, True], ids=["alone", "beside threads"])
@pytest.mark.parametrize("end", ["return", "sys.exit(0)", "os._exit(0)"])
def test_a_forked_child_gets_closed_and_the_parent_goes_on(
    path: Path, run: Run, end: str, threads: bool
) -> None:
    program = (
        PRELUDE
        + """
signal.alarm(25)
end, busy = sys.argv[2], sys.argv[3] == "True"
store = nearstone.open(path, durability="os")
rows = store.create_collection("rows", 2, metric="l2")
rows.upsert(range(100), np.arange(200).reshape(100, 2))
rows.flush()
rows.upsert(range(100, 200), np.arange(200).reshape(100, 2))
batch, snapshot, listing = store.batch().upsert(rows, 5000, [1, 1]), store.snapshot(), rows.keys()
at = rows.at(snapshot)
stop = threading.Event()
if busy:
    def write(number):
        key = 10_000 * number
        while not stop.is_set():
            rows.upsert(key, [1, 1])
            rows.search([[1, 1]] * 10, 3)
            key += 1
    for number in (1, 2):
        threading.Thread(target=write, args=(number,), daemon=True).start()
    time.sleep(0.1)
    writers = threading.enumerate()[1:]
one = [1.0, 2.0]
calls = {
    "create": lambda: store.create_collection("x", 2),
    "or_create": lambda: store.collection_or_create("rows", 2, metric="l2"),
    "collection": lambda: store.collection("rows"),
    "collections": lambda: store.collections(),
    "rename": lambda: store.rename_collection("rows", "x"),
    "drop": lambda: store.drop_collection("rows"),
    "batch": lambda: store.batch().commit(),
    "snapshot": lambda: store.snapshot(),
    "persist": lambda: store.persist(),
    "flush": lambda: store.flush(),
    "compact": lambda: store.compact(),
    "step": lambda: store.step(),
    "stats": lambda: store.stats(),
    "verify": lambda: store.verify(),
    "backup": lambda: store.backup(path + ".copy"),
    "upsert": lambda: rows.upsert(1, one),
    "matrix": lambda: rows.upsert([1, 2], [one, one]),
    "delete": lambda: rows.delete(1),
    "len": lambda: len(rows),
    "in": lambda: 1 in rows,
    "get": lambda: rows.get(1),
    "get many": lambda: rows.get([1, 2]),
    "get_vectors": lambda: rows.get_vectors([1]),
    "keys": lambda: next(rows.keys()),
    "search": lambda: rows.search(one, 3),
    "search matrix": lambda: rows.search([one, one], 3),
    "at": lambda: rows.at(snapshot),
    "link": lambda: rows.link(),
    "rows.flush": lambda: rows.flush(),
    "rows.compact": lambda: rows.compact(),
    "rows.rebuild": lambda: rows.rebuild(),
    "rows.attach": lambda: rows.attach(path + ".seg"),
    "commit": lambda: batch.commit(),
    "next": lambda: next(listing),
    "at.len": lambda: len(at),
    "at.get": lambda: at.get(1),
    "at.search": lambda: at.search(one, 3),
    "at.keys": lambda: next(at.keys()),
}

def child():
    wrong = []
    for name, call in calls.items():
        try:
            call()
            wrong.append(f"{name} went through")
        except nearstone.Closed as error:
            if "fork" not in str(error):
                wrong.append(f"{name}: {error}")
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__} {error}")
    repr(store), repr(rows), repr(batch), repr(snapshot)
    store.close()
    with nearstone.open(path + f".child") as own:
        more = own.create_collection("rows", 2)
        more.upsert(1, one)
        more.flush()
        if more.search([one, one], 1).keys.tolist() != [[1], [1]]:
            wrong.append("its own store")
    if wrong:
        print("\\n".join(wrong), file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)

pid = os.fork()
if pid == 0:
    signal.alarm(20)
    child()
    if end == "sys.exit(0)":
        sys.exit(0)
    if end == "os._exit(0)":
        os._exit(0)
else:
    _, status = os.waitpid(pid, 0)
    stop.set()
    for writer in writers if busy else []:
        writer.join()
    if status:
        sys.exit(f"the child ended with {status}")
    assert len(rows) >= 200 and rows.search([0, 1], 1).keys.tolist() == [0]
    batch.commit()
    rows.upsert(5001, [1, 1])
    rows.flush()
    store.compact()
    store.verify()
    try:
        nearstone.open(path)
        sys.exit("the child took the lock away")
    except nearstone.Busy:
        pass
    store.close()
    print("parent done")
"""
    )
    done = run(program, path, end, threads)
    assert done.stdout == "parent done\n"
    with nearstone.open(path) as store:
        assert store.recovery["rewritten"] == 0 and store.recovery["torn_bytes"] == 0
        rows = store.collection("rows")
        assert 5000 in rows and 5001 in rows and rows.get(1).vector.tolist() == [2, 3]
        store.verify()
    assert not Path(f"{path}.copy").exists()


@needs_fork
def test_a_pool_of_forked_processes_does_not_hang(path: Path, run: Run) -> None:
    program = (
        PRELUDE
        + """
import multiprocessing
store = nearstone.open(path)
rows = store.create_collection("rows", 2)
rows.upsert(1, [1, 2])

def work(number):
    try:
        return len(rows)
    except nearstone.Closed as error:
        return str(error)

def throw(number):
    return len(rows)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        answers = pool.map(work, range(4))
        try:
            pool.map(throw, range(1))
            sys.exit("it went through")
        except nearstone.Closed as error:
            answers.append(str(error))
    assert all("fork" in str(answer) for answer in answers), answers
    rows.upsert(2, [1, 2])
    store.close()
"""
    )
    run(program, path)
    with nearstone.open(path) as store:
        assert list(store.collection("rows").keys()) == [1, 2] and store.recovery["rewritten"] == 0


# Ctrl-C

# A thread of the same process sends the signal: that it can is also a proof that the call released the lock
# of the interpreter. The call must not be done by then, and must have ended two seconds later.
INTERRUPT = (
    PRELUDE
    + """
def interrupt(call, after=0.4):
    begin = time.monotonic()
    sent = []
    def send():
        time.sleep(after)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=send).start()
    try:
        call()
    except KeyboardInterrupt:
        took = time.monotonic() - sent[0]
        print(json.dumps({"took": took}))
        if took > 2:
            sys.exit(f"it took {took:.1f} s after the signal")
        return
    sys.exit(f"nothing was raised: the call ended by itself after {time.monotonic() - begin:.2f} s")
"""
)

# Graphs of 4 links are made fast: what takes its time is the call that is interrupted.
CALLS = {
    "search": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
matrix = np.random.default_rng(1).standard_normal((20_000, 64), dtype=np.float32)
rows.upsert(range(20_000), matrix)
queries = np.tile(matrix, (20, 1))
for threads in (None, 1):
    interrupt(lambda: rows.search(queries, 10, exact=True, threads=threads))
assert rows.search(matrix[5], 1, exact=True).keys.tolist() == [5]
""",
    "filter": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 4, metric="l2", m=4, ef_construction=4)
matrix = np.random.default_rng(1).standard_normal((10_000, 4), dtype=np.float32)
rows.upsert(range(10_000), matrix)
interrupt(lambda: rows.search(matrix, 10, exact=True, filter=lambda key: True))
assert rows.search(matrix[5], 1, exact=True).keys.tolist() == [5]
""",
    # With the defaults: a writer links on its way, which is most of the work.
    "upsert": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 16, metric="l2")
n = 500_000
matrix = np.random.default_rng(1).standard_normal((n, 16), dtype=np.float32)
interrupt(lambda: rows.upsert(np.arange(n), matrix))
kept = len(rows)
assert kept < n, kept
if kept > 3:
    assert list(rows.keys(after=kept - 3)) == [kept - 2, kept - 1], "a prefix of the matrix"
""",
    "compact": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", ef_construction=300)
matrix = np.random.default_rng(1).standard_normal((8000, 64), dtype=np.float32)
rows.upsert(range(4000), matrix[:4000])
rows.flush()
rows.upsert(range(4000, 8000), matrix[4000:])
rows.flush()
interrupt(lambda: store.compact(), 0.05)
interrupt(lambda: rows.compact(), 0.05)
assert len(rows) == 8000 and rows.search(matrix[5], 1, exact=True).keys.tolist() == [5]
""",
    "rebuild": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
matrix = np.random.default_rng(1).standard_normal((8000, 64), dtype=np.float32)
rows.upsert(range(8000), matrix)
rows.flush()
interrupt(lambda: rows.rebuild(m=16, ef_construction=300), 0.05)
assert rows.m == 4 and len(rows) == 8000 and rows.search(matrix[5], 1, exact=True).keys.tolist() == [5]
""",
    "build": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 128, metric="l2")
matrix = np.random.default_rng(1).standard_normal((40_000, 128), dtype=np.float32)
def build():
    nearstone.build_segments(path + ".built", range(len(matrix)), matrix, metric="l2", threads=1)
interrupt(build)
assert not os.path.exists(path + ".built"), os.listdir(path + ".built")
rows.upsert(range(10), matrix[:10])
""",
    "attach": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
matrix = np.random.default_rng(1).standard_normal((10_000, 64), dtype=np.float32)
files = nearstone.build_segments(
    path + ".built", range(10_000), matrix, metric="l2", m=4, ef_construction=4
)
def attach():
    begin = time.monotonic()
    while time.monotonic() < begin + 5:
        rows.attach(files)
        store.drop_collection("rows")
        globals()["rows"] = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
interrupt(attach)
# Whether the name is that of the last collection or not: it may have ended while one was made.
rows = store.collection_or_create("rows", 64, metric="l2", m=4, ef_construction=4)
assert len(rows) in (0, 10_000), len(rows)
rows.upsert(range(10), matrix[:10])
""",
    "verify": """
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
rows.upsert(range(10_000), np.random.default_rng(1).standard_normal((10_000, 64), dtype=np.float32))
rows.flush()
def verify():
    begin = time.monotonic()
    while time.monotonic() < begin + 5:
        store.verify()
interrupt(verify)
""",
    "backup": """
import shutil
store = nearstone.open(path, durability="os", background="manual")
rows = store.create_collection("rows", 64, metric="l2", m=4, ef_construction=4)
rows.upsert(range(10_000), np.random.default_rng(1).standard_normal((10_000, 64), dtype=np.float32))
rows.flush()
def backup():
    begin = time.monotonic()
    while time.monotonic() < begin + 5:
        store.backup(path + ".copy")
        shutil.rmtree(path + ".copy")
interrupt(backup)
""",
}


@posix
@pytest.mark.parametrize("name", CALLS)
def test_control_c_ends_a_long_call(path: Path, run: Run, name: str) -> None:
    program = (
        INTERRUPT
        + CALLS[name]
        + """
assert rows.upsert(10**9, np.ones(rows.dim)).upserted == 1
assert len(rows.search(np.ones(rows.dim), 3, exact=True)) == 3
store.close()
"""
    )
    done = run(program, path, timeout=20)
    assert "took" in done.stdout
    with nearstone.open(path, background="manual") as store:
        assert 10**9 in store.collection("rows")
        assert store.recovery["torn_bytes"] == 0


# Kills


@posix
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_loses_nothing_that_it_acknowledged(path: Path, start: Start, seed: int) -> None:
    program = (
        PRELUDE
        + """
store = nearstone.open(path, seal_rows=300)
rows = store.collection_or_create("rows", 4, metric="l2", m=4, ef_construction=16)
def write(number):
    for step in range(10**6):
        key = number * 10**6 + step
        if step % 5 == 4:
            keys = [key * 100 + i for i in range(3)]
            with store.batch() as batch:
                batch.upsert(rows, keys, np.full((3, 4), step, np.float32), [{"key": key} for key in keys])
        else:
            keys = [key * 100]
            rows.upsert(keys[0], np.full(4, step), {"key": keys[0]})
        os.write(1, f"did {number} {step} {json.dumps(keys)}\\n".encode())
for number in range(3):
    threading.Thread(target=write, args=(number,), daemon=True).start()
while True:
    time.sleep(0.02)
    store.compact()
"""
    )
    child = start(program, path)
    assert child.stdout is not None
    rng = np.random.default_rng(seed)
    wanted = int(rng.integers(100, 800))
    acknowledged: list[tuple[int, list[int]]] = []
    timer = threading.Timer(20, child.kill)
    timer.start()
    killed = False
    for line in child.stdout:
        if line.startswith("did ") and line.endswith("]\n"):
            _, _, step, keys = line.split(" ", 3)
            acknowledged.append((int(step), json.loads(keys)))
        if len(acknowledged) >= wanted and not killed:
            os.kill(child.pid, signal.SIGKILL)
            killed = True
    timer.cancel()
    assert child.wait(10) == -signal.SIGKILL
    assert killed, f"only {len(acknowledged)} writes in time: {child.stderr.read() if child.stderr else ''}"
    with nearstone.open(path) as store:
        rows = store.collection("rows")
        for turn in range(2):
            for step, keys in acknowledged:
                found = rows.get(keys)
                for key, row in zip(keys, found, strict=True):
                    assert row is not None, f"the row {key} was acknowledged and is not there"
                    assert row.vector.tolist() == [step] * 4 and row.payload == {"key": key}
            number = sum(len(keys) for _, keys in acknowledged)
            # What was in flight when the kill came may be there as well: one write of each thread.
            assert number <= len(rows) <= number + 9
            if turn == 0:
                store.compact()
        store.verify()


def test_nothing_aborts_the_process(run: Run, path: Path) -> None:
    """Numbers at the edge of every type, in a process of its own: an abort would show in its exit code."""
    program = (
        PRELUDE
        + """
store = nearstone.open(path, background="manual")
rows = store.create_collection("rows", 2, metric="l2")
rows.upsert(range(100), np.arange(200).reshape(100, 2))
rows.link()
edges = [0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63)]
edges.append(10**40)
def each(call):
    for edge in edges:
        for other in edges:
            try:
                call(edge, other)
            except (nearstone.Error, ValueError, TypeError, OverflowError, MemoryError, IndexError):
                pass
q = [1.0, 2.0]
each(lambda a, b: rows.search(q, a, ef=b))
each(lambda a, b: rows.search(q, a, ef=b, exact=True))
each(lambda a, b: rows.search([q, q], a, ef=b, threads=2))
each(lambda a, b: rows.search([q, q], 3, threads=a if a < 2**31 else b))
each(lambda a, b: rows.search(q, 3)[a])
each(lambda a, b: rows.get([a, b]))
each(lambda a, b: store.collection_or_create("x", a, m=b))
each(lambda a, b: store.collection_or_create("y", 3, m=a, ef_construction=b))
each(lambda a, b: nearstone.in_memory(background="manual", memory_budget=a, seal_bytes=b).close())
each(lambda a, b: nearstone.in_memory(background="manual", write_stall=float(a), wal_bytes=b).close())
each(lambda a, b: store.batch(durability=float(a)))
assert rows.search(q, 1).keys.tolist() == [0] or len(rows) == 100
print("alive")
"""
    )
    assert run(program, path).stdout == "alive\n"
