"""Rows and queries to measure with, by name.

``minilm`` and ``minilm-ood`` read a folder of real sentence embeddings (``base.f16.npy``, ``query.f32.npy``
and, when it is there, ``gt100.cosine.i32.npy``); all others are generated from a seed. Generated rows come in
chunks with a random stream each, so the first n rows are the same whatever the total, and a large set never
needs more memory than itself. Rows of a cosine set are brought to unit length here, once, for every peer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

CHUNK_ROWS = 10_000
MINILM_ROWS = 100_000
NOISE = 0.05
"""Per coordinate, of the manifold sets."""
OOD_NOISE = 0.5
"""Length of the noise that is added to a sum of two rows, which has length 1, for ``minilm-ood``."""


class DatasetError(ValueError):
    """The set can't be had as asked; the text says why."""


@dataclass(frozen=True)
class Dataset:
    """Rows and queries, float32 and C-contiguous; ``known`` holds the ids of the true neighbours, nearest
    first.
    """

    name: str
    metric: str
    rows: Matrix
    queries: Matrix
    known: npt.NDArray[np.int64] | None = None

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])


def normalised(matrix: npt.NDArray[np.floating]) -> Matrix:
    """Rows at unit length, float32. A zero row is an error."""
    wide = np.asarray(matrix, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
    if not np.all(lengths > 0):
        raise DatasetError("a row of zeros has no direction")
    return np.ascontiguousarray(wide / lengths[:, None].astype(np.float32))


def latent_of(dim: int) -> int:
    """Latent dimensions of the manifold sets: 16 up to 128, 24 up to 256, 32 above."""
    return 16 if dim <= 128 else 24 if dim <= 256 else 32


def uniform(dim: int, count: int, seed: int, stream: int) -> Matrix:
    """Coordinates drawn evenly from 0 to 1."""
    return _chunks(dim, count, seed, stream, lambda rng, n: rng.random((n, dim), dtype=np.float32))


def manifold(dim: int, count: int, seed: int, stream: int) -> Matrix:
    """tanh(1.5 z W1 + b) W2 + 0.05 N(0, I) with z from N(0, I) of few dimensions; unit length."""
    latent = latent_of(dim)
    rng = np.random.default_rng([seed, 0])
    hidden = 4 * latent
    first = rng.standard_normal((latent, hidden), dtype=np.float32) / np.float32(np.sqrt(latent))
    bias = rng.standard_normal(hidden, dtype=np.float32)
    second = rng.standard_normal((hidden, dim), dtype=np.float32) / np.float32(np.sqrt(hidden))

    def chunk(rng: np.random.Generator, n: int) -> Matrix:
        z = rng.standard_normal((n, latent), dtype=np.float32)
        x = np.tanh(np.float32(1.5) * (z @ first) + bias) @ second
        return normalised(x + np.float32(NOISE) * rng.standard_normal((n, dim), dtype=np.float32))

    return _chunks(dim, count, seed, stream, chunk)


def lengths(dim: int, count: int, seed: int, stream: int) -> Matrix:
    """Manifold rows of all lengths, for inner products: exp(0.3 N(0, 1)), of which one in a hundred is beyond 2."""
    spread = np.random.default_rng([seed, stream, 1 << 32]).standard_normal(count, dtype=np.float32)
    return manifold(dim, count, seed, stream) * np.exp(np.float32(0.3) * spread)[:, None]


def clustered(dim: int, count: int, seed: int, stream: int, centres: int = 1000) -> Matrix:
    """Rows at 0.35 N(0, 1) around centres drawn from N(0, 1)."""
    middle = np.random.default_rng([seed, 0]).standard_normal((centres, dim), dtype=np.float32)

    def chunk(rng: np.random.Generator, n: int) -> Matrix:
        which = rng.integers(0, centres, n)
        return middle[which] + np.float32(0.35) * rng.standard_normal((n, dim), dtype=np.float32)

    return _chunks(dim, count, seed, stream, chunk)


def _chunks(
    dim: int, count: int, seed: int, stream: int, draw: Callable[[np.random.Generator, int], Matrix]
) -> Matrix:
    # Stream 1 has the rows, 2 the queries; 0 is what they share (weights, centres). A chunk is always drawn
    # whole, so that asking for fewer rows gives a prefix.
    out = np.empty((count, dim), dtype=np.float32)
    for number, start in enumerate(range(0, count, CHUNK_ROWS)):
        stop = min(start + CHUNK_ROWS, count)
        out[start:stop] = draw(np.random.default_rng([seed, stream, number]), CHUNK_ROWS)[: stop - start]
    return out


GENERATED: dict[str, tuple[Callable[[int, int, int, int], Matrix], int, str]] = {
    "uniform-128": (uniform, 128, "l2"),
    "manifold-96": (manifold, 96, "l2"),
    "manifold-128": (manifold, 128, "l2"),
    "manifold-256": (manifold, 256, "l2"),
    "manifold-768": (manifold, 768, "l2"),
    "manifold-1536": (manifold, 1536, "l2"),
    "lengths-128": (lengths, 128, "ip"),
    "clustered-128": (clustered, 128, "l2"),
}
NAMES = ("minilm", "minilm-ood", *GENERATED)


def load(name: str, rows: int, queries: int, seed: int, data: Path | None) -> Dataset:
    """The set called ``name``; ``data`` is the folder of real embeddings, needed by the minilm sets only."""
    if rows < 100 or queries < 1:
        raise DatasetError(f"at least 100 rows and 1 query are needed, not {rows} and {queries}")
    if name in GENERATED:
        draw, dim, metric = GENERATED[name]
        return Dataset(name, metric, draw(dim, rows, seed, 1), draw(dim, queries, seed, 2))
    if name not in NAMES:
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    if data is None:
        raise DatasetError(f"{name} needs a folder of embeddings: set NEARSTONE_DATA or give --data")
    folder = data if (data / "base.f16.npy").exists() else data / "minilm-100k"
    base_file, query_file = folder / "base.f16.npy", folder / "query.f32.npy"
    if not base_file.exists() or not query_file.exists():
        raise DatasetError(f"no base.f16.npy and query.f32.npy in {data}")
    stored = np.load(base_file, mmap_mode="r")
    if rows > len(stored):
        raise DatasetError(f"{name} has {len(stored)} rows, not {rows}")
    base = normalised(stored[:rows])
    if name == "minilm-ood":
        return Dataset(name, "cosine", base, _sums_of_two(base, queries, seed))
    asked = np.load(query_file)
    if queries > len(asked):
        raise DatasetError(f"{name} has {len(asked)} queries, not {queries}")
    known_file = folder / "gt100.cosine.i32.npy"
    known = None
    if rows == len(stored) and known_file.exists():
        known = np.load(known_file)[:queries].astype(np.int64)
    return Dataset(name, "cosine", base, normalised(asked[:queries]), known)


def _sums_of_two(base: Matrix, count: int, seed: int) -> Matrix:
    """Queries unlike the rows: the normalised sum of two random rows, plus noise, normalised again."""
    rng = np.random.default_rng([seed, 3])
    first, second = rng.integers(0, len(base), (2, count))
    noise = rng.standard_normal((count, base.shape[1]), dtype=np.float32) / np.float32(np.sqrt(base.shape[1]))
    return normalised(normalised(base[first] + base[second]) + np.float32(OOD_NOISE) * noise)
