"""`nearstone.compat.hnswlib` against what hnswlib 0.8 does, its files, and what is ours: durable indexes.

Expected distances and neighbours come from numpy, expected exceptions from hnswlib's behaviour. Files of
hnswlib are written by hand here after its layout, and by hnswlib itself where that is installed.
"""

from __future__ import annotations

import copy
import os
import pickle
import runpy
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import nearstone
from nearstone.compat import hnswlib

U64_MAX = 2**64 - 1
EXAMPLE = Path(__file__).parents[1] / "examples" / "migrate_hnswlib.py"


@pytest.fixture
def hnswlibs_ef():
    """For tests of the default itself."""
    return


@pytest.fixture(autouse=True)
def wide_ef(request, monkeypatch):
    """hnswlib's default, 10, may miss a row, the more so while rows are being linked. These tests are of labels and
    distances, not of recall: with 200, as many rows as they have are compared one by one."""
    if "hnswlibs_ef" not in request.fixturenames:
        monkeypatch.setattr(hnswlib, "_EF_DEFAULT", 200)


def random_rows(n, dim, seed=0):
    return np.random.default_rng(seed).random((n, dim), dtype=np.float32)


def index_of(vectors, ids=None, space="l2", capacity=None, **options):
    index = hnswlib.Index(space, vectors.shape[1])
    index.init_index(len(vectors) if capacity is None else capacity, **options)
    index.add_items(vectors, ids)
    return index


def true_distances(space, rows, queries):
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if space == "l2":
        return ((queries[:, None, :] - rows[None]) ** 2).sum(axis=2)
    if space == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return 1 - queries @ rows.T


def hnsw_bytes(labels, vectors, marked=(), m=6, capacity=None, levels=None):
    """A file of hnswlib's Index; `levels` gives how many upper layers each element has links on."""
    n, dim = vectors.shape
    ground, upper = 4 + 8 * m, 4 + 4 * m
    stride = ground + 4 * dim + 8
    levels = [0] * n if levels is None else levels
    out = struct.pack("<5Q", 0, n + 5 if capacity is None else capacity, n, stride, ground + 4 * dim)
    out += struct.pack("<QiI", ground, max(levels, default=-1), 0 if n else 2**32 - 1)
    out += struct.pack("<3QdQ", m, 2 * m, m, 1 / np.log(m), 77)
    for label, vector in zip(labels, vectors, strict=True):
        links = bytearray(os.urandom(ground))
        links[2] = (links[2] & 0xFE) | (label in marked)
        out += bytes(links) + vector.astype("<f4").tobytes() + struct.pack("<Q", label)
    for level in levels:
        out += struct.pack("<I", level * upper) + os.urandom(level * upper)
    return out


def bf_bytes(labels, vectors, capacity):
    n, dim = vectors.shape
    out = struct.pack("<3Q", capacity, 4 * dim + 8, n)
    for label, vector in zip(labels, vectors, strict=True):
        out += vector.astype("<f4").tobytes() + struct.pack("<Q", label)
    return out + os.urandom((capacity - n) * (4 * dim + 8))


# Searching.


@pytest.mark.parametrize("kind", [hnswlib.Index, hnswlib.BFIndex])
@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_neighbours_and_distances_are_the_true_ones(space, kind):
    rows, queries = random_rows(800, 12) - 0.3, random_rows(60, 12, seed=1) - 0.3
    index = kind(space, 12)
    index.init_index(800)
    index.add_items(rows)
    if kind is hnswlib.Index:
        index.set_ef(400)
    labels, distances = index.knn_query(queries, k=7)
    assert (labels.dtype, labels.shape) == (np.uint64, (60, 7))
    assert (distances.dtype, distances.shape) == (np.float32, (60, 7))
    true = true_distances(space, rows, queries)
    order = np.argsort(true, axis=1)[:, :7]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(labels.tolist(), order.tolist(), strict=True)]) > 6.9
    np.testing.assert_allclose(distances, np.take_along_axis(true, labels.astype(int), axis=1), atol=2e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_one_vector_is_a_matrix_of_one():
    index = index_of(random_rows(5, 3))
    labels, distances = index.knn_query([0.1, 0.2, 0.3])
    assert labels.shape == distances.shape == (1, 1)
    index.add_items([9.0, 9.0, 9.0], 3)
    assert index.knn_query([9, 9, 9])[0].tolist() == [[3]]
    assert index.knn_query(np.empty((0, 3)), k=4)[0].shape == (0, 4)
    assert index.knn_query([[1, 2, 3]], k=0)[1].shape == (1, 0)


def test_fewer_than_k_is_a_runtime_error():
    for index in (index_of(random_rows(5, 3)), hnswlib.BFIndex("l2", 3)):
        if isinstance(index, hnswlib.BFIndex):
            index.init_index(5)
            index.add_items(random_rows(5, 3))
        assert index.knn_query([0, 0, 0], k=5)[0].shape == (1, 5)
        with pytest.raises(RuntimeError, match="6 neighbours .* 5"):
            index.knn_query([0, 0, 0], k=6)
        with pytest.raises(RuntimeError):
            index.knn_query([0, 0, 0], k=2**40)
        with pytest.raises(RuntimeError):
            index.knn_query([0, 0, 0], k=3, filter=lambda label: label < 2)
        assert sorted(index.knn_query([0, 0, 0], k=2, filter=lambda label: label < 2)[0][0]) == [0, 1]


def test_a_filter_sees_labels_once_and_may_raise():
    rows = random_rows(500, 8)
    ids = np.arange(500, dtype=np.uint64) * 3
    bf = hnswlib.BFIndex("l2", 8)
    bf.init_index(500)
    bf.add_items(rows, ids)
    for index in (index_of(rows, ids), bf):
        asked = []
        labels, _ = index.knn_query(
            rows, k=3, num_threads=1, filter=lambda i, a=asked: a.append(i) or i % 2 == 0
        )
        assert (labels % 2 == 0).all() and len(asked) == len(set(asked))
        assert all(type(label) is int and label % 3 == 0 for label in asked)
        # A walk may miss a row among 250; comparing with all of them may not.
        found = labels[::2, 0] == ids[::2]
        assert found.all() if index is bf else found.mean() >= 0.98
        mask = ids % 9 == 0
        assert (index.knn_query(rows[:4], k=2, filter=lambda i, m=mask: m[i // 3])[0] % 9 == 0).all()
        with pytest.raises(ZeroDivisionError):
            index.knn_query(rows[:3], k=1, filter=lambda i: 1 // 0)


def test_zero_vectors_are_far_from_everything_under_cosine():
    index = index_of(np.array([[0, 0], [3, 0], [0, -2]], np.float32), space="cosine")
    labels, distances = index.knn_query([1, 0], k=3)
    assert labels[0, 0] == 1 and distances[0].tolist() == [0.0, 1.0, 1.0]
    assert index.knn_query([0, 0], k=3)[1].tolist() == [[1.0, 1.0, 1.0]]
    assert index.get_items([0, 1, 2]).tolist() == [[0, 0], [1, 0], [0, -1]]


def test_cosine_normalises_long_short_and_bfindex_queries():
    rows = np.array([[3e18, 4e18], [3e-25, 4e-25], [1, 0]], np.float32)
    index = index_of(rows, space="cosine")
    np.testing.assert_allclose(index.get_items([0, 1]), [[0.6, 0.8]] * 2, rtol=1e-6)
    bf = hnswlib.BFIndex("cosine", 2)
    bf.init_index(3)
    bf.add_items(rows)
    for query in ([10, 0], [0.1, 0]):
        np.testing.assert_allclose(bf.knn_query(query, k=3)[1], [[0, 0.4, 0.4]], atol=1e-6)


# Labels and items.


def test_labels_are_64_bits_wide():
    labels = [0, 2**63, U64_MAX, 2**53 + 1]
    index = index_of(np.eye(4, dtype=np.float32), labels)
    assert sorted(index.get_ids_list()) == sorted(labels)
    assert all(type(label) is int for label in index.get_ids_list())
    assert index.knn_query(np.eye(4))[0][:, 0].tolist() == labels
    np.testing.assert_array_equal(index.get_items(labels), np.eye(4))
    np.testing.assert_array_equal(index.get_items(np.array([-1])), np.eye(4)[2:3])
    index.mark_deleted(np.uint64(U64_MAX))
    assert index_of(np.eye(2), np.array([3.0, 4.0])).get_ids_list() == [3, 4]


@pytest.mark.parametrize("ids", [np.array([0.5, 1]), np.array([np.nan, 1]), np.array([1e30, 1]), [2**64, 1]])
def test_labels_that_are_none_are_refused(ids):
    with pytest.raises(ValueError, match="label"):
        index_of(np.eye(2), ids)


@pytest.mark.parametrize("ids", [["a", "b"], [None, 1], [0.5, 1]])
def test_labels_of_other_types_are_refused(ids):
    with pytest.raises(TypeError):
        index_of(np.eye(2), ids)


def test_labels_go_on_where_the_last_rows_ended():
    index = index_of(random_rows(3, 4), capacity=20)
    index.add_items(random_rows(2, 4), [10, 11])
    index.add_items(random_rows(2, 4))
    assert sorted(index.get_ids_list()) == [0, 1, 2, 5, 6, 10, 11]


def test_the_last_of_equal_labels_counts():
    index = index_of(np.array([[1], [2], [3]], np.float32), [5, 6, 5])
    assert index.element_count == 2 and index.get_items([5, 6]).tolist() == [[3], [2]]
    index.add_items([[7.0]], [6])
    assert index.element_count == 2 and index.get_items([6], return_type="list") == [[7.0]]


def test_get_items():
    rows = random_rows(50, 4)
    index = index_of(rows)
    labels, _ = index.knn_query(rows, k=1)
    np.testing.assert_array_equal(index.get_items(labels), rows)
    assert index.get_items().shape == index.get_items([]).shape == (0,)
    assert index.get_items(return_type="list") == []
    assert index.get_items([1], return_type="list") == [rows[1].tolist()]
    with pytest.raises(ValueError):
        index.get_items(3)
    with pytest.raises(ValueError):
        index.get_items([3], return_type="tuple")
    with pytest.raises(ValueError):
        index.get_items(index.knn_query(rows, k=2)[0])
    with pytest.raises(RuntimeError):
        index.get_items([3, 99])


# Arguments.


def test_bad_data_is_refused_and_changes_nothing():
    index = index_of(random_rows(3, 4), capacity=10)
    for call in (index.add_items, index.knn_query):
        for data in (np.zeros((2, 3)), np.zeros(5), np.zeros((1, 2, 4)), 3.0, np.zeros((2, 0))):
            with pytest.raises(RuntimeError):
                call(data)
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError):
                call([[1, 2, 3, 4], [1, 2, bad, 4]])
        with pytest.raises((TypeError, ValueError)):
            call([["a", "b", "c", "d"]])
    for ids in ([1], [1, 2, 3], [[1, 2]], 7):
        with pytest.raises(RuntimeError):
            index.add_items(np.zeros((2, 4)), ids)
    assert index.element_count == 3
    index.add_items(np.empty((0, 4)), [])
    index.add_items(random_rows(1, 4))
    assert sorted(index.get_ids_list()) == [0, 1, 2, 3]


def test_constructors_refuse_what_they_cannot_use():
    for kind in (hnswlib.Index, hnswlib.BFIndex):
        with pytest.raises(RuntimeError):
            kind("hamming", 3)
        for dim in (0, -1, 65_537):
            with pytest.raises(ValueError):
                kind("l2", dim)
        for space, dim in ((3, 3), ("l2", 2.5), ("l2", "3")):
            with pytest.raises(TypeError):
                kind(space, dim)
    for arguments in ({}, {"space": "l2"}, {"dim": 3}, {"space": "l2", "dim": 3, "params": {}}):
        with pytest.raises(TypeError):
            hnswlib.Index(**arguments)


def test_numbers_out_of_range_are_type_errors():
    index = hnswlib.Index("l2", 2)
    for bad in (-1, 2**64, 1.5, "3"):
        with pytest.raises(TypeError):
            index.init_index(bad)
        with pytest.raises(TypeError):
            index.set_ef(bad)
    index.init_index(3)
    index.add_items(np.eye(2))
    for bad in (-1, 2**64, 1.5, "3"):
        for call in (index.mark_deleted, index.unmark_deleted, index.resize_index):
            with pytest.raises(TypeError):
                call(bad)
        with pytest.raises(TypeError):
            index.knn_query([0, 0], k=bad)
    assert index.element_count == 2 and index.max_elements == 3


@pytest.mark.usefixtures("hnswlibs_ef")
def test_before_it_is_initialised():
    index, bf = hnswlib.Index("l2", 2), hnswlib.BFIndex("l2", 2)
    assert (index.max_elements, index.element_count, index.M, index.ef_construction, index.ef) == (
        0,
        0,
        0,
        0,
        10,
    )
    calls = [
        lambda i: i.add_items([0, 0]),
        lambda i: i.knn_query([0, 0]),
        lambda i: i.save_index("never"),
        lambda i: i.get_max_elements(),
        lambda i: i.get_current_count(),
    ]
    for call in calls:
        for one in (index, bf):
            with pytest.raises(RuntimeError, match="not initialised"):
                call(one)
    for call in (index.mark_deleted, index.unmark_deleted, index.resize_index):
        with pytest.raises(RuntimeError, match="not initialised"):
            call(0)
    for call in (
        index.get_ids_list,
        index.index_file_size,
        lambda: index.get_items([1]),
        lambda: bf.delete_vector(1),
    ):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    for one in (index, bf):
        one.init_index(4)
        with pytest.raises(RuntimeError, match="already"):
            one.init_index(4)


def test_attributes():
    index = hnswlib.Index(space="ip", dim=3)
    assert repr(index) == "<hnswlib.Index(space='ip', dim=3)>"
    assert repr(hnswlib.BFIndex("l2", 9)) == "<hnswlib.BFIndex(space='l2', dim=9)>"
    index.ef = 33
    index.init_index(max_elements=7, M=20, ef_construction=5)
    assert (index.space, index.dim, index.M, index.ef_construction, index.ef) == ("ip", 3, 20, 20, 33)
    assert index.max_elements == index.get_max_elements() == 7
    assert index.element_count == index.get_current_count() == 0
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert index.num_threads == ours
    index.set_num_threads(3)
    assert index.num_threads == 3
    index.num_threads = 0
    index.set_ef(50)
    assert index.ef == 50
    for name in ("space", "dim", "M", "max_elements", "element_count", "ef_construction"):
        with pytest.raises(AttributeError):
            setattr(index, name, 1)
    index.add_items(random_rows(7, 3), num_threads=1000)
    assert index.knn_query(random_rows(40, 3), k=2, num_threads=-5)[0].shape == (40, 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_no_more_threads_than_cores_that_are_ours():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        for index in (hnswlib.Index("l2", 2), hnswlib.BFIndex("l2", 2)):
            assert index.num_threads == 1
            assert index._threads(-1, 1000) == index._threads(50, 1000) == 1
            index.num_threads = 0
            assert index._threads(-1, 1000) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert hnswlib.Index("l2", 2).num_threads == len(before)


@pytest.mark.parametrize(("m", "ef"), [(0, 0), (2, 1), (4, 3), (64, 10), (100, 500), (20_000, 100_000)])
def test_m_out_of_range_is_clamped_and_shown_as_given(m, ef):
    rows = random_rows(300, 6)
    index = index_of(rows, M=m, ef_construction=ef)
    assert (index.M, index.ef_construction) == (min(m, 10_000), max(ef, min(m, 10_000)))
    index.set_ef(0)
    index.knn_query(rows[:5])
    index.set_ef(U64_MAX)
    assert (index.knn_query(rows)[0][:, 0] == np.arange(300)).mean() > 0.99


def test_rows_that_come_one_by_one_are_found_at_once():
    rows = random_rows(2500, 6)
    index = hnswlib.Index("l2", 6)
    index.init_index(2500)
    for label, row in enumerate(rows):
        index.add_items(row, label)
        if label % 100 == 0:
            assert index.knn_query(row)[0].tolist() == [[label]]
    index.set_ef(60)
    # The last rows may still be being linked, and a few others out of the reach of a narrow beam meanwhile.
    assert (index.knn_query(rows)[0][:, 0] == np.arange(2500)).mean() > 0.99


# Capacity and deletion.


def test_capacity():
    index = index_of(random_rows(4, 3), capacity=5)
    with pytest.raises(RuntimeError, match="exceed the 5"):
        index.add_items(random_rows(2, 3))
    assert index.element_count == 4
    index.add_items(random_rows(2, 3), [0, 4])
    index.add_items(random_rows(5, 3), [4, 3, 2, 1, 0])
    with pytest.raises(RuntimeError):
        index.add_items(random_rows(1, 3), [77])
    with pytest.raises(RuntimeError):
        index.resize_index(4)
    index.resize_index(6)
    assert index.max_elements == 6
    index.add_items(random_rows(1, 3), [77])
    index.resize_index(6)
    assert index.element_count == 6


def test_marking_hides_and_unmarking_shows():
    rows = random_rows(200, 5)
    index = index_of(rows)
    for label in range(0, 200, 2):
        index.mark_deleted(label)
    assert index.element_count == 200 and sorted(index.get_ids_list()) == list(range(200))
    labels, _ = index.knn_query(rows, k=100)
    assert set(labels.ravel().tolist()) == set(range(1, 200, 2))
    with pytest.raises(RuntimeError):
        index.knn_query(rows, k=101)
    with pytest.raises(RuntimeError):
        index.get_items([2])
    for call, label in (
        (index.mark_deleted, 2),
        (index.unmark_deleted, 3),
        (index.mark_deleted, 200),
        (index.unmark_deleted, 200),
    ):
        with pytest.raises(RuntimeError):
            call(label)
    for label in range(0, 200, 2):
        index.unmark_deleted(label)
    assert (index.knn_query(rows, k=1)[0][:, 0] == np.arange(200)).all()
    np.testing.assert_array_equal(index.get_items(range(200)), rows)


def test_adding_a_deleted_label_shows_it_unless_places_are_replaceable():
    index = index_of(np.eye(3, dtype=np.float32))
    index.mark_deleted(1)
    index.add_items([[0, 5, 0]], [1])
    assert index.element_count == 3 and index.get_items([1]).tolist() == [[0, 5, 0]]
    with pytest.raises(RuntimeError):
        index.unmark_deleted(1)

    index = index_of(np.eye(3, dtype=np.float32), allow_replace_deleted=True)
    index.mark_deleted(1)
    with pytest.raises(RuntimeError, match="label 1"):
        index.add_items([[0, 5, 0]], [1])
    assert index.knn_query([0, 1, 0], k=2)[0].tolist()[0] != [1, 1] and index.element_count == 3
    index.add_items([[0, 5, 0]], [1], replace_deleted=True)
    assert index.get_items([1]).tolist() == [[0, 5, 0]] and index.element_count == 3


def test_replacing_deleted_rows():
    with pytest.raises(RuntimeError, match="allow_replace_deleted"):
        index_of(random_rows(3, 4)).add_items(random_rows(1, 4), replace_deleted=True)
    rows = random_rows(100, 4)
    index = index_of(rows, allow_replace_deleted=True)
    for label in range(40):
        index.mark_deleted(label)
    with pytest.raises(RuntimeError, match="exceed"):
        index.add_items(random_rows(41, 4), range(1000, 1041), replace_deleted=True)
    with pytest.raises(RuntimeError, match="exceed"):
        index.add_items(random_rows(1, 4), [1000])
    fresh = random_rows(30, 4, seed=9)
    # Ten of them update rows that are there, five bring deleted ones back, fifteen take places.
    ids = [*range(50, 60), *range(5), *range(1000, 1015)]
    index.add_items(fresh, ids, replace_deleted=True)
    assert index.element_count == 100
    np.testing.assert_array_equal(index.get_items(ids), fresh)
    assert sorted(index.get_ids_list()) == sorted({*range(5), *range(20, 100), *range(1000, 1015)})
    index.unmark_deleted(39)
    with pytest.raises(RuntimeError):
        index.unmark_deleted(19)


# Files.


@pytest.mark.usefixtures("hnswlibs_ef")
@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_files_bring_everything_back(space, tmp_path):
    rows = random_rows(300, 7) - 0.5
    ids = np.arange(300) * 5 + 2**40
    index = index_of(rows, ids, space=space, capacity=400, M=9, ef_construction=90)
    for label in ids[:20]:
        index.mark_deleted(label)
    path = tmp_path / "saved.bin"
    index.set_ef(300)
    index.save_index(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved.bin"]
    assert path.stat().st_size == index.index_file_size()

    again = hnswlib.Index(space, 7)
    again.set_ef(5)
    again.load_index(path)
    assert again.ef == 10
    assert (again.M, again.ef_construction, again.max_elements, again.element_count) == (9, 90, 400, 300)
    assert sorted(again.get_ids_list()) == ids.tolist()
    np.testing.assert_array_equal(again.get_items(ids[20:]), index.get_items(ids[20:]))
    again.set_ef(300)
    for a, b in zip(again.knn_query(rows[:50], k=5), index.knn_query(rows[:50], k=5), strict=True):
        np.testing.assert_array_equal(a, b)
    again.unmark_deleted(ids[0])
    with pytest.raises(RuntimeError):
        again.get_items([ids[1]])
    again.add_items(rows[:1])
    assert 300 in again.get_ids_list()


def test_loading_sets_the_capacity_and_replacement(tmp_path, capfd):
    path = tmp_path / "saved.bin"
    index_of(random_rows(10, 3), capacity=12, allow_replace_deleted=True).save_index(path)
    index = hnswlib.Index("l2", 3)
    for wanted, capacity in ((0, 12), (9, 12), (10, 10), (50, 50)):
        index.load_index(path, max_elements=wanted)
        assert index.max_elements == capacity
    assert "Warning" in capfd.readouterr().err
    index.mark_deleted(3)
    with pytest.raises(RuntimeError):
        index.add_items(random_rows(1, 3), replace_deleted=True)
    index.load_index(path, allow_replace_deleted=True)
    index.mark_deleted(3)
    index.add_items(random_rows(1, 3), replace_deleted=True)
    assert index.element_count == 10


def test_empty_indexes_are_saved_too(tmp_path):
    for kind in (hnswlib.Index, hnswlib.BFIndex):
        index = kind("l2", 3)
        index.init_index(7)
        index.save_index(tmp_path / "empty.bin")
        again = kind("l2", 3)
        again.load_index(tmp_path / "empty.bin")
        assert (again.get_max_elements(), again.get_current_count()) == (7, 0)
        again.add_items(random_rows(2, 3))


def test_saving_replaces_a_file_and_follows_links(tmp_path):
    real, link = tmp_path / "real.bin", tmp_path / "link.bin"
    real.write_bytes(b"old")
    link.symlink_to(real)
    index = index_of(random_rows(3, 2))
    index.save_index(link)
    assert link.is_symlink() and real.stat().st_size == index.index_file_size()
    with pytest.raises(OSError):
        index.save_index(tmp_path / "missing" / "x.bin")
    with pytest.raises(OSError):
        index.save_index(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.bin", "real.bin"]


def test_the_space_of_a_file_can_be_changed(tmp_path):
    rows = random_rows(30, 3)
    index_of(rows).save_index(tmp_path / "l2.bin")
    index = hnswlib.Index("ip", 3)
    index.load_index(tmp_path / "l2.bin")
    np.testing.assert_allclose(index.knn_query(rows[:1], k=30)[1][0], np.sort(1 - rows @ rows[0]), atol=1e-6)


def test_no_damage_to_a_file_is_overlooked(tmp_path):
    path = tmp_path / "saved.bin"
    index = index_of(random_rows(4, 2), capacity=6)
    index.mark_deleted(2)
    index.save_index(path)
    bf = hnswlib.BFIndex("l2", 2)
    bf.init_index(4)
    bf.add_items(random_rows(4, 2))
    for one in (index, bf):
        one.save_index(path)
        whole = path.read_bytes()
        loaded = type(one)("l2", 2)
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            with pytest.raises(RuntimeError, match="cut short|not an? "):
                loaded.load_index(path)
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            with pytest.raises(RuntimeError):
                loaded.load_index(path)
        path.write_bytes(whole + b"\0")
        with pytest.raises(RuntimeError, match="longer"):
            loaded.load_index(path)


def test_what_is_no_index_is_refused_and_leaves_the_index_alone(tmp_path):
    index = index_of(random_rows(4, 2))
    path = tmp_path / "saved.bin"
    index_of(random_rows(4, 3)).save_index(path)
    with pytest.raises(RuntimeError, match="dimension 3"):
        index.load_index(path)
    bf = hnswlib.BFIndex("l2", 2)
    with pytest.raises(RuntimeError, match="saved by Index"):
        bf.load_index(path)
    bf.init_index(3)
    bf.save_index(path)
    with pytest.raises(RuntimeError, match="saved by BFIndex"):
        index.load_index(path)
    for content in (b"", b"hello", b"PK\x03\x04" * 100, bytes(1000), np.random.default_rng(0).bytes(5000)):
        path.write_bytes(content)
        for one in (index, bf):
            with pytest.raises(RuntimeError):
                one.load_index(path)
    for missing in (tmp_path / "missing.bin", tmp_path):
        with pytest.raises(RuntimeError, match="can't be read"):
            index.load_index(missing)
    assert index.element_count == 4 and index.knn_query([0, 0], k=4)[0].shape == (1, 4)


# Files of hnswlib.


def test_a_file_of_hnswlib_is_read(tmp_path):
    rows = random_rows(60, 5)
    labels = [int(label) for label in np.random.default_rng(3).integers(0, 2**63, 59)] + [U64_MAX]
    path = tmp_path / "hnsw.bin"
    marked = set(labels[::7])
    path.write_bytes(hnsw_bytes(labels, rows, marked, capacity=90, levels=[i % 3 for i in range(60)]))
    index = hnswlib.Index("l2", 5)
    index.load_index(str(path))
    assert (index.M, index.ef_construction, index.max_elements, index.element_count) == (6, 77, 90, 60)
    live = [i for i, label in enumerate(labels) if label not in marked]
    np.testing.assert_array_equal(index.get_items([labels[i] for i in live]), rows[live])
    assert index.knn_query(rows[live])[0][:, 0].tolist() == [labels[i] for i in live]
    for label in marked:
        with pytest.raises(RuntimeError):
            index.get_items([label])
        index.unmark_deleted(label)
    np.testing.assert_array_equal(index.get_items(labels), rows)
    index.add_items(rows[:1])
    assert 60 in index.get_ids_list()

    saved = hnswlib.read_index(path)
    assert (saved.dim, saved.space, len(saved.labels), len(saved.deleted_labels)) == (5, None, 51, 9)


def test_damage_to_a_file_of_hnswlib_is_reported(tmp_path):
    path = tmp_path / "hnsw.bin"
    whole = hnsw_bytes([1, 2, 3], random_rows(3, 2), levels=[0, 2, 1])
    index = hnswlib.Index("l2", 2)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(RuntimeError):
            index.load_index(path)
    path.write_bytes(whole + b"\0\0\0\0")
    with pytest.raises(RuntimeError, match="longer"):
        index.load_index(path)
    # offset of level 0, count, bytes per record, offsets of label and vector, links on the ground layer
    for at in (0, 16, 24, 32, 40, 64):
        for value in (1, 7, 2**40, U64_MAX):
            path.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
            with pytest.raises(RuntimeError):
                index.load_index(path)
    path.write_bytes(whole)
    with pytest.raises(RuntimeError, match="dimension 2"):
        hnswlib.Index("l2", 3).load_index(path)
    rows = random_rows(3, 2)
    rows[1, 1] = np.nan
    path.write_bytes(hnsw_bytes([1, 2, 3], rows))
    with pytest.raises(RuntimeError, match="label 2 has a NaN"):
        index.load_index(path)


def test_of_two_elements_under_one_label_the_later_counts(tmp_path):
    rows = random_rows(4, 2)
    path = tmp_path / "hnsw.bin"
    path.write_bytes(hnsw_bytes([5, 6, 5, 7], rows))
    index = hnswlib.Index("l2", 2)
    index.load_index(path)
    assert index.element_count == 3
    np.testing.assert_array_equal(index.get_items([5, 6, 7]), rows[[2, 1, 3]])


def test_an_empty_file_of_hnswlib_is_read(tmp_path):
    (tmp_path / "hnsw.bin").write_bytes(hnsw_bytes([], np.empty((0, 3)), capacity=8))
    index = hnswlib.Index("l2", 3)
    index.load_index(tmp_path / "hnsw.bin")
    assert (index.max_elements, index.element_count) == (8, 0)


def test_a_brute_force_file_of_hnswlib_is_read(tmp_path):
    rows = random_rows(9, 3)
    path = tmp_path / "bf.bin"
    whole = bf_bytes(range(100, 109), rows, capacity=12)
    path.write_bytes(whole)
    bf = hnswlib.BFIndex("l2", 3)
    bf.load_index(path)
    assert (bf.get_max_elements(), bf.get_current_count()) == (12, 9)
    assert bf.knn_query(rows)[0][:, 0].tolist() == list(range(100, 109))
    bf.load_index(path, max_elements=20)
    assert bf.get_max_elements() == 20
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(RuntimeError):
            bf.load_index(path)


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_files_and_answers_of_the_real_hnswlib(space, tmp_path):
    real = pytest.importorskip("hnswlib")
    rows = random_rows(3000, 16) - 0.4
    ids = np.arange(3000) * 11
    theirs = real.Index(space=space, dim=16)
    theirs.init_index(max_elements=3500, M=12, ef_construction=100, allow_replace_deleted=True)
    theirs.add_items(rows, ids)
    for label in ids[:100]:
        theirs.mark_deleted(label)
    theirs.add_items(rows[:50] + 1, np.arange(50) + 10**6, replace_deleted=True)
    theirs.save_index(str(tmp_path / "real.bin"))

    ours = hnswlib.Index(space=space, dim=16)
    ours.load_index(str(tmp_path / "real.bin"))
    for name in ("M", "ef_construction", "max_elements", "element_count", "ef", "space", "dim"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert repr(ours) == repr(theirs)
    assert sorted(ours.get_ids_list()) == sorted(theirs.get_ids_list())
    live = [*ids[100:].tolist(), *(np.arange(50) + 10**6).tolist()]
    np.testing.assert_array_equal(ours.get_items(live), theirs.get_items(live))
    for index in (ours, theirs):
        index.set_ef(500)
    (our_labels, our_distances), (labels, distances) = (i.knn_query(rows[:200], k=10) for i in (ours, theirs))
    # Both are approximate: distances can only be compared where both found the same row.
    same = our_labels == labels
    assert same.mean() > 0.98
    np.testing.assert_allclose(our_distances[same], distances[same], atol=1e-5)
    fresh = hnswlib.Index(space, 16)
    fresh.init_index(3000)
    fresh.add_items(rows, ids)
    np.testing.assert_allclose(fresh.get_items(ids[100:]), theirs.get_items(ids[100:]), atol=1e-6)

    bf = real.BFIndex(space=space, dim=16)
    bf.init_index(4000)
    bf.add_items(rows, ids)
    bf.save_index(str(tmp_path / "bf.bin"))
    our_bf = hnswlib.BFIndex(space=space, dim=16)
    our_bf.load_index(str(tmp_path / "bf.bin"))
    assert (our_bf.knn_query(rows[:50], k=5)[0] == bf.knn_query(rows[:50], k=5)[0]).mean() > 0.99


# Pickles and copies.


def test_pickles_and_copies():
    rows = random_rows(100, 4)
    plain = hnswlib.Index("cosine", 4)
    plain.num_threads, plain.ef = 3, 44
    for again in (pickle.loads(pickle.dumps(plain)), copy.deepcopy(plain), hnswlib.Index(plain)):
        assert (again.space, again.dim, again.num_threads, again.ef, again.max_elements) == (
            "cosine",
            4,
            3,
            44,
            0,
        )
        again.init_index(5)
        assert again.ef == 44 and plain.max_elements == 0

    index = index_of(rows, space="cosine", capacity=120, M=7, allow_replace_deleted=True)
    index.set_ef(99)
    index.mark_deleted(4)
    for again in (
        pickle.loads(pickle.dumps(index)),
        copy.copy(index),
        hnswlib.Index(index=index),
        hnswlib.Index(index.__getstate__()[0]),
        hnswlib.Index(params=index.__getstate__()[0]),
    ):
        assert (again.ef, again.M, again.max_elements, again.element_count) == (99, 7, 120, 100)
        np.testing.assert_array_equal(again.get_items([3, 5]), index.get_items([3, 5]))
        again.add_items(rows[:1], replace_deleted=True)
        assert 4 not in again.get_ids_list() and 100 in again.get_ids_list()
        again.mark_deleted(7)
    assert index.get_items([7]).shape == (1, 4)
    with pytest.raises(RuntimeError):
        hnswlib.Index(params={"ser_version": 99})


class Lazy(hnswlib.Index):
    def add_items(self, data, ids=None, num_threads=-1):
        if self.max_elements == 0:
            super().init_index(100, 8, 50)
        super().add_items(data, ids, num_threads)


def test_subclasses_work():
    lazy = Lazy("l2", 3)
    lazy.add_items(random_rows(3, 3))
    again = pickle.loads(pickle.dumps(lazy))
    assert type(again) is Lazy and again.element_count == 3 and again.M == 8


# Brute force.


def test_bfindex_adds_updates_and_deletes(tmp_path):
    bf = hnswlib.BFIndex("l2", 2)
    bf.init_index(3)
    bf.add_items(np.eye(2))
    bf.add_items([5, 5], 9)
    with pytest.raises(RuntimeError, match="exceed"):
        bf.add_items([6, 6], 10)
    bf.add_items([[7, 7], [8, 8]], [9, 0])
    assert bf.get_current_count() == 3
    assert bf.knn_query([7, 7], k=2)[0].tolist() == [[9, 0]]
    bf.delete_vector(9)
    bf.delete_vector(9)
    assert bf.get_current_count() == 2
    assert bf.knn_query([7, 7], k=2)[0].tolist() == [[0, 1]]
    bf.add_items([6, 6], 10)
    for call in (
        lambda: bf.add_items([1, 2, 3]),
        lambda: bf.add_items([[1, 2]], [1, 2]),
        lambda: bf.knn_query([1, 2, 3]),
    ):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(ValueError):
        bf.add_items([[1, np.nan]], [0])
    bf.set_num_threads(5)
    assert bf.num_threads == 5


def test_bfindex_does_not_grow_under_churn(monkeypatch):
    monkeypatch.setattr(hnswlib, "_DEAD_MAX", 300)
    rows = random_rows(100, 1024)
    bf = hnswlib.BFIndex("l2", 1024)
    bf.init_index(100)
    bf.add_items(rows)
    first, logs = bf._ready()[0], []
    for turn in range(30):
        # Of each turn's 100 rows half are replaced, half deleted and added again.
        bf.add_items(rows[:50] + turn, range(50))
        for label in range(50, 100):
            bf.delete_vector(label)
            bf.delete_vector(1000 + label)
        bf.add_items(rows[50:] + turn, range(50, 100))
        logs.append(bf._ready()[0].stats()["wal_bytes"])
        assert bf.get_current_count() == 100
        labels, distances = bf.knn_query(rows + turn, k=1)
        assert labels[:, 0].tolist() == list(range(100)) and not distances.any()
    assert bf._ready()[0] is not first
    # 4 KiB each: 100 live rows, 300 dead ones, and 100 of the call that passes that. All together were 3,000.
    assert max(logs) < (500 << 12) + (2 << 20), logs
    # The labels went on through all of it.
    bf.delete_vector(3)
    bf.add_items(rows[:1])
    assert bf.knn_query(rows[0])[0].tolist() == [[30 * 100 + 100]]


def test_bfindex_keeps_its_store_while_most_rows_live():
    bf = hnswlib.BFIndex("l2", 2)
    bf.init_index(30_000)
    store = None
    for at in range(0, 30_000, 5000):
        bf.add_items(random_rows(5000, 2, seed=at))
        store = store or bf._ready()[0]
    bf.add_items(random_rows(30_000, 2), range(30_000))
    assert bf._ready()[0] is store
    bf.add_items([[9, 9]], [7])
    assert bf._ready()[0] is not store
    assert bf.get_current_count() == 30_000 and bf.knn_query([9, 9])[0].tolist() == [[7]]


def test_bfindex_moves_its_rows_while_others_search_and_write(monkeypatch, tmp_path):
    monkeypatch.setattr(hnswlib, "_DEAD_MAX", 50)
    rows = random_rows(40, 4)
    bf = hnswlib.BFIndex("l2", 4)
    bf.init_index(40)
    bf.add_items(rows)
    failures, done = [], threading.Event()

    def writing(part):
        for _ in range(100):
            bf.add_items(rows[part::2], range(part, 40, 2))

    def searching():
        while not done.is_set():
            for filter in (None, lambda label: label < 30):
                labels, _ = bf.knn_query(rows[:30], k=1, filter=filter)
                assert labels[:, 0].tolist() == list(range(30))
            bf.save_index(tmp_path / "saved.bin")

    def run(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=run, args=(writing, part)) for part in range(2)]
    searcher = threading.Thread(target=run, args=(searching,))
    for thread in (*writers, searcher):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    searcher.join(60)
    assert not failures and not searcher.is_alive()
    assert bf.get_current_count() == 40


def test_bfindex_filters_many_queries_in_time():
    rows = random_rows(3000, 8)
    bf = hnswlib.BFIndex("l2", 8)
    bf.init_index(3000)
    bf.add_items(rows)
    labels, distances = bf.knn_query(rows, k=2, filter=lambda label: label % 2 == 0)
    assert (labels % 2 == 0).all() and (labels[::2, 0] == np.arange(0, 3000, 2)).all()
    true = ((rows[1] - rows[::2]) ** 2).sum(axis=1)
    assert labels[1, 0] == 2 * np.argmin(true)
    np.testing.assert_allclose(distances[1, 0], true.min(), rtol=1e-5)


# Durable indexes.


def durable(path, space="l2", dim=4):
    return hnswlib.Index(space, dim, path=path)


def test_a_durable_index_is_found_again(tmp_path):
    path = tmp_path / "index.near"
    rows = random_rows(200, 4)
    index = durable(path, "cosine")
    assert index.max_elements == 0
    index.close()
    index = durable(path, "cosine")
    index.init_index(300, M=11, ef_construction=70, allow_replace_deleted=True)
    index.add_items(rows, np.arange(200) + 1000)
    for label in range(1000, 1010):
        index.mark_deleted(label)
    index.resize_index(250)
    items = index.get_items(range(1010, 1200))
    index.close()
    with pytest.raises(nearstone.Closed):
        index.knn_query(rows[0])

    again = durable(path, "cosine")
    assert (again.max_elements, again.element_count, again.M, again.ef_construction) == (250, 200, 11, 70)
    np.testing.assert_array_equal(again.get_items(range(1010, 1200)), items)
    assert again.knn_query(rows[10:])[0][:, 0].tolist() == list(range(1010, 1200))
    with pytest.raises(RuntimeError, match="already"):
        again.init_index(5)
    again.add_items(rows[:1], replace_deleted=True)
    assert 200 in again.get_ids_list() and 1000 not in again.get_ids_list()
    again.unmark_deleted(1005)
    with pytest.raises(nearstone.Busy):
        durable(path, "cosine")
    del again
    with nearstone.open(path, create=False) as store:
        assert sorted(store.collections()) == ["deleted", "hnswlib", "items"]
        assert len(store.collection("items")) == 192


def test_a_durable_index_refuses_other_parameters_and_other_stores(tmp_path):
    index = durable(tmp_path / "a")
    index.init_index(U64_MAX)
    index.close()
    for space, dim in (("ip", 4), ("l2", 5)):
        with pytest.raises(RuntimeError, match="'l2' and dim 4"):
            durable(tmp_path / "a", space, dim)
    again = durable(tmp_path / "a")
    assert again.max_elements == U64_MAX
    again.close()
    with nearstone.open(tmp_path / "b") as store:
        store.create_collection("items", 4)
    with pytest.raises(RuntimeError, match="other collections: items"):
        durable(tmp_path / "b")
    with nearstone.open(tmp_path / "b", create=False) as store:
        assert store.collections() == ["items"]


def test_collections_of_somebody_else_are_never_dropped(tmp_path):
    def stored(name):
        with nearstone.open(tmp_path / name, create=False) as store:
            return {name: len(store.collection(name)) for name in store.collections()}

    # Somebody's own "hnswlib" has no record of ours, whatever else it is.
    for number, options in enumerate(({"dim": 1, "metric": "l2", "keys": "str"}, {"dim": 3, "keys": "u64"})):
        with nearstone.open(tmp_path / f"theirs {number}") as store:
            store.create_collection("hnswlib", **options)
            store.create_collection("items", 2, keys="u64").upsert([1, 2], [[1, 0], [0, 1]])
            store.create_collection("deleted", 2, keys="u64").upsert([3], [[1, 1]])
        before = stored(f"theirs {number}")
        assert before == {"hnswlib": 0, "items": 2, "deleted": 1}
        with pytest.raises(RuntimeError, match="holds other collections: deleted, hnswlib, items"):
            durable(tmp_path / f"theirs {number}")
        assert stored(f"theirs {number}") == before
    with nearstone.open(tmp_path / "row") as store:
        store.create_collection("hnswlib", 1, metric="l2", keys="str").upsert("theirs", [1.0])
    with pytest.raises(RuntimeError, match="holds other collections: hnswlib"):
        durable(tmp_path / "row")
    # What a crash leaves of an index of ours before its record is one empty collection.
    durable(tmp_path / "ours").close()
    assert stored("ours") == {"hnswlib": 0}
    index = durable(tmp_path / "ours")
    index.init_index(3)
    # Beside an index of ours, no load of ours can have left these.
    for name in ("items.7", "deleted.01", "notes"):
        index.store.create_collection(name, 2, keys="u64").upsert([1], [[1, 0]])
    index.close()
    durable(tmp_path / "ours").close()
    theirs = {"items.7": 1, "deleted.01": 1, "notes": 1}
    assert stored("ours") == {"hnswlib": 1, "items": 0, "deleted": 0, **theirs}


def test_the_record_is_written_before_the_rows_get_collections(tmp_path, monkeypatch):
    index = durable(tmp_path / "index.near")

    def interrupted(*args):
        raise KeyboardInterrupt

    # At the first moment at which there are collections of rows.
    monkeypatch.setattr(hnswlib._Rows, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.init_index(3)
    assert sorted(index.store.collections()) == ["deleted", "hnswlib", "items"]
    assert len(index.store.collection("hnswlib")) == 1
    index.close()
    monkeypatch.undo()
    index = durable(tmp_path / "index.near")
    assert index.store.collections() == ["hnswlib"] and index.max_elements == 0
    index.init_index(3)
    index.add_items(np.eye(3, 4))
    index.close()
    assert durable(tmp_path / "index.near").element_count == 3


def test_loading_into_a_durable_index_replaces_its_rows(tmp_path):
    rows = random_rows(40, 4)
    (tmp_path / "hnsw.bin").write_bytes(hnsw_bytes(range(100, 140), rows, marked={101}))
    index = durable(tmp_path / "index.near")
    index.load_index(tmp_path / "hnsw.bin")
    index.close()
    index = durable(tmp_path / "index.near")
    assert index.element_count == 40 and index.get_items([100]).tolist() == rows[:1].tolist()
    (tmp_path / "hnsw.bin").write_bytes(hnsw_bytes(range(5), rows[:5], m=8))
    for _ in range(2):
        index.load_index(tmp_path / "hnsw.bin")
        index.close()
        index = durable(tmp_path / "index.near")
        assert sorted(index.get_ids_list()) == [0, 1, 2, 3, 4] and index.M == 8
        assert len(index.store.collections()) == 3
    copied = pickle.loads(pickle.dumps(index))
    copied.mark_deleted(1)
    assert index.get_items([1]).shape == (1, 4)


def test_a_load_that_did_not_end_is_forgotten(tmp_path):
    index = durable(tmp_path / "index.near")
    index.init_index(5)
    index.add_items(random_rows(2, 4))
    # What a crash leaves between filling new collections and recording them.
    index.store.create_collection("items.1", 4, metric="l2").upsert([1], random_rows(1, 4))
    index.close()
    index = durable(tmp_path / "index.near")
    assert sorted(index.store.collections()) == ["deleted", "hnswlib", "items"]
    # And a load that fails in this process.
    index.store.create_collection("deleted.1", 4, metric="l2")
    index.save_index(tmp_path / "saved.bin")
    index.load_index(tmp_path / "saved.bin")
    assert index.element_count == 2


def test_acknowledged_rows_survive_the_death_of_the_process(tmp_path):
    program = f"""
import os, numpy as np
from nearstone.compat import hnswlib
index = hnswlib.Index("l2", 4, path={str(tmp_path / "index.near")!r})
index.init_index(500)
index.add_items(np.arange(400, dtype=np.float32).reshape(100, 4))
index.mark_deleted(7)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 9
    index = durable(tmp_path / "index.near")
    assert (index.element_count, index.max_elements) == (100, 500)
    assert index.knn_query([[28, 29, 30, 31]], k=1)[0][0, 0] in (6, 8)
    index.unmark_deleted(7)
    assert index.get_items([7]).tolist() == [[28, 29, 30, 31]]
    index.add_items(random_rows(1, 4))
    assert 100 in index.get_ids_list()


# Threads.


def test_threads_add_mark_and_search_together():
    rows = random_rows(1200, 8)
    index = hnswlib.Index("l2", 8)
    index.init_index(1200)
    index.add_items(rows[:200])
    # While rows are being linked around it, a row can be out of the reach of a narrow beam.
    index.set_ef(200)
    failures = []

    def adding(part):
        for at in range(200 + part, 1200, 4 * 25):
            ids = np.arange(at, min(at + 100, 1200), 4)
            index.add_items(rows[ids], ids, num_threads=1)

    def marking():
        for label in range(0, 200, 2):
            index.mark_deleted(label)

    def searching():
        for _ in range(30):
            labels, _ = index.knn_query(rows[1:200:2], k=1)
            assert labels[:, 0].tolist() == list(range(1, 200, 2))

    def run(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)

    jobs = [(adding, part) for part in range(4)] + [(marking,), (searching,)]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)
    live = [*range(1, 200, 2), *range(200, 1200)]
    assert index.element_count == 1200
    np.testing.assert_array_equal(index.get_items(live), rows[live])
    assert (index.knn_query(rows[live])[0][:, 0] == live).mean() > 0.995


@pytest.mark.parametrize("folder", [True, False])
def test_writers_that_waited_for_a_load_write_to_its_rows(folder, tmp_path):
    rows = random_rows(20, 4)
    index_of(rows, capacity=50).save_index(tmp_path / "saved.bin")
    calls = {
        "add": lambda index: index.add_items(rows[:1], [40]),
        "mark": lambda index: index.mark_deleted(5),
        "resize": lambda index: index.resize_index(60),
        "ids": lambda index: index.get_ids_list(),
    }
    for name, call in calls.items():
        index = durable(tmp_path / f"{name}.near") if folder else hnswlib.Index("l2", 4)
        index.load_index(tmp_path / "saved.bin")
        failures = []

        def run(call=call, index=index, failures=failures):
            try:
                call(index)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        with index._lock:
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            index.load_index(tmp_path / "saved.bin")
        thread.join(60)
        assert not failures and not thread.is_alive()
        if name == "add":
            assert 40 in index.get_ids_list()
        if name == "mark":
            index.unmark_deleted(5)


# The example.


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_the_migration_example_runs(space, by_hand, monkeypatch, capsys):
    if by_hand:
        monkeypatch.setitem(sys.modules, "hnswlib", None)
    else:
        pytest.importorskip("hnswlib")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--space", space])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    assert ("by hand" in printed.out) == by_hand and "1980 rows" in printed.out and "checked" in printed.out


def test_the_migration_example_refuses_what_is_no_index(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.bin").write_bytes(b"not an index")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "x.bin")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert end.value.code == 1 and "not an index file" in capsys.readouterr().err
    assert not (tmp_path / "x.near").exists()
    (tmp_path / "x.bin").write_bytes(hnsw_bytes([4, 5], random_rows(2, 3)))
    for code in (0, 1):
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert end.value.code == code
    assert "exists already" in capsys.readouterr().err
