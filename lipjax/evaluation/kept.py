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
    attack, images = summary["attack"], summary["num_examples"]
    asked = {key: summary[key] for key in _ASKED} | {"radii": list(summary["certified_accuracy"])}
    asked |= {"attack": attack and [attack["strength"], attack["domain"]], "precision": bool(summary["precision"])}
    asked |= {"float32": bool(summary["float32"]), "paper": bool(summary["paper_protocol_not_a_proof"])}
    words = [f"first-{images}" if images < summary["images_in_split"] else "all"]
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
