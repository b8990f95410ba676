"""Libraries that are never left in peace: the same rounds of replaced, deleted and new rows for each of them.

    build from four fifths of the rows -> for each round: a tenth of the keys get other vectors, a fiftieth is
    deleted and as many new keys come -> every few rounds: recall over exact truth of the live rows, latency,
    memory -> at the end, when the process has come to rest: the same, every live row looked for by its own
    vector, disk -> the same library built afresh of the same rows

Vectors come from a pool and go back to its end, so that none is held twice and a true neighbour stays one
row. Each library works in a process of its own, one library after another. Recall is computed here, from
keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import machine
from .adapters import ALL
from .datasets import Dataset
from .process import PeerFailed, Process
from .recall import Ids, Truth, brute_force

POOL = 5
"""One in so many vectors waits in the pool at first."""
REPLACED, DELETED = 10, 50
"""One in so many rows, per round."""
ROWS_MIN = DELETED * POOL
LOOKS = 10
"""Recall is looked at so many times on the way."""
OWN, OWN_WIDE = (10, 64), (100, 2000)
"""(k, list length) with which a row is looked for by its own vector, and again where that misses it."""
CHANGING = ("hnswlib", "nearstone", "usearch", "exact")
"""Peers that can replace and delete rows."""
USUAL = CHANGING[:3]

Results = dict[str, Any]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    dataset: str
    rows: int
    queries: int
    seed: int
    k: int
    ef: int
    rounds: int
    threads: int
    pin: bool
    budget_seconds: float


@dataclass(frozen=True)
class Round:
    """What changes, in this order: keys that get the vectors of other rows, keys that go, keys that come."""

    replaced: Numbers
    replaced_rows: Numbers
    deleted: Numbers
    inserted: Numbers
    inserted_rows: Numbers


class Script:
    """Which key holds the vector of which row."""

    def __init__(self, rows: int, seed: int) -> None:
        if rows < ROWS_MIN:
            raise ValueError(f"churn needs at least {ROWS_MIN} rows, not {rows}")
        held = rows - rows // POOL
        self.keys: Numbers = np.arange(held)
        self.rows: Numbers = np.arange(held)
        self.pool: Numbers = np.arange(held, rows)
        self.next_key = held
        self.random = np.random.default_rng([seed, 4])

    def round(self) -> Round:
        replaced, deleted = len(self.keys) // REPLACED, len(self.keys) // DELETED
        places = self.random.permutation(len(self.keys))[: replaced + deleted]
        fresh, self.pool = self.pool[: len(places)], self.pool[len(places) :]
        self.pool = np.concatenate([self.pool, self.rows[places]])
        self.rows[places] = fresh
        stay, go = places[:replaced], places[replaced:]
        gone = self.keys[go]
        self.keys[go] = np.arange(self.next_key, self.next_key + deleted)
        self.next_key += deleted
        return Round(self.keys[stay], self.rows[stay], gone, self.keys[go], self.rows[go])


def rows_of(answers: Ids, keys: Numbers, rows: Numbers) -> tuple[Ids, int]:
    """The row whose vector each answered key holds, -1 where there is none; and how many keys were dead."""
    order = np.argsort(keys)
    places = order[np.minimum(np.searchsorted(keys, answers, sorter=order), len(keys) - 1)]
    alive = keys[places] == answers
    dead = int((~alive & (answers != -1)).sum())
    return np.where(alive, rows[places], -1), dead


def truth_of(dataset: Dataset, live: Numbers, k: int) -> Truth:
    """Truth over the live rows only, in numbers of all rows."""
    known = live[brute_force(dataset.metric, dataset.rows[live], dataset.queries, k)]
    return Truth(replace(dataset, known=known), k)


def looks_of(rounds: int) -> list[int]:
    """After which rounds recall is looked at: evenly spread, with the last one; 0 is before the first."""
    step = -(-rounds // LOOKS)
    return [0, *range(step, rounds, step), rounds]


class Run:
    """``say`` gets one line of progress at a time; ``keep`` is called with the results after each peer."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        out: Path,
        say: Callable[[str], None],
        keep: Callable[[Results], None],
    ) -> None:
        self.plan, self.say, self.keep = plan, say, keep
        self.looks = looks_of(plan.rounds)
        self.dataset = dataset
        self.scratch = out.resolve() / "scratch-of-this-run"
        self.logs = out / "logs"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()
        self.living: list[Process] = []
        self.results: Results = {
            "machine": machine.describe(),
            "plan": asdict(plan),
            "dataset": {"name": dataset.name, "dim": dataset.dim, "metric": dataset.metric},
            "peers": {},
        }

    def peers(self, names: Sequence[str]) -> None:
        try:
            self._write_script()
            for name in names:
                self.say(f"{name}: churn")
                entry: Results = {"status": "not measured", "looks": []}
                try:
                    self._peer(name, entry)
                    entry["status"] = "measured"
                except (PeerFailed, ValueError) as error:
                    entry["reason"] = str(error)
                    entry["status"] = "partial" if entry["looks"] else "not measured"
                for process in self.living:
                    process.kill()
                self.living.clear()
                self.results["peers"][name] = entry
                self.keep(self.results)
                self.say(f"{name}: {entry['status']}" + (f": {entry['reason']}" if "reason" in entry else ""))
        finally:
            for process in self.living:
                process.kill()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _write_script(self) -> None:
        """Rounds and truths are made once: they are the same for all."""
        np.save(self.scratch / "rows.npy", self.dataset.rows)
        np.save(self.scratch / "queries.npy", self.dataset.queries)
        script = Script(self.plan.rows, self.plan.seed)
        self.live = len(script.keys)
        self.held: dict[int, tuple[Numbers, Numbers]] = {}
        self.truths: dict[int, Truth] = {}
        for number in range(self.plan.rounds + 1):
            if number > 0:
                np.savez(self.scratch / f"round-{number}.npz", **asdict(script.round()))
            if number in self.looks:
                self.held[number] = script.keys.copy(), script.rows.copy()
                self.truths[number] = truth_of(self.dataset, script.rows, self.plan.k)
        self.say(f"{self.plan.rounds} rounds over {self.live:,} rows, {len(self.looks)} looks")
        np.save(self.scratch / "fresh.npy", self.dataset.rows[script.rows])

    def _start(self, name: str, rows: str) -> tuple[Process, Results]:
        package = ALL[name].package
        version = machine.version_of(package)
        if version is None:
            raise PeerFailed(f"the package {package} is not installed")
        folder = self.scratch / f"{name}-{Path(rows).stem}"
        folder.mkdir()
        order = {
            "name": name,
            "folder": str(folder),
            "dim": self.dataset.dim,
            "metric": self.dataset.metric,
            "rows": self.live,
            "threads": self.plan.threads,
            "rows_path": str(self.scratch / rows),
            "queries_path": str(self.scratch / "queries.npy"),
            "efs": [self.plan.ef],
            "pin": self.plan.pin,
            "changing": True,
        }
        process = Process(order, self.logs / f"{name}.log")
        self.living.append(process)
        built = process.ask(self.plan.budget_seconds, cmd="build")
        return process, {**built, "version": version}

    def _look(self, process: Process, held: tuple[Numbers, Numbers], truth: Truth) -> Results:
        """Recall, latency and memory now."""
        ids = self.scratch / "ids.npy"
        found = process.ask(
            self.plan.budget_seconds,
            cmd="search",
            mode="one",
            value=self.plan.ef,
            k=self.plan.k,
            seconds=0.0,
            cap=60.0,
            out=str(ids),
        )
        rows, dead = rows_of(np.load(ids), *held)
        memory = process.ask(60, cmd="memory")
        return {**found, "recall": truth.recall(rows), "dead_answers": dead, "memory": memory}

    def _peer(self, name: str, entry: Results) -> None:
        process, built = self._start(name, "rows.npy")
        entry |= {"version": built["version"], "note": built["note"], "build_seconds": built["seconds"]}
        seconds = 0.0
        for number in range(self.plan.rounds + 1):
            if number > 0:
                path = str(self.scratch / f"round-{number}.npz")
                seconds += process.ask(self.plan.budget_seconds, cmd="change", path=path)["seconds"]
            if number in self.looks:
                look = self._look(process, self.held[number], self.truths[number])
                entry["looks"].append({"round": number, **look})
                self.say(f"{name}: round {number}: recall {look['recall']:.4f}, {look['mean_us']:.0f} us")
        entry["change_seconds"] = seconds
        entry["rest_seconds"] = process.ask(self.plan.budget_seconds, cmd="rest")["seconds"]
        last = self.plan.rounds
        held = self.held[last]
        entry["settled"] = self._look(process, held, self.truths[last])
        np.savez(self.scratch / "own.npz", keys=held[0])
        entry["own"] = process.ask(
            self.plan.budget_seconds,
            cmd="own",
            keys=str(self.scratch / "own.npz"),
            vectors=str(self.scratch / "fresh.npy"),
            narrow=OWN,
            wide=OWN_WIDE,
        )
        entry["disk"] = process.ask(self.plan.budget_seconds, cmd="save")
        process.quit()
        self.living.remove(process)

        fresh, _ = self._start(name, "fresh.npy")
        # A fresh one has its rows in the order in which the script holds them.
        entry["fresh"] = self._look(fresh, (np.arange(self.live), held[1]), self.truths[last])
        entry["fresh_disk"] = fresh.ask(self.plan.budget_seconds, cmd="save")
        fresh.quit()
        self.living.remove(fresh)


def markdown(results: Results) -> str:
    """One line per peer."""
    plan, dataset, host = results["plan"], results["dataset"], results["machine"]
    lines = [
        f"# Churn: {dataset['name']}, {plan['rows']:,} x {dataset['dim']}, {dataset['metric']}",
        "",
        f"{host['date']}, {host['cpu']} ({host['cores']} cores). {plan['rounds']} rounds, each with a tenth "
        f"of the rows replaced, a fiftieth deleted and as many new; k = {plan['k']}, ef = {plan['ef']}, "
        f"{plan['queries']:,} queries one at a time. Recall at first, after the rounds, at rest, and of a "
        "fresh build of the same rows; us are means. Rest is waited for once, after the last round. Missed: "
        f"rows that a search by their own vector does not find with k = {OWN[0]} and ef = {OWN[1]}; lost: "
        f"nor with k = {OWN_WIDE[0]} and ef = {OWN_WIDE[1]}.",
        "",
        "| | recall at first | after | at rest | fresh | us at first | after | at rest | fresh | missed "
        "| lost | dead answers | rows/s changed | s to rest | anon MiB at first | at rest | disk MiB "
        "| over fresh |",
        "|---|" + "---|" * 17,
    ]
    changed = plan["rounds"] * (_part(plan, REPLACED) + _part(plan, DELETED))
    for name, entry in results["peers"].items():
        if entry["status"] != "measured":
            lines.append(f"| {name} | {entry['status']}: {entry['reason']} |" + " |" * 16)
            continue
        first, last, rest, fresh = entry["looks"][0], entry["looks"][-1], entry["settled"], entry["fresh"]
        disk, fresh_disk = entry["disk"]["allocated"], entry["fresh_disk"]["allocated"]
        cells = [
            *(f"{look['recall']:.4f}" for look in (first, last, rest, fresh)),
            *(f"{look['mean_us']:.0f}" for look in (first, last, rest, fresh)),
            str(entry["own"]["missed"]),
            str(entry["own"]["lost"]),
            str(sum(look["dead_answers"] for look in (*entry["looks"], rest))),
            f"{changed / entry['change_seconds']:,.0f}",
            f"{entry['rest_seconds']:.0f}",
            *(f"{look['memory']['anon'] / 1024:.0f}" for look in (first, rest)),
            f"{disk / 2**20:.0f}",
            f"{disk / fresh_disk:.2f}" if fresh_disk else "",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _part(plan: Results, of: int) -> int:
    return (plan["rows"] - plan["rows"] // POOL) // of
