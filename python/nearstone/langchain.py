"""Documents of LangChain in a Nearstone collection.

``NearstoneVectorStore`` is LangChain's ``VectorStore`` over one collection with string keys::

    from nearstone.langchain import NearstoneVectorStore

    with NearstoneVectorStore(embedding, path="notes.near") as notes:
        notes.add_texts(["a first text", "a second"], [{"page": 1}, {"page": 2}])
        notes.similarity_search("first", k=1)
        notes.similarity_search("first", k=1, filter={"page": 2})

How a document becomes a row:

1. Its id is the key: a UTF-8 string of 1 to 512 bytes. Documents without one get a random UUID.
2. The embedding of its text is the vector.
3. Text and metadata are the payload, ``{"text": ..., "metadata": {...}}``. The user's keys live one level
   down and can never collide with ours. Metadata goes through JSON: tuples come back as lists, and what JSON
   does not know is an error at the call that adds it.

The collection is created by the first call that adds documents, with the dimension of their embeddings. Until
then searches find nothing; no text is embedded merely to learn a dimension.

What always holds: adding under an id that is there replaces the document; a search gives ``min(k, matching
documents)``, with a filter too; a keyword that means nothing here is a ``TypeError``, never ignored. When
``add_texts`` returns, its documents are as durable as the store makes every write: on the disk in one that is
opened here by its ``path``, what ``durability`` says in a ``store`` that is given, gone with the process in
memory. The methods whose names start with ``a`` run the others in LangChain's executor; one object may be
used from many threads.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

import nearstone

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise ImportError(
        "nearstone.langchain needs the package langchain-core, which is not installed",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from types import TracebackType

MetricName = Literal["cosine", "l2", "ip"]
Filter = Callable[[Document], bool] | Mapping[str, Any]
Self = TypeVar("Self", bound="NearstoneVectorStore")

TEXT = "text"
METADATA = "metadata"

# A filtered search first asks for so many times k, and at least FETCH_MIN; each further round asks for GROWTH
# times more, so that all rounds together cost little more than the last one.
OVERFETCH = 4
FETCH_MIN = 32
GROWTH = 4
# `delete()` without ids removes so many rows per call.
DELETE_ROWS = 10_000
# What the store commits in one piece, at most.
COMMIT_BYTES = 64 << 20
# Of an id, in UTF-8.
KEY_BYTES = 512


class NearstoneVectorStore(VectorStore):
    """LangChain's ``VectorStore`` over one collection of a Nearstone store.

    ``embedding`` turns texts into vectors. The collection lives in ``store``, an open ``nearstone.Store``
    that stays the caller's to close; or in the folder ``path``, which is opened (created if missing) and
    closed by ``close``; or, with neither, in memory, gone when the object goes.

    - ``collection``: its name. If it exists it must have string keys and the given ``metric``.
    - ``metric``: ``"cosine"``, ``"l2"`` (squared Euclidean distance) or ``"ip"`` (negated inner product).
    - ``m``, ``ef_construction``: links per row and candidates per insert of the graph, if it is created here.
    - ``ef``: candidates per search unless a call says otherwise; more finds nearer rows and takes longer.
    - ``relevance_score_fn``: from a distance to a score between 0 and 1, instead of the metric's own (see
      ``similarity_search_with_relevance_scores`` of the base class):

      - cosine: ``1 - distance``, which is the cosine, cut to 0..1;
      - l2: ``1 / (1 + sqrt(distance))``, so 1 for equal vectors, whatever their lengths;
      - ip: the inner product, cut to 0..1, which suits vectors of length 1.

    Raises ``ValueError`` for ``store`` and ``path`` together, ``nearstone.InvalidArgument`` for a collection
    that does not fit, and what ``nearstone.open`` raises.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        store: nearstone.Store | None = None,
        path: str | PathLike[str] | None = None,
        collection: str = "langchain",
        metric: MetricName = "cosine",
        m: int = 16,
        ef_construction: int = 200,
        ef: int | None = None,
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> None:
        if store is not None and path is not None:
            raise ValueError("give a store or a path, not both")
        if metric not in _RELEVANCE:
            raise ValueError(f"metric is one of {', '.join(_RELEVANCE)}, not {metric!r}")
        self._embedding = embedding
        self._name = collection
        self._metric: MetricName = metric
        self._m = m
        self._ef_construction = ef_construction
        self._ef = ef
        self._relevance_score_fn = relevance_score_fn
        self._creating = threading.Lock()
        self._owns_store = store is None
        if store is not None:
            self._store = store
        elif path is not None:
            self._store = nearstone.open(path)
        else:
            self._store = nearstone.in_memory()
        try:
            self._existing()
        except BaseException:
            self.close()
            raise

    # Handles

    @property
    def embeddings(self) -> Embeddings:
        """What turns texts into vectors."""
        return self._embedding

    @property
    def store(self) -> nearstone.Store:
        """The store below, for all that LangChain has no word for: ``flush``, ``backup``, ``stats``..."""
        return self._store

    @property
    def collection(self) -> nearstone.Collection | None:
        """The collection below; ``None`` before the first document, and when someone has dropped it."""
        return self._existing()

    def close(self) -> None:
        """Close the store if this object opened it. Safe to call again."""
        if self._owns_store:
            self._store.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and put them into the collection; return their ids, in order.

        ``metadatas`` and ``ids`` have one entry per text or are left out; an id of ``None`` becomes a random
        UUID. An id that is there already is replaced; of an id given twice, the last one stays.
        ``batch_size`` embeds and writes so many texts at a time; without it all at once.

        A batch of up to 64 MiB (vectors, texts, metadata and ids) is there whole or not at all, for readers
        and after a crash. A larger one is checked whole and then written piece by piece: a full disk, a
        signal or a crash can leave the first pieces. Batches before one that fails stay.

        Raises ``ValueError`` for lists of different lengths and an embedding that does not return one vector
        per text, ``TypeError`` for one ``str`` in place of several, ``nearstone.InvalidArgument`` for
        vectors, ids and metadata that the store refuses (among them the zero vector under cosine).
        """
        _refuse("add_texts", kwargs)
        _refuse_str("texts", texts)
        _refuse_str("ids", ids)
        texts = list(texts)
        if metadatas is not None and len(metadatas) != len(texts):
            raise ValueError(f"{len(metadatas)} metadatas for {len(texts)} texts")
        if ids is not None and len(ids) != len(texts):
            raise ValueError(f"{len(ids)} ids for {len(texts)} texts")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        keys = [str(uuid.uuid4()) if key is None else key for key in ids or [None] * len(texts)]
        payloads = [
            {TEXT: text, METADATA: dict(metadata or {})}
            for text, metadata in zip(texts, metadatas or [{}] * len(texts), strict=True)
        ]
        step = batch_size or max(len(texts), 1)
        for start in range(0, len(texts), step):
            part = slice(start, start + step)
            vectors = self._embed(texts[part])
            _write(self._existing_or_create(vectors.shape[1]), keys[part], vectors, payloads[part])
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete the documents of these ids, or all if ``ids`` is ``None``. Unknown ids are no error.

        The collection stays, with its dimension, when all are deleted; ``store.drop_collection`` removes it
        as well. Raises ``TypeError`` for one ``str`` in place of a list.
        """
        _refuse("delete", kwargs)
        _refuse_str("ids", ids)
        collection = self._existing()
        if collection is None:
            return True
        keys = list(collection.keys()) if ids is None else _possible(ids)
        for start in range(0, len(keys), DELETE_ROWS):
            collection.delete(keys[start : start + DELETE_ROWS])
        return True

    # Reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of these ids in their order, without those that are not there.

        An id given twice gives its document twice. Raises ``TypeError`` for one ``str`` in place of a list.
        """
        _refuse_str("ids", ids)
        collection = self._existing()
        keys = _possible(ids)
        if collection is None or not keys:
            return []
        return [_document(row) for row in collection.get(keys) if row is not None]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[Document]:
        """Return the ``k`` documents nearest to a text, nearest first.

        ``filter`` is a callable that takes a ``Document``, or a mapping: then each of its keys must be in the
        metadata, with an equal value. It sees the nearest documents first and more of them until ``k`` match
        or there are no more, so a filter that few documents match is evaluated on many. ``ef`` is the number
        of candidates, ``exact`` scans all rows instead of walking the graph.
        """
        _refuse("similarity_search", kwargs)
        hits = self._nearest(self._embed_query(query), k, filter, ef, exact)
        return [_document(hit) for hit in hits]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """Like ``similarity_search``, with the metric's distance of each document: smaller is nearer."""
        _refuse("similarity_search_with_score", kwargs)
        hits = self._nearest(self._embed_query(query), k, filter, ef, exact)
        return [(_document(hit), float(hit.distance)) for hit in hits]

    def similarity_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[Document]:
        """Like ``similarity_search``, for a vector in place of a text."""
        _refuse("similarity_search_by_vector", kwargs)
        return [_document(hit) for hit in self._nearest(embedding, k, filter, ef, exact)]

    def similarity_search_with_score_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """Like ``similarity_search_with_score``, for a vector in place of a text."""
        _refuse("similarity_search_with_score_by_vector", kwargs)
        hits = self._nearest(embedding, k, filter, ef, exact)
        return [(_document(hit), float(hit.distance)) for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[Document]:
        """Return ``k`` documents that are near to a text and unlike each other.

        Out of the ``fetch_k`` nearest (at least ``k``), documents are picked one by one, each time the one
        with the largest ``lambda_mult * cos(it, query) - (1 - lambda_mult) * max cos(it, picked)`` (Carbonell
        and Goldstein, 1998). A ``lambda_mult`` of 1 looks at nearness alone, 0 at variety alone.
        """
        _refuse("max_marginal_relevance_search", kwargs)
        return self._varied(self._embed_query(query), k, fetch_k, lambda_mult, filter, ef, exact)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> list[Document]:
        """Like ``max_marginal_relevance_search``, for a vector in place of a text."""
        _refuse("max_marginal_relevance_search_by_vector", kwargs)
        return self._varied(embedding, k, fetch_k, lambda_mult, filter, ef, exact)

    @classmethod
    def from_texts(
        cls: type[Self],
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a vector store and add texts to it; ``kwargs`` are those of the constructor."""
        made = cls(embedding, **kwargs)
        try:
            made.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            made.close()
            raise
        return made

    # Below the interface

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance_score_fn or _RELEVANCE[self._metric]

    def _existing(self) -> nearstone.Collection | None:
        """The collection, if there is one now: someone else with the same store may have created or dropped
        it since the last call."""
        try:
            found = self._store.collection(self._name)
        except nearstone.NotFound:
            return None
        if found.key_type != "str" or found.metric != self._metric:
            raise nearstone.InvalidArgument(
                f"the collection {self._name!r} has {found.key_type} keys and the metric {found.metric}, "
                f"not str keys and {self._metric}"
            )
        return found

    def _existing_or_create(self, dim: int) -> nearstone.Collection:
        with self._creating:
            found = self._existing()
            if found is None:
                found = self._store.collection_or_create(
                    self._name,
                    dim,
                    metric=self._metric,
                    keys="str",
                    m=self._m,
                    ef_construction=self._ef_construction,
                )
            return found

    def _embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        vectors = np.asarray(self._embedding.embed_documents(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"the embedding returned an array of shape {vectors.shape} for {len(texts)} texts"
            )
        return vectors

    def _embed_query(self, query: str) -> Sequence[float] | None:
        """The vector of a query; None when there is nothing to search, and so nothing to embed, which can be
        slow or paid for."""
        return None if self._existing() is None else self._embedding.embed_query(query)

    def _nearest(
        self,
        vector: Sequence[float] | None,
        k: int,
        filter: Filter | None,
        ef: int | None,
        exact: bool,
        *,
        vectors: bool = False,
    ) -> list[nearstone.Hit]:
        """The hits of a query; none for one that was not embedded because there was nothing to search then,
        whatever has been added since."""
        _check_k(k)
        accepts = None if filter is None else _predicate(filter)
        collection = None if vector is None else self._existing()
        if collection is None:
            return []
        query = np.asarray(vector, dtype=np.float32)
        if query.ndim != 1:
            raise ValueError(f"a query is one vector, not an array of shape {query.shape}")
        ef = ef or self._ef
        if accepts is None:
            return list(collection.search(query, k, ef=ef, exact=exact, vectors=vectors))
        # All rounds see the same rows, so a verdict, once given, stands, and the last round sees every row.
        verdicts: dict[str, bool] = {}
        with self._store.snapshot() as snapshot:
            view = collection.at(snapshot)
            live = len(view)
            fetch = max(OVERFETCH * k, FETCH_MIN)
            while live:
                matching = []
                for hit in view.search(query, min(fetch, live), ef=ef, exact=exact, vectors=vectors):
                    if hit.key not in verdicts:
                        verdicts[hit.key] = bool(accepts(_document(hit)))
                    if verdicts[hit.key]:
                        matching.append(hit)
                if len(matching) >= k or fetch >= live:
                    return matching[:k]
                fetch *= GROWTH
            return []

    def _varied(
        self,
        vector: Sequence[float] | None,
        k: int,
        fetch_k: int,
        lambda_mult: float,
        filter: Filter | None,
        ef: int | None,
        exact: bool,
    ) -> list[Document]:
        _check_k(k)
        if not 0.0 <= lambda_mult <= 1.0:
            raise ValueError(f"lambda_mult is between 0 and 1, not {lambda_mult}")
        hits = self._nearest(vector, max(k, fetch_k), filter, ef, exact, vectors=True)
        if vector is None or not hits:
            return []
        vectors = np.stack([hit.vector for hit in hits])
        return [_document(hits[index]) for index in _diverse(vector, vectors, k, lambda_mult)]


def _write(
    collection: nearstone.Collection,
    keys: list[str],
    vectors: npt.NDArray[np.float32],
    payloads: list[dict[str, Any]],
) -> None:
    """Upserts rows in one commit where they fit into one, otherwise in several."""
    if vectors.nbytes <= COMMIT_BYTES:
        try:
            collection.upsert(keys, vectors, payloads, atomic=True)
            return
        except nearstone.InvalidArgument:
            # Nothing was written. Either the rows are too many bytes for one commit, or one of them is
            # refused, and will be below, before anything is written.
            pass
    collection.upsert(keys, vectors, payloads)


def _possible(ids: Iterable[str]) -> list[str]:
    """The ids without the strings that can be nobody's. What is no string is left to the store to refuse."""
    return [key for key in ids if not isinstance(key, str) or _is_key(key)]


def _is_key(text: str) -> bool:
    try:
        return 1 <= len(text.encode()) <= KEY_BYTES
    except UnicodeEncodeError:
        # Half of a surrogate pair.
        return False


def _refuse_str(name: str, value: object) -> None:
    """A str is a sequence of str as well: its characters would be taken for ids or texts."""
    if isinstance(value, str):
        raise TypeError(f"{name} is the str {value[:24]!r}: it must be a list of them")


def _refuse(method: str, kwargs: Mapping[str, Any]) -> None:
    """LangChain's signatures take any keyword; one that would be ignored is a mistake worth hearing of."""
    if kwargs:
        raise TypeError(f"{method}() got unexpected keywords: {', '.join(sorted(kwargs))}")


def _check_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"k must be at least 0, not {k}")


def _document(row: nearstone.Hit | nearstone.Row) -> Document:
    payload = row.payload
    if payload is None or not isinstance(payload.get(TEXT), str):
        raise ValueError(
            f"the row {row.key!r} has no {TEXT!r} in its payload: it was not added as a document"
        )
    return Document(id=row.key, page_content=payload[TEXT], metadata=payload.get(METADATA) or {})


def _predicate(filter: Filter) -> Callable[[Document], bool]:
    if isinstance(filter, Mapping):
        wanted = dict(filter)

        def equal(document: Document) -> bool:
            metadata = document.metadata
            return all(key in metadata and metadata[key] == value for key, value in wanted.items())

        return equal
    if callable(filter):
        return filter
    raise TypeError(f"filter is a callable on Document or a mapping, not {type(filter).__name__}")


def _diverse(
    query: Sequence[float], vectors: npt.NDArray[np.float32], k: int, lambda_mult: float
) -> list[int]:
    """Indices of ``min(k, n)`` of ``vectors`` (n, dim), as maximal marginal relevance picks them."""
    units = _unit(vectors)
    relevance = units @ _unit(np.asarray(query, dtype=np.float32))
    redundancy = np.full(len(units), -np.inf, dtype=np.float32)
    score = relevance.copy()
    picked: list[int] = []
    for _ in range(min(k, len(units))):
        best = int(np.argmax(score))
        picked.append(best)
        redundancy = np.maximum(redundancy, units @ units[best])
        score = lambda_mult * relevance - (1.0 - lambda_mult) * redundancy
        score[picked] = -np.inf
    return picked


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # A zero vector has no direction: it is like nothing.
    return np.asarray(vectors / np.where(lengths == 0.0, 1.0, lengths), dtype=np.float32)


def _cut(score: float) -> float:
    return min(1.0, max(0.0, score))


_RELEVANCE: dict[str, Callable[[float], float]] = {
    "cosine": lambda distance: _cut(1.0 - distance),
    # Rounding can leave a squared distance a hair below zero.
    "l2": lambda distance: 1.0 / (1.0 + math.sqrt(max(0.0, distance))),
    "ip": lambda distance: _cut(-distance),
}

__all__ = ["NearstoneVectorStore"]
