"""Batches over all devices that are present."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def padded_to_devices(count: int) -> int:
    """The smallest multiple of the number of devices that is at least `count`."""
    return -(-count // jax.device_count()) * jax.device_count()


def over_devices(batch: np.ndarray) -> jax.Array:
    """The batch (N, …) on the device, with equal parts on each device if there are several and N is a multiple."""
    if jax.device_count() == 1 or len(batch) % jax.device_count():
        return jax.numpy.asarray(batch)
    return jax.device_put(batch, NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(AXIS)))
