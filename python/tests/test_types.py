"""The shipped stubs are what type checkers see: they agree with the module, and find what is wrong.

`mypy` reads the installed package, as a user's checker does, so `py.typed` counts too.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import nearstone
from nearstone import _nearstone

needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")

GOOD = """
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import nearstone


def listen(phase: str, done: int, total: int) -> bool:
    return done < total


def main(path: Path) -> list[str]:
    with nearstone.open(path, durability="os", background=2, recovery="strict") as store:
        rows: nearstone.Collection = store.collection_or_create("rows", 3, metric="l2", keys=str, m=8)
        done: nearstone.Commit = rows.upsert("a", [1.0, 2.0, 3.0], {"title": "A"})
        number: int = done.lsn + done.upserted + done.deleted
        rows.upsert(["b", "c"], np.zeros((2, 3), np.float32), [{"x": 1}, None], atomic=True, durability=0.5)
        row = rows.get("a")
        if row is not None:
            vector: npt.NDArray[np.float32] = row.vector
            number += int(vector.sum()) + row.version
        many: list[nearstone.Row | None] = rows.get(["a", "b"])
        hits: nearstone.Hits = rows.search([1, 2, 3], 5, ef=9, filter=lambda key: key != "a", payloads=False)
        distances: npt.NDArray[np.float32] = hits.distances
        listing: Iterator[Any] = rows.keys(after="a")
        with store.batch() as batch:
            batch.upsert(rows, "d", [1, 2, 3]).delete(rows, ["a", "b"])
        with store.snapshot() as snapshot:
            then: nearstone.CollectionAt = rows.at(snapshot)
            number += len(then) + rows.delete("a") + snapshot.lsn
        store.compact(listen)
        checked: dict[str, int] = store.verify(progress=listen)
        store.backup(path / "copy")
        if "a" in rows or store.closed:
            raise nearstone.InvalidArgument(f"{number} {many} {distances} {checked}")
        files: list[Path] = nearstone.build_segments(path / "built", ["e"], [[1, 2, 3]], metric="l2", m=8)
        attached: nearstone.BulkLoaded = rows.attach(files, on_collision="keep", take="move", progress=listen)
        number += attached.inserted + rows.attach(str(files[0])).lsn
        names: list[str] = store.collections()
    try:
        nearstone.in_memory(memory_budget=1 << 20)
    except nearstone.Error as error:
        names += [error.kind, error.outcome]
    return names + list(listing) + [nearstone.__version__]
"""

# One mistake per line; each must be found.
BAD = """
import nearstone
store = nearstone.open(7)
rows = nearstone.in_memory().create_collection("rows", 3, metric="euclid")
rows.upsert(1.5, [1.0])
rows.search([1.0], "5")
rows.nothing()
nearstone.open("x", durability="fsync")
nearstone.open("x", nothing=1)
nearstone.build_segments("x", [1], [[1.0]], take="copy")
nearstone.in_memory().collection("x").attach(7)
nearstone.in_memory().collection("x").attach("y", take="steal")
kind: int = rows.get(1)
"""


def mypy(folder: Path, program: str, cache: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "program.py"
    file.write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(file)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where mypy keeps what it knows of numpy: later runs are ten times faster than the first."""
    folder = tmp_path_factory.getbasetemp().parent / "mypy"
    folder.mkdir(exist_ok=True)
    return folder


@needs_mypy
def test_a_strict_program_passes(tmp_path: Path, cache: Path) -> None:
    done = mypy(tmp_path, GOOD, cache)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_mistakes_are_found(tmp_path: Path, cache: Path) -> None:
    done = mypy(tmp_path, BAD, cache)
    lines = [number for number, line in enumerate(BAD.splitlines(), 1) if number > 2]
    for number in lines:
        assert f"program.py:{number}: error" in done.stdout, f"line {number} is not refused\n{done.stdout}"


@needs_mypy
def test_the_stubs_agree_with_the_module(tmp_path: Path, cache: Path) -> None:
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\ncache_dir = {cache}\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "--concise",
            f"--mypy-config-file={config}",
            "nearstone._nearstone",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_are_shipped() -> None:
    folder = resources.files(nearstone)
    assert (folder / "py.typed").is_file()
    assert (folder / "_nearstone.pyi").is_file()


def test_the_stubs_are_fine_for_the_oldest_python() -> None:
    text = (resources.files(nearstone) / "_nearstone.pyi").read_text()
    typing_line = [line for line in text.splitlines() if line.startswith("from typing import")]
    assert not any("Self" in line for line in typing_line), "typing.Self is younger than Python 3.10"


def parameters_in_stubs(body: list[ast.stmt], prefix: str = "") -> dict[str, set[str]]:
    """Of public functions and methods; of overloads, what any of them takes."""
    found: dict[str, set[str]] = {}
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found |= parameters_in_stubs(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list):
                continue
            names = {one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
            found.setdefault(prefix + node.name, set()).update(names - {"self", "cls"})
    return found


def test_the_stubs_take_what_the_functions_take() -> None:
    text = (resources.files(nearstone) / "_nearstone.pyi").read_text()
    stubs = parameters_in_stubs(ast.parse(text).body)
    assert {"open", "in_memory", "Collection.upsert", "Collection.bulk_load"} <= stubs.keys()
    for name, parameters in stubs.items():
        thing: Any = nearstone
        for part in name.split("."):
            thing = getattr(thing, part)
        taken = set(inspect.signature(thing).parameters) - {"self", "cls"}
        assert parameters == taken, f"{name}: the stubs have {parameters}, it takes {taken}"


def public_members(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def documented() -> dict[str, Callable[..., Any] | type]:
    things: dict[str, Any] = {"nearstone": nearstone, "nearstone._nearstone": _nearstone}
    for name in nearstone.__all__:
        thing = getattr(nearstone, name)
        if name.startswith("_"):
            continue
        things[name] = thing
        if inspect.isclass(thing):
            for member, value in public_members(thing).items():
                if callable(value) or inspect.isdatadescriptor(value):
                    things[f"{name}.{member}"] = value
    return things


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        name for name, thing in documented().items() if not (getattr(thing, "__doc__", None) or "").strip()
    ]
    assert not missing


def test_everything_public_is_in_all() -> None:
    compiled = {name for name in vars(_nearstone) if not name.startswith("_")}
    assert compiled <= set(nearstone.__all__), compiled - set(nearstone.__all__)
    assert all(hasattr(nearstone, name) for name in nearstone.__all__)
    assert nearstone.__version__.count(".") >= 1


def test_signatures_can_be_read() -> None:
    """For `help` and for editors that run the module."""
    assert list(inspect.signature(nearstone.Collection.search).parameters)[:3] == ["self", "query", "k"]
    assert "durability" in inspect.signature(nearstone.open).parameters
    assert inspect.signature(nearstone.Store.create_collection).parameters["metric"].default == "cosine"
