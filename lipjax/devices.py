"""Where arrays live when there are several devices: one mesh axis, over which batches are split."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

# Datasets up to this size stand whole on every device (CIFAR has 0.15 GB); larger ones are split over the devices.
REPLICATED_BYTES = 1 << 30


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
    """The arrays of a tree, whole on each device; the same values must be given in all processes."""
    return jax.device_put(tree, whole_on_each(mesh))


def dataset_on_devices(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """A dataset (N, …) whole on each device, or split along N if it has more than REPLICATED_BYTES.

    Split, it is filled up with zeros to a multiple of the devices, and each process places its own rows only.
    """
    if mesh.size == 1 or array.nbytes <= REPLICATED_BYTES:
        return on_devices(array, mesh)
    shape = (-(-len(array) // mesh.size) * mesh.size, *array.shape[1:])

    def rows(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(shape[0])
        part = array[start:stop]
        return np.pad(part, [(0, stop - start - len(part)), *[(0, 0)] * (array.ndim - 1)])

    return jax.make_array_from_callback(shape, split_over(mesh), rows)


def batch_over(batch: jax.Array, mesh: Mesh) -> jax.Array:
    """Under jit: a batch (N, …) split over the devices."""
    return batch if mesh.size == 1 else jax.lax.with_sharding_constraint(batch, split_over(mesh))


def padded_to_devices(count: int) -> int:
    """The smallest multiple of the number of devices that is at least `count`."""
    return -(-count // jax.device_count()) * jax.device_count()


def over_devices(batch: np.ndarray) -> jax.Array:
    """The batch (N, …) on the device, with equal parts on each device if there are several and N is a multiple."""
    if jax.device_count() == 1 or len(batch) % jax.device_count():
        return jnp.asarray(batch)
    return jax.device_put(batch, split_over(mesh_of()))
