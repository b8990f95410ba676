"""Reading a curve of recall and speed."""

import pytest

from peers.interpolate import at_recall, frontier

CURVE = [(0.8, 1000.0), (0.9, 100.0), (1.0, 10.0)]


def test_a_measured_point_is_read_as_it_is():
    assert at_recall(CURVE, 0.9) == (100.0, False)
    assert at_recall(CURVE, 1.0) == (10.0, False)
    assert at_recall(CURVE, 0.8) == (1000.0, False)


def test_between_points_the_logarithm_is_straight():
    assert at_recall(CURVE, 0.85).qps == pytest.approx(1000 / 10**0.5)
    assert at_recall(CURVE, 0.975).qps == pytest.approx(100 / 10**0.75)


def test_beyond_the_highest_recall_there_is_nothing():
    assert at_recall([(0.8, 1000.0), (0.9, 100.0)], 0.90001) is None
    assert at_recall([], 0.5) is None


def test_below_the_lowest_recall_the_fastest_point_is_a_bound():
    assert at_recall(CURVE, 0.5) == (1000.0, True)


def test_order_does_not_matter():
    assert at_recall(CURVE[::-1], 0.95) == at_recall(CURVE, 0.95)


def test_settings_that_another_beats_are_left_out():
    assert frontier([*CURVE, (0.85, 90.0), (0.9, 99.0)]) == CURVE
    # A slow setting with low recall must not lower what is read between its neighbours.
    assert at_recall([*CURVE, (0.85, 90.0)], 0.85).qps == pytest.approx(1000 / 10**0.5)
    assert frontier([(0.9, 5.0), (0.95, 7.0)]) == [(0.95, 7.0)]
