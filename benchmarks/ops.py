"""Useful GF/s of A x and of its kernel gradient on every layer shape of LipConvnet-n, against matrix products.

    python benchmarks/ops.py [--batch_size=128 --repeats=15 --init_channels=8,16,32 --output=ops.json]

For each shape: 'chosen' is what a training step runs (`linear_operator`, `weight_gradient`; the dense operator is built
beforehand, as it serves several applications), 'backend' the backend's own convolution, 'product' the like-shaped
matrix product, (B·n², k²·C) × (k²·C, C) for A x and (k²·C, B·n²) × (B·n², C) for the gradient.  All are credited with
the same 2·B·n²·k²·C² operations, padding taps included; 'strict' is 'chosen' credited without those taps.  'peak' is a
product of 1024×1024 matrices.  All float32, interleaved, medians; slow ones run at least 3 times, then up to 2 seconds.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from lipjax.models.lipconvnet import architecture
from lipjax.ops.convolution import convolution, gradient_by_convolution, linear_operator, weight_gradient

BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a batch.")
REPEATS = flags.DEFINE_integer("repeats", 15, "Timed runs of each program.")
INIT_CHANNELS = flags.DEFINE_list("init_channels", ["8", "16", "32"], "Channels after the first convolution.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")

PEAK_SIZE = 1024
SECONDS = 2.0  # for the repeats of one program beyond the third


def layer_shapes() -> list[tuple[int, int, int]]:
    """The distinct (size, channels, kernel size) of LipConvnet-n at 32×32, n >= 10, highest resolution first."""
    networks = [architecture(10, int(channels), 32, 3, pool_last=True) for channels in INIT_CHANNELS.value]
    shapes = {(step.size[0], step.features, step.kernel_size) for steps in networks for step in steps}
    return sorted(shapes, key=lambda shape: (-shape[0], shape[1]))


def programs(size: int, channels: int, k: int) -> dict[str, tuple]:
    """Name → (jitted function, arguments)."""
    keys = jax.random.split(jax.random.key(0), 4)
    pixels, patch = BATCH_SIZE.value * size**2, k**2 * channels
    x, g = jax.random.normal(keys[0], (2, BATCH_SIZE.value, size, size, channels))
    kernel = jax.random.normal(keys[1], (k, k, channels, channels))
    patches = jax.random.normal(keys[2], (pixels, patch))
    square = jax.random.normal(keys[3], (PEAK_SIZE, PEAK_SIZE))
    operator = jax.tree_util.Partial(linear_operator(kernel, size, size))
    return {
        "peak": (jax.jit(jnp.matmul), (square, square)),
        "forward product": (jax.jit(jnp.matmul), (patches, kernel.reshape(patch, channels))),
        "forward chosen": (jax.jit(operator), (x,)),
        "forward backend": (jax.jit(convolution), (x, kernel)),
        "gradient product": (jax.jit(lambda patches, g: patches.T @ g), (patches, g.reshape(pixels, channels))),
        "gradient chosen": (jax.jit(lambda x, g: weight_gradient(x, g, k)), (x, g)),
        "gradient backend": (jax.jit(lambda x, g: gradient_by_convolution(x, g, k)), (x, g)),
    }


def median_seconds(programs: dict[str, tuple]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for function, arguments in programs.values():
        jax.block_until_ready(function(*arguments))  # compiles
    for _ in range(REPEATS.value):
        for name, (function, arguments) in programs.items():
            if len(seconds[name]) < 3 or sum(seconds[name]) < SECONDS:
                started = time.perf_counter()
                jax.block_until_ready(function(*arguments))
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main(_):
    print(f"{jax.default_backend()}, batch {BATCH_SIZE.value}; GF/s, and chosen / product, chosen / peak")
    print(f"{'':16}{'':5}|{'A x':^47}|{'kernel gradient':^47}")
    columns = f"{'chosen':>7}{'backend':>8}{'product':>8}{'/prod':>7}{'/peak':>7}{'strict':>8}  "
    print(f"{'shape':16}{'peak':>5}|{columns}|{columns}")
    records = []
    for size, channels, k in layer_shapes():
        seconds = median_seconds(programs(size, channels, k))
        operations = 2 * BATCH_SIZE.value * size**2 * k**2 * channels**2
        inside = sum(max(size - abs(a), 0) for a in range(-(k // 2), k // 2 + 1)) ** 2 / (size * k) ** 2
        rates = {name: (2 * PEAK_SIZE**3 if name == "peak" else operations) / t / 1e9 for name, t in seconds.items()}
        record = {"size": size, "channels": channels, "kernel_size": k, "inside_taps": inside, "gflops": rates}
        line = f"{f'{size}×{size}×{channels} k{k}':16}{rates['peak']:5.0f}"
        for what in ("forward", "gradient"):
            chosen, backend, product = (rates[f"{what} {which}"] for which in ("chosen", "backend", "product"))
            record[what] = {"to_product": chosen / product, "to_peak": chosen / rates["peak"]}
            line += f"|{chosen:7.0f}{backend:8.0f}{product:8.0f}{chosen / product:7.2f}{chosen / rates['peak']:7.2f}"
            line += f"{inside * chosen:8.0f}  "
        print(line, flush=True)
        records.append(record)
    if OUTPUT.value:
        with open(OUTPUT.value, "w", encoding="utf-8") as file:
            json.dump(
                {"backend": jax.default_backend(), "batch_size": BATCH_SIZE.value, "shapes": records}, file, indent=1
            )


if __name__ == "__main__":
    app.run(main)
