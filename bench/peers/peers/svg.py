"""Recall over speed, as an SVG written by hand.

The recall axis shows -log10(1 - recall), so that 0.9, 0.99 and 0.999 are equally far apart; the speed axis is
logarithmic too. Up and to the right is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 1100, 640
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 40, 60
RECALL_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
RECALL_MIN, RECALL_MAX = 0.5, 0.9995
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
DASHES = ("", "6 3", "2 3")

Curve = Sequence[tuple[float, float]]


def chart(title: str, curves: Mapping[str, Curve], bold: Sequence[str] = ()) -> str:
    """The text of an SVG; curves are (recall, qps) points by name. Points below recall 0.5 are left out."""
    shown = {
        name: sorted(point for point in curve if point[0] >= RECALL_MIN and point[1] > 0)
        for name, curve in curves.items()
    }
    shown = {name: curve for name, curve in shown.items() if curve}
    speeds = [qps for curve in shown.values() for _, qps in curve] or [1.0, 10.0]
    low = 10 ** math.floor(math.log10(min(speeds)))
    high = 10 ** math.ceil(math.log10(max(speeds) * 1.001))

    def x(recall: float) -> float:
        first, last = _nines(RECALL_MIN), _nines(RECALL_MAX)
        return LEFT + (_nines(recall) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(qps: float) -> float:
        return HEIGHT - BOTTOM - math.log(qps / low) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, size=16),
    ]
    for tick in RECALL_TICKS:
        out.append(_line(x(tick), TOP, x(tick), HEIGHT - BOTTOM))
        out.append(_text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", anchor="middle"))
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        for times in (1, 2, 5):
            speed = times * 10.0**decade
            if low <= speed <= high:
                out.append(_line(LEFT, y(speed), WIDTH - RIGHT, y(speed)))
                out.append(_text(LEFT - 8, y(speed) + 4, f"{speed:,.0f}", anchor="end"))
    out.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "recall", anchor="middle"))
    out.append(_text(LEFT, TOP - 4 + 0, "queries per second, one thread", size=11))
    for number, (name, curve) in enumerate(shown.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        width = 3 if name in bold else 1.5
        points = " ".join(f"{x(recall):.1f},{y(qps):.1f}" for recall, qps in curve)
        style = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"'
        out.append(f'<polyline points="{points}" {style}/>')
        for recall, qps in curve:
            out.append(f'<circle cx="{x(recall):.1f}" cy="{y(qps):.1f}" r="2.5" fill="{colour}"/>')
        height = TOP + 12 + 20 * number
        start = WIDTH - RIGHT + 16
        out.append(f'<path d="M{start} {height}h28" {style}/>')
        out.append(_text(start + 36, height + 4, name))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def _nines(recall: float) -> float:
    return -math.log10(1 - min(recall, RECALL_MAX))


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
