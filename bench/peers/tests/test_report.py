"""The report, from results made up by hand."""

import xml.etree.ElementTree as ElementTree

import pytest

from peers import report
from peers.svg import chart


def rounds(*pairs):
    keys = ("mean_us", "p50_us", "p95_us", "p99_us")
    return [{"recall": r, "qps": q, **dict.fromkeys(keys, 1e6 / q)} for r, q in pairs]


def point(label, own, beside, **more):
    return {
        "setting": label,
        "value": 1,
        "rounds": rounds(*own),
        "beside": {name: {"ef": 1, "rounds": rounds(*pairs)} for name, pairs in beside.items()},
        **more,
    }


def entry(points, **more):
    return {
        "status": "measured",
        "version": "1.0",
        "note": "m 16 | test",
        "queries": 10,
        "threads_by": "batch call",
        "build": {"seconds": 1.25},
        "memory_built": {"hwm": 2048 * 1024},
        "memory_searched": {"anon": 20 * 1024, "file": 1024},
        "disk": {"allocated": 3 * 2**20, "files": 1, "length": 1},
        "points": points,
        "inserts": [],
        **more,
    }


@pytest.fixture
def results():
    fast = point("ef=10", [(0.9, 900.0), (0.9, 2000.0)], {"hnswlib": [(0.9, 1000.0)]})
    slow = point("ef=20", [(0.96, 100.0)], {"hnswlib": [(0.96, 200.0)], "nearstone": [(0.96, 400.0)]})
    mine = [
        point("ef=10", [(0.9, 5000.0)], {}, batch=rounds((0.97, 12_000.0))),
        point("ef=20", [(0.999, 50.0)], {}),
    ]
    return {
        "machine": {
            "date": "2030-01-01T00:00:00Z",
            "cpu": "a cpu",
            "cores": 2,
            "simd": ["avx2"],
            "memory_mib": 2048,
            "kernel": "6",
            "python": "3.11",
            "strace": True,
        },
        "plan": {"rows": 1000, "queries": 10, "seed": 1, "k": 10, "rounds": 2, "threads": 2, "pin": True},
        "dataset": {"name": "made-up", "dim": 4, "metric": "l2", "truth": "brute force"},
        "notes": ["a note"],
        "peers": {
            "hnswlib": entry(mine),
            "other": entry(
                [fast, slow],
                inserts=[
                    {"mode": "default", "rows_per_second": 1234.5, "p50_us": 3, "p99_us": 9},
                    {"mode": "flush", "reason": "it fell over"},
                ],
            ),
            "gone": {"status": "not measured", "reason": "no wheel", "points": []},
        },
    }


def row(text, name, heading):
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == name:
            return cells[1:]
    raise AssertionError(f"{name} is not under {heading}")


def test_ratios_are_made_with_the_yardstick_of_the_same_rounds(results):
    text = report.markdown(results)
    # The best of two rounds, 2000, against 1000; then 100 against 200; the curve ends at 0.96.
    assert row(text, "other", "Queries per second at equal recall")[0] == "2.00x"
    at_095 = float(row(text, "other", "Queries per second at equal recall")[1].strip("x"))
    assert 0.5 < at_095 < 2.0
    assert row(text, "other", "Queries per second at equal recall")[2:4] == ["-", "0.9600"]
    # Nearstone ran beside it at one setting only, whose recall lies above 0.90.
    assert row(text, "other", "Queries per second at equal recall")[4] == "~0.20x"


def test_the_yardstick_is_shown_in_queries_per_second(results):
    cells = row(report.markdown(results), "hnswlib", "Queries per second at equal recall")
    assert cells[0] == "5.0k" and cells[3] == "0.9990"


def test_costs_latency_and_inserts_are_in_their_tables(results):
    text = report.markdown(results)
    assert row(text, "hnswlib", "Cost") == ["1.2", "2,048", "20", "1.0", "3.0", "~12.0k", "-"]
    assert row(text, "other", "Latency")[:3] == ["ef=20", "0.9600", "10000"]
    assert row(text, "other", "Single-row inserts")[:2] == ["as by default", "1,234"]
    assert "it fell over" in text


def test_what_was_not_measured_is_named_with_its_reason(results):
    text = report.markdown(results)
    assert row(text, "gone", "Queries per second at equal recall")[0] == "not measured"
    assert "- gone: not measured: no wheel" in text and "- a note" in text
    assert "m 16 / test" in text  # a bar would break the table


def test_a_disturbed_run_says_so(results):
    for one in results["peers"]["other"]["points"]:
        one["load"] = 1.5
    assert "Load average 1.5 to 1.5" in report.markdown(results)
    assert "measured again" not in report.markdown(results)
    results["peers"]["other"]["points"][0]["beside"]["hnswlib"]["rounds"][0]["cores"] = 0.6
    assert "In 1 of 2 settings" in report.markdown(results)


def test_missing_strace_is_said_aloud(results):
    assert "not installed" not in report.markdown(results)
    results["machine"]["strace"] = False
    assert "strace is not installed" in report.markdown(results)


def test_a_report_of_nothing_is_still_a_report(results):
    results["peers"] = {}
    assert "None were measured." in report.markdown(results)
    ElementTree.fromstring(report.svg(results))


def test_the_chart_is_well_formed_and_escapes_names(results):
    tree = ElementTree.fromstring(report.svg(results))
    lines = tree.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2  # "gone" has no points
    text = chart("a < b & c", {"<peer>": [(0.9, 100.0), (1.0, 10.0)], "low": [(0.2, 5.0)]})
    tree = ElementTree.fromstring(text)
    assert "<peer>" in [one.text for one in tree.iter() if one.text]
    assert "low" not in text  # below the axis


def test_up_and_to_the_right_is_better():
    line = chart("t", {"a": [(0.99, 1000.0), (0.9, 10.0)]}).split('<polyline points="')[1].split('"')[0]
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in line.split())
    assert x2 > x1 and y2 < y1
