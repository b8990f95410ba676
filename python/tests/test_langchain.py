"""LangChain's own suite for vector stores over a folder, and what it does not look at.

``TestSuite`` is the suite of the package ``langchain-tests``, sync and async. The rest looks at ids, filters,
scores, variety, persistence, whose store it is, LangChain's indexing, threads, and bad input. Without the
packages ``langchain-core`` and ``langchain-tests`` everything but the import is skipped.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone


def test_import_without_langchain_names_the_package() -> None:
    program = "import sys; sys.modules['langchain_core'] = None; import nearstone.langchain"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "needs the package langchain-core" in done.stderr.splitlines()[-1]
    assert "pip install" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ImportError:")


pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_core.indexing import InMemoryRecordManager, index  # noqa: E402
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests  # noqa: E402

from nearstone.langchain import NearstoneVectorStore  # noqa: E402

# The suite's coroutines carry no mark of their own, and its subclasses may not override them.
for _name, _test in inspect.getmembers(VectorStoreIntegrationTests, inspect.iscoroutinefunction):
    pytest.mark.asyncio(_test)


class TestSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[NearstoneVectorStore]:  # type: ignore[override]
        with NearstoneVectorStore(self.get_embeddings(), path=tmp_path / "suite.near") as made:
            yield made


class Points(Embeddings):
    """Texts that are vectors: ``"1 0.5"`` is (1, 0.5). What is embedded is counted."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.embedded += 1
        return [float(word) for word in text.split()]


@pytest.fixture
def points() -> Iterator[NearstoneVectorStore]:
    with NearstoneVectorStore(Points(), metric="l2") as made:
        yield made


def line(count: int) -> list[str]:
    """Texts at 0, 1, 2... on a line."""
    return [f"{x} 0" for x in range(count)]


def keys(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


# Ids


def test_ids_are_made_where_there_is_none(points: NearstoneVectorStore) -> None:
    ids = points.add_texts(["0 0", "1 0", "2 0"], ids=["a", None, "c"])
    assert ids[0] == "a" and ids[2] == "c" and len(ids[1]) == 36
    assert keys(points.get_by_ids(ids)) == ids
    assert len(set(points.add_texts(line(50)))) == 50


def test_the_last_of_two_under_one_id_stays(points: NearstoneVectorStore) -> None:
    assert points.add_texts(["0 0", "1 0"], [{"n": 1}, {"n": 2}], ids=["a", "a"]) == ["a", "a"]
    assert points.get_by_ids(["a"]) == [Document(id="a", page_content="1 0", metadata={"n": 2})]
    points.add_texts(["5 0"], ids=["a"])
    assert points.similarity_search("0 0", k=9) == [Document(id="a", page_content="5 0", metadata={})]


def test_get_by_ids_keeps_order_and_repeats(points: NearstoneVectorStore) -> None:
    points.add_texts(line(3), ids=["a", "b", "c"])
    assert keys(points.get_by_ids(["c", "missing", "a", "c"])) == ["c", "a", "c"]
    assert points.get_by_ids([]) == []


def test_ids_that_can_be_nobodys_are_as_unknown_as_others(points: NearstoneVectorStore) -> None:
    nobodys = ["", "x" * 513, "\u20ac" * 171, "\ud800"]
    assert points.get_by_ids(nobodys) == []
    longest = ["x" * 512, "\u20ac" * 170 + "xx"]
    points.add_texts(line(3), ids=["a", *longest])
    assert keys(points.get_by_ids(["a", *nobodys, *longest, "a"])) == ["a", *longest, "a"]
    assert points.get_by_ids(nobodys) == []
    assert points.delete(nobodys) is True and points.delete([*nobodys, "a"]) is True
    assert keys(points.similarity_search("0 0", k=9)) == longest
    for bad in ([7], [None], ["a", 7]):
        with pytest.raises((TypeError, nearstone.InvalidArgument)):
            points.get_by_ids(bad)  # type: ignore[arg-type]
        with pytest.raises((TypeError, nearstone.InvalidArgument)):
            points.delete(bad)  # type: ignore[arg-type]


def test_one_str_is_no_list_of_them(points: NearstoneVectorStore) -> None:
    def refused() -> None:
        for call in (
            lambda: points.delete("doc1"),  # type: ignore[arg-type]
            lambda: points.get_by_ids("doc1"),
            lambda: points.add_texts("1 0"),
            lambda: points.add_texts(line(4), ids="doc1"),
        ):
            with pytest.raises(TypeError, match="is the str '(doc1|1 0)': it must be a list"):
                call()

    refused()
    points.add_texts(line(5), ids=[*"doc1", "doc1"])
    refused()
    assert sorted(keys(points.similarity_search("0 0", k=9))) == sorted([*"doc1", "doc1"])  # type: ignore[type-var]


def test_delete_some_all_and_none(points: NearstoneVectorStore) -> None:
    assert points.delete() is True
    points.add_texts(line(5), ids=list("abcde"))
    assert points.delete([]) is True
    assert points.collection is not None and len(points.collection) == 5
    assert points.delete(["a", "a", "unknown"]) is True
    assert keys(points.similarity_search("0 0", k=9)) == list("bcde")
    assert points.delete() is True
    assert points.similarity_search("0 0") == []
    points.add_texts(["0 0"], ids=["again"])
    assert keys(points.similarity_search("0 0")) == ["again"]


# Documents


def test_metadata_cannot_collide_and_text_is_any_text(points: NearstoneVectorStore) -> None:
    metadata = {"text": "mine", "metadata": {"deep": [1, 2.5, None, True]}, "größe": "ä\u0000😀"}
    points.add_documents([Document(id="ключ", page_content=" 1\t0 \n", metadata=metadata)])
    assert points.get_by_ids(["ключ"]) == [Document(id="ключ", page_content=" 1\t0 \n", metadata=metadata)]
    assert points.similarity_search("1 0")[0].metadata == metadata


def test_metadata_given_is_neither_kept_nor_changed(points: NearstoneVectorStore) -> None:
    metadata = {"n": 1}
    points.add_texts(["0 0"], [metadata], ids=["a"])
    metadata["n"] = 2
    assert points.get_by_ids(["a"])[0].metadata == {"n": 1}


def test_from_documents_takes_ids_of_documents() -> None:
    documents = [Document(id="a", page_content="0 0"), Document(page_content="1 0", metadata={"n": 1})]
    with NearstoneVectorStore.from_documents(documents, Points(), metric="l2", collection="mine") as made:
        assert made.store.collections() == ["mine"]
        found = made.similarity_search("0 0", k=5)
        assert found[0].id == "a" and found[1].metadata == {"n": 1}


def test_batches_are_embedded_one_by_one() -> None:
    class Sizes(Points):
        sizes: list[int] = []

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.sizes.append(len(texts))
            return super().embed_documents(texts)

    embedding = Sizes()
    with NearstoneVectorStore(embedding, metric="l2") as made:
        ids = made.add_texts(iter(line(25)), batch_size=10)
        assert embedding.sizes == [10, 10, 5]
        assert [document.page_content for document in made.get_by_ids(ids)] == line(25)


def test_a_batch_is_one_commit_where_it_fits(
    points: NearstoneVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commits(ids: list[str]) -> int:
        assert points.collection is not None
        rows = points.collection.get(ids)
        assert all(row is not None for row in rows)
        return len({row.version for row in rows if row is not None})

    # A matrix of so many rows is written in several pieces, unless it is asked not to be.
    assert commits(points.add_texts(line(3000))) == 1
    assert commits(points.add_texts(line(3000), batch_size=1000)) == 3
    # Texts that pass 64 MiB: many pieces, after all of them were looked at.
    long = [f"{x} 0" + " " * 1_000_000 for x in range(68)]
    assert commits(points.add_texts(long)) > 1
    assert points.collection is not None and len(points.collection) == 6068
    with pytest.raises(nearstone.InvalidArgument):
        points.add_texts(long, ids=[*(f"new {n}" for n in range(67)), ""])
    assert len(points.collection) == 6068
    # Vectors that pass it.
    monkeypatch.setattr("nearstone.langchain.COMMIT_BYTES", 3000 * 8 - 1)
    assert commits(points.add_texts(line(3000))) > 1
    assert commits(points.add_texts(line(2999))) == 1


# Searches


def test_scores_are_the_metrics_distances() -> None:
    expected = {"l2": [0.0, 2.0, 5.0], "cosine": [0.0, 1.0, 2.0], "ip": [-1.0, 0.0, 1.0]}
    texts = {"l2": ["1 0", "0 1", "-1 1"], "cosine": ["2 0", "0 3", "-4 0"], "ip": ["1 0", "0 1", "-1 0"]}
    for metric, distances in expected.items():
        with NearstoneVectorStore.from_texts(texts[metric], Points(), metric=metric) as made:
            found = made.similarity_search_with_score("1 0", k=5)
            assert [document.page_content for document, _ in found] == texts[metric]
            assert [score for _, score in found] == pytest.approx(distances, abs=1e-6)
            assert all(type(score) is float for _, score in found)
            assert made.similarity_search_with_score_by_vector([1.0, 0.0], k=5) == found
            assert made.similarity_search_by_vector([1.0, 0.0], k=5) == [document for document, _ in found]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_relevance_lies_between_0_and_1_and_keeps_the_order(metric: str) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [" ".join(map(str, row)) for row in vectors]
    with NearstoneVectorStore.from_texts(texts, Points(), metric=metric) as made:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = made.similarity_search_with_relevance_scores(texts[0], k=60)
        scores = [score for _, score in found]
        assert len(scores) == 60 and scores == sorted(scores, reverse=True)
        assert found[0][0].page_content == texts[0] and scores[0] == pytest.approx(1.0, abs=1e-3)
        assert scores[-1] < 0.4
        near = made.similarity_search_with_relevance_scores(texts[0], k=60, score_threshold=scores[5])
        assert near == found[:6]


def test_relevance_function_of_the_user() -> None:
    with NearstoneVectorStore.from_texts(
        line(3), Points(), metric="l2", relevance_score_fn=lambda distance: 0.25
    ) as made:
        assert [score for _, score in made.similarity_search_with_relevance_scores("0 0")] == [0.25] * 3


@pytest.mark.parametrize("sealed", [False, True])
def test_filters_find_all_that_match_however_far(points: NearstoneVectorStore, sealed: bool) -> None:
    points.add_texts(line(520), ids=[f"gone {n}" for n in range(520)])
    points.add_texts(line(500), [{"n": n, "far": n >= 490, "even": n % 2 == 0} for n in range(500)])
    if sealed:
        points.store.flush()
    points.delete([f"gone {n}" for n in range(520)])

    def numbers(**search: Any) -> list[int]:
        return [document.metadata["n"] for document in points.similarity_search("0 0", **search)]

    assert numbers(k=4, filter={"far": True}) == [490, 491, 492, 493]
    assert numbers(k=40, filter={"far": True}) == list(range(490, 500))
    assert numbers(k=40, filter={"far": True, "even": True}) == list(range(490, 500, 2))
    assert numbers(k=3, filter=lambda document: document.metadata["even"]) == [0, 2, 4]
    assert numbers(k=250, filter={"even": False}) == list(range(1, 500, 2))
    assert numbers(k=3, filter={"unknown": None}) == []
    assert numbers(k=3, filter={}) == [0, 1, 2]
    assert numbers(k=10**9, filter={"far": True}) == list(range(490, 500))
    assert points.similarity_search_by_vector([3.0, 0.0], 1, {"even": False})[0].metadata["n"] == 3
    found = points.similarity_search_with_score("0 0", 1, {"far": True})
    assert found[0][1] == 490.0**2
    points.delete()
    assert numbers(k=3, filter={"far": True}) == []


def test_a_filter_sees_each_document_once(points: NearstoneVectorStore) -> None:
    points.add_texts(line(300), [{"n": n} for n in range(300)])
    seen: list[int] = []

    def nothing(document: Document) -> bool:
        seen.append(document.metadata["n"])
        return False

    assert points.similarity_search("0 0", k=2, filter=nothing) == []
    assert sorted(seen) == list(range(300))


def test_an_error_in_a_filter_comes_through(points: NearstoneVectorStore) -> None:
    points.add_texts(line(3))
    with pytest.raises(ZeroDivisionError):
        points.similarity_search("0 0", filter=lambda document: 1 / 0 > 0)
    with pytest.raises(TypeError, match="filter"):
        points.similarity_search("0 0", filter="far")  # type: ignore[arg-type]


def test_variety() -> None:
    # Three near the query and almost the same, one further away in another direction.
    texts = ["1 0.1", "1 0.11", "1 0.12", "0.7 -0.7", "-1 0"]
    with NearstoneVectorStore.from_texts(texts, Points()) as made:

        def picked(**search: Any) -> list[str]:
            return [found.page_content for found in made.max_marginal_relevance_search("1 0", **search)]

        assert picked(k=3, lambda_mult=1.0) == ["1 0.1", "1 0.11", "1 0.12"]
        assert picked(k=2, lambda_mult=0.5) == ["1 0.1", "0.7 -0.7"]
        assert picked(k=2, lambda_mult=0.0) == ["1 0.1", "-1 0"]
        assert picked(k=2, fetch_k=3, lambda_mult=0.0) == ["1 0.1", "1 0.12"]
        assert sorted(picked(k=9, fetch_k=1)) == sorted(texts)
        assert picked(k=2, filter=lambda document: "-" in document.page_content) == ["0.7 -0.7", "-1 0"]
        by_vector = made.max_marginal_relevance_search_by_vector([1.0, 0.0], k=2)
        assert [found.page_content for found in by_vector] == ["1 0.1", "0.7 -0.7"]
        with pytest.raises(ValueError, match="lambda_mult"):
            picked(k=2, lambda_mult=1.5)


def test_retrievers(points: NearstoneVectorStore) -> None:
    points.add_texts(line(10), [{"n": n} for n in range(10)])
    nearest = points.as_retriever(search_kwargs={"k": 2, "filter": {"n": 4}})
    assert [document.page_content for document in nearest.invoke("0 0")] == ["4 0"]
    several = points.as_retriever(search_type="mmr", search_kwargs={"k": 3, "fetch_k": 5})
    assert len(several.invoke("1 1")) == 3
    threshold = points.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.45, "k": 9}
    )
    assert [document.page_content for document in threshold.invoke("0 0")] == ["0 0", "1 0"]


def test_nothing_is_embedded_to_search_nothing() -> None:
    embedding = Points()
    with NearstoneVectorStore(embedding) as made:
        assert made.similarity_search("1 0") == []
        assert made.similarity_search_with_score("1 0") == []
        assert made.max_marginal_relevance_search("1 0") == []
        assert made.similarity_search_by_vector([1.0, 0.0], filter={"a": 1}) == []
        assert made.add_texts([]) == [] and made.add_documents([]) == []
        assert made.collection is None
    assert embedding.embedded == 0


def test_documents_that_come_between_two_looks_are_not_searched_with_nothing(tmp_path: Path) -> None:
    class Late(NearstoneVectorStore):
        """Somebody adds a document right after this one has seen that there is no collection."""

        armed = False

        def _existing(self) -> nearstone.Collection | None:
            found = super()._existing()
            if found is None and self.armed:
                self.armed = False
                NearstoneVectorStore(Points(), store=self.store).add_texts(["1 0"])
            return found

    searches: tuple[Callable[[Late], list[Any]], ...] = (
        lambda late: late.similarity_search("1 0"),
        lambda late: late.similarity_search_with_score("1 0", filter={"n": 1}),
        lambda late: late.max_marginal_relevance_search("1 0"),
    )
    for search in searches:
        with nearstone.in_memory() as store:
            late = Late(Points(), store=store)
            late.armed = True
            assert search(late) == []
            assert not late.armed and len(late.similarity_search("1 0")) == 1


# Stores


def test_a_folder_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "kept.near"
    with NearstoneVectorStore(Points(), path=path, metric="l2", m=8, ef_construction=50) as made:
        made.add_texts(line(20), [{"n": n} for n in range(20)], ids=[f"id {n}" for n in range(20)])
        made.delete(["id 0"])
        assert made.collection is not None
        assert (made.collection.m, made.collection.ef_construction) == (8, 50)
        before = made.similarity_search_with_score("0 0", k=20)
    with pytest.raises(nearstone.Closed):
        made.similarity_search("0 0")
    with NearstoneVectorStore(Points(), path=str(path), metric="l2") as again:
        assert again.similarity_search_with_score("0 0", k=20) == before
        assert len(before) == 19


def test_a_store_given_stays_open_and_holds_several(tmp_path: Path) -> None:
    with nearstone.open(tmp_path / "shared.near") as store:
        with NearstoneVectorStore(Points(), store=store, collection="a", metric="l2") as first:
            late = NearstoneVectorStore(Points(), store=store, collection="a", metric="l2")
            first.add_texts(["1 0"], ids=["x"])
            assert keys(late.similarity_search("1 0")) == ["x"]
        other = NearstoneVectorStore(Points(), store=store, collection="b")
        other.add_texts(["1 0 0"])
        assert sorted(store.collections()) == ["a", "b"]
        first.close()
        assert not store.closed


def test_a_collection_can_be_dropped_and_made_again() -> None:
    with nearstone.in_memory() as store:
        made = NearstoneVectorStore(Points(), store=store, metric="l2")
        made.add_texts(line(3), ids=list("abc"))
        store.drop_collection("langchain")
        assert made.collection is None
        assert made.similarity_search("0 0") == [] and made.max_marginal_relevance_search("0 0") == []
        assert made.get_by_ids(["a"]) == [] and made.delete(["a"]) is True and made.delete() is True
        # Again, and of another dimension: nothing is left of the first.
        made.add_texts(["1 2 3"], ids=["d"])
        assert keys(made.similarity_search("1 2 3")) == ["d"]
        store.drop_collection("langchain")
        store.create_collection("langchain", 3, metric="ip", keys="str")
        for call in (lambda: made.similarity_search("1 2 3"), lambda: made.add_texts(["1 2 3"])):
            with pytest.raises(nearstone.InvalidArgument, match="metric ip"):
                call()
        store.drop_collection("langchain")
        other = NearstoneVectorStore(Points(), store=store, metric="l2")
        other.add_texts(["5 0"], ids=["e"])
        assert keys(made.similarity_search("0 0")) == ["e"]


def test_a_path_is_closed_when_the_constructor_fails(tmp_path: Path) -> None:
    path = tmp_path / "one.near"
    with NearstoneVectorStore.from_texts(["1 0"], Points(), path=path):
        pass
    # The errors are kept, and with them what they refer to: nothing is closed by accident.
    with pytest.raises(nearstone.InvalidArgument, match="cosine") as first:
        NearstoneVectorStore(Points(), path=path, metric="l2")
    with pytest.raises(ValueError, match="could not convert") as second:
        NearstoneVectorStore.from_texts(["words"], Points(), path=path)
    # The folder is not left locked by the two that failed.
    nearstone.open(path).close()
    del first, second


def test_constructor_refuses() -> None:
    with nearstone.in_memory() as store:
        with pytest.raises(ValueError, match="not both"):
            NearstoneVectorStore(Points(), store=store, path="somewhere")
        with pytest.raises(ValueError, match="metric"):
            NearstoneVectorStore(Points(), store=store, metric="euclid")  # type: ignore[arg-type]
        store.create_collection("numbers", 2, keys="u64")
        with pytest.raises(nearstone.InvalidArgument, match="u64 keys"):
            NearstoneVectorStore(Points(), store=store, collection="numbers")


def test_a_row_of_someone_else_is_named() -> None:
    with nearstone.in_memory() as store:
        collection = store.create_collection("langchain", 2, keys="str")
        collection.upsert("theirs", [1.0, 0.0], {"title": "no text"})
        made = NearstoneVectorStore(Points(), store=store)
        with pytest.raises(ValueError, match="theirs"):
            made.similarity_search("1 0")


# Bad input


def test_unknown_keywords_are_refused(points: NearstoneVectorStore) -> None:
    points.add_texts(line(2))
    for call in (
        lambda: points.similarity_search("0 0", where={"n": 1}),
        lambda: points.similarity_search_with_score("0 0", fetch_k=3),
        lambda: points.similarity_search_by_vector([0.0, 0.0], radius=2),
        lambda: points.similarity_search_with_score_by_vector([0.0, 0.0], radius=2),
        lambda: points.max_marginal_relevance_search("0 0", lamda=1),
        lambda: points.max_marginal_relevance_search_by_vector([0.0, 0.0], lamda=1),
        lambda: points.add_texts(["0 0"], metadata=[{}]),
        lambda: points.delete(["a"], where={}),
    ):
        with pytest.raises(TypeError, match="where|fetch_k|radius|lamda|metadata"):
            call()
    assert points.collection is not None and len(points.collection) == 2


def test_bad_counts_and_queries_are_refused(points: NearstoneVectorStore) -> None:
    points.add_texts(line(5))
    for filter in (None, {}):
        assert points.similarity_search("0 0", k=0, filter=filter) == []
        assert points.max_marginal_relevance_search("0 0", k=0, filter=filter) == []
        with pytest.raises(ValueError, match="k must be"):
            points.similarity_search("0 0", k=-1, filter=filter)
        with pytest.raises(ValueError, match="k must be"):
            points.max_marginal_relevance_search("0 0", k=-1, filter=filter)
        with pytest.raises(TypeError):
            points.similarity_search("0 0", k=1.5, filter=filter)  # type: ignore[arg-type]
        with pytest.raises(nearstone.InvalidArgument):
            points.similarity_search("0 0 0", filter=filter)
        with pytest.raises(nearstone.InvalidArgument):
            points.similarity_search("0 nan", filter=filter)
        with pytest.raises(ValueError, match="one vector"):
            points.similarity_search_by_vector([[0.0, 0.0]], filter=filter)  # type: ignore[list-item]


def test_bad_rows_are_refused_whole(points: NearstoneVectorStore) -> None:
    points.add_texts(["1 0"], ids=["kept"])
    for texts, metadatas, ids, error in (
        (["0 0", "1 0"], [{}], None, ValueError),
        (["0 0", "1 0"], None, ["a"], ValueError),
        (["0 0"], [], None, ValueError),
        (["0 0", "1 0 0"], None, None, ValueError),
        (["0 0 0"], None, None, nearstone.InvalidArgument),
        (["0 0", "nan 0"], None, None, nearstone.InvalidArgument),
        (["0 0"], None, [""], nearstone.InvalidArgument),
        (["0 0"], None, ["x" * 513], nearstone.InvalidArgument),
        (["0 0"], None, [7], nearstone.InvalidArgument),
        (["0 0", "1 0"], None, ["a", 7], (TypeError, nearstone.InvalidArgument)),
        (["0 0"], [{"a": object()}], None, (TypeError, nearstone.InvalidArgument)),
    ):
        with pytest.raises(error):
            points.add_texts(texts, metadatas, ids=ids)
    with pytest.raises(ValueError, match="batch_size"):
        points.add_texts(["0 0"], batch_size=0)
    assert points.collection is not None and list(points.collection.keys()) == ["kept"]


def test_zero_vectors_under_cosine() -> None:
    with NearstoneVectorStore(Points()) as made:
        with pytest.raises(nearstone.InvalidArgument):
            made.add_texts(["1 0", "0 0"])
        made.add_texts(["1 0"])
        with pytest.raises(nearstone.InvalidArgument):
            made.similarity_search("0 0")
        assert len(made.similarity_search("1 0", k=9)) == 1


def test_an_embedding_that_returns_too_little() -> None:
    class Short(Points):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

    with NearstoneVectorStore(Short(), metric="l2") as made:
        with pytest.raises(ValueError, match="shape"):
            made.add_texts(line(3))
        assert made.collection is None


# LangChain around it, threads


def test_indexing_adds_skips_and_cleans_up(points: NearstoneVectorStore) -> None:
    records = InMemoryRecordManager("tests")
    records.create_schema()

    def run(texts: list[str]) -> tuple[int, int, int]:
        documents = [Document(page_content=text, metadata={"source": "one"}) for text in texts]
        done = index(
            documents,
            records,
            points,
            cleanup="full",
            source_id_key="source",
            batch_size=3,
            key_encoder="sha256",
        )
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert run(line(7)) == (7, 0, 0)
    assert run(line(7)) == (0, 7, 0)
    assert run(line(8)[2:]) == (1, 5, 2)
    assert [document.page_content for document in points.similarity_search("0 0", k=99)] == line(8)[2:]


def test_first_documents_from_many_threads() -> None:
    with NearstoneVectorStore(Points(), metric="l2") as made:
        errors: list[BaseException] = []

        def add(thread: int) -> None:
            try:
                for n in range(10):
                    made.add_texts([f"{thread} {n}"], ids=[f"{thread}/{n}"])
                    assert made.similarity_search(f"{thread} {n}", k=1)[0].id == f"{thread}/{n}"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert made.collection is not None and len(made.collection) == 80


def test_async_calls_go_together() -> None:
    async def run(made: NearstoneVectorStore) -> None:
        await asyncio.gather(*(made.aadd_texts([f"{n} 0"], ids=[str(n)]) for n in range(20)))
        found = await asyncio.gather(*(made.asimilarity_search(f"{n} 0", k=1) for n in range(20)))
        assert [documents[0].id for documents in found] == [str(n) for n in range(20)]
        assert len(await made.amax_marginal_relevance_search("0 0", k=3)) == 3
        scores = await made.asimilarity_search_with_relevance_scores("0 0", k=1)
        assert scores[0][1] == 1.0
        assert await made.adelete(["3"]) is True
        assert keys(await made.aget_by_ids(["3", "4"])) == ["4"]

    with NearstoneVectorStore(Points(), metric="l2") as made:
        asyncio.run(run(made))
    made = asyncio.run(NearstoneVectorStore.afrom_texts(["1 0"], Points(), [{"n": 1}], ids=["a"]))
    assert made.get_by_ids(["a"])[0].metadata == {"n": 1}
    made.close()
