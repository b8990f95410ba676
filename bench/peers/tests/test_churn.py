"""The script of changes, the way from keys to rows, and whole runs with the one peer that needs nothing."""

import json

import numpy as np
import pytest

from peers import churn, cli, machine
from peers.datasets import Dataset


def test_a_round_says_all_that_changed_and_no_vector_is_held_twice():
    script = churn.Script(1000, seed=1)
    held = dict(zip(script.keys.tolist(), script.rows.tolist(), strict=True))
    ever = set(held)
    assert len(held) == 800
    for _ in range(60):
        before = set(held.values())
        made = script.round()
        assert (len(made.replaced), len(made.deleted), len(made.inserted)) == (80, 16, 16)
        for key, row in zip(made.replaced.tolist(), made.replaced_rows.tolist(), strict=True):
            assert held[key] != row
            held[key] = row
        for key in made.deleted.tolist():
            del held[key]
        for key, row in zip(made.inserted.tolist(), made.inserted_rows.tolist(), strict=True):
            assert key not in ever
            ever.add(key)
            held[key] = row
        assert held == dict(zip(script.keys.tolist(), script.rows.tolist(), strict=True))
        assert len(set(held.values())) == 800
        assert len(set(held.values()) - before) == 96


def test_a_round_is_not_changed_by_those_after_it():
    script, other = churn.Script(500, seed=3), churn.Script(500, seed=3)
    first = script.round()
    kept = first.replaced_rows.copy(), first.deleted.copy()
    script.round()
    assert np.array_equal(first.replaced_rows, kept[0]) and np.array_equal(first.deleted, kept[1])
    assert np.array_equal(other.round().replaced, first.replaced)


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


def test_looks_are_spread_and_hold_both_ends():
    assert churn.looks_of(1) == [0, 1]
    assert churn.looks_of(50) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert churn.looks_of(13) == [0, 2, 4, 6, 8, 10, 12, 13]


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
        (["--rows", "200"], "--churn needs at least 250 rows, not 200"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, capsys, words, says):
    assert run(tmp_path / "out", *words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
