"""Products summed in blocks, so that their rounding is provably small whatever the backend does within a block.

A backend may add up the n products of an entry in any order, so that each goes through up to n roundings, and a proven
error grows with n.  Here the program says how blocks of BLOCK products are added, one after the other: the roundings of
those additions are relative to partial sums, which are small, and not to sums of absolute values (`layers.rounding`).
XLA keeps the order of additions that a program spells out.

A program that was exported is run by others, who add up all products of an entry, and a bias among them, in any order.
Within `any_order`, `products`, `blocks` and `of_bias` are those of such a program, and so is what layers state of
rounding by them.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 32  # products that the backend adds up in an order of its own
_UNROLLED = 8  # blocks that are added without a loop

_ANY_ORDER = contextvars.ContextVar("any_order", default=False)


@contextlib.contextmanager
def any_order() -> Iterator[None]:
    """Within, roundings are of sums that are added up whole, in any order."""
    token = _ANY_ORDER.set(True)
    try:
        yield
    finally:
        _ANY_ORDER.reset(token)


def blocks(count: int) -> int:
    """Into how many blocks `product` divides sums of `count` products."""
    return 1 if _ANY_ORDER.get() else -(-count // BLOCK)


def products(count: int) -> int:
    """How many terms of a sum of `count` products are added in an order of the backend's own.

    In any order one more: a bias or, where there is none, the rounding of a constant that was multiplied into a kernel.
    """
    return count + 1 if _ANY_ORDER.get() else min(count, BLOCK)


def of_bias(count: int) -> int:
    """The roundings that a bias goes through which is added to sums of `count` products."""
    return count + 1 if _ANY_ORDER.get() else 1


def is_any_order() -> bool:
    """Whether roundings are asked for of sums in any order."""
    return _ANY_ORDER.get()


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x @ matrix, summed in blocks: (…, n), (n, m) → (…, m), or (…, l, n), (…, n, m) → (…, l, m), one by one."""
    rows = x.reshape(-1, x.shape[-1]) if matrix.ndim == 2 else x
    count = blocks(rows.shape[-1])
    if count <= _UNROLLED:
        parts = [slice(start, start + BLOCK) for start in range(0, rows.shape[-1], BLOCK)]
        total = rows[..., parts[0]] @ matrix[..., parts[0], :]
        for part in parts[1:]:
            total = total + rows[..., part] @ matrix[..., part, :]
    else:
        missing = count * BLOCK - rows.shape[-1]
        rows = jnp.pad(rows, (*[(0, 0)] * (rows.ndim - 1), (0, missing)))
        matrix = jnp.pad(matrix, (*[(0, 0)] * (matrix.ndim - 2), (0, missing), (0, 0)))
        of_rows = jnp.moveaxis(rows.reshape(*rows.shape[:-1], count, BLOCK), -2, 0)
        of_matrix = jnp.moveaxis(matrix.reshape(*matrix.shape[:-2], count, BLOCK, -1), -3, 0)
        zero = jnp.zeros((*rows.shape[:-1], matrix.shape[-1]), rows.dtype)
        total, _ = lax.scan(lambda total, block: (total + block[0] @ block[1], None), zero, (of_rows, of_matrix))
    return total.reshape(*x.shape[:-1], -1)
