"""What the compiled part offers. Users import it from ``nearstone``."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Self, disjoint_base

_Key = int | str
_Keys = Sequence[int] | Sequence[str] | npt.NDArray[np.integer[Any]]
_KeyTypeName = Literal["u64", "str"]
_MetricName = Literal["cosine", "l2", "ip"]
_ProfileName = Literal["auto", "speed", "memory"]
_CodesName = Literal["sq8", "sq4", "rabitq1", "rabitq2", "rabitq4", "rabitq8", "pq4", "pq8", "pq16"]
_Payload = Mapping[str, Any]
_Durability = Literal["sync", "os"] | float
_Policy = Literal["replace", "keep", "refuse"]
_Progress = Callable[[str, int, int], object]
_Vectors = npt.ArrayLike

__all__ = [
    "BackgroundPause",
    "Batch",
    "BulkLoaded",
    "Collection",
    "CollectionAt",
    "Commit",
    "Hit",
    "Hits",
    "Row",
    "Snapshot",
    "Store",
    "__version__",
    "_search_ns",
    "build_segments",
    "in_memory",
    "open",
]

__version__: str

def _search_ns(collection: Collection, query: _Vectors, k: int, ef: int, repeat: int) -> float: ...
def open(
    path: str | PathLike[str],
    *,
    create: bool = True,
    read_only: bool = False,
    durability: _Durability = "sync",
    recovery: Literal["torn_tail", "strict", "point_in_time"] = "torn_tail",
    memory_budget: int | None = None,
    write_stall: float | None = None,
    background: Literal["auto", "manual"] | int = "auto",
    background_bytes_per_second: int | None = None,
    seal_bytes: int | None = None,
    seal_rows: int | None = None,
    seal_idle: float | None = None,
    wal_bytes: int | None = None,
    dead_share: float | None = None,
    auto_compact: bool = True,
    residency: Literal["mapped", "warm", "pinned", "heap"] = "mapped",
) -> Store: ...
def in_memory(
    *,
    memory_budget: int | None = None,
    write_stall: float | None = None,
    background: Literal["auto", "manual"] | int = "auto",
    background_bytes_per_second: int | None = None,
    seal_bytes: int | None = None,
    seal_rows: int | None = None,
    seal_idle: float | None = None,
    wal_bytes: int | None = None,
    dead_share: float | None = None,
    auto_compact: bool = True,
) -> Store: ...
def build_segments(
    folder: str | PathLike[str],
    keys: _Key | _Keys,
    vectors: _Vectors,
    payloads: _Payload | Sequence[_Payload | None] | None = None,
    *,
    metric: _MetricName = "cosine",
    m: int = 16,
    ef_construction: int = 200,
    profile: _ProfileName = "auto",
    codes: _CodesName = "sq8",
    seal_bytes: int | None = None,
    seal_rows: int | None = None,
    threads: int | None = None,
    progress: _Progress | None = None,
) -> list[Path]: ...

@final
class Store:
    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def recovery(self) -> dict[str, Any]: ...
    def create_collection(
        self,
        name: str,
        dim: int,
        *,
        metric: _MetricName = "cosine",
        keys: _KeyTypeName | type[int] | type[str] = "u64",
        m: int = 16,
        ef_construction: int = 200,
        profile: _ProfileName = "auto",
        codes: _CodesName = "sq8",
    ) -> Collection: ...
    def collection_or_create(
        self,
        name: str,
        dim: int,
        *,
        metric: _MetricName = "cosine",
        keys: _KeyTypeName | type[int] | type[str] = "u64",
        m: int = 16,
        ef_construction: int = 200,
        profile: _ProfileName = "auto",
        codes: _CodesName = "sq8",
    ) -> Collection: ...
    def collection(self, name: str) -> Collection: ...
    def collections(self) -> list[str]: ...
    def rename_collection(self, old: str, new: str) -> None: ...
    def drop_collection(self, name: str) -> None: ...
    def batch(self, *, durability: _Durability | None = None) -> Batch: ...
    def snapshot(self) -> Snapshot: ...
    def persist(self) -> int: ...
    def flush(self) -> None: ...
    def compact(self, progress: _Progress | None = None) -> None: ...
    def pause_background(self) -> BackgroundPause: ...
    def cancel_background(self) -> None: ...
    def step(self) -> bool: ...
    def stats(self) -> dict[str, Any]: ...
    def verify(self, progress: _Progress | None = None) -> dict[str, int]: ...
    def backup(self, into: str | PathLike[str], progress: _Progress | None = None) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@disjoint_base
class _Readable:
    def __len__(self) -> int: ...
    def __contains__(self, key: _Key) -> bool: ...
    @overload
    def get(self, keys: _Key) -> Row | None: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, keys: _Keys) -> list[Row | None]: ...
    def get_vectors(self, keys: _Keys) -> npt.NDArray[np.float32]: ...
    def keys(self, after: _Key | None = None) -> Iterator[Any]: ...
    def search(
        self,
        query: _Vectors,
        k: int | None = None,
        *,
        limit: int | None = None,
        ef: int | None = None,
        exact: bool = False,
        filter: Callable[[Any], bool] | None = None,
        payloads: bool = True,
        vectors: bool = False,
        threads: int | None = None,
    ) -> Hits: ...

@final
class Collection(_Readable):
    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> _MetricName: ...
    @property
    def key_type(self) -> _KeyTypeName: ...
    @property
    def m(self) -> int: ...
    @property
    def ef_construction(self) -> int: ...
    @property
    def profile(self) -> _ProfileName: ...
    @property
    def codes(self) -> _CodesName: ...
    def upsert(
        self,
        keys: _Key | _Keys,
        vectors: _Vectors,
        payloads: _Payload | Sequence[_Payload | None] | None = None,
        *,
        atomic: bool = False,
        durability: _Durability | None = None,
    ) -> Commit: ...
    def bulk_load(
        self,
        keys: _Key | _Keys,
        vectors: _Vectors,
        payloads: _Payload | Sequence[_Payload | None] | None = None,
        *,
        on_collision: _Policy = "replace",
        threads: int | None = None,
        progress: _Progress | None = None,
    ) -> BulkLoaded: ...
    def attach(
        self,
        files: str | PathLike[str] | Iterable[str | PathLike[str]],
        *,
        on_collision: _Policy = "replace",
        take: Literal["copy", "link", "move"] = "copy",
        progress: _Progress | None = None,
    ) -> BulkLoaded: ...
    def delete(
        self, keys: _Key | _Keys, *, atomic: bool = False, durability: _Durability | None = None
    ) -> int: ...
    def at(self, snapshot: Snapshot) -> CollectionAt: ...
    def link(self, threads: int | None = None) -> None: ...
    def flush(self) -> None: ...
    def compact(self, progress: _Progress | None = None) -> None: ...
    def rebuild(
        self,
        *,
        m: int | None = None,
        ef_construction: int | None = None,
        profile: _ProfileName | None = None,
        codes: _CodesName | None = None,
        progress: _Progress | None = None,
    ) -> None: ...

@final
class CollectionAt(_Readable): ...

@final
class Batch:
    def upsert(
        self,
        collection: Collection,
        keys: _Key | _Keys,
        vectors: _Vectors,
        payloads: _Payload | Sequence[_Payload | None] | None = None,
    ) -> Self: ...
    def delete(self, collection: Collection, keys: _Key | _Keys) -> Self: ...
    def commit(self) -> Commit: ...
    @property
    def byte_len(self) -> int: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class BackgroundPause:
    def resume(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Snapshot:
    @property
    def lsn(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Commit:
    @property
    def lsn(self) -> int: ...
    @property
    def upserted(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    @property
    def results(self) -> list[Literal["inserted", "replaced", "deleted", "missing", "superseded"]]: ...

@final
class BulkLoaded:
    @property
    def lsn(self) -> int: ...
    @property
    def inserted(self) -> int: ...
    @property
    def replaced(self) -> int: ...
    @property
    def kept(self) -> int: ...

@final
class Row:
    @property
    def key(self) -> Any: ...
    @property
    def vector(self) -> npt.NDArray[np.float32]: ...
    @property
    def payload(self) -> dict[str, Any] | None: ...
    @property
    def version(self) -> int: ...

@final
class Hit:
    @property
    def key(self) -> Any: ...
    @property
    def distance(self) -> float: ...
    @property
    def version(self) -> int: ...
    @property
    def payload(self) -> dict[str, Any] | None: ...
    @property
    def vector(self) -> npt.NDArray[np.float32]: ...

@final
class Hits:
    @property
    def keys(self) -> Any: ...
    @property
    def distances(self) -> npt.NDArray[np.float32]: ...
    @property
    def versions(self) -> npt.NDArray[np.uint64]: ...
    @property
    def payloads(self) -> list[Any]: ...
    @property
    def vectors(self) -> npt.NDArray[np.float32]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
