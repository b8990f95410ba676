"""Truth and recall, against answers worked out by hand."""

import numpy as np
import pytest

from peers.datasets import Dataset
from peers.recall import Truth, brute_force, exact_distances


def on_a_line(values, queries, metric="l2", known=None):
    rows = np.array(values, dtype=np.float32)[:, None]
    return Dataset("line", metric, rows, np.array(queries, dtype=np.float32)[:, None], known)


def test_distances_are_squared_euclidean_one_minus_cosine_and_negative_products():
    query = np.array([1.0, 0.0], dtype=np.float32)
    rows = np.array([[4.0, 4.0], [0.0, 2.0], [-3.0, 0.0], [0.5, 0.0]], dtype=np.float32)
    assert exact_distances("l2", query, rows).tolist() == [25.0, 5.0, 16.0, 0.25]
    assert exact_distances("cosine", query, rows) == pytest.approx([1 - 2**-0.5, 1.0, 2.0, 0.0])
    assert exact_distances("ip", query, rows).tolist() == [-4.0, 0.0, 3.0, -0.5]
    with pytest.raises(ValueError, match="unknown metric"):
        exact_distances("hamming", query, rows)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_brute_force_agrees_with_a_full_sort_across_blocks(metric, monkeypatch):
    import peers.recall

    monkeypatch.setattr(peers.recall, "BLOCK_ROWS", 70)
    monkeypatch.setattr(peers.recall, "BLOCK_QUERIES", 3)
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((500, 7), dtype=np.float32)
    queries = rng.standard_normal((8, 7), dtype=np.float32)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = brute_force(metric, rows, queries, 10)
    for query, ids in zip(queries, found, strict=True):
        assert ids.tolist() == np.argsort(exact_distances(metric, query, rows))[:10].tolist()


def test_brute_force_gives_all_rows_when_there_are_fewer_than_k():
    rows = np.array([[3.0], [1.0], [2.0]], dtype=np.float32)
    assert brute_force("l2", rows, np.zeros((1, 1), dtype=np.float32), 10).tolist() == [[1, 2, 0]]


def test_recall_counts_right_rows():
    truth = Truth(on_a_line([0, 1, 2, 3, 4, 5], [0, 5]), 2)
    assert truth.source == "brute force"
    assert truth.recall(np.array([[0, 1], [5, 4]])) == 1.0
    assert truth.recall(np.array([[1, 0], [5, 0]])) == 0.75
    assert truth.recall(np.array([[4, 5]])) == 0.0  # the first query only


def test_a_row_as_near_as_the_kth_counts_whatever_its_id():
    truth = Truth(on_a_line([0, 1, -1, 1, 7], [0]), 2)
    for tied in (1, 2, 3):
        assert truth.recall(np.array([[0, tied]])) == 1.0
    assert truth.recall(np.array([[0, 4]])) == 0.5


def test_the_tolerance_is_a_millionth():
    truth = Truth(on_a_line([0, 1, 1 + 4e-7, 1.00001], [0]), 2)
    assert truth.recall(np.array([[0, 2]])) == 1.0
    assert truth.recall(np.array([[0, 3]])) == 0.5


def test_an_id_named_twice_counts_once_and_padding_never():
    truth = Truth(on_a_line([0, 1, 2, 3], [0]), 3)
    assert truth.recall(np.array([[0, 0, 0]])) == pytest.approx(1 / 3)
    assert truth.recall(np.array([[0, -1, -1]])) == pytest.approx(1 / 3)
    assert truth.recall(np.array([[-1, -1, -1]])) == 0.0


@pytest.mark.parametrize("wrong", [4, -2, 10**12])
def test_an_id_that_is_no_row_is_an_error(wrong):
    truth = Truth(on_a_line([0, 1, 2, 3], [0]), 2)
    with pytest.raises(ValueError, match="is no row"):
        truth.recall(np.array([[0, wrong]]))


@pytest.mark.parametrize("count", [0, 3])
def test_more_answers_than_queries_or_none_are_an_error(count):
    truth = Truth(on_a_line([0, 1, 2, 3], [0, 1]), 2)
    with pytest.raises(ValueError, match="answers"):
        truth.recall(np.zeros((count, 2), dtype=np.int64))


def test_known_neighbours_are_used_when_they_fit():
    known = np.array([[3, 2, 1]])
    assert Truth(on_a_line([9, 8, 7, 6], [0], known=known), 2).bound.tolist() == [49.0]
    with pytest.raises(ValueError, match="shape"):
        Truth(on_a_line([9, 8, 7, 6], [0], known=known[:, :1]), 2)
    with pytest.raises(ValueError, match="shape"):
        Truth(on_a_line([9, 8, 7, 6], [0, 1], known=known), 2)
