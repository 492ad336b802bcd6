"""The evaluation program as StableHLO: a zip of what `jax.export.deserialize` reads, and its metadata.

It is the very program that certifies, so that its sums are in blocks, and what is proven of its rounding holds.
"""

import io
import json
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lipjax.export.deployed import Deployed, radius_of
from lipjax.layers.layer import own_of
from lipjax.ops.arithmetic import arithmetic

SUMS_IN_ANY_ORDER = False
PACKAGES: tuple[str, ...] = ("flatbuffers",)  # which `jax.export` writes by
PROGRAM, METADATA = "program.bin", "metadata.json"
PLATFORMS = ("cpu", "cuda")


class _Jax:
    """The operations that `radius_of` needs."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.maximum, self.minimum, self.abs, self.where = jnp.maximum, jnp.minimum, jnp.abs, jnp.where
        self.at_least, self.sum = jnp.greater_equal, jnp.sum

    def constant(self, values):
        return jnp.asarray(values, self.dtype)

    def reshape(self, x, shape):
        return x.reshape(-1, *shape)

    def least(self, x):
        return x.min(axis=-1)

    def largest(self, x):
        return x.argmax(axis=-1)

    def rows(self, matrix, places):
        return matrix[places]


def written(network: Deployed) -> bytes:
    """Images (N, H, W, C) → (features, logits), of closed-form heads (features, logits, class, radius), for any N."""
    backbone, head = network.parts
    dtype, constants = network.dtype, network.radius_constants() if network.has_radius else None

    def program(images):
        features = backbone.evaluate(network.variables, images)
        logits = head.evaluate(own_of(network.variables, "head"), features)
        return features, logits, *(() if constants is None else radius_of(images, logits, _Jax(dtype), constants))

    with arithmetic(dtype):
        (count,) = export.symbolic_shape("batch")
        images = jax.ShapeDtypeStruct((count, *network.proven.image_shape), np.dtype(dtype))
        content = export.export(jax.jit(program), platforms=PLATFORMS)(images).serialize()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PROGRAM, bytes(content))
        archive.writestr(METADATA, json.dumps(network.metadata(), indent=2))
    return file.getvalue()


def loaded(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """images → the outputs of the program."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        program = export.deserialize(bytearray(archive.read(PROGRAM)))

    def run(images):
        with arithmetic(images.dtype.name):
            return tuple(np.asarray(output) for output in program.call(jnp.asarray(images)))

    return run
