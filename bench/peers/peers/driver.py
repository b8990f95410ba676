"""One run: a data set, its truth, and every peer in turn.

    write rows and queries to files -> build the yardstick (hnswlib) and Nearstone, keep their processes for
    each peer:  build -> for each setting, several rounds of: the peer, hnswlib, Nearstone (the best round
    counts)
                    -> batch and parallel calls -> memory, disk -> single-row inserts -> write results.json

What the yardstick did during the rounds of a peer is kept with that peer, and ratios are made from it: both
saw the same minutes of the machine. A peer that fails is written down with the reason and the run goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import inserts, machine
from .adapters import ALL
from .datasets import Dataset
from .process import PeerFailed, Process
from .recall import Truth

FORMAT = 1
INSERT_SECONDS = 30.0
"""Slow databases make fewer inserts than asked for."""
BATCH_MODES = ("batch", "threads")

Results = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a run does; two runs with equal plans can be continued by each other."""

    dataset: str
    rows: int
    queries: int
    seed: int
    k: int
    efs: tuple[int, ...]
    rounds: int
    threads: int
    pass_seconds: float
    cap_seconds: float
    budget_seconds: float
    inserts: int
    pin: bool
    beside: tuple[str, ...]


class Run:
    """``say`` gets one line of progress at a time; ``keep`` is called with the results after each peer."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        out: Path,
        say: Callable[[str], None],
        keep: Callable[[Results], None],
        results: Results | None = None,
    ) -> None:
        self.plan, self.out, self.say, self.keep = plan, out, say, keep
        self.scratch = out / "scratch-of-this-run"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        self.logs = out / "logs"
        if results is None:
            shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(exist_ok=True)
        self.truth = Truth(dataset, plan.k)
        self.dataset = dataset
        self.results = results or {
            "format": FORMAT,
            "machine": machine.describe(),
            "plan": asdict(plan),
            "dataset": {
                "name": dataset.name,
                "dim": dataset.dim,
                "metric": dataset.metric,
                "truth": self.truth.source,
            },
            "notes": [],
            "peers": {},
        }
        if results is not None:
            self.results.setdefault("continued", []).append(machine.describe())
        self.kept: dict[str, tuple[Process, Results]] = {}
        self.living: list[Process] = []
        self.starts = 0

    def peers(self, names: Sequence[str], done: Callable[[str], bool]) -> None:
        """Measures these; ``done`` names those to leave as they are. Every process is gone at the end."""
        try:
            self._write_matrices()
            wanted = [name for name in names if not done(name)]
            if wanted:
                for name in self.plan.beside:
                    self._start_beside(name)
            for name in names:
                if done(name):
                    self.say(f"{name}: done before")
                    continue
                began = time.monotonic()
                entry = self._peer(name)
                entry["total_seconds"] = time.monotonic() - began
                self.results["peers"][name] = entry
                self.keep(self.results)
                verdict = entry["status"] + (f": {entry['reason']}" if entry.get("reason") else "")
                self.say(f"{name}: {verdict} ({entry['total_seconds']:.0f} s)")
        finally:
            for process in self.living:
                process.kill()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _write_matrices(self) -> None:
        np.save(self.scratch / "rows.npy", self.dataset.rows)
        np.save(self.scratch / "queries.npy", self.dataset.queries)
        # From here on the rows are read from the file, so that the driver holds no copy beside those of the
        # peers.
        mapped = np.load(self.scratch / "rows.npy", mmap_mode="r")
        self.dataset = Dataset(
            self.dataset.name, self.dataset.metric, mapped, self.dataset.queries, self.dataset.known
        )
        self.truth.dataset = self.dataset

    def _order(self, name: str, folder: Path) -> dict[str, Any]:
        return {
            "name": name,
            "folder": str(folder),
            "dim": self.dataset.dim,
            "metric": self.dataset.metric,
            "rows": self.plan.rows,
            "threads": self.plan.threads,
            "rows_path": str(self.scratch.resolve() / "rows.npy"),
            "queries_path": str(self.scratch.resolve() / "queries.npy"),
            "efs": list(self.plan.efs),
            "pin": self.plan.pin,
        }

    def _start(self, name: str, seconds: float) -> tuple[Process, Results]:
        """A worker that has built, and what that took; PeerFailed with the reason otherwise."""
        package = ALL[name].package
        version = machine.version_of(package)
        if version is None:
            raise PeerFailed(f"the package {package} is not installed")
        self.starts += 1
        folder = self.scratch.resolve() / f"{self.starts}-{name}"
        folder.mkdir()
        process = Process(self._order(name, folder), self.logs / f"{name}.log")
        self.living.append(process)
        self.say(f"{name} {version}: building")
        try:
            built = process.ask(seconds, cmd="build")
        except PeerFailed:
            self._end(process, orderly=False)
            raise
        built |= {"package": package, "version": version, "folder": str(folder)}
        self.say(f"{name}: built in {built['seconds']:.1f} s")
        return process, built

    def _end(self, process: Process, orderly: bool = True) -> None:
        process.quit() if orderly else process.kill()
        self.living.remove(process)

    def _start_beside(self, name: str) -> None:
        try:
            self.kept[name] = self._start(name, self.plan.budget_seconds)
        except PeerFailed as error:
            self._note(f"{name} does not run beside the others: {error}")

    def _note(self, text: str) -> None:
        self.say(text)
        if text not in self.results["notes"]:
            self.results["notes"].append(text)

    def _peer(self, name: str) -> Results:
        deadline = time.monotonic() + self.plan.budget_seconds
        entry: Results = {"status": "not measured", "package": ALL[name].package, "points": []}
        kept = self.kept.get(name)
        process: Process | None = None
        try:
            process, built = kept or self._start(name, self.plan.budget_seconds)
            entry |= {key: built[key] for key in ("version", "note", "queries", "threads_by")}
            entry["build"] = {
                key: built[key] for key in ("seconds", "cores", "import_seconds", "reading_seconds")
            }
            entry["memory_before"], entry["memory_built"] = built["memory_before"], built["memory"]
            self._sweep(process, built, entry, deadline)
            entry["memory_searched"] = process.ask(60, cmd="memory")
            entry["disk"] = process.ask(max(60.0, deadline - time.monotonic()), cmd="save")
            entry["status"] = "partial" if entry.get("reason") else "measured"
        except (PeerFailed, ValueError) as error:  # ValueError: ids that are no rows
            entry["reason"] = str(error)
            entry["status"] = "partial" if entry["points"] else "not measured"
            if kept is not None and process is not None:
                self._drop_beside(name, str(error))
                process = None
        finally:
            if process is not None and kept is None:
                if process in self.living:
                    self._end(process)
                shutil.rmtree(built["folder"], ignore_errors=True)
        if entry["status"] != "not measured":
            entry["inserts"] = self._inserts(name, built)
        return entry

    def _sweep(self, process: Process, built: Results, entry: Results, deadline: float) -> None:
        settings = built["settings"]
        for number, setting in enumerate(settings):
            if time.monotonic() > deadline:
                left = ", ".join(one["label"] for one in settings[number:])
                entry["reason"] = f"out of its {self.plan.budget_seconds:.0f} s before {left}"
                return
            # The others get the setting at the same place of their own sweep.
            place = round(number * (len(self.plan.efs) - 1) / max(len(settings) - 1, 1))
            point: Results = {
                "setting": setting["label"],
                "value": setting["value"],
                "rounds": [],
                "beside": {},
                "load": os.getloadavg()[0],
            }
            for _ in range(self.plan.rounds):
                point["rounds"].append(self._search(process, "one", setting["value"], deadline))
                for other in list(self.kept):
                    if self.kept[other][0] is not process:
                        self._search_beside(other, self.plan.efs[place], point)
            for mode in BATCH_MODES if built["has_batch"] else ("threads",):
                point[mode] = [
                    self._search(process, mode, setting["value"], deadline) for _ in range(self.plan.rounds)
                ]
            entry["points"].append(point)
            best = max(point["rounds"], key=lambda one: one["qps"])
            self.say(
                f"{process.name}: {setting['label']}: recall {best['recall']:.4f}, {best['qps']:.0f} QPS"
            )

    def _search(self, process: Process, mode: str, value: float, deadline: float) -> Results:
        ids = self.scratch.resolve() / "ids.npy"
        left = max(60.0, deadline - time.monotonic() + 2 * self.plan.cap_seconds)
        found = process.ask(
            left,
            cmd="search",
            mode=mode,
            value=value,
            k=self.plan.k,
            seconds=self.plan.pass_seconds,
            cap=self.plan.cap_seconds,
            out=str(ids),
        )
        return {**found, "recall": self.truth.recall(np.load(ids))}

    def _search_beside(self, name: str, ef: int, point: Results) -> None:
        process, built = self.kept[name]
        # By the value, not by the place: the sweeps of those that run beside are over ef.
        try:
            found = self._search(process, "one", ef, time.monotonic() + self.plan.budget_seconds)
        except (PeerFailed, ValueError) as error:
            self._drop_beside(name, str(error))
            return
        point["beside"].setdefault(name, {"ef": ef, "rounds": []})["rounds"].append(found)

    def _drop_beside(self, name: str, why: str) -> None:
        process, _ = self.kept.pop(name)
        if process in self.living:
            self._end(process, orderly=False)
        self._note(f"{name} no longer ran beside the others: {why}")

    def _inserts(self, name: str, built: Results) -> list[Results]:
        if not built["has_inserts"] or self.plan.inserts == 0:
            return []
        found: list[Results] = []
        for mode in ("default", "flush") if built["has_sync"] else ("default",):
            self.say(f"{name}: single-row inserts, {mode}")
            try:
                order = self._order(name, self.scratch)
                one = inserts.measure(
                    order,
                    self.scratch.resolve() / "inserts",
                    mode,
                    min(self.plan.inserts, self.plan.rows),
                    INSERT_SECONDS,
                )
            except PeerFailed as error:
                one = {"mode": mode, "reason": str(error)}
            found.append(one)
        return found


def read_results(path: Path, plan: Plan) -> Results:
    """Results of an earlier run with the same plan, to go on with; ValueError when the plans differ."""
    results = json.loads(path.read_text())
    mine = json.loads(json.dumps(asdict(plan)))
    theirs = results.get("plan", {})
    if results.get("format") != FORMAT or theirs != mine:
        differs = [key for key in mine if theirs.get(key) != mine[key]] or ["format"]
        raise ValueError(
            f"{path} was made otherwise ({', '.join(differs)}); give another --out or leave out --resume"
        )
    return results
