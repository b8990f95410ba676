"""results.md and curves.svg from results.json.

Speeds are the best round of each setting. A ratio compares a peer's curve with what hnswlib did in the rounds
of that peer, both read at the same recall (``interpolate.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .adapters import EXACT
from .interpolate import Reading, at_recall
from .svg import chart

RECALLS = (0.90, 0.95, 0.99)
YARDSTICK = "hnswlib"
OURS = "nearstone"
OURS_EXACT = "nearstone-exact"
LATENCY_RECALL = 0.95
CORE_SHARE = 0.95
"""A round that had less of its core than this was disturbed by other programs."""

Results = dict[str, Any]
Points = list[tuple[float, float]]


def best(rounds: list[Results]) -> tuple[float, float] | None:
    """(recall, qps) of a setting: the fastest round, with the mean recall of all."""
    if not rounds:
        return None
    recall = sum(one["recall"] for one in rounds) / len(rounds)
    return recall, max(one["qps"] for one in rounds)


def curve(entry: Results, mode: str = "rounds") -> Points:
    """A peer's points; ``mode`` is "rounds" for one query at a time, "batch" or "threads"."""
    found = [best(point.get(mode, [])) for point in entry.get("points", [])]
    return [point for point in found if point is not None]


def beside(results: Results, name: str, other: str) -> Points:
    """What ``other`` did during the rounds of the peer ``name``; its own curve when that is the same."""
    entry = results["peers"].get(name, {})
    if name == other:
        return curve(entry)
    rounds = [point["beside"].get(other, {}).get("rounds", []) for point in entry.get("points", [])]
    return [point for point in map(best, rounds) if point is not None]


def ratio(ours: Points, theirs: Points, recall: float) -> str:
    """How many times as fast; "-" where one of both doesn't get there, "~" where a curve starts above."""
    mine, other = at_recall(ours, recall), at_recall(theirs, recall)
    if mine is None or other is None:
        return "-"
    return ("~" if mine.bound or other.bound else "") + _times(mine.qps / other.qps)


def markdown(results: Results) -> str:
    """The whole of results.md."""
    peers = {name: entry for name, entry in results["peers"].items() if entry["points"]}
    plan, machine, dataset = results["plan"], results["machine"], results["dataset"]
    lines = [
        f"# Nearstone and its peers: {_title(results)}",
        "",
        f"{machine['date']}, {machine['cpu']} ({machine['cores']} cores, {', '.join(machine['simd'])}), "
        f"{machine['memory_mib'] / 1024:.0f} GiB, Linux {machine['kernel']}, Python {machine['python']}. "
        f"k = {plan['k']}, {plan['queries']:,} queries, seed {plan['seed']}, best of {plan['rounds']} "
        "rounds, "
        f"truth by {dataset['truth']}"
        + (", one thread pinned to one core." if plan["pin"] else ", threads not pinned.")
        + _load(peers),
        "",
    ]
    if set(results["peers"]) <= set(EXACT):
        lines += _exact(results, peers, plan)
    else:
        lines += _by_recall(results, peers)
    lines += ["", "## Cost", ""] + _costs(peers, plan)
    lines += ["", "## Latency", ""] + _latencies(peers)
    lines += ["", "## Single-row inserts", ""] + _inserts(results, machine)
    missing = [(name, entry) for name, entry in results["peers"].items() if entry.get("reason")]
    if missing or results["notes"]:
        lines += ["", "## Not measured, or not wholly", ""]
        lines += [f"- {name}: {entry['status']}: {entry['reason']}" for name, entry in missing]
        lines += [f"- {note}" for note in results["notes"]]
    lines += ["", "## What was measured", ""]
    rows = [
        [name, entry["version"], entry["note"], str(entry["queries"]), entry["threads_by"]]
        for name, entry in peers.items()
    ]
    lines += _table(["", "version", "parameters", "queries", "parallel by"], rows)
    return "\n".join(lines) + "\n"


def svg(results: Results) -> str:
    """Recall and speed of every peer, one query at a time."""
    curves = {name: curve(entry) for name, entry in results["peers"].items()}
    return chart(f"{_title(results)}, k = {results['plan']['k']}", curves, bold=[OURS])


def _title(results: Results) -> str:
    dataset, plan = results["dataset"], results["plan"]
    return f"{dataset['name']}, {plan['rows']:,} x {dataset['dim']}, {dataset['metric']}"


def _by_recall(results: Results, peers: dict[str, Results]) -> list[str]:
    intro = (
        "One query at a time through the Python package, one thread. hnswlib in queries per second, the "
        "others as times its speed in the same minutes; then how many times as fast Nearstone (sealed, "
        "durable) was in those minutes. `-`: not reached. `~`: a curve starts above this recall, and its "
        "fastest point stands for it."
    )
    return ["## Queries per second at equal recall", "", intro, "", *_ratios(results, peers)]


def _exact(results: Results, peers: dict[str, Results], plan: Results) -> list[str]:
    """Those that compare every row: their speeds, and how many times as fast Nearstone was."""
    intro = (
        "Queries per second where every row is compared, and how many times as fast Nearstone was: one query "
        "at a time, in the same minutes; all in one call on one thread, and on "
        f"{plan['threads']} threads, each in its own minutes."
    )
    ours = results["peers"].get(OURS_EXACT, {})
    rows = []
    for name, entry in peers.items():
        cells = [f"{max((recall for recall, _ in curve(entry)), default=0.0):.4f}"]
        for mode in ("rounds", "batch", "threads"):
            own = curve(entry, mode)
            mine = beside(results, name, OURS_EXACT) if mode == "rounds" else curve(ours, mode)
            cells.append(f"{own[0][1]:,.1f}" if own else "-")
            same = name == OURS_EXACT or not own or not mine
            cells.append("" if same else _times(mine[0][1] / own[0][1]))
        rows.append([name, *cells])
    head = ["", "recall", "one", "Nearstone", "batch", "Nearstone", f"{plan['threads']} threads", "Nearstone"]
    return ["## Exact searches", "", intro, "", *_table(head, rows)]


def _ratios(results: Results, peers: dict[str, Results]) -> list[str]:
    head = ["", *(f"{r:.2f}" for r in RECALLS), "highest recall", *(f"Nearstone {r:.2f}" for r in RECALLS)]
    rows = []
    for name, entry in peers.items():
        own = curve(entry)
        yardstick, ours = beside(results, name, YARDSTICK), beside(results, name, OURS)
        if name == YARDSTICK:
            cells = [_speed(at_recall(own, recall)) for recall in RECALLS]
        else:
            cells = [ratio(own, yardstick, recall) for recall in RECALLS]
        # For its own row the ratio would be 1.
        vs = ["" if name == OURS else ratio(ours, own, recall) for recall in RECALLS]
        top = f"{max(point[0] for point in own):.4f}" if own else "-"
        rows.append([name, *cells, top, *vs])
    for name, entry in results["peers"].items():
        if not entry["points"]:
            rows.append([name, "not measured", *[""] * (len(head) - 2)])
    return _table(head, rows)


def _costs(peers: dict[str, Results], plan: Results) -> list[str]:
    intro = (
        f"Build or ingest on {plan['threads']} threads, reading the input not counted. Peak: the most the "
        "process ever held while building (VmHWM, with Python and the library, and with the input where the "
        "library wants it whole); after: what it held after searching, anonymous and from files. Speeds are "
        f"queries per second at recall {LATENCY_RECALL}: all queries in one call on one thread, and on "
        f"{plan['threads']} threads."
    )
    head = ["", "build s", "peak MiB", "anon MiB after", "file MiB after", "disk MiB", "batch"]
    head.append(f"{plan['threads']} threads")
    rows = []
    for name, entry in peers.items():
        after, disk = entry.get("memory_searched"), entry.get("disk")
        rows.append(
            [
                name,
                f"{entry['build']['seconds']:.1f}",
                _mib(entry["memory_built"]["hwm"] * 1024),
                _mib(after["anon"] * 1024) if after else "-",
                _mib(after["file"] * 1024) if after else "-",
                _mib(disk["allocated"]) if disk and disk["files"] else "-",
                _speed(at_recall(curve(entry, "batch"), LATENCY_RECALL)),
                _speed(at_recall(curve(entry, "threads"), LATENCY_RECALL)),
            ]
        )
    return [intro, "", *_table(head, rows)]


def _latencies(peers: dict[str, Results]) -> list[str]:
    intro = (
        f"Of the fastest round, at the first setting with recall {LATENCY_RECALL} or else the one with the "
        "highest; microseconds, one query at a time."
    )
    rows = []
    for name, entry in peers.items():
        measured = [(best(point["rounds"]), point) for point in entry["points"] if point["rounds"]]
        if not measured:
            continue
        enough = [one for one in measured if one[0][0] >= LATENCY_RECALL]
        pick: Callable[..., Any] = max if not enough else min
        (recall, _), point = pick(enough or measured, key=lambda one: one[0][0])
        fastest = max(point["rounds"], key=lambda one: one["qps"])
        figures = [f"{fastest[key]:.0f}" for key in ("mean_us", "p50_us", "p95_us", "p99_us")]
        rows.append([name, point["setting"], f"{recall:.4f}", *figures])
    return [intro, "", *_table(["", "setting", "recall", "mean", "p50", "p95", "p99"], rows)]


def _inserts(results: Results, machine: Results) -> list[str]:
    rows = []
    for name, entry in results["peers"].items():
        for one in entry.get("inserts", []):
            if "reason" in one:
                rows.append([name, one["mode"], "-", "-", "-", one["reason"]])
                continue
            per = one.get("sync_calls_per_insert")
            rows.append(
                [
                    name,
                    "flush after each" if one["mode"] == "flush" else "as by default",
                    f"{one['rows_per_second']:,.0f}",
                    f"{one.get('p50_us', 0):,.0f}",
                    f"{one.get('p99_us', 0):,.0f}",
                    one.get("sync_calls_missing", "-") if per is None else f"{per:.2f}" + _unseen(one),
                ]
            )
    if not rows:
        return ["None were measured."]
    intro = (
        "One row per call into an empty store, each call waited for. Fewer than one sync call per insert "
        "means that acknowledged rows can be lost with the power."
    )
    if not machine["strace"]:
        intro += " **strace is not installed here, so sync calls were not counted.**"
    head = ["", "mode", "rows/s", "p50 us", "p99 us", "sync calls per insert"]
    return [intro, "", *_table(head, rows)]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "/") for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _speed(reading: Reading | None) -> str:
    if reading is None:
        return "-"
    short = f"{reading.qps / 1000:.1f}k" if reading.qps >= 1000 else f"{reading.qps:.0f}"
    return ("~" if reading.bound else "") + short


def _unseen(one: Results) -> str:
    """Ways to make writes durable that aren't counted."""
    return "".join(f", and {name}" for name in ("O_SYNC", "io_uring") if one["sync_calls"].get(name))


def _load(peers: dict[str, Results]) -> str:
    """Says whether the run had the machine for itself."""
    loads = [point["load"] for entry in peers.values() for point in entry["points"] if "load" in point]
    if not loads:
        return ""
    text = f" Load average {min(loads):.1f} to {max(loads):.1f}; the run itself makes 1 to 2."
    shares = [
        max(rounds, key=lambda one: one["qps"]).get("cores", 1.0)
        for entry in peers.values()
        for point in entry["points"]
        for rounds in [point["beside"].get(YARDSTICK, {}).get("rounds", [])]
        if rounds
    ]
    if shares and min(shares) < CORE_SHARE:
        low = sum(share < CORE_SHARE for share in shares)
        text += (
            f" **In {low} of {len(shares)} settings hnswlib's best round had less than {CORE_SHARE} of its "
            "core: other programs were running, and these figures should be measured again.**"
        )
    return text


def _times(factor: float) -> str:
    """Two or three digits that say something, from 0.012x to 250x."""
    return f"{factor:.0f}x" if factor >= 10 else f"{factor:.2f}x" if factor >= 0.1 else f"{factor:.3f}x"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}" if size >= 10 * 2**20 else f"{size / 2**20:.1f}"
