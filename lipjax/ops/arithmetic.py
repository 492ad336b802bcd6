"""The arithmetic of proofs, and of the programs that they are about."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Numbers of jax are float64 or float32, as `precision` says, and so are products.

    Else JAX_DEFAULT_MATMUL_PRECISION, or a GPU by itself, may do products of either in less.
    """
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield


def in_float64() -> contextlib.AbstractContextManager[None]:
    """The arithmetic of proofs."""
    return arithmetic("float64")
