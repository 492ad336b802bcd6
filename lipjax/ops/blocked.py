"""Products summed in blocks, so that their rounding is provably small whatever the backend does within a block.

A backend may add up the n products of an entry in any order, so that each goes through up to n roundings, and a proven
error grows with n.  Here the program says how blocks of BLOCK products are added, one after the other: the roundings of
those additions are relative to partial sums, which are small, and not to sums of absolute values (`layers.rounding`).
XLA keeps the order of additions that a program spells out.
"""

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 32  # products that the backend adds up in an order of its own
_UNROLLED = 8  # blocks that are added without a loop


def blocks(count: int) -> int:
    """Into how many blocks `product` divides sums of `count` products."""
    return -(-count // BLOCK)


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x @ matrix, (…, n), (n, m) → (…, m), summed in blocks."""
    rows = x.reshape(-1, x.shape[-1])
    count = blocks(rows.shape[1])
    if count <= _UNROLLED:
        parts = [slice(start, start + BLOCK) for start in range(0, rows.shape[1], BLOCK)]
        total = rows[:, parts[0]] @ matrix[parts[0]]
        for part in parts[1:]:
            total = total + rows[:, part] @ matrix[part]
    else:
        missing = count * BLOCK - rows.shape[1]
        rows, matrix = jnp.pad(rows, ((0, 0), (0, missing))), jnp.pad(matrix, ((0, missing), (0, 0)))
        of_rows = rows.reshape(len(rows), count, BLOCK).swapaxes(0, 1)
        of_matrix = matrix.reshape(count, BLOCK, -1)
        zero = jnp.zeros((len(rows), matrix.shape[1]), rows.dtype)
        total, _ = lax.scan(lambda total, block: (total + block[0] @ block[1], None), zero, (of_rows, of_matrix))
    return total.reshape(*x.shape[:-1], -1)
