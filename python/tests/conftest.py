"""What the tests of the Python side share.

Stores that end with their test, the arithmetic they are compared with, and a way to run a program in a
process of its own. Everything comes as a fixture, so that the test files import nothing of each other. What
holds for all tests: they use the installed package as a user does, write only below pytest's temporary
folder, and no background thread works in a store that they did not ask to have one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearstone

METRICS = ("l2", "cosine", "ip")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that says the same in every run."""
    return np.random.default_rng(20)


@pytest.fixture
def store() -> Iterator[nearstone.Store]:
    """A store in memory without threads."""
    with nearstone.in_memory(background="manual") as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store can be: nothing is there yet."""
    return tmp_path / "rows.near"


@pytest.fixture
def disk(path: Path) -> Iterator[nearstone.Store]:
    """A store in a folder, without threads."""
    with nearstone.open(path, background="manual") as store:
        yield store


def distances_of(metric: str, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distances of every query (n, dim) to every row (m, dim), in double precision, (n, m)."""
    queries, rows = np.asarray(queries, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return ((queries[:, None, :] - rows[None, :, :]) ** 2).sum(axis=2)
    dots = queries @ rows.T
    if metric == "ip":
        return -dots
    return 1 - dots / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(rows, axis=1)[None, :]


@pytest.fixture
def distances() -> Callable[..., np.ndarray]:
    """The function `distances_of`."""
    return distances_of


def refuse(
    kind: type[BaseException] | tuple[type[BaseException], ...], words: list[str], call: Callable[[], Any]
) -> Any:
    """Runs `call`, which must raise `kind` with all `words` in its text; returns the exception."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text, f"{type(caught.value).__name__} {text!r} does not say {word!r}"
    if isinstance(caught.value, nearstone.Error):
        assert same_name(caught.value.kind, type(caught.value).__name__), caught.value.kind
        assert same_name(caught.value.outcome, "NotApplied"), caught.value.outcome
    return caught.value


def same_name(one: object, other: str) -> bool:
    """Whether two names are the same but for case and underscores."""
    return str(one).replace("_", "").lower() == other.replace("_", "").lower()


@pytest.fixture
def refused() -> Callable[..., Any]:
    """The function `refuse`."""
    return refuse


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program (its text, and arguments) in a process of its own.

    Unless `check=False`, it must end with exit code 0 and say nothing on standard error.
    """

    def run(
        code: str, *arguments: object, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(tmp_path, code, *arguments), capture_output=True, text=True, timeout=timeout, env=quiet()
        )
        if check:
            assert done.returncode == 0 and not done.stderr, (
                f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program like `run`, without waiting; what still runs at the end of the test is killed."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            command(tmp_path, code, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=quiet(),
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def command(folder: Path, code: str, *arguments: object) -> list[str]:
    """The command line for a program text: a file, so that `spawn` can import it."""
    number = len(list(folder.glob("program_*.py")))
    file = folder / f"program_{number}.py"
    file.write_text(textwrap.dedent(code))
    return [sys.executable, "-X", "faulthandler", str(file), *map(str, arguments)]


def quiet() -> dict[str, str]:
    """The environment of a child: output at once, no warnings about forking beside threads."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
