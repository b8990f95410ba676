"""What holds for every script of changes, and what each of them is about."""

from dataclasses import astuple

import numpy as np
import pytest

from peers import runbooks
from peers.datasets import manifold

ROWS = manifold(8, 1000, 1, 1)
ROUNDS = 60


def begin(name, seed=1):
    return runbooks.ALL[name](ROWS, seed)


@pytest.mark.parametrize("name", runbooks.ALL)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rounds_say_all_that_changed_and_no_vector_is_held_twice(name, seed):
    runbook = begin(name, seed)
    assert runbook.keys.tolist() == list(range(len(runbook.keys)))
    held = dict(zip(runbook.keys.tolist(), runbook.rows.tolist(), strict=True))
    ever, peak, changes = set(held), len(held), 0
    for _ in range(ROUNDS):
        made = runbook.round()
        for key, row in zip(made.replaced.tolist(), made.replaced_rows.tolist(), strict=True):
            assert held[key] != row
            held[key] = row
        for key in made.deleted.tolist():
            del held[key]
        for key, row in zip(made.inserted.tolist(), made.inserted_rows.tolist(), strict=True):
            assert key not in ever
            ever.add(key)
            held[key] = row
        assert held == dict(zip(runbook.keys.tolist(), runbook.rows.tolist(), strict=True))
        assert sorted([*held.values(), *runbook.pool.tolist()]) == list(range(1000))
        peak = max(peak, len(held))
        changes += len(made.replaced) + len(made.deleted) + len(made.inserted)
    assert runbook.peak == peak
    # Enough to be worth a measurement: two rows in a hundred, in the mean of all rounds.
    assert changes > ROUNDS * 20


@pytest.mark.parametrize("name", runbooks.ALL)
def test_a_seed_makes_the_same_rounds_which_later_ones_leave_alone(name):
    one, same, other = begin(name), begin(name), begin(name, 2)
    first = one.round()
    kept = [part.copy() for part in astuple(first)]
    following = [one.round() for _ in range(20)][-1]
    assert all(map(np.array_equal, astuple(first), kept))
    assert all(map(np.array_equal, astuple(same.round()), kept))
    assert all(map(np.array_equal, astuple([same.round() for _ in range(20)][-1]), astuple(following)))
    # The window slides the same way whatever the seed.
    assert (name == "sliding") == all(map(np.array_equal, astuple(other.round()), kept))


def test_steady_rounds_keep_their_sizes_and_bring_rows_that_were_not_held():
    runbook = begin("steady")
    for _ in range(ROUNDS):
        before = set(runbook.rows.tolist())
        made = runbook.round()
        assert (len(made.replaced), len(made.deleted), len(made.inserted)) == (80, 16, 16)
        assert len(set(runbook.rows.tolist()) - before) == 96


def test_a_window_slides_over_all_rows_in_their_order_and_begins_again():
    runbook = begin("sliding")
    for number in range(1, 31):
        made = runbook.round()
        assert made.deleted.tolist() == list(range(50 * (number - 1), 50 * number))
        window = np.arange(50 * number, 50 * number + 500)
        assert runbook.keys[np.argsort(runbook.keys)].tolist() == window.tolist()
        assert runbook.rows[np.argsort(runbook.keys)].tolist() == (window % 1000).tolist()


def test_lives_are_short_long_and_unlimited_as_often_as_told():
    lives = begin("expiring").lives(130_000)
    short, long = lives <= runbooks.SHORT, (lives > runbooks.SHORT) & (lives <= runbooks.LONG)
    shares = np.array([short.sum(), long.sum(), (lives > runbooks.LONG).sum()]) / 10_000
    assert shares == pytest.approx([10, 2, 1], abs=0.1)
    assert lives.min() == 1 and set(lives[short].tolist()) == {1, 2, 3, 4, 5}


def test_rows_go_when_their_life_ends_and_not_before():
    runbook = begin("expiring")
    born = dict.fromkeys(runbook.keys.tolist(), 0)
    ends = dict(zip(runbook.keys.tolist(), runbook.ends[runbook.rows].tolist(), strict=True))
    sizes, counts = {len(born)}, []
    for number in range(1, 41):
        made = runbook.round()
        assert set(made.deleted.tolist()) == {key for key, end in ends.items() if end == number}
        for key, row in zip(made.inserted.tolist(), made.inserted_rows.tolist(), strict=True):
            ends[key] = int(runbook.ends[row])
            assert ends[key] > number
        sizes.add(len(runbook.keys))
        counts.append(len(made.inserted))
    assert len(sizes) > 20 and max(counts) > 2 * min(counts)


def test_the_pool_of_expiring_rows_may_run_dry():
    runbook = begin("expiring")
    made = [runbook.round() for _ in range(600)]
    assert min(len(one.inserted) for one in made[-100:]) == 0
    assert len(runbook.keys) + len(runbook.pool) == 1000


def test_rows_are_grouped_around_the_nearest_of_some_of_them():
    centres = np.arange(0, 1000, 50)
    found = runbooks.clusters_of(ROWS, centres)
    far = np.linalg.norm(ROWS[:, None] - ROWS[centres][None], axis=2)
    assert far[np.arange(1000), found] == pytest.approx(far.min(axis=1), abs=1e-3)
    assert found[centres].tolist() == list(range(20))


@pytest.mark.parametrize("name", ["clustered", "replacing"])
def test_clusters_live_as_a_whole_at_first_and_about_half_of_them(name):
    sizes = []
    for seed in range(1, 21):
        runbook = begin(name, seed)
        sizes.append(len(runbook.keys))
        live, waiting = set(runbook.cluster[runbook.rows]), set(runbook.cluster[runbook.pool])
        assert len(live) == len(waiting) == runbooks.CLUSTERS // 2 and not live & waiting
    # By chance the larger or the smaller ones.
    assert 250 < min(sizes) < 450 and 550 < max(sizes) < 750


def test_parts_of_some_clusters_come_and_parts_of_others_go():
    runbook = begin("clustered")
    sizes = [len(runbook.keys)]
    for _ in range(ROUNDS):
        cluster_of_key = dict(zip(runbook.keys.tolist(), runbook.cluster[runbook.rows].tolist(), strict=True))
        live, waiting = set(cluster_of_key.values()), set(runbook.cluster[runbook.pool].tolist())
        made = runbook.round()
        come = set(runbook.cluster[made.inserted_rows].tolist())
        gone = {cluster_of_key[key] for key in made.deleted.tolist()}
        assert len(made.replaced) == 0
        assert len(come) <= runbooks.MOVING and len(gone) <= runbooks.MOVING and not come & gone
        # No cluster is emptied, neither here nor there.
        assert live <= set(runbook.cluster[runbook.rows].tolist())
        assert waiting <= set(runbook.cluster[runbook.pool].tolist())
        sizes.append(len(runbook.keys))
    assert len(set(sizes)) > 20


def test_the_keys_of_a_cluster_get_the_vectors_of_another_one():
    runbook = begin("replacing")
    for _ in range(ROUNDS):
        before = dict(zip(runbook.keys.tolist(), runbook.rows.tolist(), strict=True))
        sizes = runbook.counts(runbook.rows), runbook.counts(runbook.pool)
        made = runbook.round()
        leaves = {int(runbook.cluster[before[key]]) for key in made.replaced.tolist()}
        comes = set(runbook.cluster[made.replaced_rows].tolist())
        assert len(leaves) == len(comes) == 1 and leaves != comes
        assert len(made.replaced) == min(sizes[0][leaves.pop()], sizes[1][comes.pop()]) > 0
        assert runbook.keys.tolist() == list(before) and len(made.deleted) == len(made.inserted) == 0


def test_what_lives_drifts_away_where_clusters_come_and_go():
    steady, replacing = begin("steady"), begin("replacing")
    for runbook, drifts in ((steady, False), (replacing, True)):
        before = ROWS[runbook.rows].mean(axis=0)
        moved = []
        for _ in range(ROUNDS):
            runbook.round()
            moved.append(np.linalg.norm(ROWS[runbook.rows].mean(axis=0) - before))
        assert (max(moved) > 0.1) == drifts


@pytest.mark.parametrize("name", runbooks.ALL)
def test_the_least_number_of_rows_is_told_and_enough(name):
    runbook = runbooks.ALL[name](ROWS[: runbooks.ROWS_MIN], 1)
    for _ in range(200):
        runbook.round()
    assert len(runbook.keys) >= 10
    with pytest.raises(ValueError, match="at least 250 rows, not 249"):
        runbooks.ALL[name](ROWS[: runbooks.ROWS_MIN - 1], 1)


@pytest.mark.parametrize("name", ["clustered", "replacing"])
def test_rows_that_are_all_the_same_make_no_clusters(name):
    with pytest.raises(ValueError, match="clusters need rows that differ: all 300 fall into one"):
        runbooks.ALL[name](np.ones((300, 4), dtype=np.float32), 1)


@pytest.mark.parametrize("name", ["clustered", "replacing"])
def test_two_different_vectors_are_clusters_enough(name):
    rows = np.ones((300, 4), dtype=np.float32)
    rows[::3] = 2
    for seed in range(1, 31):
        runbook = runbooks.ALL[name](rows, seed)
        for _ in range(10):
            runbook.round()
        assert 0 < len(runbook.keys) < 300
