"""What the documentation promises of the calls, one behaviour per test.

Results are compared with numpy, bits with the bits that were given, and everything that must survive a flush,
a compaction or a reopening is looked at before and after.
"""

from __future__ import annotations

import array
import copy
import math
import os
import pickle
import re
import time
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone

METRICS = ("l2", "cosine", "ip")
DIM = 6


def points(store: nearstone.Store, name: str = "rows", dim: int = DIM, **schema: Any) -> nearstone.Collection:
    return store.create_collection(name, dim, **{"metric": "l2", **schema})


def filled(store: nearstone.Store, rng: np.random.Generator, n: int = 50, **schema: Any) -> Any:
    """A collection of n rows under 0..n with payloads {"i": key}, and its matrix."""
    rows = points(store, **schema)
    matrix = rng.standard_normal((n, rows.dim), dtype=np.float32)
    rows.upsert(range(n), matrix, [{"i": i} for i in range(n)])
    return rows, matrix


# Opening, closing, collections


def test_open_creates_reopens_and_keeps(path: Path) -> None:
    with nearstone.open(path) as store:
        assert not store.closed
        assert os.path.samefile(store.path, path)
        assert isinstance(store.path, str)
        assert store.collections() == []
        rows = store.create_collection("rows", 3, metric="ip", keys="str", m=8, ef_construction=50)
        rows.upsert("a", [1, 2, 3], {"x": 1})
        uuid = store.uuid
    assert store.closed
    assert len(re.sub("[^0-9a-f]", "", uuid)) == 32
    with nearstone.open(str(path), create=False) as store:
        assert store.uuid == uuid
        assert store.collections() == ["rows"]
        rows = store.collection("rows")
        assert (rows.name, rows.dim, rows.metric, rows.key_type) == ("rows", 3, "ip", "str")
        assert (rows.m, rows.ef_construction) == (8, 50)
        assert len(rows) == 1 and rows.get("a").payload == {"x": 1}


def test_every_option_is_taken(path: Path) -> None:
    options: dict[str, Any] = {
        "memory_budget": 1 << 28,
        "write_stall": 1.5,
        "background": 1,
        "background_bytes_per_second": 1 << 20,
        "seal_bytes": 1 << 20,
        "seal_rows": 1000,
        "seal_idle": math.inf,
        "wal_bytes": 1 << 20,
        "dead_share": 0.5,
        "auto_compact": False,
    }
    with nearstone.in_memory(**options) as store:
        assert store.stats()["memory_budget"] == 1 << 28
    for recovery in ("torn_tail", "strict", "point_in_time"):
        for residency in ("mapped", "warm", "pinned", "heap"):
            with nearstone.open(path, recovery=recovery, residency=residency, **options) as store:
                rows = store.collection_or_create("rows", 2)
                rows.upsert(1, [1, 2])
                rows.flush()
                assert len(rows) == 1


def test_seal_rows_seals(store: nearstone.Store) -> None:
    with nearstone.in_memory(background="manual", seal_rows=10) as store:
        rows = points(store, dim=2)
        for key in range(35):
            rows.upsert(key, [key, 1])
        while store.step():
            pass
        assert store.stats()["seals"] >= 3
        assert list(rows.keys()) == list(range(35))


@pytest.mark.parametrize("durability", ["sync", "os", 0.02, 1])
def test_durability_by_store_and_by_call(path: Path, durability: Any) -> None:
    with nearstone.open(path, durability=durability) as store:
        rows = points(store, dim=2)
        rows.upsert(1, [1, 2])
        rows.upsert(2, [1, 2], durability=durability)
        rows.upsert([3, 4], [[1, 2], [3, 4]], durability="os")
        rows.delete(3, durability="os")
        with store.batch(durability=durability) as batch:
            batch.upsert(rows, 5, [1, 2])
        lsn = store.persist()
        assert lsn == store.stats()["lsn"] == store.snapshot().lsn
    with nearstone.open(path) as store:
        assert list(store.collection("rows").keys()) == [1, 2, 4, 5]


def test_with_closes_also_when_it_raises_and_closing_twice_is_fine(path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        with nearstone.open(path) as store:
            raise KeyError("mine")
    assert store.closed
    store.close()
    store.close()
    with nearstone.open(path):
        pass


def test_the_last_handle_releases_the_lock(path: Path) -> None:
    store = nearstone.open(path)
    rows = points(store)
    del store
    with pytest.raises(nearstone.Busy):
        nearstone.open(path)
    rows.upsert(1, np.ones(DIM))
    del rows
    with nearstone.open(path) as store:
        assert len(store.collection("rows")) == 1


def test_collections_are_made_found_renamed_and_dropped(store: nearstone.Store, refused: Any) -> None:
    rows = store.collection_or_create("b", 4, metric="l2")
    assert store.collection_or_create("b", 4, metric="l2").name == "b"
    refused(
        nearstone.AlreadyExists,
        ['"b"', "dimension 4", "dimension 5"],
        lambda: store.collection_or_create("b", 5, metric="l2"),
    )
    refused(nearstone.AlreadyExists, ['"b"'], lambda: store.create_collection("b", 4))
    store.create_collection("a", 4)
    assert store.collections() == ["a", "b"]
    rows.upsert(1, np.ones(4))
    store.rename_collection("b", "ü")
    assert store.collections() == ["a", "ü"]
    assert rows.name == "ü" and len(rows) == 1
    refused(nearstone.AlreadyExists, ['"a"'], lambda: store.rename_collection("ü", "a"))
    refused(nearstone.NotFound, ['"b"', '"a"'], lambda: store.collection("b"))
    store.drop_collection("ü")
    refused(nearstone.NotFound, ["dropped"], lambda: len(rows))
    refused(nearstone.NotFound, ["dropped"], lambda: rows.upsert(1, np.ones(4)))
    refused(nearstone.NotFound, ['"ü"'], lambda: store.drop_collection("ü"))
    assert store.collections() == ["a"]


def test_a_lean_collection_reads_its_vectors(path: Path, rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((1100, 64), dtype=np.float32)
    with nearstone.open(path, background="manual") as store:
        for name in ("auto", "speed", "memory"):
            rows = store.collection_or_create(name, 64, metric="l2", profile=name)
            assert rows.profile == name
            rows.bulk_load(np.arange(1100), matrix)
        # What it is made for changes by a rebuild, not by asking for it.
        assert store.collection_or_create("memory", 64, metric="l2").profile == "memory"
    for residency in ("mapped", "warm", "pinned", "heap"):
        with nearstone.open(path, read_only=True, residency=residency) as store:
            stats = store.stats()
            for name, one in stats["collections"].items():
                (segment,) = one["segments"]
                held = segment["held"]
                assert one["profile"] == segment["profile"] == name
                assert ("inline_rows" in segment["sections"]) == (name != "memory")
                assert (held["read"] > 0) == (name == "memory" and residency != "heap")
                assert (held["warmed"] > 0) == (residency == "warm")
                assert (held["pinned"] > 0) == (residency == "pinned")
                assert (held["heap"], held["mapped"])[residency != "heap"] == segment["bytes"]
                rows = store.collection(name)
                assert np.array_equal(rows.get_vectors([5, 1099]), matrix[[5, 1099]])
                hits = rows.search(matrix[:20], k=1)
                assert np.array_equal(hits.keys[:, 0], np.arange(20)) and not hits.distances.any()
            assert set(stats["held"]) == {"mapped", "warmed", "pinned", "heap", "read"}


def test_codes_are_chosen_by_name(path: Path, rng: np.random.Generator, refused: Any) -> None:
    matrix = rng.standard_normal((600, 64), dtype=np.float32)
    with nearstone.open(path, background="manual") as store:
        for name in ("sq8", "sq4", "rabitq1", "rabitq2", "rabitq4", "rabitq8", "pq4", "pq8", "pq16"):
            rows = store.collection_or_create(name, 64, metric="l2", profile="memory", codes=name)
            assert rows.codes == name
            rows.bulk_load(np.arange(600), matrix)
            (segment,) = store.stats()["collections"][name]["segments"]
            assert store.stats()["collections"][name]["codes"] == segment["codes"] == name
            assert segment["sections"]["codes"] == 600 * (128 if name in ("sq8", "rabitq8") else 64)
            hits = rows.search(matrix[:20], k=1)
            assert np.array_equal(hits.keys[:, 0], np.arange(20)) and not hits.distances.any()
        rows.rebuild(codes="sq8")
        assert rows.codes == "sq8"
        refused(nearstone.InvalidArgument, ["sq3", "sq8, sq4"], lambda: rows.rebuild(codes="sq3"))


def test_defaults_and_key_types(store: nearstone.Store) -> None:
    rows = store.create_collection("rows", 2)
    assert (rows.profile, rows.codes) == ("auto", "sq8")
    assert (rows.metric, rows.key_type, rows.m, rows.ef_construction) == ("cosine", "u64", 16, 200)
    assert store.create_collection("ints", 2, keys=int).key_type == "u64"
    assert store.create_collection("strs", 2, keys=str).key_type == "str"


# Writing


def layouts(matrix: np.ndarray, folder: Path) -> dict[str, Any]:
    """The same float32 matrix in the forms that users have it in; all its numbers are small integers."""
    wide = np.zeros((len(matrix) * 2, matrix.shape[1] * 3), np.float32)
    wide[::2, 1::3] = matrix
    locked = matrix.copy()
    locked.flags.writeable = False
    np.save(folder / "matrix.npy", matrix)
    unaligned = np.frombuffer(b"x" + matrix.tobytes(), np.float32, offset=1).reshape(matrix.shape)

    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return matrix if dtype is None else matrix.astype(dtype)

    return {
        "float32": matrix,
        "float64": matrix.astype(np.float64),
        "float16": matrix.astype(np.float16),
        "longdouble": matrix.astype(np.longdouble),
        "int8": matrix.astype(np.int8),
        "int64": matrix.astype(np.int64),
        "uint16": np.abs(matrix).astype(np.uint16),
        "big-endian": matrix.astype(">f4"),
        "lists": matrix.tolist(),
        "tuples": tuple(tuple(row) for row in matrix.tolist()),
        "list of rows": list(matrix),
        "Fortran order": np.asfortranarray(matrix),
        "Fortran order, float64": np.asfortranarray(matrix, np.float64),
        "transposed": matrix.T.copy().T,
        "strided": wide[::2, 1::3],
        "reversed": matrix[::-1].copy()[::-1],
        "read-only": locked,
        "mapped": np.load(folder / "matrix.npy", mmap_mode="r"),
        "unaligned": unaligned,
        "__array__": Foreign(),
    }


def test_a_matrix_may_come_in_any_form(
    store: nearstone.Store, rng: np.random.Generator, tmp_path: Path
) -> None:
    matrix = rng.integers(-100, 100, (40, DIM)).astype(np.float32)
    for name, form in layouts(matrix, tmp_path).items():
        rows = points(store, name)
        commit = rows.upsert(np.arange(40), form)
        right = np.abs(matrix) if name == "uint16" else matrix
        assert commit.upserted == 40, name
        assert np.array_equal(rows.get_vectors(range(40)), right), name
        one = form if name in ("__array__",) else form[7]
        if name != "__array__":
            rows.upsert(7, one)
            assert np.array_equal(rows.get(7).vector, right[7]), name
            alone = rows.search(one, 5, exact=True)
            many = rows.search(form, 5, exact=True)
            assert np.array_equal(alone.keys, many.keys[7]), name
    rows = points(store, "buffer")
    rows.upsert(1, array.array("f", [1, 2, 3, 4, 5, 6]))
    assert rows.get(1).vector.tolist() == [1, 2, 3, 4, 5, 6]


def test_float64_is_rounded_as_numpy_rounds(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows = points(store)
    matrix = rng.standard_normal((20, DIM))
    rows.upsert(range(20), matrix)
    assert np.array_equal(rows.get_vectors(range(20)), matrix.astype(np.float32))


def test_get_returns_the_bits_that_were_given(disk: nearstone.Store, path: Path) -> None:
    tiny = np.array([-0.0, 1.4e-45, 1.0000001, -123.456, 3e17, 7e-10], np.float32)
    for metric in METRICS:
        rows = points(disk, metric, metric=metric)
        rows.upsert(1, tiny)
    for turn in range(3):
        for metric in METRICS:
            rows = disk.collection(metric)
            for vector in (
                rows.get(1).vector,
                rows.get([1])[0].vector,
                rows.get_vectors([1])[0],
                rows.search(tiny, 1, vectors=True).vectors[0],
                rows.search(tiny, 1, vectors=True)[0].vector,
            ):
                assert vector.dtype == np.float32 and vector.shape == (DIM,)
                assert vector.tobytes() == tiny.tobytes(), (metric, turn)
        if turn == 0:
            disk.flush()
        else:
            disk.compact()


def test_what_is_stored_is_a_copy(store: nearstone.Store) -> None:
    rows = points(store, dim=2)
    vector, payload = np.ones(2, np.float32), {"list": [1]}
    batch = store.batch()
    batch.upsert(rows, 1, vector, payload)
    vector[:] = 5
    payload["list"].append(2)
    batch.commit()
    assert rows.get(1).vector.tolist() == [1, 1]
    row = rows.get(1)
    row.vector[:] = 9
    row.payload["list"].append(3)
    rows.search([1, 1], 1, vectors=True).vectors[:] = 9
    assert rows.get(1).vector.tolist() == [1, 1]
    assert rows.get(1).payload == {"list": [1]}
    hits = rows.search([1, 1], 1)
    hits.keys[0] = 77
    assert rows.search([1, 1], 1).keys.tolist() == [1]


@pytest.mark.parametrize(
    "keys",
    [
        [3, 1, 2],
        (3, 1, 2),
        np.array([3, 1, 2]),
        np.array([3, 1, 2], np.uint64),
        np.array([3, 1, 2], np.int8),
        np.array([3, 1, 2], ">u4"),
        np.array([3, 0, 1, 0, 2, 0])[::2],
        [np.int64(3), np.uint8(1), 2],
        range(3, 0, -1),
    ],
    ids=lambda keys: f"{type(keys).__name__} {getattr(keys, 'dtype', '')}",
)
def test_integer_keys_may_come_in_any_form(store: nearstone.Store, keys: Any) -> None:
    rows = points(store, dim=2)
    order = [int(key) for key in keys]
    rows.upsert(keys, [[key, 0] for key in order])
    assert [row.key for row in rows.get(keys)] == order
    assert rows.get_vectors(keys)[:, 0].tolist() == order
    assert all(key in rows for key in keys)
    assert rows.get(keys[1]).key == order[1] and type(rows.get(keys[1]).key) is int
    assert rows.delete(keys[1]) == 1
    assert rows.delete(keys) == 2
    assert len(rows) == 0


def test_all_integers_of_64_bits_are_keys(store: nearstone.Store) -> None:
    rows = points(store, dim=1)
    keys = [0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
    rows.upsert(keys, np.arange(8)[:, None])
    assert list(rows.keys()) == keys
    assert rows.search([0], 8).keys.tolist() == keys
    assert rows.search([0], 8).keys.dtype == np.uint64
    assert rows.get(2**64 - 1).key == 2**64 - 1
    assert list(rows.keys(after=2**63)) == [2**64 - 1]
    assert list(rows.keys(after=2**64 - 1)) == []
    rows.upsert(np.array([2**64 - 1], np.uint64), [[50]])
    assert rows.get(2**64 - 1).vector.tolist() == [50]
    seen: list[int] = []
    rows.search([0], 8, filter=lambda key: seen.append(key) or True)
    assert set(seen) == set(keys) and all(type(key) is int for key in seen)


def test_string_keys(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows = points(store, keys="str")
    keys = ["a", "ä", "𝄞", " ", "\x00", "ab\x00c", "x" * 512, "日本", "1"]
    matrix = rng.standard_normal((len(keys), DIM), dtype=np.float32)
    rows.upsert(keys, matrix, [{"key": key} for key in keys])
    for _ in range(2):
        assert list(rows.keys()) == sorted(keys, key=str.encode)
        assert [row.key for row in rows.get(keys)] == keys
        hits = rows.search(matrix[3], 3)
        assert isinstance(hits.keys, list) and hits.keys[0] == " "
        assert hits[0].key == " " and hits[0].payload == {"key": " "}
        many = rows.search(matrix, 2)
        assert [row[0] for row in many.keys] == keys
        assert many.distances.shape == (len(keys), 2)
        assert "ä" in rows and "b" not in rows
        rows.flush()
    assert rows.delete("ä") == 1 and rows.delete(["ä", "a", "zz"]) == 1


def test_upsert_says_what_it_did(store: nearstone.Store) -> None:
    rows = points(store, dim=2)
    first = rows.upsert(1, [1, 0], {"v": 1})
    assert (first.upserted, first.deleted, list(first.results)) == (1, 0, ["inserted"])
    second = rows.upsert([2, 1, 2], [[2, 0], [3, 0], [4, 0]])
    assert second.lsn == first.lsn + 1
    assert second.results == ["superseded", "replaced", "inserted"] and second.upserted == 2
    assert rows.get(1).version == second.lsn and rows.get(1).payload is None, (
        "an upsert replaces all of the row"
    )
    assert rows.get(2).vector.tolist() == [4, 0]
    assert rows.search([0, 0], 2).versions.tolist() == [second.lsn, second.lsn]
    assert rows.search([0, 0], 2).versions.dtype == np.uint64


def test_empty_writes_and_reads(store: nearstone.Store) -> None:
    rows = points(store)
    rows.upsert(1, np.ones(DIM))
    before = store.snapshot().lsn
    commit = rows.upsert([], np.empty((0, DIM), np.float32))
    assert (commit.lsn, commit.upserted, commit.results) == (before, 0, [])
    assert rows.upsert(np.empty(0, np.uint64), np.empty((0, DIM)), []).upserted == 0
    assert rows.delete([]) == 0
    assert rows.get([]) == []
    assert rows.get_vectors([]).shape == (0, DIM) and rows.get_vectors([]).dtype == np.float32
    hits = rows.search(np.empty((0, DIM), np.float32), 3)
    assert len(hits) == 0 and list(hits) == [] and len(hits.keys) == 0 and len(hits.distances) == 0
    assert store.batch().commit().lsn == before
    assert store.snapshot().lsn == before


def test_delete_counts_rows_that_were_there(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, _ = filled(store, rng, 10)
    assert rows.delete(3) == 1
    assert rows.delete(3) == 0
    assert rows.delete([3, 4, 5, 99, 4]) == 2
    rows.flush()
    assert rows.delete([6, 6, 7], atomic=True) == 2
    assert list(rows.keys()) == [0, 1, 2, 8, 9] and len(rows) == 5
    assert rows.get(3) is None and rows.get([3, 0])[0] is None
    assert 3 not in rows and 0 in rows


def test_get_vectors_of_a_missing_key(store: nearstone.Store, rng: np.random.Generator, refused: Any) -> None:
    rows, matrix = filled(store, rng, 5)
    assert np.array_equal(rows.get_vectors([3, 3, 0]), matrix[[3, 3, 0]])
    refused(nearstone.NotFound, ["77"], lambda: rows.get_vectors([1, 77, 2]))


def test_a_matrix_larger_than_a_batch_is_split_and_an_atomic_one_is_refused(path: Path, refused: Any) -> None:
    dim, n = 16_384, 1060
    assert n * dim * 4 > 64 << 20
    matrix = np.full((n, dim), 0.5, np.float32)
    matrix[:, 0] = np.arange(n)
    with nearstone.open(path, background="manual", durability="os") as store:
        rows = points(store, dim=dim)
        before = store.snapshot().lsn
        refused(
            nearstone.InvalidArgument, [str(64 << 20)], lambda: rows.upsert(np.arange(n), matrix, atomic=True)
        )
        assert len(rows) == 0 and store.snapshot().lsn == before
        commit = rows.upsert(np.arange(n), matrix)
        assert commit.upserted == n and commit.lsn > before + 1
        assert len(rows) == n
        assert rows.get_vectors([0, n // 2, n - 1])[:, 0].tolist() == [0, n // 2, n - 1]
        assert rows.get(n - 1).version == commit.lsn


def test_an_atomic_matrix_is_one_batch(store: nearstone.Store) -> None:
    # Of a size that is split when it need not be atomic, with fewer rows than a writer links on its way.
    rows = points(store, dim=2048)
    matrix = np.ones((1500, 2048), np.float32)
    before = store.snapshot().lsn
    commit = rows.upsert(range(1500), matrix, atomic=True)
    assert commit.lsn == before + 1 and commit.upserted == 1500
    assert commit.results == ["inserted"] * 1500
    again = points(store, "again", dim=2048)
    assert again.upsert(range(1500), matrix).lsn > commit.lsn + 1


def test_a_used_up_memory_budget_says_so(refused: Any) -> None:
    with nearstone.in_memory(background="manual", memory_budget=200_000, write_stall=0.02) as store:
        rows = points(store, dim=64)

        def write() -> None:
            for key in range(10_000):
                rows.upsert(key, np.full(64, key))

        refused(nearstone.Busy, ["200000"], write)
        assert len(rows) > 50
        while store.step():
            pass
        rows.upsert(1, np.ones(64))
        assert store.stats()["write_stalls"] > 0


# Payloads

PAYLOADS: list[Any] = [
    None,
    {},
    {"a": None},
    {"text": 'ä 𝄞 \u0000 " \\ \u2028', "": "empty key", "ключ": "日本"},
    {"nested": {"list": [1, [2, [3, {"deep": True}]], None, False]}},
    {"ints": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1]},
    {"floats": [0.1, 1e300, -1e-300, 5e-324, 2.0, -0.0, 1 / 3]},
    {"long": "x" * 100_000},
    {f"k{i}": i for i in range(2000)},
]


def test_payloads_come_back_as_they_were_given(disk: nearstone.Store, path: Path) -> None:
    rows = points(disk, dim=2)
    keys = list(range(len(PAYLOADS)))
    rows.upsert(keys, np.arange(2 * len(keys)).reshape(-1, 2), PAYLOADS)

    def look(rows: nearstone.Collection) -> None:
        assert [row.payload for row in rows.get(keys)] == PAYLOADS
        hits = rows.search([0, 0], len(keys))
        assert hits.payloads == PAYLOADS
        assert [hit.payload for hit in hits] == PAYLOADS
        assert rows.search([[0, 0]], len(keys)).payloads == [PAYLOADS]
        floats = rows.get(6).payload["floats"]
        assert [type(x) for x in floats] == [float] * 7 and str(floats[5]) == "-0.0"
        ints = rows.get(5).payload["ints"]
        assert all(type(x) is int for x in ints)
        assert rows.get(1).payload == {} and rows.get(0).payload is None

    look(rows)
    rows.flush()
    look(rows)
    disk.close()
    with nearstone.open(path) as store:
        look(store.collection("rows"))


def test_any_mapping_is_a_payload(store: nearstone.Store) -> None:
    rows = points(store, dim=2)
    rows.upsert(1, [1, 1], OrderedDict(b=1, a=(1, 2)))
    rows.upsert(2, [1, 1], types.MappingProxyType({"a": 1}))
    assert rows.get(1).payload == {"b": 1, "a": [1, 2]}
    assert rows.get(2).payload == {"a": 1}


def test_a_number_in_a_payload_is_never_changed_in_silence(store: nearstone.Store) -> None:
    rows = points(store, dim=2)
    for number in (2**64, -(2**63) - 1, 2**200, 10**400):
        try:
            rows.upsert(1, [1, 1], {"n": number})
        except (ValueError, TypeError):
            assert 1 not in rows
        else:
            assert rows.get(1).payload == {"n": number}
            assert rows.search([1, 1], 1).payloads == [{"n": number}]
            rows.delete(1)


@pytest.mark.parametrize("depth", [100, 126, 127, 128, 129, 500, 900, 50_000])
def test_a_deep_payload_is_refused_or_can_be_read(store: nearstone.Store, depth: int) -> None:
    rows = points(store, dim=2)
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"a": payload}
    try:
        rows.upsert(1, [1, 1], payload)
    except (TypeError, ValueError, RecursionError):
        assert depth > 100 and 1 not in rows
        return
    read = rows.get(1).payload
    for _ in range(depth):
        read = read["a"]
    assert read == {}


# Reading


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sealed", [False, True, None], ids=["memory", "sealed", "both"])
def test_exact_search_equals_numpy(
    store: nearstone.Store,
    rng: np.random.Generator,
    distances: Callable[..., np.ndarray],
    metric: str,
    sealed: bool,
) -> None:
    dim, n, k = 33, 400, 15
    rows = points(store, dim=dim, metric=metric)
    matrix = rng.standard_normal((n, dim), dtype=np.float32)
    keys = rng.permutation(n * 10)[:n]
    rows.upsert(keys[: n // 2], matrix[: n // 2])
    if sealed is not False:
        rows.flush()
    rows.upsert(keys[n // 2 :], matrix[n // 2 :])
    if sealed:
        rows.compact()
    rows.delete(keys[:7])
    live = keys[7:]
    queries = rng.standard_normal((20, dim), dtype=np.float32)
    right = distances(metric, queries, matrix[7:])
    order = np.argsort(right, axis=1)[:, :k]
    for threads in (None, 1, 3):
        hits = rows.search(queries, k, exact=True, threads=threads)
        assert hits.keys.shape == hits.distances.shape == (20, k)
        assert (hits.keys.dtype, hits.distances.dtype) == (np.uint64, np.float32)
        assert np.array_equal(hits.keys, live[order])
        assert np.allclose(hits.distances, np.take_along_axis(right, order, axis=1), rtol=1e-5, atol=1e-6)
    for i, query in enumerate(queries):
        one = rows.search(query, k, exact=True)
        assert np.array_equal(one.keys, hits.keys[i]) and np.array_equal(one.distances, hits.distances[i])
        wide = rows.search(query, k, ef=1000)
        assert np.array_equal(wide.keys, one.keys), "a beam wider than the collection is exact"
    rows.link()
    rows.link(2)
    assert np.array_equal(rows.search(queries, k, ef=1000).keys, hits.keys)


def test_hits_can_be_indexed_and_iterated(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, matrix = filled(store, rng, 30)
    hits = rows.search(matrix[4], 3, vectors=True)
    assert len(hits) == 3 and len(list(hits)) == 3
    assert hits[0].key == 4 and type(hits[0].key) is int
    assert hits[0].distance == 0 and type(hits[0].distance) is float
    assert hits[0].version == rows.get(4).version
    assert hits[0].payload == {"i": 4}
    assert np.array_equal(hits.vectors, matrix[hits.keys.astype(int)])
    assert hits[-1].key == hits.keys[2] == hits[2].key
    assert [hit.key for hit in hits] == hits.keys.tolist()
    assert [hit.distance for hit in hits] == hits.distances.tolist()
    assert hits.payloads == [{"i": key} for key in hits.keys.tolist()]
    for index in (3, -4, 10**6):
        with pytest.raises(IndexError):
            hits[index]
    with pytest.raises((IndexError, OverflowError)):
        hits[2**70]
    with pytest.raises(TypeError):
        hits["a"]

    many = rows.search(matrix[:5], 3, vectors=True)
    assert len(many) == 5 and many.keys.shape == (5, 3) and many.versions.shape == (5, 3)
    assert many.vectors.shape == (5, 3, DIM)
    assert np.array_equal(many.vectors[4], hits.vectors)
    assert many.payloads[4] == hits.payloads
    for i, one in enumerate(many):
        assert np.array_equal(one.keys, many.keys[i]) and np.array_equal(one.keys, many[i].keys)
        assert one[0].key == i and one.payloads == many.payloads[i]
    assert np.array_equal(many[-1].keys, hits.keys)
    for index in (5, -6):
        with pytest.raises(IndexError):
            many[index]
    one_row = rows.search(matrix[4:5], 3)
    assert one_row.keys.shape == (1, 3) and isinstance(one_row[0], nearstone.Hits)


def test_hits_outlive_everything(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, matrix = filled(store, rng, 10)
    hits, row = rows.search(matrix[:2], 2, vectors=True), rows.get(3)
    first = hits[0][0]
    rows.delete(range(10))
    store.close()
    assert first.key == 0 and first.payload == {"i": 0} and np.array_equal(first.vector, matrix[0])
    assert hits.payloads[1][0] == {"i": 1} and hits.keys[:, 0].tolist() == [0, 1]
    assert np.array_equal(hits.vectors[1, 0], matrix[1])
    assert row.payload == {"i": 3} and np.array_equal(row.vector, matrix[3])


def test_payloads_and_vectors_that_were_not_asked_for(
    store: nearstone.Store, rng: np.random.Generator, refused: Any
) -> None:
    rows, matrix = filled(store, rng, 10)
    for query in (matrix[0], matrix[:3]):
        hits = rows.search(query, 2, payloads=False)
        refused(nearstone.InvalidArgument, ["payloads"], lambda hits=hits: hits.payloads)
        refused(nearstone.InvalidArgument, ["vectors"], lambda hits=hits: hits.vectors)
    hit = rows.search(matrix[0], 2, payloads=False)[0]
    assert hit.key == 0
    refused(nearstone.InvalidArgument, ["payloads"], lambda: hit.payload)
    refused(nearstone.InvalidArgument, ["vectors"], lambda: hit.vector)


def test_k_limit_and_the_number_of_rows(
    store: nearstone.Store, rng: np.random.Generator, refused: Any
) -> None:
    rows, matrix = filled(store, rng, 20)
    query = matrix[0]
    assert len(rows.search(query)) == 10
    for k in (0, 1, 20, 21, 10_000, 2**40):
        k_found = min(k, 20)
        assert rows.search(query, k).keys.shape == (k_found,)
        assert rows.search(query, k=k, exact=True).distances.shape == (k_found,)
        assert rows.search(query, limit=k).keys.shape == (k_found,)
        hits = rows.search(matrix[:3], k)
        assert hits.keys.shape == (3, k_found) and hits.distances.shape == (3, k_found)
        assert len(hits) == 3 and len(hits[1]) == k_found
    assert rows.search(query, np.int64(4)).keys.shape == (4,)
    assert len(rows.search(query, 4, limit=4)) == 4
    refused(nearstone.InvalidArgument, ["4", "5", "limit"], lambda: rows.search(query, 4, limit=5))
    refused(nearstone.InvalidArgument, ["10", "5", "limit"], lambda: rows.search(query, 10, limit=5))
    empty = points(store, "empty")
    assert empty.search(query, 5).keys.shape == (0,) and empty.search(query, 5).payloads == []
    assert empty.search(matrix[:3], 5).keys.shape == (3, 0)
    assert [len(hits) for hits in empty.search(matrix[:3], 5)] == [0, 0, 0]
    names = points(store, "names", keys="str")
    assert names.search(query, 5).keys == [] and names.search(matrix[:3], 5).keys == [[], [], []]


def test_ties_come_by_key(store: nearstone.Store) -> None:
    rows = points(store, dim=2)
    rows.upsert([5, 3, 9], np.ones((3, 2)))
    rows.flush()
    rows.upsert([2, 8], np.ones((2, 2)))
    assert rows.search([0, 0], 10).keys.tolist() == [2, 3, 5, 8, 9]
    assert rows.search([0, 0], 3, exact=True).keys.tolist() == [2, 3, 5]


def test_a_filter_decides(store: nearstone.Store, rng: np.random.Generator, distances: Any) -> None:
    rows, matrix = filled(store, rng, 200)
    mask = rng.random(200) < 0.3
    right = np.argsort(distances("l2", matrix[:4], matrix[mask]), axis=1)[:, :8]
    for _ in range(2):
        for filter in (lambda key: bool(mask[key]), lambda key: mask[key], mask.tolist().__getitem__):
            for threads in (None, 1, 4):
                hits = rows.search(matrix[:4], 8, exact=True, filter=filter, threads=threads)
                assert np.array_equal(hits.keys, np.flatnonzero(mask)[right])
            one = rows.search(matrix[0], 8, ef=500, filter=filter)
            assert np.array_equal(one.keys, hits.keys[0])
        only = rows.search(matrix[0], 8, filter=lambda key: key in (17, 3))
        assert sorted(only.keys.tolist()) == [3, 17]
        assert rows.search(matrix[:3], 8, filter=lambda key: key == 17).keys.tolist() == [[17]] * 3
        assert len(rows.search(matrix[0], 8, filter=lambda key: False)) == 0
        rows.flush()


def test_slow_exact_queries_of_a_matrix_are_still_asked_together(
    store: nearstone.Store, rng: np.random.Generator
) -> None:
    """One that took longer than a piece should was followed by pieces of one, each of which read all rows alone."""
    rows, matrix = filled(store, rng, 300)
    calls = 0

    def slow(_: int) -> bool:
        nonlocal calls
        calls += 1
        time.sleep(100e-6)
        return True

    hits = rows.search(matrix[:60], 3, exact=True, threads=1, filter=slow)
    assert np.array_equal(hits.keys[:, 0], np.arange(60))
    assert calls <= 2 * len(matrix), "each row is read once for 32 queries"


def test_what_a_filter_raises_comes_through(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, matrix = filled(store, rng, 50)

    class Mine(BaseException):
        pass

    def filter(key: int) -> bool:
        if key % 7 == 3:
            raise Mine(f"key {key}")
        return True

    for query in (matrix[0], matrix[:9]):
        for exact in (False, True):
            with pytest.raises(Mine, match="key"):
                rows.search(query, 50, exact=exact, filter=filter)
    with pytest.raises(TypeError):
        rows.search(matrix[0], 5, filter=lambda: True)
    assert len(rows.search(matrix[0], 50)) == 50


def test_a_filter_may_use_the_store(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, matrix = filled(store, rng, 50)
    hits = rows.search(matrix[:3], 5, filter=lambda key: rows.get(key).payload["i"] % 2 == 0)
    assert hits.keys.shape == (3, 5) and not (hits.keys % 2).any()
    rows.search(matrix[0], 5, filter=lambda key: rows.upsert(1000 + key, matrix[0]).upserted == 1)
    assert len(rows) > 50


def test_keys_come_in_order_from_one_moment(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows = points(store, dim=2)
    keys = rng.permutation(1000)
    rows.upsert(keys[:500], np.ones((500, 2)))
    rows.flush()
    rows.upsert(keys[500:], np.ones((500, 2)))
    listing = rows.keys()
    assert iter(listing) is listing and next(listing) == 0 and type(next(listing)) is int
    rows.delete(range(1000))
    rows.compact()
    assert list(listing) == list(range(2, 1000))
    assert list(rows.keys()) == []
    with pytest.raises(StopIteration):
        next(listing)
    rows.upsert([5, 9, 7], np.ones((3, 2)))
    assert list(rows.keys(after=5)) == [7, 9] and list(rows.keys(after=6)) == [7, 9]
    assert list(rows.keys(after=9)) == [] and list(rows.keys(None)) == [5, 7, 9]
    names = points(store, "names", dim=2, keys="str")
    names.upsert(["b", "a", "c"], np.ones((3, 2)))
    assert list(names.keys(after="a")) == ["b", "c"] and list(names.keys(after="aa")) == ["b", "c"]


# Batches


def test_a_batch_is_one_moment_across_collections(store: nearstone.Store) -> None:
    a, b = points(store, "a", dim=2), points(store, "b", dim=3, keys="str")
    a.upsert(1, [1, 1])
    batch = store.batch()
    assert len(batch) == 0
    empty = batch.byte_len
    assert batch.upsert(a, 2, [2, 2], {"x": 1}) is batch
    batch.upsert(b, ["x", "y"], np.ones((2, 3)), [None, {"y": 2}]).delete(a, [1, 77]).delete(b, "x")
    assert len(batch) == 6 and batch.byte_len > empty + (2 + 3 + 3) * 4
    assert 2 not in a and len(b) == 0 and 1 in a
    before = store.snapshot()
    commit = batch.commit()
    assert commit.lsn == before.lsn + 1
    assert commit.results == ["inserted", "superseded", "inserted", "deleted", "missing", "missing"]
    assert (commit.upserted, commit.deleted) == (2, 1)
    assert list(a.keys()) == [2] and list(b.keys()) == ["y"]
    assert a.get(2).version == b.get("y").version == commit.lsn
    assert list(a.at(before).keys()) == [1] and len(b.at(before)) == 0


def test_a_batch_as_context_commits_or_is_discarded(store: nearstone.Store, refused: Any) -> None:
    rows = points(store, dim=2)
    with store.batch() as batch:
        batch.upsert(rows, [1, 2], np.ones((2, 2)))
        assert len(rows) == 0
    assert list(rows.keys()) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        with store.batch() as batch:
            batch.upsert(rows, 3, [1, 1])
            raise ZeroDivisionError
    assert list(rows.keys()) == [1, 2]
    for call in (
        lambda: batch.commit(),
        lambda: batch.upsert(rows, 3, [1, 1]),
        lambda: batch.delete(rows, 1),
    ):
        refused(nearstone.Error, [], call)
    done = store.batch()
    done.upsert(rows, 4, [1, 1])
    done.commit()
    refused(nearstone.Error, ["batch"], done.commit)
    refused(nearstone.Error, ["batch"], lambda: done.upsert(rows, 5, [1, 1]))
    with store.batch() as batch:
        batch.upsert(rows, 6, [1, 1])
        assert batch.commit().upserted == 1, "committing by hand inside the with is fine"
    assert list(rows.keys()) == [1, 2, 4, 6]
    store.batch().upsert(rows, 9, [1, 1])
    assert 9 not in rows, "a batch that is dropped is discarded"


def test_a_refused_row_leaves_the_batch_as_it_was(store: nearstone.Store, refused: Any) -> None:
    rows = points(store, dim=2)
    batch = store.batch().upsert(rows, 1, [1, 1])
    size = batch.byte_len
    bad = np.ones((3, 2))
    bad[1, 1] = np.nan
    refused(nearstone.InvalidArgument, ["row 1"], lambda: batch.upsert(rows, [5, 6, 7], bad))
    refused(nearstone.InvalidArgument, ["-4"], lambda: batch.delete(rows, [1, -4]))
    assert len(batch) == 1 and batch.byte_len == size
    assert batch.commit().upserted == 1 and list(rows.keys()) == [1]


def test_a_batch_of_a_dropped_collection(store: nearstone.Store, refused: Any) -> None:
    a, b = points(store, "a"), points(store, "b")
    batch = store.batch().upsert(a, 1, np.ones(DIM)).upsert(b, 1, np.ones(DIM))
    store.drop_collection("b")
    refused(nearstone.NotFound, ['"b"'], batch.commit)
    assert len(a) == 0


# Snapshots


def test_a_snapshot_sees_its_moment(disk: nearstone.Store, rng: np.random.Generator) -> None:
    rows, matrix = filled(disk, rng, 40)
    snapshot = disk.snapshot()
    then = rows.at(snapshot)
    assert snapshot.lsn == rows.get(0).version
    rows.delete(range(20))
    rows.upsert(range(20, 40), np.zeros((20, DIM)))

    def look() -> None:
        assert len(then) == 40 and 3 in then and list(then.keys(after=37)) == [38, 39]
        assert then.get(3).payload == {"i": 3} and then.get([3, 100])[1] is None
        assert np.array_equal(then.get_vectors(range(40)), matrix)
        hits = then.search(matrix, 1, vectors=True)
        assert hits.keys[:, 0].tolist() == list(range(40))
        assert hits.payloads[7] == [{"i": 7}]
        assert then.search(matrix[0], 2, filter=lambda key: key > 20).keys.min() > 20
        assert len(rows.at(snapshot)) == 40

    look()
    disk.flush()
    look()
    disk.compact()
    look()
    assert len(rows) == 20
    disk.drop_collection("rows")
    look()
    again = points(disk)
    with pytest.raises(nearstone.NotFound):
        again.at(snapshot)


def test_closing_a_snapshot(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, _ = filled(store, rng, 5)
    with store.snapshot() as snapshot:
        then = rows.at(snapshot)
        assert len(then) == 5
    rows.delete(1)
    snapshot.close()
    with pytest.raises(nearstone.Closed, match="snapshot"):
        rows.at(snapshot)
    try:
        assert len(then) == 5
    except nearstone.Closed:
        pass
    assert "snapshot" in repr(snapshot).lower()


def test_a_closed_snapshot_lets_go_of_old_files(path: Path, rng: np.random.Generator) -> None:
    with nearstone.open(path, background="manual") as store:
        rows, _ = filled(store, rng, 500)
        rows.flush()
        old = {file.name for file in (path / "segments").iterdir()}
        snapshot = store.snapshot()
        then = rows.at(snapshot)
        rows.delete(range(400))
        rows.compact()
        assert old <= {file.name for file in (path / "segments").iterdir()}
        assert len(then) == 500
        snapshot.close()
        del then
        rows.upsert(1000, np.ones(DIM))
        rows.compact()
        while store.step():
            pass
        assert not old & {file.name for file in (path / "segments").iterdir()}
        assert len(rows) == 101


# The whole store


def test_flush_and_compact_keep_results(disk: nearstone.Store, rng: np.random.Generator, path: Path) -> None:
    rows, matrix = filled(disk, rng, 300)
    rows.delete([5, 6])
    right = rows.search(matrix, 5, exact=True)
    for step in (rows.flush, rows.compact, disk.flush, disk.compact):
        assert step() is None
        hits = rows.search(matrix, 5, exact=True)
        assert np.array_equal(hits.keys, right.keys) and np.array_equal(hits.distances, right.distances)
        assert hits.payloads == right.payloads
    disk.close()
    with nearstone.open(path, read_only=True) as store:
        hits = store.collection("rows").search(matrix, 5, exact=True)
        assert np.array_equal(hits.keys, right.keys) and np.array_equal(hits.distances, right.distances)


def test_stats_verify_and_recovery(path: Path, rng: np.random.Generator) -> None:
    with nearstone.open(path, background="manual") as store:
        assert store.recovery["batches"] == 0 and store.recovery["torn_bytes"] == 0
        assert store.recovery["stopped_at"] is None
        rows, _ = filled(store, rng, 100)
        rows.flush()
        rows.delete([1, 2])
        rows.upsert(1000, np.ones(DIM))
        stats = store.stats()
        assert stats["uuid"] == store.uuid and stats["lsn"] == store.snapshot().lsn
        assert stats["seals"] == 1 and stats["compactions"] == 0 and stats["last_error"] is None
        assert stats["disk_bytes"] > stats["wal_bytes"] > 0 and stats["memory_bytes"] > 0
        assert list(stats["collections"]) == ["rows"]
        one = stats["collections"]["rows"]
        assert one["rows"] == 99 and one["dead_rows"] == 2
        assert one["unsealed_rows"] == 1 and one["unlinked_rows"] == 1
        (segment,) = one["segments"]
        assert segment["rows"] == 100 and segment["dead_rows"] == 2 and segment["bytes"] > 100 * DIM * 4
        report = store.verify()
        assert report["collections"] == 1 and report["segments"] == 1 and report["rows"] == 99
        assert report["segment_bytes"] == segment["bytes"] and report["log_batches"] >= 2
        rows.link()
        assert store.stats()["collections"]["rows"]["unlinked_rows"] == 0
    with nearstone.open(path) as store:
        assert store.recovery["batches"] >= 2 and store.recovery["rewritten"] == 0
        assert len(store.collection("rows")) == 99


def test_a_backup_is_a_store(
    disk: nearstone.Store, rng: np.random.Generator, tmp_path: Path, refused: Any
) -> None:
    rows, matrix = filled(disk, rng, 50)
    rows.flush()
    rows.upsert(100, np.ones(DIM))
    into = tmp_path / "copy"
    steps: list[Any] = []
    lsn = disk.backup(into, lambda *step: steps.append(step))
    assert lsn == disk.snapshot().lsn
    assert steps and steps[-1][1] == steps[-1][2]
    rows.delete(range(50))
    with nearstone.open(into) as copied:
        assert copied.uuid == disk.uuid
        assert len(copied.collection("rows")) == 51
        assert np.array_equal(copied.collection("rows").get_vectors(range(50)), matrix)
        copied.verify()
    refused(nearstone.AlreadyExists, [str(into)], lambda: disk.backup(into))
    refused(nearstone.AlreadyExists, [str(into)], lambda: disk.backup(str(into)))


def test_read_only(path: Path, rng: np.random.Generator, refused: Any) -> None:
    with nearstone.open(path, background="manual") as store:
        _, matrix = filled(store, rng, 30)
        store.flush()
        store.collection("rows").upsert(100, np.ones(DIM))
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with nearstone.open(path, read_only=True) as store, nearstone.open(path, read_only=True) as second:
        rows = store.collection("rows")
        assert len(rows) == 31 and rows.search(matrix[3], 1).keys.tolist() == [3]
        assert len(second.collection("rows")) == 31
        assert store.verify()["rows"] == 31 and store.stats()["collections"]["rows"]["rows"] == 31
        for call in (
            lambda: rows.upsert(1, np.ones(DIM)),
            lambda: rows.delete(1),
            lambda: store.create_collection("more", 3),
            lambda: store.drop_collection("rows"),
            lambda: store.rename_collection("rows", "other"),
            lambda: store.persist(),
            lambda: store.flush(),
            lambda: store.compact(),
            lambda: rows.flush(),
            lambda: rows.compact(),
            lambda: rows.link(),
            lambda: store.batch().upsert(rows, 1, np.ones(DIM)).commit(),
        ):
            refused(nearstone.ReadOnly, [str(path)], call)
        refused(nearstone.Busy, ["lock"], lambda: nearstone.open(path))
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


LONG_CALLS = ["store.compact", "collection.compact", "collection.rebuild", "store.verify", "store.backup"]


def long_call(name: str, store: nearstone.Store, folder: Path) -> Callable[..., Any]:
    rows = store.collection("rows")
    return {
        "store.compact": store.compact,
        "collection.compact": rows.compact,
        "collection.rebuild": lambda progress=None: rows.rebuild(progress=progress),
        "store.verify": store.verify,
        "store.backup": lambda progress=None: store.backup(folder / "backup", progress),
    }[name]


@pytest.mark.parametrize("name", LONG_CALLS)
def test_progress_is_told(disk: nearstone.Store, rng: np.random.Generator, tmp_path: Path, name: str) -> None:
    rows, matrix = filled(disk, rng, 300)
    rows.flush()
    rows.upsert(1000, np.ones(DIM))
    call = long_call(name, disk, tmp_path)
    steps: list[tuple[str, int, int]] = []
    # What a listener returns means nothing unless it is False.
    answers = iter([None, True, 0, "", []] * 1000)

    def listen(*step: Any) -> object:
        steps.append(step)
        return next(answers)

    call(progress=listen) if name != "store.backup" else call(listen)
    assert steps
    for phase, done, total in steps:
        assert type(phase) is str and type(done) is int and type(total) is int
        assert 0 <= done <= total
    phases = {phase for phase, _, _ in steps}
    expected = {"store.verify": {"log", "verify"}, "store.backup": {"copy"}}.get(name, {"link", "write"})
    assert expected <= phases, phases
    assert np.array_equal(rows.search(matrix, 1).keys[:, 0], range(300))


@pytest.mark.parametrize("name", LONG_CALLS)
def test_progress_can_cancel_and_raise(
    disk: nearstone.Store, rng: np.random.Generator, tmp_path: Path, name: str
) -> None:
    rows, _ = filled(disk, rng, 300)
    rows.flush()
    rows.upsert(1000, np.ones(DIM))
    call = long_call(name, disk, tmp_path)
    with pytest.raises(nearstone.Cancelled):
        call(lambda phase, done, total: False)

    class Mine(Exception):
        pass

    def raises(phase: str, done: int, total: int) -> None:
        raise Mine(phase)

    if name == "store.backup":
        with pytest.raises((nearstone.Error, OSError)):
            nearstone.open(tmp_path / "backup", create=False)
        call = long_call(name, disk, tmp_path / "second")
        (tmp_path / "second").mkdir()
    with pytest.raises(Mine):
        call(raises)
    assert len(rows) == 301
    disk.verify()
    rows.upsert(5, np.ones(DIM))
    disk.compact()


def test_rebuilding_changes_the_graph_and_no_row(path: Path, rng: np.random.Generator, refused: Any) -> None:
    with nearstone.open(path, background="manual") as store:
        rows, matrix = filled(store, rng, 300)
        rows.flush()
        rows.upsert(1000, np.ones(DIM))
        other = store.collection("rows")
        before = (rows.m, rows.ef_construction)
        rows.rebuild(m=8)
        assert (rows.m, rows.ef_construction) == (8, before[1]) == (other.m, other.ef_construction)
        rows.rebuild(ef_construction=77)
        rows.rebuild(profile="memory")
        assert rows.profile == "memory"
        assert (other.m, other.ef_construction) == (8, 77)
        assert store.stats()["rebuilds"] == 3
        refused(nearstone.InvalidArgument, ["m is 3", "4..=64"], lambda: rows.rebuild(m=3))
        refused(nearstone.InvalidArgument, ["ef_construction is 7"], lambda: rows.rebuild(ef_construction=7))
        refused(nearstone.InvalidArgument, ["small", "auto", "speed"], lambda: rows.rebuild(profile="small"))
        with pytest.raises(TypeError, match="m"):
            rows.rebuild(m="8")
        with pytest.raises(TypeError):
            rows.rebuild(8)
    with nearstone.open(path) as store:
        # Who asks for the parameters that it was made with gets what is there.
        rows = store.collection_or_create("rows", DIM, metric=rows.metric, m=before[0], ef_construction=before[1])
        assert (rows.m, rows.ef_construction) == (8, 77) and len(rows) == 301
        assert np.array_equal(rows.search(matrix, 1).keys[:, 0], range(300))
        assert np.array_equal(rows.get_vectors(range(300)), matrix)


def test_damage_names_its_place(path: Path, rng: np.random.Generator) -> None:
    with nearstone.open(path, background="manual") as store:
        rows, _ = filled(store, rng, 300)
        rows.flush()
    (file,) = (path / "segments").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(nearstone.Corruption) as caught:
        with nearstone.open(path) as store:
            store.verify()
    assert file.name in str(caught.value)
    place = caught.value.place
    assert place is not None

    def part(name: str) -> Any:
        return place[name] if isinstance(place, dict) else getattr(place, name)

    assert os.path.basename(str(part("file"))) == file.name
    assert 0 <= part("offset") <= len(content)
    assert part("expected") and part("found")


def test_pausing_and_stepping(store: nearstone.Store, rng: np.random.Generator) -> None:
    rows, _ = filled(store, rng, 20)
    with store.pause_background() as pause:
        assert store.stats()["background_paused"] and not store.step()
        other = store.pause_background()
        pause.resume()
        assert store.stats()["background_paused"] and "resumed" in repr(pause) and "resumed" not in repr(other)
        rows.flush()
        rows.upsert(100, np.ones(DIM))
        rows.compact()
        assert store.stats()["seals"] == 2
        other.resume()
        other.resume()
        assert not store.stats()["background_paused"]
    rows.upsert(101, np.ones(DIM))
    assert store.cancel_background() is None
    steps = 0
    while store.step():
        steps += 1
    assert steps > 0 and store.stats()["collections"]["rows"]["unlinked_rows"] == 0


# Odds and ends


def everything(store: nearstone.Store, rng: np.random.Generator) -> dict[str, Any]:
    rows, matrix = filled(store, rng, 10)
    snapshot = store.snapshot()
    hits = rows.search(matrix[0], 3)
    return {
        "store": store,
        "collection": rows,
        "snapshot": snapshot,
        "at": rows.at(snapshot),
        "batch": store.batch().upsert(rows, 1, matrix[0]),
        "keys": rows.keys(),
        "commit": rows.upsert(1, matrix[0]),
        "row": rows.get(1),
        "hit": hits[0],
        "hits": hits,
        "matrix hits": rows.search(matrix, 3),
    }


def test_everything_has_a_short_repr_open_or_closed(disk: nearstone.Store, rng: np.random.Generator) -> None:
    things = everything(disk, rng)
    for _ in range(2):
        for name, thing in things.items():
            text = repr(thing)
            assert 0 < len(text) < 400, (name, text)
            if name != "keys":
                assert type(thing).__name__ in text and " object at 0x" not in text, (name, text)
        assert os.path.basename(disk.path) in repr(disk)
        assert "rows" in repr(things["collection"])
        disk.close()
    assert "closed" in repr(disk).lower()


def test_handles_can_not_be_pickled_or_copied(disk: nearstone.Store, rng: np.random.Generator) -> None:
    things = everything(disk, rng)
    for name in ("store", "collection", "snapshot", "at", "batch", "keys"):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=type(things[name]).__name__):
                attempt(things[name])


def test_handles_can_not_be_made_by_hand() -> None:
    for kind in (
        nearstone.Store,
        nearstone.Collection,
        nearstone.Batch,
        nearstone.Snapshot,
        nearstone.Row,
        nearstone.Hit,
        nearstone.Hits,
    ):
        with pytest.raises(TypeError):
            kind()


def test_values_can_not_be_assigned(store: nearstone.Store, rng: np.random.Generator) -> None:
    things = everything(store, rng)
    for name, attribute in (("store", "path"), ("collection", "dim"), ("row", "key"), ("hits", "keys")):
        with pytest.raises(AttributeError):
            setattr(things[name], attribute, 1)


def test_errors_are_also_those_that_python_knows(store: nearstone.Store) -> None:
    expected = {
        "InvalidArgument": ValueError,
        "NotFound": LookupError,
        "AlreadyExists": nearstone.Error,
        "NotAStore": nearstone.Error,
        "UnsupportedVersion": nearstone.Error,
        "Corruption": nearstone.Error,
        "Io": OSError,
        "DiskFull": nearstone.Io,
        "Busy": nearstone.Error,
        "ReadOnly": nearstone.Error,
        "Cancelled": nearstone.Error,
        "Poisoned": nearstone.Error,
        "Closed": nearstone.Error,
    }
    assert issubclass(nearstone.Error, Exception)
    for name, base in expected.items():
        kind = getattr(nearstone, name)
        assert issubclass(kind, base) and issubclass(kind, nearstone.Error)
        assert kind.__name__ == name and kind.__module__.split(".")[0] == "nearstone"
    with pytest.raises(nearstone.Error) as caught:
        store.collection("none")
    assert caught.value.place is None and isinstance(caught.value.kind, str)


def test_errors_travel_between_processes(store: nearstone.Store) -> None:
    with pytest.raises(nearstone.NotFound) as caught:
        store.collection("none")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is nearstone.NotFound and str(again) == str(caught.value)


def test_every_call_on_a_closed_store_says_closed(
    path: Path, rng: np.random.Generator, tmp_path: Path, refused: Any
) -> None:
    store = nearstone.open(path, background="manual")
    things = everything(store, rng)
    rows, at, snapshot, batch, keys = (
        things[name] for name in ("collection", "at", "snapshot", "batch", "keys")
    )
    one = np.ones(DIM, np.float32)
    empty = store.batch()
    store.close()
    calls: dict[str, Callable[[], Any]] = {
        "create_collection": lambda: store.create_collection("x", 2),
        "collection_or_create": lambda: store.collection_or_create("x", 2),
        "collection": lambda: store.collection("rows"),
        "collections": lambda: store.collections(),
        "rename_collection": lambda: store.rename_collection("rows", "x"),
        "drop_collection": lambda: store.drop_collection("rows"),
        "batch": lambda: store.batch().commit(),
        "snapshot": lambda: store.snapshot(),
        "persist": lambda: store.persist(),
        "flush": lambda: store.flush(),
        "compact": lambda: store.compact(),
        "pause_background": lambda: store.pause_background(),
        "cancel_background": lambda: store.cancel_background(),
        "step": lambda: store.step(),
        "stats": lambda: store.stats(),
        "verify": lambda: store.verify(),
        "backup": lambda: store.backup(tmp_path / "copy"),
        "with": lambda: store.__enter__(),
        "Collection.upsert": lambda: rows.upsert(1, one),
        "Collection.upsert matrix": lambda: rows.upsert([1, 2], [one, one]),
        "Collection.upsert nothing": lambda: rows.upsert([], np.empty((0, DIM))),
        "Collection.delete": lambda: rows.delete(1),
        "Collection.at": lambda: rows.at(snapshot),
        "Collection.link": lambda: rows.link(),
        "Collection.flush": lambda: rows.flush(),
        "Collection.compact": lambda: rows.compact(),
        "Collection.rebuild": lambda: rows.rebuild(),
        "Collection.attach": lambda: rows.attach(tmp_path / "none.seg"),
        "Batch.commit": lambda: batch.commit(),
        "Batch.commit empty": lambda: empty.commit(),
        "keys, next": lambda: next(keys),
    }
    for name, view in (("Collection", rows), ("CollectionAt", at)):
        calls |= {
            f"{name}.len": lambda view=view: len(view),
            f"{name}.in": lambda view=view: 1 in view,
            f"{name}.get": lambda view=view: view.get(1),
            f"{name}.get many": lambda view=view: view.get([1, 2]),
            f"{name}.get_vectors": lambda view=view: view.get_vectors([1]),
            f"{name}.keys": lambda view=view: next(view.keys()),
            f"{name}.search": lambda view=view: view.search(one, 3),
            f"{name}.search matrix": lambda view=view: view.search([one, one], 3),
        }
    wrong = {}
    for name, call in calls.items():
        try:
            refused(nearstone.Closed, ["closed", str(path)], call)
        except BaseException as error:  # pytest's own failures are no Exceptions
            wrong[name] = f"{type(error).__name__}: {error}"
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())
    assert store.closed and store.uuid and store.path and store.recovery
    assert (rows.dim, rows.metric, rows.key_type) == (DIM, "l2", "u64")
    assert not (tmp_path / "copy").exists()
    assert snapshot.lsn > 0
    snapshot.close()
