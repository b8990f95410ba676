"""``Index`` and ``BFIndex`` of the hnswlib 0.8 Python package, over Nearstone: change the import and go on.

::

    from nearstone.compat import hnswlib            # instead of: import hnswlib

    index = hnswlib.Index(space="cosine", dim=384)
    index.load_index("articles.bin")                # a file that hnswlib saved; its graph is built again
    labels, distances = index.knn_query(queries, k=10)

    # Durable, in a folder instead of memory: opening the path again finds everything.
    index = hnswlib.Index(space="cosine", dim=384, path="articles.near")
    if not index.max_elements:
        index.init_index(max_elements=1_000_000)
    index.add_items(vectors, ids)

How it works. An index is a Nearstone store with a collection ``items`` of the rows that searches see.
`mark_deleted` moves a row, in one batch, into a second collection ``deleted``, whose graph is as small as
can be, and `unmark_deleted` moves it back. A store in a folder has a third collection, ``hnswlib``, with
one record of what the rows don't say: capacity, M, the next label. Distances are hnswlib's: squared
Euclidean for ``l2``, ``1 - dot`` for ``ip``, and the same over normalised rows for ``cosine``. Zero vectors
are accepted under cosine, as hnswlib does: they stay zero, at distance 1 from everything.

`BFIndex` is a store in memory, without threads behind, that is searched exactly. While more than 2,000 rows
wait to be linked, calls that add rows link some, into a graph as small as can be, which exact searches don't
walk. Every vector is there twice, as a row and in the store's log. Rows that were replaced or deleted keep
their memory, until there are more of them than of live rows, and more than 10,000: then the live rows are
copied into a new store, and both stores are there until that is done.

What always holds: a row is in ``items`` or in ``deleted``, never in both or in none on its way; a call that
raises for its arguments or for lack of capacity has changed nothing; the rows of a durable index are on the
disk when a call returns, and a load into it is there whole or not at all. Large matrices are added in
several batches, of which a crash may leave the first ones.

What differs from hnswlib:

- Rows and queries with NaN or an infinity are refused with ``ValueError``, rows in files with
  ``RuntimeError``. Calls before `init_index` or `load_index` raise ``RuntimeError``, where hnswlib's process
  ends. So does a query of a wrong dimension.
- While `load_index` replaces the rows of an index, calls that write on other threads wait for it and then
  write to the new rows. Searches go on meanwhile: in memory they answer from the old rows or the new; in a
  folder, where the old rows are dropped, a `knn_query` or `get_items` that had begun before may raise
  ``nearstone.NotFound`` or ``RuntimeError`` instead, and can be called again.
- `add_items` beyond the capacity adds nothing; hnswlib adds the rows that fit. With ``replace_deleted`` a
  label that is there is updated in place, and the deleted rows with the smallest labels are given up first.
- ``M`` is shown as given; the graph is built with it clamped to 4..64, and ``ef_construction`` to at most
  10,000. ``random_seed`` is only kept. ``num_threads`` beyond the number of cores that the process may use
  counts as that number.
- A ``filter`` is asked at most once per label and call. It must not use the index it filters for writing.
- `BFIndex.knn_query` normalises queries under cosine; hnswlib's does not, so that its distances depend on
  their length.
- `get_items` refuses a matrix of labels with more than one column, of which hnswlib reads only the first
  few labels.
- Saved files are of a format of their own (see `index_file_size`), checked when they are loaded and
  replaced in one step when they are written; hnswlib can't read them. `load_index` reads them and those
  that hnswlib 0.3.4 to 0.8 saved on 64-bit little-endian machines, of both classes. A file that is cut,
  damaged or something else is a ``RuntimeError`` that says so. Pickles of hnswlib can't be read: pickles
  name the class that made them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from operator import index as as_int
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

import nearstone
from nearstone._cores import cores
from nearstone.compat import _hnswlib_file as files

__all__ = ["BFIndex", "Index", "SavedIndex", "read_index"]

SavedIndex = files.Saved

Labels: TypeAlias = npt.NDArray[np.uint64]
Vectors: TypeAlias = npt.NDArray[np.float32]
Filter: TypeAlias = Callable[[int], bool]
_Exact: TypeAlias = tuple[nearstone.Store, nearstone.Collection]

_EF_DEFAULT = 10
_M_MIN, _M_MAX = 4, 64
_BEAM_MAX = 10_000
_DIM_MAX = 65_536
_SIZE_MAX = (1 << 64) - 1
_STATE_VERSION = 1
_META = "hnswlib"
_META_FORMAT = 1
_META_KEY = "index"
# Rows that may wait for the background thread before a call links them itself: scanning so many costs a
# search about as much as its walk. A call that links a single row can wait for that thread, which takes many
# times as long as adding the row.
_UNLINKED_MAX = 1000
# Queries from which on it pays to copy the rows that pass a filter.
_QUERIES_FEW = 4
# A BFIndex is copied into a new store when it has more dead rows than live ones, and more than so many.
_DEAD_MAX = 10_000
# hnswlib keeps all rows in memory and never waits for room.
_MEMORY_BUDGET = 1 << 42


class _Rows:
    """One generation of an index's rows: the collections of live and of deleted ones."""

    def __init__(
        self, store: nearstone.Store, items: nearstone.Collection, deleted: nearstone.Collection
    ) -> None:
        self.store = store
        self.items = items
        self.deleted = deleted

    @classmethod
    def create(
        cls, store: nearstone.Store, space: str, dim: int, m: int, beam: int, generation: int = 0
    ) -> _Rows:
        # Rows are normalised before they get here, so that "ip" gives the cosine, and zero vectors are no
        # exception.
        metric: Literal["l2", "ip"] = "l2" if space == "l2" else "ip"
        m = min(max(m, _M_MIN), _M_MAX)
        items_name, deleted_name = _names(generation)
        items = store.create_collection(
            items_name, dim, metric=metric, keys="u64", m=m, ef_construction=min(max(beam, m), _BEAM_MAX)
        )
        # Nobody searches these: the cheapest graph there is.
        deleted = store.create_collection(
            deleted_name, dim, metric="l2", keys="u64", m=_M_MIN, ef_construction=_M_MIN
        )
        return cls(store, items, deleted)

    @classmethod
    def existing(cls, store: nearstone.Store, generation: int) -> _Rows:
        items_name, deleted_name = _names(generation)
        return cls(store, store.collection(items_name), store.collection(deleted_name))

    def __len__(self) -> int:
        return len(self.items) + len(self.deleted)

    def fill(self, saved: files.Saved) -> None:
        """Puts the rows of a file or a pickle into these empty collections. Not atomic."""
        for collection, labels, vectors in (
            (self.items, saved.labels, saved.vectors),
            (self.deleted, saved.deleted_labels, saved.deleted_vectors),
        ):
            if len(labels):
                collection.upsert(labels, vectors)

    def read(
        self,
    ) -> tuple[tuple[Labels, Iterator[Vectors]], tuple[Labels, Iterator[Vectors]], nearstone.Snapshot]:
        """Labels and blocks of vectors, of the live rows and of the deleted ones, at one moment. The caller
        closes the snapshot when it has taken the blocks."""
        snapshot = self.store.snapshot()
        live, deleted = self.items.at(snapshot), self.deleted.at(snapshot)
        return _read_all(live, self.items.dim), _read_all(deleted, self.items.dim), snapshot


def _names(generation: int) -> tuple[str, str]:
    """The collections of a generation: loading into a durable index fills new ones beside the old."""
    return ("items", "deleted") if generation == 0 else (f"items.{generation}", f"deleted.{generation}")


def _drop(store: nearstone.Store, *generations: int) -> None:
    """Drops the collections of generations, those that are there."""
    there = set(store.collections())
    for generation in generations:
        for name in _names(generation):
            if name in there:
                store.drop_collection(name)


def _read_all(rows: nearstone.CollectionAt, dim: int) -> tuple[Labels, Iterator[Vectors]]:
    labels = np.fromiter(rows.keys(), np.uint64)
    step = files.block_rows(dim)
    return labels, (rows.get_vectors(labels[at : at + step]) for at in range(0, len(labels), step))


def _joined(blocks: Iterable[Vectors], dim: int) -> Vectors:
    return np.concatenate([np.empty((0, dim), np.float32), *blocks])


class _Base:
    """What both classes share: space, dimension, threads, and the checks of arguments."""

    _space: str
    _dim: int
    _num_threads: int
    _lock: threading.RLock

    def _prepare(self, space: str, dim: int) -> None:
        if not isinstance(space, str):
            raise TypeError(f"space is a {type(space).__name__}: it must be a str")
        if space not in files.SPACES:
            raise RuntimeError(f"the space {space!r} is unknown: it must be one of l2, ip, or cosine")
        self._space = space
        self._dim = as_int(dim)
        if not 1 <= self._dim <= _DIM_MAX:
            raise ValueError(f"dim is {self._dim}: it must lie in 1..={_DIM_MAX}")
        self._num_threads = cores()
        self._lock = threading.RLock()

    @property
    def num_threads(self) -> int:
        """Threads that calls use when they are not told, at first as many as there are cores that this
        process may use; 0 or less means these."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, num_threads: int) -> None:
        self._num_threads = as_int(num_threads)

    def set_num_threads(self, num_threads: int) -> None:
        """Sets `num_threads`."""
        self._num_threads = as_int(num_threads)

    def _threads(self, num_threads: int, rows: int) -> int:
        most = cores()
        threads = as_int(num_threads)
        if threads <= 0:
            threads = self._num_threads if self._num_threads > 0 else most
        # Few rows are done before threads have started.
        return 1 if rows <= 4 * threads else min(threads, most)

    def _matrix(self, data: npt.ArrayLike) -> Vectors:
        """Rows or queries as a matrix, normalised under cosine."""
        array = np.ascontiguousarray(data, dtype=np.float32)
        # ascontiguousarray makes a vector of a scalar.
        if array.ndim not in (1, 2) or np.ndim(data) == 0:
            raise RuntimeError(f"the data has {np.ndim(data)} dimensions: it must be a vector or a matrix")
        if array.ndim == 1:
            array = array[np.newaxis, :]
        if array.shape[1] != self._dim:
            raise RuntimeError(f"the vectors have dimension {array.shape[1]}: the index has {self._dim}")
        return _normalised(array) if self._space == "cosine" else array

    def _labels_for(self, ids: npt.ArrayLike | None, rows: int, first: int) -> Labels:
        if ids is None:
            if first + rows > _SIZE_MAX:
                raise RuntimeError(f"{rows} labels from {first} on pass the largest label")
            return np.arange(first, first + rows, dtype=np.uint64)
        labels = _as_labels(ids)
        if not (labels.shape == (rows,) or (labels.ndim == 0 and rows == 1)):
            raise RuntimeError(f"the labels have shape {labels.shape}: there are {rows} vectors")
        return labels.reshape(rows)

    def _search(
        self,
        items: nearstone.Collection,
        data: npt.ArrayLike,
        k: int,
        num_threads: int,
        filter: Filter | None,
        **options: Any,
    ) -> tuple[Labels, Vectors]:
        """The k nearest of each query, or RuntimeError when there are not so many."""
        queries = self._matrix(data)
        k = _size("k", k)
        n = len(queries)
        if n == 0 or k == 0:
            return np.empty((n, k), np.uint64), np.empty((n, k), np.float32)
        if k > len(items):
            raise _too_few(k, len(items))
        # Threads would only wait for each other to ask a filter.
        threads = 1 if filter is not None else self._threads(num_threads, n)
        hits = items.search(
            queries, k, filter=_asked_once(filter), payloads=False, threads=threads, **options
        )
        labels, distances = hits.keys, hits.distances
        if labels.shape[1] < k:
            raise _too_few(k, labels.shape[1])
        if self._space != "l2":
            # Nearstone's is the negated product.
            distances = np.float32(1) + distances
        return labels, distances


class Index(_Base):
    """An approximate index: hnswlib's ``Index``.

    ``Index(space, dim)`` makes one that lives in memory and has no rows before `init_index` or
    `load_index`; ``space`` is ``"l2"``, ``"ip"`` or ``"cosine"``. With ``path`` (our addition) it lives in
    a Nearstone store in that folder: made at first, later opened again with everything in it; then
    `max_elements` is not 0 and `init_index` must not be called. ``Index(other)`` copies an index,
    ``Index(params)`` takes what `__getstate__` gave.

    Raises ``RuntimeError`` for an unknown space, or a folder with other contents, another space or
    dimension; ``nearstone.Busy`` when another process (or another index of this one) has the folder open.
    """

    def __init__(
        self,
        space: str | Index | Mapping[str, Any] | None = None,
        dim: int | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        index: Index | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(space, Index):
            space, index = None, space
        elif isinstance(space, Mapping):
            space, params = None, space
        given = [source for source in (space, index, params) if source is not None]
        if len(given) != 1 or (space is None) != (dim is None) or (space is None and path is not None):
            raise TypeError("Index takes a space and a dim, with or without a path; or an index; or params")
        if index is not None:
            params = index.__getstate__()[0]
        if params is not None:
            self.__setstate__((params,))
            return
        self._start(cast(str, space), cast(int, dim))
        if path is not None:
            self._open(path)

    def _start(self, space: str, dim: int) -> None:
        self._prepare(space, dim)
        self._rows: _Rows | None = None
        self._folder: nearstone.Store | None = None
        self._generation = -1
        self._ef_first = _EF_DEFAULT
        self._ef = _EF_DEFAULT
        self._max_elements = 0
        self._m = 0
        self._beam = 0
        self._seed = 0
        self._replaceable = False
        self._next_label = 0
        self._unlinked = 0

    # What it is.

    @property
    def space(self) -> str:
        """``"l2"``, ``"ip"`` or ``"cosine"``."""
        return self._space

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self._dim

    @property
    def M(self) -> int:
        """Links per row, as given; 0 before the index is initialised."""
        return self._m

    @property
    def ef_construction(self) -> int:
        """Beam width while a row is linked, at least `M`; 0 before the index is initialised."""
        return self._beam

    @property
    def max_elements(self) -> int:
        """Rows that fit, those marked as deleted among them; 0 before the index is initialised."""
        return self._max_elements

    @property
    def element_count(self) -> int:
        """Rows, those marked as deleted among them; 0 before the index is initialised."""
        return 0 if self._rows is None else len(self._rows)

    @property
    def ef(self) -> int:
        """Beam width of a search; `k` counts when it is larger. Not saved: a loaded or reopened index has
        10."""
        return self._ef

    @ef.setter
    def ef(self, ef: int) -> None:
        self.set_ef(ef)

    @property
    def store(self) -> nearstone.Store | None:
        """The store behind it, None before the index is initialised in memory. Our addition: for reading."""
        if self._folder is not None:
            return self._folder
        return None if self._rows is None else self._rows.store

    def set_ef(self, ef: int) -> None:
        """Sets `ef`."""
        self._ef = self._ef_first = _size("ef", ef)

    def get_max_elements(self) -> int:
        """`max_elements` of an initialised index."""
        self._ready()
        return self._max_elements

    def get_current_count(self) -> int:
        """`element_count` of an initialised index."""
        return len(self._ready())

    def __repr__(self) -> str:
        return f"<hnswlib.Index(space='{self._space}', dim={self._dim})>"

    # Begin and end.

    def init_index(
        self,
        max_elements: int,
        M: int = 16,
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Makes the index ready for rows. RuntimeError when it is already."""
        max_elements, m = _size("max_elements", max_elements), _size("M", M)
        beam, seed = _size("ef_construction", ef_construction), _size("random_seed", random_seed)
        with self._lock:
            if self._rows is not None:
                raise RuntimeError("the index is already initialised")
            m = min(m, 10_000)
            empty = files.Saved(
                kind=files.INDEX,
                space=self._space,
                dim=self._dim,
                max_elements=max_elements,
                labels=np.empty(0, np.uint64),
                vectors=np.empty((0, self._dim), np.float32),
                M=m,
                ef_construction=max(beam, m),
                random_seed=seed,
                allow_replace_deleted=bool(allow_replace_deleted),
            )
            self._take(empty)
            self._ef = self._ef_first

    def close(self) -> None:
        """Closes the store: its folder can be opened again, and later calls raise ``nearstone.Closed``. Our
        addition; it happens by itself when the index is dropped."""
        with self._lock:
            if self.store is not None:
                self.store.close()

    def _ready(self) -> _Rows:
        if self._rows is None:
            raise RuntimeError("the index is not initialised: call init_index or load_index first")
        return self._rows

    def _open(self, path: str | os.PathLike[str]) -> None:
        store = nearstone.open(path)
        try:
            record = self._record_of(store)
            if record is not None and record["generation"] is not None:
                self._generation = record["generation"]
                self._rows = _Rows.existing(store, self._generation)
                self._max_elements = record["max_elements"]
                self._m, self._beam = record["M"], record["ef_construction"]
                self._seed, self._replaceable = record["random_seed"], record["allow_replace_deleted"]
                self._next_label = record["next_label"]
            if record is not None:
                # What a crash in the middle of a load left behind: the rows before it, or those to come.
                _drop(store, self._generation - 1, self._generation + 1)
            self._folder = store
        except BaseException:
            store.close()
            raise

    def _record_of(self, store: nearstone.Store) -> dict[str, Any] | None:
        """The record of what the rows don't say, checked; None for a new store.

        RuntimeError when the store is somebody else's. One without the record has no other collections
        unless it is: the record is written before the first rows have theirs (see `_take`).
        """
        names = store.collections()
        if not names:
            store.create_collection(_META, 1, metric="l2", keys="str", m=_M_MIN, ef_construction=_M_MIN)
        meta = store.collection(_META) if not names or _META in names else None
        ours = meta is not None and (meta.key_type, meta.dim, meta.metric) == ("str", 1, "l2")
        row = meta.get(_META_KEY) if meta is not None and ours else None
        if meta is None or not ours or (row is None and (set(names) > {_META} or len(meta))):
            raise RuntimeError(f"{store.path} holds other collections: {', '.join(sorted(names))}")
        if row is None:
            return None
        record = row.payload or {}
        if record.get("format") != _META_FORMAT:
            raise RuntimeError(
                f"{store.path} holds an index of format {record.get('format')}, not {_META_FORMAT}"
            )
        if (record["space"], record["dim"]) != (self._space, self._dim):
            raise RuntimeError(
                f"{store.path} holds an index with space {record['space']!r} and dim {record['dim']}: "
                f"asked for {self._space!r} and {self._dim}"
            )
        return record

    def _remember(self, batch: nearstone.Batch, **changes: Any) -> None:
        """Adds the record, with changes, to a batch of a durable index."""
        if self._folder is None:
            return
        record = {
            "format": _META_FORMAT,
            "space": self._space,
            "dim": self._dim,
            "generation": self._generation,
            "max_elements": self._max_elements,
            "M": self._m,
            "ef_construction": self._beam,
            "random_seed": self._seed,
            "allow_replace_deleted": self._replaceable,
            "next_label": self._next_label,
        }
        batch.upsert(self._folder.collection(_META), _META_KEY, [0.0], record | changes)

    def _take(self, saved: files.Saved) -> None:
        """Makes the rows and numbers of `saved` this index's, in place of what it has. Only when the new
        rows are there, and recorded in a durable index, does it let go of the old ones."""
        generation = 0 if self._folder is None else self._generation + 1
        store = self._folder or nearstone.in_memory(memory_budget=_MEMORY_BUDGET)
        if self._folder is not None and generation == 0:
            # Before there is any collection of rows: from now on the folder is known to be an index's, and
            # what a crash leaves in it can be dropped.
            batch = store.batch()
            self._remember(batch, generation=None)
            batch.commit()
        # What a load into this generation left when it failed, and the last one if it could not clean up.
        _drop(store, generation, generation - 2)
        rows = _Rows.create(store, self._space, self._dim, saved.M, saved.ef_construction, generation)
        rows.fill(saved)
        numbers = {
            "generation": generation,
            "max_elements": saved.max_elements,
            "M": saved.M,
            "ef_construction": saved.ef_construction,
            "random_seed": saved.random_seed,
            "allow_replace_deleted": saved.allow_replace_deleted,
            "next_label": saved.next_label,
        }
        if self._folder is not None:
            batch = store.batch()
            self._remember(batch, **numbers)
            batch.commit()
        old = self._rows
        self._rows, self._generation = rows, generation
        self._max_elements, self._next_label = saved.max_elements, saved.next_label
        self._m, self._beam = saved.M, saved.ef_construction
        self._seed, self._replaceable = saved.random_seed, saved.allow_replace_deleted
        if old is not None and self._folder is not None:
            for collection in (old.items, old.deleted):
                store.drop_collection(collection.name)
        self._unlinked = 0
        if len(rows.items):
            rows.items.link(self._threads(-1, len(rows.items)))

    # Rows in and out.

    def add_items(
        self,
        data: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        num_threads: int = -1,
        replace_deleted: bool = False,
    ) -> None:
        """Adds rows, or updates those whose label is there.

        ``data`` is a matrix (n, dim), or one vector; ``ids`` are n labels (a scalar for one vector), by
        default the numbers after all rows added so far. ``replace_deleted`` lets new rows take the places
        of rows marked as deleted, which are gone then. Of rows with the same
        label the last one counts. Searches find the rows from now on. The graph has them at return when they
        are many; a few are left to a thread in the background, and scanned until then.

        RuntimeError for wrong shapes, when the capacity does not suffice, for ``replace_deleted`` in an
        index that was not initialised for it, and in one that was, for a label that is marked as deleted
        when ``replace_deleted`` is not set; ValueError for NaN and infinity. Nothing is added then.
        """
        self._ready()
        vectors = self._matrix(data)
        n = len(vectors)
        with self._lock:
            rows = self._ready()
            if replace_deleted and not self._replaceable:
                raise RuntimeError(
                    "replacing deleted rows is not allowed: see allow_replace_deleted of init_index"
                )
            labels = self._labels_for(ids, n, self._next_label)
            if n == 0:
                return
            if not np.isfinite(vectors).all():
                # Before the first of several batches, not in the middle.
                at = int(np.argmin(np.isfinite(vectors).all(axis=1)))
                raise ValueError(f"the vector under label {labels[at]} has a NaN or an infinity")
            restored, victims = self._make_room(rows, labels, bool(replace_deleted))
            # Wraps where hnswlib's counter does.
            next_label = (self._next_label + n) & _SIZE_MAX
            self._write(rows, labels, vectors, restored, victims, next_label)
            waiting = self._count_unlinked(n)
        if waiting:
            self._link(rows, num_threads, waiting)

    def _link(self, rows: _Rows, num_threads: int, waiting: int) -> None:
        # The rows are there. If another thread loads a file now, they are gone, and there is nothing to link.
        with suppress(nearstone.NotFound):
            rows.items.link(self._threads(num_threads, waiting))

    def _count_unlinked(self, rows: int) -> int:
        """Counts rows that were put into ``items``; gives how many to link now, 0 for none."""
        waiting = self._unlinked + rows
        self._unlinked = 0 if waiting >= _UNLINKED_MAX else waiting
        return waiting if waiting >= _UNLINKED_MAX else 0

    def _make_room(self, rows: _Rows, labels: Labels, replace: bool) -> tuple[set[int], list[int]]:
        """Which of the labels are marked as deleted and come back, and which deleted rows give up their
        places. RuntimeError when the rows do not fit."""
        count, gone = len(rows), len(rows.deleted)
        if gone == 0 and count + len(labels) <= self._max_elements:
            return set(), []
        distinct = set(labels.tolist())
        restored = {label for label in distinct if label in rows.deleted} if gone else set()
        if restored and self._replaceable and not replace:
            raise RuntimeError(
                f"label {min(restored)} is marked as deleted: with allow_replace_deleted it can only be "
                "added again with replace_deleted=True"
            )
        new = sum(1 for label in distinct if label not in restored and label not in rows.items)
        victims: list[int] = []
        if replace:
            for label in rows.deleted.keys():
                if len(victims) == new:
                    break
                if label not in restored:
                    victims.append(label)
        if count + new - len(victims) > self._max_elements:
            raise RuntimeError(
                f"{new - len(victims)} rows are new, {count} are there: they exceed the {self._max_elements} "
                "elements that the index was made for (see resize_index)"
            )
        return restored, victims

    def _write(
        self,
        rows: _Rows,
        labels: Labels,
        vectors: Vectors,
        restored: set[int],
        victims: list[int],
        next_label: int,
    ) -> None:
        step = files.block_rows(self._dim)
        for at in range(0, len(labels), step):
            part = slice(at, at + step)
            batch = rows.store.batch()
            batch.upsert(rows.items, labels[part], vectors[part])
            leave = victims[part]
            if restored:
                # In the batch that brings the row, so that it is never in both collections or in none.
                leave = leave + [label for label in labels[part].tolist() if label in restored]
            if leave:
                batch.delete(rows.deleted, np.array(leave, np.uint64))
            if at == 0:
                self._remember(batch, next_label=next_label)
            batch.commit()
            self._next_label = next_label

    def knn_query(
        self, data: npt.ArrayLike, k: int = 1, num_threads: int = -1, filter: Filter | None = None
    ) -> tuple[Labels, Vectors]:
        """The k nearest rows of each query, nearest first.

        ``data`` is a matrix (n, dim), or one vector for n = 1; ``filter`` tells for a label whether its row
        may be found. Gives the labels, uint64 (n, k), and the distances, float32 (n, k). RuntimeError for
        wrong shapes and when fewer than k rows can be found.
        """
        items = self._ready().items
        # A beam wider than all rows finds no more.
        ef = max(1, min(self._ef, len(items)))
        return self._search(items, data, k, num_threads, filter, ef=max(ef, as_int(k)))

    def get_items(
        self, ids: npt.ArrayLike | None = None, return_type: str = "numpy"
    ) -> Vectors | list[list[float]]:
        """The vectors under labels: a matrix (n, dim), or with ``return_type="list"`` lists of floats;
        normalised under cosine. ``ids`` is a sequence of labels or a column of them, as `knn_query` with k
        = 1 gives. No ids, no vectors.

        ValueError for a scalar and for another return type, RuntimeError when a label is not there or
        marked as deleted.
        """
        if return_type not in ("numpy", "list"):
            raise ValueError(f'return_type is {return_type!r}: it must be "numpy" or "list"')
        labels = np.empty(0, np.uint64) if ids is None else _as_labels(ids)
        if labels.ndim == 0 or (labels.ndim > 1 and labels.size != labels.shape[0]):
            raise ValueError(f"the labels have shape {labels.shape}: get_items takes a sequence of labels")
        if labels.size == 0:
            return [] if return_type == "list" else np.empty(0, np.float32)
        items = self._ready().items
        try:
            vectors = items.get_vectors(labels.reshape(-1))
        except nearstone.NotFound as error:
            raise RuntimeError(f"a label is not in the index, or marked as deleted: {error}") from None
        return vectors.tolist() if return_type == "list" else vectors

    def get_ids_list(self) -> list[int]:
        """All labels, those marked as deleted among them, in no order."""
        with self._lock:
            rows = self._ready()
            return [*rows.items.keys(), *rows.deleted.keys()]

    def mark_deleted(self, label: int) -> None:
        """Hides a row from searches; it keeps its place. RuntimeError when there is none or it is hidden
        already."""
        self._move(label, deleted=True)

    def unmark_deleted(self, label: int) -> None:
        """Shows a hidden row again. RuntimeError when there is none or it is not hidden."""
        self._move(label, deleted=False)

    def _move(self, label: int, *, deleted: bool) -> None:
        self._ready()
        label = _size("label", label)
        with self._lock:
            rows = self._ready()
            source, target = (rows.items, rows.deleted) if deleted else (rows.deleted, rows.items)
            row = source.get(label)
            if row is None:
                if label not in target:
                    raise RuntimeError(f"label {label} is not in the index")
                raise RuntimeError(f"label {label} is {'already' if deleted else 'not'} marked as deleted")
            batch = rows.store.batch()
            batch.upsert(target, label, row.vector)
            batch.delete(source, label)
            batch.commit()
            waiting = 0 if deleted else self._count_unlinked(1)
        if waiting:
            self._link(rows, -1, waiting)

    def resize_index(self, new_size: int) -> None:
        """Sets `max_elements`. RuntimeError when more rows are there."""
        self._ready()
        new_size = _size("new_size", new_size)
        with self._lock:
            rows = self._ready()
            if new_size < len(rows):
                raise RuntimeError(f"the index has {len(rows)} rows: it can't be resized to {new_size}")
            if self._folder is not None:
                batch = self._folder.batch()
                self._remember(batch, max_elements=new_size)
                batch.commit()
            self._max_elements = new_size

    # Files and pickles.

    def index_file_size(self) -> int:
        """Bytes of the file that `save_index` would write: the rows and a little; the graph is not in it."""
        return files.size_of(self._dim, len(self._ready()))

    def save_index(self, path_to_index: str | os.PathLike[str]) -> None:
        """Writes everything into one file, complete and on the disk at return; until then an older file
        stays. Writing goes on meanwhile, and is not in the file. OSError when it can't be written."""
        with self._lock:
            rows = self._ready()
            head = self._head()
            live, deleted, snapshot = rows.read()
        with snapshot:
            files.write(path_to_index, head, live, deleted)

    def load_index(
        self,
        path_to_index: str | os.PathLike[str],
        max_elements: int = 0,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Takes everything from a file that `save_index` or hnswlib wrote, in place of what is there. The
        capacity is ``max_elements``, or the file's when that is less than the rows. Builds the graph, which
        takes the time of adding all rows.

        The rows are taken as they are, also when another space saved them. RuntimeError when the file can't
        be read or is not an index of this dimension; the index stays as it was.
        """
        max_elements = _size("max_elements", max_elements)
        saved = files.read(path_to_index, files.INDEX, self._dim)
        count = len(saved.labels) + len(saved.deleted_labels)
        if max_elements >= count and max_elements > 0:
            saved.max_elements = max_elements
        saved.allow_replace_deleted = bool(allow_replace_deleted)
        with self._lock:
            if self._rows is not None:
                print(
                    "Warning: load_index replaces the rows of an index that was initialised.", file=sys.stderr
                )
            self._take(saved)
            self._ef = _EF_DEFAULT

    def _head(self) -> files.Saved:
        return files.Saved(
            kind=files.INDEX,
            space=self._space,
            dim=self._dim,
            max_elements=self._max_elements,
            labels=np.empty(0, np.uint64),
            vectors=np.empty((0, self._dim), np.float32),
            next_label=self._next_label,
            M=self._m,
            ef_construction=self._beam,
            random_seed=self._seed,
            allow_replace_deleted=self._replaceable,
        )

    def __getstate__(self) -> tuple[dict[str, Any]]:
        """For pickle and copy: everything, so that an index over a folder comes back as one in memory."""
        with self._lock:
            state: dict[str, Any] = {
                "ser_version": _STATE_VERSION,
                "space": self._space,
                "dim": self._dim,
                "index_inited": self._rows is not None,
                "num_threads": self._num_threads,
                "ef": self._ef,
            }
            if self._rows is None:
                return (state,)
            state |= {
                "max_elements": self._max_elements,
                "M": self._m,
                "ef_construction": self._beam,
                "seed": self._seed,
                "allow_replace_deleted": self._replaceable,
                "next_label": self._next_label,
            }
            live, deleted, snapshot = self._rows.read()
        with snapshot:
            state["labels"], state["vectors"] = live[0], _joined(live[1], self._dim)
            state["deleted_labels"], state["deleted_vectors"] = deleted[0], _joined(deleted[1], self._dim)
        return (state,)

    def __setstate__(self, state: tuple[Mapping[str, Any]]) -> None:
        if not isinstance(state, tuple) or len(state) != 1:
            raise RuntimeError("this is no state of an index")
        (params,) = state
        version = params.get("ser_version")
        if version != _STATE_VERSION or "data_level0" in params:
            raise RuntimeError(f"the state is of version {version} or of another library: it can't be taken")
        self._start(params["space"], params["dim"])
        self._num_threads = params["num_threads"]
        if params["index_inited"]:
            self._take(
                files.Saved(
                    kind=files.INDEX,
                    space=self._space,
                    dim=self._dim,
                    max_elements=params["max_elements"],
                    labels=params["labels"],
                    vectors=params["vectors"],
                    deleted_labels=params["deleted_labels"],
                    deleted_vectors=params["deleted_vectors"],
                    next_label=params["next_label"],
                    M=params["M"],
                    ef_construction=params["ef_construction"],
                    random_seed=params["seed"],
                    allow_replace_deleted=params["allow_replace_deleted"],
                )
            )
        self._ef = self._ef_first = params["ef"]


class BFIndex(_Base):
    """An exact index in memory, which compares a query with every row: hnswlib's ``BFIndex``.

    A row takes twice the bytes of its vector and a little; see the module about those that are gone.
    """

    def __init__(self, space: str, dim: int) -> None:
        self._prepare(space, dim)
        # Replaced together, so that who takes both without the lock has two that fit.
        self._rows: _Exact | None = None
        # Rows that were replaced or deleted, in the log and in memory of the store.
        self._dead = 0
        self._max_elements = 0
        self._next_label = 0

    def __repr__(self) -> str:
        return f"<hnswlib.BFIndex(space='{self._space}', dim={self._dim})>"

    def init_index(self, max_elements: int) -> None:
        """Makes the index ready for rows. RuntimeError when it is already."""
        max_elements = _size("max_elements", max_elements)
        with self._lock:
            if self._rows is not None:
                raise RuntimeError("the index is already initialised")
            self._rows = _exact(self._space, self._dim)
            self._max_elements = max_elements

    def _ready(self) -> _Exact:
        if self._rows is None:
            raise RuntimeError("the index is not initialised: call init_index or load_index first")
        return self._rows

    def get_max_elements(self) -> int:
        """Rows that fit."""
        self._ready()
        return self._max_elements

    def get_current_count(self) -> int:
        """Rows that are there."""
        return len(self._ready()[1])

    def add_items(self, data: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> None:
        """Adds rows, or updates those whose label is there: as `Index.add_items`. RuntimeError for wrong
        shapes and when the capacity does not suffice, ValueError for NaN and infinity; nothing is added
        then."""
        self._ready()
        vectors = self._matrix(data)
        with self._lock:
            _, items = self._ready()
            labels = self._labels_for(ids, len(vectors), self._next_label)
            if len(labels) == 0:
                return
            if not np.isfinite(vectors).all():
                raise ValueError("a vector has a NaN or an infinity")
            count = len(items)
            if count + len(labels) > self._max_elements:
                new = sum(1 for label in set(labels.tolist()) if label not in items)
                if count + new > self._max_elements:
                    raise RuntimeError(
                        f"{new} rows are new, {count} are there: they exceed the {self._max_elements} "
                        "elements that the index was made for"
                    )
            try:
                written = items.upsert(labels, vectors).upserted
            except BaseException:
                # Interrupted: at most all of them are there, and replaced others.
                self._dead += len(labels)
                raise
            self._dead += written - (len(items) - count)
            self._next_label = (self._next_label + len(labels)) & _SIZE_MAX
            self._shed()

    def delete_vector(self, label: int) -> None:
        """Deletes a row and frees its place; does nothing when there is none."""
        self._ready()
        label = _size("label", label)
        with self._lock:
            _, items = self._ready()
            # A delete that finds nothing would go into the log all the same.
            if label in items:
                items.delete(label)
                self._dead += 1
                self._shed()

    def _shed(self) -> None:
        """Moves the live rows to a new store when the dead ones outnumber them. Each copied row stands for
        one that died since the last time, so this at most doubles the work of the calls that write."""
        store, items = self._ready()
        if self._dead > max(len(items), _DEAD_MAX):
            with store.snapshot() as snapshot:
                rows = items.at(snapshot)
                fresh = _copied(rows, np.fromiter(rows.keys(), np.uint64), self._space, self._dim)
            # Searches that are under way keep the old store until they end.
            self._rows, self._dead = fresh, 0

    def knn_query(
        self, data: npt.ArrayLike, k: int = 1, num_threads: int = -1, filter: Filter | None = None
    ) -> tuple[Labels, Vectors]:
        """The k nearest rows of each query, exactly: as `Index.knn_query`."""
        store, items = self._ready()
        if filter is None or len(queries := self._matrix(data)) <= _QUERIES_FEW:
            return self._search(items, data, k, num_threads, filter, exact=True)
        # Every query meets every row: asking once and searching in a copy of those that pass is much faster.
        with store.snapshot() as snapshot:
            rows = items.at(snapshot)
            labels = np.fromiter((label for label in rows.keys() if filter(label)), np.uint64)
            _, passing = _copied(rows, labels, self._space, self._dim)
        return self._search(passing, queries, k, num_threads, None, exact=True)

    def save_index(self, path_to_index: str | os.PathLike[str]) -> None:
        """Writes everything into one file: as `Index.save_index`."""
        with self._lock:
            store, items = self._ready()
            snapshot = store.snapshot()
            live = _read_all(items.at(snapshot), self._dim)
            head = files.Saved(
                kind=files.BF_INDEX,
                space=self._space,
                dim=self._dim,
                max_elements=self._max_elements,
                labels=np.empty(0, np.uint64),
                vectors=np.empty((0, self._dim), np.float32),
                next_label=self._next_label,
            )
        with snapshot:
            files.write(path_to_index, head, live, (np.empty(0, np.uint64), ()))

    def load_index(self, path_to_index: str | os.PathLike[str], max_elements: int = 0) -> None:
        """Takes everything from a file that `save_index` or hnswlib's ``BFIndex`` wrote: as
        `Index.load_index`."""
        max_elements = _size("max_elements", max_elements)
        saved = files.read(path_to_index, files.BF_INDEX, self._dim)
        with self._lock:
            if self._rows is not None:
                print(
                    "Warning: load_index replaces the rows of an index that was initialised.", file=sys.stderr
                )
            fresh = _exact(self._space, self._dim)
            if len(saved.labels):
                fresh[1].upsert(saved.labels, saved.vectors)
            self._rows, self._dead = fresh, 0
            self._max_elements = (
                max_elements if max_elements >= max(1, len(saved.labels)) else saved.max_elements
            )
            self._next_label = saved.next_label


def read_index(path: str | os.PathLike[str]) -> SavedIndex:
    """Reads the file of an ``Index``, ours or hnswlib's, without making one: labels, vectors, those marked
    as deleted, and the numbers it was made with. Our addition, for moving the rows elsewhere. RuntimeError
    as `Index.load_index`."""
    return files.read(path, files.INDEX)


def _exact(space: str, dim: int) -> _Exact:
    """A store in memory for exact searches: nothing works behind, and what writers link is soon linked."""
    store = nearstone.in_memory(background="manual", memory_budget=_MEMORY_BUDGET)
    metric: Literal["l2", "ip"] = "l2" if space == "l2" else "ip"
    items = store.create_collection("items", dim, metric=metric, keys="u64", m=_M_MIN, ef_construction=_M_MIN)
    return store, items


def _copied(rows: nearstone.CollectionAt, labels: Labels, space: str, dim: int) -> _Exact:
    """A store like `_exact` with the rows under these labels."""
    fresh = _exact(space, dim)
    step = files.block_rows(dim)
    for at in range(0, len(labels), step):
        fresh[1].upsert(labels[at : at + step], rows.get_vectors(labels[at : at + step]))
    return fresh


def _size(name: str, value: int) -> int:
    """A number as hnswlib's signatures want it: TypeError for anything that is not an integer of 0..2**64."""
    number = as_int(value)
    if not 0 <= number <= _SIZE_MAX:
        raise TypeError(f"{name} is {number}: it must lie in 0..2**64")
    return number


def _as_labels(ids: npt.ArrayLike) -> Labels:
    """Labels of any shape. Negative integers count from 2**64 down, as hnswlib's do."""
    array = np.asarray(ids)
    if array.dtype.kind in "iub":
        return array.astype(np.uint64, copy=False)
    if array.size == 0:
        return np.empty(array.shape, np.uint64)
    if array.dtype.kind == "f" and isinstance(ids, np.ndarray):
        if not (np.isfinite(array) & (array == np.trunc(array)) & (np.abs(array) < 2.0**63)).all():
            raise ValueError("a label is not a whole number below 2**63")
        return array.astype(np.int64).astype(np.uint64)
    # numpy makes floats of a list with integers below and above 2**63.
    flat = np.asarray(ids, dtype=object).reshape(-1)
    try:
        numbers = [as_int(label) for label in flat]
    except TypeError:
        raise TypeError("a label is not an integer") from None
    if not all(-(1 << 63) <= number <= _SIZE_MAX for number in numbers):
        raise ValueError("a label does not fit 64 bits")
    return np.array([number & _SIZE_MAX for number in numbers], np.uint64).reshape(array.shape)


def _normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; zero rows stay zero. Lengths are summed in double precision: small numbers keep
    their digits."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        unit: Vectors = (vectors / (lengths + 1e-300)[:, np.newaxis]).astype(np.float32)
    return unit


def _asked_once(filter: Filter | None) -> Filter | None:
    """Remembers what the filter said, since a search meets a row more than once and queries meet the same
    rows."""
    if filter is None:
        return None
    asked = filter
    return cache(lambda label: bool(asked(label)))


def _too_few(wanted: int, found: int) -> RuntimeError:
    return RuntimeError(f"{wanted} neighbours were asked for and {found} can be returned")
