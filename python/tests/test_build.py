"""Segments that are built without a store, and files that are attached: what is there, what is refused, and what is left of
calls that do not end well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone

DIM = 4


def matrix(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, DIM), dtype=np.float32)


def build(folder: Path, keys: Any, mark: float, **options: Any) -> list[Path]:
    """Rows that hold their key (of text its length) and the mark."""
    vectors = [[key if isinstance(key, int) else len(key), mark, 1, 0] for key in keys]
    return nearstone.build_segments(folder, keys, vectors, metric="l2", **options)


def segments(path: Path) -> list[Path]:
    return sorted(path.joinpath("segments").iterdir())


@pytest.mark.parametrize("take", ["copy", "link", "move"])
def test_what_was_built_is_there_after_an_attach_and_a_reopening(
    path: Path, tmp_path: Path, rng: np.random.Generator, take: Any
) -> None:
    vectors = matrix(rng, 1000)
    payloads = [{"i": i} if i % 3 else None for i in range(1000)]
    folder = tmp_path / "built"
    files = nearstone.build_segments(folder, range(1000), vectors, payloads, seal_rows=400)
    assert len(files) == 3 and sorted(files) == sorted(folder.iterdir())
    assert all(isinstance(file, Path) for file in files)
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", DIM)
        attached = rows.attach(files, take=take)
        assert (attached.lsn, attached.inserted, attached.replaced, attached.kept) == (1, 1000, 0, 0)
        stats = store.stats()["collections"]["rows"]
        assert (stats["unsealed_rows"], len(stats["segments"])) == (0, 3)
    assert len(list(folder.iterdir())) == (0 if take == "move" else 3)
    with nearstone.open(path) as store:
        rows = store.collection("rows")
        assert len(rows) == 1000
        for i in (0, 1, 500, 999):
            row = rows.get(i)
            assert row is not None and row.version == 1 and row.payload == payloads[i]
            assert row.vector.tobytes() == vectors[i].tobytes()
            assert rows.search(vectors[i], k=1).keys[0] == i
        assert store.verify()["rows"] == 1000


def test_the_schema_follows_what_is_given(path: Path, tmp_path: Path, refused: Callable[..., Any]) -> None:
    text = nearstone.build_segments(
        tmp_path / "text", ["a", "b"], np.eye(3)[:2], metric="ip", m=8, ef_construction=50, profile="memory"
    )
    one = nearstone.build_segments(
        tmp_path / "one", "c", [1, 2, 3], {"x": 1}, metric="ip", m=8, ef_construction=50, codes="rabitq2"
    )
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", 3, metric="ip", keys=str, m=8, ef_construction=50)
        # A path alone is a file, as text or not.
        assert rows.attach(str(text[0])).inserted == 2
        assert rows.attach(one[0]).inserted == 1
        row = rows.get("c")
        assert row is not None and row.payload == {"x": 1}
        assert sorted(rows.keys()) == ["a", "b", "c"]
        other: Any = nearstone.InvalidArgument
        for name, wrong, words in (
            ("keys", store.create_collection("keys", 3, metric="ip", m=8), ["keys"]),
            ("metric", store.create_collection("metric", 3, keys=str, m=8), ["metric ip", "metric cosine"]),
            (
                "dim",
                store.create_collection("dim", 5, metric="ip", keys=str, m=8),
                ["dimension 3", "dimension 5"],
            ),
            ("m", store.create_collection("m", 3, metric="ip", keys=str), ["m 8", "m 16"]),
        ):
            files = [tmp_path / "text" / file.name for file in text]
            refused(other, [str(files[0]), *words], lambda wrong=wrong, files=files: wrong.attach(files))
            assert len(wrong) == 0, name


@pytest.mark.parametrize("policy", ["replace", "keep", "refuse"])
def test_each_policy(path: Path, tmp_path: Path, refused: Callable[..., Any], policy: Any) -> None:
    files = build(tmp_path / "built", range(5, 15), 1.0)
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", DIM, metric="l2")
        rows.upsert(range(10), [[key, 0, 1, 0] for key in range(10)])
        rows.delete(9)
        rows.flush()
        before = segments(path)
        if policy == "refuse":
            words = ["the key", str(files[0]), "4 of the 10"]
            refused(nearstone.AlreadyExists, words, lambda: rows.attach(files, on_collision=policy))
            assert len(rows) == 9 and segments(path) == before
            return
        attached = rows.attach(files, on_collision=policy)
        there = (4, 0) if policy == "replace" else (0, 4)
        assert (attached.inserted, attached.replaced, attached.kept) == (6, *there)
        marks = {key: rows.get_vectors([key])[0, 1] for key in range(15)}
        kept = range(9) if policy == "keep" else range(5)
        assert marks == {key: 0.0 if key in kept else 1.0 for key in range(15)}
        store.verify()


def test_files_that_are_refused_change_nothing(
    path: Path, tmp_path: Path, refused: Callable[..., Any]
) -> None:
    good = build(tmp_path / "good", range(10), 1.0)
    twice = build(tmp_path / "twice", [9, 10], 1.0)
    wider = nearstone.build_segments(tmp_path / "wider", [1], np.ones((1, DIM + 1)), metric="l2")
    damaged = tmp_path / "damaged.seg"
    bytes_ = bytearray(good[0].read_bytes())
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", DIM, metric="l2")
        rows.upsert(100, [1, 1, 1, 1])
        rows.flush()
        own = segments(path)
        bad: Any = nearstone.InvalidArgument
        refused(bad, ["no file"], lambda: rows.attach([]))
        refused(bad, [str(wider[0]), f"dimension {DIM + 1}", f"dimension {DIM}"], lambda: rows.attach(wider))
        refused(bad, [str(good[0]), "twice"], lambda: rows.attach([*good, *good]))
        refused(bad, ["9", str(good[0]), str(twice[0])], lambda: rows.attach([*good, *twice]))
        refused(bad, ["on_collision", "replce"], lambda: rows.attach(good, on_collision="replce"))  # type: ignore[arg-type]
        refused(bad, ["take", "steal"], lambda: rows.attach(good, take="steal"))  # type: ignore[arg-type]
        refused(nearstone.NotFound, ["nobody.seg"], lambda: rows.attach(tmp_path / "nobody.seg"))
        refused(nearstone.AlreadyExists, ["part of the store"], lambda: rows.attach(own))
        for place in range(0, len(bytes_), len(bytes_) // 12):
            bytes_[place] ^= 4
            damaged.write_bytes(bytes_)
            kinds = (nearstone.Corruption, nearstone.UnsupportedVersion)
            refused(kinds, ["damaged.seg"], lambda: rows.attach([damaged]))
            bytes_[place] ^= 4
        for wrong in (7, None, [7], 1.5):
            with pytest.raises(TypeError):
                rows.attach(wrong)  # type: ignore[arg-type]
        assert (len(rows), segments(path), store.snapshot().lsn) == (1, own, 1)
        # What is sound goes in, once.
        assert rows.attach(good).inserted == 10
        refused(nearstone.AlreadyExists, [str(good[0]), "already"], lambda: rows.attach(good))
        assert len(rows) == 11
        store.verify()


def test_bad_input_builds_nothing(tmp_path: Path, refused: Callable[..., Any]) -> None:
    folder = tmp_path / "built"
    good = np.eye(3)
    bad: Any = nearstone.InvalidArgument
    make = nearstone.build_segments
    refused(bad, ["7", "given already", "row 2"], lambda: make(folder, [7, 8, 7], good))
    refused(bad, ["row 1", "NaN"], lambda: make(folder, [1, 2], [[1, 0], [float("nan"), 0]]))
    refused(bad, ["row 1", "zero"], lambda: make(folder, [1, 2], [[1, 0], [0, 0]]))
    refused(bad, ["row 1"], lambda: make(folder, [1, "b", 3], good))
    refused(bad, ["2 keys", "3 vectors"], lambda: make(folder, [1, 2], good))
    refused(bad, ["dimension", "0"], lambda: make(folder, [1], np.empty((1, 0))))
    refused(bad, ["m is 3", "4..=64"], lambda: make(folder, [1, 2, 3], good, m=3))
    refused(bad, ["ef_construction is 7"], lambda: make(folder, [1, 2, 3], good, ef_construction=7))
    refused(bad, ["euclid", "cosine"], lambda: make(folder, [1, 2, 3], good, metric="euclid"))  # type: ignore[arg-type]
    refused(bad, ["small", "memory"], lambda: make(folder, [1, 2, 3], good, profile="small"))  # type: ignore[arg-type]
    refused(bad, ["sq16", "sq4"], lambda: make(folder, [1, 2, 3], good, codes="sq16"))  # type: ignore[arg-type]
    refused(bad, ["threads", "0"], lambda: make(folder, [1, 2, 3], good, threads=0))
    refused(bad, ["seal_rows", "0"], lambda: make(folder, [1, 2, 3], good, seal_rows=0))
    refused(bad, ["seal_bytes", "0"], lambda: make(folder, [1, 2, 3], good, seal_bytes=0))
    with pytest.raises(TypeError):
        make(folder, [1, 2, 3], good, [3, 3, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        make(folder, [1, 2, 3], good, keys=str)  # type: ignore[call-arg]
    refused(nearstone.NotFound, ["no"], lambda: make(tmp_path / "no" / "place", [1, 2, 3], good))
    assert list(tmp_path.iterdir()) == []
    # Nothing is built of nothing.
    assert make(folder, [], np.empty((0, 3))) == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_holds_something_keeps_it(tmp_path: Path, refused: Callable[..., Any]) -> None:
    files = build(tmp_path / "built", range(3), 1.0)
    before = [file.read_bytes() for file in files]
    refused(
        nearstone.AlreadyExists, [str(tmp_path / "built")], lambda: build(tmp_path / "built", range(5), 2.0)
    )
    assert [file.read_bytes() for file in files] == before
    (tmp_path / "file").write_text("mine")
    refused(nearstone.AlreadyExists, ["file"], lambda: build(tmp_path / "file", range(5), 2.0))
    assert (tmp_path / "file").read_text() == "mine"
    # A folder that was there stays.
    (tmp_path / "empty").mkdir()
    refused(nearstone.InvalidArgument, ["given already"], lambda: build(tmp_path / "empty", [1, 1], 2.0))
    assert list((tmp_path / "empty").iterdir()) == []


def test_progress_can_cancel(path: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    vectors, folder = matrix(rng, 900), tmp_path / "built"
    for phase in ("link", "write"):
        with pytest.raises(nearstone.Cancelled):
            nearstone.build_segments(
                folder, range(900), vectors, seal_rows=300, progress=lambda now, *_, phase=phase: now != phase
            )
        assert not folder.exists()
    with pytest.raises(ZeroDivisionError):
        nearstone.build_segments(folder, range(900), vectors, progress=lambda *_: 1 // 0)
    assert not folder.exists()
    steps: list[tuple[str, int, int]] = []
    listen = lambda *step: steps.append(step)  # noqa: E731
    files = nearstone.build_segments(folder, range(900), vectors, seal_rows=300, progress=listen)
    assert {phase for phase, _, _ in steps} == {"link", "write"}
    with nearstone.open(path, background="manual") as store:
        rows = store.create_collection("rows", DIM)
        for phase in ("copy", "verify"):
            with pytest.raises(nearstone.Cancelled):
                rows.attach(files, take="copy", progress=lambda now, *_, phase=phase: now != phase)
            assert (len(rows), segments(path)) == (0, [])
        with pytest.raises(ZeroDivisionError):
            rows.attach(files, progress=lambda *_: 1 // 0)
        steps.clear()
        assert rows.attach(files, progress=listen).inserted == 900
        assert {phase for phase, _, _ in steps} == {"copy", "verify"}
        assert all(0 <= done <= total for _, done, total in steps)


def test_other_threads_run_meanwhile(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((5_000, 64), dtype=np.float32)
    turns = 0
    done = threading.Event()

    def work() -> None:
        nearstone.build_segments(tmp_path / "built", range(len(vectors)), vectors, threads=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 20
