"""Begin a training with what another one has learned: the parameters that both networks have."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from lipjax import released
from lipjax.checkpoint import CheckpointError
from lipjax.data import DataError
from lipjax.models import Classifier
from lipjax.training.recipe import Recipe, TrainState
from lipjax.workdir import CONFIG_FILE, folder_of, load_trained


class Source(NamedTuple):
    """A network that another training begins with.

    Attributes:
      name: a released network, or a workdir.
      variables: as they were trained.
      config: of its training, the sections data and run with every value.
      training_sha256: of the images that it was trained on, see `Dataset`; None: not known.
    """

    name: str
    variables: Mapping[str, Any]
    config: Mapping[str, Any]
    training_sha256: str | None


def source_of(name: str) -> Source:
    """The network of this name; of one that is made by a Python file too little is known.

    Raises:
      ValueError: neither a released network nor a workdir, or both; one that cannot be read.
    """
    is_run = (folder_of(name) / CONFIG_FILE).exists()
    try:
        if name in released.names():
            if is_run:
                raise ValueError(f"is a released network and a workdir: write ./{name}")
            found = released.read(name)
            return Source(name, found.variables, found.card["config"], found.card["trained_on_sha256"])
        if not is_run:
            raise ValueError(f"must be a workdir, or one of {', '.join(released.names())}")
        trained = load_trained(name, trust_code=False)
        return Source(name, trained.saved, trained.config.to_dict(), trained.data.training_sha256)
    except (ValueError, OSError, CheckpointError, DataError) as error:
        raise ValueError(f"config.run.start_from={name!r}: {error}") from error


def check_unseen(source: Source, recipe: Recipe, training_sha256: str, say: Callable[[str], None]) -> None:
    """Whether images of this training that are held out or of the test split have been trained on there, or before.

    Of the same training images none of the test split have been, and none that are held out here if the same were held
    out there.  Of others, whose digest may be another as their size is, nothing is known, which is said.  What the
    source itself began with is asked the same.

    Raises:
      ValueError: images that are held out here may have been trained on, of the same or of data of the same name; a
        folder or file that was split in another way.
    """
    asked = set()
    while True:
        _check_one(source, recipe, training_sha256, say)
        asked.add(source.name)
        first = source.config["run"].get("start_from")
        if first is None or first in asked:
            return
        try:
            source = source_of(first)
        except ValueError:
            say(f"{source.name} began with {first}, which is not there: {_UNKNOWN}")
            return


_UNKNOWN = "test and held-out images may have been trained on"


def _check_one(source: Source, recipe: Recipe, training_sha256: str, say: Callable[[str], None]) -> None:
    here, there = dataclasses.asdict(recipe.data), source.config["data"]
    places = {here["data_dir"], there["data_dir"]}
    is_of_place = here["name"] in ("folder", "npz")
    is_alike = there["name"] == here["name"] and (len(places - {None}) < 2 or not is_of_place)
    ours = here["validation_fraction"], recipe.run.seed
    theirs = there["validation_fraction"], source.config["run"]["seed"]
    about = f"{source.name!r}, config.run.start_from"
    is_same = source.training_sha256 == training_sha256
    if ours[0] > 0 and (is_same or is_alike) and ours != theirs:
        raise ValueError(
            f"config.data.validation_fraction={ours[0]}: with config.run.seed={ours[1]} holds out images that {about}, "
            f"may have been trained on; it has {theirs[0]} and {theirs[1]}"
        )
    if is_alike and is_of_place and len(places) == 1 and there["test_fraction"] != here["test_fraction"]:
        raise ValueError(
            f"config.data.test_fraction={here['test_fraction']}: is {there['test_fraction']} of {about}, which has "
            "been trained on test images then; give the same"
        )
    if not is_same:
        say(f"{source.name} was trained on images of {there['name']!r} that are not known to be these: {_UNKNOWN}")


def started_from(
    source: Source,
    model: Classifier,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    say: Callable[[str], None],
) -> TrainState:
    """The state at step 0 with the parameters, and vectors of power iterations, of another network.

    Taken are arrays of the same name and shape; the others are of the seed, as those of a head for other classes are,
    or follow the kernels that are taken.  What is proven later is proven of the network that comes out.

    Args:
      state: of the seed.

    Raises:
      ValueError: networks that have no parameters in common.
    """
    found, name = source.variables, source.name
    taken, fresh, params = _taken(found["params"], state.params)
    _, stale, spectral = _taken(found.get("spectral", {}), state.spectral)
    if not taken:
        raise ValueError(f"config.run.start_from={name!r}: has no parameters with names and shapes of this network")
    others = ", ".join(sorted({path[0] for path in fresh}))
    say(f"starting from {name}: {len(taken)} arrays of parameters" + (f", not all of {others}" if others else ""))
    if stale:
        spectral = dict(model.settled({"params": params, "spectral": spectral})["spectral"])
    state = state._replace(params=params, spectral=spectral)
    return state._replace(opt_state=optimizer.init(jax.tree.map(jnp.copy, state.trained())))


def _taken(found: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list, list, dict[str, Any]]:
    """The paths that are taken, the others, and the tree with those that are taken."""
    there, flat = traverse_util.flatten_dict(dict(found)), traverse_util.flatten_dict(dict(now))
    same = [path for path, leaf in flat.items() if path in there and there[path].shape == leaf.shape]
    tree = traverse_util.unflatten_dict(flat | {path: there[path].astype(flat[path].dtype) for path in same})
    return same, [path for path in flat if path not in same], tree
