"""Begin a training with what another one has learned: the parameters that both networks have."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from lipjax import released
from lipjax.models import Classifier
from lipjax.training.recipe import TrainState
from lipjax.workdir import CONFIG_FILE, folder_of, load_trained


def started_from(
    name: str, model: Classifier, state: TrainState, optimizer: optax.GradientTransformation, say: Callable[[str], None]
) -> TrainState:
    """The state at step 0 with the parameters, and vectors of power iterations, of another network.

    Taken are arrays of the same name and shape; the others are of the seed, as those of a head for other classes are,
    or follow the kernels that are taken.  What is proven later is proven of the network that comes out.

    Args:
      name: a released network, or a workdir; of a network that is made by a Python file too little is known.
      state: of the seed.

    Raises:
      ValueError: neither a released network nor a workdir; networks that have no parameters in common.
    """
    found = _variables(name)
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


def _variables(name: str) -> Mapping[str, Any]:
    is_run = (folder_of(name) / CONFIG_FILE).exists()
    if name in released.names():
        if is_run:
            raise ValueError(f"config.run.start_from={name!r}: is a released network and a workdir: write ./{name}")
        return released.read(name).variables
    if not is_run:
        there = ", ".join(released.names())
        raise ValueError(f"config.run.start_from={name!r}: must be a workdir, or one of {there}")
    return load_trained(name, trust_code=False).saved


def _taken(found: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list, list, dict[str, Any]]:
    """The paths that are taken, the others, and the tree with those that are taken."""
    there, flat = traverse_util.flatten_dict(dict(found)), traverse_util.flatten_dict(dict(now))
    same = [path for path, leaf in flat.items() if path in there and there[path].shape == leaf.shape]
    tree = traverse_util.unflatten_dict(flat | {path: there[path].astype(flat[path].dtype) for path in same})
    return same, [path for path in flat if path not in same], tree
