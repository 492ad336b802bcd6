"""report.html: a certification on one self-contained page; nothing is fetched, and without its script it reads too."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from lipjax.config import parse_radii
from lipjax.evaluation import charts, palette, report
from lipjax.evaluation.charts import Line, bar_chart, line_chart
from lipjax.evaluation.kept import name_of
from lipjax.evaluation.pictures import picture
from lipjax.evaluation.summary_table import lines
from lipjax.system import printed
from lipjax.system.files import atomic_write

EXTREMES = 8  # images shown at either end of the radii
GALLERY = 24  # images shown under the slider
_POSITIONS = 200  # of the slider, at least half of it


class Adversarial(NamedTuple):
    """The closest misclassified point that an attack found: (H, W, C), pixels in [0, 1], and what it is taken for."""

    image: np.ndarray
    taken_for: int


class Certified(NamedTuple):
    """All that the page of a certification is made of.

    Attributes:
      summary: as `split.certify_run` returns it.
      rows: the columns of per_image.csv, (N,).
      closest: (N,) distances of the closest misclassified points an attack found (inf: none), None without an attack.
      images: (N, H, W, C), pixels in [0, pixel_max].
      config: values of the training by key, `section.key`; None: not told.
      training: the lines of metrics.jsonl.
      adversarial: of the images of `extremes`, by index, where the attack found one.
    """

    summary: Mapping[str, Any]
    rows: np.ndarray
    closest: np.ndarray | None
    images: np.ndarray
    pixel_max: int
    config: Mapping[str, Any] | None = None
    training: Sequence[Mapping[str, Any]] = ()
    adversarial: Mapping[int, Adversarial] = {}


def extremes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the least and of the most robust images among those classified rightly, at either end first."""
    order = _by_radius(rows)
    return order[:EXTREMES], order[::-1][:EXTREMES]


def write_html_report(path: Path, certified: Certified) -> None:
    """Write the page, whole or not at all; the same arguments give the same bytes."""
    summary, rows = certified.summary, certified.rows
    radius, label, prediction = (rows[name] for name in ("radius", "label", "prediction"))
    right = label == prediction
    radii = parse_radii(",".join(summary["certified_accuracy"]))
    first_name, first_radius = next(iter(radii.items()))
    until = attacked_until(summary)
    curves = report.curves(radius, right, certified.closest, until)
    least, most = extremes(rows)
    page = template("report.html").render(
        summary=summary,
        lines=lines(summary),
        infinity=np.inf,
        kept=name_of(summary),
        curve=_curve(*curves),
        histogram=_histogram(radius[right]),
        slider=_slider(certified, radii[first_name], float(curves[0].x[-1]), until),
        gallery=[_shown(certified, i) for i in _spread(_by_radius(rows))],
        names=summary["class_names"],
        classes=_classes(label, right, radius, radii, summary["class_names"]),
        radii=list(radii),
        confusion=_confusion(label, prediction, radius > first_radius, summary["class_names"]),
        confusion_radius=first_name,
        least=[_shown(certified, i) for i in least],
        most=[_shown(certified, i) for i in most],
        config=certified.config,
        training=_training(certified.training),
    )
    atomic_write(path, page)


def template(name: str) -> jinja2.Template:
    """A page of `templates`; all that goes into it is escaped, and what is missing is an error."""
    loader = jinja2.PackageLoader("lipjax.evaluation", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    environment.filters["radius"] = lambda value: "∞" if np.isinf(value) else printed.lower(value, ".4f")
    environment.filters["lower"] = printed.lower
    environment.filters["upper"] = lambda value, form: "" if value is None else printed.upper(value, form)
    environment.globals["colours"] = palette.variables()
    return environment.get_template(name)


def _by_radius(rows: np.ndarray) -> np.ndarray:
    right = np.flatnonzero(rows["label"] == rows["prediction"])
    return right[np.argsort(rows["radius"][right], kind="stable")]


def _spread(order: np.ndarray) -> np.ndarray:
    """At most GALLERY of them, evenly apart, both ends among them."""
    return order[np.unique(np.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().astype(int))]


def attacked_until(summary) -> float:
    """The largest radius that an attack tried; 0 without one."""
    tried = summary["attack"] and summary["attack"]["robust_accuracy_upper_bound"]
    return max(parse_radii(",".join(tried)).values()) if tried else 0.0


def _curve(certified: Line, attacked: Line | None):
    about = "Certified accuracy against the l2 radius" + (", below what the attack leaves" if attacked else "")
    both, band = ([certified], None) if attacked is None else ([certified, attacked], (certified, attacked))
    return line_chart(both, "l2 radius, pixels in [0, 1]", "accuracy, %", about, band=band, marker="marker")


def _histogram(radius: np.ndarray):
    finite = radius[np.isfinite(radius)]
    count = int(np.clip(2 * math.sqrt(len(finite)), 5, 40))
    counts, edges = np.histogram(finite, bins=count, range=(0.0, float(finite.max(initial=0.0)) or 1.0))
    about = "Histogram of the certified radii of images that are classified rightly"
    return bar_chart(edges, counts, "certified l2 radius, pixels in [0, 1]", "rightly classified images", about)


def _slider(certified: Certified, start: float, reach: float, until: float) -> dict[str, Any]:
    """What the slider tells: at radii `step` apart, how many images are certified, and how many the attack leaves."""
    raw = reach / _POSITIONS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    radii = [float(f"{number * step:.10g}") for number in range(math.ceil(reach / step) + 1)]
    left: list[int | None] = [None] * len(radii)
    if certified.closest is not None:
        left = [int((certified.closest > r).sum()) if r <= until else None for r in radii]
    return {
        "radii": radii,
        "certified": [int((certified.rows["radius"] > r).sum()) for r in radii],
        "attacked": left,
        "attack": certified.closest is not None,
        "images": len(certified.rows),
        "start": min(round(start / step), len(radii) - 1),
        "reach": reach,
        "left": charts.LEFT,
        "width": charts.WIDTH - charts.LEFT - charts.RIGHT,
    }


def _training(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chart of the loss and one of accuracies, against the epoch; none where there are fewer than two."""
    if len(records) < 2:
        return []
    epochs = np.array([record["epoch"] for record in records], float)
    columns: dict[str, tuple[str, float]] = {"accuracy": ("training images, in training", 100)}
    if "validation_accuracy" in records[-1]:
        columns["validation_accuracy"] = ("held-out images", 100)
    held = [key for key in records[-1] if key.startswith("validation_certified")][:1]
    columns |= {key: (f"held-out images, certified at {key.rpartition('_')[2]} (estimate)", 100) for key in held}

    def line(key, name, scale, number):
        values = np.array([record.get(key, np.nan) for record in records], float)
        return Line(name, epochs, scale * values, f"run-{number}")

    lines = [line(key, *about, number) for number, (key, about) in enumerate(columns.items())]
    loss = [line("loss", "loss", 1, 0)]
    return [
        {"lines": lines, "chart": line_chart(lines, "epoch", "accuracy, %", "Accuracy in training", whole=True)},
        {"lines": [], "chart": line_chart(loss, "epoch", "loss", "Loss in training", percent=False, whole=True)},
    ]


def _classes(label, right, radius, radii, names) -> list[dict[str, Any]]:
    """One row a class that occurs: count, accuracy, certified accuracy at each radius, mean radius."""
    table = []
    for number in np.unique(label):
        own = label == number
        certified = [float((radius[own] > r).mean()) for r in radii.values()]
        mean = float(radius[own].mean())
        table.append(
            {
                "name": names[number],
                "count": int(own.sum()),
                "accuracy": float(right[own].mean()),
                "certified": certified,
                "mean": mean,
            }
        )
    return table


def _confusion(label, prediction, is_certified, names) -> dict[str, Any]:
    """Counts: labels × (predicted classes where wrong, right but not certified, certified), and the largest wrong."""
    numbers = np.union1d(label, prediction)
    counts = []
    for number in numbers:
        own = label == number
        wrong = [int((own & (prediction == other)).sum()) if other != number else None for other in numbers]
        right = own & (prediction == number)
        counts.append((names[number], wrong, int((right & ~is_certified).sum()), int((right & is_certified).sum())))
    most = max((count or 0 for _, wrong, *_ in counts for count in wrong), default=0)
    return {"names": [names[number] for number in numbers], "rows": counts, "most": max(most, 1)}


def _shown(certified: Certified, i: int) -> dict[str, Any]:
    row, found = certified.rows[i], certified.adversarial.get(int(i))
    image = np.asarray(certified.images[i], np.float64) / certified.pixel_max
    shown = {
        "row": dict(zip(row.dtype.names, row.tolist(), strict=True)),
        "attack": None if certified.closest is None else float(certified.closest[i]),
        "picture": picture(image),
        "adversarial": None,
    }
    if found is None:
        return shown
    change = found.image - image
    times = 0.5 / max(np.abs(change).max(), np.finfo(np.float64).tiny)
    shown |= {"adversarial": picture(found.image), "taken_for": certified.summary["class_names"][found.taken_for]}
    return shown | {"change": picture(0.5 + times * change), "times": times}
