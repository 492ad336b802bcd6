"""The arithmetic of proofs."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Numbers of jax are float64, and products are: JAX_DEFAULT_MATMUL_PRECISION=F32_F32_F32 makes them float32."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
