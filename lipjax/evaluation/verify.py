"""Checks a published table from scratch: certifies again from weights and data, and compares."""

import csv
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipjax.evaluation.asked import Asked
from lipjax.evaluation.split import certify_run

# What differs from run to run, from machine to machine, or is checked otherwise.
_NOT_COMPARED = ("seconds", "date", "lipjax", "per_image_sha256", "precision", "error_measured_max")
_ADDED = ("class_names",)  # not in the summaries of earlier versions
_SAME_COLUMNS = ("index", "label", "prediction", "rival", "exact")
_RELATIVE = 1e-6  # of floats: another backend sums in another order


class NotVerified(RuntimeError):
    """A published number is not what its weights and data give."""


def verify_run(
    workdir: Path,
    data_dir: str | None = None,
    split: str = "test",
    say: Callable[[str], None] = print,
    trust_code: bool = True,
) -> dict[str, Any]:
    """Certify again what summary.json and per_image.csv of a workdir are about, and return the summary found.

    Weights, config and data are those of the workdir.  The theorem that the numbers rest on is checked by reading the
    code; this checks that the numbers are what the code gives.

    Raises:
      FileNotFoundError, ValueError: no summary, or one that cannot be read.
      NotVerified: what differs, by name, with both values.
    """
    folder = Asked(split=split).folder(workdir)
    published = _summary(folder / "summary.json")
    text = (folder / "per_image.csv").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        fresh, asked = Path(place), dataclasses.asdict(Asked.of_summary(published))
        found = certify_run(workdir, data_dir, lambda line: None, trust_code=trust_code, folder=fresh, **asked)
        again = (fresh / "per_image.csv").read_text(encoding="utf-8")
    _compare(f"{folder}/summary.json: ", published, json.loads(json.dumps(found)))
    if published.get("per_image_sha256") != hashlib.sha256(text.encode()).hexdigest():
        raise NotVerified(f"{folder}/per_image.csv: is not the one that summary.json is of")
    _compare_rows(folder / "per_image.csv", text, again)
    exactly = "to the last digit" if text == again else f"radii to {_RELATIVE:g}"
    say(f"verified: {found['num_examples']} images of {found['dataset']}, {split} split, {exactly}")
    return found


# What of a summary is compared with a card that was asked for other things too, such as an attack.
_SUMMARIES = ("summary", "first_200", "attacked")
_OF_A_CARD = ("standard_accuracy", "average_certified_radius", "exact_fraction", "lipschitz_bound", "params_sha256")


def compare_with_card(card: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A line that says whether a certification found what the card of a released network says.

    Raises:
      NotVerified: of the same images, the first number that differs, with both values.
    """
    published, what = card["summary"], f"{summary['num_examples']} images of {summary['dataset']}"
    same = [s for s in map(card.get, _SUMMARIES) if s and s["images_sha256"] == summary["images_sha256"]]
    if not same:
        told = f"{published['num_examples']} images of {published['dataset']}, {published['split']} split"
        return f"the card is of {told}; the numbers above are of other images: {what}, {summary['split']} split"
    for published in same:
        for key in _OF_A_CARD:
            _compare(f"card of {card['name']}: {key} ", published[key], summary[key])
        both = published["certified_accuracy"].keys() & summary["certified_accuracy"].keys()
        for radius in sorted(both):
            found = (each["certified_accuracy"][radius] for each in (published, summary))
            _compare(f"card of {card['name']}: certified accuracy at {radius} ", *found)
    return f"as on the card of {card['name']}: {what}, {summary['split']} split"


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        int(summary["num_examples"]), dict(summary["certified_accuracy"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a summary written by certify.py: {error}") from error
    return summary


def _compare_rows(path: Path, text: str, again: str) -> None:
    published, found = (list(csv.DictReader(content.splitlines())) for content in (text, again))
    if len(published) != len(found):
        raise NotVerified(f"{path}: has {len(published)} rows, found {len(found)}")
    for old, new in zip(published, found, strict=True):
        for name in (*_SAME_COLUMNS, "radius"):
            same = _close(float(old[name]), float(new[name])) if name == "radius" else old[name] == new[name]
            if not same:
                raise NotVerified(f"{path}: image {new['index']}: {name} is {old[name]}, found {new[name]}")


def _compare(name: str, published: Any, found: Any) -> None:
    """Raise NotVerified at the first value that differs."""
    if isinstance(found, dict) and isinstance(published, Mapping):
        for key in {**found, **published}:
            if key not in _NOT_COMPARED and (key in published or key not in _ADDED):
                _compare(f"{name}{key} ", published.get(key), found.get(key))
    elif isinstance(found, list) and isinstance(published, list) and len(found) == len(published):
        for number, (one, other) in enumerate(zip(published, found, strict=True)):
            _compare(f"{name}{number} ", one, other)
    elif not (_close(published, found) if isinstance(found, float) else published == found):
        raise NotVerified(f"{name}is {published!r}, found {found!r}")


def _close(a: Any, b: float) -> bool:
    return a == b or (isinstance(a, int | float) and bool(np.isclose(a, b, rtol=_RELATIVE, atol=1e-12)))
