"""Scripts of changes, by name: which keys get other vectors, which go and which come, round after round.

They have the shapes that streams have in practice, as the runbooks of the streaming track of NeurIPS'23 do:

    steady      a tenth of the keys get other vectors, a fiftieth goes and as many come, all at random
    sliding     a window moves over the rows in their order: the oldest go, the next come
    expiring    each row comes with a short, long or unlimited life; the number of live rows varies
    clustered   rows of some clusters come, rows of others go: what lives drifts, and how much
    replacing   the keys of a cluster get the vectors of another one: drift without a row that comes or goes

A runbook knows which key holds the vector of which row, and which rows wait. What a round changes is chosen
by its kind and carried out here, the same way for all. Always holds: a row is held by one key or waits, so
that a true neighbour stays one row; a key that went never comes back; the same rows and seed make the same
rounds. The keys at first are 0, 1, 2, ... in the order in which rows are held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .datasets import Matrix

Numbers = npt.NDArray[np.int64]

POOL = 5
"""One in so many rows waits at first, where rounds are steady."""
REPLACED, DELETED = 10, 50
"""One in so many live rows, per round, where rounds are steady."""
ROWS_MIN = DELETED * POOL
WINDOW = 2
"""One in so many rows is in the window that slides."""
PART = 10
"""One in so many rows of the window goes per round; where rows expire, one in so many of all comes at most.
"""
LIVES = (10, 2, 1)
"""How often lives are short, long and unlimited."""
SHORT, LONG = 5, 20
"""Rounds that a short and a long life last at most; a long one is longer than any short one."""
CLUSTERS = 16
MOVING = 4
"""So many clusters grow in a round and so many others shrink."""


def _none() -> Numbers:
    return np.empty(0, dtype=np.int64)


def _split(count: int, at: int) -> tuple[Numbers, Numbers]:
    """The numbers below ``at``, and those from there to ``count``."""
    return np.arange(at), np.arange(at, count)


@dataclass(frozen=True)
class Round:
    """What changes, in this order: keys that get the vectors of other rows, keys that go, keys that come."""

    replaced: Numbers
    replaced_rows: Numbers
    deleted: Numbers
    inserted: Numbers
    inserted_rows: Numbers


@dataclass(frozen=True)
class Choice:
    """What a kind of runbook chooses: places in its ``keys`` that get other rows and that go, none of them
    twice; and rows that wait, none of them twice either.
    """

    replaced: Numbers = field(default_factory=_none)
    replaced_rows: Numbers = field(default_factory=_none)
    deleted: Numbers = field(default_factory=_none)
    inserted_rows: Numbers = field(default_factory=_none)


class Runbook(ABC):
    """``keys[i]`` is live and holds the vector of row ``rows[i]``; the rows in ``pool`` wait. ``peak`` is the
    largest number of live rows so far.
    """

    tells: ClassVar[str]
    """What a round is, for the report."""

    def __init__(self, rows: Matrix, seed: int) -> None:
        """``rows``: all that there are, (n, dim), which only some kinds look at."""
        if len(rows) < ROWS_MIN:
            raise ValueError(f"churn needs at least {ROWS_MIN} rows, not {len(rows)}")
        self.random = np.random.default_rng([seed, 4])
        self.number = 0
        self.rows, self.pool = self.first(rows)
        self.keys: Numbers = np.arange(len(self.rows))
        self.next_key = self.peak = len(self.rows)

    @abstractmethod
    def first(self, rows: Matrix) -> tuple[Numbers, Numbers]:
        """Rows that are held at first, and those that wait."""

    @abstractmethod
    def choose(self) -> Choice:
        """What changes in round ``number``."""

    def round(self) -> Round:
        """The next round; it may be empty in parts."""
        self.number += 1
        chosen = self.choose()
        taken = np.concatenate([chosen.replaced_rows, chosen.inserted_rows])
        freed = self.rows[np.concatenate([chosen.replaced, chosen.deleted])]
        waiting = self.pool[~np.isin(self.pool, taken)]
        assert len(waiting) + len(taken) == len(self.pool), "only rows that wait can be taken, and once"
        self.pool = np.concatenate([waiting, freed])

        replaced, deleted = self.keys[chosen.replaced], self.keys[chosen.deleted]
        self.rows[chosen.replaced] = chosen.replaced_rows
        count = len(chosen.inserted_rows)
        inserted = np.arange(self.next_key, self.next_key + count)
        self.next_key += count
        # New ones stand in the places of those that went, as far as there are such.
        places = chosen.deleted[:count]
        self.keys[places], self.rows[places] = inserted[: len(places)], chosen.inserted_rows[: len(places)]
        more, left = inserted[len(places) :], chosen.deleted[count:]
        self.keys = np.concatenate([np.delete(self.keys, left), more])
        self.rows = np.concatenate([np.delete(self.rows, left), chosen.inserted_rows[len(places) :]])
        self.peak = max(self.peak, len(self.keys))
        return Round(replaced, chosen.replaced_rows, deleted, inserted, chosen.inserted_rows)


class Steady(Runbook):
    """As many rows as at first, changed anywhere."""

    tells = "a tenth of the rows replaced, a fiftieth deleted and as many new"

    def first(self, rows: Matrix) -> tuple[Numbers, Numbers]:
        return _split(len(rows), len(rows) - len(rows) // POOL)

    def choose(self) -> Choice:
        replaced, deleted = len(self.keys) // REPLACED, len(self.keys) // DELETED
        places = self.random.permutation(len(self.keys))[: replaced + deleted]
        fresh = self.pool[: len(places)]
        return Choice(places[:replaced], fresh[:replaced], places[replaced:], fresh[replaced:])


class Sliding(Runbook):
    """After the last row the window comes to the first one again, under a new key."""

    tells = "the oldest tenth of the rows deleted and the next ones new"

    def first(self, rows: Matrix) -> tuple[Numbers, Numbers]:
        return _split(len(rows), len(rows) // WINDOW)

    def choose(self) -> Choice:
        part = len(self.keys) // PART
        return Choice(deleted=np.argsort(self.keys)[:part], inserted_rows=self.pool[:part])


class Expiring(Runbook):
    """Lives are counted in rounds, and end at the beginning of one. How many rows come is drawn anew for each
    round, and is never more than wait.
    """

    tells = "rows deleted whose short, long or unlimited life (10:2:1) is over, and a varying number new"

    def first(self, rows: Matrix) -> tuple[Numbers, Numbers]:
        self.most = len(rows) // PART
        # As many as come in the rounds that a short life lasts at most.
        held, pool = _split(len(rows), self.most * SHORT // 2)
        self.ends: Numbers = np.zeros(len(rows), dtype=np.int64)
        self.ends[held] = self.lives(len(held))
        return held, pool

    def lives(self, count: int) -> Numbers:
        """In rounds, from the one in which a row comes."""
        kinds = self.random.choice(len(LIVES), count, p=np.array(LIVES) / sum(LIVES))
        short = self.random.integers(1, SHORT + 1, count)
        long = self.random.integers(SHORT + 1, LONG + 1, count)
        return np.choose(kinds, [short, long, np.iinfo(np.int64).max // 2])

    def choose(self) -> Choice:
        come = self.pool[: self.random.integers(1, self.most + 1)]
        gone = np.flatnonzero(self.ends[self.rows] <= self.number)
        self.ends[come] = self.number + self.lives(len(come))
        return Choice(deleted=gone, inserted_rows=come)


class Grouped(Runbook):
    """Rows in clusters, of which about half live at first, each as a whole."""

    def first(self, rows: Matrix) -> tuple[Numbers, Numbers]:
        self.cluster = clusters_of(rows, self.random.permutation(len(rows))[:CLUSTERS])
        if np.all(self.cluster == self.cluster[0]):
            raise ValueError(f"clusters need rows that differ: all {len(rows)} fall into one")
        by_size = np.argsort(-self.counts(np.arange(len(rows))), kind="stable")
        # Of the two largest one lives, of the next two, and so on.
        lives = by_size.reshape(-1, 2)[np.arange(CLUSTERS // 2), self.random.integers(0, 2, CLUSTERS // 2)]
        held = np.isin(self.cluster, lives)
        return np.flatnonzero(held), np.flatnonzero(~held)

    def counts(self, rows: Numbers) -> Numbers:
        """How many of these rows each cluster has."""
        return np.bincount(self.cluster[rows], minlength=CLUSTERS)

    def some(self, numbers: Numbers, count: int) -> Numbers:
        """So many of these numbers, at random."""
        return self.random.permutation(numbers)[:count]


class Clustered(Grouped):
    """A random part of what waits comes in some clusters, a random part of what lives goes in others."""

    tells = "parts of some clusters new and parts of others deleted"

    def choose(self) -> Choice:
        grow = self.some(np.flatnonzero(self.counts(self.pool)), MOVING)
        can_shrink = self.counts(self.rows) > 0
        can_shrink[grow] = False
        shrink = self.some(np.flatnonzero(can_shrink), MOVING)
        return Choice(
            deleted=self.parts(self.rows, shrink), inserted_rows=self.pool[self.parts(self.pool, grow)]
        )

    def parts(self, rows: Numbers, clusters: Numbers) -> Numbers:
        """Places in ``rows`` of a random part of each of these clusters; never of a whole one."""
        found = [np.flatnonzero(self.cluster[rows] == one) for one in clusters]
        return np.concatenate(
            [_none(), *(self.some(one, int(len(one) * self.random.random())) for one in found)]
        )


class Replacing(Grouped):
    """Where the clusters are of different sizes, as many keys change as the smaller one has rows."""

    tells = "the rows of one cluster replaced by those of another"

    def choose(self) -> Choice:
        sizes = np.minimum.outer(self.counts(self.rows), self.counts(self.pool))
        np.fill_diagonal(sizes, 0)
        # Rows that change are as likely as others, whichever clusters they are in: remnants of former rounds
        # are seldom all that a round is about.
        pair = self.random.choice(sizes.size, p=sizes.ravel() / sizes.sum())
        leaves, comes = divmod(int(pair), CLUSTERS)
        places = np.flatnonzero(self.cluster[self.rows] == leaves)
        rows = self.pool[self.cluster[self.pool] == comes]
        count = int(sizes[leaves, comes])
        return Choice(replaced=self.some(places, count), replaced_rows=self.some(rows, count))


def clusters_of(rows: Matrix, centres: Numbers) -> Numbers:
    """The nearest of these rows, by its place among them, for each row; by Euclidean distance."""
    middle = rows[centres]
    score = np.einsum("ij,ij->i", middle, middle) - 2 * (rows @ middle.T)
    nearest: Numbers = np.argmin(score, axis=1)
    return nearest


ALL: dict[str, type[Runbook]] = {
    "steady": Steady,
    "sliding": Sliding,
    "expiring": Expiring,
    "clustered": Clustered,
    "replacing": Replacing,
}
