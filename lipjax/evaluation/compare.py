"""Certified runs side by side, on one self-contained page."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lipjax.checkpoint import CheckpointError, sha256
from lipjax.config import parse_radii
from lipjax.data import DataError, Split
from lipjax.evaluation import palette, report
from lipjax.evaluation.asked import Asked
from lipjax.evaluation.charts import line_chart
from lipjax.evaluation.html_report import attacked_until, template
from lipjax.evaluation.pictures import picture
from lipjax.evaluation.split import images_of
from lipjax.system import printed
from lipjax.system.files import atomic_write
from lipjax.workdir import flattened, folder_of, load_trained, read_config

SHOWN = 12  # images on which the runs differ most
NOT_TOLD = "–"


class Run(NamedTuple):
    """What is in the folder of a certified run; `closest`: distances (N,) of an attack, if there was one."""

    name: str
    workdir: Path
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    label: np.ndarray
    prediction: np.ndarray
    radius: np.ndarray
    closest: np.ndarray | None

    @property
    def right(self) -> np.ndarray:
        """Which predictions are the label, (N,)."""
        return self.label == self.prediction


def compare(
    *workdirs: str | os.PathLike,
    output: str | os.PathLike | None = None,
    split: str = "test",
    data_dir: str | None = None,
) -> Path:
    """Write a page on two or more certified runs: curves, numbers, configs and images, side by side; its path.

    The runs must have certified the same images of the split; each may have been asked for radii of its own, as every
    image's radius is known.

    Args:
      output: a file; None: comparison.html in the first folder.
      data_dir: where the images are; None: as in the first run's config.  Where they cannot be read the page says so.

    Raises:
      ValueError: fewer than two runs, or more than there are colours; other images; files that are not of one result.
      FileNotFoundError: no certificates there.
    """
    if not 2 <= len(workdirs) <= len(palette.RUNS):
        given = tuple(os.fspath(workdir) for workdir in workdirs)
        raise ValueError(f"workdirs={given!r}: must be 2 to {len(palette.RUNS)} runs")
    folders = [folder_of(workdir) for workdir in workdirs]
    runs = [_run(folder, name, split) for folder, name in zip(folders, _names(folders), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        if run.summary["images_sha256"] != first.summary["images_sha256"]:
            both = "; ".join(f"{_told(r.summary)} in {str(r.workdir)!r}" for r in (first, run))
            raise ValueError(f"workdir={str(run.workdir)!r}: its certificates are of other images: {both}")
    radii = parse_radii(",".join(dict.fromkeys(text for r in runs for text in r.summary["certified_accuracy"])))
    radii = dict(sorted(radii.items(), key=lambda item: item[1]))
    chosen = next(iter(first.summary["certified_accuracy"]))
    images, why_none = _images(first, data_dir)
    page = template("compare.html").render(
        runs=runs,
        told=_told(first.summary),
        chart=_chart(runs),
        is_attacked=any(run.closest is not None for run in runs),
        numbers=_numbers(runs, radii),
        radius=chosen,
        pairs=[(run.name, *_shares(first.radius > radii[chosen], run.radius > radii[chosen])) for run in runs[1:]],
        configs=_differing(runs),
        shown=[] if images is None else [_shown(runs, images, i) for i in _most_different(runs)],
        why_none=why_none,
    )
    path = first.workdir / "comparison.html" if output is None else Path(output)
    atomic_write(path, page)
    return path


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names of folders, no two alike: the last part, the whole path where that is another's too, or a number."""
    last = [folder.resolve().name for folder in folders]
    names = [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _run(workdir: Path, name: str, split: str) -> Run:
    folder = Asked(split=split).folder(workdir)
    path = folder / "summary.json"
    if not path.exists():
        command = f"certify.py --workdir={workdir}" + ("" if split == "test" else f" --split={split}")
        raise FileNotFoundError(f"workdir={str(workdir)!r} has no {folder.name}/summary.json: {command} makes it")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        columns = _columns(folder / "per_image.csv", summary["per_image_sha256"])
        closest = None
        if summary["attack"]:
            closest = np.array(_columns(folder / "attack.csv")["distance"], float)
        label, prediction = (np.array(columns[key], int) for key in ("label", "prediction"))
        radius = np.array(columns["radius"], float)
        if len(label) != summary["num_examples"] or (closest is not None and len(closest) != len(label)):
            raise ValueError(f"the tables are not of {summary['num_examples']} images")
        config = flattened(read_config(workdir).to_dict())
        return Run(name, workdir, summary, config, label, prediction, radius, closest)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise ValueError(f"{folder}: is not a result of this version of certify.py: {error}") from error


def _columns(path: Path, digest: str | None = None) -> dict[str, list[str]]:
    text = path.read_text(encoding="utf-8")
    if digest is not None and hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ValueError(f"{path.name} is not the one that summary.json is of")
    names, *rows = csv.reader(text.splitlines())
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _told(summary: Mapping[str, Any]) -> str:
    return f"{summary['num_examples']} images of {summary['dataset']}, {summary['split']} split"


def _images(run: Run, data_dir: str | None) -> tuple[np.ndarray | None, str]:
    """The images (N, H, W, C) in [0, 1] that a run certified, or None and why they cannot be shown."""
    try:
        trained = load_trained(run.workdir, data_dir)
        dataset = trained.dataset(say=lambda line: None)
        whole = images_of(dataset, run.summary["split"], trained.config)
    except (ValueError, FileNotFoundError, CheckpointError, DataError) as error:
        return None, str(error)
    images = Split(*(part[: run.summary["num_examples"]] for part in whole))
    if sha256(images._asdict()) != run.summary["images_sha256"]:
        return None, "the images that are there now are others than those that were certified"
    return images.images.astype(np.float64) / dataset.pixel_max, ""


def _chart(runs: Sequence[Run]):
    drawn = []
    for number, run in enumerate(runs):
        certified, attacked = report.curves(run.radius, run.right, run.closest, attacked_until(run.summary))
        drawn.append(certified._replace(look=f"run-{number}"))
        if attacked is not None:
            drawn.append(attacked._replace(look=f"run-{number} dashed"))
    about = "Certified accuracy against the l2 radius of " + ", ".join(run.name for run in runs)
    return line_chart(drawn, "l2 radius, pixels in [0, 1]", "accuracy, %", about)


def _numbers(runs: Sequence[Run], radii: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """(name, one value a run) of each line of the table."""
    told = [("standard accuracy", [f"{run.right.mean():.2%}" for run in runs])]
    told += [(f"certified at {text}", [f"{np.mean(run.radius > r):.2%}" for run in runs]) for text, r in radii.items()]
    for text, r in radii.items():
        left = [
            NOT_TOLD if run.closest is None or r > attacked_until(run.summary) else f"{np.mean(run.closest > r):.2%}"
            for run in runs
        ]
        told += [(f"the attack leaves at {text}", left)] if set(left) != {NOT_TOLD} else []
    attacks = [run.summary["attack"] for run in runs]
    told.append(("attack", [f"{a['strength']}, {a['domain']}" if a else NOT_TOLD for a in attacks]))
    told.append(("average certified radius", [printed.lower(run.radius.mean(), ".4f") for run in runs]))
    bounds = [printed.upper(run.summary["lipschitz_bound"], ".5f") for run in runs]
    told.append(("proven bound of Lip(features)", bounds))
    told.append(("epochs", [str(run.summary.get("epochs", NOT_TOLD)) for run in runs]))
    told.append(("certified on", [run.summary.get("date", NOT_TOLD) for run in runs]))
    told.append(("lipjax", [run.summary.get("lipjax", NOT_TOLD) for run in runs]))
    told.append(("parameters, sha256", [f"{run.summary['params_sha256'][:8]}…" for run in runs]))
    return told


def _shares(one: np.ndarray, other: np.ndarray) -> tuple[int, int, int, int]:
    """How many images are certified by both, by one alone, by the other alone, by neither."""
    counts = ((one & other).sum(), (one & ~other).sum(), (~one & other).sum(), (~one & ~other).sum())
    return tuple(int(count) for count in counts)  # type: ignore[return-value]


def _differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The keys of the configs under which the runs differ, with the value of each run."""
    found = []
    for key in sorted({key for run in runs for key in run.config} - {"data.data_dir"}):
        values = [str(run.config.get(key, NOT_TOLD)) for run in runs]
        if len(set(values)) > 1:
            found.append((key, values))
    return found


def _most_different(runs: Sequence[Run]) -> np.ndarray:
    """The images whose radii differ most from run to run, at most SHOWN; none that have one radius in all."""
    radii = np.stack([run.radius for run in runs])
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(radii.max(axis=0) - radii.min(axis=0), nan=0.0, posinf=np.inf)
    order = np.argsort(-apart, kind="stable")[:SHOWN]
    return order[apart[order] > 0]


def _shown(runs: Sequence[Run], images: np.ndarray, i: int) -> dict[str, Any]:
    names = runs[0].summary["class_names"]
    found = [(run.name, names[run.prediction[i]], bool(run.right[i]), float(run.radius[i])) for run in runs]
    return {"index": int(i), "label": names[runs[0].label[i]], "picture": picture(images[i]), "found": found}
