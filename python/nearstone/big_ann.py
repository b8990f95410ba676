"""Nearstone as an algorithm of the streaming track of big-ann-benchmarks
(https://github.com/harsha-simhadri/big-ann-benchmarks, NeurIPS 2023).

A runbook there is a list of steps: insert a range of rows, delete a range, replace rows, search with all
queries. The runner calls one method per step and times the whole. ``NearstoneStreaming`` has these methods,
without importing that project. To register it, add a folder ``neurips23/streaming/nearstone`` with a wheel of
Nearstone (``pip wheel --no-deps ./python`` makes one in a checkout) and three files:

``nearstone_streaming.py``::

    from nearstone.big_ann import NearstoneStreaming

``Dockerfile``::

    FROM neurips23
    COPY neurips23/streaming/nearstone/nearstone-*.whl /tmp/
    RUN pip install /tmp/nearstone-*.whl

``config.yaml``, with one such entry per dataset::

    msturing-30M-clustered:
      nearstone:
        docker-tag: neurips23-streaming-nearstone
        module: neurips23.streaming.nearstone.nearstone_streaming
        constructor: NearstoneStreaming
        base-args: ["@metric"]
        run-groups:
          base:
            args: |
              [{"M": 16, "efConstruction": 200}]
            query-args: |
              [{"ef": 128}]

One group of query arguments per entry: the runner plays the runbook once per group into the same index, so a
second group would not start from an empty one.

What always holds: when ``insert``, ``replace`` or ``delete`` returns, its rows are durable (in a folder) and
the next search sees exactly them. There is no capacity: ``max_pts`` is not needed. Every type of row is kept
as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import nearstone
from nearstone.ann_benchmarks import DEFAULTS, Scratch, resident_kib, upsert_all, with_defaults

METRICS = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}
DTYPES = ("float32", "uint8", "int8")
# `link`: put rows into the graph at the end of each insert. Without it a background thread does, and a search
# that comes earlier scans the rows that are not linked yet.
STREAMING_DEFAULTS: dict[str, Any] = {**DEFAULTS, "link": True}
QUERY_DEFAULTS: dict[str, Any] = {"ef": None, "threads": None}


class NearstoneStreaming:
    """One collection, as the streaming track sees an algorithm.

    ``metric`` is ``"euclidean"``, ``"angular"`` or ``"ip"``. ``index_params`` are those of
    ``nearstone.ann_benchmarks.Nearstone``, and ``link``: whether ``insert`` ends with all rows in the graph
    (True).

    Raises ``ValueError`` for another metric or parameter.
    """

    def __init__(self, metric: str, index_params: Mapping[str, Any] | None = None) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric!r}")
        self.metric = metric
        self._param = with_defaults(index_params, STREAMING_DEFAULTS)
        self._query = dict(QUERY_DEFAULTS)
        self._scratch: Scratch | None = None
        self._collection: nearstone.Collection | None = None
        self.res: npt.NDArray[np.int64] | None = None
        self.query_dists: npt.NDArray[np.float32] | None = None

    def track(self) -> str:
        """Return the name of the track."""
        return "stream"

    def setup(self, dtype: str, max_pts: int, ndims: int) -> None:
        """Start with an empty collection of ``ndims`` dimensions; ``max_pts`` is not needed."""
        if str(np.dtype(dtype)) not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        self.done()
        param = self._param
        self._scratch = Scratch(param["durable"], param["folder"], param["store"])
        self._collection = self._scratch.store.create_collection(
            "big-ann",
            ndims,
            metric=METRICS[self.metric],  # type: ignore[arg-type]
            keys="u64",
            m=param["M"],
            ef_construction=param["efConstruction"],
        )

    def insert(self, X: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Insert the rows of ``X`` (n, dim) under ``ids`` (n,); rows that are there already are replaced."""
        collection = self._set_up()
        rows = np.ascontiguousarray(X, dtype=np.float32)
        keys = _ids(ids)
        if rows.ndim != 2 or len(rows) != len(keys):
            raise ValueError(f"{len(keys)} ids for an array of shape {rows.shape}")
        if len(keys) == 0:
            return
        if len(np.unique(keys)) == len(keys):
            upsert_all(collection, keys, rows, self._param["threads"])
        else:
            # In one call the last row under an id is the one that stays; in slices it could be any.
            collection.upsert(keys, rows)
        if self._param["link"]:
            collection.link(self._param["threads"])

    def replace(self, X: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Replace the rows under ``ids`` (n,) by those of ``X`` (n, dim)."""
        self.insert(X, ids)

    def delete(self, ids: npt.ArrayLike) -> None:
        """Delete the rows under ``ids`` (n,); ids that are not there are no error."""
        collection = self._set_up()
        keys = _ids(ids)
        if len(keys):
            collection.delete(keys)

    def set_query_arguments(self, query_args: Mapping[str, Any]) -> None:
        """Use ``ef`` candidates on so many ``threads`` in the searches that follow."""
        self._query = with_defaults(query_args, QUERY_DEFAULTS)

    def query(self, X: npt.ArrayLike, k: int) -> None:
        """Search the ``k`` nearest rows of every row of ``X`` (queries, dim); ``get_results`` has their ids.

        ``res`` and ``query_dists`` are of shape (queries, k). With fewer than ``k`` rows the rest is -1 and
        infinity.
        """
        queries = np.ascontiguousarray(X, dtype=np.float32)
        if queries.ndim != 2:
            raise ValueError(f"queries are a matrix, not an array of shape {queries.shape}")
        hits = self._set_up().search(
            queries, k, ef=self._query["ef"], payloads=False, threads=self._query["threads"]
        )
        found = hits.keys.shape[1]
        self.res = np.full((len(queries), k), -1, dtype=np.int64)
        self.res[:, :found] = hits.keys
        self.query_dists = np.full((len(queries), k), np.inf, dtype=np.float32)
        self.query_dists[:, :found] = hits.distances

    def range_query(self, X: npt.ArrayLike, radius: float) -> None:
        """Searches by radius are not part of the track."""
        raise NotImplementedError("Nearstone has no search by radius")

    def get_results(self) -> npt.NDArray[np.int64]:
        """Return the ids that the last ``query`` found, (queries, k)."""
        if self.res is None:
            raise RuntimeError("get_results comes after query")
        return self.res

    def fit(self, dataset: Any) -> None:
        """The track inserts; nothing is built in advance."""
        raise NotImplementedError("the streaming track inserts its rows step by step")

    def load_index(self, dataset: Any) -> bool:
        """Return False: there is no index to load."""
        return False

    def get_memory_usage(self) -> float:
        """Return the resident memory of this process in KiB, mapped files included."""
        return resident_kib()

    def get_additional(self) -> dict[str, Any]:
        """Return what should be kept with the results: nothing."""
        return {}

    def done(self) -> None:
        """Close the store and remove its folder. Safe to call again."""
        self._collection = None
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def __str__(self) -> str:
        built = f"M={self._param['M']}, efConstruction={self._param['efConstruction']}"
        return f"NearstoneStreaming({built}, ef={self._query['ef']})"

    def _set_up(self) -> nearstone.Collection:
        if self._collection is None:
            raise RuntimeError("steps come after setup and before done")
        return self._collection


def _ids(ids: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    given = np.asarray(ids)
    if given.ndim != 1:
        raise ValueError(f"ids are a list, not an array of shape {given.shape}")
    if given.size == 0:
        return np.empty(0, dtype=np.uint64)
    if not np.issubdtype(given.dtype, np.integer):
        raise TypeError(f"ids are integers, not {given.dtype}")
    if given.min() < 0:
        raise ValueError(f"ids are not negative, {given.min()} is")
    return given.astype(np.uint64)


__all__ = ["NearstoneStreaming"]
