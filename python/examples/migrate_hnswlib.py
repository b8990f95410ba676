"""From an hnswlib index file to a Nearstone store.

    python migrate_hnswlib.py index.bin articles.near --space cosine

hnswlib's file holds vectors, labels, marks of deletion and a graph. This program

1. reads the file (its layout is in `nearstone.compat._hnswlib_file`),
2. puts the rows that are not marked as deleted into a collection of a store, under their labels,
3. builds the graph, and
4. checks the store against the file: every vector bit by bit, and searches against exact ones; then closes
   the store, opens it again and counts.

The file does not say which space it was made with, so `--space` must: l2, ip or cosine. Under cosine, rows
are normalised already, and zero vectors, which hnswlib accepts, are left out, since no direction is near
them.

Without arguments it makes a small sample file in a temporary folder first, with hnswlib where that is
installed, else by writing the layout by hand. A program that wants to keep hnswlib's calls does not need
any of this: ``nearstone.compat.hnswlib.Index(space, dim, path=folder).load_index(file)`` is all.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import nearstone
from nearstone.compat import hnswlib as compat

ROWS_PER_CALL = 10_000
QUERIES = 200
RECALL_MIN = 0.95


def main() -> int:
    parser = argparse.ArgumentParser(description="Moves an hnswlib index file into a Nearstone store.")
    parser.add_argument("file", nargs="?", type=Path, help="what Index.save_index wrote (default: a sample)")
    parser.add_argument("store", nargs="?", type=Path, help="the store's folder (default: beside the file)")
    parser.add_argument("--space", choices=("l2", "ip", "cosine"), default="l2", help="the index's space")
    parser.add_argument("--collection", default="items", help="the collection to make (default: items)")
    given = parser.parse_args()

    try:
        return run(given)
    except (nearstone.Error, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(given: argparse.Namespace) -> int:
    """Takes the file that was given, or makes one."""
    if given.file is not None:
        return migrate(
            given.file, given.store or given.file.with_suffix(".near"), given.space, given.collection
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sample.bin"
        print(f"no file given: {make_sample(file, given.space)}")
        return migrate(file, Path(folder) / "sample.near", given.space, given.collection)


def migrate(file: Path, folder: Path, space: str, name: str) -> int:
    """Does it; gives the program's exit code."""
    saved = compat.read_index(file)
    labels, vectors = saved.labels, saved.vectors
    if space == "cosine":
        nonzero = vectors.any(axis=1)
        labels, vectors = labels[nonzero], vectors[nonzero]
    left_out = len(saved.labels) - len(labels)
    print(f"{file}: {len(labels)} rows of dimension {saved.dim}", end="")
    print(f", {len(saved.deleted_labels)} marked as deleted, {left_out} zero vectors left out")

    with nearstone.open(folder) as store:
        m = min(max(saved.M, 4), 64)
        rows = store.create_collection(
            name,
            saved.dim,
            metric=space,
            keys=int,
            m=m,
            ef_construction=min(max(saved.ef_construction, m), 10_000),
        )
        for at in range(0, len(labels), ROWS_PER_CALL):
            rows.upsert(labels[at : at + ROWS_PER_CALL], vectors[at : at + ROWS_PER_CALL])
        rows.link()
        faults = differences(rows, labels, vectors)

    # Closed and opened again: what counts is what is on the disk.
    with nearstone.open(folder, create=False) as store:
        count = len(store.collection(name))
        if count != len(labels):
            faults.append(f"{count} rows are in the store after opening it again, not {len(labels)}")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(f"{folder}: {len(labels)} rows in the collection {name!r}, checked")
    return 1 if faults else 0


def differences(
    rows: nearstone.Collection, labels: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]
) -> list[str]:
    """What is not as it should be, in words."""
    faults = []
    if len(rows) != len(labels):
        faults.append(f"{len(rows)} rows are in the store, not {len(labels)}")
    for at in range(0, len(labels), ROWS_PER_CALL):
        part = slice(at, at + ROWS_PER_CALL)
        if rows.get_vectors(labels[part]).tobytes() != vectors[part].tobytes():
            faults.append(f"vectors differ between rows {at} and {at + ROWS_PER_CALL}")
    if len(labels):
        some = np.random.default_rng(0).choice(len(labels), min(QUERIES, len(labels)), replace=False)
        k = min(10, len(labels))
        found = rows.search(vectors[some], k, ef=128, payloads=False).keys
        true = rows.search(vectors[some], k, exact=True, payloads=False).keys
        recall = np.mean(
            [len(set(f) & set(t)) / k for f, t in zip(found.tolist(), true.tolist(), strict=True)]
        )
        print(f"recall of {k} neighbours against exact search: {recall:.4f}")
        if recall < RECALL_MIN:
            faults.append(f"the recall is {recall:.4f}, less than {RECALL_MIN}")
    return faults


def make_sample(file: Path, space: str) -> str:
    """Writes a file as hnswlib does, with 2,000 rows of which 20 are marked as deleted; says how."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2000, 32)).astype(np.float32)
    labels = np.arange(2000, dtype=np.uint64) * 7 + 1
    marked = labels[::100]
    try:
        import hnswlib
    except ImportError:
        if space == "cosine":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        write_by_hand(file, labels, vectors, marked)
        return f"made {file} by hand"
    index = hnswlib.Index(space=space, dim=vectors.shape[1])
    index.init_index(max_elements=3000, M=16, ef_construction=100)
    index.add_items(vectors, labels)
    for label in marked:
        index.mark_deleted(int(label))
    index.save_index(str(file))
    return f"made {file} with hnswlib"


def write_by_hand(
    file: Path,
    labels: npt.NDArray[np.uint64],
    vectors: npt.NDArray[np.float32],
    marked: npt.NDArray[np.uint64],
    m: int = 16,
    ef_construction: int = 100,
) -> None:
    """hnswlib's layout without its links, so that hnswlib itself would load it and find nothing."""
    count, dim = vectors.shape
    links_bytes = 4 + 4 * 2 * m
    record = np.dtype(
        {
            "names": ["count", "mark", "vector", "label"],
            "formats": ["<u2", "u1", ("<f4", dim), "<u8"],
            "offsets": [0, 2, links_bytes, links_bytes + 4 * dim],
            "itemsize": links_bytes + 4 * dim + 8,
        }
    )
    records = np.zeros(count, record)
    records["vector"], records["label"] = vectors, labels
    records["mark"] = np.isin(labels, marked)
    header = struct.pack(
        "<6QiI3QdQ",
        0,
        count + 1000,
        count,
        record.itemsize,
        links_bytes + 4 * dim,
        links_bytes,
        0,
        0,
        m,
        2 * m,
        m,
        1 / np.log(m),
        ef_construction,
    )
    no_upper_links = bytes(4 * count)
    file.write_bytes(header + records.tobytes() + no_upper_links)


if __name__ == "__main__":
    sys.exit(main())
