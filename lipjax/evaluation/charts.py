"""Charts as SVG within a page: text of 12 px at a width of 340 px, and colours that follow light and dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 26, 42
_MOST = 400  # points of a curve; one of more images is drawn at as many radii


class Line(NamedTuple):
    """A curve through points (x, y), both (K,); `look`: its class in the style sheet; `step`: constant between them."""

    name: str
    x: np.ndarray
    y: np.ndarray
    look: str
    step: bool = False


def survival(distance: np.ndarray, right: np.ndarray, until: float) -> tuple[np.ndarray, np.ndarray]:
    """(ε, the fraction of images with distance > ε) for ε from 0 to `until`; at first the standard accuracy, at ε = 0.

    The fraction is a step function that falls at each distance of an image that is classified rightly: distance (N,),
    right (N,).  Images that are not count as never robust, whatever stands for their distance.
    """
    own = np.sort(np.where(np.isnan(distance), 0.0, distance)[right])
    ends = np.unique(np.concatenate([[0.0], own[own <= until], [until]]))
    if len(ends) > _MOST:
        ends = np.linspace(0.0, until, _MOST)
    left = len(own) - np.searchsorted(own, ends, side="right")
    return np.concatenate([[0.0], ends]), np.concatenate([[len(own)], left]) / max(len(right), 1)


def ticks(low: float, high: float, whole: bool = False, about: int = 6) -> list[float]:
    """Round numbers from low to high: 1, 2, 5 times a power of ten apart, or 2.5 times; `whole`: integers."""
    raw = max((high - low) / about, 1.0 if whole else 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


class Frame(NamedTuple):
    """The part of the plane that a chart shows, and where its points are on the page."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x):
        return LEFT + (np.asarray(x, float) - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, y):
        return HEIGHT - BOTTOM - (np.asarray(y, float) - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_name: str, y_name: str, whole: tuple[bool, bool] = (False, False)) -> str:
        """Grid, ticks and names."""
        found, bottom = [], HEIGHT - BOTTOM
        for tick in ticks(*self.y, whole=whole[1]):
            at = f"{float(self.down(tick)):.1f}"
            found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
            found.append(f'<text x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{tick:g}</text>')
        for tick in ticks(*self.x, whole=whole[0]):
            at = f"{float(self.across(tick)):.1f}"
            found.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
            found.append(f'<text class="tick" x="{at}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        found.append(f'<text x="{middle:g}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
        found.append(f'<text x="4" y="14">{escape(y_name)}</text>')
        return "".join(found)


def line_chart(
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    about: str,
    percent: bool = True,
    band: tuple[Line, Line] | None = None,
    whole: bool = False,
    marker: str | None = None,
) -> Markup:
    """An SVG of curves.

    Args:
      about: what a reader who does not see it is told.
      percent: y from 0 to 100; else as far as the values go.
      band: two of the lines, between which the plane is filled, as far as both go.
      whole: x are integers.
      marker: the id of an upright line at x = 0, for a script to move.
    """
    finite = [np.isfinite(line.y) for line in lines]
    x = np.concatenate([line.x[keep] for line, keep in zip(lines, finite, strict=True)])
    y = np.concatenate([line.y[keep] for line, keep in zip(lines, finite, strict=True)])
    low, high = (0.0, 100.0) if percent else (min(0.0, y.min(initial=0.0)), y.max(initial=0.0))
    frame = Frame((0.0, float(x.max(initial=0.0)) or 1.0), (float(low), float(high) if high > low else low + 1.0))
    drawn = [frame.axes(x_name, y_name, (whole, False))]
    if band is not None:
        drawn.append(f'<path class="band" d="{_between(frame, *band)}"/>')
    for line, keep in zip(lines, finite, strict=True):
        drawn.append(f'<path class="line {line.look}" d="{_path(frame, line, keep)}"/>')
    if marker is not None:
        upright = f'x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        drawn.append(f'<line class="marker" id="{escape(marker)}" {upright}/>')
    return _svg(drawn, about)


def bar_chart(edges: np.ndarray, counts: np.ndarray, x_name: str, y_name: str, about: str) -> Markup:
    """An SVG of a histogram: edges (K + 1,), counts (K,)."""
    frame = Frame((0.0, float(edges[-1])), (0.0, float(max(counts.max(initial=0), 1))))
    drawn = [frame.axes(x_name, y_name, (False, True))]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            x, top = frame.across(low), frame.down(count)
            size = f'width="{frame.across(high) - x:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
            drawn.append(f'<rect class="bar" x="{x:.1f}" y="{top:.1f}" {size}/>')
    return _svg(drawn, about)


def _svg(drawn: Sequence[str], about: str) -> Markup:
    start = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">'
    return Markup(start + "".join(drawn) + "</svg>")


def _path(frame: Frame, line: Line, keep: np.ndarray) -> str:
    x, y = frame.across(line.x[keep]), frame.down(line.y[keep])
    if not len(x):
        return "M0 0"
    points = [f"M{x[0]:.1f} {y[0]:.1f}"]
    for across, down in zip(x[1:], y[1:], strict=True):
        points.append(f"H{across:.1f}V{down:.1f}" if line.step else f"L{across:.1f} {down:.1f}")
    return "".join(points)


def _between(frame: Frame, one: Line, other: Line) -> str:
    """The outline of what is between two step functions, as far as both go."""
    end = min(one.x[-1], other.x[-1])
    sides = []
    for line in (one, other):
        keep = line.x <= end
        x, y = np.append(line.x[keep], end), np.append(line.y[keep], line.y[keep][-1])
        sides.append((np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]))
    (x, y), (back_x, back_y) = sides[0], (side[::-1] for side in sides[1])
    corners = zip(frame.across([*x, *back_x]), frame.down([*y, *back_y]), strict=True)
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in corners) + "Z"
