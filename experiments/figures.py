"""Figures of finished cells, as SVG: the same results give the same file."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import paper, time_table
from experiments.accuracy_table import split_label
from experiments.methods import TIMED
from experiments.paper import RADII
from experiments.render import read_rows
from experiments.tables import TABLES, scale_text

_GREY = "0.55"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_STYLE: Any = {"svg.hashsalt": "lipjax", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}


def draw(table: str, scale: str, results: Path, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write the figures of a table that has results; returns their paths.

    Accuracies: certified accuracy against the radius; where the paper has the table, also standard against certified
    accuracy.  Recipes: standard against certified accuracy, a curve a loss.  Times: seconds an epoch against depth.
    Gradients have no figure.
    """
    rows = read_rows(table, scale, results)
    rows = {label: row for label, row in rows.items() if row}
    figures: dict[str, Callable[[str, str, dict[str, list[dict]]], Figure]] = {}
    if rows and TABLES[table].kind == "time":
        figures = {"times": _times}
    if rows and TABLES[table].kind == "held_out":
        figures = {"dial": _dial}
    if rows and TABLES[table].kind == "accuracy":
        figures = {"radius": _radius} | ({"scatter": _scatter} if TABLES[table].paper else {})
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name, make in figures.items():
            paths.append(folder / f"table-{table}_{name}_{scale}.{suffix}")
            make(table, scale, rows).savefig(paths[-1], metadata={"Date": None} if suffix == "svg" else None, dpi=100)
    return paths


def _figure(panels: int, width: float, table: str, scale: str, note: str, share: bool = False):
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{TABLES[table].title}\n{scale_text(table, scale)}\n{note}", fontsize=9)
    return figure, figure.subplots(1, panels, squeeze=False, sharey=share)[0]


def _radius(table: str, scale: str, rows: dict[str, list[dict]]) -> Figure:
    """One panel for each network or head, if the labels begin with them; means over seeds."""
    groups: dict[str, dict[str, list[dict]]] = {}
    for label, row in rows.items():
        group, _, rest = label.partition(", ")
        groups.setdefault(group, {})[rest] = row
    if any(len(group) == 1 or "" in group for group in groups.values()):
        groups = {"": rows}
    names = list(dict.fromkeys(label for members in groups.values() for label in members))
    note = "Measured at the marks; the lines between them only join them"
    figure, panels = _figure(len(groups), max(4.2 * len(groups), 6.5), table, scale, note, share=True)
    for axes, (group, members) in zip(panels, groups.items(), strict=True):
        for label, row in members.items():
            number = names.index(label)
            summaries = [result["summary"] for result in row]
            at = {"0": mean(s["standard_accuracy"] for s in summaries)}
            at |= {r: mean(s["certified_accuracy"][r] for s in summaries) for r in summaries[0]["certified_accuracy"]}
            distances = [_number(radius) * 255 for radius in at]
            values = [100 * accuracy for accuracy in at.values()]
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(distances, values, marker=marker, ms=4, lw=0.7, color=f"C{number % 10}", label=label)
        axes.set(title=group, xlabel="l2 radius × 255", xticks=distances, ylim=(0, None))
        axes.legend(fontsize=7)
    panels[0].set_ylabel("certified accuracy, % (at 0: standard)")
    return figure


def _number(radius: str) -> float:
    numerator, _, denominator = radius.partition("/")
    return float(numerator) / float(denominator or 1)


def _dial(table: str, scale: str, rows: dict[str, list[dict]]) -> Figure:
    """A panel a radius: standard against certified accuracy, means over seeds; labels up to ', ε' make a curve."""
    radii = list(next(iter(rows.values()))[0]["held_out"]["certified_accuracy"])
    figure, panels = _figure(len(radii), 11, table, scale, "Lines join the ε of one loss")
    curves: dict[str, list[list[dict]]] = {}
    for label, row in rows.items():
        curves.setdefault(label.partition(", ε")[0], []).append([result["held_out"] for result in row])
    for axes, radius in zip(panels, radii, strict=True):
        for number, (label, points) in enumerate(curves.items()):
            x = [100 * mean(found["standard_accuracy"] for found in point) for point in points]
            y = [100 * mean(found["certified_accuracy"][radius] for found in point) for point in points]
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(x, y, marker=marker, ms=5, lw=1, color=f"C{number % 10}", label=label)
        axes.set(xlabel="standard accuracy, %", ylabel=f"certified at {radius}, %")
    panels[0].legend(fontsize=7)
    return figure


def _scatter(table: str, scale: str, rows: dict[str, list[dict]]) -> Figure:
    """Two panels with axes of their own: ours, and the paper's in grey, which are of much larger trainings."""
    note = f"Certified at {RADII[0]}; the numbers at the marks are the n of LipConvnet-n"
    figure, panels = _figure(2, 11, table, scale, note)
    marks: dict[Any, list] = {axes: [] for axes in panels}
    labels = [split_label(label) for label in TABLES[table].rows]
    for number, method in enumerate(dict.fromkeys(method for _, method in labels)):
        ours = {depth: _point(rows.get(f"LipConvnet-{depth}, {method}")) for depth, named in labels if named == method}
        theirs = {depth: paper.accuracies(table, depth, method) for depth, named in labels if named == method}
        published = {depth: found[:2] for depth, found in theirs.items() if found}
        for axes, points, colour in ((panels[0], ours, f"C{number}"), (panels[1], published, _GREY)):
            shown = {depth: point for depth, point in points.items() if point}
            if shown:
                x, y = zip(*shown.values(), strict=True)
                axes.plot(x, y, _MARKERS[number], ms=5, color=colour, label=method)
                marks[axes] += [*shown.items()]
    for axes, title in zip(panels, ("ours, at this scale", "the paper's, 32 channels, 200 epochs"), strict=True):
        axes.set(title=title, xlabel="standard accuracy, %", ylabel=f"certified at {RADII[0]}, %")
        axes.margins(0.08)
        if axes.lines:
            axes.legend(fontsize=7, loc="upper left")
    figure.draw_without_rendering()  # places the axes, on which the labels depend
    for axes, placed in marks.items():
        _label_points(axes, placed)
    return figure


def _point(row: list[dict] | None) -> tuple[float, float] | None:
    """(standard, certified at the first radius) in %, means over seeds."""
    summaries = [result["summary"] for result in row or []]
    if not summaries:
        return None
    certified = mean(s["certified_accuracy"][RADII[0]] for s in summaries)
    return 100 * mean(s["standard_accuracy"] for s in summaries), 100 * certified


def _label_points(axes, points: list[tuple[int, tuple[float, float]]]) -> None:
    """The depth at each mark, on that side of it where marks and earlier labels are farthest."""
    marks = [(depth, axes.transData.transform(point)) for depth, point in points]
    taken = [position for _, position in marks]
    for depth, position in marks:
        around = [position + 13 * np.array([np.cos(t), np.sin(t)]) for t in np.arange(0, 2 * np.pi, np.pi / 8)]
        others = [other for other in taken if other is not position]
        room = [min((float(np.hypot(*(spot - other))) for other in others), default=0) for spot in around]
        best = around[int(np.argmax(room))]
        taken.append(best)
        axes.annotate(str(depth), axes.transData.inverted().transform(best), fontsize=7, ha="center", va="center")


def _times(table: str, scale: str, rows: dict[str, list[dict]]) -> Figure:
    """Three panels: seconds on this machine, the paper's on its own, and the reductions, which have no unit."""
    note = "The machines differ, so the seconds of the first two panels do not compare; the reductions do"
    figure, (seconds, theirs, reductions) = _figure(3, 12.5, table, scale, note)
    depths = [split_label(label)[0] for label in rows]
    for name, marker in zip(TIMED, _MARKERS, strict=False):
        values = [time_table.epoch_seconds(row[0], name) for row in rows.values()]
        seconds.plot(depths, values, marker=marker, ms=4, lw=1, label=name)
    published = {depth: times for depth in depths if (times := paper.times(table, depth))}
    if published:
        for name, marker, line in (("previous", "o", "-"), ("ours", "s", "--")):
            values = [getattr(times, name) for times in published.values()]
            theirs.plot(list(published), values, line, marker=marker, ms=4, lw=1, color=_GREY, label=name.capitalize())
        values = [times.reduction for times in published.values()]
        reductions.plot(list(published), values, marker="s", ms=4, lw=1, color=_GREY, label="the paper's")
        theirs.legend(fontsize=7)
    for number, name in enumerate(TIMED):
        if name in ("+ Fast", "equiripple + fast"):
            values = [time_table.reduction(row[0], name) for row in rows.values()]
            reductions.plot(depths, values, marker=_MARKERS[number], ms=4, lw=1, color=f"C{number}", label=name)
    backend = next(iter(rows.values()))[0]["backend"].upper()
    seconds.set(title=f"ours, {backend}", ylabel="seconds an epoch", ylim=(0, None))
    theirs.set(title="the paper's, 32 channels, RTX 2080 Ti", ylim=(0, None))
    reductions.set(title="reduction against 'Previous', %", ylim=(None, 0))
    for axes in (seconds, theirs, reductions):
        axes.set(xlabel="n of LipConvnet-n", xticks=depths)
    seconds.legend(fontsize=7)
    reductions.legend(fontsize=7)
    return figure
