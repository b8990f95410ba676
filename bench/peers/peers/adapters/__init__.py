"""The libraries by name, in the order of the report. Modules are imported when a worker needs them, not
before.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from .base import Adapter, Job, NotMeasurable, Setting

__all__ = ["ALL", "EXACT", "Adapter", "Entry", "Job", "NotMeasurable", "Setting", "adapter_class"]


class Entry(NamedTuple):
    """Where an adapter is, and the distribution that must be installed for it."""

    module: str
    cls: str
    package: str


ALL: dict[str, Entry] = {
    "hnswlib": Entry("hnswlib", "Hnswlib", "hnswlib"),
    "nearstone": Entry("nearstone", "Durable", "nearstone"),
    "nearstone-bulk": Entry("nearstone", "Bulk", "nearstone"),
    "nearstone-memory": Entry("nearstone", "InMemory", "nearstone"),
    "nearstone-exact": Entry("nearstone", "Exhaustive", "nearstone"),
    "faiss-hnsw": Entry("faiss", "Hnsw", "faiss-cpu"),
    "faiss-hnsw-sq8": Entry("faiss", "HnswSq8", "faiss-cpu"),
    "faiss-hnsw-pq": Entry("faiss", "HnswPq", "faiss-cpu"),
    "faiss-ivfpq": Entry("faiss", "IvfPq", "faiss-cpu"),
    "faiss-ivfpq-refine": Entry("faiss", "IvfPqRefine", "faiss-cpu"),
    "faiss-flat": Entry("faiss", "Flat", "faiss-cpu"),
    "usearch": Entry("usearch", "F32", "usearch"),
    "usearch-i8": Entry("usearch", "I8", "usearch"),
    "svs": Entry("svs", "Vamana", "scalable-vs"),
    "svs-lvq": Entry("svs", "VamanaLvq", "scalable-vs"),
    "ngt": Entry("ngt", "Anng", "ngt"),
    "voyager": Entry("voyager", "Voyager", "voyager"),
    "qdrant-edge": Entry("qdrant", "Plain", "qdrant-edge-py"),
    "qdrant-edge-int8": Entry("qdrant", "Int8", "qdrant-edge-py"),
    "zvec": Entry("zvec", "Plain", "zvec"),
    "zvec-int8": Entry("zvec", "Int8", "zvec"),
    "zvec-rabitq": Entry("zvec", "Rabitq", "zvec"),
    "lancedb": Entry("lancedb", "HnswSq", "lancedb"),
    "lancedb-refine": Entry("lancedb", "HnswSqRefine", "lancedb"),
    "chroma": Entry("chroma", "Chroma", "chromadb"),
    "exact": Entry("exact", "Exact", "numpy"),
}

EXACT = ("nearstone-exact", "faiss-flat", "exact")
"""Those that compare a query with every row."""


def adapter_class(name: str) -> type[Adapter]:
    """Imports the library; ImportError, or whatever else it raises then, says that it can't be had."""
    entry = ALL[name]
    found = getattr(import_module(f".{entry.module}_adapter", __name__), entry.cls)
    assert issubclass(found, Adapter) and found.name == name and found.package == entry.package
    return found
