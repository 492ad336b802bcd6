"""Where arrays live when there are several devices: one mesh axis, over which batches are split."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

# Datasets up to this size stand whole on every device (CIFAR has 0.15 GB); larger ones are split over the devices.
REPLICATED_BYTES = 1 << 30

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_float32(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with jax's own numbers float32 (and float64 where it says so itself), whatever JAX_ENABLE_X64 is.

    What is trained in the one can then be certified, and is the same, in the other.
    """

    @functools.wraps(function)
    def wrapped(*arguments: _P.args, **named: _P.kwargs) -> _R:
        with jax.enable_x64(False):
            return function(*arguments, **named)

    return wrapped


class BackendError(RuntimeError):
    """The platform that jax is told to use is not there."""


def check_backend() -> None:
    """Start jax on its devices.

    Raises:
      BackendError: JAX_PLATFORMS names one that is not there.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where no plugin of that name is installed
        name = getattr(jax.config, "jax_platforms", None)
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise BackendError(
            f"JAX_PLATFORMS={name!r}: no such device can be used here{reason}; 'cpu' can, "
            "and where it is unset jax takes the best there is"
        ) from error


def mesh_of(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of some devices, of all if None, with one axis on which the compiler places collectives itself."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,), axis_types=(AxisType.Auto,))


def whole_on_each(mesh: Mesh) -> NamedSharding:
    """Every device holds all of the array."""
    return NamedSharding(mesh, PartitionSpec())


def split_over(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Every device holds an equal part along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def on_devices(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree, whole on each device; all processes must give the same values."""
    return placed(tree, whole_on_each(mesh))


def placed(tree: Any, sharding: Any) -> Any:
    """The arrays of a tree where a sharding, or a tree of them, says; all processes must give the same values."""
    if jax.process_count() > 1:  # an array of this process alone cannot be spread over others, its values can
        tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree, sharding)


def on_host(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree as numpy, whole in every process; all processes must call it."""
    if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        tree = jax.jit(lambda tree: tree, out_shardings=whole_on_each(mesh))(tree)
    return jax.tree.map(np.asarray, tree)


def shape_on_devices(array: np.ndarray, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """What `dataset_on_devices` makes of an array."""
    if mesh.size == 1 or array.nbytes <= REPLICATED_BYTES:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=whole_on_each(mesh))
    rows = -(-len(array) // mesh.size) * mesh.size
    return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype, sharding=split_over(mesh))


def dataset_on_devices(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """A dataset (N, …) whole on each device, or split along N if it has more than REPLICATED_BYTES.

    Split, it is filled up with zeros to a multiple of the devices, and each process places its own rows only.
    """
    wanted = shape_on_devices(array, mesh)
    if wanted.sharding == whole_on_each(mesh):
        return on_devices(array, mesh)

    def rows(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(wanted.shape[0])
        part = array[start:stop]
        return np.pad(part, [(0, stop - start - len(part)), *[(0, 0)] * (array.ndim - 1)])

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, rows)


def batch_over(batch: jax.Array, mesh: Mesh) -> jax.Array:
    """Under jit: a batch (N, …) split over the devices."""
    return batch if mesh.size == 1 else jax.lax.with_sharding_constraint(batch, split_over(mesh))


def padded_to_devices(count: int) -> int:
    """The smallest multiple of the number of this process's devices that is at least `count`."""
    return -(-count // jax.local_device_count()) * jax.local_device_count()


def over_devices(batch: np.ndarray) -> jax.Array:
    """The batch (N, …) on this process's device, with equal parts on each if there are several and N is a multiple."""
    if jax.local_device_count() == 1 or len(batch) % jax.local_device_count():
        return jnp.asarray(batch)
    return jax.device_put(batch, split_over(mesh_of(jax.local_devices())))
