"""Index files: the format that `nearstone.compat.hnswlib` writes, and those of hnswlib that it reads.

All three hold rows of float32 under 64-bit labels, little-endian, and `read` tells them apart by their
first bytes and checks every size in them against the size of the file before it uses it.

**Our own**, version 1, for both classes. The graph is not in it; it is built again on loading::

    offset
         0  magic            8 bytes  0x93 "NSHNSW" 0x0a
         8  version          u32      1
        12  kind             u32      1 Index, 2 BFIndex
        16  space            u32      0 l2, 1 ip, 2 cosine
        20  dim              u32
        24  max_elements     u64
        32  live             u64      number of rows
        40  deleted          u64      number of rows marked as deleted
        48  next_label       u64      what the next row without a label gets
        56  M                u64
        64  ef_construction  u64
        72  random_seed      u64
        80  flags            u32      bit 0: replacing deleted rows is allowed
        84  crc              u32      CRC-32 of bytes 0 to 84
        88  labels           live x u64
            vectors          live x dim x f32
            labels           deleted x u64
            vectors          deleted x dim x f32
            crc              u32      CRC-32 of everything from 88 up to here
            end              4 bytes  "END\\n"

**hnswlib's Index**: 96 bytes of header, one record per element (the links of the ground layer, the vector,
the label), then for each element a u32 with the bytes of its upper links, and these. Byte 2 of a record has
bit 0 set when the element is marked as deleted. The space is not in the file. hnswlib writes this layout
since 0.3.4 at the latest, up to 0.8, on 64-bit machines.

**hnswlib's BFIndex**: three u64 (capacity, bytes per record, count), then as many records of vector and
label as the capacity, those beyond the count with undefined content.

What always holds: a file that `write` leaves under its name is complete and on the disk, since it is
written under another name, synced and renamed; a file that `read` accepts has exactly the size that its
header announces.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC = b"\x93NSHNSW\n"
VERSION = 1
INDEX, BF_INDEX = 1, 2
SPACES = ("l2", "ip", "cosine")

_HEADER = struct.Struct("<8sIIIIQQQQQQQI")
_HEADER_BYTES = _HEADER.size + 4
_END = b"END\n"
_FOOTER_BYTES = 4 + len(_END)

# offset of level 0, capacity, count, bytes per record, offset of the label, offset of the vector; highest
# level, entry point; links per upper layer, links on the ground layer, M; level multiplier; ef_construction.
_HNSW_HEADER = struct.Struct("<6QiI3QdQ")
_BF_HEADER = struct.Struct("<3Q")
_DELETED_BYTE, _DELETED_BIT = 2, 1

_BLOCK_BYTES = 16 << 20


@dataclass
class Saved:
    """What a file holds: rows and what belongs to them. `space` is None when the file does not say."""

    kind: int
    space: str | None
    dim: int
    max_elements: int
    labels: npt.NDArray[np.uint64]
    vectors: npt.NDArray[np.float32]
    deleted_labels: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    deleted_vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    next_label: int = 0
    M: int = 16
    ef_construction: int = 200
    random_seed: int = 100
    allow_replace_deleted: bool = False

    def __post_init__(self) -> None:
        self.vectors = self.vectors.reshape(len(self.labels), self.dim)
        self.deleted_vectors = self.deleted_vectors.reshape(len(self.deleted_labels), self.dim)


class Unreadable(RuntimeError):
    """A file that is cut, damaged, of another kind, or not an index at all; the text says which."""


def size_of(dim: int, rows: int) -> int:
    """Bytes of a file that `write` makes of so many rows, those marked as deleted among them."""
    return _HEADER_BYTES + rows * (8 + 4 * dim) + _FOOTER_BYTES


def block_rows(dim: int) -> int:
    """Rows that are read or written in one piece."""
    return max(1, _BLOCK_BYTES // (4 * dim + 8))


def write(
    path: str | os.PathLike[str],
    head: Saved,
    live: tuple[npt.NDArray[np.uint64], Iterable[npt.NDArray[np.float32]]],
    deleted: tuple[npt.NDArray[np.uint64], Iterable[npt.NDArray[np.float32]]],
) -> None:
    """Writes one file: the numbers of `head`, and rows as labels and blocks of vectors in their order.

    The file under `path` is the old one or the whole new one at any moment. Raises `OSError`.
    """
    # Through links, so that the file they point at is replaced and not the link.
    target = os.path.realpath(os.fspath(path))
    if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
        raise FileExistsError(f"{target} is not a regular file: it is not replaced")
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        head.kind,
        SPACES.index(head.space or "l2"),
        head.dim,
        head.max_elements,
        len(live[0]),
        len(deleted[0]),
        head.next_label,
        head.M,
        head.ef_construction,
        head.random_seed,
        int(head.allow_replace_deleted),
    )
    temporary = f"{target}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(header)
            file.write(struct.pack("<I", zlib.crc32(header)))
            crc = 0
            for labels, blocks in (live, deleted):
                crc = _put(file, labels.astype("<u8", copy=False), crc)
                for block in blocks:
                    crc = _put(file, block.astype("<f4", copy=False), crc)
            file.write(struct.pack("<I", crc) + _END)
            file.flush()
            written = file.tell()
            expected = size_of(head.dim, len(live[0]) + len(deleted[0]))
            if written != expected:
                raise AssertionError(f"{written} bytes were written instead of {expected}")
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _put(file: BinaryIO, array: npt.NDArray[np.generic], crc: int) -> int:
    data = np.ascontiguousarray(array)
    if data.size == 0:
        return crc
    view = data.reshape(-1).data.cast("B")
    file.write(view)
    return zlib.crc32(view, crc)


def _sync_folder(folder: str) -> None:
    """Makes the rename itself durable, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | os.PathLike[str], kind: int, dim: int | None = None) -> Saved:
    """Reads a file of ours or of hnswlib. `dim` None takes what the file has.

    Raises `Unreadable` when the file can't be opened or is not a whole file of this kind and dimension.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(len(MAGIC))
            file.seek(0)
            if start == MAGIC:
                saved = _read_own(file, size, name, kind)
            elif start and MAGIC.startswith(start):
                raise Unreadable(f"{name} is cut short: it has only {size} bytes")
            elif kind == INDEX:
                saved = _read_hnsw(file, size, name)
            else:
                saved = _read_bf(file, size, name, dim)
    except OSError as error:
        raise Unreadable(f"{name} can't be read: {error}") from error
    if dim is not None and saved.dim != dim:
        raise Unreadable(f"{name} holds vectors of dimension {saved.dim}: the index has dimension {dim}")
    for labels, vectors in ((saved.labels, saved.vectors), (saved.deleted_labels, saved.deleted_vectors)):
        _check_finite(name, labels, vectors)
    return saved


def _check_finite(name: str, labels: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> None:
    step = block_rows(max(1, vectors.shape[1]))
    for at in range(0, len(labels), step):
        odd = ~np.isfinite(vectors[at : at + step]).all(axis=1)
        if odd.any():
            label = labels[at + int(np.argmax(odd))]
            raise Unreadable(
                f"{name}: the vector under label {label} has a NaN or an infinity, which no search can use"
            )


def _read_own(file: BinaryIO, size: int, name: str, kind: int) -> Saved:
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        raise Unreadable(f"{name} is cut short: it has only {size} bytes")
    numbers, crc = header[: _HEADER.size], struct.unpack("<I", header[_HEADER.size :])[0]
    # The version stands before the checksum is judged: a later version may place it elsewhere.
    (_, version, is_kind, space, dim, max_elements, live, deleted, next_label, m, beam, seed, flags) = (
        _HEADER.unpack(numbers)
    )
    if version != VERSION:
        raise Unreadable(f"{name} is of version {version}: this program reads version {VERSION}")
    if zlib.crc32(numbers) != crc:
        raise Unreadable(f"{name} is damaged: the checksum of its header does not match")
    if is_kind != kind:
        is_name, name_wanted = ("Index", "BFIndex") if is_kind == INDEX else ("BFIndex", "Index")
        raise Unreadable(f"{name} was saved by {is_name}: {name_wanted} can't load it")
    expected = size_of(dim, live + deleted)
    if size != expected:
        how = "cut short" if size < expected else "longer than it should be"
        raise Unreadable(f"{name} is {how}: it has {size} bytes instead of {expected}")
    if space >= len(SPACES) or dim == 0 or live + deleted > max_elements:
        raise Unreadable(f"{name} is damaged: its header has numbers that can't be")

    crc = 0
    arrays: list[npt.NDArray[np.generic]] = []
    for dtype, count in (("<u8", live), ("<f4", live * dim), ("<u8", deleted), ("<f4", deleted * dim)):
        array = np.fromfile(file, dtype=dtype, count=count)
        if len(array) != count:
            raise Unreadable(f"{name} is cut short: it ended while it was read")
        if count:
            crc = zlib.crc32(array.data.cast("B"), crc)
        arrays.append(array)
    footer = file.read(_FOOTER_BYTES)
    if footer[4:] != _END or struct.unpack("<I", footer[:4])[0] != crc:
        raise Unreadable(f"{name} is damaged: the checksum of its rows does not match")
    return Saved(
        kind=kind,
        space=SPACES[space],
        dim=dim,
        max_elements=max_elements,
        labels=arrays[0].astype(np.uint64, copy=False),
        vectors=arrays[1].astype(np.float32, copy=False),
        deleted_labels=arrays[2].astype(np.uint64, copy=False),
        deleted_vectors=arrays[3].astype(np.float32, copy=False),
        next_label=next_label,
        M=m,
        ef_construction=beam,
        random_seed=seed,
        allow_replace_deleted=bool(flags & 1),
    )


def _read_hnsw(file: BinaryIO, size: int, name: str) -> Saved:
    foreign = f"{name} is not an index file, neither of Nearstone nor of hnswlib"
    header = file.read(_HNSW_HEADER.size)
    if len(header) < _HNSW_HEADER.size:
        raise Unreadable(f"{foreign}, or it is cut short: it has only {size} bytes")
    (level0, capacity, count, stride, label_at, vector_at, _, entry, upper, ground, m, _, beam) = (
        _HNSW_HEADER.unpack(header)
    )
    vector_bytes = label_at - vector_at
    if (
        level0 != 0
        or vector_at != 4 * ground + 4
        or stride != label_at + 8
        or vector_bytes <= 0
        or vector_bytes % 4
        or count > capacity
        or (count > 0 and entry >= count)
    ):
        raise Unreadable(foreign)
    links_at = _HNSW_HEADER.size + count * stride
    # Each element has at least the u32 with the size of its upper links.
    if links_at + 4 * count > size:
        raise Unreadable(
            f"{name} is cut short: {count} elements need {links_at + 4 * count} bytes, it has {size}"
        )

    # Read in blocks and not through a map: a file that shrinks under a map ends the process.
    dim = vector_bytes // 4
    labels = np.empty(count, np.uint64)
    vectors = np.empty((count, dim), np.float32)
    marked = np.empty(count, bool)
    step = max(1, _BLOCK_BYTES // stride)
    for at in range(0, count, step):
        rows = min(step, count - at)
        block = np.fromfile(file, np.uint8, rows * stride)
        if len(block) != rows * stride:
            raise Unreadable(f"{name} is cut short: it ended while it was read")
        block = block.reshape(rows, stride)
        part = slice(at, at + rows)
        marked[part] = block[:, _DELETED_BYTE] & _DELETED_BIT
        vectors[part] = np.ascontiguousarray(block[:, vector_at:label_at]).view("<f4")
        labels[part] = np.ascontiguousarray(block[:, label_at:]).view("<u8")[:, 0]
    _check_upper_links(file.read(), count, 4 * upper + 4, name)

    keep = _last_of_each(labels)
    live, gone = keep & ~marked, keep & marked
    return Saved(
        kind=INDEX,
        space=None,
        dim=dim,
        max_elements=capacity,
        labels=labels[live],
        vectors=vectors[live],
        deleted_labels=labels[gone],
        deleted_vectors=vectors[gone],
        next_label=count,
        M=m,
        ef_construction=beam,
    )


def _check_upper_links(tail: bytes, count: int, layer_bytes: int, name: str) -> None:
    """Walks the lists behind the records: they must fill the rest of the file exactly."""
    at = 0
    for _ in range(count):
        if at + 4 > len(tail):
            raise Unreadable(f"{name} is cut short: upper links are missing at its end")
        length = int.from_bytes(tail[at : at + 4], "little")
        if length % layer_bytes:
            raise Unreadable(f"{name} is damaged: a list of upper links has {length} bytes")
        at += 4 + length
    if at != len(tail):
        how = "cut short" if at > len(tail) else "longer than it should be"
        raise Unreadable(f"{name} is {how}: its upper links take {at} bytes, {len(tail)} are there")


def _last_of_each(labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Marks the last element of each label. hnswlib can leave two under one label when it replaces deleted
    elements; its own table of labels keeps the later one."""
    keep = np.zeros(len(labels), bool)
    _, first_from_behind = np.unique(labels[::-1], return_index=True)
    keep[len(labels) - 1 - first_from_behind] = True
    return keep


def _read_bf(file: BinaryIO, size: int, name: str, dim: int | None) -> Saved:
    foreign = f"{name} is not a BFIndex file, neither of Nearstone nor of hnswlib"
    header = file.read(_BF_HEADER.size)
    if len(header) < _BF_HEADER.size:
        raise Unreadable(f"{foreign}, or it is cut short: it has only {size} bytes")
    capacity, stride, count = _BF_HEADER.unpack(header)
    if stride <= 8 or stride % 4 or count > capacity:
        raise Unreadable(foreign)
    is_dim = (stride - 8) // 4
    expected = _BF_HEADER.size + capacity * stride
    if size != expected:
        # Without a magic number, a right record size is what tells a cut file from a foreign one.
        if dim == is_dim:
            how = "cut short" if size < expected else "longer than it should be"
            raise Unreadable(f"{name} is {how}: it has {size} bytes instead of {expected}")
        raise Unreadable(foreign)
    block = np.fromfile(file, np.uint8, count * stride)
    if len(block) != count * stride:
        raise Unreadable(f"{name} is cut short: it ended while it was read")
    block = block.reshape(count, stride)
    labels = np.ascontiguousarray(block[:, -8:]).view("<u8").reshape(count).astype(np.uint64, copy=False)
    vectors = np.ascontiguousarray(block[:, :-8]).view("<f4").reshape(count, is_dim)
    keep = _last_of_each(labels)
    return Saved(
        kind=BF_INDEX,
        space=None,
        dim=is_dim,
        max_elements=capacity,
        labels=labels[keep],
        vectors=vectors[keep].astype(np.float32, copy=False),
        next_label=count,
    )
