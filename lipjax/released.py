"""Released networks: weights and a card that says what they are, in pretrained/, in a clone and in the wheel."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from safetensors.numpy import load, save

from lipjax.checkpoint import Checkpoints, flat_leaves, sha256
from lipjax.data import Description
from lipjax.models import Classifier
from lipjax.models.architectures import build_model, file_of
from lipjax.system.devices import in_float32
from lipjax.system.files import atomic_write
from lipjax.system.lock import FolderLock
from lipjax.workdir import CONFIG_FILE, LOCK_FILE, Trained, folder_of, sectioned, what_is_trained, write_config

FOLDER = Path(__file__).parent / "pretrained"
FORMAT = "lipjax released network 1"


def _is_remade(path: str) -> bool:
    """The orthogonal matrices of layers: a quarter of the bytes, and made of their kernels (`Classifier.settled`)."""
    return path.startswith("spectral/") and path.endswith("/matrix")


class Pretrained(NamedTuple):
    """A released network.

    Attributes:
      model, variables: for `lipjax.prove`, `lipjax.certify`, …
      card: config, description of the data, recipe in words, licence, digests, and the summary of its certification.
    """

    model: Classifier
    variables: Mapping[str, Any]
    card: Mapping[str, Any]


def names(folder: Path = FOLDER) -> list[str]:
    """Of all released networks."""
    return sorted(path.stem for path in folder.glob("*.json"))


@in_float32
def load_pretrained(name: str, folder: Path = FOLDER) -> Pretrained:
    """(model, variables, card) of a released network, from files of the package; norms tightened as by `load_trained`.

    The model takes images (N, H, W, C), pixels in [0, 1]; the card's radii are l2 in these units.

    Raises:
      ValueError: no network of this name (those there are, are named); weights whose SHA-256 is not that of the card, a
        card that was changed.
    """
    found = read(name, folder)
    return found._replace(variables=found.model.tightened(found.variables))


def card_of(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The card of a released network.

    Raises:
      ValueError: no network of this name; a card of another format, or changed since the release.
    """
    there = names(folder)
    if name not in there:
        raise ValueError(f"pretrained={name!r}: must be one of {', '.join(there) or 'none: there are no files'}")
    card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / name}.json: its format is {card.get('format')!r}, read is {FORMAT!r}")
    if card.get("sealed_sha256") != _seal(card):
        raise ValueError(f"{folder / name}.json: it has been changed since the network was released")
    return card


def read(name: str, folder: Path = FOLDER) -> Pretrained:
    """As `load_pretrained`, the variables as they were trained, norms not tightened."""
    card, path = card_of(name, folder), folder / f"{name}.safetensors"
    weights = path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != card["weights_sha256"]:
        raise ValueError(f"{path}: is damaged or another file: its SHA-256 is not that of the card")
    data = Description.from_json(card["data"])
    model = build_model(card["config"]["model"], data.image_shape, data.num_classes)
    flat = {path: jnp.asarray(array) for path, array in load(weights).items()}
    return Pretrained(model, _whole(model, flat), card)


def _whole(model: Classifier, flat: Mapping[str, jnp.ndarray]) -> dict[str, Any]:
    """The variables of a file, with the matrices that are made of the others."""
    image = jnp.zeros((1, *model.shape_of_images()))
    shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: dict(model.init(jax.random.key(0), image))), sep="/")
    left_out = {path: shape for path, shape in shapes.items() if path not in flat}
    if unknown := [path for path in left_out if not _is_remade(path)]:
        raise ValueError(f"{unknown[0]}: is missing in the file of the released network")
    if not left_out:
        return traverse_util.unflatten_dict(dict(flat), sep="/")
    zeros = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in left_out.items()}
    made = traverse_util.flatten_dict(model.settled(traverse_util.unflatten_dict({**flat, **zeros}, sep="/")), sep="/")
    return traverse_util.unflatten_dict({**flat, **{path: made[path] for path in left_out}}, sep="/")


def release(trained: Trained, name: str, words: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write weights and card of a trained network; `with_summaries` completes the card.

    The data may be any of the same shape and classes: of other images than those of the training the card's numbers are
    not, which is said where they are certified.

    Args:
      words: what the card says beside: recipe, seconds, licence, …

    Raises:
      ValueError: a network that is made by a file of one's own, or started from one of a workdir: a card holds neither.
    """
    start = trained.config.run.start_from
    if start not in (None, *names()) or start == name:
        raise ValueError(f"config.run.start_from={start!r}: must be another released network or None: others have none")
    if file_of(trained.config.model.name) is not None:
        raise ValueError(f"config.model.name={trained.config.model.name!r}: must be an architecture of lipjax")
    arrays = {path: np.asarray(leaf) for path, leaf in flat_leaves(dict(trained.saved)).items()}
    arrays = {path: array for path, array in arrays.items() if not _is_remade(path)}
    weights = save(arrays)
    config = trained.config.to_dict()
    config["data"]["data_dir"] = None
    data = dataclasses.asdict(trained.data)
    card = {"format": FORMAT, "name": name, **words, "epochs": trained.epochs, "seed": trained.config.run.seed}
    card |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), "config": config}
    card |= {"trained_on_sha256": data["training_sha256"], "data": data | {"training_sha256": None}}
    folder.mkdir(exist_ok=True)
    atomic_write(folder / f"{name}.safetensors", weights)
    _write_card(folder, card)


def _seal(card: Mapping[str, Any]) -> str:
    """SHA-256 of all that a card says."""
    sealed = {key: value for key, value in card.items() if key != "sealed_sha256"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def with_summaries(name: str, summaries: Mapping[str, Mapping[str, Any]], folder: Path = FOLDER) -> None:
    """Put summaries of certifications of the unpacked network on its card: 'summary', 'first_200', 'attacked'."""
    found = {key: {k: v for k, v in summary.items() if k != "seconds"} for key, summary in summaries.items()}
    _write_card(folder, {**card_of(name, folder), **found})


def _write_card(folder: Path, card: Mapping[str, Any]) -> None:
    card = {**card, "sealed_sha256": _seal(card)}
    atomic_write(folder / f"{card['name']}.json", json.dumps(card, indent=1) + "\n")


class _State(NamedTuple):
    """What a checkpoint holds of a network that is not trained on."""

    step: np.ndarray
    params: Mapping[str, Any]
    spectral: Mapping[str, Any]


def unpack(name: str, workdir: str | os.PathLike, folder: Path = FOLDER) -> Path:
    """The workdir, made a run's folder with a released network: config.json and a checkpoint.

    Raises:
      ValueError: no such network; a workdir that holds another run.
      LockedError: another process unpacks there, or trains.
    """
    found, workdir = read(name, folder), folder_of(workdir)
    config = sectioned(ConfigDict(found.card["config"]))
    checkpoints = Checkpoints(workdir, config=what_is_trained(config), data=found.card["data"])
    params, spectral = (found.variables.get(kind, {}) for kind in ("params", "spectral"))
    if not (workdir / CONFIG_FILE).exists():
        workdir.mkdir(parents=True, exist_ok=True)
        with FolderLock(workdir, LOCK_FILE, "unpacking", print):
            if not (workdir / CONFIG_FILE).exists():
                checkpoints.save(_State(np.zeros((), np.int32), params, spectral), found.card["epochs"], None)
                write_config(config.to_dict(), workdir)
    there = checkpoints.metadata("last")["params_sha256"] if checkpoints.has("last") else None
    if there != sha256(params) or checkpoints.has("best"):
        raise ValueError(f"workdir={str(workdir)!r}: holds another run than {name!r}; choose another workdir")
    return workdir
