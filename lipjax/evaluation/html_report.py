"""report.html: a certification on one self-contained page, nothing fetched, no script."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from lipjax.config import parse_radii
from lipjax.evaluation import report
from lipjax.evaluation.kept import name_of
from lipjax.system.files import atomic_write

EXTREMES = 8  # images shown at either end of the radii


def write_html_report(
    path: Path,
    summary: Mapping[str, Any],
    text: str,
    rows: np.ndarray,
    closest: np.ndarray | None,
    images: np.ndarray,
    pixel_max: int,
) -> None:
    """Write the page, whole or not at all; the same arguments give the same bytes.

    Args:
      summary: as `split.certify_run` returns it.
      text: the table that certify.py prints.
      rows: the columns of per_image.csv, (N,).
      closest: (N,) distances of the closest misclassified points an attack found (inf: none), None without an attack.
      images: (N, H, W, C), pixels in [0, pixel_max].
    """
    radius, label, prediction = (rows[name] for name in ("radius", "label", "prediction"))
    right = label == prediction
    radii = parse_radii(",".join(summary["certified_accuracy"]))
    order = np.flatnonzero(right)[np.argsort(radius[right], kind="stable")]
    names = summary["class_names"]
    first_name, first_radius = next(iter(radii.items()))
    page = _template().render(
        summary=summary,
        text=text,
        infinity=np.inf,
        kept=name_of(summary),
        curve=_png(lambda target: report.plot_certified_accuracy(target, radius, right, closest, "")),
        histogram=_png(lambda target: report.plot_radii(target, radius[right])),
        names=names,
        classes=_classes(label, right, radius, radii, names),
        radii=list(radii),
        confusion=_confusion(label, prediction, radius > first_radius, names),
        confusion_radius=first_name,
        least=[_shown(rows[i], images[i], closest, pixel_max) for i in order[:EXTREMES]],
        most=[_shown(rows[i], images[i], closest, pixel_max) for i in order[::-1][:EXTREMES]],
    )
    atomic_write(path, page)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("lipjax.evaluation", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "" if value is None else f"{value:.2%}"
    environment.filters["distance"] = lambda value: "∞" if np.isinf(value) else f"{value:.4f}"
    return environment.get_template("report.html")


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
    """Counts: labels × (predicted classes where wrong, right but not certified, certified)."""
    numbers = np.union1d(label, prediction)
    counts = []
    for number in numbers:
        own = label == number
        wrong = [int((own & (prediction == other)).sum()) if other != number else None for other in numbers]
        right = own & (prediction == number)
        counts.append((names[number], wrong, int((right & ~is_certified).sum()), int((right & is_certified).sum())))
    return {"names": [names[number] for number in numbers], "rows": counts}


def _shown(row, image, closest, pixel_max) -> dict[str, Any]:
    pixels = np.clip(np.rint(np.asarray(image, np.float64) * (255 / pixel_max)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    attack = None if closest is None else float(closest[row["index"]])
    return {"row": dict(zip(row.dtype.names, row.tolist(), strict=True)), "attack": attack, "picture": _base64(buffer)}


def _png(draw) -> str:
    buffer = io.BytesIO()
    draw(buffer)
    return _base64(buffer)


def _base64(buffer: io.BytesIO) -> str:
    return base64.b64encode(buffer.getvalue()).decode()
