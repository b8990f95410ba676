"""Generators: shape, repeatability, and that they make what their names say."""

import numpy as np
import pytest

from peers import datasets
from peers.rows import Rows


@pytest.mark.parametrize("name", list(datasets.GENERATED))
def test_a_set_has_the_shape_asked_for_and_repeats(name):
    _, dim, metric = datasets.GENERATED[name]
    one = datasets.load(name, 300, 20, 7, None)
    assert one.rows.shape == (300, dim) and one.queries.shape == (20, dim)
    assert one.rows.dtype == one.queries.dtype == np.float32
    assert one.rows.flags.c_contiguous and one.metric == metric
    again = datasets.load(name, 300, 20, 7, None)
    assert np.array_equal(one.rows, again.rows) and np.array_equal(one.queries, again.queries)
    other = datasets.load(name, 300, 20, 8, None)
    assert not np.array_equal(one.rows, other.rows)
    assert not np.array_equal(one.rows[:20], one.queries)


def test_fewer_rows_are_a_prefix(monkeypatch):
    monkeypatch.setattr(datasets, "CHUNK_ROWS", 64)
    many = datasets.manifold(96, 200, 3, 1)
    assert np.array_equal(datasets.manifold(96, 130, 3, 1), many[:130])
    assert not np.array_equal(many[:64], many[64:128])


def test_manifold_rows_have_unit_length_and_few_dimensions():
    rows = datasets.manifold(96, 2000, 1, 1)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    spread = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    # 16 latent dimensions, bent: far fewer directions carry the spread than there are coordinates.
    assert (spread[:48] ** 2).sum() > 0.9 * (spread**2).sum()
    assert [datasets.latent_of(dim) for dim in (96, 128, 256, 768, 1536)] == [16, 16, 24, 32, 32]


def test_rows_for_inner_products_have_all_lengths_and_the_directions_of_the_manifold():
    rows = datasets.lengths(128, 2000, 1, 1)
    sizes = np.linalg.norm(rows, axis=1)
    assert np.log(sizes).std() == pytest.approx(0.3, rel=0.05) and sizes.max() > 2
    assert rows / sizes[:, None] == pytest.approx(datasets.manifold(128, 2000, 1, 1), abs=1e-5)


def test_clustered_rows_stand_around_centres():
    rows = datasets.clustered(128, 2000, 1, 1, centres=10)
    middle = np.random.default_rng([1, 0]).standard_normal((10, 128), dtype=np.float32)
    nearest = np.min([np.linalg.norm(rows - one, axis=1) for one in middle], axis=0)
    assert nearest.mean() == pytest.approx(0.35 * np.sqrt(128), rel=0.02)


def test_uniform_rows_fill_the_unit_cube():
    rows = datasets.uniform(128, 1000, 1, 1)
    assert 0 <= rows.min() < 0.01 and 0.99 < rows.max() < 1 and rows.mean() == pytest.approx(0.5, abs=0.01)


@pytest.fixture
def embeddings(tmp_path):
    rng = np.random.default_rng(0)
    rows = datasets.normalised(rng.standard_normal((200, 16), dtype=np.float32))
    np.save(tmp_path / "base.f16.npy", rows.astype(np.float16))
    np.save(tmp_path / "query.f32.npy", rows[:30] + np.float32(0.01))
    np.save(tmp_path / "gt100.cosine.i32.npy", np.tile(np.arange(100, dtype=np.int32), (30, 1)))
    return tmp_path


def test_embeddings_come_normalised_with_their_truth_when_all_rows_are_used(embeddings):
    whole = datasets.load("minilm", 200, 30, 1, embeddings)
    assert whole.metric == "cosine" and whole.known.shape == (30, 100)
    assert np.linalg.norm(whole.rows, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert np.linalg.norm(whole.queries, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert datasets.load("minilm", 150, 30, 1, embeddings).known is None


def test_the_folder_may_also_be_the_one_above(embeddings):
    above = embeddings / "all"
    (above / "minilm-100k").mkdir(parents=True)
    for file in embeddings.glob("*.npy"):
        file.rename(above / "minilm-100k" / file.name)
    assert datasets.load("minilm", 200, 5, 1, above).queries.shape == (5, 16)


def test_ood_queries_are_unlike_the_rows_but_repeat(embeddings):
    one = datasets.load("minilm-ood", 200, 50, 1, embeddings)
    assert one.known is None and one.queries.shape == (50, 16)
    assert np.linalg.norm(one.queries, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (one.queries @ one.rows.T).max() < 0.999
    assert np.array_equal(one.queries, datasets.load("minilm-ood", 200, 50, 1, embeddings).queries)


@pytest.mark.parametrize(
    ("name", "rows", "queries", "says"),
    [
        ("minilm", 201, 10, "has 200 rows"),
        ("minilm", 200, 31, "has 30 queries"),
        ("nonsense", 200, 10, "known: minilm, minilm-ood, uniform-128"),
        ("uniform-128", 99, 10, "at least 100 rows"),
        ("uniform-128", 200, 0, "at least 100 rows and 1 query"),
    ],
)
def test_what_cannot_be_had_is_refused(embeddings, name, rows, queries, says):
    with pytest.raises(datasets.DatasetError, match=says):
        datasets.load(name, rows, queries, 1, embeddings)


def test_embeddings_need_a_folder(tmp_path):
    with pytest.raises(datasets.DatasetError, match="NEARSTONE_DATA"):
        datasets.load("minilm", 200, 10, 1, None)
    with pytest.raises(datasets.DatasetError, match="no base.f16.npy"):
        datasets.load("minilm", 200, 10, 1, tmp_path)


def test_a_row_of_zeros_has_no_direction():
    with pytest.raises(datasets.DatasetError, match="zeros"):
        datasets.normalised(np.zeros((1, 3), dtype=np.float32))


def test_rows_are_read_from_their_file_in_batches(tmp_path):
    matrix = np.arange(35, dtype=np.float32).reshape(7, 5)
    np.save(tmp_path / "rows.npy", matrix)
    rows = Rows(tmp_path / "rows.npy", 6)
    assert (rows.count, rows.dim) == (6, 5)
    parts = list(rows.batches(4))
    assert [start for start, _ in parts] == [0, 4]
    assert np.array_equal(np.vstack([part for _, part in parts]), matrix[:6])
    assert np.array_equal(Rows(tmp_path / "rows.npy").all(), matrix)
    np.save(tmp_path / "wide.npy", matrix.astype(np.float64))
    with pytest.raises(ValueError, match="float32"):
        Rows(tmp_path / "wide.npy")
