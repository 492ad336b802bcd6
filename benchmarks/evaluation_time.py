"""Time of the backbone in evaluation: Taylor with 15 terms, equiripple polynomials, and folded networks.

    python benchmarks/evaluation_time.py [--depth=5 --init_channels=8 --batch_size=128 --repeats=20]

Random images and initial weights, interleaved, medians; prints markdown.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

import lipjax
from lipjax import ops
from lipjax.layers.skew_orthogonal_conv import held_polynomial

DEPTH = flags.DEFINE_integer("depth", 5, "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 8, "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a call.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls of each variant.")

POLYNOMIALS = {
    "Taylor, 15 terms": ops.taylor(15),
    "equiripple 3 at 1.4": held_polynomial(3, 1.4),
    "equiripple 4 at 1.9": held_polynomial(4, 1.9),
    "equiripple 5 at 1.9": held_polynomial(5, 1.9),
}


def main(_):
    images = jax.random.uniform(jax.random.key(0), (BATCH_SIZE.value, 32, 32, 3))
    runs = {}
    for name, polynomial in POLYNOMIALS.items():
        model = lipjax.LipConvnet(DEPTH.value, INIT_CHANNELS.value, polynomial=polynomial)
        variables = jax.jit(model.init)(jax.random.key(1), images[:1])
        runs[name] = features(model), variables
        folded, folded_variables = lipjax.fold(model, variables)
        runs[f"{name}, folded"] = features(folded), folded_variables
    seconds = {name: [] for name in runs}
    for round_ in range(REPEATS.value + 1):
        for name, (function, variables) in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(function(variables, images))
            if round_:  # the first compiles
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    baseline = medians["Taylor, 15 terms"]
    network = f"LipConvnet-{DEPTH.value}, {INIT_CHANNELS.value} channels"
    print(f"{network}, batch {BATCH_SIZE.value}, {jax.default_backend()}:\n")
    print("| polynomial | ms | times faster than Taylor, 15 terms |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1e3 * median:.0f} | {baseline / median:.2f} |")


def features(model):
    return jax.jit(lambda variables, images: jnp.asarray(model.apply(variables, images, method="features")))


if __name__ == "__main__":
    app.run(main)
