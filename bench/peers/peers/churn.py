"""Libraries that are never left in peace: the same rounds of replaced, deleted and new rows for each of them.

    build from the rows that a runbook begins with -> for each round: keys get other vectors, keys go, keys
    come -> after rounds: recall over exact truth of the live rows, latency, memory -> at the end, when the
    process has come to rest: the same, every live row looked for by its own vector, disk -> the same library
    built afresh of the same rows

What changes is a runbook's to say (runbooks.py). Each library works in a process of its own, one after
another. Recall is computed here, from keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, runbooks
from .adapters import ALL
from .datasets import Dataset
from .process import PeerFailed, Process
from .recall import Ids, Truth, brute_force
from .runbooks import Numbers

LOOKS = 10
"""Recall is looked at so many times on the way where rounds are steady, and else after every round."""
OWN, OWN_WIDE = (10, 64), (100, 2000)
"""(k, list length) with which a row is looked for by its own vector, and again where that misses it."""
CHANGING = ("hnswlib", "nearstone", "usearch", "qdrant-edge", "exact")
"""Peers that can replace and delete rows."""
USUAL = CHANGING[:3]

Results = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    dataset: str
    rows: int
    queries: int
    seed: int
    k: int
    ef: int
    runbook: str
    rounds: int
    rest: bool
    """Each library comes to rest after every round, not after the last one only."""
    threads: int
    pin: bool
    budget_seconds: float


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


def looks_of(runbook: str, rounds: int) -> list[int]:
    """After which rounds recall is looked at, with the last one; 0 is before the first. Steady rounds are all
    alike: a few of them tell, evenly spread.
    """
    step = -(-rounds // LOOKS) if runbook == "steady" else 1
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
        self.dataset = dataset
        # ValueError says that these rows don't suit it, before anything is written.
        self.runbook = runbooks.ALL[plan.runbook](dataset.rows, plan.seed)
        self.first = len(self.runbook.keys)
        self.looks = looks_of(plan.runbook, plan.rounds)
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
            "rounds": [],
            "peers": {},
        }

    def peers(self, names: Sequence[str]) -> None:
        try:
            self._write_rounds()
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

    def _write_rounds(self) -> None:
        """Rounds and truths are made once: they are the same for all."""
        runbook, k = self.runbook, self.plan.k
        np.save(self.scratch / "rows.npy", self.dataset.rows)
        np.save(self.scratch / "first.npy", self.dataset.rows[runbook.rows])
        np.save(self.scratch / "queries.npy", self.dataset.queries)
        self.truths: dict[int, Truth] = {}
        for number in range(self.plan.rounds + 1):
            told = {"round": number, "replaced": 0, "deleted": 0, "inserted": 0}
            if number > 0:
                changes = runbook.round()
                told |= {name: len(getattr(changes, name)) for name in ("replaced", "deleted", "inserted")}
                np.savez(self._round(number), **asdict(changes))
            self.results["rounds"].append({**told, "live": len(runbook.keys)})
            if number in self.looks:
                if len(runbook.keys) < k:
                    raise ValueError(
                        f"after round {number} only {len(runbook.keys)} rows live, and k is {k}: "
                        "more rows or a smaller k are needed"
                    )
                np.savez(self._held(number), keys=runbook.keys, rows=runbook.rows)
                self.truths[number] = truth_of(self.dataset, runbook.rows, k)
        self.say(
            f"{self.plan.runbook}: {self.plan.rounds} rounds, {self.first:,} rows at first, "
            f"{runbook.peak:,} at most, {len(self.looks)} looks"
        )
        np.save(self.scratch / "fresh.npy", self.dataset.rows[runbook.rows])

    def _round(self, number: int) -> Path:
        return self.scratch / f"round-{number}.npz"

    def _held(self, number: int) -> Path:
        """What is live after a round; all of them would be too much to keep in memory."""
        return self.scratch / f"held-{number}.npz"

    def _start(self, name: str, rows: str, count: int, rows_max: int) -> tuple[Process, Results]:
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
            "rows": count,
            "rows_max": rows_max,
            "threads": self.plan.threads,
            "rows_path": str(self.scratch / rows),
            "queries_path": str(self.scratch / "queries.npy"),
            "efs": [self.plan.ef],
            "pin": self.plan.pin,
        }
        process = Process(order, self.logs / f"{name}.log")
        self.living.append(process)
        built = process.ask(self.plan.budget_seconds, cmd="build")
        return process, {**built, "version": version}

    def _look(self, process: Process, keys: Numbers, rows: Numbers, truth: Truth) -> Results:
        """Recall, latency and memory now, of keys that hold these rows."""
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
        found_rows, dead = rows_of(np.load(ids), keys, rows)
        memory = process.ask(60, cmd="memory")
        return {**found, "recall": truth.recall(found_rows), "dead_answers": dead, "memory": memory}

    def _rest(self, process: Process) -> float:
        seconds: float = process.ask(self.plan.budget_seconds, cmd="rest")["seconds"]
        return seconds

    def _peer(self, name: str, entry: Results) -> None:
        process, built = self._start(name, "first.npy", self.first, self.runbook.peak)
        entry |= {"version": built["version"], "note": built["note"], "build_seconds": built["seconds"]}
        seconds = rested = 0.0
        vectors = str(self.scratch / "rows.npy")
        for number in range(self.plan.rounds + 1):
            took = 0.0
            if number > 0:
                path = str(self._round(number))
                took = process.ask(self.plan.budget_seconds, cmd="change", path=path, vectors=vectors)[
                    "seconds"
                ]
                seconds += took
                if self.plan.rest:
                    rested += self._rest(process)
            if number in self.looks:
                held = np.load(self._held(number))
                look = self._look(process, held["keys"], held["rows"], self.truths[number])
                entry["looks"].append({"round": number, "change_seconds": took, **look})
                self.say(f"{name}: round {number}: recall {look['recall']:.4f}, {look['p50_us']:.0f} us")
        entry["change_seconds"] = seconds
        entry["rest_seconds"] = rested + self._rest(process)
        keys, rows, truth = self.runbook.keys, self.runbook.rows, self.truths[self.plan.rounds]
        entry["settled"] = self._look(process, keys, rows, truth)
        np.savez(self.scratch / "own.npz", keys=keys)
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

        fresh, _ = self._start(name, "fresh.npy", len(rows), len(rows))
        # A fresh one has its rows in the order in which the runbook holds them.
        entry["fresh"] = self._look(fresh, np.arange(len(rows)), rows, truth)
        entry["fresh_disk"] = fresh.ask(self.plan.budget_seconds, cmd="save")
        fresh.quit()
        self.living.remove(fresh)


def markdown(results: Results) -> str:
    """One line per peer, and one per round that was looked at."""
    plan, dataset, host = results["plan"], results["dataset"], results["machine"]
    waits = "after every round" if plan["rest"] else "once, after the last round"
    about = (
        f"{host['date']}, {host['cpu']} ({host['cores']} cores). {plan['rounds']} rounds of the runbook "
        f"{plan['runbook']}, each with {runbooks.ALL[plan['runbook']].tells}; k = {plan['k']}, "
        f"ef = {plan['ef']}, {plan['queries']:,} queries one at a time. Recall at first, after the rounds, "
        "at rest, of a fresh build of the same rows, and the mean and the least of all looks after changes; "
        f"us are means. Rest is waited for {waits}. Missed: rows that a search by their own vector "
        f"does not find with k = {OWN[0]} and ef = {OWN[1]}; lost: nor with k = {OWN_WIDE[0]} and "
        f"ef = {OWN_WIDE[1]}. Rows/s changed: replaced and new ones, in the time of all changes."
    )
    header = (
        "| | recall at first | after | at rest | fresh | mean | least | us at first | after | at rest "
        "| fresh | missed | lost | dead answers | rows/s changed | s to rest | anon MiB at first | at rest "
        "| disk MiB | over fresh |"
    )
    title = f"# Churn: {dataset['name']}, {plan['rows']:,} x {dataset['dim']}, {dataset['metric']}"
    lines = [title, "", about, "", header, "|---|" + "---|" * 19]
    changed = sum(one["replaced"] + one["inserted"] for one in results["rounds"])
    for name, entry in results["peers"].items():
        if entry["status"] != "measured":
            lines.append(f"| {name} | {entry['status']}: {entry['reason']} |" + " |" * 18)
            continue
        first, last, rest, fresh = entry["looks"][0], entry["looks"][-1], entry["settled"], entry["fresh"]
        after = [look["recall"] for look in entry["looks"][1:]]
        disk, fresh_disk = entry["disk"]["allocated"], entry["fresh_disk"]["allocated"]
        cells = [
            *(f"{look['recall']:.4f}" for look in (first, last, rest, fresh)),
            f"{sum(after) / len(after):.4f}",
            f"{min(after):.4f}",
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
    return "\n".join([*lines, "", *_by_round(results)]) + "\n"


def _by_round(results: Results) -> list[str]:
    """Recall and latency of each peer, as far as it came, beside what its round changed. Medians, because one
    look is short: a few turns of other work on the machine would be most of a mean.
    """
    peers = {name: entry["looks"] for name, entry in results["peers"].items() if entry["looks"]}
    if not peers:
        return []
    looked = {name: {look["round"]: look for look in looks} for name, looks in peers.items()}
    header = (
        "| round | live | replaced | deleted | new | "
        + " | ".join(f"{name} | p50 us" for name in peers)
        + " |"
    )
    lines = ["Recall and median us by round:", "", header, "|---|" + "---|" * (4 + 2 * len(peers))]
    for one in results["rounds"]:
        found = [looks.get(one["round"]) for looks in looked.values()]
        if not any(found):
            continue
        cells = [
            str(one["round"]),
            *(f"{one[what]:,}" for what in ("live", "replaced", "deleted", "inserted")),
        ]
        for look in found:
            cells += [f"{look['recall']:.4f}", f"{look['p50_us']:,.0f}"] if look else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
