"""Bring the collections of a Chroma folder into a Nearstone store.

    python migrate_chroma.py                         a sample, made and migrated in a temporary folder
    python migrate_chroma.py CHROMA_FOLDER STORE     your own; STORE has no collections of these names yet

It needs the package `chromadb`, which may write to its own files when it opens them: migrate from a copy if
the folder must stay as it is. Nothing is added, changed or deleted in it here. For each collection:

1. The space (l2, cosine or ip) becomes the metric. Distances mean the same, but for ip: Chroma's is 1 - dot,
   ours -dot.
2. Ids, embeddings, documents and metadata are read in pages and upserted. The id is the key. The payload is
   `{"text": document, "metadata": {...}}`, as `nearstone.langchain` keeps it, so that LangChain can go on
   with it.
3. The counts must agree, some vectors must be the same bits, and the nearest rows of some of them are
   compared with Chroma's.

Rows that Nearstone cannot take are listed and left out: zero vectors under cosine, which have no direction,
and ids of more than 512 bytes.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import nearstone

PAGE = 1000
CHECKS = 20
K = 10

try:
    import chromadb
    from chromadb.config import Settings
except ImportError:
    chromadb = None


def open_chroma(folder: Path) -> Any:
    return chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))


def make_sample(folder: Path) -> None:
    """A Chroma folder with three collections, one per space."""
    client = open_chroma(folder)
    rng = np.random.default_rng(7)
    colours = ["red", "green", "blue"]
    for space, count in (("cosine", 2500), ("l2", 1200), ("ip", 300)):
        collection = client.create_collection(
            f"sample-{space}", configuration={"hnsw": {"space": space}}, embedding_function=None
        )
        vectors = rng.standard_normal((count, 48)).astype(np.float32)
        for start in range(0, count, PAGE):
            part = range(start, min(start + PAGE, count))
            collection.add(
                ids=[f"{space}/{n}" for n in part],
                embeddings=vectors[part.start : part.stop],
                documents=[f"text number {n}" for n in part],
                metadatas=[{"n": n, "colour": colours[n % 3], "even": n % 2 == 0} for n in part],
            )
    print(f"made a sample in {folder}")


def space_of(collection: Any) -> str:
    """Chroma keeps the space in the collection's configuration; early versions in its metadata."""
    configuration = collection.configuration_json or {}
    for index in ("hnsw", "spann"):
        if space := (configuration.get(index) or {}).get("space"):
            return str(space)
    return str((collection.metadata or {}).get("hnsw:space", "l2"))


def plain(value: Any) -> Any:
    """Metadata as JSON can say it: sparse vectors become objects, arrays lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: plain(inner) for key, inner in dataclasses.asdict(value).items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def migrate(source: Any, store: nearstone.Store) -> None:
    count = source.count()
    if count == 0:
        print(f"{source.name}: empty, and without a dimension; left out")
        return
    space = space_of(source)
    target = None
    left_out = []
    for offset in range(0, count, PAGE):
        page = source.get(limit=PAGE, offset=offset, include=["embeddings", "documents", "metadatas"])
        vectors = np.asarray(page["embeddings"], dtype=np.float32)
        if target is None:
            target = store.create_collection(source.name, vectors.shape[1], metric=space, keys=str)
        fits = [
            len(key.encode()) <= 512 and (space != "cosine" or bool(vector.any()))
            for key, vector in zip(page["ids"], vectors, strict=True)
        ]
        taken = [n for n, fit in enumerate(fits) if fit]
        left_out += [key for key, fit in zip(page["ids"], fits, strict=True) if not fit]
        if not taken:
            continue
        documents = page["documents"] or [None] * len(vectors)
        metadatas = page["metadatas"] or [None] * len(vectors)
        target.upsert(
            [page["ids"][n] for n in taken],
            vectors[taken],
            [
                {
                    "text": documents[n] or "",
                    "metadata": {key: plain(value) for key, value in (metadatas[n] or {}).items()},
                }
                for n in taken
            ],
        )
    assert target is not None
    target.flush()
    print(f"{source.name}: {len(target):,} of {count:,} rows of {target.dim} numbers, {target.metric}")
    if left_out:
        some = ", ".join(key if len(key) <= 40 else f"{key[:37]}..." for key in left_out[:10])
        print(f"  left out, zero vectors or long ids: {len(left_out):,} rows, such as {some}")
    check(source, target, count - len(left_out))


def check(source: Any, target: nearstone.Collection, expected: int) -> None:
    if len(target) != expected:
        raise SystemExit(f"{source.name}: {len(target)} rows came over, {expected} were expected")
    if expected == 0:
        return
    keys = list(target.keys())
    some = [keys[n] for n in np.linspace(0, len(keys) - 1, min(CHECKS, len(keys)), dtype=int)]
    page = source.get(ids=some, include=["embeddings", "documents", "metadatas"])
    vectors = np.asarray(page["embeddings"], dtype=np.float32)
    if not np.array_equal(target.get_vectors(page["ids"]), vectors):
        raise SystemExit(f"{source.name}: vectors differ")
    for n, row in enumerate(target.get(page["ids"])):
        if row.payload["text"] != (page["documents"][n] or ""):
            raise SystemExit(f"{source.name}: the text of {row.key} differs")
        if row.payload["metadata"] != {k: plain(v) for k, v in (page["metadatas"][n] or {}).items()}:
            raise SystemExit(f"{source.name}: the metadata of {row.key} differ")
    ours = target.search(vectors, k=K, exact=True, payloads=False)
    theirs = source.query(query_embeddings=vectors, n_results=K, include=["distances"])["ids"]
    agree = sum(len(set(a) & set(b)) for a, b in zip(ours.keys, theirs, strict=True))
    total = sum(len(row) for row in ours.keys)
    print(
        f"  checked {len(some)} rows; of their {K} nearest {agree / total:.1%} are Chroma's (ours are exact)"
    )


def main(chroma_folder: Path, path: Path) -> None:
    client = open_chroma(chroma_folder)
    with nearstone.open(path) as store:
        # The embedding function is not needed: the embeddings are there.
        names = sorted(getattr(each, "name", each) for each in client.list_collections())
        taken = set(names) & set(store.collections())
        if taken:
            raise SystemExit(f"{path} already has collections named {', '.join(sorted(taken))}")
        for name in names:
            migrate(client.get_collection(name, embedding_function=None), store)
        store.compact()
        print(f"{len(store.collections())} collections in {path}")


if __name__ == "__main__":
    if chromadb is None:
        print("Nothing done: Chroma folders are read with the package chromadb, which is not installed.")
        print("Install it with: pip install chromadb")
    elif len(sys.argv) == 3:
        if not (Path(sys.argv[1]) / "chroma.sqlite3").is_file():
            raise SystemExit(f"{sys.argv[1]} is not a Chroma folder: it has no chroma.sqlite3")
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    elif len(sys.argv) == 1:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            make_sample(Path(scratch) / "chroma")
            main(Path(scratch) / "chroma", Path(scratch) / "migrated.near")
    else:
        raise SystemExit("give a Chroma folder and a store, or nothing")
