"""Chroma: HNSW in the process, rows and write-ahead log in SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings

from ..datasets import Matrix
from ..rows import Rows
from .base import EF_CONSTRUCTION, Adapter, M

BATCH = 5000


class Chroma(Adapter):
    name = "chroma"
    package = "chromadb"
    kind = "database"
    note = f"PersistentClient, max_neighbors {M}, ef_construction {EF_CONSTRUCTION}; reopened for each ef"
    query_limit = 200
    batch_threads = False
    has_inserts = True

    def _client(self) -> Any:
        return chromadb.PersistentClient(str(self.path), settings=Settings(anonymized_telemetry=False))

    def open_empty(self) -> None:
        self.path = self.job.folder / "chroma"
        self.client = self._client()
        self.rows = self.client.create_collection(
            "rows",
            embedding_function=None,
            configuration={
                "hnsw": {
                    "space": "cosine" if self.job.metric == "cosine" else "l2",
                    "ef_construction": EF_CONSTRUCTION,
                    "max_neighbors": M,
                    "num_threads": self.job.threads,
                }
            },
        )

    def build(self, rows: Rows) -> None:
        self.open_empty()
        for start, batch in rows.batches(BATCH):
            self.rows.add(ids=[str(start + i) for i in range(len(batch))], embeddings=batch)

    def use(self, value: float) -> None:
        # An open index keeps the ef it was opened with, so the client is closed and opened again.
        self.rows.modify(configuration={"hnsw": {"ef_search": int(value)}})
        self._forget()
        self.client = self._client()
        self.rows = self.client.get_collection("rows", embedding_function=None)

    def _forget(self) -> None:
        self.client.close() if hasattr(self.client, "close") else self.client.clear_system_cache()

    def prepare(self, queries: Matrix) -> list[Any]:
        return [query[None, :] for query in queries]

    def one(self, query: Matrix, k: int) -> Any:
        return self.rows.query(query_embeddings=query, n_results=k, include=[])["ids"][0]

    def many(self, queries: Matrix, k: int, threads: int) -> Any:
        return self.rows.query(query_embeddings=queries, n_results=k, include=[])["ids"]

    def save(self) -> Path:
        return self.path

    def insert(self, number: int, vector: Matrix) -> None:
        self.rows.add(ids=[str(number)], embeddings=vector.reshape(1, -1))
