"""Queries per second at a recall that no setting hits exactly.

The points of a sweep are first reduced to their frontier (a setting that another beats in recall and speed is
no choice), then log(QPS) is drawn as straight lines over recall. Nothing is read beyond the highest recall.
Below the lowest the fastest point stands: it has more recall than was asked for, so its speed is a lower
bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Reading(NamedTuple):
    """``bound`` says that the curve starts above the recall asked for: the speed is at least this."""

    qps: float
    bound: bool


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """(recall, qps) points that no other point beats in both, by ascending recall and descending speed."""
    kept: list[tuple[float, float]] = []
    for recall, qps in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not kept or qps > kept[-1][1]:
            kept.append((recall, qps))
    return kept[::-1]


def at_recall(points: Iterable[tuple[float, float]], recall: float) -> Reading | None:
    """The speed at ``recall``, or None when the curve doesn't reach it."""
    curve = frontier(points)
    if not curve or curve[-1][0] < recall:
        return None
    if curve[0][0] >= recall:
        return Reading(curve[0][1], curve[0][0] > recall)
    for (low, fast), (high, slow) in zip(curve, curve[1:], strict=False):
        if high == recall:
            return Reading(slow, False)
        if high > recall:
            share = (recall - low) / (high - low)
            return Reading(math.exp(math.log(fast) + share * (math.log(slow) - math.log(fast))), False)
    return None
