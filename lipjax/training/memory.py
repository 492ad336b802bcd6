"""What a training takes of the memory of each device, told and compared before anything is allocated."""

import math
from collections.abc import Callable
from typing import Any

import jax

from lipjax.system.memory import available_on_device, in_words
from lipjax.system.processes import any_process
from lipjax.training.recipe import TrainState

_ADVICE = (
    "a smaller config.run.batch_size or network, or config.model.remat=True, needs less; config.run.check_memory=False "
    "goes on all the same"
)


def compiled_step(
    step: jax.stages.Wrapped, arguments: tuple[Any, ...], say: Callable[[str], None], is_checked: bool
) -> Callable[..., Any]:
    """A training step (`recipe.make_train_step`) compiled for arguments of which only shapes are known yet.

    Says what parameters, optimiser, images and all that lies between them take on each device: by the compiler's own
    account, which is there only once it is compiled; a state that alone is too large is refused before.

    Args:
      arguments: (state, metrics, images, labels, order) as `jax.ShapeDtypeStruct`, with shardings.
      is_checked: whether to refuse what is more than is free.

    Raises:
      ValueError: the training needs more memory than is free.
    """
    state, _, images = arguments[:3]
    needs = {"parameters": state.params, "optimizer": state.opt_state, "images": images}
    parts = {name: _bytes_on_each(tree) for name, tree in needs.items()}
    _check(parts, is_checked)
    say("compiling the training step …")
    compiled = step.lower(*arguments).compile()
    found = compiled.memory_analysis()
    if found is not None:  # a backend may keep no account
        parts["activations and gradients"] = found.temp_size_in_bytes
        say(f"memory on each device: {_told(parts)}; {in_words(available_on_device())} are free")
        _check(parts, is_checked)
    return compiled


def shapes_of(tree: Any, shardings: Any) -> Any:
    """The arrays of a tree, or their shapes, as shapes that lie where a sharding, or a tree of them, says."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda leaf: shardings, tree)
    return jax.tree.map(lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree, shardings)


def parameters_of(state: TrainState) -> int:
    """Their number."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _check(parts: dict[str, int], is_checked: bool) -> None:
    free = available_on_device()
    is_short, *_ = any_process(is_checked and sum(parts.values()) > free)  # all processes go on, or none
    if is_short:
        raise ValueError(
            f"config.model, config.run.batch_size: training needs {in_words(sum(parts.values()))} on each device "
            f"({_told(parts)}), {in_words(free)} are free; {_ADVICE}"
        )


def _told(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {in_words(size)}" for name, size in parts.items())


def _bytes_on_each(tree: Any) -> int:
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
