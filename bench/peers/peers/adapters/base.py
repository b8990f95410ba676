"""What a worker asks of every library.

An adapter is made for one job and then goes through: ``build`` - for each setting of its sweep ``use`` and
then ``one`` or ``many`` - ``save`` - ``close``. A database that can take single rows durably also has
``open_empty``, ``insert`` and, if the library offers an explicit flush, ``sync``. A library that can change
rows has ``replace``, ``remove`` and ``add``, in this order in each round of changes, and then ``changed``.
Ids are the row numbers 0..n; answers are sequences of them, nearest first, ints or decimal strings, and
making that sequence is part of what is timed.

The metrics are "l2", "cosine" and "ip" (inner product, of rows of all lengths), which only some adapters take. Rows and
queries of a cosine set have unit length, so an adapter may use Euclidean distance for it where the library is
faster or better tested that way: the order is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..datasets import Matrix
from ..rows import Rows

Keys = npt.NDArray[np.int64]

M = 16
EF_CONSTRUCTION = 200


class NotMeasurable(Exception):
    """This library can't do the job here; the text is the reason that the report prints."""


@dataclass(frozen=True)
class Job:
    """``folder`` exists, is empty and is the adapter's alone; ``threads`` is for building and parallel
    search.
    """

    folder: Path
    dim: int
    metric: str
    rows: int
    threads: int
    rows_max: int | None = None
    """Rows will be replaced, removed and added after the build; so many live at most at a time."""


@dataclass(frozen=True)
class Setting:
    """One point of a sweep: what the report calls it, and the number that ``use`` gets."""

    label: str
    value: float


class Adapter(ABC):
    name: ClassVar[str]
    package: ClassVar[str]
    kind: ClassVar[str] = "library"
    note: ClassVar[str] = ""
    query_limit: ClassVar[int | None] = None
    """Slow libraries answer only so many of the queries."""
    has_batch: ClassVar[bool] = True
    """``many`` exists."""
    batch_threads: ClassVar[bool] = True
    """``many`` works with more than one thread when asked; otherwise Python threads call ``one``."""
    has_inserts: ClassVar[bool] = False
    has_sync: ClassVar[bool] = False
    has_changes: ClassVar[bool] = False
    has_products: ClassVar[bool] = False
    """Takes sets that are ordered by inner product."""

    def __init__(self, job: Job) -> None:
        if job.metric == "ip" and not self.has_products:
            raise NotMeasurable("is measured by distance and cosine only")
        self.job = job

    @classmethod
    def settings(cls, efs: Sequence[int], job: Job) -> list[Setting]:
        """The sweep, as long as ``efs``, from fast to exact."""
        return [Setting(f"ef={ef}", ef) for ef in efs]

    @abstractmethod
    def build(self, rows: Rows) -> None:
        """Takes all rows, on ``job.threads`` threads, and gets ready for searching."""

    @abstractmethod
    def use(self, value: float) -> None:
        """Searches from now on at this value of a setting."""

    def prepare(self, queries: Matrix) -> list[Any]:
        """The queries as ``one`` wants them. Not timed: users have them in that form."""
        return list(queries)

    @abstractmethod
    def one(self, query: Any, k: int) -> Sequence[Any]:
        """Ids of the nearest rows of one prepared query."""

    def prepare_batch(self, queries: Matrix) -> Any:
        return queries

    def many(self, queries: Any, k: int, threads: int) -> Sequence[Sequence[Any]]:
        """Ids for every query of a prepared batch, in one call."""
        raise NotImplementedError

    @abstractmethod
    def save(self) -> Path:
        """Writes what isn't on disk yet; the file or folder that holds everything."""

    def close(self) -> None:  # noqa: B027  (nothing to do is a fine default)
        pass

    def open_empty(self) -> None:
        """Makes an empty store in the folder, for single-row inserts."""
        raise NotImplementedError

    def insert(self, number: int, vector: Matrix) -> None:
        """Puts one row; what the library promises at its return is what is measured."""
        raise NotImplementedError

    def sync(self) -> None:
        """The library's explicit request to make everything durable."""
        raise NotImplementedError

    def replace(self, keys: Keys, vectors: Matrix) -> None:
        """Other vectors under keys that are there."""
        raise NotImplementedError

    def remove(self, keys: Keys) -> None:
        """Takes out keys that are there."""
        raise NotImplementedError

    def add(self, keys: Keys, vectors: Matrix) -> None:
        """Vectors under keys that never were there."""
        raise NotImplementedError

    def changed(self) -> None:  # noqa: B027  (a library that sees to its rows by itself needs nothing)
        """A round of changes is over; what the library wants to be told then counts in its time."""
