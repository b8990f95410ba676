"""Nearstone as an algorithm of ann-benchmarks (https://github.com/erikbern/ann-benchmarks).

That project builds an index once per set of build arguments (``fit``), then searches it with one set of query
arguments after the other, and reads times, recall and memory. ``Nearstone`` has the methods it calls, without
importing it. To register it, add a folder ``ann_benchmarks/algorithms/nearstone`` with a wheel of Nearstone
(``pip wheel --no-deps ./python`` makes one in a checkout) and three files:

``module.py``::

    from nearstone.ann_benchmarks import Nearstone

``Dockerfile``::

    FROM ann-benchmarks
    COPY ann_benchmarks/algorithms/nearstone/nearstone-*.whl /tmp/
    RUN pip install /tmp/nearstone-*.whl

``config.yml``::

    float:
      any:
      - base_args: ['@metric']
        constructor: Nearstone
        disabled: false
        docker_tag: ann-benchmarks-nearstone
        module: ann_benchmarks.algorithms.nearstone
        name: nearstone
        run_groups:
          M-16:
            arg_groups: [{M: 16, efConstruction: 200}]
            args: {}
            query_args: [[10, 20, 40, 80, 160, 320, 640]]

What ``fit`` does: opens a store (a folder in the temporary directory, or in memory), creates one collection,
upserts the matrix with the row numbers as keys, in slices on several threads (writers link rows into the
graph themselves when the background falls behind), links what is left, seals all rows into a file and merges
all files into one. What is measured afterwards is that file. ``done`` closes the store and removes the
folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

import nearstone
from nearstone._cores import cores

METRICS = {"angular": "cosine", "euclidean": "l2"}
SLICE_ROWS = 4096
DEFAULTS: dict[str, Any] = {
    "M": 16,
    "efConstruction": 200,
    "threads": None,
    "durable": True,
    "folder": None,
    "store": {},
}


class Nearstone:
    """One collection, as ann-benchmarks sees an algorithm.

    ``metric`` is ``"angular"`` or ``"euclidean"``. ``method_param`` may have:

    - ``M``, ``efConstruction``: links per row and candidates per insert of the graph (16 and 200);
    - ``threads``: how many build and search a batch (as many as there are cores that the process may use);
      single queries run on the caller's thread;
    - ``durable``: a folder (True, the default) or memory only;
    - ``folder``: where to make that folder, instead of the system's temporary directory;
    - ``store``: a mapping of further arguments of ``nearstone.open`` or ``nearstone.in_memory``.

    Raises ``ValueError`` for another metric or parameter.
    """

    def __init__(self, metric: str, method_param: Mapping[str, Any] | None = None) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric!r}")
        self.metric = metric
        self._param = with_defaults(method_param, DEFAULTS)
        self._ef: int | None = None
        self._scratch: Scratch | None = None
        self._collection: nearstone.Collection | None = None
        self.res: npt.NDArray[np.uint64] | None = None

    def fit(self, X: npt.ArrayLike) -> None:
        """Build the index over the rows of ``X`` (n, dim). A second call starts anew."""
        self.done()
        rows = np.ascontiguousarray(X, dtype=np.float32)
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"fit needs a matrix with at least one row, not an array of shape {rows.shape}")
        param = self._param
        self._scratch = Scratch(param["durable"], param["folder"], param["store"])
        self._collection = self._scratch.store.create_collection(
            "ann-benchmarks",
            rows.shape[1],
            metric=METRICS[self.metric],  # type: ignore[arg-type]
            keys="u64",
            m=param["M"],
            ef_construction=param["efConstruction"],
        )
        upsert_all(self._collection, np.arange(len(rows), dtype=np.uint64), rows, param["threads"])
        self._collection.link(param["threads"])
        self._collection.flush()
        self._collection.compact()

    def set_query_arguments(self, ef: int | None) -> None:
        """Use so many candidates in the queries that follow; ``None`` leaves the choice to the store."""
        self._ef = ef

    def query(self, v: npt.ArrayLike, n: int) -> npt.NDArray[np.uint64]:
        """Return the numbers of the ``min(n, rows)`` rows nearest to ``v`` (dim,), nearest first."""
        keys: npt.NDArray[np.uint64] = (
            self._fitted().search(v, n, ef=self._ef, payloads=False, threads=1).keys
        )
        return keys

    def batch_query(self, X: npt.ArrayLike, n: int) -> None:
        """Search for every row of ``X`` (queries, dim) at once; ``get_batch_results`` has the result."""
        self.res = (
            self._fitted().search(X, n, ef=self._ef, payloads=False, threads=self._param["threads"]).keys
        )

    def get_batch_results(self) -> npt.NDArray[np.uint64]:
        """Return the row numbers that the last ``batch_query`` found, as an array (queries, min(n, rows))."""
        if self.res is None:
            raise RuntimeError("get_batch_results comes after batch_query")
        return self.res

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
        kind = "" if self._param["durable"] else ", in memory"
        built = f"M={self._param['M']}, efConstruction={self._param['efConstruction']}{kind}"
        return f"Nearstone({built}, ef={self._ef})"

    def _fitted(self) -> nearstone.Collection:
        if self._collection is None:
            raise RuntimeError("queries come after fit and before done")
        return self._collection


class Scratch:
    """A store for the length of a benchmark: ``store``, in a folder of its own or in memory."""

    def __init__(self, durable: bool, folder: str | None, options: Mapping[str, Any]) -> None:
        self._folder = tempfile.mkdtemp(prefix="nearstone-", dir=folder) if durable else None
        try:
            if self._folder is None:
                self.store = nearstone.in_memory(**options)
            else:
                self.store = nearstone.open(os.path.join(self._folder, "store.near"), **options)
        except BaseException:
            self._remove()
            raise

    def close(self) -> None:
        """Close the store and remove the folder, also when closing fails."""
        try:
            self.store.close()
        finally:
            self._remove()

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def upsert_all(
    collection: nearstone.Collection,
    keys: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.float32],
    threads: int | None,
) -> None:
    """Upsert ``rows`` (n, dim) under ``keys`` (n,), which are all different, on so many threads (None: as
    many as there are cores that this process may use)."""
    starts = range(0, len(keys), SLICE_ROWS)
    with ThreadPoolExecutor(threads or cores()) as pool:
        # list() waits for all of them and raises the first error.
        list(
            pool.map(lambda n: collection.upsert(keys[n : n + SLICE_ROWS], rows[n : n + SLICE_ROWS]), starts)
        )


def with_defaults(given: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``defaults`` overridden by ``given``; a name that is not among them is a ``ValueError``."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; there are {', '.join(defaults)}")
    return {**defaults, **(given or {})}


def resident_kib() -> float:
    """Return the resident memory of this process in KiB; where the system does not say, its peak."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 if sys.platform == "darwin" else float(peak)


__all__ = ["Nearstone"]
