"""Results side by side: what was asked before stays beside what was asked last."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What of a summary says what was asked, and of which network.
_ASKED = ("dataset", "split", "num_examples", "float_slack", "params_sha256", "images_sha256")


def name_of(summary: Mapping[str, Any]) -> str:
    """Of a result: what was asked in words, and eight digits of the SHA-256 of all of it."""
    attack, images = summary.get("attack"), summary["num_examples"]
    asked: dict[str, Any] = {key: summary.get(key) for key in _ASKED} | {"radii": list(summary["certified_accuracy"])}
    asked |= {"attack": attack and [attack["strength"], attack.get("domain", "space")]}
    asked |= {"precision": bool(summary.get("precision")), "float32": bool(summary.get("float32"))}
    asked |= {"paper": bool(summary.get("paper_protocol_not_a_proof"))}
    words = ["all" if images == summary.get("images_in_split") else f"first-{images}"]
    words += [f"attack-{attack['strength']}"] if attack else []
    words += [name for name in ("float32", "precision", "paper") if asked[name]]
    return "_".join([*words, hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]])


def keep(folder: Path, names: Sequence[str], summary: Mapping[str, Any]) -> Path:
    """Copy the files of a result to FOLDER/kept/NAME, whole or not at all; the same ask replaces it."""
    place = folder / "kept" / name_of(summary)
    beside = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name in names:
        shutil.copyfile(folder / name, beside / name)
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
    return place


def keep_present(folder: Path) -> None:
    """Keep what is in FOLDER itself, if it is not kept: the result of a lipjax that kept none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        is_kept = (folder / "kept" / name_of(summary)).is_dir()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
        return
    if not is_kept:
        names = [path.name for path in folder.iterdir() if path.suffix in (".csv", ".html", ".json", ".png")]
        keep(folder, names, summary)
