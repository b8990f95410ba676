"""Bad input gets the right exception, whose text names the value and the limit, and nothing is written.

What Python calls a wrong type is a `TypeError`; a value of the right type that the store refuses is
`InvalidArgument`. The fixture `world` compares the rows and the log's position before and after.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone

GOOD = [1.0, 0.0, 0.0]
Invalid = nearstone.InvalidArgument


class World:
    """A store with one collection of each key type, in dimension 3, and some rows."""

    def __init__(self, store: nearstone.Store) -> None:
        self.store = store
        self.rows = store.create_collection("rows", 3, metric="cosine")
        self.names = store.create_collection("names", 3, metric="l2", keys="str")
        self.rows.upsert([1, 2], np.eye(3)[:2], [{"i": 1}, None])
        self.names.upsert(["a", "b"], np.eye(3)[:2])

    def state(self) -> Any:
        rows = [row for part in (self.rows, self.names) for row in part.get(list(part.keys()))]
        rows_seen = [(row.key, row.vector.tobytes(), row.payload, row.version) for row in rows]
        return self.store.snapshot().lsn, self.store.collections(), rows_seen


@pytest.fixture
def world(store: nearstone.Store) -> Iterator[World]:
    """A world that must be the same after the test, and still take rows."""
    world = World(store)
    before = world.state()
    yield world
    assert world.state() == before, "something was written"
    assert world.rows.upsert(10**6, [1, 2, 3], {"a": 1}).upserted == 1
    assert world.rows.delete(10**6) == 1
    store.verify()


def with_nan(n: int, row: int, column: int, value: float = np.nan, dtype: Any = np.float32) -> np.ndarray:
    matrix = np.ones((n, 3), dtype)
    matrix[row, column] = value
    return matrix


# Vectors


@pytest.mark.parametrize("vector", [[1.0, 2.0], [1.0] * 4, [], np.ones(300)], ids=len)
def test_vectors_of_another_dimension(world: World, refused: Any, vector: Any) -> None:
    words = [f"{len(vector)} numbers", "3"]
    refused(Invalid, words, lambda: world.rows.upsert(5, vector))
    refused(Invalid, words, lambda: world.store.batch().upsert(world.rows, 5, vector))
    refused(Invalid, [str(len(vector)), "3"], lambda: world.rows.search(vector, 5))
    refused(Invalid, [str(len(vector)), "3"], lambda: world.rows.upsert([5, 6], [vector, vector]))
    refused(Invalid, [str(len(vector)), "3"], lambda: world.rows.search([vector, vector], 5))


@pytest.mark.parametrize("shape", [(), (2, 2, 3), (1, 1, 1, 3)])
def test_vectors_of_another_number_of_dimensions(world: World, refused: Any, shape: tuple[int, ...]) -> None:
    words = ["shape"]
    refused((Invalid, TypeError), words, lambda: world.rows.upsert(5, np.ones(shape)))
    refused((Invalid, TypeError), words, lambda: world.rows.upsert([5, 6], np.ones(shape)))
    refused((Invalid, TypeError), words, lambda: world.rows.search(np.ones(shape), 5))
    refused((Invalid, TypeError), words, lambda: world.store.batch().upsert(world.rows, 5, np.ones(shape)))


@pytest.mark.parametrize(
    "vectors",
    [
        np.array([1, 2, 3], object),
        np.array([1, None, 3], object),
        np.array([1, 2, 3 + 0j]),
        [1, 2, 3j],
        np.array(["1", "2", "3"]),
        ["1", "2", "3"],
        "123",
        b"123",
        np.array([b"1", b"2", b"3"]),
        np.array([1, 2, 3], "datetime64[s]"),
        np.array([1, 2, 3], "timedelta64[s]"),
        [datetime.date(2020, 1, 1)] * 3,
        np.zeros(3, [("x", "f4")]),
        None,
        {"a": 1},
        {1.0, 2.0, 3.0},
        object(),
        [None, None, None],
        [[1.0], [2.0, 3.0]],
    ],
    ids=lambda vectors: f"{type(vectors).__name__} {getattr(vectors, 'dtype', '')} {str(vectors)[:12]}",
)
def test_vectors_of_another_type(world: World, vectors: Any) -> None:
    # numpy itself says ValueError for a ragged list.
    kinds = (
        (TypeError, ValueError) if isinstance(vectors, list) and isinstance(vectors[0], list) else TypeError
    )
    for call in (
        lambda: world.rows.upsert(5, vectors),
        lambda: world.rows.upsert([5, 6], vectors),
        lambda: world.rows.search(vectors, 5),
        lambda: world.store.batch().upsert(world.rows, 5, vectors),
    ):
        with pytest.raises(kinds) as caught:
            call()
        assert len(str(caught.value)) > 10


def test_numbers_that_are_not_finite(world: World, refused: Any) -> None:
    for value, said in ((np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")):
        for dtype in (np.float16, np.float32, np.float64):
            vector = with_nan(1, 0, 2, value, dtype)[0]
            refused(Invalid, ["number 2", said], lambda vector=vector: world.rows.upsert(5, vector))
            refused(Invalid, ["number 2", said], lambda vector=vector: world.names.upsert("x", vector))
            refused(Invalid, ["query", said], lambda vector=vector: world.rows.search(vector, 5))
            matrix = with_nan(50, 17, 1, value, dtype)
            refused(
                Invalid,
                ["row 17", "number 1", said],
                lambda matrix=matrix: world.rows.upsert(range(50), matrix),
            )
            refused(
                Invalid,
                ["row 17", "number 1", said],
                lambda matrix=matrix: world.store.batch().upsert(world.rows, range(50), matrix),
            )
            for threads in (None, 1, 2):
                refused(
                    Invalid,
                    ["17", "number 1", said],
                    lambda matrix=matrix, threads=threads: world.rows.search(matrix, 5, threads=threads),
                )


def test_a_bad_row_far_down_in_a_matrix_of_many_batches(store: nearstone.Store, refused: Any) -> None:
    rows = store.create_collection("wide", 4096, metric="l2")
    matrix = np.ones((1000, 4096), np.float32)
    matrix[990, 5] = np.nan
    refused(Invalid, ["row 990", "number 5", "NaN"], lambda: rows.upsert(range(1000), matrix))
    assert len(rows) == 0, "a matrix is checked before its first batch is written"


def test_numbers_too_large_for_float32(world: World, refused: Any) -> None:
    refused(Invalid, ["number 1", "inf"], lambda: world.names.upsert("x", [0.0, 1e39, 0.0]))
    refused(Invalid, ["number 1", "inf"], lambda: world.names.upsert("x", np.array([0.0, 1e300, 0.0])))
    with pytest.raises((Invalid, TypeError, OverflowError)):
        world.names.upsert("x", [0, 10**400, 0])


def test_vectors_without_direction_under_cosine(world: World, refused: Any) -> None:
    zero = np.zeros(3, np.float32)
    refused(Invalid, ["zero"], lambda: world.rows.upsert(5, zero))
    refused(Invalid, ["zero"], lambda: world.rows.upsert(5, np.array([0.0, -0.0, 1e-60])))
    refused(Invalid, ["zero", "row 2"], lambda: world.rows.upsert([5, 6, 7], np.diag([1.0, 1.0, 0.0])))
    refused(Invalid, ["query", "zero"], lambda: world.rows.search(zero, 5))
    refused(Invalid, ["1e-18"], lambda: world.rows.upsert(5, [1e-30, 0, 0]))
    assert len(world.names.search(zero, 5)) == 2, "l2 knows the origin"


# Keys


@pytest.mark.parametrize(
    "key", [1.0, 1.5, float("nan"), True, False, None, b"a", (1,), 1j, object(), np.float64(1)]
)
def test_keys_of_a_type_that_is_none(world: World, key: Any) -> None:
    for rows in (world.rows, world.names):
        for call in (
            lambda rows=rows: rows.upsert(key, GOOD),
            lambda rows=rows: rows.upsert([key], [GOOD]),
            lambda rows=rows: rows.delete(key),
            lambda rows=rows: rows.delete([key]),
            lambda rows=rows: rows.get(key),
            lambda rows=rows: rows.get([key]),
            lambda rows=rows: rows.get_vectors([key]),
            lambda rows=rows: world.store.batch().delete(rows, key),
        ):
            # A tuple is a sequence of keys: what it holds may be fine, the shapes are not.
            if isinstance(key, tuple):
                continue
            with pytest.raises(TypeError, match="key"):
                call()
    if key is not None:
        with pytest.raises(TypeError):
            list(world.rows.keys(after=key))


@pytest.mark.parametrize(
    "keys",
    [np.array([1.0, 2.0]), np.array([True, False]), np.array([1j, 2]), [1, 2.0]],
)
def test_arrays_of_keys_of_a_type_that_is_none(world: World, keys: Any) -> None:
    with pytest.raises(TypeError, match="key"):
        world.rows.upsert(keys, [GOOD, GOOD])
    with pytest.raises(TypeError, match="key"):
        world.rows.delete(keys)
    with pytest.raises(TypeError, match="key"):
        world.rows.get(keys)


def test_keys_without_an_order_do_not_go_with_rows(world: World) -> None:
    for keys in ({5, 6}, frozenset([5, 6])):
        with pytest.raises(TypeError, match="key"):
            world.rows.upsert(keys, [GOOD, GOOD])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key"):
            world.store.batch().upsert(world.rows, keys, [GOOD, GOOD])  # type: ignore[arg-type]


def test_arrays_of_keys_of_another_shape(world: World) -> None:
    for keys in (np.array([[1, 2]]), np.array([[1], [2]]), [[1, 2]]):
        for call in (
            lambda keys=keys: world.rows.upsert(keys, [GOOD, GOOD]),
            lambda keys=keys: world.rows.delete(keys),
            lambda keys=keys: world.rows.get(keys),
        ):
            with pytest.raises((TypeError, Invalid)):
                call()


@pytest.mark.parametrize("key", [-1, -(2**63), 2**64, 2**64 + 5, 10**30, -(10**30)])
def test_integers_out_of_range(world: World, refused: Any, key: int) -> None:
    words = [str(key), str(2**64 - 1)]
    for call in (
        lambda: world.rows.upsert(key, GOOD),
        lambda: world.rows.upsert([5, key], [GOOD, GOOD]),
        lambda: world.rows.delete(key),
        lambda: world.rows.delete([1, key]),
        lambda: world.rows.get(key),
        lambda: world.rows.get([1, key]),
        lambda: world.rows.get_vectors([1, key]),
        lambda: list(world.rows.keys(after=key)),
        lambda: world.store.batch().upsert(world.rows, key, GOOD),
    ):
        error = refused(Invalid, [words[0]], call)
        assert words[1] in str(error) or "2**64" in str(error) or "64" in str(error)
    if -(2**63) <= key < 2**63:
        refused(Invalid, [str(key)], lambda: world.rows.delete(np.array([1, key])))
        refused(Invalid, [str(key)], lambda: world.rows.upsert(np.array([5, key]), [GOOD, GOOD]))
        refused(Invalid, [str(key)], lambda: world.rows.get(np.int64(key)))


def test_keys_of_the_other_type(world: World, refused: Any) -> None:
    rows, names = world.rows, world.names
    for call in (
        lambda: rows.upsert("two", GOOD),
        lambda: rows.upsert(["two"], [GOOD]),
        lambda: rows.delete("two"),
        lambda: rows.delete(["two"]),
        lambda: rows.get("two"),
        lambda: rows.get(["two"]),
        lambda: rows.get_vectors(["two"]),
        lambda: list(rows.keys(after="two")),
        lambda: world.store.batch().delete(rows, "two"),
    ):
        refused(Invalid, ['"two"', "str", "u64"], call)
    for call in (
        lambda: names.upsert(17, GOOD),
        lambda: names.upsert([17], [GOOD]),
        lambda: names.upsert(np.array([17]), [GOOD]),
        lambda: names.delete(17),
        lambda: names.delete(np.array([17])),
        lambda: names.get(17),
        lambda: names.get([17]),
        lambda: list(names.keys(after=17)),
        lambda: world.store.batch().delete(names, 17),
    ):
        refused(Invalid, ["17", "u64", "str"], call)
    refused((Invalid, TypeError), [], lambda: rows.upsert([5, "two"], [GOOD, GOOD]))
    refused((Invalid, TypeError), [], lambda: names.delete(["a", 17]))
    for view, key in ((rows, "two"), (names, 17)):
        try:
            assert key not in view
        except Invalid:
            pass


def test_strings_that_are_no_keys(world: World, refused: Any) -> None:
    names = world.names
    for key, words in (
        ("", ["empty", "512"]),
        ("x" * 513, ["513", "512"]),
        ("ä" * 257, ["514", "512"]),
        ("\ud800", ["surrogate"]),
        ("a\udfffb", ["surrogate"]),
    ):
        for call in (
            lambda key=key: names.upsert(key, GOOD),
            lambda key=key: names.upsert(["x", key], [GOOD, GOOD]),
            lambda key=key: names.delete(key),
            lambda key=key: names.delete(["a", key]),
            lambda key=key: world.store.batch().upsert(names, key, GOOD),
        ):
            error = refused(Invalid, [], call)
            for word in words:
                assert word in str(error), f"{error} does not say {word}"
        refused(Invalid, [], lambda key=key: names.get(key))


def test_a_string_is_one_key(world: World) -> None:
    with pytest.raises((Invalid, TypeError)):
        world.names.upsert("xyz", [GOOD, GOOD, GOOD])
    assert world.names.get("ab") is None, "and no list of its letters"
    assert "ab" not in world.names


def test_numbers_of_keys_vectors_and_payloads_that_differ(world: World, refused: Any) -> None:
    for target in (world.rows.upsert, lambda *row: world.store.batch().upsert(world.rows, *row)):
        refused(Invalid, ["2", "3"], lambda target=target: target([5, 6], [GOOD] * 3))
        refused(Invalid, ["4", "3"], lambda target=target: target(range(4), [GOOD] * 3))
        refused(Invalid, ["0", "3"], lambda target=target: target([], [GOOD] * 3))
        refused(Invalid, ["2", "1"], lambda target=target: target([5, 6], [GOOD] * 2, [{}]))
        refused(Invalid, ["2", "3"], lambda target=target: target([5, 6], [GOOD] * 2, [{}, {}, None]))
        refused((Invalid, TypeError), [], lambda target=target: target([5, 6], GOOD))
        refused((Invalid, TypeError), [], lambda target=target: target(5, [GOOD, GOOD]))
        refused(
            (Invalid, TypeError), [], lambda target=target: target([5, 6], [GOOD] * 2, {"one": "for all"})
        )
        refused((Invalid, TypeError), [], lambda target=target: target(5, GOOD, [{}, {}]))


# Payloads


def nested(key: str) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    payload[key] = payload
    return payload


@pytest.mark.parametrize(
    "payload",
    [17, 1.5, "text", b"bytes", True, ["list"], {"set"}, object(), {"a": object()}, {"a": {1, 2}},
     {"a": b"x"}, {"a": 1j}, {"a": datetime.date(2020, 1, 1)}, {1: "a"}, {None: 1}, {(1, 2): 3},
     {"a": {2: 1}}, {b"a": 1}],
    ids=lambda payload: str(payload)[:16],
)  # fmt: skip
def test_payloads_that_are_no_json_objects(world: World, payload: Any) -> None:
    for call in (
        lambda: world.rows.upsert(5, GOOD, payload),
        lambda: world.rows.upsert([5, 6], [GOOD, GOOD], [{}, payload]),
        lambda: world.store.batch().upsert(world.rows, 5, GOOD, payload),
    ):
        with pytest.raises((TypeError, Invalid)) as caught:
            call()
        assert "payload" in str(caught.value)


def test_a_bad_payload_is_named_by_its_row(world: World, refused: Any) -> None:
    payloads: list[Any] = [None] * 20
    payloads[13] = {"x": float("nan")}
    refused(Invalid, ["row 13"], lambda: world.rows.upsert(range(20), [GOOD] * 20, payloads))
    payloads[13] = {"x": object()}
    refused((TypeError, Invalid), ["row 13"], lambda: world.rows.upsert(range(20), [GOOD] * 20, payloads))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_payloads_with_numbers_that_json_does_not_have(world: World, refused: Any, number: float) -> None:
    for payload in ({"x": number}, {"x": [1, {"y": number}]}):
        refused(Invalid, ["payload"], lambda payload=payload: world.rows.upsert(5, GOOD, payload))


def test_payloads_with_lone_surrogates(world: World, refused: Any) -> None:
    for payload in ({"x": "a\ud800"}, {"\udc00": 1}, {"x": [{"y": "\udfff\ud800"}]}):
        refused(Invalid, ["payload"], lambda payload=payload: world.rows.upsert(5, GOOD, payload))
    with nearstone.in_memory(background="manual") as other:
        rows = other.create_collection("rows", 1, metric="l2")
        rows.upsert(1, [1], {"x": "\ud834\udd1e".encode("utf-16", "surrogatepass").decode("utf-16")})
        assert rows.get(1).payload == {"x": "𝄞"}, "a pair of surrogates that was decoded is a letter"


def test_payloads_that_contain_themselves(world: World) -> None:
    with pytest.raises((ValueError, RecursionError)):
        world.rows.upsert(5, GOOD, nested("self"))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        world.rows.upsert(5, GOOD, {"x": loop})


def test_payloads_too_large(world: World, refused: Any) -> None:
    limit = 1 << 20
    largest = {"x": "y" * (limit - len('{"x":""}'))}
    refused(
        Invalid, [str(limit + 1), str(limit)], lambda: world.rows.upsert(5, GOOD, {"x": largest["x"] + "z"})
    )
    refused(
        Invalid,
        ["row 1", str(limit)],
        lambda: world.rows.upsert([5, 6], [GOOD] * 2, [{}, {"x": "y" * limit}]),
    )
    other = nearstone.in_memory(background="manual")
    rows = other.create_collection("rows", 1, metric="l2")
    rows.upsert(1, [1], largest)
    assert rows.get(1).payload == largest
    umlauts = {"x": "ä" * 500_000}
    rows.upsert(2, [1], umlauts)
    assert rows.get(2).payload == umlauts, "the limit counts bytes of UTF-8, not of escapes"
    other.close()


def test_what_a_payload_raises_comes_through(store: nearstone.Store) -> None:
    rows = store.create_collection("rows", 3)

    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise ZeroDivisionError("mine")

        __iter__ = keys = __getitem__ = items  # type: ignore[assignment]

    try:
        rows.upsert(5, GOOD, Broken(a=1))
    except (ZeroDivisionError, TypeError, Invalid):
        assert 5 not in rows
    else:
        assert rows.get(5).payload == {"a": 1}, "read as the dict that it is"


# Searching


@pytest.mark.parametrize("matrix", [False, True])
def test_search_arguments(world: World, refused: Any, matrix: bool) -> None:
    query = [GOOD, GOOD] if matrix else GOOD
    rows = world.rows
    refused(Invalid, ["k", "-1"], lambda: rows.search(query, -1))
    refused(Invalid, ["-7"], lambda: rows.search(query, limit=-7))
    refused(Invalid, [str(-(10**30))], lambda: rows.search(query, -(10**30)))
    refused(Invalid, ["ef", "0"], lambda: rows.search(query, 3, ef=0))
    refused(Invalid, ["ef", "-5"], lambda: rows.search(query, 3, ef=-5))
    refused(Invalid, ["threads", "0"], lambda: rows.search(query, 3, threads=0))
    refused(Invalid, ["threads", "-2"], lambda: rows.search(query, 3, threads=-2))
    refused(Invalid, ["threads", "0"], lambda: rows.link(0))
    refused(Invalid, ["threads", "-2"], lambda: rows.link(-2))
    for arguments in (
        {"k": 2.0},
        {"k": "3"},
        {"k": [3]},
        {"limit": 1.5},
        {"ef": 1.5},
        {"ef": "64"},
        {"threads": 1.5},
        {"threads": "2"},
        {"filter": 17},
        {"filter": "key"},
        {"filter": [1, 2]},
        {"nprobe": 3},
        {"with_payload": True},
    ):
        with pytest.raises(TypeError):
            rows.search(query, **arguments)
    with pytest.raises(TypeError):
        rows.search()
    with pytest.raises(TypeError):
        rows.search(query, 3, 64)


# Stores and collections


def test_schemas(world: World, refused: Any) -> None:
    store = world.store
    for make in (store.create_collection, store.collection_or_create):
        refused(Invalid, ["dimension", "0", "65536"], lambda make=make: make("x", 0))
        refused(Invalid, ["dimension", "65537", "65536"], lambda make=make: make("x", 65_537))
        refused(Invalid, ["-3"], lambda make=make: make("x", -3))
        refused(Invalid, [str(2**70)], lambda make=make: make("x", 2**70))
        refused(Invalid, ["m is 3", "4", "64"], lambda make=make: make("x", 8, m=3))
        refused(Invalid, ["m is 65", "4", "64"], lambda make=make: make("x", 8, m=65))
        refused(Invalid, ["-1"], lambda make=make: make("x", 8, m=-1))
        refused(Invalid, ["ef_construction", "8", "16"], lambda make=make: make("x", 8, ef_construction=8))
        refused(Invalid, ["ef_construction", "10001"], lambda make=make: make("x", 8, ef_construction=10_001))
        refused(Invalid, ["euclid", "l2", "cosine", "ip"], lambda make=make: make("x", 8, metric="euclid"))
        refused(Invalid, ["L2", "l2"], lambda make=make: make("x", 8, metric="L2"))
        refused(Invalid, ["small", "auto", "speed", "memory"], lambda make=make: make("x", 8, profile="small"))
        refused(Invalid, ["pq9", "sq8", "sq4"], lambda make=make: make("x", 8, codes="pq9"))
        refused(Invalid, ["uuid", "u64", "str"], lambda make=make: make("x", 8, keys="uuid"))
        for arguments in (
            {"dim": 3.0},
            {"dim": "3"},
            {"dim": 3, "metric": 2},
            {"dim": 3, "metric": None},
            {"dim": 3, "m": 16.5},
            {"dim": 3, "space": "l2"},
            {"dim": 3, "dimension": 3},
        ):
            with pytest.raises(TypeError):
                make("x", **arguments)
        for keys in (float, bytes, bool, 7):
            with pytest.raises((TypeError, Invalid)):
                make("x", 8, keys=keys)
        with pytest.raises(TypeError):
            make("x")
        with pytest.raises(TypeError):
            make("x", 3, "l2")
        with pytest.raises(TypeError):
            make(7, 3)


def test_names(world: World, refused: Any) -> None:
    store = world.store
    for name, words in (
        ("", ["name", "255"]),
        ("n" * 256, ["256", "255"]),
        ("ä" * 128, ["256", "255"]),
        ("a\nb", ["control"]),
        ("a\x00b", ["control"]),
    ):
        refused(Invalid, words, lambda name=name: store.create_collection(name, 3))
        refused(Invalid, words, lambda name=name: store.collection_or_create(name, 3))
        refused(Invalid, words, lambda name=name: store.rename_collection("rows", name))
    with pytest.raises(ValueError, match="surrogate"):
        store.create_collection("\ud800", 3)
    for call in (
        lambda: store.collection("none"),
        lambda: store.drop_collection("none"),
        lambda: store.rename_collection("none", "x"),
    ):
        refused(nearstone.NotFound, ['"none"', '"rows"', '"names"'], call)
    for bad in (None, 7, b"rows"):
        with pytest.raises(TypeError):
            store.collection(bad)  # type: ignore[arg-type]


def test_things_of_another_store(world: World, refused: Any, path: Path) -> None:
    with nearstone.open(path, background="manual") as other:
        foreign = other.create_collection("foreign", 3)
        foreign.upsert(1, GOOD)
        batch = world.store.batch()
        refused(Invalid, ['"foreign"', str(path)], lambda: batch.upsert(foreign, 5, GOOD))
        refused(Invalid, ['"foreign"', str(path)], lambda: batch.delete(foreign, 1))
        assert len(batch) == 0
        refused(Invalid, ["snapshot"], lambda: world.rows.at(other.snapshot()))
        refused(Invalid, ["snapshot"], lambda: foreign.at(world.store.snapshot()))
        assert list(foreign.keys()) == [1]
    for bad in (None, "rows", world.store):
        with pytest.raises(TypeError):
            world.store.batch().upsert(bad, 5, GOOD)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            world.rows.at(bad)  # type: ignore[arg-type]


def test_a_batch_that_is_full(world: World, refused: Any) -> None:
    batch = world.store.batch()
    payload = {"x": "y" * ((1 << 20) - 100)}
    written: list[int] = []

    def fill() -> None:
        for key in range(100, 200):
            batch.upsert(world.rows, key, GOOD, payload)
            written.append(key)

    refused(Invalid, [str(64 << 20)], fill)
    assert len(batch) == len(written) >= 60, "the refused row is not in the batch"


OPTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"background": 0}, ["background", "0", "1"]),
    ({"background": -1}, ["-1"]),
    ({"background": "always"}, ["always", "auto", "manual"]),
    ({"memory_budget": -1}, ["memory_budget", "-1"]),
    ({"seal_rows": 0}, ["seal_rows", "1"]),
    ({"seal_bytes": 0}, ["seal_bytes", "1"]),
    ({"seal_bytes": -5}, ["seal_bytes", "-5"]),
    ({"wal_bytes": -5}, ["wal_bytes", "-5"]),
    ({"dead_share": 0.0}, ["dead_share", "0", "1"]),
    ({"dead_share": 1.5}, ["dead_share", "1.5"]),
    ({"dead_share": float("nan")}, ["dead_share", "NaN"]),
    ({"write_stall": -1.0}, ["write_stall", "-1"]),
    ({"write_stall": float("nan")}, ["write_stall"]),
    ({"seal_idle": -1.0}, ["seal_idle", "-1"]),
    ({"seal_idle": float("nan")}, ["seal_idle"]),
]


@pytest.mark.parametrize("options,words", OPTIONS, ids=lambda value: str(value))
def test_options(path: Path, refused: Any, options: dict[str, Any], words: list[str]) -> None:
    # Rust writes NaN, Python nan: both are said clearly enough.
    words = [word for word in words if word != "NaN"]
    refused(Invalid, words, lambda: nearstone.open(path, **options))
    refused(Invalid, words, lambda: nearstone.in_memory(**options))
    assert not path.exists()


@pytest.mark.parametrize(
    "options,words",
    [
        ({"durability": "fsync"}, ["fsync", "sync", "os"]),
        ({"durability": -0.5}, ["durability", "-0.5"]),
        ({"durability": float("nan")}, ["durability"]),
        ({"durability": float("inf")}, ["durability"]),
        ({"durability": 1e300}, ["durability"]),
        ({"recovery": "salvage"}, ["salvage", "torn_tail", "strict", "point_in_time"]),
        ({"residency": "ram"}, ["ram", "mapped", "warm", "pinned", "heap"]),
    ],
    ids=str,
)
def test_options_of_files(path: Path, refused: Any, options: dict[str, Any], words: list[str]) -> None:
    refused(Invalid, words, lambda: nearstone.open(path, **options))
    assert not path.exists()
    if "durability" in options:
        with nearstone.in_memory(background="manual") as store:
            rows = store.create_collection("rows", 3)
            refused(Invalid, words, lambda: rows.upsert(1, GOOD, **options))
            refused(Invalid, words, lambda: rows.delete(1, **options))
            refused(Invalid, words, lambda: store.batch(**options))
            assert len(rows) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"create": "yes"},
        {"read_only": 1.5},
        {"durability": []},
        {"memory_budget": "1 GiB"},
        {"memory_budget": 1.5},
        {"dead_share": "half"},
        {"recovery": 1},
        {"background": 1.5},
        {"mode": "r"},
    ],
    ids=str,
)
def test_options_of_another_type(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        nearstone.open(path, **options)
    assert not path.exists()


def test_paths(tmp_path: Path, refused: Any) -> None:
    missing = tmp_path / "none"
    refused(nearstone.NotFound, [str(missing)], lambda: nearstone.open(missing, create=False))
    refused(nearstone.NotFound, [str(missing)], lambda: nearstone.open(missing, read_only=True))
    assert not missing.exists()
    deep = tmp_path / "none" / "deeper"
    try:
        nearstone.open(deep).close()
    except (nearstone.NotFound, nearstone.Io) as error:
        assert str(tmp_path) in str(error)
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "notes.txt"
    file.write_text("hello")
    refused(nearstone.NotAStore, ["notes.txt"], lambda: nearstone.open(file))
    refused(nearstone.NotAStore, ["notes.txt"], lambda: nearstone.open(folder))
    refused(nearstone.NotAStore, ["notes.txt"], lambda: nearstone.open(folder, read_only=True))
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"] and file.read_text() == "hello"
    with pytest.raises(ValueError, match="(?i)nul|null|\\\\0|\\\\x00"):
        nearstone.open(f"{tmp_path}/a\0b")
    with pytest.raises(ValueError):
        with nearstone.in_memory(background="manual") as store:
            store.backup(f"{tmp_path}/a\0b")
    for bad in (None, 7, 1.5, ["a"], object()):
        with pytest.raises(TypeError):
            nearstone.open(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        nearstone.open()  # type: ignore[call-arg]
    with pytest.raises((nearstone.Error, OSError)):
        nearstone.open("")
    with pytest.raises(TypeError):
        nearstone.open(tmp_path / "x", False)  # type: ignore[misc]
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "none") == ["folder"]


def test_progress_that_is_none(disk: nearstone.Store, tmp_path: Path) -> None:
    rows = disk.create_collection("rows", 3)
    rows.upsert([1, 2], np.eye(3)[:2])
    rows.flush()
    rows.upsert(3, GOOD)
    for call in (disk.compact, disk.verify, lambda p: disk.backup(tmp_path / "copy", p)):
        with pytest.raises(TypeError):
            call(17)
    assert len(rows) == 3


NASTY: list[Any] = [
    None,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    10**50,
    1.5,
    float("nan"),
    "",
    "\ud800",
    b"",
    [],
    {},
    [[]],
    (),
]


def test_nothing_panics(store: nearstone.Store, tmp_path: Path) -> None:
    """Whatever is handed in, it is an ordinary exception or works: a panic would be a BaseException."""
    rows = store.create_collection("rows", 2, metric="l2")
    names = store.create_collection("names", 2, metric="l2", keys="str")
    rows.upsert([1, 2], [[1, 2], [3, 4]])
    snapshot = store.snapshot()

    calls: list[Callable[[Any], Any]] = [
        lambda x: rows.upsert(x, [1, 2]),
        lambda x: rows.upsert(1, x),
        lambda x: rows.upsert([1, 2], x),
        lambda x: rows.upsert(x, x, x),
        lambda x: rows.upsert(1, [1, 2], x),
        lambda x: rows.upsert([1], [[1, 2]], x),
        lambda x: rows.upsert(1, [1, 2], durability=x),
        lambda x: names.upsert(x, [1, 2]),
        lambda x: names.get(x),
        lambda x: rows.get(x),
        lambda x: rows.get([x]),
        lambda x: rows.get_vectors(x),
        lambda x: rows.delete(x),
        lambda x: x in rows,
        lambda x: x in names,
        lambda x: list(rows.keys(x)),
        lambda x: rows.search(x),
        lambda x: rows.search([1, 2], x),
        lambda x: rows.search([[1, 2]], x),
        lambda x: rows.search([1, 2], limit=x),
        lambda x: rows.search([1, 2], 5, ef=x),
        lambda x: rows.search([1, 2], 2**63, ef=x),
        lambda x: rows.search([[1, 2]] * 3, 5, threads=x),
        lambda x: rows.search([1, 2], filter=x),
        lambda x: rows.search([1, 2], filter=lambda key: x),
        lambda x: rows.search([1, 2])[x],
        lambda x: rows.at(snapshot).search(x),
        lambda x: store.create_collection(f"{len(store.collections())}", x),
        lambda x: store.create_collection(x, 3),
        lambda x: store.create_collection("m", 3, m=x),
        lambda x: store.create_collection("e", 3, ef_construction=x),
        lambda x: store.create_collection("p", 3, profile=x),
        lambda x: store.create_collection("c", 3, codes=x),
        lambda x: rows.attach(x),
        lambda x: rows.attach([x]),
        lambda x: rows.attach([], on_collision=x),
        lambda x: rows.attach([], take=x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", x, x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", 1, [1, 2], x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", 1, [1, 2], metric=x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", 1, [1, 2], m=x, ef_construction=x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", 1, [1, 2], seal_bytes=x, seal_rows=x),
        lambda x: nearstone.build_segments(tmp_path / "none" / "x", 1, [1, 2], threads=x),
        lambda x: store.batch().upsert(rows, x, x),
        lambda x: store.batch(durability=x),
        lambda x: store.verify(x),
        lambda x: nearstone.in_memory(background="manual", memory_budget=x).close(),
        lambda x: nearstone.in_memory(background="manual", write_stall=x).close(),
        lambda x: nearstone.in_memory(background="manual", seal_idle=x).close(),
        lambda x: nearstone.in_memory(background="manual", dead_share=x).close(),
    ]
    for call in calls:
        for value in NASTY:
            try:
                call(value)
            except Exception as error:
                assert "panic" not in type(error).__name__.lower() and "panick" not in str(error)
    assert 1 <= len(rows.search([[1, 2]] * 4, 5, threads=10**6)[3]) <= 5
    store.verify()
