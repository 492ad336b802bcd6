"""Two ways to keep the matrices of LipNeXt orthogonal: how far they drift, and what a step costs.

    python benchmarks/orthonormal.py [--steps=200 --rate=1e-3 --repeats=15]

Random steps of ±rate on every entry, in float32: the nearest orthonormal matrix (`ops.polar`), or X exp(A), A the skew
part of XᵀU, by its Taylor polynomial of degree 4.  Beside them a product of 128 · 8×8 pixels with the matrix.  Medians
of times.  Prints markdown.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from lipjax import ops

STEPS = flags.DEFINE_integer("steps", 200, "Steps whose drift is measured.")
RATE = flags.DEFINE_float("rate", 1e-3, "Size of each entry of a step.")
REPEATS = flags.DEFINE_integer("repeats", 15, "Repeats of what is timed.")


def exponential(matrix, moved):
    """X exp(A), A the skew part of Xᵀ(X + U): Taylor of degree 4."""
    skew = matrix.T @ moved
    skew = (skew - skew.T) / 2
    square = skew @ skew
    one = jnp.eye(len(skew))
    return matrix @ (one + skew + square @ (one / 2 + skew / 6 + square / 24))


def milliseconds(function, *arguments):
    times = []
    for _ in range(REPEATS.value + 1):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[1:]))


def drift(matrix):
    matrix = np.asarray(matrix, np.float64)
    return np.linalg.norm(matrix.T @ matrix - np.eye(len(matrix)), 2)


def main(_):
    nearest, along, product = jax.jit(ops.polar), jax.jit(exponential), jax.jit(jnp.matmul)
    print("| channels | ‖XᵀX − 1‖: nearest | X exp(A) | ms: nearest | X exp(A) | product |\n|---|---|---|---|---|---|")
    for channels in (128, 256, 512):
        start = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (channels, channels)))[0]
        signs = jax.random.rademacher(jax.random.key(1), (20, channels, channels), jnp.float32)
        first = second = start
        for i in range(STEPS.value):
            step = RATE.value * signs[i % 20]
            first, second = nearest(first + step), along(second, second + step)
        rows = jax.random.normal(jax.random.key(2), (128 * 64, channels))
        moved = start + RATE.value * signs[0]
        times = milliseconds(nearest, moved), milliseconds(along, start, moved), milliseconds(product, rows, start)
        cells = [f"{drift(first):.1e}", f"{drift(second):.1e}", *(f"{value:.2g}" for value in times)]
        print(f"| {channels} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
