"""The command line: what to measure, with what, and where to put it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import churn, datasets, machine, report, runbooks
from .adapters import ALL, EXACT
from .driver import Plan, Run, read_results

EFS = "10,16,24,32,48,64,96,128,192,256,384,512"
CHURN_EF = 64
BESIDE = ("hnswlib", "nearstone")
BESIDE_EXACT = ("nearstone-exact",)
QUICK: dict[str, Any] = {
    "rows": 2000,
    "queries": 200,
    "efs": "10,40,160",
    "rounds": 1,
    "pass_seconds": 0.02,
    "budget": 60.0,
    "inserts": 100,
}


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="peers", description="Measures Nearstone and its peers side by side, in one run."
    )
    parse.add_argument(
        "--dataset", help=f"one of {', '.join(datasets.NAMES)} (default: minilm with data, else manifold-96)"
    )
    parse.add_argument("--data", type=Path, help="folder of real embeddings (default: NEARSTONE_DATA)")
    parse.add_argument("--rows", type=int, help="rows (default 100000)")
    parse.add_argument("--queries", type=int, help="queries (default 1000)")
    parse.add_argument("--seed", type=int, default=1, help="of generated rows and queries (default 1)")
    parse.add_argument("--peers", help="names, separated by commas (default: all; see --list)")
    parse.add_argument("--k", type=int, default=10, help="neighbours (default 10)")
    parse.add_argument("--efs", help=f"list lengths to search with, ascending (default {EFS})")
    parse.add_argument("--rounds", type=int, help="rounds per setting, the best counts (default 3)")
    parse.add_argument("--threads", type=int, default=2, help="for building and parallel search (default 2)")
    parse.add_argument(
        "--pass-seconds", type=float, help="a round repeats the queries for so long (default 0.25)"
    )
    parse.add_argument(
        "--cap", type=float, default=5.0, help="a pass over the queries ends after so many s (default 5)"
    )
    parse.add_argument("--budget", type=float, help="seconds per peer (default 1500)")
    parse.add_argument("--inserts", type=int, help="single-row inserts, 0 for none (default 1000)")
    parse.add_argument(
        "--beside",
        help="run beside every peer (default hnswlib,nearstone; with --exact, nearstone-exact)",
    )
    parse.add_argument("--no-pin", action="store_true", help="don't pin single-threaded search to one core")
    parse.add_argument(
        "--out", type=Path, help="folder of the results (default target/bench-peers/<dataset>)"
    )
    parse.add_argument("--resume", action="store_true", help="go on with the results in --out")
    parse.add_argument(
        "--quick", action="store_true", help="2,000 rows and three settings: does everything work?"
    )
    parse.add_argument(
        "--churn", type=int, metavar="ROUNDS", help="measure under so many rounds of changes instead"
    )
    parse.add_argument(
        "--runbook", help=f"what --churn changes: one of {', '.join(runbooks.ALL)} (default steady)"
    )
    parse.add_argument(
        "--rest", action="store_true", help="with --churn: wait after each round for what is done behind"
    )
    parse.add_argument(
        "--exact", action="store_true", help="measure those that compare every row instead of the others"
    )
    parse.add_argument("--list", action="store_true", help="names of peers and data sets, and stop")
    return parse


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """Names from a list separated by commas; ValueError names what isn't known and what is."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"unknown {what}: {', '.join(wrong)}; known: {', '.join(known)}")
    return names


def ascending(text: str, least: int) -> tuple[int, ...]:
    """List lengths, each at least ``least``: a list shorter than k can't hold k neighbours."""
    try:
        values = tuple(sorted({int(one) for one in text.split(",") if one.strip()}))
    except ValueError:
        raise ValueError(f"--efs wants whole numbers separated by commas, not {text!r}") from None
    if not values or values[0] < least:
        raise ValueError(f"--efs wants numbers from k = {least} up, not {text!r}")
    return values


def plan_of(args: argparse.Namespace) -> tuple[Plan, list[str], Path | None]:
    """The plan, the peers in order and the folder of real data; ValueError says what is wrong."""
    defaults = {"rows": 100_000, "queries": 1000, "efs": EFS, "rounds": 3, "pass_seconds": 0.25}
    defaults |= {"budget": 1500.0, "inserts": 1000} | (QUICK if args.quick else {})
    values = {
        key: given if (given := getattr(args, key)) is not None else value for key, value in defaults.items()
    }
    for key, least in (("rounds", 1), ("threads", 1), ("k", 1)):
        if (values | vars(args) | {"rounds": values["rounds"]})[key] < least:
            raise ValueError(f"--{key} must be at least {least}")
    named = os.environ.get("NEARSTONE_DATA")
    data = args.data or (Path(named) if named else None)
    dataset = args.dataset or ("minilm" if data else "manifold-96")
    chosen(dataset, datasets.NAMES, "data set")
    usual = list(EXACT) if args.exact else [name for name in ALL if name == "exact" or name not in EXACT]
    names = chosen(args.peers, list(ALL), "peer") if args.peers else usual
    if not names:
        raise ValueError(f"no peer named; known: {', '.join(ALL)}")
    if args.exact and (inexact := [name for name in names if name not in EXACT]):
        raise ValueError(f"--exact compares {', '.join(EXACT)}, not {', '.join(inexact)}")
    can = BESIDE_EXACT if args.exact else BESIDE
    beside = can if args.beside is None else tuple(chosen(args.beside, list(ALL), "peer"))
    if unsuited := [name for name in beside if name not in can]:
        raise ValueError(f"only {' and '.join(can)} can run beside the others, not {', '.join(unsuited)}")
    plan = Plan(
        dataset=dataset,
        rows=values["rows"],
        queries=values["queries"],
        seed=args.seed,
        k=args.k,
        efs=ascending(values["efs"], args.k),
        rounds=values["rounds"],
        threads=args.threads,
        pass_seconds=values["pass_seconds"],
        cap_seconds=args.cap,
        budget_seconds=values["budget"],
        inserts=0 if args.exact else values["inserts"],
        pin=not args.no_pin,
        beside=beside,
    )
    return plan, names, data


def churn_plan(args: argparse.Namespace, plan: Plan, names: list[str]) -> tuple[churn.Plan, list[str]]:
    """The same for a run of changes; ValueError says what is wrong."""
    if args.churn < 1:
        raise ValueError("--churn must be at least 1")
    if plan.rows < runbooks.ROWS_MIN:
        raise ValueError(f"--churn needs at least {runbooks.ROWS_MIN} rows, not {plan.rows}")
    runbook = args.runbook or "steady"
    chosen(runbook, list(runbooks.ALL), "runbook")
    if not args.peers:
        names = list(churn.USUAL)
    if fixed := [name for name in names if name not in churn.CHANGING]:
        raise ValueError(
            f"rows of {', '.join(fixed)} can't be changed here, only of {', '.join(churn.CHANGING)}"
        )
    ef = plan.efs[0] if args.efs else max(CHURN_EF, plan.k)
    asked = churn.Plan(
        dataset=plan.dataset,
        rows=plan.rows,
        queries=plan.queries,
        seed=plan.seed,
        k=plan.k,
        ef=ef,
        runbook=runbook,
        rounds=args.churn,
        rest=args.rest,
        threads=plan.threads,
        pin=plan.pin,
        budget_seconds=plan.budget_seconds,
    )
    return asked, names


def write(out: Path, results: dict[str, Any]) -> None:
    _write_all(
        out,
        {
            "results.json": json.dumps(results, indent=1),
            "results.md": report.markdown(results),
            "curves.svg": report.svg(results),
        },
    )


def write_churn(out: Path, results: dict[str, Any]) -> None:
    _write_all(out, {"churn.json": json.dumps(results, indent=1), "churn.md": churn.markdown(results)})


def _write_all(out: Path, files: dict[str, str]) -> None:
    """The first file first, and whole or not at all: an interrupt must not cost what was measured."""
    for name, content in files.items():
        fresh = out / (name + ".new")
        fresh.write_text(content)
        fresh.replace(out / name)


def list_known() -> None:
    print("peers:")
    for name, entry in ALL.items():
        print(f"  {name:20} {entry.package} {machine.version_of(entry.package) or '(not installed)'}")
    print("runbooks:")
    for name, kind in runbooks.ALL.items():
        print(f"  {name:20} {kind.tells}")
    print("data sets:")
    for name in datasets.NAMES:
        print(f"  {name}" + ("  (needs NEARSTONE_DATA or --data)" if name.startswith("minilm") else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """0: every peer was dealt with; 2: wrong arguments; 130: interrupted (go on with --resume)."""
    args = parser().parse_args(argv)
    if args.list:
        list_known()
        return 0
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        plan, names, data = plan_of(args)
        changes = churn_plan(args, plan, names) if args.churn is not None else None
        if changes is None and (args.runbook is not None or args.rest):
            raise ValueError("--runbook and --rest say how --churn ROUNDS goes, which is not asked for")
        out: Path = args.out or Path("target/bench-peers") / plan.dataset
        results = None
        if args.resume and (out / "results.json").exists():
            results = read_results(out / "results.json", plan)
        say(f"{plan.dataset}: {plan.rows:,} rows, {plan.queries:,} queries")
        dataset = datasets.load(plan.dataset, plan.rows, plan.queries, plan.seed, data)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if changes is not None:
        return _churn(*changes, dataset, out, say)
    if not machine.describe()["strace"] and plan.inserts:
        say("strace is not installed: sync calls of inserts will not be counted")
    out.mkdir(parents=True, exist_ok=True)
    # A plain `kill` ends the run like an interrupt: workers first, nothing left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def done(name: str) -> bool:
        found = run.results["peers"].get(name)
        return results is not None and found is not None and found["status"] == "measured"

    run = Run(plan, dataset, out, say, lambda found: write(out, found), results)
    del dataset
    try:
        run.peers(names, done)
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is in {out}, --resume goes on")
        return 130
    write(out, run.results)
    print((out / "results.md").read_text())
    say(f"written: {out}/results.json, results.md, curves.svg")
    return 0


def _churn(
    plan: churn.Plan, names: list[str], dataset: datasets.Dataset, out: Path, say: Callable[[str], None]
) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        churn.Run(plan, dataset, out, say, lambda found: write_churn(out, found)).peers(names)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is in {out}")
        return 130
    print((out / "churn.md").read_text())
    say(f"written: {out}/churn.json, churn.md")
    return 0
