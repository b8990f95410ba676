"""The process in which one library builds and searches.

It reads commands, one JSON object per line, from standard input and answers each with one line: ``build``,
``search``, ``change``, ``rest``, ``own``, ``memory``, ``save``, ``quit``. The answer goes to what was
standard output at the start; whatever the library prints goes to the log. Answers to queries go into a file
of ids, for the driver to judge.

Three ways to search: ``one`` calls the library once per query and takes the time of every call, ``batch``
hands over all queries in one call on one thread, ``threads`` uses all threads, by the library's own batch
call where it has such and by Python threads otherwise. The first two are pinned to one core when asked, so
"one thread" holds for libraries that keep pools.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import machine, system
from .adapters import Adapter, Job, NotMeasurable, adapter_class
from .datasets import Matrix
from .rows import Rows

WARM_UP_QUERIES = 50
WARM_UP_SECONDS = 0.5
REST_SECONDS, REST_SHARE, REST_SPANS = 1.0, 0.03, 600
"""A process is at rest when it took less than this share of a core for so long; so often is it looked at."""
QUERIES_MIN = 20
"""So many queries are answered even when the time of a pass is over."""


class Worker:
    def __init__(self, order: dict[str, Any]) -> None:
        self.all_cores = os.sched_getaffinity(0)
        self.one_core = {max(self.all_cores)} if order["pin"] else self.all_cores
        began = time.perf_counter()
        cls = adapter_class(order["name"])
        self.import_seconds = time.perf_counter() - began
        self.job = Job(
            Path(order["folder"]),
            order["dim"],
            order["metric"],
            order["rows"],
            order["threads"],
            order.get("rows_max"),
        )
        self.adapter: Adapter = cls(self.job)
        self.rows_path = Path(order["rows_path"])
        self.queries: Matrix = np.load(order["queries_path"])
        if cls.query_limit is not None:
            self.queries = self.queries[: cls.query_limit]
        self.efs = order["efs"]
        self.value: float | None = None
        self.singles: list[Any] | None = None
        self.batch: Any = None

    def build(self) -> dict[str, Any]:
        system.keep_to(self.all_cores)
        rows = Rows(self.rows_path, self.job.rows)
        gc.collect()
        machine.reset_peak()
        before = machine.memory()
        began, cpu = time.perf_counter(), time.process_time()
        self.adapter.build(rows)
        seconds = time.perf_counter() - began - rows.seconds
        return {
            "seconds": seconds,
            "cores": (time.process_time() - cpu) / max(seconds, 1e-9),
            "reading_seconds": rows.seconds,
            "import_seconds": self.import_seconds,
            "memory_before": before,
            "memory": machine.memory(),
            "settings": [setting.__dict__ for setting in self.adapter.settings(self.efs, self.job)],
            "queries": len(self.queries),
            "has_batch": self.adapter.has_batch,
            "has_inserts": self.adapter.has_inserts,
            "has_sync": self.adapter.has_sync,
            "threads_by": "batch call"
            if self.adapter.has_batch and self.adapter.batch_threads
            else "Python threads",
            "note": self.adapter.note,
        }

    def search(self, command: dict[str, Any]) -> dict[str, Any]:
        mode, k, cap = command["mode"], command["k"], command["cap"]
        # Unpinned first: a library that starts threads when its setting changes must not start them on one
        # core.
        if mode == "threads" or self.value != command["value"]:
            system.keep_to(self.all_cores)
        if self.value != command["value"]:
            self.adapter.use(command["value"])
            self.value = command["value"]
        if mode != "threads":
            system.keep_to(self.one_core)
        if self.singles is None:
            self.singles = self.adapter.prepare(self.queries)
        own_call = self.adapter.has_batch and (mode == "batch" or self.adapter.batch_threads)
        if own_call and mode != "one" and self.batch is None:
            self.batch = self.adapter.prepare_batch(self.queries)
        passes: dict[str, Callable[[], dict[str, Any]]] = {
            "one": lambda: self._one_by_one(k, cap),
            "batch": lambda: self._in_one_call(k, 1),
            "threads": lambda: (
                self._in_one_call(k, self.job.threads) if own_call else self._by_python_threads(k)
            ),
        }
        self._warm_up(k)
        best: dict[str, Any] | None = None
        end = time.perf_counter() + command["seconds"]
        gc.collect()
        gc.disable()
        try:
            while best is None or time.perf_counter() < end:
                found = passes[mode]()
                if best is None or found["qps"] > best["qps"]:
                    best = found
        finally:
            gc.enable()
        np.save(command["out"], _ids(best.pop("answers"), k))
        return best

    def _warm_up(self, k: int) -> None:
        end = time.perf_counter() + WARM_UP_SECONDS
        for query in self.singles[:WARM_UP_QUERIES]:
            self.adapter.one(query, k)
            if time.perf_counter() > end:
                break

    def _one_by_one(self, k: int, cap: float) -> dict[str, Any]:
        clock, one = time.perf_counter_ns, self.adapter.one
        answers: list[Any] = []
        took = np.empty(len(self.singles), dtype=np.int64)
        cpu, began = time.process_time(), clock()
        for number, query in enumerate(self.singles):
            start = clock()
            answers.append(one(query, k))
            end = clock()
            took[number] = end - start
            if end - began > cap * 1e9 and number + 1 >= QUERIES_MIN:
                break
        wall = (clock() - began) / 1e9
        us = took[: len(answers)] / 1e3
        p50, p95, p99 = np.percentile(us, [50, 95, 99])
        return {
            **_speed(answers, wall, time.process_time() - cpu),
            "mean_us": float(us.mean()),
            "p50_us": float(p50),
            "p95_us": float(p95),
            "p99_us": float(p99),
        }

    def _in_one_call(self, k: int, threads: int) -> dict[str, Any]:
        cpu, began = time.process_time(), time.perf_counter()
        answers = self.adapter.many(self.batch, k, threads)
        wall = time.perf_counter() - began
        return _speed(answers, wall, time.process_time() - cpu)

    def _by_python_threads(self, k: int) -> dict[str, Any]:
        threads, one = self.job.threads, self.adapter.one
        parts = [self.singles[part::threads] for part in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(time.sleep, [0.01] * threads))  # starts the threads
            cpu, began = time.process_time(), time.perf_counter()
            found = list(pool.map(lambda part: [one(query, k) for query in part], parts))
            wall = time.perf_counter() - began
            cpu = time.process_time() - cpu
        answers: list[Any] = [None] * len(self.singles)
        for part, answer in enumerate(found):
            answers[part::threads] = answer
        return {"answers": answers, **_speed(answers, wall, cpu)}

    def change(self, path: Path, vectors: Path) -> dict[str, Any]:
        """One round of a runbook; only the calls of the library are timed."""
        if not self.adapter.has_changes:
            raise NotMeasurable("its rows can't be changed here")
        system.keep_to(self.all_cores)
        round_ = np.load(path)
        rows = np.load(vectors, mmap_mode="r")
        replaced = np.ascontiguousarray(rows[round_["replaced_rows"]])
        inserted = np.ascontiguousarray(rows[round_["inserted_rows"]])
        began = time.perf_counter()
        # A round may be empty in parts, which is no call for the library then.
        if len(replaced):
            self.adapter.replace(round_["replaced"], replaced)
        if len(round_["deleted"]):
            self.adapter.remove(round_["deleted"])
        if len(inserted):
            self.adapter.add(round_["inserted"], inserted)
        self.adapter.changed()
        return {"seconds": time.perf_counter() - began}

    def rest(self) -> dict[str, Any]:
        """Waits for what the library does behind, as far as the processor's time tells."""
        system.keep_to(self.all_cores)
        began = time.perf_counter()
        for _ in range(REST_SPANS):
            before = time.process_time()
            time.sleep(REST_SECONDS)
            if time.process_time() - before < REST_SHARE * REST_SECONDS:
                break
        return {"seconds": time.perf_counter() - began}

    def own(self, command: dict[str, Any]) -> dict[str, Any]:
        """How many keys a search by their own vector does not find, nor a wider one."""
        keys, vectors = np.load(command["keys"])["keys"], Rows(Path(command["vectors"])).all()
        prepared = self.adapter.prepare(vectors)
        missing = np.arange(len(keys))
        counts = []
        for k, value in (command["narrow"], command["wide"]):
            self.adapter.use(value)
            missing = [one for one in missing if not self._finds(prepared[one], int(keys[one]), k)]
            counts.append(len(missing))
        # The next search sets its own value.
        self.value = None
        return {"missed": counts[0], "lost": counts[1]}

    def _finds(self, query: Any, key: int, k: int) -> bool:
        return any(int(found) == key for found in self.adapter.one(query, k))

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["cmd"]:
            case "build":
                return self.build()
            case "search":
                return self.search(command)
            case "change":
                return self.change(Path(command["path"]), Path(command["vectors"]))
            case "rest":
                return self.rest()
            case "own":
                return self.own(command)
            case "memory":
                return machine.memory()
            case "save":
                return machine.bytes_on_disk(self.adapter.save())
            case "quit":
                self.adapter.close()
                return {}
            case other:
                raise ValueError(f"unknown command {other!r}")


def _speed(answers: Sequence[Any], wall: float, cpu: float) -> dict[str, Any]:
    return {
        "answers": answers,
        "queries": len(answers),
        "qps": len(answers) / wall,
        "cores": cpu / wall,
    }


def _ids(answers: Sequence[Sequence[Any]], k: int) -> np.ndarray:
    out = np.full((len(answers), k), -1, dtype=np.int64)
    for number, answer in enumerate(answers):
        found = [int(one) for one in answer][:k]
        out[number, : len(found)] = found
    return out


def serve(commands: TextIO, answers: TextIO, order: dict[str, Any]) -> None:
    """Answers commands until ``quit`` or the end of the input; an error is an answer too."""
    worker: Worker | None = None
    for line in commands:
        command = json.loads(line)
        try:
            if worker is None:
                worker = Worker(order)
            reply = {"ok": True, **worker.answer(command)}
        except NotMeasurable as reason:
            reply = {"ok": False, "reason": str(reason)}
        except ImportError as missing:
            traceback.print_exc()
            reply = {"ok": False, "reason": f"can't be imported: {missing}"}
        except Exception as error:
            traceback.print_exc()
            reply = {"ok": False, "reason": f"{type(error).__name__}: {error}"[:400]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if command["cmd"] == "quit":
            break


def main() -> None:
    system.die_with_parent()
    system.first_to_go()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers, json.loads(sys.argv[1]))
    # Some libraries hang or crash while the interpreter takes them down; all that mattered is closed by now.
    answers.close()
    os._exit(0)


if __name__ == "__main__":
    main()
