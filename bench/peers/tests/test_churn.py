"""The way from keys to rows, what is looked at, and whole runs with the one peer that needs nothing."""

import json

import numpy as np
import pytest

from peers import churn, cli, machine
from peers.datasets import Dataset
from peers.process import Process


def test_keys_become_rows_and_dead_ones_are_counted():
    keys, rows = np.array([7, 3, 9]), np.array([70, 30, 90])
    found, dead = churn.rows_of(np.array([[3, 9], [8, 7], [100, -1]]), keys, rows)
    assert found.tolist() == [[30, 90], [-1, 70], [-1, -1]]
    assert dead == 2


def test_truth_is_over_live_rows_only():
    rows = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    dataset = Dataset("line", "l2", rows, np.zeros((1, 1), dtype=np.float32))
    truth = churn.truth_of(dataset, np.array([3, 2]), 1)
    assert truth.bound.tolist() == [4.0]
    assert truth.recall(np.array([[2]])) == 1.0
    assert truth.recall(np.array([[3]])) == 0.0


def test_looks_are_spread_over_steady_rounds_and_hold_both_ends():
    assert churn.looks_of("steady", 1) == [0, 1]
    assert churn.looks_of("steady", 50) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert churn.looks_of("steady", 13) == [0, 2, 4, 6, 8, 10, 12, 13]


def test_every_round_of_the_others_is_looked_at():
    assert churn.looks_of("sliding", 1) == [0, 1]
    assert churn.looks_of("expiring", 13) == list(range(14))


def run(tmp_path, *more):
    words = ["--dataset", "manifold-96", "--rows", "500", "--queries", "20", "--churn", "12"]
    return cli.main([*words, "--out", str(tmp_path), *more])


def test_an_exact_search_finds_all_after_any_round(tmp_path, capsys):
    assert run(tmp_path, "--peers", "exact") == 0
    entry = json.loads((tmp_path / "churn.json").read_text())["peers"]["exact"]
    assert entry["status"] == "measured", entry
    assert [look["round"] for look in entry["looks"]] == [0, 2, 4, 6, 8, 10, 12]
    for look in (*entry["looks"], entry["settled"], entry["fresh"]):
        assert look["recall"] == 1.0 and look["dead_answers"] == 0
    assert entry["own"] == {"missed": 0, "lost": 0}
    assert "| exact | 1.0000 | 1.0000 | 1.0000 | 1.0000 |" in capsys.readouterr().out
    assert not (tmp_path / "scratch-of-this-run").exists()


@pytest.mark.parametrize("name", ["sliding", "expiring", "clustered", "replacing"])
def test_an_exact_search_finds_all_whatever_the_runbook(tmp_path, name):
    assert run(tmp_path, "--peers", "exact", "--runbook", name) == 0
    results = json.loads((tmp_path / "churn.json").read_text())
    entry = results["peers"]["exact"]
    assert entry["status"] == "measured", entry
    assert [look["round"] for look in entry["looks"]] == list(range(13))
    for look in (*entry["looks"], entry["settled"], entry["fresh"]):
        assert look["recall"] == 1.0 and look["dead_answers"] == 0
    assert entry["own"] == {"missed": 0, "lost": 0}
    live = results["rounds"][0]["live"]
    for one in results["rounds"][1:]:
        live += one["inserted"] - one["deleted"]
        assert one["live"] == live


def test_a_peer_is_told_how_many_rows_live_at_first_and_at_most(tmp_path, monkeypatch):
    orders, start = [], Process.__init__

    def told(self, order, log):
        orders.append((order["rows"], order["rows_max"]))
        start(self, order, log)

    monkeypatch.setattr(Process, "__init__", told)
    assert run(tmp_path, "--peers", "exact", "--runbook", "expiring") == 0
    live = [one["live"] for one in json.loads((tmp_path / "churn.json").read_text())["rounds"]]
    assert orders == [(live[0], max(live)), (live[-1], live[-1])]
    assert live[0] < max(live) > live[-1]


def test_changes_that_are_not_made_cost_recall_at_their_round(tmp_path, monkeypatch):
    ask = Process.ask

    def forgetful(self, patience, **command):
        if command["cmd"] == "change" and command["path"].endswith("round-3.npz"):
            return {"seconds": 1.0}
        return ask(self, patience, **command)

    monkeypatch.setattr(Process, "ask", forgetful)
    assert run(tmp_path, "--peers", "exact", "--runbook", "sliding") == 0
    looks = json.loads((tmp_path / "churn.json").read_text())["peers"]["exact"]["looks"]
    assert [look["recall"] == 1.0 for look in looks[:5]] == [True, True, True, False, False]
    assert looks[2]["dead_answers"] == 0 < looks[3]["dead_answers"]


def test_a_report_has_the_mean_and_least_recall_and_each_round():
    plan = {"rows": 900, "rounds": 3, "k": 10, "ef": 64, "queries": 5, "runbook": "expiring", "rest": False}
    changed = {"replaced": 0, "deleted": 20, "inserted": 30}
    looks = [
        {
            "round": number,
            "recall": recall,
            "mean_us": 1000.0 + number,
            "p50_us": 900.0 + number,
            "dead_answers": 0,
            "memory": {"anon": 1024},
        }
        for number, recall in enumerate([1.0, 0.9, 0.7, 0.95])
    ]
    rest = {"settled": looks[0], "fresh": looks[0], "own": {"missed": 1, "lost": 0}}
    disk = {"disk": {"allocated": 2**21}, "fresh_disk": {"allocated": 2**20}}
    times = {"change_seconds": 2.0, "rest_seconds": 1.0}
    text = churn.markdown(
        {
            "plan": plan,
            "dataset": {"name": "made", "dim": 4, "metric": "l2"},
            "machine": {"date": "today", "cpu": "one", "cores": 2},
            "rounds": [
                {"round": 0, "live": 1200, "replaced": 0, "deleted": 0, "inserted": 0},
                *({"round": number, "live": 1200 + 10 * number, **changed} for number in (1, 2, 3)),
            ],
            "peers": {
                "whole": {"status": "measured", "looks": looks, **rest, **disk, **times},
                "part": {"status": "partial", "reason": "crashed", "looks": looks[:2]},
                "none": {"status": "not measured", "reason": "not installed", "looks": []},
            },
        }
    )
    assert "3 rounds of the runbook expiring, each with rows deleted whose" in text
    assert "| whole | 1.0000 | 0.9500 | 1.0000 | 1.0000 | 0.8500 | 0.7000 | 1000 | 1003 |" in text
    assert "| 1 | 0 | 0 | 45 | 1 |" in text
    assert "| part | partial: crashed |" in text and "| none | not measured: not installed |" in text
    assert "| round | live | replaced | deleted | new | whole | p50 us | part | p50 us |" in text
    assert "| 1 | 1,210 | 0 | 20 | 30 | 0.9000 | 901 | 0.9000 | 901 |" in text
    assert "| 3 | 1,230 | 0 | 20 | 30 | 0.9500 | 903 |  |  |" in text
    tables = [
        len({line.count("|") for line in part.splitlines()}) for part in text.split("\n\n") if part[0] == "|"
    ]
    assert tables == [1, 1]


def test_a_missing_package_is_a_reason_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "version_of", lambda package: "1" if package == "numpy" else None)
    assert run(tmp_path, "--peers", "usearch,exact") == 0
    text = (tmp_path / "churn.md").read_text()
    assert "| usearch | not measured: the package usearch is not installed |" in text
    assert "| exact | 1.0000" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--churn", "0"], "--churn must be at least 1"),
        (["--peers", "voyager"], "rows of voyager can't be changed here"),
        (
            ["--runbook", "stormy"],
            "unknown runbook: stormy; known: steady, sliding, expiring, clustered, replacing",
        ),
        (["--rows", "200"], "--churn needs at least 250 rows, not 200"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, capsys, words, says):
    assert run(tmp_path / "out", *words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--runbook", "sliding"], ["--rest"]])
def test_what_says_how_churn_goes_is_refused_without_it(tmp_path, capsys, words):
    assert cli.main(["--dataset", "manifold-96", *words, "--out", str(tmp_path / "out")]) == 2
    assert "--runbook and --rest say how --churn ROUNDS goes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "rests"), [([], 1), (["--rest"], 13)])
def test_rest_is_waited_for_at_the_end_or_after_each_round_too(tmp_path, monkeypatch, words, rests):
    ask, asked = Process.ask, []

    def told(self, patience, **command):
        asked.append(command["cmd"])
        return {"seconds": 2.0} if command["cmd"] == "rest" else ask(self, patience, **command)

    monkeypatch.setattr(Process, "ask", told)
    assert run(tmp_path, "--peers", "exact", *words) == 0
    assert asked.count("rest") == rests
    if rests > 1:
        assert all(asked[place + 1] == "rest" for place, cmd in enumerate(asked) if cmd == "change")
    entry = json.loads((tmp_path / "churn.json").read_text())["peers"]["exact"]
    assert entry["status"] == "measured" and entry["rest_seconds"] == 2.0 * rests


def test_more_neighbours_than_live_rows_are_refused_with_the_round(tmp_path, capsys):
    assert run(tmp_path, "--peers", "exact", "--runbook", "expiring", "--k", "140", "--efs", "140") == 2
    assert "rows live, and k is 140: more rows or a smaller k are needed" in capsys.readouterr().err
    assert not (tmp_path / "churn.json").exists() and not (tmp_path / "scratch-of-this-run").exists()
