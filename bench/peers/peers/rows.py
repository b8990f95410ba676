"""A matrix in a file, read piece by piece.

A worker builds from here: libraries that take rows in batches never hold a second copy of all of them, and no
map of the file counts in the memory figures of the process. The time spent reading is kept, to be taken off
the build.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .datasets import Matrix


class Rows:
    """Rows of a float32 ``.npy`` file, at most ``limit`` of them."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path = path
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            self._offset = file.tell()
        if fortran or dtype != np.float32 or len(shape) != 2:
            raise ValueError(f"{path}: not a float32 matrix in C order")
        self.count = min(shape[0], limit) if limit is not None else int(shape[0])
        self.dim = int(shape[1])
        self.seconds = 0.0

    def batches(self, size: int) -> Iterator[tuple[int, Matrix]]:
        """(number of the first row, matrix) until all rows were seen."""
        for start in range(0, self.count, size):
            yield start, self.read(start, min(start + size, self.count))

    def all(self) -> Matrix:
        return self.read(0, self.count)

    def read(self, start: int, stop: int) -> Matrix:
        began = time.perf_counter()
        numbers = np.fromfile(
            self.path,
            dtype=np.float32,
            count=(stop - start) * self.dim,
            offset=self._offset + start * self.dim * 4,
        )
        self.seconds += time.perf_counter() - began
        return numbers.reshape(stop - start, self.dim)
