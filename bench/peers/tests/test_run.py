"""The command line, and whole runs with the one peer that needs nothing installed."""

import json
import os
import signal

import pytest

from peers import cli, driver, machine
from peers.inserts import parse_trace
from peers.process import PeerFailed, Process, environment


def run(tmp_path, *more):
    words = [
        "--dataset",
        "manifold-96",
        "--rows",
        "400",
        "--queries",
        "30",
        "--rounds",
        "2",
        "--efs",
        "10,20",
    ]
    return cli.main([*words, "--pass-seconds", "0.01", "--beside", "", "--out", str(tmp_path), *more])


def read(tmp_path):
    return json.loads((tmp_path / "results.json").read_text())


def test_a_run_finds_every_neighbour_by_exact_search(tmp_path, capsys):
    assert run(tmp_path, "--peers", "exact") == 0
    found = read(tmp_path)["peers"]["exact"]
    assert found["status"] == "measured"
    (point,) = found["points"]
    for mode in ("rounds", "batch", "threads"):
        assert len(point[mode]) == 2
        for one in point[mode]:
            assert one["recall"] == 1.0 and one["queries"] == 30 and one["qps"] > 0
    assert point["rounds"][0]["p50_us"] <= point["rounds"][0]["p99_us"]
    assert found["memory_built"]["hwm"] > 0 and found["build"]["seconds"] > 0
    assert "| exact | " in capsys.readouterr().out
    assert not (tmp_path / "scratch-of-this-run").exists()


def test_a_missing_package_is_reported_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "version_of", lambda package: "1" if package == "numpy" else None)
    assert run(tmp_path, "--peers", "hnswlib,exact") == 0
    peers = read(tmp_path)["peers"]
    assert peers["hnswlib"]["reason"] == "the package hnswlib is not installed"
    assert peers["exact"]["status"] == "measured"
    assert "hnswlib: not measured: the package hnswlib" in (tmp_path / "results.md").read_text()


def test_exact_searches_are_compared_with_each_other_only(tmp_path, capsys):
    assert run(tmp_path, "--exact", "--peers", "exact") == 0
    text = capsys.readouterr().out
    assert "## Exact searches" in text and "at equal recall" not in text
    assert "| exact | 1.0000 | " in text
    found = read(tmp_path)
    assert found["plan"]["inserts"] == 0 and found["peers"]["exact"]["inserts"] == []


def test_numpy_chooses_its_own_kernels(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    found = environment(1)
    assert "OPENBLAS_CORETYPE" not in found and found["OPENBLAS_NUM_THREADS"] == "1"


def test_resume_leaves_what_is_done_and_refuses_another_plan(tmp_path, capsys):
    assert run(tmp_path, "--peers", "exact") == 0
    before = read(tmp_path)["peers"]["exact"]
    assert run(tmp_path, "--peers", "exact", "--resume") == 0
    assert read(tmp_path)["peers"]["exact"] == before
    assert run(tmp_path, "--peers", "exact", "--resume", "--seed", "2") == 2
    assert "seed" in capsys.readouterr().err
    assert run(tmp_path, "--peers", "exact") == 0
    assert read(tmp_path)["peers"]["exact"] != before


def test_an_interrupt_keeps_what_was_measured(tmp_path, monkeypatch):
    real = driver.Run._peer

    def then_interrupt(self, name):
        if self.results["peers"]:
            raise KeyboardInterrupt
        return real(self, name)

    monkeypatch.setattr(driver.Run, "_peer", then_interrupt)
    assert run(tmp_path, "--peers", "exact,hnswlib") == 130
    assert list(read(tmp_path)["peers"]) == ["exact"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--peers", "exact,nonsense"], "unknown peer: nonsense; known: hnswlib, nearstone"),
        (["--dataset", "nonsense"], "unknown data set: nonsense; known: minilm"),
        (["--efs", "5,20"], "from k = 10 up"),
        (["--efs", "ten"], "whole numbers"),
        (["--beside", "exact"], "only hnswlib and nearstone"),
        (
            ["--exact", "--peers", "exact,hnswlib"],
            "--exact compares nearstone-exact, faiss-flat, exact, not hnswlib",
        ),
        (["--exact", "--beside", "hnswlib"], "only nearstone-exact can run"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--rows", "5"], "at least 100 rows"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_known(tmp_path, capsys, words, says):
    assert cli.main(["--dataset", "manifold-96", "--out", str(tmp_path / "out"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_embeddings_have_no_default_place(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NEARSTONE_DATA", raising=False)
    assert cli.main(["--dataset", "minilm", "--out", str(tmp_path)]) == 2
    assert "NEARSTONE_DATA" in capsys.readouterr().err


def test_list_names_peers_and_sets(capsys):
    assert cli.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "nearstone-memory" in out and "clustered-128" in out


def order(tmp_path, name):
    keys = {"dim": 4, "metric": "l2", "rows": 100, "threads": 1, "efs": [10], "pin": False}
    paths = {"rows_path": str(tmp_path / "none.npy"), "queries_path": str(tmp_path / "none.npy")}
    return {"name": name, "folder": str(tmp_path), **keys, **paths}


def test_an_error_in_the_library_is_a_reason(tmp_path):
    process = Process(order(tmp_path, "exact"), tmp_path / "log")
    with pytest.raises(PeerFailed, match="FileNotFoundError"):
        process.ask(30, cmd="build")
    process.quit()
    assert process.child.poll() is not None


def test_a_dead_worker_is_a_reason_and_can_be_asked_again(tmp_path):
    process = Process(order(tmp_path, "exact"), tmp_path / "log")
    os.kill(process.child.pid, signal.SIGKILL)
    with pytest.raises(PeerFailed, match="killed by SIGKILL"):
        process.ask(30, cmd="build")
    with pytest.raises(PeerFailed, match="gone"):
        process.ask(30, cmd="build")
    process.quit()


def test_a_worker_that_takes_too_long_is_ended(tmp_path):
    process = Process(order(tmp_path, "exact"), tmp_path / "log")
    with pytest.raises(PeerFailed, match="took more than"):
        process.ask(0.0, cmd="build")
    assert process.child.poll() is not None


def test_sync_calls_are_read_from_a_trace():
    text = """7099  openat(AT_FDCWD, "/tmp/a", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3
7099  fsync(3)                          = 0
7100  fdatasync(4 <unfinished ...>
7099  msync(0x7fae16000000, 33554432, MS_SYNC) = 0
7099  msync(0x7fae16000000, 4096, MS_ASYNC) = 0
7100  <... fdatasync resumed>)          = 0
7100  fdatasync(4)                      = -1 EIO (Input/output error)
7099  +++ exited with 0 +++
"""
    assert parse_trace(text) == {"fsync": 1, "fdatasync": 2, "msync": 1}
    hidden = """openat(AT_FDCWD, "log", O_WRONLY|O_DSYNC) = 3
1 openat(AT_FDCWD, "O_FILE", O_RDONLY) = 3
1 io_uring_setup(8, {flags=0}) = 5
"""
    assert parse_trace(hidden) == {"O_SYNC": 1, "io_uring": 1}
    assert parse_trace("") == {}
